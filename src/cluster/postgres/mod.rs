//! The broker PostgreSQL, in the form of Node's adapter: `LISTEN` and `NOTIFY`, and a table for long
//! messages.
//!
//! | file | |
//! |---|---|
//! | [`run`] | the broker of one server |
//! | [`link`] | its connections |
//! | [`state`] | what outlives them |
//! | [`servers`] | the servers of each namespace, by their heartbeats |
//! | [`batch`] | the messages that leave together |
//! | [`received`] | the received messages, in their order |
//! | [`attachments`] | the table |

mod attachments;
mod batch;
mod link;
mod received;
mod run;
mod servers;
mod state;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use tokio_postgres::Config;

use self::attachments::Table;
use self::link::Link;
use self::servers::Heartbeat;
use super::{Broker, ConnectError, Port};

/// PostgreSQL as the broker of a cluster. It speaks the protocol of Node's
/// `@socket.io/postgres-adapter`, so servers of this crate and of Node can be one cluster.
///
/// It needs the feature `postgres`, PostgreSQL 10 or later, and a table for long messages:
///
/// ```sql
/// CREATE TABLE socket_io_attachments (
///     id          bigserial UNIQUE,
///     created_at  timestamptz DEFAULT now(),
///     payload     bytea
/// );
/// ```
///
/// ```no_run
/// use tower_socketio::cluster::Postgres;
/// use tower_socketio::{Namespace, SocketIo};
///
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let postgres = Postgres::connect("postgres://user:password@127.0.0.1/app").await?;
/// let (layer, io) = SocketIo::builder()
///     .namespace("/", Namespace::new())
///     .cluster(postgres)
///     .build();
/// # Ok(()) }
/// ```
///
/// Each server has two connections, which must not go through a pooler in transaction mode. While
/// PostgreSQL is not connected the messages of this server wait, and those of the others are lost:
/// [`ClusterStatus::gaps`](super::ClusterStatus::gaps) counts the outage. The broker connects again by
/// itself, after 50 ms to 5 s.
///
/// # Limits
///
/// - The name of a channel is the [prefix](PostgresOptions::prefix), `#`, and the name of the namespace.
///   It may have 63 bytes. [`build`](crate::SocketIoBuilder::build) panics for a namespace with a longer
///   one. If the namespace has parameters it works on its own server only, which logs an error when it
///   begins.
/// - PostgreSQL cannot list the listeners of a channel. The servers of a namespace are known by their heartbeats, so a
///   server that is killed counts for up to 11 seconds more. A server that has just opened a namespace,
///   or has connected again, counts the others one second later.
/// - A notification has less than 8 000 bytes. Longer messages, and those with binary values, go
///   through the table.
/// - There is no TLS: a URL with `sslmode=require` is refused. Use a private network, a tunnel, or a
///   Unix socket.
#[derive(Clone)]
pub struct Postgres {
    settings: Arc<Settings>,
}

/// What the servers of a cluster have in common.
#[derive(Debug)]
struct Settings {
    config: Config,
    prefix: String,
    table: Table,
    /// The longest notification.
    max_len: usize,
    cleanup_interval: Duration,
    heartbeat: Heartbeat,
}

impl Settings {
    /// Returns the channel of a namespace. Returns `None` if PostgreSQL cannot have it.
    fn channel(&self, namespace: &str) -> Option<String> {
        /// The longest name of a channel, in bytes.
        const MAX_LEN: usize = 63;

        let len = self.prefix.len() + 1 + namespace.len();
        let is_name = len <= MAX_LEN && !namespace.contains('\0');
        is_name.then(|| format!("{}#{namespace}", self.prefix))
    }
}

/// The options of [`Postgres`]. [`Postgres::options`] returns them.
#[derive(Clone, Debug)]
#[must_use]
pub struct PostgresOptions {
    url: Url,
    prefix: String,
    table: String,
    payload_threshold: usize,
    cleanup_interval: Duration,
    heartbeat: Heartbeat,
}

/// A URL, which may contain a password.
#[derive(Clone)]
struct Url(String);

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("_")
    }
}

/// The longest notification of PostgreSQL, in bytes.
const MAX_NOTIFICATION: usize = 7_999;

