//! The metrics: each row of the table, by real traffic.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use metrics::LocalRecorderGuard;
use metrics_exporter_prometheus::PrometheusBuilder;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tower_socketio::cluster::Memory;
use tower_socketio::metrics::{BUCKETS, Metrics};
use tower_socketio::testing::Client;
use tower_socketio::{
    AckError, AckStream, Data, Namespace, NamespaceRequest, Recovery, Socket, SocketIo,
    SocketIoBuilder,
};

use crate::recovery::{Seat, back, lose};
use crate::support::{self, Polling, get, serve, until};

/// What one thread reports. With a single-threaded runtime these are all metrics of the test's
/// servers.
struct Recording {
    snapshotter: Snapshotter,
    /// The sum of a counter or of the changes of a gauge, and the values of a histogram.
    series: BTreeMap<String, Vec<f64>>,
    _guard: LocalRecorderGuard<'static>,
}

impl Recording {
    fn start() -> Self {
        let recorder: &'static DebuggingRecorder = Box::leak(Box::default());
        Self {
            snapshotter: recorder.snapshotter(),
            series: BTreeMap::new(),
            _guard: metrics::set_default_local_recorder(recorder),
        }
    }

    /// Reads what was reported since the last call. The snapshot resets the recorder.
    fn read(&mut self) {
        for (key, unit, description, value) in self.snapshotter.snapshot().into_vec() {
            let key = key.key();
            let name = key.name();
            assert!(description.is_some(), "{name} is described");
            assert!(unit.is_some(), "{name} has a unit");
            let labels = key.labels();
            let mut labels: Vec<_> = labels
                .map(|label| format!("{}={}", label.key(), label.value()))
                .collect();
            labels.sort_unstable();
            let series = self
                .series
                .entry(format!("{name}{{{}}}", labels.join(",")))
                .or_default();
            match value {
                DebugValue::Histogram(values) => series.extend(values.iter().map(|each| each.0)),
                DebugValue::Counter(count) => add(series, count as f64),
                DebugValue::Gauge(change) => add(series, change.0),
            }
        }
    }

    /// Returns the value of a counter, or of a gauge that was only incremented and decremented.
    fn value(&mut self, series: &str) -> f64 {
        self.read();
        let value = self.series.get(series).and_then(|values| values.first());
        value.copied().unwrap_or(f64::NAN)
    }

    /// Returns the values of a histogram so far.
    fn values(&mut self, series: &str) -> Vec<f64> {
        self.read();
        self.series.get(series).cloned().unwrap_or_default()
    }

    async fn until(&mut self, series: &str, expected: f64) {
        until(|| self.value(series) == expected).await;
    }

    fn names(&mut self) -> Vec<String> {
        self.read();
        self.series.keys().cloned().collect()
    }
}

fn add(series: &mut Vec<f64>, value: f64) {
    match series.first_mut() {
        Some(sum) => *sum += value,
        None => series.push(value),
    }
}

fn builder(main: Namespace) -> SocketIoBuilder {
    let metrics = Metrics::new().sent_events(["said"]);
    support::builder(main).metrics(metrics)
}

fn server(main: Namespace) -> (Router, SocketIo) {
    let (layer, io) = builder(main).build();
    (Router::new().layer(layer), io)
}

async fn connect(app: &Router) -> Client {
    Client::connect(app, "/").await.expect("it is let in")
}

/// Returns whether a time is `seconds`, up to the resolution of tokio's timer.
#[track_caller]
fn assert_took(values: &[f64], seconds: f64) {
    let [value] = values else {
        panic!("one value was expected, not {values:?}");
    };
    assert!((seconds..seconds + 0.01).contains(value), "{value}");
}

#[tokio::test(start_paused = true)]
async fn connections_and_handshakes_count_by_transport() {
    let mut recording = Recording::start();
    let (app, _io) = server(Namespace::new());
    let client = connect(&app).await;
    let polling = Polling::connect(&app).await;
    for transport in ["polling", "websocket"] {
        let of = |name: &str| format!("{name}{{transport={transport}}}");
        assert_eq!(recording.value(&of("socketio_connections")), 1.0);
        assert_eq!(recording.value(&of("socketio_handshakes_total")), 1.0);
    }
    polling.send_and_forget("1").await;
    recording
        .until("socketio_connections{transport=polling}", 0.0)
        .await;
    tokio::time::sleep(Duration::from_secs(90)).await;
    client.disconnect().await;
    recording
        .until("socketio_connections{transport=websocket}", 0.0)
        .await;
    assert_eq!(
        recording.value("socketio_handshakes_total{transport=polling}"),
        1.0
    );
    let lasted = recording
        .values("socketio_connection_duration_seconds{reason=transport_close,transport=websocket}");
    assert_took(&lasted, 90.0);
    let lasted = recording
        .values("socketio_connection_duration_seconds{reason=transport_close,transport=polling}");
    assert_took(&lasted, 0.0);
}

