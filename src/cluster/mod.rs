//! Several servers as one.
//!
//! A [`Broker`] carries messages between servers. With one, the operations of a
//! [`Broadcast`](crate::Broadcast) reach the clients of all servers, unless it is
//! [`local`](crate::Broadcast::local). [`SocketIoBuilder::cluster`](crate::SocketIoBuilder::cluster)
//! sets it.
//!
//! | broker | servers |
//! |---|---|
//! | [`Memory`] | those of one process, for tests |
//! | `Postgres`, with the feature `postgres` | those of this crate and of Node with `@socket.io/postgres-adapter` |
//! | `Redis`, with the feature `redis` | those of this crate and of Node with `@socket.io/redis-adapter` or `@socket.io/redis-streams-adapter` |
//! | `Redis::cluster`, with the feature `redis-cluster` | the same, on a Redis Cluster |
//!
//! # What a cluster does
//!
//! - `emit`, `join`, `leave`, `disconnect` and `close` of a broadcast act on the sockets of all
//!   servers. On this server they act at once; the broker carries them to the others. What one task
//!   does in one namespace arrives at each other server in the order of the calls.
//! - `emit_with_ack` asks the clients of all servers.
//! - [`fetch_sockets`](crate::Broadcast::fetch_sockets) returns the sockets of all servers.
//! - [`server_side_emit`](crate::Broadcast::server_side_emit) sends an event to the other servers;
//!   [`Namespace::on_server_event`](crate::Namespace::on_server_event) handles it.
//! - [`SocketIo::cluster`](crate::SocketIo::cluster) returns the state of the connection, with
//!   counters.
//!
//! `Broadcast::sockets` and `Broadcast::rooms` are about this process alone.
//!
//! `cluster::Emitter`, with the feature `redis`, sends from a process without sockets.
//!
//! # When the broker is not connected
//!
//! The server goes on, and its own clients notice nothing. Messages for other servers wait, up to
//! 16 MiB; then the oldest are dropped, counted in [`ClusterStatus::dropped`] and logged. Messages of
//! more than 4 MiB have a limit of their own, 64 MiB. Volatile events are dropped at once. A question
//! to other servers fails at once.
//!
//! # A broker of your own
//!
//! A broker is one future, [`Broker::run`]. It takes commands out of a [`Port`] and puts the
//! messages of other servers into an [`Inbox`]. The server does the rest: it queues messages,
//! bounds their memory, matches answers to questions and counts lost messages. The source of
//! [`Memory`] is an example: the link "Source" on its page shows it. With the feature `wire`, an
//! [`Envelope`] can be written as bytes; with the feature `testing`, `testing::conformance` checks what
//! every broker must do. The page `docs/cluster.md` of the repository has a complete broker with the
//! rules for one, and says how to deploy a cluster.

#[cfg(any(feature = "postgres", feature = "redis"))]
mod backoff;
mod command;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod connect_error;
mod counters;
mod ended_rooms;
mod inner;
mod memory;
mod message;
#[cfg(tower_socketio_model)]
#[path = "../models/broker.rs"]
mod model;
mod new_rooms;
mod port;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
mod requests;
mod status;
#[cfg(feature = "wire")]
mod wire;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use futures_core::future::BoxFuture;
use tokio::runtime::Handle;

pub use self::command::{Command, Done, Expect, Synced, Taken};
#[cfg(any(feature = "postgres", feature = "redis"))]
pub use self::connect_error::ConnectError;
use self::counters::Counters;
use self::inner::{Inner, Limits};
pub use self::memory::Memory;
pub use self::message::Envelope;
use self::message::Message;
pub use self::port::{Inbox, Port};
#[cfg(feature = "postgres")]
pub use self::postgres::{Postgres, PostgresOptions};
#[cfg(feature = "redis")]
pub use self::redis::{Emitter, Mode, Redis, RedisOptions, Streams, Subscriptions};
pub use self::status::{ClusterHealth, ClusterStatus};
#[cfg(all(feature = "wire", feature = "unstable-internals"))]
#[doc(hidden)]
pub use self::wire::{
    classic::rewrite as rewrite_classic, entry::rewrite as rewrite_entry,
    notification::rewrite as rewrite_notification,
};
use crate::engine_io::SocketId;
use crate::handles::SocketIo;
use crate::hub::observer::Observers;
use crate::hub::other_servers::{
    Answers, ClaimOutcome, Confirm, Dropped, Here, Operation, OtherServers, Question, Sent,
};
use crate::hub::recovery::PrivateId;
pub use crate::hub::recovery::{Offset, SavedSocket};
use crate::hub::selection::Target;
use crate::hub::{ClusterError, Hub};
use crate::protocol::{NamespaceName, Payload};

