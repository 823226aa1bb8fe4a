//! Names in TypeScript: of definitions, of namespaces, and of what may not be a name.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{Type, View};

/// The definitions of a view, by their names in the schemas.
pub(super) type Definitions = BTreeMap<String, Type>;

/// The names of the definitions.
#[derive(Debug, Default)]
pub(super) struct Names {
    names: BTreeMap<(View, String), String>,
}

impl Names {
    /// Names the definitions of both views. `taken` are names that no definition gets.
    ///
    /// A definition with the same meaning in both views has one name. Otherwise each name says who
    /// writes the value. `is_same` says whether two definitions of a view have the same schema.
    pub(super) fn new(
        from_server: &Definitions,
        to_server: &Definitions,
        mut taken: BTreeSet<String>,
        is_same: impl Fn(View, &str, &str) -> bool,
    ) -> Self {
        taken.extend(RESERVED.iter().map(|&name| name.to_owned()));
        let different = differences(from_server, to_server);
        let mut names = BTreeMap::new();
        let all: BTreeSet<&String> = from_server.keys().chain(to_server.keys()).collect();
        for name in all {
            let base = identifier(name);
            let same = same_definition(name, from_server, to_server).filter(|same| {
                let views = View::BOTH.into_iter();
                views.into_iter().all(|view| is_same(view, same, name))
            });
            if let Some(same) = same {
                for view in View::BOTH {
                    if let Some(own) = names.get(&(view, same.to_owned())).cloned() {
                        names.insert((view, name.clone()), own);
                    }
                }
                continue;
            }
            let is_in = |view| match view {
                View::FromServer => from_server.contains_key(name),
                View::ToServer => to_server.contains_key(name),
            };
            if different.contains(name) {
                for view in View::BOTH {
                    let own = unique(&format!("{base}{}", view.suffix()), &mut taken);
                    names.insert((view, name.clone()), own);
                }
                continue;
            }
            let one = unique(&base, &mut taken);
            for view in View::BOTH.into_iter().filter(|view| is_in(*view)) {
                names.insert((view, name.clone()), one.clone());
            }
        }
        Self { names }
    }

    /// Returns the name of a definition.
    pub(super) fn get(&self, view: View, definition: &str) -> &str {
        let name = self.names.get(&(view, definition.to_owned()));
        name.map_or("unknown", String::as_str)
    }
}

/// Returns the definitions that are in both views and differ, directly or in a definition that they
/// name.
fn differences<'a>(
    from_server: &'a Definitions,
    to_server: &'a Definitions,
) -> BTreeSet<&'a String> {
    let both = || {
        from_server
            .iter()
            .filter_map(|(name, ty)| Some((name, ty, to_server.get(name)?)))
    };
    let mut different: BTreeSet<&String> = both()
        .filter(|(_, from, to)| from != to)
        .map(|(name, ..)| name)
        .collect();
    loop {
        let before = different.len();
        for (name, from, _) in both() {
            let mut names_one = false;
            from.for_each_ref(&mut |other| {
                names_one |= different.iter().any(|name| *name == other);
            });
            if names_one {
                different.insert(name);
            }
        }
        if different.len() == before {
            return different;
        }
    }
}

/// Returns the definition that is the same but for its number: two types with one name are `User` and
/// `User2` in the schemas.
fn same_definition<'a>(
    name: &'a str,
    from_server: &Definitions,
    to_server: &Definitions,
) -> Option<&'a str> {
    let first = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let is_same = |view: &Definitions| {
        let own = view.get(name);
        own.is_none() || own == view.get(first)
    };
    (first.len() < name.len() && is_same(from_server) && is_same(to_server)).then_some(first)
}

/// Returns a name that is not taken, and takes it.
pub(super) fn unique(name: &str, taken: &mut BTreeSet<String>) -> String {
    let mut own = name.to_owned();
    let mut number = 2;
    while !taken.insert(own.clone()) {
        own = format!("{name}{number}");
        number += 1;
    }
    own
}

/// Returns the first part of the names of a namespace's interfaces: `OrdersShop` for
/// `/orders/{shop}`, and nothing for `/`.
pub(super) fn namespace(path: &str) -> String {
    let words = path.split(|c: char| !is_word(c));
    let mut name = String::new();
    for word in words.filter(|word| !word.is_empty()) {
        let mut chars = word.chars();
        name.extend(chars.next().into_iter().flat_map(char::to_uppercase));
        name.push_str(chars.as_str());
    }
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        name.insert(0, '_');
    }
    name
}

/// Returns whether a character may be in a name. Other digits than those of ASCII, such as `²`, may
/// not.
fn is_word(c: char) -> bool {
    c.is_alphabetic() || c.is_ascii_digit()
}

/// Makes an identifier of any text.
pub(super) fn identifier(text: &str) -> String {
    let mut name: String = text
        .chars()
        .map(|c| if is_part(c) { c } else { '_' })
        .collect();
    if !name.starts_with(is_start) {
        name.insert(0, '_');
    }
    name
}

