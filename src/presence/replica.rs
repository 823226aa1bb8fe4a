//! Who is in the rooms of one namespace, as one server knows it: a pure data structure. Time and ids
//! are arguments.
//!
//! Each server owns the entries of its own sockets. It alone changes them, and numbers its changes.
//! The others hold copies:
//!
//! ```text
//!   Delta { clock: 5, … } ──▶ a copy at 4: applied      a copy at 5 or later: a duplicate, ignored
//!                             an older copy: changes were lost ──▶ Ask ──▶ State, in parts
//!   Alive { clock: 5 } ─────▶ an older copy ──▶ Ask        nothing for `SILENCE`: the copy is dropped
//! ```
//!
//! So the copies agree with their owners once messages arrive again, whatever was lost, repeated or
//! reordered. What clients see of a key is the union of its entries on all servers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use self::departed::Departed;
use super::meta::Meta;
use crate::engine_io::timer::{deadline, earliest};
use crate::shrink::shrink;

mod departed;

/// How often a server says that it is there, and how long it waits before it asks again.
pub(super) const PERIOD: Duration = Duration::from_secs(2);

/// How long a server may be silent before its entries are dropped.
pub(super) const SILENCE: Duration = Duration::from_secs(15);

/// The bytes of the entries whose sockets have lost their connection. Above it an entry ends at once.
const MAX_LINGERING: usize = 16 << 20;

/// The bytes of the rooms that a replica remembers in which nobody is any more, each with [`ENTRY`].
const MAX_EMPTIED: usize = 1 << 20;

/// How many different metadata of one key clients get.
const MAX_METAS: usize = 64;

/// The bytes of the entries in one part of a state.
const PART: usize = 128 << 10;

/// The bytes that an entry counts in addition to its texts: about the memory that it needs.
const ENTRY: usize = 512;

/// A message to the other servers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Message {
    /// The change with the number `clock`.
    Delta {
        server: Box<str>,
        clock: u64,
        changes: Vec<Change>,
    },
    /// The server is there, and its last change has the number `clock`.
    Alive { server: Box<str>, clock: u64 },
    /// Asks a server for its state, or all of them.
    Ask { of: Option<Box<str>> },
    /// All entries of a server after its change `clock`, or a part of them.
    State {
        server: Box<str>,
        clock: u64,
        part: usize,
        parts: usize,
        entries: Vec<Entry>,
    },
}

/// A change of one entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Change {
    Put(Entry),
    Remove { socket: Box<str>, room: Box<str> },
}

/// One socket in one room.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) socket: Box<str>,
    pub(super) room: Box<str>,
    pub(super) key: Box<str>,
    pub(super) meta: Meta,
    /// The connection is lost for longer than the grace, and the client may still restore the socket.
    /// Clients do not see the entry.
    pub(super) is_away: bool,
}

impl Entry {
    fn bytes(&self) -> usize {
        ENTRY + self.room.len() + self.key.len() + self.meta.bytes()
    }

    fn change(&self) -> Change {
        Change::Put(self.clone())
    }

    fn removal(&self) -> Change {
        Change::Remove {
            socket: self.socket.clone(),
            room: self.room.clone(),
        }
    }
}

/// What changed in one room for clients: the metadata of each key, before for those that left, after
/// for the others.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Diff {
    pub(super) joins: Users,
    pub(super) updates: Users,
    pub(super) leaves: Users,
}

/// The metadata of each key in a room.
pub(super) type Users = BTreeMap<Box<str>, Vec<Meta>>;

/// The entries of one server, by socket and room.
type Entries = BTreeMap<Box<str>, BTreeMap<Box<str>, Entry>>;

/// The different metadata of one key, by their text, each with the number of its sockets.
type Metas = BTreeMap<Box<str>, (Meta, usize)>;

/// What clients see of a room.
#[derive(Debug, Default)]
struct Room {
    keys: BTreeMap<Box<str>, Metas>,
    /// The sum of [`shown`] of all metadata.
    bytes: usize,
}

