//! The broker Redis, in the forms of Node's adapters.
//!
//! | file | |
//! |---|---|
//! | [`run`] | the broker of one server |
//! | [`link`] | its connections |
//! | [`subscribed`] | the subscriptions that it wants |
//! | [`batch`] | the messages that leave together |
//! | [`log`] | what it reads of streams, and adds to them |
//! | [`entries`] | the entries of streams, as Redis sends them |
//! | [`form`] | what differs between the adapters |
//! | [`classic`], [`sharded`], [`streams`] | the forms |
//! | [`emitter`] | a sender without sockets |
//! | [`connection`] | one server of Redis, or the nodes of a Redis Cluster |
//!
//! With the feature `redis-cluster`:
//!
//! | file | |
//! |---|---|
//! | `slots` | the slots of a Redis Cluster, and their masters |
//! | `nodes` | the connections to all nodes |
//! | `masters` | the commands that are sent to the masters of their slots |
//! | `stream_reads` | reads of streams on several nodes |
//! | `channels` | the subscriptions on each node |
//! | `receiving` | makes them, and again when their slots move |
//! | `pool` | the connections to the nodes |

mod batch;
#[cfg(feature = "redis-cluster")]
mod channels;
mod classic;
mod connection;
mod emitter;
mod entries;
mod form;
mod link;
mod log;
#[cfg(feature = "redis-cluster")]
mod masters;
#[cfg(feature = "redis-cluster")]
mod nodes;
#[cfg(feature = "redis-cluster")]
mod pool;
#[cfg(feature = "redis-cluster")]
mod receiving;
mod run;
mod sharded;
#[cfg(feature = "redis-cluster")]
mod slots;
#[cfg(feature = "redis-cluster")]
mod stream_reads;
mod streams;
mod subscribed;

use std::fmt;
use std::sync::Arc;

use futures_core::future::BoxFuture;
use redis::RedisResult;

use self::classic::Classic;
use self::connection::{Endpoint, Link};
pub use self::emitter::Emitter;
use self::form::{Form, SubscriptionKind};
use self::sharded::{Channels, Sharded};
use self::streams::StreamsForm;
use super::backoff::Backoff;
use super::{Broker, ConnectError, Port};

/// Redis as the broker of a cluster. It speaks the protocols of Node's `@socket.io/redis-adapter` and
/// `@socket.io/redis-streams-adapter`, so servers of this crate and of Node can be one cluster.
///
/// It needs the feature `redis`, Rust 1.88, and Redis 6 or later (7 or later for [`Mode::Sharded`]) or
/// Valkey.
///
/// ```no_run
/// use tower_socketio::cluster::Redis;
/// use tower_socketio::{Namespace, SocketIo};
///
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let redis = Redis::connect("redis://127.0.0.1").await?;
/// let (layer, io) = SocketIo::builder()
///     .namespace("/", Namespace::new())
///     .cluster(redis)
///     .build();
/// # Ok(()) }
/// ```
///
/// The [`Mode`] says how messages are carried. All servers of a cluster must have the same one. While
/// Redis is not connected the messages of this server wait. The broker connects again by itself, after
/// 50 ms to 5 s.
#[derive(Clone)]
pub struct Redis {
    endpoint: Endpoint,
    form: Arc<dyn Form>,
}

/// How the servers of a cluster use [`Redis`].
///
/// | mode | Node's adapter | a broadcast reaches | after an outage |
/// |---|---|---|---|
/// | [`Classic`](Self::Classic) | `createAdapter` of `@socket.io/redis-adapter` | all servers | the messages of the outage are lost |
/// | [`Sharded`](Self::Sharded) | `createShardedAdapter` of `@socket.io/redis-adapter` | all servers, or those with a socket in the room | the messages of the outage are lost |
/// | [`Streams`](Self::Streams) | `@socket.io/redis-streams-adapter` | all servers | no message is lost while the stream keeps it |
///
/// Where messages are lost, [`ClusterStatus::gaps`](super::ClusterStatus::gaps) counts the outage.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Mode {
    /// Pub/sub. This is the default.
    #[default]
    Classic,
    /// Sharded pub/sub, for Redis 7 or later. Node has no emitter for it; [`Emitter`] reaches it.
    Sharded(Subscriptions),
    /// Streams for messages, and pub/sub for questions and their answers.
    Streams(Streams),
}

/// The channels that a server subscribes to in [`Mode::Sharded`]. All servers must have the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Subscriptions {
    /// Two channels for each namespace. Every server gets every message.
    Static,
    /// Also one for each room with a socket on this server, unless its name has 20 characters as the
    /// id of a socket has. A broadcast to one room reaches only the servers that have the room. This
    /// is the default.
    #[default]
    Dynamic,
    /// Also one for each socket.
    DynamicPrivate,
}

