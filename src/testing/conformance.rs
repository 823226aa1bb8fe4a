//! What every broker of a cluster must do.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use axum::Router;
use bytes::Bytes;
use serde_json::{Value, json};

use super::Client;
use crate::cluster::Broker;
use crate::handles::{AckError, Socket, SocketIo};
use crate::protocol::{Args, Data};
use crate::routing::{Namespace, ServerEvent};

/// How long a message may take to arrive.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The timeout of a question that nobody answers.
const QUIET: Duration = Duration::from_millis(200);

/// Checks what every [`Broker`] must do, with several servers in this process. Needs the feature
/// `testing`.
///
/// Each call of `broker` returns the broker of one more server; all of them are of one cluster that
/// nothing else uses. It runs for some seconds, and needs a tokio runtime with timers.
///
/// ```
/// use tower_socketio::cluster::Memory;
/// use tower_socketio::testing::conformance;
///
/// # #[tokio::main]
/// # async fn main() {
/// let memory = Memory::new();
/// conformance(|| memory.clone()).await;
/// # }
/// ```
///
/// # Panics
///
/// Panics with a description if the broker does something else.
pub async fn conformance<B: Broker>(mut broker: impl FnMut() -> B) {
    let mut servers = [
        Server::new(broker()),
        Server::new(broker()),
        Server::new(broker()),
    ];
    count(&servers, 3).await;
    selects_sockets(&servers).await;
    carries_all_values(&servers).await;
    keeps_the_order(&servers).await;
    changes_rooms_and_disconnects(&servers).await;
    fetches_sockets(&servers).await;
    asks_clients(&servers).await;
    sends_server_events(&servers).await;
    opens_and_closes_namespaces(&servers).await;
    carries_long_messages(&servers).await;
    confirms_messages(&servers).await;
    opens_a_namespace_again(&servers).await;

    // A server that leaves in mid-question is not waited for.
    let [a, b, c] = &servers;
    let mut silent = c.client().await;
    let question =
        a.io.of("/")
            .emit_with_ack::<u32>("silent", ())
            .timeout(TIMEOUT);
    let question = tokio::spawn(async move { question.await.into_iter().collect::<Vec<_>>() });
    within(
        "a question to the clients of another server",
        silent.expect("silent"),
    )
    .await;
    let begin = Instant::now();
    within("a server that closes", c.io.close()).await;
    let time = begin.elapsed();
    assert!(
        time < Duration::from_secs(4),
        "the broker does not end when its port does: a server closed in {time:?}"
    );
    drop(silent);
    let answers = within("the answers of the servers that are left", question).await;
    let answers = answers.expect("the question does not panic");
    assert!(
        answers.iter().all(|(_, answer)| answer.is_err()),
        "a client that was silent has answered"
    );
    within("the count after a server has left", async {
        while a.io.server_count().await != Ok(2) || b.io.server_count().await != Ok(2) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;

    // Another one takes its place.
    servers[2] = Server::new(broker());
    count(&servers, 3).await;
    selects_sockets(&servers).await;
    for server in &servers {
        within("a server that closes", server.io.close()).await;
    }
}

struct Server {
    app: Router,
    io: SocketIo,
}

impl Server {
    fn new(broker: impl Broker) -> Self {
        let (layer, io) = SocketIo::builder()
            .namespace("/", namespace())
            .namespace("/rooms/{name}", namespace())
            .cluster(broker)
            .build();
        let app = Router::new().layer(layer);
        Self { app, io }
    }

    async fn client(&self) -> Client {
        self.client_of("/").await
    }

    async fn client_of(&self, namespace: &str) -> Client {
        let client = within("a client", async {
            Client::connect(&self.app, namespace).await
        });
        client.await.expect("the client is accepted")
    }

    fn socket(&self, client: &Client) -> Socket {
        let mut sockets = self.io.sockets().into_iter();
        let socket = sockets.find(|socket| socket.id().as_str() == client.id());
        socket.expect("the client is connected")
    }

    async fn join(&self, client: &Client, room: &str) {
        let socket = self.socket(client);
        socket.join(room);
        within("the room", socket.synced())
            .await
            .expect("the broker is connected");
    }
}

fn namespace() -> Namespace {
    Namespace::new()
        .on_connect(async |socket: Socket| {
            let id = socket.id().to_string();
            socket.set_data(json!({ "id": id })).is_ok()
        })
        .on_server_event("double", async |Data(n): Data<u64>| 2 * n)
        .server_event_fallback(async |io: SocketIo, event: ServerEvent| {
            let args: Vec<Value> = event.args().read_all().unwrap_or_default();
            let event = (event.name().to_owned(), args);
            io.of("/").local().emit("server_event", Args(event));
        })
}

/// Waits for something that must happen.
async fn within<T>(what: &str, happens: impl IntoFuture<Output = T>) -> T {
    match tokio::time::timeout(TIMEOUT, happens.into_future()).await {
        Ok(result) => result,
        Err(_) => panic!("the broker does not do this in {TIMEOUT:?}: {what}"),
    }
}

/// Waits until each server counts this many.
async fn count(servers: &[Server], expected: usize) {
    for server in servers {
        within("the count of all servers", async {
            while server.io.server_count().await != Ok(expected) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
}

/// Connects a client to each server, after those of the former test have gone.
async fn clients(servers: &[Server; 3]) -> [Client; 3] {
    let [a, b, c] = servers;
    within("the former clients to go", async {
        while servers.iter().any(|server| server.io.counts().sockets > 0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    [a.client().await, b.client().await, c.client().await]
}

/// Returns the argument of the next event `n`.
async fn next(client: &mut Client) -> u64 {
    within("an event of another server", async {
        client.expect("n").await.data()
    })
    .await
}

async fn selects_sockets(servers: &[Server; 3]) {
    let [a, b, c] = servers;
    let [mut at_a, mut at_b, mut at_c] = clients(servers).await;
    b.join(&at_b, "red").await;
    c.join(&at_c, "red").await;
    c.join(&at_c, "blue").await;
    a.io.emit("n", 1);
    a.io.to("red").emit("n", 2);
    a.io.to("red").to("blue").emit("n", 3);
    a.io.to("red").except("blue").emit("n", 4);
    a.io.to(at_b.id()).emit("n", 5);
    a.io.of("/").local().emit("n", 6);
    a.io.to("nobody").emit("n", 7);
    a.io.emit("n", 8);
    for (client, expected) in [
        (&mut at_a, &[1, 6, 8][..]),
        (&mut at_b, &[1, 2, 3, 4, 5, 8]),
        (&mut at_c, &[1, 2, 3, 8]),
    ] {
        let mut got = Vec::new();
        while got.last() != Some(&8) {
            got.push(next(client).await);
        }
        assert_eq!(got, expected, "the events that a client of one server gets");
    }
}

async fn carries_all_values(servers: &[Server; 3]) {
    let [a, ..] = servers;
    let [_at_a, mut at_b, _at_c] = clients(servers).await;
    let values =
        json!([null, true, -1, 0.1, 9_007_199_254_740_992_u64, "é😀\u{0}", { "a": [{}] }, []]);
    let bytes = Bytes::from_static(&[0, 1, 254, 255]);
    a.io.emit("values", Args((values.clone(), bytes.clone())));
    let got = within("an event with bytes", at_b.expect("values")).await;
    let mut got = got;
    assert_eq!(got.args::<(Value, Bytes)>(), (values, bytes));
}

/// The operations of one task have the same order on each server, and twice is once too often.
async fn keeps_the_order(servers: &[Server; 3]) {
    const EVENTS: u64 = 2_000;

    let [a, ..] = servers;
    let [_at_a, _at_b, mut at_c] = clients(servers).await;
    for n in 0..EVENTS {
        let room = format!("order-{}", n % 7);
        a.io.to(at_c.id()).join(&room);
        a.io.to(&room).emit("n", n);
        a.io.to(at_c.id()).leave(&room);
        a.io.to(&room).emit("n", u64::MAX);
    }
    a.io.to(at_c.id()).emit("n", EVENTS);
    for n in 0..=EVENTS {
        assert_eq!(
            next(&mut at_c).await,
            n,
            "the order of one task's operations"
        );
    }
}

fn is_in(socket: &Socket, room: &str) -> bool {
    socket.rooms().iter().any(|name| **name == *room)
}

async fn changes_rooms_and_disconnects(servers: &[Server; 3]) {
    let [a, b, c] = servers;
    let [_at_a, mut at_b, at_c] = clients(servers).await;
    a.io.to(at_b.id()).to(at_c.id()).join("green");
    within("a join on another server", async {
        while !is_in(&b.socket(&at_b), "green") || !is_in(&c.socket(&at_c), "green") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    a.io.to("green").except(at_c.id()).leave("green");
    within("a leave on another server", async {
        while is_in(&b.socket(&at_b), "green") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(
        is_in(&c.socket(&at_c), "green"),
        "an excluded socket has left"
    );
    a.io.to(at_b.id()).disconnect();
    within("a disconnect on another server", at_b.disconnected()).await;
}

async fn fetches_sockets(servers: &[Server; 3]) {
    let clients = clients(servers).await;
    let ids: BTreeSet<&str> = clients.iter().map(Client::id).collect();
    for server in servers {
        let sockets = within("the sockets of all servers", server.io.fetch_sockets()).await;
        let sockets = sockets.expect("all servers answer");
        let fetched: BTreeSet<_> = sockets
            .iter()
            .map(|socket| socket.id().to_string())
            .collect();
        let fetched: BTreeSet<_> = fetched.iter().map(String::as_str).collect();
        assert_eq!(fetched, ids, "the sockets of all servers");
        for socket in &sockets {
            let data = socket.data::<Value>();
            assert_eq!(data, Some(json!({ "id": socket.id().as_str() })));
        }
        let nobody = server.io.to("nobody");
        let nobody = within("that a room is empty", nobody.fetch_sockets()).await;
        let nobody = nobody.map_or(1, |sockets| sockets.len());
        assert_eq!(nobody, 0, "the sockets in a room that is empty");
    }
}

async fn asks_clients(servers: &[Server; 3]) {
    let [a, ..] = servers;
    let [at_a, at_b, at_c] = clients(servers).await;
    let answering = [at_a, at_b, at_c].map(|mut client| {
        tokio::spawn(async move {
            while let Some(received) = client.recv().await {
                if received.name() == "ask" {
                    received.ack(Bytes::from_static(&[1, 2, 255]));
                }
            }
        })
    });
    let question =
        a.io.of("/")
            .emit_with_ack::<Bytes>("ask", ())
            .timeout(TIMEOUT);
    let answers = within("the answers of all clients", question).await;
    let answers: Vec<_> = answers
        .into_iter()
        .filter_map(|(_, answer)| answer.ok())
        .collect();
    let expected = Bytes::from_static(&[1, 2, 255]);
    assert_eq!(answers, vec![expected; 3], "the answers of all clients");
    let question = a.io.to("nobody").emit_with_ack::<Bytes>("ask", ());
    let answers = within("that nobody was asked", question.timeout(TIMEOUT)).await;
    assert!(answers.is_empty(), "an answer of nobody");
    let question =
        a.io.of("/")
            .emit_with_ack::<u32>("silent", ())
            .timeout(QUIET);
    let answers = within("the timeout of a question", question).await;
    let timeouts = answers
        .into_iter()
        .filter(|(_, answer)| answer.as_ref().is_err_and(AckError::is_timeout));
    assert_eq!(timeouts.count(), 3, "the clients that have not answered");
    answering.iter().for_each(tokio::task::JoinHandle::abort);
}

async fn sends_server_events(servers: &[Server; 3]) {
    let [a, ..] = servers;
    let [mut at_a, mut at_b, mut at_c] = clients(servers).await;
    for n in 0..100 {
        let sent = a.io.server_side_emit("counted", n);
        assert!(sent.is_ok(), "a server event is not sent");
    }
    for client in [&mut at_b, &mut at_c] {
        for n in 0..100 {
            let event = within("a server event", client.expect("server_event")).await;
            let mut event = event;
            let args: (String, Vec<Value>) = event.args();
            assert_eq!(args, ("counted".to_owned(), vec![json!(n)]));
        }
    }
    let all = a.io.of("/");
    let answers = all.server_side_emit_with_ack::<u64>("double", 21);
    let answers = within("the answers of the other servers", answers).await;
    let answers = answers.unwrap_or_default();
    assert_eq!(answers, [42, 42], "the answers of the other servers");
    // A server does not get its own events.
    a.io.emit("end", ());
    let own = within("an event", at_a.recv()).await;
    assert_eq!(
        own.map(|event| event.name().to_owned()).as_deref(),
        Some("end")
    );
}

/// A namespace of a path exists on a server while it has sockets there.
async fn opens_and_closes_namespaces(servers: &[Server; 3]) {
    let [a, b, _] = servers;
    for round in 0..5 {
        let name = format!("/rooms/{}", round % 2);
        let mut client = b.client_of(&name).await;
        // This server has no socket in it.
        a.io.of(&name).emit("n", round);
        assert_eq!(next(&mut client).await, round);
        let all = a.io.of(&name);
        let sockets = all.fetch_sockets();
        let sockets = within("the sockets of a namespace of another server", sockets).await;
        let sockets = sockets.map_or(0, |sockets| sockets.len());
        assert_eq!(sockets, 1, "the sockets of a namespace of another server");
        client.disconnect().await;
    }
    let all = a.io.of("/rooms/0");
    let sockets = all.fetch_sockets();
    let sockets = within("the sockets of a namespace that has ended", sockets).await;
    let sockets = sockets.map_or(1, |sockets| sockets.len());
    assert_eq!(sockets, 0, "the sockets of a namespace that has ended");
}

async fn carries_long_messages(servers: &[Server; 3]) {
    let [a, ..] = servers;
    let [_at_a, mut at_b, _at_c] = clients(servers).await;
    let text = "long ".repeat(100_000);
    a.io.emit("long", &text);
    let mut event = within("a message of 500 kB", at_b.expect("long")).await;
    assert!(event.data::<String>() == text, "a long message has changed");
}

async fn confirms_messages(servers: &[Server; 3]) {
    let [a, ..] = servers;
    let published = || {
        a.io.cluster()
            .map_or(0, |cluster| cluster.status().published)
    };
    let before = published();
    for n in 0..10 {
        let confirmation = a.io.of("/").try_emit("confirmed", n);
        let confirmation = confirmation.expect("the message is queued");
        let confirmed = within("the confirmation of a message", confirmation).await;
        assert!(confirmed.is_ok(), "a message is not confirmed");
    }
    assert!(
        published() >= before + 10,
        "confirmed messages are not counted"
    );
}

/// A namespace ends and begins again at once, with the same room.
async fn opens_a_namespace_again(servers: &[Server; 3]) {
    let [a, b, _] = servers;
    for round in 0..20 {
        let mut client = b.client_of("/rooms/again").await;
        // The socket of the former client may still be there.
        let sockets = b.io.of("/rooms/again").sockets().into_iter();
        let mut sockets = sockets.filter(|socket| socket.id().as_str() == client.id());
        let socket = sockets.next().expect("the client is connected");
        socket.join("red");
        let synced = within("the room of a namespace that begins again", socket.synced());
        synced.await.expect("the broker is connected");
        a.io.of("/rooms/again").to("red").emit("n", round);
        assert_eq!(next(&mut client).await, round);
        client.disconnect().await;
    }
}
