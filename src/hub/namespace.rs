//! One namespace: its sockets, and broadcasts to them.

use std::sync::{Arc, Weak};

use super::budget::{ROOM, of_room};
use super::fanout::{Fanout, Waiting};
use super::hooks::{self, OutgoingEvent, RoomChanges, Tracker};
use super::member::{Member, encode};
use super::observer::{Observers, Sent};
use super::other_servers::{Confirm, Here, Operation, OtherServers};
use super::queue::{BroadcastQueue, Outgoing};
use super::recovery::{Handover, Mark, OverLog, RecoveryStore};
use super::room_event::{RoomChange, RoomEvent};
use super::rooms::{ChangeLog, Rooms};
use super::selection::{Selection, Target};
use super::session::SharedSession;
use super::yield_now::yield_now;
use super::{ClusterError, DisconnectReason, Hub};
use crate::engine_io::SocketId;
use crate::protocol::{Kind, NamespaceName, Parser, Payload};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// The hooks of a namespace.
pub(crate) type Hooks = hooks::Hooks<Member>;

/// One namespace and its sockets.
///
/// A broadcaster selects the recipients. It queues the packet for few recipients itself, and leaves
/// many recipients to the [fan-out task](super::fanout).
#[derive(Debug)]
pub(crate) struct LiveNamespace {
    pub(crate) name: NamespaceName,
    /// The values of the parameters in the namespace's path.
    pub(crate) params: Vec<(String, String)>,
    /// Whether the namespace stays when it is empty.
    pub(crate) is_static: bool,
    pub(crate) parser: Arc<dyn Parser>,
    pub(crate) hooks: Arc<Hooks>,
    pub(super) room_changes: RoomChanges,
    /// The recovery store. `None` if recovery is off.
    pub(super) store: Option<Box<Mutex<RecoveryStore<Arc<Handover>>>>>,
    /// `None` if recovery is off, or the broker has no log.
    over_log: Option<Box<OverLog>>,
    pub(in crate::hub) max_rooms: usize,
    max_kept: usize,
    /// The other servers of the cluster. `None` if there is no broker.
    others: Option<Arc<dyn OtherServers>>,
    pub(crate) observers: Observers,
    /// Whether the broker is told which rooms begin and end.
    tells_rooms: bool,
    hub: Weak<Hub>,
    state: Mutex<NamespaceState>,
    pub(super) fanout: Fanout,
    next_ack: AtomicU64,
    removed: AtomicBool,
}

/// The state that the lock of a namespace protects.
#[derive(Debug, Default)]
pub(super) struct NamespaceState {
    pub(super) rooms: Rooms<Arc<Member>>,
    pub(super) queue: BroadcastQueue<Arc<Member>>,
    /// The sessions that wait until the queue is no longer behind.
    pub(super) waiting: Waiting,
}

