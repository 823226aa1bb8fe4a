//! The commands of a server to its broker, and their queue.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;

use super::counters::Counters;
use super::ended_rooms::{EndedRooms, Room};
use super::message::{Envelope, Message};
use super::new_rooms::NewRooms;
use crate::clock::now;
use crate::hub::ClusterError;
use crate::hub::other_servers::{Confirm, Operation};
use crate::hub::recovery::SavedSocket;
use crate::protocol::NamespaceName;
use crate::shrink::shrink;
use crate::sync::oneshot;

/// A command of a server to its [`Broker`](super::Broker).
///
/// Commands of the first line come before those of the second, and so on:
///
/// 1. [`Open`](Self::Open), [`Close`](Self::Close);
/// 2. [`Room`](Self::Room);
/// 3. [`Sync`](Self::Sync), [`Count`](Self::Count), in the order of the calls;
/// 4. [`Publish`](Self::Publish), [`Ask`](Self::Ask), [`Answer`](Self::Answer), [`Gap`](Self::Gap),
///    [`Save`](Self::Save), [`Take`](Self::Take), in the order of the calls.
#[derive(Debug)]
#[non_exhaustive]
pub enum Command {
    /// Receive the messages of a namespace, and count as one of its servers. The command comes once: a
    /// broker that connects again opens its namespaces by itself.
    Open {
        /// The namespace.
        namespace: NamespaceName,
    },
    /// Do not receive the messages of a namespace any longer. Its rooms do not end with it: each has a
    /// [`Room`](Self::Room) of its own.
    Close {
        /// The namespace.
        namespace: NamespaceName,
    },
    /// A room has begun or ended on this server. Only a broker that
    /// [wants rooms](super::Broker::wants_rooms) gets it. The command comes once, as that for a
    /// namespace. [`Envelope::room`] returns the room that a message is for.
    ///
    /// The end of a room is reported late: after ten seconds, or after
    /// [`Recovery::within`](crate::Recovery::within) if that is longer. It may come after the
    /// [`Close`](Self::Close) of the namespace. A room that has begun again by then has not ended.
    Room {
        /// The namespace.
        namespace: NamespaceName,
        /// The room. The id of a socket is the room of that socket.
        room: Arc<str>,
        /// Whether the room has begun. If not, it has ended.
        exists: bool,
    },
    /// Report when the messages of other servers arrive for all namespaces and rooms of earlier
    /// commands.
    Sync {
        /// Takes the report.
        synced: Synced,
    },
    /// Send a message to all other servers of its namespace.
    Publish {
        /// The message.
        envelope: Envelope,
        /// Takes the result.
        done: Done,
    },
    /// Count the servers of a namespace, and send a question to all others.
    ///
    /// A broker that can do both at one moment should. If not, it counts first.
    Ask {
        /// The question.
        envelope: Envelope,
        /// Takes the count.
        expect: Expect,
    },
    /// Send an answer to the server that has asked.
    Answer {
        /// The id of that server.
        to: Arc<str>,
        /// The answer.
        envelope: Envelope,
    },
    /// Count the servers of a namespace.
    Count {
        /// The namespace.
        namespace: NamespaceName,
        /// The id of the only server to count, if there is one. The count is 0 if it has died, so that
        /// its clients are not waited for. A broker that does not know drops `expect`. A question then
        /// waits for the clients of a server that has died until its own timeout.
        server: Option<Arc<str>>,
        /// Takes the count.
        expect: Expect,
    },
    /// Add an entry to the log that says that messages of this server were dropped. When servers read
    /// it, they call [`Inbox::begin_log`](super::Inbox::begin_log). Only a broker with a
    /// [log](super::Broker::has_log) gets this command and the next two.
    Gap {
        /// The namespace of the messages.
        namespace: NamespaceName,
        /// Takes the result. The command comes again if it is not [published](Done::published).
        done: Done,
    },
    /// Save a socket whose client may come back to any server. It replaces one that was saved with the
    /// same [key](SavedSocket::key).
    Save {
        /// The socket.
        socket: SavedSocket,
        /// How long it is kept.
        within: Duration,
    },
    /// Take a saved socket out. If several servers ask for it, one gets it. The command may also come
    /// while the broker is not connected, for a socket that is to be forgotten: it is carried out later.
    Take {
        /// The key under which it was saved.
        key: Box<str>,
        /// Takes the socket.
        taken: Taken,
    },
}

