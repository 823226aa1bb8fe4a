//! HTTP requests → sessions.

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;

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

use super::options::{Answer, HttpOptions};
use super::polling::{Post, Style};
use super::refusal::{ConnectionError, WRONG_VERSION};
use super::task::{SessionTask, Upper};
use super::{polling, websocket};
use crate::engine::{
    Config, Handshake, Opening, Refusal, Revision, SessionId, SocketId, Transport,
};
use crate::hub::handshake::Handshake as FirstRequest;
use crate::hub::link::{Link, Upgrade};
use crate::hub::sessions::Sessions;
use crate::notice::notice;
use crate::websocket::{DEFLATE_ACCEPTED, accept_key, accepts_deflate, is_valid_key};

/// What runs above the sessions.
pub(crate) trait Application: Send + Sync {
    fn open(&self, link: &Arc<Link>) -> Box<dyn Upper>;
}

/// The server as HTTP sees it.
pub(crate) struct Front {
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) config: Arc<Config>,
    pub(crate) http: Arc<HttpOptions>,
    pub(crate) application: Arc<dyn Application>,
    /// Without the slash at its end.
    pub(crate) path: Box<str>,
}

/// What a request is to come to. Nothing has been changed when it is made.
enum Plan {
    Poll(Arc<Link>),
    Post(Arc<Link>),
    /// A WebSocket beside a polling session, and the answer to its request.
    Probe(Arc<Link>, Response),
    /// A new session; for a WebSocket with the answer to its request.
    Open(Opening, Option<Response>),
}

impl Front {
    /// Whether a path is the server's: its own, or below it; by whole segments.
    pub(crate) fn serves(&self, path: &str) -> bool {
        path.strip_prefix(&*self.path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// A router of a service for the server's path and what is below it.
    pub(crate) fn router<T, S>(&self, service: T) -> Router<S>
    where
        T: Service<AxumRequest, Error = Infallible> + Clone + Send + Sync + 'static,
        T::Response: IntoResponse,
        T::Future: Send + 'static,
        S: Clone + Send + Sync + 'static,
    {
        // A path is a text, not a pattern.
        let path = self.path.replace('{', "{{").replace('}', "}}");
        let mut router = Router::new().without_v07_checks();
        if !path.is_empty() {
            router = router.route_service(&path, service.clone());
        }
        router
            .route_service(&format!("{path}/"), service.clone())
            .route_service(&format!("{path}/{{*below}}"), service)
    }

    /// Whether a request for another path is one of a Socket.IO client.
    pub(crate) fn is_lost<B>(&self, request: &Request<B>) -> bool {
        let query = request.uri().query();
        query.is_some_and(|query| query.contains("EIO=") && query.contains("transport="))
    }

    /// A client has asked for a path that nothing serves.
    pub(crate) fn tell_of_path(&self, path: &str) {
        notice!(
            self.sessions.notices.path,
            path,
            served = &*self.path,
            "a client asks for a path that nothing serves: its option `path` and that of the server \
             differ, or the router is nested",
        );
    }

    /// What a path names below the server's own; where a router has decided that the request is
    /// the server's, its last segment.
    fn name_in<'a>(&self, path: &'a str) -> &'a str {
        let below = path.strip_prefix(&*self.path);
        let below = below.and_then(|rest| rest.strip_prefix('/'));
        below.unwrap_or_else(|| path.rsplit('/').next().unwrap_or_default())
    }

