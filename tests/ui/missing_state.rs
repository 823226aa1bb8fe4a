use axum::extract::State;
use tower_socketio::{Namespace, SocketIo};

#[derive(Clone)]
struct App;

async fn handler(_: State<App>) {}

fn main() {
    let namespace: Namespace<App> = Namespace::new().on("event", handler);
    let _ = SocketIo::builder().namespace("/", namespace).build(); //~ `build`
}
