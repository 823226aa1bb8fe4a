//! Which servers have pages, and what each server records for them. Pure.
//!
//! Each server that has a page, or knows of one on another server, sends a [`Beat`] to the others
//! every two seconds. A server that has heard of no page records nothing.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// What the servers of a cluster send each other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Beat {
    /// The sender. It is a number that no other server has.
    pub(super) server: u64,
    /// Whether the sender has a page.
    pub(super) watches: bool,
    /// Whether the sender's pages show sockets and events.
    pub(super) wants_events: bool,
    /// How many sockets the sender has.
    pub(super) sockets: usize,
    /// Whether the sender has more events than it reports.
    pub(super) is_busy: bool,
}

/// What a server records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Nothing,
    /// Numbers only.
    Totals,
    /// Sockets, rooms and events too.
    Events,
}

/// The pages of this server and of the others.
#[derive(Debug)]
pub(super) struct Pages {
    server: u64,
    /// `false` in production mode.
    has_events: bool,
    max_sockets: usize,
    others: HashMap<u64, Other>,
    pages: usize,
    sockets: usize,
    /// The seconds for which this server must not be busy before it counts as not busy.
    busy_for: u32,
    wants_events: bool,
}

/// Another server, as its last beat has described it.
#[derive(Debug)]
struct Other {
    beat: Beat,
    until: Instant,
}

impl Pages {
    pub(super) fn new(server: u64, has_events: bool, max_sockets: usize) -> Self {
        Self {
            server,
            has_events,
            max_sockets,
            others: HashMap::new(),
            pages: 0,
            sockets: 0,
            busy_for: 0,
            wants_events: false,
        }
    }

    /// Handles the beat of another server. Returns whether that server has a page, and this one did
    /// not know it.
    pub(super) fn handle_beat(&mut self, beat: Beat, now: Instant) -> bool {
        if beat.server == self.server {
            return false;
        }
        self.others.retain(|_, other| other.until > now);
        if self.others.len() == MAX_OTHERS && !self.others.contains_key(&beat.server) {
            return false;
        }
        let is_watching = beat.watches;
        let other = Other {
            until: now + FORGET_AFTER,
            beat,
        };
        let before = self.others.insert(other.beat.server, other);
        is_watching && !before.is_some_and(|before| before.beat.watches)
    }

    /// Records how many pages and sockets this server has, and decides whether the pages show
    /// sockets and events. Returns whether the decision has changed.
    pub(super) fn update(&mut self, pages: usize, sockets: usize, now: Instant) -> bool {
        self.others.retain(|_, other| other.until > now);
        self.pages = pages;
        self.sockets = sockets;
        let others = self.others.values().map(|other| &other.beat);
        let total = sockets + others.clone().map(|beat| beat.sockets).sum::<usize>();
        // The number has to fall a little before the page changes again.
        let max = match self.wants_events {
            true => self.max_sockets,
            false => self.max_sockets - self.max_sockets / 10,
        };
        let is_busy = self.busy_for > 0 || others.clone().any(|beat| beat.is_busy);
        let before = self.wants_events;
        self.wants_events = self.has_events && pages > 0 && total <= max && !is_busy;
        before != self.wants_events
    }

    /// Lowers the number of sockets that the pages show, because they are too long for a message.
    pub(super) fn limit_sockets(&mut self, sockets: usize) {
        self.max_sockets = self.max_sockets.min(sockets);
    }

    /// Records whether this server had more events than it can report in the last second.
    pub(super) fn set_busy(&mut self, had_too_many: bool, is_quiet: bool) {
        match (had_too_many, is_quiet) {
            (true, _) => self.busy_for = QUIET_FOR,
            (false, true) => self.busy_for = self.busy_for.saturating_sub(1),
            (false, false) if self.busy_for > 0 => self.busy_for = QUIET_FOR,
            (false, false) => {}
        }
    }

    /// Returns whether the pages of this server show sockets and events.
    pub(super) const fn wants_events(&self) -> bool {
        self.wants_events
    }

    /// Returns what this server records.
    pub(super) fn level(&self) -> Level {
        let mut watching = self.others.values().filter(|other| other.beat.watches);
        if self.has_events && (self.wants_events || watching.clone().any(|it| it.beat.wants_events))
        {
            return Level::Events;
        }
        match self.pages > 0 || watching.next().is_some() {
            true => Level::Totals,
            false => Level::Nothing,
        }
    }

