//! Polling bodies: packets joined by the record separator, binary ones as `b` + base64. Revision 3
//! has a format of its own, in [`payload_eio3`].

use bytes::{Buf, Bytes};

use super::{EnginePacket, Message, ParseError, Revision, payload_eio3, record};

/// U+001E, the record separator. It does not occur in JSON text.
const SEPARATOR: u8 = 0x1e;

/// Returns the length, in bytes, that the official client counts for a body of revision 4 when it
/// decides which packets fit into `maxPayload`.
///
/// The client counts text exactly, and binary data as 1.33 times its length. The base64 of the data
/// is longer than that: by at most two characters for a short message, and by about 0.25 % for a
/// long one. A body is longer by half at most: then each of its messages has one byte.
pub(crate) fn client_counted_len(body: &[u8]) -> usize {
    let packets = body.split(|byte| *byte == SEPARATOR);
    let packets = packets.map(|packet| match packet.strip_prefix(b"b") {
        Some(digits) => {
            let padding = digits.iter().rev().take_while(|digit| **digit == b'=');
            let bytes = (digits.len() / 4 * 3).saturating_sub(padding.count().min(2));
            1 + (bytes * 133).div_ceil(100)
        }
        None => packet.len(),
    });
    packets.map(|len| len + 1).sum::<usize>() - 1
}

/// Returns the length of the longest body for which the official client counts `counted` bytes.
pub(crate) const fn longest_body(counted: usize) -> usize {
    counted.saturating_add(counted / 2 + 1)
}

/// An iterator over the packets of a polling body. The default is empty.
///
/// The packets are parsed one by one: a body of a million separators does not allocate a list.
#[derive(Clone, Debug, Default)]
pub struct Packets {
    rest: Option<Bytes>,
    form: Form,
}

#[derive(Clone, Copy, Debug, Default)]
enum Form {
    #[default]
    Separated,
    /// Revision 3, in text form.
    Text,
    /// Revision 3, in binary form.
    Binary,
}

impl Packets {
    /// Reads a body of revision 4.
    ///
    /// # Errors
    ///
    /// Fails if the body is not UTF-8.
    pub fn new(body: Bytes) -> Result<Self, ParseError> {
        std::str::from_utf8(&body).map_err(|_| ParseError)?;
        Ok(Self {
            rest: Some(body),
            form: Form::Separated,
        })
    }

    /// Reads a body of revision 3. `is_binary` is true if the body's content type is
    /// `application/octet-stream`.
    ///
    /// # Errors
    ///
    /// Fails if a body in text form is empty or not UTF-8. Clients write `0:` for a body without
    /// packets.
    pub fn with_lengths(body: Bytes, is_binary: bool) -> Result<Self, ParseError> {
        if !is_binary {
            std::str::from_utf8(&body).map_err(|_| ParseError)?;
        }
        if body.is_empty() && !is_binary {
            return Err(ParseError);
        }
        Ok(Self {
            rest: Some(body),
            form: if is_binary { Form::Binary } else { Form::Text },
        })
    }

    fn next_separated(&mut self) -> Option<Result<EnginePacket, ParseError>> {
        let rest = self.rest.as_mut()?;
        let record = match memchr::memchr(SEPARATOR, rest) {
            Some(at) => {
                let record = rest.split_to(at);
                rest.advance(1);
                record
            }
            None => self.rest.take()?,
        };
        Some(record::decode(&record, Revision::V4))
    }
}

impl Iterator for Packets {
    type Item = Result<EnginePacket, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        let packet = match self.form {
            Form::Separated => self.next_separated()?,
            Form::Text => payload_eio3::next_text(self.rest.as_mut()?)?,
            Form::Binary => payload_eio3::next_binary(self.rest.as_mut()?)?,
        };
        if packet.is_err() {
            self.rest = None;
        }
        Some(packet)
    }
}

/// Parses a binary frame.
pub(crate) fn decode_binary(data: Bytes, revision: Revision) -> Result<EnginePacket, ParseError> {
    match revision {
        Revision::V4 => Ok(EnginePacket::Message(Message::Binary(data))),
        Revision::V3 => payload_eio3::decode_binary(data),
    }
}

/// A polling body to be written.
#[derive(Debug)]
pub(crate) enum Body {
    V4(Separated),
    V3(payload_eio3::Body),
}

/// A body of revision 4: packets with separators between them.
///
/// Most bodies have only one packet, a text that has its WebSocket frame already. `shared` has the
/// memory of this frame. All other bodies are in `written`.
#[derive(Debug, Default)]
pub(crate) struct Separated {
    shared: Bytes,
    written: Vec<u8>,
}

impl Separated {
    fn push(&mut self, packet: EnginePacket) {
        let packet = match packet {
            EnginePacket::Message(Message::Text(text)) if self.is_empty() => {
                match text.into_record() {
                    Ok(record) => {
                        self.shared = record;
                        return;
                    }
                    Err(text) => EnginePacket::Message(text.into()),
                }
            }
            packet => packet,
        };
        if !self.shared.is_empty() {
            self.written = std::mem::take(&mut self.shared).into();
        }
        if !self.written.is_empty() {
            self.written.push(SEPARATOR);
        }
        record::push_packet(&mut self.written, &packet, Revision::V4);
    }

