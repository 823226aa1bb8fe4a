//! The two headers of the opening handshake that need computing ([RFC 6455, 4.2]).
//!
//! [RFC 6455, 4.2]: https://www.rfc-editor.org/rfc/rfc6455#section-4.2

use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Answers a `Sec-WebSocket-Key` with the value of `Sec-WebSocket-Accept`.
///
/// ```
/// # use tower_socketio::websocket::accept_key;
/// assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
/// ```
#[must_use]
pub fn accept_key(key: &[u8]) -> String {
    derive_accept_key(key)
}

/// Whether a `Sec-WebSocket-Key` is the base64 of 16 bytes.
///
/// The four bits of its last digit that code for nothing may be anything, as in Node's `ws`:
/// RFC 4648 leaves that open, and nobody decodes the key.
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

#[cfg(test)]
mod tests {
    use super::*;

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
