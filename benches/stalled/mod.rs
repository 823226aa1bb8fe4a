//! The scenarios of the bench `stalls`, and the measurement of a scenario.

mod client;
mod scenarios;

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cpu_time::ThreadTime;
use tokio::runtime::Builder;

pub(crate) use self::scenarios::SCENARIOS;

/// A scenario, and its name in the table.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) run: fn(Meter) -> Pin<Box<dyn Future<Output = ()>>>,
}

/// The result of a scenario, in milliseconds.
pub(crate) struct Stall {
    pub(crate) polls: u64,
    pub(crate) poll: f64,
    pub(crate) wait: f64,
}

/// The measurements since the last [`Meter::start`].
#[derive(Clone, Default)]
pub(crate) struct Meter(Arc<Measured>);

#[derive(Default)]
struct Measured {
    runs: AtomicBool,
    polls: AtomicU64,
    /// In nanoseconds.
    poll: AtomicU64,
    wait: AtomicU64,
}

impl Meter {
    /// Starts the measurement, after the preparation of a scenario.
    pub(crate) async fn start(&self) {
        // Polls that have begun before do not count.
        tokio::time::sleep(Duration::from_millis(50)).await;
        for counter in [&self.0.polls, &self.0.poll, &self.0.wait] {
            counter.store(0, Ordering::Relaxed);
        }
        self.0.runs.store(true, Ordering::Relaxed);
    }

    /// Ends the measurement, after a pause in which the remaining work ends.
    pub(crate) async fn stop(&self) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.0.runs.store(false, Ordering::Relaxed);
    }

    fn runs(&self) -> bool {
        self.0.runs.load(Ordering::Relaxed)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

thread_local! {
    /// The beginning of the current poll.
    static BEGIN: Cell<Option<ThreadTime>> = const { Cell::new(None) };
    /// The beginning of the wait of [`stand_by`]. Its task always runs on the same worker, because
    /// there is only one.
    static WAIT: Cell<Option<ThreadTime>> = const { Cell::new(None) };
}

/// Measures a scenario on a new runtime.
pub(crate) fn measure(run: fn(Meter) -> Pin<Box<dyn Future<Output = ()>>>) -> Stall {
    let meter = Meter::default();
    let measured = Arc::clone(&meter.0);
    let after = meter.clone();
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .on_before_task_poll(|_| BEGIN.set(Some(ThreadTime::now())))
        .on_after_task_poll(move |_| {
            let took = BEGIN.take().map(|begin| begin.elapsed());
            if let Some(took) = took.filter(|_| after.runs()) {
                after.0.polls.fetch_add(1, Ordering::Relaxed);
                after.0.poll.fetch_max(nanos(took), Ordering::Relaxed);
            }
        })
        .build()
        .expect("a runtime");
    runtime.spawn(stand_by(meter.clone()));
    runtime.block_on(run(meter));
    runtime.shutdown_background();
    let ms = |nanos: &AtomicU64| nanos.load(Ordering::Relaxed) as f64 / 1e6;
    Stall {
        polls: measured.polls.load(Ordering::Relaxed),
        poll: ms(&measured.poll),
        wait: ms(&measured.wait),
    }
}

/// The bystander: sleeps for a millisecond at a time, and measures the CPU time of the worker until
/// it runs again.
async fn stand_by(meter: Meter) {
    loop {
        WAIT.set(Some(ThreadTime::now()));
        tokio::time::sleep(Duration::from_millis(1)).await;
        let waited = WAIT.take().map(|begin| begin.elapsed());
        if let Some(waited) = waited.filter(|_| meter.runs()) {
            meter.0.wait.fetch_max(nanos(waited), Ordering::Relaxed);
        }
    }
}
