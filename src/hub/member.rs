//! One socket in one namespace.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use http::Extensions;
use serde_json::Value;

use super::DisconnectReason;
use super::acks::AckWaiter;
use super::budget::of_data;
use super::hooks::OutgoingEvent;
use super::id_hash::IdHash;
use super::namespace::LiveNamespace;
use super::observer::{AckOutcome, Sent, since};
use super::other_servers::Dropped;
use super::queue::Outgoing;
use super::recovery::{Behind, OverLog, Recoverable, StoreGuard};
use super::session::SharedSession;
use crate::engine_io::{Session, SocketId};
use crate::guard::guarded_hook;
use crate::protocol::{Encoded, Kind, Packet, Payload};
use crate::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard, RwLock};

/// One socket in one namespace.
///
/// Lock order: the store of the namespace, then the socket, then its session or its namespace.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) id: SocketId,
    pub(crate) session: Arc<SharedSession>,
    pub(crate) namespace: Arc<LiveNamespace>,
    /// The time of the CONNECT packet, in milliseconds since 1970.
    pub(crate) issued: u64,
    /// The `auth` of the CONNECT packet, in JSON. `None` if it is empty.
    pub(crate) auth: Option<Box<str>>,
    phase: AtomicU8,
    /// The number of the last broadcast packet that was delivered to the socket, or that has other
    /// recipients. After [`skip_to`](Self::skip_to) it changes under the lock of the socket.
    last_delivered: AtomicU64,
    state: Mutex<State>,
    pub(crate) extensions: RwLock<Extensions>,
    /// `None` if recovery is off.
    pub(crate) recovery: Option<Box<Recoverable>>,
    /// The bytes that trackers count in the session's budget.
    tracked: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    held: Option<Box<Held>>,
    /// The events that the observers hear of when the socket is connected.
    unreported: Vec<Payload>,
    acks: HashMap<u64, ExpectedAck, IdHash>,
    left: Option<Box<Left>>,
    /// The data that the application has set. Other servers of a cluster can read it.
    data: Option<Arc<Value>>,
    /// The bytes that `data` counts in the session's budget.
    data_bytes: usize,
}

/// An acknowledgement that is awaited.
#[derive(Debug)]
struct ExpectedAck {
    waiter: AckWaiter,
    /// When the event was sent. `None` if there is no observer.
    since: Option<Instant>,
}

/// Packets that were sent while the socket was connecting.
#[derive(Debug, Default)]
struct Held {
    packets: Vec<Encoded>,
    bytes: usize,
}

/// The state of a socket when it left.
#[derive(Debug)]
struct Left {
    reason: DisconnectReason,
    rooms: Vec<Arc<str>>,
}

/// What is left to do for a socket that has left: see [`Member::notify_left`].
#[must_use]
pub(super) struct Leaving {
    reason: DisconnectReason,
    was_connected: bool,
    /// When the events were sent whose acknowledgements do not arrive any more.
    acks: Vec<Instant>,
    dropped: Dropped,
}

impl State {
    /// Keeps a packet until the socket is connected. Returns `false` if the session is closed, or
    /// if too much is buffered, which closes it.
    fn hold(&mut self, packet: Encoded, session: &SharedSession) -> bool {
        let messages = packet.clone().into_iter();
        let bytes = messages.map(|each| Session::cost(&each)).sum::<usize>();
        if !session.hold(bytes) {
            return false;
        }
        let held = self.held.get_or_insert_default();
        held.bytes += bytes;
        held.packets.push(packet);
        true
    }

    /// Takes the packets that were held.
    fn take_held(&mut self, session: &SharedSession) -> Vec<Encoded> {
        let Held { packets, bytes } = *self.held.take().unwrap_or_default();
        session.release(bytes);
        packets
    }
}

const CONNECTING: u8 = 0;
const CONNECTED: u8 = 1;
const LEFT: u8 = 2;

