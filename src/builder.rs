//! The builder of a server.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures_core::future::BoxFuture;

use crate::cluster::{self, BoxBroker, Broker, Cluster};
#[cfg(feature = "schema")]
use crate::contract::{Contract, Watch};
use crate::engine_io::{Config, HIGH_WATER, Transport, check_time};
use crate::handles::SocketIo;
use crate::hub::hooks::NamespaceHook;
use crate::hub::observer::{Observer, Observers};
use crate::hub::other_servers::OtherServers;
use crate::hub::sessions::Sessions;
use crate::hub::{Hub, Limits, Recovery};
use crate::layer::SocketIoLayer;
use crate::protocol::{JsonParser, MAX_NAME, Parser, for_server};
use crate::routing::{Namespace, NamespaceRequest, Predicate, Routes};
use crate::server::Server;
use crate::transport::{Cors, HttpOptions, HttpService, server_path};

mod summary;

impl SocketIo {
    /// Returns a builder for a server.
    pub fn builder<S>() -> SocketIoBuilder<S> {
        SocketIoBuilder::new()
    }
}

/// A builder for a Socket.IO server: its namespaces, its limits and its HTTP options.
///
/// `S` is the state that the handlers still need, as in axum's `Router<S>`.
/// [`with_state`](Self::with_state) provides it.
///
/// ```
/// use std::time::Duration;
/// use tower_socketio::{Namespace, SocketIo};
///
/// let (layer, io) = SocketIo::builder()
///     .namespace("/", Namespace::new())
///     .ping_interval(Duration::from_secs(10))
///     .max_payload(100_000)
///     .build();
/// ```
#[must_use]
pub struct SocketIoBuilder<S = ()> {
    namespaces: Vec<(String, Namespace<S>)>,
    matched: Vec<(Predicate, Namespace<S>)>,
    created: NamespaceHook,
    config: Config,
    limits: Limits,
    http: HttpOptions,
    path: Box<str>,
    connect_timeout: Duration,
    max_connections: Option<usize>,
    recovery: Option<Recovery>,
    broker: Option<BoxBroker>,
    parser: Arc<dyn Parser>,
    observers: Vec<Arc<dyn Observer>>,
}

impl<S> SocketIoBuilder<S> {
    fn new() -> Self {
        Self {
            namespaces: Vec::new(),
            matched: Vec::new(),
            created: NamespaceHook::default(),
            config: Config::default(),
            limits: Limits::default(),
            http: HttpOptions::new(),
            path: "/socket.io".into(),
            connect_timeout: Duration::from_secs(45),
            max_connections: None,
            recovery: None,
            broker: None,
            parser: Arc::new(JsonParser::default()),
            observers: Vec::new(),
        }
    }

    /// Adds a namespace.
    ///
    /// The path may have parameters, as in `/orders/{shop}`. The server then has one namespace for
    /// each matching name that a client connects to. Such a namespace is created when its first
    /// client joins, and removed when its last client has left. With [recovery](Self::recovery) it stays
    /// while a client that was lost may come back. Handlers read the parameters with
    /// [`Params`](crate::Params).
    ///
    /// ```
    /// use tower_socketio::{Namespace, Params, Socket, SocketIo};
    ///
    /// async fn connect(socket: Socket, Params(shop): Params<String>) {
    ///     socket.emit("welcome", shop);
    /// }
    ///
    /// let orders: Namespace = Namespace::new().on_connect(connect);
    /// let (layer, io) = SocketIo::builder()
    ///     .namespace("/", Namespace::new())
    ///     .namespace("/orders/{shop}", orders)
    ///     .build();
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if the path does not begin with a slash, contains a comma, is longer than 255 bytes, or was
    /// added before.
    #[track_caller]
    pub fn namespace(mut self, path: &str, namespace: Namespace<S>) -> Self {
        assert!(
            path.starts_with('/') && !path.contains(','),
            "namespace `{path}` must begin with a slash and hold no comma"
        );
        assert!(
            path.len() <= MAX_NAME || path.contains('{'),
            "namespace `{path}` is longer than {MAX_NAME} bytes: no client can join it"
        );
        assert!(
            self.namespaces.iter().all(|(other, _)| other != path),
            "namespace `{path}` is there already"
        );
        self.namespaces.push((path.to_owned(), namespace));
        self
    }

