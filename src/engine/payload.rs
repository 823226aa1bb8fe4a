//! Packets ↔ one polling body: joined by the record separator, binary as `b` + base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes};

use super::{Message, Packet, ParseError};

/// U+001E, which no JSON text holds.
const SEPARATOR: u8 = 0x1e;

/// The packets of a body, read one by one: a body of a million separators costs no list.
#[derive(Clone, Debug)]
pub struct Packets {
    rest: Option<Bytes>,
}

impl Packets {
    /// Reads a body.
    ///
    /// # Errors
    ///
    /// If it is not UTF-8.
    pub fn new(body: Bytes) -> Result<Self, ParseError> {
        std::str::from_utf8(&body).map_err(|_| ParseError)?;
        Ok(Self { rest: Some(body) })
    }
}

impl Iterator for Packets {
    type Item = Result<Packet, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.as_mut()?;
        let record = match rest.iter().position(|byte| *byte == SEPARATOR) {
            Some(at) => {
                let record = rest.split_to(at);
                rest.advance(1);
                record
            }
            None => self.rest.take()?,
        };
        let packet = decode(&record);
        if packet.is_err() {
            self.rest = None;
        }
        Some(packet)
    }
}

/// Reads a text frame, or one packet of a body: binary may come as `b` + base64.
pub(crate) fn decode(record: &[u8]) -> Result<Packet, ParseError> {
    let Some((b'b', base64)) = record.split_first() else {
        return Packet::from_text(record);
    };
    let data = STANDARD.decode(base64).map_err(|_| ParseError)?;
    Ok(Packet::Message(Message::Binary(data.into())))
}

/// Appends a packet to a body.
pub(crate) fn push(body: &mut Vec<u8>, packet: &Packet) {
    if !body.is_empty() {
        body.push(SEPARATOR);
    }
    match packet {
        Packet::Open(json) => {
            body.push(b'0');
            body.extend_from_slice(json);
        }
        Packet::Message(Message::Text(text)) => {
            body.push(b'4');
            body.extend_from_slice(text.as_bytes());
        }
        Packet::Message(Message::Binary(data)) => {
            body.push(b'b');
            body.extend_from_slice(STANDARD.encode(data).as_bytes());
        }
        control => body.extend_from_slice(control.control_text()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Text;

    fn read(body: &str) -> Vec<Result<Packet, ParseError>> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        Packets::new(body).expect("UTF-8").collect()
    }

    #[test]
    fn the_protocols_example_is_read_and_written() {
        let packets = [
            Packet::Message(Text::from("hello").into()),
            Packet::Ping { probe: false },
            Packet::Message(Message::Binary(Bytes::from_static(&[1, 2, 3, 4]))),
        ];
        let body = "4hello\x1e2\x1ebAQIDBA==";
        assert_eq!(read(body), packets.clone().map(Ok));

        let mut written = Vec::new();
        packets.iter().for_each(|packet| push(&mut written, packet));
        assert_eq!(written, body.as_bytes());
    }

    #[test]
    fn packets_before_a_bad_one_are_delivered_and_none_after() {
        let packets = read("4a\x1eabc\x1e4b");
        assert_eq!(packets.len(), 2);
        assert_eq!(packets[1], Err(ParseError));
    }

    #[test]
    fn bad_bodies_are_refused() {
        assert!(Packets::new(Bytes::from_static(&[0xff])).is_err());
        for body in ["", "\x1e", "b!", "4a\x1e"] {
            assert_eq!(read(body).last(), Some(&Err(ParseError)), "{body:?}");
        }
    }
}
