//! Two servers as one, on one Redis:
//! `cargo run --features redis --example cluster [PORT [REDIS_URL]]`.
//!
//! The servers listen at PORT and the port after it. Open the page of each: it shows its server, and
//! both pages show each message. Debian's package `redis-server` is enough.

#[path = "chat/client.rs"]
mod client;

use axum::Router;
use axum::response::Html;
use axum::routing::get;
use tokio::net::TcpListener;
use tower_http::services::ServeFile;
use tower_socketio::cluster::Redis;
use tower_socketio::{Args, Data, Namespace, Socket, SocketIo};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let port = args.next().as_deref().unwrap_or("3000").parse::<u16>()?;
    let url = args.next().unwrap_or("redis://127.0.0.1".to_owned());
    // Each server has connections of its own, as in two processes.
    let redis = Redis::connect(&url).await?;
    tokio::try_join!(serve(port, redis.clone()), serve(port + 1, redis))?;
    Ok(())
}

async fn serve(port: u16, redis: Redis) -> std::io::Result<()> {
    let connect = async move |socket: Socket| socket.emit("server", port);
    // `everyone` are the clients of both servers.
    let say = async move |socket: Socket, Data(text): Data<String>| {
        socket.everyone().emit("said", Args((port, text)));
    };
    let namespace =
        Namespace::new()
            .on_connect(connect)
            .on("say", say)
            .on("count", async |io: SocketIo| {
                match io.fetch_sockets().await {
                    Ok(sockets) => sockets.len(),
                    Err(partial) => partial.got.len(),
                }
            });
    let (layer, io) = SocketIo::builder()
        .namespace("/", namespace)
        .cluster(redis)
        .build();
    let app = Router::new()
        .route("/", get(Html(PAGE)))
        .route_service("/socket.io.min.js", ServeFile::new(client::bundle()))
        .layer(layer);
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    eprintln!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            tokio::signal::ctrl_c().await.ok();
            io.close().await;
        })
        .await
}

const PAGE: &str = r#"<!doctype html>
<meta charset="utf-8">
<title>Two servers as one</title>
<h1>Connected to server <span id="server">…</span></h1>
<form><input autofocus placeholder="Say something"> <button>Say</button></form>
<ul></ul>
<script src="/socket.io.min.js"></script>
<script>
const socket = io();
const [form] = document.forms;
socket.on("server", (port) => (document.querySelector("span").textContent = port));
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
