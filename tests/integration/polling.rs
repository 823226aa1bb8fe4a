//! Long-polling, as a client sees it.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, StatusCode, header};
use axum::routing::get as route_get;
use tower_socketio::{Data, HttpOptions, Namespace, Socket, SocketIo, Transport};

use crate::support;
use crate::support::logs::Logs;
use crate::support::{Polling, app, builder, call, get, main_app, post, until};

const OPEN: &str = "/socket.io/?EIO=4&transport=polling";

async fn echo(socket: Socket, Data(text): Data<String>) {
    socket.emit("echo", text);
}

fn echoing() -> Router {
    main_app(Namespace::new().on("echo", echo)).0
}

#[track_caller]
fn assert_refused(response: &axum::http::Response<String>, body: &str) {
    assert_eq!(response.body(), body);
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
}

const UNKNOWN_TRANSPORT: &str = r#"{"code":0,"message":"Transport unknown"}"#;
const UNKNOWN_SESSION: &str = r#"{"code":1,"message":"Session ID unknown"}"#;
const BAD_METHOD: &str = r#"{"code":2,"message":"Bad handshake method"}"#;
const BAD_REQUEST: &str = r#"{"code":3,"message":"Bad request"}"#;
const UNSUPPORTED: &str = r#"{"code":5,"message":"Unsupported protocol version"}"#;

#[tokio::test]
async fn a_handshake_returns_the_session_and_its_limits() {
    let response = get(&echoing(), OPEN).await;
    assert_eq!(response.status(), StatusCode::OK);
    let headers = response.headers();
    assert_eq!(headers[header::CONTENT_TYPE], "text/plain; charset=UTF-8");
    assert_eq!(headers[header::CACHE_CONTROL], "no-store");

    let json = response.body().strip_prefix('0').expect("an open packet");
    let open: serde_json::Value = serde_json::from_str(json).expect("JSON");
    assert!(open["sid"].as_str().expect("an id").len() >= 20);
    assert_eq!(open["upgrades"], serde_json::json!(["websocket"]));
    assert_eq!(open["pingInterval"], 25_000);
    assert_eq!(open["pingTimeout"], 20_000);
    assert_eq!(open["maxPayload"], 1_000_000);
}

