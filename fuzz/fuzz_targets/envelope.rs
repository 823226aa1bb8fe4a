//! Messages between the servers of a cluster, in all formats: read, written, and read again.
//!
//! The first byte selects the format: an envelope in JSON or MessagePack; a value inside a valid
//! envelope; a message of Node's classic Redis adapter; the argument of an event in such a message;
//! a notification of Node's Postgres adapter; an entry of Node's streams adapter; a saved socket.
//!
//! - A message that was read and written can be read again, and is then written as the same bytes.
//!   The first writing may differ from the input, because it leaves out unknown fields.
//! - The growth is bounded: a written message has at most 7 times the bytes of its input plus 200
//!   for the classic adapter, and 10 times plus 300 for the other formats.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tower_socketio::cluster::{Envelope, SavedSocket};
use tower_socketio::internals::{rewrite_classic, rewrite_entry, rewrite_notification};

/// The beginning and the end of each envelope in which the input is a value.
const JSON: [(&str, &str); 4] = [
    (
        r#"{"type":3,"data":{"opts":{},"packet":{"type":2,"data":["x","#,
        r#"]}},"uid":"a","nsp":"/"}"#,
    ),
    (
        r#"{"type":9,"data":{"requestId":"a","packet":["x","#,
        r#"]},"uid":"a","nsp":"/"}"#,
    ),
    (
        r#"{"type":8,"data":{"requestId":"a","sockets":["#,
        r#"]},"uid":"a","nsp":"/"}"#,
    ),
    (
        r#"{"type":12,"data":{"requestId":"a","packet":"#,
        r#"},"uid":"a","nsp":"/"}"#,
    ),
];

/// The start of a broadcast up to the argument of its event, and the start of an acknowledgement up
/// to its value.
const MSGPACK: [&[u8]; 2] = [
    b"\x84\xa4type\x03\xa3uid\xa1a\xa3nsp\xa1/\xa4data\x82\xa4opts\x80\xa6packet\x82\xa4type\x02\
        \xa4data\x92\xa1x",
    b"\x84\xa4type\x0c\xa3uid\xa1a\xa3nsp\xa1/\xa4data\x82\xa9requestId\xa1r\xa6packet",
];

/// The start of a broadcast of the classic adapter, up to the argument of its event.
const CLASSIC: &[u8] = b"\x93\xa1a\x83\xa4type\x02\xa3nsp\xa1/\xa4data\x92\xa1x";

fuzz_target!(|input: &[u8]| {
    let Some((form, data)) = input.split_first() else {
        return;
    };
    match form % 12 {
        0 => envelope(data),
        form @ 1..=4 => {
            let (begin, end) = JSON[usize::from(form) - 1];
            envelope(&[begin.as_bytes(), data, end.as_bytes()].concat());
        }
        form @ 5..=6 => envelope(&[MSGPACK[usize::from(form) - 5], data].concat()),
        7 => classic(data),
        8 => classic(&[CLASSIC, data, b"\x80"].concat()),
        9 => stable(data, |bytes| {
            rewrite_notification(bytes).into_iter().collect()
        }),
        10 => {
            if let Some((kind, data)) = data.split_first() {
                stable(data, |bytes| {
                    rewrite_entry(*kind, bytes).into_iter().collect()
                });
            }
        }
        _ => stable(data, |bytes| {
            let read = SavedSocket::from_bytes(bytes).ok();
            read.iter().map(SavedSocket::to_bytes).collect()
        }),
    }
});

fn envelope(data: &[u8]) {
    stable(data, |bytes| match Envelope::from_bytes(bytes) {
        Ok(Some(envelope)) => vec![envelope.to_bytes()],
        Ok(None) | Err(_) => Vec::new(),
    });
}

/// Checks a message of the classic adapter. It may be readable as a broadcast, as a request and as
/// a response.
fn classic(data: &[u8]) {
    let data = Bytes::copy_from_slice(data);
    for written in rewrite_classic(&data) {
        assert!(written.len() <= 7 * data.len() + 200);
        for again in rewrite_classic(&written.into()) {
            let third = rewrite_classic(&again.clone().into());
            assert!(third.contains(&again));
        }
    }
}

/// Checks that `rewrite`, which reads and writes a message, has a bounded and stable output.
fn stable(data: &[u8], rewrite: impl Fn(&Bytes) -> Vec<Vec<u8>>) {
    for written in rewrite(&Bytes::copy_from_slice(data)) {
        // Base64 adds a third.
        assert!(written.len() <= 10 * data.len() + 300);
        if written.is_empty() {
            continue;
        }
        let again = rewrite(&written.into());
        assert_eq!(again.len(), 1, "the written message cannot be read");
        assert_eq!(rewrite(&again[0].clone().into()), again);
    }
}
