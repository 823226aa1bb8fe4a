//! The parser: packets as MessagePack.

use std::mem;

use bytes::Bytes;
use rmp::Marker;

use super::from_json::{write_json, write_text, write_unsigned};
use super::reader::{Reader, Token};
use super::to_json::ToJson;
use crate::engine_io::Message;
use crate::protocol::names::NameCache;
use crate::protocol::{
    DecodeError, Decoder, Encoded, Kind, NamespaceName, Packet, Parser, Payload,
};

/// Writes and reads packets as MessagePack, as `socket.io-msgpack-parser` 3 for JavaScript and
/// `serializer="msgpack"` of `python-socketio` do.
///
/// A message contains its bytes, and no attachments follow it. Numbers keep their kind. Handlers
/// see the same values as with the [`JsonParser`](crate::protocol::JsonParser).
///
/// ```
/// use tower_socketio::protocol::MsgpackParser;
/// use tower_socketio::{Namespace, SocketIo};
///
/// let (layer, io) = SocketIo::builder()
///     .namespace("/", Namespace::new())
///     .parser(MsgpackParser::default())
///     .build();
/// ```
///
/// Values may be nested as deeply as in JSON, 127 levels. A received packet needs at most seven
/// times the bytes of its message, and about a hundred more for each value of bytes in it.
#[derive(Clone, Debug)]
pub struct MsgpackParser {
    max_attachments: usize,
}

impl MsgpackParser {
    /// Sets how many values of bytes a received packet may have. If a packet has more, the
    /// connection is closed.
    ///
    /// With a higher limit a small message can use more memory. A lower limit refuses packets with
    /// many values of bytes. Node's parser has no such limit.
    ///
    /// Default: 10 000.
    #[must_use]
    pub const fn max_attachments(mut self, count: usize) -> Self {
        self.max_attachments = count;
        self
    }
}

impl Default for MsgpackParser {
    fn default() -> Self {
        Self {
            max_attachments: 10_000,
        }
    }
}

impl Parser for MsgpackParser {
    fn encode(&self, mut packet: Packet) -> Encoded {
        let attachments = match packet.kind {
            Kind::Event | Kind::Ack => mem::take(&mut packet.payload.attachments),
            Kind::Connect | Kind::Disconnect | Kind::ConnectError => Vec::new(),
        };
        // An attachment that was read is sent empty. `RawArgs` without it are refused earlier.
        let attachments: Vec<_> = attachments
            .into_iter()
            .map(Option::unwrap_or_default)
            .collect();
        Message::Binary(write_packet(&packet, &attachments).into()).into()
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(MsgpackDecoder {
            max_attachments: self.max_attachments,
            names: NameCache::default(),
        })
    }
}

#[derive(Debug)]
struct MsgpackDecoder {
    max_attachments: usize,
    names: NameCache,
}

impl Decoder for MsgpackDecoder {
    fn decode(&mut self, message: Message) -> Result<Option<Packet>, DecodeError> {
        let (Message::Binary(message) | Message::Uncompressed(message)) = message else {
            return Err(DecodeError::new("text in place of MessagePack"));
        };
        let fields = Fields::read(&message)?;
        let (json, attachments) = match fields.data {
            Some(data) => ToJson::new(&message, self.max_attachments).convert(data)?,
            None => (Vec::new(), Vec::new()),
        };
        Ok(Some(Packet {
            namespace: self.namespace(fields.namespace)?,
            kind: fields.kind,
            ack: fields.ack,
            payload: Payload::from_json(fields.kind, json.into(), attachments)?,
        }))
    }

    fn is_partial(&self) -> bool {
        false
    }
}

impl MsgpackDecoder {
    fn namespace(&mut self, name: &[u8]) -> Result<NamespaceName, DecodeError> {
        let name =
            std::str::from_utf8(name).map_err(|_| DecodeError::new("namespace is not UTF-8"))?;
        self.names.get(name)
    }
}

/// The fields of a packet's map.
struct Fields<'a> {
    kind: Kind,
    namespace: &'a [u8],
    ack: Option<u64>,
    /// The bytes of one value. `None` if the value is nil or `undefined`.
    data: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    fn read(message: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(message);
        let Token::Map(len) = reader.next()? else {
            return Err(DecodeError::new("packet is not a map"));
        };
        let (mut kind, mut namespace, mut ack, mut data) = (None, None, None, None);
        for _ in 0..len {
            let Token::Text(key) = reader.next()? else {
                return Err(DecodeError::new("packet has a key that is not text"));
            };
            let start = reader.rest();
            let value = reader.next()?;
            reader.skip_rest(value)?;
            let absent = matches!(value, Token::Nil | Token::Undefined);
            match key {
                b"type" => kind = kind_of(value),
                b"nsp" => namespace = text_of(value),
                b"id" if absent => ack = None,
                b"id" => ack = Some(ack_of(value)?),
                b"data" => data = (!absent).then(|| &start[..start.len() - reader.rest().len()]),
                _ => {}
            }
        }
        if !reader.rest().is_empty() {
            return Err(DecodeError::new("bytes after the packet"));
        }
        Ok(Self {
            kind: kind.ok_or(DecodeError::new("unknown packet type"))?,
            namespace: namespace.ok_or(DecodeError::new("packet has no namespace"))?,
            ack,
            data,
        })
    }
}

fn kind_of(token: Token<'_>) -> Option<Kind> {
    match token {
        Token::Unsigned(number) => Kind::from_number(number),
        _ => None,
    }
}

const fn text_of(token: Token<'_>) -> Option<&[u8]> {
    match token {
        Token::Text(text) => Some(text),
        _ => None,
    }
}

const fn ack_of(token: Token<'_>) -> Result<u64, DecodeError> {
    match token {
        Token::Unsigned(ack) => Ok(ack),
        _ => Err(DecodeError::new("acknowledgement is not a number")),
    }
}

fn write_packet(packet: &Packet, attachments: &[Bytes]) -> Vec<u8> {
    /// The bytes of the markers, the keys, the type and the acknowledgement's id.
    const HEAD: usize = 48;

    let json = packet.payload.json();
    let bytes: usize = attachments.iter().map(Bytes::len).sum();
    let mut out = Vec::with_capacity(HEAD + packet.namespace.len() + json.len() + bytes);

    let fields = 2 + u8::from(!json.is_empty()) + u8::from(packet.ack.is_some());
    out.push(Marker::FixMap(fields).to_u8());
    write_text(&mut out, "type");
    write_unsigned(&mut out, packet.kind as u64);
    if !json.is_empty() {
        write_text(&mut out, "data");
        write_json(&mut out, json, attachments);
    }
    if let Some(ack) = packet.ack {
        write_text(&mut out, "id");
        write_unsigned(&mut out, ack);
    }
    write_text(&mut out, "nsp");
    write_text(&mut out, &packet.namespace);
    out
}

#[cfg(test)]
mod tests;
