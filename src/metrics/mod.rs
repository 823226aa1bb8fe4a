//! Metrics, through the [`metrics`](https://docs.rs/metrics) facade.
//!
//! [`SocketIoBuilder::metrics`] turns them on. The application chooses where they go: it installs a
//! recorder, such as that of `metrics-exporter-prometheus`, before the first client connects.
//! Without a recorder they go nowhere.
//!
//! ```
//! use tower_socketio::metrics::Metrics;
//! use tower_socketio::{Namespace, Socket, SocketIo};
//!
//! async fn say(socket: Socket) {
//!     socket.broadcast().emit("said", "hello");
//! }
//!
//! let (layer, io) = SocketIo::builder()
//!     .namespace("/", Namespace::new().on("say", say))
//!     .metrics(Metrics::new().sent_events(["said"]))
//!     .build();
//! ```
//!
//! `examples/metrics.rs` serves them to Prometheus, and `docs/grafana.json` is a dashboard.
//!
//! # The metrics
//!
//! Durations are in seconds, sizes in bytes.
//!
//! | metric | kind | labels | |
//! |---|---|---|---|
//! | `socketio_connections` | gauge | `transport` | the open connections |
//! | `socketio_connection_duration_seconds` | histogram | `transport`, `reason` | how long a connection was open; its last transport, and why it ended |
//! | `socketio_handshakes_total` | counter | `transport` | the connections that were opened |
//! | `socketio_refused_total` | counter | `code` | the HTTP requests that were refused, by the `code` that the client gets: see [`ConnectionError::code`](crate::ConnectionError::code) |
//! | `socketio_upgrades_total` | counter | `result` | upgrades from polling to WebSocket: `upgraded`, `failed` |
//! | `socketio_sockets` | gauge | `namespace` | the connected sockets |
//! | `socketio_connects_total` | counter | `namespace` | the sockets that have connected |
//! | `socketio_disconnects_total` | counter | `namespace`, `reason` | the sockets that have left, by [`DisconnectReason::as_str`](crate::DisconnectReason::as_str), with underscores: `ping_timeout` |
//! | `socketio_events_received_total` | counter | `namespace`, `event` | the events whose handlers were called, and those without a handler |
//! | `socketio_events_sent_total` | counter | `namespace`, `event` | the events that were sent, once for each recipient of a broadcast |
//! | `socketio_handler_duration_seconds` | histogram | `namespace`, `event`, `outcome` | how long a handler took, with its layers: `ok`, `error`, `panic` |
//! | `socketio_ack_duration_seconds` | histogram | `namespace`, `outcome` | how long the server waited for an acknowledgement: `answered`, `timeout`, `disconnected`. A wait that the application has abandoned counts as `timeout` |
//! | `socketio_received_bytes_total` | counter | `transport` | the bytes of WebSocket frames and of POST bodies, as they were on the wire |
//! | `socketio_sent_bytes_total` | counter | `transport` | the bytes of WebSocket frames, and of the bodies of polls before their compression |
//! | `socketio_buffered_bytes` | gauge | | the bytes that wait for slow clients, as [`max_buffered`](crate::SocketIoBuilder::max_buffered) counts them. Those of a polling client may be counted up to `ping_interval` later |
//! | `socketio_slow_consumers_total` | counter | | the connections that were closed at that limit |
//! | `socketio_volatile_dropped_total` | counter | | the volatile events that were dropped |
//! | `socketio_recoveries_total` | counter | `result` | the clients that have asked for their former socket, with [recovery](crate::Recovery): `recovered`, `expired` (packets that they have missed are gone), `unknown` (so is the socket) |
//! | `socketio_broadcast_recipients` | histogram | `namespace` | the number of sockets of this server that a broadcast selected |
//! | `socketio_cluster_messages_total` | counter | `direction` | the messages to and from other servers: `sent`, `received` |
//! | `socketio_cluster_dropped_total` | counter | `reason` | the messages that were lost or ignored: `not_sent`, `unconfirmed`, `malformed`, `gap` |
//! | `socketio_cluster_up` | gauge | | 1 while the broker is connected, otherwise 0 |
//!
//! The metrics of the cluster exist only with a [cluster](crate::SocketIoBuilder::cluster).
//!
//! # Labels
//!
//! A client cannot add a series. `namespace` is the path as it was registered, with its parameters:
//! `/orders/{shop}`. A namespace of [`namespace_if`](crate::SocketIoBuilder::namespace_if) is
//! `_other`. `event` of a received event is a name that has a handler, and of a sent event such a
//! name, or one of [`Metrics::sent_events`]. All other events are `_other`, also those of a
//! fallback.
//!
//! `transport` is `polling` or `websocket`. The reasons for the end of a connection are
//! `transport_close`, `transport_error`, `ping_timeout`, `parse_error`, `too_big`, `server_close`,
//! `shutdown`, `violation`, `slow_consumer` and `event_backlog`.
//!
//! Two servers in one process share their series.
//!
//! # Costs
//!
//! An event costs two looks at the clock, three counters, a histogram and an allocation: about 3 % of
//! the CPU of an echo over TCP. See `benches/README.md`. Without [`SocketIoBuilder::metrics`] it costs a
//! few branches, whether or not the feature is enabled.

