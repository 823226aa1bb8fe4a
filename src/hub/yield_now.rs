//! Yields that let all ready tasks of a worker run.

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll};

/// Yields to all tasks that were ready before.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Wakes the task that calls, after the worker has looked at its input and output and its timers.
///
/// A task that wakes itself directly may be polled sixty times before the worker looks at them.
pub(crate) fn wake_later(cx: &mut Context<'_>) {
    // tokio's future wakes the task in this way when it is polled for the first time.
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}
