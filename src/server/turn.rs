//! How many events a session's task handles before other tasks run.

use std::sync::Weak;
use std::task::Context;
use std::time::{Duration, Instant};

use crate::clock::now;
use crate::hub::fanout::take_behind;
use crate::hub::namespace::LiveNamespace;

/// The turns of a session: the events that one poll of its task handles.
///
/// A client can send thousands of events at once, and a handler may need a millisecond for each. So a
/// turn ends after [`TURN`], and the task is polled again after the other ready tasks. A turn also ends
/// when a handler has added to a broadcast queue that is [behind](LiveNamespace::poll_caught_up). The
/// session then handles no further event until the queue has caught up.
#[derive(Default)]
pub(super) struct Turn {
    events: u32,
    begin: Option<Instant>,
    is_endless: bool,
    is_over: bool,
    /// Whether the turn handles no event, because the session waits for a queue.
    waits: bool,
    behind: Option<Weak<LiveNamespace>>,
    /// The task's place among those that are woken when that queue has caught up.
    ticket: Option<u64>,
}

/// The time of a turn.
const TURN: Duration = Duration::from_millis(1);

/// The length of a message whose decoding is a turn of its own.
const LARGE: usize = 64 * 1024;

/// After how many events the clock is read.
const EVENTS: u32 = 4;

impl Turn {
    /// Begins a turn. The last one of a session is endless: it handles all events that have arrived.
    #[inline]
    pub(super) fn begin(&mut self, is_last: bool, cx: &Context<'_>) {
        // A task that ran on this thread before may have left its mark.
        drop(take_behind());
        self.events = 0;
        self.begin = None;
        self.is_endless = is_last;
        self.waits = !is_last && self.behind.is_some() && self.must_wait(cx);
        self.is_over = self.waits;
    }

    /// Whether the turn ended before all events were handled, so that the task must be polled again
    /// after the other ready tasks.
    #[inline]
    pub(super) fn goes_on(&self) -> bool {
        self.is_over && !self.waits
    }

    #[inline]
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
            self.ticket = None;
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

    #[cold]
    fn must_wait(&mut self, cx: &Context<'_>) -> bool {
        let queue = self.behind.as_ref().and_then(Weak::upgrade);
        let waits =
            queue.is_some_and(|queue| queue.poll_caught_up(cx, &mut self.ticket).is_pending());
        if !waits {
            self.behind = None;
            self.ticket = None;
        }
        waits
    }
}
