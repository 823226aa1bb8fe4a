//! One GET or POST ↔ a session.

use std::error::Error;
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum_core::BoxError;
use axum_core::body::Body;
use axum_core::response::{IntoResponse, Response};
use bytes::{Buf as _, Bytes};
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use http_body_util::LengthLimitError;

use super::compress::Encoding;
use super::options::{HttpOptions, Witness};
use super::refusal::ConnectionError;
use crate::engine::payload::Body as Payload;
use crate::engine::{CloseReason, Packet, Packets, Refusal, Revision, jsonp, payload};
use crate::hub::link::Link;
use crate::notice::notice;

/// The type of a body of bytes, exactly so, as Node's server has it.
static OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
static TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=UTF-8");
static HTML: HeaderValue = HeaderValue::from_static("text/html");
static NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// What a request's headers ask of its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    /// Whether the browser takes a JSON answer for an attack, as Internet Explorer does.
    suspicious: bool,
    /// How a body of at least so many bytes is to be compressed.
    compress: Option<(Encoding, usize)>,
}

impl Style {
    pub(super) fn of(parts: &Parts, http: &HttpOptions) -> Self {
        let compress = http.compress_from.and_then(|bytes| {
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
            suspicious: agent.contains(";MSIE") || agent.contains("Trident/"),
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
        if self.suspicious {
            headers.insert(header::X_XSS_PROTECTION, HeaderValue::from_static("0"));
        }
        if let Some((encoding, _)) = compress {
            let name = HeaderValue::from_static(encoding.name());
            headers.insert(header::CONTENT_ENCODING, name);
        }
        response
    }
}

/// The answer to a request that the session cannot take.
fn refuse(refusal: Refusal) -> Response {
    match refusal {
        // The transport failed by it, so there is nothing to say to the client.
        Refusal::BadRequest => StatusCode::BAD_REQUEST.into_response(),
        refusal => ConnectionError::new(refusal, "the session has ended").response(),
    }
}

/// Waits for packets and answers with all that there are; after the timeout with a noop.
pub(super) async fn get(link: Arc<Link>, mut style: Style, timeout: Option<Duration>) -> Response {
    if let Err(refusal) = link.begin_poll() {
        return refuse(refusal);
    }
    let mut guard = Guard::new(&link, Link::abort_poll);
    let mut body = Payload::new(
        link.opening.revision,
        link.opening.base64 || link.opening.jsonp,
    );
    let limit = link.config.max_payload;
    let mut compressible = false;
    let mut timeout = timeout.map(|timeout| Box::pin(tokio::time::sleep(timeout)));
    poll_fn(|cx| {
        let expired = timeout.take_if(|timeout| timeout.as_mut().poll(cx).is_ready());
        if expired.is_some() {
            link.release_poll();
        }
        link.poll_packets(cx, |packet| {
            compressible |= match &packet {
                Packet::Message(message) => message.is_compressible(),
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
        style.compress = None;
    }
    let (mut body, is_binary) = body.finish();
    if link.opening.jsonp {
        let index = link.handshake.query("j").unwrap_or_default();
        body = jsonp::script(&index, &body).into();
    }
    let content_type = match is_binary {
        true => &OCTETS,
        false => &TEXT,
    };
    style.respond(content_type, body)
}

/// What the headers of a POST say.
pub(super) struct Post {
    style: Style,
    is_binary: bool,
    timeout: Duration,
    witness: Option<Box<Witness>>,
}

impl Post {
    pub(super) fn of(parts: &Parts, http: &HttpOptions) -> Self {
        let content_type = parts.headers.get(header::CONTENT_TYPE);
        Self {
            style: Style::of_post(parts),
            is_binary: content_type.is_some_and(|value| value == OCTETS),
            timeout: http.body_timeout,
            witness: http.witness(parts).map(Box::new),
        }
    }
}

impl Post {
    /// The answer to a body that is not taken.
    fn refuse(&self, link: &Link, refusal: Refusal, context: &'static str) -> Response {
        let error = ConnectionError::new(refusal, context);
        if refusal == Refusal::PayloadTooLarge {
            notice!(
                link.notices.too_big,
                session = link.number,
                max_payload = link.config.max_payload,
                "a POST is longer than `max_payload` or a layer allows: it gets status 413",
            );
        } else {
            tracing::debug!(session = link.number, %error, "refused");
        }
        if let Some(witness) = &self.witness {
            witness.tell(&error);
        }
        // The client's transport fails by it, so there is nothing to say to the client.
        error.status().into_response()
    }
}

/// Hands a body's packets to the session.
pub(super) async fn post<B>(link: Arc<Link>, post: Post, body: B) -> Response
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    if let Err(refusal) = link.begin_post() {
        return refuse(refusal);
    }
    let mut guard = Guard::new(&link, |link| {
        link.close(CloseReason::TransportError);
        link.end_post();
    });
    let packets = packets(&link, &post, body).await;
    if packets.is_err() {
        guard.defuse();
        link.end_post();
    }
    match packets {
        Ok(mut packets) => {
            let taken = poll_fn(|cx| link.poll_post(cx, &mut packets)).await;
            guard.defuse();
            if let Err(refusal) = taken {
                return post.refuse(&link, refusal, "the session has ended");
            }
        }
        Err(Failure::TooLarge) => {
            return post.refuse(&link, Refusal::PayloadTooLarge, "the length of the body");
        }
        // The request was fine, what it brought was not: the next poll says so.
        Err(Failure::Malformed) => link.close(CloseReason::ParseError),
        Err(Failure::TooSlow) => {
            link.close(CloseReason::TransportError);
            return post.refuse(&link, Refusal::RequestTimeout, "`body_timeout`");
        }
        Err(Failure::Unusable) => {
            link.close(CloseReason::TransportError);
            return post.refuse(&link, Refusal::BadRequest, "the body");
        }
    }
    post.style.respond(&HTML, Bytes::from_static(b"ok"))
}

enum Failure {
    /// The session stays: nothing of the body was read.
    TooLarge,
    /// It is no text, or has no packets.
    Malformed,
    /// It did not come in time.
    TooSlow,
    /// It did not come, or is of a type that is not allowed.
    Unusable,
}

/// Reads a body and takes it for packets.
async fn packets<B>(link: &Link, post: &Post, body: B) -> Result<Packets, Failure>
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    if post.is_binary && link.opening.revision == Revision::V4 {
        // Such bodies are of revision 3.
        return Err(Failure::Unusable);
    }
    let limit = link.config.max_payload;
    // Only these clients are told the limit, and do not reckon with the length of base64.
    let longest = match link.opening.revision {
        Revision::V4 if !link.opening.jsonp => payload::longest_body(limit),
        Revision::V3 | Revision::V4 => limit,
    };
    let mut body = read(longest, post.timeout, body).await?;
    if body.len() > limit && payload::reckoned_len(&body) > limit {
        return Err(Failure::TooLarge);
    }
    if link.opening.jsonp {
        match jsonp::form(&body) {
            Some(inner) => body = inner,
            None => return Ok(Packets::default()),
        }
    }
    let packets = match link.opening.revision {
        Revision::V4 => Packets::new(body),
        Revision::V3 => Packets::with_lengths(body, post.is_binary),
    };
    packets.map_err(|_| Failure::Malformed)
}

async fn read<B>(limit: usize, timeout: Duration, body: B) -> Result<Bytes, Failure>
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    // What is declared as too long is not read at all.
    if body.size_hint().lower() > limit as u64 {
        return Err(Failure::TooLarge);
    }
    let mut read = pin!(collect(limit, body));
    // Most bodies have come with their head, and need no clock.
    if let Poll::Ready(read) = poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx))).await {
        return read;
    }
    // Boxed, for it would be a part of each POST's future.
    let read = Box::pin(tokio::time::timeout(timeout, read)).await;
    read.unwrap_or(Err(Failure::TooSlow))
}

/// The bytes of a body; those of a single frame are not copied.
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

/// What the error of a body means: a layer may have limited it, else it did not come.
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

/// Only the first time it copies what there was: then nobody else has it.
fn append(bytes: Bytes, more: &[u8]) -> Bytes {
    let mut bytes = Vec::from(bytes);
    bytes.extend_from_slice(more);
    bytes.into()
}

/// Does what is to be done when the client gives the request up.
struct Guard<'a> {
    link: Option<&'a Link>,
    on_drop: fn(&Link),
}

impl<'a> Guard<'a> {
    fn new(link: &'a Link, on_drop: fn(&Link)) -> Self {
        Self {
            link: Some(link),
            on_drop,
        }
    }

    fn defuse(&mut self) {
        self.link = None;
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Some(link) = self.link {
            (self.on_drop)(link);
        }
    }
}
