//! Compression of messages ([RFC 7692], `permessage-deflate`) without context takeover: between
//! messages a connection holds no window.
//!
//! A thread has one compressor and one decompressor, which all its connections share.
//!
//! [RFC 7692]: https://www.rfc-editor.org/rfc/rfc7692

use std::cell::RefCell;

use flate2::{
    Compress, CompressError, Compression, Decompress, FlushCompress, FlushDecompress, Status,
};

use super::WebSocketError;

/// The end of a compressed message, which is not sent.
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// The maximum number of final blocks in a message. One is usual.
///
/// After a final block the decompressor is reset. This clears a window, which costs far more than
/// the two bytes of an empty block cost the client.
const MAX_FINAL: usize = 16;

/// The value of `Sec-WebSocket-Extensions` that accepts an offer.
const ACCEPTED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// The same for an offer with `server_max_window_bits`, which the response has to repeat:
/// [RFC 7692, section 7.1.2.1](https://www.rfc-editor.org/rfc/rfc7692#section-7.1.2.1).
const ACCEPTED_WITH_WINDOW: &str = "permessage-deflate; server_no_context_takeover; \
     client_no_context_takeover; server_max_window_bits=15";

thread_local! {
    static COMPRESS: RefCell<Option<Compress>> = const { RefCell::new(None) };
    static DECOMPRESS: RefCell<Option<Decompress>> = const { RefCell::new(None) };
}

/// Returns the value of `Sec-WebSocket-Extensions` that accepts the first acceptable offer in that of
/// the client.
///
/// An offer is not acceptable if it asks the server for a smaller window, or if it has an unknown or
/// repeated parameter.
///
/// ```
/// # use tower_socketio::internals::accept_deflate;
/// assert!(accept_deflate("permessage-deflate; client_max_window_bits").is_some());
/// assert!(accept_deflate("permessage-deflate; server_max_window_bits=10").is_none());
/// let offers = "permessage-deflate; server_max_window_bits=10, permessage-deflate";
/// assert!(accept_deflate(offers).is_some());
/// ```
#[must_use]
pub fn accept_deflate(offers: &str) -> Option<&'static str> {
    let offer = offers.split(',').find(|offer| is_acceptable(offer))?;
    Some(match offer.contains("server_max_window_bits") {
        true => ACCEPTED_WITH_WINDOW,
        false => ACCEPTED,
    })
}

fn is_acceptable(offer: &str) -> bool {
    let mut parts = offer.split(';').map(str::trim);
    if parts.next() != Some("permessage-deflate") {
        return false;
    }
    let mut seen = Vec::new();
    parts.all(|parameter| {
        let (name, value) = match parameter.split_once('=') {
            Some((name, value)) => (name.trim(), Some(value.trim().trim_matches('"'))),
            None => (parameter, None),
        };
        let is_new = !seen.contains(&name);
        seen.push(name);
        is_new
            && match (name, value) {
                ("server_no_context_takeover" | "client_no_context_takeover", None) => true,
                ("client_max_window_bits", None) => true,
                ("client_max_window_bits", Some(bits)) => {
                    matches!(bits, "8" | "9" | "10" | "11" | "12" | "13" | "14" | "15")
                }
                ("server_max_window_bits", Some(bits)) => bits == "15",
                _ => false,
            }
    })
}

/// Compresses a message, which is the concatenation of `parts`.
///
/// Returns `None` if the compressor fails, or if its output does not end as
/// [RFC 7692, section 7.2.1][rfc] requires. Send the message uncompressed then.
///
/// [rfc]: https://www.rfc-editor.org/rfc/rfc7692#section-7.2.1
#[must_use]
pub fn deflate(parts: &[&[u8]]) -> Option<Vec<u8>> {
    COMPRESS.with_borrow_mut(|compress| {
        // The client waits for the message, so speed matters more than size.
        let compress = compress.get_or_insert_with(|| Compress::new(Compression::fast(), false));
        compress.reset();
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let mut out = Vec::with_capacity(len / 2 + 64);
        for part in parts {
            write(compress, part, &mut out).ok()?;
        }
        flush(compress, &mut out).ok()?;
        if !out.ends_with(&TAIL) {
            return None;
        }
        out.truncate(out.len() - TAIL.len());
        Some(out)
    })
}

