//! The classic adapter: every message goes over pub/sub to every server of its namespace.

use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::future::BoxFuture;
use redis::aio::MultiplexedConnection;
use redis::{Client, ErrorKind, Pipeline, PushInfo, PushKind, RedisResult, Value};

use super::Backoff;
use super::link::{self, Link, Received};
use crate::cluster::wire::classic::{self as wire, Channel};
use crate::cluster::{Command, Done, Envelope, Expect, Inbox, Port};
use crate::protocol::{DecodeError, NamespaceName};
use crate::random::random;

/// The most commands that leave together.
const BATCH: usize = 256;

/// The most bytes that leave together, but for the last message.
const BATCH_BYTES: usize = 256 * 1024;

/// Runs the broker of one server.
pub(super) async fn run(client: Client, prefix: Arc<str>, mut port: Port) {
    let mut names = Names::new(prefix, port.server_id());
    let inbox = port.inbox();
    let mut former = Vec::new();
    let mut backoff = Backoff::new();
    let mut was_connected = false;
    loop {
        let ended = match Connected::new(&client, &mut names, &mut former).await {
            Ok(connected) => {
                inbox.connected();
                if was_connected {
                    inbox.gap(&"Redis was not connected");
                }
                was_connected = true;
                backoff = Backoff::new();
                connected.serve(&mut port, &mut names, &inbox).await
            }
            Err(error) => Err(error),
        };
        match ended {
            Ok(()) => return,
            Err(error) => inbox.disconnected(&error),
        }
        let [chance] = random();
        let delay = tokio::time::sleep(backoff.next(chance));
        tokio::select! {
            () = delay => {}
            () = port.closed() => return,
        }
    }
}

/// The names of channels.
pub(super) struct Names {
    prefix: Arc<str>,
    server: Box<str>,
    /// The namespaces that are open.
    open: HashSet<NamespaceName>,
    /// The channels and patterns of this server, with their kinds of messages.
    subscribed: HashMap<Vec<u8>, (Carried, NamespaceName)>,
}

/// The kind of messages of a channel or a pattern.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Carried {
    Broadcasts,
    Requests,
    Responses,
}

impl Names {
    pub(super) fn new(prefix: Arc<str>, server: &str) -> Self {
        Self {
            prefix,
            server: server.into(),
            open: HashSet::new(),
            subscribed: HashMap::new(),
        }
    }

    /// Returns the prefix of the channels of broadcasts.
    fn broadcasts(&self, namespace: &str) -> String {
        format!("{}#{namespace}#", self.prefix)
    }

    fn requests(&self, namespace: &str) -> String {
        format!("{}-request#{namespace}#", self.prefix)
    }

    fn responses(&self, namespace: &str) -> String {
        format!("{}-response#{namespace}#", self.prefix)
    }

