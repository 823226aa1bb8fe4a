//! Messages as bytes, in the forms of Node's adapters.
//!
//! | file | form |
//! |---|---|
//! | [`classic`] | the classic Redis adapter, and the Redis emitter |
//! | [`envelope`] | the sharded Redis adapter, and most others |
//! | [`entry`] | the streams adapter |
//! | [`notification`] | the Postgres adapter |
//! | [`fields`] | what both have in common |
//! | [`saved`] | a saved socket |
//!
//! A message is JSON. If it contains bytes, it is MessagePack: the same value, with the bytes in
//! place of placeholders. So each form is written and read as JSON, and converted.

#[cfg(all(test, any(feature = "postgres", feature = "redis")))]
mod captured;
#[cfg(any(feature = "redis", feature = "unstable-internals"))]
#[cfg_attr(
    not(feature = "redis"),
    allow(dead_code, reason = "for the fuzz targets")
)]
pub(super) mod classic;
#[cfg(any(feature = "redis", feature = "unstable-internals"))]
#[cfg_attr(
    not(feature = "redis"),
    allow(dead_code, reason = "for the fuzz targets")
)]
pub(super) mod entry;
pub(super) mod envelope;
mod fields;
#[cfg(any(feature = "postgres", feature = "unstable-internals"))]
#[cfg_attr(
    not(feature = "postgres"),
    allow(dead_code, reason = "for the fuzz targets")
)]
pub(super) mod notification;
mod saved;

use bytes::Bytes;

use crate::protocol::{DecodeError, json_to_msgpack, msgpack_to_json};

/// A message in JSON, and the attachments of its placeholders.
#[derive(Debug)]
struct Text {
    json: Bytes,
    attachments: Vec<Bytes>,
}

impl Text {
    /// Reads a message in JSON or MessagePack. Bytes that are not UTF-8 become U+FFFD.
    fn read(bytes: &Bytes) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_LEN {
            return Err(DecodeError::limit("message is too long"));
        }
        if bytes.first() != Some(&b'{') {
            let (json, attachments) = msgpack_to_json(bytes, MAX_ATTACHMENTS)?;
            return Ok(Self {
                json: json.into(),
                attachments,
            });
        }
        let json = match std::str::from_utf8(bytes) {
            Ok(_) => bytes.clone(),
            Err(_) => String::from_utf8_lossy(bytes).into_owned().into(),
        };
        Ok(Self {
            json,
            attachments: Vec::new(),
        })
    }

    /// Returns the message as MessagePack.
    fn into_msgpack(self) -> Vec<u8> {
        json_to_msgpack(&self.json, &self.attachments)
    }

    /// Returns the message as JSON if it has no bytes, and as MessagePack otherwise.
    fn into_bytes(self) -> Vec<u8> {
        match self.attachments.is_empty() {
            // It is not shared, so this does not copy.
            true => self.json.into(),
            false => self.into_msgpack(),
        }
    }
}

/// The longest message that is read, in bytes.
const MAX_LEN: usize = 64 << 20;

/// The number of byte strings in a message that is read.
const MAX_ATTACHMENTS: usize = 10_000;

const MALFORMED: DecodeError = DecodeError::new("message has another form");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_at_most_10_000_binary_values() {
        // An array of empty ones.
        let message = |count: u32| {
            let mut bytes = vec![0xdd];
            bytes.extend(count.to_be_bytes());
            bytes.extend([0xc4, 0].repeat(count as usize));
            Bytes::from(bytes)
        };
        let read = Text::read(&message(10_000)).expect("not too many");
        assert_eq!(read.attachments.len(), 10_000);
        assert!(Text::read(&message(10_001)).is_err());
    }

    #[test]
    fn a_message_of_more_than_64_mib_is_not_read() {
        let message = |len| Bytes::from(vec![b'{'; len]);
        assert!(Text::read(&message(64 << 20)).is_ok());
        assert!(Text::read(&message((64 << 20) + 1)).is_err());
    }
}
