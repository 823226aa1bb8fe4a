use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::{Recovery, RecoveryBudget};
use super::*;
use crate::protocol::{Kind, Payload};

/// The log of one server, and a socket that left at offset 20. It was sent packet 15 last.
struct World {
    log: SharedLog,
    socket: SavedSocket,
}

fn at(high: u64) -> Offset {
    Offset::new(high, 0)
}

fn target(rooms: &[&str]) -> Target {
    Target {
        rooms: rooms.iter().map(|name| Arc::from(*name)).collect(),
        except: Vec::new(),
    }
}

impl World {
    fn new() -> Self {
        let budget = RecoveryBudget::new(Recovery::within(Duration::from_secs(60)));
        let mut log = SharedLog::new(Arc::new(budget));
        log.begin(at(5));
        let mut room_history = RoomHistory::new(at(10));
        room_history.join("a", at(12));
        let socket = SavedSocket {
            id: SocketId::new([1; 15]),
            private_id: PrivateId::new([1; 16]),
            namespace: Some(NamespaceName::MAIN),
            room_history,
            data: None,
            is_connected: false,
            history: Some(History {
                base: at(10),
                sent: at(15),
                left: at(20),
            }),
        };
        Self { log, socket }
    }

    fn push(&mut self, high: u64, to: &[&str], content: Content) {
        let (main, now) = (NamespaceName::MAIN, Instant::now());
        self.log.push(at(high), main, target(to), content, now);
    }

    fn emit(&mut self, high: u64, to: &[&str]) {
        let json = "[\"x\"]".into();
        let payload = Payload::from_json(Kind::Event, json, Vec::new()).expect("an event");
        self.push(high, to, Content::Event(payload));
    }

    /// Returns the offsets of the missed packets.
    fn missed(&mut self, offset: Option<u64>) -> Result<Vec<u64>, NotRestored> {
        self.missed_text(offset.map(|high| at(high).to_string()).as_deref())
    }

    fn missed_text(&mut self, offset: Option<&str>) -> Result<Vec<u64>, NotRestored> {
        let mut missed = Vec::new();
        let mut socket = self.socket.clone();
        let main = NamespaceName::MAIN;
        socket.catch_up(&main, offset, &mut self.log, |entry| {
            missed.push(entry.offset.high);
        })?;
        Ok(missed)
    }
}

#[test]
fn missed_packets_are_those_of_its_rooms_while_it_was_in_them() {
    let mut world = World::new();
    world.emit(11, &["a"]);
    world.emit(13, &["a"]);
    world.emit(14, &["b"]);
    world.emit(15, &[]);
    world.emit(21, &["a"]);
    world.emit(22, &["b"]);
    world.emit(23, &[world.socket.id.as_str().to_owned().as_str()]);
    assert_eq!(world.missed(Some(13)), Ok(vec![15, 21, 23]));
    assert_eq!(world.missed(Some(15)), Ok(vec![21, 23]));
    assert_eq!(world.missed(Some(21)), Ok(vec![23]));
    // It has received nothing: the packet before its join was not for it.
    assert_eq!(world.missed(None), Ok(vec![13, 15, 21, 23]));
    // The offset of a former socket of the client.
    assert_eq!(world.missed(Some(7)), Ok(vec![13, 15, 21, 23]));
}

#[test]
fn rooms_change_while_it_is_away() {
    let mut world = World::new();
    let rooms = |name: &str| vec![Arc::from(name)];
    world.push(19, &["a"], Content::Join(rooms("before")));
    world.emit(21, &["b"]);
    world.push(22, &["a"], Content::Join(rooms("b")));
    world.emit(23, &["b"]);
    world.push(24, &["b"], Content::Leave(rooms("a")));
    world.emit(25, &["a"]);
    world.emit(26, &["before"]);
    world.push(27, &["a"], Content::Disconnect);
    world.emit(28, &["b"]);
    assert_eq!(world.missed(Some(15)), Ok(vec![23, 28]));
    world.push(29, &["b"], Content::Disconnect);
    assert_eq!(world.missed(Some(15)), Err(NotRestored::Disconnected));
}

#[test]
fn what_was_done_before_it_left_is_not_done_again() {
    let mut world = World::new();
    world.push(21, &["a"], Content::Leave(vec!["a".into()]));
    world.emit(22, &["a"]);
    assert_eq!(world.missed(Some(15)), Ok(vec![]));
    world.socket.room_history.except(at(21), false, at(5));
    assert_eq!(world.missed(Some(15)), Ok(vec![22]));
}

#[test]
fn an_exception_is_right_against_the_rooms() {
    let mut world = World::new();
    world.emit(13, &["a"]);
    world.emit(14, &["b"]);
    world.emit(15, &["a"]);
    world.socket.room_history.except(at(13), false, at(5));
    world.socket.room_history.except(at(14), true, at(5));
    assert_eq!(world.missed(Some(12)), Ok(vec![14, 15]));
}

#[test]
fn a_socket_is_not_restored_across_a_gap() {
    let mut world = World::new();
    world.emit(13, &["a"]);
    world.log.begin(at(14));
    world.emit(15, &["a"]);
    world.emit(21, &["a"]);
    assert_eq!(world.missed(Some(13)), Err(NotRestored::NotKept));
    assert_eq!(world.missed(Some(14)), Ok(vec![15, 21]));
}

#[test]
fn one_that_got_all_packets_needs_only_those_since_it_left() {
    let mut world = World::new();
    world.log.begin(at(19));
    world.emit(21, &["a"]);
    assert_eq!(world.missed(Some(15)), Ok(vec![21]));
    assert_eq!(world.missed(Some(14)), Err(NotRestored::NotKept));
}

#[test]
fn a_claim_that_is_not_valid_is_refused() {
    let mut world = World::new();
    world.emit(21, &["a"]);
    for offset in ["", "x", "AAAAAAAA", "1", "1-x", "0-0"] {
        assert_eq!(world.missed_text(Some(offset)), Err(NotRestored::NoOffset));
    }
    world.socket.namespace = Some("/other".into());
    assert_eq!(world.missed(Some(15)), Err(NotRestored::OtherNamespace));
}

#[test]
fn a_socket_of_a_node_server_needs_an_offset() {
    let mut world = World::new();
    world.socket.history = None;
    world.socket.namespace = None;
    world.socket.room_history = RoomHistory::default();
    world.socket.room_history.join("a", Offset::default());
    world.emit(13, &["a"]);
    world.emit(14, &["b"]);
    world.push(15, &["a"], Content::Leave(vec!["a".into()]));
    world.emit(16, &["a"]);
    assert_eq!(world.missed(None), Err(NotRestored::NoOffset));
    assert_eq!(world.missed(Some(12)), Ok(vec![13]));
    assert_eq!(world.missed(Some(4)), Err(NotRestored::NotKept));
    world.push(17, &[], Content::Disconnect);
    assert_eq!(world.missed(Some(12)), Err(NotRestored::Disconnected));
}
