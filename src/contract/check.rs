//! The contract of a server, and what can be wrong with it.

use std::collections::BTreeSet;
use std::path::Path;
use std::{env, fs};

use super::declared::{Declaration, Declarations};
use super::views::{Model, model};
use super::{ContractError, asyncapi, typescript};

/// The contract of a server: the events that its namespaces declare.
///
/// [`SocketIoBuilder::contract`](crate::SocketIoBuilder::contract) returns it.
///
/// Every method first checks what can be seen without running the server. It fails if
///
/// - a namespace that declares events has a handler of an event that it does not declare, or
///   declares to receive an event that has no handler, unless there is a
///   [fallback](crate::Namespace::fallback);
/// - one event is declared with two types in one direction of a namespace, or handled as another
///   type than it is declared with;
/// - a type cannot be expressed in TypeScript: a 128-bit integer, or a map with keys that are no
///   strings.
///
/// The error names all of these, each with its namespace, type and field.
///
/// A namespace without any declaration is not in the contract, and not checked.
#[derive(Clone, Debug)]
pub struct Contract {
    namespaces: Vec<NamespaceContract>,
}

/// The contract of a namespace.
#[derive(Clone, Debug)]
pub(crate) struct NamespaceContract {
    /// The path, unless a predicate decides which names the namespace has.
    pub(crate) path: Option<String>,
    pub(crate) declared: Declarations,
    /// The names of the events that have a handler.
    pub(crate) handlers: BTreeSet<String>,
    pub(crate) has_fallback: bool,
}

impl Contract {
    /// Creates a contract. Namespaces without declarations are left out.
    pub(crate) fn new(namespaces: impl Iterator<Item = NamespaceContract>) -> Self {
        let has_some = |namespace: &NamespaceContract| !namespace.declared.is_empty();
        Self {
            namespaces: namespaces.filter(has_some).collect(),
        }
    }

    /// Checks the contract.
    ///
    /// # Errors
    ///
    /// Fails if the declarations and the handlers do not agree, or a type cannot be expressed in
    /// TypeScript.
    pub fn check(&self) -> Result<(), ContractError> {
        self.model().map(drop)
    }

    /// Writes the contract as a `.d.ts`, for the generics of the official client.
    ///
    /// The text is the same for the same types, whatever features other crates turn on.
    ///
    /// # Errors
    ///
    /// Fails as [`check`](Self::check) does.
    pub fn typescript(&self) -> Result<String, ContractError> {
        Ok(typescript::write(&self.model()?))
    }

    /// Writes the contract as an AsyncAPI 3 document, as JSON. `title` and `version` are those of
    /// the application.
    ///
    /// # Errors
    ///
    /// Fails as [`check`](Self::check) does.
    pub fn asyncapi(&self, title: &str, version: &str) -> Result<String, ContractError> {
        Ok(asyncapi::write(&self.model()?, title, version))
    }

    /// Asserts, in a test, that a file has the contract as [`typescript`](Self::typescript) writes
    /// it. A relative path begins at the package's root, where `cargo test` runs.
    ///
    /// If the environment variable `UPDATE_CONTRACT` is set, and not to `0`, the file is written
    /// instead. Ends of lines may be those of Windows.
    ///
    /// # Panics
    ///
    /// Panics if the file is missing or differs, or if [`check`](Self::check) fails.
    #[track_caller]
    pub fn assert_typescript(&self, path: impl AsRef<Path>) {
        assert_file(path.as_ref(), self.typescript());
    }

    /// Asserts, in a test, that a file has the contract as [`asyncapi`](Self::asyncapi) writes it.
    ///
    /// It is written as [`assert_typescript`](Self::assert_typescript) says.
    ///
    /// # Panics
    ///
    /// Panics if the file is missing or differs, or if [`check`](Self::check) fails.
    #[track_caller]
    pub fn assert_asyncapi(&self, path: impl AsRef<Path>, title: &str, version: &str) {
        assert_file(path.as_ref(), self.asyncapi(title, version));
    }

    fn model(&self) -> Result<Model, ContractError> {
        ContractError::check(self.namespaces.iter().flat_map(problems).collect())?;
        model(&self.namespaces)
    }
}

