//! The HTTP options of a server: checks of requests, and changes to responses.

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
use crate::engine_io::Refusal;
use crate::engine_io::Transport;
use crate::websocket::offered_protocols;

/// The HTTP options of a server: checks of requests, headers of responses, the session cookie.
///
/// Pass them to [`SocketIoBuilder::http`](crate::SocketIoBuilder::http) or
/// [`EngineLayerBuilder::http`](crate::engine::EngineLayerBuilder::http).
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
    pub(super) compression_threshold: Option<usize>,
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
    /// Creates options with the default of each setter.
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
            compression_threshold: Some(1024),
            poll_timeout: None,
            body_timeout: Duration::from_secs(30),
            websocket_protocol: None,
            client: None,
        }
    }

    /// Sets the pages that may use the server, and the CORS headers of its responses; see [`Cors`].
    /// This replaces the [`origins`](Self::origins) that were set before.
    ///
    /// Default: no CORS headers.
    pub fn cors(mut self, cors: impl Into<Cors>) -> Self {
        let cors = cors.into();
        self.origins = Some(cors.origins.clone());
        self.cors = Some(cors);
        self
    }

    pub(crate) fn has_cors(&self) -> bool {
        self.cors.is_some()
    }

    /// Sets the pages that may connect, without CORS headers. Use it where another layer adds the
    /// headers.
    ///
    /// Default: pages of other origins may poll, but may not open a session by WebSocket.
    pub fn origins(mut self, origins: Origins) -> Self {
        self.origins = Some(origins);
        self
    }

    /// Sets an async function that decides whether a client may connect.
    ///
    /// The function gets the first request of each session, after all other checks have passed.
    /// `Err` refuses the request with status 403, code 4 and the text as the message, or
    /// `Forbidden` if the text is empty. [`Namespace::layer`](crate::Namespace::layer) adds
    /// middleware that checks the clients of one namespace.
    ///
    /// Default: every client may connect.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped if the client aborts the request.
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

    /// Sets a hook that runs when a request is refused, with the reason. It also runs for a POST
    /// whose body is too long or does not arrive: [`ConnectionError::status`] is `413` or `408` then.
    ///
    /// Default: none.
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

    /// Sets a function that changes the headers of the response that opens a session: the response
    /// to its first poll, or the `101` of its WebSocket. The headers of a poll already hold the cookie of
    /// [`HttpOptions::cookie`].
    ///
    /// Default: none.
    pub fn initial_headers<F>(mut self, change: F) -> Self
    where
        F: Fn(&mut HeaderMap, &Parts) + Send + Sync + 'static,
    {
        self.initial_headers = Some(Arc::new(change));
        self
    }

    /// Sets a function that changes the headers of every response of a session, to polls, POSTs and
    /// upgrades. It runs after [`HttpOptions::initial_headers`], and not for refusals.
    ///
    /// Default: none.
    pub fn headers<F>(mut self, change: F) -> Self
    where
        F: Fn(&mut HeaderMap, &Parts) + Send + Sync + 'static,
    {
        self.headers = Some(Arc::new(change));
        self
    }

    /// Sets the cookie that holds the session's id; see [`SessionCookie`].
    ///
    /// Default: none.
    pub fn cookie(mut self, cookie: SessionCookie) -> Self {
        self.cookie = Some(cookie);
        self
    }

    /// Enables JSONP polling, with which old browsers poll by `script` elements. A page of any
    /// origin can load scripts, with the visitor's cookies. Neither CORS nor [`Origins`] restricts
    /// that.
    ///
    /// Default: `false`.
    pub fn jsonp(mut self, enabled: bool) -> Self {
        self.jsonp = enabled;
        self
    }

    /// Sets the length in bytes from which responses to polls are compressed, if the client accepts
    /// `gzip` or `deflate`. `None` disables compression. A response that holds nothing but
    /// [`Uncompressed`](crate::Uncompressed) messages is not compressed.
    ///
    /// Default: 1024.
    pub fn compression_threshold(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.compression_threshold = bytes.into();
        self
    }

    /// Sets how long a poll waits for packets. After that time it is answered with a noop packet,
    /// and the client polls again; the session stays open. With `None` an idle poll waits for the
    /// next ping: [`ping_interval`](crate::SocketIoBuilder::ping_interval).
    ///
    /// Set it below the shortest timeout that a proxy or a layer such as
    /// `tower_http::timeout::TimeoutLayer` has for a whole request: a poll that is cut off there
    /// ends its session. A shorter time costs an idle client more requests.
    ///
    /// Default: `None`, as in Node's server.
    ///
    /// # Panics
    ///
    /// Panics if `timeout` is zero: no poll would ever wait.
    #[track_caller]
    pub fn poll_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        let timeout = timeout.into();
        assert!(timeout != Some(Duration::ZERO), "`poll_timeout` is zero");
        self.poll_timeout = timeout;
        self
    }

    /// Sets how long the body of a POST may take, from its head to its end. After that time the
    /// request is answered with status 408, and its session is closed with
    /// [`TransportError`](crate::DisconnectReason::TransportError). A longer time lets clients on
    /// slow networks send long messages. A shorter one frees their memory sooner.
    ///
    /// Default: 30 s.
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.body_timeout = timeout;
        self
    }

    /// Sets a function that chooses the subprotocol of a WebSocket among those that the client
    /// offers, in the client's order. `None` chooses none of them. The function runs only if the
    /// client offers any. A subprotocol that was not offered is not sent, as browsers would close
    /// the connection; it is logged as an error.
    ///
    /// Default: the first one that the client offers, as in Node's server.
    ///
    /// ```
    /// use tower_socketio::HttpOptions;
    ///
    /// // The client sends a token beside the protocol: `new WebSocket(url, ["chat.v1", token])`.
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

    /// Serves the files of the JavaScript client from a folder, such as
    /// `node_modules/socket.io-client/dist`. Their path is below the server's:
    /// `/socket.io/socket.io.min.js`.
    ///
    /// The files are read by this call and kept in memory, 1.2 MB in all. A file with the same name
    /// and `.br` at its end holds the file compressed by Brotli.
    ///
    /// Default: no files are served.
    ///
    /// # Panics
    ///
    /// Panics if the folder holds none of the files, or if none of them states its version.
    #[track_caller]
    pub fn serve_client(mut self, folder: impl AsRef<Path>) -> Self {
        self.client = Some(Arc::new(ClientFiles::read(folder.as_ref())));
        self
    }

    /// Returns whether the origin of a request is allowed. `opens` is the transport of the session
    /// that the request opens, if it opens one.
    pub(super) fn allows_origin(&self, parts: &Parts, opens: Option<Transport>) -> bool {
        match &self.origins {
            Some(origins) => origins.allows(parts),
            None => opens != Some(Transport::WebSocket) || Origins::same_origin().allows(parts),
        }
    }

    /// Returns the subprotocol of a WebSocket, if the client offers any.
    ///
    /// # Errors
    ///
    /// Fails if the client's header is malformed.
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
                tracing::error!(
                    chosen,
                    "`websocket_protocol` returned a subprotocol that the client did not offer"
                );
            }
            is_offered
        });
        Ok(chosen.and_then(|chosen| HeaderValue::from_str(&chosen).ok()))
    }

    /// Returns the changes to the response to a request; `None` if no option makes any.
    pub(super) fn finish(self: &Arc<Self>, parts: &Parts) -> Option<ResponseChanges> {
        let headers = self.cors.as_ref().map(|cors| cors.answer(parts));
        let hooks = self.initial_headers.is_some() || self.headers.is_some();
        if headers.is_none() && !hooks {
            return None;
        }
        Some(ResponseChanges {
            options: Arc::clone(self),
            cors: headers.unwrap_or_default(),
            parts: hooks.then(|| parts.clone()),
        })
    }

    /// Returns the response to a request outside the protocol: a CORS preflight, or a request for a
    /// file of the client.
    pub(super) fn intercept(&self, parts: &Parts, name: &str) -> Option<Response> {
        let answers = |cors: &&Cors| parts.method == Method::OPTIONS && !cors.preflight_continue;
        if let Some(cors) = self.cors.as_ref().filter(answers) {
            return Some(cors.preflight());
        }
        self.client.as_ref()?.answer(parts, name)
    }

    /// Returns the hook for a request that may be refused after its head was read, if there is one.
    pub(super) fn observer(&self, parts: &Parts) -> Option<ErrorObserver> {
        let on_error = self.on_connection_error.clone()?;
        let parts = parts.clone();
        Some(ErrorObserver { on_error, parts })
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
            .field("compression_threshold", &self.compression_threshold)
            .field("poll_timeout", &self.poll_timeout)
            .field("body_timeout", &self.body_timeout)
            .finish_non_exhaustive()
    }
}

