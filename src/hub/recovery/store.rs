//! The sessions of one namespace, and what each of them was sent.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use indexmap::IndexMap;

use super::log::{Entry, Log, Offset, Recipients};
use super::{PrivateId, RecoveryBudget};
use crate::engine_io::SocketId;
use crate::hub::rooms::IdHash;
use crate::protocol::{Claim, Encoded};

/// What one namespace keeps. `T` is what a socket leaves to the one that takes its place.
#[derive(Debug)]
pub(crate) struct RecoveryStore<T> {
    log: Log,
    sessions: HashMap<SocketId, StoredSocket<T>, IdHash>,
    owners: HashMap<PrivateId, SocketId>,
    /// Those who are away, the longest first.
    away: BTreeSet<(Instant, SocketId)>,
    pub(super) budget: Arc<RecoveryBudget>,
    /// What nobody will take any more. It may be the user's, so it is not dropped under a lock.
    pub(super) dropped_later: Vec<T>,
}

/// One socket, present or away.
#[derive(Debug)]
struct StoredSocket<T> {
    owner: PrivateId,
    /// The first packet it may have been sent. A client that names an older one has got none.
    base: Offset,
    /// Of packets before this it is no longer known whether it was sent them.
    floor: Offset,
    /// The last packet it was sent.
    sent: Offset,
    /// Its rooms, and the first packet since it joined.
    rooms: IndexMap<Arc<str>, Offset>,
    former_rooms: VecDeque<RoomStay>,
    /// What the data of the socket count.
    data: usize,
    away: Option<Suspended<T>>,
}

#[derive(Debug)]
struct Suspended<T> {
    since: Instant,
    /// The first packet that came after it had left.
    at: Offset,
    bytes: usize,
    handover: T,
}

/// A time in a room that is over: from a packet on, up to before another.
#[derive(Debug)]
struct RoomStay {
    room: Arc<str>,
    from: Offset,
    to: Offset,
}

/// How many rooms that it has left are remembered of a socket, and how long their names are
/// together.
const MAX_FORMER_ROOMS: usize = 64;
const MAX_FORMER_BYTES: usize = 8 * 1024;

/// What a client that is back is given.
#[derive(Debug)]
pub(crate) struct Restored<T> {
    pub(crate) id: SocketId,
    pub(crate) owner: PrivateId,
    pub(crate) rooms: Vec<Arc<str>>,
    pub(crate) missed: Vec<Encoded>,
    pub(crate) sent: Offset,
    pub(crate) handover: T,
}

impl<T> RecoveryStore<T> {
    pub(crate) fn new(start: Offset, budget: Arc<RecoveryBudget>) -> Self {
        Self {
            log: Log::new(start, Arc::clone(&budget)),
            sessions: HashMap::default(),
            owners: HashMap::new(),
            away: BTreeSet::new(),
            budget,
            dropped_later: Vec::new(),
        }
    }

    // Packets.

    /// The number of the next packet.
    pub(crate) fn next(&self) -> Offset {
        self.log.next()
    }

    /// The number of the last packet.
    pub(crate) fn last(&self) -> Offset {
        self.log.next().before()
    }

    /// Keeps a packet, with the next number, if anybody may ask for it.
    pub(crate) fn keep(&mut self, to: Recipients, packet: &Encoded, now: Instant) {
        self.expire(now);
        if self.sessions.is_empty() {
            return self.log.skip();
        }
        self.log.push(to, packet.clone(), now);
    }

    // Sockets that are there.

    pub(crate) fn enter(&mut self, id: SocketId, owner: PrivateId) {
        let base = self.log.next();
        let session = StoredSocket {
            owner,
            base,
            floor: base,
            sent: base.before(),
            rooms: IndexMap::new(),
            former_rooms: VecDeque::new(),
            data: 0,
            away: None,
        };
        self.sessions.insert(id, session);
        self.owners.insert(owner, id);
    }

    pub(crate) fn join(&mut self, id: &SocketId, room: &str) {
        let next = self.log.next();
        if let Some(session) = self.sessions.get_mut(id) {
            session.rooms.insert(room.into(), next);
        }
    }

