//! Recovery's part in a namespace and its sockets.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use http::Extensions;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::log::{Offset, Recipients};
use super::store::{RecoveryStore, Restored};
use super::{PrivateId, RecoveryBudget};
use crate::clock::now;
use crate::engine_io::{CloseReason, SocketId};
use crate::guard::guarded;
use crate::hub::fanout::Outgoing;
use crate::hub::member::{Member, encode};
use crate::hub::namespace::{LiveNamespace, Membership};
use crate::hub::rooms::{Selection, Target};
use crate::hub::session::SharedSession;
use crate::hub::{DisconnectReason, Hub};
use crate::protocol::{Claim, Encoded, Kind, Payload};
use crate::random::random;
use crate::sync::{Mutex, MutexGuard};

/// A client that asks to come in.
#[derive(Debug)]
pub(crate) struct JoinRequest<'a> {
    /// The id of the socket if it is new.
    pub(crate) id: SocketId,
    pub(crate) auth: &'a Payload,
    /// The private id if it is new; none for a client that cannot come back.
    pub(crate) owner: Option<PrivateId>,
    /// The socket that it says it is.
    pub(crate) claim: Option<&'a Claim>,
}

/// What recovery adds to a socket.
#[derive(Debug)]
pub(crate) struct Recoverable {
    pub(crate) owner: PrivateId,
    /// The last packet that it was sent.
    sent: AtomicU64,
    /// Of the socket whose place it takes.
    handover: Option<Arc<Handover>>,
    /// What it is sent before CONNECT.
    missed: Mutex<Vec<Encoded>>,
    /// For the one that takes its place.
    left: OnceLock<Arc<Handover>>,
}

impl Recoverable {
    fn new(owner: PrivateId, sent: Offset) -> Self {
        Self {
            owner,
            sent: AtomicU64::new(sent.0),
            handover: None,
            missed: Mutex::default(),
            left: OnceLock::new(),
        }
    }

    /// With the id and the rooms of the socket whose place it takes.
    fn restored(restored: Restored<Arc<Handover>>) -> (SocketId, Self, Vec<Arc<str>>) {
        let recoverable = Self {
            handover: Some(restored.handover),
            missed: Mutex::new(restored.missed),
            ..Self::new(restored.owner, restored.sent)
        };
        (restored.id, recoverable, restored.rooms)
    }
}

/// What a socket leaves to the one that takes its place.
#[derive(Debug)]
pub(crate) struct Handover {
    socket_data: Mutex<SocketData>,
    /// Without permits; closed when the last of its handlers has ended.
    ended: Semaphore,
}

/// What was kept with a socket.
#[derive(Clone, Debug)]
struct SocketData {
    extensions: Extensions,
    data: Option<Arc<Value>>,
}

/// How long a socket waits for the handlers of the one whose place it takes.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(5);

impl Handover {
    /// Waits until no handler of the former socket runs any more.
    pub(crate) async fn handlers_ended(&self) {
        if tokio::time::timeout(HANDOVER_TIMEOUT, self.ended.acquire())
            .await
            .is_err()
        {
            tracing::debug!("a handler of the lost connection still runs");
        }
    }
}

/// A namespace's store, locked. What it gives up is dropped when it is free again.
pub(crate) struct Guard<'a>(Option<MutexGuard<'a, RecoveryStore<Arc<Handover>>>>);

impl Deref for Guard<'_> {
    type Target = RecoveryStore<Arc<Handover>>;

    fn deref(&self) -> &Self::Target {
        // Taken only when it is dropped.
        self.0.as_ref().expect("locked")
    }
}

impl DerefMut for Guard<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        // As above.
        self.0.as_mut().expect("locked")
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Some(mut store) = self.0.take() {
            let dropped_later = DeferredDrop(std::mem::take(&mut store.dropped_later));
            drop(store);
            drop(dropped_later);
        }
    }
}

/// What was kept with sockets that nobody will be any more. It is to be dropped under no lock, for
/// the destructors are the user's.
pub(in crate::hub) struct DeferredDrop(Vec<Arc<Handover>>);

impl Drop for DeferredDrop {
    fn drop(&mut self) {
        for handover in self.0.drain(..) {
            // Who happens to come by must not suffer from them.
            let _ = guarded(|| drop(handover));
        }
    }
}

