//! What a handler can take as an argument.
//!
//! | argument                 | in connect handlers | in event handlers | what it is                                  |
//! |--------------------------|---------------------|-------------------|---------------------------------------------|
//! | [`Data<T>`]              |                     | ✔                 | the first argument                          |
//! | [`Args<T>`]              |                     | ✔                 | all arguments                               |
//! | [`RawArgs`]              |                     | ✔                 | all arguments, not read yet                 |
//! | [`Auth<T>`]              | ✔                   |                   | what the client authenticates itself with   |
//! | [`Params<T>`]            | ✔                   | ✔                 | the parameters in the namespace's path      |
//! | [`Socket`], [`SocketIo`] | ✔                   | ✔                 | the socket, the server                      |
//! | [`DisconnectReason`]     |                     | on disconnect     | why the socket is gone                      |
//! | [`AckSender`]            |                     | ✔                 | answers later                               |
//! | axum's `State<T>`        | ✔                   | ✔                 | the state, or a part of it                  |
//! | axum's `Extension<T>`    | ✔                   | ✔                 | see below                                   |
//! | [`FromHandshake<T>`]         |                     | ✔                 | any extractor of axum, on the handshake     |
//! | any extractor of axum    | ✔                   |                   | what the handshake's request says           |
//! | `Result<T, T::Rejection>` | ✔                  | ✔                 | leaves it to the handler what a failure means |
//!
//! `Extension<T>` is what a layer put into the event's extensions, or else what is in the
//! socket's own, or else what is in those of the handshake's request. In a connect handler it is
//! axum's own extractor: the event's, or else the request's.
//!
//! If an extractor fails, the handler is not called and the client gets an error.
//!
//! # One's own
//!
//! For connect handlers implement axum's `FromRequestParts`, for event handlers [`FromEvent`]:
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
//! /// For the connect handler: who says so in a header.
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
//! /// For event handlers: whom the connect handler has found.
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
mod params;
mod rejection;

use std::convert::Infallible;

use super::{Event, IntoReply};

pub use self::data::{AckSender, Auth};
pub use self::http::{FromHandshake, HttpRejection};
pub use self::params::Params;
pub use self::rejection::{
    InvalidArgs, InvalidAuth, InvalidParams, MissingExtension, NotADisconnect,
};
pub use super::DisconnectReason;
pub use crate::handles::{Socket, SocketIo};
pub use crate::protocol::{Args, Data, RawArgs};

/// What handlers of events, and of disconnects, can take as an argument.
///
/// ```
/// use tower_socketio::extract::FromEvent;
/// use tower_socketio::{Event, Namespace, ErrorReply};
///
/// /// The name of the event, of those that may be recorded.
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
    /// What the client is answered if it fails.
    type Rejection: IntoReply;

    /// Takes it from an event.
    fn from_event(
        event: &mut Event,
        state: &S,
    ) -> impl Future<Output = Result<Self, Self::Rejection>> + Send;
}

/// What connect handlers can take as an argument.
///
/// Everything that is axum's `FromRequestParts` is one, so that is what to implement, as [the
/// module](self#ones-own) shows. A type that implements both is ambiguous. `M` keeps the two apart
/// and is inferred.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an extractor of connect handlers",
    label = "cannot be taken as a connect handler argument",
    note = "use `Socket`, `SocketIo`, `Auth<T>`, `Params<T>`, or an extractor of axum that does not read the body",
    note = "a type of your own has to implement `axum::extract::FromRequestParts`"
)]
pub trait FromConnect<S, M = ViaEvent>: Sized {
    /// What the client is told if it fails.
    type Rejection: IntoReply;

    /// Takes it from the event that a socket connects.
    fn from_connect(
        event: &mut Event,
        state: &S,
    ) -> impl Future<Output = Result<Self, Self::Rejection>> + Send;
}

/// The marker of [`FromConnect`] for what is taken from the handshake's request.
#[derive(Clone, Copy, Debug)]
pub enum ViaParts {}

/// The marker of [`FromConnect`] for what is taken from the event.
#[derive(Clone, Copy, Debug)]
pub enum ViaEvent {}

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
