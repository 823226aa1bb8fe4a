//! One connection and its namespaces: the order of packets, and the protocol violations.

use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use tower_socketio::{Data, Namespace, Socket, SocketIo};

use crate::support::{Client, Got, Polling, app, builder, main_app, serve, until};

async fn echo(socket: Socket, Data(text): Data<String>) {
    socket.emit("echo", text);
}

fn echoing() -> Namespace {
    Namespace::new().on("echo", echo)
}

fn two() -> (Router, SocketIo) {
    let (layer, io) = builder(echoing()).namespace("/adm", echoing()).build();
    (app(layer), io)
}

const ECHO: &str = r#"42["echo","a"]"#;

fn violation() -> Got {
    Got::Close(Some((1002, "protocol violation".into())))
}

#[tokio::test]
async fn a_client_that_joins_gets_an_id_other_than_the_sessions() {
    let mut client = Polling::open(&two().0).await;
    let id = client.join("/").await;
    let admin = client.join("/adm").await;
    assert_eq!((id.len(), admin.len()), (20, 20));
    assert_ne!(id, admin);
    assert!(!client.sid.starts_with(&id) && !client.sid.starts_with(&admin));
}

#[tokio::test]
async fn a_second_connect_is_a_violation() {
    let addr = serve(two().0).await;
    for namespace in ["/", "/adm"] {
        let mut client = Client::connect(addr, namespace).await;
        client.send(&format!("40{namespace},")).await;
        assert_eq!(client.next().await, violation());
    }
    let client = Polling::open(&two().0).await;
    client.post("40\x1e40").await;
    assert!(client.get().await.body().ends_with('1'));
    assert_eq!(client.get().await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn packets_for_a_namespace_that_was_not_joined_are_a_violation() {
    let addr = serve(two().0).await;
    for packet in [
        r#"42/adm,["echo","a"]"#,
        "43/adm,1[]",
        "41/adm,",
        r#"42/no,["a"]"#,
    ] {
        let mut client = Client::connect(addr, "/").await;
        client.send(packet).await;
        assert_eq!(client.next().await, violation(), "{packet}");
        let mut client = Client::open(addr).await;
        client.send(packet).await;
        assert_eq!(client.next().await, violation(), "{packet}");
    }
}

#[tokio::test]
async fn a_connect_error_of_a_client_is_a_violation() {
    let addr = serve(two().0).await;
    let mut client = Client::connect(addr, "/").await;
    client.send(r#"44{"message":"x"}"#).await;
    assert_eq!(client.next().await, violation());
}

#[tokio::test]
async fn packets_before_a_violation_are_delivered() {
    let (app, io) = two();
    let mut client = Client::connect(serve(app).await, "/").await;
    io.emit("echo", "a");
    client.send("47").await;
    assert_eq!(client.text().await, ECHO);
    assert_eq!(client.next().await, violation());

    let (app, io) = two();
    let client = Polling::connect(&app).await;
    io.emit("echo", "a");
    client.post("47").await;
    until(|| io.counts().sockets == 0).await;
    assert_eq!(client.get().await.body(), ECHO);
    assert_eq!(client.get().await.body(), "1");
    assert_eq!(client.get().await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn unsolicited_acknowledgements_are_ignored() {
    let addr = serve(two().0).await;
    let mut client = Client::connect(addr, "/").await;
    for packet in [
        "4399[1]",
        "430[]",
        "430[]",
        "43[]",
        "4318446744073709551615[]",
    ] {
        client.send(packet).await;
    }
    assert_eq!(client.ask(ECHO).await, ECHO);
}

#[tokio::test]
async fn a_client_may_leave_one_namespace_and_come_back_with_another_id() {
    let addr = serve(two().0).await;
    let mut client = Client::open(addr).await;
    let first = client.join("/").await;
    client.join("/adm").await;
    client.send("41").await;
    assert_eq!(
        client.ask(r#"42/adm,["echo","a"]"#).await,
        r#"42/adm,["echo","a"]"#
    );
    assert_ne!(client.join("/").await, first);
    assert_eq!(client.ask(ECHO).await, ECHO);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_joined_once_may_leave_and_stay_connected() {
    let (layer, io) = builder(echoing())
        .connect_timeout(Duration::from_secs(3))
        .build();
    let mut client = Polling::connect(&app(layer)).await;
    client.send("41").await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(io.counts().sessions, 1);
    client.join("/").await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_was_only_refused_is_closed_in_time() {
    let refuse = async || Err::<(), _>("no");
    let (layer, io) = builder(Namespace::new().on_connect(refuse))
        .connect_timeout(Duration::from_secs(3))
        .build();
    let mut client = Polling::open(&app(layer)).await;
    for packet in ["40", "40/none"] {
        assert!(client.ask(packet).await.starts_with("44"));
    }
    tokio::time::sleep(Duration::from_millis(2_900)).await;
    assert_eq!(io.counts().sessions, 1);
    assert_eq!(client.next().await, "1");
    assert_eq!(io.counts().sockets, 0);
}

#[tokio::test]
async fn names_that_mean_something_in_javascript_are_harmless() {
    let addr = serve(main_app(echoing()).0).await;
    let mut client = Client::connect(addr, "/").await;
    let refused = r#"44/__proto__,{"message":"Invalid namespace"}"#;
    assert_eq!(client.ask("40/__proto__").await, refused);
    let unknown = r#"431[{"error":"no handler for this event"}]"#;
    assert_eq!(client.ask(r#"421["__proto__"]"#).await, unknown);
    assert_eq!(
        client.ask(r#"42["echo","__proto__"]"#).await,
        r#"42["echo","__proto__"]"#
    );
}
