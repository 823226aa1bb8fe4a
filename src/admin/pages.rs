//! Which servers have pages, and what each server records for them. Pure.
//!
//! Each server that has a page, or knows of one on another server, sends a [`Beat`] to the others
//! every two seconds. A server that has heard of no page records nothing.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::queue::Load;

/// What the servers of a cluster send each other.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Beat {
    /// The sender. It is a number that no other server has.
    pub(super) server: u64,
    /// Whether the sender has a page.
    pub(super) watches: bool,
    /// Whether the sender's pages show sockets and events.
    pub(super) wants_events: bool,
    /// How many sockets the sender has.
    pub(super) sockets: usize,
    /// How many events for the pages the sender had in the last second.
    pub(super) events: usize,
    /// Whether there are more events than the servers can report.
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
    /// Whether there may be servers of which no beat has come yet.
    has_cluster: bool,
    /// When the others have had time to answer the first beat of this server.
    round_ends: Option<Instant>,
    too_long: Option<TooLong>,
    pages: usize,
    sockets: usize,
    /// How many events for the pages this server had in the last second.
    events: usize,
    /// The seconds for which this server must not be busy before it counts as not busy.
    busy_for: u32,
    wants_events: bool,
}

/// The description of all sockets was too long for a message.
#[derive(Debug)]
struct TooLong {
    /// When it is tried again.
    until: Instant,
    /// How many sockets there were.
    sockets: usize,
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
            has_cluster: false,
            round_ends: None,
            too_long: None,
            events: 0,
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
        if pages > 0 && self.pages == 0 {
            self.round_ends = self.has_cluster.then_some(now + ROUND);
        }
        self.round_ends = self.round_ends.filter(|end| *end > now);
        self.pages = pages;
        self.sockets = sockets;
        let total = self.all_sockets();
        let is_too_long = |it: &TooLong| it.until > now && total > it.sockets / 2;
        self.too_long = self.too_long.take().filter(is_too_long);
        // The number has to fall a little before the page changes again.
        let max = match self.wants_events {
            true => self.max_sockets,
            false => self.max_sockets - self.max_sockets / 10,
        };
        let is_busy = self.busy_for > 0 || self.others.values().any(|it| it.beat.is_busy);
        let has_all = self.round_ends.is_none() && self.too_long.is_none();
        let before = self.wants_events;
        self.wants_events = self.has_events && pages > 0 && total <= max && has_all && !is_busy;
        before != self.wants_events
    }

    /// Records that there is a cluster: the sockets of the other servers are not known until they have
    /// answered a beat.
    pub(super) const fn set_cluster(&mut self) {
        self.has_cluster = true;
    }

    /// Records that the description of all sockets is too long for a message. The pages show numbers
    /// for a minute, or until there are half as many sockets.
    pub(super) fn set_too_long(&mut self, now: Instant) {
        self.too_long = Some(TooLong {
            until: now + TRY_AGAIN_AFTER,
            sockets: self.all_sockets(),
        });
    }

    /// Returns the number of sockets of all servers, as far as it is known.
    fn all_sockets(&self) -> usize {
        let others = self.others.values().map(|other| other.beat.sockets);
        others.fold(self.sockets, usize::saturating_add)
    }

    /// Returns the number of events that the other servers had in the last second of which they have told.
    fn others_events(&self) -> usize {
        let others = self.others.values().map(|other| other.beat.events);
        others.fold(0, usize::saturating_add)
    }

    /// Returns how many events this server may send in a second: what the others leave, and its part
    /// at least.
    pub(super) fn share(&self) -> usize {
        let left = MAX_EVENTS_PER_SECOND.saturating_sub(self.others_events());
        left.max(MAX_EVENTS_PER_SECOND / (self.others.len() + 1))
    }

    /// Records how many events there were in the last second, and how many of them were dropped.
    ///
    /// One server alone may have more than it sends in a second for a while: they wait in its queue.
    pub(super) fn set_load(&mut self, load: Load) {
        self.events = match self.has_events {
            true => load.events,
            false => 0,
        };
        let others = self.others_events();
        let all = others.saturating_add(self.events);
        let had_too_many = load.dropped > 0 || (others > 0 && all > MAX_EVENTS_PER_SECOND);
        match (had_too_many, all < MAX_EVENTS_PER_SECOND / 2) {
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
            events: self.events,
            is_busy: self.busy_for > 0,
        }
    }
}

