//! HTTP requests: handshakes, polls, POSTs and upgrades.

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum_core::BoxError;
use axum_core::body::Body;
use axum_core::extract::Request as AxumRequest;
use axum_core::response::{IntoResponse, Response};
use futures_core::future::BoxFuture;
use futures_util::FutureExt as _;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header};
use hyper::upgrade::OnUpgrade;
use tokio::runtime::Handle;
use tower_service::Service;

use super::options::{HttpOptions, RequestKind};
use super::polling::{PostRequest, ResponseFormat};
use super::refusal::{ConnectionError, SERVER_CLOSES, WRONG_VERSION};
use super::task::{SessionApp, SessionTask};
use super::{polling, websocket};
use crate::engine_io::{
    Config, HandshakeQuery, Refusal, Revision, SessionId, SessionParams, SocketId, Transport,
};
use crate::hub::request::StoredRequest;
use crate::hub::session::{SharedSession, Upgrade};
use crate::hub::sessions::Sessions;
use crate::hub::spans::OptionalSpan;
use crate::notice::notice;
use crate::random::random;
use crate::websocket::{accept_deflate, accept_key, is_valid_key};

/// The application of a server. It opens a [`SessionApp`] for each session.
pub(crate) trait Application: Send + Sync {
    fn open(&self, session: &Arc<SharedSession>) -> Box<dyn SessionApp>;
}

/// The HTTP side of a server.
pub(crate) struct HttpService {
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) config: Arc<Config>,
    pub(crate) http: Arc<HttpOptions>,
    pub(crate) application: Arc<dyn Application>,
    /// The path of the server, without a slash at its end.
    pub(crate) path: Box<str>,
    /// Whether a service was made of the layer.
    pub(crate) is_wrapped: AtomicBool,
}

/// How a request is to be served. Making a plan changes nothing.
enum Plan {
    Poll(Arc<SharedSession>),
    Post(Arc<SharedSession>),
    /// A WebSocket beside a polling session, and the response to its request.
    Probe(Arc<SharedSession>, Response),
    /// A new session, and the response to the request if it opens a WebSocket.
    Open(SessionParams, Option<Response>),
}

/// Checks the path of a server, and removes the slash at its end.
///
/// # Panics
///
/// Panics if the path does not begin with a slash.
#[track_caller]
pub(crate) fn server_path(path: &str) -> Box<str> {
    assert!(
        path.starts_with('/'),
        "path `{path}` must begin with a slash"
    );
    path.trim_end_matches('/').into()
}

impl HttpService {
    /// Returns whether a path is the server's own path or below it, by whole segments.
    pub(crate) fn serves(&self, path: &str) -> bool {
        path.strip_prefix(&*self.path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Returns the path as a client sets it.
    pub(crate) fn shown_path(&self) -> &str {
        match &*self.path {
            "" => "/",
            path => path,
        }
    }

    /// Records that a service was made of the layer.
    pub(crate) fn mark_wrapped(&self) {
        self.is_wrapped.store(true, Ordering::Relaxed);
    }

    /// Logs that a layer with the same path is around this one, and gets all requests for the path.
    #[cold]
    pub(crate) fn log_same_path(&self) {
        notice!(
            self.sessions.notices.same_path,
            path = self.shown_path(),
            "two servers have the same path, and the inner one gets no request: build one server \
             with all namespaces, or set another `path`",
        );
    }

    /// Returns a router that has `service` at the server's path and at all paths below it.
    pub(crate) fn router<T, S>(&self, service: T) -> Router<S>
    where
        T: Service<AxumRequest, Error = Infallible> + Clone + Send + Sync + 'static,
        T::Response: IntoResponse,
        T::Future: Send + 'static,
        S: Clone + Send + Sync + 'static,
    {
        // The path is literal, not a pattern.
        let path = self.path.replace('{', "{{").replace('}', "}}");
        let mut router = Router::new().without_v07_checks();
        if !path.is_empty() {
            router = router.route_service(&path, service.clone());
        }
        router
            .route_service(&format!("{path}/"), service.clone())
            .route_service(&format!("{path}/{{*below}}"), service)
    }

    /// Returns whether a request for another path comes from a Socket.IO client.
    pub(crate) fn is_socket_io_request<B>(&self, request: &Request<B>) -> bool {
        let query = request.uri().query();
        query.is_some_and(|query| query.contains("EIO=") && query.contains("transport="))
    }

    /// Logs that a client has requested a path that nothing serves.
    pub(crate) fn log_unserved_path(&self, path: &str) {
        notice!(
            self.sessions.notices.path,
            path,
            served = &*self.path,
            "a client asks for a path that nothing serves: its option `path` and that of the server \
             differ, or the router is nested",
        );
    }

    /// Returns the name of the file that a path asks for: the rest after the server's path and a
    /// slash. If a router serves another path, returns the last segment.
    fn file_name<'a>(&self, path: &'a str) -> &'a str {
        let below = path.strip_prefix(&*self.path);
        let below = below.and_then(|rest| rest.strip_prefix('/'));
        below.unwrap_or_else(|| path.rsplit('/').next().unwrap_or_default())
    }

