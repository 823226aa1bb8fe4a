//! The Socket.IO server: connects the sessions with the namespaces.
//!
//! | file | |
//! |---|---|
//! | [`dispatch`] | the packets of one session, passed to its sockets |
//! | [`pending_connect`] | connect requests that wait for a predicate |
//! | [`socket_driver`] | the handlers of one socket |
//! | [`expiry`] | the deadlines of sockets |
//! | [`calls`] | calls of handlers, and their panics |
//! | [`observed`] | a handler that is observed |
//! | [`queued`] | an event that waits for its handler |
//! | [`credit`] | the credit of flow control |
//! | [`turn`] | how many events are handled before other tasks run |

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_core::future::BoxFuture;

use crate::clock::now;
use crate::hub::Hub;
use crate::hub::namespace::LiveNamespace;
use crate::hub::session::SharedSession;
use crate::nearest::nearest;
use crate::notice::notice;
use crate::protocol::NamespaceName;
use crate::routing::{NamespaceRequest, Predicate, Routes};
use crate::transport::{Application, SessionApp};

mod calls;
mod credit;
mod dispatch;
mod expiry;
mod observed;
mod pending_connect;
mod queued;
mod socket_driver;
mod turn;

/// The registered namespaces of a server.
pub(crate) struct Server {
    pub(crate) hub: Arc<Hub>,
    router: matchit::Router<Definition>,
    /// The predicates for names that match no path, in the order in which they run.
    predicates: Vec<(Predicate, Arc<Routes>)>,
    /// The paths without parameters.
    names: Vec<Box<str>>,
    pub(crate) connect_timeout: Duration,
}

struct Definition {
    routes: Arc<Routes>,
    is_static: bool,
}

impl Server {
    /// Registers the namespaces and opens the static ones.
    ///
    /// # Panics
    ///
    /// Panics if two paths are the same or conflict.
    #[track_caller]
    pub(crate) fn new(
        hub: Arc<Hub>,
        namespaces: Vec<(String, Routes)>,
        predicates: Vec<(Predicate, Routes)>,
        connect_timeout: Duration,
    ) -> Self {
        let of_paths = namespaces.iter().map(|(_, routes)| routes);
        let routes = of_paths.chain(predicates.iter().map(|(_, routes)| routes));
        let mut definitions = Vec::new();
        for routes in routes {
            let hooks = &routes.hooks;
            hooks.trackers.iter().for_each(|each| each.attach(&hub));
            definitions.push(Arc::clone(&hooks.definition));
        }
        let observers = &hub.sessions.observers;
        observers.each(|observer| observer.defined(&definitions));
        let mut router = matchit::Router::new();
        let mut names = Vec::new();
        for (path, routes) in namespaces {
            let is_static = !path.contains('{');
            if is_static {
                let name = NamespaceName::from(&*path);
                hub.open(&name, Vec::new(), true, &routes.hooks);
                names.push(Box::from(&*path));
            }
            let definition = Definition {
                routes: Arc::new(routes),
                is_static,
            };
            if let Err(error) = router.insert(&path, definition) {
                panic!("namespace `{path}` cannot be registered: {error}");
            }
        }
        Self {
            hub,
            router,
            predicates: predicates
                .into_iter()
                .map(|(predicate, routes)| (predicate, Arc::new(routes)))
                .collect(),
            names,
            connect_timeout,
        }
    }

    /// Logs that a client is refused because the namespace does not exist. A predicate that refuses a
    /// client does so on purpose.
    fn log_missing_namespace(&self, name: &NamespaceName, session: u64) {
        let notices = &self.hub.sessions.notices;
        if self.router.at(name).is_ok() {
            notice!(
                notices.too_many_namespaces,
                session,
                namespace = &**name,
                max = self.hub.limits.dynamic_namespaces,
                "a client is refused: there are as many dynamic namespaces as \
                 `max_dynamic_namespaces` allows",
            );
        } else if self.predicates.is_empty() {
            let names = self.names.iter().map(|name| &**name);
            notice!(
                notices.namespace,
                session,
                namespace = &**name,
                did_you_mean = nearest(name, names),
                "a client asks for a namespace that does not exist: add it with \
                 `SocketIoBuilder::namespace`, or correct the URL of the client",
            );
        } else {
            tracing::debug!(
                session,
                namespace = &**name,
                "no predicate accepts the client"
            );
        }
    }

    /// Returns the namespace of a name that matches a path, and opens it if needed. `None` if no
    /// path matches, or if there are too many dynamic namespaces.
    fn find(&self, name: &NamespaceName) -> Option<(Arc<Routes>, Arc<LiveNamespace>)> {
        let matched = self.router.at(name).ok()?;
        let definition = matched.value;
        let params = matched.params.iter();
        let params = params.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let namespace = self.hub.open(
            name,
            params.collect(),
            definition.is_static,
            &definition.routes.hooks,
        )?;
        Some((Arc::clone(&definition.routes), namespace))
    }

    /// Runs the predicates, in order, for a name that matches no path. The future returns the index
    /// of the first predicate that accepts the request. `None` if there are no predicates.
    ///
    /// If the namespace is open, only the predicate that opened it runs.
    fn decide(
        self: &Arc<Self>,
        request: NamespaceRequest,
    ) -> Option<BoxFuture<'static, Option<usize>>> {
        if self.predicates.is_empty() {
            return None;
        }
        let server = Arc::clone(self);
        Some(Box::pin(async move {
            for (at, (predicate, routes)) in server.predicates.iter().enumerate() {
                let others = server.hub.find(&request.name);
                let is_anothers = others.is_some_and(|namespace| !is_of(&namespace, routes));
                if !is_anothers && predicate(request.clone()).await {
                    return Some(at);
                }
            }
            None
        }))
    }

    /// Finds or opens the namespace that a predicate has accepted.
    fn open_for(&self, at: usize, name: &NamespaceName) -> Opened {
        let routes = &self.predicates[at].1;
        match self.hub.open(name, Vec::new(), false, &routes.hooks) {
            None => Opened::TooMany,
            Some(namespace) if is_of(&namespace, routes) => {
                Opened::Found(Arc::clone(routes), namespace)
            }
            Some(_) => Opened::OwnedByAnother,
        }
    }
}

/// The result of opening a namespace that a predicate has accepted.
enum Opened {
    Found(Arc<Routes>, Arc<LiveNamespace>),
    TooMany,
    /// Another definition has opened the namespace in the meantime.
    OwnedByAnother,
}

/// Returns whether a namespace was opened by this definition.
fn is_of(namespace: &LiveNamespace, routes: &Routes) -> bool {
    Arc::ptr_eq(&namespace.hooks, &routes.hooks)
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Application for Arc<Server> {
    fn open(&self, session: &Arc<SharedSession>) -> Box<dyn SessionApp> {
        let now = now();
        Box::new(dispatch::Dispatch::new(Self::clone(self), session, now))
    }
}

/// How long a packet may wait for its attachments.
const PARTIAL_TIMEOUT: Duration = Duration::from_secs(30);

fn partial_deadline(now: Instant) -> Instant {
    now + PARTIAL_TIMEOUT
}
