//! Puts attachments back where bytes are asked for.
//!
//! [`Resolve`] stands between a type and the deserializer it reads from, on every level. It does
//! nothing until the type asks for bytes. If an object with `"_placeholder":true` is there, the
//! type gets the attachment instead; the object's bytes are moved, not copied, if no one else
//! holds them.
//!
//! A type that does not ask for bytes sees the placeholder as the object that it is. So does
//! `serde_json::Value`, and so do bytes inside of an untagged or internally tagged enum or a
//! flattened struct, which serde reads before it knows what they are.

use std::fmt;

use bytes::Bytes;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, IgnoredAny, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};

/// Something of serde's, and the attachments that may be asked for inside of it.
pub(super) struct Resolve<'a, T> {
    inner: T,
    attachments: &'a mut [Option<Bytes>],
}

impl<'a, T> Resolve<'a, T> {
    pub(super) const fn new(inner: T, attachments: &'a mut [Option<Bytes>]) -> Self {
        Self { inner, attachments }
    }
}

macro_rules! scalars {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$method(visitor)
        }
    )*};
}

macro_rules! nested {
    ($($method:ident($($arg:ident: $type:ty),*))*) => {$(
        fn $method<V: Visitor<'de>>(
            self,
            $($arg: $type,)*
            visitor: V,
        ) -> Result<V::Value, D::Error> {
            self.inner.$method($($arg,)* Resolve::new(visitor, self.attachments))
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Resolve<'_, D> {
    type Error = D::Error;

    scalars! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_i128 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_u128 deserialize_f32 deserialize_f64 deserialize_char deserialize_str
        deserialize_string deserialize_unit deserialize_identifier deserialize_ignored_any
    }

    nested! {
        deserialize_any()
        deserialize_option()
        deserialize_unit_struct(name: &'static str)
        deserialize_newtype_struct(name: &'static str)
        deserialize_seq()
        deserialize_tuple(len: usize)
        deserialize_tuple_struct(name: &'static str, len: usize)
        deserialize_map()
        deserialize_struct(name: &'static str, fields: &'static [&'static str])
        deserialize_enum(name: &'static str, variants: &'static [&'static str])
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner
            .deserialize_any(Binary(Resolve::new(visitor, self.attachments)))
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.deserialize_bytes(visitor)
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! values {
    ($($method:ident($type:ty))*) => {$(
        fn $method<E: Error>(self, value: $type) -> Result<V::Value, E> {
            self.inner.$method(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Resolve<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    values! {
        visit_bool(bool) visit_i8(i8) visit_i16(i16) visit_i32(i32) visit_i64(i64)
        visit_i128(i128) visit_u8(u8) visit_u16(u16) visit_u32(u32) visit_u64(u64)
        visit_u128(u128) visit_f32(f32) visit_f64(f64) visit_char(char) visit_str(&str)
        visit_borrowed_str(&'de str) visit_string(String) visit_bytes(&[u8])
        visit_borrowed_bytes(&'de [u8]) visit_byte_buf(Vec<u8>)
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.inner.visit_some(Resolve::new(inner, self.attachments))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.inner
            .visit_newtype_struct(Resolve::new(inner, self.attachments))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.inner.visit_seq(Resolve::new(inner, self.attachments))
    }

    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(Resolve::new(inner, self.attachments))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(Resolve::new(inner, self.attachments))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Resolve<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        self.inner
            .deserialize(Resolve::new(inner, self.attachments))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Resolve<'_, A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.inner
            .next_element_seed(Resolve::new(seed, self.attachments))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Resolve<'_, A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.inner.next_key_seed(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.inner
            .next_value_seed(Resolve::new(seed, self.attachments))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'a, 'de, A: EnumAccess<'de>> EnumAccess<'de> for Resolve<'a, A> {
    type Error = A::Error;
    type Variant = Resolve<'a, A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self::Variant), A::Error> {
        let (name, variant) = self.inner.variant_seed(seed)?;
        Ok((name, Resolve::new(variant, self.attachments)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Resolve<'_, A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.inner
            .newtype_variant_seed(Resolve::new(seed, self.attachments))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.inner
            .tuple_variant(len, Resolve::new(visitor, self.attachments))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.inner
            .struct_variant(fields, Resolve::new(visitor, self.attachments))
    }
}

/// Gives a visitor that asked for bytes an attachment, or else what serde_json gives it: the
/// bytes of a string, or an array.
struct Binary<'a, V>(Resolve<'a, V>);

impl<'de, V: Visitor<'de>> Visitor<'de> for Binary<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.inner.expecting(f)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<V::Value, A::Error> {
        let Resolve { inner, attachments } = self.0;
        let mut placeholder = false;
        let mut num = None;
        while let Some(key) = map.next_key_seed(KeySeed)? {
            match key {
                Key::Placeholder => placeholder = map.next_value()?,
                Key::Num => num = Some(map.next_value::<usize>()?),
                Key::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let Some(num) = num.filter(|_| placeholder) else {
            return Err(A::Error::invalid_type(Unexpected::Map, &inner));
        };
        match attachments.get_mut(num).and_then(Option::take) {
            Some(attachment) => inner.visit_byte_buf(attachment.into()),
            None => Err(A::Error::custom(format_args!(
                "attachment {num} was read before"
            ))),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<V::Value, A::Error> {
        self.0.inner.visit_seq(seq)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<V::Value, E> {
        self.0.inner.visit_bytes(text.as_bytes())
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<V::Value, E> {
        self.0.inner.visit_borrowed_bytes(text.as_bytes())
    }
}

/// A key of a placeholder.
enum Key {
    Placeholder,
    Num,
    Other,
}

struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for KeySeed {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Key, E> {
        Ok(match key {
            "_placeholder" => Key::Placeholder,
            "num" => Key::Num,
            _ => Key::Other,
        })
    }
}

#[cfg(test)]
mod tests {
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
        let mut payload = Payload::from_json(crate::protocol::Kind::Event, json, vec![attachment])
            .expect("valid");
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

    #[test]
    fn a_type_that_does_not_ask_for_bytes_sees_the_placeholder() {
        let payload = event((Bytes::from_static(b"a"), 1));
        let placeholder = json!({"_placeholder": true, "num": 0});
        assert_eq!(read::<Value>(payload.clone()), json!([placeholder, 1]));
        assert_eq!(read::<(Value, u8)>(payload), (placeholder, 1));
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
}
