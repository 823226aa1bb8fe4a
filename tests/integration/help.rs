//! The log lines that help with the first run of a server.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{Method, Request, StatusCode, header};
use axum::routing::get as route;
use axum::{Extension, Router};
use tower::ServiceExt;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_socketio::engine::{EngineLayer, EngineSocket};
use tower_socketio::{
    Cors, DisconnectReason, Namespace, NamespaceRequest, Origins, Recovery, SocketIo, Transport,
};
use tracing::Level;

use crate::support::logs::Logs;
use crate::support::{Polling, app, builder, call, get, main_app, within};

/// Asserts that a line has all these parts.
#[track_caller]
fn has(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "{part}: {line}");
    }
}

/// Returns the only line of a list.
#[track_caller]
fn only(lines: &[String]) -> &str {
    assert_eq!(lines.len(), 1, "{lines:?}");
    &lines[0]
}

#[test]
fn a_new_server_logs_what_is_served_where() {
    let (logs, _guard) = Logs::keep();
    let _server = SocketIo::builder()
        .namespace("/", Namespace::new())
        .namespace("/orders/{shop}", Namespace::new())
        .build();
    has(
        only(&logs.at(Level::INFO)),
        &[
            r#"path="/socket.io""#,
            r#"namespaces="/, /orders/{shop}""#,
            r#"transports="polling, websocket""#,
            "cluster=false",
        ],
    );
    assert!(!logs.at(Level::INFO)[0].contains("recovery"));
    let _server = SocketIo::builder()
        .namespace_if(async |_: NamespaceRequest| true, Namespace::new())
        .transports(&[Transport::WebSocket])
        .recovery(Recovery::within(Duration::from_secs(30)))
        .allow_eio3(true)
        .path("/")
        .build();
    has(
        &logs.at(Level::INFO)[1],
        &[
            r#"path="/""#,
            "predicates=1",
            r#"transports="websocket""#,
            "recovery=30s",
            "eio3=true",
        ],
    );
}

#[tokio::test]
async fn a_namespace_that_does_not_exist_is_a_warning_with_the_nearest_name() {
    let (logs, _guard) = Logs::keep();
    let (layer, _io) = builder(Namespace::new())
        .namespace("/chat", Namespace::new())
        .build();
    let app = app(layer);
    let mut client = Polling::open(&app).await;
    // The client gets what Node's server sends.
    let refused = r#"44/chta,{"message":"Invalid namespace"}"#;
    assert_eq!(client.ask("40/chta,").await, refused);
    has(
        only(&logs.warnings()),
        &[
            r#"namespace="/chta""#,
            r#"did_you_mean="/chat""#,
            "`SocketIoBuilder::namespace`",
        ],
    );
    // A client cannot fill the log.
    for _ in 0..20 {
        client.ask("40/orders,").await;
    }
    assert_eq!(logs.warnings().len(), 1);
    let later = logs.at(Level::DEBUG);
    let later = later.iter().find(|line| line.contains("/orders"));
    assert!(!later.expect("a line").contains("did_you_mean"));
}

#[tokio::test]
async fn a_predicate_that_refuses_a_client_is_no_warning() {
    let (logs, _guard) = Logs::keep();
    let none = async |_: NamespaceRequest| false;
    let (layer, _io) = SocketIo::builder()
        .namespace_if(none, Namespace::new())
        .build();
    let mut client = Polling::open(&app(layer)).await;
    assert!(client.ask("40/chat,").await.starts_with("44/chat,"));
    assert_eq!(logs.warnings(), Vec::<String>::new());
}

#[tokio::test]
async fn too_many_dynamic_namespaces_are_a_warning_with_the_option_to_set() {
    let (logs, _guard) = Logs::keep();
    let (layer, _io) = SocketIo::builder()
        .namespace("/orders/{shop}", Namespace::new())
        .max_dynamic_namespaces(1)
        .build();
    let mut client = Polling::open(&app(layer)).await;
    client.join("/orders/1").await;
    for shop in 2..9 {
        client.ask(&format!("40/orders/{shop},")).await;
    }
    has(
        only(&logs.warnings()),
        &["`max_dynamic_namespaces`", "max=1"],
    );
}

