//! Sockets and their rooms: a pure data structure.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use indexmap::{IndexMap, IndexSet};

use super::id_hash::IdHash;
use super::room_event::RoomChange;
use super::selection::{CHUNK, Chunks, Selection, Target};
use crate::engine_io::SocketId;
use crate::shrink::shrink;

/// Sockets ↔ rooms. `T` is the value that is stored for a socket.
///
/// Inserting a socket, joining a room and leaving a room cost the same, however many sockets the
/// namespace and the room have. The selection of a whole room is kept until the members of the room
/// change, so that a broadcast neither copies the sockets nor holds a lock while it iterates over
/// them.
#[derive(Debug)]
pub(crate) struct Rooms<T> {
    sockets: Members<T>,
    rooms: HashMap<Arc<str>, Members<T>>,
    rooms_by_socket: HashMap<SocketId, IndexSet<Arc<str>>, IdHash>,
}

/// The list that a call adds its room changes to. `None` if there is no room hook.
pub(crate) type ChangeLog<'a> = Option<&'a mut Vec<(Arc<str>, RoomChange)>>;

#[derive(Debug)]
struct Members<T> {
    map: IndexMap<SocketId, T, IdHash>,
    /// The values in chunks. A chunk is `None` from a change in it until its next use.
    chunks: Vec<Option<Arc<[T]>>>,
    /// All chunks, until the next change.
    all: Option<Chunks<T>>,
}

impl<T> Default for Members<T> {
    fn default() -> Self {
        Self {
            map: IndexMap::default(),
            chunks: Vec::new(),
            all: None,
        }
    }
}

impl<T: Clone> Members<T> {
    fn insert(&mut self, id: SocketId, value: T) -> bool {
        let (at, before) = self.map.insert_full(id, value);
        self.drop_chunk(at);
        if self.map.len() % CHUNK == 0 {
            // A full chunk is created here, so that the first broadcast need not create all chunks.
            self.chunk(at / CHUNK);
        }
        before.is_none()
    }

    fn remove(&mut self, id: &SocketId) -> Option<T> {
        let (at, _, value) = self.map.swap_remove_full(id)?;
        // The last socket has moved to the index of the removed one.
        self.drop_chunk(self.map.len());
        self.drop_chunk(at);
        shrink(&mut self.map);
        shrink(&mut self.chunks);
        Some(value)
    }

    /// Drops the chunk of this index, whose value was added, replaced or removed.
    fn drop_chunk(&mut self, at: usize) {
        self.all = None;
        if let Some(chunk) = self.chunks.get_mut(at / CHUNK) {
            *chunk = None;
        }
        self.chunks.truncate(self.map.len().div_ceil(CHUNK));
    }

    fn chunk(&mut self, nth: usize) -> Arc<[T]> {
        let Self { map, chunks, .. } = self;
        chunks.resize(map.len().div_ceil(CHUNK), None);
        let values = map.values().skip(nth * CHUNK).take(CHUNK).cloned();
        Arc::clone(chunks[nth].get_or_insert_with(|| values.collect()))
    }

    fn chunks(&mut self) -> Chunks<T> {
        if let Some(all) = &self.all {
            return Arc::clone(all);
        }
        let chunks = 0..self.map.len().div_ceil(CHUNK);
        let all: Chunks<T> = chunks.map(|nth| self.chunk(nth)).collect();
        self.all = Some(Arc::clone(&all));
        all
    }
}

impl<T> Default for Rooms<T> {
    fn default() -> Self {
        Self {
            sockets: Members::default(),
            rooms: HashMap::new(),
            rooms_by_socket: HashMap::default(),
        }
    }
}

impl<T: Clone> Rooms<T> {
    pub(crate) fn insert(&mut self, id: SocketId, socket: T) {
        self.sockets.insert(id, socket);
    }

    /// Removes a socket, and returns the rooms that it was in, in the order of joining.
    pub(crate) fn leave(&mut self, id: &SocketId, mut log: ChangeLog<'_>) -> Vec<Arc<str>> {
        if self.sockets.remove(id).is_none() {
            return Vec::new();
        }
        let rooms = self.rooms_by_socket.remove(id).unwrap_or_default();
        shrink(&mut self.rooms_by_socket);
        for room in &rooms {
            self.remove_from(room, id, log.as_deref_mut());
        }
        rooms.into_iter().collect()
    }

