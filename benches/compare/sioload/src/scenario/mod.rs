//! The scenarios. Each scenario checks all messages that it receives, and counts the errors.

pub mod binary;
pub mod churn;
pub mod crowd;
pub mod echo;
pub mod fairness;
pub mod fleet;
pub mod groups;
pub mod idle;
pub mod membership;
pub mod polling;
pub mod storm;

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::{
    net::{Driver, Net},
    report::{Ctx, Errors, Line, Meter, Result, Usage, latencies},
};

/// The maximum number of connections that are brought up at the same time.
const RAMP: usize = 128;
/// The time without progress after which outstanding operations count as lost.
const STALL: Duration = Duration::from_secs(5);
const SETUP_LIMIT: Duration = Duration::from_secs(120);

/// The counts that all measured scenarios have.
pub struct Tally {
    pub ready: usize,
    pub ops: u64,
    pub outstanding: u64,
    /// Whether new operations begin. Cleared at the end of the window.
    pub sending: bool,
    pub errors: Errors,
    pub latency: Histogram<u64>,
}

impl Tally {
    fn new() -> Self {
        Self {
            ready: 0,
            ops: 0,
            outstanding: 0,
            sending: true,
            errors: Errors::default(),
            latency: latencies(),
        }
    }

    fn record(&mut self, since: Instant, now: Instant) {
        self.latency
            .saturating_record((now - since).as_nanos() as u64);
    }
}

pub trait Scenario: Driver {
    fn tally(&mut self) -> &mut Tally;
}

/// Opens `n` WebSocket connections, [`RAMP`] at a time, until all are ready.
fn bring_up<S: Scenario>(net: &mut Net, scenario: &mut S, n: usize) -> Result<()> {
    let limit = Instant::now() + SETUP_LIMIT;
    let target = scenario.tally().ready + n;
    let mut to_start = n;
    loop {
        let tally = scenario.tally();
        if tally.errors.count > 0 {
            let why = tally.errors.first.clone().unwrap_or_default();
            return Err(format!("setting up: {why}").into());
        }
        let unready = target - to_start - tally.ready;
        if to_start == 0 && unready == 0 {
            return Ok(());
        }
        if Instant::now() > limit {
            return Err(format!("setting up: {unready} connections not ready in time").into());
        }
        for _ in 0..to_start.min(RAMP.saturating_sub(unready)) {
            net.connect_ws()?;
            to_start -= 1;
        }
        net.turn(scenario, Duration::from_millis(100))?;
    }
}

/// Runs the warm-up, the measuring window and the drain of a scenario.
fn measure<S: Scenario>(ctx: &Ctx, net: &mut Net, scenario: &mut S) -> Result<(u64, Usage)> {
    net.spin = ctx.spin;
    run_for(net, scenario, ctx.warmup)?;
    scenario.tally().latency.reset();
    let ops_before = scenario.tally().ops;
    let meter = Meter::start(ctx, net)?;
    run_for(net, scenario, ctx.secs)?;
    let usage = meter.finish(ctx, net)?;
    let ops = scenario.tally().ops - ops_before;
    net.spin = false;
    drain(net, scenario)?;
    Ok((ops, usage))
}

/// Runs for `time`, or until the scenario has made no progress for [`STALL`].
fn run_for<S: Scenario>(net: &mut Net, scenario: &mut S, time: Duration) -> Result<()> {
    let until = Instant::now() + time;
    let mut progress = (scenario.tally().ops, Instant::now());
    loop {
        let now = Instant::now();
        if now >= until {
            return Ok(());
        }
        let ops = scenario.tally().ops;
        if ops != progress.0 {
            progress = (ops, now);
        } else if now - progress.1 > STALL {
            return Ok(());
        }
        net.turn(scenario, (until - now).min(Duration::from_millis(100)))?;
    }
}

/// Waits for the operations under way. An operation that never ends is an error. Afterwards the
/// loop runs for a moment, and the scenario counts messages that still arrive as errors.
fn drain<S: Scenario>(net: &mut Net, scenario: &mut S) -> Result<()> {
    scenario.tally().sending = false;
    let mut progress = (scenario.tally().outstanding, Instant::now());
    while scenario.tally().outstanding > 0 {
        net.turn(scenario, Duration::from_millis(100))?;
        let left = scenario.tally().outstanding;
        if left != progress.0 {
            progress = (left, Instant::now());
        } else if progress.1.elapsed() > STALL {
            scenario
                .tally()
                .errors
                .add_many(left, || format!("{left} answers never came"));
            return Ok(());
        }
    }
    let until = Instant::now() + Duration::from_millis(200);
    while Instant::now() < until {
        net.turn(scenario, Duration::from_millis(50))?;
    }
    Ok(())
}

fn print_measured<S: Scenario>(
    ctx: &Ctx,
    name: &str,
    conns: usize,
    scenario: &mut S,
    ops: u64,
    usage: &Usage,
    extra: impl FnOnce(&mut Line),
) -> Result<()> {
    let memory = crate::probe::memory(ctx.pid)?;
    let tally = scenario.tally();
    if ops == 0 {
        tally
            .errors
            .add(|| "no operation ended in the window".into());
    }
    let mut line = Line::new(ctx, name);
    line.set("conns", conns)
        .usage(ops, usage)
        .latency(&tally.latency)
        .memory(&memory)
        .errors(&tally.errors);
    extra(&mut line);
    line.print();
    Ok(())
}

/// Returns whether both are the same JSON. Usually the bytes are the same.
fn same_json(got: &[u8], want: &[u8]) -> bool {
    got == want
        || matches!(
            (
                serde_json::from_slice::<serde_json::Value>(got),
                serde_json::from_slice::<serde_json::Value>(want),
            ),
            (Ok(a), Ok(b)) if a == b
        )
}

/// Returns the number at the start of `data` and the rest.
fn leading_number(data: &[u8]) -> Option<(u64, &[u8])> {
    let digits = data.iter().take_while(|b| b.is_ascii_digit()).count();
    if digits == 0 || digits > 18 {
        return None;
    }
    let number = data[..digits]
        .iter()
        .fold(0, |n, b| n * 10 + u64::from(b - b'0'));
    Some((number, &data[digits..]))
}

/// Appends a number in decimal.
fn push_number(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn excerpt(data: &[u8]) -> String {
    String::from_utf8_lossy(&data[..data.len().min(120)]).into_owned()
}
