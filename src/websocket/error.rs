//! Violations of the WebSocket protocol by a client, and their close codes.

use std::{error::Error, fmt};

/// The error of a client that broke the protocol or exceeded a limit.
///
/// The connection cannot continue. Send a [`close_frame`](super::close_frame) with
/// [`code`](Self::code) and [`reason`](Self::reason), then close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WebSocketError(Kind);

/// One byte, so that `Result<(), WebSocketError>` fits in a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Unmasked,
    ReservedBit,
    ReservedOpcode,
    LengthOverflow,
    FragmentedControl,
    LongControl,
    StrayContinuation,
    InterruptedMessage,
    CloseLength,
    CloseCode,
    Utf8,
    TooBig,
    TooManyFragments,
    Deflate,
}

impl WebSocketError {
    pub(super) const UNMASKED: Self = Self(Kind::Unmasked);
    pub(super) const RESERVED_BIT: Self = Self(Kind::ReservedBit);
    pub(super) const RESERVED_OPCODE: Self = Self(Kind::ReservedOpcode);
    pub(super) const LENGTH_OVERFLOW: Self = Self(Kind::LengthOverflow);
    pub(super) const FRAGMENTED_CONTROL: Self = Self(Kind::FragmentedControl);
    pub(super) const LONG_CONTROL: Self = Self(Kind::LongControl);
    pub(super) const STRAY_CONTINUATION: Self = Self(Kind::StrayContinuation);
    pub(super) const INTERRUPTED_MESSAGE: Self = Self(Kind::InterruptedMessage);
    pub(super) const CLOSE_LENGTH: Self = Self(Kind::CloseLength);
    pub(super) const CLOSE_CODE: Self = Self(Kind::CloseCode);
    pub(super) const UTF8: Self = Self(Kind::Utf8);
    pub(super) const TOO_BIG: Self = Self(Kind::TooBig);
    pub(super) const TOO_MANY_FRAGMENTS: Self = Self(Kind::TooManyFragments);
    pub(super) const DEFLATE: Self = Self(Kind::Deflate);

    /// Returns the close code.
    ///
    /// - 1002: a protocol error.
    /// - 1007: a text is not UTF-8, or a message cannot be decompressed.
    /// - 1009: a message is too big or has too many fragments.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self.0 {
            Kind::Utf8 | Kind::Deflate => 1007,
            Kind::TooBig | Kind::TooManyFragments => 1009,
            _ => 1002,
        }
    }

    /// Returns a description of the error that is short enough for a close frame.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self.0 {
            Kind::Unmasked => "client frame is not masked",
            Kind::ReservedBit => "reserved bit is set",
            Kind::ReservedOpcode => "opcode is reserved",
            Kind::LengthOverflow => "length has its highest bit set",
            Kind::FragmentedControl => "control frame is fragmented",
            Kind::LongControl => "control frame is longer than 125 bytes",
            Kind::StrayContinuation => "continuation without a message",
            Kind::InterruptedMessage => "new message before the last one's end",
            Kind::CloseLength => "close frame of one byte",
            Kind::CloseCode => "close code is not allowed",
            Kind::Utf8 => "text is not UTF-8",
            Kind::TooBig => "message is too big",
            Kind::TooManyFragments => "message has too many fragments",
            Kind::Deflate => "message cannot be decompressed",
        }
    }
}

impl fmt::Display for WebSocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl Error for WebSocketError {}