#[tokio::test]
async fn an_event_without_a_handler_is_a_warning_with_the_nearest_name() {
    let (logs, _guard) = Logs::keep();
    let namespace = Namespace::new().on("message", async || "answered");
    let mut client = Polling::connect(&main_app(namespace).0).await;
    for name in ["mesage", "masse", &"x".repeat(10_000)] {
        client.send(&format!(r#"42["{name}"]"#)).await;
    }
    assert_eq!(client.ask(r#"421["message"]"#).await, r#"431["answered"]"#);
    has(
        only(&logs.warnings()),
        &[r#"event="mesage""#, r#"did_you_mean="message""#],
    );
    // A long name is shortened.
    let later = logs.at(Level::DEBUG);
    let later = later.iter().find(|line| line.contains("xxx"));
    assert!(later.expect("a line").len() < 500);
}

#[derive(Clone)]
struct Database;

/// An extractor of the application that fails as the server's mistake.
struct Broken;

impl<S: Send + Sync> FromRequestParts<S> for Broken {
    type Rejection = (StatusCode, &'static str);

    async fn from_request_parts(_: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Err((StatusCode::INTERNAL_SERVER_ERROR, "no pool"))
    }
}

/// An extractor that refuses a client.
struct Nobody;

impl<S: Send + Sync> FromRequestParts<S> for Nobody {
    type Rejection = StatusCode;

    async fn from_request_parts(_: &mut Parts, _: &S) -> Result<Self, StatusCode> {
        Err(StatusCode::UNAUTHORIZED)
    }
}

#[tokio::test]
async fn an_extension_that_is_missing_is_a_warning_with_its_type() {
    let (logs, _guard) = Logs::keep();
    let namespace = Namespace::new()
        .on("query", async |_: Extension<Database>| ())
        .on("count", async |_: Extension<u8>| ())
        .on("reason", async |_: DisconnectReason| ());
    let mut client = Polling::connect(&main_app(namespace).0).await;
    let refused = r#"[{"error":"internal error"}]"#;
    for ack in 0..5 {
        let answer = client.ask(&format!(r#"42{ack}["query"]"#)).await;
        assert_eq!(answer, format!("43{ack}{refused}"));
    }
    has(
        only(&logs.warnings()),
        &[
            "missing=\"integration::help::Database\"",
            "event=\"query\"",
            "`Socket::insert`",
        ],
    );
    // Each type is logged once, at a level that is on.
    client.ask(r#"426["count"]"#).await;
    client.ask(r#"427["reason"]"#).await;
    client.ask(r#"428["count"]"#).await;
    let warnings = logs.warnings();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    has(&warnings[1], &["missing=\"u8\""]);
    has(&warnings[2], &["`Namespace::on_disconnect`"]);
    assert_eq!(logs.at(Level::ERROR), Vec::<String>::new());
}

#[tokio::test]
async fn an_extractor_that_fails_by_the_servers_mistake_is_a_warning_with_its_type() {
    let (logs, _guard) = Logs::keep();
    let (layer, _io) = builder(Namespace::new().on_connect(async |_: Extension<Database>| ()))
        .namespace("/broken", Namespace::new().on_connect(async |_: Broken| ()))
        .namespace("/nobody", Namespace::new().on_connect(async |_: Nobody| ()))
        .build();
    let app = app(layer);
    let mut client = Polling::open(&app).await;
    for _ in 0..3 {
        client.ask("40").await;
        client.ask("40/broken,").await;
        client.ask("40/nobody,").await;
    }
    let warnings = logs.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    has(
        &warnings[0],
        &["Extension<integration::help::Database>", "namespace=\"/\""],
    );
    has(&warnings[1], &["integration::help::Broken"]);
}

#[tokio::test]
async fn a_handler_that_takes_the_rejection_causes_no_warning() {
    let (logs, _guard) = Logs::keep();
    let query = async |database: Result<Extension<Database>, _>| {
        let _: tower_socketio::extract::MissingExtension = database.err().expect("it is missing");
    };
    let mut client = Polling::connect(&main_app(Namespace::new().on("query", query)).0).await;
    client.ask(r#"421["query"]"#).await;
    assert_eq!(logs.warnings(), Vec::<String>::new());
}

#[test]
fn a_layer_that_is_dropped_is_a_warning() {
    let (logs, _guard) = Logs::keep();
    let (layer, io) = builder(Namespace::new()).path("/realtime").build();
    drop(layer);
    has(
        only(&logs.warnings()),
        &["never added to a router", "path=\"/realtime\""],
    );
    drop(io);
    async fn wait(mut socket: EngineSocket) {
        while socket.recv().await.is_some() {}
    }
    drop(EngineLayer::new(wait));
    assert_eq!(logs.warnings().len(), 2);
}

#[tokio::test]
async fn two_servers_with_one_path_are_a_warning() {
    let (logs, _guard) = Logs::keep();
    let page = || Router::new().route("/page", route(async || "page"));
    let layer = |path| builder(Namespace::new()).path(path).build().0;
    let app = page().layer(layer("/socket.io")).layer(layer("/socket.io"));
    for _ in 0..3 {
        assert_eq!(get(&app, "/page").await.body(), "page");
    }
    has(
        only(&logs.warnings()),
        &["two servers have the same path", "path=\"/socket.io\""],
    );
    drop(app);

    // Two paths, one server twice, or the same path below another are no mistake.
    let one = layer("/socket.io");
    let nested = page().layer(layer("/socket.io"));
    for app in [
        page().layer(layer("/a")).layer(layer("/b")),
        page().layer(one.clone()).layer(one),
        Router::new()
            .nest("/api", nested)
            .layer(layer("/socket.io")),
    ] {
        get(&app, "/page").await;
        get(&app, "/api/page").await;
    }
    assert_eq!(logs.warnings().len(), 1, "{:?}", logs.warnings());
}

#[tokio::test]
async fn a_server_with_cors_logs_that_no_other_layer_may_set_its_headers() {
    let (logs, _guard) = Logs::keep();
    let cors = Cors::new(Origins::list(["https://app.example"])).allow_credentials(true);
    let (layer, _io) = builder(Namespace::new()).cors(cors).build();
    let lines = logs.at(Level::INFO);
    assert_eq!(lines.len(), 2, "{lines:?}");
    has(&lines[1], &["no layer around it", "`HttpOptions::origins`"]);

    // The server cannot see what an outer layer does to its responses. That of tower-http replaces
    // one header of the server and leaves the others, which no browser accepts together.
    let outer = CorsLayer::new().allow_origin(AllowOrigin::any());
    let app = app(layer).layer(outer);
    let request = Request::get("/socket.io/?EIO=4&transport=polling")
        .header(header::ORIGIN, "https://app.example")
        .body(axum::body::Body::empty());
    let answer = call(&app, request.expect("a request")).await;
    assert_eq!(answer.headers()["access-control-allow-origin"], "*");
    assert_eq!(answer.headers()["access-control-allow-credentials"], "true");
    // A preflight does not reach the server.
    let request = Request::builder().method(Method::OPTIONS);
    let request = request.uri("/socket.io/").body(axum::body::Body::empty());
    let answer = within(app.oneshot(request.expect("a request"))).await;
    let answer = answer.expect("infallible");
    assert_eq!(answer.headers()["access-control-allow-origin"], "*");
    assert!(
        !answer
            .headers()
            .contains_key("access-control-allow-credentials")
    );
}
