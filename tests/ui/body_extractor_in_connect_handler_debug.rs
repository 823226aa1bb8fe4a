use axum::Json;
use tower_socketio::debug_handler;

debug_handler! {
    on_connect,
    async fn handler(_: Json<String>) {}
}

fn main() {}
