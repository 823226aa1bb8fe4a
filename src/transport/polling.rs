//! Long-polling: one GET or POST of a session.

use std::error::Error;
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum_core::BoxError;
use axum_core::body::Body;
use axum_core::response::{IntoResponse, Response};
use bytes::{Buf as _, Bytes};
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use http_body_util::LengthLimitError;

use super::compress::Encoding;
use super::options::{ErrorObserver, HttpOptions};
use super::refusal::ConnectionError;
use crate::engine_io::payload::Body as Payload;
use crate::engine_io::{
    CloseReason, EnginePacket, Packets, Refusal, Revision, SessionParams, Transport, jsonp, payload,
};
use crate::hub::observer::Traffic;
use crate::hub::session::SharedSession;
use crate::notice::notice;

/// The content type of a binary body. Node's server uses exactly this value.
static OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
static TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=UTF-8");
static HTML: HeaderValue = HeaderValue::from_static("text/html");
static NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// The format of a response, as the headers of the request ask for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ResponseFormat {
    /// Whether the browser is Internet Explorer, which can mistake a JSON response for an attack.
    is_internet_explorer: bool,
    /// The encoding, and the length in bytes from which bodies are compressed.
    compress: Option<(Encoding, usize)>,
}

impl ResponseFormat {
    pub(super) fn of(parts: &Parts, http: &HttpOptions) -> Self {
        let compress = http.compression_threshold.and_then(|bytes| {
            let encoding = Encoding::accepted(&parts.headers, &Encoding::LIGHT)?;
            Some((encoding, bytes))
        });
        Self {
            compress,
            ..Self::of_post(parts)
        }
    }

    fn of_post(parts: &Parts) -> Self {
        let agent = parts.headers.get(header::USER_AGENT);
        let agent = agent.and_then(|agent| agent.to_str().ok()).unwrap_or("");
        Self {
            is_internet_explorer: agent.contains(";MSIE") || agent.contains("Trident/"),
            compress: None,
        }
    }

    fn respond(self, content_type: &HeaderValue, mut body: Bytes) -> Response {
        let compress = self.compress.filter(|(_, from)| body.len() >= *from);
        if let Some((encoding, _)) = compress {
            body = encoding.encode(&body);
        }
        let mut response = Response::new(Body::from(body));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, content_type.clone());
        headers.insert(header::CACHE_CONTROL, NO_STORE.clone());
        if self.is_internet_explorer {
            headers.insert(header::X_XSS_PROTECTION, HeaderValue::from_static("0"));
        }
        if let Some((encoding, _)) = compress {
            let name = HeaderValue::from_static(encoding.name());
            headers.insert(header::CONTENT_ENCODING, name);
        }
        response
    }
}

/// Returns the response to a request that the session does not accept.
fn refuse(refusal: Refusal) -> Response {
    match refusal {
        // The client's transport fails on the status, so the client needs no message.
        Refusal::BadRequest => StatusCode::BAD_REQUEST.into_response(),
        refusal => ConnectionError::new(refusal, "the session has ended").response(),
    }
}

