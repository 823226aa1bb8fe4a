//! A handler and its layers as one type.

use std::any::Any;
use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::future::BoxFuture;
use tower::ServiceExt;
use tower_service::Service;

use super::{Event, IntoReply, Reply};

/// A handler with its state and its layers: the service that a Tower layer wraps.
///
/// It is always ready, and cheap to clone.
#[derive(Clone)]
pub struct Route(pub(super) Arc<dyn Erased>);

pub(super) trait Erased: Send + Sync {
    fn call(&self, event: Event) -> BoxFuture<'static, Reply>;
}

impl Route {
    /// Creates a route from the service that a layer returned.
    pub(super) fn from_service<T>(service: T) -> Self
    where
        T: Service<Event, Response: IntoReply, Error: IntoReply, Future: Send>,
        T: Clone + Send + Sync + 'static,
    {
        // Do not wrap a route again: a layer may return the route unchanged, and `from_fn` mostly
        // wraps a route directly.
        if let Some(route) = (&service as &dyn Any).downcast_ref::<Self>() {
            return route.clone();
        }
        Self(Arc::new(Wrapped(service)))
    }

    /// Returns a route that signals each event that has passed the layers around it. See
    /// [`Event::arrival`].
    pub(super) fn into_destination(self) -> Self {
        Self(Arc::new(Destination(self)))
    }

    /// Handles an event.
    #[inline]
    pub(crate) fn call(&self, event: Event) -> BoxFuture<'static, Reply> {
        self.0.call(event)
    }
}

impl Service<Event> for Route {
    type Response = Reply;
    type Error = Infallible;
    type Future = RouteFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, event: Event) -> RouteFuture {
        RouteFuture(self.0.call(event))
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").finish_non_exhaustive()
    }
}

/// The response future of a [`Route`].
#[must_use = "futures do nothing unless polled"]
pub struct RouteFuture(pub(super) BoxFuture<'static, Reply>);

impl Future for RouteFuture {
    type Output = Result<Reply, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map(Ok)
    }
}

impl fmt::Debug for RouteFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteFuture").finish_non_exhaustive()
    }
}

/// A route that signals each event that reaches it.
struct Destination(Route);

impl Erased for Destination {
    fn call(&self, mut event: Event) -> BoxFuture<'static, Reply> {
        event.mark_handler_reached();
        self.0.call(event)
    }
}

struct Wrapped<T>(T);

impl<T> Erased for Wrapped<T>
where
    T: Service<Event, Response: IntoReply, Error: IntoReply, Future: Send>,
    T: Clone + Send + Sync + 'static,
{
    fn call(&self, event: Event) -> BoxFuture<'static, Reply> {
        let service = self.0.clone();
        Box::pin(async move { service.oneshot(event).await.into_reply() })
    }
}
