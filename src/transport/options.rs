//! What HTTP requests are asked and told, beyond the protocol.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum_core::response::Response;
use futures_core::future::BoxFuture;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::client::ClientFiles;
use super::cookie::SessionCookie;
use super::cors::Cors;
use super::origin::Origins;
use super::refusal::ConnectionError;
use crate::engine::Refusal;
use crate::engine::Transport;
use crate::websocket::offered_protocols;

/// The HTTP side of a server: who may connect, and what answers carry. For
/// [`SocketIoBuilder::http`](crate::SocketIoBuilder::http) and
/// [`EngineLayer::http`](crate::engine::EngineLayer::http).
///
/// ```
/// use tower_socketio::{Cors, HttpOptions, Namespace, Origins, SessionCookie, SocketIo};
///
/// let http = HttpOptions::new()
///     .cors(Cors::new(Origins::list(["https://app.example"])).allow_credentials(true))
///     .cookie(SessionCookie::new("io").secure(true))
///     .allow_request(|request| async move {
///         match request.headers.contains_key("x-blocked") {
///             true => Err("blocked"),
///             false => Ok(()),
///         }
///     });
/// let (layer, _io) = SocketIo::builder()
///     .namespace("/", Namespace::new())
///     .http(http)
///     .build();
/// ```
#[derive(Clone)]
#[must_use]
pub struct HttpOptions {
    origins: Option<Origins>,
    pub(super) cors: Option<Cors>,
    pub(super) allow_request: Option<Arc<AllowRequest>>,
    on_connection_error: Option<Arc<OnConnectionError>>,
    initial_headers: Option<Arc<OnHeaders>>,
    headers: Option<Arc<OnHeaders>>,
    pub(super) cookie: Option<SessionCookie>,
    pub(super) jsonp: bool,
    pub(super) compress_from: Option<usize>,
    pub(super) poll_timeout: Option<Duration>,
    pub(super) body_timeout: Duration,
    websocket_protocol: Option<Arc<ChooseProtocol>>,
    client: Option<Arc<ClientFiles>>,
}

type Allowed = Result<(), Cow<'static, str>>;
type AllowRequest = dyn Fn(Parts) -> BoxFuture<'static, Allowed> + Send + Sync;
type OnConnectionError = dyn Fn(&Parts, &ConnectionError) + Send + Sync;
type ChooseProtocol = dyn Fn(&[&str], &Parts) -> Option<String> + Send + Sync;
type OnHeaders = dyn Fn(&mut HeaderMap, &Parts) + Send + Sync;

impl HttpOptions {
    /// Nothing beyond the protocol.
    pub const fn new() -> Self {
        Self {
            origins: None,
            cors: None,
            allow_request: None,
            on_connection_error: None,
            initial_headers: None,
            headers: None,
            cookie: None,
            jsonp: false,
            compress_from: Some(1024),
            poll_timeout: None,
            body_timeout: Duration::from_secs(30),
            websocket_protocol: None,
            client: None,
        }
    }

    /// Lets pages of other origins use the server; see [`Cors`].
    pub fn cors(mut self, cors: impl Into<Cors>) -> Self {
        let cors = cors.into();
        self.origins = Some(cors.origins.clone());
        self.cors = Some(cors);
        self
    }

    /// Which pages may connect, without headers of CORS: for where another layer adds those.
    /// [`Origins`] says what is refused when nothing is configured.
    pub fn origins(mut self, origins: Origins) -> Self {
        self.origins = Some(origins);
        self
    }

