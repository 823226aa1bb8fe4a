//! Which handler takes which event.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::Arc;

use tower_layer::Layer;
use tower_service::Service;

use super::handler::{OnConnect, OnEvent, OnTyped};
use super::{Event, Handler, IntoReply, Route};
use crate::handles::Socket;
use crate::hub::RoomEvent;
use crate::hub::hooks::Hooks;
use crate::hub::member::Member;
use crate::hub::rooms::IdHash;
use crate::protocol::{RawArgs, TypedEvent};

/// The handlers of a namespace, registered once for all its sockets.
///
/// It is to events what axum's `Router` is to requests. `S` is the state that the handlers still
/// wait for.
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
/// The connect handler ends before the client is told that it is connected, and before its first
/// event is handled. The events of a socket are handled in order, one at a time; see
/// [`max_concurrent_events`](Self::max_concurrent_events). The disconnect handler is last.
#[must_use]
pub struct Namespace<S = ()> {
    connect: Pending<S>,
    /// Whether the connect handler is not the default one.
    connects: bool,
    disconnect: Option<PendingDisconnect<S>>,
    events: HashMap<Box<str>, (Pending<S>, bool)>,
    fallback: Option<(Pending<S>, bool)>,
    max_concurrent: usize,
    hooks: Hooks,
}

/// A handler that waits for its state.
type Pending<S> = Box<dyn FnOnce(&S) -> Route + Send>;

/// A disconnect handler that waits for its state, and the layers around it, the innermost first.
struct PendingDisconnect<S> {
    handler: Pending<S>,
    layers: Vec<Box<dyn FnOnce(Route) -> Route + Send>>,
}

