//! Extractors: the types of the arguments of handlers.
//!
//! | extractor                 | in connect handlers | in event handlers | value                                        |
//! |---------------------------|---------------------|-------------------|----------------------------------------------|
//! | [`Data<T>`]               |                     | ✔                 | the first argument                           |
//! | [`Args<T>`]               |                     | ✔                 | all arguments                                |
//! | [`RawArgs`]               |                     | ✔                 | all arguments, unread                        |
//! | [`Auth<T>`]               | ✔                   |                   | the `auth` of the client                     |
//! | [`Params<T>`]             | ✔                   | ✔                 | the parameters in the namespace's path       |
//! | [`Socket`], [`SocketIo`]  | ✔                   | ✔                 | the socket, the server                       |
//! | [`DisconnectReason`]      |                     | on disconnect     | the reason why the socket left               |
//! | [`AckSender`]             |                     | ✔                 | a sender for a later acknowledgement         |
//! | axum's `State<T>`         | ✔                   | ✔                 | the state, or a part of it                   |
//! | axum's `Extension<T>`     | ✔                   | ✔                 | see below                                    |
//! | [`FromHandshake<T>`]      |                     | ✔                 | an extractor of axum, on the handshake       |
//! | extractors of axum        | ✔                   |                   | see below                                    |
//! | `Result<T, T::Rejection>` | ✔                   | ✔                 | the value, or the rejection, for the handler |
//!
//! Any axum extractor that does not read the body works in a connect handler, on the request with
//! which the client connected.
//!
//! In an event handler, `Extension<T>` searches the extensions of the event, where layers put
//! values, then those of the socket, and then those of the handshake's request. In a connect
//! handler it is axum's extractor, which searches the extensions of the event, and then those of
//! the request.
//!
//! If an extractor rejects, the handler does not run. The client receives the rejection as the
//! acknowledgement, or as its `connect_error`.
//!
//! # Custom extractors
//!
//! For connect handlers implement axum's `FromRequestParts`, and for event handlers [`FromEvent`]:
//!
//! ```
//! use axum::extract::FromRequestParts;
//! use axum::http::StatusCode;
//! use axum::http::request::Parts;
//! use tower_socketio::extract::FromEvent;
//! use tower_socketio::{Event, Namespace, ErrorReply, Socket};
//!
//! #[derive(Clone)]
//! struct User(String);
//!
//! /// For connect handlers: reads the user from a header.
//! impl<S: Send + Sync> FromRequestParts<S> for User {
//!     type Rejection = StatusCode;
//!
//!     async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, StatusCode> {
//!         let name = parts.headers.get("x-user").and_then(|name| name.to_str().ok());
//!         name.map(|name| Self(name.to_owned())).ok_or(StatusCode::UNAUTHORIZED)
//!     }
//! }
//!
//! struct Me(User);
//!
//! /// For event handlers: the user that the connect handler has found.
//! impl<S: Send + Sync> FromEvent<S> for Me {
//!     type Rejection = ErrorReply;
//!
//!     async fn from_event(event: &mut Event, _: &S) -> Result<Self, ErrorReply> {
//!         let user = event.socket().extension();
//!         user.map(Self).ok_or_else(|| ErrorReply::new("not logged in"))
//!     }
//! }
//!
//! async fn connect(socket: Socket, user: User) {
//!     socket.insert(user);
//! }
//!
//! async fn who(Me(User(name)): Me) -> String {
//!     name
//! }
//!
//! let namespace: Namespace = Namespace::new().on_connect(connect).on("who", who);
//! ```

mod data;
mod http;
mod marker;
mod params;
mod rejection;

use std::convert::Infallible;

use super::{Event, IntoReply};

pub use self::data::{AckSender, Auth};
use self::marker::{ViaEvent, ViaParts};

pub use self::http::{FromHandshake, HttpRejection};
pub use self::params::Params;
pub(crate) use self::rejection::NotADisconnect;
pub use self::rejection::{InvalidArgs, InvalidAuth, InvalidParams, MissingExtension};
pub use super::{DisconnectReason, FromServerEvent, ServerEventHandler};
pub use crate::handles::{Socket, SocketIo};
pub use crate::protocol::{Args, Data, RawArgs};

/// An extractor of event handlers and disconnect handlers.
///
/// The extractors of a handler run in the order of its arguments. See [the module](self) for a
/// list of them.
///
/// ```
/// use tower_socketio::extract::FromEvent;
/// use tower_socketio::{Event, Namespace, ErrorReply};
///
/// /// The name of an event that may be recorded.
/// struct Recorded(String);
///
/// impl<S: Send + Sync> FromEvent<S> for Recorded {
///     type Rejection = ErrorReply;
///
///     async fn from_event(event: &mut Event, _: &S) -> Result<Self, ErrorReply> {
///         if event.name().starts_with("private") {
///             return Err(ErrorReply::new("private"));
///         }
///         Ok(Self(event.name().to_owned()))
///     }
/// }
///
/// async fn record(Recorded(name): Recorded) -> String {
///     format!("recorded: {name}")
/// }
///
/// let namespace: Namespace = Namespace::new().fallback(record);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event extractor",
    label = "cannot be taken as an event handler argument",
    note = "use `Data<T>`, `Args<T>`, `Socket`, `SocketIo`, `State<T>`, `Extension<T>` or a type that implements `FromEvent`",
    note = "extractors that read the HTTP request belong in the connect handler"
)]
pub trait FromEvent<S>: Sized {
    /// The reply of the handler if the extractor fails.
    type Rejection: IntoReply;

    /// Extracts the value from an event.
    fn from_event(
        event: &mut Event,
        state: &S,
    ) -> impl Future<Output = Result<Self, Self::Rejection>> + Send;
}

/// An extractor of connect handlers.
///
/// Every type that implements axum's `FromRequestParts` is one. Implement that trait for an
/// extractor of your own, as [the module](self#custom-extractors) shows. A type that implements
/// both traits is ambiguous. `M` is a marker that distinguishes the two, and is inferred.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an extractor of connect handlers",
    label = "cannot be taken as a connect handler argument",
    note = "use `Socket`, `SocketIo`, `Auth<T>`, `Params<T>`, or an extractor of axum that does not read the body",
    note = "a type of your own has to implement `axum::extract::FromRequestParts`"
)]
pub trait FromConnect<S, M = ViaEvent>: Sized {
    /// The error that the client receives if the extractor fails.
    type Rejection: IntoReply;

    /// Extracts the value from a connect.
    fn from_connect(
        event: &mut Event,
        state: &S,
    ) -> impl Future<Output = Result<Self, Self::Rejection>> + Send;
}

impl<T, S> FromEvent<S> for Result<T, T::Rejection>
where
    T: FromEvent<S>,
    S: Sync,
{
    type Rejection = Infallible;

    async fn from_event(event: &mut Event, state: &S) -> Result<Self, Infallible> {
        Ok(T::from_event(event, state).await)
    }
}

impl<T, S> FromConnect<S, ViaEvent> for Result<T, T::Rejection>
where
    T: FromConnect<S, ViaEvent>,
    S: Sync,
{
    type Rejection = Infallible;

    async fn from_connect(event: &mut Event, state: &S) -> Result<Self, Infallible> {
        Ok(T::from_connect(event, state).await)
    }
}
