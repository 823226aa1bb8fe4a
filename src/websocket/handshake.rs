//! Headers of the opening handshake ([RFC 6455, 4.2]): the key and the subprotocols.
//!
//! [RFC 6455, 4.2]: https://www.rfc-editor.org/rfc/rfc6455#section-4.2

use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Computes the value of `Sec-WebSocket-Accept` from a `Sec-WebSocket-Key`.
///
/// ```
/// # use tower_socketio::internals::accept_key;
/// assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
/// ```
#[must_use]
pub fn accept_key(key: &[u8]) -> String {
    derive_accept_key(key)
}

/// Whether a `Sec-WebSocket-Key` is the base64 of 16 bytes.
///
/// The last digit has four unused bits, which are not checked. Node's `ws` does not check them
/// either. RFC 4648 leaves the check open, and the key is never decoded.
#[must_use]
pub fn is_valid_key(key: &[u8]) -> bool {
    match key.strip_suffix(b"==") {
        Some(digits) => digits.len() == 22 && digits.iter().all(is_base64_digit),
        None => false,
    }
}

fn is_base64_digit(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/')
}

/// Parses the subprotocols that a client offers from the lines of `Sec-WebSocket-Protocol`.
///
/// Returns them in the client's order. Returns `None` if a line is malformed, or if a subprotocol
/// is offered twice, which Node's `ws` refuses too.
#[must_use]
pub(crate) fn offered_protocols<'a>(
    lines: impl IntoIterator<Item = &'a [u8]>,
) -> Option<Vec<&'a str>> {
    let mut offered = Vec::new();
    for line in lines {
        for offer in line.split(|byte| *byte == b',') {
            let offer = offer.trim_ascii();
            if offer.is_empty() || !offer.iter().all(is_token_character) {
                return None;
            }
            offered.push(std::str::from_utf8(offer).ok()?);
        }
    }
    let mut sorted = offered.clone();
    sorted.sort_unstable();
    let is_doubled = sorted.windows(2).any(|pair| pair[0] == pair[1]);
    (!is_doubled).then_some(offered)
}

/// Whether a byte may be in an HTTP token ([RFC 9110, 5.6.2]).
///
/// [RFC 9110, 5.6.2]: https://www.rfc-editor.org/rfc/rfc9110#section-5.6.2
fn is_token_character(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offered_protocols_keep_their_order_over_all_lines() {
        let offered = offered_protocols([&b"b,\ta "[..], b"c"]);
        assert_eq!(offered, Some(vec!["b", "a", "c"]));
        assert_eq!(offered_protocols([]), Some(Vec::new()));
    }

    #[test]
    fn malformed_and_doubled_protocols_are_not_read() {
        let malformed: [&[u8]; 7] = [b"", b",a", b"a,", b"a b", b"a/b", b"\xe9", b"a, b, a"];
        for line in malformed {
            assert_eq!(offered_protocols([line]), None, "{line:?}");
        }
        assert_eq!(offered_protocols([&b"a"[..], b"a"]), None);
    }

    #[test]
    fn the_key_of_the_rfc_is_valid() {
        assert!(is_valid_key(b"dGhlIHNhbXBsZSBub25jZQ=="));
        assert!(is_valid_key(b"++++//////////////////=="));
    }

    #[test]
    fn a_key_of_another_length_or_alphabet_is_invalid() {
        let invalid: [&[u8]; 7] = [
            b"",
            b"==",
            b"dGhlIHNhbXBsZSBub25jZQ",
            b"dGhlIHNhbXBsZSBub25jZ===",
            b"dGhlIHNhbXBsZSBub25jZQQ==",
            b"dGhlIHNhbXBsZSBub25jZ-==",
            b" dGhlIHNhbXBsZSBub25jZ==",
        ];
        for key in invalid {
            assert!(!is_valid_key(key), "{key:?}");
        }
    }
}
