//! The request of the Tower services that handle events.

use std::fmt;

use http::Extensions;
use http::request::Parts;

use crate::handles::Socket;
use crate::hub::DisconnectReason;
use crate::protocol::{EncodeError, IntoArgs, Payload, RawArgs};
use crate::sync::oneshot;

/// The request of handlers and their layers: an event of the client, a connect, or a disconnect.
///
/// Middleware reads it and passes it on. Handlers use [extractors](crate::extract) instead.
///
/// ```
/// use tower_socketio::middleware::{self, Next};
/// use tower_socketio::{Event, Namespace, Reply};
///
/// async fn log(event: Event, next: Next) -> Reply {
///     println!("{} of {:?}", event.name(), event.socket());
///     next.run(event).await
/// }
///
/// let namespace: Namespace = Namespace::new().layer(middleware::from_fn(log));
/// ```
pub struct Event {
    kind: EventKind,
    socket: Socket,
    /// The arguments, or the `auth` of a connect.
    payload: Payload,
    /// The id of the acknowledgement that the client asks for.
    ack: Option<u64>,
    /// Whether an extractor has removed `ack`, to send the acknowledgement in place of the
    /// handler's return value.
    is_deferred: bool,
    /// Whether the next extractor is the last reader of the arguments.
    is_last_reader: bool,
    extensions: Extensions,
    /// The head of the handshake request, for axum's extractors. Created when the first of them
    /// runs.
    parts: Option<Box<Parts>>,
    /// Signals that the event has passed the layers. Only a disconnect has a sender.
    handler_reached: Option<oneshot::Sender<()>>,
}

#[derive(Clone, Copy)]
enum EventKind {
    Connect,
    Event,
    Disconnect(DisconnectReason),
}

