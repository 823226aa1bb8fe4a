//! The other servers of a cluster, as a namespace sees them.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use serde_json::Value;
use tokio::sync::mpsc;

use super::recovery::{Offset, PrivateId, SavedSocket};
use super::selection::Target;
use super::{ClusterError, Hub};
use crate::engine_io::SocketId;
use crate::protocol::{NamespaceName, Payload};
use crate::sync::oneshot;

/// The other servers of a cluster. No method blocks.
pub(crate) trait OtherServers: fmt::Debug + Send + Sync {
    /// Passes the hub, before the first namespace is opened. The operations and questions of other
    /// servers then reach its namespaces.
    fn attach(&self, hub: &Arc<Hub>);

    /// Records that a namespace was created in this process. It is called under the lock of the
    /// namespaces.
    fn namespace_opened(&self, name: &NamespaceName);

    /// Records that a namespace was removed. It is called under the lock of the namespaces.
    fn namespace_closed(&self, name: &NamespaceName);

    /// Returns whether [`room_changed`](Self::room_changed) is to be called.
    fn wants_rooms(&self) -> bool;

    /// Records that a room of this process has begun or ended. The room of a socket counts. It is
    /// called under the lock of the namespace.
    fn room_changed(&self, namespace: &NamespaceName, room: Arc<str>, exists: bool);

    /// Waits until the messages of the other servers arrive for all namespaces and rooms of this
    /// process. Returns `None` if they do.
    fn synced(&self) -> Option<BoxFuture<'static, Result<(), ClusterError>>>;

    /// Sends an operation to the other servers. `confirm` gets the broker's confirmation.
    ///
    /// # Errors
    ///
    /// Fails if the message is too long or the server has shut down.
    fn send(
        &self,
        namespace: &NamespaceName,
        target: &Target,
        operation: &Operation,
        confirm: Option<Confirm>,
        here: Here,
    ) -> Result<Sent, ClusterError>;

    /// Returns whether the broker has a log: operations come back, in one order for all servers, and
    /// suspended sockets are saved.
    fn has_log(&self) -> bool;

    /// Returns whether the broker is connected.
    fn is_connected(&self) -> bool;

    /// Saves a socket of the namespace for some time.
    fn save(&self, socket: SavedSocket, within: Duration) -> Dropped;

    /// Takes a saved socket out. Only one caller on all servers gets it.
    fn take(&self, id: &PrivateId) -> BoxFuture<'static, Option<SavedSocket>>;

    /// Forgets a saved socket.
    fn forget(&self, id: &PrivateId) -> Dropped;

    /// Ends the connections of other servers that have a socket with this id. It was restored here, at this
    /// end of the log.
    fn displace(&self, namespace: &NamespaceName, id: &SocketId, at: Offset);

    /// Counts what has become of the saved socket that a client has claimed.
    fn count_claim(&self, outcome: ClaimOutcome);

    /// Sends an event to the handlers of the other servers.
    ///
    /// # Errors
    ///
    /// Fails as [`send`](Self::send) does.
    fn send_server_event(
        &self,
        namespace: &NamespaceName,
        event: Payload,
    ) -> Result<(), ClusterError>;

    /// Sends a question to the other servers.
    ///
    /// # Errors
    ///
    /// Fails if the broker is not connected, if too many questions are open, or as
    /// [`send`](Self::send) does.
    fn ask(&self, namespace: &NamespaceName, question: Question) -> Result<Answers, ClusterError>;

    /// Counts the servers of a namespace, including this one.
    fn count(&self, namespace: &NamespaceName) -> BoxFuture<'static, Result<usize, ClusterError>>;

    /// Returns `self`, for the health of the cluster.
    fn as_any(&self) -> &dyn Any;

    /// Sends the queued messages, and ends the connections of the broker.
    fn close(&self) -> BoxFuture<'static, ()>;
}

/// How long a client may take to acknowledge the event of another server. The server that asks ends
/// its question earlier.
pub(crate) const MAX_ACK_WAIT: Duration = Duration::from_secs(3600);

/// The sender of a broker's confirmation.
pub(crate) type Confirm = oneshot::Sender<Result<(), ClusterError>>;

