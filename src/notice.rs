//! Log lines that a developer has to see once: the first of a kind at `warn`, later ones at
//! `debug`.
//!
//! Clients can cause these lines, so they must not fill a log. The first of each kind is the first
//! of one server, not of the process.
//!
//! ```text
//! notice!(sessions.notices.origin, %origin, "a page … is refused: set `HttpOptions::origins`");
//! ```

use std::sync::atomic::{AtomicBool, Ordering};

/// The kinds of log lines of one server. The message of each kind names the option to set.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    /// A page was refused because of its origin.
    pub(crate) origin: Notice,
    /// The HTTP server did not hand over the connection of a WebSocket.
    pub(crate) upgrade: Notice,
    /// A message or a body was longer than `max_payload`.
    pub(crate) too_big: Notice,
    /// A client has requested a path that nothing serves.
    pub(crate) path: Notice,
    /// An event has no handler.
    pub(crate) no_handler: Notice,
    /// The arguments of an event do not fit its handler, and the client expects no acknowledgement.
    pub(crate) wrong_args: Notice,
    /// A client went on sending over its rate limit.
    #[cfg_attr(
        not(feature = "rate-limit"),
        allow(dead_code, reason = "used by `rate_limit`")
    )]
    pub(crate) rate_limited: Notice,
}

/// Whether a line of one kind was logged before.
#[derive(Debug, Default)]
pub(crate) struct Notice(AtomicBool);

impl Notice {
    /// Returns true for the first call only.
    pub(crate) fn is_first(&self) -> bool {
        !self.0.load(Ordering::Relaxed) && !self.0.swap(true, Ordering::Relaxed)
    }
}

/// Logs the first line of a kind at `warn` and later ones at `debug`. The arguments are a
/// [`Notice`], then the arguments of a `tracing` macro.
macro_rules! notice {
    ($kind:expr, $($event:tt)+) => {
        match $kind.is_first() {
            true => ::tracing::warn!($($event)+),
            false => ::tracing::debug!($($event)+),
        }
    };
}

pub(crate) use notice;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_logs_the_first_notice_of_each_kind() {
        let (one, other) = (Notices::default(), Notices::default());
        assert!(one.origin.is_first());
        assert!(!one.origin.is_first());
        assert!(one.upgrade.is_first());
        assert!(other.origin.is_first());
    }
}
