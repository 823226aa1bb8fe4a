//! Log lines that a developer has to see once: the first of a kind at `warn`, later ones at
//! `debug`.
//!
//! Clients can cause these lines, so they must not fill a log. The first of each kind is the first
//! of one server, not of the process.
//!
//! ```text
//! notice!(sessions.notices.origin, %origin, "a page … is refused: set `HttpOptions::origins`");
//! ```

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sync::Mutex;

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
    /// A client asks for a namespace that no path matches.
    pub(crate) namespace: Notice,
    /// A client asks for one more dynamic namespace than may exist.
    pub(crate) too_many_namespaces: Notice,
    /// Another layer with the same path is around this one.
    pub(crate) same_path: Notice,
    /// An extractor fails because of the server. One kind for each type.
    pub(crate) extractor: NoticeOf,
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

/// The names of those that were logged before. The names are of the program, so they are few.
#[derive(Debug, Default)]
pub(crate) struct NoticeOf(Mutex<HashSet<&'static str>>);

impl NoticeOf {
    /// Returns the kind of lines for a name.
    pub(crate) fn of(&self, name: &'static str) -> NamedNotice<'_> {
        NamedNotice(self, name)
    }
}

/// Whether a line for one name was logged before.
pub(crate) struct NamedNotice<'a>(&'a NoticeOf, &'static str);

impl NamedNotice<'_> {
    /// Returns true for the first call for this name only.
    pub(crate) fn is_first(&self) -> bool {
        self.0.0.lock().insert(self.1)
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
        assert!(one.extractor.of("A").is_first());
        assert!(!one.extractor.of("A").is_first());
        assert!(one.extractor.of("B").is_first());
    }
}
