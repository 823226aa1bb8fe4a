use tower_socketio::Socket;

struct Todo;

async fn handler(socket: Socket) {
    socket.emit("todo", Todo);
}

fn main() {
    let _ = handler;
}
