//! The deadlines of a session.

use std::time::Instant;

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
