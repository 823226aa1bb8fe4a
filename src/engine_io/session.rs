//! The state of a session: requests, packets, send queue, limits and close.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::timer::{Timer, TimerTable, deadline};
use super::{CloseReason, Config, EnginePacket, Message, Refusal, Revision, SessionId, Transport};

mod heartbeat;
mod upgrade;

/// An event of a session, for the application.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// A message arrived.
    Message(Message),
    /// The session has upgraded to WebSocket.
    Upgraded,
    /// An upgrade has failed. The session goes on with polling.
    UpgradeFailed,
    /// The session has ended. This is the last event.
    Closed(CloseReason),
}

/// One client's Engine.IO connection, over one transport after another.
#[derive(Debug)]
pub struct Session {
    config: Arc<Config>,
    state: State,
    revision: Revision,
    transport: Transport,
    probe: Probe,
    /// The GET that waits for packets.
    poll: Option<PendingPoll>,
    /// The POST that is under way.
    post: Option<PendingPost>,
    /// The payload of the open packet, until the packet is sent.
    open_packet: Option<Bytes>,
    /// Whether a ping is to be sent. In revision 3, the pong that answers the client's ping.
    ping_due: bool,
    /// The send queue.
    out: VecDeque<Message>,
    /// The sum of the [`Session::cost`] of the messages in `out`.
    out_bytes: usize,
    /// The bytes of the error replies that were queued since `out` was last empty.
    error_reply_bytes: usize,
    /// The bytes of `out` that the client missed on an earlier connection. The recovery store has
    /// limits of its own for them.
    missed_bytes: usize,
    /// Whether the WebSocket holds messages that it has not written yet.
    sending: bool,
    /// The bytes that the application holds back to send them later.
    held_bytes: usize,
    events: VecDeque<SessionEvent>,
    /// The number of events so far, and of calls of [`Session::bump`].
    event_count: u64,
    /// The sum of the [`Session::cost`] of the received messages that are not consumed.
    pending_bytes: usize,
    /// The number of acknowledgements that the application waits for.
    acks_awaited: u32,
    since_ping: SincePing,
    timers: TimerTable,
}

/// A GET that waits for packets.
#[derive(Clone, Copy, Debug, Default)]
struct PendingPoll {
    /// Whether the GET must be answered, with a noop if nothing is queued.
    is_released: bool,
    /// Whether its response has a message so far.
    has_message: bool,
}

/// A POST that is under way. Its packets wait during backpressure.
#[derive(Clone, Copy, Debug, Default)]
struct PendingPost {
    /// Whether a GET was answered since [`Timer::Post`] was set.
    fetched: bool,
    /// Whether the session was congested when [`Timer::Post`] was set.
    was_congested: bool,
}

/// What happened since the ping whose pong is awaited.
#[derive(Clone, Copy, Debug, Default)]
struct SincePing {
    /// Whether a message was consumed, or an acknowledgement arrived or was abandoned.
    progressed: bool,
    /// Whether another packet has extended the pong's deadline.
    extended: bool,
    /// Whether an incomplete message arrived. It is reset when such a message extends the pong's
    /// deadline.
    partial: bool,
    /// How often such a message, or the body of a POST, has extended the deadline.
    extensions: usize,
    /// The sum of the [`Session::cost`] of the messages that arrived.
    bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The close event is queued for the application. The transport still sends the messages that
    /// are left in the send queue, and then closes.
    Closing(CloseReason),
    Closed(CloseReason),
}

/// The state of an upgrade, and of the WebSocket beside a polling session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    None,
    /// The WebSocket is connected. The probe's ping has not arrived yet.
    Connected,
    /// The probe's ping has arrived. Its pong is yet to be sent.
    Pinged,
    /// The probe's pong was sent. The client polls no more after it has read the pong.
    Ponged,
    /// The upgrade packet has arrived. The upgrade waits for the end of a POST that the client
    /// began earlier.
    AwaitingPost,
}

/// The bytes that a queued or pending message counts in addition to its payload.
const OVERHEAD: usize = 64;

/// The factor of `max_pending` while the application waits for an acknowledgement.
const ACK_FACTOR: usize = 4;

