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

#[cfg(feature = "wire")]
mod convert;

#[cfg(feature = "wire")]
pub(crate) use self::convert::{json_to_msgpack, msgpack_to_json};
#[cfg(feature = "msgpack")]
pub use self::parser::MsgpackParser;
