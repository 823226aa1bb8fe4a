//! The fields of messages that all forms have in common.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::de::{self, Deserializer, IgnoredAny, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{MALFORMED, Text};
use crate::engine_io::SocketId;
use crate::hub::other_servers::{MAX_ACK_WAIT, SocketDescription};
use crate::hub::selection::Target;
use crate::protocol::{DecodeError, Kind, Payload, read_json};

/// A writer of JSON.
#[derive(Default)]
pub(super) struct Json(pub(super) Vec<u8>);

impl Json {
    pub(super) fn raw(&mut self, text: impl AsRef<[u8]>) -> &mut Self {
        self.0.extend_from_slice(text.as_ref());
        self
    }

    /// Writes a value whose JSON always exists.
    pub(super) fn value(&mut self, value: &(impl Serialize + ?Sized)) -> &mut Self {
        // Texts, numbers and lists of them can always be written.
        let _ = serde_json::to_writer(&mut self.0, value);
        self
    }

    /// Writes an event as `{"type":2,"data":["name",…]}`, with its namespace if there is one.
    pub(super) fn packet(&mut self, payload: &Payload, namespace: Option<&str>) -> &mut Self {
        self.raw(r#"{"type":2,"data":"#).raw(payload.json());
        if let Some(namespace) = namespace {
            self.raw(r#","nsp":"#).value(namespace);
        }
        self.raw("}")
    }

    /// Writes a target as `{"rooms":[…],"except":[…]}`, with flags if there are any.
    pub(super) fn target(&mut self, target: &Target, flags: Option<Flags>) -> &mut Self {
        self.raw(r#"{"rooms":"#).rooms(&target.rooms);
        self.raw(r#","except":"#).rooms(&target.except);
        if let Some(flags) = flags {
            self.raw(r#","flags":"#).value(&flags);
        }
        self.raw("}")
    }

    /// Writes a list of rooms.
    pub(super) fn rooms(&mut self, rooms: &[Arc<str>]) -> &mut Self {
        self.value(&rooms.iter().map(|room| &**room).collect::<Vec<&str>>())
    }

    /// Writes the first argument of an answer, or `null`.
    pub(super) fn first_arg(&mut self, payload: &Payload) -> &mut Self {
        let args = payload.tail();
        let mut values = serde_json::Deserializer::from_slice(args).into_iter::<IgnoredAny>();
        match values.next() {
            Some(Ok(_)) => {
                let end = values.byte_offset();
                self.raw(&args[..end])
            }
            _ => self.raw("null"),
        }
    }

    pub(super) fn sockets(&mut self, sockets: &[SocketDescription]) -> &mut Self {
        self.raw("[");
        for (at, socket) in sockets.iter().enumerate() {
            let SocketDescription {
                id,
                rooms,
                data,
                handshake,
            } = socket;
            self.raw(if at > 0 { r#",{"id":"# } else { r#"{"id":"# })
                .value(id.as_str());
            self.raw(r#","handshake":"#).raw(&**handshake);
            self.raw(r#","rooms":"#).value(rooms);
            // Node's servers have an object if the application has set no data.
            self.raw(r#","data":"#);
            match data {
                Some(data) => self.value(&**data),
                None => self.raw("{}"),
            };
            self.raw("}");
        }
        self.raw("]")
    }

    /// Returns the message, with the attachments of a payload.
    pub(super) fn with(self, payload: &Payload) -> Text {
        Text {
            json: self.0.into(),
            attachments: payload.attachments().cloned().collect(),
        }
    }

    pub(super) fn text(self) -> Text {
        Text {
            json: self.0.into(),
            attachments: Vec::new(),
        }
    }
}

/// The flags of a broadcast.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Flags {
    #[serde(skip_serializing_if = "is_false")]
    pub(super) volatile: bool,
    #[serde(skip_serializing_if = "is_none")]
    pub(super) compress: Option<bool>,
    #[serde(skip_serializing_if = "is_none")]
    pub(super) timeout: Option<u64>,
}

const fn is_false(value: &bool) -> bool {
    !*value
}

const fn is_none<T>(value: &Option<T>) -> bool {
    value.is_none()
}

impl Flags {
    pub(super) fn of(payload: &Payload, volatile: bool) -> Self {
        Self {
            volatile,
            compress: payload.uncompressed.then_some(false),
            timeout: None,
        }
    }
}

/// `{rooms, except, flags}`. A missing list is empty.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Opts {
    rooms: Option<Vec<Room>>,
    except: Option<Vec<Room>>,
    flags: Option<HashMap<String, Value>>,
}

impl Opts {
    pub(super) fn target(&mut self) -> Target {
        Target {
            rooms: names(self.rooms.take()),
            except: names(self.except.take()),
        }
    }

    pub(super) fn is_volatile(&self) -> bool {
        self.flag("volatile") == Some(&Value::Bool(true))
    }

    pub(super) fn is_uncompressed(&self) -> bool {
        self.flag("compress") == Some(&Value::Bool(false))
    }

    /// Returns how long clients may take to acknowledge an event.
    pub(super) fn timeout(&self) -> Duration {
        let timeout = self.flag("timeout").and_then(Value::as_u64);
        timeout.map_or(MAX_ACK_WAIT, |ms| {
            Duration::from_millis(ms).min(MAX_ACK_WAIT)
        })
    }

    fn flag(&self, name: &str) -> Option<&Value> {
        self.flags.as_ref()?.get(name)
    }
}

/// The name of a room. Scripts may use a number.
#[derive(Debug)]
pub(super) struct Room<Name = Arc<str>>(Name);

pub(super) fn names<Name>(rooms: Option<Vec<Room<Name>>>) -> Vec<Name> {
    rooms.into_iter().flatten().map(|Room(name)| name).collect()
}

impl<'de, Name: for<'a> From<&'a str>> Deserialize<'de> for Room<Name> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RoomVisitor<Name>(PhantomData<Name>);

        impl<Name: for<'a> From<&'a str>> Visitor<'_> for RoomVisitor<Name> {
            type Value = Room<Name>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a room")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Room(name.into()))
            }

            fn visit_u64<E: de::Error>(self, name: u64) -> Result<Self::Value, E> {
                self.visit_str(&name.to_string())
            }

            fn visit_i64<E: de::Error>(self, name: i64) -> Result<Self::Value, E> {
                self.visit_str(&name.to_string())
            }

            fn visit_f64<E: de::Error>(self, name: f64) -> Result<Self::Value, E> {
                self.visit_str(&name.to_string())
            }
        }

        deserializer.deserialize_any(RoomVisitor(PhantomData))
    }
}

/// `{type, data, nsp}` of an event.
#[derive(Deserialize)]
pub(super) struct Packet<'a> {
    r#type: Option<u8>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    id: Option<IgnoredAny>,
    #[cfg(any(feature = "redis", feature = "unstable-internals"))]
    #[serde(borrow)]
    nsp: Option<Cow<'a, str>>,
}

impl Packet<'_> {
    /// Returns whether the packet asks one client for an acknowledgement. With recovery, a server of Node
    /// sends it to all servers, but only its own client is meant.
    pub(super) fn is_question(&self) -> bool {
        self.id.is_some()
    }

    /// Returns the namespace, if the packet names one.
    #[cfg(any(feature = "redis", feature = "unstable-internals"))]
    pub(super) fn namespace(&self) -> Option<&str> {
        self.nsp.as_deref()
    }

    /// Returns the event.
    pub(super) fn event(
        &self,
        json: &Bytes,
        attachments: Vec<Bytes>,
        opts: &Opts,
    ) -> Result<Payload, DecodeError> {
        /// EVENT and BINARY_EVENT.
        const EVENTS: [u8; 2] = [2, 5];

        if !self.r#type.is_some_and(|kind| EVENTS.contains(&kind)) {
            return Err(DecodeError::new("packet is not an event"));
        }
        let mut payload = event(json, self.data.ok_or(MALFORMED)?, attachments)?;
        payload.uncompressed = opts.is_uncompressed();
        Ok(payload)
    }
}

/// Returns the event of an array `["name",…]`, which is a piece of `json`.
pub(super) fn event(
    json: &Bytes,
    array: &RawValue,
    attachments: Vec<Bytes>,
) -> Result<Payload, DecodeError> {
    let event = json.slice_ref(array.get().as_bytes());
    Payload::from_json(Kind::Event, event, attachments)
}

/// Returns an answer with one argument.
pub(super) fn answer(
    value: Option<&RawValue>,
    attachments: Vec<Bytes>,
) -> Result<Payload, DecodeError> {
    let value = value.map_or("", RawValue::get);
    Payload::from_json(Kind::Ack, format!("[{value}]").into(), attachments)
}

/// Returns the number of clients that a server has asked.
pub(super) fn client_count(count: Option<&Value>) -> Result<usize, DecodeError> {
    /// No server has more clients.
    const MAX_CLIENTS: u64 = 100_000_000;

    let count = count.and_then(Value::as_u64);
    let count = count.filter(|count| *count <= MAX_CLIENTS);
    count
        .map(|count| count as usize)
        .ok_or(DecodeError::new("number of clients is not valid"))
}

/// `{id, handshake, rooms, data}`.
#[derive(Deserialize)]
pub(super) struct Described<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    handshake: Option<&'a RawValue>,
    #[serde(borrow)]
    rooms: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

/// Returns the sockets of another server. A socket whose id has another form than Node's is left
/// out. Rooms and data that cannot be read are empty.
pub(super) fn sockets(
    described: Vec<Described<'_>>,
    attachments: &[Bytes],
) -> Vec<SocketDescription> {
    let sockets = described.into_iter().filter_map(|socket| {
        let mut handshake: Arc<str> = socket.handshake.map_or("{}", RawValue::get).into();
        let rooms = socket.rooms.and_then(|rooms| read_json(rooms.get()).ok());
        let mut data: Value = socket
            .data
            .and_then(|data| read_json(data.get()).ok())
            .unwrap_or_default();
        if !attachments.is_empty() {
            insert_buffers(&mut data, attachments);
            if let Ok(mut parsed) = read_json::<Value>(&handshake) {
                insert_buffers(&mut parsed, attachments);
                handshake = parsed.to_string().into();
            }
        }
        Some(SocketDescription {
            id: SocketId::parse(&socket.id)?,
            rooms: names::<String>(rooms),
            data: Some(data).filter(|data| !data.is_null()).map(Arc::new),
            handshake,
        })
    });
    sockets.collect()
}

/// Replaces placeholders by what `JSON.stringify` makes of a `Buffer`.
pub(super) fn insert_buffers(value: &mut Value, attachments: &[Bytes]) {
    let num = value
        .get("_placeholder")
        .filter(|placeholder| **placeholder == Value::Bool(true))
        .and_then(|_| value.get("num")?.as_u64());
    if let Some(bytes) = num.and_then(|num| attachments.get(usize::try_from(num).ok()?)) {
        *value = serde_json::json!({ "type": "Buffer", "data": bytes.to_vec() });
        return;
    }
    match value {
        Value::Array(values) => {
            for value in values {
                insert_buffers(value, attachments);
            }
        }
        Value::Object(fields) => {
            for value in fields.values_mut() {
                insert_buffers(value, attachments);
            }
        }
        _ => {}
    }
}
