//! A yield that lets all ready tasks of a worker run.

use std::future::poll_fn;
use std::task::Poll;

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
