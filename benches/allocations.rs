//! Allocations per operation: `cargo bench --bench allocations`.
//!
//! Server and client run in one thread and are counted together. The client's share is small and
//! constant.

#![allow(clippy::print_stdout, reason = "it prints its table")]

use tokio::runtime::Builder;

mod load;

use load::{Load, SCENARIOS};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// The operations before the count begins, so that tables have grown to their final size.
const WARM_UP: usize = 1_000;
/// The operations that are counted.
const COUNTED: usize = 10_000;

fn main() {
    println!("| scenario | one operation | allocations | bytes |");
    println!("|---|---|---:|---:|");
    for (scenario, what) in SCENARIOS {
        let (allocations, bytes) = allocations(scenario);
        println!("| {scenario} | {what} | {allocations:.2} | {bytes:.0} |");
    }
}

fn allocations(scenario: &str) -> (f64, f64) {
    let profiler = dhat::Profiler::builder().testing().build();
    let runtime = Builder::new_current_thread().enable_all().build();
    let counted = runtime.expect("a runtime").block_on(async {
        let mut load = Load::new(scenario).await;
        load.run(WARM_UP).await;
        let before = dhat::HeapStats::get();
        let operations = load.run(COUNTED).await as f64;
        let after = dhat::HeapStats::get();
        (
            (after.total_blocks - before.total_blocks) as f64 / operations,
            (after.total_bytes - before.total_bytes) as f64 / operations,
        )
    });
    drop(profiler);
    counted
}
