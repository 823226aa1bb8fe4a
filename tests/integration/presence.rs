//! Who is in a room, on one server and on several that a lossy network connects.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use futures_core::future::BoxFuture;
use serde_json::{Value, json};
use tower_socketio::cluster::{Broker, Command, Inbox, Memory, Port};
use tower_socketio::testing::Client;
use tower_socketio::{
    Args, Data, Namespace, Presence, PresenceDiff, PresenceError, PresenceState, Recovery, Socket,
    SocketIo,
};

use crate::recovery::{back, connect, lose, packets_back};
use crate::support::{Polling, until};

/// The users of a room, as `list` returns them.
type Users = BTreeMap<String, Vec<Value>>;

const GRACE: Duration = Duration::from_secs(5);

struct Server {
    app: Router,
    io: SocketIo,
    presence: Presence<Value>,
}

fn namespace(presence: &Presence<Value>) -> Namespace<Presence<Value>> {
    Namespace::new()
        .on("enter", enter)
        .on("update", update)
        .on("untrack", untrack)
        .on("leave", async |socket: Socket, Data(room): Data<String>| {
            socket.leave(room)
        })
        .on("out", async |socket: Socket| socket.disconnect())
        .presence(presence)
}

async fn enter(
    socket: Socket,
    State(presence): State<Presence<Value>>,
    Args((room, key, meta)): Args<(String, String, Value)>,
) -> Result<(), PresenceError> {
    presence.track(&socket, room, key, &meta)
}

async fn update(
    socket: Socket,
    State(presence): State<Presence<Value>>,
    Args((room, meta)): Args<(String, Value)>,
) -> Result<(), PresenceError> {
    presence.update(&socket, room, &meta)
}

async fn untrack(
    socket: Socket,
    State(presence): State<Presence<Value>>,
    Data(room): Data<String>,
) {
    presence.untrack(&socket, room);
}

impl Server {
    fn new() -> Self {
        Self::build(|builder| builder)
    }

    fn of(broker: impl Broker) -> Self {
        Self::build(|builder| builder.cluster(broker))
    }

    fn build(
        set_up: impl FnOnce(
            tower_socketio::SocketIoBuilder<Presence<Value>>,
        ) -> tower_socketio::SocketIoBuilder<Presence<Value>>,
    ) -> Self {
        let presence = Presence::new().grace(GRACE);
        let builder = SocketIo::builder()
            .namespace("/", namespace(&presence))
            .namespace("/team/{name}", namespace(&presence));
        let (layer, io) = set_up(builder).with_state(presence.clone()).build();
        Self {
            app: Router::new().layer(layer),
            io,
            presence,
        }
    }

    async fn viewer(&self) -> Viewer {
        let client = Client::connect(&self.app, "/").await.expect("it is let in");
        Viewer {
            client,
            rooms: BTreeMap::new(),
        }
    }

    fn list(&self, room: &str) -> Users {
        self.presence.list(room)
    }
}

/// A client that applies the events as a page does.
struct Viewer {
    client: Client,
    rooms: BTreeMap<String, PresenceState<Value>>,
}

impl Viewer {
    async fn enter(&self, room: &str, key: &str, meta: impl Into<Value>) {
        let entered = self
            .client
            .emit_with_ack::<()>("enter", Args((room, key, meta.into())));
        entered.await.expect("it is tracked");
    }

    async fn ask(&self, event: &str, args: impl tower_socketio::IntoArgs) {
        self.client
            .emit_with_ack::<()>(event, args)
            .await
            .expect("an answer");
    }

    fn users(&self, room: &str) -> Users {
        let state = self.rooms.get(room);
        state.map(|state| state.users.clone()).unwrap_or_default()
    }

    /// Applies the next event, and returns it.
    async fn next(&mut self) -> Value {
        let mut event = self.client.recv().await.expect("an event");
        let value: Value = event.data();
        match event.name() {
            "presence_state" => {
                let state: PresenceState<Value> = from(&value);
                self.rooms.insert(state.room.clone(), state);
            }
            "presence_diff" => {
                let diff: PresenceDiff<Value> = from(&value);
                let state = self.rooms.get_mut(&diff.room);
                state.expect("the state comes first").apply(diff);
            }
            other => panic!("the event {other}"),
        }
        value
    }

