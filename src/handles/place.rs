//! Which namespaces are meant.

use std::fmt;
use std::sync::{Arc, Weak};

use crate::hub::Hub;
use crate::hub::registry::Registry;
use crate::protocol::NamespaceName;

/// Which namespaces are meant.
#[derive(Clone)]
pub(super) enum Place {
    Here(Arc<Registry>),
    /// One that comes and goes with its clients: looked up when it is needed.
    Named(Weak<Hub>, NamespaceName),
    /// Those that are there when it is needed.
    Matching(Weak<Hub>, Arc<dyn Fn(&str) -> bool + Send + Sync>),
}

impl Place {
    /// The namespace of that name.
    pub(super) fn named(hub: &Weak<Hub>, name: &str) -> Self {
        match hub.upgrade().and_then(|hub| hub.find(name)) {
            Some(registry) if registry.is_static => Self::Here(registry),
            _ => Self::Named(Weak::clone(hub), name.into()),
        }
    }

    /// Acts on the namespaces that are there now.
    pub(super) fn with<R>(&self, act: impl FnOnce(&[Arc<Registry>]) -> R) -> R {
        match self {
            Self::Here(registry) => act(std::slice::from_ref(registry)),
            Self::Named(hub, name) => {
                let found = hub.upgrade().and_then(|hub| hub.find(name));
                act(found.as_slice())
            }
            Self::Matching(hub, matches) => {
                let mut all = hub.upgrade().map_or_else(Vec::new, |hub| hub.namespaces());
                all.retain(|registry| matches(&registry.name));
                act(&all)
            }
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(registry) => fmt::Debug::fmt(&registry.name, f),
            Self::Named(_, name) => fmt::Debug::fmt(name, f),
            Self::Matching(..) => f.write_str("matching"),
        }
    }
}
