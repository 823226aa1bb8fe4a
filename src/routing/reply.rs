//! The replies of handlers.
//!
//! | returned                          | the client's callback gets                |
//! |-----------------------------------|-------------------------------------------|
//! | `()`                              | no argument                               |
//! | a text, a number, [`Data`], …     | one argument                              |
//! | [`Args`], [`RawArgs`]             | several arguments                         |
//! | `Err("no")`                       | `{ error: "no" }`                         |
//! | `Err(Data(Problem { code: 7 }))`  | `{ error: "error", data: { code: 7 } }`   |
//! | `Err(BoxError)`                   | `{ error: "internal error" }`, logged     |
//! | `Err(ClusterError)`               | `{ error: "internal error" }`, logged     |
//! | the error of Tower's timeout      | `{ error: "timed out" }`                  |
//! | the error of Tower's load shed    | `{ error: "overloaded" }`                 |
//!
//! If a connect handler returns an `Err`, the client's `connect_error` listener gets it, with its
//! text as `message`. The `Ok` of a connect handler is not sent.

use std::borrow::Cow;
use std::convert::Infallible;
use std::{error, fmt};

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use tower::BoxError;
use tower::load_shed::error::Overloaded;
use tower::timeout::error::Elapsed;

use crate::handles::{AckError, EmitError, EmitErrorKind};
use crate::hub::ClusterError;
use crate::hub::outcome::Outcome;
use crate::protocol::{Args, Data, EncodeError, IntoArgs, Payload, RawArgs};

/// The reply of a handler: arguments, or an error.
///
/// Middleware inspects it. Handlers return a type that implements [`IntoReply`] instead.
#[derive(Debug)]
#[must_use = "a reply that is dropped is not sent"]
pub struct Reply {
    result: Result<Payload, ErrorReply>,
    /// Whether an [`AckSender`](super::AckSender) sends the acknowledgement, in place of this reply.
    is_deferred: bool,
    /// Whether the handler panicked.
    has_panicked: bool,
}

impl Reply {
    /// Creates a reply without arguments.
    pub fn ok() -> Self {
        Self::args(Args(()))
    }

    /// Returns whether the reply is an error.
    #[must_use]
    pub fn is_err(&self) -> bool {
        self.result.is_err()
    }

    /// Creates a reply from arguments. If they cannot be written, the reply is "internal error".
    pub(super) fn args(args: impl IntoArgs) -> Self {
        Self::or_internal_error(Payload::args(NAMESPACE_LEN, args))
    }

    /// Creates a reply from an encoded payload. An error is logged, and becomes "internal error".
    #[inline]
    fn or_internal_error(payload: Result<Payload, EncodeError>) -> Self {
        let result = payload.map_err(|error| {
            tracing::error!(
                error = &error as &dyn error::Error,
                "reply cannot be written"
            );
            ErrorReply::internal()
        });
        Self::from(result)
    }

    /// Converts the reply of the value in an `Err` into an error reply.
    pub(super) fn into_err(self) -> Self {
        let error = match self.result {
            Ok(payload) => ErrorReply::from_payload(&payload),
            Err(error) => error,
        };
        Self::from(Err(error))
    }

    /// Marks the reply as not to be sent if an [`AckSender`](super::AckSender) sends the
    /// acknowledgement.
    #[inline]
    pub(super) fn defer(mut self, deferred: bool) -> Self {
        self.is_deferred |= deferred;
        self
    }

    /// Returns whether an [`AckSender`](crate::extract::AckSender) sends the acknowledgement, in
    /// place of this reply.
    #[must_use]
    pub const fn is_deferred(&self) -> bool {
        self.is_deferred
    }

    /// Creates the reply of a handler that panicked.
    pub(crate) fn panicked() -> Self {
        Self {
            has_panicked: true,
            ..Self::from(Err(ErrorReply::internal()))
        }
    }

    /// Returns how the handler has ended.
    pub(crate) const fn outcome(&self) -> Outcome {
        match (self.has_panicked, &self.result) {
            (true, _) => Outcome::Panic,
            (false, Ok(_)) => Outcome::Ok,
            (false, Err(_)) => Outcome::Error,
        }
    }

    /// Returns the error, if the reply is one.
    ///
    /// ```
    /// use tower_socketio::middleware::{self, Next};
    /// use tower_socketio::{Event, Namespace, Reply};
    ///
    /// async fn log(event: Event, next: Next) -> Reply {
    ///     let name = event.name().to_owned();
    ///     let reply = next.run(event).await;
    ///     if let Some(error) = reply.error() {
    ///         println!("{name} failed: {error}");
    ///     }
    ///     reply
    /// }
    ///
    /// let namespace: Namespace = Namespace::new().layer(middleware::from_fn(log));
    /// ```
    #[must_use]
    pub fn error(&self) -> Option<&ErrorReply> {
        self.result.as_ref().err()
    }