impl LiveNamespace {
    pub(super) fn new(
        name: NamespaceName,
        params: Vec<(String, String)>,
        is_static: bool,
        hooks: Arc<Hooks>,
        hub: &Arc<Hub>,
    ) -> Self {
        let recovers = !hooks.skips_recovery;
        Self {
            name,
            params,
            is_static,
            parser: Arc::clone(&hub.parser),
            hooks,
            room_changes: RoomChanges::default(),
            store: recovers.then(|| hub.new_store()).flatten(),
            over_log: recovers.then(|| hub.new_over_log()).flatten(),
            max_rooms: hub.limits.rooms_per_socket,
            max_kept: hub.limits.kept,
            others: hub.others.clone(),
            observers: hub.sessions.observers.clone(),
            tells_rooms: hub
                .others
                .as_ref()
                .is_some_and(|others| others.wants_rooms()),
            hub: Arc::downgrade(hub),
            state: Mutex::default(),
            fanout: Fanout::default(),
            next_ack: AtomicU64::new(0),
            removed: false.into(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, NamespaceState> {
        self.state.lock()
    }

    pub(crate) fn hub(&self) -> Option<Arc<Hub>> {
        self.hub.upgrade()
    }

    pub(crate) fn others(&self) -> Option<&Arc<dyn OtherServers>> {
        self.others.as_ref()
    }

    /// Returns what recovery over the log of a cluster needs, if there is one.
    pub(crate) fn over_log(&self) -> Option<&OverLog> {
        self.over_log.as_deref()
    }

    pub(crate) fn weak_hub(&self) -> Weak<Hub> {
        Weak::clone(&self.hub)
    }

    /// Returns the id of the next acknowledgement. All sockets share one counter, so that a
    /// broadcast has one id for all recipients.
    pub(crate) fn next_ack(&self) -> u64 {
        self.next_ack.fetch_add(1, Ordering::Relaxed)
    }

    /// Adds a socket, and joins it to rooms. Returns `None` if the namespace has been removed. The
    /// socket leaves at the latest when the result is dropped.
    ///
    /// The caller must call [`notify`](Self::notify) after it releases its locks.
    pub(super) fn insert(
        self: &Arc<Self>,
        member: Arc<Member>,
        joins: &[Arc<str>],
    ) -> Option<Membership> {
        let entered = self.change(|NamespaceState { rooms, queue, .. }, mut log| {
            if self.removed.load(Ordering::Relaxed) {
                return false;
            }
            member.skip_to(queue.last_number());
            rooms.insert(member.id, Arc::clone(&member));
            if self.tells_rooms {
                self.tell_room(&member.id.as_str().into(), rooms);
            }
            for room in joins {
                if rooms.join(member.id, room, self.max_rooms, log.as_deref_mut()) {
                    member.session.budget.reserve(of_room(room));
                }
            }
            true
        });
        // Created only if the socket has entered: a `Membership` takes locks when it is dropped.
        entered.then(|| Membership(member))
    }

    pub(crate) fn find(&self, id: &SocketId) -> Option<Arc<Member>> {
        self.lock().rooms.get(id).cloned()
    }

    /// Changes rooms, and records the changes if there is a room hook or a broker that wants them.
    ///
    /// The caller must call [`notify`](Self::notify) after it releases its locks. Each room that a
    /// socket joins or leaves makes at most two changes.
    fn change<R>(&self, change: impl FnOnce(&mut NamespaceState, ChangeLog<'_>) -> R) -> R {
        let records = self.hooks.room.is_some() || self.observers.wants_room_changes();
        if !records && !self.tells_rooms {
            return change(&mut self.lock(), None);
        }
        let mut log = Vec::new();
        let mut state = self.lock();
        let result = change(&mut state, Some(&mut log));
        if self.tells_rooms {
            for (room, change) in &log {
                if matches!(change, RoomChange::Create | RoomChange::Delete) {
                    self.tell_room(room, &state.rooms);
                }
            }
        }
        if records {
            self.room_changes.push(&self.name, log);
        }
        result
    }

    /// Tells the broker whether a room exists. A room can have the name of a socket's room.
    fn tell_room(&self, room: &Arc<str>, rooms: &Rooms<Arc<Member>>) {
        if let Some(others) = &self.others {
            others.room_changed(&self.name, Arc::clone(room), rooms.has(room));
        }
    }

    /// Calls the room hook for pending changes, in order. `made` is the number of changes that the
    /// caller has made.
    pub(super) fn notify(self: &Arc<Self>, session: &SharedSession, made: usize) {
        if !self.observes_rooms() {
            return;
        }
        let notify = |event| self.notify_room_change(event);
        if self.room_changes.notify(&notify, made) {
            let namespace = Arc::clone(self);
            let task = RoomEventTask {
                namespace,
                ended: false,
            };
            session.spawn(task.run());
        }
    }

    /// Returns whether there is a room hook or an observer.
    pub(super) fn observes_rooms(&self) -> bool {
        self.hooks.room.is_some() || !self.observers.is_empty()
    }

    fn notify_room_change(self: &Arc<Self>, event: RoomEvent) {
        self.observers
            .each(|observer| observer.room_changed(self, &event));
        if let Some(hook) = &self.hooks.room {
            hook(event);
        }
    }

    /// Calls the hook and the observers for an event to all recipients of a target. It is called
    /// under no lock, and before the event has an offset.
    pub(super) fn notify_broadcast(self: &Arc<Self>, target: &Target, payload: &Payload) {
        let hook = OutgoingEvent::capture(&self.hooks, payload);
        if hook.is_none() && !self.observers.wants_broadcasts() {
            return;
        }
        let selected = self.select(target);
        if let Some(sent) = hook {
            selected.iter().for_each(|member| sent.notify(member));
        }
        // One that is still connecting may be refused, and then never receives it.
        let connected = || selected.iter().filter(|member| member.is_connected());
        self.observers.each(|observer| {
            if observer.wants_recipients() {
                connected().for_each(|member| observer.event_sent(member, Sent::ToMany, payload));
            }
            if observer.wants_broadcasts() {
                observer.broadcast(self, connected().count(), payload);
            }
        });
    }

    /// Records for the room hook that a socket is connected: its own room is created, and it joins
    /// that room.
    ///
    /// The caller must call [`notify`](Self::notify) after it releases its locks.
    pub(super) fn record_connected(&self, id: SocketId) {
        self.change(|_, log| {
            if let Some(log) = log {
                let own = Arc::<str>::from(id.as_str());
                log.push((Arc::clone(&own), RoomChange::Create));
                log.push((own, RoomChange::Join(id)));
            }
        });
    }

    /// Returns the number of bytes that the sockets of a connection may keep.
    pub(crate) fn max_kept(&self) -> usize {
        self.max_kept
    }

    /// Removes a socket, and returns the rooms that it was in.
    ///
    /// The caller must call [`notify`](Self::notify) after it releases its locks.
    pub(super) fn remove(&self, member: &Member, was_connected: bool) -> Vec<Arc<str>> {
        let id = &member.id;
        let rooms = self.change(|state, mut log| {
            if let Some(log) = log.as_deref_mut().filter(|_| was_connected) {
                let own = Arc::<str>::from(id.as_str());
                log.push((Arc::clone(&own), RoomChange::Leave(*id)));
                log.push((own, RoomChange::Delete));
            }
            let left = state.rooms.leave(id, log);
            if self.tells_rooms {
                self.tell_room(&id.as_str().into(), &state.rooms);
            }
            left
        });
        // The socket keeps the names of the rooms, so those bytes stay counted.
        member.session.budget.release(rooms.len() * ROOM);
        rooms
    }

    /// Returns whether the namespace has been removed.
    pub(super) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed)
    }

    /// Marks an empty namespace as removed. Returns `false` if it has a socket, present or
    /// suspended.
    pub(super) fn mark_removed(&self) -> bool {
        let store = self.store();
        if store.as_ref().is_some_and(|store| store.suspended() > 0) {
            return false;
        }
        if self.over_log().is_some_and(|over_log| !over_log.is_idle()) {
            return false;
        }
        self.mark_removed_if_empty()
    }

    /// Does the same as [`mark_removed`](Self::mark_removed), but disregards suspended sockets. The caller
    /// holds the lock of the store, if there is one.
    pub(super) fn mark_removed_if_empty(&self) -> bool {
        let state = self.lock();
        let is_empty = state.rooms.len() == 0;
        self.removed.store(is_empty, Ordering::Relaxed);
        is_empty
    }

    pub(crate) fn join(self: &Arc<Self>, member: &Member, room: &str) -> bool {
        let id = member.id;
        let budget = &member.session.budget;
        if !budget.try_reserve(of_room(room), self.max_kept) {
            return false;
        }
        let mut store = self.store();
        member.catch_up();
        self.note_room(&id, room);
        let joined = self.change(|state, log| state.rooms.join(id, room, self.max_rooms, log));
        if !joined {
            budget.release(of_room(room));
        }
        if let Some(store) = store.as_mut().filter(|_| joined) {
            store.join(&id, room);
        }
        drop(store);
        self.save_early(&id);
        self.notify(&member.session, 2);
        joined
    }

    pub(crate) fn leave_room(self: &Arc<Self>, member: &Member, room: &str) -> bool {
        let id = &member.id;
        let mut store = self.store();
        member.catch_up();
        self.note_room(id, room);
        let left = self.change(|state, log| state.rooms.leave_room(id, room, log));
        if left {
            member.session.budget.release(of_room(room));
        }
        if let Some(store) = store.as_mut().filter(|_| left) {
            store.leave_room(id, room);
        }
        drop(store);
        self.save_early(id);
        self.notify(&member.session, 2);
        if left {
            self.each_tracker(|tracker| tracker.left_room(member, room));
        }
        left
    }

    /// Returns whether a message for a room may be for a socket of this process: one is in the room, has
    /// it as its id, or is suspended.
    pub(crate) fn has_room(&self, room: &str) -> bool {
        // The lock of the store comes before that of the rooms.
        let has_suspended = self.store().is_some_and(|store| store.suspended() > 0);
        has_suspended || self.lock().rooms.has(room)
    }

    /// Returns whether a socket is in a room.
    pub(crate) fn is_in(&self, id: &SocketId, room: &str) -> bool {
        self.lock().rooms.is_in(id, room)
    }

    /// Calls `notify` with each tracker. The caller holds no lock.
    pub(super) fn each_tracker(&self, notify: impl Fn(&dyn Tracker<Member>)) {
        for tracker in &self.hooks.trackers {
            notify(&**tracker);
        }
    }

    pub(crate) fn rooms_of(&self, id: &SocketId) -> Vec<Arc<str>> {
        self.lock().rooms.rooms_of(id)
    }

    /// Returns the rooms of all recipients of a target, without the sockets' own rooms. A room may
    /// occur several times.
    pub(crate) fn rooms_among(&self, target: &Target) -> Vec<Arc<str>> {
        if target.is_everybody() {
            return self.lock().rooms.names();
        }
        let selected = self.select(target);
        selected.iter().flat_map(|member| member.rooms()).collect()
    }

    /// Returns the number of sockets, including those that are still connecting.
    pub(crate) fn member_count(&self) -> usize {
        self.lock().rooms.len()
    }

    pub(crate) fn room_count(&self) -> usize {
        self.lock().rooms.room_count()
    }

    /// Returns the recipients of a broadcast. The lock is not held while the packet is sent.
    pub(crate) fn select(&self, target: &Target) -> Selection<Arc<Member>> {
        self.lock().rooms.select(target)
    }

    /// Encodes an event once, and sends it to all recipients of a target.
    pub(crate) fn broadcast(self: &Arc<Self>, target: &Target, payload: Payload, volatile: bool) {
        self.notify_broadcast(target, &payload);
        // Without a place in the log.
        if self.over_log.is_some() {
            return self.send_unnumbered(target, payload, volatile);
        }
        // `few` is dropped under no lock: the last handle of a socket drops the application's
        // values.
        let few = match self.store() {
            Some(mut store) => self.send_recoverable(&mut store, target, payload, volatile),
            None => {
                let packet = encode(self, Kind::Event, None, payload);
                self.send_to(
                    target,
                    Outgoing {
                        packet,
                        volatile,
                        mark: Mark::None,
                    },
                )
            }
        };
        if few.is_none() {
            self.spawn_fanout();
        }
    }

    /// Queues a packet for all recipients of a target, and returns them. If they are many, it puts
    /// the packet into the broadcast queue and returns `None`; then the caller must call
    /// [`spawn_fanout`](Self::spawn_fanout).
    pub(super) fn send_to(
        &self,
        target: &Target,
        outgoing: Outgoing,
    ) -> Option<Selection<Arc<Member>>> {
        let mut state = self.lock();
        let few = match state.rooms.select(target).into_chunks() {
            Err(few) => few,
            Ok(many) => {
                self.enqueue(&mut state.queue, many, target, outgoing);
                return None;
            }
        };
        drop(state);
        few.iter()
            .for_each(|member| member.send_outgoing(&outgoing));
        Some(few)
    }
}

impl LiveNamespace {
    /// Does an operation on all servers of the cluster, or only on this one if `local`. `confirm`
    /// gets the broker's confirmation.
    ///
    /// # Errors
    ///
    /// Fails if the operation cannot be sent to the other servers. It is done on this one anyway.
    #[inline]
    pub(crate) fn act(
        self: &Arc<Self>,
        target: &Target,
        operation: Operation,
        local: bool,
        confirm: Option<Confirm>,
    ) -> Result<(), ClusterError> {
        if let Some(over_log) = self.over_log() {
            if let Operation::Emit { payload, .. } = &operation {
                self.notify_broadcast(target, payload);
            }
            return self.depart(over_log, target, operation, local, confirm);
        }
        let sent = match self.others.as_deref().filter(|_| !local) {
            Some(others) => {
                let sent = others.send(&self.name, target, &operation, confirm, Here::AtOnce);
                sent.map(|sent| drop(sent.dropped))
            }
            None => {
                confirm.map(|confirm| confirm.send(Ok(())));
                Ok(())
            }
        };
        self.apply(target, operation);
        sent
    }

    /// Does an operation on the sockets of this process.
    #[inline]
    pub(crate) fn apply(self: &Arc<Self>, target: &Target, operation: Operation) {
        match operation {
            Operation::Emit { payload, volatile } => self.broadcast(target, payload, volatile),
            operation => self.apply_to_each(target, &operation),
        }
    }

    fn apply_to_each(self: &Arc<Self>, target: &Target, operation: &Operation) {
        let selected = self.apply_to_suspended(target, operation);
        // A restored one is connected to the application.
        let is_there = |member: &Arc<Member>| {
            member.is_connected() || member.is_recovered() && !member.has_left()
        };
        for member in selected.iter() {
            if is_there(member) {
                self.apply_to(member, operation);
            }
            // Also one that has left in the meantime, or is back by now.
            if member.has_left() {
                let back = self.apply_to_left(&member.id, operation);
                if let Some(back) = back.filter(is_there) {
                    self.apply_to(&back, operation);
                }
            }
        }
    }

    fn apply_to(self: &Arc<Self>, member: &Arc<Member>, operation: &Operation) {
        match operation {
            Operation::Join(rooms) => {
                for room in rooms {
                    self.join(member, room);
                }
            }
            Operation::Leave(rooms) => {
                for room in rooms {
                    self.leave_room(member, room);
                }
            }
            Operation::Disconnect { close } => {
                member.disconnect(DisconnectReason::ServerNamespaceDisconnect);
                if *close {
                    member.session.disconnect_all();
                }
            }
            Operation::Emit { .. } => {}
        }
    }
}

/// A socket's membership in its namespace. Dropping it makes the socket leave.
#[derive(Debug)]
pub(crate) struct Membership(pub(crate) Arc<Member>);

impl Drop for Membership {
    fn drop(&mut self) {
        let member = &self.0;
        member.leave(DisconnectReason::TransportClose);
        member.handlers_ended();
        if let Some(hub) = member.namespace.hub() {
            hub.forget_if_empty(&member.namespace);
        }
    }
}

/// The task that calls the room hook for the pending changes. If its runtime drops it, it calls the
/// hook for all of them at once.
pub(super) struct RoomEventTask {
    pub(super) namespace: Arc<LiveNamespace>,
    pub(super) ended: bool,
}

impl RoomEventTask {
    fn step(&mut self) -> bool {
        let namespace = &self.namespace;
        let notify = |event| namespace.notify_room_change(event);
        self.ended = !namespace.room_changes.notify_batch(&notify);
        !self.ended
    }

    pub(super) async fn run(mut self) {
        while self.step() {
            yield_now().await;
        }
    }
}

impl Drop for RoomEventTask {
    fn drop(&mut self) {
        while !self.ended && self.step() {}
    }
}