    /// Returns the body's length, in bytes. `shared` or `written` is empty, or both are.
    fn len(&self) -> usize {
        self.shared.len() + self.written.len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn finish(self) -> Bytes {
        match self.written.is_empty() {
            true => self.shared,
            false => self.written.into(),
        }
    }
}

impl Body {
    /// Creates an empty body. With `base64` the body is text even if it has binary messages.
    pub(crate) fn new(revision: Revision, base64: bool) -> Self {
        match revision {
            Revision::V4 => Self::V4(Separated::default()),
            Revision::V3 => Self::V3(payload_eio3::Body::new(base64)),
        }
    }

    /// Appends a packet.
    pub(crate) fn push(&mut self, packet: EnginePacket) {
        match self {
            Self::V4(body) => body.push(packet),
            Self::V3(body) => body.push(packet),
        }
    }

    /// Returns the body's length, in bytes. In revision 3 this is approximate.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::V4(body) => body.len(),
            Self::V3(body) => body.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::V4(body) => body.is_empty(),
            Self::V3(body) => body.is_empty(),
        }
    }

    /// Returns the body, and whether it is binary.
    pub(crate) fn finish(self) -> (Bytes, bool) {
        match self {
            Self::V4(body) => (body.finish(), false),
            Self::V3(body) => body.finish(),
        }
    }
}

/// Writes packets as a polling body, for the tests of this repository. Returns the body, and whether it
/// is binary.
#[cfg(feature = "unstable-internals")]
pub fn write_body(
    packets: impl IntoIterator<Item = EnginePacket>,
    revision: Revision,
    base64: bool,
) -> (Bytes, bool) {
    let mut body = Body::new(revision, base64);
    packets.into_iter().for_each(|packet| body.push(packet));
    body.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine_io::Text;

    fn read(body: &str) -> Vec<Result<EnginePacket, ParseError>> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        Packets::new(body).expect("UTF-8").collect()
    }

    /// Packs an endless sequence of messages as `_getWritablePackets` of engine.io-client 6.6 does.
    /// Returns the body, and the length that the client counts for the body.
    fn fill(packets: impl Iterator<Item = Message>, max: usize) -> (Bytes, usize) {
        let mut body = Body::new(Revision::V4, true);
        let mut counted = 0;
        for (nth, message) in packets.enumerate() {
            let len = match &message {
                Message::Text(text) => text.as_bytes().len(),
                Message::Binary(data) | Message::Uncompressed(data) => {
                    (data.len() as f64 * 1.33).ceil() as usize
                }
            };
            let more = counted + 1 + len + usize::from(nth > 0);
            if nth > 0 && more > max {
                break;
            }
            counted = more;
            body.push(EnginePacket::Message(message));
        }
        (body.finish().0, counted)
    }

    #[test]
    fn a_body_that_the_official_client_expects_to_fit_is_accepted() {
        for max in [1_000, 5_001] {
            for size in (1..300).chain([max / 4, max / 2]) {
                let binary = Message::Binary(vec![7; size].into());
                let header = Message::from(Text::from(r#"51-["a",{"_placeholder":true,"num":0}]"#));
                let alone = std::iter::repeat(binary.clone());
                let events = std::iter::repeat([header, binary]).flatten();
                for (body, counted) in [fill(alone, max), fill(events, max)] {
                    assert!(client_counted_len(&body) <= counted, "{size} in {max}");
                    assert!(counted <= max && body.len() <= longest_body(max));
                }
            }
        }
        let bytes = std::iter::repeat(Message::Binary(vec![7].into()));
        let (body, _) = fill(bytes, 1_003);
        assert_eq!(body.len(), longest_body(1_003), "half as much more");
    }

    #[test]
    fn a_body_without_bytes_counts_with_its_exact_length() {
        for body in ["", "4", "4a\u{1e}4b", "\u{1e}", "4b===="] {
            assert_eq!(client_counted_len(body.as_bytes()), body.len(), "{body:?}");
        }
    }

    #[test]
    fn the_protocols_example_is_read_and_written() {
        let packets = [
            EnginePacket::Message(Text::from("hello").into()),
            EnginePacket::Ping { probe: false },
            EnginePacket::Message(Message::Binary(Bytes::from_static(&[1, 2, 3, 4]))),
        ];
        let body = "4hello\x1e2\x1ebAQIDBA==";
        assert_eq!(read(body), packets.clone().map(Ok));

        let mut written = Body::new(Revision::V4, false);
        packets.into_iter().for_each(|packet| written.push(packet));
        assert_eq!(written.finish(), (Bytes::from(body), false));
    }

    #[test]
    fn uncompressed_bytes_are_written_like_others() {
        let data = Message::Binary(Bytes::from_static(&[1, 2, 3, 4]));
        for (revision, base64) in [
            (Revision::V4, false),
            (Revision::V3, false),
            (Revision::V3, true),
        ] {
            let written = |message: Message| {
                let mut body = Body::new(revision, base64);
                body.push(EnginePacket::Message(message));
                body.finish()
            };
            let marked = data.clone().uncompressed();
            assert!(!marked.is_compressible());
            assert_eq!(written(marked), written(data.clone()));
        }
    }

    #[test]
    fn packets_before_a_malformed_one_are_decoded_and_none_after_it() {
        let packets = read("4a\x1eabc\x1e4b");
        assert_eq!(packets.len(), 2);
        assert_eq!(packets[1], Err(ParseError));
    }

    #[test]
    fn malformed_bodies_are_refused() {
        assert!(Packets::new(Bytes::from_static(&[0xff])).is_err());
        for body in ["", "\x1e", "b!", "4a\x1e"] {
            assert_eq!(read(body).last(), Some(&Err(ParseError)), "{body:?}");
        }
    }
}
