//! Who is where in this process.
//!
//! | file | |
//! |---|---|
//! | [`sessions`] | the sessions by their secret id, and the end of all of them |
//! | [`session`] | one session, shared by those who read and write it |
//! | [`namespace`] | one namespace: its sockets, and a broadcast to them |
//! | [`fanout`] | broadcasts to many, on their way |
//! | [`rooms`] | sockets ↔ rooms, and which of them a broadcast means |
//! | [`member`] | one socket in one namespace |
//! | [`budget`] | how much of a connection's is kept until it ends |
//! | [`recovery`] | what clients are given that lost their connection and come back |
//! | [`hooks`] | what an application wants to be told |
//! | [`request`] | the first request of a session |

use std::collections::HashMap;
use std::sync::Arc;

use crate::protocol::{NamespaceName, Parser};
use crate::sync::RwLock;

pub(crate) mod budget;
mod disconnect_reason;
mod fanout;
pub(crate) mod hooks;
pub(crate) mod member;
pub(crate) mod namespace;
pub(crate) mod recovery;
pub(crate) mod request;
pub(crate) mod rooms;
pub(crate) mod session;
pub(crate) mod sessions;

pub use self::disconnect_reason::DisconnectReason;
use self::hooks::{Hooks, NamespaceHook};
pub use self::hooks::{RoomChange, RoomEvent};
use self::namespace::LiveNamespace;
pub use self::recovery::Recovery;
use self::recovery::RecoveryBudget;
use self::sessions::Sessions;

/// The live namespaces, and the sessions below them.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) parser: Arc<dyn Parser>,
    pub(crate) limits: Limits,
    /// Told of each namespace that comes to be.
    pub(crate) created: NamespaceHook,
    /// None without recovery.
    recovery_budget: Option<Arc<RecoveryBudget>>,
    namespaces: RwLock<HashMap<NamespaceName, Arc<LiveNamespace>>>,
}

/// What one client may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) rooms_per_socket: usize,
    pub(crate) namespaces_per_session: usize,
    pub(crate) dynamic_namespaces: usize,
    /// The bytes that it authenticates itself with in one namespace.
    pub(crate) auth: usize,
    /// The bytes that its sockets keep, all of a connection together.
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

impl Hub {
    pub(crate) fn new(
        sessions: Arc<Sessions>,
        parser: Arc<dyn Parser>,
        limits: Limits,
        created: NamespaceHook,
        recovery: Option<Recovery>,
    ) -> Self {
        Self {
            sessions,
            parser,
            limits,
            created,
            recovery_budget: recovery.map(|config| Arc::new(RecoveryBudget::new(config))),
            namespaces: RwLock::default(),
        }
    }

    pub(crate) fn find(&self, name: &str) -> Option<Arc<LiveNamespace>> {
        let namespaces = self.namespaces.read();
        namespaces.get(name).cloned()
    }

    /// All namespaces that are there now.
    pub(crate) fn namespaces(&self) -> Vec<Arc<LiveNamespace>> {
        let namespaces = self.namespaces.read();
        namespaces.values().cloned().collect()
    }

    /// Finds a namespace or makes it; none if there are too many that clients named.
    pub(crate) fn open(
        self: &Arc<Self>,
        name: &NamespaceName,
        params: Vec<(String, String)>,
        is_static: bool,
        hooks: &Arc<Hooks>,
    ) -> Option<Arc<LiveNamespace>> {
        let mut namespaces = self.namespaces.write();
        if let Some(namespace) = namespaces.get(name) {
            return Some(Arc::clone(namespace));
        }
        let dynamic = || namespaces.values().filter(|each| !each.is_static).count();
        // The length alone tells nearly always.
        let max = self.limits.dynamic_namespaces;
        let mut dead = None;
        if !is_static && namespaces.len() >= max && dynamic() >= max {
            // One that is there only for clients who may come back makes room.
            let abandon = |each: &Arc<LiveNamespace>| Some((each.name.clone(), each.abandon()?));
            let (abandoned, kept) = namespaces.values().find_map(abandon)?;
            namespaces.remove(&abandoned);
            dead = Some(kept);
        }
        let namespace =
            LiveNamespace::new(name.clone(), params, is_static, Arc::clone(hooks), self);
        let namespace = Arc::new(namespace);
        namespaces.insert(name.clone(), Arc::clone(&namespace));
        drop(namespaces);
        drop(dead);
        self.created.notify(name);
        Some(namespace)
    }

    /// Forgets a namespace that a client named, when its last socket has left.
    ///
    /// The order of locks is: namespaces, then one namespace's store, then its rooms.
    pub(crate) fn forget_if_empty(&self, namespace: &Arc<LiveNamespace>) {
        if namespace.is_static || namespace.member_count() > 0 {
            return;
        }
        let mut namespaces = self.namespaces.write();
        // Another one of that name may have come since this one was forgotten.
        let named = namespaces.get(&namespace.name);
        if named.is_some_and(|named| Arc::ptr_eq(named, namespace)) && namespace.retire() {
            namespaces.remove(&namespace.name);
        }
    }
}
