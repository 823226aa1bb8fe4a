//! What the compiler says of a wrong handler.
//!
//! The words are those of one compiler; others say the same in other lines. After a change,
//! `TRYBUILD=overwrite cargo test --test ui` writes them anew.

use std::process::Command;

/// The compiler whose words the files have.
const COMPILER: &str = "rustc 1.95.";

#[test]
fn a_wrong_handler_is_told_what_is_wrong() {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc).arg("--version").output();
    let version = version.expect("the compiler tells its version").stdout;
    if !version.starts_with(COMPILER.as_bytes()) {
        // `tests/run` sets it: there a test that is skipped has failed.
        assert!(std::env::var_os("NO_SKIP").is_none(), "not {COMPILER}");
        eprintln!("skipped: not {COMPILER}");
        return;
    }
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