impl Command {
    fn cost(&self) -> usize {
        let more = match self {
            Self::Publish { envelope, .. }
            | Self::Ask { envelope, .. }
            | Self::Answer { envelope, .. } => envelope.cost(),
            Self::Open { .. }
            | Self::Close { .. }
            | Self::Room { .. }
            | Self::Sync { .. }
            | Self::Count { .. }
            | Self::Gap { .. } => 0,
            Self::Save { socket, .. } => socket.cost(),
            Self::Take { key, .. } => key.len(),
        };
        size_of::<Self>() + more
    }

    /// Returns whether somebody waits for an answer, or the command is one. It fails when the connection of
    /// the broker ends.
    pub(super) fn is_question(&self) -> bool {
        match self {
            Self::Ask { .. } | Self::Answer { .. } | Self::Count { .. } | Self::Sync { .. } => true,
            Self::Take { taken, .. } => !taken.forgets(),
            Self::Open { .. }
            | Self::Close { .. }
            | Self::Room { .. }
            | Self::Publish { .. }
            | Self::Gap { .. }
            | Self::Save { .. } => false,
        }
    }
}

/// Takes the result of a [`Command::Publish`]. If it is dropped, the message counts as unconfirmed.
#[must_use = "a message counts as unconfirmed unless its result is reported"]
pub struct Done {
    /// `None` if it is not counted.
    counters: Option<Arc<Counters>>,
    confirm: Option<Confirm>,
    reported: bool,
    /// The callback for a message that does not come into the log. It gets the number of the message.
    lost: Option<Lost>,
    number: u64,
}

/// Takes the number of a message that does not come into the log.
pub(super) type Lost = Box<dyn FnOnce(u64) + Send + Sync>;

impl Done {
    pub(super) fn new(counters: &Arc<Counters>, confirm: Option<Confirm>) -> Self {
        Self {
            counters: Some(Arc::clone(counters)),
            confirm,
            reported: false,
            lost: None,
            number: 0,
        }
    }

    /// Takes the result of an entry that is no message.
    pub(super) fn uncounted(lost: Lost) -> Self {
        Self {
            counters: None,
            confirm: None,
            reported: false,
            lost: Some(lost),
            number: 0,
        }
    }

    /// Sets the callback for a message that does not come into the log.
    pub(super) fn or_lost(mut self, lost: Lost) -> Self {
        self.lost = Some(lost);
        self
    }

    /// Reports that the broker has the message.
    pub fn published(mut self) {
        self.reported = true;
        if let Some(counters) = &self.counters {
            counters.published();
        }
        if let Some(confirm) = self.confirm.take() {
            let _ = confirm.send(Ok(()));
        }
    }

    /// Reports that the message was not sent and will not be.
    pub fn dropped(mut self) {
        self.drop_message(ClusterError::UNREACHABLE);
    }

    pub(super) fn drop_message(&mut self, error: ClusterError) {
        self.reported = true;
        if let Some(counters) = &self.counters {
            counters.dropped();
        }
        if let Some(confirm) = self.confirm.take() {
            let _ = confirm.send(Err(error));
        }
        self.report_lost();
    }

    fn report_lost(&mut self) {
        if let Some(lost) = self.lost.take() {
            lost(self.number);
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if !self.reported {
            if let Some(counters) = &self.counters {
                counters.unconfirmed();
            }
            self.report_lost();
        }
    }
}

impl fmt::Debug for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Done").finish_non_exhaustive()
    }
}

/// Takes the number of servers of a [`Command::Ask`] or a [`Command::Count`]. If it is dropped, the
/// servers count as unreachable.
#[must_use = "the question fails unless the servers are counted"]
pub struct Expect(Option<Box<dyn FnOnce(Option<usize>) + Send + Sync>>);

impl Expect {
    /// Creates a receiver that passes the number on, or `None` if it is dropped.
    pub(super) fn new(report: impl FnOnce(Option<usize>) + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(report)))
    }

    /// Reports the number of servers that have opened the namespace, including this one if it has.
    pub fn servers(mut self, servers: usize) {
        if let Some(report) = self.0.take() {
            report(Some(servers));
        }
    }
}

