//! Connection state recovery: a client that lost its connection restores its socket.
//!
//! ```text
//!   emit ──────────────────▶ RecoveryStore: an offset, a copy in the Log ──▶ the clients
//!   leave ─────────────────▶ RecoveryStore: the socket is suspended             │
//!   CONNECT {pid, offset} ─▶ RecoveryStore: the missed packets ◀── the offset ──┘
//! ```
//!
//! | file | |
//! |---|---|
//! | [`offset`] | the offset of a packet |
//! | [`log`] | the packets of one namespace, by their offsets |
//! | [`room_history`] | the rooms of one socket, by offsets: for which packets it was a recipient |
//! | [`store`] | the sockets of one namespace, and what each of them was sent |
//! | [`handover`] | the data that a suspended socket passes to the restored one |
//! | [`live`] | recovery in the namespace and its sockets |
//! | [`shared_log`] | what all servers of a cluster have sent, if its broker has a log |
//! | [`departures`] | what this server has sent to that log, until it comes back |
//! | [`saved`] | a suspended socket that the broker keeps |
//! | [`over_log`] | recovery over that log, in the namespace and its sockets |
//!
//! All but [`handover`], [`live`] and [`over_log`] are pure data structures: time, ids and random numbers
//! are arguments. One lock
//! protects the store of a namespace. It is held from the moment when a packet gets its offset
//! until the packet is queued for all recipients, so that each client gets the offsets in order.
//! Therefore the last offset that a client has seen determines the packets that it has missed.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

mod departures;
mod handover;
mod live;
mod log;
mod offset;
mod over_log;
mod room_history;
mod saved;
mod shared_log;
mod store;

pub(crate) use self::departures::Behind;
pub(in crate::hub) use self::handover::DeferredDrop;
pub(crate) use self::handover::{Handover, StoreGuard};
pub(crate) use self::live::{JoinRequest, Recoverable};
pub(crate) use self::offset::Mark;
pub use self::offset::Offset;
pub(crate) use self::over_log::{Claimed, LOG_TIMEOUT, OverLog};
#[cfg(feature = "wire")]
pub(crate) use self::room_history::{RoomHistory, RoomStay};
#[cfg(feature = "wire")]
pub(crate) use self::saved::History;
pub use self::saved::SavedSocket;
pub(crate) use self::shared_log::SharedLog;
pub(crate) use self::store::RecoveryStore;
use crate::sync::{Handle, Mutex};

/// Connection state recovery: its limits of time and memory.
///
/// A client that loses its connection and comes back in time is the same socket again. It keeps its
/// [`id`](crate::Socket::id), its rooms and the values that were stored with it, and it gets the
/// packets that it missed. The connect handler runs again, and
/// [`Socket::recovered`](crate::Socket::recovered) returns `true`. A client that comes back too
/// late, or whose missed packets are no longer kept, is a new socket. So either nothing is missing,
/// or `recovered` returns `false`.
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
/// A client can recover after its connection broke, and after the server closed the connection because
/// the client was slow, silent, or sent a malformed Socket.IO packet. It cannot recover after it left,
/// after the server disconnected it, or after a malformed Engine.IO packet. Without a cluster the server
/// keeps everything in the memory of this process.
///
/// In a [cluster](crate::cluster) whose broker has a [log](crate::cluster::Broker::has_log), such as
/// Redis with streams, the client may come back to any server, also to one of Node, and also after a
/// server was [closed](crate::SocketIo::close). All servers should have the same
/// [`within`](Self::within). An event is then delivered when it comes back from the log, so that each
/// client gets events in the order of the log. Values of [`Socket::insert`](crate::Socket::insert) stay
/// on their server; those of [`Socket::set_data`](crate::Socket::set_data) travel.
///
/// Events that are sent with an acknowledgement, and volatile events, are not sent again. Each
/// other event carries its offset as one more argument, a string. Listeners of the client see the offset
/// as their last argument, as with Node's server.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Recovery {
    pub(crate) within: Duration,
    pub(crate) skip_connect_handler: bool,
    packet_bytes: usize,
    namespace_bytes: usize,
    socket_bytes: usize,
    pub(crate) save_early: bool,
    pub(crate) direct: bool,
}

