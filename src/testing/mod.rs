//! A client for tests, without a network, and [tests of a broker](conformance). Needs the feature
//! `testing`.
//!
//! The client speaks to an app as an official client does over WebSocket: the HTTP upgrade, the
//! handshake, pings and pongs, and acknowledgements in both directions. They are connected by a
//! stream in memory and not by a network socket. So tests need no port, and virtual time
//! (`tokio::time::pause`) works.
//!
//! ```
//! use axum::Router;
//! use tower_socketio::testing::Client;
//! use tower_socketio::{Data, Namespace, Socket, SocketIo};
//!
//! fn app() -> Router {
//!     let namespace = Namespace::new().on("double", double).on("say", say);
//!     let (layer, _io) = SocketIo::builder().namespace("/", namespace).build();
//!     Router::new().layer(layer)
//! }
//!
//! async fn double(Data(n): Data<u32>) -> u32 {
//!     2 * n
//! }
//!
//! async fn say(socket: Socket, Data(text): Data<String>) {
//!     socket.broadcast().emit("said", text);
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! // In a function with `#[tokio::test]`:
//! let app = app();
//! let client = Client::connect(&app, "/").await.unwrap();
//! let n: u32 = client.emit_with_ack("double", 21).await.unwrap();
//! assert_eq!(n, 42);
//!
//! let mut other = Client::connect(&app, "/").await.unwrap();
//! client.emit("say", "hello");
//! assert_eq!(other.expect("said").await.data::<String>(), "hello");
//! # }
//! ```

mod conformance;
mod connect;
mod wire;

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_core::future::BoxFuture;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use self::conformance::conformance;
pub use self::connect::{Connect, ConnectError};
use self::wire::{Outgoing, Wire};
use crate::handles::AckError;
use crate::protocol::{IntoArgs, Kind, Payload};

/// A client in one namespace of an app.
///
/// Its methods wait for at most 5 seconds, so that a test fails and does not hang: see
/// [`Connect::timeout`]. Only [`recv`](Self::recv) and [`disconnect`](Self::disconnect) have no timeout.
/// Dropping the client closes its connection.
pub struct Client {
    id: String,
    wire: Arc<Wire>,
    outgoing: mpsc::UnboundedSender<Outgoing>,
    incoming: mpsc::UnboundedReceiver<Incoming>,
    /// The events that were received while another event was expected.
    kept: VecDeque<Received>,
    disconnect: Option<Disconnect>,
    next_ack: AtomicU64,
    timeout: Duration,
    task: JoinHandle<()>,
}

enum Incoming {
    Event(Received),
    /// The last item.
    Disconnect(Disconnect),
}

/// The reason why a client is no longer connected.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Disconnect {
    /// The server disconnected the socket from the namespace.
    ByServer,
    /// The connection was closed.
    Closed {
        /// The code of the close frame, if there was one.
        code: Option<u16>,
        /// The reason of the close frame, or the error of the connection. It may be empty.
        reason: String,
    },
}

impl Client {
    /// Connects to a namespace of an app, which is an axum `Router` or any Tower service that
    /// serves HTTP requests.
    ///
    /// Set options such as [`auth`](Connect::auth) on the returned [`Connect`], and then `.await`
    /// it.
    ///
    /// ```
    /// # use axum::Router;
    /// # use tower_socketio::testing::{Client, ConnectError};
    /// # async fn test(app: Router) -> Result<(), ConnectError> {
    /// let client = Client::connect(&app, "/").await?;
    /// let admin = Client::connect(&app, "/admin")
    ///     .auth(serde_json::json!({ "token": "secret" }))
    ///     .header("accept-language", "de")
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn connect<S: Clone>(app: &S, namespace: &str) -> Connect<S> {
        Connect::new(app.clone(), namespace)
    }

    /// Returns the id of the socket. It is the [`Socket::id`](crate::Socket::id) of the server.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Sends an event. Events are sent in the order of the calls.
    ///
    /// # Panics
    ///
    /// Panics if the arguments cannot be written as JSON, or if the name of the event is reserved.
    #[track_caller]
    pub fn emit(&self, event: &str, args: impl IntoArgs) {
        self.send(Kind::Event, None, self.event(event, args));
    }

