//! Polling bodies of revision 3: a length precedes each packet.
//!
//! | form | a packet | its length |
//! |---|---|---|
//! | text | `6:4hello`, binary as `10:b4AQIDBA==` | in UTF-16 code units |
//! | binary | `00` for text, `01` for bytes; the digits as bytes; `ff`; the packet | in bytes |
//!
//! A body has the binary form if it has a binary message and the client accepts binary bodies.

use bytes::{Buf, Bytes};

use super::{EnginePacket, Message, ParseError, Revision, record};

/// The byte that ends a length in the binary form.
const END: u8 = 0xff;
/// The type of a message, as a byte.
const MESSAGE: u8 = 4;
/// The maximum number of digits in a length. A longer number exceeds every limit.
const MAX_DIGITS: usize = 9;

/// Parses the next packet of a body in text form, which is UTF-8. Returns `None` at its end.
pub(super) fn next_text(rest: &mut Bytes) -> Option<Result<EnginePacket, ParseError>> {
    while !rest.is_empty() {
        let Some(packet) = split_text(rest) else {
            return Some(Err(ParseError));
        };
        // Clients write an empty body as `0:`.
        if !packet.is_empty() {
            return Some(record::decode(&packet, Revision::V3));
        }
    }
    None
}

fn split_text(rest: &mut Bytes) -> Option<Bytes> {
    let colon = rest
        .iter()
        .take(MAX_DIGITS + 1)
        .position(|byte| *byte == b':')?;
    let len = number(rest[..colon].iter().map(|byte| byte.wrapping_sub(b'0')))?;
    rest.advance(colon + 1);
    let end = utf16_end(rest, len)?;
    Some(rest.split_to(end))
}

/// Returns the offset in bytes at which the first `units` UTF-16 code units of a text end.
fn utf16_end(text: &[u8], units: usize) -> Option<usize> {
    // A code unit is at least one byte of UTF-8.
    if text.get(..units)?.is_ascii() {
        return Some(units);
    }
    let mut left = units;
    for (at, byte) in text.iter().enumerate() {
        let units = utf16_units(*byte);
        if units > 0 && left == 0 {
            return Some(at);
        }
        left = left.checked_sub(units)?;
    }
    (left == 0).then_some(text.len())
}

/// Returns the number of UTF-16 code units of the character that begins with this byte of UTF-8. 0
/// for a continuation byte.
const fn utf16_units(byte: u8) -> usize {
    match byte {
        0x80..0xc0 => 0,
        0xf0.. => 2,
        _ => 1,
    }
}

/// Parses the next packet of a body in binary form. Returns `None` at its end.
pub(super) fn next_binary(rest: &mut Bytes) -> Option<Result<EnginePacket, ParseError>> {
    if rest.is_empty() {
        return None;
    }
    Some(parse_binary(rest).unwrap_or(Err(ParseError)))
}

fn parse_binary(rest: &mut Bytes) -> Option<Result<EnginePacket, ParseError>> {
    let is_binary = match rest[0] {
        0 => false,
        1 => true,
        _ => return None,
    };
    let digits = &rest[1..];
    let end = digits
        .iter()
        .take(MAX_DIGITS + 1)
        .position(|byte| *byte == END)?;
    let len = number(digits[..end].iter().copied())?;
    rest.advance(end + 2);
    if len > rest.len() {
        return None;
    }
    let packet = rest.split_to(len);
    if is_binary {
        // A copy, so that a small message does not keep the whole body in memory.
        let packet = Bytes::copy_from_slice(&packet);
        return Some(decode_binary(packet));
    }
    std::str::from_utf8(&packet).ok()?;
    Some(record::decode(&packet, Revision::V3))
}

/// Parses a number from its digits, of which there must be 1 to [`MAX_DIGITS`].
fn number(digits: impl ExactSizeIterator<Item = u8>) -> Option<usize> {
    if digits.len() == 0 || digits.len() > MAX_DIGITS {
        return None;
    }
    digits.into_iter().try_fold(0, |number, digit| {
        (digit < 10).then(|| number * 10 + usize::from(digit))
    })
}

/// Parses a binary frame, or a binary packet of a body: the type and the message.
pub(super) fn decode_binary(mut data: Bytes) -> Result<EnginePacket, ParseError> {
    if data.first() != Some(&MESSAGE) {
        return Err(ParseError);
    }
    data.advance(1);
    Ok(EnginePacket::Message(Message::Binary(data)))
}

