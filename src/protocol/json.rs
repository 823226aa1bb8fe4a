//! The default parser: JSON, with attachments beside it.
//!
//! ```text
//! <type>[<attachments>-][<namespace>,][<acknowledgement>][<JSON>]
//! ```
//!
//! The decoder follows Node's parser. It is stricter where no client depends on the difference:
//!
//! - a type and a count of attachments are digits, and the count is not 0;
//! - the id of an acknowledgement has at most 64 bits, and white space is no part of it;
//! - a namespace has at most 255 bytes, and a query of at most 8 KiB;
//! - an event, an acknowledgement and a `CONNECT_ERROR` have a payload;
//! - JSON is at most 127 levels deep;
//! - the number of an attachment is digits, and no two placeholders in the text name the same one.
//!
//! `tests/oracle/deviations.rs` lists all differences.

use std::mem;

use bytes::Bytes;

use super::names::{MAX_NAME, NameCache};
use super::{DecodeError, Decoder, Encoded, Kind, NamespaceName, Packet, Parser, Payload};
use crate::engine_io::{Message, Text};
use crate::utf8::is_utf8;

/// Writes and reads packets as JSON, as clients do by default.
///
/// ```
/// use tower_socketio::protocol::JsonParser;
///
/// let parser = JsonParser::default()
///     .max_attachments(2)
///     .max_attachment_bytes(64 * 1024);
/// ```
#[derive(Clone, Debug)]
pub struct JsonParser {
    max_attachments: usize,
    max_attachment_bytes: usize,
}

impl JsonParser {
    /// Sets how many attachments a received packet may have. If a packet announces more, the
    /// connection is closed.
    ///
    /// With a higher limit a client can announce more attachments, and the server keeps the first
    /// ones until the last arrives. A lower limit refuses packets with many values of bytes. Node's
    /// clients and server have the same default.
    ///
    /// Default: 10.
    #[must_use]
    pub const fn max_attachments(mut self, count: usize) -> Self {
        self.max_attachments = count;
        self
    }

    /// Sets how many bytes all attachments of one received packet may have together. If they have
    /// more, the connection is closed.
    ///
    /// A client can make the server keep as many bytes while the packet is incomplete.
    /// [`max_payload`](crate::SocketIoBuilder::max_payload) limits each attachment too.
    ///
    /// Default: 2 000 000.
    #[must_use]
    pub const fn max_attachment_bytes(mut self, bytes: usize) -> Self {
        self.max_attachment_bytes = bytes;
        self
    }
}

impl Default for JsonParser {
    fn default() -> Self {
        Self {
            max_attachments: 10,
            max_attachment_bytes: 2_000_000,
        }
    }
}

impl Parser for JsonParser {
    fn encode(&self, mut packet: Packet) -> Encoded {
        let attachments = match packet.kind {
            Kind::Event | Kind::Ack => mem::take(&mut packet.payload.attachments),
            Kind::Connect | Kind::Disconnect | Kind::ConnectError => Vec::new(),
        };
        let head = encode_head(packet, attachments.len());
        // An attachment that was read is sent empty. `RawArgs` without it are refused earlier.
        let attachments = attachments.into_iter().map(Option::unwrap_or_default);
        Encoded::new(Message::Text(head), attachments)
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(JsonDecoder {
            limits: self.clone(),
            names: NameCache::default(),
            state: State::Ready,
        })
    }
}

/// Writes the head in front of the JSON, backwards.
fn encode_head(packet: Packet, attachments: usize) -> Text {
    let Packet {
        namespace,
        kind,
        ack,
        payload,
    } = packet;
    let headroom = Text::HEADROOM + max_head_len(&namespace, ack, attachments);
    let (mut buf, start) = payload.into_headroom(headroom);
    let mut head = Prepend {
        buf: &mut buf,
        start,
    };
    if let Some(ack) = ack {
        head.number(ack);
    }
    if !namespace.is_main() {
        head.bytes(b",");
        head.bytes(namespace.as_bytes());
    }
    if attachments > 0 {
        head.bytes(b"-");
        head.number(attachments as u64);
    }
    head.bytes(&[type_byte(kind, attachments > 0)]);
    let start = head.start;
    Text::from_headroom(buf, start)
}

/// Returns the greatest length of the head: a type, a count and a dash, a namespace and a comma, an
/// acknowledgement.
fn max_head_len(namespace: &NamespaceName, ack: Option<u64>, attachments: usize) -> usize {
    let attachments = match attachments {
        0 => 0,
        1..=99 => 3,
        _ => 21,
    };
    1 + attachments + namespace.len() + 1 + ack.map_or(0, |_| 20)
}

// The head and the frame fit in the headroom of a payload.
const _: () = assert!(Text::HEADROOM + 1 + 3 + 1 + 20 <= Payload::HEADROOM);

/// A writer that prepends to a text. There is room, because [`max_head_len`] counts everything.
struct Prepend<'a> {
    buf: &'a mut [u8],
    start: usize,
}

impl Prepend<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        let end = self.start;
        self.start -= bytes.len();
        self.buf[self.start..end].copy_from_slice(bytes);
    }

    fn number(&mut self, mut number: u64) {
        loop {
            self.bytes(&[b'0' + (number % 10) as u8]);
            number /= 10;
            if number == 0 {
                return;
            }
        }
    }
}

const fn type_byte(kind: Kind, binary: bool) -> u8 {
    match (kind, binary) {
        (Kind::Connect, _) => b'0',
        (Kind::Disconnect, _) => b'1',
        (Kind::Event, false) => b'2',
        (Kind::Ack, false) => b'3',
        (Kind::ConnectError, _) => b'4',
        (Kind::Event, true) => b'5',
        (Kind::Ack, true) => b'6',
    }
}