/// Returns whether a text may be a property's name without quotes.
pub(super) fn is_identifier(text: &str) -> bool {
    text.starts_with(is_start) && text.chars().all(is_part)
}

/// Returns whether a text may be a parameter's name.
pub(super) fn is_parameter(text: &str) -> bool {
    is_identifier(text) && !RESERVED.contains(&text)
}

const fn is_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || c == '$'
}

const fn is_part(c: char) -> bool {
    is_start(c) || c.is_ascii_digit()
}

/// Names that a declaration must not have, or that the file uses itself.
const RESERVED: [&str; 71] = [
    "Array",
    "ArrayBuffer",
    "Blob",
    "Uint8Array",
    "abstract",
    "any",
    "arguments",
    "as",
    "async",
    "await",
    "bigint",
    "boolean",
    "break",
    "case",
    "catch",
    "class",
    "const",
    "continue",
    "debugger",
    "declare",
    "default",
    "delete",
    "do",
    "else",
    "enum",
    "eval",
    "export",
    "extends",
    "false",
    "finally",
    "for",
    "function",
    "if",
    "implements",
    "import",
    "in",
    "infer",
    "instanceof",
    "interface",
    "intrinsic",
    "keyof",
    "let",
    "never",
    "new",
    "null",
    "number",
    "object",
    "package",
    "private",
    "protected",
    "public",
    "readonly",
    "return",
    "static",
    "string",
    "super",
    "switch",
    "symbol",
    "this",
    "throw",
    "true",
    "try",
    "typeof",
    "undefined",
    "unique",
    "unknown",
    "var",
    "void",
    "while",
    "with",
    "yield",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::model::View::{FromServer, ToServer};

    fn reference(name: &str) -> Type {
        Type::Array(Box::new(Type::Ref(name.into())))
    }

    #[test]
    fn a_suffix_is_only_where_the_views_differ() {
        let from_server: Definitions = [
            ("Same".into(), Type::String),
            ("User".into(), Type::String),
            ("Users".into(), reference("User")),
            ("Sent".into(), reference("Users")),
        ]
        .into();
        let to_server: Definitions = [
            ("Same".into(), Type::String),
            ("User".into(), Type::Number),
            ("Users".into(), reference("User")),
        ]
        .into();
        let names = Names::new(&from_server, &to_server, BTreeSet::new(), |_, _, _| true);
        assert_eq!(names.get(FromServer, "Same"), "Same");
        assert_eq!(names.get(ToServer, "Same"), "Same");
        assert_eq!(names.get(FromServer, "User"), "UserFromServer");
        assert_eq!(names.get(ToServer, "User"), "UserToServer");
        assert_eq!(names.get(ToServer, "Users"), "UsersToServer");
        assert_eq!(names.get(FromServer, "Sent"), "Sent");
    }

    #[test]
    fn names_are_unique_identifiers() {
        let definitions: Definitions = [
            ("Page<User>".into(), Type::String),
            ("Page_User_".into(), Type::Number),
            ("Blob".into(), Type::Number),
            ("3D".into(), Type::Number),
        ]
        .into();
        let taken = BTreeSet::from(["_3D".to_owned()]);
        let names = Names::new(&definitions, &Definitions::new(), taken, |_, _, _| true);
        assert_eq!(names.get(FromServer, "Page<User>"), "Page_User_");
        assert_eq!(names.get(FromServer, "Page_User_"), "Page_User_2");
        assert_eq!(names.get(FromServer, "Blob"), "Blob2");
        assert_eq!(names.get(FromServer, "3D"), "_3D2");
    }

    #[test]
    fn equal_types_of_two_modules_are_one() {
        let definitions: Definitions = [
            ("User".into(), Type::String),
            ("User2".into(), Type::String),
            ("User3".into(), Type::Number),
        ]
        .into();
        let is_same = |schemas: bool| {
            let taken = BTreeSet::new();
            Names::new(&definitions, &Definitions::new(), taken, |_, _, _| schemas)
        };
        let names = is_same(true);
        assert_eq!(names.get(FromServer, "User2"), "User");
        assert_eq!(names.get(FromServer, "User3"), "User3");
        // One may be an `u8` and the other one an `u32`, both of which are a `number`.
        assert_eq!(is_same(false).get(FromServer, "User2"), "User2");
    }

    #[test]
    fn namespaces_are_named_by_their_paths() {
        assert_eq!(namespace("/"), "");
        assert_eq!(namespace("/chat"), "Chat");
        assert_eq!(namespace("/orders/{shop}"), "OrdersShop");
        assert_eq!(namespace("/live-scores_2"), "LiveScores2");
        assert_eq!(namespace("/2"), "_2");
        assert_eq!(namespace("/größe-m²"), "GrößeM");
    }
}
