//! The sessions by their secret id.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::id_hash::IdHash;
use super::observer::Observers;
use super::session::SharedSession;
use super::shutdown::{EndedSession, OngoingShutdown};
use crate::engine_io::timer::deadline;
use crate::engine_io::{CloseReason, SessionId, Transport};
use crate::notice::Notices;
use crate::shrink::shrink;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard, Notify, thread_cell};

/// All sessions of a server. A session is in the map as long as its task lives.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    /// The ids are random, so no client can choose ids that collide.
    map: Mutex<HashMap<SessionId, Arc<SharedSession>, IdHash>>,
    closing: AtomicBool,
    /// Whether [`Sessions::close`] was called.
    closes_now: AtomicBool,
    shutdown: Mutex<Option<Arc<OngoingShutdown>>>,
    /// Whether a session was opened, or a request passed through the layer.
    used: AtomicBool,
    /// The sessions whose handlers wait in [`Sessions::close`], and how often each of them does.
    closers: Mutex<HashMap<u64, usize>>,
    /// Notified when a server that closes has one session less to wait for.
    changed: Notify,
    max: Option<usize>,
    /// The path of the HTTP requests.
    pub(crate) path: Box<str>,
    /// The kinds of notices that this server has logged.
    pub(crate) notices: Arc<Notices>,
    /// The observers of the server.
    pub(crate) observers: Observers,
}

/// The number of the next session. All servers of the process share the numbers, which start at 1.
static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);

thread_cell! {
    /// The number of the session whose task runs on this thread, or 0.
    static CURRENT: u64 = 0
}

impl Sessions {
    pub(crate) fn new(max: Option<usize>, path: &str) -> Self {
        Self {
            max,
            path: path.into(),
            ..Self::default()
        }
    }