    /// Serves a request.
    pub(crate) fn respond<B>(
        self: &Arc<Self>,
        mut request: Request<B>,
    ) -> BoxFuture<'static, Response>
    where
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        self.sessions.mark_used();
        let upgrade = is_websocket(&request).then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let finish = self.http.finish(&parts);
        let (to, answer) = self.answer(parts, body, upgrade);
        match finish {
            None => answer,
            Some(finish) => answer.map(move |answer| finish.apply(answer, to)).boxed(),
        }
    }

    fn answer<B>(
        self: &Arc<Self>,
        parts: Parts,
        body: B,
        upgrade: Option<OnUpgrade>,
    ) -> (RequestKind, BoxFuture<'static, Response>)
    where
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        if let Some(answer) = self
            .http
            .intercept(&parts, self.file_name(parts.uri.path()))
        {
            return (RequestKind::Other, ready(answer));
        }
        match self.plan(&parts, upgrade.is_some()) {
            Err(error) => {
                let mut answer = self.refuse(&parts, &error);
                if error.refusal() == Refusal::HeadTooLong && parts.version < Version::HTTP_2 {
                    // Otherwise the HTTP connection keeps a buffer of the length of the head.
                    let close = HeaderValue::from_static("close");
                    answer.headers_mut().insert(header::CONNECTION, close);
                }
                (RequestKind::Other, ready(answer))
            }
            Ok(Plan::Poll(session)) => {
                let format = ResponseFormat::of(&parts, &self.http);
                let timeout = self.http.poll_timeout;
                (
                    RequestKind::Later,
                    polling::get(session, format, timeout).boxed(),
                )
            }
            Ok(Plan::Post(session)) => {
                let post = PostRequest::of(&parts, &self.http);
                (
                    RequestKind::Later,
                    polling::post(session, post, body).boxed(),
                )
            }
            Ok(Plan::Probe(session, response)) => {
                // If the session has a WebSocket already, this one is accepted and closed, as the
                // protocol requires.
                let upgrade = upgrade.map(|stream| accepted_upgrade(stream, &response));
                if let Some(Err(upgrade)) = upgrade.map(|upgrade| session.offer_websocket(upgrade))
                {
                    session.spawn(websocket::refuse(upgrade));
                }
                (RequestKind::Later, ready(response))
            }
            Ok(Plan::Open(params, response)) => (
                RequestKind::Handshake,
                self.open(params, parts, upgrade, response),
            ),
        }
    }

    fn refuse(&self, parts: &Parts, error: &ConnectionError) -> Response {
        let observers = &self.sessions.observers;
        observers.each(|observer| observer.refused(error.code()));
        self.http.refuse(parts, error)
    }

    fn plan(&self, parts: &Parts, has_upgrade: bool) -> Result<Plan, ConnectionError> {
        let query = parts.uri.query().unwrap_or_default();
        let handshake = HandshakeQuery::parse(query)
            .map_err(|refusal| ConnectionError::new(refusal, "`transport` in the query"))?;
        let transport = handshake.transport;
        let opens = handshake.sid.is_none().then_some(transport);
        if !self.http.allows_origin(parts, opens) {
            self.log_refused_origin(parts);
            let message = Cow::Borrowed("Origin not allowed");
            return Err(ConnectionError::with_message(message, "origin"));
        }
        let Some(sid) = &handshake.sid else {
            self.check(&handshake, parts, has_upgrade)?;
            let response = has_upgrade.then(|| self.accept(parts)).transpose()?;
            return Ok(Plan::Open(handshake.params(), response));
        };
        let (session, current) = self.sessions.find(sid).ok_or(ConnectionError::new(
            Refusal::UnknownSession,
            "`sid` in the query",
        ))?;
        if handshake.revision != session.params.revision {
            let context = "the protocol is not the session's, `EIO` in the query";
            return Err(ConnectionError::new(Refusal::BadRequest, context));
        }
        let mismatch = ConnectionError::new(Refusal::BadRequest, "the session's transport");
        match (transport, has_upgrade, &parts.method) {
            (Transport::WebSocket, true, _) => {
                if !self.config.websocket {
                    return Err(TRANSPORT_OFF);
                }
                if !self.config.upgrades {
                    return Err(ConnectionError::new(
                        Refusal::BadRequest,
                        "upgrades are off",
                    ));
                }
                Ok(Plan::Probe(session, self.accept(parts)?))
            }
            (Transport::Polling, true, _) | (Transport::WebSocket, false, _) => Err(mismatch),
            _ if current != Transport::Polling => Err(mismatch),
            (Transport::Polling, false, &Method::GET) => Ok(Plan::Poll(session)),
            (Transport::Polling, false, &Method::POST) => Ok(Plan::Post(session)),
            (Transport::Polling, false, _) => Err(BAD_METHOD),
        }
    }

    /// Logs the origin of a refused request. Browsers hide from a page why its WebSocket fails.
    fn log_refused_origin(&self, parts: &Parts) {
        let header = |name| parts.headers.get(name).map_or("", text);
        let host = parts.headers.get(header::HOST).map(text);
        let host = host.or_else(|| parts.uri.authority().map(|authority| authority.as_str()));
        notice!(
            self.sessions.notices.origin,
            origin = header("origin"),
            host = host.unwrap_or_default(),
            forwarded_host = header("x-forwarded-host"),
            "a page of another origin is refused: if it may connect, name its origin in \
             `HttpOptions::origins` or `cors`; if it is of this server, the proxy has to pass on \
             `Host` with its port (nginx: `$http_host`) or to set `X-Forwarded-Host`",
        );
    }

    /// Checks a request that opens a session.
    fn check(
        &self,
        handshake: &HandshakeQuery<'_>,
        parts: &Parts,
        has_upgrade: bool,
    ) -> Result<(), ConnectionError> {
        let method = &parts.method;
        let enabled = match handshake.transport {
            Transport::Polling => self.config.polling,
            Transport::WebSocket => self.config.websocket,
        };
        if !enabled {
            return Err(TRANSPORT_OFF);
        }
        if handshake.params().jsonp && !self.http.jsonp {
            return Err(ConnectionError::new(
                Refusal::UnknownTransport,
                "JSONP is off",
            ));
        }
        if !(*method == Method::GET || (has_upgrade && *method == Method::CONNECT)) {
            return Err(BAD_METHOD);
        }
        if has_upgrade != (handshake.transport == Transport::WebSocket) {
            let context = "`transport` and the upgrade do not match";
            return Err(ConnectionError::new(Refusal::BadRequest, context));
        }
        if handshake.revision == Revision::V3 && !self.config.allow_eio3 {
            return Err(ConnectionError::new(
                Refusal::UnsupportedVersion,
                "`EIO` in the query",
            ));
        }
        if StoredRequest::len(parts) > self.config.max_handshake {
            return Err(ConnectionError::new(Refusal::HeadTooLong, "the head"));
        }
        self.check_room()
    }

    /// Checks whether the server accepts one more session.
    fn check_room(&self) -> Result<(), ConnectionError> {
        if self.sessions.is_closing() {
            return Err(CLOSING);
        }
        match self.sessions.is_full() {
            true => Err(FULL),
            false => Ok(()),
        }
    }

    /// Returns the response to an upgrade request, with the accepted extension and the chosen
    /// subprotocol.
    fn accept(&self, parts: &Parts) -> Result<Response, ConnectionError> {
        let mut response = accept(parts)?;
        let offers = parts.headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS);
        let mut offers = offers.iter().filter_map(|offer| offer.to_str().ok());
        let accepted = offers.find_map(accept_deflate);
        if let Some(accepted) = accepted.filter(|_| self.config.deflate_threshold.is_some()) {
            response.headers_mut().insert(
                header::SEC_WEBSOCKET_EXTENSIONS,
                HeaderValue::from_static(accepted),
            );
        }
        if let Some(protocol) = self.http.protocol(parts)? {
            let headers = response.headers_mut();
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        Ok(response)
    }

    /// Opens a session, if [`HttpOptions::allow_request`] allows it.
    fn open(
        self: &Arc<Self>,
        params: SessionParams,
        mut parts: Parts,
        upgrade: Option<OnUpgrade>,
        response: Option<Response>,
    ) -> BoxFuture<'static, Response> {
        as_http_1(&mut parts.headers, parts.version, &parts.uri);
        let Some(allow) = &self.http.allow_request else {
            if Handle::try_current().is_err() {
                // The caller is in no runtime, but the future may be polled in one.
                let service = Arc::clone(self);
                let begin = async move {
                    service
                        .open_and_respond(params, parts, upgrade, response)
                        .await
                };
                return begin.boxed();
            }
            return self.open_and_respond(params, parts, upgrade, response);
        };
        let allowed = allow(parts.clone());
        let service = Arc::clone(self);
        async move {
            let refused = match allowed.await {
                Err(message) => Some(ConnectionError::with_message(message, "allow_request")),
                // Other sessions may have been opened in the meantime, or the server closes.
                Ok(()) => service.check_room().err(),
            };
            match refused {
                Some(error) => service.refuse(&parts, &error),
                None => {
                    service
                        .open_and_respond(params, parts, upgrade, response)
                        .await
                }
            }
        }
        .boxed()
    }

    /// Opens a session, and returns the response to its handshake: the open packet, or the accepted
    /// upgrade.
    fn open_and_respond(
        &self,
        params: SessionParams,
        parts: Parts,
        upgrade: Option<OnUpgrade>,
        response: Option<Response>,
    ) -> BoxFuture<'static, Response> {
        if Handle::try_current().is_err() {
            tracing::error!("a client is refused: the layer has to run in a Tokio runtime");
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            return ready(response);
        }
        let format = ResponseFormat::of(&parts, &self.http);
        let upgrade = upgrade.zip(response.as_ref());
        let upgrade = upgrade.map(|(stream, response)| accepted_upgrade(stream, response));
        let session = self.spawn_session(params, parts, upgrade);
        if let Some(response) = response {
            return ready(response);
        }
        let cookie = self.http.cookie.as_ref();
        let Some(cookie) = cookie.and_then(|cookie| cookie.header(session.sid())) else {
            return polling::get(session, format, None).boxed();
        };
        let response = polling::get(session, format, None).map(|mut response| {
            response.headers_mut().append(header::SET_COOKIE, cookie);
            response
        });
        response.boxed()
    }

    /// Opens a session and starts its task.
    fn spawn_session(
        &self,
        params: SessionParams,
        parts: Parts,
        upgrade: Option<Upgrade>,
    ) -> Arc<SharedSession> {
        let number = self.sessions.next_number();
        let span = OptionalSpan::connection(number, params.transport, &parts.headers);
        let mut session = SharedSession::open(
            Arc::clone(&self.config),
            Arc::clone(&self.sessions.notices),
            self.sessions.observers.clone(),
            session_id(params),
            number,
            params,
            StoredRequest::new(parts),
        );
        session.span = span;
        let session = Arc::new(session);
        tracing::debug!(session = session.number, transport = %params.transport, "opened");
        let guard = self.sessions.insert(Arc::clone(&session));
        let observers = &session.observers;
        observers.each(|observer| observer.connection_opened(&session));
        let app = self.application.open(&session);
        let task = SessionTask::new(Arc::clone(&session), guard, app, upgrade);
        session.spawn(task);
        session
    }
}

