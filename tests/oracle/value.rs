//! The values of packets, as JavaScript values.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::chance::Chance;

/// A JavaScript value.
#[derive(Clone, PartialEq)]
pub(crate) enum Value {
    Undefined,
    Null,
    Bool(bool),
    Number(Number),
    Text(Text),
    Bytes(Vec<u8>),
    Array(Vec<Self>),
    Object(BTreeMap<Text, Self>),
}

/// A number. Two numbers are equal if they have the same bits, so zero differs from negative zero.
/// All NaNs are equal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number(pub(crate) f64);

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits() || self.0.is_nan() && other.0.is_nan()
    }
}

/// A string in UTF-16, which may have lone surrogates.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Text(pub(crate) Vec<u16>);

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.encode_utf16().collect())
    }
}

impl Text {
    /// Returns the string with U+FFFD in place of each lone surrogate.
    pub(crate) fn replaced(&self) -> Self {
        Self::from(String::from_utf16_lossy(&self.0).as_str())
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match String::from_utf16(&self.0) {
            Ok(text) => write!(f, "{text:?}"),
            Err(_) => write!(f, "{:x?}", self.0),
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undefined => f.write_str("undefined"),
            Self::Null => f.write_str("null"),
            Self::Bool(value) => value.fmt(f),
            Self::Number(Number(value)) => write!(f, "{value:e}"),
            Self::Text(text) => text.fmt(f),
            Self::Bytes(bytes) => write!(f, "bytes{bytes:x?}"),
            Self::Array(values) => values.fmt(f),
            Self::Object(entries) => entries.fmt(f),
        }
    }
}

impl Value {
    pub(crate) const fn number(value: f64) -> Self {
        Self::Number(Number(value))
    }

    /// Returns the value after `change` was applied to each value in it, inner values first, and
    /// `key` to each key.
    pub(crate) fn map(&self, change: &impl Fn(Self) -> Self, key: &impl Fn(&Text) -> Text) -> Self {
        change(match self {
            Self::Array(values) => Self::Array(values.iter().map(|v| v.map(change, key)).collect()),
            Self::Object(entries) => {
                let entries = entries.iter();
                Self::Object(entries.map(|(k, v)| (key(k), v.map(change, key))).collect())
            }
            scalar => scalar.clone(),
        })
    }

    /// Returns the value with U+FFFD in place of each lone surrogate.
    pub(crate) fn replaced(&self) -> Self {
        let text = |value| match value {
            Self::Text(text) => Self::Text(text.replaced()),
            other => other,
        };
        self.map(&text, &Text::replaced)
    }

    /// Returns whether this value equals `other` after `change` was applied to each value in
    /// `other`. Two keys are the same if `key` returns the same for both. If several keys become
    /// the same, one of their values must match.
    pub(crate) fn is_like(
        &self,
        other: &Self,
        change: &impl Fn(Self) -> Self,
        key: &impl Fn(&Text) -> Text,
    ) -> bool {
        match (self, &change(other.clone())) {
            (Self::Array(ours), Self::Array(theirs)) => {
                let mut pairs = ours.iter().zip(theirs);
                ours.len() == theirs.len()
                    && pairs.all(|(ours, theirs)| ours.is_like(theirs, change, key))
            }
            (Self::Object(ours), Self::Object(theirs)) => {
                let is_one = |(name, value): (&Text, &Self)| {
                    let mut same = theirs.iter().filter(|(other, _)| key(other) == key(name));
                    same.any(|(_, theirs)| value.is_like(theirs, change, key))
                };
                let is_there = |name: &Text| ours.keys().any(|other| key(other) == key(name));
                ours.iter().all(is_one) && theirs.keys().all(is_there)
            }
            (ours, theirs) => ours == theirs,
        }
    }

    /// Returns whether `wanted` accepts the value or a value in it.
    pub(crate) fn any(&self, wanted: &impl Fn(&Self) -> bool) -> bool {
        wanted(self)
            || match self {
                Self::Array(values) => values.iter().any(|value| value.any(wanted)),
                Self::Object(entries) => entries.values().any(|value| value.any(wanted)),
                _ => false,
            }
    }

    pub(crate) fn depth(&self) -> usize {
        match self {
            Self::Array(values) => 1 + values.iter().map(Self::depth).max().unwrap_or(0),
            Self::Object(entries) => 1 + entries.values().map(Self::depth).max().unwrap_or(0),
            _ => 0,
        }
    }

    /// Returns the value after JavaScript has written it as JSON and read it again.
    pub(crate) fn as_json(&self) -> Self {
        let change = |value| match value {
            Self::Number(Number(number)) if !number.is_finite() => Self::Null,
            // `JSON.stringify(-0)` is `0`.
            Self::Number(Number(number)) => Self::number(number + 0.0),
            Self::Array(values) => {
                let null = |value| match value {
                    Self::Undefined => Self::Null,
                    value => value,
                };
                Self::Array(values.into_iter().map(null).collect())
            }
            Self::Object(mut entries) => {
                entries.retain(|_, value| *value != Self::Undefined);
                Self::Object(entries)
            }
            other => other,
        };
        self.map(&change, &Text::clone)
    }

