//! Writes a contract as a document of AsyncAPI 3.
//!
//! | of the document | is                                                                |
//! |-----------------|-------------------------------------------------------------------|
//! | a channel       | a namespace; its address is the path                              |
//! | a message       | an event, `NAME`, in one direction, and its reply                 |
//! | an operation    | what the server does: it receives or sends the message            |
//! | a payload       | the argument, or a list if the event has several (`x-spread`)     |

use std::collections::{BTreeMap, BTreeSet};

use schemars::Schema;
use schemars::transform::{
    RemoveRefSiblings, ReplacePrefixItems, ReplaceUnevaluatedProperties, Transform,
};
use serde_json::{Map, Value, json};

use super::model::{BYTES, View, referenced};
use super::names::{Names, identifier, unique};
use super::views::{Args, EventModel, Model, NamespaceModel};

/// Writes a document.
pub(super) fn write(model: &Model, title: &str, version: &str) -> String {
    let mut channels = Map::new();
    let mut operations = Map::new();
    let mut channel_ids = BTreeSet::new();
    for namespace in &model.namespaces {
        let id = match namespace.name.as_str() {
            "" => "main".to_owned(),
            name => identifier(name),
        };
        let id = unique(&id, &mut channel_ids);
        let mut channel = Channel {
            id: id.clone(),
            names: &model.names,
            messages: Map::new(),
            operations: &mut operations,
        };
        channel.add(&namespace.received, View::ToServer);
        channel.add(&namespace.sent, View::FromServer);
        let messages = channel.messages;
        channels.insert(id, channel_object(namespace, &messages));
    }
    let mut schemas = BTreeMap::new();
    for ((view, definition), schema) in &model.schemas {
        let name = model.names.get(*view, definition);
        schemas.insert(name, converted(schema, *view, &model.names));
    }
    let document = json!({
        "asyncapi": "3.0.0",
        "info": { "title": title, "version": version },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": { "schemas": schemas },
    });
    let text = serde_json::to_string_pretty(&sorted(document));
    // Values without maps of other keys than strings can always be written.
    text.unwrap_or_default() + "\n"
}

/// The channel of a namespace.
struct Channel<'a> {
    id: String,
    names: &'a Names,
    messages: Map<String, Value>,
    operations: &'a mut Map<String, Value>,
}

impl Channel<'_> {
    /// Adds the events of one direction.
    fn add(&mut self, events: &[EventModel], view: View) {
        let (action, reply_view) = match view {
            View::ToServer => ("receive", View::FromServer),
            View::FromServer => ("send", View::ToServer),
        };
        let mut taken = BTreeSet::new();
        for event in events {
            let id = unique(&identifier(event.name), &mut taken);
            let id = format!("{action}.{id}");
            let is_spread = matches!(event.args, Args::Spread(_));
            let mut message = json!({
                "name": event.name,
                "payload": converted(&event.event_schema, view, self.names),
            });
            if is_spread {
                message["x-spread"] = true.into();
            }
            if !event.docs.is_empty() {
                message["description"] = event.docs.join("\n").into();
            }
            self.messages.insert(id.clone(), message);
            let mut operation = json!({
                "action": action,
                "channel": { "$ref": format!("#/channels/{}", self.id) },
                "messages": [self.message(&id)],
            });
            if event.reply.is_some() {
                let reply_id = format!("{id}.reply");
                let reply = json!({
                    "name": event.name,
                    "payload": converted(&event.reply_schema, reply_view, self.names),
                });
                operation["reply"] = json!({
                    "channel": { "$ref": format!("#/channels/{}", self.id) },
                    "messages": [self.message(&reply_id)],
                });
                self.messages.insert(reply_id, reply);
            }
            let operation_id = format!("{}.{id}", self.id);
            self.operations.insert(operation_id, operation);
        }
    }

    fn message(&self, id: &str) -> Value {
        json!({ "$ref": format!("#/channels/{}/messages/{id}", self.id) })
    }
}

fn channel_object(namespace: &NamespaceModel, messages: &Map<String, Value>) -> Value {
    // AsyncAPI has no sign for a parameter that takes the rest of the path.
    let address = namespace.path.as_deref();
    let address = address.map(|path| path.replace("{*", "{"));
    let mut channel = json!({
        "address": address,
        "messages": messages,
    });
    let path = address.as_deref().unwrap_or_default();
    let parameters: Map<String, Value> = parameters(path)
        .map(|name| (name.to_owned(), json!({})))
        .collect();
    if !parameters.is_empty() {
        channel["parameters"] = parameters.into();
    }
    channel
}

/// Returns the parameters of a path.
fn parameters(path: &str) -> impl Iterator<Item = &str> {
    path.split('{')
        .skip(1)
        .filter_map(|rest| Some(rest.split_once('}')?.0))
}

/// Converts a schema to draft 7, which is that of AsyncAPI, with the names of the contract.
fn converted(schema: &Value, view: View, names: &Names) -> Value {
    let mut schema = schema.clone();
    rename(&mut schema, view, names);
    open(&mut schema);
    let Ok(mut schema) = Schema::try_from(schema) else {
        return Value::Bool(true);
    };
    RemoveRefSiblings::default().transform(&mut schema);
    ReplaceUnevaluatedProperties::default().transform(&mut schema);
    ReplacePrefixItems::default().transform(&mut schema);
    schema.to_value()
}

/// Lets the properties of a flattened map beside an enum have any values: draft 7 has no keyword for
/// those that no other part of the schema names.
fn open(schema: &mut Value) {
    match schema {
        Value::Array(values) => values.iter_mut().for_each(open),
        Value::Object(object) => {
            if object
                .get("unevaluatedProperties")
                .is_some_and(Value::is_object)
            {
                object.remove("unevaluatedProperties");
            }
            object.values_mut().for_each(open);
        }
        _ => {}
    }
}

/// Makes the references those of the document.
fn rename(schema: &mut Value, view: View, names: &Names) {
    match schema {
        Value::Array(values) => values
            .iter_mut()
            .for_each(|value| rename(value, view, names)),
        Value::Object(object) => {
            let reference = object.get("$ref").and_then(Value::as_str);
            let is_reference = reference.is_some_and(|text| text.starts_with("#/$defs/"));
            match reference.map(referenced).filter(|_| is_reference) {
                Some(name) if name == BYTES => {
                    object.remove("$ref");
                    object.insert("type".into(), "string".into());
                    object.insert("format".into(), "binary".into());
                }
                Some(name) => {
                    let name = names.get(view, &name);
                    let reference = format!("#/components/schemas/{name}");
                    object.insert("$ref".into(), reference.into());
                }
                None => {}
            }
            object
                .values_mut()
                .for_each(|value| rename(value, view, names));
        }
        _ => {}
    }
}

/// Puts the keys of all objects in order, so that the text does not depend on a feature of
/// serde_json.
fn sorted(value: Value) -> Value {
    match value {
        Value::Array(values) => values.into_iter().map(sorted).collect(),
        Value::Object(object) => {
            let sorted_keys: BTreeMap<_, _> = object.into_iter().collect();
            let entries = sorted_keys.into_iter();
            entries.map(|(key, value)| (key, sorted(value))).collect()
        }
        other => other,
    }
}
