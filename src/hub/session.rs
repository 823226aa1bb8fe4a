//! A session that several tasks share: its own task, its HTTP requests, and all tasks that emit.
//!
//! | file | the functions for |
//! |---|---|
//! | [`send`] | senders: the tasks that send, read the state, or end the session |
//! | [`polling`] | HTTP requests: polls, POSTs and upgrades |
//! | [`task`] | the session's task, and the reader of its events |

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Instant;

use hyper::upgrade::OnUpgrade;

pub(crate) use self::task::{AfterRound, RoundStart};
use super::budget::Budget;
use super::observer::Observers;
use super::request::StoredRequest;
use super::spans::OptionalSpan;
use crate::clock::now;
use crate::engine_io::{Config, Session, SessionId, SessionParams};
use crate::notice::Notices;
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU32};
use crate::sync::{Handle, Mutex, MutexGuard};

mod polling;
mod send;
mod task;

/// A session, and the wakers of the tasks that wait for it. Its lock is held for a few lines, and
/// no other lock is taken under it.
#[derive(Debug)]
pub(crate) struct SharedSession {
    shared: Mutex<Shared>,
    sid: SessionId,
    /// The session's number in the log, where the secret id must not appear.
    pub(crate) number: u64,
    /// The runtime of the session's task.
    pub(super) runtime: Handle,
    pub(crate) config: Arc<Config>,
    pub(crate) notices: Arc<Notices>,
    pub(crate) observers: Observers,
    /// The span of the session.
    pub(crate) span: OptionalSpan,
    /// When the session was opened.
    pub(crate) opened: Instant,
    pub(crate) request: StoredRequest,
    pub(crate) params: SessionParams,
    /// The bytes that the session's sockets keep.
    pub(crate) budget: Budget,
    /// The [`End`] that the session's task has to carry out, or 0.
    end: AtomicU8,
    is_cut: AtomicBool,
    /// The number of handlers that were dropped because the session was cut.
    handlers_cut: AtomicU32,
    /// Whether a socket of the session has, or had, a deadline.
    has_deadlines: AtomicBool,
}

/// The state that the lock of a [`SharedSession`] protects.
#[derive(Debug)]
struct Shared {
    session: Session,
    /// The session's task, while it sleeps. A running task need not be woken.
    task_waker: Option<Waker>,
    /// The poll that waits for packets.
    poll_waker: Option<Waker>,
    /// Tasks that wait until the session reads input.
    input_wakers: Vec<Waker>,
    /// Tasks that wait until all output is sent.
    drain_wakers: Vec<Waker>,
    /// The task that waits for an event in [`SharedSession::poll_event`].
    reader_waker: Option<Waker>,
    /// The POST whose body is still arriving.
    body_waker: Option<Waker>,
    websocket: Option<Upgrade>,
    /// The buffered bytes that the observers know of. `None` if the session has ended.
    known_buffered: Option<usize>,
}

/// How the application ends a session and all its sockets. Later ones are stronger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The server disconnects all sockets of the session.
    DisconnectAll = 1,
    /// The server shuts down.
    Shutdown,
    /// The server has shut down, and the session has not ended in time: its handlers are dropped,
    /// and its disconnect handlers run.
    Cut,
    /// They have not ended in time either: they are dropped.
    Abort,
}

/// A WebSocket that the session's task has not taken over yet.
#[derive(Debug)]
pub(crate) struct Upgrade {
    pub(crate) stream: OnUpgrade,
    /// Whether compression was negotiated.
    pub(crate) deflate: bool,
}

impl SharedSession {
    /// Opens a session. The caller must be in the runtime where the session's task is to run.
    pub(crate) fn open(
        config: Arc<Config>,
        notices: Arc<Notices>,
        observers: Observers,
        sid: SessionId,
        number: u64,
        params: SessionParams,
        request: StoredRequest,
    ) -> Self {
        let now = now();
        let session = Session::open(
            Arc::clone(&config),
            &sid,
            params.transport,
            params.revision,
            now,
        );
        Self {
            shared: Mutex::new(Shared {
                session,
                task_waker: None,
                poll_waker: None,
                input_wakers: Vec::new(),
                drain_wakers: Vec::new(),
                reader_waker: None,
                body_waker: None,
                websocket: None,
                known_buffered: Some(0),
            }),
            sid,
            number,
            runtime: Handle::current(),
            config,
            notices,
            observers,
            span: OptionalSpan::default(),
            opened: now,
            request,
            params,
            budget: Budget::default(),
            end: AtomicU8::new(0),
            is_cut: AtomicBool::new(false),
            handlers_cut: AtomicU32::new(0),
            has_deadlines: AtomicBool::new(false),
        }
    }

