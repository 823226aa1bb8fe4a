//! The packets and sockets of one namespace, with the rooms and the offsets of each socket.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use indexmap::IndexMap;

use super::log::{Entry, Log, Offset, Recipients};
use super::{PrivateId, RecoveryBudget};
use crate::engine_io::SocketId;
use crate::hub::id_hash::IdHash;
use crate::protocol::{Claim, Encoded};

/// The recovery store of one namespace. `T` is the handover from a suspended socket to the restored
/// one.
#[derive(Debug)]
pub(crate) struct RecoveryStore<T> {
    log: Log,
    sockets: HashMap<SocketId, StoredSocket<T>, IdHash>,
    by_private_id: HashMap<PrivateId, SocketId>,
    /// The suspended sockets, in the order in which they were suspended.
    suspended: BTreeSet<(Instant, SocketId)>,
    pub(super) budget: Arc<RecoveryBudget>,
    /// Handovers that are no longer needed. They may hold values of the application, whose
    /// destructors must not run under a lock.
    pub(super) dropped_later: Vec<T>,
}

/// One socket, present or suspended.
#[derive(Debug)]
struct StoredSocket<T> {
    private_id: PrivateId,
    /// The offset of the first packet that may have been sent to the socket. A client that names an
    /// older offset has received no packet of this socket.
    base: Offset,
    /// For packets before this offset, the store no longer knows whether they were sent to the
    /// socket.
    floor: Offset,
    /// The offset of the last packet that was sent to the socket.
    sent: Offset,
    /// The rooms of the socket, each with the offset of the first packet after the join.
    rooms: IndexMap<Arc<str>, Offset>,
    former_rooms: VecDeque<RoomStay>,
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

/// A past stay in a room: from an offset up to, but not including, another.
#[derive(Debug)]
struct RoomStay {
    room: Arc<str>,
    from: Offset,
    to: Offset,
}

/// The maximum number of rooms that are remembered after a socket left them.
const MAX_FORMER_ROOMS: usize = 64;
/// The maximum number of bytes of the names of those rooms together.
const MAX_FORMER_BYTES: usize = 8 * 1024;

/// A restored socket.
#[derive(Debug)]
pub(crate) struct Restored<T> {
    pub(crate) id: SocketId,
    pub(crate) private_id: PrivateId,
    pub(crate) rooms: Vec<Arc<str>>,
    pub(crate) missed: Vec<Encoded>,
    pub(crate) sent: Offset,
    pub(crate) handover: T,
}

impl<T> RecoveryStore<T> {
    pub(crate) fn new(start: Offset, budget: Arc<RecoveryBudget>) -> Self {
        Self {
            log: Log::new(start, Arc::clone(&budget)),
            sockets: HashMap::default(),
            by_private_id: HashMap::new(),
            suspended: BTreeSet::new(),
            budget,
            dropped_later: Vec::new(),
        }
    }

    // Packets.

    /// Returns the offset of the next packet.
    pub(crate) fn next(&self) -> Offset {
        self.log.next()
    }

    /// Returns the offset of the last packet.
    pub(crate) fn last(&self) -> Offset {
        self.log.next().before()
    }

    /// Keeps a packet under the next offset. If there is no socket, present or suspended, the
    /// packet is only counted.
    pub(crate) fn keep(&mut self, to: Recipients, packet: &Encoded, now: Instant) {
        self.expire(now);
        if self.sockets.is_empty() {
            return self.log.skip();
        }
        self.log.push(to, packet.clone(), now);
    }

    // Present sockets.

    /// Adds a new socket, with its private id.
    pub(crate) fn insert(&mut self, id: SocketId, private_id: PrivateId) {
        let base = self.log.next();
        let socket = StoredSocket {
            private_id,
            base,
            floor: base,
            sent: base.before(),
            rooms: IndexMap::new(),
            former_rooms: VecDeque::new(),
            data: 0,
            suspended: None,
        };
        self.sockets.insert(id, socket);
        self.by_private_id.insert(private_id, id);
    }

    pub(crate) fn join(&mut self, id: &SocketId, room: &str) {
        let next = self.log.next();
        if let Some(socket) = self.sockets.get_mut(id) {
            socket.rooms.insert(room.into(), next);
        }
    }

    pub(crate) fn leave_room(&mut self, id: &SocketId, room: &str) {
        let (first, to) = (self.log.first(), self.log.next());
        let Some(socket) = self.sockets.get_mut(id) else {
            return;
        };
        if let Some((room, from)) = socket.rooms.swap_remove_entry(room) {
            socket.remember(RoomStay { room, from, to }, first);
        }
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
        if let Some(suspended) = socket.suspended {
            let handover = self.end_suspension(*id, suspended);
            self.dropped_later.push(handover);
        }
        if self.sockets.is_empty() {
            // No client can ask for the packets.
            self.log.clear();
            self.sockets = HashMap::default();
            self.by_private_id = HashMap::new();
        }
    }

