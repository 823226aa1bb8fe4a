//! Who is in a room.
//!
//! ```text
//!   track, update, untrack ──┐                                 ┌──▶ presence_state to the socket
//!   a room is left ──────────┤                                 │
//!   a socket leaves ─────────┼──▶ Replica ──▶ Outbox, in order ┼──▶ presence_diff to the room
//!   a socket is restored ────┤                                 │
//!   other servers ───────────┘                                 └──▶ messages to other servers
//! ```
//!
//! | file | |
//! |---|---|
//! | [`replica`] | who is in the rooms of one namespace, on all servers; pure |
//! | [`meta`] | the metadata of an entry |
//! | [`live`] | joins the replicas with the server, its sockets and its cluster |
//! | [`events`] | the events that clients get |
//! | [`error`] | why a socket is not tracked |

mod error;
mod events;
mod live;
mod meta;
mod replica;

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::error::PresenceError;
pub use self::events::{PresenceDiff, PresenceState};
use self::live::{Live, Options};
use crate::handles::Socket;
use crate::protocol::TypedEvent;
use crate::routing::Namespace;

/// Who is in a room: one entry for each user, however many tabs are open.
///
/// `User` is what the clients learn of a user, the metadata. A handler [tracks](Self::track) a socket in a
/// room under a key, such as the user's id. The clients in the room get events: first everybody who is
/// there, then each difference. The tracking ends when the socket leaves the room, or its namespace.
///
/// ```
/// use axum::extract::State;
/// use serde::{Deserialize, Serialize};
/// use tower_socketio::{Args, Namespace, Presence, PresenceError, Socket, SocketIo};
///
/// #[derive(Clone, Serialize, Deserialize)]
/// struct User {
///     name: String,
/// }
///
/// // `socket.emitWithAck("enter", "lobby", "Ada")`
/// async fn enter(
///     socket: Socket,
///     State(presence): State<Presence<User>>,
///     Args((room, name)): Args<(String, String)>,
/// ) -> Result<(), PresenceError> {
///     presence.track(&socket, &room, &name.to_lowercase(), &User { name })
/// }
///
/// let presence = Presence::<User>::new();
/// let chat = Namespace::new().on("enter", enter).presence(&presence);
/// let (layer, io) = SocketIo::builder()
///     .namespace("/", chat)
///     .with_state(presence)
///     .build();
/// ```
///
/// # In the browser
///
/// ```js
/// const rooms = new Map();
/// socket.on("presence_state", ({ room, users }) => {
///   rooms.set(room, new Map(Object.entries(users))); // "ada" → [{ name: "Ada" }]
/// });
/// socket.on("presence_diff", ({ room, joins, updates, leaves }) => {
///   const present = rooms.get(room);
///   if (!present) return;
///   for (const key in leaves) present.delete(key);
///   for (const [key, metas] of Object.entries({ ...joins, ...updates })) present.set(key, metas);
/// });
/// ```
///
/// A `Map` takes any key: a plain object would not take `__proto__`, which a user may choose as a name.
///
/// Each key has a list: the metadata of all its sockets, equal ones once. Usually it is one value. Two
/// tabs with different metadata, such as a status, make two; their order is the same for all clients. So a
/// second tab of a user makes no event if its metadata is equal, and only the last tab that closes makes
/// the user leave.
///
/// [`PresenceState`] and [`PresenceDiff`] are the types of the events. A client that applies both as above
/// has what [`list`](Self::list) returns, once the events have arrived.
///
/// # Lost connections
///
/// A client that leaves, or that the server disconnects, is removed at once. If a connection breaks,
/// which is also what happens when a page is reloaded, the entry stays for the [grace](Self::grace), 5
/// seconds by default. If the client connects again in that time, or the user's next socket is tracked,
/// the others see nothing.
///
/// With [`Recovery`](crate::Recovery) a client may come back after the grace. It is then tracked again, in
/// the same rooms, and gets `presence_state` for each of them. This also holds on another server, and
/// after the first one was shut down or has crashed: the others keep its entries as long as a client can
/// come back, up to 16 MiB in each namespace. A server that starts after the crash does not know them, so
/// the connect handler should track the socket again. Tracking twice is harmless. Do not set
/// [`skip_connect_handler`](crate::Recovery::skip_connect_handler).
///
/// # Several servers
///
/// In a [cluster](crate::cluster) the entries of all servers count, with any broker. Each server says every
/// 2 seconds that it is there, and servers that have missed a change ask for the state. If a server crashes
/// or is cut off, its entries leave after 15 seconds; if it was only cut off, they come back. While this
/// server itself has no connection to the broker, it keeps the entries that it has. Node's servers in the
/// same cluster ignore the messages. Their clients are neither counted nor notified.
///
/// # Limits
///
/// An entry counts in [`max_kept`](crate::SocketIoBuilder::max_kept), 512 KiB for all that the server keeps
/// for a connection: its metadata, its names, and 512 bytes. Each tracked room also counts in
/// [`max_rooms`](crate::SocketIoBuilder::max_rooms). The entries that stay after their connections are
/// limited to 16 MiB in each namespace; above it, an entry leaves without grace.
///
/// `presence_state` has all users of the room, so a room of many thousands costs much when all of them join
/// at once. It may have a quarter of [`max_buffered`](crate::SocketIoBuilder::max_buffered), 1 MiB by
/// default: beyond that, `track` and `update` fail, and the client is in the room without being shown.
/// Limit the length of names that clients choose. Clients get at most 64 different metadata of one key, the same ones on all servers.
///
/// In a cluster each namespace with entries costs one message every 2 seconds: 10 000 dynamic namespaces
/// cost 5 000 messages a second.
pub struct Presence<User> {
    live: Arc<Live>,
    user: PhantomData<fn() -> User>,
}

