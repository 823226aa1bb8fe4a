//! The namespaces of a broadcast.

use std::fmt;
use std::sync::{Arc, Weak};

use crate::hub::Hub;
use crate::hub::namespace::LiveNamespace;
use crate::hub::other_servers::OtherServers;
use crate::protocol::NamespaceName;

/// The namespaces of a broadcast.
#[derive(Clone)]
pub(super) enum Scope {
    Here(Arc<LiveNamespace>),
    /// A dynamic namespace. It is looked up by each operation.
    Named(Weak<Hub>, NamespaceName),
    /// All live namespaces whose names match. They are looked up by each operation.
    Matching(Weak<Hub>, Arc<dyn Fn(&str) -> bool + Send + Sync>),
}

impl Scope {
    /// Returns the scope of one namespace.
    pub(super) fn named(hub: &Weak<Hub>, name: &str) -> Self {
        match hub.upgrade().and_then(|hub| hub.find(name)) {
            Some(namespace) if namespace.is_static => Self::Here(namespace),
            _ => Self::Named(Weak::clone(hub), name.into()),
        }
    }

    /// Returns the name of the namespace, if there is exactly one.
    pub(super) fn name(&self) -> Option<&NamespaceName> {
        match self {
            Self::Here(namespace) => Some(&namespace.name),
            Self::Named(_, name) => Some(name),
            Self::Matching(..) => None,
        }
    }

    /// Returns the other servers and the name of a namespace that does not exist in this process,
    /// but may exist in others.
    pub(super) fn elsewhere(&self) -> Option<(Arc<dyn OtherServers>, &NamespaceName)> {
        match self {
            Self::Named(hub, name) => Some((hub.upgrade()?.others.clone()?, name)),
            Self::Here(_) | Self::Matching(..) => None,
        }
    }

    /// Returns whether the server of the scope has been dropped.
    pub(super) fn is_gone(&self) -> bool {
        match self {
            Self::Here(namespace) => namespace.hub().is_none(),
            Self::Named(hub, _) | Self::Matching(hub, _) => hub.strong_count() == 0,
        }
    }

    /// Calls `act` with the live namespaces of the scope.
    pub(super) fn with<R>(&self, act: impl FnOnce(&[Arc<LiveNamespace>]) -> R) -> R {
        match self {
            Self::Here(namespace) => act(std::slice::from_ref(namespace)),
            Self::Named(hub, name) => {
                let found = hub.upgrade().and_then(|hub| hub.find(name));
                act(found.as_slice())
            }
            Self::Matching(hub, matches) => {
                let mut all = hub.upgrade().map_or_else(Vec::new, |hub| hub.namespaces());
                all.retain(|namespace| matches(&namespace.name));
                act(&all)
            }
        }
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(namespace) => fmt::Debug::fmt(&namespace.name, f),
            Self::Named(_, name) => fmt::Debug::fmt(name, f),
            Self::Matching(..) => f.write_str("matching"),
        }
    }
}
