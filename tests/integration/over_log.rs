//! Recovery in a cluster whose broker has a log: clients come back to any server.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use serde_json::{Value, json};
use tokio::sync::watch;
use tower_socketio::cluster::{
    BoxFuture, Broker, Command, Done, Envelope, Inbox, Memory, Offset, Port, SavedSocket,
};
use tower_socketio::{Args, Data, DisconnectReason, Namespace, Recovery, Socket, SocketIo};

use crate::recovery::{Seat, back, connect, events_back, lose, packets_back};
use crate::support::{Client, Polling, app, builder, serve, until, within};

const WITHIN: Duration = Duration::from_secs(120);

fn server(broker: impl Broker) -> (Router, SocketIo) {
    server_with(broker, Recovery::within(WITHIN))
}

fn server_with(broker: impl Broker, recovery: Recovery) -> (Router, SocketIo) {
    let namespace = Namespace::new()
        .on_connect(async |socket: Socket| {
            if !socket.recovered() {
                socket.join("everyone");
                // It can always be stored.
                let _ = socket.set_data(json!({ "n": 1 }));
            }
        })
        .on("join", async |socket: Socket, Data(room): Data<String>| {
            socket.join(room)
        })
        .on("leave", async |socket: Socket, Data(room): Data<String>| {
            socket.leave(room)
        })
        .on("emit", async |socket: Socket, Data(name): Data<String>| {
            socket.emit(&name, 1);
            "emitted"
        });
    let builder = builder(namespace).recovery(recovery).cluster(broker);
    let (layer, io) = builder.build();
    (app(layer), io)
}

async fn connected(io: &SocketIo) {
    let is_connected = || {
        io.cluster()
            .is_some_and(|health| health.status().is_connected)
    };
    until(is_connected).await;
}

async fn two() -> [(Router, SocketIo); 2] {
    let memory = Memory::with_log();
    let servers = [server(memory.clone()), server(memory)];
    for (_, io) in &servers {
        connected(io).await;
        while io.server_count().await != Ok(2) {
            tokio::task::yield_now().await;
        }
    }
    servers
}

fn socket(io: &SocketIo, seat: &Seat) -> Socket {
    let mut sockets = io.sockets().into_iter();
    let found = sockets.find(|socket| socket.id().as_str() == seat.sid);
    found.expect("it is connected")
}

fn names(events: &[String]) -> Vec<String> {
    let name = |event: &String| {
        let event: Vec<Value> = serde_json::from_str(event).expect("JSON");
        event[0].as_str().expect("a name").to_owned()
    };
    events.iter().map(name).collect()
}

