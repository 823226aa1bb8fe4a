//! The log of a cluster, as far as this server keeps it: what all servers have sent in the last time.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::Notify;

use super::RecoveryBudget;
use super::offset::Offset;
use crate::engine_io::Session;
use crate::hub::other_servers::Operation;
use crate::hub::selection::Target;
use crate::protocol::{Encoded, NamespaceName, Payload};
use crate::shrink::shrink;

/// The entries of the log that are kept: all from an offset on.
#[derive(Debug)]
pub(crate) struct SharedLog {
    namespaces: HashMap<NamespaceName, VecDeque<LogEntry>>,
    /// The namespaces of all entries, in the order of the offsets.
    order: VecDeque<NamespaceName>,
    /// All entries after this one are kept. `None` before the log is read.
    start: Option<Offset>,
    /// The last entry that this server has read.
    last: Offset,
    bytes: usize,
    budget: Arc<RecoveryBudget>,
    /// Notified when an entry was read.
    progress: Arc<Notify>,
}

/// An entry of the log.
#[derive(Debug)]
pub(crate) struct LogEntry {
    pub(super) offset: Offset,
    added_at: Instant,
    pub(super) target: Target,
    pub(super) content: Content,
    bytes: usize,
}

/// What an entry does to the sockets of its target.
#[derive(Debug)]
pub(crate) enum Content {
    /// A packet, with its offset.
    Packet(Encoded),
    /// An event that was not encoded yet, because no socket of this server was meant.
    Event(Payload),
    Join(Vec<Arc<str>>),
    Leave(Vec<Arc<str>>),
    Disconnect,
}

impl Content {
    /// Returns what an operation does. Returns `None` for one that recovery disregards.
    pub(crate) fn of(operation: Operation) -> Option<Self> {
        Some(match operation {
            Operation::Emit { volatile: true, .. } => return None,
            Operation::Emit { payload, .. } => Self::Event(payload),
            Operation::Join(rooms) => Self::Join(rooms),
            Operation::Leave(rooms) => Self::Leave(rooms),
            Operation::Disconnect { .. } => Self::Disconnect,
        })
    }

    fn cost(&self) -> usize {
        match self {
            Self::Packet(packet) => {
                let messages = packet.clone().into_iter();
                messages.map(|each| Session::cost(&each)).sum()
            }
            Self::Event(payload) => {
                let attachments = payload.attachments().map(|bytes| bytes.len());
                Payload::HEADROOM + payload.json().len() + attachments.sum::<usize>()
            }
            Self::Join(rooms) | Self::Leave(rooms) => names(rooms),
            Self::Disconnect => 0,
        }
    }
}

fn names(rooms: &[Arc<str>]) -> usize {
    let name = |name: &Arc<str>| size_of::<Arc<str>>() + name.len();
    rooms.iter().map(name).sum()
}

impl SharedLog {
    pub(crate) fn new(budget: Arc<RecoveryBudget>) -> Self {
        Self {
            namespaces: HashMap::new(),
            order: VecDeque::new(),
            start: None,
            last: Offset::default(),
            bytes: 0,
            budget,
            progress: Arc::default(),
        }
    }

    /// Returns the offset of the last entry that was read.
    pub(crate) fn last(&self) -> Offset {
        self.last
    }

    /// Returns whether the log is read.
    pub(super) fn has_begun(&self) -> bool {
        self.start.is_some()
    }

    /// Returns the notification that an entry was read.
    pub(super) fn progress(&self) -> Arc<Notify> {
        Arc::clone(&self.progress)
    }

    /// Returns the offset of the oldest entry that is kept. There may be no such entry.
    pub(super) fn first(&self) -> Offset {
        self.start.unwrap_or_default().next()
    }

    /// Returns whether all entries after an offset are kept.
    pub(super) fn covers(&self, offset: Offset) -> bool {
        self.start.is_some_and(|start| offset >= start) && offset <= self.last
    }

    /// Forgets all entries: those up to an offset are unknown, or some of them are missing.
    pub(crate) fn begin(&mut self, offset: Offset) {
        while self.pop() {}
        self.start = Some(offset);
        self.last = offset;
        self.progress.notify_waiters();
    }

