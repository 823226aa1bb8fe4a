//! A packet, before it is written and after it is read.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;

use super::Payload;
use crate::engine::Message;

/// One packet of the protocol.
///
/// Whether it has attachments, and so is a `BINARY_EVENT` rather than an `EVENT`, is a matter of
/// the wire.
#[derive(Debug)]
pub struct Packet {
    /// The namespace it belongs to.
    pub namespace: NamespaceName,
    /// What it is for.
    pub kind: Kind,
    /// The acknowledgement that an event asks for, or that an acknowledgement is.
    pub ack: Option<u64>,
    /// What it carries.
    pub payload: Payload,
}

/// What a packet is for. As a number, it is the packet's type in the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Asks to join a namespace, and tells that it is joined.
    Connect = 0,
    /// Leaves a namespace.
    Disconnect = 1,
    /// Carries the name of an event and its arguments.
    Event = 2,
    /// Answers an event.
    Ack = 3,
    /// Tells that a namespace is not joined.
    ConnectError = 4,
}

impl Kind {
    /// The kind with this number, if there is one.
    #[must_use]
    pub const fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::Connect,
            1 => Self::Disconnect,
            2 => Self::Event,
            3 => Self::Ack,
            4 => Self::ConnectError,
            _ => return None,
        })
    }
}

/// The name of a namespace: `/`, or what follows the slash too.
///
/// The main namespace costs nothing, another one a reference count. A name must begin with `/`
/// and must not hold a comma, where it would end on the wire.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct NamespaceName(Option<Arc<str>>);

impl NamespaceName {
    /// The main namespace, `/`.
    pub const MAIN: Self = Self(None);

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or("/")
    }

    /// Whether this is the main namespace.
    #[must_use]
    pub const fn is_main(&self) -> bool {
        self.0.is_none()
    }
}

impl Deref for NamespaceName {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl From<&str> for NamespaceName {
    fn from(name: &str) -> Self {
        Self((name != "/").then(|| name.into()))
    }
}

impl From<Arc<str>> for NamespaceName {
    fn from(name: Arc<str>) -> Self {
        Self((*name != *"/").then_some(name))
    }
}

impl PartialEq<str> for NamespaceName {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for NamespaceName {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

// As the text, so that a map of names can be asked for a text.
impl Hash for NamespaceName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl std::borrow::Borrow<str> for NamespaceName {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for NamespaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for NamespaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// A packet as messages: a head, then its attachments.
///
/// Iterating gives the [`Message`]s, which have to be sent in a row. A clone shares their bytes.
#[derive(Clone, Debug)]
pub struct Encoded {
    head: Message,
    attachments: Option<Arc<[Message]>>,
}

impl Encoded {
    /// Puts the messages of a packet together.
    #[must_use]
    pub fn new(head: Message, attachments: impl ExactSizeIterator<Item = Bytes>) -> Self {
        Self {
            head,
            attachments: (attachments.len() > 0)
                .then(|| attachments.map(Message::Binary).collect()),
        }
    }
}

impl Encoded {
    /// Asks not to compress it on its way.
    #[must_use]
    pub fn uncompressed(self) -> Self {
        Self {
            head: self.head.uncompressed(),
            attachments: self.attachments.map(|all| {
                let messages = all.iter().cloned();
                messages.map(Message::uncompressed).collect()
            }),
        }
    }
}

impl From<Message> for Encoded {
    fn from(head: Message) -> Self {
        Self {
            head,
            attachments: None,
        }
    }
}

impl IntoIterator for Encoded {
    type Item = Message;
    type IntoIter = EncodedIter;

    fn into_iter(self) -> EncodedIter {
        EncodedIter {
            head: Some(self.head),
            attachments: self.attachments,
            next: 0,
        }
    }
}

/// The messages of an [`Encoded`] packet.
#[derive(Clone, Debug)]
pub struct EncodedIter {
    head: Option<Message>,
    attachments: Option<Arc<[Message]>>,
    next: usize,
}

impl Iterator for EncodedIter {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        if let Some(head) = self.head.take() {
            return Some(head);
        }
        let attachment = self.attachments.as_ref()?.get(self.next)?;
        self.next += 1;
        Some(attachment.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn the_main_namespace_has_one_form() {
        assert!(NamespaceName::from("/").is_main());
        assert!(NamespaceName::from(Arc::from("/")).is_main());
        assert_eq!(NamespaceName::MAIN, "/");
        assert_eq!(NamespaceName::default().len(), 1);
    }

    #[test]
    fn a_map_of_names_can_be_asked_for_a_text() {
        let map = HashMap::from([(NamespaceName::from("/a"), 1), (NamespaceName::MAIN, 2)]);
        assert_eq!((map.get("/a"), map.get("/")), (Some(&1), Some(&2)));
    }

    #[test]
    fn messages_come_in_order_and_share_their_bytes() {
        let head = Message::Text("52-[]".into());
        let attachments = [Bytes::from_static(b"a"), Bytes::from_static(b"b")];
        let encoded = Encoded::new(head.clone(), attachments.clone().into_iter());
        let [a, b] = attachments.map(Message::Binary);
        for encoded in [encoded.clone(), encoded] {
            assert!(encoded.into_iter().eq([head.clone(), a.clone(), b.clone()]));
        }
        assert!(Encoded::from(head.clone()).into_iter().eq([head]));
    }
}