    /// Suspends a socket. `sent` is the offset of the last packet that was sent to it, and `data`
    /// the bytes of its data.
    ///
    /// Above the limit of the recovery budget, the sockets that have been suspended the longest are
    /// forgotten.
    pub(crate) fn suspend(
        &mut self,
        id: &SocketId,
        sent: Offset,
        data: usize,
        handover: T,
        now: Instant,
    ) {
        let next = self.log.next();
        let Some(socket) = self.sockets.get_mut(id) else {
            return self.dropped_later.push(handover);
        };
        socket.sent = socket.sent.max(sent);
        socket.data = data;
        let bytes = socket.cost();
        socket.suspended = Some(Suspended {
            since: now,
            next,
            bytes,
            handover,
        });
        self.suspended.insert((now, *id));
        self.budget.sockets.fetch_add(bytes, Ordering::Relaxed);
        self.expire(now);
        let max = self.budget.config.socket_bytes;
        while self.budget.sockets.load(Ordering::Relaxed) > max {
            let Some(&(_, longest)) = self.suspended.first() else {
                break;
            };
            self.forget(&longest);
        }
    }

    // Suspended sockets.

    /// Returns the socket that a client names, present or suspended.
    pub(crate) fn find(&self, claim: &Claim) -> Option<SocketId> {
        let private_id = PrivateId::parse(&claim.pid)?;
        self.by_private_id.get(&private_id).copied()
    }

    /// Returns the bytes that are counted for a socket, present or suspended.
    pub(crate) fn cost(&self, id: &SocketId) -> usize {
        self.sockets.get(id).map_or(0, StoredSocket::cost)
    }

    /// Returns whether the socket is suspended.
    #[cfg(test)]
    fn is_suspended(&self, id: &SocketId) -> bool {
        self.sockets
            .get(id)
            .is_some_and(|each| each.suspended.is_some())
    }

    /// Returns the number of suspended sockets.
    pub(crate) fn suspended(&self) -> usize {
        self.suspended.len()
    }

    /// Returns whether the store holds nothing that can expire.
    pub(crate) fn is_idle(&self) -> bool {
        self.suspended.is_empty() && self.log.is_empty()
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
        self.log.expire(now);
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
            let from = socket.missing_from(suspended, offset, &self.log)?;
            Some(missed(socket, &id, &self.log, from))
        });
        let Some((missed, sent)) = missed else {
            self.forget(&id);
            return None;
        };
        let socket = self.sockets.get_mut(&id)?;
        socket.sent = socket.sent.max(sent);
        let (private_id, sent) = (socket.private_id, socket.sent);
        let rooms = socket.rooms.keys().cloned().collect();
        let suspended = socket.suspended.take()?;
        let handover = self.end_suspension(id, suspended);
        Some(Restored {
            id,
            private_id,
            rooms,
            missed,
            sent,
            handover,
        })
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
    /// Remembers a stay in a room. Above the limits, stays that are older than all kept packets are
    /// forgotten first, and then the oldest ones, which raises `floor`.
    fn remember(&mut self, stay: RoomStay, first: Offset) {
        if stay.from == stay.to {
            return;
        }
        if self.former_rooms.len() >= MAX_FORMER_ROOMS {
            self.former_rooms.retain(|stay| stay.to > first);
        }
        self.former_rooms.push_back(stay);
        let bytes =
            |rooms: &VecDeque<RoomStay>| rooms.iter().map(|stay| stay.room.len()).sum::<usize>();
        while self.former_rooms.len() > MAX_FORMER_ROOMS
            || bytes(&self.former_rooms) > MAX_FORMER_BYTES
        {
            let Some(oldest) = self.former_rooms.pop_front() else {
                break;
            };
            self.floor = self.floor.max(oldest.to);
        }
    }

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
            Some(text) => match Offset::parse(text)? {
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
        (from >= self.floor && from >= log.first()).then_some(from)
    }

    /// Returns whether this socket was, or would have been, a recipient of a packet.
    fn is_recipient(&self, id: &SocketId, offset: Offset, to: &Recipients) -> bool {
        match to {
            Recipients::One(other) => other == id,
            Recipients::Many(target) => {
                let is_in =
                    |room: &Arc<str>| **room == *id.as_str() || self.was_in_room(room, offset);
                (target.rooms.is_empty() || target.rooms.iter().any(is_in))
                    && !target.except.iter().any(is_in)
            }
        }
    }

    fn was_in_room(&self, room: &str, offset: Offset) -> bool {
        let since = self.rooms.get(room);
        let was = |stay: &RoomStay| *stay.room == *room && (stay.from..stay.to).contains(&offset);
        since.is_some_and(|since| *since <= offset) || self.former_rooms.iter().any(was)
    }

    fn cost(&self) -> usize {
        let rooms = self.rooms.keys();
        let former = self.former_rooms.iter().map(|stay| &stay.room);
        let name = |name: &Arc<str>| ROOM_BYTES + name.len();
        SOCKET_BYTES + self.data + rooms.chain(former).map(name).sum::<usize>()
    }
}

/// The bytes that are counted for a suspended socket without its rooms and its data. They are
/// measured, and rounded up.
const SOCKET_BYTES: usize = 512;
/// The bytes that are counted for a room in addition to its name.
const ROOM_BYTES: usize = 64;

/// Returns the packets for a socket from an offset on, and the offset of the last one. If there are
/// none, the offset is that of the last packet that was sent to the socket.
fn missed<T>(
    socket: &StoredSocket<T>,
    id: &SocketId,
    log: &Log,
    from: Offset,
) -> (Vec<Encoded>, Offset) {
    let (mut last, mut packets) = (socket.sent, Vec::new());
    let is_for_socket =
        |(offset, entry): &(Offset, &Entry)| socket.is_recipient(id, *offset, &entry.to);
    for (offset, entry) in log.from(from).filter(is_for_socket) {
        last = offset;
        packets.push(entry.packet.clone());
    }
    (packets, last)
}

#[cfg(test)]
mod tests;
