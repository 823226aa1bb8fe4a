//! The observers of a server: parts of this crate that hear what happens in it.
//!
//! They are apart from the [hooks](super::hooks), which are the application's code. An observer must
//! not block, must not panic, and must not send or change rooms in the call.
//!
//! | what | when the observer is called |
//! |---|---|
//! | a room change | in the order of the changes of the namespace, perhaps later and on another thread, as the room hook: see [`RoomChanges`](super::hooks::RoomChanges) |
//! | an event that is sent | before the event is queued, so an observer that sends to others hears the events of one thread in their order; an event to a socket that is still connecting, when the socket is connected |
//! | all else | when it has happened |
//!
//! Room changes are reported under `RoomChanges::hook_lock`. Volatile events that were dropped, and
//! messages of the cluster, are reported under locks of the namespace: the store, and the delivery
//! lock of the fan-out. All else is reported under no lock. So an observer must not call into the
//! server in any of these calls, and neither must what it calls, such as a recorder of metrics.
//! Changes that two threads make at once may be reported in either order.
//!
//! Without observers each call costs a branch. The clock is read for an observer only.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::DisconnectReason;
use super::definition::{Definition, EventIndex};
use super::member::Member;
use super::namespace::LiveNamespace;
use super::outcome::Outcome;
use super::room_event::RoomEvent;
use super::session::SharedSession;
use crate::clock::now;
use crate::engine_io::{CloseReason, Transport};
use crate::protocol::Payload;

/// Hears what happens in a server. Each method does nothing by default.
#[allow(unused_variables, reason = "the names of the arguments explain them")]
pub(crate) trait Observer: Send + Sync {
    /// The server is built, and has these definitions of namespaces, by their `index`. It is called
    /// once, before any other method.
    fn defined(&self, namespaces: &[Arc<Definition>]) {}

    // Sessions

    fn connection_opened(&self, session: &Arc<SharedSession>) {}

    /// The session has upgraded from polling to WebSocket.
    fn upgraded(&self, session: &Arc<SharedSession>) {}

    /// The session's attempt to upgrade has failed. The session goes on with polling.
    fn upgrade_failed(&self, session: &Arc<SharedSession>) {}

    /// The session has ended. `lasted` is how long it was open. `transport` is the last one that was
    /// reported: that of the handshake, or WebSocket after [`upgraded`](Self::upgraded). Its sockets
    /// leave after this call.
    fn connection_closed(
        &self,
        session: &Arc<SharedSession>,
        transport: Transport,
        reason: CloseReason,
        lasted: Duration,
    ) {
    }

    /// A request was refused, with this `code` of the Engine.IO protocol.
    fn refused(&self, code: u8) {}

    /// Packets of the client were read: `bytes` of WebSocket frames or of a POST's body. A packet may
    /// be counted later than its bytes.
    fn received(&self, session: &SharedSession, transport: Transport, traffic: Traffic) {}

    /// Packets were sent to the client: `bytes` of WebSocket frames or of the body that answers a
    /// poll. The bytes of a packet may be counted later than the packet.
    fn sent(&self, session: &SharedSession, transport: Transport, traffic: Traffic) {}

    /// The bytes that are queued for all clients have changed by `change`. They count as for
    /// `max_buffered`.
    fn buffered_changed(&self, change: i64) {}

    // Sockets

    /// The socket is connected: CONNECT is queued. It may [have left](Member::has_left) by now.
    fn socket_connected(&self, member: &Arc<Member>) {}

    /// A socket that was connected has left. [`Member::rooms`] are those that it was in.
    fn socket_disconnected(&self, member: &Arc<Member>, reason: DisconnectReason) {}

    /// The socket's data were set.
    fn data_changed(&self, member: &Arc<Member>) {}

    /// A client has claimed its former socket.
    fn recovery(&self, namespace: &Arc<LiveNamespace>, result: RecoveryResult) {}

    // Rooms

    /// Whether [`room_changed`](Self::room_changed) is to be called. The answer may change: changes
    /// that were made before are not reported.
    fn wants_room_changes(&self) -> bool {
        false
    }

    /// A room was created or deleted, or a connected socket has joined or left it. The room that a
    /// socket's id names counts.
    fn room_changed(&self, namespace: &Arc<LiveNamespace>, event: &RoomEvent) {}

    // Events

    /// An event has arrived, and its handler is called next.
    fn event_received(&self, member: &Arc<Member>, event: EventIndex, payload: &Payload) {}

