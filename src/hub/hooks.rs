//! The hooks that an application registers for namespaces, rooms and outgoing events.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use futures_core::future::BoxFuture;

use super::definition::Definition;
use super::room_event::{RoomChange, RoomEvent};
use super::{DisconnectReason, Hub};
use crate::contract::Emitted;
use crate::guard::guarded_hook;
use crate::protocol::{NamespaceName, Payload, RawArgs};
use crate::sync::{Mutex, MutexGuard, thread_cell};

/// The hooks of a namespace. A hook that is not set costs a branch. `M` is the type of the sockets.
pub(crate) struct Hooks<M> {
    pub(crate) room: Option<Box<RoomHook<'static>>>,
    pub(crate) outgoing: Option<Box<OutgoingHook<M>>>,
    /// Whether a test watches the events that are sent.
    pub(crate) emitted: Emitted,
    /// The handlers of the events of other servers.
    pub(crate) server_events: HashMap<Box<str>, Arc<ServerEventHandler>>,
    /// The handler of all other server events.
    pub(crate) server_event_fallback: Option<Arc<ServerEventHandler>>,
    /// Whether recovery has no effect on the namespace, even if it is on.
    pub(crate) skips_recovery: bool,
    /// The definition of the namespace, for observers.
    pub(crate) definition: Arc<Definition>,
    pub(crate) trackers: Vec<Arc<dyn Tracker<M>>>,
    /// The handlers of the server events that the trackers of other servers send.
    pub(crate) tracker_events: HashMap<Box<str>, Box<TrackerEventHandler>>,
}

/// Follows in which rooms the sockets of a namespace are. Its methods are called under no lock, after the
/// change: by then another thread may have made the next one.
pub(crate) trait Tracker<M>: Send + Sync {
    /// The names of the events that it sends to clients.
    fn events(&self) -> [&str; 2];

    /// A server is built with a namespace, or a pattern of namespaces, that has this tracker.
    ///
    /// # Panics
    ///
    /// Panics if another server has the tracker.
    #[track_caller]
    fn attach(&self, hub: &Arc<Hub>);

    /// A namespace was created in this process.
    fn namespace_opened(&self, hub: &Arc<Hub>, name: &NamespaceName);

    /// A socket was restored, with its rooms.
    fn restored(&self, socket: &M);

    /// A socket has left a room, but not the namespace.
    fn left_room(&self, socket: &M, room: &str);

    /// A socket has left the namespace.
    fn left(&self, socket: &M, reason: DisconnectReason);
}

impl<M> Default for Hooks<M> {
    fn default() -> Self {
        Self {
            room: None,
            outgoing: None,
            emitted: Emitted::default(),
            server_events: HashMap::new(),
            server_event_fallback: None,
            skips_recovery: false,
            definition: Arc::default(),
            trackers: Vec::new(),
            tracker_events: HashMap::new(),
        }
    }
}

impl<M> Hooks<M> {
    /// Returns the handler of an event of another server.
    pub(crate) fn server_event(&self, name: &str) -> Option<Arc<ServerEventHandler>> {
        let own = self.server_events.get(name);
        let fallback = self.server_event_fallback.as_ref();
        // The application knows nothing of the events of trackers.
        let fallback = fallback.filter(|_| !name.starts_with(TRACKER_EVENT));
        own.or(fallback).cloned()
    }

    /// Returns the handler of a tracker's event of another server.
    pub(crate) fn tracker_event(&self, name: &str) -> Option<&TrackerEventHandler> {
        if self.tracker_events.is_empty() {
            return None;
        }
        self.tracker_events.get(name).map(|handler| &**handler)
    }
}

/// A hook that is called for each change of a room.
pub(crate) type RoomHook<'a> = dyn Fn(RoomEvent) + Send + Sync + 'a;

/// A handler of the events of other servers. It returns the arguments of its reply.
pub(crate) type ServerEventHandler =
    dyn Fn(&Arc<Hub>, Payload) -> BoxFuture<'static, Payload> + Send + Sync;

/// How the names of the server events of trackers begin.
pub(crate) const TRACKER_EVENT: &str = "tower-socketio:presence:";

/// A handler of a server event of a tracker. It does not wait.
pub(crate) type TrackerEventHandler = dyn Fn(Payload) + Send + Sync;

