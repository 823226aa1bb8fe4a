//! `clock.rs` for models: time stands still, so that each run of a schedule is the same.

use std::sync::OnceLock;
use std::time::Instant;

pub(crate) fn now() -> Instant {
    static NOW: OnceLock<Instant> = OnceLock::new();
    *NOW.get_or_init(Instant::now)
}
