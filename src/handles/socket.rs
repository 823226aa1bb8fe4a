//! The handle to a socket.

use std::fmt;
use std::sync::Arc;

use http::request::Parts;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{EmitWithAck, SocketIo};
use crate::engine_io::{SocketId, Transport};
use crate::hub::member::Member;
use crate::hub::other_servers::SocketDescription;
use crate::hub::{ClusterError, DisconnectReason};
use crate::notice::Notices;
use crate::protocol::{EncodeError, IntoArgs, Payload, TypedArgs, TypedEvent};

/// A handle to one client in one namespace.
///
/// It is an extractor in every handler. It is cheap to clone, and may be kept after the handler has
/// ended. When the client has left, [`emit`](Self::emit) and the other operations do nothing.
///
/// ```
/// use tower_socketio::{Data, Namespace, Socket};
///
/// async fn message(socket: Socket, Data(text): Data<String>) {
///     socket.emit("message", text);
/// }
///
/// let namespace: Namespace = Namespace::new().on("message", message);
/// ```
#[derive(Clone)]
pub struct Socket {
    pub(crate) member: Arc<Member>,
}

impl Socket {
    pub(crate) fn new(member: Arc<Member>) -> Self {
        Self { member }
    }

    /// Returns the public id of the socket. It is new for each connection to a namespace, unless the
    /// socket was [restored](Self::recovered).
    ///
    /// The id is also the name of a room with only this socket in it. It is never the secret id of
    /// the session. A client of Socket.IO 2 derives the id from that of its session: the id of its socket in
    /// `/` is the first 20 characters, and not all of the secret.
    #[must_use]
    pub fn id(&self) -> SocketId {
        self.member.id
    }

