//! A server whose clients have a bad network: `LIFE=a1 [RECOVERY=120] [REDIS=redis://…] chaos PORT`.
//!
//! The server numbers the events that it sends, and checks the numbers of the events that it
//! receives. LIFE is the name of this run of the program. RECOVERY is the number of seconds within
//! which clients can recover. With REDIS the server joins a cluster over Redis streams.
//!
//! A client connects with `{client, visit, rooms}`: its number, the number of this connection,
//! which is called a visit, and its rooms.
//!
//! | event of the server | |
//! |---|---|
//! | `welcome(life, {room: n})` | to a client that has not recovered; the next event of each room has the number `n` |
//! | `room(life, room, n, load)` | about once a second to each room, and to all clients with the room `all` |
//! | `direct(life, id, n, load)` | every two seconds to each client; with recovery also to clients that are away |
//! | `ask(life, visit, n, after)` | the client answers with `n`; the event follows the direct event with the number `after` |
//!
//! | event of a client | acknowledgement |
//! |---|---|
//! | `up(n, text)`, `up_bytes(n, bytes)` | `n` |
//!
//! | route | |
//! |---|---|
//! | `POST /stop` | stops the numbered events |
//! | `GET /report` | returns the current sockets, rooms and counts |
//! | `GET /visits` | returns the numbers that each connection has received |
//!
//! In the namespace `/echo` the acknowledgement of an event `echo` returns its arguments.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower_socketio::cluster::{Mode, Redis, Streams};
use tower_socketio::{
    AckError, Args, Auth, Data, DisconnectReason, Namespace, RawArgs, Recovery, Socket, SocketIo,
};

/// With this heartbeat the server notices a stall after five seconds.
const PING_INTERVAL: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// The time within which a client must answer.
const PATIENCE: Duration = Duration::from_secs(10);

const TICK: Duration = Duration::from_millis(100);

/// The number of ticks from a direct event of a client to the next one.
const DIRECT_TICKS: u64 = 20;

