//! Connection state recovery: a client that lost its connection comes back as the socket it was.
//!
//! ```text
//!   emit ──▶ RecoveryStore: a number for the packet, a copy in the Log ──▶ those who are there
//!   leave ─▶ RecoveryStore: the session stays, for a while                        │
//!   CONNECT {pid, offset} ─▶ RecoveryStore: the session, and what was missed ◀────┘ the number was in it
//! ```
//!
//! | file | |
//! |---|---|
//! | [`log`] | the packets of one namespace, numbered |
//! | [`store`] | the sessions of one namespace, and what each of them was sent |
//! | [`live`] | joins both with the namespace and its sockets |
//!
//! The first two are data structures: time, ids and chance are arguments. All of a namespace is
//! under one lock, which is held from the number of a packet until it is queued for everybody, so
//! that each client gets the numbers in order. That is what makes the last number that a client
//! has seen say what it has not.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

mod live;
mod log;
mod store;

pub(crate) use self::live::{Handover, JoinRequest, Recoverable};
pub(crate) use self::log::Offset;
pub(crate) use self::store::RecoveryStore;

/// Connection state recovery: how long, and in how much memory.
///
/// A client that loses its connection and is back in time is the same socket again: its
/// [`id`](crate::Socket::id), its rooms, the values kept with it, and it is sent what it missed.
/// The connect handler runs again, with [`Socket::recovered`](crate::Socket::recovered) true. A
/// client that is back too late, or for whom a missed packet is no longer there, is a new socket:
/// what it is sent has no gap, or it is told.
///
/// ```
/// use std::time::Duration;
/// use tower_socketio::{Namespace, Recovery, Socket, SocketIo};
///
/// async fn connect(socket: Socket) {
///     if !socket.recovered() {
///         socket.join("everyone");
///     }
/// }
///
/// let (layer, io) = SocketIo::builder()
///     .namespace("/", Namespace::new().on_connect(connect))
///     .recovery(Recovery::within(Duration::from_secs(120)))
///     .build();
/// ```
///
/// It is for connections that broke: not for a client that left or that the server made leave, nor
/// for one that read too slowly. What is kept is kept in this process.
///
/// Events that are sent with an acknowledgement, or volatile, are not sent again. Each other event
/// carries its number as one more argument, a text of eight characters, which listeners of the
/// client see as their last argument, as with Node's server.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Recovery {
    pub(crate) within: Duration,
    pub(crate) skip_connect_handler: bool,
    packet_bytes: usize,
    namespace_bytes: usize,
    session_bytes: usize,
}

impl Recovery {
    /// How long a client may be away, from when the server notices; Node's default is two
    /// minutes. Packets are kept for as long, unless their number of bytes is limited first: with
    /// [`Duration::MAX`] that limit alone counts.
    ///
    /// # Panics
    ///
    /// If it is zero.
    #[track_caller]
    pub const fn within(duration: Duration) -> Self {
        assert!(!duration.is_zero(), "`within` must be longer than zero");
        Self {
            within: duration,
            skip_connect_handler: false,
            packet_bytes: 64 * MIB,
            namespace_bytes: 16 * MIB,
            session_bytes: 16 * MIB,
        }
    }

    /// How many bytes of packets are kept, in all namespaces together; 64 MiB. Beyond it the
    /// oldest of the namespace that sends are dropped, and clients that miss one of them do not
    /// recover.
    pub const fn max_packet_bytes(mut self, bytes: usize) -> Self {
        self.packet_bytes = bytes;
        self
    }

    /// How many bytes of packets are kept for one namespace; 16 MiB. Beyond it the oldest are
    /// dropped.
    pub const fn max_namespace_bytes(mut self, bytes: usize) -> Self {
        self.namespace_bytes = bytes;
        self
    }

    /// How many bytes are kept of clients that are away, in all namespaces together; 16 MiB, which
    /// are some 30 000 of them. Beyond it those who have been away the longest are forgotten.
    /// Their data count; values of [`Socket::insert`](crate::Socket::insert) do not, as their size is
    /// not known.
    pub const fn max_session_bytes(mut self, bytes: usize) -> Self {
        self.session_bytes = bytes;
        self
    }

    /// Whether a client that recovers passes by the connect handler and the layers around it; no.
    ///
    /// The connect handler is what Node calls a middleware and a `connection` listener in one. It
    /// sees every client, [`Socket::recovered`](crate::Socket::recovered) tells it which ones were
    /// here before, and it may refuse those too: a token may have expired. Where it is costly, and
    /// having been let in two minutes ago is good enough, it can be skipped.
    pub const fn skip_connect_handler(mut self, skip: bool) -> Self {
        self.skip_connect_handler = skip;
        self
    }
}

const MIB: usize = 1024 * 1024;

/// What all namespaces of a server keep, together.
#[derive(Debug)]
pub(crate) struct RecoveryBudget {
    pub(crate) config: Recovery,
    packets: AtomicUsize,
    sessions: AtomicUsize,
    /// Whether somebody will look for what is too old.
    sweeping: AtomicBool,
}

impl RecoveryBudget {
    pub(crate) const fn new(config: Recovery) -> Self {
        Self {
            config,
            packets: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
            sweeping: AtomicBool::new(false),
        }
    }

    /// Whether the caller is the one who has to sweep from now on.
    fn begin_sweeping(&self) -> bool {
        !self.sweeping.load(Ordering::Relaxed) && !self.sweeping.swap(true, Ordering::AcqRel)
    }

    fn end_sweeping(&self) {
        self.sweeping.store(false, Ordering::Release);
    }
}

/// What a client names itself with when it comes back, 128 random bits.
///
/// Who knows it can take the socket over, so it is a bearer secret as the session's id is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PrivateId([u8; 16]);

impl PrivateId {
    /// Makes an id of random bytes, which must come from a secure source.
    pub(crate) const fn new(random: [u8; 16]) -> Self {
        Self(random)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut id = [0; 16];
        let len = URL_SAFE_NO_PAD.decode_slice(text, &mut id).ok()?;
        (len == id.len()).then_some(Self(id))
    }

    /// The id as it is sent to its owner, and to nobody else.
    pub(crate) fn expose(self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }
}

impl fmt::Debug for PrivateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateId(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_id_is_read_as_it_was_written_and_not_shown() {
        let id = PrivateId::new([0xfe; 16]);
        assert_eq!(PrivateId::parse(&id.expose()), Some(id));
        assert_eq!(id.expose().len(), 22);
        assert_eq!(format!("{id:?}"), "PrivateId(..)");
        let long = "A".repeat(100);
        for text in [
            "",
            "A",
            "AAAAAAAAAAAAAAAAAAAAA",
            "AAAAAAAAAAAAAAAAAAAAAB",
            "é",
            &long,
        ] {
            assert_eq!(PrivateId::parse(text), None, "{text}");
        }
    }
}
