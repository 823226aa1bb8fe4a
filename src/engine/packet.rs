//! One packet ↔ one frame.

use std::{error, fmt};

use bytes::Bytes;

use super::{Message, Text};

/// One packet of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// The first packet of a session, with its JSON text.
    Open(Bytes),
    /// The end of a session.
    Close,
    /// A heartbeat, or with `probe` the first step of an upgrade.
    Ping {
        /// Whether it carries the text `probe`.
        probe: bool,
    },
    /// The answer to a ping.
    Pong {
        /// Whether it carries the text `probe`.
        probe: bool,
    },
    /// What the application sends.
    Message(Message),
    /// The last step of an upgrade.
    Upgrade,
    /// Nothing; it releases a pending poll.
    Noop,
}

impl Packet {
    /// Reads a text frame.
    ///
    /// # Errors
    ///
    /// If it is empty or its first character is no packet type.
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

    /// Reads a text frame that is owned; a message keeps its bytes.
    ///
    /// # Errors
    ///
    /// If it is empty or its first character is no packet type.
    pub fn from_owned_text(mut text: Bytes) -> Result<Self, ParseError> {
        if text.first() != Some(&b'4') {
            return Self::from_text(&text);
        }
        bytes::Buf::advance(&mut text, 1);
        Ok(Self::Message(Text::received(text).into()))
    }

    /// The text of a packet that is not a message: what stands in a frame or in a polling body.
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

/// A frame or a payload that is no packet.
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
            ("1", Packet::Close),
            ("2", Packet::Ping { probe: false }),
            ("2probe", Packet::Ping { probe: true }),
            ("3", Packet::Pong { probe: false }),
            ("3probe", Packet::Pong { probe: true }),
            ("4hello", Packet::Message(Text::from("hello").into())),
            ("5", Packet::Upgrade),
            ("6", Packet::Noop),
        ] {
            assert_eq!(Packet::from_text(text.as_bytes()), Ok(packet.clone()));
            assert_eq!(Packet::from_owned_text(text.into()), Ok(packet));
        }
    }

    #[test]
    fn what_is_no_packet_is_refused() {
        for text in ["", "7", "abc", "é"] {
            assert_eq!(Packet::from_text(text.as_bytes()), Err(ParseError));
        }
    }
}