/// How long a server counts after its last beat: three of them may be lost.
const FORGET_AFTER: Duration = Duration::from_millis(7_000);

/// The seconds without too many events before the pages show events again.
const QUIET_FOR: u32 = 10;

/// How long the others have to answer the first beat of a server that has got a page.
const ROUND: Duration = Duration::from_secs(1);

/// How long the pages show numbers after the description of all sockets was too long.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// How many events all servers together send to the pages in one second. A page keeps the last 1 000.
const MAX_EVENTS_PER_SECOND: usize = 1_280;

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
            ..Beat::default()
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
    }

    #[test]
    fn a_description_that_is_too_long_is_tried_again() {
        let now = Instant::now();
        let mut pages = pages();
        assert!(pages.update(1, 50, now));
        pages.set_too_long(now);
        assert!(pages.update(1, 50, now));
        assert!(!pages.update(1, 26, now));
        assert!(pages.update(1, 25, now));
        pages.set_too_long(now);
        assert!(pages.update(1, 25, now));
        let later = now + TRY_AGAIN_AFTER;
        assert!(pages.update(1, 25, later));
        // The limit is as before.
        assert!(!pages.update(1, 100, later));
    }

    #[test]
    fn the_first_page_of_a_cluster_shows_numbers_until_the_others_have_answered() {
        let now = Instant::now();
        let mut pages = pages();
        pages.set_cluster();
        assert!(!pages.update(1, 1, now));
        assert!(!pages.beat().wants_events);
        pages.handle_beat(beat(false, 100), now);
        assert!(!pages.update(1, 1, now + ROUND));
        pages.handle_beat(beat(false, 10), now);
        assert!(pages.update(1, 1, now + ROUND));
        // A further page does not wait.
        assert!(!pages.update(2, 1, now + ROUND));
    }

    #[test]
    fn the_servers_share_what_a_page_can_show() {
        let now = Instant::now();
        let mut pages = pages();
        let load = |events| Load { events, dropped: 0 };
        pages.update(1, 1, now);
        // They wait in the queue.
        pages.set_load(load(2 * MAX_EVENTS_PER_SECOND));
        assert!(!pages.beat().is_busy);
        assert_eq!(pages.share(), MAX_EVENTS_PER_SECOND);
        let other = |events| Beat {
            events,
            ..beat(false, 1)
        };
        pages.handle_beat(other(280), now);
        assert_eq!(pages.share(), 1_000);
        pages.set_load(load(1_000));
        assert_eq!(pages.beat().events, 1_000);
        assert!(!pages.beat().is_busy);
        pages.set_load(load(1_001));
        assert!(pages.beat().is_busy);
        pages.handle_beat(other(usize::MAX), now);
        pages.set_load(load(1));
        assert_eq!(pages.share(), MAX_EVENTS_PER_SECOND / 2);
    }

    #[test]
    fn a_beat_may_be_of_another_version_or_say_nonsense() {
        let now = Instant::now();
        let mut pages = pages();
        let other: Beat = serde_json::from_str(r#"{"server":2,"more":true}"#).expect("a beat");
        pages.handle_beat(other, now);
        for server in [3, 4] {
            let huge = Beat {
                server,
                ..beat(false, usize::MAX)
            };
            pages.handle_beat(huge, now);
        }
        assert!(!pages.update(1, 1, now));
    }

    #[test]
    fn a_busy_server_has_no_events_until_it_was_quiet_for_a_while() {
        let load = |events, dropped| Load { events, dropped };
        let now = Instant::now();
        let mut pages = pages();
        pages.update(1, 1, now);
        pages.set_load(load(0, 1));
        assert!(pages.update(1, 1, now));
        assert!(pages.beat().is_busy);
        for _ in 1..QUIET_FOR {
            pages.set_load(load(0, 0));
        }
        pages.set_load(load(MAX_EVENTS_PER_SECOND, 0));
        for _ in 1..QUIET_FOR {
            pages.set_load(load(0, 0));
            assert!(!pages.update(1, 1, now));
        }
        pages.set_load(load(0, 0));
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
