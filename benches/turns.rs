//! The CPU time that a task holds its worker before other tasks can run.
//!
//! `RUSTFLAGS="--cfg tokio_unstable" cargo bench --bench turns`: tokio has the hooks around each
//! poll of a task only with this flag. The server has one worker thread. The clients use in-memory
//! streams and run on another thread.

#![allow(clippy::print_stdout, reason = "it prints its table")]

#[cfg(tokio_unstable)]
mod load;

/// Each scenario, its operation, and the number of operations.
#[cfg(tokio_unstable)]
const SCENARIOS: [(&str, &str, usize); 4] = [
    ("echo16", "events of one client, 16 under way", 100_000),
    ("flood", "events of one client, 8 000 at once", 800_000),
    ("broadcast", "messages to 1 000 clients", 500_000),
    (
        "crowd",
        "messages to 10 000 clients, the first one too",
        500_000,
    ),
];

#[cfg(not(tokio_unstable))]
fn main() {
    println!("say RUSTFLAGS=\"--cfg tokio_unstable\"");
}

#[cfg(tokio_unstable)]
fn main() {
    println!("| what | turns | longer than 0.5 ms | than 1 ms | longest, ms |");
    println!("|---|---:|---:|---:|---:|");
    for (scenario, what, count) in SCENARIOS {
        let turns = turns::of(scenario, count);
        let over = |ms: f64| turns.iter().filter(|turn| **turn > ms).count();
        let longest = turns.iter().copied().fold(0.0, f64::max);
        println!(
            "| {what} | {} | {} | {} | {longest:.2} |",
            turns.len(),
            over(0.5),
            over(1.0)
        );
    }
}

#[cfg(tokio_unstable)]
mod turns {
    use std::cell::Cell;
    use std::sync::{Arc, Mutex};

    use cpu_time::ThreadTime;
    use tokio::runtime::Builder;

    use super::load::Load;

    thread_local! {
        static BEGIN: Cell<Option<ThreadTime>> = const { Cell::new(None) };
    }

    /// Returns the milliseconds of each poll of a task.
    pub(crate) fn of(scenario: &str, count: usize) -> Vec<f64> {
        let turns = Arc::new(Mutex::new(Vec::new()));
        let ended = Arc::clone(&turns);
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .on_before_task_poll(|_| BEGIN.set(Some(ThreadTime::now())))
            .on_after_task_poll(move |_| {
                let took = BEGIN.take().map(|begin| begin.elapsed());
                let took = took.unwrap_or_default().as_secs_f64() * 1000.0;
                ended.lock().expect("no panic under it").push(took);
            })
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let mut load = Load::new(scenario).await;
            // The connects of the clients do not count.
            turns.lock().expect("no panic under it").clear();
            load.run(count).await;
        });
        std::mem::take(&mut turns.lock().expect("no panic under it"))
    }
}
