//! One packet as text: in a text frame, or in a polling body.

use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use base64::engine::{DecodePaddingMode, Engine as _};

use super::{EnginePacket, Message, ParseError, Revision};

/// Base64 with or without padding.
const UNPADDED: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Parses a text frame, or one packet of a polling body.
///
/// A binary message is `b` + base64, in revision 3 `b4` + base64.
// Inlining saves 20 instructions for each event.
#[inline(always)]
pub(crate) fn decode(record: &[u8], revision: Revision) -> Result<EnginePacket, ParseError> {
    let Some((b'b', base64)) = record.split_first() else {
        return EnginePacket::from_text(record);
    };
    let base64 = match revision {
        Revision::V4 => base64,
        Revision::V3 => base64.strip_prefix(b"4").ok_or(ParseError)?,
    };
    let data = STANDARD.decode(base64);
    let data = data.or_else(|_| decode_with_breaks(base64))?;
    Ok(EnginePacket::Message(Message::Binary(data.into())))
}

/// Decodes base64 with line breaks, which the official Java client writes after 76 digits and at the end.
/// The padding may be missing, as for the reference implementation.
#[cold]
fn decode_with_breaks(base64: &[u8]) -> Result<Vec<u8>, ParseError> {
    let digits = base64.iter().copied();
    let digits: Vec<u8> = digits.filter(|byte| !b"\r\n".contains(byte)).collect();
    UNPADDED.decode(digits).map_err(|_| ParseError)
}

/// Appends a packet as text. Binary messages are encoded as base64.
pub(crate) fn push_packet(body: &mut Vec<u8>, packet: &EnginePacket, revision: Revision) {
    match packet {
        EnginePacket::Open(json) => {
            body.push(b'0');
            body.extend_from_slice(json);
        }
        EnginePacket::Message(Message::Text(text)) => {
            body.push(b'4');
            body.extend_from_slice(text.as_bytes());
        }
        EnginePacket::Message(Message::Binary(data) | Message::Uncompressed(data))
            if revision == Revision::V3 =>
        {
            push_base64(body, data);
        }
        EnginePacket::Message(Message::Binary(data) | Message::Uncompressed(data)) => {
            body.push(b'b');
            body.extend_from_slice(STANDARD.encode(data).as_bytes());
        }
        control => body.extend_from_slice(control.control_text()),
    }
}

/// Appends a binary message as text.
pub(super) fn push_base64(text: &mut Vec<u8>, data: &[u8]) {
    text.extend_from_slice(b"b4");
    text.extend_from_slice(STANDARD.encode(data).as_bytes());
}
