//! A small pseudorandom generator.

/// The same seed gives the same numbers.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        // The state must not be zero, and similar seeds must not give similar first numbers.
        let mixed = (seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Self((mixed ^ (mixed >> 31)) | 1)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The lowest bits of the state are weak.
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Returns a number from 0 to `bound - 1`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.bits() >> 16) as usize % bound
    }

    /// Returns `true` once in `count` calls, on average.
    pub(crate) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub(crate) fn pick<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }

    pub(crate) fn bytes(&mut self, max: usize) -> Vec<u8> {
        let len = self.below(max + 1);
        (0..len).map(|_| self.bits() as u8).collect()
    }

    /// Changes, inserts, removes or repeats up to four bytes or pieces of `data`.
    pub(crate) fn mutate(&mut self, data: &mut Vec<u8>, alphabet: &[u8]) {
        for _ in 0..=self.below(4) {
            let at = self.below(data.len().max(1));
            let to = at + self.below(8).min(data.len().saturating_sub(at));
            let byte = alphabet[self.below(alphabet.len())];
            match self.below(6) {
                0 if at < data.len() => data[at] = byte,
                1 if at < data.len() => data[at] = self.bits() as u8,
                2 if to < data.len() => data.truncate(to),
                3 if to <= data.len() => drop(data.drain(at..to)),
                4 if to <= data.len() => {
                    let piece = data[at..to].to_vec();
                    data.splice(at..at, piece);
                }
                _ => data.insert(at.min(data.len()), byte),
            }
        }
    }
}
