//! Connecting a test client.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::future::IntoFuture;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use axum_core::BoxError;
use axum_core::body::Body;
use axum_core::response::IntoResponse;
use futures_core::future::BoxFuture;
use futures_util::future::{self, Either};
use futures_util::{StreamExt, TryFutureExt};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tower::{Service, ServiceExt};

use super::wire::{self, Reader, Wire};
use super::{Client, Disconnect};
use crate::protocol::{JsonParser, Kind, NamespaceName, Parser, Payload};

/// The options of a client that is about to connect. `.await` connects it.
///
/// [`Client::connect`] returns it.
#[must_use = "it connects when it is awaited"]
pub struct Connect<S> {
    app: S,
    namespace: NamespaceName,
    auth: Payload,
    headers: HeaderMap,
    path: String,
    query: String,
    parser: Arc<dyn Parser>,
    timeout: Duration,
}

/// The capacity of the stream in memory, in each direction, in bytes.
const STREAM: usize = 64 * 1024;

impl<S> Connect<S> {
    pub(super) fn new(app: S, namespace: &str) -> Self {
        Self {
            app,
            namespace: NamespaceName::from(namespace),
            auth: Payload::default(),
            headers: HeaderMap::new(),
            path: "/socket.io/".to_owned(),
            query: String::new(),
            parser: Arc::new(JsonParser::default()),
            timeout: Duration::from_secs(5),
        }
    }

    /// Sets the `auth` of the client, an object.
    ///
    /// Default: none.
    ///
    /// # Panics
    ///
    /// Panics if `auth` cannot be written as JSON.
    #[track_caller]
    pub fn auth(mut self, auth: impl Serialize) -> Self {
        match Payload::object(self.namespace.len(), &auth) {
            Ok(payload) => self.auth = payload,
            Err(error) => panic!("this cannot be sent: {error}"),
        }
        self
    }

    /// Adds a header to the HTTP request.
    ///
    /// # Panics
    ///
    /// Panics if the name or the value is invalid.
    #[track_caller]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name = HeaderName::try_from(name).expect("a valid name of a header");
        let value = HeaderValue::try_from(value).expect("a valid value of a header");
        self.headers.append(name, value);
        self
    }

    /// Sets the path of the server.
    ///
    /// Default: `/socket.io/`.
    pub fn path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    /// Sets additional parameters of the HTTP request's query, such as `token=abc&x=1`.
    ///
    /// Default: none.
    pub fn query(mut self, query: &str) -> Self {
        self.query = format!("&{query}");
        self
    }

    /// Sets the parser. It must be the same as that of the server.
    ///
    /// Default: [`JsonParser`].
    pub fn parser(mut self, parser: impl Parser + 'static) -> Self {
        self.parser = Arc::new(parser);
        self
    }

    /// Sets how long the client waits to be connected, for an acknowledgement, for an expected
    /// event, and for a disconnect.
    ///
    /// Default: 5 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    fn request(&self) -> Result<Request<()>, ConnectError> {
        let (path, query) = (&self.path, &self.query);
        let uri = format!("ws://localhost{path}?EIO=4&transport=websocket{query}");
        let mut request = uri.into_client_request().map_err(ConnectError::lost)?;
        request.headers_mut().extend(self.headers.clone());
        Ok(request)
    }
}

impl<S> IntoFuture for Connect<S>
where
    S: Service<Request<Body>, Response: IntoResponse, Error: Into<BoxError>, Future: Send>,
    S: Clone + Send + 'static,
{
    type Output = Result<Client, ConnectError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            match tokio::time::timeout(self.timeout, connect(self)).await {
                Ok(connected) => connected,
                Err(_) => Err(ConnectError::lost("the server did not answer in time")),
            }
        })
    }
}

impl<S> fmt::Debug for Connect<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

