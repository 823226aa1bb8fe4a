//! Operations on a server in this process. The client writes prepared frames to an in-memory stream
//! and counts the frames that come back, so nearly all the cost is the server's.
#![allow(dead_code, reason = "each bench uses a part of it")]

use std::io;

use axum::Router;
use axum::body::Body;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tower::ServiceExt;
use tower_socketio::{Namespace, RawArgs, Socket, SocketIo};

/// The events of one batch, where the client does not send them one at a time.
const BATCH: usize = 16;
/// The events of one flood: half a mebibyte.
const FLOOD: usize = 8_000;

/// Returns an app with handlers like those of the `echo` example.
pub(crate) fn app() -> Router {
    let namespace = Namespace::new()
        .on("echo", echo)
        .on("broadcast", broadcast)
        .on_connect(connect);
    let (layer, _io) = SocketIo::builder().namespace("/", namespace).build();
    Router::new().layer(layer)
}

async fn echo(args: RawArgs) -> RawArgs {
    args
}

async fn broadcast(io: SocketIo, args: RawArgs) {
    io.emit("broadcast", args);
}

async fn connect(socket: Socket) {
    socket.join("room");
}

/// The events that the client sends. Each has fifty bytes.
const ECHO: &str = r#"427["echo","01234567890123456789012345678901234567890123"]"#;
const BROADCAST: &str = r#"42["broadcast","012345678901234567890123"]"#;

/// Returns a text as a client's frame. The mask is zero.
fn frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81, 0x80 | text.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(text.as_bytes());
    frame
}

/// A client over an in-memory stream.
pub(crate) struct Client {
    stream: DuplexStream,
    buf: Vec<u8>,
    filled: usize,
}

impl Client {
    /// Opens a WebSocket and joins the main namespace.
    pub(crate) async fn connect(app: &Router) -> Self {
        let (stream, server) = tokio::io::duplex(1 << 20);
        let service = TowerToHyperService::new(app.clone());
        tokio::spawn(async move {
            let builder = auto::Builder::new(TokioExecutor::new());
            let serve = builder.serve_connection_with_upgrades(TokioIo::new(server), service);
            let _ = serve.await;
        });
        let mut client = Self {
            stream,
            buf: vec![0; 1 << 16],
            filled: 0,
        };
        let request = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nhost: localhost\r\n\
             connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        client.write(request.as_bytes()).await;
        client.head().await;
        client.frames(1).await;
        client.write(&frame("40")).await;
        client.frames(1).await;
        client
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.stream
            .write_all(bytes)
            .await
            .expect("the server reads");
    }

    async fn head(&mut self) {
        loop {
            self.fill().await.expect("an answer");
            let read = &self.buf[..self.filled];
            if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                self.consume(at + 4);
                return;
            }
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        let read = self.stream.read(&mut self.buf[self.filled..]).await?;
        assert!(read > 0, "the server has closed the connection");
        self.filled += read;
        Ok(())
    }

    fn consume(&mut self, bytes: usize) {
        self.buf.copy_within(bytes..self.filled, 0);
        self.filled -= bytes;
    }

    /// Waits for `count` frames.
    pub(crate) async fn frames(&mut self, mut count: usize) {
        while count > 0 {
            let mut at = 0;
            while count > 0
                && let Some(len) = frame_len(&self.buf[at..self.filled])
                && at + len <= self.filled
            {
                at += len;
                count -= 1;
            }
            self.consume(at);
            if count > 0 {
                self.fill().await.expect("more frames");
            }
        }
    }
}

/// Returns the length of a server's frame, if its header has arrived.
fn frame_len(bytes: &[u8]) -> Option<usize> {
    match *bytes {
        [_, 126, high, low, ..] => Some(4 + usize::from(u16::from_be_bytes([high, low]))),
        [_, len @ ..126, ..] => Some(2 + usize::from(len)),
        _ => None,
    }
}

/// A scenario. Each call of `run` makes more operations.
pub(crate) enum Load {
    Echo(Client, Vec<u8>, usize),
    Broadcast(Vec<Client>, Vec<u8>),
    Polling(Router, String),
    Connect(Router),
}

/// The names that [`Load::new`] accepts, and the operation of each.
pub(crate) const SCENARIOS: [(&str, &str); 5] = [
    ("echo", "an event and its acknowledgement, one at a time"),
    ("echo16", "the same, 16 under way"),
    ("broadcast", "a message delivered to one of 1 000 clients"),
    (
        "polling",
        "an event and its acknowledgement by a POST and a GET",
    ),
    (
        "connect",
        "a WebSocket opened, the namespace joined, and closed",
    ),
];

impl Load {
    pub(crate) async fn new(scenario: &str) -> Self {
        let app = app();
        match scenario {
            "echo" => Self::Echo(Client::connect(&app).await, frame(ECHO), 1),
            "echo16" => Self::Echo(
                Client::connect(&app).await,
                frame(ECHO).repeat(BATCH),
                BATCH,
            ),
            "flood" => Self::Echo(
                Client::connect(&app).await,
                frame(ECHO).repeat(FLOOD),
                FLOOD,
            ),
            "broadcast" | "crowd" => {
                let mut clients = Vec::new();
                let count = if scenario == "crowd" { 10_000 } else { 1_000 };
                for _ in 0..count {
                    clients.push(Client::connect(&app).await);
                }
                Self::Broadcast(clients, frame(BROADCAST))
            }
            "polling" => {
                let open = get(&app, "/socket.io/?EIO=4&transport=polling").await;
                let sid = open.split('"').nth(3).expect("a session id");
                let path = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
                post(&app, &path, "40").await;
                get(&app, &path).await;
                Self::Polling(app, path)
            }
            "connect" => Self::Connect(app),
            other => panic!("no scenario `{other}`"),
        }
    }

    /// Makes at least `count` operations and returns their number.
    pub(crate) async fn run(&mut self, count: usize) -> usize {
        match self {
            Self::Echo(client, events, batch) => {
                for _ in 0..count.div_ceil(*batch) {
                    client.write(events).await;
                    client.frames(*batch).await;
                }
                count.div_ceil(*batch) * *batch
            }
            Self::Broadcast(clients, event) => {
                let rounds = count.div_ceil(clients.len());
                for _ in 0..rounds {
                    clients[0].write(event).await;
                    for client in &mut *clients {
                        client.frames(1).await;
                    }
                }
                rounds * clients.len()
            }
            Self::Polling(app, path) => {
                for _ in 0..count {
                    post(app, path, ECHO).await;
                    get(app, path).await;
                }
                count
            }
            Self::Connect(app) => {
                for _ in 0..count {
                    drop(Client::connect(app).await);
                    tokio::task::yield_now().await;
                }
                count
            }
        }
    }
}

async fn get(app: &Router, path: &str) -> String {
    body(app, http::Request::get(path).body(Body::empty())).await
}

async fn post(app: &Router, path: &str, packets: &'static str) -> String {
    body(app, http::Request::post(path).body(Body::from(packets))).await
}

async fn body(app: &Router, request: http::Result<http::Request<Body>>) -> String {
    let request = request.expect("a request");
    let response = app.clone().oneshot(request).await.expect("infallible");
    assert!(response.status().is_success(), "{}", response.status());
    let body = response.into_body().collect().await.expect("a body");
    String::from_utf8(body.to_bytes().into()).expect("text")
}