impl<User> Presence<User> {
    /// Creates a presence without entries. It is one handle, cheap to clone, for all namespaces of one
    /// server that [have it](Namespace::presence).
    #[must_use]
    #[allow(clippy::new_without_default, reason = "it is set up, not filled in")]
    pub fn new() -> Self {
        Self::with(Options {
            state_event: PresenceState::<()>::NAME.into(),
            diff_event: PresenceDiff::<()>::NAME.into(),
            grace: Duration::from_secs(5),
        })
    }

    fn with(options: Options) -> Self {
        Self {
            live: Live::new(options),
            user: PhantomData,
        }
    }

    /// Sets the names of the two events. A namespace with two presences needs other names for the second.
    /// All servers of a cluster need the same.
    ///
    /// Default: `presence_state` and `presence_diff`.
    ///
    /// # Panics
    ///
    /// Panics if the names are equal or reserved, or if the presence was cloned or added to a namespace
    /// before.
    #[must_use]
    #[track_caller]
    pub fn events(self, state: &str, diff: &str) -> Self {
        assert!(
            state != diff,
            "the two events of a presence need different names"
        );
        for name in [state, diff] {
            assert!(
                crate::protocol::Payload::event(name, 0, ()).is_ok(),
                "the event name `{name}` is reserved"
            );
        }
        let mut options = self.options();
        options.state_event = state.into();
        options.diff_event = diff.into();
        Self::with(options)
    }

    /// Sets how long an entry stays after its connection was lost. A shorter time shows sooner who has
    /// closed the page; a longer one hides reloads and bad networks.
    ///
    /// [`Duration::ZERO`] removes an entry as soon as the connection is lost. [`Duration::MAX`] keeps it
    /// until 16 MiB of such entries are kept in the namespace.
    ///
    /// Default: 5 seconds.
    ///
    /// # Panics
    ///
    /// Panics if the presence was cloned or added to a namespace before.
    #[must_use]
    #[track_caller]
    pub fn grace(self, grace: Duration) -> Self {
        let mut options = self.options();
        options.grace = grace;
        Self::with(options)
    }

    #[track_caller]
    fn options(&self) -> Options {
        assert!(
            Arc::strong_count(&self.live) == 1,
            "the options of a presence are set before it is cloned or added to a namespace"
        );
        self.live.options.clone()
    }

    /// Ends the tracking of a socket in a room. The socket stays in the room, and still gets the
    /// differences. This does nothing if the socket is not tracked there.
    ///
    /// [`Socket::leave`] ends both.
    pub fn untrack(&self, socket: &Socket, room: impl AsRef<str>) {
        self.live.untrack(&socket.member, room.as_ref());
    }
}

