//! Many clients at once.

use std::sync::Arc;

use super::{AckStream, Socket};
use crate::hub::member::encode;
use crate::hub::registry::Registry;
use crate::hub::rooms::Target;
use crate::protocol::{IntoArgs, Kind, Payload, TypedEvent};

/// A choice of sockets of one namespace, and what is sent to them.
///
/// Each step gives a new choice. A socket in several of the rooms gets one copy. A packet is
/// encoded once for all.
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
    registry: Option<Arc<Registry>>,
    target: Target,
    volatile: bool,
}

impl Broadcast {
    pub(super) fn new(registry: Option<Arc<Registry>>) -> Self {
        Self {
            registry,
            target: Target::default(),
            volatile: false,
        }
    }

    /// Also those in this room. A socket's id is a room that holds it alone.
    pub fn to(mut self, room: impl AsRef<str>) -> Self {
        self.target.rooms.push(room.as_ref().into());
        self
    }

    /// Not those in this room.
    pub fn except(mut self, room: impl AsRef<str>) -> Self {
        self.target.except.push(room.as_ref().into());
        self
    }

    /// Not those who would have to wait for it.
    pub fn volatile(mut self) -> Self {
        self.volatile = true;
        self
    }

    /// Only those who are connected to this process. So far that is everybody.
    pub fn local(self) -> Self {
        self
    }

    /// Sends an event. Never waits; see [`Socket::emit`].
    pub fn emit(&self, event: &str, args: impl IntoArgs) {
        let Some(registry) = &self.registry else {
            return;
        };
        match Payload::event(event, registry.name.len(), args) {
            Ok(payload) => {
                let packet = encode(registry, Kind::Event, None, payload);
                registry.broadcast(&self.target, &packet, self.volatile);
            }
            Err(error) => tracing::error!(%error, event, "not emitted"),
        }
    }

    /// Sends an event, named by its type.
    pub fn emit_typed<E: TypedEvent>(&self, event: E) {
        self.emit(E::NAME, crate::Data(event));
    }

    /// Sends an event that asks each of them for an acknowledgement.
    ///
    /// Awaited, it gives one entry for each socket that was asked: its answer, or why there is
    /// none. It waits five seconds unless [`timeout`](AckStream::timeout) says otherwise.
    pub fn emit_with_ack<T>(&self, event: &str, args: impl IntoArgs) -> AckStream<T> {
        let Some(registry) = &self.registry else {
            return AckStream::empty();
        };
        match Payload::event(event, registry.name.len(), args) {
            Ok(payload) => AckStream::send(registry, &self.target, payload),
            Err(error) => {
                tracing::error!(%error, event, "not emitted");
                AckStream::empty()
            }
        }
    }

    /// The connected ones among them.
    #[must_use]
    pub fn sockets(&self) -> Vec<Socket> {
        let Some(registry) = &self.registry else {
            return Vec::new();
        };
        let selected = registry.select(&self.target);
        selected
            .iter()
            .filter(|member| member.is_connected())
            .map(|member| Socket::new(Arc::clone(member)))
            .collect()
    }

    /// Makes them join a room.
    pub fn join(&self, room: impl AsRef<str>) {
        self.sockets().iter().for_each(|socket| socket.join(&room));
    }

    /// Makes them leave a room.
    pub fn leave(&self, room: impl AsRef<str>) {
        self.sockets().iter().for_each(|socket| socket.leave(&room));
    }

    /// Makes them leave the namespace.
    pub fn disconnect(&self) {
        self.sockets().iter().for_each(Socket::disconnect);
    }

    /// Closes their connections.
    pub fn close(&self) {
        self.sockets().iter().for_each(Socket::close);
    }
}

impl Socket {
    /// Those in a room, but not this socket.
    pub fn to(&self, room: impl AsRef<str>) -> Broadcast {
        self.broadcast().to(room)
    }

    /// Everybody in the namespace but those in a room and this socket.
    pub fn except(&self, room: impl AsRef<str>) -> Broadcast {
        self.broadcast().except(room)
    }

    /// Everybody in the namespace but this socket.
    pub fn broadcast(&self) -> Broadcast {
        let registry = Some(Arc::clone(&self.member.registry));
        Broadcast::new(registry).except(self.id())
    }

    /// Everybody in the namespace, this socket too.
    pub fn within(&self) -> Broadcast {
        Broadcast::new(Some(Arc::clone(&self.member.registry)))
    }
}