/// Waits for packets and answers with the queued ones up to `max_payload`, or with a noop after
/// `timeout`.
pub(super) async fn get(
    session: Arc<SharedSession>,
    mut format: ResponseFormat,
    timeout: Option<Duration>,
) -> Response {
    if let Err(refusal) = session.begin_poll() {
        return refuse(refusal);
    }
    let mut guard = AbortGuard::new(&session, SharedSession::abort_poll);
    let mut body = Payload::new(
        session.params.revision,
        session.params.base64 || session.params.jsonp,
    );
    let limit = session.config.max_payload;
    let mut compressible = false;
    let mut packets = 0;
    let mut timeout = timeout.map(|timeout| Box::pin(tokio::time::sleep(timeout)));
    poll_fn(|cx| {
        let expired = timeout.take_if(|timeout| timeout.as_mut().poll(cx).is_ready());
        if expired.is_some() {
            session.release_poll();
        }
        session.poll_packets(cx, |packet| {
            packets += 1;
            compressible |= match &packet {
                EnginePacket::Message(message) => message.is_compressible(),
                _ => true,
            };
            body.push(packet);
            body.len() < limit
        })
    })
    .await;
    guard.defuse();
    if body.is_empty() {
        return refuse(Refusal::UnknownSession);
    }
    if !compressible {
        format.compress = None;
    }
    let (mut body, is_binary) = body.finish();
    if session.params.jsonp {
        let index = session.request.query("j").unwrap_or_default();
        body = jsonp::script(&index, &body).into();
    }
    let bytes = body.len();
    let observers = &session.observers;
    let traffic = Traffic { packets, bytes };
    observers.each(|observer| observer.sent(&session, Transport::Polling, traffic));
    let content_type = match is_binary {
        true => &OCTETS,
        false => &TEXT,
    };
    format.respond(content_type, body)
}

/// The properties of a POST that are known before its body.
pub(super) struct PostRequest {
    format: ResponseFormat,
    is_binary: bool,
    timeout: Duration,
    observer: Option<Box<ErrorObserver>>,
}

impl PostRequest {
    pub(super) fn of(parts: &Parts, http: &HttpOptions) -> Self {
        let content_type = parts.headers.get(header::CONTENT_TYPE);
        Self {
            format: ResponseFormat::of_post(parts),
            is_binary: content_type.is_some_and(|value| value == OCTETS),
            timeout: http.body_timeout,
            observer: http.observer(parts).map(Box::new),
        }
    }
}

impl PostRequest {
    /// Returns the response to a body that is refused.
    fn refuse(&self, session: &SharedSession, refusal: Refusal, context: &'static str) -> Response {
        let error = ConnectionError::new(refusal, context);
        if refusal == Refusal::PayloadTooLarge {
            notice!(
                session.notices.too_big,
                session = session.number,
                max_payload = session.config.max_payload,
                "a POST is longer than `max_payload` or a layer allows: it gets status 413",
            );
        } else {
            tracing::debug!(session = session.number, %error, "refused");
        }
        let observers = &session.observers;
        observers.each(|observer| observer.refused(error.code()));
        if let Some(observer) = &self.observer {
            observer.notify(&error);
        }
        // The client's transport fails on the status, so the client needs no message.
        error.status().into_response()
    }
}

/// Passes the packets of a body to the session.
pub(super) async fn post<B>(session: Arc<SharedSession>, post: PostRequest, body: B) -> Response
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    if let Err(refusal) = session.begin_post() {
        return refuse(refusal);
    }
    let mut guard = AbortGuard::new(&session, |session| {
        session.close(CloseReason::TransportError);
        session.end_post();
    });
    let limit = session.config.max_payload;
    let mut has_waited = false;
    let ended = |cx: &mut Context<'_>| {
        has_waited = true;
        session.poll_ended(cx)
    };
    let packets = read_packets(session.params, limit, &post, body, ended).await;
    if has_waited {
        session.forget_body();
    }
    if packets.is_err() {
        guard.defuse();
        session.end_post();
    }
    match packets {
        Ok((packets, bytes)) => {
            let mut received = Received::new(&session, bytes);
            let mut packets = packets.inspect(|_| received.traffic.packets += 1);
            let handled = poll_fn(|cx| session.poll_post(cx, &mut packets)).await;
            guard.defuse();
            drop(packets);
            drop(received);
            if let Err(refusal) = handled {
                return post.refuse(&session, refusal, "the session has ended");
            }
        }
        Err(Failure::TooLarge) => {
            return post.refuse(&session, Refusal::PayloadTooLarge, "the length of the body");
        }
        // The request was valid, its packets were not: the next poll reports the close.
        Err(Failure::Malformed) => session.close(CloseReason::ParseError),
        Err(Failure::TooSlow) => {
            session.close(CloseReason::TransportError);
            return post.refuse(&session, Refusal::RequestTimeout, "`body_timeout`");
        }
        Err(Failure::Ended) => {
            return post.refuse(&session, Refusal::BadRequest, "the session has ended");
        }
        Err(Failure::Unusable) => {
            session.close(CloseReason::TransportError);
            return post.refuse(&session, Refusal::BadRequest, "the body");
        }
    }
    post.format.respond(&HTML, Bytes::from_static(b"ok"))
}

