//! The task that shuts all sessions down.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::select;
use tokio::runtime::Handle;
use tokio::time::timeout_at;

use super::sessions::Sessions;
use super::shutdown::{Pace, Shutdown, ShutdownReport, Times};
use crate::clock::now;

/// How long a session may take to end after it was cut. A handler that blocks its thread takes
/// longer.
const CUT_GRACE: Duration = Duration::from_secs(1);

impl Sessions {
    /// Closes all sessions one after another, accepts no further one, and waits until their tasks
    /// have ended. At the deadline, the rest is cut. Then `finish` runs.
    ///
    /// A shutdown that has begun goes on, and ends earlier if this call's times are earlier.
    /// `within` is that of [`Sessions::close`].
    ///
    /// # Panics
    ///
    /// Panics if the caller is in no runtime.
    pub(crate) async fn shut_down(
        self: &Arc<Self>,
        within: Option<u64>,
        spread: Duration,
        deadline: Duration,
        finish: impl Future<Output = ()> + Send + 'static,
    ) -> ShutdownReport {
        let times = Times::new(now(), spread, deadline);
        let _closer = self.close_caller(within);
        let shutdown = self.begin_shutdown(times, finish);
        loop {
            let changed = self.changed().notified();
            if let Some(report) = shutdown.report() {
                return report;
            }
            changed.await;
        }
    }

    fn begin_shutdown(
        self: &Arc<Self>,
        times: Times,
        finish: impl Future<Output = ()> + Send + 'static,
    ) -> Arc<Shutdown> {
        // It panics before anything has begun.
        let runtime = Handle::current();
        let (shutdown, is_first) = self.shutdown_or_insert(|| Shutdown::new(times));
        if !is_first {
            shutdown.hurry(times);
            return shutdown;
        }
        self.refuse_new();
        let run = Run {
            sessions: Arc::clone(self),
            shutdown: Arc::clone(&shutdown),
        };
        runtime.spawn(run.all(finish));
        shutdown
    }
}

/// The task of a shutdown. The shutdown ends with the task, also if the runtime drops the task.
struct Run {
    sessions: Arc<Sessions>,
    shutdown: Arc<Shutdown>,
}

impl Run {
    async fn all(self, finish: impl Future<Output = ()>) {
        self.close_spread().await;
        self.end_by_deadline(Sessions::has_ended_but_for_closers)
            .await;
        finish.await;
        self.publish();
        // The handlers that have waited for the shutdown end now.
        self.end_by_deadline(Sessions::is_empty).await;
    }

    /// Closes the sessions one after another. The ids of sessions are random, and so is their order
    /// in the map.
    async fn close_spread(&self) {
        let mut sessions = self.sessions.all();
        let last_close = self.shutdown.times().last_close;
        let mut pace = Pace::new(self.shutdown.begun, last_close, sessions.len());
        loop {
            let changed = pin!(self.sessions.changed().notified());
            let hurried = pin!(self.shutdown.hurried.notified());
            if self.sessions.has_ended_but_for_closers() {
                sessions.iter().for_each(|session| session.shut_down());
                return;
            }
            let now = now();
            pace.hurry(now, self.shutdown.times().last_close);
            let next = loop {
                match pace.next() {
                    Some(next) if next <= now => {
                        pace.closed += 1;
                        sessions.pop().inspect(|session| session.shut_down());
                    }
                    next => break next,
                }
            };
            let Some(next) = next else {
                return;
            };
            // Either it is time for the next session, or a session has ended, or the times have
            // changed.
            let _ = timeout_at(next.into(), select(changed, hurried)).await;
        }
    }

    /// Waits until all sessions have ended. Those that have not at the deadline are cut.
    async fn end_by_deadline(&self, has_ended: impl Fn(&Sessions) -> bool) {
        if self
            .wait_until(|| self.shutdown.times().deadline, &has_ended)
            .await
        {
            return;
        }
        for session in self.sessions.all() {
            session.cut();
        }
        let grace = now() + CUT_GRACE;
        if !self.wait_until(|| grace, Sessions::is_empty).await {
            let sessions = self.sessions.len();
            tracing::error!(
                sessions,
                "handlers block their threads, and cannot be cut at the deadline of the shutdown: \
                 use `tokio::task::spawn_blocking`"
            );
        }
    }

    /// Waits until a condition holds. Returns `false` if it does not hold at the deadline.
    async fn wait_until(
        &self,
        deadline: impl Fn() -> Instant,
        condition: impl Fn(&Sessions) -> bool,
    ) -> bool {
        loop {
            let changed = pin!(self.sessions.changed().notified());
            let hurried = pin!(self.shutdown.hurried.notified());
            if condition(&self.sessions) {
                return true;
            }
            let deadline = deadline();
            if deadline <= now() {
                return false;
            }
            let _ = timeout_at(deadline.into(), select(changed, hurried)).await;
        }
    }

    /// Completes the report, and wakes those that wait for it.
    fn publish(&self) {
        // Sessions that could not be cut, and those of handlers that wait for the report, which end
        // after it.
        let left = self.sessions.all();
        let cut = left.iter().filter(|session| session.is_cut()).count();
        self.shutdown.complete(cut, left.len() - cut);
        self.sessions.changed().notify_waiters();
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.publish();
    }
}