impl Drop for Expect {
    fn drop(&mut self) {
        if let Some(report) = self.0.take() {
            report(None);
        }
    }
}

impl fmt::Debug for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expect").finish_non_exhaustive()
    }
}

/// Takes the report of a [`Command::Sync`]. If it is dropped, the broker counts as unreachable.
#[must_use = "a task waits until this is reported"]
pub struct Synced(Option<oneshot::Sender<()>>);

impl Synced {
    pub(super) fn new() -> (Self, oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Some(sender)), receiver)
    }

    /// Reports that the messages of other servers arrive.
    pub fn done(mut self) {
        if let Some(sender) = self.0.take() {
            // An error means that nobody waits any longer.
            let _ = sender.send(());
        }
    }
}

impl fmt::Debug for Synced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Synced").finish_non_exhaustive()
    }
}

/// Takes the socket of a [`Command::Take`]. If it is dropped, there is none.
#[must_use = "a client waits until this is reported"]
pub struct Taken(Option<Receiver>);

/// Who gets a saved socket that was taken out.
enum Receiver {
    /// The client that claims it.
    Client(Box<dyn FnOnce(Option<SavedSocket>) + Send + Sync>),
    /// Nobody: it is to be forgotten. The callback is called if it may not be.
    Nobody(NotForgotten),
}

/// Takes the reason why a saved socket may not be forgotten.
pub(super) type NotForgotten = Box<dyn FnOnce(Unforgotten) + Send + Sync>;

/// Why a saved socket may not be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unforgotten {
    /// The connection of the broker has ended before its reply.
    #[cfg_attr(
        not(feature = "redis"),
        allow(
            dead_code,
            reason = "only the broker for Redis has a connection and a log"
        )
    )]
    Unknown,
    /// The command made room for others.
    Dropped,
}

impl Taken {
    /// Creates a receiver that passes the socket on, or `None` if it is dropped.
    pub(super) fn new(report: impl FnOnce(Option<SavedSocket>) + Send + Sync + 'static) -> Self {
        Self(Some(Receiver::Client(Box::new(report))))
    }

    /// Creates the receiver of a socket that is to be forgotten.
    pub(super) fn forget(callback: NotForgotten) -> Self {
        Self(Some(Receiver::Nobody(callback)))
    }

    /// Returns whether the socket is to be forgotten: no client waits for it.
    pub(super) fn forgets(&self) -> bool {
        matches!(self.0, Some(Receiver::Nobody(_)))
    }

    /// Reports the socket. It is saved again if its client does not wait for it any longer.
    pub fn found(mut self, socket: SavedSocket) {
        if let Some(Receiver::Client(report)) = self.0.take() {
            report(Some(socket));
        }
    }

    /// Reports that the socket may not have been taken out.
    pub(super) fn failed(mut self, reason: Unforgotten) {
        match self.0.take() {
            Some(Receiver::Client(report)) => report(None),
            Some(Receiver::Nobody(callback)) => callback(reason),
            None => {}
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(Receiver::Client(report)) = self.0.take() {
            report(None);
        }
    }
}

impl fmt::Debug for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Taken").finish_non_exhaustive()
    }
}

/// The names that the broker has to open (`true`) or to close, and those that it has opened.
#[derive(Debug)]
struct Changes<T> {
    pending: IndexMap<T, bool>,
    open: HashSet<T>,
}

impl<T: Clone + Eq + Hash> Changes<T> {
    fn new() -> Self {
        Self {
            pending: IndexMap::new(),
            open: HashSet::new(),
        }
    }

    /// Records whether a name has to be open. A change that is undone before the broker has taken it
    /// is none. Returns whether the broker has to open it.
    fn change(&mut self, name: T, is_open: bool) -> bool {
        if self.open.contains(&name) == is_open {
            self.pending.swap_remove(&name);
            shrink(&mut self.pending);
            return false;
        }
        self.pending.insert(name, is_open);
        is_open
    }

