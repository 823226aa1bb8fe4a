//! The limits of a session.

use std::time::Duration;

use bytes::Bytes;

use super::{Message, SessionId, Transport};

/// The default of [`Config::high_water`].
pub(crate) const HIGH_WATER: usize = 256 * 1024;

/// The limits of a session. Sizes are in bytes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The time from the open packet, and from each pong, to the next ping. A time of more than 12
    /// days counts as 12 days.
    ///
    /// Default: 25 s.
    pub ping_interval: Duration,
    /// The time in which a pong must arrive, and in which the WebSocket must write bytes that it
    /// holds. Otherwise the session closes with [`CloseReason::PingTimeout`](super::CloseReason::PingTimeout).
    ///
    /// Default: 20 s.
    pub ping_timeout: Duration,
    /// The time in which an upgrade must end. Otherwise the session stays on polling.
    ///
    /// Default: 10 s.
    pub upgrade_timeout: Duration,
    /// The time in which a client must fetch the queued messages after a close. Otherwise they are
    /// dropped.
    ///
    /// Default: 5 s.
    pub close_timeout: Duration,
    /// The maximum size of a message, a WebSocket frame and a polling body. A longer WebSocket
    /// message closes the session with [`CloseReason::TooBig`](super::CloseReason::TooBig). A longer body is refused with
    /// status 413.
    ///
    /// Default: 1 000 000.
    pub max_payload: usize,
    /// The size of the send queue at which the client's input is no longer read.
    ///
    /// Default: 256 KiB.
    pub high_water: usize,
    /// The size of the send queue above which the next message closes the session with
    /// [`CloseReason::SlowConsumer`](super::CloseReason::SlowConsumer).
    ///
    /// Default: 4 MiB.
    pub max_buffered: usize,
    /// The size of the messages waiting for their handlers at which the client's input is no longer
    /// read. The limit is four times as high while the application waits for an acknowledgement,
    /// which is behind those messages.
    ///
    /// Default: 256 KiB.
    pub max_pending: usize,
    /// The maximum size of the head of the request that opens a session: its URI, and the names and
    /// values of its headers. A longer head is refused with status 431. The session stores the head
    /// until it ends.
    ///
    /// Default: 32 KiB.
    pub max_handshake: usize,
    /// Whether sessions may begin with polling.
    ///
    /// Default: `true`.
    pub polling: bool,
    /// Whether sessions may begin with WebSocket, and upgrade to it.
    ///
    /// Default: `true`.
    pub websocket: bool,
    /// Whether sessions may upgrade from polling to WebSocket.
    ///
    /// Default: `true`.
    pub upgrades: bool,
    /// A message that is sent directly after the open packet, in the same polling body.
    ///
    /// Default: `None`.
    pub initial_packet: Option<Message>,
    /// Whether clients of [revision 3](super::Revision::V3) are served. A client that names no revision
    /// counts as revision 3.
    ///
    /// Default: `false`.
    pub allow_eio3: bool,
    /// The size from which on messages are compressed on WebSocket, if the client offers
    /// `permessage-deflate`. `None` disables compression. Node's server uses 1024.
    ///
    /// A message is compressed once for each of its recipients, which takes time. A connection
    /// holds no memory for compression.
    ///
    /// Default: `None`.
    pub deflate_threshold: Option<usize>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ping_interval: Duration::from_secs(25),
            ping_timeout: Duration::from_secs(20),
            upgrade_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            max_payload: 1_000_000,
            high_water: HIGH_WATER,
            max_buffered: 4 * 1024 * 1024,
            max_pending: 256 * 1024,
            max_handshake: 32 * 1024,
            polling: true,
            websocket: true,
            upgrades: true,
            initial_packet: None,
            allow_eio3: false,
            deflate_threshold: None,
        }
    }
}

impl Config {
    /// Returns the time from a pong to the next ping. It is at most [`LONGEST`], like the announced
    /// times: a client that gets no ping within them closes the connection.
    pub(super) fn interval(&self) -> Duration {
        self.ping_interval.min(LONGEST)
    }

    /// Returns the time for which a client of revision 3 may be silent.
    pub(super) fn silence(&self) -> Duration {
        self.interval().saturating_add(self.ping_timeout)
    }

    /// Checks the times that must not be zero.
    ///
    /// # Panics
    ///
    /// Panics if `ping_interval`, `ping_timeout` or `upgrade_timeout` is zero.
    #[track_caller]
    pub(crate) fn check(&self) {
        check_time("ping_interval", self.ping_interval);
        check_time("ping_timeout", self.ping_timeout);
        check_time("upgrade_timeout", self.upgrade_timeout);
    }

    /// Returns the JSON payload of the open packet.
    pub(super) fn open_packet(&self, sid: &SessionId, transport: Transport) -> Bytes {
        let upgrades = match transport {
            Transport::Polling if self.websocket && self.upgrades => r#"["websocket"]"#,
            Transport::Polling | Transport::WebSocket => "[]",
        };
        format!(
            r#"{{"sid":"{}","upgrades":{upgrades},"pingInterval":{},"pingTimeout":{},"maxPayload":{}}}"#,
            sid.expose(),
            announced(self.ping_interval),
            announced(self.ping_timeout),
            self.max_payload,
        )
        .into()
    }
}

/// The longest time that is announced to a client, 12 days.
///
/// A client adds the two announced times. A JavaScript timer holds 2^31 - 1 milliseconds, and fires
/// at once if it is set to more.
const LONGEST: Duration = Duration::from_millis((1 << 30) - 1);

/// Converts a time to the announced number of milliseconds, at least 1.
fn announced(time: Duration) -> u128 {
    time.min(LONGEST).as_millis().max(1)
}

/// Checks that a time is not zero.
///
/// # Panics
///
/// Panics if `time` is zero.
#[track_caller]
pub(crate) fn check_time(name: &str, time: Duration) {
    assert!(!time.is_zero(), "`{name}` must be longer than zero");
}
