//! Socket.IO packets, without I/O.
//!
//! A packet is one Engine.IO message, followed by one message for each of its attachments:
//!
//! | type | packet          | payload                        | example                                    |
//! |------|-----------------|--------------------------------|--------------------------------------------|
//! | 0    | `CONNECT`       | an object, or none             | `0/admin,{"token":"123"}`                  |
//! | 1    | `DISCONNECT`    | none                           | `1/admin,`                                 |
//! | 2    | `EVENT`         | a name and arguments           | `2["hello",1]`, `212["hello"]` with ack id 12 |
//! | 3    | `ACK`           | arguments                      | `312[]`                                    |
//! | 4    | `CONNECT_ERROR` | an object                      | `4{"message":"not authorized"}`            |
//! | 5    | `BINARY_EVENT`  | as `EVENT`, with attachments   | `51-["hello",{"_placeholder":true,"num":0}]` |
//! | 6    | `BINARY_ACK`    | as `ACK`, with attachments     | `61-12[{"_placeholder":true,"num":0}]`     |
//!
//! [`JsonParser`] writes and reads this form. `MsgpackParser`, of the feature `msgpack`, writes a
//! packet as one message of MessagePack. [`Parser`] shows how to write a custom parser.
//!
//! With every parser a [`Payload`] has the same form: JSON, with `{"_placeholder":true,"num":0}` in
//! place of bytes, and the attachments beside it. A received payload stays in the message that
//! carried it. A payload to send is written once, and the packet's head is put in front of it.
//!
//! ```
//! use tower_socketio::engine::Message;
//! use tower_socketio::protocol::{Args, Data, JsonParser, Kind, Packet, Parser, Payload};
//!
//! let parser = JsonParser::default();
//!
//! let message = Message::Text("212[\"add\",[1,2,3]]".into());
//! let mut packet = parser.decoder().decode(message).unwrap().unwrap();
//! assert_eq!(packet.payload.name(), Some("add"));
//! let numbers: Vec<u32> = packet.payload.read_one().unwrap();
//!
//! let sum: u32 = numbers.iter().sum();
//! let answer = Packet {
//!     kind: Kind::Ack,
//!     payload: Payload::args(packet.namespace.len(), Args((sum, "done"))).unwrap(),
//!     ..packet
//! };
//! let messages: Vec<_> = parser.encode(answer).into_iter().collect();
//! assert_eq!(messages, [Message::Text("312[6,\"done\"]".into())]);
//! ```
//!
//! The [protocol's document] describes all packets.
//!
//! [protocol's document]: https://github.com/socketio/socket.io/blob/main/docs/socket.io-protocol/v5-current.md

mod args;
mod guarded;
mod json;
pub(crate) mod legacy;
#[cfg(any(feature = "msgpack", feature = "wire"))]
mod msgpack;
mod names;
mod packet;
mod payload;
pub(crate) mod peer;
mod placeholder;
mod read;
mod recovery;
mod resolve;
mod scan;
mod typed;
mod unit;

use std::{error, fmt};

use crate::engine_io::Message;

pub(crate) use self::args::ArgsWriter;
#[cfg(feature = "admin-ui")]
pub(crate) use self::args::Nested;
pub use self::args::{Args, Data, EncodeError, IntoArgs, RawArgs, Uncompressed};
pub(crate) use self::guarded::for_server;
pub use self::json::JsonParser;
#[cfg(feature = "msgpack")]
pub use self::msgpack::MsgpackParser;
#[cfg(feature = "wire")]
pub(crate) use self::msgpack::{json_to_msgpack, msgpack_to_json};
pub(crate) use self::names::MAX_NAME;
pub use self::packet::{Encoded, Kind, NamespaceName, Packet};
pub use self::payload::Payload;
pub use self::read::ReadError;
pub(crate) use self::read::read_json;
pub(crate) use self::recovery::Claim;
pub(crate) use self::typed::TypedArgs;
pub use self::typed::TypedEvent;

