//! The placeholders in a payload: finds them, checks them and makes them regular.
//!
//! A regular placeholder has the keys and the order of `{"_placeholder":true,"num":0}`. In a regular
//! text no other object begins with this key: where a value does, its first key is written with an
//! escape.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::ops::Range;

use super::scan::{Invalid, Scanner};

/// Checks that each placeholder in `json` names one of `count` attachments, and no two name the
/// same. Returns whether the text is regular.
///
/// `json` must be valid.
pub(super) fn check_placeholders(json: &[u8], count: usize) -> Result<bool, Invalid> {
    let mut used = vec![false; count];
    let Found {
        placeholders,
        lookalikes,
    } = find(json)?;
    let mut regular = lookalikes.is_empty();
    for place in placeholders {
        let num = parse_num(&json[place.num]).ok_or(Invalid::Syntax)?;
        let used = used.get_mut(num).ok_or(Invalid::Syntax)?;
        if std::mem::replace(used, true) {
            return Err(Invalid::Syntax);
        }
        regular &= place.is_regular;
    }
    Ok(regular)
}

/// Makes a text regular. Placeholders stay where they are: spaces fill the bytes that a regular one does
/// not need.
///
/// `json` must be valid.
pub(super) fn regularize(mut json: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    let Found {
        mut placeholders,
        mut lookalikes,
    } = find(&json).unwrap_or_default();
    placeholders.retain(|place| !place.is_regular);
    lookalikes.retain(|at| !placeholders.iter().any(|place| place.object.contains(at)));
    // From the last to the first, so that an outer placeholder overwrites those inside it.
    placeholders.sort_unstable_by_key(|place| Reverse(place.object.start));
    for place in placeholders {
        let object = [b"{\"_placeholder\":true,\"num\":", &json[place.num], b"}"].concat();
        // The regular form is the shortest one with both keys and this number.
        let place = json.to_mut()[place.object].split_at_mut_checked(object.len());
        if let Some((head, rest)) = place {
            head.copy_from_slice(&object);
            rest.fill(b' ');
        }
    }
    if lookalikes.is_empty() {
        return json;
    }
    Cow::Owned(escape_keys(&json, &lookalikes))
}

/// Writes the keys `_placeholder` at these positions, in their order, with an escape.
fn escape_keys(json: &[u8], keys: &[usize]) -> Vec<u8> {
    const ESCAPED: &[u8] = br"\u005f";

    let mut text = Vec::with_capacity(json.len() + ESCAPED.len() * keys.len());
    let mut done = 0;
    for key in keys {
        text.extend_from_slice(&json[done..=*key]);
        text.extend_from_slice(ESCAPED);
        // After the quote and the underscore.
        done = key + 2;
    }
    text.extend_from_slice(&json[done..]);
    text
}

/// Parses the number of an attachment, which is digits only.
pub(super) fn parse_num(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The position of an object with `"_placeholder":true`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Placeholder {
    /// The object with its brackets.
    pub(super) object: Range<usize>,
    /// The digits of its `num`. Empty if there is no number.
    pub(super) num: Range<usize>,
    /// Whether the object has two keys, and `_placeholder` is the first one, without an escape.
    is_regular: bool,
}

/// Finds the placeholders, in the order in which their numbers stand in the text.
///
/// `json` must be valid.
pub(super) fn placeholders(json: &[u8]) -> Result<Vec<Placeholder>, Invalid> {
    find(json).map(|found| found.placeholders)
}

/// What [`find`] has found.
#[derive(Default)]
struct Found {
    placeholders: Vec<Placeholder>,
    /// The positions of first keys `_placeholder` of objects that are not placeholders.
    lookalikes: Vec<usize>,
}

/// Finds the placeholders, in the order in which their numbers stand in the text, and what looks like
/// them.
fn find(json: &[u8]) -> Result<Found, Invalid> {
    let mut scanner = Scanner::new(json, 0);
    let mut objects: Vec<Object> = Vec::new();
    let mut found = Found::default();
    while let Some(byte) = scanner.next() {
        match byte {
            b'{' => objects.push(Object::at(scanner.at - 1)),
            b'}' => {
                if let Some(object) = objects.pop() {
                    found.lookalikes.extend(object.lookalike());
                    found.placeholders.extend(object.end(scanner.at));
                }
            }
            b'"' => {
                let start = scanner.at - 1;
                let key = scanner.key_or_string()?;
                if let (Some(key), Some(object)) = (key, objects.last_mut()) {
                    object.entry(key, start, json, scanner.at);
                }
            }
            _ => {}
        }
    }
    found
        .placeholders
        .sort_unstable_by_key(|place| place.num.start);
    found.lookalikes.sort_unstable();
    Ok(found)
}

impl Scanner<'_> {
    /// Steps over the rest of a string. If the string is a key, also steps over its colon, and
    /// returns the key.
    fn key_or_string(&mut self) -> Result<Option<Key>, Invalid> {
        let start = self.at - 1;
        let escaped = self.string()?;
        let text = &self.text[start..self.at];
        if self.peek() != Some(b':') {
            return Ok(None);
        }
        self.at += 1;
        self.peek();
        Ok(Some(Key::new(text, escaped)))
    }
}

