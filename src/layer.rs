//! The Tower layer: a view of the server, cheap to clone.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

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
/// - `Router::layer` covers the routes that were added before it, and the fallback.
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
        SocketIoService {
            any_path: true,
            ..SocketIoService::new(self.front, NotFound, Some(self.io))
        }
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
        if let Some(io) = &self.io {
            request.extensions_mut().insert(io.clone());
        }
        ResponseFuture::Inner {
            inner: self.inner.call(request),
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
        Inner { #[pin] inner: F },
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
            ResponseProjection::Inner { inner } => {
                inner.poll(cx).map_ok(IntoResponse::into_response)
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
