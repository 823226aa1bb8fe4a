//! Recovery over the log of a cluster, in a namespace and its sockets.
//!
//! ```text
//! emit ──▶ Departures, and the broker ──▶ the log ──▶ the reader of every server
//! acks, saved sockets ─▶ behind them                      │
//!     own entries: the front of Departures  ◀─────────────┤
//!     entries of other servers              ◀─────────────┘
//!              └──▶ SharedLog: a copy ──▶ the clients
//! ```

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_core::future::BoxFuture;

use super::departures::{Departed, Departures, Step};
use super::handover::{Handover, StoreGuard};
use super::offset::{Mark, Offset};
use super::saved::SavedSocket;
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
}

/// Sockets that are to be saved while they are connected.
#[derive(Debug, Default)]
struct Early {
    /// In the order of the times.
    due: VecDeque<(Instant, SocketId)>,
    changed: HashSet<SocketId, IdHash>,
}

/// How long an event waits for the log before it is delivered without an offset.
pub(crate) const LOG_TIMEOUT: Duration = Duration::from_secs(1);

/// How many events may wait for the log.
const MAX_DEPARTED: usize = 10_000;

/// How long a client waits for the broker to find its socket.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the other servers may take to say whether they have a socket.
const HAND_OVER_TIMEOUT: Duration = Duration::from_millis(250);

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
        }
    }

    /// Returns whether anything departed has not come back.
    pub(crate) fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::Acquire)
    }

    /// Returns whether nothing departed can come back any more.
    pub(crate) fn is_idle(&self) -> bool {
        self.departures.lock().is_idle()
    }

    /// Changes the departures.
    fn change<R>(&self, change: impl FnOnce(&mut Departures<Arc<Member>>) -> R) -> R {
        let mut departures = self.departures.lock();
        let result = change(&mut departures);
        *self.late.lock() = departures.late();
        self.is_busy.store(departures.is_busy(), Ordering::Release);
        result
    }

    /// Returns whether a socket that was sent an event without an offset is recoverable again when it
    /// is sent one with an offset: the log has passed the former.
    pub(super) fn is_settled(&self, number: u64, since: Offset, offset: Offset) -> bool {
        let (first, settled) = *self.late.lock();
        number < first && offset > settled.max(since)
    }

    /// Records that a socket is to be saved early. `is_new` is for one that has just connected.
    fn save_early(&self, id: &SocketId, is_new: bool) {
        let Some(early) = &self.early else { return };
        let mut early = early.lock();
        match is_new {
            true => early.due.push_front((now(), *id)),
            false => {
                early.changed.insert(*id);
            }
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
    dropped: Vec<Dropped>,
}

impl Later {
    fn new(namespace: &Arc<LiveNamespace>) -> Self {
        Self {
            namespace: Arc::clone(namespace),
            has_queued: false,
            sockets: Vec::new(),
            members: Vec::new(),
            dropped: Vec::new(),
        }
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        if self.has_queued {
            self.namespace.spawn_fanout();
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

    fn take(&mut self) -> Option<SavedSocket> {
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
        if let Operation::Emit { payload, .. } = &operation {
            if let Some(sent) = OutgoingEvent::capture(&self.hooks, payload) {
                // The hook runs under no lock.
                let selected = self.select(target);
                selected.iter().for_each(|member| sent.notify(member));
            }
        }
        let mut later = Later::new(self);
        let Some(mut store) = self.store() else {
            return Err(ClusterError::CLOSED);
        };
        let (others, mut confirm) = (self.others(), confirm);
        let sent = match others.filter(|_| !local) {
            Some(others) => others.send(&self.name, target, &operation, confirm.take()),
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
                departures.depart(number, target.clone(), operation, now());
                match is_connected && departures.len() <= MAX_DEPARTED {
                    true => departures.take_ready(),
                    false => departures.release(now()),
                }
            });
            self.run_steps(over_log, &mut store, steps, None, &mut later);
        }
        drop(store);
        drop(later);
        if let Some(rest) = rest {
            self.apply(target, rest);
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
    pub(crate) fn apply_at(self: &Arc<Self>, target: &Target, operation: Operation, at: Offset) {
        let Some(over_log) = self.over_log() else {
            return self.apply(target, operation);
        };
        let Operation::Emit { payload, volatile } = operation else {
            let (name, target_) = (self.name.clone(), target.clone());
            if let Some(content) = Content::of(operation.clone()) {
                over_log.log.lock().push(at, name, target_, content, now());
            }
            return self.apply(target, operation);
        };
        if let Some(sent) = OutgoingEvent::capture(&self.hooks, &payload) {
            let selected = self.select(target);
            selected.iter().for_each(|member| sent.notify(member));
        }
        let mut later = Later::new(self);
        let Some(mut store) = self.store() else {
            return;
        };
        let selected = self.select(target);
        let is_for_none = selected.iter().next().is_none();
        later.sockets.push(selected);
        if is_for_none && !volatile {
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
            departures.depart(None, target.clone(), operation, now());
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
                    self.deliver_departed(over_log, store, departed, Place::At(at), later);
                }
                (Step::Keep(departed), Some(at)) => self.keep_departed(over_log, departed, at),
                // They come with an offset only.
                (Step::Deliver(_) | Step::Keep(_), None) => {}
                (Step::DeliverUnnumbered(departed, number), _) => {
                    let place = Place::Nowhere(number);
                    self.deliver_departed(over_log, store, departed, place, later);
                }
                (Step::Send(member, packet), _) => {
                    member.catch_up();
                    member.send_caught_up(packet);
                    later.members.push(member);
                }
                (Step::Save(id), _) => self.save_suspended(store, &id, later),
            }
        }
    }

    /// Ends the connection of a socket that another server has restored. It is not suspended.
    pub(crate) fn displaced(self: &Arc<Self>, id: &SocketId) {
        let Some(member) = self.find(id) else { return };
        let mut store = self.store();
        let left = member.leave_from(DisconnectReason::TransportClose, None);
        if let Some(store) = store.as_mut().filter(|_| left.is_some()) {
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
        if let Place::At(at) = place {
            for (id, is_meant) in &departed.meant {
                store.except(id, at, *is_meant);
            }
        }
        let Operation::Emit { payload, volatile } = departed.operation else {
            // It was done when it departed.
            if let Place::At(at) = place {
                self.keep_departed(over_log, departed, at);
            }
            return;
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
        packet: Encoded,
    ) -> bool {
        let store = self.store();
        let is_selected = |target: &Target| self.lock().rooms.is_recipient(&to.id, target);
        let member = self.find(&to.id);
        let member = member.filter(|found| std::ptr::eq(&**found, to));
        let mut packet = Some(packet);
        if let Some(member) = &member {
            over_log.change(|departures| {
                if departures.concerns(&to.id, is_selected) {
                    if let Some(packet) = packet.take() {
                        departures.send_behind(Arc::clone(member), packet);
                    }
                }
            });
        }
        drop(store);
        // The last handle of a socket is dropped under no lock.
        drop(member);
        packet.is_none_or(|packet| to.send_caught_up(packet))
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
                            mark: Mark::Unnumbered(0),
                        });
                    }
                }
                Step::Send(other, packet) => {
                    member.catch_up();
                    member.send_caught_up(packet);
                    later.members.push(other);
                }
                Step::Deliver(_) | Step::Keep(_) | Step::Save(_) => {}
            }
        }
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
        self.note(id, is_for_all, |_| false);
    }

    /// Records for which departed events a socket is meant, before it leaves. The caller holds the lock
    /// of the store.
    pub(in crate::hub) fn note_leaving(&self, id: &SocketId) {
        self.note(
            id,
            |_| true,
            |target| self.lock().rooms.is_recipient(id, target),
        );
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

    fn save_suspended(&self, store: &mut StoreGuard<'_>, id: &SocketId, later: &mut Later) {
        later.dropped.push(self.save_now(store, id));
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
            let recovery = member.recovery.as_ref()?;
            let is_lost = !member.is_connected() || recovery.is_unnumbered();
            if is_lost {
                return None;
            }
            let saved = store.saved(&member.id, &self.name, recovery.sent(), member.data())?;
            let within = store.budget.config.within;
            Some(self.others()?.save(saved, within))
        });
        drop(dropped);
    }

    /// Records that a socket has connected, or that its rooms or its data have changed.
    pub(in crate::hub) fn save_early(&self, id: &SocketId, is_new: bool) {
        if let Some(over_log) = self.over_log() {
            over_log.save_early(id, is_new);
        }
    }

    /// Saves the connected sockets that are due.
    fn save_due(&self) {
        let early = self.over_log().and_then(|over_log| over_log.early.as_ref());
        let Some(early) = early else { return };
        let again = now() + self.recovery_window() / 2;
        let mut state = early.lock();
        let mut due: Vec<_> = state.changed.drain().collect();
        while let Some((_, id)) = state.due.front().filter(|(at, _)| *at <= now()) {
            due.push(*id);
            state.due.pop_front();
        }
        drop(state);
        for id in due {
            if let Some(member) = self.find(&id) {
                self.save_connected(&member);
                early.lock().due.push_back((again, id));
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
        if self.hand_over(&private_id) {
            self.departed().await;
        }
        let claimed = |socket| Claimed {
            socket: Some(Box::new(socket)),
            namespace: Arc::clone(self),
        };
        let mut found = others.take(&private_id).await.map(claimed);
        if found.is_none() && self.ask_hand_over(&*others, private_id).await {
            found = others.take(&private_id).await.map(claimed);
        }
        let claimed = found?;
        // The server before may have read further in the log.
        let needs = claimed.socket.as_ref()?.needs(offset);
        let over_log = self.over_log()?;
        while over_log.log.lock().last() < needs {
            tokio::time::sleep(POLL).await;
        }
        Some(claimed)
    }

    /// Asks the other servers for a socket whose connection they may still believe in. Returns whether
    /// one of them had it, and has saved it.
    async fn ask_hand_over(&self, others: &dyn OtherServers, id: PrivateId) -> bool {
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

    /// Makes a socket leave whose client has come back elsewhere, and saves it. Returns whether this
    /// server had it, or has suspended it. [`departed`](Self::departed) then waits until it is saved.
    pub(crate) fn hand_over(self: &Arc<Self>, private_id: &PrivateId) -> bool {
        let Some(mut store) = self.store() else {
            return false;
        };
        let Some(id) = store.find_id(private_id) else {
            return false;
        };
        let Some(former) = self.find(&id) else {
            return true;
        };
        let reason = DisconnectReason::TransportClose;
        let dropped = former.leave_from(reason, Some(&mut store));
        drop(store);
        drop(dropped);
        self.notify(&former.session, 2 * (1 + former.rooms().len()));
        former.session.close(CloseReason::TransportClose);
        true
    }

    /// Restores a saved socket. Returns `None` if that is not possible without a gap.
    pub(super) fn restore_saved(
        self: &Arc<Self>,
        store: &mut StoreGuard<'_>,
        claimed: &mut Claimed,
        offset: Option<&str>,
    ) -> Option<Restored<Arc<Handover>>> {
        let over_log = self.over_log()?;
        let mut saved = claimed.take()?;
        let mut missed = Vec::new();
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
                store.forget(&saved.id);
                return None;
            }
        };
        let handover = store.insert_saved(&saved, sent);
        let handover = handover.unwrap_or_else(|| Arc::new(Handover::of_data(None)));
        handover.set_data(saved.data.clone());
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
        operation: Operation,
        at: Offset,
    ) {
        loop {
            if let Some(namespace) = self.find(name) {
                return namespace.apply_at(target, operation, at);
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
        if let Some(log) = &self.shared_log {
            log.lock().begin(at);
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