    /// Asks a function whether a client may connect. It sees the first request of each session,
    /// after that has passed all other checks, and may wait. `Err` refuses it: status 403, code 4,
    /// and the text as the message, or `Forbidden` if it is empty.
    ///
    /// Namespaces have middleware of their own for what concerns them.
    ///
    /// # Cancel safety
    ///
    /// When the client gives up, the future is dropped.
    pub fn allow_request<F, Fut, M>(mut self, allow: F) -> Self
    where
        F: Fn(Parts) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), M>> + Send + 'static,
        M: Into<Cow<'static, str>>,
    {
        self.allow_request = Some(Arc::new(move |parts| {
            let allowed = allow(parts);
            Box::pin(async move { allowed.await.map_err(Into::into) })
        }));
        self
    }

    /// Tells a function of each request that is refused, and why. A POST whose body is too long
    /// or does not come is one of them: [`Refusal::PayloadTooLarge`], [`Refusal::RequestTimeout`].
    ///
    /// ```
    /// use tower_socketio::HttpOptions;
    ///
    /// let http = HttpOptions::new().on_connection_error(|request, error| {
    ///     eprintln!("{}: {} ({})", request.uri.path(), error.message(), error.context());
    /// });
    /// ```
    pub fn on_connection_error<F>(mut self, on_error: F) -> Self
    where
        F: Fn(&Parts, &ConnectionError) + Send + Sync + 'static,
    {
        self.on_connection_error = Some(Arc::new(on_error));
        self
    }

    /// Changes the headers of the answer that opens a session: that to its first poll, or the `101`
    /// of its WebSocket. The cookie of [`HttpOptions::cookie`] is there already.
    pub fn initial_headers<F>(mut self, change: F) -> Self
    where
        F: Fn(&mut HeaderMap, &Parts) + Send + Sync + 'static,
    {
        self.initial_headers = Some(Arc::new(change));
        self
    }

    /// Changes the headers of every answer of a session, to polls, posts and upgrades; after
    /// [`HttpOptions::initial_headers`]. Refusals are not changed.
    pub fn headers<F>(mut self, change: F) -> Self
    where
        F: Fn(&mut HeaderMap, &Parts) + Send + Sync + 'static,
    {
        self.headers = Some(Arc::new(change));
        self
    }

    /// Sets a cookie with the session's id; see [`SessionCookie`].
    pub fn cookie(mut self, cookie: SessionCookie) -> Self {
        self.cookie = Some(cookie);
        self
    }

    /// Whether old clients may poll by scripts, JSONP; no. A page of any origin can load scripts,
    /// with the visitor's cookies and past every rule of CORS and of [`Origins`].
    pub fn jsonp(mut self, yes: bool) -> Self {
        self.jsonp = yes;
        self
    }

    /// Compresses answers to polls of at least so many bytes, as far as the client accepts `gzip` or
    /// `deflate`; 1024. `None`: never. [`Uncompressed`](crate::Uncompressed) excepts a packet.
    pub fn compress_from(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.compress_from = bytes.into();
        self
    }

    /// Sets how long a poll may wait for packets. A poll that has waited so long is answered with a
    /// noop packet, and the client polls again; the session goes on. Default: no limit, as in
    /// Node's server, so that an idle poll waits for the next ping:
    /// [`ping_interval`](crate::SocketIoBuilder::ping_interval).
    ///
    /// Set it below the shortest timeout that a proxy or a layer such as
    /// `tower_http::timeout::TimeoutLayer` has for a whole request: a poll that is cut off there
    /// ends its session. Shorter times cost an idle client more requests.
    ///
    /// # Panics
    ///
    /// If it is zero: no poll would ever wait.
    #[track_caller]
    pub fn poll_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        let timeout = timeout.into();
        assert!(timeout != Some(Duration::ZERO), "`poll_timeout` is zero");
        self.poll_timeout = timeout;
        self
    }

    /// Sets how long the body of a POST may take, from its head to its end. Beyond it the request is
    /// answered with status 408 and its session ends, with
    /// [`TransportError`](crate::DisconnectReason::TransportError). Default: 30 s. More lets clients
    /// on slow lines send long messages, less frees what they hold sooner.
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.body_timeout = timeout;
        self
    }

    /// Chooses the subprotocol of a WebSocket among those that the client offers, in its order;
    /// `None`: none of them. Default: the first one, as with Node's server. It is asked only about
    /// clients that offer any. What it gives and was not offered is not sent, as browsers would
    /// close the connection, and logged as an error.
    ///
    /// ```
    /// use tower_socketio::HttpOptions;
    ///
    /// // A token travels beside the protocol: `new WebSocket(url, ["chat.v1", token])`.
    /// let http = HttpOptions::new().websocket_protocol(|offered, _request| {
    ///     offered.contains(&"chat.v1").then(|| "chat.v1".to_owned())
    /// });
    /// ```
    pub fn websocket_protocol<F>(mut self, choose: F) -> Self
    where
        F: Fn(&[&str], &Parts) -> Option<String> + Send + Sync + 'static,
    {
        self.websocket_protocol = Some(Arc::new(choose));
        self
    }

    /// Serves the files of the JavaScript client below the path, `/socket.io/socket.io.min.js`, out
    /// of a folder: that of `node_modules/socket.io-client/dist`. They are read now and kept in
    /// memory, 1.2 MB in all. Beside one of them its name and `.br` may hold it compressed by
    /// Brotli.
    ///
    /// # Panics
    ///
    /// If the folder holds none of the files, or they do not say their version.
    #[track_caller]
    pub fn serve_client(mut self, folder: impl AsRef<Path>) -> Self {
        self.client = Some(Arc::new(ClientFiles::read(folder.as_ref())));
        self
    }

    /// Whether the origin of a request may do what it asks for.
    pub(super) fn allows_origin(&self, parts: &Parts, opens: Option<Transport>) -> bool {
        match &self.origins {
            Some(origins) => origins.allows(parts),
            None => opens != Some(Transport::WebSocket) || Origins::same_origin().allows(parts),
        }
    }

    /// The subprotocol of a WebSocket, if the client offers any.
    pub(super) fn protocol(&self, parts: &Parts) -> Result<Option<HeaderValue>, ConnectionError> {
        if !parts.headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
            return Ok(None);
        }
        let lines = parts.headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
        let offered = offered_protocols(lines.iter().map(HeaderValue::as_bytes));
        let offered = offered.ok_or(ConnectionError::new(
            Refusal::BadRequest,
            "Sec-WebSocket-Protocol",
        ))?;
        let Some(choose) = &self.websocket_protocol else {
            let first = offered.first().copied();
            return Ok(first.and_then(|first| HeaderValue::from_str(first).ok()));
        };
        let chosen = choose(&offered, parts);
        let chosen = chosen.filter(|chosen| {
            let is_offered = offered.contains(&&**chosen);
            if !is_offered {
                tracing::error!(chosen, "`websocket_protocol` chose what was not offered");
            }
            is_offered
        });
        Ok(chosen.and_then(|chosen| HeaderValue::from_str(&chosen).ok()))
    }

    /// What will have to be done to the answer to a request; mostly nothing.
    pub(super) fn finish(self: &Arc<Self>, parts: &Parts) -> Option<Finish> {
        let headers = self.cors.as_ref().map(|cors| cors.answer(parts));
        let hooks = self.initial_headers.is_some() || self.headers.is_some();
        if headers.is_none() && !hooks {
            return None;
        }
        Some(Finish {
            options: Arc::clone(self),
            cors: headers.unwrap_or_default(),
            parts: hooks.then(|| parts.clone()),
        })
    }

    /// The answer to a request that is none of the protocol: a preflight, or for a file.
    pub(super) fn aside(&self, parts: &Parts, name: &str) -> Option<Response> {
        let answers = |cors: &&Cors| parts.method == Method::OPTIONS && !cors.preflight_continue;
        if let Some(cors) = self.cors.as_ref().filter(answers) {
            return Some(cors.preflight());
        }
        self.client.as_ref()?.answer(parts, name)
    }

    /// Who is told if a request is refused after its head was read; mostly nobody.
    pub(super) fn witness(&self, parts: &Parts) -> Option<Witness> {
        let on_error = self.on_connection_error.clone()?;
        let parts = parts.clone();
        Some(Witness { on_error, parts })
    }

    pub(super) fn refuse(&self, parts: &Parts, error: &ConnectionError) -> Response {
        tracing::debug!(%error, "refused");
        if let Some(on_error) = &self.on_connection_error {
            on_error(parts, error);
        }
        error.response()
    }
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for HttpOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpOptions")
            .field("origins", &self.origins)
            .field("cors", &self.cors)
            .field("cookie", &self.cookie)
            .field("jsonp", &self.jsonp)
            .field("compress_from", &self.compress_from)
            .field("poll_timeout", &self.poll_timeout)
            .field("body_timeout", &self.body_timeout)
            .finish_non_exhaustive()
    }
}

