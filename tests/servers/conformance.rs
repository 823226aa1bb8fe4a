//! Servers for the official test suites: `cargo run --example conformance [PORT…]`.
//!
//! | port | | |
//! |---|---|---|
//! | 3000 | A | Engine.IO alone, at `/engine.io/` |
//! | 3001 | C | Socket.IO, at `/socket.io/` |
//! | 3002 | B | like A, also for Socket.IO 2 clients |
//! | 3003 | | Socket.IO, also for Socket.IO 2 clients |
//! | 3004 | E | Engine.IO for the tests of `engine.io-client`, at `/engine.io/` |
//! | 3210 | D | Socket.IO for the tests of `socket.io-client`, with recovery |
//!
//! With ports as arguments, the program starts that number of servers, in this order. The
//! environment variables `PING_INTERVAL`, `PING_TIMEOUT` and `CONNECT_TIMEOUT` configure the first
//! four, in milliseconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower_http::cors::CorsLayer;
use tower_socketio::engine::{Config, EngineLayer, EngineSocket, Message, Text};
use tower_socketio::{
    AckSender, Args, Auth, Data, ErrorReply, Handler, HttpOptions, Namespace, RawArgs, Recovery,
    Socket, SocketIo,
};

/// Runs on one thread, so that requests are handled in the order in which they arrive.
#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let apps = [
        (3000, engine_app(false)),
        (3001, socket_app()),
        (3002, engine_app(true)),
        (3003, version_2_app()),
        (3004, engine_client_app()),
        (3210, socket_client_app()),
    ];
    let ports = std::env::args().skip(1);
    let mut ports: Vec<u16> = ports
        .map(|port| port.parse().expect("a port is a number"))
        .collect();
    if ports.is_empty() {
        ports = apps.iter().map(|(port, _)| *port).collect();
    }
    let servers = ports.into_iter().zip(apps).flat_map(|(port, (_, app))| {
        // Clients may resolve `localhost` to either address.
        ["127.0.0.1", "::1"].map(|host| serve(host, port, app.clone()))
    });
    futures_util::future::try_join_all(servers).await?;
    Ok(())
}

async fn serve(host: &str, port: u16, app: Router) -> std::io::Result<()> {
    axum::serve(TcpListener::bind((host, port)).await?, app).await
}

fn ping_interval() -> Duration {
    millis("PING_INTERVAL", 300)
}

fn ping_timeout() -> Duration {
    millis("PING_TIMEOUT", 200)
}

fn millis(name: &str, default: u64) -> Duration {
    let given = std::env::var(name).ok();
    let given = given.map(|ms| ms.parse().expect("it is a number of milliseconds"));
    Duration::from_millis(given.unwrap_or(default))
}

fn engine_app(allow_eio3: bool) -> Router {
    let mut config = Config::default();
    config.ping_interval = ping_interval();
    config.ping_timeout = ping_timeout();
    config.allow_eio3 = allow_eio3;
    let engine = EngineLayer::builder(echo).config(config).build();
    Router::new().layer(engine).layer(CorsLayer::permissive())
}

async fn echo(mut socket: EngineSocket) {
    while let Some(message) = socket.recv().await {
        socket.send(message);
    }
}

fn socket_app() -> Router {
    let main = Namespace::new()
        .on_connect(connect)
        .on("message", message)
        .on("message-with-ack", message_with_ack);
    let (layer, _io) = SocketIo::builder()
        .namespace("/", main)
        .namespace("/custom", Namespace::new().on_connect(connect))
        .ping_interval(ping_interval())
        .ping_timeout(ping_timeout())
        .connect_timeout(millis("CONNECT_TIMEOUT", 1000))
        .build();
    Router::new().layer(layer).layer(CorsLayer::permissive())
}

async fn connect(socket: Socket, Auth(auth): Auth<serde_json::Value>) {
    socket.emit("auth", auth);
}

async fn message(socket: Socket, args: RawArgs) {
    socket.emit("message-back", args);
}

async fn message_with_ack(args: RawArgs) -> RawArgs {
    args
}