/// The hook of [`HttpOptions::on_connection_error`], and the request that it runs for.
pub(super) struct ErrorObserver {
    on_error: Arc<OnConnectionError>,
    parts: Parts,
}

impl ErrorObserver {
    pub(super) fn notify(&self, error: &ConnectionError) {
        (self.on_error)(&self.parts, error);
    }
}

/// The changes to a response before it is sent.
pub(super) struct ResponseChanges {
    options: Arc<HttpOptions>,
    cors: HeaderMap,
    parts: Option<Parts>,
}

/// The kind of request that a response belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestKind {
    /// A request that opens a session.
    Handshake,
    /// A later request of a session.
    Later,
    /// Any other request.
    Other,
}

impl ResponseChanges {
    pub(super) fn apply(self, mut response: Response, to: RequestKind) -> Response {
        for (name, value) in &self.cors {
            if name == header::VARY {
                response.headers_mut().append(name, value.clone());
            } else {
                response.headers_mut().insert(name, value.clone());
            }
        }
        let status = response.status();
        let is_served = matches!(status, StatusCode::OK | StatusCode::SWITCHING_PROTOCOLS);
        let Some(parts) = self.parts.filter(|_| is_served && to != RequestKind::Other) else {
            return response;
        };
        let initial = self.options.initial_headers.as_ref();
        let initial = initial.filter(|_| to == RequestKind::Handshake);
        for change in initial.into_iter().chain(&self.options.headers) {
            change(response.headers_mut(), &parts);
        }
        response
    }
}