/// A body of revision 3 to be written. Its form depends on all its packets.
#[derive(Debug)]
pub(crate) struct Body {
    packets: Vec<EnginePacket>,
    len: usize,
    /// Whether the client accepts only the text form.
    base64: bool,
}

impl Body {
    pub(super) fn new(base64: bool) -> Self {
        Self {
            packets: Vec::new(),
            len: 0,
            base64,
        }
    }

    pub(super) fn push(&mut self, packet: EnginePacket) {
        self.len += match &packet {
            EnginePacket::Message(Message::Text(text)) => text.as_bytes().len(),
            EnginePacket::Message(Message::Binary(data) | Message::Uncompressed(data)) => {
                data.len()
            }
            EnginePacket::Open(json) => json.len(),
            control => control.control_text().len(),
        };
        self.packets.push(packet);
    }

    /// Returns the approximate length of the body, in bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Returns the body, and whether it has the binary form.
    pub(super) fn finish(self) -> (Bytes, bool) {
        let is_binary = |packet: &EnginePacket| {
            matches!(
                packet,
                EnginePacket::Message(Message::Binary(_) | Message::Uncompressed(_))
            )
        };
        let binary = !self.base64 && self.packets.iter().any(is_binary);
        let mut body = Vec::with_capacity(self.len + 8 * self.packets.len());
        for packet in &self.packets {
            match packet {
                EnginePacket::Message(Message::Binary(data) | Message::Uncompressed(data))
                    if binary =>
                {
                    push_length(&mut body, 1, data.len() + 1);
                    body.push(MESSAGE);
                    body.extend_from_slice(data);
                }
                packet => push_text(&mut body, packet, binary),
            }
        }
        (body.into(), binary)
    }
}

fn push_text(body: &mut Vec<u8>, packet: &EnginePacket, binary: bool) {
    let mut text = Vec::new();
    record::push_packet(&mut text, packet, Revision::V3);
    if binary {
        push_length(body, 0, text.len());
    } else {
        let units: usize = text.iter().copied().map(utf16_units).sum();
        body.extend_from_slice(format!("{units}:").as_bytes());
    }
    body.extend_from_slice(&text);
}

