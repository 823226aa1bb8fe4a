//! The connections to PostgreSQL.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::error::{DbError, Severity};
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, Notification, Socket};

/// How long PostgreSQL may take to accept a connection, and to answer a short command.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// The bytes in a second that PostgreSQL is expected to take at least.
const MIN_RATE: usize = 1 << 20;

/// How often a connection is checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// How long a check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(4);

/// How long the end of a former connection may take.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// The notifications that may have been received and not handled yet. Each has less than 8 000 bytes.
const MAX_RECEIVED: usize = 256;

/// Why a connection is not made, or has ended.
#[derive(Debug)]
pub(super) enum Error {
    Client(tokio_postgres::Error),
    Ended,
    NoAnswer,
    /// What has to be set up.
    SetUp(String),
}

impl Error {
    /// Returns why PostgreSQL has refused a command, if its connection goes on.
    pub(super) fn refusal(&self) -> Option<&DbError> {
        let Self::Client(error) = self else {
            return None;
        };
        let refusal = error.as_db_error()?;
        let is_fatal = match refusal.parsed_severity() {
            Some(severity) => matches!(severity, Severity::Fatal | Severity::Panic),
            None => matches!(refusal.severity(), "FATAL" | "PANIC"),
        };
        (!is_fatal).then_some(refusal)
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Client(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(error) => match error.as_db_error() {
                Some(error) => write!(f, "{}: {}", error.severity(), error.message()),
                None => {
                    write!(f, "{error}")?;
                    let mut source = std::error::Error::source(error);
                    while let Some(error) = source {
                        write!(f, ": {error}")?;
                        source = error.source();
                    }
                    Ok(())
                }
            },
            Self::Ended => f.write_str("the connection has ended"),
            Self::NoAnswer => f.write_str("PostgreSQL does not answer"),
            Self::SetUp(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Error {}

/// A connection to PostgreSQL. It ends when this is dropped.
pub(super) struct Link {
    pub(super) client: Arc<Client>,
    driver: Driver,
    backend: Option<Backend>,
}

/// The task that reads and writes a connection.
struct Driver(JoinHandle<Error>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How PostgreSQL knows a connection, to end it from another one. The number of a process can be used
/// again.
#[derive(Debug)]
pub(super) struct Backend {
    pid: i32,
    begin: String,
}

impl Link {
    /// Connects.
    pub(super) async fn connect(config: &Config) -> Result<Self, Error> {
        let (client, connection) = open(config).await?;
        Self::new(client, drive(connection, None)).await
    }

    /// Connects, and returns the notifications that arrive.
    pub(super) async fn connect_listener(
        config: &Config,
    ) -> Result<(Self, mpsc::Receiver<Notification>), Error> {
        let (client, connection) = open(config).await?;
        let (driver, received) = listen(connection);
        let link = Self::new(client, driver).await?;
        Ok((link, received))
    }

    async fn new(
        client: Client,
        driver: impl Future<Output = Error> + Send + 'static,
    ) -> Result<Self, Error> {
        let mut link = Self {
            client: Arc::new(client),
            driver: Driver(tokio::spawn(driver)),
            backend: None,
        };
        let known = "SELECT pid, backend_start::text FROM pg_stat_activity \
                     WHERE pid = pg_backend_pid()";
        let row = within(TIMEOUT, link.client.query_opt(known, &[])).await?;
        link.backend = row.and_then(|row| {
            Some(Backend {
                pid: row.try_get(0).ok()?,
                begin: row.try_get::<_, Option<String>>(1).ok()??,
            })
        });
        Ok(link)
    }

    /// Returns when the connection has ended. It must not be called again then.
    pub(super) async fn ended(&mut self) -> Error {
        (&mut self.driver.0).await.unwrap_or(Error::Ended)
    }

    /// Returns when the connection does not answer in time, unless `is_active` says that it is alive.
    pub(super) async fn watch(client: Arc<Client>, mut is_active: impl FnMut() -> bool) -> Error {
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            is_active();
            match within(CHECK_TIMEOUT, client.check_connection()).await {
                Ok(()) => {}
                Err(Error::NoAnswer) if is_active() => {}
                Err(error) if error.refusal().is_some() => {}
                Err(error) => return error,
            }
        }
    }

    pub(super) fn take_backend(&mut self) -> Option<Backend> {
        self.backend.take()
    }

    /// Ends former connections of this server. One whose network is gone may still send messages, and
    /// keeps the notifications that it does not read.
    ///
    /// # Errors
    ///
    /// Fails if the connection ends. The former connections are then kept for the next attempt.
    pub(super) async fn kill(&self, former: &mut Vec<Option<Backend>>) -> Result<(), Error> {
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                    WHERE pid = $1 AND backend_start::text = $2";
        while let Some(backend) = former.last() {
            let Some(backend) = backend else {
                former.pop();
                continue;
            };
            let begin = tokio::time::Instant::now();
            loop {
                let former: [&(dyn ToSql + Sync); 2] = [&backend.pid, &backend.begin];
                let refused = match within(TIMEOUT, self.client.query_opt(kill, &former)).await {
                    Ok(None) => break,
                    Ok(Some(_)) if begin.elapsed() < KILL_TIMEOUT => {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        continue;
                    }
                    Ok(Some(_)) => Error::NoAnswer,
                    Err(error) if error.refusal().is_some() => error,
                    Err(error) => return Err(error),
                };
                tracing::warn!(
                    target: "tower_socketio::cluster",
                    reason = %refused,
                    "a former connection cannot be ended: until PostgreSQL notices its end, it keeps \
                     notifications in the queue"
                );
                break;
            }
            former.pop();
        }
        Ok(())
    }
}

/// Opens a connection.
async fn open(config: &Config) -> Result<(Client, Connection<Socket, NoTlsStream>), Error> {
    // Each host of the URL has its own timeout.
    let timeout = (TIMEOUT + Duration::from_secs(1)) * config.get_hosts().len().max(1) as u32;
    within(timeout, config.connect(NoTls)).await
}

/// Returns the driver of a connection, and the notifications that arrive. It does not read on while too many
/// wait.
fn listen<S: AsyncRead + AsyncWrite + Unpin>(
    connection: Connection<S, NoTlsStream>,
) -> (impl Future<Output = Error>, mpsc::Receiver<Notification>) {
    let (sender, received) = mpsc::channel(MAX_RECEIVED);
    (drive(connection, Some(sender)), received)
}

/// Reads and writes a connection until it ends.
async fn drive<S: AsyncRead + AsyncWrite + Unpin>(
    mut connection: Connection<S, NoTlsStream>,
    notifications: Option<mpsc::Sender<Notification>>,
) -> Error {
    loop {
        match poll_fn(|cx| connection.poll_message(cx)).await {
            Some(Ok(AsyncMessage::Notification(notification))) => {
                if let Some(notifications) = &notifications {
                    if notifications.send(notification).await.is_err() {
                        return Error::Ended;
                    }
                }
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => return error.into(),
            None => return Error::Ended,
        }
    }
}

/// Waits for an answer for a limited time.
pub(super) async fn within<T>(
    timeout: Duration,
    answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(timeout, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Error::NoAnswer),
    }
}

/// Returns how long PostgreSQL may take to answer a command of this length.
pub(super) fn timeout_of(bytes: usize) -> Duration {
    TIMEOUT + Duration::from_secs((bytes / MIN_RATE) as u64)
}

/// Logs that PostgreSQL has refused a command.
pub(super) fn refused(error: &Error) {
    tracing::debug!(target: "tower_socketio::cluster", %error, "PostgreSQL refuses a message");
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::io::{AsyncWriteExt as _, DuplexStream};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_may_take_five_seconds_and_one_more_for_each_mebibyte() {
        for (bytes, seconds) in [
            (0, 5),
            (MIN_RATE - 1, 5),
            (MIN_RATE, 6),
            (10 * MIN_RATE, 15),
        ] {
            let begin = Instant::now();
            let answer = within::<()>(timeout_of(bytes), pending()).await;
            assert!(matches!(answer, Err(Error::NoAnswer)));
            assert_eq!(begin.elapsed().as_secs(), seconds);
        }
    }

    /// Connects to a PostgreSQL that asks for no password, and sends nothing else. Returns its end of the
    /// stream.
    async fn silent() -> (Client, Connection<DuplexStream, NoTlsStream>, DuplexStream) {
        let (stream, mut postgres) = tokio::io::duplex(64 * 1024);
        let ready = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
        postgres.write_all(ready).await.expect("it has room");
        let mut config = Config::new();
        config.user("user");
        let connected = config.connect_raw(stream, NoTls).await;
        let (client, connection) = connected.expect("a connection");
        (client, connection, postgres)
    }

    #[tokio::test(start_paused = true)]
    async fn the_notifications_that_wait_are_bounded() {
        let (_client, connection, mut postgres) = silent().await;
        let (driver, mut received) = listen(connection);
        tokio::spawn(driver);
        let sent = tokio::spawn(async move {
            for _ in 0..2_000 {
                // From a process, on a channel, with a text.
                let mut notification = b"A\0\0\x03\xf4\0\0\0\x01c\0".to_vec();
                notification.resize(1_012, b'x');
                notification.push(0);
                postgres.write_all(&notification).await.expect("it is read");
            }
            postgres
        });
        for _ in 0..2_000 {
            // Nothing happens any more.
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(received.len() <= 256);
            assert!(received.len() == 256 || sent.is_finished());
            let notification = received.recv().await.expect("a notification");
            assert_eq!(
                (notification.channel(), notification.payload().len()),
                ("c", 1_001)
            );
        }
        sent.await.expect("all are sent");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_does_not_answer_a_check_has_ended() {
        let (client, connection, _postgres) = silent().await;
        tokio::spawn(connection);
        let client = Arc::new(client);
        let begin = Instant::now();
        let ended = Link::watch(Arc::clone(&client), || false).await;
        assert!(matches!(ended, Error::NoAnswer), "{ended}");
        // It is checked after two seconds.
        assert_eq!(begin.elapsed().as_secs(), 6);
        // One that sends messages meanwhile is alive.
        let begin = Instant::now();
        let mut asked = 0;
        let is_active = || {
            asked += 1;
            asked <= 4
        };
        let ended = Link::watch(client, is_active).await;
        assert!(matches!(ended, Error::NoAnswer), "{ended}");
        assert_eq!(begin.elapsed().as_secs(), 3 * 6);
    }
}
