//! Engine.IO on its own: raw messages, without Socket.IO.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use futures_core::future::BoxFuture;
use http::request::Parts;
use tower_layer::Layer;

use super::{Application, Front, HttpOptions, Upper};
use crate::engine::{CloseReason, Config, Message, Revision, SessionEvent, SessionId, Transport};
use crate::hub::link::Link;
use crate::hub::sessions::Sessions;
use crate::layer::SocketIoService;

/// A Tower layer that serves Engine.IO at `/engine.io/`.
///
/// The handler runs once for each session, in the session's task; when it returns the session is
/// closed.
///
/// ```
/// use axum::Router;
/// use tower_socketio::engine::{Config, EngineLayer, EngineSocket};
///
/// async fn echo(mut socket: EngineSocket) {
///     while let Some(message) = socket.recv().await {
///         socket.send(message);
///     }
/// }
///
/// let app: Router = Router::new().layer(EngineLayer::new(Config::default(), echo));
/// ```
#[derive(Clone)]
pub struct EngineLayer {
    front: Arc<Front>,
}

impl EngineLayer {
    /// Serves at `/engine.io/`.
    ///
    /// # Panics
    ///
    /// If `ping_interval`, `ping_timeout` or `upgrade_timeout` is zero.
    #[track_caller]
    pub fn new<H, F>(config: Config, handler: H) -> Self
    where
        H: Fn(EngineSocket) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self::at("/engine.io", config, handler)
    }

    /// Serves at another path.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    #[track_caller]
    pub fn at<H, F>(path: &str, config: Config, handler: H) -> Self
    where
        H: Fn(EngineSocket) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        config.check();
        let run = move |socket| Box::pin(handler(socket)) as BoxFuture<'static, ()>;
        Self {
            front: Arc::new(Front {
                sessions: Arc::new(Sessions::new(None)),
                config: Arc::new(config),
                http: Arc::default(),
                application: Arc::new(Raw(Box::new(run))),
                path: path.trim_end_matches('/').into(),
            }),
        }
    }

    /// Sets the HTTP side up: origins, cookies, headers.
    ///
    /// # Panics
    ///
    /// If the layer is in use already.
    #[track_caller]
    #[must_use]
    pub fn http(mut self, options: HttpOptions) -> Self {
        match Arc::get_mut(&mut self.front) {
            Some(front) => front.http = Arc::new(options),
            None => panic!("an EngineLayer is set up before it is cloned or applied"),
        }
        self
    }

    /// A router that serves the path and what is below it, for `Router::merge` and `Router::nest`, as
    /// [`SocketIoLayer::into_router`](crate::SocketIoLayer::into_router).
    pub fn into_router<S>(self) -> Router<S>
    where
        S: Clone + Send + Sync + 'static,
    {
        let front = Arc::clone(&self.front);
        front.router(SocketIoService::anywhere(self.front, None))
    }

    /// How many sessions there are.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.front.sessions.len()
    }

    /// Sends a message to all sessions; see [`EngineSocket::send`].
    pub fn broadcast(&self, message: &Message) {
        for link in self.front.sessions.all() {
            link.send([message.clone()]);
        }
    }

    /// Closes all sessions and takes no further one; ready when all handlers have ended. Called by a
    /// handler, it does not wait for that handler, nor for others that wait for the same.
    pub async fn close(&self) {
        self.front.sessions.close(None).await;
    }
}

impl<S> Layer<S> for EngineLayer {
    type Service = EngineService<S>;

    fn layer(&self, inner: S) -> EngineService<S> {
        SocketIoService::new(Arc::clone(&self.front), inner, None)
    }
}

impl fmt::Debug for EngineLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineLayer").finish_non_exhaustive()
    }
}

/// The service of an [`EngineLayer`].
pub type EngineService<S> = SocketIoService<S>;

/// The first HTTP request of a session, without its body.
pub type RawRequest = Parts;

/// One session of an [`EngineLayer`].
///
/// It may be moved to another task; the session is closed when the handler returns.
///
/// ```
/// use tower_socketio::engine::{CloseReason, EngineSocket, Text};
///
/// async fn greet(mut socket: EngineSocket) {
///     socket.send(Text::from("hello").into());
///     // It has left, or at least has been fetched by a poll.
///     socket.drained().await;
///     while let Some(_message) = socket.recv().await {}
///     if socket.close_reason() == Some(CloseReason::PingTimeout) {
///         println!("lost a client");
///     }
/// }
/// ```
#[derive(Debug)]
pub struct EngineSocket {
    link: Arc<Link>,
}

impl EngineSocket {
    /// The next message; `None` when the session has ended, and [`EngineSocket::close_reason`]
    /// tells why.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no message.
    pub async fn recv(&mut self) -> Option<Message> {
        loop {
            match poll_fn(|cx| self.link.poll_event(cx)).await {
                SessionEvent::Message(message) => return Some(message),
                SessionEvent::Closed(_) => return None,
                SessionEvent::Upgraded => {}
            }
        }
    }

    /// Sends a message. Never waits; see [`Config::max_buffered`]. Once the session has ended, it
    /// does nothing.
    pub fn send(&self, message: Message) {
        self.link.send([message]);
    }

    /// Waits until all that was sent has been given to the transport, or the session has ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn drained(&self) {
        poll_fn(|cx| self.link.poll_drained(cx)).await;
    }

    /// Ends the session when what was sent has been delivered, or after
    /// [`Config::close_timeout`]. [`EngineSocket::recv`] still gives what has come before.
    pub fn close(&self) {
        self.link.close(CloseReason::ServerClose);
    }

    /// Ends the session at once: what was sent and has not left is dropped.
    pub fn discard(&self) {
        self.link.discard();
    }

    /// Whether the session has not ended.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.link.close_reason().is_none()
    }

    /// Why the session has ended, if it has.
    #[must_use]
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.link.close_reason()
    }

    /// The session's id. The client must know it, and nobody else.
    #[must_use]
    pub fn id(&self) -> &SessionId {
        self.link.sid()
    }

    /// The revision of the protocol that the client speaks.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.link.opening.revision
    }

    /// The transport that is used now.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.link.transport()
    }

    /// The first request. Its extensions have what layers have put there, and the client's address
    /// as axum's `ConnectInfo` if the server was made so.
    #[must_use]
    pub fn request(&self) -> RawRequest {
        self.link.handshake.parts()
    }
}

type Run = Box<dyn Fn(EngineSocket) -> BoxFuture<'static, ()> + Send + Sync>;

struct Raw(Run);

impl Application for Raw {
    fn open(&self, link: &Arc<Link>) -> Box<dyn Upper> {
        let socket = EngineSocket {
            link: Arc::clone(link),
        };
        Box::new(Running {
            link: Arc::clone(link),
            handler: Some((self.0)(socket)),
        })
    }
}

struct Running {
    link: Arc<Link>,
    handler: Option<BoxFuture<'static, ()>>,
}

impl Upper for Running {
    fn poll(&mut self, cx: &mut Context<'_>, _news: bool) -> Poll<()> {
        self.link.wake_reader(cx);
        if self.link.take_end().is_some() {
            self.link.close(CloseReason::Shutdown);
        }
        let Some(handler) = &mut self.handler else {
            return Poll::Ready(());
        };
        let polled = super::guarded(|| Pin::new(handler).poll(cx));
        if polled.is_ok_and(|polled| polled.is_pending()) {
            return Poll::Pending;
        }
        // A destructor of the user's runs here.
        let handler = self.handler.take();
        let _ = super::guarded(move || drop(handler));
        self.link.close(CloseReason::ServerClose);
        Poll::Ready(())
    }
}
