//! The events that a client sends in one namespace, and the checks of the events that it receives.
//! There is no I/O in this module.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::connection::{Message, Result};
use crate::tally::{TOTALS, acknowledged_after, unexpected};

/// The time for which the server can recover a client, and keeps the events that it may have
/// missed.
const WITHIN: Duration = Duration::from_secs(20);

/// Numbers that must arrive in order and without gaps.
#[derive(Debug, Default)]
struct Sequence {
    last: u64,
    missing: BTreeSet<u64>,
}

impl Sequence {
    fn after(last: u64) -> Self {
        Self {
            last,
            ..Self::default()
        }
    }

    fn hear(&mut self, number: u64) {
        if number > self.last {
            self.miss(number - 1);
            self.last = number;
        } else if self.missing.remove(&number) {
            TOTALS.lost.subtract(1);
            TOTALS.reordered.add(1);
        } else {
            TOTALS.duplicated.add(1);
        }
    }

    /// Counts as lost all numbers up to `last` that have not arrived.
    fn miss(&mut self, last: u64) {
        self.missing.extend(self.last + 1..=last);
        TOTALS.lost.add(last.saturating_sub(self.last));
        self.last = self.last.max(last);
    }
}

/// The private id and the offset with which a client is recovered.
#[derive(Debug, Default)]
struct Seat {
    private_id: String,
    offset: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    /// Connected. The client waits for the numbers of the server.
    Connected {
        recovered: bool,
    },
    Synced,
}

/// One namespace of one client.
#[derive(Debug)]
pub(crate) struct Talk {
    /// The namespace as in a packet: empty, or with a comma at the end.
    prefix: &'static str,
    state: State,
    seat: Seat,
    /// Whether the client sends binary data.
    is_binary: bool,
    next: u64,
    unanswered: VecDeque<(u64, Instant)>,
    all: Sequence,
    asked: Sequence,
    room: Option<(u64, Sequence)>,
    /// The number of the last `sync` event, and the value of `next` at that time.
    token: u64,
    token_next: u64,
    asked_at: Duration,
    /// Whether the `sync` event is not answered yet.
    is_asking: bool,
    is_lost: bool,
    /// When the server sent the last `all` event that has arrived, since 1970. An answer to `sync`
    /// counts too, with the time of the question, because it was sent later.
    sent_at: Duration,
    out: Vec<Message>,
}

impl Talk {
    pub(crate) fn new(prefix: &'static str, is_binary: bool) -> Self {
        Self {
            prefix,
            state: State::Connecting,
            seat: Seat::default(),
            is_binary,
            next: 1,
            unanswered: VecDeque::new(),
            all: Sequence::default(),
            asked: Sequence::default(),
            room: None,
            token: 0,
            token_next: 0,
            asked_at: Duration::ZERO,
            is_asking: false,
            is_lost: false,
            sent_at: Duration::ZERO,
            out: Vec::new(),
        }
    }

