//! The delay between attempts to connect.

use std::time::Duration;

/// How long a broker waits before it connects again.
#[derive(Debug)]
pub(super) struct Backoff {
    delay: Duration,
}

impl Backoff {
    const MIN: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(5);

    pub(super) const fn new() -> Self {
        Self { delay: Self::MIN }
    }

    /// Returns the next delay: twice the last one, less up to half of it by `chance`.
    pub(super) fn next(&mut self, chance: u8) -> Duration {
        let delay = self.delay;
        self.delay = (2 * delay).min(Self::MAX);
        delay - delay / 2 * u32::from(chance) / 255
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_up_to_five_seconds() {
        let mut backoff = Backoff::new();
        let delays: Vec<_> = (0..8).map(|_| backoff.next(0).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.next(255).as_millis(), 2500);
    }
}
