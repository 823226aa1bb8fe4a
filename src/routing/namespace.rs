//! The handlers of a namespace.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::Arc;

use tower_layer::Layer;
use tower_service::Service;

#[cfg(feature = "schema")]
mod declare;

use super::handler::{OnConnect, OnEvent, OnTyped};
use super::server_event::{self, PendingHandler};
use super::{Event, Handler, IntoReply, Route, ServerEventHandler};
use crate::contract::Declarations;
use crate::handles::Socket;
use crate::hub::RoomEvent;
use crate::hub::definition::{Definition, EventIndex};
use crate::hub::hooks::{Tracker, TrackerEventHandler};
use crate::hub::id_hash::IdHash;
use crate::hub::member::Member;
use crate::hub::namespace::Hooks;
use crate::protocol::{RawArgs, TypedEvent};

/// The handlers of a namespace, for all its sockets.
///
/// A `Namespace` routes events to handlers as axum's `Router` routes requests. Handlers are
/// registered before the server runs. A `Namespace` is not `Clone`: for two namespaces with the same
/// handlers, call a function that returns one for each. `S` is the state that the handlers still
/// need; [`with_state`](Self::with_state) provides it.
///
/// ```
/// use tower_socketio::{Data, DisconnectReason, Namespace, Socket};
///
/// async fn connect(socket: Socket) {}
/// async fn double(Data(n): Data<u32>) -> u32 {
///     2 * n
/// }
/// async fn leave(socket: Socket, reason: DisconnectReason) {}
///
/// let namespace: Namespace = Namespace::new()
///     .on_connect(connect)
///     .on("double", double)
///     .on_disconnect(leave);
/// ```
///
/// # Order
///
/// The connect handler completes before the client learns that it is connected, and before its
/// first event is handled. The events of a socket are handled in order, one at a time, unless
/// [`max_concurrent_events`](Self::max_concurrent_events) allows more. The disconnect handler runs
/// last.
#[must_use]
pub struct Namespace<S = ()> {
    connect: BoxedIntoRoute<S>,
    /// Whether `connect` is a handler of the application, and not the default one.
    has_connect_handler: bool,
    disconnect: Option<DisconnectHandler<S>>,
    events: HashMap<Box<str>, EventHandler<S>>,
    fallback: Option<EventHandler<S>>,
    max_concurrent: usize,
    server_events: HashMap<Box<str>, PendingHandler<S>>,
    server_event_fallback: Option<PendingHandler<S>>,
    hooks: Hooks,
    declared: Declarations,
}

/// A handler that still needs its state to become a route.
type BoxedIntoRoute<S> = Box<dyn FnOnce(&S) -> Route + Send>;

/// The handler of an event, or the fallback, that still needs its state.
struct EventHandler<S> {
    handler: BoxedIntoRoute<S>,
    is_concurrent: bool,
}

impl<S> EventHandler<S> {
    fn new<H, K>(handler: H) -> Self
    where
        H: Handler<K, S>,
        K: 'static,
        S: Clone + Send + Sync + 'static,
    {
        Self {
            is_concurrent: handler.is_concurrent(),
            handler: boxed(handler),
        }
    }

    fn map<S2>(
        self,
        f: &mut impl FnMut(BoxedIntoRoute<S>) -> BoxedIntoRoute<S2>,
    ) -> EventHandler<S2> {
        EventHandler {
            handler: f(self.handler),
            is_concurrent: self.is_concurrent,
        }
    }

    fn into_route(self, state: &S) -> EventRoute {
        EventRoute {
            route: (self.handler)(state),
            is_concurrent: self.is_concurrent,
            index: None,
        }
    }
}

/// A disconnect handler that still needs its state, and the layers around it, the innermost first.
struct DisconnectHandler<S> {
    handler: BoxedIntoRoute<S>,
    layers: Vec<Box<dyn FnOnce(Route) -> Route + Send>>,
}