    pub(crate) fn sid(&self) -> &SessionId {
        &self.sid
    }

    /// Reports a change of the buffered bytes to the observers.
    fn notify_buffered(&self, change: i64) {
        if change != 0 {
            let observers = &self.observers;
            observers.each(|observer| observer.buffered_changed(change));
        }
    }

    #[inline]
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock()
    }

    /// Changes the session, and wakes the tasks that the change has made ready.
    fn update<R>(&self, change: impl FnOnce(&mut Session, Instant) -> R) -> R {
        let now = now();
        let mut shared = self.lock();
        let snapshot = shared.snapshot();
        let result = change(&mut shared.session, now);
        let wakers = shared.take_wakers_since(&snapshot);
        drop(shared);
        wake(wakers);
        result
    }
}

impl Shared {
    /// Returns by how much the buffered bytes have changed since the last call.
    fn take_buffered_change(&mut self) -> i64 {
        let now = self.session.buffered_bytes();
        match &mut self.known_buffered {
            Some(known) => now as i64 - std::mem::replace(known, now) as i64,
            None => 0,
        }
    }

    #[inline]
    fn snapshot(&self) -> Snapshot {
        Snapshot {
            event_count: self.session.event_count(),
            due: self.session.poll_timeout(),
        }
    }

    /// Takes the wakers of the session's task, the poll and the reader: each of them only if it has
    /// something to do after the changes since `snapshot`.
    #[inline]
    fn take_wakers_since(&mut self, snapshot: &Snapshot) -> [Option<Waker>; 3] {
        let event_count = self.session.event_count() != snapshot.event_count;
        let due = self.session.poll_timeout() != snapshot.due;
        let task = event_count || due || self.session.has_output() || self.websocket.is_some();
        let task = task.then(|| self.task_waker.take()).flatten();
        let poll = self.session.has_poll_output();
        let poll = poll.then(|| self.poll_waker.take()).flatten();
        let reader = event_count.then(|| self.reader_waker.take()).flatten();
        [task, poll, reader]
    }

    /// Takes the wakers of the tasks whose condition is met: the session reads input, or all output
    /// is sent.
    #[inline]
    fn take_ready_wakers(&mut self) -> Vec<Waker> {
        if self.input_wakers.is_empty() && self.drain_wakers.is_empty() {
            return Vec::new();
        }
        self.collect_ready()
    }

    #[cold]
    fn collect_ready(&mut self) -> Vec<Waker> {
        let mut ready = Vec::new();
        if !self.input_wakers.is_empty() && self.session.wants_read() {
            ready.append(&mut self.input_wakers);
        }
        if !self.drain_wakers.is_empty() && self.session.is_drained() {
            ready.append(&mut self.drain_wakers);
        }
        ready
    }
}

/// The state of a session before a change, for [`Shared::take_wakers_since`].
struct Snapshot {
    event_count: u64,
    due: Option<Instant>,
}

fn register(list: &mut Vec<Waker>, cx: &Context<'_>) {
    if !list.iter().any(|each| each.will_wake(cx.waker())) {
        list.push(cx.waker().clone());
    }
}

fn wake(wakers: impl IntoIterator<Item = Option<Waker>>) {
    wakers.into_iter().flatten().for_each(Waker::wake);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine_io::{Revision, Transport};

    #[tokio::test]
    async fn of_several_requested_ends_the_strongest_counts() {
        let request = http::Request::new(()).into_parts().0;
        let params = SessionParams {
            transport: Transport::Polling,
            revision: Revision::V4,
            base64: false,
            jsonp: false,
        };
        let session = SharedSession::open(
            Arc::default(),
            Arc::default(),
            Observers::default(),
            SessionId::new([0; 16]),
            1,
            params,
            StoredRequest::new(request),
        );
        assert_eq!(session.take_end(), None);
        session.disconnect_all();
        assert_eq!(session.take_end(), Some(End::DisconnectAll));
        session.cut();
        session.shut_down();
        session.disconnect_all();
        assert_eq!(session.take_end(), Some(End::Cut));
        session.abort();
        session.cut();
        assert_eq!(session.take_end(), Some(End::Abort));
        assert_eq!(session.take_end(), None);
        assert!(session.is_cut());
    }
}
