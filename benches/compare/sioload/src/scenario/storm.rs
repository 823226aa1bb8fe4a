//! A server is killed and restarted, and all its clients reconnect as official clients do. Some
//! clients reconnect first, and then send echoes.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use super::fleet::{Cuts, Fleet};
use crate::{
    net::Net,
    probe,
    report::{Ctx, Errors, Line, Meter, Result, latencies},
};

/// The maximum number of clients that connect at the same time before the storm.
const RAMP: usize = 128;
const RAMP_LIMIT: Duration = Duration::from_secs(120);
/// The number of events of the crowd after which the clients with echoes are served.
const TURN: usize = 32;
/// A client that is not back after this time is lost.
const STORM_LIMIT: Duration = Duration::from_secs(60);
/// The time for which connections are watched after all clients are back.
const AFTER: Duration = Duration::from_secs(2);
/// The time for which echoes run before the server is killed.
const CALM: Duration = Duration::from_secs(2);

pub struct Options {
    pub conns: usize,
    pub echoers: usize,
    pub echo_every: Duration,
    /// The time from the death of the server to the start of the next one.
    pub down: Duration,
    pub program: Program,
}

/// The program of a server.
pub struct Program {
    /// The path and the arguments.
    pub command: Vec<String>,
    pub cores: Vec<usize>,
}

/// A running server. Dropping this value kills it.
struct Server(Child);

impl Server {
    fn start(of: &Program) -> Result<Self> {
        let (program, args) = of.command.split_first().ok_or("a command is missing")?;
        let mut command = Command::new(program);
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let cores = of.cores.clone();
        // SAFETY: between fork and exec, `pin_to` makes only a system call.
        unsafe { command.pre_exec(move || probe::pin_to(&cores)) };
        Ok(Self(command.spawn()?))
    }

    fn pid(&self) -> libc::pid_t {
        self.0.id() as libc::pid_t
    }

