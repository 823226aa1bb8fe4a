//! The extractor of the parameters in a namespace's path.

use std::fmt::Display;
use std::str::FromStr;

use serde::de::value::{Error, MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, Error as _, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::{FromConnect, FromEvent, InvalidParams};
use crate::routing::Event;

/// The parameters of a namespace with a path like `/orders/{shop}`, read as axum's `Path` does.
///
/// A single parameter can be read as a text or a number. Several parameters can be read in their
/// order as a tuple or a list. Any number of parameters can be read by name as a struct or a map.
///
/// ```
/// use tower_socketio::{Namespace, Params, Socket};
///
/// async fn connect(socket: Socket, Params((shop, table)): Params<(String, u32)>) {}
///
/// // For "/orders/{shop}/{table}".
/// let namespace: Namespace = Namespace::new().on_connect(connect);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromEvent<S> for Params<T> {
    type Rejection = InvalidParams;

    async fn from_event(event: &mut Event, _: &S) -> Result<Self, InvalidParams> {
        read(event)
    }
}

impl<T: DeserializeOwned, S: Sync> FromConnect<S> for Params<T> {
    type Rejection = InvalidParams;

    async fn from_connect(event: &mut Event, _: &S) -> Result<Self, InvalidParams> {
        read(event)
    }
}

fn read<T: DeserializeOwned>(event: &Event) -> Result<Params<T>, InvalidParams> {
    let all = All(event.socket().params());
    T::deserialize(all).map(Params).map_err(InvalidParams)
}

/// A deserializer of all parameters, with names and values.
#[derive(Clone, Copy)]
struct All<'de>(&'de [(String, String)]);

impl<'de> All<'de> {
    fn only(self) -> Result<Value<'de>, Error> {
        match self.0 {
            [(_, value)] => Ok(Value(value)),
            all => Err(Error::custom(format_args!(
                "there are {} parameters, not one",
                all.len()
            ))),
        }
    }

    fn seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let mut values = SeqDeserializer::new(self.0.iter().map(|(_, value)| Value(value)));
        let read = visitor.visit_seq(&mut values)?;
        values.end()?;
        Ok(read)
    }
}

/// Implements the methods for single values, which read the only parameter.
macro_rules! only {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.only()?.$method(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for All<'de> {
    type Error = Error;

    only! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_i128 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_u128 deserialize_f32 deserialize_f64 deserialize_char deserialize_str
        deserialize_string deserialize_bytes deserialize_byte_buf deserialize_identifier
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            [_] => self.only()?.deserialize_any(visitor),
            _ => self.deserialize_map(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            [] => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.seq(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let pairs = self
            .0
            .iter()
            .map(|(name, value)| (name.as_str(), Value(value)));
        visitor.visit_map(MapDeserializer::new(pairs))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.only()?.deserialize_enum(name, variants, visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }
}

/// A deserializer of one parameter's value.
#[derive(Clone, Copy)]
struct Value<'de>(&'de str);

impl Value<'_> {
    fn parse<T: FromStr<Err: Display>>(self) -> Result<T, Error> {
        self.0.parse().map_err(Error::custom)
    }
}

impl<'de> IntoDeserializer<'de, Error> for Value<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

macro_rules! parse {
    ($($method:ident $visit:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.$visit(self.parse()?)
        }
    )*};
}

impl<'de> Deserializer<'de> for Value<'de> {
    type Error = Error;

    parse! {
        deserialize_bool visit_bool
        deserialize_i8 visit_i8 deserialize_i16 visit_i16 deserialize_i32 visit_i32
        deserialize_i64 visit_i64 deserialize_i128 visit_i128
        deserialize_u8 visit_u8 deserialize_u16 visit_u16 deserialize_u32 visit_u32
        deserialize_u64 visit_u64 deserialize_u128 visit_u128
        deserialize_f32 visit_f32 deserialize_f64 visit_f64
        deserialize_char visit_char
    }

    forward_to_deserialize_any! {
        str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier
        ignored_any
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(self.0)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_enum(self.0.into_deserializer())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde::Deserialize;

    use super::*;

    fn read<T: DeserializeOwned>(pairs: &[(&str, &str)]) -> Result<T, String> {
        let pairs: Vec<_> = pairs
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        T::deserialize(All(&pairs)).map_err(|error| error.to_string())
    }

    fn one(value: &str) -> [(&str, &str); 1] {
        [("p", value)]
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Id(u32);

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Size {
        Small,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Order {
        shop: String,
        table: Id,
        size: Option<Size>,
    }

    #[test]
    fn one_parameter_is_a_value() {
        assert_eq!(read(&one("x")), Ok("x".to_owned()));
        assert_eq!(read(&one("7")), Ok(7_u32));
        assert_eq!(read(&one("-1.5")), Ok(-1.5_f64));
        assert_eq!(read(&one("true")), Ok(true));
        assert_eq!(read(&one("7")), Ok(Id(7)));
        assert_eq!(read(&one("7")), Ok((7_u8,)));
        assert_eq!(read(&one("7")), Ok(Some(7_u8)));
        assert_eq!(read(&one("small")), Ok(Size::Small));
        assert!(read::<u8>(&one("x")).is_err());
        assert!(read::<u8>(&[("a", "1"), ("b", "2")]).is_err());
    }

    #[test]
    fn several_parameters_have_order_and_names() {
        let pairs = [("shop", "x"), ("table", "7")];
        assert_eq!(read(&pairs), Ok(("x".to_owned(), 7_u32)));
        assert_eq!(read(&pairs), Ok(vec!["x".to_owned(), "7".to_owned()]));
        assert!(read::<(String,)>(&pairs).is_err());
        assert!(read::<(String, u32, u32)>(&pairs).is_err());
        let order = Order {
            shop: "x".to_owned(),
            table: Id(7),
            size: None,
        };
        assert_eq!(read(&pairs), Ok(order));
        let map: HashMap<String, String> = read(&pairs).expect("a map");
        assert_eq!(map["table"], "7");
        assert_eq!(read(&[]), Ok(()));
        assert_eq!(read(&[]), Ok(None::<Id>));
    }
}
