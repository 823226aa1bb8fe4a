//! Clients that send requests and never read the answers, on real connections.
//!
//! The server holds a bounded amount of memory for such a client, closes it with a reason, and
//! frees the memory afterwards. The kernel's buffers of these connections are small, so the server
//! holds nearly all unread bytes.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use axum::http::{Request, Version};
use tower_socketio::{DisconnectReason, HttpOptions, Namespace, RawArgs, SocketIoBuilder};

use super::{FILLER, Heap, PATIENCE, Server, send_text, support, wait_for};
use support::{builder, frame, text_frame};

/// The number of clients of a test.
const CLIENTS: usize = 3;

/// A short time for the server's timeouts, such as the ping timeout, whose default is 20 s.
const TIMEOUT: Duration = Duration::from_millis(300);

/// A timeout that never expires in a test.
const LONG: Duration = Duration::from_secs(600);

/// The maximum number of bytes that the server holds for a client over a WebSocket: answers that
/// are queued until the server reads no more input, the bytes that are being written, and pending
/// events. Small answers need a few times their length.
const WEBSOCKET: usize = 2560 * 1024;

/// The same for a client over long-polling: also the body of a POST, and the response of a poll.
const POLLING: usize = 3 * 1024 * 1024;

/// A server, and the disconnect reasons of its clients.
struct Unread {
    server: Server,
    reasons: Receiver<DisconnectReason>,
    start: usize,
    heap: Heap,
}

impl Unread {
    fn new(change: impl FnOnce(SocketIoBuilder) -> SocketIoBuilder) -> Self {
        let heap = Heap::watch();
        let (sender, reasons) = channel();
        let leave = async move |reason: DisconnectReason| {
            let _ = sender.send(reason);
        };
        let main = Namespace::new()
            .on("echo", async |args: RawArgs| args)
            .on_disconnect(leave);
        let server = Server::of(change(builder(main).ping_timeout(TIMEOUT)));
        // The first client makes the server allocate what it keeps. That memory does not count.
        drop(server.connect(""));
        server.until_empty();
        let start = heap.bytes();
        Self {
            server,
            reasons,
            start,
            heap,
        }
    }

