//! How much of a connection's the server keeps until it ends.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

/// Counts what the sockets of one connection keep: what the client authenticated itself with, the
/// rooms they are in, their data.
#[derive(Debug, Default)]
pub(crate) struct Budget(AtomicUsize);

impl Budget {
    /// Whether so many bytes more are at most `max`.
    pub(crate) fn fits(&self, bytes: usize, max: usize) -> bool {
        let used = self.0.load(Ordering::Relaxed);
        used.saturating_add(bytes) <= max
    }

    /// Counts bytes if all together are at most `max` then.
    pub(crate) fn take(&self, bytes: usize, max: usize) -> bool {
        let more = |used: usize| used.checked_add(bytes).filter(|used| *used <= max);
        let counter = &self.0;
        let taken = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.is_ok()
    }

    /// Counts bytes that were found to [fit](Self::fits).
    pub(crate) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn give_back(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What a room counts for each socket in it: as it was measured, of a room with one socket.
pub(super) const ROOM: usize = 512;

/// What a room of this name counts.
pub(crate) fn of_room(name: &str) -> usize {
    ROOM + name.len()
}

/// What data count: about what they take.
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

/// What one value takes, and beyond it a member of an object.
const VALUE: usize = size_of::<Value>();
const MEMBER: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_beyond_the_budget_are_refused_until_some_are_given_back() {
        let budget = Budget::default();
        assert!(budget.take(6, 10));
        assert!(!budget.take(5, 10));
        assert!(budget.fits(4, 10) && !budget.fits(5, 10));
        budget.give_back(6);
        assert!(budget.take(10, 10));
        budget.add(5);
        assert!(!budget.fits(0, 10) && !budget.take(usize::MAX, usize::MAX));
    }
}
