use std::ops::Range;

use rmp::encode;
use serde_json::{Value, json};

use super::*;
use crate::calendar::civil;
use crate::protocol::tests::{Chance, json as text};
use crate::protocol::{Args, Data};

type Example = (
    &'static str,
    Kind,
    &'static str,
    Option<u64>,
    &'static str,
    &'static [&'static [u8]],
);

/// Messages of `socket.io-msgpack-parser` 3.0.2, each with its type, its namespace, its
/// acknowledgement, its JSON and its attachments. The first ones come from clients only.
const MESSAGES: [Example; 18] = [
    (
        "83a47479706500a464617461d40000a36e7370a12f",
        Kind::Connect,
        "/",
        None,
        "",
        &[],
    ),
    (
        "85a47479706502a46461746192a568656c6c6f01a76f7074696f6e7381a8636f6d7072657373c3a269640c\
         a36e7370a12f",
        Kind::Event,
        "/",
        Some(12),
        r#"["hello",1]"#,
        &[],
    ),
    (
        "84a47479706503a26964cd01c8a46461746190a36e7370a12f",
        Kind::Ack,
        "/",
        Some(456),
        "[]",
        &[],
    ),
    (
        "83a47479706502a46461746194a175d40000cb7ff8000000000000cb7ff0000000000000a36e7370a12f",
        Kind::Event,
        "/",
        None,
        r#"["u",null,null,null]"#,
        &[],
    ),
    (
        "83a47479706502a46461746196a164d7000000000000000000d7000000018df74f83ffd700ffffffffffffff\
         ffd700001eb208c2dc0000d700ffe14df73d240000a36e7370a12f",
        Kind::Event,
        "/",
        None,
        r#"["d","1970-01-01T00:00:00.000Z","2024-02-29T23:59:59.999Z","1969-12-31T23:59:59.999Z","+275760-09-13T00:00:00.000Z","-271821-04-20T00:00:00.000Z"]"#,
        &[],
    ),
    (
        "83a47479706502a46461746194a162c40081a16192c4020102c7010003c708000102030405060708\
         a36e7370a12f",
        Kind::Event,
        "/",
        None,
        r#"["b",{"_placeholder":true,"num":0},{"a":[{"_placeholder":true,"num":1},{"_placeholder":true,"num":2}]},{"_placeholder":true,"num":3}]"#,
        &[
            b"",
            b"\x01\x02",
            b"\x03",
            b"\x01\x02\x03\x04\x05\x06\x07\x08",
        ],
    ),
    (
        "83a47479706500a46461746181a5746f6b656ea3313233a36e7370a62f61646d696e",
        Kind::Connect,
        "/admin",
        None,
        r#"{"token":"123"}"#,
        &[],
    ),
    (
        "83a47479706500a46461746181a3736964b4775a58336f4e30625356496873616b6e41414149a36e7370a12f",
        Kind::Connect,
        "/",
        None,
        r#"{"sid":"wZX3oN0bSVIhsaknAAAI"}"#,
        &[],
    ),
    (
        "82a47479706501a36e7370a62f61646d696e",
        Kind::Disconnect,
        "/admin",
        None,
        "",
        &[],
    ),
    (
        "83a47479706502a46461746195a568656c6c6f01a374776f910381a4666f757204a36e7370a12f",
        Kind::Event,
        "/",
        None,
        r#"["hello",1,"two",[3],{"four":4}]"#,
        &[],
    ),
    (
        "84a47479706503a46461746191c403010203a26964ce00011170a36e7370a62f61646d696e",
        Kind::Ack,
        "/admin",
        Some(70_000),
        r#"[{"_placeholder":true,"num":0}]"#,
        &[b"\x01\x02\x03"],
    ),
    (
        "83a47479706504a46461746181a76d657373616765ae4e6f7420617574686f72697a6564a36e7370a12f",
        Kind::ConnectError,
        "/",
        None,
        r#"{"message":"Not authorized"}"#,
        &[],
    ),
    (
        "83a47479706502a464617461dc0015a16e007fcc80ccffcd0100cdffffce00010000ceffffffff\
         cf0000000100000000cf001fffffffffffffffe0d0dfd080d1ff7fd18000d2ffff7fffd280000000\
         d3ffffffff7fffffffd3ffe0000000000001a36e7370a12f",
        Kind::Event,
        "/",
        None,
        r#"["n",0,127,128,255,256,65535,65536,4294967295,4294967296,9007199254740991,-1,-32,-33,-128,-129,-32768,-32769,-2147483648,-2147483649,-9007199254740991]"#,
        &[],
    ),
    (
        "83a47479706502a46461746193a166cb3fe0000000000000cbbff4000000000000a36e7370a12f",
        Kind::Event,
        "/",
        None,
        r#"["f",0.5,-1.25]"#,
        &[],
    ),
    (
        "83a47479706502a46461746197a16cc0c3c29080a0a36e7370a12f",
        Kind::Event,
        "/",
        None,
        r#"["l",null,true,false,[],{},""]"#,
        &[],
    ),
    (
        "83a47479706502a46461746194a174adc3a9e282acf09f9880225c0a01bf7878787878787878787878787878\
         7878787878787878787878787878787878d920787878787878787878787878787878787878787878787878\
         7878787878787878a36e7370a12f",
        Kind::Event,
        "/",
        None,
        r#"["t","é€😀\"\\\n\u0001","xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx","xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"]"#,
        &[],
    ),
    (
        "83a47479706502a464617461dc0010a173000102030405060708090a0b0c0d0ea36e7370a12f",
        Kind::Event,
        "/",
        None,
        r#"["s",0,1,2,3,4,5,6,7,8,9,10,11,12,13,14]"#,
        &[],
    ),
    (
        "83a47479706502a46461746192a16dde0010a16100a16201a16302a16403a16504a16605a16706a16807\
         a16908a16a09a16b0aa16c0ba16d0ca16e0da16f0ea1700fa36e7370a12f",
        Kind::Event,
        "/",
        None,
        r#"["m",{"a":0,"b":1,"c":2,"d":3,"e":4,"f":5,"g":6,"h":7,"i":8,"j":9,"k":10,"l":11,"m":12,"n":13,"o":14,"p":15}]"#,
        &[],
    ),
];

