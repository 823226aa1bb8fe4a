//! The form of the streams adapter: operations and server events go into a stream, questions and
//! answers over pub/sub.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use redis::Cmd;

use super::form::{Carried, Form, Publish, Pushed, Route, Subscription};
use super::sharded::Channels;
use crate::cluster::message::Message;
use crate::cluster::wire::entry::encode_data;
use crate::cluster::wire::envelope as wire;
use crate::cluster::{Envelope, Inbox, SavedSocket};
use crate::protocol::DecodeError;

#[derive(Debug)]
pub(super) struct StreamsForm {
    pub(super) channels: Channels,
    pub(super) name: String,
    pub(super) count: u32,
    pub(super) max_len: u64,
    pub(super) saved_prefix: String,
}

impl StreamsForm {
    /// Returns the name of the stream of a namespace.
    fn stream_of(&self, namespace: &str) -> String {
        match self.count {
            1 => self.name.clone(),
            count => format!("{}-{}", self.name, index(namespace, count)),
        }
    }

    /// Returns the command that adds an entry. Servers ignore fields that they do not know.
    pub(super) fn add(&self, namespace: &str, uid: &str, kind: u8) -> Cmd {
        let mut add = redis::cmd("XADD");
        add.arg(self.stream_of(namespace));
        add.arg("MAXLEN").arg("~").arg(self.max_len).arg("*");
        add.arg("uid").arg(uid).arg("nsp").arg(namespace);
        add.arg("type").arg(kind);
        add
    }
}

/// The longest time for which a socket is saved, in milliseconds: a year.
const MAX_WITHIN: u128 = 366 * 24 * 3_600_000;

/// Returns the index of a namespace's stream. It can be negative, as in Node's adapter.
fn index(namespace: &str, count: u32) -> i64 {
    let hash = namespace.encode_utf16().fold(0_i32, |hash, unit| {
        hash.wrapping_mul(31).wrapping_add(i32::from(unit))
    });
    i64::from(hash) % i64::from(count)
}

/// Returns whether a message goes into a stream.
pub(super) fn is_logged(message: &Message, route: &Route<'_>) -> bool {
    match message {
        Message::Operation(..) | Message::ServerEvent(_) => true,
        // The log is read again for clients that come back, so it must not have the last.
        Message::Question(..) | Message::End(_) | Message::Displaced(..) => false,
        Message::Answer(..) => route.is_asked_in_stream,
    }
}

impl Form for StreamsForm {
    fn subscriptions(&self, namespace: &str, server: &str) -> Vec<(Subscription, Carried)> {
        self.channels.subscriptions(namespace, server)
    }

    fn publish(&self, envelope: &Envelope, route: &Route<'_>) -> Publish {
        let namespace = envelope.namespace();
        let message = &envelope.message;
        if !is_logged(message, route) {
            let channel = match route.to {
                Some(to) if !to.is_empty() => self.channels.of(namespace, to),
                _ => self.channels.all(namespace),
            };
            let bytes = wire::encode_msgpack(envelope);
            return self.channels.publish(channel, bytes);
        }
        // A message that this form cannot express has a type that nobody knows.
        let kind = wire::kind(message).unwrap_or_default();
        let data = encode_data(message);
        let len = data.len();
        let mut command = self.add(namespace, envelope.sender(), kind);
        command.arg("data").arg(data);
        if let Some(number) = route.number {
            command.arg(NUMBER).arg(number);
        }
        if let Some(question) = route.after {
            command.arg(AFTER).arg(question);
        }
        Publish { command, len }
    }

    fn count(&self, namespace: &str, server: Option<&str>) -> Cmd {
        self.channels.count(namespace, server)
    }

    fn decode(&self, message: &Pushed<'_>, _: &Inbox) -> Result<Option<Envelope>, DecodeError> {
        wire::decode(message.bytes, message.namespace, message.me)
    }