    pub(crate) fn is_synced(&self) -> bool {
        self.state == State::Synced && !self.is_asking
    }

    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Message> + '_ {
        self.out.drain(..)
    }

    /// Records that the connection is lost.
    pub(crate) fn lost(&mut self) {
        self.is_lost = true;
    }

    /// Sends the CONNECT packet. It asks for recovery if the client has a private id.
    pub(crate) fn connect(&mut self) {
        let seat = &self.seat;
        let claim = match (&*seat.private_id, &*seat.offset) {
            ("", _) => String::new(),
            (id, "") => json!({ "pid": id }).to_string(),
            (id, offset) => json!({ "pid": id, "offset": offset }).to_string(),
        };
        self.state = State::Connecting;
        self.unanswered.clear();
        self.is_asking = false;
        self.out.clear();
        self.send(&format!("0{}{claim}", self.prefix));
    }

    fn send(&mut self, packet: &str) {
        self.out.push(Message::Text(format!("4{packet}")));
    }

    pub(crate) fn leave(&mut self) {
        let prefix = self.prefix;
        self.send(&format!("1{prefix}"));
    }

    /// Sends an event that the server acknowledges.
    pub(crate) fn say(&mut self) {
        if self.state != State::Synced {
            return;
        }
        let (prefix, number) = (self.prefix, self.next);
        self.next += 1;
        TOTALS.said.add(1);
        self.unanswered.push_back((number, Instant::now()));
        if self.is_binary {
            let event = json!(["say-binary", number, { "_placeholder": true, "num": 0 }]);
            self.send(&format!("51-{prefix}{number}{event}"));
            self.out.push(Message::Binary(text(number).into_bytes()));
        } else {
            let event = json!(["say", number, text(number)]);
            self.send(&format!("2{prefix}{number}{event}"));
        }
    }

    /// Enters a room, unless the client is in one: a recovered client is in its former room.
    pub(crate) fn enter_first(&mut self, room: u64) {
        if self.room.is_none() {
            self.enter(room);
        }
    }

    pub(crate) fn enter(&mut self, room: u64) {
        if self.state == State::Synced {
            TOTALS.moves.add(1);
            let event = json!(["move", room]);
            self.send(&format!("2{}{event}", self.prefix));
        }
    }

    /// Asks for the numbers of the last events that the server has sent.
    pub(crate) fn sync(&mut self) {
        let is_first = self.state != State::Synced;
        self.token += 1;
        self.token_next = self.next;
        self.asked_at = since_1970();
        self.is_asking = true;
        let event = json!(["sync", self.token, self.next, is_first]);
        self.send(&format!("2{}{event}", self.prefix));
    }

    /// Handles a packet. `kind` is its type, and `rest` the part after the namespace.
    pub(crate) fn handle(&mut self, kind: u8, rest: &str, attachment: Option<&[u8]>) -> Result<()> {
        match kind {
            b'0' => return self.connected(rest),
            b'1' => return Err("disconnected by the server".to_owned()),
            b'4' => return Err(format!("refused: {rest}")),
            _ => {}
        }
        let (ack, args) = rest.split_at(rest.find('[').ok_or("no arguments")?);
        let mut args: Vec<Value> = serde_json::from_str(args).map_err(|error| error.to_string())?;
        if matches!(kind, b'3' | b'6') {
            let number = ack.parse().map_err(|_| "no number of an acknowledgement")?;
            return self.acknowledged(number, &args, attachment);
        }
        if ack.is_empty() {
            match args.pop() {
                Some(Value::String(offset)) => self.seat.offset = offset,
                _ => return Err(format!("no offset: {rest}")),
            }
        }
        self.event(ack, &args, attachment)
    }

    fn connected(&mut self, rest: &str) -> Result<()> {
        let ids: Value = serde_json::from_str(rest).map_err(|error| error.to_string())?;
        let private_id = ids["pid"].as_str().ok_or("no private id")?;
        let recovered = self.seat.private_id == private_id;
        if std::mem::take(&mut self.is_lost) {
            // The age of the last event that has arrived is about that of the first missed event.
            let age = since_1970().saturating_sub(self.sent_at);
            match recovered {
                true => TOTALS.recovered.add(1),
                false if age >= WITHIN => TOTALS.too_late.add(1),
                false => {
                    TOTALS.not_recovered.add(1);
                    eprintln!("not recovered: {age:?} after the last broadcast: {self:?}");
                }
            }
        }
        if !recovered {
            self.room = None;
            self.seat.offset.clear();
        }
        private_id.clone_into(&mut self.seat.private_id);
        self.state = State::Connected { recovered };
        self.sync();
        Ok(())
    }

    fn acknowledged(
        &mut self,
        number: u64,
        args: &[Value],
        attachment: Option<&[u8]>,
    ) -> Result<()> {
        let expected = text(number);
        let same = match attachment {
            Some(data) => data == expected.as_bytes(),
            None => args.get(1).and_then(Value::as_str) == Some(&expected),
        };
        if !same || args.first().and_then(Value::as_u64) != Some(number) {
            return Err(format!("another echo of {number}: {args:?}"));
        }
        let Some(at) = self.unanswered.iter().position(|(each, _)| *each == number) else {
            TOTALS.duplicated.add(1);
            return Ok(());
        };
        TOTALS.reordered.add(u64::from(at > 0));
        if let Some((_, since)) = self.unanswered.remove(at) {
            acknowledged_after(since.elapsed());
        }
        Ok(())
    }

    fn event(&mut self, ack: &str, args: &[Value], attachment: Option<&[u8]>) -> Result<()> {
        TOTALS.heard.add(1);
        let number = |at: usize| {
            let number = args.get(at).and_then(Value::as_u64);
            number.ok_or_else(|| format!("no number: {args:?}"))
        };
        match args.first().and_then(Value::as_str) {
            Some("ask") => {
                let asked = number(1)?;
                if self.state == State::Synced {
                    self.asked.hear(asked);
                }
                let answer = json!([asked]);
                self.send(&format!("3{}{ack}{answer}", self.prefix));
            }
            // A new client that is not synced does not know its first number.
            Some("all") => {
                if attachment.is_some_and(|data| !data.starts_with(b"allall")) {
                    return Err("another attachment".to_owned());
                }
                self.sent_at = Duration::from_millis(number(3)?);
                if self.knows_numbers() {
                    self.all.hear(number(1)?);
                }
            }
            Some("room") => match &mut self.room {
                Some((room, sequence)) if *room == number(1)? => sequence.hear(number(2)?),
                _ => unexpected(&format!(
                    "an event of another room than {:?}: {args:?}",
                    self.room
                )),
            },
            Some("entered") => self.room = Some((number(1)?, Sequence::after(number(2)?))),
            Some("left") => {
                self.check_room(Some((number(1)?, number(2)?)));
                self.room = None;
            }
            Some("synced") => {
                let room = args.get(4).and_then(Value::as_array);
                let room = room.map(|room| Some((room.first()?.as_u64()?, room.get(1)?.as_u64()?)));
                self.synced(number(1)?, [number(2)?, number(3)?], room.flatten());
            }
            _ => return Err(format!("another event: {args:?}")),
        }
        Ok(())
    }

    /// Returns whether the numbers of broadcasts continue the known numbers. This holds for a
    /// recovered client, and also before it is connected, when it gets the missed events.
    fn knows_numbers(&self) -> bool {
        match self.state {
            State::Connecting => !self.seat.private_id.is_empty(),
            State::Connected { recovered } => recovered,
            State::Synced => true,
        }
    }

    fn check_room(&mut self, sent: Option<(u64, u64)>) {
        match (&mut self.room, sent) {
            (Some((room, sequence)), Some((of, last))) if *room == of => sequence.miss(last),
            (None, None) => {}
            (own, sent) => unexpected(&format!("a client is in {own:?}, the server says {sent:?}")),
        }
    }

    fn synced(&mut self, token: u64, [all, asked]: [u64; 2], room: Option<(u64, u64)>) {
        // The answer belongs to the previous connection.
        if token != self.token || self.state == State::Connecting {
            return;
        }
        self.is_asking = false;
        self.sent_at = self.sent_at.max(self.asked_at);
        if self.knows_numbers() {
            self.check_all(all);
            self.check_room(room);
        } else {
            self.all = Sequence::after(all);
        }
        if self.state == State::Synced {
            self.asked.miss(asked);
        } else {
            self.asked = Sequence::after(asked);
        }
        // The server acknowledges the events before the `sync` event before it answers the latter.
        let before = self.unanswered.len();
        let next = self.token_next;
        self.unanswered.retain(|(number, _)| *number >= next);
        TOTALS.lost.add((before - self.unanswered.len()) as u64);
        self.state = State::Synced;
    }

    fn check_all(&mut self, sent: u64) {
        if self.all.last > sent {
            unexpected(&format!(
                "a client has heard {}, the server has sent {sent}",
                self.all.last
            ));
        }
        self.all.miss(sent);
    }
}

fn since_1970() -> Duration {
    let since = SystemTime::UNIX_EPOCH.elapsed();
    since.expect("after 1970")
}

/// Returns the text of the event with a number: 30 to 150 bytes.
fn text(number: u64) -> String {
    format!("{number:030}").repeat(1 + (number % 5) as usize)
}

/// Writes messages as a long-polling body.
pub(crate) fn to_body(messages: impl IntoIterator<Item = Message>) -> String {
    let mut body = String::new();
    for message in messages {
        if !body.is_empty() {
            body.push('\x1e');
        }
        match message {
            Message::Text(text) => body.push_str(&text),
            Message::Binary(data) => {
                body.push('b');
                STANDARD.encode_string(data, &mut body);
            }
        }
    }
    body
}

/// Reads the messages of a long-polling body.
pub(crate) fn from_body(body: &str) -> Result<Vec<Message>> {
    let message = |packet: &str| match packet.strip_prefix('b') {
        None => Ok(Message::Text(packet.to_owned())),
        Some(data) => STANDARD
            .decode(data)
            .map(Message::Binary)
            .map_err(|error| error.to_string()),
    };
    body.split('\x1e').map(message).collect()
}
