//! Joins the replicas with the server, its sockets and its cluster.
//!
//! One lock protects the replicas and the outbox, so what is sent has the order of the changes. It is
//! sent under no lock of this server, by one thread at a time. Lock order: this lock, then the rooms of a
//! namespace.

use std::cell::Cell;
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
use super::replica::{Diff, Message, Replica, Users};
use crate::clock::now;
use crate::engine_io::SocketId;
use crate::hub::hooks::{ServerEventHandler, Tracker};
use crate::hub::member::Member;
use crate::hub::other_servers::Operation;
use crate::hub::selection::Target;
use crate::hub::{DisconnectReason, Hub};
use crate::protocol::{Args, Data, NamespaceName, Payload};
use crate::random::random;
use crate::sync::{Mutex, MutexGuard};

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
    /// Notified when the next deadline may have changed.
    changed: Arc<Notify>,
}

#[derive(Default)]
struct State {
    hub: Weak<Hub>,
    replicas: HashMap<NamespaceName, Replica>,
    outbox: VecDeque<Outgoing>,
    /// The sockets whose state is not sent yet. Until then they get no differences.
    entering: Vec<(NamespaceName, Box<str>, SocketId)>,
    /// When the [`Task`] does what is due. `None` if there is none.
    wakes_at: Option<Instant>,
}

enum Outgoing {
    State {
        namespace: NamespaceName,
        room: Box<str>,
        to: SocketId,
        users: Users,
    },
    Diff {
        namespace: NamespaceName,
        room: Box<str>,
        /// The socket whose state has the difference already.
        except: Option<SocketId>,
        diff: Diff,
    },
    Message {
        namespace: NamespaceName,
        message: Message,
    },
}

/// The number of outgoing events that may wait before a thread waits until they are sent.
const MAX_WAITING: usize = 4096;

thread_local! {
    /// Whether this thread sends the outbox of a presence. Hooks of the application run meanwhile.
    static IS_SENDING: Cell<bool> = const { Cell::new(false) };
}

