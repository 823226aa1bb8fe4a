//! A Socket.IO packet as text with attachments: decoded, encoded, and decoded again.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tower_socketio::engine::{Message, Text};
use tower_socketio::protocol::{Decoder, JsonParser, Packet, Parser};

fuzz_target!(|messages: Vec<&[u8]>| {
    let parser = JsonParser::default();
    let mut decoder = parser.decoder();
    let messages = messages.into_iter().enumerate().map(|(n, data)| match n {
        0 => Message::Text(Text::received(Bytes::copy_from_slice(data))),
        _ => Message::Binary(Bytes::copy_from_slice(data)),
    });
    let Some(packet) = decode(&mut *decoder, messages) else {
        return;
    };
    let (kind, ack) = (packet.kind, packet.ack);
    let json = packet.payload.json().to_vec();
    let written = parser.encode(packet);
    let again = decode(&mut *parser.decoder(), written.into_iter()).expect("what was written");
    assert_eq!((again.kind, again.ack), (kind, ack));
    assert_eq!(again.payload.json(), json);
});

/// Decodes the first packet in the messages. Returns `None` if there is none.
fn decode(decoder: &mut dyn Decoder, messages: impl Iterator<Item = Message>) -> Option<Packet> {
    for message in messages {
        match decoder.decode(message) {
            Ok(Some(packet)) => return Some(packet),
            Ok(None) => assert!(decoder.is_partial()),
            Err(_) => return None,
        }
    }
    None
}
