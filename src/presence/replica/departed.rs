//! The entries of servers that are gone, while their clients may restore the sockets on this one.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::{Entries, Entry, MAX_LINGERING};
use crate::shrink::shrink;

/// The entries of a socket, by room.
type Rooms = BTreeMap<Box<str>, Entry>;

/// The entries of the sockets of servers that are gone. No client sees them.
#[derive(Debug, Default)]
pub(super) struct Departed {
    /// The entries of each socket, and when it can no longer be restored.
    sockets: BTreeMap<Box<str>, (Instant, Rooms)>,
    bytes: usize,
    /// The ends in order. Those of sockets that were removed stay until then.
    ends: VecDeque<(Instant, Box<str>)>,
}

impl Departed {
    /// Keeps the entries of a server until `end`, as far as there is room for them.
    pub(super) fn add(&mut self, entries: Entries, end: Instant) {
        for (socket, rooms) in entries {
            let bytes = bytes(&rooms);
            if self.bytes + bytes > MAX_LINGERING {
                continue;
            }
            self.remove(&socket);
            self.bytes += bytes;
            self.ends.push_back((end, socket.clone()));
            self.sockets.insert(socket, (end, rooms));
        }
    }

    /// Removes the entries of a socket that another server has, or that is restored here.
    pub(super) fn remove(&mut self, socket: &str) -> Rooms {
        let Some((_, removed)) = self.sockets.remove(socket) else {
            return Rooms::new();
        };
        self.bytes -= bytes(&removed);
        removed
    }

    pub(super) fn expire(&mut self, now: Instant) {
        while self.ends.front().is_some_and(|(end, _)| *end <= now) {
            let Some((_, socket)) = self.ends.pop_front() else {
                return;
            };
            if self
                .sockets
                .get(&socket)
                .is_some_and(|(end, _)| *end <= now)
            {
                self.remove(&socket);
            }
        }
        shrink(&mut self.ends);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }

    #[cfg(test)]
    pub(super) fn room_for_ends(&self) -> usize {
        self.ends.capacity()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }
}

fn bytes(rooms: &Rooms) -> usize {
    rooms.values().map(Entry::bytes).sum()
}
