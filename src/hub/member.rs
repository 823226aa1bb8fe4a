//! One socket in one namespace.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use http::Extensions;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::DisconnectReason;
use super::budget::of_data;
use super::fanout::Outgoing;
use super::hooks::{OutgoingEvent, call};
use super::namespace::LiveNamespace;
use super::recovery::{Handover, Recoverable, RecoveryStore};
use super::rooms::IdHash;
use super::session::SharedSession;
use crate::engine_io::{Session, SocketId};
use crate::protocol::{Encoded, Kind, Packet, Payload};
use crate::sync::{Mutex, MutexGuard, RwLock};

/// One socket. Its lock may be held while its session's or its namespace's is taken, never the other
/// way round; the store's of its namespace is taken before.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) id: SocketId,
    pub(crate) session: Arc<SharedSession>,
    pub(crate) namespace: Arc<LiveNamespace>,
    /// When it asked to connect, in milliseconds since 1970.
    pub(crate) issued: u64,
    /// What it authenticated itself with, in JSON; none if with nothing.
    pub(crate) auth: Option<Box<str>>,
    phase: AtomicU8,
    /// The number of the last packet for many that it was given, or that was not for it. It
    /// changes under its lock.
    last_delivered: AtomicU64,
    state: Mutex<State>,
    pub(crate) extensions: RwLock<Extensions>,
    /// None without recovery.
    pub(crate) recovery: Option<Box<Recoverable>>,
}

#[derive(Debug, Default)]
struct State {
    held: Option<Box<Held>>,
    acks: HashMap<u64, AckWaiter, IdHash>,
    left: Option<Box<Left>>,
    /// What the application keeps of it, and other servers may see.
    data: Option<Arc<Value>>,
    /// What they count.
    data_bytes: usize,
}

/// What was sent before the client is told that it is in.
#[derive(Debug, Default)]
struct Held {
    packets: Vec<Encoded>,
    bytes: usize,
}

/// How it was when it left.
#[derive(Debug)]
struct Left {
    reason: DisconnectReason,
    rooms: Vec<Arc<str>>,
}

impl State {
    /// Keeps a packet until the client is told that it is in.
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

    /// Takes out what was held.
    fn take_held(&mut self, session: &SharedSession) -> Vec<Encoded> {
        let Held { packets, bytes } = *self.held.take().unwrap_or_default();
        session.release(bytes);
        packets
    }
}

const CONNECTING: u8 = 0;
const CONNECTED: u8 = 1;
const LEFT: u8 = 2;

/// Who waits for an acknowledgement. Dropped without an answer, the waiter learns that there will
/// be none.
#[derive(Debug)]
pub(crate) enum AckWaiter {
    One(oneshot::Sender<Payload>),
    Many(ManyWaiter),
}

/// One of the sockets that a broadcast asked.
#[derive(Debug)]
pub(crate) struct ManyWaiter {
    id: SocketId,
    answers: mpsc::UnboundedSender<(SocketId, Option<Payload>)>,
    answered: bool,
}

impl ManyWaiter {
    pub(crate) fn new(
        id: SocketId,
        answers: mpsc::UnboundedSender<(SocketId, Option<Payload>)>,
    ) -> Self {
        Self {
            id,
            answers,
            answered: false,
        }
    }
}

impl Drop for ManyWaiter {
    fn drop(&mut self) {
        if !self.answered {
            let _ = self.answers.send((self.id, None));
        }
    }
}

impl AckWaiter {
    fn answer(self, payload: Payload) {
        // Who no longer waits does not mind.
        match self {
            Self::One(sender) => drop(sender.send(payload)),
            Self::Many(mut waiter) => {
                waiter.answered = true;
                let _ = waiter.answers.send((waiter.id, Some(payload)));
            }
        }
    }
}

