//! Connections come and go: TCP connect, WebSocket upgrade, Engine.IO open packet, CONNECT, then
//! DISCONNECT, close frames and the end of the stream. With a crowd they also join its room before
//! they leave.

use std::time::{Duration, Instant};

use super::{Scenario, Tally, crowd, excerpt, measure, print_measured};
use crate::{
    net::{Closed, ConnId, Driver, Net},
    report::{Ctx, Result},
};

/// A `join` that is not answered within this time is an error.
const JOIN_LIMIT: Duration = Duration::from_secs(1);

struct Churn {
    tally: Tally,
    abrupt: u64,
    in_crowd: bool,
    /// The connections whose `join` is not answered yet, and when it was sent.
    joining: Vec<(ConnId, Instant)>,
}

impl Churn {
    fn open(&mut self, net: &mut Net) {
        match net.connect_ws() {
            Ok(_) => self.tally.outstanding += 1,
            Err(e) => self.tally.errors.add(|| format!("connect: {e}")),
        }
    }

    /// Closes the connections whose `join` is overdue, so that new ones can take their places.
    fn give_up(&mut self, net: &mut Net) {
        let joining = std::mem::take(&mut self.joining);
        let overdue = |(_, since): &(ConnId, Instant)| net.now - *since > JOIN_LIMIT;
        let (overdue, joining): (Vec<_>, Vec<_>) = joining.into_iter().partition(overdue);
        self.joining = joining;
        for (c, _) in overdue {
            let why = || "the first event of a connection got no answer".into();
            self.tally.errors.add(why);
            net.close_ws(c);
        }
    }
}

impl Driver for Churn {
    fn on_ready(&mut self, net: &mut Net, c: ConnId) {
        if let Some(started) = net.started(c) {
            self.tally.record(started, net.now);
        }
        if !self.in_crowd {
            return net.close_ws(c);
        }
        self.give_up(net);
        self.joining.push((c, net.now));
        crowd::join(net, c, crowd::ROOM);
    }

    fn on_text(&mut self, net: &mut Net, c: ConnId, data: &[u8]) {
        let joining = self.joining.iter().position(|(joining, _)| *joining == c);
        match joining {
            Some(i) if data.starts_with(b"430[") => {
                self.joining.swap_remove(i);
                net.close_ws(c);
            }
            _ => {
                let why = || format!("unexpected message: {}", excerpt(data));
                self.tally.errors.add(why);
            }
        }
    }

    fn on_close(&mut self, net: &mut Net, c: ConnId, how: Closed) {
        self.joining.retain(|(joining, _)| *joining != c);
        self.tally.outstanding -= 1;
        match how {
            Closed::Clean => self.tally.ops += 1,
            Closed::Abrupt => {
                self.tally.ops += 1;
                self.abrupt += 1;
            }
            Closed::Lost(why) => self.tally.errors.add(|| why),
        }
        if self.tally.sending {
            self.open(net);
        }
    }
}

impl Scenario for Churn {
    fn tally(&mut self) -> &mut Tally {
        &mut self.tally
    }
}

pub fn run(ctx: &Ctx, at_once: usize, crowd: Option<usize>) -> Result<()> {
    let _crowd = crowd.map(|n| crowd::bring_in(ctx, n)).transpose()?;
    let mut net = Net::new(ctx.addr)?;
    let mut churn = Churn {
        tally: Tally::new(),
        abrupt: 0,
        in_crowd: crowd.is_some(),
        joining: Vec::new(),
    };
    for _ in 0..at_once {
        churn.open(&mut net);
    }
    let (ops, usage) = measure(ctx, &mut net, &mut churn)?;
    // The server gets time to end the last connections before its memory is read.
    let until = Instant::now() + Duration::from_millis(500);
    net.run_until(&mut churn, until, |_| false)?;
    let abrupt = churn.abrupt;
    let crowd = crowd.map_or(String::new(), |n| format!("-crowd{n}"));
    print_measured(
        ctx,
        &format!("churn-k{at_once}{crowd}"),
        at_once,
        &mut churn,
        ops,
        &usage,
        |line| {
            line.set("closed_without_frame", abrupt);
        },
    )
}
