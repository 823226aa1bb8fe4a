//! The rejections of extractors, and their replies.

use std::{error, fmt};

use crate::protocol::ReadError;
use crate::routing::{ErrorReply, IntoReply, Reply};

/// The rejection of [`Data`](super::Data) and [`Args`](super::Args): the arguments have another
/// type.
///
/// The text names the argument. The source is the reason from serde. The client receives both:
/// `argument 1 is of another type: invalid type: string "x", expected u32`.
#[derive(Debug)]
pub struct InvalidArgs(pub(in crate::routing) ReadError);

impl InvalidArgs {
    /// Returns a hint how the handler may have to change. See [`ReadError::hint`].
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

/// The rejection of [`Auth`](super::Auth): the `auth` of the client has another type.
///
/// The source is the reason from serde. The client receives it:
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

/// The rejection of [`Params`](super::Params): the parameters of the path have another type.
///
/// The client receives the text of the error.
#[derive(Debug)]
pub struct InvalidParams(pub(super) serde::de::value::Error);

impl fmt::Display for InvalidParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "namespace does not fit: {}", self.0)
    }
}

impl error::Error for InvalidParams {}

/// The rejection of [`DisconnectReason`](super::DisconnectReason) in a handler that is not a
/// disconnect handler.
///
/// The error is logged, and the client receives "internal error".
#[derive(Debug)]
pub struct NotADisconnect(pub(super) ());

impl fmt::Display for NotADisconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("only a disconnect handler can take the reason")
    }
}

impl error::Error for NotADisconnect {}

/// The rejection of axum's `Extension`: neither the event, nor the socket, nor the handshake has
/// such an extension.
///
/// The error is logged, and the client receives "internal error".
#[derive(Debug)]
pub struct MissingExtension(pub(super) &'static str);

impl MissingExtension {
    pub(in crate::routing) const fn type_name(&self) -> &'static str {
        self.0
    }
}

impl fmt::Display for MissingExtension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "extension `{}` is missing", self.0)
    }
}

impl error::Error for MissingExtension {}

impl IntoReply for InvalidParams {
    fn into_reply(self) -> Reply {
        ErrorReply::new(self.to_string()).into_reply()
    }
}

/// Implements [`IntoReply`] for values of the client that could not be read. The client receives
/// the text of the error and the reason.
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

/// Implements [`IntoReply`] for errors of the server. The client receives "internal error". Where a
/// handler is not called because of it, the error is logged: see `rejected`.
macro_rules! internal {
    ($($ty:ty)*) => {$(
        impl IntoReply for $ty {
            fn into_reply(self) -> Reply {
                ErrorReply::internal().into_reply()
            }
        }
    )*};
}

internal!(NotADisconnect MissingExtension);
