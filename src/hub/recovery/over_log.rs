//! Recovery over the log of a cluster, in a namespace and its sockets.
//!
//! ```text
//! emit ──▶ Departures, and the broker ──▶ the log ──▶ the reader of every server
//! acks, saved sockets ─▶ behind them                      │
//!     own entries: the front of Departures  ◀─────────────┤
//!     entries of other servers              ◀─────────────┘
//!              └──▶ SharedLog: a copy ──▶ the clients
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore};

use super::Recovery;
use super::departures::Departures;
use super::offset::Offset;
use super::shared_log::{Content, SharedLog};
use crate::clock::now;
use crate::engine_io::SocketId;
use crate::hub::Hub;
use crate::hub::id_hash::IdHash;
use crate::hub::member::Member;
use crate::hub::namespace::LiveNamespace;
use crate::hub::other_servers::{Dropped, Operation};
use crate::hub::selection::{Selection, Target};
use crate::protocol::NamespaceName;
use crate::sync::Mutex;

mod behind;
mod claims;
mod events;

pub(crate) use self::claims::Claimed;

/// Recovery over the log of a cluster, in one namespace.
#[derive(Debug)]
pub(crate) struct OverLog {
    pub(super) log: Arc<Mutex<SharedLog>>,
    /// It is locked after the store, and before all others.
    departures: Mutex<Departures<Arc<Member>>>,
    /// Whether anything departed has not come back.
    is_busy: AtomicBool,
    /// See [`Departures::late`].
    late: Mutex<(u64, Offset)>,
    /// The sockets that are to be saved while they are connected. `None` if none are.
    early: Option<Mutex<Early>>,
    /// The operation on rooms of another server that is being done to the sockets of this one.
    being_done: Mutex<Option<Offset>>,
    /// Notified when sockets were saved that waited behind events.
    saved: Notify,
    /// Limits the questions to other servers for a socket.
    questions: Semaphore,
}

/// Sockets that are to be saved while they are connected.
#[derive(Debug, Default)]
struct Early {
    /// When each socket is to be saved.
    due: HashMap<SocketId, Instant, IdHash>,
}

/// How long an event waits for the log before it is delivered without an offset.
pub(crate) const LOG_TIMEOUT: Duration = Duration::from_secs(1);

/// How many events may wait for the log.
const MAX_DEPARTED: usize = 10_000;

/// How long a client waits for the broker to find its socket.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the other servers may take to say whether they have a socket.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(1);

/// How many questions for sockets are open at a time. Beyond that a client gets a new socket: anybody can
/// make up a private id.
const MAX_QUESTIONS: usize = 64;

/// How often a condition without a notification is looked at.
const POLL: Duration = Duration::from_millis(2);

impl OverLog {
    pub(crate) fn new(log: &Arc<Mutex<SharedLog>>, config: &Recovery) -> Self {
        Self {
            log: Arc::clone(log),
            departures: Mutex::default(),
            is_busy: AtomicBool::new(false),
            late: Mutex::new((u64::MAX, Offset::default())),
            early: config.save_early.then(Mutex::default),
            being_done: Mutex::default(),
            saved: Notify::new(),
            questions: Semaphore::new(MAX_QUESTIONS),
        }
    }

    /// Returns whether anything departed has not come back.
    pub(crate) fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::Acquire)
    }

    /// See [`Departures::last_late`].
    fn last_late(&self, is_changed: impl Fn(&Target) -> bool) -> Option<u64> {
        let (first, _) = *self.late.lock();
        if first == u64::MAX {
            // The common case.
            return None;
        }
        self.departures.lock().last_late(is_changed)
    }

    /// Returns whether it is known which entries this server has.
    pub(super) fn has_begun(&self) -> bool {
        self.log.lock().has_begun()
    }

    /// Returns whether nothing departed can come back any more.
    pub(crate) fn is_idle(&self) -> bool {
        self.departures.lock().is_idle()
    }

    /// Changes the departures. The caller holds the lock of the store.
    fn change<R>(&self, change: impl FnOnce(&mut Departures<Arc<Member>>) -> R) -> R {
        let mut departures = self.departures.lock();
        let result = change(&mut departures);
        *self.late.lock() = departures.late();
        if departures.is_busy() {
            self.is_busy.store(true, Ordering::Release);
        }
        result
    }

    /// Records that the steps after a change were run: nothing overtakes them.
    fn steps_done(&self) {
        let is_busy = self.departures.lock().is_busy();
        self.is_busy.store(is_busy, Ordering::Release);
    }

    /// Returns the last entry of the log of which all is done, for a socket that leaves.
    pub(super) fn done_up_to(&self, last: Offset) -> Offset {
        self.being_done.lock().map_or(last, Offset::before)
    }

    /// Drops what waits. The server ends.
    pub(crate) fn clear(&self) {
        let departures = std::mem::take(&mut *self.departures.lock());
        drop(departures);
    }

    /// Returns whether a socket that was sent an event without an offset is recoverable again when it
    /// is sent one with an offset: the log has passed the former.
    pub(super) fn is_settled(&self, number: u64, since: Offset, offset: Offset) -> bool {
        let (first, settled) = *self.late.lock();
        number < first && offset > settled.max(since)
    }

    /// Records that a socket is to be saved early.
    fn save_early(&self, id: &SocketId) {
        if let Some(early) = &self.early {
            early.lock().due.insert(*id, now());
        }
    }
}