    pub(crate) fn leave_room(&mut self, id: &SocketId, room: &str) {
        let (first, to) = (self.log.first(), self.log.next());
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        if let Some((room, from)) = session.rooms.swap_remove_entry(room) {
            session.remember(RoomStay { room, from, to }, first);
        }
    }

    /// Whether the socket is there, or may come back.
    pub(crate) fn knows(&self, id: &SocketId) -> bool {
        self.sessions.contains_key(id)
    }

    /// The socket leaves for good.
    pub(crate) fn forget(&mut self, id: &SocketId) {
        let Some(session) = self.sessions.remove(id) else {
            return;
        };
        self.owners.remove(&session.owner);
        if let Some(away) = session.away {
            let handover = self.settle(*id, away);
            self.dropped_later.push(handover);
        }
        if self.sessions.is_empty() {
            // Nobody will ask for them.
            self.log.clear();
            self.sessions = HashMap::default();
            self.owners = HashMap::new();
        }
    }

    /// The socket leaves and may come back. `sent` is the last packet that it was sent, and `data`
    /// what its data count.
    pub(crate) fn suspend(
        &mut self,
        id: &SocketId,
        sent: Offset,
        data: usize,
        handover: T,
        now: Instant,
    ) {
        let at = self.log.next();
        let Some(session) = self.sessions.get_mut(id) else {
            return self.dropped_later.push(handover);
        };
        session.sent = session.sent.max(sent);
        session.data = data;
        let bytes = session.cost();
        session.away = Some(Suspended {
            since: now,
            at,
            bytes,
            handover,
        });
        self.away.insert((now, *id));
        self.budget.sessions.fetch_add(bytes, Ordering::Relaxed);
        self.expire(now);
        let max = self.budget.config.session_bytes;
        while self.budget.sessions.load(Ordering::Relaxed) > max {
            let Some(&(_, longest)) = self.away.first() else {
                break;
            };
            self.forget(&longest);
        }
    }

    // Sockets that are away.

    /// The socket that a client names, present or away.
    pub(crate) fn find(&self, claim: &Claim) -> Option<SocketId> {
        let owner = PrivateId::parse(&claim.pid)?;
        self.owners.get(&owner).copied()
    }

    /// What a socket, present or away, counts.
    pub(crate) fn cost(&self, id: &SocketId) -> usize {
        self.sessions.get(id).map_or(0, StoredSocket::cost)
    }

    /// Whether the socket is away.
    #[cfg(test)]
    fn is_away(&self, id: &SocketId) -> bool {
        self.sessions
            .get(id)
            .is_some_and(|each| each.away.is_some())
    }

    /// How many are away.
    pub(crate) fn away(&self) -> usize {
        self.away.len()
    }

    /// Whether there is nothing that will be too old.
    pub(crate) fn is_idle(&self) -> bool {
        self.away.is_empty() && self.log.is_empty()
    }

    /// Forgets all who are away.
    pub(crate) fn abandon(&mut self) {
        while let Some(&(_, id)) = self.away.first() {
            self.forget(&id);
        }
    }

    /// Forgets who has been away for too long, and the packets of before.
    pub(crate) fn expire(&mut self, now: Instant) {
        let within = self.budget.config.within;
        let is_late = |since: Instant| now.saturating_duration_since(since) > within;
        while let Some(&(_, id)) = self.away.first().filter(|(since, _)| is_late(*since)) {
            self.forget(&id);
        }
        self.log.expire(now);
    }

