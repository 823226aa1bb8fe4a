//! The packets and sockets of one namespace, with the rooms and the offsets of each socket.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde_json::Value;

use super::log::{Entry, Log, Recipients};
use super::offset::Offset;
use super::room_history::RoomHistory;
use super::saved::{History, SavedSocket};
use super::shared_log::SharedLog;
use super::{PrivateId, RecoveryBudget};
use crate::engine_io::SocketId;
use crate::hub::id_hash::IdHash;
use crate::hub::selection::Target;
use crate::protocol::{Claim, Encoded, NamespaceName, Payload};
use crate::shrink::shrink;
use crate::sync::Mutex;

/// The recovery store of one namespace. `T` is the handover from a suspended socket to the restored
/// one.
#[derive(Debug)]
pub(crate) struct RecoveryStore<T> {
    packets: Packets,
    /// Boxed, because a table has room for up to twice its entries.
    sockets: HashMap<SocketId, Box<StoredSocket<T>>, IdHash>,
    by_private_id: HashMap<PrivateId, SocketId>,
    /// The suspended sockets, in the order in which they were suspended.
    suspended: BTreeSet<(Instant, SocketId)>,
    /// The suspended sockets in each room. Over the log of a cluster nobody asks for them.
    in_room: HashMap<Arc<str>, HashSet<SocketId, IdHash>>,
    pub(super) budget: Arc<RecoveryBudget>,
    /// Handovers that are no longer needed. They may hold values of the application, whose
    /// destructors must not run under a lock.
    pub(super) dropped_later: Vec<T>,
}

/// Where the packets are kept.
#[derive(Debug)]
pub(super) enum Packets {
    /// Those of this namespace.
    Own(Log),
    /// Those of the cluster, in the log that all namespaces of this server share.
    Shared(Arc<Mutex<SharedLog>>),
}

impl Packets {
    /// Returns the offset of the next packet.
    fn next(&self) -> Offset {
        match self {
            Self::Own(log) => log.next(),
            Self::Shared(log) => log.lock().last().next(),
        }
    }

    /// Returns the offset of the oldest packet that is kept, or of the next one if there is none.
    fn first(&self) -> Offset {
        match self {
            Self::Own(log) => log.first(),
            Self::Shared(log) => log.lock().first(),
        }
    }
}

/// One socket, present or suspended.
#[derive(Debug)]
struct StoredSocket<T> {
    private_id: PrivateId,
    /// The offset of the first packet that may have been sent to the socket. A client that names an
    /// older offset has received no packet of this socket.
    base: Offset,
    /// The offset of the last packet that was sent to the socket.
    sent: Offset,
    room_history: RoomHistory,
    /// The bytes of the socket's data, as the recovery budget counts them.
    data: usize,
    suspended: Option<Suspended<T>>,
}

#[derive(Debug)]
struct Suspended<T> {
    since: Instant,
    /// The offset of the first packet after the socket was suspended.
    next: Offset,
    /// The bytes that the recovery budget counts for the socket.
    bytes: usize,
    handover: T,
}

/// A restored socket.
#[derive(Debug)]
pub(crate) struct Restored<T> {
    pub(crate) id: SocketId,
    pub(crate) private_id: PrivateId,
    pub(crate) rooms: Vec<Arc<str>>,
    pub(crate) missed: Vec<Encoded>,
    pub(crate) sent: Offset,
    /// `None` if the socket was suspended on another server.
    pub(crate) handover: Option<T>,
}

impl<T> RecoveryStore<T> {
    pub(super) fn new(packets: Packets, budget: Arc<RecoveryBudget>) -> Self {
        Self {
            packets,
            sockets: HashMap::default(),
            by_private_id: HashMap::new(),
            suspended: BTreeSet::new(),
            in_room: HashMap::new(),
            budget,
            dropped_later: Vec::new(),
        }
    }

    // Packets.

    /// Returns the offset of the next packet.
    pub(crate) fn next(&self) -> Offset {
        self.packets.next()
    }

    /// Returns the offset of the last packet.
    pub(crate) fn last(&self) -> Offset {
        self.packets.next().before()
    }

