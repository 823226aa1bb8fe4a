//! The clock of the state machines, and their deadlines.

use std::time::Instant;

/// Returns the current time of tokio's clock, which tests may pause.
#[inline]
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Returns the earliest of some deadlines.
#[inline]
pub(crate) fn earliest<const N: usize>(deadlines: [Option<Instant>; N]) -> Option<Instant> {
    let earlier = |a: Option<Instant>, b: Option<Instant>| match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        _ => a.or(b),
    };
    deadlines.into_iter().fold(None, earlier)
}
