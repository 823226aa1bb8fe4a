use serde_json::Value;

use super::super::captured::{self, Captured, bytes_of, normalized, value};
use super::*;
use crate::protocol::tests::Chance;
use crate::protocol::{Kind, Payload};

fn captured() -> impl Iterator<Item = Captured> {
    captured::read(include_str!("vectors.txt"))
}

impl Captured {
    fn namespace(&self) -> NamespaceName {
        let name = self.channel.split('#').nth(1).expect("a namespace");
        name.into()
    }

    fn decode(&self, me: &str) -> Result<Option<Envelope>, DecodeError> {
        let namespace = self.namespace();
        match self.channel.split('#').next() {
            Some("socket.io") => decode_broadcast(&self.bytes, &namespace, me),
            Some("socket.io-request") => decode_request(&self.bytes, &namespace, me),
            _ => decode_response(&self.bytes, &namespace, me),
        }
    }
}

#[test]
fn captured_messages_are_read_and_written_again() {
    let mut written = 0;
    for captured in captured() {
        let envelope = captured.decode("me").expect("a message");
        let Some(envelope) = envelope else {
            // An answer to an old question, which this server does not ask.
            assert!(
                captured.channel.starts_with("socket.io-response"),
                "{}",
                captured.channel
            );
            continue;
        };
        assert_eq!(envelope.namespace, captured.namespace());
        let again = encode(&envelope);
        let (again, original) = (
            normalized(value(&again)),
            normalized(value(&captured.bytes)),
        );
        // Old messages have a `requestId` where newer ones have none, and other options.
        let is_old = matches!(
            &envelope.message,
            Message::Question(_, Question::Ids(_) | Question::Operation(..))
        );
        let has_except = |value: &Value| value.to_string().contains("except");
        if is_old || !has_except(&original) && has_except(&again) {
            continue;
        }
        assert_eq!(again, original, "{}", captured.channel);
        written += 1;
    }
    assert!(written > 40, "only {written}");
}

#[test]
fn a_message_of_this_server_is_not_read() {
    for captured in captured() {
        let Ok(Some(envelope)) = captured.decode("me") else {
            continue;
        };
        if !envelope.from.is_empty() {
            let own = captured.decode(&envelope.from).expect("a message");
            assert!(own.is_none(), "{}", captured.channel);
        }
    }
}