    /// Waits until all clients have left. Asserts that each of them has one of these reasons, and
    /// that the server holds at most `bytes` for each client.
    #[track_caller]
    fn expect(&self, reasons: &[DisconnectReason], bytes: usize) {
        let deadline = Instant::now() + PATIENCE;
        let (mut left, mut most) = (0, 0);
        while left < CLIENTS {
            most = most.max(self.heap.bytes().saturating_sub(self.start) / CLIENTS);
            match self.reasons.try_recv() {
                Ok(other) => {
                    assert!(reasons.contains(&other), "{other}");
                    left += 1;
                }
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
            assert!(Instant::now() < deadline, "only {left} have left");
        }
        assert!(most <= bytes, "{most} bytes were held for each client");
    }

    /// Waits until the server has freed everything.
    fn expect_nothing_left(&self) {
        self.server.until_empty();
        self.heap.until(|bytes| bytes <= self.start + 32 * 1024);
    }

    /// Lets clients write to a WebSocket until the server stops reading or closes the connection.
    #[track_caller]
    fn ask(self, asks: impl Fn(&TcpStream, usize) -> Vec<u8>, reasons: &[DisconnectReason]) {
        let clients: Vec<_> = (0..CLIENTS).map(|_| self.server.connect("")).collect();
        for client in &clients {
            send_text(client, "40");
            wait_for(client, b"40{");
        }
        let mut writers = Vec::new();
        for (nth, client) in clients.iter().enumerate() {
            let bytes = asks(client, nth);
            let client = client.try_clone().expect("a handle");
            writers.push(std::thread::spawn(move || write_on(&client, &bytes)));
        }
        self.expect(reasons, WEBSOCKET);
        end(&clients);
        for writer in writers {
            writer.join().expect("no panic");
        }
        self.expect_nothing_left();
    }
}

/// Shuts down connections of which other threads hold handles.
fn end(clients: &[TcpStream]) {
    for client in clients {
        // The server may have closed the connection.
        let _ = client.shutdown(Shutdown::Both);
    }
}

/// Writes the bytes again and again, until the server has closed the connection or a write times
/// out.
fn write_on(mut stream: &TcpStream, bytes: &[u8]) {
    loop {
        if stream.write_all(bytes).is_err() {
            return;
        }
    }
}

#[test]
fn connects_to_unknown_namespaces() {
    let connects = |_: &_, nth| text_frame(&format!("40/unknown-{nth},")).repeat(100);
    Unread::new(|it| it.ping_timeout(LONG)).ask(connects, &[DisconnectReason::SlowConsumer]);
}

#[test]
fn events_with_acknowledgements() {
    let event = format!(r#"421["echo","{}"]"#, "x".repeat(1_000));
    let events = |_: &_, _| text_frame(&event).repeat(10);
    // The server reads no input while the answers wait, so the send queue does not overflow. The
    // session ends because the WebSocket accepts no bytes for the ping timeout.
    Unread::new(|it| it).ask(events, &[DisconnectReason::PingTimeout]);
}

#[test]
fn events_without_a_handler() {
    let events = |_: &_, _| text_frame(r#"421["none"]"#).repeat(100);
    Unread::new(|it| it).ask(events, &[DisconnectReason::PingTimeout]);
}

#[test]
fn pings_of_websocket() {
    let pings = |_: &_, _| frame(9, &[7; 125]).repeat(100);
    Unread::new(|it| it).ask(pings, &[DisconnectReason::PingTimeout]);
}

#[test]
fn namespaces_that_are_joined_and_left() {
    let packets = |_: &_, _| {
        [text_frame("40/a,"), text_frame("41/a,")]
            .concat()
            .repeat(50)
    };
    let with_dynamic = |it: SocketIoBuilder| it.namespace("/{name}", Namespace::new());
    // The number of running handlers of left sockets is limited. At the limit a CONNECT is refused,
    // and the DISCONNECT behind it names a namespace that the client is not in. A CONNECT with its
    // DISCONNECT behind it has no answer, so the session may end by the missing pong alone. The pong
    // may be behind 64 times `max_payload`.
    let reasons = [
        DisconnectReason::PingTimeout,
        DisconnectReason::ForcedServerClose,
    ];
    let pings = |it: SocketIoBuilder| {
        it.ping_interval(Duration::from_secs(2))
            .max_payload(2_000)
            .max_pending(2_000)
    };
    Unread::new(|it| pings(with_dynamic(it))).ask(packets, &reasons);
}

/// Clients that send nothing, and do not read the broadcasts.
#[test]
fn broadcasts_to_clients_that_only_listen() {
    let unread = Unread::new(|it| it.ping_timeout(LONG).max_buffered(256 * 1024));
    let clients: Vec<_> = (0..CLIENTS).map(|_| unread.server.connect("")).collect();
    for client in &clients {
        send_text(client, "40");
        wait_for(client, b"40{");
    }
    let (io, text) = (unread.server.io.clone(), "x".repeat(10_000));
    let emits = std::thread::spawn(move || {
        while !io.sockets().is_empty() {
            io.emit("text", &text);
            std::thread::sleep(Duration::from_micros(500));
        }
    });
    unread.expect(&[DisconnectReason::SlowConsumer], WEBSOCKET);
    emits.join().expect("no panic");
    drop(clients);
    unread.expect_nothing_left();
}

/// A session over long-polling.
struct Polling<'a> {
    server: &'a Server,
    uri: String,
}

impl<'a> Polling<'a> {
    fn connect(server: &'a Server, query: &str) -> Self {
        let uri = format!("/socket.io/?EIO=4&transport=polling{query}");
        let stream = server.open();
        request(&stream, "GET", &uri, "");
        // In a JSONP script the quotes are escaped.
        wait_for(&stream, b"sid");
        let mut sid = String::new();
        loop {
            let mut byte = [0];
            (&stream).read_exact(&mut byte).expect("it goes on");
            match byte[0] {
                b'\\' | b'"' | b':' if sid.is_empty() => {}
                b'\\' | b'"' => break,
                byte => sid.push(byte.into()),
            }
        }
        let client = Self {
            server,
            uri: format!("{uri}&sid={sid}"),
        };
        let body = client.body("40");
        assert_eq!(client.post(&body), "200");
        let poll = client.poll();
        wait_for(&poll, b"40{");
        client
    }

    fn is_jsonp(&self) -> bool {
        self.uri.contains("&j=")
    }

    /// Returns packets as the body of a POST.
    fn body(&self, packets: &str) -> String {
        match self.is_jsonp() {
            true => format!("d={packets}"),
            false => packets.to_owned(),
        }
    }

    /// Sends a POST, and returns the status of the response.
    fn post(&self, body: &str) -> String {
        let stream = self.server.open();
        request(&stream, "POST", &self.uri, body);
        wait_for(&stream, b"HTTP/1.1 ");
        let mut status = [0; 3];
        (&stream).read_exact(&mut status).expect("a status");
        String::from_utf8_lossy(&status).into_owned()
    }

    /// Sends a poll, and returns its connection without reading the response.
    fn poll(&self) -> TcpStream {
        let stream = self.server.open();
        request(&stream, "GET", &self.uri, "");
        stream
    }

    /// Posts events until a POST is refused.
    fn post_on(&self, events: &str) {
        let body = self.body(events);
        loop {
            match &*self.post(&body) {
                "200" => {}
                status => {
                    assert_eq!(status, "400");
                    return;
                }
            }
        }
    }
}

fn request(mut stream: &TcpStream, method: &str, uri: &str, body: &str) {
    let head = format!(
        "{method} {uri} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let sent = stream.write_all(head.as_bytes());
    // The write may fail, because a server that refuses a POST need not read its body.
    let _ = sent.and_then(|()| stream.write_all(body.as_bytes()));
}

/// Lets clients over long-polling post events without reading the answers. `poll` opens their
/// polls.
fn posts(query: &str, poll: impl Fn(&Polling<'_>) -> Vec<TcpStream> + Sync) {
    let unread = Unread::new(|it| it.http(HttpOptions::default().jsonp(true)));
    let event = format!(r#"421["echo","{}"]"#, "x".repeat(1_000));
    let events = vec![&*event; 100].join("\x1e");
    let server = &unread.server;
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let client = Polling::connect(server, query);
                let polls = poll(&client);
                client.post_on(&events);
                drop(polls);
            });
        }
        unread.expect(&[DisconnectReason::SlowConsumer], POLLING);
    });
    drop(events);
    unread.expect_nothing_left();
}

