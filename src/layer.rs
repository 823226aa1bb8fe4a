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
use crate::transport::HttpService;

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
    service: Arc<HttpService>,
    io: SocketIo,
}

impl SocketIoLayer {
    pub(crate) fn new(service: Arc<HttpService>, io: SocketIo) -> Self {
        Self { service, io }
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
        let service = Arc::clone(&self.service);
        service.router(self.into_service())
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
        SocketIoService::anywhere(self.service, Some(self.io))
    }
}

impl<S> Layer<S> for SocketIoLayer {
    type Service = SocketIoService<S>;

    fn layer(&self, inner: S) -> SocketIoService<S> {
        SocketIoService::new(Arc::clone(&self.service), inner, Some(self.io.clone()))
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
    service: Arc<HttpService>,
    inner: S,
    io: Option<SocketIo>,
    any_path: bool,
}

impl<S> SocketIoService<S> {
    pub(crate) fn new(service: Arc<HttpService>, inner: S, io: Option<SocketIo>) -> Self {
        Self {
            service,
            inner,
            io,
            any_path: false,
        }
    }
}

impl SocketIoService<NotFound> {
    /// Where a router has decided that the requests are the server's.
    pub(crate) fn anywhere(service: Arc<HttpService>, io: Option<SocketIo>) -> Self {
        Self {
            any_path: true,
            ..Self::new(service, NotFound, io)
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
        if self.any_path || self.service.serves(request.uri().path()) {
            let response = self.service.respond(request);
            return ResponseFuture {
                kind: Kind::Own { response },
            };
        }
        self.service.sessions.mark_used();
        let unserved = self.service.is_socket_io_request(&request).then(|| {
            let service = Arc::clone(&self.service);
            let original = request.extensions().get::<OriginalUri>();
            let uri = original.map_or(request.uri(), |original| &original.0);
            UnservedRequest {
                service,
                path: uri.path().into(),
            }
        });
        if let Some(io) = &self.io {
            request.extensions_mut().insert(io.clone());
        }
        ResponseFuture {
            kind: Kind::Inner {
                inner: self.inner.call(request),
                unserved,
            },
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
    /// The response of a [`SocketIoService`].
    pub struct ResponseFuture<F> {
        #[pin]
        kind: Kind<F>,
    }
}

pin_project! {
    /// The inner service's future is not boxed.
    #[project = KindProjection]
    enum Kind<F> {
        Inner { #[pin] inner: F, unserved: Option<UnservedRequest> },
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
        match self.project().kind.project() {
            KindProjection::Inner { inner, unserved } => {
                let response = ready!(inner.poll(cx)?).into_response();
                if let Some(unserved) = unserved.take() {
                    unserved.log(response.status());
                }
                Poll::Ready(Ok(response))
            }
            KindProjection::Own { response } => response.as_mut().poll(cx).map(Ok),
        }
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

/// A request of a Socket.IO client for a path that is not the server's.
struct UnservedRequest {
    service: Arc<HttpService>,
    path: Box<str>,
}

impl UnservedRequest {
    fn log(self, status: StatusCode) {
        if status == StatusCode::NOT_FOUND {
            self.service.log_unserved_path(&self.path);
        }
    }
}

/// The inner service of [`SocketIoLayer::into_service`]. It gets no request.
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
