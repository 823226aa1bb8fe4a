//! Tower layers around events and around HTTP requests: `cargo run --example middleware`
//!
//! An admin connects with `io("http://localhost:3000/admin", { auth: { token: "sesame" } })`. A
//! report takes as many milliseconds as the client asks for: `await socket.emitWithAck("report", 500)`.
//! While 2 reports run, a further one gets `{ error: "overloaded" }`, and one that takes more than
//! 2 seconds `{ error: "timed out" }`.
//!
//! The layers need the features `limit`, `load-shed` and `timeout` of `tower`.

use std::time::{Duration, Instant};

use axum::Router;
use serde::Deserialize;
use tower::ServiceBuilder;
use tower::limit::ConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;
use tower::timeout::TimeoutLayer;
use tower_http::{cors::CorsLayer, trace::TraceLayer};
use tower_socketio::middleware::{self, Next};
use tower_socketio::{Auth, Data, ErrorReply, Event, Handler, Namespace, Reply, Socket, SocketIo};

#[derive(Deserialize)]
struct Login {
    token: Option<String>,
}

#[derive(Clone)]
struct Admin;

#[tokio::main]
async fn main() {
    // An event passes them from top to bottom.
    let busy = ServiceBuilder::new()
        // refuses an event at once, which would wait for the limit otherwise
        .layer(LoadShedLayer::new())
        .layer(ConcurrencyLimitLayer::new(2))
        .layer(TimeoutLayer::new(Duration::from_secs(2)));

    let admin = Namespace::new()
        // around one event
        .on("report", report.layer(busy))
        .on("ban", ban)
        // around the events above
        .layer(middleware::from_fn(require_admin))
        .on_connect(connect)
        // around the events and the connect handler
        .layer(TimeoutLayer::new(Duration::from_secs(30)))
        .layer(middleware::from_fn(log));
    let (layer, _io) = SocketIo::builder().namespace("/admin", admin).build();

    let app = Router::new()
        .layer(layer)
        // around the HTTP requests: the handshake and long-polling
        .layer(CorsLayer::permissive())
        .layer(TraceLayer::new_for_http());

    let port = std::env::args().nth(1).unwrap_or_else(|| "3000".into());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}"));
    let listener = listener.await.unwrap();
    eprintln!("listening on http://{}", listener.local_addr().unwrap());
    axum::serve(listener, app).await.unwrap();
}

async fn log(event: Event, next: Next) -> Reply {
    let name = event.name().to_owned();
    let started = Instant::now();
    let reply = next.run(event).await;
    eprintln!(
        "{name} took {:?}, failed: {}",
        started.elapsed(),
        reply.is_err()
    );
    reply
}

async fn require_admin(event: Event, next: Next) -> Result<Reply, ErrorReply> {
    if event.socket().extension::<Admin>().is_none() {
        return Err(ErrorReply::new("admins only"));
    }
    Ok(next.run(event).await)
}

async fn connect(socket: Socket, Auth(login): Auth<Login>) {
    if login.token.as_deref() == Some("sesame") {
        socket.insert(Admin);
    }
}

async fn report(io: SocketIo, Data(milliseconds): Data<u64>) -> u64 {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    io.counts().sockets as u64
}

async fn ban(socket: Socket, Data(id): Data<String>) {
    socket.to(id).disconnect();
}
