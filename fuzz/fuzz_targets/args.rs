//! The arguments of a packet, read as several types like in the extractors, and passed on unread.
//!
//! The input is JSON. Each byte `ff` begins an attachment.
//!
//! - Reading never panics. Arguments that are passed on are read as the same values.
//! - A value that was read can be sent, and is then read as the same value.

#![no_main]

use std::collections::BTreeMap;
use std::fmt::Debug;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use tower_socketio::protocol::{Kind, Payload};
use tower_socketio::{Args, Data};

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
struct Upload {
    name: String,
    #[serde(default)]
    size: Option<u64>,
    data: Bytes,
    #[serde(flatten)]
    more: BTreeMap<String, Part>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(untagged)]
enum Part {
    Number(i64),
    Text(String),
    List(Vec<Bytes>),
    Nested(Box<BTreeMap<String, Part>>),
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "camelCase")]
enum Tagged {
    Bytes { data: Bytes },
    Pair(BTreeMap<String, Bytes>),
    Unit,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
enum Plain {
    Unit,
    One(Bytes),
    Two(u8, Option<Bytes>),
    Fields { c: char, data: Bytes },
}

fuzz_target!(|input: &[u8]| {
    let mut parts = input
        .split(|byte| *byte == 0xff)
        .map(Bytes::copy_from_slice);
    let json = parts.next().unwrap_or_default();
    let attachments: Vec<Bytes> = parts.collect();
    if json.first() == Some(&b'{') {
        object(json.clone());
    }
    let Ok(payload) = Payload::from_json(Kind::Event, json, attachments) else {
        return;
    };
    assert!(payload.name().is_some());

    one::<Bytes>(&payload);
    one::<Upload>(&payload);
    one::<Tagged>(&payload);
    one::<Plain>(&payload);
    one::<Option<(u8, String, Bytes)>>(&payload);
    one::<BTreeMap<u16, Vec<Bytes>>>(&payload);
    all::<(Vec<Bytes>, Option<BTreeMap<String, Bytes>>)>(&payload);
    all::<(String, Bytes, Option<Tagged>)>(&payload);
    all::<[Option<Bytes>; 3]>(&payload);
    all::<Vec<Part>>(&payload);
    read_only::<()>(&payload);
    read_only::<(f32, i8, u64, char)>(&payload);
    read_only::<BTreeMap<bool, Option<Box<str>>>>(&payload);
    pass_on(&payload);
});

fn one<T: DeserializeOwned + Serialize + PartialEq + Debug>(payload: &Payload) {
    let Ok(value) = payload.clone().read_one::<T>() else {
        return;
    };
    let sent = Payload::args(1, Data(&value)).expect("sent");
    assert_eq!(
        as_received(sent).read_one::<T>().expect("read again"),
        value
    );
}

fn all<T: DeserializeOwned + Serialize + PartialEq + Debug>(payload: &Payload) {
    let Ok(value) = payload.clone().read_all::<T>() else {
        return;
    };
    let sent = Payload::args(1, Args(&value)).expect("sent");
    assert_eq!(
        as_received(sent).read_all::<T>().expect("read again"),
        value
    );
}

fn read_only<T: DeserializeOwned>(payload: &Payload) {
    let _ = payload.clone().read_one::<T>();
    let _ = payload.clone().read_all::<T>();
    let _ = payload.clone().into_args().split_first::<T>();
}

/// Converts a payload that was sent to one that is received.
fn as_received(sent: Payload) -> Payload {
    let json = Bytes::copy_from_slice(sent.json());
    let attachments = sent.attachments().cloned().collect();
    Payload::from_json(Kind::Ack, json, attachments).expect("a valid encoding")
}

fn object(json: Bytes) {
    let Ok(payload) = Payload::from_json(Kind::Connect, json, Vec::new()) else {
        return;
    };
    let _ = payload.read_object::<Upload>();
    let Ok(object) = payload.read_object::<BTreeMap<String, Value>>() else {
        return;
    };
    let sent = Payload::object(1, &object).expect("sent");
    let again: BTreeMap<String, Value> = sent.read_object().expect("read again");
    assert_eq!(again, object);
}

/// Passes on all arguments unread, then all but the first one.
fn pass_on(payload: &Payload) {
    let all = payload.clone().read_all::<Vec<Value>>();
    let args = payload.clone().into_args();
    let passed = Payload::args(1, args.clone()).expect("valid args");
    let mut passed = as_received(passed);
    let parts = payload.clone().read_all::<Vec<Part>>().ok();
    assert_eq!(passed.clone().read_all::<Vec<Part>>().ok(), parts);
    // The arguments may not be readable as a `Value`: it holds neither too large numbers nor bytes.
    let Ok(all) = all else {
        return;
    };
    let again: Vec<Value> = passed.read_all().expect("values");
    assert_eq!(again, all);
    let (_, mut rest) = args.split_first::<Value>().expect("a value");
    let rest: Vec<Value> = rest.read_all().expect("values");
    assert_eq!(rest, all.get(1..).unwrap_or_default());
}