impl<S> DisconnectHandler<S> {
    fn into_route(self, state: &S) -> DisconnectRoute {
        let bare = (self.handler)(state);
        let inner = bare.clone().into_destination();
        let is_layered = !self.layers.is_empty();
        let layered = self
            .layers
            .into_iter()
            .fold(inner, |route, layer| layer(route));
        DisconnectRoute {
            layered: is_layered.then_some(layered),
            bare,
        }
    }
}

impl<S> Namespace<S>
where
    S: Clone + Send + Sync + 'static,
{
    /// Creates a namespace without handlers. Every client may connect to it.
    pub fn new() -> Self {
        Self {
            connect: boxed::<_, OnConnect<()>, _>(accept),
            has_connect_handler: false,
            disconnect: None,
            events: HashMap::new(),
            fallback: None,
            max_concurrent: 1,
            server_events: HashMap::new(),
            server_event_fallback: None,
            hooks: Hooks::default(),
            declared: Declarations::default(),
        }
    }

    /// Registers the handler of an event.
    ///
    /// The handler's return value is the acknowledgement, if the client asks for one.
    ///
    /// ```
    /// use tower_socketio::{Data, Namespace, Socket};
    ///
    /// async fn say(socket: Socket, Data(text): Data<String>) {}
    ///
    /// let namespace: Namespace = Namespace::new().on("say", say);
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if the event already has a handler, or if its name is reserved: `connect`,
    /// `connect_error`, `disconnect`, `disconnecting`, `newListener`, `removeListener`.
    #[track_caller]
    pub fn on<H, T>(self, event: &str, handler: H) -> Self
    where
        H: Handler<OnEvent<T>, S>,
        T: 'static,
    {
        self.insert(event, handler)
    }

    /// Registers the handler of a typed event.
    ///
    /// The first argument of the handler is the [`TypedEvent`], which names the event.
    ///
    /// ```
    /// use serde::{Deserialize, Serialize};
    /// use tower_socketio::{Namespace, Socket, TypedEvent};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Double(u32);
    ///
    /// impl TypedEvent for Double {
    ///     const NAME: &'static str = "double";
    ///     type Reply = u32;
    /// }
    ///
    /// async fn double(Double(n): Double, socket: Socket) -> Result<u32, String> {
    ///     n.checked_mul(2).ok_or_else(|| "too much".to_owned())
    /// }
    ///
    /// let namespace: Namespace = Namespace::new().on_typed(double);
    /// ```
    ///
    /// # Panics
    ///
    /// Panics as [`on`](Self::on) does.
    #[track_caller]
    pub fn on_typed<H, E, T>(mut self, handler: H) -> Self
    where
        H: Handler<OnTyped<(E, T)>, S>,
        E: TypedEvent,
        T: 'static,
    {
        self.declared.handles::<E>();
        self.insert(E::NAME, handler)
    }

    /// Registers the connect handler, which accepts or refuses a client.
    ///
    /// The handler may use any extractor of axum. When it completes, the client is connected. If
    /// it returns an `Err`, the client is refused, and receives the error as its `connect_error`.
    /// Events that the handler emits are sent after the client is connected.
    ///
    /// The client is not connected while the handler runs. So run a loop that lasts as long as the
    /// connection in a task, with `tokio::spawn`.
    ///
    /// ```
    /// use axum::http::HeaderMap;
    /// use tower_socketio::{Auth, Namespace, Socket};
    ///
    /// async fn connect(
    ///     socket: Socket,
    ///     headers: HeaderMap,
    ///     Auth(token): Auth<Option<String>>,
    /// ) -> Result<(), &'static str> {
    ///     token.map(|_| ()).ok_or("not authorized")
    /// }
    ///
    /// let namespace: Namespace = Namespace::new().on_connect(connect);
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if the namespace already has a connect handler.
    #[track_caller]
    pub fn on_connect<H, T>(mut self, handler: H) -> Self
    where
        H: Handler<OnConnect<T>, S>,
        T: 'static,
    {
        assert!(
            !self.has_connect_handler,
            "this namespace already has a connect handler"
        );
        self.has_connect_handler = true;
        self.connect = boxed(handler);
        self
    }

    /// Registers the disconnect handler, which runs when a socket has left, after the handlers of
    /// all its events.
    ///
    /// It runs for every socket that was accepted, regardless of the replies of the namespace's
    /// [`layer`](Self::layer)s.
    ///
    /// ```
    /// use tower_socketio::{DisconnectReason, Namespace, Socket};
    ///
    /// async fn leave(socket: Socket, reason: DisconnectReason) {}
    ///
    /// let namespace: Namespace = Namespace::new().on_disconnect(leave);
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if the namespace already has a disconnect handler.
    #[track_caller]
    pub fn on_disconnect<H, T>(mut self, handler: H) -> Self
    where
        H: Handler<OnEvent<T>, S>,
        T: 'static,
    {
        let before = self.disconnect.replace(DisconnectHandler {
            handler: boxed(handler),
            layers: Vec::new(),
        });
        assert!(
            before.is_none(),
            "this namespace already has a disconnect handler"
        );
        self
    }

    /// Registers the handler of events without a handler of their own.
    ///
    /// Without a fallback, the acknowledgement of such an event is
    /// `{"error": "no handler for this event"}`.
    ///
    /// ```
    /// use tower_socketio::{Namespace, RawArgs};
    ///
    /// async fn unknown(args: RawArgs) -> Result<(), &'static str> {
    ///     println!("not handled: {}", args.to_json());
    ///     Err("there is no such event")
    /// }
    ///
    /// let namespace: Namespace = Namespace::new().fallback(unknown);
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if the namespace already has a fallback.
    #[track_caller]
    pub fn fallback<H, T>(mut self, handler: H) -> Self
    where
        H: Handler<OnEvent<T>, S>,
        T: 'static,
    {
        let before = self.fallback.replace(EventHandler::new(handler));
        assert!(before.is_none(), "this namespace already has a fallback");
        self
    }

    /// Registers the handler of an event that other servers of the cluster send with
    /// [`server_side_emit`](crate::Broadcast::server_side_emit).
    ///
    /// The handler's return value is the reply, for a server that asks for one. The extractors
    /// implement [`FromServerEvent`](crate::extract::FromServerEvent). The server events
    /// of a namespace start in order, and up to 64 handlers run at once. While 1 024 wait, further ones
    /// are dropped and counted in [`ClusterStatus::malformed`](crate::cluster::ClusterStatus::malformed).
    /// A layer has no effect on such a handler. Server events that have no handler get no reply, so
    /// a server that asks waits for its timeout.
    ///
    /// ```
    /// use tower_socketio::{Data, Namespace, SocketIo};
    ///
    /// async fn reload(io: SocketIo, Data(what): Data<String>) -> usize {
    ///     io.of("/").local().emit("reload", what);
    ///     io.counts().sockets
    /// }
    ///
    /// let namespace: Namespace = Namespace::new().on_server_event("reload", reload);
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if the event already has a handler.
    #[track_caller]
    pub fn on_server_event<H, T>(mut self, event: &str, handler: H) -> Self
    where
        H: ServerEventHandler<T, S>,
        T: 'static,
    {
        let handler = server_event::pending(handler);
        let is_bound = self.hooks.server_events.contains_key(event);
        let before = self.server_events.insert(event.into(), handler);
        assert!(
            before.is_none() && !is_bound,
            "server event `{event}` already has a handler in this namespace"
        );
        self
    }

    /// Registers the handler of server events without a handler of their own. See
    /// [`on_server_event`](Self::on_server_event).
    ///
    /// ```
    /// use tower_socketio::{Namespace, ServerEvent};
    ///
    /// async fn log(event: ServerEvent) {
    ///     println!("{}: {}", event.name(), event.args().to_json());
    /// }
    ///
    /// let namespace: Namespace = Namespace::new().server_event_fallback(log);
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if the namespace already has such a handler.
    #[track_caller]
    pub fn server_event_fallback<H, T>(mut self, handler: H) -> Self
    where
        H: ServerEventHandler<T, S>,
        T: 'static,
    {
        let handler = server_event::pending(handler);
        let is_bound = self.hooks.server_event_fallback.is_some();
        let before = self.server_event_fallback.replace(handler);
        assert!(
            before.is_none() && !is_bound,
            "this namespace already has a fallback for server events"
        );
        self
    }

    /// Adds a tracker, and the handler of the server event that it sends.
    #[track_caller]
    pub(crate) fn with_tracker(
        mut self,
        tracker: Arc<dyn Tracker<Member>>,
        event: &str,
        handler: Box<TrackerEventHandler>,
    ) -> Self {
        let others = self.hooks.trackers.iter();
        let taken: Vec<_> = others.flat_map(|other| other.events()).collect();
        for name in tracker.events() {
            assert!(
                !taken.contains(&name),
                "another presence of this namespace sends the event `{name}`: set other names by \
                 `Presence::events`"
            );
        }
        self.hooks.tracker_events.insert(event.into(), handler);
        self.hooks.trackers.push(tracker);
        self
    }

    /// Registers a hook that runs when a room is created, when a socket joins or leaves it, and
    /// when it is deleted.
    ///
    /// The hook runs for one change at a time, in the order of the changes. It may join and leave
    /// rooms, and emit events. The room that a socket's id names is created when the socket is
    /// connected, and is the first room that the socket leaves.
    ///
    /// The hook must not block. A call that changes a room, such as [`Socket::join`], runs it for
    /// some of the pending changes, which may be those of other calls. A task of the namespace runs
    /// it for the rest. While more than 4 096 changes are pending, such a call waits for its turn,
    /// and then runs the hook for at least as many changes as the call made. So a hook that is too
    /// slow slows down joins and leaves.
    ///
    /// ```
    /// use tower_socketio::{Namespace, RoomChange, RoomEvent};
    ///
    /// let namespace: Namespace = Namespace::new().on_room_event(|event: RoomEvent| {
    ///     if event.change == RoomChange::Delete {
    ///         println!("nobody is in {} any more", event.room);
    ///     }
    /// });
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if the namespace already has such a hook.
    #[track_caller]
    pub fn on_room_event(mut self, hook: impl Fn(RoomEvent) + Send + Sync + 'static) -> Self {
        let before = self.hooks.room.replace(Box::new(hook));
        assert!(
            before.is_none(),
            "this namespace already has a room event hook"
        );
        self
    }

    /// Registers a hook that runs for each event that is sent to a socket of this namespace.
    ///
    /// The hook gets the socket, the name and the arguments, before the event is queued. For a
    /// broadcast it runs once for each recipient, including those for which a volatile event is
    /// dropped. It does not run for acknowledgements. It must not block.
    ///
    /// The hook and the broadcast select their sockets separately, so a socket that joins or leaves
    /// a room in between may be selected for only one of them.
    ///
    /// To observe the events that clients send, use a [`layer`](Self::layer).
    ///
    /// ```
    /// use tower_socketio::{Namespace, RawArgs, Socket};
    ///
    /// let namespace: Namespace =
    ///     Namespace::new().on_outgoing(|socket: &Socket, event: &str, args: &RawArgs| {
    ///         println!("{event}{} to {}", args.to_json(), socket.id());
    ///     });
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if the namespace already has such a hook.
    #[track_caller]
    pub fn on_outgoing(
        mut self,
        hook: impl Fn(&Socket, &str, &RawArgs) + Send + Sync + 'static,
    ) -> Self {
        let hook = move |member: &Arc<Member>, event: &str, args: &RawArgs| {
            hook(&Socket::new(Arc::clone(member)), event, args);
        };
        let before = self.hooks.outgoing.replace(Box::new(hook));
        assert!(
            before.is_none(),
            "this namespace already has an outgoing event hook"
        );
        self
    }

    /// Adds a Tower layer around all handlers that were registered before, including the connect
    /// handler, the disconnect handler and the fallback.
    ///
    /// Handlers that are registered later are not affected. To add a layer around a single handler,
    /// use [`Handler::layer`].
    ///
    /// ```
    /// use tower::limit::GlobalConcurrencyLimitLayer;
    /// use tower_socketio::Namespace;
    ///
    /// async fn guarded() {}
    /// async fn free() {}
    ///
    /// let namespace: Namespace = Namespace::new()
    ///     .on("guarded", guarded)
    ///     .layer(GlobalConcurrencyLimitLayer::new(64))
    ///     .on("free", free);
    /// ```
    ///
    /// If no connect handler was registered before, the layer is around the default one, which
    /// accepts every client.
    ///
    /// # Order of layers
    ///
    /// A layer is around the layers that were added before it. So an event passes the layer that
    /// was added last first, and its reply passes it last:
    ///
    /// ```
    /// use tower_socketio::middleware::{self, Next};
    /// use tower_socketio::{ErrorReply, Event, Namespace, Reply, Socket};
    ///
    /// #[derive(Clone)]
    /// struct Admin;
    ///
    /// async fn connect(socket: Socket) {
    ///     socket.insert(Admin);
    /// }
    ///
    /// async fn log(event: Event, next: Next) -> Reply {
    ///     let name = event.name().to_owned();
    ///     let reply = next.run(event).await;
    ///     println!("{name} failed: {}", reply.is_err());
    ///     reply
    /// }
    ///
    /// async fn require_admin(event: Event, next: Next) -> Result<Reply, ErrorReply> {
    ///     if event.socket().extension::<Admin>().is_none() {
    ///         return Err(ErrorReply::new("admins only"));
    ///     }
    ///     Ok(next.run(event).await)
    /// }
    ///
    /// async fn ban() {}
    ///
    /// let namespace: Namespace = Namespace::new()
    ///     .on("ban", ban)
    ///     .layer(middleware::from_fn(require_admin))
    ///     .on_connect(connect)
    ///     .layer(middleware::from_fn(log));
    /// ```
    ///
    /// ```text
    /// event `ban` ──▶ log ──▶ require_admin ──▶ ban
    /// connect     ──▶ log ──▶ connect
    /// ```
    ///
    /// # Errors of layers
    ///
    /// The error of a layer is a reply, like the `Err` of a handler: its type implements
    /// [`IntoReply`]. The error of many layers of Tower is a boxed error: after a timeout the client
    /// receives "timed out", for an event that a load shed refuses "overloaded". Any other boxed
    /// error is logged, and the client receives "internal error". [`middleware`](crate::middleware)
    /// shows these layers, and how to answer with another text.
    ///
    /// # Disconnects
    ///
    /// A layer may refuse a connect or an event, but not a disconnect. If a layer answers a
    /// disconnect without calling the inner service, or panics, the disconnect handler still runs,
    /// without the layers and without the extensions that they added to the event. A timeout that
    /// expires while the handler runs ends the handler.
    ///
    /// So a layer can count disconnects or open a span around them, and a layer that refuses events
    /// needs no exception for disconnects. A layer that [`Handler::layer`] adds to the disconnect
    /// handler is part of that handler, and may skip it.
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<Route> + Clone + Send + Sync + 'static,
        L::Service: Service<Event, Response: IntoReply, Error: IntoReply, Future: Send>,
        L::Service: Clone + Send + Sync + 'static,
    {
        let server_events = std::mem::take(&mut self.server_events);
        let server_event_fallback = self.server_event_fallback.take();
        let mut disconnect = self.disconnect.take();
        if let Some(disconnect) = &mut disconnect {
            let layer = layer.clone();
            let wrap = move |route| Route::from_service(layer.layer(route));
            disconnect.layers.push(Box::new(wrap));
        }
        let layered = self.map(|handler| {
            let layer = layer.clone();
            Box::new(move |state| Route::from_service(layer.layer(handler(state))))
        });
        Self {
            disconnect,
            server_events,
            server_event_fallback,
            ..layered
        }
    }

    /// Sets how many events of one socket are handled at the same time.
    ///
    /// While `n` events are handled, further events of the socket wait, up to
    /// [`max_pending`](crate::SocketIoBuilder::max_pending) bytes. A higher limit lets later events
    /// start while a handler waits, but events may then complete out of order. With a limit of 1
    /// they complete in order, and a handler must not wait for another event of the same socket: it
    /// would wait for ever. [`Handler::concurrent`] exempts a single handler from the limit.
    ///
    /// Default: 1.
    ///
    /// # Panics
    ///
    /// Panics if `n` is 0.
    #[track_caller]
    pub fn max_concurrent_events(mut self, n: usize) -> Self {
        assert!(n > 0, "at least one event has to be handled at a time");
        self.max_concurrent = n;
        self
    }

    /// Provides the state of the handlers that were registered before. Handlers read it, or a part
    /// of it, with axum's `State`.
    ///
    /// Handlers that are registered later may have another state.
    ///
    /// ```
    /// use axum::extract::State;
    /// use tower_socketio::Namespace;
    ///
    /// async fn count(State(n): State<u32>) -> u32 {
    ///     n
    /// }
    ///
    /// let namespace: Namespace = Namespace::new().on("count", count).with_state(7);
    /// ```
    #[allow(
        clippy::needless_pass_by_value,
        reason = "as axum's `Router::with_state`"
    )]
    pub fn with_state<S2>(mut self, state: S) -> Namespace<S2> {
        self.bind_server_events(&state);
        self.map(|handler| {
            let route = handler(&state);
            Box::new(move |_: &S2| route)
        })
    }

    /// Exempts the namespace from recovery: its clients always get new sockets.
    #[cfg(feature = "admin-ui")]
    pub(crate) fn without_recovery(mut self) -> Self {
        self.hooks.skips_recovery = true;
        self
    }

    /// Describes the namespace for observers. `index` is the position among the definitions of the
    /// server, and `pattern` the path.
    pub(crate) fn define(mut self, index: usize, pattern: Option<&str>) -> Self {
        let mut events: Vec<Box<str>> = self.events.keys().cloned().collect();
        events.sort_unstable();
        self.hooks.definition = Arc::new(Definition {
            index,
            pattern: pattern.map(Into::into),
            events: events.into(),
        });
        self
    }

    pub(crate) fn build(mut self, state: &S) -> Routes {
        self.bind_server_events(state);
        let definition = Arc::clone(&self.hooks.definition);
        let event_route = |(name, handler): (Box<str>, EventHandler<S>)| {
            let index = definition.position(&name);
            let route = handler.into_route(state);
            (name.into(), EventRoute { index, ..route })
        };
        Routes {
            connect: (self.connect)(state),
            disconnect: self.disconnect.map(|handler| handler.into_route(state)),
            events: self.events.into_iter().map(event_route).collect(),
            fallback: self.fallback.map(|handler| handler.into_route(state)),
            max_concurrent: self.max_concurrent,
            hooks: Arc::new(self.hooks),
        }
    }

    /// Provides the state of the handlers of server events.
    fn bind_server_events(&mut self, state: &S) {
        for (name, handler) in self.server_events.drain() {
            self.hooks.server_events.insert(name, handler(state));
        }
        if let Some(handler) = self.server_event_fallback.take() {
            self.hooks.server_event_fallback = Some(handler(state));
        }
    }

    #[track_caller]
    fn insert<H, K>(mut self, event: &str, handler: H) -> Self
    where
        H: Handler<K, S>,
        K: 'static,
    {
        check_name(event);
        match self.events.entry(event.into()) {
            Entry::Vacant(entry) => entry.insert(EventHandler::new(handler)),
            Entry::Occupied(_) => {
                panic!("event `{event}` already has a handler in this namespace")
            }
        };
        self
    }
}

