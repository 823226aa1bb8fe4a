//! The servers of the differential tests: `cargo run --example differential NAME...`
//!
//! The program listens on one port for each named configuration, and prints `NAME=PORT`.
//! `tests/interop/differential/server.js` is its twin with Node's `socket.io`: it has the same
//! configurations, with the same handlers.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::timeout;
use tower_socketio::engine::{EngineLayer, EngineSocket, Message, Text};
use tower_socketio::protocol::MsgpackParser;
use tower_socketio::{
    AckError, AckSender, Args, Auth, Broadcast, Cors, Data, DisconnectReason, ErrorReply, Handler,
    HttpOptions, Namespace, NamespaceRequest, Origins, RawArgs, Recovery, SameSite, SessionCookie,
    Socket, SocketIo, SocketIoBuilder, Transport, Uncompressed,
};

/// Runs on one thread, as Node does, so that requests are handled in the order in which they
/// arrive.
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut servers = tokio::task::JoinSet::new();
    for name in std::env::args().skip(1) {
        let app = app(&name);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        writeln!(std::io::stdout(), "{name}={port}").expect("a reader");
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        servers.spawn(async move { axum::serve(listener, app).await });
    }
    while let Some(ended) = servers.join_next().await {
        ended.expect("no panic").expect("no error");
    }
}

fn app(name: &str) -> Router {
    if name == "engine" {
        let engine = EngineLayer::new(engine);
        return routes().layer(engine).with_state(Facts::default());
    }
    let facts = Facts::default();
    let builder = configure(name, SocketIo::builder())
        .namespace("/", namespace())
        .namespace("/chat", namespace())
        .namespace("/room-{name}", namespace())
        .namespace_if(is_allowed, namespace())
        .with_state(facts.clone());
    let (layer, _io) = builder.build();
    routes().layer(layer).with_state(facts)
}

/// Accepts `/allowed-…` from clients that send the right word.
async fn is_allowed(request: NamespaceRequest) -> bool {
    let auth: Value = request.auth().unwrap_or_default();
    request.name().starts_with("/allowed-") && auth["word"] == "please"
}

/// Applies the named configuration to a builder. The scripts use the same names.
fn configure(name: &str, builder: SocketIoBuilder<Facts>) -> SocketIoBuilder<Facts> {
    let ms = Duration::from_millis;
    match name {
        "default" | "alone" | "shutdown" => builder,
        "pings" => builder.ping_interval(ms(500)).ping_timeout(ms(30_000)),
        "short pings" => builder.ping_interval(ms(1000)).ping_timeout(ms(1500)),
        "small" => builder.max_payload(100),
        "connect" => builder.connect_timeout(ms(1500)),
        "upgrade" => builder.upgrade_timeout(ms(1500)),
        "polling" => builder.transports(&[Transport::Polling]),
        "websocket" => builder.transports(&[Transport::WebSocket]),
        "no upgrades" => builder.upgrades(false),
        "eio3" => builder
            .allow_eio3(true)
            .http(HttpOptions::new().jsonp(true)),
        "eio3 pings" => builder
            .allow_eio3(true)
            .ping_interval(ms(1000))
            .ping_timeout(ms(1500)),
        "recovery" => builder.recovery(Recovery::within(Duration::from_secs(120))),
        "msgpack" => builder.parser(MsgpackParser::default()),
        _ => builder.http(http_options(name)),
    }
}

