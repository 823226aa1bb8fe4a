//! Socket.IO 2 clients: revision 3 of Engine.IO and revision 4 of Socket.IO.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use http_body_util::BodyExt;
use tower::ServiceExt;
use tower_socketio::engine::{Config, EngineLayer, EngineSocket};
use tower_socketio::{Auth, ErrorReply, HttpOptions, Namespace, RawArgs, Socket, SocketIo};

use crate::support::{Client, Got, app, builder, get, post, serve, within};

const OPEN: &str = "/socket.io/?EIO=3&transport=polling";

async fn echo(socket: Socket, args: RawArgs) {
    socket.emit("echo", args);
}

fn echoing() -> Namespace {
    Namespace::new()
        .on("echo", echo)
        .on("id", async |socket: Socket| socket.id().to_string())
}

fn allowing(main: Namespace) -> (Router, SocketIo) {
    let told = async |Auth(auth): Auth<serde_json::Value>| {
        Err::<(), _>(ErrorReply::new("told").with_data(auth))
    };
    let refused = async || Err::<(), _>("not authorized");
    let (layer, io) = builder(main)
        .namespace("/told", Namespace::new().on_connect(told))
        .namespace("/refused", Namespace::new().on_connect(refused))
        .allow_eio3(true)
        .build();
    (app(layer), io)
}

/// Returns the headers and the bytes of a response.
async fn fetch(app: &Router, request: Request<Body>) -> (HeaderMap, Vec<u8>) {
    let response = within(app.clone().oneshot(request))
        .await
        .expect("infallible");
    assert_eq!(response.status(), StatusCode::OK);
    let (parts, body) = response.into_parts();
    let body = within(body.collect()).await.expect("a body").to_bytes();
    (parts.headers, body.into())
}

/// Opens a session over polling and reads the packet `40`. Returns the session's URI and id.
async fn open(app: &Router, query: &str) -> (String, String) {
    let response = get(app, &format!("{OPEN}{query}")).await;
    let (len, packet) = response.body().split_once(':').expect("a length");
    // The first response may contain the packet `40` already.
    let packet = &packet[..len.parse().expect("a number")];
    let json = packet.strip_prefix('0').expect("an open packet");
    let open: serde_json::Value = serde_json::from_str(json).expect("JSON");
    let sid = open["sid"].as_str().expect("an id").to_owned();
    let uri = format!("{OPEN}{query}&sid={sid}");
    if !response.body().ends_with("2:40") {
        assert_eq!(get(app, &uri).await.body(), "2:40");
    }
    (uri, sid)
}

#[tokio::test]
async fn socket_io_2_clients_are_refused_unless_they_are_allowed() {
    let (layer, _io) = builder(echoing()).build();
    let app = app(layer);
    for query in ["", "EIO=3&", "EIO=5&"] {
        let response = get(&app, &format!("/socket.io/?{query}transport=polling")).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert_eq!(
            response.body(),
            r#"{"code":5,"message":"Unsupported protocol version"}"#
        );
    }
}

#[tokio::test]
async fn a_request_without_a_revision_counts_as_revision_3() {
    let (app, _io) = allowing(echoing());
    let response = get(&app, "/socket.io/?transport=polling").await;
    let (len, packet) = response.body().split_once(':').expect("a length");
    assert!(packet.starts_with("0{") && len.parse::<usize>().is_ok());
}

#[tokio::test]
async fn the_open_packet_of_revision_3_has_five_keys() {
    let (app, _io) = allowing(echoing());
    let response = get(&app, OPEN).await;
    assert_eq!(
        response.headers()[header::CONTENT_TYPE],
        "text/plain; charset=UTF-8"
    );
    let json = response.body().split_once(":0").expect("an open packet").1;
    let json = &json[..=json.find('}').expect("its end")];
    let keys = [
        "sid",
        "upgrades",
        "pingInterval",
        "pingTimeout",
        "maxPayload",
    ];
    let open: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(json).expect("JSON");
    assert!(open.keys().eq(keys), "{open:?}");
}

