//! The offset of a packet.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The place of an entry in the log of a cluster: two numbers, of which the first counts more.
///
/// A broker with a [log](crate::cluster::Broker::has_log) gives each entry a higher offset than all
/// earlier ones. Redis has the milliseconds of its clock, and a number within the millisecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset {
    pub(crate) high: u64,
    pub(crate) low: u64,
}

impl Offset {
    /// Creates an offset of two numbers, of which the first counts more.
    #[must_use]
    pub const fn new(high: u64, low: u64) -> Self {
        Self { high, low }
    }

    /// Reads an offset as `Display` writes it: `high-low`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (high, low) = text.split_once('-')?;
        let number = |text: &str| {
            let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| text.parse().ok()).flatten()
        };
        Some(Self {
            high: number(high)?,
            low: number(low)?,
        })
    }

    /// Returns the number before the hyphen.
    #[must_use]
    pub const fn high(self) -> u64 {
        self.high
    }

    /// Returns the first offset of a process, from random bytes. It leaves room for 2^47 packets. They
    /// increase by one, so that an offset of an earlier process is not mistaken for one of this.
    pub(crate) fn start(random: [u8; 8]) -> Self {
        Self::new(0, 1 + (u64::from_be_bytes(random) >> 17))
    }

    pub(crate) const fn next(self) -> Self {
        match self.low.checked_add(1) {
            Some(low) => Self::new(self.high, low),
            None => Self::new(self.high.saturating_add(1), 0),
        }
    }

    pub(crate) const fn before(self) -> Self {
        match self.low.checked_sub(1) {
            Some(low) => Self::new(self.high, low),
            None => Self::new(self.high.saturating_sub(1), u64::MAX),
        }
    }

    /// Returns an offset of a process as it is sent to clients: eight characters.
    pub(super) fn to_own_text(self) -> String {
        let [_, _, bytes @ ..] = self.low.to_be_bytes();
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads an offset of eight characters.
    pub(super) fn parse_own(text: &str) -> Option<Self> {
        let mut bytes = [0; 8];
        let len = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes[2..]).ok()?;
        (len == 6).then(|| Self::new(0, u64::from_be_bytes(bytes)))
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.high, self.low)
    }
}

/// What recovery has to know of a packet when it is sent to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// The packet is not recovered.
    None,
    Offset(Offset),
    /// The packet should have an offset, but the log of the cluster did not answer. The number is that of
    /// its message.
    Unnumbered(u64),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_of_this_process_has_eight_characters_and_is_read_again() {
        for offset in [
            Offset::start([0; 8]),
            Offset::start([0xff; 8]),
            Offset::new(0, 1 << 47),
        ] {
            let text = offset.to_own_text();
            assert_eq!((text.len(), Offset::parse_own(&text)), (8, Some(offset)));
        }
        for text in [
            "",
            "abc",
            "AAAAAAA",
            "AAAAAAAAA",
            "AAAAAAAAAAAA",
            "AAAA+AAA",
            "éééé",
        ] {
            assert_eq!(Offset::parse_own(text), None, "{text}");
        }
    }

    #[test]
    fn an_offset_of_a_log_is_read_as_it_is_written() {
        let offset = Offset::new(1_700_000_000_000, 7);
        assert_eq!(offset.to_string(), "1700000000000-7");
        assert_eq!(Offset::parse("1700000000000-7"), Some(offset));
        let max = Offset::new(u64::MAX, u64::MAX);
        assert_eq!(Offset::parse(&max.to_string()), Some(max));
        for text in [
            "",
            "-",
            "1",
            "1-",
            "-1",
            "+1-1",
            "1-1-1",
            "1-x",
            "1- 1",
            "99999999999999999999-1",
        ] {
            assert_eq!(Offset::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_next_offset_is_the_least_higher_one() {
        let last = Offset::new(5, u64::MAX);
        assert_eq!(last.next(), Offset::new(6, 0));
        assert_eq!(last.next().before(), last);
        assert_eq!(Offset::new(5, 1).next().before(), Offset::new(5, 1));
    }
}
