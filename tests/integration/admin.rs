//! The Admin UI, as its page uses it: a client of the namespace `/admin`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tower_socketio::admin::{AdminUi, Mode};
use tower_socketio::cluster::Memory;
use tower_socketio::testing::{Client, Disconnect};
use tower_socketio::{Args, Data, Namespace, RawArgs, Recovery, Socket, SocketIo, SocketIoBuilder};

use crate::support::{in_memory, raw_session_on, text_frame, until};

/// The hash of `sesame`, with the least cost.
fn hash() -> String {
    bcrypt::hash("sesame", 4).expect("a hash")
}

fn good() -> Value {
    json!({ "username": "ada", "password": "sesame" })
}

async fn join(socket: Socket, Data(room): Data<String>) {
    socket.join(room);
}

async fn leave(socket: Socket, Data(room): Data<String>) {
    socket.leave(room);
}

async fn set(socket: Socket, Data(data): Data<Value>) -> Result<(), &'static str> {
    socket.set_data(data).map_err(|_| "too long")
}

async fn echo(socket: Socket, args: RawArgs) {
    socket.emit("echo", args);
}

async fn shout(socket: Socket, Data(text): Data<String>) {
    socket.everyone().emit("shouted", text);
}

fn application() -> Namespace {
    Namespace::new()
        .on("join", join)
        .on("leave", leave)
        .on("set", set)
        .on("echo", echo)
        .on("shout", shout)
}

fn builder(ui: AdminUi) -> SocketIoBuilder {
    SocketIo::builder()
        .namespace("/", application())
        .namespace("/orders/{shop}", application())
        .admin(ui)
}

struct Server {
    app: Router,
    io: SocketIo,
}

impl Server {
    fn of(builder: SocketIoBuilder) -> Self {
        let (layer, io) = builder.build();
        Self {
            app: Router::new().layer(layer),
            io,
        }
    }

    fn new(ui: AdminUi) -> Self {
        Self::of(builder(ui))
    }

    async fn client(&self, namespace: &str) -> Client {
        let client = Client::connect(&self.app, namespace).await;
        client.expect("it is let in")
    }

    async fn page(&self) -> Client {
        self.client("/admin").await
    }

    /// A page that shows sockets, and the sockets that it has got.
    async fn page_with_sockets(&self) -> (Client, Vec<Value>) {
        let mut page = self.page().await;
        let sockets = page.expect("all_sockets").await.data();
        (page, sockets)
    }

    fn socket(&self, namespace: &str, client: &Client) -> Socket {
        let mut all = self.io.of(namespace).to(client.id()).sockets().into_iter();
        all.next().expect("it is connected")
    }
}

async fn features(page: &mut Client) -> Vec<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Config {
        supported_features: Vec<String>,
    }
    page.expect("config")
        .await
        .data::<Config>()
        .supported_features
}

/// The arguments of the next event of this name, without its time, which is the last of them.
async fn timed(page: &mut Client, event: &str) -> Vec<Value> {
    let mut args: Vec<Value> = page.expect(event).await.args();
    let time = args.pop().expect("a time");
    let time = time.as_str().expect("a text");
    assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
    args
}

/// Waits until the page has the event `marker` of a client, and returns the names of all events
/// before it.
async fn names_until(page: &mut Client, marker: &str) -> Vec<String> {
    let mut names = Vec::new();
    while let Some(mut received) = page.recv().await {
        let name = received.name().to_owned();
        if name == "event_received" {
            let args: Vec<Value> = received.args();
            if args[2][0] == marker {
                return names;
            }
        }
        names.push(name);
    }
    panic!("the page is disconnected after {names:?}");
}

const ALL: [&str; 9] = [
    "EMIT",
    "JOIN",
    "LEAVE",
    "DISCONNECT",
    "MJOIN",
    "MLEAVE",
    "MDISCONNECT",
    "AGGREGATED_EVENTS",
    "ALL_EVENTS",
];

#[tokio::test(start_paused = true)]
async fn the_options_have_their_defaults() {
    let server = Server::new(AdminUi::without_auth());
    let mut page = server.page().await;
    assert_eq!(features(&mut page).await, ALL);
    let stats: Value = page.expect("server_stats").await.data();
    let id = stats["serverId"].as_str().expect("a text");
    let process = std::process::id();
    assert_eq!(stats["pid"], process);
    let host = stats["hostname"].as_str().expect("a text");
    assert!(id.starts_with(&format!("{host}#{process}")), "{id}");
}

