//! What a handler answers.
//!
//! | returned                          | the client's callback gets                |
//! |-----------------------------------|-------------------------------------------|
//! | `()`                              | no argument                               |
//! | a text, a number, [`Data`], …     | one argument                              |
//! | [`Args`], [`RawArgs`]             | several arguments                         |
//! | `Err("no")`                       | `{ error: "no" }`                         |
//! | `Err(Data(Problem { code: 7 }))`  | `{ error: "error", data: { code: 7 } }`   |
//! | `Err(BoxError)`                   | `{ error: "internal error" }`, and a log  |
//!
//! Returned by a connect handler, an `Err` is what the client's `connect_error` gets, with its
//! text as `message`; an `Ok` is not sent.

use std::borrow::Cow;
use std::convert::Infallible;
use std::{error, fmt};

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use tower::BoxError;

use crate::handles::{AckError, EmitError, EmitErrorKind};
use crate::protocol::{Args, Data, EncodeError, IntoArgs, Payload, RawArgs};

/// What a handler answered: arguments, or an error.
///
/// A middleware looks at it; handlers rather return something that is [`IntoReply`].
#[derive(Debug)]
#[must_use = "a reply that is dropped is not sent"]
pub struct Reply {
    result: Result<Payload, ErrorReply>,
    deferred: bool,
}

impl Reply {
    /// An answer without arguments.
    pub fn ok() -> Self {
        Self::args(Args(()))
    }

    /// Whether this is an error.
    #[must_use]
    pub fn is_err(&self) -> bool {
        self.result.is_err()
    }

    /// Writes arguments, or says "internal error" if that fails.
    pub(super) fn args(args: impl IntoArgs) -> Self {
        Self::written(Payload::args(NAMESPACE_LEN, args))
    }

    #[inline]
    fn written(payload: Result<Payload, EncodeError>) -> Self {
        let result = payload.map_err(|error| {
            tracing::error!(
                error = &error as &dyn error::Error,
                "reply cannot be written"
            );
            ErrorReply::internal()
        });
        Self::from(result)
    }

    /// What an `Err` with this reply in it answers.
    pub(super) fn into_err(self) -> Self {
        let refuse = match self.result {
            Ok(payload) => ErrorReply::from_payload(&payload),
            Err(refuse) => refuse,
        };
        Self::from(Err(refuse))
    }

    /// An answer that an [`AckSender`](super::AckSender) took over is not to be sent.
    #[inline]
    pub(super) fn defer(mut self, deferred: bool) -> Self {
        self.deferred |= deferred;
        self
    }

    /// Whether an [`AckSender`](super::AckSender) took over: nothing is to be sent.
    pub(crate) const fn is_deferred(&self) -> bool {
        self.deferred
    }

    /// The error, if this is one.
    pub(super) fn refusal(&self) -> Option<&ErrorReply> {
        self.result.as_ref().err()
    }

    /// The arguments to be sent, or the error.
    pub(crate) fn into_result(self) -> Result<Payload, ErrorReply> {
        self.result
    }

    /// The arguments of the acknowledgement, whatever the outcome.
    #[inline]
    pub(crate) fn into_ack(self) -> Payload {
        self.result.unwrap_or_else(|refuse| refuse.to_ack())
    }
}

impl From<Result<Payload, ErrorReply>> for Reply {
    fn from(result: Result<Payload, ErrorReply>) -> Self {
        Self {
            result,
            deferred: false,
        }
    }
}

/// An error with a text, and data if there is more to say.
///
/// Returned by a connect handler it refuses the connection, and the client's `connect_error`
/// listener finds them in `err.message` and `err.data`. Returned by another handler, the client's
/// callback gets `{ error, data }`.
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
    // Boxed, so that a `Result` with it stays small.
    data: Option<Box<Value>>,
}

impl ErrorReply {
    /// An error with this text.
    #[must_use]
    pub fn new(message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            message: message.into(),
            data: None,
        }
    }

    /// Adds data. Bytes in it are written as lists of numbers. If it cannot be written as JSON that is logged, and the client is told
    /// "internal error" instead.
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

    /// The text.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The data.
    #[must_use]
    pub fn data(&self) -> Option<&Value> {
        self.data.as_deref()
    }

    /// What a client is told of an error that is none of its business.
    pub(crate) const fn internal() -> Self {
        Self {
            message: Cow::Borrowed("internal error"),
            data: None,
        }
    }

    /// A lone text is the message, the first of anything else is data.
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

    /// As the argument of an acknowledgement.
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

    /// As the object of a `CONNECT_ERROR`.
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
    /// As the value of a `CONNECT_ERROR` for clients of version 2: the data, or else the text.
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

/// What a handler can answer with.
///
/// It is implemented for `()`, texts, numbers, `bool`, `Bytes`, JSON values, lists and options of
/// what serializes; for [`Data`] with anything that serializes, for [`Args`] and [`RawArgs`], for
/// the errors of this crate that a handler meets, and for a `Result` of any two of them. Implement
/// it for an error type of your own to say what
/// clients are told:
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
    message = "`{Self}` cannot be answered by a handler",
    label = "not a reply",
    note = "return `Data<T>` for one argument that implements `serde::Serialize`, `Args<(A, B)>` for several",
    note = "or implement `IntoReply`; the error of a `Result` needs it too"
)]
pub trait IntoReply {
    /// Makes the reply.
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

/// Logged; the client is told "internal error". Tower's layers fail with it.
impl IntoReply for BoxError {
    fn into_reply(self) -> Reply {
        tracing::error!(error = &*self as &dyn error::Error, "handler failed");
        ErrorReply::internal().into_reply()
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
            EmitErrorKind::Closed => ErrorReply::new(self.to_string()).into_reply(),
        }
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

/// A guess at the length of the namespace's name: with a longer one the text is copied once.
const NAMESPACE_LEN: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(reply: impl IntoReply) -> String {
        let payload = reply.into_reply().into_ack();
        String::from_utf8(payload.json().to_vec()).expect("UTF-8")
    }

    #[test]
    fn what_is_returned_is_the_acknowledgement() {
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
    fn a_refusal_is_the_object_of_a_connect_error() {
        let refuse = ErrorReply::new("no").with_data([1]);
        assert_eq!(
            refuse.to_connect_error().json(),
            br#"{"message":"no","data":[1]}"#
        );
        assert_eq!(refuse.to_legacy_connect_error().json(), b"[1]");
        let refuse = ErrorReply::new("no");
        assert_eq!(refuse.to_legacy_connect_error().json(), br#""no""#);
    }

    #[test]
    fn what_cannot_be_written_is_an_internal_error() {
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
