//! Joins the replicas with the server, its sockets and its cluster.
//!
//! One lock protects the replicas and the outbox, so what is sent has the order of the changes. It is
//! sent under no lock of this server, by one thread at a time. The thread that has made a change sends a
//! few events, and a task sends the rest ([`outbox`]). The state of a room is read when it is sent, so what
//! waits is small however many join at once. Lock order: this lock, then the rooms of a
//! namespace.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::future::select;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::error::{PresenceError, PresenceErrorKind};
use super::meta::Meta;
use super::replica::{Message, Replica, Users};
use crate::clock::now;
use crate::engine_io::SocketId;
use crate::hub::hooks::{TRACKER_EVENT, Tracker, TrackerEventHandler};
use crate::hub::member::Member;
use crate::hub::session::SharedSession;
use crate::hub::{DisconnectReason, Hub};
use crate::protocol::{NamespaceName, Payload};
use crate::random::random;
use crate::shrink::shrink;
use crate::sync::{Mutex, MutexGuard};

mod outbox;

use outbox::{Entering, Entry, Outgoing};

/// The options of a presence.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) state_event: Box<str>,
    pub(super) diff_event: Box<str>,
    pub(super) grace: Duration,
}

/// A presence on one server.
pub(super) struct Live {
    weak: Weak<Self>,
    pub(super) options: Options,
    /// The event that carries messages between servers.
    pub(super) server_event: Box<str>,
    state: Mutex<State>,
    /// Held while the outbox is sent.
    sending: Mutex<()>,
    /// Held while one event is sent, inside of `sending`.
    emitting: Mutex<()>,
    /// Notified when the next deadline may have changed.
    changed: Arc<Notify>,
}

#[derive(Default)]
struct State {
    hub: Weak<Hub>,
    replicas: HashMap<NamespaceName, Replica>,
    outbox: VecDeque<Outgoing>,
    /// How many events were taken out of the outbox.
    taken: u64,
    /// Whether there is a task that sends the outbox.
    has_sender: bool,
    entering: Vec<Entry>,
    /// When the [`Task`] does what is due. `None` if there is none.
    wakes_at: Option<Instant>,
}

/// The number of namespaces that say at once that they are there.
const MAX_TICKS: usize = 250;

/// How long the next ones wait. All of them do it within one period.
const TICK: Duration = Duration::from_millis(25);

impl Live {
    pub(super) fn new(options: Options) -> Arc<Self> {
        Arc::new_cyclic(|weak| Self {
            weak: Weak::clone(weak),
            server_event: format!("{TRACKER_EVENT}{}", options.diff_event).into(),
            options,
            state: Mutex::default(),
            sending: Mutex::default(),
            emitting: Mutex::default(),
            changed: Arc::default(),
        })
    }

    /// Panics if the namespace of a socket does not have this presence.
    #[track_caller]
    pub(super) fn expect(&self, member: &Member) {
        let trackers = &member.namespace.hooks.trackers;
        let own = std::ptr::from_ref(self).cast::<()>();
        assert!(
            trackers
                .iter()
                .any(|tracker| std::ptr::eq(Arc::as_ptr(tracker).cast::<()>(), own)),
            "the namespace `{}` does not have this presence: add it by `Namespace::presence`",
            member.namespace.name
        );
    }

    pub(super) fn track(
        &self,
        member: &Member,
        room: &str,
        key: &str,
        user: &impl Serialize,
    ) -> Result<(), PresenceError> {
        let meta = encode(user)?;
        let entering = Entering::new(self, member, room);
        member.namespace.join(member, room);
        let mut state = self.state.lock();
        let socket = member.id.as_str();
        let (name, now) = (&member.namespace.name, now());
        // Checked under the lock: a socket that leaves later is untracked later.
        if !member.namespace.is_in(&member.id, room) || room == socket {
            return Err(PresenceError(PresenceErrorKind::NotInRoom));
        }
        state.attach(member);
        state.replica(name, now).limit_states(longest(member));
        let reserved = reserve(&state, member, room, key, &meta);
        // Also without an entry: it is in the room, and has missed differences meanwhile.
        state.outbox.push_back(Outgoing::State {
            namespace: name.clone(),
            room: room.into(),
            to: member.id,
        });
        entering.is_queued.set(true);
        if reserved.is_ok() {
            let replica = state.replica(name, now);
            replica.track(socket, room, key, meta, now);
        }
        state.collect(name);
        self.changed(state, name, Some(&member.session));
        reserved
    }

