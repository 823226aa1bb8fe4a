//! Setting a server up.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;

use crate::engine::{Config, Transport, check_time};
use crate::handles::SocketIo;
use crate::hub::hooks::Created;
use crate::hub::sessions::Sessions;
use crate::hub::{Hub, Limits, Recovery};
use crate::layer::SocketIoLayer;
use crate::protocol::{JsonParser, Parser};
use crate::routing::{Namespace, NamespaceRequest, Predicate};
use crate::server::Server;
use crate::transport::{Cors, Front, HttpOptions};

impl SocketIo {
    /// Sets a server up.
    pub fn builder<S>() -> SocketIoBuilder<S> {
        SocketIoBuilder::new()
    }
}

/// Sets a server up: its namespaces and its limits. `S` is the state that handlers still miss, as
/// in axum's `Router<S>`.
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
    created: Created,
    config: Config,
    limits: Limits,
    http: HttpOptions,
    path: String,
    connect_timeout: Duration,
    max_connections: Option<usize>,
    recovery: Option<Recovery>,
    parser: Arc<dyn Parser>,
}

impl<S> SocketIoBuilder<S> {
    fn new() -> Self {
        Self {
            namespaces: Vec::new(),
            matched: Vec::new(),
            created: Created::default(),
            config: Config::default(),
            limits: Limits::default(),
            http: HttpOptions::new(),
            path: "/socket.io".to_owned(),
            connect_timeout: Duration::from_secs(45),
            max_connections: None,
            recovery: None,
            parser: Arc::new(JsonParser::default()),
        }
    }

    /// Adds a namespace. Its path may have parameters, as `/orders/{shop}`: then there is a
    /// namespace for each value that a client names, as long as somebody is in it.
    ///
    /// # Panics
    ///
    /// If the path does not begin with a slash, holds a comma, or was added before.
    #[track_caller]
    pub fn namespace(mut self, path: &str, namespace: Namespace<S>) -> Self {
        assert!(
            path.starts_with('/') && !path.contains(','),
            "namespace `{path}` must begin with a slash and hold no comma"
        );
        assert!(
            self.namespaces.iter().all(|(other, _)| other != path),
            "namespace `{path}` is there already"
        );
        self.namespaces.push((path.to_owned(), namespace));
        self
    }

    /// Adds a namespace for each name that a function says yes to, as long as somebody is in it.
    ///
    /// Clients that ask for a namespace that no path names are decided on by these functions, in
    /// the order in which they were added; the first yes counts. Each client is decided on, also
    /// when its namespace is there already; then only those with its handlers are asked. A
    /// function may take its time: what the client sends meanwhile waits.
    ///
    /// ```
    /// use tower_socketio::{Namespace, NamespaceRequest, SocketIo};
    ///
    /// // Where JavaScript would have `/^\/dynamic-\d+$/`.
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

