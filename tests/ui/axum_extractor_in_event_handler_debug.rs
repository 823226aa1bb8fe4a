use axum::http::HeaderMap;
use tower_socketio::{Socket, debug_handler};

debug_handler! {
    async fn handler(_: Socket, _: HeaderMap) {} //~ `HeaderMap` is not an event extractor
    //~| cannot be taken as an event handler argument
    //~| use `Data<T>`, `Args<T>`, `Socket`, `SocketIo`, `State<T>`, `Extension<T>` or a type that implements `FromEvent`
    //~| extractors that read the HTTP request belong in the connect handler
}

fn main() {}
