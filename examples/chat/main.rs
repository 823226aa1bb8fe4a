//! A chat with a web page: `cargo run --example chat [PORT]`.
//!
//! It has names, rooms, lists of people, typing indicators, and images. The page is `index.html`.
//! It uses the official client, which npm fetches at the first start. Without npm the browser loads
//! the client from a CDN.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::{env, error::Error};

use axum::{Extension, Router, extract::State, response::Html, routing::get};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tower_http::services::ServeFile;
use tower_socketio::{Args, Auth, Data, ErrorReply, Namespace, Socket, SocketIo};

mod client;

/// The users by name, each with its socket. The socket knows its rooms.
type Seats = Arc<Mutex<BTreeMap<String, (User, Socket)>>>;

/// The largest number of characters in a message, as in `index.html`. The limit of the whole event
/// is `SocketIoBuilder::max_payload`, 1 MB. A client that exceeds it loses its connection.
const LONGEST_TEXT: usize = 10_000;

/// The auth of a client. With its key a page that connects again proves that the name is its own.
#[derive(Clone, Deserialize)]
struct User {
    name: String,
    key: String,
}

/// A message of a client. The server fills in `from` before it sends the message to the others. A
/// page that gets no acknowledgement sends a message again, and the others recognize its id.
#[derive(Deserialize, Serialize)]
struct Message {
    room: String,
    id: String,
    #[serde(default)]
    from: String,
    text: String,
    image: Option<Bytes>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let chat = Namespace::new()
        .on_connect(enter)
        .on("join", join)
        .on("leave", leave)
        .on("say", say)
        .on("typing", typing)
        .on_disconnect(exit);
    let (layer, io) = SocketIo::builder()
        .namespace("/", chat)
        .with_state(Seats::default())
        .build();

    let app = Router::new()
        .route("/", get(Html(include_str!("index.html"))))
        .route_service("/socket.io.min.js", ServeFile::new(client::bundle()))
        .layer(layer);

    let port = env::args().nth(1).or_else(|| env::var("PORT").ok());
    let port = port.as_deref().unwrap_or("3000").parse::<u16>()?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port))
        .await
        .map_err(|error| format!("port {port}: {error}; `--example chat 3001` takes another"))?;
    eprintln!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            tokio::signal::ctrl_c().await.ok();
            io.close().await;
        })
        .await?;
    Ok(())
}

/// The page gets an `Err` as `connect_error`.
async fn enter(
    socket: Socket,
    Auth(user): Auth<User>,
    State(seats): State<Seats>,
) -> Result<(), ErrorReply> {
    if user.name.trim().is_empty() || user.name.chars().count() > 24 {
        return Err(ErrorReply::new("choose a name of 1 to 24 characters"));
    }
    let mut seats = seats.lock().unwrap();
    if let Some((other, old)) = seats.get(&user.name) {
        if other.key != user.key {
            return Err(ErrorReply::new(format!("the name {} is taken", user.name)));
        }
        old.emit("replaced", ());
        old.disconnect();
    }
    seats.insert(user.name.clone(), (user.clone(), socket.clone()));
    socket.emit("rooms", rooms(&seats));
    socket.insert(user);
    Ok(())
}

async fn join(socket: Socket, State(seats): State<Seats>, Data(room): Data<String>) {
    if room.chars().count() <= 24 {
        socket.join(room);
        tell(&socket.io(), &seats);
    }
}

async fn leave(socket: Socket, State(seats): State<Seats>, Data(room): Data<String>) {
    socket.leave(room);
    tell(&socket.io(), &seats);
}

/// Sends a message to its room. The acknowledgement says whether the message was accepted.
async fn say(
    socket: Socket,
    Extension(user): Extension<User>,
    Data(mut message): Data<Message>,
) -> bool {
    let too_long = message.text.chars().count() > LONGEST_TEXT;
    if too_long || !socket.rooms().contains(&message.room) {
        return false;
    }
    message.from = user.name;
    socket.to(message.room.clone()).emit("said", message);
    true
}

async fn typing(socket: Socket, Extension(user): Extension<User>, Data(room): Data<String>) {
    socket.to(&room).emit("typing", Args((&room, user.name)));
}

/// Removes the user, unless a newer socket of the same page has the name now.
async fn exit(socket: Socket, Extension(user): Extension<User>, State(seats): State<Seats>) {
    let mut seats = seats.lock().unwrap();
    if seats
        .get(&user.name)
        .is_some_and(|(_, owner)| owner.id() == socket.id())
    {
        seats.remove(&user.name);
    }
    socket.io().emit("rooms", rooms(&seats));
}

/// Sends the people in each room to everyone. It emits under the lock, so that the newest state is
/// sent last.
fn tell(io: &SocketIo, seats: &Seats) {
    let seats = seats.lock().unwrap();
    io.emit("rooms", rooms(&seats));
}

fn rooms(seats: &BTreeMap<String, (User, Socket)>) -> BTreeMap<String, BTreeSet<String>> {
    let mut rooms = BTreeMap::new();
    for (name, (_, socket)) in seats {
        for room in socket.rooms() {
            let people: &mut BTreeSet<_> = rooms.entry(room).or_default();
            people.insert(name.clone());
        }
    }
    rooms
}
