//! The broker Redis, in the forms of Node's adapters.
//!
//! | file | |
//! |---|---|
//! | [`link`] | the connections |
//! | [`classic`] | the classic adapter: pub/sub |
//! | [`emitter`] | a sender without sockets |

mod classic;
mod emitter;
mod link;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use redis::Client;

pub use self::emitter::Emitter;
use self::link::Link;
use super::{Broker, Port};

/// Redis as the broker of a cluster. It speaks the protocol of Node's `@socket.io/redis-adapter`, so
/// servers of this crate and of Node can be one cluster.
///
/// It needs the feature `redis`, Rust 1.88, and Redis 6 or later (or Valkey).
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
/// Every server gets every message of the namespaces that exist on it. While Redis is not connected
/// the messages of this server wait. Those of other servers do not reach it, as with Node's adapter,
/// and [`ClusterStatus::gaps`](super::ClusterStatus::gaps) counts the outage. The broker connects
/// again by itself, after 100 ms to 5 s.
#[derive(Clone)]
pub struct Redis {
    client: Client,
    prefix: Arc<str>,
}

/// The options of [`Redis`]. [`Redis::options`] returns them.
#[derive(Clone, Debug)]
#[must_use]
pub struct RedisOptions {
    url: String,
    prefix: String,
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
        RedisOptions {
            url: url.to_owned(),
            prefix: "socket.io".to_owned(),
        }
    }
}

impl RedisOptions {
    /// Sets the prefix of all channels. It is the option `key` of Node's adapter.
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
        let link = Link::connect(&redis.client, None).await;
        link.map_err(ConnectError::new)?;
        Ok(redis)
    }

    /// Checks the URL only. The server starts without Redis, and connects when it can.
    ///
    /// # Errors
    ///
    /// Fails if the URL is malformed.
    pub fn connect_lazily(self) -> Result<Redis, ConnectError> {
        Ok(Redis {
            client: link::client(&self.url).map_err(ConnectError::new)?,
            prefix: self.prefix.into(),
        })
    }
}

impl Broker for Redis {
    fn run(self: Arc<Self>, port: Port) -> BoxFuture<'static, ()> {
        Box::pin(classic::run(
            self.client.clone(),
            Arc::clone(&self.prefix),
            port,
        ))
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may contain a password.
        f.debug_struct("Redis")
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// An error of [`Redis::connect`].
#[derive(Debug)]
pub struct ConnectError(Box<dyn std::error::Error + Send + Sync>);

impl ConnectError {
    fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redis is not connected")
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}

/// How long the broker waits before it connects again.
#[derive(Debug)]
struct Backoff {
    delay: Duration,
}

impl Backoff {
    const MIN: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(5);

    const fn new() -> Self {
        Self { delay: Self::MIN }
    }

    /// Returns the next delay: twice the last one, less up to half of it by `chance`.
    fn next(&mut self, chance: u8) -> Duration {
        let delay = self.delay;
        self.delay = (2 * delay).min(Self::MAX);
        delay - delay / 2 * u32::from(chance) / 255
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_up_to_five_seconds() {
        let mut backoff = Backoff::new();
        let delays: Vec<_> = (0..8).map(|_| backoff.next(0).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.next(255).as_millis(), 2500);
    }

    #[test]
    fn an_error_does_not_show_the_password() {
        let error = Redis::options("redis://user:secret@:x").connect_lazily();
        let error = error.expect_err("not a URL");
        let source = std::error::Error::source(&error).expect("a reason");
        assert!(!format!("{error} {error:?} {source}").contains("secret"));
    }
}
