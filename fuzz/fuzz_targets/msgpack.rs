//! A MessagePack packet: decoded, encoded, and decoded again.
//!
//! - The JSON of a packet is valid, and at most seven times as long as the message: a control
//!   character has one byte in MessagePack, and is `\u0001` in JSON.
//! - A packet that was decoded, encoded and decoded again is the same, but for escapes.
//! - An error is final.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tower_socketio::engine::Message;
use tower_socketio::protocol::{Kind, MsgpackParser, Packet, Parser, Payload};

/// The start of an EVENT packet, up to the value of `data`.
const EVENT: &[u8] = b"\x83\xa4type\x02\xa3nsp\xa1/\xa4data";

fuzz_target!(|data: &[u8]| {
    check(data);
    check(&[EVENT, data].concat());
});

fn check(data: &[u8]) {
    let Some(packet) = decode(Bytes::copy_from_slice(data)) else {
        return;
    };
    let (kind, ack, namespace) = (packet.kind, packet.ack, packet.namespace.clone());
    let attachments: Vec<Bytes> = packet.payload.attachments().cloned().collect();
    let json = Bytes::copy_from_slice(packet.payload.json());
    assert!(json.len() <= 7 * data.len() + 50 * attachments.len());
    assert!(attachments.iter().map(Bytes::len).sum::<usize>() <= data.len());
    if matches!(kind, Kind::Event | Kind::Ack) {
        let same = Payload::from_json(kind, json.clone(), attachments.clone());
        assert_eq!(same.expect("valid JSON").name(), packet.payload.name());
    }
    let mut written = MsgpackParser::default().encode(packet).into_iter();
    let Some(Message::Binary(message)) = written.next() else {
        panic!("not one binary message");
    };
    assert!(written.next().is_none());
    let again = decode(message).expect("a valid encoding");
    assert_eq!((again.kind, again.ack), (kind, ack));
    assert_eq!(again.namespace, namespace);
    assert_eq!(unescaped(again.payload.json()), unescaped(&json));
    assert!(again.payload.attachments().eq(&attachments));
}

/// Returns JSON with the key `_placeholder` as it is. In a packet with attachments the key is escaped
/// where it is not that of a placeholder. The bytes of a CONNECT packet become numbers, so that it has
/// no attachments when it is decoded again.
fn unescaped(json: &[u8]) -> String {
    let json = String::from_utf8(json.to_vec()).expect("UTF-8");
    json.replace(r"\u005fplaceholder", "_placeholder")
}

fn decode(message: Bytes) -> Option<Packet> {
    let mut decoder = MsgpackParser::default().decoder();
    let decoded = decoder.decode(Message::Binary(message));
    assert!(!decoder.is_partial());
    decoded.ok().flatten()
}
