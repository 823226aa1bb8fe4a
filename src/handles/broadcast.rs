//! Broadcasts: operations on many sockets at once.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::scope::Scope;
use super::{AckStream, ClusterError, RemoteSocket, Socket};
use crate::hub::namespace::LiveNamespace;
use crate::hub::selection::Target;
use crate::protocol::{IntoArgs, Payload, TypedEvent};

/// A set of sockets, in one namespace or in several, and the operations on it.
///
/// A `Broadcast` holds a target: the rooms that it includes and the rooms that it excludes. Each
/// operation selects the sockets anew. A target without a room selects all sockets of the
/// namespace. A socket that is in several of the rooms receives one copy. An event is encoded once
/// for all recipients in a namespace.
///
/// [`SocketIo`](crate::SocketIo) and [`Socket`] create broadcasts.
///
/// ```
/// # fn f(socket: tower_socketio::Socket, io: tower_socketio::SocketIo) {
/// socket.to("room").emit("said", "to the others in it");
/// io.to("a").to("b").except("c").emit("said", "to a and b, but not to those in c");
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a broadcast does nothing until something is emitted"]
pub struct Broadcast {
    scope: Scope,
    target: Target,
    volatile: bool,
}

impl Broadcast {
    pub(super) fn new(scope: Scope) -> Self {
        Self {
            scope,
            target: Target::default(),
            volatile: false,
        }
    }

    /// Adds the sockets in a room.
    ///
    /// The id of a socket is a room with only that socket in it.
    ///
    /// ```
    /// use tower_socketio::{Data, Namespace, Socket};
    ///
    /// /// Sends a private message to the socket with the given id.
    /// async fn whisper(socket: Socket, Data((id, text)): Data<(String, String)>) {
    ///     socket.to(id).emit("whisper", text);
    /// }
    ///
    /// let namespace: Namespace = Namespace::new().on("whisper", whisper);
    /// ```
    pub fn to(mut self, room: impl AsRef<str>) -> Self {
        self.target.rooms.push(room.as_ref().into());
        self
    }

    /// Excludes the sockets in a room.
    pub fn except(mut self, room: impl AsRef<str>) -> Self {
        self.target.except.push(room.as_ref().into());
        self
    }

    /// Makes the event volatile: it is dropped for each client that is not ready to receive it.
    ///
    /// A client is not ready while it connects, or while other packets are queued for it. Only
    /// [`emit`](Self::emit) and [`send`](Self::send) send volatile events.
    pub fn volatile(mut self) -> Self {
        self.volatile = true;
        self
    }

    /// Selects only the sockets that are connected to this process.
    ///
    /// So far this has no effect, because a server is one process.
    #[doc(hidden)] // until servers can form a cluster
    pub fn local(self) -> Self {
        self
    }

    /// Sends an event to the selected sockets.
    ///
    /// The call never waits. [`Socket::emit`] describes the arguments, and the behavior if a client
    /// has left or does not read fast enough. Arguments that cannot be written as JSON are logged
    /// as an error.
    ///
    /// ```
    /// # fn f(io: tower_socketio::SocketIo) {
    /// use tower_socketio::Args;
    ///
    /// io.of("/chat").emit("notice", "the server restarts at 8 pm");
    /// io.to("players").emit("score", Args(("ada", 42)));
    /// # }
    /// ```
    pub fn emit(&self, event: &str, args: impl IntoArgs) {
        self.scope.with(|namespaces| {
            let Some(payload) = encode_event(namespaces, event, args) else {
                return;
            };
            // `repeat_n` moves the payload into its last item.
            let payloads = std::iter::repeat_n(payload, namespaces.len());
            for (namespace, payload) in namespaces.iter().zip(payloads) {
                namespace.broadcast(&self.target, payload, self.volatile);
            }
        });
    }

    /// Sends a typed event to the selected sockets. [`TypedEvent::NAME`] is its name.
    pub fn send<E: TypedEvent>(&self, event: E) {
        self.emit(E::NAME, crate::Data(event));
    }

    /// Sends an event that asks each of the selected sockets for an acknowledgement.
    ///
    /// The event is sent at once. `.await` returns one entry for each socket: its id, and its
    /// answer or an error. The wait ends after at most 5 seconds, unless
    /// [`timeout`](AckStream::timeout) sets another time. [`AckStream`] is also a stream of the
    /// entries.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_socketio::{AckStream, SocketIo};
    ///
    /// async fn vote(io: SocketIo) -> usize {
    ///     let question: AckStream<bool> = io.to("voters").emit_with_ack("vote", "tea?");
    ///     let answers = question.timeout(Duration::from_secs(30)).await;
    ///     answers.iter().filter(|(_, answer)| matches!(answer, Ok(true))).count()
    /// }
    /// ```
    pub fn emit_with_ack<T>(&self, event: &str, args: impl IntoArgs) -> AckStream<T> {
        self.scope.with(|namespaces| {
            let Some(payload) = encode_event(namespaces, event, args) else {
                return AckStream::empty();
            };
            AckStream::send(namespaces, &self.target, payload)
        })
    }

