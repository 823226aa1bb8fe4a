//! The Tower layer for Socket.IO, and its service.

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

/// A Tower layer that serves Socket.IO on its path and passes every other request on.
///
/// The layer is a handle of the server, cheap to clone. axum calls [`Layer::layer`] once for each
/// route and method; all these services belong to one server.
///
/// - `Router::layer` wraps the routes that were added before it, and the fallback at that time. A
///   fallback that is added later, or comes with a merged router, replaces the wrapped one. A layer
///   of a nested router gets no requests for the server's path.
///   [`into_router`](Self::into_router) works in all these cases.
/// - [`SocketIo`] as an extractor needs this layer around the route.
/// - [`SocketIoBuilder::cors`](crate::SocketIoBuilder::cors) allows pages of other origins. A CORS
///   layer for the whole app has to wrap this layer, so it is added after it.
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

    /// Converts the layer into a router that serves the server's path and all paths below it, for
    /// `Router::merge` and `Router::nest`. It works in any order of combining routers, and with any
    /// fallbacks. Nested at `/api` it serves `/api/socket.io`.
    ///
    /// A server whose [path](crate::SocketIoBuilder::path) is `/` is nested by
    /// `Router::nest_service("/api", layer.into_service())`: `Router::nest` would not serve `/api/`.
    ///
    /// Unlike the layer, the router does not make [`SocketIo`] an extractor of the other routes. A
    /// layer of axum's `Extension` does.
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

    /// Converts the layer into a service for `Router::route_service` or `Router::nest_service`. The
    /// service serves every request that the router passes to it, whatever its path.
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
    /// Whether all requests are for the server, whatever their path.
    any_path: bool,
}

impl<S> SocketIoService<S> {
    pub(crate) fn new(service: Arc<HttpService>, inner: S, io: Option<SocketIo>) -> Self {
        service.mark_wrapped();
        Self {
            service,
            inner,
            io,
            any_path: false,
        }
    }
}

impl SocketIoService<NotFound> {
    /// Creates a service for all paths, where a router chooses the requests for the server.
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
            let outer = request.extensions_mut().insert(io.clone());
            if outer.is_some_and(|outer| hides(&outer, io, &request)) {
                self.service.log_same_path();
            }
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
    /// The response future of a [`SocketIoService`].
    pub struct ResponseFuture<F> {
        #[pin]
        kind: Kind<F>,
    }
}

pin_project! {
    /// The response of the inner service, whose future is not boxed, or of the server.
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

/// Returns whether the requests for the path of a server never reach it: another server around it has
/// the same path.
fn hides<B>(outer: &SocketIo, inner: &SocketIo, request: &Request<B>) -> bool {
    let original = request.extensions().get::<OriginalUri>();
    let is_nested = original.is_some_and(|original| original.path() != request.uri().path());
    // In a nested router, the same path is another one.
    !is_nested && outer.has_path_of(inner)
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
