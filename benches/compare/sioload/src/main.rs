//! Black-box load generator for Socket.IO v4 (EIO=4) servers.
//!
//! The server is another process that follows the contract in the README next to this crate. Each
//! scenario prints one line of JSON for each measurement.

mod net;
mod probe;
mod report;
mod scenario;
mod ws;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};

use report::{Ctx, Result};
use scenario::{binary, churn, echo, fairness, fleet, groups, idle, membership, polling, storm};

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    /// The server's name in the output.
    #[arg(long, default_value = "server")]
    server: String,
    /// The server's process id.
    #[arg(long, default_value_t = 0)]
    pid: i32,
    #[arg(long, default_value = "127.0.0.1:3000")]
    addr: SocketAddr,
    /// The core that the load runs on.
    #[arg(long, default_value_t = 1)]
    core: usize,
    /// The cores that the server was started on.
    #[arg(long, default_value = "0", value_delimiter = ',')]
    server_cores: Vec<usize>,
    /// Seconds of load before the measuring window.
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
    /// Seconds of the measuring window.
    #[arg(long, default_value_t = 4.0)]
    secs: f64,
    /// Sleep while there is nothing to read. The server then pays for waking the load generator.
    #[arg(long)]
    sleep: bool,
    /// The file with the counters of the server's tools/syscount.so.
    #[arg(long)]
    counters: Option<PathBuf>,
    #[command(subcommand)]
    scenario: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Acknowledged small events.
    Echo {
        #[arg(long, default_value_t = 100)]
        conns: usize,
        #[arg(long, default_value_t = 1)]
        depth: usize,
    },
    /// One sender, all clients receive.
    Fanout {
        #[arg(long, default_value_t = 1000)]
        conns: usize,
        #[arg(long, default_value_t = 16)]
        window: usize,
        #[arg(long, default_value_t = 24)]
        size: usize,
    },
    /// Rooms with one sender each.
    Room {
        #[arg(long, default_value_t = 1000)]
        conns: usize,
        #[arg(long, default_value_t = 10)]
        room_size: usize,
        #[arg(long, default_value_t = 1)]
        window: usize,
        #[arg(long, default_value_t = 24)]
        size: usize,
    },
    /// Idle connections: their memory, their heartbeat, and the memory after they have left.
    Idle {
        #[arg(long, default_value_t = 10_000)]
        conns: usize,
        #[arg(long, default_value_t = 2.0)]
        settle: f64,
        #[arg(long, default_value_t = 0.0)]
        heartbeat: f64,
        #[arg(long, default_value_t = 2)]
        cycles: usize,
    },
    /// Connect and leave. With a crowd, also join its room.
    Churn {
        #[arg(long, default_value_t = 32)]
        at_once: usize,
        /// Idle clients that stay connected during the measurement.
        #[arg(long)]
        crowd: Option<usize>,
    },
    /// Join and leave rooms while a crowd of idle clients is connected.
    Membership {
        #[arg(long, default_value_t = 100)]
        conns: usize,
        #[arg(long, default_value_t = 16)]
        depth: usize,
        /// Idle clients that stay connected, each in its own room and in a common room.
        #[arg(long, default_value_t = 10)]
        crowd: usize,
    },
    /// Echoes of one client while the other clients receive one broadcast after the other.
    Fairness {
        #[arg(long, default_value_t = 10_000)]
        conns: usize,
        #[arg(long, default_value_t = 4)]
        window: usize,
        #[arg(long, default_value_t = 24)]
        size: usize,
    },
    /// Long-polling clients with acknowledged events.
    Polling {
        #[arg(long, default_value_t = 50)]
        conns: usize,
    },
    /// The server is killed and restarted, and all clients reconnect.
    Storm {
        #[arg(long, default_value_t = 19_500)]
        conns: usize,
        /// The number of clients that reconnect first, and then send echoes.
        #[arg(long, default_value_t = 100)]
        echoers: usize,
        /// Milliseconds between two echoes of one client.
        #[arg(long, default_value_t = 50)]
        echo_every: u64,
        /// Seconds from the death of the server to the start of the next one.
        #[arg(long, default_value_t = 0.0)]
        down: f64,
        /// The server's command, which is run twice.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Connections are cut at random while the server sends numbered messages to all clients.
    Jitter {
        #[arg(long, default_value_t = 10_000)]
        conns: usize,
        #[arg(long, default_value_t = 60)]
        messages: u64,
        /// Milliseconds between two messages.
        #[arg(long, default_value_t = 500)]
        message_every: u64,
        /// Seconds between two cuts of one client, on average.
        #[arg(long, default_value_t = 15.0)]
        cut_every: f64,
        /// Seconds for which a stalled connection is not read.
        #[arg(long, default_value_t = 1.0)]
        stall: f64,
        /// The server's command.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Acknowledged events with a binary attachment.
    Binary {
        #[arg(long, default_value_t = 8)]
        conns: usize,
        #[arg(long, default_value_t = 2)]
        depth: usize,
        #[arg(long, default_value_t = 65_536)]
        size: usize,
    },
}

fn program(cli: &Cli, command: &[String]) -> storm::Program {
    storm::Program {
        command: command.to_vec(),
        cores: cli.server_cores.clone(),
    }
}

fn run(cli: &Cli) -> Result<()> {
    probe::pin_to(&[cli.core])?;
    probe::raise_nofile()?;
    let ctx = Ctx {
        server: cli.server.clone(),
        pid: cli.pid,
        cores: cli.server_cores.iter().copied().chain([cli.core]).collect(),
        addr: cli.addr,
        warmup: Duration::from_secs_f64(cli.warmup),
        secs: Duration::from_secs_f64(cli.secs),
        spin: !cli.sleep,
        counters: cli.counters.as_deref().map(probe::Counters::open),
    };
    match cli.scenario {
        Command::Echo { conns, depth } => echo::run(&ctx, conns, depth),
        Command::Fanout {
            conns,
            window,
            size,
        } => groups::run(
            &ctx,
            &groups::Options {
                conns,
                room_size: None,
                window,
                size,
            },
        ),
        Command::Room {
            conns,
            room_size,
            window,
            size,
        } => groups::run(
            &ctx,
            &groups::Options {
                conns,
                room_size: Some(room_size),
                window,
                size,
            },
        ),
        Command::Idle {
            conns,
            settle,
            heartbeat,
            cycles,
        } => idle::run(
            &ctx,
            &idle::Options {
                conns,
                settle: Duration::from_secs_f64(settle),
                heartbeat: Duration::from_secs_f64(heartbeat),
                cycles,
            },
        ),
        Command::Churn { at_once, crowd } => churn::run(&ctx, at_once, crowd),
        Command::Membership {
            conns,
            depth,
            crowd,
        } => membership::run(&ctx, conns, depth, crowd),
        Command::Fairness {
            conns,
            window,
            size,
        } => fairness::run(
            &ctx,
            &groups::Options {
                conns,
                room_size: None,
                window,
                size,
            },
        ),
        Command::Polling { conns } => polling::run(&ctx, conns),
        Command::Binary { conns, depth, size } => binary::run(&ctx, conns, depth, size),
        Command::Storm {
            conns,
            echoers,
            echo_every,
            down,
            ref command,
        } => storm::run(
            &ctx,
            &storm::Options {
                conns,
                echoers,
                echo_every: Duration::from_millis(echo_every),
                down: Duration::from_secs_f64(down),
                program: program(cli, command),
            },
        ),
        Command::Jitter {
            conns,
            messages,
            message_every,
            cut_every,
            stall,
            ref command,
        } => storm::run_jitter(
            &ctx,
            &storm::JitterOptions {
                conns,
                messages,
                every: Duration::from_millis(message_every),
                cuts: fleet::Cuts {
                    every: Duration::from_secs_f64(cut_every),
                    stall: Duration::from_secs_f64(stall),
                },
                program: program(cli, command),
            },
        ),
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("sioload: {}: {e}", cli.server);
            ExitCode::FAILURE
        }
    }
}
