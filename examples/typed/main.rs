//! Typed events, and their types for a client in TypeScript:
//! `cargo run --features schema --example typed [PORT]`
//!
//! The events are declared once, here. `events.d.ts` is written from them by
//! `UPDATE_CONTRACT=1 cargo test --features schema --example typed`, and `client.ts` uses it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tower_socketio::{Namespace, Socket, SocketIo, SocketIoBuilder, TypedEvent};

/// Joins a room. The reply is the number of people in it.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Join {
    room: String,
}

impl TypedEvent for Join {
    const NAME: &'static str = "join";
    type Reply = usize;
}

/// Sends a message to a room.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Post {
    room: String,
    content: Content,
    /// The number of the message that this one answers.
    answers: Option<u32>,
}

impl TypedEvent for Post {
    const NAME: &'static str = "post";
    type Reply = Receipt;
}

/// What a message consists of.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "camelCase")]
enum Content {
    Text {
        text: String,
    },
    #[serde(rename_all = "camelCase")]
    Image {
        bytes: Bytes,
        alt_text: Option<String>,
    },
}

/// The message has been sent.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Receipt {
    number: u32,
}

/// A new message.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Posted {
    number: u32,
    content: Content,
    answers: Option<u32>,
}

impl TypedEvent for Posted {
    const NAME: &'static str = "message:posted";
    type Reply = ();
}

/// The position of somebody's pointer.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Pointer(
    #[schemars(title = "room")] String,
    #[schemars(title = "x")] f32,
    #[schemars(title = "y")] f32,
);

impl TypedEvent for Pointer {
    const NAME: &'static str = "pointer";
    /// Three arguments, not one.
    const SPREAD: bool = true;
    type Reply = ();
}

/// Asks whether the client wants to leave a room.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Confirm {
    question: String,
}

impl TypedEvent for Confirm {
    const NAME: &'static str = "confirm";
    type Reply = bool;
}

/// Leaves a room, if the client confirms it.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Leave {
    room: String,
}

impl TypedEvent for Leave {
    const NAME: &'static str = "leave";
    type Reply = bool;
}

type Posts = Arc<AtomicU32>;

fn server() -> SocketIoBuilder {
    let rooms = Namespace::new()
        .on_typed(join)
        .on_typed(post)
        .on_typed(pointer)
        .on_typed(leave)
        .receives::<Join>()
        .receives::<Post>()
        .receives::<Pointer>()
        .receives::<Leave>()
        .sends::<Posted>()
        .sends::<Pointer>()
        .sends::<Confirm>();
    SocketIo::builder()
        .namespace("/", rooms)
        .with_state(Posts::default())
}

#[tokio::main]
async fn main() {
    let (layer, _io) = server().build();
    let app = Router::new().layer(layer);

    let port = std::env::args().nth(1).unwrap_or_else(|| "3000".into());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}"));
    let listener = listener.await.unwrap();
    eprintln!("listening on http://{}", listener.local_addr().unwrap());
    axum::serve(listener, app).await.unwrap();
}

/// The type of the first argument names the event.
async fn join(Join { room }: Join, socket: Socket) -> usize {
    socket.join(&room);
    socket.io().to(&room).sockets().len()
}

async fn post(post: Post, State(posts): State<Posts>, socket: Socket) -> Receipt {
    let number = 1 + posts.fetch_add(1, Ordering::Relaxed);
    socket.to(&post.room).send(Posted {
        number,
        content: post.content,
        answers: post.answers,
    });
    Receipt { number }
}

async fn pointer(Pointer(room, x, y): Pointer, socket: Socket) {
    let others = socket.to(&room);
    others.send(Pointer(room, x, y));
}

async fn leave(Leave { room }: Leave, socket: Socket) -> Result<bool, String> {
    let question = format!("leave {room}?");
    let is_sure = socket
        .ask(Confirm { question })
        .timeout(Duration::from_secs(10))
        .await
        .map_err(|error| error.to_string())?;
    if is_sure {
        socket.leave(&room);
    }
    Ok(is_sure)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_types_of_the_client_are_current() {
        super::server()
            .contract()
            .assert_typescript("examples/typed/events.d.ts");
    }
}