    /// Returns an offset as it is sent to clients.
    pub(super) fn text(&self, offset: Offset) -> String {
        match &self.packets {
            Packets::Own(_) => offset.to_own_text(),
            Packets::Shared(_) => offset.to_string(),
        }
    }

    /// Appends the last offset to an event without an offset, if its last argument is a string.
    ///
    /// A client reads the last argument as the offset if it is a string, also if the event has no
    /// offset. The last offset is correct: all packets up to it were queued for the client before.
    pub(super) fn mark_volatile(&self, payload: &mut Payload) {
        if payload.ends_with_text() {
            payload.push_text(&self.text(self.last()));
        }
    }

    /// Keeps a packet under the next offset. If there is no socket, present or suspended, the
    /// packet is only counted.
    pub(crate) fn keep(&mut self, to: Recipients, packet: &Encoded, now: Instant) {
        self.expire(now);
        // The log of a cluster keeps what comes back from it.
        let Packets::Own(log) = &mut self.packets else {
            return;
        };
        if self.sockets.is_empty() {
            return log.skip();
        }
        log.push(to, packet.clone(), now);
    }

    // Present sockets.

    /// Adds a new socket, with its private id.
    pub(crate) fn insert(&mut self, id: SocketId, private_id: PrivateId) {
        let base = self.packets.next();
        let socket = StoredSocket {
            private_id,
            base,
            sent: base.before(),
            room_history: RoomHistory::new(base),
            data: 0,
            suspended: None,
        };
        self.sockets.insert(id, Box::new(socket));
        self.by_private_id.insert(private_id, id);
    }

    pub(crate) fn join(&mut self, id: &SocketId, room: &str) {
        let next = self.packets.next();
        if let Some(socket) = self.sockets.get_mut(id) {
            socket.room_history.join(room, next);
            if socket.suspended.is_some() {
                let joined = socket.room_history.rooms.get_key_value(room);
                let joined = joined.map(|(room, _)| Arc::clone(room));
                self.enter(id, joined);
                self.recount(id);
            }
        }
    }

    /// Records that a suspended socket is in rooms.
    fn enter(&mut self, id: &SocketId, rooms: impl IntoIterator<Item = Arc<str>>) {
        if matches!(self.packets, Packets::Own(_)) {
            for room in rooms {
                self.in_room.entry(room).or_default().insert(*id);
            }
        }
    }

    /// Records that a suspended socket is no longer in a room, or no longer suspended.
    fn exit(&mut self, id: &SocketId, room: &str) {
        if let Some(sockets) = self.in_room.get_mut(room) {
            sockets.remove(id);
            if sockets.is_empty() {
                self.in_room.remove(room);
                shrink(&mut self.in_room);
            }
        }
    }

    /// Counts the bytes of a suspended socket again.
    fn recount(&mut self, id: &SocketId) {
        let Some(socket) = self.sockets.get_mut(id) else {
            return;
        };
        let bytes = socket.cost();
        if let Some(suspended) = &mut socket.suspended {
            let before = std::mem::replace(&mut suspended.bytes, bytes);
            self.budget.sockets.fetch_add(bytes, Ordering::Relaxed);
            self.budget.sockets.fetch_sub(before, Ordering::Relaxed);
        }
        self.forget_beyond();
    }

    /// Forgets the sockets that have been suspended the longest, while all are above the limit.
    fn forget_beyond(&mut self) {
        let max = self.budget.config.socket_bytes;
        while self.budget.sockets.load(Ordering::Relaxed) > max {
            let Some(&(_, longest)) = self.suspended.first() else {
                break;
            };
            self.forget(&longest);
        }
    }

    pub(crate) fn leave_room(&mut self, id: &SocketId, room: &str) {
        let (first, next) = (self.packets.first(), self.packets.next());
        if let Some(socket) = self.sockets.get_mut(id) {
            socket.room_history.leave(room, next, first);
            let is_suspended = socket.suspended.is_some();
            // The log of another server in a cluster may reach further back than this one's.
            if matches!(self.packets, Packets::Own(_)) {
                socket.room_history.forget_before(first);
            }
            if is_suspended {
                self.exit(id, room);
                self.recount(id);
            }
        }
    }

