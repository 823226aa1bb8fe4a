//! A MessagePack packet: decoded, encoded, and decoded again.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tower_socketio::engine::Message;
use tower_socketio::protocol::{MsgpackParser, Packet, Parser};

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
    let attached = packet.payload.attachments().count();
    let json = packet.payload.json().to_vec();
    assert!(json.len() <= 7 * data.len() + 50 * attached);
    let mut written = MsgpackParser::default().encode(packet).into_iter();
    let Some(Message::Binary(message)) = written.next() else {
        panic!("not one message of bytes");
    };
    assert!(written.next().is_none());
    let again = decode(message).expect("what was written");
    assert_eq!(again.payload.json(), json);
    assert_eq!(again.payload.attachments().count(), attached);
}

fn decode(message: Bytes) -> Option<Packet> {
    let mut decoder = MsgpackParser::default().decoder();
    decoder.decode(Message::Binary(message)).ok().flatten()
}
