//! Keeps a panic of the user's code from going further.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The code panicked. The panic's hook has told of it, and its payload is gone.
#[derive(Debug)]
pub(crate) struct Panicked;

/// Runs code of the user's and keeps a panic from going further, also one in the destructor of
/// what it panicked with.
pub(crate) fn guarded<R>(run: impl FnOnce() -> R) -> Result<R, Panicked> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|payload| {
        discard(payload);
        Panicked
    })
}

/// Drops what a panic came with. A destructor that panics brings the next payload.
fn discard(mut payload: Box<dyn Any + Send>) {
    for _ in 0..PAYLOADS {
        match catch_unwind(AssertUnwindSafe(move || drop(payload))) {
            Ok(()) => return,
            Err(next) => payload = next,
        }
    }
    // It would go on for ever.
    Box::leak(payload);
}

/// How many payloads of one panic are dropped before the next is left where it is.
const PAYLOADS: usize = 8;

#[cfg(test)]
mod tests {
    use std::panic::panic_any;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Panics when it is dropped, with another one that has one less left.
    struct Chain {
        left: usize,
        dropped: Arc<AtomicUsize>,
    }

    impl Drop for Chain {
        fn drop(&mut self) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            if self.left > 0 {
                panic_any(Self {
                    left: self.left - 1,
                    dropped: Arc::clone(&self.dropped),
                });
            }
        }
    }

    fn dropped(left: usize) -> usize {
        let dropped = Arc::new(AtomicUsize::new(0));
        let chain = Chain {
            left,
            dropped: Arc::clone(&dropped),
        };
        assert!(guarded(move || panic_any(chain)).is_err());
        dropped.load(Ordering::Relaxed)
    }

    #[test]
    fn a_value_comes_through() {
        assert_eq!(guarded(|| 7).ok(), Some(7));
    }

    #[test]
    fn a_payload_whose_destructor_panics_is_dropped() {
        assert_eq!(dropped(0), 1);
        assert_eq!(dropped(1), 2);
        assert_eq!(dropped(PAYLOADS - 1), PAYLOADS);
    }

    #[test]
    fn payloads_without_end_are_left_after_some() {
        assert_eq!(dropped(1_000_000), PAYLOADS);
    }
}