impl Drop for Member {
    /// The destructors of what was kept with it are the user's, and who happens to drop the last
    /// handle must not suffer from them.
    fn drop(&mut self) {
        let state = self.state.get_mut();
        drop(state.take_held(&self.session));
        let rooms = state.left.take().map(|left| left.rooms);
        let names = rooms.iter().flatten().map(|room| room.len());
        let kept = state.data_bytes + names.sum::<usize>();
        let own = cost(&self.namespace.name, self.auth.as_deref());
        self.session.budget.give_back(own + kept);
        let extensions = std::mem::take(&mut self.extensions);
        let recovery = self.recovery.take();
        call(|| drop(extensions));
        call(|| drop(recovery));
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
        session.budget.add(cost(&namespace.name, auth.as_deref()));
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
        if let Some(sent) = OutgoingEvent::seen(&self.namespace.hooks, &payload) {
            sent.notify(self);
        }
        if ack.is_none() && self.recovery.is_some() {
            return self.emit_recoverable(payload);
        }
        self.send(self.encode(Kind::Event, ack, payload))
    }

    /// Sends an event that need not arrive.
    pub(crate) fn emit_volatile(self: &Arc<Self>, payload: Payload) {
        if self.recovery.is_none() {
            self.emit(None, payload);
            return;
        }
        if let Some(sent) = OutgoingEvent::seen(&self.namespace.hooks, &payload) {
            sent.notify(self);
        }
        self.emit_unrecoverable(payload);
    }

    /// Answers an event.
    pub(crate) fn send_ack(&self, ack: u64, payload: Payload) {
        if self.is_connected() {
            self.send(self.encode(Kind::Ack, Some(ack), payload));
        }
    }

    /// Queues a packet, after CONNECT if the client is not told yet that it is in.
    pub(crate) fn send(&self, packet: Encoded) -> bool {
        self.catch_up();
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

    /// Queues a packet that is not for this socket alone.
    pub(super) fn send_outgoing(&self, outgoing: &Outgoing) {
        if outgoing.volatile && !self.is_writable() {
            return;
        }
        // What waits has lower numbers.
        self.catch_up();
        self.record_offset(outgoing.offset);
        self.send(outgoing.packet.clone());
    }

    /// Is given everything that [waits](super::fanout) for it.
    pub(crate) fn catch_up(&self) {
        if self.namespace.fanout.is_busy() {
            self.namespace.flush_to(self);
        }
    }

    /// Queues packets of a fan-out, up to this number, but those that it was given.
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
        match self.phase.load(Ordering::Acquire) {
            CONNECTED => self
                .session
                .send_queued(packets.inspect(|outgoing| self.record_offset(outgoing.offset))),
            CONNECTING => packets
                .filter(|outgoing| !outgoing.volatile)
                .for_each(|outgoing| {
                    self.record_offset(outgoing.offset);
                    state.hold(outgoing.packet.clone(), &self.session);
                }),
            _ => {}
        }
        self.last_delivered.store(last, Ordering::Release);
    }

    pub(super) fn last_delivered(&self) -> u64 {
        self.last_delivered.load(Ordering::Acquire)
    }

    /// It enters when so many packets were sent, which are of no concern to it.
    pub(super) fn skip_to(&self, number: u64) {
        self.last_delivered.store(number, Ordering::Relaxed);
    }

    /// Tells the client that it is in, and sends what was held. False if it has left meanwhile.
    pub(crate) fn accept(&self, connect: Encoded) -> bool {
        // What is volatile is not for who still connects.
        self.catch_up();
        let mut state = self.lock();
        if self.phase.load(Ordering::Acquire) != CONNECTING {
            return false;
        }
        // Together, so that no connection breaks in between.
        let missed = self.take_missed().into_iter().flatten();
        self.session.send_missed(missed, connect);
        for packet in state.take_held(&self.session) {
            self.session.send(packet);
        }
        self.namespace.accept(self.id);
        self.phase.store(CONNECTED, Ordering::Release);
        drop(state);
        self.namespace.notify(&self.session, 2);
        true
    }

    /// What a client that left while it was connecting was not sent after CONNECT.
    pub(crate) fn take_held(&self) -> Vec<Encoded> {
        self.lock().take_held(&self.session)
    }

