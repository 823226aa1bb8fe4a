//! The connections to Redis.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, IntoConnectionInfo, Pipeline, ProtocolVersion, PushInfo,
    RedisResult, ServerError, Value,
};
use tokio::sync::mpsc;

/// How long Redis may take to accept a connection, and to answer a command.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How often a connection is checked, and how long the check may take.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// The bytes that may have been received and not handled yet, unless it is one message. Redis has the
/// same limit for a subscriber.
const MAX_RECEIVED: usize = 32 << 20;

/// Returns a client for a URL. It speaks RESP3, so that subscriptions and commands share a
/// connection.
pub(super) fn client(url: &str) -> RedisResult<Client> {
    let info = url.into_connection_info()?;
    let settings = info.redis_settings().clone();
    Client::open(info.set_redis_settings(settings.set_protocol(ProtocolVersion::RESP3)))
}

/// A connection to Redis.
pub(super) struct Link {
    pub(super) connection: MultiplexedConnection,
    /// The id of the connection in Redis, to end it from another one.
    id: Option<i64>,
}

impl Link {
    /// Connects. Messages of subscriptions go to `received`.
    pub(super) async fn connect(client: &Client, received: Option<Sender>) -> RedisResult<Self> {
        let mut config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(Some(TIMEOUT));
        if let Some(received) = received {
            config = config.set_push_sender(move |message| received.send(message));
        }
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        // For `CLIENT LIST`. A user may not be allowed to set it, or to ask for the id.
        let mut name = redis::cmd("CLIENT");
        name.arg("SETNAME").arg("tower-socketio");
        let _ = name.query_async::<Value>(&mut connection).await;
        let mut id = redis::cmd("CLIENT");
        id.arg("ID");
        let id = id.query_async(&mut connection).await.ok();
        Ok(Self { connection, id })
    }

    /// Returns when the connection does not answer in time.
    pub(super) async fn watch(connection: MultiplexedConnection) -> redis::RedisError {
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            let mut connection = connection.clone();
            let ping = redis::cmd("PING");
            let pong = ping.query_async::<Value>(&mut connection);
            match tokio::time::timeout(CHECK_INTERVAL, pong).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return error,
                Err(_) => return (redis::ErrorKind::Io, "Redis does not answer").into(),
            }
        }
    }

    pub(super) fn id(&self) -> Option<i64> {
        self.id
    }

    /// Ends former connections of this server. A connection whose network is gone stays open in
    /// Redis for minutes, and counts as a server.
    pub(super) async fn kill(&mut self, former: &mut Vec<Option<i64>>) {
        for id in former.drain(..) {
            let killed = match id {
                Some(id) => {
                    let mut kill = redis::cmd("CLIENT");
                    kill.arg("KILL").arg("ID").arg(id);
                    kill.query_async::<Value>(&mut self.connection).await
                }
                None => Err((redis::ErrorKind::Client, "its id is not known").into()),
            };
            // Redis may have noticed its end.
            if let Err(error) = killed.map_err(|error| error.to_string()) {
                if !error.contains("No such client") {
                    tracing::warn!(
                        target: "tower_socketio::cluster",
                        %error,
                        "a former connection cannot be ended: until Redis notices its end, it \
                         counts as a server, and questions to other servers time out"
                    );
                }
            }
        }
    }
}

/// Sends commands, and returns their replies. A refused command has an error as its reply.
pub(super) async fn send(
    connection: &mut MultiplexedConnection,
    commands: &Pipeline,
) -> RedisResult<Vec<Value>> {
    // The client refuses a pipeline without commands.
    if commands.is_empty() {
        return Ok(Vec::new());
    }
    connection
        .send_packed_commands(commands, 0, commands.len())
        .await
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
    };
    (sender, Received { receiver, bytes })
}

/// More messages wait than [`MAX_RECEIVED`] allows, or the receiver is gone.
pub(super) struct NotReceived;

impl Sender {
    fn send(&self, message: PushInfo) -> Result<(), NotReceived> {
        let bytes = cost(&message);
        let waiting = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        // One message may be longer.
        if waiting > 0 && waiting + bytes > MAX_RECEIVED {
            // The receiver ends the connection when it sees this.
            let end = PushInfo {
                kind: redis::PushKind::Disconnection,
                data: Vec::new(),
            };
            let _ = self.sender.send(end);
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
    use redis::PushKind;

    use super::*;

    fn message(len: usize) -> PushInfo {
        PushInfo {
            kind: PushKind::Message,
            data: vec![Value::BulkString(vec![0; len])],
        }
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
}