    /// Makes a socket that is away present again, with what it has missed. If that is not possible
    /// without a gap, it is forgotten.
    pub(crate) fn restore(
        &mut self,
        id: SocketId,
        offset: Option<&str>,
        now: Instant,
    ) -> Option<Restored<T>> {
        self.expire(now);
        let session = self.sessions.get(&id)?;
        let missed = session.away.as_ref().and_then(|away| {
            let from = session.missing_from(away, offset, &self.log)?;
            Some(missed(session, &id, &self.log, from))
        });
        let Some((missed, sent)) = missed else {
            self.forget(&id);
            return None;
        };
        let session = self.sessions.get_mut(&id)?;
        session.sent = session.sent.max(sent);
        let (owner, sent) = (session.owner, session.sent);
        let rooms = session.rooms.keys().cloned().collect();
        let away = session.away.take()?;
        let handover = self.settle(id, away);
        Some(Restored {
            id,
            owner,
            rooms,
            missed,
            sent,
            handover,
        })
    }

    /// Counts a socket as away no more.
    fn settle(&mut self, id: SocketId, away: Suspended<T>) -> T {
        self.away.remove(&(away.since, id));
        self.budget
            .sessions
            .fetch_sub(away.bytes, Ordering::Relaxed);
        away.handover
    }
}

