//! Connections to one server of Redis, or to the nodes of a Redis Cluster.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use redis::aio::MultiplexedConnection;
use redis::{Client, Cmd, Pipeline, RedisError, RedisResult, Value};

use super::link::{self, Id, Sender};
use super::subscribed::Changes;

/// What an application connects to.
#[derive(Clone, Debug)]
pub(super) enum Endpoint {
    /// One server of Redis.
    One(Client),
    /// The nodes of a Redis Cluster.
    #[cfg_attr(
        not(feature = "redis-cluster"),
        expect(dead_code, reason = "the feature `redis-cluster` creates it")
    )]
    Cluster(Arc<dyn Seeds>),
}

impl Endpoint {
    /// Returns the connections of one server to a Redis Cluster. Returns `None` for one Redis.
    pub(super) fn nodes(&self) -> Option<Arc<dyn Nodes>> {
        match self {
            Self::One(_) => None,
            Self::Cluster(seeds) => Some(seeds.nodes()),
        }
    }
}

/// The nodes of a Redis Cluster that an application knows.
pub(super) trait Seeds: fmt::Debug + Send + Sync {
    /// Returns the connections of one server, which are not made yet.
    fn nodes(&self) -> Arc<dyn Nodes>;
}

/// The connections of one server to the nodes of a Redis Cluster. They are made when they are needed,
/// and again when they have ended.
pub(super) trait Nodes: fmt::Debug + Send + Sync {
    /// Finds the nodes.
    ///
    /// # Errors
    ///
    /// Fails if no node answers.
    fn find(&self) -> BoxFuture<'_, RedisResult<()>>;

    /// Sends the messages of subscriptions to `received` from now on.
    fn receive(&self, received: Sender);

    /// Makes and ends subscriptions. Returns when they are made, and before if a node is not there. It
    /// is made later then.
    fn change(&self, changes: Changes) -> BoxFuture<'_, RedisResult<()>>;

    /// Returns whether messages arrive for all subscriptions.
    fn has_all(&self) -> bool;

    /// Waits for a change of the connections.
    fn changed(&self) -> BoxFuture<'_, NodesChange>;

    /// Waits until all messages are received that were published before.
    fn flush(&self) -> BoxFuture<'_, RedisResult<()>>;

    /// Sends commands to the nodes of their slots, and returns their replies. A reply is `Value::Nil` if
    /// it is not known whether a message was published, or a socket saved or taken out.
    ///
    /// # Errors
    ///
    /// Fails if it is not known whether another command was carried out, or if its node is not there.
    fn send<'a>(&'a self, commands: &'a Pipeline) -> BoxFuture<'a, RedisResult<Vec<Value>>>;

    /// Sends a command to the node of its slot, and returns its reply. The command may read several
    /// streams, and wait for their entries.
    ///
    /// # Errors
    ///
    /// Fails if a node is not there.
    fn reply<'a>(&'a self, command: &'a Cmd) -> BoxFuture<'a, RedisResult<Value>>;
}

/// A change of the connections to the nodes of a Redis Cluster.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct NodesChange {
    /// Why messages of other servers may have been lost.
    pub(super) gap: Option<String>,
    /// Why messages are not received, or not sent. `None` if they are.
    pub(super) problem: Option<String>,
}

/// A connection to Redis, or the connections to the nodes of a Redis Cluster.
#[derive(Clone)]
pub(super) enum Connection {
    One(MultiplexedConnection),
    Cluster(Arc<dyn Nodes>),
}

impl Connection {
    /// Makes and ends subscriptions on the nodes of a Redis Cluster. Returns the changes for one Redis.
    pub(super) async fn change_nodes(&self, changes: Changes) -> RedisResult<Option<Changes>> {
        match self {
            Self::One(_) => Ok(Some(changes)),
            Self::Cluster(nodes) => nodes.change(changes).await.map(|()| None),
        }
    }

    /// Returns whether messages arrive for all subscriptions that were made.
    pub(super) fn has_all(&self) -> bool {
        match self {
            Self::One(_) => true,
            Self::Cluster(nodes) => nodes.has_all(),
        }
    }

    /// Waits for a change of the connections to the nodes of a Redis Cluster.
    pub(super) async fn changed(&self) -> NodesChange {
        match self {
            Self::One(_) => std::future::pending().await,
            Self::Cluster(nodes) => nodes.changed().await,
        }
    }

