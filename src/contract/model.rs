//! The types of TypeScript, as far as JSON needs them, and their making from a JSON Schema.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Map, Value};

/// A type.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Type {
    Unknown,
    Never,
    Null,
    Undefined,
    Boolean,
    Number,
    String,
    Literal(Value),
    /// Bytes, which are not the same in both directions.
    Bytes(View),
    Array(Box<Self>),
    Tuple(Vec<Element>),
    Record(Box<Self>),
    Object(Vec<Property>, Option<Box<Self>>),
    Union(Vec<Documented>),
    Intersection(Vec<Self>),
    /// A definition, by its name in the schemas.
    Ref(String),
}

/// An element of a tuple.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Element {
    pub(super) label: Option<String>,
    pub(super) ty: Type,
}

/// A property of an object.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Property {
    pub(super) name: String,
    pub(super) optional: bool,
    pub(super) value: Documented,
}

/// A type with its documentation.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Documented {
    pub(super) docs: Vec<String>,
    pub(super) ty: Type,
}

/// Who writes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum View {
    /// The server, by `Serialize`.
    FromServer,
    /// A client. The server reads it by `Deserialize`.
    ToServer,
}

impl View {
    pub(super) const BOTH: [Self; 2] = [Self::FromServer, Self::ToServer];

    /// The suffix of the names of types that differ between the views.
    pub(super) const fn suffix(self) -> &'static str {
        match self {
            Self::FromServer => "FromServer",
            Self::ToServer => "ToServer",
        }
    }
}

/// A schema that TypeScript cannot express.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inexpressible {
    /// The fields that lead to it, the innermost first.
    path: Vec<String>,
    reason: String,
}

impl Inexpressible {
    fn new(reason: impl Into<String>) -> Self {
        Self {
            path: Vec::new(),
            reason: reason.into(),
        }
    }

    fn inside(mut self, field: &str) -> Self {
        self.path.push(field.to_owned());
        self
    }

    /// Writes the problem, for the type that it is in.
    pub(super) fn of(&self, name: &str) -> String {
        let mut path = self.path.clone();
        path.reverse();
        let reason = &self.reason;
        match path.as_slice() {
            [] => format!("`{name}` {reason}"),
            path => format!("field `{}` of `{name}` {reason}", path.join(".")),
        }
    }
}

impl fmt::Display for Inexpressible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl Documented {
    /// Makes a type of a schema.
    pub(super) fn from_schema(schema: &Value, view: View) -> Result<Self, Inexpressible> {
        Ok(Self {
            docs: docs(schema),
            ty: Type::from_schema(schema, view)?,
        })
    }
}