impl LiveNamespace {
    /// The store, if there is recovery. It is locked before everything else of the namespace.
    pub(crate) fn store(&self) -> Option<Guard<'_>> {
        let store = self.store.as_ref()?;
        let store = store.lock();
        Some(Guard(Some(store)))
    }

    /// Takes a client in: as a new socket, or as the one that it claims to be. None if the
    /// namespace was forgotten meanwhile.
    pub(crate) fn admit(
        self: &Arc<Self>,
        session: &Arc<SharedSession>,
        request: &JoinRequest<'_>,
    ) -> Option<Membership> {
        let member = |id| Member::new(id, Arc::clone(session), Arc::clone(self), request.auth);
        let store = request.owner.and_then(|owner| Some((owner, self.store()?)));
        let Some((owner, mut store)) = store else {
            return self.enter(Arc::new(member(request.id)), &[]);
        };
        let claim = request.claim;
        let found = claim.and_then(|claim| Some((claim, store.find(claim)?)));
        // What it comes back with has to fit beside what the connection keeps already.
        let found = found.filter(|(_, id)| session.budget.fits(store.cost(id), self.max_kept()));
        let displaced = found.and_then(|(_, id)| self.displace(&mut store, &id));
        let restored = found.and_then(|(claim, id)| {
            let offset = claim.offset.as_deref();
            store.restore(id, offset, now())
        });
        let (id, recoverable, rooms) = match restored {
            Some(restored) => Recoverable::restored(restored),
            None => {
                store.enter(request.id, owner);
                let recoverable = Recoverable::new(owner, store.last());
                (request.id, recoverable, Vec::new())
            }
        };
        let member = member(id).with_recovery(recoverable);
        let membership = self.enter(Arc::new(member), &rooms);
        if membership.is_none() {
            store.forget(&id);
        }
        drop(store);
        self.notify(session, 2 * rooms.len());
        if let Some(displaced) = displaced {
            displaced.session.close(CloseReason::TransportClose);
        }
        membership
    }

    /// Whether a client that is back passes by the connect handler.
    pub(crate) fn skips_connect_handler(&self) -> bool {
        let store = self.store();
        store.is_some_and(|store| store.budget.config.skip_connect_handler)
    }

    /// Marks a namespace as gone where nobody is, whoever may come back, and gives what is to be
    /// dropped then; none if it stays.
    pub(in crate::hub) fn abandon(&self) -> Option<DeferredDrop> {
        if self.is_static {
            return None;
        }
        let mut store = self.store()?;
        if !self.retire_empty() {
            return None;
        }
        store.abandon();
        Some(DeferredDrop(std::mem::take(&mut store.dropped_later)))
    }

    /// Makes a socket that its client has given up leave; its connection is to be closed, and it is
    /// to be dropped under no lock.
    fn displace(&self, store: &mut Guard<'_>, id: &SocketId) -> Option<Arc<Member>> {
        let former = self.find(id)?;
        former.leave_from(DisconnectReason::TransportClose, Some(&mut **store));
        Some(former)
    }

    /// As [`send_to`](Self::send_to), and keeps it unless it is volatile.
    pub(in crate::hub) fn send_recoverable(
        &self,
        store: &mut Guard<'_>,
        target: &Target,
        mut payload: Payload,
        volatile: bool,
    ) -> Option<Selection<Arc<Member>>> {
        let (offset, packet) = if volatile {
            mark_volatile(store, &mut payload);
            (None, encode(self, Kind::Event, None, payload))
        } else {
            let (number, packet) = self.keep(store, Recipients::Many(target.clone()), payload);
            (Some(number), packet)
        };
        self.send_to(
            target,
            Outgoing {
                packet,
                volatile,
                offset,
            },
        )
    }

    /// Numbers, writes and keeps an event.
    fn keep(
        &self,
        store: &mut Guard<'_>,
        to: Recipients,
        mut payload: Payload,
    ) -> (Offset, Encoded) {
        let number = store.next();
        payload.push_text(&number.to_text());
        let packet = encode(self, Kind::Event, None, payload);
        store.keep(to, &packet, now());
        self.sweep_later(&store.budget);
        (number, packet)
    }

    /// Sees to it that what is kept is dropped when it is too old, also if nothing happens here.
    fn sweep_later(&self, budget: &RecoveryBudget) {
        // Outside of a runtime there is none to do it; what happens here next does it then.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if budget.begin_sweeping() {
            let every = budget.config.within.clamp(SHORTEST_SWEEP, LONGEST_SWEEP);
            runtime.spawn(sweep(self.weak_hub(), every));
        }
    }
}

/// How often it is looked for what is too old: as often as it can become so, within these.
const SHORTEST_SWEEP: Duration = Duration::from_millis(10);
const LONGEST_SWEEP: Duration = Duration::from_secs(60);

/// The one timer of recovery. It ends when there is nothing left.
async fn sweep(hub: Weak<Hub>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(hub) = hub.upgrade() else {
            return;
        };
        if !hub.sweep() {
            return;
        }
    }
}

impl Hub {
    /// Whether clients can come back.
    pub(crate) const fn recovers(&self) -> bool {
        self.recovery_budget.is_some()
    }

    /// The store of a namespace, if there is recovery.
    pub(in crate::hub) fn new_store(&self) -> Option<Box<Mutex<RecoveryStore<Arc<Handover>>>>> {
        let budget = self.recovery_budget.as_ref()?;
        let store = RecoveryStore::new(Offset::start(random()), Arc::clone(budget));
        Some(Box::new(Mutex::new(store)))
    }

