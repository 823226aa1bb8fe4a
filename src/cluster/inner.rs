//! One server's part in the cluster: its outgoing commands and its incoming messages.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use futures_core::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::command::{
    Command, Done, Expect, Queue, QueueState, Synced, Taken, Unforgotten, drop_command,
};
use super::counters::Counters;
use super::message::{Envelope, Message, RequestId, ServerId};
use super::requests::Requests;
use crate::clock::now;
use crate::engine_io::SocketId;
use crate::hub::namespace::LiveNamespace;
use crate::hub::other_servers::{Answers, Confirm, Dropped, Here, Operation, Question, Sent};
use crate::hub::recovery::{Offset, PrivateId, SavedSocket};
use crate::hub::{ClusterError, Hub};
use crate::protocol::NamespaceName;
use crate::random::random;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, Notify, oneshot, watch};

mod incoming;

use incoming::ServerEvent;

/// The state that the server, its broker and the handles share.
pub(crate) struct Inner {
    weak: Weak<Self>,
    pub(super) id: ServerId,
    hub: OnceLock<Weak<Hub>>,
    /// Notified when the hub is attached. The broker starts then.
    pub(super) attached: Notify,
    runtime: Handle,
    pub(super) queue: Mutex<Queue>,
    /// Notified when a command was added, or the queue was closed.
    pub(super) command_ready: Notify,
    pub(super) requests: Mutex<Requests>,
    server_events: Mutex<HashMap<NamespaceName, VecDeque<ServerEvent>>>,
    running_server_events: Arc<Semaphore>,
    /// The namespaces of this server's questions, and the number of questions in each. Lock order:
    /// the namespaces of the hub, then this, then the queue.
    kept_open: Mutex<HashMap<NamespaceName, usize>>,
    /// The tasks that wait for clients of this server, by the questions of other servers.
    asked: Mutex<HashMap<RequestId, AbortHandle>>,
    /// The operations in namespaces that this server does not have, which have not come back from the log,
    /// by their numbers. Locked before the queue.
    elsewhere: Mutex<BTreeMap<u64, Envelope>>,
    /// Whether the log may have lost messages of this server that have not come back. The next one that
    /// comes back says which: the earlier ones.
    may_have_lost: AtomicBool,
    /// The nanoseconds of the broker's work since other tasks have run.
    pub(super) turn: AtomicU64,
    is_connected: AtomicBool,
    /// How many of the namespaces and rooms that the broker had to open are open.
    synced: AtomicU64,
    pub(super) counters: Arc<Counters>,
    /// Whether the broker has ended.
    ended: watch::Sender<bool>,
    limits: Limits,
    /// How long a client may be away, if recovery is on and the broker has a log.
    pub(super) log_window: Option<Duration>,
}

/// The limits of a cluster.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The bytes that wait for the broker.
    pub(super) queued: usize,
    /// The bytes of one message.
    pub(super) message: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queued: 16 << 20,
            message: 64 << 20,
        }
    }
}

/// The number of questions that may be open.
const MAX_REQUESTS: usize = 10_000;

/// The number of handlers of server events that may run at once.
const MAX_RUNNING_SERVER_EVENTS: usize = 64;

/// How long a room that has ended stays open at the broker.
const ROOM_LINGER: Duration = Duration::from_secs(10);

impl Inner {
    pub(super) fn new(
        runtime: Handle,
        limits: Limits,
        wants_rooms: bool,
        log_window: Option<Duration>,
        counters: Counters,
    ) -> Arc<Self> {
        Arc::new_cyclic(|weak| Self {
            weak: Weak::clone(weak),
            id: hex_id(),
            hub: OnceLock::new(),
            attached: Notify::new(),
            runtime,
            queue: Mutex::new(Queue::new(limits.queued, wants_rooms)),
            command_ready: Notify::new(),
            requests: Mutex::default(),
            server_events: Mutex::default(),
            running_server_events: Arc::new(Semaphore::new(MAX_RUNNING_SERVER_EVENTS)),
            kept_open: Mutex::default(),
            asked: Mutex::default(),
            elsewhere: Mutex::default(),
            may_have_lost: AtomicBool::new(false),
            turn: AtomicU64::new(0),
            is_connected: AtomicBool::new(false),
            synced: AtomicU64::new(0),
            counters: Arc::new(counters),
            ended: watch::Sender::new(false),
            limits,
            log_window,
        })
    }

