//! Tower's own layers around events, and what clients are answered.

use std::future::{Future, pending};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower::ServiceBuilder;
use tower::limit::{ConcurrencyLimitLayer, GlobalConcurrencyLimitLayer};
use tower::load_shed::LoadShedLayer;
use tower::timeout::TimeoutLayer;
use tower_socketio::extract::AckSender;
use tower_socketio::middleware::{self, Next};
use tower_socketio::testing::Client;
use tower_socketio::{ErrorReply, Event, Handler, Namespace, Reply};

use crate::support::logs::Logs;
use crate::support::{main_app, until};

const SECOND: Duration = Duration::from_secs(1);

async fn client(app: &Router) -> Client {
    let connect = Client::connect(app, "/").timeout(60 * SECOND);
    connect.await.expect("it is let in")
}

fn ask(client: &Client, event: &str) -> impl Future<Output = Value> + use<> {
    let answer = client.emit_with_ack::<Value>(event, ());
    async move { answer.await.expect("an answer") }
}

/// A handler that waits until it is released, and counts how many run.
#[derive(Clone)]
struct Work {
    running: Arc<AtomicUsize>,
    release: Arc<Semaphore>,
}

impl Work {
    fn new() -> Self {
        Self {
            running: Arc::default(),
            release: Arc::new(Semaphore::new(0)),
        }
    }

    fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    fn handler(
        &self,
    ) -> impl Fn() -> std::pin::Pin<Box<dyn Future<Output = &'static str> + Send>>
    + Clone
    + Send
    + Sync
    + 'static {
        let work = self.clone();
        move || {
            let work = work.clone();
            Box::pin(async move {
                work.running.fetch_add(1, Ordering::SeqCst);
                let _running = Running(Arc::clone(&work.running));
                let permit = work.release.acquire().await;
                permit.expect("it is not closed").forget();
                "done"
            })
        }
    }
}

struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_is_told_that_a_handler_timed_out_and_the_handler_ends() {
    let work = Work::new();
    let slow = work.handler().layer(TimeoutLayer::new(3 * SECOND));
    let (logs, _guard) = Logs::keep();
    let (app, _io) = main_app(Namespace::new().on("slow", slow).on("fast", async || 1));
    let client = client(&app).await;
    let begun = Instant::now();
    assert_eq!(ask(&client, "slow").await, json!({ "error": "timed out" }));
    assert_eq!(begun.elapsed().as_secs(), 3);
    assert_eq!(work.running(), 0);
    assert_eq!(ask(&client, "fast").await, 1);
    assert_eq!(logs.at(tracing::Level::ERROR), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_timeout_around_a_namespace_covers_events_and_connects() {
    let namespace = Namespace::new()
        .on("slow", async || pending::<()>().await)
        .layer(TimeoutLayer::new(SECOND));
    let (app, _io) = main_app(namespace);
    let client = client(&app).await;
    assert_eq!(ask(&client, "slow").await, json!({ "error": "timed out" }));

    let namespace = Namespace::new()
        .on_connect(async || pending::<()>().await)
        .layer(TimeoutLayer::new(SECOND));
    let (app, _io) = main_app(namespace);
    let refused = Client::connect(&app, "/").await.expect_err("it is refused");
    assert_eq!(refused.message(), "timed out");
}

#[tokio::test(start_paused = true)]
async fn a_shed_event_of_one_handler_is_answered_at_once() {
    let work = Work::new();
    let layers = ServiceBuilder::new()
        .layer(LoadShedLayer::new())
        .layer(ConcurrencyLimitLayer::new(1));
    let (app, _io) = main_app(
        Namespace::new()
            .on("work", work.handler().layer(layers))
            .on("fast", async || 1),
    );
    let (first, second) = (client(&app).await, client(&app).await);
    let done = tokio::spawn(ask(&first, "work"));
    until(|| work.running() == 1).await;
    assert_eq!(ask(&second, "work").await, json!({ "error": "overloaded" }));
    assert_eq!(ask(&second, "fast").await, 1);
    work.release.add_permits(1);
    assert_eq!(done.await.expect("no panic"), "done");
    work.release.add_permits(1);
    assert_eq!(ask(&second, "work").await, "done");
}

#[tokio::test(start_paused = true)]
async fn the_three_layers_fit_around_a_namespace() {
    let work = Work::new();
    let layers = ServiceBuilder::new()
        .layer(LoadShedLayer::new())
        .layer(GlobalConcurrencyLimitLayer::new(2))
        .layer(TimeoutLayer::new(10 * SECOND));
    let namespace = Namespace::new()
        .on("one", work.handler())
        .on("other", work.handler())
        .layer(layers);
    let (app, io) = main_app(namespace);
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(client(&app).await);
    }
    let begun = Instant::now();
    let first = tokio::spawn(ask(&clients[0], "one"));
    let second = tokio::spawn(ask(&clients[1], "other"));
    until(|| work.running() == 2).await;
    let overloaded = json!({ "error": "overloaded" });
    assert_eq!(ask(&clients[2], "one").await, overloaded);
    assert_eq!(begun.elapsed(), Duration::ZERO, "it does not wait");
    // A connect passes the layers too.
    let refused = Client::connect(&app, "/").await.expect_err("it is refused");
    assert_eq!(refused.message(), "overloaded");
    for answer in [first, second] {
        let answer = answer.await.expect("no panic");
        assert_eq!(answer, json!({ "error": "timed out" }));
    }
    assert_eq!(begun.elapsed().as_secs(), 10);
    assert_eq!(io.counts().sockets, 3);
}

#[tokio::test(start_paused = true)]
async fn a_middleware_can_replace_the_error_of_a_layer() {
    async fn explain(event: Event, next: Next) -> Result<Reply, ErrorReply> {
        let reply = next.run(event).await;
        match reply.error().map(ErrorReply::message) {
            Some("timed out") => Err(ErrorReply::new("the report takes too long").with_data(504)),
            _ => Ok(reply),
        }
    }
    let namespace = Namespace::new()
        .on("report", async || pending::<()>().await)
        .layer(TimeoutLayer::new(SECOND))
        .layer(middleware::from_fn(explain));
    let (app, _io) = main_app(namespace);
    let answer = ask(&client(&app).await, "report").await;
    let expected = json!({ "error": "the report takes too long", "data": 504 });
    assert_eq!(answer, expected);
}

#[tokio::test(start_paused = true)]
async fn a_middleware_sees_every_outcome() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let audit = {
        let seen = Arc::clone(&seen);
        move |event: Event, next: Next| {
            let seen = Arc::clone(&seen);
            async move {
                let name = event.name().to_owned();
                let begun = Instant::now();
                let reply = next.run(event).await;
                let outcome = match reply.error() {
                    Some(error) => error.to_string(),
                    None if reply.is_deferred() => "answered later".to_owned(),
                    None => "ok".to_owned(),
                };
                let line = format!("{name} {outcome} {}", begun.elapsed().as_secs());
                seen.lock().expect("no panic").push(line);
                reply
            }
        }
    };
    let namespace = Namespace::new()
        .on("good", async || tokio::time::sleep(2 * SECOND).await)
        .on("bad", async || Err::<(), _>("no"))
        .on("args", async |_: tower_socketio::Data<u32>| ())
        .on("late", async |ack: AckSender| ack.send(1))
        .layer(middleware::from_fn(audit));
    let (app, _io) = main_app(namespace);
    let client = client(&app).await;
    for event in ["good", "bad", "args", "late"] {
        ask(&client, event).await;
    }
    let expected = [
        "connect ok 0",
        "good ok 2",
        "bad no 0",
        "args argument 1 is missing 0",
        "late answered later 0",
    ];
    assert_eq!(*seen.lock().expect("no panic"), expected);
}

/// Counts when it is dropped.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn a_destructor_in_a_middleware_runs_whatever_the_handler_does() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let returned = Arc::new(AtomicUsize::new(0));
    let audit = {
        let (dropped, returned) = (Arc::clone(&dropped), Arc::clone(&returned));
        move |event: Event, next: Next| {
            let entry = Dropped(Arc::clone(&dropped));
            let returned = Arc::clone(&returned);
            async move {
                let _entry = entry;
                let reply = next.run(event).await;
                returned.fetch_add(1, Ordering::SeqCst);
                reply
            }
        }
    };
    let namespace = Namespace::new()
        .on("panics", async || -> () { panic!("as the test wants") })
        .on("hangs", async || pending::<()>().await)
        .layer(middleware::from_fn(audit))
        .layer(TimeoutLayer::new(SECOND))
        .on_connect(async || ());
    let (app, _io) = main_app(namespace);
    let client = client(&app).await;
    let answer = ask(&client, "panics").await;
    assert_eq!(answer, json!({ "error": "internal error" }));
    assert_eq!(ask(&client, "hangs").await, json!({ "error": "timed out" }));
    assert_eq!(dropped.load(Ordering::SeqCst), 2);
    assert_eq!(returned.load(Ordering::SeqCst), 0);
}
