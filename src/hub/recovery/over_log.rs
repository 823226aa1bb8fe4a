//! Recovery over the log of a cluster, in a namespace and its sockets.
//!
//! ```text
//! emit ──▶ Departures, and the broker ──▶ the log ──▶ the reader of every server
//! acks, saved sockets ─▶ behind them                      │
//!     own entries: the front of Departures  ◀─────────────┤
//!     entries of other servers              ◀─────────────┘
//!              └──▶ SharedLog: a copy ──▶ the clients
//! ```

use std::collections::HashMap;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_core::future::BoxFuture;
use tokio::sync::{Notify, Semaphore};

use super::departures::{Behind, Departed, Departures, Step};
use super::handover::{Handover, StoreGuard};
use super::offset::{Mark, Offset};
use super::saved::{NotRestored, SavedSocket, read_offset};
use super::shared_log::{Content, SharedLog};
use super::store::Restored;
use super::{PrivateId, Recovery};
use crate::clock::now;
use crate::engine_io::{CloseReason, SocketId};
use crate::hub::hooks::OutgoingEvent;
use crate::hub::id_hash::IdHash;
use crate::hub::member::{Member, encode};
use crate::hub::namespace::LiveNamespace;
use crate::hub::other_servers::{
    Answer, ClaimOutcome, Confirm, Dropped, Operation, OtherServers, Question, Sent,
};
use crate::hub::queue::Outgoing;
use crate::hub::selection::{Selection, Target};
use crate::hub::{ClusterError, DisconnectReason, Hub};
use crate::protocol::{Claim, Encoded, Kind, NamespaceName, Payload};
use crate::sync::Mutex;

/// Recovery over the log of a cluster, in one namespace.
#[derive(Debug)]
pub(crate) struct OverLog {
    pub(super) log: Arc<Mutex<SharedLog>>,
    /// It is locked after the store, and before all others.
    departures: Mutex<Departures<Arc<Member>>>,
    /// Whether anything departed has not come back.
    is_busy: AtomicBool,
    /// See [`Departures::late`].
    late: Mutex<(u64, Offset)>,
    /// The sockets that are to be saved while they are connected. `None` if none are.
    early: Option<Mutex<Early>>,
    /// The operation on rooms of another server that is being done to the sockets of this one.
    being_done: Mutex<Option<Offset>>,
    /// Notified when sockets were saved that waited behind events.
    saved: Notify,
    /// Limits the questions to other servers for a socket.
    questions: Semaphore,
}

/// Sockets that are to be saved while they are connected.
#[derive(Debug, Default)]
struct Early {
    /// When each socket is to be saved.
    due: HashMap<SocketId, Instant, IdHash>,
}

/// How long an event waits for the log before it is delivered without an offset.
pub(crate) const LOG_TIMEOUT: Duration = Duration::from_secs(1);

/// How many events may wait for the log.
const MAX_DEPARTED: usize = 10_000;

/// How long a client waits for the broker to find its socket.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the other servers may take to say whether they have a socket.
const HAND_OVER_TIMEOUT: Duration = Duration::from_millis(250);

/// How many questions for sockets are open at a time. Beyond that a client gets a new socket: anybody can
/// make up a private id.
const MAX_QUESTIONS: usize = 64;

/// How often a condition without a notification is looked at.
const POLL: Duration = Duration::from_millis(2);

impl OverLog {
    pub(crate) fn new(log: &Arc<Mutex<SharedLog>>, config: &Recovery) -> Self {
        Self {
            log: Arc::clone(log),
            departures: Mutex::default(),
            is_busy: AtomicBool::new(false),
            late: Mutex::new((u64::MAX, Offset::default())),
            early: config.save_early.then(Mutex::default),
            being_done: Mutex::default(),
            saved: Notify::new(),
            questions: Semaphore::new(MAX_QUESTIONS),
        }
    }

    /// Returns whether anything departed has not come back.
    pub(crate) fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::Acquire)
    }

    /// Returns whether it is known which entries this server has.
    pub(super) fn has_begun(&self) -> bool {
        self.log.lock().has_begun()
    }

    /// Returns whether nothing departed can come back any more.
    pub(crate) fn is_idle(&self) -> bool {
        self.departures.lock().is_idle()
    }

    /// Changes the departures. The caller holds the lock of the store.
    fn change<R>(&self, change: impl FnOnce(&mut Departures<Arc<Member>>) -> R) -> R {
        let mut departures = self.departures.lock();
        let result = change(&mut departures);
        *self.late.lock() = departures.late();
        if departures.is_busy() {
            self.is_busy.store(true, Ordering::Release);
        }
        result
    }

    /// Records that the steps after a change were run: nothing overtakes them.
    fn steps_done(&self) {
        let is_busy = self.departures.lock().is_busy();
        self.is_busy.store(is_busy, Ordering::Release);
    }

    /// Returns the last entry of the log of which all is done, for a socket that leaves.
    pub(super) fn done_up_to(&self, last: Offset) -> Offset {
        self.being_done.lock().map_or(last, Offset::before)
    }

    /// Drops what waits. The server ends.
    pub(crate) fn clear(&self) {
        let departures = std::mem::take(&mut *self.departures.lock());
        drop(departures);
    }

    /// Returns whether a socket that was sent an event without an offset is recoverable again when it
    /// is sent one with an offset: the log has passed the former.
    pub(super) fn is_settled(&self, number: u64, since: Offset, offset: Offset) -> bool {
        let (first, settled) = *self.late.lock();
        number < first && offset > settled.max(since)
    }

    /// Records that a socket is to be saved early.
    fn save_early(&self, id: &SocketId) {
        if let Some(early) = &self.early {
            early.lock().due.insert(*id, now());
        }
    }
}