    pub(super) fn attach(&self, hub: &Arc<Hub>) {
        // The builder attaches one hub.
        let _ = self.hub.set(Arc::downgrade(hub));
        self.attached.notify_one();
    }

    pub(super) fn hub(&self) -> Option<Arc<Hub>> {
        self.hub.get()?.upgrade()
    }

    pub(super) fn namespace(&self, name: &str) -> Option<Arc<LiveNamespace>> {
        self.hub()?.find(name)
    }

    pub(super) fn is_connected(&self) -> bool {
        self.is_connected.load(Ordering::Acquire)
    }

    /// Sends a command to the broker.
    pub(super) fn push(&self, command: Command) {
        drop(self.push_later(command).1);
    }

    /// Does the same as [`push`](Self::push). Returns the number of the message, and the commands that
    /// make room for it.
    fn push_later(&self, command: Command) -> (u64, DroppedCommands) {
        let mut queue = self.queue.lock();
        let dropped = queue.push(command);
        let number = queue.last_number();
        drop(queue);
        self.command_ready.notify_one();
        (number, DroppedCommands(dropped, Arc::clone(&self.counters)))
    }

    fn envelope(&self, namespace: &NamespaceName, message: Message) -> Envelope {
        Envelope::new(ServerId::clone(&self.id), namespace.clone(), message)
    }

    /// Checks whether a message can be sent at all.
    fn check(&self, envelope: &Envelope) -> Result<(), ClusterError> {
        if envelope.cost() > self.limits.message {
            // `emit` returns no error.
            self.counters.dropped();
            if self.log_window.is_some() {
                self.mark_gap(&envelope.namespace);
            }
            return Err(ClusterError::TOO_BIG);
        }
        if self.queue.lock().state != QueueState::Open {
            self.counters.dropped();
            return Err(ClusterError::CLOSED);
        }
        Ok(())
    }

    pub(super) fn publish(
        self: &Arc<Self>,
        namespace: &NamespaceName,
        message: Message,
        confirm: Option<Confirm>,
        here: Here,
    ) -> Result<Sent, ClusterError> {
        let volatile = matches!(&message, Message::Operation(_, Operation::Emit { volatile, .. }) if *volatile);
        let envelope = self.envelope(namespace, message);
        self.check(&envelope)?;
        let mut done = Done::new(&self.counters, confirm);
        if volatile && !self.is_connected() {
            done.drop_message(ClusterError::UNREACHABLE);
            return Ok(Sent {
                number: None,
                dropped: None,
            });
        }
        let is_logged =
            self.log_window.is_some() && matches!(envelope.message, Message::Operation(..));
        if is_logged {
            let (inner, name) = (Arc::downgrade(self), namespace.clone());
            done = done.or_lost(Box::new(move |number| {
                if let Some(inner) = inner.upgrade() {
                    inner.lost(&name, number, volatile);
                }
            }));
        }
        let elsewhere = (is_logged && here == Here::Absent).then(|| envelope.clone());
        // Locked before the message can come back.
        let mut noted = elsewhere.as_ref().map(|_| self.elsewhere.lock());
        let (number, dropped) = self.push_later(Command::Publish { envelope, done });
        if let (Some(noted), Some(envelope)) = (&mut noted, elsewhere) {
            noted.insert(number, envelope);
        }
        drop(noted);
        Ok(Sent {
            number: is_logged.then_some(number),
            dropped: dropped.later(),
        })
    }