    /// Sends an event that asks for an acknowledgement.
    ///
    /// The event is sent at once. `.await` waits for the acknowledgement and returns its first
    /// argument.
    ///
    /// # Errors
    ///
    /// Returns an error if the acknowledgement does not arrive in time, if the client is no longer
    /// connected, or if the argument is not a `T`. A handler that fails answers with an object:
    /// `{ "error": … }`.
    ///
    /// # Panics
    ///
    /// Panics if the arguments cannot be written as JSON, or if the name of the event is reserved.
    #[track_caller]
    pub fn emit_with_ack<T: DeserializeOwned + 'static>(
        &self,
        event: &str,
        args: impl IntoArgs,
    ) -> BoxFuture<'static, Result<T, AckError>> {
        let ack = self.next_ack.fetch_add(1, Ordering::Relaxed);
        let answer = self.wire.expect_ack(ack);
        self.send(Kind::Event, Some(ack), self.event(event, args));
        let timeout = self.timeout;
        Box::pin(async move {
            match tokio::time::timeout(timeout, answer).await {
                Ok(Ok(mut payload)) => payload.read_one().map_err(AckError::read),
                Ok(Err(_)) => Err(AckError::disconnected()),
                Err(_) => Err(AckError::timed_out()),
            }
        })
    }

    /// Waits for the next event, without a timeout. Returns `None` when the client is no longer
    /// connected.
    ///
    /// # Cancel safety
    ///
    /// This is cancel safe. Dropping the future loses no event.
    pub async fn recv(&mut self) -> Option<Received> {
        if let Some(kept) = self.kept.pop_front() {
            return Some(kept);
        }
        self.next().await
    }

    /// Waits for the next event of a name. Other events that arrive before it are kept for later
    /// calls.
    ///
    /// # Panics
    ///
    /// Panics if the event does not arrive in time, or if the client is no longer connected.
    #[track_caller]
    pub fn expect<'a>(&'a mut self, event: &'a str) -> impl Future<Output = Received> + Send + 'a {
        let caller = std::panic::Location::caller();
        let timeout = self.timeout;
        async move {
            match tokio::time::timeout(timeout, self.find(event)).await {
                Ok(Some(received)) => received,
                Ok(None) => panic!(
                    "event `{event}`, expected at {caller}, did not come before {:?}; {self:?}",
                    self.disconnect
                ),
                Err(_) => panic!("event `{event}`, expected at {caller}, did not come; {self:?}"),
            }
        }
    }

    async fn find(&mut self, event: &str) -> Option<Received> {
        if let Some(at) = self.kept.iter().position(|kept| kept.name() == event) {
            return self.kept.remove(at);
        }
        loop {
            let received = self.next().await?;
            if received.name() == event {
                return Some(received);
            }
            self.kept.push_back(received);
        }
    }

    async fn next(&mut self) -> Option<Received> {
        if self.disconnect.is_some() {
            return None;
        }
        match self.incoming.recv().await? {
            Incoming::Event(received) => Some(received),
            Incoming::Disconnect(disconnect) => {
                self.disconnect = Some(disconnect);
                None
            }
        }
    }

    /// Waits until the server closes the connection or disconnects the socket from the namespace,
    /// and returns which of the two happened. Events that arrive before are kept for later calls.
    ///
    /// # Panics
    ///
    /// Panics if the client is still connected after the timeout.
    #[track_caller]
    pub fn disconnected(&mut self) -> impl Future<Output = Disconnect> + Send + '_ {
        let caller = std::panic::Location::caller();
        let timeout = self.timeout;
        async move {
            let end = async {
                while let Some(received) = self.next().await {
                    self.kept.push_back(received);
                }
            };
            let ended = tokio::time::timeout(timeout, end).await;
            assert!(ended.is_ok(), "still connected at {caller}");
            let lost = || Disconnect::Closed {
                code: None,
                reason: String::new(),
            };
            self.disconnect.clone().unwrap_or_else(lost)
        }
    }

    /// Leaves the namespace and closes the connection. Completes when the server has closed the
    /// connection too.
    pub async fn disconnect(self) {
        self.send(Kind::Disconnect, None, Payload::default());
        let Self { outgoing, task, .. } = self;
        drop(outgoing);
        let _ = task.await;
    }

    #[track_caller]
    fn event(&self, event: &str, args: impl IntoArgs) -> Payload {
        match Payload::event(event, self.wire.namespace.len(), args) {
            Ok(payload) => payload,
            Err(error) => panic!("event `{event}` cannot be sent: {error}"),
        }
    }

    fn send(&self, kind: Kind, ack: Option<u64>, payload: Payload) {
        let packet = self.wire.encode(kind, ack, payload);
        // If the connection has ended, the receiving methods report it.
        let _ = self.outgoing.send(packet);
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("id", &self.id)
            .field("namespace", &self.wire.namespace)
            .field("kept", &self.kept)
            .finish_non_exhaustive()
    }
}

/// An event that the server sent to a [`Client`].
pub struct Received {
    payload: Payload,
    ack: Option<u64>,
    wire: Arc<Wire>,
    outgoing: mpsc::WeakUnboundedSender<Outgoing>,
}

impl Received {
    /// Returns the name of the event.
    #[must_use]
    pub fn name(&self) -> &str {
        self.payload.name().unwrap_or_default()
    }

    /// Returns the first argument.
    ///
    /// # Panics
    ///
    /// Panics if the argument is not a `T`.
    #[track_caller]
    pub fn data<T: DeserializeOwned>(&mut self) -> T {
        let read = self.payload.read_one();
        read.unwrap_or_else(|error| panic!("{self:?}: {error}"))
    }

    /// Returns all arguments, as a tuple, an array or a list.
    ///
    /// # Panics
    ///
    /// Panics if the arguments are not a `T`.
    #[track_caller]
    pub fn args<T: DeserializeOwned>(&mut self) -> T {
        let read = self.payload.read_all();
        read.unwrap_or_else(|error| panic!("{self:?}: {error}"))
    }

    /// Returns whether the server asks for an acknowledgement.
    #[must_use]
    pub fn wants_ack(&self) -> bool {
        self.ack.is_some()
    }

    /// Sends the acknowledgement.
    ///
    /// # Panics
    ///
    /// Panics if the server does not ask for an acknowledgement, or if the arguments cannot be
    /// written as JSON.
    #[track_caller]
    pub fn ack(self, args: impl IntoArgs) {
        let Some(ack) = self.ack else {
            panic!("{self:?} asks for no acknowledgement");
        };
        match Payload::args(self.wire.namespace.len(), args) {
            Ok(payload) => {
                let packet = self.wire.encode(Kind::Ack, Some(ack), payload);
                // If the client has been dropped, the connection is closed.
                let _ = self.outgoing.upgrade().map(|sender| sender.send(packet));
            }
            Err(error) => panic!("{self:?} cannot be answered: {error}"),
        }
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = String::from_utf8_lossy(self.payload.json());
        write!(f, "event {json}")
    }
}
