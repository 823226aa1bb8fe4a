use std::time::Duration;

use super::super::Recovery;
use super::super::room_history::{MAX_FORMER_BYTES, MAX_FORMER_ROOMS, ROOM_BYTES};
use super::*;
use crate::engine_io::Message;
use crate::hub::selection::Target;
use crate::shrink::is_shrunk;

const WITHIN: Duration = Duration::from_secs(120);
const START: Offset = Offset::new(0, 1_000);

/// A store in virtual time.
struct World {
    store: RecoveryStore<&'static str>,
    now: Instant,
}

fn id(n: u8) -> SocketId {
    SocketId::new([n; 15])
}

fn private_id(n: u8) -> PrivateId {
    PrivateId::new([n; 16])
}

fn target(rooms: &[&str], except: &[&str]) -> Recipients {
    Recipients::Many(Target {
        rooms: rooms.iter().map(|name| Arc::from(*name)).collect(),
        except: except.iter().map(|name| Arc::from(*name)).collect(),
    })
}

impl World {
    fn new() -> Self {
        Self::with(Recovery::within(WITHIN))
    }

    fn with(config: Recovery) -> Self {
        Self {
            store: {
                let budget = Arc::new(RecoveryBudget::new(config));
                let log = Log::new(START, Arc::clone(&budget));
                RecoveryStore::new(Packets::Own(log), budget)
            },
            now: Instant::now(),
        }
    }

    /// Creates a store with socket 1, which is in the room `a`.
    fn with_one() -> Self {
        let mut world = Self::new();
        world.store.insert(id(1), private_id(1));
        world.store.join(&id(1), "a");
        world
    }

    fn emit(&mut self, text: &str, to: Recipients) -> Offset {
        let offset = self.store.next();
        let packet = Encoded::from(Message::Text(text.into()));
        self.store.keep(to, &packet, self.now);
        offset
    }

    fn all(&mut self, text: &str) -> Offset {
        self.emit(text, target(&[], &[]))
    }

    fn lose(&mut self, n: u8, sent: Offset) {
        let next = self.store.next();
        let sent = (sent, Offset::default());
        self.store
            .suspend(&id(n), next, sent, 0, "handover", self.now);
    }

    /// Restores socket `n`, and returns its missed packets.
    fn back(&mut self, n: u8, offset: Option<Offset>) -> Option<Vec<String>> {
        let offset = offset.map(Offset::to_own_text);
        self.back_with(n, offset.as_deref())
    }

    fn back_with(&mut self, n: u8, offset: Option<&str>) -> Option<Vec<String>> {
        let claim = Claim {
            pid: private_id(n).expose().to_owned(),
            offset: None,
        };
        let found = self.store.find(&claim)?;
        let restored = self.store.restore(found, offset, self.now)?;
        assert_eq!((restored.id, restored.private_id), (id(n), private_id(n)));
        assert_eq!(restored.handover, Some("handover"));
        let text = |packet: Encoded| match packet.into_iter().next() {
            Some(Message::Text(text)) => text.as_str().to_owned(),
            other => panic!("{other:?}"),
        };
        Some(restored.missed.into_iter().map(text).collect())
    }

    fn is_clean(&self) -> bool {
        let kept = &self.store.budget;
        let bytes = [&kept.packets, &kept.sockets].map(|each| each.load(Ordering::Relaxed));
        self.store.by_private_id.len() == self.store.sockets.len()
            && self.store.suspended.is_empty()
            && bytes == [0, 0]
    }
}

#[test]
fn a_restored_socket_gets_its_missed_packets_in_order() {
    let mut world = World::with_one();
    let seen = world.all("1");
    let sent = world.all("2");
    world.lose(1, sent);
    world.all("3");
    world.emit("4", target(&["a"], &[]));
    world.emit("5", Recipients::One(id(1)));
    assert_eq!(
        world.back(1, Some(seen)).expect("back"),
        ["2", "3", "4", "5"]
    );
}

#[test]
fn packets_for_others_are_not_sent_again() {
    let mut world = World::with_one();
    world.store.insert(id(2), private_id(2));
    let seen = world.all("1");
    world.lose(1, seen);
    world.emit("another room", target(&["b"], &[]));
    world.emit("a socket", Recipients::One(id(2)));
    world.emit("except the room", target(&[], &["a"]));
    world.emit("except the socket", target(&["a"], &[id(1).as_str()]));
    world.emit(
        "the socket's room",
        target(&["b", id(1).as_str()], &[id(2).as_str()]),
    );
    assert_eq!(
        world.back(1, Some(seen)).expect("back"),
        ["the socket's room"]
    );
}

