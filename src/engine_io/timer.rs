//! The deadlines of a session.

use std::time::{Duration, Instant};

/// The longest time that is used: longer than a process lives, and too short to overflow a clock.
const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// Returns the end of a time that begins now. A time that is too long for the clock ends in thirty
/// years.
pub(crate) fn deadline(now: Instant, after: Duration) -> Instant {
    now + finite(after)
}

/// Returns the earliest of some deadlines.
#[inline]
pub(crate) fn earliest<const N: usize>(deadlines: [Option<Instant>; N]) -> Option<Instant> {
    let earlier = |a: Option<Instant>, b: Option<Instant>| match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        _ => a.or(b),
    };
    deadlines.into_iter().fold(None, earlier)
}

/// Limits a time to thirty years, so that it fits the clock.
pub(crate) fn finite(time: Duration) -> Duration {
    time.min(FOR_EVER)
}

/// The timers of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// The time to send the next ping.
    Ping,
    /// The deadline of the pong. In revision 3, of the client's ping.
    Pong,
    /// The deadline of an upgrade that the client has begun.
    Upgrade,
    /// The time to release a poll that waits while the client upgrades.
    Release,
    /// The deadline of bytes that the transport holds and cannot write.
    Stall,
    /// The time to check a POST that waits for the end of backpressure.
    Post,
    /// The deadline of the close: of the client's last poll, or of its WebSocket's end.
    Close,
}

impl Timer {
    const ALL: [Self; 7] = [
        Self::Ping,
        Self::Pong,
        Self::Upgrade,
        Self::Release,
        Self::Stall,
        Self::Post,
        Self::Close,
    ];
}

/// The time at which each timer is due.
#[derive(Clone, Debug, Default)]
pub(super) struct TimerTable {
    due: [Option<Instant>; Timer::ALL.len()],
    /// The earliest of `due`, stored because it is read far more often than it changes.
    next: Option<Instant>,
}

impl TimerTable {
    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        self.change(timer, Some(at));
    }

    pub(super) fn stop(&mut self, timer: Timer) {
        if self.is_set(timer) {
            self.change(timer, None);
        }
    }

    fn change(&mut self, timer: Timer, at: Option<Instant>) {
        self.due[timer as usize] = at;
        self.next = self.due.iter().flatten().min().copied();
    }

    pub(super) fn is_set(&self, timer: Timer) -> bool {
        self.due[timer as usize].is_some()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn clear_but(&mut self, timer: Timer) {
        let at = self.due[timer as usize];
        self.clear();
        self.change(timer, at);
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Stops a timer that is due, and returns it with the time at which it was due.
    pub(super) fn expire(&mut self, now: Instant) -> Option<(Timer, Instant)> {
        self.next.filter(|next| *next <= now)?;
        let due = |timer: Timer| self.due[timer as usize].filter(|at| *at <= now);
        let (timer, at) = Timer::ALL
            .into_iter()
            .find_map(|timer| Some((timer, due(timer)?)))?;
        self.stop(timer);
        Some((timer, at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_is_too_long_or_too_short() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        assert_eq!(deadline(now, Duration::ZERO), now);
        assert_eq!(deadline(now, second), now + second);
        assert_eq!(deadline(now, Duration::MAX), now + FOR_EVER);
        let again = deadline(deadline(now, Duration::MAX), Duration::MAX);
        assert_eq!(again, now + 2 * FOR_EVER);
    }
}