/// A key of an object that may be a placeholder.
#[derive(Clone, Copy)]
enum Key {
    Placeholder,
    Num,
    Other,
}

impl Key {
    fn new(quoted: &[u8], escaped: bool) -> Self {
        if escaped {
            let key: String = serde_json::from_slice(quoted).unwrap_or_default();
            return Self::named(key.as_bytes());
        }
        Self::named(&quoted[1..quoted.len() - 1])
    }

    const fn named(key: &[u8]) -> Self {
        match key {
            b"_placeholder" => Self::Placeholder,
            b"num" => Self::Num,
            _ => Self::Other,
        }
    }
}

/// An object whose closing bracket was not reached yet.
struct Object {
    start: usize,
    /// Whether the value of `_placeholder` is `true`.
    is_placeholder: bool,
    num: Range<usize>,
    keys: usize,
    /// The position of the first key, if it is `_placeholder` without an escape.
    first: Option<usize>,
}

impl Object {
    const fn at(start: usize) -> Self {
        Self {
            start,
            is_placeholder: false,
            num: 0..0,
            keys: 0,
            first: None,
        }
    }

    /// Records a key that begins at `start`, and its value, which begins at `at`. If a key occurs twice,
    /// the last value counts, as in JavaScript.
    fn entry(&mut self, key: Key, start: usize, json: &[u8], at: usize) {
        let value = &json[at..];
        self.keys += 1;
        match key {
            Key::Placeholder => {
                let is_plain = json[start..].starts_with(b"\"_placeholder\"");
                if self.keys == 1 && is_plain {
                    self.first = Some(start);
                }
                self.is_placeholder = value.starts_with(b"true");
            }
            Key::Num => {
                let end = |b: &u8| matches!(b, b',' | b'}' | b' ' | b'\t' | b'\n' | b'\r');
                let len = value.iter().position(end).unwrap_or(value.len());
                let digits = value[..len].iter().all(u8::is_ascii_digit);
                self.num = if digits { at..at + len } else { 0..0 };
            }
            Key::Other => {}
        }
    }

    /// Returns the position of the first key, if it is `_placeholder`, but the object is no placeholder.
    fn lookalike(&self) -> Option<usize> {
        self.first.filter(|_| !self.is_placeholder)
    }