    /// Answers a request.
    pub(crate) fn respond<B>(
        self: &Arc<Self>,
        mut request: Request<B>,
    ) -> BoxFuture<'static, Response>
    where
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
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
    ) -> (Answer, BoxFuture<'static, Response>)
    where
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        if let Some(answer) = self.http.aside(&parts, self.name_in(parts.uri.path())) {
            return (Answer::Other, ready(answer));
        }
        match self.decide(&parts, upgrade.is_some()) {
            Err(error) => {
                let mut answer = self.http.refuse(&parts, &error);
                if error.refusal() == Refusal::HeadTooLong && parts.version < Version::HTTP_2 {
                    // The HTTP connection would keep a buffer of that length.
                    let close = HeaderValue::from_static("close");
                    answer.headers_mut().insert(header::CONNECTION, close);
                }
                (Answer::Other, ready(answer))
            }
            Ok(Plan::Poll(link)) => {
                let style = Style::of(&parts, &self.http);
                let timeout = self.http.poll_timeout;
                (Answer::Later, polling::get(link, style, timeout).boxed())
            }
            Ok(Plan::Post(link)) => {
                let post = Post::of(&parts, &self.http);
                (Answer::Later, polling::post(link, post, body).boxed())
            }
            Ok(Plan::Probe(link, response)) => {
                // If there is one already this one is accepted and closed, as the protocol wants it.
                let upgrade = upgrade.map(|stream| agreed(stream, &response));
                if let Some(Err(upgrade)) = upgrade.map(|upgrade| link.offer_websocket(upgrade)) {
                    link.spawn(websocket::refuse(upgrade));
                }
                (Answer::Later, ready(response))
            }
            Ok(Plan::Open(opening, response)) => (
                Answer::Opening,
                self.open(opening, parts, upgrade, response),
            ),
        }
    }

    fn decide(&self, parts: &Parts, has_upgrade: bool) -> Result<Plan, ConnectionError> {
        let query = parts.uri.query().unwrap_or_default();
        let handshake = Handshake::parse(query)
            .map_err(|refusal| ConnectionError::new(refusal, "`transport` in the query"))?;
        let transport = handshake.transport;
        let opens = handshake.sid.is_none().then_some(transport);
        if !self.http.allows_origin(parts, opens) {
            self.tell_of_origin(parts);
            let message = Cow::Borrowed("Origin not allowed");
            return Err(ConnectionError::saying(message, "origin"));
        }
        let Some(sid) = &handshake.sid else {
            self.check(&handshake, parts, has_upgrade)?;
            let response = has_upgrade.then(|| self.accept(parts)).transpose()?;
            return Ok(Plan::Open(handshake.opening(), response));
        };
        let (link, current) = self.sessions.find(sid).ok_or(ConnectionError::new(
            Refusal::UnknownSession,
            "`sid` in the query",
        ))?;
        if handshake.revision != link.opening.revision {
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
                Ok(Plan::Probe(link, self.accept(parts)?))
            }
            (Transport::Polling, true, _) | (Transport::WebSocket, false, _) => Err(mismatch),
            _ if current != Transport::Polling => Err(mismatch),
            (Transport::Polling, false, &Method::GET) => Ok(Plan::Poll(link)),
            (Transport::Polling, false, &Method::POST) => Ok(Plan::Post(link)),
            (Transport::Polling, false, _) => Err(BAD_METHOD),
        }
    }

    /// Browsers tell the page nothing of why its WebSocket fails.
    fn tell_of_origin(&self, parts: &Parts) {
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

    fn check(
        &self,
        handshake: &Handshake<'_>,
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
        if handshake.opening().jsonp && !self.http.jsonp {
            return Err(ConnectionError::new(
                Refusal::UnknownTransport,
                "JSONP is off",
            ));
        }
        if !(*method == Method::GET || (has_upgrade && *method == Method::CONNECT)) {
            return Err(BAD_METHOD);
        }
        if has_upgrade != (handshake.transport == Transport::WebSocket) {
            let context = "`transport` and the upgrade do not fit";
            return Err(ConnectionError::new(Refusal::BadRequest, context));
        }
        if handshake.revision == Revision::V3 && !self.config.allow_eio3 {
            return Err(ConnectionError::new(
                Refusal::UnsupportedVersion,
                "`EIO` in the query",
            ));
        }
        if FirstRequest::len(parts) > self.config.max_handshake {
            return Err(ConnectionError::new(Refusal::HeadTooLong, "the head"));
        }
        if self.sessions.is_full() {
            return Err(FULL);
        }
        Ok(())
    }

    /// The answer to an upgrade request.
    fn accept(&self, parts: &Parts) -> Result<Response, ConnectionError> {
        let mut response = accept(parts)?;
        let offers = parts.headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS);
        let mut offers = offers.iter().filter_map(|offer| offer.to_str().ok());
        if self.config.deflate_from.is_some() && offers.any(accepts_deflate) {
            response.headers_mut().insert(
                header::SEC_WEBSOCKET_EXTENSIONS,
                HeaderValue::from_static(DEFLATE_ACCEPTED),
            );
        }
        if let Some(protocol) = self.http.protocol(parts)? {
            let headers = response.headers_mut();
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        Ok(response)
    }

    /// Opens a session, if the application allows it.
    fn open(
        self: &Arc<Self>,
        opening: Opening,
        mut parts: Parts,
        upgrade: Option<OnUpgrade>,
        response: Option<Response>,
    ) -> BoxFuture<'static, Response> {
        as_http_1(&mut parts.headers, parts.version, &parts.uri);
        let Some(allow) = &self.http.allow_request else {
            if Handle::try_current().is_err() {
                // The answer may yet be awaited in a runtime.
                let front = Arc::clone(self);
                let begin = async move { front.begin(opening, parts, upgrade, response).await };
                return begin.boxed();
            }
            return self.begin(opening, parts, upgrade, response);
        };
        let allowed = allow(parts.clone());
        let front = Arc::clone(self);
        async move {
            let refused = match allowed.await {
                Err(message) => Some(ConnectionError::saying(message, "allow_request")),
                // Others came meanwhile.
                Ok(()) => front.sessions.is_full().then_some(FULL),
            };
            match refused {
                Some(error) => front.http.refuse(&parts, &error),
                None => front.begin(opening, parts, upgrade, response).await,
            }
        }
        .boxed()
    }

    fn begin(
        &self,
        opening: Opening,
        parts: Parts,
        upgrade: Option<OnUpgrade>,
        response: Option<Response>,
    ) -> BoxFuture<'static, Response> {
        if Handle::try_current().is_err() {
            tracing::error!("a client is refused: the layer has to run in a Tokio runtime");
            let mut answer = Response::new(Body::empty());
            *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            return ready(answer);
        }
        let style = Style::of(&parts, &self.http);
        let upgrade = upgrade.zip(response.as_ref());
        let upgrade = upgrade.map(|(stream, response)| agreed(stream, response));
        let link = self.start(opening, parts, upgrade);
        if let Some(response) = response {
            return ready(response);
        }
        let cookie = self.http.cookie.as_ref();
        let Some(cookie) = cookie.and_then(|cookie| cookie.header(link.sid())) else {
            return polling::get(link, style, None).boxed();
        };
        let answer = polling::get(link, style, None).map(|mut answer| {
            answer.headers_mut().append(header::SET_COOKIE, cookie);
            answer
        });
        answer.boxed()
    }

    /// Opens a session and starts its task.
    fn start(&self, opening: Opening, parts: Parts, upgrade: Option<Upgrade>) -> Arc<Link> {
        let link = Arc::new(Link::open(
            Arc::clone(&self.config),
            Arc::clone(&self.sessions.notices),
            session_id(opening),
            self.sessions.number(),
            opening,
            FirstRequest::new(parts),
        ));
        tracing::debug!(session = link.number, transport = %opening.transport, "opened");
        let presence = self.sessions.enter(Arc::clone(&link));
        let upper = self.application.open(&link);
        let task = SessionTask::new(Arc::clone(&link), presence, upper, upgrade);
        tokio::spawn(task);
        link
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if self.sessions.is_unused() {
            tracing::warn!(
                path = &*self.path,
                "a server is dropped before any request has reached it: a fallback or a merge after \
                 `Router::layer` replaces what the layer is around; `into_router` works in any order",
            );
        }
    }
}

