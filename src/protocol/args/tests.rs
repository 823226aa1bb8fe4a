use std::collections::BTreeMap;
use std::error::Error;

use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::*;
use crate::protocol::tests::{decode, event, json};

fn written(args: impl IntoArgs) -> String {
    json(&event(args)).to_owned()
}

fn refused(args: impl IntoArgs) -> String {
    Payload::args(1, args)
        .expect_err("not to be sent")
        .to_string()
}

#[test]
fn a_value_is_one_argument() {
    #[derive(Serialize)]
    struct Id(u64);
    assert_eq!(written(1), r#"["e",1]"#);
    assert_eq!(written("a"), r#"["e","a"]"#);
    assert_eq!(written(Id(7)), r#"["e",7]"#);
    assert_eq!(written((1, "a")), r#"["e",[1,"a"]]"#);
    assert_eq!(written([1, 2]), r#"["e",[1,2]]"#);
    assert_eq!(written(vec![1, 2]), r#"["e",[1,2]]"#);
    assert_eq!(written(Data((1, 2))), r#"["e",[1,2]]"#);
    assert_eq!(written(&["a"][..]), r#"["e",["a"]]"#);
    assert_eq!(written(None::<u8>), r#"["e",null]"#);
    assert_eq!(written(serde_json::Value::Null), r#"["e",null]"#);
    assert_eq!(written([(); 0]), r#"["e",[]]"#);
    assert_eq!(written([()]), r#"["e",[null]]"#);
}

#[test]
fn the_unit_type_is_no_argument_unless_data_wraps_it() {
    assert_eq!(written(()), r#"["e"]"#);
    assert_eq!(written(Data(())), r#"["e",null]"#);
    assert_eq!(json(&Payload::args(1, ()).expect("nothing")), "[]");

    struct Both;
    impl IntoArgs for Both {
        fn into_args(self, out: &mut ArgsWriter) -> Result<(), EncodeError> {
            1.into_args(out)?;
            ().into_args(out)?;
            2.into_args(out)
        }
    }
    assert_eq!(written(Both), r#"["e",1,2]"#);
}

#[test]
fn other_values_without_a_size_are_arguments() {
    #[derive(Serialize)]
    struct Marker;
    #[derive(Serialize)]
    struct Empty {}
    #[derive(Serialize)]
    enum Only {
        One,
    }
    assert_eq!(written(Marker), r#"["e",null]"#);
    assert_eq!(written(Empty {}), r#"["e",{}]"#);
    assert_eq!(written(Only::One), r#"["e","One"]"#);
    assert_eq!(written(std::marker::PhantomData::<u8>), r#"["e",null]"#);
}

#[test]
fn args_have_one_argument_for_each_element() {
    #[derive(Serialize)]
    struct Pair(u8, u8);
    assert_eq!(written(Args(())), r#"["e"]"#);
    assert_eq!(written(Args((1,))), r#"["e",1]"#);
    assert_eq!(written(Args((1, "a", [2]))), r#"["e",1,"a",[2]]"#);
    assert_eq!(written(Args([1, 2])), r#"["e",1,2]"#);
    assert_eq!(written(Args(Vec::<u8>::new())), r#"["e"]"#);
    assert_eq!(written(Args(Pair(1, 2))), r#"["e",1,2]"#);
    assert_eq!(
        json(&Payload::args(1, Args((1, 2))).expect("numbers")),
        "[1,2]"
    );
    assert_eq!(
        json(&Payload::args(1, Args([[1], [2]])).expect("numbers")),
        "[[1],[2]]"
    );
    assert_eq!(json(&Payload::args(1, Args(())).expect("nothing")), "[]");
}

#[test]
fn args_of_other_types_are_refused() {
    let reason = "`Args` holds neither a tuple nor an array nor a list";
    assert_eq!(refused(Args("text")), reason);
    assert_eq!(refused(Args(BTreeMap::from([("a", 1)]))), reason);
}

#[test]
fn raw_json_is_written_unchanged() {
    let raw = |json: &str| RawValue::from_string(json.to_owned()).expect("valid");
    assert_eq!(written(raw("[ 1.0 ]")), r#"["e",[ 1.0 ]]"#);
    assert_eq!(written(Args(raw("[ 1.0 ,2]"))), r#"["e", 1.0 ,2]"#);
    assert_eq!(written(Args(raw("[ ]"))), r#"["e"]"#);
}

#[test]
fn an_unserializable_value_is_refused_and_leaves_no_trace() {
    let odd = BTreeMap::from([((1, 2), 3)]);
    let error = Payload::args(1, &odd).expect_err("not a key");
    assert_eq!(error.to_string(), "value cannot be written as JSON");
    assert_eq!(
        error.source().expect("of serde_json").to_string(),
        "key must be a string"
    );

    struct Careless;
    impl IntoArgs for Careless {
        fn into_args(self, out: &mut ArgsWriter) -> Result<(), EncodeError> {
            let odd = BTreeMap::from([((1, 2), 3)]);
            assert!(out.push(&(Bytes::from_static(b"x"), &odd)).is_err());
            assert!(out.push_all(&(1, &odd)).is_err());
            assert!(out.push_all("text").is_err());
            assert!(out.push_all(&[Bytes::from_static(b"x")][0]).is_err());
            out.push(&1)
        }
    }
    let payload = event(Careless);
    assert_eq!(json(&payload), r#"["e",1]"#);
    assert_eq!(payload.attachments().count(), 0);
}

#[test]
fn the_placeholders_of_raw_arguments_continue_the_numbering() {
    struct Both(RawArgs);
    impl IntoArgs for Both {
        fn into_args(self, out: &mut ArgsWriter) -> Result<(), EncodeError> {
            out.push(&Bytes::from_static(b"first"))?;
            self.0.into_args(out)?;
            out.push("last")
        }
    }
    let text = r#"52-["x",{"_placeholder":true,"num":1},{"num":0,"_placeholder":true}]"#;
    let raw = decode(text, &[b"0", b"1"])
        .expect("valid")
        .payload
        .into_args();
    let payload = event(Both(raw));
    assert_eq!(
        json(&payload),
        r#"["e",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1},{"num":2,"_placeholder":true},"last"]"#
    );
    assert!(payload.attachments().eq([&b"first"[..], b"1", b"0"]));

    let none = decode("2[\"x\" ]", &[]).expect("valid").payload.into_args();
    let payload = event(Both(none));
    assert_eq!(
        json(&payload),
        r#"["e",{"_placeholder":true,"num":0},"last"]"#
    );
}

#[test]
fn raw_arguments_whose_bytes_were_read_are_not_passed_on() {
    let text = r#"51-["x",{"_placeholder":true,"num":0}]"#;
    let mut raw = decode(text, &[b"0"]).expect("valid").payload.into_args();
    assert!(raw.read_one::<Bytes>().is_ok());
    assert_eq!(refused(raw), "attachment of the arguments was read before");
}

#[test]
fn the_first_argument_is_read_and_the_others_are_passed_on() {
    for (text, others) in [
        (r#"2["x","room"]"#, "[]"),
        (r#"2["x", "room" , 1 ,{"a":[2]} ]"#, r#"[ 1 ,{"a":[2]} ]"#),
    ] {
        let raw = decode(text, &[]).expect("valid").payload.into_args();
        let (room, mut rest) = raw.split_first::<String>().expect("a text");
        assert_eq!((&*room, &*rest.to_json()), ("room", others));
        let all: serde_json::Value = rest.read_all().expect("a list");
        assert_eq!(all, others.parse::<serde_json::Value>().expect("JSON"));
    }
    let none = decode(r#"2["x"]"#, &[]).expect("valid").payload.into_args();
    let (first, rest) = none.split_first::<Option<u8>>().expect("nothing");
    assert_eq!((first, &*rest.to_json()), (None, "[]"));
    let wrong = decode(r#"2["x",1]"#, &[]).expect("valid").payload;
    assert!(wrong.into_args().split_first::<String>().is_err());
}

#[test]
fn attachments_follow_their_argument() {
    let text = r#"53-["x",[{"_placeholder":true,"num":1}],{"_placeholder":true,"num":2},{"_placeholder":true,"num":0}]"#;
    let raw = decode(text, &[b"0", b"1", b"2"]).expect("valid").payload;
    let raw = raw.into_args();
    let (first, rest) = raw.clone().split_first::<[Bytes; 1]>().expect("bytes");
    assert_eq!(first[0], b"1"[..]);
    let (_, unread) = raw.split_first::<IgnoredAny>().expect("anything");
    for rest in [rest, unread] {
        let payload = event(rest);
        assert_eq!(
            json(&payload),
            r#"["e",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#
        );
        assert!(payload.attachments().eq([&b"2"[..], b"0"]));
    }
}

#[test]
fn a_forged_placeholder_is_not_sent_with_attachments() {
    let value = serde_json::json!({"_placeholder": true, "num": 0});
    assert!(Payload::args(1, &value).is_ok());
    let both = Args((value, Bytes::from_static(b"x")));
    assert_eq!(
        refused(both),
        "value looks like a placeholder for an attachment"
    );
}

#[test]
fn more_than_ten_attachments_may_be_sent() {
    let payload = event(Args(vec![Bytes::from_static(b"x"); 11]));
    assert_eq!(payload.attachments().count(), 11);
}
