//! Why an extractor failed, and what the client is told of it.

use std::{error, fmt};

use crate::protocol::ReadError;
use crate::routing::{ErrorReply, IntoReply, Reply};

/// The arguments are not what [`Data`](super::Data) or [`Args`](super::Args) should read.
///
/// Its text says which argument it is; its source is the reason that serde gives. The client is
/// told both: `argument 1 is of another type: invalid type: string "x", expected u32`.
#[derive(Debug)]
pub struct InvalidArgs(pub(super) ReadError);

impl InvalidArgs {
    /// What the handler may have to change: [`ReadError::hint`].
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        self.0.hint()
    }
}

impl fmt::Display for InvalidArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl error::Error for InvalidArgs {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.0.source()
    }
}

/// What the client authenticates itself with is not what [`Auth`](super::Auth) should read.
///
/// Its source is the reason that serde gives. The client is told of it:
/// ``auth is of another type: missing field `token` ``.
#[derive(Debug)]
pub struct InvalidAuth(pub(in crate::routing) ReadError);

impl fmt::Display for InvalidAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("auth is of another type")
    }
}

impl error::Error for InvalidAuth {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.0.source()
    }
}

/// The parameters of the path are not what [`Params`](super::Params) should read.
#[derive(Debug)]
pub struct InvalidParams(pub(super) serde::de::value::Error);

impl fmt::Display for InvalidParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "namespace does not fit: {}", self.0)
    }
}

impl error::Error for InvalidParams {}

/// A [`DisconnectReason`](super::DisconnectReason) was asked for where nothing is disconnected.
///
/// The client is told "internal error".
#[derive(Debug)]
pub struct NotADisconnect(pub(super) ());

impl fmt::Display for NotADisconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("only a disconnect handler can take the reason")
    }
}

impl error::Error for NotADisconnect {}

/// An axum `Extension` is neither in the event, nor in the socket, nor in the handshake.
///
/// The client is told "internal error".
#[derive(Debug)]
pub struct MissingExtension(pub(super) &'static str);

impl fmt::Display for MissingExtension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "extension `{}` is missing", self.0)
    }
}

impl error::Error for MissingExtension {}

/// The client's mistakes: it is told.
macro_rules! told {
    ($($ty:ty)*) => {$(
        impl IntoReply for $ty {
            fn into_reply(self) -> Reply {
                ErrorReply::new(self.to_string()).into_reply()
            }
        }
    )*};
}

told!(InvalidParams);

/// What could not be read of what the client sent: it is told which part, and why.
macro_rules! explained {
    ($($ty:ty)*) => {$(
        impl IntoReply for $ty {
            fn into_reply(self) -> Reply {
                explain(&self, &self.0)
            }
        }
    )*};
}

explained!(InvalidArgs InvalidAuth);

impl IntoReply for ReadError {
    fn into_reply(self) -> Reply {
        explain(&self, &self)
    }
}

fn explain(what: &dyn fmt::Display, error: &ReadError) -> Reply {
    let message = match error.reason() {
        Some(reason) => format!("{what}: {reason}"),
        None => what.to_string(),
    };
    ErrorReply::new(message).into_reply()
}

/// The server's mistakes: logged, and none of the client's business.
macro_rules! logged {
    ($($ty:ty)*) => {$(
        impl IntoReply for $ty {
            fn into_reply(self) -> Reply {
                tracing::error!(error = %self, "handler cannot be called");
                ErrorReply::internal().into_reply()
            }
        }
    )*};
}

logged!(NotADisconnect MissingExtension);