impl<S> PendingDisconnect<S> {
    fn build(self, state: &S) -> DisconnectRoute {
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
    /// A namespace without handlers. Everybody may connect.
    pub fn new() -> Self {
        Self {
            connect: pending::<_, OnConnect<()>, _>(accept),
            connects: false,
            disconnect: None,
            events: HashMap::new(),
            fallback: None,
            max_concurrent: 1,
            hooks: Hooks::default(),
        }
    }

    /// Registers the handler of an event.
    ///
    /// What it returns is the acknowledgement, if the client asks for one.
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
    /// If the event already has a handler, or its name is reserved: `connect`, `connect_error`,
    /// `disconnect`, `disconnecting`, `newListener`, `removeListener`.
    #[track_caller]
    pub fn on<H, T>(self, event: &str, handler: H) -> Self
    where
        H: Handler<OnEvent<T>, S>,
        T: 'static,
    {
        self.insert(event, handler)
    }

    /// Registers the handler of a typed event, which is its first argument.
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
    /// As [`on`](Self::on).
    #[track_caller]
    pub fn on_typed<H, E, T>(self, handler: H) -> Self
    where
        H: Handler<OnTyped<(E, T)>, S>,
        E: TypedEvent,
        T: 'static,
    {
        self.insert(E::NAME, handler)
    }

    /// Registers the connect handler: who may connect, and what is to be done before anything
    /// else.
    ///
    /// It takes any extractor of axum. The client is told that it is connected when the handler
    /// has ended, or why not if it returned an `Err`. What the handler emits follows that.
    ///
    /// A loop that lasts as long as the connection belongs in a task of its own, not here.
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
    /// If there is a connect handler already.
    #[track_caller]
    pub fn on_connect<H, T>(mut self, handler: H) -> Self
    where
        H: Handler<OnConnect<T>, S>,
        T: 'static,
    {
        assert!(
            !self.connects,
            "this namespace already has a connect handler"
        );
        self.connects = true;
        self.connect = pending(handler);
        self
    }

    /// Registers the handler that runs when a socket is gone, after all its events.
    ///
    /// It runs for every socket that was let in, whatever the namespace's [`layer`](Self::layer)s
    /// answer.
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
    /// If there is a disconnect handler already.
    #[track_caller]
    pub fn on_disconnect<H, T>(mut self, handler: H) -> Self
    where
        H: Handler<OnEvent<T>, S>,
        T: 'static,
    {
        let before = self.disconnect.replace(PendingDisconnect {
            handler: pending(handler),
            layers: Vec::new(),
        });
        assert!(
            before.is_none(),
            "this namespace already has a disconnect handler"
        );
        self
    }

    /// Registers the handler of events that have none. Without it they are answered with
    /// `{"error": "no handler for this event"}`, if an answer is wanted.
    ///
    /// # Panics
    ///
    /// If there is a fallback already.
    #[track_caller]
    pub fn fallback<H, T>(mut self, handler: H) -> Self
    where
        H: Handler<OnEvent<T>, S>,
        T: 'static,
    {
        let concurrent = handler.is_concurrent();
        let before = self.fallback.replace((pending(handler), concurrent));
        assert!(before.is_none(), "this namespace already has a fallback");
        self
    }

    /// Registers what is told of the rooms: when one comes to be, when a socket joins or leaves
    /// it, and when it is no more.
    ///
    /// It is told in the order in which things happened, of one after another, and may join, leave
    /// and emit. A socket's own room is there from the moment that the client is in, and is the
    /// first that it leaves.
    ///
    /// It must not block. Whoever changes a room calls it for some of the changes that wait, also
    /// for those of others, and a task of the namespace calls it for the rest. Beyond 4 096 changes
    /// that wait, whoever changes a room waits for its turn and calls it for as many changes as it
    /// has made: a hook that is too slow slows down those who join and leave.
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
    /// If there is one already.
    #[track_caller]
    pub fn on_room_event(mut self, hook: impl Fn(RoomEvent) + Send + Sync + 'static) -> Self {
        let before = self.hooks.room.replace(Box::new(hook));
        assert!(
            before.is_none(),
            "this namespace is told of its rooms already"
        );
        self
    }

    /// Registers what is told of each event that is sent to a socket of this namespace, of those
    /// for many clients too, and of volatile ones that are dropped then. Acknowledgements are not
    /// told of.
    ///
    /// It is called before the event is queued, with the socket, the name and the arguments, and
    /// must not block. Incoming events pass through [`layer`](Self::layer)s.
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
    /// If there is one already.
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
            "this namespace is told of what is sent already"
        );
        self
    }

    /// Puts a Tower layer around every handler that was added before, those of connect and
    /// disconnect too. A layer that is added later is around those added before.
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
    /// As long as no connect handler was added, the layer is around the default one, which lets
    /// everybody in.
    ///
    /// What the layers of Tower fail with is logged, and the client is told "internal error".
    ///
    /// # Disconnects
    ///
    /// A layer may refuse a connect or an event, but not a disconnect. If a layer answers a
    /// disconnect without calling the inner service, or panics, the disconnect handler still runs:
    /// without the layers, and without what they put into the event's extensions. A timeout that
    /// expires while the handler runs ends the handler.
    ///
    /// So a layer can count disconnects or open a span around them, and a layer that refuses events
    /// needs no exception for them. A layer that [`Handler::layer`] puts around the disconnect
    /// handler is part of that handler, and may skip it.
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<Route> + Clone + Send + Sync + 'static,
        L::Service: Service<Event, Response: IntoReply, Error: IntoReply, Future: Send>,
        L::Service: Clone + Send + Sync + 'static,
    {
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
            ..layered
        }
    }

    /// How many events of one socket may be handled at the same time; 1 by default, which keeps
    /// them in order.
    ///
    /// More lets a client go on while a handler waits, at the price of order. While so many are
    /// handled the socket's transport is not read. With 1, a handler must not wait for another
    /// event of the same socket: it would wait for ever.
    ///
    /// # Panics
    ///
    /// If `n` is 0.
    #[track_caller]
    pub fn max_concurrent_events(mut self, n: usize) -> Self {
        assert!(n > 0, "at least one event has to be handled at a time");
        self.max_concurrent = n;
        self
    }

    /// Gives the handlers their state, from which they take parts with axum's `State`.
    ///
    /// What is registered afterwards can have another one.
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
    pub fn with_state<S2>(self, state: S) -> Namespace<S2> {
        self.map(|handler| {
            let route = handler(&state);
            Box::new(move |_: &S2| route)
        })
    }

    /// Gives the handlers their state, and is done.
    pub(crate) fn build(self, state: &S) -> Routes {
        Routes {
            connect: (self.connect)(state),
            disconnect: self.disconnect.map(|handler| handler.build(state)),
            events: self
                .events
                .into_iter()
                .map(|(name, (handler, concurrent))| (name.into(), (handler(state), concurrent)))
                .collect(),
            fallback: self
                .fallback
                .map(|(handler, concurrent)| (handler(state), concurrent)),
            max_concurrent: self.max_concurrent,
            hooks: Arc::new(self.hooks),
        }
    }

    #[track_caller]
    fn insert<H, K>(mut self, event: &str, handler: H) -> Self
    where
        H: Handler<K, S>,
        K: 'static,
    {
        check_name(event);
        let concurrent = handler.is_concurrent();
        match self.events.entry(event.into()) {
            Entry::Vacant(entry) => entry.insert((pending(handler), concurrent)),
            Entry::Occupied(_) => {
                panic!("event `{event}` already has a handler in this namespace")
            }
        };
        self
    }
}