/// What is left to do when no lock is held any more.
struct Later {
    namespace: Arc<LiveNamespace>,
    has_queued: bool,
    /// The last handle of a socket drops values of the application.
    sockets: Vec<Selection<Arc<Member>>>,
    members: Vec<Arc<Member>>,
    /// Operations on the rooms of restored sockets.
    operations: Vec<(SocketId, Operation)>,
    saves: bool,
    dropped: Vec<Dropped>,
}

impl Later {
    fn new(namespace: &Arc<LiveNamespace>) -> Self {
        Self {
            namespace: Arc::clone(namespace),
            has_queued: false,
            sockets: Vec::new(),
            members: Vec::new(),
            operations: Vec::new(),
            saves: false,
            dropped: Vec::new(),
        }
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        if self.has_queued {
            self.namespace.spawn_fanout();
        }
        for (id, operation) in self.operations.drain(..) {
            let target = Target::of(&id);
            self.namespace.apply(&target, operation);
        }
        if let Some(over_log) = self.namespace.over_log().filter(|_| self.saves) {
            over_log.saved.notify_waiters();
        }
    }
}

/// A saved socket that a client has claimed. It is saved again if the client does not get it.
pub(crate) struct Claimed {
    socket: Option<Box<SavedSocket>>,
    namespace: Arc<LiveNamespace>,
}

impl Claimed {
    pub(super) fn id(&self) -> Option<SocketId> {
        Some(self.socket.as_ref()?.id)
    }

    /// Returns the bytes that the socket counts in the budget of a connection.
    pub(super) fn cost(&self) -> usize {
        self.socket.as_ref().map_or(0, |socket| socket.cost())
    }

    pub(super) fn take(&mut self) -> Option<SavedSocket> {
        self.socket.take().map(|socket| *socket)
    }
}

impl fmt::Debug for Claimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claimed").finish_non_exhaustive()
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        let within = self.namespace.recovery_window();
        if let (Some(socket), Some(others)) = (self.take(), self.namespace.others()) {
            drop(others.save(socket, within));
        }
    }
}

/// Where an event is in the log.
#[derive(Clone, Copy)]
enum Place {
    At(Offset),
    /// It has no place, or not yet: the number is that of the message.
    Nowhere(Option<u64>),
    /// It is for this server alone, and is not recovered.
    Local,
}

// Events.

impl LiveNamespace {
    /// Sends an operation to the log, or only to the sockets of this server if `local`. An event is
    /// delivered when it comes back, any other operation is done at once.
    pub(in crate::hub) fn depart(
        self: &Arc<Self>,
        over_log: &OverLog,
        target: &Target,
        operation: Operation,
        local: bool,
        confirm: Option<Confirm>,
    ) -> Result<(), ClusterError> {
        let mut later = Later::new(self);
        let Some(mut store) = self.store() else {
            return Err(ClusterError::CLOSED);
        };
        let (others, mut confirm) = (self.others(), confirm);
        let sent = match others.filter(|_| !local) {
            // The log is read without a namespace that was removed meanwhile.
            Some(others) => {
                let departs = !self.is_removed();
                others.send(&self.name, target, &operation, confirm.take(), departs)
            }
            None => Ok(Sent {
                number: None,
                dropped: None,
            }),
        };
        let (number, result) = match sent {
            Ok(sent) => {
                later.dropped.push(sent.dropped);
                (sent.number, Ok(()))
            }
            Err(error) => (None, Err(error)),
        };
        let rest = match &operation {
            Operation::Emit { .. } => None,
            other => Some(other.clone()),
        };
        let is_connected = others.is_some_and(|others| others.is_connected());
        // An operation on sockets that no server logs has no place among the departed ones.
        if number.is_some() || rest.is_none() {
            let steps = over_log.change(|departures| {
                departures.depart(number, local, target.clone(), operation, now());
                match is_connected {
                    true => departures.release_beyond(MAX_DEPARTED),
                    false => departures.release(now()),
                }
            });
            self.run_steps(over_log, &mut store, steps, None, &mut later);
        }
        drop(store);
        drop(later);
        if let Some(rest) = rest {
            self.apply(target, rest);
            if let Some(number) = number {
                let _store = self.store();
                over_log.change(|departures| departures.done(number));
            }
        }
        if let Some(confirm) = confirm {
            // An error means that nobody waits.
            let _ = confirm.send(result);
        }
        result
    }

