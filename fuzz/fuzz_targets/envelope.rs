//! Messages between the servers of a cluster, in all forms: read, written, and read again.
//!
//! The first byte is the form: an envelope in JSON or MessagePack, alone or as a part of one that is
//! valid; a message of Node's classic Redis adapter, alone or as the argument of an event; a notification
//! of its Postgres adapter; an entry of its streams adapter; a saved socket.
//!
//! - What was read is written, and read again, and the second writing is the first one: the first
//!   writing leaves out what nothing reads.
//! - What is written has at most seven times the bytes that were read.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tower_socketio::cluster::{Envelope, SavedSocket};
use tower_socketio::internals::{rewrite_classic, rewrite_entry, rewrite_notification};

/// The beginnings and ends of messages around the input.
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

/// The start of a broadcast, up to the argument of its event; the start of an acknowledgement, up to
/// its value.
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

/// A message can be read as a broadcast, a request and a response.
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

/// Checks what `rewrite` writes of the bytes.
fn stable(data: &[u8], rewrite: impl Fn(&Bytes) -> Vec<Vec<u8>>) {
    for written in rewrite(&Bytes::copy_from_slice(data)) {
        // In base64, a third more.
        assert!(written.len() <= 10 * data.len() + 300);
        if written.is_empty() {
            continue;
        }
        let again = rewrite(&written.into());
        assert_eq!(again.len(), 1, "what was written is not read");
        assert_eq!(rewrite(&again[0].clone().into()), again);
    }
}