impl Drop for HttpService {
    fn drop(&mut self) {
        if !self.sessions.is_unused() {
            return;
        }
        match *self.is_wrapped.get_mut() {
            true => tracing::warn!(
                path = self.shown_path(),
                "a server is dropped before any request has reached it: a fallback or a merge after \
                 `Router::layer` replaces the service that the layer wraps, and a layer around it \
                 with the same path gets its requests; `into_router` works in any order",
            ),
            false => tracing::warn!(
                path = self.shown_path(),
                "the layer of a server is dropped and was never added to a router: add it with \
                 `Router::layer`, or merge its `into_router`; the handle does not keep the server",
            ),
        }
    }
}

const TRANSPORT_OFF: ConnectionError =
    ConnectionError::new(Refusal::UnknownTransport, "the transport is off");
const BAD_METHOD: ConnectionError = ConnectionError::new(Refusal::BadMethod, "the method");
const FULL: ConnectionError = ConnectionError::new(Refusal::Unavailable, "too many sessions");
const CLOSING: ConnectionError = ConnectionError::new(Refusal::Unavailable, SERVER_CLOSES);

/// Returns the upgrade that a response has accepted.
fn accepted_upgrade(stream: OnUpgrade, response: &Response) -> Upgrade {
    let headers = response.headers();
    Upgrade {
        stream,
        deflate: headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS),
    }
}

