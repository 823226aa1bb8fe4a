//! The server of the soak: `cargo run --release --example soak_server PORT [FAULT EVERY]`.
//!
//! The server numbers the messages that it sends, and checks the numbers of the messages that it
//! receives. `GET /stats` returns its counts. With `FAULT` the server makes that fault once in
//! `EVERY` times, so that `selftest` can show that the gates fail.

use std::alloc::System;
use std::fs::File;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use axum::body::Bytes;
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::net::TcpListener;
use tokio::time::interval;
use tower_socketio::{AckError, Args, Data, EmitWithAck, Namespace, Recovery, Socket, SocketIo};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const SECOND: &str = "/second";
const ROOMS: usize = 500;
/// The time within which a client can be recovered.
const WITHIN: Duration = Duration::from_secs(20);
/// The time from one broadcast to the next one: 100 a minute.
const BROADCASTS: Duration = Duration::from_millis(600);
/// The time from the broadcast to one room to the broadcast to the next room.
const ROOM_BROADCASTS: Duration = Duration::from_millis(50);
/// The time from one group of questions to the next one. Each socket is asked once in ten seconds.
const ASKS: Duration = Duration::from_millis(10);
const ASKS_PER_ROUND: usize = 1_000;
/// The time after which an acknowledgement counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let port = args.next().and_then(|port| port.parse().ok());
    let port: u16 = port.expect("usage: soak_server PORT [FAULT EVERY]");
    let fault = args.next().unwrap_or_default();
    let every = args.next().and_then(|every| every.parse().ok());
    let app = Arc::new(App {
        main: Numbers::new(),
        second: Numbers::new(),
        totals: Totals::new(&fault, every.unwrap_or(u64::MAX)),
    });

    let (layer, io) = SocketIo::builder()
        .namespace("/", handlers())
        .namespace(SECOND, handlers())
        .recovery(Recovery::within(WITHIN))
        .with_state(Arc::clone(&app))
        .build();
    tokio::spawn(broadcast(io.clone(), Arc::clone(&app)));
    tokio::spawn(ask(io.clone(), Arc::clone(&app)));

    let stats = get(async move || Json(stats(&io, &app.totals)));
    let router = Router::new().route("/stats", stats).layer(layer);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    axum::serve(listener, router).await
}

struct App {
    main: Numbers,
    second: Numbers,
    totals: Totals,
}

impl App {
    fn numbers(&self, socket: &Socket) -> &Numbers {
        match socket.namespace() {
            SECOND => &self.second,
            _ => &self.main,
        }
    }
}

/// The numbers of the last broadcasts of one namespace. An event is numbered and emitted under one
/// lock. So whoever reads the number under this lock knows that all events up to it were emitted.
struct Numbers {
    all: Mutex<u64>,
    rooms: Vec<Mutex<u64>>,
}

impl Numbers {
    fn new() -> Self {
        let rooms = std::iter::repeat_with(Mutex::default).take(ROOMS);
        Self {
            all: Mutex::default(),
            rooms: rooms.collect(),
        }
    }
}

/// The numbers of the last question to one socket and of the last event that it sent, and its room.
#[derive(Default)]
struct Talk {
    asked: Mutex<u64>,
    said: AtomicU64,
    room: Mutex<Option<usize>>,
}

impl Talk {
    fn of(socket: &Socket) -> Arc<Self> {
        let talk = socket.extension::<Arc<Self>>();
        talk.expect("the connect handler has inserted it")
    }
}

/// Counts of the whole server.
struct Totals {
    fault: String,
    every: u64,
    occasions: AtomicU64,
    connects: AtomicU64,
    disconnects: AtomicU64,
    said: AtomicU64,
    asked: AtomicU64,
    answered: AtomicU64,
    broken_off: AtomicU64,
    lost: AtomicU64,
    duplicated: AtomicU64,
    leaked: Mutex<Vec<Vec<u8>>>,
    files: Mutex<Vec<File>>,
}

