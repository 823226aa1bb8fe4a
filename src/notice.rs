//! Log lines that a developer has to see once: the first of a kind at `warn`, later ones at `debug`.
//!
//! A client can cause them, so they must not fill a log. Each kind is counted for one server, not
//! for the process.
//!
//! ```text
//! notice!(sessions.notices.origin, %origin, "a page … may not connect: set `HttpOptions::origins`");
//! ```

use std::sync::atomic::{AtomicBool, Ordering};

/// The kinds of one server. A message of each kind names the option to set.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    /// The rule of origins has refused a page.
    pub(crate) origin: Notice,
    /// The HTTP server did not hand the connection of a WebSocket over.
    pub(crate) upgrade: Notice,
    /// A message or a body was longer than `max_payload`.
    pub(crate) too_big: Notice,
    /// A client asks for a path that nothing serves.
    pub(crate) path: Notice,
    /// An event has no handler.
    pub(crate) no_handler: Notice,
    /// The arguments of an event do not fit its handler, and the client waits for no answer.
    pub(crate) wrong_args: Notice,
}

/// Whether one kind was logged before.
#[derive(Debug, Default)]
pub(crate) struct Notice(AtomicBool);

impl Notice {
    /// True for the first caller alone.
    pub(crate) fn is_first(&self) -> bool {
        !self.0.load(Ordering::Relaxed) && !self.0.swap(true, Ordering::Relaxed)
    }
}

/// Logs the first of a kind at `warn` and later ones at `debug`: a [`Notice`], then what the macros
/// of `tracing` take.
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
    fn each_kind_has_its_first_and_each_server_its_own() {
        let (one, other) = (Notices::default(), Notices::default());
        assert!(one.origin.is_first());
        assert!(!one.origin.is_first());
        assert!(one.upgrade.is_first());
        assert!(other.origin.is_first());
    }
}
