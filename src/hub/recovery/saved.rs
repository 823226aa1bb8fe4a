//! A suspended socket that the broker keeps, so that any server can restore it.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::PrivateId;
use super::offset::Offset;
use super::room_history::RoomHistory;
use super::shared_log::{Content, LogEntry, SharedLog};
use crate::engine_io::SocketId;
use crate::hub::selection::Target;
use crate::protocol::NamespaceName;

/// A suspended socket of a cluster whose broker has a [log](crate::cluster::Broker::has_log).
#[derive(Clone)]
pub struct SavedSocket {
    pub(crate) id: SocketId,
    pub(crate) private_id: PrivateId,
    /// The namespace. `None` if a server of Node has saved the socket.
    pub(crate) namespace: Option<NamespaceName>,
    pub(crate) room_history: RoomHistory,
    pub(crate) data: Option<Arc<Value>>,
    /// Whether it was saved while it was connected.
    pub(crate) is_connected: bool,
    /// What only servers of this crate save.
    pub(crate) history: Option<History>,
}

/// The offsets of a socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct History {
    /// The offset of the first packet that may have been sent to the socket.
    pub(crate) base: Offset,
    /// The last packet that was sent to the socket.
    pub(crate) sent: Offset,
    /// The last entry of the log when the socket left. What later entries did to its rooms was not
    /// done.
    pub(crate) left: Offset,
}

impl fmt::Debug for SavedSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SavedSocket")
            .field("id", &self.id)
            .field("history", &self.history)
            .finish_non_exhaustive()
    }
}

/// Reads the offset that a client names. No entry of a log has the offset zero.
pub(super) fn read_offset(text: &str) -> Option<Offset> {
    Offset::parse(text).filter(|offset| *offset > Offset::default())
}

/// Why a saved socket is not restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotRestored {
    /// It was saved for another namespace.
    OtherNamespace,
    /// The client names no offset, or one that no log has.
    NoOffset,
    /// Entries that the client may have missed are not kept.
    NotKept,
    /// The server made the socket leave while it was away.
    Disconnected,
}

impl fmt::Display for NotRestored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherNamespace => "the socket is one of another namespace",
            Self::NoOffset => "the client's offset is missing or malformed",
            Self::NotKept => "the packets that the client has missed are no longer kept",
            Self::Disconnected => "the socket was disconnected while its client was away",
        })
    }
}

impl SavedSocket {
    /// Returns the key under which the socket is saved. It is a secret of the client: anybody with
    /// the key can take the socket over.
    #[must_use]
    pub fn key(&self) -> &str {
        self.private_id.expose()
    }

    /// Returns a socket of the main namespace in no room, with a text of this length as its data.
    #[cfg(test)]
    pub(crate) fn with_data(n: u8, len: usize) -> Self {
        Self {
            id: SocketId::new([n; 15]),
            private_id: PrivateId::new([n; 16]),
            namespace: Some(NamespaceName::MAIN),
            room_history: RoomHistory::default(),
            data: Some(Arc::new("x".repeat(len).into())),
            is_connected: false,
            history: None,
        }
    }

    /// Returns the bytes of the socket in memory, about.
    pub(crate) fn cost(&self) -> usize {
        let data = self.data.as_deref().map_or(0, crate::hub::budget::of_data);
        size_of::<Self>() + self.room_history.cost() + data
    }

    /// Returns the last entry of the log that a server must have read before it restores the socket:
    /// the server before may have read further.
    pub(crate) fn needs(&self, offset: Option<&str>) -> Offset {
        let received = offset.and_then(Offset::parse).unwrap_or_default();
        let left = self
            .history
            .map_or(Offset::default(), |history| history.left);
        received.max(left)
    }

    /// Returns the offset after which the client may have missed packets.
    fn received(&self, offset: Option<&str>) -> Result<Offset, NotRestored> {
        let offset = match offset {
            Some(text) => Some(read_offset(text).ok_or(NotRestored::NoOffset)?),
            None => None,
        };
        let Some(history) = self.history else {
            return offset.ok_or(NotRestored::NoOffset);
        };
        // Without an offset the client has received no packet. An older one is of a former socket.
        let received = offset.unwrap_or_default().max(history.base.before());
        if received >= history.sent {
            // It has received all that was sent, so packets in between need not be kept.
            return Ok(received.max(history.left));
        }
        Ok(received)
    }

    /// Does to the rooms what the log says for the time after the socket left, and passes each packet
    /// that the client has missed to `miss`. Returns the offset of the last packet.
    ///
    /// # Errors
    ///
    /// Fails if the socket cannot be restored without a gap.
    pub(crate) fn catch_up(
        &mut self,
        namespace: &NamespaceName,
        offset: Option<&str>,
        log: &mut SharedLog,
        mut miss: impl FnMut(&mut LogEntry),
    ) -> Result<Offset, NotRestored> {
        if self
            .namespace
            .as_ref()
            .is_some_and(|name| name != namespace)
        {
            return Err(NotRestored::OtherNamespace);
        }
        let received = self.received(offset)?;
        // A server of Node does not say when the socket left. What it did to the rooms before that is
        // done again, which changes nothing unless the application has undone it.
        let left = self.history.map_or(received, |history| history.left);
        let from = received.min(left);
        // Changes of rooms are needed since the socket left, and packets since the last received one.
        if !log.covers(from) || received.next() < self.room_history.floor {
            return Err(NotRestored::NotKept);
        }
        let mut sent = received;
        let (first, id) = (log.first(), self.id);
        for entry in log.after(namespace, from) {
            let offset = entry.offset;
            if matches!(entry.content, Content::Packet(_) | Content::Event(_)) {
                if offset > received && self.room_history.is_selected(&id, offset, &entry.target) {
                    sent = offset;
                    miss(entry);
                }
                continue;
            }
            if offset <= left || !self.is_changed_by(offset, &entry.target) {
                continue;
            }
            match &entry.content {
                Content::Join(rooms) => {
                    for room in rooms.iter().filter(|room| ***room != *id.as_str()) {
                        self.room_history.join(room, offset);
                    }
                }
                Content::Leave(rooms) => {
                    for room in rooms {
                        self.room_history.leave(room, offset, first);
                    }
                }
                Content::Disconnect => return Err(NotRestored::Disconnected),
                Content::Packet(_) | Content::Event(_) => {}
            }
        }
        Ok(sent)
    }

    /// Returns whether an operation was meant for the socket, and was not done to it before it left.
    fn is_changed_by(&self, offset: Offset, target: &Target) -> bool {
        self.room_history.exception(offset).is_none()
            && self.room_history.is_selected(&self.id, offset, target)
    }
}

#[cfg(test)]
mod tests;
