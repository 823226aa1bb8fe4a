//! Sends an event to the clients of a cluster, from a process without sockets:
//! `cargo run --features redis --example emitter -- redis://127.0.0.1 EVENT TEXT [ROOM…]`.

use tower_socketio::cluster::{Emitter, Redis};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [url, event, text, rooms @ ..] = &args[..] else {
        return Err("usage: emitter REDIS_URL EVENT TEXT [ROOM…]".into());
    };
    let emitter = Emitter::new(Redis::connect(url).await?);
    // Without a room the event goes to all clients of the namespace `/`.
    let emitter = rooms.iter().fold(emitter, |emitter, room| emitter.to(room));
    emitter.emit(event, text).await?;
    Ok(())
}