    /// Leaves the namespace and all rooms, once; the first reason stays. Whatever handlers do
    /// afterwards, it does not come back.
    pub(crate) fn leave(&self, reason: DisconnectReason) -> bool {
        let mut store = self.namespace.store();
        let left = self.leave_from(reason, store.as_deref_mut());
        drop(store);
        if left && self.namespace.hooks.room.is_some() {
            // Its own room, too.
            let rooms = 1 + self.rooms().len();
            self.namespace.notify(&self.session, 2 * rooms);
        }
        left
    }

    /// Leaves, but does not tell of the rooms.
    pub(super) fn leave_from(
        &self,
        reason: DisconnectReason,
        store: Option<&mut RecoveryStore<Arc<Handover>>>,
    ) -> bool {
        self.catch_up();
        let mut state = self.lock();
        let phase = self.phase.swap(LEFT, Ordering::AcqRel);
        if phase == LEFT {
            return false;
        }
        let rooms = self.namespace.remove(self, phase == CONNECTED);
        state.left = Some(Box::new(Left { reason, rooms }));
        let acks = std::mem::take(&mut state.acks);
        if !acks.is_empty() {
            self.session.acks_done(acks.len());
        }
        drop(state);
        drop(acks);
        if let Some(store) = store {
            self.suspend(store, reason, phase == CONNECTED);
        }
        self.session.wake();
        true
    }

    /// Leaves, and tells the client so.
    pub(crate) fn disconnect(&self, reason: DisconnectReason) {
        let was_connected = self.is_connected();
        if self.leave(reason) && was_connected {
            self.session
                .send(self.encode(Kind::Disconnect, None, Payload::default()));
        }
    }

    pub(crate) fn reason(&self) -> Option<DisconnectReason> {
        self.lock().left.as_ref().map(|left| left.reason)
    }

    /// The rooms it is in, or was in when it left.
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

    /// Keeps data; false if the connection would keep more than `max` bytes then.
    pub(crate) fn set_data(&self, data: Option<Arc<Value>>, max: usize) -> bool {
        let bytes = data.as_deref().map_or(0, of_data);
        let mut state = self.lock();
        let more = bytes.saturating_sub(state.data_bytes);
        if !self.session.budget.take(more, max) {
            return false;
        }
        let less = state.data_bytes.saturating_sub(bytes);
        self.session.budget.give_back(less);
        state.data_bytes = bytes;
        let former = std::mem::replace(&mut state.data, data);
        drop(state);
        drop(former);
        true
    }

    /// What its data count.
    pub(super) fn data_bytes(&self) -> usize {
        self.lock().data_bytes
    }

    /// Puts a packet of this namespace into the parser's words.
    pub(crate) fn encode(&self, kind: Kind, ack: Option<u64>, payload: Payload) -> Encoded {
        encode(&self.namespace, kind, ack, payload)
    }

    /// Registers who waits for an acknowledgement: before the question leaves, so that no answer
    /// comes too early. False if the socket is not connected.
    pub(crate) fn expect(&self, ack: u64, waiter: AckWaiter) -> bool {
        let mut state = self.lock();
        if !self.is_connected() {
            drop(state);
            return false;
        }
        state.acks.insert(ack, waiter);
        self.session.ack_requested();
        true
    }

    pub(crate) fn forget_ack(&self, ack: u64) {
        let mut state = self.lock();
        let waiter = state.acks.remove(&ack);
        if state.acks.is_empty() {
            state.acks = HashMap::default();
        }
        if waiter.is_some() {
            self.session.acks_done(1);
        }
        drop(state);
        drop(waiter);
    }

    /// Hands an answer to who waits for it; one that nobody waits for is ignored.
    pub(crate) fn answer(&self, ack: u64, payload: Payload) {
        let waiter = self.lock().acks.remove(&ack);
        if let Some(waiter) = waiter {
            self.session.acks_done(1);
            waiter.answer(payload);
        }
    }
}

/// What a socket counts that is in a namespace of this name: that is kept as text, as a parameter,
/// and in each of two tables.
pub(crate) fn cost(namespace: &str, auth: Option<&str>) -> usize {
    4 * namespace.len() + auth.map_or(0, str::len)
}

/// Puts a packet into the parser's words.
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
