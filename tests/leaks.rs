//! A session leaves nothing on the heap, in whichever way it ends. A client that stays does not make
//! the server keep more and more.
//!
//! Each test ends sessions in one way, and counts the live bytes and blocks before and after. The
//! number of sessions in the first round is 100, or that of the environment variable:
//! `LEAK_SESSIONS=1000`.

mod support;

use std::alloc::System;
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, StatusCode};
use futures_util::future::join_all;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use support::stream::serve_stream;
use support::{
    Polling, builder, call, frame, get, in_memory, raw_session_on, read_frame, send_head,
    text_frame, upgrade_head, within,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::sleep;
use tower_socketio::admin::AdminUi;
use tower_socketio::cluster::Memory;
use tower_socketio::metrics::Metrics;
use tower_socketio::middleware::{self, Next};
use tower_socketio::rate_limit::{RateLimit, RateLimitLayer};
use tower_socketio::{
    Counts, Event, Expiry, HttpOptions, Namespace, NamespaceRequest, Presence, RawArgs, Recovery,
    Socket, SocketIo, SocketIoBuilder,
};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Dispatch, Metadata, Subscriber};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The number of clients that take a path at the same time.
const AT_A_TIME: usize = 10;

/// The number of rounds after the warm-up. Each round has twice as many sessions as the round before.
/// So a leak of the path shows in each round, also a leak into a table, which doubles its memory
/// when it is full. An allocation that is kept once shows in one round only.
const ROUNDS: usize = 4;

/// The maximum wall-clock time until all sessions have ended.
const PATIENCE: Duration = Duration::from_secs(120);

const SECOND: Duration = Duration::from_secs(1);

/// The live blocks and bytes on the heap of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Live {
    blocks: usize,
    bytes: usize,
}

impl Live {
    fn now() -> Self {
        let stats = ALLOCATOR.stats();
        Self {
            blocks: stats.allocations.wrapping_sub(stats.deallocations),
            bytes: stats.bytes_allocated.wrapping_sub(stats.bytes_deallocated),
        }
    }

    /// Returns the blocks and bytes in addition to those of `before`.
    fn since(self, before: Self) -> (isize, isize) {
        let more = |now: usize, before: usize| now.wrapping_sub(before) as isize;
        (
            more(self.blocks, before.blocks),
            more(self.bytes, before.bytes),
        )
    }
}

/// Returns the number of sessions that end in the first round.
fn sessions() -> usize {
    let given = std::env::var("LEAK_SESSIONS");
    given.map_or(100, |given| given.parse().expect("a number"))
}

struct Server {
    app: Router,
    io: SocketIo,
}

impl Server {
    fn new(builder: SocketIoBuilder) -> Self {
        let (layer, io) = builder.build();
        let app = support::app(layer);
        Self { app, io }
    }

    fn with(main: Namespace) -> Self {
        Self::new(builder(main))
    }

    /// Opens a WebSocket session over an in-memory stream, which frees its buffers when it is
    /// dropped.
    async fn open(&self) -> DuplexStream {
        raw_session_on(in_memory(self.app.clone(), 64 * 1024)).await
    }

    /// Opens a WebSocket session, and joins a namespace.
    async fn join(&self, connect: &str) -> DuplexStream {
        let mut stream = self.open().await;
        send(&mut stream, connect).await;
        let answer = read_frame(&mut stream).await;
        assert!(answer.starts_with("40"), "{answer}");
        stream
    }

    async fn client(&self) -> DuplexStream {
        self.join("40").await
    }

    async fn polling(&self) -> Polling {
        Polling::connect(&self.app).await
    }

    /// Begins the upgrade of a polling session. Returns the probe after its pong.
    async fn probe(&self, client: &Polling) -> DuplexStream {
        let mut stream = in_memory(self.app.clone(), 64 * 1024);
        let head = upgrade_head(&format!("&sid={}", client.sid));
        let head = send_head(&mut stream, &head).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        send(&mut stream, "2probe").await;
        assert_eq!(read_frame(&mut stream).await, "3probe");
        stream
    }

    /// Waits until the server and the runtime are in the idle state.
    async fn until_idle(&self, idle: &Idle) {
        let limit = Instant::now() + PATIENCE;
        while *idle != Idle::of(self) {
            let now = Idle::of(self);
            assert!(Instant::now() < limit, "{now:?} is left, not {idle:?}");
            // The sleep advances a paused clock.
            sleep(SECOND / 100).await;
        }
        // The I/O driver of the runtime frees the resources of closed connections later.
        sleep(SECOND / 100).await;
    }
}

/// The state of a server and its runtime without clients.
#[derive(Debug, PartialEq, Eq)]
struct Idle {
    counts: Counts,
    tasks: usize,
}

impl Idle {
    fn of(server: &Server) -> Self {
        Self {
            counts: server.io.counts(),
            tasks: Handle::current().metrics().num_alive_tasks(),
        }
    }
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), text: &str) {
    let sent = within(stream.write_all(&text_frame(text))).await;
    sent.expect("the server takes it");
}

