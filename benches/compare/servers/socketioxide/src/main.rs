//! socketioxide on axum, set up the way its README does. Usage: `peer-socketioxide PORT`.

use bytes::Bytes;
use serde_json::Value;
use socketioxide::{
    SocketIo,
    extract::{AckSender, Data, SocketRef},
};

/// Runs in a task of its own after the client has been told that it is connected. An event that
/// comes before the task has run is dropped, which the load generator counts.
async fn on_connect(socket: SocketRef) {
    socket.on("echo", async |Data::<Value>(data), ack: AckSender| {
        ack.send(&data).ok();
    });
    socket.on("echo-bin", async |Data::<Bytes>(data), ack: AckSender| {
        ack.send(&data).ok();
    });
    socket.on("broadcast", async |io: SocketIo, Data::<Value>(data)| {
        io.emit("broadcast", &data).await.ok();
    });
    socket.on(
        "join",
        async |socket: SocketRef, Data::<String>(room), ack: AckSender| {
            socket.join(room);
            ack.send(&()).ok();
        },
    );
    socket.on(
        "leave",
        async |socket: SocketRef, Data::<String>(room), ack: AckSender| {
            socket.leave(room);
            ack.send(&()).ok();
        },
    );
    socket.on(
        "room",
        async |io: SocketIo, Data::<(String, Value)>((room, data))| {
            io.to(room).emit("room", &data).await.ok();
        },
    );
}

#[tokio::main]
async fn main() {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok());
    let port: u16 = port.expect("usage: peer-socketioxide PORT");

    let (layer, io) = SocketIo::new_layer();
    io.ns("/", on_connect);

    let app = axum::Router::new().layer(layer);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port))
        .await
        .expect("bind");
    axum::serve(listener, app).await.expect("serve");
}
