//! The server, from anywhere in the application.

use std::fmt;
use std::sync::{Arc, Weak};

use axum_core::extract::FromRequestParts;
use http::StatusCode;
use http::request::Parts;

use super::place::Place;
use super::{Broadcast, ClusterError, Socket};
use crate::hub::Hub;
use crate::hub::member::Member;
use crate::hub::registry::Registry;
use crate::protocol::IntoArgs;

/// The server: what an HTTP handler, a timer or a handler of another socket speaks through.
///
/// It is an axum extractor wherever the layer lies around the route.
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
    /// The number of the session whose socket gave it.
    within: Option<u64>,
}

impl SocketIo {
    pub(crate) fn new(hub: &Arc<Hub>) -> Self {
        Self {
            hub: Arc::downgrade(hub),
            within: None,
        }
    }

    pub(crate) fn of_member(member: &Member) -> Self {
        Self {
            hub: member.registry.weak_hub(),
            within: Some(member.link.number),
        }
    }

    /// Everybody in a namespace. It may be one that a path with parameters stands for, as
    /// `/orders/42`; where nobody is, nobody is reached. A slash that is missing in front is
    /// added.
    pub fn of(&self, namespace: &str) -> Broadcast {
        if namespace.starts_with('/') {
            return Broadcast::new(Place::named(&self.hub, namespace));
        }
        Broadcast::new(Place::named(&self.hub, &format!("/{namespace}")))
    }

    /// Everybody in all namespaces whose names are meant, those that clients have named too.
    ///
    /// ```
    /// # fn f(io: tower_socketio::SocketIo) {
    /// io.of_all(|name| name.starts_with("/orders/")).emit("closed", "until Monday");
    /// # }
    /// ```
    pub fn of_all(&self, is_meant: impl Fn(&str) -> bool + Send + Sync + 'static) -> Broadcast {
        let hub = Weak::clone(&self.hub);
        Broadcast::new(Place::Matching(hub, Arc::new(is_meant)))
    }

    /// Those of the main namespace who are in a room.
    pub fn to(&self, room: impl AsRef<str>) -> Broadcast {
        self.of("/").to(room)
    }

    /// Those of the main namespace who are not in a room.
    pub fn except(&self, room: impl AsRef<str>) -> Broadcast {
        self.of("/").except(room)
    }

    /// Sends an event to everybody in the main namespace.
    pub fn emit(&self, event: &str, args: impl IntoArgs) {
        self.of("/").emit(event, args);
    }

    /// The connected sockets of the main namespace.
    #[must_use]
    pub fn sockets(&self) -> Vec<Socket> {
        self.of("/").sockets()
    }

    /// The names of the namespaces: those that were set up, and those of clients that are in one.
    #[must_use]
    pub fn namespaces(&self) -> Vec<String> {
        let Some(hub) = self.hub.upgrade() else {
            return Vec::new();
        };
        let name = |registry: &Arc<Registry>| registry.name.as_str().to_owned();
        let mut names: Vec<_> = hub.namespaces().iter().map(name).collect();
        names.sort_unstable();
        names
    }

    /// How many servers work together, this one too.
    ///
    /// # Errors
    ///
    /// If the others cannot be asked. A server that works by itself never fails: it is one.
    pub async fn server_count(&self) -> Result<usize, ClusterError> {
        Ok(1)
    }

    /// How much there is now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let Some(hub) = self.hub.upgrade() else {
            return Counts::default();
        };
        let namespaces = hub.namespaces();
        let (recoverable, kept_bytes) = hub.kept();
        Counts {
            sessions: hub.sessions.len(),
            sockets: namespaces.iter().map(|each| each.member_count()).sum(),
            rooms: namespaces.iter().map(|each| each.room_count()).sum(),
            namespaces: namespaces.len(),
            recoverable,
            kept_bytes,
        }
    }

    /// Ends the server: no client is taken any more, each that is there is told, disconnect
    /// handlers run, and what was sent before is delivered as far as the clients read it.
    ///
    /// No further event begins. Handlers that run may answer and emit for five seconds; then their
    /// connection closes.
    ///
    /// Ready when the last connection and the last handler have ended. A client that does not
    /// read holds it up for five seconds at most; a handler for as long as it runs.
    ///
    /// A handler may call it, an administrator's event say. Then it does not wait for that handler
    /// and its connection, nor for others whose handlers wait for the same, and is ready when all the
    /// rest has ended. It knows that it is called by a handler if the handler itself awaits it, or if
    /// the handle is the one that the handler was given or [`Socket::io`]. A handler that awaits a
    /// task of its own, which closes the server by a handle from elsewhere, waits for ever.
    ///
    /// An HTTP server that ends gracefully waits for its connections, and those of clients do not
    /// end by themselves. So this is what its signal waits for:
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
    ///         // `tokio::signal::ctrl_c()`, say.
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
    /// Dropping the future stops the waiting, not the end.
    pub async fn close(&self) {
        if let Some(hub) = self.hub.upgrade() {
            hub.namespaces().iter().for_each(|each| each.take_all());
            hub.sessions.close(self.within).await;
        }
    }
}

/// How many of each a server has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Connections.
    pub sessions: usize,
    /// Sockets in all namespaces, those that are still connecting too.
    pub sockets: usize,
    /// Rooms in all namespaces, sockets' own ones aside.
    pub rooms: usize,
    /// Namespaces.
    pub namespaces: usize,
    /// Sockets whose client is away and may come back: see [`Recovery`](crate::Recovery).
    pub recoverable: usize,
    /// The bytes of the packets that are kept for those.
    pub kept_bytes: usize,
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
