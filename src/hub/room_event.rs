//! The events that the hook for rooms gets.

use std::sync::Arc;

use crate::engine_io::SocketId;
use crate::protocol::NamespaceName;

/// A change of a room, for [`Namespace::on_room_event`].
///
/// [`Namespace::on_room_event`]: crate::Namespace::on_room_event
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RoomEvent {
    /// The namespace of the room.
    pub namespace: NamespaceName,
    /// The name of the room. A socket's id is the name of its own room.
    pub room: Arc<str>,
    /// What happened to the room.
    pub change: RoomChange,
}

/// What happened to a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RoomChange {
    /// The room was created: a socket joins it.
    Create,
    /// A socket has joined the room.
    Join(SocketId),
    /// A socket has left the room.
    Leave(SocketId),
    /// The room was deleted: the last socket has left it.
    Delete,
}