    /// Returns the arguments, or the error.
    pub(crate) fn into_result(self) -> Result<Payload, ErrorReply> {
        self.result
    }

    /// Returns the arguments of the acknowledgement, for an error too.
    #[inline]
    pub(crate) fn into_ack(self) -> Payload {
        self.result.unwrap_or_else(|error| error.to_ack())
    }
}

impl From<Result<Payload, ErrorReply>> for Reply {
    fn from(result: Result<Payload, ErrorReply>) -> Self {
        Self {
            result,
            is_deferred: false,
            has_panicked: false,
        }
    }
}

/// An error for the client, with a text and optional data.
///
/// If a connect handler returns it, the client is refused, and its `connect_error` listener reads
/// the text from `err.message` and the data from `err.data`. If another handler returns it, the
/// client's callback gets `{ error, data }`.
///
/// ```
/// use tower_socketio::{Auth, Namespace, ErrorReply};
///
/// async fn connect(Auth(token): Auth<Option<String>>) -> Result<(), ErrorReply> {
///     if token.is_none() {
///         return Err(ErrorReply::new("not authorized").with_data(401));
///     }
///     Ok(())
/// }
///
/// let namespace: Namespace = Namespace::new().on_connect(connect);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorReply {
    message: Cow<'static, str>,
    // Boxed to keep a `Result` with this error small.
    data: Option<Box<Value>>,
}

impl ErrorReply {
    /// Creates an error with a text.
    #[must_use]
    pub fn new(message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            message: message.into(),
            data: None,
        }
    }

    /// Sets the data of the error.
    ///
    /// Bytes in the data are written as lists of numbers. If the data cannot be written as JSON,
    /// the error is logged, and the client receives "internal error" instead.
    #[must_use]
    pub fn with_data(mut self, data: impl Serialize) -> Self {
        match serde_json::to_value(data) {
            Ok(data) => self.data = Some(Box::new(data)),
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn error::Error,
                    "data cannot be written"
                );
                self = Self::internal();
            }
        }
        self
    }

    /// Returns the text of the error.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the data of the error.
    #[must_use]
    pub fn data(&self) -> Option<&Value> {
        self.data.as_deref()
    }

    /// Creates the error that a client receives in place of an error whose text must stay on the
    /// server.
    pub(crate) const fn internal() -> Self {
        Self {
            message: Cow::Borrowed("internal error"),
            data: None,
        }
    }

    /// Creates an error from arguments. A single text is the message. Otherwise the first argument
    /// is the data.
    fn from_payload(payload: &Payload) -> Self {
        let mut all = payload.to_values().into_iter();
        match (all.next(), all.next()) {
            (Some(Value::String(message)), None) => Self::new(message),
            (data, _) => Self {
                data: data.filter(|data| !data.is_null()).map(Box::new),
                ..Self::new("error")
            },
        }
    }

    /// Returns the error as the argument of an acknowledgement.
    pub(crate) fn to_ack(&self) -> Payload {
        #[derive(Serialize)]
        struct Wire<'a> {
            error: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            data: Option<&'a Value>,
        }
        let wire = Wire {
            error: &self.message,
            data: self.data(),
        };
        // A text and a JSON value can always be written.
        Payload::args(NAMESPACE_LEN, wire).unwrap_or_default()
    }

    /// Returns the error as the object of a `CONNECT_ERROR`.
    pub(crate) fn to_connect_error(&self) -> Payload {
        #[derive(Serialize)]
        struct Wire<'a> {
            message: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            data: Option<&'a Value>,
        }
        let wire = Wire {
            message: &self.message,
            data: self.data(),
        };
        // A text and a JSON value can always be written.
        Payload::object(NAMESPACE_LEN, &wire).unwrap_or_default()
    }
}

impl ErrorReply {
    /// Returns the error as the value of a `CONNECT_ERROR` for Socket.IO 2 clients: the data, or
    /// else the text.
    pub(crate) fn to_legacy_connect_error(&self) -> Payload {
        // A text and a JSON value can always be written.
        match self.data() {
            Some(data) => Payload::object(NAMESPACE_LEN, data),
            None => Payload::object(NAMESPACE_LEN, self.message()),
        }
        .unwrap_or_default()
    }
}

