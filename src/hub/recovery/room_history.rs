//! The rooms of one socket, by offsets: for which packets it was a recipient.

use std::collections::VecDeque;
use std::sync::Arc;

use indexmap::IndexMap;

use super::log::Recipients;
use super::offset::Offset;
use crate::engine_io::SocketId;
use crate::hub::selection::Target;

/// The rooms of a socket, now and formerly.
#[derive(Clone, Debug, Default)]
pub(crate) struct RoomHistory {
    /// For packets before this offset, it is no longer known whether they were sent to the socket.
    pub(crate) floor: Offset,
    /// The rooms, each with the offset of the first packet after the join.
    pub(crate) rooms: IndexMap<Arc<str>, Offset>,
    pub(crate) former_rooms: VecDeque<RoomStay>,
    /// The packets for which the rooms give the wrong answer, and the right one: this server emitted
    /// them before the rooms changed, and they came into the log after that.
    pub(crate) exceptions: VecDeque<(Offset, bool)>,
}

/// A past stay in a room: from an offset up to, but not including, another.
#[derive(Clone, Debug)]
pub(crate) struct RoomStay {
    pub(crate) room: Arc<str>,
    pub(crate) from: Offset,
    pub(crate) to: Offset,
}

/// The maximum number of rooms that are remembered after a socket left them.
pub(super) const MAX_FORMER_ROOMS: usize = 64;
/// The maximum number of bytes of the names of those rooms together.
pub(super) const MAX_FORMER_BYTES: usize = 8 * 1024;
/// The maximum number of exceptions.
const MAX_EXCEPTIONS: usize = 64;

impl RoomHistory {
    /// Creates the history of a new socket. `next` is the offset of the next packet.
    pub(super) fn new(next: Offset) -> Self {
        Self {
            floor: next,
            ..Self::default()
        }
    }

    pub(super) fn join(&mut self, room: &str, next: Offset) {
        if !self.rooms.contains_key(room) {
            self.rooms.insert(room.into(), next);
        }
    }

    /// Records that the socket leaves a room. `first` is the offset of the oldest packet that is kept.
    pub(super) fn leave(&mut self, room: &str, next: Offset, first: Offset) {
        if let Some((room, from)) = self.rooms.swap_remove_entry(room) {
            self.remember(
                RoomStay {
                    room,
                    from,
                    to: next,
                },
                first,
            );
        }
    }

    /// Remembers a stay in a room. Above the limits, stays that are older than all kept packets are
    /// forgotten first, and then the oldest ones, which raises `floor`.
    fn remember(&mut self, stay: RoomStay, first: Offset) {
        // Exceptions may concern an empty stay, but they say all that there is to say.
        if stay.from == stay.to {
            return;
        }
        if self.former_rooms.len() >= MAX_FORMER_ROOMS {
            self.former_rooms.retain(|stay| stay.to > first);
        }
        self.former_rooms.push_back(stay);
        let bytes =
            |rooms: &VecDeque<RoomStay>| rooms.iter().map(|stay| stay.room.len()).sum::<usize>();
        while self.former_rooms.len() > MAX_FORMER_ROOMS
            || bytes(&self.former_rooms) > MAX_FORMER_BYTES
        {
            let Some(oldest) = self.former_rooms.pop_front() else {
                break;
            };
            self.floor = self.floor.max(oldest.to);
        }
    }

    /// Forgets the stays that are older than all packets that any server keeps.
    pub(super) fn forget_before(&mut self, first: Offset) {
        while self
            .former_rooms
            .front()
            .is_some_and(|stay| stay.to <= first)
        {
            self.former_rooms.pop_front();
        }
    }

    /// Records whether the socket is a recipient of a packet, against what its rooms say.
    pub(super) fn except(&mut self, offset: Offset, is_recipient: bool, first: Offset) {
        if self.exceptions.len() >= MAX_EXCEPTIONS {
            self.exceptions.retain(|(offset, _)| *offset >= first);
        }
        self.exceptions.push_back((offset, is_recipient));
        if self.exceptions.len() > MAX_EXCEPTIONS {
            if let Some((oldest, _)) = self.exceptions.pop_front() {
                self.floor = self.floor.max(oldest.next());
            }
        }
    }

    /// Returns whether the socket with this id was, or would have been, a recipient of a packet.
    pub(super) fn is_recipient(&self, id: &SocketId, offset: Offset, to: &Recipients) -> bool {
        match to {
            Recipients::One(other) => other == id,
            Recipients::Many(target) => self.is_selected(id, offset, target),
        }
    }

    /// Does the same as [`is_recipient`](Self::is_recipient), for a target.
    pub(super) fn is_selected(&self, id: &SocketId, offset: Offset, target: &Target) -> bool {
        if let Some(is_recipient) = self.exception(offset) {
            return is_recipient;
        }
        let is_in = |room: &Arc<str>| **room == *id.as_str() || self.was_in_room(room, offset);
        (target.rooms.is_empty() || target.rooms.iter().any(is_in))
            && !target.except.iter().any(is_in)
    }

    /// Returns the answer for a packet for which the rooms give the wrong one.
    pub(super) fn exception(&self, offset: Offset) -> Option<bool> {
        let found = self.exceptions.iter().find(|(at, _)| *at == offset);
        found.map(|(_, is_recipient)| *is_recipient)
    }

    fn was_in_room(&self, room: &str, offset: Offset) -> bool {
        let since = self.rooms.get(room);
        let was = |stay: &RoomStay| *stay.room == *room && (stay.from..stay.to).contains(&offset);
        since.is_some_and(|since| *since <= offset) || self.former_rooms.iter().any(was)
    }

    /// Returns the bytes of the rooms in memory, about.
    pub(super) fn cost(&self) -> usize {
        let rooms = self.rooms.keys();
        let former = self.former_rooms.iter().map(|stay| &stay.room);
        let name = |name: &Arc<str>| ROOM_BYTES + name.len();
        rooms.chain(former).map(name).sum()
    }
}

/// The bytes that are counted for a room in addition to its name.
pub(super) const ROOM_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_64_exceptions_are_remembered() {
        let at = |high| Offset::new(high, 0);
        let mut history = RoomHistory::new(at(1));
        for high in 10..110 {
            history.except(at(high), true, at(2));
        }
        assert_eq!(history.exceptions.len(), 64);
        assert_eq!(history.exception(at(46)), Some(true));
        // A client that may have missed an older packet gets a new socket.
        assert_eq!(history.exception(at(45)), None);
        assert_eq!(history.floor, at(45).next());
        // Those for packets that are no longer kept go first.
        history.except(at(110), true, at(100));
        assert_eq!(history.exceptions.len(), 11);
        assert_eq!(history.floor, at(45).next());
    }
}
