//! The health of a server's connection to the cluster.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::inner::Inner;
use crate::clock::now;
use crate::sync::Mutex;

/// What a server knows of its cluster, with numbers since its start. See
/// [`ClusterHealth::status`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ClusterStatus {
    /// Whether the broker is connected.
    pub is_connected: bool,
    /// The time since the broker was connected, or since its connection ended.
    pub since: Duration,
    /// Why the connection ended. Empty while it is connected.
    pub reason: String,
    /// The bytes of the messages that wait for the broker.
    pub queued_bytes: usize,
    /// The number of those messages.
    pub queued: usize,
    /// The messages that the broker has confirmed.
    pub published: u64,
    /// The messages whose connection ended before the broker had confirmed them.
    pub unconfirmed: u64,
    /// The messages that were dropped: the queue was full, or a volatile one found no connection.
    pub dropped: u64,
    /// The messages of other servers.
    pub received: u64,
    /// The messages that could not be read, or that nothing expects.
    pub malformed: u64,
    /// How often messages of other servers may have been lost.
    pub gaps: u64,
    /// The open questions to other servers.
    pub questions: usize,
}

/// The health of a server's connection to the cluster. [`SocketIo::cluster`](crate::SocketIo::cluster)
/// returns it.
///
/// ```
/// use axum::http::StatusCode;
/// use tower_socketio::SocketIo;
///
/// /// A readiness probe.
/// async fn ready(io: SocketIo) -> StatusCode {
///     match io.cluster() {
///         Some(cluster) if !cluster.status().is_connected => StatusCode::SERVICE_UNAVAILABLE,
///         _ => StatusCode::OK,
///     }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct ClusterHealth {
    inner: Arc<Inner>,
    changes: watch::Receiver<u64>,
}

impl ClusterHealth {
    pub(super) fn new(inner: &Arc<Inner>) -> Self {
        Self {
            inner: Arc::clone(inner),
            changes: inner.counters.changes.subscribe(),
        }
    }

    /// Returns the id of this server in the cluster.
    #[must_use]
    pub fn server_id(&self) -> &str {
        &self.inner.id
    }

    /// Returns the current state and the numbers.
    #[must_use]
    pub fn status(&self) -> ClusterStatus {
        let (queued_bytes, queued) = self.inner.queue.lock().waiting();
        let counters = &self.inner.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let connection = counters.connection.lock();
        ClusterStatus {
            is_connected: self.inner.is_connected(),
            since: connection.since.map_or(Duration::ZERO, |since| {
                now().saturating_duration_since(since)
            }),
            reason: connection.reason.clone(),
            queued_bytes,
            queued,
            published: get(&counters.published),
            unconfirmed: get(&counters.unconfirmed),
            dropped: get(&counters.dropped),
            received: get(&counters.received),
            malformed: get(&counters.malformed),
            gaps: get(&counters.gaps),
            questions: self.inner.requests.lock().len(),
        }
    }

    /// Waits until the connection begins or ends, messages are dropped, or a gap is found.
    ///
    /// The first call also completes if any of that has happened since the health was created.
    ///
    /// # Cancel safety
    ///
    /// This is cancel safe: the next call completes for a change that this one has missed.
    pub async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The numbers of one server, and its log lines.
#[derive(Debug)]
pub(super) struct Counters {
    published: AtomicU64,
    unconfirmed: AtomicU64,
    dropped: AtomicU64,
    received: AtomicU64,
    malformed: AtomicU64,
    gaps: AtomicU64,
    changes: watch::Sender<u64>,
    connection: Mutex<Connection>,
    /// When malformed and dropped messages were logged last.
    logged: Mutex<[Option<Instant>; 2]>,
}

#[derive(Debug, Default)]
struct Connection {
    since: Option<Instant>,
    reason: String,
}

/// How often a kind of log line is written at most.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

impl Default for Counters {
    fn default() -> Self {
        Self {
            published: AtomicU64::new(0),
            unconfirmed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            received: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
            gaps: AtomicU64::new(0),
            changes: watch::Sender::new(0),
            connection: Mutex::default(),
            logged: Mutex::default(),
        }
    }
}

impl Counters {
    pub(super) fn published(&self) {
        self.published.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn received(&self) {
        self.received.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn unconfirmed(&self) {
        self.unconfirmed.fetch_add(1, Ordering::Relaxed);
        self.changed();
    }

    pub(super) fn dropped(&self) {
        let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
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
        if self.may_log(1) {
            tracing::warn!(
                target: "tower_socketio::cluster",
                malformed,
                %reason,
                "a message of another server is ignored"
            );
        }
    }

    pub(super) fn gap(&self) {
        self.gaps.fetch_add(1, Ordering::Relaxed);
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
