//! Writes a contract as declarations of TypeScript.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::model::{Documented, Element, Property, Type, View};
use super::names::{Names, is_identifier, is_parameter, unique};
use super::views::{Args, EventModel, Model, NamespaceModel};

/// Writes a `.d.ts`.
pub(super) fn write(model: &Model) -> String {
    let mut out = String::from(HEAD);
    if model.has_bytes {
        out.push_str(BYTES);
    }
    for namespace in &model.namespaces {
        interfaces(&mut out, namespace, &model.names);
    }
    let mut written = BTreeSet::new();
    let from_server = model
        .from_server
        .iter()
        .map(|each| (View::FromServer, each));
    let to_server = model.to_server.iter().map(|each| (View::ToServer, each));
    let mut definitions: Vec<_> = from_server
        .chain(to_server)
        .map(|(view, (name, definition))| (model.names.get(view, name), view, definition))
        .collect();
    definitions.sort_by_key(|(name, ..)| *name);
    for (name, view, definition) in definitions {
        if written.insert(name) {
            declaration(&mut out, name, definition, &Writer::new(&model.names, view));
        }
    }
    // A type that begins on the next line leaves a space.
    out.lines()
        .fold(String::new(), |out, line| out + line.trim_end() + "\n")
}

const HEAD: &str = "\
// Events of a server, written from its Rust types by tower-socketio. Do not edit.
";

const BYTES: &str = "
/** Bytes that a client receives: an `ArrayBuffer` in a browser, a `Buffer` in Node.js. */
export type BytesFromServer = ArrayBuffer | Uint8Array;

/** Bytes that a client sends. */
export type BytesToServer = ArrayBuffer | Uint8Array | Blob;
";

/// Writes the two interfaces of a namespace.
fn interfaces(out: &mut String, namespace: &NamespaceModel, names: &Names) {
    let place = match &namespace.path {
        Some(path) => format!("in `{path}`"),
        None => "in a namespace that the server matches by its name".to_owned(),
    };
    let directions = [
        (
            "ClientToServerEvents",
            "a client sends",
            &namespace.received,
            View::ToServer,
        ),
        (
            "ServerToClientEvents",
            "the server sends",
            &namespace.sent,
            View::FromServer,
        ),
    ];
    for (suffix, who, events, view) in directions {
        let name = format!("{}{suffix}", namespace.name);
        out.push('\n');
        docs(out, 0, &[format!("What {who} {place}.")]);
        if events.is_empty() {
            let _ = writeln!(out, "export interface {name} {{}}");
            continue;
        }
        let _ = writeln!(out, "export interface {name} {{");
        for event in events {
            docs(out, 1, &event.docs);
            let key = property_name(event.name);
            let signature = signature(event, view, names);
            let _ = writeln!(out, "  {key}: {signature};");
        }
        out.push_str("}\n");
    }
}

/// Returns the type of an event: a function, as the client's types want it.
fn signature(event: &EventModel, view: View, names: &Names) -> String {
    let writer = Writer::new(names, view);
    let params = match &event.args {
        Args::One(ty) => vec![format!("data: {}", writer.text(ty, 1))],
        Args::Spread(elements) => writer.elements(elements, 1),
    };
    let with = |ack: &str| {
        let params = params.iter().map(String::as_str).chain([ack]);
        params.collect::<Vec<_>>().join(", ")
    };
    match (&event.reply, view) {
        (Some(reply), _) => {
            let reply_view = match view {
                View::FromServer => View::ToServer,
                View::ToServer => View::FromServer,
            };
            let reply = Writer::new(names, reply_view).text(reply, 1);
            let ack = format!("ack: (reply: {reply}) => void");
            format!("({}) => void", with(&ack))
        }
        // The server may `send` it or `ask`.
        (None, View::FromServer) => format!("({}) => void", with("ack?: () => void")),
        // An optional parameter would let `emitWithAck` accept any arguments.
        (None, View::ToServer) => {
            let without = params.join(", ");
            format!(
                "(...args: [{without}] | [{}]) => void",
                with("ack: () => void")
            )
        }
    }
}

/// Writes a definition.
fn declaration(out: &mut String, name: &str, definition: &Documented, writer: &Writer<'_>) {
    out.push('\n');
    docs(out, 0, &definition.docs);
    let _ = match &definition.ty {
        Type::Object(properties, rest) => {
            let body = writer.object(properties, rest.as_deref(), 0);
            writeln!(out, "export interface {name} {body}")
        }
        ty => writeln!(out, "export type {name} = {};", writer.text(ty, 0)),
    };
}

/// Writes types of one view.
struct Writer<'a> {
    names: &'a Names,
    view: View,
}

impl<'a> Writer<'a> {
    const fn new(names: &'a Names, view: View) -> Self {
        Self { names, view }
    }

