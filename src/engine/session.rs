//! One session: heartbeat, upgrade, what is to be sent, and why it ended.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::timer::{Timer, TimerTable, deadline};
use super::{Message, Packet, Refusal, Revision, SessionId, Transport};

/// The limits of a session. Sizes are in bytes.
#[derive(Clone, Debug)]
pub struct Config {
    /// From the open packet, and from each pong, to the next ping; 25 s. More than 12 days count as
    /// 12 days.
    pub ping_interval: Duration,
    /// How long a pong may take, and bytes that do not leave; 20 s.
    pub ping_timeout: Duration,
    /// How long an upgrade may take; 10 s.
    pub upgrade_timeout: Duration,
    /// How long the rest may take after a close; 5 s.
    pub close_timeout: Duration,
    /// The longest message, WebSocket frame and polling body; 1 000 000.
    pub max_payload: usize,
    /// How much may wait to be sent before input is no longer read; 256 KiB.
    pub high_water: usize,
    /// How much may wait to be sent before the session is closed; 4 MiB.
    pub max_buffered: usize,
    /// How much may wait for its handler before input is no longer read; 256 KiB. It is four times
    /// as much while the application waits for an answer, which lies behind what waits.
    pub max_pending: usize,
    /// The longest head of the request that opens a session: its URI, and the names and values of
    /// its headers; 32 KiB. The head is kept as long as the session. A longer one is refused with
    /// status 431.
    pub max_handshake: usize,
    /// Whether sessions may begin with polling.
    pub polling: bool,
    /// Whether sessions may begin with WebSocket, and change to it.
    pub websocket: bool,
    /// Whether sessions may change from polling to WebSocket.
    pub upgrades: bool,
    /// A message that follows the open packet at once, in the same polling body; none.
    pub initial_packet: Option<Message>,
    /// Whether clients of [revision 3](Revision::V3) are served too; they are not. A client that
    /// names no revision counts as one of them.
    pub allow_eio3: bool,
    /// From how many bytes on messages are compressed on WebSocket, if the client offers
    /// `permessage-deflate`; never. Node's server begins at 1024. It costs the time to compress a
    /// message for each of its receivers; a connection holds no memory for it.
    pub deflate_from: Option<usize>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ping_interval: Duration::from_secs(25),
            ping_timeout: Duration::from_secs(20),
            upgrade_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            max_payload: 1_000_000,
            high_water: 256 * 1024,
            max_buffered: 4 * 1024 * 1024,
            max_pending: 256 * 1024,
            max_handshake: 32 * 1024,
            polling: true,
            websocket: true,
            upgrades: true,
            initial_packet: None,
            allow_eio3: false,
            deflate_from: None,
        }
    }
}

impl Config {
    /// From a pong to the next ping. A client gives the connection up without one after what it
    /// was told, and its timers hold no longer time than [`LONGEST`].
    fn interval(&self) -> Duration {
        self.ping_interval.min(LONGEST)
    }

    /// How long a client of revision 3 may be silent.
    fn silence(&self) -> Duration {
        self.interval().saturating_add(self.ping_timeout)
    }

    /// Checks that no time is zero that has to be more.
    ///
    /// # Panics
    ///
    /// If one is.
    #[track_caller]
    pub(crate) fn check(&self) {
        check_time("ping_interval", self.ping_interval);
        check_time("ping_timeout", self.ping_timeout);
        check_time("upgrade_timeout", self.upgrade_timeout);
    }

    /// The JSON of the open packet.
    fn open_packet(&self, sid: &SessionId, transport: Transport) -> Bytes {
        let upgrades = match transport {
            Transport::Polling if self.websocket && self.upgrades => r#"["websocket"]"#,
            Transport::Polling | Transport::WebSocket => "[]",
        };
        format!(
            r#"{{"sid":"{}","upgrades":{upgrades},"pingInterval":{},"pingTimeout":{},"maxPayload":{}}}"#,
            sid.expose(),
            announced(self.ping_interval),
            announced(self.ping_timeout),
            self.max_payload,
        )
        .into()
    }
}

/// The longest time that a client is told of, 12 days. JavaScript's timers hold 2^31 - 1
/// milliseconds, a client adds the two times it is told, and a timer that is set to more rings at
/// once.
const LONGEST: Duration = Duration::from_millis((1 << 30) - 1);

