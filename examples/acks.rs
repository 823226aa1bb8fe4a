//! Acknowledgements in both directions: `cargo run --example acks`

use std::time::Duration;

use axum::Router;
use serde::{Deserialize, Serialize};
use tower_socketio::{
    AckError, Args, Data, ErrorReply, IntoReply, Namespace, Reply, Socket, SocketIo,
};

#[derive(Deserialize)]
struct NewTodo {
    title: String,
}

#[derive(Serialize)]
struct Todo {
    id: u32,
    title: String,
}

enum TodoError {
    EmptyTitle,
}

impl IntoReply for TodoError {
    fn into_reply(self) -> Reply {
        match self {
            Self::EmptyTitle => ErrorReply::new("a todo needs a title").into_reply(),
        }
    }
}

#[tokio::main]
async fn main() {
    let namespace = Namespace::new()
        .on("create", create)
        .on("divide", divide)
        .on("ask me", ask);
    let (layer, _io) = SocketIo::builder().namespace("/", namespace).build();
    let app = Router::new().layer(layer);

    let port = std::env::args().nth(1).unwrap_or_else(|| "3000".into());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}"));
    let listener = listener.await.unwrap();
    eprintln!("listening on http://{}", listener.local_addr().unwrap());
    axum::serve(listener, app).await.unwrap();
}

/// The returned value is the acknowledgement. The client's callback gets the todo, or
/// `{ error: "a todo needs a title" }`.
async fn create(Data(todo): Data<NewTodo>) -> Result<Data<Todo>, TodoError> {
    if todo.title.is_empty() {
        return Err(TodoError::EmptyTitle);
    }
    Ok(Data(Todo {
        id: 1,
        title: todo.title,
    }))
}

/// Reads several arguments and returns several arguments.
async fn divide(Args((a, b)): Args<(f64, f64)>) -> Args<(Option<&'static str>, f64)> {
    if b == 0.0 {
        return Args((Some("division by zero"), 0.0));
    }
    Args((None, a / b))
}

/// Emits an event and waits for the client's acknowledgement.
async fn ask(socket: Socket) {
    let answer: Result<u32, AckError> = socket
        .emit_with_ack("question", "6 x 7?")
        .timeout(Duration::from_secs(5))
        .await;
    match answer {
        Ok(42) => socket.emit("verdict", "right"),
        Ok(_) => socket.emit("verdict", "wrong"),
        Err(_) => socket.disconnect(),
    }
}
