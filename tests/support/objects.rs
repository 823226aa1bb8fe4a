//! A custom parser, for tests and for the server that official clients are tested against.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tower_socketio::engine::Message;
use tower_socketio::protocol::{DecodeError, Decoder, Encoded, Kind, Packet, Parser, Payload};

/// Writes each packet as a JSON object. It does not support bytes.
#[derive(Debug)]
pub(crate) struct Objects;

#[derive(Serialize)]
struct Written<'a> {
    r#type: u8,
    nsp: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
}

impl Parser for Objects {
    fn encode(&self, packet: Packet) -> Encoded {
        let object = Written {
            r#type: packet.kind as u8,
            nsp: &packet.namespace,
            id: packet.ack,
            data: serde_json::from_slice(packet.payload.json()).ok(),
        };
        let text = serde_json::to_string(&object).expect("it has nothing that JSON has not");
        Message::Text(text.as_str().into()).into()
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(Self)
    }
}

#[derive(Deserialize)]
struct Read {
    r#type: u64,
    nsp: String,
    id: Option<u64>,
    data: Option<Box<RawValue>>,
}

impl Decoder for Objects {
    fn decode(&mut self, message: Message) -> Result<Option<Packet>, DecodeError> {
        const INVALID: DecodeError = DecodeError::new("not a packet");

        let Message::Text(text) = message else {
            return Err(INVALID);
        };
        let object: Read = serde_json::from_str(text.as_str()).map_err(|_| INVALID)?;
        let kind = Kind::from_number(object.r#type).ok_or(INVALID)?;
        let json = object.data.map(|data| data.get().to_owned());
        let json = json.unwrap_or_default().into();
        Ok(Some(Packet {
            namespace: object.nsp.as_str().into(),
            kind,
            ack: object.id,
            payload: Payload::from_json(kind, json, Vec::new())?,
        }))
    }

    fn is_partial(&self) -> bool {
        false
    }
}
