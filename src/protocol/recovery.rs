//! The fields of packets that connection state recovery uses.
//!
//! ```text
//!    → 40
//!    ← 40{"sid":"…","pid":"…"}            the private id, beside the public one
//!    ← 42["news",1,"AAAAAAPo"]            an event, with its offset after the arguments
//!         the connection breaks, and the client opens a new one
//!    → 40{"pid":"…","offset":"AAAAAAPo"}  the claim, before the fields of the client's `auth`
//!    ← 40{"sid":"…","pid":"…"}            the same ids
//!    ← 42["news",2,"AAAAAAPp"]            the event that the client missed
//! ```

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::Deserialize;

use super::scan::Scanner;
use super::{Kind, Payload};

/// The claim of a client: the private id of its socket, and the offset of the last packet that it
/// received.
pub(crate) struct Claim {
    pub(crate) pid: String,
    pub(crate) offset: Option<String>,
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The id is private, so it is not shown.
        f.debug_struct("Claim")
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

impl Payload {
    /// Removes the claim from the payload of a `CONNECT`, and returns it. The rest is the `auth`
    /// that handlers see, the same as at the first connect.
    pub(crate) fn extract_claim(&mut self) -> Option<Claim> {
        #[derive(Deserialize)]
        struct Wire<'a> {
            #[serde(borrow)]
            pid: Cow<'a, str>,
            #[serde(borrow)]
            offset: Option<Cow<'a, str>>,
        }
        let json = self.readable_json();
        let wire: Wire<'_> = serde_json::from_slice(&json).ok()?;
        let claim = Claim {
            pid: wire.pid.into_owned(),
            offset: wire.offset.map(Cow::into_owned),
        };
        let rest = without(self.json(), &[b"\"pid\"", b"\"offset\""])?;
        *self = match &rest[..] {
            b"{}" => Self::default(),
            _ => Self::from_json(Kind::Connect, Bytes::from(rest), Vec::new()).ok()?,
        };
        Some(claim)
    }
}

/// Returns a JSON object without the members that have one of these names. The names include their
/// quotes.
fn without(json: &[u8], names: &[&[u8]]) -> Option<Vec<u8>> {
    let mut scanner = Scanner::new(json, 0);
    let mut rest = Vec::with_capacity(json.len());
    rest.push(b'{');
    scanner.expect(b'{').ok()?;
    while scanner.peek()? != b'}' {
        let start = scanner.position();
        scanner.expect(b'"').ok()?;
        scanner.string().ok()?;
        let name = &json[start..scanner.position()];
        scanner.expect(b':').ok()?;
        scanner.value().ok()?;
        if !names.contains(&name) {
            if rest.len() > 1 {
                rest.push(b',');
            }
            rest.extend_from_slice(&json[start..scanner.position()]);
        }
        if scanner.peek()? == b',' {
            scanner.next();
        }
    }
    rest.push(b'}');
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tests::{decode, event, json};
    use crate::protocol::{Args, JsonParser, Packet, Parser};

    fn claim(connect: &str) -> (Option<(String, Option<String>)>, String) {
        let mut payload = decode(connect, &[]).expect("valid").payload;
        let claim = payload.extract_claim();
        (
            claim.map(|claim| (claim.pid, claim.offset)),
            json(&payload).to_owned(),
        )
    }

    #[test]
    fn a_claim_is_removed_from_the_auth() {
        let both = Some(("p".to_owned(), Some("o".to_owned())));
        let alone = Some(("p".to_owned(), None));
        for (connect, expected, rest) in [
            (r#"0{"pid":"p","offset":"o"}"#, &both, ""),
            (r#"0{"pid":"p"}"#, &alone, ""),
            (r#"0{"pid":"p","offset":null}"#, &alone, ""),
            (
                r#"0{"pid":"p","offset":"o","token":"t"}"#,
                &both,
                r#"{"token":"t"}"#,
            ),
            (
                r#"0{"a":[{"pid":1}, 1.50],"pid":"p" , "b":{}}"#,
                &alone,
                r#"{"a":[{"pid":1}, 1.50],"b":{}}"#,
            ),
            (r#"0/x,{"a":1,"pid":"\u0070"}"#, &alone, r#"{"a":1}"#),
            (r#"0{"a":"\ud83d","pid":"p"}"#, &alone, r#"{"a":"\ud83d"}"#),
        ] {
            assert_eq!(
                claim(connect),
                (expected.clone(), rest.to_owned()),
                "{connect}"
            );
        }
    }

    #[test]
    fn an_auth_without_a_claim_stays_unchanged() {
        for rest in [
            "",
            "{}",
            r#"{"token":"t"}"#,
            r#"{"pid":1,"offset":"o"}"#,
            r#"{"pid":"p","offset":1}"#,
            r#"{"pid":"p","pid":"p"}"#,
        ] {
            assert_eq!(claim(&format!("0{rest}")), (None, rest.to_owned()));
        }
    }

    #[test]
    fn debug_hides_a_claim() {
        let mut payload = decode(r#"0{"pid":"secret","offset":"o"}"#, &[])
            .expect("valid")
            .payload;
        let shown = format!("{:?}", payload.extract_claim().expect("a claim"));
        assert_eq!(shown, r#"Claim { offset: Some("o"), .. }"#);
    }

    #[test]
    fn a_text_is_appended_to_the_arguments() {
        for (payload, expected) in [
            (event(Args(())), r#"["e","o"]"#),
            (event(Args((1, "x"))), r#"["e",1,"x","o"]"#),
            (
                decode(r#"2["e"  ]"#, &[]).expect("valid").payload,
                r#"["e"  ,"o"]"#,
            ),
        ] {
            let mut with = payload.clone();
            with.push_text("o");
            assert_eq!((json(&with), with.name()), (expected, Some("e")));
            assert!(with.ends_with_text());
            let packet = Packet {
                namespace: "/".into(),
                kind: Kind::Event,
                ack: None,
                payload: with.clone(),
            };
            let head = JsonParser::default().encode(packet).into_iter().next();
            assert_eq!(
                head,
                Some(crate::engine_io::Message::Text(
                    format!("2{expected}").as_str().into()
                ))
            );
            let mut all = with.into_args();
            let first: serde_json::Value = all.read_one().expect("an argument");
            assert!(first == 1 || first == "o");
        }
    }

    #[test]
    fn an_event_may_end_with_a_text() {
        for (payload, expected) in [
            (event(Args(())), true),
            (event("x"), true),
            (event(1), false),
            (event(["x"]), false),
            (decode("2[\"e\",\"x\" ]", &[]).expect("valid").payload, true),
            (Payload::default(), false),
        ] {
            assert_eq!(payload.ends_with_text(), expected, "{}", json(&payload));
        }
    }
}
