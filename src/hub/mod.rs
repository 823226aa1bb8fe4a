//! The sessions, namespaces and sockets of a server in this process.
//!
//! | file | |
//! |---|---|
//! | [`sessions`] | the sessions by their secret id, and the shutdown of all of them |
//! | [`shutdown`] | the shutdown of all sessions, spread over a time, and its report |
//! | [`shutdown_task`] | the task that does it |
//! | [`session`] | one session, which several tasks share |
//! | [`request`] | the handshake request of a session |
//! | [`budget`] | the bytes that a connection keeps until it ends |
//! | [`namespace`] | one namespace: its sockets, and broadcasts to them |
//! | [`member`] | one socket in one namespace |
//! | [`acks`] | the receivers of acknowledgements |
//! | [`disconnect_reason`] | the reasons why a socket leaves |
//! | [`expiry`] | the time at which a socket is disconnected |
//! | [`rooms`] | sockets ↔ rooms |
//! | [`selection`] | the target of a broadcast, and its recipients |
//! | [`queue`] | the broadcasts to many sockets that wait to be delivered |
//! | [`fanout`] | the task that delivers them |
//! | [`hooks`] | the hooks of the application |
//! | [`definition`] | the definition of a namespace, for observers and spans |
//! | [`outcome`] | how a handler has ended |
//! | [`spans`] | the spans for `tracing` |
//! | [`observer`] | the observers: parts of this crate that hear what happens |
//! | [`room_event`] | the events of the room hook |
//! | [`recovery`] | connection state recovery |
//! | [`other_servers`] | the other servers of a cluster, as a namespace sees them |
//! | [`cluster_error`] | the errors of operations on them |
//! | [`id_hash`] | a hash for random ids |
//! | [`yield_now`] | a yield to the other ready tasks |

use std::collections::HashMap;
use std::sync::Arc;

use indexmap::IndexSet;

use crate::protocol::{NamespaceName, Parser};
use crate::shrink::shrink;
use crate::sync::{Mutex, RwLock};

pub(crate) mod acks;
pub(crate) mod budget;
mod cluster_error;
pub(crate) mod definition;
mod disconnect_reason;
pub(crate) mod expiry;
pub(crate) mod fanout;
pub(crate) mod hooks;
pub(crate) mod id_hash;
pub(crate) mod member;
pub(crate) mod namespace;
pub(crate) mod observer;
pub(crate) mod other_servers;
pub(crate) mod outcome;
mod queue;
pub(crate) mod recovery;
pub(crate) mod request;
mod room_event;
mod rooms;
pub(crate) mod selection;
pub(crate) mod session;
pub(crate) mod sessions;
mod shutdown;
mod shutdown_task;
pub(crate) mod spans;
pub(crate) mod yield_now;

pub use self::cluster_error::ClusterError;
pub use self::disconnect_reason::DisconnectReason;
pub use self::expiry::Expiry;
use self::hooks::NamespaceHook;
use self::namespace::{Hooks, LiveNamespace};
use self::other_servers::OtherServers;
pub use self::recovery::Recovery;
use self::recovery::{DeferredDrop, RecoveryBudget, SharedLog};
pub use self::room_event::{RoomChange, RoomEvent};
use self::sessions::Sessions;
pub use self::shutdown::ShutdownReport;

/// The live namespaces of a server, and its sessions.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) parser: Arc<dyn Parser>,
    pub(crate) limits: Limits,
    /// Called when a namespace is created.
    pub(crate) created: NamespaceHook,
    /// `None` if recovery is off.
    recovery_budget: Option<Arc<RecoveryBudget>>,
    /// The log of the cluster. `None` if recovery is off, or the broker has no log.
    shared_log: Option<Arc<Mutex<SharedLog>>>,
    /// The other servers of the cluster. `None` if there is no broker.
    pub(crate) others: Option<Arc<dyn OtherServers>>,
    namespaces: RwLock<Namespaces>,
}

/// The live namespaces.
#[derive(Debug, Default)]
struct Namespaces {
    by_name: HashMap<NamespaceName, Arc<LiveNamespace>>,
    /// The number of dynamic namespaces.
    dynamic: usize,
    /// Dynamic namespaces that had only suspended sockets when their last socket left.
    suspended: IndexSet<NamespaceName>,
}

impl Namespaces {
    fn insert(&mut self, namespace: &Arc<LiveNamespace>) {
        self.dynamic += usize::from(!namespace.is_static);
        self.by_name
            .insert(namespace.name.clone(), Arc::clone(namespace));
    }

    fn remove(&mut self, name: &NamespaceName) {
        if let Some(removed) = self.by_name.remove(name) {
            self.dynamic -= usize::from(!removed.is_static);
        }
        self.suspended.swap_remove(name);
        shrink(&mut self.by_name);
        shrink(&mut self.suspended);
    }

    /// Abandons a namespace that has only suspended sockets, if there is one. Returns its name and its
    /// handovers.
    fn abandon_one(&mut self) -> Option<(NamespaceName, DeferredDrop)> {
        while let Some(name) = self.suspended.pop() {
            let namespace = self.by_name.get(&name);
            if let Some(handovers) = namespace.and_then(|each| each.abandon()) {
                return Some((name, handovers));
            }
        }
        None
    }
}

/// The limits for rooms, namespaces and kept bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) rooms_per_socket: usize,
    pub(crate) namespaces_per_session: usize,
    pub(crate) dynamic_namespaces: usize,
    /// The bytes of the `auth` in one CONNECT packet.
    pub(crate) auth: usize,
    /// The bytes that all sockets of a connection keep together.
    pub(crate) kept: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rooms_per_socket: 1_000,
            namespaces_per_session: 64,
            dynamic_namespaces: 10_000,
            auth: 32 * 1024,
            kept: 512 * 1024,
        }
    }
}

