//! Converts the arguments of an event or an acknowledgement to values.

use std::marker::PhantomData;
use std::{error, fmt};

use bytes::Bytes;
use serde::de::{
    Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, Error, IgnoredAny, SeqAccess,
    Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;

use super::Payload;
use super::resolve::Resolve;
use super::scan::replace_lone_surrogates;

impl Payload {
    /// Reads the first argument, and ignores the others. Without arguments it reads `null`.
    ///
    /// Bytes are moved out: a second call does not find them.
    ///
    /// # Errors
    ///
    /// Fails if the argument is not a `T`.
    pub fn read_one<T: DeserializeOwned>(&mut self) -> Result<T, ReadError> {
        let (json, first, attachments) = self.readable();
        let tail = json[first..].trim_ascii_start();
        if matches!(tail, [] | [b']']) {
            return read_null().map_err(|_| ReadError::missing(1));
        }
        let has_bytes = !attachments.is_empty();
        read_value(tail, attachments).map_err(|error| {
            let one_for_many = !tail.starts_with(b"[") && expects_tuple::<T>();
            let hint = match (one_for_many, has_bytes) {
                (true, _) => Some(ReadError::MANY),
                (false, has_bytes) => has_bytes.then_some(ReadError::BYTES),
            };
            ReadError::invalid(1, error, hint)
        })
    }

    /// Reads all arguments as the elements of `T`.
    ///
    /// Surplus arguments are ignored. If a tuple or an array has more elements than there are
    /// arguments, the other elements are read from `null`.
    ///
    /// Bytes are moved out: a second call does not find them.
    ///
    /// # Errors
    ///
    /// Fails if the arguments are not a `T`.
    pub fn read_all<T: DeserializeOwned>(&mut self) -> Result<T, ReadError> {
        let mut progress = Progress::default();
        let visitor = All {
            has_name: self.name().is_some(),
            progress: &mut progress,
            target: PhantomData,
        };
        let (json, first, attachments) = self.readable();
        let tail = json[first..].trim_ascii_start();
        let has_bytes = !attachments.is_empty();
        let mut json = serde_json::Deserializer::from_slice(&json);
        let value = match attachments {
            [] => json.deserialize_seq(visitor),
            attachments => Resolve::new(&mut json, attachments).deserialize_seq(visitor),
        };
        value.map_err(|error| {
            let many_in_one = tail.starts_with(b"[") && expects_tuple::<T>();
            let hint = match (progress.argument, many_in_one, has_bytes) {
                (1, true, _) => Some(ReadError::ONE),
                (2, true, _) if progress.is_missing => Some(ReadError::ONE),
                (_, _, has_bytes) => has_bytes.then_some(ReadError::BYTES),
            };
            if progress.is_missing {
                return ReadError::missing(progress.argument).hinting(hint);
            }
            ReadError::invalid(progress.argument, error, hint)
        })
    }

    /// Returns the arguments as JSON values, with lists of numbers in place of bytes. Returns none
    /// if the arguments cannot be read.
    pub(crate) fn to_values(&self) -> Vec<serde_json::Value> {
        let json = self.with_numbers(&[b"[", self.tail()].concat());
        serde_json::from_slice(&json).unwrap_or_default()
    }

    /// Reads the object of a `CONNECT` or `CONNECT_ERROR`.
    ///
    /// Without an object it reads `{}`, as Node does, or `null` if a `T` cannot be read from `{}`.
    ///
    /// # Errors
    ///
    /// Fails if the object is not a `T`.
    pub fn read_object<T: DeserializeOwned>(&self) -> Result<T, ReadError> {
        let object = match &*self.readable_json() {
            b"" => serde_json::from_slice(b"{}").or_else(|error| read_null().map_err(|_| error)),
            json => serde_json::from_slice(json),
        };
        object.map_err(|error| ReadError {
            reason: Reason::Object(error),
            hint: None,
        })
    }
}

/// Reads the value at the beginning of a text.
fn read_value<T: DeserializeOwned>(
    json: &[u8],
    attachments: &mut [Option<Bytes>],
) -> serde_json::Result<T> {
    let mut json = serde_json::Deserializer::from_slice(json);
    match attachments {
        // There are no placeholders to resolve.
        [] => T::deserialize(&mut json),
        attachments => T::deserialize(Resolve::new(&mut json, attachments)),
    }
}

/// Reads JSON that a client sent. Halves of surrogate pairs are read as U+FFFD.
pub(crate) fn read_json<T: DeserializeOwned>(json: &str) -> serde_json::Result<T> {
    serde_json::from_slice(&replace_lone_surrogates(json.as_bytes()))
}

/// Reads a `T` from `null`, in place of a missing argument.
fn read_null<'de, T: Deserialize<'de>>() -> serde_json::Result<T> {
    serde_json::from_slice(b"null")
}

/// Returns whether a type is read from an array of fixed length.
fn expects_tuple<'de, T: Deserialize<'de>>() -> bool {
    let mut wants = false;
    // This always fails, but not before the type has asked for its form.
    let _ = T::deserialize(Wants(&mut wants));
    wants
}

/// A deserializer without a value, which records whether the type asks for a tuple.
struct Wants<'a>(&'a mut bool);

impl<'de> Deserializer<'de> for Wants<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(Self::Error::custom("no value"))
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = true;
        self.deserialize_any(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_some(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq map struct enum identifier ignored_any
    }
}

/// The progress of reading all arguments.
#[derive(Default)]
struct Progress {
    /// The number of the argument that is being read, from 1.
    argument: usize,
    /// Whether this argument is missing.
    is_missing: bool,
}