    /// Handles the loss of a message that does not come into the log.
    fn lost(&self, namespace: &NamespaceName, number: u64, volatile: bool) {
        self.elsewhere.lock().remove(&number);
        if let Some(live) = self.namespace(namespace) {
            live.lost(number);
        }
        if !volatile {
            self.mark_gap(namespace);
        }
    }

    /// Says in the log that messages are missing, again if the broker could not.
    fn mark_gap(&self, namespace: &NamespaceName) {
        if self.queue.lock().state == QueueState::Ended {
            return;
        }
        let (weak, name) = (Weak::clone(&self.weak), namespace.clone());
        let done = Done::uncounted(Box::new(move |_| {
            if let Some(inner) = weak.upgrade() {
                inner.mark_gap(&name);
            }
        }));
        let namespace = namespace.clone();
        self.push(Command::Gap { namespace, done });
    }

    pub(super) fn save(&self, socket: SavedSocket, within: Duration) -> Dropped {
        self.counters.saved.fetch_add(1, Ordering::Relaxed);
        let (_, dropped) = self.push_later(Command::Save { socket, within });
        dropped.later()
    }

    pub(super) fn take(
        self: &Arc<Self>,
        id: &PrivateId,
    ) -> BoxFuture<'static, Option<SavedSocket>> {
        if !self.is_connected() {
            return Box::pin(std::future::ready(None));
        }
        let (sender, receiver) = oneshot::channel();
        let inner = Arc::clone(self);
        let taken = Taken::new(move |socket| {
            let found = socket.map(|socket| Found {
                socket: Some(socket),
                inner,
            });
            // If nobody waits any longer, it is dropped.
            drop(sender.send(found));
        });
        let key = id.expose().into();
        self.push(Command::Take { key, taken });
        Box::pin(async move {
            let found = receiver.await.unwrap_or_default();
            found.and_then(|mut found| found.socket.take())
        })
    }

    pub(super) fn forget(&self, namespace: &NamespaceName, id: PrivateId) -> Dropped {
        let (weak, name) = (Weak::clone(&self.weak), namespace.clone());
        let taken = Taken::forget(Box::new(move |reason| {
            let Some(inner) = weak.upgrade() else { return };
            match reason {
                Unforgotten::Unknown => drop(inner.forget(&name, id)),
                // No client recovers across it, so none gets the saved socket.
                Unforgotten::Dropped => inner.mark_gap(&name),
            }
        }));
        let key = id.expose().into();
        let (_, dropped) = self.push_later(Command::Take { key, taken });
        dropped.later()
    }

    pub(super) fn displace(&self, namespace: &NamespaceName, id: &SocketId, at: Offset) {
        let envelope = self.envelope(namespace, Message::Displaced(*id, at));
        let done = Done::new(&self.counters, None);
        self.push(Command::Publish { envelope, done });
    }

    /// Delivers what has waited for the log too long, and saves the sockets that are due.
    pub(super) fn tick_recovery(&self) {
        if let Some(hub) = self.hub().filter(|_| self.log_window.is_some()) {
            hub.tick_recovery(None);
        }
    }

    /// Handles a message of another server that came into the log.
    pub(super) fn deliver_at(self: &Arc<Self>, envelope: Envelope, at: Offset) {
        if self.log_window.is_none() {
            return self.deliver(envelope);
        }
        let Some(hub) = self.hub() else { return };
        match envelope.message {
            Message::Operation(target, operation) if envelope.from != self.id => {
                self.counters.received();
                hub.apply_at(&envelope.namespace, &target, &operation, at);
            }
            message => {
                hub.advance_log(at);
                self.deliver(Envelope {
                    message,
                    ..envelope
                });
            }
        }
    }

    /// Keeps an operation of the log for clients that come back.
    pub(super) fn keep_at(&self, envelope: Envelope, at: Offset) {
        let Some(hub) = self.hub().filter(|_| self.log_window.is_some()) else {
            return;
        };
        match envelope.message {
            Message::Operation(target, operation) => {
                hub.keep_at(&envelope.namespace, &target, operation, at);
            }
            _ => hub.advance_log(at),
        }
    }

    /// Handles the return of a message of this server from the log.
    pub(super) fn returned(&self, namespace: &str, number: u64, at: Offset) {
        let Some(hub) = self.hub().filter(|_| self.log_window.is_some()) else {
            return;
        };
        let elsewhere = self.elsewhere.lock().remove(&number);
        if let Some(Message::Operation(target, operation)) = elsewhere.map(|sent| sent.message) {
            hub.apply_at(&namespace.into(), &target, &operation, at);
        } else if let Some(live) = hub.find(namespace).filter(|live| live.over_log().is_some()) {
            live.returned(number, at);
        } else {
            hub.advance_log(at);
        }
        // An entry that is no message of this server has the number 0.
        if number > 0 && self.may_have_lost.swap(false, Ordering::Relaxed) {
            let mut elsewhere = self.elsewhere.lock();
            let later = elsewhere.split_off(&number);
            let lost = std::mem::replace(&mut *elsewhere, later);
            drop(elsewhere);
            drop(lost);
            hub.returned(number, at);
        }
    }

    pub(super) fn begin_log(&self, at: Offset) {
        if let Some(hub) = self.hub().filter(|_| self.log_window.is_some()) {
            hub.begin_log(at);
            self.may_have_lost.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn ask(
        self: &Arc<Self>,
        namespace: &NamespaceName,
        question: Question,
    ) -> Result<Answers, ClusterError> {
        let id = hex_id();
        let asks_clients = matches!(question, Question::Event(..));
        let message = Message::Question(RequestId::clone(&id), question);
        let envelope = self.envelope(namespace, message);
        self.check(&envelope)?;
        if !self.is_connected() {
            return Err(ClusterError::UNREACHABLE);
        }
        let mut requests = self.requests.lock();
        if requests.len() >= MAX_REQUESTS {
            return Err(ClusterError::FULL);
        }
        let receiver = requests.open(RequestId::clone(&id), namespace.clone());
        drop(requests);
        let open = KeptOpen::new(self, namespace);
        let (inner, asked) = (Arc::clone(self), RequestId::clone(&id));
        let expect = Expect::new(move |servers| match servers {
            Some(servers) => inner.expect(&asked, servers),
            None => inner.requests.lock().fail(&asked),
        });
        self.push(Command::Ask { envelope, expect });
        let inner = Arc::clone(self);
        Ok(Answers::new(receiver, move || {
            let ended = inner.requests.lock().end(&id);
            if asks_clients && ended.is_some_and(|ended| ended.is_early) {
                inner.end_question(&open.namespace, id);
            }
            drop(open);
            ended?.missing
        }))
    }

    /// Tells the other servers that nobody waits for their clients any longer.
    fn end_question(&self, namespace: &NamespaceName, id: RequestId) {
        let envelope = self.envelope(namespace, Message::End(id));
        let done = Done::new(&self.counters, None);
        self.push(Command::Publish { envelope, done });
    }

    /// Closes the rooms at the broker that have ended some time ago.
    pub(super) fn close_rooms(&self) {
        let within = self.hub().and_then(|hub| hub.recovers_within());
        let linger = ROOM_LINGER.max(within.unwrap_or_default());
        if self.queue.lock().close_rooms(linger) {
            self.command_ready.notify_one();
        }
    }

    /// Counts the servers of the namespaces of open questions again, so that a server that has died
    /// is not waited for.
    pub(super) fn recount(self: &Arc<Self>) {
        let recount = self.requests.lock().recount();
        // Their counts come first: a server that has answered does not count for another.
        for (namespace, server) in recount.servers {
            let (inner, name, id) = (Arc::clone(self), namespace.clone(), Arc::clone(&server));
            let expect = Expect::new(move |servers| {
                if servers == Some(0) {
                    inner.requests.lock().died(&name, &id);
                }
            });
            self.push(Command::Count {
                namespace,
                server: Some(server),
                expect,
            });
        }
        for namespace in recount.namespaces {
            let (inner, name) = (Arc::clone(self), namespace.clone());
            let expect = Expect::new(move |servers| {
                if let Some(servers) = servers {
                    let others = servers.saturating_sub(1);
                    inner.requests.lock().recounted(&name, others);
                }
            });
            self.push(Command::Count {
                namespace,
                server: None,
                expect,
            });
        }
    }

    /// Records the number of servers of a question's namespace. This server is one of them, because
    /// a question keeps its namespace open.
    fn expect(&self, id: &RequestId, servers: usize) {
        let others = servers.saturating_sub(1);
        self.requests.lock().expect(id, others);
    }

    /// Counts the servers of a namespace, including this one.
    pub(super) fn count(
        self: &Arc<Self>,
        namespace: &NamespaceName,
    ) -> BoxFuture<'static, Result<usize, ClusterError>> {
        if !self.is_connected() {
            return Box::pin(std::future::ready(Err(ClusterError::UNREACHABLE)));
        }
        let open = KeptOpen::new(self, namespace);
        let (sender, receiver) = oneshot::channel();
        let expect = Expect::new(move |servers| {
            // An error means that the waiting task is gone.
            let _ = sender.send(servers.ok_or(ClusterError::UNREACHABLE));
        });
        self.push(Command::Count {
            namespace: namespace.clone(),
            server: None,
            expect,
        });
        Box::pin(async move {
            let _open = open;
            receiver.await.unwrap_or(Err(ClusterError::UNREACHABLE))
        })
    }

    /// Waits until the broker has opened all namespaces and rooms. Returns `None` if it has.
    pub(super) fn synced(self: &Arc<Self>) -> Option<BoxFuture<'static, Result<(), ClusterError>>> {
        let opened = self.queue.lock().opened();
        if self.synced.load(Ordering::Acquire) >= opened {
            return None;
        }
        if !self.is_connected() {
            return Some(Box::pin(std::future::ready(Err(ClusterError::UNREACHABLE))));
        }
        let (synced, done) = Synced::new();
        self.push(Command::Sync { synced });
        let inner = Arc::clone(self);
        Some(Box::pin(async move {
            done.await.map_err(|_| ClusterError::UNREACHABLE)?;
            inner.synced.fetch_max(opened, Ordering::AcqRel);
            Ok(())
        }))
    }

    /// Closes a namespace, unless a question keeps it open.
    pub(super) fn close_namespace(&self, namespace: &NamespaceName) {
        // The lock is held so that no question begins in between.
        let kept_open = self.kept_open.lock();
        if !kept_open.contains_key(namespace) {
            let namespace = namespace.clone();
            self.push(Command::Close { namespace });
        }
    }

    pub(super) fn set_connected(&self) {
        if !self.is_connected.swap(true, Ordering::AcqRel) {
            self.counters.connected();
        }
    }

    pub(super) fn set_disconnected(&self, reason: &dyn fmt::Display) {
        let was_connected = self.is_connected.swap(false, Ordering::AcqRel);
        self.counters.disconnected(reason, was_connected);
        let questions = self.queue.lock().remove_questions();
        drop(questions);
        self.requests.lock().fail_all();
        if let Some(hub) = self.hub().filter(|_| self.log_window.is_some()) {
            // The log does not answer.
            hub.tick_recovery(Some(now()));
        }
    }

    /// Lets the broker send the queued messages, and end.
    pub(super) fn close(&self) {
        let mut queue = self.queue.lock();
        if queue.state == QueueState::Open {
            queue.state = QueueState::Closing;
        }
        drop(queue);
        self.command_ready.notify_one();
    }

    /// Records that the broker has ended.
    pub(super) fn broker_ended(&self) {
        let mut queue = self.queue.lock();
        let is_early = queue.state == QueueState::Open;
        let left = queue.end();
        drop(queue);
        for command in left {
            drop_command(command, ClusterError::CLOSED);
        }
        if is_early {
            self.set_disconnected(&"the broker has ended");
        } else if self.is_connected.swap(false, Ordering::AcqRel) {
            self.counters.up(false);
        }
        self.requests.lock().fail_all();
        self.ended.send_replace(true);
    }

    /// Waits until the broker has ended.
    pub(super) async fn ended(self: Arc<Self>) {
        let mut ended = self.ended.subscribe();
        // The sender lives as long as `self`.
        let _ = ended.wait_for(|ended| *ended).await;
    }
}

