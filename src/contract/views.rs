//! The events of a contract with their types, in the view of who writes the values.

use std::collections::{BTreeMap, BTreeSet};

use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde_json::Value;

use super::declared::Declaration;
use super::model::{Documented, Element, Type, View};
use super::names::{self, Definitions, Names};
use super::{ContractError, NamespaceContract};

/// A contract with its types.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) namespaces: Vec<NamespaceModel>,
    /// The definitions that the events use.
    pub(super) from_server: BTreeMap<String, Documented>,
    pub(super) to_server: BTreeMap<String, Documented>,
    pub(super) names: Names,
    /// The schemas of all definitions.
    pub(super) schemas: BTreeMap<(View, String), Value>,
    pub(super) has_bytes: bool,
}

/// A namespace of a contract.
#[derive(Debug)]
pub(super) struct NamespaceModel {
    /// The path, unless a predicate decides which names the namespace has.
    pub(super) path: Option<String>,
    /// The first part of the names of its interfaces.
    pub(super) name: String,
    /// The events that clients send, in the order of their names.
    pub(super) received: Vec<EventModel>,
    /// The events that the server sends.
    pub(super) sent: Vec<EventModel>,
}

/// An event of a contract.
#[derive(Debug)]
pub(super) struct EventModel {
    pub(super) name: &'static str,
    pub(super) docs: Vec<String>,
    pub(super) args: Args,
    /// The reply, unless it is `()`.
    pub(super) reply: Option<Type>,
    pub(super) event_schema: Value,
    pub(super) reply_schema: Value,
}

/// The arguments of an event.
#[derive(Debug)]
pub(super) enum Args {
    One(Type),
    Spread(Vec<Element>),
}

impl Args {
    pub(super) fn for_each_type(&self, mut f: impl FnMut(&Type)) {
        match self {
            Self::One(ty) => f(ty),
            Self::Spread(elements) => elements.iter().for_each(|element| f(&element.ty)),
        }
    }
}

/// The schemas of one view.
struct Schemas {
    view: View,
    generator: SchemaGenerator,
}

impl Schemas {
    fn new(view: View) -> Self {
        let settings = SchemaSettings::draft2020_12();
        let mut generator = match view {
            View::FromServer => settings.for_serialize(),
            View::ToServer => settings.for_deserialize(),
        }
        .into_generator();
        // The first type of a name keeps it, so this name is that of bytes.
        let bytes = generator.subschema_for::<bytes::Bytes>();
        debug_assert_eq!(
            bytes.get("$ref").and_then(Value::as_str),
            Some("#/$defs/Bytes")
        );
        Self { view, generator }
    }

    fn definition(&self, name: &str) -> Option<&Value> {
        self.generator.definitions().get(name)
    }

    /// Follows references.
    fn resolve<'a>(&'a self, mut schema: &'a Value) -> &'a Value {
        for _ in 0..MAX_REFERENCES {
            let reference = schema.get("$ref").and_then(Value::as_str);
            let name = reference.map(super::model::referenced);
            match name.and_then(|name| self.definition(&name)) {
                Some(definition) => schema = definition,
                None => break,
            }
        }
        schema
    }
}

/// How many references may follow each other.
const MAX_REFERENCES: usize = 64;

/// The schemas of a declaration, in both views.
struct DeclarationSchemas {
    event: BTreeMap<View, Value>,
    reply: BTreeMap<View, Value>,
}

