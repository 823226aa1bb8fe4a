//! The server of benches/storm, on socketioxide, which has no connection state recovery. Usage:
//! `storm PORT`; the README of benches/storm has the environment variables.

use std::{
    env,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use axum::{
    Json,
    extract::State,
    routing::{get, post},
};
use serde_json::{Value, json};
use socketioxide::{
    SocketIo, TransportType,
    extract::{AckSender, Data, SocketRef},
};

static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);

async fn on_connect(socket: SocketRef) {
    CONNECTIONS.fetch_add(1, Ordering::Relaxed);
    socket.on_disconnect(async || {
        CONNECTIONS.fetch_sub(1, Ordering::Relaxed);
    });
    socket.on(
        "join",
        async |socket: SocketRef, Data::<String>(stream), ack: AckSender| {
            socket.join(stream);
            ack.send(&()).ok();
        },
    );
    socket.on("echo", async |Data::<Value>(data), ack: AckSender| {
        ack.send(&data).ok();
    });
}

async fn broadcast(State(io): State<SocketIo>, Json(body): Json<Value>) -> Json<Value> {
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    let data: Value = serde_json::from_str(&text("data")).unwrap_or_default();
    io.to(text("stream")).emit("message", &data).await.ok();
    Json(json!({ "ok": true }))
}

async fn stats() -> Json<Value> {
    Json(json!({ "connections": CONNECTIONS.load(Ordering::Relaxed) }))
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

fn milliseconds(name: &str, default: u64) -> Duration {
    Duration::from_millis(number(name).unwrap_or(default))
}

#[tokio::main]
async fn main() {
    let port = env::args().nth(1).or_else(|| env::var("PORT").ok());
    let port = port.and_then(|port| port.parse().ok());
    let port: u16 = port.expect("usage: storm PORT");

    let (layer, io) = SocketIo::builder()
        .transports([TransportType::Websocket])
        .ping_interval(milliseconds("PING_INTERVAL", 3_000))
        .ping_timeout(milliseconds("PING_TIMEOUT", 6_000))
        .build_layer();
    io.ns("/", on_connect);
    let app = axum::Router::new()
        .route("/health", get(async || Json(json!({ "status": "ok" }))))
        .route("/stats", get(stats))
        .route("/_broadcast", post(broadcast))
        .with_state(io)
        .layer(layer);

    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("an option");
    socket.bind(([127, 0, 0, 1], port).into()).expect("bind");
    let backlog = number("BACKLOG").map_or(4_096, |backlog| backlog as u32);
    let listener = socket.listen(backlog).expect("listen");
    println!("listening on {port}");
    axum::serve(listener, app).await.expect("serve");
}