/// Commands that made room for others in the queue. Their senders get to know it when this is dropped,
/// which must happen under no lock.
struct DroppedCommands(Vec<Command>, Arc<Counters>);

impl DroppedCommands {
    fn later(self) -> Dropped {
        (!self.0.is_empty()).then(|| Box::new(self) as Box<_>)
    }
}

impl Drop for DroppedCommands {
    fn drop(&mut self) {
        for command in self.0.drain(..) {
            let is_question = command.is_question();
            let is_counted = matches!(command, Command::Save { .. } | Command::Take { .. });
            if is_counted && !is_question {
                self.1.dropped();
            }
            drop_command(command, ClusterError::FULL);
        }
    }
}

/// A saved socket on its way to the task that waits for it. It is saved again if it does not get there.
struct Found {
    socket: Option<SavedSocket>,
    inner: Arc<Inner>,
}

impl Drop for Found {
    fn drop(&mut self) {
        if let Some(socket) = self.socket.take() {
            let within = self.inner.log_window.unwrap_or_default();
            drop(self.inner.save(socket, within));
        }
    }
}

/// Keeps a namespace open at the broker while a question of this server waits for its answers. The
/// namespace may not exist in this process, or its last socket may leave.
struct KeptOpen {
    inner: Arc<Inner>,
    namespace: NamespaceName,
}

