//! Sends each message back, and ends well: `cargo run --example graceful_shutdown`, then Ctrl+C.
//!
//! The server stops when it gets SIGINT or SIGTERM. It refuses new clients, and closes those that
//! are connected one after another, so that they come back to other servers one after another too.

use std::time::Duration;

use axum::{Router, routing::get};
use tokio::signal;
use tower_socketio::{Data, Namespace, Socket, SocketIo};

#[tokio::main]
async fn main() {
    let (layer, io) = SocketIo::builder()
        .namespace("/", Namespace::new().on("message", message))
        .build();

    let app = Router::new()
        .route("/", get(|| async { "Hello, World!" }))
        .layer(layer);

    let port = std::env::args().nth(1).unwrap_or_else(|| "3000".into());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}"));
    let listener = listener.await.unwrap();
    eprintln!("listening on http://{}", listener.local_addr().unwrap());
    axum::serve(listener, app)
        .with_graceful_shutdown(shutdown(io))
        .await
        .unwrap();
}

async fn message(socket: Socket, Data(text): Data<String>) {
    socket.emit("message", text);
}

/// Waits for a signal, and shuts the Socket.IO server down. Then axum stops to accept connections,
/// and waits for the requests that are left.
async fn shutdown(io: SocketIo) {
    signal().await;
    eprintln!("shutting down");
    let report = io
        .shutdown()
        .spread(Duration::from_secs(2))
        .deadline(Duration::from_secs(20))
        .await;
    eprintln!("{report}");
}

/// Waits for Ctrl+C, or for the SIGTERM of a process manager.
#[cfg(unix)]
async fn signal() {
    let mut terminate = signal::unix::signal(signal::unix::SignalKind::terminate()).unwrap();
    tokio::select! {
        interrupt = signal::ctrl_c() => interrupt.unwrap(),
        _ = terminate.recv() => {}
    }
}

/// Waits for Ctrl+C.
#[cfg(not(unix))]
async fn signal() {
    signal::ctrl_c().await.unwrap();
}
