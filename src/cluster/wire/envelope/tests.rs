use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use super::super::captured::{self, Captured, normalized, value};
use super::super::entry::{decode_entry, encode_data};
use super::*;
#[cfg(feature = "redis")]
use crate::hub::other_servers::SocketDescription;
use crate::protocol::Kind;
use crate::protocol::tests::Chance;

fn captured() -> impl Iterator<Item = Captured> {
    captured::read(include_str!("vectors.txt"))
}

impl Captured {
    /// The type and the server of an entry of a stream.
    fn entry(&self) -> Option<(u8, &str)> {
        let mut parts = self.channel.split('#');
        let kind = parts.next()?.parse().ok()?;
        Some((kind, parts.nth(1)?))
    }

    fn decode_as(&self, me: &str) -> Result<Option<Envelope>, DecodeError> {
        let namespace = self.channel.split('#').nth(1).expect("a namespace").into();
        match self.entry() {
            Some((kind, uid)) => decode_entry(kind, uid, &namespace, &self.bytes),
            None => decode(&self.bytes, &namespace, me),
        }
    }
}

/// The data of an entry, as a message that can be compared.
fn data_value(bytes: &[u8]) -> Value {
    match bytes.first() {
        Some(b'{') => value(bytes),
        _ => value(&BASE64_STANDARD.decode(bytes).expect("base64")),
    }
}

/// A message without what Node's servers do not read: the namespace in a packet of an emitter.
fn comparable(mut value: Value) -> Value {
    for pointer in ["/data/packet", "/packet"] {
        if let Some(Value::Object(packet)) = value.pointer_mut(pointer) {
            packet.remove("nsp");
        }
    }
    normalized(value)
}

#[test]
fn captured_messages_are_read_and_written_again() {
    let mut read = 0;
    for captured in captured() {
        let envelope = captured.decode_as("me").expect("a message");
        let envelope = envelope.expect("a message of another server");
        let (again, original) = match captured.entry() {
            Some((captured_kind, uid)) => {
                assert_eq!(kind(&envelope.message), Some(captured_kind));
                assert_eq!(&*envelope.from, uid);
                let again = encode_data(&envelope.message);
                assert_eq!(again.first() == Some(&b'{'), captured.bytes[0] == b'{');
                (data_value(&again), data_value(&captured.bytes))
            }
            None => {
                let again = encode(&envelope);
                let msgpack = encode_msgpack(&envelope);
                assert_ne!(msgpack.first(), Some(&b'{'));
                assert_eq!(value(&again), value(&msgpack));
                (value(&again), value(&captured.bytes))
            }
        };
        assert_eq!(
            comparable(again),
            comparable(original),
            "{}",
            captured.channel
        );
        read += 1;
    }
    assert!(read > 60, "only {read}");
}

#[test]
fn a_message_of_this_server_is_not_read() {
    for captured in captured().filter(|captured| captured.entry().is_none()) {
        let envelope = captured
            .decode_as("me")
            .expect("a message")
            .expect("another server's");
        let namespace = &envelope.namespace;
        // Before it is parsed, if it is written as this server writes it.
        for own in [encode(&envelope), encode_msgpack(&envelope)] {
            assert!(is_own(&own, namespace, &envelope.from));
            assert!(!is_own(&own, namespace, "0123456789abcdef"));
            assert!(!is_own(&own, "/other", &envelope.from));
        }
        let own = captured.decode_as(&envelope.from).expect("a message");
        assert!(own.is_none(), "{}", captured.channel);
    }
}

#[test]
fn the_namespace_is_that_of_the_message() {
    let bytes = br#"{"type":9,"data":{"packet":["x"]},"uid":"a","nsp":"/chat"}"#;
    let bytes = Bytes::from_static(bytes);
    for channel in ["/chat", "/"] {
        let envelope = decode(&bytes, &channel.into(), "me").expect("a message");
        assert_eq!(envelope.expect("not its own").namespace(), "/chat");
    }
}