impl<T> Drop for RecoveryStore<T> {
    fn drop(&mut self) {
        let away = self.sessions.values().filter_map(|each| each.away.as_ref());
        let bytes = away.map(|away| away.bytes).sum::<usize>();
        self.budget.sessions.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl<T> StoredSocket<T> {
    /// Remembers a stay as long as a packet of that time is kept.
    fn remember(&mut self, stay: RoomStay, first: Offset) {
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

    /// The first packet that the client may miss; none if that cannot be told, or it is gone.
    fn missing_from(&self, away: &Suspended<T>, offset: Option<&str>, log: &Log) -> Option<Offset> {
        let got = match offset {
            // It has got nothing at all, or its number would be here.
            None => self.base.before(),
            Some(text) => match Offset::parse(text)? {
                got if (self.base..log.next()).contains(&got) => got,
                // Of another session that it had: of this one it has got nothing.
                _ => self.base.before(),
            },
        };
        // Who has got the last one that was sent while it was there misses what came since. Packets
        // in between were not for it, so they need not be kept.
        let from = if got >= self.sent {
            got.next().max(away.at)
        } else {
            got.next()
        };
        (from >= self.floor && from >= log.first()).then_some(from)
    }

    /// Whether a packet was, or would have been, for this socket.
    fn is_recipient(&self, id: &SocketId, number: Offset, to: &Recipients) -> bool {
        match to {
            Recipients::One(other) => other == id,
            Recipients::Many(target) => {
                let is_in = |room: &Arc<str>| **room == *id.as_str() || self.was_in(room, number);
                (target.rooms.is_empty() || target.rooms.iter().any(is_in))
                    && !target.except.iter().any(is_in)
            }
        }
    }

    fn was_in(&self, room: &str, number: Offset) -> bool {
        let since = self.rooms.get(room);
        let was = |stay: &RoomStay| *stay.room == *room && (stay.from..stay.to).contains(&number);
        since.is_some_and(|since| *since <= number) || self.former_rooms.iter().any(was)
    }

    fn cost(&self) -> usize {
        let rooms = self.rooms.keys();
        let former = self.former_rooms.iter().map(|stay| &stay.room);
        let name = |name: &Arc<str>| ROOM_BYTES + name.len();
        SESSION_BYTES + self.data + rooms.chain(former).map(name).sum::<usize>()
    }
}

/// What a socket that is away takes, its rooms aside: as it was measured, rounded up.
const SESSION_BYTES: usize = 512;
const ROOM_BYTES: usize = 64;

/// The packets for a session from a number on, and the number of the last.
fn missed<T>(
    session: &StoredSocket<T>,
    id: &SocketId,
    log: &Log,
    from: Offset,
) -> (Vec<Encoded>, Offset) {
    let (mut last, mut packets) = (session.sent, Vec::new());
    let meant = |(number, entry): &(Offset, &Entry)| session.is_recipient(id, *number, &entry.to);
    for (number, entry) in log.from(from).filter(meant) {
        last = number;
        packets.push(entry.packet.clone());
    }
    (packets, last)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Recovery;
    use super::*;
    use crate::engine_io::Message;
    use crate::hub::rooms::Target;

    const WITHIN: Duration = Duration::from_secs(120);
    const START: Offset = Offset(1_000);

    /// An store in virtual time.
    struct World {
        store: RecoveryStore<&'static str>,
        now: Instant,
    }

    fn id(n: u8) -> SocketId {
        SocketId::new([n; 15])
    }

    const fn owner(n: u8) -> PrivateId {
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
                store: RecoveryStore::new(START, Arc::new(RecoveryBudget::new(config))),
                now: Instant::now(),
            }
        }

        /// With socket 1, who is in the room `a`.
        fn with_one() -> Self {
            let mut world = Self::new();
            world.store.enter(id(1), owner(1));
            world.store.join(&id(1), "a");
            world
        }

        fn emit(&mut self, text: &str, to: Recipients) -> Offset {
            let number = self.store.next();
            let packet = Encoded::from(Message::Text(text.into()));
            self.store.keep(to, &packet, self.now);
            number
        }

        fn all(&mut self, text: &str) -> Offset {
            self.emit(text, target(&[], &[]))
        }

        fn lose(&mut self, n: u8, sent: Offset) {
            self.store.suspend(&id(n), sent, 0, "handover", self.now);
        }

        /// What socket `n` is sent again, if it is restored.
        fn back(&mut self, n: u8, offset: Option<Offset>) -> Option<Vec<String>> {
            let offset = offset.map(Offset::to_text);
            self.back_with(n, offset.as_deref())
        }

        fn back_with(&mut self, n: u8, offset: Option<&str>) -> Option<Vec<String>> {
            let claim = Claim {
                pid: owner(n).expose(),
                offset: None,
            };
            let found = self.store.find(&claim)?;
            let restored = self.store.restore(found, offset, self.now)?;
            assert_eq!((restored.id, restored.owner), (id(n), owner(n)));
            assert_eq!(restored.handover, "handover");
            let text = |packet: Encoded| match packet.into_iter().next() {
                Some(Message::Text(text)) => text.as_str().to_owned(),
                other => panic!("{other:?}"),
            };
            Some(restored.missed.into_iter().map(text).collect())
        }

        fn is_clean(&self) -> bool {
            let kept = &self.store.budget;
            let bytes = [&kept.packets, &kept.sessions].map(|each| each.load(Ordering::Relaxed));
            self.store.owners.len() == self.store.sessions.len()
                && self.store.away.is_empty()
                && bytes == [0, 0]
        }
    }

    #[test]
    fn who_comes_back_gets_what_it_has_missed_in_order() {
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
        world.store.enter(id(2), owner(2));
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
    fn a_packet_of_before_joining_or_after_leaving_a_room_was_not_meant() {
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
    fn who_was_sent_nothing_comes_back_without_a_number() {
        let mut world = World::with_one();
        world.lose(1, START.before());
        world.all("1");
        assert_eq!(world.back(1, None).expect("back"), ["1"]);
    }

    #[test]
    fn who_got_nothing_of_what_it_was_sent_gets_all() {
        for offset in [
            None,
            Some(Offset(7)),
            Some(START.before()),
            Some(Offset(9_999)),
        ] {
            let mut world = World::new();
            world.store.enter(id(2), owner(2));
            world.all("before its time");
            world.store.enter(id(1), owner(1));
            let sent = world.all("1");
            world.lose(1, sent);
            // A number of another time is as good as none.
            assert_eq!(world.back(1, offset).expect("back"), ["1"]);
        }
    }

    #[test]
    fn it_comes_back_again_and_again() {
        let mut world = World::with_one();
        let mut seen = world.all("0");
        for round in 1..20 {
            world.lose(1, seen);
            let missed = world.all(&round.to_string());
            assert_eq!(
                world.back(1, Some(seen)).expect("back"),
                [round.to_string()]
            );
            // Every third time the connection is lost before the client has it.
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
    fn who_is_there_cannot_be_restored() {
        let mut world = World::with_one();
        let seen = world.all("1");
        world.lose(1, seen);
        assert!(world.back(1, Some(seen)).is_some());
        assert!(!world.store.is_away(&id(1)));
        assert!(world.back(1, Some(seen)).is_none());
    }

    #[test]
    fn who_has_left_for_good_does_not_come_back() {
        let mut world = World::with_one();
        let seen = world.all("1");
        world.store.forget(&id(1));
        assert_eq!(world.back(1, Some(seen)), None);
        assert!(world.is_clean());
    }

    #[test]
    fn who_is_away_too_long_is_forgotten() {
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
    fn an_idle_client_comes_back_though_its_last_packet_is_gone() {
        let mut world = World::with_one();
        world.store.enter(id(2), owner(2));
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
    fn what_is_gone_is_never_passed_over() {
        let config = Recovery::within(WITHIN).max_namespace_bytes(20_000);
        for (packets, is_back) in [(3, true), (30, false)] {
            let mut world = World::with(config);
            world.store.enter(id(1), owner(1));
            let seen = world.all("1");
            world.lose(1, seen);
            for _ in 0..packets {
                world.all(&"x".repeat(1000));
            }
            assert_eq!(world.back(1, Some(seen)).is_some(), is_back);
            assert_eq!(world.store.knows(&id(1)), is_back);
        }
        // The one that was not received was sent before it left.
        let mut world = World::with_one();
        let seen = world.all("1");
        let lost = world.all("2");
        world.now += WITHIN + Duration::from_secs(1);
        world.lose(1, lost);
        assert_eq!(world.back(1, Some(seen)), None);
    }

    #[test]
    fn a_number_that_is_none_is_refused() {
        for offset in ["", "abc", "not a number", "AAAAAAAAAAAA"] {
            let mut world = World::with_one();
            let seen = world.all("1");
            world.lose(1, seen);
            assert_eq!(world.back_with(1, Some(offset)), None);
        }
    }

    #[test]
    fn a_socket_that_has_been_in_many_rooms_is_not_given_a_guess() {
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
            world.store.sessions[&id(1)].former_rooms.len(),
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
    fn long_names_of_rooms_that_were_left_are_not_remembered() {
        let mut world = World::with_one();
        let long = "x".repeat(MAX_FORMER_BYTES + 1);
        world.store.join(&id(1), &long);
        let first = world.all("1");
        world.store.leave_room(&id(1), &long);
        assert_eq!(world.store.cost(&id(1)), SESSION_BYTES + ROOM_BYTES + 1);
        let last = world.all("2");
        world.lose(1, last);
        // Whether a packet of that time was meant is not known any more.
        assert_eq!(world.back(1, None), None);
        assert!(first < last);
    }

    #[test]
    fn those_who_are_away_are_limited_by_their_bytes() {
        let mut world = World::with(Recovery::within(WITHIN).max_session_bytes(10_000));
        for n in 0..100 {
            world.store.enter(id(n), owner(n));
            world.store.join(&id(n), "a room");
            world.now += Duration::from_secs(1);
            world.lose(n, START.before());
        }
        let bytes = world.store.budget.sessions.load(Ordering::Relaxed);
        assert!(bytes <= 10_000 && bytes > 9_000, "{bytes}");
        assert_eq!(world.store.dropped_later.len(), 100 - world.store.away());
        assert!(world.store.is_away(&id(99)) && !world.store.knows(&id(0)));
        world.store.abandon();
        assert!(world.is_clean());
    }

    #[test]
    fn nothing_is_kept_where_nobody_is() {
        let mut world = World::new();
        let number = world.all("1");
        assert!(world.store.is_idle());
        world.store.enter(id(1), owner(1));
        assert_eq!(world.store.last(), number);
        world.all("2");
        assert!(!world.store.is_idle());
        world.store.forget(&id(1));
        assert!(world.store.is_idle() && world.is_clean());
    }

    #[test]
    fn what_was_left_is_given_out_to_be_dropped_elsewhere() {
        let mut world = World::with_one();
        world.lose(1, START.before());
        world.now += 2 * WITHIN;
        world.store.expire(world.now);
        assert_eq!(world.store.dropped_later, ["handover"]);
    }
}