    fn wait_until_it_listens(&self, addr: SocketAddr) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(addr).is_err() {
            if Instant::now() > until {
                return Err("the server does not listen".into());
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// All clients: the crowd, and the clients that reconnect first. The latter have a separate epoll
/// instance, so that their echoes do not wait for the crowd's events.
struct Clients {
    crowd_net: Net,
    crowd: Fleet,
    early_net: Net,
    early: Fleet,
}

impl Clients {
    fn new(addr: SocketAddr, conns: usize, early: usize) -> io::Result<Self> {
        Ok(Self {
            crowd_net: Net::with_turns_of(TURN, addr)?,
            crowd: Fleet::new(conns.saturating_sub(early), false),
            early_net: Net::new(addr)?,
            early: Fleet::new(early, true),
        })
    }

    fn turn(&mut self) -> Result<()> {
        let before = self.crowd_net.handled;
        self.crowd_net.turn(&mut self.crowd, Duration::ZERO)?;
        self.crowd.handle_timers(&mut self.crowd_net)?;
        let idle = self.crowd_net.handled == before;
        let longest = Duration::from_millis(u64::from(idle));
        let wait = longest
            .min(self.crowd.until_timer())
            .min(self.early.until_timer());
        self.early_net.turn(&mut self.early, wait)?;
        self.early.handle_timers(&mut self.early_net)
    }

    fn run(&mut self, time: Duration, done: impl Fn(&Self) -> bool) -> Result<bool> {
        let until = Instant::now() + time;
        while !done(self) {
            if Instant::now() > until {
                return Ok(false);
            }
            self.turn()?;
        }
        Ok(true)
    }

    fn back(&self) -> usize {
        self.crowd.counts.back + self.early.counts.back
    }

    fn sum(&self, count: impl Fn(&Fleet) -> u64) -> u64 {
        count(&self.crowd) + count(&self.early)
    }

    fn all_back(&self) -> bool {
        self.crowd.all_back() && self.early.all_back()
    }

    fn all_away(&self) -> bool {
        self.back() == 0
    }
}

fn of_server(ctx: &Ctx, server: &Server) -> Ctx {
    Ctx {
        server: ctx.server.clone(),
        pid: server.pid(),
        cores: ctx.cores.clone(),
        addr: ctx.addr,
        warmup: ctx.warmup,
        secs: ctx.secs,
        spin: ctx.spin,
        counters: None,
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub fn run(ctx: &Ctx, o: &Options) -> Result<()> {
    let mut server = Server::start(&o.program)?;
    server.wait_until_it_listens(ctx.addr)?;
    let mut clients = Clients::new(ctx.addr, o.conns, o.echoers)?;
    clients
        .early
        .come(&mut clients.early_net, RAMP, RAMP_LIMIT)?;
    clients
        .crowd
        .come(&mut clients.crowd_net, RAMP, RAMP_LIMIT)?;
    clients.early.start_echoes(o.echo_every);
    clients.run(CALM, |_| false)?;
    let calm = clients.early.echo.clone();
    clients.early.restarted();
    clients.crowd.restarted();

    server.0.kill()?;
    server.0.wait()?;
    let killed = Instant::now();
    clients.run(Duration::from_secs(10).max(o.down), |clients| {
        clients.all_away() && killed.elapsed() >= o.down
    })?;
    clients.crowd.restarted();
    clients.early.restarted();
    clients.crowd_net.first_established = None;
    clients.early_net.first_established = None;
    server = Server::start(&o.program)?;
    let ctx = of_server(ctx, &server);
    let meter = Meter::start(&ctx, &clients.crowd_net)?;
    let began = Instant::now();
    let all = clients.run(STORM_LIMIT, Clients::all_back)?;
    let usage = meter.finish(&ctx, &clients.crowd_net)?;
    let memory = probe::memory(ctx.pid)?;
    let storm = clients.early.echo.clone();
    clients.run(AFTER, |_| false)?;
    clients.early.stop_echoes();
    clients.run(Duration::from_secs(5), |clients| {
        clients.early.open_echoes() == 0
    })?;

    let mut errors = Errors::default();
    for fleet in [&mut clients.crowd, &mut clients.early] {
        let first = fleet.errors.first.take().unwrap_or_default();
        errors.add_many(fleet.errors.count, || first);
    }
    let open = clients.early.open_echoes() as u64;
    errors.add_many(open, || format!("{open} echoes never came back"));
    let first = [&clients.crowd_net, &clients.early_net]
        .iter()
        .filter_map(|net| net.first_established)
        .min()
        .unwrap_or(began);
    let mut back = latencies();
    for at in clients.crowd.back_at.iter().chain(&clients.early.back_at) {
        back.saturating_record(at.saturating_duration_since(first).as_nanos() as u64);
    }
    let mut attempt = clients.crowd.attempt.clone();
    attempt.add(&clients.early.attempt)?;
    let quantile = |of: &hdrhistogram::Histogram<u64>, q| of.value_at_quantile(q) as f64 / 1e6;
    let lost = (o.conns - clients.back()) as u64;
    errors.add_many(lost, || format!("{lost} clients are not back"));

    let mut line = Line::new(&ctx, &format!("storm-n{}", o.conns));
    line.set("conns", o.conns)
        .usage(back.len(), &usage)
        .memory(&memory)
        .set("all_back", all)
        .set("lost", lost)
        .set("dropped", clients.sum(|fleet| fleet.counts.dropped))
        .set("attempts", clients.sum(|fleet| fleet.counts.attempts))
        .set("failed", clients.sum(|fleet| fleet.counts.failed))
        .set_f("up_ms", milliseconds(first - began), 1)
        .set_f("back_p50_ms", quantile(&back, 0.5), 1)
        .set_f("back_p99_ms", quantile(&back, 0.99), 1)
        .set_f("back_all_ms", quantile(&back, 1.0), 1)
        .set_f("attempt_p50_ms", quantile(&attempt, 0.5), 1)
        .set_f("attempt_p99_ms", quantile(&attempt, 0.99), 1)
        .set_f("attempt_max_ms", quantile(&attempt, 1.0), 1)
        .set("echoes", storm.len())
        .set_f("calm_p99_ms", quantile(&calm, 0.99), 2)
        .set_f("echo_p50_ms", quantile(&storm, 0.5), 2)
        .set_f("echo_p99_ms", quantile(&storm, 0.99), 2)
        .set_f("echo_max_ms", quantile(&storm, 1.0), 2)
        .errors(&errors);
    line.print();
    drop(server);
    Ok(())
}

pub struct JitterOptions {
    pub conns: usize,
    pub messages: u64,
    pub every: Duration,
    pub cuts: Cuts,
    pub program: Program,
}

/// Runs clients whose connections are cut at random while the server sends numbered messages to all
/// of them.
pub fn run_jitter(ctx: &Ctx, o: &JitterOptions) -> Result<()> {
    let server = Server::start(&o.program)?;
    server.wait_until_it_listens(ctx.addr)?;
    let ctx = &of_server(ctx, &server);
    let mut net = Net::new(ctx.addr)?;
    let mut fleet = Fleet::new(o.conns, false);
    fleet.come(&mut net, RAMP, RAMP_LIMIT)?;
    let meter = Meter::start(ctx, &net)?;
    fleet.start_cuts(o.cuts);
    let began = Instant::now();
    let mut published = 0;
    let mut quiet_since = None;
    let until = began + o.every * o.messages as u32 + STORM_LIMIT;
    while Instant::now() < until {
        let due = began + o.every * published as u32;
        if published < o.messages && Instant::now() >= due {
            published += 1;
            fleet.publish(&mut net, published)?;
        }
        if published == o.messages && Instant::now() >= due {
            fleet.stop_cuts();
            if !fleet.all_back() {
                quiet_since = None;
            } else if quiet_since.get_or_insert_with(Instant::now).elapsed() > AFTER {
                break;
            }
        }
        let wait = fleet.until_timer().min(Duration::from_millis(1));
        net.turn(&mut fleet, wait)?;
        fleet.handle_timers(&mut net)?;
    }
    let usage = meter.finish(ctx, &net)?;
    let lost_clients = (fleet.len() - fleet.counts.back) as u64;
    let mut errors = std::mem::take(&mut fleet.errors);
    errors.add_many(lost_clients, || format!("{lost_clients} are not back"));
    let received: u64 = fleet.received().map(|of| of.messages).sum();
    let repeated: u64 = fleet.received().map(|of| of.repeated).sum();
    let overtaken: u64 = fleet.received().map(|of| of.overtaken).sum();
    let expected = o.messages * o.conns as u64;
    let quantile = |q| fleet.delivery.value_at_quantile(q) as f64 / 1e6;

    let mut line = Line::new(ctx, &format!("jitter-n{}", o.conns));
    line.set("conns", o.conns)
        .usage(received, &usage)
        .memory(&probe::memory(ctx.pid)?)
        .set("messages", o.messages)
        .set("expected", expected)
        .set("received", received)
        .set("lost", expected - received)
        .set_f(
            "delivered_pct",
            received as f64 * 100.0 / expected as f64,
            3,
        )
        .set("repeated", repeated)
        .set("overtaken", overtaken)
        .set("resets", fleet.counts.resets)
        .set("stalls", fleet.counts.stalls)
        .set("recovered", fleet.counts.recovered)
        .set("fresh", fleet.counts.fresh)
        .set("dropped", fleet.counts.dropped)
        .set_f("delivery_p50_ms", quantile(0.5), 1)
        .set_f("delivery_p95_ms", quantile(0.95), 1)
        .set_f("delivery_p99_ms", quantile(0.99), 1)
        .set_f("delivery_max_ms", quantile(1.0), 1)
        .errors(&errors);
    line.print();
    Ok(())
}