/// A time as a client is told of it, in milliseconds; at least one.
fn announced(time: Duration) -> u128 {
    time.min(LONGEST).as_millis().max(1)
}

/// Checks a time that must be more than nothing.
///
/// # Panics
///
/// If it is zero.
#[track_caller]
pub(crate) fn check_time(name: &str, time: Duration) {
    assert!(!time.is_zero(), "`{name}` must be longer than zero");
}

/// Why a session ended. `Display` gives the reference implementation's words where it has any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The client closed its WebSocket, or sent a close packet.
    TransportClose,
    /// The transport was used against the rules, or failed.
    TransportError,
    /// No pong came, or what was sent did not leave.
    PingTimeout,
    /// A packet could not be read.
    ParseError,
    /// A message was longer than allowed.
    TooBig,
    /// The application closed it.
    ServerClose,
    /// The server is shutting down.
    Shutdown,
    /// The client broke the rules of the protocol above.
    Violation,
    /// The client reads more slowly than it is written to, and too much waits.
    SlowConsumer,
    /// More waited for its handlers than is read, the application waited for an answer that may
    /// lie behind it, and neither moved.
    EventBacklog,
}

impl CloseReason {
    /// Whether what waits is still delivered.
    const fn is_graceful(self) -> bool {
        matches!(self, Self::ServerClose | Self::Shutdown | Self::Violation)
    }

    /// The code and the reason of the WebSocket's close frame.
    #[must_use]
    pub const fn close_frame(self) -> (Option<u16>, &'static str) {
        match self {
            Self::TransportClose | Self::ServerClose => (None, ""),
            Self::TransportError => (Some(1002), "transport error"),
            Self::PingTimeout => (Some(1002), "ping timeout"),
            Self::ParseError => (Some(1002), "parse error"),
            Self::Violation => (Some(1002), "protocol violation"),
            Self::TooBig => (Some(1009), ""),
            Self::Shutdown => (Some(1001), "server shutting down"),
            Self::SlowConsumer => (Some(1013), "slow consumer"),
            Self::EventBacklog => (Some(1013), "event backlog"),
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TransportClose => "transport close",
            Self::TransportError | Self::TooBig => "transport error",
            Self::PingTimeout => "ping timeout",
            Self::ParseError => "parse error",
            Self::ServerClose => "forced close",
            Self::Violation => "forced server close",
            Self::Shutdown => "server shutting down",
            Self::SlowConsumer => "slow consumer",
            Self::EventBacklog => "event backlog",
        })
    }
}

/// What the application is told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// A message came.
    Message(Message),
    /// The session has changed to WebSocket.
    Upgraded,
    /// The session has ended. This is the last event.
    Closed(CloseReason),
}

/// One client, whatever its transport.
#[derive(Debug)]
pub struct Session {
    config: Arc<Config>,
    state: State,
    revision: Revision,
    transport: Transport,
    probe: Probe,
    /// Whether a GET waits for packets.
    poll: bool,
    /// Whether a POST is under way.
    post: bool,
    /// Whether a GET was answered since [`Timer::Post`] was set.
    fetched: bool,
    /// Whether too much waited to be sent when it was set.
    stuck: bool,
    /// Whether a waiting GET is to be released with a noop.
    release: bool,
    /// Whether it gets messages.
    carries: bool,
    open: Option<Bytes>,
    /// Whether a ping is to be sent; in revision 3 the pong that the client asked for.
    ping: bool,
    out: VecDeque<Message>,
    out_bytes: usize,
    /// How much of it are refusals.
    refused: usize,
    /// How much of it the client missed on an earlier connection, which kept it within other limits.
    missed: usize,
    /// Whether the WebSocket has taken messages that have not left yet.
    sending: bool,
    /// How much the application holds back to send it later.
    held: usize,
    events: VecDeque<SessionEvent>,
    /// How many events there have been.
    told: u64,
    pending: usize,
    /// How many answers the application waits for.
    asked: u32,
    /// Whether anything was begun or answered since the last ping.
    moved: bool,
    /// Whether another packet has put the pong's deadline off since the last ping.
    extended: bool,
    /// Whether a part of a message came since the last ping, or since it last put a deadline off.
    partial: bool,
    timers: TimerTable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The application knows that it is over; the client gets the rest.
    Closing(CloseReason),
    Closed(CloseReason),
}

