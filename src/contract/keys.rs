//! Finds maps whose keys JSON cannot express.
//!
//! A JSON Schema does not show the keys of a map: `HashMap<Point, u32>` has the schema of
//! `HashMap<String, u32>`, and fails when it is written. So a type is deserialized from made-up
//! values, which follow what the type asks for. A key that asks for a struct, a list or bytes is
//! found that way.
//!
//! A type that refuses the made-up values hides what comes after it. Fields that fail are therefore
//! read last, and strings are tried in several forms. What is behind an internally tagged, an
//! untagged or a flattened type is not seen: serde asks these for no form.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::{error, fmt};

use serde::de::value::{BorrowedStrDeserializer, StrDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess,
    SeqAccess, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

/// Returns the maps in a type whose keys are no strings, numbers or names: the field and the type
/// of each.
pub(super) fn structured_keys<T: DeserializeOwned>() -> Vec<String> {
    let trace = Trace::default();
    for _ in 0..MAX_RUNS {
        trace.start();
        let result = T::deserialize(Probe::new(&trace));
        if !trace.end(result.is_ok()) {
            break;
        }
    }
    trace.0.into_inner().found.into_iter().collect()
}

/// What is known of a type after some runs.
#[derive(Default)]
struct Trace(RefCell<State>);

#[derive(Default)]
struct State {
    found: BTreeSet<String>,
    /// The fields that failed, and the type that each is in.
    failed: BTreeSet<Field>,
    /// The variants that need not be read again.
    done: BTreeSet<ReadVariant>,
    /// Which of `TEXTS` each string of a run is.
    texts: Vec<usize>,
    /// What follows is of the present run: the number of its strings and values,
    texts_read: usize,
    values_read: usize,
    /// the fields and variants that are being read, from the outside,
    open: Vec<Field>,
    open_variants: Vec<ReadVariant>,
    /// and whether it has read a variant for the first time.
    has_news: bool,
}

/// A type, and a field or a variant of it.
type Field = (&'static str, &'static str);

/// A variant of an enum, and whether it was read as the key of a map.
type ReadVariant = (Field, bool);

impl Trace {
    fn start(&self) {
        let mut state = self.0.borrow_mut();
        state.texts_read = 0;
        state.values_read = 0;
        state.open.clear();
        state.open_variants.clear();
        state.has_news = false;
    }

    /// Prepares the next run. Returns whether there is one.
    fn end(&self, is_ok: bool) -> bool {
        let state = &mut *self.0.borrow_mut();
        if is_ok {
            state.texts.clear();
            return state.has_news;
        }
        // The last string was refused, most likely.
        state.texts.truncate(state.texts_read);
        if let Some(text) = state
            .texts
            .last_mut()
            .filter(|text| **text + 1 < TEXTS.len())
        {
            *text += 1;
            return true;
        }
        state.texts.clear();
        for field in state.open.drain(..) {
            state.has_news |= state.failed.insert(field);
        }
        for variant in state.open_variants.drain(..) {
            state.has_news |= state.done.insert(variant);
        }
        state.has_news
    }

    fn text(&self) -> &'static str {
        let state = &mut *self.0.borrow_mut();
        if state.texts_read == state.texts.len() {
            state.texts.push(0);
        }
        state.texts_read += 1;
        TEXTS[state.texts[state.texts_read - 1]]
    }

    /// Reads a field.
    fn field<T>(
        &self,
        field: Field,
        read: impl FnOnce() -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        self.0.borrow_mut().open.push(field);
        // If it fails the field stays open: the next run reads it last.
        let value = read()?;
        self.0.borrow_mut().open.pop();
        Ok(value)
    }

    /// Reads an enum: a variant that was not read yet, if there is one.
    fn variant<T>(
        &self,
        name: &'static str,
        variants: &'static [&'static str],
        is_key: bool,
        read: impl FnOnce(&'static str) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        let mut state = self.0.borrow_mut();
        let is_new = |variant: &&&'static str| !state.done.contains(&((name, **variant), is_key));
        let new = variants.iter().find(is_new);
        let variant = *new.or(variants.first()).ok_or(Refused)?;
        state.open_variants.push(((name, variant), is_key));
        drop(state);
        let value = read(variant)?;
        let state = &mut *self.0.borrow_mut();
        state.open_variants.pop();
        state.has_news |= state.done.insert(((name, variant), is_key));
        Ok(value)
    }

    fn report(&self) {
        let mut state = self.0.borrow_mut();
        let problem = match state.open.last() {
            Some((owner, field)) => format!("the map in field `{field}` of `{owner}`"),
            None => "a map".to_owned(),
        };
        state.found.insert(problem);
    }
}

macro_rules! visit_one {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
            visitor.visit_u8(1)
        }
    )*};
}