/// The presence of one namespace.
#[derive(Debug)]
pub(super) struct Replica {
    /// The id of this server, or rather of this replica: it is new whenever its clock begins again.
    id: Box<str>,
    clock: u64,
    /// Whether there are other servers.
    is_shared: bool,
    entries: Entries,
    /// The sockets that have lost their connection.
    lost: BTreeMap<Box<str>, Lost>,
    graces: VecDeque<(Instant, Box<str>)>,
    away: BTreeSet<Box<str>>,
    /// The bytes of their entries.
    lingering: usize,
    others: BTreeMap<Box<str>, Replicated>,
    /// For how long a client may restore a socket. `None` if recovery is off.
    recovers_within: Option<Duration>,
    departed: Departed,
    /// The sockets that were restored here lately, and until when entries of other servers that arrive
    /// for them become entries of this one.
    restored: BTreeMap<Box<str>, Instant>,
    /// Those of them for which entries have arrived.
    claims: BTreeSet<Box<str>>,
    /// What clients see.
    rooms: BTreeMap<Box<str>, Room>,
    /// For how long a client may miss differences, which the log of a cluster does not keep. `None` without
    /// such a log.
    misses_within: Option<Duration>,
    /// The rooms in which nobody is any more, and until when a client may come back that does not know it.
    emptied: BTreeMap<Box<str>, Instant>,
    /// The sum of the lengths of their names.
    emptied_bytes: usize,
    /// Until when such a room may be missing in `emptied`.
    all_emptied: Option<Instant>,
    /// How long the state of a room may be.
    longest: usize,
    /// The metadata of the keys that were touched since the last [`take_diffs`](Self::take_diffs), from
    /// before.
    before: BTreeMap<(Box<str>, Box<str>), Vec<Meta>>,
    messages: Vec<Message>,
    changed_at: Instant,
    ticked_at: Instant,
    /// When the state was sent, and whether somebody has asked since.
    state_sent: Option<Instant>,
    is_asked: bool,
}

/// A socket that has lost its connection.
#[derive(Clone, Copy, Debug)]
struct Lost {
    /// When its grace is over.
    until: Instant,
    /// The bytes that its entries count in `lingering`.
    bytes: usize,
}

/// The copy of another server's entries.
#[derive(Debug)]
struct Replicated {
    clock: u64,
    entries: Entries,
    heard: Instant,
    asked: Option<Instant>,
    /// The parts of a newer state that have arrived.
    parts: Option<Parts>,
}

#[derive(Debug)]
struct Parts {
    clock: u64,
    next: usize,
    entries: Vec<Entry>,
}

impl Replica {
    /// `recovers_within` is for how long a client may restore a socket, if there is recovery.
    pub(super) fn new(
        id: Box<str>,
        is_shared: bool,
        recovers_within: Option<Duration>,
        now: Instant,
    ) -> Self {
        Self {
            id,
            clock: 0,
            is_shared,
            entries: Entries::new(),
            lost: BTreeMap::new(),
            graces: VecDeque::new(),
            away: BTreeSet::new(),
            lingering: 0,
            others: BTreeMap::new(),
            recovers_within,
            departed: Departed::default(),
            restored: BTreeMap::new(),
            claims: BTreeSet::new(),
            rooms: BTreeMap::new(),
            misses_within: None,
            emptied: BTreeMap::new(),
            emptied_bytes: 0,
            all_emptied: None,
            longest: usize::MAX,
            before: BTreeMap::new(),
            messages: Vec::new(),
            changed_at: now,
            ticked_at: now,
            state_sent: None,
            is_asked: false,
        }
    }

    /// Sets that clients miss the differences of the time in which they are away. Those that come back now
    /// may know of users that this replica has never had.
    pub(super) fn over_log(mut self, now: Instant) -> Self {
        self.misses_within = self.recovers_within;
        self.all_emptied = self.misses_within.map(|within| deadline(now, within));
        self
    }