/// A WebSocket beside a polling session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    None,
    Connected,
    /// The probe came, its answer is to be sent.
    Pinged,
    /// The client has its answer, or will have it, and polls no more then.
    Ponged,
    /// The client has changed, and the packets of a POST that it began before come first.
    Changing,
}

/// What a waiting message costs beyond its bytes.
const OVERHEAD: usize = 64;

/// How much more is read while the application waits for an answer.
const WHILE_ASKED: usize = 4;

/// How late a timer may be without anybody having to mind.
const TICK: Duration = Duration::from_millis(10);

/// How long a poll waits, while the client upgrades, before it is released again.
const RELEASE_AFTER: Duration = Duration::from_millis(100);

/// How long a poll that waits when the client begins to upgrade may still wait for something better
/// than a noop: the answer to what the client has just sent, say.
const PROBE_GRACE: Duration = Duration::from_millis(20);

/// How long a POST waits at most for a client to fetch what it was sent. Proxies wait 30 s or more.
const POST_PATIENCE: Duration = Duration::from_secs(20);

/// How long a poll may be on its way that the client's close packet has overtaken.
const OVERTAKEN: Duration = Duration::from_millis(500);

impl Session {
    /// Opens a session and queues its open packet.
    #[must_use]
    pub fn open(
        config: Arc<Config>,
        sid: &SessionId,
        transport: Transport,
        revision: Revision,
        now: Instant,
    ) -> Self {
        let mut timers = TimerTable::default();
        match revision {
            Revision::V4 => timers.set(Timer::Ping, deadline(now, config.interval())),
            Revision::V3 => timers.set(Timer::Pong, deadline(now, config.silence())),
        }
        let initial = config.initial_packet.clone();
        let mut session = Self {
            open: Some(config.open_packet(sid, transport)),
            config,
            state: State::Open,
            revision,
            transport,
            probe: Probe::None,
            poll: false,
            post: false,
            fetched: false,
            stuck: false,
            release: false,
            carries: false,
            ping: false,
            out: VecDeque::new(),
            out_bytes: 0,
            refused: 0,
            missed: 0,
            sending: false,
            held: 0,
            events: VecDeque::new(),
            told: 0,
            pending: 0,
            asked: 0,
            moved: false,
            extended: false,
            partial: false,
            timers,
        };
        if let Some(message) = initial {
            session.push(message);
        }
        session
    }

    // A. getters

    /// The revision of the protocol that the client speaks.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The transport that messages travel on.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Whether the session is neither closing nor closed.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Whether requests may still name it: it is open, or a poll is to fetch the rest.
    #[must_use]
    pub fn is_known(&self) -> bool {
        match self.state {
            State::Open => true,
            State::Closing(_) => self.transport == Transport::Polling,
            State::Closed(_) => false,
        }
    }

    /// Whether a POST is answered as one that is taken. It is passed over while the client has yet
    /// to fetch what was sent before the server closed: a refusal would make it give that up.
    #[must_use]
    pub(crate) fn takes_posts(&self) -> bool {
        self.is_known() && self.close_reason().is_none_or(CloseReason::is_graceful)
    }

    /// Whether input may be read. False while too much waits for its handler or to be sent: then
    /// TCP pushes back.
    #[must_use]
    pub fn wants_read(&self) -> bool {
        // A client that has its answer to the probe fetches nothing until its POST is answered and it
        // has changed.
        let fetches = !matches!(self.probe, Probe::Ponged | Probe::Changing);
        !self.is_open() || (self.pending < self.max_pending() && !(fetches && self.is_congested()))
    }

    /// Whether frames of the WebSocket may be read. One that probes says little, and is to be heard
    /// whatever waits; when it has changed, the packets of a POST come first.
    #[must_use]
    pub(crate) fn wants_frames(&self) -> bool {
        match self.probe {
            Probe::None => self.wants_read(),
            Probe::Changing => false,
            Probe::Connected | Probe::Pinged | Probe::Ponged => true,
        }
    }