impl Postgres {
    /// Connects to PostgreSQL, with the default options.
    ///
    /// The URL is `postgres://[user[:password]@][host][:port][/database][?option=value]`, or
    /// `host=… user=… dbname=…`, with the options of `libpq`: a host that begins with `/` is the folder
    /// of a Unix socket, and several hosts are tried in turn.
    ///
    /// # Errors
    ///
    /// Fails if the URL is malformed, if PostgreSQL cannot be reached or refuses the password, or if
    /// the table is not there, has not the columns, or may not be used. The source of the error has the
    /// statement that creates the table.
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        Self::options(url).connect().await
    }

    /// Returns the default options for a URL.
    pub fn options(url: &str) -> PostgresOptions {
        PostgresOptions {
            url: Url(url.to_owned()),
            prefix: "socket.io".to_owned(),
            table: "socket_io_attachments".to_owned(),
            payload_threshold: 8_000,
            cleanup_interval: Duration::from_secs(30),
            heartbeat: Heartbeat {
                interval: Duration::from_secs(5),
                timeout: Duration::from_secs(10),
            },
        }
    }
}

impl PostgresOptions {
    /// Sets the prefix of all channels: the option `channelPrefix` of Node's adapter. All servers of a
    /// cluster must have the same.
    ///
    /// Default: `socket.io`.
    pub fn prefix(mut self, prefix: &str) -> Self {
        self.prefix = prefix.to_owned();
        self
    }

    /// Sets the table of long messages: the option `tableName` of Node's adapter. It is a name as in
    /// SQL, such as `app.attachments` or `"My table"`. All servers of a cluster must have the same.
    ///
    /// Default: `socket_io_attachments`.
    pub fn table(mut self, name: &str) -> Self {
        self.table = name.to_owned();
        self
    }

    /// Sets the length in bytes of a message that does not go through the table: the option
    /// `payloadThreshold` of Node's adapter. PostgreSQL takes 7 999 bytes, so a larger number means
    /// that.
    ///
    /// Default: 8 000.
    pub fn payload_threshold(mut self, bytes: usize) -> Self {
        self.payload_threshold = bytes;
        self
    }

    /// Sets the age at which a message is removed from the table, and how often that is done: the option
    /// `cleanupInterval` of Node's adapter. A server that reads a message later has lost it.
    ///
    /// Default: 30 seconds.
    ///
    /// # Panics
    ///
    /// Panics if it is less than one second.
    #[track_caller]
    pub fn cleanup_interval(mut self, interval: Duration) -> Self {
        assert!(
            interval >= Duration::from_secs(1),
            "the interval of the cleanup must be at least one second"
        );
        self.cleanup_interval = interval;
        self
    }

    /// Sets after how long without a message this server says that it is alive, in each namespace: the
    /// option `heartbeatInterval` of Node's adapter.
    ///
    /// Default: 5 seconds.
    ///
    /// # Panics
    ///
    /// Panics if it is less than 10 milliseconds.
    #[track_caller]
    pub fn heartbeat_interval(mut self, interval: Duration) -> Self {
        assert!(
            interval >= Duration::from_millis(10),
            "the interval of heartbeats must be at least 10 ms"
        );
        self.heartbeat.interval = interval;
        self
    }

    /// Sets after how long without a message another server counts as dead: the option
    /// `heartbeatTimeout` of Node's adapter. It must be longer than the
    /// [interval](Self::heartbeat_interval) of the others.
    ///
    /// Default: 10 seconds.
    pub fn heartbeat_timeout(mut self, timeout: Duration) -> Self {
        self.heartbeat.timeout = timeout;
        self
    }

    /// Connects to PostgreSQL, and checks the table.
    ///
    /// # Errors
    ///
    /// Fails as [`Postgres::connect`] and [`connect_lazily`](Self::connect_lazily) do.
    pub async fn connect(self) -> Result<Postgres, ConnectError> {
        let postgres = self.connect_lazily()?;
        let settings = &postgres.settings;
        // Each server has connections of its own. This one checks the URL, the password and the table.
        let checked = async {
            let link = Link::connect(&settings.config).await?;
            settings.table.check(&link.client).await
        };
        checked.await.map_err(ConnectError::postgres)?;
        Ok(postgres)
    }

