//! Packets, before they are encoded and after they are decoded.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;

use super::Payload;
use crate::engine_io::Message;

/// A Socket.IO packet.
///
/// The types `BINARY_EVENT` and `BINARY_ACK` exist on the wire only. The parser chooses them if the
/// payload has attachments.
#[derive(Debug)]
pub struct Packet {
    /// The namespace of the packet.
    pub namespace: NamespaceName,
    /// The purpose of the packet.
    pub kind: Kind,
    /// The id of the acknowledgement that an event asks for, or that this packet is.
    pub ack: Option<u64>,
    /// The content of the packet.
    pub payload: Payload,
}

/// The purpose of a packet. Its number is the packet's type in the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A client asks to join a namespace, or the server confirms that it joined.
    Connect = 0,
    /// A client leaves a namespace, or the server makes it leave.
    Disconnect = 1,
    /// An event: its name and its arguments.
    Event = 2,
    /// The answer to an event.
    Ack = 3,
    /// The server refuses to let a client join a namespace.
    ConnectError = 4,
}

impl Kind {
    /// Returns the kind with this number, or `None` if there is none.
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

/// The name of a namespace, with its slash: `/` or `/admin`.
///
/// The name of the main namespace costs nothing, another name a reference count. A name must begin
/// with `/`. It must not contain a comma, which ends the name on the wire.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct NamespaceName(Option<Arc<str>>);

impl NamespaceName {
    /// The main namespace, `/`.
    pub const MAIN: Self = Self(None);

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or("/")
    }

    /// Returns whether this is the main namespace.
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

// Hashes the text, so that a text can look up a name in a map.
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

/// An encoded packet: the message of its head, then one message for each attachment.
///
/// Its iterator returns the [`Message`]s in order. They must be sent in a row, without other
/// messages in between. A clone shares their bytes.
#[derive(Clone, Debug)]
pub struct Encoded {
    head: Message,
    attachments: Option<Arc<[Message]>>,
}

impl Encoded {
    /// Creates an encoded packet from its head and its attachments.
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
    /// Marks the packet's messages, which are then sent uncompressed.
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
    fn a_map_of_names_can_be_searched_with_a_str() {
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