    /// Adds a namespace for each name that a predicate accepts.
    ///
    /// If a client connects to a namespace that no path matches, the server calls the predicates
    /// in the order in which they were added. The first one that returns `true` decides which
    /// handlers serve the namespace. The namespace is removed when its last client has left. With
    /// [recovery](Self::recovery) it stays while a client that was lost may come back.
    ///
    /// The server calls a predicate for every client that connects. If the namespace exists, it
    /// calls only the predicate that created it. A predicate may wait: packets that the client
    /// sends to the namespace in the meantime are queued.
    ///
    /// ```
    /// use tower_socketio::{Namespace, NamespaceRequest, SocketIo};
    ///
    /// // The equivalent of `/^\/dynamic-\d+$/` in JavaScript.
    /// async fn is_dynamic(request: NamespaceRequest) -> bool {
    ///     let number = request.name().strip_prefix("/dynamic-");
    ///     number.is_some_and(|number| number.parse::<u32>().is_ok())
    /// }
    ///
    /// let (layer, io) = SocketIo::builder()
    ///     .namespace("/", Namespace::new())
    ///     .namespace_if(is_dynamic, Namespace::new())
    ///     .build();
    /// ```
    pub fn namespace_if<F, Fut>(mut self, is_there: F, namespace: Namespace<S>) -> Self
    where
        F: Fn(NamespaceRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = bool> + Send + 'static,
    {
        let predicate = move |request| -> BoxFuture<'static, bool> { Box::pin(is_there(request)) };
        self.matched.push((Box::new(predicate), namespace));
        self
    }

    /// Registers a hook that runs when a namespace is created, except for `/`.
    ///
    /// The hook gets the name of the namespace. It runs during [`build`](SocketIoBuilder::build)
    /// for a static namespace, and whenever the first client joins a dynamic one. It must not
    /// block. A second call replaces the hook.
    ///
    /// ```
    /// use tower_socketio::{Namespace, SocketIo};
    ///
    /// let (layer, io) = SocketIo::builder()
    ///     .namespace("/orders/{shop}", Namespace::new())
    ///     .on_namespace(|name: &str| println!("{name} is open"))
    ///     .build();
    /// ```
    pub fn on_namespace(mut self, hook: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.created = NamespaceHook(Some(Box::new(hook)));
        self
    }

    /// Sets the path of the HTTP requests. The server also serves what is below the path, and
    /// matches whole segments.
    ///
    /// Default: `/socket.io`.
    ///
    /// # Panics
    ///
    /// Panics if the path does not begin with a slash.
    #[track_caller]
    pub fn path(mut self, path: &str) -> Self {
        self.path = server_path(path);
        self
    }

    /// Sets the time from a client's pong to the next ping.
    ///
    /// A shorter interval detects a lost client sooner, and costs one packet in each direction. An
    /// interval of more than 12 days counts as 12 days, the longest that the timers of clients
    /// support.
    ///
    /// Default: 25 s.
    ///
    /// # Panics
    ///
    /// Panics if the interval is zero.
    #[track_caller]
    pub fn ping_interval(mut self, interval: Duration) -> Self {
        check_time("ping_interval", interval);
        self.config.ping_interval = interval;
        self
    }

    /// Sets how long the server waits for a pong, and for queued bytes to leave.
    ///
    /// After that time the connection is closed with
    /// [`DisconnectReason::PingTimeout`](crate::DisconnectReason::PingTimeout). A longer timeout
    /// spares clients on bad networks. A shorter one frees the memory of lost clients sooner.
    /// [`Duration::MAX`] disables the timeout.
    ///
    /// Default: 20 s.
    ///
    /// # Panics
    ///
    /// Panics if the timeout is zero.
    #[track_caller]
    pub fn ping_timeout(mut self, timeout: Duration) -> Self {
        check_time("ping_timeout", timeout);
        self.config.ping_timeout = timeout;
        self
    }

    /// Sets how long an upgrade from polling to WebSocket may take.
    ///
    /// After that time the upgrade fails, and the session continues with polling.
    /// [`Duration::MAX`] disables the timeout. [`upgrades`](Self::upgrades) disables upgrades.
    ///
    /// Default: 10 s.
    ///
    /// # Panics
    ///
    /// Panics if the timeout is zero.
    #[track_caller]
    pub fn upgrade_timeout(mut self, timeout: Duration) -> Self {
        check_time("upgrade_timeout", timeout);
        self.config.upgrade_timeout = timeout;
        self
    }

    /// Sets how long a client may take to join its first namespace.
    ///
    /// After that time the connection is closed. [`Duration::MAX`] disables the timeout.
    ///
    /// Default: 45 s.
    ///
    /// # Panics
    ///
    /// Panics if the timeout is zero.
    #[track_caller]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        check_time("connect_timeout", timeout);
        self.connect_timeout = timeout;
        self
    }