/// A visitor that reads the array of a payload, and makes a `T` of the arguments after the name.
struct All<'a, T> {
    /// Whether the array begins with the name of an event.
    has_name: bool,
    progress: &'a mut Progress,
    target: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for All<'_, T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("arguments")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<T, A::Error> {
        if self.has_name {
            seq.next_element::<IgnoredAny>()?;
        }
        let value = T::deserialize(Elements {
            seq: &mut seq,
            wanted: 0,
            progress: self.progress,
        })?;
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(value)
    }
}

/// Arguments as a sequence.
struct Elements<'a, A> {
    seq: A,
    /// The number of arguments that the type asks for. Missing ones are read from `null`.
    wanted: usize,
    progress: &'a mut Progress,
}

impl<A> Elements<'_, A> {
    const fn wanting(mut self, count: usize) -> Self {
        self.wanted = count;
        self
    }
}

/// Works like serde_json's deserializer of an array, but records how many elements a tuple or an
/// array asks for.
impl<'de, A: SeqAccess<'de>> Deserializer<'de> for Elements<'_, A> {
    type Error = A::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, A::Error> {
        visitor.visit_seq(self)
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        visitor.visit_seq(self.wanting(len))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        visitor.visit_seq(self.wanting(len))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        visitor.visit_seq(self.wanting(fields.len()))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, A::Error> {
        visitor.visit_some(self)
    }

    /// `Args<()>` reads no argument.
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, A::Error> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        visitor.visit_unit()
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        Err(A::Error::invalid_type(Unexpected::Seq, &visitor))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, A::Error> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf seq
        map identifier
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Elements<'_, A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.progress.argument += 1;
        let mut seed = Some(seed);
        if let Some(value) = self.seq.next_element_seed(Lent(&mut seed))? {
            return Ok(Some(value));
        }
        match seed {
            Some(seed) if self.progress.argument <= self.wanted => {
                let mut null = serde_json::Deserializer::from_slice(b"null");
                let value = seed.deserialize(&mut null);
                self.progress.is_missing = value.is_err();
                value.map(Some).map_err(A::Error::custom)
            }
            _ => Ok(None),
        }
    }
}

/// A seed that its owner keeps if there is nothing to read.
struct Lent<'a, S>(&'a mut Option<S>);

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Lent<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        let seed = self.0.take();
        seed.ok_or_else(|| D::Error::custom("read twice"))?
            .deserialize(deserializer)
    }
}

/// An argument is missing or of another type.
///
/// The text of the error names the argument. Its [`source`](error::Error::source) is the error of
/// serde, unless the argument is missing.
///
/// A handler may return this error: the client gets both in one line.
#[derive(Debug)]
pub struct ReadError {
    reason: Reason,
    hint: Option<&'static str>,
}

#[derive(Debug)]
enum Reason {
    Missing(usize),
    Invalid(usize, serde_json::Error),
    Object(serde_json::Error),
}

impl ReadError {
    const MANY: &'static str =
        "`Data` reads one argument; for several use `Args`, or `all_args` for an answer";
    const ONE: &'static str =
        "`Args` reads several arguments, and the first one is an array, which `Data` reads";
    const BYTES: &'static str = "`bytes::Bytes` reads bytes, and `RawArgs` passes them on; `serde_json::Value` cannot hold them";

    const fn missing(argument: usize) -> Self {
        Self {
            reason: Reason::Missing(argument),
            hint: None,
        }
    }

    const fn invalid(
        argument: usize,
        error: serde_json::Error,
        hint: Option<&'static str>,
    ) -> Self {
        Self {
            reason: Reason::Invalid(argument, error),
            hint,
        }
    }

    fn hinting(self, hint: Option<&'static str>) -> Self {
        Self { hint, ..self }
    }

    /// Returns whether an argument is missing.
    #[must_use]
    pub const fn is_missing(&self) -> bool {
        matches!(self.reason, Reason::Missing(_))
    }

    /// Returns a hint for the author of the handler, if a common mistake is likely: `Data` for
    /// several arguments, `Args` for one array, or a type that cannot hold bytes.
    ///
    /// The server logs the hint too.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        self.hint
    }

    /// Returns serde's error in a short form.
    ///
    /// The error quotes the peer's value, which may be long, and ends with the expected type. So
    /// its middle is left out.
    pub(crate) fn reason(&self) -> Option<String> {
        const BEGIN: usize = 120;
        const END: usize = 120;

        let (Reason::Invalid(_, error) | Reason::Object(error)) = &self.reason else {
            return None;
        };
        let mut reason = error.to_string();
        // The position is relative to a piece of the message, which the reader does not see.
        let place = format!(" at line {} column {}", error.line(), error.column());
        if let Some(len) = reason.strip_suffix(&place).map(str::len) {
            reason.truncate(len);
        }
        if reason.len() <= BEGIN + END {
            return Some(reason);
        }
        let begin = (0..=BEGIN).rfind(|at| reason.is_char_boundary(*at));
        let end = (reason.len() - END..).find(|at| reason.is_char_boundary(*at));
        let (begin, end) = (begin.unwrap_or(0), end.unwrap_or(reason.len()));
        Some(format!("{}…{}", &reason[..begin], &reason[end..]))
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Reason::Missing(argument) => write!(f, "argument {argument} is missing"),
            Reason::Invalid(0, _) => f.write_str("arguments are of another type"),
            Reason::Invalid(argument, _) => write!(f, "argument {argument} is of another type"),
            Reason::Object(_) => f.write_str("payload is of another type"),
        }
    }
}

impl error::Error for ReadError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match &self.reason {
            Reason::Missing(_) => None,
            Reason::Invalid(_, error) | Reason::Object(error) => Some(error),
        }
    }
}

#[cfg(test)]
mod tests;