/// The options of [`Mode::Streams`]. All servers must have the same.
///
/// ```
/// use tower_socketio::cluster::{Mode, Redis, Streams};
///
/// # fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let redis = Redis::options("redis://127.0.0.1")
///     .mode(Mode::Streams(Streams::new().max_len(100_000)))
///     .connect_lazily()?;
/// # Ok(()) }
/// # f().unwrap();
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Streams {
    name: String,
    count: u32,
    max_len: u64,
    uses_sharded_pub_sub: bool,
    saved_prefix: String,
}

impl Streams {
    /// Creates the default options, those of Node's adapter.
    pub fn new() -> Self {
        Self {
            name: "socket.io".to_owned(),
            count: 1,
            max_len: 10_000,
            uses_sharded_pub_sub: false,
            saved_prefix: "sio:session:".to_owned(),
        }
    }

    /// Sets the name of the stream: the option `streamName` of Node's adapter, with the `keyPrefix`
    /// of its client `ioredis` in front.
    ///
    /// Default: `socket.io`.
    pub fn name(mut self, name: &str) -> Self {
        self.name = name.to_owned();
        self
    }

    /// Sets the number of streams: the option `streamCount` of Node's adapter. Each namespace uses one
    /// of them. With several, clients [recover](crate::Recovery) on the same server only.
    ///
    /// Default: 1.
    ///
    /// # Panics
    ///
    /// Panics if it is 0 or more than 1 000.
    #[track_caller]
    pub fn count(mut self, count: u32) -> Self {
        assert!(
            (1..=1_000).contains(&count),
            "the number of streams must be between 1 and 1000"
        );
        self.count = count;
        self
    }

    /// Sets the number of entries that a stream keeps, about. A server that was away for longer than
    /// these last has lost messages, and counts a gap.
    ///
    /// Default: 10 000.
    ///
    /// # Panics
    ///
    /// Panics if the number is 0.
    #[track_caller]
    pub fn max_len(mut self, entries: u64) -> Self {
        assert!(entries > 0, "a stream needs to keep entries");
        self.max_len = entries;
        self
    }

    /// Sets the prefix of the keys of saved sockets, which [recovery](crate::Recovery) needs: the option
    /// `sessionKeyPrefix` of Node's adapter, with the `keyPrefix` of its client `ioredis` in front.
    ///
    /// Default: `sio:session:`.
    pub fn session_prefix(mut self, prefix: &str) -> Self {
        self.saved_prefix = prefix.to_owned();
        self
    }

    /// Sets whether questions and answers use sharded pub/sub: the option `useShardedPubSub` of
    /// Node's adapter.
    ///
    /// Default: `false`.
    pub fn sharded_pub_sub(mut self, sharded: bool) -> Self {
        self.uses_sharded_pub_sub = sharded;
        self
    }
}

impl Default for Streams {
    fn default() -> Self {
        Self::new()
    }
}

impl Mode {
    fn form(&self, prefix: &str) -> Arc<dyn Form> {
        let channels = |kind| Channels {
            prefix: prefix.into(),
            kind,
        };
        match self {
            Self::Classic => Arc::new(Classic {
                prefix: prefix.into(),
            }),
            Self::Sharded(subscriptions) => Arc::new(Sharded {
                channels: channels(SubscriptionKind::Sharded),
                subscriptions: *subscriptions,
            }),
            Self::Streams(streams) => Arc::new(StreamsForm {
                channels: channels(match streams.uses_sharded_pub_sub {
                    true => SubscriptionKind::Sharded,
                    false => SubscriptionKind::Channel,
                }),
                name: streams.name.clone(),
                count: streams.count,
                max_len: streams.max_len,
                saved_prefix: streams.saved_prefix.clone(),
            }),
        }
    }
}

/// The options of [`Redis`]. [`Redis::options`] returns them.
#[derive(Clone, Debug)]
#[must_use]
pub struct RedisOptions {
    urls: Vec<String>,
    is_cluster: bool,
    prefix: String,
    mode: Mode,
}

