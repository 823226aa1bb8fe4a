//! Deserializes values with attachments in place of their placeholders.
//!
//! [`Resolve`] stands between a type and its deserializer, on every level of nesting. In place of
//! an object with `"_placeholder":true` the type reads the attachment. The attachment's bytes are
//! moved, not copied, if nothing else holds them.
//!
//! | the type calls | and reads | result |
//! |---|---|---|
//! | `deserialize_bytes`, as `Bytes` does | the attachment | the type holds the attachment |
//! | `deserialize_any`, as serde does for tagged, untagged and flattened types | the attachment | serde keeps the attachment until it knows the type |
//! | `deserialize_any`, as `serde_json::Value` does | the attachment | an error: the type cannot hold bytes |
//! | `deserialize_map` or `deserialize_struct` | the attachment | an error |
//! | `deserialize_ignored_any` | the object | the object is ignored |
//! | another method | the object | an error |
//!
//! So no type holds a placeholder in place of the bytes.
//!
//! [`Resolve`] must know whether an object is a placeholder before the type sees the object. The
//! first key decides: `Payload::readable` makes the text regular, in which placeholders, and nothing
//! else, begin with `_placeholder` without an escape.

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

/// A deserializer, a visitor, a seed or an access of serde, and the attachments that the
/// placeholders in its values name.
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
        if matches!(first, Some(FirstKey::Borrowed("_placeholder"))) {
            let is_placeholder = map.next_value()?;
            let attachment = take_attachment(&mut map, is_placeholder, attachments)?;
            let attachment = attachment.ok_or_else(|| A::Error::custom(NOT_A_PLACEHOLDER))?;
            return inner.visit_byte_buf(attachment);
        }
        inner.visit_map(Begun {
            is_raw_value: first.as_ref().is_some_and(|key| key.is(RAW_VALUE)),
            key: first,
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

/// The visitor of a type that asked for bytes. The type reads the attachment of a placeholder. As
/// with serde_json alone, it also reads a string as bytes, or an array.
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
/// returns the attachment. `is_placeholder` says whether `"_placeholder":true` was read before.
fn take_attachment<'de, A: MapAccess<'de>>(
    map: &mut A,
    mut is_placeholder: bool,
    attachments: &mut [Option<Bytes>],
) -> Result<Option<Vec<u8>>, A::Error> {
    let mut num = None;
    while let Some(key) = map.next_key_seed(KeySeed)? {
        match key {
            Key::Placeholder => is_placeholder = map.next_value()?,
            Key::Num => num = Some(map.next_value::<usize>()?),
            Key::Other => drop(map.next_value::<IgnoredAny>()?),
        }
    }
    let Some(num) = num.filter(|_| is_placeholder) else {
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
    /// Whether the value of the first key is the text of a `serde_json::value::RawValue`.
    is_raw_value: bool,
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
        if !std::mem::take(&mut self.is_raw_value) {
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
    /// A key that has escapes in the JSON.
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

/// A deserializer of the first key, after the key was read. As with serde_json alone, a type reads
/// a number or a boolean from a key, although all keys are strings.
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

/// The error for an object with `"_placeholder":true` and no number. A checked payload has no such
/// object.
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
mod tests;
