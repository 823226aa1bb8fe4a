//! Catches the panics of the application's code.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;

use futures_core::future::BoxFuture;

/// The code panicked. The panic hook has reported the panic, and its payload is dropped.
#[derive(Debug)]
pub(crate) struct Panicked;

/// Runs code of the application and catches a panic, also one in the destructor of the panic's
/// payload.
///
/// # Errors
///
/// Fails if the code panicked.
pub(crate) fn guarded<R>(run: impl FnOnce() -> R) -> Result<R, Panicked> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|payload| {
        discard(payload);
        Panicked
    })
}

/// Runs a hook or a destructor of the application. A panic is logged, and goes no further.
pub(crate) fn guarded_hook(run: impl FnOnce()) {
    if guarded(run).is_err() {
        tracing::error!("a hook panicked");
    }
}

/// Runs a future of the application and catches a panic, also one in the destructor of the future.
///
/// # Errors
///
/// Fails if the future panicked before it was ready.
pub(crate) async fn guarded_future<R>(mut future: BoxFuture<'_, R>) -> Result<R, Panicked> {
    let result = poll_fn(|cx| match guarded(|| future.as_mut().poll(cx)) {
        Ok(polled) => polled.map(Ok),
        Err(panicked) => Poll::Ready(Err(panicked)),
    });
    let result = result.await;
    let _ = guarded(move || drop(future));
    result
}

/// Drops the payload of a panic. If its destructor panics, drops the payload of that panic too.
fn discard(mut payload: Box<dyn Any + Send>) {
    for _ in 0..PAYLOADS {
        match catch_unwind(AssertUnwindSafe(move || drop(payload))) {
            Ok(()) => return,
            Err(next) => payload = next,
        }
    }
    // The chain may have no end.
    Box::leak(payload);
}

/// The number of payloads of one panic that are dropped. The next one is leaked.
const PAYLOADS: usize = 8;

#[cfg(test)]
mod tests {
    use std::panic::panic_any;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Panics with another chain when it is dropped, `left` times.
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
    fn guarded_returns_the_value() {
        assert_eq!(guarded(|| 7).ok(), Some(7));
    }

    #[test]
    fn a_payload_whose_destructor_panics_is_dropped() {
        assert_eq!(dropped(0), 1);
        assert_eq!(dropped(1), 2);
        assert_eq!(dropped(PAYLOADS - 1), PAYLOADS);
    }

    #[test]
    fn an_endless_chain_of_panic_payloads_is_dropped_up_to_a_limit() {
        assert_eq!(dropped(1_000_000), PAYLOADS);
    }
}
