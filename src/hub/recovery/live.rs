//! Recovery in a namespace and its sockets.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::departures::Behind;
use super::handover::{DeferredDrop, Handover, SocketData, StoreGuard};
use super::log::{Log, Recipients};
use super::offset::{Mark, Offset};
use super::over_log::{Claimed, OverLog};
use super::store::{Packets, RecoveryStore, Restored};
use super::{PrivateId, RecoveryBudget};
use crate::clock::now;
use crate::engine_io::{CloseReason, SocketId};
use crate::hub::budget::of_data;
use crate::hub::member::{Leaving, Member, encode};
use crate::hub::namespace::{LiveNamespace, Membership};
use crate::hub::observer::RecoveryResult;
use crate::hub::other_servers::{Dropped, Operation};
use crate::hub::queue::Outgoing;
use crate::hub::selection::{Selection, Target};
use crate::hub::session::SharedSession;
use crate::hub::{DisconnectReason, Hub};
use crate::protocol::{Claim, Encoded, Kind, Payload};
use crate::random::random;
use crate::sync::Mutex;

/// The request of a client to connect to a namespace.
#[derive(Debug)]
pub(crate) struct JoinRequest<'a> {
    /// The id of a new socket. A restored one keeps its id.
    pub(crate) id: SocketId,
    pub(crate) auth: &'a Payload,
    /// The private id of a new socket. A restored one keeps its private id. `None` for a client
    /// that cannot recover.
    pub(crate) private_id: Option<PrivateId>,
    /// The socket that the client asks to restore.
    pub(crate) claim: Option<&'a Claim>,
    /// That socket, if the broker of a cluster has kept it.
    pub(crate) claimed: Option<Claimed>,
}

/// The recovery state of a socket.
#[derive(Debug)]
pub(crate) struct Recoverable {
    pub(crate) private_id: PrivateId,
    /// The offset of the last packet that was sent to the socket. Senders do not run at the same time.
    sent: [AtomicU64; 2],
    /// The end of the log when the socket was admitted.
    pub(super) entered: Offset,
    unnumbered: Mutex<Unnumbered>,
    is_unnumbered: AtomicBool,
    /// The handover from the suspended socket that this one restores.
    handover: Option<Arc<Handover>>,
    /// Whether this socket has the data of the handover.
    has_data: AtomicBool,
    /// The missed packets, which are sent after CONNECT.
    missed: Mutex<Vec<Encoded>>,
    /// The handover to the socket that restores this one.
    left: OnceLock<Arc<Handover>>,
}

/// The events that a socket was sent without an offset.
#[derive(Debug, Default)]
struct Unnumbered {
    /// The highest of their numbers, and the end of the log when the last one was sent. Until the log has
    /// passed them, the socket cannot be restored.
    last: Option<(u64, Offset)>,
    /// The offset of the first packet after the last one that the log has passed. A client that has not
    /// received that packet may or may not have received the event before it.
    floor: Offset,
}

impl Recoverable {
    fn new(private_id: PrivateId, sent: Offset, entered: Offset) -> Self {
        Self {
            private_id,
            sent: [AtomicU64::new(sent.high), AtomicU64::new(sent.low)],
            entered,
            unnumbered: Mutex::default(),
            is_unnumbered: AtomicBool::new(false),
            handover: None,
            has_data: AtomicBool::new(false),
            missed: Mutex::default(),
            left: OnceLock::new(),
        }
    }

    /// Returns the offset of the last packet that was sent to the socket.
    pub(super) fn sent(&self) -> Offset {
        let [high, low] = &self.sent;
        Offset::new(high.load(Ordering::Relaxed), low.load(Ordering::Relaxed))
    }

    /// Returns whether the socket was sent an event without an offset that the log has not passed.
    pub(super) fn is_unnumbered(&self) -> bool {
        self.is_unnumbered.load(Ordering::Relaxed)
    }

    /// Returns the first offset that a client may name which comes back.
    pub(super) fn floor(&self) -> Offset {
        self.unnumbered.lock().floor
    }