/// Reads until the server has closed the connection. Returns the bytes.
async fn ended(mut stream: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut rest = Vec::new();
    // A reset is an end of the connection too.
    let _ = within(stream.read_to_end(&mut rest)).await;
    rest
}

/// Checks a path with a paused clock.
#[allow(
    clippy::needless_pass_by_value,
    reason = "a closure that each test writes in place"
)]
fn leaves_nothing(server: impl FnOnce() -> Server, path: impl AsyncFn(&Server)) {
    check(true, server, &path);
}

/// Returns a runtime with one thread, and a guard that stops other tests of this process meanwhile.
fn alone(paused: bool) -> (MutexGuard<'static, ()>, Runtime) {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut runtime = Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(paused).build();
    (alone, runtime.expect("a runtime"))
}

/// Runs a path with many clients, and checks that they leave nothing on the heap.
fn check(paused: bool, server: impl FnOnce() -> Server, path: &impl AsyncFn(&Server)) {
    let (_alone, runtime) = alone(paused);
    runtime.block_on(async {
        let server = server();
        sleep(SECOND / 100).await;
        let idle = Idle::of(&server);
        let mut left = Vec::new();
        for round in 0..=ROUNDS {
            let before = Live::now();
            for _ in 0..sessions().div_ceil(AT_A_TIME) << round {
                join_all((0..AT_A_TIME).map(|_| path(&server))).await;
                // Each round has the same number of sessions at a time, so that tables have the
                // same size.
                server.until_idle(&idle).await;
            }
            left.push(Live::now().since(before));
            // The first round is a warm-up.
            if left.len() > 1 && left.last() == Some(&(0, 0)) {
                return;
            }
        }
        panic!("each round leaves blocks and bytes: {left:?}");
    });
}

/// Checks that a client that stays does not make the server keep more and more. The path is taken
/// many times, one after another, while the client is connected.
#[allow(
    clippy::needless_pass_by_value,
    reason = "a closure that each test writes in place"
)]
fn grows_no_more(server: impl FnOnce() -> Server, path: impl AsyncFn(&Server, &mut DuplexStream)) {
    let (_alone, runtime) = alone(true);
    runtime.block_on(async {
        let server = server();
        let mut client = server.client().await;
        sleep(SECOND / 100).await;
        let idle = Idle::of(&server);
        let mut left = Vec::new();
        for round in 0..=ROUNDS {
            let before = Live::now();
            for _ in 0..sessions() << round {
                path(&server, &mut client).await;
                server.until_idle(&idle).await;
            }
            left.push(Live::now().since(before));
            if left.len() > 1 && left.last() == Some(&(0, 0)) {
                return;
            }
        }
        panic!("each round leaves blocks and bytes: {left:?}");
    });
}

// ---- The client ends the session.

#[test]
fn a_client_that_closes() {
    let main = || Server::with(Namespace::new());
    leaves_nothing(main, async |server| {
        let mut client = server.client().await;
        send(&mut client, "1").await;
        ended(client).await;
        let mut client = server.client().await;
        let close = frame(8, &1000_u16.to_be_bytes());
        let sent = within(client.write_all(&close)).await;
        sent.expect("the server takes it");
        ended(client).await;
        server.polling().await.send("1").await;
    });
}

#[test]
fn a_client_that_leaves_its_namespace_and_goes() {
    let leave = Namespace::new().on_disconnect(async || ());
    leaves_nothing(
        || Server::with(leave),
        async |server| {
            let mut client = server.client().await;
            send(&mut client, "41").await;
            send(&mut client, "40").await;
            assert!(read_frame(&mut client).await.starts_with("40"));
            send(&mut client, "41").await;
        },
    );
}

/// Opens a connection over TCP.
async fn over_tcp(server: &Server) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let (client, accepted) = tokio::join!(TcpStream::connect(addr), listener.accept());
    let (accepted, _) = accepted.expect("a connection");
    serve_stream(server.app.clone(), accepted);
    client.expect("a connection")
}

/// Closes a connection with the segment RST.
fn reset(stream: TcpStream) {
    stream.set_zero_linger().expect("an option");
    drop(stream);
}

#[test]
fn a_connection_that_ends_with_fin_or_rst() {
    let main = || Server::with(Namespace::new());
    check(false, main, &async |server: &Server| {
        let connect = async || {
            let mut client = raw_session_on(over_tcp(server).await).await;
            send(&mut client, "40").await;
            assert!(read_frame(&mut client).await.starts_with("40"));
            client
        };
        drop(connect().await);
        reset(connect().await);
        // In the middle of a frame.
        let mut client = connect().await;
        let part = &text_frame("42[\"text\"]")[..9];
        within(client.write_all(part)).await.expect("it is taken");
        reset(client);
    });
}