    /// Returns the suspended sockets that a target selects.
    pub(super) fn suspended_among(&self, target: &Target) -> Vec<SocketId> {
        let next = self.packets.next();
        let is_selected = |id: &SocketId| {
            let socket = self.sockets.get(id);
            let suspended = socket.filter(|socket| socket.suspended.is_some());
            suspended.is_some_and(|socket| socket.room_history.is_selected(id, next, target))
        };
        if target.rooms.is_empty() {
            let all = self.suspended.iter().map(|(_, id)| *id);
            return all.filter(is_selected).collect();
        }
        let mut ids = Vec::new();
        for room in &target.rooms {
            ids.extend(SocketId::parse(room).filter(is_selected));
            let in_room = self.in_room.get(room).into_iter().flatten();
            ids.extend(in_room.filter(|id| is_selected(id)));
        }
        ids
    }

    /// Returns whether a socket is suspended.
    pub(super) fn is_suspended(&self, id: &SocketId) -> bool {
        self.handover(id).is_some()
    }

    /// Returns the number of rooms of a socket.
    pub(super) fn room_count(&self, id: &SocketId) -> usize {
        let socket = self.sockets.get(id);
        socket.map_or(0, |socket| socket.room_history.rooms.len())
    }

    /// Returns whether the socket is present or suspended.
    pub(crate) fn contains(&self, id: &SocketId) -> bool {
        self.sockets.contains_key(id)
    }

    /// Removes a socket that cannot be restored any more.
    pub(crate) fn forget(&mut self, id: &SocketId) {
        let Some(socket) = self.sockets.remove(id) else {
            return;
        };
        self.by_private_id.remove(&socket.private_id);
        shrink(&mut self.sockets);
        shrink(&mut self.by_private_id);
        if let Some(suspended) = socket.suspended {
            for room in socket.room_history.rooms.keys() {
                self.exit(id, room);
            }
            let handover = self.end_suspension(*id, suspended);
            self.dropped_later.push(handover);
        }
        if self.sockets.is_empty() {
            if let Packets::Own(log) = &mut self.packets {
                // No client can ask for the packets.
                log.clear();
            }
            self.sockets = HashMap::default();
            self.by_private_id = HashMap::new();
        }
    }

    /// Removes a socket if it is suspended.
    pub(super) fn forget_suspended(&mut self, id: &SocketId) {
        if self.handover(id).is_some() {
            self.forget(id);
        }
    }

    /// Suspends a socket. `next` is the offset of the first packet after that, `sent` that of the last
    /// packet that was sent to it, and `data` the bytes of its data. A client with an offset before
    /// `floor` may have received packets without an offset.
    ///
    /// Above the limit of the recovery budget, the sockets that have been suspended the longest are
    /// forgotten.
    pub(crate) fn suspend(
        &mut self,
        id: &SocketId,
        next: Offset,
        (sent, floor): (Offset, Offset),
        data: usize,
        handover: T,
        now: Instant,
    ) {
        let Some(socket) = self.sockets.get_mut(id) else {
            return self.dropped_later.push(handover);
        };
        socket.sent = socket.sent.max(sent);
        socket.room_history.floor = socket.room_history.floor.max(floor);
        socket.data = data;
        let bytes = socket.cost();
        socket.suspended = Some(Suspended {
            since: now,
            next,
            bytes,
            handover,
        });
        let rooms: Vec<_> = socket.room_history.rooms.keys().cloned().collect();
        self.suspended.insert((now, *id));
        self.enter(id, rooms);
        self.budget.sockets.fetch_add(bytes, Ordering::Relaxed);
        self.expire(now);
        self.forget_beyond();
    }

    // Suspended sockets.

    /// Returns the socket that a client names, present or suspended.
    pub(crate) fn find(&self, claim: &Claim) -> Option<SocketId> {
        let private_id = PrivateId::parse(&claim.pid)?;
        self.by_private_id.get(&private_id).copied()
    }

    /// Returns the socket with a private id, present or suspended.
    pub(super) fn find_id(&self, private_id: &PrivateId) -> Option<SocketId> {
        self.by_private_id.get(private_id).copied()
    }

