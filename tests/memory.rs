//! The memory that one client can make the server hold, measured on real connections and compared
//! with the table in SECURITY.md.

mod support;
#[path = "memory/unread.rs"]
mod unread;

use std::alloc::System;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use support::builder;
use tokio::net::TcpSocket;
use tokio::runtime::{Builder, Runtime};
use tower_socketio::internals::free_spare_buffer;
use tower_socketio::{Args, Data, Namespace, RawArgs, Socket, SocketIo, SocketIoBuilder};

/// The longest wait for something that happens in a moment on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The bytes on the heap of this process.
fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated.wrapping_sub(stats.bytes_deallocated)
}

/// The bytes of each row of the table in SECURITY.md, with the default limits.
mod table {
    pub(super) const CONNECTION: usize = 4 * 1024;
    pub(super) const NAMESPACE: usize = 2 * 1024;
    pub(super) const NAMESPACES: usize = 64;
    pub(super) const HEAD: usize = 2 * 32 * 1024;
    pub(super) const KEPT: usize = 512 * 1024;
    pub(super) const MAX_PAYLOAD: usize = 1_000_000;
    pub(super) const OUT: usize = 4 * 1024 * 1024 + 2 * MAX_PAYLOAD;
    pub(super) const PENDING: usize = 4 * 256 * 1024;
    pub(super) const READING: usize = MAX_PAYLOAD;
    pub(super) const PARTIAL: usize = MAX_PAYLOAD + 2_000_000;
    pub(super) const SUM: usize =
        CONNECTION + NAMESPACES * NAMESPACE + HEAD + KEPT + OUT + PENDING + READING + PARTIAL;
}

/// Counts the heap of this process. Only one test at a time can hold it.
struct Heap {
    before: usize,
    _alone: MutexGuard<'static, ()>,
}

impl Heap {
    fn watch() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        Self {
            _alone: ALONE.lock().unwrap_or_else(PoisonError::into_inner),
            before: allocated(),
        }
    }

    fn bytes(&self) -> usize {
        allocated().saturating_sub(self.before)
    }

    /// Waits until the number of bytes meets a condition, and returns it.
    #[track_caller]
    fn until(&self, condition: impl Fn(usize) -> bool) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let bytes = self.bytes();
            if condition(bytes) {
                return bytes;
            }
            assert!(Instant::now() < deadline, "{bytes} bytes are held");
            // Reading the statistics blocks threads that allocate.
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A server with its own runtime and small kernel buffers.
struct Server {
    runtime: Runtime,
    addr: SocketAddr,
    io: SocketIo,
}

impl Server {
    fn start() -> Self {
        let wait = async |socket: Socket| {
            // While the handler waits for the answer, the session reads four times `max_pending`.
            let _ = socket.emit_with_ack::<()>("question", ()).await;
        };
        let keep = async |socket: Socket, Data(text): Data<String>| {
            socket.set_data(text).expect("it fits");
            // The socket does not join the rooms that exceed the limit.
            (0..1_000).for_each(|n| socket.join(format!("room-{n:03}-{}", "r".repeat(23))));
        };
        let main = Namespace::new()
            .on("wait", wait)
            .on("keep", keep)
            .on("event", async |_: RawArgs| {});
        Self::of(builder(main).namespace("/{name}", Namespace::new()))
    }

    fn of(builder: SocketIoBuilder) -> Self {
        let (layer, io) = builder.build();
        let mut runtime = Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let app = support::app(layer);
        let addr = runtime.block_on(async {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.set_send_buffer_size(8 * 1024).expect("a size");
            let addr = SocketAddr::from(([127, 0, 0, 1], 0));
            socket.bind(addr).expect("a port");
            let listener = socket.listen(64).expect("a listener");
            let addr = listener.local_addr().expect("an address");
            tokio::spawn(async move { axum::serve(listener, app).await });
            addr
        });
        Self { runtime, addr, io }
    }

