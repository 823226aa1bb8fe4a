//! The server of the targets that send requests.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::response::Response;
use bytes::Bytes;
use http::Request;
use hyper::body::{Body, Frame, Incoming};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tower_service::Service as _;
use tower_socketio::SocketIoLayer;

type Answer = Pin<Box<dyn Future<Output = Response> + Send>>;

/// The layer as a function from requests to responses.
#[derive(Clone)]
pub struct Server(Arc<dyn Fn(Request<RequestBody>) -> Answer + Send + Sync>);

/// The body of a request.
pub enum RequestBody {
    Whole(Option<Bytes>),
    /// A body that arrives in pieces, or fails.
    Pieces(mpsc::UnboundedReceiver<io::Result<Bytes>>),
    /// The body of a request that hyper has read.
    Http(Incoming),
}

impl Server {
    pub fn new(layer: SocketIoLayer) -> Self {
        let service = layer.into_service();
        Self(Arc::new(move |request| {
            let response = service.clone().call(request);
            Box::pin(async move {
                match response.await {
                    Ok(response) => response,
                    Err(never) => match never {},
                }
            })
        }))
    }

    pub fn call(&self, request: Request<RequestBody>) -> Answer {
        (self.0)(request)
    }

    /// Serves an HTTP connection over a stream in memory, and returns the client's end.
    pub fn connect(&self, capacity: usize) -> DuplexStream {
        let (client, server) = tokio::io::duplex(capacity);
        let this = self.clone();
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let response = this.call(request.map(RequestBody::Http));
            async move { Ok::<_, Infallible>(response.await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(hyper_util::rt::TokioIo::new(server), service)
            .with_upgrades();
        tokio::spawn(connection);
        client
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(match self.get_mut() {
            Self::Whole(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Self::Pieces(pieces) => {
                ready!(pieces.poll_recv(cx)).map(|piece| piece.map(Frame::data))
            }
            Self::Http(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                frame.map(|frame| frame.map_err(io::Error::other))
            }
        })
    }
}

/// Runs a future to its end in virtual time: when nothing else is to be done, the clock moves on.
///
/// No task is left when `play` has ended, or it is a leak.
pub fn run(play: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.expect("a runtime").block_on(async {
        play.await;
        // The last tasks end when they see that the server is gone.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let left = tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks();
        assert_eq!(left, 0, "tasks are left");
    });
}
