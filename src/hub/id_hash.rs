//! A cheap hash for random ids.

use std::hash::{BuildHasherDefault, Hasher};

/// A hasher for ids, which are random already. It also suits other keys that no client chooses.
pub(crate) type IdHash = BuildHasherDefault<IdHasher>;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_ne_bytes(word);
            self.0 = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
        }
    }

    #[inline]
    fn write_usize(&mut self, _: usize) {
        // The length of the array is always the same.
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}
