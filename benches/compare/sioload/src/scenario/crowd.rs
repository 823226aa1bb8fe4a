//! Clients that fill the namespace and then are idle. Each client is in its own room and in
//! [`ROOM`].

use std::time::{Duration, Instant};

use super::{STALL, Scenario, Tally, bring_up, excerpt};
use crate::{
    net::{Closed, ConnId, Driver, Net},
    report::{Ctx, Result},
};

/// The room of the whole crowd.
pub const ROOM: &str = "crowd";
/// The maximum number of joins under way.
const AT_ONCE: u64 = 128;
/// A server may not accept events immediately after its answer to a CONNECT.
pub const PAUSE: Duration = Duration::from_millis(300);

struct Crowd {
    tally: Tally,
}

/// Connects the crowd. It disconnects when the returned value is dropped. The crowd answers no
/// pings meanwhile, so the value must be dropped before a ping times out.
pub fn bring_in(ctx: &Ctx, conns: usize) -> Result<Net> {
    let mut net = Net::new(ctx.addr)?;
    let mut crowd = Crowd {
        tally: Tally::new(),
    };
    bring_up(&mut net, &mut crowd, conns)?;
    net.run_until(&mut crowd, Instant::now() + PAUSE, |_| false)?;

    let rooms = |c| [format!("of-{c}"), ROOM.into()].map(|room| (c, room));
    for (c, room) in (0..conns).flat_map(rooms) {
        join(&mut net, c, &room);
        crowd.tally.outstanding += 1;
        crowd.wait_until_fewer_than(AT_ONCE, &mut net)?;
    }
    crowd.wait_until_fewer_than(1, &mut net)?;
    Ok(net)
}

/// Joins a room, with the acknowledgement id 0.
pub fn join(net: &mut Net, c: ConnId, room: &str) {
    net.send_text(c, &[b"420[\"join\",\"", room.as_bytes(), b"\"]"]);
}

impl Crowd {
    fn wait_until_fewer_than(&mut self, outstanding: u64, net: &mut Net) -> Result<()> {
        let few = |crowd: &Self| crowd.tally.outstanding < outstanding;
        let in_time = net.run_until(self, Instant::now() + STALL, few)?;
        match &self.tally.errors.first {
            Some(why) => Err(format!("the crowd: {why}").into()),
            None if in_time => Ok(()),
            None => Err("the crowd: joining a room got no answer".into()),
        }
    }
}

impl Driver for Crowd {
    fn on_ready(&mut self, _net: &mut Net, _c: ConnId) {
        self.tally.ready += 1;
    }

    fn on_text(&mut self, _net: &mut Net, _c: ConnId, data: &[u8]) {
        if data.starts_with(b"430[") && self.tally.outstanding > 0 {
            self.tally.outstanding -= 1;
            return;
        }
        let why = || format!("unexpected message: {}", excerpt(data));
        self.tally.errors.add(why);
    }

    fn on_close(&mut self, _net: &mut Net, _c: ConnId, how: Closed) {
        let why = || format!("connection lost: {how:?}");
        self.tally.errors.add(why);
    }
}

impl Scenario for Crowd {
    fn tally(&mut self) -> &mut Tally {
        &mut self.tally
    }
}
