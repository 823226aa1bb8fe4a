//! A chat with a web page: `cargo run --example chat [PORT]`.
//!
//! It has names, rooms, lists of people, typing indicators, and images. The page is `index.html`.
//! It uses the official client, which npm fetches at the first start. Without npm the browser loads
//! the client from a CDN.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{env, error::Error};

use axum::{Extension, Router, extract::State, response::Html, routing::get};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tower_http::services::ServeFile;
use tower_socketio::{
    Args, Auth, Data, ErrorReply, Namespace, Presence, PresenceError, Socket, SocketIo,
};

mod client;

#[derive(Clone)]
struct App {
    people: Presence<Tab>,
    names: Names,
}

/// What the pages learn of each tab of a user. The presence's key is the user's name.
#[derive(Clone, Default, Deserialize, Serialize)]
struct Tab {
    rooms: Vec<String>,
}

/// The names that are taken: each with its user's key, and the number of tabs.
type Names = Arc<Mutex<HashMap<String, (String, usize)>>>;

/// The room of all pages, in which the people are tracked. Users cannot enter it themselves.
const EVERYBODY: &str = "everybody";

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
    let people = Presence::new().grace(Duration::from_secs(2));
    let chat = Namespace::new()
        .on_connect(enter)
        .on("join", join)
        .on("leave", leave)
        .on("say", say)
        .on("typing", typing)
        .on_disconnect(exit)
        .presence(&people);
    let names = Names::default();
    let (layer, io) = SocketIo::builder()
        .namespace("/", chat)
        .with_state(App { people, names })
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

/// The page gets an `Err` as `connect_error`. Several tabs of one user share the name.
async fn enter(
    socket: Socket,
    Auth(user): Auth<User>,
    State(App { people, names }): State<App>,
) -> Result<(), ErrorReply> {
    if user.name.trim().is_empty() || user.name.chars().count() > 24 {
        return Err(ErrorReply::new("choose a name of 1 to 24 characters"));
    }
    let mut names = names.lock().unwrap();
    let taken = names.get(&user.name);
    if taken.is_some_and(|(key, _)| *key != user.key) {
        return Err(ErrorReply::new(format!("the name {} is taken", user.name)));
    }
    people
        .track(&socket, EVERYBODY, &user.name, &Tab::default())
        .map_err(|error| ErrorReply::new(error.to_string()))?;
    let (_, tabs) = names
        .entry(user.name.clone())
        .or_insert_with(|| (user.key.clone(), 0));
    *tabs += 1;
    socket.insert(user);
    Ok(())
}

async fn join(
    socket: Socket,
    State(App { people, .. }): State<App>,
    Data(room): Data<String>,
) -> Result<(), PresenceError> {
    if room == EVERYBODY || room.chars().count() > 24 {
        return Ok(());
    }
    socket.join(room);
    people.update(&socket, EVERYBODY, &tab(&socket))
}

async fn leave(
    socket: Socket,
    State(App { people, .. }): State<App>,
    Data(room): Data<String>,
) -> Result<(), PresenceError> {
    if room == EVERYBODY {
        return Ok(());
    }
    socket.leave(room);
    people.update(&socket, EVERYBODY, &tab(&socket))
}

fn tab(socket: &Socket) -> Tab {
    let mut rooms = socket.rooms();
    rooms.retain(|room| room != EVERYBODY);
    Tab { rooms }
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
    if socket.rooms().contains(&room) {
        socket.to(&room).emit("typing", Args((&room, user.name)));
    }
}

/// Frees the name when the last tab of its user has gone. The presence follows the socket by itself.
async fn exit(Extension(user): Extension<User>, State(App { names, .. }): State<App>) {
    let mut names = names.lock().unwrap();
    if let Some((_, tabs)) = names.get_mut(&user.name) {
        *tabs -= 1;
        if *tabs == 0 {
            names.remove(&user.name);
        }
    }
}