const ROOMS: usize = 10;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port: u16 = std::env::args()
        .nth(1)
        .ok_or("usage: chaos PORT")?
        .parse()?;
    let recovery = std::env::var("RECOVERY").ok();
    let chaos = Arc::new(Chaos::new(std::env::var("LIFE")?, recovery.is_some()));
    let namespace = Namespace::new()
        .on_connect(connect)
        .on("up", up)
        .on("up_bytes", up_bytes)
        .on_disconnect(left);
    let mut builder = SocketIo::builder()
        .namespace("/", namespace)
        .namespace(
            "/echo",
            Namespace::new().on("echo", async |args: RawArgs| args),
        )
        .ping_interval(PING_INTERVAL)
        .ping_timeout(PING_TIMEOUT);
    if let Some(seconds) = recovery {
        let recovery = Recovery::within(Duration::from_secs(seconds.parse()?));
        builder = builder.recovery(recovery.save_early(true));
    }
    if let Ok(url) = std::env::var("REDIS") {
        let mode = Mode::Streams(Streams::new().max_len(100_000));
        builder = builder.cluster(Redis::options(&url).mode(mode).connect().await?);
    }
    let (layer, io) = builder.with_state(Arc::clone(&chaos)).build();
    if let Some(cluster) = io.cluster() {
        while !cluster.status().is_connected {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    tokio::spawn(send_all(Arc::clone(&chaos), io.clone()));
    let app = Router::new()
        .route("/stop", post(stop))
        .route("/report", get(report))
        .route("/visits", get(visits))
        .layer(Extension(io))
        .with_state(chaos)
        .layer(layer);
    axum::serve(TcpListener::bind(("127.0.0.1", port)).await?, app).await?;
    Ok(())
}

struct Chaos {
    life: String,
    may_recover: bool,
    rooms: Mutex<BTreeMap<String, u64>>,
    /// The latest connection of each client.
    clients: Mutex<BTreeMap<u64, Client>>,
    /// All connections, by the numbers of the client and of the visit.
    visits: Mutex<BTreeMap<(u64, u64), Arc<Visit>>>,
    reasons: Mutex<BTreeMap<&'static str, u64>>,
    /// Errors that the test must not find.
    faults: Mutex<Vec<String>>,
    asks: Asks,
    /// The lock is held while the events of a tick are sent.
    is_stopped: Mutex<bool>,
}

struct Client {
    socket: Socket,
    visit: u64,
    directs: u64,
    asks: u64,
}

#[derive(Default)]
struct Asks {
    asked: AtomicU64,
    answered: AtomicU64,
    timed_out: AtomicU64,
    disconnected: AtomicU64,
}

/// One connection of a client.
#[derive(Serialize)]
struct Visit {
    client: u64,
    number: u64,
    id: String,
    events: Mutex<Series>,
    disconnects: AtomicU64,
}

/// The numbers that have arrived.
#[derive(Default, Serialize)]
struct Series {
    first: Option<u64>,
    next: u64,
    missing: BTreeSet<u64>,
    duplicated: u64,
    reordered: u64,
}

impl Series {
    /// Adds a number. Returns whether it is the expected one.
    fn add(&mut self, n: u64) -> bool {
        let first = *self.first.get_or_insert(n);
        if first == n && self.next == 0 || n == self.next {
            self.next = n + 1;
            return true;
        }
        if n > self.next {
            self.missing.extend(self.next..n);
            self.next = n + 1;
        } else if self.missing.remove(&n) {
            self.reordered += 1;
        } else {
            self.duplicated += 1;
        }
        false
    }
}

impl Chaos {
    fn new(life: String, may_recover: bool) -> Self {
        let rooms = (0..ROOMS).map(|n| format!("room-{n}"));
        let rooms = rooms.chain(["all".to_owned()]).map(|room| (room, 0));
        Self {
            life,
            may_recover,
            rooms: Mutex::new(rooms.collect()),
            clients: Mutex::default(),
            visits: Mutex::default(),
            reasons: Mutex::default(),
            faults: Mutex::default(),
            asks: Asks::default(),
            is_stopped: Mutex::default(),
        }
    }

    /// Records a fault, and prints it, because a killed server returns no report.
    fn fault(&self, fault: String) {
        eprintln!("fault: {}: {fault}", self.life);
        lock(&self.faults).push(fault);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Deserialize)]
struct Hello {
    client: u64,
    visit: u64,
    rooms: Vec<String>,
}

type Shared = State<Arc<Chaos>>;

async fn connect(State(chaos): Shared, socket: Socket, Auth(hello): Auth<Hello>) {
    let Hello {
        client,
        visit: number,
        rooms,
    } = hello;
    let visit = Arc::new(Visit {
        client,
        number,
        id: socket.id().to_string(),
        events: Mutex::default(),
        disconnects: AtomicU64::new(0),
    });
    socket.insert(Arc::clone(&visit));
    if lock(&chaos.visits)
        .insert((client, number), visit)
        .is_some()
    {
        chaos.fault(format!("client {client} has two visits {number}"));
    }
    if !socket.recovered() {
        rooms.iter().for_each(|room| socket.join(room));
        let next = lock(&chaos.rooms).clone();
        let next = next
            .into_iter()
            .filter(|(room, _)| room == "all" || rooms.contains(room));
        let next: BTreeMap<_, _> = next.collect();
        socket.emit("welcome", Args((&chaos.life, next)));
    }
    let mut clients = lock(&chaos.clients);
    let former = clients.get(&client);
    // The numbers of the direct events continue, because a recovered client gets the events that it
    // missed.
    let former = former.filter(|former| socket.recovered() && former.socket.id() == socket.id());
    let directs = former.map_or(0, |former| former.directs);
    let entry = Client {
        socket,
        visit: number,
        directs,
        asks: 0,
    };
    clients.insert(client, entry);
}

async fn left(
    State(chaos): Shared,
    Extension(visit): Extension<Arc<Visit>>,
    reason: DisconnectReason,
) {
    if visit.disconnects.fetch_add(1, Ordering::Relaxed) > 0 {
        let Visit { client, number, .. } = *visit;
        chaos.fault(format!("client {client} has left visit {number} twice"));
    }
    *lock(&chaos.reasons).entry(reason.as_str()).or_default() += 1;
    let mut clients = lock(&chaos.clients);
    let is_last = |last: &Client| last.visit == visit.number;
    if !chaos.may_recover && clients.get(&visit.client).is_some_and(is_last) {
        clients.remove(&visit.client);
    }
}

async fn up(
    State(chaos): Shared,
    Extension(visit): Extension<Arc<Visit>>,
    Args((n, said)): Args<(u64, String)>,
) -> Data<u64> {
    if said != text(n) {
        chaos.fault(format!("event {n} of client {} differs", visit.client));
    }
    chaos.received(&visit, n)
}

async fn up_bytes(
    State(chaos): Shared,
    Extension(visit): Extension<Arc<Visit>>,
    Args((n, said)): Args<(u64, Bytes)>,
) -> Data<u64> {
    if said != bytes(n) {
        chaos.fault(format!("event {n} of client {} differs", visit.client));
    }
    chaos.received(&visit, n)
}

impl Chaos {
    fn received(&self, visit: &Visit, n: u64) -> Data<u64> {
        let mut events = lock(&visit.events);
        let expected = events.next;
        if !events.add(n) {
            let Visit { client, number, .. } = *visit;
            self.fault(format!(
                "client {client}, visit {number}: {n} in place of {expected}"
            ));
        }
        Data(n)
    }
}

/// The data of an event beside its number.
#[derive(Serialize)]
#[serde(untagged)]
enum Load {
    Text(String),
    Bytes(Bytes),
}

impl Load {
    fn new(n: u64) -> Self {
        match n % 4 {
            1 => Self::Bytes(bytes(n)),
            _ => Self::Text(text(n)),
        }
    }
}

/// One of forty events is large.
fn length(n: u64) -> u64 {
    match n % 40 {
        39 => 4_000,
        _ => n * 37 % 200,
    }
}

/// Returns a text with characters of one to four bytes.
fn text(n: u64) -> String {
    let at = |index: u64| ['a', 'é', '☃', '𝄞'][(n + index) as usize % 4];
    (0..length(n)).map(at).collect()
}

fn bytes(n: u64) -> Bytes {
    (0..length(n)).map(|index| (n + index) as u8).collect()
}

async fn send_all(chaos: Arc<Chaos>, io: SocketIo) {
    let mut ticks = tokio::time::interval(TICK);
    for tick in 0.. {
        ticks.tick().await;
        if chaos.has_stopped(&io, tick) {
            return;
        }
    }
}

impl Chaos {
    /// Sends the events of a tick, unless the server was stopped. Returns whether it was.
    fn has_stopped(self: &Arc<Self>, io: &SocketIo, tick: u64) -> bool {
        let is_stopped = lock(&self.is_stopped);
        if !*is_stopped {
            self.send_to_room(io, tick);
            self.send_to_clients(io, tick);
        }
        *is_stopped
    }

    /// Sends an event to the room whose turn it is.
    fn send_to_room(&self, io: &SocketIo, tick: u64) {
        let mut rooms = lock(&self.rooms);
        let which = tick as usize % rooms.len();
        let Some((room, next)) = rooms.iter_mut().nth(which) else {
            return;
        };
        let (room, n) = (room.clone(), *next);
        *next += 1;
        drop(rooms);
        let target = match room.as_str() {
            "all" => io.of("/"),
            _ => io.to(&room),
        };
        target.emit("room", Args((&self.life, &room, n, Load::new(n))));
    }

    /// Sends events to the clients whose turn it is.
    fn send_to_clients(self: &Arc<Self>, io: &SocketIo, tick: u64) {
        for (client, last) in lock(&self.clients).iter_mut() {
            if client % DIRECT_TICKS != tick % DIRECT_TICKS {
                continue;
            }
            let (id, n) = (last.socket.id(), last.directs);
            last.directs += 1;
            let args = Args((&self.life, &id, n, Load::new(n)));
            io.to(id.as_str()).emit("direct", args);
            if n % 2 == 0 && last.socket.is_connected() {
                let asked = last.asks;
                last.asks += 1;
                let args = Args((&self.life, last.visit, asked, n));
                let answer = last.socket.emit_with_ack::<u64>("ask", args);
                let answer = answer.timeout(PATIENCE).into_future();
                let chaos = Arc::clone(self);
                count(&self.asks.asked);
                tokio::spawn(async move { chaos.answered(asked, answer.await) });
            }
        }
    }

    fn answered(&self, n: u64, answer: Result<u64, AckError>) {
        match answer {
            Ok(answer) if answer == n => count(&self.asks.answered),
            Err(error) if error.is_timeout() => count(&self.asks.timed_out),
            Err(error) if error.is_disconnected() || error.is_not_connected() => {
                count(&self.asks.disconnected);
            }
            answer => self.fault(format!("the answer to {n} is {answer:?}")),
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

async fn stop(State(chaos): Shared) {
    *lock(&chaos.is_stopped) = true;
}

async fn report(State(chaos): Shared, Extension(io): Extension<SocketIo>) -> Json<Value> {
    let counts = io.counts();
    let ids = |sockets: Vec<Socket>| sockets.iter().map(Socket::id).collect::<Vec<_>>();
    let rooms: BTreeMap<_, _> = lock(&chaos.rooms)
        .iter()
        .filter(|(room, _)| *room != "all")
        .map(|(room, _)| (room.clone(), ids(io.to(room).sockets())))
        .collect();
    let clients: BTreeMap<_, _> = lock(&chaos.clients)
        .iter()
        .map(|(client, last)| {
            (
                *client,
                json!({ "id": last.socket.id(), "next": last.directs }),
            )
        })
        .collect();
    let has_left = |visit: &&Arc<Visit>| visit.disconnects.load(Ordering::Relaxed) > 0;
    let left = lock(&chaos.visits).values().filter(has_left).count();
    Json(json!({
        "life": chaos.life,
        "sockets": ids(io.sockets()),
        "members": rooms,
        "counts": {
            "sessions": counts.sessions,
            "sockets": counts.sockets,
            "rooms": counts.rooms,
            "namespaces": counts.namespaces,
            "recoverable": counts.recoverable,
        },
        "rooms": *lock(&chaos.rooms),
        "clients": clients,
        "visits": { "begun": lock(&chaos.visits).len(), "left": left },
        "reasons": *lock(&chaos.reasons),
        "asks": {
            "asked": chaos.asks.asked,
            "answered": chaos.asks.answered,
            "timed_out": chaos.asks.timed_out,
            "disconnected": chaos.asks.disconnected,
        },
        "faults": *lock(&chaos.faults),
    }))
}

async fn visits(State(chaos): Shared) -> String {
    let visits = lock(&chaos.visits);
    let visits: Vec<&Visit> = visits.values().map(Arc::as_ref).collect();
    serde_json::to_string(&visits).expect("numbers and texts can be written")
}
