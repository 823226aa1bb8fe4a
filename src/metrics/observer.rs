//! The observer that reports metrics. It keeps a handle of each series that an event changes.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::metrics::{Counter, Gauge, Histogram, SharedString, counter, gauge, histogram};

use super::table;
use crate::engine_io::{CloseReason, Transport};
use crate::hub::DisconnectReason;
use crate::hub::definition::{Definition, EventIndex};
use crate::hub::member::Member;
use crate::hub::namespace::LiveNamespace;
use crate::hub::observer::{
    AckOutcome, ClusterDrop, Direction, Observer, RecoveryResult, Sent, Traffic,
};
use crate::hub::outcome::Outcome;
use crate::hub::session::SharedSession;
use crate::protocol::Payload;

/// The label of a name that is not registered.
const OTHER: &str = "_other";

/// Reports metrics to the recorder that is installed when they are first needed.
pub(super) struct MetricsObserver {
    /// The names of events that the server sends, in all namespaces.
    sent_events: Vec<Box<str>>,
    definitions: OnceLock<Box<[Arc<Definition>]>>,
    server: OnceLock<ServerMetrics>,
    cluster: OnceLock<ClusterMetrics>,
}

impl MetricsObserver {
    pub(super) fn new(sent_events: Vec<Box<str>>) -> Self {
        Self {
            sent_events,
            definitions: OnceLock::new(),
            server: OnceLock::new(),
            cluster: OnceLock::new(),
        }
    }

    #[inline]
    fn server(&self) -> &ServerMetrics {
        self.server.get_or_init(|| {
            table::describe();
            let definitions = self.definitions.get().into_iter().flatten();
            ServerMetrics::new(definitions, &self.sent_events)
        })
    }

    fn cluster(&self) -> &ClusterMetrics {
        self.cluster.get_or_init(|| {
            table::describe();
            ClusterMetrics::new()
        })
    }

    /// Returns the series of a namespace. All namespaces are defined before the first client
    /// connects.
    #[inline]
    fn namespace(&self, namespace: &LiveNamespace) -> Option<&NamespaceMetrics> {
        let index = namespace.hooks.definition.index;
        self.server().namespaces.get(index)
    }
}

/// The series of a server that an event changes, or that begin at zero.
struct ServerMetrics {
    connections: ByTransport<Gauge>,
    handshakes: ByTransport<Counter>,
    upgraded: Counter,
    upgrade_failed: Counter,
    received_bytes: ByTransport<Counter>,
    sent_bytes: ByTransport<Counter>,
    buffered_bytes: Gauge,
    slow_consumers: Counter,
    volatile_dropped: Counter,
    /// The series of the namespaces, by the index of their definition.
    namespaces: Box<[NamespaceMetrics]>,
}

impl ServerMetrics {
    fn new<'a>(
        definitions: impl Iterator<Item = &'a Arc<Definition>>,
        sent_events: &[Box<str>],
    ) -> Self {
        let namespaces = definitions.map(|each| NamespaceMetrics::new(each, sent_events));
        Self {
            connections: ByTransport::new(|name| gauge!(table::CONNECTIONS, "transport" => name)),
            handshakes: ByTransport::new(|name| counter!(table::HANDSHAKES, "transport" => name)),
            upgraded: counter!(table::UPGRADES, "result" => "upgraded"),
            upgrade_failed: counter!(table::UPGRADES, "result" => "failed"),
            received_bytes: ByTransport::new(
                |name| counter!(table::RECEIVED_BYTES, "transport" => name),
            ),
            sent_bytes: ByTransport::new(|name| counter!(table::SENT_BYTES, "transport" => name)),
            buffered_bytes: gauge!(table::BUFFERED_BYTES),
            slow_consumers: counter!(table::SLOW_CONSUMERS),
            volatile_dropped: counter!(table::VOLATILE_DROPPED),
            namespaces: namespaces.collect(),
        }
    }
}

/// A series for each transport.
struct ByTransport<T> {
    polling: T,
    websocket: T,
}

