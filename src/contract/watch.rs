//! Watches the events that a server sends, in a test.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::ContractError;
use super::check::{NamespaceContract, place};
use super::model::Documented;
use super::shape::check_args;
use super::views::{Args, model};
use crate::protocol::{Payload, read_json};
use crate::sync::Mutex;

/// Watches, in a test, whether a server sends only what its namespaces declare: the events, and
/// arguments of the declared types.
///
/// [`SocketIoBuilder::watch_contract`](crate::SocketIoBuilder::watch_contract) connects it to a
/// server. It sees the events that handlers and other code of this process send in namespaces that
/// declare events, to one client or to many, whether anybody receives them or not. It does not see
/// acknowledgements, volatile events for a client that is not ready, and those for a namespace that
/// does not exist in this process. Events for other servers are not of the contract.
///
/// It does not see what [`Presence`](crate::Presence) sends either. Its events are declared as others
/// are, `.sends::<PresenceState<User>>().sends::<PresenceDiff<User>>()`, if `User` implements
/// `JsonSchema`.
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
/// io.of("/").send(News("it works".into()));
/// watch.assert_kept();
///
/// io.of("/").emit("olds", "not declared");
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
    /// Fails if an event was sent that its namespace does not declare, or with other arguments.
    pub fn check(&self) -> Result<(), ContractError> {
        let problems = self.problems.lock();
        ContractError::check(problems.iter().cloned().collect())
    }

    /// Asserts that the contract was kept so far.
    ///
    /// # Panics
    ///
    /// Panics if an event was sent that its namespace does not declare, or with other arguments.
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
        let model = match model(std::slice::from_ref(contract)) {
            Ok(model) => model,
            Err(error) => {
                let problems = error.problems().map(str::to_owned);
                self.problems.lock().extend(problems);
                return Emitted::default();
            }
        };
        let sent = model.namespaces.into_iter().flat_map(|each| each.sent);
        Emitted(Some(Arc::new(WatchedNamespace {
            place: place(contract.path.as_deref()),
            sent: sent.map(|event| (event.name, event.args)).collect(),
            definitions: model.from_server,
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
    /// The arguments of the declared events, by their names.
    sent: BTreeMap<&'static str, Args>,
    definitions: BTreeMap<String, Documented>,
    watch: Watch,
}

impl WatchedNamespace {
    fn record(&self, event: &Payload) {
        let name = event.name().unwrap_or_default();
        let place = &self.place;
        let problem = match self.sent.get(name) {
            None => format!(
                "event `{name}` was sent {place}, but is not declared: add `.sends::<…>()` with \
                 its type"
            ),
            Some(args) => match self.check_args(event, args) {
                Ok(()) => return,
                Err(what) => format!(
                    "event `{name}` was sent {place} with other arguments than declared: {what}"
                ),
            },
        };
        self.watch.problems.lock().insert(problem);
    }

    fn check_args(&self, event: &Payload, args: &Args) -> Result<(), String> {
        let json = event.clone().into_args().to_json();
        let Ok(values) = read_json::<Vec<Value>>(&json) else {
            return Err("they cannot be read as JSON".to_owned());
        };
        check_args(&values, args, &self.definitions)
    }
}