    fn record(&self, mark: Mark, over_log: Option<&OverLog>) {
        match (mark, over_log) {
            (Mark::None, _) => {}
            (Mark::Offset(offset), over_log) => {
                let [high, low] = &self.sent;
                high.store(offset.high, Ordering::Relaxed);
                low.store(offset.low, Ordering::Relaxed);
                if let Some(over_log) = over_log.filter(|_| self.is_unnumbered()) {
                    let mut unnumbered = self.unnumbered.lock();
                    let is_settled = unnumbered
                        .last
                        .is_none_or(|(number, since)| over_log.is_settled(number, since, offset));
                    if is_settled {
                        *unnumbered = Unnumbered {
                            last: None,
                            floor: offset.next(),
                        };
                        self.is_unnumbered.store(false, Ordering::Relaxed);
                    }
                }
            }
            (Mark::Unnumbered(number), Some(over_log)) => {
                let end = over_log.log.lock().last();
                let mut unnumbered = self.unnumbered.lock();
                // One that does not come back has the number 0. An earlier one may still come back.
                let earlier = unnumbered.last.map_or(0, |(earlier, _)| earlier);
                unnumbered.last = Some((number.max(earlier), end));
                drop(unnumbered);
                self.is_unnumbered.store(true, Ordering::Relaxed);
            }
            (Mark::Unnumbered(_), None) => {}
        }
    }

    /// Returns the id, the recovery state and the rooms of a restored socket.
    fn restored(
        restored: Restored<Arc<Handover>>,
        entered: Offset,
    ) -> (SocketId, Self, Vec<Arc<str>>) {
        let recoverable = Self {
            handover: restored.handover,
            missed: Mutex::new(restored.missed),
            ..Self::new(restored.private_id, restored.sent, entered)
        };
        (restored.id, recoverable, restored.rooms)
    }
}

