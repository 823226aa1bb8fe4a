//! The upgrade from polling to WebSocket, which a WebSocket beside the session begins with a probe.

use std::time::{Duration, Instant};

use super::{Probe, Session, SessionEvent, SincePing, State};
use crate::engine_io::timer::{Timer, deadline};
use crate::engine_io::{EnginePacket, Refusal, Revision, Transport};

/// How long a poll waits before it is released, if it begins while the client upgrades.
const RELEASE_AFTER: Duration = Duration::from_millis(100);

/// How long a poll still waits for a message after the probe's ping, before it is answered with a
/// noop. The message may be the acknowledgement of an event that the client has just sent.
pub(super) const PROBE_GRACE: Duration = Duration::from_millis(20);

impl Session {
    /// Handles the request for an upgrade: a WebSocket of this session is connected and may probe.
    ///
    /// # Errors
    ///
    /// Fails if the session is not open, if its transport is not polling, if upgrades are disabled,
    /// or if another WebSocket probes already. Then the session stays unchanged.
    pub fn handle_upgrade_request(&mut self, now: Instant) -> Result<(), Refusal> {
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

    /// Releases a poll that begins while the client upgrades, after a moment.
    pub(super) fn release_poll_of_upgrade(&mut self, now: Instant) {
        if self.probe != Probe::None && self.probe != Probe::Connected {
            self.timers.set(Timer::Release, now + RELEASE_AFTER);
        }
    }

    pub(super) fn handle_probe(&mut self, packet: &EnginePacket, now: Instant) {
        match (packet, self.probe) {
            (EnginePacket::Ping { probe: true }, Probe::Connected) => {
                self.probe = Probe::Pinged;
                // The client waits for the end of its poll before it sends the upgrade packet.
                if self.poll.is_some() {
                    self.timers.set(Timer::Release, now + PROBE_GRACE);
                }
            }
            (EnginePacket::Upgrade, Probe::Pinged | Probe::Ponged) if self.post.is_some() => {
                self.probe = Probe::AwaitingPost;
                // The POST has deadlines of its own.
                self.timers.stop(Timer::Upgrade);
            }
            (EnginePacket::Upgrade, Probe::Pinged | Probe::Ponged) => self.complete_upgrade(now),
            (_, Probe::None) => {}
            _ => self.fail_probe(now),
        }
    }

    pub(super) fn complete_upgrade(&mut self, now: Instant) {
        self.end_probe(now);
        self.transport = Transport::WebSocket;
        self.release_poll();
        if !self.is_open() {
            return;
        }
        self.push_event(SessionEvent::Upgraded);
        // A ping that no poll has fetched is sent now. Its pong has the full time.
        if self.ping_due && self.revision == Revision::V4 {
            self.since_ping = SincePing::default();
            self.timers
                .set(Timer::Pong, deadline(now, self.config.ping_timeout));
        }
    }

    /// Ends an upgrade that has failed.
    pub(super) fn fail_probe(&mut self, now: Instant) {
        if self.probe != Probe::None && self.is_open() {
            self.push_event(SessionEvent::UpgradeFailed);
        }
        self.end_probe(now);
    }

    /// Ends an upgrade. A WebSocket that is not the session's transport is [`Session::finished`]
    /// from now on.
    pub(super) fn end_probe(&mut self, now: Instant) {
        let was_probing = std::mem::replace(&mut self.probe, Probe::None) != Probe::None;
        self.timers.stop(Timer::Upgrade);
        self.timers.stop(Timer::Release);
        // Once: a WebSocket whose upgrade has ended does not delay the end.
        if was_probing && matches!(self.state, State::Closing(_)) {
            self.timers
                .set(Timer::Close, deadline(now, self.config.close_timeout));
        }
    }
}