    /// Returns the metadata of each key in a room. Equal metadata of several sockets count once.
    pub(super) fn users(&self, room: &str) -> Users {
        let keys = self.rooms.get(room).into_iter();
        keys.flat_map(|room| &room.keys)
            .map(|(key, metas)| (key.clone(), distinct(metas)))
            .collect()
    }

    /// Returns whether a client that comes back may not know who is in a room: somebody is, or was in the
    /// time in which the client may have been away.
    pub(super) fn may_have_changed(&self, room: &str) -> bool {
        self.rooms.contains_key(room)
            || self.emptied.contains_key(room)
            || self.all_emptied.is_some()
    }

    /// Remembers a room if nobody is in it any more.
    pub(super) fn note_emptied(&mut self, room: &str, now: Instant) {
        let Some(within) = self.misses_within else {
            return;
        };
        if self.rooms.contains_key(room) {
            return;
        }
        let until = deadline(now, within);
        if let Some(known) = self.emptied.get_mut(room) {
            *known = until;
        } else if self.emptied_bytes + room.len() + ENTRY > MAX_EMPTIED {
            self.all_emptied = Some(until);
        } else {
            self.emptied_bytes += room.len() + ENTRY;
            self.emptied.insert(room.into(), until);
        }
    }

    /// Returns about how long the state of a room is, as JSON.
    pub(super) fn state_bytes(&self, room: &str) -> usize {
        self.rooms.get(room).map_or(0, |room| room.bytes)
    }

    /// Returns whether the state of a room stays within the limit if a socket is tracked there. What does
    /// not make it longer always fits.
    pub(super) fn fits(&self, socket: &str, room: &str, key: &str, meta: &Meta) -> bool {
        let keys = self.rooms.get(room).map(|room| &room.keys);
        let sockets = |key: &str, text: &str| {
            let metas = keys.and_then(|keys| keys.get(key));
            metas
                .and_then(|metas| metas.get(text))
                .map_or(0, |(_, sockets)| *sockets)
        };
        let text = meta.text();
        if sockets(key, &text) > 0 {
            // Equal metadata are shown once.
            return true;
        }
        let former = self.entries.get(socket).and_then(|rooms| rooms.get(room));
        let former = former.filter(|entry| !entry.is_away);
        let removed = former.map_or(0, |entry| {
            let text = entry.meta.text();
            match sockets(&entry.key, &text) {
                1 => shown(&entry.key, &text),
                _ => 0,
            }
        });
        let longer = shown(key, &text).saturating_sub(removed);
        longer == 0 || self.state_bytes(room).saturating_add(longer) <= self.longest
    }

    /// Sets how long the state of a room may be, as JSON.
    pub(super) fn limit_states(&mut self, longest: usize) {
        self.longest = longest;
    }

    /// Returns the bytes that an entry counts.
    pub(super) fn cost(room: &str, key: &str, meta: &Meta) -> usize {
        ENTRY + room.len() + key.len() + meta.bytes()
    }

    /// Returns the key and the bytes of a socket's entry in a room.
    pub(super) fn entry(&self, socket: &str, room: &str) -> Option<(&str, usize)> {
        let entry = self.entries.get(socket)?.get(room)?;
        Some((&entry.key, entry.bytes()))
    }

    /// Returns the rooms of a socket's entries, and their bytes.
    pub(super) fn rooms_of(&self, socket: &str) -> (Vec<Box<str>>, usize) {
        let entries = self.entries.get(socket).into_iter().flatten();
        let (rooms, bytes): (Vec<_>, Vec<_>) = entries
            .map(|(room, entry)| (room.clone(), entry.bytes()))
            .unzip();
        (rooms, bytes.iter().sum())
    }

    /// Puts an entry of a connected socket, or replaces it.
    pub(super) fn track(&mut self, socket: &str, room: &str, key: &str, meta: Meta, now: Instant) {
        let entry = Entry {
            socket: socket.into(),
            room: room.into(),
            key: key.into(),
            meta,
            is_away: false,
        };
        let before = self
            .entries
            .get(socket)
            .and_then(|entries| entries.get(room));
        if before == Some(&entry) {
            return;
        }
        self.put_own(&entry);
        self.commit(vec![Change::Put(entry)], now);
    }