impl<T> ByTransport<T> {
    fn new(series: impl Fn(&'static str) -> T) -> Self {
        Self {
            polling: series(transport_name(Transport::Polling)),
            websocket: series(transport_name(Transport::WebSocket)),
        }
    }

    #[inline]
    fn of(&self, transport: Transport) -> &T {
        match transport {
            Transport::Polling => &self.polling,
            Transport::WebSocket => &self.websocket,
        }
    }
}

/// The series of the namespaces of one definition.
struct NamespaceMetrics {
    name: SharedString,
    sockets: Gauge,
    connects: Counter,
    /// The events that have a handler, by their index.
    events: Box<[ReceivedMetrics]>,
    other_event: ReceivedMetrics,
    /// The names that have a series of their own when they are sent, sorted.
    sent_names: Box<[Box<str>]>,
    sent: Box<[Counter]>,
    other_sent: Counter,
    recipients: OnceLock<Histogram>,
    acks: [OnceLock<Histogram>; 3],
}

/// The series of one received event.
struct ReceivedMetrics {
    event: SharedString,
    received: Counter,
    /// The durations of its handler by the outcome. A series begins with its first value.
    handler: [OnceLock<Histogram>; 3],
}

impl NamespaceMetrics {
    fn new(definition: &Definition, sent_events: &[Box<str>]) -> Self {
        let name = definition.pattern.as_deref().map(str::to_owned);
        let name = name.map_or(SharedString::const_str(OTHER), SharedString::from_owned);
        let mut sent_names = [&definition.events, sent_events].concat();
        sent_names.sort_unstable();
        sent_names.dedup();
        let sent = |event: SharedString| counter!(table::EVENTS_SENT, "namespace" => name.clone(), "event" => event);
        let received = |event| ReceivedMetrics::new(&name, event);
        Self {
            sockets: gauge!(table::SOCKETS, "namespace" => name.clone()),
            connects: counter!(table::CONNECTS, "namespace" => name.clone()),
            events: shared(&definition.events).map(received).collect(),
            other_event: received(SharedString::const_str(OTHER)),
            sent: shared(&sent_names).map(sent).collect(),
            other_sent: sent(SharedString::const_str(OTHER)),
            sent_names: sent_names.into(),
            recipients: OnceLock::new(),
            acks: Default::default(),
            name: name.clone(),
        }
    }

    #[inline]
    fn event(&self, event: EventIndex) -> &ReceivedMetrics {
        let known = event.and_then(|index| self.events.get(index));
        known.unwrap_or(&self.other_event)
    }

    #[inline]
    fn sent(&self, payload: &Payload) -> &Counter {
        let name = payload.name_bytes().unwrap_or_default();
        let found = self
            .sent_names
            .binary_search_by(|each| each.as_bytes().cmp(name));
        found.map_or(&self.other_sent, |index| &self.sent[index])
    }

    fn handler_duration(&self, event: EventIndex, outcome: Outcome) -> &Histogram {
        let metrics = self.event(event);
        let series = match outcome {
            Outcome::Ok => &metrics.handler[0],
            Outcome::Error => &metrics.handler[1],
            Outcome::Panic => &metrics.handler[2],
        };
        series.get_or_init(|| {
            histogram!(table::HANDLER_DURATION, "namespace" => self.name.clone(), "event" => metrics.event.clone(), "outcome" => outcome.as_str())
        })
    }

    fn ack_duration(&self, outcome: AckOutcome) -> &Histogram {
        let (series, name) = match outcome {
            AckOutcome::Answered => (&self.acks[0], "answered"),
            AckOutcome::Timeout => (&self.acks[1], "timeout"),
            AckOutcome::Disconnected => (&self.acks[2], "disconnected"),
        };
        series.get_or_init(
            || histogram!(table::ACK_DURATION, "namespace" => self.name.clone(), "outcome" => name),
        )
    }