fn http_options(name: &str) -> HttpOptions {
    let options = HttpOptions::new();
    match name {
        "any origin" => options.cors(Origins::any()),
        "some origins" => {
            let origins = Origins::list(["https://one.example", "https://two.example"]);
            let cors = Cors::new(origins)
                .allow_credentials(true)
                .allow_methods([Method::GET, Method::POST])
                .allow_headers([HeaderName::from_static("x-asked")])
                .expose_headers([HeaderName::from_static("x-told")])
                .max_age(Duration::from_secs(600));
            options.cors(cors)
        }
        "cookie" => options.cookie(SessionCookie::new("io")),
        "another cookie" => {
            let cookie = SessionCookie::new("sticky")
                .path("/there")
                .domain("example.com")
                .max_age(Duration::from_secs(60))
                .http_only(false)
                .secure(true)
                .same_site(SameSite::Strict);
            options.cookie(cookie)
        }
        "jsonp" => options.jsonp(true),
        "files" => options.serve_client("node_modules/socket.io-client/dist"),
        "hooks" => options
            .allow_request(|request| async move {
                match request.headers.get("x-blocked").map(HeaderValue::as_bytes) {
                    None => Ok(()),
                    Some(b"why") => Err("because"),
                    Some(_) => Err(""),
                }
            })
            .initial_headers(|headers, _| {
                headers.insert("x-first", HeaderValue::from_static("yes"));
                headers.append("set-cookie", HeaderValue::from_static("a=1"));
                headers.append("set-cookie", HeaderValue::from_static("b=2"));
            })
            .headers(|headers, _| {
                headers.insert("x-each", HeaderValue::from_static("yes"));
            }),
        _ => panic!("no configuration is called {name}"),
    }
}

fn namespace() -> Namespace<Facts> {
    Namespace::new()
        .on_connect(connect)
        .on_disconnect(leave)
        .on("sync", async || {})
        .on("echo", echo)
        .on("ack", async |args: RawArgs| args)
        .on("ack late", ack_late)
        .on("ack and emit", ack_and_emit)
        .on("no ack", async |_: AckSender| {})
        .on("ask", ask.concurrent())
        .on("ask for bytes", ask_for_bytes.concurrent())
        .on("ask all", ask_all.concurrent())
        .on("bytes", bytes)
        .on("many", many)
        .on("volatile", volatile)
        .on("join", join)
        .on("leave", part)
        .on("rooms", rooms)
        .on("say", say)
        .on("say bytes", say_bytes)
        .on("members", members)
        .on("move", move_members)
        .on("dismiss", dismiss)
        .on("disconnect me", disconnect_me)
        .on("disconnect me and speak", disconnect_me_and_speak)
        .on("recovered", async |socket: Socket| socket.recovered())
        .on("remember", remember)
        .on("recall", async |socket: Socket| {
            Data(socket.data::<Value>())
        })
        .on("plain", plain)
        .on("handshake", async |socket: Socket| Data(socket.handshake()))
        .on("transport", async |socket: Socket| {
            socket.transport().name()
        })
}

// Connect and disconnect.

/// What the connect handler does for this client.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Wishes {
    /// The gate that the handler waits for.
    gate: Option<String>,
    refuse: Option<String>,
    data: Option<Value>,
    join: Option<String>,
    greet: Option<Value>,
    /// Disconnects the socket; with `true` it closes the whole session.
    dismiss: Option<bool>,
}

async fn connect(
    socket: Socket,
    Auth(wishes): Auth<Wishes>,
    State(facts): State<Facts>,
) -> Result<(), ErrorReply> {
    if let Some(gate) = &wishes.gate {
        facts.set(format!("at/{gate}"), "");
        facts.wait(&format!("gate/{gate}")).await;
    }
    if let Some(refuse) = wishes.refuse {
        let refuse = ErrorReply::new(refuse);
        return Err(match wishes.data {
            Some(data) => refuse.with_data(data),
            None => refuse,
        });
    }
    if let Some(room) = wishes.join {
        socket.join(room);
    }
    if let Some(greet) = wishes.greet {
        socket.emit("hello", greet);
    }
    match wishes.dismiss {
        Some(true) => socket.close(),
        Some(false) => socket.disconnect(),
        None => {}
    }
    Ok(())
}

async fn leave(socket: Socket, reason: DisconnectReason, State(facts): State<Facts>) {
    facts.set(format!("reason/{}", socket.id()), reason.as_str());
}

async fn disconnect_me(socket: Socket, Data(close): Data<bool>) {
    socket.emit("bye", "first");
    if close {
        socket.close();
    } else {
        socket.disconnect();
    }
}

async fn disconnect_me_and_speak(socket: Socket) {
    socket.disconnect();
    socket.emit("bye", "too late");
}

// Events and acknowledgements.

async fn echo(socket: Socket, args: RawArgs) {
    socket.emit("echoed", args);
}