impl<S> Namespace<S> {
    /// Converts the handlers, but not those of server events.
    fn map<S2>(self, mut f: impl FnMut(BoxedIntoRoute<S>) -> BoxedIntoRoute<S2>) -> Namespace<S2> {
        Namespace {
            connect: f(self.connect),
            has_connect_handler: self.has_connect_handler,
            disconnect: self.disconnect.map(|disconnect| DisconnectHandler {
                handler: f(disconnect.handler),
                layers: disconnect.layers,
            }),
            events: self
                .events
                .into_iter()
                .map(|(name, handler)| (name, handler.map(&mut f)))
                .collect(),
            fallback: self.fallback.map(|handler| handler.map(&mut f)),
            max_concurrent: self.max_concurrent,
            server_events: HashMap::new(),
            server_event_fallback: None,
            hooks: self.hooks,
            declared: self.declared,
        }
    }
}

impl<S> Default for Namespace<S>
where
    S: Clone + Send + Sync + 'static,
{
    fn default() -> Self {
        Self::new()
    }
}

impl<S> fmt::Debug for Namespace<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Namespace")
            .field("events", &self.events.keys())
            .field("max_concurrent_events", &self.max_concurrent)
            .finish_non_exhaustive()
    }
}

/// The handlers of a namespace, with their state and layers.
#[derive(Debug)]
pub(crate) struct Routes {
    /// The connect handler.
    pub(crate) connect: Route,
    /// The disconnect handler.
    pub(crate) disconnect: Option<DisconnectRoute>,
    /// The handlers by event name.
    pub(crate) events: HashMap<Box<[u8]>, EventRoute, IdHash>,
    /// The handler of events that are not in `events`.
    pub(crate) fallback: Option<EventRoute>,
    /// The maximum number of events of a socket that are handled at the same time.
    pub(crate) max_concurrent: usize,
    /// The hooks of the namespace.
    pub(crate) hooks: Arc<Hooks>,
}