    /// The handler of an event has ended.
    fn handler_ended(
        &self,
        member: &Arc<Member>,
        event: EventIndex,
        outcome: Outcome,
        took: Duration,
    ) {
    }

    /// An event is sent to one socket, or to a recipient of a broadcast if the observer
    /// [wants](Self::wants_recipients) to hear of them.
    fn event_sent(&self, member: &Arc<Member>, sent: Sent, payload: &Payload) {}

    /// Whether [`broadcast`](Self::broadcast) is to be called. The answer may change.
    fn wants_broadcasts(&self) -> bool {
        true
    }

    /// An event is sent to `recipients` connected sockets of this process.
    fn broadcast(&self, namespace: &Arc<LiveNamespace>, recipients: usize, payload: &Payload) {}

    /// Whether [`event_sent`](Self::event_sent) is to be called for each recipient of a broadcast,
    /// before [`broadcast`](Self::broadcast) is called. The answer may change.
    fn wants_recipients(&self) -> bool {
        false
    }

    /// `count` volatile events were dropped for a client that was not ready.
    fn volatile_dropped(&self, count: usize) {}

    /// The wait for an acknowledgement has ended.
    fn ack_ended(&self, member: &Member, outcome: AckOutcome, took: Duration) {}

    // Other servers

    /// A message was sent to the other servers, or has arrived from one.
    fn cluster_message(&self, direction: Direction) {}

    /// A message of the cluster was lost, or ignored.
    fn cluster_dropped(&self, reason: ClusterDrop) {}

    /// The broker is connected, or no longer.
    fn cluster_up(&self, is_up: bool) {}
}

/// Packets and bytes that were read or written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) packets: usize,
    pub(crate) bytes: usize,
}

/// To whom an event is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// To the socket alone.
    ToOne,
    /// To the socket as a recipient of a broadcast.
    ToMany,
}

/// How the wait for an acknowledgement has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AckOutcome {
    Answered,
    /// The time was over, or the waiting future was dropped.
    Timeout,
    Disconnected,
}

/// What has become of a socket that a client has claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecoveryResult {
    Recovered,
    /// The server has the socket, and no longer all packets that the client has missed.
    Expired,
    /// The server has no such socket, or no longer.
    Unknown,
}

/// The direction of a message of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Received,
    Sent,
}

/// Why a message of the cluster was lost or ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClusterDrop {
    /// It was not sent: the queue is full, the broker is not connected, or the message is too long.
    NotSent,
    /// The broker has not confirmed it.
    Unconfirmed,
    /// It could not be read.
    Malformed,
    /// Messages of other servers may have been lost.
    Gap,
}

/// The observers of a server: none by default.
#[derive(Clone, Default)]
pub(crate) struct Observers(Option<Arc<[Arc<dyn Observer>]>>);

impl Observers {
    pub(crate) fn new(observers: Vec<Arc<dyn Observer>>) -> Self {
        Self((!observers.is_empty()).then(|| observers.into()))
    }

    /// Returns whether there is no observer.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Returns the time now, if there is an observer.
    #[inline]
    pub(crate) fn started(&self) -> Option<Instant> {
        (!self.is_empty()).then(now)
    }

    /// Calls `notify` for each observer.
    #[inline]
    pub(crate) fn each(&self, notify: impl Fn(&dyn Observer)) {
        if let Some(observers) = &self.0 {
            observers.iter().for_each(|observer| notify(&**observer));
        }
    }

    /// Reports a recipient of a broadcast to the observers that want to hear of them.
    pub(crate) fn each_recipient(&self, member: &Arc<Member>, payload: &Payload) {
        self.each(|observer| {
            if observer.wants_recipients() {
                observer.event_sent(member, Sent::ToMany, payload);
            }
        });
    }

    /// Returns whether an observer wants to hear of broadcasts.
    #[inline]
    pub(crate) fn wants_broadcasts(&self) -> bool {
        let observers = self.0.as_ref();
        observers.is_some_and(|all| all.iter().any(|observer| observer.wants_broadcasts()))
    }

    /// Returns whether an observer wants to hear of room changes.
    #[inline]
    pub(crate) fn wants_room_changes(&self) -> bool {
        let observers = self.0.as_ref();
        observers.is_some_and(|all| all.iter().any(|observer| observer.wants_room_changes()))
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.as_ref().map_or(0, |observers| observers.len());
        f.debug_tuple("Observers").field(&count).finish()
    }
}

/// Returns the time since `started`, for an observer.
#[inline]
pub(crate) fn since(started: Instant) -> Duration {
    now().saturating_duration_since(started)
}
