//! The rooms that have ended lately: a pure data structure.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::protocol::NamespaceName;
use crate::shrink::shrink;

/// A room of a namespace.
pub(super) type Room = (NamespaceName, Arc<str>);

/// The rooms that have ended, and that stay open at the broker for a while. A room often begins again
/// at once, for example when its only client reloads the page; and a client that recovers needs the
/// messages for its rooms.
#[derive(Debug, Default)]
pub(super) struct EndedRooms {
    ended: HashMap<Room, Instant>,
    /// The same, in the order of time.
    order: VecDeque<(Instant, Room)>,
}

impl EndedRooms {
    /// Records that a room has ended.
    pub(super) fn end(&mut self, room: Room, now: Instant) {
        if self.ended.insert(room.clone(), now).is_none() {
            self.order.push_back((now, room));
        }
    }

    /// Records that a room has begun.
    pub(super) fn begin(&mut self, room: &Room) {
        self.ended.remove(room);
        shrink(&mut self.ended);
    }

    /// Removes the rooms that have ended at least `linger` ago, and returns them.
    pub(super) fn due(&mut self, linger: Duration, now: Instant) -> Vec<Room> {
        let mut due = Vec::new();
        let is_due = |ended: Instant| now.saturating_duration_since(ended) >= linger;
        while self.order.front().is_some_and(|(ended, _)| is_due(*ended)) {
            let Some((_, room)) = self.order.pop_front() else {
                break;
            };
            // It may have begun, and have ended again, since.
            match self.ended.get(&room) {
                Some(ended) if is_due(*ended) => {
                    self.ended.remove(&room);
                    due.push(room);
                }
                Some(ended) => self.order.push_back((*ended, room)),
                None => {}
            }
        }
        shrink(&mut self.ended);
        shrink(&mut self.order);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shrink::is_shrunk;

    #[test]
    fn a_room_is_due_when_its_time_has_passed_since_its_last_end() {
        let mut rooms = EndedRooms::default();
        let room = |name: &str| (NamespaceName::MAIN, Arc::<str>::from(name));
        let begin = Instant::now();
        let linger = Duration::from_secs(10);
        let at = |seconds| begin + Duration::from_secs(seconds);
        rooms.end(room("red"), at(0));
        rooms.end(room("blue"), at(0));
        rooms.begin(&room("red"));
        rooms.end(room("red"), at(5));
        assert!(rooms.due(linger, at(9)).is_empty());
        assert_eq!(rooms.due(linger, at(10)), [room("blue")]);
        assert_eq!(rooms.due(linger, at(15)), [room("red")]);
        rooms.end(room("red"), at(15));
        rooms.begin(&room("red"));
        assert!(rooms.due(linger, at(30)).is_empty());
        assert!(rooms.order.is_empty() && rooms.ended.is_empty());
    }

    #[test]
    fn rooms_that_begin_again_or_are_due_return_their_memory() {
        const MANY: u32 = 10_000;

        let mut rooms = EndedRooms::default();
        let room = |n: u32| (NamespaceName::MAIN, Arc::<str>::from(n.to_string()));
        let now = Instant::now();
        (0..MANY).for_each(|n| rooms.end(room(n), now));
        (0..MANY).for_each(|n| rooms.begin(&room(n)));
        assert!(is_shrunk(&rooms.ended));
        assert!(rooms.due(Duration::ZERO, now).is_empty());
        assert!(is_shrunk(&rooms.order));
        (0..MANY).for_each(|n| rooms.end(room(n), now));
        assert_eq!(rooms.due(Duration::ZERO, now).len(), MANY as usize);
        assert!(is_shrunk(&rooms.ended) && is_shrunk(&rooms.order));
    }
}
