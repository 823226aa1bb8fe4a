//! Connection state recovery.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tower_socketio::{
    Args, Auth, Data, DisconnectReason, ErrorReply, Namespace, RawArgs, Recovery, Socket, SocketIo,
    Transport, middleware,
};

use crate::support::{Client, Counting, Got, Polling, app, builder, serve, until, within};

const WITHIN: Duration = Duration::from_secs(120);

/// Returns a server with recovery.
fn server(main: Namespace) -> (Router, SocketIo) {
    server_with(main, Recovery::within(WITHIN))
}

fn server_with(main: Namespace, recovery: Recovery) -> (Router, SocketIo) {
    let (layer, io) = builder(main).recovery(recovery).build();
    (app(layer), io)
}

/// Returns handlers that let a client join and leave rooms and end its connection.
fn handlers() -> Namespace {
    Namespace::new()
        .on("join", async |socket: Socket, Data(room): Data<String>| {
            socket.join(room)
        })
        .on("leave", async |socket: Socket, Data(room): Data<String>| {
            socket.leave(room)
        })
        .on("out", async |socket: Socket| socket.disconnect())
        .on("close", async |socket: Socket| socket.close())
}

/// The state that the official client keeps for recovery.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Seat {
    pub(crate) sid: String,
    pub(crate) pid: String,
    pub(crate) offset: Option<String>,
}

impl Seat {
    /// Reads a CONNECT packet. Returns whether the socket is recovered.
    #[track_caller]
    pub(crate) fn welcome(&mut self, packet: &str) -> bool {
        let welcome = packet.strip_prefix("40").expect("CONNECT");
        let welcome: Value = serde_json::from_str(welcome).unwrap_or_else(|_| panic!("{packet}"));
        let text = |key: &str| welcome[key].as_str().expect("an id").to_owned();
        let recovered = text("pid") == self.pid;
        self.sid = text("sid");
        self.pid = text("pid");
        recovered
    }

    /// Reads an event, stores its offset, and returns the event without it.
    #[track_caller]
    pub(crate) fn event(&mut self, packet: &str) -> String {
        let at = packet
            .find('[')
            .unwrap_or_else(|| panic!("no event: {packet}"));
        let mut event: Vec<Value> = serde_json::from_str(&packet[at..]).expect("JSON");
        match event.pop() {
            // Eight characters, or two numbers in the log of a cluster.
            Some(Value::String(offset)) if offset.len() == 8 || offset.contains('-') => {
                self.offset = Some(offset)
            }
            other => panic!("{other:?} is no offset"),
        }
        Value::from(event).to_string()
    }

    pub(crate) fn claim(&self) -> String {
        let mut claim = json!({ "pid": self.pid });
        if let Some(offset) = &self.offset {
            claim["offset"] = json!(offset);
        }
        format!("40{claim}")
    }
}

/// Connects a new client.
pub(crate) async fn connect(app: &Router) -> (Polling, Seat) {
    let mut client = Polling::open(app).await;
    let mut seat = Seat::default();
    assert!(!seat.welcome(&client.ask("40").await));
    (client, seat)
}

/// Ends a client's connection as if it was lost.
pub(crate) async fn lose(client: Polling, io: &SocketIo) {
    let before = io.counts().sockets;
    client.post("1").await;
    until(|| io.counts().sockets < before).await;
}

/// Connects again. Returns the client and whether the socket is recovered.
pub(crate) async fn back(app: &Router, seat: &mut Seat) -> (Polling, bool) {
    let mut client = Polling::open(app).await;
    let recovered = seat.welcome(&client.ask(&seat.claim()).await);
    (client, recovered)
}

/// Connects again as [`back`] does. Returns also what comes after CONNECT in the same payload.
pub(crate) async fn packets_back(app: &Router, seat: &mut Seat) -> (Polling, Vec<String>, bool) {
    let (mut client, recovered) = back(app, seat).await;
    let missed = client.buffered().collect();
    (client, missed, recovered)
}

/// Connects again as [`packets_back`] does, asserts that the socket is recovered, and returns the
/// missed events. They must not contain bytes.
pub(crate) async fn events_back(app: &Router, seat: &mut Seat) -> (Polling, Vec<String>) {
    let (client, missed, recovered) = packets_back(app, seat).await;
    assert!(recovered);
    let events = missed.iter().map(|packet| seat.event(packet)).collect();
    (client, events)
}