    /// Returns the handover of a suspended socket.
    pub(super) fn handover(&self, id: &SocketId) -> Option<&T> {
        let suspended = self.sockets.get(id)?.suspended.as_ref()?;
        Some(&suspended.handover)
    }

    /// Returns the bytes that are counted for a socket, present or suspended.
    pub(crate) fn cost(&self, id: &SocketId) -> usize {
        self.sockets.get(id).map_or(0, |socket| socket.cost())
    }

    /// Returns the number of suspended sockets.
    pub(crate) fn suspended(&self) -> usize {
        self.suspended.len()
    }

    /// Returns whether the store holds nothing that can expire.
    pub(crate) fn is_idle(&self) -> bool {
        let is_empty = match &self.packets {
            Packets::Own(log) => log.is_empty(),
            Packets::Shared(log) => log.lock().is_empty(),
        };
        self.suspended.is_empty() && is_empty
    }

    /// Forgets all suspended sockets.
    pub(crate) fn abandon(&mut self) {
        while let Some(&(_, id)) = self.suspended.first() {
            self.forget(&id);
        }
    }

    /// Forgets the sockets that have been suspended for too long, and the packets that are too old.
    pub(crate) fn expire(&mut self, now: Instant) {
        let within = self.budget.config.within;
        let is_late = |since: Instant| now.saturating_duration_since(since) > within;
        while let Some(&(_, id)) = self.suspended.first().filter(|(since, _)| is_late(*since)) {
            self.forget(&id);
        }
        match &mut self.packets {
            Packets::Own(log) => log.expire(now),
            Packets::Shared(log) => log.lock().expire(now),
        }
    }

    /// Restores a suspended socket, with the packets that it has missed. If that is not possible
    /// without a gap, the socket is forgotten.
    pub(crate) fn restore(
        &mut self,
        id: SocketId,
        offset: Option<&str>,
        now: Instant,
    ) -> Option<Restored<T>> {
        self.expire(now);
        let socket = self.sockets.get(&id)?;
        let missed = socket.suspended.as_ref().and_then(|suspended| {
            let Packets::Own(log) = &self.packets else {
                return None;
            };
            let from = socket.missing_from(suspended, offset, log)?;
            Some(missed(socket, &id, log, from))
        });
        let Some((missed, sent)) = missed else {
            self.forget(&id);
            return None;
        };
        let socket = self.sockets.get_mut(&id)?;
        socket.sent = socket.sent.max(sent);
        let (private_id, sent) = (socket.private_id, socket.sent);
        let rooms: Vec<Arc<str>> = socket.room_history.rooms.keys().cloned().collect();
        let suspended = socket.suspended.take()?;
        for room in &rooms {
            self.exit(&id, room);
        }
        let handover = self.end_suspension(id, suspended);
        Some(Restored {
            id,
            private_id,
            rooms,
            missed,
            sent,
            handover: Some(handover),
        })
    }

    // Sockets that the broker of a cluster keeps.

    /// Returns a socket, present or suspended, as the broker keeps it.
    pub(crate) fn saved(
        &self,
        id: &SocketId,
        namespace: &NamespaceName,
        sent: Offset,
        data: Option<Arc<Value>>,
    ) -> Option<SavedSocket> {
        let socket = self.sockets.get(id)?;
        let next = socket.suspended.as_ref().map(|suspended| suspended.next);
        let left = next.unwrap_or_else(|| self.next()).before();
        Some(SavedSocket {
            id: *id,
            private_id: socket.private_id,
            namespace: Some(namespace.clone()),
            room_history: socket.room_history.clone(),
            data,
            is_connected: false,
            history: Some(History {
                base: socket.base,
                sent: socket.sent.max(sent),
                left,
            }),
        })
    }

