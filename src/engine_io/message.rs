//! One Engine.IO message, framed once for all its recipients.
//!
//! ```text
//!  0x81 len   '4'      2["hello"]
//! └ header ┘└ type ┘└─── the text ───┘
//! └────────── Text::frame ───────────┘
//! ```

use std::fmt;

use bytes::{Buf, Bytes};
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::websocket::{MAX_HEADER, header};

/// One Engine.IO message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// A text: the form of most Socket.IO packets.
    Text(Text),
    /// Bytes: an attachment, or a packet of a parser that writes bytes.
    Binary(Bytes),
    /// Bytes that are sent without compression. The receiver gets [`Message::Binary`].
    Uncompressed(Bytes),
}

impl Message {
    /// Marks the message as not to be compressed.
    ///
    /// A polling body is still compressed if it also has a message without this mark.
    #[must_use]
    pub fn uncompressed(self) -> Self {
        match self {
            Self::Text(text) => Self::Text(text.uncompressed()),
            Self::Binary(data) | Self::Uncompressed(data) => Self::Uncompressed(data),
        }
    }

    /// Whether the message may be compressed when it is sent.
    #[must_use]
    pub const fn is_compressible(&self) -> bool {
        match self {
            Self::Text(text) => text.is_compressible(),
            Self::Binary(_) => true,
            Self::Uncompressed(_) => false,
        }
    }
}

impl From<Text> for Message {
    fn from(text: Text) -> Self {
        Self::Text(text)
    }
}

/// The text of a message.
///
/// A text to be sent is stored as a whole WebSocket frame (header, `4`, text), so that it is framed
/// once and shared by all its recipients. A text that was received has no frame.
#[derive(Clone)]
pub struct Text {
    frame: Bytes,
    /// The offset of the text in `frame`. 0 if there is no frame.
    start: u32,
    uncompressed: bool,
}

/// The spare capacity, in bytes, that a text's buffer may keep.
const SPARE: usize = 1024;

impl Text {
    /// The number of bytes that [`Text::from_headroom`] needs before the text: the longest header
    /// and `4`.
    pub const HEADROOM: usize = 11;

    /// Creates a text from `buf[start..]` and writes its frame's header into the bytes before it.
    ///
    /// The text must be valid UTF-8, which is not checked.
    ///
    /// # Panics
    ///
    /// Panics if `start` is less than [`Text::HEADROOM`] or greater than the length of `buf`.
    #[must_use]
    pub fn from_headroom(mut buf: Vec<u8>, start: usize) -> Self {
        assert!(
            (Self::HEADROOM..=buf.len()).contains(&start),
            "no headroom before the text"
        );
        let begin = write_header(&mut buf, start);
        if buf.capacity() - buf.len() > SPARE {
            buf.shrink_to_fit();
        }
        let mut frame = Bytes::from(buf);
        frame.advance(begin);
        Self {
            frame,
            // At most `HEADROOM`.
            start: (start - begin) as u32,
            uncompressed: false,
        }
    }

    /// Creates a text that was received, without a frame.
    #[must_use]
    pub const fn received(text: Bytes) -> Self {
        Self {
            frame: text,
            start: 0,
            uncompressed: false,
        }
    }

    /// Marks the text as not to be compressed, as [`Message::uncompressed`] does.
    #[must_use]
    pub fn uncompressed(mut self) -> Self {
        self.uncompressed = true;
        self
    }

    /// Whether the text may be compressed when it is sent.
    #[must_use]
    pub const fn is_compressible(&self) -> bool {
        !self.uncompressed
    }

    /// Returns the WebSocket frame, or `None` if the text was received.
    #[must_use]
    pub fn frame(&self) -> Option<&Bytes> {
        (self.start > 0).then_some(&self.frame)
    }

    /// Converts the text into its WebSocket frame.
    ///
    /// # Errors
    ///
    /// Returns the text unchanged if it was received and has no frame.
    pub fn into_frame(self) -> Result<Bytes, Self> {
        match self.start {
            0 => Err(self),
            _ => Ok(self.frame),
        }
    }

    /// Converts the text into a packet of a polling body, type and text, without a copy.
    ///
    /// # Errors
    ///
    /// Returns the text unchanged if it was received.
    pub(crate) fn into_record(mut self) -> Result<Bytes, Self> {
        let Some(at) = self.start.checked_sub(1) else {
            return Err(self);
        };
        self.frame.advance(at as usize);
        Ok(self.frame)
    }

    /// Returns the text as bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.frame[self.start as usize..]
    }

    /// Returns the text, or an empty string if the peer sent bytes that are not UTF-8.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// Converts the text into its bytes, without the frame's header and the type.
    #[must_use]
    pub fn into_bytes(mut self) -> Bytes {
        self.frame.advance(self.start as usize);
        self.frame
    }
}

/// Writes an unmasked header and `4` right before `start`. Returns the offset of the header.
fn write_header(buf: &mut [u8], start: usize) -> usize {
    let end = start - 1;
    buf[end] = b'4';
    let (header, len) = header(OpCode::Data(Data::Text), buf.len() - end);
    // The bytes before a shorter header are headroom too.
    buf[end - MAX_HEADER..end].copy_from_slice(&header);
    end - len
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        let mut buf = Vec::with_capacity(Self::HEADROOM + text.len());
        buf.resize(Self::HEADROOM, 0);
        buf.extend_from_slice(text.as_bytes());
        Self::from_headroom(buf, Self::HEADROOM)
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Text {}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_keeps_no_spare_capacity() {
        let mut buf = Vec::with_capacity(100_000);
        buf.resize(50_000, b'x');
        let text = Text::from_headroom(buf, Text::HEADROOM);
        let frame = text.frame.try_into_mut().expect("nobody else has it");
        assert!(frame.capacity() <= 50_000, "{}", frame.capacity());
    }

    #[test]
    fn a_text_is_framed_with_the_shortest_header() {
        for (len, header) in [
            (0, &[0x81, 1][..]),
            (124, &[0x81, 125]),
            (125, &[0x81, 126, 0, 126]),
            (65_534, &[0x81, 126, 0xff, 0xff]),
            (65_535, &[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let text = "x".repeat(len);
            let framed = Text::from(text.as_str());
            let frame = framed.frame().expect("made to be sent");
            let rest = frame.strip_prefix(header).expect("its header");
            assert_eq!(rest[0], b'4');
            assert_eq!(&rest[1..], text.as_bytes());
            assert_eq!(framed.as_str(), text);
            assert_eq!(framed.into_bytes(), text.as_bytes());
        }
    }

    #[test]
    fn a_received_text_has_no_frame() {
        let text = Text::received(Bytes::from_static(b"2[\"a\"]"));
        assert_eq!(text.frame(), None);
        assert_eq!(text, Text::from("2[\"a\"]"));
    }

    #[test]
    #[should_panic(expected = "no headroom")]
    fn a_text_without_headroom_panics() {
        let _ = Text::from_headroom(vec![0; 20], 10);
    }
}