/// The maximum time for which a POST waits for its client to fetch queued messages. Proxies wait
/// 30 s or more.
const POST_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a session waits for a poll that the client's close packet has overtaken.
const LATE_POLL_TIMEOUT: Duration = Duration::from_millis(500);

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
            open_packet: Some(config.open_packet(sid, transport)),
            config,
            state: State::Open,
            revision,
            transport,
            probe: Probe::None,
            poll: None,
            post: None,
            ping_due: false,
            out: VecDeque::new(),
            out_bytes: 0,
            error_reply_bytes: 0,
            missed_bytes: 0,
            sending: false,
            held_bytes: 0,
            events: VecDeque::new(),
            event_count: 0,
            pending_bytes: 0,
            acks_awaited: 0,
            since_ping: SincePing::default(),
            timers,
        };
        if let Some(message) = initial {
            session.push(message);
        }
        session
    }

    // Getters

    /// Returns the protocol revision of the client.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Returns the transport of the session's messages.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Whether the session is neither closing nor closed.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Whether the session's requests are served: the session is open, or a poll may still fetch
    /// the queued messages.
    #[must_use]
    pub fn accepts_requests(&self) -> bool {
        match self.state {
            State::Open => true,
            State::Closing(_) => self.transport == Transport::Polling,
            State::Closed(_) => false,
        }
    }

    /// Whether a POST is served.
    ///
    /// After a close by the server, while the client has yet to fetch queued messages, a POST is
    /// accepted and its packets are ignored. A refusal would make the client abandon the messages.
    #[must_use]
    pub(crate) fn accepts_posts(&self) -> bool {
        self.accepts_requests() && self.close_reason().is_none_or(CloseReason::is_graceful)
    }

    /// Whether input may be read.
    ///
    /// It is `false` during backpressure: while too many bytes are pending or buffered. TCP then
    /// slows the client down.
    #[must_use]
    pub fn wants_read(&self) -> bool {
        // A client that has the probe's pong fetches nothing until its POST is answered and it has
        // upgraded.
        let fetches = !matches!(self.probe, Probe::Ponged | Probe::AwaitingPost);
        !self.is_open()
            || (self.pending_bytes < self.max_pending() && !(fetches && self.is_congested()))
    }

    /// Whether the WebSocket's frames may be read.
    ///
    /// The frames of a probe are few, and are read even during backpressure. The frames after the
    /// upgrade packet wait for the end of a POST, because the packets of the POST come first.
    #[must_use]
    pub(crate) fn wants_frames(&self) -> bool {
        match self.probe {
            Probe::None => self.wants_read(),
            Probe::AwaitingPost => false,
            Probe::Connected | Probe::Pinged | Probe::Ponged => true,
        }
    }

    /// Whether the send queue has reached [`Config::high_water`].
    #[must_use]
    pub(crate) fn is_congested(&self) -> bool {
        self.out_bytes >= self.config.high_water
    }

    /// Returns the bytes that are queued, or that the application holds back.
    #[must_use]
    pub(crate) fn buffered_bytes(&self) -> usize {
        self.out_bytes + self.held_bytes
    }

    /// Returns the bytes of the received messages that are not consumed.
    #[cfg(feature = "unstable-internals")]
    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    fn max_pending(&self) -> usize {
        match self.acks_awaited {
            0 => self.config.max_pending,
            _ => self.config.max_pending.saturating_mul(ACK_FACTOR),
        }
    }

    /// Whether a transport has nothing left to do and must be closed.
    #[must_use]
    pub fn finished(&self, via: Transport) -> bool {
        match self.state {
            State::Closed(_) => true,
            _ if via != self.transport => self.probe == Probe::None,
            State::Closing(_) => self.out.is_empty(),
            State::Open => false,
        }
    }

    /// Whether the session has ended and has nothing left to send.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed(_))
    }

    /// Returns why the session ended, or `None` while it is open.
    #[must_use]
    pub fn close_reason(&self) -> Option<CloseReason> {
        match self.state {
            State::Open => None,
            State::Closing(reason) | State::Closed(reason) => Some(reason),
        }
    }

    /// Whether a message would be sent at once.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.is_open()
            && self.out.is_empty()
            && !self.timers.is_set(Timer::Stall)
            && (self.transport == Transport::WebSocket || self.poll.is_some())
    }

    /// Whether neither the session nor its transport holds messages to send. Also `true` if the
    /// session is not open.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        (self.out.is_empty() && !self.sending) || !self.is_open()
    }

    /// Returns the number of events so far, polled or not, and of calls of [`Session::bump`].
    #[must_use]
    pub(crate) fn event_count(&self) -> u64 {
        self.event_count
    }

    /// Whether [`Session::poll_event`] has an event to return.
    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Increments [`Session::event_count`] for something that the application must handle and that
    /// is not a [`SessionEvent`].
    pub(crate) fn bump(&mut self) {
        self.event_count += 1;
    }

    /// Whether [`Session::poll_transmit`] has a packet for the WebSocket.
    #[must_use]
    pub(crate) fn has_output(&self) -> bool {
        if self.transport != Transport::WebSocket {
            return self.probe == Probe::Pinged;
        }
        self.open_packet.is_some() || self.ping_due || !self.out.is_empty()
    }

    /// Whether [`Session::poll_transmit`] has a packet for a waiting GET.
    #[must_use]
    pub(crate) fn has_poll_output(&self) -> bool {
        self.poll.is_some_and(|poll| {
            poll.is_released
                || self.transport != Transport::Polling
                || !self.is_open()
                || self.open_packet.is_some()
                || self.ping_due
                || !self.out.is_empty()
        })
    }

    // Input from the network

    /// Begins a poll: a GET waits for packets.
    ///
    /// # Errors
    ///
    /// Fails if the session's transport is not polling. Fails if a GET waits already: the session
    /// is closed, and the first GET is released.
    pub fn handle_poll(&mut self, now: Instant) -> Result<(), Refusal> {
        if self.transport != Transport::Polling {
            return Err(Refusal::BadRequest);
        }
        if self.poll.is_some() {
            self.close(CloseReason::TransportError, now);
            return Err(Refusal::BadRequest);
        }
        self.poll = Some(PendingPoll::default());
        self.release_poll_of_upgrade(now);
        Ok(())
    }

    /// Ends the poll: the waiting GET was answered.
    pub fn handle_poll_answered(&mut self) {
        self.poll = None;
        if let Some(post) = &mut self.post {
            post.fetched = true;
        }
        self.timers.stop(Timer::Release);
    }

    /// Releases the waiting GET: it is answered with the queued packets, or a noop.
    pub fn release_poll(&mut self) {
        if let Some(poll) = &mut self.poll {
            poll.is_released = true;
        }
    }

    /// Ends the poll: the client has aborted the waiting GET. Closes a session whose transport is
    /// polling.
    pub fn handle_poll_aborted(&mut self, now: Instant) {
        self.poll = None;
        if self.transport == Transport::Polling {
            self.close(CloseReason::TransportError, now);
        }
    }

    /// Begins a POST.
    ///
    /// # Errors
    ///
    /// Fails if the session's transport is not polling. Fails if a POST is under way already: the
    /// session is closed.
    pub fn handle_post(&mut self, now: Instant) -> Result<(), Refusal> {
        if self.transport != Transport::Polling {
            return Err(Refusal::BadRequest);
        }
        if self.post.is_some() {
            self.close(CloseReason::TransportError, now);
            return Err(Refusal::BadRequest);
        }
        self.post = Some(PendingPost::default());
        Ok(())
    }

    /// Watches a POST whose packets wait for the end of backpressure.
    ///
    /// The session is closed with [`CloseReason::SlowConsumer`] if it stays congested and its
    /// client fetches nothing for half of `POST_TIMEOUT`, or of the ping timeout if that is
    /// shorter.
    pub fn handle_post_blocked(&mut self, now: Instant) {
        if self.is_open() && !self.timers.is_set(Timer::Post) {
            self.watch_post(now);
        }
    }

    fn watch_post(&mut self, now: Instant) {
        let was_congested = self.is_congested();
        if let Some(post) = &mut self.post {
            *post = PendingPost {
                fetched: false,
                was_congested,
            };
        }
        let half = POST_TIMEOUT.min(self.config.ping_timeout) / 2;
        self.timers.set(Timer::Post, deadline(now, half));
    }

    fn handle_post_timeout(&mut self, now: Instant) {
        let is_stuck = |post: PendingPost| post.was_congested && !post.fetched;
        match self.is_congested() && self.post.is_some_and(is_stuck) {
            true => self.close(CloseReason::SlowConsumer, now),
            false => self.watch_post(now),
        }
    }

    /// Ends the POST. Completes an upgrade that waits for it.
    pub fn handle_post_end(&mut self, now: Instant) {
        self.post = None;
        self.timers.stop(Timer::Post);
        if self.probe == Probe::AwaitingPost {
            self.complete_upgrade(now);
        }
    }

    /// Handles a packet that arrived on a transport.
    #[inline]
    pub fn handle_packet(&mut self, via: Transport, packet: EnginePacket, now: Instant) {
        if !self.is_open() {
            // A client that completes its upgrade gets the queued messages on its WebSocket.
            if self.probe == Probe::Ponged && packet == EnginePacket::Upgrade {
                self.complete_upgrade(now);
            }
            return;
        }
        if via != self.transport {
            return self.handle_probe(&packet, now);
        }
        if self.timers.is_set(Timer::Pong) {
            self.handle_before_pong(&packet, now);
        }
        match packet {
            EnginePacket::Message(message) => self.receive(message),
            EnginePacket::Pong { .. } if self.revision == Revision::V4 => self.handle_pong(now),
            EnginePacket::Ping { .. } if self.revision == Revision::V3 => self.handle_ping(now),
            EnginePacket::Close => self.close(CloseReason::TransportClose, now),
            // In revision 4 only the server pings, in revision 3 only the client.
            EnginePacket::Ping { .. } | EnginePacket::Pong { .. } => {
                self.close(CloseReason::TransportError, now);
            }
            EnginePacket::Open(_) | EnginePacket::Upgrade | EnginePacket::Noop => {}
        }
    }

    /// Handles the end of a transport. If it is the session's own, the session ends too.
    pub fn handle_transport_closed(&mut self, via: Transport, now: Instant) {
        if via != self.transport {
            self.fail_probe(now);
            return;
        }
        self.close(CloseReason::TransportClose, now);
        self.end();
    }

    /// Handles the timers that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((timer, due)) = self.timers.expire(now) {
            match timer {
                Timer::Ping => self.handle_ping_due(due, now),
                Timer::Pong => self.handle_missing_pong(now),
                Timer::Post => self.handle_post_timeout(now),
                Timer::Stall => self.close(CloseReason::PingTimeout, now),
                Timer::Upgrade => self.fail_probe(now),
                Timer::Release => self.release_poll(),
                Timer::Close => self.end(),
            }
        }
    }

    /// Starts the deadline of a WebSocket that accepts no more bytes for now. A probe has the
    /// deadline of its upgrade instead.
    pub fn handle_blocked(&mut self, now: Instant) {
        let is_own = self.transport == Transport::WebSocket;
        if is_own && self.is_open() && !self.timers.is_set(Timer::Stall) {
            self.timers
                .set(Timer::Stall, deadline(now, self.config.ping_timeout));
        }
    }

    /// Stops the deadline of [`Session::handle_blocked`]: the transport accepted bytes.
    pub fn handle_progress(&mut self) {
        self.timers.stop(Timer::Stall);
    }

    /// Records that the WebSocket has written all bytes that it held.
    pub fn handle_flushed(&mut self) {
        self.sending = false;
        self.handle_progress();
    }

    /// Records that the application has begun to handle messages. `cost` is the sum of their
    /// [`Session::cost`], which no longer counts as pending.
    pub fn handle_consumed(&mut self, cost: usize) {
        self.pending_bytes = self.pending_bytes.saturating_sub(cost);
        self.since_ping.progressed |= cost > 0;
    }

    /// Counts consumed messages as pending again: the event that they belong to waits for its
    /// handler.
    pub(crate) fn handle_requeued(&mut self, cost: usize) {
        self.pending_bytes += cost;
    }

    /// Counts an acknowledgement that the application waits for.
    pub(crate) fn handle_ack_requested(&mut self) {
        self.acks_awaited += 1;
    }

    /// Records that `count` acknowledgements arrived or were abandoned.
    pub(crate) fn handle_acks_done(&mut self, count: u32) {
        self.acks_awaited = self.acks_awaited.saturating_sub(count);
        self.since_ping.progressed = true;
    }

    // Input from the application

    /// Queues a message. If more than [`Config::max_buffered`] bytes are queued already, closes the
    /// session with [`CloseReason::SlowConsumer`] instead.
    pub fn send(&mut self, message: Message, now: Instant) {
        self.send_all([message], || now);
    }

    /// Queues the messages of one packet, all or none of them, with the limit of [`Session::send`].
    ///
    /// Returns whether the messages are queued. Calls `now` only to close the session.
    // Inlining saves 25 instructions for each event.
    #[inline(always)]
    pub fn send_all(
        &mut self,
        messages: impl IntoIterator<Item = Message>,
        now: impl FnOnce() -> Instant,
    ) -> bool {
        if !self.is_open() {
            return false;
        }
        if self.out_bytes - self.missed_bytes + self.held_bytes > self.config.max_buffered {
            self.close(CloseReason::SlowConsumer, now());
            return false;
        }
        for message in messages {
            self.push(message);
        }
        true
    }

    /// Queues an error reply. If [`Config::high_water`] bytes of error replies were queued since
    /// the send queue was last empty, closes the session with [`CloseReason::SlowConsumer`]
    /// instead.
    ///
    /// Such a client does not seem to read its input, and it can cause many error replies with few
    /// bytes.
    pub(crate) fn send_error_reply(
        &mut self,
        messages: impl IntoIterator<Item = Message>,
        now: Instant,
    ) {
        if self.error_reply_bytes >= self.config.high_water {
            return self.close(CloseReason::SlowConsumer, now);
        }
        let before = self.out_bytes;
        self.send_all(messages, || now);
        self.error_reply_bytes += self.out_bytes.saturating_sub(before);
    }

    /// Queues messages that the client missed on an earlier connection. They do not count against
    /// [`Config::max_buffered`].
    pub(crate) fn send_missed(&mut self, messages: impl IntoIterator<Item = Message>) {
        if self.is_open() {
            let before = self.out_bytes;
            messages.into_iter().for_each(|message| self.push(message));
            self.missed_bytes += self.out_bytes - before;
        }
    }

    /// Counts bytes that the application holds back. They count as queued, with the limit of
    /// [`Session::send`].
    ///
    /// Returns whether the bytes are counted.
    pub(crate) fn handle_hold(&mut self, bytes: usize, now: Instant) -> bool {
        let is_counted = self.send_all([], || now);
        if is_counted {
            self.held_bytes += bytes;
        }
        is_counted
    }

    /// Stops counting `bytes` that the application no longer holds back.
    pub(crate) fn handle_hold_end(&mut self, bytes: usize) {
        self.held_bytes -= bytes;
    }

    /// Closes the session, if it is open.
    ///
    /// The application gets [`SessionEvent::Closed`] at once. Queued messages are still sent if the
    /// reason is `ServerClose`, `Shutdown` or `Violation`. Otherwise they are dropped.
    pub fn close(&mut self, reason: CloseReason, now: Instant) {
        if !self.is_open() {
            return;
        }
        self.push_event(SessionEvent::Closed(reason));
        self.timers.clear_but(Timer::Upgrade);
        self.ping_due = false;
        if !reason.is_graceful() {
            self.drop_output();
        }
        if reason.is_graceful() && self.probe == Probe::Ponged {
            // The client polls no more. The queued messages wait for its upgrade, or for the
            // upgrade's deadline.
            self.state = State::Closing(reason);
            return;
        }
        if reason.is_graceful() && self.probe == Probe::AwaitingPost {
            self.state = State::Closing(reason);
            return self.complete_upgrade(now);
        }
        self.end_probe(now);
        let reachable =
            self.transport == Transport::WebSocket || self.poll.is_some() || reason.is_graceful();
        let rest = match reason {
            _ if reachable => self.config.close_timeout,
            CloseReason::TransportClose => LATE_POLL_TIMEOUT.min(self.config.close_timeout),
            _ => {
                self.state = State::Closed(reason);
                return;
            }
        };
        self.state = State::Closing(reason);
        self.timers.set(Timer::Close, deadline(now, rest));
    }

    /// Closes the session at once and drops its queued messages.
    ///
    /// If the transport is polling and no poll waits, no close packet is sent: the client's next
    /// request is refused.
    pub fn discard(&mut self, now: Instant) {
        self.drop_output();
        let is_away = self.transport == Transport::Polling && self.poll.is_none();
        self.close(CloseReason::ServerClose, now);
        if is_away {
            self.end();
        }
    }

    // Output, polled after each input

    /// Returns the next packet for a transport.
    #[inline]
    pub fn poll_transmit(&mut self, via: Transport) -> Option<EnginePacket> {
        if via == Transport::Polling && self.poll.is_none() {
            return None;
        }
        if via != self.transport {
            return self.poll_other_transport(via);
        }
        if let Some(open) = self.open_packet.take() {
            return Some(EnginePacket::Open(open));
        }
        if std::mem::take(&mut self.ping_due) {
            return Some(match self.revision {
                Revision::V4 => EnginePacket::Ping { probe: false },
                Revision::V3 => EnginePacket::Pong { probe: false },
            });
        }
        if let Some(message) = self.out.pop_front() {
            self.out_bytes -= Self::cost(&message);
            self.missed_bytes = self.missed_bytes.min(self.out_bytes);
            if let Some(poll) = &mut self.poll {
                poll.has_message = true;
            }
            self.sending = via == Transport::WebSocket;
            if self.out.is_empty() {
                self.error_reply_bytes = 0;
                if self.out.capacity() > 32 {
                    self.out = VecDeque::new();
                }
            }
            return Some(EnginePacket::Message(message));
        }
        if via == Transport::WebSocket {
            return None;
        }
        self.poll_last_packet()
    }

    /// Returns the time at which to call [`Session::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Returns the next event for the application.
    pub fn poll_event(&mut self) -> Option<SessionEvent> {
        let event = self.events.pop_front();
        if self.events.is_empty() && self.events.capacity() > 32 {
            self.events = VecDeque::new();
        }
        event
    }

    /// Appends all waiting events to `events`.
    pub(crate) fn take_events(&mut self, events: &mut VecDeque<SessionEvent>) {
        if events.is_empty() {
            return std::mem::swap(&mut self.events, events);
        }
        events.append(&mut self.events);
    }

    /// Returns the bytes that a message counts against the limits: its payload and an overhead.
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
    fn push_event(&mut self, event: SessionEvent) {
        self.event_count += 1;
        self.events.push_back(event);
    }

    #[inline]
    fn push(&mut self, message: Message) {
        self.out_bytes += Self::cost(&message);
        self.out.push_back(message);
    }

    #[inline]
    fn receive(&mut self, message: Message) {
        self.pending_bytes += Self::cost(&message);
        self.push_event(SessionEvent::Message(message));
    }

    fn poll_other_transport(&mut self, via: Transport) -> Option<EnginePacket> {
        if via == Transport::Polling {
            // The session has upgraded to WebSocket while this poll waited.
            self.poll = None;
            return Some(EnginePacket::Noop);
        }
        if self.probe != Probe::Pinged {
            return None;
        }
        self.probe = Probe::Ponged;
        Some(EnginePacket::Pong { probe: true })
    }

    fn poll_last_packet(&mut self) -> Option<EnginePacket> {
        let poll = self.poll.as_mut()?;
        match self.state {
            State::Open => std::mem::take(&mut poll.is_released).then_some(EnginePacket::Noop),
            // The JavaScript client handles the messages of a body after all packets of the body.
            // If the body also had a close packet, the client would miss a DISCONNECT message, and
            // would reconnect.
            State::Closing(_) if poll.has_message => None,
            State::Closing(reason) => {
                self.end();
                Some(match reason {
                    CloseReason::TransportClose => EnginePacket::Noop,
                    _ => EnginePacket::Close,
                })
            }
            State::Closed(_) => None,
        }
    }

    fn drop_output(&mut self) {
        self.out = VecDeque::new();
        self.out_bytes = 0;
        self.error_reply_bytes = 0;
        self.missed_bytes = 0;
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