    /// Registers what is told the name of each namespace that comes to be, but for `/`: while the
    /// server is built of those with a path, later of those that clients name, each time that the
    /// first client comes. It must not block.
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
        self.created = Created(Some(Box::new(hook)));
        self
    }

    /// The path of the HTTP requests; `/socket.io`. It is matched by whole segments.
    ///
    /// # Panics
    ///
    /// If it does not begin with a slash.
    #[track_caller]
    pub fn path(mut self, path: &str) -> Self {
        assert!(
            path.starts_with('/'),
            "path `{path}` must begin with a slash"
        );
        self.path = path.trim_end_matches('/').to_owned();
        self
    }

    /// Sets the time from a client's pong to the next ping. A shorter time notices a lost client
    /// sooner and costs a packet each way. A time of more than 12 days counts as 12 days: clients'
    /// timers hold no more. Default: 25 s.
    ///
    /// # Panics
    ///
    /// If it is zero.
    #[track_caller]
    pub fn ping_interval(mut self, interval: Duration) -> Self {
        check_time("ping_interval", interval);
        self.config.ping_interval = interval;
        self
    }

    /// Sets how long a pong may take, and bytes that do not leave. Beyond it the connection is closed
    /// with [`DisconnectReason::PingTimeout`](crate::DisconnectReason::PingTimeout). More spares
    /// clients on bad networks, less frees the memory of lost ones; [`Duration::MAX`] waits for ever.
    /// Default: 20 s.
    ///
    /// # Panics
    ///
    /// If it is zero.
    #[track_caller]
    pub fn ping_timeout(mut self, timeout: Duration) -> Self {
        check_time("ping_timeout", timeout);
        self.config.ping_timeout = timeout;
        self
    }

    /// Sets how long an upgrade to WebSocket may take. A failed one leaves polling as it is;
    /// [`upgrades`](Self::upgrades) turns them off. [`Duration::MAX`] waits for ever. Default: 10 s.
    ///
    /// # Panics
    ///
    /// If it is zero.
    #[track_caller]
    pub fn upgrade_timeout(mut self, timeout: Duration) -> Self {
        check_time("upgrade_timeout", timeout);
        self.config.upgrade_timeout = timeout;
        self
    }

    /// Sets how long a client may take to join its first namespace. Beyond it the connection is
    /// closed. [`Duration::MAX`] waits for ever. Default: 45 s.
    ///
    /// # Panics
    ///
    /// If it is zero.
    #[track_caller]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        check_time("connect_timeout", timeout);
        self.connect_timeout = timeout;
        self
    }

    /// The longest message, WebSocket frame and polling body, in bytes; 1 000 000. This much may
    /// be held in memory for each client that sends; of a polling body half as much more, as the
    /// official client does not count the whole of base64.
    pub fn max_payload(mut self, bytes: usize) -> Self {
        self.config.max_payload = bytes;
        self
    }

    /// How much may wait to be sent to one client, in bytes; 4 MiB. Beyond it the connection is
    /// closed with [`DisconnectReason::SlowConsumer`](crate::DisconnectReason::SlowConsumer).
    /// Above 256 KiB, or this if it is less, the client's input is not read.
    pub fn max_buffered(mut self, bytes: usize) -> Self {
        self.config.max_buffered = bytes;
        self.config.high_water = self.config.high_water.min(bytes);
        self
    }

    /// How much one client may have waiting for its handlers, in bytes; 256 KiB. Beyond it the
    /// client's input is not read until handlers have caught up.
    ///
    /// While the server waits for an acknowledgement of the client, which comes behind what it has
    /// sent before, four times as much is read. If that is not enough either, and neither a handler
    /// nor an acknowledgement ends for a whole [`ping_timeout`](Self::ping_timeout), the connection
    /// is closed with [`DisconnectReason::EventBacklog`](crate::DisconnectReason::EventBacklog). A
    /// [timeout](crate::EmitWithAck::timeout) of the acknowledgement comes before that.
    pub fn max_pending(mut self, bytes: usize) -> Self {
        self.config.max_pending = bytes;
        self
    }

    /// Sets how many rooms one socket may be in. Beyond it no further room is joined.
    ///
    /// All rooms of a connection count against [`max_kept`](Self::max_kept) too. Default: 1 000.
    pub fn max_rooms(mut self, rooms: usize) -> Self {
        self.limits.rooms_per_socket = rooms;
        self
    }

    /// How many namespaces one connection may be in; 64.
    pub fn max_namespaces(mut self, namespaces: usize) -> Self {
        self.limits.namespaces_per_session = namespaces;
        self
    }

    /// Sets the longest `auth` of a CONNECT, in bytes of JSON. A client that sends a longer one is
    /// refused with a `connect_error`; its connection and its other namespaces stay.
    ///
    /// `auth` is kept with its socket, for [`Socket::handshake`](crate::Socket::handshake). What a
    /// client of version 2 gives as the query of a namespace counts as its `auth`. Default: 32 KiB.
    pub fn max_auth(mut self, bytes: usize) -> Self {
        self.limits.auth = bytes;
        self
    }

    /// Sets the longest head of the request that opens a connection, in bytes: its URI, and the
    /// names and values of its headers. A longer one is refused with status 431.
    ///
    /// The head is kept as long as the connection, for
    /// [`Socket::request_parts`](crate::Socket::request_parts). The HTTP server has a limit of its
    /// own, of all requests. Default: 32 KiB.
    pub fn max_handshake(mut self, bytes: usize) -> Self {
        self.config.max_handshake = bytes;
        self
    }

    /// Sets how much the server keeps for one connection until it ends, in bytes: of all its
    /// sockets the `auth`, the names of the namespaces, the rooms and the data.
    ///
    /// A room counts the length of its name and 512 bytes. Beyond the limit a CONNECT is refused
    /// with a `connect_error`, a room is not joined, and [`Socket::set_data`](crate::Socket::set_data)
    /// fails. Values of [`Socket::insert`](crate::Socket::insert) do not count, as their size is not
    /// known. Default: 512 KiB.
    pub fn max_kept(mut self, bytes: usize) -> Self {
        self.limits.kept = bytes;
        self
    }

    /// How many namespaces that clients have named there may be at a time: those of a path with
    /// parameters and those of [`namespace_if`](Self::namespace_if); 10 000.
    /// A client that names one more is refused.
    pub fn max_dynamic_namespaces(mut self, namespaces: usize) -> Self {
        self.limits.dynamic_namespaces = namespaces;
        self
    }

    /// How many clients there may be; no limit. Further ones are refused with status 503.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = Some(connections);
        self
    }

    /// Which transports are offered; both. Without polling, clients have to begin with WebSocket.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[track_caller]
    pub fn transports(mut self, transports: &[Transport]) -> Self {
        assert!(!transports.is_empty(), "a server needs a transport");
        self.config.polling = transports.contains(&Transport::Polling);
        self.config.websocket = transports.contains(&Transport::WebSocket);
        self
    }

    /// Whether sessions may change from polling to WebSocket; they may. Without it an upgrade is
    /// not offered, and is refused.
    pub fn upgrades(mut self, upgrades: bool) -> Self {
        self.config.upgrades = upgrades;
        self
    }

    /// From how many bytes on messages are compressed on WebSocket, if the client offers
    /// `permessage-deflate`; never. See [`Config::deflate_from`](crate::engine::Config).
    pub fn deflate_from(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.config.deflate_from = bytes.into();
        self
    }

    /// Sets the HTTP side up: who may connect, cookies, headers; see [`HttpOptions`]. All of it is
    /// replaced.
    pub fn http(mut self, options: HttpOptions) -> Self {
        self.http = options;
        self
    }

    /// Lets pages of other origins use the server: [`HttpOptions::cors`], where that is all that
    /// is needed.
    pub fn cors(mut self, cors: impl Into<Cors>) -> Self {
        self.http = self.http.cors(cors);
        self
    }

    /// Whether clients of version 2 are served too, which speak revision 3 of Engine.IO and
    /// revision 4 of the protocol above it; they are not. Then a request that names no revision
    /// counts as one of theirs.
    ///
    /// They join `/` without asking, and what they give as the query of another namespace is what
    /// [`Auth`](crate::Auth) finds. Such a client takes the id of its session for its own, and
    /// that is a secret: [`Socket::id`](crate::Socket::id) in `/` is the first 20 characters of
    /// it, and in other namespaces an id that the client does not know.
    ///
    /// ```
    /// use tower_socketio::{Namespace, SocketIo};
    ///
    /// let (layer, io) = SocketIo::builder()
    ///     .namespace("/", Namespace::new())
    ///     .allow_eio3(true)
    ///     .build();
    /// ```
    pub fn allow_eio3(mut self, allow: bool) -> Self {
        self.config.allow_eio3 = allow;
        self
    }

    /// Lets clients that lost their connection come back as the sockets they were; they cannot.
    pub fn recovery(mut self, recovery: Recovery) -> Self {
        self.recovery = Some(recovery);
        self
    }

    /// How packets are written; as JSON. Clients must use the same parser.
    ///
    /// [`protocol`](crate::protocol) has one for MessagePack, and [`Parser`] shows how to write
    /// one's own. Limits of a parser, as how many attachments a packet may have, are set on it.
    pub fn parser(mut self, parser: impl Parser + 'static) -> Self {
        self.parser = Arc::new(parser);
        self
    }
}