#[test]
fn a_request_that_is_reset() {
    let main = || Server::with(Namespace::new());
    check(false, main, &async |server: &Server| {
        let poller = server.polling().await;
        let mut stream = over_tcp(server).await;
        let poll = format!("GET {} HTTP/1.1\r\nhost: test\r\n\r\n", poller.uri);
        within(stream.write_all(poll.as_bytes()))
            .await
            .expect("it is taken");
        // The session also has a WebSocket as a probe, which is reset first.
        let mut probe = over_tcp(server).await;
        let head = upgrade_head(&format!("&sid={}", poller.sid));
        send_head(&mut probe, &head).await;
        reset(probe);
        reset(stream);

        let poster = server.polling().await;
        let mut stream = over_tcp(server).await;
        let length = "host: test\r\ncontent-length: 100";
        let post = format!("POST {} HTTP/1.1\r\n{length}\r\n\r\n42[", poster.uri);
        within(stream.write_all(post.as_bytes()))
            .await
            .expect("it is taken");
        sleep(SECOND / 1_000).await;
        reset(stream);
        poster.send_and_forget("1").await;
        let _ = poster.get().await;
    });
}

#[test]
fn a_poll_that_is_aborted() {
    let main = || Server::with(Namespace::new());
    leaves_nothing(main, async |server| {
        let poll = server.polling().await.poll();
        sleep(SECOND).await;
        poll.abort();
    });
}

#[test]
fn a_client_that_is_gone() {
    let main = || Server::with(Namespace::new());
    leaves_nothing(main, async |server| {
        let (polling, websocket) = (server.polling().await, server.client().await);
        // Neither answers the ping.
        sleep(60 * SECOND).await;
        let gone = polling.get().await.status();
        assert_eq!(gone, StatusCode::BAD_REQUEST);
        ended(websocket).await;
    });
}

// ---- The server ends the session.