#[tokio::test(start_paused = true)]
async fn the_namespace_and_the_servers_name_can_be_set() {
    let server = Server::new(
        AdminUi::without_auth()
            .namespace("/control")
            .server_id("web1"),
    );
    let mut page = server.client("/control").await;
    let stats: Value = page.expect("server_stats").await.data();
    assert_eq!(stats["serverId"], "web1");
    let refused = Client::connect(&server.app, "/admin").await;
    assert!(refused.is_err_and(|error| error.message() == "Invalid namespace"));
}

#[tokio::test]
#[should_panic(expected = "must be a bcrypt hash")]
async fn a_password_that_is_not_a_bcrypt_hash_is_a_mistake() {
    let _ = AdminUi::basic("ada", "sesame");
}

#[tokio::test]
#[should_panic(expected = "namespace `/admin` is there already")]
async fn the_namespace_of_the_admin_ui_must_be_free() {
    let _ = SocketIo::builder::<()>()
        .namespace("/admin", Namespace::new())
        .admin(AdminUi::without_auth());
}

#[tokio::test(start_paused = true)]
async fn a_page_needs_the_credentials() {
    let server = Server::new(AdminUi::basic("ada", hash()));
    let connect = |auth: Value| Client::connect(&server.app, "/admin").auth(auth);
    assert!(connect(good()).await.is_ok());
    for auth in [
        json!({ "username": "ada", "password": "Sesame" }),
        json!({ "username": "bob", "password": "sesame" }),
        json!({ "username": "ada" }),
        json!({ "sessionId": "0123456789abcdef" }),
        json!({}),
    ] {
        let refused = connect(auth.clone()).await.expect_err("it is refused");
        assert_eq!(refused.message(), "invalid credentials", "{auth}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_id_follows_the_connect_and_replaces_the_password() {
    let server = Server::new(AdminUi::basic("ada", hash()));
    let connect = |auth: Value| Client::connect(&server.app, "/admin").auth(auth);
    let mut page = connect(good()).await.expect("it is let in");
    let session: String = page.expect("session").await.data();
    assert_eq!(session.len(), 16);
    assert!(session.bytes().all(|byte| byte.is_ascii_hexdigit()));
    page.disconnect().await;
    let mut page = connect(json!({ "sessionId": session }))
        .await
        .expect("it is let in");
    // It gets no other session.
    let first = page.recv().await.expect("an event");
    assert_eq!(first.name(), "server_stats");
}

#[tokio::test(start_paused = true)]
async fn a_session_is_known_on_all_servers_and_outlives_its_own() {
    let broker = Memory::new();
    let hash = hash();
    let server = || {
        let ui = AdminUi::basic("ada", hash.clone());
        Server::of(builder(ui).cluster(broker.clone()))
    };
    let one = server();
    let other = server();
    let connect = |server: &Server, auth: Value| Client::connect(&server.app, "/admin").auth(auth);
    let mut page = connect(&one, good()).await.expect("it is let in");
    let session: String = page.expect("session").await.data();
    let auth = json!({ "sessionId": session });
    assert!(connect(&other, auth.clone()).await.is_ok());
    drop(page);
    one.io.close().await;
    let third = server();
    while third.io.server_count().await != Ok(2) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(connect(&third, auth).await.is_ok());
    let unknown = json!({ "sessionId": "0123456789abcdef" });
    let refused = connect(&third, unknown).await.expect_err("it is refused");
    assert_eq!(refused.message(), "invalid credentials");
}

#[tokio::test(start_paused = true)]
async fn the_features_depend_on_the_options() {
    let server = Server::new(AdminUi::without_auth().read_only());
    assert_eq!(features(&mut server.page().await).await, ALL[7..]);
    let server = Server::new(AdminUi::without_auth().mode(Mode::Production));
    assert_eq!(features(&mut server.page().await).await, ALL[..8]);
    let server = Server::new(AdminUi::without_auth().mode(Mode::Production).read_only());
    assert_eq!(features(&mut server.page().await).await, ALL[7..8]);
}

#[tokio::test(start_paused = true)]
async fn in_production_a_page_gets_numbers_only() {
    let server = Server::new(AdminUi::without_auth().mode(Mode::Production));
    let mut page = server.page().await;
    let client = server.client("/").await;
    client.emit("shout", "hello");
    let mut names = BTreeSet::new();
    for _ in 0..5 {
        let received = page.recv().await.expect("an event");
        names.insert(received.name().to_owned());
    }
    assert_eq!(names, ["config", "server_stats"].map(str::to_owned).into());
}

#[tokio::test(start_paused = true)]
async fn a_page_gets_the_sockets_of_all_namespaces() {
    let server = Server::new(AdminUi::without_auth());
    let main = server.client("/").await;
    let shop = server.client("/orders/7").await;
    server.socket("/", &main).join("tea");
    let (page, sockets) = server.page_with_sockets().await;
    let of = |id: &str| sockets.iter().find(|each| each["id"] == *id);
    assert_eq!(of(main.id()).expect("it is there")["nsp"], "/");
    let rooms = &of(main.id()).expect("it is there")["rooms"];
    assert_eq!(*rooms, json!([main.id(), "tea"]));
    assert_eq!(of(shop.id()).expect("it is there")["nsp"], "/orders/7");
    // The page may have connected just before or after it got the sockets.
    assert!(sockets.len() <= 3, "{sockets:?}");
    let (_, sockets) = server.page_with_sockets().await;
    assert!(sockets.iter().any(|each| each["id"] == page.id()));
}

#[tokio::test(start_paused = true)]
async fn a_socket_is_described_as_by_node() {
    let server = Server::new(AdminUi::without_auth());
    let client = Client::connect(&server.app, "/")
        .auth(json!({ "token": "secret" }))
        .header("x-test", "1")
        .query("name=ada");
    let client = client.await.expect("it is let in");
    let proxied = Client::connect(&server.app, "/").header("x-forwarded-for", "192.0.2.7");
    let proxied = proxied.await.expect("it is let in");
    let socket = server.socket("/", &client);
    socket.set_data(json!({ "name": "ada" })).expect("short");
    let (_page, sockets) = server.page_with_sockets().await;
    let of = |id: &str| {
        sockets
            .iter()
            .find(|each| each["id"] == *id)
            .expect("it is there")
    };

    let mut described = of(client.id()).clone();
    let client_id = described["clientId"].take();
    let session = client_id.as_str().expect("a text");
    assert_eq!(session.len(), 12);
    let mut handshake = serde_json::to_value(socket.handshake()).expect("serializable");
    handshake.as_object_mut().expect("an object").remove("auth");
    assert_eq!(handshake["query"]["name"], "ada");
    assert_eq!(handshake["headers"]["x-test"], "1");
    let expected = json!({
        "id": client.id(),
        "clientId": null,
        "transport": "websocket",
        "nsp": "/",
        "data": { "name": "ada" },
        "handshake": handshake,
        "rooms": [client.id()],
    });
    assert_eq!(described, expected);
    assert_eq!(of(proxied.id())["handshake"]["address"], "192.0.2.7");
    assert_eq!(of(proxied.id())["data"], json!({}));
}

#[tokio::test(start_paused = true)]
async fn the_credentials_of_a_client_are_shown_on_request_only() {
    for (ui, shown) in [
        (AdminUi::without_auth(), false),
        (AdminUi::without_auth().show_credentials(), true),
    ] {
        let server = Server::new(ui);
        let client = Client::connect(&server.app, "/")
            .header("cookie", "session=secret")
            .header("authorization", "Bearer secret")
            .header("proxy-authorization", "Basic secret")
            .header("x-test", "1");
        let client = client.await.expect("it is let in");
        let (_page, sockets) = server.page_with_sockets().await;
        let of = sockets.iter().find(|each| each["id"] == *client.id());
        let headers = &of.expect("it is there")["handshake"]["headers"];
        let expected = |value: &'static str| if shown { value } else { "…" };
        assert_eq!(headers["cookie"], expected("session=secret"));
        assert_eq!(headers["authorization"], expected("Bearer secret"));
        assert_eq!(headers["proxy-authorization"], expected("Basic secret"));
        assert_eq!(headers["x-test"], "1");
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_request_is_described_without_its_headers_and_query() {
    let server = Server::new(AdminUi::without_auth());
    let connect = || {
        Client::connect(&server.app, "/")
            .header("x-forwarded-for", &"7".repeat(1_000))
            .query(&format!("name={}", "x".repeat(4_096)))
    };
    let before = connect().await.expect("it is let in");
    let (mut page, sockets) = server.page_with_sockets().await;
    let of = sockets.iter().find(|each| each["id"] == *before.id());
    let of = of.expect("it is there").clone();
    let after = connect().await.expect("it is let in");
    let connected = loop {
        let mut args = timed(&mut page, "socket_connected").await;
        if args[0]["id"] == after.id() {
            break args.swap_remove(0);
        }
    };
    for described in [of, connected] {
        let handshake = &described["handshake"];
        assert_eq!(handshake["headers"], json!({}));
        assert_eq!(handshake["query"], json!({}));
        assert_eq!(handshake["url"], "/socket.io/");
        assert_eq!(handshake["address"], "7".repeat(256));
    }
}

/// Connects with a header of this length.
async fn with_header(server: &Server, bytes: usize) -> Client {
    let connect = Client::connect(&server.app, "/").header("x-test", &"x".repeat(bytes));
    connect.await.expect("it is let in")
}

/// Returns the number of sockets that a page gets, and how many of them with their headers.
async fn described(server: &Server) -> (usize, usize) {
    let (_page, sockets) = server.page_with_sockets().await;
    let has_headers = |each: &&Value| each["handshake"]["headers"]["x-test"].is_string();
    (sockets.len(), sockets.iter().filter(has_headers).count())
}

#[tokio::test(start_paused = true)]
async fn of_more_than_a_thousand_sockets_the_headers_are_not_shown() {
    let server = Server::new(AdminUi::without_auth());
    let mut clients = Vec::new();
    for _ in 0..999 {
        clients.push(with_header(&server, 1).await);
    }
    // The page is a socket too.
    assert_eq!(described(&server).await, (1_000, 999));
    clients.push(with_header(&server, 1).await);
    assert_eq!(described(&server).await, (1_001, 0));
}

#[tokio::test(start_paused = true)]
async fn the_headers_of_all_sockets_together_are_limited() {
    let server = Server::new(AdminUi::without_auth());
    let mut clients = Vec::new();
    for _ in 0..450 {
        clients.push(with_header(&server, 3_000).await);
    }
    let (all, with_headers) = described(&server).await;
    assert_eq!(all, 451);
    // 1 MiB, and those that are described at the same time.
    assert!((250..400).contains(&with_headers), "{with_headers}");
}

#[tokio::test(start_paused = true)]
async fn a_description_that_is_longer_than_half_of_max_buffered_is_not_sent() {
    let ui = AdminUi::without_auth();
    let server = Server::of(builder(ui).max_buffered(20_000));
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(server.client("/").await);
    }
    let mut page = server.page().await;
    assert_eq!(features(&mut page).await, ALL);
    assert_eq!(features(&mut page).await, ALL[..8]);
    let none: Vec<Value> = page.expect("all_sockets").await.data();
    assert!(none.is_empty());
    clients.truncate(10);
    assert_eq!(features(&mut page).await, ALL);
    let sockets: Vec<Value> = page.expect("all_sockets").await.data();
    assert_eq!(sockets.len(), 11);
}

#[tokio::test(start_paused = true)]
async fn of_many_namespaces_the_largest_are_shown() {
    let server = Server::new(AdminUi::without_auth());
    let mut clients = Vec::new();
    for shop in 0..210 {
        clients.push(server.client(&format!("/orders/{shop}")).await);
    }
    clients.push(server.client("/orders/209").await);
    let mut page = server.page().await;
    let stats: Value = page.expect("server_stats").await.data();
    let namespaces = stats["namespaces"].as_array().expect("a list");
    assert_eq!(namespaces.len(), 201);
    let of = |name: &str| namespaces.iter().find(|each| each["name"] == name);
    assert_eq!(of("/orders/209").expect("it is large")["socketsCount"], 2);
    // With `/`, which is empty, and `/admin` there are 212.
    let rest = of("… 12 more").expect("the rest");
    assert_eq!(rest["socketsCount"], 11);
}

#[tokio::test(start_paused = true)]
async fn a_production_server_of_a_cluster_tells_and_shows_numbers_only() {
    let broker = Memory::new();
    let server = |ui: AdminUi| Server::of(builder(ui).cluster(broker.clone()));
    let development = server(AdminUi::without_auth());
    let production = server(AdminUi::without_auth().mode(Mode::Production));
    while development.io.server_count().await != Ok(2) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let secret = production.client("/").await;
    let mut numbers = production.page().await;
    let (mut page, _) = development.page_with_sockets().await;
    let sockets: Vec<Value> = page.expect("all_sockets").await.data();
    assert!(!sockets.is_empty());
    assert!(sockets.iter().all(|each| each["id"] != secret.id()));
    let client = development.client("/").await;
    client.emit("shout", "hello");
    timed(&mut page, "event_received").await;
    let mut names = BTreeSet::new();
    for _ in 0..8 {
        let received = numbers.recv().await.expect("an event");
        names.insert(received.name().to_owned());
    }
    assert_eq!(names, ["config", "server_stats"].map(str::to_owned).into());
}

#[tokio::test(start_paused = true)]
async fn the_numbers_come_every_two_seconds() {
    let server = Server::new(AdminUi::without_auth());
    let _client = server.client("/").await;
    let mut page = server.page().await;
    let mut times = Vec::new();
    let mut stats = Value::Null;
    for _ in 0..4 {
        stats = page.expect("server_stats").await.data();
        times.push(tokio::time::Instant::now());
    }
    // The first are sent at once.
    assert_eq!((times[3] - times[2]).as_secs_f64().round(), 2.0);
    assert_eq!(stats["clientsCount"], 2);
    assert_eq!(stats["pollingClientsCount"], 0);
    assert!(stats["uptime"].as_f64().is_some_and(|uptime| uptime >= 2.0));
    let namespaces = json!([
        { "name": "/", "socketsCount": 1 },
        { "name": "/admin", "socketsCount": 1 },
    ]);
    assert_eq!(stats["namespaces"], namespaces);
}

#[tokio::test(start_paused = true)]
async fn connections_packets_and_bytes_are_counted_for_each_second() {
    let server = Server::new(AdminUi::without_auth());
    let mut page = server.page().await;
    features(&mut page).await;
    let client = server.client("/").await;
    client.emit("shout", "hello");
    client.disconnect().await;
    let mut counts = BTreeMap::<_, u64>::new();
    while counts.len() < 6 {
        let stats: Value = page.expect("server_stats").await.data();
        for each in stats["aggregatedEvents"].as_array().expect("a list") {
            assert_eq!(each["timestamp"].as_u64().expect("a time") % 1000, 0);
            let name = each["type"].as_str().expect("a text").to_owned();
            let reason = each["subType"].as_str().map(str::to_owned);
            assert_eq!(reason.is_some(), name == "rawDisconnection");
            *counts.entry((name, reason)).or_default() += each["count"].as_u64().expect("a number");
        }
    }
    let count =
        |name: &str, reason: Option<&str>| counts[&(name.to_owned(), reason.map(str::to_owned))];
    assert_eq!(count("rawConnection", None), 1);
    assert_eq!(count("rawDisconnection", Some("transport close")), 1);
    // CONNECT, the event and DISCONNECT at least.
    assert!(count("packetsIn", None) >= 3);
    assert!(count("packetsOut", None) >= 2);
    assert!(count("bytesIn", None) >= r#"4042["shout","hello"]41"#.len() as u64);
    assert!(count("bytesOut", None) >= r#"42["shouted","hello"]"#.len() as u64);
}

#[tokio::test(start_paused = true)]
async fn a_page_sees_what_happens_to_a_socket() {
    let server = Server::new(AdminUi::without_auth());
    let (mut page, _) = server.page_with_sockets().await;
    let mut client = server.client("/").await;
    let id = client.id().to_owned();
    let connected = loop {
        let args = timed(&mut page, "socket_connected").await;
        if args[0]["id"] == id {
            break args;
        }
    };
    assert_eq!(connected[0]["rooms"], json!([id]));
    client.emit("join", "tea");
    let received = timed(&mut page, "event_received").await;
    assert_eq!(received, [json!("/"), json!(id), json!(["join", "tea"])]);
    let joined = loop {
        let args = timed(&mut page, "room_joined").await;
        if args[1] == "tea" {
            break args;
        }
    };
    assert_eq!(joined, [json!("/"), json!("tea"), json!(id)]);
    client.emit("leave", "tea");
    assert_eq!(timed(&mut page, "room_left").await, joined);
    client.emit("shout", "hello");
    client.expect("shouted").await;
    let sent = timed(&mut page, "event_sent").await;
    assert_eq!(sent, [json!("/"), json!(id), json!(["shouted", "hello"])]);
    client.disconnect().await;
    let left = timed(&mut page, "socket_disconnected").await;
    let reason = json!("client namespace disconnect");
    assert_eq!(left, [json!("/"), json!(id), reason]);
}

#[tokio::test(start_paused = true)]
async fn a_socket_leaves_its_rooms_after_it_is_disconnected() {
    let server = Server::new(AdminUi::without_auth());
    let client = server.client("/").await;
    server.socket("/", &client).join("tea");
    let (mut page, _) = server.page_with_sockets().await;
    client.disconnect().await;
    let mut names = Vec::new();
    while names.len() < 3 {
        let received = page.recv().await.expect("an event");
        if matches!(received.name(), "socket_disconnected" | "room_left") {
            names.push(received.name().to_owned());
        }
    }
    assert_eq!(names, ["socket_disconnected", "room_left", "room_left"]);
}

#[tokio::test(start_paused = true)]
async fn the_pages_are_seen_but_not_their_events() {
    let server = Server::new(AdminUi::without_auth());
    let (mut page, _) = server.page_with_sockets().await;
    let (other, _) = server.page_with_sockets().await;
    let id = other.id().to_owned();
    other.emit("join", Args(("/admin", "tea", &id)));
    let client = server.client("/").await;
    client.emit("shout", "marker");
    let names = names_until(&mut page, "shout").await;
    for name in ["socket_connected", "room_joined"] {
        assert!(names.iter().any(|each| each == name), "{name} in {names:?}");
    }
    assert!(
        !names.iter().any(|name| name.starts_with("event_")),
        "{names:?}"
    );
    other.disconnect().await;
    let left = timed(&mut page, "socket_disconnected").await;
    assert_eq!(left[..2], [json!("/admin"), json!(id)]);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_data_is_seen() {
    let server = Server::new(AdminUi::without_auth());
    let client = server.client("/orders/7").await;
    let (mut page, _) = server.page_with_sockets().await;
    client.emit("set", json!({ "cart": [1, 2] }));
    let update: Value = page.expect("socket_updated").await.data();
    let expected = json!({ "id": client.id(), "nsp": "/orders/7", "data": { "cart": [1, 2] } });
    assert_eq!(update, expected);
}

#[tokio::test(start_paused = true)]
async fn events_keep_their_bytes_and_lose_their_acknowledgement() {
    #[derive(Deserialize)]
    struct Event(String, Bytes, u32);

    let server = Server::new(AdminUi::without_auth());
    let client = server.client("/").await;
    let (mut page, _) = server.page_with_sockets().await;
    let bytes = Bytes::from_static(b"\x00\xff");
    let answer = client.emit_with_ack::<Value>("echo", Args((bytes.clone(), 7)));
    answer.await.expect("an answer");
    for (name, event) in [("event_received", "echo"), ("event_sent", "echo")] {
        let (_, id, Event(name, first, second), _): (String, String, Event, String) =
            page.expect(name).await.args();
        assert_eq!((&*id, &*name), (client.id(), event));
        assert_eq!((&first, second), (&bytes, 7));
    }
}

#[tokio::test(start_paused = true)]
async fn the_commands_reach_one_some_or_all_sockets() {
    let server = Server::new(AdminUi::without_auth());
    let mut one = server.client("/").await;
    let mut other = server.client("/").await;
    let mut shop = server.client("/orders/7").await;
    let page = server.page().await;
    let rooms = |client: &Client, namespace: &str| server.socket(namespace, client).rooms();

    page.emit(
        "emit",
        Args(("/", one.id(), "hi", 1, Bytes::from_static(b"x"))),
    );
    let args: (u32, Bytes) = one.expect("hi").await.args();
    assert_eq!(args, (1, Bytes::from_static(b"x")));
    page.emit("emit", Args(("/", None::<&str>, "all", 2)));
    assert_eq!(one.expect("all").await.data::<u32>(), 2);
    // It did not get the first.
    assert_eq!(other.recv().await.expect("an event").name(), "all");

    page.emit("join", Args(("/", "tea", one.id())));
    page.emit("join", Args(("/", "everybody")));
    page.emit("join", Args(("/orders/7", "coffee", None::<&str>)));
    page.emit("emit", Args(("/", "everybody", "joined")));
    other.expect("joined").await;
    assert_eq!(rooms(&one, "/"), ["tea", "everybody"]);
    assert_eq!(rooms(&other, "/"), ["everybody"]);
    assert_eq!(rooms(&shop, "/orders/7"), ["coffee"]);

    page.emit("leave", Args(("/", "everybody", "tea")));
    page.emit("emit", Args(("/", "", "left")));
    one.expect("left").await;
    assert_eq!(rooms(&one, "/"), ["tea"]);
    assert_eq!(rooms(&other, "/"), ["everybody"]);

    page.emit("_disconnect", Args(("/", false, "tea")));
    assert_eq!(one.disconnected().await, Disconnect::ByServer);
    page.emit("_disconnect", Args(("/", true)));
    let closed = other.disconnected().await;
    assert!(matches!(
        closed,
        Disconnect::ByServer | Disconnect::Closed { .. }
    ));
    page.emit("_disconnect", Args(("/orders/7", false, None::<&str>)));
    assert_eq!(shop.disconnected().await, Disconnect::ByServer);
    // What is not a command of the page does no harm.
    page.emit("emit", ());
    page.emit("join", Args((1, 2, 3)));
    page.emit("unknown", ());
    let answer = page.emit_with_ack::<Value>("emit", 7).await;
    assert!(answer.expect("an answer")["error"].is_string());
}

#[tokio::test(start_paused = true)]
async fn a_read_only_server_refuses_the_commands() {
    let server = Server::new(AdminUi::without_auth().read_only());
    let client = server.client("/").await;
    let page = server.page().await;
    for (command, args) in [
        ("emit", json!(["/", null, "hi"])),
        ("join", json!(["/", "tea"])),
        ("leave", json!(["/", "tea"])),
        ("_disconnect", json!(["/", true])),
    ] {
        let answer = page.emit_with_ack::<Value>(command, Args(args)).await;
        let expected = json!({ "error": "the Admin UI of this server is read-only" });
        assert_eq!(answer.expect("an answer"), expected);
    }
    assert!(server.socket("/", &client).rooms().is_empty());
}

#[cfg(feature = "msgpack")]
#[tokio::test(start_paused = true)]
async fn a_page_may_use_the_other_parser() {
    use tower_socketio::protocol::MsgpackParser;

    let parser = MsgpackParser::default;
    let server = Server::of(builder(AdminUi::basic("ada", hash())).parser(parser()));
    let page = Client::connect(&server.app, "/admin")
        .auth(good())
        .parser(parser());
    let mut page = page.await.expect("it is let in");
    page.expect("all_sockets").await;
    let client = Client::connect(&server.app, "/").parser(parser());
    let client = client.await.expect("it is let in");
    client.emit("echo", Bytes::from_static(b"x"));
    let (_, _, event, _): (String, String, (String, Bytes), String) =
        page.expect("event_sent").await.args();
    assert_eq!(event, ("echo".to_owned(), Bytes::from_static(b"x")));
}

#[tokio::test(start_paused = true)]
async fn above_the_limit_of_sockets_the_pages_show_numbers() {
    let server = Server::new(AdminUi::without_auth().max_sockets(10));
    let (mut page, sockets) = server.page_with_sockets().await;
    assert!(sockets.len() <= 1);
    assert_eq!(features(&mut page).await, ALL);
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(server.client("/").await);
    }
    assert_eq!(features(&mut page).await, ALL[..8]);
    // What it has shown is removed.
    let sockets: Vec<Value> = page.expect("all_sockets").await.data();
    assert!(sockets.is_empty());
    // Another page begins so.
    assert_eq!(features(&mut server.page().await).await, ALL[..8]);

    clients.truncate(5);
    assert_eq!(features(&mut page).await, ALL);
    let sockets: Vec<Value> = page.expect("all_sockets").await.data();
    let shown: BTreeSet<_> = sockets
        .iter()
        .map(|each| each["id"].as_str().expect("an id"))
        .collect();
    assert!(clients.iter().all(|client| shown.contains(client.id())));
}

#[tokio::test(start_paused = true)]
async fn with_too_many_events_the_pages_show_numbers_for_a_while() {
    let server = Server::new(AdminUi::without_auth());
    let mut client = server.client("/").await;
    let (mut page, _) = server.page_with_sockets().await;
    assert_eq!(features(&mut page).await, ALL);
    let io = server.io.clone();
    for n in 0..5_000 {
        io.emit("n", n);
    }
    let started = tokio::time::Instant::now();
    let mut page = page_with_patience(&server, page).await;
    // It may have come before the server has noticed.
    while features(&mut page).await.len() > 8 {}
    assert_eq!(features(&mut page).await, ALL);
    assert!(started.elapsed() >= Duration::from_secs(9));
    // The client has got them all.
    for n in 0..5_000 {
        assert_eq!(client.expect("n").await.data::<u32>(), n);
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_gets_at_most_1280_events_in_a_second() {
    let server = Server::new(AdminUi::without_auth());
    let _client = server.client("/").await;
    let (mut page, _) = server.page_with_sockets().await;
    let started = tokio::time::Instant::now();
    for n in 0..2_000 {
        server.io.emit("n", n);
    }
    for n in 0..2_000 {
        assert_eq!(timed(&mut page, "event_sent").await[2], json!(["n", n]));
    }
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(1_400), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_page_that_does_not_read_shows_numbers_and_is_not_closed() {
    let server = Server::new(AdminUi::without_auth());
    let _client = server.client("/").await;
    let mut slow = raw_session_on(in_memory(server.app.clone(), 4_096)).await;
    let sent = slow.write_all(&text_frame("40/admin,")).await;
    sent.expect("it is taken");
    let (_page, _) = server.page_with_sockets().await;
    let pages = server.io.of("/admin");
    let watching = pages.clone().to("tower-socketio:admin:events");
    until(|| watching.sockets().len() == 2).await;
    let started = tokio::time::Instant::now();
    // 8 MB, twice as much as may be buffered for a client.
    for _ in 0..100 {
        (0..8).for_each(|_| server.io.emit("say", "x".repeat(10_000)));
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    // Less than the two seconds that a page may take to read all.
    assert!(started.elapsed() < Duration::from_millis(1_900));
    assert_eq!(watching.sockets().len(), 1);
    assert_eq!(pages.sockets().len(), 2);
}

/// Another page in place of this one, which waits longer than the five seconds of a client.
async fn page_with_patience(server: &Server, page: Client) -> Client {
    let patient = Client::connect(&server.app, "/admin").timeout(Duration::from_secs(60));
    let patient = patient.await.expect("it is let in");
    page.disconnect().await;
    patient
}

#[tokio::test(start_paused = true)]
async fn a_page_gets_no_old_events_back_after_it_lost_its_connection() {
    let server = Server::of(
        builder(AdminUi::without_auth()).recovery(Recovery::within(Duration::from_secs(60))),
    );
    let (page, _) = server.page_with_sockets().await;
    let client = server.client("/").await;
    drop((page, client));
    tokio::time::sleep(Duration::from_secs(1)).await;
    // The client can be restored, the page cannot.
    assert_eq!(server.io.counts().recoverable, 1);
}

#[tokio::test(start_paused = true)]
async fn a_page_shows_the_sockets_and_numbers_of_all_servers() {
    let broker = Memory::new();
    let server = |id: &str| {
        let ui = AdminUi::without_auth().server_id(id);
        Server::of(builder(ui).cluster(broker.clone()))
    };
    let (one, other) = (server("one"), server("other"));
    while one.io.server_count().await != Ok(2) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let before = other.client("/orders/7").await;
    // It shows numbers until the other server has told how many sockets it has.
    let (mut page, sockets) = one.page_with_sockets().await;
    assert!(sockets.is_empty());
    let sockets: Vec<Value> = page.expect("all_sockets").await.data();
    assert!(
        sockets.iter().any(|each| each["id"] == before.id()),
        "{sockets:?}"
    );

    let mut ids = BTreeSet::new();
    while ids.len() < 2 {
        let stats: Value = page.expect("server_stats").await.data();
        ids.insert(stats["serverId"].as_str().expect("a text").to_owned());
    }
    // What happens there from then on.
    let client = other.client("/").await;
    while timed(&mut page, "socket_connected").await[0]["id"] != client.id() {}
    client.emit("shout", "hello");
    let sent = timed(&mut page, "event_sent").await;
    assert_eq!(sent[2], json!(["shouted", "hello"]));
    // And a command.
    page.emit("join", Args(("/", "tea", client.id())));
    let joined = loop {
        let args = timed(&mut page, "room_joined").await;
        if args[1] == "tea" {
            break args;
        }
    };
    assert_eq!(joined[2], client.id());
}

/// What other namespaces send returns from the log. The Admin UI's does not wait for that.
#[tokio::test(start_paused = true)]
async fn a_page_gets_an_event_once_with_recovery_over_a_log() {
    let builder = builder(AdminUi::without_auth());
    let recovery = Recovery::within(Duration::from_secs(60));
    let server = Server::of(builder.recovery(recovery).cluster(Memory::with_log()));
    let (mut page, _) = server.page_with_sockets().await;
    for name in ["first", "last"] {
        server.io.of("/admin").emit(name, 1);
        // Meanwhile it returns.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let mut times = 0;
    loop {
        match page.recv().await.expect("an event").name() {
            "first" => times += 1,
            "last" => break,
            _ => {}
        }
    }
    assert_eq!(times, 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_with_more_sockets_than_its_limit_describes_none_to_another() {
    let broker = Memory::new();
    let server = |max: usize| {
        let ui = AdminUi::without_auth().max_sockets(max);
        Server::of(builder(ui).cluster(broker.clone()))
    };
    let (one, other) = (server(100), server(5));
    while one.io.server_count().await != Ok(2) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(other.client("/").await);
    }
    let (mut page, sockets) = one.page_with_sockets().await;
    assert!(sockets.is_empty());
    let sockets: Vec<Value> = page.expect("all_sockets").await.data();
    let ids: Vec<_> = sockets.iter().map(|each| &each["id"]).collect();
    assert_eq!(ids, [page.id()]);
}

#[tokio::test(start_paused = true)]
async fn the_sockets_of_all_servers_count_for_the_limit() {
    let broker = Memory::new();
    let server = || {
        let ui = AdminUi::without_auth().max_sockets(10);
        Server::of(builder(ui).cluster(broker.clone()))
    };
    let (one, other) = (server(), server());
    while one.io.server_count().await != Ok(2) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut page = one.page().await;
    assert_eq!(features(&mut page).await, ALL[..8]);
    assert_eq!(features(&mut page).await, ALL);
    let mut clients = Vec::new();
    for n in 0..10 {
        let server = if n % 2 == 0 { &one } else { &other };
        clients.push(server.client("/").await);
    }
    let mut page = page_with_patience(&one, page).await;
    while features(&mut page).await.len() > 8 {}
    clients.truncate(2);
    assert_eq!(features(&mut page).await, ALL);
}
