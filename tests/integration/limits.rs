//! Limits on what one client can use, and what happens when it exceeds them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Request, StatusCode};
use futures_util::stream;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tower::ServiceExt;
use tower_socketio::protocol::JsonParser;
use tower_socketio::{
    Data, DisconnectReason, ErrorReply, Handler, Namespace, RawArgs, Recovery, RoomChange,
    RoomEvent, Socket, SocketIo, SocketIoBuilder, engine,
};

use crate::support;
use crate::support::{
    Client, Got, Polling, app, builder, call, frame, main_app, serve, text_frame, until, within,
};

/// Returns a namespace that sends the disconnect reason of each socket.
fn telling() -> (Namespace, mpsc::UnboundedReceiver<DisconnectReason>) {
    let (sender, left) = mpsc::unbounded_channel();
    let leave = async move |reason: DisconnectReason| {
        let _ = sender.send(reason);
    };
    (Namespace::new().on_disconnect(leave), left)
}

async fn echo(socket: Socket, Data(text): Data<String>) {
    socket.emit("echo", text);
}

/// Yields until every task waits for something.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_post_waits_while_too_many_events_are_pending() {
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let work = async move |_: Data<String>| opened.acquire().await.expect("open").forget();
    let (layer, _io) = builder(Namespace::new().on("work", work))
        .max_pending(1_000)
        .build();
    let client = Polling::connect(&app(layer)).await;
    let event = format!(r#"42["work","{}"]"#, "x".repeat(400));
    let body = [&*event; 6].join("\x1e");
    let mut post = std::pin::pin!(client.post(body));
    tokio::select! {
        biased;
        response = &mut post => panic!("all of it was taken: {response:?}"),
        () = settle() => {}
    }
    gate.add_permits(6);
    assert_eq!(within(post).await.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn the_rooms_of_a_socket_that_has_left_do_not_count() {
    let enter = async |socket: Socket| {
        for n in 0..4 {
            socket.join(format!("room{n}"));
        }
    };
    let rooms = async |socket: Socket| socket.rooms().len();
    let other = Namespace::new().on("rooms", rooms).on_connect(enter);
    let (layer, _io) = builder(Namespace::new())
        .namespace("/other", other)
        .max_kept(5_000)
        .build();
    let mut client = Polling::connect(&app(layer)).await;
    for _ in 0..20 {
        client.join("/other").await;
        let rooms = client.ask(r#"42/other,1["rooms"]"#).await;
        assert_eq!(rooms, "43/other,1[4]");
        client.send("41/other,").await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_events_of_a_socket_that_is_disconnected_are_not_pending() {
    let work = async |_: Data<String>| std::future::pending::<()>().await;
    let (layer, io) = builder(Namespace::new())
        .namespace("/other", Namespace::new().on("work", work))
        .max_pending(1_000)
        .build();
    let mut client = Polling::connect(&app(layer)).await;
    client.join("/other").await;
    let event = format!(r#"42/other,["work","{}"]"#, "x".repeat(400));
    // The first handler runs, and the other events wait for it. The last one is not read.
    let mut post = std::pin::pin!(client.post([&*event; 5].join("\x1e")));
    tokio::select! {
        biased;
        response = &mut post => panic!("all of it was taken: {response:?}"),
        () = settle() => {}
    }
    // Its events do not count any more.
    io.of("/other").disconnect();
    assert_eq!(within(post).await.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn the_open_acknowledgements_of_a_socket_that_has_left_do_not_count() {
    let work = async |_: Data<String>| std::future::pending::<()>().await;
    let ask = async |socket: Socket| {
        let _ = socket.emit_with_ack::<()>("question", ()).await;
    };
    let (layer, _io) = builder(Namespace::new().on("work", work))
        .namespace("/other", Namespace::new().on("ask", ask))
        .max_pending(1_000)
        .build();
    let mut client = Polling::connect(&app(layer)).await;
    client.join("/other").await;
    client.send(r#"42/other,["ask"]"#).await;
    let question = client.next().await;
    assert!(question.starts_with("42/other,"), "{question}");
    client.send("41/other,").await;
    settle().await;
    let event = format!(r#"42["work","{}"]"#, "x".repeat(400));
    // With an open acknowledgement four times as much would be taken.
    let body = [&*event; 6].join("\x1e");
    let mut post = std::pin::pin!(client.post(body));
    tokio::select! {
        biased;
        response = &mut post => panic!("all of it was taken: {response:?}"),
        () = settle() => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_post_that_waits_is_refused_when_its_session_ends() {
    let main = Namespace::new().on("work", async || std::future::pending::<()>().await);
    let (layer, io) = builder(main).max_pending(1_000).build();
    let client = Polling::connect(&app(layer)).await;
    let event = format!(r#"42["work","{}"]"#, "x".repeat(400));
    // The client does not poll, so it fetches no ping.
    let response = client.post([&*event; 6].join("\x1e")).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    // The running handler may finish, but the session has ended.
    assert_eq!(io.counts().sockets, 0);
}

#[tokio::test(start_paused = true)]
async fn unfetched_acknowledgements_delay_a_post_for_twenty_seconds() {
    let (layer, _io) = builder(Namespace::new().on("echo", echo))
        .ping_timeout(Duration::from_secs(60))
        .build();
    let client = Polling::connect(&app(layer)).await;
    let event = format!(r#"42["echo","{}"]"#, "x".repeat(50_000));
    let begun = tokio::time::Instant::now();
    let response = client.post([&*event; 15].join("\x1e")).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert_eq!(begun.elapsed().as_secs(), 20);
}

#[tokio::test(start_paused = true)]
async fn unfetched_refusals_end_the_session_at_once() {
    let (layer, io) = builder(Namespace::new()).build();
    let client = Polling::connect(&app(layer)).await;
    let begun = tokio::time::Instant::now();
    let response = client.post(["40/a,"; 120_000].join("\x1e")).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert_eq!(begun.elapsed(), Duration::ZERO);
    until(|| io.counts().sessions == 0).await;
}

#[tokio::test]
async fn attachments_count_with_their_pending_event() {
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let begun = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&begun);
    let work = async move |_: RawArgs| {
        counted.fetch_add(1, Ordering::Relaxed);
        opened.acquire().await.expect("open").forget();
    };
    let (layer, _io) = builder(Namespace::new().on("work", work))
        .max_pending(10_000)
        .build();
    let client = Polling::connect(&app(layer)).await;
    let large = format!("b{}", "A".repeat(8_000));
    let head = r#"452-["work",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#;
    // The last attachment is small.
    let event = [head, &large, "bAAAA"].join("\x1e");
    let body = [&*event; 10].join("\x1e");
    let mut post = std::pin::pin!(client.post(body));
    tokio::select! {
        biased;
        response = &mut post => panic!("all of it was taken: {response:?}"),
        () = settle() => {}
    }
    gate.add_permits(10);
    assert_eq!(within(post).await.status(), StatusCode::OK);
    until(|| begun.load(Ordering::Relaxed) == 10).await;
}

#[tokio::test]
async fn the_auth_of_a_client_counts_while_its_connect_handler_runs() {
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let connect = async move || opened.acquire().await.expect("open").forget();
    let (layer, io) = SocketIo::builder()
        .namespace("/{any}", Namespace::new().on_connect(connect))
        .max_pending(10_000)
        .build();
    let client = Polling::open(&app(layer)).await;
    let connect = |n: usize| format!(r#"40/{n},{{"x":"{}"}}"#, "x".repeat(4_000));
    let body: Vec<_> = (0..10).map(connect).collect();
    let mut post = std::pin::pin!(client.post(body.join("\x1e")));
    tokio::select! {
        biased;
        response = &mut post => panic!("all of it was taken: {response:?}"),
        () = settle() => {}
    }
    assert_eq!(io.counts().sockets, 3);
    gate.add_permits(10);
    assert_eq!(within(post).await.status(), StatusCode::OK);
    until(|| io.counts().sockets == 10).await;
}

#[tokio::test]
async fn an_auth_that_is_too_long_is_refused_and_the_connection_goes_on() {
    let (layer, io) = builder(Namespace::new())
        .namespace("/b", Namespace::new())
        .max_auth(100)
        .build();
    let mut client = Polling::connect(&app(layer)).await;
    let auth = |len: usize| format!(r#"40/b,{{"token":"{}"}}"#, "x".repeat(len - 12));
    let refused = client.ask(&auth(101)).await;
    assert_eq!(refused, r#"44/b,{"message":"Authentication is too long"}"#);
    client.send(&auth(100)).await;
    assert!(client.next().await.starts_with("40/b,"));
    assert_eq!(io.counts().sockets, 2);
}

#[tokio::test]
async fn the_query_of_a_socket_io_2_client_counts_as_auth() {
    let (layer, _io) = builder(Namespace::new())
        .namespace("/b", Namespace::new())
        .allow_eio3(true)
        .max_auth(100)
        .build();
    let mut client = Client::of_revision_3(serve(app(layer)).await).await;
    assert_eq!(client.text().await, "40");
    let refused = client.ask(&format!("40/b?a={}", "%00".repeat(16))).await;
    assert_eq!(refused, r#"44/b,{"message":"Authentication is too long"}"#);
    assert_eq!(client.ask("40/b?a=1").await, "40/b,");
}

#[tokio::test]
async fn the_auth_of_all_namespaces_of_a_connection_is_bounded() {
    let (layer, io) = SocketIo::builder()
        .namespace("/{any}", Namespace::new())
        .max_kept(10_000)
        .build();
    let mut client = Polling::open(&app(layer)).await;
    let auth = |name| format!(r#"40/{name},{{"token":"{}"}}"#, "x".repeat(4_000));
    for name in ["a", "b"] {
        let welcome = client.ask(&auth(name)).await;
        assert!(welcome.starts_with("40/"), "{welcome}");
    }
    let refused = client.ask(&auth("c")).await;
    let expected = r#"44/c,{"message":"Too much is kept for this connection"}"#;
    assert_eq!(refused, expected);
    client.send("41/a,").await;
    until(|| io.counts().sockets == 1).await;
    assert!(client.ask(&auth("c")).await.starts_with("40/c,"));
}

#[tokio::test]
async fn the_auth_of_undecided_connects_counts_too() {
    let (layer, _io) = SocketIo::builder()
        .namespace_if(async |_| std::future::pending().await, Namespace::new())
        .max_kept(10_000)
        .build();
    let mut client = Polling::open(&app(layer)).await;
    let auth = |name| format!(r#"40/{name},{{"token":"{}"}}"#, "x".repeat(4_000));
    let refused = client.ask(&["a", "b", "c"].map(auth).join("\x1e")).await;
    let expected = r#"44/c,{"message":"Too much is kept for this connection"}"#;
    assert_eq!(refused, expected);
}

#[tokio::test]
async fn the_head_of_the_handshake_is_bounded() {
    let (layer, io) = builder(Namespace::new()).max_handshake(1_000).build();
    let app = app(layer);
    let open = |len| {
        let request = Request::get("/socket.io/?EIO=4&transport=polling");
        request
            .header("x-filler", "y".repeat(len))
            .body(Body::empty())
    };
    let refused = call(&app, open(1_000).expect("a request")).await;
    assert_eq!(
        refused.status(),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    );
    let expected = r#"{"code":3,"message":"Request header fields too large"}"#;
    assert_eq!(refused.body(), expected);
    assert_eq!(io.counts().sessions, 0);
    // The URI counts too. The limit does not apply to later requests, which are not stored.
    let long = format!(
        "/socket.io/?EIO=4&transport=polling&x={}",
        "y".repeat(1_000)
    );
    assert_eq!(support::get(&app, &long).await.status(), refused.status());
    let client = Polling::open_with(&app, open(900).expect("a request")).await;
    let mut post = Request::post(&client.uri);
    post = post.header("x-filler", "y".repeat(2_000));
    let post = call(&app, post.body(Body::from("40")).expect("a request")).await;
    assert_eq!(post.status(), StatusCode::OK);

    let addr = serve(app).await;
    let mut stream = TcpStream::connect(addr).await.expect("a connection");
    let head = support::upgrade_head(&format!("&x={}", "y".repeat(1_000)));
    let head = support::send_head(&mut stream, &head).await;
    assert!(head.starts_with("HTTP/1.1 431"), "{head}");
    // The connection closes, so hyper drops the buffer of the long head too.
    assert!(head.contains("connection: close"), "{head}");
}

#[tokio::test]
async fn rooms_and_data_count_for_all_sockets_of_a_connection() {
    let (layer, io) = builder(Namespace::new())
        .namespace("/b", Namespace::new())
        .max_kept(10_000)
        .build();
    let mut client = Polling::connect(&app(layer)).await;
    client.join("/b").await;
    let [a, b] = ["/", "/b"].map(|name| io.of(name).sockets().remove(0));
    a.join("x".repeat(4_000));
    b.join("y".repeat(4_000));
    a.join("z".repeat(4_000));
    assert_eq!((a.rooms().len(), b.rooms().len()), (1, 1));
    let text = |len| "x".repeat(len);
    assert!(a.set_data(text(2_000)).is_err());
    assert_eq!(a.data::<String>(), None);
    a.set_data(text(500)).expect("it fits");
    b.leave("y".repeat(4_000));
    a.set_data(text(2_000)).expect("it fits");
    b.join("y".repeat(4_000));
    assert!(b.rooms().is_empty());
    a.disconnect();
    drop(a);
    until(|| io.of("/").sockets().is_empty()).await;
    within(async {
        while b.rooms().is_empty() {
            tokio::task::yield_now().await;
            b.join("y".repeat(4_000));
        }
    })
    .await;
}

#[tokio::test]
async fn a_socket_that_does_not_fit_into_the_budget_is_not_restored() {
    let connect = async |socket: Socket| socket.join("r".repeat(4_000));
    let (layer, io) = builder(Namespace::new().on_connect(connect))
        .namespace("/b", Namespace::new())
        .recovery(Recovery::within(Duration::from_secs(60)))
        .max_kept(10_000)
        .build();
    let addr = serve(app(layer)).await;
    let read = |welcome: &str| -> Value {
        assert!(welcome.starts_with("40{"), "{welcome}");
        serde_json::from_str(&welcome[2..]).expect("JSON")
    };
    for (auth, is_back) in [(1_000, true), (6_000, false)] {
        let mut client = Client::open(addr).await;
        let before = read(&client.ask("40").await);
        drop(client);
        until(|| io.counts().sockets == 0).await;
        let mut client = Client::open(addr).await;
        let auth = format!(r#"40/b,{{"x":"{}"}}"#, "x".repeat(auth));
        assert!(client.ask(&auth).await.starts_with("40/b,{"));
        let claim = format!(r#"40{{"pid":{}}}"#, before["pid"]);
        let after = read(&client.ask(&claim).await);
        assert_eq!(after["sid"] == before["sid"], is_back);
        drop(client);
        until(|| io.counts().sockets == 0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn events_held_for_connecting_sockets_are_bounded() {
    let connect = async || std::future::pending::<()>().await;
    let (layer, io) = SocketIo::builder()
        .namespace("/{any}", Namespace::new().on_connect(connect))
        .max_buffered(10_000)
        .build();
    let client = Polling::open(&app(layer)).await;
    client.post("40/a,\x1e40/b,\x1e40/c,").await;
    until(|| io.counts().sockets == 3).await;
    let text = "x".repeat(1_000);
    for name in ["/a", "/b", "/c"] {
        (0..3).for_each(|_| io.of(name).emit("text", &text));
    }
    settle().await;
    assert_eq!(client.get().await.status(), StatusCode::OK);
    io.of("/a").emit("text", &text);
    io.of("/b").emit("text", &text);
    assert_eq!(client.get().await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn handlers_of_sockets_that_have_left_are_counted() {
    let running = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&running);
    let connect = async move || {
        counted.fetch_add(1, Ordering::Relaxed);
        std::future::pending::<()>().await;
    };
    let (layer, _io) = builder(Namespace::new().on_connect(connect))
        .max_namespaces(4)
        .build();
    let mut client = Polling::open(&app(layer)).await;
    client.send(&["40", "41"].repeat(100).join("\x1e")).await;
    let told = client.next().await;
    assert_eq!(told, r#"44{"message":"Too many namespaces"}"#);
    assert_eq!(running.load(Ordering::Relaxed), 8);
}

#[tokio::test]
async fn the_concurrent_handlers_of_a_socket_are_limited() {
    let running = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&running);
    let slow = async move || {
        counted.fetch_add(1, Ordering::Relaxed);
        std::future::pending::<()>().await;
    };
    let (app, _io) = main_app(Namespace::new().on("slow", slow.concurrent()));
    let mut client = Polling::connect(&app).await;
    client.send(&[r#"42["slow"]"#; 100].join("\x1e")).await;
    settle().await;
    assert_eq!(running.load(Ordering::Relaxed), 64);
}

#[tokio::test]
async fn the_dynamic_namespaces_are_limited() {
    let (layer, io) = builder(Namespace::new())
        .namespace("/rooms/{name}", Namespace::new())
        .max_dynamic_namespaces(2)
        .build();
    let app = app(layer);
    let mut client = Polling::connect(&app).await;
    client.join("/rooms/a").await;
    client.join("/rooms/b").await;
    let told = client.ask("40/rooms/c,").await;
    assert_eq!(told, r#"44/rooms/c,{"message":"Invalid namespace"}"#);
    // A client may join an existing namespace. When a namespace is dropped, a new one fits.
    let mut other = Polling::connect(&app).await;
    other.join("/rooms/a").await;
    client.send("41/rooms/b,").await;
    until(|| io.counts().namespaces == 2).await;
    other.join("/rooms/c").await;
}

#[tokio::test]
async fn events_buffered_for_a_connecting_client_are_bounded() {
    let (namespace, mut left) = telling();
    let connect = async |socket: Socket| {
        let text = "x".repeat(100);
        while socket.try_emit("flood", &text).is_ok() {}
        Err::<(), _>(ErrorReply::new("never"))
    };
    let (layer, io) = builder(namespace.on_connect(connect))
        .max_buffered(10_000)
        .build();
    let client = Polling::open(&app(layer)).await;
    let poll = client.poll();
    settle().await;
    client.post("40").await;
    assert_eq!(poll.await.expect("no panic").body(), "1");
    until(|| io.counts().sessions == 0).await;
    // The socket had never connected, so no disconnect handler runs.
    assert!(left.try_recv().is_err());
}

#[tokio::test]
async fn the_attachments_of_a_packet_and_their_bytes_are_limited() {
    let (namespace, mut left) = telling();
    let parser = JsonParser::default()
        .max_attachments(2)
        .max_attachment_bytes(10);
    let (layer, _io) = builder(namespace).parser(parser).build();
    let addr = serve(app(layer)).await;
    let mut many = Client::connect(addr, "/").await;
    many.send(r#"453-["x",{"_placeholder":true,"num":0}]"#)
        .await;
    assert!(matches!(many.closed().await, Got::Close(Some((1009, _)))));
    assert_eq!(within(left.recv()).await, Some(DisconnectReason::TooBig));
    let mut large = Client::connect(addr, "/").await;
    let head = r#"452-["x",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#;
    large.send(head).await;
    large.send_binary(&[0; 6]).await;
    large.send_binary(&[0; 6]).await;
    assert!(matches!(large.closed().await, Got::Close(Some((1009, _)))));
    assert_eq!(within(left.recv()).await, Some(DisconnectReason::TooBig));
}

#[tokio::test(start_paused = true)]
async fn attachments_may_be_missing_for_half_a_minute() {
    let (app, _io) = main_app(Namespace::new());
    let mut client = Polling::connect(&app).await;
    let started = tokio::time::Instant::now();
    client
        .send(r#"451-["x",{"_placeholder":true,"num":0}]"#)
        .await;
    while client.get().await.body() == "2" {
        client.send("3").await;
    }
    assert_eq!(started.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn the_body_of_a_post_may_take_half_a_minute() {
    let (namespace, mut left) = telling();
    let (app, _io) = main_app(namespace);
    let client = Polling::connect(&app).await;
    let started = tokio::time::Instant::now();
    let body = stream::pending::<Result<Bytes, std::convert::Infallible>>();
    let response = client.post(Body::from_stream(body)).await;
    assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
    assert_eq!(started.elapsed().as_secs(), 30);
    let reason = within(left.recv()).await;
    assert_eq!(reason, Some(DisconnectReason::TransportError));
}

/// Opens a WebSocket in the main namespace, over a stream with a small buffer.
async fn narrow(app: &axum::Router) -> DuplexStream {
    let (mut client, server) = tokio::io::duplex(4_096);
    let app = app.clone();
    let service =
        hyper::service::service_fn(move |request| tower::ServiceExt::oneshot(app.clone(), request));
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(hyper_util::rt::TokioIo::new(server), service);
    tokio::spawn(connection.with_upgrades());
    let head = support::upgrade_head("");
    client
        .write_all(head.as_bytes())
        .await
        .expect("it is taken");
    let mut response = Vec::new();
    while !response.ends_with(b"\r\n\r\n") {
        response.push(client.read_u8().await.expect("a response"));
    }
    assert!(next_frame(&mut client).await.1.starts_with(b"0{"));
    client
        .write_all(&text_frame("40"))
        .await
        .expect("it is taken");
    assert!(next_frame(&mut client).await.1.starts_with(b"40"));
    client
}

/// Returns the opcode and the payload of the next frame.
async fn next_frame(stream: &mut DuplexStream) -> (u8, Vec<u8>) {
    within(async {
        let opcode = stream.read_u8().await.expect("a frame") & 0xf;
        let len = match stream.read_u8().await.expect("a length") {
            126 => usize::from(stream.read_u16().await.expect("a length")),
            127 => stream.read_u64().await.expect("a length") as usize,
            len => usize::from(len),
        };
        let mut payload = vec![0; len];
        stream.read_exact(&mut payload).await.expect("a payload");
        (opcode, payload)
    })
    .await
}

#[tokio::test]
async fn pongs_that_are_not_read_do_not_pile_up() {
    const PINGS: u32 = 20_000;
    let (app, io) = main_app(Namespace::new());
    let mut client = narrow(&app).await;
    io.emit("large", "x".repeat(100_000));
    settle().await;
    for n in 1..=PINGS {
        let ping = frame(9, &n.to_be_bytes());
        within(client.write_all(&ping)).await.expect("it is read");
    }
    settle().await;
    let mut pongs = Vec::new();
    while pongs.last() != Some(&PINGS) {
        let (opcode, payload) = next_frame(&mut client).await;
        if opcode == 10 {
            let n = payload.try_into().expect("what the ping had");
            pongs.push(u32::from_be_bytes(n));
        }
    }
    assert!(pongs.is_sorted());
    assert!(pongs.len() < 1_000, "{} answers waited", pongs.len());
}

/// The server reads nothing while its client has much to read.
#[tokio::test(start_paused = true)]
async fn attachments_that_the_server_does_not_read_are_not_missing() {
    let got = async |socket: Socket| socket.emit("got", 1);
    let (app, io) = main_app(Namespace::new().on("x", got));
    let mut client = narrow(&app).await;
    let header = text_frame(r#"451-["x",{"_placeholder":true,"num":0}]"#);
    client.write_all(&header).await.expect("it is taken");
    settle().await;
    for _ in 0..4 {
        io.emit("large", "x".repeat(200_000));
    }
    settle().await;
    client
        .write_all(&frame(2, &[1]))
        .await
        .expect("it is taken");
    let mut some = [0; 4_096];
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        client.read_exact(&mut some).await.expect("a part");
    }
    // The rest, and what follows.
    let mut rest = Vec::new();
    while !rest.ends_with(br#"42["got",1]"#) {
        rest.push(within(client.read_u8()).await.expect("an answer"));
    }
}

#[tokio::test]
async fn a_join_does_not_run_the_hook_for_all_changes_of_others() {
    let other = Arc::new(OnceLock::<Socket>::new());
    let busy = Arc::new(AtomicBool::new(true));
    let told = Arc::new(Mutex::new(Vec::new()));
    let hook = {
        let (other, busy, told) = (Arc::clone(&other), Arc::clone(&busy), Arc::clone(&told));
        move |event: RoomEvent| {
            if *event.room == *"busy" {
                told.lock().expect("whole").push(event.change);
            }
            if let Some(other) = other.get().filter(|_| busy.load(Ordering::Relaxed)) {
                // While the hook runs for one event, another client causes four more.
                let change = || {
                    other.join("busy");
                    other.leave("busy");
                };
                std::thread::scope(|scope| scope.spawn(change).join().expect("no panic"));
            }
        }
    };
    let (app, io) = main_app(Namespace::new().on_room_event(hook));
    let _clients = [Polling::connect(&app).await, Polling::connect(&app).await];
    let mut sockets = io.sockets();
    let socket = sockets.remove(0);
    let id = sockets[0].id();
    assert!(other.set(sockets.remove(0)).is_ok());
    let (joined, returned) = oneshot::channel();
    let caller = Arc::clone(&busy);
    std::thread::spawn(move || {
        socket.join("room");
        caller.store(false, Ordering::Relaxed);
        joined.send(()).expect("the test waits");
    });
    within(returned).await.expect("it returns");
    let told = || std::mem::take(&mut *told.lock().expect("whole"));
    let mut all = told();
    let expected = [
        RoomChange::Create,
        RoomChange::Join(id),
        RoomChange::Leave(id),
        RoomChange::Delete,
    ];
    // A task notifies the hook of the rest, in order.
    until(|| {
        all.extend(told());
        all.last() == Some(&RoomChange::Delete) && all.len() >= 4 * 33
    })
    .await;
    assert!(all.iter().eq(expected.iter().cycle().take(all.len())));
}

/// The longest duration, one that the clock can barely represent, and the shortest.
const TIMES: [Duration; 3] = [
    Duration::MAX,
    Duration::from_secs(i64::MAX as u64 - 1_000_000_000_000),
    Duration::from_nanos(1),
];

type Set = fn(SocketIoBuilder, Duration) -> SocketIoBuilder;

/// The setters of all durations of a server.
const SETTERS: [(&str, Set); 5] = [
    ("ping_interval", SocketIoBuilder::ping_interval),
    ("ping_timeout", SocketIoBuilder::ping_timeout),
    ("upgrade_timeout", SocketIoBuilder::upgrade_timeout),
    ("connect_timeout", SocketIoBuilder::connect_timeout),
    ("within", |builder, time| {
        builder.recovery(Recovery::within(time))
    }),
];

#[tokio::test]
async fn each_duration_may_be_infinite() {
    for (name, set) in SETTERS {
        for time in &TIMES[..2] {
            let echo = async |Data(text): Data<String>| text;
            let (layer, io) = set(builder(Namespace::new().on("echo", echo)), *time).build();
            let app = app(layer);
            let addr = serve(app.clone()).await;
            let client = Polling::connect(&app).await;
            let mut probe = Client::raw(addr, &format!("&sid={}", client.sid)).await;
            assert_eq!(probe.ask("2probe").await, "3probe", "{name}");
            probe.send("5").await;
            assert_eq!(
                probe.ask(r#"421["echo","x"]"#).await,
                r#"431["x"]"#,
                "{name}"
            );
            let mut other = Client::connect(addr, "/").await;
            assert_eq!(
                other.ask(r#"421["echo","x"]"#).await,
                r#"431["x"]"#,
                "{name}"
            );
            io.emit("event", 1);
            assert!(other.text().await.starts_with(r#"42["event",1"#), "{name}");
            drop((client, probe, other));
            within(io.close()).await;
        }
    }
}

#[tokio::test]
async fn each_duration_may_be_tiny() {
    for (name, set) in SETTERS {
        let (layer, _io) = set(builder(Namespace::new()), TIMES[2]).build();
        let app = app(layer);
        let addr = serve(app.clone()).await;
        let opened = support::get(&app, "/socket.io/?EIO=4&transport=polling").await;
        assert_eq!(opened.status(), StatusCode::OK, "{name}");
        let mut client = Client::open(addr).await;
        // The answer depends on the setting that is being tested.
        client.send("40").await;
        assert_ne!(client.next().await, Got::End, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_infinite_heartbeat_fits_into_the_timers_of_clients() {
    let (layer, _io) = builder(Namespace::new())
        .ping_interval(Duration::MAX)
        .ping_timeout(Duration::MAX)
        .build();
    let app = app(layer);
    let opened = support::get(&app, "/socket.io/?EIO=4&transport=polling").await;
    let told = r#""pingInterval":1073741823,"pingTimeout":1073741823,"#;
    assert!(opened.body().contains(told), "{}", opened.body());
    let mut client = Polling::connect(&app).await;
    let uri = client.uri.clone();
    let ping = async || {
        let request = Request::get(&uri).body(Body::empty());
        let response = app.clone().oneshot(request.expect("a request")).await;
        let body = response.expect("infallible").into_body();
        axum::body::to_bytes(body, 100).await.expect("a body")
    };
    let started = tokio::time::Instant::now();
    assert_eq!(ping().await, "2");
    assert_eq!(started.elapsed().as_millis(), 1_073_741_823);
    client.send("3").await;
    assert_eq!(ping().await, "2");
    // The pong may be as late as it likes.
    tokio::time::advance(Duration::from_secs(100_000_000)).await;
    assert_eq!(client.ask("3\x1e41\x1e40").await.get(..2), Some("40"));
}

#[tokio::test]
async fn the_timeout_of_an_acknowledgement_may_be_any_duration() {
    let (app, io) = main_app(Namespace::new());
    let mut client = Client::connect(serve(app).await, "/").await;
    for time in &TIMES[..2] {
        let socket = io.sockets().remove(0);
        let one = socket.emit_with_ack::<u8>("ask", ()).timeout(*time);
        let all = io.of("/").emit_with_ack::<u8>("ask", ()).timeout(*time);
        let answers = tokio::spawn(async move { (one.await, all.await) });
        for _ in 0..2 {
            let asked = client.text().await;
            let id = asked[2..].split('[').next().expect("an id");
            client.send(&format!("43{id}[7]")).await;
        }
        let (one, all) = within(answers).await.expect("no panic");
        assert_eq!(one.expect("an answer"), 7);
        assert!(matches!(all[..], [(_, Ok(7))]));
    }
    for time in [Duration::ZERO, TIMES[2]] {
        let socket = io.sockets().remove(0);
        let one = socket.emit_with_ack::<u8>("ask", ()).timeout(time).await;
        assert!(one.is_err_and(|error| error.is_timeout()));
        let all = io.of("/").emit_with_ack::<u8>("ask", ()).timeout(time);
        let all = within(all.into_future()).await;
        assert!(matches!(&all[..], [(_, Err(error))] if error.is_timeout()));
    }
}

/// Returns the message of a panic in this thread and the file of its location.
fn panic_of(run: impl FnOnce() + std::panic::UnwindSafe) -> (String, String) {
    thread_local! {
        static BLAMED: std::cell::RefCell<Option<String>> = const { std::cell::RefCell::new(None) };
    }
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let file = info.location().map(|at| at.file().to_owned());
            BLAMED.set(file);
            before(info);
        }));
    });
    let payload = std::panic::catch_unwind(run).expect_err("a panic");
    let text = payload.downcast_ref::<String>().cloned();
    let text = text.or_else(|| Some((*payload.downcast_ref::<&str>()?).to_owned()));
    (text.expect("a text"), BLAMED.take().expect("a place"))
}

#[test]
fn a_duration_of_zero_panics_at_its_setter() {
    for (name, set) in SETTERS {
        let (text, file) = panic_of(|| drop(set(builder(Namespace::new()), Duration::ZERO)));
        assert_eq!(text, format!("`{name}` must be longer than zero"));
        // Called through a function pointer, the setter reports its own location.
        assert!(!file.is_empty());
    }
    let builder = builder(Namespace::new());
    let (_, file) = panic_of(std::panic::AssertUnwindSafe(|| {
        drop(builder.ping_interval(Duration::ZERO));
    }));
    assert!(file.ends_with("tests/integration/limits.rs"), "{file}");
    let mut config = engine::Config::default();
    config.ping_timeout = Duration::ZERO;
    let (_, file) = panic_of(std::panic::AssertUnwindSafe(|| {
        drop(
            engine::EngineLayer::builder(async |_| {})
                .config(config)
                .build(),
        );
    }));
    assert!(file.ends_with("tests/integration/limits.rs"), "{file}");
}