/// A hook that is called for each event that is sent.
pub(crate) type OutgoingHook<M> = dyn Fn(&Arc<M>, &str, &RawArgs) + Send + Sync;

impl<M> fmt::Debug for Hooks<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("room", &self.room.is_some())
            .field("outgoing", &self.outgoing.is_some())
            .finish()
    }
}

/// A hook that is called when a namespace is created, except the main one.
#[derive(Default)]
pub(crate) struct NamespaceHook(pub(crate) Option<Box<NamespaceFn>>);

type NamespaceFn = dyn Fn(&str) + Send + Sync;

impl NamespaceHook {
    pub(super) fn notify(&self, name: &NamespaceName) {
        if let Some(hook) = self.0.as_ref().filter(|_| !name.is_main()) {
            guarded_hook(|| hook(name));
        }
    }
}

impl fmt::Debug for NamespaceHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NamespaceHook")
            .field(&self.0.is_some())
            .finish()
    }
}

/// An outgoing event, copied for the hook.
pub(crate) struct OutgoingEvent<'a, M> {
    hook: &'a OutgoingHook<M>,
    name: String,
    args: RawArgs,
}

impl<'a, M> OutgoingEvent<'a, M> {
    /// Copies an event if there is a hook for outgoing events.
    pub(crate) fn capture(hooks: &'a Hooks<M>, payload: &Payload) -> Option<Self> {
        let hook = hooks.outgoing.as_deref()?;
        Some(Self {
            hook,
            name: payload.name().unwrap_or_default().to_owned(),
            args: payload.clone().into_args(),
        })
    }

    pub(crate) fn notify(&self, member: &Arc<M>) {
        guarded_hook(|| (self.hook)(member, &self.name, &self.args));
    }
}

/// Room changes that are pending: the hook was not called for them yet.
///
/// The changes are added under the lock of the rooms, which sets their order. They are removed
/// under no lock of the namespace, by one thread at a time. A thread that changes a room calls the
/// hook for a few changes, also for those of other threads. A
/// [`RoomEventTask`](super::namespace::RoomEventTask) calls it for the rest. If more than
/// [`MAX_PENDING`] changes are pending, the thread waits for `hook_lock` and calls the hook for as
/// many changes as it has made, and a few more. So the number of pending changes never grows far
/// above the limit.
#[derive(Debug, Default)]
pub(super) struct RoomChanges {
    pending: Mutex<PendingEvents>,
    /// Held while the hook is called.
    hook_lock: Mutex<()>,
}

#[derive(Debug, Default)]
struct PendingEvents {
    events: VecDeque<RoomEvent>,
    /// Whether there is a [`RoomEventTask`](super::namespace::RoomEventTask).
    has_task: bool,
}

/// The number of changes that the hook is called for at a time.
const BATCH: usize = 32;

/// The number of changes that may be pending before a thread waits for the hook.
pub(super) const MAX_PENDING: usize = 4096;

thread_cell! {
    /// Whether a room hook runs on this thread.
    static IN_HOOK: bool = false
}

