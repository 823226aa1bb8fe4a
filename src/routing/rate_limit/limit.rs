//! How many events are allowed in which time.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use governor::Quota;
use governor::clock::Clock;

use crate::clock::now;

/// How many events are allowed in which time.
///
/// It is a bucket of tokens. Each event takes a token, and an event that finds none is refused. The
/// tokens come back one by one: with `per_second(10)` one every 100 ms. The bucket is full at first,
/// and holds as many tokens as [`burst`](Self::burst) says.
///
/// ```
/// use std::time::Duration;
/// use tower_socketio::rate_limit::RateLimit;
///
/// // 10 events at once, and one every 100 ms.
/// let limit = RateLimit::per_second(10);
///
/// // 30 events at once, and one every 100 ms.
/// let limit = RateLimit::per_second(10).burst(30);
///
/// // One event every 5 s.
/// let limit = RateLimit::new(1, Duration::from_secs(5));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct RateLimit {
    /// The time in which one token comes back.
    interval: Duration,
    burst: NonZeroU32,
}

impl RateLimit {
    /// Allows `n` events in each second.
    ///
    /// # Panics
    ///
    /// Panics if `n` is 0.
    #[track_caller]
    pub fn per_second(n: u32) -> Self {
        Self::new(n, Duration::from_secs(1))
    }

    /// Allows `n` events in each minute.
    ///
    /// # Panics
    ///
    /// Panics if `n` is 0.
    #[track_caller]
    pub fn per_minute(n: u32) -> Self {
        Self::new(n, Duration::from_secs(60))
    }

    /// Allows `n` events in each `period`.
    ///
    /// # Panics
    ///
    /// Panics if `n` or `period` is 0, or if the period is longer than 366 days.
    #[track_caller]
    pub fn new(n: u32, period: Duration) -> Self {
        let burst = events(n);
        assert!(!period.is_zero(), "the period of a rate limit is 0");
        // Governor counts whole nanoseconds.
        let interval = (period / n).max(Duration::from_nanos(1));
        Self { interval, burst }.checked()
    }

    /// Sets how many events are allowed at once, after a time without events.
    ///
    /// A client whose user clicks quickly, or whose connection was slow for a moment, needs a burst.
    ///
    /// Default: as many as are allowed in a period.
    ///
    /// # Panics
    ///
    /// Panics if `n` is 0, or if refilling `n` tokens takes more than 366 days.
    #[track_caller]
    pub fn burst(mut self, n: u32) -> Self {
        self.burst = events(n);
        self.checked()
    }

    /// Checks that no sum of times can overflow.
    #[track_caller]
    fn checked(self) -> Self {
        let full = self.interval.checked_mul(self.burst.get());
        assert!(
            full.is_some_and(|full| full <= YEAR),
            "a rate limit whose tokens come back in more than a year"
        );
        self
    }

    pub(super) fn quota(self) -> Quota {
        Quota::with_period(self.interval)
            .expect("the interval is not zero")
            .allow_burst(self.burst)
    }
}

const YEAR: Duration = Duration::from_secs(366 * 24 * 60 * 60);

#[track_caller]
fn events(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).expect("a rate limit of 0 events refuses all: use at least 1")
}

/// Tokio's clock, which tests may pause.
#[derive(Clone, Debug)]
pub(super) struct TokioClock;

impl Clock for TokioClock {
    type Instant = Instant;

    fn now(&self) -> Instant {
        now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_evenly() {
        let quota = RateLimit::per_second(10).quota();
        assert_eq!(quota.replenish_interval(), Duration::from_millis(100));
        assert_eq!(quota.burst_size().get(), 10);
        let quota = RateLimit::per_minute(6).burst(2).quota();
        assert_eq!(quota.replenish_interval(), Duration::from_secs(10));
        assert_eq!(quota.burst_size().get(), 2);
        let fast = RateLimit::per_second(u32::MAX).quota();
        assert_eq!(fast.replenish_interval(), Duration::from_nanos(1));
    }

    #[test]
    #[should_panic(expected = "use at least 1")]
    fn a_limit_of_zero_panics() {
        let _ = RateLimit::per_second(0);
    }

    #[test]
    #[should_panic(expected = "period of a rate limit is 0")]
    fn a_period_of_zero_panics() {
        let _ = RateLimit::new(1, Duration::ZERO);
    }

    #[test]
    #[should_panic(expected = "more than a year")]
    fn a_burst_that_never_comes_back_panics() {
        let _ = RateLimit::per_minute(1).burst(u32::MAX);
    }

    #[test]
    #[should_panic(expected = "more than a year")]
    fn a_period_without_end_panics() {
        let _ = RateLimit::new(1, Duration::MAX);
    }
}