#[test]
fn a_server_that_disconnects_and_closes() {
    let main = Namespace::new()
        .on("out", async |socket: Socket| socket.disconnect())
        .on("close", async |socket: Socket| socket.close())
        .on_disconnect(async || ());
    let server = || Server::new(builder(main).namespace("/other", Namespace::new()));
    leaves_nothing(server, async |server| {
        let mut client = server.client().await;
        send(&mut client, r#"42["out"]"#).await;
        assert_eq!(read_frame(&mut client).await, "41");
        send(&mut client, "40/other,").await;
        read_frame(&mut client).await;
        drop(client);
        let mut client = server.client().await;
        send(&mut client, r#"42["close"]"#).await;
        ended(client).await;
        let mut client = server.polling().await;
        client.send(r#"42["close"]"#).await;
        assert_eq!(client.next().await, "41");
        assert_eq!(client.next().await, "1");
    });
}

#[test]
fn a_client_that_joins_nothing() {
    let main = || Server::with(Namespace::new());
    leaves_nothing(main, async |server| {
        let (websocket, polling) = (server.open().await, Polling::open(&server.app).await);
        // `next` answers pings until the session is closed.
        let mut polling = polling;
        assert_eq!(polling.next().await, "1");
        ended(websocket).await;
    });
}

#[test]
fn a_session_that_is_closed_for_its_messages() {
    let main = || Server::new(builder(Namespace::new()).max_payload(1_000));
    leaves_nothing(main, async |server| {
        // Inputs that are longer than the limit, not a packet, not JSON, not masked, and not UTF-8.
        let long = text_frame(&"4".repeat(2_000));
        let not_masked = vec![0x81, 1, b'4'];
        let others = ["x", "4x", "42[", "450-[]", "40\x1e40", "2", "42"].map(text_frame);
        for input in others
            .into_iter()
            .chain([long, not_masked, frame(1, b"4\xff")])
        {
            let mut client = server.client().await;
            within(client.write_all(&input)).await.expect("it is taken");
            ended(client).await;
        }
        let client = server.polling().await;
        let refused = client.post("4".repeat(2_000)).await.status();
        assert_eq!(refused, StatusCode::PAYLOAD_TOO_LARGE);
        client.send_and_forget("x").await;
        let _ = client.get().await;
        // A second poll at the same time.
        let client = server.polling().await;
        let poll = client.poll();
        sleep(SECOND).await;
        let _ = client.get().await;
        within(poll).await.expect("no panic");
    });
}

#[test]
fn a_client_that_does_not_read() {
    let shout = async |socket: Socket| socket.emit("text", "x".repeat(100_000));
    let server = || Server::new(builder(Namespace::new().on("ask", shout)).max_buffered(50_000));
    leaves_nothing(server, async |server| {
        let mut client = server.client().await;
        (0..5).for_each(|_| server.io.emit("text", "x".repeat(20_000)));
        send(&mut client, r#"42["ask"]"#).await;
        // At the deadline of the close the server drops the rest of the queue and the connection.
        sleep(10 * SECOND).await;
        drop(client);
        let client = server.polling().await;
        client.send_and_forget(r#"42["ask"]"#).await;
        client.send_and_forget(r#"42["ask"]"#).await;
        sleep(10 * SECOND).await;
    });
}

#[test]
fn a_body_or_attachments_that_do_not_arrive() {
    let main = || Server::with(Namespace::new().on("event", async |_: RawArgs| ()));
    leaves_nothing(main, async |server| {
        let client = server.polling().await;
        let never = Body::from_stream(futures_util::stream::pending::<Result<Bytes, Never>>());
        let late = client.post(never).await.status();
        assert_eq!(late, StatusCode::REQUEST_TIMEOUT);
        let mut client = server.client().await;
        let partial = r#"451-["event",{"_placeholder":true,"num":0}]"#;
        send(&mut client, partial).await;
        ended(client).await;
        let mut client = server.client().await;
        send(&mut client, partial).await;
    });
}

type Never = std::convert::Infallible;

#[test]
fn a_server_that_shuts_down_and_cuts() {
    let main = || {
        Namespace::new()
            .on("wait", async || pending::<()>().await)
            .on_disconnect(async || pending::<()>().await)
    };
    let none = || Server::with(Namespace::new());
    leaves_nothing(none, async |_| {
        let server = Server::with(main());
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut client = server.client().await;
            send(&mut client, r#"42["wait"]"#).await;
            clients.push(client);
            let client = server.polling().await;
            client.send_and_forget(r#"42["wait"]"#).await;
        }
        clients.push(server.open().await);
        let shutdown = server.io.shutdown().spread(Duration::ZERO);
        let report = shutdown.deadline(8 * SECOND).await;
        assert_eq!((report.cut, report.handlers_cut), (6, 12), "{report}");
        for client in clients {
            ended(client).await;
        }
    });
}

#[test]
fn a_server_that_closes_or_is_dropped() {
    let none = || Server::with(Namespace::new());
    leaves_nothing(none, async |_| {
        let memory = Memory::with_log();
        let server = || {
            let recovery = Recovery::within(30 * SECOND);
            let builder = builder(Namespace::new()).recovery(recovery);
            Server::new(builder.cluster(memory.clone()).metrics(Metrics::new()))
        };
        let (closed, dropped) = (server(), server());
        let clients = [closed.client().await, dropped.client().await];
        closed.io.emit("to", "all");
        within(closed.io.close()).await;
        drop((closed, dropped));
        drop(clients);
    });
}

#[test]
fn a_server_that_is_dropped_with_sockets_that_hold_their_namespace() {
    let none = || Server::with(Namespace::new());
    leaves_nothing(none, async |_| {
        let holds = async |socket: Socket| {
            socket.insert(Arc::new(socket.to("room")));
        };
        let server = || {
            let builder = builder(Namespace::new().on_connect(holds));
            Server::new(builder.recovery(Recovery::within(30 * SECOND)))
        };
        // The one is suspended when its server is dropped, and the other one is connected.
        let (suspended, connected) = (server(), server());
        drop(suspended.client().await);
        sleep(SECOND).await;
        assert_eq!(suspended.io.counts().recoverable, 1);
        drop(suspended);
        let client = connected.client().await;
        drop(connected);
        drop(client);
    });
}

#[test]
fn a_runtime_that_ends_before_its_sessions() {
    let join = async |socket: Socket| socket.join("room");
    let main = Namespace::new()
        .on("wait", async || pending::<()>().await)
        .on_connect(join);
    leaves_nothing(
        || Server::with(main),
        async |server| {
            let app = server.app.clone();
            let served = std::thread::spawn(move || {
                let runtime = Builder::new_current_thread().enable_all().build();
                let _clients = runtime.expect("a runtime").block_on(async {
                    let mut client = raw_session_on(in_memory(app.clone(), 64 * 1024)).await;
                    send(&mut client, "40").await;
                    assert!(read_frame(&mut client).await.starts_with("40"));
                    send(&mut client, r#"42["wait"]"#).await;
                    let polling = Polling::connect(&app).await;
                    let poll = polling.poll();
                    tokio::task::yield_now().await;
                    (client, polling, poll)
                });
            });
            served.join().expect("no panic");
        },
    );
}

// ---- Connects.

#[test]
fn a_client_that_goes_while_it_connects() {
    let wait = async |event: Event, next: Next| {
        sleep(SECOND).await;
        next.run(event).await
    };
    let slow = async || sleep(SECOND).await;
    let main = Namespace::new()
        .on_connect(slow)
        .on_disconnect(slow)
        .layer(middleware::from_fn(wait));
    let exists = async |_: NamespaceRequest| {
        sleep(SECOND).await;
        true
    };
    let server = || Server::new(builder(main).namespace_if(exists, Namespace::new()));
    leaves_nothing(server, async |server| {
        for after in [0, 500, 1_500, 2_500] {
            // In the last case the first namespace has a handler when the second one is decided.
            for connects in [&["40"][..], &["40/any,"], &["40", "40/any,"]] {
                let mut client = server.open().await;
                for connect in connects {
                    send(&mut client, connect).await;
                }
                send(&mut client, r#"42["early"]"#).await;
                sleep(Duration::from_millis(after)).await;
            }
        }
    });
}

#[test]
fn a_client_that_is_refused_by_a_namespace() {
    let refuse = async || Err::<(), _>("no");
    let server = || Server::with(Namespace::new().on_connect(refuse));
    leaves_nothing(server, async |server| {
        let mut client = server.open().await;
        send(&mut client, "40").await;
        assert!(read_frame(&mut client).await.starts_with("44"));
        send(&mut client, "40/missing,").await;
        assert!(read_frame(&mut client).await.starts_with("44"));
    });
}

#[test]
fn a_handshake_that_is_refused() {
    let http = HttpOptions::new().allow_request(async |_| Err::<(), _>("no"));
    let server = || Server::new(builder(Namespace::new()).http(http));
    leaves_nothing(server, async |server| {
        let refused = [
            "EIO=4&transport=polling",
            "EIO=4&transport=pigeon",
            "EIO=3&transport=polling",
            "EIO=4&transport=websocket",
            "EIO=4&transport=polling&sid=missing",
        ];
        for query in refused {
            let answer = get(&server.app, &format!("/socket.io/?{query}")).await;
            assert!(answer.status().is_client_error(), "{query}");
        }
        let long = format!(
            "/socket.io/?EIO=4&transport=polling&x={}",
            "x".repeat(40_000)
        );
        let head = Request::get(long).body(Body::empty()).expect("a request");
        let answer = call(&server.app, head).await;
        assert!(answer.status().is_client_error());
        let mut stream = in_memory(server.app.clone(), 4_096);
        let head = send_head(&mut stream, &upgrade_head("")).await;
        assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    });
}

#[test]
fn namespaces_that_are_created_and_removed() {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let exists = async |_: NamespaceRequest| true;
    let room = async |socket: Socket| socket.join("room");
    let orders = Namespace::new().on_connect(room);
    let server = || {
        let builder = builder(Namespace::new()).namespace("/orders/{id}", orders);
        Server::new(builder.namespace_if(exists, Namespace::new()))
    };
    leaves_nothing(server, async |server| {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut client = server.join(&format!("40/orders/{n},")).await;
        send(&mut client, &format!("40/any{n},")).await;
        assert!(read_frame(&mut client).await.starts_with("40"));
        server.io.of(&format!("/orders/{n}")).emit("news", n);
        read_frame(&mut client).await;
        assert!(server.io.counts().namespaces >= 3);
        send(&mut client, &format!("41/any{n},")).await;
    });
}

// ---- Upgrades.

#[test]
fn an_upgrade_that_fails_or_is_abandoned() {
    let main = || Server::with(Namespace::new());
    leaves_nothing(main, async |server| {
        let client = server.polling().await;
        let mut probe = server.probe(&client).await;
        // Only the upgrade packet is allowed here.
        send(&mut probe, "4text").await;
        ended(probe).await;
        drop(server.probe(&client).await);
        sleep(SECOND).await;
        // The upgrade times out.
        let probe = server.probe(&client).await;
        let poll = client.poll();
        ended(probe).await;
        poll.abort();
        // The aborted poll ends the first session. A second session ends during its upgrade.
        let client = server.polling().await;
        let probe = server.probe(&client).await;
        client.send_and_forget("1").await;
        ended(probe).await;
    });
}

#[test]
fn an_upgrade_that_is_completed() {
    let main = || Server::with(Namespace::new());
    leaves_nothing(main, async |server| {
        let client = server.polling().await;
        let mut websocket = server.probe(&client).await;
        send(&mut websocket, "5").await;
        send(&mut websocket, "41").await;
        send(&mut websocket, "1").await;
        ended(websocket).await;
    });
}

// ---- What the application does with a socket.

#[test]
fn acknowledgements_that_time_out_or_are_open_at_the_end() {
    let ask = async |socket: Socket| {
        let within_a_second = socket.emit_with_ack::<()>("question", ()).timeout(SECOND);
        assert!(within_a_second.await.is_err());
        let all = socket.everyone().emit_with_ack::<()>("question", ());
        drop(all);
        // The client leaves before it answers.
        assert!(socket.emit_with_ack::<()>("question", ()).await.is_err());
    };
    let server = || Server::with(Namespace::new().on("ask", ask));
    leaves_nothing(server, async |server| {
        let mut client = server.client().await;
        send(&mut client, r#"421["ask"]"#).await;
        sleep(2 * SECOND).await;
        // A late answer.
        send(&mut client, "430[]").await;
        sleep(SECOND).await;
    });
}

#[test]
fn what_a_handler_does_after_its_client_has_gone() {
    let presence = Presence::<u32>::new();
    let tracked = presence.clone();
    let late = async move |socket: Socket| {
        sleep(SECOND).await;
        socket.join("late");
        socket.emit("late", "word");
        socket.insert(vec![1]);
        let _ = socket.set_data("late");
        let _ = tracked.track(&socket, "late", socket.id().as_str(), &1);
        socket.set_expiry(Expiry::after(SECOND));
        drop(socket.emit_with_ack::<()>("late", ()));
    };
    let main = Namespace::new()
        .on("late", late.clone())
        .on_connect(async |socket: Socket| socket.join("early"))
        .on_disconnect(late)
        .presence(&presence);
    leaves_nothing(
        || Server::with(main),
        async |server| {
            let mut client = server.client().await;
            // The second event waits for the handler of the first one.
            send(&mut client, r#"421["late"]"#).await;
            send(&mut client, r#"42["late"]"#).await;
        },
    );
}

#[test]
fn sockets_that_are_tracked_by_a_presence() {
    let presence = Presence::<u32>::new();
    let tracked = presence.clone();
    let enter = async move |socket: Socket| {
        let key = socket.id();
        tracked
            .track(&socket, "room", key.as_str(), &1)
            .expect("it fits");
    };
    let main = Namespace::new().on_connect(enter).presence(&presence);
    leaves_nothing(
        || Server::with(main),
        async |server| {
            drop(server.client().await);
            server.polling().await.send("41\x1e1").await;
            // The entry of the lost client stays for a while.
            sleep(20 * SECOND).await;
        },
    );
    assert!(presence.list("room").is_empty());
}

#[test]
fn sockets_that_expire() {
    let expiry = Expiry::after(60 * SECOND).reminder("soon", 10 * SECOND);
    let set = async move |socket: Socket| socket.set_expiry(expiry);
    leaves_nothing(
        || Server::with(Namespace::new().on_connect(set)),
        async |server| {
            drop(server.client().await);
            let mut client = server.polling().await;
            while client.next().await != "41" {}
            client.send("1").await;
        },
    );
}

#[test]
fn a_client_that_could_recover_and_does_not() {
    let join = async |socket: Socket| socket.join("room");
    let server = || {
        let builder = builder(Namespace::new().on_connect(join));
        Server::new(builder.recovery(Recovery::within(30 * SECOND)))
    };
    leaves_nothing(server, async |server| {
        let client = server.client().await;
        server.io.to("room").emit("news", "missed");
        drop(client);
        sleep(SECOND).await;
        server.io.emit("news", "missed");
        sleep(100 * SECOND).await;
    });
}

#[test]
fn a_client_that_recovers() {
    let server = || {
        let join = async |socket: Socket| socket.join("room");
        let builder = builder(Namespace::new().on_connect(join));
        Server::new(builder.recovery(Recovery::within(30 * SECOND)))
    };
    leaves_nothing(server, async |server| {
        let mut client = server.open().await;
        let connected = ask(&mut client, "40").await;
        let pid = connected.split('"').rev().nth(1).expect("a private id");
        let claim = format!(r#"40{{"pid":"{pid}"}}"#);
        drop(client);
        sleep(SECOND).await;
        for _ in 0..2 {
            let mut client = server.join(&claim).await;
            // The former connection is there while the next one claims the socket.
            drop(server.join(&claim).await);
            ended(&mut client).await;
        }
        let mut client = server.open().await;
        let connected = ask(&mut client, &claim).await;
        assert!(connected.contains(pid), "{connected}");
        send(&mut client, "41").await;
    });
}

#[test]
fn namespaces_whose_last_client_could_recover() {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let presence = Presence::<u32>::new();
    let tracked = presence.clone();
    let enter = async move |socket: Socket| {
        let key = socket.id();
        // An error means that the client has left.
        let _ = tracked.track(&socket, "room", key.as_str(), &1);
    };
    let orders = Namespace::new().on_connect(enter).presence(&presence);
    let server = || {
        let builder = builder(Namespace::new()).namespace("/orders/{id}", orders);
        Server::new(builder.recovery(Recovery::within(30 * SECOND)))
    };
    leaves_nothing(server, async |server| {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        drop(server.join(&format!("40/orders/{n},")).await);
        let mut client = server.open().await;
        // The second namespace has no socket that could be restored.
        send(&mut client, &format!("40/orders/{n}b,")).await;
        send(&mut client, &format!("41/orders/{n}b,")).await;
        sleep(100 * SECOND).await;
    });
}

#[test]
fn the_keys_of_a_rate_limit() {
    let limit = || RateLimit::per_second(1);
    let key = |event: &Event| event.socket().id();
    let main = Namespace::new()
        .on("event", async || ())
        .on_connect(async || ())
        .layer(RateLimitLayer::per_socket(limit()))
        .layer(RateLimitLayer::per_event(limit()))
        .layer(RateLimitLayer::per_key(limit(), key))
        .layer(RateLimitLayer::connects_per_key(limit(), key));
    leaves_nothing(
        || Server::with(main),
        async |server| {
            // The keys of earlier clients are removed when a new one is counted.
            sleep(10 * SECOND).await;
            let mut client = server.client().await;
            ask(&mut client, r#"421["event"]"#).await;
            ask(&mut client, r#"422["event"]"#).await;
        },
    );
}

#[test]
fn pages_of_the_admin_ui() {
    let server = || Server::new(builder(Namespace::new()).admin(AdminUi::without_auth()));
    leaves_nothing(server, async |server| {
        let mut page = server.join("40/admin,").await;
        drop(server.client().await);
        sleep(5 * SECOND).await;
        read_frame(&mut page).await;
        drop(page);
        server.polling().await.send("1").await;
    });
}

#[test]
fn a_client_of_version_2() {
    let server = || Server::new(builder(Namespace::new()).allow_eio3(true));
    leaves_nothing(server, async |server| {
        let mut stream = in_memory(server.app.clone(), 64 * 1024);
        send_head(&mut stream, &upgrade_head("&EIO=3")).await;
        assert!(read_frame(&mut stream).await.starts_with('0'));
        assert_eq!(read_frame(&mut stream).await, "40");
        send(&mut stream, "41").await;
        // The client does not ping.
        ended(stream).await;
    });
}

#[test]
fn handlers_that_panic() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload().downcast_ref() != Some(&"on purpose") {
            hook(info);
        }
    }));
    let panics = async || -> () { panic!("on purpose") };
    let main = Namespace::new().on("panic", panics).on_disconnect(panics);
    leaves_nothing(
        || Server::with(main),
        async |server| {
            let mut client = server.client().await;
            send(&mut client, r#"421["panic"]"#).await;
            assert!(read_frame(&mut client).await.starts_with("431"));
        },
    );
}

// ---- A client that stays.

/// A time in which a client that sends no pong is not closed.
const LONG: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Returns the number of a question, as `42` and the number before the event.
fn number(question: &str) -> u64 {
    let digits = question.strip_prefix("42").unwrap_or_default();
    let end = digits.find('[').expect("an event");
    digits[..end].parse().expect("a number")
}

#[test]
fn acknowledgements_of_a_client_that_stays() {
    let question = async |socket: Socket| {
        let answered = socket.emit_with_ack::<()>("question", ());
        let late = socket.emit_with_ack::<()>("question", ());
        let abandoned = socket.emit_with_ack::<()>("question", ());
        let all = socket.everyone().emit_with_ack::<()>("question", ());
        assert!(answered.await.is_ok());
        assert!(late.timeout(SECOND).await.is_err());
        drop((abandoned, all));
    };
    let server = || Server::new(builder(Namespace::new().on("ask", question)).ping_interval(LONG));
    grows_no_more(server, async |_, client| {
        let mut questions = vec![number(&ask(client, r#"421["ask"]"#).await)];
        for _ in 1..4 {
            questions.push(number(&read_frame(client).await));
        }
        send(client, &format!("43{}[]", questions[0])).await;
        assert_eq!(read_frame(client).await, "431[]");
        // Of the others, one is answered too late.
        send(client, &format!("43{}[]", questions[1])).await;
        sleep(SECOND).await;
    });
}

#[test]
fn namespaces_and_rooms_of_a_client_that_stays() {
    let presence = Presence::<u32>::new();
    let tracked = presence.clone();
    let visit = async move |socket: Socket| {
        for room in ["one", "two"] {
            socket.join(room);
        }
        tracked.track(&socket, "three", "key", &1).expect("it fits");
        tracked.untrack(&socket, "three");
        tracked.track(&socket, "two", "key", &1).expect("it fits");
        for room in ["one", "two", "three"] {
            socket.leave(room);
        }
    };
    let room = async |socket: Socket| socket.join("room");
    let other = || Namespace::new().on_connect(room).on_disconnect(room);
    let main = Namespace::new().on("visit", visit).presence(&presence);
    let server = || {
        let builder = builder(main).ping_interval(LONG);
        let builder = builder.namespace("/other", other());
        Server::new(
            builder
                .namespace("/dynamic/{id}", other())
                .metrics(Metrics::new()),
        )
    };
    grows_no_more(server, async |_, client| {
        send(client, r#"421["visit"]"#).await;
        while !read_frame(client).await.starts_with("431") {}
        for name in ["/other", "/dynamic/1"] {
            let answer = ask(client, &format!("40{name},")).await;
            assert!(answer.starts_with("40"), "{answer}");
            send(client, &format!("41{name},")).await;
        }
        sleep(SECOND).await;
    });
}

#[test]
fn clients_that_come_and_go_beside_one_that_stays() {
    let join = async |socket: Socket| socket.join("room");
    let server = || {
        let builder = builder(Namespace::new().on_connect(join)).ping_interval(LONG);
        Server::new(builder.recovery(Recovery::within(30 * SECOND)))
    };
    grows_no_more(server, async |server, stays| {
        let gone = server.client().await;
        server.io.to("room").emit("news", "missed");
        read_frame(stays).await;
        drop(gone);
        let mut leaves = server.client().await;
        send(&mut leaves, "41").await;
        drop(leaves);
        sleep(100 * SECOND).await;
    });
}

// ---- All together.

#[test]
fn metrics_and_spans() {
    LazyLock::force(&ANOTHER);
    let observe = Spans::default();
    let _guard = tracing::subscriber::set_default(observe.clone());
    let main = Namespace::new().on("event", async || "answer");
    leaves_nothing(
        || Server::new(builder(main).metrics(Metrics::new())),
        async |server| {
            let mut client = server.client().await;
            assert_eq!(
                ask(&mut client, r#"421["event"]"#).await,
                r#"431["answer"]"#
            );
            drop(client);
            server.polling().await.send("421[\"event\"]\x1e1").await;
        },
    );
    let (opened, closed) = (&observe.0.0, &observe.0.1);
    let opened = opened.load(Ordering::Relaxed);
    assert!(opened >= 3 * sessions(), "{opened}");
    assert_eq!(closed.load(Ordering::Relaxed), opened);
}

/// Returns the megabytes of this process in memory.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = pages.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0_usize) * 4_096 / 1_000_000
}

#[test]
fn ten_thousand_clients_that_have_gone() {
    const CLIENTS: usize = 10_000;
    let join = async |socket: Socket| {
        socket.join("all");
        socket.join(format!("of {}", socket.id()));
    };
    let (_alone, runtime) = alone(true);
    runtime.block_on(async {
        let server = Server::with(Namespace::new().on_connect(join));
        let idle = Idle::of(&server);
        let visit = async |clients: usize| {
            let mut polling = Vec::new();
            let mut websockets = Vec::new();
            for n in 0..clients {
                match n % 10 {
                    0 => websockets.push(server.client().await),
                    _ => polling.push(server.polling().await),
                }
            }
            server.io.to("all").emit("news", "for all");
            assert_eq!(server.io.counts().sockets, clients);
            let held = Live::now();
            let resident = resident();
            drop(websockets);
            join_all(polling.iter().map(|client| client.send_and_forget("1"))).await;
            drop(polling);
            server.until_idle(&idle).await;
            (held, resident)
        };
        visit(CLIENTS / 10).await;
        let (before, resident_before) = (Live::now(), resident());
        let (held, resident_held) = visit(CLIENTS).await;
        let (blocks, bytes) = held.since(before);
        eprintln!(
            "{CLIENTS} clients and their ends of the connections: {bytes} bytes in {blocks} blocks; \
             resident: {resident_before} MB before, {resident_held} MB with them, {} MB after",
            resident(),
        );
        // Tables may keep a part of their capacity.
        let (blocks_left, bytes_left) = Live::now().since(before);
        assert!(blocks_left <= 8, "{blocks_left} blocks");
        assert!(bytes_left <= bytes / 100, "{bytes_left} bytes");
    });
}

#[test]
fn thousands_of_namespaces_that_have_gone() {
    const NAMESPACES: usize = 5_000;
    let presence = Presence::<u32>::new();
    let tracked = presence.clone();
    let enter = async move |socket: Socket| {
        let entered = tracked.track(&socket, "room", "key", &1);
        entered.expect("it fits");
    };
    let orders = Namespace::new().on_connect(enter).presence(&presence);
    let (_alone, runtime) = alone(true);
    runtime.block_on(async {
        let builder = builder(Namespace::new()).namespace("/orders/{id}", orders);
        let server = Server::new(builder);
        let idle = Idle::of(&server);
        let visit = async |namespaces: usize| {
            let mut clients = Vec::new();
            for n in 0..namespaces {
                if n % 50 == 0 {
                    clients.push(server.open().await);
                }
                let client = clients.last_mut().expect("a client");
                let connected = ask(client, &format!("40/orders/{n},")).await;
                assert!(connected.starts_with("40"), "{connected}");
                assert!(read_frame(client).await.starts_with("42"));
            }
            let held = Live::now();
            drop(clients);
            server.until_idle(&idle).await;
            // Until the last grace of the presence is over.
            sleep(20 * SECOND).await;
            held
        };
        visit(NAMESPACES / 10).await;
        let before = Live::now();
        let (_, bytes) = visit(NAMESPACES).await.since(before);
        let (blocks_left, bytes_left) = Live::now().since(before);
        eprintln!("{NAMESPACES} namespaces: {bytes} bytes; {bytes_left} are left");
        assert!(blocks_left <= 8, "{blocks_left} blocks");
        assert!(bytes_left <= bytes / 1_000, "{bytes_left} bytes");
    });
}

async fn ask(client: &mut DuplexStream, event: &str) -> String {
    send(client, event).await;
    read_frame(client).await
}

/// A subscriber that counts the created and the dropped handles of spans.
#[derive(Clone, Default)]
struct Spans(Arc<(AtomicUsize, AtomicUsize)>);

/// A second subscriber. With only one in the process, `tracing` asks the subscriber of the thread
/// that first creates a span whether it is enabled, and never asks again. That thread may belong to
/// another test, which has no subscriber.
static ANOTHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(Spans::default()));

impl Subscriber for Spans {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target() == "tower_socketio::spans"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        let former = self.0.0.fetch_add(1, Ordering::Relaxed);
        Id::from_u64(former as u64 + 1)
    }

    fn clone_span(&self, id: &Id) -> Id {
        self.0.0.fetch_add(1, Ordering::Relaxed);
        id.clone()
    }

    fn try_close(&self, _: Id) -> bool {
        self.0.1.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn event(&self, _: &tracing::Event<'_>) {}

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