/// The traffic of a POST. The observers hear of it when it is dropped: the client may abort the
/// request after some packets were handled.
struct Received<'a> {
    session: &'a SharedSession,
    traffic: Traffic,
}

impl<'a> Received<'a> {
    fn new(session: &'a SharedSession, bytes: usize) -> Self {
        let traffic = Traffic { packets: 0, bytes };
        Self { session, traffic }
    }
}

impl Drop for Received<'_> {
    fn drop(&mut self) {
        let observers = &self.session.observers;
        observers.each(|observer| {
            observer.received(self.session, Transport::Polling, self.traffic);
        });
    }
}

enum Failure {
    /// The body is too long. The session stays open: it has handled no packet of the body.
    TooLarge,
    /// The body is not UTF-8, or is an empty text of revision 3.
    Malformed,
    /// The body did not arrive in time.
    TooSlow,
    /// The session has ended before the body had arrived.
    Ended,
    /// The body did not arrive, or its content type is not allowed.
    Unusable,
}

/// Reads a body and parses it as packets. Returns the length of the body too. `limit` is the
/// session's `max_payload`. `ended` is ready when the session has ended.
async fn read_packets<B>(
    params: SessionParams,
    limit: usize,
    post: &PostRequest,
    body: B,
    ended: impl FnMut(&mut Context<'_>) -> Poll<()>,
) -> Result<(Packets, usize), Failure>
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    if post.is_binary && params.revision == Revision::V4 {
        // Only revision 3 has binary bodies.
        return Err(Failure::Unusable);
    }
    // Only clients of revision 4 receive `maxPayload`. They count the base64 of binary messages as
    // shorter than it is; see `payload::client_counted_len`.
    let longest = match params.revision {
        Revision::V4 if !params.jsonp => payload::longest_body(limit),
        Revision::V3 | Revision::V4 => limit,
    };
    let mut body = read_body(longest, post.timeout, body, ended).await?;
    if body.len() > limit && payload::client_counted_len(&body) > limit {
        return Err(Failure::TooLarge);
    }
    let len = body.len();
    if params.jsonp {
        match jsonp::form(&body) {
            Some(inner) => body = inner,
            None => return Ok((Packets::default(), len)),
        }
    }
    let packets = match params.revision {
        Revision::V4 => Packets::new(body),
        Revision::V3 => Packets::with_lengths(body, post.is_binary),
    };
    let packets = packets.map_err(|_| Failure::Malformed)?;
    Ok((packets, len))
}

/// Reads a body of up to `limit` bytes, for up to `timeout`, until the session has `ended`.
async fn read_body<B>(
    limit: usize,
    timeout: Duration,
    body: B,
    mut ended: impl FnMut(&mut Context<'_>) -> Poll<()>,
) -> Result<Bytes, Failure>
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    // A body that is declared as too long is not read at all.
    if body.size_hint().lower() > limit as u64 {
        return Err(Failure::TooLarge);
    }
    let mut read = pin!(collect(limit, body));
    // Most bodies arrive together with the head of the request, and need no timer.
    if let Poll::Ready(read) = poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx))).await {
        return read;
    }
    let read = poll_fn(|cx| match read.as_mut().poll(cx) {
        Poll::Pending => ended(cx).map(|()| Err(Failure::Ended)),
        ready @ Poll::Ready(_) => ready,
    });
    // Boxed, so that the timer does not enlarge the future of every POST.
    let read = Box::pin(tokio::time::timeout(timeout, read)).await;
    read.unwrap_or(Err(Failure::TooSlow))
}