impl Recovery {
    /// Creates a configuration that lets a client be away for `duration`, from the moment when the
    /// server notices the loss. Node's default is two minutes.
    ///
    /// Packets are kept for the same time, unless a limit of bytes drops them earlier. With
    /// [`Duration::MAX`] the limits of bytes alone apply.
    ///
    /// # Panics
    ///
    /// Panics if `duration` is zero.
    #[track_caller]
    pub const fn within(duration: Duration) -> Self {
        assert!(!duration.is_zero(), "`within` must be longer than zero");
        Self {
            within: duration,
            skip_connect_handler: false,
            packet_bytes: 64 * MIB,
            namespace_bytes: 16 * MIB,
            socket_bytes: 16 * MIB,
            save_early: false,
            direct: true,
        }
    }

    /// Sets how many bytes of packets are kept, in all namespaces together.
    ///
    /// Above the limit, the oldest packets of the namespace that sends are dropped. Clients that
    /// miss one of them do not recover.
    ///
    /// Default: 64 MiB.
    pub const fn max_packet_bytes(mut self, bytes: usize) -> Self {
        self.packet_bytes = bytes;
        self
    }

    /// Sets how many bytes of packets are kept for one namespace. In a [cluster](crate::cluster) whose
    /// broker has a log it has no effect.
    ///
    /// Above the limit, the oldest packets are dropped. Clients that miss one of them do not
    /// recover.
    ///
    /// Default: 16 MiB.
    pub const fn max_namespace_bytes(mut self, bytes: usize) -> Self {
        self.namespace_bytes = bytes;
        self
    }

    /// Sets how many bytes are kept of suspended sockets, in all namespaces together.
    ///
    /// Above the limit, the sockets that have been suspended the longest are forgotten. Their data
    /// count. Values of [`Socket::insert`](crate::Socket::insert) do not count, because their size
    /// is not known.
    ///
    /// Default: 16 MiB, which is enough for some 30 000 sockets.
    pub const fn max_socket_bytes(mut self, bytes: usize) -> Self {
        self.socket_bytes = bytes;
        self
    }

    /// Sets whether a client that recovers skips the connect handler and the layers around it.
    ///
    /// The connect handler is what Node calls a middleware and a `connection` listener in one. It
    /// runs for every client. [`Socket::recovered`](crate::Socket::recovered) shows it whether a
    /// client recovers, and it may refuse such a client too: a token may have expired. Skip the
    /// handler if it is costly, and if the decision that it made before the loss is good enough.
    ///
    /// A layer around the connect handler is skipped too. So a client that recovers does not count
    /// against a rate limit of connects, such as `RateLimitLayer::connects_per_key`.
    ///
    /// Default: `false`.
    pub const fn skip_connect_handler(mut self, enabled: bool) -> Self {
        self.skip_connect_handler = enabled;
        self
    }

    /// Sets whether the broker keeps each socket also while it is connected. Clients then recover also
    /// from a server that has crashed.
    ///
    /// It needs a [cluster](crate::cluster) whose broker has a [log](crate::cluster::Broker::has_log),
    /// such as Redis with streams. A socket is saved when it connects, about a second after its rooms or
    /// its data have changed, and each half of [`within`](Self::within). That is the price: one command
    /// of Redis each time.
    ///
    /// Default: `false`. A socket is saved when its client is lost, or when the server
    /// [closes](crate::SocketIo::close).
    pub const fn save_early(mut self, enabled: bool) -> Self {
        self.save_early = enabled;
        self
    }

