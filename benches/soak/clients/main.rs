//! The clients of the soak: `cargo run --release --example soak_clients ADDR WEBSOCKETS POLLING CHURN
//! EVERY`.
//!
//! `WEBSOCKETS` places have a client over WebSocket, and `POLLING` places have a client over
//! long-polling. In each second `CHURN` clients end and are replaced, and as many clients move to
//! another room. Each client sends an event every `EVERY` milliseconds. The program prints a line
//! of JSON every ten seconds and at the end. It ends when its standard input ends.

mod client;
mod connection;
mod talk;
mod tally;
#[path = "../../compare/sioload/src/ws.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::use_self,
    reason = "the load generator of the comparison uses all of it"
)]
mod ws;

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};

use client::{Order, Role, Transport, play};

/// The number of connections that begin in a second at the start, and end in a second at the end.
const RAMP: u64 = 500;
const REPORTS: Duration = Duration::from_secs(10);

// One thread, so that the load takes at most one core.
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let usage = "usage: soak_clients ADDR WEBSOCKETS POLLING CHURN EVERY";
    let addr: SocketAddr = args
        .first()
        .and_then(|addr| addr.parse().ok())
        .expect(usage);
    let number = |at: usize| -> u64 {
        let number = args.get(at).and_then(|number| number.parse().ok());
        number.expect(usage)
    };
    let (websockets, polling, churn) = (number(1), number(2), number(3));
    let every = Duration::from_millis(number(4));

    tokio::spawn(report());
    let mut clients = JoinSet::new();
    let mut places = Vec::new();
    for place in 0..websockets + polling {
        let (sender, orders) = channel(4);
        clients.spawn(play(role(addr, place, websockets, every), orders));
        places.push(sender);
        if place % (RAMP / 10) == 0 {
            sleep(Duration::from_millis(100)).await;
        }
    }
    let churning = tokio::spawn(churn_through(places.clone(), churn));
    let mut end = [0; 16];
    // Nothing is written to standard input. An error counts as its end.
    while tokio::io::stdin().read(&mut end).await.unwrap_or(0) > 0 {}
    churning.abort();
    for (n, place) in places.iter().enumerate() {
        // The send fails if the client has ended.
        let _ = place.send(Order::Finish).await;
        if n as u64 % (RAMP / 10) == 0 {
            sleep(Duration::from_millis(100)).await;
        }
    }
    clients.join_all().await;
    print(&tally::report(true));
}

fn role(addr: SocketAddr, place: u64, websockets: u64, every: Duration) -> Role {
    let transport = match place {
        _ if place >= websockets => Transport::Polling,
        _ if place % 4 == 0 => Transport::Upgraded,
        _ => Transport::WebSocket,
    };
    Role {
        addr,
        place,
        transport,
        has_second_namespace: place % 10 == 3,
        is_binary: place % 10 == 7,
        comes_back: place % 3 == 2,
        every,
    }
}

async fn churn_through(places: Vec<Sender<Order>>, churn: u64) {
    if churn == 0 {
        return;
    }
    let mut ticks = interval(Duration::from_secs(1) / churn as u32);
    let [mut ending, mut moving] = [0; 2];
    loop {
        ticks.tick().await;
        // With a prime step each place gets its turn, and neighbours do not follow each other. A
        // client whose queue of orders is full gets no order.
        ending = (ending + 7_919) % places.len();
        let _ = places[ending].try_send(Order::End);
        moving = (moving + 7_907) % places.len();
        let _ = places[moving].try_send(Order::Move);
    }
}

async fn report() {
    let mut ticks = interval(REPORTS);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        print(&tally::report(false));
    }
}

fn print(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").expect("a reader");
}