#[test]
fn a_broadcast_has_its_event_and_its_target() {
    let captured: Vec<_> = captured().collect();
    let (namespace, me) = (NamespaceName::MAIN, "me");
    let emitted = |at: usize| {
        let envelope = captured[at]
            .decode(me)
            .expect("a message")
            .expect("a broadcast");
        let Message::Operation(target, Operation::Emit { payload, volatile }) = envelope.message
        else {
            panic!("no broadcast");
        };
        let json = String::from_utf8(payload.json().to_vec()).expect("UTF-8");
        let uncompressed = payload.uncompressed;
        (
            json,
            payload.attachments().count(),
            target,
            volatile,
            uncompressed,
        )
    };
    let (json, attachments, target, volatile, uncompressed) = emitted(0);
    assert_eq!(json, r#"["hello","world",1,{"a":true}]"#);
    assert!(attachments == 0 && target.is_everybody() && !volatile && !uncompressed);
    let (_, _, target, ..) = emitted(2);
    assert_eq!((target.rooms.len(), target.except.len()), (2, 1));
    let (_, _, _, volatile, uncompressed) = emitted(3);
    assert!(volatile && uncompressed);
    let (json, attachments, ..) = emitted(4);
    assert_eq!(attachments, 2);
    assert!(
        json.starts_with(r#"["bin",{"_placeholder":true,"num":0}"#),
        "{json}"
    );
    let (json, ..) = emitted(5);
    let types =
        r#"["types",null,null,{"n":null},1.5,-1,-129,4294967296,"2023-11-14T22:13:20.000Z","#;
    assert!(json.starts_with(types), "{json}");

    // Another namespace, and another form.
    let chat = NamespaceName::from("/chat");
    let other = decode_broadcast(&captured[0].bytes, &chat, me);
    assert!(other.expect("a message").is_none());
    assert!(decode_broadcast(&captured[8].bytes, &namespace, me).is_err());
}

#[test]
fn timestamps_of_all_lengths_become_dates() {
    for (hex, expected) in [
        ("d6ff6553f100", "2023-11-14T22:13:20.000Z"),
        ("d7ff1d5353006553f100", "2023-11-14T22:13:20.123Z"),
        ("c70cff3b8b87c0ffffffffffffffff", "1969-12-31T23:59:59.999Z"),
    ] {
        let message = bytes_of(&format!("91{hex}"));
        assert_eq!(value(&message), serde_json::json!([expected]), "{hex}");
    }
}

#[test]
fn malformed_messages_are_refused() {
    let namespace = NamespaceName::MAIN;
    for message in [
        "",
        "{",
        "{}",
        r#"{"type":5}"#,
        r#"{"requestId":"a","type":5}"#,
        r#"{"requestId":"a","type":5,"opts":7}"#,
        r#"{"type":6,"data":{}}"#,
        r#"{"type":6,"data":["connect"]}"#,
        r#"{"type":2,"opts":{"rooms":[{}]},"rooms":[]}"#,
        r#"{"requestId":7,"type":1}"#,
    ] {
        let bytes = Bytes::from_static(message.as_bytes());
        assert!(
            decode_request(&bytes, &namespace, "me").is_err(),
            "{message}"
        );
    }
    for message in [
        r#"{"type":8,"requestId":"a","clientCount":-1}"#,
        r#"{"type":8,"requestId":"a","clientCount":1000000000}"#,
        r#"{"type":8,"clientCount":1}"#,
        r#"{"requestId":"a","sockets":[7]}"#,
    ] {
        let bytes = Bytes::from_static(message.as_bytes());
        assert!(
            decode_response(&bytes, &namespace, "me").is_err(),
            "{message}"
        );
    }
    let unknown = Bytes::from_static(br#"{"type":20,"uid":"a","requestId":"b"}"#);
    assert!(decode_request(&unknown, &namespace, "me").is_ok_and(|none| none.is_none()));
    let deep = "[".repeat(100_000);
    let deep = Bytes::from(format!(r#"{{"type":6,"data":["x",{deep}]}}"#));
    assert!(decode_request(&deep, &namespace, "me").is_err());
}

#[test]
fn changed_messages_never_panic() {
    let captured: Vec<_> = captured().collect();
    let seeds: Vec<&[u8]> = captured
        .iter()
        .map(|captured| &captured.bytes[..])
        .collect();
    let mut chance = Chance::new(7);
    let namespace = NamespaceName::MAIN;
    let mut read = 0;
    for _ in 0..20_000 {
        let bytes = Bytes::from(chance.mutate(&seeds, b"{}[]\",:\x80\x90\xc1\xff0"));
        for envelope in [
            decode_broadcast(&bytes, &namespace, "me"),
            decode_request(&bytes, &namespace, "me"),
            decode_response(&bytes, &namespace, "me"),
        ] {
            if let Ok(Some(envelope)) = envelope {
                read += 1;
                // What was read can be written.
                value(&encode(&envelope));
            }
        }
    }
    assert!(read > 1_000, "only {read}");
}

#[test]
fn an_answer_has_its_first_argument_only() {
    let envelope = |answer| {
        Envelope::new(
            "me".into(),
            NamespaceName::MAIN,
            Message::Answer("id".into(), answer),
        )
    };
    let args = |json: &'static str, attachments: Vec<Bytes>| {
        Payload::from_json(Kind::Ack, Bytes::from_static(json.as_bytes()), attachments)
            .expect("arguments")
    };
    let reply = envelope(Answer::Reply(args(r#"[{"a":"]"},2]"#, Vec::new())));
    assert_eq!(
        value(&encode(&reply))["data"],
        serde_json::json!({ "a": "]" })
    );
    let bytes = vec![Bytes::from_static(b"\x07")];
    let reply = envelope(Answer::Reply(args(
        r#"[{"_placeholder":true,"num":0}]"#,
        bytes,
    )));
    assert_eq!(
        value(&encode(&reply))["data"],
        serde_json::json!({ "type": "Buffer", "data": [7] })
    );
    let nothing = envelope(Answer::Reply(args("[]", Vec::new())));
    assert_eq!(value(&encode(&nothing))["data"], Value::Null);
    let bytes = Bytes::from_static(b"\x01\x02");
    let ack = args(r#"[{"_placeholder":true,"num":0}]"#, vec![bytes]);
    let ack = encode(&envelope(Answer::Ack(None, ack)));
    assert!(ack.ends_with(b"\xa6packet\xc4\x02\x01\x02"), "{ack:x?}");
}

#[test]
fn the_deepest_event_of_a_client_passes() {
    let deep = format!(r#"["e",{}1{}]"#, "[".repeat(126), "]".repeat(126));
    let payload = Payload::from_json(Kind::Event, deep.into(), Vec::new()).expect("valid");
    let operation = Operation::Emit {
        payload,
        volatile: false,
    };
    let message = Message::Operation(Target::default(), operation);
    let envelope = Envelope::new("a".into(), NamespaceName::MAIN, message);
    let encoded = encode(&envelope);
    let decoded = decode_broadcast(&encoded.into(), &NamespaceName::MAIN, "b");
    assert!(decoded.expect("valid").is_some());
}