    /// Applies events until the users of a room are these.
    #[track_caller]
    fn sees(&mut self, room: &str, users: &Value) -> impl Future<Output = ()> + '_ {
        let caller = std::panic::Location::caller();
        let (room, users) = (room.to_owned(), from::<Users>(users));
        async move {
            let until = tokio::time::Instant::now() + Duration::from_secs(300);
            // Not a copy for each event: there may be hundreds of thousands.
            let sees = |viewer: &Self| match viewer.rooms.get(&room) {
                Some(state) => state.users == users,
                None => users.is_empty(),
            };
            while !sees(self) {
                if tokio::time::timeout_at(until, self.next()).await.is_err() {
                    panic!("{:?}, not {users:?} at {caller}", self.users(&room));
                }
            }
        }
    }

    /// Waits so long that everything has happened, and returns the number of events.
    async fn drain(&mut self, for_how_long: Duration) -> usize {
        let until = tokio::time::Instant::now() + for_how_long;
        let mut events = 0;
        while tokio::time::timeout_at(until, self.next()).await.is_ok() {
            events += 1;
        }
        events
    }
}

fn from<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).expect("of that type")
}

fn users(value: &Value) -> Users {
    from(value)
}

#[tokio::test(start_paused = true)]
async fn a_socket_gets_everybody_first_and_then_each_difference() {
    let server = Server::new();
    let (mut a, mut b) = (server.viewer().await, server.viewer().await);
    a.enter("room", "ada", json!({"name": "Ada"})).await;
    let state = json!({"room": "room", "users": {"ada": [{"name": "Ada"}]}});
    assert_eq!(a.next().await, state);
    b.enter("room", "bob", "Bob").await;
    let state = json!({"room": "room", "users": {"ada": [{"name": "Ada"}], "bob": ["Bob"]}});
    assert_eq!(b.next().await, state);
    let joins = json!({"room": "room", "joins": {"bob": ["Bob"]}, "updates": {}, "leaves": {}});
    assert_eq!(a.next().await, joins);

    b.ask("update", Args(("room", "away"))).await;
    let updates = json!({"room": "room", "joins": {}, "updates": {"bob": ["away"]}, "leaves": {}});
    assert_eq!(a.next().await, updates);
    assert_eq!(b.next().await, updates, "the one that has changed, too");

    b.ask("leave", "room").await;
    let leaves = json!({"room": "room", "joins": {}, "updates": {}, "leaves": {"bob": ["away"]}});
    assert_eq!(a.next().await, leaves);
    assert_eq!(server.list("room"), a.users("room"));
    // One that has left the room gets nothing more.
    a.ask("update", Args(("room", 2))).await;
    assert_eq!(b.drain(Duration::from_secs(60)).await, 0);
}

#[tokio::test(start_paused = true)]
async fn several_tabs_are_one_entry() {
    let server = Server::new();
    let mut a = server.viewer().await;
    a.enter("room", "ada", 1).await;
    a.sees("room", &json!({"ada": [1]})).await;
    let (mut b, c) = (server.viewer().await, server.viewer().await);
    b.enter("room", "bob", 1).await;
    a.sees("room", &json!({"ada": [1], "bob": [1]})).await;
    c.enter("room", "bob", 1).await;
    drop(c);
    assert_eq!(a.drain(Duration::from_secs(60)).await, 0, "no difference");

    // Other metadata is one more, and one key has both.
    let c = server.viewer().await;
    c.enter("room", "bob", 2).await;
    a.next().await;
    let mut both = a.users("room")["bob"].clone();
    both.sort_by_key(Value::to_string);
    assert_eq!(both, [1, 2]);
    b.ask("untrack", "room").await;
    a.sees("room", &json!({"ada": [1], "bob": [2]})).await;
    // One that is not tracked still sees who is there.
    b.sees("room", &json!({"ada": [1], "bob": [2]})).await;

    // Both tabs at once.
    b.enter("room", "bob", 2).await;
    drop((b, c));
    a.sees("room", &json!({"ada": [1]})).await;
    assert_eq!(server.list("room"), a.users("room"));
}

