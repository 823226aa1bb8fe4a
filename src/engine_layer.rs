//! The Tower layer for Engine.IO without Socket.IO.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};

use axum::Router;
use futures_core::future::BoxFuture;
use http::request::Parts;
use tower_layer::Layer;

use crate::engine_io::{
    CloseReason, Config, Message, Revision, SessionEvent, SessionId, Transport,
};
use crate::guard::guarded;
use crate::handles::Shutdown;
use crate::hub::session::{End, SharedSession};
use crate::hub::sessions::Sessions;
use crate::layer::SocketIoService;
use crate::transport::{Application, HttpOptions, HttpService, SessionApp, server_path};

/// A Tower layer that serves Engine.IO at `/engine.io/`.
///
/// The handler runs once for each session, in the session's task. When it returns, the session is
/// closed.
///
/// ```
/// use axum::Router;
/// use tower_socketio::engine::{EngineLayer, EngineSocket};
///
/// async fn echo(mut socket: EngineSocket) {
///     while let Some(message) = socket.recv().await {
///         socket.send(message);
///     }
/// }
///
/// let app: Router = Router::new().layer(EngineLayer::new(echo));
/// ```
#[derive(Clone)]
pub struct EngineLayer {
    service: Arc<HttpService>,
}

impl EngineLayer {
    /// Creates a layer with the default configuration, at `/engine.io/`.
    pub fn new<H, F>(handler: H) -> Self
    where
        H: Fn(EngineSocket) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self::builder(handler).build()
    }

    /// Returns a builder, which sets the path, the limits and the HTTP options.
    ///
    /// ```
    /// use tower_socketio::engine::{Config, EngineLayer, EngineSocket};
    ///
    /// async fn echo(mut socket: EngineSocket) {
    ///     while let Some(message) = socket.recv().await {
    ///         socket.send(message);
    ///     }
    /// }
    ///
    /// let mut config = Config::default();
    /// config.max_payload = 100_000;
    /// let layer = EngineLayer::builder(echo).path("/echo").config(config).build();
    /// ```
    pub fn builder<H, F>(handler: H) -> EngineLayerBuilder
    where
        H: Fn(EngineSocket) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let run = move |socket| Box::pin(handler(socket)) as BoxFuture<'static, ()>;
        EngineLayerBuilder {
            handler: Box::new(run),
            path: "/engine.io".into(),
            config: Config::default(),
            http: HttpOptions::default(),
        }
    }

    /// Converts the layer into a router that serves its path and all paths below it, for
    /// `Router::merge` and `Router::nest`. See
    /// [`SocketIoLayer::into_router`](crate::SocketIoLayer::into_router). Nested at `/api`, a server whose
    /// path is `/` serves no request for `/api/`: choose another path.
    pub fn into_router<S>(self) -> Router<S>
    where
        S: Clone + Send + Sync + 'static,
    {
        let service = Arc::clone(&self.service);
        service.router(SocketIoService::anywhere(self.service, None))
    }

    /// Returns the number of sessions.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.service.sessions.len()
    }

    /// Sends a message to all sessions; see [`EngineSocket::send`].
    pub fn broadcast(&self, message: &Message) {
        for session in self.service.sessions.all() {
            session.send([message.clone()]);
        }
    }

    /// Shuts the server down as [`SocketIo::shutdown`](crate::SocketIo::shutdown) does: refuses new
    /// sessions, closes the others one after another, and waits until all handlers have ended, up to
    /// a deadline. A handler sees that [`EngineSocket::recv`] returns `None`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_socketio::engine::EngineLayer;
    ///
    /// async fn stop(layer: EngineLayer) {
    ///     let report = layer.shutdown().spread(Duration::from_secs(2)).await;
    ///     println!("{report}");
    /// }
    /// ```
    pub fn shutdown(&self) -> Shutdown {
        Shutdown::of_sessions(Arc::clone(&self.service.sessions))
    }

    /// Closes all sessions, refuses new ones, and waits until all handlers have ended. In a handler
    /// it does not wait for that handler, nor for other handlers that wait for `close`.
    ///
    /// It has no deadline: it waits as long as a handler runs. [`shutdown`](Self::shutdown) has one.
    pub async fn close(&self) {
        self.service.sessions.close(None).await;
    }
}

impl<S> Layer<S> for EngineLayer {
    type Service = SocketIoService<S>;

    fn layer(&self, inner: S) -> SocketIoService<S> {
        SocketIoService::new(Arc::clone(&self.service), inner, None)
    }
}

impl fmt::Debug for EngineLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineLayer").finish_non_exhaustive()
    }
}

/// Builds an [`EngineLayer`].
#[must_use]
pub struct EngineLayerBuilder {
    handler: RunHandler,
    path: Box<str>,
    config: Config,
    http: HttpOptions,
}

impl EngineLayerBuilder {
    /// Sets the path of the HTTP requests. The server matches whole segments.
    ///
    /// Default: `/engine.io`.
    ///
    /// # Panics
    ///
    /// Panics if the path does not begin with a slash.
    #[track_caller]
    pub fn path(mut self, path: &str) -> Self {
        self.path = server_path(path);
        self
    }