    /// Returns the selected sockets of this process that are connected.
    #[must_use]
    pub fn sockets(&self) -> Vec<Socket> {
        self.scope.with(|namespaces| {
            let mut sockets = Vec::new();
            for namespace in namespaces {
                let selected = namespace.select(&self.target);
                let connected = selected.iter().filter(|member| member.is_connected());
                sockets.extend(connected.map(|member| Socket::new(Arc::clone(member))));
            }
            sockets
        })
    }

    /// Returns a snapshot of the selected sockets that are connected, on all servers of a cluster.
    ///
    /// So far a server is not part of a cluster. The sockets are those of this process.
    ///
    /// # Errors
    ///
    /// Returns an error if another server does not answer in time. A single server returns no
    /// error.
    pub async fn fetch_sockets(&self) -> Result<Vec<RemoteSocket>, ClusterError> {
        let sockets = self.sockets();
        Ok(sockets.into_iter().map(RemoteSocket::of).collect())
    }

    /// Returns the names of the rooms that the selected sockets are in, sorted. The rooms that are
    /// named by a socket's id are left out.
    ///
    /// Without a target room these are all rooms of the namespace.
    #[must_use]
    pub fn rooms(&self) -> Vec<String> {
        let mut rooms: Vec<Arc<str>> = self.scope.with(|namespaces| {
            let of = |namespace: &Arc<LiveNamespace>| namespace.rooms_among(&self.target);
            namespaces.iter().flat_map(of).collect()
        });
        rooms.sort_unstable();
        rooms.dedup();
        rooms.iter().map(|room| room.as_ref().to_owned()).collect()
    }

    /// Sends an event to the other servers of a cluster. Clients do not receive it. The target is
    /// ignored.
    ///
    /// # Errors
    ///
    /// So far a server is not part of a cluster, and this always returns an error for which
    /// [`ClusterError::is_alone`] is true.
    #[doc(hidden)] // until servers can form a cluster
    pub fn server_side_emit(&self, _event: &str, _args: impl IntoArgs) -> Result<(), ClusterError> {
        Err(ClusterError::ALONE)
    }

    /// Sends an event to the other servers of a cluster, and returns the answer of each.
    ///
    /// # Errors
    ///
    /// Fails as [`server_side_emit`](Self::server_side_emit) does.
    #[doc(hidden)] // until servers can form a cluster
    pub async fn server_side_emit_with_ack<T: DeserializeOwned>(
        &self,
        event: &str,
        args: impl IntoArgs,
    ) -> Result<Vec<T>, ClusterError> {
        self.server_side_emit(event, args)?;
        Ok(Vec::new())
    }

    /// Makes the selected sockets join a room. See [`Socket::join`].
    pub fn join(&self, room: impl AsRef<str>) {
        self.sockets().iter().for_each(|socket| socket.join(&room));
    }

    /// Makes the selected sockets leave a room.
    pub fn leave(&self, room: impl AsRef<str>) {
        self.sockets().iter().for_each(|socket| socket.leave(&room));
    }

    /// Disconnects the selected sockets from their namespace. See [`Socket::disconnect`].
    pub fn disconnect(&self) {
        self.sockets().iter().for_each(Socket::disconnect);
    }

    /// Disconnects the clients of the selected sockets from all namespaces, and closes their
    /// connections. See [`Socket::close`].
    pub fn close(&self) {
        self.sockets().iter().for_each(Socket::close);
    }
}

/// Writes an event. Returns `None` if there is no namespace, or if the event cannot be written,
/// which is logged.
fn encode_event(
    namespaces: &[Arc<LiveNamespace>],
    event: &str,
    args: impl IntoArgs,
) -> Option<Payload> {
    let longest = namespaces
        .iter()
        .map(|namespace| namespace.name.len())
        .max()?;
    match Payload::event(event, longest, args) {
        Ok(payload) => Some(payload),
        Err(error) => {
            tracing::error!(%error, event, "not emitted");
            None
        }
    }
}

impl Socket {
    /// Selects the sockets in a room, except for this one.
    ///
    /// ```
    /// use tower_socketio::{Args, Namespace, Socket};
    ///
    /// async fn say(socket: Socket, Args((room, text)): Args<(String, String)>) {
    ///     socket.to(room).emit("said", text);
    /// }
    ///
    /// let namespace: Namespace = Namespace::new().on("say", say);
    /// ```
    pub fn to(&self, room: impl AsRef<str>) -> Broadcast {
        self.broadcast().to(room)
    }

    /// Selects all sockets of the namespace, except for those in a room and this one.
    pub fn except(&self, room: impl AsRef<str>) -> Broadcast {
        self.broadcast().except(room)
    }

    /// Selects all sockets of the namespace, except for this one.
    pub fn broadcast(&self) -> Broadcast {
        self.everyone().except(self.id())
    }

    /// Selects all sockets of the namespace, including this one.
    pub fn everyone(&self) -> Broadcast {
        Broadcast::new(Scope::Here(Arc::clone(&self.member.namespace)))
    }
}
