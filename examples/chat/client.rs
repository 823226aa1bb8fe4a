//! The official client, for the pages of the examples.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Returns the path of the official client's bundle below cargo's target directory. If the bundle
/// is missing, npm fetches it.
pub(crate) fn bundle() -> PathBuf {
    let folder = target().join("chat");
    let bundle = folder.join("node_modules/socket.io-client/dist/socket.io.min.js");
    if !bundle.exists() {
        let npm = if cfg!(windows) { "npm.cmd" } else { "npm" };
        // Without retries: on a machine without a network the chat starts all the same.
        let install = "install --no-save --ignore-scripts --no-audit --no-fund --fetch-retries=0";
        let status = Command::new(npm)
            .args(install.split(' '))
            .arg("--prefix")
            .arg(&folder)
            .arg("socket.io-client@4.8.3")
            .status();
        if !status.is_ok_and(|status| status.success()) {
            let place = bundle.display();
            eprintln!("npm could not fetch the client: the browser loads it from cdn.socket.io;");
            eprintln!("to work offline, put socket.io.min.js (4.8.3) at {place}");
        }
    }
    bundle
}

/// Returns cargo's target directory. The program is `debug/examples/chat` in it.
fn target() -> PathBuf {
    let program = env::current_exe().unwrap_or_default();
    let target = program.ancestors().nth(3);
    target.unwrap_or(Path::new("target")).to_path_buf()
}
