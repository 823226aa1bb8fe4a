//! The lines that the server logs during one test.

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, LazyLock, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Dispatch, Event, Level, Metadata, Subscriber};

/// Subscribers that live as long as the process. With a single one, tracing asks that of the thread which is
/// the first at a line, and remembers the answer for all threads.
static OTHERS: LazyLock<[Dispatch; 2]> =
    LazyLock::new(|| [(); 2].map(|()| Dispatch::new(Logs::default())));

/// The lines that one thread has logged. With a single-threaded runtime these are all lines of the
/// test's server.
#[derive(Clone, Default)]
pub(crate) struct Logs(Arc<Mutex<Vec<(Level, String)>>>);

impl Logs {
    /// Records this thread's log lines until the guard is dropped.
    pub(crate) fn keep() -> (Self, DefaultGuard) {
        LazyLock::force(&OTHERS);
        let logs = Self::default();
        let guard = tracing::subscriber::set_default(logs.clone());
        (logs, guard)
    }

    /// Returns the lines of a level so far, as `message name=value`.
    pub(crate) fn at(&self, level: Level) -> Vec<String> {
        let lines = self.0.lock().expect("no panic");
        let lines = lines.iter().filter(|(each, _)| *each == level);
        lines.map(|(_, line)| line.clone()).collect()
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        self.at(Level::WARN)
    }
}

impl Subscriber for Logs {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("tower_socketio")
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let line = (*event.metadata().level(), line.message + &line.fields);
        self.0.lock().expect("no panic").push(line);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let written = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
        written.expect("a String takes it");
    }
}
