//! Engine.IO packets in frames and in polling bodies, in both revisions. The bodies arrive in
//! pieces.
//!
//! ```text
//! FORM LENGTH LENGTH LENGTH DATA
//! ```
//!
//! - The result does not depend on the pieces in which a body arrives.
//! - Packets that were read, written and read again are the same.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tower_socketio::engine::{Message, Revision};
use tower_socketio::internals::{
    EnginePacket, PayloadForm, decode_frame, encode_payload, jsonp_script, read_payload,
};
use tower_socketio_fuzz::pieces;

/// A small limit, so that inputs exceed it.
const MAX_PAYLOAD: usize = 1000;

fuzz_target!(|input: &[u8]| {
    let Some((&[form, first, second, third], data)) = input.split_first_chunk() else {
        return;
    };
    let revision = match form & 1 {
        0 => Revision::V4,
        _ => Revision::V3,
    };
    frame(data, form & 2 != 0, revision);
    let form = PayloadForm {
        revision,
        jsonp: form & 4 != 0,
        is_binary: form & 2 != 0,
        max_payload: MAX_PAYLOAD,
    };
    payload(form, data, [first, second, third]);
});

fn frame(data: &[u8], is_binary: bool, revision: Revision) {
    let data = Bytes::copy_from_slice(data);
    let decoded = decode_frame(data.clone(), is_binary, revision);
    if !is_binary && data.first() != Some(&b'b') {
        assert_eq!(decoded, EnginePacket::from_text(&data));
        if data.first() == Some(&b'4') {
            assert_eq!(decoded, EnginePacket::from_owned_text(data));
        }
    }
}

fn payload(form: PayloadForm, data: &[u8], lengths: [u8; 3]) {
    let whole = read_payload(form, [Bytes::copy_from_slice(data)].into_iter());
    let split = read_payload(form, pieces(data, lengths).into_iter());
    assert_eq!(whole, split, "the result depends on the split");

    let (packets, is_valid) = whole;
    // Each packet has at least one byte, except the one packet of an empty body.
    assert!(packets.len() <= data.len() + 1);
    let contents: usize = packets.iter().map(content).sum();
    // In a JSONP body, a byte that is not UTF-8 becomes U+FFFD, which has three bytes.
    let growth = if form.jsonp { 3 } else { 1 };
    assert!(
        contents <= growth * data.len(),
        "packets are longer than their body"
    );
    if data.len() > MAX_PAYLOAD + MAX_PAYLOAD / 2 + 1 {
        assert!(packets.is_empty() && !is_valid, "a body over the limit");
    }
    if packets.is_empty() {
        return;
    }
    for base64 in [false, true] {
        let (body, is_binary) = encode_payload(packets.clone(), form.revision, base64);
        assert!(!(is_binary && base64), "the client wants text");
        let written = PayloadForm {
            jsonp: false,
            is_binary,
            max_payload: body.len(),
            ..form
        };
        let again = read_payload(written, [body.clone()].into_iter());
        assert_eq!(again, (packets.clone(), true), "written and read again");
        if !is_binary {
            script(&body);
        }
    }
}

/// Returns the length of the packet's data.
fn content(packet: &EnginePacket) -> usize {
    match packet {
        EnginePacket::Open(json) => json.len(),
        EnginePacket::Message(Message::Text(text)) => text.as_str().len(),
        EnginePacket::Message(Message::Binary(data)) => data.len(),
        _ => 0,
    }
}

/// Checks that a JSONP script has the body as its argument. Of the client's callback index it has
/// only the digits.
fn script(body: &[u8]) {
    let script = jsonp_script("1);alert(2", body);
    let script = std::str::from_utf8(&script).expect("a text");
    let literal = script.strip_prefix("___eio[12](").expect("the call");
    let literal = literal.strip_suffix(");").expect("the end of the call");
    assert!(!literal.contains(['\n', '\r', '\u{2028}', '\u{2029}']));
    let text: String = serde_json::from_str(literal).expect("a string");
    assert_eq!(text.as_bytes(), body);
}
