//! A session that expires while its client is connected: `cargo run --example session_expiry`
//!
//! A token is valid for a minute, or for SESSION_SECONDS. Before it ends, the client gets a new one
//! and signs in again by an event. Otherwise it is disconnected:
//!
//! ```text
//! const login = async () => (await fetch("/login", { method: "POST", body: "ada" })).text();
//! const socket = io("http://localhost:3000", { auth: async (send) => send({ token: await login() }) });
//! socket.on("sign_in_again", async ({ expiresInMs }) => {
//!   await socket.emitWithAck("sign_in", { token: await login() });
//! });
//! // A client that did not: it is disconnected, and may connect again with a new token.
//! socket.on("signed_out", () => socket.once("disconnect", () => socket.connect()));
//! ```

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::{Extension, Router, routing::post};
use serde::Deserialize;
use tower_socketio::{Auth, Data, ErrorReply, Expiry, Namespace, Socket, SocketIo};

/// The tokens. An application has signed ones, such as JWTs, or a table of sessions.
#[derive(Clone)]
struct Tokens {
    valid_for: Duration,
    next: Arc<AtomicU32>,
    issued: Arc<Mutex<HashMap<String, Token>>>,
}

#[derive(Clone)]
struct Token {
    user: String,
    expires: Instant,
}

impl Tokens {
    fn issue(&self, user: String) -> String {
        let mut issued = self.issued.lock().unwrap();
        issued.retain(|_, token| token.expires > Instant::now());
        // A real one cannot be guessed.
        let text = format!("{user}-{}", self.next.fetch_add(1, Ordering::Relaxed));
        let expires = Instant::now() + self.valid_for;
        issued.insert(text.clone(), Token { user, expires });
        text
    }

    /// Returns the user of a token, and how long the token is valid.
    fn check(&self, text: &str) -> Result<(User, Duration), ErrorReply> {
        let issued = self.issued.lock().unwrap();
        let invalid = || ErrorReply::new("sign in").with_data(401);
        let token = issued.get(text).ok_or_else(invalid)?;
        let rest = token.expires.saturating_duration_since(Instant::now());
        match rest.is_zero() {
            true => Err(invalid()),
            false => Ok((User(token.user.clone()), rest)),
        }
    }
}

#[derive(Clone, PartialEq)]
struct User(String);

#[derive(Deserialize)]
struct SignIn {
    token: String,
}

#[tokio::main]
async fn main() {
    let seconds = std::env::var("SESSION_SECONDS").ok();
    let seconds = seconds.map_or(60, |seconds| seconds.parse().unwrap());
    let tokens = Tokens {
        valid_for: Duration::from_secs(seconds),
        next: Arc::default(),
        issued: Arc::default(),
    };

    let namespace = Namespace::new()
        .on_connect(connect)
        .on("sign_in", sign_in)
        .on("who", who);
    let (layer, _io) = SocketIo::builder()
        .namespace("/", namespace)
        .with_state(tokens.clone())
        .build();

    let app = Router::new()
        .route("/login", post(login))
        .layer(layer)
        .with_state(tokens);

    let port = std::env::args().nth(1).unwrap_or_else(|| "3000".into());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}"));
    let listener = listener.await.unwrap();
    eprintln!("listening on http://{}", listener.local_addr().unwrap());
    axum::serve(listener, app).await.unwrap();
}

/// A real one asks for a password.
async fn login(State(tokens): State<Tokens>, user: String) -> String {
    tokens.issue(user)
}

async fn connect(
    socket: Socket,
    State(tokens): State<Tokens>,
    Auth(sign_in): Auth<SignIn>,
) -> Result<(), ErrorReply> {
    let (user, rest) = tokens.check(&sign_in.token)?;
    socket.insert(user);
    socket.set_expiry(expiry(rest));
    Ok(())
}

/// The user signs in again, before the session ends.
async fn sign_in(
    socket: Socket,
    Extension(user): Extension<User>,
    State(tokens): State<Tokens>,
    Data(sign_in): Data<SignIn>,
) -> Result<(), ErrorReply> {
    let (signed_in, rest) = tokens.check(&sign_in.token)?;
    if signed_in != user {
        return Err(ErrorReply::new("another user"));
    }
    socket.set_expiry(expiry(rest));
    Ok(())
}

/// The session ends with the token. The client is reminded after half of the time.
fn expiry(rest: Duration) -> Expiry {
    Expiry::after(rest)
        .reminder("sign_in_again", rest / 2)
        .last_event("signed_out")
}

async fn who(Extension(User(name)): Extension<User>) -> String {
    name
}
