//! The hand-over of a session from polling to WebSocket.
//!
//! hyper serves the HTTP connection over an in-memory stream. It passes the stream to the session's
//! task through a channel that loom does not see, so the WebSocket handshake is part of the set-up.
//!
//! Preemptions: 1, in a thousand schedules. With 2 there are 80 000 schedules, which take a minute:
//! `LOOM_MAX_PREEMPTIONS=2 tests/models upgrade`. Threads: the session's task, the client's polls,
//! its WebSocket, and a sender.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::{Buf as _, BytesMut};
use futures_util::future::join;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::executor::{block_on, check, explore, spawn};
use super::server::{Client, Record, engine};
use super::stream::{End, stream};
use crate::engine_io::{CloseReason, Config, Message};

/// The client's WebSocket.
struct WebSocket {
    io: End,
    /// Bytes that were read and do not belong to a received frame yet.
    read: BytesMut,
}

impl WebSocket {
    /// Requests the upgrade of a client's session, and waits for the response.
    fn open(client: &Client) -> Self {
        let (respond, query) = client.for_websocket();
        let (server, mut io) = stream();
        let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let response = respond(request.map(axum_core::body::Body::new));
            async { Ok::<_, Infallible>(response.await) }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(server), service);
        let request = format!(
            "GET /socket.io/?{query} HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\n\
             upgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let handshake = async {
            io.write_all(request.as_bytes()).await.expect("it is open");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(io.read_u8().await.expect("a response"));
            }
            assert!(head.starts_with(b"HTTP/1.1 101"));
        };
        let (served, ()) = block_on(join(connection.with_upgrades(), handshake));
        served.expect("a connection without an error");
        let read = BytesMut::new();
        Self { io, read }
    }

    /// Writes a text frame, with a mask of zeros.
    fn send(&mut self, text: &str) {
        let mut frame = vec![0x81, 0x80 | text.len() as u8, 0, 0, 0, 0];
        frame.extend(text.as_bytes());
        block_on(self.io.write_all(&frame)).expect("it is open");
    }

    /// Reads a text frame. Returns `None` at a close frame or the end.
    fn receive(&mut self) -> Option<String> {
        // Each read is a step that loom sees. So one read takes all available bytes.
        while self.read.len() < 2 || self.read.len() < 2 + usize::from(self.read[1]) {
            let read = block_on(self.io.read_buf(&mut self.read));
            if read.expect("a stream in memory") == 0 {
                return None;
            }
        }
        let (opcode, length) = (self.read.get_u8(), self.read.get_u8());
        let payload = self.read.split_to(length.into());
        (opcode == 0x81).then(|| String::from_utf8(payload.into()).expect("text"))
    }
}

/// The client upgrades while it polls, and another thread sends a message and then closes the
/// session.
///
/// Each message arrives once, and messages over polling come before messages over the WebSocket.
/// Each poll is answered, and the session's task ends.
#[test]
fn messages_arrive_once_over_either_transport() {
    let model = || {
        let record = Arc::new(Record::default());
        let (respond, sessions) = engine(&record, None, Config::default());
        let client = Client::open(respond);
        let mut websocket = WebSocket::open(&client);
        let sender = record.session();
        let frames = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&frames);
        assert!(sender.send([Message::Text("a".into())]));
        explore();
        spawn(move || {
            assert!(sender.send([Message::Text("b".into())]));
            sender.close(CloseReason::ServerClose);
        });
        spawn(move || {
            websocket.send("2probe");
            while let Some(text) = websocket.receive() {
                match &*text {
                    "3probe" => websocket.send("5"),
                    _ => log.lock().unwrap().push(text),
                }
            }
        });
        let polled = client.poll_to_end();
        (polled, frames, record, sessions)
    };
    check(1, model, |(polled, frames, record, sessions)| {
        let mut received = polled;
        received.append(&mut frames.lock().unwrap());
        received.retain(|packet| packet != "1");
        assert_eq!(received, ["4a", "4b"]);
        assert_eq!(record.lock().closed, [CloseReason::ServerClose]);
        assert_eq!(sessions.len(), 0);
    });
}