impl LiveNamespace {
    /// Locks the store, if recovery is on. It is locked before all other locks of the namespace.
    pub(crate) fn store(&self) -> Option<StoreGuard<'_>> {
        let store = self.store.as_ref()?;
        let store = store.lock();
        Some(StoreGuard(Some(store)))
    }

    /// Adds a client, as a new socket or as the one that it asks to restore. Returns `None` if the
    /// namespace has been removed.
    pub(crate) fn admit(
        self: &Arc<Self>,
        session: &Arc<SharedSession>,
        mut request: JoinRequest<'_>,
    ) -> Option<Membership> {
        let member = |id| Member::new(id, Arc::clone(session), Arc::clone(self), request.auth);
        let store = request
            .private_id
            .and_then(|private_id| Some((private_id, self.store()?)));
        let Some((private_id, mut store)) = store else {
            return self.insert(Arc::new(member(request.id)), &[]);
        };
        *store.budget.runtime.lock() = Some(session.runtime.clone());
        let claim = request.claim;
        let mut displaced = None;
        let mut is_known = false;
        let restored = match (&mut request.claimed, claim) {
            (Some(claimed), Some(claim)) => {
                is_known = claimed.id().is_some();
                let offset = claim.offset.as_deref();
                displaced = self.displace_claimed(&mut store, claimed);
                let fits = session.budget.fits(claimed.cost(), self.max_kept());
                fits.then(|| self.restore_saved(&mut store, claimed, offset))
                    .flatten()
            }
            (None, Some(claim)) if self.over_log().is_none() => {
                let found = store.find(claim);
                is_known = found.is_some();
                // The restored socket has to fit into the budget of the new connection.
                let found = found.filter(|id| session.budget.fits(store.cost(id), self.max_kept()));
                displaced = found.and_then(|id| self.displace(&mut store, &id));
                let offset = claim.offset.as_deref();
                found.and_then(|id| store.restore(id, offset, now()))
            }
            _ => None,
        };
        let (is_restored, entered) = (restored.is_some(), store.last());
        let (id, recoverable, rooms) = match restored {
            Some(restored) => Recoverable::restored(restored, store.last()),
            None => {
                store.insert(request.id, private_id);
                let late = self.note_new(&request.id);
                let recoverable = Recoverable::new(private_id, store.last(), store.last());
                // What the log has may not be known yet.
                let is_unknown = |over_log: &&OverLog| !over_log.has_begun();
                let late = late.or_else(|| self.over_log().filter(is_unknown).map(|_| 0));
                if let Some(number) = late {
                    recoverable.record(Mark::Unnumbered(number), self.over_log());
                }
                (request.id, recoverable, Vec::new())
            }
        };
        let member = member(id).with_recovery(recoverable);
        let membership = self.insert(Arc::new(member), &rooms);
        if membership.is_none() {
            store.forget(&id);
        }
        drop(store);
        self.notify(session, 2 * rooms.len());
        if let Some((displaced, leaving)) = displaced {
            if let Some(leaving) = leaving {
                displaced.notify_left(leaving);
            }
            displaced.session.close(CloseReason::TransportClose);
        }
        if membership.is_some() && claim.is_some() {
            let result = match (is_restored, is_known) {
                (true, _) => RecoveryResult::Recovered,
                (false, true) => RecoveryResult::Expired,
                (false, false) => RecoveryResult::Unknown,
            };
            self.observers
                .each(|observer| observer.recovery(self, result));
        }
        if let Some(Membership(member)) = membership.as_ref().filter(|_| is_restored) {
            self.each_tracker(|tracker| tracker.restored(member));
        }
        if let (Some(_), Some(others), Some(_)) = (&membership, self.others(), self.over_log()) {
            if is_restored {
                // The client has it now. Otherwise it is saved again.
                request.claimed.as_mut().and_then(Claimed::take);
                others.displace(&self.name, &id, entered);
            }
            self.save_early(&id);
        }
        membership
    }

    /// Returns whether the store has a socket, connected or suspended.
    pub(crate) fn has_stored(&self, id: &SocketId) -> bool {
        self.store().is_some_and(|store| store.contains(id))
    }

    /// Returns whether a client that recovers skips the connect handler.
    pub(crate) fn skips_connect_handler(&self) -> bool {
        let store = self.store();
        store.is_some_and(|store| store.budget.config.skip_connect_handler)
    }

    /// Marks a namespace that has only suspended sockets as removed, and returns their handovers,
    /// which the caller must drop under no lock. Returns `None` if the namespace stays.
    pub(in crate::hub) fn abandon(&self) -> Option<DeferredDrop> {
        if self.is_static {
            return None;
        }
        if self.over_log().is_some_and(|over_log| !over_log.is_idle()) {
            return None;
        }
        let mut store = self.store()?;
        if !self.mark_removed_if_empty() {
            return None;
        }
        store.abandon();
        Some(DeferredDrop(std::mem::take(&mut store.dropped_later)))
    }

    /// Does an operation on the suspended sockets of this process, and returns the others that it is for.
    /// Over the log of a cluster, a socket that comes back finds the operation there.
    pub(in crate::hub) fn apply_to_suspended(
        &self,
        target: &Target,
        operation: &Operation,
    ) -> Selection<Arc<Member>> {
        let store = self.store().filter(|_| self.over_log().is_none());
        let Some(mut store) = store else {
            return self.select(target);
        };
        for id in store.suspended_among(target) {
            self.change_suspended(&mut store, &id, operation);
        }
        // Under the lock of the store: a socket that is restored from now on is changed already.
        self.select(target)
    }

    /// Does an operation on a selected socket that has left since. Returns the restored one, if its client
    /// is back.
    pub(in crate::hub) fn apply_to_left(
        &self,
        id: &SocketId,
        operation: &Operation,
    ) -> Option<Arc<Member>> {
        let mut store = self.store().filter(|_| self.over_log().is_none())?;
        if store.is_suspended(id) {
            self.change_suspended(&mut store, id, operation);
            return None;
        }
        self.find(id)
    }

    fn change_suspended(&self, store: &mut StoreGuard<'_>, id: &SocketId, operation: &Operation) {
        match operation {
            // Messages of other servers for the room would not arrive: it gets a new socket.
            Operation::Join(_) if self.others().is_some_and(|others| others.wants_rooms()) => {
                store.forget(id);
            }
            Operation::Join(rooms) => {
                for room in rooms {
                    if store.room_count(id) < self.max_rooms && **room != *id.as_str() {
                        store.join(id, room);
                    }
                }
            }
            Operation::Leave(rooms) => {
                for room in rooms {
                    store.leave_room(id, room);
                }
            }
            Operation::Disconnect { .. } => store.forget(id),
            Operation::Emit { .. } => {}
        }
    }

    /// Makes a socket leave that is not suspended yet, because its client asks to restore it. The
    /// caller must report that it has left, close its session, and drop it, under no lock.
    fn displace(
        &self,
        store: &mut StoreGuard<'_>,
        id: &SocketId,
    ) -> Option<(Arc<Member>, Option<Leaving>)> {
        let former = self.find(id)?;
        let leaving = former.leave_from(DisconnectReason::TransportClose, Some(store));
        Some((former, leaving))
    }

    /// Does the same for a claimed socket that another server has given up. It is not suspended.
    fn displace_claimed(
        &self,
        store: &mut StoreGuard<'_>,
        claimed: &Claimed,
    ) -> Option<(Arc<Member>, Option<Leaving>)> {
        let former = self.find(&claimed.id()?)?;
        let leaving = former.leave_from(DisconnectReason::TransportClose, None);
        store.forget(&former.id);
        Some((former, leaving))
    }

    /// Does the same as [`send_to`](Self::send_to), and keeps the packet unless it is volatile.
    pub(in crate::hub) fn send_recoverable(
        &self,
        store: &mut StoreGuard<'_>,
        target: &Target,
        mut payload: Payload,
        volatile: bool,
    ) -> Option<Selection<Arc<Member>>> {
        let (offset, packet) = if volatile {
            store.mark_volatile(&mut payload);
            (None, encode(self, Kind::Event, None, payload))
        } else {
            let (offset, packet) = self.keep(store, Recipients::Many(target.clone()), payload);
            (Some(offset), packet)
        };
        self.send_to(
            target,
            Outgoing {
                packet,
                volatile,
                mark: offset.map_or(Mark::None, Mark::Offset),
            },
        )
    }

    /// Encodes an event with its offset, and keeps it.
    fn keep(
        &self,
        store: &mut StoreGuard<'_>,
        to: Recipients,
        mut payload: Payload,
    ) -> (Offset, Encoded) {
        let offset = store.next();
        payload.push_text(&store.text(offset));
        let packet = encode(self, Kind::Event, None, payload);
        store.keep(to, &packet, now());
        self.sweep_later(&store.budget);
        (offset, packet)
    }

    /// Starts the task that drops expired packets and sockets, if there is none. Without the task
    /// they would stay until the next operation on the store.
    pub(super) fn sweep_later(&self, budget: &Arc<RecoveryBudget>) {
        if !budget.claim_sweep() {
            return;
        }
        let every = budget.config.within.clamp(SHORTEST_SWEEP, LONGEST_SWEEP);
        let sweeper = || Sweeper {
            hub: self.weak_hub(),
            budget: Arc::clone(budget),
            has_ended: false,
        };
        // The runtime of a session: the caller's runtime may be one that is not driven.
        let of_session = budget.runtime.lock().clone();
        if let Some(runtime) = of_session {
            runtime.spawn(sweeper().run(every));
        } else {
            budget.release_sweep();
        }
        // If that runtime has ended, it has dropped the task. Without a runtime, the next operation on
        // the store drops what has expired.
        let current = tokio::runtime::Handle::try_current();
        if let Some(runtime) = current.ok().filter(|_| budget.claim_sweep()) {
            runtime.spawn(sweeper().run(every));
        }
    }
}

