//! Servers as the official test suites want them: `cargo run --example conformance [PORT…]`.
//!
//! | port | | |
//! |---|---|---|
//! | 3000 | A | Engine.IO alone, at `/engine.io/` |
//! | 3001 | C | Socket.IO, at `/socket.io/` |
//! | 3002 | B | as A, for clients of version 2 too |
//! | 3003 | | Socket.IO for clients of version 2 too |
//!
//! With ports as arguments there are as many servers, in this order.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::Uri;
use tokio::net::TcpListener;
use tower_http::cors::CorsLayer;
use tower_socketio::engine::{Config, EngineLayer, EngineSocket};
use tower_socketio::{Auth, Namespace, RawArgs, Refuse, Socket, SocketIo};

const PING_INTERVAL: Duration = Duration::from_millis(300);
const PING_TIMEOUT: Duration = Duration::from_millis(200);

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let apps = [
        (3000, engine_app(false)),
        (3001, socket_app()),
        (3002, engine_app(true)),
        (3003, version_2_app()),
    ];
    let ports = std::env::args().skip(1);
    let mut ports: Vec<u16> = ports
        .map(|port| port.parse().expect("a port is a number"))
        .collect();
    if ports.is_empty() {
        ports = apps.iter().map(|(port, _)| *port).collect();
    }
    let servers = ports.into_iter().zip(apps).flat_map(|(port, (_, app))| {
        // Clients may take `localhost` for either.
        ["127.0.0.1", "::1"].map(|host| serve(host, port, app.clone()))
    });
    futures_util::future::try_join_all(servers).await?;
    Ok(())
}

async fn serve(host: &str, port: u16, app: Router) -> std::io::Result<()> {
    axum::serve(TcpListener::bind((host, port)).await?, app).await
}

fn engine_app(allow_eio3: bool) -> Router {
    let config = Config {
        ping_interval: PING_INTERVAL,
        ping_timeout: PING_TIMEOUT,
        allow_eio3,
        ..Config::default()
    };
    let engine = EngineLayer::new(config, echo);
    Router::new().layer(engine).layer(CorsLayer::permissive())
}

async fn echo(mut socket: EngineSocket) {
    while let Some(message) = socket.recv().await {
        socket.send(message);
    }
}

fn socket_app() -> Router {
    let main = Namespace::new()
        .on_connect(connect)
        .on("message", message)
        .on("message-with-ack", message_with_ack);
    let (layer, _io) = SocketIo::builder()
        .namespace("/", main)
        .namespace("/custom", Namespace::new().on_connect(connect))
        .ping_interval(PING_INTERVAL)
        .ping_timeout(PING_TIMEOUT)
        .connect_timeout(Duration::from_secs(1))
        .build();
    Router::new().layer(layer).layer(CorsLayer::permissive())
}

async fn connect(socket: Socket, Auth(auth): Auth<serde_json::Value>) {
    socket.emit("auth", auth);
}

async fn message(socket: Socket, args: RawArgs) {
    socket.emit("message-back", args);
}

async fn message_with_ack(args: RawArgs) -> RawArgs {
    args
}

/// What the tests with clients of version 2 ask for.
fn version_2_app() -> Router {
    let main = Namespace::new()
        .on_connect(refuse_if_asked)
        .on("id", async |socket: Socket| socket.id().to_string())
        .on("message", message)
        .on("message-with-ack", message_with_ack)
        .on("ask", async |socket: Socket, args: RawArgs| {
            let answer = socket.emit_with_ack::<Bytes>("question", args).await;
            answer.map_err(|error| error.to_string())
        })
        .on("leave", async |socket: Socket| socket.disconnect());
    let custom = Namespace::new()
        .on_connect(connect)
        .on("message-with-ack", message_with_ack);
    let (layer, _io) = SocketIo::builder()
        .namespace("/", main)
        .namespace("/custom", custom)
        .namespace("/refused", Namespace::new().on_connect(refuse))
        .ping_interval(PING_INTERVAL)
        .ping_timeout(PING_TIMEOUT)
        .allow_eio3(true)
        .build();
    Router::new().layer(layer).layer(CorsLayer::permissive())
}

/// Refuses whoever says so in the query of the first request.
async fn refuse_if_asked(uri: Uri) -> Result<(), Refuse> {
    match uri.query().is_some_and(|query| query.contains("refuse=1")) {
        true => Err(Refuse::new("not today")),
        false => Ok(()),
    }
}

async fn refuse(Auth(auth): Auth<serde_json::Value>) -> Result<(), Refuse> {
    let refuse = Refuse::new("not authorized");
    Err(match auth.get("code") {
        Some(code) => refuse.with_data(serde_json::json!({ "code": code })),
        None => refuse,
    })
}