/// Makes the types of a contract.
pub(super) fn model(contract: &[NamespaceContract]) -> Result<Model, ContractError> {
    let mut builder = Builder {
        from_server: Schemas::new(View::FromServer),
        to_server: Schemas::new(View::ToServer),
        problems: BTreeSet::new(),
        bytes: false,
    };
    let namespaces = contract.iter();
    let mut namespaces: Vec<_> = namespaces
        .map(|namespace| builder.namespace(namespace))
        .collect();
    let from_server = builder.definitions(View::FromServer, &namespaces);
    let to_server = builder.definitions(View::ToServer, &namespaces);
    ContractError::check(builder.problems.iter().cloned().collect())?;

    let mut taken = BTreeSet::from(BYTE_NAMES.map(str::to_owned));
    name_namespaces(&mut namespaces, &mut taken);
    let types = |definitions: &BTreeMap<String, Documented>| -> Definitions {
        let definitions = definitions.iter();
        definitions
            .map(|(name, definition)| (name.clone(), definition.ty.clone()))
            .collect()
    };
    let is_same = |view, one: &str, other: &str| {
        let schema = |name| builder.schemas(view).definition(name).map(without_docs);
        schema(other).is_none() || schema(one) == schema(other)
    };
    let names = Names::new(&types(&from_server), &types(&to_server), taken, is_same);
    let mut schemas = BTreeMap::new();
    for (view, definitions) in [
        (View::FromServer, &from_server),
        (View::ToServer, &to_server),
    ] {
        for name in definitions.keys() {
            let schema = builder.schemas(view).definition(name).cloned();
            schemas.insert((view, name.clone()), schema.unwrap_or_default());
        }
    }
    Ok(Model {
        namespaces,
        from_server,
        to_server,
        names,
        schemas,
        has_bytes: builder.bytes,
    })
}

/// The names of bytes in TypeScript.
pub(super) const BYTE_NAMES: [&str; 2] = ["BytesFromServer", "BytesToServer"];

/// Gives each namespace a name that no other has.
fn name_namespaces(namespaces: &mut [NamespaceModel], taken: &mut BTreeSet<String>) {
    let mut prefixes = BTreeSet::new();
    for namespace in namespaces {
        let path = namespace.path.as_deref();
        let name = path.map_or_else(|| "Matched".to_owned(), names::namespace);
        namespace.name = names::unique(&name, &mut prefixes);
        for direction in ["ClientToServerEvents", "ServerToClientEvents"] {
            taken.insert(format!("{}{direction}", namespace.name));
        }
    }
}

struct Builder {
    from_server: Schemas,
    to_server: Schemas,
    /// What is wrong. The same type may be found more than once.
    problems: BTreeSet<String>,
    bytes: bool,
}

impl Builder {
    const fn schemas(&self, view: View) -> &Schemas {
        match view {
            View::FromServer => &self.from_server,
            View::ToServer => &self.to_server,
        }
    }

    fn namespace(&mut self, namespace: &NamespaceContract) -> NamespaceModel {
        let declared = &namespace.declared;
        let received = self.events(&declared.received, View::ToServer);
        let sent = self.events(&declared.sent, View::FromServer);
        NamespaceModel {
            path: namespace.path.clone(),
            name: String::new(),
            received,
            sent,
        }
    }

    fn events(&mut self, declared: &[Declaration], view: View) -> Vec<EventModel> {
        let mut events = BTreeMap::new();
        for declaration in declared {
            let event = self.event(declaration, view);
            events.entry(declaration.name).or_insert(event);
        }
        events.into_values().collect()
    }

    fn event(&mut self, declaration: &Declaration, view: View) -> EventModel {
        for map in (declaration.structured_keys)() {
            self.problems.insert(format!(
                "{map} has keys that are no strings, which JSON cannot express: make it a list of \
                 pairs"
            ));
        }
        let schemas = self.generate(declaration);
        let mut event_schema = schemas.event[&view].clone();
        if declaration.spread {
            event_schema = self.schemas(view).resolve(&event_schema).clone();
        }
        let reply_view = match view {
            View::FromServer => View::ToServer,
            View::ToServer => View::FromServer,
        };
        let reply_schema = schemas.reply[&reply_view].clone();
        let args = self.args(declaration, &event_schema, view);
        let reply = (!declaration.is_reply_empty).then(|| {
            let owner = format!("Reply of {}", short(declaration.event.name));
            self.convert(&owner, &reply_schema, reply_view).ty
        });
        let resolved = self.schemas(view).resolve(&event_schema);
        let docs = Documented::from_schema(resolved, view).map(|each| each.docs);
        EventModel {
            name: declaration.name,
            docs: docs.unwrap_or_default(),
            args,
            reply,
            event_schema,
            reply_schema,
        }
    }