const TRANSPORT_OFF: ConnectionError =
    ConnectionError::new(Refusal::UnknownTransport, "the transport is off");
const BAD_METHOD: ConnectionError = ConnectionError::new(Refusal::BadMethod, "the method");
const FULL: ConnectionError = ConnectionError::new(
    Refusal::Unavailable,
    "too many sessions, or the server closes",
);

/// What the answer to an upgrade request has agreed to.
fn agreed(stream: OnUpgrade, response: &Response) -> Upgrade {
    let headers = response.headers();
    Upgrade {
        stream,
        deflate: headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS),
    }
}

fn ready(response: Response) -> BoxFuture<'static, Response> {
    std::future::ready(response).boxed()
}

fn session_id(opening: Opening) -> SessionId {
    if opening.revision == Revision::V4 {
        return SessionId::new(random());
    }
    // These clients take the session's id for their socket's. A session that begins with WebSocket
    // answers no other request, so its id need not be a secret.
    let secret = (opening.transport == Transport::Polling).then(random);
    SessionId::beginning_with(SocketId::new(random()), secret)
}

fn random<const N: usize>() -> [u8; N] {
    let mut random = [0; N];
    // Without the system's randomness no session is safe: better none at all.
    getrandom::fill(&mut random).expect("the system gives random bytes");
    random
}

/// Whether a request asks for a WebSocket: RFC 6455 section 4.2.1, or RFC 8441 over HTTP/2.
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

/// Gives the headers of HTTP/2 the form that they have in HTTP/1.1: `:authority` is the `host`, and
/// the pieces of `cookie` are one ([RFC 9113, 8.2.3 and 8.3.1](https://www.rfc-editor.org/rfc/rfc9113)).
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
    // Each of them is a value, and so is what joins them.
    if let Ok(whole) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
        headers.insert(header::COOKIE, whole);
    }
}

/// A header's value, if it is a text.
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

/// The answer to an upgrade request, without extensions.
fn accept(parts: &Parts) -> Result<Response, ConnectionError> {
    let mut response = Response::new(Body::empty());
    let version = parts.headers.get(header::SEC_WEBSOCKET_VERSION);
    if version.is_none_or(|version| version.as_bytes() != b"13") {
        return Err(ConnectionError::new(Refusal::BadRequest, WRONG_VERSION));
    }
    if parts.method == Method::CONNECT {
        // An extended CONNECT has no key and is answered with 200.
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
