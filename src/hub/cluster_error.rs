//! The errors of operations on the servers of a cluster.

use std::{error, fmt};

/// An error of an operation on the other servers of a cluster.
///
/// A handler may return it. It is then logged, and the client gets "internal error".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterError(ClusterErrorKind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClusterErrorKind {
    Alone,
    Unreachable,
    Timeout,
    Full,
    TooBig,
    Closed,
}

impl ClusterError {
    /// The server has no broker.
    pub(crate) const ALONE: Self = Self(ClusterErrorKind::Alone);
    /// The broker is not connected.
    pub(crate) const UNREACHABLE: Self = Self(ClusterErrorKind::Unreachable);
    /// A server did not answer in time.
    pub(crate) const TIMEOUT: Self = Self(ClusterErrorKind::Timeout);
    /// Too many messages or questions wait.
    pub(crate) const FULL: Self = Self(ClusterErrorKind::Full);
    /// The message is too long.
    pub(crate) const TOO_BIG: Self = Self(ClusterErrorKind::TooBig);
    /// The server has shut down.
    pub(crate) const CLOSED: Self = Self(ClusterErrorKind::Closed);

    /// Returns whether this server is not part of a cluster.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.0 == ClusterErrorKind::Alone
    }

    /// Returns whether the broker was not connected, or lost its connection before it had
    /// confirmed the message.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        self.0 == ClusterErrorKind::Unreachable
    }

    /// Returns whether a server did not answer in time.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.0 == ClusterErrorKind::Timeout
    }

    /// Returns whether too many bytes or questions were waiting for the broker.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.0 == ClusterErrorKind::Full
    }

    /// Returns whether the message is longer than the broker carries.
    #[must_use]
    pub fn is_too_big(&self) -> bool {
        self.0 == ClusterErrorKind::TooBig
    }

    /// Returns whether this server has shut down.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0 == ClusterErrorKind::Closed
    }
}

impl fmt::Display for ClusterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            ClusterErrorKind::Alone => "the server is not part of a cluster",
            ClusterErrorKind::Unreachable => "the broker is not connected",
            ClusterErrorKind::Timeout => "a server did not answer in time",
            ClusterErrorKind::Full => "too much waits for the broker",
            ClusterErrorKind::TooBig => "the message is too long for the broker",
            ClusterErrorKind::Closed => "the server has shut down",
        })
    }
}

impl error::Error for ClusterError {}