fn write(
    compress: &mut Compress,
    mut input: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), CompressError> {
    loop {
        let before = compress.total_in();
        compress.compress_vec(input, out, FlushCompress::None)?;
        let taken = (compress.total_in() - before) as usize;
        input = &input[taken..];
        // If the output is full, the compressor may have more of it.
        if input.is_empty() && out.len() < out.capacity() {
            return Ok(());
        }
        out.reserve(out.len().max(256));
    }
}

/// Ends the last block.
///
/// After a call that filled the output, the next call may write only the output that was left over.
/// The block has ended after a call that neither follows such a call nor fills the output itself.
fn flush(compress: &mut Compress, out: &mut Vec<u8>) -> Result<(), CompressError> {
    let mut was_full = false;
    loop {
        compress.compress_vec(&[], out, FlushCompress::Sync)?;
        let is_full = out.len() == out.capacity();
        if !is_full && !was_full {
            return Ok(());
        }
        was_full = is_full;
        out.reserve(out.len().max(256));
    }
}

/// Decompresses a message. Fails if the result is longer than `max` bytes.
pub(super) fn inflate(message: &[u8], max: usize) -> Result<Vec<u8>, WebSocketError> {
    DECOMPRESS.with_borrow_mut(|decompress| {
        let decompress = decompress.get_or_insert_with(|| Decompress::new(false));
        decompress.reset(false);
        let mut out = Vec::with_capacity(message.len().saturating_mul(3).min(max).max(64));
        read(decompress, message, &mut out, max)?;
        read(decompress, &TAIL, &mut out, max)?;
        Ok(out)
    })
}