/// The app for the tests with Socket.IO 2 clients.
fn version_2_app() -> Router {
    let main = Namespace::new()
        .on_connect(refuse_if_asked)
        .on("id", async |socket: Socket| socket.id().to_string())
        .on("message", message)
        .on("message-with-ack", message_with_ack)
        .on("ask", async |socket: Socket, args: RawArgs| {
            let answer = socket.emit_with_ack::<Bytes>("question", args).await;
            answer.map_err(|error| error.to_string())
        })
        .on("leave", async |socket: Socket| socket.disconnect());
    let custom = Namespace::new()
        .on_connect(connect)
        .on("message-with-ack", message_with_ack);
    let (layer, _io) = SocketIo::builder()
        .namespace("/", main)
        .namespace("/custom", custom)
        .namespace("/refused", Namespace::new().on_connect(refuse))
        .ping_interval(ping_interval())
        .ping_timeout(ping_timeout())
        .allow_eio3(true)
        .build();
    Router::new().layer(layer).layer(CorsLayer::permissive())
}

/// Refuses a client that asks for it in the query of the handshake.
async fn refuse_if_asked(uri: Uri) -> Result<(), ErrorReply> {
    match uri.query().is_some_and(|query| query.contains("refuse=1")) {
        true => Err(ErrorReply::new("not today")),
        false => Ok(()),
    }
}

async fn refuse(Auth(auth): Auth<serde_json::Value>) -> Result<(), ErrorReply> {
    let refuse = ErrorReply::new("not authorized");
    Err(match auth.get("code") {
        Some(code) => refuse.with_data(serde_json::json!({ "code": code })),
        None => refuse,
    })
}

/// The delay of each handshake: the tests with a timeout of 0 need a slow server.
const DELAY: Duration = Duration::from_millis(10);

fn socket_client_app() -> Router {
    let id = async |socket: Socket| Data(socket.id());
    let main = Namespace::new()
        .on_connect(refuse_if_it_fails)
        .on("hi", async |socket: Socket| socket.emit("hi", Args(())))
        .on("echo", async |Data(value): Data<Value>| Data(value))
        .on("ack", ask.concurrent())
        .on("getAckDate", async || Data(NOW))
        .on("getDate", async |socket: Socket| {
            socket.emit("takeDate", NOW)
        })
        .on("getDateObj", async |socket: Socket| {
            socket.emit("takeDateObj", json!({ "date": NOW }));
        })
        .on("getUtf8", texts)
        .on("false", async |socket: Socket| socket.emit("false", false))
        .on("doge", async |socket: Socket| {
            socket.emit("doge", Bytes::from_static(b"asdfasdf"));
        })
        .on("buffa", async |socket: Socket, Data(_): Data<Bytes>| {
            socket.emit("buffack", Args(()));
        })
        .on("jsonbuff", mixed)
        .on(
            "abuff1",
            async |socket: Socket, Data(bytes): Data<Bytes>| {
                socket.insert(bytes);
            },
        )
        .on(
            "abuff2",
            async |socket: Socket, Extension(_): Extension<Bytes>| {
                socket.emit("abuff2-ack", Args(()));
            },
        )
        .on("getHandshake", async |socket: Socket| {
            Data(socket.handshake())
        })
        .on("getId", id)
        // All other events are never acknowledged.
        .fallback(async |_: AckSender| {});
    let abc = Namespace::new().on_connect(async |socket: Socket| {
        socket.emit("handshake", socket.handshake());
    });
    let no = Namespace::new()
        .on_connect(async || Err::<(), _>(ErrorReply::new("Auth failed (custom namespace)")));
    let http = HttpOptions::new().allow_request(|_| async {
        tokio::time::sleep(DELAY).await;
        Ok::<_, &str>(())
    });
    let (layer, _io) = SocketIo::builder()
        .namespace("/", main)
        .namespace("/foo", Namespace::new().on("getId", id))
        .namespace("/abc", abc)
        .namespace("/no", no)
        .namespace("/timeout_socket", Namespace::new())
        .namespace("/valid", Namespace::new())
        .namespace("/asd", Namespace::new())
        .ping_interval(Duration::from_secs(2))
        .http(http)
        .recovery(Recovery::within(Duration::from_secs(120)))
        .build();
    Router::new().layer(layer)
}