    /// Adds a socket to a room. Returns `false` if the socket was not [inserted](Self::insert), if
    /// it is in the room already, if the room is its own, or if it is in `max` rooms.
    pub(crate) fn join(
        &mut self,
        id: SocketId,
        room: &str,
        max: usize,
        log: ChangeLog<'_>,
    ) -> bool {
        let Some(socket) = self.sockets.map.get(&id) else {
            return false;
        };
        if room == id.as_str() {
            return false;
        }
        let joined = self.rooms_by_socket.entry(id).or_default();
        if joined.len() >= max || joined.contains(room) {
            return false;
        }
        let known = self.rooms.get_key_value(room);
        let is_new = known.is_none();
        let name = known.map_or_else(|| room.into(), |(name, _)| Arc::clone(name));
        joined.insert(Arc::clone(&name));
        if let Some(log) = log {
            if is_new {
                log.push((Arc::clone(&name), RoomChange::Create));
            }
            log.push((Arc::clone(&name), RoomChange::Join(id)));
        }
        let members = self.rooms.entry(name).or_default();
        members.insert(id, socket.clone())
    }

    pub(crate) fn leave_room(&mut self, id: &SocketId, room: &str, log: ChangeLog<'_>) -> bool {
        let Some(joined) = self.rooms_by_socket.get_mut(id) else {
            return false;
        };
        // The other rooms stay in the order of joining.
        if !joined.shift_remove(room) {
            return false;
        }
        if joined.is_empty() {
            self.rooms_by_socket.remove(id);
            shrink(&mut self.rooms_by_socket);
        }
        self.remove_from(room, id, log);
        true
    }

    fn remove_from(&mut self, room: &str, id: &SocketId, log: ChangeLog<'_>) {
        let Some(members) = self.rooms.get_mut(room) else {
            return;
        };
        members.remove(id);
        let is_empty = members.map.is_empty();
        if let Some(log) = log {
            let name = Arc::<str>::from(room);
            log.push((Arc::clone(&name), RoomChange::Leave(*id)));
            if is_empty {
                log.push((name, RoomChange::Delete));
            }
        }
        if is_empty {
            self.rooms.remove(room);
            shrink(&mut self.rooms);
        }
    }

    pub(crate) fn get(&self, id: &SocketId) -> Option<&T> {
        self.sockets.map.get(id)
    }

    pub(crate) fn rooms_of(&self, id: &SocketId) -> Vec<Arc<str>> {
        let joined = self.rooms_by_socket.get(id).into_iter().flatten();
        joined.cloned().collect()
    }

    /// Returns whether a room has a socket. A socket's id is the name of its own room.
    pub(crate) fn has(&self, room: &str) -> bool {
        self.rooms.contains_key(room) || self.is_socket(room)
    }

    /// Returns the names of all rooms, without the sockets' own rooms.
    pub(crate) fn names(&self) -> Vec<Arc<str>> {
        self.rooms.keys().cloned().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.sockets.map.len()
    }

    /// Returns the number of rooms, without the sockets' own rooms.
    pub(crate) fn room_count(&self) -> usize {
        self.rooms.len()
    }

    pub(crate) fn select(&mut self, target: &Target) -> Selection<T> {
        match (&target.rooms[..], &target.except[..]) {
            ([], []) => Selection::Shared(self.sockets.chunks(), None),
            ([], [one]) if id_of(one).is_some() && !self.rooms.contains_key(one) => {
                let skip = id_of(one).and_then(|id| self.sockets.map.get_index_of(&id));
                Selection::Shared(self.sockets.chunks(), skip)
            }
            ([room], except) if !self.is_socket(room) => self.select_room(room, except),
            (rooms, except) => self.select_union(rooms, except),
        }
    }