/// A deserializer that has a value for whatever a type asks for.
#[derive(Clone, Copy)]
struct Probe<'a> {
    trace: &'a Trace,
    depth: usize,
}

impl<'a> Probe<'a> {
    const fn new(trace: &'a Trace) -> Self {
        Self { trace, depth: 0 }
    }

    fn inner(self) -> Self {
        self.trace.0.borrow_mut().values_read += 1;
        Self {
            depth: self.depth + 1,
            ..self
        }
    }

    /// Returns whether to end: types that contain themselves would go on for ever.
    fn is_deep(self) -> bool {
        self.depth > MAX_DEPTH || self.trace.0.borrow().values_read > MAX_VALUES
    }

    fn read_enum<'de, V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        is_key: bool,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        if self.is_deep() {
            return Err(Refused);
        }
        self.trace.variant(name, variants, is_key, |variant| {
            visitor.visit_enum(Variant {
                probe: self.inner(),
                name,
                variant,
                is_key,
            })
        })
    }
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Refused;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_unit()
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_bool(true)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_f64(1.0)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_f64(1.0)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_char('a')
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_borrowed_str(self.trace.text())
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_borrowed_bytes(b"")
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        if self.is_deep() {
            return visitor.visit_none();
        }
        visitor.visit_some(self.inner())
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        visitor.visit_newtype_struct(self.inner())
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        let left = usize::from(!self.is_deep());
        visitor.visit_seq(Elements {
            probe: self.inner(),
            left,
        })
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        left: usize,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        visitor.visit_seq(Elements {
            probe: self.inner(),
            left,
        })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_map(Entries {
            probe: self.inner(),
            left: usize::from(!self.is_deep()),
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        if self.is_deep() {
            return Err(Refused);
        }
        let mut fields = fields.to_vec();
        let state = self.trace.0.borrow();
        // A type that refuses all values must not hide the others.
        fields.sort_by_key(|field| state.failed.contains(&(name, *field)));
        drop(state);
        visitor.visit_map(Fields {
            probe: self.inner(),
            name,
            fields: fields.into_iter(),
            current: "",
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.read_enum(name, variants, false, visitor)
    }

    visit_one! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
    }

    forward_to_deserialize_any! { unit unit_struct identifier ignored_any }
}

/// The elements of a list or a tuple.
struct Elements<'a> {
    probe: Probe<'a>,
    left: usize,
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = Refused;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Refused> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(self.probe).map(Some)
    }
}

/// The entries of a map.
struct Entries<'a> {
    probe: Probe<'a>,
    left: usize,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Refused;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Refused> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(Key(self.probe)).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Refused> {
        seed.deserialize(self.probe)
    }
}

/// The fields of a struct.
struct Fields<'a> {
    probe: Probe<'a>,
    name: &'static str,
    fields: std::vec::IntoIter<&'static str>,
    current: &'static str,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Refused;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Refused> {
        let Some(field) = self.fields.next() else {
            return Ok(None);
        };
        self.current = field;
        seed.deserialize(BorrowedStrDeserializer::new(field))
            .map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Refused> {
        let field = (self.name, self.current);
        self.probe
            .trace
            .field(field, || seed.deserialize(self.probe))
    }
}

/// The variant of an enum.
struct Variant<'a> {
    probe: Probe<'a>,
    name: &'static str,
    variant: &'static str,
    /// Whether the enum is the key of a map: then only the name of the variant can be written.
    is_key: bool,
}

impl Variant<'_> {
    /// Notes that the variant has data.
    fn report_data(&self) {
        if self.is_key {
            self.probe.trace.report();
        }
    }
}