    /// Returns the end of a channel of broadcasts, behind [`Names::broadcasts`]: nothing, or the name
    /// of a room and `#`.
    fn room_of<'a>(&self, channel: &'a [u8], namespace: &str) -> Option<&'a [u8]> {
        let rest = channel.strip_prefix(self.prefix.as_bytes())?;
        let rest = rest
            .strip_prefix(b"#")?
            .strip_prefix(namespace.as_bytes())?;
        rest.strip_prefix(b"#")
    }

    /// Returns the pattern of the channels of broadcasts. The names in it mean only themselves.
    fn pattern(&self, namespace: &str) -> String {
        let mut pattern = String::new();
        for char in self.broadcasts(namespace).chars() {
            if matches!(char, '*' | '?' | '[' | ']' | '\\') {
                pattern.push('\\');
            }
            pattern.push(char);
        }
        pattern + "*"
    }

    /// Returns the channels of requests and answers.
    fn channels(&self, namespace: &str) -> [(String, Carried); 3] {
        let responses = self.responses(namespace);
        let own = format!("{responses}{}#", self.server);
        [
            (self.requests(namespace), Carried::Requests),
            (responses, Carried::Responses),
            (own, Carried::Responses),
        ]
    }

    /// Returns the channel of a message. An answer goes to the server `to`, if its id is known.
    pub(super) fn channel_of(&self, envelope: &Envelope, to: Option<&str>) -> String {
        let namespace = envelope.namespace();
        match (wire::channel(&envelope.message), to) {
            (Channel::Broadcast, _) => self.broadcasts(namespace),
            (Channel::Room(room), _) => format!("{}{room}#", self.broadcasts(namespace)),
            (Channel::Request, _) => self.requests(namespace),
            (Channel::Response, Some(to)) if !to.is_empty() => {
                format!("{}{to}#", self.responses(namespace))
            }
            (Channel::Response, _) => self.responses(namespace),
        }
    }

    fn open(&mut self, namespace: &NamespaceName) {
        self.open.insert(namespace.clone());
        let pattern = self.pattern(namespace).into_bytes();
        let carried = (Carried::Broadcasts, namespace.clone());
        self.subscribed.insert(pattern, carried);
        for (channel, carried) in self.channels(namespace) {
            self.subscribed
                .insert(channel.into_bytes(), (carried, namespace.clone()));
        }
    }

    fn close(&mut self, namespace: &NamespaceName) {
        self.open.remove(namespace);
        self.subscribed.remove(self.pattern(namespace).as_bytes());
        for (channel, _) in self.channels(namespace) {
            self.subscribed.remove(channel.as_bytes());
        }
    }
}

/// The two connections of a server.
struct Connected {
    publisher: Link,
    subscriber: Link,
    received: Received,
    /// A command that was taken behind a batch, and is handled after it.
    next: Option<Command>,
}

/// Work that waits for Redis.
type InFlight = BoxFuture<'static, RedisResult<()>>;

/// Polls work if there is any.
fn poll(in_flight: &mut Option<InFlight>, cx: &mut Context<'_>) -> Poll<RedisResult<()>> {
    match in_flight {
        Some(work) => work.as_mut().poll(cx),
        None => Poll::Pending,
    }
}

impl Connected {
    /// Connects, and subscribes for the namespaces that are open.
    async fn new(client: &Client, names: &mut Names, former: &mut Vec<i64>) -> RedisResult<Self> {
        let (sender, received) = link::channel();
        let mut publisher = Link::connect(client, None).await?;
        publisher.kill(former).await;
        let subscriber = Link::connect(client, Some(sender)).await?;
        former.extend(subscriber.id());
        let connected = Self {
            publisher,
            subscriber,
            received,
            next: None,
        };
        for namespace in &names.open {
            connected.subscribe(names, namespace).await?;
        }
        Ok(connected)
    }

    /// Carries messages until the server closes.
    ///
    /// # Errors
    ///
    /// Fails when a connection ends.
    async fn serve(mut self, port: &mut Port, names: &mut Names, inbox: &Inbox) -> RedisResult<()> {
        let mut in_flight: Option<InFlight> = None;
        let mut publisher_ended = pin!(Link::watch(self.publisher.connection.clone()));
        let mut subscriber_ended = pin!(Link::watch(self.subscriber.connection.clone()));
        loop {
            if let (None, Some(command)) = (&in_flight, self.next.take()) {
                in_flight = Some(self.begin(command, port, names));
            }
            tokio::select! {
                ended = poll_fn(|cx| poll(&mut in_flight, cx)) => {
                    in_flight = None;
                    ended?;
                }
                command = port.next(), if in_flight.is_none() => match command {
                    Some(command) => in_flight = Some(self.begin(command, port, names)),
                    None => return self.unsubscribe_all(names).await,
                },
                message = self.received.next() => match message {
                    Some(message) => receive(message, names, inbox).await?,
                    None => return Err(CONNECTION_ENDED.into()),
                },
                error = &mut publisher_ended => return Err(error),
                error = &mut subscriber_ended => return Err(error),
            }
        }
    }