#[test]
fn posts_without_a_poll() {
    posts("", |_| Vec::new());
}

#[test]
fn posts_beside_a_poll_whose_response_is_not_read() {
    posts("", |client| vec![client.poll()]);
}

#[test]
fn posts_of_jsonp() {
    posts("&j=0", |client| vec![client.poll()]);
}

/// Polls that are pipelined on one connection, and whose responses are not read.
#[test]
fn polls_on_one_connection() {
    let unread = Unread::new(|it| it.ping_interval(TIMEOUT));
    let sessions: Vec<_> = (0..CLIENTS)
        .map(|_| Polling::connect(&unread.server, ""))
        .collect();
    let connections: Vec<_> = sessions.iter().map(Polling::poll).collect();
    for (session, connection) in sessions.iter().zip(&connections) {
        (0..50).for_each(|_| request(connection, "GET", &session.uri, ""));
    }
    let filler = std::str::from_utf8(&FILLER[..900_000]).expect("UTF-8");
    unread.server.io.emit("text", filler);
    unread.expect(&[DisconnectReason::PingTimeout], POLLING);
    drop(connections);
    drop(sessions);
    unread.expect_nothing_left();
}

/// Handshakes on one connection whose responses are not read.
#[test]
fn handshakes_on_one_connection() {
    let unread = Unread::new(|it| it.connect_timeout(TIMEOUT));
    let uri = "/socket.io/?EIO=4&transport=polling";
    let head = format!("GET {uri} HTTP/1.1\r\nhost: test\r\n\r\n");
    let clients: Vec<_> = (0..CLIENTS).map(|_| unread.server.open()).collect();
    let mut writers = Vec::new();
    for client in &clients {
        client.set_write_timeout(Some(TIMEOUT)).expect("a timeout");
        let (client, head) = (client.try_clone().expect("a handle"), head.clone());
        writers.push(std::thread::spawn(move || {
            write_on(&client, head.repeat(10).as_bytes());
        }));
    }
    // hyper handles one request after the other, and none while a response waits to be written.
    for writer in writers {
        writer.join().expect("no panic");
    }
    let held = unread.heap.bytes() - unread.start;
    assert!(held < CLIENTS * 16 * 1024 * 1024, "{held} bytes");
    unread.server.until_empty();
    drop(clients);
    unread.expect_nothing_left();
}

