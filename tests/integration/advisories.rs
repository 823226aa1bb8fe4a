//! Published security advisories of comparable software: one test for each kind of vulnerability.
//! The name of the test has the id of the advisory.
//!
//! [docs/advisories.md](../../docs/advisories.md) has the table of all advisories. It also names
//! the tests in other modules.

use std::collections::HashSet;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower_socketio::{HttpOptions, Namespace, Origins, RawArgs, SocketIo, SocketIoBuilder, engine};

use crate::support::{
    Client, Got, Polling, app, builder, call, frame, raw_session, read_frame, send_head, serve,
    until, upgrade_head, within,
};

fn echoing() -> Namespace {
    Namespace::new().on("echo", async |args: RawArgs| args)
}

struct Server {
    app: Router,
    io: SocketIo,
}

impl Server {
    fn new() -> Self {
        Self::of(builder(echoing()))
    }

    fn of(builder: SocketIoBuilder) -> Self {
        let (layer, io) = builder.build();
        Self {
            app: app(layer),
            io,
        }
    }

    async fn serve(&self) -> std::net::SocketAddr {
        serve(self.app.clone()).await
    }

    /// Asserts that a new client is served.
    async fn assert_serves(&self) {
        let mut client = Polling::connect(&self.app).await;
        assert_eq!(client.ask(r#"421["echo",1]"#).await, "431[1]");
    }

    /// Asserts that a body closes the session that posts it, and that another client is served.
    async fn assert_ends(&self, body: &str) {
        let client = Polling::connect(&self.app).await;
        client.post(body.to_owned()).await;
        until(|| self.io.counts().sessions == 0).await;
        self.assert_serves().await;
        // `assert_serves` has left a session. It must close before the next call counts the
        // sessions.
        self.io.sockets().iter().for_each(|socket| socket.close());
    }
}

/// Asserts that each packet closes its connection with the code, and that another client is served.
async fn assert_closes(packets: &[&str], code: u16) {
    let server = Server::new();
    let addr = server.serve().await;
    for packet in packets {
        let mut client = Client::connect(addr, "/").await;
        client.send(packet).await;
        let closed = client.closed().await;
        let shown = &packet[..packet.len().min(40)];
        assert!(
            matches!(&closed, Got::Close(Some((sent, _))) if *sent == code),
            "{shown}: {closed:?}"
        );
    }
    server.assert_serves().await;
}

#[tokio::test]
async fn cve_2017_16031_session_ids_are_random() {
    let server = Server::new();
    let mut ids = HashSet::new();
    for _ in 0..200 {
        let mut client = Polling::open(&server.app).await;
        // 128 bits, in base64.
        assert!(client.sid.len() >= 22, "{}", client.sid);
        let socket = client.join("/").await;
        assert!(!client.sid.contains(&socket) && !socket.contains(&client.sid));
        ids.extend([client.sid.clone(), socket]);
    }
    assert_eq!(ids.len(), 400);
    // Each character of an id varies between the sessions.
    let sids: Vec<_> = ids.iter().filter(|id| id.len() >= 22).collect();
    for at in 0..20 {
        let values: HashSet<_> = sids.iter().map(|id| id.as_bytes()[at]).collect();
        assert!(values.len() > 16, "character {at} has few values");
    }
}

#[tokio::test]
async fn cve_2024_38355_event_names_are_data() {
    let server = Server::new();
    let mut client = Polling::connect(&server.app).await;
    for name in ["error", "constructor", "toString", "__proto__", ""] {
        let answer = client.ask(&format!(r#"421["{name}","x"]"#)).await;
        assert!(answer.starts_with("431["), "{name}: {answer}");
    }
    assert_eq!(client.ask(r#"422["echo",1]"#).await, "432[1]");
    // Reserved event names close the connection of the sender, and no other connection.
    for name in ["connect", "connect_error", "disconnect", "newListener"] {
        let mut other = Polling::connect(&server.app).await;
        assert_eq!(other.ask(&format!(r#"421["{name}"]"#)).await, "1");
    }
    assert_eq!(client.ask(r#"423["echo",1]"#).await, "433[1]");
}

#[tokio::test]
async fn cve_2020_36049_numbers_of_any_length_are_read_in_place() {
    let digits = "1".repeat(900_000);
    let attachments = format!(r#"45{digits}-["echo"]"#);
    let ack = format!(r#"42{digits}["echo"]"#);
    assert_closes(&[&attachments, &ack], 1009).await;
}

#[tokio::test]
async fn cve_2022_21676_an_invalid_frame_may_be_the_first_bytes() {
    let server = Server::new();
    let addr = server.serve().await;
    for invalid in [
        &[0xff, 0xff][..],
        &[0x81, 0x01, b'x'],
        &[0x8f, 0x80, 0, 0, 0, 0],
    ] {
        let mut stream = TcpStream::connect(addr).await.expect("a connection");
        // The frame arrives together with the request head, before the session exists.
        let bytes = [upgrade_head("").as_bytes(), invalid].concat();
        within(stream.write_all(&bytes)).await.expect("it is read");
        let mut rest = Vec::new();
        let _ = within(stream.read_to_end(&mut rest)).await;
        assert!(rest.starts_with(b"HTTP/1.1 101"));
    }
    server.assert_serves().await;
}

#[tokio::test]
async fn cve_2022_41940_a_reset_during_a_refused_upgrade_is_harmless() {
    let server = Server::new();
    let addr = server.serve().await;
    for query in ["&sid=unknown", "&EIO=9", ""] {
        for _ in 0..50 {
            let mut stream = TcpStream::connect(addr).await.expect("a connection");
            let head = upgrade_head(query).replace("version: 13", "version: 12");
            within(stream.write_all(head.as_bytes()))
                .await
                .expect("it is read");
            // The kernel sends RST when the stream is dropped, because the response is not read.
            stream.readable().await.expect("an answer");
        }
    }
    server.assert_serves().await;
}

#[tokio::test]
async fn cve_2023_31125_an_upgrade_names_a_known_transport() {
    let server = Server::new();
    let client = Polling::connect(&server.app).await;
    let addr = server.serve().await;
    for name in ["toString", "__proto__", "webtransport", "", "polling%20"] {
        let mut stream = TcpStream::connect(addr).await.expect("a connection");
        let head = upgrade_head(&format!("&sid={}", client.sid));
        let head = head.replace("transport=websocket", &format!("transport={name}"));
        let answer = send_head(&mut stream, &head).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{name}: {answer}");
    }
    server.assert_serves().await;
}

#[tokio::test]
async fn cve_2022_2421_a_placeholder_names_an_attachment() {
    let packets = ["1", "-1", "\"splice\"", "0.5", "null", "1e99", "[0]"];
    let packets = packets.map(|num| format!(r#"451-["echo",{{"_placeholder":true,"num":{num}}}]"#));
    let packets: Vec<_> = packets.iter().map(|packet| &**packet).collect();
    assert_closes(&packets, 1002).await;
}

#[tokio::test]
async fn cve_2023_32695_the_name_of_an_event_is_a_text() {
    let packets = [
        r#"42[{"toString":"x"}]"#,
        r#"42[["echo"]]"#,
        r#"42[null]"#,
        r#"42[true]"#,
        r#"42[]"#,
        r#"42{}"#,
    ];
    assert_closes(&packets, 1002).await;
}

#[tokio::test]
async fn cve_2026_69185_zero_attachments_are_an_error() {
    assert_closes(&[r#"450-["echo",1]"#, r#"45-["echo",1]"#], 1002).await;
    // After an event with attachments the decoder expects text again.
    let server = Server::new();
    let mut client = Client::connect(server.serve().await, "/").await;
    client
        .send(r#"451-["echo",{"_placeholder":true,"num":0}]"#)
        .await;
    client.send_binary(b"x").await;
    assert_eq!(client.ask(r#"421["echo",1]"#).await, "431[1]");
    client.send_binary(b"x").await;
    assert!(matches!(client.closed().await, Got::Close(Some((1002, _)))));
}

#[tokio::test]
async fn cve_2016_10542_and_cve_2026_44545_a_declared_length_is_checked_by_default() {
    let server = Server::new();
    let addr = server.serve().await;
    for len in [1_000_001, u64::from(u32::MAX), u64::MAX >> 1] {
        let mut stream = raw_session(addr).await;
        // The server must refuse the frame after its header, without waiting for the payload.
        let mut header = vec![0x82, 0xff];
        header.extend(len.to_be_bytes());
        header.extend([0; 4]);
        within(stream.write_all(&header)).await.expect("it is read");
        assert_eq!(read_frame(&mut stream).await.as_bytes()[0], 3);
    }
    server.assert_serves().await;
}

#[tokio::test]
async fn ghsa_5v72_xg48_5rpm_an_unknown_extension_is_not_looked_up() {
    let server = Server::of(builder(echoing()).deflate_threshold(1_024));
    let addr = server.serve().await;
    for offer in [
        "constructor",
        "__proto__; a=b",
        "permessage-deflate; constructor",
        "permessage-deflate; server_max_window_bits=99999999999999999999",
        ";,;=\"",
    ] {
        let line = format!("host: test\r\nsec-websocket-extensions: {offer}\r\n");
        let head = upgrade_head("").replace("host: test\r\n", &line);
        let mut stream = TcpStream::connect(addr).await.expect("a connection");
        let answer = send_head(&mut stream, &head).await;
        assert!(answer.starts_with("HTTP/1.1 101"), "{offer}: {answer}");
        assert!(!answer.contains("sec-websocket-extensions"), "{offer}");
    }
}

#[tokio::test]
async fn cve_2021_32640_headers_are_read_in_one_pass() {
    let server = Server::of(builder(echoing()).deflate_threshold(1_024));
    let addr = server.serve().await;
    // A backtracking parser would need minutes for such a head.
    let lists = [
        " ".repeat(15_000) + "x",
        format!("a{}b", " ".repeat(15_000)),
        ",".repeat(15_000),
        "\"".repeat(15_000),
    ];
    for list in lists {
        for name in [
            "sec-websocket-protocol",
            "sec-websocket-extensions",
            "connection",
            "accept-encoding",
            "cookie",
            "origin",
        ] {
            let line = format!("host: test\r\n{name}: {list}\r\n");
            let head = upgrade_head("").replace("host: test\r\n", &line);
            let mut stream = TcpStream::connect(addr).await.expect("a connection");
            let answer = send_head(&mut stream, &head).await;
            assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
        }
    }
    server.assert_serves().await;
}

#[tokio::test]
async fn cve_2024_37890_a_header_may_be_missing() {
    let server = Server::new();
    let addr = server.serve().await;
    let many: String = (0..90).map(|n| format!("x-{n}: y\r\n")).collect();
    for line in [
        "connection: Upgrade\r\n",
        "upgrade: websocket\r\n",
        "sec-websocket-version: 13\r\n",
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    ] {
        for more in ["", &*many] {
            let head = upgrade_head("").replace(line, more);
            let mut stream = TcpStream::connect(addr).await.expect("a connection");
            let answer = send_head(&mut stream, &head).await;
            assert!(answer.starts_with("HTTP/1.1 4"), "{line}: {answer}");
        }
    }
    server.assert_serves().await;
}

#[tokio::test]
async fn cve_2026_45736_a_close_frame_has_no_bytes_but_its_own() {
    let server = Server::new();
    let addr = server.serve().await;
    for close in [&b""[..], &[3, 0xe8], &[0x0f, 0xa0, b'o', b'k']] {
        let mut stream = raw_session(addr).await;
        let bytes = frame(8, close);
        within(stream.write_all(&bytes)).await.expect("it is read");
        let mut rest = Vec::new();
        let _ = within(stream.read_to_end(&mut rest)).await;
        let expected = [&[0x88, close.len() as u8][..], close].concat();
        assert_eq!(rest, expected);
    }
}

#[tokio::test]
async fn cve_2026_48779_empty_fragments_have_a_limit() {
    let server = Server::new();
    let mut stream = raw_session(server.serve().await).await;
    let first = [0x01, 0x80, 0, 0, 0, 0];
    let empty = [0x00, 0x80, 0, 0, 0, 0].repeat(1 << 17);
    within(stream.write_all(&first)).await.expect("it is read");
    // The server may close before it has read all of them.
    let _ = within(stream.write_all(&empty)).await;
    let closed = read_frame(&mut stream).await;
    assert_eq!(closed.as_bytes()[0], 3);
    server.assert_serves().await;
}

#[tokio::test]
async fn cve_2023_43669_a_long_head_is_refused() {
    let server = Server::new();
    let addr = server.serve().await;
    let mut stream = TcpStream::connect(addr).await.expect("a connection");
    let head = upgrade_head(&format!("&x={}", "y".repeat(40_000)));
    for piece in head.as_bytes().chunks(512) {
        within(stream.write_all(piece)).await.expect("it is read");
    }
    let mut answer = [0; 12];
    within(stream.read_exact(&mut answer))
        .await
        .expect("a response");
    assert_eq!(&answer, b"HTTP/1.1 431");
    server.assert_serves().await;
}

#[tokio::test]
async fn ghsa_55mf_67qm_4wpg_the_default_limits_hold_for_both_transports() {
    assert_closes(&[r#"4511-["echo"]"#], 1009).await;
    let long = format!(r#"42["echo","{}"]"#, "x".repeat(1_000_000));
    assert_closes(&[&long], 1009).await;
    let server = Server::new();
    let client = Polling::connect(&server.app).await;
    let response = client.post(long).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn ghsa_c6g7_r2mf_pf5g_nesting_has_a_limit() {
    let deep = |levels| {
        let (open, close) = ("[".repeat(levels), "]".repeat(levels));
        format!(r#"421["echo",{open}{close}]"#)
    };
    // An accepted value can also be sent and dropped.
    let server = Server::new();
    let mut client = Client::connect(server.serve().await, "/").await;
    let answer = client.ask(&deep(126)).await;
    assert!(answer.starts_with("431[[[["));
    let deeper = [deep(127), deep(4_157), deep(400_000)];
    assert_closes(&[&deeper[0], &deeper[1], &deeper[2]], 1009).await;
}

#[cfg(feature = "msgpack")]
#[tokio::test]
async fn ghsa_c6g7_r2mf_pf5g_and_ghsa_7xpx_rcqc_8qjh_malformed_msgpack_closes() {
    use tower_socketio::protocol::MsgpackParser;

    let server = Server::of(builder(echoing()).parser(MsgpackParser::default()));
    let addr = server.serve().await;
    let head = b"\x83\xa4type\x02\xa3nsp\xa1/\xa4data\x92\xa4echo";
    let mut messages: Vec<Vec<u8>> = Vec::new();
    for levels in [127, 100_000] {
        let mut deep = head.to_vec();
        deep.extend(vec![0x91; levels]);
        deep.push(0xc0);
        messages.push(deep);
    }
    // Truncated values of each type with a length, and lengths without their data.
    for begin in [
        &b"\xa5ab"[..],
        b"\xc4\xff",
        b"\xc5\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc7\x05",
        b"\xd9",
        b"\xdb\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xca\x00",
        b"\xc1",
    ] {
        messages.push([head, begin].concat());
        messages.push(begin.to_vec());
    }
    messages.extend((0..head.len()).map(|len| head[..len].to_vec()));
    for message in messages {
        let mut stream = raw_session(addr).await;
        let bytes = frame(2, &message);
        within(stream.write_all(&bytes)).await.expect("it is read");
        assert_eq!(
            read_frame(&mut stream).await.as_bytes()[0],
            3,
            "{message:x?}"
        );
    }
}

#[tokio::test]
async fn ghsa_7xpx_rcqc_8qjh_texts_are_cut_between_characters() {
    let server = Server::new();
    let addr = server.serve().await;
    for text in [
        "é", "4é", "42é", "4🦀", "40/é", "451é-", "2probé", "bé", "\u{1e}é", "4",
    ] {
        let mut client = Client::connect(addr, "/").await;
        client.send(text).await;
        if text != "40/é" {
            client.closed().await;
        }
        // The same by long-polling.
        let client = Polling::connect(&server.app).await;
        client.send_and_forget(text).await;
    }
    server.assert_serves().await;
}

#[tokio::test]
async fn cve_2026_48802_pongs_start_nothing() {
    let server = Server::new();
    let mut client = Polling::connect(&server.app).await;
    client.send(&["3"; 100_000].join("\x1e")).await;
    assert_eq!(client.ask(r#"421["echo",1]"#).await, "431[1]");
}

#[tokio::test]
async fn cve_2026_32689_a_body_of_separators_is_not_split_into_a_list() {
    let server = Server::new();
    server.assert_ends(&"\x1e".repeat(1_000_000)).await;
    server.assert_ends(&"\n".repeat(1_000_000)).await;
}

#[tokio::test]
async fn cve_2022_42975_an_origin_is_compared_as_a_whole() {
    let http = HttpOptions::default().origins(Origins::list(["https://example.com"]));
    let server = Server::of(builder(echoing()).http(http));
    let uri = "/socket.io/?EIO=4&transport=polling";
    for (origin, status) in [
        ("https://example.com", StatusCode::OK),
        ("https://evil-example.com", StatusCode::BAD_REQUEST),
        ("https://example.com.evil.org", StatusCode::BAD_REQUEST),
        ("https://sub.example.com", StatusCode::BAD_REQUEST),
        ("http://example.com", StatusCode::BAD_REQUEST),
        ("https://example.com:8443", StatusCode::BAD_REQUEST),
        ("https://example.com@evil.org", StatusCode::BAD_REQUEST),
        ("null", StatusCode::BAD_REQUEST),
    ] {
        let request = Request::get(uri).header("origin", origin);
        let response = call(&server.app, request.body(Body::empty()).expect("a request")).await;
        let is_refused = !response.status().is_success();
        assert_eq!(is_refused, status != StatusCode::OK, "{origin}");
    }
}

#[tokio::test]
async fn cve_2024_21386_a_client_that_was_not_accepted_has_the_same_limits() {
    let limit = engine::Config::default().max_payload;
    let namespace = Namespace::new().on_connect(async || Err::<(), _>("no"));
    let server = Server::of(builder(namespace));
    let mut client = Client::open(server.serve().await).await;
    assert!(client.ask("40").await.starts_with("44"));
    let long = format!(r#"40{{"token":"{}"}}"#, "x".repeat(limit));
    client.send(&long).await;
    assert!(matches!(client.closed().await, Got::Close(Some((1009, _)))));
}