    /// Sets the maximum length of a message, a WebSocket frame and a polling body, in bytes.
    ///
    /// A longer message or frame closes the WebSocket with code 1009, and its sockets leave with
    /// [`DisconnectReason::TooBig`](crate::DisconnectReason::TooBig). A longer body is refused with
    /// status 413. The server may hold this many bytes in memory for each client that sends. Of a
    /// polling body it may hold half as much again, because the official client does not count
    /// the full length of base64.
    ///
    /// It also limits what a client may send before it answers a ping: 64 times as much, or 64 times
    /// [`max_pending`](Self::max_pending) if that is more.
    ///
    /// Default: 1 000 000.
    pub fn max_payload(mut self, bytes: usize) -> Self {
        self.config.max_payload = bytes;
        self
    }

    /// Sets how many bytes may be queued for one client.
    ///
    /// If more are queued, the connection is closed with
    /// [`DisconnectReason::SlowConsumer`](crate::DisconnectReason::SlowConsumer). While more than
    /// 256 KiB are queued, or this limit if it is lower, the server does not read the client's
    /// input.
    ///
    /// Default: 4 MiB.
    pub fn max_buffered(mut self, bytes: usize) -> Self {
        self.config.max_buffered = bytes;
        self.config.high_water = HIGH_WATER.min(bytes);
        self
    }

    /// Sets how many bytes of one client's events may wait for their handlers.
    ///
    /// If more wait, the server does not read the client's input until the handlers have caught
    /// up.
    ///
    /// An acknowledgement arrives behind the events that the client sent before it. So while the
    /// server waits for one, it reads four times as much. If that limit is reached too, and no
    /// handler begins and no wait for an acknowledgement ends within one whole
    /// [`ping_timeout`](Self::ping_timeout) of a missing pong, the connection is closed with
    /// [`DisconnectReason::EventBacklog`](crate::DisconnectReason::EventBacklog). A shorter
    /// [timeout](crate::EmitWithAck::timeout) of the acknowledgement avoids that.
    ///
    /// Default: 256 KiB.
    pub fn max_pending(mut self, bytes: usize) -> Self {
        self.config.max_pending = bytes;
        self
    }

    /// Sets how many rooms one socket may be in.
    ///
    /// At the limit the socket joins no further room. All rooms of a connection also count against
    /// [`max_kept`](Self::max_kept).
    ///
    /// Default: 1 000.
    pub fn max_rooms(mut self, rooms: usize) -> Self {
        self.limits.rooms_per_socket = rooms;
        self
    }

    /// Sets how many namespaces one connection may be in.
    ///
    /// At the limit a further CONNECT is refused with a `connect_error`. Sockets that have left
    /// and whose handlers still run do not count, up to as many again.
    ///
    /// Default: 64.
    pub fn max_namespaces(mut self, namespaces: usize) -> Self {
        self.limits.namespaces_per_session = namespaces;
        self
    }

    /// Sets the maximum length of the `auth` of a CONNECT, in bytes of JSON.
    ///
    /// A CONNECT with a longer one is refused with a `connect_error`. The client's connection and
    /// its other namespaces are not affected. The server keeps `auth` with the socket, for
    /// [`Socket::handshake`](crate::Socket::handshake). The query that a Socket.IO 2 client sends
    /// with a namespace counts as its `auth`.
    ///
    /// Default: 32 KiB.
    pub fn max_auth(mut self, bytes: usize) -> Self {
        self.limits.auth = bytes;
        self
    }

    /// Sets the maximum length of the head of a request that opens a connection, in bytes: of its
    /// URI and the names and values of its headers.
    ///
    /// A request with a longer head is refused with status 431. The server keeps the head as long
    /// as the connection, for [`Socket::request_parts`](crate::Socket::request_parts). The HTTP
    /// server has its own limit for all requests.
    ///
    /// Default: 32 KiB.
    pub fn max_handshake(mut self, bytes: usize) -> Self {
        self.config.max_handshake = bytes;
        self
    }