impl Totals {
    fn new(fault: &str, every: u64) -> Self {
        let zero = AtomicU64::default;
        Self {
            fault: fault.to_owned(),
            every,
            occasions: zero(),
            connects: zero(),
            disconnects: zero(),
            said: zero(),
            asked: zero(),
            answered: zero(),
            broken_off: zero(),
            lost: zero(),
            duplicated: zero(),
            leaked: Mutex::default(),
            files: Mutex::default(),
        }
    }

    /// Returns whether the server makes this fault now.
    fn is_due(&self, fault: &str) -> bool {
        self.fault == fault && (add(&self.occasions, 1) + 1) % self.every == 0
    }

    /// Counts the answer to a question.
    fn count(&self, number: u64, answer: Result<u64, AckError>) {
        match answer {
            Ok(answer) if answer == number => add(&self.answered, 1),
            Err(error) if error.is_disconnected() || error.is_not_connected() => {
                add(&self.broken_off, 1)
            }
            _ => add(&self.lost, 1),
        };
    }

    /// Leaks memory, a task or a descriptor, if that is the fault.
    fn leak(&self) {
        if self.is_due("memory") {
            lock(&self.leaked).push(vec![1; 16 * 1024]);
        }
        if self.is_due("task") {
            tokio::spawn(std::future::pending::<()>());
        }
        if self.is_due("descriptor") {
            lock(&self.files).extend(File::open("/dev/null"));
        }
    }
}

fn add(total: &AtomicU64, count: u64) -> u64 {
    total.fetch_add(count, Ordering::Relaxed)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn room_name(room: usize) -> String {
    format!("room {room}")
}

fn handlers() -> Namespace<Arc<App>> {
    Namespace::new()
        .on("sync", sync)
        .on("say", say::<String>)
        .on("say-binary", say::<Bytes>)
        .on("move", enter)
        .on_connect(connect)
        .on_disconnect(disconnect)
}

async fn connect(State(app): State<Arc<App>>, socket: Socket) {
    let totals = &app.totals;
    add(&totals.connects, 1);
    totals.leak();
    if !socket.recovered() {
        socket.insert(Arc::new(Talk::default()));
    }
}

async fn disconnect(State(app): State<Arc<App>>) {
    add(&app.totals.disconnects, 1);
}

/// Answers with the numbers of the last events that the socket was sent. `next` is the number of
/// the client's next event, and `is_first` is true for a new connection.
async fn sync(
    State(app): State<Arc<App>>,
    socket: Socket,
    Args((token, next, is_first)): Args<(u64, u64, bool)>,
) {
    let (numbers, talk) = (app.numbers(&socket), Talk::of(&socket));
    let said = talk.said.swap(next - 1, Ordering::Relaxed);
    if !is_first {
        add(&app.totals.lost, (next - 1).saturating_sub(said));
    }
    let all = lock(&numbers.all);
    let asked = lock(&talk.asked);
    let room = lock(&talk.room);
    let in_room = room.map(|room| (room, lock(&numbers.rooms[room])));
    let in_room = in_room.as_ref().map(|(room, sent)| (*room, **sent));
    socket.emit("synced", Args((token, *all, *asked, in_room)));
}

async fn say<T>(
    State(app): State<Arc<App>>,
    socket: Socket,
    Args((number, text)): Args<(u64, T)>,
) -> Args<(u64, T)> {
    let said = Talk::of(&socket).said.fetch_max(number, Ordering::Relaxed);
    add(&app.totals.said, 1);
    add(&app.totals.lost, number.saturating_sub(said + 1));
    add(&app.totals.duplicated, u64::from(number <= said));
    Args((number, text))
}

/// Moves the socket to another room. The client gets the number of the last event of each of the
/// two rooms.
async fn enter(State(app): State<Arc<App>>, socket: Socket, Data(room): Data<usize>) {
    let (numbers, talk) = (app.numbers(&socket), Talk::of(&socket));
    let mut own = lock(&talk.room);
    if let Some(left) = *own {
        let sent = lock(&numbers.rooms[left]);
        socket.leave(room_name(left));
        socket.emit("left", Args((left, *sent)));
    }
    let sent = lock(&numbers.rooms[room]);
    socket.join(room_name(room));
    socket.emit("entered", Args((room, *sent)));
    *own = Some(room);
}

/// Broadcasts to all sockets, and to one room after the other. Pauses while no socket is connected,
/// so that recovery keeps nothing.
async fn broadcast(io: SocketIo, app: Arc<App>) {
    let text = "all".repeat(20);
    let mut all = interval(BROADCASTS);
    let mut rooms = interval(ROOM_BROADCASTS);
    let mut room = 0;
    loop {
        tokio::select! {
            _ = all.tick() => {
                if io.counts().sockets == 0 {
                    continue;
                }
                let mut sent = lock(&app.main.all);
                *sent += 1;
                io.emit("all", Args((*sent, &text, millis())));
                drop(sent);
                let mut sent = lock(&app.second.all);
                *sent += 1;
                let args = Args((*sent, Bytes::from(text.clone()), millis()));
                io.of(SECOND).emit("all", args);
            }
            _ = rooms.tick() => {
                if io.counts().sockets == 0 {
                    continue;
                }
                room = (room + 1) % ROOMS;
                for (numbers, namespace) in [(&app.main, "/"), (&app.second, SECOND)] {
                    let mut sent = lock(&numbers.rooms[room]);
                    *sent += 1;
                    let to = io.of(namespace).to(room_name(room));
                    to.emit("room", Args((room, *sent, "room")));
                }
            }
        }
    }
}

/// Returns the wall-clock time, which clients on the same machine share.
fn millis() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.expect("after 1970").as_millis() as u64
}

