//! What outlives a connection: the namespaces, their servers, and the questions.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use indexmap::IndexSet;
use tokio_postgres::Notification;

use super::Settings;
use super::batch::{Batch, Reply};
use super::link::Error;
use super::received::{Content, Incoming};
use super::servers::Servers;
use crate::clock::now;
use crate::cluster::message::{EMITTER, Message, RequestId, ServerId};
use crate::cluster::wire::envelope::{decode_of, kind};
use crate::cluster::wire::notification::{self as wire, Encoded};
use crate::cluster::{Command, Envelope, Expect, Inbox, Port};
use crate::engine_io::timer::earliest;
use crate::notice::{Notice, notice};
use crate::protocol::NamespaceName;

/// What outlives a connection.
pub(super) struct State {
    settings: Arc<Settings>,
    me: ServerId,
    pub(super) inbox: Inbox,
    servers: Servers,
    /// The open namespaces by their channels.
    channels: HashMap<String, NamespaceName>,
    /// The open namespaces that have no channel.
    alone: HashSet<NamespaceName>,
    /// Heartbeats, and reports that this server leaves, that have yet to be sent.
    signs: IndexSet<(NamespaceName, u8)>,
    /// Questions that were sent and have not come back.
    asked: HashMap<RequestId, (NamespaceName, Expect)>,
    /// Counts that wait until the servers of their namespace are known.
    held: Vec<Count>,
    /// When the first of them can be counted.
    held_until: Option<Instant>,
    /// A command that was taken behind others, and is handled after them.
    pub(super) next: Option<Command>,
    /// Whether PostgreSQL has carried out commands on the present connections.
    pub(super) works: bool,
    was_connected: bool,
    not_cleaned: Notice,
}

/// The servers of a namespace, or only one of them, are to be counted.
struct Count {
    namespace: NamespaceName,
    server: Option<Arc<str>>,
    expect: Expect,
}

/// The change of a subscription.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    channel: String,
    is_listened: bool,
}

impl fmt::Display for Change {
    /// Writes the command.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let command = if self.is_listened {
            "LISTEN"
        } else {
            "UNLISTEN"
        };
        write!(f, "{command} \"{}\";", self.channel.replace('"', "\"\""))
    }
}

impl State {
    pub(super) fn new(settings: Arc<Settings>, port: &Port) -> Self {
        Self {
            servers: Servers::new(settings.heartbeat, now()),
            settings,
            me: port.server_id().into(),
            inbox: port.inbox(),
            channels: HashMap::new(),
            alone: HashSet::new(),
            signs: IndexSet::new(),
            asked: HashMap::new(),
            held: Vec::new(),
            held_until: None,
            next: None,
            works: false,
            was_connected: false,
            not_cleaned: Notice::default(),
        }
    }

    /// Returns the subscriptions of a new connection. All namespaces are announced again.
    pub(super) fn subscribe_again(&mut self, now: Instant) -> Vec<Change> {
        self.servers.reset(now);
        for namespace in self.servers.open_namespaces() {
            self.signs
                .insert((namespace.clone(), kind::INITIAL_HEARTBEAT));
        }
        let listened = |channel: &String| Change {
            channel: channel.clone(),
            is_listened: true,
        };
        self.channels.keys().map(listened).collect()
    }

    pub(super) fn open(&mut self, namespace: &NamespaceName, now: Instant) -> Option<Change> {
        let Some(channel) = self.settings.channel(namespace) else {
            tracing::error!(
                target: "tower_socketio::cluster",
                %namespace,
                "the namespace is on this server alone: the name of its channel, with the prefix, has \
                 more than 63 bytes or contains a zero"
            );
            self.alone.insert(namespace.clone());
            return None;
        };
        self.servers.open(namespace, now);
        self.channels.insert(channel.clone(), namespace.clone());
        self.sign(namespace, kind::INITIAL_HEARTBEAT);
        Some(Change {
            channel,
            is_listened: true,
        })
    }

    pub(super) fn close(&mut self, namespace: &NamespaceName) -> Option<Change> {
        self.alone.remove(namespace);
        if !self.servers.is_open(namespace) {
            return None;
        }
        self.servers.close(namespace);
        // They do not come back here any longer.
        self.asked.retain(|_, (asked, _)| asked != namespace);
        self.sign(namespace, kind::ADAPTER_CLOSE);
        let channel = self.settings.channel(namespace)?;
        self.channels.remove(&channel);
        Some(Change {
            channel,
            is_listened: false,
        })
    }

    /// Tells the servers of all namespaces that this one leaves.
    pub(super) fn close_all(&mut self) {
        let open: Vec<_> = self.servers.open_namespaces().cloned().collect();
        for namespace in open {
            self.sign(&namespace, kind::ADAPTER_CLOSE);
        }
    }

