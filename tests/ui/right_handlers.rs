// Correct handlers compile, so the other programs fail for the reason that they state.

use axum::extract::State;
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use tower_socketio::{Data, Namespace, Socket, SocketIo, TypedEvent, debug_handler};

#[derive(Clone)]
struct App;

#[derive(Serialize, Deserialize)]
struct Double(u32);

impl TypedEvent for Double {
    const NAME: &'static str = "double";
    type Reply = u32;
}

debug_handler! {
    on_connect,
    async fn connect(_: Socket, _: HeaderMap) {}
}

debug_handler! {
    async fn event(socket: Socket, Data(text): Data<String>) -> String {
        socket.emit("event", Data(Double(2)));
        text
    }
}

async fn stateful(_: State<App>) {}

debug_handler! {
    typed,
    async fn double(Double(n): Double) -> u32 {
        2 * n
    }
}

fn main() {
    let namespace = Namespace::new()
        .on_connect(connect)
        .on("event", event)
        .on("stateful", stateful)
        .on_typed(double);
    let builder = SocketIo::builder().namespace("/", namespace);
    let _ = builder.with_state(App).build();
}
