//! Watches the events that a server sends, in a test.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::ContractError;
use super::check::{NamespaceContract, place};
use crate::protocol::Payload;
use crate::sync::Mutex;

/// Watches, in a test, whether a server sends only what its namespaces declare.
///
/// [`SocketIoBuilder::watch_contract`](crate::SocketIoBuilder::watch_contract) connects it to a
/// server. It sees the events that handlers and other code of this process send in namespaces that
/// declare events, to one client or to many, whether anybody receives them or not. It does not see
/// acknowledgements, volatile events for a client that is not ready, and those for a namespace that
/// does not exist in this process.
///
/// ```
/// use schemars::JsonSchema;
/// use serde::{Deserialize, Serialize};
/// use tower_socketio::contract::Watch;
/// use tower_socketio::{Namespace, SocketIo, SocketIoBuilder, TypedEvent};
///
/// /// News for everybody.
/// #[derive(Serialize, Deserialize, JsonSchema)]
/// struct News(String);
///
/// impl TypedEvent for News {
///     const NAME: &'static str = "news";
///     type Reply = ();
/// }
///
/// fn server() -> SocketIoBuilder {
///     SocketIo::builder().namespace("/", Namespace::new().sends::<News>())
/// }
///
/// let watch = Watch::new();
/// let (layer, io) = server().watch_contract(&watch).build();
/// io.send(News("it works".into()));
/// watch.assert_kept();
///
/// io.emit("olds", "not declared");
/// assert!(watch.check().is_err());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Watch {
    problems: Arc<Mutex<BTreeSet<String>>>,
}

impl Watch {
    /// Creates a watch that sees nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns whether the contract was kept so far.
    ///
    /// # Errors
    ///
    /// Fails if an event was sent that its namespace does not declare.
    pub fn check(&self) -> Result<(), ContractError> {
        let problems = self.problems.lock();
        ContractError::check(problems.iter().cloned().collect())
    }

    /// Asserts that the contract was kept so far.
    ///
    /// # Panics
    ///
    /// Panics if an event was sent that its namespace does not declare.
    #[track_caller]
    pub fn assert_kept(&self) {
        if let Err(error) = self.check() {
            panic!("the contract was not kept:\n{error}");
        }
    }

    /// Returns the part of a namespace.
    pub(crate) fn namespace(&self, contract: &NamespaceContract) -> Emitted {
        if contract.declared.is_empty() {
            return Emitted::default();
        }
        let sent = contract.declared.sent.iter();
        Emitted(Some(Arc::new(WatchedNamespace {
            place: place(contract.path.as_deref()),
            declared: sent.map(|event| event.name).collect(),
            watch: self.clone(),
        })))
    }
}

/// Watches the events of a namespace, if a test does.
#[derive(Clone, Debug, Default)]
pub(crate) struct Emitted(Option<Arc<WatchedNamespace>>);

impl Emitted {
    /// Notes an event that is sent.
    #[inline]
    pub(crate) fn record(&self, event: &Payload) {
        if let Some(namespace) = &self.0 {
            namespace.record(event);
        }
    }
}

#[derive(Debug)]
struct WatchedNamespace {
    place: String,
    declared: BTreeSet<&'static str>,
    watch: Watch,
}

impl WatchedNamespace {
    fn record(&self, event: &Payload) {
        let name = event.name().unwrap_or_default();
        if !self.declared.contains(name) {
            let problem = format!(
                "event `{name}` was sent {}, but is not declared: add `.sends::<…>()` with its type",
                self.place
            );
            self.watch.problems.lock().insert(problem);
        }
    }
}
