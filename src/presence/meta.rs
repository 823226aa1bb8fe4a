//! The metadata of an entry, as JSON.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::hub::budget::of_data;

/// The metadata of an entry. It is cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Meta(Arc<Value>);

impl Meta {
    pub(super) fn new(value: &impl Serialize) -> Result<Self, serde_json::Error> {
        serde_json::to_value(value).map(|value| Self(Arc::new(value)))
    }

    pub(super) fn read<User: DeserializeOwned>(&self) -> Result<User, serde_json::Error> {
        User::deserialize(&*self.0)
    }

    /// Returns the text in JSON. Equal metadata have equal texts.
    pub(super) fn text(&self) -> Box<str> {
        self.0.to_string().into()
    }

    pub(super) fn bytes(&self) -> usize {
        of_data(&self.0)
    }
}

impl Serialize for Meta {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Meta {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(|value| Self(Arc::new(value)))
    }
}