impl Live {
    pub(super) fn new(options: Options) -> Arc<Self> {
        Arc::new_cyclic(|weak| Self {
            weak: Weak::clone(weak),
            server_event: format!("tower-socketio:presence:{}", options.diff_event).into(),
            options,
            state: Mutex::default(),
            sending: Mutex::default(),
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
        reserve(&state, member, room, key, &meta)?;
        let replica = state.replica(name, now);
        replica.track(socket, room, key, meta, now);
        let users = replica.users(room);
        state.outbox.push_back(Outgoing::State {
            namespace: name.clone(),
            room: room.into(),
            to: member.id,
            users,
        });
        entering.is_queued.set(true);
        state.collect(name, Some((room, member.id)));
        self.changed(state, name);
        Ok(())
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
        state.collect(name, None);
        self.changed(state, name);
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
            state.collect(name, None);
            self.changed(state, name);
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
    pub(super) fn server_event_handler(&self) -> Arc<ServerEventHandler> {
        let weak = Weak::clone(&self.weak);
        Arc::new(move |_, payload| {
            let live = weak.upgrade();
            Box::pin(async move {
                if let Some(live) = live {
                    live.handle(payload);
                }
                Payload::default()
            })
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
        state.replica(&name, now).handle(message, now);
        state.collect(&name, None);
        self.changed(state, &name);
    }

    /// Ends the change of a replica: sends the outbox, and wakes the task, or starts it.
    fn changed(&self, mut state: MutexGuard<'_, State>, name: &NamespaceName) {
        let deadline = state.deadline_of(name, now());
        let wakes_at = state.wakes_at;
        // Outside of a runtime no task can start. Then the next change starts it.
        let runtime = Handle::try_current().ok();
        if wakes_at.is_none() && runtime.is_some() {
            state.wakes_at = deadline;
        }
        drop(state);
        match (deadline, wakes_at, runtime) {
            (Some(deadline), Some(wakes_at), _) if deadline < wakes_at => self.changed.notify_one(),
            // Under no lock: a runtime that ends drops the task at once.
            (Some(_), None, Some(runtime)) => drop(runtime.spawn(self.task())),
            _ => {}
        }
        self.send();
    }

    fn task(&self) -> impl Future<Output = ()> + Send + use<> {
        let task = Task {
            live: Weak::clone(&self.weak),
            has_ended: false,
        };
        task.run(Arc::clone(&self.changed))
    }

    /// Sends the outbox, or leaves it to the thread that sends.
    fn send(&self) {
        loop {
            let waiting = self.state.lock().outbox.len();
            let sending = match waiting {
                0 => return,
                // A hook that this thread runs must not wait for it.
                1..=MAX_WAITING => self.sending.try_lock(),
                _ if IS_SENDING.get() => self.sending.try_lock(),
                _ => Some(self.sending.lock()),
            };
            // The thread that holds the lock looks again after it has released it.
            let Some(_sending) = sending else { return };
            let _is_sending = IsSending::new();
            while let Some(outgoing) = self.next() {
                self.send_one(outgoing);
            }
        }
    }

    fn next(&self) -> Option<(Outgoing, Arc<Hub>, Vec<Arc<str>>)> {
        let mut state = self.state.lock();
        let hub = state.hub.upgrade();
        let Some(hub) = hub else {
            state.outbox.clear();
            return None;
        };
        let outgoing = state.outbox.pop_front()?;
        let mut except = Vec::new();
        match &outgoing {
            Outgoing::State {
                namespace,
                room,
                to,
                ..
            } => state.entered(namespace, room, to),
            Outgoing::Diff {
                namespace,
                room,
                except: has_it,
                ..
            } => {
                let is_here = |(name, each, _): &&(NamespaceName, Box<str>, SocketId)| {
                    name == &**namespace && each == room
                };
                let entering = state.entering.iter().filter(is_here).map(|(_, _, id)| id);
                except.extend(entering.chain(has_it).map(|id| Arc::from(id.as_str())));
            }
            Outgoing::Message { .. } => {}
        }
        Some((outgoing, hub, except))
    }

    fn send_one(&self, (outgoing, hub, except): (Outgoing, Arc<Hub>, Vec<Arc<str>>)) {
        match outgoing {
            Outgoing::State {
                namespace,
                room,
                to,
                users,
            } => {
                let state = StateEvent {
                    room: &room,
                    users: &users,
                };
                let target = Target::of(&to);
                emit(&hub, &namespace, &self.options.state_event, &target, state);
            }
            Outgoing::Diff {
                namespace,
                room,
                diff,
                ..
            } => {
                let target = Target {
                    rooms: vec![Arc::from(&*room)],
                    except,
                };
                let diff = DiffEvent {
                    room: &room,
                    joins: &diff.joins,
                    updates: &diff.updates,
                    leaves: &diff.leaves,
                };
                emit(&hub, &namespace, &self.options.diff_event, &target, diff);
            }
            Outgoing::Message { namespace, message } => {
                let Some(others) = &hub.others else { return };
                let args = Args((namespace.as_str(), message));
                match Payload::event(&self.server_event, namespace.len(), args) {
                    // A message that cannot be sent is missed, as one that is lost.
                    Ok(payload) => drop(others.send_server_event(&namespace, payload)),
                    Err(error) => {
                        tracing::error!(%error, "a message of a presence cannot be written");
                    }
                }
            }
        }
    }

    /// Does what is due, and returns when to call it again. Returns `None` if the task is to end.
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
        for (name, socket, is_kept) in settled {
            if let Some(replica) = state.replicas.get_mut(&name) {
                replica.settle(&socket, is_kept, now);
            }
        }
        let names: Vec<_> = state.replicas.keys().cloned().collect();
        for name in names {
            if let Some(replica) = state.replicas.get_mut(&name) {
                replica.tick(now, is_cut_off);
            }
            state.collect(&name, None);
        }
        state.replicas.retain(|_, replica| !replica.is_idle(now));
        let replicas = state.replicas.values();
        let deadline = replicas.filter_map(|each| each.deadline(now)).min();
        state.wakes_at = deadline;
        drop(state);
        self.send();
        deadline
    }
}

impl State {
    fn replica(&mut self, name: &NamespaceName, now: Instant) -> &mut Replica {
        let hub = &self.hub;
        self.replicas.entry(name.clone()).or_insert_with(|| {
            let id = u64::from_be_bytes(random());
            let is_shared = hub.upgrade().is_some_and(|hub| hub.others.is_some());
            Replica::new(format!("{id:016x}").into(), is_shared, now)
        })
    }

    /// Puts what a change of a replica has to send into the outbox. `entered` is the socket that gets the
    /// state of a room with this change.
    fn collect(&mut self, name: &NamespaceName, entered: Option<(&str, SocketId)>) {
        let Some(replica) = self.replicas.get_mut(name) else {
            return;
        };
        for (room, diff) in replica.take_diffs() {
            let except = entered.filter(|(entered, _)| **entered == *room);
            self.outbox.push_back(Outgoing::Diff {
                namespace: name.clone(),
                except: except.map(|(_, id)| id),
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

    fn entered(&mut self, namespace: &NamespaceName, room: &str, id: &SocketId) {
        let is_it = |(name, each, socket): &(NamespaceName, Box<str>, SocketId)| {
            socket == id && **each == *room && name == &**namespace
        };
        if let Some(at) = self.entering.iter().position(is_it) {
            self.entering.swap_remove(at);
        }
    }

    /// Returns the deadline of a replica. Removes it if it is idle.
    fn deadline_of(&mut self, name: &NamespaceName, now: Instant) -> Option<Instant> {
        let replica = self.replicas.get(name)?;
        if replica.is_idle(now) {
            self.replicas.remove(name);
            return None;
        }
        replica.deadline(now)
    }
}

impl Tracker<Member> for Live {
    fn namespace_opened(&self, hub: &Arc<Hub>, name: &NamespaceName) {
        let mut state = self.state.lock();
        let before = state.hub.upgrade();
        if before.is_some_and(|before| !Arc::ptr_eq(&before, hub)) {
            drop(state);
            panic!("a presence belongs to one server: create another one");
        }
        state.hub = Arc::downgrade(hub);
        if hub.others.is_some() {
            state.outbox.push_back(Outgoing::Message {
                namespace: name.clone(),
                message: Message::Ask { of: None },
            });
        }
        drop(state);
        self.send();
    }

    fn restored(&self, member: &Member) {
        let mut state = self.state.lock();
        let (name, now) = (&member.namespace.name, now());
        let Some(replica) = state.replicas.get_mut(name) else {
            return;
        };
        let socket = member.id.as_str();
        let rooms = member.namespace.rooms_of(&member.id);
        let rooms: BTreeSet<_> = rooms.iter().map(|room| Box::from(&**room)).collect();
        replica.restore(socket, &rooms, now);
        let (tracked, bytes) = replica.rooms_of(socket);
        let users: Vec<_> = tracked.iter().map(|room| replica.users(room)).collect();
        // They were counted before, on the former connection.
        member.reserve_tracked(bytes, usize::MAX);
        state.collect(name, None);
        for (room, users) in tracked.into_iter().zip(users) {
            state.outbox.push_back(Outgoing::State {
                namespace: name.clone(),
                room,
                to: member.id,
                users,
            });
        }
        self.changed(state, name);
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
        state.collect(name, None);
        self.changed(state, name);
    }
}

/// Keeps the differences of a room from a socket that joins it, until its state is sent.
struct Entering<'a> {
    live: &'a Live,
    member: &'a Member,
    room: &'a str,
    /// Whether the state is in the outbox, and ends this.
    is_queued: Cell<bool>,
}

impl<'a> Entering<'a> {
    fn new(live: &'a Live, member: &'a Member, room: &'a str) -> Self {
        let entering = (member.namespace.name.clone(), room.into(), member.id);
        live.state.lock().entering.push(entering);
        Self {
            live,
            member,
            room,
            is_queued: Cell::new(false),
        }
    }
}

impl Drop for Entering<'_> {
    fn drop(&mut self) {
        if !self.is_queued.get() {
            let mut state = self.live.state.lock();
            state.entered(&self.member.namespace.name, self.room, &self.member.id);
        }
    }
}

/// Marks this thread as one that sends.
struct IsSending {
    before: bool,
}

impl IsSending {
    fn new() -> Self {
        let before = IS_SENDING.replace(true);
        Self { before }
    }
}

impl Drop for IsSending {
    fn drop(&mut self) {
        IS_SENDING.set(self.before);
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

#[derive(Serialize)]
struct StateEvent<'a> {
    room: &'a str,
    users: &'a Users,
}

#[derive(Serialize)]
struct DiffEvent<'a> {
    room: &'a str,
    joins: &'a Users,
    updates: &'a Users,
    leaves: &'a Users,
}

/// Sends an event to sockets of this server.
fn emit(hub: &Hub, namespace: &NamespaceName, event: &str, to: &Target, value: impl Serialize) {
    let Some(namespace) = hub.find(namespace) else {
        return;
    };
    match Payload::event(event, namespace.name.len(), Data(value)) {
        Ok(payload) => {
            let operation = Operation::Emit {
                payload,
                volatile: false,
            };
            // It is sent to no other server, so it does not fail.
            let _ = namespace.act(to, operation, true, None);
        }
        Err(error) => tracing::error!(%error, event, "a presence was not sent"),
    }
}

fn encode(user: &impl Serialize) -> Result<Meta, PresenceError> {
    Meta::new(user).map_err(|error| PresenceError(PresenceErrorKind::Encode(error)))
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