    fn pop(&mut self) -> Option<(T, bool)> {
        let (name, is_open) = self.pending.pop()?;
        match is_open {
            true => self.open.insert(name.clone()),
            false => self.open.remove(&name),
        };
        shrink(&mut self.pending);
        shrink(&mut self.open);
        Some((name, is_open))
    }
}

/// How many times the bytes of all other messages the large ones may have together.
const LARGE: usize = 4;

/// The queue of commands. The messages are bounded in bytes, and each namespace and each room has at
/// most one command.
#[derive(Debug)]
pub(super) struct Queue {
    /// They come before messages, so that a namespace is open before its first message leaves.
    namespaces: Changes<NamespaceName>,
    rooms: Changes<Room>,
    ended_rooms: EndedRooms,
    /// How many namespaces and rooms the broker had to open so far.
    opened: u64,
    /// Counts, and reports of all earlier changes.
    counts: VecDeque<Command>,
    messages: VecDeque<Command>,
    /// The bytes of `messages`, without the large ones.
    bytes: usize,
    large_bytes: usize,
    /// The bytes of the saved sockets. They have a limit of their own: when a server closes there are many.
    saved_bytes: usize,
    /// The bytes of the saved sockets that are to be forgotten.
    forgotten_bytes: usize,
    max_bytes: usize,
    /// `None` if the broker does not want rooms.
    new_rooms: Option<NewRooms>,
    /// The number of the last message that was added.
    last_number: u64,
    /// Whether a [`Command::Gap`] waits.
    has_gap: bool,
    pub(super) state: QueueState,
}

/// The messages of a queue that have a limit in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    Small,
    Large,
    Saved,
    Forgotten,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueueState {
    Open,
    /// The server shuts down. The broker sends the queued messages.
    Closing,
    /// The broker has ended. Every command is dropped.
    Ended,
}

impl Queue {
    pub(super) fn new(max_bytes: usize, wants_rooms: bool) -> Self {
        Self {
            namespaces: Changes::new(),
            rooms: Changes::new(),
            ended_rooms: EndedRooms::default(),
            opened: 0,
            counts: VecDeque::new(),
            messages: VecDeque::new(),
            bytes: 0,
            large_bytes: 0,
            saved_bytes: 0,
            forgotten_bytes: 0,
            max_bytes,
            new_rooms: wants_rooms.then(NewRooms::default),
            last_number: 0,
            has_gap: false,
            state: QueueState::Open,
        }
    }

    /// Adds a command. Returns the commands that are dropped: the oldest messages if the queue is
    /// full, or the command itself if the broker has ended. The caller must drop them after it has
    /// released the lock.
    pub(super) fn push(&mut self, mut command: Command) -> Vec<Command> {
        if self.state == QueueState::Ended {
            return vec![command];
        }
        if let (Some(rooms), Command::Publish { envelope, .. }) =
            (&mut self.new_rooms, &mut command)
        {
            note_rooms(rooms, envelope);
        }
        if let Command::Publish { envelope, done } = &mut command {
            self.last_number += 1;
            envelope.number = self.last_number;
            done.number = self.last_number;
        }
        match command {
            Command::Open { namespace } => {
                self.opened += u64::from(self.namespaces.change(namespace, true));
            }
            Command::Close { namespace } => {
                self.namespaces.change(namespace, false);
            }
            Command::Room {
                namespace,
                room,
                exists,
            } => {
                let room = (namespace, room);
                if exists {
                    self.ended_rooms.begin(&room);
                } else if self.rooms.open.contains(&room) {
                    self.ended_rooms.end(room, now());
                    return Vec::new();
                }
                self.opened += u64::from(self.rooms.change(room, exists));
            }
            Command::Count { .. } | Command::Sync { .. } => self.counts.push_back(command),
            Command::Gap { .. } => {
                // It says that messages before the others are missing.
                if std::mem::replace(&mut self.has_gap, true) {
                    if let Command::Gap { done, .. } = command {
                        // One says it for all.
                        done.published();
                    }
                } else {
                    self.add(&command);
                    self.messages.push_front(command);
                }
            }
            Command::Publish { .. }
            | Command::Ask { .. }
            | Command::Answer { .. }
            | Command::Save { .. }
            | Command::Take { .. } => {
                let group = self.group(&command);
                self.add(&command);
                self.messages.push_back(command);
                return self.evict(group);
            }
        }
        Vec::new()
    }

