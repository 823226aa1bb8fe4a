//! What differs between the adapters of Node: commands, channels, and the bytes of messages.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use redis::Cmd;

use crate::cluster::{Envelope, Inbox, SavedSocket};
use crate::protocol::{DecodeError, NamespaceName};

/// The form of one of Node's adapters.
pub(super) trait Form: fmt::Debug + Send + Sync {
    /// Returns the subscriptions of a server for a namespace.
    fn subscriptions(&self, namespace: &str, server: &str) -> Vec<(Subscription, Carried)>;

    /// Returns the subscription for a room. Returns `None` if rooms have no channels of their own.
    fn room(&self, _namespace: &str, _room: &str) -> Option<Subscription> {
        None
    }

    /// Returns whether rooms have channels of their own.
    fn has_rooms(&self) -> bool {
        false
    }

    /// Returns the command that sends a message to the other servers.
    fn publish(&self, envelope: &Envelope, route: &Route<'_>) -> Publish;

    /// Returns the command that counts the servers of a namespace, or only the one with an id.
    fn count(&self, namespace: &str, server: Option<&str>) -> Cmd;

    /// Reads a message of a subscription. Returns `None` if it is not for the server `me`.
    fn decode(&self, message: &Pushed<'_>, inbox: &Inbox) -> Result<Option<Envelope>, DecodeError>;

    /// Returns whether a message becomes an entry of a stream. An answer does if its question was one.
    fn is_logged(&self, _envelope: &Envelope) -> bool {
        false
    }

    /// Returns the number of entries that a stream keeps, about.
    fn max_len(&self) -> usize {
        usize::MAX
    }

    /// Returns the streams that the servers read. They are empty if all messages use pub/sub.
    fn streams(&self) -> Vec<String> {
        Vec::new()
    }

    /// Returns the stream of a namespace.
    fn stream(&self, _namespace: &str) -> Option<String> {
        None
    }

    /// Returns whether the streams are one [log](crate::cluster::Broker::has_log).
    fn has_log(&self) -> bool {
        false
    }

    /// Returns the command that says in the log that messages are missing.
    fn gap(&self, _namespace: &str, _server: &str) -> Option<Cmd> {
        None
    }

    /// Returns the command that saves a socket.
    fn save(&self, _socket: &SavedSocket, _within: Duration) -> Option<Cmd> {
        None
    }

    /// Returns the command that takes a saved socket out.
    fn take(&self, _key: &str) -> Option<Cmd> {
        None
    }

    /// Returns the command that tells servers with an old adapter that a server is alive. Returns
    /// `None` if they need none.
    fn heartbeat(&self, _namespace: &str, _server: &str) -> Option<Cmd> {
        None
    }
}

/// Where a message goes to, and the fields of its entry if it goes to a stream.
#[derive(Debug, Default)]
pub(super) struct Route<'a> {
    /// The server that has asked, for an answer.
    pub(super) to: Option<&'a str>,
    /// Whether that server has asked in a stream.
    pub(super) is_asked_in_stream: bool,
    /// The number of the message among those of this server in streams.
    pub(super) number: Option<u64>,
    /// The question of this server before this message.
    pub(super) after: Option<&'a str>,
}

/// A command that sends a message.
pub(super) struct Publish {
    pub(super) command: Cmd,
    /// The length of the message.
    pub(super) len: usize,
}

/// A message of a subscription.
#[derive(Debug)]
pub(super) struct Pushed<'a> {
    pub(super) carried: Carried,
    pub(super) namespace: &'a NamespaceName,
    pub(super) channel: &'a [u8],
    pub(super) bytes: &'a Bytes,
    /// The id of this server.
    pub(super) me: &'a str,
}

/// The messages of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carried {
    /// Broadcasts of the classic adapter.
    Broadcasts,
    /// Requests of the classic adapter.
    Requests,
    /// Responses of the classic adapter.
    Responses,
    /// Messages of the other adapters.
    Envelopes,
}

/// A channel or a pattern of a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Subscription {
    pub(super) kind: SubscriptionKind,
    pub(super) name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum SubscriptionKind {
    Channel,
    Pattern,
    /// A channel of sharded pub/sub.
    Sharded,
}

impl SubscriptionKind {
    /// Returns the channel or the pattern of this kind.
    pub(super) fn of(self, name: String) -> Subscription {
        Subscription { kind: self, name }
    }

    /// Returns the command that sends to a channel of this kind.
    pub(super) const fn publish(self) -> &'static str {
        match self {
            Self::Channel | Self::Pattern => "PUBLISH",
            Self::Sharded => "SPUBLISH",
        }
    }

    /// Returns the argument of `PUBSUB` that counts the subscribers of a channel of this kind.
    pub(super) const fn count(self) -> &'static str {
        match self {
            Self::Channel | Self::Pattern => "NUMSUB",
            Self::Sharded => "SHARDNUMSUB",
        }
    }
}

impl Subscription {
    pub(super) fn subscribe(&self) -> Cmd {
        self.command(match self.kind {
            SubscriptionKind::Channel => "SUBSCRIBE",
            SubscriptionKind::Pattern => "PSUBSCRIBE",
            SubscriptionKind::Sharded => "SSUBSCRIBE",
        })
    }

    pub(super) fn unsubscribe(&self) -> Cmd {
        self.command(match self.kind {
            SubscriptionKind::Channel => "UNSUBSCRIBE",
            SubscriptionKind::Pattern => "PUNSUBSCRIBE",
            SubscriptionKind::Sharded => "SUNSUBSCRIBE",
        })
    }

    fn command(&self, name: &str) -> Cmd {
        let mut command = redis::cmd(name);
        command.arg(&self.name);
        command
    }
}