    /// Remembers that a namespace begins or ends, which makes earlier signs invalid.
    fn sign(&mut self, namespace: &NamespaceName, kind: u8) {
        self.signs.retain(|(signed, _)| signed != namespace);
        self.signs.insert((namespace.clone(), kind));
    }

    pub(super) fn has_signs(&self) -> bool {
        !self.signs.is_empty()
    }

    /// Adds the heartbeats that are due, and reports that this server leaves.
    pub(super) fn add_signs(&mut self, batch: &mut Batch) {
        if self.signs.is_empty() {
            return;
        }
        let now = now();
        for (namespace, sign) in std::mem::take(&mut self.signs) {
            let Some(channel) = self.settings.channel(&namespace) else {
                continue;
            };
            let payload = wire::encode_sign(sign, &self.me, &namespace);
            self.servers.sent(&namespace, now);
            let reply = match sign {
                kind::INITIAL_HEARTBEAT => Reply::Announced(namespace),
                _ => Reply::Sent,
            };
            batch.sign(channel, payload, reply);
        }
    }

    /// Adds a command that carries a message, or counts servers.
    pub(super) fn add(&mut self, command: Command, batch: &mut Batch) {
        match command {
            Command::Publish { envelope, done } => match self.encode(envelope) {
                Some((channel, encoded)) => batch.push(channel, encoded, Reply::Published(done)),
                None => done.dropped(),
            },
            Command::Ask { envelope, expect } => {
                let namespace = envelope.namespace.clone();
                if self.alone.contains(&namespace) {
                    expect.servers(1);
                    return;
                }
                let Message::Question(id, _) = &envelope.message else {
                    return;
                };
                let id = RequestId::clone(id);
                // A question keeps its namespace open. If it has ended, nobody needs the answers.
                if !self.servers.is_open(&namespace) {
                    return;
                }
                if let Some((channel, encoded)) = self.encode(envelope) {
                    self.asked
                        .insert(RequestId::clone(&id), (namespace, expect));
                    batch.push(channel, encoded, Reply::Asked(id));
                }
            }
            Command::Answer { envelope, .. } => {
                if let Some((channel, encoded)) = self.encode(envelope) {
                    batch.push(channel, encoded, Reply::Sent);
                }
            }
            Command::Count {
                namespace,
                server,
                expect,
            } => self.count(Count {
                namespace,
                server,
                expect,
            }),
            // The subscriptions are made before the batch is sent.
            Command::Sync { synced } => batch.sync(synced),
            // They are no messages, or do not come.
            Command::Open { .. } | Command::Close { .. } | Command::Room { .. } => {}
            // This broker has no log.
            Command::Gap { .. } | Command::Save { .. } | Command::Take { .. } => {}
        }
    }

    /// Returns a message, and the channel of its namespace.
    fn encode(&mut self, mut envelope: Envelope) -> Option<(String, Encoded)> {
        let namespace = &envelope.namespace;
        let channel = self.settings.channel(namespace)?;
        if self.servers.is_open(namespace) {
            self.servers.sent(namespace, now());
        } else {
            // The others must not count a server that does not answer.
            envelope.from = EMITTER.into();
        }
        let encoded = wire::encode(&envelope, self.settings.max_len)?;
        Some((channel, encoded))
    }

    /// Counts servers, or waits until they are known.
    fn count(&mut self, count: Count) {
        let namespace = &count.namespace;
        if self.alone.contains(namespace) {
            count.expect.servers(count.server.is_none().into());
            return;
        }
        if !self.servers.is_open(namespace) {
            return;
        }
        match self.servers.settles(namespace) {
            Some(at) if at <= now() => {
                let servers = self.servers.count(namespace, count.server.as_deref());
                count.expect.servers(servers);
            }
            at => {
                self.held_until = earliest([self.held_until, at]);
                self.held.push(count);
            }
        }
    }

    /// Counts the servers that are known by now.
    fn count_held(&mut self) {
        self.held_until = None;
        for count in std::mem::take(&mut self.held) {
            self.count(count);
        }
    }

    /// Handles the results of a batch.
    pub(super) fn finish(&mut self, batch: Batch, refusals: Vec<Option<Error>>, now: Instant) {
        self.works = true;
        let (announced, failed) = batch.finish(refusals);
        for namespace in &announced {
            self.servers.announced(namespace, now);
        }
        for id in failed {
            self.asked.remove(&id);
        }
        if !announced.is_empty() {
            self.count_held();
        }
    }

    /// Reports that the connections carry messages.
    pub(super) fn connected(&mut self) {
        // Gaps are counted first: an application may read the count when it is connected.
        if std::mem::replace(&mut self.was_connected, true) {
            self.inbox.gap(&"PostgreSQL was not connected");
        }
        self.inbox.connected();
    }

    /// Forgets what the ended connection was to carry.
    pub(super) fn disconnected(&mut self, now: Instant) {
        self.signs.clear();
        self.asked.clear();
        self.held.clear();
        self.held_until = None;
        self.servers.reset(now);
        // Questions have failed.
        let is_kept = |command: &Command| {
            !matches!(
                command,
                Command::Ask { .. }
                    | Command::Answer { .. }
                    | Command::Count { .. }
                    | Command::Sync { .. }
            )
        };
        self.next = self.next.take().filter(is_kept);
    }

