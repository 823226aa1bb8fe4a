use tower_socketio::Socket;

struct Todo;

async fn handler(socket: Socket) {
    socket.emit("todo", Todo); //~ `Todo` cannot be sent as arguments
    //~| not serializable
    //~| a value that implements `serde::Serialize` is one argument
    //~| use `Args((a, b))` for several arguments
}

fn main() {
    let _ = handler;
}