#[test]
fn malformed_messages_are_refused() {
    let data = [
        (3, json!({})),
        (3, json!({ "packet": { "type": 2, "data": ["x"] } })),
        (
            3,
            json!({ "packet": { "type": 3, "data": ["x"] }, "opts": {} }),
        ),
        (
            3,
            json!({ "packet": { "type": 2, "data": {} }, "opts": {} }),
        ),
        (
            3,
            json!({ "packet": { "type": 2, "data": ["connect"] }, "opts": {} }),
        ),
        (4, json!({ "rooms": ["a"] })),
        (4, json!({ "rooms": [[]], "opts": {} })),
        (6, json!({ "close": true })),
        (7, json!({ "opts": {} })),
        (8, json!({ "requestId": "a", "sockets": [7] })),
        (9, json!({ "packet": {} })),
        (11, json!({ "requestId": "a", "clientCount": -1 })),
        (
            11,
            json!({ "requestId": "a", "clientCount": 1_000_000_000 }),
        ),
        (12, json!({ "packet": 1 })),
    ];
    for (kind, data) in data {
        let message = json!({ "type": kind, "data": data, "uid": "a", "nsp": "/" });
        let bytes = Bytes::from(message.to_string());
        let read = decode(&bytes, &NamespaceName::MAIN, "me");
        assert!(read.is_err(), "{message}");
        let data = Bytes::from(data.to_string());
        let read = decode_entry(kind, "a", &NamespaceName::MAIN, &data);
        assert!(read.is_err(), "{message}");
    }
    for message in ["", "{", "{}", r#"{"type":300,"uid":"a"}"#, r#"{"type":3}"#] {
        let bytes = Bytes::from_static(message.as_bytes());
        assert!(
            decode(&bytes, &NamespaceName::MAIN, "me").is_err(),
            "{message}"
        );
    }
    let base64 = Bytes::from_static(b"gqZ!");
    assert!(decode_entry(3, "a", &NamespaceName::MAIN, &base64).is_err());
    let deep = "[".repeat(100_000);
    let deep = format!(r#"{{"type":9,"data":{{"packet":["x",{deep}]}},"uid":"a","nsp":"/"}}"#);
    assert!(decode(&deep.into(), &NamespaceName::MAIN, "me").is_err());
}

#[test]
fn unknown_types_are_ignored() {
    for kind in [0, 1, 2, 13, 24, 255] {
        let message = json!({ "type": kind, "uid": "a", "nsp": "/" });
        let bytes = Bytes::from(message.to_string());
        let read = decode(&bytes, &NamespaceName::MAIN, "me");
        assert!(read.is_ok_and(|none| none.is_none()), "{kind}");
        let read = decode_entry(kind, "a", &NamespaceName::MAIN, &Bytes::new());
        assert!(read.is_ok_and(|none| none.is_none()), "{kind}");
    }
}

#[test]
fn changed_messages_never_panic() {
    let captured: Vec<_> = captured().collect();
    let seeds: Vec<&[u8]> = captured
        .iter()
        .map(|captured| &captured.bytes[..])
        .collect();
    let mut chance = Chance::new(11);
    let namespace = NamespaceName::MAIN;
    let mut read = 0;
    for n in 0..20_000 {
        let bytes = Bytes::from(chance.mutate(&seeds, b"{}[]\",:\x80\x90\xc1\xff0"));
        let kind = (n % 14) as u8;
        for envelope in [
            decode(&bytes, &namespace, "me"),
            decode_entry(kind, "a", &namespace, &bytes),
        ] {
            if let Ok(Some(envelope)) = envelope {
                read += 1;
                // What was read can be written.
                value(&encode(&envelope));
                data_value(&encode_data(&envelope.message));
            }
        }
    }
    assert!(read > 1_000, "only {read}");
}

#[test]
fn an_attachment_makes_a_message_binary() {
    let args = |json: &'static str, attachments: Vec<Bytes>| {
        Payload::from_json(Kind::Ack, Bytes::from_static(json.as_bytes()), attachments)
            .expect("arguments")
    };
    let envelope = |payload| {
        Envelope::new(
            "me".into(),
            NamespaceName::MAIN,
            Message::Answer("id".into(), Answer::Reply(payload)),
        )
    };
    let text = encode(&envelope(args("[1,2]", Vec::new())));
    assert!(text.starts_with(br#"{"type":10,"data":{"requestId":"id","packet":1}"#));
    let bytes = Bytes::from_static(b"\x01\x02");
    let binary = args(r#"[{"_placeholder":true,"num":0}]"#, vec![bytes]);
    let binary = encode(&envelope(binary));
    assert!(
        binary.starts_with(b"\x84\xa4type\x0a\xa4data"),
        "{binary:x?}"
    );
    let bin = b"\xa6packet\xc4\x02\x01\x02";
    assert!(binary.windows(bin.len()).any(|window| window == bin));
}

#[cfg(feature = "redis")]
#[test]
fn the_sockets_of_any_clients_are_described() {
    let deep = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    let described = |number: u8, handshake: &str, data: Value| SocketDescription {
        id: SocketId::new([number; 15]),
        rooms: vec!["a".to_owned()],
        data: Some(Arc::new(data)),
        handshake: handshake.into(),
    };
    // The deepest `auth` and the deepest data that a client may send.
    let handshake = format!(r#"{{"auth":{{"a":{}}}}}"#, deep(126));
    let data = (0..125).fold(json!(1), |inner, _| json!([inner]));
    let sockets = vec![
        described(1, &handshake, json!(1)),
        described(2, "{}", data),
        described(3, "{}", json!({"name": "ada"})),
    ];
    let message = Message::Answer("q".into(), Answer::Sockets(sockets));
    let envelope = Envelope::new("a".into(), NamespaceName::MAIN, message);
    for bytes in [encode(&envelope), encode_msgpack(&envelope)] {
        let decoded = decode(&bytes.into(), &NamespaceName::MAIN, "b").expect("valid");
        let Message::Answer(_, Answer::Sockets(sockets)) = decoded.expect("an answer").message
        else {
            panic!("an answer with sockets");
        };
        assert_eq!(sockets.len(), 3);
        assert!(sockets[0].handshake.contains("[[[[1]]]]"));
        assert_eq!(sockets[2].data.as_deref(), Some(&json!({"name": "ada"})));
    }
}

#[test]
fn one_socket_that_cannot_be_read_does_not_hide_the_others() {
    use super::super::fields;

    let json = r#"[
        {"id":"AAAAAAAAAAAAAAAAAAAA","handshake":{},"rooms":["a"],"data":{"n":"\ud800"}},
        {"id":"BBBBBBBBBBBBBBBBBBBB","handshake":{},"rooms":["\ud800"],"data":1e999},
        {"id":"CCCCCCCCCCCCCCCCCCCC","handshake":{},"rooms":["c"],"data":{}}
    ]"#;
    let described = serde_json::from_str(json).expect("JSON");
    let sockets = fields::sockets(described, &[]);
    assert_eq!(sockets.len(), 3);
    assert_eq!(sockets[0].data.as_deref(), Some(&json!({"n": "\u{fffd}"})));
    assert_eq!(sockets[1].rooms, ["\u{fffd}"]);
    assert_eq!(sockets[1].data, None);
    assert_eq!(sockets[2].rooms, ["c"]);
}