impl Type {
    /// Makes a type of a schema.
    pub(super) fn from_schema(schema: &Value, view: View) -> Result<Self, Inexpressible> {
        let Value::Object(schema) = schema else {
            return Ok(match schema {
                Value::Bool(false) => Self::Never,
                _ => Self::Unknown,
            });
        };
        let mut parts = Vec::new();
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            parts.push(reference_type(reference, view));
        }
        for key in ["oneOf", "anyOf"] {
            if let Some(options) = list(schema, key) {
                let mut union = union(options, view)?;
                // A flattened `Option`. A value of any type is `true`.
                let is_none = |option: &Value| option.as_object().is_some_and(Map::is_empty);
                if options.iter().any(is_none) && !options.contains(&Value::Bool(true)) {
                    union.replace_unknown_option();
                }
                parts.push(union);
            }
        }
        for part in list(schema, "allOf").unwrap_or_default() {
            parts.push(Self::from_schema(part, view)?);
        }
        let own = own_type(schema, view)?;
        // `{"type": "object"}` says nothing that the other parts do not say.
        let is_vague = matches!(own, Self::Record(_)) && !is_map(schema);
        if !is_vague || parts.is_empty() {
            parts.insert(0, own);
        }
        parts.retain(|part| *part != Self::Unknown);
        Ok(match parts.len() {
            0 => Self::Unknown,
            1 => parts.remove(0),
            _ => Self::Intersection(parts.into_iter().map(Self::widened).collect()),
        })
    }

    /// Replaces "anything" in a union of objects by an object without their fields: a flattened
    /// `Option` of an enum that is `None`.
    fn replace_unknown_option(&mut self) {
        let Self::Union(types) = self else { return };
        let mut names = BTreeSet::new();
        types.iter().for_each(|each| each.ty.fields(&mut names));
        let none = names.into_iter().map(|name| Property {
            name,
            optional: true,
            value: plain(Self::Never),
        });
        let none = Self::Object(none.collect(), None);
        for each in types {
            if each.ty == Self::Unknown {
                each.ty = none.clone();
            }
        }
    }

    /// Adds the names of the fields that an object has or may have.
    fn fields(&self, names: &mut BTreeSet<String>) {
        match self {
            Self::Object(properties, _) => {
                names.extend(properties.iter().map(|each| each.name.clone()));
            }
            Self::Union(types) => types.iter().for_each(|each| each.ty.fields(names)),
            Self::Intersection(parts) => parts.iter().for_each(|part| part.fields(names)),
            _ => {}
        }
    }

    /// Makes the values of index signatures `unknown`, for a part of an intersection: a signature
    /// applies to the properties of all parts, while a flattened map of Rust has only those that
    /// no other part has.
    fn widened(self) -> Self {
        let unknown = || Box::new(Self::Unknown);
        match self {
            Self::Record(_) => Self::Record(unknown()),
            Self::Object(properties, Some(_)) => Self::Object(properties, Some(unknown())),
            Self::Union(types) => {
                let widened = |each: Documented| Documented {
                    ty: each.ty.widened(),
                    ..each
                };
                Self::Union(types.into_iter().map(widened).collect())
            }
            Self::Intersection(parts) => {
                Self::Intersection(parts.into_iter().map(Self::widened).collect())
            }
            other => other,
        }
    }

    /// Replaces definitions with an index signature in intersections by what they are, widened: see
    /// [`widened`](Self::widened).
    pub(super) fn widen_references(&mut self, definition: &impl Fn(&str) -> Option<Self>) {
        match self {
            Self::Array(inner) | Self::Record(inner) => inner.widen_references(definition),
            Self::Tuple(elements) => {
                let types = elements.iter_mut().map(|each| &mut each.ty);
                types.for_each(|ty| ty.widen_references(definition));
            }
            Self::Object(properties, rest) => {
                let types = properties.iter_mut().map(|each| &mut each.value.ty);
                let types = types.chain(rest.as_deref_mut());
                types.for_each(|ty| ty.widen_references(definition));
            }
            Self::Union(types) => {
                let types = types.iter_mut().map(|each| &mut each.ty);
                types.for_each(|ty| ty.widen_references(definition));
            }
            Self::Intersection(parts) => {
                for part in parts {
                    part.widen_references(definition);
                    if let Some(widened) = part.widened_through(definition, &mut Vec::new()) {
                        *part = widened;
                    }
                }
            }
            _ => {}
        }
    }

    /// Returns the type [`widened`](Self::widened), also in the definitions that it names, or `None` if
    /// that is the same. `seen` are the definitions on the way.
    fn widened_through(
        &self,
        definition: &impl Fn(&str) -> Option<Self>,
        seen: &mut Vec<String>,
    ) -> Option<Self> {
        match self {
            Self::Ref(name) => {
                if seen.contains(name) {
                    return None;
                }
                seen.push(name.clone());
                let widened = definition(name)?.widened_through(definition, seen);
                seen.pop();
                widened
            }
            Self::Union(types) => {
                let mut widened = types.clone();
                let mut is_other = false;
                for each in &mut widened {
                    if let Some(ty) = each.ty.widened_through(definition, seen) {
                        each.ty = ty;
                        is_other = true;
                    }
                }
                is_other.then_some(Self::Union(widened))
            }
            Self::Intersection(parts) => {
                let mut widened = parts.clone();
                let mut is_other = false;
                for part in &mut widened {
                    if let Some(ty) = part.widened_through(definition, seen) {
                        *part = ty;
                        is_other = true;
                    }
                }
                is_other.then_some(Self::Intersection(widened))
            }
            _ => Some(self.clone().widened()).filter(|widened| widened != self),
        }
    }

    /// Calls a function for each definition that the type names.
    pub(super) fn for_each_ref(&self, f: &mut impl FnMut(&str)) {
        match self {
            Self::Ref(name) => f(name),
            Self::Array(inner) | Self::Record(inner) => inner.for_each_ref(f),
            Self::Tuple(elements) => elements.iter().for_each(|each| each.ty.for_each_ref(f)),
            Self::Object(properties, rest) => {
                for property in properties {
                    property.value.ty.for_each_ref(f);
                }
                if let Some(rest) = rest {
                    rest.for_each_ref(f);
                }
            }
            Self::Union(types) => types.iter().for_each(|each| each.ty.for_each_ref(f)),
            Self::Intersection(types) => types.iter().for_each(|each| each.for_each_ref(f)),
            Self::Unknown
            | Self::Never
            | Self::Null
            | Self::Undefined
            | Self::Boolean
            | Self::Number
            | Self::String
            | Self::Literal(_)
            | Self::Bytes(_) => {}
        }
    }
}

