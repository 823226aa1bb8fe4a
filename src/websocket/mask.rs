//! The mask of a client's frame ([RFC 6455, 5.3]).
//!
//! [RFC 6455, 5.3]: https://www.rfc-editor.org/rfc/rfc6455#section-5.3

/// Unmasks a piece of a payload. `offset` is the position of the piece in the payload.
#[inline]
pub(super) fn unmask(piece: &mut [u8], mut mask: [u8; 4], offset: usize) {
    mask.rotate_left(offset % 4);
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);

    let mut words = piece.chunks_exact_mut(8);
    for word in &mut words {
        // A chunk is exactly eight bytes long.
        let masked = u64::from_ne_bytes((&*word).try_into().unwrap());
        word.copy_from_slice(&(masked ^ wide).to_ne_bytes());
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(wide.to_ne_bytes()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    fn bytewise(data: &[u8]) -> Vec<u8> {
        data.iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, key)| byte ^ key)
            .collect()
    }

    #[test]
    fn every_short_length_is_unmasked_like_byte_by_byte() {
        for len in 0..=40_u8 {
            let data: Vec<u8> = (0..len).collect();
            let mut fast = data.clone();
            unmask(&mut fast, MASK, 0);
            assert_eq!(fast, bytewise(&data), "length {len}");
        }
    }

    #[test]
    fn pieces_are_unmasked_like_the_whole_wherever_it_is_cut() {
        let data: Vec<u8> = (0..40).collect();
        let whole = bytewise(&data);
        for first in 0..=40 {
            for second in first..=40 {
                let mut cut = data.clone();
                unmask(&mut cut[..first], MASK, 0);
                unmask(&mut cut[first..second], MASK, first);
                unmask(&mut cut[second..], MASK, second);
                assert_eq!(cut, whole, "cut at {first} and {second}");
            }
        }
    }
}
