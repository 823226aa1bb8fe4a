//! What an application wants to be told of a namespace.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::member::Member;
use crate::engine::SocketId;
use crate::protocol::{NamespaceName, Payload, RawArgs};

/// The hooks of a namespace. One that is not set costs a branch.
#[derive(Default)]
pub(crate) struct Hooks {
    pub(crate) room: Option<Box<dyn Fn(RoomEvent) + Send + Sync>>,
    pub(crate) outgoing: Option<Box<Outgoing>>,
}

/// What is told of events that are sent.
pub(crate) type Outgoing = dyn Fn(&Arc<Member>, &str, &RawArgs) + Send + Sync;

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("room", &self.room.is_some())
            .field("outgoing", &self.outgoing.is_some())
            .finish()
    }
}

/// Who is told of each namespace that comes to be, but for the main one.
#[derive(Default)]
pub(crate) struct Created(pub(crate) Option<Box<CreatedHook>>);

type CreatedHook = dyn Fn(&str) + Send + Sync;

impl Created {
    pub(super) fn tell(&self, name: &NamespaceName) {
        if let Some(hook) = self.0.as_ref().filter(|_| !name.is_main()) {
            call(|| hook(name));
        }
    }
}

impl fmt::Debug for Created {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Created").field(&self.0.is_some()).finish()
    }
}

/// Calls a hook. Its panic ends it alone: who emits or joins has nothing to do with it.
pub(crate) fn call(hook: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(hook)).is_err() {
        tracing::error!("a hook panicked");
    }
}

/// An event that is sent, for those who want to see it.
pub(crate) struct Sent<'a> {
    hook: &'a Outgoing,
    name: String,
    args: RawArgs,
}

impl<'a> Sent<'a> {
    /// Copies an event if anybody wants to see it.
    pub(crate) fn seen(hooks: &'a Hooks, payload: &Payload) -> Option<Self> {
        let hook = hooks.outgoing.as_deref()?;
        Some(Self {
            hook,
            name: payload.name().unwrap_or_default().to_owned(),
            args: payload.clone().into_args(),
        })
    }

    pub(crate) fn tell(&self, member: &Arc<Member>) {
        call(|| (self.hook)(member, &self.name, &self.args));
    }
}

/// That a room has changed: what [`Namespace::on_room_event`] is told.
///
/// [`Namespace::on_room_event`]: crate::Namespace::on_room_event
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RoomEvent {
    /// The namespace of the room.
    pub namespace: NamespaceName,
    /// The name of the room; a socket's id is a room of its own.
    pub room: Arc<str>,
    /// What happened to it.
    pub change: RoomChange,
}

/// What happened to a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RoomChange {
    /// It is there now: somebody joins it.
    Create,
    /// A socket has joined it.
    Join(SocketId),
    /// A socket has left it.
    Leave(SocketId),
    /// It is no longer there: the last one has left it.
    Delete,
}

/// What happened to rooms and nobody was told of yet.
///
/// It is filled under the lock of the rooms, which makes the order, and emptied under none, by one
/// at a time.
#[derive(Debug, Default)]
pub(super) struct RoomLog(Mutex<Pending>);

#[derive(Debug, Default)]
struct Pending {
    events: VecDeque<RoomEvent>,
    telling: bool,
}

impl RoomLog {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(
        &self,
        namespace: &NamespaceName,
        changes: impl IntoIterator<Item = (Arc<str>, RoomChange)>,
    ) {
        let changes = changes.into_iter().map(|(room, change)| RoomEvent {
            namespace: namespace.clone(),
            room,
            change,
        });
        self.lock().events.extend(changes);
    }

    /// Tells all there is, unless somebody does: that one goes on with it.
    pub(super) fn tell(&self, hook: &(dyn Fn(RoomEvent) + Send + Sync)) {
        let mut pending = self.lock();
        if std::mem::replace(&mut pending.telling, true) {
            return;
        }
        while let Some(event) = pending.events.pop_front() {
            drop(pending);
            call(|| hook(event));
            pending = self.lock();
        }
        pending.telling = false;
    }
}
