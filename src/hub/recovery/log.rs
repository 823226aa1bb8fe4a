//! The packets of one namespace, numbered.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::RecoveryBudget;
use crate::engine_io::{Session, SocketId};
use crate::hub::rooms::Target;
use crate::protocol::Encoded;

/// The number of a packet. Numbers begin anywhere and go up by one, so that one of another time
/// is not taken for one of now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Offset(pub(super) u64);

impl Offset {
    /// Where to begin, by chance: with room for 2^47 packets behind it.
    pub(crate) fn start(random: [u8; 8]) -> Self {
        Self(1 + (u64::from_be_bytes(random) >> 17))
    }

    pub(super) const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    pub(super) const fn before(self) -> Self {
        Self(self.0 - 1)
    }

    /// What clients are given: eight characters.
    pub(crate) fn to_text(self) -> String {
        let [_, _, bytes @ ..] = self.0.to_be_bytes();
        URL_SAFE_NO_PAD.encode(bytes)
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut number = [0; 8];
        let len = URL_SAFE_NO_PAD.decode_slice(text, &mut number[2..]).ok()?;
        (len == 6).then(|| Self(u64::from_be_bytes(number)))
    }
}

/// Whom a packet is for.
#[derive(Clone, Debug)]
pub(crate) enum Recipients {
    One(SocketId),
    Many(Target),
}

/// A packet that may be sent again.
#[derive(Debug)]
pub(super) struct Entry {
    at: Instant,
    pub(super) to: Recipients,
    pub(super) packet: Encoded,
    pub(super) bytes: usize,
}

/// The packets that are kept: without a gap, up to the last.
#[derive(Debug)]
pub(super) struct Log {
    entries: VecDeque<Entry>,
    /// The number of the oldest entry; if there is none, of the next packet.
    first: Offset,
    bytes: usize,
    budget: Arc<RecoveryBudget>,
}

impl Log {
    pub(super) const fn new(start: Offset, budget: Arc<RecoveryBudget>) -> Self {
        Self {
            entries: VecDeque::new(),
            first: start,
            bytes: 0,
            budget,
        }
    }

    /// The oldest number that is here, or else the next.
    pub(super) const fn first(&self) -> Offset {
        self.first
    }

