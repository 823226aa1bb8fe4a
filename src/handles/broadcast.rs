//! Many clients at once.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::place::Place;
use super::{AckStream, ClusterError, RemoteSocket, Socket};
use crate::hub::registry::Registry;
use crate::hub::rooms::Target;
use crate::protocol::{IntoArgs, Payload, TypedEvent};

/// A choice of sockets, of one namespace or of several, and what is sent to them.
///
/// Each step gives a new choice. A socket in several of the rooms gets one copy. A packet is
/// encoded once for all of a namespace.
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
    place: Place,
    target: Target,
    volatile: bool,
}

impl Broadcast {
    pub(super) fn new(place: Place) -> Self {
        Self {
            place,
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
        self.place.with(|registries| {
            let Some(payload) = event_for(registries, event, args) else {
                return;
            };
            // The last one need not copy it.
            let payloads = std::iter::repeat_n(payload, registries.len());
            for (registry, payload) in registries.iter().zip(payloads) {
                registry.broadcast(&self.target, payload, self.volatile);
            }
        });
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
        self.place.with(|registries| {
            let Some(payload) = event_for(registries, event, args) else {
                return AckStream::empty();
            };
            AckStream::send(registries, &self.target, payload)
        })
    }

    /// The connected ones among them, of this process.
    #[must_use]
    pub fn sockets(&self) -> Vec<Socket> {
        self.place.with(|registries| {
            let mut sockets = Vec::new();
            for registry in registries {
                let selected = registry.select(&self.target);
                let connected = selected.iter().filter(|member| member.is_connected());
                sockets.extend(connected.map(|member| Socket::new(Arc::clone(member))));
            }
            sockets
        })
    }

    /// The connected ones among them, as they are now, of all servers that work together.
    ///
    /// # Errors
    ///
    /// If another server does not answer in time. A server that works by itself never fails.
    pub async fn fetch_sockets(&self) -> Result<Vec<RemoteSocket>, ClusterError> {
        let sockets = self.sockets();
        Ok(sockets.into_iter().map(RemoteSocket::of).collect())
    }

    /// The rooms that they are in, sockets' own ones aside: of a whole namespace, all its rooms.
    #[must_use]
    pub fn rooms(&self) -> Vec<String> {
        let mut rooms: Vec<Arc<str>> = self.place.with(|registries| {
            let of = |registry: &Arc<Registry>| registry.rooms_among(&self.target);
            registries.iter().flat_map(of).collect()
        });
        rooms.sort_unstable();
        rooms.dedup();
        rooms.iter().map(|room| room.as_ref().to_owned()).collect()
    }

    /// Sends an event to the other servers, for their own use; no client sees it. The choice of
    /// rooms does not matter.
    ///
    /// # Errors
    ///
    /// If there is no other server: [`ClusterError::is_alone`]. So far that is always so.
    pub fn server_side_emit(&self, _event: &str, _args: impl IntoArgs) -> Result<(), ClusterError> {
        Err(ClusterError::ALONE)
    }

    /// Sends an event to the other servers and gives the answer of each.
    ///
    /// # Errors
    ///
    /// As [`server_side_emit`](Self::server_side_emit).
    pub async fn server_side_emit_with_ack<T: DeserializeOwned>(
        &self,
        event: &str,
        args: impl IntoArgs,
    ) -> Result<Vec<T>, ClusterError> {
        self.server_side_emit(event, args)?;
        Ok(Vec::new())
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

    /// Makes them leave all namespaces, and closes their connections.
    pub fn close(&self) {
        self.sockets().iter().for_each(Socket::close);
    }
}

/// Writes an event; none if there is nobody to send it to, or it cannot be written.
fn event_for(registries: &[Arc<Registry>], event: &str, args: impl IntoArgs) -> Option<Payload> {
    let longest = registries
        .iter()
        .map(|registry| registry.name.len())
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
        self.within().except(self.id())
    }

    /// Everybody in the namespace, this socket too.
    pub fn within(&self) -> Broadcast {
        Broadcast::new(Place::Here(Arc::clone(&self.member.registry)))
    }
}