async fn connect<S>(connect: Connect<S>) -> Result<Client, ConnectError>
where
    S: Service<Request<Body>, Response: IntoResponse, Error: Into<BoxError>, Future: Send>,
    S: Clone + Send + 'static,
{
    let request = connect.request()?;
    let stream = serve(connect.app);
    let (websocket, _) = tokio_tungstenite::client_async(request, stream)
        .await
        .map_err(ConnectError::from_websocket)?;
    let (sink, stream) = websocket.split();

    let wire = Arc::new(Wire::new(connect.namespace, connect.parser));
    let (outgoing, to_send) = mpsc::unbounded_channel();
    let mut reader = Reader::new(stream, outgoing.downgrade(), &wire);
    // The server accepts a CONNECT before the client has read the open packet.
    let _ = outgoing.send(wire.encode(Kind::Connect, None, connect.auth));
    let mut writing = Box::pin(wire::write(sink, to_send));
    let answer = match future::select(pin!(reader.next()), &mut writing).await {
        Either::Left((packet, _)) => packet?,
        Either::Right(((), reading)) => reading.await?,
    };
    let connected = match answer.kind {
        Kind::Connect => answer.payload.read_object::<ConnectPayload>(),
        Kind::ConnectError => return Err(ConnectError::refused(&answer.payload)),
        _ => return Err(ConnectError::lost("the server did not answer the connect")),
    };
    let id = connected.map_err(ConnectError::lost)?.sid;
    let (events, incoming) = mpsc::unbounded_channel();
    Ok(Client {
        id,
        wire,
        outgoing,
        incoming,
        kept: VecDeque::new(),
        disconnect: None,
        next_ack: AtomicU64::new(0),
        timeout: connect.timeout,
        task: tokio::spawn(wire::run(reader, writing, events)),
    })
}

/// The payload of the CONNECT packet that the server answers with.
#[derive(Deserialize)]
struct ConnectPayload {
    sid: String,
}

/// Serves an app on a stream in memory, and returns the other end of the stream.
fn serve<S>(app: S) -> DuplexStream
where
    S: Service<Request<Body>, Response: IntoResponse, Error: Into<BoxError>, Future: Send>,
    S: Clone + Send + 'static,
{
    let (client, server) = tokio::io::duplex(STREAM);
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let response = app.clone().oneshot(request.map(Body::new));
        response.map_ok(IntoResponse::into_response)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(server), service)
        .with_upgrades();
    tokio::spawn(connection);
    client
}

/// An error of a client that could not connect.
#[derive(Debug)]
pub struct ConnectError {
    message: String,
    data: Option<serde_json::Value>,
    status: Option<StatusCode>,
}

impl ConnectError {
    fn refused(payload: &Payload) -> Self {
        #[derive(Default, Deserialize)]
        struct Refusal {
            message: String,
            data: Option<serde_json::Value>,
        }

        let Refusal { message, data } = payload.read_object().unwrap_or_default();
        Self {
            message,
            data,
            status: None,
        }
    }

    fn lost(error: impl fmt::Display) -> Self {
        Self {
            message: error.to_string(),
            data: None,
            status: None,
        }
    }

    /// Returns the message of the refusal, or else the body of the HTTP response, or else the
    /// reason why the connection ended.
    ///
    /// The message of a refusal is that of a `connect_error` of the official client.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the data of the refusal. Returns `None` if there are none, or if they are not a `T`.
    #[must_use]
    pub fn data<T: DeserializeOwned>(&self) -> Option<T> {
        T::deserialize(self.data.as_ref()?).ok()
    }

    /// Returns the status of the HTTP response, if the response did not open a WebSocket.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        self.status
    }
}

impl ConnectError {
    // Not `From`, which would make tungstenite a part of the public interface.
    fn from_websocket(error: tungstenite::Error) -> Self {
        let tungstenite::Error::Http(response) = error else {
            return Self::lost(error);
        };
        let body = response.body().as_deref().unwrap_or_default();
        Self {
            message: String::from_utf8_lossy(body).into_owned(),
            data: None,
            status: Some(response.status()),
        }
    }
}

impl From<Disconnect> for ConnectError {
    fn from(disconnect: Disconnect) -> Self {
        match disconnect {
            Disconnect::Closed { reason, .. } if !reason.is_empty() => Self::lost(reason),
            _ => Self::lost("the server closed the connection"),
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for ConnectError {}