    /// Drops what is too old; whether the caller is to come again.
    fn sweep(&self) -> bool {
        let Some(budget) = &self.recovery_budget else {
            return false;
        };
        // Who keeps something from now on begins another sweep, or we go on.
        budget.end_sweeping();
        let mut is_idle = true;
        for namespace in self.namespaces() {
            if let Some(mut store) = namespace.store() {
                store.expire(now());
                is_idle &= store.is_idle();
            }
            self.forget_if_empty(&namespace);
        }
        !is_idle && budget.begin_sweeping()
    }

    /// Sockets that are away, and the bytes of packets that are budget.
    pub(crate) fn recovery_counts(&self) -> (usize, usize) {
        let archives = self.namespaces();
        let away = archives
            .iter()
            .filter_map(|each| Some(each.store()?.away()));
        let bytes = |budget: &Arc<RecoveryBudget>| budget.packets.load(Ordering::Relaxed);
        (away.sum(), self.recovery_budget.as_ref().map_or(0, bytes))
    }
}

impl Member {
    fn with_recovery(mut self, recoverable: Recoverable) -> Self {
        self.recovery = Some(Box::new(recoverable));
        self
    }

    /// Sends an event and keeps it. False if it goes nowhere.
    pub(in crate::hub) fn emit_recoverable(&self, payload: Payload) -> bool {
        // Dropped when the store is free again: with the last handle of a socket its values go.
        let successor;
        let Some(mut store) = self.namespace.store() else {
            return false;
        };
        if !store.knows(&self.id) {
            return false;
        }
        let (number, packet) = self
            .namespace
            .keep(&mut store, Recipients::One(self.id), payload);
        if !self.has_left() {
            return self.send_with_offset(number, packet);
        }
        // The client is back, or else it is sent this when it is.
        successor = self.namespace.find(&self.id);
        successor
            .as_ref()
            .is_none_or(|successor| successor.send_with_offset(number, packet))
    }

    /// Sends an event that will not be sent again.
    pub(in crate::hub) fn emit_unrecoverable(&self, mut payload: Payload) -> bool {
        let store = self.namespace.store();
        if let Some(store) = &store {
            mark_volatile(store, &mut payload);
        }
        self.send(self.encode(Kind::Event, None, payload))
    }

    fn send_with_offset(&self, number: Offset, packet: Encoded) -> bool {
        // What waits has lower numbers.
        self.catch_up();
        self.record_offset(Some(number));
        self.send(packet)
    }

    /// It is sent the packet of this number, if that has one.
    pub(in crate::hub) fn record_offset(&self, number: Option<Offset>) {
        if let (Some(recovery), Some(number)) = (&self.recovery, number) {
            recovery.sent.store(number.0, Ordering::Relaxed);
        }
    }

    /// Whether it is the socket of a client that came back.
    pub(crate) fn is_recovered(&self) -> bool {
        self.handover().is_some()
    }

    /// What the socket left whose place it takes.
    pub(crate) fn handover(&self) -> Option<&Arc<Handover>> {
        self.recovery.as_ref()?.handover.as_ref()
    }

    /// Takes over what was kept with the former socket.
    pub(crate) fn restore_data(&self, handover: &Handover) {
        let SocketData { extensions, data } = handover.socket_data.lock().clone();
        // It was found to fit when the socket was let in.
        self.set_data(data, usize::MAX);
        let mut own = self.extensions.write();
        let before = std::mem::replace(&mut *own, extensions);
        drop(own);
        drop(before);
    }

    /// What it is sent before CONNECT.
    pub(crate) fn take_missed(&self) -> Vec<Encoded> {
        let missed = self.recovery.as_ref().map(|recovery| &recovery.missed);
        missed
            .map(|missed| std::mem::take(&mut *missed.lock()))
            .unwrap_or_default()
    }

    /// Keeps the session if the client may come back, or else forgets it.
    pub(in crate::hub) fn suspend(
        &self,
        store: &mut RecoveryStore<Arc<Handover>>,
        reason: DisconnectReason,
        was_connected: bool,
    ) {
        let Some(recovery) = &self.recovery else {
            return;
        };
        // One that was never told its private id cannot name it.
        let is_known = was_connected || self.is_recovered();
        if !is_known || !reason.is_recoverable() {
            return store.forget(&self.id);
        }
        let handover = Handover {
            socket_data: Mutex::new(self.socket_data()),
            ended: Semaphore::new(0),
        };
        let handover = Arc::clone(recovery.left.get_or_init(|| Arc::new(handover)));
        let sent = Offset(recovery.sent.load(Ordering::Relaxed));
        store.suspend(&self.id, sent, self.data_bytes(), handover, now());
        self.namespace.sweep_later(&store.budget);
    }

    /// The last of its handlers has ended.
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
        let data = self.data();
        let extensions = self.extensions.read();
        SocketData {
            // Each value is an `Arc`: no code of the user's runs.
            extensions: extensions.clone(),
            data,
        }
    }
}

/// A client takes the last argument for an offset if it is a text, also if it is not numbered.
/// Then it is given the last number there is, which is true: all before were queued for it.
fn mark_volatile(store: &Guard<'_>, payload: &mut Payload) {
    if payload.ends_with_text() {
        payload.push_text(&store.last().to_text());
    }
}
