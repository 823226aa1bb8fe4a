//! The MessagePack parser: a packet is one binary message, a map.
//!
//! ```text
//! {"type": 2, "data": ["hello", 1], "id": 12, "nsp": "/"}
//! ```
//!
//! The parser follows `socket.io-msgpack-parser` for Node, which uses `notepack.io`. It converts a
//! received value to the JSON of a [`Payload`], so that handlers need not know the parser:
//!
//! | MessagePack                                | JSON                                     |
//! |--------------------------------------------|------------------------------------------|
//! | nil, booleans, numbers, arrays, maps       | the same                                 |
//! | a float that is not finite                 | `null`, as `JSON.stringify` writes it    |
//! | text; a byte in it that is not UTF-8       | the same; U+FFFD                         |
//! | a key that is nil, a boolean or a number   | its JSON, in quotes                      |
//! | bytes, an `ArrayBuffer` of notepack        | an attachment                            |
//! | `undefined` of notepack                    | `null`                                   |
//! | a `Date` of notepack                       | the text that `Date.toJSON` returns      |
//! | an extension that notepack does not know   | `[type, attachment]`, as notepack does   |
//!
//! The parser writes the shortest form of each value, as notepack does. Node's parser accepts any
//! value as the name of an event; this parser checks the name as the JSON parser does.

mod from_json;
mod reader;
mod to_json;

#[cfg(feature = "msgpack")]
mod parser;

use bytes::Bytes;

#[cfg(feature = "msgpack")]
pub use self::parser::MsgpackParser;
use self::to_json::ToJson;
use super::DecodeError;

/// Converts a message to JSON and the attachments of its placeholders. The message is one value.
///
/// An extension of type −1 is a timestamp. It becomes text, as in `Date.toJSON`.
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
        .convert(message)
}

/// Converts JSON to MessagePack, with attachments in place of their placeholders.
pub(crate) fn json_to_msgpack(json: &[u8], attachments: &[Bytes]) -> Vec<u8> {
    let bytes: usize = attachments.iter().map(Bytes::len).sum();
    let mut out = Vec::with_capacity(json.len() + bytes + 16);
    from_json::write_json(&mut out, json, attachments);
    out
}
