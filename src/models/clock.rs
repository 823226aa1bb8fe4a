//! The replacement of `clock.rs` for models. Time stands still, so each run of a schedule is the
//! same.

use std::cell::Cell;
use std::time::Instant;

thread_local! {
    static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
}

pub(crate) fn now() -> Instant {
    NOW.get().expect("a model has begun")
}

/// Stops the clock at the current time. The caller must have started tokio's runtime before:
/// otherwise timers fire at once, because they are due before the runtime's start.
pub(crate) fn stop() {
    NOW.set(Some(Instant::now()));
}