fn read(
    decompress: &mut Decompress,
    mut input: &[u8],
    out: &mut Vec<u8>,
    max: usize,
) -> Result<(), WebSocketError> {
    let mut finals = 0;
    loop {
        let before = decompress.total_in();
        let len = out.len();
        let status = decompress
            .decompress_vec(input, out, FlushDecompress::None)
            .map_err(|_| WebSocketError::DEFLATE)?;
        let taken = (decompress.total_in() - before) as usize;
        input = &input[taken..];
        if out.len() > max {
            return Err(WebSocketError::TOO_BIG);
        }
        if status == Status::StreamEnd {
            // After a final block, the rest is a new stream.
            finals += 1;
            if finals > MAX_FINAL {
                return Err(WebSocketError::DEFLATE);
            }
            decompress.reset(false);
            if input.is_empty() {
                return Ok(());
            }
            continue;
        }
        if out.len() == out.capacity() {
            // Room for one byte more than `max` shows whether the message is too long.
            let room = max - out.len() + 1;
            out.reserve_exact(room.min(out.len().max(64)));
            continue;
        }
        if taken == 0 && out.len() == len {
            return match input.is_empty() {
                true => Ok(()),
                false => Err(WebSocketError::DEFLATE),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns bytes that do not compress.
    fn noise(len: usize) -> Vec<u8> {
        let mut noise = 1_u32;
        let noise = std::iter::repeat_with(|| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (noise >> 24) as u8
        });
        noise.take(len).collect()
    }

    #[track_caller]
    fn assert_read_again(message: &[u8]) {
        let halves = message.split_at(message.len() / 2);
        for parts in [&[message][..], &[b"4", message], &[halves.0, halves.1]] {
            let compressed = deflate(parts).expect("a compressed message");
            let expected = parts.concat();
            let whole = inflate(&compressed, expected.len());
            assert!(whole == Ok(expected), "{} bytes", message.len());
        }
    }

    #[test]
    fn compressed_messages_are_read_again() {
        for message in [&b""[..], b"4", &[7; 100_000], &noise(200_000)] {
            assert_read_again(message);
        }
    }

    #[test]
    fn a_message_of_any_length_arrives_whole() {
        let noise = noise(130_000);
        // The compressor's blocks end at about 58 000 and 116 000 bytes.
        let ends = [57_500..61_500, 115_500..119_500];
        let near = ends.into_iter().flat_map(|range| range.step_by(211));
        for len in (0..noise.len()).step_by(7_919).chain(near) {
            assert_read_again(&noise[..len]);
        }
    }

    #[test]
    fn the_examples_of_the_rfc_are_read() {
        let hello = Ok(&b"Hello"[..]);
        for message in [
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..],
            // An uncompressed block.
            &[
                0x00, 0x05, 0x00, 0xfa, 0xff, b'H', b'e', b'l', b'l', b'o', 0x00,
            ],
            // A final block.
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
            // Two blocks.
            &[
                0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00,
            ],
        ] {
            assert_eq!(inflate(message, 5).as_deref(), hello, "{message:x?}");
        }
    }

    #[test]
    fn a_decompression_bomb_is_not_decompressed() {
        let bomb = deflate(&[&vec![0; 10_000_000]]).expect("a compressed message");
        assert!(bomb.len() < 100_000);
        for max in [0, 1_000_000, 9_999_999] {
            assert_eq!(inflate(&bomb, max).err(), Some(WebSocketError::TOO_BIG));
        }
        assert!(inflate(&bomb, 10_000_000).is_ok());
    }

    #[test]
    fn a_message_of_nothing_but_final_blocks_is_refused() {
        let empty = [0x03, 0x00];
        assert_eq!(
            inflate(&empty.repeat(MAX_FINAL), 5).as_deref(),
            Ok(&b""[..])
        );
        let many = empty.repeat(MAX_FINAL + 1);
        assert_eq!(inflate(&many, 5), Err(WebSocketError::DEFLATE));
    }

    #[test]
    fn data_that_is_not_compressed_is_refused() {
        for message in [&b"\xff\xff\xff"[..], b"4hello world, this is no block"] {
            assert_eq!(inflate(message, 1_000), Err(WebSocketError::DEFLATE));
        }
        // The next message is not affected.
        let message = deflate(&[b"ok"]).expect("a compressed message");
        assert_eq!(inflate(&message, 2).as_deref(), Ok(&b"ok"[..]));
    }

    #[test]
    fn only_supported_offers_are_accepted() {
        for (offers, expected) in [
            ("permessage-deflate", true),
            ("permessage-deflate; client_max_window_bits=10", true),
            ("permessage-deflate; server_max_window_bits=15", true),
            (
                "x-other, permessage-deflate; server_no_context_takeover",
                true,
            ),
            ("", false),
            ("x-webkit-deflate-frame", false),
            ("permessage-deflate; server_max_window_bits=8", false),
            ("permessage-deflate; client_max_window_bits=16", false),
            ("permessage-deflate; unknown", false),
            ("permessage-deflate; server_no_context_takeover=1", false),
            (
                "permessage-deflate; client_max_window_bits; client_max_window_bits",
                false,
            ),
        ] {
            assert_eq!(accept_deflate(offers).is_some(), expected, "{offers}");
        }
    }

    #[test]
    fn the_window_of_an_offer_is_repeated() {
        let accepted = |offers| accept_deflate(offers).expect("it is acceptable");
        let window = "permessage-deflate; server_max_window_bits=15";
        assert!(accepted(window).ends_with("; server_max_window_bits=15"));
        assert_eq!(accepted("permessage-deflate"), ACCEPTED);
        assert_eq!(accepted(&format!("permessage-deflate, {window}")), ACCEPTED);
    }
}
