//! WebSocket, as a client sees it: over HTTP/1.1, over HTTP/2, and clients that do not read.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Method, Request, StatusCode, Version};
use axum::serve::ListenerExt;
use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use tower_socketio::{
    Data, DisconnectReason, Namespace, Socket, SocketId, Transport, Uncompressed,
};

use crate::support;
use crate::support::logs::Logs;
use crate::support::{
    Client, Got, Polling, app, builder, compressed_frame, deflate_head, frame, in_memory, main_app,
    raw_session, raw_session_on, read_frame, send_head, serve, text_frame, until, upgrade_head,
    within,
};

async fn echo(socket: Socket, Data(text): Data<String>) {
    socket.emit("echo", text);
}

fn echoing() -> Namespace {
    Namespace::new().on("echo", echo)
}

/// Returns a namespace that sends the id and the disconnect reason of each socket.
fn telling() -> (
    Namespace,
    mpsc::UnboundedReceiver<(SocketId, DisconnectReason)>,
) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let namespace = echoing().on_disconnect(move |socket: Socket, reason: DisconnectReason| {
        let sender = sender.clone();
        async move {
            let _ = sender.send((socket.id(), reason));
        }
    });
    (namespace, receiver)
}

#[tokio::test]
async fn a_session_may_begin_with_websocket() {
    let addr = serve(main_app(echoing()).0).await;
    let mut client = Client::raw(addr, "").await;
    let open = client.text().await;
    assert!(open.starts_with("0{"), "{open}");
    assert!(open.contains(r#""upgrades":[]"#), "{open}");
    client.join("/").await;
    assert_eq!(client.ask(r#"42["echo","a"]"#).await, r#"42["echo","a"]"#);
}

#[tokio::test]
async fn a_session_moves_from_polling_to_websocket() {
    async fn transport(socket: Socket) -> String {
        let name = socket.transport().name();
        name.to_owned()
    }
    let (app, _io) = main_app(echoing().on("transport", transport));
    let addr = serve(app.clone()).await;
    let mut polling = Polling::connect(&app).await;
    assert_eq!(
        polling.ask(r#"420["transport"]"#).await,
        r#"430["polling"]"#
    );

    let poll = polling.poll();
    let mut client = Client::raw(addr, &format!("&sid={}", polling.sid)).await;
    assert_eq!(client.ask("2probe").await, "3probe");
    let poll = within(poll).await.expect("no panic");
    assert_eq!(poll.body(), "6");
    client.send("5").await;
    assert_eq!(
        client.ask(r#"421["transport"]"#).await,
        r#"431["websocket"]"#
    );
    let response = polling.get().await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert_eq!(client.ask(r#"42["echo","a"]"#).await, r#"42["echo","a"]"#);
}

#[tokio::test]
async fn a_failed_upgrade_leaves_polling_open() {
    let (app, _io) = main_app(echoing());
    let addr = serve(app.clone()).await;
    let mut polling = Polling::connect(&app).await;
    for first in ["2probe", "nonsense", "40"] {
        let mut client = Client::raw(addr, &format!("&sid={}", polling.sid)).await;
        client.send(first).await;
        if first == "2probe" {
            assert_eq!(client.text().await, "3probe");
        }
        drop(client);
        let event = r#"42["echo","a"]"#;
        polling.send(event).await;
        let mut packet = polling.next().await;
        while packet == "6" {
            packet = polling.next().await;
        }
        assert_eq!(packet, event);
    }
}

#[tokio::test]
async fn a_probe_that_breaks_the_rules_of_websocket_leaves_polling_open() {
    let (app, _io) = main_app(echoing());
    let addr = serve(app.clone()).await;
    let mut polling = Polling::connect(&app).await;
    let unmasked = b"\x81\x062probe";
    let too_long = b"\x81\xff\x00\x00\x00\x00\xff\x00\x00\x00\x00\x00\x00\x00";
    for faulty in [&unmasked[..], too_long] {
        let mut stream = TcpStream::connect(addr).await.expect("a connection");
        let head = upgrade_head(&format!("&sid={}", polling.sid));
        assert!(send_head(&mut stream, &head).await.contains(" 101 "));
        within(stream.write_all(faulty)).await.expect("it is taken");
        let mut end = Vec::new();
        let _ = within(stream.read_to_end(&mut end)).await;
        assert_eq!(end.first(), Some(&0x88), "a close frame");
        let event = r#"42["echo","a"]"#;
        assert_eq!(polling.ask(event).await, event);
    }
}

#[tokio::test]
async fn a_second_websocket_of_a_session_is_closed() {
    let addr = serve(main_app(echoing()).0).await;
    let mut first = Client::raw(addr, "").await;
    let open = first.text().await;
    let open: serde_json::Value = serde_json::from_str(&open[1..]).expect("JSON");
    let sid = open["sid"].as_str().expect("an id");
    let mut second = Client::raw(addr, &format!("&sid={sid}")).await;
    assert!(matches!(second.closed().await, Got::Close(_) | Got::End));
    first.join("/").await;
    assert_eq!(first.ask(r#"42["echo","a"]"#).await, r#"42["echo","a"]"#);
}

#[tokio::test]
async fn an_unknown_session_is_refused() {
    let addr = serve(main_app(echoing()).0).await;
    let head = upgrade_head("&sid=unknown");
    assert_refusal(addr, &head, r#"{"code":1,"message":"Session ID unknown"}"#).await;
}

async fn assert_refusal(addr: std::net::SocketAddr, head: &str, body: &str) {
    let mut stream = TcpStream::connect(addr).await.expect("a connection");
    let response = send_head(&mut stream, head).await;
    assert!(response.starts_with("HTTP/1.1 400"), "{response}");
    let mut read = vec![0; body.len()];
    within(stream.read_exact(&mut read)).await.expect("a body");
    assert_eq!(String::from_utf8_lossy(&read), body);
}

#[tokio::test]
async fn an_upgrade_with_faulty_headers_is_refused() {
    let (app, io) = main_app(echoing());
    let addr = serve(app).await;
    for (right, wrong) in [
        ("upgrade: websocket\r\n", ""),
        ("upgrade: websocket", "upgrade: h2c"),
        ("connection: Upgrade", "connection: keep-alive"),
        ("version: 13", "version: 12"),
        ("sec-websocket-version: 13\r\n", ""),
        ("dGhlIHNhbXBsZSBub25jZQ==", "short"),
        ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ!!"),
        ("sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""),
    ] {
        let head = upgrade_head("").replace(right, wrong);
        assert_refusal(addr, &head, r#"{"code":3,"message":"Bad request"}"#).await;
    }
    assert_eq!(io.counts().sessions, 0);
}

#[tokio::test]
async fn the_accept_header_is_that_of_the_rfc() {
    let addr = serve(main_app(echoing()).0).await;
    let mut stream = TcpStream::connect(addr).await.expect("a connection");
    let head = send_head(&mut stream, &upgrade_head("")).await;
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
}

#[tokio::test]
async fn a_message_of_the_limit_is_accepted_and_a_longer_one_closes_with_1009() {
    let (logs, _guard) = Logs::keep();
    let (namespace, mut left) = telling();
    let (layer, _io) = builder(namespace).max_payload(1_000).build();
    let addr = serve(app(layer)).await;
    let mut client = Client::connect(addr, "/").await;
    let event = format!(r#"42["echo","{}"]"#, "x".repeat(1_000 - 13));
    assert_eq!(event.len(), 1_000);
    assert_eq!(client.ask(&event).await, event);
    client.send(&format!("{event}x")).await;
    let close = Got::Close(Some((1009, String::new())));
    assert_eq!(client.closed().await, close);
    let (_, reason) = within(left.recv()).await.expect("it left");
    assert_eq!(reason, DisconnectReason::TooBig);
    assert_eq!(reason.as_str(), "transport error");
    let warnings = logs.warnings();
    assert!(warnings[0].contains("`max_payload`"), "{warnings:?}");
    assert_eq!(warnings.len(), 1);
}

#[tokio::test]
async fn fragments_count_together_against_the_limit() {
    let (layer, io) = builder(echoing()).max_payload(1_000).build();
    let addr = serve(app(layer)).await;
    let mut stream = raw_session(addr).await;
    let mut first = frame(1, &[b'4'; 600]);
    first[0] &= 0x7f;
    let mut bytes = first;
    bytes.extend(frame(0, &[b'4'; 600]));
    within(stream.write_all(&bytes)).await.expect("it is taken");
    let mut end = [0; 4];
    within(stream.read_exact(&mut end))
        .await
        .expect("a close frame");
    assert_eq!(end, [0x88, end[1], 0x03, 0xf1]);
    drop(stream);
    until(|| io.counts().sessions == 0).await;
}

#[tokio::test]
async fn a_malformed_packet_closes_with_1002() {
    for (packet, text) in [
        ("x", "parse error"),
        ("", "parse error"),
        ("4", "protocol violation"),
        ("42", "protocol violation"),
        (r#"42["echo""#, "protocol violation"),
        ("49", "protocol violation"),
    ] {
        let (namespace, mut left) = telling();
        let addr = serve(main_app(namespace).0).await;
        let mut client = Client::connect(addr, "/").await;
        client.send(packet).await;
        let close = Got::Close(Some((1002, text.to_owned())));
        assert_eq!(client.closed().await, close, "{packet}");
        let (_, reason) = within(left.recv()).await.expect("it left");
        let parse = reason == DisconnectReason::ParseError;
        assert_eq!(parse, text == "parse error", "{packet}: {reason}");
    }
}

#[tokio::test]
async fn bytes_that_no_packet_awaits_close_with_1002() {
    let addr = serve(main_app(echoing()).0).await;
    let mut client = Client::connect(addr, "/").await;
    client.send_binary(b"abc").await;
    assert!(matches!(client.closed().await, Got::Close(Some((1002, _)))));
}

#[tokio::test]
async fn framing_errors_close_with_their_code() {
    for (bytes, code) in [
        (vec![0x81, 0x01, b'3'], 1002_u16),
        (frame(1, b"4\xff\xfe"), 1007),
        (frame(3, b""), 1002),
        (
            {
                let mut f = text_frame("3");
                f[0] |= 0x40;
                f
            },
            1002,
        ),
        (frame(9, &[0; 126]), 1002),
    ] {
        let addr = serve(main_app(echoing()).0).await;
        let mut stream = raw_session(addr).await;
        within(stream.write_all(&bytes)).await.expect("it is taken");
        let mut end = [0; 4];
        within(stream.read_exact(&mut end))
            .await
            .expect("a close frame");
        assert_eq!(end[0], 0x88, "{bytes:?}");
        assert_eq!(end[2..4], code.to_be_bytes(), "{bytes:?}");
    }
}

#[tokio::test]
async fn a_close_frame_is_answered_and_ends_the_session() {
    let (namespace, mut left) = telling();
    let (app, io) = main_app(namespace);
    let addr = serve(app).await;
    let mut client = Client::connect(addr, "/").await;
    let close = CloseFrame {
        code: CloseCode::Library(4001),
        reason: "for a reason".into(),
    };
    within(client.stream.close(Some(close)))
        .await
        .expect("sent");
    let echo = Got::Close(Some((4001, "for a reason".to_owned())));
    assert_eq!(client.closed().await, echo);
    let (_, reason) = within(left.recv()).await.expect("it left");
    assert_eq!(reason.as_str(), "transport close");
    until(|| io.counts().sessions == 0).await;
}

#[tokio::test]
async fn pings_of_websocket_are_answered() {
    let addr = serve(main_app(echoing()).0).await;
    let mut stream = raw_session(addr).await;
    within(stream.write_all(&frame(9, b"hello")))
        .await
        .expect("it is taken");
    let mut pong = [0; 7];
    within(stream.read_exact(&mut pong)).await.expect("a pong");
    assert_eq!(&pong, b"\x8a\x05hello");
}

#[tokio::test]
async fn frames_may_come_byte_by_byte() {
    let addr = serve(main_app(echoing()).0).await;
    let mut stream = raw_session(addr).await;
    stream.set_nodelay(true).expect("an option");
    let long = format!(r#"42["echo","{}"]"#, "ä".repeat(100));
    for byte in [text_frame("40"), text_frame(&long)].concat() {
        within(stream.write_all(&[byte]))
            .await
            .expect("it is taken");
    }
    assert!(support::read_frame(&mut stream).await.starts_with("40"));
    assert_eq!(support::read_frame(&mut stream).await, long);
}

#[tokio::test]
async fn websocket_works_over_http_2() {
    let (app, io) = main_app(echoing());
    let addr = serve(app).await;
    let stream = TcpStream::connect(addr).await.expect("a connection");
    let (client, connection) = within(h2::client::handshake(stream)).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let mut client = within(client.ready()).await.expect("ready");
    // The server's settings arrive with its first frames.
    until(|| client.is_extended_connect_protocol_enabled()).await;

    let uri = format!("http://{addr}/socket.io/?EIO=4&transport=websocket");
    let request = Request::builder()
        .method(Method::CONNECT)
        .version(Version::HTTP_2)
        .uri(uri)
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat.v1, token")
        .extension(h2::ext::Protocol::from_static("websocket"))
        .body(())
        .expect("a request");
    let (response, mut send) = client.send_request(request, false).expect("a stream");
    let response = within(response).await.expect("a response");
    assert_eq!(response.status(), StatusCode::OK);
    assert!(!response.headers().contains_key("sec-websocket-accept"));
    assert_eq!(response.headers()["sec-websocket-protocol"], "chat.v1");

    let mut body = response.into_body();
    let mut frames = Vec::new();
    let mut packets = Vec::new();
    let echo = r#"42["echo","over h2"]"#;
    let bytes = [text_frame("40"), text_frame(echo)].concat();
    send.send_data(Bytes::from(bytes), false).expect("sent");
    while packets.len() < 3 {
        let data = within(body.data()).await.expect("more").expect("data");
        body.flow_control()
            .release_capacity(data.len())
            .expect("capacity");
        frames.extend_from_slice(&data);
        while let [0x81, len @ 0..=125, rest @ ..] = &frames[..] {
            let len = usize::from(*len);
            if rest.len() < len {
                break;
            }
            packets.push(String::from_utf8_lossy(&rest[..len]).into_owned());
            frames.drain(..len + 2);
        }
    }
    assert!(packets[0].starts_with("0{"), "{packets:?}");
    assert!(packets[1].starts_with("40{"), "{packets:?}");
    assert_eq!(packets[2], echo);

    send.send_data(Bytes::from(frame(8, b"")), false)
        .expect("sent");
    until(|| io.counts().sessions == 0).await;
    connection.abort();
}

/// Connects a client to the main namespace that does not read any more.
async fn stalled(addr: std::net::SocketAddr) -> TcpStream {
    let mut stream = raw_session(addr).await;
    join(&mut stream).await;
    stream
}

/// The capacity of an in-memory stream, in bytes.
const ROOM: usize = 64 * 1024;

/// Connects a client to the main namespace, over an in-memory stream, that does not read any more.
async fn stalled_in_memory(app: &axum::Router) -> DuplexStream {
    let mut stream = raw_session_on(in_memory(app.clone(), ROOM)).await;
    join(&mut stream).await;
    stream
}

async fn join<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    within(stream.write_all(&text_frame("40")))
        .await
        .expect("it is taken");
    assert!(read_frame(stream).await.starts_with("40"));
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_and_others_get_everything() {
    let (namespace, mut left) = telling();
    let (layer, io) = builder(namespace).max_buffered(1 << 20).build();
    let addr = serve(app(layer)).await;
    let _stalled = stalled(addr).await;
    let mut reader = Client::connect(addr, "/").await;

    let text = "x".repeat(100_000);
    let mut sent = 0;
    // This is more than the system's socket buffers and the limit hold.
    let (_, reason) = loop {
        if let Ok(left) = left.try_recv() {
            break left;
        }
        io.emit("flood", &text);
        sent += 1;
        assert!(sent < 1_000, "100 MB wait for one client");
        let packet = reader.text().await;
        assert!(packet.starts_with(r#"42["flood""#));
        assert_eq!(packet.len(), text.len() + 14);
    };
    assert_eq!(reason, DisconnectReason::SlowConsumer);
    until(|| io.sockets().len() == 1).await;
    io.emit("still", "here");
    assert_eq!(reader.text().await, r#"42["still","here"]"#);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_as_a_slow_consumer() {
    let (namespace, mut left) = telling();
    let (layer, io) = builder(namespace).max_buffered(100_000).build();
    let addr = serve(app(layer)).await;
    let _stalled = stalled(addr).await;
    let sockets = io.sockets();
    let text = "x".repeat(50_000);
    for _ in 0..10_000 {
        if sockets[0].try_emit("flood", &text).is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let error = sockets[0].try_emit("flood", &text).expect_err("too slow");
    assert!(error.is_closed() && !error.is_encode());
    let (id, reason) = within(left.recv()).await.expect("it left");
    assert_eq!(id, sockets[0].id());
    assert_eq!(reason, DisconnectReason::SlowConsumer);
    assert_eq!(reason.as_str(), "slow consumer");
}

/// Fills the in-memory stream to a client that does not read.
async fn fill(socket: &Socket) {
    let text = "x".repeat(ROOM);
    for _ in 0..100 {
        // The paused clock advances when every task waits.
        tokio::time::sleep(Duration::from_millis(1)).await;
        if socket.drained().now_or_never().is_none() {
            return;
        }
        socket.emit("flood", &text);
    }
    panic!("there is room for more than {ROOM} bytes");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_does_not_delay_the_end_of_the_server() {
    let (app, io) = main_app(echoing());
    let _stalled = stalled_in_memory(&app).await;
    fill(&io.sockets()[0]).await;
    let mut reader = stalled_in_memory(&app).await;

    let started = Instant::now();
    let closing = tokio::spawn({
        let io = io.clone();
        async move { io.close().await }
    });
    assert_eq!(
        read_frame(&mut reader).await,
        "\u{3}\u{fffd}server shutting down"
    );
    assert_eq!(started.elapsed(), Duration::ZERO, "the reader waited");
    drop(reader);
    within(closing).await.expect("no panic");
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(io.counts().sessions, 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_leaves_at_once_when_it_is_disconnected() {
    let (namespace, mut left) = telling();
    let (app, io) = main_app(namespace);
    let _stalled = stalled_in_memory(&app).await;
    let socket = io.sockets().remove(0);
    fill(&socket).await;
    socket.join("room");
    socket.disconnect();
    assert!(!socket.is_connected());
    assert!(io.sockets().is_empty());
    assert_eq!(io.counts().rooms, 0);
    let (_, reason) = within(left.recv()).await.expect("it left");
    assert_eq!(reason.as_str(), "server namespace disconnect");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_but_steadily_stays() {
    let (namespace, mut left) = telling();
    let (layer, io) = builder(namespace)
        .max_buffered(64 << 20)
        .ping_interval(Duration::from_secs(60))
        .ping_timeout(Duration::from_millis(500))
        .build();
    let mut stream = stalled_in_memory(&app(layer)).await;
    let socket = io.sockets().remove(0);
    let text = "x".repeat(100_000);
    for _ in 0..300 {
        socket.emit("flood", &text);
    }
    // The client reads 30 MB, 1 MB every 400 ms. That takes 22 times the timeout, but never without
    // progress.
    let mut room = vec![0; 1 << 20];
    for _ in 0..28 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        if within(stream.read_exact(&mut room)).await.is_err() {
            let (_, reason) = within(left.recv()).await.expect("it left");
            panic!("closed with `{reason}` though it read");
        }
    }
    assert!(left.try_recv().is_err(), "it was closed though it read");
    assert_eq!(socket.transport(), Transport::WebSocket);
}

#[tokio::test]
async fn bytes_are_sent_as_text_to_text_only_clients() {
    let (app, io) = main_app(echoing());
    let addr = serve(app).await;
    let mut client = Client::raw(addr, "&b64=1").await;
    assert!(client.text().await.starts_with("0{"));
    client.join("/").await;
    io.emit("raw", Data(Bytes::from_static(&[1, 2])));
    let header = r#"451-["raw",{"_placeholder":true,"num":0}]"#;
    assert_eq!(client.text().await, header);
    assert_eq!(client.text().await, "bAQI=");
}

#[tokio::test]
async fn an_upgrade_request_for_polling_is_refused() {
    let addr = serve(main_app(echoing()).0).await;
    let head = upgrade_head("").replace("transport=websocket", "transport=polling");
    assert_refusal(addr, &head, r#"{"code":3,"message":"Bad request"}"#).await;
}

#[tokio::test]
async fn a_refused_websocket_gets_the_supported_version() {
    let addr = serve(main_app(echoing()).0).await;
    let mut stream = TcpStream::connect(addr).await.expect("a connection");
    let head = upgrade_head("").replace("version: 13", "version: 12");
    let head = send_head(&mut stream, &head).await;
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    assert!(head.contains("sec-websocket-version: 13"), "{head}");
    assert!(head.contains("content-length: 34"), "{head}");
}

#[tokio::test]
async fn a_close_packet_ends_the_session() {
    let (namespace, mut left) = telling();
    let addr = serve(main_app(namespace).0).await;
    let mut client = Client::connect(addr, "/").await;
    client.send("1").await;
    assert_eq!(client.closed().await, Got::Close(None));
    let (_, reason) = within(left.recv()).await.expect("it left");
    assert_eq!(reason.as_str(), "transport close");
}

#[tokio::test]
async fn meaningless_packets_are_ignored() {
    let addr = serve(main_app(echoing()).0).await;
    let mut client = Client::connect(addr, "/").await;
    for packet in ["6", "5", "0{}", "3"] {
        client.send(packet).await;
    }
    assert_eq!(client.ask(r#"42["echo","a"]"#).await, r#"42["echo","a"]"#);
}

#[tokio::test]
async fn a_closing_server_sends_no_close_code() {
    let (app, io) = main_app(echoing());
    let addr = serve(app).await;
    let mut client = Client::connect(addr, "/").await;
    io.sockets()[0].close();
    assert_eq!(client.closed().await, Got::Close(None));
}

#[tokio::test]
async fn a_broadcast_is_the_same_frame_as_an_emit() {
    let (app, io) = main_app(echoing());
    let addr = serve(app).await;
    let mut stream = stalled(addr).await;
    io.emit("news", "rain");
    io.sockets()[0].emit("news", "rain");
    let mut frames = [0; 2 * (2 + 17)];
    within(stream.read_exact(&mut frames)).await.expect("two");
    let (first, second) = frames.split_at(2 + 17);
    assert_eq!(first, [&[0x81, 17][..], br#"42["news","rain"]"#].concat());
    assert_eq!(first, second);
}

#[tokio::test]
async fn the_address_is_that_of_the_tcp_peer() {
    use axum::extract::ConnectInfo;
    use std::net::SocketAddr;

    async fn tell(socket: Socket, ConnectInfo(peer): ConnectInfo<SocketAddr>) {
        socket.emit("peer", peer.to_string());
    }
    let (app, _io) = main_app(Namespace::new().on_connect(tell));
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a port");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, app).await });
    let mut stream = raw_session(addr).await;
    within(stream.write_all(&text_frame("40")))
        .await
        .expect("it is taken");
    support::read_frame(&mut stream).await;
    let own = stream.local_addr().expect("an address");
    let peer = support::read_frame(&mut stream).await;
    assert_eq!(peer, format!(r#"42["peer","{own}"]"#));
}

/// Opens a WebSocket with compression in the main namespace.
async fn compressing(addr: std::net::SocketAddr) -> TcpStream {
    compressing_with(addr, &text_frame("40")).await
}

/// Opens a WebSocket with compression and joins a namespace with the frame `connect`.
async fn compressing_with(addr: std::net::SocketAddr, connect: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.expect("a connection");
    let head = deflate_head();
    let head = send_head(&mut stream, &head).await;
    let agreed = "sec-websocket-extensions: permessage-deflate; server_no_context_takeover; \
                  client_no_context_takeover\r\n";
    assert!(head.contains(agreed), "{head}");
    support::read_frame(&mut stream).await;
    within(stream.write_all(connect))
        .await
        .expect("it is taken");
    support::read_frame(&mut stream).await;
    stream
}

/// Returns the first byte of the next frame, and its payload.
async fn read_raw(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let first = within(stream.read_u8()).await.expect("a frame");
    let len = match within(stream.read_u8()).await.expect("a length") {
        126 => usize::from(within(stream.read_u16()).await.expect("a length")),
        len => usize::from(len),
    };
    let mut payload = vec![0; len];
    within(stream.read_exact(&mut payload)).await.expect("all");
    (first, payload)
}

#[tokio::test]
async fn long_messages_are_compressed_if_both_sides_support_it() {
    let (layer, io) = builder(echoing()).deflate_threshold(100).build();
    let addr = serve(app(layer)).await;
    let mut stream = compressing(addr).await;
    let event = format!(r#"42["echo","{}"]"#, "x".repeat(5_000));
    // The second message must not depend on the first one, on either side.
    for _ in 0..2 {
        let frame = compressed_frame(&event);
        assert!(frame.len() < 200);
        within(stream.write_all(&frame)).await.expect("it is taken");
        let (first, payload) = read_raw(&mut stream).await;
        assert_eq!(first, 0xc1);
        assert!(payload.len() < 200);
        let mut inflate = flate2::Decompress::new(false);
        let mut text = Vec::with_capacity(10_000);
        let sync = flate2::FlushDecompress::Sync;
        inflate
            .decompress_vec(&payload, &mut text, sync)
            .expect("compressed");
        assert_eq!(String::from_utf8_lossy(&text), event);
    }
    // A fragmented message: only its first frame has the compression bit.
    let whole = compressed_frame(&event);
    let payload = &whole[6..];
    let (one, two) = payload.split_at(payload.len() / 2);
    let mut fragments = frame(1, one);
    fragments[0] = 0x41;
    fragments.extend(frame(0, two));
    within(stream.write_all(&fragments))
        .await
        .expect("it is taken");
    assert_eq!(read_raw(&mut stream).await.0, 0xc1);

    io.emit("short", "x");
    assert_eq!(read_raw(&mut stream).await.0, 0x81);
    io.emit("long", Uncompressed("x".repeat(5_000)));
    assert_eq!(read_raw(&mut stream).await.0, 0x81);
    io.emit("raw", Data(Bytes::from(vec![7; 5_000])));
    assert_eq!(read_raw(&mut stream).await.0, 0x81);
    assert_eq!(read_raw(&mut stream).await.0, 0xc2);
    let raw = Data(Bytes::from(vec![7; 5_000]));
    io.emit("raw", Uncompressed(raw));
    assert_eq!(read_raw(&mut stream).await.0, 0x81);
    assert_eq!(read_raw(&mut stream).await.0, 0x82);
}

#[cfg(feature = "msgpack")]
#[tokio::test]
async fn a_packet_of_a_binary_parser_is_compressed_unless_marked() {
    let parser = tower_socketio::protocol::MsgpackParser::default();
    let builder = builder(echoing()).parser(parser);
    let connect = frame(2, b"\x82\xa4type\x00\xa3nsp\xa1/");
    let (layer, io) = builder.deflate_threshold(100).build();
    let mut stream = compressing_with(serve(app(layer)).await, &connect).await;
    io.emit("long", "x".repeat(5_000));
    assert_eq!(read_raw(&mut stream).await.0, 0xc2);
    io.emit("long", Uncompressed("x".repeat(5_000)));
    let (first, payload) = read_raw(&mut stream).await;
    assert_eq!((first, payload.len() > 5_000), (0x82, true));
}

#[tokio::test]
async fn compression_is_not_negotiated_unless_both_sides_support_it() {
    let (layer, _io) = builder(echoing()).deflate_threshold(100).build();
    for (app, offer) in [
        (main_app(echoing()).0, "permessage-deflate"),
        (app(layer), "permessage-deflate; server_max_window_bits=10"),
    ] {
        let mut stream = TcpStream::connect(serve(app).await)
            .await
            .expect("a connection");
        let offer = format!("host: test\r\nsec-websocket-extensions: {offer}\r\n");
        let head = upgrade_head("").replace("host: test\r\n", &offer);
        let head = send_head(&mut stream, &head).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        assert!(!head.contains("extensions"), "{head}");
        support::read_frame(&mut stream).await;
        within(stream.write_all(&compressed_frame("40")))
            .await
            .expect("it is taken");
        let (first, payload) = read_raw(&mut stream).await;
        assert_eq!((first, &payload[..2]), (0x88, &1002_u16.to_be_bytes()[..]));
    }
}

#[tokio::test]
async fn a_message_that_grows_past_the_limit_closes_with_1009() {
    let bomb = compressed_frame(&"4".repeat(100_000));
    assert!(bomb.len() < 1_000);
    let mut marked_control = frame(9, b"");
    marked_control[0] |= 0x40;
    let mut not_compressed = frame(1, b"\xff\xff\xff");
    not_compressed[0] |= 0x40;
    for (frame, code) in [
        (bomb, 1009_u16),
        (marked_control, 1002),
        (not_compressed, 1007),
    ] {
        let (layer, _io) = builder(echoing())
            .deflate_threshold(100)
            .max_payload(10_000)
            .build();
        let mut stream = compressing(serve(app(layer)).await).await;
        within(stream.write_all(&frame)).await.expect("it is taken");
        let (first, payload) = read_raw(&mut stream).await;
        assert_eq!((first, &payload[..2]), (0x88, &code.to_be_bytes()[..]));
    }
}

#[tokio::test]
async fn frames_may_arrive_together_with_the_request() {
    let addr = serve(main_app(echoing()).0).await;
    let mut stream = TcpStream::connect(addr).await.expect("a connection");
    let long = format!(r#"42["echo","{}"]"#, "x".repeat(20_000));
    let mut bytes = upgrade_head("").into_bytes();
    bytes.extend(text_frame("40"));
    bytes.extend(text_frame(&long));
    stream.write_all(&bytes).await.expect("the server takes it");
    let mut response = Vec::new();
    while !response.ends_with(b"\r\n\r\n") {
        response.push(within(stream.read_u8()).await.expect("a response"));
    }
    assert!(response.starts_with(b"HTTP/1.1 101"));
    assert!(read_frame(&mut stream).await.starts_with("0{"));
    assert!(read_frame(&mut stream).await.starts_with("40{"));
    assert_eq!(read_frame(&mut stream).await, long);
}

/// With Nagle's algorithm an answer would wait, mostly 40 ms, until TCP has acknowledged the
/// broadcast before it.
#[cfg(unix)]
#[tokio::test]
async fn no_frame_waits_for_the_acknowledgement_of_another() {
    use std::os::fd::AsFd;

    let (accepts, mut accepted) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let listener = listener.tap_io(move |tcp| {
        let same = tcp.as_fd().try_clone_to_owned().expect("a descriptor");
        let _ = accepts.send(std::net::TcpStream::from(same));
    });
    let app = main_app(echoing()).0;
    tokio::spawn(async move { axum::serve(listener, app).await });
    let _client = raw_session(addr).await;
    let accepted = accepted.recv().await.expect("a connection");
    assert!(accepted.nodelay().expect("an option"));
}