    /// Sets the limits of the sessions.
    ///
    /// Default: [`Config::default`].
    ///
    /// # Panics
    ///
    /// Panics if `ping_interval`, `ping_timeout` or `upgrade_timeout` is zero.
    #[track_caller]
    pub fn config(mut self, config: Config) -> Self {
        config.check();
        self.config = config;
        self
    }

    /// Sets the HTTP options: allowed origins, cookies, headers.
    ///
    /// Default: [`HttpOptions::new`].
    pub fn http(mut self, options: HttpOptions) -> Self {
        self.http = options;
        self
    }

    /// Builds the layer.
    #[must_use]
    pub fn build(self) -> EngineLayer {
        EngineLayer {
            service: Arc::new(HttpService {
                sessions: Arc::new(Sessions::new(None, &self.path)),
                config: Arc::new(self.config),
                http: Arc::new(self.http),
                application: Arc::new(EngineApp(self.handler)),
                path: self.path,
                is_wrapped: AtomicBool::default(),
            }),
        }
    }
}

impl fmt::Debug for EngineLayerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineLayerBuilder")
            .field("path", &self.path)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// One session of an [`EngineLayer`].
///
/// It can be moved to another task. The session is closed when the handler returns, all the same.
///
/// ```
/// use tower_socketio::engine::{CloseReason, EngineSocket, Text};
///
/// async fn greet(mut socket: EngineSocket) {
///     socket.send(Text::from("hello").into());
///     // Waits until the message is sent, or at least fetched by a poll.
///     socket.drained().await;
///     while let Some(_message) = socket.recv().await {}
///     if socket.close_reason() == Some(CloseReason::PingTimeout) {
///         println!("lost a client");
///     }
/// }
/// ```
#[derive(Debug)]
pub struct EngineSocket {
    session: Arc<SharedSession>,
}

impl EngineSocket {
    /// Receives the next message. Returns `None` when the session has ended;
    /// [`EngineSocket::close_reason`] returns why.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no message.
    pub async fn recv(&mut self) -> Option<Message> {
        loop {
            match poll_fn(|cx| self.session.poll_event(cx)).await {
                SessionEvent::Message(message) => return Some(message),
                SessionEvent::Closed(_) => return None,
                SessionEvent::Upgraded | SessionEvent::UpgradeFailed => {}
            }
        }
    }

    /// Sends a message. It never waits; see [`Config::max_buffered`]. After the session has ended,
    /// it does nothing.
    pub fn send(&self, message: Message) {
        self.session.send([message]);
    }

    /// Waits until the transport has all messages that were sent, or the session has ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn drained(&self) {
        poll_fn(|cx| self.session.poll_drained(cx)).await;
    }

    /// Closes the session when all messages that were sent are delivered, or after
    /// [`Config::close_timeout`]. [`EngineSocket::recv`] still returns messages that came before.
    pub fn close(&self) {
        self.session.close(CloseReason::ServerClose);
    }

    /// Closes the session at once. Messages that are still queued are dropped.
    pub fn discard(&self) {
        self.session.discard();
    }

    /// Returns whether the session is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.session.close_reason().is_none()
    }

    /// Returns why the session has ended, or `None` if it is open.
    #[must_use]
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.session.close_reason()
    }

    /// Returns the session's id. It is a secret between the client and the server.
    #[must_use]
    pub fn id(&self) -> &SessionId {
        self.session.sid()
    }

    /// Returns the revision of the protocol that the client speaks.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.session.params.revision
    }

    /// Returns the current transport.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.session.transport()
    }

    /// Returns the head of the request that opened the session. Its extensions include those of
    /// layers, and the client's address as axum's `ConnectInfo` if the server provides it.
    #[must_use]
    pub fn request(&self) -> Parts {
        self.session.request.parts()
    }
}

type RunHandler = Box<dyn Fn(EngineSocket) -> BoxFuture<'static, ()> + Send + Sync>;

struct EngineApp(RunHandler);

impl Application for EngineApp {
    fn open(&self, session: &Arc<SharedSession>) -> Box<dyn SessionApp> {
        let socket = EngineSocket {
            session: Arc::clone(session),
        };
        Box::new(RunningHandler {
            session: Arc::clone(session),
            handler: Some((self.0)(socket)),
        })
    }
}

struct RunningHandler {
    session: Arc<SharedSession>,
    handler: Option<BoxFuture<'static, ()>>,
}

impl SessionApp for RunningHandler {
    fn poll(&mut self, cx: &mut Context<'_>, _has_events: bool) -> Poll<()> {
        self.session.wake_reader(cx);
        let end = self.session.take_end();
        if end.is_some() {
            self.session.close(CloseReason::Shutdown);
        }
        if matches!(end, Some(End::Cut | End::Abort)) {
            self.session.add_handlers_cut(self.handler.iter().len());
            let handler = self.handler.take();
            let _ = guarded(move || drop(handler));
        }
        let Some(handler) = &mut self.handler else {
            return Poll::Ready(());
        };
        let polled = guarded(|| Pin::new(handler).poll(cx));
        if polled.is_ok_and(|polled| polled.is_pending()) {
            return Poll::Pending;
        }
        // A destructor of the application may run here.
        let handler = self.handler.take();
        let _ = guarded(move || drop(handler));
        self.session.close(CloseReason::ServerClose);
        Poll::Ready(())
    }
}