/// Work that is done after all locks are released.
struct Later {
    namespace: Arc<LiveNamespace>,
    has_queued: bool,
    /// The last handle of a socket drops values of the application.
    sockets: Vec<Selection<Arc<Member>>>,
    members: Vec<Arc<Member>>,
    /// Operations on the rooms of restored sockets.
    operations: Vec<(SocketId, Operation)>,
    saves: bool,
    dropped: Vec<Dropped>,
}

impl Later {
    fn new(namespace: &Arc<LiveNamespace>) -> Self {
        Self {
            namespace: Arc::clone(namespace),
            has_queued: false,
            sockets: Vec::new(),
            members: Vec::new(),
            operations: Vec::new(),
            saves: false,
            dropped: Vec::new(),
        }
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        if self.has_queued {
            self.namespace.spawn_fanout();
        }
        for (id, operation) in self.operations.drain(..) {
            let target = Target::of(&id);
            self.namespace.apply(&target, operation);
        }
        if let Some(over_log) = self.namespace.over_log().filter(|_| self.saves) {
            over_log.saved.notify_waiters();
        }
    }
}

impl Hub {
    /// Does an operation of the log at its place, or keeps it for clients that come back.
    pub(crate) fn apply_at(
        self: &Arc<Self>,
        name: &NamespaceName,
        target: &Target,
        operation: &Operation,
        at: Offset,
    ) {
        loop {
            if let Some(namespace) = self.find(name) {
                if namespace.apply_at(target, operation, at) {
                    return;
                }
                continue;
            }
            let mut is_kept = false;
            // A namespace that is opened in this moment has the entry in its log, or delivers it.
            self.unless_open(name, || {
                self.keep_at(name, target, operation.clone(), at);
                is_kept = true;
            });
            if is_kept {
                return;
            }
        }
    }

    /// Keeps an operation of the log for clients that come back.
    pub(crate) fn keep_at(
        &self,
        name: &NamespaceName,
        target: &Target,
        operation: Operation,
        at: Offset,
    ) {
        let Some(log) = &self.shared_log else { return };
        let mut log = log.lock();
        match Content::of(operation) {
            Some(content) => log.push(at, name.clone(), target.clone(), content, now()),
            None => log.advance(at),
        }
    }

    /// Records that an entry of the log was read that does nothing to sockets.
    pub(crate) fn advance_log(&self, at: Offset) {
        if let Some(log) = &self.shared_log {
            log.lock().advance(at);
        }
    }

    /// Forgets the log: entries up to an offset are unknown, or some of them are missing. The messages of
    /// this server that have not come back may be after it.
    pub(crate) fn begin_log(&self, at: Offset) {
        if let Some(log) = &self.shared_log {
            log.lock().begin(at);
        }
    }

    /// Handles the return of a message of this server in all namespaces: earlier ones that have not come
    /// back are lost.
    pub(crate) fn returned(&self, number: u64, at: Offset) {
        for namespace in self.namespaces() {
            namespace.returned(number, at);
        }
    }

    /// Delivers what has waited for the log too long, and saves the sockets that are due.
    pub(crate) fn tick_recovery(&self, until: Option<Instant>) {
        if self.shared_log.is_none() {
            return;
        }
        let until = until.or_else(|| now().checked_sub(LOG_TIMEOUT));
        for namespace in self.namespaces() {
            if let Some(until) = until {
                namespace.release_departed(until);
            }
            namespace.save_due();
        }
    }

    /// Waits until all namespaces have [departed](LiveNamespace::departed), for some time at most.
    pub(crate) async fn departed(&self) {
        let all = async {
            for namespace in self.namespaces() {
                namespace.departed().await;
            }
        };
        if tokio::time::timeout(LOG_TIMEOUT, all).await.is_err() {
            self.tick_recovery(Some(now()));
        }
    }
}