/// Returns what is wrong with a namespace, but for its types.
fn problems(namespace: &NamespaceContract) -> Vec<String> {
    let mut problems = Vec::new();
    let place = place(namespace.path.as_deref());
    let declared = &namespace.declared;
    for (direction, declarations) in [("received", &declared.received), ("sent", &declared.sent)] {
        for (first, other) in contradictions(declarations) {
            problems.push(format!(
                "event `{}` is {direction} as `{}` and as `{}` {place}: declare one of them",
                first.name, first.event.name, other.event.name
            ));
        }
    }
    let received = |name: &str| declared.received.iter().find(|event| event.name == name);
    for name in &namespace.handlers {
        let handled = declared.typed_handlers.get(&**name);
        match (received(name), handled) {
            (None, Some(handled)) => problems.push(format!(
                "event `{name}` has a handler {place}, but is not declared: add \
                 `.receives::<{}>()`",
                handled.name
            )),
            (None, None) => problems.push(format!(
                "event `{name}` has a handler {place}, but is not declared: add \
                 `.receives::<…>()` with its type"
            )),
            (Some(event), Some(handled)) if event.event != *handled => problems.push(format!(
                "event `{name}` is declared as `{}` {place}, but its handler reads a `{}`",
                event.event.name, handled.name
            )),
            (Some(_), _) => {}
        }
    }
    for event in &declared.received {
        if !namespace.has_fallback && !namespace.handlers.contains(event.name) {
            problems.push(format!(
                "event `{}` is declared as received {place}, but has no handler: add one, or \
                 remove `.receives::<{}>()`",
                event.name, event.event.name
            ));
        }
    }
    problems
}

/// Returns the pairs of declarations that name one event with two types.
fn contradictions(
    declarations: &[Declaration],
) -> impl Iterator<Item = (&Declaration, &Declaration)> {
    let earlier = |n: usize| declarations[..n].iter();
    let others = declarations.iter().enumerate();
    others.filter_map(move |(n, other)| {
        let first = earlier(n).find(|first| first.name == other.name)?;
        (first.event != other.event).then_some((first, other))
    })
}

/// Names a namespace in a message.
pub(super) fn place(path: Option<&str>) -> String {
    match path {
        Some(path) => format!("in `{path}`"),
        None => "in a namespace of `namespace_if`".to_owned(),
    }
}

#[track_caller]
fn assert_file(path: &Path, text: Result<String, ContractError>) {
    let file = path.display();
    let text = match text {
        Ok(text) => text,
        Err(error) => panic!("the contract for `{file}` cannot be written:\n{error}"),
    };
    if env::var_os("UPDATE_CONTRACT").is_some_and(|value| value != "0" && !value.is_empty()) {
        if let Err(error) = write_file(path, &text) {
            panic!("`{file}` cannot be written: {error}");
        }
        return;
    }
    let found = match fs::read_to_string(path) {
        Ok(found) => found.replace("\r\n", "\n"),
        Err(error) => panic!("`{file}` cannot be read: {error}; {HOW_TO_UPDATE}"),
    };
    if let Some((line, found, wanted)) = first_difference(&found, &text) {
        panic!(
            "`{file}` is not current; {HOW_TO_UPDATE}\nline {line} is      {found}\nand should be \
             {wanted}"
        );
    }
}

const HOW_TO_UPDATE: &str = "run this test with UPDATE_CONTRACT=1 to write it";

fn write_file(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text)
}

/// Returns the first line that differs, its number from 1, and what it should be.
fn first_difference<'a>(found: &'a str, wanted: &'a str) -> Option<(usize, &'a str, &'a str)> {
    if found == wanted {
        return None;
    }
    let mut found = found.split('\n');
    let mut wanted = wanted.split('\n');
    for line in 1.. {
        match (found.next(), wanted.next()) {
            (None, None) => break,
            (found, wanted) if found == wanted => {}
            (found, wanted) => {
                let end = "the end of the file";
                return Some((line, found.unwrap_or(end), wanted.unwrap_or(end)));
            }
        }
    }
    None
}
