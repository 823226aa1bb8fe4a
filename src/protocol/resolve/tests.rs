use std::collections::{BTreeMap, HashMap};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::*;
use crate::protocol::tests::{decode, event};
use crate::protocol::{Args, Data, Payload};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Everything {
    id: u64,
    text: String,
    plain: Bytes,
    option: Option<Bytes>,
    none: Option<Bytes>,
    newtype: Newtype,
    tuple: (u8, Bytes, (Bytes,)),
    list: Vec<Bytes>,
    array: [Bytes; 2],
    map: HashMap<String, Bytes>,
    numbered: BTreeMap<u32, Vec<Bytes>>,
    variants: Vec<Variant>,
    boxed: Option<Box<Self>>,
    other: (bool, i8, f64, char, (), Option<i128>, u128),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Newtype(Bytes);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Variant {
    Unit,
    Newtype(Bytes),
    Tuple(u8, Bytes),
    Struct { bytes: Bytes, n: Option<u8> },
}

fn everything() -> Everything {
    let mut count = 0_u8;
    let mut bytes = || {
        count += 1;
        Bytes::copy_from_slice(&[count; 3])
    };
    let inner = Everything {
        id: u64::MAX,
        text: "é\n\"".to_owned(),
        plain: bytes(),
        option: Some(bytes()),
        none: None,
        newtype: Newtype(bytes()),
        tuple: (1, bytes(), (bytes(),)),
        list: vec![bytes(), Bytes::new(), bytes()],
        array: [bytes(), bytes()],
        map: HashMap::from([("a".to_owned(), bytes()), ("b".to_owned(), bytes())]),
        numbered: BTreeMap::from([(7, vec![bytes()]), (8, vec![])]),
        variants: vec![
            Variant::Unit,
            Variant::Newtype(bytes()),
            Variant::Tuple(2, bytes()),
            Variant::Struct {
                bytes: bytes(),
                n: None,
            },
        ],
        boxed: None,
        other: (
            true,
            -5,
            0.25,
            'ü',
            (),
            Some(i128::from(i64::MIN)),
            u128::from(u64::MAX),
        ),
    };
    Everything {
        boxed: Some(Box::new(inner.clone())),
        ..inner
    }
}

fn read<T: DeserializeOwned>(mut payload: Payload) -> T {
    payload.read_one().expect("what was written")
}

#[test]
fn bytes_come_back_wherever_they_were() {
    let payload = event(everything());
    assert!(payload.attachments().count() > 20);
    assert_eq!(read::<Everything>(payload.clone()), everything());
    let (back,) = payload
        .clone()
        .read_all::<(Everything,)>()
        .expect("what was written");
    assert_eq!(back, everything());
}

#[test]
fn bytes_come_back_as_arguments_of_their_own() {
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    let mut payload = event(Args((bytes("a"), 1, Some(bytes("b")))));
    let (a, n, b, none): (Bytes, u8, Option<Bytes>, Option<Bytes>) =
        payload.read_all().expect("what was written");
    assert_eq!((a, n, b, none), (bytes("a"), 1, Some(bytes("b")), None));
    assert_eq!(
        read::<Newtype>(event(Data(Newtype(bytes("a"))))),
        Newtype(bytes("a"))
    );
    assert_eq!(read::<Option<Bytes>>(event(bytes("a"))), Some(bytes("a")));
}

#[test]
fn an_attachment_is_moved_and_not_copied() {
    let attachment = Bytes::from(vec![7; 1000]);
    let place = attachment.as_ptr();
    let json = Bytes::from_static(br#"["e",{"_placeholder":true,"num":0}]"#);
    let mut payload =
        Payload::from_json(crate::protocol::Kind::Event, json, vec![attachment]).expect("valid");
    assert_eq!(payload.read_one::<Bytes>().expect("bytes").as_ptr(), place);
}

#[test]
fn an_attachment_is_read_once() {
    let mut payload = event(Bytes::from_static(b"a"));
    assert!(payload.read_one::<Bytes>().is_ok());
    let error = payload.read_one::<Bytes>().expect_err("gone");
    let source = std::error::Error::source(&error)
        .expect("of serde_json")
        .to_string();
    assert!(
        source.starts_with("attachment 0 was read before"),
        "{source}"
    );
}

/// The ways in which a client may write a placeholder.
const PLACEHOLDERS: [&str; 4] = [
    r#"{"_placeholder":true,"num":0}"#,
    r#"{"num":0,"_placeholder":true}"#,
    r#" { "num" : 0 , "_placeholder" : true } "#,
    r#"{"num":0,"\u005fplaceholder":true}"#,
];

/// Returns an event with bytes for `$`, written in each of the ways.
fn received(args: &str) -> impl Iterator<Item = Payload> {
    let texts = PLACEHOLDERS.map(|bytes| format!("51-[\"e\",{}]", args.replace('$', bytes)));
    let read = |text: String| decode(&text, &[b"bytes"]).expect("valid").payload;
    texts.into_iter().map(read)
}

/// Reads the argument, which must fail, and returns serde's error.
fn refused<T: DeserializeOwned + std::fmt::Debug>(mut payload: Payload) -> String {
    let error = payload.read_one::<T>().expect_err("no place for bytes");
    std::error::Error::source(&error)
        .expect("of serde_json")
        .to_string()
}

#[test]
fn a_type_that_cannot_hold_bytes_refuses_them() {
    #[derive(Debug, Deserialize)]
    struct Lenient {
        #[allow(dead_code, reason = "it is not there")]
        text: Option<String>,
    }
    #[derive(Debug, Deserialize)]
    struct Holder {
        #[allow(dead_code, reason = "it is refused")]
        value: Value,
    }
    #[derive(Debug, Deserialize)]
    enum Tagged {
        Struct {
            #[allow(dead_code, reason = "it is not there")]
            text: Option<String>,
        },
    }
    type Raw = Box<serde_json::value::RawValue>;

    for args in ["$", "[1,$]", r#"{"a":1,"b":[{"c":$}]}"#] {
        for payload in received(args) {
            let reason = refused::<Value>(payload.clone());
            assert!(
                reason.starts_with("invalid type: byte array, expected any valid JSON value"),
                "{reason}"
            );
            refused::<Option<Value>>(payload.clone());
            let reason = refused::<Raw>(payload);
            assert!(reason.starts_with("invalid type: byte array"), "{reason}");
        }
    }
    for payload in received("$") {
        let reason = refused::<Lenient>(payload.clone());
        assert!(
            reason.starts_with("invalid type: byte array, expected struct Lenient"),
            "{reason}"
        );
        refused::<HashMap<String, Value>>(payload.clone());
        refused::<String>(payload.clone());
        refused::<Vec<u8>>(payload.clone());
        refused::<()>(payload);
    }
    for payload in received(r#"{"value":$}"#) {
        refused::<Holder>(payload.clone());
        refused::<HashMap<String, Value>>(payload);
    }
    for payload in received(r#"{"Struct":$}"#) {
        refused::<Tagged>(payload);
    }
    for mut payload in received("1,$") {
        assert!(payload.clone().read_all::<(u8, Value)>().is_err());
        assert!(payload.clone().read_all::<Vec<Value>>().is_err());
        assert!(payload.clone().read_all::<Value>().is_err());
        // An argument that is not read may be anything.
        assert!(payload.read_all::<(u8, serde::de::IgnoredAny)>().is_ok());
    }
}

#[test]
fn values_beside_bytes_are_read_as_usual() {
    for mut payload in received(r#"{"num":[1,{"_placeholder":false}],"x":-1.5},{"7":$}"#) {
        let (value, bytes): (Value, BTreeMap<u8, Bytes>) =
            payload.read_all().expect("a value and bytes");
        assert_eq!(
            value,
            json!({"num": [1, {"_placeholder": false}], "x": -1.5})
        );
        assert_eq!(bytes[&7], b"bytes"[..]);
    }
    for mut payload in received(r#"{"num":$,"\u0078":1}"#) {
        #[derive(Deserialize)]
        struct Named {
            num: Bytes,
            x: u8,
        }
        let named: Named = payload.read_one().expect("bytes and a number");
        assert_eq!((&named.num[..], named.x), (&b"bytes"[..], 1));
    }
    for mut payload in received("[],{},{\"_placeholder\":0,\"a\":1},$,[1]") {
        type All = (
            Value,
            Value,
            HashMap<String, u8>,
            Bytes,
            Box<serde_json::value::RawValue>,
        );
        let (list, object, map, _, raw): All = payload.read_all().expect("all");
        assert_eq!((list, object), (json!([]), json!({})));
        assert_eq!((map["_placeholder"], map["a"]), (0, 1));
        assert_eq!(raw.get(), "[1]");
    }
}

#[test]
fn keys_are_read_beside_bytes_as_serde_json_reads_them() {
    #[derive(Debug, Deserialize, PartialEq, Eq, Hash)]
    enum Side {
        Left,
    }
    #[derive(Debug, Deserialize, PartialEq, Eq, Hash)]
    struct Id(i64);

    fn check<K: DeserializeOwned + Eq + std::hash::Hash + std::fmt::Debug>(key: &str) {
        let expected: HashMap<K, u8> =
            serde_json::from_str(&format!("{{{key}:1}}")).expect("a key");
        for mut payload in received(&format!("{{{key}:1}},$")) {
            let (map, _): (HashMap<K, u8>, Bytes) = payload.read_all().expect("a map");
            assert_eq!(map, expected);
        }
    }
    check::<String>("\"a\"");
    check::<String>("\"\\u00e9\"");
    check::<u8>("\"7\"");
    check::<i128>("\"-7\"");
    check::<bool>("\"true\"");
    check::<Id>("\"-7\"");
    check::<Side>("\"Left\"");
    check::<char>("\"x\"");
    check::<Option<String>>("\"a\"");
    for mut payload in received(r#"{"x":1},$"#) {
        assert!(payload.read_all::<(HashMap<u8, u8>, Bytes)>().is_err());
    }
}

#[test]
fn bytes_come_back_out_of_tagged_and_flattened_types() {
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "kind", rename_all = "lowercase")]
    enum Internal {
        Image { name: String, bytes: Bytes },
        Boxed(Inner),
    }
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "kind", content = "value")]
    enum Adjacent {
        Bytes(Bytes),
        Both(u8, Bytes),
    }
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        Number(u8),
        Inner(Inner),
        Bytes(Bytes),
    }
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Inner {
        list: Vec<Bytes>,
    }
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Flat {
        id: u8,
        #[serde(flatten)]
        inner: Inner,
        #[serde(flatten)]
        more: BTreeMap<String, Bytes>,
    }
    fn check<T: PartialEq + fmt::Debug + Serialize + DeserializeOwned>(value: &T) {
        let payload = event(Data(value));
        assert_ne!(payload.attachments().count(), 0);
        assert_eq!(&read::<T>(payload.clone()), value);
        let (back,) = payload.into_args().read_all::<(T,)>().expect("written");
        assert_eq!(&back, value);
    }

    let bytes = || Bytes::from_static(b"\xffbytes");
    let inner = || Inner {
        list: vec![bytes(), Bytes::new()],
    };
    check(&Internal::Image {
        name: "a".to_owned(),
        bytes: bytes(),
    });
    check(&Internal::Boxed(inner()));
    check(&Adjacent::Bytes(bytes()));
    check(&Adjacent::Both(1, bytes()));
    check(&[
        Untagged::Bytes(bytes()),
        Untagged::Inner(inner()),
        Untagged::Number(1),
    ]);
    check(&Flat {
        id: 1,
        inner: inner(),
        more: BTreeMap::from([("more".to_owned(), bytes())]),
    });
    for mut payload in received(r#"{"bytes":$,"name":"a","kind":"image"}"#) {
        assert_eq!(
            payload.read_one::<Internal>().expect("an image"),
            Internal::Image {
                name: "a".to_owned(),
                bytes: Bytes::from_static(b"bytes"),
            }
        );
    }
}

