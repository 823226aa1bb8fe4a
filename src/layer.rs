//! The Tower layer: a view of the server, cheap to clone.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::Router;
use axum::extract::OriginalUri;
use axum_core::BoxError;
use axum_core::response::{IntoResponse, Response};
use futures_core::future::BoxFuture;
use http::{Request, StatusCode};
use pin_project_lite::pin_project;
use tower_layer::Layer;

use crate::handles::SocketIo;
use crate::transport::Front;

/// Serves Socket.IO on its path and passes every other request on.
///
/// Everything lives in the server that it is a view of. axum calls [`Layer::layer`] once for each
/// route and method; all those services are one server.
///
/// - `Router::layer` covers the routes that were added before it, and the fallback that is there at
///   that time. One that is added later, or comes with a router that is merged, replaces it, and a
///   router that is nested is not asked for the server's path: [`into_router`](Self::into_router)
///   works in all of these.
/// - [`SocketIo`] as an extractor needs this layer around the route.
/// - Pages of other origins are let in by [`SocketIoBuilder::cors`](crate::SocketIoBuilder::cors).
///   A CORS layer that is to do it for the whole app has to wrap this one, so it is added after it.
///
/// ```
/// use axum::Router;
/// use tower_socketio::{Namespace, SocketIo};
///
/// let (layer, _io) = SocketIo::builder().namespace("/", Namespace::new()).build();
/// let app: Router = Router::new().layer(layer);
/// ```
#[derive(Clone)]
pub struct SocketIoLayer {
    front: Arc<Front>,
    io: SocketIo,
}

impl SocketIoLayer {
    pub(crate) fn new(front: Arc<Front>, io: SocketIo) -> Self {
        Self { front, io }
    }

    /// A router that serves the server's path and what is below it, for `Router::merge` and
    /// `Router::nest`. It works in whatever order routers are put together, and whatever their
    /// fallbacks are; nested at `/api` it serves `/api/socket.io`.
    ///
    /// Unlike the layer it does not make [`SocketIo`] an extractor of the other routes; a layer of
    /// axum's `Extension` does.
    ///
    /// ```
    /// use axum::{Extension, Router, routing::get};
    /// use tower_socketio::{Namespace, SocketIo};
    ///
    /// async fn news(io: SocketIo) {
    ///     io.emit("news", "rain");
    /// }
    ///
    /// let (layer, io) = SocketIo::builder().namespace("/", Namespace::new()).build();
    /// let app: Router = Router::new()
    ///     .route("/news", get(news))
    ///     .layer(Extension(io))
    ///     .merge(layer.into_router())
    ///     .fallback(async || "not found");
    /// ```
    ///
    /// # Panics
    ///
    /// `Router::merge` panics if the other router has a route for the same path.
    pub fn into_router<S>(self) -> Router<S>
    where
        S: Clone + Send + Sync + 'static,
    {
        let front = Arc::clone(&self.front);
        front.router(self.into_service())
    }

    /// A service for `Router::route_service` or `Router::nest_service`. It serves whatever path
    /// it is asked for: the router has decided.
    ///
    /// ```
    /// use axum::Router;
    /// use tower_socketio::{Namespace, SocketIo};
    ///
    /// let (layer, _io) = SocketIo::builder().namespace("/", Namespace::new()).build();
    /// let app: Router = Router::new().route_service("/realtime/", layer.into_service());
    /// ```
    #[must_use]
    pub fn into_service(self) -> SocketIoService<NotFound> {
        SocketIoService::anywhere(self.front, Some(self.io))
    }
}

impl<S> Layer<S> for SocketIoLayer {
    type Service = SocketIoService<S>;

    fn layer(&self, inner: S) -> SocketIoService<S> {
        SocketIoService::new(Arc::clone(&self.front), inner, Some(self.io.clone()))
    }
}

impl fmt::Debug for SocketIoLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SocketIoLayer").finish_non_exhaustive()
    }
}

/// The service of a [`SocketIoLayer`] or an [`EngineLayer`](crate::engine::EngineLayer).
#[derive(Clone)]
pub struct SocketIoService<S> {
    front: Arc<Front>,
    inner: S,
    io: Option<SocketIo>,
    any_path: bool,
}

impl<S> SocketIoService<S> {
    pub(crate) fn new(front: Arc<Front>, inner: S, io: Option<SocketIo>) -> Self {
        Self {
            front,
            inner,
            io,
            any_path: false,
        }
    }
}

impl SocketIoService<NotFound> {
    /// Where a router has decided that the requests are the server's.
    pub(crate) fn anywhere(front: Arc<Front>, io: Option<SocketIo>) -> Self {
        Self {
            any_path: true,
            ..Self::new(front, NotFound, io)
        }
    }
}

impl<S, B> tower_service::Service<Request<B>> for SocketIoService<S>
where
    S: tower_service::Service<Request<B>>,
    S::Response: IntoResponse,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if self.any_path || self.front.serves(request.uri().path()) {
            let response = self.front.respond(request);
            return ResponseFuture::Own { response };
        }
        self.front.sessions.mark_used();
        let lost = self.front.is_lost(&request).then(|| {
            let front = Arc::clone(&self.front);
            let original = request.extensions().get::<OriginalUri>();
            let uri = original.map_or(request.uri(), |original| &original.0);
            Lost {
                front,
                path: uri.path().into(),
            }
        });
        if let Some(io) = &self.io {
            request.extensions_mut().insert(io.clone());
        }
        ResponseFuture::Inner {
            inner: self.inner.call(request),
            lost,
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for SocketIoService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SocketIoService")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

pin_project! {
    /// The response of a [`SocketIoService`]. What passes by is not boxed.
    #[project = ResponseProjection]
    pub enum ResponseFuture<F> {
        #[doc(hidden)]
        Inner { #[pin] inner: F, lost: Option<Lost> },
        #[doc(hidden)]
        Own { response: BoxFuture<'static, Response> },
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<R, E>>,
    R: IntoResponse,
{
    type Output = Result<Response, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            ResponseProjection::Inner { inner, lost } => {
                let response = ready!(inner.poll(cx)?).into_response();
                if let Some(lost) = lost.take() {
                    lost.tell(response.status());
                }
                Poll::Ready(Ok(response))
            }
            ResponseProjection::Own { response } => response.as_mut().poll(cx).map(Ok),
        }
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

/// A request of a Socket.IO client for another path than the server's.
#[doc(hidden)]
pub struct Lost {
    front: Arc<Front>,
    path: Box<str>,
}

impl fmt::Debug for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lost").finish_non_exhaustive()
    }
}

impl Lost {
    fn tell(self, status: StatusCode) {
        if status == StatusCode::NOT_FOUND {
            self.front.tell_of_path(&self.path);
        }
    }
}

/// What lies behind [`SocketIoLayer::into_service`]: nothing is ever passed to it.
#[derive(Clone, Copy, Debug)]
pub struct NotFound;

impl<B> tower_service::Service<Request<B>> for NotFound {
    type Response = StatusCode;
    type Error = Infallible;
    type Future = std::future::Ready<Result<StatusCode, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        std::future::ready(Ok(StatusCode::NOT_FOUND))
    }
}