/// A value that the caller drops after it has released its locks. Its destructor reports dropped messages
/// to their senders.
pub(crate) type Dropped = Option<Box<dyn Any + Send>>;

/// When an operation that is sent to the other servers is done on this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Here {
    /// At once.
    AtOnce,
    /// When it returns from the log of the broker, by its namespace, which waits for it.
    Departs,
    /// When it returns from the log of the broker, if its namespace exists then. It does not exist yet.
    Absent,
}

/// An operation that was sent.
pub(crate) struct Sent {
    /// The number of the message among those of this server. `None` if it does not come into the log.
    pub(crate) number: Option<u64>,
    pub(crate) dropped: Dropped,
}

/// What has become of the saved socket that a client has claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClaimOutcome {
    Restored,
    /// Another server still had the socket, and has let it go.
    HandedOver,
    NotRestored,
}

/// An operation on the sockets that a [`Target`] selects.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Emit { payload: Payload, volatile: bool },
    Join(Vec<Arc<str>>),
    Leave(Vec<Arc<str>>),
    Disconnect { close: bool },
}

/// A question to the other servers.
#[derive(Clone, Debug)]
#[cfg_attr(
    not(feature = "redis"),
    allow(dead_code, reason = "Node's servers ask the last three")
)]
pub(crate) enum Question {
    /// An event that asks each selected client for an acknowledgement, and how long they may take.
    Event(Target, Payload, Duration),
    /// The descriptions of the selected sockets.
    Sockets(Target),
    /// An event that asks each server for the reply of its handler.
    ServerEvent(Payload),
    /// The names of all rooms. Only Node's servers ask for them.
    Rooms,
    /// The ids of the selected sockets. Only old servers ask for them.
    Ids(Target),
    /// An operation that is confirmed. Only old servers ask for it.
    Operation(Target, Operation),
    /// A client claims a socket: the server that still has it lets it go. Only servers of this crate ask
    /// for it.
    HandOver(PrivateId),
}

/// An answer to a [`Question`]. Acknowledgements and replies count by their first argument.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// The sockets of one server.
    Sockets(Vec<SocketDescription>),
    /// The reply of one server's handler.
    Reply(Payload),
    /// The number of clients that one server has asked.
    Clients(usize),
    /// The acknowledgement of one client, and its socket's id if the server has sent it.
    Ack(Option<SocketId>, Payload),
    /// One of the clients has left before it has answered. Only servers of this crate send it.
    Left,
    /// The names of rooms, including the rooms that the ids of sockets name.
    Rooms(Vec<String>),
    /// The ids of sockets.
    Ids(Vec<String>),
    /// The operation is done.
    Done,
    /// Whether the server had the socket, and has saved it.
    HandedOver(bool),
}

/// The answers to a question, in the order of their arrival. They end when the last answer has
/// arrived.
pub(crate) struct Answers {
    receiver: mpsc::UnboundedReceiver<Answer>,
    /// See [`Answers::end`].
    end: Option<Box<dyn FnOnce() -> Option<usize> + Send + Sync>>,
}

impl Answers {
    pub(crate) fn new(
        receiver: mpsc::UnboundedReceiver<Answer>,
        end: impl FnOnce() -> Option<usize> + Send + Sync + 'static,
    ) -> Self {
        Self {
            receiver,
            end: Some(Box::new(end)),
        }
    }

    pub(crate) fn poll_next(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Answer>> {
        self.receiver.poll_recv(cx)
    }

    pub(crate) async fn next(&mut self) -> Option<Answer> {
        self.receiver.recv().await
    }

    /// Ends the question. Returns the number of servers that have not answered, or `None` if the
    /// broker could not count the servers.
    pub(crate) fn end(&mut self) -> Option<usize> {
        let end = self.end.take()?;
        end()
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers").finish_non_exhaustive()
    }
}

/// A socket of another server.
#[derive(Clone, Debug)]
pub(crate) struct SocketDescription {
    pub(crate) id: SocketId,
    /// The rooms, with the room that the id names.
    pub(crate) rooms: Vec<String>,
    pub(crate) data: Option<Arc<Value>>,
    /// The handshake as JSON, in the form of `socket.handshake` in Node's server.
    pub(crate) handshake: Arc<str>,
}
