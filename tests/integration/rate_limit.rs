//! The layer that limits how often clients may send.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::{Extension, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tower_socketio::rate_limit::{RateLimit, RateLimitLayer, TooManyRequests};
use tower_socketio::testing::{Client, Disconnect};
use tower_socketio::{
    Auth, Data, DisconnectReason, Event, Handler, Namespace, Recovery, Socket, middleware,
};

use crate::recovery::{back, connect, lose};
use crate::support::logs::Logs;
use crate::support::{Polling, app, builder, main_app, until, within};

const SECOND: Duration = Duration::from_secs(1);

async fn client(app: &Router) -> Client {
    let connect = Client::connect(app, "/").timeout(1_000 * SECOND);
    connect.await.expect("it is let in")
}

fn ask(client: &Client, event: &str) -> impl Future<Output = Value> + use<> {
    let answer = client.emit_with_ack::<Value>(event, ());
    async move { answer.await.expect("an answer") }
}

fn refused(retry_after_ms: u64) -> Value {
    json!({ "error": "too many requests", "data": { "retryAfterMs": retry_after_ms } })
}

/// How often a handler has run.
#[derive(Clone, Default)]
struct Runs(Arc<AtomicUsize>);

impl Runs {
    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_over_the_limit_is_answered_with_the_time_to_wait() {
    let runs = Runs::default();
    let counted = Arc::clone(&runs.0);
    let say = async move || counted.fetch_add(1, Ordering::SeqCst) + 1;
    let limit = RateLimitLayer::per_socket(RateLimit::per_second(10).burst(3));
    let (app, _io) = main_app(Namespace::new().on("say", say).layer(limit.clone()));
    let client = client(&app).await;
    for n in 1..=3 {
        assert_eq!(ask(&client, "say").await, n);
    }
    assert_eq!(ask(&client, "say").await, refused(100));
    sleep(Duration::from_millis(60)).await;
    assert_eq!(ask(&client, "say").await, refused(40));
    // A client that waits so long is not refused.
    sleep(Duration::from_millis(40)).await;
    assert_eq!(ask(&client, "say").await, 4);
    assert_eq!(ask(&client, "say").await, refused(100));
    sleep(SECOND).await;
    for n in 5..=7 {
        assert_eq!(ask(&client, "say").await, n);
    }
    assert_eq!(ask(&client, "say").await, refused(100));
    assert_eq!(runs.count(), 7, "a refused event does not run its handler");
    assert_eq!(limit.refused_count(), 4);
}

#[tokio::test(start_paused = true)]
async fn each_socket_has_a_limit_for_all_its_events() {
    let limit = RateLimitLayer::per_socket(RateLimit::per_minute(1).burst(2));
    let namespace = Namespace::new()
        .on("a", async || 1)
        .on("b", async || 1)
        .fallback(async || 1)
        .layer(limit)
        .on("outside", async || 1);
    let (app, _io) = main_app(namespace);
    let (one, other) = (client(&app).await, client(&app).await);
    for client in [one, other] {
        assert_eq!(ask(&client, "a").await, 1);
        assert_eq!(ask(&client, "b").await, 1);
        assert_eq!(ask(&client, "a").await, refused(60_000));
        assert_eq!(ask(&client, "unknown").await, refused(60_000));
        assert_eq!(ask(&client, "outside").await, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn each_event_has_a_limit_of_its_own() {
    let limit = RateLimitLayer::per_event(RateLimit::per_minute(1));
    let namespace = Namespace::new()
        .on("a", async || 1)
        .on("b", async || 1)
        .fallback(async || 1)
        .layer(limit);
    let (app, _io) = main_app(namespace);
    let client = client(&app).await;
    for event in ["a", "b", "unknown"] {
        assert_eq!(ask(&client, event).await, 1, "{event}");
    }
    for event in ["a", "b", "unknown", "another"] {
        assert_eq!(ask(&client, event).await, refused(60_000), "{event}");
    }
}

#[tokio::test(start_paused = true)]
async fn layers_around_a_handler_and_around_its_namespace_both_count() {
    let search = RateLimitLayer::per_socket(RateLimit::per_minute(1));
    let all = RateLimitLayer::per_socket(RateLimit::new(3, 30 * SECOND));
    let namespace = Namespace::new()
        .on("search", (async || 1).layer(search.clone()))
        .on("say", async || 1)
        .layer(all.clone());
    let (app, _io) = main_app(namespace);
    let client = client(&app).await;
    assert_eq!(ask(&client, "search").await, 1);
    assert_eq!(ask(&client, "search").await, refused(60_000));
    // The event that the inner layer refused has taken a token of the outer one.
    assert_eq!(ask(&client, "say").await, 1);
    assert_eq!(ask(&client, "say").await, refused(10_000));
    assert_eq!((search.refused_count(), all.refused_count()), (1, 1));
}

#[derive(Clone, Deserialize, Hash)]
struct User {
    name: String,
}

/// A namespace whose sockets belong to users, with a limit for each user.
fn of_users(limit: RateLimitLayer) -> Namespace {
    Namespace::new()
        .on("say", async |_: Extension<User>| 1)
        .layer(limit)
        .on_connect(async |socket: Socket, Auth(user): Auth<User>| {
            socket.insert(user);
        })
}

fn user(event: &Event) -> Option<User> {
    event.socket().extension()
}

#[tokio::test(start_paused = true)]
async fn the_sockets_of_a_key_share_a_limit() {
    let limit = RateLimitLayer::per_key(RateLimit::per_minute(1).burst(2), user);
    let (app, _io) = main_app(of_users(limit));
    let connect = async |name: &str| {
        let connect = Client::connect(&app, "/").auth(json!({ "name": name }));
        connect.await.expect("it is let in")
    };
    let (ada, ada_again) = (connect("ada").await, connect("ada").await);
    assert_eq!(ask(&ada, "say").await, 1);
    assert_eq!(ask(&ada_again, "say").await, 1);
    assert_eq!(ask(&ada, "say").await, refused(60_000));
    // Connecting again does not help.
    ada.disconnect().await;
    let ada = connect("ada").await;
    assert_eq!(ask(&ada, "say").await, refused(60_000));
    let bob = connect("bob").await;
    assert_eq!(ask(&bob, "say").await, 1);
    sleep(60 * SECOND).await;
    assert_eq!(ask(&ada, "say").await, 1);
}

#[tokio::test(start_paused = true)]
async fn users_without_room_share_a_limit() {
    let limit = RateLimit::new(1, 10 * SECOND);
    let limit = RateLimitLayer::per_key_with_capacity(limit, 2, user);
    let (app, _io) = main_app(of_users(limit));
    let mut clients = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let connect = Client::connect(&app, "/").auth(json!({ "name": name }));
        clients.push(connect.await.expect("it is let in"));
    }
    for client in &clients[..3] {
        assert_eq!(ask(client, "say").await, 1);
    }
    assert_eq!(ask(&clients[3], "say").await, refused(10_000));
    // Those who were first are forgotten when their tokens are back.
    sleep(20 * SECOND).await;
    for client in clients[2..].iter().chain(&clients[..1]) {
        assert_eq!(ask(client, "say").await, 1);
    }
    assert_eq!(ask(&clients[1], "say").await, refused(10_000));
}

#[tokio::test(start_paused = true)]
async fn an_event_without_ack_is_dropped_and_the_client_is_informed_once() {
    let runs = Runs::default();
    let counted = Arc::clone(&runs.0);
    let say = async move || {
        counted.fetch_add(1, Ordering::SeqCst);
    };
    let limit = RateLimitLayer::per_socket(RateLimit::per_second(1)).refusal_event("slow_down");
    let namespace = Namespace::new()
        .on("say", say)
        .layer(limit.clone())
        .on("end", async || 1);
    let (app, _io) = main_app(namespace);
    let mut client = client(&app).await;
    for _ in 0..50 {
        client.emit("say", ());
    }
    assert_eq!(ask(&client, "end").await, 1);
    assert_eq!((runs.count(), limit.refused_count()), (1, 49));
    let told: Value = client.expect("slow_down").await.data();
    assert_eq!(told, json!({ "event": "say", "retryAfterMs": 1_000 }));
    sleep(SECOND).await;
    client.emit("say", ());
    client.emit("say", ());
    let told: Value = client.expect("slow_down").await.data();
    assert_eq!(told, json!({ "event": "say", "retryAfterMs": 1_000 }));
    // An acknowledgement says it already.
    assert_eq!(ask(&client, "say").await, refused(1_000));
    client.disconnect().await;
    assert_eq!((runs.count(), limit.refused_count()), (2, 51));
}

#[tokio::test(start_paused = true)]
async fn a_client_is_informed_as_often_as_it_may_send() {
    let limit = RateLimitLayer::per_socket(RateLimit::per_second(1)).refusal_event("slow_down");
    let namespace = Namespace::new()
        .on("say", async || ())
        .layer(limit)
        .on("end", async |socket: Socket| socket.emit("end", ()));
    let (app, _io) = main_app(namespace);
    let mut client = client(&app).await;
    for _ in 0..100 {
        client.emit("say", ());
        sleep(Duration::from_millis(50)).await;
    }
    client.emit("end", ());
    let mut told = 0;
    while client.recv().await.expect("it is connected").name() == "slow_down" {
        told += 1;
    }
    assert!((4..=6).contains(&told), "{told} in 5 seconds");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_on_is_closed_with_a_reason() {
    let (reasons, mut left) = mpsc::unbounded_channel();
    let (logs, _guard) = Logs::keep();
    let limit = RateLimitLayer::per_socket(RateLimit::per_minute(2)).close_after(3, 10 * SECOND);
    let leave = {
        let reasons = reasons.clone();
        async move |reason: DisconnectReason| reasons.send(("/", reason)).expect("it waits")
    };
    let main = Namespace::new()
        .on("say", async || 1)
        .on_disconnect(leave)
        .layer(limit.clone());
    let leave_chat =
        async move |reason: DisconnectReason| reasons.send(("/chat", reason)).expect("it waits");
    let chat = Namespace::new().on_disconnect(leave_chat);
    let (layer, io) = builder(main).namespace("/chat", chat).build();
    let app = app(layer);
    for times in 1..=2 {
        let mut client = Polling::connect(&app).await;
        client.join("/chat").await;
        for _ in 0..2 {
            assert_eq!(client.ask(r#"421["say"]"#).await, "431[1]");
        }
        let events = [r#"422["say"]"#; 6].join("\x1e");
        let told = client.ask(&events).await;
        let expected = format!("432[{}]", refused(30_000));
        assert_eq!(told, expected);
        assert_eq!(within(client.next()).await, expected);
        // The last one is answered too, and then the client is disconnected.
        assert_eq!(within(client.next()).await, expected);
        assert_eq!(within(client.next()).await, "41");
        assert_eq!(within(client.next()).await, "41/chat,");
        assert_eq!(within(client.next()).await, "1");
        let mut reasons = [left.recv().await, left.recv().await];
        reasons.sort_by_key(|left| left.map(|(name, _)| name));
        let expected = [
            Some(("/", DisconnectReason::RateLimited)),
            Some(("/chat", DisconnectReason::ServerNamespaceDisconnect)),
        ];
        assert_eq!(reasons, expected);
        until(|| io.counts().sessions == 0).await;
        let warnings = logs.warnings();
        assert_eq!(warnings.len(), 1, "after {times}: {warnings:?}");
        assert!(warnings[0].contains("over its rate limit"), "{warnings:?}");
        // The three events after that are dropped unseen.
        assert_eq!(limit.refused_count(), 3 * times);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_refused_now_and_then_stays() {
    let limit = RateLimitLayer::per_socket(RateLimit::per_second(1)).close_after(3, 5 * SECOND);
    let (app, io) = main_app(Namespace::new().on("say", async || 1).layer(limit));
    let mut client = client(&app).await;
    for _ in 0..20 {
        assert_eq!(ask(&client, "say").await, 1);
        assert_eq!(ask(&client, "say").await, refused(1_000));
        sleep(3 * SECOND).await;
    }
    assert_eq!(io.counts().sockets, 1);
    for _ in 0..10 {
        client.emit("say", ());
    }
    assert_eq!(client.disconnected().await, Disconnect::ByServer);
}

#[tokio::test(start_paused = true)]
async fn connects_are_limited_by_their_key_and_events_are_not() {
    fn agent(event: &Event) -> Option<String> {
        let parts = event.socket().request_parts();
        Some(parts.headers.get("user-agent")?.to_str().ok()?.to_owned())
    }
    let runs = Runs::default();
    let counted = Arc::clone(&runs.0);
    let connect = async move || {
        counted.fetch_add(1, Ordering::SeqCst);
    };
    let limit = RateLimitLayer::connects_per_key(RateLimit::per_minute(2), agent);
    let namespace = Namespace::new()
        .on("say", async || 1)
        .on_connect(connect)
        .layer(limit.clone());
    let (app, _io) = main_app(namespace);
    let as_agent = |name: &str| Client::connect(&app, "/").header("user-agent", name);
    let first = as_agent("a").await.expect("it is let in");
    as_agent("a").await.expect("it is let in");
    let refused = as_agent("a").await.expect_err("it is refused");
    assert_eq!(refused.message(), "too many requests");
    assert_eq!(refused.data(), Some(json!({ "retryAfterMs": 30_000 })));
    as_agent("b").await.expect("another key");
    assert_eq!((runs.count(), limit.refused_count()), (3, 1));
    for _ in 0..10 {
        assert_eq!(ask(&first, "say").await, 1);
    }
    sleep(30 * SECOND).await;
    as_agent("a").await.expect("it has waited");
}

#[tokio::test(start_paused = true)]
async fn a_limit_for_events_counts_no_connects_and_no_disconnects() {
    let (sender, mut left) = mpsc::unbounded_channel();
    let limit = RateLimitLayer::per_key(RateLimit::per_minute(1), |_: &Event| ());
    let namespace = Namespace::new()
        .on("say", async || 1)
        .on_connect(async || ())
        .on_disconnect(async move || sender.send(()).expect("the test goes on"))
        .layer(limit.clone());
    let (app, _io) = main_app(namespace);
    let clients = [client(&app).await, client(&app).await, client(&app).await];
    assert_eq!(ask(&clients[0], "say").await, 1);
    assert_eq!(ask(&clients[1], "say").await, refused(60_000));
    for client in clients {
        client.disconnect().await;
        assert_eq!(left.recv().await, Some(()));
    }
    assert_eq!(limit.refused_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_event_is_counted_when_its_handler_would_start() {
    let limit = RateLimitLayer::per_socket(RateLimit::new(1, 10 * SECOND));
    let slow = async |Data(n): Data<u32>| {
        sleep(10 * SECOND).await;
        n
    };
    let (app, _io) = main_app(Namespace::new().on("slow", slow).layer(limit.clone()));
    let client = client(&app).await;
    let begun = Instant::now();
    let answers = [1, 2, 3].map(|n| client.emit_with_ack::<u32>("slow", n));
    for (n, answer) in (1..).zip(answers) {
        assert_eq!(answer.await.ok(), Some(n));
    }
    assert_eq!(begun.elapsed().as_secs(), 30);
    assert_eq!(limit.refused_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_replies_of_refused_events_are_in_order_with_the_others() {
    let limit = RateLimitLayer::per_socket(RateLimit::per_minute(2));
    let slow = async || {
        sleep(SECOND).await;
        1
    };
    let (app, _io) = main_app(Namespace::new().on("slow", slow).layer(limit));
    let mut client = Polling::connect(&app).await;
    let events = [1, 2, 3, 4].map(|n| format!(r#"42{n}["slow"]"#));
    client.send(&events.join("\x1e")).await;
    for expected in ["431[1]", "432[1]", r#"433[{"error""#, r#"434[{"error""#] {
        let answer = within(client.next()).await;
        assert!(answer.starts_with(expected), "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_restored_socket_keeps_its_limit() {
    let limit = RateLimitLayer::per_socket(RateLimit::per_minute(1));
    let namespace = Namespace::new()
        .on("say", async |socket: Socket| socket.emit("said", ()))
        .layer(limit);
    let recovery = Recovery::within(120 * SECOND);
    let (layer, io) = builder(namespace).recovery(recovery).build();
    let app = app(layer);
    let (mut client, mut seat) = connect(&app).await;
    let said = client.ask(r#"42["say"]"#).await;
    seat.event(&said);
    lose(client, &io).await;
    let (mut client, recovered) = back(&app, &mut seat).await;
    assert!(recovered);
    let answer = client.ask(r#"421["say"]"#).await;
    assert!(
        answer.starts_with(r#"431[{"error":"too many requests""#),
        "{answer}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_handler_and_a_middleware_may_refuse_in_the_same_way() {
    async fn busy(_: Event, _: middleware::Next) -> Result<u32, TooManyRequests> {
        Err(TooManyRequests::new(2 * SECOND))
    }
    let export = async || Err::<(), _>(TooManyRequests::new(Duration::from_micros(1_500)));
    let namespace = Namespace::new()
        .on("say", async || 1)
        .layer(middleware::from_fn(busy))
        .on_connect(async || ())
        .on("export", export);
    let (app, _io) = main_app(namespace);
    let client = client(&app).await;
    assert_eq!(ask(&client, "say").await, refused(2_000));
    assert_eq!(ask(&client, "export").await, refused(2));
}

#[tokio::test(start_paused = true)]
async fn a_key_function_that_panics_ends_only_its_event() {
    let key = |event: &Event| assert!(!event.args().to_json().contains("bad"), "as it wants");
    let limit = RateLimitLayer::per_key(RateLimit::per_second(5), key);
    let namespace = Namespace::new().on("say", async || 1).layer(limit.clone());
    let (app, _io) = main_app(namespace);
    let client = client(&app).await;
    let answer: Value = client.emit_with_ack("say", "bad").await.expect("an answer");
    assert_eq!(answer, json!({ "error": "internal error" }));
    assert_eq!(ask(&client, "say").await, 1);
    assert_eq!(limit.refused_count(), 0);
}
