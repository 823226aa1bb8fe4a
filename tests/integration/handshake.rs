//! The handshake as handlers see it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use axum::body::Body;
use axum::http::uri::Scheme;
use axum::http::{Request, Version};
use axum::{Extension, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower_socketio::{Data, Handshake, HttpOptions, Namespace, Socket};

use crate::support::{Client, Polling, app, builder, main_app, within};

/// Returns a namespace that acknowledges `handshake` with the socket's handshake.
fn telling() -> Namespace {
    Namespace::new().on("handshake", async |socket: Socket| Data(socket.handshake()))
}

/// Asks the server for the handshake of a client in the main namespace.
async fn handshake(client: &mut Polling) -> Value {
    let answer = client.ask(r#"427["handshake"]"#).await;
    let answer = answer.strip_prefix("437").expect("an acknowledgement");
    let mut answer: Value = serde_json::from_str(answer).expect("JSON");
    answer[0].take()
}

fn request(query: &str) -> axum::http::request::Builder {
    Request::get(format!("/socket.io/?EIO=4&transport=polling{query}"))
}

async fn open(app: &Router, request: axum::http::request::Builder) -> Polling {
    Polling::open_with(app, request.body(Body::empty()).expect("a request")).await
}

#[tokio::test]
async fn a_handshake_has_all_fields_in_their_form() {
    let (app, io) = main_app(telling());
    let query = "&t=a%20b+c&twice=1&twice=2&empty=";
    let request = request(query)
        .header("x-many", "1")
        .header("x-many", "2")
        .header("origin", "http://elsewhere");
    let mut client = open(&app, request).await;
    let before = SystemTime::now();
    client.ask(r#"40{"token":"sesame"}"#).await;
    let mut told = handshake(&mut client).await;

    let seconds = before
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("later");
    let issued = told["issued"].take().as_u64().expect("a number");
    let passed = issued - seconds.as_millis() as u64;
    assert!(passed < 60_000, "{issued}");
    let time = told["time"].take();
    let time = time.as_str().expect("a text");
    assert!(
        time.ends_with(" GMT+0000 (Coordinated Universal Time)"),
        "{time}"
    );
    let expected = json!({
        "headers": { "x-many": "1, 2", "origin": "http://elsewhere" },
        "time": null,
        "address": "",
        "xdomain": true,
        "secure": false,
        "issued": null,
        "url": format!("/socket.io/?EIO=4&transport=polling{query}"),
        "query": {
            "EIO": "4", "transport": "polling", "t": "a b c", "twice": "2", "empty": "",
        },
        "auth": { "token": "sesame" },
    });
    assert_eq!(told, expected);

    let socket = io.sockets().remove(0);
    let handshake: Handshake = socket.handshake();
    assert_eq!(handshake.headers.get_all("x-many").iter().count(), 2);
    assert_eq!(handshake.time(), time);
    let found = io.of("/").fetch_sockets().await.expect("one server");
    assert_eq!(found[0].handshake().auth, json!({ "token": "sesame" }));
}

#[tokio::test]
async fn each_namespace_has_its_own_time_and_authentication() {
    let (layer, io) = builder(telling()).namespace("/a", telling()).build();
    let mut client = open(&app(layer), request("")).await;
    client.ask("40").await;
    let first = io.sockets()[0].handshake();
    // `issued` has a resolution of one millisecond.
    while SystemTime::now() <= first.issued + std::time::Duration::from_millis(1) {
        std::thread::yield_now();
    }
    client.ask(r#"40/a,{"n":1}"#).await;
    let second = io.of("/a").sockets()[0].handshake();
    assert_eq!((first.auth, second.auth), (json!({}), json!({ "n": 1 })));
    assert!(first.issued < second.issued);
    assert_eq!(first.url, second.url);
    let told = handshake(&mut client).await;
    assert_eq!(
        (&told["auth"], &told["xdomain"]),
        (&json!({}), &json!(false))
    );
}

#[tokio::test]
async fn the_address_is_known_if_the_app_is_served_with_it() {
    let (layer, _io) = builder(telling()).build();
    let service = app(layer).into_make_service_with_connect_info::<SocketAddr>();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, service).await });
    let mut client = Client::connect(addr, "/").await;
    let answer = within(client.ask(r#"427["handshake"]"#)).await;
    let told: Value = serde_json::from_str(&answer[3..]).expect("JSON");
    assert_eq!(told[0]["address"], "127.0.0.1");
    assert_eq!(told[0]["query"]["transport"], "websocket");
}

#[tokio::test]
async fn a_request_is_secure_if_its_uri_or_the_server_says_so() {
    for (uri, layered, expected) in [
        ("/socket.io/", None, false),
        ("http://host/socket.io/", None, false),
        ("https://host/socket.io/", None, true),
        ("/socket.io/", Some(Scheme::HTTPS), true),
        ("https://host/socket.io/", Some(Scheme::HTTP), false),
    ] {
        let (app, _io) = main_app(telling());
        let app = match layered {
            Some(scheme) => app.layer(Extension(scheme)),
            None => app,
        };
        let uri = format!("{uri}?EIO=4&transport=polling");
        let mut client = open(&app, Request::get(&uri)).await;
        client.join("/").await;
        let told = handshake(&mut client).await;
        assert_eq!(told["secure"], expected, "{uri}");
        assert!(
            told["url"]
                .as_str()
                .is_some_and(|url| url.starts_with("/socket.io/?"))
        );
    }
}

#[tokio::test]
async fn the_headers_of_http_2_are_as_those_of_http_1() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let http = HttpOptions::new().allow_request({
        let seen = Arc::clone(&seen);
        move |request| {
            let host = request.headers.get("host").cloned();
            seen.lock().expect("no panic").push(host);
            std::future::ready(Ok::<_, String>(()))
        }
    });
    let (layer, _io) = builder(telling()).http(http).build();
    let app = app(layer);
    for (more, host) in [(None, "tenant.example:8443"), (Some("other"), "other")] {
        let mut request =
            Request::get("https://tenant.example:8443/socket.io/?EIO=4&transport=polling")
                .version(Version::HTTP_2)
                .header("cookie", "a=1")
                .header("cookie", "b=2");
        if let Some(host) = more {
            request = request.header("host", host);
        }
        let mut client = open(&app, request).await;
        client.join("/").await;
        let told = handshake(&mut client).await;
        assert_eq!(told["headers"]["host"], host);
        assert_eq!(told["headers"]["cookie"], "a=1; b=2");
        let seen = seen.lock().expect("no panic").pop();
        assert_eq!(seen.flatten().expect("a host"), host);
    }
}

#[tokio::test]
async fn a_cookie_of_http_2_is_one_header() {
    let cookies = async |socket: Socket| {
        let headers = socket.handshake().headers;
        let values = headers.get_all("cookie").iter();
        let values: Vec<_> = values
            .map(|value| value.to_str().expect("text").to_owned())
            .collect();
        Data(values)
    };
    let app = main_app(Namespace::new().on("cookies", cookies)).0;
    let request = request("").version(Version::HTTP_2);
    let request = request.header("cookie", "a=1").header("cookie", "b=2");
    let mut client = open(&app, request).await;
    client.join("/").await;
    let told = client.ask(r#"421["cookies"]"#).await;
    assert_eq!(told, r#"431[["a=1; b=2"]]"#);
}

#[tokio::test]
async fn the_url_is_that_of_the_request_where_the_router_is_nested() {
    let (layer, _io) = builder(telling()).build();
    let app = Router::new().nest_service("/api/socket.io", layer.into_service());
    let request = Request::get("/api/socket.io/?EIO=4&transport=polling");
    let mut client = open(&app, request).await;
    client.join("/").await;
    let told = handshake(&mut client).await;
    assert_eq!(told["url"], "/api/socket.io/?EIO=4&transport=polling");
}