#[test]
fn a_packet_from_before_a_join_or_after_a_leave_is_not_missed() {
    let mut world = World::with_one();
    let seen = world.all("1");
    world.emit("b before", target(&["b"], &[]));
    world.store.join(&id(1), "b");
    let sent = world.emit("b", target(&["b"], &[]));
    world.store.leave_room(&id(1), "b");
    world.store.leave_room(&id(1), "a");
    world.emit("b after", target(&["b"], &[]));
    world.emit("except a", target(&[], &["a"]));
    world.lose(1, sent);
    world.emit("a", target(&["a"], &[]));
    assert_eq!(world.back(1, Some(seen)).expect("back"), ["b", "except a"]);
}

#[test]
fn a_socket_that_was_sent_nothing_is_restored_without_an_offset() {
    let mut world = World::with_one();
    world.lose(1, START.before());
    world.all("1");
    assert_eq!(world.back(1, None).expect("back"), ["1"]);
}

#[test]
fn a_client_that_received_nothing_gets_every_packet() {
    for offset in [
        None,
        Some(Offset::new(0, 7)),
        Some(START.before()),
        Some(Offset::new(0, 9_999)),
    ] {
        let mut world = World::new();
        world.store.insert(id(2), private_id(2));
        world.all("before its time");
        world.store.insert(id(1), private_id(1));
        let sent = world.all("1");
        world.lose(1, sent);
        // An offset of another store counts as none.
        assert_eq!(world.back(1, offset).expect("back"), ["1"]);
    }
}

#[test]
fn a_socket_can_be_restored_repeatedly() {
    let mut world = World::with_one();
    let mut seen = world.all("0");
    for round in 1..20 {
        world.lose(1, seen);
        let missed = world.all(&round.to_string());
        assert_eq!(
            world.back(1, Some(seen)).expect("back"),
            [round.to_string()]
        );
        // In every third round the connection is lost before the client gets the packet.
        seen = if round % 3 == 0 { seen } else { missed };
        if round % 3 == 0 {
            world.lose(1, missed);
            assert_eq!(
                world.back(1, Some(seen)).expect("back"),
                [round.to_string()]
            );
            seen = missed;
        }
    }
    world.store.forget(&id(1));
    assert!(world.is_clean() && world.store.is_idle());
}

#[test]
fn a_connected_socket_cannot_be_restored() {
    let mut world = World::with_one();
    let seen = world.all("1");
    world.lose(1, seen);
    assert!(world.back(1, Some(seen)).is_some());
    assert!(!world.store.is_suspended(&id(1)));
    assert!(world.back(1, Some(seen)).is_none());
}

#[test]
fn a_socket_that_left_its_namespace_cannot_be_restored() {
    let mut world = World::with_one();
    let seen = world.all("1");
    world.store.forget(&id(1));
    assert_eq!(world.back(1, Some(seen)), None);
    assert!(world.is_clean());
}

#[test]
fn a_socket_that_is_suspended_too_long_is_dropped() {
    for (over, is_back) in [(Duration::ZERO, true), (Duration::from_millis(1), false)] {
        let mut world = World::with_one();
        let seen = world.all("1");
        world.lose(1, seen);
        world.now += WITHIN + over;
        assert_eq!(world.back(1, Some(seen)).is_some(), is_back);
        world.store.forget(&id(1));
        assert!(world.is_clean());
    }
}

#[test]
fn an_idle_socket_is_restored_after_its_last_packet_was_dropped() {
    let mut world = World::with_one();
    world.store.insert(id(2), private_id(2));
    let seen = world.all("1");
    for _ in 0..100 {
        world.now += WITHIN;
        world.emit("for another", Recipients::One(id(2)));
    }
    world.lose(1, seen);
    world.now += WITHIN;
    world.all("2");
    assert_eq!(world.back(1, Some(seen)).expect("back"), ["2"]);
}

#[test]
fn a_socket_that_missed_a_dropped_packet_is_not_restored() {
    let config = Recovery::within(WITHIN).max_namespace_bytes(20_000);
    for (packets, is_back) in [(3, true), (30, false)] {
        let mut world = World::with(config);
        world.store.insert(id(1), private_id(1));
        let seen = world.all("1");
        world.lose(1, seen);
        for _ in 0..packets {
            world.all(&"x".repeat(1000));
        }
        assert_eq!(world.back(1, Some(seen)).is_some(), is_back);
        assert_eq!(world.store.contains(&id(1)), is_back);
    }
    // The packet that the client did not receive was sent before the socket left.
    let mut world = World::with_one();
    let seen = world.all("1");
    let lost = world.all("2");
    world.now += WITHIN + Duration::from_secs(1);
    world.lose(1, lost);
    assert_eq!(world.back(1, Some(seen)), None);
}

#[test]
fn an_invalid_offset_is_refused() {
    for offset in ["", "abc", "not a number", "AAAAAAAAAAAA"] {
        let mut world = World::with_one();
        let seen = world.all("1");
        world.lose(1, seen);
        assert_eq!(world.back_with(1, Some(offset)), None);
    }
}

