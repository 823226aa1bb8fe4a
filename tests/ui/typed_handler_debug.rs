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
    async fn no_typed_event(_: Socket) {} //~ `Socket` is not a typed event
    //~| does not name an event
    //~| the first argument of a handler given to `on_typed` implements `TypedEvent`
}

debug_handler! {
    typed,
    async fn no_extractor(Confirm: Confirm, _: HeaderMap) -> bool { //~ `HeaderMap` is not an event extractor
        //~| cannot be taken as an event handler argument
        //~| use `Data<T>`, `Args<T>`, `Socket`, `SocketIo`, `State<T>`, `Extension<T>` or a type that implements `FromEvent`
        //~| extractors that read the HTTP request belong in the connect handler
        true
    }
}

debug_handler! {
    typed,
    async fn wrong_reply(_: Confirm) -> u32 { //~ `u32` is not the reply of this typed event
        //~| should be `bool`, or a `Result` with it
        1
    }
}

debug_handler! { //~ `()` is not the reply of this typed event
    //~| should be `bool`, or a `Result` with it
    typed,
    async fn no_reply(_: Confirm) {}
}

fn main() {}