fn list<'a>(schema: &'a Map<String, Value>, key: &str) -> Option<&'a [Value]> {
    schema.get(key)?.as_array().map(Vec::as_slice)
}

/// The name of bytes in the definitions: they are generated first, so no other type has it.
pub(super) const BYTES: &str = "Bytes";

/// Returns the name in a reference to a definition.
pub(super) fn referenced(reference: &str) -> String {
    let name = reference.rsplit('/').next().unwrap_or_default();
    let name = percent_decode(name);
    name.replace("~1", "/").replace("~0", "~")
}

fn percent_decode(text: &str) -> String {
    // `+` is itself in a URI, but a space in a form.
    let form = text.replace('+', "%2B");
    form_urlencoded::parse(form.as_bytes())
        .next()
        .map_or_else(|| text.to_owned(), |(name, _)| name.into_owned())
}

fn reference_type(reference: &str, view: View) -> Type {
    match referenced(reference) {
        name if name == BYTES => Type::Bytes(view),
        name => Type::Ref(name),
    }
}

fn union(options: &[Value], view: View) -> Result<Type, Inexpressible> {
    let mut types = Vec::new();
    for option in options {
        let option = Documented::from_schema(option, view)?;
        match option.ty {
            Type::Union(inner) if option.docs.is_empty() => types.extend(inner),
            _ => types.push(option),
        }
    }
    Ok(one_of(types))
}

fn one_of(mut types: Vec<Documented>) -> Type {
    let mut unique: Vec<Documented> = Vec::new();
    for each in types.drain(..) {
        if !unique.iter().any(|other| other.ty == each.ty) {
            unique.push(each);
        }
    }
    match unique.len() {
        0 => Type::Never,
        1 if unique[0].docs.is_empty() => unique.remove(0).ty,
        _ => Type::Union(unique),
    }
}

fn plain(ty: Type) -> Documented {
    Documented {
        docs: Vec::new(),
        ty,
    }
}

/// Returns the type that the keywords of a schema say themselves, without references and
/// combinations.
fn own_type(schema: &Map<String, Value>, view: View) -> Result<Type, Inexpressible> {
    if let Some(value) = schema.get("const") {
        return Ok(Type::Literal(value.clone()));
    }
    if let Some(values) = list(schema, "enum") {
        let values = values.iter().cloned().map(Type::Literal).map(plain);
        return Ok(one_of(values.collect()));
    }
    match schema.get("type") {
        Some(Value::String(name)) => named_type(name, schema, view),
        Some(Value::Array(names)) => {
            let mut types = Vec::new();
            for name in names.iter().filter_map(Value::as_str) {
                types.push(plain(named_type(name, schema, view)?));
            }
            Ok(one_of(types))
        }
        _ if schema.contains_key("properties") => object(schema, view),
        _ => Ok(Type::Unknown),
    }
}

fn named_type(name: &str, schema: &Map<String, Value>, view: View) -> Result<Type, Inexpressible> {
    let format = schema.get("format").and_then(Value::as_str);
    match (name, format) {
        ("integer", Some("int128" | "uint128")) => Err(Inexpressible::new(
            "is a 128-bit integer, which is no number of JavaScript: make it a `String`, or a \
             newtype that is written as one",
        )),
        ("integer" | "number", _) => Ok(Type::Number),
        ("string", _) => Ok(Type::String),
        ("boolean", _) => Ok(Type::Boolean),
        ("null", _) => Ok(Type::Null),
        ("array", _) => array(schema, view),
        ("object", _) => object(schema, view),
        _ => Ok(Type::Unknown),
    }
}

fn array(schema: &Map<String, Value>, view: View) -> Result<Type, Inexpressible> {
    let length = |key| schema.get(key).and_then(Value::as_u64);
    if let Some(elements) = list(schema, "prefixItems") {
        let elements = elements.iter().enumerate();
        let elements = elements.map(|(n, element)| {
            Ok(Element {
                label: element.get("title").and_then(Value::as_str).map(Into::into),
                ty: Type::from_schema(element, view)
                    .map_err(|error| error.inside(&n.to_string()))?,
            })
        });
        return Ok(Type::Tuple(elements.collect::<Result<_, _>>()?));
    }
    if length("maxItems") == Some(0) {
        return Ok(Type::Tuple(Vec::new()));
    }
    let items = schema.get("items").unwrap_or(&Value::Bool(true));
    let ty = Type::from_schema(items, view)?;
    match (length("minItems"), length("maxItems")) {
        (Some(min), Some(max)) if min == max && max <= MAX_TUPLE => {
            let element = Element { label: None, ty };
            Ok(Type::Tuple(vec![element; max as usize]))
        }
        _ => Ok(Type::Array(Box::new(ty))),
    }
}

