//! `clock.rs` for models: time stands still, so that each run of a schedule is the same.

use std::cell::Cell;
use std::time::Instant;

thread_local! {
    static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
}

pub(crate) fn now() -> Instant {
    NOW.get().expect("a model has begun")
}

/// Stops the clock. It must not be earlier than the beginning of tokio's runtime, or timers that
/// were due before it fire at once.
pub(crate) fn stop() {
    NOW.set(Some(Instant::now()));
}
