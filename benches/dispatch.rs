//! Whole operations in one process, over an in-memory stream: `cargo bench --bench dispatch`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Builder;

mod load;

use load::{Load, SCENARIOS};

/// The operations of one sample.
const OPERATIONS: usize = 1_000;

fn operations(c: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let mut group = c.benchmark_group("operations");
    group.throughput(Throughput::Elements(OPERATIONS as u64));
    group.sample_size(20);
    for (scenario, _) in SCENARIOS {
        let mut load = runtime.block_on(Load::new(scenario));
        group.bench_function(scenario, |b| {
            b.iter(|| runtime.block_on(load.run(OPERATIONS)));
        });
    }
}

criterion_group!(benches, operations);
criterion_main!(benches);