impl<S: Clone + Send + Sync + 'static> SocketIoBuilder<S> {
    /// Gives handlers the state they miss.
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
            parser: self.parser,
        }
    }
}

impl SocketIoBuilder {
    /// Gives the layer, which hears, and the handle, which speaks.
    ///
    /// # Panics
    ///
    /// If the paths of two namespaces cannot be told apart.
    #[track_caller]
    #[must_use]
    pub fn build(self) -> (SocketIoLayer, SocketIo) {
        let sessions = Arc::new(Sessions::new(self.max_connections));
        let hub = Arc::new(Hub::new(
            Arc::clone(&sessions),
            self.parser,
            self.limits,
            self.created,
            self.recovery,
        ));
        let io = SocketIo::new(&hub);
        let mut namespaces = Vec::new();
        for (path, namespace) in self.namespaces {
            namespaces.push((path, namespace.build(&())));
        }
        let matched = self.matched.into_iter();
        let matched = matched.map(|(predicate, namespace)| (predicate, namespace.build(&())));
        let matched = matched.collect();
        let server = Server::new(hub, namespaces, matched, self.connect_timeout);
        let server = Arc::new(server);
        let front = Arc::new(Front {
            sessions,
            config: Arc::new(self.config),
            http: Arc::new(self.http),
            application: Arc::new(server),
            path: self.path.into(),
        });
        (SocketIoLayer::new(front, io.clone()), io)
    }
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
