//! What the application and the clients of a script have seen, and what must hold of it.
//!
//! Tokens stand in the events whose order is checked: `#` and 16 digits, which an input cannot guess.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tower_socketio::Socket;

#[derive(Clone, Default)]
pub struct Shared(Arc<Mutex<Record>>);

#[derive(Default)]
pub struct Record {
    tokens: u64,
    sockets: HashMap<String, Log>,
    /// The sockets that a token was sent to, and its number among the tokens of each.
    sent: HashMap<u64, Vec<(String, u64)>>,
    /// The connection whose client has sent a token, and its number there.
    received: HashMap<u64, (u32, u64)>,
    /// The number of the last token of a client, for each connection.
    last_of_client: HashMap<u32, u64>,
    /// The connections by the tokens in their queries.
    connections: HashMap<u64, u32>,
    /// The connections whose clients may have lost an event on its way to the server.
    may_lose: Vec<u32>,
    /// The connections whose events may have gone to a stream that is not scanned.
    may_miss: Vec<u32>,
    /// The acknowledgements that the application waits for.
    pub acks: usize,
    /// Whether handlers may be dropped, as at the deadline of a shutdown.
    pub may_cut: bool,
    /// Whether sockets are restored.
    pub may_recover: bool,
}

#[derive(Default)]
struct Log {
    phase: Phase,
    owner: Option<u32>,
    /// The number of handlers that run.
    running: usize,
    sent: u64,
    seen: u64,
    /// The last token that the application has received: its connection, and its number there.
    handled: Option<(u32, u64)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Phase {
    #[default]
    New,
    Connecting,
    Connected,
    Refused,
    Left,
}

/// A handler that runs. Dropping it ends it.
pub struct Running {
    shared: Shared,
    id: String,
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, Record> {
        // Handlers of scripts panic.
        self.0.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    pub fn connecting(&self, socket: &Socket) {
        let mut record = self.lock();
        let owner = record.owner(socket);
        let log = record.log(socket);
        let comes_back = log.phase == Phase::Left && socket.recovered();
        assert!(
            log.phase == Phase::New || comes_back,
            "a connect handler after {:?}",
            log.phase
        );
        log.phase = Phase::Connecting;
        let former = std::mem::replace(&mut log.owner, owner);
        if comes_back && former.is_none() {
            // What it read on a stream whose request is not ours was not counted.
            record.may_miss.extend(owner);
        }
    }

    pub fn connected(&self, socket: &Socket, is_accepted: bool) {
        let mut record = self.lock();
        record.log(socket).phase = match is_accepted {
            true => Phase::Connected,
            false => Phase::Refused,
        };
    }

    /// Begins a handler of an event.
    #[must_use]
    pub fn event(&self, socket: &Socket) -> Running {
        let mut record = self.lock();
        let log = record.log(socket);
        assert_eq!(log.phase, Phase::Connected, "an event");
        log.running += 1;
        drop(record);
        Running {
            shared: self.clone(),
            id: socket.id().to_string(),
        }
    }

    pub fn disconnected(&self, socket: &Socket) {
        let mut record = self.lock();
        let may_cut = record.may_cut;
        let log = record.log(socket);
        assert_eq!(log.phase, Phase::Connected, "a disconnect handler");
        assert!(log.running == 0 || may_cut, "an event is being handled");
        log.phase = Phase::Left;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(log) = self.shared.lock().sockets.get_mut(&self.id) {
            log.running -= 1;
        }
    }
}

impl Record {
    fn log(&mut self, socket: &Socket) -> &mut Log {
        self.sockets.entry(socket.id().to_string()).or_default()
    }

    /// Returns a token for an event to these sockets.
    pub fn send(&mut self, sockets: &[Socket]) -> String {
        let token = self.token();
        let numbers = sockets.iter().map(|socket| {
            let log = self.sockets.entry(socket.id().to_string()).or_default();
            log.sent += 1;
            (socket.id().to_string(), log.sent)
        });
        let numbers = numbers.collect();
        self.sent.insert(token, numbers);
        format!("#{token:016x}")
    }

    /// Returns a token for an event of a client.
    pub fn client_sends(&mut self, connection: u32) -> String {
        let token = self.token();
        let last = self.last_of_client.entry(connection).or_default();
        *last += 1;
        self.received.insert(token, (connection, *last));
        format!("#{token:016x}")
    }