    fn is_logged(&self, envelope: &Envelope) -> bool {
        is_logged(&envelope.message, &Route::default())
    }

    fn max_len(&self) -> usize {
        usize::try_from(self.max_len).unwrap_or(usize::MAX)
    }

    fn streams(&self) -> Vec<String> {
        match i64::from(self.count) {
            1 => vec![self.name.clone()],
            // Node's servers write to the streams with negative numbers, too.
            count => (1 - count..count)
                .map(|index| format!("{}-{index}", self.name))
                .collect(),
        }
    }

    fn stream(&self, namespace: &str) -> Option<String> {
        Some(self.stream_of(namespace))
    }

    fn has_log(&self) -> bool {
        // The offsets of several streams have no order.
        self.count == 1
    }

    fn gap(&self, namespace: &str, server: &str) -> Option<Cmd> {
        let mut add = redis::cmd("XADD");
        add.arg(self.stream_of(namespace));
        add.arg("MAXLEN").arg("~").arg(self.max_len).arg("*");
        add.arg("uid").arg(server).arg(GAP).arg(1);
        Some(add)
    }

    fn save(&self, socket: &SavedSocket, within: Duration) -> Option<Cmd> {
        let mut set = redis::cmd("SET");
        set.arg(format!("{}{}", self.saved_prefix, socket.key()));
        set.arg(BASE64_STANDARD.encode(socket.to_bytes()));
        // Zero would be an error.
        set.arg("PX")
            .arg(within.as_millis().clamp(1, MAX_WITHIN) as u64);
        Some(set)
    }

    fn take(&self, key: &str) -> Option<Cmd> {
        let mut take = redis::cmd("GETDEL");
        take.arg(format!("{}{key}", self.saved_prefix));
        Some(take)
    }

    fn heartbeat(&self, namespace: &str, server: &str) -> Option<Cmd> {
        let mut heartbeat = self.add(namespace, server, wire::kind::HEARTBEAT);
        // Servers of this crate answer no heartbeat with a number.
        heartbeat.arg(NUMBER).arg(0);
        Some(heartbeat)
    }
}

/// The field of an entry with its number among those of its server, to find out which entries were
/// added before a connection has ended.
pub(super) const NUMBER: &str = "n";

/// The field of an entry that says that messages are missing. It has no namespace, so servers of Node
/// ignore it.
pub(super) const GAP: &str = "gap";

/// The field of an entry with the question that its server has sent before it.
pub(super) const AFTER: &str = "after";

#[cfg(test)]
mod tests {
    use super::*;

    fn form(count: u32) -> StreamsForm {
        StreamsForm {
            channels: Channels {
                prefix: "socket.io".into(),
                kind: super::super::form::SubscriptionKind::Channel,
            },
            name: "socket.io".into(),
            count,
            max_len: 10,
            saved_prefix: "sio:session:".into(),
        }
    }

    #[test]
    fn each_entry_says_how_long_the_stream_may_be() {
        let form = form(1);
        let gap = form.gap("/", "me").expect("streams have gaps");
        for command in [form.add("/", "me", wire::kind::HEARTBEAT), gap] {
            let args: Vec<_> = command.args_iter().take(6).collect();
            let expected = ["XADD", "socket.io", "MAXLEN", "~", "10", "*"];
            assert_eq!(args, expected.map(|arg| redis::Arg::Simple(arg.as_bytes())));
        }
    }

    #[test]
    fn a_namespace_has_the_stream_of_nodes_adapter() {
        // By `hash % 4` in JavaScript.
        assert_eq!(index("/", 4), 3);
        assert_eq!(index("/notifications", 4), -3);
        assert_eq!(form(1).stream_of("/notifications"), "socket.io");
        assert_eq!(form(1).streams(), ["socket.io"]);
        assert_eq!(form(4).stream_of("/notifications"), "socket.io--3");
        let streams = ["socket.io--1", "socket.io-0", "socket.io-1"];
        assert_eq!(form(2).streams(), streams);
    }
}
