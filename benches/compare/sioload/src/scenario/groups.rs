//! Each group has one sender, and all members receive. The group is the whole server (`broadcast`)
//! or one of many rooms (`room`). Each sender keeps `window` messages under way: messages that not
//! all members have received. Each member must receive each message once and unaltered. A message
//! that overtakes an earlier one is counted, but is not an error. Node's server never reorders
//! messages.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{Scenario, Tally, bring_up, excerpt, measure, print_measured, push_number, same_json};
use crate::{
    net::{Closed, ConnId, Driver, Net},
    report::{Ctx, Result},
};

/// The number of bits in [`Member::ahead`].
const MAX_WINDOW: usize = 64;
const JOIN_LIMIT: Duration = Duration::from_secs(2);

struct Message {
    /// The text frame that every member must receive.
    text: Vec<u8>,
    sent: Instant,
    missing: usize,
}

struct Group {
    sender: ConnId,
    /// The messages under way. The first one has the number `first`.
    under_way: VecDeque<Message>,
    first: u64,
}

/// The messages that a connection has received.
#[derive(Clone, Copy, Default)]
struct Member {
    /// All messages before this number were received.
    due: u64,
    /// Bit `i` is set if message `due + i` was received too.
    ahead: u64,
}

pub struct Groups {
    tally: Tally,
    rooms: bool,
    group_size: usize,
    window: usize,
    filler: Vec<u8>,
    groups: Vec<Group>,
    members: Vec<Member>,
    overtakes: u64,
    started: bool,
    /// By connection, whether the `join` was acknowledged.
    joined: Vec<bool>,
    buf: Vec<u8>,
}

impl Groups {
    pub fn new(o: &Options) -> Result<Self> {
        let group_size = o.room_size.unwrap_or(o.conns);
        if o.window == 0 || o.window > MAX_WINDOW {
            return Err(format!("the window must be 1 to {MAX_WINDOW}").into());
        }
        if group_size == 0 || !o.conns.is_multiple_of(group_size) {
            return Err("the connections must fill whole rooms".into());
        }
        Ok(Self {
            tally: Tally::new(),
            rooms: o.room_size.is_some(),
            group_size,
            window: o.window,
            filler: (0..o.size).map(|i| b'a' + (i % 26) as u8).collect(),
            groups: (0..o.conns / group_size)
                .map(|g| Group {
                    sender: g * group_size,
                    under_way: VecDeque::new(),
                    first: 0,
                })
                .collect(),
            members: vec![Member::default(); o.conns],
            overtakes: 0,
            started: false,
            joined: vec![false; o.conns],
            buf: Vec::new(),
        })
    }

    fn emit(&mut self, net: &mut Net, g: usize) {
        let group = &mut self.groups[g];
        let seq = group.first + group.under_way.len() as u64;
        let mut text = Vec::with_capacity(self.filler.len() + 64);
        text.extend_from_slice(if self.rooms {
            b"42[\"room\","
        } else {
            b"42[\"broadcast\","
        });
        let payload_at = text.len();
        text.extend_from_slice(b"{\"data\":\"");
        text.extend_from_slice(&self.filler);
        text.extend_from_slice(b"\",\"g\":");
        push_number(&mut text, g as u64);
        text.extend_from_slice(b",\"seq\":");
        push_number(&mut text, seq);
        text.extend_from_slice(b"}]");
        if self.rooms {
            self.buf.clear();
            self.buf.extend_from_slice(b"\"r");
            push_number(&mut self.buf, g as u64);
            self.buf.extend_from_slice(b"\",");
            let (head, payload) = text.split_at(payload_at);
            net.send_text(group.sender, &[head, &self.buf, payload]);
        } else {
            net.send_text(group.sender, &[&text]);
        }
        group.under_way.push_back(Message {
            text,
            sent: net.now,
            missing: self.group_size,
        });
        self.tally.outstanding += self.group_size as u64;
    }

    fn join(&mut self, net: &mut Net, c: ConnId) {
        self.buf.clear();
        self.buf.extend_from_slice(b"420[\"join\",\"r");
        push_number(&mut self.buf, (c / self.group_size) as u64);
        self.buf.extend_from_slice(b"\"]");
        net.send_text(c, &[&self.buf]);
    }

