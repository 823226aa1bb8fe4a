//! A wrong handler does not compile, and the error message uses the crate's own words.
//!
//! Each file in `tests/ui` is a program. A comment `//~ TEXT` at the end of a line expects an error
//! at this line whose message or code contains TEXT. A comment `//~| TEXT` in a line below expects
//! TEXT in the label or a note of this error. Other errors fail the test. The test ignores the
//! compiler's own words, which change from release to release, and whether the error points at a
//! part of `debug_handler!` or at the whole macro.

use std::ffi::OsString;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// The crates that the programs use.
const CRATES: [&str; 3] = ["axum", "serde", "tower_socketio"];

macro_rules! features {
    ($($name:literal)*) => {
        [$(($name, cfg!(feature = $name))),*]
    };
}

/// All features of the crate, and whether this test was built with them.
const FEATURES: [(&str, bool); 12] = features![
    "admin-ui" "metrics" "msgpack" "postgres" "rate-limit" "redis" "redis-cluster" "schema" "wire"
    "testing" "zlib-rs" "unstable-internals"
];

#[test]
fn the_list_of_features_is_complete() {
    let manifest = include_str!("../Cargo.toml");
    let (_, features) = manifest.split_once("[features]").expect("the features");
    let (features, _) = features.split_once("\n[").expect("the next section");
    let names = features
        .lines()
        .filter_map(|line| line.split_once(" = "))
        .filter(|(name, _)| !name.starts_with('#'));
    let names: Vec<_> = names.map(|(name, _)| name).collect();
    assert_eq!(names, FEATURES.map(|(name, _)| name));
}

#[test]
fn a_wrong_handler_has_a_clear_error_message() {
    let compiler = Compiler::of_this_test();
    let mut programs: Vec<PathBuf> = fs::read_dir(root().join("tests/ui"))
        .expect("the programs")
        .map(|entry| entry.expect("a program").path())
        .collect();
    programs.sort();
    assert!(programs.len() > 10, "only {programs:?}");

    let faults: Vec<String> = std::thread::scope(|scope| {
        let compiler = &compiler;
        let checks: Vec<_> = programs
            .iter()
            .map(|program| scope.spawn(move || compiler.check(program)))
            .collect();
        let faults = checks
            .into_iter()
            .map(|check| check.join().expect("no panic"));
        faults.flatten().collect()
    });
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The compiler and the libraries that this test was built with.
struct Compiler {
    rustc: OsString,
    libraries: Vec<(String, PathBuf)>,
}

impl Compiler {
    /// Asks cargo for the paths of the libraries. Cargo has built them already, unless this test
    /// was built in an unusual way.
    fn of_this_test() -> Self {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.current_dir(root()).args([
            "test",
            "--quiet",
            "--no-run",
            "--test=ui",
            "--message-format=json",
        ]);
        // With other features than those of this test, cargo would build it all again.
        let enabled = FEATURES.iter().filter(|(_, is_enabled)| *is_enabled);
        command.args(enabled.map(|(name, _)| format!("--features={name}")));
        let built = command.stderr(Stdio::inherit()).output().expect("cargo");
        assert!(built.status.success(), "the libraries are not built");
        let libraries = json_lines(&built.stdout).filter_map(|message| {
            let name = message["target"]["name"].as_str()?.replace('-', "_");
            let files = message["filenames"].as_array()?;
            let files = files.iter().filter_map(Value::as_str);
            let library = files.into_iter().find(|file| file.ends_with(".rlib"))?;
            CRATES
                .contains(&&*name)
                .then(|| (name, PathBuf::from(library)))
        });
        Self {
            rustc: std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()),
            libraries: libraries.collect(),
        }
    }

    /// Returns the differences between the program's errors and its comments.
    fn check(&self, program: &Path) -> Vec<String> {
        let name = program.file_name().expect("a file").to_string_lossy();
        let text = fs::read_to_string(program).expect("the program");
        let expected = expectations(&text);
        let errors = self.errors(program);

        let missing = expected.iter().filter_map(|expected| {
            let there = errors.iter().filter(|error| error.is_at(expected));
            let mut unsaid = there.map(|error| error.unsaid(expected));
            match unsaid.next() {
                None => Some(format!(
                    "{name}:{}: no error `{}`",
                    expected.line, expected.text
                )),
                Some(unsaid) if unsaid.is_empty() => None,
                Some(unsaid) => Some(format!("{name}:{}: not said: {unsaid:?}", expected.line)),
            }
        });
        // Some compilers report an error twice, the second time for the whole macro.
        let unexpected = errors.iter().filter_map(|error| {
            let is_expected = expected.iter().any(|expected| error.says(&expected.text));
            (!is_expected).then(|| format!("{name}: an error too many:\n{}", error.rendered))
        });
        missing.chain(unexpected).collect()
    }

    fn errors(&self, program: &Path) -> Vec<Diagnostic> {
        let mut command = Command::new(&self.rustc);
        command.current_dir(root()).arg(program).args([
            "--edition=2024",
            "--crate-type=bin",
            "--emit=metadata",
            "--error-format=json",
            "--out-dir",
            env!("CARGO_TARGET_TMPDIR"),
        ]);
        for (name, library) in &self.libraries {
            let folder = library.parent().expect("a folder").display();
            command.arg(format!("-Ldependency={folder}"));
            // Cargo lists some libraries in a folder that does not hold their dependencies.
            command.arg(format!("-Ldependency={folder}/deps"));
            command.arg(format!("--extern={name}={}", library.display()));
        }
        let output = command.output().expect("the compiler");
        let errors = json_lines(&output.stderr).filter(|message| message["level"] == "error");
        errors.filter_map(|error| Diagnostic::new(&error)).collect()
    }
}