impl<'a, 'de> EnumAccess<'de> for Variant<'a> {
    type Error = Refused;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), Refused> {
        let variant: StrDeserializer<'_, Refused> = self.variant.into_deserializer();
        Ok((seed.deserialize(variant)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Refused;

    fn unit_variant(self) -> Result<(), Refused> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Refused> {
        self.report_data();
        let field = (self.name, self.variant);
        self.probe
            .trace
            .field(field, || seed.deserialize(self.probe))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Refused> {
        self.report_data();
        let field = (self.name, self.variant);
        self.probe
            .trace
            .field(field, || self.probe.deserialize_tuple(len, visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.report_data();
        self.probe.deserialize_struct(self.variant, fields, visitor)
    }
}

/// The key of a map, which reports a form that is no JSON string.
struct Key<'a>(Probe<'a>);

macro_rules! allow {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
            self.0.$method(visitor)
        }
    )*};
}

macro_rules! report {
    ($($method:ident($($arg:ident: $type:ty),*))*) => {$(
        fn $method<V: Visitor<'de>>(self, $($arg: $type,)* visitor: V) -> Result<V::Value, Refused> {
            self.0.trace.report();
            self.0.$method($($arg,)* visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for Key<'_> {
    type Error = Refused;

    allow! {
        deserialize_any deserialize_bool deserialize_char deserialize_str deserialize_string
        deserialize_identifier deserialize_ignored_any
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_f32 deserialize_f64
    }

    report! {
        deserialize_bytes()
        deserialize_byte_buf()
        deserialize_option()
        deserialize_unit()
        deserialize_unit_struct(name: &'static str)
        deserialize_seq()
        deserialize_tuple(len: usize)
        deserialize_tuple_struct(name: &'static str, len: usize)
        deserialize_map()
        deserialize_struct(name: &'static str, fields: &'static [&'static str])
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.0.read_enum(name, variants, true, visitor)
    }
}

/// A type refused a made-up value.
#[derive(Debug)]
struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("refused")
    }
}

impl error::Error for Refused {}

impl serde::de::Error for Refused {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

/// The strings that are tried, for types that are read from strings.
const TEXTS: [&str; 9] = [
    "",
    "1",
    "00000000-0000-0000-0000-000000000000",
    "2000-01-01T00:00:00Z",
    "2000-01-01",
    "00:00:00",
    "http://localhost/",
    "127.0.0.1",
    "a@example.com",
];

/// How deep types may be nested.
const MAX_DEPTH: usize = 24;

/// How many values are read in one run.
const MAX_VALUES: usize = 10_000;

/// How often a type is deserialized.
const MAX_RUNS: usize = 4_000;

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize, PartialEq, Eq, Hash, PartialOrd, Ord)]
    #[allow(dead_code, reason = "only its form matters")]
    struct Point {
        x: i32,
        y: i32,
    }

    #[derive(Deserialize, PartialEq, Eq, Hash)]
    enum Color {
        Red,
        Green,
    }

    #[derive(Deserialize, PartialEq, Eq, Hash)]
    struct Id(u64);

    #[derive(Deserialize)]
    #[allow(dead_code, reason = "only its form matters")]
    struct Simple {
        names: HashMap<String, u32>,
        ids: HashMap<Id, Vec<HashMap<char, bool>>>,
        colors: HashMap<Color, u32>,
        when: chrono::DateTime<chrono::Utc>,
        next: Option<Box<Self>>,
    }

    #[derive(Deserialize)]
    #[allow(dead_code, reason = "only its form matters")]
    struct Board {
        never: Never,
        url: url::Url,
        shape: Shape,
        cells: BTreeMap<Point, String>,
    }

    /// Variants with data are no strings.
    #[derive(Deserialize, PartialEq, Eq, Hash)]
    #[allow(dead_code, reason = "only its form matters")]
    enum Paint {
        None,
        Named(String),
    }

    #[derive(Deserialize, PartialEq, Eq, Hash)]
    #[allow(dead_code, reason = "only its form matters")]
    enum Mix {
        None,
        Two(u8, u8),
    }

    #[derive(Deserialize, PartialEq, Eq, Hash)]
    #[allow(dead_code, reason = "only its form matters")]
    enum Shade {
        None,
        Gray { light: u8 },
    }

    #[derive(Deserialize)]
    #[allow(dead_code, reason = "only its form matters")]
    struct Palette {
        colors: HashMap<Color, u32>,
        paints: HashMap<Paint, u32>,
        mixes: HashMap<Mix, u32>,
        shades: HashMap<Shade, u32>,
        /// As values they may have data.
        all: HashMap<String, Paint>,
    }

    #[derive(Deserialize)]
    #[allow(dead_code, reason = "only its form matters")]
    enum Shape {
        Unit,
        Pairs(HashMap<(u8, u8), u32>),
    }

    /// Refuses everything.
    struct Never;

    impl<'de> Deserialize<'de> for Never {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            String::deserialize(deserializer)?;
            Err(serde::de::Error::custom("never"))
        }
    }

    #[test]
    fn keys_that_are_strings_are_allowed() {
        assert_eq!(structured_keys::<Simple>(), Vec::<String>::new());
        assert_eq!(structured_keys::<()>(), Vec::<String>::new());
    }

    #[test]
    fn an_enum_with_data_is_no_key() {
        assert_eq!(
            structured_keys::<Palette>(),
            [
                "the map in field `mixes` of `Palette`",
                "the map in field `paints` of `Palette`",
                "the map in field `shades` of `Palette`",
            ]
        );
    }

    #[test]
    fn structured_keys_are_found_beside_types_that_refuse() {
        let found = structured_keys::<Board>();
        assert_eq!(
            found,
            [
                "the map in field `Pairs` of `Shape`",
                "the map in field `cells` of `Board`"
            ]
        );
    }
}