impl Drop for Member {
    /// Drops the extensions and the recovery state. Their destructors are the application's code,
    /// and a panic in them must not reach the code that drops the last handle.
    fn drop(&mut self) {
        let state = self.state.get_mut();
        drop(state.take_held(&self.session));
        let rooms = state.left.take().map(|left| left.rooms);
        let names = rooms.iter().flatten().map(|room| room.len());
        let tracked = self.tracked.load(Ordering::Relaxed);
        let kept = tracked + state.data_bytes + names.sum::<usize>();
        let own = cost(&self.namespace.name, self.auth.as_deref());
        self.session.budget.release(own + kept);
        let extensions = std::mem::take(&mut self.extensions);
        let recovery = self.recovery.take();
        guarded_hook(|| drop(extensions));
        guarded_hook(|| drop(recovery));
    }
}

impl Member {
    pub(crate) fn new(
        id: SocketId,
        session: Arc<SharedSession>,
        namespace: Arc<LiveNamespace>,
        auth: &Payload,
    ) -> Self {
        let issued = SystemTime::now().duration_since(UNIX_EPOCH);
        let auth = std::str::from_utf8(auth.json()).unwrap_or_default();
        let auth = (!matches!(auth, "" | "{}")).then(|| auth.into());
        session
            .budget
            .reserve(cost(&namespace.name, auth.as_deref()));
        Self {
            id,
            session,
            namespace,
            issued: issued.map_or(0, |since| since.as_millis() as u64),
            auth,
            phase: AtomicU8::new(CONNECTING),
            last_delivered: AtomicU64::new(0),
            state: Mutex::default(),
            extensions: RwLock::default(),
            recovery: None,
            tracked: AtomicUsize::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.phase.load(Ordering::Acquire) == CONNECTED
    }

    pub(crate) fn has_left(&self) -> bool {
        self.phase.load(Ordering::Acquire) == LEFT
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.catch_up();
        self.is_connected() && self.session.is_writable()
    }

    /// Sends an event.
    pub(crate) fn emit(self: &Arc<Self>, ack: Option<u64>, payload: Payload) -> bool {
        self.notify_outgoing(&payload);
        if ack.is_none() && self.recovery.is_some() {
            return self.emit_recoverable(payload);
        }
        self.send(self.encode(Kind::Event, ack, payload))
    }

    /// Sends a volatile event, which recovery does not keep. The caller has checked that the client
    /// is ready.
    pub(crate) fn emit_volatile(self: &Arc<Self>, payload: Payload) {
        if self.recovery.is_none() {
            self.emit(None, payload);
            return;
        }
        self.notify_outgoing(&payload);
        self.emit_unrecoverable(payload);
    }

    /// Calls the hook and the observers for an event to this socket.
    #[inline]
    fn notify_outgoing(self: &Arc<Self>, payload: &Payload) {
        if let Some(sent) = OutgoingEvent::capture(&self.namespace.hooks, payload) {
            sent.notify(self);
        }
        let observers = &self.session.observers;
        if observers.is_empty() {
            return;
        }
        match self.is_connected() {
            true => observers.each(|observer| observer.event_sent(self, Sent::ToOne, payload)),
            false => self.report_later(payload),
        }
    }

    /// Keeps an event to a socket that is still connecting for the observers, until the socket is
    /// connected.
    #[cold]
    fn report_later(&self, payload: &Payload) {
        let mut state = self.lock();
        let is_connecting = self.phase.load(Ordering::Acquire) == CONNECTING;
        // Too many held packets close the session, so their number has a limit.
        if is_connecting && self.session.close_reason().is_none() {
            state.unreported.push(payload.clone());
        }
    }

    /// Reports to the observers that an event was dropped because the client was not ready.
    #[cold]
    pub(crate) fn notify_dropped(&self, count: usize) {
        let observers = &self.session.observers;
        observers.each(|observer| observer.volatile_dropped(count));
    }

    /// Sends the acknowledgement of an event.
    pub(crate) fn send_ack(&self, ack: u64, payload: Payload) {
        if self.is_connected() {
            self.send(self.encode(Kind::Ack, Some(ack), payload));
        }
    }

    /// Queues a packet. While the socket is connecting, the packet is held until CONNECT is sent.
    #[inline]
    pub(crate) fn send(&self, packet: Encoded) -> bool {
        if self.namespace.over_log().is_some_and(OverLog::is_busy) {
            return self.send_behind(Behind::Packet(packet));
        }
        self.catch_up();
        self.send_caught_up(packet)
    }

    /// Queues what must not overtake the events that wait for the log of a cluster.
    pub(super) fn send_behind(&self, behind: Behind) -> bool {
        let over_log = self.namespace.over_log();
        over_log.is_some_and(|over_log| self.namespace.send_behind(over_log, self, behind))
    }

    /// Like [`send`](Self::send), for a socket that has caught up.
    #[inline]
    pub(super) fn send_caught_up(&self, packet: Encoded) -> bool {
        match self.phase.load(Ordering::Acquire) {
            CONNECTED => self.session.send(packet),
            CONNECTING => self.hold(packet),
            _ => false,
        }
    }

    fn hold(&self, packet: Encoded) -> bool {
        let mut state = self.lock();
        match self.phase.load(Ordering::Acquire) {
            CONNECTED => self.session.send(packet),
            CONNECTING => state.hold(packet, &self.session),
            _ => false,
        }
    }

    /// Queues a packet of a broadcast.
    pub(super) fn send_outgoing(&self, outgoing: &Outgoing) {
        // Packets in the broadcast queue have lower offsets.
        self.catch_up();
        if outgoing.volatile && !(self.is_connected() && self.session.is_writable()) {
            self.notify_dropped(1);
            return;
        }
        self.record(outgoing.mark);
        self.send_caught_up(outgoing.packet.clone());
    }

    /// Delivers at once what the [broadcast queue](super::fanout) holds for the socket.
    pub(crate) fn catch_up(&self) {
        if self.namespace.fanout.is_busy() {
            self.namespace.flush_to(self);
        }
    }

    /// Queues packets of the broadcast queue up to the number `last`, without those that were
    /// delivered before.
    #[inline]
    pub(super) fn deliver<'a>(
        &self,
        last: u64,
        packets: impl Iterator<Item = (u64, &'a Outgoing)>,
    ) {
        let mut state = self.lock();
        let before = self.last_delivered();
        if before >= last {
            return;
        }
        let new = packets.filter(|(number, _)| *number > before);
        let packets = new.map(|(_, outgoing)| outgoing);
        let mut dropped = 0;
        match self.phase.load(Ordering::Acquire) {
            CONNECTED => {
                let packets = packets.inspect(|outgoing| self.record(outgoing.mark));
                dropped = self.session.send_queued(packets);
            }
            CONNECTING => packets.for_each(|outgoing| match outgoing.volatile {
                true => dropped += 1,
                false => {
                    self.record(outgoing.mark);
                    state.hold(outgoing.packet.clone(), &self.session);
                }
            }),
            _ => {}
        }
        self.last_delivered.store(last, Ordering::Release);
        drop(state);
        if dropped > 0 {
            self.notify_dropped(dropped);
        }
    }

    pub(super) fn last_delivered(&self) -> u64 {
        self.last_delivered.load(Ordering::Acquire)
    }

    /// Skips the packets up to `number`, which were queued before the socket joined the namespace.
    pub(super) fn skip_to(&self, number: u64) {
        self.last_delivered.store(number, Ordering::Relaxed);
    }

    /// Sends CONNECT, the missed packets and the held ones. Returns `false` if the socket has left already.
    pub(crate) fn accept(self: &Arc<Self>, connect: Encoded) -> bool {
        // First, because queued volatile packets are dropped for a socket that is still connecting.
        self.catch_up();
        let mut state = self.lock();
        if self.phase.load(Ordering::Acquire) != CONNECTING {
            return false;
        }
        // CONNECT and the missed packets are queued under one lock, so that the session cannot
        // close between them.
        let missed = self.take_missed().into_iter().flatten();
        self.session.send_connect(connect, missed);
        for packet in state.take_held(&self.session) {
            self.session.send(packet);
        }
        self.namespace.record_connected(self.id);
        self.phase.store(CONNECTED, Ordering::Release);
        let unreported = std::mem::take(&mut state.unreported);
        drop(state);
        let observers = &self.session.observers;
        observers.each(|observer| observer.socket_connected(self));
        for payload in &unreported {
            observers.each(|observer| observer.event_sent(self, Sent::ToOne, payload));
        }
        self.namespace.notify(&self.session, 2);
        true
    }

    /// Takes the packets that were held for a socket that left while it was connecting.
    pub(crate) fn take_held(&self) -> Vec<Encoded> {
        self.lock().take_held(&self.session)
    }

    /// Makes the socket leave its namespace and all rooms. Returns `false` if it has left already:
    /// the first reason stays. The socket cannot join again, whatever handlers do.
    pub(crate) fn leave(self: &Arc<Self>, reason: DisconnectReason) -> bool {
        let mut store = self.namespace.store();
        let leaving = self.leave_from(reason, store.as_mut());
        drop(store);
        let Some(leaving) = leaving else {
            return false;
        };
        self.notify_left(leaving);
        true
    }

    /// Calls the room hook, the observers and the trackers for a socket that has left. It is called
    /// under no lock.
    pub(super) fn notify_left(self: &Arc<Self>, leaving: Leaving) {
        let Leaving {
            reason,
            was_connected,
            acks,
            dropped,
        } = leaving;
        drop(dropped);
        for since in acks {
            self.notify_ack(since, AckOutcome::Disconnected);
        }
        if was_connected {
            let observers = &self.session.observers;
            observers.each(|observer| observer.socket_disconnected(self, reason));
        }
        if self.namespace.observes_rooms() {
            // The socket's own room changes too.
            let rooms = 1 + self.rooms().len();
            self.namespace.notify(&self.session, 2 * rooms);
        }
        self.namespace
            .each_tracker(|tracker| tracker.left(self, reason));
    }

    /// Makes the socket leave. Returns `None` if it has left already. The caller must call
    /// [`notify_left`](Self::notify_left) after it releases its locks.
    pub(super) fn leave_from(
        &self,
        reason: DisconnectReason,
        store: Option<&mut StoreGuard<'_>>,
    ) -> Option<Leaving> {
        self.catch_up();
        if !self.has_left() {
            self.namespace.note_leaving(&self.id);
        }
        let mut state = self.lock();
        let phase = self.phase.swap(LEFT, Ordering::AcqRel);
        if phase == LEFT {
            return None;
        }
        let rooms = self.namespace.remove(self, phase == CONNECTED);
        state.unreported = Vec::new();
        state.left = Some(Box::new(Left { reason, rooms }));
        let acks = std::mem::take(&mut state.acks);
        if !acks.is_empty() {
            self.session.acks_done(acks.len());
        }
        drop(state);
        let since = acks.values().filter_map(|ack| ack.since).collect();
        drop(acks);
        let was_connected = phase == CONNECTED;
        let dropped = store.and_then(|store| self.suspend(store, reason, was_connected));
        self.session.wake();
        Some(Leaving {
            reason,
            was_connected,
            acks: since,
            dropped,
        })
    }

    /// Makes the socket leave, and sends DISCONNECT to a connected client.
    pub(crate) fn disconnect(self: &Arc<Self>, reason: DisconnectReason) {
        let was_connected = self.is_connected();
        if was_connected {
            self.namespace.flush_departed(self);
        }
        if self.leave(reason) && was_connected {
            self.session
                .send(self.encode(Kind::Disconnect, None, Payload::default()));
        }
    }

    pub(crate) fn reason(&self) -> Option<DisconnectReason> {
        self.lock().left.as_ref().map(|left| left.reason)
    }

    /// Returns the rooms that the socket is in, or was in when it left.
    pub(crate) fn rooms(&self) -> Vec<Arc<str>> {
        if !self.has_left() {
            return self.namespace.rooms_of(&self.id);
        }
        let state = self.lock();
        state
            .left
            .as_ref()
            .map_or_else(Vec::new, |left| left.rooms.clone())
    }

    pub(crate) fn data(&self) -> Option<Arc<Value>> {
        self.lock().data.clone()
    }

    /// Sets the data. Returns `false` if the connection would keep more than `max` bytes.
    pub(crate) fn set_data(self: &Arc<Self>, data: Option<Arc<Value>>, max: usize) -> bool {
        let bytes = data.as_deref().map_or(0, of_data);
        let mut state = self.lock();
        let more = bytes.saturating_sub(state.data_bytes);
        if !self.session.budget.try_reserve(more, max) {
            return false;
        }
        let less = state.data_bytes.saturating_sub(bytes);
        self.session.budget.release(less);
        state.data_bytes = bytes;
        let former = std::mem::replace(&mut state.data, data);
        drop(state);
        drop(former);
        self.namespace.save_early(&self.id);
        let observers = &self.session.observers;
        observers.each(|observer| observer.data_changed(self));
        true
    }

    /// Counts bytes of a tracker until the socket is dropped. Returns `false` if the connection would keep
    /// more than `max` bytes.
    pub(crate) fn reserve_tracked(&self, bytes: usize, max: usize) -> bool {
        let is_reserved = self.session.budget.try_reserve(bytes, max);
        if is_reserved {
            self.tracked.fetch_add(bytes, Ordering::Relaxed);
        }
        is_reserved
    }

    /// Counts bytes of a tracker no longer.
    pub(crate) fn release_tracked(&self, bytes: usize) {
        let less = |tracked: usize| Some(tracked.saturating_sub(bytes));
        let before = self
            .tracked
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        // `less` never fails.
        let before = before.unwrap_or_default();
        self.session.budget.release(bytes.min(before));
    }

    /// Encodes a packet of this namespace with its parser.
    pub(crate) fn encode(&self, kind: Kind, ack: Option<u64>, payload: Payload) -> Encoded {
        encode(&self.namespace, kind, ack, payload)
    }

    /// Registers the receiver of an acknowledgement. It must be called before the event is sent, so
    /// that no acknowledgement arrives too early. Returns `false` if the socket is not connected.
    pub(crate) fn expect_ack(&self, ack: u64, waiter: AckWaiter) -> bool {
        let mut state = self.lock();
        if !self.is_connected() {
            drop(state);
            return false;
        }
        let since = self.session.observers.started();
        state.acks.insert(ack, ExpectedAck { waiter, since });
        self.session.ack_requested();
        true
    }

    pub(crate) fn forget_ack(&self, ack: u64) {
        let mut state = self.lock();
        let expected = state.acks.remove(&ack);
        if state.acks.is_empty() {
            state.acks = HashMap::default();
        }
        if expected.is_some() {
            self.session.acks_done(1);
        }
        drop(state);
        if let Some(since) = expected.and_then(|expected| expected.since) {
            self.notify_ack(since, AckOutcome::Timeout);
        }
    }

    fn notify_ack(&self, started: Instant, outcome: AckOutcome) {
        let took = since(started);
        let observers = &self.session.observers;
        observers.each(|observer| observer.ack_ended(self, outcome, took));
    }

    /// Passes an acknowledgement to its receiver. Without a receiver it is ignored.
    pub(crate) fn handle_ack(&self, ack: u64, payload: Payload) {
        let expected = self.lock().acks.remove(&ack);
        if let Some(ExpectedAck { waiter, since }) = expected {
            self.session.acks_done(1);
            if let Some(since) = since {
                self.notify_ack(since, AckOutcome::Answered);
            }
            waiter.answer(payload);
        }
    }
}

/// Returns the bytes that a socket counts in the session's budget. The name of its namespace counts
/// four times: it is stored as text, as a parameter, and in each of two tables.
pub(crate) fn cost(namespace: &str, auth: Option<&str>) -> usize {
    4 * namespace.len() + auth.map_or(0, str::len)
}

/// Encodes a packet with the parser of the namespace.
pub(crate) fn encode(
    namespace: &LiveNamespace,
    kind: Kind,
    ack: Option<u64>,
    payload: Payload,
) -> Encoded {
    let uncompressed = payload.uncompressed;
    let packet = Packet {
        namespace: namespace.name.clone(),
        kind,
        ack,
        payload,
    };
    let encoded = namespace.parser.encode(packet);
    match uncompressed {
        true => encoded.uncompressed(),
        false => encoded,
    }
}
