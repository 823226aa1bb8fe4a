//! The connections to Redis.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, IntoConnectionInfo, Pipeline,
    ProtocolVersion, PushInfo, PushKind, RedisResult, ServerError, Value,
};
use tokio::sync::mpsc;

/// How long Redis may take to accept a connection, and to answer a short command.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The bytes in a second that Redis is expected to take at least.
const MIN_RATE: usize = 1 << 20;

/// How often a connection is checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// How long a check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(4);

/// The bytes that may have been received and not handled yet, unless it is one message. Redis has the
/// same limit for a subscriber.
const MAX_RECEIVED: usize = 32 << 20;

/// Returns a client for a URL. It speaks RESP3, so that subscriptions and commands share a
/// connection.
pub(super) fn client(url: &str) -> RedisResult<Client> {
    Client::open(info(url)?)
}

/// Returns how to connect to a URL, by RESP3.
pub(super) fn info(url: &str) -> RedisResult<ConnectionInfo> {
    let info = url.into_connection_info()?;
    let settings = info.redis_settings().clone();
    Ok(info.set_redis_settings(settings.set_protocol(ProtocolVersion::RESP3)))
}

/// How Redis knows a connection, to end it from another one. Redis numbers connections from the
/// beginning after it was started again, so a number alone may be another program's.
#[derive(Debug)]
pub(super) struct Id {
    number: String,
    address: String,
}

impl Id {
    /// Reads the reply to `CLIENT INFO`: `id=7 addr=127.0.0.1:4711 …`.
    fn parse(info: &str) -> Option<Self> {
        let field = |name: &str| {
            let mut fields = info.split_ascii_whitespace();
            fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
        };
        Some(Self {
            number: field("id")?.to_owned(),
            address: field("addr")?.to_owned(),
        })
    }
}

/// Returns how connections are made.
pub(super) fn config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(TIMEOUT))
        // Each command has a time of its own.
        .set_response_timeout(None)
}

/// Connects, and asks for the id of the connection.
pub(super) async fn open(
    client: &Client,
    config: &AsyncConnectionConfig,
) -> RedisResult<(MultiplexedConnection, Option<Id>)> {
    let mut connection = client
        .get_multiplexed_async_connection_with_config(config)
        .await?;
    // For `CLIENT LIST`. A user may not be allowed to set it, or to ask for the rest.
    let mut name = redis::cmd("CLIENT");
    name.arg("SETNAME").arg("tower-socketio");
    reply_within(TIMEOUT, &mut connection, &name).await?;
    let mut info = redis::cmd("CLIENT");
    info.arg("INFO");
    let id = match reply_within(TIMEOUT, &mut connection, &info).await? {
        Value::VerbatimString { text, .. } => Id::parse(&text),
        Value::BulkString(text) => std::str::from_utf8(&text).ok().and_then(Id::parse),
        _ => None,
    };
    Ok((connection, id))
}

/// Returns when a connection does not answer in time, unless `is_active` says that it is alive.
pub(super) async fn watch(
    connection: MultiplexedConnection,
    mut is_active: impl FnMut() -> bool,
) -> redis::RedisError {
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        is_active();
        let mut connection = connection.clone();
        let ping = redis::cmd("PING");
        // A refusal is an answer, too.
        let pong = connection.send_packed_command(&ping);
        match tokio::time::timeout(CHECK_TIMEOUT, pong).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return error,
            Err(_) if is_active() => {}
            Err(_) => return NO_ANSWER.into(),
        }
    }
}

/// Ends former connections of this server. A connection whose network is gone stays open in
/// Redis for minutes, and counts as a server.
///
/// # Errors
///
/// Fails if the connection ends. The former connections are then kept for the next attempt.
pub(super) async fn kill(
    connection: &mut MultiplexedConnection,
    former: &mut Vec<Option<Id>>,
) -> RedisResult<()> {
    while let Some(id) = former.last() {
        let refused = match id {
            Some(id) => {
                let mut kill = redis::cmd("CLIENT");
                kill.arg("KILL").arg("ID").arg(&id.number);
                kill.arg("ADDR").arg(&id.address);
                match reply_within(TIMEOUT, connection, &kill).await? {
                    Value::ServerError(error) => Some(format!("{error:?}")),
                    _ => None,
                }
            }
            None => Some("its id is not known".to_owned()),
        };
        if let Some(reason) = refused {
            tracing::warn!(
                target: "tower_socketio::cluster",
                %reason,
                "a former connection cannot be ended: until Redis notices its end, it counts as \
                 a server, and questions to other servers time out"
            );
        }
        former.pop();
    }
    Ok(())
}