    /// Handles the return of a message of this server from the log.
    pub(crate) fn returned(self: &Arc<Self>, number: u64, offset: Offset) {
        let Some(over_log) = self.over_log() else {
            return;
        };
        let mut later = Later::new(self);
        let Some(mut store) = self.store() else {
            return;
        };
        let steps = over_log.change(|departures| departures.returned(number, offset));
        self.run_steps(over_log, &mut store, steps, Some(offset), &mut later);
        over_log.log.lock().advance(offset);
        self.sweep_later(&store.budget);
        drop(store);
    }

    /// Handles the loss of a message of this server: it does not come into the log.
    pub(crate) fn lost(self: &Arc<Self>, number: u64) {
        self.change_departures(|departures, last| departures.lost(number, last));
    }

    /// Delivers what was sent up to `until`, and has not come back, without offsets.
    pub(crate) fn release_departed(self: &Arc<Self>, until: Instant) {
        if self.over_log().is_some_and(OverLog::is_busy) {
            self.change_departures(|departures, _| departures.release(until));
        }
    }

    fn change_departures(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Departures<Arc<Member>>, Offset) -> Vec<Step<Arc<Member>>>,
    ) {
        let Some(over_log) = self.over_log() else {
            return;
        };
        let mut later = Later::new(self);
        let Some(mut store) = self.store() else {
            return;
        };
        let last = over_log.log.lock().last();
        let steps = over_log.change(|departures| change(departures, last));
        self.run_steps(over_log, &mut store, steps, None, &mut later);
        drop(store);
    }

    /// Does an operation of another server, at its place in the log.
    /// Returns `false` if the namespace has been removed.
    fn apply_at(self: &Arc<Self>, target: &Target, operation: &Operation, at: Offset) -> bool {
        let Some(over_log) = self.over_log() else {
            self.apply(target, operation.clone());
            return true;
        };
        let Operation::Emit { payload, volatile } = operation else {
            let store = self.store();
            if self.is_removed() {
                return false;
            }
            if let Some(content) = Content::of(operation.clone()) {
                // A socket that leaves meanwhile may not have it done. It is done again then.
                *over_log.being_done.lock() = Some(at);
                let (name, target) = (self.name.clone(), target.clone());
                over_log.log.lock().push(at, name, target, content, now());
            }
            drop(store);
            self.apply(target, operation.clone());
            let store = self.store();
            *over_log.being_done.lock() = None;
            drop(store);
            return true;
        };
        let (payload, volatile) = (payload.clone(), *volatile);
        if let Some(sent) = OutgoingEvent::capture(&self.hooks, &payload) {
            let selected = self.select(target);
            selected.iter().for_each(|member| sent.notify(member));
        }
        let mut later = Later::new(self);
        let Some(mut store) = self.store() else {
            return true;
        };
        if self.is_removed() {
            return false;
        }
        let selected = self.select(target);
        let is_for_none = selected.iter().next().is_none();
        later.sockets.push(selected);
        if is_for_none && volatile {
            over_log.log.lock().advance(at);
        } else if is_for_none {
            let (name, target) = (self.name.clone(), target.clone());
            let content = Content::Event(payload);
            over_log.log.lock().push(at, name, target, content, now());
        } else {
            let place = Place::At(at);
            self.send_at(
                over_log, &mut store, place, target, payload, volatile, &mut later,
            );
        }
        self.sweep_later(&store.budget);
        drop(store);
        true
    }

    /// Sends an event to the sockets of this server that is not in the log.
    pub(in crate::hub) fn send_unnumbered(
        self: &Arc<Self>,
        target: &Target,
        payload: Payload,
        volatile: bool,
    ) {
        let operation = Operation::Emit { payload, volatile };
        self.change_departures(|departures, _| {
            departures.depart(None, false, target.clone(), operation, now());
            departures.take_ready()
        });
    }

    fn run_steps(
        self: &Arc<Self>,
        over_log: &OverLog,
        store: &mut StoreGuard<'_>,
        steps: Vec<Step<Arc<Member>>>,
        at: Option<Offset>,
        later: &mut Later,
    ) {
        for step in steps {
            match (step, at) {
                (Step::Deliver(departed), Some(at)) => {
                    self.record_meant(store, &departed, at, later);
                    self.deliver_departed(over_log, store, departed, Place::At(at), later);
                }
                (Step::Keep(departed), Some(at)) => {
                    self.record_meant(store, &departed, at, later);
                    self.keep_departed(over_log, departed, at);
                }
                // They come with an offset only.
                (Step::Deliver(_) | Step::Keep(_), None) => {}
                (Step::DeliverUnnumbered(departed, number), _) => {
                    // Their rooms will say something wrong of it, and they are saved before it is in the
                    // log.
                    for id in departed.meant.keys().filter(|_| number.is_some()) {
                        store.forget_suspended(id);
                    }
                    let place = Place::Nowhere(number);
                    self.deliver_departed(over_log, store, departed, place, later);
                }
                (Step::Send(member, behind), _) => {
                    self.send_waited(store, &member, behind);
                    later.members.push(member);
                }
                (Step::Save(id), _) => {
                    later.saves = true;
                    later.dropped.push(self.save_now(store, &id));
                }
            }
        }
        over_log.steps_done();
    }

    /// Records for which sockets an operation is, whose rooms say something else by now, or will when the
    /// log is read again.
    fn record_meant(
        &self,
        store: &mut StoreGuard<'_>,
        departed: &Departed,
        at: Offset,
        later: &mut Later,
    ) {
        for (id, is_meant) in &departed.meant {
            if departed.is_event() {
                store.except_event(id, at, &departed.target, *is_meant);
                continue;
            }
            store.except(id, at, *is_meant);
            let is_selected = || self.lock().rooms.is_recipient(id, &departed.target);
            if *is_meant && is_selected() {
                later.operations.push((*id, departed.operation.clone()));
            }
        }
    }

    /// Sends what has waited behind events for a socket.
    fn send_waited(&self, store: &StoreGuard<'_>, member: &Member, behind: Behind) -> bool {
        member.catch_up();
        let packet = match behind {
            Behind::Packet(packet) => packet,
            Behind::Event(mut payload) => {
                store.mark_volatile(&mut payload);
                encode(self, Kind::Event, None, payload)
            }
        };
        member.send_caught_up(packet)
    }

    /// Ends the connection of a socket that another server has restored. It is not suspended.
    /// `at` was the end of the log for that server.
    pub(crate) fn displaced(self: &Arc<Self>, id: &SocketId, at: Offset) {
        let Some(mut store) = self.store() else {
            return;
        };
        // One that is suspended here is no longer that of the client.
        store.forget_suspended(id);
        let member = self.find(id);
        let entered = |member: &Member| member.recovery.as_ref().map(|each| each.entered);
        // The client may have come back here in the meantime.
        let is_former = |member: &Arc<Member>| entered(member).is_none_or(|entered| entered <= at);
        let Some(member) = member.filter(is_former) else {
            return;
        };
        if member
            .leave_from(DisconnectReason::TransportClose, None)
            .is_some()
        {
            store.forget(id);
        }
        drop(store);
        self.notify(&member.session, 2 * (1 + member.rooms().len()));
        member.session.close(CloseReason::TransportClose);
    }

    fn keep_departed(&self, over_log: &OverLog, departed: Departed, at: Offset) {
        let Departed {
            target, operation, ..
        } = departed;
        let Some(mut content) = Content::of(operation) else {
            return;
        };
        if let Content::Event(payload) = &mut content {
            content = Content::Packet(self.encode_at(std::mem::take(payload), at));
        }
        let name = self.name.clone();
        over_log.log.lock().push(at, name, target, content, now());
    }

    fn encode_at(&self, mut payload: Payload, at: Offset) -> Encoded {
        payload.push_text(&at.to_string());
        encode(self, Kind::Event, None, payload)
    }

    /// Delivers an event that has departed, to the sockets that were meant then.
    fn deliver_departed(
        self: &Arc<Self>,
        over_log: &OverLog,
        store: &mut StoreGuard<'_>,
        departed: Departed,
        place: Place,
        later: &mut Later,
    ) {
        let is_local = departed.is_local;
        let Operation::Emit { payload, volatile } = departed.operation else {
            // It was done when it departed.
            if let Place::At(at) = place {
                self.keep_departed(over_log, departed, at);
            }
            return;
        };
        let place = match place {
            Place::Nowhere(_) if is_local => Place::Local,
            place => place,
        };
        let mut target = departed.target;
        let mut meant_alone = Vec::new();
        let original = target.clone();
        for (id, is_meant) in departed.meant {
            let Some(member) = self.find(&id) else {
                continue;
            };
            match (is_meant, self.lock().rooms.is_recipient(&id, &original)) {
                (true, false) => meant_alone.push(Arc::clone(&member)),
                (false, true) => target.except.push(id.as_str().into()),
                (true, true) | (false, false) => {}
            }
            later.members.push(member);
        }
        if meant_alone.is_empty() && target.except.len() == original.except.len() {
            return self.send_at(over_log, store, place, &target, payload, volatile, later);
        }
        let outgoing = self.outgoing(over_log, store, place, &original, payload, volatile);
        for member in &meant_alone {
            member.send_outgoing(&outgoing);
        }
        self.send_later(&target, outgoing, later);
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "an event, its place and the locks"
    )]
    fn send_at(
        self: &Arc<Self>,
        over_log: &OverLog,
        store: &mut StoreGuard<'_>,
        place: Place,
        target: &Target,
        payload: Payload,
        volatile: bool,
        later: &mut Later,
    ) {
        let outgoing = self.outgoing(over_log, store, place, target, payload, volatile);
        self.send_later(target, outgoing, later);
    }

    fn send_later(&self, target: &Target, outgoing: Outgoing, later: &mut Later) {
        match self.send_to(target, outgoing) {
            Some(few) => later.sockets.push(few),
            None => later.has_queued = true,
        }
    }

    /// Encodes an event, and keeps it if it has a place in the log.
    fn outgoing(
        &self,
        over_log: &OverLog,
        store: &mut StoreGuard<'_>,
        place: Place,
        target: &Target,
        mut payload: Payload,
        volatile: bool,
    ) -> Outgoing {
        let (packet, mark) = match place {
            Place::At(at) if !volatile => {
                let packet = self.encode_at(payload, at);
                let (name, content) = (self.name.clone(), Content::Packet(packet.clone()));
                let mut log = over_log.log.lock();
                log.push(at, name, target.clone(), content, now());
                (packet, Mark::Offset(at))
            }
            place => {
                let mark = match place {
                    Place::At(at) => {
                        over_log.log.lock().advance(at);
                        Mark::None
                    }
                    Place::Local => Mark::None,
                    Place::Nowhere(_) if volatile => Mark::None,
                    Place::Nowhere(number) => Mark::Unnumbered(number.unwrap_or_default()),
                };
                store.mark_volatile(&mut payload);
                (encode(self, Kind::Event, None, payload), mark)
            }
        };
        Outgoing {
            packet,
            volatile,
            mark,
        }
    }
}