    /// Adds a socket that the broker has kept. Returns the handover if it was suspended on this server.
    pub(crate) fn insert_saved(&mut self, saved: &SavedSocket, sent: Offset) -> Option<T> {
        let left = saved.history.map(|history| history.left.next());
        let suspended = self.sockets.get_mut(&saved.id);
        let suspended = suspended.and_then(|socket| socket.suspended.take());
        // Another server may have saved it since.
        let is_latest = suspended.as_ref().map(|each| each.next) == left;
        let handover = suspended.map(|suspended| self.end_suspension(saved.id, suspended));
        let (handover, stale) = match is_latest {
            true => (handover, None),
            false => (None, handover),
        };
        self.dropped_later.extend(stale);
        let socket = StoredSocket {
            private_id: saved.private_id,
            base: saved.history.map_or(sent.next(), |history| history.base),
            sent,
            room_history: saved.room_history.clone(),
            data: 0,
            suspended: None,
        };
        self.sockets.insert(saved.id, Box::new(socket));
        self.by_private_id.insert(saved.private_id, saved.id);
        handover
    }

    /// Records for an event whether a socket was a recipient, if its rooms say otherwise.
    pub(super) fn except_event(
        &mut self,
        id: &SocketId,
        offset: Offset,
        target: &Target,
        is_recipient: bool,
    ) {
        let socket = self.sockets.get(id);
        let says = |socket: &StoredSocket<T>| socket.room_history.is_selected(id, offset, target);
        if socket.is_some_and(|socket| says(socket) != is_recipient) {
            self.except(id, offset, is_recipient);
        }
    }

    /// Records for an entry whether it is for a socket, whatever its rooms say.
    pub(super) fn except(&mut self, id: &SocketId, offset: Offset, is_recipient: bool) {
        let first = self.packets.first();
        if let Some(socket) = self.sockets.get_mut(id) {
            socket.room_history.except(offset, is_recipient, first);
        }
    }

    /// Stops counting a socket as suspended, and returns its handover.
    fn end_suspension(&mut self, id: SocketId, suspended: Suspended<T>) -> T {
        self.suspended.remove(&(suspended.since, id));
        self.budget
            .sockets
            .fetch_sub(suspended.bytes, Ordering::Relaxed);
        suspended.handover
    }
}

impl<T> Drop for RecoveryStore<T> {
    fn drop(&mut self) {
        let suspended = self
            .sockets
            .values()
            .filter_map(|each| each.suspended.as_ref());
        let bytes = suspended.map(|suspended| suspended.bytes).sum::<usize>();
        self.budget.sockets.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl<T> StoredSocket<T> {
    /// Returns the offset of the first packet that the client may have missed. Returns `None` if
    /// the offset is not valid, or if the packets are no longer kept.
    fn missing_from(
        &self,
        suspended: &Suspended<T>,
        offset: Option<&str>,
        log: &Log,
    ) -> Option<Offset> {
        let received = match offset {
            // The client has received no packet: otherwise it would name an offset.
            None => self.base.before(),
            Some(text) => match Offset::parse_own(text)? {
                received if (self.base..log.next()).contains(&received) => received,
                // The offset is from another socket of the client. The client has received no
                // packet of this one.
                _ => self.base.before(),
            },
        };
        // A client that received the last packet that was sent to its socket has missed only
        // packets since the suspension. The packets in between were not for the socket, so they
        // need not be kept.
        let from = if received >= self.sent {
            received.next().max(suspended.next)
        } else {
            received.next()
        };
        (from >= self.room_history.floor && from >= log.first()).then_some(from)
    }

    fn cost(&self) -> usize {
        SOCKET_BYTES + self.data + self.room_history.cost()
    }
}

/// The bytes that are counted for a suspended socket without its rooms and its data. They are
/// measured, and rounded up.
const SOCKET_BYTES: usize = 512;

/// Returns the packets for a socket from an offset on, and the offset of the last one. If there are
/// none, the offset is that of the last packet that was sent to the socket.
fn missed<T>(
    socket: &StoredSocket<T>,
    id: &SocketId,
    log: &Log,
    from: Offset,
) -> (Vec<Encoded>, Offset) {
    let (mut last, mut packets) = (socket.sent, Vec::new());
    let is_for_socket = |(offset, entry): &(Offset, &Entry)| {
        socket.room_history.is_recipient(id, *offset, &entry.to)
    };
    for (offset, entry) in log.from(from).filter(is_for_socket) {
        last = offset;
        packets.push(entry.packet.clone());
    }
    (packets, last)
}

#[cfg(test)]
mod tests;
