//! The limits of keys that the application chooses.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use governor::RateLimiter;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::ShrinkableKeyedStateStore;

use super::limit::{RateLimit, TokioClock};
use crate::clock::now;
use crate::hub::id_hash::IdHash;
use crate::routing::Event;
use crate::sync::Mutex;

/// One limit for each key.
pub(super) struct KeyLimiter {
    key: Box<dyn Fn(&Event) -> u64 + Send + Sync>,
    limiter: RateLimiter<u64, KeyTable, TokioClock>,
    created: Instant,
    /// When the keys whose tokens are all back are removed next, in milliseconds since `created`.
    next_sweep: AtomicU64,
}

impl KeyLimiter {
    /// Keys are kept as random hashes. So no code of the application runs under the lock of the
    /// table, and a client that chooses its key cannot find one that has the limit of another.
    pub(super) fn new<K, F>(limit: RateLimit, max_keys: usize, key: F) -> Self
    where
        K: Hash,
        F: Fn(&Event) -> K + Send + Sync + 'static,
    {
        let hasher = RandomState::new();
        Self {
            key: Box::new(move |event| hasher.hash_one(key(event))),
            limiter: RateLimiter::new(limit.quota(), KeyTable::new(max_keys), TokioClock),
            created: now(),
            next_sweep: AtomicU64::new(as_millis(SWEEP_INTERVAL)),
        }
    }

    /// Takes a token for an event.
    ///
    /// # Errors
    ///
    /// Returns the time to wait if there is none.
    pub(super) fn check(&self, event: &Event) -> Result<(), Duration> {
        let key = (self.key)(event);
        self.sweep_sometimes();
        let checked = self.limiter.check_key(&key);
        checked.map_err(|refused| refused.wait_time_from(now()))
    }

    /// Takes a token for each of many keys. Returns the number of keys that are kept.
    #[cfg(test)]
    pub(super) fn fill(&self, keys: usize) -> usize {
        for key in 1..=keys as u64 {
            let _ = self.limiter.check_key(&key);
        }
        self.limiter.len()
    }

    fn sweep_sometimes(&self) {
        let passed = as_millis(now().saturating_duration_since(self.created));
        let due = self.next_sweep.load(Ordering::Relaxed);
        if passed < due {
            return;
        }
        let next = passed.saturating_add(as_millis(SWEEP_INTERVAL));
        let claim =
            self.next_sweep
                .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed);
        if claim.is_ok() {
            self.limiter.retain_recent();
        }
    }
}

impl fmt::Debug for KeyLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyLimiter")
            .field("keys", &self.limiter.len())
            .finish_non_exhaustive()
    }
}

/// How often keys are looked for that can be removed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

fn as_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The states of keys, at most as many as `max`, and one that further keys share.
struct KeyTable {
    states: Mutex<HashMap<u64, Nanos, IdHash>>,
    max: usize,
}

/// The key of the state that keys share for which there is no room.
const SHARED: u64 = 0;

impl KeyTable {
    fn new(max: usize) -> Self {
        Self {
            states: Mutex::default(),
            max,
        }
    }
}

impl StateStore for KeyTable {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut states = self.states.lock();
        let is_full = states.len() >= self.max && !states.contains_key(key);
        let key = if is_full { SHARED } else { *key };
        let (outcome, state) = measure(states.get(&key).copied())?;
        states.insert(key, state);
        Ok(outcome)
    }
}

impl ShrinkableKeyedStateStore<u64> for KeyTable {
    fn retain_recent(&self, drop_below: Nanos) {
        let mut states = self.states.lock();
        states.retain(|_, state| *state > drop_below);
        if states.capacity() / 4 > states.len() {
            states.shrink_to_fit();
        }
    }

    fn len(&self) -> usize {
        self.states.lock().len()
    }

    fn is_empty(&self) -> bool {
        self.states.lock().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(max: usize) -> RateLimiter<u64, KeyTable, TokioClock> {
        let limit = RateLimit::new(1, Duration::from_secs(10));
        RateLimiter::new(limit.quota(), KeyTable::new(max), TokioClock)
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_removed_when_their_tokens_are_back() {
        let limiter = limiter(1_000);
        for key in 1..=500 {
            assert!(limiter.check_key(&key).is_ok());
            assert!(limiter.check_key(&key).is_err());
        }
        tokio::time::advance(Duration::from_secs(9)).await;
        limiter.retain_recent();
        assert_eq!(limiter.len(), 500);
        assert!(limiter.check_key(&1).is_err());
        tokio::time::advance(Duration::from_secs(11)).await;
        limiter.retain_recent();
        assert!(limiter.is_empty());
        assert!(limiter.check_key(&1).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn keys_that_are_removed_return_their_memory() {
        let limiter = limiter(100_000);
        for key in 1..=10_000 {
            assert!(limiter.check_key(&key).is_ok());
        }
        tokio::time::advance(Duration::from_secs(20)).await;
        assert!(limiter.check_key(&1).is_ok());
        limiter.retain_recent();
        assert_eq!(limiter.len(), 1);
        let room = limiter.into_state_store().states.lock().capacity();
        assert!(room < 100, "room for {room} keys");
    }

    #[tokio::test(start_paused = true)]
    async fn keys_without_room_share_one_limit() {
        let limiter = limiter(3);
        for key in 1..=3 {
            assert!(limiter.check_key(&key).is_ok());
        }
        assert!(limiter.check_key(&4).is_ok(), "the first without room");
        assert!(limiter.check_key(&5).is_err());
        assert_eq!(limiter.len(), 4);
        tokio::time::advance(Duration::from_secs(20)).await;
        limiter.retain_recent();
        for key in 5..=7 {
            assert!(limiter.check_key(&key).is_ok());
        }
    }
}