fn ready(response: Response) -> BoxFuture<'static, Response> {
    std::future::ready(response).boxed()
}

fn session_id(params: SessionParams) -> SessionId {
    if params.revision == Revision::V4 {
        return SessionId::new(random());
    }
    // Socket.IO 2 clients use the session's id as the id of their socket. A session that begins
    // with WebSocket accepts no other request, so its id need not be a secret.
    let secret = (params.transport == Transport::Polling).then(random);
    SessionId::with_public_part(SocketId::new(random()), secret)
}

/// Returns whether a request is for a WebSocket: RFC 6455 section 4.2.1, or RFC 8441 over HTTP/2.
fn is_websocket<B>(request: &Request<B>) -> bool {
    if *request.method() == Method::CONNECT {
        let protocol = request.extensions().get::<hyper::ext::Protocol>();
        return protocol.is_some_and(|protocol| protocol.as_str() == "websocket");
    }
    let headers = request.headers();
    *request.method() == Method::GET
        && request.version() >= Version::HTTP_11
        && has_token(headers, &header::CONNECTION, "upgrade")
        && has_token(headers, &header::UPGRADE, "websocket")
}

/// Converts the headers of HTTP/2 to the form of HTTP/1.1: `:authority` becomes `host`, and
/// several `cookie` headers are joined ([RFC 9113, 8.2.3 and 8.3.1]).
///
/// [RFC 9113, 8.2.3 and 8.3.1]: https://www.rfc-editor.org/rfc/rfc9113
fn as_http_1(headers: &mut HeaderMap, version: Version, uri: &Uri) {
    if version < Version::HTTP_2 {
        return;
    }
    let authority = uri.authority().map(|authority| authority.as_str());
    if let Some(Ok(host)) = authority.map(HeaderValue::from_str) {
        headers.entry(header::HOST).or_insert(host);
    }
    let pieces = headers.get_all(header::COOKIE).iter();
    let pieces: Vec<_> = pieces.map(HeaderValue::as_bytes).collect();
    if pieces.len() < 2 {
        return;
    }
    // Each value is valid, and so are the joined values.
    if let Ok(whole) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
        headers.insert(header::COOKIE, whole);
    }
}