#[test]
fn bytes_are_read_from_strings_and_lists_too() {
    let mut payload = event(Args((Bytes::from_static(b"a"), "text", [1, 2])));
    let (a, text, list): (Bytes, Bytes, Bytes) = payload.read_all().expect("bytes");
    assert_eq!(
        (&a[..], &text[..], &list[..]),
        (&b"a"[..], &b"text"[..], &[1, 2][..])
    );
}

#[test]
fn other_values_are_not_bytes() {
    for value in [
        "1",
        "null",
        "true",
        "{}",
        r#"{"num":1}"#,
        r#"{"_placeholder":false,"num":1}"#,
    ] {
        let text = format!(r#"51-["e",{value}]"#);
        let mut payload = decode(&text, &[b"x"]).expect("valid").payload;
        assert!(payload.read_one::<Bytes>().is_err(), "{value}");
        assert_eq!(payload.attachments().count(), 1);
    }
}

#[test]
fn depth_is_bounded_through_attachments() {
    #[derive(Debug, Deserialize)]
    struct Nested(#[allow(dead_code, reason = "only its depth counts")] Vec<Self>);
    for (depth, fits) in [(126, true), (127, false), (100_000, false)] {
        let json = format!(r#"["e",{}{}]"#, "[".repeat(depth), "]".repeat(depth));
        let mut attachments = [Some(Bytes::new())];
        let mut json = serde_json::Deserializer::from_str(&json);
        let read = <(Value, Nested)>::deserialize(Resolve::new(&mut json, &mut attachments));
        assert_eq!(read.is_ok(), fits, "{depth}");
    }
}