#[test]
fn a_socket_with_too_many_former_rooms_is_not_restored() {
    let mut world = World::with_one();
    let first = world.all("1");
    let mut sent = first;
    for n in 0..2 * MAX_FORMER_ROOMS {
        let room = n.to_string();
        world.store.join(&id(1), &room);
        sent = world.emit(&room, target(&[&room], &[]));
        world.store.leave_room(&id(1), &room);
    }
    assert_eq!(
        world.store.sockets[&id(1)].room_history.former_rooms.len(),
        MAX_FORMER_ROOMS
    );
    world.lose(1, sent);
    assert_eq!(world.back(1, Some(first)), None);

    let mut world = World::with_one();
    for n in 0..2 * MAX_FORMER_ROOMS {
        world.store.join(&id(1), &n.to_string());
        sent = world.all("1");
        world.store.leave_room(&id(1), &n.to_string());
    }
    world.lose(1, sent);
    assert_eq!(world.back(1, Some(sent)), Some(vec![]));
}

#[test]
fn stays_in_rooms_are_forgotten_with_the_packets_of_their_time() {
    let mut world = World::with_one();
    let stays = |world: &World| world.store.sockets[&id(1)].room_history.former_rooms.len();
    for n in 0..10 {
        let room = n.to_string();
        world.store.join(&id(1), &room);
        world.emit(&room, target(&[&room], &[]));
        world.store.leave_room(&id(1), &room);
        world.now += WITHIN / 2;
    }
    assert_eq!(stays(&world), 3);

    // What the kept packets concern is not forgotten.
    world.store.join(&id(1), "b");
    let seen = world.all("1");
    let sent = world.emit("2", target(&["b"], &[]));
    world.store.leave_room(&id(1), "b");
    world.lose(1, sent);
    assert_eq!(world.back(1, Some(seen)), Some(vec!["2".to_owned()]));
}

#[test]
fn long_names_of_former_rooms_are_not_stored() {
    let mut world = World::with_one();
    let long = "x".repeat(MAX_FORMER_BYTES + 1);
    world.store.join(&id(1), &long);
    let first = world.all("1");
    world.store.leave_room(&id(1), &long);
    assert_eq!(world.store.cost(&id(1)), SOCKET_BYTES + ROOM_BYTES + 1);
    let last = world.all("2");
    world.lose(1, last);
    // It is no longer known whether a packet of that time was for the socket.
    assert_eq!(world.back(1, None), None);
    assert!(first < last);
}

#[test]
fn suspended_sockets_are_limited_by_their_bytes() {
    let mut world = World::with(Recovery::within(WITHIN).max_socket_bytes(10_000));
    for n in 0..100 {
        world.store.insert(id(n), private_id(n));
        world.store.join(&id(n), "a room");
        world.now += Duration::from_secs(1);
        world.lose(n, START.before());
    }
    let bytes = world.store.budget.sockets.load(Ordering::Relaxed);
    assert!(bytes <= 10_000 && bytes > 9_000, "{bytes}");
    assert_eq!(
        world.store.dropped_later.len(),
        100 - world.store.suspended()
    );
    assert!(world.store.is_suspended(&id(99)) && !world.store.contains(&id(0)));
    world.store.abandon();
    assert!(world.is_clean());
}

#[test]
fn nothing_is_stored_in_a_namespace_without_sockets() {
    let mut world = World::new();
    let offset = world.all("1");
    assert!(world.store.is_idle());
    world.store.insert(id(1), private_id(1));
    assert_eq!(world.store.last(), offset);
    world.all("2");
    assert!(!world.store.is_idle());
    world.store.forget(&id(1));
    assert!(world.store.is_idle() && world.is_clean());
}

#[test]
fn expired_handovers_are_returned_to_be_dropped_later() {
    let mut world = World::with_one();
    world.lose(1, START.before());
    world.now += 2 * WITHIN;
    world.store.expire(world.now);
    assert_eq!(world.store.dropped_later, ["handover"]);
}

#[test]
fn sockets_that_are_dropped_return_their_memory() {
    let mut world = World::new();
    let ids: Vec<_> = (0..10_000_u16)
        .map(|n| {
            let [high, low] = n.to_be_bytes();
            let (mut id, mut private_id) = ([0; 15], [0; 16]);
            (id[0], id[1]) = (high, low);
            (private_id[0], private_id[1]) = (high, low);
            (SocketId::new(id), PrivateId::new(private_id))
        })
        .collect();
    for (id, private_id) in &ids {
        world.store.insert(*id, *private_id);
    }
    for (id, _) in &ids[10..] {
        world.store.forget(id);
    }
    assert_eq!(world.store.sockets.len(), 10);
    assert!(is_shrunk(&world.store.sockets) && is_shrunk(&world.store.by_private_id));
}