impl RoomChanges {
    fn lock(&self) -> MutexGuard<'_, PendingEvents> {
        self.pending.lock()
    }

    /// Adds changes, and returns their number.
    pub(super) fn push(
        &self,
        namespace: &NamespaceName,
        changes: impl IntoIterator<Item = (Arc<str>, RoomChange)>,
    ) -> usize {
        let changes = changes.into_iter().map(|(room, change)| RoomEvent {
            namespace: namespace.clone(),
            room,
            change,
        });
        let events = &mut self.lock().events;
        let before = events.len();
        events.extend(changes);
        events.len() - before
    }

    /// Calls the hook for some changes. `made` is the number of changes that the caller has made.
    /// Returns whether the caller must spawn a
    /// [`RoomEventTask`](super::namespace::RoomEventTask) for the rest.
    pub(super) fn notify(&self, hook: &RoomHook<'_>, made: usize) -> bool {
        let waiting = self.lock().events.len();
        // A hook that changes rooms runs under `hook_lock`.
        if waiting == 0 || IN_HOOK.get() {
            return self.needs_task();
        }
        let hook_lock = match waiting > MAX_PENDING {
            true => Some(self.hook_lock.lock()),
            // The holder of the lock calls the hook for these changes, or a `RoomEventTask` does.
            false => self.hook_lock.try_lock(),
        };
        if let Some(_guard) = hook_lock {
            self.notify_some(hook, made + BATCH);
        }
        self.needs_task()
    }

    /// Calls the hook for up to `count` changes. The caller holds `hook_lock`.
    fn notify_some(&self, hook: &RoomHook<'_>, count: usize) {
        IN_HOOK.set(true);
        for _ in 0..count {
            let Some(event) = self.lock().events.pop_front() else {
                break;
            };
            guarded_hook(|| hook(event));
        }
        IN_HOOK.set(false);
        let events = &mut self.lock().events;
        if events.is_empty() && events.capacity() > BATCH {
            *events = VecDeque::new();
        }
    }

    fn needs_task(&self) -> bool {
        let mut pending = self.lock();
        !pending.events.is_empty() && !std::mem::replace(&mut pending.has_task, true)
    }

    /// Calls the hook for the next changes, for a
    /// [`RoomEventTask`](super::namespace::RoomEventTask). Returns `false` if none are left: the
    /// next change needs another task.
    pub(super) fn notify_batch(&self, hook: &RoomHook<'_>) -> bool {
        if IN_HOOK.get() {
            // A runtime that has ended drops the `RoomEventTask` inside of `spawn`: here in a hook,
            // under `hook_lock`. The caller of the hook handles the remaining changes.
            self.lock().has_task = false;
            return false;
        }
        let hook_lock = self.hook_lock.lock();
        self.notify_some(hook, BATCH);
        drop(hook_lock);
        let mut pending = self.lock();
        pending.has_task = !pending.events.is_empty();
        pending.has_task
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn push(changes: &RoomChanges, count: usize) -> usize {
        let room = |n: usize| (Arc::from(n.to_string()), RoomChange::Create);
        changes.push(&NamespaceName::MAIN, (0..count).map(room))
    }

    #[test]
    fn the_caller_notifies_the_hook_of_a_few_changes_only() {
        let changes = RoomChanges::default();
        let (sender, rooms) = mpsc::channel();
        let hook = move |event: RoomEvent| sender.send(event.room.to_string()).expect("open");
        assert_eq!(push(&changes, 100), 100);
        assert!(changes.notify(&hook, 2), "a task is needed");
        assert!(!changes.notify(&hook, 2), "one task is enough");
        while changes.notify_batch(&hook) {}
        assert!(!changes.notify(&hook, 2), "there is nothing left");
        let expected = (0..100).map(|n| n.to_string());
        assert!(rooms.try_iter().eq(expected));
    }

    #[test]
    fn room_events_over_the_limit_make_their_caller_wait() {
        let changes = RoomChanges::default();
        let (entered, waits) = mpsc::channel();
        let (open, gate) = mpsc::channel::<()>();
        let (entered, gate) = (Mutex::new(entered), Mutex::new(gate));
        // Each call waits for the gate.
        let hook = |_: RoomEvent| {
            entered.lock().send(()).expect("open");
            gate.lock().recv().expect("open");
        };
        std::thread::scope(|scope| {
            push(&changes, 1);
            scope.spawn(|| changes.notify(&hook, 1));
            waits.recv().expect("the hook runs");
            // Up to the limit no other thread waits for the hook.
            push(&changes, MAX_PENDING);
            changes.notify(&hook, MAX_PENDING);
            // Above the limit a thread waits.
            let helper = scope.spawn(|| {
                push(&changes, 10);
                changes.notify(&hook, 10);
            });
            std::thread::yield_now();
            assert!(!helper.is_finished());
            (0..2 * (MAX_PENDING + 11)).for_each(|_| open.send(()).expect("open"));
        });
        assert!(changes.lock().events.len() < MAX_PENDING);
    }

    #[test]
    fn a_hook_may_change_rooms() {
        let changes = RoomChanges::default();
        let calls = std::sync::atomic::AtomicUsize::new(0);
        let hook = |_: RoomEvent| {
            if calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0 {
                push(&changes, MAX_PENDING + 1);
                assert!(changes.notify(&|_| panic!("out of order"), 1));
            }
        };
        push(&changes, 1);
        assert!(
            !changes.notify(&hook, 1),
            "the hook's call asked for a task"
        );
        assert_eq!(calls.into_inner(), 1 + BATCH);
    }
}