// What must not overtake events.

impl LiveNamespace {
    /// Sends a packet to one socket, behind the events for it that have departed.
    pub(in crate::hub) fn send_behind(
        &self,
        over_log: &OverLog,
        to: &Member,
        behind: Behind,
    ) -> bool {
        let Some(store) = self.store() else {
            return false;
        };
        let member = self.find(&to.id);
        let member = member.filter(|found| std::ptr::eq(&**found, to));
        let mut behind = Some(behind);
        if let Some(member) = &member {
            over_log.change(|departures| {
                let state = self.lock();
                let is_selected = |target: &Target| state.rooms.is_recipient(&to.id, target);
                if departures.concerns(&to.id, is_selected) {
                    if let Some(behind) = behind.take() {
                        departures.send_behind(Arc::clone(member), behind);
                    }
                }
            });
        }
        let sent = behind.is_none_or(|behind| self.send_waited(&store, to, behind));
        drop(store);
        // The last handle of a socket is dropped under no lock.
        drop(member);
        sent
    }

    /// Sends what waits for a socket, before it is disconnected.
    pub(in crate::hub) fn flush_departed(self: &Arc<Self>, member: &Member) {
        let Some(over_log) = self.over_log().filter(|over_log| over_log.is_busy()) else {
            return;
        };
        let mut later = Later::new(self);
        let Some(store) = self.store() else {
            return;
        };
        let is_selected = |target: &Target| self.lock().rooms.is_recipient(&member.id, target);
        let is_member = |other: &Arc<Member>| std::ptr::eq(&**other, member);
        let steps =
            over_log.change(|departures| departures.take_for(&member.id, is_selected, is_member));
        for step in steps {
            match step {
                Step::DeliverUnnumbered(departed, _) => {
                    if let Operation::Emit {
                        mut payload,
                        volatile,
                    } = departed.operation
                    {
                        store.mark_volatile(&mut payload);
                        member.send_outgoing(&Outgoing {
                            packet: encode(self, Kind::Event, None, payload),
                            volatile,
                            mark: match departed.is_local {
                                true => Mark::None,
                                false => Mark::Unnumbered(0),
                            },
                        });
                    }
                }
                Step::Send(other, behind) => {
                    self.send_waited(&store, member, behind);
                    later.members.push(other);
                }
                Step::Deliver(_) | Step::Keep(_) | Step::Save(_) => {}
            }
        }
        over_log.steps_done();
        drop(store);
    }

