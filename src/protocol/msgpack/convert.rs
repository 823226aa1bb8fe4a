//! The conversion of whole messages, for servers of a cluster.

use bytes::Bytes;

use super::from_json::write_json;
use super::to_json::ToJson;
use crate::protocol::DecodeError;

/// The most levels of a message around the `auth` of a client, in the description of its socket. Around an
/// event there are fewer.
const ENVELOPE_DEPTH: usize = 5;

/// Converts a message to JSON and the attachments of its placeholders. The message is one value.
///
/// An extension of type −1 is a timestamp. It becomes text, as in `Date.toJSON`. An event within the
/// message may be as deep as that of a client.
///
/// # Errors
///
/// Fails if the message is not MessagePack, is nested too deeply, or has too many byte strings.
pub(crate) fn msgpack_to_json(
    message: &Bytes,
    max_attachments: usize,
) -> Result<(Vec<u8>, Vec<Bytes>), DecodeError> {
    ToJson::new(message, max_attachments)
        .timestamps()
        .deeper(ENVELOPE_DEPTH)
        .convert(message)
}

/// Converts JSON to MessagePack, with attachments in place of their placeholders.
pub(crate) fn json_to_msgpack(json: &[u8], attachments: &[Bytes]) -> Vec<u8> {
    let bytes: usize = attachments.iter().map(Bytes::len).sum();
    let mut out = Vec::with_capacity(json.len() + bytes + 16);
    write_json(&mut out, json, attachments);
    out
}
