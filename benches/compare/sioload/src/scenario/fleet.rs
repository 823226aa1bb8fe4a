//! Clients that reconnect as the official client does. The first delay is 1 s, and each further
//! delay is doubled, up to 5 s. A random part of up to a half is added or subtracted. A client
//! sends the `pid` and the offset of its former socket. A client that is not recovered joins its
//! room again, and is back when the server acknowledges that.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use hdrhistogram::Histogram;

use super::{excerpt, leading_number};
use crate::{
    net::{Closed, ConnId, Driver, Net},
    report::{Errors, Result, latencies},
};

pub const ROOM: &str = "storm";
const DELAY_MIN: f64 = 1.0;
const DELAY_MAX: f64 = 5.0;
const RANDOMIZATION: f64 = 0.5;
/// The official client's timeout of a connection attempt.
const ATTEMPT: Duration = Duration::from_secs(20);
/// The time before the first cut. All clients have received messages by then, as in the public
/// benchmark.
const BEFORE_CUTS: Duration = Duration::from_secs(5);
/// The maximum number of attempts that begin in one call of `handle_timers`, before incoming events
/// are handled.
const STARTS: usize = 16;
/// The acknowledgement id of a join. Echoes have the ids after it.
const JOIN: u64 = 1;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Away,
    /// A connection attempt is under way.
    Coming,
    Back,
}

struct Client {
    conn: Option<ConnId>,
    state: State,
    /// The number of state changes. Timers of an earlier state are ignored.
    era: u32,
    /// The number of attempts since the client was last back.
    attempts: u32,
    pid: Option<String>,
    offset: Option<String>,
    echoes: VecDeque<(u64, Instant)>,
    next_ack: u64,
    received: Received,
}

/// The numbered messages that a client has received.
#[derive(Default)]
pub struct Received {
    words: Vec<u64>,
    last: u64,
    pub messages: u64,
    pub repeated: u64,
    pub overtaken: u64,
}

impl Received {
    pub fn add(&mut self, number: u64) {
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        if self.words[word] & bit != 0 {
            self.repeated += 1;
            return;
        }
        self.words[word] |= bit;
        self.messages += 1;
        self.overtaken += u64::from(number < self.last);
        self.last = self.last.max(number);
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Connect,
    GiveUp,
    Echo,
    Cut,
    EndOfStall { reset: bool },
}

/// How connections are cut. A cut is a reset, a stall and a reset, or only a stall, with equal
/// probability.
#[derive(Clone, Copy)]
pub struct Cuts {
    pub every: Duration,
    pub stall: Duration,
}

#[derive(Default)]
pub struct Counts {
    /// The clients that are back now.
    pub back: usize,
    /// The connects that recovered the former socket.
    pub recovered: u64,
    /// The connects with a new socket.
    pub fresh: u64,
    pub attempts: u64,
    /// The attempts that ended without a connected socket.
    pub failed: u64,
    /// The connections that ended without a cut of ours, after their client was back.
    pub dropped: u64,
    pub resets: u64,
    pub stalls: u64,
}

pub struct Fleet {
    clients: Vec<Client>,
    by_conn: Vec<usize>,
    timers: BinaryHeap<Reverse<(Instant, usize, u32, Due)>>,
    chance: u64,
    /// Whether the first delay is the shortest possible one.
    eager: bool,
    pub echo_every: Option<Duration>,
    cuts: Option<Cuts>,
    pub counts: Counts,
    pub errors: Errors,
    pub echo: Histogram<u64>,
    /// The times from the start of an attempt until the client is back.
    pub attempt: Histogram<u64>,
    /// When clients came back since the last call of [`Fleet::restarted`].
    pub back_at: Vec<Instant>,
    pub delivery: Histogram<u64>,
    publisher: Option<ConnId>,
}

impl Fleet {
    pub fn new(clients: usize, eager: bool) -> Self {
        let client = || Client {
            conn: None,
            state: State::Away,
            era: 0,
            attempts: 0,
            pid: None,
            offset: None,
            echoes: VecDeque::new(),
            next_ack: JOIN + 1,
            received: Received::default(),
        };
        Self {
            clients: (0..clients).map(|_| client()).collect(),
            by_conn: Vec::new(),
            timers: BinaryHeap::new(),
            chance: 0x9e37_79b9_7f4a_7c15 ^ clients as u64,
            eager,
            echo_every: None,
            cuts: None,
            counts: Counts::default(),
            errors: Errors::default(),
            echo: latencies(),
            attempt: latencies(),
            back_at: Vec::new(),
            delivery: latencies(),
            publisher: None,
        }
    }

