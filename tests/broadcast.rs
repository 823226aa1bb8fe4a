//! Many clients at once, and questions to them.

mod support;

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use futures_util::StreamExt;
use serde_json::Value;
use support::{Client, Got, Polling, main_app, serve, until, within};
use tower_socketio::{AckError, Data, Namespace, RawArgs, Socket, SocketId, SocketIo, TypedEvent};

/// An app where clients join and leave rooms by themselves.
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

/// So many clients, each in the rooms that its letters name.
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

/// Who got what was emitted just now: each of the others finds only the mark behind it.
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
async fn a_choice_of_rooms_reaches_each_socket_once() {
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
        (sockets[0].within(), "01234"),
        (sockets[0].within().to("a"), "134"),
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
async fn rooms_of_those_who_left_are_forgotten() {
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
async fn a_selection_joins_leaves_and_disconnects() {
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
async fn a_socket_is_in_as_many_rooms_as_allowed() {
    let (layer, io) = support::builder(Namespace::new()).max_rooms(2).build();
    let _client = Polling::connect(&support::app(layer)).await;
    let socket = io.sockets().remove(0);
    for room in ["a", "b", "c"] {
        socket.join(room);
    }
    assert_eq!(socket.rooms().len(), 2);
}

#[tokio::test]
async fn a_volatile_event_is_dropped_for_those_who_would_wait() {
    let (app, io) = rooms();
    let (mut clients, sockets) = clients(&app, &io, ["", ""]).await;
    // Only who polls can be reached at once.
    let poll = clients[0].poll();
    tokio::task::yield_now().await;
    io.of("/").volatile().emit("volatile", 1);
    sockets[1].emit_volatile("volatile", 2);
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
    io.of("/").emit_typed(Typed);
    assert_eq!(client.next().await, r#"42["typed",1]"#);
    let answer = socket.emit_typed_with_ack(Typed).into_future();
    client.answer("[9]").await;
    assert_eq!(within(answer).await.expect("an answer"), 9);
}

use std::future::IntoFuture;

impl Polling {
    /// Answers the question that comes next.
    async fn answer(&mut self, args: &str) {
        let question = self.next().await;
        let digits = question.strip_prefix("42").expect("an event");
        let id = &digits[..digits.find('[').expect("arguments")];
        assert!(!id.is_empty(), "{question} asks nothing");
        self.send(&format!("43{id}{args}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_question_to_one_client_ends_in_every_way() {
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
    // An answer that comes too late, or twice, is ignored.
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
async fn a_question_to_many_has_an_entry_for_each() {
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
        &answers.find(|(other, _)| *other == id).expect("an entry").1
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
async fn answers_of_many_come_as_they_arrive() {
    let (app, io) = rooms();
    let (mut clients, sockets) = clients(&app, &io, ["", ""]).await;
    let mut answers = io.of("/").emit_with_ack::<Value>("q", 1);
    clients[1].answer("[1]").await;
    let (id, answer) = within(answers.next()).await.expect("an answer");
    assert_eq!((id, answer.expect("a value")), (sockets[1].id(), 1.into()));
    clients[0].answer("[0]").await;
    let (id, answer) = within(answers.next()).await.expect("an answer");
    assert_eq!((id, answer.expect("a value")), (sockets[0].id(), 0.into()));
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
