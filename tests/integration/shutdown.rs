//! `SocketIo::shutdown`: sessions that are closed one after another, up to a deadline.

use std::convert::Infallible;
use std::future::IntoFuture;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::routing::get as route;
use futures_core::future::BoxFuture;
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tower_socketio::cluster::{Broker, Memory, Port};
use tower_socketio::engine::{CloseReason, EngineLayer, EngineSocket};
use tower_socketio::{
    DisconnectReason, HttpOptions, Namespace, NamespaceRequest, Origins, Recovery, ShutdownReport,
    Socket, SocketIo,
};

use crate::support::{
    Client, Got, Polling, app, builder, call, get, in_memory, main_app, post, raw_session_on,
    send_head, text_frame, until, upgrade_head, within,
};

const OPEN: &str = "/socket.io/?EIO=4&transport=polling";

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Returns the numbers of a report: closed, ended, cut, handlers cut.
fn numbers(report: ShutdownReport) -> [usize; 4] {
    let ShutdownReport {
        closed,
        ended,
        cut,
        handlers_cut,
        ..
    } = report;
    [closed, ended, cut, handlers_cut]
}

/// Polls until the server closes the session. Returns the packets before, and how long it took.
fn closed(mut client: Polling) -> JoinHandle<(Vec<String>, Duration)> {
    let begun = Instant::now();
    tokio::spawn(async move {
        let mut packets = Vec::new();
        loop {
            match client.next().await {
                packet if packet == "1" => return (packets, begun.elapsed()),
                packet => packets.push(packet),
            }
        }
    })
}

/// Runs the tasks that are ready, without advancing the clock.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn clients_are_closed_one_after_another() {
    let (app, io) = main_app(Namespace::new());
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(closed(Polling::connect(&app).await));
    }
    let report = within(io.shutdown().spread(seconds(8)).into_future()).await;
    let mut times = Vec::new();
    for client in clients {
        times.push(client.await.expect("no panic").1.as_secs());
    }
    times.sort_unstable();
    assert_eq!(times, [0, 2, 4, 6, 8]);
    assert_eq!(numbers(report), [5, 0, 0, 0]);
    assert_eq!(report.duration.as_secs(), 8);
}

#[tokio::test(start_paused = true)]
async fn the_order_is_not_that_of_the_connects() {
    let (app, io) = main_app(Namespace::new());
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(closed(Polling::connect(&app).await));
    }
    let spread = io.shutdown().spread(seconds(39)).deadline(seconds(100));
    within(spread.into_future()).await;
    let mut times = Vec::new();
    for client in clients {
        times.push(client.await.expect("no panic").1.as_secs());
    }
    let (in_order, reversed) = (0..40, (0..40).rev());
    assert!(!times.iter().copied().eq(in_order));
    assert!(!times.iter().copied().eq(reversed));
    times.sort_unstable();
    assert!(times.into_iter().eq(0..40));
}

