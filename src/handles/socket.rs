//! One client in one namespace.

use std::fmt;
use std::sync::{Arc, PoisonError};

use http::request::Parts;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{EmitWithAck, SocketIo};
use crate::engine::{SocketId, Transport};
use crate::hub::DisconnectReason;
use crate::hub::member::Member;
use crate::notice::Notices;
use crate::protocol::{EncodeError, IntoArgs, Payload, TypedEvent};

/// One client in one namespace.
///
/// A handle: cheap to clone, and it may be kept. When the client has left, what is sent goes
/// nowhere.
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

    /// The public id, new for each connection to a namespace. It is the name of a room that holds
    /// this socket alone, and it is never the secret id of the session.
    #[must_use]
    pub fn id(&self) -> SocketId {
        self.member.id
    }

    /// The name of the namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.member.registry.name
    }

    /// The server.
    #[must_use]
    pub fn io(&self) -> SocketIo {
        SocketIo::of_member(&self.member)
    }

    /// Whether the client is in: its connect handler has accepted it and it has not left.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.member.is_connected()
    }

    /// Whether the client lost its connection before and is back as the same socket: see
    /// [`Recovery`](crate::Recovery). Its id, its rooms, and the values kept with it are those of
    /// before.
    #[must_use]
    pub fn recovered(&self) -> bool {
        self.member.is_recovered()
    }

    /// The transport that the client uses now.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.member.link.transport()
    }

    /// Sends an event. Never waits.
    ///
    /// In a connect handler the event follows when the handler has accepted the client. To a
    /// client that has left nothing is sent. If so much waits for the client that the limit is
    /// passed, the connection is closed with [`DisconnectReason::SlowConsumer`]. A value that
    /// cannot be written as JSON is logged as an error.
    ///
    /// One value is one argument, also a tuple; [`Args`](crate::Args) makes several.
    pub fn emit(&self, event: &str, args: impl IntoArgs) {
        if let Err(EmitError(Some(error))) = self.try_emit(event, args) {
            not_emitted(event, &error);
        }
    }

    /// Sends an event and tells whether it was queued.
    ///
    /// # Errors
    ///
    /// If the arguments cannot be written, or the client has left or is closed as too slow.
    pub fn try_emit(&self, event: &str, args: impl IntoArgs) -> Result<(), EmitError> {
        let payload = self.event(event, args)?;
        let sent = self.member.emit(None, payload);
        sent.then_some(()).ok_or(EmitError(None))
    }

    /// Sends an event unless the client would have to wait for it: then it is dropped.
    pub fn emit_volatile(&self, event: &str, args: impl IntoArgs) {
        if !self.member.is_writable() {
            return;
        }
        match Payload::event(event, self.namespace().len(), args) {
            Ok(payload) => self.member.emit_volatile(payload),
            Err(error) => not_emitted(event, &error),
        }
    }

    /// Sends an event, named by its type.
    pub fn emit_typed<E: TypedEvent>(&self, event: E) {
        self.emit(E::NAME, crate::Data(event));
    }

    /// Sends an event that asks for an acknowledgement, and waits for it when awaited.
    ///
    /// The event is sent now. Without a [`timeout`](EmitWithAck::timeout) the answer may take as
    /// long as the client is connected.
    pub fn emit_with_ack<T>(&self, event: &str, args: impl IntoArgs) -> EmitWithAck<T> {
        let payload = self.event(event, args);
        EmitWithAck::send(Arc::clone(&self.member), payload)
    }

    /// Sends an event, named by its type, that asks for an acknowledgement.
    pub fn emit_typed_with_ack<E: TypedEvent>(&self, event: E) -> EmitWithAck<E::Reply> {
        self.emit_with_ack(E::NAME, crate::Data(event))
    }

    fn event(&self, event: &str, args: impl IntoArgs) -> Result<Payload, EmitError> {
        Payload::event(event, self.namespace().len(), args).map_err(|error| EmitError(Some(error)))
    }

    /// Waits until everything that was sent to the client has been given to its transport, or it
    /// has left.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn drained(&self) {
        std::future::poll_fn(|cx| {
            self.member.catch_up();
            self.member.link.poll_drained(cx)
        })
        .await;
    }

    /// Joins a room. Nothing happens if it is in it or has left, nor beyond the limits of
    /// [`max_rooms`](crate::SocketIoBuilder::max_rooms), 1 000 by default, and
    /// [`max_kept`](crate::SocketIoBuilder::max_kept).
    pub fn join(&self, room: impl AsRef<str>) {
        let room = room.as_ref();
        self.member.registry.join(&self.member, room);
    }

    /// Leaves a room.
    pub fn leave(&self, room: impl AsRef<str>) {
        self.member.registry.part(&self.member, room.as_ref());
    }

    /// The rooms it is in, its own one aside; in the disconnect handler, those it was in.
    #[must_use]
    pub fn rooms(&self) -> Vec<String> {
        let rooms = self.member.rooms();
        rooms.iter().map(|room| room.as_ref().to_owned()).collect()
    }

    /// Keeps a value with the socket; an event handler's `Extension<T>` finds it. Gives back the
    /// value of that type that was there.
    pub fn insert<T: Clone + Send + Sync + 'static>(&self, value: T) -> Option<T> {
        let value = Arc::new(value);
        let mut extensions = self
            .member
            .extensions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let former = extensions.insert(value);
        drop(extensions);
        former.map(Arc::unwrap_or_clone)
    }

    /// A value that was kept with the socket, or came with the request: by a Tower layer, say.
    #[must_use]
    pub fn extension<T: Clone + Send + Sync + 'static>(&self) -> Option<T> {
        let extensions = self
            .member
            .extensions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        // A clone is the user's code: it runs when the lock is free again.
        let own = extensions.get::<Arc<T>>().cloned();
        drop(extensions);
        own.map(Arc::unwrap_or_clone)
            .or_else(|| self.member.link.handshake.extension())
    }

    /// Keeps data with the socket that go where the socket goes: other servers see them in
    /// [`fetch_sockets`](crate::Broadcast::fetch_sockets). What was kept before is replaced.
    ///
    /// For what stays in this process, and need not be written as JSON, there is
    /// [`insert`](Self::insert).
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
    /// Bytes are kept as a list of numbers, and read back as bytes.
    ///
    /// # Errors
    ///
    /// If the data cannot be written as JSON, or the connection would keep more than
    /// [`max_kept`](crate::SocketIoBuilder::max_kept). What was kept before stays.
    pub fn set_data(&self, data: impl Serialize) -> Result<(), EncodeError> {
        let data = serde_json::to_value(data)?;
        let kept = self
            .member
            .set_data(Some(Arc::new(data)), self.member.registry.max_kept());
        kept.then_some(()).ok_or(EncodeError::TOO_LONG)
    }

    /// The data that are kept with the socket; `None` if there are none, or they are no `T`.
    #[must_use]
    pub fn data<T: DeserializeOwned>(&self) -> Option<T> {
        let data = T::deserialize(&*self.member.data()?);
        let log = |error: &serde_json::Error| {
            tracing::debug!(socket = %self.id(), %error, "data of the socket are of another type");
        };
        data.inspect_err(log).ok()
    }

    /// The first HTTP request of the connection, without its body: headers, URI, extensions.
    #[must_use]
    pub fn request_parts(&self) -> Parts {
        let mut parts = self.member.link.handshake.parts();
        parts.extensions.insert(self.io());
        parts
    }

    /// What stood for the parameters in the namespace's path.
    #[must_use]
    pub fn params(&self) -> &[(String, String)] {
        &self.member.registry.params
    }

    /// Makes the client leave this namespace; its connection stays.
    ///
    /// The socket is in no room and no namespace when this returns.
    pub fn disconnect(&self) {
        self.member
            .disconnect(DisconnectReason::ServerNamespaceDisconnect);
    }

    /// Makes the client leave all namespaces and closes its connection, after what was sent
    /// before.
    ///
    /// The socket is in no room and no namespace when this returns; those that the client has in
    /// other namespaces follow in a moment.
    pub fn close(&self) {
        self.disconnect();
        self.member.link.dismiss();
    }

    /// What the server has logged before; nothing if it is gone.
    pub(crate) fn notices(&self) -> Option<Arc<Notices>> {
        let hub = self.member.registry.hub()?;
        Some(Arc::clone(&hub.sessions.notices))
    }

    pub(crate) fn send_ack(&self, ack: u64, payload: Payload) {
        self.member.send_ack(ack, payload);
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

/// Logs an event that cannot be written. The reason is the error's source, which subscribers show.
fn not_emitted(event: &str, error: &EncodeError) {
    let error: &(dyn std::error::Error + 'static) = error;
    tracing::error!(error, event, "not emitted");
}

/// Why an event was not queued.
///
/// A handler may return it. If the arguments cannot be written that is logged, and the client is
/// told "internal error".
#[derive(Debug)]
pub struct EmitError(pub(crate) Option<EncodeError>);

impl EmitError {
    /// Whether the arguments cannot be written.
    #[must_use]
    pub fn is_encode(&self) -> bool {
        self.0.is_some()
    }

    /// Whether the client has left, or is closed as too slow.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.is_none()
    }
}

impl fmt::Display for EmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Some(_) => "the arguments cannot be written",
            None => "the client has left",
        })
    }
}

impl std::error::Error for EmitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.as_ref().map(|error| error as _)
    }
}