    /// Begins to carry out a command, and further messages that wait.
    fn begin(&mut self, command: Command, port: &mut Port, names: &mut Names) -> InFlight {
        match command {
            Command::Open { namespace } => {
                names.open(&namespace);
                self.subscribe(names, &namespace)
            }
            Command::Close { namespace } => {
                names.close(&namespace);
                self.unsubscribe(names, &namespace)
            }
            message => {
                let mut batch = Batch::default();
                batch.push(message, names);
                while batch.has_room() {
                    match port.try_next() {
                        Some(Command::Open { namespace }) => {
                            // At once: if the connection ends first, the next one subscribes.
                            names.open(&namespace);
                            self.next = Some(Command::Open { namespace });
                            break;
                        }
                        Some(Command::Close { namespace }) => {
                            names.close(&namespace);
                            self.next = Some(Command::Close { namespace });
                            break;
                        }
                        Some(message) => batch.push(message, names),
                        None => break,
                    }
                }
                Box::pin(batch.send(self.publisher.connection.clone()))
            }
        }
    }

    fn subscribe(&self, names: &Names, namespace: &NamespaceName) -> InFlight {
        let mut connection = self.subscriber.connection.clone();
        let pattern = names.pattern(namespace);
        let channels = names.channels(namespace).map(|(channel, _)| channel);
        Box::pin(async move {
            connection.psubscribe(pattern).await?;
            connection.subscribe(&channels[..]).await
        })
    }

    fn unsubscribe(&self, names: &Names, namespace: &NamespaceName) -> InFlight {
        let mut connection = self.subscriber.connection.clone();
        let pattern = names.pattern(namespace);
        let channels = names.channels(namespace).map(|(channel, _)| channel);
        Box::pin(async move {
            connection.unsubscribe(&channels[..]).await?;
            connection.punsubscribe(pattern).await
        })
    }

    async fn unsubscribe_all(&self, names: &Names) -> RedisResult<()> {
        for namespace in &names.open {
            // The server ends. What Redis refuses now ends with the connection.
            let _ = self.unsubscribe(names, namespace).await;
        }
        Ok(())
    }
}

const CONNECTION_ENDED: (ErrorKind, &str) = (ErrorKind::Io, "the connection has ended");

/// Messages and counts that leave together.
#[derive(Default)]
struct Batch {
    pipeline: Pipeline,
    bytes: usize,
    replies: Vec<Reply>,
}

/// The receiver of the replies to a command.
enum Reply {
    Published(Done),
    /// The replies of MULTI, of its two commands, and of EXEC with their results.
    Asked(Expect),
    Counted(Expect),
    Answered,
}

impl Batch {
    fn has_room(&self) -> bool {
        self.replies.len() < BATCH && self.bytes < BATCH_BYTES
    }

    fn push(&mut self, command: Command, names: &Names) {
        match command {
            Command::Publish { envelope, done } => {
                self.publish(&envelope, None, names);
                self.replies.push(Reply::Published(done));
            }
            Command::Ask { envelope, expect } => {
                // Both at one moment: no server comes or goes between them.
                self.pipeline.cmd("MULTI");
                self.count(envelope.namespace(), names);
                self.publish(&envelope, None, names);
                self.pipeline.cmd("EXEC");
                self.replies.push(Reply::Asked(expect));
            }
            Command::Answer { to, envelope } => {
                self.publish(&envelope, Some(&to), names);
                self.replies.push(Reply::Answered);
            }
            Command::Count { namespace, expect } => {
                self.count(&namespace, names);
                self.replies.push(Reply::Counted(expect));
            }
            // They are no messages: see `Connected::begin`.
            Command::Open { .. } | Command::Close { .. } => {}
        }
    }

    fn publish(&mut self, envelope: &Envelope, to: Option<&str>, names: &Names) {
        let message = wire::encode(envelope);
        self.bytes += message.len();
        let channel = names.channel_of(envelope, to);
        self.pipeline.cmd("PUBLISH").arg(channel).arg(message);
    }

