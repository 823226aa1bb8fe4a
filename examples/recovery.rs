//! Connection state recovery: `cargo run --example recovery`.
//!
//! The server counts the messages of each client, and keeps the count in its socket's extensions.
//! Cut the connection with `socket.io.engine.close()` in a client's console: the client comes back
//! with its count, and gets the messages that it missed.

use std::time::Duration;

use axum::{Extension, Router};
use tower_socketio::{Args, Data, Namespace, RawArgs, Recovery, Socket, SocketIo};

#[tokio::main]
async fn main() {
    let chat = Namespace::new()
        .on_connect(connect)
        .on("say", say)
        .on("join", async |socket: Socket, Data(room): Data<String>| {
            socket.join(room)
        })
        .on("tell", tell);
    let (layer, _io) = SocketIo::builder()
        .namespace("/", chat)
        .recovery(Recovery::within(Duration::from_secs(30)))
        .build();
    let app = Router::new().layer(layer);

    let port = std::env::args().nth(1).unwrap_or_else(|| "3000".into());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}"));
    let listener = listener.await.unwrap();
    eprintln!("listening on http://{}", listener.local_addr().unwrap());
    axum::serve(listener, app).await.unwrap();
}

#[derive(Clone)]
struct Said(u32);

async fn connect(socket: Socket) {
    if !socket.recovered() {
        socket.insert(Said(0));
        socket.join("everyone");
    }
}

/// Sends a message to everyone, and acknowledges with the number of this client's messages.
async fn say(socket: Socket, Extension(Said(before)): Extension<Said>, args: RawArgs) -> u32 {
    socket.insert(Said(before + 1));
    socket.io().to("everyone").emit("said", args);
    before + 1
}

/// Sends a text to a room.
async fn tell(socket: Socket, Args((room, text)): Args<(String, String)>) {
    socket.io().to(room).emit("told", text);
}
