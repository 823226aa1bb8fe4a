//! Many clients receive one broadcast after the other, while another client, the innocent one,
//! sends one echo at a time. The latency of its echoes is measured.

use std::time::{Duration, Instant};

use super::{STALL, Scenario, bring_up, crowd, drain, echo::Echo, groups, groups::Groups};
use crate::{
    net::Net,
    probe,
    report::{Ctx, Line, Meter, Result},
};

/// The number of events of the other clients after which the load serves the innocent client. They
/// take well below 0.1 ms.
const TURN: usize = 32;

struct Both {
    crowd_net: Net,
    crowd: Groups,
    innocent_net: Net,
    innocent: Echo,
}

impl Both {
    fn bring_up(ctx: &Ctx, o: &groups::Options) -> Result<Self> {
        let mut both = Self {
            crowd_net: Net::with_turns_of(TURN, ctx.addr)?,
            crowd: Groups::new(o)?,
            innocent_net: Net::new(ctx.addr)?,
            innocent: Echo::new(1, 1, false),
        };
        both.innocent.hears_broadcasts = true;
        bring_up(&mut both.innocent_net, &mut both.innocent, 1)?;
        bring_up(&mut both.crowd_net, &mut both.crowd, o.conns)?;
        // A server may not accept events immediately after its answer to a CONNECT.
        std::thread::sleep(crowd::PAUSE);
        Ok(both)
    }

    fn start(&mut self) {
        self.crowd.start(&mut self.crowd_net);
        self.innocent.continuous = true;
        self.innocent_net.now = Instant::now();
        self.innocent.emit(&mut self.innocent_net, 0, 0);
    }

    /// Runs for `time`, or until no message has been received for [`STALL`].
    fn run_for(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        let mut progress = (self.crowd.tally().ops, Instant::now());
        while Instant::now() < until && progress.1.elapsed() < STALL {
            self.crowd_net.turn(&mut self.crowd, Duration::ZERO)?;
            self.innocent_net.turn(&mut self.innocent, Duration::ZERO)?;
            let ops = self.crowd.tally().ops;
            if ops != progress.0 {
                progress = (ops, Instant::now());
            }
        }
        Ok(())
    }
}

pub fn run(ctx: &Ctx, o: &groups::Options) -> Result<()> {
    let mut both = Both::bring_up(ctx, o)?;
    both.start();
    both.crowd_net.spin = ctx.spin;
    both.run_for(ctx.warmup)?;
    both.innocent.tally.latency.reset();
    let delivered = both.crowd.tally().ops;
    let echoes = both.innocent.tally.ops;
    let meter = Meter::start(ctx, &both.crowd_net)?;
    both.run_for(ctx.secs)?;
    let usage = meter.finish(ctx, &both.crowd_net)?;
    let delivered = both.crowd.tally().ops - delivered;
    let echoes = both.innocent.tally.ops - echoes;

    both.crowd_net.spin = false;
    drain(&mut both.innocent_net, &mut both.innocent)?;
    drain(&mut both.crowd_net, &mut both.crowd)?;
    let errors = &mut both.innocent.tally.errors;
    if echoes == 0 || delivered == 0 {
        errors.add(|| "no operation ended in the window".into());
    }
    let others = &mut both.crowd.tally().errors;
    errors.add_many(others.count, || others.first.take().unwrap_or_default());

    let name = format!("fairness-n{}-w{}-{}b", o.conns, o.window, o.size);
    let mut line = Line::new(ctx, &name);
    line.set("conns", o.conns)
        .usage(delivered, &usage)
        .latency(&both.innocent.tally.latency)
        .memory(&probe::memory(ctx.pid)?)
        .set("echoes", echoes)
        .errors(&both.innocent.tally.errors);
    line.print();
    Ok(())
}