    /// Returns when [`wake`](Self::wake) is due.
    pub(super) fn next_wake(&self) -> Instant {
        let tick = self.servers.next_tick();
        self.held_until.map_or(tick, |held| held.min(tick))
    }

    /// Handles the timers that have expired.
    pub(super) fn wake(&mut self, now: Instant) {
        if self.held_until.is_some_and(|held| held <= now) {
            self.count_held();
        }
        if self.servers.next_tick() <= now {
            for namespace in self.servers.tick(now) {
                self.signs.insert((namespace, kind::HEARTBEAT));
            }
        }
    }

    /// Reads a notification, and the number of the row that has its message. Returns `None` if it is
    /// not for this server.
    pub(super) fn read(&self, notification: &Notification) -> Option<(Incoming, Option<i64>)> {
        // A message of a namespace that was closed in the meantime is no longer for this server.
        let namespace = self.channels.get(notification.channel())?;
        let bytes = Bytes::copy_from_slice(notification.payload().as_bytes());
        let read = match wire::Notification::read(&bytes) {
            Ok(read) => read,
            Err(error) => {
                self.inbox.malformed(&error);
                return None;
            }
        };
        let (content, row) = if *read.uid == *self.me {
            if self.asked.is_empty() {
                return None;
            }
            let id = read.request_id().filter(|id| self.asked.contains_key(id))?;
            (Content::Own(id), None)
        } else {
            self.content(&read, &bytes, namespace)
        };
        let incoming = Incoming {
            namespace: namespace.clone(),
            from: read.uid.as_ref().into(),
            kind: read.kind,
            content,
        };
        Some((incoming, row))
    }

    /// Returns the content of a message of another server, or the number of its row.
    fn content(
        &self,
        read: &wire::Notification<'_>,
        bytes: &Bytes,
        namespace: &NamespaceName,
    ) -> (Content, Option<i64>) {
        // Answers go to all servers.
        if read.is_answer() && !self.expects(read.request_id().as_deref()) {
            return (Content::None, None);
        }
        let content = read.attachment().and_then(|row| match row {
            Some(_) => Ok((Content::None, row)),
            None => {
                let message = read.message(bytes, namespace)?;
                Ok((message.map_or(Content::None, Content::Envelope), None))
            }
        });
        content.unwrap_or_else(|error| {
            self.inbox.malformed(&error);
            (Content::None, None)
        })
    }

    /// Returns whether a question of this server is open: that with an id, or any if the id is not
    /// known.
    fn expects(&self, id: Option<&str>) -> bool {
        let requests = self.inbox.inner.requests.lock();
        match id {
            Some(id) => requests.is_open(id),
            None => requests.len() > 0,
        }
    }

    /// Handles a message.
    pub(super) async fn handle(&mut self, incoming: Incoming) {
        let Incoming {
            namespace,
            from,
            kind,
            content,
        } = incoming;
        if !self.servers.is_open(&namespace) {
            return;
        }
        if let Content::Own(id) = content {
            if let Some((namespace, expect)) = self.asked.remove(&id) {
                self.count(Count {
                    namespace,
                    server: None,
                    expect,
                });
            }
            return;
        }
        if kind == kind::ADAPTER_CLOSE {
            self.servers.left(&namespace, &from);
        } else if *from != *EMITTER {
            self.servers.heard(&namespace, &from, now());
        }
        if kind == kind::INITIAL_HEARTBEAT {
            self.signs.insert((namespace.clone(), kind::HEARTBEAT));
        }
        let envelope = match content {
            Content::Own(_) | Content::None => return,
            Content::Envelope(envelope) => Some(envelope),
            Content::Row(Some(row)) => decode_of(&row, &namespace).unwrap_or_else(|error| {
                self.inbox.malformed(&error);
                None
            }),
            Content::Row(None) => {
                let reason = "its row is no longer in the table, or is too long";
                self.inbox.malformed(&reason);
                None
            }
        };
        let Some(envelope) = envelope else { return };
        if let Message::Answer(id, _) = &envelope.message {
            if !self.expects(Some(id)) {
                return;
            }
        }
        self.inbox.deliver(envelope).await;
    }

    /// Handles the result of the removal of old attachments. Returns whether there may be more.
    ///
    /// # Errors
    ///
    /// Fails if the connection has ended.
    pub(super) fn cleaned(&self, result: Result<bool, Error>) -> Result<bool, Error> {
        match result {
            Err(error) if error.refusal().is_some() => {
                notice!(
                    self.not_cleaned,
                    target: "tower_socketio::cluster",
                    %error,
                    "old attachments are not removed"
                );
                Ok(false)
            }
            result => result,
        }
    }
}