impl<User: Serialize> Presence<User> {
    /// Joins a room, if the socket is not in it, and tracks the socket there under a key.
    ///
    /// The socket first gets `presence_state` with everybody in the room, itself too. The others in the
    /// room get `presence_diff` if the key or its metadata is new. If the socket is tracked in the room
    /// already, the key and the metadata replace the former ones, and it gets `presence_state` again, also
    /// if nothing has changed.
    ///
    /// Clients see the key and the metadata: neither must be a secret.
    ///
    /// This never waits. In a connect handler the events are sent after the handler has accepted the
    /// client.
    ///
    /// # Errors
    ///
    /// Fails if the socket has left or cannot join the room, if the metadata cannot be written as JSON, or
    /// if the connection would keep too much: see [`PresenceError`]. A socket that has joined the room
    /// stays in it, and gets `presence_state`.
    ///
    /// # Panics
    ///
    /// Panics if the socket's namespace does not [have](Namespace::presence) this presence.
    #[track_caller]
    pub fn track(
        &self,
        socket: &Socket,
        room: impl AsRef<str>,
        key: impl AsRef<str>,
        user: &User,
    ) -> Result<(), PresenceError> {
        let (room, key) = (room.as_ref(), key.as_ref());
        self.live.expect(&socket.member);
        self.live.track(&socket.member, room, key, user)
    }

    /// Replaces the metadata of a tracked socket. Everybody in the room gets `presence_diff` if it has
    /// changed, this socket too.
    ///
    /// ```
    /// use axum::extract::State;
    /// use serde::{Deserialize, Serialize};
    /// use tower_socketio::{Args, Namespace, Presence, PresenceError, Socket};
    ///
    /// #[derive(Clone, Serialize, Deserialize)]
    /// struct Status {
    ///     is_away: bool,
    /// }
    ///
    /// // `socket.emit("away", "lobby", true)`
    /// async fn away(
    ///     socket: Socket,
    ///     State(presence): State<Presence<Status>>,
    ///     Args((room, is_away)): Args<(String, bool)>,
    /// ) -> Result<(), PresenceError> {
    ///     presence.update(&socket, room, &Status { is_away })
    /// }
    ///
    /// let namespace = Namespace::<Presence<Status>>::new().on("away", away);
    /// ```
    ///
    /// # Errors
    ///
    /// Fails if the socket is not tracked in the room, if the metadata cannot be written as JSON, or if the
    /// connection would keep too much. The former metadata then stays.
    pub fn update(
        &self,
        socket: &Socket,
        room: impl AsRef<str>,
        user: &User,
    ) -> Result<(), PresenceError> {
        self.live.update(&socket.member, room.as_ref(), user)
    }
}

impl<User: DeserializeOwned> Presence<User> {
    /// Returns the users in a room of the main namespace, `/`, on all servers: their keys, each with its
    /// metadata.
    ///
    /// Metadata that is not a `User`, which servers with another version of the type have sent, is left
    /// out, and logged at `debug`.
    #[must_use]
    pub fn list(&self, room: impl AsRef<str>) -> BTreeMap<String, Vec<User>> {
        self.list_in("/", room)
    }

    /// Returns the users in a room of a namespace. See [`list`](Self::list). The name of the namespace
    /// begins with a slash.
    ///
    /// A server knows the users of a dynamic namespace while one of its own clients is in that namespace.
    #[must_use]
    pub fn list_in(&self, namespace: &str, room: impl AsRef<str>) -> BTreeMap<String, Vec<User>> {
        let room = room.as_ref();
        let mut users = BTreeMap::new();
        for (key, metas) in self.live.users(namespace, room) {
            let read = metas.iter().filter_map(|meta| {
                let log = |error: &serde_json::Error| {
                    tracing::debug!(room, %error, "metadata of a presence is of another type");
                };
                meta.read().inspect_err(log).ok()
            });
            users.insert(key.into(), read.collect());
        }
        users
    }
}

impl<S: Clone + Send + Sync + 'static> Namespace<S> {
    /// Adds a [`Presence`]: its sockets can be tracked.
    ///
    /// # Panics
    ///
    /// Panics if the namespace has a presence with the same [events](Presence::events).
    #[track_caller]
    pub fn presence<User>(self, presence: &Presence<User>) -> Self {
        let live = &presence.live;
        self.with_tracker(
            Arc::<Live>::clone(live),
            &live.server_event,
            live.server_event_handler(),
        )
    }
}

impl<User> Clone for Presence<User> {
    fn clone(&self) -> Self {
        Self {
            live: Arc::clone(&self.live),
            user: PhantomData,
        }
    }
}

impl<User> fmt::Debug for Presence<User> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presence")
            .field("options", &self.live.options)
            .finish_non_exhaustive()
    }
}
