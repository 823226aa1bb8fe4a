use serde::{Deserialize, Serialize};
use tower_socketio::{Namespace, TypedEvent};

#[derive(Serialize, Deserialize)]
struct Double(u32);

impl TypedEvent for Double {
    const NAME: &'static str = "double";
    type Reply = u32;
}

async fn handler(Double(_): Double) -> String {
    String::new()
}

fn main() {
    let _: Namespace = Namespace::new().on_typed(handler); //~ is not a handler here
    //~| not a handler
    //~| a handler is an `async fn` whose arguments are extractors, at most eight, and which returns a type that implements `IntoReply`
    //~| put `debug_handler! { … }` around the definition to see which part does not fit: `debug_handler! { async fn kick(…) { … } }`
}
