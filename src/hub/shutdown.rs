//! The shutdown of all sessions, spread over a time and with a deadline.
//!
//! ```text
//! begun            the last session is closed             deadline
//!   │◀────────────── spread ──────────────▶│                  │
//!   ├─ closed, one after another ──────────┤                  │
//!   ├─ handlers that run may end ──────────┴─────────────────▶│ what is left is cut
//! ```

use std::fmt;
use std::time::{Duration, Instant};

use super::session::SharedSession;
use crate::clock::now;
use crate::engine_io::CloseReason;
use crate::engine_io::timer::deadline;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, Notify};

/// The result of a shutdown: how the sessions ended.
///
/// A session is counted once. `Display` writes all numbers in one line.
///
/// ```
/// # async fn f(io: tower_socketio::SocketIo) {
/// let report = io.shutdown().await;
/// println!("{report}");
/// if report.handlers_cut > 0 {
///     println!("the deadline is too early for some handlers");
/// }
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// The sessions that ended before the server closed them: the client left, or was lost.
    pub ended: usize,
    /// The sessions that the server closed, and that ended before the deadline.
    pub closed: usize,
    /// The sessions that had not ended at the deadline.
    pub cut: usize,
    /// The handlers that were dropped: those that had not ended at the deadline, and disconnect
    /// handlers that had not ended one second after it.
    pub handlers_cut: usize,
    /// The time from the first call to the end.
    pub duration: Duration,
}

impl fmt::Display for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            ended,
            closed,
            cut,
            handlers_cut,
            duration,
        } = self;
        write!(
            f,
            "{closed} sessions closed, {ended} ended by themselves, {cut} cut with {handlers_cut} \
             handlers, in {duration:.1?}"
        )
    }
}

/// A shutdown that has begun.
#[derive(Debug)]
pub(super) struct OngoingShutdown {
    pub(super) begun: Instant,
    times: Mutex<Times>,
    /// Notified when [`Times`] has changed.
    pub(super) hurried: Notify,
    progress: Mutex<Progress>,
    is_abandoned: AtomicBool,
}

#[derive(Debug, Default)]
struct Progress {
    /// What has ended so far.
    report: ShutdownReport,
    /// Whether the report is complete.
    is_complete: bool,
}

/// How a session has ended.
pub(super) struct EndedSession {
    reason: Option<CloseReason>,
    is_cut: bool,
    handlers_cut: usize,
}

impl EndedSession {
    pub(super) fn new(session: &SharedSession) -> Self {
        Self {
            reason: session.close_reason(),
            is_cut: session.is_cut(),
            handlers_cut: session.handlers_cut(),
        }
    }
}

/// When a shutdown is to have closed the last session, and when it cuts the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) last_close: Instant,
    pub(super) deadline: Instant,
}

impl Times {
    /// The spread is at most half of the time, so that the last sessions have time to end.
    pub(super) fn new(now: Instant, spread: Duration, within: Duration) -> Self {
        Self {
            last_close: deadline(now, spread.min(within / 2)),
            deadline: deadline(now, within),
        }
    }

    /// Returns the earlier of both in each respect.
    fn min(self, other: Self) -> Self {
        Self {
            last_close: self.last_close.min(other.last_close),
            deadline: self.deadline.min(other.deadline),
        }
    }
}

/// Spreads the closing of sessions evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    from: Instant,
    spread: Duration,
    total: usize,
    pub(super) closed: usize,
}

impl Pace {
    pub(super) fn new(from: Instant, last_close: Instant, total: usize) -> Self {
        Self {
            from,
            spread: last_close.saturating_duration_since(from),
            total,
            closed: 0,
        }
    }

    /// Returns when the next session is to be closed.
    pub(super) fn next(&self) -> Option<Instant> {
        if self.closed == self.total {
            return None;
        }
        // The last one is closed at the end of the spread.
        let parts = (self.total - 1).max(1) as u128;
        let after = self.spread.as_nanos() * self.closed as u128 / parts;
        // It is at most `spread`, which is at most thirty years.
        Some(self.from + Duration::from_nanos(u64::try_from(after).unwrap_or(u64::MAX)))
    }

    /// Spreads the sessions that are left evenly over a shorter time.
    pub(super) fn hurry(&mut self, now: Instant, last_close: Instant) {
        if last_close < self.from + self.spread {
            *self = Self::new(now, last_close, self.total - self.closed);
        }
    }
}

impl OngoingShutdown {
    pub(super) fn new(times: Times) -> Self {
        Self {
            begun: now(),
            times: Mutex::new(times),
            hurried: Notify::new(),
            progress: Mutex::default(),
            is_abandoned: AtomicBool::new(false),
        }
    }

    /// Lets the shutdown end earlier. It never ends later than planned.
    pub(super) fn hurry(&self, times: Times) {
        let mut planned = self.times.lock();
        *planned = planned.min(times);
        drop(planned);
        self.hurried.notify_waiters();
    }