/// The shortest and the longest interval of the sweep. Between these bounds the interval is the
/// time that a client may be away.
const SHORTEST_SWEEP: Duration = Duration::from_millis(10);
const LONGEST_SWEEP: Duration = Duration::from_secs(60);

/// The task that sweeps the stores of all namespaces, with the only timer of recovery. It ends when no
/// store holds a packet or socket that can expire.
struct Sweeper {
    hub: Weak<Hub>,
    budget: Arc<RecoveryBudget>,
    has_ended: bool,
}

impl Sweeper {
    async fn run(mut self, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            if !self.hub.upgrade().is_some_and(|hub| hub.sweep()) {
                break;
            }
        }
        self.has_ended = true;
    }
}

impl Drop for Sweeper {
    /// A runtime that ends drops the task. The next operation on a store then starts another.
    fn drop(&mut self) {
        if !self.has_ended {
            self.budget.release_sweep();
        }
    }
}

impl Hub {
    /// Returns whether recovery is on.
    pub(crate) const fn recovers(&self) -> bool {
        self.recovery_budget.is_some()
    }

    /// Returns how long a suspended socket waits for its client, if recovery is on.
    pub(crate) fn recovers_within(&self) -> Option<Duration> {
        Some(self.recovery_budget.as_ref()?.config.within)
    }

