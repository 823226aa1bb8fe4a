use std::sync::{Arc, Mutex};

use axum::Extension;
use tower_socketio::{Data, Socket, debug_handler};

debug_handler! { //~ future cannot be sent between threads safely
    //~| future returned by `add` is not `Send`
    //~| future is not `Send` as this value is used across an await
    async fn add(
        socket: Socket,
        Extension(sum): Extension<Arc<Mutex<u32>>>,
        Data(n): Data<u32>,
    ) -> u32 {
        let mut sum = sum.lock().unwrap();
        *sum += n;
        socket.drained().await;
        *sum
    }
}

debug_handler! { //~ future cannot be sent between threads safely
    //~| future returned by `connect` is not `Send`
    //~| future is not `Send` as this value is used across an await
    on_connect,
    async fn connect(socket: Socket) {
        let name = std::rc::Rc::new(socket.namespace().to_owned());
        socket.drained().await;
        drop(name);
    }
}

fn main() {}
