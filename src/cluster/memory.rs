//! A broker for the servers of one process.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use futures_core::future::BoxFuture;
use futures_util::future::{Either, select};
use tokio::sync::mpsc;

use super::{Broker, Command, Envelope, Inbox, Offset, Port, SavedSocket};
use crate::clock::now;
use crate::sync::Mutex;

/// A broker for several servers of one process, for tests. It is also the smallest example of a
/// [`Broker`].
///
/// ```
/// use tower_socketio::cluster::Memory;
/// use tower_socketio::{Namespace, SocketIo};
///
/// # let runtime = tokio::runtime::Runtime::new().unwrap();
/// # let _guard = runtime.enter();
/// let memory = Memory::new();
/// let server = || {
///     let namespace = Namespace::new();
///     SocketIo::builder().namespace("/", namespace).cluster(memory.clone()).build()
/// };
/// let ((layer_a, a), (layer_b, b)) = (server(), server());
/// // Reaches the clients of both servers.
/// a.emit("news", "hello");
/// ```
#[derive(Clone, Default)]
pub struct Memory {
    servers: Arc<Mutex<HashMap<Box<str>, Server>>>,
    /// `None` without a log.
    log: Option<Arc<Mutex<Log>>>,
}

struct Server {
    inbox: Inbox,
    namespaces: HashSet<Box<str>>,
    /// Takes the entries of the log.
    entries: mpsc::UnboundedSender<Entry>,
}

/// The log of all servers, and the saved sockets.
#[derive(Default)]
struct Log {
    entries: VecDeque<Entry>,
    last: u64,
    /// With the times until which they are kept.
    saved: HashMap<Box<str>, (SavedSocket, Option<Instant>)>,
}

/// A message, at its place in the log if it is there. Without a message, some are missing.
type Entry = (Option<Offset>, Option<Arc<Envelope>>);

/// How many entries the log keeps.
const MAX_ENTRIES: usize = 10_000;

impl Memory {
    /// Creates a broker without servers. Its clones connect the servers that use them.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a broker without servers that has a [log](Broker::has_log) of 10 000 messages: with
    /// [recovery](crate::Recovery) a client may come back to any of its servers.
    #[must_use]
    pub fn with_log() -> Self {
        Self {
            log: Some(Arc::default()),
            ..Self::default()
        }
    }

    /// Adds a server. Returns the entries of the log that it does not receive.
    fn register(&self, me: &str, server: Server) -> VecDeque<Entry> {
        let log = self.log.as_ref().map(|log| log.lock());
        let kept = log.as_ref().map(|log| log.entries.clone());
        self.servers.lock().insert(me.into(), server);
        kept.unwrap_or_default()
    }

    /// Adds an entry to the log, and passes it to all servers.
    fn append(&self, log: &Mutex<Log>, envelope: Option<Envelope>) {
        let mut log = log.lock();
        log.last += 1;
        let entry = (Some(Offset::new(log.last, 0)), envelope.map(Arc::new));
        log.entries.push_back(entry.clone());
        if log.entries.len() > MAX_ENTRIES {
            log.entries.pop_front();
        }
        for server in self.servers.lock().values() {
            // An error means that the broker of that server ends.
            let _ = server.entries.send(entry.clone());
        }
    }

    /// Returns the inboxes of the servers of a namespace, except for that of one server. With a log, the
    /// message waits behind the entries before it, and the result is empty.
    fn others(&self, envelope: &Envelope, except: &str) -> Vec<Inbox> {
        let servers = self.servers.lock();
        let others = servers.iter().filter(|(id, server)| {
            &***id != except && server.namespaces.contains(envelope.namespace())
        });
        let inbox = |(_, server): (_, &Server)| {
            if self.log.is_none() {
                return Some(server.inbox.clone());
            }
            // An error means that the broker of that server ends.
            let _ = server
                .entries
                .send((None, Some(Arc::new(envelope.clone()))));
            None
        };
        others.filter_map(inbox).collect()
    }

    fn count(&self, namespace: &str, only: Option<&str>) -> usize {
        let servers = self.servers.lock();
        let has = |server: &Server| server.namespaces.contains(namespace);
        match only {
            Some(only) => servers.get(only).is_some_and(has).into(),
            None => servers.values().filter(|server| has(server)).count(),
        }
    }

    async fn publish(&self, me: &str, envelope: &Envelope) {
        for inbox in self.others(envelope, me) {
            inbox.deliver(envelope.clone()).await;
        }
    }

