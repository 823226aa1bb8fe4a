//! The server's frames, which are never masked and never fragmented.
//!
//! ```
//! use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
//! use tower_socketio::internals::{MAX_HEADER, header};
//!
//! // Reserve room for the header, append the message, then write the header right before it.
//! let mut buf = vec![0; MAX_HEADER];
//! buf.extend_from_slice(b"hello");
//! let (bytes, len) = header(OpCode::Data(Data::Text), buf.len() - MAX_HEADER);
//! buf[..MAX_HEADER].copy_from_slice(&bytes);
//! assert_eq!(buf[MAX_HEADER - len..], *b"\x81\x05hello");
//! ```

use super::header::{COMPRESSED, FINAL, MAX_CONTROL};
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, OpCode};

/// The longest header of a server's frame, in bytes.
pub const MAX_HEADER: usize = 10;

/// Encodes the header of an unfragmented frame with a payload of `len` bytes.
///
/// The header is at the end of the returned array. The second value is its length.
#[must_use]
#[inline]
pub fn header(opcode: OpCode, len: usize) -> ([u8; MAX_HEADER], usize) {
    let mut bytes = [0; MAX_HEADER];
    // The length field is at the end of the array. The two bytes before it are set below.
    bytes[2..].copy_from_slice(&(len as u64).to_be_bytes());
    let (size, marker) = match len {
        0..=125 => (2, bytes[9]),
        126..=0xffff => (4, 126),
        _ => (10, 127),
    };
    let start = MAX_HEADER - size;
    bytes[start] = FINAL | u8::from(opcode);
    bytes[start + 1] = marker;
    (bytes, size)
}

/// Encodes the header of a frame with a message that is compressed to `len` bytes.
///
/// It returns the same values as [`header`].
#[must_use]
pub fn compressed_header(opcode: OpCode, len: usize) -> ([u8; MAX_HEADER], usize) {
    let (mut bytes, size) = header(opcode, len);
    bytes[MAX_HEADER - size] |= COMPRESSED;
    (bytes, size)
}

/// Encodes a close frame.
///
/// Without a code the frame has no reason either. A reason of more than 123 bytes is cut off
/// between two characters.
#[must_use]
pub fn close_frame(code: Option<u16>, reason: &str) -> Vec<u8> {
    let Some(code) = code else {
        return control_frame(Control::Close, &[]);
    };
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(cut(reason, MAX_CONTROL - 2).as_bytes());
    control_frame(Control::Close, &payload)
}

/// Encodes the answer to a ping with `data`. Cuts off `data` after 125 bytes, the maximum for a
/// ping.
#[must_use]
pub fn pong_frame(data: &[u8]) -> Vec<u8> {
    control_frame(Control::Pong, &data[..data.len().min(MAX_CONTROL)])
}

fn control_frame(control: Control, payload: &[u8]) -> Vec<u8> {
    let (bytes, size) = header(OpCode::Control(control), payload.len());
    let mut frame = Vec::with_capacity(size + payload.len());
    frame.extend_from_slice(&bytes[MAX_HEADER - size..]);
    frame.extend_from_slice(payload);
    frame
}

/// Returns the longest prefix of `text` that has at most `max` bytes.
fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::Data;

    use super::*;

    #[test]
    fn a_header_says_its_opcode_and_length_in_the_shortest_form() {
        let lengths = [
            (0, 2),
            (1, 2),
            (125, 2),
            (126, 4),
            (127, 4),
            (65_535, 4),
            (65_536, 10),
            (16 << 20, 10),
        ];
        for opcode in [
            OpCode::Data(Data::Text),
            OpCode::Data(Data::Binary),
            OpCode::Control(Control::Close),
            OpCode::Control(Control::Ping),
            OpCode::Control(Control::Pong),
        ] {
            for (len, size) in lengths {
                let (bytes, got) = header(opcode, len);
                assert_eq!(got, size, "length {len}");
                let mut cursor = Cursor::new(&bytes[MAX_HEADER - size..]);
                let (parsed, parsed_len) = FrameHeader::parse(&mut cursor).unwrap().unwrap();
                assert_eq!((parsed.opcode, parsed_len), (opcode, len as u64));
                assert!(parsed.is_final && parsed.mask.is_none());
                assert!(!parsed.rsv1 && !parsed.rsv2 && !parsed.rsv3);
            }
        }
    }

    #[test]
    fn a_close_frame_has_a_code_and_a_reason_or_nothing() {
        assert_eq!(close_frame(None, "ignored"), b"\x88\x00");
        assert_eq!(close_frame(Some(1000), ""), b"\x88\x02\x03\xe8");
        assert_eq!(close_frame(Some(1002), "no"), b"\x88\x04\x03\xeano");
    }

    #[test]
    fn a_long_reason_is_cut_between_two_characters() {
        let fits = close_frame(Some(1000), &"x".repeat(123));
        assert_eq!(fits[..2], [0x88, 125]);
        assert_eq!(close_frame(Some(1000), &"x".repeat(500)), fits);

        let cut = close_frame(Some(1000), &format!("x{}", "ä".repeat(100)));
        assert_eq!(cut[..2], [0x88, 125]);
        let cut = close_frame(Some(1000), &"ä".repeat(100));
        assert_eq!(cut[..2], [0x88, 124]);
        assert_eq!(std::str::from_utf8(&cut[4..]).unwrap(), "ä".repeat(61));
    }

    #[test]
    fn a_pong_carries_the_data_of_its_ping() {
        assert_eq!(pong_frame(b""), b"\x8a\x00");
        assert_eq!(pong_frame(b"hi"), b"\x8a\x02hi");
        assert_eq!(pong_frame(&[1; 200]).len(), 127);
    }
}