    /// Records for which departed events a socket is meant, before it joins or leaves a room. The caller
    /// holds the lock of the store.
    pub(in crate::hub) fn note_room(&self, id: &SocketId, room: &str) {
        let names = |target: &Target| {
            let mut names = target.rooms.iter().chain(&target.except);
            names.any(|name| **name == *room)
        };
        self.note(id, names, |target| {
            self.lock().rooms.is_recipient(id, target)
        });
    }

    /// Records that the events that have departed are not for a new socket. The caller holds the lock of
    /// the store.
    pub(super) fn note_new(&self, id: &SocketId) {
        let is_for_all = |target: &Target| {
            let own = |name: &Arc<str>| **name == *id.as_str();
            target.rooms.is_empty() || target.rooms.iter().any(own)
        };
        if let Some(over_log) = self.over_log().filter(|over_log| over_log.is_busy()) {
            over_log.change(|departures| departures.note_new(id, is_for_all));
        }
    }

    /// Records that the operations on rooms that have departed are still to be done to a restored socket.
    /// The caller holds the lock of the store.
    pub(super) fn note_restored(&self, id: &SocketId) {
        if let Some(over_log) = self.over_log().filter(|over_log| over_log.is_busy()) {
            over_log.change(|departures| departures.note_restored(id));
        }
    }

