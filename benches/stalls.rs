//! Measures how long hostile input and expensive requests of some clients delay other connections.
//!
//! `RUSTFLAGS="--cfg tokio_unstable" cargo bench --bench stalls --features admin-ui,msgpack [NAME…]`
//!
//! The server has one worker thread. The clients run on another thread, and are connected by
//! in-memory streams. For each scenario the table has two numbers. Both are CPU time of the worker,
//! so they do not depend on other load of the machine:
//!
//! - the longest poll of a task;
//! - the longest wait of a bystander: a task on the same worker that is ready each millisecond,
//!   like the task of another connection.
//!
//! The command fails if a number is above 50 ms. The scenario with a handler that reads a
//! `serde_json::Value` has no gate, because such a value needs a hundred times the memory of its
//! JSON.

#![allow(clippy::print_stdout, reason = "the command prints a table")]

#[cfg(tokio_unstable)]
mod stalled;

/// The maximum time for which a connection may wait for other connections, in milliseconds.
#[cfg(tokio_unstable)]
const GATE: f64 = 50.0;

#[cfg(not(tokio_unstable))]
fn main() {
    println!("say RUSTFLAGS=\"--cfg tokio_unstable\"");
}

#[cfg(tokio_unstable)]
fn main() -> std::process::ExitCode {
    let chosen: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    println!("| what | polls | longest poll, ms | longest wait of a bystander, ms |");
    println!("|---|---:|---:|---:|");
    let mut too_long = Vec::new();
    for scenario in stalled::SCENARIOS {
        let is_chosen = |name: &String| scenario.name.contains(&**name);
        if !chosen.is_empty() && !chosen.iter().any(is_chosen) {
            continue;
        }
        let stall = stalled::measure(scenario.run);
        println!(
            "| {} | {} | {:.1} | {:.1} |",
            scenario.name, stall.polls, stall.poll, stall.wait
        );
        let has_gate = !scenario.name.ends_with("(without a gate)");
        if has_gate && stall.poll.max(stall.wait) > GATE {
            too_long.push(scenario.name);
        }
    }
    for name in &too_long {
        println!("longer than {GATE} ms: {name}");
    }
    std::process::ExitCode::from(u8::from(!too_long.is_empty()))
}
