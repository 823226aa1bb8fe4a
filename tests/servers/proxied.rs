//! A server behind a proxy: `cargo run --example proxied PORT`.
//!
//! It sets the cookie by which HAProxy recognizes its server, and says which server it is.

use axum::Router;
use tokio::net::TcpListener;
use tower_socketio::{HttpOptions, Namespace, RawArgs, SessionCookie, SocketIo};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok());
    let port: u16 = port.expect("usage: proxied PORT");

    let namespace = Namespace::new()
        .on("which", async move || port)
        .on("echo", async |args: RawArgs| args);
    let (layer, _io) = SocketIo::builder()
        .namespace("/", namespace)
        .http(HttpOptions::new().cookie(SessionCookie::new("io")))
        .build();
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    axum::serve(listener, Router::new().layer(layer)).await
}