    /// Returns a random value with at most `bytes` binary values, and subtracts their number from
    /// `bytes`.
    pub(crate) fn generate(chance: &mut Chance, depth: usize, bytes: &mut usize) -> Self {
        match chance.below(if depth == 0 { 10 } else { 14 }) {
            0 => Self::Null,
            1 => Self::Bool(chance.one_in(2)),
            2..=4 => Self::number(any_number(chance)),
            5..=7 => Self::Text(any_text(chance)),
            8..10 if *bytes > 0 && chance.one_in(2) => {
                *bytes -= 1;
                Self::Bytes(chance.bytes(20))
            }
            8..10 => Self::Text(Text::from("")),
            10 | 11 => {
                let len = chance.below(5);
                Self::Array(
                    (0..len)
                        .map(|_| Self::generate(chance, depth - 1, bytes))
                        .collect(),
                )
            }
            _ => {
                let len = chance.below(5);
                let entry = |_| {
                    let key = any_key(chance);
                    match Self::generate(chance, depth - 1, bytes) {
                        // In a packet with attachments all parsers take this object for a
                        // placeholder.
                        Self::Bool(true) if key == Text::from("_placeholder") => (key, Self::Null),
                        value => (key, value),
                    }
                };
                Self::Object((0..len).map(entry).collect())
            }
        }
    }
}

pub(crate) fn any_number(chance: &mut Chance) -> f64 {
    const EDGES: [f64; 14] = [
        0.0,
        -0.0,
        0.1,
        -1.5,
        9_007_199_254_740_991.0,
        9_007_199_254_740_992.0,
        -9_007_199_254_740_993.0,
        18_446_744_073_709_551_615.0,
        1e21,
        123_456_789_012_345_680_000.0,
        5e-324,
        f64::MAX,
        f64::MIN_POSITIVE,
        -1e-7,
    ];
    match chance.below(6) {
        0 => EDGES[chance.below(EDGES.len())],
        // A number like those of `Math.random()`.
        1 => (chance.bits() >> 11) as f64 / (1_u64 << 53) as f64,
        2 => {
            let any = f64::from_bits(chance.bits());
            if any.is_finite() { any } else { 1.0 }
        }
        3 => (chance.bits() >> chance.below(64)) as i64 as f64,
        _ => chance.below(1000) as f64 - 500.0,
    }
}

/// Returns a text without lone surrogates.
pub(crate) fn any_text(chance: &mut Chance) -> Text {
    const PIECES: [&str; 16] = [
        "a",
        "hello",
        "\"",
        "\\",
        "/",
        "\n",
        "\u{0}",
        "\u{1f}",
        "\u{7f}",
        "é",
        "\u{2028}",
        "日本",
        "😀",
        "\u{feff}",
        "{}",
        "_placeholder",
    ];
    let len = chance.below(4);
    let text: String = (0..len).map(|_| chance.pick(&PIECES)).collect();
    Text::from(text.as_str())
}

pub(crate) fn any_key(chance: &mut Chance) -> Text {
    const KEYS: [&str; 12] = [
        "a",
        "b",
        "num",
        "",
        "0",
        "10",
        "constructor",
        "toString",
        "hasOwnProperty",
        "length",
        "é\"",
        "_placeholders",
    ];
    match chance.one_in(3) {
        true => any_text(chance),
        false => Text::from(chance.pick(&KEYS)),
    }
}

/// Numbers without a fraction are serialized as integers if they fit in 64 bits. `JSON.stringify`
/// and serde_json write the integers of an application in the same way.
impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Undefined | Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            &Self::Number(Number(value)) => {
                let is_zero = value == 0.0 && value.is_sign_negative();
                if value as i64 as f64 == value && !is_zero && value < i64::MAX as f64 {
                    serializer.serialize_i64(value as i64)
                } else if value as u64 as f64 == value && !is_zero && value < u64::MAX as f64 {
                    serializer.serialize_u64(value as u64)
                } else {
                    serializer.serialize_f64(value)
                }
            }
            Self::Text(text) => serializer.serialize_str(&String::from_utf16_lossy(&text.0)),
            Self::Bytes(bytes) => serializer.serialize_bytes(bytes),
            Self::Array(values) => serializer.collect_seq(values),
            Self::Object(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(&String::from_utf16_lossy(&key.0), value)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::number(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::number(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(Text::from(text)))
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Value, E> {
        Ok(Value::Bytes(bytes.to_vec()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some((key, value)) = map.next_entry::<String, Value>()? {
            entries.insert(Text::from(key.as_str()), value);
        }
        Ok(Value::Object(entries))
    }
}
