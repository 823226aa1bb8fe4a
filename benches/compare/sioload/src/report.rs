//! Measuring windows and the JSON line that a scenario prints.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    ffi::OsString,
    net::SocketAddr,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use crate::{
    net::Net,
    probe::{self, Counters},
};

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The context that every scenario gets.
pub struct Ctx {
    pub server: String,
    pub pid: libc::pid_t,
    /// The cores of the server and of the load.
    pub cores: BTreeSet<usize>,
    pub addr: SocketAddr,
    pub warmup: Duration,
    pub secs: Duration,
    /// Whether the load polls without sleeping in the measured windows.
    pub spin: bool,
    pub counters: Option<Counters>,
}

/// The number of failed checks, and a description of the first one.
#[derive(Debug, Default)]
pub struct Errors {
    pub count: u64,
    pub first: Option<String>,
}

impl Errors {
    pub fn add(&mut self, why: impl FnOnce() -> String) {
        self.add_many(1, why);
    }

    pub fn add_many(&mut self, n: u64, why: impl FnOnce() -> String) {
        if n > 0 {
            self.count += n;
            self.first.get_or_insert_with(why);
        }
    }
}

/// A measuring window over the server process.
pub struct Meter {
    start: Instant,
    cpu: Duration,
    user_sys: (f64, f64),
    idle: Duration,
    others: Others,
    threads: BTreeMap<OsString, f64>,
    counters: Option<[u64; probe::COUNTER_NAMES.len()]>,
}

pub struct Usage {
    pub wall_s: f64,
    pub cpu_s: f64,
    pub user_s: f64,
    pub sys_s: f64,
    /// The fraction of the window in which the load did not wait for the server.
    pub load_busy: f64,
    /// The CPU time of other processes on the cores, divided by the length of the window.
    pub contended: f64,
    /// The fraction of the window in which each thread of the server ran, the busiest first.
    pub threads: Vec<f64>,
    pub counters: BTreeMap<&'static str, u64>,
}

/// The CPU time of other processes on the cores: the total, less that of the server and the load.
/// The time for which the server or the load waits for a core is not a measure of other processes,
/// because they may wait for each other.
struct Others {
    busy: Duration,
    own: Duration,
}

impl Others {
    fn read(ctx: &Ctx) -> Result<Self> {
        let load = probe::cpu_time(std::process::id() as libc::pid_t)?;
        Ok(Self {
            busy: probe::busy(&ctx.cores)?,
            own: probe::cpu_time(ctx.pid)? + load,
        })
    }

    fn since(&self, before: &Self) -> Duration {
        (self.busy - before.busy).saturating_sub(self.own - before.own)
    }
}

impl Meter {
    pub fn start(ctx: &Ctx, net: &Net) -> Result<Self> {
        Ok(Self {
            counters: ctx.counters.as_ref().map(Counters::read).transpose()?,
            user_sys: probe::user_sys(ctx.pid)?,
            threads: probe::threads(ctx.pid)?,
            idle: net.idle(),
            others: Others::read(ctx)?,
            cpu: probe::cpu_time(ctx.pid)?,
            start: Instant::now(),
        })
    }

    pub fn finish(self, ctx: &Ctx, net: &Net) -> Result<Usage> {
        let wall = self.start.elapsed();
        let cpu = probe::cpu_time(ctx.pid)?;
        let idle = net.idle() - self.idle;
        let others = Others::read(ctx)?;
        let user_sys = probe::user_sys(ctx.pid)?;
        let threads = self.busy_threads(&probe::threads(ctx.pid)?, wall);
        let counters = match (&ctx.counters, self.counters) {
            (Some(file), Some(before)) => probe::counter_delta(&before, &file.read()?),
            _ => BTreeMap::new(),
        };
        Ok(Usage {
            wall_s: wall.as_secs_f64(),
            cpu_s: (cpu - self.cpu).as_secs_f64(),
            user_s: user_sys.0 - self.user_sys.0,
            sys_s: user_sys.1 - self.user_sys.1,
            // The kernel's count of a core's time is too coarse for a shorter window.
            contended: if wall.as_secs_f64() < 0.5 {
                0.0
            } else {
                others.since(&self.others).as_secs_f64() / wall.as_secs_f64()
            },
            threads,
            load_busy: (1.0 - idle.as_secs_f64() / wall.as_secs_f64()).max(0.0),
            counters,
        })
    }