    /// Waits until all messages are received that were published before.
    pub(super) async fn flush(&mut self) -> RedisResult<()> {
        if let Self::Cluster(nodes) = self {
            return nodes.flush().await;
        }
        // The answer comes after everything that was published before.
        let mut ping = Pipeline::new();
        ping.cmd("PING");
        send(self, &ping, 0).await.map(drop)
    }
}

/// A connection to Redis.
pub(super) struct Link {
    pub(super) connection: Connection,
    id: Option<Id>,
}

impl Link {
    /// Connects. Messages of subscriptions go to `received`.
    pub(super) async fn connect(client: &Client, received: Option<Sender>) -> RedisResult<Self> {
        let mut config = link::config();
        if let Some(received) = received {
            config = config.set_push_sender(move |message| received.send(message));
        }
        let (connection, id) = link::open(client, &config).await?;
        Ok(Self {
            connection: Connection::One(connection),
            id,
        })
    }

    /// Uses the connections to the nodes of a Redis Cluster.
    pub(super) fn to_nodes(nodes: &Arc<dyn Nodes>) -> Self {
        Self {
            connection: Connection::Cluster(Arc::clone(nodes)),
            id: None,
        }
    }

    /// Returns when the connection does not answer in time, unless `is_active` says that it is alive.
    pub(super) async fn watch(
        connection: Connection,
        is_active: impl FnMut() -> bool,
    ) -> RedisError {
        match connection {
            Connection::One(connection) => link::watch(connection, is_active).await,
            // Each of them is watched on its own.
            Connection::Cluster(_) => std::future::pending().await,
        }
    }

    pub(super) fn take_id(&mut self) -> Option<Id> {
        self.id.take()
    }

    /// Ends former connections of this server: see [`link::kill`].
    pub(super) async fn kill(&mut self, former: &mut Vec<Option<Id>>) -> RedisResult<()> {
        match &mut self.connection {
            Connection::One(connection) => link::kill(connection, former).await,
            Connection::Cluster(_) => Ok(()),
        }
    }
}

/// Sends a command. A refusal is a reply.
pub(super) async fn reply_within(
    timeout: Duration,
    connection: &mut Connection,
    command: &Cmd,
) -> RedisResult<Value> {
    match connection {
        Connection::One(connection) => link::reply_within(timeout, connection, command).await,
        Connection::Cluster(nodes) => {
            let reply = tokio::time::timeout(timeout, nodes.reply(command)).await;
            reply.unwrap_or_else(|_| Err(link::NO_ANSWER.into()))
        }
    }
}

/// Sends commands, and returns their replies. A refused command has an error as its reply. `bytes` is
/// their length, about.
pub(super) async fn send(
    connection: &mut Connection,
    commands: &Pipeline,
    bytes: usize,
) -> RedisResult<Vec<Value>> {
    // The client refuses a pipeline without commands.
    if commands.is_empty() {
        return Ok(Vec::new());
    }
    match connection {
        Connection::One(connection) => link::send(connection, commands, bytes).await,
        Connection::Cluster(nodes) => nodes.send(commands).await,
    }
}

/// The connections of a server, when it begins to use them.
pub(super) struct Links {
    pub(super) publisher: Link,
    pub(super) subscriber: Link,
    /// The connection that waits for entries of streams.
    pub(super) reader: Option<Link>,
}

impl Links {
    /// Connects to one Redis, and ends the former connections.
    pub(super) async fn to_one(
        client: &Client,
        received: Sender,
        reads: bool,
        former: &mut Vec<Option<Id>>,
    ) -> RedisResult<Self> {
        let mut publisher = Link::connect(client, None).await?;
        publisher.kill(former).await?;
        former.push(publisher.take_id());
        let mut subscriber = Link::connect(client, Some(received)).await?;
        former.push(subscriber.take_id());
        let mut reader = None;
        if reads {
            let mut link = Link::connect(client, None).await?;
            former.push(link.take_id());
            reader = Some(link);
        }
        Ok(Self {
            publisher,
            subscriber,
            reader,
        })
    }

    /// Finds the nodes of a Redis Cluster.
    pub(super) async fn to_cluster(
        nodes: &Arc<dyn Nodes>,
        received: Sender,
        reads: bool,
    ) -> RedisResult<Self> {
        nodes.find().await?;
        nodes.receive(received);
        Ok(Self {
            publisher: Link::to_nodes(nodes),
            subscriber: Link::to_nodes(nodes),
            reader: reads.then(|| Link::to_nodes(nodes)),
        })
    }
}