/// The longest array that is written as a tuple.
const MAX_TUPLE: u64 = 8;

/// Returns the schema of the properties that a schema does not name. The second keyword is that of
/// schemas with combinations.
fn other_properties(schema: &Map<String, Value>) -> Option<&Value> {
    let keys = ["additionalProperties", "unevaluatedProperties"];
    keys.iter().find_map(|key| schema.get(*key))
}

/// Returns whether a schema says what other properties are.
fn is_map(schema: &Map<String, Value>) -> bool {
    schema.contains_key("patternProperties")
        || other_properties(schema).is_some_and(|value| *value != Value::Bool(false))
}

fn object(schema: &Map<String, Value>, view: View) -> Result<Type, Inexpressible> {
    let required = list(schema, "required").unwrap_or_default();
    let empty = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object);
    // In the order of their names: another feature of serde_json would change that of the map.
    let sorted: BTreeMap<_, _> = properties.unwrap_or(&empty).iter().collect();
    let mut properties = Vec::new();
    for (name, property) in sorted {
        let value = Documented::from_schema(property, view);
        properties.push(Property {
            name: name.clone(),
            optional: !required.iter().any(|other| other == name),
            value: value.map_err(|error| error.inside(name))?,
        });
    }

    let mut rest = Vec::new();
    if let Some(patterns) = schema.get("patternProperties").and_then(Value::as_object) {
        for value in patterns.values() {
            rest.push(plain(Type::from_schema(value, view)?));
        }
    }
    let is_closed = match other_properties(schema) {
        Some(Value::Bool(false)) => true,
        Some(value) => {
            rest.push(plain(Type::from_schema(value, view)?));
            false
        }
        None => false,
    };
    Ok(match (properties.is_empty(), rest.is_empty()) {
        (true, true) if is_closed => Type::Record(Box::new(Type::Never)),
        (true, true) => Type::Record(Box::new(Type::Unknown)),
        (true, false) => Type::Record(Box::new(one_of(rest))),
        (false, true) => Type::Object(properties, None),
        (false, false) => {
            // All properties have to fit the index signature.
            rest.extend(properties.iter().map(|each| plain(each.value.ty.clone())));
            if rest.iter().any(|each| each.ty == Type::Unknown) {
                return Ok(Type::Object(properties, Some(Box::new(Type::Unknown))));
            }
            if properties.iter().any(|property| property.optional) {
                rest.push(plain(Type::Undefined));
            }
            Type::Object(properties, Some(Box::new(one_of(rest))))
        }
    })
}

/// Returns the lines of a schema's documentation.
fn docs(schema: &Value) -> Vec<String> {
    let text = |key| schema.get(key).and_then(Value::as_str);
    let mut lines: Vec<String> = text("description")
        .map(|text| text.lines().map(str::to_owned).collect())
        .unwrap_or_default();
    let note = match text("format") {
        Some("int64" | "uint64" | "int" | "uint") => {
            Some("An integer of 64 bits. JavaScript has its exact value up to 2^53.".to_owned())
        }
        Some(format) if is_string(schema) => Some(format!("Format: `{format}`.")),
        _ => None,
    };
    for note in note.into_iter().chain(deprecation(schema)) {
        if !lines.is_empty() {
            lines.push(String::new());
        }
        lines.push(note);
    }
    lines
}

fn deprecation(schema: &Value) -> Option<String> {
    let is_deprecated = schema.get("deprecated") == Some(&Value::Bool(true));
    is_deprecated.then(|| "@deprecated".to_owned())
}

