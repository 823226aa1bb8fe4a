//! The error of a refused request, as the client and the application get it.

use std::borrow::Cow;
use std::fmt;

use axum_core::body::Body;
use axum_core::response::Response;
use http::{HeaderValue, StatusCode, header};

use crate::engine_io::Refusal;

/// The reason for a refused request; see [`HttpOptions::on_connection_error`].
///
/// [`HttpOptions::on_connection_error`]: super::HttpOptions::on_connection_error
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionError {
    refusal: Refusal,
    message: Cow<'static, str>,
    context: &'static str,
}

impl ConnectionError {
    pub(super) const fn new(refusal: Refusal, context: &'static str) -> Self {
        Self {
            refusal,
            message: Cow::Borrowed(refusal.message()),
            context,
        }
    }

    pub(super) fn with_message(message: Cow<'static, str>, context: &'static str) -> Self {
        Self {
            refusal: Refusal::Forbidden,
            message: match &*message {
                "" => Cow::Borrowed(Refusal::Forbidden.message()),
                _ => message,
            },
            context,
        }
    }

    pub(super) const fn refusal(&self) -> Refusal {
        self.refusal
    }

    /// Returns the `code` that the client gets.
    #[must_use]
    pub const fn code(&self) -> u8 {
        self.refusal.code()
    }

    /// Returns the `message` that the client gets.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the detail that was wrong. The client does not get it.
    #[must_use]
    pub const fn context(&self) -> &'static str {
        self.context
    }

    /// Returns the HTTP status of the response.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        // Every refusal has a valid status.
        StatusCode::from_u16(self.refusal.status()).unwrap_or(StatusCode::BAD_REQUEST)
    }

    pub(super) fn response(&self) -> Response {
        let mut response = Response::new(Body::from(self.refusal.body_with_message(&self.message)));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
        if self.context == WRONG_VERSION {
            // RFC 6455 section 4.4.
            let version = HeaderValue::from_static("13");
            headers.insert(header::SEC_WEBSOCKET_VERSION, version);
        }
        if self.context == SERVER_CLOSES {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}

/// The context of a handshake with a server that closes or shuts down.
pub(super) const SERVER_CLOSES: &str = "the server closes";

/// After how many seconds a client that was refused by a server that closes may try again: another
/// server may be there at once.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// The context of a refused version of WebSocket.
pub(super) const WRONG_VERSION: &str = "WebSocket version";

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.message, self.context)
    }
}

impl std::error::Error for ConnectionError {}