    /// Sets how many bytes the server keeps for one connection until it ends: the `auth`, the
    /// namespace names, the rooms, the data and the [presence](crate::Presence) entries of all its
    /// sockets.
    ///
    /// If the limit would be exceeded, a CONNECT is refused with a `connect_error`, a room is not
    /// joined, and [`Socket::set_data`](crate::Socket::set_data) fails. A room counts as the length
    /// of its name and 512 bytes, a presence entry as that of its texts and 512 bytes. Values of [`Socket::insert`](crate::Socket::insert) do not count,
    /// because their size is not known.
    ///
    /// Default: 512 KiB.
    pub fn max_kept(mut self, bytes: usize) -> Self {
        self.limits.kept = bytes;
        self
    }

    /// Sets how many dynamic namespaces may exist at a time: those of paths with parameters and
    /// those of [`namespace_if`](Self::namespace_if).
    ///
    /// At the limit a further one takes the place of one whose clients are all lost: they cannot recover
    /// then. If there is none, the CONNECT is refused with a `connect_error`.
    ///
    /// Default: 10 000.
    pub fn max_dynamic_namespaces(mut self, namespaces: usize) -> Self {
        self.limits.dynamic_namespaces = namespaces;
        self
    }

    /// Sets how many clients may be connected. `None` removes the limit.
    ///
    /// At the limit further clients are refused with status 503.
    ///
    /// Default: no limit.
    pub fn max_connections(mut self, connections: impl Into<Option<usize>>) -> Self {
        self.max_connections = connections.into();
        self
    }

    /// Sets the transports that the server offers.
    ///
    /// Without polling, clients have to begin with WebSocket.
    ///
    /// Default: both.
    ///
    /// # Panics
    ///
    /// Panics if `transports` is empty.
    #[track_caller]
    pub fn transports(mut self, transports: &[Transport]) -> Self {
        assert!(!transports.is_empty(), "a server needs a transport");
        self.config.polling = transports.contains(&Transport::Polling);
        self.config.websocket = transports.contains(&Transport::WebSocket);
        self
    }

    /// Sets whether sessions may change from polling to WebSocket.
    ///
    /// If `false`, the server does not offer upgrades, and refuses them.
    ///
    /// Default: `true`.
    pub fn upgrades(mut self, enabled: bool) -> Self {
        self.config.upgrades = enabled;
        self
    }

    /// Sets the length from which WebSocket messages are compressed, in bytes, if the client offers
    /// `permessage-deflate`.
    ///
    /// `None` disables compression. Compression costs the time to compress a message for each of
    /// its receivers, but no memory for a connection. Node's server begins at 1024 bytes.
    ///
    /// Default: `None`.
    pub fn deflate_threshold(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.config.deflate_threshold = bytes.into();
        self
    }

    /// Sets the HTTP options: the allowed origins, cookies and headers.
    ///
    /// All options that were set before are replaced, those of [`cors`](Self::cors) too.
    ///
    /// Default: [`HttpOptions::new`].
    pub fn http(mut self, options: HttpOptions) -> Self {
        self.http = options;
        self
    }

    /// Sets which pages of other origins may use the server.
    ///
    /// This is a shorthand for [`HttpOptions::cors`].
    ///
    /// Default: no CORS headers; [`Origins`](crate::Origins) says which pages may connect then.
    pub fn cors(mut self, cors: impl Into<Cors>) -> Self {
        self.http = self.http.cors(cors);
        self
    }

    /// Sets whether the server serves Socket.IO 2 clients, which speak revision 3 of Engine.IO and
    /// revision 4 of the Socket.IO protocol.
    ///
    /// If `true`, a request that names no revision counts as one of revision 3. Such a client joins
    /// `/` without a CONNECT packet. For another namespace it sends a query, which
    /// [`Auth`](crate::Auth) reads.
    ///
    /// Such a client uses its session id, which is secret, as its socket id. In `/`
    /// [`Socket::id`](crate::Socket::id) is the first 20 characters of the session id. In other
    /// namespaces it is an id that the client does not know.
    ///
    /// Default: `false`.
    ///
    /// ```
    /// use tower_socketio::{Namespace, SocketIo};
    ///
    /// let (layer, io) = SocketIo::builder()
    ///     .namespace("/", Namespace::new())
    ///     .allow_eio3(true)
    ///     .build();
    /// ```
    pub fn allow_eio3(mut self, enabled: bool) -> Self {
        self.config.allow_eio3 = enabled;
        self
    }

