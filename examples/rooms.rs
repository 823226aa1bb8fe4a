//! Rooms, and a value in each socket's extensions: `cargo run --example rooms`
//!
//! A client sends its name: `io("http://localhost:3000", { auth: { name: "ada" } })`.

use axum::{Extension, Router};
use serde::{Deserialize, Serialize};
use tower_socketio::{Args, Auth, Data, DisconnectReason, Namespace, Socket, SocketIo};

#[derive(Clone, Deserialize)]
struct User {
    name: String,
}

#[derive(Deserialize)]
struct Say {
    room: String,
    text: String,
}

#[derive(Serialize)]
struct Said<'a> {
    from: &'a str,
    text: &'a str,
}

#[tokio::main]
async fn main() {
    let chat = Namespace::new()
        .on_connect(connect)
        .on("join", join)
        .on("say", say)
        .on_disconnect(leave);
    let (layer, _io) = SocketIo::builder().namespace("/", chat).build();
    let app = Router::new().layer(layer);

    let port = std::env::args().nth(1).unwrap_or_else(|| "3000".into());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}"));
    let listener = listener.await.unwrap();
    eprintln!("listening on http://{}", listener.local_addr().unwrap());
    axum::serve(listener, app).await.unwrap();
}

async fn connect(socket: Socket, Auth(user): Auth<User>) {
    socket.insert(user);
}

async fn join(socket: Socket, Data(room): Data<String>) {
    socket.join(room);
}

async fn say(socket: Socket, Extension(user): Extension<User>, Data(say): Data<Say>) {
    let said = Said {
        from: &user.name,
        text: &say.text,
    };
    socket.to(&say.room).emit("said", said);
}

async fn leave(socket: Socket, Extension(user): Extension<User>, reason: DisconnectReason) {
    let reason = reason.as_str();
    // `Args` sends two arguments. A bare tuple would be one argument, an array.
    socket.broadcast().emit("left", Args((user.name, reason)));
}