    pub fn len(&self) -> usize {
        self.clients.len()
    }

    pub fn all_back(&self) -> bool {
        self.counts.back == self.clients.len()
    }

    /// Connects all clients for the first time, at most `at_once` at a time.
    pub fn come(&mut self, net: &mut Net, at_once: usize, within: Duration) -> Result<()> {
        let until = Instant::now() + within;
        let mut next = 0;
        while !self.all_back() {
            while next < self.len() && next - self.counts.back < at_once {
                self.connect(net, next)?;
                next += 1;
            }
            net.turn(self, Duration::from_millis(1))?;
            self.handle_timers(net)?;
            if Instant::now() > until {
                let back = self.counts.back;
                return Err(format!("{back} of {} clients came in time", self.len()).into());
            }
        }
        self.counts = Counts {
            back: self.counts.back,
            ..Counts::default()
        };
        self.attempt.reset();
        Ok(())
    }

    /// Resets the measurements before a new phase of the storm.
    pub fn restarted(&mut self) {
        self.counts = Counts {
            back: self.counts.back,
            ..Counts::default()
        };
        self.attempt.reset();
        self.echo.reset();
        self.back_at.clear();
    }

    /// Lets all clients send echoes as soon as they are back.
    pub fn start_echoes(&mut self, every: Duration) {
        self.echo_every = Some(every);
        let now = Instant::now();
        for at in 0..self.clients.len() {
            if self.clients[at].state == State::Back {
                let due = now + every.mul_f64(self.random());
                self.set_timer(due, at, Due::Echo);
            }
        }
    }

    pub fn stop_echoes(&mut self) {
        self.echo_every = None;
    }

    pub fn open_echoes(&self) -> usize {
        self.clients.iter().map(|client| client.echoes.len()).sum()
    }

    pub fn start_cuts(&mut self, cuts: Cuts) {
        self.cuts = Some(cuts);
        let first = Instant::now() + BEFORE_CUTS;
        for at in 0..self.clients.len() {
            let due = first + cuts.every.mul_f64(self.random());
            self.set_timer(due, at, Due::Cut);
        }
    }

    /// Stops the cuts. Stalls under way still end.
    pub fn stop_cuts(&mut self) {
        self.cuts = None;
    }

