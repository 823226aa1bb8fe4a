//! The header of a client's frame ([RFC 6455, 5.2]).
//!
//! ```text
//!  0               1               2 …             up to 13
//! +-+-+-+-+-------+-+-------------+---------------+-----------------+
//! |F|R|R|R| opcode|M| length, 126 | length, 2 or  | masking key,    |
//! |I|S|S|S|       |A| or 127      | 8 bytes, if   | 4 bytes         |
//! |N|V|V|V|       |S|             | 126 or 127    |                 |
//! +-+-+-+-+-------+-+-------------+---------------+-----------------+
//! ```
//!
//! This module does not use tungstenite's `FrameHeader::parse`, which reads through a `Cursor` and
//! has an error of many variants. That costs 20 ns more for each frame, as much as all other work
//! for a short message. The test below compares both.
//!
//! [RFC 6455, 5.2]: https://www.rfc-editor.org/rfc/rfc6455#section-5.2

use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::WebSocketError;

/// A header that passed all checks that do not depend on earlier frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) opcode: OpCode,
    pub(super) is_final: bool,
    /// Whether the frame begins a compressed message.
    pub(super) compressed: bool,
    pub(super) mask: [u8; 4],
    pub(super) len: usize,
}

impl Header {
    /// Parses the header at the start of `bytes`. Returns it with its length, or `None` if it is
    /// incomplete. `reserved` has the bits of the first byte that must be 0.
    #[inline]
    pub(super) fn parse(
        bytes: &[u8],
        reserved: u8,
    ) -> Result<Option<(Self, usize)>, WebSocketError> {
        let [first, second, rest @ ..] = bytes else {
            return Ok(None);
        };
        let opcode = check(*first, *second, reserved)?;
        let Some((len, rest)) = parse_len(second & LENGTH, rest)? else {
            return Ok(None);
        };
        let Some((&mask, rest)) = rest.split_first_chunk() else {
            return Ok(None);
        };
        let header = Self {
            opcode,
            is_final: first & FINAL != 0,
            compressed: first & COMPRESSED != 0,
            mask,
            len,
        };
        Ok(Some((header, bytes.len() - rest.len())))
    }

    /// Whether the frame's payload is only a part of a message.
    #[inline]
    pub(super) fn is_fragment(&self) -> bool {
        !self.is_final || self.opcode == OpCode::Data(Data::Continue)
    }
}

/// Checks the first two bytes and returns the opcode.
#[inline]
fn check(first: u8, second: u8, reserved: u8) -> Result<OpCode, WebSocketError> {
    if first & reserved != 0 {
        return Err(WebSocketError::RESERVED_BIT);
    }
    let opcode = match OpCode::from(first & OPCODE) {
        OpCode::Data(Data::Reserved(_)) | OpCode::Control(Control::Reserved(_)) => {
            return Err(WebSocketError::RESERVED_OPCODE);
        }
        opcode => opcode,
    };
    // > an endpoint MUST NOT set it on control frames and on non-first fragments
    let begins = matches!(opcode, OpCode::Data(Data::Text | Data::Binary));
    if first & COMPRESSED != 0 && !begins {
        return Err(WebSocketError::RESERVED_BIT);
    }
    if second & MASKED == 0 {
        return Err(WebSocketError::UNMASKED);
    }
    if let OpCode::Control(_) = opcode {
        if first & FINAL == 0 {
            return Err(WebSocketError::FRAGMENTED_CONTROL);
        }
        if usize::from(second & LENGTH) > MAX_CONTROL {
            return Err(WebSocketError::LONG_CONTROL);
        }
    }
    Ok(opcode)
}

/// Parses the payload's length from the 7 bits of the second byte and, if they say so, from `rest`.
///
/// Returns the length and the bytes after it, or `None` if the length is incomplete.
#[inline]
fn parse_len(short: u8, rest: &[u8]) -> Result<Option<(usize, &[u8])>, WebSocketError> {
    match short {
        126 => {
            let long = rest.split_first_chunk();
            Ok(long.map(|(len, rest)| (usize::from(u16::from_be_bytes(*len)), rest)))
        }
        127 => match rest.split_first_chunk() {
            Some((len, rest)) => Ok(Some((check_len(u64::from_be_bytes(*len))?, rest))),
            None => Ok(None),
        },
        _ => Ok(Some((usize::from(short), rest))),
    }
}

