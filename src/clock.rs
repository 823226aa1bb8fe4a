//! The clock of the state machines.

use std::time::Instant;

/// Returns the current time of tokio's clock, which tests may pause.
#[inline]
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