pub(super) const NO_ANSWER: (redis::ErrorKind, &str) =
    (redis::ErrorKind::Io, "Redis does not answer");

/// Sends a command. A refusal is a reply.
pub(super) async fn reply_within(
    timeout: Duration,
    connection: &mut MultiplexedConnection,
    command: &Cmd,
) -> RedisResult<Value> {
    tokio::time::timeout(timeout, connection.send_packed_command(command))
        .await
        .unwrap_or_else(|_| Err(NO_ANSWER.into()))
}

/// Sends commands, and returns their replies. A refused command has an error as its reply. `bytes` is
/// their length, about.
pub(super) async fn send(
    connection: &mut MultiplexedConnection,
    commands: &Pipeline,
    bytes: usize,
) -> RedisResult<Vec<Value>> {
    let timeout = TIMEOUT + Duration::from_secs((bytes / MIN_RATE) as u64);
    let replies = connection.send_packed_commands(commands, 0, commands.len());
    tokio::time::timeout(timeout, replies)
        .await
        .unwrap_or_else(|_| Err(NO_ANSWER.into()))
}

/// Logs that Redis has refused a command.
pub(super) fn refused(error: &ServerError) {
    tracing::debug!(target: "tower_socketio::cluster", ?error, "Redis refuses a message");
}

/// The sender of the messages of subscriptions. It counts their bytes.
#[derive(Clone)]
pub(super) struct Sender {
    sender: mpsc::UnboundedSender<PushInfo>,
    bytes: Arc<AtomicUsize>,
    /// How many messages have arrived.
    pub(super) activity: Arc<AtomicUsize>,
}

/// The messages of subscriptions.
pub(super) struct Received {
    receiver: mpsc::UnboundedReceiver<PushInfo>,
    bytes: Arc<AtomicUsize>,
}

pub(super) fn channel() -> (Sender, Received) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let bytes = Arc::<AtomicUsize>::default();
    let sender = Sender {
        sender,
        bytes: Arc::clone(&bytes),
        activity: Arc::default(),
    };
    (sender, Received { receiver, bytes })
}

/// More messages wait than [`MAX_RECEIVED`] allows, or the receiver is gone.
pub(super) struct NotReceived;

impl Sender {
    pub(super) fn send(&self, message: PushInfo) -> Result<(), NotReceived> {
        let queued = self.queue(message);
        if queued.is_err() {
            // The receiver ends the connection when it sees this.
            let end = PushInfo {
                kind: PushKind::Disconnection,
                data: Vec::new(),
            };
            self.bytes.fetch_add(cost(&end), Ordering::Relaxed);
            let _ = self.sender.send(end);
        }
        queued
    }

    /// Queues a message.
    ///
    /// # Errors
    ///
    /// Fails if too many wait. The connection must be ended then.
    pub(super) fn queue(&self, message: PushInfo) -> Result<(), NotReceived> {
        self.activity.fetch_add(1, Ordering::Relaxed);
        // Confirmations of subscriptions arrive as replies, too.
        if !matches!(
            message.kind,
            PushKind::Message | PushKind::PMessage | PushKind::SMessage | PushKind::Disconnection
        ) {
            return Ok(());
        }
        let bytes = cost(&message);
        let waiting = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        // One message may be longer.
        if waiting > 0 && waiting + bytes > MAX_RECEIVED {
            // The other nodes of a Redis Cluster go on.
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(NotReceived);
        }
        self.sender.send(message).map_err(|_| NotReceived)
    }
}