use std::sync::Arc;

use self::observer::MetricsObserver;
use crate::SocketIoBuilder;

mod observer;
mod table;

/// The options of [`SocketIoBuilder::metrics`].
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Metrics {
    sent_events: Vec<Box<str>>,
}

impl Metrics {
    /// Creates the default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds names of events that the server sends. Each has series of its own in
    /// `socketio_events_sent_total`, in each namespace.
    ///
    /// Default: the names of the events that have a handler in the namespace. The application may
    /// send names that it has from a client, so all other names count as `_other`.
    pub fn sent_events(mut self, names: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let names = names.into_iter();
        self.sent_events
            .extend(names.map(|name| name.as_ref().into()));
        self
    }
}

impl<S> SocketIoBuilder<S> {
    /// Reports metrics through the `metrics` facade. See [`metrics`](crate::metrics) for a list.
    ///
    /// The recorder has to be installed before the server gets its first request, or, if the server
    /// is in a [cluster](Self::cluster), before [`build`](Self::build). One that is installed later
    /// gets nothing.
    ///
    /// Default: none.
    pub fn metrics(self, metrics: Metrics) -> Self {
        self.observe(Arc::new(MetricsObserver::new(metrics.sent_events)))
    }
}

/// The recommended buckets for each histogram. An exporter needs them before the first client
/// connects.
///
/// ```
/// use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
/// use tower_socketio::metrics::BUCKETS;
///
/// let mut exporter = PrometheusBuilder::new();
/// for (name, buckets) in BUCKETS {
///     let name = Matcher::Full(name.to_owned());
///     exporter = exporter.set_buckets_for_metric(name, buckets).expect("buckets");
/// }
/// let recorder = exporter.build_recorder();
/// ```
pub const BUCKETS: [(&str, &[f64]); 4] = [
    (table::CONNECTION_DURATION, &CONNECTION_BUCKETS),
    (table::HANDLER_DURATION, &DURATION_BUCKETS),
    (table::ACK_DURATION, &DURATION_BUCKETS),
    (table::BROADCAST_RECIPIENTS, &RECIPIENT_BUCKETS),
];

/// The recommended buckets for `socketio_connection_duration_seconds`: those of ASP.NET's SignalR.
pub const CONNECTION_BUCKETS: [f64; 14] = [
    0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
];

/// The recommended buckets for `socketio_handler_duration_seconds` and
/// `socketio_ack_duration_seconds`: the defaults of Prometheus, and one for a handler that does not
/// wait.
pub const DURATION_BUCKETS: [f64; 12] = [
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// The recommended buckets for `socketio_broadcast_recipients`.
pub const RECIPIENT_BUCKETS: [f64; 11] = [
    0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0, 100_000.0,
];
