//! The handle to the server.

use std::fmt;
use std::sync::{Arc, Weak};

use axum_core::extract::FromRequestParts;
use http::StatusCode;
use http::request::Parts;
use tokio::runtime::Handle;

use super::cluster::REQUEST_TIMEOUT;
use super::scope::Scope;
use super::{Broadcast, EmitError, Partial, RemoteSocket, Shutdown, Socket};
use crate::hub::member::Member;
use crate::hub::namespace::LiveNamespace;
use crate::hub::{ClusterError, Hub};
use crate::protocol::{IntoArgs, NamespaceName};

/// A handle to the server. It sends to clients from anywhere in the application: from an HTTP
/// handler, a background task, or a handler of another socket.
///
/// [`SocketIoBuilder::build`](crate::SocketIoBuilder::build) returns it. It is also an extractor in
/// event handlers, in connect handlers, and in axum handlers of routes that the layer is around.
/// It is cheap to clone.
///
/// A handle does not keep the server alive. The server lives as long as its layer, a service that was
/// made of the layer, or the connection of a client. After that a handle selects no socket, and the
/// operations on a [cluster](crate::cluster) fail with an error that
/// [`is_closed`](ClusterError::is_closed).
///
/// ```
/// use axum::http::StatusCode;
/// use tower_socketio::SocketIo;
///
/// async fn publish(io: SocketIo, body: String) -> StatusCode {
///     io.to("news").emit("news", body);
///     StatusCode::ACCEPTED
/// }
/// ```
#[derive(Clone)]
pub struct SocketIo {
    hub: Weak<Hub>,
    /// The number of the session, if the handle was created from a socket.
    within: Option<u64>,
}

impl SocketIo {
    pub(crate) fn new(hub: &Arc<Hub>) -> Self {
        Self {
            hub: Arc::downgrade(hub),
            within: None,
        }
    }

    pub(crate) fn hub(&self) -> Option<Arc<Hub>> {
        self.hub.upgrade()
    }

    /// Returns whether the handle belongs to another server with the same path.
    pub(crate) fn has_path_of(&self, other: &Self) -> bool {
        if Weak::ptr_eq(&self.hub, &other.hub) {
            return false;
        }
        let (ours, theirs) = (self.hub(), other.hub());
        ours.zip(theirs)
            .is_some_and(|(ours, theirs)| ours.sessions.path == theirs.sessions.path)
    }

    pub(crate) fn of_member(member: &Member) -> Self {
        Self {
            hub: member.namespace.weak_hub(),
            within: Some(member.session.number),
        }
    }

    /// Selects all sockets of a namespace.
    ///
    /// The namespace may be dynamic, as `/orders/42`. If it does not exist, the broadcast reaches
    /// no socket. A missing slash at the beginning of the name is added.
    ///
    /// ```
    /// # fn f(io: tower_socketio::SocketIo) {
    /// io.of("/orders/42").emit("ready", 7);
    /// io.of("/chat").to("lobby").emit("said", "hello");
    /// # }
    /// ```
    pub fn of(&self, namespace: &str) -> Broadcast {
        if namespace.starts_with('/') {
            return Broadcast::new(Scope::named(&self.hub, namespace));
        }
        Broadcast::new(Scope::named(&self.hub, &format!("/{namespace}")))
    }

    /// Selects all sockets of the namespaces whose names match, dynamic ones too.
    ///
    /// Each operation on the broadcast calls `is_meant` with the name of each live namespace.
    ///
    /// ```
    /// # fn f(io: tower_socketio::SocketIo) {
    /// io.of_all(|name| name.starts_with("/orders/")).emit("closed", "until Monday");
    /// # }
    /// ```
    pub fn of_all(&self, is_meant: impl Fn(&str) -> bool + Send + Sync + 'static) -> Broadcast {
        let hub = Weak::clone(&self.hub);
        Broadcast::new(Scope::Matching(hub, Arc::new(is_meant)))
    }

    /// Selects the sockets of the main namespace, `/`, that are in a room.
    ///
    /// A socket in several of the rooms is selected once. The id of a socket is a room with only
    /// that socket in it.
    ///
    /// ```
    /// use tower_socketio::{Args, SocketIo};
    ///
    /// async fn announce(io: SocketIo) {
    ///     io.to("news").emit("news", "it rains");
    ///     io.to("red").to("blue").emit("goal", Args(("red", 1)));
    /// }
    /// ```
    pub fn to(&self, room: impl AsRef<str>) -> Broadcast {
        self.of("/").to(room)
    }

    /// Selects the sockets of the main namespace, `/`, that are not in a room.
    pub fn except(&self, room: impl AsRef<str>) -> Broadcast {
        self.of("/").except(room)
    }