/// Asks the sockets for acknowledgements, a group at a time.
async fn ask(io: SocketIo, app: Arc<App>) {
    let totals = &app.totals;
    let mut ticks = interval(ASKS);
    let mut round = Vec::new();
    let mut share = 0;
    let mut tick = 0;
    let mut answers = FuturesUnordered::new();
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                tick += 1;
                if tick % ASKS_PER_ROUND == 0 {
                    round = io.sockets();
                    round.extend(io.of(SECOND).sockets());
                    share = round.len().div_ceil(ASKS_PER_ROUND);
                }
                for socket in round.drain(round.len().saturating_sub(share)..) {
                    ask_one(&socket, totals, |number, answer| {
                        answers.push(async move { (number, answer.timeout(PATIENCE).await) });
                    });
                }
            }
            Some((number, answer)) = answers.next() => totals.count(number, answer),
        }
    }
}

/// Sends a socket its next number, and asks for an acknowledgement.
fn ask_one(socket: &Socket, totals: &Totals, mut send: impl FnMut(u64, EmitWithAck<u64>)) {
    let talk = Talk::of(socket);
    let mut asked = lock(&talk.asked);
    // A recovered socket shares the numbers of the socket before it, which is not asked any longer.
    if !socket.is_connected() {
        return;
    }
    *asked += 1;
    let mut numbers = vec![*asked];
    if totals.is_due("lose") {
        numbers.clear();
    } else if totals.is_due("repeat") {
        numbers.push(*asked);
    } else if totals.is_due("swap") {
        *asked += 1;
        numbers.insert(0, *asked);
    }
    for number in numbers {
        add(&totals.asked, 1);
        send(number, socket.emit_with_ack("ask", number));
    }
}

fn stats(io: &SocketIo, totals: &Totals) -> Value {
    let counts = io.counts();
    let heap = ALLOCATOR.stats();
    let runtime = tokio::runtime::Handle::current().metrics();
    let of = |total: &AtomicU64| total.load(Ordering::Relaxed);
    json!({
        "sessions": counts.sessions,
        "sockets": counts.sockets,
        "rooms": counts.rooms,
        "recoverable": counts.recoverable,
        "recovery_bytes": counts.recovery_bytes,
        "tasks": runtime.num_alive_tasks(),
        "heap": heap.bytes_allocated.wrapping_sub(heap.bytes_deallocated),
        "connects": of(&totals.connects),
        "disconnects": of(&totals.disconnects),
        "said": of(&totals.said),
        "asked": of(&totals.asked),
        "answered": of(&totals.answered),
        "broken_off": of(&totals.broken_off),
        "lost": of(&totals.lost),
        "duplicated": of(&totals.duplicated),
    })
}
