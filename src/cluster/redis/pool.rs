//! Connections to the nodes of a Redis Cluster, each for one purpose.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, RedisError, RedisResult,
};
use tokio::task::JoinHandle;

use super::link::{self, Id};
use super::slots::Address;
use crate::clock::now;
use crate::sync::Mutex;

/// How long a node may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a node that was not there is not tried again: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The connections for one purpose, at most one for each key.
pub(super) struct Pool {
    /// The user, the password and the other settings of all nodes.
    info: ConnectionInfo,
    entries: Mutex<HashMap<Key, Arc<Entry>>>,
    next_generation: AtomicU64,
}

/// A node, and what its connection is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) address: Address,
    /// The stream that it reads. Empty for other connections.
    pub(super) stream: Arc<str>,
}

impl From<&Address> for Key {
    fn from(address: &Address) -> Self {
        Self {
            address: address.clone(),
            stream: "".into(),
        }
    }
}

#[derive(Default)]
struct Entry {
    state: Mutex<State>,
    /// One task connects at a time. It holds the ids of the former connections.
    connecting: tokio::sync::Mutex<Vec<Option<Id>>>,
}

#[derive(Default)]
struct State {
    open: Option<(Open, Task)>,
    failed: Option<Failed>,
}

/// The last attempt to connect.
struct Failed {
    error: RedisError,
    pause: Duration,
    until: Instant,
}

/// An open connection.
#[derive(Clone)]
pub(super) struct Open {
    pub(super) connection: MultiplexedConnection,
    /// Distinguishes it from other connections to the same node.
    pub(super) generation: u64,
    pub(super) activity: Arc<Activity>,
}

/// What shows that a connection is alive when a check is late.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// The commands that wait for their replies, each with a time of its own.
    pub(super) in_flight: AtomicUsize,
    /// How many messages have arrived.
    pub(super) received: AtomicUsize,
}

impl Activity {
    /// Records that commands wait for their replies, until the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }
}

/// Commands that wait for their replies.
pub(super) struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A task that ends when this is dropped.
#[derive(Debug)]
pub(super) struct Task(JoinHandle<()>);

impl Task {
    pub(super) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Pool {
    pub(super) fn new(info: ConnectionInfo) -> Self {
        Self {
            info,
            entries: Mutex::default(),
            next_generation: AtomicU64::new(0),
        }
    }

    /// Returns the connection to a node, and makes it if there is none. `configure` gets its generation
    /// and its activity. `on_end` is called if the node does not answer any longer.
    ///
    /// # Errors
    ///
    /// Fails if the node is not there. It is not tried again for a while.
    pub(super) async fn get(
        &self,
        key: &Key,
        configure: impl FnOnce(AsyncConnectionConfig, u64, &Arc<Activity>) -> AsyncConnectionConfig,
        on_end: impl FnOnce(u64, RedisError) + Send + 'static,
    ) -> RedisResult<Open> {
        let entry = Arc::clone(self.entries.lock().entry(key.clone()).or_default());
        if let Some(open) = entry.open() {
            return Ok(open);
        }
        let mut former = entry.connecting.lock().await;
        if let Some(open) = entry.open() {
            return Ok(open);
        }
        entry.check_pause()?;
        let generation = self.next_generation.fetch_add(1, Ordering::Relaxed);
        let activity = Arc::<Activity>::default();
        let config = link::config().set_connection_timeout(Some(CONNECT_TIMEOUT));
        let config = configure(config, generation, &activity);
        let connection = match self.connect(key, &config, &mut former).await {
            Ok(connection) => connection,
            Err(error) => return Err(entry.fail(error)),
        };
        let open = Open {
            connection,
            generation,
            activity,
        };
        let watched = watch(open.clone());
        let watch = Task::spawn(async move { on_end(generation, watched.await) });
        let mut state = entry.state.lock();
        state.open = Some((open.clone(), watch));
        state.failed = None;
        Ok(open)
    }

    async fn connect(
        &self,
        key: &Key,
        config: &AsyncConnectionConfig,
        former: &mut Vec<Option<Id>>,
    ) -> RedisResult<MultiplexedConnection> {
        let address = match self.info.addr().clone() {
            ConnectionAddr::TcpTls {
                insecure,
                tls_params,
                ..
            } => ConnectionAddr::TcpTls {
                host: key.address.host.to_string(),
                port: key.address.port,
                insecure,
                tls_params,
            },
            _ => ConnectionAddr::Tcp(key.address.host.to_string(), key.address.port),
        };
        let client = Client::open(self.info.clone().set_addr(address))?;
        let (mut connection, id) = link::open(&client, config).await?;
        link::kill(&mut connection, former).await?;
        former.push(id);
        Ok(connection)
    }

    /// Forgets a connection that has ended.
    pub(super) fn forget(&self, key: &Key, generation: u64) {
        let entry = self.entries.lock().get(key).cloned();
        let ended = entry.and_then(|entry| {
            let mut state = entry.state.lock();
            let is_open = |open: &mut (Open, Task)| open.0.generation == generation;
            state.open.take_if(is_open)
        });
        drop(ended);
    }

    /// Returns the open connections.
    pub(super) fn all(&self) -> Vec<Open> {
        let entries: Vec<_> = self.entries.lock().values().cloned().collect();
        entries.iter().filter_map(|entry| entry.open()).collect()
    }

    /// Closes the connections to nodes that are not there any longer.
    pub(super) fn retain(&self, is_there: impl Fn(&Address) -> bool) {
        let mut entries = self.entries.lock();
        let all = std::mem::take(&mut *entries).into_iter();
        let (there, gone) = all.partition(|(key, _)| is_there(&key.address));
        *entries = there;
        drop(entries);
        // Connections end without the lock.
        drop::<HashMap<_, _>>(gone);
    }
}

impl Entry {
    fn open(&self) -> Option<Open> {
        let state = self.state.lock();
        state.open.as_ref().map(|(open, _)| open.clone())
    }

    /// Fails if the node was not there a moment ago.
    fn check_pause(&self) -> RedisResult<()> {
        match &self.state.lock().failed {
            Some(failed) if now() < failed.until => Err(failed.error.clone()),
            _ => Ok(()),
        }
    }

    fn fail(&self, error: RedisError) -> RedisError {
        let mut state = self.state.lock();
        let pause = state
            .failed
            .as_ref()
            .map_or(PAUSE.0, |failed| 2 * failed.pause);
        let pause = pause.min(PAUSE.1);
        state.failed = Some(Failed {
            error: error.clone(),
            pause,
            until: now() + pause,
        });
        error
    }
}

/// Returns when a connection does not answer any longer.
async fn watch(open: Open) -> RedisError {
    let mut before = 0;
    let activity = open.activity;
    let is_active = move || {
        let received = activity.received.load(Ordering::Relaxed);
        let is_sending = activity.in_flight.load(Ordering::Relaxed) > 0;
        std::mem::replace(&mut before, received) != received || is_sending
    };
    link::watch(open.connection, is_active).await
}
