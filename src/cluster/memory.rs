//! A broker for the servers of one process.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use futures_core::future::BoxFuture;

use super::{Broker, Command, Envelope, Inbox, Port};
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
}

struct Server {
    inbox: Inbox,
    namespaces: HashSet<Box<str>>,
}

impl Memory {
    /// Creates a broker without servers. Its clones connect the servers that use them.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the inboxes of the servers of a namespace, except for that of one server.
    fn others(&self, namespace: &str, except: &str) -> Vec<Inbox> {
        let servers = self.servers.lock();
        let others = servers
            .iter()
            .filter(|(id, server)| &***id != except && server.namespaces.contains(namespace));
        others.map(|(_, server)| server.inbox.clone()).collect()
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
        for inbox in self.others(envelope.namespace(), me) {
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
                self.publish(me, &envelope).await;
                done.published();
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
    fn run(self: Arc<Self>, mut port: Port) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let me: Box<str> = port.server_id().into();
            let inbox = port.inbox();
            let server = Server {
                inbox: inbox.clone(),
                namespaces: HashSet::new(),
            };
            self.servers.lock().insert(me.clone(), server);
            let _registration = Registration(&self, &me);
            inbox.connected();
            while let Some(command) = port.next().await {
                self.handle(&me, command).await;
            }
        })
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