/// The messages that clients write in another way: with `undefined`, options, dates, or another
/// order of keys.
const FROM_CLIENTS: Range<usize> = 0..6;

fn bytes(hex: &str) -> Bytes {
    let digits: Vec<_> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).expect("digits");
        u8::from_str_radix(pair, 16).expect("digits")
    };
    digits.chunks(2).map(byte).collect()
}

fn read(message: impl Into<Bytes>) -> Result<Packet, DecodeError> {
    let mut decoder = MsgpackParser::default().decoder();
    let packet = decoder.decode(Message::Binary(message.into()))?;
    assert!(!decoder.is_partial());
    Ok(packet.expect("a whole packet"))
}

/// Returns an event of the main namespace with this data, as a message.
fn event(data: &[u8]) -> Vec<u8> {
    let head: &[u8] = b"\x83\xa4type\x02\xa3nsp\xa1/\xa4data";
    [head, data].concat()
}

/// Returns the JSON of an event with this data.
fn read_json(data: &[u8]) -> String {
    text(&read(event(data)).expect("valid").payload).to_owned()
}

fn refused(message: &[u8]) -> String {
    read(message.to_vec()).expect_err("invalid").to_string()
}

fn write(packet: Packet) -> Bytes {
    let mut messages = MsgpackParser::default().encode(packet).into_iter();
    match (messages.next(), messages.next()) {
        (Some(Message::Binary(message)), None) => message,
        other => panic!("{other:?}"),
    }
}

fn written(payload: Payload) -> Bytes {
    write(Packet {
        namespace: NamespaceName::MAIN,
        kind: Kind::Event,
        ack: None,
        payload,
    })
}

#[test]
fn messages_of_the_official_parser_are_read() {
    for (message, kind, namespace, ack, json, attachments) in MESSAGES {
        let packet = read(bytes(message)).expect(json);
        assert_eq!((packet.kind, packet.ack), (kind, ack), "{json}");
        assert_eq!(packet.namespace, namespace);
        assert_eq!(text(&packet.payload), json);
        assert!(packet.payload.attachments().eq(attachments), "{json}");
    }
}

