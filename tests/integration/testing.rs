//! The test client, used as an application's tests would use it.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tower::ServiceBuilder;
use tower::util::MapRequestLayer;
use tower_socketio::testing::{Client, ConnectError, Disconnect};
use tower_socketio::{
    AckError, Args, Auth, Data, DisconnectReason, ErrorReply, Namespace, RawArgs, Socket, SocketIo,
};

fn app(namespace: Namespace) -> Router {
    let (layer, _io) = SocketIo::builder().namespace("/", namespace).build();
    Router::new().layer(layer)
}

async fn connect(namespace: Namespace) -> Client {
    Client::connect(&app(namespace), "/")
        .await
        .expect("it is let in")
}

async fn refusal(connect: impl IntoFuture<Output = Result<Client, ConnectError>>) -> ConnectError {
    connect.await.expect_err("it is refused")
}

#[tokio::test(start_paused = true)]
async fn a_handler_acknowledges_an_event() {
    let client = connect(Namespace::new().on("double", async |Data(n): Data<u32>| 2 * n)).await;
    let n: u32 = client.emit_with_ack("double", 21).await.expect("an answer");
    assert_eq!(n, 42);
    let error = client.emit_with_ack::<u32>("double", "x").await;
    assert!(error.is_err_and(|error| error.is_wrong_type()));
    let answer: Value = client
        .emit_with_ack("double", "x")
        .await
        .expect("an answer");
    assert!(answer["error"].is_string(), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn events_with_acks_are_sent_in_the_order_of_the_calls() {
    let client = connect(Namespace::new().on("n", async |Data(n): Data<u32>| n)).await;
    let first = client.emit_with_ack::<u32>("n", 1);
    let second = client.emit_with_ack::<u32>("n", 2);
    assert_eq!(second.await.expect("an answer"), 2);
    assert_eq!(first.await.expect("an answer"), 1);
}

#[tokio::test(start_paused = true)]
async fn events_are_received_with_their_arguments() {
    async fn say(socket: Socket, args: RawArgs) {
        socket.emit("said", args);
    }
    let mut client = connect(Namespace::new().on("say", say)).await;
    client.emit("say", Args((1, "two", Bytes::from_static(b"three"))));
    let mut said = client.recv().await.expect("an event");
    assert_eq!((said.name(), said.wants_ack()), ("said", false));
    let args: (u32, String, Bytes) = said.args();
    assert_eq!(args, (1, "two".to_owned(), Bytes::from_static(b"three")));
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_expected_leaves_others_for_later() {
    async fn greet(socket: Socket) {
        socket.emit("a", 1);
        socket.emit("b", 2);
        socket.emit("a", 3);
    }
    let mut client = connect(Namespace::new().on_connect(greet)).await;
    assert_eq!(client.expect("b").await.data::<u32>(), 2);
    assert_eq!(client.recv().await.expect("an event").data::<u32>(), 1);
    assert_eq!(client.expect("a").await.data::<u32>(), 3);
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "event `never`, expected at tests/integration/testing.rs:")]
async fn an_event_that_does_not_come_fails_the_test() {
    connect(Namespace::new()).await.expect("never").await;
}

#[tokio::test(start_paused = true)]
async fn an_event_of_the_server_is_acknowledged() {
    async fn ask(socket: Socket) -> Result<u32, &'static str> {
        let answer: Result<u32, AckError> = socket.emit_with_ack("question", "6 x 7?").await;
        answer.map_err(|_| "no answer")
    }
    let mut client = connect(Namespace::new().on("ask", ask)).await;
    let asked = client.emit_with_ack::<u32>("ask", ());
    let mut question = client.expect("question").await;
    assert!(question.wants_ack());
    assert_eq!(question.data::<String>(), "6 x 7?");
    question.ack(42);
    assert_eq!(asked.await.expect("an answer"), 42);
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_is_awaited_for_five_seconds_or_its_timeout() {
    let namespace = Namespace::new().on("never", std::future::pending::<()>);
    let app = app(namespace);
    let client = Client::connect(&app, "/").await.expect("it is let in");
    let started = tokio::time::Instant::now();
    let answer = client.emit_with_ack::<u32>("never", ()).await;
    assert!(answer.is_err_and(|error| error.is_timeout()));
    assert_eq!(started.elapsed().as_secs(), 5);

    // The timeout is longer than the heartbeat's: the client answers pings.
    let client = Client::connect(&app, "/").timeout(Duration::from_secs(100));
    let client = client.await.expect("it is let in");
    let answer = client.emit_with_ack::<u32>("never", ()).await;
    assert!(answer.is_err_and(|error| error.is_timeout()));
    assert_eq!(started.elapsed().as_secs(), 105);
}

#[tokio::test(start_paused = true)]
async fn a_client_authenticates_itself_in_every_way() {
    async fn connect(socket: Socket, Auth(auth): Auth<Value>, headers: HeaderMap) {
        let uri = socket.request_parts().uri;
        socket.emit(
            "hello",
            Args((auth, headers["x-token"].to_str().ok(), uri.query())),
        );
    }
    let (layer, _io) = SocketIo::builder()
        .namespace("/admin", Namespace::new().on_connect(connect))
        .path("/realtime")
        .build();
    let app = Router::new().layer(layer);
    let mut client = Client::connect(&app, "/admin")
        .path("/realtime/")
        .query("key=1")
        .auth(json!({ "name": "Ada" }))
        .header("x-token", "secret")
        .await
        .expect("it is let in");
    let (auth, header, query): (Value, String, String) = client.expect("hello").await.args();
    assert_eq!((auth, &*header), (json!({ "name": "Ada" }), "secret"));
    assert!(query.ends_with("&key=1"), "{query}");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_has_its_message_and_its_data() {
    let refuse =
        async || Err::<(), _>(ErrorReply::new("not today").with_data(json!({ "code": 7 })));
    let app = app(Namespace::new().on_connect(refuse));
    let error = refusal(Client::connect(&app, "/")).await;
    assert_eq!((error.message(), error.status()), ("not today", None));
    assert_eq!(error.data::<Value>(), Some(json!({ "code": 7 })));
    let error = refusal(Client::connect(&app, "/unknown")).await;
    assert_eq!(error.message(), "Invalid namespace");
    assert_eq!(error.data::<Value>(), None);
}

#[tokio::test(start_paused = true)]
async fn a_response_that_opens_no_websocket_is_an_error_with_its_status() {
    let (layer, io) = SocketIo::builder().namespace("/", Namespace::new()).build();
    let app = Router::new().layer(layer);
    let error = refusal(Client::connect(&app, "/").path("/elsewhere/")).await;
    assert_eq!(error.status(), Some(StatusCode::NOT_FOUND));
    io.close().await;
    let error = refusal(Client::connect(&app, "/")).await;
    assert_eq!(error.status(), Some(StatusCode::SERVICE_UNAVAILABLE));
    assert!(error.message().contains("Service unavailable"), "{error}");
}

/// Returns a namespace that sends the disconnect reason of each socket.
fn telling() -> (Namespace, mpsc::UnboundedReceiver<DisconnectReason>) {
    let (sender, left) = mpsc::unbounded_channel();
    let leave = async move |reason: DisconnectReason| sender.send(reason).expect("a test");
    (Namespace::new().on_disconnect(leave), left)
}

#[tokio::test(start_paused = true)]
async fn a_client_leaves_or_is_dropped() {
    let (namespace, mut left) = telling();
    let app = app(namespace);
    let client = Client::connect(&app, "/").await.expect("it is let in");
    client.disconnect().await;
    let reason = left.recv().await;
    assert_eq!(reason, Some(DisconnectReason::ClientNamespaceDisconnect));
    drop(Client::connect(&app, "/").await.expect("it is let in"));
    assert_eq!(left.recv().await, Some(DisconnectReason::TransportClose));
}

#[tokio::test(start_paused = true)]
async fn a_client_gets_the_reason_of_its_disconnect() {
    let namespace = Namespace::new()
        .on("leave", async |socket: Socket| {
            socket.emit("bye", ());
            socket.disconnect();
        })
        .on("never", std::future::pending::<()>);
    let (layer, io) = SocketIo::builder().namespace("/", namespace).build();
    let app = Router::new().layer(layer);
    let mut client = Client::connect(&app, "/").await.expect("it is let in");
    client.emit("leave", ());
    assert_eq!(client.disconnected().await, Disconnect::ByServer);
    assert_eq!(client.recv().await.expect("it came before").name(), "bye");
    assert!(client.recv().await.is_none());
    let answer = client.emit_with_ack::<u32>("leave", ()).await;
    assert!(answer.is_err_and(|error| error.is_disconnected()));

    let mut client = Client::connect(&app, "/").await.expect("it is let in");
    let answer = client.emit_with_ack::<u32>("never", ());
    io.sockets()[0].close();
    assert!(answer.await.is_err_and(|error| error.is_disconnected()));
    assert_eq!(client.disconnected().await, Disconnect::ByServer);

    let mut client = Client::connect(&app, "/").await.expect("it is let in");
    let (end, ()) = tokio::join!(client.disconnected(), async {
        let _ = tokio::time::timeout(Duration::ZERO, io.close()).await;
    });
    let reason = "server shutting down".to_owned();
    let code = Some(1001);
    assert_eq!(end, Disconnect::Closed { code, reason });
}

#[tokio::test(start_paused = true)]
async fn more_is_sent_and_received_than_the_stream_holds() {
    let echo = async |socket: Socket, Data(text): Data<String>| socket.emit("echo", text);
    let mut client = connect(Namespace::new().on("echo", echo)).await;
    let text = "x".repeat(10_000);
    for _ in 0..200 {
        client.emit("echo", &text);
    }
    for _ in 0..200 {
        assert_eq!(client.expect("echo").await.data::<String>(), text);
    }
}

#[tokio::test(start_paused = true)]
async fn any_tower_service_is_an_app() {
    let layer = MapRequestLayer::new(|mut request: axum::extract::Request| {
        request.extensions_mut().insert(7_u32);
        request
    });
    let seen = async |socket: Socket| socket.emit("seen", socket.extension::<u32>());
    let app = ServiceBuilder::new()
        .layer(layer)
        .service(app(Namespace::new().on_connect(seen)));
    let mut client = Client::connect(&app, "/").await.expect("it is let in");
    assert_eq!(client.expect("seen").await.data::<u32>(), 7);
}
