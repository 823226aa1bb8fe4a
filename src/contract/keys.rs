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

use serde::de::DeserializeOwned;

mod probe;

use probe::Probe;

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

/// How often a type is deserialized.
const MAX_RUNS: usize = 4_000;

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use serde::{Deserialize, Deserializer};

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