    fn count(&mut self, namespace: &str, names: &Names) {
        let channel = names.requests(namespace);
        self.pipeline.cmd("PUBSUB").arg("NUMSUB").arg(channel);
    }

    /// Sends the commands, and passes their replies on.
    async fn send(self, mut connection: MultiplexedConnection) -> RedisResult<()> {
        let commands = self.pipeline.len();
        let values = connection.send_packed_commands(&self.pipeline, 0, commands);
        // If the connection ends here, nobody knows which messages have left: each is dropped
        // without a result.
        let mut values = values.await?.into_iter();
        let mut next = || values.next().unwrap_or(Value::Nil);
        for reply in self.replies {
            match reply {
                Reply::Published(done) => match next() {
                    Value::ServerError(error) => {
                        refused(&error);
                        done.dropped();
                    }
                    _ => done.published(),
                },
                Reply::Asked(expect) => {
                    let _queued = [next(), next(), next()];
                    let executed = match next() {
                        Value::Array(results) => results.into_iter().next(),
                        _ => None,
                    };
                    report(&executed.unwrap_or(Value::Nil), expect);
                }
                Reply::Counted(expect) => report(&next(), expect),
                Reply::Answered => {
                    if let Value::ServerError(error) = next() {
                        refused(&error);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Reports the result of `PUBSUB NUMSUB`. If Redis refused the command, the servers are
/// unreachable.
fn report(reply: &Value, expect: Expect) {
    let count = match reply {
        Value::Array(values) => match &values[..] {
            [_, Value::Int(count)] => usize::try_from(*count).ok(),
            _ => None,
        },
        // RESP3 has a map here in some versions.
        Value::Map(values) => match &values[..] {
            [(_, Value::Int(count))] => usize::try_from(*count).ok(),
            _ => None,
        },
        _ => None,
    };
    if let Some(count) = count {
        expect.servers(count);
    }
}

fn refused(error: &impl std::fmt::Debug) {
    tracing::debug!(target: "tower_socketio::cluster", ?error, "Redis refuses a message");
}

/// Handles a message of a subscription.
async fn receive(message: PushInfo, names: &Names, inbox: &Inbox) -> RedisResult<()> {
    let PushInfo { kind, data } = message;
    let mut texts = data.into_iter().filter_map(|value| match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    });
    let mut next = || texts.next().unwrap_or_default();
    let (subscription, channel, bytes) = match kind {
        PushKind::PMessage => (next(), next(), Bytes::from(next())),
        PushKind::Message => {
            let channel = next();
            (channel.clone(), channel, Bytes::from(next()))
        }
        PushKind::Disconnection => return Err(CONNECTION_ENDED.into()),
        _ => return Ok(()),
    };
    // A message of a namespace that was closed in the meantime is no longer for this server.
    if let Some((carried, namespace)) = names.subscribed.get(&subscription) {
        match decode(*carried, namespace, &channel, &bytes, names, inbox) {
            Ok(Some(envelope)) => inbox.deliver(envelope).await,
            Ok(None) => {}
            Err(error) => inbox.malformed(&error),
        }
    }
    Ok(())
}

/// Reads a message. Returns `None` if it is not for this server.
fn decode(
    carried: Carried,
    namespace: &NamespaceName,
    channel: &[u8],
    bytes: &Bytes,
    names: &Names,
    inbox: &Inbox,
) -> Result<Option<Envelope>, DecodeError> {
    match carried {
        Carried::Broadcasts => {
            let Some(room) = names.room_of(channel, namespace) else {
                return Ok(None);
            };
            // The room is known before the message is read.
            if let Some(room) = room.strip_suffix(b"#") {
                let room = String::from_utf8_lossy(room);
                if !inbox.has_room(namespace, &room) {
                    return Ok(None);
                }
            }
            wire::decode_broadcast(bytes, namespace, &names.server)
        }
        Carried::Requests => wire::decode_request(bytes, namespace, &names.server),
        Carried::Responses => wire::decode_response(bytes, namespace, &names.server),
    }
}
