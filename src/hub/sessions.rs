//! The sessions by their secret id.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

use super::rooms::IdHash;
use super::session::SharedSession;
use crate::engine_io::{CloseReason, SessionId, Transport};
use crate::notice::Notices;
use crate::sync::{Mutex, MutexGuard};

/// All sessions of a server. A session is in it as long as its task lives.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    /// The ids are random, so no client can choose such as fall together.
    map: Mutex<HashMap<SessionId, Arc<SharedSession>, IdHash>>,
    closing: AtomicBool,
    /// Whether there was a session or a request that passed.
    used: AtomicBool,
    /// The sessions whose own code waits for the end of all, each as often as it does.
    closers: Mutex<HashMap<u64, usize>>,
    /// Told when one of those that [`Sessions::close`] waits for is gone.
    changed: Notify,
    max: Option<usize>,
    /// What this server has logged before.
    pub(crate) notices: Arc<Notices>,
}

/// Sessions are numbered from 1, those of all servers of the process together.
static NEXT: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// The number of the session whose task runs on this thread, or 0.
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

impl Sessions {
    pub(crate) fn new(max: Option<usize>) -> Self {
        Self {
            max,
            ..Self::default()
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<SharedSession>, IdHash>> {
        self.map.lock()
    }

    /// A running number, for the log and for [`Sessions::close`].
    pub(crate) fn number(&self) -> u64 {
        self.mark_used();
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether no further session is taken.
    pub(crate) fn is_full(&self) -> bool {
        self.closing.load(Ordering::Acquire) || self.max.is_some_and(|max| self.len() >= max)
    }

    /// A request has come, for the server or through it.
    pub(crate) fn mark_used(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// Whether there has been neither a session nor a request that passed, and nobody wanted the
    /// end.
    pub(crate) fn is_unused(&self) -> bool {
        !self.used.load(Ordering::Relaxed) && !self.closing.load(Ordering::Acquire)
    }

    /// Takes a session in; it leaves when the guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>, session: Arc<SharedSession>) -> SessionGuard {
        self.lock()
            .insert(session.sid().clone(), Arc::clone(&session));
        if self.closing.load(Ordering::Acquire) {
            session.close(CloseReason::Shutdown);
        }
        SessionGuard {
            sessions: Arc::clone(self),
            session,
        }
    }

    /// The session that requests may name so, and the transport that it has.
    pub(crate) fn find(&self, sid: &str) -> Option<(Arc<SharedSession>, Transport)> {
        let session = self.lock().get(sid).cloned()?;
        let transport = session.open_transport()?;
        Some((session, transport))
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// All sessions that there are now.
    pub(crate) fn all(&self) -> Vec<Arc<SharedSession>> {
        self.lock().values().cloned().collect()
    }

    /// Closes all sessions, takes no further one, and waits until their tasks have ended.
    ///
    /// Called by a handler it does not wait for the handler's own session, nor for others whose
    /// handlers wait for the same: those end when the handlers do. `within` is the number of the
    /// session that the caller is known to belong to, wherever it is called.
    pub(crate) async fn close(&self, within: Option<u64>) {
        self.closing.store(true, Ordering::Release);
        for session in self.all() {
            session.shut_down();
        }
        let closer = within.or_else(|| self.current());
        let _closer = closer.map(|number| Closer::enter(self, number));
        loop {
            let changed = self.changed.notified();
            if self.has_ended(closer.is_some()) {
                return;
            }
            changed.await;
        }
    }

    /// Whether there is no session that [`Sessions::close`] has to wait for.
    fn has_ended(&self, in_handler: bool) -> bool {
        if !in_handler {
            return self.len() == 0;
        }
        let closers = self.closers().keys().copied().collect::<Vec<_>>();
        let map = self.lock();
        map.values()
            .all(|session| closers.contains(&session.number))
    }

    fn closers(&self) -> MutexGuard<'_, HashMap<u64, usize>> {
        self.closers.lock()
    }

    /// The number of the session whose task runs on this thread, if it is one of these.
    fn current(&self) -> Option<u64> {
        let number = CURRENT.get();
        let map = self.lock();
        let is_ours = map.values().any(|session| session.number == number);
        is_ours.then_some(number)
    }
}

/// A session whose own code waits for the end of all.
struct Closer<'a> {
    sessions: &'a Sessions,
    number: u64,
}

impl<'a> Closer<'a> {
    fn enter(sessions: &'a Sessions, number: u64) -> Self {
        *sessions.closers().entry(number).or_default() += 1;
        // Those who wait in another handler need not wait for this session any more.
        sessions.changed.notify_waiters();
        Self { sessions, number }
    }
}

impl Drop for Closer<'_> {
    fn drop(&mut self) {
        let mut closers = self.sessions.closers();
        let count = closers.entry(self.number).or_default();
        *count = count.saturating_sub(1);
        if *count == 0 {
            closers.remove(&self.number);
        }
    }
}

/// Marks a session's task as the one that runs on this thread.
pub(crate) struct CurrentSession(u64);

impl Drop for CurrentSession {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

/// A session's place in [`Sessions`].
#[derive(Debug)]
pub(crate) struct SessionGuard {
    sessions: Arc<Sessions>,
    session: Arc<SharedSession>,
}

impl SessionGuard {
    /// To be held while the session's task runs.
    pub(crate) fn run(&self) -> CurrentSession {
        CurrentSession(CURRENT.replace(self.session.number))
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        // Where the task was dropped before its end, with its runtime, the sockets that remain know
        // it by this, and those who wait for it.
        self.session.abandon();
        let mut map = self.sessions.lock();
        map.remove(self.session.sid());
        if map.capacity() > 64 && map.len() * 8 < map.capacity() {
            let len = map.len();
            map.shrink_to(len * 2);
        }
        drop(map);
        if self.sessions.closing.load(Ordering::Acquire) {
            self.sessions.changed.notify_waiters();
        }
    }
}
