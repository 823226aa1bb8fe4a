//! The shutdown of a server.

use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;

use super::io::leave_cluster;
use crate::hub::sessions::Sessions;
use crate::hub::{Hub, ShutdownReport};

/// The shutdown of a server, with its settings. `.await` begins it, and returns a
/// [`ShutdownReport`].
///
/// 1. The server refuses new clients at once: a handshake gets status 503 with `Retry-After: 1`, in
///    seconds.
///    Clients that are connected go on. They send and receive, join namespaces, and upgrade to
///    WebSocket.
/// 2. The server closes their connections, one after another, evenly over the
///    [`spread`](Self::spread), in a random order. So they do not all connect to the other servers
///    in the same moment.
/// 3. A connection closes as in [`SocketIo::close`](crate::SocketIo::close): no further event
///    begins, and packets that are queued are sent. A handler that runs may emit and answer until it
///    ends; its connection stays open until then. Disconnect handlers run, with
///    [`ServerShuttingDown`](crate::DisconnectReason::ServerShuttingDown).
/// 4. At the [`deadline`](Self::deadline), the remaining connections are cut: the handlers are dropped where they
///    await, the connections are closed, and the disconnect handlers run, for up to one second. Then
///    they are dropped too. So a value that has to be cleaned up whatever happens needs a guard that
///    does it when it is dropped.
/// 5. With a [cluster](crate::cluster), messages that wait are sent, for a few seconds, and the other
///    servers no longer count this one.
///
/// The clients see a lost connection, `transport close`, and the official ones connect again by
/// themselves. In a cluster with a log, their sockets are
/// recoverable on the other servers: see [`Recovery`](crate::Recovery).
///
/// # Graceful shutdown of the HTTP server
///
/// An HTTP server that shuts down gracefully waits for its connections. So await the shutdown before
/// its signal completes. Other routes are served until then.
///
/// ```no_run
/// use axum::Router;
/// use tower_socketio::{Namespace, SocketIo};
///
/// #[tokio::main]
/// async fn main() {
///     let (layer, io) = SocketIo::builder().namespace("/", Namespace::new()).build();
///     let app = Router::new().layer(layer);
///
///     let listener = tokio::net::TcpListener::bind("0.0.0.0:3000").await.unwrap();
///     axum::serve(listener, app)
///         .with_graceful_shutdown(async move {
///             tokio::signal::ctrl_c().await.unwrap();
///             println!("{}", io.shutdown().await);
///         })
///         .await
///         .unwrap();
/// }
/// ```
///
/// # Calling it again
///
/// A server shuts down once. A further call waits for the same report. It can only hurry the
/// shutdown: if its spread or its deadline ends earlier, that counts. So does a call of
/// [`SocketIo::close`](crate::SocketIo::close), which closes the remaining connections at once, and waits for
/// handlers up to the deadline of the shutdown.
///
/// # In a handler
///
/// A handler may await the shutdown, as it may await [`close`](crate::SocketIo::close). The report
/// is there when all other sessions have ended, and counts the session of the handler as closed. The
/// handler then has until the deadline, and at least one second. Then it is cut too.
///
/// # Panics
///
/// The first poll panics outside of a tokio runtime.
///
/// # Cancel safety
///
/// The first poll begins the shutdown, in a task of its own, in the runtime of the caller. Dropping
/// the future afterwards does not stop it, and a further call returns its report. If that runtime
/// ends before the shutdown, a call in another runtime begins it anew.
#[must_use = "the server does not shut down unless this is awaited"]
pub struct Shutdown {
    target: Target,
    spread: Duration,
    deadline: Duration,
}

enum Target {
    /// The server has been dropped.
    None,
    Sessions(Arc<Sessions>),
    /// A server, and the number of the session whose handler shuts it down.
    Server(Arc<Hub>, Option<u64>),
}

impl Shutdown {
    pub(crate) fn of_sessions(sessions: Arc<Sessions>) -> Self {
        Self::new(Target::Sessions(sessions))
    }

    pub(super) fn of_server(hub: Option<Arc<Hub>>, within: Option<u64>) -> Self {
        Self::new(hub.map_or(Target::None, |hub| Target::Server(hub, within)))
    }

    fn new(target: Target) -> Self {
        Self {
            target,
            spread: SPREAD,
            deadline: DEADLINE,
        }
    }

    /// Sets the time over which the connections are closed.
    ///
    /// A longer spread means fewer new connections per second for the other servers, and a server
    /// that takes longer to end. [`Duration::ZERO`] closes all at once. A spread of more than half
    /// of the [`deadline`](Self::deadline) is shortened to that half, so that the last clients have
    /// time for their close.
    ///
    /// Default: 5 s.
    pub fn spread(mut self, spread: Duration) -> Self {
        self.spread = spread;
        self
    }

    /// Sets the time after which the remaining connections are cut, counted from the
    /// beginning of the shutdown.
    ///
    /// The default leaves a margin within the 30 s after which Kubernetes kills a process.
    /// Disconnect handlers of sockets that are cut take up to one second more. A handler that blocks
    /// its thread cannot be cut, and is not counted in
    /// [`handlers_cut`](ShutdownReport::handlers_cut): the shutdown ends two seconds after the
    /// deadline without it. With a [cluster](crate::cluster), the messages that wait take up to 6 s
    /// more.
    /// [`Duration::MAX`] waits for ever.
    ///
    /// Default: 20 s.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }
}

impl IntoFuture for Shutdown {
    type Output = ShutdownReport;
    type IntoFuture = BoxFuture<'static, ShutdownReport>;

    fn into_future(self) -> Self::IntoFuture {
        let (spread, deadline) = (self.spread, self.deadline);
        match self.target {
            Target::None => Box::pin(std::future::ready(ShutdownReport::default())),
            Target::Sessions(sessions) => Box::pin(async move {
                let finish = || std::future::ready(());
                sessions
                    .shut_down(None, spread, deadline, finish, || {})
                    .await
            }),
            Target::Server(hub, within) => Box::pin(async move {
                let sessions = Arc::clone(&hub.sessions);
                let finish = || leave_cluster(Arc::clone(&hub));
                // It begins at once, and nobody waits for it.
                let leave = || drop(hub.others.as_ref().map(|others| others.close()));
                sessions
                    .shut_down(within, spread, deadline, finish, leave)
                    .await
            }),
        }
    }
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shutdown")
            .field("spread", &self.spread)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

const SPREAD: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_secs(20);