impl Event {
    /// Creates an event of the client. `ack` is the id of the acknowledgement that the client asks
    /// for.
    #[allow(
        clippy::self_named_constructors,
        reason = "beside `connect` and `disconnect`"
    )]
    pub(crate) fn event(socket: Socket, payload: Payload, ack: Option<u64>) -> Self {
        Self {
            ack,
            ..Self::new(EventKind::Event, socket, payload)
        }
    }

    /// Creates the event of a socket that connects, with its `auth`.
    pub(crate) fn connect(socket: Socket, auth: Payload) -> Self {
        Self::new(EventKind::Connect, socket, auth)
    }

    /// Creates the event of a socket that has left.
    pub(crate) fn disconnect(socket: Socket, reason: DisconnectReason) -> Self {
        Self::new(EventKind::Disconnect(reason), socket, Payload::default())
    }

    fn new(kind: EventKind, socket: Socket, payload: Payload) -> Self {
        Self {
            kind,
            socket,
            payload,
            ack: None,
            is_deferred: false,
            is_last_reader: false,
            extensions: Extensions::new(),
            parts: None,
            handler_reached: None,
        }
    }

    /// Returns a receiver that completes when the event reaches its handler, and fails if the event
    /// is dropped before.
    pub(crate) fn handler_reached(&mut self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.handler_reached = Some(sender);
        receiver
    }

    /// Signals that the event has passed the layers.
    pub(super) fn mark_handler_reached(&mut self) {
        if let Some(handler_reached) = self.handler_reached.take() {
            // The receiver may have been dropped.
            let _ = handler_reached.send(());
        }
    }

    /// Returns the name of the event. It is `"connect"` for a connect and `"disconnect"` for a
    /// disconnect.
    #[must_use]
    pub fn name(&self) -> &str {
        match self.kind {
            EventKind::Connect => "connect",
            EventKind::Event => self.payload.name().unwrap_or_default(),
            EventKind::Disconnect(_) => "disconnect",
        }
    }

    /// Returns whether this is a connect.
    #[must_use]
    pub const fn is_connect(&self) -> bool {
        matches!(self.kind, EventKind::Connect)
    }

    /// Returns whether this is a disconnect.
    #[must_use]
    pub const fn is_disconnect(&self) -> bool {
        self.reason().is_some()
    }

    /// Returns the socket of the event.
    #[must_use]
    pub const fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Returns whether the client asks for an acknowledgement.
    #[must_use]
    pub const fn wants_ack(&self) -> bool {
        self.ack.is_some()
    }

    /// Returns the extensions of the event, which pass values from a layer to inner layers and the
    /// handler.
    #[must_use]
    pub const fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// Returns the extensions of the event, mutably. A handler reads them with axum's `Extension`.
    ///
    /// ```
    /// use std::time::Instant;
    ///
    /// use axum::Extension;
    /// use tower_socketio::middleware::{self, Next};
    /// use tower_socketio::{Event, Namespace, Reply};
    ///
    /// #[derive(Clone)]
    /// struct Started(Instant);
    ///
    /// async fn stamp(mut event: Event, next: Next) -> Reply {
    ///     event.extensions_mut().insert(Started(Instant::now()));
    ///     next.run(event).await
    /// }
    ///
    /// async fn age(Extension(Started(at)): Extension<Started>) -> f64 {
    ///     at.elapsed().as_secs_f64()
    /// }
    ///
    /// let namespace: Namespace = Namespace::new()
    ///     .on("age", age)
    ///     .layer(middleware::from_fn(stamp));
    /// ```
    pub const fn extensions_mut(&mut self) -> &mut Extensions {
        &mut self.extensions
    }

    /// Returns a copy of the arguments. Reading it does not affect the handler.
    #[must_use]
    pub fn args(&self) -> RawArgs {
        self.payload.clone().into_args()
    }

    /// Replaces the arguments that the handler reads.
    ///
    /// ```
    /// use tower_socketio::middleware::{self, Next};
    /// use tower_socketio::{Event, Namespace, Reply};
    ///
    /// /// Passes texts to the handlers in lower case.
    /// async fn lower(mut event: Event, next: Next) -> Reply {
    ///     if let Ok(text) = event.args().read_one::<String>() {
    ///         event.set_args(text.to_lowercase()).unwrap();
    ///     }
    ///     next.run(event).await
    /// }
    ///
    /// let namespace: Namespace = Namespace::new().layer(middleware::from_fn(lower));
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the arguments cannot be written as JSON, or if this is a connect or a
    /// disconnect. The previous arguments then remain.
    pub fn set_args(&mut self, args: impl IntoArgs) -> Result<(), EncodeError> {
        let name = self.name();
        self.payload = Payload::event(name, self.socket.namespace().len(), args)?;
        Ok(())
    }

    /// Returns the reason of a disconnect.
    pub(super) const fn reason(&self) -> Option<DisconnectReason> {
        match self.kind {
            EventKind::Disconnect(reason) => Some(reason),
            EventKind::Connect | EventKind::Event => None,
        }
    }

    pub(super) const fn payload(&self) -> &Payload {
        &self.payload
    }

    pub(super) const fn payload_mut(&mut self) -> &mut Payload {
        &mut self.payload
    }

    /// Returns the head of the handshake request, with the extensions of the event added.
    pub(super) fn parts_mut(&mut self) -> &mut Parts {
        self.parts.get_or_insert_with(|| {
            let mut parts = self.socket.request_parts();
            parts.extensions.extend(self.extensions.clone());
            Box::new(parts)
        })
    }

    /// Allows the next extractor to move the arguments out.
    pub(super) const fn allow_moving_args(&mut self) {
        self.is_last_reader = true;
    }

    /// Returns the arguments unread: moved out after [`allow_moving_args`](Self::allow_moving_args), and otherwise
    /// shared with later readers.
    pub(super) fn args_for_extractor(&mut self) -> RawArgs {
        if std::mem::take(&mut self.is_last_reader) {
            return std::mem::take(&mut self.payload).into_args();
        }
        self.args()
    }

    /// Removes and returns the id of the acknowledgement. The handler's return value is then not
    /// sent.
    pub(super) const fn defer_ack(&mut self) -> Option<u64> {
        self.is_deferred = true;
        self.ack.take()
    }

    /// Returns whether [`defer_ack`](Self::defer_ack) was called.
    pub(super) const fn is_deferred(&self) -> bool {
        self.is_deferred
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("name", &self.name())
            .field("socket", &self.socket)
            .field("wants_ack", &self.wants_ack())
            .finish_non_exhaustive()
    }
}