    /// Waits until all connections have joined their room. A `join` without an answer is an error.
    /// It is sent again, so that the scenario can still be measured.
    fn all_joined(&mut self, net: &mut Net) -> Result<()> {
        for _ in 0..5 {
            let until = Instant::now() + JOIN_LIMIT;
            if net.run_until(self, until, |g| g.joined.iter().all(|j| *j))? {
                return Ok(());
            }
            for c in 0..self.joined.len() {
                if !self.joined[c] {
                    self.tally
                        .errors
                        .add(|| "the first event of a connection got no answer".into());
                    self.join(net, c);
                }
            }
        }
        Err("not all joined their room".into())
    }

    pub fn start(&mut self, net: &mut Net) {
        self.started = true;
        net.now = Instant::now();
        for _ in 0..self.window {
            for g in 0..self.groups.len() {
                self.emit(net, g);
            }
        }
    }

    /// Returns the number of the message in `data`, if the member has not received it before.
    fn identify(&self, g: usize, member: Member, data: &[u8]) -> Option<u64> {
        let group = &self.groups[g];
        let from = (member.due - group.first) as usize;
        // Usually the next message arrives, with the expected bytes.
        if group.under_way.get(from).is_some_and(|m| m.text == data) {
            return Some(member.due);
        }
        let json = data.strip_prefix(b"42")?;
        let mut new = group
            .under_way
            .iter()
            .skip(from)
            .enumerate()
            .filter(|(i, _)| member.ahead & (1 << i) == 0);
        // The comparison of JSON values is slow, so the bytes are compared first.
        new.clone()
            .find(|(_, m)| m.text == data)
            .or_else(|| new.find(|(_, m)| same_json(json, &m.text[2..])))
            .map(|(i, _)| member.due + i as u64)
    }
}

impl Driver for Groups {
    fn on_ready(&mut self, net: &mut Net, c: ConnId) {
        self.tally.ready += 1;
        if self.rooms {
            self.join(net, c);
        }
    }

    fn on_text(&mut self, net: &mut Net, c: ConnId, data: &[u8]) {
        if self.rooms && !self.started && data.starts_with(b"430[") {
            self.joined[c] = true;
            return;
        }
        let g = c / self.group_size;
        let mut member = self.members[c];
        let Some(seq) = self.identify(g, member, data) else {
            self.tally
                .errors
                .add(|| format!("altered, repeated or unexpected message: {}", excerpt(data)));
            return;
        };
        self.overtakes += u64::from(seq != member.due);
        member.ahead |= 1 << (seq - member.due);
        let whole = member.ahead.trailing_ones();
        member.ahead = member.ahead.checked_shr(whole).unwrap_or(0);
        member.due += u64::from(whole);
        self.members[c] = member;

        let group = &mut self.groups[g];
        let message = &mut group.under_way[(seq - group.first) as usize];
        message.missing -= 1;
        let sent = message.sent;
        self.tally.record(sent, net.now);
        self.tally.ops += 1;
        self.tally.outstanding -= 1;
        while group.under_way.front().is_some_and(|m| m.missing == 0) {
            group.under_way.pop_front();
            group.first += 1;
        }
        while self.tally.sending && self.groups[g].under_way.len() < self.window {
            self.emit(net, g);
        }
    }

    fn on_close(&mut self, _net: &mut Net, _c: ConnId, how: Closed) {
        self.tally
            .errors
            .add(|| format!("connection lost: {how:?}"));
    }
}

impl Scenario for Groups {
    fn tally(&mut self) -> &mut Tally {
        &mut self.tally
    }
}

pub struct Options {
    pub conns: usize,
    /// `None` for the whole server, by `broadcast`.
    pub room_size: Option<usize>,
    pub window: usize,
    /// The length of the text in the payload.
    pub size: usize,
}

pub fn run(ctx: &Ctx, o: &Options) -> Result<()> {
    let mut net = Net::new(ctx.addr)?;
    let mut groups = Groups::new(o)?;
    bring_up(&mut net, &mut groups, o.conns)?;
    if groups.rooms {
        groups.all_joined(&mut net)?;
    }
    groups.start(&mut net);
    let (ops, usage) = measure(ctx, &mut net, &mut groups)?;
    let name = match o.room_size {
        Some(size) => format!("room{size}-n{}-w{}-{}b", o.conns, o.window, o.size),
        None => format!("fanout-n{}-w{}-{}b", o.conns, o.window, o.size),
    };
    let overtakes = groups.overtakes;
    print_measured(ctx, &name, o.conns, &mut groups, ops, &usage, |line| {
        line.set("overtakes", overtakes);
    })
}
