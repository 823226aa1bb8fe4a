//! The check of texts that clients send.

/// Whether bytes are valid UTF-8. Most texts are ASCII, for which the check is much faster.
#[inline]
pub(crate) fn is_utf8(bytes: &[u8]) -> bool {
    bytes.is_ascii() || std::str::from_utf8(bytes).is_ok()
}