    /// Removes an entry. Returns its bytes.
    pub(super) fn untrack(&mut self, socket: &str, room: &str, now: Instant) -> Option<usize> {
        // What is known of it elsewhere is older.
        self.restored.remove(socket);
        let entry = self.entries.get(socket)?.get(room)?.clone();
        self.remove_own(&entry);
        self.commit(vec![entry.removal()], now);
        Some(entry.bytes())
    }

    /// Removes the entries of a socket that has left.
    pub(super) fn leave(&mut self, socket: &str, now: Instant) {
        let entries = self.entries.get(socket).into_iter().flatten();
        let entries: Vec<_> = entries.map(|(_, entry)| entry.clone()).collect();
        self.forget_lost(socket);
        self.restored.remove(socket);
        for entry in &entries {
            self.remove_own(entry);
        }
        self.commit(entries.iter().map(Entry::removal).collect(), now);
    }

    /// Records that a socket has lost its connection. Its entries stay for `grace`.
    pub(super) fn lose(&mut self, socket: &str, now: Instant, grace: Duration) {
        self.restored.remove(socket);
        let bytes = self.rooms_of(socket).1;
        if bytes == 0 || self.lost.contains_key(socket) {
            return;
        }
        let is_elsewhere = self
            .others
            .values()
            .any(|copy| copy.entries.contains_key(socket));
        if is_elsewhere || self.lingering + bytes > MAX_LINGERING {
            return self.leave(socket, now);
        }
        let until = deadline(now, grace);
        self.lingering += bytes;
        self.lost.insert(socket.into(), Lost { until, bytes });
        self.graces.push_back((until, socket.into()));
        // Those of sockets that are restored stay until they are due.
        if self.graces.len() > 2 * self.lost.len() + 64 {
            let lost = self.lost.iter();
            let lost = lost.filter(|(socket, _)| !self.away.contains(*socket));
            let mut graces: Vec<_> = lost
                .map(|(socket, lost)| (lost.until, socket.clone()))
                .collect();
            graces.sort_unstable();
            self.graces = graces.into();
        }
    }

    /// Records that a socket is restored here, in these rooms. Its entries of other servers become entries
    /// of this one, also if those servers are gone. If they arrive later, because this server has just
    /// begun, [`take_claims`](Self::take_claims) returns the socket.
    pub(super) fn restore(&mut self, socket: &str, rooms: &BTreeSet<Box<str>>, now: Instant) {
        self.forget_lost(socket);
        let own = self.entries.get(socket).into_iter().flatten();
        let mut entries: Vec<_> = own
            .map(|(_, entry)| entry)
            .filter(|entry| entry.is_away)
            .cloned()
            .collect();
        let others = self
            .others
            .values()
            .filter_map(|copy| copy.entries.get(socket));
        let departed = self.departed.remove(socket);
        for (room, entry) in others.flatten().chain(&departed) {
            let is_new = entries.iter().all(|each| each.room != *room);
            if is_new && rooms.contains(room) && self.entry(socket, room).is_none() {
                entries.push(entry.clone());
            }
        }
        let mut changes = Vec::new();
        for mut entry in entries {
            if self.fits(socket, &entry.room, &entry.key, &entry.meta) {
                entry.is_away = false;
                self.put_own(&entry);
                changes.push(entry.change());
            } else if self.entry(socket, &entry.room).is_some() {
                // Others have filled the room in the meantime.
                self.remove_own(&entry);
                changes.push(entry.removal());
            }
        }
        self.commit(changes, now);
        let own = self.entries.get(socket).into_iter().flatten();
        let left: Vec<_> = own
            .map(|(room, _)| room.clone())
            .filter(|room| !rooms.contains(room))
            .collect();
        for room in left {
            self.untrack(socket, &room, now);
        }
        if self.is_shared {
            self.restored.insert(socket.into(), now + SILENCE);
        }
    }