impl Redis {
    /// Connects to Redis, with the default options.
    ///
    /// The URL is `redis://[user:password@]host[:port][/database]`.
    ///
    /// # Errors
    ///
    /// Fails if the URL is malformed, if Redis cannot be reached, or if it refuses the password.
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        Self::options(url).connect().await
    }

    /// Returns the default options for a URL.
    pub fn options(url: &str) -> RedisOptions {
        RedisOptions::new(vec![url.to_owned()])
    }

    /// Returns the default options for a Redis Cluster, with the URLs of some of its nodes. The others are
    /// found. Needs the feature `redis-cluster`.
    ///
    /// The nodes are tried in their order. The user and the password of the first URL are those of all
    /// nodes. A Redis Cluster has only the database 0.
    ///
    /// The broker finds the masters of the slots by `CLUSTER SHARDS`, before Redis 7 by `CLUSTER SLOTS`. It
    /// asks again every 30 seconds, and whenever a node refuses a command or is not there. The servers need
    /// to reach every node by the address that the nodes announce.
    ///
    /// ```no_run
    /// use tower_socketio::cluster::{Mode, Redis, Subscriptions};
    ///
    /// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
    /// let redis = Redis::cluster(["redis://10.0.0.1:6379", "redis://10.0.0.2:6379"])
    ///     .mode(Mode::Sharded(Subscriptions::Dynamic))
    ///     .connect()
    ///     .await?;
    /// # Ok(()) }
    /// ```
    ///
    /// [`Mode::Sharded`] spreads the messages over the masters: channels belong to slots. With
    /// [`Subscriptions::Dynamic`] and [`Subscriptions::DynamicPrivate`] the rooms of one namespace are on
    /// several masters, so messages to one room keep their order, but messages to different rooms may
    /// overtake each other. A prefix in braces, `{chat}`, keeps all channels on one master, and their
    /// order.
    #[cfg(feature = "redis-cluster")]
    pub fn cluster<U: AsRef<str>>(urls: impl IntoIterator<Item = U>) -> RedisOptions {
        let urls = urls.into_iter();
        let urls = urls.map(|url| url.as_ref().to_owned()).collect();
        let mut options = RedisOptions::new(urls);
        options.is_cluster = true;
        options
    }
}

impl RedisOptions {
    fn new(urls: Vec<String>) -> Self {
        Self {
            urls,
            is_cluster: false,
            prefix: "socket.io".to_owned(),
            mode: Mode::default(),
        }
    }

    /// Sets how messages are carried.
    ///
    /// Default: [`Mode::Classic`].
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets the prefix of all channels: the option `key` or `channelPrefix` of Node's adapter. The name of
    /// a stream is that of [`Streams::name`].
    ///
    /// Default: `socket.io`.
    pub fn prefix(mut self, prefix: &str) -> Self {
        self.prefix = prefix.to_owned();
        self
    }

    /// Connects to Redis.
    ///
    /// # Errors
    ///
    /// Fails as [`Redis::connect`] does.
    pub async fn connect(self) -> Result<Redis, ConnectError> {
        let redis = self.connect_lazily()?;
        // Each server has connections of its own. This one checks the URL and the password.
        let connected = match (&redis.endpoint, redis.endpoint.nodes()) {
            (_, Some(nodes)) => nodes.find().await,
            (Endpoint::One(client), None) => Link::connect(client, None).await.map(drop),
            (Endpoint::Cluster(_), None) => Ok(()),
        };
        connected.map_err(ConnectError::redis)?;
        Ok(redis)
    }

    /// Checks the URL only. The server starts without Redis, and connects when it can.
    ///
    /// # Errors
    ///
    /// Fails if the URL is malformed.
    pub fn connect_lazily(self) -> Result<Redis, ConnectError> {
        Ok(Redis {
            endpoint: self.endpoint().map_err(ConnectError::redis)?,
            form: self.mode.form(&self.prefix),
        })
    }

    fn endpoint(&self) -> RedisResult<Endpoint> {
        match &self.urls[..] {
            [url] if !self.is_cluster => Ok(Endpoint::One(link::client(url)?)),
            urls => cluster_endpoint(urls),
        }
    }
}

#[cfg(feature = "redis-cluster")]
fn cluster_endpoint(urls: &[String]) -> RedisResult<Endpoint> {
    let seeds = nodes::ClusterSeeds::new(urls)?;
    Ok(Endpoint::Cluster(Arc::new(seeds)))
}

#[cfg(not(feature = "redis-cluster"))]
fn cluster_endpoint(_: &[String]) -> RedisResult<Endpoint> {
    // Only the feature has a function for it.
    Err((
        redis::ErrorKind::InvalidClientConfig,
        "a Redis Cluster needs the feature `redis-cluster`",
    )
        .into())
}

impl Broker for Redis {
    fn run(self: Arc<Self>, port: Port) -> BoxFuture<'static, ()> {
        let form = Arc::clone(&self.form);
        Box::pin(run::run(self.endpoint.clone(), form, port))
    }

    fn wants_rooms(&self) -> bool {
        self.form.has_rooms()
    }

    fn has_log(&self) -> bool {
        self.form.has_log()
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may contain a password.
        f.debug_struct("Redis")
            .field("form", &self.form)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_does_not_show_the_password() {
        let error = Redis::options("redis://user:secret@:x").connect_lazily();
        let error = error.expect_err("not a URL");
        let source = std::error::Error::source(&error).expect("a reason");
        assert!(!format!("{error} {error:?} {source}").contains("secret"));
    }

    #[test]
    #[should_panic(expected = "a stream needs to keep entries")]
    fn a_stream_that_keeps_nothing_is_a_mistake() {
        let _ = Streams::new().max_len(0);
    }
}