#[test]
fn messages_are_written_as_the_official_parser_writes_them() {
    for (message, kind, namespace, ack, json, attachments) in &MESSAGES[FROM_CLIENTS.end..] {
        let attachments = attachments.iter().map(|bytes| Bytes::from_static(bytes));
        let json = Bytes::from_static(json.as_bytes());
        let packet = Packet {
            namespace: (*namespace).into(),
            kind: *kind,
            ack: *ack,
            payload: Payload::from_json(*kind, json, attachments.collect()).expect("valid"),
        };
        assert_eq!(write(packet), bytes(message), "{message}");
    }
}

#[test]
fn a_value_keeps_its_kind() {
    let value = json!([1, 1.0, -1, u64::MAX, i64::MIN, 1e300, 0.1, "1", null, true]);
    let message = written(Payload::event("e", 1, Args(value.clone())).expect("serializable"));
    let mut payload = read(message).expect("valid").payload;
    assert_eq!(payload.read_all::<Value>().expect("values"), value);
}

#[test]
fn bytes_keep_their_place() {
    let list = [Bytes::from_static(b"ab"), Bytes::from(vec![7; 70_000])];
    let message = written(Payload::event("e", 1, Args((1, &list, "x"))).expect("serializable"));
    let mut payload = read(message).expect("valid").payload;
    let (one, again, x): (u8, [Bytes; 2], String) = payload.read_all().expect("arguments");
    assert_eq!((one, again, &*x), (1, list, "x"));
}

#[test]
fn placeholders_are_found_in_every_form() {
    let json = br#" [ "e" , {"num" : 1, "_placeholder":true} , {"x":[{"_placeholder":true,"num":0,"y":[1]}]} , 2 ] "#;
    let attachments = vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")];
    let payload = Payload::from_json(Kind::Event, Bytes::from_static(json), attachments);
    let message = written(payload.expect("valid"));
    assert_eq!(
        message,
        b"\x83\xa4type\x02\xa4data\x94\xa1e\xc4\x01b\x81\xa1x\x91\xc4\x01a\x02\xa3nsp\xa1/"[..]
    );
}