    /// Checks the options only. The server starts without PostgreSQL, and connects when it can. If the
    /// table cannot be used, [`ClusterStatus::reason`](super::ClusterStatus::reason) says so.
    ///
    /// # Errors
    ///
    /// Fails if the URL is malformed, if the name of the table is not one in SQL, or if the timeout of
    /// heartbeats is not longer than their interval.
    pub fn connect_lazily(self) -> Result<Postgres, ConnectError> {
        let mut config: Config = self.url.0.parse().map_err(ConnectError::postgres)?;
        if config.get_application_name().is_none() {
            config.application_name("tower-socketio");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(link::TIMEOUT);
        }
        if self.heartbeat.timeout <= self.heartbeat.interval {
            let reason = "the timeout of heartbeats must be longer than their interval";
            return Err(ConnectError::postgres(reason));
        }
        let settings = Settings {
            config,
            prefix: self.prefix,
            table: Table::new(&self.table).map_err(ConnectError::postgres)?,
            max_len: self.payload_threshold.min(MAX_NOTIFICATION),
            cleanup_interval: self.cleanup_interval,
            heartbeat: self.heartbeat,
        };
        Ok(Postgres {
            settings: Arc::new(settings),
        })
    }
}

impl Broker for Postgres {
    fn run(self: Arc<Self>, port: Port) -> BoxFuture<'static, ()> {
        Box::pin(run::run(Arc::clone(&self.settings), port))
    }

    fn refuses(&self, namespace: &str) -> Option<String> {
        match self.settings.channel(namespace) {
            Some(_) => None,
            None => Some(format!(
                "the name of its channel, {:?} and `#` and its own, has more than the 63 bytes of \
                 PostgreSQL or contains a zero: shorten the namespace or the prefix",
                self.settings.prefix
            )),
        }
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may contain a password.
        f.debug_struct("Postgres")
            .field("prefix", &self.settings.prefix)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> PostgresOptions {
        Postgres::options("postgres://user:secret@127.0.0.1:1/db")
    }

    #[test]
    fn neither_an_error_nor_the_options_show_the_password() {
        let error = Postgres::options("postgres://user:secret@host:x").connect_lazily();
        let error = error.expect_err("not a URL");
        let source = std::error::Error::source(&error).expect("a reason");
        assert!(!format!("{error} {error:?} {source}").contains("secret"));
        assert!(!format!("{:?}", options()).contains("secret"));
        let postgres = options().connect_lazily().expect("it is a URL");
        assert!(!format!("{postgres:?} {:?}", postgres.settings).contains("secret"));
    }

    #[test]
    fn a_channel_has_at_most_63_bytes() {
        let postgres = options().prefix("é").connect_lazily();
        let postgres = postgres.expect("it is a URL");
        let settings = &postgres.settings;
        assert_eq!(settings.channel("/").as_deref(), Some("é#/"));
        let longest = format!("/{}", "x".repeat(59));
        let channel = settings.channel(&longest).expect("a channel");
        assert_eq!(channel.len(), 63);
        assert_eq!(settings.channel(&format!("{longest}x")), None);
        assert_eq!(settings.channel("/\0"), None);
        assert_eq!(postgres.refuses(&longest), None);
        let reason = postgres.refuses(&format!("{longest}x"));
        assert!(reason.is_some_and(|reason| reason.contains("shorten the namespace")));
    }

    #[test]
    fn options_that_cannot_work_are_refused() {
        let second = Duration::from_secs(1);
        let flapping = options()
            .heartbeat_interval(second)
            .heartbeat_timeout(second);
        assert!(flapping.connect_lazily().is_err());
        assert!(options().table("a; b").connect_lazily().is_err());
        let threshold = |bytes| {
            let postgres = options().payload_threshold(bytes).connect_lazily();
            postgres.expect("it is a URL").settings.max_len
        };
        assert_eq!((threshold(8_000), threshold(100)), (7_999, 100));
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_an_error() {
        let error = options().connect().await.expect_err("nobody is there");
        assert_eq!(error.to_string(), "PostgreSQL is not connected");
    }
}
