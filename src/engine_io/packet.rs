//! Engine.IO packets, and their conversion from and to text frames.

use std::{error, fmt};

use bytes::Bytes;

use super::{Message, Text};

/// One Engine.IO packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnginePacket {
    /// The first packet of a session, with its JSON payload.
    Open(Bytes),
    /// The end of a session.
    Close,
    /// A heartbeat. With `probe`, the first step of an upgrade.
    Ping {
        /// Whether the packet's payload is the text `probe`.
        probe: bool,
    },
    /// The answer to a ping.
    Pong {
        /// Whether the packet's payload is the text `probe`.
        probe: bool,
    },
    /// A message of the application.
    Message(Message),
    /// The last step of an upgrade.
    Upgrade,
    /// An empty packet that releases a waiting poll.
    Noop,
}

impl EnginePacket {
    /// Parses a text frame.
    ///
    /// # Errors
    ///
    /// Fails if the frame is empty or its first character is not a packet type.
    pub fn from_text(text: &[u8]) -> Result<Self, ParseError> {
        let (kind, rest) = text.split_first().ok_or(ParseError)?;
        Ok(match kind {
            b'0' => Self::Open(Bytes::copy_from_slice(rest)),
            b'1' => Self::Close,
            b'2' => Self::Ping {
                probe: rest == b"probe",
            },
            b'3' => Self::Pong {
                probe: rest == b"probe",
            },
            b'4' => Self::Message(Text::received(Bytes::copy_from_slice(rest)).into()),
            b'5' => Self::Upgrade,
            b'6' => Self::Noop,
            _ => return Err(ParseError),
        })
    }

    /// Parses a text frame without a copy: a message keeps the frame's allocation.
    ///
    /// # Errors
    ///
    /// Fails if the frame is empty or its first character is not a packet type.
    pub fn from_owned_text(mut text: Bytes) -> Result<Self, ParseError> {
        if text.first() != Some(&b'4') {
            return Self::from_text(&text);
        }
        bytes::Buf::advance(&mut text, 1);
        Ok(Self::Message(Text::received(text).into()))
    }

    /// Returns the encoding of a packet without a variable payload, for a frame or a polling body.
    /// Empty for `Open` and `Message`.
    #[must_use]
    pub(crate) fn control_text(&self) -> &[u8] {
        match self {
            Self::Close => b"1",
            Self::Ping { probe: false } => b"2",
            Self::Ping { probe: true } => b"2probe",
            Self::Pong { probe: false } => b"3",
            Self::Pong { probe: true } => b"3probe",
            Self::Upgrade => b"5",
            Self::Noop => b"6",
            Self::Open(_) | Self::Message(_) => b"",
        }
    }
}

/// The error of a frame or a polling body that is not an Engine.IO packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseError;

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an Engine.IO packet")
    }
}

impl error::Error for ParseError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_type_is_read() {
        for (text, packet) in [
            ("1", EnginePacket::Close),
            ("2", EnginePacket::Ping { probe: false }),
            ("2probe", EnginePacket::Ping { probe: true }),
            ("3", EnginePacket::Pong { probe: false }),
            ("3probe", EnginePacket::Pong { probe: true }),
            ("4hello", EnginePacket::Message(Text::from("hello").into())),
            ("5", EnginePacket::Upgrade),
            ("6", EnginePacket::Noop),
        ] {
            assert_eq!(EnginePacket::from_text(text.as_bytes()), Ok(packet.clone()));
            assert_eq!(EnginePacket::from_owned_text(text.into()), Ok(packet));
        }
    }

    #[test]
    fn a_malformed_engine_packet_is_refused() {
        for text in ["", "7", "abc", "é"] {
            assert_eq!(EnginePacket::from_text(text.as_bytes()), Err(ParseError));
        }
    }
}
