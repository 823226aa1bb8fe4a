//! A message of another server in MessagePack: read, written, and read again.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tower_socketio::cluster::Envelope;

/// The start of a broadcast, up to the argument of its event.
const BROADCAST: &[u8] = b"\x84\xa4type\x03\xa3uid\xa1a\xa3nsp\xa1/\xa4data\
    \x82\xa4opts\x80\xa6packet\x82\xa4type\x02\xa4data\x92\xa1x";

/// The start of an acknowledgement, up to its value.
const ACK: &[u8] =
    b"\x84\xa4type\x0c\xa3uid\xa1a\xa3nsp\xa1/\xa4data\x82\xa9requestId\xa1r\xa6packet";

fuzz_target!(|data: &[u8]| {
    check(data);
    check(&[BROADCAST, data].concat());
    check(&[ACK, data].concat());
});

fn check(data: &[u8]) {
    if data.first() == Some(&b'{') {
        return;
    }
    let Ok(Some(envelope)) = Envelope::from_bytes(&Bytes::copy_from_slice(data)) else {
        return;
    };
    let written = envelope.to_bytes();
    // The readers bound what one byte can become.
    assert!(written.len() <= 7 * data.len() + 200);
    let again = rewrite(written);
    // The first writing leaves out what nothing reads.
    assert_eq!(rewrite(again.clone()), again);
}

fn rewrite(written: Vec<u8>) -> Vec<u8> {
    let envelope = Envelope::from_bytes(&written.into()).expect("what was written");
    envelope.expect("of the same type").to_bytes()
}