    /// Returns the name of the socket's namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.member.namespace.name
    }

    /// Returns a handle to the server.
    #[must_use]
    pub fn io(&self) -> SocketIo {
        SocketIo::of_member(&self.member)
    }

    /// Returns whether the socket is connected: the connect handler has accepted the client, and
    /// the client has not left.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.member.is_connected()
    }

    /// Returns whether this socket was restored after the client had lost its connection.
    ///
    /// A restored socket keeps its id, its rooms, its data and its extensions. See
    /// [`Recovery`](crate::Recovery).
    #[must_use]
    pub fn recovered(&self) -> bool {
        self.member.is_recovered()
    }

    /// Returns the transport that the client uses at the moment.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.member.session.transport()
    }

    /// Sends an event to the client.
    ///
    /// This never waits: the event is queued. Events are sent in the order of the calls. In a
    /// connect handler, the event is sent after the handler has accepted the client. If the client
    /// has left, nothing is sent. If more bytes are queued for the client than
    /// [`max_buffered`](crate::SocketIoBuilder::max_buffered) allows, the connection is closed with
    /// [`DisconnectReason::SlowConsumer`].
    ///
    /// A value that cannot be written as JSON, or a reserved event name, is logged as an error.
    /// [`try_emit`](Self::try_emit) returns the error instead.
    ///
    /// # Arguments
    ///
    /// One value is one argument, even if it is a tuple. [`Args`](crate::Args) sends several
    /// arguments, and `()` sends none. Bytes of a type that serializes *as bytes*, such as
    /// `bytes::Bytes`, are sent as binary attachments. [`Uncompressed`](crate::Uncompressed)
    /// exempts an event from compression.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use tower_socketio::{Args, Namespace, Socket};
    ///
    /// async fn connect(socket: Socket) {
    ///     // `socket.on("greeting", (text) => …)`
    ///     socket.emit("greeting", "hello");
    ///
    ///     // `socket.on("point", ([x, y]) => …)`
    ///     socket.emit("point", (3, 4));
    ///
    ///     // `socket.on("score", (name, points) => …)`
    ///     socket.emit("score", Args(("ada", 42)));
    ///
    ///     // `socket.on("image", (buffer) => …)`
    ///     socket.emit("image", Bytes::from_static(&[1, 2, 3]));
    ///
    ///     // `socket.on("ready", () => …)`
    ///     socket.emit("ready", ());
    /// }
    ///
    /// let namespace: Namespace = Namespace::new().on_connect(connect);
    /// ```
    pub fn emit(&self, event: &str, args: impl IntoArgs) {
        if let Err(EmitError(EmitErrorKind::Encode(error))) = self.try_emit(event, args) {
            not_emitted(event, &error);
        }
    }

    /// Sends an event to the client, and returns an error if it was not queued.
    ///
    /// See [`emit`](Self::emit) for the arguments.
    ///
    /// ```
    /// use tower_socketio::{EmitError, Namespace, Socket};
    ///
    /// async fn refresh(socket: Socket) -> Result<(), EmitError> {
    ///     socket.try_emit("refreshed", ())
    /// }
    ///
    /// let namespace: Namespace = Namespace::new().on("refresh", refresh);
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the arguments cannot be written as JSON, if the event name is reserved,
    /// if the client has left, or if the connection is closed because too much is queued for the
    /// client.
    pub fn try_emit(&self, event: &str, args: impl IntoArgs) -> Result<(), EmitError> {
        let payload = self.event(event, args)?;
        let sent = self.member.emit(None, payload);
        sent.then_some(()).ok_or(EmitError(EmitErrorKind::Closed))
    }

    /// Returns an emitter of volatile events.
    ///
    /// A volatile event is dropped if the client is not ready to receive it: while it connects, or
    /// while other packets are queued for it.
    ///
    /// ```
    /// # fn f(socket: tower_socketio::Socket) {
    /// socket.volatile().emit("position", (12.5, 7.25));
    /// # }
    /// ```
    pub fn volatile(&self) -> Volatile<'_> {
        Volatile { socket: self }
    }

    /// Sends a typed event to the client. [`TypedEvent::NAME`] is its name.
    pub fn send<E: TypedEvent>(&self, event: E) {
        self.emit(E::NAME, TypedArgs(event));
    }

    /// Sends an event that asks the client for an acknowledgement.
    ///
    /// The event is sent at once. `.await` waits for the acknowledgement and returns its first
    /// argument. Without a [`timeout`](EmitWithAck::timeout) it waits as long as the client is
    /// connected. In a connect handler it fails at once, with an error that
    /// [is not connected](crate::AckError::is_not_connected): the client is still connecting.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_socketio::{AckError, Namespace, Socket};
    ///
    /// async fn play(socket: Socket) -> Result<bool, AckError> {
    ///     let answer: u32 = socket
    ///         .emit_with_ack("question", "6 x 7?")
    ///         .timeout(Duration::from_secs(5))
    ///         .await?;
    ///     Ok(answer == 42)
    /// }
    ///
    /// let namespace: Namespace = Namespace::new().on("play", play);
    /// ```
    pub fn emit_with_ack<T>(&self, event: &str, args: impl IntoArgs) -> EmitWithAck<T> {
        let payload = self.event(event, args);
        EmitWithAck::send(Arc::clone(&self.member), payload)
    }

    /// Sends a typed event that asks the client for an acknowledgement, of the type
    /// [`TypedEvent::Reply`]. See [`emit_with_ack`](Self::emit_with_ack).
    pub fn ask<E: TypedEvent>(&self, event: E) -> EmitWithAck<E::Reply> {
        self.emit_with_ack(E::NAME, TypedArgs(event))
    }

    fn event(&self, event: &str, args: impl IntoArgs) -> Result<Payload, EmitError> {
        let payload = Payload::event(event, self.namespace().len(), args)
            .map_err(|error| EmitError(EmitErrorKind::Encode(error)))?;
        self.member.namespace.hooks.emitted.record(&payload);
        Ok(payload)
    }

    /// Waits until all packets that are queued for the client have been passed to its transport, or
    /// until the client has left.
    ///
    /// # Cancel safety
    ///
    /// This is cancel safe. Dropping the future drops no packet.
    pub async fn drained(&self) {
        std::future::poll_fn(|cx| {
            self.member.catch_up();
            self.member.session.poll_drained(cx)
        })
        .await;
    }

    /// Waits until the messages of the other servers of a [cluster](crate::cluster) arrive for this
    /// socket's rooms.
    ///
    /// Some brokers subscribe to a channel for each room. Until that is done, messages that other servers
    /// send just after [`join`](Self::join) can be missed. A connecting client waits for it, for one
    /// second at most. Without a cluster this returns at once.
    ///
    /// ```
    /// use tower_socketio::{Data, Namespace, Socket};
    ///
    /// async fn enter(socket: Socket, Data(room): Data<String>) -> bool {
    ///     socket.join(&room);
    ///     socket.synced().await.is_ok()
    /// }
    ///
    /// let namespace: Namespace = Namespace::new().on("enter", enter);
    /// ```
    ///
    /// # Errors
    ///
    /// Fails if the broker is not connected, unless no namespace or room was opened since it was last
    /// connected.
    ///
    /// # Cancel safety
    ///
    /// This is cancel safe.
    pub async fn synced(&self) -> Result<(), ClusterError> {
        let synced = self
            .member
            .namespace
            .others()
            .and_then(|others| others.synced());
        match synced {
            Some(synced) => synced.await,
            None => Ok(()),
        }
    }

    /// Joins a room.
    ///
    /// A room exists while a socket is in it. This does nothing if the socket is in the room
    /// already, if it has left the namespace, or if the room would exceed
    /// [`max_rooms`](crate::SocketIoBuilder::max_rooms), 1 000 by default, or
    /// [`max_kept`](crate::SocketIoBuilder::max_kept).
    ///
    /// ```
    /// use tower_socketio::{Data, Namespace, Socket};
    ///
    /// async fn enter(socket: Socket, Data(room): Data<String>) {
    ///     socket.join(&room);
    ///     socket.to(&room).emit("entered", socket.id().to_string());
    /// }
    ///
    /// let namespace: Namespace = Namespace::new().on("enter", enter);
    /// ```
    pub fn join(&self, room: impl AsRef<str>) {
        let room = room.as_ref();
        self.member.namespace.join(&self.member, room);
    }

    /// Leaves a room. This does nothing if the socket is not in it.
    pub fn leave(&self, room: impl AsRef<str>) {
        self.member
            .namespace
            .leave_room(&self.member, room.as_ref());
    }

    /// Returns the rooms that the socket is in, except for the room that its id names.
    ///
    /// When the socket has left, as in the disconnect handler, these are the rooms that it was in.
    #[must_use]
    pub fn rooms(&self) -> Vec<String> {
        let rooms = self.member.rooms();
        rooms.iter().map(|room| room.as_ref().to_owned()).collect()
    }

    /// Inserts a value into the extensions of the socket, and returns the previous value of that
    /// type.
    ///
    /// Event handlers read it with axum's `Extension<T>`, other code with
    /// [`extension`](Self::extension).
    ///
    /// ```
    /// use axum::Extension;
    /// use serde::Deserialize;
    /// use tower_socketio::{Auth, Namespace, Socket};
    ///
    /// #[derive(Clone, Deserialize)]
    /// struct User {
    ///     name: String,
    /// }
    ///
    /// async fn connect(socket: Socket, Auth(user): Auth<User>) {
    ///     socket.insert(user);
    /// }
    ///
    /// async fn name(Extension(user): Extension<User>) -> String {
    ///     user.name
    /// }
    ///
    /// let namespace: Namespace = Namespace::new().on_connect(connect).on("name", name);
    /// ```
    pub fn insert<T: Clone + Send + Sync + 'static>(&self, value: T) -> Option<T> {
        let value = Arc::new(value);
        let mut extensions = self.member.extensions.write();
        let former = extensions.insert(value);
        drop(extensions);
        former.map(Arc::unwrap_or_clone)
    }

    /// Removes the value of a type from the extensions of the socket, and returns it.
    ///
    /// [`extension`](Self::extension) then returns that of the first HTTP request, if it has one.
    pub fn remove<T: Clone + Send + Sync + 'static>(&self) -> Option<T> {
        let mut extensions = self.member.extensions.write();
        let former = extensions.remove::<Arc<T>>();
        drop(extensions);
        former.map(Arc::unwrap_or_clone)
    }

    /// Returns the value of a type in the extensions of the socket, or else in those of the first
    /// HTTP request, where a Tower layer may have put it.
    #[must_use]
    pub fn extension<T: Clone + Send + Sync + 'static>(&self) -> Option<T> {
        let extensions = self.member.extensions.read();
        // `T::clone` is code of the application, so it runs after the lock is released.
        let own = extensions.get::<Arc<T>>().cloned();
        drop(extensions);
        own.map(Arc::unwrap_or_clone)
            .or_else(|| self.member.session.request.extension())
    }

    /// Sets the data of the socket. They replace the previous data.
    ///
    /// The data are kept as JSON, so that other servers can read them with
    /// [`fetch_sockets`](crate::Broadcast::fetch_sockets). [`insert`](Self::insert) keeps values of
    /// any type in this process.
    ///
    /// ```
    /// use tower_socketio::protocol::EncodeError;
    /// use tower_socketio::{Data, Namespace, Socket};
    ///
    /// async fn enter(socket: Socket, Data(name): Data<String>) -> Result<(), EncodeError> {
    ///     socket.set_data((name, 1))
    /// }
    ///
    /// async fn name(socket: Socket) -> Option<String> {
    ///     let (name, _visits) = socket.data::<(String, u32)>()?;
    ///     Some(name)
    /// }
    ///
    /// let namespace: Namespace = Namespace::new().on("enter", enter).on("name", name);
    /// ```
    ///
    /// Bytes are kept as a list of numbers, and can be read back as bytes.
    ///
    /// # Errors
    ///
    /// Returns an error if the data cannot be written as JSON, or if the connection would keep more
    /// than [`max_kept`](crate::SocketIoBuilder::max_kept). The previous data then stay.
    pub fn set_data(&self, data: impl Serialize) -> Result<(), EncodeError> {
        let data = serde_json::to_value(data)?;
        let kept = self
            .member
            .set_data(Some(Arc::new(data)), self.member.namespace.max_kept());
        kept.then_some(()).ok_or(EncodeError::TOO_LONG)
    }

    /// Returns the data of the socket. Returns `None` if there are none, or if they are not a `T`,
    /// which is logged at `debug`.
    #[must_use]
    pub fn data<T: DeserializeOwned>(&self) -> Option<T> {
        let data = T::deserialize(&*self.member.data()?);
        let log = |error: &serde_json::Error| {
            tracing::debug!(socket = %self.id(), %error, "data of the socket are of another type");
        };
        data.inspect_err(log).ok()
    }

    /// Returns the first HTTP request of the connection, without its body: headers, URI and
    /// extensions.
    #[must_use]
    pub fn request_parts(&self) -> Parts {
        let mut parts = self.member.session.request.parts();
        parts.extensions.insert(self.io());
        parts
    }

    /// Returns the names and values of the parameters in the namespace's path.
    ///
    /// [`Params`](crate::Params) reads them into a type.
    #[must_use]
    pub fn params(&self) -> &[(String, String)] {
        &self.member.namespace.params
    }

    /// Disconnects the socket from its namespace. The connection of the client stays open.
    ///
    /// When this returns, the socket has left its rooms and its namespace.
    pub fn disconnect(&self) {
        self.member
            .disconnect(DisconnectReason::ServerNamespaceDisconnect);
    }

    /// Disconnects the client from all namespaces, and closes its connection after the queued
    /// packets have been sent.
    ///
    /// When this returns, the socket has left its rooms and its namespace. The client's sockets in
    /// other namespaces leave a moment later.
    pub fn close(&self) {
        self.disconnect();
        self.member.session.disconnect_all();
    }

    /// Returns the description that other servers get.
    pub(crate) fn describe(&self) -> SocketDescription {
        let mut rooms = vec![self.id().as_str().to_owned()];
        rooms.extend(self.rooms());
        SocketDescription {
            id: self.id(),
            rooms,
            data: self.member.data(),
            handshake: self.handshake_json(),
        }
    }

    /// Returns the record of what the server has logged before. Returns `None` if the server has
    /// been dropped.
    pub(crate) fn notices(&self) -> Option<Arc<Notices>> {
        let hub = self.member.namespace.hub()?;
        Some(Arc::clone(&hub.sessions.notices))
    }
}

