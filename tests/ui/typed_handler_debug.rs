use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use tower_socketio::{Socket, TypedEvent, debug_handler};

#[derive(Serialize, Deserialize)]
struct Confirm;

impl TypedEvent for Confirm {
    const NAME: &'static str = "confirm";
    type Reply = bool;
}

debug_handler! {
    typed,
    async fn no_typed_event(_: Socket) {}
}

debug_handler! {
    typed,
    async fn no_extractor(Confirm: Confirm, _: HeaderMap) -> bool {
        true
    }
}

debug_handler! {
    typed,
    async fn wrong_reply(_: Confirm) -> u32 {
        1
    }
}

debug_handler! {
    typed,
    async fn no_reply(_: Confirm) {}
}

fn main() {}
