use tower_socketio::Namespace;

fn main() {
    let _: Namespace = Namespace::new().on("event", "handler");
}
