//! A server of a cluster: `cluster_node PORT REDIS_URL MODE`.
//!
//! MODE is `classic` or `classic-specific`. The server listens on 127.0.0.1, and prints `listening`
//! when it is ready. Its clients use the cluster through events: see [`namespace`].

use std::time::Duration;

use axum::Router;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower_socketio::cluster::Redis;
use tower_socketio::{
    Args, Broadcast, Data, ErrorReply, Namespace, RawArgs, ServerEvent, Socket, SocketIo,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [port, url, mode] = &args[..] else {
        return Err("usage: cluster_node PORT REDIS_URL MODE".into());
    };
    let redis = match mode.as_str() {
        // The server answers on the channel of the server that has asked in both modes.
        "classic" | "classic-specific" => Redis::connect(url).await?,
        _ => return Err(format!("unknown mode {mode}").into()),
    };
    let (layer, io) = SocketIo::builder()
        .namespace("/", namespace())
        .cluster(redis)
        .build();
    while !io
        .cluster()
        .is_some_and(|cluster| cluster.status().is_connected)
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let listener = TcpListener::bind(("127.0.0.1", port.parse()?)).await?;
    #[allow(clippy::print_stdout, reason = "tests wait for the line")]
    {
        println!("listening");
    }
    axum::serve(listener, Router::new().layer(layer))
        .with_graceful_shutdown(async move {
            let ended = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
            match ended {
                Ok(mut ended) => drop(ended.recv().await),
                Err(_) => std::future::pending().await,
            }
            io.close().await;
        })
        .await?;
    Ok(())
}

/// | event of a client | acknowledgement |
/// |---|---|
/// | `emit(rooms, except, flags, name, …)` | `true` |
/// | `fetch(rooms)` | `[{id, rooms, data}]` |
/// | `ask(rooms, name, arg, ms)` | `{answers, missing}` |
/// | `server_emit(name, …)` | `true` |
/// | `server_ask(name, arg)` | the answers |
/// | `join(rooms, room)`, `leave(rooms, room)`, `disconnect(rooms, close)` | `true` |
/// | `count()` | the number of servers |
fn namespace() -> Namespace {
    Namespace::new()
        .on_connect(connect)
        .on("emit", emit)
        .on("fetch", fetch)
        .on("ask", ask)
        .on("server_emit", server_emit)
        .on("server_ask", server_ask)
        .on("join", join)
        .on("leave", leave)
        .on("disconnect_sockets", disconnect)
        .on("count", count)
        .max_concurrent_events(64)
        .on_server_event("hey", async |_: RawArgs| "rust-pong")
        .server_event_fallback(pass_on)
}

async fn connect(socket: Socket) -> Result<(), ErrorReply> {
    socket
        .set_data(json!({ "user": "rust" }))
        .map_err(|error| ErrorReply::new(error.to_string()))?;
    socket.join("room1");
    Ok(())
}

/// Selects the sockets in the rooms, or all sockets.
fn select(io: &SocketIo, rooms: &[String]) -> Broadcast {
    rooms
        .iter()
        .fold(io.of("/"), |broadcast, room| broadcast.to(room))
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Flags {
    local: bool,
    volatile: bool,
}

async fn emit(io: SocketIo, args: RawArgs) -> Result<bool, ErrorReply> {
    let invalid = |error: tower_socketio::protocol::ReadError| ErrorReply::new(error.to_string());
    let (rooms, args): (Vec<String>, _) = args.split_first().map_err(invalid)?;
    let (except, args): (Vec<String>, _) = args.split_first().map_err(invalid)?;
    let (flags, args): (Flags, _) = args.split_first().map_err(invalid)?;
    let (name, args): (String, _) = args.split_first().map_err(invalid)?;
    let mut broadcast = except.iter().fold(select(&io, &rooms), |broadcast, room| {
        broadcast.except(room)
    });
    if flags.local {
        broadcast = broadcast.local();
    }
    if flags.volatile {
        broadcast = broadcast.volatile();
    }
    broadcast.emit(&name, args);
    Ok(true)
}

async fn fetch(io: SocketIo, Data(rooms): Data<Vec<String>>) -> Result<Data<Value>, ErrorReply> {
    let sockets = select(&io, &rooms).fetch_sockets().await;
    let sockets = sockets.map_err(|error| ErrorReply::new(error.to_string()))?;
    let described = sockets.iter().map(|socket| {
        json!({
            "id": socket.id().as_str(),
            "rooms": socket.rooms(),
            "data": socket.data::<Value>(),
            "url": socket.handshake().url,
        })
    });
    Ok(Data(described.collect()))
}

async fn ask(
    io: SocketIo,
    Args((rooms, name, arg, ms)): Args<(Vec<String>, String, Value, u64)>,
) -> Data<Value> {
    let question = select(&io, &rooms).emit_with_ack::<Value>(&name, arg);
    let answers = question.timeout(Duration::from_millis(ms)).await;
    let (answers, missing): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|(_, answer)| answer.is_ok());
    let answers: Vec<_> = answers
        .into_iter()
        .filter_map(|(_, answer)| answer.ok())
        .collect();
    Data(json!({ "answers": answers, "missing": missing.len() }))
}

async fn server_emit(io: SocketIo, args: RawArgs) -> Result<bool, ErrorReply> {
    let (name, args): (String, _) = args
        .split_first()
        .map_err(|error| ErrorReply::new(error.to_string()))?;
    io.server_side_emit(&name, args)
        .map_err(|error| ErrorReply::new(error.to_string()))?;
    Ok(true)
}

async fn server_ask(
    io: SocketIo,
    Args((name, arg)): Args<(String, Value)>,
) -> Result<Data<Vec<Value>>, ErrorReply> {
    let answers = io.of("/").server_side_emit_with_ack(&name, arg).await;
    answers
        .map(Data)
        .map_err(|error| ErrorReply::new(error.to_string()))
}

async fn join(io: SocketIo, Args((rooms, room)): Args<(Vec<String>, String)>) -> bool {
    select(&io, &rooms).join(room);
    true
}

async fn leave(io: SocketIo, Args((rooms, room)): Args<(Vec<String>, String)>) -> bool {
    select(&io, &rooms).leave(room);
    true
}

async fn disconnect(io: SocketIo, Args((rooms, close)): Args<(Vec<String>, bool)>) -> bool {
    match close {
        true => select(&io, &rooms).close(),
        false => select(&io, &rooms).disconnect(),
    }
    true
}

async fn count(io: SocketIo) -> Result<Data<usize>, ErrorReply> {
    let count = io.server_count().await;
    count
        .map(Data)
        .map_err(|error| ErrorReply::new(error.to_string()))
}

/// Passes an event of another server to the clients of this one.
async fn pass_on(io: SocketIo, event: ServerEvent) {
    let mut args = vec![Value::from(event.name())];
    let rest: Result<Vec<Value>, _> = event.args().read_all();
    args.extend(rest.unwrap_or_default());
    io.of("/").local().emit("server_event", Args(args));
}