/// Collects the bytes of a body. A body of a single frame is not copied.
async fn collect<B>(limit: usize, body: B) -> Result<Bytes, Failure>
where
    B: http_body::Body,
    B::Error: Into<BoxError>,
{
    let mut body = pin!(body);
    let mut whole = Bytes::new();
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let frame = frame.map_err(|error| failure(&error.into()))?;
        let Ok(mut data) = frame.into_data() else {
            continue;
        };
        let len = data.remaining();
        if len > limit - whole.len() {
            return Err(Failure::TooLarge);
        }
        let data = data.copy_to_bytes(len);
        whole = match whole.is_empty() {
            true => data,
            false => append(whole, &data),
        };
        if body.is_end_stream() {
            break;
        }
    }
    Ok(whole)
}

/// Maps the error of a body: either a layer limited its length, or the body did not arrive.
fn failure(error: &BoxError) -> Failure {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&**error);
    while let Some(error) = cause {
        if error.is::<LengthLimitError>() {
            return Failure::TooLarge;
        }
        cause = error.source();
    }
    Failure::Unusable
}

/// Appends to the bytes of a body. Only the first call for a body copies them: the result has no
/// other owner.
fn append(bytes: Bytes, more: &[u8]) -> Bytes {
    let mut bytes = Vec::from(bytes);
    bytes.extend_from_slice(more);
    bytes.into()
}

/// Cleans up when the client aborts the request.
struct AbortGuard<'a> {
    session: Option<&'a SharedSession>,
    on_drop: fn(&SharedSession),
}

impl<'a> AbortGuard<'a> {
    fn new(session: &'a SharedSession, on_drop: fn(&SharedSession)) -> Self {
        Self {
            session: Some(session),
            on_drop,
        }
    }

    fn defuse(&mut self) {
        self.session = None;
    }
}

impl Drop for AbortGuard<'_> {
    fn drop(&mut self) {
        if let Some(session) = self.session {
            (self.on_drop)(session);
        }
    }
}

/// A body without a session, for the fuzz targets.
#[cfg(feature = "unstable-internals")]
pub(super) mod raw {
    use futures_util::FutureExt as _;
    use http_body_util::StreamBody;

    use super::*;

    /// The form of a body, as the session and its request determine it.
    #[derive(Clone, Copy, Debug)]
    #[allow(missing_docs, reason = "not part of the public interface")]
    pub struct PayloadForm {
        pub revision: Revision,
        pub jsonp: bool,
        /// Whether the content type of the request is that of a binary body.
        pub is_binary: bool,
        pub max_payload: usize,
    }

    /// Reads the body of a POST that arrives in pieces. Returns its packets up to the first error, and
    /// whether there was none.
    #[must_use]
    pub fn read_payload(
        form: PayloadForm,
        pieces: impl Iterator<Item = Bytes> + Send + 'static,
    ) -> (Vec<EnginePacket>, bool) {
        let params = SessionParams {
            transport: Transport::Polling,
            revision: form.revision,
            base64: false,
            jsonp: form.jsonp,
        };
        let post = PostRequest {
            format: ResponseFormat {
                is_internet_explorer: false,
                compress: None,
            },
            is_binary: form.is_binary,
            timeout: Duration::MAX,
            observer: None,
        };
        let pieces = pieces.map(|piece| Ok::<_, BoxError>(http_body::Frame::data(piece)));
        let body = StreamBody::new(futures_util::stream::iter(pieces));
        // All pieces are there, so the body is read at once.
        let read =
            read_packets(params, form.max_payload, &post, body, |_| Poll::Pending).now_or_never();
        let Some(Ok((packets, _))) = read else {
            return (Vec::new(), false);
        };
        let mut valid = Vec::new();
        for packet in packets {
            match packet {
                Ok(packet) => valid.push(packet),
                Err(_) => return (valid, false),
            }
        }
        (valid, true)
    }
}
