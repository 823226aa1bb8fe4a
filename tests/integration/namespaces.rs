//! Dynamic namespaces.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use tower_socketio::{Data, Namespace, NamespaceRequest, Socket, SocketIo};

use crate::support;
use crate::support::{Polling, app, builder, until, within};

async fn is_dynamic(request: NamespaceRequest) -> bool {
    let number = request.name().strip_prefix("/dyn-");
    number.is_some_and(|number| number.parse::<u32>().is_ok())
}

/// Returns a namespace that acknowledges `who` with its name.
fn called(name: &'static str) -> Namespace {
    Namespace::new().on("who", async move || name)
}

async fn who(client: &mut Polling, namespace: &str) -> String {
    client.ask(&format!(r#"42{namespace},1["who"]"#)).await
}

#[tokio::test]
async fn a_predicate_decides_which_namespaces_exist() {
    let (layer, io) = builder(Namespace::new())
        .namespace_if(is_dynamic, called("dynamic"))
        .build();
    let mut client = Polling::connect(&app(layer)).await;
    client.join("/dyn-12").await;
    assert_eq!(
        who(&mut client, "/dyn-12").await,
        r#"43/dyn-12,1["dynamic"]"#
    );
    let told = client.ask("40/dyn-x,").await;
    assert_eq!(told, r#"44/dyn-x,{"message":"Invalid namespace"}"#);
    assert_eq!(io.namespaces(), ["/", "/dyn-12"]);
    io.of("/dyn-12").emit("x", 1);
    assert_eq!(client.next().await, r#"42/dyn-12,["x",1]"#);
}

#[tokio::test]
async fn predicates_run_in_order_after_the_paths_and_see_the_request() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&asked);
    let first = move |request: NamespaceRequest| {
        let parts = request.request_parts();
        let agent = parts.headers["user-agent"].to_str().expect("a text");
        let entry = format!("{} by {agent}", request.name());
        note.lock().expect("notes").push(entry);
        async move {
            tokio::task::yield_now().await;
            let auth: Value = request.auth().expect("an object");
            assert_ne!(auth["panic"], true);
            auth["token"] == "sesame"
        }
    };
    let second = async |request: NamespaceRequest| request.name() != "/nobody";
    let (layer, _io) = builder(Namespace::new())
        .namespace("/path", called("path"))
        .namespace("/shops/{name}", called("parameter"))
        .namespace_if(first, called("first"))
        .namespace_if(second, called("second"))
        .build();
    let app = app(layer);
    let mut client = Polling::open(&app).await;
    for (connect, expected) in [
        ("/path", "path"),
        ("/shops/a", "parameter"),
        ("/a", "second"),
        ("/b", "first"),
    ] {
        let auth = if expected == "first" {
            r#"{"token":"sesame"}"#
        } else {
            ""
        };
        let told = client.ask(&format!("40{connect},{auth}")).await;
        support::socket_id(&told);
        let answer = who(&mut client, connect).await;
        assert_eq!(answer, format!(r#"43{connect},1["{expected}"]"#));
    }
    let told = client.ask(r#"40/nobody,{"token":"x"}"#).await;
    assert_eq!(told, r#"44/nobody,{"message":"Invalid namespace"}"#);
    let asked = std::mem::take(&mut *asked.lock().expect("notes"));
    assert_eq!(asked, ["/a by test", "/b by test", "/nobody by test"]);

    // A panic of a predicate refuses the client and has no other effect.
    let told = client.ask(r#"40/nobody,{"panic":true}"#).await;
    assert_eq!(told, r#"44/nobody,{"message":"Invalid namespace"}"#);

    // A namespace keeps the handlers that created it. The predicates decide on each client anew.
    let mut other = Polling::open(&app).await;
    let told = other.ask("40/b,").await;
    assert_eq!(told, r#"44/b,{"message":"Invalid namespace"}"#);
    support::socket_id(&other.ask(r#"40/b,{"token":"sesame"}"#).await);
    support::socket_id(&other.ask(r#"40/a,{"token":"sesame"}"#).await);
    assert_eq!(who(&mut other, "/a").await, r#"43/a,1["second"]"#);
}

/// Returns a builder whose predicate waits for a permit, and then accepts only `/slow`.
fn waiting(namespace: Namespace) -> (tower_socketio::SocketIoBuilder, Arc<Semaphore>) {
    let go_on = Arc::new(Semaphore::new(0));
    let wait = Arc::clone(&go_on);
    let decide = move |request: NamespaceRequest| {
        let wait = Arc::clone(&wait);
        async move {
            wait.acquire().await.expect("open").forget();
            request.name() == "/slow"
        }
    };
    (
        builder(Namespace::new()).namespace_if(decide, namespace),
        go_on,
    )
}

#[tokio::test]
async fn two_clients_that_connect_at_the_same_time_get_one_namespace() {
    let created = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&created);
    let (builder, go_on) = waiting(Namespace::new());
    let (layer, io) = builder
        .namespace("/static", Namespace::new())
        .on_namespace(move |name: &str| note.lock().expect("notes").push(name.to_owned()))
        .build();
    let app = app(layer);
    let mut clients = [Polling::open(&app).await, Polling::open(&app).await];
    for client in &mut clients {
        client.send("40/slow,").await;
    }
    assert_eq!(io.namespaces(), ["/", "/static"]);
    go_on.add_permits(2);
    for client in &mut clients {
        support::socket_id(&client.next().await);
    }
    assert_eq!(io.of("/slow").sockets().len(), 2);
    io.of("/slow").emit("x", 1);
    for client in &mut clients {
        assert_eq!(client.next().await, r#"42/slow,["x",1]"#);
        client.send("41/slow,").await;
    }
    until(|| io.namespaces() == ["/", "/static"]).await;
    assert_eq!(*created.lock().expect("notes"), ["/static", "/slow"]);

    // The next client creates the namespace again.
    go_on.add_permits(1);
    clients[0].join("/slow").await;
    assert_eq!(
        *created.lock().expect("notes"),
        ["/static", "/slow", "/slow"]
    );
}

#[tokio::test]
async fn packets_for_an_undecided_namespace_wait_and_others_do_not() {
    let (builder, go_on) = waiting(Namespace::new().on("n", async |Data(n): Data<u32>| n));
    let (layer, io) = builder.build();
    let mut client = Polling::connect(&app(layer)).await;
    client.send("40/slow,").await;
    client.send(r#"42/slow,1["n",1]"#).await;
    client.send("40/never,").await;
    client.send(r#"42/never,2["n",2]"#).await;
    let told = client.ask(r#"423["n"]"#).await;
    assert!(told.starts_with("433[{"), "{told}");
    go_on.add_permits(2);
    let mut told = [
        client.next().await,
        client.next().await,
        client.next().await,
    ];
    told.sort_unstable();
    support::socket_id(&told[0]);
    assert_eq!(told[1], "43/slow,1[1]");
    assert_eq!(told[2], r#"44/never,{"message":"Invalid namespace"}"#);

    // A client that leaves before the decision gets no answer.
    client.send("41/slow,").await;
    client.send("40/slow,").await;
    client.send("41/slow,").await;
    go_on.add_permits(1);
    client.join("/slow").await;
    client.send("41/slow,").await;
    until(|| io.namespaces() == ["/"]).await;
}

#[tokio::test]
async fn a_connection_that_ends_before_the_decision_leaves_nothing() {
    struct Dropped(mpsc::UnboundedSender<()>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.send(()).expect("somebody waits");
            panic!("in a destructor");
        }
    }
    let (sender, mut dropped) = mpsc::unbounded_channel();
    let (begins, mut begun) = mpsc::unbounded_channel();
    let decide = move |_: NamespaceRequest| {
        let guard = Dropped(sender.clone());
        begins.send(()).expect("somebody waits");
        async move {
            let _guard = guard;
            std::future::pending().await
        }
    };
    let (layer, io) = builder(Namespace::new())
        .namespace_if(decide, Namespace::new())
        .build();
    let mut client = Polling::open(&app(layer)).await;
    client.send("40/any,").await;
    client.send(r#"42/any,["x"]"#).await;
    within(begun.recv()).await.expect("it is asked");
    client.send("1").await;
    within(dropped.recv()).await.expect("it is dropped");
    assert_eq!(io.namespaces(), ["/"]);
}

#[tokio::test]
async fn a_namespace_that_refuses_every_client_is_dropped() {
    let namespace = Namespace::new().on_connect(async || Err::<(), _>("no"));
    let (layer, io) = builder(Namespace::new())
        .namespace_if(is_dynamic, namespace)
        .build();
    let mut client = Polling::open(&app(layer)).await;
    assert_eq!(
        client.ask("40/dyn-1,").await,
        r#"44/dyn-1,{"message":"no"}"#
    );
    until(|| io.namespaces() == ["/"]).await;
}

#[tokio::test]
async fn the_namespaces_of_a_predicate_are_limited() {
    let (layer, io) = builder(Namespace::new())
        .namespace_if(is_dynamic, Namespace::new())
        .max_dynamic_namespaces(1)
        .build();
    let mut client = Polling::open(&app(layer)).await;
    client.join("/dyn-1").await;
    let told = client.ask("40/dyn-2,").await;
    assert_eq!(told, r#"44/dyn-2,{"message":"Invalid namespace"}"#);
    client.send("41/dyn-1,").await;
    until(|| io.namespaces() == ["/"]).await;
    client.join("/dyn-2").await;
}

#[tokio::test]
async fn a_dynamic_namespace_has_the_handlers_hooks_and_state_of_its_definition() {
    use axum::extract::State;
    let (sender, mut told) = mpsc::unbounded_channel();
    let namespace = Namespace::new()
        .on_connect(async |socket: Socket, State(n): State<u32>| socket.emit("state", n))
        .on_room_event(move |event| {
            sender.send(event.namespace.to_string()).expect("open");
        });
    let (layer, _io) = SocketIo::builder()
        .namespace_if(is_dynamic, namespace)
        .with_state(7)
        .build();
    let mut client = Polling::open(&app(layer)).await;
    client.join("/dyn-3").await;
    assert_eq!(client.next().await, r#"42/dyn-3,["state",7]"#);
    assert_eq!(within(told.recv()).await.expect("told"), "/dyn-3");
}

#[tokio::test]
async fn only_the_connect_handler_of_the_joined_namespace_runs() {
    let (sender, mut connected) = mpsc::unbounded_channel();
    let telling = |name: &'static str| {
        let sender = sender.clone();
        Namespace::new().on_connect(move || {
            let _ = sender.send(name);
            std::future::ready(())
        })
    };
    let (layer, _io) = builder(telling("main"))
        .namespace("/chat", telling("chat"))
        .build();
    let mut client = Polling::open(&app(layer)).await;
    client.join("/chat").await;
    assert_eq!(connected.try_recv(), Ok("chat"));
    assert!(connected.try_recv().is_err());
    client.join("/").await;
    assert_eq!(connected.try_recv(), Ok("main"));
}

#[tokio::test]
async fn without_recovery_a_client_gets_only_its_id_and_plain_events() {
    let (layer, io) = builder(Namespace::new()).build();
    let mut client = Polling::open(&app(layer)).await;
    let told = client.ask("40").await;
    let told: Value = serde_json::from_str(&told[2..]).expect("JSON");
    assert_eq!(told.as_object().expect("an object").len(), 1);
    assert_eq!(told["sid"].as_str().map(str::len), Some(20));
    io.emit("x", json!(1));
    assert_eq!(client.next().await, r#"42["x",1]"#);
}

#[tokio::test]
async fn a_recreated_namespace_outlives_its_predecessor() {
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let leave = async move |socket: Socket| {
        if socket.rooms().iter().any(|room| &**room == "slow") {
            opened.acquire().await.expect("open").forget();
        }
    };
    let namespace = Namespace::new()
        .on("slow", async |socket: Socket| socket.join("slow"))
        .on_disconnect(leave);
    let (layer, io) = SocketIo::builder().namespace("/{name}", namespace).build();
    let app = app(layer);
    let mut slow = Polling::open(&app).await;
    slow.join("/x").await;
    assert_eq!(slow.ask(r#"42/x,1["slow"]"#).await, "43/x,1[]");
    slow.send("41/x,").await;
    until(|| io.counts().sockets == 0).await;
    // The handler of the first socket still runs, although the socket has left.
    let mut quick = Polling::open(&app).await;
    quick.join("/x").await;
    quick.send("41/x,").await;
    until(|| io.counts().namespaces == 0).await;
    let mut later = Polling::open(&app).await;
    later.join("/x").await;
    gate.add_permits(1);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(gate.available_permits(), 0);
    io.of("/x").emit("m", 1);
    assert_eq!(later.next().await, r#"42/x,["m",1]"#);
}

#[test]
#[should_panic(expected = "is longer than 255 bytes: no client can join it")]
fn a_name_that_no_client_can_send_is_a_mistake() {
    let name = format!("/{}", "x".repeat(255));
    let _ = SocketIo::builder::<()>().namespace(&name, Namespace::new());
}
