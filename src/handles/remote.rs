//! Snapshots of sockets, possibly of another server.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::scope::Scope;
use super::{Broadcast, EmitWithAck, Handshake, Socket};
use crate::engine_io::SocketId;
use crate::hub::other_servers::SocketDescription;
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
    origin: Origin,
    rooms: Vec<String>,
    data: Option<Arc<Value>>,
}

/// The server that the socket is connected to.
#[derive(Clone)]
enum Origin {
    Here(Socket),
    Elsewhere {
        id: SocketId,
        scope: Scope,
        /// JSON.
        handshake: Arc<str>,
    },
}

impl RemoteSocket {
    pub(super) fn of(socket: Socket) -> Self {
        Self {
            rooms: socket.rooms(),
            data: socket.member.data(),
            origin: Origin::Here(socket),
        }
    }

    /// A socket of another server, in the namespace of the scope.
    pub(super) fn described(scope: Scope, description: SocketDescription) -> Self {
        let SocketDescription {
            id,
            mut rooms,
            data,
            handshake,
        } = description;
        rooms.retain(|room| room != id.as_str());
        Self {
            rooms,
            data,
            origin: Origin::Elsewhere {
                id,
                scope,
                handshake,
            },
        }
    }

    /// Returns the public id of the socket.
    #[must_use]
    pub fn id(&self) -> SocketId {
        match &self.origin {
            Origin::Here(socket) => socket.id(),
            Origin::Elsewhere { id, .. } => *id,
        }
    }

    /// Returns the name of the socket's namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        match &self.origin {
            Origin::Here(socket) => socket.namespace(),
            Origin::Elsewhere { scope, .. } => scope.name().map_or("/", |name| name.as_str()),
        }
    }

    /// Returns whether the socket is connected to this process.
    #[must_use]
    pub fn is_local(&self) -> bool {
        matches!(self.origin, Origin::Here(_))
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
        match &self.origin {
            Origin::Here(socket) => socket.handshake(),
            Origin::Elsewhere { handshake, .. } => Handshake::from_node(handshake),
        }
    }

    /// Selects this socket, wherever it is connected.
    fn broadcast(&self, scope: &Scope) -> Broadcast {
        Broadcast::new(scope.clone()).to(self.id())
    }

    /// Sends an event to the socket. See [`Socket::emit`].
    pub fn emit(&self, event: &str, args: impl IntoArgs) {
        match &self.origin {
            Origin::Here(socket) => socket.emit(event, args),
            Origin::Elsewhere { scope, .. } => self.broadcast(scope).emit(event, args),
        }
    }

    /// Sends an event that asks for an acknowledgement. See [`Socket::emit_with_ack`].
    ///
    /// `.await` waits for at most 5 seconds, unless [`timeout`](EmitWithAck::timeout) sets another
    /// time.
    pub fn emit_with_ack<T>(&self, event: &str, args: impl IntoArgs) -> EmitWithAck<T> {
        let question = match &self.origin {
            Origin::Here(socket) => socket.emit_with_ack(event, args),
            Origin::Elsewhere { scope, .. } => self.broadcast(scope).ask_one(event, args),
        };
        question.timeout(Duration::from_secs(5))
    }

    /// Makes the socket join a room. See [`Socket::join`].
    pub fn join(&self, room: impl AsRef<str>) {
        match &self.origin {
            Origin::Here(socket) => socket.join(room),
            Origin::Elsewhere { scope, .. } => self.broadcast(scope).join(room),
        }
    }

    /// Makes the socket leave a room.
    pub fn leave(&self, room: impl AsRef<str>) {
        match &self.origin {
            Origin::Here(socket) => socket.leave(room),
            Origin::Elsewhere { scope, .. } => self.broadcast(scope).leave(room),
        }
    }

    /// Disconnects the socket from its namespace. See [`Socket::disconnect`].
    pub fn disconnect(&self) {
        match &self.origin {
            Origin::Here(socket) => socket.disconnect(),
            Origin::Elsewhere { scope, .. } => self.broadcast(scope).disconnect(),
        }
    }

    /// Disconnects the client from all namespaces, and closes its connection. See
    /// [`Socket::close`].
    pub fn close(&self) {
        match &self.origin {
            Origin::Here(socket) => socket.close(),
            Origin::Elsewhere { scope, .. } => self.broadcast(scope).close(),
        }
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