fn push_length(body: &mut Vec<u8>, flag: u8, len: usize) {
    body.push(flag);
    body.extend(len.to_string().bytes().map(|digit| digit - b'0'));
    body.push(END);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine_io::{Packets, Text};
    use crate::protocol::tests::Chance;

    fn text(text: &str) -> EnginePacket {
        EnginePacket::Message(Text::from(text).into())
    }

    fn binary(data: &'static [u8]) -> EnginePacket {
        EnginePacket::Message(Message::Binary(Bytes::from_static(data)))
    }

    fn read(body: &[u8], is_binary: bool) -> Vec<Result<EnginePacket, ParseError>> {
        let body = Bytes::copy_from_slice(body);
        match Packets::with_lengths(body, is_binary) {
            Ok(packets) => packets.collect(),
            Err(error) => vec![Err(error)],
        }
    }

    #[test]
    fn a_message_does_not_keep_its_body() {
        let body = [
            &[1, 2, 0xff, 4, 7],
            &[0, 9, 0, 0, 0xff, b'4'][..],
            &[b'x'; 899],
        ]
        .concat();
        let packets = read(&body, true);
        let [Ok(EnginePacket::Message(Message::Binary(small))), Ok(_)] = &packets[..] else {
            panic!("{packets:?}");
        };
        let small = small.clone();
        drop(packets);
        assert_eq!(small.try_into_mut().expect("its own").capacity(), 1);
    }

    fn written(packets: &[EnginePacket], base64: bool) -> (Vec<u8>, bool) {
        let mut body = Body::new(base64);
        let packets = packets.iter().cloned();
        packets.for_each(|packet| body.push(packet));
        let (body, is_binary) = body.finish();
        (body.into(), is_binary)
    }

    #[test]
    fn the_examples_of_the_document_are_read_and_written() {
        let packets = [text("€"), binary(&[1, 2, 3, 4])];
        let bodies: [(&[u8], bool); 2] = [
            ("2:4€10:b4AQIDBA==".as_bytes(), true),
            (
                // The document omits the type of the binary packet. Every client sends it.
                &[
                    0, 4, 0xff, b'4', 0xe2, 0x82, 0xac, 1, 5, 0xff, 4, 1, 2, 3, 4,
                ],
                false,
            ),
        ];
        for (body, base64) in bodies {
            assert_eq!(written(&packets, base64), (body.to_vec(), !base64));
            assert_eq!(read(body, !base64), packets.clone().map(Ok));
        }
        let packets = [text("hello"), text("€")];
        let body = "6:4hello2:4€".as_bytes();
        assert_eq!(written(&packets, false), (body.to_vec(), false));
        assert_eq!(read(body, false), packets.map(Ok));
    }

    #[test]
    fn lengths_of_text_count_utf_16_code_units() {
        let packets = [text("é€"), text("😀!"), EnginePacket::Pong { probe: false }];
        let body = "3:4é€4:4😀!1:3".as_bytes();
        assert_eq!(written(&packets, false).0, body);
        assert_eq!(read(body, false), packets.map(Ok));
    }

    #[test]
    fn a_length_in_the_middle_of_a_character_is_refused() {
        for body in ["2:4😀", "3:4é", "2:4é€", "4:4😀"] {
            assert!(
                read(body.as_bytes(), false).contains(&Err(ParseError)),
                "{body}"
            );
        }
    }

    #[test]
    fn an_empty_body_holds_no_packet() {
        for body in ["0:", "0:0:"] {
            assert_eq!(read(body.as_bytes(), false), [], "{body}");
        }
        assert_eq!(read(b"", false), [Err(ParseError)]);
        assert_eq!(read(b"", true), []);
        assert_eq!(
            read(b"0:1:20:", false),
            [Ok(EnginePacket::Ping { probe: false })]
        );
    }

    #[test]
    fn malformed_text_is_refused_after_its_whole_packets() {
        for body in [
            "abc",
            ":",
            "1",
            "1:",
            "2:4",
            "-1:4",
            "1e0:4",
            "+1:4",
            " 1:4",
            "1:x",
            "4:b5AA",
            "3:b4!",
            "1:b",
            "1:9",
            "9999999999:4",
            "18446744073709551617:4",
        ] {
            let packets = read(format!("1:2{body}").as_bytes(), false);
            let whole = Ok(EnginePacket::Ping { probe: false });
            assert_eq!(packets, [whole, Err(ParseError)], "{body}");
        }
    }

    #[test]
    fn a_text_that_is_not_utf_8_is_refused() {
        assert_eq!(read(b"2:4\xff", false), [Err(ParseError)]);
        assert_eq!(read(&[0, 2, 0xff, b'4', 0xff], true), [Err(ParseError)]);
    }

    #[test]
    fn malformed_bytes_are_refused_after_their_whole_packets() {
        let bodies: [&[u8]; 12] = [
            &[0],
            &[1],
            &[2, 1, 0xff, b'2'],
            &[0, 0xff, b'2'],
            &[0, 1],
            &[0, 1, 0xff],
            &[0, 2, 0xff, b'2'],
            &[0, 10, 0xff, b'2'],
            &[1, 1, 0xff, 2],
            &[1, 0, 0xff],
            &[0, 0, 0xff],
            &[1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 0xff, 4],
        ];
        for body in bodies {
            let body = [&[0, 1, 0xff, b'2'], body].concat();
            let whole = Ok(EnginePacket::Ping { probe: false });
            assert_eq!(read(&body, true), [whole, Err(ParseError)], "{body:?}");
        }
    }

    #[test]
    fn written_packets_are_read_again() {
        let packets = [
            EnginePacket::Message(Message::Binary(Bytes::new())),
            text(""),
            text("a:b\u{1e}😀"),
            EnginePacket::Noop,
            binary(&[0xff, 0, 1, 0x80]),
            EnginePacket::Close,
        ];
        for base64 in [false, true] {
            let (body, is_binary) = written(&packets, base64);
            assert_eq!(is_binary, !base64);
            assert_eq!(read(&body, is_binary), packets.clone().map(Ok));
        }
    }

    #[test]
    fn no_body_panics_or_yields_more_packets_than_bytes() {
        let seeds: [&[u8]; 4] = [
            "6:4hello2:4€10:b4AQIDBA==".as_bytes(),
            "4:4😀!1:20:".as_bytes(),
            &[
                0, 4, 0xff, b'4', 0xe2, 0x82, 0xac, 1, 5, 0xff, 4, 1, 2, 3, 4,
            ],
            &[1, 1, 0, 0xff, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ];
        let mut chance = Chance::new(3);
        for _ in 0..50_000 {
            let body = chance.mutate(&seeds, b":0123456789b4\xff\x00\x01");
            for is_binary in [false, true] {
                assert!(read(&body, is_binary).len() <= body.len() + 1);
            }
        }
    }
}
