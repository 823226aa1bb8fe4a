//! Socket.IO packets and their attachments, through the decoder of one connection.
//!
//! The byte `ff`, which is not valid UTF-8, separates the messages. The first message and each
//! message that begins with `!` are text. All other messages are binary.
//!
//! - The decoder reports missing attachments and keeps its limits. An error is final.
//! - The payload of a packet is valid JSON for serde_json.
//! - A packet that was decoded, encoded and decoded again is the same, and is encoded to the same
//!   bytes.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tower_socketio::engine::{Message, Text};
use tower_socketio::protocol::{Decoder, JsonParser, Kind, Packet, Parser};

const MAX_ATTACHMENTS: usize = 5;
const MAX_BYTES: usize = 600;

fuzz_target!(|input: &[u8]| {
    let parser = JsonParser::default()
        .max_attachments(MAX_ATTACHMENTS)
        .max_attachment_bytes(MAX_BYTES);
    let mut decoder = parser.decoder();
    let mut has_failed = false;
    let mut waits = 0;
    for (nth, data) in input.split(|byte| *byte == 0xff).enumerate() {
        let message = match data {
            [b'!', text @ ..] => text_message(text),
            text if nth == 0 => text_message(text),
            data => Message::Binary(Bytes::copy_from_slice(data)),
        };
        match decoder.decode(message) {
            Ok(packet) => {
                assert!(!has_failed, "the error is not final");
                waits = if decoder.is_partial() { waits + 1 } else { 0 };
                assert!(waits <= MAX_ATTACHMENTS);
                assert_eq!(packet.is_none(), decoder.is_partial());
                if let Some(packet) = packet {
                    check(&parser, packet, input.len());
                }
            }
            Err(_) => {
                has_failed = true;
                assert!(!decoder.is_partial());
            }
        }
    }
});

fn text_message(text: &[u8]) -> Message {
    Message::Text(Text::received(Bytes::copy_from_slice(text)))
}

fn check(parser: &JsonParser, packet: Packet, limit: usize) {
    let (kind, ack, namespace) = (packet.kind, packet.ack, packet.namespace.clone());
    let json = packet.payload.json().to_vec();
    let name = packet.payload.name().map(str::to_owned);
    let attachments: Vec<_> = packet.payload.attachments().cloned().collect();
    assert!(attachments.len() <= MAX_ATTACHMENTS);
    assert!(attachments.iter().map(Bytes::len).sum::<usize>() <= MAX_BYTES);
    assert!(namespace.starts_with('/') && !namespace.contains(','));
    check_json(kind, &json, name.as_deref());

    let written: Vec<Message> = parser.encode(packet).into_iter().collect();
    // The encoder may add the comma after a namespace that the input leaves out.
    assert!(written.iter().map(len).sum::<usize>() <= limit + 1);
    let again = decode(&mut *parser.decoder(), &written);
    assert_eq!((again.kind, again.ack), (kind, ack));
    assert_eq!(again.namespace, namespace);
    assert_eq!(again.payload.json(), json);
    assert_eq!(again.payload.name(), name.as_deref());
    assert!(again.payload.attachments().eq(&attachments));
    let rewritten: Vec<Message> = parser.encode(again).into_iter().collect();
    assert_eq!(written, rewritten);
}

fn check_json(kind: Kind, json: &[u8], name: Option<&str>) {
    if json.is_empty() {
        return;
    }
    let text = std::str::from_utf8(json).expect("UTF-8");
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Array(values)) if kind == Kind::Event => {
            // The event name may be a number.
            let first = values.first().expect("a name");
            assert!(first.as_str() == name || first.is_number());
        }
        Ok(Value::Array(_)) => assert_eq!(kind, Kind::Ack),
        Ok(value) => {
            assert!(value.is_object());
            assert!(matches!(kind, Kind::Connect | Kind::ConnectError));
        }
        // A `Value` holds neither lone surrogates nor too large numbers.
        Err(_) => {
            let raw: Result<&serde_json::value::RawValue, _> = serde_json::from_str(text);
            raw.expect("JSON");
        }
    }
}

fn len(message: &Message) -> usize {
    match message {
        Message::Text(text) => text.as_str().len(),
        Message::Binary(data) => data.len(),
        _ => panic!("an `Uncompressed` message"),
    }
}

fn decode(decoder: &mut dyn Decoder, messages: &[Message]) -> Packet {
    let (last, before) = messages.split_last().expect("a message");
    for message in before {
        let packet = decoder.decode(message.clone()).expect("a valid encoding");
        assert!(packet.is_none() && decoder.is_partial());
    }
    let packet = decoder.decode(last.clone()).expect("a valid encoding");
    packet.expect("a whole packet")
}