#[tokio::test(start_paused = true)]
async fn a_spread_of_zero_closes_all_clients_at_once() {
    let (app, io) = main_app(Namespace::new());
    let clients = [
        closed(Polling::connect(&app).await),
        closed(Polling::connect(&app).await),
    ];
    let report = within(io.shutdown().spread(Duration::ZERO).into_future()).await;
    for client in clients {
        assert!(client.await.expect("no panic").1 < seconds(1));
    }
    assert_eq!(numbers(report), [2, 0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn new_clients_are_refused_and_those_that_are_there_go_on() {
    let echo = Namespace::new().on("echo", async || "echoed");
    let (layer, io) = builder(echo)
        .namespace("/other", Namespace::new())
        .http(HttpOptions::new().cors(Origins::any()))
        .build();
    let app = app(layer);
    let mut clients = vec![Polling::connect(&app).await, Polling::connect(&app).await];
    let shutdown = io.shutdown().spread(seconds(60)).deadline(seconds(120));
    let shutdown = tokio::spawn(shutdown.into_future());
    // The one that is closed at once does not poll, so its session waits for 5 s.
    tokio::time::sleep(seconds(6)).await;
    assert_eq!(io.counts().sessions, 1);

    let refused = get(&app, OPEN).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    let body = r#"{"code":4,"message":"Service unavailable"}"#;
    assert_eq!(refused.body(), body);
    assert_eq!(refused.headers()[header::RETRY_AFTER], "1");
    assert_eq!(refused.headers()[header::CONTENT_TYPE], "application/json");
    assert_eq!(refused.headers()["access-control-allow-origin"], "*");
    let mut stream = in_memory(app.clone(), 4_096);
    let head = send_head(&mut stream, &upgrade_head("")).await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert!(head.contains("retry-after: 1\r\n"), "{head}");

    // The one that is left.
    let mut left = None;
    for client in clients.drain(..) {
        let sent = client.post(r#"421["echo"]"#).await;
        if sent.status() == StatusCode::OK {
            assert!(left.replace(client).is_none());
        }
    }
    let mut client = left.expect("one is left");
    assert_eq!(client.next().await, r#"431["echoed"]"#);
    client.join("/other").await;
    io.emit("news", 1);
    assert_eq!(client.next().await, r#"42["news",1]"#);
    let head = upgrade_head(&format!("&sid={}", client.sid));
    let mut stream = in_memory(app.clone(), 4_096);
    let head = send_head(&mut stream, &head).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let frame = text_frame("2probe");
    let sent = within(stream.write_all(&frame)).await;
    sent.expect("it is taken");
    assert_eq!(crate::support::read_frame(&mut stream).await, "3probe");
    drop(stream);

    let (_, after) = closed(client).await.expect("no panic");
    assert!(after <= seconds(60), "{after:?}");
    let report = within(shutdown).await.expect("no panic");
    assert_eq!(numbers(report), [2, 0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_full_does_not_say_when_to_come_back() {
    let (layer, _io) = builder(Namespace::new()).max_connections(0).build();
    let refused = get(&app(layer), OPEN).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(!refused.headers().contains_key(header::RETRY_AFTER));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_being_allowed_when_the_shutdown_begins_is_refused() {
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let allow = move |_| {
        let gate = Arc::clone(&opened);
        async move {
            gate.acquire().await.expect("open").forget();
            Ok::<_, &'static str>(())
        }
    };
    let http = HttpOptions::new().allow_request(allow);
    let (layer, io) = builder(Namespace::new()).http(http).build();
    let app = app(layer);
    let opening = tokio::spawn(async move { get(&app, OPEN).await });
    settle().await;
    within(io.shutdown().into_future()).await;
    gate.add_permits(1);
    let refused = opening.await.expect("no panic");
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()[header::RETRY_AFTER], "1");
}

#[tokio::test(start_paused = true)]
async fn a_handler_may_answer_until_the_deadline() {
    let work = async |socket: Socket| {
        tokio::time::sleep(seconds(15)).await;
        socket.emit("last", "word");
        "done"
    };
    let (app, io) = main_app(Namespace::new().on("work", work));
    let mut client = Polling::connect(&app).await;
    // The second event waits for the first one, and its handler never runs.
    client.send("421[\"work\"]\x1e422[\"work\"]").await;
    let client = closed(client);
    let report = within(io.shutdown().into_future()).await;
    let (packets, after) = client.await.expect("no panic");
    assert_eq!(packets, [r#"42["last","word"]"#, r#"431["done"]"#]);
    assert_eq!(after.as_secs(), 15);
    assert_eq!(numbers(report), [1, 0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn nothing_begins_during_the_shutdown() {
    let begun = Arc::new(AtomicUsize::new(0));
    let count = || {
        let begun = Arc::clone(&begun);
        async move || {
            begun.fetch_add(1, Ordering::Relaxed);
        }
    };
    let main = Namespace::new()
        .on("work", async || tokio::time::sleep(seconds(5)).await)
        .on("late", count());
    let exists = async |_: NamespaceRequest| {
        tokio::time::sleep(seconds(2)).await;
        true
    };
    let (layer, io) = builder(main)
        .namespace("/late", Namespace::new().on_connect(count()))
        .namespace_if(exists, Namespace::new().on_connect(count()))
        .build();
    let mut client = Polling::connect(&app(layer)).await;
    // The second connect waits for the predicate when the shutdown begins.
    client.send("42[\"work\"]\x1e40/any,").await;
    let shutdown = tokio::spawn(io.shutdown().into_future());
    tokio::time::sleep(seconds(1)).await;
    client.send("42[\"late\"]\x1e40/late,").await;
    let (packets, after) = closed(client).await.expect("no panic");
    assert!(packets.is_empty(), "{packets:?}");
    assert_eq!(after.as_secs(), 4);
    let report = within(shutdown).await.expect("no panic");
    assert_eq!(numbers(report), [1, 0, 0, 0]);
    assert_eq!(begun.load(Ordering::Relaxed), 0);
}

/// Sets a flag when it is dropped.
struct Flag(Arc<AtomicBool>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_left_at_the_deadline_is_cut() {
    let (dropped, left) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let (flag, disconnects) = (Arc::clone(&dropped), Arc::clone(&left));
    let work = async move || {
        let _flag = Flag(Arc::clone(&flag));
        std::future::pending::<()>().await;
    };
    let leave = async move |reason: DisconnectReason| {
        assert_eq!(reason, DisconnectReason::ServerShuttingDown);
        disconnects.fetch_add(1, Ordering::Relaxed);
    };
    let namespace = Namespace::new().on("work", work).on_disconnect(leave);
    let (app, io) = main_app(namespace);
    let mut busy = Polling::connect(&app).await;
    busy.send(r#"42["work"]"#).await;
    let idle = closed(Polling::connect(&app).await);
    let busy = closed(busy);
    let socket = io.sockets().remove(0);

    let begun = Instant::now();
    let shutdown = io.shutdown().spread(Duration::ZERO).deadline(seconds(10));
    let report = within(shutdown.into_future()).await;
    assert_eq!(begun.elapsed().as_secs(), 10);
    assert_eq!(numbers(report), [1, 0, 1, 1]);
    assert!(dropped.load(Ordering::Relaxed));
    // That of the idle socket, and that of the socket that was cut.
    assert_eq!(left.load(Ordering::Relaxed), 2);
    assert_eq!(idle.await.expect("no panic").1.as_secs(), 0);
    // The client learns that its session has ended.
    assert_eq!(busy.await.expect("no panic").1.as_secs(), 10);
    assert!(!socket.is_connected());
    assert_eq!(io.counts().sessions, 0);
    assert_eq!(io.counts().sockets, 0);
}

#[tokio::test(start_paused = true)]
async fn connect_handlers_are_cut_too_and_disconnect_handlers_a_second_later() {
    let wait = async || std::future::pending::<()>().await;
    let (layer, io) = builder(Namespace::new().on_connect(wait))
        .namespace("/left", Namespace::new().on_disconnect(wait))
        .build();
    let app = app(layer);
    let mut client = Polling::open(&app).await;
    client.join("/left").await;
    client.send("40\x1e41/left,").await;
    let report = within(io.shutdown().into_future()).await;
    assert_eq!(numbers(report), [0, 0, 1, 2]);
    assert_eq!(report.duration.as_secs(), 21);
}

#[tokio::test(start_paused = true)]
async fn the_disconnect_handler_of_a_socket_that_is_cut_may_end() {
    let (done, mut ended) = mpsc::unbounded_channel();
    let leave = async move |reason: DisconnectReason| {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let _ = done.send(reason);
    };
    let wait = async || std::future::pending::<()>().await;
    let namespace = Namespace::new().on("wait", wait).on_disconnect(leave);
    let (app, io) = main_app(namespace);
    let mut client = Polling::connect(&app).await;
    // The second event never begins.
    client.send("42[\"wait\"]\x1e42[\"wait\"]").await;
    let report = within(io.shutdown().deadline(seconds(3)).into_future()).await;
    assert_eq!(ended.try_recv(), Ok(DisconnectReason::ServerShuttingDown));
    assert!(report.duration >= Duration::from_millis(3_500), "{report}");
    assert!(report.duration < seconds(4), "{report}");
    assert_eq!(numbers(report), [0, 0, 1, 1]);
    assert_eq!(io.counts().sessions, 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_cut_at_the_deadline() {
    let (app, io) = main_app(Namespace::new());
    let mut stream = raw_session_on(in_memory(app, 4_096)).await;
    let frame = text_frame("40");
    let sent = within(stream.write_all(&frame)).await;
    sent.expect("it is taken");
    until(|| io.sockets().iter().any(Socket::is_connected)).await;
    io.emit("text", "x".repeat(1_000_000));
    // The queue alone would delay the end for 5 s.
    let begun = Instant::now();
    let shutdown = io.shutdown().deadline(seconds(2));
    let report = within(shutdown.into_future()).await;
    assert_eq!(begun.elapsed().as_secs(), 2);
    assert_eq!(numbers(report), [0, 0, 1, 0]);
    // The connection has ended.
    let mut rest = Vec::new();
    within(stream.read_to_end(&mut rest)).await.expect("an end");
}

#[tokio::test(start_paused = true)]
async fn a_client_over_websocket_gets_what_was_sent_before_and_code_1001() {
    let (app, io) = main_app(Namespace::new());
    let addr = crate::support::serve(app).await;
    let mut client = Client::connect(addr, "/").await;
    io.emit("before", 1);
    let shutdown = tokio::spawn(io.shutdown().into_future());
    assert_eq!(client.text().await, r#"42["before",1]"#);
    let close = Got::Close(Some((1001, "server shutting down".to_owned())));
    assert_eq!(client.next().await, close);
    assert_eq!(client.next().await, Got::End);
    let report = within(shutdown).await.expect("no panic");
    assert_eq!(numbers(report), [1, 0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_arrive_delays_the_end_no_longer_than_its_session() {
    let (app, io) = main_app(Namespace::new());
    let client = Polling::connect(&app).await;
    let (app, uri) = (app.clone(), client.uri.clone());
    let client = closed(client);
    let post = tokio::spawn(async move {
        let never = futures_util::stream::pending::<Result<Bytes, Infallible>>();
        post(&app, &uri, Body::from_stream(never)).await
    });
    settle().await;
    let begun = Instant::now();
    let report = within(io.shutdown().into_future()).await;
    assert_eq!(numbers(report), [1, 0, 0, 0]);
    client.await.expect("no panic");
    let refused = within(post).await.expect("no panic");
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    assert_eq!(begun.elapsed().as_secs(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_that_is_not_completed_is_cut_at_the_deadline() {
    let (app, io) = main_app(Namespace::new());
    let client = Polling::connect(&app).await;
    let head = upgrade_head(&format!("&sid={}", client.sid));
    let mut probe = in_memory(app.clone(), 4_096);
    send_head(&mut probe, &head).await;
    let sent = within(probe.write_all(&text_frame("2probe"))).await;
    sent.expect("it is taken");
    assert_eq!(crate::support::read_frame(&mut probe).await, "3probe");
    // Its messages wait for the upgrade.
    io.emit("news", 1);
    let begun = Instant::now();
    let report = within(io.shutdown().deadline(seconds(2)).into_future()).await;
    assert_eq!(numbers(report), [0, 0, 1, 0]);
    assert_eq!(begun.elapsed().as_secs(), 2);
    let mut rest = Vec::new();
    within(probe.read_to_end(&mut rest)).await.expect("an end");
    assert_eq!(client.get().await.status(), StatusCode::BAD_REQUEST);
}

/// A broker that takes no command and does not end.
#[derive(Debug)]
struct Still {
    connects: bool,
    has_log: bool,
}

impl Broker for Still {
    fn run(self: Arc<Self>, port: Port) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            if self.connects {
                port.inbox().connected();
            }
            std::future::pending().await
        })
    }

    fn wants_rooms(&self) -> bool {
        true
    }

    fn has_log(&self) -> bool {
        self.has_log
    }
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_stands_still_delays_the_end_for_six_seconds() {
    for [connects, has_log] in [[false, false], [true, false], [false, true], [true, true]] {
        let wait = async || std::future::pending::<()>().await;
        let join = async |socket: Socket| socket.join("room");
        let main = Namespace::new().on("wait", wait).on_connect(join);
        let (layer, io) = builder(main)
            .cluster(Still { connects, has_log })
            .recovery(Recovery::within(seconds(100)))
            .build();
        let app = app(layer);
        let mut busy = Polling::connect(&app).await;
        busy.send(r#"42["wait"]"#).await;
        let clients = [
            closed(Polling::connect(&app).await),
            closed(Polling::connect(&app).await),
            closed(busy),
        ];
        io.to("room").emit("news", 1);

        let begun = Instant::now();
        let shutdown = io.shutdown().spread(seconds(2)).deadline(seconds(4));
        let report = within(shutdown.into_future()).await;
        assert_eq!(numbers(report), [2, 0, 1, 1]);
        // The deadline of the clients, and the time for the messages of the cluster.
        let (took, longest) = (begun.elapsed(), Duration::from_millis(10_050));
        assert!(took >= seconds(9) && took <= longest, "{took:?}");
        assert_eq!(report.duration.as_secs(), took.as_secs());
        for client in clients {
            // They do not wait for the cluster.
            assert!(client.await.expect("no panic").1.as_secs() <= 4);
        }
        assert_eq!(io.counts().sessions, 0);
        // It does not wait once more.
        let begun = Instant::now();
        assert_eq!(within(io.shutdown().into_future()).await, report);
        within(io.close()).await;
        assert!(begun.elapsed().as_secs() <= 6);
    }
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_waits_for_the_broker_is_cut_and_its_disconnect_handler_runs() {
    let (done, mut ended) = mpsc::unbounded_channel();
    let leave = async move |reason: DisconnectReason| {
        let _ = done.send(reason);
    };
    let broker = Still {
        connects: true,
        has_log: false,
    };
    let main = Namespace::new().on_disconnect(leave);
    let (layer, io) = builder(main).cluster(broker).build();
    let app = app(layer);
    settle().await;
    // The connect handler ends at once, and the broker may take a second.
    let client = Polling::open(&app).await;
    client.send_and_forget("40").await;
    settle().await;
    assert!(!io.sockets().iter().any(Socket::is_connected));
    let deadline = Duration::from_millis(500);
    let shutdown = tokio::spawn(io.shutdown().deadline(deadline).into_future());
    let begun = Instant::now();
    let reason = within(ended.recv()).await.expect("it runs");
    assert_eq!(reason, DisconnectReason::ServerShuttingDown);
    assert_eq!(begun.elapsed().as_millis() / 10, deadline.as_millis() / 10);
    let report = within(shutdown).await.expect("no panic");
    assert_eq!(numbers(report), [0, 0, 1, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_broadcast_before_the_close_reaches_each_client() {
    // More than one chunk of sockets, so that the broadcast is queued.
    let (app, io) = main_app(Namespace::new());
    let mut clients = Vec::new();
    for _ in 0..300 {
        clients.push(closed(Polling::connect(&app).await));
    }
    io.emit("before", 1);
    within(io.shutdown().spread(Duration::ZERO).into_future()).await;
    for client in clients {
        let (packets, _) = client.await.expect("no panic");
        assert_eq!(packets, [r#"42["before",1]"#]);
    }
}

#[tokio::test(start_paused = true)]
async fn clients_that_leave_meanwhile_are_counted_apart() {
    let (app, io) = main_app(Namespace::new());
    let clients = [Polling::connect(&app).await, Polling::connect(&app).await];
    let shutdown = io.shutdown().spread(seconds(60)).deadline(seconds(120));
    let shutdown = tokio::spawn(shutdown.into_future());
    // The first one is closed at once, if it polls.
    let ended = clients.map(closed);
    until(|| io.counts().sessions == 1).await;
    for client in &ended {
        client.abort();
    }
    // The poll of the one that is left was dropped, which ends its session.
    let report = within(shutdown).await.expect("no panic");
    assert_eq!(numbers(report), [1, 1, 0, 0]);
    assert!(report.duration < seconds(60), "{report}");
}

#[tokio::test(start_paused = true)]
async fn further_calls_wait_for_the_same_report() {
    let (app, io) = main_app(Namespace::new());
    let _clients = [
        closed(Polling::connect(&app).await),
        closed(Polling::connect(&app).await),
    ];
    let first = tokio::spawn(io.shutdown().spread(seconds(6)).into_future());
    settle().await;
    // A later end changes nothing.
    let second = tokio::spawn(io.shutdown().spread(seconds(60)).into_future());
    let report = within(first).await.expect("no panic");
    assert_eq!(within(second).await.expect("no panic"), report);
    assert_eq!(report.duration.as_secs(), 6);
    // The server has shut down.
    assert_eq!(within(io.shutdown().into_future()).await, report);
    within(io.close()).await;
}

#[tokio::test(start_paused = true)]
async fn a_further_call_hurries_the_shutdown() {
    let wait = async || std::future::pending::<()>().await;
    let (app, io) = main_app(Namespace::new().on("wait", wait));
    let mut busy = Polling::connect(&app).await;
    busy.send(r#"42["wait"]"#).await;
    let clients = [
        closed(Polling::connect(&app).await),
        closed(Polling::connect(&app).await),
        closed(busy),
    ];
    let slow = io.shutdown().spread(seconds(600)).deadline(Duration::MAX);
    let first = tokio::spawn(slow.into_future());
    tokio::time::sleep(seconds(10)).await;
    let hurried = io.shutdown().spread(seconds(5)).deadline(seconds(20));
    let report = within(hurried.into_future()).await;
    assert_eq!(report.duration.as_secs(), 30);
    assert_eq!(numbers(report), [2, 0, 1, 1]);
    assert_eq!(within(first).await.expect("no panic"), report);
    let mut times = Vec::new();
    for client in clients {
        times.push(client.await.expect("no panic").1.as_secs());
    }
    times.sort_unstable();
    assert!(times[1] <= 15, "{times:?}");
    assert_eq!(times[2], 30);
}

#[tokio::test(start_paused = true)]
async fn a_close_during_a_shutdown_closes_all_at_once() {
    let (app, io) = main_app(Namespace::new());
    let clients = [
        closed(Polling::connect(&app).await),
        closed(Polling::connect(&app).await),
    ];
    let slow = io.shutdown().spread(seconds(600)).deadline(seconds(3_600));
    let shutdown = tokio::spawn(slow.into_future());
    tokio::time::sleep(seconds(1)).await;
    within(io.close()).await;
    for client in clients {
        assert!(client.await.expect("no panic").1 <= seconds(1));
    }
    let report = within(shutdown).await.expect("no panic");
    assert_eq!(numbers(report), [2, 0, 0, 0]);
    assert_eq!(report.duration.as_secs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_close_during_a_shutdown_limits_the_time_to_answer() {
    let wait = async || std::future::pending::<()>().await;
    let (app, io) = main_app(Namespace::new().on("wait", wait));
    let mut client = Polling::connect(&app).await;
    client.send(r#"42["wait"]"#).await;
    let client = closed(client);
    let shutdown = tokio::spawn(io.shutdown().into_future());
    tokio::time::sleep(seconds(1)).await;
    // It waits for the handler, up to the deadline of the shutdown.
    let begun = Instant::now();
    within(io.close()).await;
    assert_eq!(begun.elapsed().as_secs(), 19);
    assert_eq!(client.await.expect("no panic").1.as_secs(), 6);
    let report = within(shutdown).await.expect("no panic");
    assert_eq!(numbers(report), [0, 0, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_after_a_close_adds_a_deadline() {
    let wait = async || std::future::pending::<()>().await;
    let (app, io) = main_app(Namespace::new().on("wait", wait));
    let mut client = Polling::connect(&app).await;
    client.send(r#"42["wait"]"#).await;
    let client = closed(client);
    let closing = io.clone();
    let close = tokio::spawn(async move { closing.close().await });
    settle().await;
    let report = within(io.shutdown().into_future()).await;
    assert_eq!(numbers(report), [0, 0, 1, 1]);
    assert_eq!(client.await.expect("no panic").1.as_secs(), 5);
    within(close).await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_goes_on_when_its_future_is_dropped() {
    let (app, io) = main_app(Namespace::new());
    let clients = [
        closed(Polling::connect(&app).await),
        closed(Polling::connect(&app).await),
    ];
    // Before its first poll, nothing has begun.
    drop(io.shutdown().into_future());
    assert_eq!(get(&app, OPEN).await.status(), StatusCode::OK);
    let mut dropped = io.shutdown().spread(seconds(4)).into_future();
    assert!((&mut dropped).now_or_never().is_none());
    drop(dropped);
    for client in clients {
        client.await.expect("no panic");
    }
    let report = within(io.shutdown().into_future()).await;
    // The third one is that of the request above.
    assert_eq!(report.closed + report.ended, 3);
    assert!(report.duration >= seconds(4), "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_handler_may_shut_the_server_down() {
    async fn check<F>(stop: impl Fn(Socket, SocketIo) -> F + Clone + Send + Sync + 'static)
    where
        F: Future<Output = ShutdownReport> + Send + 'static,
    {
        let (done, mut reports) = mpsc::unbounded_channel();
        let elsewhere = Arc::new(OnceLock::<SocketIo>::new());
        let own = Arc::clone(&elsewhere);
        let stop = async move |socket: Socket| {
            let report = stop(socket, own.get().expect("it is set").clone()).await;
            let _ = done.send(report);
            "stopped"
        };
        let (app, io) = main_app(Namespace::new().on("stop", stop));
        assert!(elsewhere.set(io.clone()).is_ok());
        let _other = closed(Polling::connect(&app).await);
        let mut client = Polling::connect(&app).await;
        client.send(r#"421["stop"]"#).await;
        let client = closed(client);
        let report = within(reports.recv()).await.expect("a report");
        assert_eq!(numbers(report), [2, 0, 0, 0]);
        let (packets, after) = client.await.expect("no panic");
        assert_eq!(packets, [r#"431["stopped"]"#]);
        assert!(after <= seconds(5), "{after:?}");
        assert_eq!(within(io.shutdown().into_future()).await, report);
        until(|| io.counts().sessions == 0).await;
    }
    check(async |socket: Socket, _| socket.io().shutdown().await).await;
    check(async |_, io: SocketIo| io.shutdown().await).await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_shuts_the_server_down_gets_its_report_when_others_are_cut() {
    let (done, mut reports) = mpsc::unbounded_channel();
    let stop = async move |io: SocketIo| {
        let report = io.shutdown().deadline(seconds(10)).await;
        // It may go on for a second.
        tokio::time::sleep(Duration::from_millis(900)).await;
        let _ = done.send(report);
    };
    let wait = async || std::future::pending::<()>().await;
    let (app, io) = main_app(Namespace::new().on("stop", stop).on("wait", wait));
    let mut busy = Polling::connect(&app).await;
    busy.send(r#"42["wait"]"#).await;
    let mut client = Polling::connect(&app).await;
    client.send(r#"42["stop"]"#).await;
    let client = closed(client);
    let report = within(reports.recv()).await.expect("a report");
    assert_eq!(numbers(report), [1, 0, 1, 1]);
    assert_eq!(report.duration.as_secs(), 10);
    client.await.expect("no panic");
    until(|| io.counts().sessions == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_does_not_end_after_it_has_shut_the_server_down_is_cut() {
    let dropped = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&dropped);
    let stop = async move |io: SocketIo| {
        let _flag = Flag(Arc::clone(&flag));
        io.shutdown().await;
        std::future::pending::<()>().await;
    };
    let (app, io) = main_app(Namespace::new().on("stop", stop));
    let mut client = Polling::connect(&app).await;
    client.send(r#"42["stop"]"#).await;
    let (_, after) = closed(client).await.expect("no panic");
    assert_eq!(after.as_secs(), 20);
    until(|| io.counts().sessions == 0).await;
    assert!(dropped.load(Ordering::Relaxed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_that_blocks_its_thread_does_not_delay_the_report_for_long() {
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let blocked = Arc::new(std::sync::Mutex::new(blocked));
    let (runs, mut running) = mpsc::unbounded_channel();
    let block = async move || {
        let _ = runs.send(());
        // It ends with the sender.
        let _ = blocked.lock().expect("no panic").recv();
    };
    let (app, io) = main_app(Namespace::new().on("block", block));
    let addr = crate::support::serve(app).await;
    let mut client = Client::connect(addr, "/").await;
    client.send(r#"42["block"]"#).await;
    within(running.recv()).await.expect("it runs");
    let shutdown = io.shutdown().spread(Duration::ZERO);
    let shutdown = shutdown.deadline(Duration::from_millis(200));
    let report = within(shutdown.into_future()).await;
    drop(release);
    assert!(report.duration >= Duration::from_millis(2_200), "{report}");
    // It is still running.
    assert_eq!(numbers(report), [0, 0, 1, 0]);
    until(|| io.counts().sessions == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_without_clients_shuts_down_at_once() {
    let (app, io) = main_app(Namespace::new());
    let report = within(io.shutdown().into_future()).await;
    assert_eq!(report, ShutdownReport::default());
    assert_eq!(
        get(&app, OPEN).await.status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    drop(app);
    // The server has been dropped.
    assert_eq!(
        within(io.shutdown().into_future()).await,
        ShutdownReport::default()
    );
}

#[test]
fn a_shutdown_ends_with_its_runtime() {
    let [ours, theirs] = [(), ()].map(|()| tokio::runtime::Runtime::new().expect("a runtime"));
    let wait = async || std::future::pending::<()>().await;
    let (app, io) = main_app(Namespace::new().on("wait", wait));
    let client = theirs.block_on(async {
        let mut client = Polling::connect(&app).await;
        client.send(r#"42["wait"]"#).await;
        let mut first = io.shutdown().deadline(Duration::MAX).into_future();
        assert!((&mut first).now_or_never().is_none());
        client
    });
    ours.block_on(async {
        let second = tokio::spawn(io.shutdown().deadline(Duration::MAX).into_future());
        settle().await;
        assert!(!second.is_finished());
        let end = tokio::task::spawn_blocking(move || drop(theirs));
        end.await.expect("it ends");
        within(second).await.expect("no panic");
    });
    drop(client);
}

#[test]
fn a_shutdown_begins_anew_when_its_runtime_has_ended() {
    let ours = tokio::runtime::Runtime::new().expect("a runtime");
    // It does not run the task of the shutdown.
    let theirs = tokio::runtime::Builder::new_current_thread().build();
    let theirs = theirs.expect("a runtime");
    let (app, io) = main_app(Namespace::new());
    let client = ours.block_on(Polling::connect(&app));
    theirs.block_on(async {
        let wait = io.shutdown().spread(Duration::MAX).deadline(Duration::MAX);
        let mut first = wait.into_future();
        assert!((&mut first).now_or_never().is_none());
    });
    drop(theirs);
    ours.block_on(async {
        assert!(io.is_closing());
        assert_eq!(io.counts().sessions, 1);
        let client = closed(client);
        let report = within(io.shutdown().into_future()).await;
        assert_eq!(numbers(report), [1, 0, 0, 0]);
        within(client).await.expect("no panic");
        assert_eq!(io.counts().sessions, 0);
    });
}

/// Shuts down on a thread, in a runtime of its own, and ends that runtime if `ends`. Returns
/// the report.
fn shut_down_in_a_runtime_without_tasks(
    runtime: &mut tokio::runtime::Builder,
    ends: bool,
) -> ShutdownReport {
    let ours = tokio::runtime::Runtime::new().expect("a runtime");
    let theirs = runtime.build().expect("a runtime");
    let gate = Arc::new(Semaphore::new(0));
    let released = Arc::clone(&gate);
    let wait = async move || released.acquire().await.expect("open").forget();
    let entered = ours.enter();
    let memory = Memory::new();
    let main = Namespace::new().on("wait", wait);
    let (layer, io) = builder(main).cluster(memory.clone()).build();
    let app = app(layer);
    let (_layer, other) = builder(Namespace::new()).cluster(memory).build();
    let client = ours.block_on(async {
        let mut client = Polling::connect(&app).await;
        client.send(r#"42["wait"]"#).await;
        client
    });
    let client = closed(client);
    drop(entered);
    let (handle, of_thread) = (theirs.handle().clone(), io.clone());
    let (reports, report) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let shutdown = of_thread.shutdown().deadline(Duration::MAX);
        let report = handle.block_on(shutdown.into_future());
        reports.send(report).expect("a receiver");
    });
    ours.block_on(until(|| io.is_closing()));
    if ends {
        drop(theirs);
    }
    gate.add_permits(1);
    let report = report.recv_timeout(Duration::from_secs(60));
    ours.block_on(async {
        within(client).await.expect("no panic");
        // It has left its cluster.
        let left = async {
            while other.server_count().await != Ok(1) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        within(left).await;
    });
    report.expect("the shutdown ends")
}

#[test]
fn a_shutdown_in_a_runtime_that_ends_closes_the_sessions() {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let report = shut_down_in_a_runtime_without_tasks(builder.enable_all(), true);
    // What ends before a shutdown begins anew is not counted.
    assert_eq!(numbers(report)[1..], [0, 0, 0]);
}

#[test]
fn a_shutdown_in_a_runtime_without_timers_closes_the_sessions() {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let report = shut_down_in_a_runtime_without_tasks(&mut builder, false);
    // What ends before a shutdown begins anew is not counted.
    assert_eq!(numbers(report)[1..], [0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_server_tells_whether_it_closes() {
    let (app, io) = main_app(Namespace::new());
    let _clients = [
        closed(Polling::connect(&app).await),
        closed(Polling::connect(&app).await),
    ];
    assert!(!io.is_closing());
    let shutdown = tokio::spawn(io.shutdown().into_future());
    until(|| io.is_closing()).await;
    assert!(!shutdown.is_finished());
    within(shutdown).await.expect("no panic");
    drop(app);
    assert!(io.is_closing());
    let (_app, other) = main_app(Namespace::new());
    within(other.close()).await;
    assert!(other.is_closing());
}

#[tokio::test(start_paused = true)]
async fn an_engine_layer_shuts_down_in_the_same_way() {
    let (reasons, mut ended) = mpsc::unbounded_channel();
    let run = move |mut socket: EngineSocket| {
        let reasons = reasons.clone();
        async move {
            let waits = socket.recv().await.is_some();
            let _ = reasons.send(socket.close_reason());
            if waits {
                std::future::pending::<()>().await;
            }
        }
    };
    let layer = EngineLayer::builder(run).path("/socket.io").build();
    let app = Router::new().layer(layer.clone());
    let busy = Polling::open(&app).await;
    busy.send_and_forget("4wait").await;
    assert_eq!(within(ended.recv()).await, Some(None));
    let idle = closed(Polling::open(&app).await);
    let busy = closed(busy);
    let shutdown = layer.shutdown().spread(seconds(2)).deadline(seconds(8));
    let report = within(shutdown.into_future()).await;
    assert_eq!(
        within(ended.recv()).await,
        Some(Some(CloseReason::Shutdown))
    );
    assert_eq!(numbers(report), [1, 0, 1, 1]);
    assert_eq!(report.duration.as_secs(), 8);
    for client in [idle, busy] {
        assert!(client.await.expect("no panic").1 <= seconds(2));
    }
    assert_eq!(layer.session_count(), 0);
    assert_eq!(
        get(&app, OPEN).await.status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
}

#[tokio::test]
async fn an_http_server_ends_gracefully_after_the_shutdown() {
    let (layer, io) = builder(Namespace::new()).build();
    let app = Router::new()
        .route("/page", route(async || "page"))
        .layer(layer);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let stop = Arc::new(Semaphore::new(0));
    let (signal, stopping) = (Arc::clone(&stop), io.clone());
    let (reports, mut reported) = mpsc::unbounded_channel();
    let served = axum::serve(listener, app.clone()).with_graceful_shutdown(async move {
        signal.acquire().await.expect("open").forget();
        let report = stopping.shutdown().spread(Duration::from_millis(200)).await;
        let _ = reports.send(report);
    });
    let served = tokio::spawn(served.into_future());
    let mut websocket = Client::connect(addr, "/").await;
    let polling = Polling::connect(&app).await;
    let polling = closed(polling);
    stop.add_permits(1);
    let close = Got::Close(Some((1001, "server shutting down".to_owned())));
    assert_eq!(websocket.closed().await, close);
    polling.await.expect("no panic");
    let report = within(reported.recv()).await.expect("a report");
    assert_eq!(numbers(report), [2, 0, 0, 0]);
    within(served).await.expect("no panic").expect("no error");
}

#[tokio::test(start_paused = true)]
async fn other_routes_are_served_during_the_shutdown() {
    let (layer, io) = builder(Namespace::new()).build();
    let app = Router::new()
        .route("/page", route(async || "page"))
        .layer(layer);
    let _clients = [
        closed(Polling::connect(&app).await),
        closed(Polling::connect(&app).await),
    ];
    let shutdown = tokio::spawn(io.shutdown().into_future());
    until(|| io.counts().sessions == 1).await;
    assert_eq!(get(&app, "/page").await.body(), "page");
    within(shutdown).await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn a_preflight_is_answered_during_the_shutdown() {
    let http = HttpOptions::new().cors(Origins::any());
    let (layer, io) = builder(Namespace::new()).http(http).build();
    let app = app(layer);
    within(io.shutdown().into_future()).await;
    let request = axum::http::Request::options(OPEN).body(Body::empty());
    let answer = call(&app, request.expect("a request")).await;
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
}
