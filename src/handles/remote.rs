//! Snapshots of sockets, possibly of another server.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{EmitWithAck, Handshake, Socket};
use crate::engine_io::SocketId;
use crate::protocol::IntoArgs;

/// A snapshot of a socket, from [`Broadcast::fetch_sockets`], and the operations on that socket.
///
/// In a cluster the socket may be connected to any of the servers, so a `RemoteSocket` has fewer
/// operations than a [`Socket`].
///
/// ```
/// # async fn f(io: tower_socketio::SocketIo) -> Result<(), tower_socketio::ClusterError> {
/// for socket in io.to("waiting").fetch_sockets().await? {
///     let name = socket.data::<String>();
///     socket.join("playing");
///     socket.emit("start", name);
/// }
/// # Ok(()) }
/// ```
///
/// [`Broadcast::fetch_sockets`]: super::Broadcast::fetch_sockets
#[derive(Clone)]
pub struct RemoteSocket {
    socket: Socket,
    rooms: Vec<String>,
    data: Option<Arc<Value>>,
}

impl RemoteSocket {
    pub(super) fn of(socket: Socket) -> Self {
        Self {
            rooms: socket.rooms(),
            data: socket.member.data(),
            socket,
        }
    }

    /// Returns the public id of the socket.
    #[must_use]
    pub fn id(&self) -> SocketId {
        self.socket.id()
    }

    /// Returns the name of the socket's namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.socket.namespace()
    }

    /// Returns the rooms that the socket was in, except for the room that its id names.
    #[must_use]
    pub fn rooms(&self) -> &[String] {
        &self.rooms
    }

    /// Returns the data of [`Socket::set_data`]. Returns `None` if there were none, or if they are
    /// not a `T`.
    #[must_use]
    pub fn data<T: DeserializeOwned>(&self) -> Option<T> {
        T::deserialize(self.data.as_deref()?).ok()
    }

    /// Returns the first HTTP request of the client, and its `auth`. See [`Socket::handshake`].
    #[must_use]
    pub fn handshake(&self) -> Handshake {
        self.socket.handshake()
    }

    /// Sends an event to the socket. See [`Socket::emit`].
    pub fn emit(&self, event: &str, args: impl IntoArgs) {
        self.socket.emit(event, args);
    }

    /// Sends an event that asks for an acknowledgement. See [`Socket::emit_with_ack`].
    ///
    /// `.await` waits for at most 5 seconds, unless [`timeout`](EmitWithAck::timeout) sets another
    /// time.
    pub fn emit_with_ack<T>(&self, event: &str, args: impl IntoArgs) -> EmitWithAck<T> {
        let question = self.socket.emit_with_ack(event, args);
        question.timeout(Duration::from_secs(5))
    }

    /// Makes the socket join a room. See [`Socket::join`].
    pub fn join(&self, room: impl AsRef<str>) {
        self.socket.join(room);
    }

    /// Makes the socket leave a room.
    pub fn leave(&self, room: impl AsRef<str>) {
        self.socket.leave(room);
    }

    /// Disconnects the socket from its namespace. See [`Socket::disconnect`].
    pub fn disconnect(&self) {
        self.socket.disconnect();
    }

    /// Disconnects the client from all namespaces, and closes its connection. See
    /// [`Socket::close`].
    pub fn close(&self) {
        self.socket.close();
    }
}

impl fmt::Debug for RemoteSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteSocket")
            .field("id", &self.id())
            .field("namespace", &self.namespace())
            .field("rooms", &self.rooms)
            .finish_non_exhaustive()
    }
}

/// An error of an operation on the servers of a cluster.
#[derive(Debug)]
pub struct ClusterError(());

impl ClusterError {
    pub(super) const ALONE: Self = Self(());

    /// Returns whether this server is not part of a cluster.
    #[must_use]
    #[doc(hidden)] // until several servers work as one
    pub fn is_alone(&self) -> bool {
        true
    }
}

impl fmt::Display for ClusterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is no other server")
    }
}

impl std::error::Error for ClusterError {}
