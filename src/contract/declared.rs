//! What a namespace declares: the events that it receives and sends.

use std::any::{TypeId, type_name};
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::keys::structured_keys;
use crate::protocol::TypedEvent;

/// The declared events of a namespace, and the types of its typed handlers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Declarations {
    pub(super) received: Vec<Declaration>,
    pub(super) sent: Vec<Declaration>,
    /// The types of `on_typed`, by the names of their events.
    pub(super) typed_handlers: BTreeMap<&'static str, RustType>,
}

impl Declarations {
    /// Declares an event that clients send.
    pub(crate) fn receives<E>(&mut self)
    where
        E: TypedEvent + JsonSchema,
        E::Reply: JsonSchema,
    {
        self.received.push(Declaration::of::<E>());
    }

    /// Declares an event that the server sends.
    pub(crate) fn sends<E>(&mut self)
    where
        E: TypedEvent + JsonSchema,
        E::Reply: JsonSchema,
    {
        self.sent.push(Declaration::of::<E>());
    }

    /// Notes the type of a handler.
    pub(crate) fn handles<E: TypedEvent>(&mut self) {
        self.typed_handlers.insert(E::NAME, RustType::of::<E>());
    }

    /// Returns whether the namespace is in the contract.
    pub(super) fn is_empty(&self) -> bool {
        self.received.is_empty() && self.sent.is_empty()
    }
}

/// A type, and its name for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RustType {
    id: TypeId,
    pub(super) name: &'static str,
}

impl RustType {
    fn of<T: 'static>() -> Self {
        Self {
            id: TypeId::of::<T>(),
            name: type_name::<T>(),
        }
    }
}

/// One declared event.
#[derive(Clone, Debug)]
pub(super) struct Declaration {
    pub(super) name: &'static str,
    pub(super) event: RustType,
    /// Whether the fields of the type are the arguments.
    pub(super) spread: bool,
    pub(super) event_schema: fn(&mut SchemaGenerator) -> Schema,
    pub(super) reply_schema: fn(&mut SchemaGenerator) -> Schema,
    /// Whether the reply is `()`, which is no argument.
    pub(super) is_reply_empty: bool,
    /// Returns the maps in the event and its reply whose keys are no strings.
    pub(super) structured_keys: fn() -> Vec<String>,
}

impl Declaration {
    fn of<E>() -> Self
    where
        E: TypedEvent + JsonSchema,
        E::Reply: JsonSchema,
    {
        Self {
            name: E::NAME,
            event: RustType::of::<E>(),
            spread: E::SPREAD,
            event_schema: SchemaGenerator::subschema_for::<E>,
            reply_schema: SchemaGenerator::subschema_for::<E::Reply>,
            is_reply_empty: TypeId::of::<E::Reply>() == TypeId::of::<()>(),
            structured_keys: || {
                let mut found = structured_keys::<E>();
                found.extend(structured_keys::<E::Reply>());
                found
            },
        }
    }
}