    /// Enables connection state recovery: a client that lost its connection and comes back in time
    /// restores its socket. See [`Recovery`].
    ///
    /// Default: disabled.
    pub fn recovery(mut self, recovery: Recovery) -> Self {
        self.recovery = Some(recovery);
        self
    }

    /// Makes this server one of a cluster. The broker carries messages to the other servers. See
    /// [`cluster`](crate::cluster).
    ///
    /// [`build`](Self::build) starts the broker, so it must be called in a tokio runtime.
    ///
    /// ```
    /// use tower_socketio::cluster::Memory;
    /// use tower_socketio::{Namespace, SocketIo};
    ///
    /// # let runtime = tokio::runtime::Runtime::new().unwrap();
    /// # let _guard = runtime.enter();
    /// let (layer, io) = SocketIo::builder()
    ///     .namespace("/", Namespace::new())
    ///     .cluster(Memory::new())
    ///     .build();
    /// ```
    ///
    /// Default: no cluster.
    ///
    /// # Panics
    ///
    /// Panics if the server already has a broker.
    #[track_caller]
    pub fn cluster(mut self, broker: impl Broker) -> Self {
        let before = self.broker.replace(cluster::boxed(broker));
        assert!(before.is_none(), "this server already has a broker");
        self
    }

    /// Sets the parser, which encodes and decodes packets. Clients must use the same one.
    ///
    /// The [`protocol`](crate::protocol) module has a parser for MessagePack. [`Parser`] shows how
    /// to implement another. The limits of a parser, such as the number of attachments in a
    /// packet, are set on the parser.
    ///
    /// Default: [`JsonParser`].
    pub fn parser(mut self, parser: impl Parser + 'static) -> Self {
        self.parser = for_server(parser);
        self
    }
}

impl<S: Clone + Send + Sync + 'static> SocketIoBuilder<S> {
    /// Provides the state of the handlers in all namespaces. Handlers read it with axum's `State`.
    ///
    /// ```
    /// use axum::extract::State;
    /// use tower_socketio::{Namespace, SocketIo};
    ///
    /// async fn count(State(n): State<u32>) -> u32 {
    ///     n
    /// }
    ///
    /// let (layer, io) = SocketIo::builder()
    ///     .namespace("/", Namespace::new().on("count", count))
    ///     .with_state(7_u32)
    ///     .build();
    /// ```
    pub fn with_state<S2>(self, state: S) -> SocketIoBuilder<S2> {
        let namespaces = self.namespaces.into_iter();
        let matched = self.matched.into_iter();
        let with_state =
            |(path, namespace): (_, Namespace<S>)| (path, namespace.with_state(state.clone()));
        SocketIoBuilder {
            namespaces: namespaces.map(with_state).collect(),
            matched: matched
                .map(|(predicate, namespace)| (predicate, namespace.with_state(state.clone())))
                .collect(),
            created: self.created,
            config: self.config,
            limits: self.limits,
            http: self.http,
            path: self.path,
            connect_timeout: self.connect_timeout,
            max_connections: self.max_connections,
            recovery: self.recovery,
            broker: self.broker,
            parser: self.parser,
            observers: self.observers,
        }
    }
}

#[cfg(feature = "schema")]
impl<S> SocketIoBuilder<S> {
    /// Returns the contract of the server: the events that its namespaces declare, with
    /// [`receives`](Namespace::receives) and [`sends`](Namespace::sends).
    ///
    /// Only namespaces that were added before are in it. See [`contract`](crate::contract).
    #[must_use]
    pub fn contract(&self) -> Contract {
        let named = self.namespaces.iter();
        let named = named.map(|(path, namespace)| namespace.contract(Some(path)));
        let matched = self.matched.iter();
        let matched = matched.map(|(_, namespace)| namespace.contract(None));
        Contract::new(named.chain(matched))
    }

    /// Watches, in a test, whether the namespaces that were added before send only the events that
    /// they declare. See [`Watch`].
    pub fn watch_contract(mut self, watch: &Watch) -> Self {
        for (path, namespace) in &mut self.namespaces {
            namespace.watch(Some(path), watch);
        }
        for (_, namespace) in &mut self.matched {
            namespace.watch(None, watch);
        }
        self
    }
}

#[cfg(any(feature = "admin-ui", feature = "metrics"))]
impl<S> SocketIoBuilder<S> {
    /// Adds an observer of the server.
    pub(crate) fn observe(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observers.push(observer);
        self
    }
}

