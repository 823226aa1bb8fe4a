//! One namespace: its sockets, and a broadcast to them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::member::Member;
use super::rooms::{Rooms, Selection, Target};
use super::{DisconnectReason, Hub};
use crate::engine::SocketId;
use crate::protocol::{Encoded, NamespaceName, Parser};

/// One namespace. Synchronous: whoever broadcasts picks the receivers and queues for them.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) name: NamespaceName,
    /// What stood for the parameters of its path.
    pub(crate) params: Vec<(String, String)>,
    /// Whether it stays when it is empty.
    pub(crate) is_static: bool,
    pub(crate) parser: Arc<dyn Parser>,
    max_rooms: usize,
    hub: Weak<Hub>,
    rooms: Mutex<Rooms<Arc<Member>>>,
    next_ack: AtomicU64,
    retired: std::sync::atomic::AtomicBool,
}

impl Registry {
    pub(super) fn new(
        name: NamespaceName,
        params: Vec<(String, String)>,
        is_static: bool,
        hub: &Arc<Hub>,
    ) -> Self {
        Self {
            name,
            params,
            is_static,
            parser: Arc::clone(&hub.parser),
            max_rooms: hub.limits.rooms_per_socket,
            hub: Arc::downgrade(hub),
            rooms: Mutex::default(),
            next_ack: AtomicU64::new(0),
            retired: false.into(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Rooms<Arc<Member>>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn hub(&self) -> Option<Arc<Hub>> {
        self.hub.upgrade()
    }

    /// The id of the next acknowledgement: one counter, so that a broadcast has one for all.
    pub(crate) fn next_ack(&self) -> u64 {
        self.next_ack.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes a socket in; none if the namespace was forgotten meanwhile. It leaves at the latest
    /// when the guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>, member: Arc<Member>) -> Option<Membership> {
        let mut rooms = self.lock();
        if self.retired.load(Ordering::Relaxed) {
            return None;
        }
        rooms.enter(member.id, Arc::clone(&member));
        Some(Membership(member))
    }

    pub(super) fn remove(&self, id: &SocketId) -> Vec<Arc<str>> {
        self.lock().leave(id)
    }

    /// Marks an empty namespace as gone; false if somebody came.
    pub(super) fn retire(&self) -> bool {
        let rooms = self.lock();
        let is_empty = rooms.len() == 0;
        self.retired.store(is_empty, Ordering::Relaxed);
        is_empty
    }

    pub(crate) fn join(&self, id: SocketId, room: &str) -> bool {
        self.lock().join(id, room, self.max_rooms)
    }

    pub(crate) fn part(&self, id: &SocketId, room: &str) -> bool {
        self.lock().part(id, room)
    }

    pub(crate) fn rooms_of(&self, id: &SocketId) -> Vec<Arc<str>> {
        self.lock().rooms_of(id)
    }

    /// How many sockets there are, those that still connect too.
    pub(crate) fn member_count(&self) -> usize {
        self.lock().len()
    }

    pub(crate) fn room_count(&self) -> usize {
        self.lock().room_count()
    }

    /// The sockets that a broadcast means. The lock is not held while it is sent.
    pub(crate) fn select(&self, target: &Target) -> Selection<Arc<Member>> {
        self.lock().select(target)
    }

    /// Queues a packet for all that are meant.
    pub(crate) fn broadcast(&self, target: &Target, packet: &Encoded, volatile: bool) {
        for member in self.select(target).iter() {
            if volatile && !member.is_writable() {
                continue;
            }
            member.send(packet);
        }
    }
}

/// A socket's place in its namespace.
#[derive(Debug)]
pub(crate) struct Membership(pub(crate) Arc<Member>);

impl Drop for Membership {
    fn drop(&mut self) {
        let member = &self.0;
        member.leave(DisconnectReason::TransportClose);
        if let Some(hub) = member.registry.hub() {
            hub.forget_if_empty(&member.registry);
        }
    }
}