    fn busy_threads(&self, now: &BTreeMap<OsString, f64>, wall: Duration) -> Vec<f64> {
        let part = |(id, cpu): (&OsString, &f64)| {
            let cpu = cpu - self.threads.get(id).unwrap_or(&0.0);
            round(cpu / wall.as_secs_f64(), 2)
        };
        let mut parts: Vec<f64> = now.iter().map(part).filter(|p| *p >= 0.01).collect();
        parts.sort_by(|a, b| b.total_cmp(a));
        parts
    }
}

/// Returns a histogram of latencies in nanoseconds, up to a minute.
pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("constant bounds are valid")
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

/// A line of output. Fields that a scenario does not set are null.
pub struct Line(Map<String, Value>);

impl Line {
    pub fn new(ctx: &Ctx, scenario: &str) -> Self {
        let mut map = Map::new();
        map.insert("server".into(), ctx.server.clone().into());
        map.insert("scenario".into(), scenario.into());
        for field in [
            "ops",
            "wall_s",
            "server_cpu_s",
            "cpu_us_per_op",
            "ops_per_s",
            "p50_us",
            "p99_us",
            "rss_kib",
            "rss_per_conn_kib",
            "errors",
        ] {
            map.insert(field.into(), Value::Null);
        }
        map.insert("load_avg".into(), json!(probe::load_average()));
        Self(map)
    }

    pub fn set(&mut self, field: &str, value: impl Into<Value>) -> &mut Self {
        self.0.insert(field.into(), value.into());
        self
    }

    pub fn set_f(&mut self, field: &str, value: f64, digits: i32) -> &mut Self {
        self.set(field, round(value, digits))
    }

    pub fn usage(&mut self, ops: u64, usage: &Usage) -> &mut Self {
        self.set("ops", ops)
            .set_f("wall_s", usage.wall_s, 3)
            .set_f("server_cpu_s", usage.cpu_s, 4)
            .set_f("server_user_s", usage.user_s, 2)
            .set_f("server_sys_s", usage.sys_s, 2)
            .set_f("load_busy", usage.load_busy, 2)
            .set_f("contended", usage.contended, 3)
            .set("threads", usage.threads.clone())
            .set_f("ops_per_s", ops as f64 / usage.wall_s, 0);
        if ops > 0 {
            let us = usage.cpu_s * 1e6 / ops as f64;
            self.set_f("cpu_us_per_op", us, 3);
            // User and system time are known in ticks only, their sum exactly.
            let ticks = usage.user_s + usage.sys_s;
            if ticks > 0.0 {
                self.set_f("user_us_per_op", us * usage.user_s / ticks, 3);
            }
            if !usage.counters.is_empty() {
                let per_op: Map<String, Value> = usage
                    .counters
                    .iter()
                    .map(|(name, n)| ((*name).into(), round(*n as f64 / ops as f64, 4).into()))
                    .collect();
                self.set("calls_per_op", per_op);
            }
        }
        self
    }

    pub fn latency(&mut self, histogram: &Histogram<u64>) -> &mut Self {
        if histogram.is_empty() {
            return self;
        }
        let us = |q| histogram.value_at_quantile(q) as f64 / 1e3;
        self.set_f("p50_us", us(0.5), 1)
            .set_f("p99_us", us(0.99), 1)
            .set_f("max_us", histogram.max() as f64 / 1e3, 1)
    }

    pub fn memory(&mut self, memory: &probe::Memory) -> &mut Self {
        self.set("rss_kib", memory.rss_kib)
            .set("pss_kib", memory.pss_kib)
            .set("private_kib", memory.private_kib)
            .set("peak_kib", memory.peak_kib)
    }

    pub fn errors(&mut self, errors: &Errors) -> &mut Self {
        self.set("errors", errors.count);
        if let Some(first) = &errors.first {
            self.set("first_error", first.clone());
        }
        self
    }

    pub fn print(&self) {
        println!("{}", Value::Object(self.0.clone()));
    }
}
