//! State, and one extractor for HTTP routes and for sockets:
//! `cargo run --example state_and_auth`
//!
//! ```text
//! curl -H 'authorization: Bearer sesame' http://localhost:3000/me
//! curl --json '"it rains"' http://localhost:3000/publish
//! io("http://localhost:3000", { extraHeaders: { authorization: "Bearer sesame" } })
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::extract::{FromRef, FromRequestParts, State};
use axum::http::{StatusCode, header, request::Parts};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::Serialize;
use tower_socketio::{Data, Namespace, Socket, SocketIo};

#[derive(Clone)]
struct App {
    db: Db,
}

/// The names of users, by token.
#[derive(Clone)]
struct Db(Arc<Mutex<HashMap<String, String>>>);

impl FromRef<App> for Db {
    fn from_ref(app: &App) -> Self {
        app.db.clone()
    }
}

#[derive(Clone, Serialize)]
struct User {
    #[serde(skip)]
    token: String,
    name: String,
}

/// An ordinary axum extractor. It does not know about sockets.
impl<S> FromRequestParts<S> for User
where
    Db: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, StatusCode> {
        let Db(names) = Db::from_ref(state);
        let header = parts.headers.get(header::AUTHORIZATION);
        let token = header
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
            .ok_or(StatusCode::UNAUTHORIZED)?;
        let name = names.lock().unwrap().get(token).cloned();
        Ok(Self {
            token: token.to_owned(),
            name: name.ok_or(StatusCode::UNAUTHORIZED)?,
        })
    }
}

#[tokio::main]
async fn main() {
    let names = HashMap::from([("sesame".to_owned(), "ada".to_owned())]);
    let state = App {
        db: Db(Arc::new(Mutex::new(names))),
    };

    let namespace = Namespace::new().on_connect(connect).on("rename", rename);
    let (layer, _io) = SocketIo::builder()
        .namespace("/", namespace)
        .with_state(state.clone())
        .build();

    let app = Router::new()
        .route("/me", get(me))
        .route("/publish", post(publish))
        .layer(layer)
        .with_state(state);

    let port = std::env::args().nth(1).unwrap_or_else(|| "3000".into());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}"));
    let listener = listener.await.unwrap();
    eprintln!("listening on http://{}", listener.local_addr().unwrap());
    axum::serve(listener, app).await.unwrap();
}

/// An HTTP route that uses the extractor.
async fn me(user: User) -> Json<User> {
    Json(user)
}

/// A connect handler that uses the same extractor. If `User` rejects the request, the client gets
/// `connect_error`.
async fn connect(socket: Socket, user: User) {
    socket.join(format!("user:{}", user.name));
    socket.join("news");
    socket.insert(user);
}

async fn rename(
    Extension(user): Extension<User>,
    State(Db(names)): State<Db>,
    Data(name): Data<String>,
) {
    names.lock().unwrap().insert(user.token, name);
}

/// Any HTTP route can send events to sockets.
async fn publish(io: SocketIo, Json(news): Json<String>) -> StatusCode {
    io.to("news").emit("news", news);
    StatusCode::ACCEPTED
}
