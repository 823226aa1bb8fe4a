//! Deserializes values with attachments in place of their placeholders.
//!
//! [`Resolve`] stands between a type and its deserializer, on every level. In place of an object
//! with `"_placeholder":true` the type reads the attachment. The attachment's bytes are moved, not
//! copied, if nothing else holds them.
//!
//! | the type asks for        | it reads          | result                                           |
//! |--------------------------|-------------------|--------------------------------------------------|
//! | bytes                    | the attachment    | `Bytes` holds it                                 |
//! | anything, as serde does for tagged, untagged and flattened types | the attachment | serde keeps it until it knows the type |
//! | anything, as `serde_json::Value` does | the attachment | an error: the type cannot hold bytes   |
//! | a map or a struct        | the attachment    | an error                                         |
//! | something else           | the object        | an error                                         |
//!
//! So no type holds a placeholder in place of the bytes.
//!
//! [`Resolve`] must know whether an object is a placeholder before the type sees the object. The
//! first key decides: `Payload::readable` makes placeholders regular, with `_placeholder` first.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, IgnoredAny, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::Value;

use super::placeholder::placeholders;

/// A deserializer, a visitor, a seed or an access of serde, and the attachments of the values
/// inside it.
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

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<V::Value, A::Error> {
        let Self { inner, attachments } = self;
        let first = map.next_key_seed(FirstKeySeed)?;
        let mut value = None;
        if first.as_ref().is_some_and(|key| key.is("_placeholder")) {
            let seed = Resolve::new(PhantomData::<Value>, &mut *attachments);
            let flag = map.next_value_seed(seed)?;
            if flag == Value::Bool(true) {
                let attachment = take_attachment(&mut map, true, attachments)?;
                let attachment = attachment.ok_or_else(|| A::Error::custom(NOT_A_PLACEHOLDER))?;
                return inner.visit_byte_buf(attachment);
            }
            value = Some(flag);
        }
        inner.visit_map(Begun {
            raw: first.as_ref().is_some_and(|key| key.is(RAW_VALUE)),
            key: first,
            value,
            rest: Resolve::new(map, attachments),
        })
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

/// A visitor of a type that asked for bytes. The type reads an attachment or, as with serde_json,
/// the bytes of a string, or an array.
struct Binary<'a, V>(Resolve<'a, V>);

impl<'de, V: Visitor<'de>> Visitor<'de> for Binary<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.inner.expecting(f)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<V::Value, A::Error> {
        let Resolve { inner, attachments } = self.0;
        match take_attachment(&mut map, false, attachments)? {
            Some(attachment) => inner.visit_byte_buf(attachment),
            None => Err(A::Error::invalid_type(Unexpected::Map, &inner)),
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

/// Reads the rest of an object. If the object is a placeholder, moves its attachment out and
/// returns it.
fn take_attachment<'de, A: MapAccess<'de>>(
    map: &mut A,
    mut placeholder: bool,
    attachments: &mut [Option<Bytes>],
) -> Result<Option<Vec<u8>>, A::Error> {
    let mut num = None;
    while let Some(key) = map.next_key_seed(KeySeed)? {
        match key {
            Key::Placeholder => placeholder = map.next_value()?,
            Key::Num => num = Some(map.next_value::<usize>()?),
            Key::Other => drop(map.next_value::<IgnoredAny>()?),
        }
    }
    let Some(num) = num.filter(|_| placeholder) else {
        return Ok(None);
    };
    match attachments.get_mut(num).and_then(Option::take) {
        Some(attachment) => Ok(Some(attachment.into())),
        None => Err(A::Error::custom(format_args!(
            "attachment {num} was read before"
        ))),
    }
}

/// An object whose first key was already read.
struct Begun<'a, 'de, A> {
    key: Option<FirstKey<'de>>,
    /// The value of the first key, if it was read too.
    value: Option<Value>,
    /// Whether the value is the text of a `serde_json::value::RawValue`.
    raw: bool,
    rest: Resolve<'a, A>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Begun<'_, 'de, A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        match self.key.take() {
            Some(key) => seed.deserialize(Replayed(key, PhantomData)).map(Some),
            None => self.rest.next_key_seed(seed),
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        if let Some(value) = self.value.take() {
            return seed.deserialize(value).map_err(A::Error::custom);
        }
        if !std::mem::take(&mut self.raw) {
            return self.rest.next_value_seed(seed);
        }
        let text: String = self.rest.inner.next_value()?;
        if placeholders(text.as_bytes()).is_ok_and(|found| found.is_empty()) {
            return seed.deserialize(text.into_deserializer());
        }
        Err(A::Error::invalid_type(
            Unexpected::Other("byte array"),
            &"any valid JSON value",
        ))
    }

    fn size_hint(&self) -> Option<usize> {
        self.rest.size_hint()
    }
}

/// The first key of an object, which decides whether the object is a placeholder.
enum FirstKey<'de> {
    Borrowed(&'de str),
    /// The key has escapes in the JSON.
    Owned(String),
}

impl FirstKey<'_> {
    fn is(&self, name: &str) -> bool {
        self.as_str() == name
    }

    fn as_str(&self) -> &str {
        match self {
            Self::Borrowed(key) => key,
            Self::Owned(key) => key,
        }
    }
}

struct FirstKeySeed;

impl<'de> DeserializeSeed<'de> for FirstKeySeed {
    type Value = FirstKey<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<FirstKey<'de>, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl<'de> Visitor<'de> for FirstKeySeed {
    type Value = FirstKey<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<FirstKey<'de>, E> {
        Ok(FirstKey::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<FirstKey<'de>, E> {
        Ok(FirstKey::Owned(key.to_owned()))
    }
}

/// A deserializer from which the type reads the first key, as it would from serde_json: numbers and
/// booleans are in quotes.
struct Replayed<'de, E>(FirstKey<'de>, PhantomData<E>);

macro_rules! quoted {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
            let text = self.0.as_str();
            let value: Value = serde_json::from_str(text).map_err(E::custom)?;
            value.$method(visitor).map_err(E::custom)
        }
    )*};
}

impl<'de, E: Error> Deserializer<'de> for Replayed<'de, E> {
    type Error = E;

    quoted! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_i128 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_u128 deserialize_f32 deserialize_f64
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        match self.0 {
            FirstKey::Borrowed(key) => visitor.visit_borrowed_str(key),
            FirstKey::Owned(key) => visitor.visit_string(key),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, E> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, E> {
        visitor.visit_enum(self.0.as_str().to_owned().into_deserializer())
    }

    forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct
        identifier ignored_any
    }
}

/// The name by which serde_json knows its `RawValue`.
const RAW_VALUE: &str = "$serde_json::private::RawValue";

/// The error for an object with `"_placeholder":true` and no number. Checked payloads have none.
const NOT_A_PLACEHOLDER: &str = "placeholder does not name an attachment";

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
}
