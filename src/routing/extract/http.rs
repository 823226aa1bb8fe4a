//! Extractors of axum.

use std::any::type_name;
use std::convert::Infallible;
use std::fmt;

use axum::Extension;
use axum::extract::State;
use axum_core::body::Body;
use axum_core::extract::{FromRef, FromRequestParts};
use axum_core::response::{IntoResponse, Response};
use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use serde_json::json;

use super::{FromConnect, FromEvent, MissingExtension, ViaParts};
use crate::handles::SocketIo;
use crate::routing::{ErrorReply, Event, IntoReply, Reply};

impl<T, S> FromEvent<S> for State<T>
where
    T: FromRef<S> + Send,
    S: Sync,
{
    type Rejection = Infallible;

    async fn from_event(_: &mut Event, state: &S) -> Result<Self, Infallible> {
        Ok(Self(T::from_ref(state)))
    }
}

impl<T, S> FromEvent<S> for Extension<T>
where
    T: Clone + Send + Sync + 'static,
    S: Sync,
{
    type Rejection = MissingExtension;

    async fn from_event(event: &mut Event, _: &S) -> Result<Self, MissingExtension> {
        find(event)
            .map(Self)
            .ok_or(MissingExtension(type_name::<T>()))
    }
}

impl<T, S> FromEvent<S> for Option<Extension<T>>
where
    T: Clone + Send + Sync + 'static,
    S: Sync,
{
    type Rejection = Infallible;

    async fn from_event(event: &mut Event, _: &S) -> Result<Self, Infallible> {
        Ok(find(event).map(Extension))
    }
}

fn find<T: Clone + Send + Sync + 'static>(event: &Event) -> Option<T> {
    let own = event.extensions().get().cloned();
    own.or_else(|| event.socket().extension())
}

impl<S: Sync> FromEvent<S> for SocketIo {
    type Rejection = Infallible;

    async fn from_event(event: &mut Event, _: &S) -> Result<Self, Infallible> {
        Ok(event.socket().io())
    }
}

/// Runs an extractor of axum on the request of the handshake, in an event handler.
///
/// The request is created anew for each event. That costs more than all other steps to the handler.
/// It is better to use the extractor in the connect handler, and to keep its value in the
/// extensions of the socket, with [`Socket::insert`](crate::Socket::insert).
///
/// ```
/// use axum::http::HeaderMap;
/// use tower_socketio::Namespace;
/// use tower_socketio::extract::FromHandshake;
///
/// async fn agent(FromHandshake(headers): FromHandshake<HeaderMap>) -> Option<String> {
///     Some(headers.get("user-agent")?.to_str().ok()?.to_owned())
/// }
///
/// let namespace: Namespace = Namespace::new().on("agent", agent);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct FromHandshake<T>(pub T);

impl<T, S> FromEvent<S> for FromHandshake<T>
where
    T: FromRequestParts<S>,
    S: Send + Sync,
{
    type Rejection = HttpRejection;

    async fn from_event(event: &mut Event, state: &S) -> Result<Self, HttpRejection> {
        extract(event, state).await.map(Self)
    }
}

#[diagnostic::do_not_recommend]
impl<T, S> FromConnect<S, ViaParts> for T
where
    T: FromRequestParts<S>,
    S: Send + Sync,
{
    type Rejection = HttpRejection;

    async fn from_connect(event: &mut Event, state: &S) -> Result<Self, HttpRejection> {
        extract(event, state).await
    }
}

async fn extract<T, S>(event: &mut Event, state: &S) -> Result<T, HttpRejection>
where
    T: FromRequestParts<S>,
    S: Send + Sync,
{
    let rejection = match T::from_request_parts(event.parts_mut(), state).await {
        Ok(value) => return Ok(value),
        Err(rejection) => rejection.into_response(),
    };
    Err(HttpRejection::read(rejection, type_name::<T>()).await)
}

/// The rejection of an axum extractor that ran on the request of the handshake.
///
/// The client receives the body of the response as the text of the error, or the reason phrase of
/// the status if the body is empty, not UTF-8, or longer than 4096 bytes. The data of the error is
/// the status: `{ status: 401 }`.
#[derive(Debug)]
pub struct HttpRejection {
    /// The type of the extractor.
    extractor: &'static str,
    status: StatusCode,
    message: String,
}

impl HttpRejection {
    /// Returns the status of the response.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the type of the extractor.
    pub(in crate::routing) const fn extractor(&self) -> &'static str {
        self.extractor
    }

    async fn read(response: Response, extractor: &'static str) -> Self {
        let status = response.status();
        let message = read_text(response.into_body()).await;
        Self {
            extractor,
            status,
            message: message
                .unwrap_or_else(|| status.canonical_reason().unwrap_or("error").to_owned()),
        }
    }
}

async fn read_text(body: Body) -> Option<String> {
    let body = Limited::new(body, MAX_MESSAGE).collect().await.ok()?;
    let text = String::from_utf8(body.to_bytes().into()).ok()?;
    (!text.is_empty()).then_some(text)
}

impl fmt::Display for HttpRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for HttpRejection {}

impl IntoReply for HttpRejection {
    fn into_reply(self) -> Reply {
        let status = self.status.as_u16();
        ErrorReply::new(self.message)
            .with_data(json!({ "status": status }))
            .into_reply()
    }
}

/// The maximum length of a response body that is sent to the client.
const MAX_MESSAGE: usize = 4096;