    /// Records for which departed events a socket is meant, before it leaves. The caller holds the lock
    /// of the store.
    pub(in crate::hub) fn note_leaving(&self, id: &SocketId) {
        if let Some(over_log) = self.over_log().filter(|over_log| over_log.is_busy()) {
            over_log.change(|departures| {
                let state = self.lock();
                departures.note_leaving(id, |target| state.rooms.is_recipient(id, target));
            });
        }
    }

    fn note(
        &self,
        id: &SocketId,
        is_changed: impl Fn(&Target) -> bool,
        is_selected: impl Fn(&Target) -> bool,
    ) {
        if let Some(over_log) = self.over_log().filter(|over_log| over_log.is_busy()) {
            over_log.change(|departures| departures.note(id, is_changed, is_selected));
        }
    }

    /// Forgets the events that may come back from the log: it does not have them any more.
    fn forget_late(self: &Arc<Self>, at: Offset) {
        if let (Some(over_log), Some(_store)) = (self.over_log(), self.store()) {
            over_log.change(|departures| departures.forget_late(at));
        }
    }

    /// Waits until a suspended socket is saved that waits behind events.
    pub(crate) async fn saved(&self, id: &SocketId) {
        let Some(over_log) = self.over_log() else {
            return;
        };
        loop {
            let mut saved = pin!(over_log.saved.notified());
            saved.as_mut().enable();
            let store = self.store();
            let is_waiting = over_log.departures.lock().saves(id);
            drop(store);
            if !is_waiting {
                return;
            }
            saved.await;
        }
    }

    /// Waits until everything that has departed has come back, or was delivered without an offset.
    pub(crate) async fn departed(&self) {
        while self.over_log().is_some_and(OverLog::is_busy) {
            tokio::time::sleep(POLL).await;
        }
    }
}

// Saved sockets.

impl LiveNamespace {
    /// Returns how long a suspended socket waits for its client.
    fn recovery_window(&self) -> Duration {
        let store = self.store();
        store.map_or(Duration::ZERO, |store| store.budget.config.within)
    }

    /// Saves a suspended socket when everything that was sent before has come back.
    pub(super) fn save_later(
        self: &Arc<Self>,
        store: &mut StoreGuard<'_>,
        id: &SocketId,
    ) -> Dropped {
        let over_log = self.over_log()?;
        let is_busy = over_log.change(|departures| {
            if departures.is_busy() {
                departures.save_behind(*id);
            }
            departures.is_busy()
        });
        if is_busy {
            return None;
        }
        self.save_now(store, id)
    }

    fn save_now(&self, store: &mut StoreGuard<'_>, id: &SocketId) -> Dropped {
        let data = store.handover(id)?.data();
        let saved = store.saved(id, &self.name, Offset::default(), data)?;
        let within = store.budget.config.within;
        self.others()?.save(saved, within)
    }

    /// Saves a connected socket.
    fn save_connected(&self, member: &Member) {
        let dropped = self.store().and_then(|store| {
            // What is queued for it counts as sent.
            member.catch_up();
            let recovery = member.recovery.as_ref()?;
            let is_lost = !member.is_connected() || recovery.is_unnumbered();
            if is_lost {
                return None;
            }
            let mut saved = store.saved(&member.id, &self.name, recovery.sent(), member.data())?;
            saved.is_connected = true;
            saved.presence.floor = saved.presence.floor.max(recovery.floor());
            let within = store.budget.config.within;
            Some(self.others()?.save(saved, within))
        });
        drop(dropped);
    }

    /// Records that a socket has connected, or that its rooms or its data have changed.
    pub(in crate::hub) fn save_early(&self, id: &SocketId) {
        if let Some(over_log) = self.over_log() {
            over_log.save_early(id);
        }
    }

