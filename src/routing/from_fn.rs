//! The layers that [`middleware`](super::middleware) exports.

use std::any::type_name;
use std::convert::Infallible;
use std::fmt;
use std::task::{Context, Poll};

use axum::extract::State;
use futures_core::future::BoxFuture;
use tower_layer::Layer;
use tower_service::Service;

use super::{Event, IntoReply, Reply, Route};

/// Creates a layer from an `async fn(Event, Next) -> impl IntoReply`.
///
/// ```
/// use tower_socketio::middleware::{self, Next};
/// use tower_socketio::{Event, Namespace, Reply};
///
/// async fn log(event: Event, next: Next) -> Reply {
///     let name = event.name().to_owned();
///     let reply = next.run(event).await;
///     println!("{name} failed: {}", reply.is_err());
///     reply
/// }
///
/// let namespace: Namespace = Namespace::new().layer(middleware::from_fn(log));
/// ```
pub const fn from_fn<F>(f: F) -> FromFnLayer<F> {
    FromFnLayer { f }
}

/// Creates a layer from an `async fn(State<S>, Event, Next) -> impl IntoReply`, and its state.
///
/// ```
/// use axum::extract::State;
/// use tower_socketio::middleware::{self, Next};
/// use tower_socketio::{Event, Namespace, Reply};
///
/// async fn count(State(limit): State<usize>, event: Event, next: Next) -> Reply {
///     println!("{limit}");
///     next.run(event).await
/// }
///
/// let namespace: Namespace = Namespace::new().layer(middleware::from_fn_with_state(7, count));
/// ```
///
/// The function has no other extractors: [`Event::socket`] and [`Event::args`] return what they would. For a
/// part of a larger state pass that part, `from_fn_with_state(app.db.clone(), f)`.
pub fn from_fn_with_state<F, S, Fut>(
    state: S,
    f: F,
) -> FromFnLayer<impl Fn(Event, Next) -> Fut + Clone + Send + Sync + 'static>
where
    F: Fn(State<S>, Event, Next) -> Fut + Clone + Send + Sync + 'static,
    S: Clone + Send + Sync + 'static,
{
    from_fn(move |event, next| f(State(state.clone()), event, next))
}

/// The layer that [`from_fn`] returns.
#[derive(Clone, Copy)]
#[must_use]
pub struct FromFnLayer<F> {
    f: F,
}

impl<F, I> Layer<I> for FromFnLayer<F>
where
    F: Clone,
    I: Service<Event, Response: IntoReply, Error: IntoReply, Future: Send>,
    I: Clone + Send + Sync + 'static,
{
    type Service = FromFn<F>;

    fn layer(&self, inner: I) -> FromFn<F> {
        FromFn {
            f: self.f.clone(),
            inner: Route::from_service(inner),
        }
    }
}

impl<F> fmt::Debug for FromFnLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FromFnLayer")
            .field(&type_name::<F>())
            .finish()
    }
}

/// The service of a [`FromFnLayer`].
#[derive(Clone)]
pub struct FromFn<F> {
    f: F,
    inner: Route,
}

impl<F, Fut> Service<Event> for FromFn<F>
where
    F: Fn(Event, Next) -> Fut,
    Fut: Future<Output: IntoReply> + Send + 'static,
{
    type Response = Reply;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Reply, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, event: Event) -> Self::Future {
        let next = Next {
            route: self.inner.clone(),
        };
        let answer = (self.f)(event, next);
        Box::pin(async move { Ok(answer.await.into_reply()) })
    }
}

impl<F> fmt::Debug for FromFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FromFn").field(&type_name::<F>()).finish()
    }
}

/// The layers inside a middleware, and the handler.
#[derive(Clone, Debug)]
pub struct Next {
    route: Route,
}

impl Next {
    /// Passes the event to the inner layers and the handler, and returns their reply.
    pub async fn run(self, event: Event) -> Reply {
        self.route.call(event).await
    }
}