#[tokio::test]
async fn a_handshake_offers_no_upgrade_where_there_is_no_websocket() {
    let (layer, _io) = builder(Namespace::new())
        .transports(&[Transport::Polling])
        .build();
    let app = app(layer);
    assert!(get(&app, OPEN).await.body().contains(r#""upgrades":[]"#));
    let response = get(&app, "/socket.io/?EIO=4&transport=websocket").await;
    assert_refused(&response, UNKNOWN_TRANSPORT);
}

#[tokio::test]
async fn polling_can_be_turned_off() {
    let (layer, _io) = builder(Namespace::new())
        .transports(&[Transport::WebSocket])
        .build();
    assert_refused(&get(&app(layer), OPEN).await, UNKNOWN_TRANSPORT);
}

#[tokio::test]
async fn an_unknown_transport_is_refused_with_code_0() {
    let app = echoing();
    for query in ["", "?EIO=4", "?EIO=4&transport=flash", "?EIO=4&transport="] {
        let response = get(&app, &format!("/socket.io/{query}")).await;
        assert_refused(&response, UNKNOWN_TRANSPORT);
    }
}

#[tokio::test]
async fn an_unknown_session_is_refused_with_code_1() {
    let app = echoing();
    let uri = format!("{OPEN}&sid=abc");
    assert_refused(&get(&app, &uri).await, UNKNOWN_SESSION);
    assert_refused(&post(&app, &uri, "40").await, UNKNOWN_SESSION);
}

#[tokio::test]
async fn a_handshake_other_than_get_is_refused_with_code_2() {
    let app = echoing();
    assert_refused(&post(&app, OPEN, "").await, BAD_METHOD);
    let put = Request::put(OPEN).body(Body::empty()).expect("a request");
    assert_refused(&call(&app, put).await, BAD_METHOD);
}

#[tokio::test]
async fn another_method_in_a_session_is_refused_and_the_session_lives() {
    let app = echoing();
    let mut client = Polling::connect(&app).await;
    let delete = Request::delete(&client.uri).body(Body::empty());
    let response = call(&app, delete.expect("a request")).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert_eq!(client.ask(r#"42["echo","a"]"#).await, r#"42["echo","a"]"#);
}

#[tokio::test]
async fn a_websocket_handshake_without_upgrade_is_refused_with_code_3() {
    let response = get(&echoing(), "/socket.io/?EIO=4&transport=websocket").await;
    assert_refused(&response, BAD_REQUEST);
}

#[tokio::test]
async fn another_revision_is_refused_with_code_5() {
    let app = echoing();
    for query in ["EIO=3&transport=polling", "transport=polling"] {
        let response = get(&app, &format!("/socket.io/?{query}")).await;
        assert_refused(&response, UNSUPPORTED);
    }
}

#[tokio::test]
async fn a_post_is_answered_with_ok() {
    let app = echoing();
    let client = Polling::open(&app).await;
    let response = client.post("40").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.body(), "ok");
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/html");
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
}

#[tokio::test]
async fn a_body_may_hold_several_packets() {
    let mut client = Polling::connect(&echoing()).await;
    client
        .send("42[\"echo\",\"a\"]\x1e42[\"echo\",\"b\"]\x1e42[\"echo\",\"c\"]")
        .await;
    for text in ["a", "b", "c"] {
        assert_eq!(client.next().await, format!(r#"42["echo","{text}"]"#));
    }
}

#[tokio::test]
async fn binary_packets_travel_as_base64() {
    async fn double(Data(bytes): Data<Bytes>) -> Bytes {
        [bytes.clone(), bytes].concat().into()
    }
    let app = main_app(Namespace::new().on("double", double)).0;
    let mut client = Polling::connect(&app).await;
    client
        .send("451-7[\"double\",{\"_placeholder\":true,\"num\":0}]\x1ebAQID")
        .await;
    let header = r#"461-7[{"_placeholder":true,"num":0}]"#;
    assert_eq!(client.next().await, header);
    assert_eq!(client.next().await, "bAQIDAQID");
}

#[tokio::test]
async fn base64_may_have_line_breaks_as_the_java_client_writes_them() {
    let len = async |Data(bytes): Data<Bytes>| bytes.len();
    let app = main_app(Namespace::new().on("len", len)).0;
    let mut client = Polling::connect(&app).await;
    let digits = "A".repeat(76);
    for (base64, len) in [
        ("AQIDBA==\n", 4),
        (&*format!("{digits}\n{digits}\n"), 114),
        (&*format!("{digits}\r\nAQ==\r\n"), 58),
        ("AQ", 1),
    ] {
        let body = format!("451-7[\"len\",{{\"_placeholder\":true,\"num\":0}}]\x1eb{base64}");
        assert_eq!(client.ask(&body).await, format!("437[{len}]"));
    }
}

#[tokio::test]
async fn a_body_declared_as_too_long_is_not_read() {
    let (layer, _io) = builder(Namespace::new().on("echo", echo))
        .max_payload(100)
        .build();
    let app = app(layer);
    let mut client = Polling::connect(&app).await;
    let response = client.post("4".repeat(101)).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(response.body(), "");
    // The server has handled no part of the body, so the session lives.
    assert_eq!(client.ask(r#"42["echo","a"]"#).await, r#"42["echo","a"]"#);
    // The answer does not wait for the body.
    let stream = tokio::net::TcpStream::connect(support::serve(app).await).await;
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: test\r\ncontent-length: 1000\r\n\r\n",
        client.uri
    );
    let answer = support::send_head(&mut stream.expect("a connection"), &head).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn a_chunked_body_is_read_up_to_the_limit() {
    let (layer, _io) = builder(Namespace::new().on("echo", echo))
        .max_payload(100)
        .build();
    let app = app(layer);
    let mut client = Polling::connect(&app).await;
    // The body never ends, so the server must answer before it has read all of it.
    let chunk = || Some((Ok::<_, Infallible>(Bytes::from_static(b"4xxxxxxxxx")), ()));
    let endless = futures_util::stream::unfold((), move |()| std::future::ready(chunk()));
    let response = client.post(Body::from_stream(endless)).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(client.ask(r#"42["echo","a"]"#).await, r#"42["echo","a"]"#);
}

/// The status and the context of each refusal.
type Told = Arc<Mutex<Vec<(u16, &'static str)>>>;

/// Returns an app that records its refusals.
fn told_of_refusals(http: HttpOptions) -> (Router, Told) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let http = http.on_connection_error({
        let told = Arc::clone(&told);
        move |request, error| {
            assert!(
                request
                    .uri
                    .query()
                    .is_some_and(|query| query.contains("sid="))
            );
            let entry = (error.status().as_u16(), error.context());
            told.lock().expect("no panic").push(entry);
        }
    });
    let main = Namespace::new().on("echo", echo);
    let (layer, _io) = builder(main).max_payload(100).http(http).build();
    (app(layer), told)
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_arrive_in_time_gets_408_and_ends_the_session() {
    let short = HttpOptions::new().body_timeout(Duration::from_secs(7));
    for (http, seconds, polled) in [(HttpOptions::new(), 30, "2"), (short, 7, "1")] {
        let (app, told) = told_of_refusals(http);
        let client = Polling::connect(&app).await;
        let started = tokio::time::Instant::now();
        let never = futures_util::stream::pending::<Result<Bytes, Infallible>>();
        // A pending poll is answered when the session ends.
        let poll = client.poll();
        let response = client.post(Body::from_stream(never)).await;
        assert_eq!(started.elapsed().as_secs(), seconds);
        assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
        assert_eq!(response.body(), "");
        let told = std::mem::take(&mut *told.lock().expect("no panic"));
        assert_eq!(told, [(408, "`body_timeout`")]);
        assert_eq!(poll.await.expect("no panic").body(), polled);
        assert_ended(&client).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_timeout_may_be_infinite() {
    let (app, _) = told_of_refusals(HttpOptions::new().body_timeout(Duration::MAX));
    let mut client = Polling::connect(&app).await;
    let late = futures_util::stream::once(async {
        tokio::time::sleep(Duration::from_secs(40)).await;
        Ok::<_, Infallible>(Bytes::from_static(b"3"))
    });
    let (uri, body) = (client.uri.clone(), Body::from_stream(late));
    let post = tokio::spawn(async move { post(&app, &uri, body).await });
    assert_eq!(client.get().await.body(), "2");
    assert_eq!(post.await.expect("no panic").body(), "ok");
    assert_eq!(client.ask(r#"42["echo","a"]"#).await, r#"42["echo","a"]"#);
}

#[tokio::test]
async fn a_body_that_arrives_in_pieces_is_read_whole() {
    let mut client = Polling::connect(&echoing()).await;
    let pieces = ["", "42[\"ec", "ho\",\"a\"]\x1e", "", "42[\"echo\",\"b\"]"];
    let pieces = pieces.map(|piece| Ok::<_, Infallible>(Bytes::from_static(piece.as_bytes())));
    let body = Body::from_stream(futures_util::stream::iter(pieces));
    assert_eq!(client.post(body).await.body(), "ok");
    for text in ["a", "b"] {
        assert_eq!(client.next().await, format!(r#"42["echo","{text}"]"#));
    }
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_is_accepted() {
    let (layer, _io) = builder(Namespace::new().on("echo", echo))
        .max_payload(100)
        .build();
    let mut client = Polling::connect(&app(layer)).await;
    let event = format!(r#"42["echo","{}"]"#, "x".repeat(100 - 13));
    assert_eq!(event.len(), 100);
    assert_eq!(client.ask(&event).await, event);
}

#[tokio::test]
async fn small_binary_messages_that_the_client_expects_to_fit_are_accepted() {
    async fn count(Data(bytes): Data<Bytes>) -> usize {
        bytes.len()
    }
    for (size, base64) in [
        (1, "Bw==".to_owned()),
        (4, "BwcHBw==".to_owned()),
        (100, "BwcH".repeat(33) + "Bw=="),
    ] {
        let events = 50;
        let header = r#"451-1["count",{"_placeholder":true,"num":0}]"#;
        // The client assumes that base64 is 1.33 times as long as the bytes.
        let counted = header.len() + 1 + (size * 133_usize).div_ceil(100) + 2;
        let limit = events * counted - 1;
        let main = Namespace::new().on("count", count);
        let (layer, _io) = builder(main).max_payload(limit).build();
        let mut client = Polling::connect(&app(layer)).await;
        let body = vec![format!("{header}\u{1e}b{base64}"); events].join("\u{1e}");
        assert!(body.len() > limit, "{size}");
        client.send(&body).await;
        for _ in 0..events {
            assert_eq!(client.next().await, format!("431[{size}]"));
        }
        // The tolerance applies to base64 only: text has the exact limit.
        let text = client.post("4".repeat(limit + 1)).await;
        assert_eq!(text.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
}

#[tokio::test]
async fn a_body_that_is_too_long_is_logged_and_passed_to_the_hook() {
    let (logs, _guard) = Logs::keep();
    let (app, told) = told_of_refusals(HttpOptions::new());
    let client = Polling::connect(&app).await;
    for _ in 0..2 {
        let response = client.post("4".repeat(200)).await;
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
    let [warning] = &logs.warnings()[..] else {
        panic!("{:?}", logs.warnings());
    };
    assert!(warning.contains("`max_payload`"), "{warning}");
    let told = std::mem::take(&mut *told.lock().expect("no panic"));
    assert_eq!(told, [(413, "the length of the body"); 2]);
}

#[tokio::test]
async fn a_body_of_bytes_is_refused_and_ends_the_session() {
    let app = echoing();
    let client = Polling::connect(&app).await;
    let request = Request::post(&client.uri)
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .body(Body::from("40"));
    let response = call(&app, request.expect("a request")).await;
    assert_failed(&response);
    assert_ended(&client).await;
}

/// Asserts that a request that violates the transport gets an empty answer with status 400.
#[track_caller]
fn assert_failed(response: &axum::http::Response<String>) {
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert_eq!(response.body(), "");
}

/// Asserts that a session has ended: at most one poll still gets the end, and then the session is
/// unknown.
async fn assert_ended(client: &Polling) {
    let response = client.get().await;
    if response.status() == StatusCode::OK {
        assert!(
            ["1", "6"].contains(&&**response.body()),
            "{}",
            response.body()
        );
    }
    assert_refused(&client.get().await, UNKNOWN_SESSION);
}

#[tokio::test]
async fn a_malformed_body_is_answered_with_ok_and_ends_the_session() {
    for body in ["", "xyz", "4a\x1e", "\x1e", "b!!!"] {
        let app = echoing();
        let mut client = Polling::connect(&app).await;
        client.send(body).await;
        assert_ended(&client).await;
    }
}

#[tokio::test]
async fn packets_before_a_malformed_one_are_delivered_and_none_after_it() {
    let (sender, mut texts) = tokio::sync::mpsc::unbounded_channel();
    let keep = move |Data(text): Data<String>| {
        let sender = sender.clone();
        async move {
            let _ = sender.send(text);
        }
    };
    let (app, io) = main_app(Namespace::new().on("keep", keep));
    let mut client = Polling::connect(&app).await;
    client
        .send("42[\"keep\",\"a\"]\x1eabc\x1e42[\"keep\",\"b\"]")
        .await;
    assert_ended(&client).await;
    until(|| io.counts().sessions == 0).await;
    assert_eq!(texts.try_recv().as_deref(), Ok("a"));
    assert!(texts.try_recv().is_err());
}

#[tokio::test]
async fn a_body_that_is_not_utf_8_ends_the_session() {
    let client = Polling::connect(&echoing()).await;
    let response = client.post(&b"4\xff\xfe"[..]).await;
    assert_eq!(response.body(), "ok");
    assert_ended(&client).await;
}

#[tokio::test]
async fn a_second_poll_is_refused_and_releases_the_first_with_a_close_packet() {
    let client = Polling::connect(&echoing()).await;
    let first = client.poll();
    // The runtime has one thread, so the poll is pending after one yield.
    tokio::task::yield_now().await;
    assert_failed(&client.get().await);
    let first = first.await.expect("no panic");
    assert_eq!((first.status(), &**first.body()), (StatusCode::OK, "1"));
    assert_refused(&client.get().await, UNKNOWN_SESSION);
}

#[tokio::test]
async fn a_second_post_is_refused_and_ends_the_session() {
    let app = echoing();
    let client = Polling::connect(&app).await;
    let (_sender, receiver) = tokio::sync::oneshot::channel::<()>();
    let body = futures_util::stream::once(async move {
        let _ = receiver.await;
        Ok::<_, Infallible>(Bytes::from_static(b"3"))
    });
    let (uri, never) = (client.uri.clone(), Body::from_stream(body));
    let first = tokio::spawn({
        let app = app.clone();
        async move { post(&app, &uri, never).await }
    });
    tokio::task::yield_now().await;
    assert_failed(&client.post("40").await);
    assert_ended(&client).await;
    first.abort();
}

#[tokio::test]
async fn a_close_packet_releases_the_poll_and_ends_the_session() {
    let (app, io) = main_app(Namespace::new());
    let mut client = Polling::connect(&app).await;
    let poll = client.poll();
    tokio::task::yield_now().await;
    client.send("1").await;
    let poll = poll.await.expect("no panic");
    assert_eq!((poll.status(), &**poll.body()), (StatusCode::OK, "6"));
    assert_refused(&client.get().await, UNKNOWN_SESSION);
    assert_refused(&client.post("40").await, UNKNOWN_SESSION);
    until(|| io.counts().sessions == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_poll_overtaken_by_its_clients_close_packet_is_released_once() {
    let (app, io) = main_app(Namespace::new());
    let mut client = Polling::connect(&app).await;
    client.send("1").await;
    until(|| io.counts().sockets == 0).await;
    assert_refused(&client.post("40").await, UNKNOWN_SESSION);
    let poll = client.get().await;
    assert_eq!((poll.status(), &**poll.body()), (StatusCode::OK, "6"));
    assert_refused(&client.get().await, UNKNOWN_SESSION);
    until(|| io.counts().sessions == 0).await;

    let mut client = Polling::connect(&app).await;
    client.send("1").await;
    tokio::time::sleep(Duration::from_millis(510)).await;
    assert_refused(&client.get().await, UNKNOWN_SESSION);
    assert_eq!(io.counts().sessions, 0);
}

#[tokio::test]
async fn a_post_to_a_closing_session_loses_no_packets() {
    async fn last_words(socket: Socket) {
        socket.emit("last", "words");
        socket.close();
    }
    let (app, io) = main_app(Namespace::new().on("end", last_words));
    let mut client = Polling::connect(&app).await;
    client.send(r#"42["end"]"#).await;
    until(|| io.counts().sockets == 0).await;
    let response = client.post(r#"42["echo","too late"]"#).await;
    assert_eq!(response.status(), StatusCode::OK);
    let last = "42[\"last\",\"words\"]\x1e41";
    assert_eq!(client.get().await.body(), last);
    assert_eq!(client.get().await.body(), "1");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_answer_pings_times_out() {
    let (app, io) = main_app(Namespace::new());
    let client = Polling::connect(&app).await;
    let started = tokio::time::Instant::now();
    assert_eq!(client.get().await.body(), "2");
    assert_eq!(started.elapsed().as_secs(), 25);
    tokio::time::sleep(Duration::from_millis(20_010)).await;
    assert_refused(&client.get().await, UNKNOWN_SESSION);
    assert_eq!(io.counts().sessions, 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_pings_stays() {
    let mut client = Polling::connect(&echoing()).await;
    let started = tokio::time::Instant::now();
    for _ in 0..10 {
        assert_eq!(client.get().await.body(), "2");
        client.send("3").await;
    }
    assert_eq!(started.elapsed().as_secs(), 250);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_joins_no_namespace_is_closed() {
    let (layer, _io) = builder(Namespace::new())
        .connect_timeout(Duration::from_secs(3))
        .build();
    let client = Polling::open(&app(layer)).await;
    let started = tokio::time::Instant::now();
    assert_eq!(client.get().await.body(), "1");
    assert_eq!(started.elapsed().as_secs(), 3);
    assert_refused(&client.get().await, UNKNOWN_SESSION);
}

#[tokio::test]
async fn the_path_is_matched_by_whole_segments() {
    let (layer, _io) = builder(Namespace::new()).build();
    let app = Router::new()
        .route("/socket.io-docs", route_get(|| async { "docs" }))
        .layer(layer);
    assert_eq!(get(&app, "/socket.io-docs").await.body(), "docs");
    for path in ["/socket.io", "/socket.io/", "/socket.io/below"] {
        let response = get(&app, &format!("{path}?EIO=4&transport=polling")).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
    }
    for path in ["/socket.iox/", "/", "/a/socket.io/", "/Socket.io/"] {
        let response = get(&app, &format!("{path}?EIO=4&transport=polling")).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn a_catch_all_route_beside_the_layer_gets_other_requests() {
    let (layer, _io) = builder(Namespace::new().on("echo", echo)).build();
    let app = Router::new()
        .route("/{*path}", route_get(|| async { "caught" }))
        .layer(layer);
    assert_eq!(get(&app, "/anything").await.body(), "caught");
    // GET and POST reach the same server, on the routes and on the fallback.
    let mut client = Polling::connect(&app).await;
    assert_eq!(client.ask(r#"42["echo","a"]"#).await, r#"42["echo","a"]"#);
}

#[tokio::test]
async fn clones_of_a_layer_are_one_server() {
    let (layer, io) = builder(Namespace::new().on("echo", echo)).build();
    let (one, other) = (app(layer.clone()), app(layer));
    let client = Polling::connect(&one).await;
    let event = r#"42["echo","a"]"#;
    assert_eq!(post(&other, &client.uri, event).await.body(), "ok");
    assert_eq!(get(&other, &client.uri).await.body(), event);
    assert_eq!(io.counts().sessions, 1);
}

#[tokio::test]
async fn the_path_is_configurable() {
    let (layer, _io) = builder(Namespace::new()).path("/a/realtime/").build();
    let app = app(layer);
    let uri = "/a/realtime/?EIO=4&transport=polling";
    assert_eq!(get(&app, uri).await.status(), StatusCode::OK);
    assert_eq!(get(&app, OPEN).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_server_can_be_the_service_of_a_route() {
    let (layer, _io) = builder(Namespace::new().on("echo", echo)).build();
    let service = layer.into_service();
    let app = Router::new()
        .route_service("/realtime/", service.clone())
        .nest_service("/nested", service);
    for path in ["/realtime/", "/nested", "/nested/", "/nested/below"] {
        let request = Request::get(format!("{path}?EIO=4&transport=polling"));
        let request = request.body(Body::empty()).expect("a request");
        let mut client = Polling::open_with(&app, request).await;
        client.join("/").await;
        assert_eq!(client.ask(r#"42["echo","a"]"#).await, r#"42["echo","a"]"#);
    }
}

#[tokio::test(start_paused = true)]
async fn too_many_clients_are_refused_with_status_503() {
    let (layer, _io) = builder(Namespace::new()).max_connections(2).build();
    let app = app(layer);
    let mut first = Polling::connect(&app).await;
    let _second = Polling::connect(&app).await;
    let response = get(&app, OPEN).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    let body = r#"{"code":4,"message":"Service unavailable"}"#;
    assert_eq!(response.body(), body);

    first.send("1").await;
    tokio::time::sleep(Duration::from_millis(510)).await;
    assert_eq!(get(&app, OPEN).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_server_that_has_closed_refuses_clients_with_status_503() {
    let (app, io) = main_app(Namespace::new());
    let client = Polling::connect(&app).await;
    let poll = client.poll();
    tokio::task::yield_now().await;
    support::within(io.close()).await;
    assert_eq!(poll.await.expect("no panic").body(), "1");
    let response = get(&app, OPEN).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn an_http_handler_emits_through_the_server() {
    async fn publish(io: SocketIo, body: String) -> StatusCode {
        io.emit("news", body);
        StatusCode::ACCEPTED
    }
    let (layer, _io) = builder(Namespace::new()).build();
    let app = Router::new()
        .route("/publish", axum::routing::post(publish))
        .layer(layer);
    let mut client = Polling::connect(&app).await;
    let response = post(&app, "/publish", "rain").await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    assert_eq!(client.next().await, r#"42["news","rain"]"#);
}

#[tokio::test]
async fn the_server_is_not_an_extractor_outside_the_layer() {
    let app = Router::new().route("/", route_get(|_: SocketIo| async {}));
    let response = get(&app, "/").await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(response.body().contains("layer"), "{}", response.body());
}

#[tokio::test]
async fn a_poll_that_is_aborted_ends_the_session() {
    let (app, io) = main_app(Namespace::new());
    let client = Polling::connect(&app).await;
    let poll = client.poll();
    tokio::task::yield_now().await;
    poll.abort();
    assert!(poll.await.expect_err("aborted").is_cancelled());
    until(|| io.counts().sessions == 0).await;
    assert_refused(&client.get().await, UNKNOWN_SESSION);
}

#[tokio::test]
async fn a_post_that_is_aborted_ends_the_session() {
    let (app, io) = main_app(Namespace::new());
    let client = Polling::connect(&app).await;
    let never = futures_util::stream::pending::<Result<Bytes, Infallible>>();
    let uri = client.uri.clone();
    let post = tokio::spawn(async move { post(&app, &uri, Body::from_stream(never)).await });
    tokio::task::yield_now().await;
    post.abort();
    assert!(post.await.expect_err("aborted").is_cancelled());
    until(|| io.counts().sessions == 0).await;
    assert_refused(&client.get().await, UNKNOWN_SESSION);
}

#[tokio::test]
async fn a_poll_gets_all_buffered_packets_in_the_order_of_the_calls() {
    let (app, io) = main_app(Namespace::new());
    let client = Polling::connect(&app).await;
    for text in ["a", "b", "c"] {
        io.emit("news", text);
    }
    let all = ["a", "b", "c"].map(|text| format!(r#"42["news","{text}"]"#));
    assert_eq!(client.get().await.body(), &all.join("\x1e"));
}

#[tokio::test]
async fn an_empty_session_id_counts_as_missing() {
    let response = get(&echoing(), &format!("{OPEN}&sid=")).await;
    assert!(response.body().starts_with("0{"));
}