/// Requests for a file of the JavaScript client on one connection, whose responses are not read.
#[test]
fn files_of_the_client() {
    let folder = std::env::temp_dir().join(format!("socket.io-unread-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let version = "/*! Socket.IO v4.8.4 */";
    let text = version.to_owned() + &"x".repeat(150_000);
    std::fs::write(folder.join("socket.io.js"), text).expect("a file");
    let files = HttpOptions::default().serve_client(&folder);
    std::fs::remove_dir_all(&folder).expect("the folder is there");
    let unread = Unread::new(|it| it.http(files));
    let clients: Vec<_> = (0..CLIENTS).map(|_| unread.server.open()).collect();
    for client in &clients {
        client.set_write_timeout(Some(TIMEOUT)).expect("a timeout");
        let head = b"GET /socket.io/socket.io.js HTTP/1.1\r\nhost: test\r\n\r\n";
        write_on(client, &head.repeat(10));
    }
    let held = (unread.heap.bytes() - unread.start) / CLIENTS;
    assert!(held < 1024 * 1024, "{held} bytes for each client");
    drop(clients);
    unread.expect_nothing_left();
}

/// Polls of many sessions on one HTTP/2 connection whose flow-control window is never enlarged.
#[test]
fn polls_over_http_2() {
    const STREAMS: usize = 50;
    let unread = Unread::new(|it| it.ping_interval(Duration::from_secs(2)));
    let server = &unread.server;
    let sessions: Vec<_> = (0..STREAMS).map(|_| Polling::connect(server, "")).collect();
    let stream = server.open();
    stream.set_nonblocking(true).expect("a mode");
    let responses = server.runtime.block_on(async {
        let stream = tokio::net::TcpStream::from_std(stream).expect("a stream");
        let client = h2::client::handshake(stream).await;
        let (client, connection) = client.expect("HTTP/2");
        tokio::spawn(connection);
        let mut responses = Vec::new();
        for session in &sessions {
            let uri = format!("http://test{}", session.uri);
            let request = Request::get(uri).version(Version::HTTP_2).body(());
            let mut client = client.clone().ready().await.expect("ready");
            let (response, _) = client
                .send_request(request.expect("a request"), true)
                .expect("a stream");
            responses.push(response);
        }
        responses
    });
    let filler = std::str::from_utf8(&FILLER[..100_000]).expect("UTF-8");
    // All sessions share one buffer.
    server.io.emit("text", filler);
    let mut most = 0;
    for _ in 0..STREAMS {
        let reason = unread.reasons.recv_timeout(PATIENCE);
        assert_eq!(reason, Ok(DisconnectReason::PingTimeout));
        most = most.max(unread.heap.bytes() - unread.start);
    }
    assert!(most < STREAMS * 256 * 1024, "{most} bytes");
    drop((responses, sessions));
    unread.server.runtime.block_on(tokio::task::yield_now());
}

#[cfg(feature = "admin-ui")]
#[test]
fn the_admin_ui() {
    use tower_socketio::admin::AdminUi;

    let hash = bcrypt::hash("sesame", 4).expect("a hash");
    let unread = Unread::new(|it| it.admin(AdminUi::basic("ada", &hash)));
    let login = r#"40/admin,{"username":"ada","password":"sesame"}"#;
    let pages: Vec<_> = (0..CLIENTS).map(|_| unread.server.connect("")).collect();
    // A page gets the reports about the others, so all of them log in before one stops reading.
    for page in &pages {
        send_text(page, "40");
        wait_for(page, b"40{");
        send_text(page, login);
        wait_for(page, b"all_sockets");
    }
    let mut writers = Vec::new();
    for page in &pages {
        // Commands that cause reports to all pages. None of them is acknowledged.
        let filler = "x".repeat(1_000);
        let commands = [
            format!(r#"42/admin,["emit","/",null,"text","{filler}"]"#),
            r#"42/admin,["join","/","room"]"#.to_owned(),
            r#"42/admin,["leave","/","room"]"#.to_owned(),
        ];
        let bytes = commands.map(|each| text_frame(&each)).concat();
        let page = page.try_clone().expect("a handle");
        writers.push(std::thread::spawn(move || write_on(&page, &bytes)));
    }
    let deadline = Instant::now() + PATIENCE;
    let mut most = 0;
    for _ in 0..CLIENTS {
        let reason = unread.reasons.recv_timeout(deadline - Instant::now());
        let reason = reason.expect("the page is closed");
        assert!(
            matches!(
                reason,
                DisconnectReason::SlowConsumer | DisconnectReason::PingTimeout
            ),
            "{reason}"
        );
        most = most.max((unread.heap.bytes() - unread.start) / CLIENTS);
    }
    // The send queue of the session, and the queue of the reports.
    assert!(most <= 8 * 1024 * 1024, "{most} bytes for each page");
    end(&pages);
    for writer in writers {
        writer.join().expect("no panic");
    }
    unread.server.until_empty();
}
