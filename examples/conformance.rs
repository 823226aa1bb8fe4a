//! Servers as the official test suites want them: `cargo run --example conformance [PORT_A PORT_C]`.
//!
//! A, port 3000: Engine.IO alone, at `/engine.io/`. C, port 3001: Socket.IO, at `/socket.io/`.

use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tower_http::cors::CorsLayer;
use tower_socketio::engine::{Config, EngineLayer, EngineSocket};
use tower_socketio::{Auth, Namespace, RawArgs, Socket, SocketIo};

const PING_INTERVAL: Duration = Duration::from_millis(300);
const PING_TIMEOUT: Duration = Duration::from_millis(200);

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut ports = std::env::args().skip(1).map(|port| port.parse());
    let mut port = |default| match ports.next() {
        Some(port) => port.expect("a port is a number"),
        None => default,
    };
    let (engine, socket) = (port(3000), port(3001));
    let (a, c) = (engine_app(), socket_app());
    tokio::try_join!(
        serve("127.0.0.1", engine, a.clone()),
        serve("::1", engine, a),
        serve("127.0.0.1", socket, c.clone()),
        serve("::1", socket, c),
    )?;
    Ok(())
}

async fn serve(host: &str, port: u16, app: Router) -> std::io::Result<()> {
    axum::serve(TcpListener::bind((host, port)).await?, app).await
}

fn engine_app() -> Router {
    let config = Config {
        ping_interval: PING_INTERVAL,
        ping_timeout: PING_TIMEOUT,
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
