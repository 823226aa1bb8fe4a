//! The reasons for which a session ends.

use std::fmt;

/// Why a session ended.
///
/// `Display` writes the reference implementation's text where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The client closed its WebSocket, or sent a close packet.
    TransportClose,
    /// The transport failed, or the client broke the transport's rules.
    TransportError,
    /// No pong (in revision 3, no ping) arrived in time, or the WebSocket could not write in time.
    PingTimeout,
    /// A packet could not be parsed.
    ParseError,
    /// A message was longer than allowed, or a packet exceeded a limit of its parser.
    TooBig,
    /// The application closed the session.
    ServerClose,
    /// The server is shutting down.
    Shutdown,
    /// The client broke the rules of the protocol above Engine.IO.
    Violation,
    /// The client reads too slowly, and too many bytes wait to be sent to it.
    SlowConsumer,
    /// The messages waiting for their handlers reached the limit while the application waited for
    /// an acknowledgement that may be behind them. Since the last ping no handler began and no
    /// acknowledgement arrived.
    EventBacklog,
}

impl CloseReason {
    /// Whether queued messages are still sent.
    pub(super) const fn is_graceful(self) -> bool {
        matches!(self, Self::ServerClose | Self::Shutdown | Self::Violation)
    }

    /// Returns the code and the reason of the WebSocket's close frame.
    #[must_use]
    pub const fn close_frame(self) -> (Option<u16>, &'static str) {
        match self {
            Self::TransportClose | Self::ServerClose => (None, ""),
            Self::TransportError => (Some(1002), "transport error"),
            Self::PingTimeout => (Some(1002), "ping timeout"),
            Self::ParseError => (Some(1002), "parse error"),
            Self::Violation => (Some(1002), "protocol violation"),
            Self::TooBig => (Some(1009), ""),
            Self::Shutdown => (Some(1001), "server shutting down"),
            Self::SlowConsumer => (Some(1013), "slow consumer"),
            Self::EventBacklog => (Some(1013), "event backlog"),
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TransportClose => "transport close",
            Self::TransportError | Self::TooBig => "transport error",
            Self::PingTimeout => "ping timeout",
            Self::ParseError => "parse error",
            Self::ServerClose => "forced close",
            Self::Violation => "forced server close",
            Self::Shutdown => "server shutting down",
            Self::SlowConsumer => "slow consumer",
            Self::EventBacklog => "event backlog",
        })
    }
}
