//! Layers of tower and tower-http around the app: polls, posts and upgrades pass through them.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use futures_util::{SinkExt, StreamExt};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::normalize_path::NormalizePathLayer;
use tower_http::timeout::{RequestBodyTimeoutLayer, ResponseBodyTimeoutLayer, TimeoutLayer};
use tower_http::trace::TraceLayer;
use tower_socketio::{Data, HttpOptions, Namespace, Socket, SocketIo, SocketIoLayer};

use crate::support;
use crate::support::logs::Logs;
use crate::support::{Polling, app, builder, get, until, upgrade_head, within};

async fn echo(socket: Socket, Data(text): Data<String>) {
    socket.emit("echo", text);
}

const ECHO: &str = r#"42["echo","a"]"#;

fn build(http: HttpOptions) -> (SocketIoLayer, SocketIo) {
    let main = Namespace::new().on("echo", echo);
    builder(main).max_payload(1_000).http(http).build()
}

fn timeout(seconds: u64) -> TimeoutLayer {
    TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, Duration::from_secs(seconds))
}

/// Returns a chunked body, whose length is not known in advance.
fn chunked(chunks: impl IntoIterator<Item = &'static str>) -> Body {
    let chunks: Vec<_> = chunks.into_iter().map(Bytes::from).collect();
    let chunks = chunks.into_iter().map(Ok::<_, Infallible>);
    Body::from_stream(futures_util::stream::iter(chunks))
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_a_layer_cuts_off_ends_its_session() {
    let (layer, _io) = build(HttpOptions::new());
    let app = app(layer).layer(timeout(3));
    let client = Polling::connect(&app).await;
    assert_eq!(client.get().await.status(), StatusCode::REQUEST_TIMEOUT);
    assert_eq!(client.get().await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test(start_paused = true)]
async fn a_poll_gets_a_noop_after_its_timeout_and_the_session_stays() {
    let http = HttpOptions::new().poll_timeout(Duration::from_secs(2));
    let (layer, _io) = build(http);
    let app = app(layer).layer(timeout(3));
    let mut client = Polling::connect(&app).await;
    let started = tokio::time::Instant::now();
    let mut pings = 0;
    while started.elapsed() < Duration::from_secs(60) {
        let waits = tokio::time::Instant::now();
        let answer = client.get().await;
        assert_eq!(answer.status(), StatusCode::OK);
        if answer.body() == "2" {
            pings += 1;
            client.send("3").await;
            continue;
        }
        assert_eq!(answer.body(), "6");
        assert_eq!(waits.elapsed().as_secs(), 2);
    }
    assert_eq!(pings, 2);
    client.send(ECHO).await;
    assert_eq!(client.get().await.body(), ECHO);
}

#[tokio::test(start_paused = true)]
async fn a_poll_returns_packets_that_arrive_before_its_timeout() {
    let (layer, io) = build(HttpOptions::new().poll_timeout(Duration::from_secs(2)));
    let app = app(layer);
    let client = Polling::connect(&app).await;
    let poll = client.poll();
    tokio::time::sleep(Duration::from_secs(1)).await;
    io.emit("news", "rain");
    let answer = poll.await.expect("no panic");
    assert_eq!(answer.body(), r#"42["news","rain"]"#);
    // The timeout of the second poll begins with that poll.
    let waits = tokio::time::Instant::now();
    assert_eq!(client.get().await.body(), "6");
    assert_eq!(waits.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_poll_timeout_may_be_infinite() {
    let (layer, _io) = build(HttpOptions::new().poll_timeout(Duration::MAX));
    let client = Polling::connect(&app(layer)).await;
    assert_eq!(client.get().await.body(), "2");
}

#[test]
#[should_panic(expected = "`poll_timeout` is zero")]
fn a_poll_timeout_of_zero_panics() {
    let _ = HttpOptions::new().poll_timeout(Duration::ZERO);
}

#[tokio::test]
async fn a_body_that_a_layer_limits_gets_413_and_the_session_stays() {
    let (layer, _io) = build(HttpOptions::new());
    let app = app(layer).layer(RequestBodyLimitLayer::new(100));
    let mut client = Polling::connect(&app).await;
    let declared = client.post("4".repeat(101)).await;
    assert_eq!(declared.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let event = || ["42[\"echo\",\"", &*"x".repeat(90).leak(), "\"]"];
    let undeclared = client.post(chunked(event())).await;
    assert_eq!(undeclared.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(client.ask(ECHO).await, ECHO);
}

#[tokio::test]
async fn a_body_that_fails_ends_its_session() {
    let (layer, _io) = build(HttpOptions::new());
    let client = Polling::connect(&app(layer)).await;
    let broken = futures_util::stream::iter([Err::<Bytes, _>(std::io::Error::other("broken"))]);
    let answer = client.post(Body::from_stream(broken)).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    assert_eq!(client.get().await.status(), StatusCode::BAD_REQUEST);
}

/// A WebSocket to an app over an in-memory stream, so that the test can pause the clock.
struct WebSocket(WebSocketStream<DuplexStream>);

impl WebSocket {
    async fn open(app: Router, query: &str) -> Self {
        let (client, server) = tokio::io::duplex(64 * 1024);
        tokio::spawn(async move {
            let http = auto::Builder::new(TokioExecutor::new());
            let service = TowerToHyperService::new(app);
            let io = TokioIo::new(server);
            let served = http.serve_connection_with_upgrades(io, service).await;
            served.expect("a client that speaks HTTP");
        });
        let url = format!("ws://test/socket.io/?EIO=4&transport=websocket{query}");
        let (stream, _) = tokio_tungstenite::client_async(url, client)
            .await
            .expect("a WebSocket");
        Self(stream)
    }

    async fn send(&mut self, text: &str) {
        let sent = self.0.send(Message::text(text)).await;
        sent.expect("the server takes it");
    }

    async fn next(&mut self) -> String {
        let message = self.0.next().await.expect("a message");
        let message = message.expect("a message").into_text().expect("a text");
        message.as_str().to_owned()
    }

    async fn ask(&mut self, text: &str) -> String {
        self.send(text).await;
        self.next().await
    }
}

#[tokio::test]
async fn an_http_server_without_upgrades_is_logged_as_a_warning() {
    let (logs, _guard) = Logs::keep();
    let (layer, io) = build(HttpOptions::new());
    let app = app(layer);
    for times in 1..=2 {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let service = TowerToHyperService::new(app.clone());
        let http = hyper::server::conn::http1::Builder::new();
        // The connection lacks `with_upgrades`.
        tokio::spawn(http.serve_connection(TokioIo::new(server), service));
        let head = upgrade_head("");
        client.write_all(head.as_bytes()).await.expect("a request");
        let mut answer = String::new();
        let read = within(client.read_to_string(&mut answer)).await;
        read.expect("text until the end");
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        until(|| io.counts().sessions == 0).await;
        let warnings = logs.warnings();
        assert!(warnings[0].contains("`with_upgrades`"), "{warnings:?}");
        assert_eq!(warnings.len(), 1, "after {times}");
    }
}

#[tokio::test]
async fn a_layer_that_drops_request_extensions_is_logged_as_a_warning() {
    let (logs, _guard) = Logs::keep();
    let (layer, io) = build(HttpOptions::new());
    let anew = axum::middleware::map_request(async |mut request: axum::extract::Request| {
        request.extensions_mut().clear();
        request
    });
    let app = app(layer).layer(anew);
    let addr = support::serve(app).await;
    let mut stream = TcpStream::connect(addr).await.expect("a port");
    let head = support::send_head(&mut stream, &upgrade_head("")).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    until(|| !logs.warnings().is_empty()).await;
    assert!(logs.warnings()[0].contains("extensions of requests"));
    until(|| io.counts().sessions == 0).await;
}

/// Wraps the app in all these layers, as applications do.
fn wrapped(layer: SocketIoLayer) -> Router {
    app(layer)
        .layer(CompressionLayer::new())
        .layer(RequestBodyLimitLayer::new(2_000))
        .layer(RequestBodyTimeoutLayer::new(Duration::from_secs(3)))
        .layer(ResponseBodyTimeoutLayer::new(Duration::from_secs(3)))
        .layer(timeout(3))
        .layer(CatchPanicLayer::new())
        .layer(TraceLayer::new_for_http())
        .layer(NormalizePathLayer::trim_trailing_slash())
}

#[tokio::test(start_paused = true)]
async fn all_layers_together_pass_polls_posts_and_upgrades() {
    let (layer, io) = build(HttpOptions::new().poll_timeout(Duration::from_secs(2)));
    let app = wrapped(layer);
    let mut client = Polling::connect(&app).await;
    assert_eq!(client.get().await.body(), "6");
    assert_eq!(client.ask(ECHO).await, ECHO);
    assert_eq!(client.post(chunked([ECHO])).await.body(), "ok");
    assert_eq!(client.next().await, ECHO);

    let query = format!("&sid={}", client.sid);
    let mut probe = WebSocket::open(app.clone(), &query).await;
    assert_eq!(probe.ask("2probe").await, "3probe");
    probe.send("5").await;
    assert_eq!(probe.ask(ECHO).await, ECHO);
    drop(probe);

    // The response has ended with the 101, so its timeouts do not apply to the WebSocket.
    let mut own = WebSocket::open(app, "").await;
    assert!(own.next().await.starts_with("0{"));
    assert!(own.ask("40").await.starts_with("40{"));
    for _ in 0..3 {
        assert_eq!(own.next().await, "2");
        own.send("3").await;
    }
    assert_eq!(own.ask(ECHO).await, ECHO);
    assert_eq!(io.counts().sessions, 1);
}

/// Yields until every task waits for something.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn pending_polls_count_only_in_a_concurrency_limit_around_the_app() {
    let limit = || GlobalConcurrencyLimitLayer::new(3);
    let page = || Router::new().route("/page", axum::routing::get(async || "page"));

    let (layer, _io) = build(HttpOptions::new());
    let around = page().layer(layer).layer(limit());
    let clients = connected(&around, 3).await;
    let polls: Vec<_> = clients.iter().map(Polling::poll).collect();
    settle().await;
    let app = around.clone();
    let waits = tokio::spawn(async move { get(&app, "/page").await });
    settle().await;
    assert!(
        !waits.is_finished(),
        "three polls are all that the limit allows"
    );
    polls.iter().for_each(|poll| poll.abort());
    assert_eq!(waits.await.expect("no panic").body(), "page");

    let (layer, _io) = build(HttpOptions::new());
    let inside = page().layer(limit()).layer(layer);
    let (layer, _io) = build(HttpOptions::new());
    let beside = page().layer(limit()).merge(layer.into_router());
    for app in [inside, beside] {
        let clients = connected(&app, 4).await;
        let polls: Vec<_> = clients.iter().map(Polling::poll).collect();
        settle().await;
        assert_eq!(get(&app, "/page").await.body(), "page");
        for (client, poll) in clients.iter().zip(polls) {
            assert_eq!(client.post(ECHO).await.body(), "ok");
            assert_eq!(within(poll).await.expect("no panic").body(), ECHO);
        }
    }
}

async fn connected(app: &Router, count: usize) -> Vec<Polling> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(Polling::connect(app).await);
    }
    clients
}
