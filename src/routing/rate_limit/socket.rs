//! The limits of one socket. They are kept in its extensions, and dropped with it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use governor::RateLimiter;
use governor::state::{InMemoryState, NotKeyed};

use super::limit::{RateLimit, TokioClock};
use crate::clock::now;
use crate::handles::Socket;
use crate::sync::Mutex;

/// The limits of one socket, by the ids of layers and of services. There are as many as the
/// application has registered.
#[derive(Debug, Default)]
pub(super) struct SocketLimits(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    limiters: Vec<(u64, RateLimiter<NotKeyed, InMemoryState, TokioClock>)>,
    refusals: Vec<(u64, Refusals)>,
}

/// The refused events of a socket.
#[derive(Debug)]
struct Refusals {
    count: u32,
    /// When the count began.
    since: Instant,
    /// No event informs the client before this time.
    quiet_until: Instant,
}

impl SocketLimits {
    /// Returns the limits of a socket.
    pub(super) fn of(socket: &Socket) -> Arc<Self> {
        let extensions = &socket.member.extensions;
        let found = extensions.read().get::<Arc<Self>>().cloned();
        found.unwrap_or_else(|| {
            let mut extensions = extensions.write();
            Arc::clone(extensions.get_or_insert_with(Arc::default))
        })
    }

    /// Takes a token of the limit with this id.
    ///
    /// # Errors
    ///
    /// Returns the time to wait if there is none.
    pub(super) fn check(&self, id: u64, limit: RateLimit) -> Result<(), Duration> {
        let mut state = self.0.lock();
        let at = match state.limiters.iter().position(|(each, _)| *each == id) {
            Some(at) => at,
            None => {
                let limiter = RateLimiter::direct_with_clock(limit.quota(), TokioClock);
                state.limiters.push((id, limiter));
                state.limiters.len() - 1
            }
        };
        let checked = state.limiters[at].1.check();
        checked.map_err(|refused| refused.wait_time_from(now()))
    }

    /// Counts a refused event. Returns whether `max` events were refused `within` a time.
    pub(super) fn count_refusal(&self, id: u64, (max, within): (u32, Duration)) -> bool {
        let now = now();
        let mut state = self.0.lock();
        let refusals = state.refusals(id, now);
        if now.saturating_duration_since(refusals.since) > within {
            refusals.since = now;
            refusals.count = 0;
        }
        refusals.count = refusals.count.saturating_add(1);
        refusals.count >= max
    }

    /// Returns whether the client is to be informed of a refused event: not again before the time to
    /// wait has passed.
    pub(super) fn may_inform(&self, id: u64, wait: Duration) -> bool {
        let now = now();
        let mut state = self.0.lock();
        let refusals = state.refusals(id, now);
        if now < refusals.quiet_until {
            return false;
        }
        refusals.quiet_until = now + wait;
        true
    }
}

impl State {
    fn refusals(&mut self, id: u64, now: Instant) -> &mut Refusals {
        let at = match self.refusals.iter().position(|(each, _)| *each == id) {
            Some(at) => at,
            None => {
                let refusals = Refusals {
                    count: 0,
                    since: now,
                    quiet_until: now,
                };
                self.refusals.push((id, refusals));
                self.refusals.len() - 1
            }
        };
        &mut self.refusals[at].1
    }
}
