//! The packets of one namespace, by their offsets.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::RecoveryBudget;
use super::offset::Offset;
use crate::engine_io::{Session, SocketId};
use crate::hub::selection::Target;
use crate::protocol::Encoded;
use crate::shrink::shrink;

/// The recipients of a packet.
#[derive(Clone, Debug)]
pub(crate) enum Recipients {
    One(SocketId),
    Many(Target),
}

/// A packet that may be sent again.
#[derive(Debug)]
pub(super) struct Entry {
    added_at: Instant,
    pub(super) to: Recipients,
    pub(super) packet: Encoded,
    pub(super) bytes: usize,
}

/// The packets that are kept, without a gap, up to the last one.
#[derive(Debug)]
pub(super) struct Log {
    entries: VecDeque<Entry>,
    /// The offset of the oldest entry, or of the next packet if there are no entries.
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

    /// Returns the offset of the oldest entry, or of the next packet if there are no entries.
    pub(super) const fn first(&self) -> Offset {
        self.first
    }

    /// Returns the offset of the next packet.
    pub(super) fn next(&self) -> Offset {
        Offset::new(0, self.first.low + self.entries.len() as u64)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds the next packet, and drops packets that are too old or exceed a limit.
    pub(super) fn push(&mut self, to: Recipients, packet: Encoded, now: Instant) {
        self.expire(now);
        let bytes = cost(&to, &packet);
        self.bytes += bytes;
        self.budget.packets.fetch_add(bytes, Ordering::Relaxed);
        self.entries.push_back(Entry {
            added_at: now,
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

    /// Counts a packet that no socket can miss, and drops all entries.
    pub(super) fn skip(&mut self) {
        self.clear();
        self.first = self.first.next();
    }

    pub(super) fn clear(&mut self) {
        while self.pop() {}
    }

    /// Drops entries that are older than a client may be away.
    pub(super) fn expire(&mut self, now: Instant) {
        let within = self.budget.config.within;
        let is_old = |entry: &Entry| now.saturating_duration_since(entry.added_at) > within;
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
        shrink(&mut self.entries);
        true
    }

    /// Returns the packets from an offset on, with their offsets.
    pub(super) fn from(&self, offset: Offset) -> impl Iterator<Item = (Offset, &Entry)> {
        let skip = offset.low.saturating_sub(self.first.low) as usize;
        let offsets = (self.first.low..).map(|low| Offset::new(0, low));
        offsets.zip(&self.entries).skip(skip)
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
    use crate::shrink::is_shrunk;

    const SECOND: Duration = Duration::from_secs(1);

    fn log(config: Recovery) -> Log {
        Log::new(Offset::new(0, 100), Arc::new(RecoveryBudget::new(config)))
    }

    fn push(log: &mut Log, text: &str, now: Instant) {
        let packet = Encoded::from(Message::Text(text.into()));
        log.push(Recipients::Many(Target::default()), packet, now);
    }

    fn offsets(log: &Log, from: u64) -> Vec<u64> {
        log.from(Offset::new(0, from))
            .map(|(offset, _)| offset.low)
            .collect()
    }

    #[test]
    fn offsets_have_no_gap() {
        let (mut log, now) = (log(Recovery::within(SECOND)), Instant::now());
        (0..3).for_each(|_| push(&mut log, "x", now));
        assert_eq!((log.first().low, log.next().low), (100, 103));
        assert_eq!(offsets(&log, 0), [100, 101, 102]);
        assert_eq!(offsets(&log, 102), [102]);
        assert_eq!(offsets(&log, 103), [0; 0]);
        log.skip();
        assert_eq!((log.first().low, log.next().low), (104, 104));
    }

    #[test]
    fn packets_that_are_too_old_are_dropped() {
        let (mut log, now) = (log(Recovery::within(SECOND)), Instant::now());
        push(&mut log, "x", now);
        push(&mut log, "y", now + SECOND);
        assert_eq!(offsets(&log, 0), [100, 101]);
        push(&mut log, "z", now + SECOND + Duration::from_millis(1));
        assert_eq!(offsets(&log, 0), [101, 102]);
        log.expire(now + 3 * SECOND);
        assert_eq!((log.is_empty(), log.first().low, log.bytes), (true, 103, 0));
        assert_eq!(log.budget.packets.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn packets_over_the_limit_are_dropped() {
        let config = Recovery::within(SECOND);
        let text = "x".repeat(1000);
        for config in [
            config.max_namespace_bytes(5_000),
            config.max_packet_bytes(5_000),
        ] {
            let (mut log, now) = (log(config), Instant::now());
            (0..50).for_each(|_| push(&mut log, &text, now));
            assert!(log.bytes <= 5_000 && log.bytes > 3_000, "{}", log.bytes);
            assert_eq!(log.next().low, 150);
            push(&mut log, &"x".repeat(10_000), now);
            assert_eq!((log.is_empty(), log.first().low), (true, 151));
        }
    }

    #[test]
    fn the_bytes_of_all_namespaces_are_limited_together() {
        let config = Recovery::within(SECOND).max_packet_bytes(5_000);
        let budget = Arc::new(RecoveryBudget::new(config));
        let (mut a, now) = (
            Log::new(Offset::new(0, 1), Arc::clone(&budget)),
            Instant::now(),
        );
        let mut b = Log::new(Offset::new(0, 1), Arc::clone(&budget));
        (0..10).for_each(|_| push(&mut a, &"x".repeat(1000), now));
        (0..10).for_each(|_| push(&mut b, &"x".repeat(1000), now));
        assert!(budget.packets.load(Ordering::Relaxed) <= 5_000);
        drop(a);
        (0..10).for_each(|_| push(&mut b, &"x".repeat(1000), now));
        assert!(b.bytes > 3_000);
        drop(b);
        assert_eq!(budget.packets.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn packets_that_are_dropped_return_the_memory_of_their_entries() {
        let (mut log, now) = (log(Recovery::within(SECOND)), Instant::now());
        (0..10_000).for_each(|_| push(&mut log, "x", now));
        push(&mut log, "y", now + SECOND);
        log.expire(now + SECOND + Duration::from_millis(1));
        assert_eq!(log.entries.len(), 1);
        assert!(is_shrunk(&log.entries));
    }
}
