//! Counts of all clients of this process.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Map, Value, json};

macro_rules! totals {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts of all clients.
        #[derive(Default)]
        pub(crate) struct Totals {
            $($(#[$doc])* pub(crate) $name: Total,)*
        }

        impl Totals {
            const fn new() -> Self {
                Self { $($name: Total::new(),)* }
            }

            fn to_json(&self) -> Map<String, Value> {
                let mut json = Map::new();
                $(json.insert(stringify!($name).to_owned(), json!(self.$name.count()));)*
                json
            }
        }
    };
}

totals! {
    /// Clients that are connected and have got the numbers of the server.
    connected,
    opened,
    upgraded,
    recovered,
    /// Clients that came back in time and were not recovered.
    not_recovered,
    /// Upgrades that exceeded the upgrade timeout of the server, and clients whose last event was
    /// too old for recovery. Both happen on a machine that is busy with other work.
    too_late,
    left_cleanly,
    reset,
    polls_aborted,
    said,
    acknowledged,
    /// Events of the server of all kinds.
    heard,
    moves,
    lost,
    duplicated,
    reordered,
    /// Violations of the protocol or of the rules of this application, and connections that the
    /// server has closed.
    unexpected,
}

pub(crate) static TOTALS: Totals = Totals::new();

#[derive(Default)]
pub(crate) struct Total(AtomicU64);

impl Total {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn subtract(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts something unexpected, and prints the first 20.
pub(crate) fn unexpected(what: &str) {
    TOTALS.unexpected.add(1);
    if TOTALS.unexpected.count() <= 20 {
        eprintln!("unexpected: {what}");
    }
}

/// Each bucket is 5 % wider than the previous one. The last bucket begins at 17 minutes.
const BUCKETS: usize = 426;

/// The times from an event to its acknowledgement.
pub(crate) struct Times {
    buckets: [u64; BUCKETS],
    longest: Duration,
}

impl Times {
    const fn new() -> Self {
        Self {
            buckets: [0; BUCKETS],
            longest: Duration::ZERO,
        }
    }

    fn add(&mut self, time: Duration) {
        let bucket = (time.as_micros().max(1) as f64).ln() / 1.05_f64.ln();
        self.buckets[(bucket as usize).min(BUCKETS - 1)] += 1;
        self.longest = self.longest.max(time);
    }

    /// Returns the time in milliseconds that this share of the times does not exceed.
    fn quantile(&self, share: f64) -> f64 {
        let mut rest = (self.buckets.iter().sum::<u64>() as f64 * share).ceil() as u64;
        for (bucket, count) in (1..).zip(self.buckets) {
            if count >= rest {
                return 1.05_f64.powi(bucket) / 1e3;
            }
            rest -= count;
        }
        self.longest.as_secs_f64() * 1e3
    }

    fn to_json(&self) -> Value {
        json!({
            "p50": self.quantile(0.5),
            "p99": self.quantile(0.99),
            "max": self.longest.as_secs_f64() * 1e3,
        })
    }
}

/// The times since the last report, and all times.
static TIMES: Mutex<[Times; 2]> = Mutex::new([Times::new(), Times::new()]);

pub(crate) fn acknowledged_after(time: Duration) {
    TOTALS.acknowledged.add(1);
    let mut times = TIMES.lock().expect("no panic");
    times.iter_mut().for_each(|times| times.add(time));
}

/// Returns a line of JSON for `benches/soak/run`.
pub(crate) fn report(is_last: bool) -> String {
    let mut times = TIMES.lock().expect("no panic");
    let mut report = TOTALS.to_json();
    report.insert("last".to_owned(), json!(is_last));
    report.insert("echo".to_owned(), times[usize::from(is_last)].to_json());
    times[0] = Times::new();
    Value::from(report).to_string()
}
