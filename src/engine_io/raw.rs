//! Frames and polling bodies without a session, for the tests of this repository.

use bytes::Bytes;

use super::{EnginePacket, ParseError, Revision, jsonp, payload, record};

/// Parses the payload of one WebSocket message, as a session does.
///
/// # Errors
///
/// Fails if it is not an Engine.IO packet.
pub fn decode_frame(
    data: Bytes,
    is_binary: bool,
    revision: Revision,
) -> Result<EnginePacket, ParseError> {
    match is_binary {
        true => payload::decode_binary(data, revision),
        false => record::decode(&data, revision),
    }
}

/// Writes a polling body. Returns the body, and whether it is binary.
#[must_use]
pub fn encode_payload(
    packets: impl IntoIterator<Item = EnginePacket>,
    revision: Revision,
    base64: bool,
) -> (Bytes, bool) {
    let mut body = payload::Body::new(revision, base64);
    packets.into_iter().for_each(|packet| body.push(packet));
    body.finish()
}

/// Wraps a body in a JSONP script.
#[must_use]
pub fn jsonp_script(index: &str, body: &[u8]) -> Vec<u8> {
    jsonp::script(index, body)
}
