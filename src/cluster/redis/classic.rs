//! The form of the classic adapter: every message goes over pub/sub to every server of its namespace.

use std::sync::Arc;

use redis::Cmd;

use super::form::{Carried, Form, Publish, Pushed, Route, Subscription, SubscriptionKind};
use crate::cluster::wire::classic::{self as wire, Channel};
use crate::cluster::{Envelope, Inbox};
use crate::protocol::DecodeError;

#[derive(Debug)]
pub(super) struct Classic {
    pub(super) prefix: Arc<str>,
}

impl Classic {
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

    /// Returns the channel of the answers for one server.
    fn own(&self, namespace: &str, server: &str) -> String {
        format!("{}{server}#", self.responses(namespace))
    }

    /// Returns the end of a channel of broadcasts, behind [`broadcasts`](Self::broadcasts): nothing,
    /// or the name of a room and `#`.
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

    /// Returns the channel of a message. An answer goes to the server `to`, if its id is known.
    fn channel_of(&self, envelope: &Envelope, to: Option<&str>) -> String {
        let namespace = envelope.namespace();
        match (wire::channel(&envelope.message), to) {
            (Channel::Broadcast, _) => self.broadcasts(namespace),
            (Channel::Room(room), _) => format!("{}{room}#", self.broadcasts(namespace)),
            (Channel::Request, _) => self.requests(namespace),
            (Channel::Response, Some(to)) if !to.is_empty() => self.own(namespace, to),
            (Channel::Response, _) => self.responses(namespace),
        }
    }
}

impl Form for Classic {
    fn subscriptions(&self, namespace: &str, server: &str) -> Vec<(Subscription, Carried)> {
        let channel = |name| SubscriptionKind::Channel.of(name);
        let pattern = SubscriptionKind::Pattern.of(self.pattern(namespace));
        let own = channel(self.own(namespace, server));
        // Servers are counted by the channel of requests: when it is subscribed, the others are.
        vec![
            (pattern, Carried::Broadcasts),
            (own, Carried::Responses),
            (channel(self.responses(namespace)), Carried::Responses),
            (channel(self.requests(namespace)), Carried::Requests),
        ]
    }

    fn publish(&self, envelope: &Envelope, route: &Route<'_>) -> Publish {
        let message = wire::encode(envelope);
        let len = message.len();
        let mut command = redis::cmd("PUBLISH");
        command.arg(self.channel_of(envelope, route.to));
        command.arg(message);
        Publish { command, len }
    }

    fn count(&self, namespace: &str, server: Option<&str>) -> Cmd {
        let mut count = redis::cmd("PUBSUB");
        count.arg("NUMSUB").arg(match server {
            Some(server) => self.own(namespace, server),
            None => self.requests(namespace),
        });
        count
    }

    fn decode(&self, message: &Pushed<'_>, inbox: &Inbox) -> Result<Option<Envelope>, DecodeError> {
        let &Pushed {
            carried,
            namespace,
            channel,
            bytes,
            me,
        } = message;
        match carried {
            Carried::Broadcasts => {
                let Some(room) = self.room_of(channel, namespace) else {
                    return Ok(None);
                };
                // The room is known before the message is read.
                if let Some(room) = room.strip_suffix(b"#") {
                    let room = String::from_utf8_lossy(room);
                    if !inbox.has_room(namespace, &room) {
                        return Ok(None);
                    }
                }
                wire::decode_broadcast(bytes, namespace, me)
            }
            Carried::Requests => wire::decode_request(bytes, namespace, me),
            Carried::Responses => {
                let response = wire::decode_response(bytes, namespace, me)?;
                // On the channel that all share, servers of Node also answer each other.
                let is_shared = channel == self.responses(namespace).as_bytes();
                Ok(response.filter(|response| !is_shared || inbox.expects(response)))
            }
            Carried::Envelopes => Ok(None),
        }
    }
}