    /// Returns a type as text. `depth` is the indentation of the line that it is in.
    fn text(&self, ty: &Type, depth: usize) -> String {
        match ty {
            Type::Unknown => "unknown".to_owned(),
            Type::Never => "never".to_owned(),
            Type::Null => "null".to_owned(),
            Type::Undefined => "undefined".to_owned(),
            Type::Boolean => "boolean".to_owned(),
            Type::Number => "number".to_owned(),
            Type::String => "string".to_owned(),
            Type::Literal(value) => literal(value),
            Type::Bytes(View::FromServer) => "BytesFromServer".to_owned(),
            Type::Bytes(View::ToServer) => "BytesToServer".to_owned(),
            Type::Ref(name) => self.names.get(self.view, name).to_owned(),
            Type::Array(inner) => match **inner {
                Type::Union(_) | Type::Intersection(_) => {
                    format!("({})[]", self.text(inner, depth))
                }
                _ => format!("{}[]", self.text(inner, depth)),
            },
            Type::Tuple(elements) => self.tuple(elements, depth),
            Type::Record(inner) => format!("{{ {} }}", self.index(inner, depth)),
            Type::Object(properties, rest) => self.short_object(properties, rest.as_deref(), depth),
            Type::Union(types) => self.union(types, depth),
            Type::Intersection(types) => {
                let parts = types.iter().map(|part| match part {
                    Type::Union(_) => format!("({})", self.text(part, depth)),
                    _ => self.text(part, depth),
                });
                parts.collect::<Vec<_>>().join(" & ")
            }
        }
    }

    fn tuple(&self, elements: &[Element], depth: usize) -> String {
        if elements.iter().any(|element| element.label.is_some()) {
            return format!("[{}]", self.elements(elements, depth).join(", "));
        }
        let types = elements.iter().map(|each| self.text(&each.ty, depth));
        format!("[{}]", types.collect::<Vec<_>>().join(", "))
    }

    /// Returns labelled elements, as parameters or for a tuple.
    fn elements(&self, elements: &[Element], depth: usize) -> Vec<String> {
        let mut taken = BTreeSet::from(["ack".to_owned(), "args".to_owned()]);
        let mut labels = Vec::new();
        for (n, element) in elements.iter().enumerate() {
            let label = element.label.clone().filter(|label| is_parameter(label));
            let label = label.unwrap_or_else(|| format!("arg{}", n + 1));
            let label = unique(&label, &mut taken);
            labels.push(format!("{label}: {}", self.text(&element.ty, depth)));
        }
        labels
    }

    /// Returns an object in one line, if it is short and has no comments.
    fn short_object(&self, properties: &[Property], rest: Option<&Type>, depth: usize) -> String {
        let named = properties.iter().map(|property| self.property(property, 0));
        let rest_text = rest.map(|rest| self.index(rest, 0));
        let line = named.chain(rest_text).collect::<Vec<_>>().join("; ");
        let has_docs = properties.iter().any(|each| !each.value.docs.is_empty());
        if has_docs || line.contains('\n') || line.len() > MAX_INLINE {
            return self.object(properties, rest, depth);
        }
        format!("{{ {line} }}")
    }

    fn property(&self, property: &Property, depth: usize) -> String {
        let mark = if property.optional { "?" } else { "" };
        let ty = self.text(&property.value.ty, depth);
        format!("{}{mark}: {ty}", property_name(&property.name))
    }

    fn index(&self, rest: &Type, depth: usize) -> String {
        format!("[key: string]: {}", self.text(rest, depth))
    }

    /// Returns an object with each property in a line of its own.
    fn object(&self, properties: &[Property], rest: Option<&Type>, depth: usize) -> String {
        let mut out = String::from("{\n");
        for property in properties {
            docs(&mut out, depth + 1, &property.value.docs);
            indent(&mut out, depth + 1);
            let _ = writeln!(out, "{};", self.property(property, depth + 1));
        }
        if let Some(rest) = rest {
            indent(&mut out, depth + 1);
            let _ = writeln!(out, "{};", self.index(rest, depth + 1));
        }
        indent(&mut out, depth);
        out.push('}');
        out
    }

    fn union(&self, types: &[Documented], depth: usize) -> String {
        let part = |each: &Documented| match each.ty {
            Type::Intersection(_) | Type::Union(_) => {
                format!("({})", self.text(&each.ty, depth + 2))
            }
            _ => self.text(&each.ty, depth + 2),
        };
        if types.iter().all(|each| each.docs.is_empty()) {
            let inline = types.iter().map(part).collect::<Vec<_>>().join(" | ");
            if !inline.contains('\n') && inline.len() <= MAX_INLINE {
                return inline;
            }
        }
        let mut out = String::new();
        for each in types {
            out.push('\n');
            docs(&mut out, depth + 1, &each.docs);
            indent(&mut out, depth + 1);
            let _ = write!(out, "| {}", part(each));
        }
        out
    }
}

/// The longest union or object that is written in one line.
const MAX_INLINE: usize = 80;

fn indent(out: &mut String, depth: usize) {
    out.extend(std::iter::repeat_n("  ", depth));
}

/// Writes a comment of TSDoc.
fn docs(out: &mut String, depth: usize, lines: &[String]) {
    let mut lines = lines.iter().map(|line| line.replace("*/", "*\\/"));
    let Some(first) = lines.next() else {
        return;
    };
    indent(out, depth);
    let rest: Vec<_> = lines.collect();
    if rest.is_empty() {
        let _ = writeln!(out, "/** {first} */");
        return;
    }
    out.push_str("/**\n");
    for line in std::iter::once(&first).chain(&rest) {
        indent(out, depth);
        let _ = writeln!(out, "{}", format!(" * {line}").trim_end());
    }
    indent(out, depth);
    out.push_str(" */\n");
}

fn property_name(name: &str) -> String {
    if is_identifier(name) {
        return name.to_owned();
    }
    literal(&name.into())
}

fn literal(value: &serde_json::Value) -> String {
    // JSON is also TypeScript, apart from two characters that end lines.
    let text = value.to_string();
    text.replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}
