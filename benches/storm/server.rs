//! The server of `benches/storm`: `storm PORT`. Its contract is in the README of that folder.

#![allow(
    clippy::print_stdout,
    reason = "the benchmark waits for a line on standard output"
)]

use std::env;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{Query, State};
use axum::routing::{get, post};
use axum::serve::Listener;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::yield_now;
use tower_socketio::{Data, Namespace, RawArgs, Recovery, Socket, SocketIo, Transport};

#[tokio::main]
async fn main() -> io::Result<()> {
    let port = env::args().nth(1).or_else(|| env::var("PORT").ok());
    let port = port.and_then(|port| port.parse().ok());
    let port: u16 = port.expect("usage: storm PORT");

    let namespace = Namespace::new()
        .on("join", join)
        .on("echo", async |args: RawArgs| args);
    let mut builder = SocketIo::builder()
        .namespace("/", namespace)
        .transports(&[Transport::WebSocket])
        .ping_interval(milliseconds("PING_INTERVAL", 3_000))
        .ping_timeout(milliseconds("PING_TIMEOUT", 6_000));
    if env::var("SOCKETIO_CSR").is_ok_and(|on| on == "1") {
        builder = builder.recovery(Recovery::within(Duration::from_secs(120)));
    }
    let (layer, io) = builder.build();
    let app = Router::new()
        .route("/health", get(async || Json(json!({ "status": "ok" }))))
        .route("/stats", get(stats))
        .route("/_broadcast", post(broadcast))
        .route("/publish-local", get(publish).post(publish))
        .with_state(io)
        .layer(layer);

    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(([127, 0, 0, 1], port).into())?;
    // Reconnecting clients wait in the backlog until they are accepted. If the backlog is full, the
    // client's kernel tries again after a second.
    let listener = socket.listen(number("BACKLOG").unwrap_or(4_096))?;
    println!("listening on {port}");
    let at_once = number("ACCEPT_AT_ONCE").unwrap_or(8);
    if at_once == 0 {
        return axum::serve(listener, app).await;
    }
    let server = axum::serve(Paced::new(listener, at_once), app);
    // The server runs in a spawned task, so that `yield_now` lets the other tasks of its worker
    // run. The future of `#[tokio::main]` does not run on a worker.
    tokio::spawn(server.into_future()).await?
}

/// Accepts some connections, then lets all other ready tasks run. So reconnecting clients wait in
/// the backlog, and do not delay the events of connected clients.
struct Paced {
    listener: TcpListener,
    at_once: u32,
    accepted: u32,
}

impl Paced {
    fn new(listener: TcpListener, at_once: u32) -> Self {
        Self {
            listener,
            at_once,
            accepted: 0,
        }
    }
}

impl Listener for Paced {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        if self.accepted == self.at_once {
            yield_now().await;
            self.accepted = 0;
        }
        self.accepted += 1;
        Listener::accept(&mut self.listener).await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

fn number(name: &str) -> Option<u32> {
    env::var(name).ok()?.parse().ok()
}

fn milliseconds(name: &str, default: u32) -> Duration {
    Duration::from_millis(number(name).unwrap_or(default).into())
}

async fn join(socket: Socket, Data(stream): Data<String>) {
    socket.join(stream);
}

async fn stats(State(io): State<SocketIo>) -> Json<Value> {
    Json(json!({ "connections": io.counts().sockets }))
}

#[derive(Deserialize)]
struct Message {
    stream: String,
    /// JSON in a string.
    data: String,
}

async fn broadcast(State(io): State<SocketIo>, Json(message): Json<Message>) -> Json<Value> {
    let data = serde_json::from_str::<Value>(&message.data).unwrap_or_default();
    io.to(message.stream).emit("message", data);
    Json(json!({ "ok": true }))
}

#[derive(Deserialize)]
#[serde(default)]
struct Publishing {
    total: u32,
    /// Milliseconds between two messages.
    interval: u64,
    stream: String,
    /// Seconds before the first message.
    delay: u64,
}

impl Default for Publishing {
    fn default() -> Self {
        Self {
            total: 120,
            interval: 500,
            stream: "benchmark".into(),
            delay: 0,
        }
    }
}

/// Responds at once, and emits numbered messages afterwards.
async fn publish(State(io): State<SocketIo>, Query(publishing): Query<Publishing>) -> Json<Value> {
    let answer = json!({ "status": "publishing-local", "total": publishing.total });
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(publishing.delay)).await;
        for number in 1..=publishing.total {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let sent_at = now.unwrap_or_default().as_millis() as u64;
            let text = format!("msg_{number}");
            let message = json!({ "seq": number, "sentAt": sent_at, "text": text });
            io.to(&*publishing.stream).emit("message", message);
            tokio::time::sleep(Duration::from_millis(publishing.interval)).await;
        }
    });
    Json(answer)
}