    /// The number of the next packet.
    pub(super) fn next(&self) -> Offset {
        Offset(self.first.0 + self.entries.len() as u64)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keeps the next packet, and drops what is too old or too much.
    pub(super) fn push(&mut self, to: Recipients, packet: Encoded, now: Instant) {
        self.expire(now);
        let bytes = cost(&to, &packet);
        self.bytes += bytes;
        self.budget.packets.fetch_add(bytes, Ordering::Relaxed);
        self.entries.push_back(Entry {
            at: now,
            to,
            packet,
            bytes,
        });
        let config = &self.budget.config;
        let (namespace, all) = (config.namespace_bytes, config.packet_bytes);
        while self.bytes > namespace || self.budget.packets.load(Ordering::Relaxed) > all {
            if !self.pop() {
                break;
            }
        }
    }

    /// Counts a packet that nobody will ask for.
    pub(super) fn skip(&mut self) {
        self.clear();
        self.first = self.first.next();
    }

    pub(super) fn clear(&mut self) {
        while self.pop() {}
    }

    /// Drops what is older than anybody may be away.
    pub(super) fn expire(&mut self, now: Instant) {
        let within = self.budget.config.within;
        let is_old = |entry: &Entry| now.saturating_duration_since(entry.at) > within;
        while self.entries.front().is_some_and(is_old) {
            self.pop();
        }
    }

    fn pop(&mut self) -> bool {
        let Some(entry) = self.entries.pop_front() else {
            return false;
        };
        self.first = self.first.next();
        self.bytes -= entry.bytes;
        self.budget
            .packets
            .fetch_sub(entry.bytes, Ordering::Relaxed);
        if self.entries.capacity() > 64 && self.entries.len() * 8 < self.entries.capacity() {
            self.entries.shrink_to(self.entries.len() * 2);
        }
        true
    }

    /// The packets from a number on, with their numbers.
    pub(super) fn from(&self, number: Offset) -> impl Iterator<Item = (Offset, &Entry)> {
        let skip = number.0.saturating_sub(self.first.0) as usize;
        let numbers = (self.first.0..).map(Offset);
        numbers.zip(&self.entries).skip(skip)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.budget.packets.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn cost(to: &Recipients, packet: &Encoded) -> usize {
    let name = |name: &Arc<str>| size_of::<Arc<str>>() + name.len();
    let names = match to {
        Recipients::One(_) => 0,
        Recipients::Many(target) => target.rooms.iter().chain(&target.except).map(name).sum(),
    };
    let messages = packet.clone().into_iter();
    size_of::<Entry>() + names + messages.map(|each| Session::cost(&each)).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Recovery;
    use super::*;
    use crate::engine_io::Message;

    const SECOND: Duration = Duration::from_secs(1);

    fn log(config: Recovery) -> Log {
        Log::new(Offset(100), Arc::new(RecoveryBudget::new(config)))
    }

    fn push(log: &mut Log, text: &str, now: Instant) {
        let packet = Encoded::from(Message::Text(text.into()));
        log.push(Recipients::Many(Target::default()), packet, now);
    }

    fn numbers(log: &Log, from: u64) -> Vec<u64> {
        log.from(Offset(from)).map(|(number, _)| number.0).collect()
    }

    #[test]
    fn a_number_is_eight_characters_and_is_read_again() {
        for number in [
            Offset::start([0; 8]),
            Offset::start([0xff; 8]),
            Offset(1 << 47),
        ] {
            let text = number.to_text();
            assert_eq!((text.len(), Offset::parse(&text)), (8, Some(number)));
        }
        for text in [
            "",
            "abc",
            "AAAAAAA",
            "AAAAAAAAA",
            "AAAAAAAAAAAA",
            "AAAA+AAA",
            "éééé",
        ] {
            assert_eq!(Offset::parse(text), None, "{text}");
        }
    }

    #[test]
    fn packets_are_numbered_without_a_gap() {
        let (mut log, now) = (log(Recovery::within(SECOND)), Instant::now());
        (0..3).for_each(|_| push(&mut log, "x", now));
        assert_eq!((log.first().0, log.next().0), (100, 103));
        assert_eq!(numbers(&log, 0), [100, 101, 102]);
        assert_eq!(numbers(&log, 102), [102]);
        assert_eq!(numbers(&log, 103), [0; 0]);
        log.skip();
        assert_eq!((log.first().0, log.next().0), (104, 104));
    }

    #[test]
    fn what_is_too_old_is_dropped() {
        let (mut log, now) = (log(Recovery::within(SECOND)), Instant::now());
        push(&mut log, "x", now);
        push(&mut log, "y", now + SECOND);
        assert_eq!(numbers(&log, 0), [100, 101]);
        push(&mut log, "z", now + SECOND + Duration::from_millis(1));
        assert_eq!(numbers(&log, 0), [101, 102]);
        log.expire(now + 3 * SECOND);
        assert_eq!((log.is_empty(), log.first().0, log.bytes), (true, 103, 0));
        assert_eq!(log.budget.packets.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_too_much_is_dropped() {
        let config = Recovery::within(SECOND);
        let text = "x".repeat(1000);
        for config in [
            config.max_namespace_bytes(5_000),
            config.max_packet_bytes(5_000),
        ] {
            let (mut log, now) = (log(config), Instant::now());
            (0..50).for_each(|_| push(&mut log, &text, now));
            assert!(log.bytes <= 5_000 && log.bytes > 3_000, "{}", log.bytes);
            assert_eq!(log.next().0, 150);
            push(&mut log, &"x".repeat(10_000), now);
            assert_eq!((log.is_empty(), log.first().0), (true, 151));
        }
    }

    #[test]
    fn the_bytes_of_all_namespaces_are_limited_together() {
        let config = Recovery::within(SECOND).max_packet_bytes(5_000);
        let kept = Arc::new(RecoveryBudget::new(config));
        let (mut a, now) = (Log::new(Offset(1), Arc::clone(&kept)), Instant::now());
        let mut b = Log::new(Offset(1), Arc::clone(&kept));
        (0..10).for_each(|_| push(&mut a, &"x".repeat(1000), now));
        (0..10).for_each(|_| push(&mut b, &"x".repeat(1000), now));
        assert!(kept.packets.load(Ordering::Relaxed) <= 5_000);
        drop(a);
        (0..10).for_each(|_| push(&mut b, &"x".repeat(1000), now));
        assert!(b.bytes > 3_000);
        drop(b);
        assert_eq!(kept.packets.load(Ordering::Relaxed), 0);
    }
}