    /// Saves the connected sockets that are due.
    fn save_due(&self) {
        let early = self.over_log().and_then(|over_log| over_log.early.as_ref());
        let Some(early) = early else { return };
        let again = now().checked_add(self.recovery_window() / 2);
        let mut state = early.lock();
        let now = now();
        let due = state.due.iter().filter(|(_, at)| **at <= now);
        let due: Vec<_> = due.map(|(id, _)| *id).collect();
        for id in &due {
            state.due.remove(id);
        }
        drop(state);
        for id in due {
            if let Some(member) = self.find(&id) {
                self.save_connected(&member);
                // A change in the meantime is earlier.
                if let Some(again) = again {
                    early.lock().due.entry(id).or_insert(again);
                }
            }
        }
    }

    /// Forgets a socket that was saved while it was connected.
    pub(super) fn forget_saved(&self, id: &PrivateId) -> Dropped {
        let over_log = self.over_log()?;
        over_log.early.as_ref()?;
        self.others()?.forget(id)
    }

    /// Returns the future of the saved socket that a client claims. Returns `None` if no broker saves
    /// sockets.
    pub(crate) fn claim(
        self: &Arc<Self>,
        claim: &Claim,
    ) -> Option<BoxFuture<'static, Option<Claimed>>> {
        self.over_log()?;
        let private_id = PrivateId::parse(&claim.pid)?;
        if claim
            .offset
            .as_deref()
            .is_some_and(|text| read_offset(text).is_none())
        {
            // It is not worth a question.
            return None;
        }
        let (namespace, offset) = (Arc::clone(self), claim.offset.clone());
        Some(Box::pin(async move {
            let claimed = namespace.take_claimed(private_id, offset.as_deref());
            let claimed = tokio::time::timeout(CLAIM_TIMEOUT, claimed).await;
            let claimed = claimed.unwrap_or_default();
            if claimed.is_none() {
                tracing::debug!(
                    namespace = &*namespace.name,
                    "no server has the claimed socket"
                );
                if let Some(others) = namespace.others() {
                    others.count_claim(ClaimOutcome::NotRestored);
                }
            }
            claimed
        }))
    }

    async fn take_claimed(
        self: &Arc<Self>,
        private_id: PrivateId,
        offset: Option<&str>,
    ) -> Option<Claimed> {
        let others = Arc::clone(self.others()?);
        if let Some(id) = self.hand_over(&private_id) {
            self.saved(&id).await;
        }
        let claimed = |socket| Claimed {
            socket: Some(Box::new(socket)),
            namespace: Arc::clone(self),
        };
        let mut found = others.take(&private_id).await.map(claimed);
        // A server that still has the socket knows more than what it has saved early.
        let is_early = |claimed: &Claimed| {
            claimed
                .socket
                .as_ref()
                .is_some_and(|each| each.is_connected)
        };
        if found.as_ref().is_none_or(is_early) && self.ask_hand_over(&*others, private_id).await {
            if let Some(newer) = others.take(&private_id).await {
                // The former one is not saved again.
                found.as_mut().and_then(Claimed::take);
                found = Some(claimed(newer));
            }
        }
        let claimed = found?;
        // The server before may have read further in the log, and this one waits for its own events.
        let needs = claimed.socket.as_ref()?.needs(offset);
        let over_log = self.over_log()?;
        loop {
            let progress = over_log.log.lock().progress();
            let mut read = pin!(progress.notified());
            read.as_mut().enable();
            let has_late = over_log.departures.lock().has_late();
            if over_log.log.lock().last() >= needs && !has_late {
                return Some(claimed);
            }
            read.await;
        }
    }

    /// Asks the other servers for a socket whose connection they may still believe in. Returns whether
    /// one of them had it, and has saved it.
    async fn ask_hand_over(&self, others: &dyn OtherServers, id: PrivateId) -> bool {
        let Some(Ok(_permit)) = self
            .over_log()
            .map(|over_log| over_log.questions.try_acquire())
        else {
            return false;
        };
        let Ok(mut answers) = others.ask(&self.name, Question::HandOver(id)) else {
            return false;
        };
        let found = async {
            loop {
                match answers.next().await {
                    Some(Answer::HandedOver(true)) => return true,
                    Some(_) => {}
                    None => return false,
                }
            }
        };
        let found = tokio::time::timeout(HAND_OVER_TIMEOUT, found).await;
        let found = found.unwrap_or_default();
        if found {
            others.count_claim(ClaimOutcome::HandedOver);
        }
        found
    }

    /// Makes a socket leave whose client has come back elsewhere, and saves it. Returns its id if this
    /// server had it, or has suspended it. [`saved`](Self::saved) then waits until it is saved.
    pub(crate) fn hand_over(self: &Arc<Self>, private_id: &PrivateId) -> Option<SocketId> {
        let mut store = self.store()?;
        let id = store.find_id(private_id)?;
        let Some(former) = self.find(&id) else {
            return Some(id);
        };
        let reason = DisconnectReason::TransportClose;
        let dropped = former.leave_from(reason, Some(&mut store));
        drop(store);
        drop(dropped);
        self.notify(&former.session, 2 * (1 + former.rooms().len()));
        former.session.close(CloseReason::TransportClose);
        Some(id)
    }

    /// Restores a saved socket. Returns `None` if that is not possible without a gap.
    pub(super) fn restore_saved(
        self: &Arc<Self>,
        store: &mut StoreGuard<'_>,
        claimed: &mut Claimed,
        offset: Option<&str>,
    ) -> Option<Restored<Arc<Handover>>> {
        let over_log = self.over_log()?;
        let mut saved = claimed.socket.as_deref()?.clone();
        let mut missed = Vec::new();
        let has_late = over_log.departures.lock().has_late();
        let mut log = over_log.log.lock();
        let sent = saved.catch_up(&self.name, offset, &mut log, |entry| {
            let at = entry.offset;
            if let Content::Event(payload) = &mut entry.content {
                let packet = self.encode_at(std::mem::take(payload), at);
                entry.content = Content::Packet(packet);
            }
            if let Content::Packet(packet) = &entry.content {
                missed.push(packet.clone());
            }
        });
        drop(log);
        // An event of this server may not be in the log yet, although it was delivered.
        let sent = sent.and_then(|sent| match has_late {
            true => Err(NotRestored::NotKept),
            false => Ok(sent),
        });
        let outcome = match &sent {
            Ok(_) => ClaimOutcome::Restored,
            Err(_) => ClaimOutcome::NotRestored,
        };
        if let Some(others) = self.others() {
            others.count_claim(outcome);
        }
        let sent = match sent {
            Ok(sent) => sent,
            Err(reason) => {
                tracing::debug!(namespace = &*self.name, %reason, "a socket is not restored");
                claimed.take();
                store.forget(&saved.id);
                return None;
            }
        };
        let handover = store.insert_saved(&saved, sent);
        let handover = handover.unwrap_or_else(|| {
            // It was suspended on another server.
            Arc::new(Handover::of_data(saved.data.clone()))
        });
        self.note_restored(&saved.id);
        Some(Restored {
            id: saved.id,
            private_id: saved.private_id,
            rooms: saved.presence.rooms.keys().cloned().collect(),
            missed,
            sent,
            handover: Some(handover),
        })
    }
}

