//! The clock that the state machines are driven by.

use std::time::Instant;

/// The time now, by tokio's clock: tests may pause it.
#[inline]
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
