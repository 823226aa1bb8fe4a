//! The arguments of an event with attachments: parsed as values of several types, and passed on.

#![no_main]

use std::collections::BTreeMap;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tower_socketio::protocol::{Kind, Payload};

fuzz_target!(|input: (&str, Vec<&[u8]>)| {
    let (json, attachments) = input;
    let attachments = attachments.into_iter().map(Bytes::copy_from_slice);
    let json = Bytes::copy_from_slice(json.as_bytes());
    let Ok(payload) = Payload::from_json(Kind::Event, json, attachments.collect()) else {
        return;
    };
    assert!(payload.name().is_some());
    let all = payload.clone().read_all::<Vec<Value>>();
    let _ = payload.clone().read_one::<Bytes>();
    let _ = payload
        .clone()
        .read_all::<(Vec<Bytes>, Option<BTreeMap<String, Bytes>>)>();

    let args = payload.into_args();
    let mut passed = Payload::args(1, args.clone()).expect("as it came");
    // A too large number is valid JSON but not a `Value`, and a `Value` cannot hold bytes.
    let Ok(all) = all else {
        return;
    };
    let again: Vec<Value> = passed.read_all().expect("values");
    assert_eq!(again, all);
    let (_, mut rest) = args.split_first::<Value>().expect("a value");
    let rest: Vec<Value> = rest.read_all().expect("values");
    assert_eq!(rest.len(), all.len().saturating_sub(1));
});