fn is_string(schema: &Value) -> bool {
    match schema.get("type") {
        Some(Value::String(name)) => name == "string",
        Some(Value::Array(names)) => names.iter().any(|name| name == "string"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(schema: &Value) -> Type {
        Type::from_schema(schema, View::FromServer).expect("expressible")
    }

    fn problem(schema: &Value) -> String {
        let error = Type::from_schema(schema, View::FromServer).expect_err("inexpressible");
        error.of("Board")
    }

    #[test]
    fn simple_types() {
        for (schema, ty) in [
            (json!(true), Type::Unknown),
            (json!({}), Type::Unknown),
            (json!(false), Type::Never),
            (json!({"type": "null"}), Type::Null),
            (json!({"type": "boolean"}), Type::Boolean),
            (json!({"type": "integer", "format": "uint64"}), Type::Number),
            (json!({"type": "string", "format": "uuid"}), Type::String),
            (json!({"const": "a"}), Type::Literal(json!("a"))),
            (json!({"enum": ["a"]}), Type::Literal(json!("a"))),
            (json!({"$ref": "#/$defs/User"}), Type::Ref("User".into())),
            (
                json!({"$ref": "#/$defs/Page%3CA~1B%3E"}),
                Type::Ref("Page<A/B>".into()),
            ),
            (
                json!({"$ref": "#/$defs/Bytes"}),
                Type::Bytes(View::FromServer),
            ),
            (json!({"anyOf": [{"type": "null"}]}), Type::Null),
            (
                json!({"type": "array", "maxItems": 0}),
                Type::Tuple(Vec::new()),
            ),
            (
                json!({"type": "array"}),
                Type::Array(Box::new(Type::Unknown)),
            ),
            (
                json!({"type": "object"}),
                Type::Record(Box::new(Type::Unknown)),
            ),
            (
                json!({"type": "object", "additionalProperties": false}),
                Type::Record(Box::new(Type::Never)),
            ),
            (
                json!({"type": "object", "patternProperties": {r"^\d+$": {"type": "string"}}}),
                Type::Record(Box::new(Type::String)),
            ),
        ] {
            assert_eq!(of(&schema), ty, "{schema}");
        }
    }

    #[test]
    fn an_index_signature_fits_all_properties() {
        let schema = json!({
            "type": "object",
            "properties": {"a": {"type": "string"}},
            "additionalProperties": {"type": "integer"},
        });
        let Type::Object(properties, Some(rest)) = of(&schema) else {
            panic!("no object");
        };
        assert!(properties[0].optional);
        let types = [Type::Number, Type::String, Type::Undefined];
        assert_eq!(*rest, Type::Union(types.map(plain).to_vec()));
    }

    #[test]
    fn siblings_of_a_combination_are_an_intersection() {
        let schema = json!({
            "type": "object",
            "properties": {"a": {"type": "string"}},
            "required": ["a"],
            "oneOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}],
        });
        let Type::Intersection(parts) = of(&schema) else {
            panic!("no intersection");
        };
        assert!(matches!(
            parts.as_slice(),
            [Type::Object(..), Type::Union(_)]
        ));
        // The type alone adds nothing.
        let schema = json!({"type": "object", "allOf": [{"$ref": "#/$defs/A"}]});
        assert_eq!(of(&schema), Type::Ref("A".into()));
    }

    #[test]
    fn an_index_signature_in_an_intersection_fits_all_parts() {
        let schema = json!({
            "type": "object",
            "properties": {"name": {"type": "string"}},
            "required": ["name"],
            "additionalProperties": {"type": "integer"},
            "oneOf": [
                {"$ref": "#/$defs/A"},
                {"type": "object", "additionalProperties": {"type": "integer"}},
            ],
        });
        let Type::Intersection(parts) = of(&schema) else {
            panic!("no intersection");
        };
        let Type::Object(_, Some(rest)) = &parts[0] else {
            panic!("no object with an index signature");
        };
        assert_eq!(**rest, Type::Unknown);
        let types = [Type::Ref("A".into()), Type::Record(Box::new(Type::Unknown))];
        assert_eq!(parts[1], Type::Union(types.map(plain).to_vec()));
        // A map of anything is more than an object.
        let schema = json!({
            "type": "object",
            "unevaluatedProperties": true,
            "oneOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}],
        });
        assert!(matches!(of(&schema), Type::Intersection(_)));
    }

    #[test]
    fn what_cannot_be_expressed_is_named_by_its_field() {
        let large = json!({"type": "integer", "format": "uint128"});
        assert!(problem(&large).starts_with("`Board` is a 128-bit integer"));
        let nested = json!({
            "type": "object",
            "properties": {"a": {
                "type": "array",
                "items": {"type": "object", "properties": {"b": large}},
            }},
        });
        assert!(problem(&nested).starts_with("field `a.b` of `Board` is a 128-bit integer"));
    }

    #[test]
    fn comments_have_the_format_and_the_deprecation() {
        let schema = json!({
            "type": ["string", "null"],
            "format": "date-time",
            "description": "The time.\nOf the server.",
            "deprecated": true,
        });
        assert_eq!(
            docs(&schema),
            [
                "The time.",
                "Of the server.",
                "",
                "Format: `date-time`.",
                "",
                "@deprecated"
            ]
        );
        assert_eq!(
            docs(&json!({"type": "integer", "format": "uint32"})),
            [""; 0]
        );
    }
}