    /// Sends an event to all sockets of the main namespace, `/`. See [`Broadcast::emit`].
    pub fn emit(&self, event: &str, args: impl IntoArgs) {
        self.of("/").emit(event, args);
    }

    /// Returns the connected sockets of the main namespace, `/`.
    #[must_use]
    pub fn sockets(&self) -> Vec<Socket> {
        self.of("/").sockets()
    }

    /// Returns the names of the live namespaces, sorted: of all static ones, and of the dynamic
    /// ones that exist now.
    #[must_use]
    pub fn namespaces(&self) -> Vec<String> {
        let Some(hub) = self.hub.upgrade() else {
            return Vec::new();
        };
        let name = |namespace: &Arc<LiveNamespace>| namespace.name.as_str().to_owned();
        let mut names: Vec<_> = hub.namespaces().iter().map(name).collect();
        names.sort_unstable();
        names
    }

    /// Returns the number of servers in the cluster that have the namespace `/`, including this one.
    /// Without a [cluster](crate::cluster) it is 1.
    ///
    /// # Errors
    ///
    /// Fails if the broker is not connected, or does not answer within 5 seconds.
    pub async fn server_count(&self) -> Result<usize, ClusterError> {
        let hub = self.hub.upgrade().ok_or(ClusterError::CLOSED)?;
        let Some(others) = &hub.others else {
            return Ok(1);
        };
        let count = others.count(&NamespaceName::MAIN);
        let count = tokio::time::timeout(REQUEST_TIMEOUT, count).await;
        count.unwrap_or(Err(ClusterError::TIMEOUT))
    }

    /// Sends an event to the other servers of the cluster, in the main namespace, `/`. See
    /// [`Broadcast::server_side_emit`].
    ///
    /// # Errors
    ///
    /// Fails as [`Broadcast::server_side_emit`] does.
    pub fn server_side_emit(&self, event: &str, args: impl IntoArgs) -> Result<(), EmitError> {
        self.of("/").server_side_emit(event, args)
    }

    /// Returns a snapshot of the sockets of the main namespace, `/`, on all servers of the cluster.
    /// See [`Broadcast::fetch_sockets`].
    ///
    /// # Errors
    ///
    /// Fails as [`Broadcast::fetch_sockets`] does.
    pub async fn fetch_sockets(&self) -> Result<Vec<RemoteSocket>, Partial<Vec<RemoteSocket>>> {
        self.of("/").fetch_sockets().await
    }

