//! The functions for the session's task, and for the reader of its events.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::{End, SharedSession, Upgrade, wake};
use crate::engine_io::{CloseReason, Session, SessionEvent};
use crate::sync::atomic::Ordering;

impl SharedSession {
    /// Begins a round of the session's task. Drops the task's waker: a running task need not be
    /// woken.
    pub(crate) fn begin_round(&self) -> RoundStart {
        let mut shared = self.lock();
        shared.task_waker = None;
        RoundStart {
            event_count: shared.session.event_count(),
            has_events: shared.session.has_events(),
            wants_frames: shared.session.wants_frames(),
            websocket: shared.websocket.take(),
        }
    }

    /// Runs `act` on the session, for the session's task. Wakes no task.
    // Inlining these two saves 70 instructions for each round of a task.
    #[inline(always)]
    pub(crate) fn with_session<R>(&self, act: impl FnOnce(&mut Session) -> R) -> R {
        act(&mut self.lock().session)
    }

    /// Moves all events to `events`, credits `consumed` bytes to the session, and wakes the tasks
    /// that wait until the session reads input.
    pub(crate) fn take_events(&self, events: &mut VecDeque<SessionEvent>, consumed: usize) {
        let mut shared = self.lock();
        shared.session.handle_consumed(consumed);
        shared.session.take_events(events);
        let ready = shared.take_ready_wakers();
        drop(shared);
        ready.into_iter().for_each(Waker::wake);
    }

    /// Returns whether a socket of the session may have a deadline.
    #[inline]
    pub(crate) fn has_deadlines(&self) -> bool {
        self.has_deadlines.load(Ordering::Acquire)
    }

    /// Returns the end that was requested since the last call.
    pub(crate) fn take_end(&self) -> Option<End> {
        if self.end.load(Ordering::Acquire) == 0 {
            return None;
        }
        match self.end.swap(0, Ordering::AcqRel) {
            end if end == End::DisconnectAll as u8 => Some(End::DisconnectAll),
            end if end == End::Shutdown as u8 => Some(End::Shutdown),
            end if end == End::Cut as u8 => Some(End::Cut),
            end if end == End::Abort as u8 => Some(End::Abort),
            _ => None,
        }
    }

    /// Returns whether the session was cut.
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Acquire)
    }

    /// Counts handlers that were dropped because the session was cut.
    pub(crate) fn add_handlers_cut(&self, handlers: usize) {
        let handlers = u32::try_from(handlers).unwrap_or(u32::MAX);
        self.handlers_cut.fetch_add(handlers, Ordering::Relaxed);
    }

    pub(in crate::hub) fn handlers_cut(&self) -> usize {
        self.handlers_cut.load(Ordering::Relaxed) as usize
    }

    /// Returns the next event, for a reader in any task.
    pub(crate) fn poll_event(&self, cx: &Context<'_>) -> Poll<SessionEvent> {
        let mut shared = self.lock();
        let Some(event) = shared.session.poll_event() else {
            // The last event was returned before.
            if let Some(reason) = shared.session.close_reason() {
                return Poll::Ready(SessionEvent::Closed(reason));
            }
            shared.reader_waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        if let SessionEvent::Message(message) = &event {
            shared.session.handle_consumed(Session::cost(message));
        }
        let ready = shared.take_ready_wakers();
        // The session may want input again. Its task reads the input.
        let task = shared.task_waker.take();
        drop(shared);
        wake([task]);
        ready.into_iter().for_each(Waker::wake);
        Poll::Ready(event)
    }

    /// Handles the timers of the session that are due, and wakes the poll if a timer has released
    /// the poll.
    pub(crate) fn handle_timeout(&self) {
        self.update(|session, now| session.handle_timeout(now));
    }

    /// Wakes the reader of the events, if the reader runs outside of the session's task. `cx` is
    /// the context of the session's task.
    pub(crate) fn wake_reader(&self, cx: &Context<'_>) {
        let is_outside = |reader: &mut Waker| !reader.will_wake(cx.waker());
        let reader = self.lock().reader_waker.take_if(is_outside);
        wake([reader]);
    }

    /// Lets the session's task sleep: stores the task's waker, and returns [`AfterRound::Idle`].
    ///
    /// If `look` returns another value, or if a WebSocket waits for the task, stores no waker, and
    /// returns the reason why the task must not sleep.
    #[inline(always)]
    pub(crate) fn try_sleep(
        &self,
        cx: &Context<'_>,
        look: impl FnOnce(&Session) -> AfterRound,
    ) -> AfterRound {
        let mut shared = self.lock();
        match look(&shared.session) {
            AfterRound::Idle if shared.websocket.is_some() => return AfterRound::Busy,
            AfterRound::Idle => {}
            other => return other,
        }
        let buffered = match self.observers.is_empty() {
            true => 0,
            false => shared.take_buffered_change(),
        };
        let ready = shared.take_ready_wakers();
        shared.task_waker = Some(cx.waker().clone());
        // The task may have released the poll: an upgrade packet, which the task reads, does so.
        let poll = shared
            .session
            .has_poll_output()
            .then(|| shared.poll_waker.take());
        drop(shared);
        self.notify_buffered(buffered);
        wake(poll);
        ready.into_iter().for_each(Waker::wake);
        AfterRound::Idle
    }

    /// Closes a session whose task will not run any more, and wakes all tasks that wait for the
    /// session.
    pub(in crate::hub) fn abandon(&self) {
        self.close(CloseReason::TransportClose);
        let mut shared = self.lock();
        let mut ready = std::mem::take(&mut shared.input_wakers);
        ready.append(&mut shared.drain_wakers);
        let others = [
            shared.poll_waker.take(),
            shared.reader_waker.take(),
            shared.body_waker.take(),
        ];
        let buffered = shared.known_buffered.take().unwrap_or_default();
        let websocket = shared.websocket.take();
        drop(shared);
        drop(websocket);
        self.notify_buffered(-(buffered as i64));
        wake(others);
        ready.into_iter().for_each(Waker::wake);
    }
}

/// The state at the beginning of a round of the session's task. The reads of the round update it.
pub(crate) struct RoundStart {
    /// [`Session::event_count`] at the beginning of the round, then after each read.
    pub(crate) event_count: u64,
    /// Whether the session has events.
    pub(crate) has_events: bool,
    /// [`Session::wants_frames`] at the beginning of the round.
    pub(crate) wants_frames: bool,
    pub(crate) websocket: Option<Upgrade>,
}

/// The state at the end of a round of the session's task.
pub(crate) enum AfterRound {
    /// The task has nothing to do until it is woken.
    Idle,
    /// The task has more to do.
    Busy,
    /// The task must set its timer to this time. The timer is not set, or is set to a later time.
    Due(Instant),
    /// The session is closed.
    Closed,
}
