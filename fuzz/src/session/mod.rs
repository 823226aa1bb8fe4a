//! Plays scripts on a server: its clients, its application and the time.
//!
//! The first line of a [script](crate::script) has the [options](app::Options). Then, for client N:
//!
//! | line | operation |
//! |---|---|
//! | `oN&j=1` | opens a session by polling, with an addition to the query |
//! | `wN`, `WN` | opens a session by WebSocket; offers compression too |
//! | `iN`, `IN` | the same of revision 4, and of revision 3 by polling |
//! | `gN`, `GN` | polls; aborts the oldest poll |
//! | `pN40` | posts a body |
//! | `qN`, `cN40`, `eN`, `fN` | begins a POST, sends a piece of its body, ends it, breaks it off |
//! | `uN`, `UN` | connects a WebSocket to the session; probes and completes the upgrade too |
//! | `tN4…`, `bN…` | sends a text frame, a binary frame |
//! | `FN…`, `+N…`, `.N…` | begins, continues, ends a fragmented text |
//! | `sN40` | sends a packet by the transport of the session |
//! | `nN` | sends an event whose order is checked |
//! | `RN` | connects with the claim of the last socket |
//! | `HN`, `rN…` | opens a stream; writes bytes to it, `$` is the session's id |
//! | `kN5`, `zN` | writes five bytes at a time; stops reading from the stream, or begins again |
//! | `hN`, `xN` | ends the client's side of the stream; cuts it |
//! | `TN100` | 100 ms pass |
//! | `AN9`, `BNroom` | the application emits N events of 9 bytes to each socket; one to a room |
//! | `VN`, `KN` | emits a volatile event; asks all sockets for acknowledgements |
//! | `JNroom`, `DN`, `CN` | makes a socket join a room; disconnects it; closes its connection |
//! | `SN` | closes the server, or shuts it down |
//!
//! After each operation:
//!
//! - the buffered and the pending bytes of each session are within their limits;
//! - each client has its events in order, without a gap, and no other client's;
//! - the application has the events of each client in order.
//!
//! At the end:
//!
//! - a client that is connected and has read everything has all events;
//! - every request is answered after a while, and no session, socket, room or task is left;
//! - each socket that was accepted has had its disconnect handler once, after its last event.

mod app;
mod client;
mod frames;
mod record;

use std::time::Duration;

use tower_socketio::internals::held_bytes;
use tower_socketio::{Socket, SocketIo};

use self::app::{Limits, MAX_RECOVERY, Options};
use self::client::Client;
use self::record::Shared;
use crate::script::{self, Line};
use crate::server::{self, Server};

/// The longest script that is played, in operations.
const MAX_LINES: usize = 60;

/// The longest time that one operation lets pass.
const MAX_PAUSE: u64 = 70_000;

struct World<'a> {
    options: Options<'a>,
    limits: Limits,
    io: SocketIo,
    record: Shared,
    clients: [Client; 3],
    connections: u32,
    capacity: usize,
}

/// Plays a script.
pub fn play(script: &[u8]) {
    let (options, lines) = script::parse(script);
    server::run(async {
        let (server, mut world) = World::new(Options(options));
        for line in lines.take(MAX_LINES) {
            match line.op {
                b'T' => world.pass(line.amount().min(MAX_PAUSE)).await,
                _ => world.perform(&line),
            }
            world.settle().await;
            world.check();
        }
        world.read_all().await;
        world.end(server).await;
    });
}

impl<'a> World<'a> {
    fn new(options: Options<'a>) -> (Server, Self) {
        let record = Shared::default();
        record.lock().may_recover = options.has(Options::RECOVERY);
        let (layer, io) = app::build(options, &record);
        let server = Server::new(layer);
        let mut clients = [(); 3].map(|()| Client::new(&server, &record));
        for client in &mut clients {
            client.answers_pings = options.has(Options::PONGS);
        }
        let world = Self {
            options,
            limits: Limits::of(options),
            io,
            record,
            clients,
            connections: 0,
            capacity: if options.has(Options::NARROW) {
                500
            } else {
                64 * 1024
            },
        };
        (server, world)
    }

