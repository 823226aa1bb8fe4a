//! The server for load tests: `cargo run --release --example echo PORT`.

use tokio::net::TcpListener;
use tower_socketio::{Data, Namespace, RawArgs, Socket, SocketIo};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok());
    let port: u16 = port.expect("usage: echo PORT");

    let namespace = Namespace::new()
        .on("echo", echo)
        .on("echo-bin", echo)
        .on("broadcast", broadcast)
        .on("join", join)
        .on("leave", leave)
        .on("room", room);
    let (layer, _io) = SocketIo::builder().namespace("/", namespace).build();
    let app = axum::Router::new().layer(layer);

    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    axum::serve(listener, app).await
}

/// Acknowledges with the event's own arguments, without decoding them.
async fn echo(args: RawArgs) -> RawArgs {
    args
}

async fn broadcast(io: SocketIo, args: RawArgs) {
    io.emit("broadcast", args);
}

async fn join(socket: Socket, Data(room): Data<String>) {
    socket.join(room);
}

async fn leave(socket: Socket, Data(room): Data<String>) {
    socket.leave(&room);
}

/// Sends the arguments to the room that the first one names, without decoding the others.
async fn room(io: SocketIo, args: RawArgs) -> Result<(), String> {
    let (room, args): (String, RawArgs) = args.split_first().map_err(|error| error.to_string())?;
    io.to(room).emit("room", args);
    Ok(())
}
