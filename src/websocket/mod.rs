//! One WebSocket connection ([RFC 6455]), the server's side, without I/O: bytes in → messages,
//! messages → bytes out.
//!
//! | when | call |
//! |---|---|
//! | a client asks for the upgrade | [`is_valid_key`], [`accept_key`] |
//! | bytes have been read | [`FrameDecoder::decode`] |
//! | the rest of a large frame is missing | read into [`FrameDecoder::read_buf`], then [`FrameDecoder::filled`] |
//! | the client has broken a rule | send [`close_frame`] with [`WebSocketError::code`], then hang up |
//! | a message is to be sent | put [`header`] before it |
//! | the client offers compression | [`accepts_deflate`], [`FrameDecoder::with_deflate`]; then [`deflate`] and [`compressed_header`] |
//! | a ping or a close frame came | answer with [`pong_frame`] or [`close_frame`] |
//!
//! ```
//! use tower_socketio::websocket::{FrameDecoder, Incoming, pong_frame};
//!
//! // A text message in two fragments, a ping between them; masked, as a client must.
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
    deflate::{DEFLATE_ACCEPTED, accepts_deflate, deflate},
    encode::{MAX_HEADER, Opcode, close_frame, compressed_header, header, pong_frame},
    error::WebSocketError,
    handshake::{accept_key, is_valid_key},
};

/// What arrived, given to the callback of [`FrameDecoder::decode`] and [`FrameDecoder::filled`].
#[derive(Debug)]
pub enum Incoming<'a> {
    /// A text message, whole and valid UTF-8.
    Text(MessagePayload<'a>),
    /// A binary message, whole.
    Binary(MessagePayload<'a>),
    /// A ping; its data belongs into the answer, [`pong_frame`].
    Ping(&'a [u8]),
    /// A pong. Nothing tells what it answers: this side sends no pings.
    Pong,
    /// The client closes, with a code and a reason if it gave any; [`close_frame`] is the answer.
    /// The decoder ignores whatever follows.
    Close(Option<(u16, &'a str)>),
}

/// Whether these bytes are a text. Most are ASCII, which is seen much faster.
pub(crate) fn is_utf8(bytes: &[u8]) -> bool {
    bytes.is_ascii() || std::str::from_utf8(bytes).is_ok()
}

/// The bytes of one message.
#[non_exhaustive]
pub enum MessagePayload<'a> {
    /// Lies in the caller's read buffer, already unmasked.
    Borrowed(&'a [u8]),
    /// Was assembled over several reads or fragments; its allocation is as large as the message.
    Owned(Bytes),
}

impl MessagePayload<'_> {
    /// The message's bytes.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }

    /// The message in an allocation of its own; copies when borrowed.
    ///
    /// It never is a slice of something larger, so keeping it costs what it holds.
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