    /// Creates the store of a namespace, if recovery is on.
    pub(in crate::hub) fn new_store(&self) -> Option<Box<Mutex<RecoveryStore<Arc<Handover>>>>> {
        let budget = self.recovery_budget.as_ref()?;
        let packets = match &self.shared_log {
            Some(log) => Packets::Shared(Arc::clone(log)),
            None => Packets::Own(Log::new(Offset::start(random()), Arc::clone(budget))),
        };
        let store = RecoveryStore::new(packets, Arc::clone(budget));
        Some(Box::new(Mutex::new(store)))
    }

    /// Creates what a namespace needs for recovery over the log of a cluster, if there is one.
    pub(in crate::hub) fn new_over_log(&self) -> Option<Box<OverLog>> {
        let (budget, log) = (self.recovery_budget.as_ref()?, self.shared_log.as_ref()?);
        Some(Box::new(OverLog::new(log, &budget.config)))
    }

    /// Drops expired packets and sockets. Returns whether the caller has to sweep again.
    fn sweep(&self) -> bool {
        let Some(budget) = &self.recovery_budget else {
            return false;
        };
        // A packet or socket that is kept from now on starts another task, unless this one claims
        // the next sweep below.
        budget.release_sweep();
        let mut is_idle = true;
        if let Some(log) = &self.shared_log {
            let mut log = log.lock();
            log.expire(now());
            is_idle = log.is_empty();
        }
        for namespace in self.namespaces() {
            if let Some(mut store) = namespace.store() {
                store.expire(now());
                is_idle &= store.is_idle();
            }
            self.forget_if_empty(&namespace);
        }
        !is_idle && budget.claim_sweep()
    }

    /// Returns the number of suspended sockets, and the bytes of packets that are kept.
    pub(crate) fn recovery_counts(&self) -> (usize, usize) {
        let namespaces = self.namespaces();
        let suspended = namespaces
            .iter()
            .filter_map(|each| Some(each.store()?.suspended()));
        let bytes = |budget: &Arc<RecoveryBudget>| budget.packets.load(Ordering::Relaxed);
        (
            suspended.sum(),
            self.recovery_budget.as_ref().map_or(0, bytes),
        )
    }
}

impl Member {
    fn with_recovery(mut self, recoverable: Recoverable) -> Self {
        self.recovery = Some(Box::new(recoverable));
        self
    }

    /// Sends an event, and keeps it. Returns `false` if the store does not know the socket, or if
    /// its session is closed.
    pub(in crate::hub) fn emit_recoverable(&self, payload: Payload) -> bool {
        // Dropped after the store is unlocked: the last handle of a socket drops the application's
        // values.
        let successor;
        let Some(mut store) = self.namespace.store() else {
            return false;
        };
        if !store.contains(&self.id) {
            return false;
        }
        if let Some(over_log) = self.namespace.over_log() {
            if !store.budget.config.direct {
                drop(store);
                return self.emit_unrecoverable(payload);
            }
            drop(store);
            let target = Target::of(&self.id);
            let operation = Operation::Emit {
                payload,
                volatile: false,
            };
            // The socket gets the event also if it cannot be sent to the log.
            let _ = self
                .namespace
                .depart(over_log, &target, operation, false, None);
            return true;
        }
        let (offset, packet) = self
            .namespace
            .keep(&mut store, Recipients::One(self.id), payload);
        if !self.has_left() {
            return self.send_with_offset(offset, packet);
        }
        // If the client has restored the socket already, it gets the event now. Otherwise it gets
        // the event when it restores the socket.
        successor = self.namespace.find(&self.id);
        successor
            .as_ref()
            .is_none_or(|successor| successor.send_with_offset(offset, packet))
    }

    /// Sends an event that is not kept, and so not sent again.
    pub(in crate::hub) fn emit_unrecoverable(&self, mut payload: Payload) -> bool {
        let store = self.namespace.store();
        if self.namespace.over_log().is_some() {
            // What has departed for the socket comes first, and needs the lock.
            drop(store);
            return self.send_behind(Behind::Event(payload));
        }
        if let Some(store) = &store {
            store.mark_volatile(&mut payload);
        }
        self.send(self.encode(Kind::Event, None, payload))
    }