    /// Takes the sockets that were restored here before the other servers' entries of them arrived. The
    /// caller restores them again if they are still connected.
    pub(super) fn take_claims(&mut self) -> BTreeSet<Box<str>> {
        std::mem::take(&mut self.claims)
    }

    /// Returns the sockets whose grace is over. The caller finds out which of them can still be restored,
    /// and calls [`settle`](Self::settle).
    pub(super) fn due(&mut self, now: Instant) -> Vec<Box<str>> {
        let mut due = Vec::new();
        while self.graces.front().is_some_and(|(until, _)| *until <= now) {
            due.extend(self.graces.pop_front().map(|(_, socket)| socket));
        }
        shrink(&mut self.graces);
        due.retain(|socket| self.lost.contains_key(socket) && !self.away.contains(socket));
        if self.is_tick(now) {
            due.extend(self.away.iter().cloned());
        }
        due
    }

    /// Hides the entries of a lost socket that can still be restored, and removes those of another.
    pub(super) fn settle(&mut self, socket: &str, is_kept: bool, now: Instant) {
        if self.lost.get(socket).is_none_or(|lost| lost.until > now) {
            return;
        }
        if !is_kept {
            return self.leave(socket, now);
        }
        if !self.away.insert(socket.into()) {
            return;
        }
        let entries = self.entries.get(socket).into_iter().flatten();
        let mut entries: Vec<_> = entries.map(|(_, entry)| entry.clone()).collect();
        for entry in &mut entries {
            entry.is_away = true;
            self.put_own(entry);
        }
        self.commit(entries.iter().map(Entry::change).collect(), now);
    }

    /// Says that this server is there, and drops the entries of servers that were silent for too long.
    /// While this server `is_cut_off`, or after it was paused, it cannot know, and drops none.
    pub(super) fn tick(&mut self, now: Instant, is_cut_off: bool) {
        if !self.is_tick(now) {
            return;
        }
        let was_paused = now.saturating_duration_since(self.ticked_at) >= 2 * PERIOD;
        self.ticked_at = now;
        self.departed.expire(now);
        self.emptied.retain(|_, until| *until > now);
        self.emptied_bytes = self.emptied.keys().map(|room| room.len() + ENTRY).sum();
        self.all_emptied = self.all_emptied.filter(|until| *until > now);
        self.restored.retain(|_, until| *until > now);
        if self.is_shared && (!self.entries.is_empty() || self.has_changed_lately(now)) {
            let (server, clock) = (self.id.clone(), self.clock);
            self.messages.push(Message::Alive { server, clock });
        }
        if self.is_asked {
            self.send_state(now);
        }
        if is_cut_off || was_paused {
            self.others.values_mut().for_each(|copy| copy.heard = now);
        }
        let is_silent = |copy: &Replicated| now.saturating_duration_since(copy.heard) >= SILENCE;
        let silent = self.others.iter().filter(|(_, copy)| is_silent(copy));
        let silent: Vec<_> = silent.map(|(server, _)| server.clone()).collect();
        for server in silent {
            let entries = self.drop_copy(&server);
            self.depart(entries, now);
        }
    }