    fn recipients(&self) -> &Histogram {
        self.recipients.get_or_init(
            || histogram!(table::BROADCAST_RECIPIENTS, "namespace" => self.name.clone()),
        )
    }
}

impl ReceivedMetrics {
    fn new(namespace: &SharedString, event: SharedString) -> Self {
        Self {
            received: counter!(table::EVENTS_RECEIVED, "namespace" => namespace.clone(), "event" => event.clone()),
            event,
            handler: Default::default(),
        }
    }
}

fn shared(names: &[Box<str>]) -> impl Iterator<Item = SharedString> {
    names
        .iter()
        .map(|name| SharedString::from_owned(name.clone().into_string()))
}

/// The series of the cluster.
struct ClusterMetrics {
    received: Counter,
    sent: Counter,
    up: Gauge,
}

impl ClusterMetrics {
    fn new() -> Self {
        Self {
            received: counter!(table::CLUSTER_MESSAGES, "direction" => "received"),
            sent: counter!(table::CLUSTER_MESSAGES, "direction" => "sent"),
            up: gauge!(table::CLUSTER_UP),
        }
    }
}

impl Observer for MetricsObserver {
    fn defined(&self, namespaces: &[Arc<Definition>]) {
        // The builder calls it once.
        let _ = self.definitions.set(namespaces.into());
    }

    fn connection_opened(&self, session: &Arc<SharedSession>) {
        let transport = session.params.transport;
        let server = self.server();
        server.connections.of(transport).increment(1);
        server.handshakes.of(transport).increment(1);
    }

    fn upgraded(&self, _session: &Arc<SharedSession>) {
        let server = self.server();
        server.connections.polling.decrement(1);
        server.connections.websocket.increment(1);
        server.upgraded.increment(1);
    }

    fn upgrade_failed(&self, _session: &Arc<SharedSession>) {
        self.server().upgrade_failed.increment(1);
    }

    fn connection_closed(
        &self,
        _session: &Arc<SharedSession>,
        transport: Transport,
        reason: CloseReason,
        lasted: Duration,
    ) {
        let server = self.server();
        server.connections.of(transport).decrement(1);
        if reason == CloseReason::SlowConsumer {
            server.slow_consumers.increment(1);
        }
        let (transport, reason) = (transport_name(transport), close_name(reason));
        histogram!(table::CONNECTION_DURATION, "transport" => transport, "reason" => reason)
            .record(lasted);
    }

    fn refused(&self, code: u8) {
        // A refusal may come before all else, and describes the metrics.
        self.server();
        counter!(table::REFUSED, "code" => code.to_string()).increment(1);
    }

    #[inline]
    fn received(&self, _session: &SharedSession, transport: Transport, traffic: Traffic) {
        let series = self.server().received_bytes.of(transport);
        series.increment(traffic.bytes as u64);
    }

    #[inline]
    fn sent(&self, _session: &SharedSession, transport: Transport, traffic: Traffic) {
        let series = self.server().sent_bytes.of(transport);
        series.increment(traffic.bytes as u64);
    }

    fn buffered_changed(&self, change: i64) {
        self.server().buffered_bytes.increment(change as f64);
    }

    fn socket_connected(&self, member: &Arc<Member>) {
        if let Some(namespace) = self.namespace(&member.namespace) {
            namespace.sockets.increment(1);
            namespace.connects.increment(1);
        }
    }

    fn socket_disconnected(&self, member: &Arc<Member>, reason: DisconnectReason) {
        if let Some(namespace) = self.namespace(&member.namespace) {
            namespace.sockets.decrement(1);
            let (name, reason) = (namespace.name.clone(), disconnect_name(reason));
            counter!(table::DISCONNECTS, "namespace" => name, "reason" => reason).increment(1);
        }
    }

    fn recovery(&self, _namespace: &Arc<LiveNamespace>, result: RecoveryResult) {
        let result = match result {
            RecoveryResult::Recovered => "recovered",
            RecoveryResult::Expired => "expired",
            RecoveryResult::Unknown => "unknown",
        };
        counter!(table::RECOVERIES, "result" => result).increment(1);
    }

