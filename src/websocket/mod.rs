//! The server's side of a WebSocket connection ([RFC 6455]), without I/O: decodes frames into
//! messages, and encodes messages as frames.
//!
//! | when | call |
//! |---|---|
//! | a client requests a WebSocket | [`is_valid_key`], [`accept_key`] |
//! | bytes were read | [`FrameDecoder::decode`], or [`FrameDecoder::decode_while`] to pause between messages |
//! | the rest of a large frame is missing | read into [`FrameDecoder::read_buf`], then [`FrameDecoder::filled`] |
//! | the client broke a rule | send [`close_frame`] with [`WebSocketError::code`], then close the connection |
//! | the server sends a message | put [`header`] before it |
//! | the client offers compression | [`accept_deflate`], [`FrameDecoder::with_deflate`]; then [`deflate`] and [`compressed_header`] |
//! | a ping or a close frame arrived | answer with [`pong_frame`] or [`close_frame`] |
//!
//! ```
//! use tower_socketio::internals::{FrameDecoder, Incoming, pong_frame};
//!
//! // A text message in two fragments with a ping between them, masked as the RFC requires.
//! let mut read = *b"\x01\x83\0\0\0\0hel\x89\x82\0\0\0\0hi\x80\x82\0\0\0\0lo";
//! let mut write = Vec::new();
//!
//! let mut decoder = FrameDecoder::new(1_000_000);
//! let result = decoder.decode(&mut read, |incoming| match incoming {
//!     Incoming::Text(text) => assert_eq!(text.as_slice(), b"hello"),
//!     Incoming::Ping(data) => write.extend(pong_frame(data)),
//!     _ => unreachable!(),
//! });
//! assert!(result.is_ok());
//! assert_eq!(write, b"\x8a\x02hi");
//! ```
//!
//! [RFC 6455]: https://www.rfc-editor.org/rfc/rfc6455

use std::fmt;

use bytes::Bytes;

mod decoder;
mod deflate;
mod encode;
mod error;
mod handshake;
mod header;
mod mask;
mod message;

pub(crate) use self::handshake::offered_protocols;
pub use self::{
    decoder::FrameDecoder,
    deflate::{accept_deflate, deflate},
    encode::{MAX_HEADER, close_frame, compressed_header, header, pong_frame},
    error::WebSocketError,
    handshake::{accept_key, is_valid_key},
};

/// A decoded message or control frame, passed to the callback of [`FrameDecoder::decode`] and
/// [`FrameDecoder::filled`].
#[derive(Debug)]
pub enum Incoming<'a> {
    /// A whole text message, which is valid UTF-8.
    Text(MessagePayload<'a>),
    /// A whole binary message.
    Binary(MessagePayload<'a>),
    /// A ping. Answer with a [`pong_frame`] of its data.
    Ping(&'a [u8]),
    /// A pong. Its data is not passed on, because the server sends no WebSocket pings.
    Pong,
    /// A close frame, with its code and reason if it has them. Answer with a [`close_frame`]. The
    /// decoder ignores all bytes after it.
    Close(Option<(u16, &'a str)>),
}

/// The payload of one message.
#[non_exhaustive]
pub enum MessagePayload<'a> {
    /// A slice of the caller's read buffer, already unmasked.
    Borrowed(&'a [u8]),
    /// A message from several reads or fragments, or a decompressed one. Its allocation is exactly
    /// as large as the message.
    Owned(Bytes),
}

impl MessagePayload<'_> {
    /// Returns the payload's bytes.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }

    /// Converts the payload into an allocation of its own. Copies a borrowed payload.
    ///
    /// The result is never a slice of a larger allocation, so it keeps no other bytes in memory.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
            Self::Owned(bytes) => bytes,
        }
    }
}

impl fmt::Debug for MessagePayload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Borrowed(_) => "Borrowed",
            Self::Owned(_) => "Owned",
        };
        write!(f, "{kind}({} bytes)", self.as_slice().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_never_pins_a_larger_buffer() {
        let read = vec![7; 4096];
        let kept = MessagePayload::Borrowed(&read[..3]).into_bytes();
        assert_eq!(kept.try_into_mut().unwrap().capacity(), 3);
    }

    #[test]
    fn a_payload_hides_its_bytes_from_logs() {
        assert_eq!(
            format!("{:?}", MessagePayload::Borrowed(b"secret")),
            "Borrowed(6 bytes)"
        );
    }
}