/// Carries messages between the servers of a cluster.
pub trait Broker: fmt::Debug + Send + Sync + 'static {
    /// Runs the broker of one server until [`Port::next`] returns `None`.
    ///
    /// The future connects by itself, and connects again when its connection ends. It reports both
    /// to the [`Inbox`]. It handles the commands in order, and delivers the messages of each other
    /// server in the order in which that server has published them. If it ends early, the server
    /// goes on alone. [`SocketIo::close`](crate::SocketIo::close) waits for it, for at most 5
    /// seconds, and does not cancel it.
    fn run(self: Arc<Self>, port: Port) -> BoxFuture<'static, ()>;

    /// Returns whether the broker gets [`Command::Room`] when a room begins or ends on its server. A
    /// broker that sends the messages for a room only to the servers that have it needs that, and
    /// [`Envelope::room`].
    ///
    /// The default is `false`.
    fn wants_rooms(&self) -> bool {
        false
    }

    /// Returns why the broker cannot carry the messages of a namespace, or `None` if it can.
    /// [`SocketIoBuilder::build`](crate::SocketIoBuilder::build) panics with that reason if the namespace
    /// has no parameters. A namespace with parameters, or of
    /// [`namespace_if`](crate::SocketIoBuilder::namespace_if), opens all the same.
    ///
    /// The default is `None`.
    fn refuses(&self, _namespace: &str) -> Option<String> {
        None
    }

    /// Returns whether the broker has a log: a list of the messages of all servers, in one order for each
    /// namespace, in which a server can read what it has missed. Clients then
    /// [recover](crate::Recovery) on any server.
    ///
    /// Such a broker gives each [`Publish`](Command::Publish) an [`Offset`]. It calls
    /// [`Inbox::deliver_at`] in place of [`Inbox::deliver`] for the messages of other servers, and
    /// [`Inbox::returned`] for those of its own server, in the order of the log. It keeps the sockets of
    /// [`Command::Save`]. If [`Port::log_window`] returns a time, it begins by [`Inbox::begin_log`], and
    /// reads what came into the log in that time before: see [`Inbox::keep_at`].
    ///
    /// The default is `false`.
    fn has_log(&self) -> bool {
        false
    }
}

/// The broker of a server that is being built.
pub(crate) struct BoxBroker {
    wants_rooms: bool,
    has_log: bool,
    refuses: Refuses,
    run: Box<dyn FnOnce(Port) -> BoxFuture<'static, ()> + Send>,
}

type Refuses = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

impl BoxBroker {
    /// See [`Broker::refuses`].
    pub(crate) fn refuses(&self, namespace: &str) -> Option<String> {
        (self.refuses)(namespace)
    }
}

pub(crate) fn boxed(broker: impl Broker) -> BoxBroker {
    let broker = Arc::new(broker);
    BoxBroker {
        wants_rooms: broker.wants_rooms(),
        has_log: broker.has_log(),
        refuses: {
            let broker = Arc::clone(&broker);
            Box::new(move |namespace| broker.refuses(namespace))
        },
        run: Box::new(move |port| broker.run(port)),
    }
}

/// One server's membership in a cluster. Dropping it ends the broker.
#[derive(Debug)]
pub(crate) struct Cluster {
    inner: Arc<Inner>,
    wants_rooms: bool,
    has_log: bool,
}

/// How often the servers are counted again while a question waits for them, and ended rooms are closed.
const TICK: Duration = Duration::from_millis(750);

/// How long the queue of messages may take to leave when the server closes.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