impl Received {
    pub(super) async fn next(&mut self) -> Option<PushInfo> {
        let message = self.receiver.recv().await?;
        self.bytes.fetch_sub(cost(&message), Ordering::Relaxed);
        Some(message)
    }

    /// Returns a message that was received already.
    pub(super) fn try_next(&mut self) -> Option<PushInfo> {
        let message = self.receiver.try_recv().ok()?;
        self.bytes.fetch_sub(cost(&message), Ordering::Relaxed);
        Some(message)
    }
}

fn cost(message: &PushInfo) -> usize {
    let data = message.data.iter().map(|value| match value {
        Value::BulkString(bytes) => bytes.len(),
        _ => 0,
    });
    size_of::<PushInfo>() + message.data.len() * size_of::<Value>() + data.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use redis::RedisConnectionInfo;
    use tokio::io::DuplexStream;
    use tokio::time::Instant;

    use super::*;

    /// Returns a connection to a Redis that answers nothing.
    async fn silent() -> (MultiplexedConnection, DuplexStream) {
        let (stream, redis) = tokio::io::duplex(64 * 1024);
        // It is not asked for anything when it is connected.
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let connected = MultiplexedConnection::new_with_config(&info, stream, config()).await;
        let (connection, driver) = connected.expect("a connection");
        tokio::spawn(driver);
        (connection, redis)
    }

    fn message(len: usize) -> PushInfo {
        PushInfo {
            kind: PushKind::Message,
            data: vec![Value::BulkString(vec![0; len])],
        }
    }

    #[test]
    fn the_id_of_a_connection_is_read() {
        let id = Id::parse("id=7 addr=127.0.0.1:4711 laddr=127.0.0.1:6379 fd=8 name= age=0");
        let id = id.expect("an id");
        assert_eq!((&*id.number, &*id.address), ("7", "127.0.0.1:4711"));
        assert!(Id::parse("OK").is_none());
    }

    #[tokio::test]
    async fn the_messages_that_wait_are_bounded() {
        let (sender, mut received) = channel();
        assert!(sender.send(message(2 * MAX_RECEIVED)).is_ok());
        received.next().await.expect("a message");
        let half = MAX_RECEIVED / 2;
        for _ in 0..3 {
            assert!(sender.send(message(half - 1024)).is_ok());
            // A message that was handled no longer counts.
            received.next().await.expect("a message");
        }
        assert!(sender.send(message(half - 1024)).is_ok());
        assert!(sender.send(message(half - 1024)).is_ok());
        assert!(sender.send(message(4096)).is_err());
        let kinds = [
            received.next().await,
            received.next().await,
            received.next().await,
        ];
        let kinds = kinds.map(|message| message.expect("a message").kind);
        let expected = [
            PushKind::Message,
            PushKind::Message,
            PushKind::Disconnection,
        ];
        assert_eq!(kinds, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reply_may_take_five_seconds_and_one_more_for_each_mebibyte() {
        let (mut connection, _redis) = silent().await;
        let mut commands = Pipeline::new();
        commands.cmd("PING");
        for (bytes, seconds) in [
            (0, 5),
            (MIN_RATE - 1, 5),
            (MIN_RATE, 6),
            (10 * MIN_RATE, 15),
        ] {
            let begin = Instant::now();
            assert!(send(&mut connection, &commands, bytes).await.is_err());
            assert_eq!(begin.elapsed().as_secs(), seconds);
        }
        let begin = Instant::now();
        let reply = reply_within(TIMEOUT, &mut connection, &redis::cmd("PING")).await;
        assert!(reply.is_err());
        assert_eq!(begin.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_does_not_answer_a_check_has_ended() {
        let (connection, _redis) = silent().await;
        let begin = Instant::now();
        watch(connection.clone(), || false).await;
        // It is checked after two seconds.
        assert_eq!(begin.elapsed().as_secs(), 6);
        // One that sends messages meanwhile is alive.
        let begin = Instant::now();
        let mut asked = 0;
        watch(connection, || {
            asked += 1;
            asked <= 4
        })
        .await;
        assert_eq!(begin.elapsed().as_secs(), 3 * 6);
    }
}
