use axum::http::HeaderMap;
use tower_socketio::{Namespace, Socket};

async fn handler(_: Socket, _: HeaderMap) {}

fn main() {
    let _: Namespace = Namespace::new().on("event", handler);
}
