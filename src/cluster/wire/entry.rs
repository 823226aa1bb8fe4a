//! The form of an entry of a stream: the fields of an [envelope](super::envelope).

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;

use super::envelope::{data, message};
use super::fields::Json;
use super::{MALFORMED, Text};
use crate::cluster::message::{Envelope, Message};
use crate::protocol::{DecodeError, NamespaceName};

/// Writes `data` for an entry of a stream: JSON, or MessagePack in base64 if it has attachments.
pub(in crate::cluster) fn encode_data(message: &Message) -> Vec<u8> {
    let mut json = Json::default();
    let text = match data(&mut json, message) {
        Some(payload) => json.with(payload),
        None => json.text(),
    };
    match text.attachments.is_empty() {
        true => text.json.into(),
        false => BASE64_STANDARD.encode(text.into_msgpack()).into_bytes(),
    }
}

/// Reads an entry of a stream. Returns `None` if it is of a type that nothing is done for.
///
/// # Errors
///
/// Fails if the entry has another form.
pub(in crate::cluster) fn decode_entry(
    kind: u8,
    uid: &str,
    namespace: &NamespaceName,
    data: &Bytes,
) -> Result<Option<Envelope>, DecodeError> {
    let read = |bytes: &Bytes| Text::read(bytes).map(|text| (text.json, text.attachments));
    let (json, attachments) = match data.first() {
        // Some types have no data.
        None => (Bytes::from_static(b"{}"), Vec::new()),
        Some(b'{') => read(data)?,
        Some(_) => {
            let data = BASE64_STANDARD.decode(data).map_err(|_| MALFORMED)?;
            read(&data.into())?
        }
    };
    let data = std::str::from_utf8(&json).map_err(|_| MALFORMED)?;
    message(kind, data, &json, attachments)
        .map(|message| Some(Envelope::new(uid.into(), namespace.clone(), message?)))
}

/// Reads the data of an entry, and writes what was read.
#[cfg(feature = "unstable-internals")]
#[must_use]
pub fn rewrite(kind: u8, data: &Bytes) -> Option<Vec<u8>> {
    let read = decode_entry(kind, "uid", &NamespaceName::MAIN, data);
    read.ok()?.map(|envelope| encode_data(&envelope.message))
}