/// Returns the value of a header as text, or `?` if it is not text.
fn text(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or("?")
}

fn has_token(headers: &HeaderMap, name: &header::HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|each| each.trim().eq_ignore_ascii_case(token))
}

/// Returns the response to an upgrade request, without an extension and a subprotocol.
fn accept(parts: &Parts) -> Result<Response, ConnectionError> {
    let mut response = Response::new(Body::empty());
    let version = parts.headers.get(header::SEC_WEBSOCKET_VERSION);
    if version.is_none_or(|version| version.as_bytes() != b"13") {
        return Err(ConnectionError::new(Refusal::BadRequest, WRONG_VERSION));
    }
    if parts.method == Method::CONNECT {
        // An extended CONNECT has no key, and the response has status 200.
        return Ok(response);
    }
    let key = parts.headers.get(header::SEC_WEBSOCKET_KEY);
    let key = key.filter(|key| is_valid_key(key.as_bytes()));
    let key = key.ok_or(ConnectionError::new(
        Refusal::BadRequest,
        "Sec-WebSocket-Key",
    ))?;
    let accept = HeaderValue::try_from(accept_key(key.as_bytes()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    // Base64 is a valid header value.
    headers.extend(accept.map(|accept| (header::SEC_WEBSOCKET_ACCEPT, accept)));
    Ok(response)
}
