//! The pages that do not read fast enough. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::engine_io::SocketId;

/// The pages of one server that have not read all, and those that show numbers because of that.
#[derive(Debug, Default)]
pub(super) struct SlowPages {
    /// The bytes of all reports that were sent.
    sent: u64,
    behind: HashMap<SocketId, Behind>,
    /// Until when they show numbers at least.
    resting: HashMap<SocketId, Instant>,
}

/// Since when a page has not read all.
#[derive(Clone, Copy, Debug)]
struct Behind {
    since: Instant,
    /// The bytes of all reports that were sent before.
    sent: u64,
}

impl SlowPages {
    /// Counts the bytes of a report.
    pub(super) const fn sent(&mut self, bytes: usize) {
        self.sent = self.sent.wrapping_add(bytes as u64);
    }

    /// Records whether a page has read all. Returns whether it is too slow: it has to show numbers from
    /// now on.
    pub(super) fn note(
        &mut self,
        page: SocketId,
        has_read_all: bool,
        max_bytes: usize,
        now: Instant,
    ) -> bool {
        if has_read_all {
            self.behind.remove(&page);
            return false;
        }
        let sent = self.sent;
        let behind = self
            .behind
            .entry(page)
            .or_insert(Behind { since: now, sent });
        let bytes = sent.wrapping_sub(behind.sent);
        let is_too_slow = now - behind.since >= TOO_SLOW || bytes > max_bytes as u64;
        if is_too_slow {
            self.behind.remove(&page);
            self.resting.insert(page, now + REST);
        }
        is_too_slow
    }

    /// Returns whether a page shows numbers because it is too slow.
    pub(super) fn is_resting(&self, page: SocketId) -> bool {
        self.resting.contains_key(&page)
    }

    /// Returns whether a page that has read all may show events again.
    pub(super) fn take_rested(&mut self, page: SocketId, now: Instant) -> bool {
        let is_rested = self.resting.get(&page).is_some_and(|until| *until <= now);
        if is_rested {
            self.resting.remove(&page);
        }
        is_rested
    }

    /// Forgets the pages that are gone.
    pub(super) fn retain(&mut self, is_there: impl Fn(&SocketId) -> bool) {
        self.behind.retain(|page, _| is_there(page));
        self.resting.retain(|page, _| is_there(page));
    }
}

/// How long a page may take to read all.
const TOO_SLOW: Duration = Duration::from_secs(2);

/// How long a page that was too slow shows numbers at least.
const REST: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_does_not_read_shows_numbers_until_it_has_read() {
        let page = SocketId::new([b'a'; 15]);
        let now = Instant::now();
        let mut slow = SlowPages::default();
        assert!(!slow.note(page, false, 100, now));
        assert!(!slow.note(page, true, 100, now + TOO_SLOW));
        assert!(!slow.note(page, false, 100, now + TOO_SLOW));
        let then = now + 2 * TOO_SLOW;
        assert!(slow.note(page, false, 100, then));
        assert!(slow.is_resting(page));
        assert!(!slow.take_rested(page, then));
        assert!(slow.take_rested(page, then + REST));
        assert!(!slow.is_resting(page));
    }

    #[test]
    fn the_bytes_that_wait_for_a_page_are_bounded() {
        let page = SocketId::new([b'a'; 15]);
        let now = Instant::now();
        let mut slow = SlowPages::default();
        slow.sent(1_000);
        assert!(!slow.note(page, false, 100, now));
        slow.sent(100);
        assert!(!slow.note(page, false, 100, now));
        slow.sent(1);
        assert!(slow.note(page, false, 100, now));
        slow.retain(|_| false);
        assert!(!slow.is_resting(page));
    }
}