    pub(super) fn update(
        &self,
        member: &Member,
        room: &str,
        user: &impl Serialize,
    ) -> Result<(), PresenceError> {
        let meta = encode(user)?;
        let mut state = self.state.lock();
        let (name, socket, now) = (&member.namespace.name, member.id.as_str(), now());
        let replica = state.replicas.get(name);
        let entry = replica.and_then(|replica| replica.entry(socket, room));
        let key = match entry {
            Some((key, _)) if !member.has_left() => Box::<str>::from(key),
            _ => return Err(PresenceError(PresenceErrorKind::NotInRoom)),
        };
        reserve(&state, member, room, &key, &meta)?;
        state
            .replica(name, now)
            .track(socket, room, &key, meta, now);
        state.collect(name);
        self.changed(state, name, Some(&member.session));
        Ok(())
    }

    pub(super) fn untrack(&self, member: &Member, room: &str) {
        self.remove(member, room, self.state.lock());
    }

    fn remove(&self, member: &Member, room: &str, mut state: MutexGuard<'_, State>) {
        let name = &member.namespace.name;
        let Some(replica) = state.replicas.get_mut(name) else {
            return;
        };
        if let Some(bytes) = replica.untrack(member.id.as_str(), room, now()) {
            member.release_tracked(bytes);
            state.collect(name);
            self.changed(state, name, Some(&member.session));
        }
    }

    pub(super) fn users(&self, namespace: &str, room: &str) -> Users {
        let state = self.state.lock();
        let replica = state.replicas.get(namespace);
        replica
            .map(|replica| replica.users(room))
            .unwrap_or_default()
    }

    /// Returns the handler of the messages of other servers.
    pub(super) fn server_event_handler(&self) -> Box<TrackerEventHandler> {
        let weak = Weak::clone(&self.weak);
        Box::new(move |payload| {
            if let Some(live) = weak.upgrade() {
                live.handle(payload);
            }
        })
    }

    fn handle(&self, mut payload: Payload) {
        let (namespace, message) = match payload.read_all::<(String, Message)>() {
            Ok(read) => read,
            Err(error) => {
                tracing::debug!(%error, "a message of another server's presence cannot be read");
                return;
            }
        };
        let (name, now) = (NamespaceName::from(&*namespace), now());
        let mut state = self.state.lock();
        let replica = state.replica(&name, now);
        replica.handle(message, now);
        let claims = replica.take_claims();
        state.collect(&name);
        let hub = state.hub.upgrade();
        self.changed(state, &name, None);
        let Some(namespace) = hub.and_then(|hub| hub.find(&name)) else {
            return;
        };
        for socket in claims {
            let id = SocketId::parse(&socket);
            if let Some(member) = id.and_then(|id| namespace.find(&id)) {
                self.restore(&member, false);
            }
        }
    }

    /// Takes over the entries of a restored socket. `is_first` unless some have arrived later.
    fn restore(&self, member: &Member, is_first: bool) {
        let mut state = self.state.lock();
        let (name, now) = (&member.namespace.name, now());
        state.attach(member);
        let replica = state.replica(name, now);
        replica.limit_states(longest(member));
        let socket = member.id.as_str();
        // What is kept here was counted on the former connection.
        let counted = match is_first {
            true => 0,
            false => replica.rooms_of(socket).1,
        };
        let rooms = member.namespace.rooms_of(&member.id);
        let rooms: BTreeSet<_> = rooms.iter().map(|room| Box::from(&**room)).collect();
        replica.restore(socket, &rooms, now);
        let after = replica.rooms_of(socket).1;
        let here = rooms
            .into_iter()
            .filter(|room| replica.may_have_changed(room));
        let here: Vec<_> = here.collect();
        member.reserve_tracked(after.saturating_sub(counted), usize::MAX);
        member.release_tracked(counted.saturating_sub(after));
        state.collect(name);
        // Also rooms in which it is not tracked: over the log of a cluster it has missed differences.
        for room in here {
            state.outbox.push_back(Outgoing::State {
                namespace: name.clone(),
                room,
                to: member.id,
            });
        }
        self.changed(state, name, Some(&member.session));
    }

    /// Ends the change of a replica: sends the outbox, and wakes the task, or starts it. A task starts in
    /// the runtime of the session, or in the current one.
    fn changed(
        &self,
        mut state: MutexGuard<'_, State>,
        name: &NamespaceName,
        session: Option<&SharedSession>,
    ) {
        let deadline = state.deadline_of(name, now());
        let wakes_at = state.wakes_at;
        // Outside of a runtime no task can start. Then the next change starts it.
        let can_spawn = can_spawn(session);
        if wakes_at.is_none() && can_spawn {
            state.wakes_at = deadline;
        }
        drop(state);
        match (deadline, wakes_at) {
            (Some(deadline), Some(wakes_at)) if deadline < wakes_at => self.changed.notify_one(),
            // Under no lock: a runtime that ends drops the task at once.
            (Some(_), None) if can_spawn => spawn(session, self.task()),
            _ => {}
        }
        self.send(session);
    }

