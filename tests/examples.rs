//! Each example starts and serves a client.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// A running example. It is killed when the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns the path of an example. Cargo builds examples beside the tests:
/// `…/deps/examples-123` and `…/examples/hello`.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let profile = test.ancestors().nth(2).expect("the profile's folder");
    let name = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    profile.join("examples").join(name)
}

/// Starts an example on a free port, reads the port from its output, and returns its response to a
/// handshake.
fn handshake(name: &str) -> String {
    let mut command = Command::new(example(name));
    let child = command.arg("0").stderr(Stdio::piped()).spawn();
    let mut running = Running(child.expect("the example, built by `cargo build --examples`"));

    let mut line = String::new();
    let stderr = running.0.stderr.take().expect("it is piped");
    let mut stderr = BufReader::new(stderr);
    stderr.read_line(&mut line).expect("a line");
    let address = line.trim().rsplit('/').next().expect("an address");

    let mut stream = TcpStream::connect(address).expect("a listener");
    let request = "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\n\
                   host: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("it answers");
    response
}

fn takes_a_client(name: &str) {
    let response = handshake(name);
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    assert!(response.contains("\r\n\r\n0{\"sid\":"), "{response}");
}

#[test]
fn hello() {
    takes_a_client("hello");
}

#[test]
fn graceful_shutdown() {
    takes_a_client("graceful_shutdown");
}

#[test]
fn recovery() {
    takes_a_client("recovery");
}

#[test]
fn rooms() {
    takes_a_client("rooms");
}

#[test]
fn acks() {
    takes_a_client("acks");
}

#[cfg(feature = "schema")]
#[test]
fn typed() {
    takes_a_client("typed");
}

#[cfg(feature = "metrics")]
#[test]
fn metrics() {
    takes_a_client("metrics");
}

#[test]
fn state_and_auth() {
    takes_a_client("state_and_auth");
}

#[test]
fn middleware() {
    takes_a_client("middleware");
}

#[test]
fn session_expiry() {
    takes_a_client("session_expiry");
}

#[test]
fn audit() {
    takes_a_client("audit");
}

#[cfg(feature = "rate-limit")]
#[test]
fn rate_limit() {
    takes_a_client("rate_limit");
}