/// Writes packets as messages, and reads them.
///
/// Client and server must use the same parser. One parser serves all connections.
/// [`SocketIoBuilder::parser`](crate::SocketIoBuilder::parser) sets it.
///
/// This custom parser writes each packet as a JSON object, as the one in the documentation of
/// Socket.IO does:
///
/// ```
/// use bytes::Bytes;
/// use serde::Deserialize;
/// use serde_json::{json, value::RawValue};
/// use tower_socketio::engine::Message;
/// use tower_socketio::protocol::{DecodeError, Decoder, Encoded, Kind, Packet, Parser, Payload};
/// use tower_socketio::{Namespace, SocketIo};
///
/// #[derive(Debug)]
/// struct Objects;
///
/// impl Parser for Objects {
///     fn encode(&self, packet: Packet) -> Encoded {
///         let data: Option<&RawValue> = serde_json::from_slice(packet.payload.json()).ok();
///         let object = json!({
///             "type": packet.kind as u8,
///             "nsp": packet.namespace.as_str(),
///             "id": packet.ack,
///             "data": data,
///         });
///         Message::Text(object.to_string().as_str().into()).into()
///     }
///
///     fn decoder(&self) -> Box<dyn Decoder> {
///         Box::new(Self)
///     }
/// }
///
/// #[derive(Deserialize)]
/// struct Fields {
///     r#type: u64,
///     nsp: String,
///     id: Option<u64>,
///     data: Option<Box<RawValue>>,
/// }
///
/// // Each message is a whole packet, so the decoder has no state.
/// impl Decoder for Objects {
///     fn decode(&mut self, message: Message) -> Result<Option<Packet>, DecodeError> {
///         const INVALID: DecodeError = DecodeError::new("not a packet");
///
///         let Message::Text(text) = message else {
///             return Err(INVALID);
///         };
///         let fields: Fields = serde_json::from_str(text.as_str()).map_err(|_| INVALID)?;
///         let kind = Kind::from_number(fields.r#type).ok_or(INVALID)?;
///         let json = fields.data.map(|data| Bytes::from(data.get().to_owned()));
///         Ok(Some(Packet {
///             namespace: fields.nsp.as_str().into(),
///             kind,
///             ack: fields.id,
///             // Checks that a packet of this kind carries such a payload.
///             payload: Payload::from_json(kind, json.unwrap_or_default(), Vec::new())?,
///         }))
///     }
///
///     fn is_partial(&self) -> bool {
///         false
///     }
/// }
///
/// let (layer, io) = SocketIo::builder()
///     .namespace("/", Namespace::new())
///     .parser(Objects)
///     .build();
/// ```
pub trait Parser: fmt::Debug + Send + Sync {
    /// Writes a packet.
    ///
    /// An implementation must not send packets itself: with [`Recovery`](crate::Recovery) the
    /// server holds a lock while it calls this function.
    fn encode(&self, packet: Packet) -> Encoded;

    /// Creates a decoder, which reads the packets of one connection.
    fn decoder(&self) -> Box<dyn Decoder>;
}

/// Reads the packets of one connection.
pub trait Decoder: fmt::Debug + Send {
    /// Reads a message, and returns the packet that it completes.
    ///
    /// # Errors
    ///
    /// Fails if the message breaks the protocol or exceeds a limit. The error is final: the caller
    /// must close the connection.
    fn decode(&mut self, message: Message) -> Result<Option<Packet>, DecodeError>;

    /// Returns whether the last packet still lacks attachments.
    ///
    /// The caller should set a deadline for them.
    fn is_partial(&self) -> bool;
}

/// An error of [`Decoder::decode`]: a message is malformed or exceeds a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError {
    reason: &'static str,
    is_limit: bool,
}

impl DecodeError {
    /// Creates an error for a malformed message.
    #[must_use]
    pub const fn new(reason: &'static str) -> Self {
        Self {
            reason,
            is_limit: false,
        }
    }

    /// Creates an error for a message that exceeds a limit.
    #[must_use]
    pub const fn limit(reason: &'static str) -> Self {
        Self {
            reason,
            is_limit: true,
        }
    }

    /// Returns whether the message exceeds a limit. A higher limit might allow it.
    #[must_use]
    pub const fn is_limit(&self) -> bool {
        self.is_limit
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason)
    }
}

impl error::Error for DecodeError {}

#[cfg(test)]
pub(crate) mod tests {
    use bytes::Bytes;

    use super::*;

    /// A small pseudorandom generator, xorshift. With a fixed seed a failure is reproducible.
    pub(crate) struct Chance(u64);

    impl Chance {
        pub(crate) fn new(seed: u64) -> Self {
            Self(seed)
        }

        pub(crate) fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 16) as usize % bound
        }

        /// Picks a seed, and changes, inserts, removes or repeats up to four bytes or pieces of it.
        pub(crate) fn mutate(&mut self, seeds: &[&[u8]], alphabet: &[u8]) -> Vec<u8> {
            let mut text = seeds[self.below(seeds.len())].to_vec();
            for _ in 0..self.below(5) {
                let at = self.below(text.len().max(1));
                let to = at + self.below(8).min(text.len() - at);
                let byte = alphabet[self.below(alphabet.len())];
                match self.below(6) {
                    0 if at < text.len() => text[at] = byte,
                    1 if at < text.len() => text[at] = self.below(256) as u8,
                    2 => text.insert(at, byte),
                    3 => text.truncate(to),
                    4 => drop(text.drain(at..to)),
                    _ => {
                        let piece = text[at..to].to_vec();
                        text.splice(at..at, piece);
                    }
                }
            }
            text
        }
    }

    /// Decodes a text and its attachments with the default parser.
    pub(crate) fn decode(text: &str, attachments: &[&'static [u8]]) -> Result<Packet, DecodeError> {
        let mut decoder = JsonParser::default().decoder();
        let mut packet = decoder.decode(Message::Text(text.into()))?;
        for bytes in attachments {
            assert!(packet.is_none() && decoder.is_partial());
            packet = decoder.decode(Message::Binary(Bytes::from_static(bytes)))?;
        }
        assert!(!decoder.is_partial());
        Ok(packet.expect("a whole packet"))
    }

    /// Returns the payload of an event with these arguments.
    pub(crate) fn event(args: impl IntoArgs) -> Payload {
        Payload::event("e", 1, args).expect("serializable")
    }

    /// Returns the JSON of a payload.
    pub(crate) fn json(payload: &Payload) -> &str {
        std::str::from_utf8(payload.json()).expect("UTF-8")
    }

    #[test]
    fn the_parser_trait_is_object_safe() {
        fn shared<T: Send + Sync + fmt::Debug + ?Sized>() {}
        shared::<dyn Parser>();
    }
}
