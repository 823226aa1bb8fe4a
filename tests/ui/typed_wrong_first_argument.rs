use tower_socketio::{Namespace, Socket};

async fn handler(_: Socket) {}

fn main() {
    let _: Namespace = Namespace::new().on_typed(handler);
}
