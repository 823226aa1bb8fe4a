//! Why a socket is not tracked.

use std::error::Error;
use std::fmt;

use crate::routing::{ErrorReply, IntoReply, Reply};

/// An error of [`Presence::track`](super::Presence::track) and
/// [`Presence::update`](super::Presence::update): the entry has not changed. After `track` the socket may
/// have joined the room.
///
/// A handler may return it. The client then gets its text; if the metadata could not be written, it
/// gets "internal error", and the error is logged.
#[derive(Debug)]
pub struct PresenceError(pub(super) PresenceErrorKind);

#[derive(Debug)]
pub(super) enum PresenceErrorKind {
    Encode(serde_json::Error),
    TooBig,
    RoomFull,
    NotInRoom,
}

impl PresenceError {
    /// Returns whether the metadata cannot be written as JSON.
    #[must_use]
    pub fn is_encode(&self) -> bool {
        matches!(self.0, PresenceErrorKind::Encode(_))
    }

    /// Returns whether the connection would keep more than
    /// [`max_kept`](crate::SocketIoBuilder::max_kept).
    #[must_use]
    pub fn is_too_big(&self) -> bool {
        matches!(self.0, PresenceErrorKind::TooBig)
    }

    /// Returns whether `presence_state` of the room would be longer than a quarter of
    /// [`max_buffered`](crate::SocketIoBuilder::max_buffered), 1 MiB by default.
    #[must_use]
    pub fn is_room_full(&self) -> bool {
        matches!(self.0, PresenceErrorKind::RoomFull)
    }

    /// Returns whether the socket is not in the room: it has left, it is not tracked there, or
    /// [`max_rooms`](crate::SocketIoBuilder::max_rooms) or
    /// [`max_kept`](crate::SocketIoBuilder::max_kept) keeps it from joining.
    #[must_use]
    pub fn is_not_in_room(&self) -> bool {
        matches!(self.0, PresenceErrorKind::NotInRoom)
    }
}

impl fmt::Display for PresenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            PresenceErrorKind::Encode(_) => "the metadata cannot be written",
            PresenceErrorKind::TooBig => "the connection keeps too much: see max_kept",
            PresenceErrorKind::RoomFull => "too many users are in the room: see max_buffered",
            PresenceErrorKind::NotInRoom => "the socket is not in the room",
        })
    }
}

impl Error for PresenceError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            PresenceErrorKind::Encode(error) => Some(error),
            PresenceErrorKind::TooBig
            | PresenceErrorKind::RoomFull
            | PresenceErrorKind::NotInRoom => None,
        }
    }
}

impl IntoReply for PresenceError {
    fn into_reply(self) -> Reply {
        match &self.0 {
            PresenceErrorKind::Encode(error) => {
                let error: &(dyn Error + 'static) = error;
                tracing::error!(error, "the metadata of a presence cannot be written");
                Err(ErrorReply::internal()).into()
            }
            PresenceErrorKind::TooBig
            | PresenceErrorKind::RoomFull
            | PresenceErrorKind::NotInRoom => Err(ErrorReply::new(self.to_string())).into(),
        }
    }
}