impl SocketIoBuilder {
    /// Builds the layer and the handle.
    ///
    /// The layer serves the clients of an axum `Router`. The handle sends to them from anywhere in
    /// the application.
    ///
    /// The handle does not keep the server alive. If the layer is dropped and no service was made of
    /// it, the server ends, and so does its broker. The operations of the handle on a
    /// [cluster](Self::cluster) then fail with an error that
    /// [`is_closed`](crate::ClusterError::is_closed). So keep the layer, also in a test without
    /// clients.
    ///
    /// # Panics
    ///
    /// Panics if the paths of two namespaces conflict, as `/a/{x}` and `/a/{y}` do, or if the
    /// parameters of a path are malformed. Panics if there is a [cluster](Self::cluster) and the call
    /// is not made in a tokio runtime, or if the broker [refuses](crate::cluster::Broker::refuses) a
    /// namespace.
    #[track_caller]
    #[must_use]
    pub fn build(self) -> (SocketIoLayer, SocketIo) {
        let observers = Observers::new(self.observers);
        let sessions =
            Sessions::new(self.max_connections, &self.path).with_observers(observers.clone());
        let sessions = Arc::new(sessions);
        let recovery = self.recovery.map(|recovery| recovery.within);
        let start = |broker| {
            let cluster = Cluster::start(broker, recovery, observers.clone());
            Arc::new(cluster) as Arc<dyn OtherServers>
        };
        let paths: Vec<_> = self
            .namespaces
            .iter()
            .map(|(path, _)| path.clone())
            .collect();
        if let Some(broker) = &self.broker {
            check_paths(broker, &paths);
        }
        let others = self.broker.map(start);
        let hub = Arc::new(Hub::new(
            Arc::clone(&sessions),
            self.parser,
            self.limits,
            self.created,
            self.recovery,
            others,
        ));
        if let Some(others) = &hub.others {
            others.attach(&hub);
        }
        let io = SocketIo::new(&hub);
        let (predicates, has_cluster) = (self.matched.len(), hub.others.is_some());
        let (namespaces, matched) = define(self.namespaces, self.matched);
        let server = Server::new(hub, namespaces, matched, self.connect_timeout);
        let server = Arc::new(server);
        let service = Arc::new(HttpService {
            sessions,
            config: Arc::new(self.config),
            http: Arc::new(self.http),
            application: Arc::new(server),
            path: self.path,
            is_wrapped: AtomicBool::default(),
        });
        summary::log(&service, &paths, predicates, recovery, has_cluster);
        (SocketIoLayer::new(service, io.clone()), io)
    }
}

/// Panics if the broker cannot have a namespace. The name of one with parameters is not known yet.
#[track_caller]
fn check_paths(broker: &BoxBroker, paths: &[String]) {
    for path in paths.iter().filter(|path| !path.contains('{')) {
        if let Some(reason) = broker.refuses(path) {
            panic!("the cluster cannot have the namespace {path}: {reason}");
        }
    }
}

/// Numbers the definitions of the namespaces, and builds the routes of each.
#[track_caller]
#[allow(clippy::type_complexity, reason = "the arguments of `Server::new`")]
fn define(
    namespaces: Vec<(String, Namespace)>,
    matched: Vec<(Predicate, Namespace)>,
) -> (Vec<(String, Routes)>, Vec<(Predicate, Routes)>) {
    let mut defined = Vec::new();
    for (path, namespace) in namespaces {
        let namespace = namespace.define(defined.len(), Some(&path));
        defined.push((path, namespace.build(&())));
    }
    let matched = matched.into_iter().zip(defined.len()..);
    let matched = matched.map(|((predicate, namespace), index)| {
        (predicate, namespace.define(index, None).build(&()))
    });
    let matched = matched.collect();
    (defined, matched)
}

impl<S> fmt::Debug for SocketIoBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths = self.namespaces.iter().map(|(path, _)| path);
        f.debug_struct("SocketIoBuilder")
            .field("namespaces", &paths.collect::<Vec<_>>())
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_higher_max_buffered_raises_the_high_water_mark_again() {
        let builder = SocketIoBuilder::<()>::new().max_buffered(1_000);
        assert_eq!(builder.config.high_water, 1_000);
        let builder = builder.max_buffered(8 << 20);
        assert_eq!(builder.config.high_water, HIGH_WATER);
    }
}