    /// Returns the group of a message. Each has a limit of its own: a large message does not take the place
    /// of all others, nor do the sockets of a server that closes.
    fn group(&self, command: &Command) -> Group {
        match command {
            Command::Save { .. } => Group::Saved,
            Command::Take { taken, .. } if taken.forgets() => Group::Forgotten,
            _ if command.cost() > self.max_bytes / 4 => Group::Large,
            _ => Group::Small,
        }
    }

    fn bytes_of(&mut self, group: Group) -> &mut usize {
        match group {
            Group::Small => &mut self.bytes,
            Group::Large => &mut self.large_bytes,
            Group::Saved => &mut self.saved_bytes,
            Group::Forgotten => &mut self.forgotten_bytes,
        }
    }

    fn add(&mut self, command: &Command) {
        *self.bytes_of(self.group(command)) += command.cost();
    }

    fn subtract(&mut self, command: &Command) {
        *self.bytes_of(self.group(command)) -= command.cost();
    }

    /// Removes the oldest messages of a group until it is within its limit. One message may always stay.
    fn evict(&mut self, group: Group) -> Vec<Command> {
        let max = match group {
            Group::Small | Group::Saved | Group::Forgotten => self.max_bytes,
            Group::Large => LARGE * self.max_bytes,
        };
        let mut dropped = Vec::new();
        while *self.bytes_of(group) > max {
            let mut same = (0..self.messages.len()).filter(|at| {
                let command = &self.messages[*at];
                let is_gap = matches!(command, Command::Gap { .. });
                !is_gap && self.group(command) == group
            });
            let (Some(oldest), Some(_)) = (same.next(), same.next()) else {
                return dropped;
            };
            if let Some(command) = self.messages.remove(oldest) {
                self.subtract(&command);
                dropped.push(command);
            }
        }
        dropped
    }

    /// Closes the rooms that have ended at least `linger` ago. Returns whether there are any.
    pub(super) fn close_rooms(&mut self, linger: Duration) -> bool {
        let due = self.ended_rooms.due(linger, now());
        let is_changed = !due.is_empty();
        for room in due {
            self.rooms.change(room, false);
        }
        is_changed
    }

    pub(super) fn pop(&mut self) -> Option<Command> {
        if let Some((namespace, is_open)) = self.namespaces.pop() {
            return Some(match is_open {
                true => Command::Open { namespace },
                false => Command::Close { namespace },
            });
        }
        if let Some(((namespace, room), exists)) = self.rooms.pop() {
            return Some(Command::Room {
                namespace,
                room,
                exists,
            });
        }
        self.counts.pop_front().or_else(|| self.pop_message())
    }

    fn pop_message(&mut self) -> Option<Command> {
        let command = self.messages.pop_front()?;
        self.subtract(&command);
        self.has_gap &= !matches!(command, Command::Gap { .. });
        if self.messages.is_empty() {
            self.messages.shrink_to(64);
        }
        Some(command)
    }

    /// Returns the number of the last message that was added.
    pub(super) fn last_number(&self) -> u64 {
        self.last_number
    }

    /// Returns how many namespaces and rooms the broker had to open so far.
    pub(super) fn opened(&self) -> u64 {
        self.opened
    }

    /// Returns the bytes and the number of the messages.
    pub(super) fn waiting(&self) -> (usize, usize) {
        let bytes = self.bytes + self.large_bytes + self.saved_bytes + self.forgotten_bytes;
        (bytes, self.messages.len())
    }

    /// Removes the questions, the answers and the counts.
    pub(super) fn remove_questions(&mut self) -> VecDeque<Command> {
        let mut removed = std::mem::take(&mut self.counts);
        // In place: this runs for each attempt to connect, and the queue may be full.
        for _ in 0..self.messages.len() {
            let Some(command) = self.messages.pop_front() else {
                break;
            };
            if command.is_question() {
                self.subtract(&command);
                removed.push_back(command);
            } else {
                self.messages.push_back(command);
            }
        }
        removed
    }

