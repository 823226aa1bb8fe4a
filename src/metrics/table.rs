//! The names of the metrics, and their descriptions.

use ::metrics::{KeyName, SharedString, Unit};

pub(super) const CONNECTIONS: &str = "socketio_connections";
pub(super) const CONNECTION_DURATION: &str = "socketio_connection_duration_seconds";
pub(super) const HANDSHAKES: &str = "socketio_handshakes_total";
pub(super) const REFUSED: &str = "socketio_refused_total";
pub(super) const UPGRADES: &str = "socketio_upgrades_total";
pub(super) const SOCKETS: &str = "socketio_sockets";
pub(super) const CONNECTS: &str = "socketio_connects_total";
pub(super) const DISCONNECTS: &str = "socketio_disconnects_total";
pub(super) const EVENTS_RECEIVED: &str = "socketio_events_received_total";
pub(super) const EVENTS_SENT: &str = "socketio_events_sent_total";
pub(super) const HANDLER_DURATION: &str = "socketio_handler_duration_seconds";
pub(super) const ACK_DURATION: &str = "socketio_ack_duration_seconds";
pub(super) const RECEIVED_BYTES: &str = "socketio_received_bytes_total";
pub(super) const SENT_BYTES: &str = "socketio_sent_bytes_total";
pub(super) const BUFFERED_BYTES: &str = "socketio_buffered_bytes";
pub(super) const SLOW_CONSUMERS: &str = "socketio_slow_consumers_total";
pub(super) const VOLATILE_DROPPED: &str = "socketio_volatile_dropped_total";
pub(super) const RECOVERIES: &str = "socketio_recoveries_total";
pub(super) const BROADCAST_RECIPIENTS: &str = "socketio_broadcast_recipients";
pub(super) const CLUSTER_MESSAGES: &str = "socketio_cluster_messages_total";
pub(super) const CLUSTER_DROPPED: &str = "socketio_cluster_dropped_total";
pub(super) const CLUSTER_UP: &str = "socketio_cluster_up";

/// Describes all metrics to the recorder.
pub(super) fn describe() {
    ::metrics::with_recorder(|recorder| {
        for (name, kind, unit, text) in DESCRIPTIONS {
            let (name, text) = (KeyName::from_const_str(name), SharedString::const_str(text));
            match kind {
                Kind::Counter => recorder.describe_counter(name, Some(unit), text),
                Kind::Gauge => recorder.describe_gauge(name, Some(unit), text),
                Kind::Histogram => recorder.describe_histogram(name, Some(unit), text),
            }
        }
    });
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

use Kind::{Counter, Gauge, Histogram};
use Unit::{Bytes, Count, Seconds};

#[rustfmt::skip]
const DESCRIPTIONS: [(&str, Kind, Unit, &str); 22] = [
    (CONNECTIONS, Gauge, Count, "Open connections"),
    (CONNECTION_DURATION, Histogram, Seconds, "How long a connection was open"),
    (HANDSHAKES, Counter, Count, "Connections that were opened"),
    (REFUSED, Counter, Count, "HTTP requests that were refused"),
    (UPGRADES, Counter, Count, "Upgrades from polling to WebSocket"),
    (SOCKETS, Gauge, Count, "Connected sockets"),
    (CONNECTS, Counter, Count, "Sockets that have connected"),
    (DISCONNECTS, Counter, Count, "Sockets that have left"),
    (EVENTS_RECEIVED, Counter, Count, "Events that have arrived"),
    (EVENTS_SENT, Counter, Count, "Events that were sent, once for each recipient"),
    (HANDLER_DURATION, Histogram, Seconds, "How long a handler took"),
    (ACK_DURATION, Histogram, Seconds, "How long the server waited for an acknowledgement"),
    (RECEIVED_BYTES, Counter, Bytes, "Bytes of WebSocket frames and bodies that were received"),
    (SENT_BYTES, Counter, Bytes, "Bytes of WebSocket frames and bodies that were sent"),
    (BUFFERED_BYTES, Gauge, Bytes, "Bytes that wait to be sent to slow clients"),
    (SLOW_CONSUMERS, Counter, Count, "Connections that were closed because their client reads too slowly"),
    (VOLATILE_DROPPED, Counter, Count, "Volatile events that were dropped"),
    (RECOVERIES, Counter, Count, "Clients that have asked for their former socket"),
    (BROADCAST_RECIPIENTS, Histogram, Count, "The number of sockets that a broadcast selected"),
    (CLUSTER_MESSAGES, Counter, Count, "Messages to and from other servers"),
    (CLUSTER_DROPPED, Counter, Count, "Messages of the cluster that were lost or ignored"),
    (CLUSTER_UP, Gauge, Count, "Whether the broker is connected"),
];
