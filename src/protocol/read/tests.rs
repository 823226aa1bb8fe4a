use std::collections::HashMap;
use std::error::Error;

use serde::Deserialize;
use serde_json::{Value, json};

use super::*;
use crate::protocol::tests::decode;

/// Reads the first argument of an event, and of an acknowledgement with the same arguments.
fn one<T: DeserializeOwned>(args: &str) -> Result<T, ReadError> {
    both(args, Payload::read_one)
}

fn all<T: DeserializeOwned>(args: &str) -> Result<T, ReadError> {
    both(args, Payload::read_all)
}

fn both<T>(args: &str, read: fn(&mut Payload) -> Result<T, ReadError>) -> Result<T, ReadError> {
    let ack = format!("31[{}]", args.trim_start().trim_start_matches(','));
    let ack = read(&mut decode(&ack, &[]).expect("valid").payload);
    let event = format!("2[\"e\"{args}]");
    let event = read(&mut decode(&event, &[]).expect("valid").payload);
    assert_eq!(ack.is_ok(), event.is_ok());
    event
}

#[derive(Debug, PartialEq, Deserialize)]
struct Id(u64);

#[derive(Debug, PartialEq, Deserialize)]
struct Maybe(Option<u64>);

#[derive(Debug, PartialEq, Deserialize)]
struct Pair(u8, Option<u8>);

#[derive(Debug, PartialEq, Deserialize)]
struct Point {
    x: u8,
    #[serde(default)]
    y: Option<u8>,
}

#[derive(Debug, PartialEq, Deserialize)]
enum Shape {
    Dot,
    Circle(u8),
    Line(u8, u8),
    Box { w: u8 },
}

#[test]
fn one_argument_is_read_as_serde_json_reads_it() {
    fn check<T: DeserializeOwned + PartialEq + std::fmt::Debug>(json: &str) {
        let expected: T = serde_json::from_str(json).expect("a good example");
        assert_eq!(one::<T>(&format!(",{json}")).expect(json), expected);
        assert_eq!(all::<(T,)>(&format!(" , {json}")).expect(json), (expected,));
    }
    check::<u8>("7");
    check::<f64>("-1.5e3");
    check::<Id>("7");
    check::<[u8; 3]>("[1,2,3]");
    check::<Vec<u8>>("[1,2,3]");
    check::<(u8, String)>("[1,\"\\u00e9\"]");
    check::<Option<Id>>("null");
    check::<Option<Id>>("7");
    check::<Option<Option<u8>>>("7");
    check::<()>("null");
    check::<Point>("{\"x\":1}");
    check::<Point>("[1,2]");
    check::<Pair>("[1,2]");
    check::<Shape>("\"Dot\"");
    check::<Shape>("{\"Circle\":1}");
    check::<Shape>("{\"Line\":[1,2]}");
    check::<Shape>("{\"Box\":{\"w\":1}}");
    check::<HashMap<u32, bool>>("{\"1\":true}");
    check::<Value>("{\"a\":[1,null]}");
}

#[test]
fn surplus_arguments_are_ignored() {
    assert_eq!(one::<u8>(",7,8,{\"a\":[]}").expect("read"), 7);
    assert_eq!(all::<(u8,)>(",7,8,{\"a\":[]}").expect("read"), (7,));
    assert!(all::<()>(",7,8").is_ok());
    assert_eq!(all::<[u8; 2]>(",7,8,\"x\"").expect("read"), [7, 8]);
}

#[test]
fn a_missing_argument_reads_as_null() {
    assert_eq!(one::<Option<u8>>("").expect("read"), None);
    assert!(one::<()>(" ").is_ok());
    assert_eq!(one::<Maybe>("").expect("read"), Maybe(None));
    assert_eq!(one::<Value>("").expect("read"), Value::Null);
    assert_eq!(all::<(u8, Option<u8>)>(",1").expect("read"), (1, None));
    let read = all::<(Option<u8>, (), Maybe)>("").expect("read");
    assert_eq!(read, (None, (), Maybe(None)));
    assert_eq!(all::<Pair>(",1").expect("read"), Pair(1, None));
    assert_eq!(all::<Point>(",1").expect("read"), Point { x: 1, y: None });
}

#[test]
fn the_error_names_a_missing_argument() {
    let error = one::<u8>("").expect_err("nothing there");
    assert_eq!(
        (error.to_string().as_str(), error.is_missing()),
        ("argument 1 is missing", true)
    );
    let error = all::<(u8, Option<u8>, Id)>(",1").expect_err("two there");
    assert_eq!(
        (error.to_string().as_str(), error.is_missing()),
        ("argument 3 is missing", true)
    );
    assert!(error.source().is_none());
    let error = all::<[u8; 2]>(",1").expect_err("one there");
    assert_eq!(error.to_string(), "argument 2 is missing");
}