/// The application, as it is told of one request.
pub(super) struct Witness {
    on_error: Arc<OnConnectionError>,
    parts: Parts,
}

impl Witness {
    pub(super) fn tell(&self, error: &ConnectionError) {
        (self.on_error)(&self.parts, error);
    }
}

/// What is to be done to an answer before it leaves.
pub(super) struct Finish {
    options: Arc<HttpOptions>,
    cors: HeaderMap,
    parts: Option<Parts>,
}

/// What an answer is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// A request that opens a session.
    Opening,
    /// A request of a session.
    Later,
    /// Another one.
    Other,
}

impl Finish {
    pub(super) fn apply(self, mut response: Response, to: Answer) -> Response {
        for (name, value) in &self.cors {
            if name == header::VARY {
                response.headers_mut().append(name, value.clone());
            } else {
                response.headers_mut().insert(name, value.clone());
            }
        }
        let status = response.status();
        let is_served = matches!(status, StatusCode::OK | StatusCode::SWITCHING_PROTOCOLS);
        let Some(parts) = self.parts.filter(|_| is_served && to != Answer::Other) else {
            return response;
        };
        let initial = self.options.initial_headers.as_ref();
        let initial = initial.filter(|_| to == Answer::Opening);
        for change in initial.into_iter().chain(&self.options.headers) {
            change(response.headers_mut(), &parts);
        }
        response
    }
}
