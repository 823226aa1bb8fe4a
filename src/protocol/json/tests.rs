//! The examples of the protocol's document, and rows of `docs/parity.md`.

use serde_json::json;

use super::*;
use crate::protocol::tests::{Chance, decode, json as json_of};
use crate::protocol::{Args, IntoArgs};

fn packet(namespace: &str, kind: Kind, ack: Option<u64>, payload: Payload) -> Packet {
    Packet {
        namespace: namespace.into(),
        kind,
        ack,
        payload,
    }
}

fn emit(namespace: &str, name: &str, ack: Option<u64>, args: impl IntoArgs) -> Packet {
    let payload = Payload::event(name, namespace.len(), args).expect("serializable");
    packet(namespace, Kind::Event, ack, payload)
}

fn answer(namespace: &str, ack: u64, args: impl IntoArgs) -> Packet {
    let payload = Payload::args(namespace.len(), args).expect("serializable");
    packet(namespace, Kind::Ack, Some(ack), payload)
}

fn object(namespace: &str, kind: Kind, object: &serde_json::Value) -> Packet {
    let payload = Payload::object(namespace.len(), object).expect("serializable");
    packet(namespace, kind, None, payload)
}

/// Encodes a packet as a text and attachments.
fn encode(packet: Packet) -> (String, Vec<Bytes>) {
    let mut messages = JsonParser::default().encode(packet).into_iter();
    let Some(Message::Text(head)) = messages.next() else {
        panic!("the head is a text");
    };
    let attachments = messages.map(|message| match message {
        Message::Binary(bytes) | Message::Uncompressed(bytes) => bytes,
        Message::Text(_) => panic!("an attachment is binary"),
    });
    (head.as_str().to_owned(), attachments.collect())
}

fn text(packet: Packet) -> String {
    let (text, attachments) = encode(packet);
    assert!(attachments.is_empty());
    text
}

fn reason(text: &str) -> String {
    decode(text, &[]).map_or_else(|error| error.to_string(), |packet| format!("{packet:?}"))
}

#[track_caller]
fn assert_refused(texts: &[&str]) {
    for text in texts {
        assert!(decode(text, &[]).is_err(), "{text}");
    }
}

