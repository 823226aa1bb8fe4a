//! Two servers as one, on one Redis:
//! `cargo run --features redis --example cluster [PORT [REDIS_URL]]`.
//!
//! The servers listen at PORT and the port after it. Open the page of each: it shows its server, and
//! both pages show each message. The button closes the server of a page for ten seconds. Its page comes
//! back to the other server as the socket that it was, with the messages of the meantime. Debian's
//! package `redis-server` is enough.

#[path = "chat/client.rs"]
mod client;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::response::Html;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tower_http::services::ServeFile;
use tower_socketio::cluster::{Mode, Redis, Streams};
use tower_socketio::{Args, Data, Namespace, Origins, Recovery, Socket, SocketIo};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let port = args.next().as_deref().unwrap_or("3000").parse::<u16>()?;
    let url = args.next().unwrap_or("redis://127.0.0.1".to_owned());
    // With streams a client may come back to any server.
    let mode = Mode::Streams(Streams::new());
    let redis = Redis::options(&url).mode(mode).connect().await?;
    // Each server has connections of its own, as in two processes.
    let servers = [port, port + 1].map(|own| {
        let (redis, pages) = (redis.clone(), [port, port + 1]);
        async move {
            // After the button it starts again.
            while serve(own, pages, redis.clone()).await? {
                eprintln!("the server at port {own} is closed for ten seconds");
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
            std::io::Result::Ok(())
        }
    });
    let [first, second] = servers;
    tokio::try_join!(first, second)?;
    Ok(())
}

/// Serves until Ctrl-C or the button. Returns whether it was the button.
async fn serve(port: u16, pages: [u16; 2], redis: Redis) -> std::io::Result<bool> {
    let connect = async move |socket: Socket| {
        socket.emit("server", Args((port, socket.recovered())));
    };
    let button = Arc::new(Notify::new());
    let pressed = Arc::clone(&button);
    let close = async move || pressed.notify_one();
    // `everyone` are the clients of both servers.
    let say = async move |socket: Socket, Data(text): Data<String>| {
        socket.everyone().emit("said", Args((port, text)));
    };
    let namespace = Namespace::new()
        .on_connect(connect)
        .on("say", say)
        .on("close", close)
        .on("count", async |io: SocketIo| {
            match io.fetch_sockets().await {
                Ok(sockets) => sockets.len(),
                Err(partial) => partial.got.len(),
            }
        });
    let (layer, io) = SocketIo::builder()
        .namespace("/", namespace)
        .cluster(redis)
        .recovery(Recovery::within(Duration::from_secs(120)))
        // The page of one server comes back to the other.
        .cors(Origins::list(
            pages.map(|port| format!("http://127.0.0.1:{port}")),
        ))
        .build();
    let page = PAGE.replace("PORTS", &format!("{}, {}", pages[0], pages[1]));
    let app = Router::new()
        .route("/", get(Html(page)))
        .route_service("/socket.io.min.js", ServeFile::new(client::bundle()))
        .layer(layer);
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    eprintln!("listening on http://{}", listener.local_addr()?);
    let is_pressed = Arc::new(AtomicBool::new(false));
    let pressed = Arc::clone(&is_pressed);
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                () = button.notified() => pressed.store(true, Ordering::Relaxed),
            }
            io.close().await;
        })
        .await?;
    Ok(is_pressed.load(Ordering::Relaxed))
}

const PAGE: &str = r#"<!doctype html>
<meta charset="utf-8">
<title>Two servers as one</title>
<h1>Connected to server <span id="server">…</span></h1>
<p>The socket <b id="id">…</b> <span id="recovered"></span></p>
<form><input autofocus placeholder="Say something"> <button>Say</button></form>
<p><button id="close">Close this server for ten seconds</button></p>
<ul></ul>
<script src="/socket.io.min.js"></script>
<script>
const ports = [PORTS];
const socket = io();
const [form] = document.forms;
const text = (id, value) => (document.getElementById(id).textContent = value);
// If its server is away, the page tries the other one.
let at = ports.indexOf(Number(location.port));
socket.io.on("reconnect_attempt", () => {
  at = (at + 1) % ports.length;
  socket.io.uri = `http://127.0.0.1:${ports[at]}`;
});
socket.on("server", (port, recovered) => {
  text("server", port);
  text("id", socket.id);
  text("recovered", recovered ? "came back to this server" : "is new");
});
document.getElementById("close").onclick = () => socket.emit("close");
socket.on("said", (port, text) => {
  const item = document.createElement("li");
  item.textContent = `${port}: ${text}`;
  document.querySelector("ul").append(item);
});
form.onsubmit = (event) => {
  event.preventDefault();
  socket.emit("say", form[0].value);
  form.reset();
};
</script>
"#;
