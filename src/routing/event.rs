//! What happens on a socket, as the request of a Tower service.

use std::fmt;

use http::Extensions;
use http::request::Parts;
use tokio::sync::oneshot;

use crate::handles::Socket;
use crate::hub::DisconnectReason;
use crate::protocol::{EncodeError, IntoArgs, Payload, RawArgs};

/// Something that happens on a socket: the request that handlers and their layers are given.
///
/// It is an event of the client, or that the socket connects, or that it is gone.
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
    /// The arguments, or what the client authenticates itself with.
    payload: Payload,
    ack: Option<u64>,
    deferred: bool,
    /// Whether nobody reads the arguments after the extractor that asks next.
    gives_args: bool,
    extensions: Extensions,
    /// Made when the first extractor asks for them.
    parts: Option<Box<Parts>>,
    /// Signals that the event has passed the layers. Only a disconnect has it.
    arrival: Option<oneshot::Sender<()>>,
}

#[derive(Clone, Copy)]
enum EventKind {
    Connect,
    Event,
    Disconnect(DisconnectReason),
}

impl Event {
    /// An event of the client, with the acknowledgement that it asks for.
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

    /// A socket that connects, with what it authenticates itself with.
    pub(crate) fn connect(socket: Socket, auth: Payload) -> Self {
        Self::new(EventKind::Connect, socket, auth)
    }

    /// A socket that is gone.
    pub(crate) fn disconnect(socket: Socket, reason: DisconnectReason) -> Self {
        Self::new(EventKind::Disconnect(reason), socket, Payload::default())
    }

    fn new(kind: EventKind, socket: Socket, payload: Payload) -> Self {
        Self {
            kind,
            socket,
            payload,
            ack: None,
            deferred: false,
            gives_args: false,
            extensions: Extensions::new(),
            parts: None,
            arrival: None,
        }
    }

    /// Completes when the event reaches its handler, and fails if the event is dropped before.
    pub(crate) fn arrival(&mut self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.arrival = Some(sender);
        receiver
    }

    /// The event has passed the layers.
    pub(super) fn arrive(&mut self) {
        if let Some(arrival) = self.arrival.take() {
            // The receiver may be gone.
            let _ = arrival.send(());
        }
    }

    /// The name of the event; "connect" or "disconnect" if it is not the client's.
    #[must_use]
    pub fn name(&self) -> &str {
        match self.kind {
            EventKind::Connect => "connect",
            EventKind::Event => self.payload.name().unwrap_or_default(),
            EventKind::Disconnect(_) => "disconnect",
        }
    }

    /// Whether the socket connects.
    #[must_use]
    pub const fn is_connect(&self) -> bool {
        matches!(self.kind, EventKind::Connect)
    }

    /// Whether the socket is gone.
    #[must_use]
    pub const fn is_disconnect(&self) -> bool {
        self.reason().is_some()
    }

    /// The socket that it happens on.
    #[must_use]
    pub const fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Whether the client waits for an answer.
    #[must_use]
    pub const fn wants_ack(&self) -> bool {
        self.ack.is_some()
    }

    /// What layers hand to the layers and handlers within.
    #[must_use]
    pub const fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// As [`Event::extensions`]. A handler takes what is put here with axum's `Extension`.
    pub const fn extensions_mut(&mut self) -> &mut Extensions {
        &mut self.extensions
    }

    /// The arguments, to be read apart from those that the handler will read.
    #[must_use]
    pub fn args(&self) -> RawArgs {
        self.payload.clone().into_args()
    }

    /// Replaces the arguments that the handler will read.
    ///
    /// ```
    /// use tower_socketio::middleware::{self, Next};
    /// use tower_socketio::{Event, Namespace, Reply};
    ///
    /// /// Gives handlers the text in lower case.
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
    /// If they cannot be written as JSON, or this is no event of the client. What is there stays.
    pub fn set_args(&mut self, args: impl IntoArgs) -> Result<(), EncodeError> {
        let name = self.name();
        self.payload = Payload::event(name, self.socket.namespace().len(), args)?;
        Ok(())
    }

    /// Why the socket is gone.
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

    /// The handshake's request, with the event's extensions in it.
    pub(super) fn parts_mut(&mut self) -> &mut Parts {
        self.parts.get_or_insert_with(|| {
            let mut parts = self.socket.request_parts();
            parts.extensions.extend(self.extensions.clone());
            Box::new(parts)
        })
    }

    /// Lets the next extractor take the arguments and leave none.
    pub(super) const fn give_args(&mut self) {
        self.gives_args = true;
    }

    /// The arguments as they came; shared with who reads them later, if anybody does.
    pub(super) fn take_args(&mut self) -> RawArgs {
        if std::mem::take(&mut self.gives_args) {
            return std::mem::take(&mut self.payload).into_args();
        }
        self.args()
    }

    /// Takes the answer over from the handler.
    pub(super) const fn take_ack(&mut self) -> Option<u64> {
        self.deferred = true;
        self.ack.take()
    }

    /// Whether the answer was taken over.
    pub(super) const fn is_deferred(&self) -> bool {
        self.deferred
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
