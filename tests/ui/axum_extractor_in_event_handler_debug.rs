use axum::http::HeaderMap;
use tower_socketio::{Socket, debug_handler};

debug_handler! {
    async fn handler(_: Socket, _: HeaderMap) {}
}

fn main() {}