    async fn handle(&self, me: &str, command: Command) {
        match command {
            Command::Open { namespace } => {
                if let Some(server) = self.servers.lock().get_mut(me) {
                    server.namespaces.insert(namespace.as_str().into());
                }
            }
            Command::Close { namespace } => {
                if let Some(server) = self.servers.lock().get_mut(me) {
                    server.namespaces.remove(namespace.as_str());
                }
            }
            Command::Publish { envelope, done } => {
                match &self.log {
                    Some(log) => self.append(log, Some(envelope)),
                    None => self.publish(me, &envelope).await,
                }
                done.published();
            }
            Command::Gap { done, .. } => {
                if let Some(log) = &self.log {
                    self.append(log, None);
                }
                done.published();
            }
            Command::Save { socket, within } => {
                if let Some(log) = &self.log {
                    let until = now().checked_add(within);
                    log.lock()
                        .saved
                        .insert(socket.key().into(), (socket, until));
                }
            }
            Command::Take { key, taken } => {
                let saved = self
                    .log
                    .as_ref()
                    .and_then(|log| log.lock().saved.remove(&key));
                let is_kept = |until: &Option<Instant>| until.is_none_or(|until| until > now());
                if let Some((socket, _)) = saved.filter(|(_, until)| is_kept(until)) {
                    taken.found(socket);
                }
            }
            Command::Ask { envelope, expect } => {
                expect.servers(self.count(envelope.namespace(), None));
                self.publish(me, &envelope).await;
            }
            Command::Answer { to, envelope } => {
                let inbox = self
                    .servers
                    .lock()
                    .get(&*to)
                    .map(|server| server.inbox.clone());
                if let Some(inbox) = inbox {
                    inbox.deliver(envelope).await;
                }
            }
            Command::Sync { synced } => synced.done(),
            // This broker does not want rooms.
            Command::Room { .. } => {}
            Command::Count {
                namespace,
                server,
                expect,
            } => expect.servers(self.count(&namespace, server.as_deref())),
        }
    }
}

impl Broker for Memory {
    fn has_log(&self) -> bool {
        self.log.is_some()
    }

    fn run(self: Arc<Self>, mut port: Port) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let me: Box<str> = port.server_id().into();
            let inbox = port.inbox();
            let (sender, mut entries) = mpsc::unbounded_channel();
            let server = Server {
                inbox: inbox.clone(),
                namespaces: HashSet::new(),
                entries: sender,
            };
            let kept = self.register(&me, server);
            let _registration = Registration(&self, &me);
            // An entry is kept as long as a later one is.
            let before = match kept.front() {
                Some((Some(first), _)) => Offset::new(first.high() - 1, 0),
                _ => Offset::default(),
            };
            inbox.begin_log(before);
            for (at, envelope) in kept {
                match (at, envelope) {
                    (Some(at), Some(envelope)) => inbox.keep_at((*envelope).clone(), at).await,
                    (Some(at), None) => inbox.begin_log(at),
                    (None, _) => {}
                }
            }
            inbox.connected();
            loop {
                // Entries first: an answer must not overtake the messages before it.
                let next = {
                    let entry = pin!(entries.recv());
                    let command = pin!(port.next());
                    match select(entry, command).await {
                        Either::Left((entry, _)) => Either::Left(entry),
                        Either::Right((command, _)) => Either::Right(command),
                    }
                };
                match next {
                    Either::Left(Some((at, envelope))) => {
                        read(&inbox, &me, at, envelope).await;
                    }
                    Either::Right(Some(command)) => self.handle(&me, command).await,
                    Either::Left(None) | Either::Right(None) => return,
                }
            }
        })
    }
}

/// Handles a message or a gap.
async fn read(inbox: &Inbox, me: &str, at: Option<Offset>, envelope: Option<Arc<Envelope>>) {
    match (envelope, at) {
        (Some(envelope), Some(at)) if envelope.sender() == me => {
            let (namespace, number) = (envelope.namespace(), envelope.number());
            inbox.returned(namespace, number, at).await;
        }
        (Some(envelope), Some(at)) => inbox.deliver_at((*envelope).clone(), at).await,
        (Some(envelope), None) => inbox.deliver((*envelope).clone()).await,
        (None, Some(at)) => inbox.begin_log(at),
        (None, None) => {}
    }
}

/// Removes a server when its broker ends.
struct Registration<'a>(&'a Memory, &'a str);

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        let server = self.0.servers.lock().remove(self.1);
        drop(server);
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers = self.servers.lock().len();
        f.debug_struct("Memory").field("servers", &servers).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_keeps_the_last_10_000_entries() {
        let memory = Memory::with_log();
        let log = memory.log.as_ref().expect("a log");
        for _ in 0..10_005 {
            memory.append(log, None);
        }
        let log = log.lock();
        assert_eq!((log.entries.len(), log.last), (10_000, 10_005));
    }
}
