//! The server that official clients are tested against:
//! `cargo run --features msgpack --example interop JSON MSGPACK OBJECTS`.
//!
//! The program runs one server at three ports, with three parsers: the default one, MessagePack,
//! and a custom one that writes each packet as a JSON object.

#[path = "../support/objects.rs"]
mod objects;

use std::collections::HashMap;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Query;
use objects::Objects;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower_socketio::protocol::{JsonParser, MsgpackParser, Parser};
use tower_socketio::{
    Auth, Data, DisconnectReason, ErrorReply, Namespace, Params, RawArgs, Socket, SocketIo,
};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let ports: Vec<u16> = std::env::args()
        .skip(1)
        .map(|port| port.parse().expect("a port is a number"))
        .collect();
    let [json, msgpack, objects] = ports[..] else {
        panic!("usage: interop JSON MSGPACK OBJECTS");
    };
    tokio::try_join!(
        serve(json, JsonParser::default()),
        serve(msgpack, MsgpackParser::default()),
        serve(objects, Objects),
    )?;
    Ok(())
}

async fn serve(port: u16, parser: impl Parser + 'static) -> std::io::Result<()> {
    let (layer, _io) = SocketIo::builder()
        .namespace("/", namespace().on_connect(welcome))
        .namespace("/chat", namespace())
        .namespace("/rooms/{name}", Namespace::new().on("where", place))
        .namespace("/closed", namespace().on_connect(closed))
        .parser(parser)
        .build();
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    axum::serve(listener, Router::new().layer(layer)).await
}

fn namespace() -> Namespace {
    Namespace::new()
        .on("echo", async |args: RawArgs| args)
        .on("back", back)
        .on("ask", ask)
        .on("all", all)
        .on("others", others)
        .on("join", async |socket: Socket, Data(room): Data<String>| {
            socket.join(room);
        })
        .on("leave", async |socket: Socket, Data(room): Data<String>| {
            socket.leave(room);
        })
        .on("room", room)
        .on("volatile", volatile)
        .on("kick", async |socket: Socket| socket.disconnect())
        .on("close", async |socket: Socket| socket.close())
        .on_disconnect(left)
}

/// Sends the client the query and the auth of its connect.
async fn welcome(
    socket: Socket,
    Query(query): Query<HashMap<String, String>>,
    Auth(auth): Auth<Value>,
) {
    socket.emit("welcome", json!({ "auth": auth, "query": query }));
}

#[derive(Deserialize)]
struct Token {
    token: String,
}

async fn closed(Auth(auth): Auth<Option<Token>>) -> Result<(), ErrorReply> {
    if auth.is_some_and(|auth| auth.token == "sesame") {
        return Ok(());
    }
    Err(ErrorReply::new("not authorized").with_data(json!({ "code": 401, "again": false })))
}

async fn back(socket: Socket, args: RawArgs) {
    socket.emit("back", args);
}

#[derive(Deserialize, Serialize)]
struct Answer {
    text: String,
    data: Bytes,
}

/// Asks the client a question and sends its answer back.
async fn ask(socket: Socket, args: RawArgs) {
    match socket.emit_with_ack::<Answer>("question", args).await {
        Ok(answer) => socket.emit("answered", answer),
        Err(error) => socket.emit("answered", error.to_string()),
    }
}

async fn all(socket: Socket, args: RawArgs) {
    socket.everyone().emit("all", args);
}

async fn others(socket: Socket, args: RawArgs) {
    socket.broadcast().emit("others", args);
}

/// Sends the other arguments to the room that the first one names, except to the sender.
async fn room(socket: Socket, args: RawArgs) -> Result<(), String> {
    let (room, args): (String, RawArgs) = args.split_first().map_err(|error| error.to_string())?;
    socket.to(room).emit("room", args);
    Ok(())
}

async fn volatile(socket: Socket, args: RawArgs) {
    socket.volatile().emit("volatile", args);
}

async fn left(socket: Socket, reason: DisconnectReason) {
    let id = socket.id().to_string();
    socket
        .everyone()
        .emit("left", json!({ "id": id, "reason": reason.as_str() }));
}

async fn place(Params(name): Params<String>) -> String {
    name
}