    /// Records that an entry was read that is not kept.
    pub(crate) fn advance(&mut self, offset: Offset) {
        self.last = self.last.max(offset);
        self.progress.notify_waiters();
    }

    /// Adds an entry, and drops entries that are too old or exceed a limit.
    pub(crate) fn push(
        &mut self,
        offset: Offset,
        namespace: NamespaceName,
        target: Target,
        content: Content,
        now: Instant,
    ) {
        self.expire(now);
        if offset <= self.last {
            // A log that goes back is another one.
            return self.begin(self.last);
        }
        let bytes = size_of::<LogEntry>()
            + size_of::<NamespaceName>()
            + content.cost()
            + names(&target.rooms)
            + names(&target.except);
        self.bytes += bytes;
        self.budget.packets.fetch_add(bytes, Ordering::Relaxed);
        let entry = LogEntry {
            offset,
            added_at: now,
            target,
            content,
            bytes,
        };
        self.order.push_back(namespace.clone());
        self.namespaces
            .entry(namespace)
            .or_default()
            .push_back(entry);
        self.advance(offset);
        while self.bytes > self.budget.config.packet_bytes {
            if !self.pop() {
                break;
            }
        }
    }

    /// Drops entries that are older than a client may be away.
    pub(crate) fn expire(&mut self, now: Instant) {
        let within = self.budget.config.within;
        let is_old = |entry: &LogEntry| now.saturating_duration_since(entry.added_at) > within;
        while self.oldest().is_some_and(is_old) {
            self.pop();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    fn oldest(&self) -> Option<&LogEntry> {
        self.namespaces.get(self.order.front()?)?.front()
    }

    fn pop(&mut self) -> bool {
        let Some(namespace) = self.order.pop_front() else {
            return false;
        };
        let Some(entries) = self.namespaces.get_mut(&namespace) else {
            return true;
        };
        if let Some(entry) = entries.pop_front() {
            self.start = Some(entry.offset);
            self.bytes -= entry.bytes;
            self.budget
                .packets
                .fetch_sub(entry.bytes, Ordering::Relaxed);
        }
        if entries.is_empty() {
            self.namespaces.remove(&namespace);
            shrink(&mut self.namespaces);
        } else {
            shrink(entries);
        }
        shrink(&mut self.order);
        true
    }

    /// Returns the entries of a namespace after an offset.
    pub(super) fn after(
        &mut self,
        namespace: &NamespaceName,
        offset: Offset,
    ) -> impl Iterator<Item = &mut LogEntry> {
        let entries = self.namespaces.get_mut(namespace);
        entries.into_iter().flat_map(move |entries| {
            let at = entries.partition_point(|entry| entry.offset <= offset);
            entries.range_mut(at..)
        })
    }
}

impl Drop for SharedLog {
    fn drop(&mut self) {
        self.budget.packets.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Recovery;
    use super::*;
    use crate::shrink::is_shrunk;

    const SECOND: Duration = Duration::from_secs(1);

    fn log(config: Recovery) -> SharedLog {
        let mut log = SharedLog::new(Arc::new(RecoveryBudget::new(config)));
        log.begin(Offset::new(5, 0));
        log
    }

    fn push(log: &mut SharedLog, high: u64, len: usize, now: Instant) {
        let rooms = vec!["x".repeat(len).into()];
        let (main, all) = (NamespaceName::MAIN, Target::default());
        log.push(Offset::new(high, 0), main, all, Content::Join(rooms), now);
    }

    fn offsets(log: &mut SharedLog, after: u64) -> Vec<u64> {
        let entries = log.after(&NamespaceName::MAIN, Offset::new(after, 0));
        entries.map(|entry| entry.offset.high).collect()
    }

    #[test]
    fn the_entries_after_an_offset_are_found() {
        let (mut log, now) = (log(Recovery::within(SECOND)), Instant::now());
        for high in [7, 9, 12] {
            push(&mut log, high, 1, now);
        }
        assert_eq!(offsets(&mut log, 5), [7, 9, 12]);
        assert_eq!(offsets(&mut log, 7), [9, 12]);
        assert_eq!(offsets(&mut log, 8), [9, 12]);
        assert_eq!(offsets(&mut log, 12), [0; 0]);
        let covers = [4, 5, 12, 13].map(|high| log.covers(Offset::new(high, 0)));
        assert_eq!(covers, [false, true, true, false]);
    }

    #[test]
    fn an_old_entry_is_dropped_and_not_covered() {
        let (mut log, now) = (log(Recovery::within(SECOND)), Instant::now());
        push(&mut log, 7, 1, now);
        push(&mut log, 9, 1, now + SECOND);
        log.expire(now + SECOND + Duration::from_millis(1));
        assert_eq!(offsets(&mut log, 5), [9]);
        assert!(!log.covers(Offset::new(5, 0)) && log.covers(Offset::new(7, 0)));
        log.expire(now + 3 * SECOND);
        assert!(log.is_empty() && log.covers(Offset::new(9, 0)));
        assert_eq!(
            (log.bytes, log.budget.packets.load(Ordering::Relaxed)),
            (0, 0)
        );
    }

    #[test]
    fn entries_over_the_limit_are_dropped() {
        let config = Recovery::within(SECOND).max_packet_bytes(5_000);
        let (mut log, now) = (log(config), Instant::now());
        (6..56).for_each(|high| push(&mut log, high, 1_000, now));
        assert!(log.bytes <= 5_000 && log.bytes > 3_000, "{}", log.bytes);
        assert!(log.covers(Offset::new(52, 0)) && !log.covers(Offset::new(40, 0)));
    }

    #[test]
    fn a_log_that_goes_back_is_another_one() {
        let (mut log, now) = (log(Recovery::within(SECOND)), Instant::now());
        push(&mut log, 9, 1, now);
        push(&mut log, 7, 1, now);
        assert!(log.is_empty() && !log.covers(Offset::new(8, 0)));
        push(&mut log, 12, 1, now);
        assert_eq!(offsets(&mut log, 9), [12]);
    }

    #[test]
    fn namespaces_share_the_limits_and_nothing_else() {
        let (mut log, now) = (log(Recovery::within(SECOND)), Instant::now());
        push(&mut log, 7, 1, now);
        let (other, all) = (NamespaceName::from("/other"), Target::default());
        let content = Content::Disconnect;
        log.push(Offset::new(8, 0), other.clone(), all, content, now + SECOND);
        assert_eq!(offsets(&mut log, 5), [7]);
        assert_eq!(log.after(&other, Offset::default()).count(), 1);
        log.expire(now + SECOND + Duration::from_millis(1));
        assert!(offsets(&mut log, 5).is_empty());
        assert_eq!(log.namespaces.len(), 1);
        assert!(log.covers(Offset::new(7, 0)) && !log.covers(Offset::new(6, 0)));
    }

    #[test]
    fn a_gap_forgets_what_was_before() {
        let (mut log, now) = (log(Recovery::within(SECOND)), Instant::now());
        push(&mut log, 7, 1, now);
        log.begin(Offset::new(9, 0));
        assert!(log.is_empty() && !log.covers(Offset::new(7, 0)));
        assert_eq!(log.last(), Offset::new(9, 0));
    }

    #[test]
    fn entries_that_are_dropped_return_their_memory() {
        let (mut log, now) = (log(Recovery::within(SECOND)), Instant::now());
        (6..10_006).for_each(|high| push(&mut log, high, 1, now));
        push(&mut log, 10_006, 1, now + SECOND);
        log.expire(now + SECOND + Duration::from_millis(1));
        assert_eq!(offsets(&mut log, 0), [10_006]);
        assert!(is_shrunk(&log.order) && is_shrunk(&log.namespaces[&NamespaceName::MAIN]));

        for high in 10_007..11_007 {
            let (offset, all) = (Offset::new(high, 0), Target::default());
            let namespace = NamespaceName::from(&*format!("/{high}"));
            log.push(offset, namespace, all, Content::Disconnect, now + SECOND);
        }
        log.expire(now + 3 * SECOND);
        assert!(log.namespaces.is_empty() && is_shrunk(&log.namespaces));
    }
}
