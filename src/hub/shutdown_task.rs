//! The task that shuts all sessions down.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::select;
use tokio::runtime::Handle;
use tokio::time::timeout_at;

use super::session::SharedSession;
use super::sessions::Sessions;
use super::shutdown::{OngoingShutdown, Pace, ShutdownReport, Times};
use crate::clock::now;

/// How long the disconnect handlers of a session that was cut may run. Then they are dropped.
const DISCONNECT_GRACE: Duration = Duration::from_secs(1);

/// How long a session may take to end after its handlers were dropped. One that blocks its thread
/// takes longer.
const CUT_GRACE: Duration = Duration::from_secs(1);

impl Sessions {
    /// Closes all sessions one after another, accepts no further one, and waits until their tasks
    /// have ended. At the deadline, the rest is cut. Then the future that `finish` returns runs.
    ///
    /// A shutdown that has begun goes on, and ends earlier if this call's times are earlier. If the
    /// caller's runtime has ended or has no timer, all sessions are closed at once, there is no deadline,
    /// and `leave` is called in place of `finish`.
    /// `within` is that of [`Sessions::close`].
    ///
    /// # Panics
    ///
    /// Panics if the caller is in no runtime.
    pub(crate) async fn shut_down<F>(
        self: &Arc<Self>,
        within: Option<u64>,
        spread: Duration,
        deadline: Duration,
        finish: impl Fn() -> F,
        leave: impl Fn(),
    ) -> ShutdownReport
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let times = Times::new(now(), spread, deadline);
        let _closer = self.close_caller(within);
        let (mut shutdown, mut is_own) = self.begin_shutdown(times, &finish);
        loop {
            let changed = self.changed().notified();
            if let Some(report) = shutdown.report() {
                return report;
            }
            if shutdown.is_abandoned() {
                // The runtime of its task has ended, or has no timer. If that is the caller's own, it
                // does not run another task either.
                (shutdown, is_own) = match is_own {
                    true => (self.shut_down_here(times, &leave).await, true),
                    false => self.begin_shutdown(times, &finish),
                };
                continue;
            }
            changed.await;
        }
    }

    /// Returns the shutdown that has begun, and whether this call has begun it.
    fn begin_shutdown<F>(
        self: &Arc<Self>,
        times: Times,
        finish: impl FnOnce() -> F,
    ) -> (Arc<OngoingShutdown>, bool)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // It panics before anything has begun.
        let runtime = Handle::current();
        let (shutdown, is_first) = self.shutdown_or_insert(|| OngoingShutdown::new(times));
        if !is_first {
            shutdown.hurry(times);
            return (shutdown, false);
        }
        self.refuse_new();
        let run = Run {
            sessions: Arc::clone(self),
            shutdown: Arc::clone(&shutdown),
        };
        runtime.spawn(run.all(finish()));
        (shutdown, true)
    }

    /// Shuts down without a task and without timers, unless a further shutdown has begun.
    async fn shut_down_here(
        self: &Arc<Self>,
        times: Times,
        leave: impl Fn(),
    ) -> Arc<OngoingShutdown> {
        let (shutdown, is_first) = self.shutdown_or_insert(|| OngoingShutdown::new(times));
        if is_first {
            let run = Run {
                sessions: Arc::clone(self),
                shutdown: Arc::clone(&shutdown),
            };
            run.without_timers(leave).await;
        }
        shutdown
    }
}

/// The task of a shutdown. If the runtime drops the task, the shutdown is abandoned.
struct Run {
    sessions: Arc<Sessions>,
    shutdown: Arc<OngoingShutdown>,
}

impl Run {
    async fn all(self, finish: impl Future<Output = ()>) {
        self.close_spread().await;
        let deadline = || self.shutdown.times().deadline;
        self.end_by(deadline, Sessions::all_but_closers).await;
        finish.await;
        self.sessions.complete(&self.shutdown);
        // The handlers that have waited for the shutdown end now.
        let deadline = deadline().max(now() + CUT_GRACE);
        self.end_by(|| deadline, Sessions::all).await;
    }

    async fn without_timers(self, leave: impl Fn()) {
        let sessions = self.sessions.all();
        sessions.iter().for_each(|session| session.shut_down());
        drop(sessions);
        loop {
            let changed = self.sessions.changed().notified();
            if self.sessions.has_ended_but_for_closers() {
                break;
            }
            changed.await;
        }
        leave();
        self.sessions.complete(&self.shutdown);
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

    /// Waits until the sessions that `of` returns have ended. Those that have not at the deadline
    /// are cut, and then aborted.
    async fn end_by(
        &self,
        deadline: impl Fn() -> Instant,
        of: impl Fn(&Sessions) -> Vec<Arc<SharedSession>>,
    ) {
        let have_ended = |sessions: &Sessions| of(sessions).is_empty();
        if self.wait_until(deadline, have_ended).await {
            return;
        }
        of(&self.sessions).iter().for_each(|session| session.cut());
        let grace = now() + DISCONNECT_GRACE;
        if self.wait_until(|| grace, have_ended).await {
            return;
        }
        let left = of(&self.sessions);
        left.iter().for_each(|session| session.abort());
        let grace = now() + CUT_GRACE;
        if !self.wait_until(|| grace, have_ended).await {
            tracing::error!(
                sessions = of(&self.sessions).len(),
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
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.shutdown.report().is_none() {
            self.sessions.abandon_shutdown(&self.shutdown);
        }
    }
}
