//! Rooms and broadcasts, and events that ask for acknowledgements.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use futures_util::StreamExt;
use serde_json::Value;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tower_socketio::{
    AckError, Args, Data, EmitError, ErrorReply, Namespace, RawArgs, RoomChange, RoomEvent, Socket,
    SocketId, SocketIo, TypedEvent,
};

use crate::support;
use crate::support::{Client, Counting, Got, Polling, main_app, serve, until, within};

/// Returns an app whose clients join and leave rooms by events.
fn rooms() -> (Router, SocketIo) {
    main_app(
        Namespace::new()
            .on("join", async |socket: Socket, Data(room): Data<String>| {
                socket.join(room);
            })
            .on("leave", async |socket: Socket, Data(room): Data<String>| {
                socket.leave(room);
            }),
    )
}

/// Connects `N` clients. Each one joins the rooms that the letters of its string name.
async fn clients<const N: usize>(
    app: &Router,
    io: &SocketIo,
    rooms: [&str; N],
) -> ([Polling; N], [Socket; N]) {
    let mut clients = Vec::new();
    let mut sockets = Vec::new();
    for rooms in rooms {
        let mut client = Polling::open(app).await;
        let id = client.join("/").await;
        let socket = socket(io, &id);
        for room in rooms.split_terminator("") {
            if !room.is_empty() {
                socket.join(room);
            }
        }
        clients.push(client);
        sockets.push(socket);
    }
    let clients = clients.try_into().unwrap_or_else(|_| unreachable!());
    (
        clients,
        sockets.try_into().unwrap_or_else(|_| unreachable!()),
    )
}

fn socket(io: &SocketIo, id: &str) -> Socket {
    let mut sockets = io.sockets().into_iter();
    let found = sockets.find(|socket| socket.id().as_str() == id);
    found.expect("it is connected")
}

/// Returns the numbers of the clients that have received an event. The other clients receive only
/// the mark that this function emits.
async fn receivers(clients: &mut [Polling], io: &SocketIo) -> String {
    io.emit("mark", ());
    let mut got = String::new();
    for (client, name) in clients.iter_mut().zip('0'..) {
        let mut packet = client.next().await;
        while !packet.starts_with(r#"42["mark""#) {
            got.push(name);
            packet = client.next().await;
        }
    }
    got
}

#[tokio::test]
async fn a_broadcast_to_several_rooms_reaches_each_socket_once() {
    let (app, io) = rooms();
    let (mut clients, sockets) = clients(&app, &io, ["", "a", "b", "ab", "abc"]).await;
    let own = sockets[0].id();
    for (broadcast, expected) in [
        (io.of("/"), "01234"),
        (io.to("a"), "134"),
        (io.to("a").to("b"), "1234"),
        (io.to("a").to("b").except("c"), "123"),
        (io.except("a"), "02"),
        (io.to("nowhere"), ""),
        (io.of("/nowhere"), ""),
        (io.to(own), "0"),
        (io.to(own).to("c"), "04"),
        (io.except(own), "1234"),
        (io.to("a").local(), "134"),
        (sockets[0].broadcast(), "1234"),
        (sockets[0].everyone(), "01234"),
        (sockets[0].everyone().to("a"), "134"),
        (sockets[3].to("a"), "14"),
        (sockets[3].to("a").to("b"), "124"),
        (sockets[3].except("c"), "012"),
        (sockets[3].to(own), "0"),
        (sockets[3].to(sockets[3].id()), ""),
    ] {
        broadcast.emit("x", 1);
        assert_eq!(
            receivers(&mut clients, &io).await,
            expected,
            "{broadcast:?}"
        );
    }
}

