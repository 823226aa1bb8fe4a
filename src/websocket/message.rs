//! A message that is being received: its type, and the check of its text.

use super::{Incoming, MessagePayload, WebSocketError, deflate::inflate};
use crate::utf8::is_utf8;

/// The state of a message that has begun. The decoder holds its bytes.
#[derive(Debug)]
pub(super) struct Message {
    kind: Kind,
    compressed: bool,
    fragments: u32,
    /// The number of leading bytes of a text that are whole, valid characters.
    checked: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Binary,
}

impl Message {
    pub(super) fn new(kind: Kind, compressed: bool) -> Self {
        Self {
            kind,
            compressed,
            fragments: 1,
            checked: 0,
        }
    }

    /// Counts one more fragment. Fails above [`MAX_FRAGMENTS`].
    pub(super) fn add_fragment(&mut self) -> Result<(), WebSocketError> {
        self.fragments += 1;
        if self.fragments > MAX_FRAGMENTS {
            return Err(WebSocketError::TOO_MANY_FRAGMENTS);
        }
        Ok(())
    }

    /// Checks the new bytes in `bytes`, the message so far.
    ///
    /// The last character may be incomplete. Its bytes, up to three, are checked again next time.
    pub(super) fn check(&mut self, bytes: &[u8]) -> Result<(), WebSocketError> {
        if self.kind == Kind::Binary || self.compressed {
            return Ok(());
        }
        let fresh = &bytes[self.checked..];
        if fresh.is_ascii() {
            self.checked = bytes.len();
            return Ok(());
        }
        match std::str::from_utf8(fresh) {
            Ok(_) => self.checked = bytes.len(),
            Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
            Err(_) => return Err(WebSocketError::UTF8),
        }
        Ok(())
    }

    /// Returns the whole message, after [`check`](Self::check) has seen all its bytes.
    ///
    /// Decompresses a compressed message, up to `max` bytes.
    pub(super) fn finish(
        self,
        bytes: Vec<u8>,
        max: usize,
    ) -> Result<Incoming<'static>, WebSocketError> {
        if self.compressed {
            return self.kind.decompressed(&bytes, max);
        }
        if self.kind == Kind::Text && self.checked < bytes.len() {
            return Err(WebSocketError::UTF8);
        }
        // Through a box, because `Bytes` would keep the spare capacity of a `Vec`.
        let bytes = bytes.into_boxed_slice().into();
        Ok(self.kind.incoming(MessagePayload::Owned(bytes)))
    }
}

impl Kind {
    /// Returns a whole message as a slice of the caller's buffer.
    #[inline]
    pub(super) fn in_place(self, bytes: &[u8]) -> Result<Incoming<'_>, WebSocketError> {
        if self == Self::Text && !is_utf8(bytes) {
            return Err(WebSocketError::UTF8);
        }
        Ok(self.incoming(MessagePayload::Borrowed(bytes)))
    }

    /// Decompresses a whole message.
    #[cold]
    pub(super) fn decompressed(
        self,
        bytes: &[u8],
        max: usize,
    ) -> Result<Incoming<'static>, WebSocketError> {
        let bytes = inflate(bytes, max)?;
        if self == Self::Text && !is_utf8(&bytes) {
            return Err(WebSocketError::UTF8);
        }
        Ok(self.incoming(MessagePayload::Owned(bytes.into_boxed_slice().into())))
    }

    #[inline]
    fn incoming(self, payload: MessagePayload<'_>) -> Incoming<'_> {
        match self {
            Self::Text => Incoming::Text(payload),
            Self::Binary => Incoming::Binary(payload),
        }
    }
}

/// The maximum number of fragments in a message.
///
/// It limits the work that empty fragments cause, which no limit on the size does. Autobahn's case
/// 9.3.1 sends 65 536 fragments.
pub(super) const MAX_FRAGMENTS: u32 = 1 << 17;

#[cfg(test)]
mod tests {
    use super::*;

    fn check_in_pieces(bytes: &[u8], piece: usize) -> Result<(), WebSocketError> {
        let mut message = Message::new(Kind::Text, false);
        for end in (0..bytes.len()).step_by(piece).chain([bytes.len()]) {
            message.check(&bytes[..end])?;
        }
        message.finish(bytes.to_vec(), bytes.len()).map(drop)
    }

    #[test]
    fn a_character_may_be_cut_anywhere() {
        let text = "κόσμε \u{0} ß \u{800} \u{ffff} \u{10000} \u{10ffff} 🦀".as_bytes();
        for piece in 1..=text.len() {
            assert_eq!(check_in_pieces(text, piece), Ok(()), "pieces of {piece}");
        }
    }

    #[test]
    fn invalid_utf8_is_refused_however_it_is_cut() {
        let invalid: [&[u8]; 7] = [
            b"\x80",                 // a continuation byte alone
            b"ab\xc3",               // incomplete at the end
            b"\xf0\x9f\xa6",         // incomplete at the end
            b"\xc0\xaf",             // overlong
            b"\xed\xa0\x80",         // a surrogate
            b"\xf4\x90\x80\x80",     // past U+10FFFF
            b"\xce\xba\xe1\xbd\xff", // never in UTF-8
        ];
        for bytes in invalid {
            assert_eq!(Kind::Text.in_place(bytes).err(), Some(WebSocketError::UTF8));
            for piece in 1..=bytes.len() {
                assert_eq!(
                    check_in_pieces(bytes, piece),
                    Err(WebSocketError::UTF8),
                    "{bytes:x?}"
                );
            }
        }
    }

    #[test]
    fn text_fails_at_the_first_byte_that_cannot_become_valid() {
        let mut message = Message::new(Kind::Text, false);
        assert_eq!(message.check(b"\xce\xba\xf4"), Ok(()));
        assert_eq!(
            message.check(b"\xce\xba\xf4\x90"),
            Err(WebSocketError::UTF8)
        );
    }

    #[test]
    fn a_finished_message_keeps_no_spare_capacity() {
        let mut bytes = Vec::with_capacity(1000);
        bytes.extend_from_slice(b"abc");
        let Ok(Incoming::Binary(payload)) = Message::new(Kind::Binary, false).finish(bytes, 3)
        else {
            panic!("a binary message");
        };
        assert_eq!(payload.into_bytes().try_into_mut().unwrap().capacity(), 3);
    }
}
