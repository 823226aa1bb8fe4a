use tower_socketio::debug_handler;

struct Todo;

debug_handler! {
    async fn handler() -> Todo { //~ `Todo` cannot be returned by a handler
        //~| not a reply
        //~| return `Data<T>` for one argument that implements `serde::Serialize`, `Args<(A, B)>` for several
        //~| or implement `IntoReply`; the error of a `Result` needs it too
        Todo
    }
}

fn main() {}