    /// Waits until no session is left. Then only the server's own memory is held: its worker frees the
    /// buffer that it lends to connections, whose size depends on how fast the clients have read.
    #[track_caller]
    fn until_empty(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.io.counts().sessions > 0 {
            assert!(Instant::now() < deadline, "{:?}", self.io.counts());
            std::thread::sleep(Duration::from_millis(5));
        }
        // On the only worker.
        let freed = self.runtime.spawn(async { free_spare_buffer() });
        self.runtime.block_on(freed).expect("no panic");
    }

    /// Opens a WebSocket session. The client side allocates nothing that would be counted.
    fn connect(&self, query: &str) -> TcpStream {
        let stream = self.open();
        (&stream)
            .write_all(support::upgrade_head(query).as_bytes())
            .expect("the server takes it");
        wait_for(&stream, b"\"maxPayload\"");
        stream
    }

    /// Opens a TCP connection with a small buffer.
    fn open(&self) -> TcpStream {
        let stream = self.runtime.block_on(async {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.set_recv_buffer_size(8 * 1024).expect("a size");
            let stream = socket.connect(self.addr).await.expect("a connection");
            stream.into_std().expect("a stream")
        });
        stream.set_nonblocking(false).expect("a mode");
        let patience = Some(PATIENCE);
        stream.set_write_timeout(patience).expect("a timeout");
        stream.set_read_timeout(patience).expect("a timeout");
        stream
    }

    /// Waits until the server has `count` sockets.
    fn until_sockets(&self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.io.counts().sockets != count {
            assert!(Instant::now() < deadline, "{:?}", self.io.counts());
            std::thread::yield_now();
        }
    }
}

/// Reads until `expected` has been read.
fn wait_for(mut stream: &TcpStream, expected: &[u8]) {
    let mut found = 0;
    while found < expected.len() {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("the server goes on");
        found = if byte[0] == expected[found] {
            found + 1
        } else {
            0
        };
    }
}

/// Sends a frame without its last `but` bytes.
fn send(mut stream: &TcpStream, opcode: u8, parts: &[&[u8]], but: usize) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let mut header = [0x80 | opcode, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header[2..10].copy_from_slice(&(len as u64).to_be_bytes());
    stream.write_all(&header).expect("the server takes it");
    let mut left = len - but;
    for part in parts {
        let part = &part[..part.len().min(left)];
        left -= part.len();
        stream.write_all(part).expect("the server takes it");
    }
}

fn send_text(stream: &TcpStream, text: &str) {
    send(stream, 1, &[text.as_bytes()], 0);
}

static FILLER: [u8; table::MAX_PAYLOAD] = [b'x'; table::MAX_PAYLOAD];

