//! Calls handlers, and catches their panics.

use std::task::{Context, Poll};

use futures_core::future::BoxFuture;

use crate::routing::{Event, Reply, Route};
use crate::transport::guarded;

/// Calls a handler, or returns the reply of one that panicked.
#[inline]
pub(super) fn call(route: &Route, event: Event) -> BoxFuture<'static, Reply> {
    guarded(|| route.call(event)).unwrap_or_else(|_| Box::pin(std::future::ready(panicked())))
}

/// Polls a handler, or returns the reply of one that panicked.
#[inline]
pub(super) fn poll(future: &mut BoxFuture<'static, Reply>, cx: &mut Context<'_>) -> Poll<Reply> {
    guarded(|| future.as_mut().poll(cx)).unwrap_or_else(|_| Poll::Ready(panicked()))
}

/// Returns the reply of a handler that panicked. The panic hook has reported the panic already.
fn panicked() -> Reply {
    tracing::error!("a handler panicked");
    Reply::panicked()
}