    /// Generates the schemas of an event for both views, also if only one is used: types of the
    /// same name then have the same number in both.
    fn generate(&mut self, declaration: &Declaration) -> DeclarationSchemas {
        let mut schemas = DeclarationSchemas {
            event: BTreeMap::new(),
            reply: BTreeMap::new(),
        };
        for Schemas { view, generator } in [&mut self.from_server, &mut self.to_server] {
            let event = (declaration.event_schema)(generator);
            let reply = (declaration.reply_schema)(generator);
            schemas.event.insert(*view, Schema::to_value(event));
            schemas.reply.insert(*view, Schema::to_value(reply));
        }
        schemas
    }

    fn args(&mut self, declaration: &Declaration, schema: &Value, view: View) -> Args {
        let owner = short(declaration.event.name).to_owned();
        if !declaration.spread {
            return Args::One(self.convert(&owner, schema, view).ty);
        }
        match self.convert(&owner, schema, view).ty {
            Type::Tuple(elements) => Args::Spread(elements),
            Type::Null => Args::Spread(Vec::new()),
            _ => {
                self.problems.insert(format!(
                    "`{owner}` is sent as several arguments (`SPREAD`), but is neither a tuple \
                     struct of two fields or more nor a unit struct"
                ));
                Args::Spread(Vec::new())
            }
        }
    }

    /// Makes a type of a schema, and notes what is wrong with it.
    fn convert(&mut self, owner: &str, schema: &Value, view: View) -> Documented {
        Documented::from_schema(schema, view).unwrap_or_else(|error| {
            self.problems.insert(error.of(owner));
            Documented {
                docs: Vec::new(),
                ty: Type::Unknown,
            }
        })
    }

    /// Returns the definitions that events name, directly or not.
    fn definitions(
        &mut self,
        view: View,
        namespaces: &[NamespaceModel],
    ) -> BTreeMap<String, Documented> {
        let mut todo = Vec::new();
        for namespace in namespaces {
            let (own, others) = match view {
                View::FromServer => (&namespace.sent, &namespace.received),
                View::ToServer => (&namespace.received, &namespace.sent),
            };
            for event in own {
                event.args.for_each_type(|ty| todo.push(ty.clone()));
            }
            todo.extend(others.iter().filter_map(|event| event.reply.clone()));
        }
        let mut found: BTreeMap<String, Documented> = BTreeMap::new();
        while let Some(ty) = todo.pop() {
            self.bytes |= has_bytes(&ty);
            let mut references = Vec::new();
            ty.for_each_ref(&mut |name| references.push(name.to_owned()));
            for name in references {
                if found.contains_key(&name) {
                    continue;
                }
                let schema = self.schemas(view).definition(&name).cloned();
                let definition = self.convert(&name, &schema.unwrap_or_default(), view);
                todo.push(definition.ty.clone());
                found.insert(name, definition);
            }
        }
        let before = found.clone();
        let definition = |name: &str| Some(before.get(name)?.ty.clone());
        for own in found.values_mut() {
            own.ty.widen_references(&definition);
        }
        found
    }
}

/// Returns a schema without what does not change its meaning.
fn without_docs(schema: &Value) -> Value {
    match schema {
        Value::Object(fields) => {
            let fields = fields.iter();
            let fields = fields.filter(|(key, value)| {
                !(matches!(key.as_str(), "title" | "description") && value.is_string())
            });
            fields
                .map(|(key, value)| (key.clone(), without_docs(value)))
                .collect()
        }
        Value::Array(items) => items.iter().map(without_docs).collect(),
        other => other.clone(),
    }
}

/// Returns whether a type has bytes, apart from the definitions that it names.
fn has_bytes(ty: &Type) -> bool {
    match ty {
        Type::Bytes(_) => true,
        Type::Array(inner) | Type::Record(inner) => has_bytes(inner),
        Type::Tuple(elements) => elements.iter().any(|each| has_bytes(&each.ty)),
        Type::Object(properties, rest) => {
            properties.iter().any(|each| has_bytes(&each.value.ty))
                || rest.as_deref().is_some_and(has_bytes)
        }
        Type::Union(types) => types.iter().any(|each| has_bytes(&each.ty)),
        Type::Intersection(types) => types.iter().any(has_bytes),
        _ => false,
    }
}

/// Returns the last part of a type's path.
fn short(name: &str) -> &str {
    let generics = name.find('<').unwrap_or(name.len());
    let start = name[..generics].rfind("::").map_or(0, |at| at + 2);
    &name[start..]
}