    fn task(&self) -> impl Future<Output = ()> + Send + use<> {
        let task = Task {
            live: Weak::clone(&self.weak),
            has_ended: false,
        };
        task.run(Arc::clone(&self.changed))
    }

    /// Handles the deadlines that have passed, and returns when to call it again. Returns
    /// `None` if the task is to end.
    fn tick(&self) -> Option<Instant> {
        let now = now();
        let mut state = self.state.lock();
        let Some(hub) = state.hub.upgrade() else {
            state.replicas.clear();
            state.wakes_at = None;
            return None;
        };
        let due = state
            .replicas
            .iter_mut()
            .flat_map(|(name, replica)| {
                let due = replica.due(now);
                due.into_iter().map(|socket| (name.clone(), socket))
            })
            .collect::<Vec<_>>();
        drop(state);
        // Under no lock: the store of a namespace may drop values of the application.
        let settled: Vec<_> = due
            .into_iter()
            .map(|(name, socket)| {
                let is_kept = is_stored(&hub, &name, &socket);
                (name, socket, is_kept)
            })
            .collect();
        let is_cut_off = hub.others.as_ref().is_some_and(|each| !each.is_connected());
        let mut state = self.state.lock();
        let mut changed = Vec::new();
        for (name, socket, is_kept) in settled {
            if let Some(replica) = state.replicas.get_mut(&name) {
                replica.settle(&socket, is_kept, now);
                changed.push(name);
            }
        }
        // Each publishes. Those of one start do not do it all at once.
        let replicas = state.replicas.iter();
        let ticking = replicas.filter(|(_, replica)| replica.is_tick(now));
        let ticking: Vec<_> = ticking.map(|(name, _)| name.clone()).collect();
        let at_once = MAX_TICKS.max(state.replicas.len() / 40);
        for name in ticking.iter().take(at_once) {
            if let Some(replica) = state.replicas.get_mut(name) {
                replica.tick(now, is_cut_off);
            }
        }
        changed.extend(ticking.into_iter().take(at_once));
        for name in changed {
            state.collect(&name);
        }
        state.replicas.retain(|_, replica| !replica.is_idle(now));
        shrink(&mut state.replicas);
        let graces = state.replicas.values().filter_map(Replica::grace_ends);
        let ticks = state
            .replicas
            .values()
            .filter_map(|each| each.ticks_at(now));
        // With many namespaces some tick is always due.
        let next_tick = ticks.min().map(|tick| tick.max(now + TICK));
        let deadline = graces.chain(next_tick).min();
        state.wakes_at = deadline;
        drop(state);
        self.send(None);
        deadline
    }
}

impl State {
    /// Sets the server of the sockets. A client may be faster than the notice that its namespace was
    /// created.
    fn attach(&mut self, member: &Member) {
        if self.hub.strong_count() == 0 {
            self.hub = member.namespace.weak_hub();
        }
    }

    fn replica(&mut self, name: &NamespaceName, now: Instant) -> &mut Replica {
        let hub = &self.hub;
        self.replicas.entry(name.clone()).or_insert_with(|| {
            let id = u64::from_be_bytes(random());
            let hub = hub.upgrade();
            let is_shared = hub.as_ref().is_some_and(|hub| hub.others.is_some());
            let within = hub.as_ref().and_then(|hub| hub.recovers_within());
            let replica = Replica::new(format!("{id:016x}").into(), is_shared, within, now);
            match hub.is_some_and(|hub| hub.has_log()) {
                true => replica.over_log(now),
                false => replica,
            }
        })
    }

    /// Puts what a change of a replica has to send into the outbox.
    fn collect(&mut self, name: &NamespaceName) {
        let Some(replica) = self.replicas.get_mut(name) else {
            return;
        };
        for (room, diff) in replica.take_diffs() {
            replica.note_emptied(&room, now());
            self.outbox.push_back(Outgoing::Diff {
                namespace: name.clone(),
                room,
                diff,
            });
        }
        for message in replica.take_messages() {
            self.outbox.push_back(Outgoing::Message {
                namespace: name.clone(),
                message,
            });
        }
    }

    /// Returns the deadline of a replica. Removes it if it is idle.
    fn deadline_of(&mut self, name: &NamespaceName, now: Instant) -> Option<Instant> {
        let replica = self.replicas.get(name)?;
        if replica.is_idle(now) {
            self.replicas.remove(name);
            shrink(&mut self.replicas);
            return None;
        }
        replica.deadline(now)
    }
}

impl Tracker<Member> for Live {
    #[track_caller]
    fn attach(&self, hub: &Arc<Hub>) {
        // Dropped under no lock: it may be the last handle.
        let before = self.state.lock().hub.upgrade();
        if before.is_some_and(|before| !Arc::ptr_eq(&before, hub)) {
            panic!("a presence belongs to one server: create another one");
        }
        self.state.lock().hub = Arc::downgrade(hub);
    }

