//! A message of another server in JSON: read, written, and read again.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tower_socketio::cluster::Envelope;

/// The beginnings and ends of messages around the input.
const FRAMES: [(&str, &str); 4] = [
    (
        r#"{"type":3,"data":{"opts":{},"packet":{"type":2,"data":["x","#,
        "]}}",
    ),
    (r#"{"type":9,"data":{"requestId":"a","packet":["x","#, "]}"),
    (r#"{"type":8,"data":{"requestId":"a","sockets":["#, "]}"),
    (r#"{"type":12,"data":{"requestId":"a","packet":"#, "}"),
];

fuzz_target!(|data: &[u8]| {
    check(data);
    let text = String::from_utf8_lossy(data);
    for (begin, end) in FRAMES {
        check(format!(r#"{begin}{text}{end},"uid":"a","nsp":"/"}}"#).as_bytes());
    }
});

fn check(data: &[u8]) {
    if data.first() != Some(&b'{') {
        return;
    }
    let Ok(Some(envelope)) = Envelope::from_bytes(&Bytes::copy_from_slice(data)) else {
        return;
    };
    let written = envelope.to_bytes();
    let again = rewrite(written);
    // The first writing leaves out what nothing reads.
    assert_eq!(rewrite(again.clone()), again);
}

fn rewrite(written: Vec<u8>) -> Vec<u8> {
    let envelope = Envelope::from_bytes(&written.into()).expect("what was written");
    envelope.expect("of the same type").to_bytes()
}