    #[inline]
    fn event_received(&self, member: &Arc<Member>, event: EventIndex, _payload: &Payload) {
        if let Some(namespace) = self.namespace(&member.namespace) {
            namespace.event(event).received.increment(1);
        }
    }

    #[inline]
    fn handler_ended(
        &self,
        member: &Arc<Member>,
        event: EventIndex,
        outcome: Outcome,
        took: Duration,
    ) {
        if let Some(namespace) = self.namespace(&member.namespace) {
            namespace.handler_duration(event, outcome).record(took);
        }
    }

    fn event_sent(&self, member: &Arc<Member>, sent: Sent, payload: &Payload) {
        // The recipients of a broadcast are counted together.
        let namespace = self.namespace(&member.namespace);
        if let Some(namespace) = namespace.filter(|_| sent == Sent::ToOne) {
            namespace.sent(payload).increment(1);
        }
    }

    fn broadcast(&self, namespace: &Arc<LiveNamespace>, recipients: usize, payload: &Payload) {
        if let Some(namespace) = self.namespace(namespace) {
            namespace.sent(payload).increment(recipients as u64);
            namespace.recipients().record(recipients as f64);
        }
    }

    fn volatile_dropped(&self, count: usize) {
        self.server().volatile_dropped.increment(count as u64);
    }

    fn ack_ended(&self, member: &Member, outcome: AckOutcome, took: Duration) {
        if let Some(namespace) = self.namespace(&member.namespace) {
            namespace.ack_duration(outcome).record(took);
        }
    }

    fn cluster_message(&self, direction: Direction) {
        let cluster = self.cluster();
        match direction {
            Direction::Received => cluster.received.increment(1),
            Direction::Sent => cluster.sent.increment(1),
        }
    }

    fn cluster_dropped(&self, reason: ClusterDrop) {
        let reason = match reason {
            ClusterDrop::NotSent => "not_sent",
            ClusterDrop::Unconfirmed => "unconfirmed",
            ClusterDrop::Malformed => "malformed",
            ClusterDrop::Gap => "gap",
        };
        counter!(table::CLUSTER_DROPPED, "reason" => reason).increment(1);
    }

    fn cluster_up(&self, is_up: bool) {
        self.cluster().up.set(if is_up { 1.0 } else { 0.0 });
    }
}

fn transport_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Polling => "polling",
        Transport::WebSocket => "websocket",
    }
}

/// The words of [`DisconnectReason::as_str`], as a label.
fn disconnect_name(reason: DisconnectReason) -> &'static str {
    match reason {
        DisconnectReason::TransportClose => "transport_close",
        DisconnectReason::TransportError | DisconnectReason::TooBig => "transport_error",
        DisconnectReason::PingTimeout => "ping_timeout",
        DisconnectReason::ParseError => "parse_error",
        DisconnectReason::ForcedServerClose => "forced_server_close",
        DisconnectReason::ServerShuttingDown => "server_shutting_down",
        DisconnectReason::ClientNamespaceDisconnect => "client_namespace_disconnect",
        DisconnectReason::ServerNamespaceDisconnect => "server_namespace_disconnect",
        DisconnectReason::SlowConsumer => "slow_consumer",
        DisconnectReason::EventBacklog => "event_backlog",
        DisconnectReason::RateLimited => "rate_limited",
        DisconnectReason::Expired => "expired",
    }
}

fn close_name(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::TransportClose => "transport_close",
        CloseReason::TransportError => "transport_error",
        CloseReason::PingTimeout => "ping_timeout",
        CloseReason::ParseError => "parse_error",
        CloseReason::TooBig => "too_big",
        CloseReason::ServerClose => "server_close",
        CloseReason::Shutdown => "shutdown",
        CloseReason::Violation => "violation",
        CloseReason::SlowConsumer => "slow_consumer",
        CloseReason::EventBacklog => "event_backlog",
    }
}
