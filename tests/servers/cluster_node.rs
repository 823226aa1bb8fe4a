//! A server of a cluster: `cluster_node PORT URL MODE [SECONDS]`. Several URLs with commas between them are
//! those of a Redis Cluster.
//!
//! MODE is `postgres` for PostgreSQL, and for Redis `classic`, `classic-specific`, `sharded`,
//! `sharded-dynamic`, `sharded-dynamic-private`, `streams`, `streams-4` (four streams),
//! `streams-sharded`, `streams-recovery` or `streams-recovery-early` (which save sockets), or `none` for
//! a server alone. The server listens on 127.0.0.1, and prints `listening` when it is ready. With
//! SECONDS, clients may be away for so long and recover. Its clients use the cluster through events: see
//! [`namespace`].

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower_socketio::cluster::{Mode, Postgres, Redis, Streams, Subscriptions};
use tower_socketio::{
    Args, Broadcast, Data, ErrorReply, Namespace, Presence, RawArgs, Recovery, ServerEvent, Socket,
    SocketIo,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (port, url, mode, within) = match &args[..] {
        [port, url, mode] => (port, url, mode, None),
        [port, url, mode, seconds] => (port, url, mode, Some(seconds.parse()?)),
        _ => return Err("usage: cluster_node PORT URL MODE [SECONDS]".into()),
    };
    let is_postgres = mode == "postgres";
    let mode = match mode.as_str() {
        // The server answers on the channel of the server that has asked in both modes.
        "classic" | "classic-specific" => Some(Mode::Classic),
        "sharded" => Some(Mode::Sharded(Subscriptions::Static)),
        "sharded-dynamic" => Some(Mode::Sharded(Subscriptions::Dynamic)),
        "sharded-dynamic-private" => Some(Mode::Sharded(Subscriptions::DynamicPrivate)),
        "streams" | "streams-recovery" | "streams-recovery-early" => {
            Some(Mode::Streams(Streams::new()))
        }
        "streams-4" => Some(Mode::Streams(Streams::new().count(4))),
        "streams-sharded" => Some(Mode::Streams(Streams::new().sharded_pub_sub(true))),
        "none" | "postgres" => None,
        _ => return Err(format!("unknown mode {mode}").into()),
    };
    let mut builder = SocketIo::builder()
        .namespace("/", with_presence(namespace()))
        .namespace("/room-{n}", namespace());
    if let Some(mode) = mode {
        let redis = match url.contains(',') {
            true => Redis::cluster(url.split(',')),
            false => Redis::options(url),
        };
        builder = builder.cluster(redis.mode(mode).connect().await?);
    }
    if is_postgres {
        builder = builder.cluster(Postgres::connect(url).await?);
    }
    let within = within.or(args[2].starts_with("streams-recovery").then_some(60));
    if let Some(seconds) = within {
        let recovery = Recovery::within(Duration::from_secs(seconds));
        builder = builder.recovery(recovery.save_early(args[2].ends_with("-early")));
    }
    let (layer, io) = builder.build();
    if let Some(cluster) = io.cluster() {
        while !cluster.status().is_connected {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let listener = TcpListener::bind(("127.0.0.1", port.parse()?)).await?;
    #[allow(clippy::print_stdout, reason = "tests wait for the line")]
    {
        println!("listening");
    }
    let app = Router::new().layer(layer);
    axum::serve(
        listener,
        app.into_make_service_with_connect_info::<SocketAddr>(),
    )
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
/// | `time_fetch(rooms)` | how long a `fetch` takes, in milliseconds, and how many sockets it returns |
/// | `status()` | the state of the connection to the broker, with the counters |
/// | `me()` | `{id, rooms, data, recovered}` of the client's socket |
/// | `local(rooms)` | the same of the sockets of this server |
/// | `subscribe(rooms)` | `true`: the client's socket is in the rooms |
/// | `join_after(room, name, …)` | `true`: the event was sent to the room, then the client's socket joined it |
/// | `set_data(data)` | `true` |
/// | `to_me(name, …)` | `true` |
/// | `ask_me(name, arg)` | the client's answer |
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
        .on("time_fetch", time_fetch)
        .on("status", status)
        .on("me", me)
        .on("local", local)
        .on("subscribe", subscribe)
        .on("join_after", join_after)
        .on("set_data", set_data)
        .on("to_me", to_me)
        .on("ask_me", ask_me)
        .max_concurrent_events(64)
        .on_server_event("hey", async |_: RawArgs| "rust-pong")
        .server_event_fallback(pass_on)
}

/// With PRESENCE in the environment, adds a presence, and `track(room, key)` for clients.
fn with_presence(namespace: Namespace) -> Namespace {
    if std::env::var_os("PRESENCE").is_none() {
        return namespace;
    }
    let presence = Presence::<Value>::new().grace(Duration::from_millis(200));
    let namespace = namespace.presence(&presence);
    let track = move |socket: Socket, Args((room, key)): Args<(String, String)>| {
        let tracked = presence.track(&socket, room, key, &json!({ "on": "rust" }));
        async move { tracked.map(|()| true) }
    };
    namespace.on("track", track)
}

async fn connect(socket: Socket) -> Result<(), ErrorReply> {
    if socket.recovered() {
        return Ok(());
    }
    socket
        .set_data(json!({ "user": "rust" }))
        .map_err(|error| ErrorReply::new(error.to_string()))?;
    socket.join("room1");
    Ok(())
}

/// Selects the sockets of the namespace in the rooms, or all of them.
fn select(socket: &Socket, rooms: &[String]) -> Broadcast {
    let all = socket.io().of(socket.namespace());
    rooms.iter().fold(all, |broadcast, room| broadcast.to(room))
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Flags {
    local: bool,
    volatile: bool,
}

async fn emit(socket: Socket, args: RawArgs) -> Result<bool, ErrorReply> {
    let invalid = |error: tower_socketio::protocol::ReadError| ErrorReply::new(error.to_string());
    let (rooms, args): (Vec<String>, _) = args.split_first().map_err(invalid)?;
    let (except, args): (Vec<String>, _) = args.split_first().map_err(invalid)?;
    let (flags, args): (Flags, _) = args.split_first().map_err(invalid)?;
    let (name, args): (String, _) = args.split_first().map_err(invalid)?;
    let mut broadcast = except
        .iter()
        .fold(select(&socket, &rooms), |broadcast, room| {
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

async fn fetch(socket: Socket, Data(rooms): Data<Vec<String>>) -> Result<Data<Value>, ErrorReply> {
    let sockets = select(&socket, &rooms).fetch_sockets().await;
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
    socket: Socket,
    Args((rooms, name, arg, ms)): Args<(Vec<String>, String, Value, u64)>,
) -> Data<Value> {
    let question = select(&socket, &rooms).emit_with_ack::<Value>(&name, arg);
    let answers = question.timeout(Duration::from_millis(ms)).await;
    let (answers, missing): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|(_, answer)| answer.is_ok());
    let answers: Vec<_> = answers
        .into_iter()
        .filter_map(|(_, answer)| answer.ok())
        .collect();
    Data(json!({ "answers": answers, "missing": missing.len() }))
}

async fn server_emit(socket: Socket, args: RawArgs) -> Result<bool, ErrorReply> {
    let (name, args): (String, _) = args
        .split_first()
        .map_err(|error| ErrorReply::new(error.to_string()))?;
    select(&socket, &[])
        .server_side_emit(&name, args)
        .map_err(|error| ErrorReply::new(error.to_string()))?;
    Ok(true)
}

async fn server_ask(
    socket: Socket,
    Args((name, arg)): Args<(String, Value)>,
) -> Result<Data<Vec<Value>>, ErrorReply> {
    let answers = select(&socket, &[])
        .server_side_emit_with_ack(&name, arg)
        .await;
    answers
        .map(Data)
        .map_err(|error| ErrorReply::new(error.to_string()))
}

async fn join(socket: Socket, Args((rooms, room)): Args<(Vec<String>, String)>) -> bool {
    select(&socket, &rooms).join(room);
    true
}

async fn leave(socket: Socket, Args((rooms, room)): Args<(Vec<String>, String)>) -> bool {
    select(&socket, &rooms).leave(room);
    true
}

async fn disconnect(socket: Socket, Args((rooms, close)): Args<(Vec<String>, bool)>) -> bool {
    match close {
        true => select(&socket, &rooms).close(),
        false => select(&socket, &rooms).disconnect(),
    }
    true
}

async fn count(io: SocketIo) -> Result<Data<usize>, ErrorReply> {
    let count = io.server_count().await;
    count
        .map(Data)
        .map_err(|error| ErrorReply::new(error.to_string()))
}

async fn time_fetch(socket: Socket, Data(rooms): Data<Vec<String>>) -> Data<(f64, usize)> {
    let begin = Instant::now();
    let sockets = select(&socket, &rooms).fetch_sockets().await;
    let time = begin.elapsed().as_secs_f64() * 1000.0;
    Data((time, sockets.map_or(0, |sockets| sockets.len())))
}

async fn status(io: SocketIo) -> Data<Value> {
    let status = io.cluster().map(|cluster| cluster.status());
    let status = status.unwrap_or_default();
    Data(json!({
        "is_connected": status.is_connected,
        "reason": status.reason,
        "queued_bytes": status.queued_bytes,
        "queued": status.queued,
        "published": status.published,
        "unconfirmed": status.unconfirmed,
        "dropped": status.dropped,
        "received": status.received,
        "malformed": status.malformed,
        "gaps": status.gaps,
        "questions": status.questions,
    }))
}

fn described(socket: &Socket) -> Value {
    json!({
        "id": socket.id().as_str(),
        "rooms": socket.rooms(),
        "data": socket.data::<Value>(),
        "recovered": socket.recovered(),
    })
}

async fn me(socket: Socket) -> Data<Value> {
    Data(described(&socket))
}

async fn local(socket: Socket, Data(rooms): Data<Vec<String>>) -> Data<Value> {
    let sockets = select(&socket, &rooms).sockets();
    Data(sockets.iter().map(described).collect())
}

async fn subscribe(socket: Socket, Data(rooms): Data<Vec<String>>) -> bool {
    for room in &rooms {
        socket.join(room);
    }
    true
}

async fn join_after(socket: Socket, args: RawArgs) -> Result<bool, ErrorReply> {
    let invalid = |error: tower_socketio::protocol::ReadError| ErrorReply::new(error.to_string());
    let (room, args): (String, _) = args.split_first().map_err(invalid)?;
    let (name, args): (String, _) = args.split_first().map_err(invalid)?;
    select(&socket, &[]).to(&room).emit(&name, args);
    socket.join(room);
    Ok(true)
}

async fn set_data(socket: Socket, Data(data): Data<Value>) -> Result<bool, ErrorReply> {
    let stored = socket.set_data(data);
    stored.map_err(|error| ErrorReply::new(error.to_string()))?;
    Ok(true)
}

async fn to_me(socket: Socket, args: RawArgs) -> Result<bool, ErrorReply> {
    let (name, args): (String, _) = args
        .split_first()
        .map_err(|error| ErrorReply::new(error.to_string()))?;
    socket.emit(&name, args);
    Ok(true)
}

async fn ask_me(
    socket: Socket,
    Args((name, arg)): Args<(String, Value)>,
) -> Result<Data<Value>, ErrorReply> {
    let answer = socket.emit_with_ack::<Value>(&name, arg).await;
    answer
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