    /// Lets the server send a numbered message to the room of all clients.
    pub fn publish(&mut self, net: &mut Net, number: u64) -> Result<()> {
        let c = match self.publisher {
            Some(c) => c,
            None => net.connect_http()?,
        };
        self.publisher = Some(c);
        let sent_at = since_epoch().as_micros();
        let data = format!("{{\\\"seq\\\":{number},\\\"sentAt\\\":{sent_at}}}");
        let body = format!("{{\"stream\":\"{ROOM}\",\"data\":\"{data}\"}}");
        let head = format!(
            "POST /_broadcast HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        net.send_raw(c, &[head.as_bytes(), body.as_bytes()]);
        Ok(())
    }

    pub fn received(&self) -> impl Iterator<Item = &Received> {
        self.clients.iter().map(|client| &client.received)
    }

    pub fn until_timer(&self) -> Duration {
        let first = self.timers.peek().map(|Reverse((due, ..))| *due);
        first.map_or(Duration::from_millis(1), |due| {
            due.saturating_duration_since(Instant::now())
        })
    }

    pub fn handle_timers(&mut self, net: &mut Net) -> Result<()> {
        let mut starts = 0;
        while let Some(Reverse((due, at, era, what))) = self.timers.peek().copied() {
            if due > Instant::now() || starts == STARTS {
                return Ok(());
            }
            self.timers.pop();
            let client = &self.clients[at];
            // A timer of a cut is valid in all states of a client.
            if era != client.era && what != Due::Cut {
                continue;
            }
            match what {
                Due::Connect => {
                    starts += 1;
                    self.connect(net, at)?;
                }
                Due::GiveUp if client.state == State::Coming => {
                    if let Some(c) = client.conn {
                        net.drop_conn(c);
                    }
                    self.lose(at);
                }
                Due::GiveUp => {}
                Due::Echo => self.send_echo(net, at, due),
                Due::Cut => self.cut(net, at, due),
                Due::EndOfStall { reset } => self.end_stall(net, at, reset),
            }
        }
        Ok(())
    }

    fn set_timer(&mut self, due: Instant, at: usize, what: Due) {
        let era = self.clients[at].era;
        self.timers.push(Reverse((due, at, era, what)));
    }

    /// Returns a random number from 0 to 1, by xorshift64*.
    fn random(&mut self) -> f64 {
        self.chance ^= self.chance >> 12;
        self.chance ^= self.chance << 25;
        self.chance ^= self.chance >> 27;
        (self.chance.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Returns the next delay of the official client.
    fn delay(&mut self, at: usize) -> Duration {
        let attempts = self.clients[at].attempts;
        self.clients[at].attempts += 1;
        let base = DELAY_MIN * 2f64.powi(attempts.min(10) as i32);
        let chance = if self.eager && attempts == 0 {
            -1.0
        } else {
            self.random() * 2.0 - 1.0
        };
        Duration::from_secs_f64((base * (1.0 + RANDOMIZATION * chance)).min(DELAY_MAX))
    }

    fn connect(&mut self, net: &mut Net, at: usize) -> Result<()> {
        self.counts.attempts += 1;
        let client = &mut self.clients[at];
        client.state = State::Coming;
        client.era += 1;
        match net.connect_ws() {
            Ok(c) => {
                client.conn = Some(c);
                if self.by_conn.len() <= c {
                    self.by_conn.resize(c + 1, usize::MAX);
                }
                self.by_conn[c] = at;
                self.set_timer(Instant::now() + ATTEMPT, at, Due::GiveUp);
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => self.lose(at),
            Err(error) => return Err(format!("connect: {error}").into()),
        }
        Ok(())
    }

    /// Records that the client has lost its connection, and sets the timer of the next attempt.
    fn lose(&mut self, at: usize) {
        let client = &mut self.clients[at];
        match client.state {
            State::Back => self.counts.back -= 1,
            State::Coming => self.counts.failed += 1,
            State::Away => {}
        }
        client.state = State::Away;
        client.conn = None;
        client.era += 1;
        client.echoes.clear();
        let due = Instant::now() + self.delay(at);
        self.set_timer(due, at, Due::Connect);
    }

    fn is_back(&mut self, net: &Net, c: ConnId) {
        let at = self.by_conn[c];
        let client = &mut self.clients[at];
        client.state = State::Back;
        client.attempts = 0;
        client.era += 1;
        self.counts.back += 1;
        let now = net.now;
        self.back_at.push(now);
        if let Some(started) = net.started(c) {
            self.attempt
                .saturating_record((now - started).as_nanos() as u64);
        }
        if let Some(every) = self.echo_every {
            let due = now + every.mul_f64(self.random());
            self.set_timer(due, at, Due::Echo);
        }
    }

    fn send_echo(&mut self, net: &mut Net, at: usize, due: Instant) {
        let Some(every) = self.echo_every else {
            return;
        };
        let client = &mut self.clients[at];
        let (Some(c), State::Back) = (client.conn, client.state) else {
            return;
        };
        let ack = client.next_ack;
        client.next_ack += 1;
        // The time counts from when the echo was due, so that a late load generator does not hide
        // the server's delays.
        client.echoes.push_back((ack, due));
        let text = format!("42{ack}[\"echo\",\"0123456789 0123456789 0123456789\"]");
        net.send_text(c, &[text.as_bytes()]);
        self.set_timer(due + every, at, Due::Echo);
    }

    fn cut(&mut self, net: &mut Net, at: usize, due: Instant) {
        let Some(cuts) = self.cuts else {
            return;
        };
        let next = due + cuts.every.mul_f64(0.5 + self.random());
        self.set_timer(next, at, Due::Cut);
        let kind = (self.random() * 3.0) as u8;
        let client = &self.clients[at];
        let (Some(c), State::Back) = (client.conn, client.state) else {
            return;
        };
        if kind == 0 {
            return self.reset(net, at);
        }
        self.counts.stalls += 1;
        net.pause(c);
        let reset = kind == 1;
        self.set_timer(due + cuts.stall, at, Due::EndOfStall { reset });
    }

    fn end_stall(&mut self, net: &mut Net, at: usize, reset: bool) {
        match self.clients[at].conn {
            Some(_) if reset => self.reset(net, at),
            Some(c) => net.resume(self, c),
            None => {}
        }
    }

    fn reset(&mut self, net: &mut Net, at: usize) {
        if let Some(c) = self.clients[at].conn {
            self.counts.resets += 1;
            net.reset_conn(c);
            self.lose(at);
        }
    }

    fn on_ack(&mut self, net: &Net, c: ConnId, data: &[u8]) {
        let at = self.by_conn[c];
        let client = &mut self.clients[at];
        match leading_number(data) {
            Some((JOIN, _)) if client.state == State::Coming => self.is_back(net, c),
            Some((ack, _)) => match client.echoes.iter().position(|echo| echo.0 == ack) {
                // The answers may come in another order.
                Some(place) => {
                    let (_, due) = client.echoes.remove(place).expect("it is there");
                    let took = net.now.saturating_duration_since(due);
                    self.echo.saturating_record(took.as_nanos() as u64);
                }
                None => self.add_unexpected(data),
            },
            None => self.add_unexpected(data),
        }
    }

    fn add_unexpected(&mut self, data: &[u8]) {
        let why = || format!("unexpected message: {}", excerpt(data));
        self.errors.add(why);
    }

    fn on_message(&mut self, c: ConnId, data: &[u8]) {
        let client = &mut self.clients[self.by_conn[c]];
        let field = |name: &[u8]| {
            let at = data.windows(name.len()).position(|part| part == name)?;
            Some(leading_number(&data[at + name.len()..])?.0)
        };
        let (Some(number), Some(sent_at)) = (field(b"\"seq\":"), field(b"\"sentAt\":")) else {
            return self.add_unexpected(data);
        };
        client.received.add(number);
        if client.pid.is_some()
            && let Some(offset) = last_text(data)
        {
            client.offset = Some(offset);
        }
        let took = since_epoch().saturating_sub(Duration::from_micros(sent_at));
        self.delivery.saturating_record(took.as_nanos() as u64);
    }
}

/// Returns the last argument of an event, if it is a string without escapes.
fn last_text(data: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(data).ok()?.strip_suffix("\"]")?;
    Some(text.rsplit_once('"')?.1.to_owned())
}

fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

impl Driver for Fleet {
    fn auth(&mut self, c: ConnId) -> String {
        let client = &self.clients[self.by_conn[c]];
        match (&client.pid, &client.offset) {
            (Some(pid), Some(offset)) => format!("{{\"pid\":\"{pid}\",\"offset\":\"{offset}\"}}"),
            (Some(pid), None) => format!("{{\"pid\":\"{pid}\"}}"),
            (None, _) => String::new(),
        }
    }

    fn on_connect(&mut self, net: &mut Net, c: ConnId, answer: &[u8]) {
        let client = &mut self.clients[self.by_conn[c]];
        let answer = serde_json::from_slice::<serde_json::Value>(answer).unwrap_or_default();
        let pid = answer["pid"].as_str().map(str::to_owned);
        let recovered = pid.is_some() && pid == client.pid;
        client.pid = pid;
        if recovered {
            self.counts.recovered += 1;
            self.is_back(net, c);
        } else {
            self.counts.fresh += 1;
            let join = format!("42{JOIN}[\"join\",\"{ROOM}\"]");
            net.send_text(c, &[join.as_bytes()]);
        }
    }

    fn on_text(&mut self, net: &mut Net, c: ConnId, data: &[u8]) {
        match data {
            [b'4', b'3', ack @ ..] => self.on_ack(net, c, ack),
            [b'4', b'2', event @ ..] => self.on_message(c, event),
            _ => self.add_unexpected(data),
        }
    }

    fn on_http(&mut self, _net: &mut Net, _c: ConnId, status: u16, _body: &[u8]) {
        if status != 200 {
            self.errors.add(|| format!("status {status}"));
        }
    }

    fn on_close(&mut self, _net: &mut Net, c: ConnId, how: Closed) {
        if self.publisher == Some(c) {
            self.publisher = None;
            return;
        }
        let at = self.by_conn[c];
        if self.clients[at].state == State::Back {
            self.counts.dropped += 1;
        } else if let Closed::Lost(why) = how
            && (why.starts_with("upgrade refused") || why.starts_with("unexpected"))
        {
            self.errors.add(|| why);
        }
        self.lose(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_counted_once_and_in_order() {
        let mut received = Received::default();
        for number in [1, 2, 200, 3, 2, 3] {
            received.add(number);
        }
        assert_eq!(received.messages, 4);
        assert_eq!(received.repeated, 2);
        assert_eq!(received.overtaken, 1);
    }

    #[test]
    fn delays_are_those_of_the_official_client() {
        let mut fleet = Fleet::new(1, false);
        for (attempt, (least, most)) in [(0.5, 1.5), (1.0, 3.0), (2.0, 5.0), (4.0, 5.0)]
            .into_iter()
            .cycle()
            .take(4_000)
            .enumerate()
        {
            fleet.clients[0].attempts = attempt as u32 % 4;
            let delay = fleet.delay(0).as_secs_f64();
            assert!((least..=most).contains(&delay), "{attempt}: {delay}");
        }
    }

    #[test]
    fn the_offset_is_the_last_text() {
        let event = br#"["message",{"seq":1},"AbC"]"#;
        assert_eq!(last_text(event).as_deref(), Some("AbC"));
        assert_eq!(last_text(br#"["message",{"seq":1}]"#), None);
    }
}
