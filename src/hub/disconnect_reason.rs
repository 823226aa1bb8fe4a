//! The reasons why a socket leaves its namespace.

use std::fmt;

use crate::engine_io::CloseReason;

/// Why a socket left its namespace.
///
/// It is an extractor for the disconnect handler. `Display` writes the words of the reference
/// implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// The client closed the connection, or lost it.
    TransportClose,
    /// The connection failed, or the client broke the rules of its transport.
    TransportError,
    /// A message was longer than [`max_payload`](crate::SocketIoBuilder::max_payload), or a packet
    /// exceeded a limit of its parser. Its text is that of
    /// [`TransportError`](Self::TransportError), as in the reference implementation.
    TooBig,
    /// The client did not answer a ping in time: see
    /// [`ping_timeout`](crate::SocketIoBuilder::ping_timeout). Or its WebSocket took no bytes for that time,
    /// or it sent 64 times [`max_payload`](crate::SocketIoBuilder::max_payload) before it answered a ping.
    PingTimeout,
    /// The client sent a malformed Engine.IO packet.
    ParseError,
    /// The server closed the connection because the client broke the Socket.IO protocol, for example with
    /// a malformed packet.
    ForcedServerClose,
    /// The server shuts down.
    ServerShuttingDown,
    /// The client left this namespace.
    ClientNamespaceDisconnect,
    /// The server made the socket leave this namespace.
    ServerNamespaceDisconnect,
    /// The client read too slowly, and too much was buffered for it: see
    /// [`max_buffered`](crate::SocketIoBuilder::max_buffered). Also if it caused 256 KiB of error replies
    /// without reading them, or if a POST had to wait for 20 seconds because the client fetched nothing.
    SlowConsumer,
    /// Events arrived faster than the handlers processed them, while the server waited for an
    /// acknowledgement that may lie behind them: see
    /// [`max_pending`](crate::SocketIoBuilder::max_pending).
    EventBacklog,
    /// The client went on sending after its events had been refused: see `close_after` of the rate
    /// limit.
    RateLimited,
    /// The deadline of the socket has passed: see [`Socket::set_expiry`](crate::Socket::set_expiry).
    Expired,
}

impl DisconnectReason {
    /// Returns the words of the reference implementation. It has none for `slow consumer`,
    /// `event backlog`, `rate limited` and `expired`, which are this crate's own.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TransportClose => "transport close",
            Self::TransportError | Self::TooBig => "transport error",
            Self::PingTimeout => "ping timeout",
            Self::ParseError => "parse error",
            Self::ForcedServerClose => "forced server close",
            Self::ServerShuttingDown => "server shutting down",
            Self::ClientNamespaceDisconnect => "client namespace disconnect",
            Self::ServerNamespaceDisconnect => "server namespace disconnect",
            Self::SlowConsumer => "slow consumer",
            Self::EventBacklog => "event backlog",
            Self::RateLimited => "rate limited",
            Self::Expired => "expired",
        }
    }
}

impl DisconnectReason {
    /// Returns whether the client may restore the socket: the connection ended, and neither side
    /// made the socket leave its namespace. A client whose connection the server closes, such as a
    /// slow one, sees a lost connection. A malformed Engine.IO packet is excluded. After a shutdown the
    /// client may only restore a socket that is saved for other servers.
    pub(crate) const fn is_recoverable(self, is_saved: bool) -> bool {
        match self {
            Self::TransportClose
            | Self::TransportError
            | Self::TooBig
            | Self::PingTimeout
            | Self::ForcedServerClose
            | Self::SlowConsumer
            | Self::EventBacklog => true,
            Self::ServerShuttingDown => is_saved,
            Self::ParseError
            | Self::ClientNamespaceDisconnect
            | Self::ServerNamespaceDisconnect
            | Self::RateLimited
            | Self::Expired => false,
        }
    }

    /// Returns whether the server made the socket leave. The events that wait for their handlers are
    /// then dropped.
    pub(crate) const fn is_by_server(self) -> bool {
        matches!(
            self,
            Self::ServerNamespaceDisconnect
                | Self::ForcedServerClose
                | Self::ServerShuttingDown
                | Self::RateLimited
                | Self::Expired
        )
    }
}

impl fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<CloseReason> for DisconnectReason {
    fn from(reason: CloseReason) -> Self {
        match reason {
            CloseReason::TransportClose => Self::TransportClose,
            CloseReason::TransportError => Self::TransportError,
            CloseReason::TooBig => Self::TooBig,
            CloseReason::PingTimeout => Self::PingTimeout,
            CloseReason::ParseError => Self::ParseError,
            CloseReason::ServerClose | CloseReason::Violation => Self::ForcedServerClose,
            CloseReason::Shutdown => Self::ServerShuttingDown,
            CloseReason::SlowConsumer => Self::SlowConsumer,
            CloseReason::EventBacklog => Self::EventBacklog,
        }
    }
}
