use serde::de::IgnoredAny;

use super::*;
use crate::protocol::tests::Chance;

fn scan(text: &[u8]) -> Result<usize, Invalid> {
    let mut scanner = Scanner::new(text, 0);
    scanner.value()?;
    scanner.end()
}

#[test]
fn texts_that_serde_json_can_skip_are_valid() {
    for text in [
        "null",
        "true",
        "false",
        "0",
        "-0",
        "1.5e-7",
        "10E+2",
        "\"\"",
        "[]",
        "{}",
        "[[],{}]",
        " { \"a\" : [ 1 , \"\\u00e9\\n\" ] , \"b\" : { } } ",
        "\"\\ud800\"",
        "1e999",
        "[1,2,3,\"123456789 é \\\" 123456789\"]",
    ] {
        assert!(serde_json::from_str::<IgnoredAny>(text).is_ok(), "{text}");
        assert!(scan(text.as_bytes()).is_ok(), "{text}");
    }
    for text in [
        "",
        " ",
        "nul",
        "tru",
        "01",
        "-",
        "1.",
        "1e",
        ".5",
        "+1",
        "\"",
        "\"\\x\"",
        "\"\\u12g4\"",
        "\"\n\"",
        "[",
        "]",
        "[1",
        "[1,]",
        "[,1]",
        "[1 2]",
        "{",
        "{\"a\"}",
        "{\"a\":}",
        "{a:1}",
        "{\"a\":1,}",
        "[}",
        "{]",
        "[1}",
        "nullx",
        "1 1",
        "[]]",
        "NaN",
        "\u{a0}1",
        "\"\\u12",
    ] {
        assert!(serde_json::from_str::<IgnoredAny>(text).is_err(), "{text}");
        assert_eq!(scan(text.as_bytes()), Err(Invalid::Syntax), "{text}");
    }
}

#[test]
fn mutated_texts_are_valid_exactly_if_serde_json_accepts_them() {
    let seeds: [&[u8]; 3] = [
        br#"["echo",{"id":1,"text":"some \"text\" \u00e9"},[true,false,null,-1.5e+10]]"#,
        br#"{"a":[{},[],{"b":[[]]}],"c":"12345678","d":0.25}"#,
        b"[0,[1,[2,[3,[\"\\\\\"]]]]] ",
    ];
    let mut chance = Chance::new(1);
    let mut valid = 0;
    for _ in 0..200_000 {
        let text = chance.mutate(&seeds, b"[]{},:\"\\0129.eE-+ntu \n\x01x");
        let expected = serde_json::from_slice::<IgnoredAny>(&text).is_ok();
        assert_eq!(
            scan(&text).is_ok(),
            expected,
            "{:?}",
            String::from_utf8_lossy(&text)
        );
        valid += usize::from(expected);
    }
    assert!(valid > 5_000, "too few valid texts: {valid}");
}

#[test]
fn a_text_may_be_nested_as_deeply_as_serde_json_reads_it() {
    let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).is_ok();
    assert!(scan(nested(127).as_bytes()).is_ok() && read(&nested(127)));
    assert_eq!(scan(nested(128).as_bytes()), Err(Invalid::Depth));
    assert!(!read(&nested(128)));
    assert_eq!(
        scan("{\"a\":".repeat(1_000_000).as_bytes()),
        Err(Invalid::Depth)
    );
}

#[test]
fn a_lone_surrogate_is_replaced_and_a_pair_stays() {
    for (json, expected) in [
        (r#""\ud83d""#, r#""\ufffd""#),
        (r#""a\uD83Dbc""#, r#""a\ufffdbc""#),
        (r#"["\ude00\ud83d"]"#, r#"["\ufffd\ufffd"]"#),
        (r#""\ud83d\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#),
        (r#""\ud83d\u0041\udfff""#, r#""\ufffd\u0041\ufffd""#),
        (r#""\ud83d\n""#, r#""\ufffd\n""#),
        (r#"{"\udbff":"\udc00"}"#, r#"{"\ufffd":"\ufffd"}"#),
        (r#""\ud83d\uDE00""#, r#""\ud83d\uDE00""#),
        (r#""\\ud83d""#, r#""\\ud83d""#),
        (r#""\\\ud83d\\""#, r#""\\\ufffd\\""#),
        (r#""\u00e9\ud7ff\ue000""#, r#""\u00e9\ud7ff\ue000""#),
        ("[]", "[]"),
    ] {
        let replaced = replace_lone_surrogates(json.as_bytes());
        assert_eq!(String::from_utf8_lossy(&replaced), expected);
        assert!(serde_json::from_slice::<serde_json::Value>(&replaced).is_ok());
        let mut scanner = Scanner::new(json.as_bytes(), 0);
        assert!(scanner.value().is_ok());
        assert!(scanner.has_surrogates() || json == expected, "{json}");
    }
}

#[test]
fn any_valid_text_can_be_read_without_lone_surrogates() {
    let seeds: [&[u8]; 2] = [
        br#"["\ud83d\ude00","\\\ud83d",{"\udc00":"\u0041"}]"#,
        br#"["\uD83D","\"\uDE00\\"]"#,
    ];
    let mut chance = Chance::new(2);
    let mut valid = 0;
    for _ in 0..100_000 {
        let text = chance.mutate(&seeds, b"\\ud83cDE0\"[]{},:");
        if scan(&text).is_ok() && std::str::from_utf8(&text).is_ok() {
            valid += 1;
            let read = serde_json::from_slice::<serde_json::Value>(&replace_lone_surrogates(&text));
            assert!(read.is_ok(), "{}", String::from_utf8_lossy(&text));
        }
    }
    assert!(valid > 5_000, "too few valid texts: {valid}");
}

#[test]
fn depth_is_released_when_a_bracket_closes() {
    let flat = format!("[{}1]", "[{}],".repeat(10_000));
    assert!(scan(flat.as_bytes()).is_ok());
}