#[tokio::test]
async fn the_main_namespace_is_joined_without_a_connect_packet() {
    let (app, io) = allowing(echoing());
    let (uri, sid) = open(&app, "").await;
    assert_eq!(io.counts().sockets, 1);
    post(&app, &uri, r#"9:421["id"]"#).await;
    // The client uses the session's id as its socket's id. Only its first 20 characters are public.
    let id = &sid[..20];
    assert_eq!(get(&app, &uri).await.body(), &format!(r#"27:431["{id}"]"#));
    assert_eq!(sid.len(), 42);
    let refused = get(&app, &format!("{OPEN}&sid={id}")).await;
    assert_eq!(
        refused.body(),
        r#"{"code":1,"message":"Session ID unknown"}"#
    );
}

#[tokio::test]
async fn text_is_counted_in_utf_16_code_units_both_ways() {
    let (app, _io) = allowing(echoing());
    let (uri, _) = open(&app, "").await;
    let body = "17:42[\"echo\",\"é€😀\"]";
    assert_eq!(post(&app, &uri, body).await.body(), "ok");
    assert_eq!(get(&app, &uri).await.body(), body);
}

/// The head of an event with one attachment. The attachment follows in a form that the transport
/// decides.
const HEAD: &str = r#"451-["echo",{"_placeholder":true,"num":0}]"#;

#[tokio::test]
async fn bytes_are_a_body_of_bytes() {
    let (app, _io) = allowing(echoing());
    let (uri, _) = open(&app, "").await;
    let mut body = vec![0, 4, 2, 0xff];
    assert_eq!(HEAD.len(), 42);
    body.extend(HEAD.as_bytes());
    body.extend([1, 4, 0xff, 4, 1, 2, 3]);
    let request = Request::post(&uri).header(header::CONTENT_TYPE, "application/octet-stream");
    let request = request.body(Body::from(body.clone())).expect("a request");
    assert_eq!(fetch(&app, request).await.1, b"ok");

    let request = Request::get(&uri).body(Body::empty()).expect("a request");
    let (headers, answer) = fetch(&app, request).await;
    assert_eq!(headers[header::CONTENT_TYPE], "application/octet-stream");
    assert_eq!(answer, body);
}

#[tokio::test]
async fn bytes_are_base64_for_text_only_clients() {
    let (app, _io) = allowing(echoing());
    let (uri, _) = open(&app, "&b64=1").await;
    let body = format!("42:{HEAD}6:b4AQID");
    post(&app, &uri, body.clone()).await;
    assert_eq!(get(&app, &uri).await.body(), &body);
}

#[tokio::test]
async fn jsonp_has_bytes_as_text() {
    let (layer, _io) = builder(echoing())
        .allow_eio3(true)
        .http(HttpOptions::new().jsonp(true))
        .build();
    let app = app(layer);
    let response = get(&app, &format!("{OPEN}&j=3")).await;
    let body = response
        .body()
        .strip_prefix("___eio[3](\"")
        .expect("a script");
    let body = body.replace('\\', "");
    let (_, json) = body.split_once(":0").expect("an open packet");
    let json = &json[..=json.find('}').expect("its end")];
    let open: serde_json::Value = serde_json::from_str(json).expect("JSON");
    let uri = format!("{OPEN}&j=3&sid={}", open["sid"].as_str().expect("an id"));
    if !body.ends_with("2:40\");") {
        assert_eq!(get(&app, &uri).await.body(), "___eio[3](\"2:40\");");
    }
    post(&app, &uri, format!("d=42:{HEAD}6:b4AQID")).await;
    let answer = get(&app, &uri).await;
    assert!(answer.body().ends_with("6:b4AQID\");"), "{}", answer.body());
}

#[tokio::test]
async fn a_malformed_body_of_text_ends_the_session() {
    for body in ["abc", "5:4a", "1:x", "9999999999:2", "2:40\u{e9}"] {
        let (app, _io) = allowing(echoing());
        let (uri, _) = open(&app, "").await;
        assert_eq!(post(&app, &uri, body).await.body(), "ok");
        let gone = get(&app, &uri).await;
        assert_eq!(
            gone.body(),
            r#"{"code":1,"message":"Session ID unknown"}"#,
            "{body}"
        );
    }
}

#[tokio::test]
async fn a_malformed_body_of_bytes_ends_the_session() {
    let (app, _io) = allowing(echoing());
    let (uri, _) = open(&app, "").await;
    let request = Request::post(&uri).header(header::CONTENT_TYPE, "application/octet-stream");
    let request = request.body(Body::from(vec![0, 9, 0xff, b'4']));
    let (_, answer) = fetch(&app, request.expect("a request")).await;
    assert_eq!(answer, b"ok");
    assert_eq!(get(&app, &uri).await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test(start_paused = true)]
async fn a_socket_io_2_client_that_does_not_ping_times_out() {
    let (app, _io) = allowing(echoing());
    let (uri, _) = open(&app, "").await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(44)).await;
        assert_eq!(post(&app, &uri, "1:2").await.body(), "ok");
        assert_eq!(get(&app, &uri).await.body(), "1:3");
    }
    tokio::time::sleep(Duration::from_secs(46)).await;
    assert_eq!(
        post(&app, &uri, "1:2").await.status(),
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn an_unknown_namespace_is_refused_with_an_object() {
    let (app, _io) = allowing(echoing());
    let (uri, _) = open(&app, "").await;
    post(&app, &uri, "15:40/nowhere?a=b,").await;
    let expected = r#"44/nowhere,{"message":"Invalid namespace"}"#;
    let expected = format!("{}:{expected}", expected.len());
    assert_eq!(get(&app, &uri).await.body(), &expected);
}

#[tokio::test]
async fn the_query_of_a_namespace_is_its_auth() {
    let (app, _io) = allowing(echoing());
    let (uri, _) = open(&app, "").await;
    post(&app, &uri, "17:40/told?b=1&a=%2C").await;
    assert_eq!(
        get(&app, &uri).await.body(),
        r#"25:44/told,{"a":",","b":"1"}"#
    );
}

#[tokio::test]
async fn a_refusal_is_its_text_or_its_data_and_the_connection_stays() {
    let (app, _io) = allowing(echoing());
    let (uri, _) = open(&app, "").await;
    post(&app, &uri, "10:40/refused").await;
    assert_eq!(
        get(&app, &uri).await.body(),
        r#"27:44/refused,"not authorized""#
    );
    post(&app, &uri, "7:40/told").await;
    assert_eq!(get(&app, &uri).await.body(), "10:44/told,{}");
}

#[tokio::test]
async fn the_connect_handler_of_the_main_namespace_may_refuse_the_client() {
    let refuse = async || Err::<(), _>("members only");
    let (app, _io) = allowing(Namespace::new().on_connect(refuse));
    let addr = serve(app).await;
    let mut client = Client::of_revision_3(addr).await;
    assert_eq!(client.text().await, r#"44"members only""#);
    assert_eq!(client.ask("2").await, "3");
    assert_eq!(
        client.ask("40/refused").await,
        r#"44/refused,"not authorized""#
    );
}

#[tokio::test]
async fn without_a_main_namespace_no_packet_is_sent_for_it() {
    let (layer, _io) = SocketIo::builder()
        .namespace("/a", echoing())
        .allow_eio3(true)
        .build();
    let mut client = Client::of_revision_3(serve(app(layer)).await).await;
    assert_eq!(client.ask("40/a").await, "40/a,");
}

#[tokio::test]
async fn a_websocket_has_the_type_in_front_of_bytes() {
    let addr = serve(allowing(echoing()).0).await;
    let mut client = Client::of_revision_3(addr).await;
    assert_eq!(client.text().await, "40");
    client.send(HEAD).await;
    client.send_binary(&[4, 1, 2, 3]).await;
    assert_eq!(client.text().await, HEAD);
    assert_eq!(client.next().await, Got::Binary(vec![4, 1, 2, 3]));
    client.send_binary(&[1, 2, 3]).await;
    assert_eq!(
        client.next().await,
        Got::Close(Some((1002, "parse error".into())))
    );
}

#[tokio::test]
async fn the_id_of_a_session_that_begins_with_websocket_is_that_of_its_socket() {
    let app = allowing(echoing()).0;
    let addr = serve(app.clone()).await;
    let mut client = Client::raw(addr, "&EIO=3").await;
    let open = client.text().await;
    let sid = &open[r#"0{"sid":""#.len()..][..20];
    assert_eq!(client.text().await, "40");
    assert_eq!(client.ask(r#"421["id"]"#).await, format!(r#"431["{sid}"]"#));
    // The public id gives no access to the session.
    for response in [
        get(&app, &format!("{OPEN}&sid={sid}")).await,
        post(&app, &format!("{OPEN}&sid={sid}"), "1:1").await,
    ] {
        assert_eq!(response.body(), r#"{"code":3,"message":"Bad request"}"#);
    }
    let mut other = Client::raw(addr, &format!("&EIO=3&sid={sid}")).await;
    assert!(matches!(other.closed().await, Got::Close(_) | Got::End));
    assert_eq!(client.ask("2").await, "3");
}

#[tokio::test]
async fn a_socket_io_2_client_can_upgrade() {
    let app = allowing(echoing()).0;
    let addr = serve(app.clone()).await;
    let (uri, sid) = open(&app, "").await;
    let mut client = Client::raw(addr, &format!("&EIO=3&sid={sid}")).await;
    assert_eq!(client.ask("2probe").await, "3probe");
    assert_eq!(get(&app, &uri).await.body(), "1:6");
    client.send("5").await;
    assert_eq!(client.ask(r#"42["echo",1]"#).await, r#"42["echo",1]"#);
    assert_eq!(client.ask("2").await, "3");
    assert_eq!(
        get(&app, &uri).await.body(),
        r#"{"code":3,"message":"Bad request"}"#
    );
}

#[tokio::test]
async fn a_request_of_another_revision_than_its_session_is_refused() {
    let (app, _io) = allowing(echoing());
    let (uri, sid) = open(&app, "").await;
    let other = uri.replace("EIO=3", "EIO=4");
    for response in [get(&app, &other).await, post(&app, &other, "1:2").await] {
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert_eq!(response.body(), r#"{"code":3,"message":"Bad request"}"#);
    }
    let addr = serve(app.clone()).await;
    let url = format!("ws://{addr}/socket.io/?EIO=4&transport=websocket&sid={sid}");
    let refused = tokio_tungstenite::connect_async(url).await;
    assert!(refused.is_err(), "it is no upgrade of this session");
    // The session goes on.
    assert_eq!(post(&app, &uri, "1:2").await.body(), "ok");
    assert_eq!(get(&app, &uri).await.body(), "1:3");
}

#[tokio::test]
async fn the_engine_layer_serves_revision_3_too() {
    async fn echo(mut socket: EngineSocket) {
        while let Some(message) = socket.recv().await {
            socket.send(message);
        }
    }
    let mut config = Config::default();
    config.allow_eio3 = true;
    let app = Router::new().layer(
        EngineLayer::builder(echo)
            .path("/socket.io")
            .config(config)
            .build(),
    );
    let response = get(&app, OPEN).await;
    let json = response.body().split_once(":0").expect("an open packet").1;
    let open: serde_json::Value = serde_json::from_str(json).expect("JSON");
    let uri = format!("{OPEN}&sid={}", open["sid"].as_str().expect("an id"));
    post(&app, &uri, "2:4a2:4b").await;
    assert_eq!(get(&app, &uri).await.body(), "2:4a2:4b");
}