async fn ack_late(
    socket: Socket,
    Data(gate): Data<String>,
    State(facts): State<Facts>,
    ack: AckSender,
) {
    tokio::spawn(async move {
        facts.wait(&format!("gate/{gate}")).await;
        ack.send(Args(("late", socket.is_connected())));
    });
}

async fn ack_and_emit(socket: Socket) -> &'static str {
    socket.emit("before", Args(()));
    "answer"
}

#[derive(Deserialize)]
struct Ask {
    event: String,
    args: Vec<Value>,
    timeout: Option<u64>,
}

async fn ask(socket: Socket, Data(ask): Data<Ask>) {
    let mut question = socket.emit_with_ack::<Value>(&ask.event, Args(ask.args));
    if let Some(ms) = ask.timeout {
        question = question.timeout(Duration::from_millis(ms));
    }
    match question.await {
        Ok(answer) => socket.emit("answer", answer),
        Err(error) => socket.emit("no answer", why(&error)),
    }
}

async fn ask_for_bytes(socket: Socket) {
    match socket.emit_with_ack::<Bytes>("question", Args(())).await {
        Ok(bytes) => socket.emit("answer", bytes),
        Err(error) => socket.emit("no answer", why(&error)),
    }
}

async fn ask_all(socket: Socket, Args((target, timeout)): Args<(Say, u64)>) {
    let question = target
        .of(&socket)
        .emit_with_ack::<Value>(&target.event, Args(&target.args));
    let answers = question.timeout(Duration::from_millis(timeout)).await;
    let total = answers.len();
    let mut answers: Vec<_> = answers
        .into_iter()
        .filter_map(|(_, answer)| answer.ok())
        .collect();
    answers.sort_by_key(Value::to_string);
    socket.emit("answers", Args((answers.len() == total, answers)));
}

fn why(error: &AckError) -> &'static str {
    if error.is_timeout() {
        "timeout"
    } else {
        "gone"
    }
}

#[derive(Serialize)]
struct Nested {
    one: Bytes,
    many: Vec<Bytes>,
    text: &'static str,
}

async fn bytes(socket: Socket) {
    let nested = Nested {
        one: Bytes::from_static(b"\x01\x02"),
        many: vec![Bytes::from_static(b""), Bytes::from_static(b"\xff")],
        text: "é€😀",
    };
    socket.emit("bytes", Args((nested, Bytes::from_static(b"last"))));
}

async fn plain(socket: Socket, Data(length): Data<usize>) {
    socket.emit("plain", Uncompressed("x".repeat(length)));
}

async fn remember(socket: Socket, Data(value): Data<Value>) {
    socket.set_data(value).expect("it is JSON");
}

async fn many(socket: Socket, Data(count): Data<u32>) {
    for n in 0..count {
        socket.emit("n", n);
    }
}

async fn volatile(socket: Socket, Data(after): Data<bool>) {
    if after {
        socket.emit("first", Args(()));
    }
    socket.volatile().emit("volatile", Args(()));
}

// Rooms and broadcasts.

async fn join(socket: Socket, Data(rooms): Data<Vec<String>>) {
    rooms.iter().for_each(|room| socket.join(room));
}

async fn part(socket: Socket, Data(room): Data<String>) {
    socket.leave(room);
}

async fn rooms(socket: Socket) -> Data<Vec<String>> {
    let mut rooms = socket.rooms();
    rooms.sort();
    Data(rooms)
}

/// An event and its target.
#[derive(Deserialize)]
struct Say {
    event: String,
    #[serde(default)]
    args: Vec<Value>,
    #[serde(default)]
    to: Vec<String>,
    #[serde(default)]
    except: Vec<String>,
    /// Whether the sender is a recipient too.
    #[serde(default)]
    all: bool,
    #[serde(default)]
    volatile: bool,
}

impl Say {
    fn of(&self, socket: &Socket) -> Broadcast {
        self.narrow(if self.all {
            socket.everyone()
        } else {
            socket.broadcast()
        })
    }

    fn narrow(&self, everybody: Broadcast) -> Broadcast {
        let rooms = self.to.iter().fold(everybody, Broadcast::to);
        let some = self.except.iter().fold(rooms, Broadcast::except);
        if self.volatile { some.volatile() } else { some }
    }