#[tokio::test]
async fn a_client_comes_back_to_another_server() {
    let [(app_a, a), (app_b, b)] = two().await;
    let (mut client, mut seat) = connect(&app_a).await;
    socket(&a, &seat).join("room");
    a.to("room").emit("one", 1);
    b.to("room").emit("two", 1);
    let got = [client.next().await, client.next().await];
    let got = got.map(|packet| seat.event(&packet));
    assert_eq!(got, [r#"["one",1]"#, r#"["two",1]"#]);

    let before = seat.clone();
    lose(client, &a).await;
    a.to("room").emit("three", 1);
    b.to("room").emit("four", 1);
    a.to("other").emit("not for it", 1);
    b.to(&seat.sid).emit("five", 1);
    a.of("/").volatile().emit("volatile", 1);
    let (mut client, missed) = events_back(&app_b, &mut seat).await;
    // The two servers may emit at the same time, but each in its order.
    let mut missed = names(&missed);
    missed.sort();
    assert_eq!(missed, ["five", "four", "three"]);
    assert_eq!((&seat.sid, &seat.pid), (&before.sid, &before.pid));
    let restored = socket(&b, &seat);
    assert!(restored.recovered());
    assert_eq!(restored.data::<Value>(), Some(json!({ "n": 1 })));
    assert_eq!(restored.rooms(), ["everyone", "room"]);
    assert_eq!((a.counts().sockets, b.counts().sockets), (0, 1));

    a.to("room").emit("live", 1);
    assert_eq!(seat.event(&client.next().await), r#"["live",1]"#);
    let status = b.cluster().expect("a cluster").status();
    assert_eq!((status.restored, status.not_restored), (1, 0));
    // And back.
    lose(client, &b).await;
    b.to("everyone").emit("again", 1);
    let (_client, missed) = events_back(&app_a, &mut seat).await;
    assert_eq!(names(&missed), ["again"]);
}

#[tokio::test]
async fn a_client_that_has_received_nothing_comes_back() {
    let [(app_a, a), (app_b, b)] = two().await;
    let (mut other, mut seat) = connect(&app_a).await;
    b.emit("before", 1);
    seat.event(&other.next().await);
    let (client, mut seat) = connect(&app_a).await;
    assert_eq!(seat.offset, None);
    lose(client, &a).await;
    b.emit("missed", 1);
    let (_client, missed) = events_back(&app_b, &mut seat).await;
    assert_eq!(names(&missed), ["missed"]);
}

#[tokio::test]
async fn what_is_done_to_a_socket_that_is_away_is_done() {
    let [(app_a, a), (app_b, b)] = two().await;
    let (client, mut seat) = connect(&app_a).await;
    lose(client, &a).await;
    b.to("everyone").join("joined");
    b.to("joined").emit("one", 1);
    b.to("joined").leave("everyone");
    b.to("everyone").emit("not for it", 1);
    let (client, missed) = events_back(&app_b, &mut seat).await;
    assert_eq!(names(&missed), ["one"]);
    assert_eq!(socket(&b, &seat).rooms(), ["joined"]);

    lose(client, &b).await;
    a.to("joined").disconnect();
    let (_client, missed, recovered) = packets_back(&app_a, &mut seat).await;
    assert!(missed.is_empty() && !recovered);
}

#[tokio::test]
async fn one_client_at_a_time_gets_a_saved_socket() {
    let [(app_a, a), (app_b, _b)] = two().await;
    let (client, seat) = connect(&app_a).await;
    lose(client, &a).await;
    let claims = [app_a.clone(), app_b.clone(), app_a, app_b].map(|app| {
        let (pid, claim) = (seat.pid.clone(), seat.claim());
        async move {
            let client = Polling::open(&app).await;
            client.send_and_forget(&claim).await;
            // A later claim takes the socket over, and ends the connection of the former.
            let packet = client.get().await;
            (
                packet.status().is_success() && packet.body().contains(&pid),
                client,
            )
        }
    });
    let claims = futures_util::future::join_all(claims).await;
    assert!(claims.iter().any(|(recovered, _)| *recovered));
    let owners = async || {
        let sockets = a.fetch_sockets().await.expect("two servers");
        let of_seat = sockets.iter().filter(|each| each.id().as_str() == seat.sid);
        of_seat.count()
    };
    assert!(owners().await <= 1);
}

#[tokio::test]
async fn a_server_lets_go_a_client_that_has_come_back_elsewhere() {
    let [(app_a, a), (app_b, b)] = two().await;
    // Its connection is not closed.
    let (mut former, mut seat) = connect(&app_a).await;
    a.emit("one", 1);
    seat.event(&former.next().await);
    let (mut client, missed) = events_back(&app_b, &mut seat).await;
    assert!(missed.is_empty());
    until(|| a.counts().sockets == 0).await;
    a.to(&seat.sid).emit("two", 1);
    assert_eq!(seat.event(&client.next().await), r#"["two",1]"#);
    assert_eq!(b.cluster().expect("a cluster").status().handed_over, 1);
}

#[tokio::test]
async fn the_sockets_of_a_server_that_closes_are_saved() {
    let [(app_a, a), (app_b, b)] = two().await;
    let (client, mut seat) = connect(&app_a).await;
    let poll = client.poll();
    a.close().await;
    drop(poll);
    b.emit("missed", 1);
    let (_client, missed) = events_back(&app_b, &mut seat).await;
    assert_eq!(names(&missed), ["missed"]);
}

#[tokio::test]
async fn the_sockets_of_a_server_that_shuts_down_are_saved() {
    let [(app_a, a), (app_b, b)] = two().await;
    let (client, mut seat) = connect(&app_a).await;
    let poll = client.poll();
    let report = a.shutdown().await;
    assert_eq!(report.closed, 1);
    assert_eq!(poll.await.expect("no panic").body(), "1");
    b.emit("missed", 1);
    let (_client, missed) = events_back(&app_b, &mut seat).await;
    assert_eq!(names(&missed), ["missed"]);
    // The server has left the cluster.
    assert_eq!(b.server_count().await, Ok(1));
}

#[tokio::test]
async fn the_sockets_that_a_shutdown_cuts_are_saved() {
    let memory = Memory::with_log();
    let recovery = Recovery::within(WITHIN);
    let wait = Namespace::new().on("wait", std::future::pending::<()>);
    let (layer, a) = builder(wait)
        .recovery(recovery)
        .cluster(memory.clone())
        .build();
    let app_a = app(layer);
    let (app_b, b) = server(memory);
    connected(&a).await;
    connected(&b).await;
    let (mut client, mut seat) = connect(&app_a).await;
    client.send(r#"42["wait"]"#).await;
    let report = a.shutdown().deadline(Duration::from_millis(100)).await;
    assert_eq!((report.cut, report.handlers_cut), (1, 1));
    b.emit("missed", 1);
    let (_client, missed) = events_back(&app_b, &mut seat).await;
    assert_eq!(names(&missed), ["missed"]);
}

#[tokio::test]
async fn the_sockets_of_a_server_that_crashes_are_saved_early() {
    let memory = Memory::with_log();
    let early = || Recovery::within(WITHIN).save_early(true);
    let (app_a, a) = server_with(memory.clone(), early());
    let (app_b, b) = server_with(memory, early());
    let (mut client, mut seat) = connect(&app_a).await;
    client.ask(r#"421["join","room"]"#).await;
    let saved = a.cluster().expect("a cluster").status().saved;
    until(|| a.cluster().expect("a cluster").status().saved > saved).await;
    // Nothing of the first server says that the client has gone.
    b.to("room").emit("missed", 1);
    seat.event(&client.next().await);
    let (_client, _) = events_back(&app_b, &mut seat).await;
    assert_eq!(socket(&b, &seat).rooms(), ["everyone", "room"]);
    until(|| a.counts().sockets == 0).await;

    // A client that leaves cannot come back.
    let (mut client, mut seat) = connect(&app_a).await;
    until(|| a.cluster().expect("a cluster").status().saved > saved + 1).await;
    client.send("41").await;
    until(|| a.counts().sockets == 0).await;
    let (_client, recovered) = back(&app_b, &mut seat).await;
    assert!(!recovered);
}

#[tokio::test]
async fn a_socket_that_leaves_while_the_broker_is_lost_is_not_restored_from_its_early_copy() {
    let (held, app, io) = held_with(Recovery::within(WITHIN).save_early(true)).await;
    let (client, mut left) = connect(&app).await;
    let (mut other, mut lost) = connect(&app).await;
    until(|| held.state(|state| state.saved.len()) == 2).await;
    held.stop();
    until(|| !io.cluster().expect("a cluster").status().is_connected).await;
    // One leaves, and the other one is sent an event without an offset.
    socket(&io, &left).disconnect();
    until(|| io.counts().sockets == 1).await;
    io.emit("x", 1);
    assert_eq!(other.next().await, r#"42["x",1]"#);
    lose(other, &io).await;
    // The next attempt to connect fails too.
    held.disconnect();
    held.start();
    connected(&io).await;
    held.waits_for(1).await;
    held.pass(1).await;
    drop(client);
    let (_client, left_missed, is_left_recovered) = comes_back(&held, &app, &mut left).await;
    // It has received the event, so it must not get it a second time.
    let (_other, missed, is_recovered) = comes_back(&held, &app, &mut lost).await;
    let got = (left_missed, missed, is_left_recovered, is_recovered);
    assert_eq!(got, (vec![], vec![], false, false));
}

#[tokio::test]
async fn a_socket_that_its_server_cannot_save_is_not_restored_from_its_early_copy() {
    let early = Recovery::within(WITHIN).save_early(true);
    let (held, app_a, a) = held_with(early).await;
    let (app_b, b) = server_with(held.clone(), early);
    connected(&b).await;
    let (mut client, mut seat) = connect(&app_a).await;
    until(|| held.state(|state| state.saved.len()) == 1).await;
    a.emit("x", 1);
    // After a second or two, without an offset: it comes into the log later.
    assert_eq!(client.next().await, r#"42["x",1]"#);
    let (_client, recovered) = back(&app_b, &mut seat).await;
    assert!(!recovered);
    assert_eq!(a.counts().sockets, 0);
}

/// A log that a test holds up.
#[derive(Clone, Debug, Default)]
struct Held(Arc<Mutex<HeldState>>, watch::Sender<bool>);

#[derive(Debug, Default)]
struct HeldState {
    waiting: VecDeque<(Envelope, Done)>,
    saved: HashMap<Box<str>, SavedSocket>,
    gaps: usize,
    /// With the ids of their servers.
    inboxes: Vec<(String, Inbox)>,
    last: u64,
}

impl Broker for Held {
    fn has_log(&self) -> bool {
        true
    }

    fn run(self: Arc<Self>, mut port: Port) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            assert_eq!(port.log_window(), Some(WITHIN));
            let inbox = port.inbox();
            inbox.begin_log(Offset::new(1, 0));
            self.state(|state| {
                state.last = 1;
                let me = port.server_id().to_owned();
                state.inboxes.push((me, inbox.clone()));
            });
            inbox.connected();
            let mut is_stopped = self.1.subscribe();
            loop {
                let command = tokio::select! {
                    biased;
                    () = becomes(&mut is_stopped, true) => {
                        inbox.disconnected(&"stopped");
                        becomes(&mut is_stopped, false).await;
                        inbox.connected();
                        continue;
                    }
                    command = port.next() => command,
                };
                let Some(command) = command else { return };
                let inboxes = self.state(|state| state.inboxes.clone());
                match &command {
                    Command::Ask { envelope, .. } => {
                        for (_, inbox) in &inboxes {
                            inbox.deliver(envelope.clone()).await;
                        }
                    }
                    Command::Answer { to, envelope } => {
                        for (_, inbox) in inboxes.iter().filter(|(id, _)| **id == **to) {
                            inbox.deliver(envelope.clone()).await;
                        }
                    }
                    _ => {}
                }
                self.state(|state| match command {
                    Command::Publish { envelope, done } => {
                        state.waiting.push_back((envelope, done));
                    }
                    Command::Save { socket, .. } => {
                        state.saved.insert(socket.key().into(), socket);
                    }
                    Command::Take { key, taken } => {
                        if let Some(socket) = state.saved.remove(&key) {
                            taken.found(socket);
                        }
                    }
                    Command::Gap { done, .. } => {
                        state.gaps += 1;
                        done.published();
                    }
                    Command::Ask { expect, .. } | Command::Count { expect, .. } => {
                        expect.servers(inboxes.len());
                    }
                    Command::Sync { synced } => synced.done(),
                    _ => {}
                });
            }
        })
    }
}

async fn becomes(receiver: &mut watch::Receiver<bool>, value: bool) {
    let changed = receiver.wait_for(|now| *now == value).await;
    changed.expect("the sender lives as long as the broker");
}

impl Held {
    fn state<R>(&self, read: impl FnOnce(&mut HeldState) -> R) -> R {
        read(&mut self.0.lock().expect("no panic"))
    }

    /// Loses the connection. No command is taken until [`start`](Self::start).
    fn stop(&self) {
        self.1.send_replace(true);
    }

    fn start(&self) {
        self.1.send_replace(false);
    }

    /// Reports that the broker could not connect.
    fn disconnect(&self) {
        for (_, inbox) in self.state(|state| state.inboxes.clone()) {
            inbox.disconnected(&"stopped");
        }
    }

    /// Waits until this many messages wait.
    async fn waits_for(&self, count: usize) {
        until(|| self.state(|state| state.waiting.len()) == count).await;
    }

    fn next(&self) -> (Envelope, Done, Vec<(String, Inbox)>, Offset) {
        let waiting = self.state(|state| state.waiting.pop_front());
        let (envelope, done) = waiting.expect("one waits");
        let inboxes = self.state(|state| state.inboxes.clone());
        let (_, at) = self.step();
        (envelope, done, inboxes, at)
    }

    /// Lets the next messages come back.
    async fn pass(&self, count: usize) {
        for _ in 0..count {
            let (envelope, done, inboxes, at) = self.next();
            let (namespace, number) = (envelope.namespace(), envelope.number());
            for (id, inbox) in inboxes {
                if id == envelope.sender() {
                    inbox.returned(namespace, number, at).await;
                } else {
                    inbox.deliver_at(envelope.clone(), at).await;
                }
            }
            done.published();
        }
    }

    /// Takes the next place in the log, for the first server.
    fn step(&self) -> (Inbox, Offset) {
        self.state(|state| {
            state.last += 1;
            let (_, inbox) = state.inboxes.first().expect("it runs");
            (inbox.clone(), Offset::new(state.last, 0))
        })
    }

    /// Delivers what waits without offsets: the connection to the log is lost, and made anew.
    fn release(&self) {
        for (_, inbox) in self.state(|state| state.inboxes.clone()) {
            inbox.disconnected(&"the test");
            inbox.connected();
        }
    }

    /// Lets the servers of a cluster read a mark in the log: messages are missing.
    fn gap(servers: [&Self; 2]) {
        for server in servers {
            let (inbox, at) = server.step();
            inbox.begin_log(at);
        }
    }

    /// Lets the next message come back, and another server of the cluster read it.
    async fn pass_to(&self, other: &Self) {
        let envelope =
            self.state(|state| state.waiting.front().map(|(envelope, _)| envelope.clone()));
        self.pass(1).await;
        let (inbox, at) = other.step();
        inbox.deliver_at(envelope.expect("one waits"), at).await;
    }

    /// Passes the saved sockets to another server of the cluster.
    fn move_saved(&self, to: &Self) {
        let saved = self.state(|state| std::mem::take(&mut state.saved));
        to.state(|state| state.saved.extend(saved));
    }
}

async fn held() -> (Held, Router, SocketIo) {
    held_with(Recovery::within(WITHIN)).await
}

async fn held_with(recovery: Recovery) -> (Held, Router, SocketIo) {
    let held = Held::default();
    let (app, io) = server_with(held.clone(), recovery);
    connected(&io).await;
    (held, app, io)
}

/// Connects a client. The message of a restored one passes the log.
async fn comes_back(held: &Held, app: &Router, seat: &mut Seat) -> (Polling, Vec<String>, bool) {
    let came = packets_back(app, seat).await;
    if came.2 {
        held.waits_for(1).await;
        held.pass(1).await;
    }
    came
}

#[tokio::test]
async fn an_event_is_delivered_when_it_comes_back_and_acknowledgements_are_behind_it() {
    let (held, app, io) = held().await;
    let (mut client, mut seat) = connect(&app).await;
    let (mut other, _) = connect(&app).await;
    client.send(r#"421["emit","news"]"#).await;
    held.waits_for(1).await;
    // Packets for other clients do not wait.
    assert_eq!(other.ask(r#"422["leave","x"]"#).await, "432[]");
    assert!(client.buffered().next().is_none());
    held.pass(1).await;
    assert_eq!(seat.event(&client.next().await), r#"["news",1]"#);
    assert_eq!(client.next().await, r#"431["emitted"]"#);
    assert_eq!(seat.offset.as_deref(), Some("2-0"));
    drop(io);
}

#[tokio::test]
async fn an_event_is_for_the_sockets_that_were_in_its_room_when_it_was_emitted() {
    let (held, app, io) = held().await;
    let (mut leaves, mut seat) = connect(&app).await;
    let (mut joins, seat_joins) = connect(&app).await;
    let (lost, mut seat_lost) = connect(&app).await;
    socket(&io, &seat).join("room");
    socket(&io, &seat_lost).join("room");
    io.to("room").emit("first", 1);
    io.emit("second", 1);
    held.waits_for(2).await;
    socket(&io, &seat).leave("room");
    socket(&io, &seat_joins).join("room");
    let (mut late, _) = connect(&app).await;
    lose(lost, &io).await;
    held.pass(2).await;
    assert_eq!(seat.event(&leaves.next().await), r#"["first",1]"#);
    assert_eq!(seat.event(&leaves.next().await), r#"["second",1]"#);
    let mut seat_joins = seat_joins;
    assert_eq!(seat_joins.event(&joins.next().await), r#"["second",1]"#);
    assert_eq!(late.ask(r#"422["leave","x"]"#).await, "432[]");
    let (_lost, missed, recovered) = comes_back(&held, &app, &mut seat_lost).await;
    assert!(recovered);
    let missed: Vec<_> = missed
        .iter()
        .map(|packet| seat_lost.event(packet))
        .collect();
    assert_eq!(names(&missed), ["first", "second"]);

    // The one that joined later did not miss the first, also when it comes back.
    seat_joins.offset = None;
    lose(joins, &io).await;
    let (_joins, missed, recovered) = comes_back(&held, &app, &mut seat_joins).await;
    assert!(recovered);
    let missed: Vec<_> = missed
        .iter()
        .map(|packet| seat_joins.event(packet))
        .collect();
    assert_eq!(names(&missed), ["second"]);
}

#[tokio::test]
async fn a_log_that_does_not_answer_is_not_waited_for_and_nothing_is_missing_in_silence() {
    let (held, app, io) = held().await;
    let (mut client, mut seat) = connect(&app).await;
    io.emit("numbered", 1);
    held.waits_for(1).await;
    held.pass(1).await;
    seat.event(&client.next().await);
    io.emit("late", 1);
    // After a second or two, without an offset.
    assert_eq!(client.next().await, r#"42["late",1]"#);
    let mut lost = seat.clone();
    lose(client, &io).await;
    assert!(!comes_back(&held, &app, &mut lost).await.2);

    // It comes back: a client that is connected is then recoverable again.
    let (mut client, mut seat) = connect(&app).await;
    held.pass(1).await;
    io.emit("next", 1);
    held.waits_for(1).await;
    held.pass(1).await;
    assert_eq!(seat.event(&client.next().await), r#"["next",1]"#);
    lose(client, &io).await;
    let (_client, missed, recovered) = comes_back(&held, &app, &mut seat).await;
    assert!(missed.is_empty() && recovered);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_closes_waits_a_second_for_the_log() {
    let (held, app, io) = held().await;
    let (client, _) = connect(&app).await;
    io.emit("late", 1);
    held.waits_for(1).await;
    let poll = client.poll();
    let begin = tokio::time::Instant::now();
    io.close().await;
    let took = begin.elapsed().as_millis();
    assert!((1_000..1_050).contains(&took), "{took} ms");
    drop(poll);
}

#[tokio::test(start_paused = true)]
async fn too_many_events_that_wait_for_the_log_are_delivered_without_an_offset() {
    let (held, app, io) = held().await;
    let (mut client, seat) = connect(&app).await;
    let begin = tokio::time::Instant::now();
    io.to(&seat.sid).emit("first", 1);
    for _ in 1..10_000 {
        io.to("nobody").emit("n", 1);
    }
    held.waits_for(10_000).await;
    assert!(client.buffered().next().is_none());
    io.to("nobody").emit("n", 1);
    assert_eq!(client.next().await, r#"42["first",1]"#);
    // It did not wait until a time had passed.
    assert!(begin.elapsed() < Duration::from_millis(500));
}

/// A broker of a cluster with another server, which answers nothing.
#[derive(Clone, Debug)]
struct Silent {
    /// Whether the broker itself answers.
    answers: bool,
    asked: Arc<AtomicUsize>,
}

impl Broker for Silent {
    fn has_log(&self) -> bool {
        true
    }

    fn run(self: Arc<Self>, mut port: Port) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            port.inbox().begin_log(Offset::new(1, 0));
            port.inbox().connected();
            let mut waiting = Vec::new();
            while let Some(command) = port.next().await {
                match command {
                    Command::Take { taken, .. } if !self.answers => waiting.push(taken),
                    Command::Ask { expect, .. } => {
                        self.asked.fetch_add(1, Ordering::Relaxed);
                        expect.servers(2);
                    }
                    Command::Count { expect, .. } => expect.servers(2),
                    Command::Sync { synced } => synced.done(),
                    _ => {}
                }
            }
        })
    }
}

/// Claims sockets that no server has, all at the same time. Returns the time until the last client has
/// got a new socket, and the number of questions to the other server.
async fn claim_unknown(clients: usize, answers: bool) -> (Duration, usize) {
    let asked = Arc::default();
    let silent = Silent {
        answers,
        asked: Arc::clone(&asked),
    };
    let (app, io) = server(silent);
    connected(&io).await;
    let begin = tokio::time::Instant::now();
    let clients = (0..clients).map(|n| {
        let app = app.clone();
        async move {
            let mut client = Polling::open(&app).await;
            let pid = format!("{n:0>22}");
            let mut seat = Seat {
                pid,
                ..Seat::default()
            };
            assert!(!seat.welcome(&client.ask(&seat.claim()).await));
            client
        }
    });
    let _clients = futures_util::future::join_all(clients).await;
    (begin.elapsed(), asked.load(Ordering::Relaxed))
}

#[tokio::test(start_paused = true)]
async fn other_servers_are_asked_for_a_claimed_socket_for_a_second() {
    let (took, asked) = claim_unknown(1, true).await;
    assert!((1_000..1_050).contains(&took.as_millis()), "{took:?}");
    assert_eq!(asked, 1);
}

#[tokio::test(start_paused = true)]
async fn other_servers_are_asked_for_64_claimed_sockets_at_a_time() {
    let (took, asked) = claim_unknown(100, true).await;
    // A client for which they are not asked gets a new socket at once.
    assert!((1_000..1_050).contains(&took.as_millis()), "{took:?}");
    assert_eq!(asked, 64);
}

#[tokio::test(start_paused = true)]
async fn a_claimed_socket_is_searched_for_two_seconds() {
    let (took, asked) = claim_unknown(1, false).await;
    assert!((2_000..2_050).contains(&took.as_millis()), "{took:?}");
    assert_eq!(asked, 0);
}

#[tokio::test]
async fn a_socket_is_recoverable_again_when_the_log_has_passed_what_it_was_sent() {
    let (held, app, io) = held().await;
    let (mut client, mut seat) = connect(&app).await;
    io.emit("late", 1);
    assert_eq!(client.next().await, r#"42["late",1]"#);
    held.pass(1).await;
    io.emit("next", 1);
    held.waits_for(1).await;
    held.pass(1).await;
    assert_eq!(seat.event(&client.next().await), r#"["next",1]"#);
    lose(client, &io).await;
    let (_client, missed, recovered) = comes_back(&held, &app, &mut seat).await;
    // The event that came late is before the offset.
    assert!(missed.is_empty() && recovered);
}

#[tokio::test]
async fn a_message_that_is_dropped_is_delivered_here_and_leaves_a_mark() {
    let (held, app, io) = held().await;
    let (mut client, _) = connect(&app).await;
    io.emit("dropped", 1);
    held.waits_for(1).await;
    let (_, done, ..) = held.next();
    done.dropped();
    assert_eq!(client.next().await, r#"42["dropped",1]"#);
    until(|| held.state(|state| state.gaps) == 1).await;
}

#[tokio::test]
async fn what_was_sent_before_a_disconnect_arrives_before_it() {
    let (held, app, io) = held().await;
    let (mut client, seat) = connect(&app).await;
    client.send(r#"421["emit","news"]"#).await;
    held.waits_for(1).await;
    socket(&io, &seat).disconnect();
    assert_eq!(client.next().await, r#"42["news",1]"#);
    assert_eq!(client.next().await, r#"431["emitted"]"#);
    assert_eq!(client.next().await, "41");
    held.pass(1).await;
    assert!(client.buffered().next().is_none());
}

#[tokio::test]
async fn events_for_one_socket_may_stay_out_of_the_log() {
    let held = Held::default();
    let (app, io) = server_with(held.clone(), Recovery::within(WITHIN).direct(false));
    connected(&io).await;
    let (mut client, seat) = connect(&app).await;
    socket(&io, &seat).emit("direct", "text");
    // The last argument is the offset for a client.
    assert_eq!(client.next().await, r#"42["direct","text","1-0"]"#);
    assert_eq!(held.state(|state| state.waiting.len()), 0);
}

#[tokio::test]
async fn a_socket_that_is_lost_again_while_its_handlers_end_keeps_its_data() {
    let memory = Memory::with_log();
    let namespace = Namespace::new()
        .on_connect(async |socket: Socket| {
            if !socket.recovered() {
                socket.set_data("x").expect("JSON");
            }
        })
        .on("hang", std::future::pending::<()>);
    let (layer, a) = builder(namespace)
        .recovery(Recovery::within(WITHIN))
        .cluster(memory.clone())
        .build();
    let app_a = app(layer);
    let (app_b, b) = server(memory);
    connected(&a).await;
    connected(&b).await;
    let (client, mut seat) = connect(&app_a).await;
    client.post(r#"42["hang"]"#).await;
    lose(client, &a).await;
    // Restored on the same server, it waits for the handler.
    let client = Polling::open(&app_a).await;
    client.post(seat.claim()).await;
    until(|| a.counts().sockets == 1).await;
    lose(client, &a).await;
    let (_client, _) = events_back(&app_b, &mut seat).await;
    assert_eq!(socket(&b, &seat).data::<String>().as_deref(), Some("x"));
}

#[tokio::test]
async fn the_disconnect_handler_sees_the_reason_of_a_handover() {
    let memory = Memory::with_log();
    let reasons = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&reasons);
    let namespace = Namespace::new().on_disconnect(async move |reason: DisconnectReason| {
        seen.lock().expect("no panic").push(reason);
    });
    let recovery = Recovery::within(WITHIN);
    let (layer, a) = builder(namespace)
        .recovery(recovery)
        .cluster(memory.clone())
        .build();
    let (app_a, (app_b, _b)) = (app(layer), server(memory));
    let (_former, mut seat) = connect(&app_a).await;
    let (_client, _) = events_back(&app_b, &mut seat).await;
    until(|| a.counts().sockets == 0).await;
    until(|| !reasons.lock().expect("no panic").is_empty()).await;
    let reasons = reasons.lock().expect("no panic");
    assert_eq!(*reasons, [DisconnectReason::TransportClose]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_however_often_the_client_changes_its_server() {
    moves(0).await;
}

/// With more than 128 sockets a broadcast is delivered by the fan-out task.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_beside_many_other_sockets() {
    moves(150).await;
}

/// A client changes its server again and again, while three senders emit. A sender stops when it is far
/// ahead of the client: an overloaded server has its clients begin anew.
async fn moves(others: usize) {
    const ROUNDS: usize = 100;
    const SENDERS: usize = 3;
    const AHEAD: usize = 50;
    let servers = two().await;
    let mut addrs = Vec::new();
    for (app, _) in &servers {
        addrs.push(serve(app.clone()).await);
        for _ in 0..others {
            Polling::connect(app).await;
        }
    }
    let [(_, a), (_, b)] = &servers;
    let mut client = Client::open(addrs[0]).await;
    let mut seat = Seat::default();
    seat.welcome(&client.ask("40").await);
    until(|| a.counts().sockets == 1 + others).await;
    let stop = Arc::new(AtomicBool::new(false));
    let received: Arc<[AtomicUsize; SENDERS]> = Arc::default();
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let (a, b, stop, id) = (a.clone(), b.clone(), Arc::clone(&stop), seat.sid.clone());
            let received = Arc::clone(&received);
            tokio::spawn(async move {
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    if n >= received[sender].load(Ordering::Relaxed) + AHEAD {
                        tokio::time::sleep(Duration::from_micros(500)).await;
                        continue;
                    }
                    let args = Args((sender, n));
                    match sender {
                        0 => a.emit("n", args),
                        1 => b.to("everyone").except("nobody").emit("n", args),
                        _ => b.to(&id).emit("n", args),
                    }
                    n += 1;
                    tokio::time::sleep(Duration::from_micros(500)).await;
                }
                n
            })
        })
        .collect();

    let mut next = [0; SENDERS];
    let take = |next: &mut [usize; SENDERS], seat: &mut Seat, packet: &str| {
        let event: Value = serde_json::from_str(&seat.event(packet)).expect("JSON");
        let sender = event[1].as_u64().expect("a number") as usize;
        assert_eq!(event[2], next[sender], "of sender {sender}");
        next[sender] += 1;
        received[sender].store(next[sender], Ordering::Relaxed);
    };
    for round in 0..ROUNDS {
        for _ in 0..round % 7 {
            let packet = client.text().await;
            take(&mut next, &mut seat, &packet);
        }
        let lost = std::mem::replace(&mut client, Client::open(addrs[round / 2 % 2]).await);
        // In every third round, the server notices the loss only by the next connection.
        let silent = (round % 3 == 0).then_some(lost);
        client.send(&seat.claim()).await;
        loop {
            let packet = client.text().await;
            if packet.starts_with("40") {
                assert!(seat.welcome(&packet), "round {round}");
                break;
            }
            take(&mut next, &mut seat, &packet);
        }
        drop(silent);
    }
    stop.store(true, Ordering::Relaxed);
    let mut sent = [0; SENDERS];
    for (sender, task) in senders.into_iter().enumerate() {
        sent[sender] = within(task).await.expect("no panic");
    }
    while next != sent {
        let packet = client.text().await;
        take(&mut next, &mut seat, &packet);
    }
}

#[tokio::test]
async fn an_event_without_an_offset_behind_others_has_the_last_one() {
    let held = Held::default();
    let (app, io) = server_with(held.clone(), Recovery::within(WITHIN).direct(false));
    connected(&io).await;
    let (mut client, mut seat) = connect(&app).await;
    io.emit("news", 1);
    socket(&io, &seat).emit("direct", "text");
    held.waits_for(1).await;
    held.pass(1).await;
    assert_eq!(seat.event(&client.next().await), r#"["news",1]"#);
    assert_eq!(client.next().await, r#"42["direct","text","2-0"]"#);
}

#[tokio::test]
async fn a_client_that_may_not_have_received_what_had_no_offset_is_told() {
    let (held, app, io) = held().await;
    let (mut client, mut seat) = connect(&app).await;
    io.emit("numbered", 1);
    held.waits_for(1).await;
    held.pass(1).await;
    seat.event(&client.next().await);
    io.emit("late", 1);
    assert_eq!(client.next().await, r#"42["late",1]"#);
    held.pass(1).await;
    // The log has passed it, and a later event was sent, but not received.
    io.emit("next", 1);
    held.waits_for(1).await;
    held.pass(1).await;
    lose(client, &io).await;
    assert!(!comes_back(&held, &app, &mut seat).await.2);
}

#[tokio::test]
async fn many_messages_under_way_do_not_end_the_recovery() {
    let (held, app, io) = held().await;
    let (client, mut seat) = connect(&app).await;
    for n in 0..200 {
        io.emit("n", n);
        io.to("nobody").emit("n", n);
    }
    held.waits_for(400).await;
    lose(client, &io).await;
    held.pass(400).await;
    let (_client, missed, recovered) = comes_back(&held, &app, &mut seat).await;
    assert_eq!((missed.len(), recovered), (200, true));
}

#[tokio::test]
async fn an_operation_that_is_under_way_reaches_a_socket_that_comes_back_meanwhile() {
    let (held, app, io) = held().await;
    let (client, mut seat) = connect(&app).await;
    lose(client, &io).await;
    io.to("everyone").join("joined");
    held.waits_for(1).await;
    let (_client, recovered) = back(&app, &mut seat).await;
    assert!(recovered);
    assert_eq!(socket(&io, &seat).rooms(), ["everyone"]);
    held.pass(1).await;
    until(|| socket(&io, &seat).rooms() == ["everyone", "joined"]).await;
}

#[tokio::test]
async fn a_server_keeps_what_it_sends_to_a_namespace_that_it_does_not_have() {
    let memory = Memory::with_log();
    let server = || {
        let builder = builder(Namespace::new()).namespace("/orders/{id}", Namespace::new());
        let builder = builder.recovery(Recovery::within(WITHIN));
        let (layer, io) = builder.cluster(memory.clone()).build();
        (app(layer), io)
    };
    let [(app_a, a), (app_b, b)] = [server(), server()];
    connected(&a).await;
    connected(&b).await;
    let mut client = Polling::open(&app_a).await;
    client.send("40/orders/1,").await;
    let welcome = client.next().await.replace("40/orders/1,", "40");
    let mut seat = Seat::default();
    seat.welcome(&welcome);
    lose(client, &a).await;
    b.of("/orders/1").emit("paid", 1);
    let mut client = Polling::open(&app_b).await;
    let claim = seat.claim().replace("40{", "40/orders/1,{");
    client.send(&claim).await;
    let welcome = client.next().await.replace("40/orders/1,", "40");
    assert!(seat.welcome(&welcome));
    let packet = client.next().await.replace("/orders/1,", "");
    assert_eq!(seat.event(&packet), r#"["paid",1]"#);
}

#[tokio::test]
async fn a_hook_sees_each_event_once() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sent = Arc::clone(&seen);
    let namespace = Namespace::new().on_outgoing(move |_, event, _| {
        sent.lock().expect("no panic").push(event.to_owned());
    });
    let builder = builder(namespace).recovery(Recovery::within(WITHIN));
    let (layer, io) = builder.cluster(Memory::with_log()).build();
    let app = app(layer);
    connected(&io).await;
    let (mut client, mut seat) = connect(&app).await;
    socket(&io, &seat).emit("one", 1);
    io.emit("all", 1);
    for _ in 0..2 {
        seat.event(&client.next().await);
    }
    assert_eq!(*seen.lock().expect("no panic"), ["one", "all"]);
}

#[tokio::test]
async fn an_event_that_was_delivered_early_is_kept_after_a_gap_and_not_missing_in_silence() {
    let (held_a, app_a, a) = held().await;
    let (held_b, app_b, b) = held().await;
    let (client, mut seat) = connect(&app_b).await;
    a.emit("late", 1);
    held_a.waits_for(1).await;
    held_a.release();
    Held::gap([&held_a, &held_b]);
    lose(client, &b).await;
    held_a.pass_to(&held_b).await;
    held_b.move_saved(&held_a);
    let (_client, missed, recovered) = comes_back(&held_a, &app_a, &mut seat).await;
    let missed: Vec<_> = missed.iter().map(|packet| seat.event(packet)).collect();
    assert_eq!((recovered, names(&missed)), (true, vec!["late".to_owned()]));
}

#[tokio::test]
async fn an_event_that_was_delivered_early_is_not_delivered_twice_after_a_gap() {
    let (held_a, app_a, a) = held().await;
    let (held_b, app_b, b) = held().await;
    let (mut client, mut seat) = connect(&app_a).await;
    a.emit("late", 1);
    held_a.waits_for(1).await;
    held_a.release();
    assert_eq!(client.next().await, r#"42["late",1]"#);
    Held::gap([&held_a, &held_b]);
    b.emit("next", 1);
    held_b.waits_for(1).await;
    held_b.pass_to(&held_a).await;
    assert_eq!(seat.event(&client.next().await), r#"["next",1]"#);
    lose(client, &a).await;
    held_a.pass_to(&held_b).await;
    held_a.move_saved(&held_b);
    let (_client, missed, recovered) = comes_back(&held_b, &app_b, &mut seat).await;
    assert!(missed.is_empty() && !recovered, "{missed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_comes_back_after_a_gap_says_that_earlier_ones_are_lost() {
    let (held_a, app, a) = held().await;
    let (held_b, _app_b, b) = held().await;
    let (mut client, mut seat) = connect(&app).await;
    a.emit("late", 1);
    held_a.waits_for(1).await;
    held_a.release();
    assert_eq!(client.next().await, r#"42["late",1]"#);
    let begin = tokio::time::Instant::now();
    a.emit("waiting", 1);
    held_a.waits_for(2).await;
    // The log has lost both.
    for _ in 0..2 {
        let (_, done, inboxes, at) = held_a.next();
        done.published();
        inboxes[0].1.begin_log(at);
    }
    // An entry of another server says nothing.
    let (inbox, at) = held_a.step();
    inbox.skip(at);
    a.of("/other").emit("elsewhere", 1);
    held_a.waits_for(1).await;
    held_a.pass(1).await;
    assert_eq!(client.next().await, r#"42["waiting",1]"#);
    assert!(begin.elapsed() < Duration::from_millis(500));
    b.emit("next", 1);
    held_b.waits_for(1).await;
    held_b.pass_to(&held_a).await;
    assert_eq!(seat.event(&client.next().await), r#"["next",1]"#);
    lose(client, &a).await;
    let (_client, missed, recovered) = comes_back(&held_a, &app, &mut seat).await;
    assert!(missed.is_empty() && recovered);
}

#[tokio::test]
async fn an_event_that_comes_back_late_is_not_for_a_socket_that_has_joined_meanwhile() {
    let (held, app, io) = held().await;
    let (joins, mut seat) = connect(&app).await;
    let (mut reads, mut seat_reads) = connect(&app).await;
    let (other, mut seat_other) = connect(&app).await;
    io.to("room").emit("late", 1);
    held.waits_for(1).await;
    held.release();
    socket(&io, &seat).join("room");
    socket(&io, &seat_reads).join("room");
    socket(&io, &seat_other).join("other");
    held.pass(1).await;
    io.emit("next", 1);
    held.waits_for(1).await;
    held.pass(1).await;
    let next = seat_reads.event(&reads.next().await);
    assert_eq!(next, r#"["next",1]"#);
    for client in [joins, reads, other] {
        lose(client, &io).await;
    }
    // Its rooms say that it has missed the first event, until it has received a later one.
    let (_joins, missed, recovered) = comes_back(&held, &app, &mut seat).await;
    assert!(missed.is_empty() && !recovered, "{missed:?}");
    let (_reads, missed, recovered) = comes_back(&held, &app, &mut seat_reads).await;
    assert!(missed.is_empty() && recovered, "{missed:?}");
    let (_other, missed, recovered) = comes_back(&held, &app, &mut seat_other).await;
    let missed: Vec<_> = missed.iter().map(|each| seat_other.event(each)).collect();
    assert_eq!((names(&missed), recovered), (vec!["next".to_owned()], true));
}

#[tokio::test]
async fn an_event_that_comes_back_late_is_not_for_a_socket_that_has_connected_meanwhile() {
    let (held, app, io) = held().await;
    io.emit("late", 1);
    held.waits_for(1).await;
    held.release();
    let (client, mut seat) = connect(&app).await;
    let (mut reads, mut seat_reads) = connect(&app).await;
    held.pass(1).await;
    io.emit("next", 1);
    held.waits_for(1).await;
    held.pass(1).await;
    let next = seat_reads.event(&reads.next().await);
    assert_eq!(next, r#"["next",1]"#);
    for client in [client, reads] {
        lose(client, &io).await;
    }
    let (_client, missed, recovered) = comes_back(&held, &app, &mut seat).await;
    assert!(missed.is_empty() && !recovered, "{missed:?}");
    let (_reads, missed, recovered) = comes_back(&held, &app, &mut seat_reads).await;
    assert!(missed.is_empty() && recovered, "{missed:?}");
}

#[tokio::test]
async fn an_event_that_is_lost_does_not_hide_that_an_earlier_one_may_come_back() {
    let (held_a, app_a, a) = held().await;
    let (held_b, app_b, b) = held().await;
    let (mut client, mut seat) = connect(&app_a).await;
    a.emit("late", 1);
    held_a.waits_for(1).await;
    held_a.release();
    assert_eq!(client.next().await, r#"42["late",1]"#);
    a.emit("lost", 1);
    held_a.waits_for(2).await;
    let lost = held_a.state(|state| state.waiting.pop_back());
    lost.expect("one waits").1.dropped();
    assert_eq!(client.next().await, r#"42["lost",1]"#);
    b.emit("next", 1);
    held_b.waits_for(1).await;
    held_b.pass_to(&held_a).await;
    assert_eq!(seat.event(&client.next().await), r#"["next",1]"#);
    lose(client, &a).await;
    held_a.pass_to(&held_b).await;
    held_a.move_saved(&held_b);
    let (_client, missed, recovered) = comes_back(&held_b, &app_b, &mut seat).await;
    assert!(missed.is_empty() && !recovered, "{missed:?}");
}
