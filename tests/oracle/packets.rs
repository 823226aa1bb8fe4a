//! The results of our decoders and of the official ones, in a common form.

use bytes::Bytes;
use tower_socketio::engine;
use tower_socketio::protocol::{self, Decoder, Kind};

use crate::grammar::Sent;
use crate::judge::{Reader, Writer};
use crate::value::{Number, Text, Value};

/// The result of a message.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    Packet(Packet),
    /// No packet yet: attachments are missing.
    More,
    /// An error, with its reason. No message is read after it.
    Refused(String),
}

/// A packet that was read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Packet {
    pub(crate) kind: u8,
    pub(crate) namespace: Text,
    pub(crate) ack: Ack,
    /// The name of an event.
    pub(crate) name: Option<Name>,
    /// The arguments, the object, or `undefined`. An error says why Rust types cannot hold the
    /// value.
    pub(crate) data: Result<Value, String>,
}

/// The id of an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Ack {
    None,
    Exact(u64),
    /// A JavaScript number that is not an unsigned integer of 64 bits.
    Other(Number),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Name {
    Text(Text),
    Number(Number),
    /// A name that only the official MessagePack parser accepts.
    Other(Value),
}

impl Ack {
    fn of(value: &Value) -> Self {
        match value {
            Value::Undefined | Value::Null => Self::None,
            &Value::Number(Number(id))
                if id as u64 as u128 as f64 == id && id < u64::MAX as f64 =>
            {
                Self::Exact(id as u64)
            }
            &Value::Number(id) => Self::Other(id),
            other => panic!("an id {other:?}"),
        }
    }

    pub(crate) const fn as_f64(self) -> Option<f64> {
        match self {
            Self::None => None,
            Self::Exact(id) => Some(id as f64),
            Self::Other(Number(id)) => Some(id),
        }
    }
}

/// Writes the messages of a question.
pub(crate) fn write(messages: &[Sent], question: &mut Writer) {
    for message in messages {
        match message {
            Sent::Text(text) => {
                // A transport delivers no text that is not UTF-8.
                if std::str::from_utf8(text).is_err() {
                    return;
                }
                question.byte(b'T');
                question.bytes(text);
            }
            Sent::Bytes(bytes) => {
                question.byte(b'B');
                question.bytes(bytes);
            }
        }
    }
}

/// Reads the answer to a question of [`write`].
pub(crate) fn theirs(answer: &[u8], messages: &[Sent]) -> Vec<Step> {
    let mut answer = Reader(answer);
    let mut steps = Vec::new();
    while !answer.0.is_empty() {
        steps.push(match answer.byte() {
            b'M' => Step::More,
            b'R' => Step::Refused(String::from_utf8_lossy(answer.bytes()).into_owned()),
            _ => Step::Packet(their_packet(&mut answer)),
        });
    }
    let is_refused = matches!(steps.last(), Some(Step::Refused(_)));
    if steps.len() < messages.len() && !is_refused {
        steps.push(Step::Refused("text is not UTF-8".to_owned()));
    }
    steps
}

fn their_packet(answer: &mut Reader<'_>) -> Packet {
    let kind = match answer.value() {
        // The official parser of version 3 keeps the binary type of a packet with attachments.
        Value::Number(Number(kind)) => match kind as u8 {
            5 => 2,
            6 => 3,
            kind => kind,
        },
        other => panic!("a type {other:?}"),
    };
    let Value::Text(namespace) = answer.value() else {
        panic!("a namespace that is not text");
    };
    let ack = Ack::of(&answer.value());
    let mut data = answer.value();
    let name = match &mut data {
        Value::Array(values) if kind == 2 && !values.is_empty() => Some(match values.remove(0) {
            Value::Text(name) => Name::Text(name),
            Value::Number(name) => Name::Number(name),
            other => Name::Other(other),
        }),
        _ => None,
    };
    Packet {
        kind,
        namespace,
        ack,
        name,
        data: Ok(data),
    }
}

/// Reads messages with our decoder.
pub(crate) fn ours(
    decoder: &mut dyn Decoder,
    messages: &[Sent],
) -> Vec<(Step, Option<protocol::Packet>)> {
    let mut steps = Vec::new();
    for message in messages {
        let message = match message {
            Sent::Text(text) => engine::Text::received(Bytes::copy_from_slice(text)).into(),
            Sent::Bytes(bytes) => engine::Message::Binary(Bytes::copy_from_slice(bytes)),
        };
        match decoder.decode(message) {
            Ok(Some(packet)) => {
                assert!(!decoder.is_partial());
                steps.push((Step::Packet(our_packet(&packet)), Some(packet)));
            }
            Ok(None) => {
                assert!(decoder.is_partial());
                steps.push((Step::More, None));
            }
            Err(error) => {
                steps.push((Step::Refused(error.to_string()), None));
                break;
            }
        }
    }
    steps
}

pub(crate) fn our_packet(packet: &protocol::Packet) -> Packet {
    let mut payload = packet.payload.clone();
    let name = payload.name().map(|name| Name::Text(name.into()));
    let data = match packet.kind {
        _ if payload.json().is_empty() => Ok(Value::Undefined),
        Kind::Event | Kind::Ack => payload.read_all().map(Value::Array),
        Kind::Connect | Kind::Disconnect | Kind::ConnectError => payload.read_object(),
    };
    Packet {
        kind: packet.kind as u8,
        namespace: packet.namespace.as_str().into(),
        ack: packet.ack.map_or(Ack::None, Ack::Exact),
        name,
        data: data.map_err(|error| error.to_string()),
    }
}

/// Returns the messages of a packet that our encoder has written.
pub(crate) fn sent(encoded: protocol::Encoded) -> Vec<Sent> {
    let messages = encoded.into_iter().map(|message| match message {
        engine::Message::Text(text) => Sent::Text(text.as_bytes().to_vec()),
        engine::Message::Binary(bytes) => Sent::Bytes(bytes.to_vec()),
        other => panic!("{other:?}"),
    });
    messages.collect()
}

/// Reads the messages of an answer.
pub(crate) fn messages(answer: &[u8]) -> Vec<Sent> {
    let mut answer = Reader(answer);
    let mut messages = Vec::new();
    while !answer.0.is_empty() {
        messages.push(match answer.byte() {
            b'T' => Sent::Text(answer.bytes().to_vec()),
            _ => Sent::Bytes(answer.bytes().to_vec()),
        });
    }
    messages
}