#[tokio::test]
async fn refused_requests_count_by_their_code() {
    let mut recording = Recording::start();
    let (app, _io) = server(Namespace::new());
    let unknown = get(&app, "/socket.io/?EIO=4&transport=pigeon").await;
    assert_eq!(unknown.status(), StatusCode::BAD_REQUEST);
    for _ in 0..2 {
        get(&app, "/socket.io/?EIO=4&transport=polling&sid=nobody").await;
    }
    assert_eq!(recording.value("socketio_refused_total{code=0}"), 1.0);
    assert_eq!(recording.value("socketio_refused_total{code=1}"), 2.0);
}

#[tokio::test]
async fn upgrades_count_by_their_result() {
    let mut recording = Recording::start();
    let (app, _io) = server(Namespace::new());
    let addr = serve(app.clone()).await;
    let polling = Polling::connect(&app).await;
    let query = format!("&sid={}", polling.sid);
    let failed = "socketio_upgrades_total{result=failed}";
    // A WebSocket that goes away before the upgrade.
    let mut probe = support::Client::raw(addr, &query).await;
    assert_eq!(probe.ask("2probe").await, "3probe");
    drop(probe);
    recording.until(failed, 1.0).await;
    assert_eq!(
        recording.value("socketio_connections{transport=polling}"),
        1.0
    );

    let mut probe = support::Client::raw(addr, &query).await;
    assert_eq!(probe.ask("2probe").await, "3probe");
    probe.send("5").await;
    recording
        .until("socketio_upgrades_total{result=upgraded}", 1.0)
        .await;
    assert_eq!(recording.value(failed), 1.0);
    assert_eq!(
        recording.value("socketio_connections{transport=polling}"),
        0.0
    );
    assert_eq!(
        recording.value("socketio_connections{transport=websocket}"),
        1.0
    );
    drop(probe);
    // The end of an upgraded connection counts as that of a WebSocket.
    recording
        .until("socketio_connections{transport=websocket}", 0.0)
        .await;
    assert_eq!(
        recording.value("socketio_connections{transport=polling}"),
        0.0
    );
}

#[tokio::test]
async fn a_session_that_ends_while_it_upgrades_leaves_no_connection() {
    let mut recording = Recording::start();
    let (app, io) = server(Namespace::new());
    let addr = serve(app.clone()).await;
    let polling = Polling::connect(&app).await;
    let mut probe = support::Client::raw(addr, &format!("&sid={}", polling.sid)).await;
    assert_eq!(probe.ask("2probe").await, "3probe");
    // The server closes, and the client completes its upgrade all the same.
    io.sockets()[0].close();
    until(|| io.sockets().is_empty()).await;
    probe.send("5").await;
    recording
        .until("socketio_connections{transport=polling}", 0.0)
        .await;
    assert_eq!(
        recording.value("socketio_connections{transport=websocket}"),
        0.0
    );
}

#[tokio::test]
async fn sockets_connects_and_disconnects_count_by_the_pattern_of_the_namespace() {
    let mut recording = Recording::start();
    async fn any(_: NamespaceRequest) -> bool {
        true
    }
    let (layer, io) = builder(Namespace::new())
        .namespace("/orders/{shop}", Namespace::new())
        .namespace_if(any, Namespace::new())
        .build();
    let app = Router::new().layer(layer);
    let mut clients = Vec::new();
    for namespace in ["/", "/orders/a", "/orders/b", "/made-up", "/made-up-too"] {
        clients.push(
            Client::connect(&app, namespace)
                .await
                .expect("it is let in"),
        );
    }
    for (namespace, count) in [("/", 1.0), ("/orders/{shop}", 2.0), ("_other", 2.0)] {
        for name in ["socketio_sockets", "socketio_connects_total"] {
            let series = format!("{name}{{namespace={namespace}}}");
            recording.until(&series, count).await;
        }
    }
    io.of("/orders/a").disconnect();
    clients.remove(2).disconnect().await;
    recording
        .until("socketio_sockets{namespace=/orders/{shop}}", 0.0)
        .await;
    for reason in ["server_namespace_disconnect", "client_namespace_disconnect"] {
        let series =
            format!("socketio_disconnects_total{{namespace=/orders/{{shop}},reason={reason}}}");
        assert_eq!(recording.value(&series), 1.0, "{reason}");
    }
    let connects = "socketio_connects_total{namespace=/orders/{shop}}";
    assert_eq!(recording.value(connects), 2.0);
}

