//! Several servers of one process as one, connected by `cluster::Memory`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use futures_core::future::BoxFuture;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tower_socketio::cluster::{Broker, Command, Inbox, Memory, Port};
use tower_socketio::testing::Client;
use tower_socketio::{
    Args, ClusterError, Data, Namespace, Partial, Recovery, ServerEvent, Socket, SocketId, SocketIo,
};

/// A server and its app.
struct Server {
    app: Router,
    io: SocketIo,
}

impl Server {
    fn new(broker: impl Broker, namespace: Namespace) -> Self {
        let (layer, io) = SocketIo::builder()
            .namespace("/", namespace)
            .namespace("/orders/{id}", Namespace::new().on_connect(join_own_room))
            .cluster(broker)
            .build();
        let app = Router::new().layer(layer);
        Self { app, io }
    }

    async fn client(&self) -> Client {
        self.client_of("/").await
    }

    async fn client_of(&self, namespace: &str) -> Client {
        let client = Client::connect(&self.app, namespace);
        client.await.expect("it is let in")
    }

    fn socket(&self, client: &Client) -> Socket {
        let mut sockets = self.io.sockets().into_iter();
        let socket = sockets.find(|socket| socket.id().as_str() == client.id());
        socket.expect("it is connected")
    }

    /// Waits until the cluster has this many servers.
    async fn count(&self, servers: usize) {
        while self.io.server_count().await != Ok(servers) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn join_own_room(socket: Socket) {
    socket.join("orders");
}

/// The events of the clients in these tests.
fn namespace() -> Namespace {
    Namespace::new()
        .on("join", async |socket: Socket, Data(room): Data<String>| {
            socket.join(room);
        })
        .on("say", async |socket: Socket, Data(text): Data<String>| {
            socket.broadcast().emit("said", text);
        })
}

/// Returns `N` servers that are connected.
async fn servers<const N: usize>() -> [Server; N] {
    let memory = Memory::new();
    let servers = [(); N].map(|()| Server::new(memory.clone(), namespace()));
    for server in &servers {
        server.count(N).await;
    }
    servers
}

/// Returns the number that the next event carries.
async fn next(client: &mut Client) -> u32 {
    client.expect("n").await.data()
}

#[tokio::test(start_paused = true)]
async fn a_broadcast_reaches_the_clients_of_all_servers() {
    let [a, b, c] = servers().await;
    let (mut at_a, mut at_b, mut at_c) = (a.client().await, b.client().await, c.client().await);
    b.socket(&at_b).join("room");
    c.socket(&at_c).join("room");

    a.io.emit("n", 1);
    a.io.to("room").emit("n", 2);
    a.io.to("room").except(at_c.id()).emit("n", 3);
    a.io.to(at_b.id()).emit("n", 4);
    a.io.of("/").local().emit("n", 5);
    for (client, expected) in [
        (&mut at_a, &[1, 5][..]),
        (&mut at_b, &[1, 2, 3, 4]),
        (&mut at_c, &[1, 2]),
    ] {
        for n in expected {
            assert_eq!(next(client).await, *n);
        }
    }

    // A client's event excludes only that client.
    at_b.emit("say", "hello");
    for client in [&mut at_a, &mut at_c] {
        assert_eq!(client.expect("said").await.data::<String>(), "hello");
    }
    let bytes = Bytes::from_static(&[1, 2, 255]);
    c.io.emit("bytes", Args((bytes.clone(), "é")));
    assert_eq!(
        at_a.expect("bytes").await.args::<(Bytes, String)>(),
        (bytes, "é".to_owned())
    );
}

#[tokio::test(start_paused = true)]
async fn the_operations_of_one_task_arrive_in_order() {
    let [a, b] = servers().await;
    let (mut first, mut second) = (b.client().await, b.client().await);
    b.socket(&first).join("red");
    for n in 0..1_000 {
        a.io.to("red").emit("n", n);
        a.io.to("red").join("blue");
        a.io.to("blue").emit("n", n);
        a.io.to("blue").leave("blue");
    }
    a.io.to("red").disconnect();
    a.io.emit("n", 1_000);
    for n in 0..1_000 {
        assert_eq!((next(&mut first).await, next(&mut first).await), (n, n));
    }
    first.disconnected().await;
    assert_eq!(next(&mut second).await, 1_000);
    assert!(b.socket(&second).rooms().is_empty());
}

#[tokio::test(start_paused = true)]
async fn sockets_of_all_servers_are_fetched_and_used() {
    let [a, b] = servers().await;
    let (here, mut there) = (a.client().await, b.client().await);
    let socket = b.socket(&there);
    socket.join("room");
    socket.set_data(json!({ "user": "ada" })).expect("small");

    let ids = |sockets: &[tower_socketio::RemoteSocket]| -> BTreeSet<String> {
        let ids = sockets.iter().map(|socket| socket.id().as_str().to_owned());
        ids.collect()
    };
    let all = a.io.fetch_sockets().await.expect("both servers");
    assert_eq!(
        ids(&all),
        BTreeSet::from([here.id().into(), there.id().into()])
    );
    assert!(
        a.io.to("nobody")
            .fetch_sockets()
            .await
            .expect("both")
            .is_empty()
    );
    let local = a.io.of("/").local().fetch_sockets().await.expect("one");
    assert_eq!(ids(&local), BTreeSet::from([here.id().into()]));

    let mut found = a.io.to("room").fetch_sockets().await.expect("both servers");
    let remote = found.pop().expect("the other client");
    assert!(!remote.is_local());
    assert_eq!((remote.id(), remote.namespace()), (socket.id(), "/"));
    assert_eq!(remote.rooms(), ["room"]);
    assert_eq!(remote.data::<Value>(), Some(json!({ "user": "ada" })));
    let handshake = remote.handshake();
    assert_eq!(handshake.headers, socket.handshake().headers);
    assert_eq!(handshake.url, socket.handshake().url);
    assert_eq!(handshake.query, socket.handshake().query);
    assert_eq!(handshake.time(), socket.handshake().time());

    remote.emit("n", 1);
    assert_eq!(next(&mut there).await, 1);
    let question = remote.emit_with_ack::<u32>("double", 4);
    let (answer, ()) = tokio::join!(question.into_future(), async {
        let mut event = there.expect("double").await;
        let n: u32 = event.data();
        event.ack(2 * n);
    });
    assert_eq!(answer.expect("an answer"), 8);
    remote.join("other");
    remote.leave("room");
    // The answer comes behind the operations.
    let moved =
        a.io.to("other")
            .fetch_sockets()
            .await
            .expect("both servers");
    assert_eq!(moved[0].rooms(), ["other"]);
    remote.disconnect();
    there.disconnected().await;
    let question = remote.emit_with_ack::<u32>("double", 4).await;
    assert!(question.expect_err("it has left").is_not_connected());
}

/// A client chooses its `auth`, and must not be able to hide the rest.
#[tokio::test(start_paused = true)]
async fn the_handshake_of_a_socket_elsewhere_is_read_whatever_its_auth_is() {
    let [a, b] = servers().await;
    let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(126), "]".repeat(126));
    for auth in [r#"{"x":"\ud800"}"#, r#"{"x":1e999}"#, &deep] {
        let auth = serde_json::value::RawValue::from_string(auth.to_owned()).expect("JSON");
        let client = Client::connect(&b.app, "/").auth(auth).await;
        let client = client.expect("it is let in");
        let local = b.socket(&client).handshake();
        let remote = a.io.to(client.id()).fetch_sockets().await.expect("both");
        let remote = remote[0].handshake();
        assert_eq!(remote.url, local.url);
        assert_eq!(remote.query, local.query);
        assert_eq!(remote.headers, local.headers);
        assert_eq!(remote.time(), local.time());
        client.disconnect().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_clients_of_all_servers_are_asked() {
    let [a, b, c] = servers().await;
    let mut clients = [a.client().await, b.client().await, b.client().await];
    let ids: BTreeSet<_> = clients
        .iter()
        .map(|client| client.id().to_owned())
        .collect();
    let _silent = [c.client().await, c.client().await];
    c.io.of("/").local().join("silent");

    let answer_all = async |clients: &mut [Client; 3]| {
        for (n, client) in clients.iter_mut().enumerate() {
            client.expect("question").await.ack(n);
        }
    };
    let question = a.io.except("silent").emit_with_ack::<u32>("question", "?");
    let (answers, ()) = tokio::join!(async { question.await }, answer_all(&mut clients));
    let answered = answers.iter().map(|(id, _)| id.expect("all are ours"));
    let answered: BTreeSet<_> = answered
        .map(|id: SocketId| id.as_str().to_owned())
        .collect();
    assert_eq!(answered, ids);
    let values = answers.into_iter().map(|(_, answer)| answer.expect("one"));
    assert_eq!(values.collect::<BTreeSet<_>>(), BTreeSet::from([0, 1, 2]));

    let nobody = a.io.to("nobody").emit_with_ack::<u32>("question", "?");
    assert!(nobody.await.is_empty());

    let question = a.io.of("/").emit_with_ack::<u32>("question", "?");
    let question = question.timeout(Duration::from_secs(1));
    let (answers, ()) = tokio::join!(question.collect::<Vec<_>>(), answer_all(&mut clients));
    let late = answers
        .iter()
        .filter_map(|(_, answer)| answer.as_ref().err());
    let late: Vec<_> = late.map(|error| error.is_timeout()).collect();
    assert_eq!((answers.len(), late), (5, vec![true, true]));
}

#[tokio::test(start_paused = true)]
async fn server_events_are_handled_and_answered() {
    async fn load(State(base): State<u32>, Data(n): Data<u32>) -> u32 {
        base + n
    }
    async fn other(event: ServerEvent, io: SocketIo) {
        io.of("/").local().emit(event.name(), event.args());
    }
    let memory = Memory::new();
    let [a, b, c] = [0, 10, 20].map(|base| {
        let namespace = Namespace::new()
            .on_server_event("load", load)
            .server_event_fallback(other)
            .with_state(base);
        Server::new(memory.clone(), namespace)
    });
    a.count(3).await;
    let (mut at_a, mut at_b) = (a.client().await, b.client().await);

    let loads =
        a.io.of("/")
            .server_side_emit_with_ack::<u32>("load", 1)
            .await;
    let loads: BTreeSet<_> = loads.expect("both").into_iter().collect();
    assert_eq!(loads, BTreeSet::from([11, 21]));

    // The arguments do not fit: the reply is an error, and not a number.
    let loads =
        a.io.of("/")
            .server_side_emit_with_ack::<u32>("load", "x")
            .await;
    let partial = loads.expect_err("no number");
    assert_eq!((partial.got.len(), partial.missing), (0, 2));

    c.io.server_side_emit("n", 7).expect("sent");
    assert_eq!((next(&mut at_a).await, next(&mut at_b).await), (7, 7));
}

#[tokio::test(start_paused = true)]
async fn a_server_event_without_a_handler_is_not_answered() {
    let [a, _b] = servers().await;
    let begin = tokio::time::Instant::now();
    let answers = a.io.of("/").server_side_emit_with_ack::<u32>("x", ()).await;
    let partial: Partial<Vec<u32>> = answers.expect_err("no answer");
    assert_eq!(partial.missing, 1);
    assert!(ClusterError::from(partial).is_timeout());
    assert_eq!(begin.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_broker_has_five_seconds_to_count_the_servers() {
    let broker = Unconnected {
        connects: true,
        commands: Arc::default(),
    };
    let a = Server::new(broker, namespace());
    a.io.cluster().expect("a cluster").changed().await;
    let begin = tokio::time::Instant::now();
    let error = a.io.server_count().await.expect_err("no answer");
    assert!(error.is_timeout());
    assert_eq!(begin.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_fetched_socket_has_five_seconds_to_acknowledge() {
    let [a, b] = servers().await;
    let mut silent = b.client().await;
    let sockets = a.io.fetch_sockets().await.expect("two servers");
    let question = sockets[0].emit_with_ack::<u32>("silent", ());
    let begin = tokio::time::Instant::now();
    let (answer, _) = tokio::join!(question, silent.expect("silent"));
    assert!(answer.expect_err("no answer").is_timeout());
    assert_eq!(begin.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_fetched_socket_is_unreachable_when_its_server_has_ended() {
    let [Server { app, io }, b] = servers().await;
    let _client = b.client().await;
    let sockets = io.fetch_sockets().await.expect("two servers");
    drop(app);
    let question = sockets[0].emit_with_ack::<u32>("question", ()).await;
    assert!(question.is_err_and(|error| error.is_unreachable()));
}

#[tokio::test(start_paused = true)]
async fn a_namespace_may_exist_on_another_server_only() {
    let [a, b] = servers().await;
    let mut client = b.client_of("/orders/1").await;
    a.io.of("/orders/1").emit("n", 1);
    a.io.of("/orders/1").to("orders").emit("n", 2);
    a.io.of("/orders/2").emit("n", 3);
    assert_eq!((next(&mut client).await, next(&mut client).await), (1, 2));

    let sockets = a.io.of("/orders/1").fetch_sockets().await.expect("all");
    assert_eq!(sockets[0].id().as_str(), client.id());
    assert_eq!(sockets[0].namespace(), "/orders/1");
    let question = a.io.of("/orders/1").emit_with_ack::<u32>("question", ());
    let (answers, ()) = tokio::join!(async { question.await }, async {
        client.expect("question").await.ack(5);
    });
    assert!(matches!(answers[..], [(Some(_), Ok(5))]));
    assert!(
        a.io.of("/orders/2")
            .fetch_sockets()
            .await
            .expect("nobody")
            .is_empty()
    );

    a.io.of("/orders/1").close();
    client.disconnected().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_leaves_is_not_waited_for() {
    let [a, b] = servers().await;
    let mut client = b.client().await;
    let question = a.io.of("/").emit_with_ack::<u32>("question", ());
    let leave = async {
        client.expect("question").await;
        b.io.close().await;
    };
    let (answers, ()) = tokio::join!(async { question.await }, leave);
    // The client has left with its server, and nobody says so.
    assert!(answers.iter().all(|(_, answer)| answer.is_err()));
    a.count(1).await;
    assert_eq!(a.io.fetch_sockets().await.expect("one server").len(), 0);
    assert!(b.io.fetch_sockets().await.is_err());
}

/// A broker that is connected to nothing, and passes its commands to a test.
#[derive(Debug)]
struct Unconnected {
    connects: bool,
    commands: Arc<Mutex<Vec<Command>>>,
}

impl Broker for Unconnected {
    fn run(self: Arc<Self>, mut port: Port) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            if self.connects {
                port.inbox().connected();
            } else {
                port.inbox().disconnected(&"no network");
                std::future::pending::<()>().await;
            }
            while let Some(command) = port.next().await {
                self.commands.lock().expect("no panic").push(command);
            }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_connection_messages_wait_and_questions_fail() {
    let broker = Unconnected {
        connects: false,
        commands: Arc::default(),
    };
    let a = Server::new(broker, namespace());
    let mut health = a.io.cluster().expect("a cluster");
    health.changed().await;
    assert!(!health.status().is_connected);
    assert_eq!(health.status().reason, "no network");
    let mut client = a.client().await;

    // Local clients notice nothing.
    a.io.emit("n", 1);
    assert_eq!(next(&mut client).await, 1);
    assert_eq!(health.status().queued, 1);
    a.io.of("/").volatile().emit("n", 2);
    assert_eq!((health.status().queued, health.status().dropped), (1, 1));

    let partial = a.io.fetch_sockets().await.expect_err("unreachable");
    assert!(partial.reason().is_unreachable());
    assert_eq!(partial.into_got().len(), 1);
    assert!(
        a.io.server_count()
            .await
            .is_err_and(|error| error.is_unreachable())
    );
    let question = a.io.to("nobody").emit_with_ack::<u32>("question", ());
    let answers = question.await;
    let [(None, Err(error))] = &answers[..] else {
        panic!("{answers:?}");
    };
    assert!(error.is_unreachable());

    // The queue is bounded: the oldest messages are dropped.
    let text = "x".repeat(1 << 20);
    let oldest = a.io.of("/").try_emit("text", &text).expect("queued");
    for _ in 0..20 {
        a.io.emit("text", &text);
    }
    let status = health.status();
    assert!(status.queued_bytes <= 16 << 20, "{status:?}");
    assert_eq!(status.queued + status.dropped as usize, 23);
    assert!(oldest.await.is_err_and(|error| error.is_full()));
}

#[tokio::test(start_paused = true)]
async fn a_message_is_confirmed_unconfirmed_or_dropped() {
    let commands = Arc::default();
    let broker = Unconnected {
        connects: true,
        commands: Arc::clone(&commands),
    };
    let a = Server::new(broker, namespace());
    let mut health = a.io.cluster().expect("a cluster");
    health.changed().await;
    let [first, second, third] = [1, 2, 3].map(|n| a.io.of("/").try_emit("n", n).expect("queued"));
    while health.status().queued > 0 {
        tokio::task::yield_now().await;
    }
    let taken = std::mem::take(&mut *commands.lock().expect("no panic"));
    let mut done = taken.into_iter().filter_map(|command| match command {
        Command::Publish { done, .. } => Some(done),
        _ => None,
    });
    done.next().expect("the first").published();
    drop(done.next().expect("the second"));
    done.next().expect("the third").dropped();
    assert_eq!(first.await, Ok(()));
    for confirmation in [second, third] {
        assert!(
            confirmation
                .await
                .is_err_and(|error| error.is_unreachable())
        );
    }
    let status = health.status();
    let counts = (status.published, status.unconfirmed, status.dropped);
    assert_eq!(counts, (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_too_long_is_refused_and_counted() {
    let broker = Unconnected {
        connects: false,
        commands: Arc::default(),
    };
    let a = Server::new(broker, namespace());
    let text = "x".repeat(64 << 20);
    let error = a.io.of("/").try_emit("text", &text).expect_err("too long");
    assert!(
        error
            .cluster_error()
            .is_some_and(|error| error.is_too_big())
    );
    a.io.emit("text", &text);
    let status = a.io.cluster().expect("a cluster").status();
    assert_eq!((status.dropped, status.queued), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn the_number_of_open_questions_is_bounded() {
    let broker = Unconnected {
        connects: true,
        commands: Arc::default(),
    };
    let a = Server::new(broker, namespace());
    let mut health = a.io.cluster().expect("a cluster");
    health.changed().await;
    let ask = || a.io.of("/").emit_with_ack::<u32>("question", ());
    let open: Vec<_> = (0..10_000).map(|_| ask()).collect();
    assert_eq!(health.status().questions, 10_000);
    let partial = a.io.fetch_sockets().await.expect_err("too many");
    assert!(partial.reason().is_full());
    let answers = ask().await;
    assert!(matches!(&answers[..], [(None, Err(error))] if error.is_unreachable()));
    drop(open);
    assert_eq!(health.status().questions, 0);
}

#[tokio::test(start_paused = true)]
async fn the_server_events_that_wait_are_bounded() {
    let gate = Arc::new(Semaphore::new(0));
    let handled = Arc::new(AtomicUsize::new(0));
    let (opened, counted) = (Arc::clone(&gate), Arc::clone(&handled));
    let slow = async move || {
        opened.acquire().await.expect("open").forget();
        counted.fetch_add(1, Ordering::Relaxed);
    };
    let memory = Memory::new();
    let a = Server::new(memory.clone(), namespace());
    let b = Server::new(memory, Namespace::new().on_server_event("slow", slow));
    a.count(2).await;
    for _ in 0..1_200 {
        a.io.server_side_emit("slow", ()).expect("sent");
    }
    let malformed = || b.io.cluster().expect("a cluster").status().malformed;
    // 64 run, one is the next, and 1 024 wait.
    while malformed() < 1_200 - 1_089 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    gate.add_permits(1_200);
    while handled.load(Ordering::Relaxed) < 1_089 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(malformed(), 111);
    // The namespace handles further events.
    a.io.server_side_emit("slow", ()).expect("sent");
    while handled.load(Ordering::Relaxed) < 1_090 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_event_is_handled_after_a_handler_whose_panic_panics_too() {
    struct Payload;
    impl Drop for Payload {
        fn drop(&mut self) {
            panic!("in the destructor of a payload");
        }
    }
    async fn late() {
        tokio::task::yield_now().await;
        std::panic::panic_any(Payload);
    }
    let memory = Memory::new();
    let a = Server::new(memory.clone(), namespace());
    let of_b = Namespace::new()
        .on_server_event("panic", || -> std::future::Ready<()> {
            std::panic::panic_any(Payload)
        })
        .on_server_event("late", late)
        .on_server_event("load", async || 7);
    let _b = Server::new(memory, of_b);
    a.count(2).await;
    for event in ["panic", "late"] {
        a.io.server_side_emit(event, ()).expect("sent");
        let answers =
            a.io.of("/")
                .server_side_emit_with_ack::<u32>("load", ())
                .await;
        assert_eq!(answers.expect("an answer"), [7]);
    }
}

/// A broker that wants rooms, and lists them. A report waits for a permit.
#[derive(Clone, Debug)]
struct Listing {
    rooms: Arc<Mutex<Vec<String>>>,
    permits: Arc<Semaphore>,
}

impl Listing {
    fn new() -> Self {
        Self {
            rooms: Arc::default(),
            permits: Arc::new(Semaphore::new(0)),
        }
    }

    /// Returns the rooms that began (`+`) or ended (`-`) since the last call, sorted. The rooms of
    /// sockets are `id`.
    async fn take(&self) -> Vec<String> {
        // The broker has taken what waits for it.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut rooms = std::mem::take(&mut *self.rooms.lock().expect("no panic"));
        rooms.sort();
        rooms
    }
}

impl Broker for Listing {
    fn run(self: Arc<Self>, mut port: Port) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            port.inbox().connected();
            while let Some(command) = port.next().await {
                match command {
                    Command::Room { room, exists, .. } => {
                        let sign = if exists { "+" } else { "-" };
                        let is_id = room.len() == 20;
                        let room = if is_id { "id" } else { &*room };
                        let mut rooms = self.rooms.lock().expect("no panic");
                        rooms.push(format!("{sign}{room}"));
                    }
                    Command::Sync { synced } => {
                        self.permits.acquire().await.expect("open").forget();
                        synced.done();
                    }
                    _ => {}
                }
            }
        })
    }

    fn wants_rooms(&self) -> bool {
        true
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_wants_rooms_is_told_which_exist() {
    let broker = Listing::new();
    broker.permits.add_permits(1_000);
    let a = Server::new(broker.clone(), namespace());
    let (first, second) = (a.client().await, a.client().await);
    assert_eq!(broker.take().await, ["+id", "+id"]);
    let (one, two) = (a.socket(&first), a.socket(&second));
    one.join("red");
    two.join("red");
    assert_eq!(broker.take().await, ["+red"]);
    one.leave("red");
    two.leave("red");
    // A room stays open for a while.
    assert!(broker.take().await.is_empty());
    two.join("red");
    two.leave("red");
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert!(broker.take().await.is_empty());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(broker.take().await, ["-red"]);
    // A room that comes and goes before the broker looks is none.
    for _ in 0..100 {
        one.join("blue");
        one.leave("blue");
    }
    assert!(broker.take().await.is_empty());
    // A room may have the name of a socket's room, and end before the socket leaves.
    two.join(first.id());
    two.leave(first.id());
    assert!(broker.take().await.is_empty());
    one.join("green");
    assert_eq!(broker.take().await, ["+green"]);
    first.disconnect().await;
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(broker.take().await, ["-green", "-id"]);
}

#[tokio::test(start_paused = true)]
async fn a_room_stays_open_at_the_broker_while_clients_may_come_back() {
    let broker = Listing::new();
    broker.permits.add_permits(1_000);
    let (layer, io) = SocketIo::builder()
        .namespace("/", namespace())
        .recovery(Recovery::within(Duration::from_secs(60)))
        .cluster(broker.clone())
        .build();
    let app = Router::new().layer(layer);
    let a = Server { app, io };
    let client = a.client().await;
    let socket = a.socket(&client);
    socket.join("red");
    assert_eq!(broker.take().await, ["+id", "+red"]);
    socket.leave("red");
    let begin = tokio::time::Instant::now();
    while broker.take().await != ["-red"] {
        assert!(begin.elapsed().as_secs() <= 61);
    }
    assert!(begin.elapsed().as_secs() >= 60);
}

#[tokio::test(start_paused = true)]
async fn a_client_is_connected_when_the_messages_of_other_servers_arrive() {
    let broker = Listing::new();
    let a = Server::new(broker.clone(), namespace());
    let begin = tokio::time::Instant::now();
    // The broker does not report it, so that the client is connected after a second.
    let client = a.client().await;
    assert_eq!(begin.elapsed().as_secs(), 1);

    broker.permits.add_permits(1_000);
    let socket = a.socket(&client);
    assert_eq!(socket.synced().await, Ok(()));
    let begin = tokio::time::Instant::now();
    let _other = a.client().await;
    assert!(begin.elapsed() < Duration::from_millis(500));

    broker.permits.forget_permits(1_000);
    // Nothing has begun since.
    assert_eq!(socket.synced().await, Ok(()));
    socket.join("red");
    let synced = tokio::time::timeout(Duration::from_secs(60), socket.synced());
    assert!(synced.await.is_err());
    broker.permits.add_permits(10);
    assert_eq!(socket.synced().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_socket_is_not_synced_without_a_connection() {
    let broker = Unconnected {
        connects: false,
        commands: Arc::default(),
    };
    let a = Server::new(broker, namespace());
    let begin = tokio::time::Instant::now();
    let client = a.client().await;
    // A client does not wait for a broker that is away.
    assert!(begin.elapsed() < Duration::from_millis(500));
    let error = a.socket(&client).synced().await.expect_err("not connected");
    assert!(error.is_unreachable());
}

#[tokio::test(start_paused = true)]
async fn handlers_of_server_events_may_ask_each_other() {
    let memory = Memory::new();
    let namespace = || {
        Namespace::new()
            .on_server_event("load", async || 7)
            .on_server_event("rebalance", async |io: SocketIo| {
                let all = io.of("/");
                let loads = all.server_side_emit_with_ack::<u32>("load", ()).await;
                let loads = loads.map_or(0, |loads| loads.len());
                all.local().emit("n", loads as u32);
            })
    };
    let servers = [(); 3].map(|()| Server::new(memory.clone(), namespace()));
    servers[0].count(3).await;
    let begin = tokio::time::Instant::now();
    let (mut at_b, mut at_c) = (servers[1].client().await, servers[2].client().await);
    servers[0]
        .io
        .server_side_emit("rebalance", ())
        .expect("sent");
    for client in [&mut at_b, &mut at_c] {
        assert_eq!(next(client).await, 2);
    }
    assert!(begin.elapsed() < Duration::from_secs(1));
}

/// Returns the number of tasks.
fn tasks() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

#[tokio::test(start_paused = true)]
async fn clients_are_not_waited_for_when_the_question_has_ended() {
    let [a, b] = servers().await;
    let mut silent = b.client().await;
    let socket = Arc::new(());
    b.socket(&silent).insert(Arc::clone(&socket));
    let before = tasks();
    let question = a.io.of("/").emit_with_ack::<u32>("silent", ());
    silent.expect("silent").await;
    // The other server waits.
    assert_eq!(tasks(), before + 1);
    let answers = question.timeout(Duration::from_secs(1)).await;
    assert!(matches!(&answers[..], [(None, Err(error))] if error.is_timeout()));
    // And no longer, although the client is still there.
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(tasks(), before);
    silent.disconnect().await;
    // It holds nothing of the socket either.
    while Arc::strong_count(&socket) > 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A broker that passes the questions to the other servers, and nothing else.
#[derive(Clone, Debug, Default)]
struct Questions(Arc<Mutex<Vec<Inbox>>>);

impl Broker for Questions {
    fn run(self: Arc<Self>, mut port: Port) -> BoxFuture<'static, ()> {
        let servers = Arc::clone(&self.0);
        Box::pin(async move {
            servers.lock().expect("no panic").push(port.inbox());
            port.inbox().connected();
            while let Some(command) = port.next().await {
                let inboxes = servers.lock().expect("no panic").clone();
                match command {
                    Command::Ask { envelope, expect } => {
                        expect.servers(inboxes.len());
                        // A server disregards its own messages.
                        for inbox in inboxes {
                            inbox.deliver(envelope.clone()).await;
                        }
                    }
                    Command::Count { expect, .. } => expect.servers(inboxes.len()),
                    Command::Sync { synced } => synced.done(),
                    _ => {}
                }
            }
            servers.lock().expect("no panic").clear();
        })
    }
}

#[tokio::test(start_paused = true)]
async fn clients_are_waited_for_for_at_most_an_hour_if_nobody_says_that_the_question_has_ended() {
    let broker = Questions::default();
    let [a, b] = [(); 2].map(|()| Server::new(broker.clone(), namespace()));
    a.count(2).await;
    let mut silent = b.client().await;
    let before = tasks();
    let question = a.io.of("/").emit_with_ack::<u32>("silent", ());
    silent.expect("silent").await;
    let begin = tokio::time::Instant::now();
    drop(question);
    while tasks() > before {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let seconds = begin.elapsed().as_secs();
    assert!((3_600..3_602).contains(&seconds), "{seconds}");
    // The client was there all the time.
    assert_eq!(b.io.counts().sockets, 1);
}

#[tokio::test(start_paused = true)]
async fn without_its_layer_a_server_has_ended() {
    let memory = Memory::new();
    let a = Server::new(memory.clone(), namespace());
    let b = Server::new(memory, namespace());
    a.count(2).await;
    let Server { app, io } = a;
    // It keeps its namespace.
    let room = io.to("room");
    drop(app);
    b.count(1).await;
    let error = room.try_emit("n", 1).expect_err("it has ended");
    assert!(error.cluster_error().is_some_and(|error| error.is_closed()));
    let error = io.to("room").try_emit("n", 1).expect_err("it has ended");
    assert!(error.cluster_error().is_some_and(|error| error.is_closed()));
    let error = io.server_side_emit("n", 1).expect_err("it has ended");
    assert!(error.cluster_error().is_some_and(|error| error.is_closed()));
    let partial = io.fetch_sockets().await.expect_err("it has ended");
    assert!(partial.reason().is_closed());
    let answers = io.of("/").emit_with_ack::<u32>("n", 1).await;
    assert!(matches!(&answers[..], [(None, Err(_))]));
    // Without a client nobody hears it, and that is no error.
    io.emit("n", 1);
}

#[tokio::test(start_paused = true)]
async fn a_close_whose_future_is_dropped_leaves_the_cluster() {
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let wait = async move || opened.acquire().await.expect("open").forget();
    let memory = Memory::new();
    let a = Server::new(memory.clone(), Namespace::new().on("wait", wait));
    let b = Server::new(memory, namespace());
    let client = a.client().await;
    client.emit("wait", ());
    a.count(2).await;
    let is_short = Duration::from_millis(100);
    let closed = tokio::time::timeout(is_short, a.io.close()).await;
    assert!(closed.is_err(), "the handler has not ended");
    assert_eq!(b.io.server_count().await, Ok(2));
    gate.add_permits(1);
    b.count(1).await;
}

/// A broker that panics.
#[derive(Debug)]
struct Panicking;

impl Broker for Panicking {
    fn run(self: Arc<Self>, _: Port) -> BoxFuture<'static, ()> {
        Box::pin(async { panic!("a fault of the broker") })
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_whose_broker_ends_goes_on_alone() {
    let a = Server::new(Panicking, namespace());
    let mut health = a.io.cluster().expect("a cluster");
    health.changed().await;
    assert!(!health.status().is_connected);
    assert_eq!(health.status().reason, "the broker has ended");
    let mut client = a.client().await;
    a.io.emit("n", 1);
    assert_eq!(next(&mut client).await, 1);
    // Namespaces that come and go, and messages, leave nothing behind.
    drop(a.client_of("/orders/1").await);
    assert_eq!(health.status().queued, 0);
    let error = a.io.of("/").try_emit("n", 2).expect_err("ended");
    assert!(error.cluster_error().is_some_and(|error| error.is_closed()));
    a.io.close().await;
}

/// A broker that takes no command, and does not end.
#[derive(Debug)]
struct Endless;

impl Broker for Endless {
    fn run(self: Arc<Self>, _port: Port) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_does_not_end_delays_the_close_for_five_seconds() {
    let a = Server::new(Endless, namespace());
    let _client = a.client().await;
    a.io.emit("n", 1);
    let begin = tokio::time::Instant::now();
    a.io.close().await;
    assert_eq!(begin.elapsed().as_secs(), 5);
}

#[test]
#[should_panic(expected = "must be built in a tokio runtime")]
fn a_cluster_needs_a_runtime() {
    Server::new(Memory::new(), Namespace::new());
}

#[tokio::test]
#[should_panic(expected = "already has a broker")]
async fn a_server_has_one_broker() {
    let _ = SocketIo::builder::<()>()
        .cluster(Memory::new())
        .cluster(Memory::new());
}

/// A broker that has no room for long names.
#[derive(Debug)]
struct Short;

impl Broker for Short {
    fn refuses(&self, namespace: &str) -> Option<String> {
        (namespace.len() > 20).then(|| "use a shorter name".to_owned())
    }

    fn run(self: Arc<Self>, _port: Port) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
}

#[tokio::test]
async fn a_namespace_with_parameters_may_be_one_that_the_broker_refuses() {
    let (_layer, _io) = SocketIo::builder()
        .namespace("/a-long-name/with/a/{parameter}", Namespace::new())
        .cluster(Short)
        .build();
}

#[tokio::test]
#[should_panic(
    expected = "the cluster cannot have the namespace /a-long-name-without-parameters: use a shorter name"
)]
async fn a_namespace_that_the_broker_refuses_is_a_mistake() {
    let (_layer, _io) = SocketIo::builder()
        .namespace("/a-long-name-without-parameters", Namespace::new())
        .cluster(Short)
        .build();
}
