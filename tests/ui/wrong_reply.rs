use tower_socketio::debug_handler;

struct Todo;

debug_handler! {
    async fn handler() -> Todo {
        Todo
    }
}

fn main() {}