    /// Whether so much waits to be sent that input is no longer read.
    #[must_use]
    pub(crate) fn is_congested(&self) -> bool {
        self.out_bytes >= self.config.high_water
    }

    fn max_pending(&self) -> usize {
        match self.asked {
            0 => self.config.max_pending,
            _ => self.config.max_pending.saturating_mul(WHILE_ASKED),
        }
    }

    /// Whether a transport has nothing more to do and is to be shut.
    #[must_use]
    pub fn finished(&self, via: Transport) -> bool {
        match self.state {
            State::Closed(_) => true,
            _ if via != self.transport => self.probe == Probe::None,
            State::Closing(_) => self.out.is_empty(),
            State::Open => false,
        }
    }

    /// Whether everything is over, the farewell too.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed(_))
    }

    /// Why it ends.
    #[must_use]
    pub fn close_reason(&self) -> Option<CloseReason> {
        match self.state {
            State::Open => None,
            State::Closing(reason) | State::Closed(reason) => Some(reason),
        }
    }

    /// Whether a message would leave at once.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.is_open()
            && self.out.is_empty()
            && !self.timers.is_set(Timer::Stall)
            && (self.transport == Transport::WebSocket || self.poll)
    }

    /// Whether nothing waits to be sent, here or in the transport.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        (self.out.is_empty() && !self.sending) || !self.is_open()
    }

    /// How many events there have been, taken or not.
    #[must_use]
    pub(crate) fn told(&self) -> u64 {
        self.told
    }

    /// Whether [`Session::poll_event`] has something.
    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Counts something that the application has to see beside the session's own events.
    pub(crate) fn nudge(&mut self) {
        self.told += 1;
    }

    /// Whether [`Session::poll_transmit`] has something for the WebSocket.
    #[must_use]
    pub(crate) fn has_output(&self) -> bool {
        if self.transport != Transport::WebSocket {
            return self.probe == Probe::Pinged;
        }
        self.open.is_some() || self.ping || !self.out.is_empty()
    }

    /// Whether [`Session::poll_transmit`] has something for a waiting GET.
    #[must_use]
    pub(crate) fn releases_poll(&self) -> bool {
        self.poll
            && (self.transport != Transport::Polling
                || !self.is_open()
                || self.release
                || self.open.is_some()
                || self.ping
                || !self.out.is_empty())
    }

    // B. from the network

    /// A GET begins to wait.
    ///
    /// # Errors
    ///
    /// If one waits already: the session is closed, and the first one is released.
    pub fn handle_poll(&mut self, now: Instant) -> Result<(), Refusal> {
        if self.transport != Transport::Polling {
            return Err(Refusal::BadRequest);
        }
        if self.poll {
            self.close(CloseReason::TransportError, now);
            return Err(Refusal::BadRequest);
        }
        self.poll = true;
        if self.probe != Probe::None && self.probe != Probe::Connected {
            self.timers.set(Timer::Release, now + RELEASE_AFTER);
        }
        Ok(())
    }

    /// The waiting GET was answered.
    pub fn handle_poll_answered(&mut self) {
        self.poll = false;
        self.release = false;
        self.carries = false;
        self.fetched = true;
        self.timers.stop(Timer::Release);
    }

    /// The waiting GET has waited long enough: it is answered with what there is, or a noop.
    pub fn handle_poll_timeout(&mut self) {
        self.release = self.poll;
    }

    /// The waiting GET was given up by the client.
    pub fn handle_poll_aborted(&mut self, now: Instant) {
        self.poll = false;
        if self.transport == Transport::Polling {
            self.close(CloseReason::TransportError, now);
        }
    }

    /// A POST begins.
    ///
    /// # Errors
    ///
    /// If one is under way already: the session is closed.
    pub fn handle_post(&mut self, now: Instant) -> Result<(), Refusal> {
        if self.transport != Transport::Polling {
            return Err(Refusal::BadRequest);
        }
        if self.post {
            self.close(CloseReason::TransportError, now);
            return Err(Refusal::BadRequest);
        }
        self.post = true;
        Ok(())
    }

    /// The packets of the POST wait for room. That has a deadline if the client does not fetch what
    /// it was sent meanwhile.
    pub fn handle_post_blocked(&mut self, now: Instant) {
        if self.is_open() && !self.timers.is_set(Timer::Post) {
            self.watch_post(now);
        }
    }

    fn watch_post(&mut self, now: Instant) {
        self.fetched = false;
        self.stuck = self.is_congested();
        let half = POST_PATIENCE.min(self.config.ping_timeout) / 2;
        self.timers.set(Timer::Post, deadline(now, half));
    }

    fn handle_post_waits(&mut self, now: Instant) {
        match self.stuck && self.is_congested() && !self.fetched {
            true => self.close(CloseReason::SlowConsumer, now),
            false => self.watch_post(now),
        }
    }

    /// The POST has ended.
    pub fn handle_post_end(&mut self, now: Instant) {
        self.post = false;
        self.timers.stop(Timer::Post);
        if self.probe == Probe::Changing {
            self.upgrade(now);
        }
    }

    /// A WebSocket of this session is there and may probe.
    ///
    /// # Errors
    ///
    /// If there is one already: it stays as it is.
    pub fn handle_upgrade(&mut self, now: Instant) -> Result<(), Refusal> {
        let possible = self.is_open()
            && self.transport == Transport::Polling
            && self.probe == Probe::None
            && self.config.websocket
            && self.config.upgrades;
        if !possible {
            return Err(Refusal::BadRequest);
        }
        self.probe = Probe::Connected;
        let due = deadline(now, self.config.upgrade_timeout);
        self.timers.set(Timer::Upgrade, due);
        Ok(())
    }

    /// A packet came.
    #[inline]
    pub fn handle_packet(&mut self, via: Transport, packet: Packet, now: Instant) {
        if !self.is_open() {
            // The client that changes gets there what was sent before the end.
            if self.probe == Probe::Ponged && packet == Packet::Upgrade {
                self.upgrade(now);
            }
            return;
        }
        if via != self.transport {
            return self.handle_probe(&packet, now);
        }
        if self.timers.is_set(Timer::Pong) {
            self.handle_sign_of_life(&packet, now);
        }
        match packet {
            Packet::Message(message) => self.receive(message),
            Packet::Pong { .. } if self.revision == Revision::V4 => self.handle_pong(now),
            Packet::Ping { .. } if self.revision == Revision::V3 => self.handle_ping(now),
            Packet::Close => self.close(CloseReason::TransportClose, now),
            // In revision 4 the server pings, in revision 3 the client.
            Packet::Ping { .. } | Packet::Pong { .. } => {
                self.close(CloseReason::TransportError, now);
            }
            Packet::Open(_) | Packet::Upgrade | Packet::Noop => {}
        }
    }

    /// A transport is gone.
    pub fn handle_transport_closed(&mut self, via: Transport, now: Instant) {
        if via != self.transport {
            self.end_probe(now);
            return;
        }
        self.close(CloseReason::TransportClose, now);
        self.end();
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((timer, due)) = self.timers.expire(now) {
            match timer {
                Timer::Ping => {
                    self.ping = true;
                    self.moved = false;
                    self.extended = false;
                    self.partial = false;
                    // A clock ticks late, but by little. After a long sleep the client has its
                    // full time.
                    let is_late = now - due > TICK;
                    let sent = if is_late { now } else { due };
                    self.timers
                        .set(Timer::Pong, deadline(sent, self.config.ping_timeout));
                }
                Timer::Pong => self.handle_missing_pong(now),
                Timer::Post => self.handle_post_waits(now),
                Timer::Stall => self.close(CloseReason::PingTimeout, now),
                Timer::Upgrade => self.end_probe(now),
                Timer::Release => self.handle_poll_timeout(),
                Timer::Close => self.end(),
            }
        }
    }

    /// The WebSocket takes no more bytes for now. One that only probes ends by its own deadline.
    pub fn handle_blocked(&mut self, now: Instant) {
        let is_own = self.transport == Transport::WebSocket;
        if is_own && self.is_open() && !self.timers.is_set(Timer::Stall) {
            self.timers
                .set(Timer::Stall, deadline(now, self.config.ping_timeout));
        }
    }

    /// A part of a message came. What the client says meanwhile lies behind it.
    pub fn handle_partial(&mut self) {
        self.partial = self.transport == Transport::WebSocket;
    }

    /// The transport took bytes.
    pub fn handle_progress(&mut self) {
        self.timers.stop(Timer::Stall);
    }

    /// The WebSocket holds no bytes any more: all that it was given has left.
    pub fn handle_flushed(&mut self) {
        self.sending = false;
        self.handle_progress();
    }

    /// The application has begun with messages of so many [`Session::cost`]s.
    pub fn handle_consumed(&mut self, cost: usize) {
        self.pending = self.pending.saturating_sub(cost);
        self.moved |= cost > 0;
    }

    /// Messages of such a cost were begun, but have to wait after all: they are a part of one that
    /// waits.
    pub(crate) fn handle_kept(&mut self, cost: usize) {
        self.pending += cost;
    }

    /// The application waits for an answer of the client.
    pub(crate) fn handle_asked(&mut self) {
        self.asked += 1;
    }

    /// So many answers have come, or are not waited for any more.
    pub(crate) fn handle_answered(&mut self, count: u32) {
        self.asked = self.asked.saturating_sub(count);
        self.moved = true;
    }

    // C. from the application

    /// Queues a message. If too much waits already, the session is closed instead.
    pub fn send(&mut self, message: Message, now: Instant) {
        self.send_all([message], || now);
    }

    /// Queues the messages of one packet, all or none of them; false if it is not queued. The
    /// clock is read only if the session is closed by it.
    #[inline]
    pub fn send_all(
        &mut self,
        messages: impl IntoIterator<Item = Message>,
        now: impl FnOnce() -> Instant,
    ) -> bool {
        if !self.is_open() {
            return false;
        }
        if self.out_bytes - self.missed + self.held > self.config.max_buffered {
            self.close(CloseReason::SlowConsumer, now());
            return false;
        }
        messages.into_iter().for_each(|message| self.push(message));
        true
    }

    /// Queues a refusal. If so many wait that the client does not seem to read them, the session is
    /// closed instead: a client can ask for many in few bytes.
    pub(crate) fn send_refusal(
        &mut self,
        messages: impl IntoIterator<Item = Message>,
        now: Instant,
    ) {
        if self.refused >= self.config.high_water {
            return self.close(CloseReason::SlowConsumer, now);
        }
        let before = self.out_bytes;
        self.send_all(messages, || now);
        self.refused += self.out_bytes.saturating_sub(before);
    }

    /// Queues what the client missed. It does not count against [`Config::max_buffered`].
    pub(crate) fn send_missed(&mut self, messages: impl IntoIterator<Item = Message>) {
        if self.is_open() {
            let before = self.out_bytes;
            messages.into_iter().for_each(|message| self.push(message));
            self.missed += self.out_bytes - before;
        }
    }

    /// Counts what the application holds back as waiting to be sent. If too much waits already, the
    /// session is closed instead, and this is false.
    pub(crate) fn handle_held(&mut self, bytes: usize, now: Instant) -> bool {
        let is_counted = self.send_all([], || now);
        if is_counted {
            self.held += bytes;
        }
        is_counted
    }

    /// The application no longer holds so much back.
    pub(crate) fn handle_released(&mut self, bytes: usize) {
        self.held -= bytes;
    }

    /// Ends the session. The application gets [`SessionEvent::Closed`] at once; what waits is
    /// delivered if the reason is ours and the client is reachable.
    pub fn close(&mut self, reason: CloseReason, now: Instant) {
        if !self.is_open() {
            return;
        }
        self.tell(SessionEvent::Closed(reason));
        self.timers.clear_but(Timer::Upgrade);
        self.ping = false;
        if !reason.is_graceful() {
            self.drop_output();
        }
        if reason.is_graceful() && self.probe == Probe::Ponged {
            // The client polls no more: the rest waits until it has changed, or until that is late.
            self.state = State::Closing(reason);
            return;
        }
        if reason.is_graceful() && self.probe == Probe::Changing {
            self.state = State::Closing(reason);
            return self.upgrade(now);
        }
        self.end_probe(now);
        let reachable = self.transport == Transport::WebSocket || self.poll || reason.is_graceful();
        let rest = match reason {
            _ if reachable => self.config.close_timeout,
            CloseReason::TransportClose => OVERTAKEN.min(self.config.close_timeout),
            _ => {
                self.state = State::Closed(reason);
                return;
            }
        };
        self.state = State::Closing(reason);
        self.timers.set(Timer::Close, deadline(now, rest));
    }

    /// Ends the session at once: what waits is dropped, and a client that is not there now does
    /// not find it any more.
    pub fn discard(&mut self, now: Instant) {
        self.drop_output();
        let is_away = self.transport == Transport::Polling && !self.poll;
        self.close(CloseReason::ServerClose, now);
        if is_away {
            self.end();
        }
    }

    // D. to be polled after B and C

    /// The next packet for a transport.
    #[inline]
    pub fn poll_transmit(&mut self, via: Transport) -> Option<Packet> {
        if via == Transport::Polling && !self.poll {
            return None;
        }
        if via != self.transport {
            return self.poll_beside(via);
        }
        if let Some(open) = self.open.take() {
            return Some(Packet::Open(open));
        }
        if std::mem::take(&mut self.ping) {
            return Some(match self.revision {
                Revision::V4 => Packet::Ping { probe: false },
                Revision::V3 => Packet::Pong { probe: false },
            });
        }
        if let Some(message) = self.out.pop_front() {
            self.out_bytes -= Self::cost(&message);
            self.missed = self.missed.min(self.out_bytes);
            self.carries = true;
            self.sending = via == Transport::WebSocket;
            if self.out.is_empty() {
                self.refused = 0;
                if self.out.capacity() > 32 {
                    self.out = VecDeque::new();
                }
            }
            return Some(Packet::Message(message));
        }
        if via == Transport::WebSocket {
            return None;
        }
        self.poll_farewell()
    }

    /// When [`Session::handle_timeout`] is to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// What the application is to be told.
    pub fn poll_event(&mut self) -> Option<SessionEvent> {
        let event = self.events.pop_front();
        if self.events.is_empty() && self.events.capacity() > 32 {
            self.events = VecDeque::new();
        }
        event
    }

    /// All that [`Session::poll_event`] would give, put behind what is there.
    pub(crate) fn take_events(&mut self, events: &mut VecDeque<SessionEvent>) {
        if events.is_empty() {
            return std::mem::swap(&mut self.events, events);
        }
        events.append(&mut self.events);
    }

    /// What a message counts against the limits.
    #[must_use]
    #[inline]
    pub fn cost(message: &Message) -> usize {
        OVERHEAD
            + match message {
                Message::Text(text) => text.as_bytes().len(),
                Message::Binary(data) | Message::Uncompressed(data) => data.len(),
            }
    }

    #[inline]
    fn tell(&mut self, event: SessionEvent) {
        self.told += 1;
        self.events.push_back(event);
    }

    #[inline]
    fn push(&mut self, message: Message) {
        self.out_bytes += Self::cost(&message);
        self.out.push_back(message);
    }

    #[inline]
    fn receive(&mut self, message: Message) {
        self.pending += Self::cost(&message);
        self.tell(SessionEvent::Message(message));
    }

    /// A pong that nobody asked for changes nothing.
    fn handle_pong(&mut self, now: Instant) {
        if !self.timers.is_set(Timer::Pong) {
            return;
        }
        self.timers.stop(Timer::Pong);
        self.timers
            .set(Timer::Ping, deadline(now, self.config.interval()));
    }

    /// The first packet that comes before the pong puts its deadline off: a client that sends much
    /// is there, and its pong lies behind that.
    fn handle_sign_of_life(&mut self, packet: &Packet, now: Instant) {
        let is_pong = matches!(packet, Packet::Pong { .. });
        if self.revision == Revision::V4 && !self.extended && !is_pong {
            self.extended = true;
            self.timers
                .set(Timer::Pong, deadline(now, self.config.ping_timeout));
        }
    }

    fn handle_missing_pong(&mut self, now: Instant) {
        // Without a poll that fetches the ping there is no client.
        let unfetched = self.ping && self.transport == Transport::Polling;
        // The pong lies behind what is still coming.
        let body_comes = self.post && !self.timers.is_set(Timer::Post);
        if !unfetched && (body_comes || std::mem::take(&mut self.partial)) {
            return self.timers.set(Timer::Pong, deadline(now, self.patience()));
        }
        if unfetched || self.wants_read() {
            return self.close(CloseReason::PingTimeout, now);
        }
        // The answer that a handler waits for lies in what is not read while it waits.
        let waits = self.asked > 0 && self.pending >= self.max_pending();
        if waits && !self.moved {
            return self.close(CloseReason::EventBacklog, now);
        }
        // The pong may lie in what we do not read. Another ping shows whether the client is still
        // there: a write to one that is not fails. In revision 3 it is another pong, for which the
        // client begins its interval anew.
        self.ping = true;
        self.moved = false;
        self.timers.set(Timer::Pong, deadline(now, self.patience()));
    }

    /// How long a pong may take; in revision 3 the client's ping.
    fn patience(&self) -> Duration {
        match self.revision {
            Revision::V4 => self.config.ping_timeout,
            Revision::V3 => self.config.silence(),
        }
    }

    /// The ping of a client of revision 3.
    fn handle_ping(&mut self, now: Instant) {
        self.ping = true;
        self.partial = false;
        self.timers
            .set(Timer::Pong, deadline(now, self.config.silence()));
    }

    fn handle_probe(&mut self, packet: &Packet, now: Instant) {
        match (packet, self.probe) {
            (Packet::Ping { probe: true }, Probe::Connected) => {
                self.probe = Probe::Pinged;
                // The client ends its poll before it goes on.
                if self.poll {
                    self.timers.set(Timer::Release, now + PROBE_GRACE);
                }
            }
            (Packet::Upgrade, Probe::Pinged | Probe::Ponged) if self.post => {
                self.probe = Probe::Changing;
                // The POST has deadlines of its own.
                self.timers.stop(Timer::Upgrade);
            }
            (Packet::Upgrade, Probe::Pinged | Probe::Ponged) => self.upgrade(now),
            (_, Probe::None) => {}
            _ => self.end_probe(now),
        }
    }

    fn upgrade(&mut self, now: Instant) {
        self.end_probe(now);
        self.transport = Transport::WebSocket;
        self.release = self.poll;
        if !self.is_open() {
            return;
        }
        self.tell(SessionEvent::Upgraded);
        // A ping that no poll has fetched leaves now; its pong has the full time.
        if self.ping && self.revision == Revision::V4 {
            self.timers
                .set(Timer::Pong, deadline(now, self.config.ping_timeout));
        }
    }

    /// From here on the WebSocket, if it still is beside the session, is [`Session::finished`].
    fn end_probe(&mut self, now: Instant) {
        self.probe = Probe::None;
        self.timers.stop(Timer::Upgrade);
        self.timers.stop(Timer::Release);
        if let State::Closing(_) = self.state {
            self.timers
                .set(Timer::Close, deadline(now, self.config.close_timeout));
        }
    }

    fn poll_beside(&mut self, via: Transport) -> Option<Packet> {
        if via == Transport::Polling {
            // The session has changed to WebSocket while this poll waited.
            self.poll = false;
            return Some(Packet::Noop);
        }
        if self.probe != Probe::Pinged {
            return None;
        }
        self.probe = Probe::Ponged;
        Some(Packet::Pong { probe: true })
    }

    fn poll_farewell(&mut self) -> Option<Packet> {
        match self.state {
            State::Open if self.release => {
                self.release = false;
                Some(Packet::Noop)
            }
            // JavaScript's client handles the messages of a body after all its packets: with a close
            // among them it would not hear that it was told to leave, and come back.
            State::Closing(_) if self.carries => None,
            State::Closing(reason) => {
                self.end();
                Some(match reason {
                    CloseReason::TransportClose => Packet::Noop,
                    _ => Packet::Close,
                })
            }
            State::Open | State::Closed(_) => None,
        }
    }

    fn drop_output(&mut self) {
        self.out = VecDeque::new();
        self.out_bytes = 0;
        self.refused = 0;
        self.missed = 0;
    }

    fn end(&mut self) {
        if let State::Closing(reason) = self.state {
            self.state = State::Closed(reason);
        }
        self.timers.clear();
        self.drop_output();
    }
}

#[cfg(test)]
mod tests;