impl fmt::Display for ErrorReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl error::Error for ErrorReply {}

/// A type that a handler can return.
///
/// It is implemented for:
///
/// - `()`, texts, numbers, `bool`, `char`, `Bytes` and JSON values;
/// - `Vec<T>` and `Option<T>`, if `T` implements [`Serialize`];
/// - [`Data<T>`](Data) for one argument of any type that implements [`Serialize`], such as a
///   struct, a map or a tuple;
/// - [`Args`] and [`RawArgs`] for several arguments;
/// - [`ErrorReply`], `BoxError`, and the errors of this crate that a handler may encounter, such as
///   [`AckError`], [`EmitError`] and [`ClusterError`];
/// - `Result<T, E>`, if both types implement `IntoReply`.
///
/// A struct is returned as `Data(value)`, because an implementation for every type that implements
/// [`Serialize`] would conflict with those for `Result` and for error types.
///
/// Implement it for an error type of your own to choose what clients receive:
///
/// ```
/// use tower_socketio::{Data, IntoReply, Namespace, ErrorReply, Reply};
///
/// enum TodoError {
///     EmptyTitle,
/// }
///
/// impl IntoReply for TodoError {
///     fn into_reply(self) -> Reply {
///         match self {
///             Self::EmptyTitle => ErrorReply::new("title is empty").into_reply(),
///         }
///     }
/// }
///
/// async fn add(Data(title): Data<String>) -> Result<usize, TodoError> {
///     if title.is_empty() {
///         return Err(TodoError::EmptyTitle);
///     }
///     Ok(title.len())
/// }
///
/// let namespace: Namespace = Namespace::new().on("add", add);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be returned by a handler",
    label = "not a reply",
    note = "return `Data<T>` for one argument that implements `serde::Serialize`, `Args<(A, B)>` for several",
    note = "or implement `IntoReply`; the error of a `Result` needs it too"
)]
pub trait IntoReply {
    /// Converts the value into a reply.
    fn into_reply(self) -> Reply;
}

impl IntoReply for Reply {
    fn into_reply(self) -> Reply {
        self
    }
}

impl IntoReply for () {
    fn into_reply(self) -> Reply {
        Reply::ok()
    }
}

impl IntoReply for Infallible {
    fn into_reply(self) -> Reply {
        match self {}
    }
}

impl IntoReply for ErrorReply {
    fn into_reply(self) -> Reply {
        Reply::from(Err(self))
    }
}

/// The error of many layers of Tower. The error is logged, and the client receives "internal error".
///
/// Two errors have texts of their own, so that a client can tell them apart and try again: for the
/// [`Elapsed`] of a timeout it receives "timed out", for the [`Overloaded`] of a load shed
/// "overloaded". They are logged at `debug`, because a busy server has many of them.
impl IntoReply for BoxError {
    fn into_reply(self) -> Reply {
        if let Some(message) = message_of_layer(&*self) {
            tracing::debug!(
                error = message,
                "a layer refused an event, or ended its handler"
            );
            return ErrorReply::new(message).into_reply();
        }
        tracing::error!(error = &*self as &dyn error::Error, "handler failed");
        ErrorReply::internal().into_reply()
    }
}

