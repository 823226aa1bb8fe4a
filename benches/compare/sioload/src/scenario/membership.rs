//! Each connection has `depth` rooms. It joins a room, leaves it when the join is acknowledged, and
//! joins it again, and so on, in a namespace with a crowd. One room of each connection is the room
//! of the whole crowd. Its other rooms have no other members.

use std::time::Instant;

use super::{
    Scenario, Tally, bring_up, crowd, excerpt, leading_number, measure, print_measured, push_number,
};
use crate::{
    net::{Closed, ConnId, Driver, Net},
    report::{Ctx, Result},
};

struct Slot {
    /// The acknowledgement id in use: even for a join, odd for a leave. The first id of slot `s` is
    /// `2 * s`.
    id: u64,
    sent: Instant,
}

struct Membership {
    tally: Tally,
    depth: usize,
    slots: Vec<Slot>,
    buf: Vec<u8>,
}

impl Membership {
    fn new(conns: usize, depth: usize) -> Self {
        let slot = |i: usize| Slot {
            id: 2 * (i % depth) as u64,
            sent: Instant::now(),
        };
        Self {
            tally: Tally::new(),
            depth,
            slots: (0..conns * depth).map(slot).collect(),
            buf: Vec::new(),
        }
    }

    fn emit(&mut self, net: &mut Net, c: ConnId, slot: usize) {
        let state = &mut self.slots[c * self.depth + slot];
        state.sent = net.now;
        self.buf.clear();
        self.buf.extend_from_slice(b"42");
        push_number(&mut self.buf, state.id);
        self.buf
            .extend_from_slice(match state.id.is_multiple_of(2) {
                true => b"[\"join\",\"",
                false => b"[\"leave\",\"",
            });
        if slot == 0 {
            self.buf.extend_from_slice(crowd::ROOM.as_bytes());
        } else {
            self.buf.push(b'm');
            push_number(&mut self.buf, c as u64);
            self.buf.push(b'-');
            push_number(&mut self.buf, slot as u64);
        }
        self.buf.extend_from_slice(b"\"]");
        net.send_text(c, &[&self.buf]);
        self.tally.outstanding += 1;
    }

    /// Returns the slot of the acknowledgement in `data`.
    fn check(&self, c: ConnId, data: &[u8]) -> Option<usize> {
        let (id, args) = leading_number(data.strip_prefix(b"43")?)?;
        let slot = (id as usize / 2) % self.depth;
        let due = self.slots[c * self.depth + slot].id;
        (id == due && args.starts_with(b"[")).then_some(slot)
    }
}

impl Driver for Membership {
    fn on_ready(&mut self, _net: &mut Net, _c: ConnId) {
        self.tally.ready += 1;
    }

    fn on_text(&mut self, net: &mut Net, c: ConnId, data: &[u8]) {
        let Some(slot) = self.check(c, data) else {
            let why = || format!("wrong or unexpected answer: {}", excerpt(data));
            return self.tally.errors.add(why);
        };
        let state = &mut self.slots[c * self.depth + slot];
        let sent = state.sent;
        // A leave has the id after that of its join. The next join skips the ids of the other
        // slots.
        state.id += match state.id.is_multiple_of(2) {
            true => 1,
            false => 2 * self.depth as u64 - 1,
        };
        self.tally.record(sent, net.now);
        self.tally.ops += 1;
        self.tally.outstanding -= 1;
        if self.tally.sending {
            self.emit(net, c, slot);
        }
    }

    fn on_close(&mut self, _net: &mut Net, _c: ConnId, how: Closed) {
        let why = || format!("connection lost: {how:?}");
        self.tally.errors.add(why);
    }
}

impl Scenario for Membership {
    fn tally(&mut self) -> &mut Tally {
        &mut self.tally
    }
}

pub fn run(ctx: &Ctx, conns: usize, depth: usize, crowd: usize) -> Result<()> {
    let _crowd = crowd::bring_in(ctx, crowd)?;
    let mut net = Net::new(ctx.addr)?;
    let mut membership = Membership::new(conns, depth);
    bring_up(&mut net, &mut membership, conns)?;
    net.run_until(&mut membership, Instant::now() + crowd::PAUSE, |_| false)?;
    net.now = Instant::now();
    for slot in 0..depth {
        for c in 0..conns {
            membership.emit(&mut net, c, slot);
        }
    }
    let (ops, usage) = measure(ctx, &mut net, &mut membership)?;
    let name = format!("membership-c{conns}-d{depth}-crowd{crowd}");
    print_measured(ctx, &name, conns, &mut membership, ops, &usage, |_| {})
}
