//! The form of the Postgres adapter: the JSON of an [envelope](super::envelope) as a notification. If it
//! is too long or has attachments, its MessagePack is in a table, and the notification says where.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::MALFORMED;
use super::envelope::{self, kind};
use super::fields::Json;
use crate::cluster::message::{Envelope, Message, RequestId};
use crate::protocol::{DecodeError, NamespaceName};

/// A message to send.
#[derive(Debug)]
pub(in crate::cluster) enum Encoded {
    /// The notification.
    Notification(String),
    /// A row of the table, and the notification up to the number of the row. [`HEADER_END`] follows the
    /// number.
    Attachment { header: String, payload: Vec<u8> },
}

/// The end of a notification that says where a message is.
pub(in crate::cluster) const HEADER_END: &str = "\"}";

/// Writes a message. A notification has at most `max` bytes. Returns `None` for a message that this form
/// cannot express.
pub(in crate::cluster) fn encode(envelope: &Envelope, max: usize) -> Option<Encoded> {
    let text = envelope::text(envelope)?;
    if text.attachments.is_empty() && text.json.len() <= max {
        // What this crate writes is UTF-8.
        return String::from_utf8(text.json.into())
            .ok()
            .map(Encoded::Notification);
    }
    let mut header = Json::default();
    header.raw(r#"{"uid":"#).value(&*envelope.from);
    header
        .raw(r#","type":"#)
        .value(&envelope::kind(&envelope.message)?);
    // Node's servers ignore it. Those of this crate need not fetch answers to others.
    if let Some(id) = request_id(&envelope.message) {
        header.raw(r#","requestId":"#).value(&**id);
    }
    header.raw(r#","attachmentId":""#);
    Some(Encoded::Attachment {
        header: String::from_utf8(header.0).ok()?,
        payload: text.into_msgpack(),
    })
}

/// Writes a message without data, such as a heartbeat.
pub(in crate::cluster) fn encode_sign(kind: u8, uid: &str, namespace: &str) -> String {
    let mut json = Json::default();
    json.raw(r#"{"type":"#).value(&kind);
    json.raw(r#","uid":"#).value(uid);
    json.raw(r#","nsp":"#).value(namespace).raw("}");
    // What this crate writes is UTF-8.
    String::from_utf8(json.0).unwrap_or_default()
}

fn request_id(message: &Message) -> Option<&RequestId> {
    match message {
        Message::Question(id, _) | Message::Answer(id, _) | Message::End(id) => Some(id),
        Message::Operation(..) | Message::ServerEvent(_) | Message::Displaced(..) => None,
    }
}

/// A notification.
#[derive(Debug, Deserialize)]
pub(in crate::cluster) struct Notification<'a> {
    #[serde(rename = "type")]
    pub(in crate::cluster) kind: u8,
    /// The id of the server that has sent it.
    #[serde(borrow)]
    pub(in crate::cluster) uid: Cow<'a, str>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(rename = "attachmentId")]
    attachment: Option<Value>,
    #[serde(rename = "requestId")]
    request_id: Option<Cow<'a, str>>,
}

impl<'a> Notification<'a> {
    /// Reads a notification, but not its data.
    ///
    /// # Errors
    ///
    /// Fails if it has another form.
    pub(in crate::cluster) fn read(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        serde_json::from_slice(bytes).map_err(|_| MALFORMED)
    }

    /// Returns the number of the row that has the message.
    ///
    /// # Errors
    ///
    /// Fails if it is not a number.
    pub(in crate::cluster) fn attachment(&self) -> Result<Option<i64>, DecodeError> {
        match &self.attachment {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(id)) => id.parse().map(Some).map_err(|_| MALFORMED),
            Some(id) => id.as_i64().map(Some).ok_or(MALFORMED),
        }
    }

    /// Returns whether the message is an answer to a question.
    pub(in crate::cluster) const fn is_answer(&self) -> bool {
        matches!(
            self.kind,
            kind::FETCH_SOCKETS_RESPONSE
                | kind::SERVER_SIDE_EMIT_RESPONSE
                | kind::BROADCAST_CLIENT_COUNT
                | kind::BROADCAST_ACK
                | kind::CLIENT_LEFT
        )
    }

    /// Returns the id of the question, if the notification has it.
    pub(in crate::cluster) fn request_id(&self) -> Option<RequestId> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Data<'a> {
            #[serde(borrow)]
            request_id: Cow<'a, str>,
        }

        if let Some(id) = &self.request_id {
            return Some(id.as_ref().into());
        }
        let data: Data<'_> = serde_json::from_str(self.data?.get()).ok()?;
        Some(data.request_id.as_ref().into())
    }

    /// Returns the message that the notification, whose bytes these are, has itself. Returns `None` if
    /// nothing is done for its type.
    ///
    /// # Errors
    ///
    /// Fails if the data have another form.
    pub(in crate::cluster) fn message(
        &self,
        bytes: &Bytes,
        namespace: &NamespaceName,
    ) -> Result<Option<Envelope>, DecodeError> {
        let data = self.data.map_or("{}", RawValue::get);
        let message = envelope::message(self.kind, data, bytes, Vec::new())?;
        let from = self.uid.as_ref().into();
        Ok(message.map(|message| Envelope::new(from, namespace.clone(), message)))
    }
}

/// Reads a notification, and writes what was read: as a notification, or as the row of a table.
#[cfg(feature = "unstable-internals")]
#[must_use]
pub fn rewrite(bytes: &Bytes) -> Option<Vec<u8>> {
    let notification = Notification::read(bytes).ok()?;
    let _ = (notification.attachment(), notification.request_id());
    let envelope = notification.message(bytes, &NamespaceName::MAIN).ok()??;
    match encode(&envelope, 8000)? {
        Encoded::Notification(text) => Some(text.into_bytes()),
        Encoded::Attachment { payload, .. } => Some(payload),
    }
}

#[cfg(test)]
mod tests;