    fn end(self, end: usize) -> Option<Placeholder> {
        self.is_placeholder.then_some(Placeholder {
            object: self.start..end,
            num: self.num,
            is_regular: self.first.is_some() && self.keys == 2,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_found_at_any_depth_and_in_any_order_of_keys() {
        let json =
            br#"[{"_placeholder":true,"num":0},{"a":[{ "num" : 12 , "_placeholder" : true }]},
            {"\u005fplaceholder":true,"nu\u006d":3,"x":{"num":9}}]"#;
        let found = placeholders(json).expect("valid JSON");
        let num = |place: &Placeholder| parse_num(&json[place.num.clone()]);
        let nums: Vec<_> = found.iter().map(num).collect();
        assert_eq!(nums, [Some(0), Some(12), Some(3)]);
        assert!(found.iter().all(|place| json[place.object.start] == b'{'));
        assert_eq!(
            found[1].object.len(),
            br#"{ "num" : 12 , "_placeholder" : true }"#.len()
        );
    }

    #[test]
    fn an_object_that_resembles_a_placeholder_is_not_one() {
        for json in [
            r#"{"_placeholder":false,"num":0}"#,
            r#"{"_placeholder":"true","num":0}"#,
            r#"["_placeholder",true,{"num":0}]"#,
            r#"{"_placeholder":{"true":true},"num":0}"#,
            r#""{\"_placeholder\":true,\"num\":0}""#,
        ] {
            assert_eq!(placeholders(json.as_bytes()), Ok(vec![]), "{json}");
        }
    }

    #[test]
    fn a_placeholder_names_one_attachment_that_no_other_names() {
        for (num, valid) in [
            ("0", true),
            ("1", true),
            ("2", false),
            ("-1", false),
            ("0.5", false),
            ("1e0", false),
            ("\"0\"", false),
            ("null", false),
            ("[0]", false),
            ("18446744073709551616", false),
        ] {
            let json = format!(r#"[{{"_placeholder":true,"num":{num}}}]"#);
            assert_eq!(
                check_placeholders(json.as_bytes(), 2).is_ok(),
                valid,
                "{json}"
            );
        }
        let twice = br#"[{"_placeholder":true,"num":0},{"_placeholder":true,"num":0}]"#;
        assert!(check_placeholders(twice, 2).is_err());
        assert!(check_placeholders(br#"{"_placeholder":true}"#, 2).is_err());
    }

    #[test]
    fn an_object_that_begins_like_a_placeholder_gets_an_escape() {
        for (json, expected) in [
            (
                r#"[{"_placeholder":false},{"_placeholder":true,"num":0}]"#,
                r#"[{"\u005fplaceholder":false},{"_placeholder":true,"num":0}]"#,
            ),
            (
                r#"{ "_placeholder":{"_placeholder":true,"num":1},"a":{"_placeholder":[]}}"#,
                r#"{ "\u005fplaceholder":{"_placeholder":true,"num":1},"a":{"\u005fplaceholder":[]}}"#,
            ),
            (
                r#"{"_placeholder":true,"_placeholder":1}"#,
                r#"{"\u005fplaceholder":true,"_placeholder":1}"#,
            ),
            (
                r#"{"x":{"_placeholder":0},"_placeholder":true,"num":0}"#,
                r#"{"_placeholder":true,"num":0}                       "#,
            ),
            (r#"{"\u005fplaceholder":0}"#, r#"{"\u005fplaceholder":0}"#),
        ] {
            let is_regular = check_placeholders(json.as_bytes(), 2);
            assert_eq!(is_regular, Ok(json == expected), "{json}");
            let regular = regularize(json.as_bytes().into());
            assert_eq!(String::from_utf8_lossy(&regular), expected);
        }
    }

    #[test]
    fn a_placeholder_is_normalized_in_place() {
        for (json, expected) in [
            (
                r#"[{"_placeholder":true,"num":0},{ "_placeholder" : true , "num" : 1 }]"#,
                r#"[{"_placeholder":true,"num":0},{ "_placeholder" : true , "num" : 1 }]"#,
            ),
            (
                r#"[{"num":1,"_placeholder":true},{ "num" : 0,"_placeholder":true }]"#,
                r#"[{"_placeholder":true,"num":1},{"_placeholder":true,"num":0}    ]"#,
            ),
            (
                r#"{"num":1,"\u005fplaceholder":true}"#,
                r#"{"_placeholder":true,"num":1}     "#,
            ),
            (
                r#"{"_placeholder":true,"num":0,"x":1}"#,
                r#"{"_placeholder":true,"num":0}      "#,
            ),
            (
                r#"{"_placeholder":true,"num":1,"num":0}"#,
                r#"{"_placeholder":true,"num":0}        "#,
            ),
            (
                r#"{"x":{"num":1,"_placeholder":true},"_placeholder":true,"num":0}"#,
                r#"{"_placeholder":true,"num":0}                                  "#,
            ),
        ] {
            assert_eq!(
                check_placeholders(json.as_bytes(), 2),
                Ok(json == expected),
                "{json}"
            );
            let regular = regularize(json.as_bytes().into());
            assert_eq!(String::from_utf8_lossy(&regular), expected);
        }
    }
}