fn json_lines(output: &[u8]) -> impl Iterator<Item = Value> {
    let lines = output.split(|byte| *byte == b'\n');
    lines.filter_map(|line| serde_json::from_slice(line).ok())
}

struct Expected {
    line: u64,
    text: String,
    details: Vec<String>,
}

fn expectations(program: &str) -> Vec<Expected> {
    let mut all: Vec<Expected> = Vec::new();
    for (line, text) in (1..).zip(program.lines()) {
        let Some((_, comment)) = text.split_once("//~") else {
            continue;
        };
        match comment.strip_prefix('|') {
            Some(detail) => {
                let last = all.last_mut().expect("a detail follows an error");
                last.details.push(detail.trim().to_owned());
            }
            None => all.push(Expected {
                line,
                text: comment.trim().to_owned(),
                details: Vec::new(),
            }),
        }
    }
    all
}

struct Diagnostic {
    /// The lines of the program that the error points at.
    lines: Vec<RangeInclusive<u64>>,
    /// The message and the error code.
    message: String,
    /// The labels and the notes.
    details: String,
    rendered: String,
}

impl Diagnostic {
    /// Returns `None` for "aborting due to 2 previous errors".
    fn new(json: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let spans = json["spans"].as_array()?;
        let primary = spans.iter().filter(|span| span["is_primary"] == true);
        let lines: Vec<_> = primary.filter_map(lines_of).collect();
        let labels = spans.iter().map(|span| text(&span["label"]));
        let notes = json["children"].as_array()?.iter();
        let notes = notes.map(|note| text(&note["message"]));
        let details: Vec<String> = labels.chain(notes).collect();
        (!lines.is_empty()).then(|| Self {
            lines,
            message: format!("{} {}", text(&json["message"]), text(&json["code"]["code"])),
            details: details.join("\n"),
            rendered: text(&json["rendered"]),
        })
    }

    fn is_at(&self, expected: &Expected) -> bool {
        let mut lines = self.lines.iter();
        lines.any(|lines| lines.contains(&expected.line)) && self.says(&expected.text)
    }

    fn says(&self, text: &str) -> bool {
        self.message.contains(text)
    }

    fn unsaid<'a>(&self, expected: &'a Expected) -> Vec<&'a String> {
        let details = expected.details.iter();
        details
            .filter(|detail| !self.details.contains(&***detail))
            .collect()
    }
}

/// Returns the lines of the program that a span covers. For a span inside a macro these are the
/// lines of the macro's call.
fn lines_of(span: &Value) -> Option<RangeInclusive<u64>> {
    let file = span["file_name"].as_str()?;
    if Path::new(file).parent()?.ends_with("tests/ui") {
        return Some(span["line_start"].as_u64()?..=span["line_end"].as_u64()?);
    }
    lines_of(&span["expansion"]["span"])
}
