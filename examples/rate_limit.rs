//! Limits how often clients may send and connect:
//! `cargo run --features rate-limit --example rate_limit`
//!
//! ```text
//! const socket = io("http://localhost:3000", { auth: { name: "ada" } });
//! await socket.emitWithAck("search", "tower");
//! // { error: "too many requests", data: { retryAfterMs: 12000 } }
//! ```

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use serde::Deserialize;
use tower_socketio::rate_limit::{RateLimit, RateLimitLayer};
use tower_socketio::{Auth, Data, Event, Handler, Namespace, Socket, SocketIo};

#[derive(Clone, Deserialize)]
struct User {
    name: String,
}

#[tokio::main]
async fn main() {
    // Each client: 20 events at once, and 10 in a second. A client that goes on is disconnected.
    let all = RateLimitLayer::per_socket(RateLimit::per_second(10).burst(20))
        .refusal_event("slow_down")
        .close_after(100, Duration::from_secs(10));
    // Each user, however many tabs: 5 searches in a minute.
    let search_limit = RateLimitLayer::per_key(RateLimit::per_minute(5), user_name);
    // Each address: 60 connects in a minute.
    let connects = RateLimitLayer::connects_per_key(RateLimit::per_minute(60), address);

    let namespace = Namespace::new()
        .on("say", say)
        .on("search", search.layer(search_limit))
        .layer(all)
        .on_connect(connect)
        .layer(connects);
    let (layer, _io) = SocketIo::builder().namespace("/", namespace).build();

    let app = Router::new()
        .layer(layer)
        .into_make_service_with_connect_info::<SocketAddr>();

    let port = std::env::args().nth(1).unwrap_or_else(|| "3000".into());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}"));
    let listener = listener.await.unwrap();
    eprintln!("listening on http://{}", listener.local_addr().unwrap());
    axum::serve(listener, app).await.unwrap();
}

/// The key of an event: the user that the connect handler has inserted.
fn user_name(event: &Event) -> Option<String> {
    event.socket().extension().map(|user: User| user.name)
}

/// The key of a connect: the address of the client.
fn address(event: &Event) -> Option<IpAddr> {
    let ConnectInfo(address) = event.socket().extension::<ConnectInfo<SocketAddr>>()?;
    Some(address.ip())
}

async fn connect(socket: Socket, Auth(user): Auth<User>) {
    socket.insert(user);
}

async fn say(socket: Socket, Data(text): Data<String>) {
    socket.broadcast().emit("said", text);
}

async fn search(Data(text): Data<String>) -> Vec<String> {
    vec![format!("all about {text}")]
}
