//! Sends each message back: `cargo run --example hello`

use axum::{Router, routing::get};
use tower_socketio::{Data, Namespace, Socket, SocketIo};

#[tokio::main]
async fn main() {
    let (layer, _io) = SocketIo::builder()
        .namespace("/", Namespace::new().on("message", message))
        .build();

    let app = Router::new()
        .route("/", get(|| async { "Hello, World!" }))
        .layer(layer);

    let port = std::env::args().nth(1).unwrap_or_else(|| "3000".into());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}"));
    let listener = listener.await.unwrap();
    eprintln!("listening on http://{}", listener.local_addr().unwrap());
    axum::serve(listener, app).await.unwrap();
}

async fn message(socket: Socket, Data(text): Data<String>) {
    socket.emit("message", text);
}