#[tokio::test]
async fn a_socket_that_leaves_before_it_is_connected_is_not_counted() {
    let mut recording = Recording::start();
    let main = Namespace::new().on_connect(async |socket: Socket, io: SocketIo| {
        // The client receives neither.
        socket.emit("said", 1);
        io.emit("said", 1);
        Err::<(), _>("no")
    });
    let (app, _io) = server(main);
    assert!(Client::connect(&app, "/").await.is_err());
    recording
        .until("socketio_connections{transport=websocket}", 0.0)
        .await;
    assert_eq!(recording.value("socketio_sockets{namespace=/}"), 0.0);
    assert_eq!(recording.value("socketio_connects_total{namespace=/}"), 0.0);
    let names = recording.names();
    assert!(!names.iter().any(|name| name.contains("disconnects")));
    let sent = "socketio_events_sent_total{event=said,namespace=/}";
    let count = recording.value(sent);
    assert!(count.is_nan() || count == 0.0, "{count}");
}

#[tokio::test]
async fn an_event_to_a_socket_that_is_connecting_counts_when_it_is_connected() {
    let mut recording = Recording::start();
    let main = Namespace::new().on_connect(async |socket: Socket| {
        socket.emit("said", 1);
        socket.emit("said", 2);
    });
    let (app, _io) = server(main);
    let mut client = connect(&app).await;
    client.expect("said").await;
    let sent = "socketio_events_sent_total{event=said,namespace=/}";
    assert_eq!(recording.value(sent), 2.0);
}