impl<S> Namespace<S> {
    fn map<S2>(self, mut f: impl FnMut(Pending<S>) -> Pending<S2>) -> Namespace<S2> {
        Namespace {
            connect: f(self.connect),
            connects: self.connects,
            disconnect: self.disconnect.map(|disconnect| PendingDisconnect {
                handler: f(disconnect.handler),
                layers: disconnect.layers,
            }),
            events: self
                .events
                .into_iter()
                .map(|(name, (handler, concurrent))| (name, (f(handler), concurrent)))
                .collect(),
            fallback: self
                .fallback
                .map(|(handler, concurrent)| (f(handler), concurrent)),
            max_concurrent: self.max_concurrent,
            hooks: self.hooks,
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

/// The handlers of a namespace, ready to be called.
#[derive(Debug)]
pub(crate) struct Routes {
    /// Who may connect.
    pub(crate) connect: Route,
    /// When a socket is gone.
    pub(crate) disconnect: Option<DisconnectRoute>,
    /// By name; and whether other events need not wait for it.
    pub(crate) events: HashMap<Box<[u8]>, (Route, bool), IdHash>,
    /// For the events that are not in `events`.
    pub(crate) fallback: Option<(Route, bool)>,
    /// How many events of a socket are handled at the same time.
    pub(crate) max_concurrent: usize,
    /// What wants to be told.
    pub(crate) hooks: Arc<Hooks>,
}

/// A disconnect handler.
#[derive(Debug)]
pub(crate) struct DisconnectRoute {
    /// With the layers around it, if there are any.
    pub(crate) layered: Option<Route>,
    /// Without them, for a disconnect that they keep from it.
    pub(crate) bare: Route,
}

impl Routes {
    /// The handler of an event, and whether other events need not wait for it.
    pub(crate) fn find(&self, name: impl AsRef<[u8]>) -> Option<&(Route, bool)> {
        self.events.get(name.as_ref()).or(self.fallback.as_ref())
    }
}

async fn accept() {}

fn pending<H, K, S>(handler: H) -> Pending<S>
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
        "connect" => panic!("`connect` is no event: use `on_connect`"),
        "disconnect" | "disconnecting" => {
            panic!("`{event}` is no event: use `on_disconnect`")
        }
        "connect_error" | "newListener" | "removeListener" => panic!(
            "`{event}` is reserved and cannot be sent; use `on_connect` and `on_disconnect` for what is no event"
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
    fn connect_is_no_event() {
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
        assert!(routes.find("a").is_some_and(|(_, concurrent)| !concurrent));
        assert!(routes.find("b").is_some_and(|&(_, concurrent)| concurrent));
        assert!(routes.find("c").is_none());
        assert!(routes.disconnect.is_none());
        assert_eq!(routes.max_concurrent, 3);

        let routes = namespace().fallback(nothing).build(&());
        assert!(routes.find("c").is_some());
    }
}
