//! Who is where in this process.
//!
//! | file | |
//! |---|---|
//! | [`sessions`] | the sessions by their secret id, and the end of all of them |
//! | [`link`] | one session, shared by those who read and write it |
//! | [`registry`] | one namespace: its sockets, and a broadcast to them |
//! | [`fanout`] | broadcasts to many, on their way |
//! | [`rooms`] | sockets ↔ rooms, and which of them a broadcast means |
//! | [`member`] | one socket in one namespace |
//! | [`budget`] | how much of a connection's is kept until it ends |
//! | [`recovery`] | what clients are given that lost their connection and come back |
//! | [`hooks`] | what an application wants to be told |
//! | [`handshake`] | the first request of a session |

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::protocol::{NamespaceName, Parser};

pub(crate) mod budget;
mod fanout;
pub(crate) mod handshake;
pub(crate) mod hooks;
pub(crate) mod link;
pub(crate) mod member;
mod reason;
pub(crate) mod recovery;
pub(crate) mod registry;
pub(crate) mod rooms;
pub(crate) mod sessions;

use self::hooks::{Created, Hooks};
pub use self::hooks::{RoomChange, RoomEvent};
pub use self::reason::DisconnectReason;
use self::recovery::Kept;
pub use self::recovery::Recovery;
use self::registry::Registry;
use self::sessions::Sessions;

/// The live namespaces, and the sessions below them.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) parser: Arc<dyn Parser>,
    pub(crate) limits: Limits,
    /// Told of each namespace that comes to be.
    pub(crate) created: Created,
    /// None without recovery.
    kept: Option<Arc<Kept>>,
    namespaces: RwLock<HashMap<NamespaceName, Arc<Registry>>>,
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
        created: Created,
        recovery: Option<Recovery>,
    ) -> Self {
        Self {
            sessions,
            parser,
            limits,
            created,
            kept: recovery.map(|config| Arc::new(Kept::new(config))),
            namespaces: RwLock::default(),
        }
    }

    pub(crate) fn find(&self, name: &str) -> Option<Arc<Registry>> {
        let namespaces = self
            .namespaces
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        namespaces.get(name).cloned()
    }

    /// All namespaces that are there now.
    pub(crate) fn namespaces(&self) -> Vec<Arc<Registry>> {
        let namespaces = self
            .namespaces
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        namespaces.values().cloned().collect()
    }

    /// Finds a namespace or makes it; none if there are too many that clients named.
    pub(crate) fn open(
        self: &Arc<Self>,
        name: &NamespaceName,
        params: Vec<(String, String)>,
        is_static: bool,
        hooks: &Arc<Hooks>,
    ) -> Option<Arc<Registry>> {
        let mut namespaces = self
            .namespaces
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(registry) = namespaces.get(name) {
            return Some(Arc::clone(registry));
        }
        let dynamic = || namespaces.values().filter(|each| !each.is_static).count();
        // The length alone tells nearly always.
        let max = self.limits.dynamic_namespaces;
        let mut dead = None;
        if !is_static && namespaces.len() >= max && dynamic() >= max {
            // One that is there only for clients who may come back makes room.
            let abandon = |each: &Arc<Registry>| Some((each.name.clone(), each.abandon()?));
            let (abandoned, kept) = namespaces.values().find_map(abandon)?;
            namespaces.remove(&abandoned);
            dead = Some(kept);
        }
        let registry = Registry::new(name.clone(), params, is_static, Arc::clone(hooks), self);
        let registry = Arc::new(registry);
        namespaces.insert(name.clone(), Arc::clone(&registry));
        drop(namespaces);
        drop(dead);
        self.created.tell(name);
        Some(registry)
    }

    /// Forgets a namespace that a client named, when its last socket has left.
    ///
    /// The order of locks is: namespaces, then one registry's archive, then its rooms.
    pub(crate) fn forget_if_empty(&self, registry: &Arc<Registry>) {
        if registry.is_static || registry.member_count() > 0 {
            return;
        }
        let mut namespaces = self
            .namespaces
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        // Another one of that name may have come since this one was forgotten.
        let named = namespaces.get(&registry.name);
        if named.is_some_and(|named| Arc::ptr_eq(named, registry)) && registry.retire() {
            namespaces.remove(&registry.name);
        }
    }
}