    /// Sets whether events for one socket, by [`Socket::emit`](crate::Socket::emit), are recovered in a
    /// [cluster](crate::cluster) whose broker has a [log](crate::cluster::Broker::has_log).
    ///
    /// With `false` they do not go through the log. They are faster then, no other server has to read
    /// them, and a client that was away does not get them. In one process, and with other brokers, it has
    /// no effect.
    ///
    /// Default: `true`.
    pub const fn direct(mut self, enabled: bool) -> Self {
        self.direct = enabled;
        self
    }
}

const MIB: usize = 1024 * 1024;

/// The bytes that the stores of all namespaces hold together.
#[derive(Debug)]
pub(crate) struct RecoveryBudget {
    pub(crate) config: Recovery,
    packets: AtomicUsize,
    sockets: AtomicUsize,
    /// Whether a task sweeps the stores for expired packets and sockets.
    sweeping: AtomicBool,
    /// The runtime of the session that has joined last.
    runtime: Mutex<Option<Handle>>,
}

impl RecoveryBudget {
    pub(crate) fn new(config: Recovery) -> Self {
        Self {
            config,
            packets: AtomicUsize::new(0),
            sockets: AtomicUsize::new(0),
            sweeping: AtomicBool::new(false),
            runtime: Mutex::default(),
        }
    }

    /// Returns whether the caller has to sweep from now on.
    fn claim_sweep(&self) -> bool {
        !self.sweeping.load(Ordering::Relaxed) && !self.sweeping.swap(true, Ordering::AcqRel)
    }

    fn release_sweep(&self) {
        self.sweeping.store(false, Ordering::Release);
    }
}

/// The private id of a socket: 128 random bits as 22 characters, or the 20 characters of a server of
/// Node. A client names it to restore the socket.
///
/// Any client that knows the id can take the socket over, so it is a bearer secret like the id of a
/// session.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PrivateId {
    /// The characters, and zeros behind a shorter id.
    text: [u8; 22],
}

impl PrivateId {
    /// Creates an id from random bytes, which must come from a secure source.
    pub(crate) fn new(random: [u8; 16]) -> Self {
        let mut text = [0; 22];
        // 16 bytes have 22 characters.
        let _ = URL_SAFE_NO_PAD.encode_slice(random, &mut text);
        Self { text }
    }

    pub(crate) fn parse(id: &str) -> Option<Self> {
        let is_valid = id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if !is_valid || !(20..=22).contains(&id.len()) {
            return None;
        }
        let mut text = [0; 22];
        text[..id.len()].copy_from_slice(id.as_bytes());
        Some(Self { text })
    }

    /// Returns the id as text. It is sent to its owner, and to the servers of the cluster.
    pub(crate) fn expose(&self) -> &str {
        let len = self.text.iter().position(|byte| *byte == 0);
        let text = &self.text[..len.unwrap_or(self.text.len())];
        // The characters are ASCII.
        std::str::from_utf8(text).unwrap_or_default()
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
    fn a_private_id_is_read_as_it_is_written_and_hidden_by_debug() {
        let id = PrivateId::new([0xfe; 16]);
        assert_eq!(PrivateId::parse(id.expose()), Some(id));
        assert_eq!(id.expose().len(), 22);
        assert_eq!(format!("{id:?}"), "PrivateId(..)");
        let of_node = "Cc90mFIMd74lNfkAAAAD";
        let read = PrivateId::parse(of_node).expect("20 characters");
        assert_eq!(read.expose(), of_node);
        let long = "A".repeat(100);
        for text in [
            "",
            "A",
            "AAAAAAAAAAAAAAAAAAA",
            "AAAAAAAAAAAAAAAAAAAAAAA",
            "AAAAAAAAAA\0AAAAAAAAAA",
            "AAAAAAAAAAAAAAAAAAAA/A",
            "éééééééééé",
            &long,
        ] {
            assert_eq!(PrivateId::parse(text), None, "{text}");
        }
    }
}