    /// Drops every command from now on. Returns the messages that were queued.
    pub(super) fn end(&mut self) -> VecDeque<Command> {
        self.state = QueueState::Ended;
        self.namespaces = Changes::new();
        self.rooms = Changes::new();
        self.ended_rooms = EndedRooms::default();
        (self.bytes, self.large_bytes) = (0, 0);
        (self.saved_bytes, self.forgotten_bytes) = (0, 0);
        let mut left = std::mem::take(&mut self.messages);
        left.append(&mut self.counts);
        left
    }
}

/// Records the rooms of a join, and whether the room of an event is new.
fn note_rooms(rooms: &mut NewRooms, envelope: &mut Envelope) {
    let Message::Operation(target, operation) = &envelope.message else {
        return;
    };
    match (operation, &target.rooms[..]) {
        (Operation::Join(joined), _) => rooms.join(&envelope.namespace, joined, now()),
        (Operation::Emit { .. }, [room]) => {
            envelope.is_room_new = rooms.contains(&envelope.namespace, room, now());
        }
        _ => {}
    }
}

/// Reports that a command was removed from the full queue. Questions fail by themselves.
pub(super) fn drop_command(command: Command, error: ClusterError) {
    match command {
        Command::Publish { mut done, .. } => done.drop_message(error),
        Command::Take { taken, .. } => taken.failed(Unforgotten::Dropped),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Kind, Payload};
    use crate::shrink::is_shrunk;

    fn commands(queue: &mut Queue) -> Vec<String> {
        std::iter::from_fn(|| queue.pop())
            .map(|command| match command {
                Command::Open { namespace } => format!("open {namespace}"),
                Command::Close { namespace } => format!("close {namespace}"),
                Command::Count { namespace, .. } => format!("count {namespace}"),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn open(name: &str) -> Command {
        let namespace = name.into();
        Command::Open { namespace }
    }

    fn close(name: &str) -> Command {
        let namespace = name.into();
        Command::Close { namespace }
    }

    /// Returns a message of about this length.
    fn message(len: usize) -> Command {
        let text = format!("[\"x\",\"{}\"]", "y".repeat(len));
        let payload = Payload::from_json(Kind::Event, text.into(), Vec::new());
        let message = Message::ServerEvent(payload.expect("an event"));
        let envelope = Envelope::new("me".into(), NamespaceName::MAIN, message);
        let to = "a".into();
        Command::Answer { to, envelope }
    }

    #[test]
    fn a_namespace_that_comes_and_goes_leaves_no_command() {
        let mut queue = Queue::new(1024, false);
        for _ in 0..1_000 {
            queue.push(open("/a"));
            queue.push(close("/a"));
        }
        assert_eq!(commands(&mut queue), [""; 0]);
        queue.push(open("/a"));
        queue.push(open("/a"));
        assert_eq!(commands(&mut queue), ["open /a"]);
        // The broker has it open.
        queue.push(open("/a"));
        queue.push(close("/a"));
        queue.push(open("/a"));
        assert_eq!(commands(&mut queue), [""; 0]);
        queue.push(close("/a"));
        assert_eq!(commands(&mut queue), ["close /a"]);
    }

    #[test]
    fn namespaces_come_before_counts() {
        let mut queue = Queue::new(1024, false);
        let expect = Expect::new(|_| {});
        let namespace = NamespaceName::MAIN;
        queue.push(Command::Count {
            namespace,
            server: None,
            expect,
        });
        queue.push(open("/a"));
        assert_eq!(commands(&mut queue), ["open /a", "count /"]);
    }

    #[test]
    fn a_large_message_does_not_take_the_place_of_others() {
        let mut queue = Queue::new(64 * 1024, false);
        for _ in 0..10 {
            assert!(queue.push(message(1024)).is_empty());
        }
        for _ in 0..2 {
            assert!(queue.push(message(100 * 1024)).is_empty());
        }
        // The third large message is one too many.
        assert_eq!(queue.push(message(100 * 1024)).len(), 1);
        assert!(queue.push(message(1024)).is_empty());
        assert_eq!(queue.waiting().1, 13);
        // Together the others are bounded.
        for _ in 0..100 {
            queue.push(message(1024));
        }
        let others = queue.waiting().0 - 2 * 100 * 1024;
        assert!(others < 70 * 1024, "{others}");
        while queue.pop().is_some() {}
        assert_eq!(queue.waiting(), (0, 0));
    }

    fn forget(taken: Taken) -> Command {
        let key = "private id".into();
        Command::Take { key, taken }
    }

    #[test]
    fn a_socket_is_forgotten_also_if_the_connection_has_ended_in_the_meantime() {
        let mut queue = Queue::new(1024, false);
        queue.push(forget(Taken::new(|_| {})));
        queue.push(forget(Taken::forget(Box::new(|_| {}))));
        // The client that has waited for the other one gets a new socket.
        assert_eq!(queue.remove_questions().len(), 1);
        assert!(matches!(queue.pop(), Some(Command::Take { taken, .. }) if taken.forgets()));
        assert_eq!(queue.waiting(), (0, 0));
    }

    #[test]
    fn sockets_that_are_to_be_forgotten_have_a_limit_of_their_own() {
        let mut queue = Queue::new(64 * 1024, false);
        queue.push(forget(Taken::new(|_| {})));
        let (sender, dropped) = std::sync::mpsc::channel();
        for _ in 0..1_000 {
            let sender = sender.clone();
            let taken = Taken::forget(Box::new(move |reason| {
                assert_eq!(reason, Unforgotten::Dropped);
                sender.send(()).expect("it is received");
            }));
            for command in queue.push(forget(taken)) {
                drop_command(command, ClusterError::FULL);
            }
        }
        let (bytes, waiting) = queue.waiting();
        assert!((60 * 1024..70 * 1024).contains(&bytes), "{bytes}");
        // The claim stays, and each one that is dropped says so.
        assert!(!matches!(queue.pop(), Some(Command::Take { taken, .. }) if taken.forgets()));
        assert_eq!(dropped.try_iter().count(), 1_001 - waiting);
        assert!(waiting < 1_001);
        queue.end();
        assert_eq!(queue.waiting(), (0, 0));
    }

    #[test]
    fn the_saved_sockets_that_wait_are_bounded_and_messages_are_not_dropped_for_them() {
        const MAX: usize = 64 * 1024;

        let mut queue = Queue::new(MAX, false);
        // The messages leave no room for anything else.
        for _ in 0..100 {
            queue.push(message(1024));
        }
        let messages = queue.waiting().1;
        let mut waiting = VecDeque::new();
        for n in 0..100 {
            let socket = SavedSocket::with_data(n, 1024);
            let within = Duration::from_secs(60);
            waiting.push_back(socket.key().to_owned());
            for dropped in queue.push(Command::Save { socket, within }) {
                // The oldest one is.
                let Command::Save { socket, .. } = dropped else {
                    panic!("{dropped:?}");
                };
                assert_eq!(waiting.pop_front().as_deref(), Some(socket.key()));
            }
            assert!(queue.saved_bytes <= MAX);
        }
        assert!(queue.saved_bytes > MAX - 2 * 1024 && waiting.len() > 20);
        assert_eq!(queue.waiting().1, messages + waiting.len());
        while queue.pop().is_some() {}
        assert_eq!(queue.waiting(), (0, 0));
    }

    #[test]
    fn changes_and_messages_that_the_broker_has_taken_return_their_memory() {
        const MANY: u32 = 10_000;

        let mut changes = Changes::new();
        (0..MANY).for_each(|n| assert!(changes.change(n, true)));
        (0..MANY).for_each(|n| assert!(!changes.change(n, false)));
        assert!(is_shrunk(&changes.pending));
        for is_open in [true, false] {
            for n in 0..MANY {
                changes.change(n, is_open);
            }
            while changes.pop().is_some() {}
            assert!(is_shrunk(&changes.pending) && is_shrunk(&changes.open));
        }

        let mut queue = Queue::new(64 << 20, false);
        for _ in 0..MANY {
            queue.push(message(1));
        }
        while queue.pop().is_some() {}
        assert!(is_shrunk(&queue.messages));
    }

    #[test]
    fn a_queue_without_a_broker_keeps_nothing() {
        let mut queue = Queue::new(1024, false);
        queue.push(open("/a"));
        assert!(queue.end().is_empty());
        assert_eq!(queue.push(open("/b")).len(), 1);
        assert!(queue.pop().is_none());
    }
}
