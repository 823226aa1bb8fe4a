//! The sessions by their secret id.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::link::Link;
use super::rooms::IdHash;
use crate::engine::{CloseReason, SessionId, Transport};
use crate::notice::Notices;

/// All sessions of a server. A session is in it as long as its task lives.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    /// The ids are random, so no client can choose such as fall together.
    map: Mutex<HashMap<SessionId, Arc<Link>, IdHash>>,
    next: AtomicU64,
    closing: AtomicBool,
    passed: AtomicBool,
    empty: Notify,
    max: Option<usize>,
    /// What this server has logged before.
    pub(crate) notices: Arc<Notices>,
}

impl Sessions {
    pub(crate) fn new(max: Option<usize>) -> Self {
        Self {
            max,
            ..Self::default()
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Link>, IdHash>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A running number, for the log.
    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether no further session is taken.
    pub(crate) fn is_full(&self) -> bool {
        self.closing.load(Ordering::Acquire) || self.max.is_some_and(|max| self.len() >= max)
    }

    /// A request has come through the server, though not for it.
    pub(crate) fn pass(&self) {
        if !self.passed.load(Ordering::Relaxed) {
            self.passed.store(true, Ordering::Relaxed);
        }
    }

    /// Whether there has been neither a session nor a request that passed, and nobody wanted the
    /// end.
    pub(crate) fn is_unused(&self) -> bool {
        self.next.load(Ordering::Relaxed) == 0
            && !self.passed.load(Ordering::Relaxed)
            && !self.closing.load(Ordering::Acquire)
    }

    /// Takes a session in; it leaves when the guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>, link: Arc<Link>) -> Presence {
        self.lock().insert(link.sid().clone(), Arc::clone(&link));
        if self.closing.load(Ordering::Acquire) {
            link.close(CloseReason::Shutdown);
        }
        Presence {
            sessions: Arc::clone(self),
            link,
        }
    }

    /// The session that requests may name so, and the transport that it has.
    pub(crate) fn find(&self, sid: &str) -> Option<(Arc<Link>, Transport)> {
        let link = self.lock().get(sid).cloned()?;
        let transport = link.known_transport()?;
        Some((link, transport))
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// All sessions that there are now.
    pub(crate) fn all(&self) -> Vec<Arc<Link>> {
        self.lock().values().cloned().collect()
    }

    /// Closes all sessions, takes no further one, and waits until their tasks have ended.
    pub(crate) async fn close(&self) {
        self.closing.store(true, Ordering::Release);
        for link in self.all() {
            link.close(CloseReason::Shutdown);
        }
        loop {
            let empty = self.empty.notified();
            if self.len() == 0 {
                return;
            }
            empty.await;
        }
    }
}

/// A session's place in [`Sessions`].
#[derive(Debug)]
pub(crate) struct Presence {
    sessions: Arc<Sessions>,
    link: Arc<Link>,
}

impl Drop for Presence {
    fn drop(&mut self) {
        // Where the task was dropped before its end, the sockets that remain know it by this.
        self.link.close(CloseReason::TransportClose);
        let mut map = self.sessions.lock();
        map.remove(self.link.sid());
        let is_empty = map.is_empty();
        if map.capacity() > 64 && map.len() * 8 < map.capacity() {
            let len = map.len();
            map.shrink_to(len * 2);
        }
        drop(map);
        if is_empty {
            self.sessions.empty.notify_waiters();
        }
    }
}