/// The handler of an event, or the fallback.
#[derive(Debug)]
pub(crate) struct EventRoute {
    pub(crate) route: Route,
    /// Whether other handlers need not wait for this one.
    pub(crate) is_concurrent: bool,
    /// The index of the event for observers.
    pub(crate) index: EventIndex,
}

/// A disconnect handler.
#[derive(Debug)]
pub(crate) struct DisconnectRoute {
    /// The handler with the layers around it, if there are any.
    pub(crate) layered: Option<Route>,
    /// The handler without the layers, for a disconnect that a layer does not pass on.
    pub(crate) bare: Route,
}

impl Routes {
    /// Returns the handler of an event, or the fallback.
    pub(crate) fn find(&self, name: impl AsRef<[u8]>) -> Option<&EventRoute> {
        self.events.get(name.as_ref()).or(self.fallback.as_ref())
    }
}

async fn accept() {}

fn boxed<H, K, S>(handler: H) -> BoxedIntoRoute<S>
where
    H: Handler<K, S>,
    K: 'static,
    S: Clone + Send + Sync + 'static,
{
    Box::new(|state| handler.into_route(state.clone()))
}

#[track_caller]
fn check_name(event: &str) {
    match event {
        "connect" => panic!("`connect` is not an event: use `on_connect`"),
        "disconnect" | "disconnecting" => {
            panic!("`{event}` is not an event: use `on_disconnect`")
        }
        "connect_error" | "newListener" | "removeListener" => panic!(
            "`{event}` is reserved and cannot be sent; for connects and disconnects use `on_connect` and `on_disconnect`"
        ),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn nothing() {}

    fn namespace() -> Namespace {
        Namespace::new()
    }

    #[test]
    #[should_panic(expected = "event `say` already has a handler in this namespace")]
    fn an_event_has_one_handler() {
        let _ = namespace().on("say", nothing).on("say", nothing);
    }

    #[test]
    #[should_panic(expected = "use `on_connect`")]
    fn connect_is_not_an_event() {
        let _ = namespace().on("connect", nothing);
    }

    #[test]
    #[should_panic(expected = "is reserved")]
    fn a_reserved_name_is_refused() {
        let _ = namespace().on("newListener", nothing);
    }

    #[test]
    #[should_panic(expected = "already has a connect handler")]
    fn there_is_one_connect_handler() {
        let _ = namespace().on_connect(nothing).on_connect(nothing);
    }

    #[test]
    fn routes_are_found_by_name() {
        let routes = namespace()
            .on("a", nothing)
            .on("b", nothing.concurrent())
            .max_concurrent_events(3)
            .build(&());
        assert!(routes.find("a").is_some_and(|found| !found.is_concurrent));
        assert!(routes.find("b").is_some_and(|found| found.is_concurrent));
        assert!(routes.find("c").is_none());
        assert!(routes.disconnect.is_none());
        assert_eq!(routes.max_concurrent, 3);

        let routes = namespace().fallback(nothing).build(&());
        assert!(routes.find("c").is_some());
    }
}
