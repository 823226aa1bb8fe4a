//! State, and one extractor for HTTP routes and for sockets:
//! `cargo run --example state_and_auth`
//!
//! ```text
//! curl -H 'authorization: Bearer sesame' http://localhost:3000/me
//! curl --json '"it rains"' http://localhost:3000/publish
//! ```
//!
//! A program sends the token in a header, a page of this origin the cookie that `/login` has set. A
//! client with neither gets `connect_error` with the data `{ status: 401 }`:
//!
//! ```text
//! io("http://localhost:3000", { extraHeaders: { authorization: "Bearer sesame" } })
//!
//! await fetch("/login", { method: "POST", body: "sesame" });
//! io()
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::extract::{FromRef, FromRequestParts, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use axum::response::{AppendHeaders, IntoResponse};
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
        let token = bearer(&parts.headers).or_else(|| cookie(&parts.headers));
        let token = token.ok_or(StatusCode::UNAUTHORIZED)?;
        let name = names.lock().unwrap().get(token).cloned();
        Ok(Self {
            token: token.to_owned(),
            name: name.ok_or(StatusCode::UNAUTHORIZED)?,
        })
    }
}

/// Returns the token of the header `authorization`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    value.strip_prefix("Bearer ")
}

/// Returns the token of the cookie `session`.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let mut cookies = headers
        .get_all(header::COOKIE)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'));
    cookies.find_map(|cookie| cookie.trim().strip_prefix("session="))
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
        .route("/login", post(login))
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

/// Sets a cookie that only this origin's pages send, and no script can read.
async fn login(
    State(Db(names)): State<Db>,
    token: String,
) -> Result<impl IntoResponse, StatusCode> {
    if !names.lock().unwrap().contains_key(&token) {
        return Err(StatusCode::UNAUTHORIZED);
    }
    let cookie = format!("session={token}; HttpOnly; SameSite=Strict; Path=/");
    let cookie = HeaderValue::try_from(cookie).map_err(|_| StatusCode::UNAUTHORIZED)?;
    Ok(AppendHeaders([(header::SET_COOKIE, cookie)]))
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
