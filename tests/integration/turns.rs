//! A client that causes much work does not block the tasks of other clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use tower_socketio::cluster::Memory;
use tower_socketio::{Namespace, RawArgs, Socket, SocketIo};

use crate::support::{Polling, app, main_app, until, within};

/// Counts the turns of another task on the same thread, and the maximum of the work between two
/// turns.
#[derive(Default)]
struct Bystander {
    turns: AtomicUsize,
    most: AtomicUsize,
}

impl Bystander {
    /// Spawns a task that watches a counter until the runtime ends.
    fn watch(done: &Arc<AtomicUsize>) -> Arc<Self> {
        let bystander = Arc::new(Self::default());
        let (own, done) = (Arc::clone(&bystander), Arc::clone(done));
        tokio::spawn(async move {
            loop {
                let before = done.load(Ordering::Relaxed);
                tokio::task::yield_now().await;
                let more = done.load(Ordering::Relaxed) - before;
                own.most.fetch_max(more, Ordering::Relaxed);
                own.turns.fetch_add(1, Ordering::Relaxed);
            }
        });
        bystander
    }

    /// Returns the maximum of the work between two turns so far.
    async fn most(&self) -> usize {
        let turns = self.turns.load(Ordering::Relaxed);
        until(|| self.turns.load(Ordering::Relaxed) > turns + 1).await;
        self.most.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn slow_handlers_of_one_client_take_turns_with_other_tasks() {
    let done = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&done);
    let slow = async move || {
        // The sleep blocks the thread, like a handler that computes.
        std::thread::sleep(Duration::from_millis(1));
        counted.fetch_add(1, Ordering::Relaxed);
    };
    let (app, _io) = main_app(Namespace::new().on("slow", slow));
    let mut client = Polling::connect(&app).await;
    let bystander = Bystander::watch(&done);
    client.send(&[r#"42["slow"]"#; 200].join("\x1e")).await;
    until(|| done.load(Ordering::Relaxed) == 200).await;
    let most = bystander.most().await;
    assert!(most <= 16, "{most} handlers in a row");
}

/// The clock stands still, so no turn ends because of its duration.
#[tokio::test(start_paused = true)]
async fn a_client_that_broadcasts_waits_until_its_broadcasts_are_delivered() {
    const CLIENTS: usize = 300;
    let done = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&done);
    let all = async move |io: SocketIo| {
        io.emit("text", 1);
        counted.fetch_add(1, Ordering::Relaxed);
    };
    let (app, io) = main_app(Namespace::new().on("all", all));
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Polling::connect(&app).await);
    }
    let bystander = Bystander::watch(&done);
    clients[0].send(&[r#"42["all"]"#; 2_000].join("\x1e")).await;
    until(|| done.load(Ordering::Relaxed) == 2_000).await;
    let most = bystander.most().await;
    // At most 65 536 deliveries are under way, and a few tasks run before the bystander.
    assert!(most <= 1_000, "{most} broadcasts in a row");
    // No broadcast is lost.
    io.emit("end", ());
    let mut packets = 0;
    while clients[1].next().await != r#"42["end"]"# {
        packets += 1;
    }
    assert_eq!(packets, 2_000);
}

/// Those that wait are woken a few at a time, and the queue may be behind again before the second one
/// of them runs.
#[tokio::test(start_paused = true)]
async fn each_of_several_clients_that_broadcast_goes_on_at_once() {
    const CLIENTS: usize = 300;
    const BROADCASTERS: usize = 6;
    let done = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&done);
    let all = async move |io: SocketIo| {
        io.emit("text", 1);
        counted.fetch_add(1, Ordering::Relaxed);
    };
    let (app, _io) = main_app(Namespace::new().on("all", all));
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Polling::connect(&app).await);
    }
    let begin = tokio::time::Instant::now();
    for client in &mut clients[..BROADCASTERS] {
        client.send(&[r#"42["all"]"#; 1_000].join("\x1e")).await;
    }
    until(|| done.load(Ordering::Relaxed) == BROADCASTERS * 1_000).await;
    // The next ping wakes each session, 25 seconds later.
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );
}

#[tokio::test]
async fn messages_of_other_servers_take_turns_with_other_tasks() {
    let done = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&done);
    let slow = move |_: &Socket, _: &str, _: &RawArgs| {
        std::thread::sleep(Duration::from_millis(1));
        counted.fetch_add(1, Ordering::Relaxed);
    };
    let broker = Memory::new();
    let server = |namespace| {
        let builder = SocketIo::builder().namespace("/", namespace);
        builder.cluster(broker.clone()).build()
    };
    let (layer, here) = server(Namespace::new().on_outgoing(slow));
    let (_layer, there) = server(Namespace::new());
    let _client = Polling::connect(&app(layer)).await;
    there.of("/").emit("text", 0);
    until(|| done.load(Ordering::Relaxed) == 1).await;
    let bystander = Bystander::watch(&done);
    for n in 0..200 {
        there.of("/").emit("text", n);
    }
    until(|| done.load(Ordering::Relaxed) == 201).await;
    let most = bystander.most().await;
    assert!(most <= 8, "{most} messages in a row");
    drop(here);
}

#[tokio::test]
async fn a_body_of_many_small_packets_takes_turns_with_other_tasks() {
    let (app, _io) = main_app(Namespace::new());
    let client = Polling::connect(&app).await;
    let bystander = Bystander::watch(&Arc::default());
    tokio::task::yield_now().await;
    let before = bystander.turns.load(Ordering::Relaxed);
    let response = within(client.post(["6"; 100_000].join("\x1e"))).await;
    assert_eq!(response.status(), StatusCode::OK);
    let turns = bystander.turns.load(Ordering::Relaxed) - before;
    assert!(turns >= 90, "{turns} turns of another task");
}
