//! One client as it was, perhaps of another server.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{EmitWithAck, Handshake, Socket};
use crate::engine::SocketId;
use crate::protocol::IntoArgs;

/// One client as it was when [`Broadcast::fetch_sockets`] asked for it, and what can be done
/// with it.
///
/// Where several servers work together it may be connected to any of them; so there is less to it
/// than to a [`Socket`].
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

    /// Its public id.
    #[must_use]
    pub fn id(&self) -> SocketId {
        self.socket.id()
    }

    /// The name of its namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.socket.namespace()
    }

    /// The rooms it was in, its own one aside.
    #[must_use]
    pub fn rooms(&self) -> &[String] {
        &self.rooms
    }

    /// What [`Socket::set_data`] had kept with it; `None` if there was nothing, or no `T`.
    #[must_use]
    pub fn data<T: DeserializeOwned>(&self) -> Option<T> {
        T::deserialize(self.data.as_deref()?).ok()
    }

    /// How it came in; see [`Socket::handshake`].
    #[must_use]
    pub fn handshake(&self) -> Handshake {
        self.socket.handshake()
    }

    /// Sends an event to it.
    pub fn emit(&self, event: &str, args: impl IntoArgs) {
        self.socket.emit(event, args);
    }

    /// Sends an event to it that asks for an acknowledgement. It waits five seconds unless
    /// [`timeout`](EmitWithAck::timeout) says otherwise.
    pub fn emit_with_ack<T>(&self, event: &str, args: impl IntoArgs) -> EmitWithAck<T> {
        let question = self.socket.emit_with_ack(event, args);
        question.timeout(Duration::from_secs(5))
    }

    /// Makes it join a room.
    pub fn join(&self, room: impl AsRef<str>) {
        self.socket.join(room);
    }

    /// Makes it leave a room.
    pub fn leave(&self, room: impl AsRef<str>) {
        self.socket.leave(room);
    }

    /// Makes it leave the namespace.
    pub fn disconnect(&self) {
        self.socket.disconnect();
    }

    /// Makes it leave all namespaces and closes its connection.
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

/// Why other servers were not reached.
#[derive(Debug)]
pub struct ClusterError(());

impl ClusterError {
    pub(super) const ALONE: Self = Self(());

    /// Whether there is no other server: this one works by itself.
    #[must_use]
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