    fn emit(&self, target: &Broadcast) {
        target.emit(&self.event, Args(&self.args));
    }
}

async fn say(socket: Socket, Data(say): Data<Say>) {
    say.emit(&say.of(&socket));
}

async fn say_bytes(socket: Socket, Args((room, bytes)): Args<(String, Bytes)>) {
    socket.to(room).emit("bytes", bytes);
}

async fn members(socket: Socket, Data(room): Data<Option<String>>) -> usize {
    let all = socket.everyone();
    room.map_or(all.clone(), |room| all.to(room))
        .sockets()
        .len()
}

async fn move_members(socket: Socket, Args((room, joined, left)): Args<(String, String, String)>) {
    let target = socket.everyone().to(room);
    target.join(joined);
    target.leave(left);
}

async fn dismiss(socket: Socket, Args((room, close)): Args<(String, bool)>) {
    let target = socket.everyone().to(room);
    if close {
        target.close();
    } else {
        target.disconnect();
    }
}

// Engine.IO alone.

async fn engine(mut socket: EngineSocket) {
    while let Some(message) = socket.recv().await {
        match &message {
            Message::Text(text) if text.as_str() == "close" => return,
            Message::Text(text) if text.as_str() == "data, then close" => {
                socket.send(Text::from("some").into());
                socket.send(Text::from("data").into());
                return;
            }
            _ => socket.send(message),
        }
    }
}

// HTTP routes for the tests: they read facts, open gates, and act on sockets.

/// Named facts that tests can wait for: the reason of a disconnect, an open gate.
#[derive(Clone, Default)]
struct Facts(Arc<(Mutex<HashMap<String, String>>, Notify)>);

impl Facts {
    fn set(&self, name: String, value: &str) {
        self.0.0.lock().unwrap().insert(name, value.to_owned());
        self.0.1.notify_waiters();
    }

    fn get(&self, name: &str) -> Option<String> {
        self.0.0.lock().unwrap().get(name).cloned()
    }

    /// Waits until the fact is set, and returns it.
    async fn wait(&self, name: &str) -> String {
        loop {
            let changed = self.0.1.notified();
            if let Some(value) = self.get(name) {
                return value;
            }
            changed.await;
        }
    }
}

fn routes() -> Router<Facts> {
    Router::new()
        .route("/control/ping", any(async || "pong"))
        .route("/control/fact/{*name}", get(fact))
        .route("/control/open/{gate}", post(open))
        .route("/control/say", post(say_from_outside))
        .route("/control/socket/{id}/{action}", post(act))
        .route("/control/close", post(close))
}

async fn fact(Path(name): Path<String>, State(facts): State<Facts>) -> (StatusCode, String) {
    match timeout(Duration::from_secs(20), facts.wait(&name)).await {
        Ok(value) => (StatusCode::OK, value),
        Err(_) => (StatusCode::NOT_FOUND, String::new()),
    }
}

async fn open(Path(gate): Path<String>, State(facts): State<Facts>) {
    facts.set(format!("gate/{gate}"), "");
}

#[derive(Deserialize)]
struct Where {
    #[serde(default = "main_namespace")]
    of: String,
}

fn main_namespace() -> String {
    "/".to_owned()
}

async fn say_from_outside(io: SocketIo, Query(place): Query<Where>, Json(say): Json<Say>) {
    say.emit(&say.narrow(io.of(&place.of)));
}

async fn act(
    io: SocketIo,
    Path((id, action)): Path<(String, String)>,
    Query(place): Query<Where>,
) -> StatusCode {
    let sockets = io.of(&place.of).to(id).sockets();
    let Some(socket) = sockets.first() else {
        return StatusCode::NOT_FOUND;
    };
    match action.as_str() {
        "disconnect" => socket.disconnect(),
        "close" => socket.close(),
        "emit" => socket.emit("from outside", 1),
        "volatile" => socket.volatile().emit("volatile", 1),
        "bytes" => bytes(socket.clone()).await,
        "emit and close" => {
            socket.emit("from outside", 1);
            socket.close();
        }
        _ => return StatusCode::BAD_REQUEST,
    }
    StatusCode::OK
}

async fn close(io: SocketIo) {
    tokio::spawn(async move { io.close().await });
}
