use tower_socketio::Namespace;

fn main() {
    let _: Namespace = Namespace::new().on("event", "handler"); //~ `&str` is not a handler here
    //~| not a handler
    //~| a handler is an `async fn` whose arguments are extractors, at most eight, and which returns a type that implements `IntoReply`
    //~| put `debug_handler! { … }` around the definition to see which part does not fit: `debug_handler! { async fn kick(…) { … } }`
}
