//! One GET or POST ↔ a session.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use axum_core::body::Body;
use axum_core::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::front::refuse;
use crate::engine::{CloseReason, Packets, Refusal, payload};
use crate::hub::link::Link;

/// How long the body of a POST may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Waits for packets and answers with all that there are.
pub(super) async fn get(link: Arc<Link>) -> Response {
    if let Err(refusal) = link.begin_poll() {
        return refuse(refusal);
    }
    let mut guard = Guard::new(&link, Link::abort_poll);
    let mut body = Vec::new();
    let limit = link.config.max_payload;
    poll_fn(|cx| {
        link.poll_packets(cx, |packet| {
            payload::push(&mut body, packet);
            body.len() < limit
        })
    })
    .await;
    guard.defuse();
    if body.is_empty() {
        return refuse(Refusal::UnknownSession);
    }
    respond("text/plain; charset=UTF-8", body.into())
}

/// Hands a body's packets to the session.
pub(super) async fn post<B>(link: Arc<Link>, request: Request<B>) -> Response
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
{
    if let Err(refusal) = link.begin_post() {
        return refuse(refusal);
    }
    let mut guard = Guard::new(&link, |link| {
        link.close(CloseReason::TransportError);
        link.end_post();
    });
    let result = deliver(&link, request).await;
    guard.defuse();
    link.end_post();
    match result {
        Ok(()) => respond("text/html", Bytes::from_static(b"ok")),
        Err(Failure::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        Err(Failure::Bad(reason)) => {
            link.close(reason);
            refuse(Refusal::BadRequest)
        }
    }
}

enum Failure {
    /// The session stays: nothing of the body was read.
    TooLarge,
    Bad(CloseReason),
}

async fn deliver<B>(link: &Link, request: Request<B>) -> Result<(), Failure>
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
{
    let is_binary = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes() == b"application/octet-stream");
    if is_binary {
        // Revision 4 has no binary bodies.
        return Err(Failure::Bad(CloseReason::TransportError));
    }
    let body = read(link.config.max_payload, request.into_body()).await?;
    let bad = |_| Failure::Bad(CloseReason::ParseError);
    let mut packets = Packets::new(body).map_err(bad)?;
    let mut failed = false;
    let mut watched = packets.by_ref().inspect(|packet| failed |= packet.is_err());
    poll_fn(|cx| link.poll_post(cx, &mut watched)).await;
    if failed {
        return Err(Failure::Bad(CloseReason::ParseError));
    }
    Ok(())
}

async fn read<B>(limit: usize, body: B) -> Result<Bytes, Failure>
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
{
    // What is declared as too long is not read at all.
    if body.size_hint().lower() > limit as u64 {
        return Err(Failure::TooLarge);
    }
    let body = body.map_err(|_| axum_core::Error::new("the body cannot be read"));
    let read = Box::pin(Limited::new(body, limit)).collect();
    match tokio::time::timeout(BODY_TIMEOUT, read).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Failure::TooLarge),
        Ok(Err(_)) | Err(_) => Err(Failure::Bad(CloseReason::TransportError)),
    }
}

fn respond(content_type: &'static str, body: Bytes) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, Body::from(body)).into_response()
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
