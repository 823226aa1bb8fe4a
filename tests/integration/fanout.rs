//! Broadcasts to more sockets than one chunk. The delivery in chunks must not be observable.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use axum::Router;
use serde_json::{Value, json};
use tower_socketio::testing::{Client, Disconnect};
use tower_socketio::{Args, Data, Namespace, Recovery, Socket, SocketIo};

use crate::support;
use crate::support::{Polling, main_app, until};

/// The number of clients: more than one chunk, and not a multiple of it.
const MANY: usize = 200;

/// The longest wait for something that happens in a moment on an idle machine.
const PATIENCE: Duration = Duration::from_secs(300);

struct Crowd {
    io: SocketIo,
    clients: Vec<Client>,
    sockets: Vec<Socket>,
}

async fn crowd(namespace: Namespace, recovery: Option<Recovery>) -> Crowd {
    let builder = SocketIo::builder().namespace("/", namespace);
    let (layer, io) = match recovery {
        Some(recovery) => builder.recovery(recovery).build(),
        None => builder.build(),
    };
    let app = Router::new().layer(layer);
    let mut clients = Vec::new();
    let mut sockets = Vec::new();
    for _ in 0..MANY {
        let client = Client::connect(&app, "/").timeout(PATIENCE);
        let client = client.await.expect("it is let in");
        // The client learns that it has joined a moment before the server lists its socket.
        until(|| io.to(client.id()).sockets().len() == 1).await;
        sockets.extend(io.to(client.id()).sockets());
        clients.push(client);
    }
    Crowd {
        io,
        clients,
        sockets,
    }
}

/// Returns the numbers that the client receives until the event `end` or the end of the connection.
async fn numbers(client: &mut Client) -> Vec<u32> {
    let mut numbers = Vec::new();
    let all = async {
        while let Some(mut event) = client.recv().await {
            if event.name() == "end" {
                break;
            }
            numbers.push(event.data());
        }
    };
    let all = tokio::time::timeout(PATIENCE, all).await;
    all.expect("something comes");
    numbers
}

/// A small deterministic random number generator (xorshift), so that a failure can be repeated.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % bound
    }
}

/// The expected events of each client, if each call took effect at once.
struct Model {
    sent: Vec<Vec<u32>>,
    rooms: Vec<[bool; 2]>,
    here: Vec<bool>,
}

impl Model {
    fn emit(&mut self, number: u32, is_meant: impl Fn(usize, [bool; 2]) -> bool) {
        for (at, sent) in self.sent.iter_mut().enumerate() {
            if self.here[at] && is_meant(at, self.rooms[at]) {
                sent.push(number);
            }
        }
    }
}

/// One task makes random calls that concern the sockets. Each client receives exactly what the
/// [`Model`] expects.
async fn random_actions(recovery: Option<Recovery>, seed: u64) {
    let mut crowd = crowd(Namespace::new(), recovery).await;
    let (io, sockets) = (&crowd.io, &crowd.sockets);
    let mut model = Model {
        sent: vec![Vec::new(); MANY],
        rooms: vec![[false; 2]; MANY],
        here: vec![true; MANY],
    };
    let mut chance = Chance(seed);
    for (at, socket) in sockets.iter().enumerate() {
        for (room, name) in ["a", "b"].into_iter().enumerate() {
            if chance.below(4) > 0 {
                socket.join(name);
                model.rooms[at][room] = true;
            }
        }
    }
    for number in 0..400 {
        let at = chance.below(MANY);
        let room = chance.below(2);
        let name = ["a", "b"][room];
        match chance.below(16) {
            0..=2 => {
                io.emit("n", number);
                model.emit(number, |_, _| true);
            }
            3 | 4 => {
                io.to(name).emit("n", number);
                model.emit(number, |_, rooms| rooms[room]);
            }
            5 => {
                io.to("a").to("b").emit("n", number);
                model.emit(number, |_, rooms| rooms[0] || rooms[1]);
            }
            6 => {
                io.except(name).emit("n", number);
                model.emit(number, |_, rooms| !rooms[room]);
            }
            7 if model.here[at] => {
                sockets[at].broadcast().emit("n", number);
                model.emit(number, |other, _| other != at);
            }
            8 if model.here[at] => {
                sockets[at].to(name).emit("n", number);
                model.emit(number, |other, rooms| other != at && rooms[room]);
            }
            9 => {
                sockets[at].emit("n", number);
                model.emit(number, |other, _| other == at);
            }
            10 => {
                sockets[at].join(name);
                model.rooms[at][room] = true;
            }
            11 => {
                sockets[at].leave(name);
                model.rooms[at][room] = false;
            }
            12 if chance.below(4) == 0 => {
                sockets[at].disconnect();
                model.here[at] = false;
            }
            _ => tokio::task::yield_now().await,
        }
    }
    io.emit("end", ());
    for (at, client) in crowd.clients.iter_mut().enumerate() {
        assert_eq!(
            numbers(client).await,
            model.sent[at],
            "seed {seed}, client {at}"
        );
    }
}

