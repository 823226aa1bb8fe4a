use serde_json::json;

use super::super::captured::{self, normalized, value};
use super::*;
use crate::protocol::Payload;

const MAX: usize = 7_999;

fn main() -> NamespaceName {
    NamespaceName::MAIN
}

/// A message as a value that can be compared, without what Node's servers do not read.
fn comparable(bytes: &[u8]) -> Value {
    let mut value = value(bytes);
    if let Value::Object(fields) = &mut value {
        fields.remove("nsp");
    }
    if let Some(Value::Object(packet)) = value.pointer_mut("/data/packet") {
        packet.remove("nsp");
    }
    normalized(value)
}

#[test]
fn captured_messages_are_read_and_written_again() {
    let (mut notifications, mut rows, mut signs) = (0, 0, 0);
    let mut last_header: Option<(String, String)> = None;
    for captured in captured::read(include_str!("vectors.txt")) {
        if captured.channel != "socket.io#/" {
            // A row.
            let envelope = envelope::decode_of(&captured.bytes, &main());
            let envelope = envelope.expect("a message").expect("of a known type");
            let Some(Encoded::Attachment { header, payload }) = encode(&envelope, MAX) else {
                panic!("a message with bytes is a notification");
            };
            assert_eq!(comparable(&payload), comparable(&captured.bytes));
            let again = format!("{header}{}{HEADER_END}", captured.channel);
            let again = Notification::read(again.as_bytes()).expect("a notification");
            let (uid, id) = last_header.take().expect("a notification came before");
            assert_eq!((&*again.uid, captured.channel), (&*uid, &*id));
            let attachment = again.attachment().expect("a number");
            assert_eq!(attachment, captured.channel.parse().ok());
            rows += 1;
            continue;
        }
        let read = Notification::read(&captured.bytes).expect("a notification");
        if let Some(row) = read.attachment().expect("a number") {
            last_header = Some((read.uid.into_owned(), row.to_string()));
            continue;
        }
        let message = read.message(&captured.bytes, &main()).expect("a message");
        let Some(envelope) = message else {
            let again = encode_sign(read.kind, &read.uid, "/");
            assert_eq!(again.as_bytes(), captured.bytes);
            signs += 1;
            continue;
        };
        assert_eq!(*envelope.from, *read.uid);
        assert_eq!(envelope.namespace, "/");
        let Some(Encoded::Notification(again)) = encode(&envelope, MAX) else {
            panic!("a short message without bytes is a row");
        };
        assert_eq!(comparable(again.as_bytes()), comparable(&captured.bytes));
        notifications += 1;
    }
    assert_eq!((notifications, rows, signs), (15, 3, 8));
}

#[test]
fn a_message_that_is_too_long_is_a_row() {
    let payload = Payload::event("x", 1, "long").expect("an event");
    let envelope = Envelope::new("me".into(), main(), Message::ServerEvent(payload));
    let Some(Encoded::Notification(json)) = encode(&envelope, MAX) else {
        panic!("a short message is a row");
    };
    assert!(matches!(
        encode(&envelope, json.len()),
        Some(Encoded::Notification(_))
    ));
    let Some(Encoded::Attachment { header, payload }) = encode(&envelope, json.len() - 1) else {
        panic!("a long message is a notification");
    };
    assert_eq!(header, r#"{"uid":"me","type":9,"attachmentId":""#);
    assert_eq!(comparable(&payload), comparable(json.as_bytes()));
}

#[test]
fn the_question_of_a_row_is_in_the_notification() {
    use crate::hub::other_servers::Answer;

    let payload = Payload::event("x", 1, bytes::Bytes::from_static(b"1")).expect("an event");
    let message = Message::Answer("asked".into(), Answer::Reply(payload));
    let envelope = Envelope::new("me".into(), main(), message);
    let Some(Encoded::Attachment { header, .. }) = encode(&envelope, MAX) else {
        panic!("a message with bytes is a notification");
    };
    let notification = format!("{header}7{HEADER_END}");
    let read = Notification::read(notification.as_bytes()).expect("a notification");
    assert!(read.is_answer());
    assert_eq!(read.request_id().as_deref(), Some("asked"));
    assert_eq!(read.attachment(), Ok(Some(7)));
}

#[test]
fn the_question_is_read_without_the_message() {
    let json = br#"{"type":7,"data":{"opts":{},"requestId":"q"},"uid":"a"}"#;
    let read = Notification::read(json).expect("a notification");
    assert_eq!(read.request_id().as_deref(), Some("q"));
    assert!(!read.is_answer());
    let json = br#"{"type":3,"data":{"opts":{}},"uid":"a"}"#;
    let read = Notification::read(json).expect("a notification");
    assert_eq!(read.request_id(), None);
}

#[test]
fn malformed_notifications_are_refused() {
    for text in ["", "x", "[]", r#"{"type":3}"#, r#"{"type":300,"uid":"a"}"#] {
        assert!(Notification::read(text.as_bytes()).is_err(), "{text}");
    }
    for id in [
        json!("x"),
        json!([]),
        json!(0.5),
        json!("9223372036854775808"),
    ] {
        let text = json!({ "type": 3, "uid": "a", "attachmentId": id }).to_string();
        let read = Notification::read(text.as_bytes()).expect("a notification");
        assert!(read.attachment().is_err(), "{text}");
    }
    let bytes = Bytes::from_static(br#"{"type":3,"uid":"a","data":{}}"#);
    let read = Notification::read(&bytes).expect("a notification");
    assert!(read.message(&bytes, &main()).is_err());
    assert!(envelope::decode_of(&bytes, &main()).is_err());
}
