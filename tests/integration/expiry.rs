//! Sockets that expire.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tower_socketio::testing::{Client, Disconnect};
use tower_socketio::{
    Data, DisconnectReason, Expiry, Handler, Namespace, Recovery, Socket, SocketIo,
};

use crate::recovery::{back, connect, lose};
use crate::support::{Polling, app, builder, main_app, until, within};

const SECOND: Duration = Duration::from_secs(1);

async fn client(app: &Router) -> Client {
    let connect = Client::connect(app, "/").timeout(1_000 * SECOND);
    connect.await.expect("it is let in")
}

/// A namespace whose sockets expire, and the reasons of those that have left.
fn expiring(expiry: Expiry) -> (Namespace, mpsc::UnboundedReceiver<DisconnectReason>) {
    let (sender, reasons) = mpsc::unbounded_channel();
    let namespace = Namespace::new()
        .on_connect(async move |socket: Socket| socket.set_expiry(expiry))
        .on_disconnect(async move |reason: DisconnectReason| {
            sender.send(reason).expect("the test goes on");
        });
    (namespace, reasons)
}

#[tokio::test(start_paused = true)]
async fn an_idle_socket_is_disconnected_at_its_deadline() {
    let (namespace, mut reasons) = expiring(Expiry::after(90 * SECOND).last_event("signed_out"));
    let (app, io) = main_app(namespace);
    let begun = Instant::now();
    let mut client = client(&app).await;
    client.expect("signed_out").await;
    assert_eq!(client.disconnected().await, Disconnect::ByServer);
    // Tokio's timers have a resolution of a millisecond.
    let late = begun.elapsed() - 90 * SECOND;
    assert!(late <= Duration::from_millis(2), "{late:?}");
    assert_eq!(reasons.recv().await, Some(DisconnectReason::Expired));
    assert_eq!(io.counts().sockets, 0);
    // The connection stays for other namespaces.
    assert_eq!(io.counts().sessions, 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_signs_in_again_stays() {
    let expiry = || {
        Expiry::after(60 * SECOND)
            .reminder("sign_in_again", 10 * SECOND)
            .last_event("signed_out")
    };
    let (namespace, _reasons) = expiring(expiry());
    let sign_in = async move |socket: Socket| {
        socket.set_expiry(expiry());
        socket.expires_in().map(|rest| rest.as_secs())
    };
    let (app, _io) = main_app(namespace.on("sign_in", sign_in));
    let begun = Instant::now();
    let mut client = client(&app).await;
    for round in 1..=3 {
        let reminder: Value = client.expect("sign_in_again").await.data();
        assert_eq!(begun.elapsed().as_secs(), 50 * round);
        let rest = reminder["expiresInMs"].as_u64().expect("a number");
        assert!((9_990..=10_000).contains(&rest), "{rest}");
        let rest: u64 = client
            .emit_with_ack("sign_in", ())
            .await
            .expect("an answer");
        assert_eq!(rest, 60);
    }
    client.expect("sign_in_again").await;
    client.expect("signed_out").await;
    assert_eq!(begun.elapsed().as_secs(), 3 * 50 + 60);
    assert_eq!(client.disconnected().await, Disconnect::ByServer);
}

#[tokio::test(start_paused = true)]
async fn an_expiry_may_be_removed_or_set_from_another_task() {
    let sockets = Arc::new(Mutex::new(Vec::new()));
    let keep = {
        let sockets = Arc::clone(&sockets);
        async move |socket: Socket| {
            socket.set_expiry(Expiry::after(10 * SECOND));
            sockets.lock().expect("no panic").push(socket);
        }
    };
    let (app, io) = main_app(Namespace::new().on_connect(keep));
    let begun = Instant::now();
    let mut client = client(&app).await;
    let socket = sockets.lock().expect("no panic")[0].clone();
    assert!(socket.expires_in().is_some());
    socket.set_expiry(None);
    assert_eq!(socket.expires_in(), None);
    tokio::time::sleep(100 * SECOND).await;
    assert_eq!(io.counts().sockets, 1);
    // A later deadline is replaced by an earlier one, while the session's task sleeps.
    socket.set_expiry(Expiry::after(1_000 * SECOND));
    tokio::time::sleep(SECOND).await;
    socket.set_expiry(Expiry::after(2 * SECOND));
    assert_eq!(client.disconnected().await, Disconnect::ByServer);
    assert_eq!(begun.elapsed().as_secs(), 103);
    assert_eq!(socket.expires_in(), Some(Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn only_the_socket_that_expires_leaves_its_connection() {
    let (main, _reasons) = expiring(Expiry::after(5 * SECOND).last_event("signed_out"));
    let (layer, io) = builder(main)
        .namespace("/open", Namespace::new().on("ping", async || "pong"))
        .build();
    let app = app(layer);
    let mut client = Polling::connect(&app).await;
    client.join("/open").await;
    assert_eq!(within(client.next()).await, r#"42["signed_out"]"#);
    assert_eq!(within(client.next()).await, "41");
    assert_eq!(
        client.ask(r#"42/open,1["ping"]"#).await,
        r#"43/open,1["pong"]"#
    );
    assert_eq!(io.counts().sockets, 1);
    // It may sign in again on the same connection.
    client.join("/").await;
    assert_eq!(io.counts().sockets, 2);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_while_the_socket_connects_ends_it_afterwards() {
    let connect = async |socket: Socket| {
        socket.set_expiry(Expiry::after(SECOND).last_event("signed_out"));
        tokio::time::sleep(3 * SECOND).await;
    };
    let (app, _io) = main_app(Namespace::new().on_connect(connect));
    let begun = Instant::now();
    let mut client = client(&app).await;
    client.expect("signed_out").await;
    assert_eq!(client.disconnected().await, Disconnect::ByServer);
    assert_eq!(begun.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn events_that_wait_at_the_deadline_are_dropped_and_a_running_handler_ends() {
    let (namespace, mut reasons) = expiring(Expiry::after(5 * SECOND));
    let (log, mut logged) = mpsc::unbounded_channel();
    let release = Arc::new(Semaphore::new(0));
    let slow = {
        let release = Arc::clone(&release);
        async move |Data(n): Data<u32>| {
            let _permit = release.acquire().await;
            log.send(n).expect("the test goes on");
        }
    };
    let (app, _io) = main_app(namespace.on("slow", slow));
    let mut client = client(&app).await;
    client.emit("slow", 1);
    client.emit("slow", 2);
    assert_eq!(client.disconnected().await, Disconnect::ByServer);
    release.add_permits(10);
    assert_eq!(reasons.recv().await, Some(DisconnectReason::Expired));
    assert_eq!(logged.recv().await, Some(1));
    assert!(logged.try_recv().is_err(), "the second was handled");
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_runs_does_not_delay_the_deadline() {
    let (namespace, _reasons) = expiring(Expiry::after(5 * SECOND));
    let wait = async || tokio::time::sleep(60 * SECOND).await;
    let (app, io) = main_app(namespace.on("wait", wait.concurrent()));
    let begun = Instant::now();
    let mut client = client(&app).await;
    client.emit("wait", ());
    assert_eq!(client.disconnected().await, Disconnect::ByServer);
    assert_eq!(begun.elapsed().as_secs(), 5);
    assert_eq!(io.counts().sockets, 0);
}

/// Returns a server with recovery, whose connect handler does not run for a restored socket.
fn recovering(namespace: Namespace) -> (Router, SocketIo) {
    let recovery = Recovery::within(120 * SECOND).skip_connect_handler(true);
    let (layer, io) = builder(namespace).recovery(recovery).build();
    (app(layer), io)
}

#[tokio::test(start_paused = true)]
async fn a_restored_socket_keeps_its_deadline() {
    let (namespace, mut reasons) = expiring(Expiry::after(20 * SECOND));
    let (app, io) = recovering(namespace.on("hello", async |socket: Socket| {
        socket.emit("hello", ());
    }));
    let begun = Instant::now();
    let (mut client, mut seat) = connect(&app).await;
    let hello = client.ask(r#"42["hello"]"#).await;
    assert_eq!(seat.event(&hello), json!(["hello"]).to_string());
    lose(client, &io).await;
    assert_eq!(reasons.recv().await, Some(DisconnectReason::TransportClose));
    tokio::time::sleep(10 * SECOND).await;
    let (mut client, recovered) = back(&app, &mut seat).await;
    assert!(recovered);
    assert_eq!(within(client.next()).await, "41");
    assert_eq!(begun.elapsed().as_secs(), 20);
    assert_eq!(reasons.recv().await, Some(DisconnectReason::Expired));

    // An expired socket cannot be restored.
    let (_client, recovered) = back(&app, &mut seat).await;
    assert!(!recovered);
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_expires_while_it_is_away_leaves_when_it_comes_back() {
    let expiry = Expiry::after(20 * SECOND).last_event("over");
    let (namespace, mut reasons) = expiring(expiry);
    let (app, io) = recovering(namespace.on("hello", async |socket: Socket| {
        socket.emit("hello", ());
    }));
    let (mut client, mut seat) = connect(&app).await;
    let hello = client.ask(r#"42["hello"]"#).await;
    seat.event(&hello);
    lose(client, &io).await;
    assert_eq!(reasons.recv().await, Some(DisconnectReason::TransportClose));
    io.emit("secret", 1);
    tokio::time::sleep(30 * SECOND).await;
    let (mut client, recovered) = back(&app, &mut seat).await;
    assert!(recovered);
    // What was sent after the deadline is not for the client, nor what was sent before it.
    assert!(within(client.next()).await.starts_with(r#"42["over""#));
    assert_eq!(within(client.next()).await, "41");
    assert_eq!(reasons.recv().await, Some(DisconnectReason::Expired));
    until(|| io.counts().sockets == 0).await;
}