#[tokio::test]
async fn what_is_done_to_a_room_is_done_to_those_who_are_away() {
    let (app, io) = server(handlers());
    let (client, mut seat) = connect(&app).await;
    let id = io.sockets()[0].id();
    io.to(id).join("user");
    io.to("user").join("old");
    assert_eq!(io.to("user").socket_count(), 1);
    assert_eq!(io.of("/").except("user").socket_count(), 0);
    lose(client, &io).await;
    io.to("user").join("new");
    io.to("user").leave("old");
    io.to("new").emit("m", 1);
    io.to("old").emit("m", 2);
    let (client, events) = events_back(&app, &mut seat).await;
    assert_eq!(events, [r#"["m",1]"#]);
    let socket = &io.sockets()[0];
    assert_eq!(socket.id(), id);
    assert!(socket.rooms().iter().any(|room| **room == *"new"));
    assert!(!socket.rooms().iter().any(|room| **room == *"old"));

    // One that is signed out does not come back as the same socket.
    lose(client, &io).await;
    io.to("others").disconnect();
    assert_eq!(io.counts().recoverable, 1);
    io.to("user").disconnect();
    assert_eq!(io.counts().recoverable, 0);
    let (_client, recovered) = back(&app, &mut seat).await;
    assert!(!recovered);
}

#[tokio::test]
async fn a_client_gets_a_private_id_only_from_a_server_with_recovery() {
    let (with, _io) = server(handlers());
    let (_client, seat) = connect(&with).await;
    assert_eq!((seat.sid.len(), seat.pid.len()), (20, 22));
    assert_ne!(seat.sid, &seat.pid[..20]);

    let (layer, io) = builder(handlers()).build();
    let without = app(layer);
    let mut client = Polling::open(&without).await;
    let packet = client.ask("40").await;
    let welcome: Value = serde_json::from_str(&packet[2..]).expect("JSON");
    let keys: Vec<_> = welcome.as_object().expect("an object").keys().collect();
    assert_eq!(keys, ["sid"]);
    io.emit("x", 1);
    assert_eq!(client.next().await, r#"42["x",1]"#);
    // A server without recovery ignores a claim.
    let mut client = Polling::open(&without).await;
    assert!(!client.ask(&seat.claim()).await.contains("pid"));
}

#[tokio::test]
async fn events_carry_an_offset_and_are_encoded_once() {
    let parser = Counting::default();
    let events = Arc::clone(&parser.events);
    let recovery = Recovery::within(WITHIN);
    let (layer, io) = builder(handlers())
        .parser(parser)
        .recovery(recovery)
        .build();
    let app = app(layer);
    let (mut a, mut seat_a) = connect(&app).await;
    let (mut b, mut seat_b) = connect(&app).await;
    io.emit("all", (1, "x"));
    assert_eq!(events.load(Ordering::Relaxed), 1);
    for (client, seat) in [(&mut a, &mut seat_a), (&mut b, &mut seat_b)] {
        assert_eq!(seat.event(&client.next().await), r#"["all",[1,"x"]]"#);
    }
    assert_eq!(seat_a.offset, seat_b.offset);
    let first = seat_a.offset.take();
    io.to(&seat_a.sid).emit("one", ());
    assert_eq!(seat_a.event(&a.next().await), r#"["one"]"#);
    let socket = &io.sockets()[0];
    socket.emit("bytes", Bytes::from_static(b"x"));
    let (client, seat) = if socket.id().as_str() == seat_a.sid {
        (&mut a, &mut seat_a)
    } else {
        (&mut b, &mut seat_b)
    };
    let packet = client.next().await;
    assert!(packet.starts_with("451-["), "{packet}");
    assert_eq!(
        seat.event(&packet),
        r#"["bytes",{"_placeholder":true,"num":0}]"#
    );
    assert_eq!(client.next().await, "beA==");
    assert_ne!(seat_a.offset, first);
}

#[tokio::test]
async fn events_with_acks_and_volatile_events_are_not_stored() {
    let (app, io) = server(handlers());
    let (mut client, mut seat) = connect(&app).await;
    let socket = io.sockets().remove(0);
    io.emit("first", 1);
    seat.event(&client.next().await);

    let asked = socket.emit_with_ack::<u8>("q", 1);
    assert_eq!(client.next().await, r#"420["q",1]"#);
    drop(asked);
    let poll = client.poll();
    until(|| socket.is_connected()).await;
    // A volatile event is sent only while a poll is pending.
    let sent = async |emit: &dyn Fn()| {
        let poll = client.poll();
        loop {
            emit();
            tokio::task::yield_now().await;
            if poll.is_finished() {
                break;
            }
        }
        let body = within(poll).await.expect("no panic").into_body();
        body.split('\x1e').next().expect("a packet").to_owned()
    };
    socket.emit("end of the first poll", 1);
    let body = within(poll).await.expect("no panic").into_body();
    seat.event(&body);
    assert_eq!(
        sent(&|| io.of("/").volatile().emit("v", 1)).await,
        r#"42["v",1]"#
    );
    assert_eq!(
        sent(&|| socket.volatile().emit("v", 2)).await,
        r#"42["v",2]"#
    );
    // The client reads a text at the end as its offset, so the server appends the current one.
    let before = seat.clone();
    for event in [
        sent(&|| socket.volatile().emit("v", "text")).await,
        sent(&|| io.of("/").volatile().emit("v", "text")).await,
    ] {
        assert_eq!(seat.event(&event), r#"["v","text"]"#);
        assert_eq!(seat, before);
    }
    lose(client, &io).await;
    io.of("/").volatile().emit("v", "away");
    io.emit("away", 1);
    let (_client, missed) = events_back(&app, &mut seat).await;
    assert_eq!(missed, [r#"["away",1]"#]);
}

#[tokio::test]
async fn the_offset_is_hidden_from_hooks() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&seen);
    let main = handlers().on_outgoing(move |_: &Socket, event: &str, args: &RawArgs| {
        let entry = format!("{event}{}", args.to_json());
        note.lock().expect("notes").push(entry);
    });
    let (app, io) = server(main);
    let (mut client, mut seat) = connect(&app).await;
    io.emit("a", "x");
    io.sockets()[0].emit("b", 1);
    assert_eq!(seat.event(&client.next().await), r#"["a","x"]"#);
    assert_eq!(seat.event(&client.next().await), r#"["b",1]"#);
    assert_eq!(*seen.lock().expect("notes"), [r#"a["x"]"#, "b[1]"]);
}

#[tokio::test]
async fn missed_events_come_after_connect_in_one_payload() {
    let (app, io) = server(handlers());
    let (mut client, mut seat) = connect(&app).await;
    io.emit("m", 0);
    seat.event(&client.next().await);
    lose(client, &io).await;
    io.emit("m", 1);
    io.emit("m", 2);
    let before = seat.clone();
    let client = Polling::open(&app).await;
    client.post(seat.claim()).await;
    let body = client.get().await.into_body();
    let packets: Vec<_> = body.split('\x1e').collect();
    assert_eq!(packets.len(), 3, "{body}");
    assert!(seat.welcome(packets[0]));
    assert_eq!(seat.event(packets[1]), r#"["m",1]"#);
    assert_eq!(seat.event(packets[2]), r#"["m",2]"#);
    assert_eq!((&before.sid, &before.pid), (&seat.sid, &seat.pid));
}

#[tokio::test]
async fn events_for_other_clients_are_not_sent_again() {
    let (app, io) = server(handlers());
    let (mut client, mut seat) = connect(&app).await;
    client.send(r#"420["join","a"]"#).await;
    assert_eq!(client.next().await, "430[]");
    io.emit("m", "seen");
    seat.event(&client.next().await);
    lose(client, &io).await;
    io.to("a").emit("m", "its room");
    io.to("b").emit("m", "another room");
    io.to("b").to("a").emit("m", "two rooms");
    io.except("a").emit("m", "not its room");
    io.to("a").except(&seat.sid).emit("m", "not the socket");
    io.to(&seat.sid).emit("m", "the socket");
    io.emit("m", Bytes::from_static(b"bytes"));
    let (_client, missed, recovered) = packets_back(&app, &mut seat).await;
    assert!(recovered);
    let (bytes, texts) = missed.split_last().expect("something");
    let (header, texts) = texts.split_last().expect("something");
    let texts: Vec<_> = texts.iter().map(|packet| seat.event(packet)).collect();
    assert_eq!(
        texts,
        [
            r#"["m","its room"]"#,
            r#"["m","two rooms"]"#,
            r#"["m","the socket"]"#
        ]
    );
    assert_eq!(seat.event(header), r#"["m",{"_placeholder":true,"num":0}]"#);
    assert_eq!(bytes, "bYnl0ZXM=");
}

#[derive(Clone, Debug, PartialEq)]
struct User(&'static str);

#[tokio::test]
async fn a_recovered_socket_is_the_same_and_its_connect_handler_knows() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&seen);
    let connect_handler = async move |socket: Socket, Auth(auth): Auth<Value>| {
        let user = socket.extension::<User>();
        let data: Option<u8> = socket.data();
        let mut rooms = socket.rooms();
        rooms.sort();
        let entry = (socket.recovered(), user, data, rooms, auth);
        note.lock().expect("notes").push(entry);
        if !socket.recovered() {
            socket.insert(User("ada"));
            socket.set_data(7).expect("JSON");
            socket.join("a");
            socket.join("b");
        }
        socket.emit("welcome", socket.recovered());
    };
    let (app, io) = server(handlers().on_connect(connect_handler));
    let mut client = Polling::open(&app).await;
    let mut seat = Seat::default();
    seat.welcome(&client.ask(r#"40{"token":"t"}"#).await);
    assert_eq!(seat.event(&client.next().await), r#"["welcome",false]"#);
    client.send(r#"420["leave","b"]"#).await;
    assert_eq!(client.next().await, "430[]");
    for _ in 0..3 {
        lose(client, &io).await;
        client = Polling::open(&app).await;
        let sid = seat.sid.clone();
        let claim = seat.claim().replace('}', r#","token":"t"}"#);
        assert!(seat.welcome(&client.ask(&claim).await));
        assert_eq!(seat.sid, sid);
        assert_eq!(seat.event(&client.next().await), r#"["welcome",true]"#);
    }
    let seen = std::mem::take(&mut *seen.lock().expect("notes"));
    let auth = json!({ "token": "t" });
    assert_eq!(seen[0], (false, None, None, vec![], auth.clone()));
    let again = (true, Some(User("ada")), Some(7), vec!["a".to_owned()], auth);
    assert_eq!(seen[1..], [again.clone(), again.clone(), again]);
    io.to("a").emit("m", 1);
    io.to("b").emit("m", 2);
    io.to(&seat.sid).emit("m", 3);
    assert_eq!(seat.event(&client.next().await), r#"["m",1]"#);
    assert_eq!(seat.event(&client.next().await), r#"["m",3]"#);
}

#[tokio::test]
async fn a_client_that_was_sent_nothing_recovers() {
    let (app, io) = server(handlers());
    let (client, mut seat) = connect(&app).await;
    lose(client, &io).await;
    let (client, missed) = events_back(&app, &mut seat).await;
    assert!(missed.is_empty() && seat.offset.is_none());
    lose(client, &io).await;
    io.emit("m", 1);
    let (_client, missed) = events_back(&app, &mut seat).await;
    assert_eq!(missed, [r#"["m",1]"#]);
}

#[tokio::test]
async fn an_invalid_claim_connects_a_new_socket() {
    let (app, io) = server(handlers());
    let (mut client, mut seat) = connect(&app).await;
    io.emit("m", 1);
    seat.event(&client.next().await);
    lose(client, &io).await;
    let offset = seat.offset.clone().expect("an offset");
    for claim in [
        json!({ "pid": 1, "offset": offset }),
        json!({ "pid": seat.pid, "offset": 1 }),
        json!({ "pid": "unknown", "offset": offset }),
        json!({ "pid": "AAAAAAAAAAAAAAAAAAAAAA", "offset": offset }),
        json!({ "pid": seat.sid, "offset": offset }),
        json!({ "offset": offset }),
    ] {
        let mut client = Polling::open(&app).await;
        let mut other = Seat::default();
        assert!(!other.welcome(&client.ask(&format!("40{claim}")).await));
        assert_ne!(other.sid, seat.sid);
        assert_ne!(other.pid, seat.pid);
    }
    // None of these attempts has used up the recovery.
    events_back(&app, &mut seat).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_would_miss_events_gets_a_new_socket() {
    let small = Recovery::within(WITHIN).max_namespace_bytes(10_000);
    type Happens = fn(&SocketIo, &mut Seat);
    let cases: [(&str, Happens); 2] = [
        ("an offset that is none", |_, seat| {
            seat.offset = Some("abc".into())
        }),
        ("a packet that is gone", |io, _| {
            (0..100).for_each(|_| io.emit("m", "x".repeat(1000)));
        }),
    ];
    for (what, happens) in cases {
        let recovered = Arc::new(AtomicBool::new(false));
        let note = Arc::clone(&recovered);
        let connect_handler = async move |socket: Socket| {
            note.fetch_or(socket.recovered(), Ordering::Relaxed);
        };
        let (app, io) = server_with(handlers().on_connect(connect_handler), small);
        let (mut client, mut seat) = connect(&app).await;
        io.emit("m", 1);
        seat.event(&client.next().await);
        lose(client, &io).await;
        happens(&io, &mut seat);
        let sid = seat.sid.clone();
        let (_client, missed, is_recovered) = packets_back(&app, &mut seat).await;
        assert!(missed.is_empty() && !is_recovered, "{what}");
        assert_ne!(seat.sid, sid, "{what}");
        assert!(!recovered.load(Ordering::Relaxed), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_away_too_long_is_dropped_with_its_packets() {
    let (app, io) = server(handlers());
    let metrics = tokio::runtime::Handle::current().metrics();
    let baseline = metrics.num_alive_tasks();
    let mut seats = Vec::new();
    for _ in 0..20 {
        let (mut client, mut seat) = connect(&app).await;
        io.emit("m", "x");
        seat.event(&client.next().await);
        lose(client, &io).await;
        seats.push(seat);
    }
    let counts = io.counts();
    assert_eq!((counts.sockets, counts.recoverable), (0, 20));
    assert!(counts.recovery_bytes > 20 * 10);
    // The sessions end. One timer task for all suspended sockets remains.
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(io.counts().sessions, 0);
    assert_eq!(metrics.num_alive_tasks(), baseline + 1);

    tokio::time::sleep(WITHIN - Duration::from_secs(31)).await;
    let (client, missed) = events_back(&app, &mut seats[0]).await;
    assert_eq!(missed.len(), 19);
    client.post("41").await;
    until(|| io.counts().sockets == 0).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (client, recovered) = back(&app, &mut seats[1]).await;
    assert!(!recovered);
    client.post("41\x1e1").await;
    until(|| io.counts().sockets == 0).await;
    // The timer fires once more and ends.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let counts = io.counts();
    assert_eq!((counts.recoverable, counts.recovery_bytes), (0, 0));
    assert_eq!(metrics.num_alive_tasks(), baseline);
}

#[tokio::test(start_paused = true)]
async fn a_private_id_has_one_owner() {
    let reasons = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&reasons);
    let gone = async move |reason: DisconnectReason| note.lock().expect("notes").push(reason);
    let (app, io) = server(handlers().on_disconnect(gone));
    let (first, mut seat) = connect(&app).await;
    io.emit("m", 1);
    // The server has not noticed yet that the first connection is lost. The claim closes it.
    let (mut second, missed) = events_back(&app, &mut seat).await;
    assert_eq!(missed, [r#"["m",1]"#]);
    assert_eq!(io.counts().sockets, 1);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(io.counts().sessions, 1);
    assert_eq!(first.get().await.status(), 400);
    assert_eq!(
        *reasons.lock().expect("notes"),
        [DisconnectReason::TransportClose]
    );
    io.emit("m", 2);
    assert_eq!(seat.event(&second.next().await), r#"["m",2]"#);

    let (third, missed) = events_back(&app, &mut seat).await;
    assert!(missed.is_empty());
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(io.counts().sessions, 1);
    // The client leaves the namespace, so nothing can be restored.
    third.post("41").await;
    until(|| io.counts().sockets == 0).await;
    let pid = seat.pid.clone();
    let (_client, missed, recovered) = packets_back(&app, &mut seat).await;
    assert!(missed.is_empty() && !recovered && seat.pid != pid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_lost_connection_can_be_recovered() {
    async fn end(way: &str, mut client: Client) {
        match way {
            "close frame" => drop(client.stream.close(None).await),
            "reset" => drop(client),
            "close packet" => client.send("1").await,
            "violation" => client.send("40").await,
            "no packet" => client.send("4abc").await,
            "parse error" => client.send("abc").await,
            "leave" => client.send("41").await,
            "out" | "close" => client.send(&format!(r#"42["{way}"]"#)).await,
            other => panic!("{other}"),
        }
    }
    for (way, reason, is_back) in [
        ("close frame", DisconnectReason::TransportClose, true),
        ("reset", DisconnectReason::TransportClose, true),
        ("close packet", DisconnectReason::TransportClose, true),
        ("violation", DisconnectReason::ForcedServerClose, true),
        ("no packet", DisconnectReason::ForcedServerClose, true),
        ("parse error", DisconnectReason::ParseError, false),
        ("leave", DisconnectReason::ClientNamespaceDisconnect, false),
        ("out", DisconnectReason::ServerNamespaceDisconnect, false),
        ("close", DisconnectReason::ServerNamespaceDisconnect, false),
    ] {
        let reasons = Arc::new(Mutex::new(Vec::new()));
        let note = Arc::clone(&reasons);
        let gone = async move |reason: DisconnectReason| note.lock().expect("notes").push(reason);
        let (app, io) = server(handlers().on_disconnect(gone));
        let addr = serve(app.clone()).await;
        let mut client = Client::open(addr).await;
        let mut seat = Seat::default();
        seat.welcome(&client.ask("40").await);
        io.emit("m", 1);
        seat.event(&client.text().await);
        end(way, client).await;
        until(|| *reasons.lock().expect("notes") == [reason]).await;
        let (_client, recovered) = back(&app, &mut seat).await;
        assert_eq!(recovered, is_back, "{way}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_answer_pings_can_recover() {
    let (app, io) = server(handlers());
    let (client, mut seat) = connect(&app).await;
    io.emit("m", 1);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((io.counts().sockets, io.counts().recoverable), (0, 1));
    drop(client);
    let (_client, missed) = events_back(&app, &mut seat).await;
    assert_eq!(missed, [r#"["m",1]"#]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_consumer_recovers_and_misses_nothing() {
    let (app, io) = server(handlers());
    let (mut client, mut seat) = connect(&app).await;
    assert_eq!(client.ask(r#"421["join","room"]"#).await, "431[]");
    io.to("room").emit("m", 0);
    seat.event(&client.next().await);
    // The client stops reading, and the server emits more than `max_buffered`.
    let large = "x".repeat(500_000);
    for number in 0..25 {
        io.to("room").emit("m", Args((number, &large)));
    }
    until(|| io.counts().sockets == 0).await;
    let (mut client, recovered) = back(&app, &mut seat).await;
    assert!(recovered);
    for number in 0..25 {
        let event = seat.event(&client.next().await);
        let expected = format!(r#"["m",{number},"#);
        assert!(event.starts_with(&expected), "{number}: {event:.20}");
    }
    assert_eq!(client.ask(r#"421["join","room"]"#).await, "431[]");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_fetches_many_missed_events_is_not_a_slow_consumer() {
    let (app, io) = server(handlers());
    let (client, mut seat) = connect(&app).await;
    io.emit("m", 0);
    let mut client = client;
    seat.event(&client.next().await);
    lose(client, &io).await;
    let large = "x".repeat(500_000);
    for _ in 0..25 {
        io.emit("m", &large);
    }
    let mut client = Polling::open(&app).await;
    client.send(&seat.claim()).await;
    until(|| io.counts().sockets == 1).await;
    // The missed events are still queued.
    io.emit("m", "new");
    assert!(seat.welcome(&client.next().await));
    for number in 0..25 {
        let packet = client.next().await;
        assert!(packet.starts_with("42"), "event {number}: {packet:.100}");
        seat.event(&packet);
    }
    assert_eq!(seat.event(&client.next().await), r#"["m","new"]"#);
}

#[tokio::test(start_paused = true)]
async fn a_connection_lost_among_the_missed_events_repeats_none() {
    let (app, io) = server(handlers());
    let (client, mut seat) = connect(&app).await;
    lose(client, &io).await;
    let large = "x".repeat(500_000);
    for n in 0..10 {
        io.emit("m", (n, &large));
    }
    let mut heard = 0;
    let mut connections = 0;
    while heard < 10 {
        // The connection breaks after one payload.
        let (client, events) = events_back(&app, &mut seat).await;
        for event in events {
            assert!(
                event.starts_with(&format!(r#"["m",[{heard},"#)),
                "{event:.20}"
            );
            heard += 1;
        }
        lose(client, &io).await;
        connections += 1;
    }
    assert!(connections > 1);
    assert!(events_back(&app, &mut seat).await.1.is_empty());
}

#[tokio::test]
async fn two_polls_at_a_time_lose_the_connection_and_not_the_socket() {
    let reasons = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&reasons);
    let gone = async move |reason: DisconnectReason| note.lock().expect("notes").push(reason);
    let (app, io) = server(handlers().on_disconnect(gone));
    let (client, mut seat) = connect(&app).await;
    let poll = client.poll();
    until(|| io.sockets()[0].transport() == Transport::Polling).await;
    tokio::task::yield_now().await;
    assert_eq!(client.get().await.status(), 400);
    within(poll).await.expect("no panic");
    until(|| io.counts().sockets == 0).await;
    until(|| *reasons.lock().expect("notes") == [DisconnectReason::TransportError]).await;
    assert!(events_back(&app, &mut seat).await.1.is_empty());
}

#[tokio::test]
async fn a_client_that_recovers_can_be_refused_or_accepted() {
    let calls = Arc::new(AtomicUsize::new(0));
    let main = |calls: &Arc<AtomicUsize>| {
        let (handled, layered) = (Arc::clone(calls), Arc::clone(calls));
        let connect_handler = async move |socket: Socket| {
            handled.fetch_add(1, Ordering::Relaxed);
            if socket.recovered() {
                return Err(ErrorReply::new("again?"));
            }
            Ok(())
        };
        let layer = middleware::from_fn(
            move |event: tower_socketio::Event, next: middleware::Next| {
                layered.fetch_add(100, Ordering::Relaxed);
                next.run(event)
            },
        );
        handlers().on_connect(connect_handler).layer(layer)
    };
    let (app, io) = server(main(&calls));
    let (client, mut seat) = connect(&app).await;
    lose(client, &io).await;
    assert_eq!(calls.load(Ordering::Relaxed), 101);
    let mut client = Polling::open(&app).await;
    assert_eq!(client.ask(&seat.claim()).await, r#"44{"message":"again?"}"#);
    assert_eq!(calls.load(Ordering::Relaxed), 202);
    // The refusal has ended the recovery.
    assert_eq!((io.counts().sockets, io.counts().recoverable), (0, 0));
    assert!(!back(&app, &mut seat).await.1);

    let skip = Recovery::within(WITHIN).skip_connect_handler(true);
    let (app, io) = server_with(main(&calls), skip);
    let (client, mut seat) = connect(&app).await;
    lose(client, &io).await;
    let before = calls.load(Ordering::Relaxed);
    events_back(&app, &mut seat).await;
    assert_eq!(calls.load(Ordering::Relaxed), before);
    assert!(io.sockets()[0].recovered());
}

#[tokio::test(start_paused = true)]
async fn a_connection_lost_during_a_recovery_loses_nothing() {
    let gate = Arc::new(Notify::new());
    let opened = Arc::clone(&gate);
    let waits = async move |socket: Socket| {
        if socket.recovered() {
            opened.notified().await;
        }
    };
    let (app, io) = server(handlers().on_connect(waits));
    let (mut client, mut seat) = connect(&app).await;
    io.emit("m", 0);
    seat.event(&client.next().await);
    lose(client, &io).await;
    io.emit("m", 1);
    for n in 2..5 {
        // The connection breaks while the connect handler waits.
        let client = Polling::open(&app).await;
        client.post(seat.claim()).await;
        until(|| io.counts().sockets == 1).await;
        io.emit("m", n);
        lose(client, &io).await;
        gate.notify_one();
        // Wait until the session has ended.
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(io.counts().sessions, 0);
    }
    gate.notify_one();
    let (_client, missed) = events_back(&app, &mut seat).await;
    assert_eq!(missed, [1, 2, 3, 4].map(|n| format!(r#"["m",{n}]"#)));
}

#[tokio::test(start_paused = true)]
async fn a_connection_lost_during_the_connect_leaves_no_socket() {
    let gate = Arc::new(Notify::new());
    let opened = Arc::clone(&gate);
    let ends = Arc::new(Mutex::new(Vec::new()));
    let (connected, left) = (Arc::clone(&ends), Arc::clone(&ends));
    let waits = async move |socket: Socket| {
        opened.notified().await;
        socket.join("too late");
        socket.emit("too late", 1);
        connected.lock().expect("notes").push(socket.is_connected());
    };
    let main = handlers()
        .on_connect(waits)
        .on_disconnect(async move |socket: Socket| {
            left.lock().expect("notes").push(socket.is_connected());
        });
    let (app, io) = server(main);
    let client = Polling::open(&app).await;
    client.post("40").await;
    until(|| io.counts().sockets == 1).await;
    lose(client, &io).await;
    // The client never got its private id.
    assert_eq!(io.counts().recoverable, 0);
    gate.notify_one();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!((io.counts().sessions, io.counts().rooms), (0, 0));
    // The connect handler has accepted the socket, so the disconnect handler runs too.
    assert_eq!(*ends.lock().expect("notes"), [false, false]);
}

#[tokio::test]
async fn the_actions_of_handlers_after_the_loss_are_recovered() {
    let gate = Arc::new(Notify::new());
    let opened = Arc::clone(&gate);
    let order = Arc::new(Mutex::new(Vec::new()));
    let (work_order, gone_order, connect_order) =
        (Arc::clone(&order), Arc::clone(&order), Arc::clone(&order));
    let main = handlers()
        .on("work", async move |socket: Socket| {
            opened.notified().await;
            socket.insert(User("late"));
            socket.set_data("late").expect("JSON");
            socket.emit("done", 1);
            work_order.lock().expect("notes").push("work");
        })
        .on_disconnect(async move || gone_order.lock().expect("notes").push("disconnect"))
        .on_connect(async move |socket: Socket| {
            connect_order.lock().expect("notes").push("connect");
            if socket.recovered() {
                assert_eq!(socket.extension(), Some(User("late")));
                assert_eq!(socket.data::<String>().as_deref(), Some("late"));
            }
        });
    let (app, io) = server(main);
    let (client, mut seat) = connect(&app).await;
    client.post(r#"42["work"]"#).await;
    lose(client, &io).await;
    let old = Polling::open(&app).await;
    old.post(seat.claim()).await;
    until(|| io.counts().sockets == 1).await;
    gate.notify_one();
    // That connection breaks too. The server sends everything again.
    let (_client, missed) = events_back(&app, &mut seat).await;
    assert_eq!(missed, [r#"["done",1]"#]);
    let order = order.lock().expect("notes");
    assert_eq!(order[..4], ["connect", "work", "disconnect", "connect"]);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_does_not_end_delays_a_recovery_for_five_seconds() {
    let (app, io) = server(handlers().on("hang", async || std::future::pending::<()>().await));
    let (client, mut seat) = connect(&app).await;
    client.post(r#"42["hang"]"#).await;
    lose(client, &io).await;
    let begin = tokio::time::Instant::now();
    events_back(&app, &mut seat).await;
    assert_eq!(begin.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_is_lost_before_it_has_its_data_passes_it_on() {
    let returns = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&returns);
    let main = handlers()
        .on("hang", std::future::pending::<()>)
        .on_connect(async move |socket: Socket| {
            if !socket.recovered() {
                socket.insert(User("first"));
                socket.set_data("first").expect("JSON");
            } else if counted.fetch_add(1, Ordering::Relaxed) == 0 {
                std::future::pending::<()>().await;
            }
        });
    let (app, io) = server(main);
    let (client, mut seat) = connect(&app).await;
    client.post(r#"42["hang"]"#).await;
    lose(client, &io).await;
    // It waits for the handler, and is lost before that is over.
    let old = Polling::open(&app).await;
    old.post(seat.claim()).await;
    until(|| io.counts().sockets == 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    lose(old, &io).await;
    // Its connect handler does not end, so this one does not wait for it for ever.
    let (client, _) = events_back(&app, &mut seat).await;
    assert_eq!(returns.load(Ordering::Relaxed), 2);
    let socket = io.sockets().remove(0);
    assert_eq!(socket.extension(), Some(User("first")));
    assert_eq!(socket.data::<String>().as_deref(), Some("first"));
    // From now on its own data counts.
    socket.set_data("later").expect("JSON");
    lose(client, &io).await;
    events_back(&app, &mut seat).await;
    let socket = io.sockets().remove(0);
    assert_eq!(socket.data::<String>().as_deref(), Some("later"));
}

#[tokio::test(start_paused = true)]
async fn the_data_of_a_socket_that_is_lost_before_it_has_it_has_to_fit() {
    let set_data = async |socket: Socket| {
        if !socket.recovered() {
            // That of the last socket does not fit.
            let _ = socket.set_data("x".repeat(6_000));
        }
    };
    let main = handlers().on("hang", std::future::pending::<()>);
    let (layer, io) = builder(main.on_connect(set_data))
        .namespace("/b", Namespace::new().on_connect(set_data))
        .recovery(Recovery::within(WITHIN))
        .max_kept(10_000)
        .build();
    let app = app(layer);
    let (client, mut seat) = connect(&app).await;
    client.post(r#"42["hang"]"#).await;
    lose(client, &io).await;
    let old = Polling::open(&app).await;
    old.post(seat.claim()).await;
    until(|| io.counts().sockets == 1).await;
    lose(old, &io).await;
    let mut client = Polling::open(&app).await;
    client.join("/b").await;
    assert!(!seat.welcome(&client.ask(&seat.claim()).await));
}

#[tokio::test]
async fn an_old_handle_reaches_the_recovered_client() {
    let (app, io) = server(handlers());
    let (client, mut seat) = connect(&app).await;
    let socket = io.sockets().remove(0);
    lose(client, &io).await;
    assert!(!socket.is_connected());
    assert!(socket.try_emit("m", "away").is_ok());
    let (mut client, missed) = events_back(&app, &mut seat).await;
    assert_eq!(missed, [r#"["m","away"]"#]);
    assert!(socket.try_emit("m", "back").is_ok());
    assert_eq!(seat.event(&client.next().await), r#"["m","back"]"#);
    client.post("41").await;
    until(|| io.counts().sockets == 0).await;
    assert!(
        socket
            .try_emit("m", "gone")
            .is_err_and(|error| error.is_closed())
    );
}

#[tokio::test(start_paused = true)]
async fn a_namespace_with_parameters_stays_while_a_client_may_recover() {
    let recovery = Recovery::within(WITHIN);
    let (layer, io) = builder(handlers())
        .namespace("/shop/{id}", handlers())
        .max_dynamic_namespaces(2)
        .recovery(recovery)
        .build();
    let app = app(layer);
    let mut seat = Seat::default();
    let mut client = Polling::open(&app).await;
    let welcome = client.ask("40/shop/1,").await;
    seat.welcome(&welcome.replace("/shop/1,", ""));
    lose(client, &io).await;
    assert_eq!(io.counts().namespaces, 2);
    io.of("/shop/1").emit("m", 1);

    let mut client = Polling::open(&app).await;
    client
        .send(&seat.claim().replacen("40", "40/shop/1,", 1))
        .await;
    assert!(seat.welcome(&client.next().await.replace("/shop/1,", "")));
    let missed = client.next().await.replace("/shop/1,", "");
    assert_eq!(seat.event(&missed), r#"["m",1]"#);
    lose(client, &io).await;

    // A namespace with a connected client displaces one with suspended sockets only.
    let mut others = Vec::new();
    for shop in 2..4 {
        let mut client = Polling::open(&app).await;
        client.join(&format!("/shop/{shop}")).await;
        others.push(client);
    }
    assert_eq!((io.counts().namespaces, io.counts().recoverable), (3, 0));
    let mut client = Polling::open(&app).await;
    assert!(client.ask("40/shop/4,").await.starts_with("44"));

    for client in others {
        lose(client, &io).await;
    }
    assert_eq!(io.counts().namespaces, 3);
    tokio::time::sleep(2 * WITHIN).await;
    assert_eq!(io.counts().namespaces, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_however_often_the_connection_breaks() {
    const ROUNDS: usize = 150;
    const SENDERS: usize = 3;
    let joins = async |socket: Socket| {
        if !socket.recovered() {
            socket.join("room");
        }
    };
    let (app, io) = server(handlers().on_connect(joins));
    let addr = serve(app).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut client = Client::open(addr).await;
    let mut seat = Seat::default();
    seat.welcome(&client.ask("40").await);
    // The client learns that it has joined a moment before the server lists its socket.
    until(|| io.sockets().len() == 1).await;
    let socket = io.sockets().remove(0);
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let (io, stop, socket) = (io.clone(), Arc::clone(&stop), socket.clone());
            tokio::spawn(async move {
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    let args = tower_socketio::Args((sender, n));
                    match sender {
                        0 => io.emit("n", args),
                        1 => io.to("room").except("nobody").emit("n", args),
                        _ => socket.emit("n", args),
                    }
                    n += 1;
                    tokio::time::sleep(Duration::from_micros(200)).await;
                }
                n
            })
        })
        .collect();

    let mut next = [0; SENDERS];
    let mut take = |seat: &mut Seat, packet: &str| {
        let event: Value = serde_json::from_str(&seat.event(packet)).expect("JSON");
        let sender = event[1].as_u64().expect("a number") as usize;
        assert_eq!(event[2], next[sender], "of sender {sender}");
        next[sender] += 1;
    };
    for round in 0..ROUNDS {
        for _ in 0..round % 7 {
            let packet = client.text().await;
            take(&mut seat, &packet);
        }
        let lost = std::mem::replace(&mut client, Client::open(addr).await);
        // In every third round, the server notices the loss only by the next connection.
        let silent = (round % 3 == 0).then_some(lost);
        client.send(&seat.claim()).await;
        loop {
            let packet = client.text().await;
            if packet.starts_with("40") {
                assert!(seat.welcome(&packet), "round {round}");
                break;
            }
            take(&mut seat, &packet);
        }
        drop(silent);
    }
    stop.store(true, Ordering::Relaxed);
    let mut sent = [0; SENDERS];
    for (sender, task) in senders.into_iter().enumerate() {
        sent[sender] = within(task).await.expect("no panic");
    }
    socket.emit("last", ());
    loop {
        let packet = client.text().await;
        if packet.contains("last") {
            break;
        }
        take(&mut seat, &packet);
    }
    assert_eq!(next, sent);
    until(|| io.counts().sockets == 1).await;
}

#[tokio::test(start_paused = true)]
async fn each_namespace_of_a_connection_is_recovered_by_itself() {
    let (layer, io) = builder(handlers())
        .namespace("/b", handlers())
        .recovery(Recovery::within(WITHIN))
        .build();
    let app = app(layer);
    let (mut client, mut seat) = connect(&app).await;
    let mut other = Seat::default();
    other.welcome(&client.ask("40/b,").await.replace("/b,", ""));
    io.emit("m", 1);
    io.of("/b").emit("m", 2);
    // The client connects again before the server notices that the old connection is lost.
    let (mut client, missed) = events_back(&app, &mut seat).await;
    assert_eq!(missed, [r#"["m",1]"#]);
    client.send(&other.claim().replacen("40", "40/b,", 1)).await;
    assert!(other.welcome(&client.next().await.replace("/b,", "")));
    assert_eq!(other.event(&client.next().await), r#"["m",2]"#);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(io.counts().sessions, 1);
    assert_eq!((io.counts().sockets, io.counts().recoverable), (2, 0));
}

#[tokio::test]
async fn bytes_are_missed_and_sent_again_over_websocket() {
    let (app, io) = server(handlers());
    let addr = serve(app.clone()).await;
    let (client, seat) = connect(&app).await;
    lose(client, &io).await;
    io.emit("m", Bytes::from_static(b"bytes"));
    let mut client = Client::open(addr).await;
    client.send(&seat.claim()).await;
    assert!(seat.clone().welcome(&client.text().await));
    assert!(
        client
            .text()
            .await
            .starts_with(r#"451-["m",{"_placeholder":true,"num":0},""#)
    );
    assert_eq!(client.next().await, Got::Binary(b"bytes".into()));
}

/// A value whose destructor panics.
struct Fragile;

impl Drop for Fragile {
    fn drop(&mut self) {
        panic!("meant");
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_an_expired_extension_harms_no_other_client() {
    let keeps = async |socket: Socket| {
        socket.insert(Arc::new(Fragile));
    };
    let (app, io) = server(handlers().on("keep", keeps));
    let (client, seat) = connect(&app).await;
    client.post(r#"42["keep"]"#).await;
    lose(client, &io).await;
    tokio::time::sleep(WITHIN - Duration::from_secs(1)).await;
    let (mut other, mut other_seat) = connect(&app).await;
    assert_eq!(io.counts().recoverable, 1);
    tokio::time::advance(Duration::from_millis(1001)).await;
    // The next emit drops the expired socket.
    io.emit("m", 1);
    assert_eq!(io.counts().recoverable, 0);
    assert_eq!(other_seat.event(&other.next().await), r#"["m",1]"#);
    let (_client, recovered) = back(&app, &mut seat.clone()).await;
    assert!(!recovered);
}

/// A value whose destructor uses the server, and records whether that call returned.
struct Curious(SocketIo);

static WAS_ANSWERED: AtomicBool = AtomicBool::new(false);

impl Drop for Curious {
    fn drop(&mut self) {
        let io = self.0.clone();
        let (sender, answer) = std::sync::mpsc::channel();
        // The call runs on another thread, so that a deadlock does not block the test for ever.
        std::thread::spawn(move || {
            io.of("/").emit("gone", ());
            sender.send(())
        });
        let answer = answer.recv_timeout(Duration::from_secs(60));
        WAS_ANSWERED.store(answer.is_ok(), Ordering::Release);
    }
}

/// Returns a server with a client in a dynamic namespace.
async fn client_of_a_shop() -> (Router, SocketIo, Polling) {
    let (layer, io) = builder(handlers())
        .namespace("/shop/{id}", handlers())
        .recovery(Recovery::within(WITHIN))
        .build();
    let app = app(layer);
    let mut client = Polling::open(&app).await;
    client.join("/shop/1").await;
    (app, io, client)
}

fn other_runtime() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    runtime.expect("a runtime")
}

/// Loses a client, and asserts that its socket and its namespace are dropped in time.
async fn expires(client: Polling, io: &SocketIo) {
    lose(client, io).await;
    assert_eq!(io.counts().recoverable, 1);
    tokio::time::sleep(WITHIN * 3).await;
    let counts = io.counts();
    assert_eq!((counts.recoverable, counts.namespaces), (0, 1));
}

/// The task that drops what has expired runs in the runtime of the first event.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_runtime_does_not_keep_expired_sockets() {
    let (_app, io, client) = client_of_a_shop().await;
    let emits = io.clone();
    let other = std::thread::spawn(move || {
        other_runtime().block_on(async { emits.of("/shop/1").emit("m", 1) });
    });
    other.join().expect("no panic");
    expires(client, &io).await;
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_is_not_driven_does_not_keep_expired_sockets() {
    let (_app, io, client) = client_of_a_shop().await;
    let runtime = other_runtime();
    let emits = io.clone();
    let emit = move || {
        runtime.block_on(async { emits.of("/shop/1").emit("m", 1) });
        runtime
    };
    // It goes on, and nobody drives it.
    let runtime = std::thread::spawn(emit).join().expect("no panic");
    expires(client, &io).await;
    runtime.shutdown_background();
}

#[tokio::test]
async fn the_extensions_of_a_displaced_namespace_are_dropped_without_a_lock() {
    let keeps = async |socket: Socket| {
        socket.insert(Arc::new(Curious(socket.io())));
    };
    let (layer, io) = builder(Namespace::new())
        .namespace("/shop/{id}", Namespace::new().on("keep", keeps))
        .max_dynamic_namespaces(1)
        .recovery(Recovery::within(WITHIN))
        .build();
    let app = app(layer);
    let mut client = Polling::open(&app).await;
    client.join("/shop/1").await;
    client.post(r#"42/shop/1,["keep"]"#).await;
    lose(client, &io).await;
    assert_eq!(io.counts().recoverable, 1);
    Polling::open(&app).await.join("/shop/2").await;
    assert_eq!(io.counts().recoverable, 0);
    assert!(WAS_ANSWERED.load(Ordering::Acquire));
}