/// An emitter of volatile events to one client. See [`Socket::volatile`].
#[derive(Clone, Copy, Debug)]
#[must_use = "nothing is sent until an event is emitted"]
pub struct Volatile<'a> {
    socket: &'a Socket,
}

impl Volatile<'_> {
    /// Sends an event, or drops it if the client is not ready. This never waits. See
    /// [`Socket::emit`] for the arguments.
    pub fn emit(self, event: &str, args: impl IntoArgs) {
        let Socket { member } = self.socket;
        if !member.is_writable() {
            member.notify_dropped(1);
            return;
        }
        match Payload::event(event, member.namespace.name.len(), args) {
            Ok(payload) => {
                member.namespace.hooks.emitted.record(&payload);
                member.emit_volatile(payload);
            }
            Err(error) => not_emitted(event, &error),
        }
    }

    /// Sends a typed event, or drops it if the client is not ready. This never waits.
    pub fn send<E: TypedEvent>(self, event: E) {
        self.emit(E::NAME, TypedArgs(event));
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket")
            .field("id", &self.member.id)
            .field("namespace", &self.namespace())
            .finish_non_exhaustive()
    }
}

/// Logs an event that could not be written. Subscribers show the reason, which is the source of the
/// error.
fn not_emitted(event: &str, error: &EncodeError) {
    let error: &(dyn std::error::Error + 'static) = error;
    tracing::error!(error, event, "not emitted");
}

/// An error of [`Socket::try_emit`], [`Broadcast::try_emit`](crate::Broadcast::try_emit) and
/// [`Broadcast::server_side_emit`](crate::Broadcast::server_side_emit): the event was not queued.
///
/// A handler may return it. If the arguments could not be written, the error is logged and the
/// client receives "internal error".
#[derive(Debug)]
pub struct EmitError(pub(crate) EmitErrorKind);

#[derive(Debug)]
pub(crate) enum EmitErrorKind {
    Encode(EncodeError),
    Closed,
    Cluster(ClusterError),
}

impl EmitError {
    /// Returns whether the arguments could not be written as JSON, or the event name is reserved.
    #[must_use]
    pub fn is_encode(&self) -> bool {
        matches!(self.0, EmitErrorKind::Encode(_))
    }

    /// Returns whether the client has left, or is being disconnected because too much is queued for
    /// it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.0, EmitErrorKind::Closed)
    }

    /// Returns the reason why the event was not queued for the other servers of the cluster.
    #[must_use]
    pub fn cluster_error(&self) -> Option<ClusterError> {
        match self.0 {
            EmitErrorKind::Cluster(error) => Some(error),
            EmitErrorKind::Encode(_) | EmitErrorKind::Closed => None,
        }
    }
}

impl fmt::Display for EmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            EmitErrorKind::Encode(_) => "the arguments cannot be written",
            EmitErrorKind::Closed => "the client has left",
            EmitErrorKind::Cluster(_) => "the event was not sent to the other servers",
        })
    }
}

impl std::error::Error for EmitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0 {
            EmitErrorKind::Encode(error) => Some(error),
            EmitErrorKind::Closed => None,
            EmitErrorKind::Cluster(error) => Some(error),
        }
    }
}