    pub(crate) fn with_observers(self, observers: Observers) -> Self {
        Self { observers, ..self }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<SharedSession>, IdHash>> {
        self.map.lock()
    }

    /// Returns the number of the next session, for the log and for [`Sessions::close`].
    pub(crate) fn next_number(&self) -> u64 {
        self.mark_used();
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns whether the server has as many sessions as it may have.
    pub(crate) fn is_full(&self) -> bool {
        self.max.is_some_and(|max| self.len() >= max)
    }

    /// Returns whether the server accepts no further session because it closes or shuts down.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Accepts no further session.
    pub(super) fn refuse_new(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Records that a request reached the server or passed through it.
    pub(crate) fn mark_used(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// Returns whether no session was opened, no request passed, and the server was not closed.
    pub(crate) fn is_unused(&self) -> bool {
        !self.used.load(Ordering::Relaxed) && !self.is_closing()
    }

    /// Adds a session, which is removed when the guard is dropped. If the server is closing, the
    /// session is closed at once.
    pub(crate) fn insert(self: &Arc<Self>, session: Arc<SharedSession>) -> SessionGuard {
        self.lock()
            .insert(session.sid().clone(), Arc::clone(&session));
        if self.is_closing() {
            session.close(CloseReason::Shutdown);
        }
        SessionGuard {
            sessions: Arc::clone(self),
            session,
        }
    }

    /// Returns the session with this id, and its transport, if the session accepts requests.
    pub(crate) fn find(&self, sid: &str) -> Option<(Arc<SharedSession>, Transport)> {
        let session = self.lock().get(sid).cloned()?;
        let transport = session.open_transport()?;
        Some((session, transport))
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Returns all sessions.
    pub(crate) fn all(&self) -> Vec<Arc<SharedSession>> {
        self.lock().values().cloned().collect()
    }

    /// Closes all sessions, accepts no further one, and waits until their tasks have ended.
    ///
    /// A handler that calls it does not wait for its own session, nor for the sessions of other
    /// handlers that wait here: those sessions end when the handlers do. `within` is the number of
    /// the session that the caller is known to belong to, wherever the caller runs.
    pub(crate) async fn close(&self, within: Option<u64>) {
        self.closes_now.store(true, Ordering::Release);
        self.refuse_new();
        if let Some(shutdown) = self.shutdown() {
            shutdown.close_now();
        }
        for session in self.all() {
            session.shut_down();
        }
        let closer = self.close_caller(within);
        loop {
            let changed = self.changed.notified();
            if self.has_ended(closer.is_some()) {
                return;
            }
            changed.await;
        }
    }

    /// Records the session of the handler that calls, if a handler calls. Then no one waits for
    /// that session until the result is dropped.
    pub(super) fn close_caller(&self, within: Option<u64>) -> Option<CloseCaller<'_>> {
        let closer = within.or_else(|| self.current());
        closer.map(|number| CloseCaller::new(self, number))
    }

    /// Returns the shutdown that has begun.
    pub(super) fn shutdown(&self) -> Option<Arc<OngoingShutdown>> {
        self.shutdown.lock().clone()
    }

    /// Returns the shutdown, and whether this call has begun it.
    pub(super) fn shutdown_or_insert(
        &self,
        begin: impl FnOnce() -> OngoingShutdown,
    ) -> (Arc<OngoingShutdown>, bool) {
        let mut shutdown = self.shutdown.lock();
        let is_first = shutdown.is_none();
        let shutdown = shutdown.get_or_insert_with(|| Arc::new(begin()));
        (Arc::clone(shutdown), is_first)
    }

    /// Forgets a shutdown whose task was dropped, so that a further call begins another one.
    pub(super) fn abandon_shutdown(&self, abandoned: &Arc<OngoingShutdown>) {
        let mut shutdown = self.shutdown.lock();
        let is_current = shutdown
            .as_ref()
            .is_some_and(|each| Arc::ptr_eq(each, abandoned));
        if is_current {
            *shutdown = None;
        }
        drop(shutdown);
        abandoned.abandon();
        self.changed.notify_waiters();
    }

    /// Completes the report of a shutdown with the sessions that have not ended: those that could
    /// not be cut, and those of handlers that wait for the report.
    pub(super) fn complete(&self, shutdown: &OngoingShutdown) {
        let map = self.lock();
        let cut = map.values().filter(|session| session.is_cut()).count();
        shutdown.complete(cut, map.len() - cut);
        drop(map);
        self.changed.notify_waiters();
    }

    /// Returns until when the handlers of a session that is shut down may answer.
    pub(crate) fn answer_deadline(&self, now: Instant, close_timeout: Duration) -> Instant {
        let soon = deadline(now, close_timeout);
        match self.shutdown() {
            None => soon,
            Some(shutdown) if self.closes_now.load(Ordering::Acquire) => {
                soon.min(shutdown.times().deadline)
            }
            Some(shutdown) => shutdown.times().deadline,
        }
    }

    /// Returns what is notified when a server that closes has one session less to wait for.
    pub(super) fn changed(&self) -> &Notify {
        &self.changed
    }

    /// Returns whether all sessions have ended but those of handlers that wait for that.
    pub(super) fn has_ended_but_for_closers(&self) -> bool {
        self.has_ended(true)
    }

    /// Returns all sessions but those of handlers that wait for the end of the others.
    pub(super) fn all_but_closers(&self) -> Vec<Arc<SharedSession>> {
        let closers = self.closers().keys().copied().collect::<Vec<_>>();
        let mut sessions = self.all();
        sessions.retain(|session| !closers.contains(&session.number));
        sessions
    }

    /// Returns whether [`Sessions::close`] has no session left to wait for.
    fn has_ended(&self, in_handler: bool) -> bool {
        if !in_handler {
            return self.is_empty();
        }
        let closers = self.closers().keys().copied().collect::<Vec<_>>();
        let map = self.lock();
        map.values()
            .all(|session| closers.contains(&session.number))
    }

    fn closers(&self) -> MutexGuard<'_, HashMap<u64, usize>> {
        self.closers.lock()
    }

    /// Returns the number of the session whose task runs on this thread, if this server has it.
    fn current(&self) -> Option<u64> {
        let number = CURRENT.get();
        let map = self.lock();
        let is_ours = map.values().any(|session| session.number == number);
        is_ours.then_some(number)
    }
}

/// A session whose handler waits until the other sessions have ended.
pub(super) struct CloseCaller<'a> {
    sessions: &'a Sessions,
    number: u64,
}

impl<'a> CloseCaller<'a> {
    fn new(sessions: &'a Sessions, number: u64) -> Self {
        *sessions.closers().entry(number).or_default() += 1;
        // Handlers of other sessions no longer wait for this one.
        sessions.changed.notify_waiters();
        Self { sessions, number }
    }
}

impl Drop for CloseCaller<'_> {
    fn drop(&mut self) {
        let mut closers = self.sessions.closers();
        let count = closers.entry(self.number).or_default();
        *count = count.saturating_sub(1);
        if *count == 0 {
            closers.remove(&self.number);
        }
    }
}

/// Marks a session's task as the one that runs on this thread. Dropping it removes the mark.
pub(crate) struct CurrentSession(u64);

impl Drop for CurrentSession {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

/// A session's entry in [`Sessions`]. Dropping it removes the session.
#[derive(Debug)]
pub(crate) struct SessionGuard {
    sessions: Arc<Sessions>,
    session: Arc<SharedSession>,
}

impl SessionGuard {
    /// Marks the session's task as the one that runs on this thread. The task holds the result
    /// while it runs.
    pub(crate) fn run(&self) -> CurrentSession {
        CurrentSession(CURRENT.replace(self.session.number))
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        // The runtime may have dropped the task before its end. Closing the session lets its
        // sockets and the tasks that wait for it see that.
        self.session.abandon();
        let closing = self.sessions.is_closing();
        let shutdown = closing.then(|| self.sessions.shutdown()).flatten();
        let ended = EndedSession::new(&self.session);
        let mut map = self.sessions.lock();
        map.remove(self.session.sid());
        if let Some(shutdown) = shutdown {
            shutdown.count(&ended);
        }
        shrink(&mut *map);
        drop(map);
        if self.sessions.is_closing() {
            self.sessions.changed.notify_waiters();
        }
    }
}
