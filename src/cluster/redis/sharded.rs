//! The form of the sharded adapter: sharded pub/sub, with channels for rooms in two of its modes.

use std::sync::Arc;

use redis::Cmd;

use super::Subscriptions;
use super::form::{Carried, Form, Publish, Pushed, Route, Subscription, SubscriptionKind};
use crate::cluster::message::Message;
use crate::cluster::wire::envelope as wire;
use crate::cluster::{Envelope, Inbox};
use crate::protocol::DecodeError;

#[derive(Debug)]
pub(super) struct Sharded {
    pub(super) channels: Channels,
    pub(super) subscriptions: Subscriptions,
}

/// The channels of the sharded adapter and of the streams adapter.
#[derive(Debug)]
pub(super) struct Channels {
    pub(super) prefix: Arc<str>,
    pub(super) kind: SubscriptionKind,
}

impl Channels {
    /// Returns the channel of all servers.
    pub(super) fn all(&self, namespace: &str) -> String {
        format!("{}#{namespace}#", self.prefix)
    }

    /// Returns the channel of one server, or of one room.
    pub(super) fn of(&self, namespace: &str, name: &str) -> String {
        format!("{}#{namespace}#{name}#", self.prefix)
    }

    pub(super) fn subscriptions(
        &self,
        namespace: &str,
        server: &str,
    ) -> Vec<(Subscription, Carried)> {
        // Servers are counted by the channel of all: when it is subscribed, the other is.
        let names = [self.of(namespace, server), self.all(namespace)];
        let names = names.map(|name| (self.kind.of(name), Carried::Envelopes));
        names.into()
    }

    pub(super) fn publish(&self, channel: String, message: Vec<u8>) -> Publish {
        let len = message.len();
        let mut command = redis::cmd(self.kind.publish());
        command.arg(channel).arg(message);
        Publish { command, len }
    }

    pub(super) fn count(&self, namespace: &str, server: Option<&str>) -> Cmd {
        let mut count = redis::cmd("PUBSUB");
        count.arg(self.kind.count()).arg(match server {
            Some(server) => self.of(namespace, server),
            None => self.all(namespace),
        });
        count
    }
}

impl Sharded {
    /// Returns whether the messages for a room have a channel of their own.
    ///
    /// Node's adapter takes a room for that of one socket if its name is as long as an id.
    fn has_channel(&self, room: &str) -> bool {
        /// The length of a socket's id, in UTF-16 units.
        const ID_LEN: usize = 20;

        match self.subscriptions {
            Subscriptions::Static => false,
            Subscriptions::Dynamic => room.encode_utf16().count() != ID_LEN,
            Subscriptions::DynamicPrivate => true,
        }
    }

    fn channel_of(&self, envelope: &Envelope, route: &Route<'_>) -> String {
        let namespace = envelope.namespace();
        match &envelope.message {
            Message::Operation(..) => match envelope.room() {
                Some(room) if self.has_channel(room) => self.channels.of(namespace, room),
                _ => self.channels.all(namespace),
            },
            Message::Answer(..) => match route.to {
                Some(to) if !to.is_empty() => self.channels.of(namespace, to),
                _ => self.channels.all(namespace),
            },
            _ => self.channels.all(namespace),
        }
    }
}

impl Form for Sharded {
    fn subscriptions(&self, namespace: &str, server: &str) -> Vec<(Subscription, Carried)> {
        self.channels.subscriptions(namespace, server)
    }

    fn room(&self, namespace: &str, room: &str) -> Option<Subscription> {
        let name = self
            .has_channel(room)
            .then(|| self.channels.of(namespace, room))?;
        Some(self.channels.kind.of(name))
    }

    fn has_rooms(&self) -> bool {
        self.subscriptions != Subscriptions::Static
    }

    fn publish(&self, envelope: &Envelope, route: &Route<'_>) -> Publish {
        let channel = self.channel_of(envelope, route);
        self.channels.publish(channel, wire::encode(envelope))
    }

    fn count(&self, namespace: &str, server: Option<&str>) -> Cmd {
        self.channels.count(namespace, server)
    }

    fn decode(&self, message: &Pushed<'_>, _: &Inbox) -> Result<Option<Envelope>, DecodeError> {
        wire::decode(message.bytes, message.namespace, message.me)
    }
}
