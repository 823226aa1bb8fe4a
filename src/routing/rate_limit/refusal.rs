//! The error of an event that a rate limit refuses.

use std::fmt;
use std::time::Duration;

use serde_json::json;

use crate::routing::{ErrorReply, IntoReply, Reply};

/// The error of an event, or of a connect, that a rate limit refuses.
///
/// The client receives `{ error: "too many requests", data: { retryAfterMs: 1500 } }`, or the same
/// text and data as `connect_error`. A handler with a limit of its own may return it too:
///
/// ```
/// use std::time::Duration;
/// use tower_socketio::Namespace;
/// use tower_socketio::rate_limit::TooManyRequests;
///
/// async fn export() -> Result<String, TooManyRequests> {
///     Err(TooManyRequests::new(Duration::from_secs(90)))
/// }
///
/// let namespace: Namespace = Namespace::new().on("export", export);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyRequests {
    retry_after: Duration,
}

impl TooManyRequests {
    /// Creates the error with the time to wait.
    #[must_use]
    pub const fn new(retry_after: Duration) -> Self {
        Self { retry_after }
    }

    /// Returns the time after which the client may try again.
    #[must_use]
    pub const fn retry_after(&self) -> Duration {
        self.retry_after
    }

    /// Returns that time in milliseconds, rounded up: a client that waits so long is not refused.
    pub(super) fn retry_after_ms(self) -> u64 {
        u64::try_from(self.retry_after.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
    }

    pub(super) fn into_error(self) -> ErrorReply {
        ErrorReply::new("too many requests")
            .with_data(json!({ "retryAfterMs": self.retry_after_ms() }))
    }
}

impl IntoReply for TooManyRequests {
    fn into_reply(self) -> Reply {
        self.into_error().into_reply()
    }
}

impl fmt::Display for TooManyRequests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "too many requests: retry in {:?}", self.retry_after)
    }
}

impl std::error::Error for TooManyRequests {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_to_wait_is_rounded_up() {
        let ms = |duration| TooManyRequests::new(duration).retry_after_ms();
        assert_eq!(ms(Duration::ZERO), 0);
        assert_eq!(ms(Duration::from_nanos(1)), 1);
        assert_eq!(ms(Duration::from_millis(7)), 7);
        assert_eq!(ms(Duration::MAX), u64::MAX);
    }
}
