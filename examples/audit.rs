//! An audit log: who did what, with which outcome: `cargo run --example audit`
//!
//! ```text
//! const socket = io("http://localhost:3000", { auth: { name: "ada" } });
//! await socket.emitWithAck("withdraw", 30);
//! await socket.emitWithAck("withdraw", 1000);
//! // ada withdraw [30] in 1 ms: ok
//! // ada withdraw [1000] in 0 ms: not enough money
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use serde::Deserialize;
use tower_socketio::middleware::{self, Next};
use tower_socketio::{Auth, Data, Event, Namespace, Reply, Socket, SocketIo};

#[derive(Clone, Deserialize)]
struct User {
    name: String,
}

/// A line of the log. It is written when it is dropped, so there is one also for a handler that
/// panics, or that a timeout ends.
struct Entry {
    socket: Socket,
    event: String,
    args: String,
    begun: Instant,
    outcome: String,
}

impl Entry {
    fn begin(event: &Event) -> Self {
        // The arguments of a connect are the client's `auth`, which may hold a password.
        let args = match event.is_connect() {
            true => String::new(),
            false => event.args().to_json(),
        };
        Self {
            socket: event.socket().clone(),
            event: event.name().to_owned(),
            args,
            begun: Instant::now(),
            outcome: "did not end".to_owned(),
        }
    }

    fn end(mut self, reply: &Reply) {
        self.outcome = match reply.error() {
            Some(error) => error.to_string(),
            None if reply.is_deferred() => "will be answered later".to_owned(),
            None => "ok".to_owned(),
        };
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // Read at the end, because the connect handler inserts it.
        let user = self.socket.extension::<User>();
        let name = user.map_or("nobody".to_owned(), |user| user.name);
        let milliseconds = self.begun.elapsed().as_millis();
        eprintln!(
            "{name} {} {} in {milliseconds} ms: {}",
            self.event, self.args, self.outcome
        );
    }
}

#[tokio::main]
async fn main() {
    let namespace = Namespace::new()
        .on_connect(connect)
        .on("withdraw", withdraw)
        // events without a handler are in the log too
        .fallback(unknown)
        .layer(middleware::from_fn(audit))
        .with_state(Arc::new(AtomicU32::new(100)));
    let (layer, _io) = SocketIo::builder().namespace("/", namespace).build();
    let app = Router::new().layer(layer);

    let port = std::env::args().nth(1).unwrap_or_else(|| "3000".into());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}"));
    let listener = listener.await.unwrap();
    eprintln!("listening on http://{}", listener.local_addr().unwrap());
    axum::serve(listener, app).await.unwrap();
}

async fn audit(event: Event, next: Next) -> Reply {
    let entry = Entry::begin(&event);
    let reply = next.run(event).await;
    entry.end(&reply);
    reply
}

async fn connect(socket: Socket, Auth(user): Auth<User>) {
    socket.insert(user);
}

async fn withdraw(
    State(money): State<Arc<AtomicU32>>,
    Data(amount): Data<u32>,
) -> Result<u32, &'static str> {
    let withdrawn = money.fetch_update(Ordering::AcqRel, Ordering::Acquire, |money| {
        money.checked_sub(amount)
    });
    withdrawn
        .map(|before| before - amount)
        .map_err(|_| "not enough money")
}

async fn unknown() -> Result<(), &'static str> {
    Err("there is no such event")
}