#[test]
fn the_error_names_an_argument_of_the_wrong_type() {
    let error = one::<u8>(",\"x\"").expect_err("a text");
    assert_eq!(error.to_string(), "argument 1 is of another type");
    assert!(
        error
            .source()
            .expect("of serde_json")
            .to_string()
            .contains("expected u8")
    );
    let error = all::<(u8, u8)>(",1,[2]").expect_err("an array");
    assert_eq!(error.to_string(), "argument 2 is of another type");
    assert!(!error.is_missing());
    let error = all::<(u8, [u8; 2])>(",1,[2]").expect_err("too short");
    assert_eq!(error.to_string(), "argument 2 is of another type");
    let error = all::<HashMap<String, u8>>(",1").expect_err("no map");
    assert_eq!(error.to_string(), "arguments are of another type");
    assert!(all::<Shape>(",1").is_err());
    assert!(all::<u8>(",1").is_err());
}

#[test]
fn a_lone_surrogate_is_read_as_a_replacement_character() {
    assert_eq!(one::<String>(r#","a\ud83d""#).expect("read"), "a\u{fffd}");
    assert_eq!(one::<char>(r#","\ude00""#).expect("read"), '\u{fffd}');
    assert_eq!(
        one::<Value>(r#",{"\ud83d":["\ude00\ud83d",{"a":"\ud83d\ude00"}]}"#).expect("read"),
        json!({"\u{fffd}": ["\u{fffd}\u{fffd}", {"a": "\u{1f600}"}]})
    );
    assert_eq!(
        all::<(u8, String)>(r#",1,"\ud83d""#).expect("read"),
        (1, "\u{fffd}".to_owned())
    );
    assert_eq!(
        all::<(u8,)>(r#",1,"\ud83d""#).expect("read"),
        (1,),
        "it need not be read"
    );
    let mut raw = decode(r#"2["\ud83d",1,"\ud83d"]"#, &[])
        .expect("valid")
        .payload;
    assert_eq!(raw.name(), Some("\u{fffd}"));
    let all = raw.read_all::<(u8, String)>().expect("read");
    assert_eq!(all, (1, "\u{fffd}".to_owned()));
    let raw = raw.into_args();
    assert_eq!(raw.to_json(), r#"[1,"\ud83d"]"#);
    let (_, mut rest) = raw.split_first::<u8>().expect("a number");
    assert_eq!(rest.read_one::<String>().expect("read"), "\u{fffd}");

    let auth = decode(r#"0{"name":"\ud83d"}"#, &[]).expect("valid").payload;
    let auth = auth.read_object::<HashMap<String, String>>().expect("read");
    assert_eq!(auth["name"], "\u{fffd}");

    let text = r#"51-["e","\ud83d",{"_placeholder":true,"num":0}]"#;
    let mut payload = decode(text, &[b"x"]).expect("valid").payload;
    let (text, bytes) = payload.read_all::<(String, Bytes)>().expect("read");
    assert_eq!((&*text, &bytes[..]), ("\u{fffd}", &b"x"[..]));
}

/// Other unusual forms of valid JSON. Some are read, others are refused.
#[test]
fn valid_json_is_read_or_refused_with_a_reason() {
    fn reason<T: DeserializeOwned + std::fmt::Debug>(args: &str) -> String {
        let error = one::<T>(args).expect_err("refused");
        error.source().expect("of serde_json").to_string()
    }

    // Line separators and noncharacters need no escape.
    assert_eq!(
        one::<String>(",\"\u{2028}\u{2029}\u{fffe}\u{feff}\"").expect("read"),
        "\u{2028}\u{2029}\u{fffe}\u{feff}"
    );
    assert_eq!(one::<String>(r#","\u0000\/""#).expect("read"), "\0/");
    // Numbers as JavaScript and others write them.
    assert!(one::<f64>(",-0").expect("read").is_sign_negative());
    assert!(one::<i64>(",-0").is_err(), "serde_json reads a float");
    assert_eq!(one::<f64>(",1e21").expect("read"), 1e21);
    assert_eq!(one::<f64>(",100000000000000000000").expect("read"), 1e20);
    assert_eq!(one::<f64>(",5").expect("read"), 5.0);
    assert_eq!(one::<f64>(",5e-324").expect("read"), 5e-324);
    assert_eq!(one::<f64>(",1e-400").expect("read"), 0.0);
    let many = format!(",0.{}", "3".repeat(10_000));
    assert!((one::<f64>(&many).expect("read") - 1.0 / 3.0).abs() < 1e-15);
    // `JSON.parse` reads infinity here. `JSON.stringify` never writes such a number.
    assert!(reason::<f64>(",1e999").starts_with("number out of range"));
    assert!(reason::<Value>(",[-1e999]").starts_with("number out of range"));
    assert_eq!(all::<(u8,)>(",1,1e999").expect("not read"), (1,));
    // If a key occurs twice, the last value counts. A struct refuses such an object.
    assert_eq!(
        one::<Value>(r#",{"a":1,"a":2}"#).expect("read"),
        json!({"a": 2})
    );
    assert!(reason::<Named>(r#",{"a":1,"a":2}"#).starts_with("duplicate field `a`"));
    // Any text can be a key.
    assert_eq!(
        one::<Value>(r#",{"":1,"__proto__":{}}"#).expect("read"),
        json!({"": 1, "__proto__": {}})
    );
    assert_eq!(
        one::<Named>(r#",{"__proto__":1,"a":1}"#).expect("read"),
        Named { a: 1 }
    );
    // The maximum depth. A deeper text closes the connection.
    let deep = format!(",{}{}", "[".repeat(126), "]".repeat(126));
    assert!(one::<Value>(&deep).is_ok());
}

#[test]
fn the_reason_is_one_short_line() {
    let reason = |args: &str| one::<u8>(args).expect_err("no number").reason();
    assert_eq!(
        reason(",\"x\"").as_deref(),
        Some("invalid type: string \"x\", expected u8")
    );
    assert_eq!(
        reason(",300").as_deref(),
        Some("invalid value: integer `300`, expected u8")
    );
    let long = reason(&format!(",\"{}\"", "é".repeat(100_000))).expect("a reason");
    assert!(long.len() < 250, "{}", long.len());
    assert!(long.starts_with("invalid type: string \"éé"), "{long}");
    assert!(long.ends_with("éé\", expected u8"), "{long}");
    assert_eq!(one::<u8>("").expect_err("nothing there").reason(), None);
    let object = decode("0{\"x\":1}", &[]).expect("valid").payload;
    let error = object.read_object::<Named>().expect_err("another field");
    assert_eq!(error.reason().as_deref(), Some("missing field `a`"));
}

#[derive(Debug, PartialEq, Deserialize)]
struct Named {
    a: u8,
}

#[test]
fn the_error_hints_at_a_mismatch_of_tuple_and_array() {
    fn hint_one<T: DeserializeOwned + std::fmt::Debug>(args: &str) -> Option<&'static str> {
        one::<T>(args).expect_err("refused").hint()
    }
    fn hint_all<T: DeserializeOwned + std::fmt::Debug>(args: &str) -> Option<&'static str> {
        all::<T>(args).expect_err("refused").hint()
    }
    // `emit("e", 1, 2)` for `Data<(u8, u8)>`.
    assert_eq!(hint_one::<(u8, u8)>(",1,2"), Some(ReadError::MANY));
    assert_eq!(hint_one::<[u8; 2]>(",1"), Some(ReadError::MANY));
    assert_eq!(hint_one::<Pair>(",1,2"), Some(ReadError::MANY));
    assert_eq!(hint_one::<Option<(u8, u8)>>(",1"), Some(ReadError::MANY));
    assert_eq!(hint_one::<(u8, u8)>(",[1]"), None);
    assert_eq!(hint_one::<(u8, u8)>(",[\"x\",1]"), None);
    assert_eq!(hint_one::<u8>(",\"x\",1"), None);
    assert_eq!(hint_one::<Point>(",1,2"), None);
    // `emit("e", [1, 2])` for `Args<(u8, u8)>`.
    assert_eq!(hint_all::<(u8, u8)>(", [1,2]"), Some(ReadError::ONE));
    assert_eq!(hint_all::<(Vec<u8>, u8)>(",[1,2]"), Some(ReadError::ONE));
    assert_eq!(hint_all::<(u8, u8)>(",\"x\",[1]"), None);
    assert_eq!(hint_all::<(Vec<u8>, u8)>(",[1],\"x\""), None);

    let text = r#"51-["e",{"_placeholder":true,"num":0}]"#;
    let mut bytes = decode(text, &[b"x"]).expect("valid").payload;
    let error = bytes.read_one::<Value>().expect_err("bytes");
    assert_eq!(error.hint(), Some(ReadError::BYTES));
    let error = bytes.read_all::<(String,)>().expect_err("bytes");
    assert_eq!(error.hint(), Some(ReadError::BYTES));
}

#[test]
fn all_arguments_make_a_list() {
    assert_eq!(all::<Vec<u8>>(",1,2").expect("read"), [1, 2]);
    assert!(all::<Vec<u8>>("").expect("read").is_empty());
    assert_eq!(
        all::<Vec<Value>>(",[1],{}").expect("read"),
        [json!([1]), json!({})]
    );
    assert_eq!(all::<Value>(",1").expect("read"), json!([1]));
    assert_eq!(all::<Option<(u8,)>>(",1").expect("read"), Some((1,)));
}

#[test]
fn a_missing_object_reads_as_empty() {
    let absent = decode("0", &[]).expect("valid").payload;
    assert_eq!(absent.read_object::<Value>().expect("read"), json!({}));
    assert_eq!(absent.read_object::<Option<Id>>().expect("read"), None);
    assert_eq!(absent.read_object::<()>().expect("read"), ());
    assert!(
        absent
            .read_object::<HashMap<String, String>>()
            .expect("read")
            .is_empty()
    );
    let error = absent
        .read_object::<Point>()
        .expect_err("a field is missing");
    assert_eq!(error.to_string(), "payload is of another type");
    assert_eq!(
        error.source().expect("of serde_json").to_string(),
        "missing field `x` at line 1 column 2"
    );

    let present = decode("0{\"x\":1}", &[]).expect("valid").payload;
    assert_eq!(
        present.read_object::<Point>().expect("read"),
        Point { x: 1, y: None }
    );
}