    fn namespace_opened(&self, hub: &Arc<Hub>, name: &NamespaceName) {
        let mut state = self.state.lock();
        // Messages of the others for a namespace that is not open here are dropped.
        if let Some(replica) = state.replicas.get_mut(name) {
            replica.drop_copies(now());
            state.collect(name);
        }
        if hub.others.is_some() {
            state.outbox.push_back(Outgoing::Message {
                namespace: name.clone(),
                message: Message::Ask { of: None },
            });
        }
        drop(state);
        self.send(None);
    }

    fn events(&self) -> [&str; 2] {
        [&self.options.state_event, &self.options.diff_event]
    }

    fn restored(&self, member: &Member) {
        self.restore(member, true);
    }

    fn left_room(&self, member: &Member, room: &str) {
        let state = self.state.lock();
        // It may have joined again in the meantime.
        if !member.namespace.is_in(&member.id, room) {
            self.remove(member, room, state);
        }
    }

    fn left(&self, member: &Member, reason: DisconnectReason) {
        let mut state = self.state.lock();
        let (name, socket, now) = (&member.namespace.name, member.id.as_str(), now());
        // It may be restored in the meantime.
        let is_back = member.namespace.find(&member.id).is_some();
        let Some(replica) = state.replicas.get_mut(name).filter(|_| !is_back) else {
            return;
        };
        match reason.is_recoverable(true) {
            true => replica.lose(socket, now, self.options.grace),
            false => replica.leave(socket, now),
        }
        state.collect(name);
        self.changed(state, name, Some(&member.session));
    }
}

/// The task that waits for the deadlines.
struct Task {
    live: Weak<Live>,
    has_ended: bool,
}

impl Task {
    async fn run(mut self, changed: Arc<Notify>) {
        loop {
            // No handle is kept while the task waits.
            let deadline = self.live.upgrade().and_then(|live| live.tick());
            let Some(deadline) = deadline else {
                self.has_ended = true;
                return;
            };
            let sleep = pin!(tokio::time::sleep_until(deadline.into()));
            let changed = pin!(changed.notified());
            select(sleep, changed).await;
        }
    }
}

impl Drop for Task {
    /// A runtime that ends drops the task. The next change then starts another.
    fn drop(&mut self) {
        if let Some(live) = self.live.upgrade().filter(|_| !self.has_ended) {
            live.state.lock().wakes_at = None;
        }
    }
}

fn can_spawn(session: Option<&SharedSession>) -> bool {
    session.is_some() || Handle::try_current().is_ok()
}

/// Spawns a task in the runtime of a session, or in the current one.
fn spawn(session: Option<&SharedSession>, task: impl Future<Output = ()> + Send + 'static) {
    match session {
        Some(session) => session.spawn(task),
        None => drop(Handle::try_current().map(|runtime| runtime.spawn(task))),
    }
}

fn encode(user: &impl Serialize) -> Result<Meta, PresenceError> {
    Meta::new(user).map_err(|error| PresenceError(PresenceErrorKind::Encode(error)))
}

/// The part of `max_buffered` that the state of a room may have. A client that is sent a longer one could
/// not be sent anything else.
const STATE_FRACTION: usize = 4;

/// Returns how long the state of a room may be for the server of a socket.
fn longest(member: &Member) -> usize {
    member.session.config.max_buffered / STATE_FRACTION
}

/// Counts an entry in place of the former one in the same room.
fn reserve(
    state: &State,
    member: &Member,
    room: &str,
    key: &str,
    meta: &Meta,
) -> Result<(), PresenceError> {
    let replica = state.replicas.get(&member.namespace.name);
    if replica.is_some_and(|replica| !replica.fits(member.id.as_str(), room, key, meta)) {
        return Err(PresenceError(PresenceErrorKind::RoomFull));
    }
    let former = replica.and_then(|replica| replica.entry(member.id.as_str(), room));
    let (before, after) = (
        former.map_or(0, |(_, bytes)| bytes),
        Replica::cost(room, key, meta),
    );
    let more = after.saturating_sub(before);
    if !member.reserve_tracked(more, member.namespace.max_kept()) {
        return Err(PresenceError(PresenceErrorKind::TooBig));
    }
    member.release_tracked(before.saturating_sub(after));
    Ok(())
}

/// Returns whether a socket can still be restored.
fn is_stored(hub: &Hub, namespace: &NamespaceName, socket: &str) -> bool {
    let id = SocketId::parse(socket);
    let namespace = hub.find(namespace);
    namespace
        .zip(id)
        .is_some_and(|(namespace, id)| namespace.has_stored(&id))
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