impl Hub {
    /// Does an operation of the log at its place, or keeps it for clients that come back.
    pub(crate) fn apply_at(
        self: &Arc<Self>,
        name: &NamespaceName,
        target: &Target,
        operation: &Operation,
        at: Offset,
    ) {
        loop {
            if let Some(namespace) = self.find(name) {
                if namespace.apply_at(target, operation, at) {
                    return;
                }
                continue;
            }
            let mut is_kept = false;
            // A namespace that is opened in this moment has the entry in its log, or delivers it.
            self.unless_open(name, || {
                self.keep_at(name, target, operation.clone(), at);
                is_kept = true;
            });
            if is_kept {
                return;
            }
        }
    }

    /// Keeps an operation of the log for clients that come back.
    pub(crate) fn keep_at(
        &self,
        name: &NamespaceName,
        target: &Target,
        operation: Operation,
        at: Offset,
    ) {
        let Some(log) = &self.shared_log else { return };
        let mut log = log.lock();
        match Content::of(operation) {
            Some(content) => log.push(at, name.clone(), target.clone(), content, now()),
            None => log.advance(at),
        }
    }

    /// Records that an entry of the log was read that does nothing to sockets.
    pub(crate) fn advance_log(&self, at: Offset) {
        if let Some(log) = &self.shared_log {
            log.lock().advance(at);
        }
    }

    /// Forgets the log: entries up to an offset are unknown, or some of them are missing.
    pub(crate) fn begin_log(&self, at: Offset) {
        let Some(log) = &self.shared_log else { return };
        log.lock().begin(at);
        for namespace in self.namespaces() {
            namespace.forget_late(at);
        }
    }

    /// Delivers what has waited for the log too long, and saves the sockets that are due.
    pub(crate) fn tick_recovery(&self, until: Option<Instant>) {
        if self.shared_log.is_none() {
            return;
        }
        let until = until.or_else(|| now().checked_sub(LOG_TIMEOUT));
        for namespace in self.namespaces() {
            if let Some(until) = until {
                namespace.release_departed(until);
            }
            namespace.save_due();
        }
    }

    /// Waits until all namespaces have [departed](LiveNamespace::departed), for some time at most.
    pub(crate) async fn departed(&self) {
        let all = async {
            for namespace in self.namespaces() {
                namespace.departed().await;
            }
        };
        if tokio::time::timeout(LOG_TIMEOUT, all).await.is_err() {
            self.tick_recovery(Some(now()));
        }
    }
}