    /// Returns when [`due`](Self::due) and [`tick`](Self::tick) are to be called next. Returns `None` if
    /// nothing is left to do for this replica until it is used again.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        earliest([self.grace_ends(), self.ticks_at(now)])
    }

    /// Returns when the next grace is over.
    pub(super) fn grace_ends(&self) -> Option<Instant> {
        self.graces.front().map(|(until, _)| *until)
    }

    /// Returns when [`tick`](Self::tick) is to be called next.
    pub(super) fn ticks_at(&self, now: Instant) -> Option<Instant> {
        let is_busy = self.is_shared && !self.is_idle(now)
            || !self.away.is_empty()
            || !self.emptied.is_empty();
        is_busy.then(|| self.ticked_at + PERIOD)
    }

    /// Returns whether the replica has nothing that a new one would not have.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        let is_empty = self.entries.is_empty()
            && self.others.is_empty()
            && self.departed.is_empty()
            && self.restored.is_empty()
            && self.emptied.is_empty();
        is_empty && !(self.is_shared && self.has_changed_lately(now))
    }

    /// Handles a message of another server.
    pub(super) fn handle(&mut self, message: Message, now: Instant) {
        match message {
            Message::Delta {
                server,
                clock,
                changes,
            } if server != self.id => self.handle_delta(server, clock, changes, now),
            Message::Alive { server, clock } if server != self.id => {
                if self.copy(&server, now).clock < clock {
                    self.ask(server, now);
                }
            }
            Message::State {
                server,
                clock,
                part,
                parts,
                entries,
            } if server != self.id => {
                if let Some(entries) = self.assemble(&server, clock, (part, parts), entries, now) {
                    self.replace(&server, clock, entries, now);
                }
            }
            Message::Ask { of } => {
                if of.is_none_or(|of| of == self.id) {
                    self.handle_ask(now);
                }
            }
            // They are this server's own.
            Message::Delta { .. } | Message::Alive { .. } | Message::State { .. } => {}
        }
    }

    /// Takes the messages to the other servers.
    pub(super) fn take_messages(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.messages)
    }

    /// Takes what has changed for the clients of each room.
    pub(super) fn take_diffs(&mut self) -> BTreeMap<Box<str>, Diff> {
        let mut diffs = BTreeMap::<Box<str>, Diff>::new();
        for ((room, key), before) in std::mem::take(&mut self.before) {
            let metas = self.rooms.get(&room).and_then(|room| room.keys.get(&key));
            let after = metas.map(distinct).unwrap_or_default();
            if before == after {
                continue;
            }
            let diff = diffs.entry(room).or_default();
            match (before.is_empty(), after.is_empty()) {
                (true, _) => diff.joins.insert(key, after),
                (_, true) => diff.leaves.insert(key, before),
                (false, false) => diff.updates.insert(key, after),
            };
        }
        diffs
    }

    pub(super) fn is_tick(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.ticked_at) >= PERIOD
    }

    fn has_changed_lately(&self, now: Instant) -> bool {
        self.clock > 0 && now.saturating_duration_since(self.changed_at) < 2 * PERIOD
    }

    fn commit(&mut self, changes: Vec<Change>, now: Instant) {
        if changes.is_empty() {
            return;
        }
        self.clock += 1;
        self.changed_at = now;
        if self.is_shared {
            self.messages.push(Message::Delta {
                server: self.id.clone(),
                clock: self.clock,
                changes,
            });
        }
    }

    /// Forgets that the connection of a socket is lost.
    fn forget_lost(&mut self, socket: &str) {
        if let Some(lost) = self.lost.remove(socket) {
            self.lingering -= lost.bytes;
            self.away.remove(socket);
        }
    }

    fn put_own(&mut self, entry: &Entry) {
        let rooms = self.entries.entry(entry.socket.clone()).or_default();
        let before = rooms.insert(entry.room.clone(), entry.clone());
        self.show(before.as_ref(), Some(entry));
    }

    fn remove_own(&mut self, entry: &Entry) {
        if remove(&mut self.entries, &entry.socket, &entry.room).is_some() {
            if let Some(lost) = self.lost.get_mut(&entry.socket) {
                // An entry may be newer than the loss, and not counted.
                let bytes = entry.bytes().min(lost.bytes);
                lost.bytes -= bytes;
                self.lingering -= bytes;
            }
            self.show(Some(entry), None);
        }
    }

    /// Updates what clients see of an entry.
    fn show(&mut self, before: Option<&Entry>, after: Option<&Entry>) {
        let is_seen = |entry: &&Entry| !entry.is_away;
        if let Some(entry) = before.filter(is_seen) {
            self.touch(entry);
            if let Some(room) = self.rooms.get_mut(&entry.room) {
                let text = entry.meta.text();
                if let Some(metas) = room.keys.get_mut(&entry.key) {
                    if let Some((_, sockets)) = metas.get_mut(&text) {
                        *sockets -= 1;
                        if *sockets == 0 {
                            metas.remove(&text);
                            room.bytes -= shown(&entry.key, &text);
                        }
                    }
                }
            }
        }
        if let Some(entry) = after.filter(is_seen) {
            self.touch(entry);
            let room = self.rooms.entry(entry.room.clone()).or_default();
            let metas = room.keys.entry(entry.key.clone()).or_default();
            let text = entry.meta.text();
            let bytes = shown(&entry.key, &text);
            let meta = metas.entry(text).or_insert_with(|| {
                room.bytes += bytes;
                (entry.meta.clone(), 0)
            });
            meta.1 += 1;
        }
        if let Some(entry) = before {
            self.prune(entry);
        }
    }

    /// Remembers what clients have seen of an entry's key.
    fn touch(&mut self, entry: &Entry) {
        let at = (entry.room.clone(), entry.key.clone());
        let metas = self
            .rooms
            .get(&entry.room)
            .and_then(|room| room.keys.get(&entry.key));
        self.before
            .entry(at)
            .or_insert_with(|| metas.map(distinct).unwrap_or_default());
    }

    /// Removes the key and the room of an entry if they are empty.
    fn prune(&mut self, entry: &Entry) {
        let Some(room) = self.rooms.get_mut(&entry.room) else {
            return;
        };
        let keys = &mut room.keys;
        if keys.get(&entry.key).is_some_and(BTreeMap::is_empty) {
            keys.remove(&entry.key);
        }
        if keys.is_empty() {
            self.rooms.remove(&entry.room);
        }
    }

    /// Returns the copy of a server that has sent something.
    fn copy(&mut self, server: &str, now: Instant) -> &mut Replicated {
        let copy = self
            .others
            .entry(server.into())
            .or_insert_with(|| Replicated {
                clock: 0,
                entries: Entries::new(),
                heard: now,
                asked: None,
                parts: None,
            });
        copy.heard = now;
        copy
    }

    fn handle_delta(&mut self, server: Box<str>, clock: u64, changes: Vec<Change>, now: Instant) {
        let copy = self.copy(&server, now);
        if clock <= copy.clock {
            return;
        }
        if clock > copy.clock + 1 {
            return self.ask(server, now);
        }
        copy.clock = clock;
        for change in changes {
            self.apply(&server, change, now);
        }
    }

    fn apply(&mut self, server: &str, change: Change, now: Instant) {
        let Some(copy) = self.others.get_mut(server) else {
            return;
        };
        match change {
            Change::Put(entry) => {
                let rooms = copy.entries.entry(entry.socket.clone()).or_default();
                let before = rooms.insert(entry.room.clone(), entry.clone());
                self.show(before.as_ref(), Some(&entry));
                self.departed.remove(&entry.socket);
                if self.restored.contains_key(&entry.socket) {
                    self.claims.insert(entry.socket.clone());
                }
                // The client is on that server now.
                if self.lost.contains_key(&entry.socket) {
                    self.leave(&entry.socket, now);
                }
            }
            Change::Remove { socket, room } => {
                let before = remove(&mut copy.entries, &socket, &room);
                self.show(before.as_ref(), None);
            }
        }
    }

    fn ask(&mut self, server: Box<str>, now: Instant) {
        let copy = self.copy(&server, now);
        let is_waiting = |asked| now.saturating_duration_since(asked) < PERIOD;
        if !copy.asked.is_some_and(is_waiting) {
            copy.asked = Some(now);
            self.messages.push(Message::Ask { of: Some(server) });
        }
    }

    /// Sends the state to all servers. Several that ask in one period get it once, or twice.
    fn handle_ask(&mut self, now: Instant) {
        let is_recent = |sent| now.saturating_duration_since(sent) < PERIOD;
        if self.clock == 0 {
            return;
        }
        if self.state_sent.is_some_and(is_recent) {
            self.is_asked = true;
            return;
        }
        self.send_state(now);
    }

    fn send_state(&mut self, now: Instant) {
        self.is_asked = false;
        self.state_sent = Some(now);
        let mut parts = vec![Vec::new()];
        let mut bytes = 0;
        for entry in self.entries.values().flat_map(BTreeMap::values) {
            if bytes + entry.bytes() > PART && bytes > 0 {
                parts.push(Vec::new());
                bytes = 0;
            }
            bytes += entry.bytes();
            let last = parts.len() - 1;
            parts[last].push(entry.clone());
        }
        let count = parts.len();
        for (part, entries) in parts.into_iter().enumerate() {
            self.messages.push(Message::State {
                server: self.id.clone(),
                clock: self.clock,
                part,
                parts: count,
                entries,
            });
        }
    }

    /// Adds a part of a state. Returns all entries with the last part.
    fn assemble(
        &mut self,
        server: &str,
        clock: u64,
        (part, parts): (usize, usize),
        entries: Vec<Entry>,
        now: Instant,
    ) -> Option<Vec<Entry>> {
        let copy = self.copy(server, now);
        if clock <= copy.clock {
            copy.parts = None;
            return None;
        }
        let mut so_far = match copy.parts.take() {
            Some(so_far) if so_far.clock == clock && so_far.next == part => so_far,
            _ if part == 0 => Parts {
                clock,
                next: 0,
                entries: Vec::new(),
            },
            // One before it was lost. The next `Alive` shows that.
            _ => return None,
        };
        so_far.entries.extend(entries);
        so_far.next += 1;
        if so_far.next < parts {
            copy.parts = Some(so_far);
            return None;
        }
        Some(so_far.entries)
    }

    fn replace(&mut self, server: &str, clock: u64, entries: Vec<Entry>, now: Instant) {
        self.drop_copy(server);
        self.copy(server, now).clock = clock;
        for entry in entries {
            self.apply(server, Change::Put(entry), now);
        }
    }

    /// Drops the copies of all servers' entries: they were not kept up to date.
    pub(super) fn drop_copies(&mut self, now: Instant) {
        let servers: Vec<_> = self.others.keys().cloned().collect();
        for server in servers {
            let entries = self.drop_copy(&server);
            self.depart(entries, now);
        }
    }

    /// Keeps the entries of a server that is gone: its clients may come back to this server.
    fn depart(&mut self, entries: Entries, now: Instant) {
        if let Some(within) = self.recovers_within {
            self.departed.add(entries, deadline(now, within));
        }
    }

    /// Drops the copy of a server's entries, and returns them.
    fn drop_copy(&mut self, server: &str) -> Entries {
        let Some(copy) = self.others.remove(server) else {
            return Entries::new();
        };
        for entry in copy.entries.values().flat_map(BTreeMap::values) {
            self.show(Some(entry), None);
        }
        copy.entries
    }
}

/// Returns the bytes that metadata with this text in JSON add to the state of a room.
fn shown(key: &str, text: &str) -> usize {
    let is_escaped = |byte: &u8| *byte < 0x20 || matches!(byte, b'"' | b'\\');
    let escaped = key.bytes().filter(|byte| is_escaped(byte)).count();
    text.len() + key.len() + 5 * escaped + 6
}

/// Removes an entry, and its socket if that was the last one.
fn remove(entries: &mut Entries, socket: &str, room: &str) -> Option<Entry> {
    let rooms = entries.get_mut(socket)?;
    let removed = rooms.remove(room);
    if rooms.is_empty() {
        entries.remove(socket);
    }
    removed
}

/// Returns the different metadata of one key. The order, and which are left out above the limit, is the
/// same on all servers.
fn distinct(metas: &Metas) -> Vec<Meta> {
    let metas = metas.values().take(MAX_METAS);
    metas.map(|(meta, _)| meta.clone()).collect()
}

#[cfg(test)]
mod tests;