    /// Closes the remaining sessions at once. The deadline stays.
    pub(super) fn close_now(&self) {
        let deadline = self.times().deadline;
        let last_close = now();
        self.hurry(Times {
            last_close,
            deadline,
        });
    }

    pub(super) fn times(&self) -> Times {
        *self.times.lock()
    }

    /// Counts a session that has ended.
    ///
    /// The caller holds the lock of the sessions, from which it removes this one. So no session is
    /// counted here and in [`complete`](Self::complete).
    pub(super) fn count(&self, ended: &EndedSession) {
        let mut progress = self.progress.lock();
        if progress.is_complete {
            return;
        }
        let report = &mut progress.report;
        report.handlers_cut += ended.handlers_cut;
        match ended.reason {
            _ if ended.is_cut => report.cut += 1,
            Some(CloseReason::Shutdown) => report.closed += 1,
            _ => report.ended += 1,
        }
    }

    /// Completes the report, once, under the lock of the sessions. `cut` and `closed` are the numbers of sessions that have not
    /// ended.
    pub(super) fn complete(&self, cut: usize, closed: usize) {
        let mut progress = self.progress.lock();
        if !progress.is_complete {
            progress.is_complete = true;
            progress.report.cut += cut;
            progress.report.closed += closed;
            progress.report.duration = now().duration_since(self.begun);
        }
    }

    /// Records that the task of the shutdown was dropped before its end.
    pub(super) fn abandon(&self) {
        self.is_abandoned.store(true, Ordering::Release);
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Ordering::Acquire)
    }

    /// Returns the report, if it is complete.
    pub(super) fn report(&self) -> Option<ShutdownReport> {
        let progress = self.progress.lock();
        progress.is_complete.then_some(progress.report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Returns when each session is closed, in milliseconds after the first.
    fn plan(mut pace: Pace) -> Vec<u128> {
        let mut times = Vec::new();
        while let Some(next) = pace.next() {
            pace.closed += 1;
            times.push(next.duration_since(pace.from).as_millis());
        }
        times
    }

    #[test]
    fn sessions_are_spread_evenly_over_the_whole_time() {
        let from = now();
        let pace = |total, spread| Pace::new(from, from + spread, total);
        assert_eq!(plan(pace(5, SECOND)), [0, 250, 500, 750, 1000]);
        assert_eq!(plan(pace(2, SECOND)), [0, 1000]);
        assert_eq!(plan(pace(1, SECOND)), [0]);
        assert_eq!(plan(pace(0, SECOND)), []);
        assert_eq!(plan(pace(3, Duration::ZERO)), [0, 0, 0]);
    }

    #[test]
    fn a_long_spread_and_many_sessions_do_not_overflow() {
        let from = now();
        let mut pace = Pace::new(from, deadline(from, Duration::MAX), usize::MAX);
        pace.closed = usize::MAX - 1;
        assert_eq!(pace.next(), Some(deadline(from, Duration::MAX)));
    }

    #[test]
    fn the_rest_is_spread_over_a_shorter_time() {
        let from = now();
        let mut pace = Pace::new(from, from + 10 * SECOND, 5);
        pace.closed = 2;
        let before = pace;
        pace.hurry(from + SECOND, from + 10 * SECOND);
        assert_eq!(pace, before);
        pace.hurry(from + 4 * SECOND, from + 6 * SECOND);
        assert_eq!(pace.from, from + 4 * SECOND);
        assert_eq!(plan(pace), [0, 1000, 2000]);
        pace.hurry(from + 5 * SECOND, from + 5 * SECOND);
        assert_eq!(plan(pace), [0, 0, 0]);
    }

    #[test]
    fn a_spread_takes_at_most_half_of_the_time() {
        let begun = now();
        let times = Times::new(begun, 8 * SECOND, 10 * SECOND);
        assert_eq!(times.last_close, begun + 5 * SECOND);
        assert_eq!(times.deadline, begun + 10 * SECOND);
        let times = Times::new(begun, 3 * SECOND, Duration::MAX);
        assert_eq!(times.last_close, begun + 3 * SECOND);
        let times = Times::new(begun, SECOND, Duration::ZERO);
        assert_eq!((times.last_close, times.deadline), (begun, begun));
    }

    #[test]
    fn times_only_become_earlier() {
        let begun = now();
        let shutdown = OngoingShutdown::new(Times::new(begun, 2 * SECOND, 10 * SECOND));
        shutdown.hurry(Times::new(begun, SECOND, 60 * SECOND));
        let expected = Times {
            last_close: begun + SECOND,
            deadline: begun + 10 * SECOND,
        };
        assert_eq!(shutdown.times(), expected);
    }

    #[test]
    fn a_report_is_one_line() {
        let report = ShutdownReport {
            ended: 1,
            closed: 200,
            cut: 3,
            handlers_cut: 4,
            duration: Duration::from_millis(2_040),
        };
        assert_eq!(
            report.to_string(),
            "200 sessions closed, 1 ended by themselves, 3 cut with 4 handlers, in 2.0s"
        );
    }
}
