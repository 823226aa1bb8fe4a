//! The health of a server's connection to the cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use super::inner::Inner;
use crate::clock::now;

/// The state of a server's connection to its cluster, with numbers since the server's start. See
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
    /// The messages that were dropped: the queue was full, a volatile one found no connection, the
    /// broker refused one, or one was too long or came after the end of the broker.
    pub dropped: u64,
    /// The messages of other servers.
    pub received: u64,
    /// The messages that could not be read, the answers to no open question (most of them came too
    /// late), and the server events that were too many.
    pub malformed: u64,
    /// How often messages of other servers may have been lost.
    pub gaps: u64,
    /// The sockets that were saved, so that any server can restore them: see
    /// [`Broker::has_log`](super::Broker::has_log). With another broker this and the next three are 0.
    pub saved: u64,
    /// The sockets that this server has restored.
    pub restored: u64,
    /// The sockets among them whose former server had not yet noticed the lost connection.
    pub handed_over: u64,
    /// The clients that asked for a socket, and got a new one: it was not saved, or they had missed
    /// packets that are no longer kept.
    pub not_restored: u64,
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
            saved: get(&counters.saved),
            restored: get(&counters.restored),
            handed_over: get(&counters.handed_over),
            not_restored: get(&counters.not_restored),
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