impl Drop for Hub {
    /// Leaves the cluster, which a handle of a namespace may keep. Drops suspended sockets, and what waits
    /// for the log of a cluster: they may hold sockets, which hold their namespace.
    fn drop(&mut self) {
        if let Some(others) = &self.others {
            // It begins at once, and nobody waits for it.
            drop(others.close());
        }
        for namespace in self.namespaces() {
            if let Some(over_log) = namespace.over_log() {
                over_log.clear();
            }
            if let Some(mut store) = namespace.store() {
                store.abandon();
            }
        }
    }
}

impl Hub {
    pub(crate) fn new(
        sessions: Arc<Sessions>,
        parser: Arc<dyn Parser>,
        limits: Limits,
        created: NamespaceHook,
        recovery: Option<Recovery>,
        others: Option<Arc<dyn OtherServers>>,
    ) -> Self {
        let recovery_budget = recovery.map(|config| Arc::new(RecoveryBudget::new(config)));
        let has_log = others.as_ref().is_some_and(|others| others.has_log());
        let shared_log = recovery_budget
            .as_ref()
            .filter(|_| has_log)
            .map(|budget| Arc::new(Mutex::new(SharedLog::new(Arc::clone(budget)))));
        Self {
            others,
            shared_log,
            sessions,
            parser,
            limits,
            created,
            recovery_budget,
            namespaces: RwLock::default(),
        }
    }

    /// Returns whether recovery goes over the log of a cluster.
    pub(crate) const fn has_log(&self) -> bool {
        self.shared_log.is_some()
    }

    pub(crate) fn find(&self, name: &str) -> Option<Arc<LiveNamespace>> {
        let namespaces = self.namespaces.read();
        namespaces.by_name.get(name).cloned()
    }

    /// Calls `act` unless the namespace exists. The namespace is not opened while `act` runs.
    pub(crate) fn unless_open(&self, name: &NamespaceName, act: impl FnOnce()) {
        let namespaces = self.namespaces.read();
        if !namespaces.by_name.contains_key(name) {
            act();
        }
    }

    /// Returns all live namespaces.
    pub(crate) fn namespaces(&self) -> Vec<Arc<LiveNamespace>> {
        let namespaces = self.namespaces.read();
        namespaces.by_name.values().cloned().collect()
    }

    /// Finds or creates a namespace. Returns `None` if there are too many dynamic ones.
    pub(crate) fn open(
        self: &Arc<Self>,
        name: &NamespaceName,
        params: Vec<(String, String)>,
        is_static: bool,
        hooks: &Arc<Hooks>,
    ) -> Option<Arc<LiveNamespace>> {
        let mut namespaces = self.namespaces.write();
        if let Some(namespace) = namespaces.by_name.get(name) {
            return Some(Arc::clone(namespace));
        }
        let mut dropped_later = None;
        if !is_static && namespaces.dynamic >= self.limits.dynamic_namespaces {
            let (abandoned, handovers) = namespaces.abandon_one()?;
            self.remove(&mut namespaces, &abandoned);
            dropped_later = Some(handovers);
        }
        let namespace =
            LiveNamespace::new(name.clone(), params, is_static, Arc::clone(hooks), self);
        let namespace = Arc::new(namespace);
        namespaces.insert(&namespace);
        if let Some(others) = &self.others {
            others.namespace_opened(name);
        }
        drop(namespaces);
        drop(dropped_later);
        for tracker in &hooks.trackers {
            tracker.namespace_opened(self, name);
        }
        self.created.notify(name);
        Some(namespace)
    }

    /// Removes a dynamic namespace whose last socket has left.
    ///
    /// Lock order: the namespaces, then the store of one namespace, then its rooms.
    pub(crate) fn forget_if_empty(&self, namespace: &Arc<LiveNamespace>) {
        if namespace.is_static || namespace.member_count() > 0 {
            return;
        }
        let mut namespaces = self.namespaces.write();
        // A new namespace may have this name by now, if this one was removed before.
        let named = namespaces.by_name.get(&namespace.name);
        if !named.is_some_and(|named| Arc::ptr_eq(named, namespace)) {
            return;
        }
        if namespace.mark_removed() {
            self.remove(&mut namespaces, &namespace.name);
        } else {
            namespaces.suspended.insert(namespace.name.clone());
        }
    }

    fn remove(&self, namespaces: &mut Namespaces, name: &NamespaceName) {
        namespaces.remove(name);
        if let Some(others) = &self.others {
            others.namespace_closed(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::JsonParser;
    use crate::shrink::is_shrunk;

    #[test]
    fn namespaces_that_are_removed_return_their_memory() {
        let hub = Arc::new(Hub::new(
            Arc::default(),
            Arc::new(JsonParser::default()),
            Limits::default(),
            NamespaceHook::default(),
            None,
            None,
        ));
        let hooks = Arc::new(Hooks::default());
        for n in 0..1_000 {
            let name = NamespaceName::from(&*format!("/{n}"));
            let opened = hub.open(&name, Vec::new(), false, &hooks);
            assert!(opened.is_some());
        }
        for namespace in hub.namespaces() {
            hub.forget_if_empty(&namespace);
        }
        let namespaces = hub.namespaces.read();
        let by_name = &namespaces.by_name;
        assert!(by_name.is_empty() && is_shrunk(by_name));
    }
}