/// A date in JavaScript's JSON form.
const NOW: &str = "2026-11-23T12:00:00.000Z";

async fn refuse_if_it_fails(uri: Uri) -> Result<(), ErrorReply> {
    match uri.query().is_some_and(|query| query.contains("fail=")) {
        true => Err(ErrorReply::new("Auth failed (main namespace)")),
        false => Ok(()),
    }
}

/// Asks the client a question and does not acknowledge its event.
async fn ask(socket: Socket, _answer: AckSender) {
    if let Ok(5) = socket.emit_with_ack("ack", Args(())).await {
        socket.emit("got it", Args(()));
    }
}

async fn texts(socket: Socket) {
    for text in [
        "てすと",
        "Я Б Г Д Ж Й",
        "Ä ä Ü ü ß",
        "utf8 — string",
        "utf8 — string",
    ] {
        socket.emit("takeUtf8", text);
    }
}

async fn mixed(socket: Socket, Data(mixed): Data<Mixed>) {
    if mixed.hello == "lol" && !mixed.message.is_empty() && mixed.goodbye == "gotcha" {
        socket.emit("jsonbuff-ack", Args(()));
    }
}

#[derive(Deserialize)]
struct Mixed {
    hello: String,
    message: Bytes,
    goodbye: String,
}

/// The headers of each session's last POST.
type Posts = Arc<Mutex<HashMap<String, HeaderMap>>>;

fn engine_client_app() -> Router {
    let mut config = Config::default();
    config.ping_interval = Duration::from_millis(500);
    config.max_payload = 100;
    let http = HttpOptions::new()
        .allow_request(|request| async move {
            match request.uri.query().unwrap_or_default().contains("deny") {
                true => Err(""),
                false => Ok(()),
            }
        })
        .initial_headers(|headers, _| set_cookies(headers));
    let posts = Posts::default();
    let handler = {
        let posts = Arc::clone(&posts);
        move |socket| answer(socket, Arc::clone(&posts))
    };
    let builder = EngineLayer::builder(handler);
    Router::new()
        .layer(builder.config(config).http(http).build())
        .layer(from_fn_with_state(posts, keep_headers))
}

fn set_cookies(headers: &mut HeaderMap) {
    for cookie in [
        "1=1; Max-Age=86400",
        "2=2; Path=/; HttpOnly; Secure; SameSite=Strict",
        "3=3; Max-Age=0",
        "4=4; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
    ] {
        headers.append(header::SET_COOKIE, HeaderValue::from_static(cookie));
    }
}

async fn keep_headers(State(posts): State<Posts>, request: Request, next: Next) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let sid = query.split('&').find_map(|part| part.strip_prefix("sid="));
    if let Some(sid) = sid.filter(|_| request.method() == Method::POST) {
        let (sid, headers) = (sid.to_owned(), request.headers().clone());
        let mut posts = posts.lock().unwrap_or_else(PoisonError::into_inner);
        posts.insert(sid, headers);
    }
    next.run(request).await
}

async fn answer(mut socket: EngineSocket, posts: Posts) {
    let text = |text: &str| Message::from(Text::from(text));
    let sid = socket.id().expose().to_owned();
    let last = || {
        posts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&sid)
    };
    socket.send(text("hi"));
    while let Some(message) = socket.recv().await {
        socket.send(match &message {
            Message::Text(said) => match said.as_str() {
                "give binary" => Message::Binary(Bytes::from_static(&[0, 1, 2, 3, 4])),
                "give utf8" => text("пойду спать всем спокойной ночи"),
                "sendHeaders" => text(&json(&last().unwrap_or_default())),
                _ => message,
            },
            _ => message,
        });
    }
    last();
}

fn json(headers: &HeaderMap) -> String {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = headers
        .iter()
        .map(|(name, value)| (name.as_str(), text(value)));
    serde_json::Value::from_iter(headers).to_string()
}
