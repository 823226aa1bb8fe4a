//! The rooms that other servers may not receive messages for yet: a pure data structure.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ended_rooms::Room;
use crate::protocol::NamespaceName;
use crate::shrink::shrink;

/// The rooms that sockets of other servers were told to join lately. Those servers may have to open
/// the rooms first, so messages for them go to all servers.
#[derive(Debug, Default)]
pub(super) struct NewRooms {
    joined: HashMap<Room, Instant>,
    /// The same, in the order of time.
    order: VecDeque<(Instant, Room)>,
}

/// How long a room is new.
const NEW: Duration = Duration::from_secs(10);

impl NewRooms {
    /// Records that sockets of other servers are told to join rooms.
    pub(super) fn join(&mut self, namespace: &NamespaceName, rooms: &[Arc<str>], now: Instant) {
        self.forget(now);
        for room in rooms {
            let room = (namespace.clone(), Arc::clone(room));
            self.joined.insert(room.clone(), now);
            self.order.push_back((now, room));
        }
    }

    /// Returns whether sockets of other servers were told to join a room lately.
    pub(super) fn contains(
        &mut self,
        namespace: &NamespaceName,
        room: &Arc<str>,
        now: Instant,
    ) -> bool {
        self.forget(now);
        // The names are copied only if there are new rooms at all.
        !self.joined.is_empty()
            && self
                .joined
                .contains_key(&(namespace.clone(), Arc::clone(room)))
    }

    fn forget(&mut self, now: Instant) {
        let is_old = |joined: Instant| now.saturating_duration_since(joined) >= NEW;
        while self.order.front().is_some_and(|(at, _)| is_old(*at)) {
            if let Some((at, room)) = self.order.pop_front() {
                // It may have been joined again since.
                if self.joined.get(&room) == Some(&at) {
                    self.joined.remove(&room);
                }
                shrink(&mut self.joined);
                shrink(&mut self.order);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shrink::is_shrunk;

    #[test]
    fn a_room_is_new_for_ten_seconds_after_the_last_join() {
        let mut rooms = NewRooms::default();
        let (main, red) = (NamespaceName::MAIN, Arc::<str>::from("red"));
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert!(!rooms.contains(&main, &red, at(0)));
        rooms.join(&main, &[Arc::clone(&red)], at(0));
        rooms.join(&main, &[Arc::clone(&red)], at(5));
        assert!(rooms.contains(&main, &red, at(14)));
        assert!(!rooms.contains(&main, &"blue".into(), at(14)));
        assert!(!rooms.contains(&"/other".into(), &red, at(14)));
        assert!(!rooms.contains(&main, &red, at(15)));
        assert!(rooms.order.is_empty() && rooms.joined.is_empty());
    }

    #[test]
    fn rooms_that_are_no_longer_new_return_their_memory() {
        let mut rooms = NewRooms::default();
        let names: Vec<_> = (0..10_000).map(|n| Arc::from(n.to_string())).collect();
        let (main, begin) = (NamespaceName::MAIN, Instant::now());
        rooms.join(&main, &names, begin);
        assert!(!rooms.contains(&main, &names[0], begin + NEW));
        assert!(is_shrunk(&rooms.joined) && is_shrunk(&rooms.order));
    }
}