    fn perform(&mut self, line: &Line<'_>) {
        if self.perform_in_application(line) {
            return;
        }
        let (capacity, connection) = (self.capacity, self.connections + 1);
        let client = &mut self.clients[line.number % 3];
        let text = String::from_utf8_lossy(line.text);
        match line.op {
            b'o' | b'i' | b'I' => {
                self.connections = connection;
                client.is_base_revision = line.op != b'I';
                client.open(connection, if line.op == b'o' { &text } else { "" });
            }
            b'w' | b'W' => {
                self.connections = connection;
                client.is_base_revision = true;
                client.open_by_websocket(connection, capacity, &text, line.op == b'W');
            }
            // Without an id a poll opens a session.
            b'g' if client.sid.is_none() => {
                self.connections = connection;
                client.open(connection, &text);
            }
            b'g' => client.poll(&text),
            b'G' => client.abort_poll(),
            b'p' => client.post(line.unescaped()),
            b'q' => client.begin_post(),
            b'c' => client.piece(line.unescaped()),
            b'e' => client.end_post(),
            b'f' => client.fail_post(),
            b'u' | b'U' if client.sid.is_some() => {
                if client.has_upgraded {
                    // The former WebSocket may not have been the session's.
                    self.record.lock().may_lose(client.connection);
                }
                client.open_websocket(capacity, &text, self.options.has(Options::DEFLATE));
                if line.op == b'U' {
                    client.has_upgraded = true;
                    client.frame(0x81, b"2probe");
                    client.frame(0x81, b"5");
                }
            }
            b't' => client.frame(0x81, &line.unescaped()),
            b'b' => client.frame(0x82, &line.unescaped()),
            b'F' => client.frame(0x01, &line.unescaped()),
            b'+' => client.frame(0x00, &line.unescaped()),
            b'.' => client.frame(0x80, &line.unescaped()),
            b's' => client.send(line.unescaped()),
            b'n' => {
                let token = self.record.lock().client_sends(client.connection);
                client.send(format!("42[\"n\",\"{token}\"]").into());
            }
            b'R' => {
                let (pid, offset) = &client.claim;
                client.send(format!(r#"40{{"pid":"{pid}","offset":"{offset}"}}"#).into());
            }
            b'H' => drop(client.open_stream(capacity)),
            b'r' => {
                let sid = client.sid.clone().unwrap_or_default();
                let bytes = line.unescaped();
                let parts: Vec<&[u8]> = bytes.split(|byte| *byte == b'$').collect();
                if let Some(stream) = &mut client.stream {
                    let mut record = self.record.lock();
                    // They may be a frame that swallows the next one, or a poll.
                    record.may_lose(stream.connection);
                    record.may_miss(client.connection);
                    stream.write(&parts.join(sid.as_bytes()));
                }
            }
            b'k' => client.stream.iter_mut().for_each(|stream| {
                stream.slice = line.amount() as usize;
            }),
            b'z' => client.stream.iter_mut().for_each(|stream| {
                stream.is_stalled = !stream.is_stalled;
            }),
            b'h' => client
                .stream
                .iter_mut()
                .for_each(|stream| stream.shut_down()),
            b'x' => client.stream = None,
            _ => {}
        }
    }

    /// Performs an operation of the application. Returns whether it is one.
    fn perform_in_application(&self, line: &Line<'_>) -> bool {
        let room = String::from_utf8_lossy(line.text);
        match line.op {
            b'A' => {
                let filler = "x".repeat((line.amount() as usize).min(self.limits.max_payload));
                for _ in 0..line.number % 8 {
                    for socket in self.io.sockets() {
                        let token = self.record.lock().send(&[socket.clone()]);
                        socket.emit("event", tower_socketio::Args((&filler, token)));
                    }
                }
            }
            b'B' => {
                let broadcast = self.io.to(&*room);
                let token = self.record.lock().send(&broadcast.sockets());
                broadcast.emit("event", token);
            }
            b'V' => self.io.sockets().iter().for_each(|socket| {
                socket.volatile().emit("volatile", 1);
            }),
            b'K' => self.ask(),
            b'J' => self.nth(line).iter().for_each(|socket| socket.join(&*room)),
            b'D' => self.nth(line).iter().for_each(Socket::disconnect),
            b'C' => self.nth(line).iter().for_each(Socket::close),
            b'S' => self.shut_down(line.number),
            _ => return false,
        }
        true
    }

    fn nth(&self, line: &Line<'_>) -> Option<Socket> {
        let mut sockets = self.io.sockets();
        // In the order in which they were created, so that a script does the same each time.
        sockets.sort_by_key(|socket| socket.request_parts().uri.to_string());
        let nth = line.number.checked_rem(sockets.len())?;
        Some(sockets.swap_remove(nth))
    }

    fn ask(&self) {
        for socket in self.io.sockets() {
            self.record.lock().acks += 1;
            let record = self.record.clone();
            let answer = socket.emit_with_ack::<serde_json::Value>("question", ());
            tokio::spawn(async move {
                let _ = answer.await;
                record.lock().acks -= 1;
            });
        }
    }

    fn shut_down(&self, number: usize) {
        let io = self.io.clone();
        if number % 2 == 0 {
            tokio::spawn(async move { io.close().await });
            return;
        }
        self.record.lock().may_cut = true;
        let shutdown = io.shutdown();
        tokio::spawn(async move {
            let spread = Duration::from_millis(500);
            let deadline = Duration::from_secs(2);
            shutdown.spread(spread).deadline(deadline).await;
        });
    }

    /// Lets the server and the clients run until they have nothing to do at this time.
    async fn settle(&mut self) {
        for _ in 0..200 {
            // Virtual time passes only when all tasks wait.
            tokio::time::sleep(Duration::from_millis(1)).await;
            if !self.pump() {
                return;
            }
        }
    }

    fn pump(&mut self) -> bool {
        // All of them, so no `any`.
        self.clients
            .iter_mut()
            .filter_map(|client| client.pump().then_some(()))
            .count()
            > 0
    }

    async fn pass(&mut self, mut millis: u64) {
        while millis > 0 {
            let step = millis.min(5000);
            tokio::time::sleep(Duration::from_millis(step)).await;
            self.settle().await;
            millis -= step;
        }
    }

    fn check(&self) {
        /// A message counts some bytes more than it has.
        const OVERHEAD: usize = 2000;
        const ATTACHMENTS: usize = 2_000_000;

        let limits = self.limits;
        // One packet may exceed the limit: an echo of the longest message, or of a packet with
        // attachments.
        let packet = limits.max_payload * 2 + OVERHEAD;
        for (buffered, pending) in held_bytes(&self.io) {
            let missed = if self.options.has(Options::RECOVERY) {
                MAX_RECOVERY
            } else {
                0
            };
            assert!(
                buffered <= limits.max_buffered + packet.min(ATTACHMENTS) * 11 + missed,
                "{buffered} bytes are buffered"
            );
            assert!(
                pending <= 4 * limits.max_pending + packet.min(ATTACHMENTS) * 11,
                "{pending} bytes are pending"
            );
        }
    }

    /// Lets the clients read all that there is.
    async fn read_all(&mut self) {
        self.clients.iter_mut().for_each(Client::begin_reading);
        // A response has at most the bytes of `max_payload`, and so has the buffer some more.
        for _ in 0..20 {
            let polls = self
                .clients
                .iter_mut()
                .filter_map(Client::poll_once)
                .count();
            self.settle().await;
            if polls == 0 {
                break;
            }
        }
        let connections = [0, 1, 2].map(|client: usize| self.clients[client].connection);
        let mut record = self.record.lock();
        for socket in self.io.sockets() {
            record.check_complete(&socket, &connections);
        }
    }

    /// Lets all clients leave, and time pass.
    async fn end(mut self, server: Server) {
        self.clients.iter_mut().for_each(Client::leave);
        // Longer than each deadline and each handler, and than sockets are kept for recovery.
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_secs(150)).await;
            self.settle().await;
        }
        for client in &self.clients {
            assert_eq!(client.unanswered(), 0, "requests are not answered");
        }
        let counts = self.io.counts();
        assert_eq!(
            (counts.sessions, counts.sockets),
            (0, 0),
            "clients are left"
        );
        assert_eq!(
            (counts.rooms, counts.recoverable),
            (0, 0),
            "{counts:?} are left"
        );
        self.record.lock().check_end();
        drop(server);
    }
}