    /// Returns whether a target selects a socket. The socket must be [inserted](Self::insert).
    pub(crate) fn is_recipient(&self, id: &SocketId, target: &Target) -> bool {
        let is_in = |room: &Arc<str>| self.is_in(id, room);
        (target.rooms.is_empty() || target.rooms.iter().any(is_in))
            && !target.except.iter().any(is_in)
    }

    /// Returns whether a socket is in a room, or the room is its own.
    pub(crate) fn is_in(&self, id: &SocketId, room: &str) -> bool {
        let members = self.rooms.get(room);
        room == id.as_str() || members.is_some_and(|members| members.map.contains_key(id))
    }

    fn select_room(&mut self, room: &str, except: &[Arc<str>]) -> Selection<T> {
        let only_ids = except
            .iter()
            .all(|name| id_of(name).is_some() && !self.rooms.contains_key(name));
        let Some(members) = self.rooms.get_mut(room) else {
            return Selection::Owned(Vec::new(), None);
        };
        match except {
            [] => Selection::Shared(members.chunks(), None),
            [one] if only_ids => {
                let skip = id_of(one).and_then(|id| members.map.get_index_of(&id));
                Selection::Shared(members.chunks(), skip)
            }
            except => {
                let room = [Arc::from(room)];
                self.select_union(&room, except)
            }
        }
    }

    fn select_union(&self, rooms: &[Arc<str>], except: &[Arc<str>]) -> Selection<T> {
        let members = rooms.iter().filter_map(|room| self.rooms.get(room));
        let most = match rooms {
            [] => self.len(),
            rooms => members.map(|members| members.map.len()).sum::<usize>() + rooms.len(),
        };
        let exceptions = self.exceptions(except, most);
        let mut seen = HashSet::<SocketId, IdHash>::default();
        let mut selected = Vec::new();
        let mut select = |(id, socket): (&SocketId, &T)| {
            if !exceptions.have(id) && seen.insert(*id) {
                selected.push(socket.clone());
            }
        };
        if rooms.is_empty() {
            self.sockets.map.iter().for_each(&mut select);
        }
        for room in rooms {
            if let Some(members) = self.rooms.get(room) {
                members.map.iter().for_each(&mut select);
            }
            let own = id_of(room).and_then(|id| self.sockets.map.get_key_value(&id));
            own.into_iter().for_each(&mut select);
        }
        let has_many_names = rooms.len() + except.len() > FEW_NAMES;
        Selection::Owned(selected, has_many_names.then_some(seen))
    }

    /// Looks up the exceptions of a selection of at most `selected` sockets.
    fn exceptions(&self, except: &[Arc<str>], selected: usize) -> Exceptions<'_, T> {
        let mut exceptions = Exceptions {
            ids: except.iter().filter_map(|name| id_of(name)).collect(),
            large_rooms: Vec::new(),
        };
        for members in except.iter().filter_map(|name| self.rooms.get(name)) {
            if members.map.len() <= selected {
                exceptions.ids.extend(members.map.keys());
            } else {
                exceptions.large_rooms.push(members);
            }
        }
        exceptions
    }

    fn is_socket(&self, room: &str) -> bool {
        id_of(room).is_some_and(|id| self.sockets.map.contains_key(&id))
    }
}

/// The sockets that a selection leaves out.
///
/// A look-up costs the same for any number of exceptions, so a selection costs as much as its sockets and
/// its exceptions together.
struct Exceptions<'a, T> {
    /// The sockets, and the members of small rooms.
    ids: HashSet<SocketId, IdHash>,
    /// The rooms with more members than the selection has sockets.
    large_rooms: Vec<&'a Members<T>>,
}

impl<T> Exceptions<'_, T> {
    fn have(&self, id: &SocketId) -> bool {
        let is_in = |room: &&Members<T>| room.map.contains_key(id);
        self.ids.contains(id) || self.large_rooms.iter().any(is_in)
    }
}

/// The names of a target that are looked up again for each socket.
const FEW_NAMES: usize = 4;

/// Returns a room's name as a socket id, if the name has the form of an id.
fn id_of(room: &str) -> Option<SocketId> {
    SocketId::parse(room)
}

#[cfg(test)]
mod tests;