impl KeptOpen {
    fn new(inner: &Arc<Inner>, namespace: &NamespaceName) -> Self {
        let mut kept_open = inner.kept_open.lock();
        *kept_open.entry(namespace.clone()).or_default() += 1;
        inner.push(Command::Open {
            namespace: namespace.clone(),
        });
        drop(kept_open);
        Self {
            inner: Arc::clone(inner),
            namespace: namespace.clone(),
        }
    }
}

impl Drop for KeptOpen {
    fn drop(&mut self) {
        let Self { inner, namespace } = self;
        let mut kept_open = inner.kept_open.lock();
        if let Some(questions) = kept_open.get_mut(namespace) {
            *questions -= 1;
            if *questions == 0 {
                kept_open.remove(namespace);
            }
        }
        drop(kept_open);
        if let Some(hub) = inner.hub() {
            hub.unless_open(namespace, || inner.close_namespace(namespace));
        }
    }
}

/// Returns a random id of 16 hexadecimal digits.
fn hex_id() -> Arc<str> {
    let bytes: [u8; 8] = random();
    format!("{:016x}", u64::from_be_bytes(bytes)).into()
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("id", &self.id)
            .field("is_connected", &self.is_connected())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::observer::Observers;

    fn inner(limits: Limits) -> Arc<Inner> {
        let counters = Counters::new(Observers::default());
        Inner::new(Handle::current(), limits, false, None, counters)
    }

    #[tokio::test]
    async fn an_answer_that_is_too_long_is_not_sent_and_counted() {
        let limits = Limits::default();
        for (message, expected) in [(1, (0, 1)), (limits.message, (1, 0))] {
            let inner = inner(Limits { message, ..limits });
            let question = Message::Question("q".into(), Question::Rooms);
            inner.deliver(Envelope::new("other".into(), NamespaceName::MAIN, question));
            let (_, waiting) = inner.queue.lock().waiting();
            let dropped = inner.counters.dropped.load(Ordering::Relaxed);
            assert_eq!((waiting, dropped), expected);
        }
    }

    #[tokio::test]
    async fn a_saved_socket_that_is_dropped_for_another_is_counted() {
        let inner = inner(Limits {
            queued: 4 * 1024,
            ..Limits::default()
        });
        for n in 0..10 {
            let socket = SavedSocket::with_data(n, 1024);
            drop(inner.save(socket, Duration::from_secs(60)));
        }
        let (_, waiting) = inner.queue.lock().waiting();
        let dropped = inner.counters.dropped.load(Ordering::Relaxed);
        assert_eq!((waiting, dropped), (2, 8));
        assert_eq!(inner.counters.saved.load(Ordering::Relaxed), 10);
    }

    const WINDOW: Duration = Duration::from_secs(120);

    fn inner_with_log(limits: Limits) -> Arc<Inner> {
        let counters = Counters::new(Observers::default());
        let inner = Inner::new(Handle::current(), limits, false, Some(WINDOW), counters);
        inner.set_connected();
        inner
    }

    #[tokio::test]
    async fn a_saved_socket_that_may_not_be_forgotten_is_forgotten_again_or_leaves_a_mark() {
        let limits = Limits {
            queued: 1024,
            ..Limits::default()
        };
        let inner = inner_with_log(limits);
        let id = PrivateId::new([1; 16]);
        let next = || inner.queue.lock().pop();
        drop(inner.forget(&NamespaceName::MAIN, id));
        for _ in 0..2 {
            let Some(Command::Take { key, taken }) = next() else {
                panic!("the socket is forgotten");
            };
            assert_eq!(&*key, id.expose());
            taken.failed(Unforgotten::Unknown);
        }
        // The queue is full, and the oldest commands are dropped.
        for _ in 0..100 {
            drop(inner.forget(&NamespaceName::MAIN, id));
        }
        let Some(Command::Gap { done, .. }) = next() else {
            panic!("the log says that messages are missing");
        };
        done.published();
        assert!(matches!(next(), Some(Command::Take { .. })));
        assert!(inner.counters.dropped.load(Ordering::Relaxed) > 0);
    }

    #[tokio::test]
    async fn a_socket_that_nobody_takes_any_longer_is_saved_again() {
        let inner = inner_with_log(Limits::default());
        let socket = SavedSocket::with_data(1, 0);
        let private_id = socket.private_id;
        let next = || inner.queue.lock().pop();
        let claim = inner.take(&private_id);
        let Some(Command::Take { taken, .. }) = next() else {
            panic!("the socket is taken out");
        };
        taken.found(socket.clone());
        drop(claim);
        let Some(Command::Save { socket, within }) = next() else {
            panic!("the socket is saved");
        };
        assert_eq!((socket.private_id, within), (private_id, WINDOW));

        // One that is taken is not.
        let claim = inner.take(&private_id);
        let Some(Command::Take { taken, .. }) = next() else {
            panic!("the socket is taken out");
        };
        taken.found(socket);
        assert!(claim.await.is_some());
        assert!(next().is_none());
    }

    #[tokio::test]
    async fn messages_that_a_log_has_lost_are_dropped_when_a_later_one_comes_back() {
        let (_layer, io) = crate::SocketIo::builder()
            .namespace("/", crate::Namespace::new())
            .recovery(crate::Recovery::within(Duration::from_secs(60)))
            .cluster(crate::cluster::Memory::with_log())
            .build();
        let (hub, counters) = (
            io.hub().expect("a server"),
            Counters::new(Observers::default()),
        );
        let (limits, window) = (Limits::default(), Some(Duration::from_secs(60)));
        let inner = Inner::new(Handle::current(), limits, false, window, counters);
        inner.attach(&hub);
        for number in [1, 2, 4] {
            let question = Message::Question("q".into(), Question::Rooms);
            let envelope = inner.envelope(&"/other".into(), question);
            inner.elsewhere.lock().insert(number, envelope);
        }
        inner.returned("/other", 2, Offset::new(2, 0));
        let left = || inner.elsewhere.lock().keys().copied().collect::<Vec<_>>();
        assert_eq!(left(), [1, 4]);
        inner.begin_log(Offset::new(3, 0));
        inner.returned("/other", 3, Offset::new(4, 0));
        assert_eq!(left(), [4]);
    }
}