#[tokio::test]
async fn clients_join_and_leave_rooms() {
    let (app, io) = rooms();
    let mut client = Polling::connect(&app).await;
    assert_eq!(io.counts().rooms, 0);
    assert_eq!(client.ask(r#"421["join","a"]"#).await, "431[]");
    assert_eq!(client.ask(r#"421["join","a"]"#).await, "431[]");
    assert_eq!(io.counts().rooms, 1);
    assert_eq!(io.sockets()[0].rooms(), ["a"]);
    io.to("a").emit("x", 1);
    assert_eq!(client.next().await, r#"42["x",1]"#);
    assert_eq!(client.ask(r#"422["leave","a"]"#).await, "432[]");
    assert_eq!(io.counts().rooms, 0);
    io.to("a").emit("x", 1);
    io.emit("mark", ());
    assert!(client.next().await.starts_with(r#"42["mark""#));
}

#[tokio::test]
async fn a_socket_that_left_is_removed_from_its_rooms() {
    let (app, io) = rooms();
    let (clients, sockets) = clients(&app, &io, ["ab", "b"]).await;
    assert_eq!(io.counts().rooms, 2);
    clients[0].post("1").await;
    until(|| io.sockets().len() == 1).await;
    assert_eq!(io.counts().rooms, 1);
    sockets[0].join("late");
    assert_eq!(io.counts().rooms, 1);
    assert_eq!(io.to("b").sockets()[0].id(), sockets[1].id());
}

#[tokio::test]
async fn a_broadcast_handle_joins_leaves_and_disconnects_sockets() {
    let (app, io) = rooms();
    let (mut clients, sockets) = clients(&app, &io, ["a", "a", "b"]).await;
    io.to("a").join("both");
    assert_eq!(io.to("both").sockets().len(), 2);
    io.to("both").except("b").leave("a");
    assert!(io.to("a").sockets().is_empty());
    io.to("both").disconnect();
    assert_eq!(io.sockets().len(), 1);
    assert!(!sockets[0].is_connected() && sockets[2].is_connected());
    assert_eq!(clients[0].next().await, "41");
    assert_eq!(clients[1].next().await, "41");
    io.to("b").close();
    assert_eq!(clients[2].next().await, "41");
    assert_eq!(clients[2].next().await, "1");
    until(|| io.counts().sessions == 2).await;
}

#[tokio::test]
async fn the_rooms_of_a_socket_are_limited() {
    let (layer, io) = support::builder(Namespace::new()).max_rooms(2).build();
    let _client = Polling::connect(&support::app(layer)).await;
    let socket = io.sockets().remove(0);
    for room in ["a", "b", "c"] {
        socket.join(room);
    }
    assert_eq!(socket.rooms().len(), 2);
}

#[tokio::test]
async fn a_volatile_event_is_dropped_for_clients_that_are_not_ready() {
    let (app, io) = rooms();
    let (mut clients, sockets) = clients(&app, &io, ["", ""]).await;
    // Only the first client has a pending poll, so only it can receive a volatile event.
    let poll = clients[0].poll();
    tokio::task::yield_now().await;
    io.of("/").volatile().emit("volatile", 1);
    sockets[1].volatile().emit("volatile", 2);
    assert_eq!(poll.await.expect("no panic").body(), r#"42["volatile",1]"#);
    assert_eq!(receivers(&mut clients, &io).await, "");
}

struct Typed;

impl serde::Serialize for Typed {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(1)
    }
}

impl<'de> serde::Deserialize<'de> for Typed {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u8::deserialize(deserializer).map(|_| Self)
    }
}

impl TypedEvent for Typed {
    const NAME: &'static str = "typed";
    type Reply = u8;
}

#[tokio::test]
async fn typed_events_are_broadcast_and_answered() {
    let (app, io) = rooms();
    let ([mut client], [socket]) = clients(&app, &io, [""]).await;
    io.of("/").send(Typed);
    assert_eq!(client.next().await, r#"42["typed",1]"#);
    let answer = socket.ask(Typed).into_future();
    client.answer("[9]").await;
    assert_eq!(within(answer).await.expect("an answer"), 9);
}

use std::future::IntoFuture;

impl Polling {
    /// Acknowledges the next event.
    async fn answer(&mut self, args: &str) {
        let question = self.next().await;
        let digits = question.strip_prefix("42").expect("an event");
        let id = &digits[..digits.find('[').expect("arguments")];
        assert!(!id.is_empty(), "{question} asks nothing");
        self.send(&format!("43{id}{args}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn emit_with_ack_ends_in_every_way() {
    let (app, io) = rooms();
    let ([mut client], [socket]) = clients(&app, &io, [""]).await;

    let answer = socket.emit_with_ack::<u32>("q", 1).into_future();
    client.answer("[42]").await;
    assert_eq!(within(answer).await.expect("an answer"), 42);

    let answer = socket.emit_with_ack::<u32>("q", 1).into_future();
    client.answer(r#"["x"]"#).await;
    assert!(within(answer).await.expect_err("no number").is_wrong_type());

    let started = tokio::time::Instant::now();
    let late = socket
        .emit_with_ack::<u32>("q", 1)
        .timeout(Duration::from_secs(3));
    assert!(late.await.expect_err("no answer").is_timeout());
    assert_eq!(started.elapsed().as_secs(), 3);
    // The server ignores a late acknowledgement, and a second one.
    client.answer("[1]").await;
    client.send("430[1]").await;

    let left = socket.emit_with_ack::<u32>("q", 1).into_future();
    client.send("41").await;
    assert!(within(left).await.expect_err("it left").is_disconnected());

    let gone = socket.emit_with_ack::<u32>("q", 1).into_future();
    assert!(
        within(gone)
            .await
            .expect_err("it is gone")
            .is_not_connected()
    );
}

#[tokio::test(start_paused = true)]
async fn emit_with_ack_to_many_returns_an_entry_for_each_socket() {
    let (app, io) = rooms();
    let (mut clients, sockets) = clients(&app, &io, ["a", "a", "a", "a", "b"]).await;
    let started = tokio::time::Instant::now();
    let answers = io
        .to("a")
        .emit_with_ack::<u32>("q", 1)
        .timeout(Duration::from_secs(2));
    clients[0].answer("[1]").await;
    clients[1].answer(r#"["x"]"#).await;
    clients[2].send("41").await;
    let answers = answers.await;
    assert_eq!(started.elapsed().as_secs(), 2);
    assert_eq!(answers.len(), 4);
    let of = |socket: &Socket| -> &Result<u32, AckError> {
        let id: SocketId = socket.id();
        let mut answers = answers.iter();
        &answers
            .find(|(other, _)| *other == Some(id))
            .expect("an entry")
            .1
    };
    assert!(matches!(of(&sockets[0]), Ok(1)));
    assert!(of(&sockets[1]).as_ref().is_err_and(AckError::is_wrong_type));
    assert!(
        of(&sockets[2])
            .as_ref()
            .is_err_and(AckError::is_disconnected)
    );
    assert!(of(&sockets[3]).as_ref().is_err_and(AckError::is_timeout));
}

#[tokio::test(start_paused = true)]
async fn acknowledgements_of_many_are_streamed_as_they_arrive() {
    let (app, io) = rooms();
    let (mut clients, sockets) = clients(&app, &io, ["", ""]).await;
    let mut answers = io.of("/").emit_with_ack::<Value>("q", 1);
    clients[1].answer("[1]").await;
    let (id, answer) = within(answers.next()).await.expect("an answer");
    assert_eq!(
        (id, answer.expect("a value")),
        (Some(sockets[1].id()), 1.into())
    );
    clients[0].answer("[0]").await;
    let (id, answer) = within(answers.next()).await.expect("an answer");
    assert_eq!(
        (id, answer.expect("a value")),
        (Some(sockets[0].id()), 0.into())
    );
    assert!(within(answers.next()).await.is_none());
    let nobody = io.to("nowhere").emit_with_ack::<Value>("q", 1);
    assert!(within(async { nobody.await }).await.is_empty());
}

#[tokio::test]
async fn arguments_are_passed_on_with_their_attachments() {
    async fn pass(socket: Socket, args: RawArgs) {
        socket.broadcast().emit("passed", args);
    }
    let addr = serve(main_app(Namespace::new().on("pass", pass)).0).await;
    let mut sender = Client::connect(addr, "/").await;
    let mut receiver = Client::connect(addr, "/").await;
    sender
        .send(r#"452-["pass",{"_placeholder":true,"num":1},{"a":{"_placeholder":true,"num":0}}]"#)
        .await;
    sender.send_binary(b"first").await;
    sender.send_binary(b"second").await;
    let header = receiver.text().await;
    assert!(header.starts_with(r#"452-["passed","#), "{header}");
    let json: Value = serde_json::from_str(&header[4..]).expect("JSON");
    let mut attachments = Vec::new();
    for _ in 0..2 {
        let Got::Binary(data) = receiver.next().await else {
            panic!("an attachment was expected");
        };
        attachments.push(data);
    }
    let at = |place: &Value| &attachments[place["num"].as_u64().expect("a number") as usize];
    assert_eq!(at(&json[1]), b"second");
    assert_eq!(at(&json[2]["a"]), b"first");
}

#[tokio::test]
async fn bytes_are_broadcast_over_both_transports() {
    let (app, io) = rooms();
    let addr = serve(app.clone()).await;
    let mut polling = Polling::connect(&app).await;
    let mut websocket = Client::connect(addr, "/").await;
    io.emit("bytes", Bytes::from_static(&[1, 2, 3]));
    let header = r#"451-["bytes",{"_placeholder":true,"num":0}]"#;
    assert_eq!(polling.next().await, header);
    assert_eq!(polling.next().await, "bAQID");
    assert_eq!(websocket.text().await, header);
    assert_eq!(websocket.next().await, Got::Binary(vec![1, 2, 3]));
}

#[tokio::test]
async fn fetched_sockets_are_a_snapshot_and_can_be_acted_on() {
    let (app, io) = rooms();
    let (mut clients, sockets) = clients(&app, &io, ["ab", "a", "b"]).await;
    sockets[0].set_data(("ada", 36)).expect("serializable");
    let found = io.to("a").fetch_sockets().await.expect("one server");
    assert_eq!(found.len(), 2);
    let of = |socket: &Socket| found.iter().find(|each| each.id() == socket.id());
    let ada = of(&sockets[0]).expect("it is in the room");
    assert_eq!(ada.rooms(), ["a", "b"]);
    assert_eq!(ada.namespace(), "/");
    assert_eq!(ada.data(), Some(("ada".to_owned(), 36)));
    assert_eq!(ada.data::<u32>(), None);
    let other = of(&sockets[1]).expect("it is in the room");
    assert_eq!(other.data::<Value>(), None);

    ada.emit("x", 1);
    assert_eq!(receivers(&mut clients, &io).await, "0");
    ada.leave("a");
    ada.join("c");
    // A `RemoteSocket` holds the rooms at the time of `fetch_sockets`.
    assert_eq!(ada.rooms(), ["a", "b"]);
    assert_eq!(sockets[0].rooms(), ["b", "c"]);
    let answer = ada.emit_with_ack::<u32>("q", 1).into_future();
    clients[0].answer("[7,8]").await;
    assert_eq!(within(answer).await.expect("an answer"), 7);
    ada.disconnect();
    assert_eq!(clients[0].next().await, "41");
    other.close();
    assert_eq!(clients[1].next().await, "41");
    assert_eq!(clients[1].next().await, "1");
    assert_eq!(io.of("/").fetch_sockets().await.expect("one").len(), 1);
    assert!(
        io.to("nowhere")
            .fetch_sockets()
            .await
            .expect("none")
            .is_empty()
    );
}

#[tokio::test(start_paused = true)]
async fn emit_with_ack_to_a_fetched_socket_waits_five_seconds() {
    let (app, io) = rooms();
    let _client = Polling::connect(&app).await;
    let found = io.of("/").fetch_sockets().await.expect("one server");
    let started = tokio::time::Instant::now();
    let answer = found[0].emit_with_ack::<u32>("q", 1).await;
    assert!(answer.expect_err("no answer").is_timeout());
    assert_eq!(started.elapsed().as_secs(), 5);
}

#[tokio::test]
async fn the_data_of_a_socket_is_replaced_as_a_whole_and_outlives_it() {
    let (app, io) = rooms();
    let ([mut client], [socket]) = clients(&app, &io, [""]).await;
    assert_eq!(socket.data::<Value>(), None);
    socket.set_data("one").expect("serializable");
    socket.set_data([1, 2]).expect("serializable");
    assert_eq!(socket.data(), Some([1, 2]));
    let unwritable = std::collections::HashMap::from([((1, 2), 3)]);
    assert!(socket.set_data(unwritable).is_err());
    client.send("41").await;
    until(|| !socket.is_connected()).await;
    assert_eq!(socket.data(), Some([1, 2]));
}

type Told = Arc<Mutex<Vec<RoomEvent>>>;

/// Registers a hook that records the room events of a namespace.
fn told(namespace: Namespace) -> (Namespace, Told) {
    let told = Told::default();
    let note = Arc::clone(&told);
    let namespace = namespace.on_room_event(move |event| note.lock().expect("notes").push(event));
    (namespace, told)
}

/// Drains the recorded events, in a short form.
fn take(told: &Told, names: &[(SocketId, &str)]) -> Vec<String> {
    let name = |id: &str| {
        let found = names.iter().find(|(own, _)| own.as_str() == id);
        found.map_or_else(|| id.to_owned(), |(_, name)| (*name).to_owned())
    };
    let told = std::mem::take(&mut *told.lock().expect("notes"));
    let short = |event: RoomEvent| {
        let room = name(&event.room);
        match event.change {
            RoomChange::Create => format!("create {room}"),
            RoomChange::Join(id) => format!("{} joins {room}", name(id.as_str())),
            RoomChange::Leave(id) => format!("{} leaves {room}", name(id.as_str())),
            RoomChange::Delete => format!("delete {room}"),
            other => panic!("{other:?}"),
        }
    };
    told.into_iter().map(short).collect()
}

#[tokio::test]
async fn room_events_arrive_in_order() {
    let (namespace, told) = told(Namespace::new());
    let (app, io) = main_app(namespace);
    let (clients, sockets) = clients(&app, &io, ["", ""]).await;
    let names = [(sockets[0].id(), "x"), (sockets[1].id(), "y")];
    let take = || take(&told, &names);
    assert_eq!(take(), ["create x", "x joins x", "create y", "y joins y"]);
    sockets[0].join("a");
    sockets[0].join("a");
    sockets[1].join("a");
    sockets[0].leave("b");
    sockets[0].join("b");
    sockets[0].join("c");
    assert_eq!(
        take(),
        [
            "create a",
            "x joins a",
            "y joins a",
            "create b",
            "x joins b",
            "create c",
            "x joins c"
        ]
    );
    sockets[0].leave("a");
    assert_eq!(take(), ["x leaves a"]);
    clients[0].post("1").await;
    until(|| io.sockets().len() == 1).await;
    let left = [
        "x leaves x",
        "delete x",
        "x leaves b",
        "delete b",
        "x leaves c",
        "delete c",
    ];
    assert_eq!(take(), left);
    sockets[1].leave("a");
    assert_eq!(take(), ["y leaves a", "delete a"]);
}

#[tokio::test]
async fn a_refused_socket_leaves_its_rooms_and_had_no_room_of_its_id() {
    let left = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&left);
    let namespace = Namespace::new()
        .on_connect(async |socket: Socket| {
            socket.join("a");
            Err::<(), _>(ErrorReply::new("no"))
        })
        .on_disconnect(async move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
    let (namespace, told) = told(namespace);
    let (app, io) = main_app(namespace);
    let mut client = Polling::open(&app).await;
    assert_eq!(client.ask("40").await, r#"44{"message":"no"}"#);
    let changes: Vec<_> = std::mem::take(&mut *told.lock().expect("notes"));
    assert!(matches!(
        changes.iter().map(|event| event.change).collect::<Vec<_>>()[..],
        [
            RoomChange::Create,
            RoomChange::Join(_),
            RoomChange::Leave(_),
            RoomChange::Delete
        ]
    ));
    assert!(changes.iter().all(|event| &*event.room == "a"));
    assert!(io.of("/").rooms().is_empty());
    client.post("1").await;
    until(|| io.counts().sessions == 0).await;
    assert_eq!(left.load(Ordering::Relaxed), 0, "it was never in");
}

#[tokio::test]
async fn a_room_hook_may_change_rooms_or_panic() {
    let kept = Arc::new(Mutex::new(None::<SocketIo>));
    let of_hook = Arc::clone(&kept);
    let (sender, names) = std::sync::mpsc::channel();
    let namespace = Namespace::new().on_room_event(move |event: RoomEvent| {
        let io = of_hook.lock().expect("kept").clone();
        if let (Some(io), RoomChange::Create) = (io, event.change) {
            sender
                .send(event.room.to_string())
                .expect("somebody listens");
            match &*event.room {
                "a" => io.of("/").join("b"),
                "b" => panic!("in a hook"),
                _ => {}
            }
        }
    });
    let (app, io) = main_app(namespace);
    let (_clients, [socket]) = clients(&app, &io, [""]).await;
    *kept.lock().expect("kept") = Some(io);
    socket.join("a");
    socket.join("c");
    let names: Vec<_> = names.try_iter().collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(socket.rooms(), ["a", "b", "c"]);
}

#[tokio::test]
async fn namespaces_rooms_and_sockets_can_be_read() {
    let (layer, io) = support::builder(Namespace::new())
        .namespace("/b", Namespace::new())
        .namespace("/a/{name}", Namespace::new())
        .build();
    let app = support::app(layer);
    let (_clients, sockets) = clients(&app, &io, ["ab", "b", "c"]).await;
    let mut client = Polling::open(&app).await;
    client.join("/a/1").await;
    assert_eq!(io.namespaces(), ["/", "/a/1", "/b"]);
    assert_eq!(io.of("/").rooms(), ["a", "b", "c"]);
    assert_eq!(io.to("b").rooms(), ["a", "b"]);
    assert!(io.of("/b").rooms().is_empty());
    let ids: Vec<_> = io.to("b").sockets().iter().map(Socket::id).collect();
    assert_eq!(ids, [sockets[0].id(), sockets[1].id()]);
    assert_eq!(io.server_count().await.expect("one server"), 1);
    for name in ["", "/"] {
        assert_eq!(io.of(name).sockets().len(), 3, "{name:?}");
    }
    assert_eq!(io.of("a/1").sockets().len(), 1);
}

#[tokio::test]
async fn a_broadcast_to_several_namespaces_reaches_the_sockets_of_each() {
    let (layer, io) = support::builder(Namespace::new())
        .namespace("/orders/{shop}", Namespace::new())
        .build();
    let app = support::app(layer);
    let orders = io.of_all(|name| name.starts_with("/orders/"));
    let later = io.of("/orders/long-name");
    orders.emit("x", "nobody");
    let mut main = Polling::connect(&app).await;
    let mut clients = Vec::new();
    for name in ["/orders/1", "/orders/long-name"] {
        let mut client = Polling::open(&app).await;
        client.join(name).await;
        clients.push((name, client));
    }
    orders.emit("x", Args((1, Bytes::from_static(b"b"))));
    for (name, client) in &mut clients {
        let header = format!(r#"451-{name},["x",1,{{"_placeholder":true,"num":0}}]"#);
        assert_eq!(client.next().await, header);
        assert_eq!(client.next().await, "bYg==");
    }
    // This handle was created before the first socket joined its namespace.
    later.emit("y", 2);
    assert_eq!(clients[1].1.next().await, r#"42/orders/long-name,["y",2]"#);

    let answers = orders.emit_with_ack::<u32>("q", ());
    for (n, (name, client)) in clients.iter_mut().enumerate() {
        let question = client.next().await;
        assert_eq!(question, format!(r#"42{name},0["q"]"#));
        client.send(&format!("43{name},0[{n}]")).await;
    }
    let mut answers: Vec<_> = within(async { answers.await })
        .await
        .into_iter()
        .map(|(_, n)| n)
        .collect();
    answers.sort_by_key(|answer| *answer.as_ref().expect("an answer"));
    assert!(matches!(answers[..], [Ok(0), Ok(1)]));

    assert_eq!(orders.fetch_sockets().await.expect("one server").len(), 2);
    orders.disconnect();
    for (name, client) in &mut clients {
        assert_eq!(client.next().await, format!("41{name},"));
    }
    assert_eq!(main.ask("40/orders/1,").await.find("40/orders/1,"), Some(0));
}

#[tokio::test]
async fn a_single_server_reports_that_it_is_alone() {
    let (_app, io) = rooms();
    let is_alone = |error: EmitError| error.cluster_error().is_some_and(|error| error.is_alone());
    let error = io.of("/").server_side_emit("x", 1).expect_err("alone");
    assert!(is_alone(error));
    let answers = io.of("/").server_side_emit_with_ack::<u32>("x", 1).await;
    let partial = answers.expect_err("alone");
    assert!(partial.reason().is_alone());
    assert_eq!((partial.missing, partial.into_got().len()), (0, 0));
    // Event names are not reserved between servers.
    let error = io.of("/").server_side_emit("connection", ());
    assert!(is_alone(error.expect_err("alone")));
}

#[tokio::test]
async fn a_broadcast_handle_can_be_reused_and_narrowed() {
    let (app, io) = rooms();
    let (mut clients, _) = clients(&app, &io, ["a", "ab", "b"]).await;
    let a = io.to("a");
    let narrowed = a.clone().except("b");
    let wider = a.clone().to("b");
    for (broadcast, expected) in [(&a, "01"), (&narrowed, "0"), (&wider, "012"), (&a, "01")] {
        broadcast.emit("x", 1);
        assert_eq!(receivers(&mut clients, &io).await, expected);
    }
    // `volatile` applies to the broadcast that it returns, not to the one that it was called on.
    a.clone().volatile().emit("x", 1);
    a.emit("x", 1);
    assert_eq!(receivers(&mut clients, &io).await, "01");
}

#[tokio::test(start_paused = true)]
async fn emit_with_ack_to_many_has_one_id_and_reads_the_first_argument() {
    let (app, io) = rooms();
    let (mut clients, sockets) = clients(&app, &io, ["", ""]).await;
    for id in 0..2 {
        let answers = io.of("/").emit_with_ack::<u32>("q", 1);
        for client in &mut clients {
            let question = client.ask(&format!("43{id}[1,2]")).await;
            assert_eq!(question, format!(r#"42{id}["q",1]"#));
        }
        // `emit_with_ack` sends the packets at once, so the answers arrive before the first poll.
        let answers = within(async { answers.await }).await;
        assert!(answers.iter().all(|(_, answer)| matches!(answer, Ok(1))));
        assert_eq!(answers.len(), 2);
    }
    // The namespace has one counter of acknowledgement ids.
    let _asked = sockets[0].emit_with_ack::<u32>("q", 1);
    assert_eq!(clients[0].next().await, r#"422["q",1]"#);
}

#[tokio::test]
async fn a_broadcast_is_encoded_once_for_a_whole_namespace() {
    let parser = Counting::default();
    let events = Arc::clone(&parser.events);
    let (layer, io) = support::builder(Namespace::new()).parser(parser).build();
    let app = support::app(layer);
    let (mut clients, _) = clients(&app, &io, ["", "", ""]).await;
    io.emit("x", "for all");
    assert_eq!(events.load(Ordering::Relaxed), 1);
    let _asked = io.of("/").emit_with_ack::<u32>("q", 1);
    assert_eq!(events.load(Ordering::Relaxed), 2);
    for client in &mut clients {
        assert_eq!(client.next().await, r#"42["x","for all"]"#);
        assert_eq!(client.next().await, r#"420["q",1]"#);
    }
}

#[tokio::test]
async fn a_hook_observes_outgoing_events() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&seen);
    let (layer, io) = support::builder(Namespace::new().on("ask", async || 1).on_outgoing(
        move |socket: &Socket, event: &str, args: &RawArgs| {
            let bytes: usize = args.attachments().map(Bytes::len).sum();
            let entry = (socket.id(), format!("{event}{}+{bytes}", args.to_json()));
            note.lock().expect("notes").push(entry);
            assert_ne!(event, "panic");
        },
    ))
    .build();
    let app = support::app(layer);
    let (mut clients, sockets) = clients(&app, &io, ["a", "a"]).await;
    let take = || std::mem::take(&mut *seen.lock().expect("notes"));
    sockets[0].emit("one", Args((1, Bytes::from_static(b"xyz"))));
    let placeholder = r#"one[1,{"_placeholder":true,"num":0}]+3"#;
    assert_eq!(take(), [(sockets[0].id(), placeholder.to_owned())]);
    io.to("a").emit("two", ());
    let two = "two[]+0".to_owned();
    assert_eq!(
        take(),
        [(sockets[0].id(), two.clone()), (sockets[1].id(), two)]
    );
    sockets[1].volatile().emit("three", 3);
    io.of("/").volatile().except("a").emit("three", 3);
    let _asked = io.to(sockets[1].id()).emit_with_ack::<u32>("four", 4);
    assert_eq!(take(), [(sockets[1].id(), "four[4]+0".to_owned())]);
    assert_eq!(
        clients[0].next().await,
        r#"451-["one",1,{"_placeholder":true,"num":0}]"#
    );
    assert_eq!(clients[0].next().await, "beHl6");
    assert_eq!(clients[0].next().await, r#"42["two"]"#);
    assert_eq!(clients[0].ask(r#"429["ask"]"#).await, "439[1]");
    assert!(take().is_empty(), "an acknowledgement is no event");
    io.to("a").emit("panic", ());
    for client in &mut clients {
        while client.next().await != r#"42["panic"]"# {}
    }
}

#[tokio::test(start_paused = true)]
async fn emit_with_ack_to_many_waits_five_seconds_by_default() {
    let (app, io) = rooms();
    let _client = Polling::connect(&app).await;
    let started = tokio::time::Instant::now();
    let answers = io.of("/").emit_with_ack::<u32>("q", 1).await;
    assert!(answers[0].1.as_ref().is_err_and(AckError::is_timeout));
    assert_eq!(started.elapsed().as_secs(), 5);
}

#[tokio::test]
async fn all_arguments_of_an_acknowledgement_can_be_read() {
    let (app, io) = rooms();
    let ([mut client], [socket]) = clients(&app, &io, [""]).await;
    let answer = socket.emit_with_ack::<(u32, Value)>("q", 1).all_args();
    client.answer(r#"[5,{"a":1}]"#).await;
    let (number, object) = within(answer.into_future()).await.expect("an answer");
    assert_eq!((number, &object["a"]), (5, &1.into()));
    let answer = socket.emit_with_ack::<(u32, u32)>("q", 1).all_args();
    client.answer("[5]").await;
    let error = within(answer.into_future())
        .await
        .expect_err("one is missing");
    assert!(error.is_wrong_type());
}

#[tokio::test]
async fn a_connecting_socket_is_not_listed_and_misses_nothing() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let wait = Arc::clone(&gate);
    let (begins, mut begun) = tokio::sync::mpsc::unbounded_channel();
    let connect = move |socket: Socket| {
        let (wait, begins) = (Arc::clone(&wait), begins.clone());
        async move {
            socket.join("a");
            begins.send(()).expect("somebody waits");
            wait.acquire().await.expect("open").forget();
        }
    };
    let (app, io) = main_app(Namespace::new().on_connect(connect));
    let mut client = Polling::open(&app).await;
    client.send("40").await;
    within(begun.recv()).await.expect("it connects");
    assert!(io.sockets().is_empty());
    assert!(
        io.of("/")
            .fetch_sockets()
            .await
            .expect("one server")
            .is_empty()
    );
    assert!(io.to("a").emit_with_ack::<u32>("q", 1).await.is_empty());
    io.to("a").emit("x", 1);
    io.of("/").volatile().emit("volatile", 1);
    gate.add_permits(1);
    support::socket_id(&client.next().await);
    assert_eq!(client.next().await, r#"42["x",1]"#);
    io.emit("y", 2);
    assert_eq!(client.next().await, r#"42["y",2]"#);
}

#[tokio::test]
async fn a_volatile_event_right_after_another_is_dropped() {
    let (app, io) = rooms();
    let ([mut client], [socket]) = clients(&app, &io, [""]).await;
    let poll = client.poll();
    tokio::task::yield_now().await;
    socket.emit("first", Bytes::from_static(b"x"));
    socket.volatile().emit("second", Bytes::from_static(b"y"));
    let got = poll.await.expect("no panic").into_body();
    let header = r#"451-["first",{"_placeholder":true,"num":0}]"#;
    assert_eq!(got, format!("{header}\x1ebeA=="));
    socket.volatile().emit("third", ());
    socket.emit("last", ());
    assert_eq!(client.next().await, r#"42["last"]"#);
}

#[tokio::test]
async fn reserved_event_names_are_not_sent() {
    let (app, io) = rooms();
    let ([mut client], [socket]) = clients(&app, &io, [""]).await;
    for name in [
        "connect",
        "connect_error",
        "disconnect",
        "disconnecting",
        "newListener",
        "removeListener",
    ] {
        let error = socket.try_emit(name, 1).expect_err("reserved");
        assert!(error.is_encode() && !error.is_closed(), "{name}");
        socket.emit(name, 1);
        io.emit(name, 1);
        assert!(socket.emit_with_ack::<u32>(name, 1).await.is_err());
        assert!(io.of("/").emit_with_ack::<u32>(name, 1).await.is_empty());
    }
    io.emit("error", 1);
    assert_eq!(client.next().await, r#"42["error",1]"#);
    socket.emit("message", "sent");
    assert_eq!(client.next().await, r#"42["message","sent"]"#);
}

#[tokio::test]
async fn events_to_a_client_that_has_left_are_dropped() {
    let (app, io) = rooms();
    let ([mut client], [socket]) = clients(&app, &io, ["a"]).await;
    client.send("41").await;
    until(|| !socket.is_connected()).await;
    socket.emit("x", 1);
    assert!(socket.try_emit("x", 1).expect_err("it left").is_closed());
    socket.join("b");
    assert!(io.of("/").rooms().is_empty());
    client.join("/").await;
    io.emit("mark", ());
    assert_eq!(client.next().await, r#"42["mark"]"#);
}