    /// Returns the current number of connections, sockets, rooms and namespaces.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let Some(hub) = self.hub.upgrade() else {
            return Counts::default();
        };
        let namespaces = hub.namespaces();
        let (recoverable, recovery_bytes) = hub.recovery_counts();
        Counts {
            sessions: hub.sessions.len(),
            sockets: namespaces.iter().map(|each| each.member_count()).sum(),
            rooms: namespaces.iter().map(|each| each.room_count()).sum(),
            namespaces: namespaces.len(),
            recoverable,
            recovery_bytes,
        }
    }

    /// Returns whether the server refuses new clients, because [`shutdown`](Self::shutdown) or
    /// [`close`](Self::close) has begun. A route that tells a load balancer whether the server is
    /// ready may answer with status 503 then.
    ///
    /// It is `true` too when the server has been dropped.
    ///
    /// ```
    /// use axum::{Router, http::StatusCode, routing::get};
    /// use tower_socketio::{Namespace, SocketIo};
    ///
    /// let (layer, io) = SocketIo::builder().namespace("/", Namespace::new()).build();
    /// let ready = async move || match io.is_closing() {
    ///     true => StatusCode::SERVICE_UNAVAILABLE,
    ///     false => StatusCode::OK,
    /// };
    /// let app: Router = Router::new().route("/ready", get(ready)).layer(layer);
    /// ```
    #[must_use]
    pub fn is_closing(&self) -> bool {
        let hub = self.hub.upgrade();
        hub.is_none_or(|hub| hub.sessions.is_closing())
    }

    /// Shuts the server down, spread over a time, with a deadline and a report. See [`Shutdown`].
    ///
    /// Nothing happens until the result is awaited.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_socketio::SocketIo;
    ///
    /// async fn stop(io: SocketIo) {
    ///     let report = io
    ///         .shutdown()
    ///         .spread(Duration::from_secs(10))
    ///         .deadline(Duration::from_secs(25))
    ///         .await;
    ///     println!("{report}");
    /// }
    /// ```
    pub fn shutdown(&self) -> Shutdown {
        Shutdown::of_server(self.hub(), self.within)
    }

    /// Shuts the server down at once, and waits for all handlers, however long they run.
    ///
    /// [`shutdown`](Self::shutdown) spreads the closing over a time, and has a deadline. During a
    /// shutdown, `close` closes the remaining connections at once, and the deadline stays.
    ///
    /// The server refuses new clients, begins no further event, and closes the connection of each
    /// client. The official clients see `transport close`, and try to connect again by themselves.
    /// Packets that are queued are sent as far as the client reads them. Disconnect handlers run.
    /// Running handlers may answer and emit for 5 seconds. Then their connection closes.
    ///
    /// The future completes when the last connection and the last handler have ended. A client that
    /// does not read delays it by at most 5 seconds, and one that has begun an upgrade by its
    /// [`upgrade_timeout`](crate::SocketIoBuilder::upgrade_timeout) and 5 seconds. A handler delays it
    /// for as long as the handler runs.
    ///
    /// # In a handler
    ///
    /// A handler may call `close`. The future then does not wait for that handler and its
    /// connection, nor for other handlers that wait for `close`. It completes when all others have
    /// ended. The server detects such a call if the handler itself awaits the future, or if the
    /// handle comes from the handler's extractor or from [`Socket::io`]. A handler waits for ever
    /// if it awaits a task that closes the server with another handle.
    ///
    /// # Graceful shutdown
    ///
    /// An HTTP server that shuts down gracefully waits for its connections, and the connections of
    /// clients do not end by themselves. So call `close` before the shutdown signal completes:
    ///
    /// ```
    /// # use axum::Router;
    /// # use tower_socketio::{Namespace, SocketIo};
    /// # let runtime = tokio::runtime::Runtime::new().unwrap();
    /// # runtime.block_on(async {
    /// # let signal = async {};
    /// let (layer, io) = SocketIo::builder().namespace("/", Namespace::new()).build();
    /// let app = Router::new().layer(layer);
    ///
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    /// axum::serve(listener, app)
    ///     .with_graceful_shutdown(async move {
    ///         // For example `tokio::signal::ctrl_c()`.
    ///         signal.await;
    ///         io.close().await;
    ///     })
    ///     .await
    ///     .unwrap();
    /// # });
    /// ```
    ///
    /// # Cancel safety
    ///
    /// The first poll begins the shutdown. Dropping the future afterwards does not stop it.
    pub async fn close(&self) {
        if let Some(hub) = self.hub.upgrade() {
            hub.namespaces().iter().for_each(|each| each.flush());
            let mut rest = RestOfClose(hub.others.is_some().then(|| Arc::clone(&hub)));
            hub.sessions.close(self.within).await;
            leave_cluster(hub).await;
            rest.0 = None;
        }
    }
}

/// Leaves the cluster if the future of [`SocketIo::close`] is dropped: when all handlers have ended.
struct RestOfClose(Option<Arc<Hub>>);

impl Drop for RestOfClose {
    fn drop(&mut self) {
        let (hub, runtime) = (self.0.take(), Handle::try_current());
        if let (Some(hub), Ok(runtime)) = (hub, runtime) {
            runtime.spawn(async move {
                hub.sessions.close(None).await;
                leave_cluster(hub).await;
            });
        }
    }
}

/// Sends what waits for the other servers of a cluster, for a few seconds, and leaves the cluster.
pub(super) async fn leave_cluster(hub: Arc<Hub>) {
    if let Some(others) = &hub.others {
        hub.departed().await;
        others.close().await;
    }
}

/// The current numbers of a server: see [`SocketIo::counts`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// The connections.
    pub sessions: usize,
    /// The sockets in all namespaces, including those that are still connecting.
    pub sockets: usize,
    /// The rooms in all namespaces, except for those that the ids of sockets name.
    pub rooms: usize,
    /// The live namespaces.
    pub namespaces: usize,
    /// The suspended sockets, whose clients may come back: see [`Recovery`](crate::Recovery).
    pub recoverable: usize,
    /// The bytes of the packets that are kept for recovery.
    pub recovery_bytes: usize,
}

/// Returns, for each session of a server, the bytes that are buffered for its client and those that
/// wait for handlers. For the fuzz targets.
#[cfg(feature = "unstable-internals")]
#[must_use]
pub fn held_bytes(io: &SocketIo) -> Vec<(usize, usize)> {
    let sessions = io.hub().map(|hub| hub.sessions.all()).unwrap_or_default();
    let held =
        |session: &crate::engine_io::Session| (session.buffered_bytes(), session.pending_bytes());
    sessions
        .iter()
        .map(|session| session.with_session(|session| held(session)))
        .collect()
}

impl<S: Sync> FromRequestParts<S> for SocketIo {
    type Rejection = (StatusCode, &'static str);

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        parts.extensions.get::<Self>().cloned().ok_or((
            StatusCode::INTERNAL_SERVER_ERROR,
            "the Socket.IO layer is not around this route",
        ))
    }
}

impl fmt::Debug for SocketIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SocketIo").finish_non_exhaustive()
    }
}
