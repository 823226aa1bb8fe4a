//! HTTP requests → sessions.

use std::sync::Arc;

use axum_core::body::Body;
use axum_core::response::Response;
use futures_core::future::BoxFuture;
use futures_util::FutureExt as _;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version, header};
use hyper::upgrade::OnUpgrade;

use super::task::{SessionTask, Upper};
use super::{polling, websocket};
use crate::engine::{Config, Handshake, Refusal, SessionId, Transport};
use crate::hub::handshake::Handshake as FirstRequest;
use crate::hub::link::Link;
use crate::hub::sessions::Sessions;
use crate::websocket::{accept_key, is_valid_key};

/// What runs above the sessions.
pub(crate) trait Application: Send + Sync {
    fn open(&self, link: &Arc<Link>) -> Box<dyn Upper>;
}

/// The server as HTTP sees it.
pub(crate) struct Front {
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) config: Arc<Config>,
    pub(crate) application: Arc<dyn Application>,
    /// Without the slash at its end.
    pub(crate) path: Box<str>,
}

impl Front {
    /// Whether a path is the server's: its own, or below it; by whole segments.
    pub(crate) fn serves(&self, path: &str) -> bool {
        path.strip_prefix(&*self.path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Answers a request.
    pub(crate) fn respond<B>(&self, mut request: Request<B>) -> BoxFuture<'static, Response>
    where
        B: http_body::Body + Send + 'static,
        B::Data: Send,
    {
        let upgrade = is_websocket(&request).then(|| hyper::upgrade::on(&mut request));
        // A clone of counted bytes.
        let uri = request.uri().clone();
        match self.route(uri.query().unwrap_or_default(), request, upgrade) {
            Ok(response) => response,
            Err(refusal) => {
                tracing::debug!(%refusal, "refused");
                std::future::ready(refuse(refusal)).boxed()
            }
        }
    }

    fn route<B>(
        &self,
        query: &str,
        request: Request<B>,
        upgrade: Option<OnUpgrade>,
    ) -> Result<BoxFuture<'static, Response>, Refusal>
    where
        B: http_body::Body + Send + 'static,
        B::Data: Send,
    {
        let handshake = Handshake::parse(query)?;
        match (&handshake.sid, handshake.transport) {
            (Some(sid), transport) => {
                let link = self.sessions.find(sid).ok_or(Refusal::UnknownSession)?;
                match (transport, upgrade) {
                    (Transport::Polling, None) => self.exchange(link, request),
                    (Transport::WebSocket, Some(upgrade)) => {
                        let (parts, _) = request.into_parts();
                        let response = self.probe(&link, &parts, upgrade);
                        Ok(std::future::ready(response?).boxed())
                    }
                    (Transport::Polling, Some(_)) | (Transport::WebSocket, None) => {
                        Err(Refusal::BadRequest)
                    }
                }
            }
            (None, _) => self.open(&handshake, request, upgrade),
        }
    }

    fn open<B>(
        &self,
        handshake: &Handshake<'_>,
        request: Request<B>,
        upgrade: Option<OnUpgrade>,
    ) -> Result<BoxFuture<'static, Response>, Refusal> {
        self.check(handshake, request.method(), upgrade.is_some())?;
        let (parts, _) = request.into_parts();
        let switching = upgrade.as_ref().map(|_| accept(&parts)).transpose()?;
        let link = self.start(handshake, parts, upgrade);
        Ok(match switching {
            Some(response) => std::future::ready(response).boxed(),
            None => polling::get(link).boxed(),
        })
    }

    fn check(
        &self,
        handshake: &Handshake<'_>,
        method: &Method,
        has_upgrade: bool,
    ) -> Result<(), Refusal> {
        let enabled = match handshake.transport {
            Transport::Polling => self.config.polling,
            Transport::WebSocket => self.config.websocket,
        };
        if !enabled {
            return Err(Refusal::UnknownTransport);
        }
        if !(*method == Method::GET || (has_upgrade && *method == Method::CONNECT)) {
            return Err(Refusal::BadMethod);
        }
        if has_upgrade != (handshake.transport == Transport::WebSocket) {
            return Err(Refusal::BadRequest);
        }
        if !handshake.supported {
            return Err(Refusal::UnsupportedVersion);
        }
        if self.sessions.is_full() {
            return Err(Refusal::Unavailable);
        }
        Ok(())
    }

    /// Opens a session and starts its task.
    fn start(
        &self,
        handshake: &Handshake<'_>,
        parts: Parts,
        upgrade: Option<OnUpgrade>,
    ) -> Arc<Link> {
        let link = Arc::new(Link::open(
            Arc::clone(&self.config),
            session_id(),
            self.sessions.number(),
            handshake.transport,
            FirstRequest::new(parts),
            handshake.base64,
        ));
        tracing::debug!(session = link.number, transport = %handshake.transport, "opened");
        let presence = self.sessions.enter(Arc::clone(&link));
        let upper = self.application.open(&link);
        let task = SessionTask::new(Arc::clone(&link), presence, upper, upgrade);
        tokio::spawn(task);
        link
    }

    /// A GET or a POST of a session that is known.
    fn exchange<B>(
        &self,
        link: Arc<Link>,
        request: Request<B>,
    ) -> Result<BoxFuture<'static, Response>, Refusal>
    where
        B: http_body::Body + Send + 'static,
        B::Data: Send,
    {
        if link.transport() != Transport::Polling {
            return Err(Refusal::BadRequest);
        }
        match *request.method() {
            Method::GET => Ok(polling::get(link).boxed()),
            Method::POST => Ok(polling::post(link, request).boxed()),
            _ => Err(Refusal::BadMethod),
        }
    }

    /// A WebSocket beside a polling session. If there is one already it is accepted and closed, as
    /// the protocol wants it.
    fn probe(
        &self,
        link: &Arc<Link>,
        parts: &Parts,
        upgrade: OnUpgrade,
    ) -> Result<Response, Refusal> {
        if !self.config.websocket {
            return Err(Refusal::UnknownTransport);
        }
        let response = accept(parts)?;
        if let Err(upgrade) = link.offer_websocket(upgrade) {
            tokio::spawn(websocket::refuse(upgrade));
        }
        Ok(response)
    }
}

fn session_id() -> SessionId {
    let mut random = [0; 16];
    // Without the system's randomness no session is safe: better none at all.
    getrandom::fill(&mut random).expect("the system gives random bytes");
    SessionId::new(random)
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

fn has_token(headers: &HeaderMap, name: &header::HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|each| each.trim().eq_ignore_ascii_case(token))
}

/// The answer to an upgrade request.
fn accept(parts: &Parts) -> Result<Response, Refusal> {
    let mut response = Response::new(Body::empty());
    let version = parts.headers.get(header::SEC_WEBSOCKET_VERSION);
    if version.is_none_or(|version| version.as_bytes() != b"13") {
        return Err(Refusal::BadRequest);
    }
    if parts.method == Method::CONNECT {
        // An extended CONNECT has no key and is answered with 200.
        return Ok(response);
    }
    let key = parts.headers.get(header::SEC_WEBSOCKET_KEY);
    let key = key.filter(|key| is_valid_key(key.as_bytes()));
    let key = key.ok_or(Refusal::BadRequest)?;
    let accept = HeaderValue::try_from(accept_key(key.as_bytes()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    // Base64 is a valid header value.
    headers.extend(accept.map(|accept| (header::SEC_WEBSOCKET_ACCEPT, accept)));
    Ok(response)
}

/// The protocol's answer to a request that is not served.
pub(super) fn refuse(refusal: Refusal) -> Response {
    let mut response = Response::new(Body::from(refusal.body()));
    // All of them are valid.
    *response.status_mut() =
        StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_REQUEST);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}
