//! The numbers of one server of a cluster, and its log lines.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::clock::now;
use crate::hub::observer::{ClusterDrop, Direction, Observers};
use crate::hub::other_servers::ClaimOutcome;
use crate::sync::Mutex;

/// The numbers of one server, and its log lines.
#[derive(Debug)]
pub(super) struct Counters {
    pub(super) published: AtomicU64,
    pub(super) unconfirmed: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) malformed: AtomicU64,
    pub(super) gaps: AtomicU64,
    pub(super) saved: AtomicU64,
    pub(super) restored: AtomicU64,
    pub(super) handed_over: AtomicU64,
    pub(super) not_restored: AtomicU64,
    pub(super) changes: watch::Sender<u64>,
    pub(super) connection: Mutex<Connection>,
    /// When malformed and dropped messages were logged last.
    logged: Mutex<[Option<Instant>; 2]>,
    observers: Observers,
}

/// The state of the broker's connection.
#[derive(Debug, Default)]
pub(super) struct Connection {
    /// When it began or ended. `None` before the first attempt.
    pub(super) since: Option<Instant>,
    /// Why it ended. Empty while it is connected.
    pub(super) reason: String,
}

/// How often a kind of log line is written at most.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

impl Counters {
    pub(super) fn new(observers: Observers) -> Self {
        Self {
            published: AtomicU64::new(0),
            unconfirmed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            received: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
            gaps: AtomicU64::new(0),
            saved: AtomicU64::new(0),
            restored: AtomicU64::new(0),
            handed_over: AtomicU64::new(0),
            not_restored: AtomicU64::new(0),
            changes: watch::Sender::new(0),
            connection: Mutex::default(),
            logged: Mutex::default(),
            observers,
        }
    }

    pub(super) fn published(&self) {
        self.published.fetch_add(1, Ordering::Relaxed);
        self.message(Direction::Sent);
    }

    pub(super) fn received(&self) {
        self.received.fetch_add(1, Ordering::Relaxed);
        self.message(Direction::Received);
    }

    fn message(&self, direction: Direction) {
        let observers = &self.observers;
        observers.each(|observer| observer.cluster_message(direction));
    }

    fn lost(&self, reason: ClusterDrop) {
        let observers = &self.observers;
        observers.each(|observer| observer.cluster_dropped(reason));
    }

    pub(super) fn up(&self, is_up: bool) {
        let observers = &self.observers;
        observers.each(|observer| observer.cluster_up(is_up));
    }

    pub(super) fn unconfirmed(&self) {
        self.unconfirmed.fetch_add(1, Ordering::Relaxed);
        self.lost(ClusterDrop::Unconfirmed);
        self.changed();
    }

    pub(super) fn dropped(&self) {
        let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
        self.lost(ClusterDrop::NotSent);
        self.changed();
        if self.may_log(0) {
            tracing::error!(
                target: "tower_socketio::cluster",
                dropped,
                "messages for other servers are dropped"
            );
        }
    }

    pub(super) fn malformed(&self, reason: &dyn fmt::Display) {
        let malformed = self.malformed.fetch_add(1, Ordering::Relaxed) + 1;
        self.lost(ClusterDrop::Malformed);
        if self.may_log(1) {
            tracing::warn!(
                target: "tower_socketio::cluster",
                malformed,
                %reason,
                "a message of another server is ignored"
            );
        }
    }

    pub(super) fn claim(&self, outcome: ClaimOutcome) {
        let counter = match outcome {
            ClaimOutcome::Restored => &self.restored,
            ClaimOutcome::HandedOver => &self.handed_over,
            ClaimOutcome::NotRestored => &self.not_restored,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn gap(&self) {
        self.gaps.fetch_add(1, Ordering::Relaxed);
        self.lost(ClusterDrop::Gap);
        self.changed();
    }

    pub(super) fn connected(&self) {
        let mut connection = self.connection.lock();
        let outage = connection
            .since
            .map(|since| now().saturating_duration_since(since));
        let was_down = !connection.reason.is_empty();
        connection.since = Some(now());
        connection.reason = String::new();
        drop(connection);
        self.up(true);
        self.changed();
        if was_down {
            tracing::error!(
                target: "tower_socketio::cluster",
                ?outage,
                dropped = self.dropped.load(Ordering::Relaxed),
                unconfirmed = self.unconfirmed.load(Ordering::Relaxed),
                "the broker is connected again"
            );
        }
    }

    pub(super) fn disconnected(&self, reason: &dyn fmt::Display, was_connected: bool) {
        let mut connection = self.connection.lock();
        let is_first = was_connected || connection.reason.is_empty();
        if is_first {
            connection.since = Some(now());
        }
        connection.reason = reason.to_string();
        drop(connection);
        self.up(false);
        if is_first {
            self.changed();
            tracing::error!(
                target: "tower_socketio::cluster",
                %reason,
                "the broker is not connected"
            );
        }
    }

    fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Returns whether a line of this kind was not logged for a while.
    fn may_log(&self, kind: usize) -> bool {
        let now = now();
        let mut logged = self.logged.lock();
        let is_due =
            logged[kind].is_none_or(|at| now.saturating_duration_since(at) >= LOG_INTERVAL);
        if is_due {
            logged[kind] = Some(now);
        }
        is_due
    }
}