#[tokio::test]
async fn events_count_by_their_registered_names() {
    let mut recording = Recording::start();
    let main = Namespace::new()
        .on("say", async |socket: Socket| {
            socket.emit("said", 1);
            socket.emit("say", 1);
            socket.emit("something else", 1);
        })
        .fallback(async || {});
    let (app, io) = server(main);
    let client = connect(&app).await;
    let _other = connect(&app).await;
    let _: () = client.emit_with_ack("say", ()).await.expect("it answers");
    let _: () = client.emit_with_ack("what", ()).await.expect("it answers");
    io.emit("said", 2);
    for (name, event, count) in [
        ("received", "say", 1.0),
        ("received", "_other", 1.0),
        // Once to one socket, and a broadcast to two.
        ("sent", "said", 3.0),
        ("sent", "say", 1.0),
        ("sent", "_other", 1.0),
    ] {
        let series = format!("socketio_events_{name}_total{{event={event},namespace=/}}");
        assert_eq!(recording.value(&series), count, "{series}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_duration_of_handlers_is_recorded_by_their_outcome() {
    let mut recording = Recording::start();
    let main = Namespace::new()
        .on("ok", async || {
            tokio::time::sleep(Duration::from_secs(3)).await;
        })
        .on("error", async || Err::<(), _>("no"))
        .on("panic", async || {
            if true {
                panic!("this test wants it");
            }
        })
        .fallback(async || {});
    let (app, _io) = server(main);
    let client = connect(&app).await;
    for event in ["ok", "error", "panic", "unknown"] {
        let _ = client.emit_with_ack::<()>(event, ()).await;
    }
    for (event, outcome, seconds) in [
        ("ok", "ok", 3.0),
        ("error", "error", 0.0),
        ("panic", "panic", 0.0),
        ("_other", "ok", 0.0),
    ] {
        let series = format!(
            "socketio_handler_duration_seconds{{event={event},namespace=/,outcome={outcome}}}"
        );
        assert_took(&recording.values(&series), seconds);
    }
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_an_acknowledgement_is_recorded_by_its_outcome() {
    let mut recording = Recording::start();
    let (app, io) = server(Namespace::new());
    let mut client = connect(&app).await;
    until(|| io.sockets().len() == 1).await;
    let socket = io.sockets().remove(0);
    let ask = || {
        let question = socket.emit_with_ack::<u32>("question", ());
        tokio::spawn(question.timeout(Duration::from_secs(60)).into_future())
    };

    let answer = ask();
    let question = client.expect("question").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    question.ack(42);
    assert_eq!(answer.await.expect("no panic").expect("an answer"), 42);

    let answer = ask().await.expect("no panic");
    assert!(answer.is_err_and(|error| error.is_timeout()));

    // A broadcast asks each client.
    let votes: AckStream<u32> = io.of("/").emit_with_ack("question", ());
    let votes = votes.timeout(Duration::from_secs(1)).await;
    assert!(votes[0].1.as_ref().is_err_and(AckError::is_timeout));

    let answer = ask();
    client.disconnect().await;
    let answer = answer.await.expect("no panic");
    assert!(answer.is_err_and(|error| error.is_disconnected()));

    let of =
        |outcome: &str| format!("socketio_ack_duration_seconds{{namespace=/,outcome={outcome}}}");
    assert_took(&recording.values(&of("answered")), 2.0);
    assert_took(&recording.values(&of("disconnected")), 0.0);
    let timeouts = recording.values(&of("timeout"));
    assert_eq!(timeouts.len(), 2, "{timeouts:?}");
    assert_took(&timeouts[..1], 60.0);
    assert_took(&timeouts[1..], 1.0);
}

#[tokio::test]
async fn bytes_count_as_they_are_on_the_wire() {
    let mut recording = Recording::start();
    let main = Namespace::new().on("ask", async || 7);
    let (app, _io) = server(main);
    let addr = serve(app.clone()).await;
    let (received, sent) = (
        "socketio_received_bytes_total{transport=websocket}",
        "socketio_sent_bytes_total{transport=websocket}",
    );
    let mut client = support::Client::connect(addr, "/").await;
    let (before_in, before_out) = (recording.value(received), recording.value(sent));
    let (question, answer) = (r#"420["ask"]"#, "430[7]");
    assert_eq!(client.ask(question).await, answer);
    // A frame of a client has a header of two bytes and a mask of four, that of a server two.
    recording
        .until(received, before_in + 6.0 + question.len() as f64)
        .await;
    recording
        .until(sent, before_out + 2.0 + answer.len() as f64)
        .await;

    let (received, sent) = (
        "socketio_received_bytes_total{transport=polling}",
        "socketio_sent_bytes_total{transport=polling}",
    );
    let mut polling = Polling::connect(&app).await;
    let (before_in, before_out) = (recording.value(received), recording.value(sent));
    assert_eq!(polling.ask(question).await, answer);
    assert_eq!(recording.value(received), before_in + question.len() as f64);
    assert_eq!(recording.value(sent), before_out + answer.len() as f64);
}

#[tokio::test(start_paused = true)]
async fn buffered_bytes_count_while_a_client_does_not_read() {
    let mut recording = Recording::start();
    let (app, io) = server(Namespace::new());
    let mut polling = Polling::connect(&app).await;
    let buffered = "socketio_buffered_bytes{}";
    io.emit("big", "x".repeat(1000));
    // A session that polls reports at the latest when its next ping is due.
    tokio::time::sleep(Duration::from_secs(26)).await;
    let waiting = recording.value(buffered);
    assert!((1000.0..1200.0).contains(&waiting), "{waiting}");
    polling.next().await;
    assert_eq!(recording.value(buffered), 0.0);
    // What is never fetched is no longer buffered when the session has ended.
    io.emit("big", "x".repeat(1000));
    polling.send("3").await;
    tokio::time::sleep(Duration::from_secs(26)).await;
    assert_eq!(recording.value(buffered), waiting);
    polling.send_and_forget("1").await;
    recording.until(buffered, 0.0).await;

    // A WebSocket whose client does not read at all.
    let stream = support::in_memory(app.clone(), 1024);
    let url = "ws://localhost/socket.io/?EIO=4&transport=websocket";
    let connect = tokio_tungstenite::client_async(url, stream).await;
    let (mut websocket, _) = connect.expect("a WebSocket");
    futures_util::SinkExt::send(&mut websocket, "40".into())
        .await
        .expect("it is read");
    until(|| io.sockets().len() == 1).await;
    for _ in 0..100 {
        io.emit("big", "x".repeat(10_000));
    }
    until(|| recording.value(buffered) > 500_000.0).await;
    drop(websocket);
    recording.until(buffered, 0.0).await;
}

#[tokio::test]
async fn slow_consumers_and_dropped_volatile_events_count() {
    let mut recording = Recording::start();
    let (layer, io) = builder(Namespace::new()).max_buffered(5_000).build();
    let app = Router::new().layer(layer);
    let _polling = Polling::connect(&app).await;
    let socket = io.sockets().remove(0);
    // Nothing waits for a poll, so the client is not ready.
    socket.volatile().emit("position", 1);
    io.of("/").volatile().emit("position", 1);
    assert_eq!(recording.value("socketio_volatile_dropped_total{}"), 2.0);
    assert_eq!(recording.value("socketio_slow_consumers_total{}"), 0.0);
    for _ in 0..10 {
        socket.emit("big", "x".repeat(1000));
    }
    recording
        .until("socketio_slow_consumers_total{}", 1.0)
        .await;
    let lasted = "socketio_connection_duration_seconds{reason=slow_consumer,transport=polling}";
    assert_eq!(recording.values(lasted).len(), 1);
    let reason = "socketio_disconnects_total{namespace=/,reason=slow_consumer}";
    recording.until(reason, 1.0).await;
}

#[tokio::test]
async fn recoveries_count_by_their_result() {
    let mut recording = Recording::start();
    let recovery = Recovery::within(Duration::from_secs(120)).max_namespace_bytes(10_000);
    let (layer, io) = builder(Namespace::new()).recovery(recovery).build();
    let app = Router::new().layer(layer);
    let mut seat = Seat::default();
    let mut client = Polling::open(&app).await;
    assert!(!seat.welcome(&client.ask("40").await));
    io.emit("first", 1);
    seat.event(&client.next().await);
    // Without a claim nothing counts.
    let names = recording.names();
    assert!(!names.iter().any(|name| name.contains("recoveries")));

    lose(client, &io).await;
    let (client, recovered) = back(&app, &mut seat).await;
    assert!(recovered);
    lose(client, &io).await;
    // The first of the packets that the client has missed is gone.
    (0..100).for_each(|_| io.emit("m", "x".repeat(1000)));
    let offset = seat.offset.clone();
    let (_client, recovered) = back(&app, &mut seat).await;
    assert!(!recovered);
    let mut unknown = Seat {
        pid: "A".repeat(22),
        offset,
        ..Seat::default()
    };
    let (_another, recovered) = back(&app, &mut unknown).await;
    assert!(!recovered);
    for result in ["recovered", "expired", "unknown"] {
        let series = format!("socketio_recoveries_total{{result={result}}}");
        assert_eq!(recording.value(&series), 1.0, "{result}");
    }
}

#[tokio::test]
async fn the_recipients_of_broadcasts_are_recorded() {
    let mut recording = Recording::start();
    let main = Namespace::new().on("say", async |socket: Socket| {
        socket.broadcast().emit("said", 1);
    });
    let (app, io) = server(main);
    let mut clients = Vec::new();
    // More than one chunk, so that the fan-out task delivers the broadcast.
    for _ in 0..130 {
        clients.push(connect(&app).await);
    }
    until(|| io.sockets().len() == 130).await;
    io.to("nobody").emit("said", 1);
    let _: () = clients[0]
        .emit_with_ack("say", ())
        .await
        .expect("an answer");
    let recipients = recording.values("socketio_broadcast_recipients{namespace=/}");
    assert_eq!(recipients, [0.0, 129.0]);
    let sent = "socketio_events_sent_total{event=said,namespace=/}";
    assert_eq!(recording.value(sent), 129.0);
}

#[tokio::test(start_paused = true)]
async fn the_messages_of_a_cluster_count() {
    let mut recording = Recording::start();
    let memory = Memory::new();
    let [(app, a), (_app, b)] = [(); 2].map(|()| {
        let (layer, io) = builder(Namespace::new()).cluster(memory.clone()).build();
        (Router::new().layer(layer), io)
    });
    let mut client = connect(&app).await;
    // Two brokers are connected, and both servers report to one gauge.
    until(|| {
        b.cluster()
            .is_some_and(|health| health.status().is_connected)
    })
    .await;
    recording.read();
    let up = recording.series.remove("socketio_cluster_up{}");
    assert_eq!(up, Some(vec![1.0]));
    let before = recording.value("socketio_cluster_messages_total{direction=received}");
    b.emit("said", "hello");
    assert_eq!(client.expect("said").await.data::<String>(), "hello");
    let received = recording.value("socketio_cluster_messages_total{direction=received}");
    assert!(received > before, "{before} {received}");
    assert!(recording.value("socketio_cluster_messages_total{direction=sent}") >= 1.0);

    a.close().await;
    assert!(a.of("/").try_emit("late", ()).is_err());
    let dropped = "socketio_cluster_dropped_total{reason=not_sent}";
    assert!(recording.value(dropped) >= 1.0);
}

/// A snapshot of a [`Recording`] resets its gauges, so this one reads those of Prometheus.
#[tokio::test]
async fn the_gauge_of_the_broker_is_zero_when_the_server_has_left_the_cluster() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let page = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let (_layer, io) = builder(Namespace::new())
        .cluster(Memory::new())
        .metrics(Metrics::new())
        .build();
    until(|| page.render().contains("socketio_cluster_up 1\n")).await;
    io.close().await;
    assert!(page.render().contains("socketio_cluster_up 0\n"));
}

#[tokio::test]
async fn a_client_cannot_add_series() {
    let mut recording = Recording::start();
    async fn any(_: NamespaceRequest) -> bool {
        true
    }
    let echo = async |socket: Socket, event: tower_socketio::RawArgs| {
        let _ = event;
        socket.emit("said", 1);
    };
    let shops = Namespace::new().on("say", echo).fallback(echo);
    let (layer, io) = builder(Namespace::new())
        .namespace("/orders/{shop}", shops)
        .namespace_if(any, Namespace::new().fallback(echo))
        .build();
    let app = Router::new().layer(layer);
    let visit = async |n: usize| {
        for namespace in [format!("/orders/{n}"), format!("/other-{n}")] {
            let client = Client::connect(&app, &namespace).await.expect("let in");
            let event = format!("event {n}");
            let _: () = client.emit_with_ack(&event, n).await.expect("an answer");
            // The application sends a name that it has from its client.
            io.of(&namespace).emit(&event, n);
            client.disconnect().await;
        }
        until(|| io.of("/").sockets().is_empty()).await;
        get(
            &app,
            &format!("/socket.io/?EIO=4&transport=polling&sid={n}"),
        )
        .await;
        get(&app, &format!("/socket.io/?EIO=4&transport=t{n}")).await;
    };
    visit(0).await;
    recording
        .until("socketio_connections{transport=websocket}", 0.0)
        .await;
    let before = recording.names();
    for n in 1..50 {
        visit(n).await;
    }
    recording
        .until("socketio_connections{transport=websocket}", 0.0)
        .await;
    assert_eq!(recording.names(), before);
    let series = "socketio_events_received_total{event=_other,namespace=/orders/{shop}}";
    assert_eq!(recording.value(series), 50.0);
    let series = "socketio_events_sent_total{event=_other,namespace=_other}";
    assert_eq!(recording.value(series), 50.0);
}

#[tokio::test]
async fn no_label_has_the_id_of_a_session() {
    let mut recording = Recording::start();
    let (app, io) = server(Namespace::new().on("say", async |Data(_): Data<String>| {}));
    let mut polling = Polling::connect(&app).await;
    polling.ask(r#"420["say","x"]"#).await;
    let sid = polling.sid.clone();
    io.sockets()[0].close();
    polling.send_and_forget("1").await;
    recording
        .until("socketio_connections{transport=polling}", 0.0)
        .await;
    let names = recording.names();
    assert!(names.len() > 20, "{names:?}");
    assert!(names.iter().all(|name| !name.contains(&sid)), "{names:?}");
}

#[tokio::test]
async fn without_the_options_nothing_is_reported() {
    let mut recording = Recording::start();
    let (app, io) = support::main_app(Namespace::new().on("say", async || 1));
    let mut client = connect(&app).await;
    let _: u32 = client.emit_with_ack("say", ()).await.expect("an answer");
    io.emit("said", 1);
    client.expect("said").await;
    assert_eq!(recording.names(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_a_shutdown_cuts_ends_once() {
    let mut recording = Recording::start();
    let wait = async || std::future::pending::<()>().await;
    let (app, io) = server(Namespace::new().on("wait", wait));
    let [left, closed] = [Polling::connect(&app).await, Polling::connect(&app).await];
    for client in [&left, &closed] {
        client.post(r#"42["wait"]"#).await;
    }
    // The handlers of both go on, of the second until the deadline.
    left.post("1").await;
    until(|| io.counts().sockets == 1).await;
    let stopping = io.clone();
    let close = tokio::spawn(async move { stopping.close().await });
    let report = io.shutdown().deadline(Duration::from_secs(10)).await;
    assert_eq!((report.cut, report.handlers_cut), (2, 2));
    close.await.expect("no panic");
    assert_eq!(
        recording.value("socketio_connections{transport=polling}"),
        0.0
    );
    for reason in ["transport_close", "shutdown"] {
        let series =
            format!("socketio_connection_duration_seconds{{reason={reason},transport=polling}}");
        assert_eq!(recording.values(&series).len(), 1, "{reason}");
    }
}

#[tokio::test]
async fn a_socket_that_moves_to_another_server_is_counted_once() {
    let mut recording = Recording::start();
    let memory = Memory::with_log();
    let recovery = Recovery::within(Duration::from_secs(120));
    let [(app_a, a), (app_b, b)] = [(); 2].map(|()| {
        let builder = builder(Namespace::new()).recovery(recovery);
        let (layer, io) = builder.cluster(memory.clone()).build();
        (Router::new().layer(layer), io)
    });
    for io in [&a, &b] {
        while io.server_count().await != Ok(2) {
            tokio::task::yield_now().await;
        }
    }
    let (first, mut seat) = crate::recovery::connect(&app_a).await;
    // The former connections are not closed: the servers let them go.
    let mut clients = vec![first];
    for app in [&app_b, &app_a, &app_a, &app_b] {
        let (client, recovered) = back(app, &mut seat).await;
        assert!(recovered);
        clients.push(client);
    }
    let sockets = "socketio_sockets{namespace=/}";
    recording.until(sockets, 1.0).await;
    lose(clients.pop().expect("the last one"), &b).await;
    recording.until(sockets, 0.0).await;
    assert_eq!(a.counts().sockets + b.counts().sockets, 0);
}

#[test]
fn the_end_of_a_runtime_ends_its_connections() {
    let mut recording = Recording::start();
    let (layer, _io) = builder(Namespace::new()).build();
    let app = Router::new().layer(layer);
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().expect("a runtime");
    let polling = runtime.block_on(Polling::connect(&app));
    let connections = "socketio_connections{transport=polling}";
    assert_eq!(recording.value(connections), 1.0);
    // Drops the session's task in the middle of its work.
    drop(runtime);
    assert_eq!(recording.value(connections), 0.0);
    drop(polling);
}

#[test]
fn the_documented_names_are_those_of_the_dashboard() {
    let documented = documented();
    assert_eq!(documented.len(), 22);
    let dashboard = include_str!("../../docs/grafana.json");
    let dashboard: serde_json::Value = serde_json::from_str(dashboard).expect("JSON");
    let text = dashboard.to_string();
    for name in &documented {
        assert!(text.contains(name.as_str()), "{name} has no panel");
    }
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    for word in words.filter(|word| word.starts_with("socketio_")) {
        let suffixes = ["_bucket", "_sum", "_count"];
        let base = suffixes.iter().find_map(|suffix| word.strip_suffix(suffix));
        let is_known = |name: &str| documented.iter().any(|known| known == name);
        assert!(is_known(word) || base.is_some_and(is_known), "{word}");
    }
    for (name, buckets) in BUCKETS {
        assert!(documented.iter().any(|known| known == name), "{name}");
        assert!(buckets.is_sorted(), "{name}");
    }
}

/// Returns the names in the table of the module's documentation.
fn documented() -> Vec<String> {
    let source = include_str!("../../src/metrics/mod.rs");
    let rows = source
        .lines()
        .filter_map(|line| line.strip_prefix("//! | `socketio_"));
    rows.filter_map(|row| row.split('`').next())
        .map(|name| format!("socketio_{name}"))
        .collect()
}
