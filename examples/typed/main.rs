//! Typed events, whose name and arguments are a type: `cargo run --example typed`

use std::time::Duration;

use axum::Router;
use serde::{Deserialize, Serialize};
use tower_socketio::{Data, Namespace, Socket, SocketIo, TypedEvent};

#[derive(Serialize, Deserialize)]
struct Typing {
    room: String,
}

impl TypedEvent for Typing {
    const NAME: &'static str = "typing";
    type Reply = ();
}

#[derive(Serialize, Deserialize)]
struct Confirm {
    question: String,
}

impl TypedEvent for Confirm {
    const NAME: &'static str = "confirm";
    type Reply = bool;
}

#[tokio::main]
async fn main() {
    let chat = Namespace::new().on("join", join).on_typed(typing);
    let (layer, _io) = SocketIo::builder().namespace("/", chat).build();
    let app = Router::new().layer(layer);

    let port = std::env::args().nth(1).unwrap_or_else(|| "3000".into());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}"));
    let listener = listener.await.unwrap();
    eprintln!("listening on http://{}", listener.local_addr().unwrap());
    axum::serve(listener, app).await.unwrap();
}

async fn join(socket: Socket, Data(room): Data<String>) {
    socket.join(room);
}

/// The type of the first argument names the event.
async fn typing(Typing { room }: Typing, socket: Socket) -> Result<(), String> {
    let question = format!("type in {room}?");
    let sure = socket
        .ask(Confirm { question })
        .timeout(Duration::from_secs(3))
        .await
        .map_err(|error| error.to_string())?;
    if sure {
        let others = socket.to(&room);
        others.send(Typing { room });
    }
    Ok(())
}
