//! Tests with generated packets: properties of our parsers, and comparisons with the official
//! parsers.
//!
//! The official parsers run in a process of Node.js, with the packages of `tests/interop/`. So the
//! comparisons run only with `--include-ignored`, which `tests/run` sets. `PACKETS` is the number
//! of packets of each test, 20 000 by default. Another `SEED` gives other packets.

mod chance;
mod deviations;
mod engine;
mod grammar;
mod json;
mod judge;
mod msgpack;
mod packets;
mod splits;
#[path = "../support/mod.rs"]
mod support;
mod tree;
mod value;
mod written;

/// The number of questions in a batch.
const BATCH: usize = 1000;

/// Returns the number of packets that a test generates.
fn how_many() -> usize {
    number("PACKETS", 20_000)
}

/// Returns the seed of the generator, and prints it.
fn seed() -> u64 {
    let seed = number("SEED", 1);
    eprintln!("SEED={seed} PACKETS={}", how_many());
    seed as u64
}

fn number(variable: &str, default: usize) -> usize {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{variable} is not a number: {text}")),
        Err(_) => default,
    }
}
