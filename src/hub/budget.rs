//! The bytes that the server keeps for a connection until it ends.

use serde_json::Value;

use crate::sync::atomic::{AtomicUsize, Ordering};

/// Counts the bytes that the sockets of one connection keep: the names of their namespaces, the
/// `auth` of the client, rooms and data.
#[derive(Debug, Default)]
pub(crate) struct Budget(AtomicUsize);

impl Budget {
    /// Returns whether `bytes` more stay within `max`.
    pub(crate) fn fits(&self, bytes: usize, max: usize) -> bool {
        let used = self.0.load(Ordering::Relaxed);
        used.saturating_add(bytes) <= max
    }

    /// Counts `bytes` if the total stays within `max`. Returns whether it does.
    pub(crate) fn try_reserve(&self, bytes: usize, max: usize) -> bool {
        let more = |used: usize| used.checked_add(bytes).filter(|used| *used <= max);
        let counter = &self.0;
        let taken = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.is_ok()
    }

    /// Counts `bytes` without a check. The caller knows that they [fit](Self::fits).
    pub(crate) fn reserve(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn release(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The bytes that a room counts for each socket in it: the measured size of a room with one socket.
pub(super) const ROOM: usize = 512;

/// Returns the bytes that a room of this name counts.
pub(crate) fn of_room(name: &str) -> usize {
    ROOM + name.len()
}

/// Returns the bytes that a value counts: about the memory that it needs.
pub(crate) fn of_data(data: &Value) -> usize {
    let inner = match data {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(of_data).sum(),
        Value::Object(members) => {
            let member = |(name, value): (&String, _)| MEMBER + name.len() + of_data(value);
            members.iter().map(member).sum()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    };
    VALUE + inner
}

/// The bytes of one value. A member of an object counts [`MEMBER`] bytes more.
const VALUE: usize = size_of::<Value>();
const MEMBER: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_over_the_budget_are_refused_until_some_are_released() {
        let budget = Budget::default();
        assert!(budget.try_reserve(6, 10));
        assert!(!budget.try_reserve(5, 10));
        assert!(budget.fits(4, 10) && !budget.fits(5, 10));
        budget.release(6);
        assert!(budget.try_reserve(10, 10));
        budget.reserve(5);
        assert!(!budget.fits(0, 10) && !budget.try_reserve(usize::MAX, usize::MAX));
    }
}