/// Returns the text for an error of Tower's layers that the client may know.
fn message_of_layer(error: &(dyn error::Error + 'static)) -> Option<&'static str> {
    match error {
        error if error.is::<Elapsed>() => Some("timed out"),
        error if error.is::<Overloaded>() => Some("overloaded"),
        _ => None,
    }
}

impl IntoReply for AckError {
    fn into_reply(self) -> Reply {
        match self.into_encode_error() {
            Ok(error) => error.into_reply(),
            Err(error) => ErrorReply::new(error.to_string()).into_reply(),
        }
    }
}

impl IntoReply for EmitError {
    fn into_reply(self) -> Reply {
        match self.0 {
            EmitErrorKind::Encode(error) => error.into_reply(),
            EmitErrorKind::Closed | EmitErrorKind::Cluster(_) => {
                ErrorReply::new(self.to_string()).into_reply()
            }
        }
    }
}

/// The error is logged, and the client receives "internal error".
impl IntoReply for ClusterError {
    fn into_reply(self) -> Reply {
        BoxError::from(self).into_reply()
    }
}

impl IntoReply for EncodeError {
    fn into_reply(self) -> Reply {
        BoxError::from(self).into_reply()
    }
}

impl<T: IntoReply, E: IntoReply> IntoReply for Result<T, E> {
    fn into_reply(self) -> Reply {
        match self {
            Ok(value) => value.into_reply(),
            Err(error) => error.into_reply().into_err(),
        }
    }
}

impl<T: Serialize> IntoReply for Data<T> {
    fn into_reply(self) -> Reply {
        Reply::args(self)
    }
}

impl<T: Serialize> IntoReply for Args<T> {
    fn into_reply(self) -> Reply {
        Reply::args(self)
    }
}

impl IntoReply for RawArgs {
    fn into_reply(self) -> Reply {
        Reply::args(self)
    }
}

impl<T: Serialize> IntoReply for Option<T> {
    fn into_reply(self) -> Reply {
        Reply::args(self)
    }
}

impl<T: Serialize> IntoReply for Vec<T> {
    fn into_reply(self) -> Reply {
        Reply::args(self)
    }
}

macro_rules! one_argument {
    ($($ty:ty)*) => {$(
        impl IntoReply for $ty {
            fn into_reply(self) -> Reply {
                Reply::args(self)
            }
        }
    )*};
}

one_argument! {
    bool char i8 i16 i32 i64 i128 isize u8 u16 u32 u64 u128 usize f32 f64
    String &'static str Box<str> Cow<'static, str> Bytes Value
}

/// An estimate of the length of the namespace's name. If the name is longer, the text is copied
/// once.
const NAMESPACE_LEN: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(reply: impl IntoReply) -> String {
        let payload = reply.into_reply().into_ack();
        String::from_utf8(payload.json().to_vec()).expect("UTF-8")
    }

    #[test]
    fn a_returned_value_becomes_the_acknowledgement() {
        assert_eq!(ack(()), "[]");
        assert_eq!(ack(7), "[7]");
        assert_eq!(ack("x"), r#"["x"]"#);
        assert_eq!(ack(vec![1, 2]), "[[1,2]]");
        assert_eq!(ack(None::<u8>), "[null]");
        assert_eq!(ack(Data((1, 2))), "[[1,2]]");
        assert_eq!(ack(Args((1, 2))), "[1,2]");
        assert_eq!(ack(Ok::<_, Infallible>(true)), "[true]");
        let bytes = Bytes::from_static(b"x").into_reply().into_ack();
        assert_eq!(bytes.attachments().count(), 1);
    }

    #[test]
    fn an_error_has_a_text_or_data() {
        assert_eq!(ack(Err::<(), _>("no")), r#"[{"error":"no"}]"#);
        assert_eq!(ack(Err::<(), _>(())), r#"[{"error":"error"}]"#);
        assert_eq!(
            ack(Err::<(), _>(Data([7]))),
            r#"[{"error":"error","data":[7]}]"#
        );
        assert_eq!(
            ack(ErrorReply::new("no").with_data(401)),
            r#"[{"error":"no","data":401}]"#
        );
        assert_eq!(
            ack(BoxError::from("a secret")),
            r#"[{"error":"internal error"}]"#
        );
        assert!(Err::<(), _>("no").into_reply().is_err());
    }

    #[test]
    fn the_state_of_the_cluster_stays_on_the_server() {
        assert_eq!(
            ack(Err::<(), _>(ClusterError::TIMEOUT)),
            r#"[{"error":"internal error"}]"#
        );
    }

    #[test]
    fn a_timeout_and_an_overload_have_texts_of_their_own() {
        let elapsed = BoxError::from(Elapsed::new());
        assert_eq!(ack(elapsed), r#"[{"error":"timed out"}]"#);
        let overloaded = BoxError::from(Overloaded::new());
        assert_eq!(ack(overloaded), r#"[{"error":"overloaded"}]"#);
    }

    #[test]
    fn a_refusal_is_the_object_of_a_connect_error() {
        let error = ErrorReply::new("no").with_data([1]);
        assert_eq!(
            error.to_connect_error().json(),
            br#"{"message":"no","data":[1]}"#
        );
        assert_eq!(error.to_legacy_connect_error().json(), b"[1]");
        let error = ErrorReply::new("no");
        assert_eq!(error.to_legacy_connect_error().json(), br#""no""#);
    }

    #[test]
    fn an_unserializable_value_becomes_an_internal_error() {
        struct Broken;
        impl Serialize for Broken {
            fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom("broken"))
            }
        }
        assert_eq!(ack(Data(Broken)), r#"[{"error":"internal error"}]"#);
        assert_eq!(
            ErrorReply::new("x").with_data(Broken),
            ErrorReply::internal()
        );
    }
}