    pub(super) const fn beat(&self) -> Beat {
        Beat {
            server: self.server,
            watches: self.pages > 0,
            wants_events: self.wants_events,
            sockets: self.sockets,
            is_busy: self.busy_for > 0,
        }
    }
}

/// How long a server counts after its last beat: three of them may be lost.
const FORGET_AFTER: Duration = Duration::from_millis(7_000);

/// The seconds without too many events before the pages show events again.
const QUIET_FOR: u32 = 10;

/// How many other servers are known. Beats of further ones are ignored.
const MAX_OTHERS: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn pages() -> Pages {
        Pages::new(1, true, 100)
    }

    fn beat(watches: bool, sockets: usize) -> Beat {
        Beat {
            server: 2,
            watches,
            wants_events: watches,
            sockets,
            is_busy: false,
        }
    }

    #[test]
    fn without_a_page_nothing_is_recorded() {
        let now = Instant::now();
        let mut pages = pages();
        assert_eq!(pages.level(), Level::Nothing);
        assert!(!pages.update(0, 7, now));
        assert_eq!(pages.level(), Level::Nothing);
        assert!(!pages.handle_beat(beat(false, 7), now));
        assert_eq!(pages.level(), Level::Nothing);
    }

    #[test]
    fn a_page_of_another_server_counts_until_its_beats_end() {
        let now = Instant::now();
        let mut pages = pages();
        assert!(pages.handle_beat(beat(true, 7), now));
        assert!(!pages.handle_beat(beat(true, 7), now));
        assert_eq!(pages.level(), Level::Events);
        pages.update(0, 0, now + FORGET_AFTER);
        assert_eq!(pages.level(), Level::Nothing);
        assert!(pages.handle_beat(beat(true, 7), now));
        pages.handle_beat(beat(false, 7), now);
        assert_eq!(pages.level(), Level::Nothing);
    }

    #[test]
    fn above_the_limit_there_are_no_events_until_the_number_has_fallen() {
        let now = Instant::now();
        let mut pages = pages();
        pages.update(0, 0, now);
        assert!(pages.update(1, 50, now));
        assert!(!pages.update(1, 100, now));
        pages.handle_beat(beat(false, 1), now);
        assert!(pages.update(1, 100, now));
        assert_eq!(pages.level(), Level::Totals);
        assert!(!pages.update(1, 90, now));
        assert!(pages.update(1, 89, now));
        assert_eq!(pages.level(), Level::Events);
        pages.limit_sockets(50);
        assert!(pages.update(1, 51, now));
    }

    #[test]
    fn a_busy_server_has_no_events_until_it_was_quiet_for_a_while() {
        let now = Instant::now();
        let mut pages = pages();
        pages.update(1, 1, now);
        pages.set_busy(true, false);
        assert!(pages.update(1, 1, now));
        assert!(pages.beat().is_busy);
        for _ in 1..QUIET_FOR {
            pages.set_busy(false, true);
        }
        pages.set_busy(false, false);
        for _ in 1..QUIET_FOR {
            pages.set_busy(false, true);
            assert!(!pages.update(1, 1, now));
        }
        pages.set_busy(false, true);
        assert!(pages.update(1, 1, now));
        let busy = Beat {
            is_busy: true,
            ..beat(false, 1)
        };
        pages.handle_beat(busy, now);
        assert!(pages.update(1, 1, now));
    }

    #[test]
    fn in_production_there_are_only_numbers() {
        let now = Instant::now();
        let mut pages = Pages::new(1, false, 100);
        assert!(!pages.update(1, 1, now));
        assert_eq!(pages.level(), Level::Totals);
        pages.handle_beat(beat(true, 1), now);
        assert_eq!(pages.level(), Level::Totals);
    }

    #[test]
    fn the_known_servers_are_bounded_and_the_own_beat_is_ignored() {
        let now = Instant::now();
        let mut pages = pages();
        for server in 0..=2 * MAX_OTHERS as u64 {
            pages.handle_beat(
                Beat {
                    server,
                    ..beat(false, 1)
                },
                now,
            );
        }
        assert_eq!(pages.others.len(), MAX_OTHERS);
        assert!(!pages.others.contains_key(&1));
    }
}
