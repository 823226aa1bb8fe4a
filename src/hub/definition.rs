//! A definition of namespaces, for observers and spans.

/// A definition of namespaces: those of one path, or of one predicate.
#[derive(Debug, Default)]
#[cfg_attr(
    not(feature = "metrics"),
    allow(dead_code, reason = "the observer of this feature reads it")
)]
pub(crate) struct Definition {
    /// The position among the definitions of the server.
    pub(crate) index: usize,
    /// The path, which may have parameters. `None` for a predicate.
    pub(crate) pattern: Option<Box<str>>,
    /// The names of the events that have a handler, sorted. An [`EventIndex`] is a position in it.
    pub(crate) events: Box<[Box<str>]>,
}

impl Definition {
    /// Returns the index of an event's name.
    pub(crate) fn position(&self, name: &str) -> EventIndex {
        let found = self
            .events
            .binary_search_by(|event| event.as_ref().cmp(name));
        found.ok()
    }
}

/// The position of an event's name in [`Definition::events`]. `None` if the event has no handler of
/// its own.
pub(crate) type EventIndex = Option<usize>;
