//! How many events a session's task handles before other tasks run.

use std::sync::Weak;
use std::task::Context;
use std::time::{Duration, Instant};

use crate::clock::now;
use crate::hub::fanout::take_behind;
use crate::hub::namespace::LiveNamespace;

/// The events that one poll of a session's task handles.
///
/// A client can send thousands of events at once, and a handler may need a millisecond for each. So a
/// turn ends after [`TURN`], and the task is polled again after the other ready tasks. A turn also ends
/// when a handler has added to a broadcast queue that is [behind](LiveNamespace::poll_caught_up).
#[derive(Default)]
pub(super) struct Turn {
    events: u32,
    begin: Option<Instant>,
    is_endless: bool,
    is_over: bool,
    waits: bool,
    behind: Option<Weak<LiveNamespace>>,
}

/// The time of a turn.
const TURN: Duration = Duration::from_millis(1);

/// The length of a message whose decoding is a turn of its own.
const LARGE: usize = 64 * 1024;

/// After how many events the clock is read.
const EVENTS: u32 = 4;

impl Turn {
    /// A turn that handles all events that have arrived.
    fn endless() -> Self {
        Self {
            is_endless: true,
            ..Self::default()
        }
    }

    /// A turn that handles no event, because the session waits for a queue.
    fn waiting() -> Self {
        Self {
            is_over: true,
            waits: true,
            ..Self::default()
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Counts an event that was handled.
    #[inline]
    pub(super) fn count(&mut self) {
        self.events += 1;
        if self.events % EVENTS == 0 {
            self.look();
        }
        self.look_behind();
    }

    /// Ends the turn if a message of this many bytes was decoded, and returns whether it did. Its
    /// handler then runs in the next turn.
    #[inline]
    pub(super) fn ends_with(&mut self, bytes: usize) -> bool {
        if bytes > LARGE {
            self.end();
        }
        self.is_over
    }

    /// Ends the turn if a handler has added to a queue that is behind.
    #[inline]
    pub(super) fn look_behind(&mut self) {
        if let Some(behind) = take_behind() {
            self.behind = Some(behind);
            self.end();
        }
    }

    fn look(&mut self) {
        let now = now();
        let begin = *self.begin.get_or_insert(now);
        if now.duration_since(begin) >= TURN {
            self.end();
        }
    }

    fn end(&mut self) {
        self.is_over = !self.is_endless;
    }
}

/// The turns of one session. A session that has added to a queue which is behind handles no further
/// event until the queue has caught up.
#[derive(Default)]
pub(super) struct Turns {
    behind: Option<Weak<LiveNamespace>>,
    is_registered: bool,
}

impl Turns {
    /// Begins a turn, which is endless if the session is about to end.
    #[inline]
    pub(super) fn begin(&mut self, is_last: bool, cx: &Context<'_>) -> Turn {
        // A task that ran on this thread before may have left its mark.
        drop(take_behind());
        match is_last {
            true => Turn::endless(),
            false if self.behind.is_some() && self.must_wait(cx) => Turn::waiting(),
            false => Turn::default(),
        }
    }

    /// Ends a turn. Returns whether the task must be polled again.
    #[inline]
    pub(super) fn end(&mut self, turn: Turn) -> bool {
        if let Some(behind) = turn.behind {
            self.behind = Some(behind);
            self.is_registered = false;
        }
        turn.is_over && !turn.waits
    }

    #[cold]
    fn must_wait(&mut self, cx: &Context<'_>) -> bool {
        let queue = self.behind.as_ref().and_then(Weak::upgrade);
        let waits = queue.is_some_and(|queue| {
            queue
                .poll_caught_up(cx, &mut self.is_registered)
                .is_pending()
        });
        if !waits {
            *self = Self::default();
        }
        waits
    }
}