fn check_len(len: u64) -> Result<usize, WebSocketError> {
    // > the most significant bit MUST be 0
    if len >> 63 != 0 {
        return Err(WebSocketError::LENGTH_OVERFLOW);
    }
    // A length above `usize::MAX` exceeds every limit.
    usize::try_from(len).map_err(|_| WebSocketError::TOO_BIG)
}

/// The bit of the last frame of a message.
pub(super) const FINAL: u8 = 0x80;
/// The bits that are reserved for extensions.
pub(super) const RESERVED: u8 = 0x70;
/// The reserved bit that marks a compressed message.
pub(super) const COMPRESSED: u8 = 0x40;
const OPCODE: u8 = 0x0f;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;

/// > All control frames MUST have a payload length of 125 bytes or less.
pub(super) const MAX_CONTROL: usize = 125;

/// The longest header of a client's frame, in bytes.
pub(super) const MAX_CLIENT_HEADER: usize = 14;

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;

    use super::*;

    fn agrees_with_tungstenite(bytes: &[u8]) {
        let mut cursor = Cursor::new(bytes);
        let theirs = FrameHeader::parse(&mut cursor);
        match (Header::parse(bytes, RESERVED), theirs) {
            (Ok(Some((ours, size))), Ok(Some((theirs, len)))) => {
                assert_eq!((size as u64, ours.len as u64), (cursor.position(), len));
                assert_eq!((ours.opcode, Some(ours.mask)), (theirs.opcode, theirs.mask));
                assert_eq!(ours.is_final, theirs.is_final);
            }
            (Ok(None), theirs) => assert_eq!(theirs.unwrap(), None, "{bytes:x?}"),
            (Err(violation), Ok(Some((theirs, len)))) => {
                let expected = match violation {
                    WebSocketError::RESERVED_BIT => theirs.rsv1 || theirs.rsv2 || theirs.rsv3,
                    WebSocketError::UNMASKED => theirs.mask.is_none(),
                    WebSocketError::FRAGMENTED_CONTROL => !theirs.is_final,
                    WebSocketError::LONG_CONTROL => bytes[1] & LENGTH > 125,
                    WebSocketError::LENGTH_OVERFLOW => len >> 63 != 0,
                    _ => false,
                };
                assert!(expected, "{violation} in {bytes:x?}");
            }
            // `Header` refuses the first two bytes, or both parsers refuse the opcode.
            (Err(_), Ok(None) | Err(_)) => (),
            (Ok(Some(_)), theirs) => panic!("{theirs:?} of {bytes:x?}"),
        }
    }

    #[test]
    fn every_header_of_any_length_is_parsed_as_tungstenite_does() {
        let rest = [
            0x00, 0xfe, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a,
        ];
        for two in 0..=u16::MAX {
            let bytes = [&two.to_be_bytes()[..], &rest].concat();
            for len in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14] {
                agrees_with_tungstenite(&bytes[..len]);
            }
        }
    }

    #[test]
    fn a_violation_is_detected_in_the_first_two_bytes() {
        assert_eq!(
            Header::parse(b"\xc1\x80", RESERVED).unwrap_err(),
            WebSocketError::RESERVED_BIT
        );
        assert_eq!(
            Header::parse(b"\x83\x80", RESERVED).unwrap_err(),
            WebSocketError::RESERVED_OPCODE
        );
        assert_eq!(
            Header::parse(b"\x81\x7f", RESERVED).unwrap_err(),
            WebSocketError::UNMASKED
        );
        assert_eq!(
            Header::parse(b"\x09\x80", RESERVED).unwrap_err(),
            WebSocketError::FRAGMENTED_CONTROL
        );
        assert_eq!(
            Header::parse(b"\x89\xfe", RESERVED).unwrap_err(),
            WebSocketError::LONG_CONTROL
        );
        assert!(Header::parse(b"\x81\xfe", RESERVED).unwrap().is_none());
    }
}