#[test]
fn escapes_in_json_are_text_in_messages() {
    let json = br#"["e","\u00e9\n\ud83d\ude00","\ud800"]"#;
    let payload = Payload::from_json(Kind::Event, Bytes::from_static(json), Vec::new());
    let message = written(payload.expect("valid"));
    let text = "é\n😀".as_bytes();
    assert!(message.windows(text.len()).any(|at| at == text));
    assert!(read_json(b"\x92\xa1e\xa2\"\\").ends_with(r#""\"\\"]"#));
    // Half of a surrogate pair is not text, so U+FFFD replaces it.
    let again = read(message).expect("valid");
    assert_eq!(text_of_last(&again), "\u{fffd}");
}

fn text_of_last(packet: &Packet) -> String {
    let args: Vec<Value> = serde_json::from_slice(packet.payload.json()).expect("JSON");
    args.last()
        .and_then(Value::as_str)
        .expect("text")
        .to_owned()
}

#[test]
fn values_that_json_lacks_are_converted() {
    // An extension, a timestamp of MessagePack, and an extension 0 that notepack does not use.
    assert_eq!(
        read_json(b"\x94\xa1e\xd4\x05x\xd6\xff\0\0\0\x01\xd5\0ab"),
        r#"["e",[5,{"_placeholder":true,"num":0}],[-1,{"_placeholder":true,"num":1}],[0,{"_placeholder":true,"num":2}]]"#
    );
    // Dates out of the range of JavaScript.
    assert_eq!(
        read_json(b"\x93\xa1e\xd7\0\x7f\xff\xff\xff\xff\xff\xff\xff\xd7\0\x80\0\0\0\0\0\0\0"),
        r#"["e",null,null]"#
    );
    assert_eq!(read_json(b"\x92\xa1e\xca\x3f\x80\0\0"), r#"["e",1.0]"#);
    assert_eq!(read_json(b"\x92\xa1e\xd0\x05"), r#"["e",5]"#);
    assert_eq!(read_json(b"\x92\xa1e\xa2a\xff"), "[\"e\",\"a\u{fffd}\"]");
}

#[test]
fn keys_are_text_or_become_text() {
    assert_eq!(
        read_json(
            b"\x92\xa1e\x86\xa1a\x01\x02\x03\xc0\x04\xc2\x05\xff\x06\xcb\x3f\xf8\0\0\0\0\0\0\x07"
        ),
        r#"["e",{"a":1,"2":3,"null":4,"false":5,"-1":6,"1.5":7}]"#
    );
    for key in [&b"\x90"[..], b"\x80", b"\xc4\0", b"\xd4\0\0", b"\xd4\x01\0"] {
        let message = event(&[b"\x92\xa1e\x81", key, b"\x01"].concat());
        assert_eq!(refused(&message), "key of a map is not text");
    }
}

#[test]
fn a_malformed_msgpack_packet_is_refused() {
    let cases: [(&[u8], &str); 22] = [
        (b"", "message ends too early"),
        (b"\xc1", "message is not MessagePack"),
        (b"\x90", "packet is not a map"),
        (b"\x80", "unknown packet type"),
        (b"\x81\x01\x02", "packet has a key that is not text"),
        (b"\x82\xa4type\x05\xa3nsp\xa1/", "unknown packet type"),
        (b"\x82\xa4type\xff\xa3nsp\xa1/", "unknown packet type"),
        (b"\x82\xa4type\xa10\xa3nsp\xa1/", "unknown packet type"),
        (b"\x81\xa4type\x00", "packet has no namespace"),
        (b"\x82\xa4type\x00\xa3nsp\x01", "packet has no namespace"),
        (b"\x82\xa4type\x00\xa3nsp\xa1\xff", "namespace is not UTF-8"),
        (
            b"\x82\xa4type\x00\xa3nsp\xa1/\x00",
            "bytes after the packet",
        ),
        (
            b"\x83\xa4type\x00\xa3nsp\xa1/\xa4data\x90",
            "payload is of another type",
        ),
        (
            b"\x83\xa4type\x01\xa3nsp\xa1/\xa4data\x80",
            "payload is not expected",
        ),
        (b"\x82\xa4type\x02\xa3nsp\xa1/", "payload is missing"),
        (
            b"\x83\xa4type\x02\xa3nsp\xa1/\xa4data\x80",
            "payload is of another type",
        ),
        (
            b"\x83\xa4type\x02\xa3nsp\xa1/\xa4data\x90",
            "event has no name",
        ),
        (
            b"\x83\xa4type\x02\xa3nsp\xa1/\xa4data\x91\xc0",
            "event has no name",
        ),
        (
            b"\x83\xa4type\x02\xa3nsp\xa1/\xa4data\x91\xaadisconnect",
            "event has a reserved name",
        ),
        (
            b"\x83\xa4type\x03\xa3nsp\xa1/\xa2id\xff",
            "acknowledgement is not a number",
        ),
        (
            b"\x83\xa4type\x03\xa3nsp\xa1/\xa2id\xa11",
            "acknowledgement is not a number",
        ),
        (
            b"\x83\xa4type\x04\xa3nsp\xa1/\xa4data\xa1x",
            "payload is of another type",
        ),
    ];
    for (message, reason) in cases {
        assert_eq!(refused(message), reason, "{message:x?}");
    }
    let mut decoder = MsgpackParser::default().decoder();
    let error = decoder.decode(Message::Text("2[\"e\"]".into()));
    assert_eq!(
        error.expect_err("text").to_string(),
        "text in place of MessagePack"
    );
}

#[test]
fn nil_counts_as_missing() {
    // As python-socketio writes it.
    let message = b"\x84\xa4type\x01\xa4data\xc0\xa3nsp\xa1/\xa2id\xc0";
    let packet = read(&message[..]).expect("valid");
    assert_eq!((packet.kind, packet.ack), (Kind::Disconnect, None));
}

#[test]
fn the_name_of_a_namespace_has_a_limit() {
    let connect = |len: usize| {
        let name = format!("/{}", "x".repeat(len));
        let mut message = b"\x82\xa4type\x00\xa3nsp".to_vec();
        write_text(&mut message, &name);
        read(message)
    };
    assert_eq!(connect(254).expect("valid").namespace.len(), 255);
    assert!(connect(255).expect_err("too long").is_limit());
}

#[test]
fn the_depth_is_that_of_json() {
    let nested = |depth: usize| event(&[&vec![0x91; depth][..], b"\xa1e"].concat());
    // An argument is nested, because the first array must begin with a valid name.
    let arg = |depth: usize| {
        let arrays = vec![0x91; depth];
        event(&[b"\x92\xa1e", &arrays[..], b"\x01"].concat())
    };
    assert!(read(arg(126)).is_ok());
    for depth in [127, 128, 500_000] {
        assert!(read(arg(depth)).expect_err("too deep").is_limit());
    }
    assert!(read(nested(500_000)).expect_err("too deep").is_limit());
    // The values of unknown keys may have any depth, because skipping them costs nothing.
    let mut ignored = b"\x83\xa4type\x00\xa3nsp\xa1/\xa1x".to_vec();
    ignored.extend(vec![0x91; 500_000]);
    ignored.push(1);
    assert!(read(ignored).is_ok());
}

#[test]
fn sent_values_may_be_nested_without_limit() {
    let depth = 100_000;
    let json = format!("[\"e\",{}1{}]", "[".repeat(depth), "]".repeat(depth));
    let mut out = Vec::new();
    write_json(&mut out, json.as_bytes(), &[]);
    assert_eq!(out.len(), "\u{92}\u{a1}e1".chars().count() + depth);
}

#[test]
fn long_arrays_in_long_arrays_get_their_markers() {
    let mut value: Value = Value::Null;
    for len in [16, 3, 70_000, 2, 20] {
        let mut list = vec![json!(1); len - 1];
        list.insert(len / 2, value);
        value = list.into();
    }
    let again = read(written(Payload::event("e", 1, &value).expect("JSON")));
    let again = again.expect("valid").payload.read_one::<Value>();
    assert!(again.expect("a value") == value);
}

#[test]
fn a_short_message_with_large_lengths_allocates_nothing() {
    for data in [
        &b"\xdd\xff\xff\xff\xff"[..],
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\0",
        b"\xdf\xff\xff\xff\xff\xdf\xff\xff\xff\xff\xdf\xff\xff\xff\xff",
    ] {
        assert_eq!(refused(&event(data)), "message ends too early");
    }
}

#[test]
fn the_number_of_binary_values_is_limited() {
    let parser = MsgpackParser::default().max_attachments(2);
    let decode = |data: &[u8]| {
        let message = Message::Binary(event(data).into());
        parser.decoder().decode(message)
    };
    assert!(decode(b"\x93\xa1e\xc4\0\xc4\0").is_ok());
    let error = decode(b"\x94\xa1e\xc4\0\xc4\0\xc4\0").expect_err("too many");
    assert!(error.is_limit());
    assert!(decode(b"\x94\xa1e\xc4\0\xc4\0\xd5\x01ab").is_err());
}

#[test]
fn a_forged_placeholder_gets_no_bytes() {
    let lookalike = b"\x82\xac_placeholder\xc3\xa3num\x00";
    let alone = event(&[b"\x92\xa1e", &lookalike[..]].concat());
    let mut payload = read(alone).expect("an object").payload;
    assert!(payload.read_one::<Bytes>().is_err());
    let beside = event(&[b"\x93\xa1e\xc4\x01x", &lookalike[..]].concat());
    assert_eq!(refused(&beside), "placeholder does not name an attachment");
}

#[test]
fn small_bytes_are_copied_and_large_ones_share_the_message() {
    let large = vec![7; 1000];
    let mut data = b"\x93\xa1e\xc4\x01x".to_vec();
    encode::write_bin(&mut data, &large).expect("memory");
    let message = Bytes::from(event(&data));
    let packet = read(message.clone()).expect("valid");
    let range = message.as_ptr_range();
    let shared: Vec<_> = packet
        .payload
        .attachments()
        .map(|bytes| range.contains(&bytes.as_ptr()))
        .collect();
    assert_eq!(shared, [false, true]);
}

#[test]
fn dates_follow_the_calendar() {
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let mut expected = (-400, 1, 1);
    // 1200 years from the year -400.
    let start = -719_528 - 146_097;
    for day in start..start + 3 * 146_097 {
        assert_eq!(civil(day), expected);
        let (year, month, date) = &mut expected;
        let last = match *month {
            2 => 28 + i64::from(leap(*year)),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        *date += 1;
        if *date > last {
            (*date, *month) = (1, *month + 1);
        }
        if *month > 12 {
            (*month, *year) = (1, *year + 1);
        }
    }
    assert_eq!(expected, (800, 1, 1));
}

/// Returns a random value with bytes in it, nested at most `depth` levels.
fn value(chance: &mut Chance, depth: usize, attachments: &mut Vec<Bytes>) -> Value {
    let len = [0, 1, 3, 15, 16, 40][chance.below(6)];
    match chance.below(if depth == 0 { 7 } else { 9 }) {
        0 => Value::Null,
        1 => chance.below(2).eq(&0).into(),
        2 => (1_u64 << chance.below(64)).wrapping_sub(1).into(),
        3 => i64::MIN.wrapping_shr(chance.below(64) as u32).into(),
        4 => (chance.below(1000) as f64 / 8.0).into(),
        5 => "é\"x\n".repeat(len).into(),
        6 => {
            attachments.push(vec![len as u8; len].into());
            json!({"_placeholder": true, "num": attachments.len() - 1})
        }
        7 => (0..len.min(16))
            .map(|_| value(chance, depth - 1, attachments))
            .collect(),
        _ => (0..len.min(16))
            .map(|n| (n.to_string(), value(chance, depth - 1, attachments)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
    }
}

#[test]
fn written_packets_read_back_unchanged() {
    let mut chance = Chance::new(3);
    for _ in 0..3_000 {
        let mut attachments = Vec::new();
        let args = json!(["e", value(&mut chance, 3, &mut attachments)]);
        let json = serde_json::to_vec(&args).expect("JSON").into();
        let payload = Payload::from_json(Kind::Event, json, attachments.clone());
        let again = read(written(payload.expect("valid")))
            .expect("valid")
            .payload;
        let read: Value = serde_json::from_slice(again.json()).expect("JSON");
        assert_eq!(read, args);
        assert!(again.attachments().eq(&attachments));
    }
}

#[test]
fn mutated_messages_are_refused_or_valid_and_stay_small() {
    let seeds: Vec<_> = MESSAGES.iter().map(|message| bytes(message.0)).collect();
    let seeds: Vec<_> = seeds.iter().map(|seed| &seed[..]).collect();
    let alphabet = b"\x00\x01\x80\x81\x82\x90\x91\xa0\xa1\xc0\xc2\xc4\xc7\xca\xcb\xcc\xd4\xd7\xd9\xdc\xde\xff/";
    let mut chance = Chance::new(4);
    let mut valid = 0;
    for _ in 0..200_000 {
        let message = chance.mutate(&seeds, alphabet);
        let Ok(packet) = read(message.clone()) else {
            continue;
        };
        valid += 1;
        let attached = packet.payload.attachments().count();
        let json = text(&packet.payload).to_owned();
        assert!(json.len() <= 7 * message.len() + 50 * attached, "{json}");
        let again = read(write(packet)).expect("what was written");
        assert_eq!(text(&again.payload), json);
        assert_eq!(again.payload.attachments().count(), attached);
    }
    assert!(valid > 5_000, "too few valid messages: {valid}");
}

#[test]
fn acknowledgements_are_written_and_read_again() {
    let packet = Packet {
        namespace: "/a".into(),
        kind: Kind::Ack,
        ack: Some(u64::MAX),
        payload: Payload::args(2, Data(Bytes::from_static(b"x"))).expect("bytes"),
    };
    let mut again = read(write(packet)).expect("valid");
    assert_eq!((again.kind, again.ack), (Kind::Ack, Some(u64::MAX)));
    assert_eq!(again.namespace, "/a");
    assert_eq!(again.payload.read_one::<Bytes>().expect("bytes"), b"x"[..]);
}