    fn send_with_offset(&self, offset: Offset, packet: Encoded) -> bool {
        // Packets in the broadcast queue have lower offsets.
        self.catch_up();
        self.record(Mark::Offset(offset));
        self.send_caught_up(packet)
    }

    /// Records that a packet is sent to the socket.
    pub(in crate::hub) fn record(&self, mark: Mark) {
        if let Some(recovery) = &self.recovery {
            recovery.record(mark, self.namespace.over_log());
        }
    }

    /// Returns whether the socket is a restored one.
    pub(crate) fn is_recovered(&self) -> bool {
        self.handover().is_some()
    }

    /// Returns the handover from the suspended socket that this one restores.
    pub(crate) fn handover(&self) -> Option<&Arc<Handover>> {
        self.recovery.as_ref()?.handover.as_ref()
    }

    /// Copies the data and extensions of the suspended socket to this one.
    pub(crate) fn restore_data(self: &Arc<Self>, handover: &Handover) {
        let SocketData { extensions, data } = handover.socket_data.lock().clone();
        // `admit` has checked that the data fits.
        self.set_data(data, usize::MAX);
        let mut own = self.extensions.write();
        let before = std::mem::replace(&mut *own, extensions);
        drop(own);
        drop(before);
        if let Some(recovery) = &self.recovery {
            recovery.has_data.store(true, Ordering::Release);
        }
        self.watch_deadline();
    }

    /// Takes the missed packets, which are sent after CONNECT.
    pub(crate) fn take_missed(&self) -> Vec<Encoded> {
        let missed = self.recovery.as_ref().map(|recovery| &recovery.missed);
        missed
            .map(|missed| std::mem::take(&mut *missed.lock()))
            .unwrap_or_default()
    }

    /// Suspends the socket if its client may come back. Otherwise the store forgets the socket.
    pub(in crate::hub) fn suspend(
        &self,
        store: &mut StoreGuard<'_>,
        reason: DisconnectReason,
        was_connected: bool,
    ) -> Dropped {
        let recovery = self.recovery.as_ref()?;
        // A client that never received its private id cannot restore the socket.
        let is_known = was_connected || self.is_recovered();
        let is_saved = self.namespace.over_log().is_some();
        if !is_known || recovery.is_unnumbered() || !reason.is_recoverable(is_saved) {
            store.forget(&self.id);
            return self.namespace.forget_saved(recovery.private_id);
        }
        let handover = Handover {
            socket_data: Mutex::new(self.socket_data()),
            ended: Semaphore::new(0),
        };
        let handover = Arc::clone(recovery.left.get_or_init(|| Arc::new(handover)));
        let data = handover.data();
        let last = match self.namespace.over_log() {
            Some(over_log) => over_log.done_up_to(store.last()),
            None => store.last(),
        };
        store.suspend(
            &self.id,
            last.next(),
            (recovery.sent(), recovery.floor()),
            data.as_deref().map_or(0, of_data),
            handover,
            now(),
        );
        self.namespace.sweep_later(&store.budget);
        self.namespace.save_later(store, &self.id)
    }

    /// Completes the handover, after the last handler of the socket has ended.
    pub(in crate::hub) fn handlers_ended(&self) {
        if let Some(handover) = self
            .recovery
            .as_ref()
            .and_then(|recovery| recovery.left.get())
        {
            let own = self.socket_data();
            let before = std::mem::replace(&mut *handover.socket_data.lock(), own);
            drop(before);
            handover.ended.close();
        }
    }

    fn socket_data(&self) -> SocketData {
        let recovery = self.recovery.as_ref();
        let waits = recovery.filter(|recovery| !recovery.has_data.load(Ordering::Acquire));
        if let Some(handover) = waits.and_then(|recovery| recovery.handover.as_ref()) {
            // It is lost again before it has what it is to restore.
            return handover.socket_data.lock().clone();
        }
        let data = self.data();
        let extensions = self.extensions.read();
        SocketData {
            // Each value is an `Arc`, so no code of the application runs.
            extensions: extensions.clone(),
            data,
        }
    }
}