impl Cluster {
    /// Starts the broker. `recovery` is how long a client may be away.
    ///
    /// # Panics
    ///
    /// Panics if it is not called in a tokio runtime.
    #[track_caller]
    pub(crate) fn start(
        broker: BoxBroker,
        recovery: Option<Duration>,
        observers: Observers,
    ) -> Self {
        let Ok(runtime) = Handle::try_current() else {
            panic!("a server with a cluster must be built in a tokio runtime");
        };
        let BoxBroker {
            wants_rooms,
            has_log,
            run,
            ..
        } = broker;
        let log_window = recovery.filter(|_| has_log);
        let inner = Inner::new(
            runtime.clone(),
            Limits::default(),
            wants_rooms,
            log_window,
            Counters::new(observers),
        );
        let port = Port {
            inner: Arc::clone(&inner),
        };
        let ended = BrokerEnded(Arc::clone(&inner));
        runtime.spawn(async move {
            let _ended = ended;
            // What the broker says first, such as where its log begins, is for the hub.
            port.inner.attached.notified().await;
            run(port).await;
        });
        let weak = Arc::downgrade(&inner);
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(TICK).await;
                let Some(inner) = weak.upgrade() else { return };
                inner.recount();
                inner.close_rooms();
                inner.tick_recovery();
            }
        });
        Self {
            inner,
            wants_rooms,
            has_log,
        }
    }
}

impl SocketIo {
    /// Returns the health of the connection to the other servers. Returns `None` without a
    /// [cluster](crate::cluster).
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterHealth> {
        let hub = self.hub()?;
        let cluster = hub.others.as_ref()?.as_any().downcast_ref::<Cluster>()?;
        Some(ClusterHealth::new(&cluster.inner))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.inner.close();
    }
}

/// Records the end of the broker when it is dropped, also by a panic.
struct BrokerEnded(Arc<Inner>);

impl Drop for BrokerEnded {
    fn drop(&mut self) {
        self.0.broker_ended();
    }
}

impl OtherServers for Cluster {
    fn attach(&self, hub: &Arc<Hub>) {
        self.inner.attach(hub);
    }

    fn namespace_opened(&self, name: &NamespaceName) {
        let namespace = name.clone();
        self.inner.push(Command::Open { namespace });
    }

    fn namespace_closed(&self, name: &NamespaceName) {
        self.inner.close_namespace(name);
    }

    fn wants_rooms(&self) -> bool {
        self.wants_rooms
    }

    fn room_changed(&self, namespace: &NamespaceName, room: Arc<str>, exists: bool) {
        self.inner.push(Command::Room {
            namespace: namespace.clone(),
            room,
            exists,
        });
    }

    fn synced(&self) -> Option<BoxFuture<'static, Result<(), ClusterError>>> {
        self.inner.synced()
    }

    fn send(
        &self,
        namespace: &NamespaceName,
        target: &Target,
        operation: &Operation,
        confirm: Option<Confirm>,
        here: Here,
    ) -> Result<Sent, ClusterError> {
        let message = Message::Operation(target.clone(), operation.clone());
        self.inner.publish(namespace, message, confirm, here)
    }

    fn has_log(&self) -> bool {
        self.has_log
    }

    fn is_connected(&self) -> bool {
        self.inner.is_connected()
    }

    fn save(&self, socket: SavedSocket, within: Duration) -> Dropped {
        self.inner.save(socket, within)
    }

    fn take(&self, id: &PrivateId) -> BoxFuture<'static, Option<SavedSocket>> {
        self.inner.take(id)
    }

    fn forget(&self, namespace: &NamespaceName, id: PrivateId) -> Dropped {
        self.inner.forget(namespace, id)
    }

    fn displace(&self, namespace: &NamespaceName, id: &SocketId, at: Offset) {
        self.inner.displace(namespace, id, at);
    }

    fn count_claim(&self, outcome: ClaimOutcome) {
        self.inner.counters.claim(outcome);
    }

    fn send_server_event(
        &self,
        namespace: &NamespaceName,
        event: Payload,
    ) -> Result<(), ClusterError> {
        self.inner
            .publish(namespace, Message::ServerEvent(event), None, Here::AtOnce)
            .map(|sent| drop(sent.dropped))
    }

    fn ask(&self, namespace: &NamespaceName, question: Question) -> Result<Answers, ClusterError> {
        self.inner.ask(namespace, question)
    }

    fn count(&self, namespace: &NamespaceName) -> BoxFuture<'static, Result<usize, ClusterError>> {
        self.inner.count(namespace)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        self.inner.close();
        let ended = Arc::clone(&self.inner).ended();
        Box::pin(async move {
            // Beyond the timeout the broker goes on by itself, as long as the runtime does.
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, ended).await;
        })
    }
}
