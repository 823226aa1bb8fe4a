//! The replacement of `random.rs` for models. The bytes come from a counter, so each run of a
//! schedule is the same.

use std::cell::Cell;

thread_local! {
    static NEXT: Cell<u8> = const { Cell::new(0) };
}

pub(crate) fn random<const N: usize>() -> [u8; N] {
    NEXT.set(NEXT.get().wrapping_add(1));
    [NEXT.get(); N]
}

/// Resets the counter.
pub(crate) fn reset() {
    NEXT.set(0);
}