#[tokio::test(start_paused = true)]
async fn another_key_in_the_same_room_replaces_the_former_one() {
    let server = Server::new();
    let (mut a, b) = (server.viewer().await, server.viewer().await);
    a.enter("room", "ada", 1).await;
    a.sees("room", &json!({"ada": [1]})).await;
    b.enter("room", "bob", 1).await;
    b.enter("room", "eve", 2).await;
    a.sees("room", &json!({"ada": [1], "eve": [2]})).await;
    assert_eq!(server.list("room").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_leaves_after_the_grace_and_a_client_that_goes_leaves_at_once() {
    let server = Server::new();
    let mut a = server.viewer().await;
    a.enter("room", "ada", 1).await;
    a.next().await;
    let start = tokio::time::Instant::now;
    for (n, expected) in [GRACE, Duration::ZERO, Duration::ZERO]
        .into_iter()
        .enumerate()
    {
        let b = server.viewer().await;
        b.enter("room", "bob", 1).await;
        a.sees("room", &json!({"ada": [1], "bob": [1]})).await;
        let before = start();
        match n {
            0 => drop(b),
            1 => b.client.disconnect().await,
            _ => b.client.emit("out", ()),
        }
        a.sees("room", &json!({"ada": [1]})).await;
        assert_eq!(before.elapsed().as_millis() / 10, expected.as_millis() / 10);
    }

    // A reload.
    let b = server.viewer().await;
    b.enter("room", "bob", 1).await;
    a.sees("room", &json!({"ada": [1], "bob": [1]})).await;
    drop(b);
    assert_eq!(a.drain(GRACE / 2).await, 0);
    let b = server.viewer().await;
    b.enter("room", "bob", 1).await;
    assert_eq!(a.drain(2 * GRACE).await, 0, "nobody has seen it");
    drop(b);
}

#[tokio::test(start_paused = true)]
async fn what_a_client_makes_the_server_keep_is_limited() {
    let server = Server::build(|builder| builder.max_rooms(2).max_kept(20_000));
    let a = server.viewer().await;
    let enter = async |room: &str, meta: Value| {
        let entered = a
            .client
            .emit_with_ack::<Value>("enter", Args((room, "ada", meta)));
        entered.await.expect("an answer")
    };
    let big = json!("x".repeat(20_000));
    let too_big = json!({"error": "the connection keeps too much: see max_kept"});
    assert_eq!(enter("1", big.clone()).await, too_big);
    assert_eq!(enter("1", json!(1)).await, Value::Null);
    assert_eq!(enter("1", big).await, too_big);
    assert_eq!(
        server.list("1"),
        users(&json!({"ada": [1]})),
        "the former ones stay"
    );
    assert_eq!(enter("2", json!(1)).await, Value::Null);
    let not_there = json!({"error": "the socket is not in the room"});
    assert_eq!(enter("3", json!(1)).await, not_there);

    // What has ended counts no longer.
    for n in 0..1_000 {
        let meta = json!("x".repeat(5_000 + n % 10));
        assert_eq!(enter("1", meta).await, Value::Null, "time {n}");
        match n % 3 {
            0 => a.ask("untrack", "1").await,
            1 => a.ask("leave", "1").await,
            _ => {}
        }
    }
}

/// The state is one message: one that is too long for the buffer would close each client that enters.
#[tokio::test(start_paused = true)]
async fn a_room_whose_state_would_be_too_long_is_full() {
    let server = Server::build(|builder| builder.max_buffered(4_000));
    let text = "x".repeat(400);
    let mut viewers = Vec::new();
    for (name, expected) in [
        ("ada", Value::Null),
        ("bob", Value::Null),
        (
            "cid",
            json!({"error": "too many users are in the room: see max_buffered"}),
        ),
    ] {
        let viewer = server.viewer().await;
        let args = Args(("room", name, &text));
        let entered = viewer.client.emit_with_ack::<Value>("enter", args).await;
        let entered = entered.unwrap_or_default();
        assert_eq!(entered, expected, "{name}");
        viewers.push(viewer);
    }
    // The third one watches. Another room has room, and shorter metadata fit.
    let both = json!({"ada": [&text], "bob": [&text]});
    viewers[2].sees("room", &both).await;
    viewers[2].enter("other", "cid", &*text).await;
    viewers[1].ask("update", Args(("room", 1))).await;
    viewers[2].enter("room", "cid", &*text).await;
}

#[tokio::test(start_paused = true)]
async fn each_namespace_has_its_own_rooms() {
    let server = Server::new();
    let mut a = server.viewer().await;
    a.enter("room", "ada", 1).await;
    a.next().await;
    let b = Client::connect(&server.app, "/team/red")
        .await
        .expect("it is let in");
    let entered = b.emit_with_ack::<()>("enter", Args(("room", "bob", 1)));
    entered.await.expect("it is tracked");
    assert_eq!(server.list("room"), users(&json!({"ada": [1]})));
    let red = || server.presence.list_in("/team/red", "room");
    assert_eq!(red(), users(&json!({"bob": [1]})));
    drop(b);
    assert_eq!(a.drain(2 * GRACE).await, 0);
    assert_eq!(red(), Users::new());
}

#[tokio::test]
#[should_panic(expected = "add it by `Namespace::presence`")]
async fn a_namespace_without_the_presence_tracks_nobody() {
    let presence = Presence::<u32>::new();
    let (layer, io) = SocketIo::builder()
        .namespace("/", Namespace::<()>::new())
        .with_state(())
        .build();
    let app = Router::new().layer(layer);
    let _client = Client::connect(&app, "/").await.expect("it is let in");
    let _ = presence.track(&io.sockets()[0], "room", "ada", &1);
}

#[test]
#[should_panic(expected = "a presence belongs to one server")]
fn a_presence_of_a_pattern_belongs_to_one_server() {
    let presence = Presence::<u32>::new();
    let build = || {
        SocketIo::builder()
            .namespace("/room/{id}", Namespace::<()>::new().presence(&presence))
            .with_state(())
            .build()
    };
    let _first = build();
    let _second = build();
}

#[test]
#[should_panic(expected = "another presence of this namespace sends the event `presence_state`")]
fn two_presences_of_a_namespace_need_different_events() {
    let a = Presence::<u32>::new();
    let b = Presence::<String>::new().events("presence_state", "others_diff");
    let _ = Namespace::<()>::new().presence(&a).presence(&b);
}

// ---- Recovery.

fn recovering(broker: Option<Memory>) -> Server {
    Server::build(|builder| {
        let builder = builder.recovery(Recovery::within(Duration::from_secs(120)));
        match broker {
            Some(broker) => builder.cluster(broker),
            None => builder,
        }
    })
}

/// Over the log of a cluster, differences are not sent again.
#[tokio::test(start_paused = true)]
async fn a_watcher_that_recovers_learns_that_all_have_left() {
    let server = recovering(Some(Memory::with_log()));
    let a = server.viewer().await;
    a.enter("room", "ada", 1).await;
    let (mut bob, mut seat) = connect(&server.app).await;
    enter_by_polling(&mut bob, "bob").await;
    bob.send(r#"42["untrack","room"]"#).await;
    while server.list("room").len() != 1 {
        tokio::task::yield_now().await;
    }
    lose(bob, &server.io).await;
    a.client.disconnect().await;
    while !server.list("room").is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(3 * GRACE).await;
    let (mut bob, recovered) = back(&server.app, &mut seat).await;
    assert!(recovered);
    let state = tokio::time::timeout(GRACE, until_state(&mut bob)).await;
    assert_eq!(state.expect("a state"), json!({}));
}

/// Tracks a polling client, and returns the users of the state that it gets.
async fn enter_by_polling(client: &mut Polling, key: &str) -> Value {
    client
        .send(&format!(r#"42["enter","room","{key}",1]"#))
        .await;
    until_state(client).await
}

async fn until_state(client: &mut Polling) -> Value {
    loop {
        let packet = client.next().await;
        if let Some(event) = packet.strip_prefix("42") {
            let event: Value = serde_json::from_str(event).expect("JSON");
            if event[0] == "presence_state" {
                return event[1]["users"].clone();
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_recovers_in_time_was_never_away_and_a_late_one_joins_again() {
    let server = recovering(None);
    let mut a = server.viewer().await;
    a.enter("room", "ada", 1).await;
    a.next().await;
    let (mut client, mut seat) = connect(&server.app).await;
    let both = json!({"ada": [1], "bob": [1]});
    assert_eq!(enter_by_polling(&mut client, "bob").await, both);
    a.sees("room", &both).await;

    lose(client, &server.io).await;
    tokio::time::sleep(GRACE / 2).await;
    let (mut client, recovered) = back(&server.app, &mut seat).await;
    assert!(recovered);
    assert_eq!(until_state(&mut client).await, both);
    assert_eq!(a.drain(3 * GRACE).await, 0);

    lose(client, &server.io).await;
    a.sees("room", &json!({"ada": [1]})).await;
    a.drain(3 * GRACE).await;
    let (mut client, recovered) = back(&server.app, &mut seat).await;
    assert!(recovered);
    assert_eq!(until_state(&mut client).await, both);
    a.sees("room", &both).await;

    // One that does not come back leaves nothing behind.
    lose(client, &server.io).await;
    a.sees("room", &json!({"ada": [1]})).await;
    a.drain(Duration::from_secs(600)).await;
    assert_eq!(server.list("room"), users(&json!({"ada": [1]})));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_recovers_on_another_server_is_tracked_there() {
    let memory = Memory::with_log();
    let servers = [(); 2].map(|()| recovering(Some(memory.clone())));
    for server in &servers {
        while server.io.server_count().await != Ok(2) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let mut a = servers[0].viewer().await;
    a.enter("room", "ada", 1).await;
    a.next().await;
    let (mut client, mut seat) = connect(&servers[0].app).await;
    let both = json!({"ada": [1], "bob": [1]});
    assert_eq!(enter_by_polling(&mut client, "bob").await, both);
    a.sees("room", &both).await;

    let mut at = 0;
    for is_late in [false, true, true, false] {
        lose(client, &servers[at].io).await;
        if is_late {
            a.sees("room", &json!({"ada": [1]})).await;
            a.drain(2 * GRACE).await;
        }
        at = 1 - at;
        let recovered;
        (client, recovered) = back(&servers[at].app, &mut seat).await;
        assert!(recovered, "on server {at}");
        assert_eq!(until_state(&mut client).await, both);
        if is_late {
            a.sees("room", &both).await;
        }
        assert_eq!(a.drain(2 * GRACE).await, 0);
        assert_eq!(servers[at].list("room"), users(&both));
    }
    client.post("41").await;
    a.sees("room", &json!({"ada": [1]})).await;
}

/// Waits until two servers know each other.
async fn until_together(servers: &[Server; 2]) {
    for server in servers {
        while server.io.server_count().await != Ok(2) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_server_has_shut_down_is_tracked_where_it_recovers() {
    let memory = Memory::with_log();
    let servers = [(); 2].map(|()| recovering(Some(memory.clone())));
    until_together(&servers).await;
    let mut a = servers[0].viewer().await;
    a.enter("room", "ada", 1).await;
    a.next().await;
    let (mut client, mut seat) = connect(&servers[1].app).await;
    let both = json!({"ada": [1], "bob": [1]});
    assert_eq!(enter_by_polling(&mut client, "bob").await, both);
    a.sees("room", &both).await;

    servers[1].io.close().await;
    drop(client);
    a.sees("room", &json!({"ada": [1]})).await;
    a.drain(Duration::from_secs(30)).await;
    let (mut client, recovered) = back(&servers[0].app, &mut seat).await;
    assert!(recovered);
    assert_eq!(until_state(&mut client).await, both);
    a.sees("room", &both).await;
}

#[tokio::test(start_paused = true)]
async fn states_are_not_kept_for_recovery() {
    let server = Server::build(|builder| {
        let recovery = Recovery::within(Duration::from_secs(120));
        builder.recovery(recovery.max_packet_bytes(4_000))
    });
    let (mut client, mut seat) = connect(&server.app).await;
    client.send(r#"42["enter","room","bob",1]"#).await;
    until_state(&mut client).await;
    server.io.emit("last", 1);
    loop {
        let packet = client.next().await;
        if let Some(event) = packet.strip_prefix("42") {
            let event: Value = serde_json::from_str(event).expect("JSON");
            if event[0] == "last" {
                let offset = event.as_array().and_then(|event| event.last());
                seat.offset = offset.and_then(Value::as_str).map(str::to_owned);
                break;
            }
        }
    }
    lose(client, &server.io).await;
    server.io.emit("missed", 1);
    let a = server.viewer().await;
    for _ in 0..50 {
        a.enter("room", "ada", 1).await;
    }
    let (_, missed, recovered) = packets_back(&server.app, &mut seat).await;
    assert!(recovered);
    assert!(
        missed.iter().any(|packet| packet.contains("missed")),
        "{missed:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn one_that_was_not_tracked_gets_the_state_of_the_room_that_it_has_joined() {
    let server = Server::build(|builder| builder.max_kept(20_000));
    let (a, mut b) = (server.viewer().await, server.viewer().await);
    a.enter("room", "ada", 1).await;
    let big = Args(("room", "bob", "x".repeat(20_000)));
    let entered = b.client.emit_with_ack::<Value>("enter", big).await;
    assert!(entered.expect("an answer")["error"].is_string());
    b.sees("room", &json!({"ada": [1]})).await;
    a.ask("update", Args(("room", 2))).await;
    b.sees("room", &json!({"ada": [2]})).await;
}

#[tokio::test(start_paused = true)]
async fn keys_may_have_names_of_javascript() {
    let server = Server::new();
    let mut a = server.viewer().await;
    a.enter("__proto__", "__proto__", "constructor").await;
    a.sees("__proto__", &json!({"__proto__": ["constructor"]}))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_join_at_once_agree() {
    let server = Server::new();
    let mut viewers = Vec::new();
    for _ in 0..300 {
        viewers.push(server.viewer().await);
    }
    let tasks: Vec<_> = server
        .io
        .sockets()
        .into_iter()
        .map(|socket| {
            let presence = server.presence.clone();
            tokio::task::spawn_blocking(move || {
                for round in 0..2 {
                    let key = socket.id().to_string();
                    let tracked = presence.track(&socket, "room", key, &json!(round));
                    tracked.expect("it is tracked");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    let expected = json!(server.list("room"));
    assert_eq!(server.list("room").len(), 300);
    for viewer in &mut viewers {
        viewer.sees("room", &expected).await;
    }
}

// ---- Several servers.

#[tokio::test(start_paused = true)]
async fn handlers_of_the_application_do_not_delay_a_presence_nor_see_its_messages() {
    let memory = Memory::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let (_without, io) = SocketIo::builder()
        .namespace(
            "/",
            Namespace::<()>::new().server_event_fallback(
                async move |event: tower_socketio::ServerEvent| {
                    log.lock().expect("no panic").push(event.name().to_owned());
                },
            ),
        )
        .cluster(memory.clone())
        .with_state(())
        .build();
    let one = Server::of(memory.clone());
    let presence = Presence::new();
    let stuck = namespace(&presence).on_server_event("wait", std::future::pending::<()>);
    let (_two, two) = SocketIo::builder()
        .namespace("/", stuck)
        .cluster(memory)
        .with_state(presence.clone())
        .build();
    while one.io.server_count().await != Ok(3) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..2_000 {
        one.io.server_side_emit("wait", ()).expect("it is sent");
        tokio::task::yield_now().await;
    }
    let a = one.viewer().await;
    a.enter("room", "ada", 1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(presence.list("room"), users(&json!({"ada": [1]})));
    let seen = seen.lock().expect("no panic");
    assert!(
        !seen.is_empty() && seen.iter().all(|name| name == "wait"),
        "{seen:?}"
    );
    drop((io, two));
}

/// A broker that connects the servers of one process, and can lose messages.
#[derive(Clone, Debug, Default)]
struct Net(Arc<Mutex<NetState>>);

#[derive(Debug, Default)]
struct NetState {
    servers: HashMap<String, Inbox>,
    /// The servers that nothing reaches, and that reach nobody. They do not know.
    cut: HashSet<String>,
    /// Of how many messages one is lost.
    loss: Option<u64>,
    sent: u64,
}

impl Net {
    fn cut(&self, server: &Server, is_cut: bool) {
        let id = server
            .io
            .cluster()
            .expect("a cluster")
            .server_id()
            .to_owned();
        let cut = &mut self.0.lock().expect("no panic").cut;
        match is_cut {
            true => cut.insert(id),
            false => cut.remove(&id),
        };
    }

    fn receivers(&self, me: &str) -> Vec<Inbox> {
        let mut net = self.0.lock().expect("no panic");
        if net.cut.contains(me) {
            return Vec::new();
        }
        let mut receivers = Vec::new();
        let ids: Vec<_> = net.servers.keys().cloned().collect();
        for id in ids {
            net.sent += 1;
            // Spread, but the same in each run.
            let is_lost = net.loss.is_some_and(|loss| {
                (net.sent.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) % loss == 0
            });
            if id != me && !net.cut.contains(&id) && !is_lost {
                receivers.push(net.servers[&id].clone());
            }
        }
        receivers
    }
}

impl Broker for Net {
    fn run(self: Arc<Self>, mut port: Port) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let (me, inbox) = (port.server_id().to_owned(), port.inbox());
            let net = &self.0;
            net.lock()
                .expect("no panic")
                .servers
                .insert(me.clone(), inbox.clone());
            inbox.connected();
            while let Some(command) = port.next().await {
                match command {
                    Command::Publish { envelope, done } => {
                        for receiver in self.receivers(&me) {
                            receiver.deliver(envelope.clone()).await;
                        }
                        done.published();
                    }
                    Command::Sync { synced } => synced.done(),
                    _ => {}
                }
            }
            net.lock().expect("no panic").servers.remove(&me);
        })
    }
}

#[tokio::test(start_paused = true)]
async fn the_entries_of_all_servers_count() {
    let memory = Memory::new();
    let (one, two) = (Server::of(memory.clone()), Server::of(memory.clone()));
    let (mut a, mut b) = (one.viewer().await, two.viewer().await);
    a.enter("room", "ada", 1).await;
    b.enter("room", "bob", 1).await;
    let both = json!({"ada": [1], "bob": [1]});
    a.sees("room", &both).await;
    b.sees("room", &both).await;

    // A server that begins asks for what is there.
    let three = Server::of(memory);
    let before = tokio::time::Instant::now();
    while three.list("room") != users(&both) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(before.elapsed() < Duration::from_millis(500), "at once");

    // Two tabs of one user on two servers.
    let c = three.viewer().await;
    c.enter("room", "bob", 1).await;
    assert_eq!(a.drain(GRACE).await, 0);
    b.ask("leave", "room").await;
    assert_eq!(a.drain(GRACE).await, 0);
    c.client.disconnect().await;
    a.sees("room", &json!({"ada": [1]})).await;
    for server in [one, two, three] {
        assert_eq!(server.list("room"), users(&json!({"ada": [1]})));
    }
}

/// While a namespace is not open on a server, that server gets no messages for it.
#[tokio::test(start_paused = true)]
async fn a_namespace_that_opens_again_has_no_former_users() {
    let memory = Memory::new();
    let (one, two) = (Server::of(memory.clone()), Server::of(memory));
    let join = async |server: &Server| {
        let client = Client::connect(&server.app, "/team/red").await;
        let client = client.expect("it is let in");
        let rooms = BTreeMap::new();
        Viewer { client, rooms }
    };
    let (mut a, b) = (join(&one).await, join(&two).await);
    a.enter("room", "ada", 1).await;
    b.enter("room", "bob", 1).await;
    a.sees("room", &json!({"ada": [1], "bob": [1]})).await;
    b.client.disconnect().await;
    a.sees("room", &json!({"ada": [1]})).await;
    a.client.disconnect().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut c = join(&two).await;
    c.enter("room", "cid", 1).await;
    c.next().await;
    assert_eq!(c.users("room"), users(&json!({"cid": [1]})));
}

#[tokio::test(start_paused = true)]
async fn the_entries_of_a_lost_server_leave_and_come_back_with_it() {
    let net = Net::default();
    let servers = [(); 3].map(|()| Server::of(net.clone()));
    let mut viewers = Vec::new();
    for (server, key) in servers.iter().zip(["ada", "bob", "eve"]) {
        let viewer = server.viewer().await;
        viewer.enter("room", key, 1).await;
        viewers.push(viewer);
    }
    let all = json!({"ada": [1], "bob": [1], "eve": [1]});
    for viewer in &mut viewers {
        viewer.sees("room", &all).await;
    }

    net.cut(&servers[2], true);
    let before = tokio::time::Instant::now();
    for viewer in &mut viewers[..2] {
        viewer.sees("room", &json!({"ada": [1], "bob": [1]})).await;
    }
    let after = before.elapsed().as_secs();
    assert!((13..=17).contains(&after), "after {after} seconds");
    viewers[2].sees("room", &json!({"eve": [1]})).await;
    // What changes meanwhile.
    let late = servers[2].viewer().await;
    late.enter("room", "ann", 1).await;
    viewers[0].ask("untrack", "room").await;

    net.cut(&servers[2], false);
    let all = json!({"ann": [1], "bob": [1], "eve": [1]});
    for viewer in &mut viewers {
        viewer.sees("room", &all).await;
    }
}

#[tokio::test(start_paused = true)]
async fn all_clients_agree_after_random_programs_on_a_lossy_network() {
    for seed in 1..=8_u64 {
        let net = Net::default();
        net.0.lock().expect("no panic").loss = [None, Some(4), Some(20)][seed as usize % 3];
        let mut servers: Vec<_> = (0..3).map(|_| Server::of(net.clone())).collect();
        let mut random = seed;
        let mut below = |bound: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 11) as usize % bound
        };
        let mut viewers: Vec<(usize, Viewer)> = Vec::new();
        let mut stopped = Vec::new();
        for _ in 0..150 {
            let (at, key) = (below(3), format!("key{}", below(4)));
            let room = ["red", "blue"][below(2)];
            match below(12) {
                0..=4 => {
                    let viewer = servers[at].viewer().await;
                    viewer.enter(room, &key, below(3)).await;
                    viewers.push((at, viewer));
                }
                5 | 6 if !viewers.is_empty() => {
                    let nth = below(viewers.len());
                    viewers[nth].1.enter(room, &key, below(3)).await;
                }
                7 if !viewers.is_empty() => {
                    let nth = below(viewers.len());
                    viewers[nth].1.ask("untrack", room).await;
                }
                8 if !viewers.is_empty() => {
                    // Its connection is lost, or it goes.
                    let nth = below(viewers.len());
                    let (_, viewer) = viewers.swap_remove(nth);
                    match below(2) {
                        0 => drop(viewer),
                        _ => viewer.client.disconnect().await,
                    }
                }
                9 => tokio::time::sleep(Duration::from_millis(below(8_000) as u64)).await,
                10 if below(4) == 0 => {
                    // A crash, and a new server.
                    net.cut(&servers[at], true);
                    viewers.retain(|(server, _)| *server != at);
                    stopped.push(std::mem::replace(&mut servers[at], Server::of(net.clone())));
                }
                _ => {
                    let is_cut = below(2) == 0;
                    net.cut(&servers[at], is_cut);
                }
            }
        }
        net.0.lock().expect("no panic").loss = None;
        servers.iter().for_each(|server| net.cut(server, false));
        tokio::time::sleep(Duration::from_secs(60)).await;
        for room in ["red", "blue"] {
            let expected = servers[0].list(room);
            for server in &servers {
                assert_eq!(server.list(room), expected, "seed {seed}");
            }
        }
        for (at, viewer) in &mut viewers {
            viewer.drain(Duration::from_millis(10)).await;
            for room in ["red", "blue"] {
                if viewer.rooms.contains_key(room) {
                    assert_eq!(viewer.users(room), servers[*at].list(room), "seed {seed}");
                }
            }
        }
        // Nothing of the former ones is left when the last has gone.
        drop(viewers);
        tokio::time::sleep(Duration::from_secs(60)).await;
        for server in servers {
            assert_eq!(server.list("red"), Users::new(), "seed {seed}");
            assert_eq!(server.list("blue"), Users::new(), "seed {seed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_socket_that_leaves_while_it_joins_leaves_nothing() {
    let server = Server::new();
    let mut watcher = server.viewer().await;
    watcher.enter("room", "watcher", 0).await;
    let app = server.app.clone();
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Client::connect(&app, "/").await.expect("it is let in"));
    }
    for round in 0..200_u32 {
        let sockets = server.io.sockets();
        let tasks: Vec<_> = sockets
            .into_iter()
            .filter(|socket| *socket.id().as_str() != *watcher.client.id())
            .flat_map(|socket| {
                let (other, presence) = (socket.clone(), server.presence.clone());
                // An error means that it has left.
                let track = move || drop(presence.track(&socket, "room", "ada", &json!(round)));
                let leave = move || match round % 20 {
                    0 => other.disconnect(),
                    _ => other.leave("room"),
                };
                [
                    tokio::task::spawn_blocking(track.clone()),
                    tokio::task::spawn_blocking(leave),
                    tokio::task::spawn_blocking(track),
                ]
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic");
        }
        let here = server.io.to("room").sockets().len() > 1;
        assert_eq!(
            server.list("room").contains_key("ada"),
            here,
            "round {round}"
        );
        if round % 20 == 0 {
            clients.clear();
            for _ in 0..4 {
                clients.push(Client::connect(&app, "/").await.expect("it is let in"));
            }
        }
    }
    clients.clear();
    until(|| server.list("room") == users(&json!({"watcher": [0]}))).await;
    // The last of many events.
    watcher.enter("room", "watcher", 1).await;
    watcher.sees("room", &json!({"watcher": [1]})).await;
}
