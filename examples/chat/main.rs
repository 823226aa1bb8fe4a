//! A chat with a page: `cargo run --example chat [PORT]`.
//!
//! Names, rooms, who is here, who is typing, images. The page is `index.html`. It uses the official
//! client, which npm fetches at the first start; without npm the browser loads it from a CDN.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::{env, error::Error};

use axum::{Extension, Router, extract::State, response::Html, routing::get};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tower_http::services::ServeFile;
use tower_socketio::{Args, Auth, Data, Namespace, Refuse, Socket, SocketIo};

/// Who sits where: each name with its socket. The rooms are known to the sockets.
type Seats = Arc<Mutex<BTreeMap<String, (User, Socket)>>>;

/// The most characters in a message, as in `index.html`. The limit of the whole event,
/// `SocketIoBuilder::max_payload`, is 1 MB: a client that exceeds it loses its connection.
const LONGEST_TEXT: usize = 10_000;

/// What a client says of itself. The key shows that a page that returns is the one that left.
#[derive(Clone, Deserialize)]
struct User {
    name: String,
    key: String,
}

/// What a client says, and with the server's `from` what the others hear. A page that had no answer
/// sends a message again, and the others know it by its id.
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
        .route_service("/socket.io.min.js", ServeFile::new(client()))
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

/// An `Err` is what the page's `connect_error` listener gets.
async fn enter(
    socket: Socket,
    Auth(user): Auth<User>,
    State(seats): State<Seats>,
) -> Result<(), Refuse> {
    if user.name.trim().is_empty() || user.name.chars().count() > 24 {
        return Err(Refuse::new("choose a name of 1 to 24 characters"));
    }
    let mut seats = seats.lock().unwrap();
    if let Some((other, old)) = seats.get(&user.name) {
        if other.key != user.key {
            return Err(Refuse::new(format!("the name {} is taken", user.name)));
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

/// What is returned is the acknowledgement: whether it was said.
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

/// The name may have gone to a newer socket of the same page.
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

/// Tells everybody who is where. Under the lock, so that the last word is the newest.
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

/// The path of the official client's bundle. It is below cargo's target directory, and npm fetches
/// it if it is missing.
fn client() -> PathBuf {
    let folder = target().join("chat");
    let bundle = folder.join("node_modules/socket.io-client/dist/socket.io.min.js");
    if !bundle.exists() {
        let npm = if cfg!(windows) { "npm.cmd" } else { "npm" };
        let install = "install --no-save --ignore-scripts --no-audit --no-fund";
        let status = Command::new(npm)
            .args(install.split(' '))
            .arg("--prefix")
            .arg(&folder)
            .arg("socket.io-client@4.8.3")
            .status();
        if !status.is_ok_and(|status| status.success()) {
            let place = bundle.display();
            eprintln!("npm could not fetch the client: the browser loads it from cdn.socket.io;");
            eprintln!("to work offline, put socket.io.min.js (4.8.3) at {place}");
        }
    }
    bundle
}

/// Cargo's target directory: the program is its `debug/examples/chat`.
fn target() -> PathBuf {
    let program = env::current_exe().unwrap_or_default();
    let target = program.ancestors().nth(3);
    target.unwrap_or(Path::new("target")).to_path_buf()
}