#[derive(Debug)]
struct JsonDecoder {
    limits: JsonParser,
    names: NameCache,
    state: State,
}

#[derive(Debug)]
enum State {
    Ready,
    Partial(Box<Partial>),
    Failed,
}

/// A packet that lacks attachments.
#[derive(Debug)]
struct Partial {
    packet: Packet,
    attachments: usize,
    bytes: usize,
}

impl Decoder for JsonDecoder {
    fn decode(&mut self, message: Message) -> Result<Option<Packet>, DecodeError> {
        // The decoder has failed, unless a branch sets another state.
        match (mem::replace(&mut self.state, State::Failed), message) {
            (State::Ready, Message::Text(text)) => self.head(text.into_bytes()),
            (State::Partial(partial), Message::Binary(bytes) | Message::Uncompressed(bytes)) => {
                self.attachment(partial, bytes)
            }
            (State::Ready, Message::Binary(_) | Message::Uncompressed(_)) => {
                Err(DecodeError::new("attachment without a packet"))
            }
            (State::Partial(_), Message::Text(_)) => {
                Err(DecodeError::new("text in place of an attachment"))
            }
            (State::Failed, _) => Err(DecodeError::new("message after an error")),
        }
    }

    fn is_partial(&self) -> bool {
        matches!(self.state, State::Partial(_))
    }
}

impl JsonDecoder {
    fn head(&mut self, text: Bytes) -> Result<Option<Packet>, DecodeError> {
        if !is_utf8(&text) {
            return Err(DecodeError::new("text is not valid UTF-8"));
        }
        let mut rest = &text[..];
        let (kind, binary) = parse_type(&mut rest)?;
        let attachments = if binary {
            self.parse_attachments(&mut rest)?
        } else {
            0
        };
        let namespace = self.parse_namespace(&mut rest)?;
        let ack = parse_number(&mut rest)
            .map_err(|_| DecodeError::limit("acknowledgement is too large"))?;
        let at = text.len() - rest.len();
        let mut packet = Packet {
            namespace,
            kind,
            ack,
            payload: Payload::parse(kind, text, at)?,
        };
        if attachments == 0 {
            self.state = State::Ready;
            return Ok(Some(packet));
        }
        packet.payload.expect_attachments(attachments)?;
        self.state = State::Partial(Box::new(Partial {
            packet,
            attachments,
            bytes: self.limits.max_attachment_bytes,
        }));
        Ok(None)
    }

    fn attachment(
        &mut self,
        mut partial: Box<Partial>,
        bytes: Bytes,
    ) -> Result<Option<Packet>, DecodeError> {
        partial.bytes = partial
            .bytes
            .checked_sub(bytes.len())
            .ok_or(DecodeError::limit("attachments are too large"))?;
        let attachments = &mut partial.packet.payload.attachments;
        attachments.push(Some(bytes));
        if attachments.len() < partial.attachments {
            self.state = State::Partial(partial);
            return Ok(None);
        }
        self.state = State::Ready;
        Ok(Some(partial.packet))
    }

    fn parse_attachments(&self, rest: &mut &[u8]) -> Result<usize, DecodeError> {
        const ILLEGAL: DecodeError = DecodeError::new("illegal number of attachments");

        let count = parse_number(rest);
        *rest = rest.strip_prefix(b"-").ok_or(ILLEGAL)?;
        match count {
            Ok(None | Some(0)) => Err(ILLEGAL),
            Ok(Some(count)) if count <= self.limits.max_attachments as u64 => Ok(count as usize),
            _ => Err(DecodeError::limit("too many attachments")),
        }
    }

    /// Reads a namespace, if there is one: from a slash to a comma or the end.
    fn parse_namespace(&mut self, rest: &mut &[u8]) -> Result<NamespaceName, DecodeError> {
        /// A common limit for the head of an HTTP request.
        const MAX_QUERY: usize = 8 * 1024;

        if !rest.starts_with(b"/") {
            return Ok(NamespaceName::MAIN);
        }
        let end = rest.iter().position(|byte| *byte == b',');
        let (name, after) = rest.split_at(end.unwrap_or(rest.len()));
        *rest = after.get(1..).unwrap_or_default();
        // The text is valid UTF-8: `head` checked it.
        let name = std::str::from_utf8(name).unwrap_or_default();
        let path = name.find('?').unwrap_or(name.len());
        if path == name.len() {
            return self.names.get(name);
        }
        if path > MAX_NAME || name.len() - path > MAX_QUERY {
            return Err(DecodeError::limit("namespace is too long"));
        }
        Ok(name.into())
    }
}

fn parse_type(rest: &mut &[u8]) -> Result<(Kind, bool), DecodeError> {
    let kind = match rest {
        [b'0', ..] => (Kind::Connect, false),
        [b'1', ..] => (Kind::Disconnect, false),
        [b'2', ..] => (Kind::Event, false),
        [b'3', ..] => (Kind::Ack, false),
        [b'4', ..] => (Kind::ConnectError, false),
        [b'5', ..] => (Kind::Event, true),
        [b'6', ..] => (Kind::Ack, true),
        _ => return Err(DecodeError::new("unknown packet type")),
    };
    *rest = &rest[1..];
    Ok(kind)
}

/// Reads a number, if there is one.
fn parse_number(rest: &mut &[u8]) -> Result<Option<u64>, TooLarge> {
    let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, after) = rest.split_at(count);
    *rest = after;
    let append = |number: u64, digit: &u8| {
        let shifted = number.checked_mul(10)?;
        shifted.checked_add(u64::from(digit - b'0'))
    };
    let number = digits.iter().try_fold(0, append).ok_or(TooLarge)?;
    Ok((count > 0).then_some(number))
}

struct TooLarge;

#[cfg(test)]
mod tests;
