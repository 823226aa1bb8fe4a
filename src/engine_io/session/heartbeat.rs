//! The heartbeat: the server's pings and the deadline of the pong. In revision 3, the client's pings.

use std::time::{Duration, Instant};

use super::{Probe, Session, SincePing};
use crate::engine_io::timer::{Timer, deadline};
use crate::engine_io::{CloseReason, EnginePacket, Revision, Transport};

/// The delay up to which a timer counts as punctual.
const TIMER_TOLERANCE: Duration = Duration::from_millis(10);

/// How many times `max_payload`, or `max_pending` if that is more, a client may send before it answers a
/// ping, and how often the deadline of the pong is extended because a message is still arriving.
const MAX_BEFORE_PONG: usize = 64;

impl Session {
    /// Records that an incomplete message arrived. The pong may be behind the rest of the message,
    /// so the session extends the pong's deadline when the deadline passes.
    pub fn handle_partial(&mut self) {
        self.since_ping.partial = self.transport == Transport::WebSocket;
    }

    /// Queues a ping that was due at `due`.
    pub(super) fn handle_ping_due(&mut self, due: Instant, now: Instant) {
        self.ping_due = true;
        self.since_ping = SincePing::default();
        // A timer is always a little late. If it is much later, after a long sleep of the process,
        // the client has its full time from now on.
        let is_late = now - due > TIMER_TOLERANCE;
        let sent = if is_late { now } else { due };
        self.timers
            .set(Timer::Pong, deadline(sent, self.config.ping_timeout));
    }

    /// Handles a pong. A pong without a ping changes nothing.
    pub(super) fn handle_pong(&mut self, now: Instant) {
        if !self.timers.is_set(Timer::Pong) {
            return;
        }
        self.timers.stop(Timer::Pong);
        self.timers
            .set(Timer::Ping, deadline(now, self.config.interval()));
    }

    /// Counts a packet that arrives while the pong is awaited. The first one extends the pong's
    /// deadline: a client that sends a lot is alive, and its pong is behind those packets.
    #[inline]
    pub(super) fn handle_before_pong(&mut self, packet: &EnginePacket, now: Instant) {
        let is_pong = matches!(packet, EnginePacket::Pong { .. });
        if self.revision == Revision::V4 && !self.since_ping.extended && !is_pong {
            self.since_ping.extended = true;
            self.timers
                .set(Timer::Pong, deadline(now, self.config.ping_timeout));
        }
        if let EnginePacket::Message(message) = packet {
            let bytes = &mut self.since_ping.bytes;
            *bytes = bytes.saturating_add(Self::cost(message));
        }
    }

    pub(super) fn handle_missing_pong(&mut self, now: Instant) {
        // A client that does not fetch the ping has stopped polling.
        // One that is about to complete an upgrade has to.
        let polls = self.transport == Transport::Polling
            && !matches!(self.probe, Probe::Ponged | Probe::AwaitingPost);
        let unfetched = self.ping_due && polls;
        // A client that sends without a pause may read nothing.
        let most = self.config.max_payload.max(self.config.max_pending);
        let sends_too_much = self.since_ping.bytes > most.saturating_mul(MAX_BEFORE_PONG);
        // The pong may be behind a body or a message that is still arriving.
        let body_arrives = self.post.is_some() && !self.timers.is_set(Timer::Post);
        let arrives = std::mem::take(&mut self.since_ping.partial) || body_arrives;
        let may_extend = self.since_ping.extensions < MAX_BEFORE_PONG && !sends_too_much;
        if !unfetched && arrives && may_extend {
            self.since_ping.extensions += 1;
            return self
                .timers
                .set(Timer::Pong, deadline(now, self.pong_timeout()));
        }
        if unfetched || sends_too_much || self.wants_read() {
            return self.close(CloseReason::PingTimeout, now);
        }
        // If a handler waits for an acknowledgement, the acknowledgement may be in input that is
        // not read while the handler waits.
        let waits_for_ack = self.acks_awaited > 0 && self.pending_bytes >= self.max_pending();
        if waits_for_ack && !self.since_ping.progressed {
            return self.close(CloseReason::EventBacklog, now);
        }
        // The pong may be in input that is not read. Another ping shows whether the client is still
        // connected: if it is not, the write fails. In revision 3 this is another pong, at which
        // the client restarts its interval.
        self.ping_due = true;
        self.since_ping.progressed = false;
        self.timers
            .set(Timer::Pong, deadline(now, self.pong_timeout()));
    }

    /// Returns the time in which a pong must arrive. In revision 3, the client's ping.
    fn pong_timeout(&self) -> Duration {
        match self.revision {
            Revision::V4 => self.config.ping_timeout,
            Revision::V3 => self.config.silence(),
        }
    }

    /// Handles the ping of a client of revision 3.
    pub(super) fn handle_ping(&mut self, now: Instant) {
        self.ping_due = true;
        self.since_ping = SincePing {
            // It counts from one missing ping to the next.
            progressed: self.since_ping.progressed,
            ..SincePing::default()
        };
        self.timers
            .set(Timer::Pong, deadline(now, self.config.silence()));
    }
}