const B: fn(&'static [u8]) -> Bytes = Bytes::from_static;

// The examples of the protocol's document.

#[test]
fn connect_is_written_as_in_the_document() {
    assert_eq!(
        text(packet("/", Kind::Connect, None, Payload::default())),
        "0"
    );
    let sid = json!({"sid": "oSO0OpakMV_3jnilAAAA"});
    assert_eq!(
        text(object("/admin", Kind::Connect, &sid)),
        r#"0/admin,{"sid":"oSO0OpakMV_3jnilAAAA"}"#
    );
    let message = json!({"message": "Not authorized"});
    assert_eq!(
        text(object("/", Kind::ConnectError, &message)),
        r#"4{"message":"Not authorized"}"#
    );
}

#[test]
fn disconnect_is_written_as_in_the_document() {
    assert_eq!(
        text(packet("/", Kind::Disconnect, None, Payload::default())),
        "1"
    );
    assert_eq!(
        text(packet("/admin", Kind::Disconnect, None, Payload::default())),
        "1/admin,"
    );
}

#[test]
fn events_are_written_as_in_the_document() {
    assert_eq!(text(emit("/", "foo", None, Args(()))), r#"2["foo"]"#);
    assert_eq!(
        text(emit("/admin", "bar", None, Args(()))),
        r#"2/admin,["bar"]"#
    );
    assert_eq!(text(emit("/", "foo", Some(12), Args(()))), r#"212["foo"]"#);
    assert_eq!(
        encode(emit("/", "baz", None, B(&[1, 2, 3, 4]))),
        (
            r#"51-["baz",{"_placeholder":true,"num":0}]"#.to_owned(),
            vec![B(&[1, 2, 3, 4])]
        )
    );
    assert_eq!(
        encode(emit("/admin", "baz", None, Args((B(&[1, 2]), B(&[3, 4]))))),
        (
            r#"52-/admin,["baz",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#
                .to_owned(),
            vec![B(&[1, 2]), B(&[3, 4])]
        )
    );
}

#[test]
fn acknowledgements_are_written_as_in_the_document() {
    assert_eq!(text(answer("/admin", 13, "bar")), r#"3/admin,13["bar"]"#);
    assert_eq!(text(answer("/", 12, Args(()))), "312[]");
    assert_eq!(
        encode(answer("/", 15, Args(("bar", B(&[1, 2, 3, 4]))))),
        (
            r#"61-15["bar",{"_placeholder":true,"num":0}]"#.to_owned(),
            vec![B(&[1, 2, 3, 4])]
        )
    );
}

#[test]
fn the_examples_of_the_document_are_read() {
    #[track_caller]
    fn check(text: &str, namespace: &str, kind: Kind, ack: Option<u64>, json: &str) -> Payload {
        let attachments = if text.contains('-') {
            &[&b"1234"[..]][..]
        } else {
            &[]
        };
        let packet = decode(text, attachments).expect(text);
        assert_eq!(packet.namespace, namespace);
        assert_eq!((packet.kind, packet.ack), (kind, ack));
        assert_eq!(json_of(&packet.payload), json);
        assert!(packet.payload.attachments().eq(attachments.iter()));
        packet.payload
    }

    check("0", "/", Kind::Connect, None, "");
    let sid = r#"{"sid":"oSO0OpakMV_3jnilAAAA"}"#;
    check(
        &format!("0/admin,{sid}"),
        "/admin",
        Kind::Connect,
        None,
        sid,
    );
    let message = r#"{"message":"Not authorized"}"#;
    check(
        &format!("4{message}"),
        "/",
        Kind::ConnectError,
        None,
        message,
    );
    check("1", "/", Kind::Disconnect, None, "");
    check("1/admin,", "/admin", Kind::Disconnect, None, "");
    check(r#"2["foo"]"#, "/", Kind::Event, None, r#"["foo"]"#);
    check(
        r#"2/admin,["bar"]"#,
        "/admin",
        Kind::Event,
        None,
        r#"["bar"]"#,
    );
    check(r#"212["foo"]"#, "/", Kind::Event, Some(12), r#"["foo"]"#);
    check(
        r#"3/admin,13["bar"]"#,
        "/admin",
        Kind::Ack,
        Some(13),
        r#"["bar"]"#,
    );
    let baz = r#"["baz",{"_placeholder":true,"num":0}]"#;
    let mut payload = check(&format!("51-{baz}"), "/", Kind::Event, None, baz);
    assert_eq!(payload.read_one::<Bytes>().expect("bytes"), B(b"1234"));
    let bar = r#"["bar",{"_placeholder":true,"num":0}]"#;
    let mut payload = check(&format!("61-15{bar}"), "/", Kind::Ack, Some(15), bar);
    let (bar, bytes): (String, Bytes) = payload.read_all().expect("both");
    assert_eq!((bar.as_str(), bytes), ("bar", B(b"1234")));
}

#[test]
fn an_event_with_two_attachments_is_read_as_in_the_document() {
    let text = r#"52-/admin,["baz",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#;
    let mut payload = decode(text, &[b"\x01\x02", b"\x03\x04"])
        .expect("valid")
        .payload;
    let read: (Bytes, Bytes) = payload.read_all().expect("both");
    assert_eq!(read, (B(&[1, 2]), B(&[3, 4])));
}

// The rows of `docs/parity.md`.

#[test]
fn s01_every_type_has_its_digit() {
    let o = json!({});
    assert_eq!(text(object("/", Kind::Connect, &o)), "0{}");
    assert_eq!(
        text(packet("/", Kind::Disconnect, None, Payload::default())),
        "1"
    );
    assert_eq!(text(emit("/", "e", None, 1)), r#"2["e",1]"#);
    assert_eq!(text(answer("/", 0, 1)), "30[1]");
    assert_eq!(text(object("/", Kind::ConnectError, &o)), "4{}");
    assert_eq!(&encode(emit("/", "e", None, B(b"x"))).0[..3], "51-");
    assert_eq!(&encode(answer("/", 7, B(b"x"))).0[..4], "61-7");
}

#[test]
fn s02_all_parts_stand_in_order_and_a_comma_ends_the_namespace() {
    let (text, _) = encode(emit("/chat", "e", Some(u64::MAX), Args((B(b"x"), 1))));
    assert_eq!(
        text,
        r#"51-/chat,18446744073709551615["e",{"_placeholder":true,"num":0},1]"#
    );
}

#[test]
fn s03_binary_at_any_depth_is_numbered_depth_first() {
    let value = json_with_bytes();
    let (text, attachments) = encode(emit("/", "e", None, value));
    assert_eq!(
        text,
        r#"53-["e",{"a":[{"_placeholder":true,"num":0},{"b":{"_placeholder":true,"num":1}}],"z":{"_placeholder":true,"num":2}}]"#
    );
    assert_eq!(attachments, [B(b"0"), B(b""), B(b"2")]);
}

fn json_with_bytes() -> impl serde::Serialize {
    #[derive(serde::Serialize)]
    struct Outer {
        a: (Bytes, Inner),
        z: Bytes,
    }
    #[derive(serde::Serialize)]
    struct Inner {
        b: Bytes,
    }
    Outer {
        a: (B(b"0"), Inner { b: B(b"") }),
        z: B(b"2"),
    }
}

#[test]
fn s04_values_that_json_cannot_express_are_null() {
    let args = Args((f64::NAN, f32::INFINITY, None::<u8>, ()));
    assert_eq!(
        text(emit("/", "e", None, args)),
        r#"2["e",null,null,null,null]"#
    );
}

#[test]
fn s05_the_head_comes_before_its_attachments() {
    let mut messages = JsonParser::default()
        .encode(emit("/", "e", None, Args((B(b"0"), B(b"1")))))
        .into_iter();
    assert!(matches!(messages.next(), Some(Message::Text(_))));
    assert!(messages.eq([Message::Binary(B(b"0")), Message::Binary(B(b"1"))]));
}

#[test]
fn s06_connect_has_no_attachments() {
    let payload = Payload::object(1, &json_with_bytes()).expect("serializable");
    let connect = packet("/", Kind::Connect, None, payload);
    assert_eq!(text(connect), r#"0{"a":[[48],{"b":[]}],"z":[50]}"#);
}

#[test]
fn d01_an_unknown_type_is_refused() {
    assert_refused(&["abc", "7", "9[]", " 2[\"a\"]", "-", "é", "\0"]);
    assert_eq!(reason("7"), "unknown packet type");
}

#[test]
fn d02_a_count_of_attachments_is_digits_from_1_to_the_limit() {
    assert_refused(&[
        r#"511-["a"]"#,
        r#"599999999999999999999-["a"]"#,
        r#"51e0-["a"]"#,
        r#"5["a"]"#,
        r#"51["a"]"#,
        r#"5-["a"]"#,
        r#"5-1-["a"]"#,
        r#"5 1-["a"]"#,
        r#"5+1-["a"]"#,
        r#"61.0-["a"]"#,
        r#"21-["a"]"#,
        "51-",
        "51",
        "5",
    ]);
    assert!(decode(r#"511-["a"]"#, &[]).is_err_and(|error| error.is_limit()));
    assert!(decode(r#"510-["a"]"#, &[&b""[..]; 10]).is_ok());
    let mut decoder = JsonParser::default().max_attachments(1).decoder();
    assert!(decoder.decode(Message::Text(r#"52-["a"]"#.into())).is_err());
}

#[test]
fn d03_a_namespace_ends_with_a_comma_or_the_text() {
    for (text, namespace) in [
        ("0/adm", "/adm"),
        ("0/adm,", "/adm"),
        ("0/,", "/"),
        ("0/é/ü,{}", "/é/ü"),
        ("0/__proto__", "/__proto__"),
        ("1/a?b=c", "/a?b=c"),
    ] {
        assert_eq!(decode(text, &[]).expect(text).namespace, namespace);
    }
    assert_refused(&[r#"2/adm["a"]"#, "0/adm,,"]);
}

#[test]
fn d03_a_namespace_has_at_most_255_bytes() {
    let long = format!("0/{}", "x".repeat(254));
    assert_eq!(decode(&long, &[]).expect("long").namespace, long[1..]);
    assert!(decode(&format!("{long}x,"), &[]).is_err_and(|error| error.is_limit()));
}

#[test]
fn d03_a_namespace_that_comes_again_costs_no_memory() {
    let mut decoder = JsonParser::default().decoder();
    let mut next = |text: &str| {
        let packet = decoder.decode(Message::Text(text.into())).expect("valid");
        packet.expect("whole").namespace
    };
    let (a, main, again) = (next("0/a"), next("0"), next("0/a"));
    assert!(main.is_main());
    assert!(std::ptr::eq(a.as_str(), again.as_str()));
}

#[test]
fn d04_an_acknowledgement_is_a_number_of_64_bits() {
    for (text, ack) in [
        (r#"20["a"]"#, Some(0)),
        (r#"2456["a"]"#, Some(456)),
        (r#"2/n,007["a"]"#, Some(7)),
        (r#"218446744073709551615["a"]"#, Some(u64::MAX)),
        (r#"2["a"]"#, None),
        ("3[]", None),
    ] {
        assert_eq!(decode(text, &[]).expect(text).ack, ack);
    }
    assert_refused(&[
        r#"218446744073709551616["a"]"#,
        r#"2-1["a"]"#,
        r#"21e3["a"]"#,
    ]);
}

#[test]
fn d05_connect_carries_an_object_or_nothing() {
    assert!(decode(r#"0 {"token":1} "#, &[]).is_ok());
    assert_refused(&["0[]", "0\"a\"", "0null", "0,", "0true", "0{", "0{}x", "0 "]);
    assert_refused(&["4", "4[]", "4\"a\""]);
}

#[test]
fn d06_disconnect_carries_nothing() {
    assert_refused(&["1{}", "1[]", "1/a,null", "1 "]);
}

#[test]
fn d07_an_event_has_a_name() {
    for (text, name) in [
        (r#"2["a"]"#, "a"),
        (r#"2[""]"#, ""),
        (r#"2 [ "a" , 1 ] "#, "a"),
        ("2/n,[5]", "5"),
        ("2[-0.5e1,1]", "-0.5e1"),
        (r#"2["caf\u00e9","x"]"#, "café"),
        (r#"2["\"\n"]"#, "\"\n"),
        (r#"2["connected"]"#, "connected"),
        (r#"2["error"]"#, "error"),
        (r#"2["\ud800"]"#, "\u{fffd}"),
    ] {
        assert_eq!(decode(text, &[]).expect(text).payload.name(), Some(name));
    }
    assert_refused(&[
        "2",
        "20",
        "2/n",
        "2/n,",
        "2{}",
        "2[]",
        "2[true]",
        "2[null]",
        "2[{}]",
        "2[[\"a\"]]",
        "2\"a\"",
        "2[,\"a\"]",
    ]);
    assert_refused(&[
        r#"2["connect"]"#,
        r#"2["connect_error"]"#,
        r#"2["disconnect",1]"#,
        r#"2["disconnecting"]"#,
        r#"2["newListener"]"#,
        r#"2["removeListener"]"#,
        r#"2["\u0063onnect"]"#,
    ]);
}

#[test]
fn d08_an_acknowledgement_carries_an_array() {
    assert!(decode("31[]", &[]).is_ok());
    assert!(decode("31 [ 1 ] ", &[]).is_ok());
    assert_refused(&["31{}", "31", "31null", "31\"a\"", "31[", "31[1,]"]);
}

#[test]
fn d09_json_is_valid_to_its_end() {
    assert_refused(&[
        r#"2["x""#,
        r#"2["x",]"#,
        r#"2["x",1]]"#,
        r#"2["x"]["y"]"#,
        r#"2["x",nul]"#,
        r#"2["x",01]"#,
        r#"2["x" 1]"#,
        r#"2["x",{"a":}]"#,
        "2[\"x\n\"]",
        r#"2["x",'a']"#,
    ]);
    assert_eq!(reason(r#"2["x""#), "payload is not valid JSON");
    let mut decoder = JsonParser::default().decoder();
    let invalid = Text::received(B(b"2[\"\xff\"]"));
    assert!(decoder.decode(Message::Text(invalid)).is_err());
}

#[test]
fn d09_json_is_not_nested_too_deeply() {
    let nested = |depth| format!("2[\"a\",{}{}]", "[".repeat(depth), "]".repeat(depth));
    let mut payload = decode(&nested(126), &[])
        .expect("as deep as allowed")
        .payload;
    assert!(payload.read_one::<serde_json::Value>().is_ok());
    assert!(payload.read_all::<serde_json::Value>().is_ok());
    for depth in [127, 200_000] {
        assert!(decode(&nested(depth), &[]).is_err_and(|error| error.is_limit()));
    }
    assert_refused(&[&format!("2[\"a\",{}", "{\"b\":[".repeat(200_000))]);
}

#[test]
fn d10_an_attachment_without_a_packet_is_refused() {
    let mut decoder = JsonParser::default().decoder();
    assert!(decoder.decode(Message::Binary(B(b"x"))).is_err());
}

#[test]
fn d11_a_text_in_place_of_an_attachment_is_refused() {
    let mut decoder = JsonParser::default().decoder();
    let head = decoder.decode(Message::Text(r#"51-["a"]"#.into()));
    assert!(head.is_ok_and(|packet| packet.is_none()));
    assert!(decoder.is_partial());
    assert!(decoder.decode(Message::Text(r#"2["y"]"#.into())).is_err());
    assert!(!decoder.is_partial());
}

#[test]
fn d12_a_placeholder_names_an_attachment_of_its_own() {
    for (num, valid) in [
        ("0", true),
        ("1", false),
        ("-1", false),
        ("0.5", false),
        ("\"0\"", false),
    ] {
        let text = format!(r#"51-["a",{{"_placeholder":true,"num":{num}}}]"#);
        let mut decoder = JsonParser::default().decoder();
        assert_eq!(
            decoder.decode(Message::Text(text.as_str().into())).is_ok(),
            valid,
            "{num}"
        );
    }
    let twice = r#"{"_placeholder":true,"num":0}"#;
    assert_refused(&[&format!(r#"51-["a",{twice},{twice}]"#)]);
}

#[test]
fn d13_a_packet_without_attachments_is_not_binary() {
    assert_refused(&[r#"50-["x"]"#, r#"500-["x"]"#, "60-1[]"]);
}

#[test]
fn d14_an_attachment_may_be_unused() {
    let packet = decode(r#"52-["x",{"_placeholder":true,"num":1}]"#, &[b"0", b"1"]);
    let mut payload = packet.expect("valid").payload;
    assert_eq!(payload.read_one::<Bytes>().expect("bytes"), B(b"1"));
    assert!(payload.attachments().eq([&B(b"0")]));
}

#[test]
fn d15_an_empty_message_is_refused() {
    assert_refused(&[""]);
}

#[test]
fn d16_names_that_mean_something_in_javascript_are_names() {
    let payload = decode(r#"2["__proto__",{"constructor":1}]"#, &[])
        .expect("valid")
        .payload;
    assert_eq!(payload.name(), Some("__proto__"));
}

#[test]
fn placeholders_in_a_packet_without_attachments_are_plain_objects() {
    let json = r#"["x",{"_placeholder":true,"num":7}]"#;
    let mut payload = decode(&format!("2{json}"), &[]).expect("valid").payload;
    let value: serde_json::Value = payload.read_one().expect("plain JSON");
    assert_eq!(value, json!({"_placeholder": true, "num": 7}));
    assert!(payload.read_one::<Bytes>().is_err());
}

#[test]
fn attachments_together_are_bounded() {
    let mut decoder = JsonParser::default().max_attachment_bytes(5).decoder();
    for _ in 0..3 {
        let head = decoder.decode(Message::Text(r#"52-["a"]"#.into()));
        assert!(head.is_ok_and(|packet| packet.is_none()));
        assert!(
            decoder
                .decode(Message::Binary(B(b"123")))
                .is_ok_and(|packet| packet.is_none())
        );
        assert!(
            decoder
                .decode(Message::Binary(B(b"45")))
                .is_ok_and(|packet| packet.is_some())
        );
    }
    assert!(decoder.decode(Message::Text(r#"52-["a"]"#.into())).is_ok());
    assert!(decoder.decode(Message::Binary(B(b"123"))).is_ok());
    let beyond = decoder.decode(Message::Binary(B(b"456")));
    assert!(beyond.is_err_and(|error| error.is_limit()));
}

#[test]
fn after_an_error_nothing_is_read() {
    let mut decoder = JsonParser::default().decoder();
    assert!(decoder.decode(Message::Text("7".into())).is_err());
    assert!(decoder.decode(Message::Text(r#"2["a"]"#.into())).is_err());
    assert!(decoder.decode(Message::Binary(B(b"x"))).is_err());
    assert!(!decoder.is_partial());
}

#[test]
fn a_packet_is_read_from_the_middle_of_a_message() {
    // A text to send, with room for the frame in front of it.
    let text = Text::from(r#"2["a",1]"#);
    assert!(text.frame().is_some());
    let mut decoder = JsonParser::default().decoder();
    let packet = decoder
        .decode(Message::Text(text))
        .expect("valid")
        .expect("whole");
    assert_eq!(json_of(&packet.payload), r#"["a",1]"#);
}

#[test]
fn the_arguments_stay_in_the_message_they_came_in() {
    let text = B(br#"2/chat,1["a",{"b":"c"}]"#);
    let mut decoder = JsonParser::default().decoder();
    let message = Message::Text(Text::received(text.clone()));
    let packet = decoder.decode(message).expect("valid").expect("whole");
    assert!(std::ptr::eq(packet.payload.json(), &raw const text[8..]));
}

#[test]
fn the_head_is_written_before_the_json_without_moving_it() {
    let packet = emit("/chat", "event", Some(u64::MAX), "text");
    let json = packet.payload.json().as_ptr();
    let Some(Message::Text(text)) = JsonParser::default().encode(packet).into_iter().next() else {
        panic!("the head is a text");
    };
    assert_eq!(
        text.as_str(),
        r#"2/chat,18446744073709551615["event","text"]"#
    );
    let at = text.as_bytes().len() - br#"["event","text"]"#.len();
    assert!(std::ptr::eq(json, &raw const text.as_bytes()[at]));
}

#[test]
fn a_longer_namespace_than_announced_costs_a_copy_and_nothing_else() {
    let namespace = format!("/{}", "x".repeat(300));
    let payload = Payload::event("e", 1, 1).expect("serializable");
    let text = text(packet(&namespace, Kind::Event, Some(3), payload));
    assert_eq!(text, format!("2{namespace},3[\"e\",1]"));
}

#[test]
fn a_received_payload_can_be_sent() {
    let source = r#"52-/a,1["e",{"_placeholder":true,"num":1}]"#;
    let packet = decode(source, &[b"0", b"1"]).expect("valid");
    assert_eq!(encode(packet), (source.to_owned(), vec![B(b"0"), B(b"1")]));
}

#[test]
fn passed_on_arguments_are_unchanged() {
    for (text, attachments) in [
        (r#"21["e"]"#, &[][..]),
        (r#"21["e",1.50,{"a":"\u00e9"},1e400]"#, &[]),
        (
            r#"52-1["e",{"_placeholder":true,"num":1},[{"num":0,"_placeholder":true}]]"#,
            &[&b"zero"[..], b"one"],
        ),
    ] {
        let packet = decode(text, attachments).expect(text);
        let args = packet.payload.into_args();
        let (echo, echoed) = encode(emit("/", "e", Some(1), args.clone()));
        assert_eq!((echo.as_str(), echoed.len()), (text, attachments.len()));
        assert!(echoed.iter().eq(attachments.iter()));
        let (echo, _) = encode(answer("/", 1, args));
        let expected = text
            .replace("\"e\",", "")
            .replace("\"e\"", "")
            .replace("52-", "62-");
        assert_eq!(echo, expected.replace("21[", "31["));
    }
}

#[test]
fn no_input_of_a_peer_panics() {
    let seeds: [&[u8]; 8] = [
        b"0/chat,{\"token\":\"abc\"}",
        b"2[\"echo\",{\"id\":1,\"text\":\"\\u00e9 and \\\"more\\\"\"},[1,-2.5e3,null]]",
        b"2/admin,12[\"caf\\u00e9\",true]",
        b"312[{\"a\":[[],{}]}]",
        b"51-[\"b\",{\"_placeholder\":true,\"num\":0}]",
        b"62-/n,7[[{\"num\":1,\"_placeholder\":true}],{\"x\":{\"_placeholder\":true,\"num\":0}}]",
        "2[\"ünïcödé\",\"日本語\"]".as_bytes(),
        b"1/admin,",
    ];
    let mut chance = Chance::new(7);
    let mut packets = 0;
    for _ in 0..200_000 {
        let text = chance.mutate(&seeds, b"0123456-,/[]{}\"\\:_en \x00\xff");
        packets += usize::from(feed(text));
    }
    assert!(packets > 10_000, "too few valid packets: {packets}");
}

/// Decodes a packet and calls all functions on it. Returns whether the text is valid.
fn feed(text: Vec<u8>) -> bool {
    let mut decoder = JsonParser::default().decoder();
    let mut message = Message::Text(Text::received(text.into()));
    let packet = loop {
        match decoder.decode(message) {
            Err(_) => return false,
            Ok(Some(packet)) => break packet,
            Ok(None) => message = Message::Binary(B(b"attachment")),
        }
    };
    let mut payload = packet.payload.clone();
    assert_eq!(payload.name().is_some(), packet.kind == Kind::Event);
    let args = payload.clone().into_args();
    let _ = payload.read_object::<serde_json::Value>();
    let _ = payload.read_one::<serde_json::Value>();
    let _ = payload.read_all::<(Option<Bytes>, Vec<Bytes>, Option<String>)>();
    if matches!(packet.kind, Kind::Event | Kind::Ack) {
        let mut again = Payload::args(1, args.clone()).expect("whole");
        assert_eq!(again.attachments().count(), args.attachments().count());
        assert_eq!(
            again.read_all::<serde_json::Value>().ok(),
            args.clone().read_all::<serde_json::Value>().ok()
        );
        assert!(serde_json::from_str::<serde::de::IgnoredAny>(&args.to_json()).is_ok());
    }
    let attachments: Vec<_> = packet.payload.attachments().cloned().collect();
    let (text, _) = encode(packet);
    let mut decoder = JsonParser::default().decoder();
    let mut last = decoder.decode(Message::Text(text.as_str().into()));
    for attachment in attachments {
        last = decoder.decode(Message::Binary(attachment));
    }
    assert!(last.is_ok_and(|packet| packet.is_some()), "{text}");
    true
}
