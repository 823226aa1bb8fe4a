//! Instructions per operation, as callgrind counts them. A busy machine does not change the counts.
//!
//! `cargo bench --bench instructions`, with Valgrind installed. Server and client run in one thread
//! and are counted together. The client's share is small and constant.

#![allow(clippy::print_stdout, reason = "it prints its table")]

use std::process::Command;

use tokio::runtime::Builder;

mod load;

use load::{Load, SCENARIOS};

/// The operations before the count begins, so that tables have grown to their final size.
const WARM_UP: usize = 1_000;
/// The operations that are counted.
const COUNTED: usize = 10_000;

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    // Callgrind runs this program with two arguments.
    if let (Some(scenario), Some(count)) = (args.next(), args.next()) {
        return run(&scenario, count.parse().expect("a number"));
    }
    println!("| scenario | one operation | instructions |");
    println!("|---|---|---:|");
    for (scenario, what) in SCENARIOS {
        println!("| {scenario} | {what} | {:.0} |", instructions(scenario));
    }
}

fn run(scenario: &str, count: usize) {
    let runtime = Builder::new_current_thread().enable_all().build();
    let load = async { Load::new(scenario).await.run(count).await };
    runtime.expect("a runtime").block_on(load);
}

/// Returns the instructions of one operation. The difference of a short and a long run leaves out
/// the start and the end.
fn instructions(scenario: &str) -> f64 {
    let short = callgrind(scenario, WARM_UP);
    let long = callgrind(scenario, WARM_UP + COUNTED);
    (long - short) / COUNTED as f64
}

fn callgrind(scenario: &str, count: usize) -> f64 {
    let program = std::env::current_exe().expect("the path of this program");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args([scenario, &count.to_string()])
        .output()
        .expect("valgrind, from the package of this name");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let line = text.lines().find(|line| line.contains("Collected :"));
    let counted = line.and_then(|line| line.rsplit(' ').next());
    counted
        .and_then(|count| count.parse().ok())
        .expect("a count")
}