/// Sends an event of `len` bytes.
fn send_event(stream: &TcpStream, len: usize) {
    let (begin, end) = (br#"42["event",""#, br#""]"#);
    let filler = &FILLER[..len - begin.len() - end.len()];
    send(stream, 1, &[begin, filler, end], 0);
}

/// Opens a connection and makes the server hold as much input for it as its limits allow.
fn fill(server: &Server) -> TcpStream {
    // The URI is stored twice: axum stores it too.
    let filler = std::str::from_utf8(&FILLER).expect("UTF-8");
    let stream = server.connect(&format!("&filler={}", &filler[..32_000]));
    let sockets = server.io.counts().sockets;
    let port = stream.local_addr().expect("an address").port();
    send_text(&stream, "40");
    for n in 1..table::NAMESPACES {
        let auth = &filler[..6 * 1024];
        send_text(&stream, &format!(r#"40/{port}-{n},{{"token":"{auth}"}}"#));
    }
    server.until_sockets(sockets + table::NAMESPACES);
    send_text(&stream, &format!(r#"42["keep","{}"]"#, &filler[..32_000]));
    send_text(&stream, r#"42["wait"]"#);
    // Events that wait for their handler, up to the limit.
    (0..8).for_each(|_| send_event(&stream, table::PENDING / 8 - 65));
    // A packet that lacks an attachment.
    let head = concat!(
        r#"453-["event",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1},"#,
        r#"{"_placeholder":true,"num":2},""#
    );
    let rest = &FILLER[..table::MAX_PAYLOAD - head.len() - 2];
    send(&stream, 1, &[head.as_bytes(), rest, br#""]"#], 0);
    (0..2).for_each(|_| send(&stream, 2, &[&FILLER], 0));
    // A message that lacks its last byte.
    send(&stream, 2, &[&FILLER], 1);
    stream
}

/// Fills the send queues of clients. Each client reads only the beginning of the first event.
fn stuff(server: &Server, clients: &[TcpStream]) {
    let filler = std::str::from_utf8(&FILLER).expect("UTF-8");
    let large = &filler[..table::MAX_PAYLOAD - 100];
    let sockets = server.io.sockets();
    let all = |args: &str| sockets.iter().for_each(|socket| socket.emit("text", args));
    // This event has left the queue, and is being written.
    all(large);
    for client in clients {
        wait_for(client, br#"42["text""#);
    }
    (0..31).for_each(|_| all(&filler[..128 * 1024]));
    all(large);
}

#[test]
fn one_client_can_hold_no_more_than_the_table_says() {
    const CLIENTS: usize = 3;
    let heap = Heap::watch();
    let server = Server::start();
    // Memory that the server allocates once does not count.
    drop(fill(&server));
    server.until_sockets(0);
    server.until_empty();
    let start = heap.bytes();

    let clients: Vec<_> = (0..CLIENTS).map(|_| fill(&server)).collect();
    let expected = table::SUM - table::OUT;
    let expected = start + CLIENTS * (expected - expected / 10);
    heap.until(|bytes| bytes >= expected);
    stuff(&server, &clients);
    let held = (heap.bytes() - start) / CLIENTS;
    assert_eq!(server.io.counts().sessions, CLIENTS);
    assert!(held <= table::SUM, "{held} of {}", table::SUM);
    assert!(
        held >= table::SUM - table::SUM / 10,
        "{held} of {}",
        table::SUM
    );
    const { assert!(table::SUM <= 12 * 1024 * 1024) };

    drop(clients);
    server.until_empty();
    heap.until(|bytes| bytes <= start + 16 * 1024);
}

#[test]
fn an_idle_client_holds_four_kib() {
    const CLIENTS: usize = 200;
    let heap = Heap::watch();
    let server = Server::start();
    let open = |count: usize| {
        let clients: Vec<_> = (0..count).map(|_| server.connect("")).collect();
        for client in &clients {
            send_text(client, "40");
            wait_for(client, b"40{");
        }
        clients
    };
    drop(open(CLIENTS));
    server.until_empty();
    let start = heap.bytes();
    let clients = open(CLIENTS);
    let held = (heap.bytes() - start) / CLIENTS;
    assert!(held <= table::CONNECTION, "{held}");
    drop(clients);
    server.until_empty();
    heap.until(|bytes| bytes <= start + 16 * 1024);
}

/// A small attachment does not keep the whole message that it arrived in.
#[test]
fn a_small_attachment_does_not_keep_the_whole_message() {
    let heap = Heap::watch();
    let kept = std::sync::Arc::new(Mutex::new(Vec::new()));
    let keeper = std::sync::Arc::clone(&kept);
    let keep = async move |Args((small, _)): Args<(Bytes, Bytes)>| {
        keeper.lock().expect("whole").push(small);
    };
    let (app, io) = support::main_app(Namespace::new().on("keep", keep));
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let head = r#"452-["keep",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#;
    let body = [head, "bAAAA", &format!("b{}", "A".repeat(900_000))].join("\x1e");
    let count = || kept.lock().expect("whole").len();
    runtime.block_on(async {
        let mut client = support::Polling::connect(&app).await;
        client.send(&body).await;
        support::until(|| count() == 1).await;
        let start = heap.bytes();
        client.send(&body).await;
        support::until(|| count() == 2).await;
        drop(client);
        assert!(heap.bytes() < start + 10_000, "{}", heap.bytes() - start);
    });
    drop(io);
}