#[tokio::test]
async fn random_broadcasts_arrive_as_if_they_were_instant() {
    for seed in 1..=4 {
        random_actions(None, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_broadcasts_arrive_as_if_they_were_instant_with_two_threads() {
    for seed in 11..=14 {
        random_actions(None, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_broadcasts_arrive_as_if_they_were_instant_with_recovery() {
    for seed in 21..=23 {
        let recovery = Recovery::within(Duration::from_secs(60));
        random_actions(Some(recovery), seed).await;
    }
}

/// Several tasks broadcast. The events of each task arrive once and in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_sender_keeps_its_order() {
    let mut crowd = crowd(Namespace::new(), None).await;
    let senders: Vec<_> = (0..3)
        .map(|sender| {
            let (io, socket) = (crowd.io.clone(), crowd.sockets[sender].clone());
            tokio::spawn(async move {
                for number in 0..60 {
                    io.emit("n", 1000 * sender as u32 + number);
                    if number % 7 == 0 {
                        socket.emit("n", 1000 * sender as u32 + 500 + number);
                        tokio::task::yield_now().await;
                    }
                }
            })
        })
        .collect();
    for sender in senders {
        sender.await.expect("no panic");
    }
    crowd.io.emit("end", ());
    for (at, client) in crowd.clients.iter_mut().enumerate() {
        let got = numbers(client).await;
        for sender in 0..3 {
            let from = got.iter().filter(|number| **number / 1000 == sender);
            let got: Vec<_> = from.map(|number| number % 1000).collect();
            let own =
                |number: u32| (number % 7 == 0 && at == sender as usize).then_some(500 + number);
            let sent = (0..60).flat_map(|number| [Some(number), own(number)]);
            assert_eq!(
                got,
                sent.flatten().collect::<Vec<_>>(),
                "sender {sender} to {at}"
            );
        }
    }
}

#[tokio::test]
async fn an_acknowledgement_comes_after_the_broadcast_of_its_handler() {
    let namespace = Namespace::new().on("tell", async |io: SocketIo, Data(number): Data<u32>| {
        io.emit("told", number);
        number
    });
    let mut crowd = crowd(namespace, None).await;
    let client = &mut crowd.clients[MANY - 1];
    let answer = client.emit_with_ack::<u32>("tell", 7);
    assert_eq!(answer.await.expect("an answer"), 7);
    // The broadcast has arrived already.
    let told = futures_util::FutureExt::now_or_never(client.recv());
    assert_eq!(told.flatten().expect("an event").data::<u32>(), 7);
}

#[tokio::test]
async fn a_disconnected_socket_gets_earlier_broadcasts() {
    let mut crowd = crowd(Namespace::new(), None).await;
    crowd.io.emit("n", 1);
    crowd.io.of("/").disconnect();
    for client in &mut crowd.clients {
        assert_eq!(numbers(client).await, [1]);
        assert_eq!(client.disconnected().await, Disconnect::ByServer);
    }
}

#[tokio::test]
async fn earlier_broadcasts_arrive_before_the_server_closes() {
    let mut crowd = crowd(Namespace::new(), None).await;
    crowd.io.emit("n", 1);
    crowd.io.close().await;
    for client in &mut crowd.clients {
        assert_eq!(numbers(client).await, [1]);
    }
}

#[tokio::test]
async fn a_socket_is_drained_when_it_has_the_broadcast() {
    let mut crowd = crowd(Namespace::new(), None).await;
    crowd.io.emit("n", 1);
    let last = &crowd.sockets[MANY - 1];
    assert!(futures_util::FutureExt::now_or_never(last.drained()).is_none());
    last.drained().await;
    crowd.io.emit("end", ());
    assert_eq!(numbers(&mut crowd.clients[MANY - 1]).await, [1]);
}

#[tokio::test]
async fn a_volatile_broadcast_is_dropped_for_clients_that_are_not_ready() {
    let mut crowd = crowd(Namespace::new(), None).await;
    crowd.io.emit("n", 1);
    crowd.io.of("/").volatile().emit("n", 2);
    for socket in &crowd.sockets {
        socket.drained().await;
    }
    tokio::task::yield_now().await;
    crowd.io.of("/").volatile().emit("n", 3);
    crowd.io.of("/").volatile().emit("n", 4);
    crowd.io.emit("end", ());
    for client in &mut crowd.clients {
        assert_eq!(numbers(client).await, [1, 3]);
    }
}

#[tokio::test]
async fn a_full_broadcast_queue_makes_the_broadcaster_deliver() {
    let mut crowd = crowd(Namespace::new(), None).await;
    let text = "x".repeat(64 * 1024);
    // This is three times the limit of the broadcast queue, and less than `max_buffered`.
    for number in 0..48 {
        crowd.io.emit("n", Args((number, &text)));
    }
    crowd.io.emit("end", ());
    for client in &mut crowd.clients {
        assert!(numbers(client).await.into_iter().eq(0..48));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_thread_without_a_runtime_broadcasts_too() {
    let mut crowd = crowd(Namespace::new(), None).await;
    let (io, last) = (crowd.io.clone(), crowd.sockets[MANY - 1].clone());
    let sender = std::thread::spawn(move || {
        io.emit("n", 1);
        last.emit("n", 2);
        io.emit("n", 3);
        io.emit("end", ());
    });
    for client in &mut crowd.clients[..MANY - 1] {
        assert_eq!(numbers(client).await, [1, 3]);
    }
    assert_eq!(numbers(&mut crowd.clients[MANY - 1]).await, [1, 2, 3]);
    sender.join().expect("no panic");
}

#[tokio::test]
async fn the_broadcasts_of_a_handler_are_delivered_before_a_violation_closes() {
    let tell = async |io: SocketIo| io.emit("told", 1);
    let (app, _io) = main_app(Namespace::new().on("tell", tell));
    let mut crowd = polling(&app).await;
    crowd[0].send("42[\"tell\"]\x1e4x").await;
    assert_eq!(crowd[0].next().await, r#"42["told",1]"#);
}

/// What is sent to a socket alone comes after the broadcasts that are queued for it.
#[tokio::test]
async fn the_exceptions_of_a_queued_broadcast_do_not_get_it() {
    let mut crowd = crowd(Namespace::new(), None).await;
    let mut all_others = crowd.io.of("/").except("nobody");
    for socket in &crowd.sockets[..10] {
        all_others = all_others.except(socket.id());
    }
    all_others.emit("n", 1);
    for socket in &crowd.sockets {
        socket.emit("n", 2);
    }
    crowd.io.emit("end", ());
    for (at, client) in crowd.clients.iter_mut().enumerate() {
        let expected: &[u32] = if at < 10 { &[2] } else { &[1, 2] };
        assert_eq!(numbers(client).await, expected);
    }
}

#[tokio::test]
async fn a_volatile_broadcast_of_a_connect_handler_skips_its_own_socket() {
    let connect = async |io: SocketIo| io.of("/").volatile().emit("hint", 1);
    let (app, io) = main_app(Namespace::new().on_connect(connect));
    let _crowd = polling(&app).await;
    let mut client = Polling::connect(&app).await;
    io.emit("end", ());
    assert_eq!(client.next().await, r#"42["end"]"#);
}

#[tokio::test]
async fn a_restored_socket_misses_no_event_behind_a_queued_broadcast() {
    let namespace = Namespace::new();
    let (layer, io) = support::builder(namespace)
        .recovery(Recovery::within(Duration::from_secs(120)))
        .build();
    let app = support::app(layer);
    let _crowd = polling(&app).await;
    let mut client = Polling::open(&app).await;
    let welcome: Value = serde_json::from_str(&client.ask("40").await[2..]).expect("JSON");
    io.emit("n", 1);
    io.to(welcome["sid"].as_str().expect("an id")).emit("n", 2);
    let first: Value = serde_json::from_str(&client.next().await[2..]).expect("JSON");
    assert_eq!(first[1], 1);
    // The second event is lost with the connection.
    client.post("1").await;
    until(|| io.counts().sockets == MANY).await;
    let mut client = Polling::open(&app).await;
    let claim = json!({ "pid": welcome["pid"], "offset": first[2] });
    client.ask(&format!("40{claim}")).await;
    let missed = client.next().await;
    assert!(missed.starts_with(r#"42["n",2"#), "{missed}");
}

/// Connects more polling clients than one chunk.
async fn polling(app: &Router) -> Vec<Polling> {
    let mut crowd = Vec::new();
    for _ in 0..MANY {
        crowd.push(Polling::connect(app).await);
    }
    crowd
}

/// The sender blocks its thread after the broadcast. Another thread delivers the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broadcaster_that_blocks_its_thread_delays_no_delivery() {
    let mut crowd = crowd(Namespace::new(), None).await;
    let (got, gets) = mpsc::channel();
    let io = crowd.io.clone();
    let sender = tokio::spawn(async move {
        io.emit("n", 1);
        io.emit("end", ());
        gets.recv_timeout(PATIENCE)
    });
    assert_eq!(numbers(&mut crowd.clients[MANY - 1]).await, [1]);
    got.send(()).expect("it waits");
    sender
        .await
        .expect("no panic")
        .expect("it was sent in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_runtime_that_is_not_driven_delays_no_delivery() {
    let mut crowd = crowd(Namespace::new(), None).await;
    let io = crowd.io.clone();
    let (ends, end) = mpsc::channel::<()>();
    let sender = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.expect("a runtime");
        runtime.block_on(async {
            io.emit("n", 1);
            io.emit("end", ());
        });
        // The runtime stays alive, and no thread drives it.
        let _ = end.recv();
    });
    for client in &mut crowd.clients {
        assert_eq!(numbers(client).await, [1]);
    }
    drop(ends);
    sender.join().expect("no panic");
}

#[tokio::test]
async fn one_fanout_task_serves_the_broadcast_queue() {
    let crowd = crowd(Namespace::new(), None).await;
    let all = crowd.io.of("/").volatile();
    let large = "x".repeat(2 * 1024 * 1024);
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    for _ in 0..20 {
        all.emit("small", ());
        all.emit("large", &large);
    }
    // At most two fan-out tasks are alive, and the second one ends at once.
    assert!(metrics.num_alive_tasks() <= before + 2);
}

/// Each destructor runs on its own, although the broadcast drops the last references to both.
#[tokio::test]
async fn destructors_that_panic_run_one_by_one() {
    #[derive(Clone)]
    struct Careless(Arc<Mutex<u32>>);

    impl Drop for Careless {
        fn drop(&mut self) {
            *self.0.lock().expect("no panic under it") += 1;
            panic!("a destructor");
        }
    }

    let dropped = Arc::new(Mutex::new(0));
    let value = Arc::clone(&dropped);
    let connect = move |socket: Socket| {
        let value = Arc::clone(&value);
        async move {
            socket.insert(Arc::new(Careless(value)));
        }
    };
    let (app, io) = main_app(Namespace::new().on_connect(connect));
    let crowd = polling(&app).await;
    io.emit("n", 1);
    for client in &crowd[..2] {
        client.post("1").await;
    }
    until(|| *dropped.lock().expect("no panic under it") == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_end_of_the_broadcasters_runtime_loses_nothing() {
    let mut crowd = crowd(Namespace::new(), None).await;
    let io = crowd.io.clone();
    let (sends, sent) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("a runtime").block_on(async {
            io.emit("n", 1);
            io.emit("end", ());
        });
        sends.send(()).expect("somebody waits");
    });
    tokio::task::spawn_blocking(move || sent.recv())
        .await
        .expect("no panic")
        .expect("it is sent");
    for client in &mut crowd.clients {
        assert_eq!(numbers(client).await, [1]);
    }
}
