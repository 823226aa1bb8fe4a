use axum::Json;
use tower_socketio::debug_handler;

debug_handler! {
    on_connect,
    async fn handler(_: Json<String>) {} //~ `Json<String>` is not an extractor of connect handlers
    //~| cannot be taken as a connect handler argument
    //~| use `Socket`, `SocketIo`, `Auth<T>`, `Params<T>`, or an extractor of axum that does not read the body
    //~| a type of your own has to implement `axum::extract::FromRequestParts`
}

fn main() {}
