//! The deadlines of a session.

use std::time::{Duration, Instant};

/// What counts as for ever: longer than a process lives, and no clock overflows by it.
const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// When a time that begins now is over. A time too long for the clock is over in thirty years.
pub(crate) fn deadline(now: Instant, after: Duration) -> Instant {
    now + finite(after)
}

/// A time that fits the clock: thirty years at most.
pub(crate) fn finite(time: Duration) -> Duration {
    time.min(FOR_EVER)
}

/// What can be due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// The next ping is to be sent.
    Ping,
    /// The pong is missing; in revision 3 the client's ping.
    Pong,
    /// The client has begun an upgrade and not ended it.
    Upgrade,
    /// A poll that waits while the client upgrades is to be released.
    Release,
    /// Bytes were given to the transport and do not leave.
    Stall,
    /// A POST waits for room.
    Post,
    /// The client was told of the end and does not hang up or poll.
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

/// When each timer is due.
#[derive(Clone, Debug, Default)]
pub(super) struct TimerTable {
    due: [Option<Instant>; Timer::ALL.len()],
    /// The nearest of them: it is asked for far more often than it changes.
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

    /// Takes out a timer that is due, and tells since when.
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
