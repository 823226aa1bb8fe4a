//! The hand-over of a session from polling to WebSocket.
//!
//! hyper serves the HTTP connection over an in-memory stream. It passes the stream to the session's
//! task through a channel that loom does not see, so the WebSocket handshake is part of the set-up.
//!
//! Preemptions: 1 while the client makes its probe, in a thousand schedules; 2 and 3 in the others.
//! `LOOM_MAX_PREEMPTIONS=2 tests/models messages_arrive` tries 80 000 schedules, in a minute. Threads: the
//! session's task, the client's WebSocket, and the threads that each model names.

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};

use bytes::{Buf as _, BytesMut};
use futures_util::future;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::executor::{block_on, check, explore, join, spawn, stop_exploring};
use super::server::{Client, Setup};
use super::stream::{End, stream};
use crate::engine_io::{CloseReason, Message, SessionEvent};
use crate::hub::session::Upgrade;

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
        let (served, ()) = block_on(future::join(connection.with_upgrades(), handshake));
        served.expect("a connection without an error");
        let read = BytesMut::new();
        Self { io, read }
    }

    /// Probes the WebSocket, which does not upgrade the session yet.
    fn probe(&mut self) {
        self.send("2probe");
        assert_eq!(self.receive().as_deref(), Some("3probe"));
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
        let (client, record, sessions) = Setup::default().open();
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

/// The client completes its upgrade. One thread polls, and another sends. The session is closed when both
/// have ended.
///
/// Each message arrives once, and messages over polling come before messages over the WebSocket. The
/// waiting poll is answered when the session has upgraded, and the session's task ends.
#[test]
fn the_poll_ends_when_the_session_upgrades() {
    let model = || {
        let (client, record, sessions) = Setup::default().open();
        let mut websocket = WebSocket::open(&client);
        websocket.probe();
        let session = record.session();
        let sender = Arc::clone(&session);
        assert!(sender.send([Message::Text("a".into())]));
        let received = Arc::new(Mutex::new(Vec::new()));
        let polled = Arc::clone(&received);
        explore();
        spawn(move || assert!(sender.send([Message::Text("b".into())])));
        spawn(move || *polled.lock().unwrap() = client.poll_to_end());
        websocket.send("5");
        join(2);
        stop_exploring();
        session.close(CloseReason::ServerClose);
        let mut received = std::mem::take(&mut *received.lock().unwrap());
        received.extend(std::iter::from_fn(|| websocket.receive()));
        (received, record, sessions)
    };
    check(2, model, |(received, record, sessions)| {
        assert_eq!(received, ["4a", "4b"]);
        assert_eq!(record.lock().closed, [CloseReason::ServerClose]);
        assert_eq!(sessions.len(), 0);
    });
}

/// The client sends over its WebSocket while a thread sends to the client. Nothing else wakes the task.
///
/// The client receives the message.
#[test]
fn a_message_wakes_the_websocket() {
    let model = || {
        let (client, record, sessions) = Setup::default().open();
        let mut websocket = WebSocket::open(&client);
        websocket.probe();
        websocket.send("5");
        let session = record.session();
        let sender = Arc::clone(&session);
        explore();
        spawn(move || assert!(sender.send([Message::Text("a".into())])));
        websocket.send("4x");
        assert_eq!(websocket.receive().as_deref(), Some("4a"));
        session.close(CloseReason::TransportError);
        sessions
    };
    check(2, model, |sessions| assert_eq!(sessions.len(), 0));
}

/// The client offers a WebSocket, and nothing else happens.
///
/// The session's task takes the WebSocket. Its connection has ended already, so the upgrade fails.
#[test]
fn a_websocket_that_is_offered_is_taken() {
    let model = || {
        let setup = Setup {
            is_read_elsewhere: true,
            ..Setup::default()
        };
        let (_client, record, sessions) = setup.open();
        let session = record.session();
        let offered = Upgrade {
            stream: hyper::upgrade::on(http::Request::new(())),
            deflate: false,
        };
        explore();
        assert!(session.offer_websocket(offered).is_ok());
        let event = block_on(poll_fn(|cx| session.poll_event(cx)));
        assert_eq!(event, SessionEvent::UpgradeFailed);
        session.close(CloseReason::TransportError);
        sessions
    };
    check(3, model, |sessions| assert_eq!(sessions.len(), 0));
}