    /// Returns a token for the query of a connection's requests.
    pub fn connect(&mut self, connection: u32) -> String {
        let token = self.token();
        self.connections.insert(token, connection);
        format!("{token:016x}")
    }

    /// Returns the connection that the query of a socket's handshake names.
    fn owner(&self, socket: &Socket) -> Option<u32> {
        let parts = socket.request_parts();
        let mut fields = parts.uri.query()?.split('&');
        let token = fields.find_map(|field| field.strip_prefix("c="))?;
        let token = u64::from_str_radix(token, 16).ok()?;
        self.connections.get(&token).copied()
    }

    /// Records that events of a client may not arrive, as its client knows.
    pub fn may_lose(&mut self, connection: u32) {
        self.may_lose.push(connection);
    }

    /// Records that events for a client may not be scanned.
    pub fn may_miss(&mut self, connection: u32) {
        self.may_miss.push(connection);
    }

    /// Checks a token that the application has received.
    pub fn receive(&mut self, socket: &Socket, token: &str) {
        let token = token.strip_prefix('#').unwrap_or_default();
        let token = u64::from_str_radix(token, 16).unwrap_or_default();
        let Some(&(connection, number)) = self.received.get(&token) else {
            return;
        };
        let may_lose = self.may_lose.contains(&connection);
        let log = self.log(socket);
        if let Some((earlier, last)) = log.handled.replace((connection, number)) {
            let follows = number == last + 1 || (may_lose && number > last);
            assert!(
                earlier != connection || follows,
                "event {number} of a client after {last}"
            );
        }
    }

    /// Checks the tokens in what the client of a connection has read.
    pub fn scan(&mut self, connection: u32, output: &[u8]) {
        for at in 0..output.len() {
            if output[at] == b'#' {
                self.see(connection, output.get(at + 1..at + 17).unwrap_or_default());
            }
        }
    }

    fn see(&mut self, connection: u32, token: &[u8]) {
        let token = std::str::from_utf8(token).unwrap_or_default();
        let token = u64::from_str_radix(token, 16).unwrap_or_default();
        let Some(recipients) = self.sent.get(&token) else {
            return;
        };
        let mut own = recipients.iter().filter(|(id, _)| {
            let owner = self.sockets.get(id).and_then(|log| log.owner);
            owner == Some(connection)
        });
        let Some((id, number)) = own.next() else {
            // A socket that was away gets the broadcasts of that time. A stream whose request is not
            // ours has no owner.
            let mut ids = recipients.iter().map(|(id, _)| id);
            let is_unowned = |id| self.sockets.get(id).is_some_and(|log| log.owner.is_none());
            assert!(
                self.may_recover || ids.any(is_unowned),
                "an event for a socket of another client"
            );
            return;
        };
        let may_miss = self.may_miss.contains(&connection);
        let log = self.sockets.get_mut(id).expect("a socket");
        assert!(
            *number == log.seen + 1 || (may_miss && *number > log.seen),
            "event {number} after {}",
            log.seen
        );
        log.seen = *number;
    }

    /// Checks that a client whose socket is connected, and who has read everything, has all events.
    pub fn check_complete(&mut self, socket: &Socket, connections: &[u32]) {
        let may_miss = self.may_miss.clone();
        let log = self.log(socket);
        let reads = log
            .owner
            .is_some_and(|owner| connections.contains(&owner) && !may_miss.contains(&owner));
        if reads && log.phase == Phase::Connected {
            assert_eq!(log.seen, log.sent, "events are missing");
        }
    }

    /// Checks that every socket has left, after its handlers have ended.
    pub fn check_end(&self) {
        for log in self.sockets.values() {
            let is_cut = self.may_cut && log.phase == Phase::Connecting;
            assert!(
                is_cut || matches!(log.phase, Phase::Left | Phase::Refused),
                "the last handler was not that of a disconnect, but {:?}",
                log.phase
            );
            assert_eq!(log.running, 0, "a handler was not dropped");
        }
        assert_eq!(self.acks, 0, "an acknowledgement is still awaited");
    }

    fn token(&mut self) -> u64 {
        self.tokens += 1;
        // The function of SplitMix64.
        let mut token = self.tokens.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        token = (token ^ (token >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        token = (token ^ (token >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        token ^ (token >> 31)
    }
}
