//! Each connection keeps `depth` events with acknowledgements under way. Each acknowledgement must
//! return the arguments of its event.

use std::time::Instant;

use super::{Scenario, Tally, bring_up, excerpt, leading_number, measure, print_measured};
use crate::{
    net::{Closed, ConnId, Driver, Net},
    report::{Ctx, Result},
};

#[derive(Clone, Copy)]
struct Slot {
    /// The acknowledgement id in use. Slot `s` uses the ids `s`, `s + depth`, …
    id: u64,
    sent: Option<Instant>,
}

pub struct Echo {
    pub tally: Tally,
    depth: usize,
    slots: Vec<Slot>,
    /// Whether to start when a connection is ready, and to continue after each answer.
    pub continuous: bool,
    /// Whether broadcasts may come between the answers. They are ignored.
    pub hears_broadcasts: bool,
    buf: Vec<u8>,
    pub closed: usize,
    pub abrupt: usize,
    pub closing: bool,
}

impl Echo {
    pub fn new(conns: usize, depth: usize, continuous: bool) -> Self {
        let mut slots = Vec::with_capacity(conns * depth);
        for _ in 0..conns {
            slots.extend((0..depth as u64).map(|id| Slot { id, sent: None }));
        }
        Self {
            tally: Tally::new(),
            depth,
            slots,
            continuous,
            hears_broadcasts: false,
            buf: Vec::new(),
            closed: 0,
            abrupt: 0,
            closing: false,
        }
    }

    pub fn emit(&mut self, net: &mut Net, c: ConnId, slot: usize) {
        let state = &mut self.slots[c * self.depth + slot];
        state.sent = Some(net.now);
        self.buf.clear();
        self.buf.extend_from_slice(b"42");
        super::push_number(&mut self.buf, state.id);
        self.buf.extend_from_slice(b"[\"echo\",");
        push_payload(&mut self.buf, c, state.id);
        self.buf.push(b']');
        net.send_text(c, &[&self.buf]);
        self.tally.outstanding += 1;
    }

    fn check(&mut self, c: ConnId, data: &[u8]) -> Option<usize> {
        let (id, rest) = leading_number(data.strip_prefix(b"43")?)?;
        let slot = id as usize % self.depth;
        let state = &self.slots[c * self.depth + slot];
        if state.id != id || state.sent.is_none() {
            return None;
        }
        self.buf.clear();
        self.buf.push(b'[');
        push_payload(&mut self.buf, c, id);
        self.buf.push(b']');
        super::same_json(rest, &self.buf).then_some(slot)
    }
}

/// Appends about 50 bytes of JSON that are unique to the connection and the message.
fn push_payload(out: &mut Vec<u8>, c: ConnId, id: u64) {
    out.extend_from_slice(b"{\"c\":");
    super::push_number(out, c as u64);
    out.extend_from_slice(b",\"id\":");
    super::push_number(out, id);
    out.extend_from_slice(b",\"text\":\"the quick brown fox\"}");
}

impl Driver for Echo {
    fn on_ready(&mut self, net: &mut Net, c: ConnId) {
        self.tally.ready += 1;
        if self.continuous {
            for slot in 0..self.depth {
                self.emit(net, c, slot);
            }
        }
    }

    fn on_text(&mut self, net: &mut Net, c: ConnId, data: &[u8]) {
        if self.hears_broadcasts && data.starts_with(b"42[\"broadcast\",") {
            return;
        }
        let Some(slot) = self.check(c, data) else {
            self.tally
                .errors
                .add(|| format!("wrong or unexpected answer: {}", excerpt(data)));
            return;
        };
        let state = &mut self.slots[c * self.depth + slot];
        if let Some(sent) = state.sent.take() {
            self.tally.record(sent, net.now);
        }
        state.id += self.depth as u64;
        self.tally.ops += 1;
        self.tally.outstanding -= 1;
        if self.continuous && self.tally.sending {
            self.emit(net, c, slot);
        }
    }

    fn on_close(&mut self, _net: &mut Net, _c: ConnId, how: Closed) {
        self.closed += 1;
        match how {
            Closed::Clean if self.closing => {}
            Closed::Abrupt if self.closing => self.abrupt += 1,
            how => self
                .tally
                .errors
                .add(|| format!("connection lost: {how:?}")),
        }
    }
}

impl Scenario for Echo {
    fn tally(&mut self) -> &mut Tally {
        &mut self.tally
    }
}

pub fn run(ctx: &Ctx, conns: usize, depth: usize) -> Result<()> {
    let mut net = Net::new(ctx.addr)?;
    let mut echo = Echo::new(conns, depth, true);
    bring_up(&mut net, &mut echo, conns)?;
    let (ops, usage) = measure(ctx, &mut net, &mut echo)?;
    let name = format!("echo-c{conns}-d{depth}");
    print_measured(ctx, &name, conns, &mut echo, ops, &usage, |_| {})
}
