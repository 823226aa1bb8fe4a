//! The upgrade from polling to WebSocket, interrupted at each of its steps.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use futures_util::SinkExt;
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::Message;
use tower_socketio::{Data, Namespace, Socket, SocketIo};

use crate::support::stream::serve_stream;
use crate::support::{
    Client, Got, Polling, app, builder, frame, in_memory, post, send_head, serve, until,
    upgrade_head, within,
};

async fn echo(socket: Socket, Data(text): Data<String>) {
    socket.emit("echo", text);
}

const ECHO: &str = r#"42["echo","a"]"#;

/// A polling client with a WebSocket that has not probed yet.
struct Upgrading {
    app: Router,
    io: SocketIo,
    polling: Polling,
    websocket: Client,
}

async fn upgrading() -> Upgrading {
    let main = Namespace::new()
        .on("echo", echo)
        .on("close", async |socket: Socket| socket.close());
    let (layer, io) = builder(main)
        .upgrade_timeout(Duration::from_secs(10))
        .build();
    let app = app(layer);
    let polling = Polling::connect(&app).await;
    let addr = serve(app.clone()).await;
    let websocket = Client::raw(addr, &format!("&sid={}", polling.sid)).await;
    Upgrading {
        app,
        io,
        polling,
        websocket,
    }
}

async fn assert_closed(websocket: &mut Client) {
    assert!(matches!(websocket.next().await, Got::Close(_) | Got::End));
}

#[tokio::test]
async fn polling_is_used_until_the_upgrade_is_complete() {
    let mut it = upgrading().await;
    assert_eq!(it.polling.ask(ECHO).await, ECHO);
    assert_eq!(it.websocket.ask("2probe").await, "3probe");
    it.polling.send(ECHO).await;
    assert_eq!(it.polling.next().await, ECHO);
    // Packets wait while the client does not poll.
    it.polling.send(ECHO).await;
    it.polling.send(r#"42["echo","b"]"#).await;
    it.websocket.send("5").await;
    assert_eq!(it.websocket.text().await, ECHO);
    assert_eq!(it.websocket.text().await, r#"42["echo","b"]"#);
}

#[tokio::test]
async fn each_poll_of_a_client_that_upgrades_is_released() {
    let mut it = upgrading().await;
    let poll = it.polling.poll();
    tokio::task::yield_now().await;
    assert_eq!(it.websocket.ask("2probe").await, "3probe");
    assert_eq!(within(poll).await.expect("no panic").body(), "6");
    for _ in 0..2 {
        assert_eq!(it.polling.get().await.body(), "6");
    }
}

#[tokio::test]
async fn a_pending_poll_is_released_when_the_upgrade_completes() {
    let mut it = upgrading().await;
    assert_eq!(it.websocket.ask("2probe").await, "3probe");
    let poll = it.polling.poll();
    tokio::task::yield_now().await;
    it.websocket.send("5").await;
    assert_eq!(within(poll).await.expect("no panic").body(), "6");
    assert_eq!(it.websocket.ask(ECHO).await, ECHO);
    assert_eq!(it.polling.get().await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_poll_stays_pending_when_the_websocket_goes_away() {
    let it = upgrading().await;
    let poll = it.polling.poll();
    tokio::task::yield_now().await;
    drop(it.websocket);
    // When the server has noticed the end of the first WebSocket, another one may probe.
    loop {
        let addr = serve(it.app.clone()).await;
        let mut another = Client::raw(addr, &format!("&sid={}", it.polling.sid)).await;
        another.send("nonsense").await;
        if another.next().await == Got::Close(None) {
            break;
        }
    }
    assert!(!poll.is_finished());
    it.io.emit("still", "here");
    assert_eq!(
        within(poll).await.expect("no panic").body(),
        r#"42["still","here"]"#
    );
}

#[tokio::test]
async fn a_packet_other_than_a_probe_closes_the_websocket_and_not_the_session() {
    for packet in ["4hello", "2", "5", "1", "nonsense", "40"] {
        let mut it = upgrading().await;
        it.websocket.send(packet).await;
        assert_closed(&mut it.websocket).await;
        assert_eq!(it.polling.ask(ECHO).await, ECHO, "{packet}");
    }
}

#[tokio::test]
async fn a_probe_under_backpressure_is_answered_after_the_next_poll() {
    let mut it = upgrading().await;
    it.io.emit("much", "x".repeat(300_000));
    it.websocket.send("2probe").await;
    // The session sees that input is available, but does not read it now.
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(it.polling.get().await.status(), StatusCode::OK);
    assert_eq!(it.websocket.text().await, "3probe");
}

#[tokio::test]
async fn an_upgrade_that_is_not_completed_in_time_is_aborted() {
    let (layer, _io) = builder(Namespace::new().on("echo", echo))
        .upgrade_timeout(Duration::from_secs(60))
        .ping_interval(Duration::from_secs(120))
        .build();
    let app = app(layer);
    let mut polling = Polling::connect(&app).await;
    let addr = serve(app).await;
    let mut websocket = Client::raw(addr, &format!("&sid={}", polling.sid)).await;
    assert_eq!(websocket.ask("2probe").await, "3probe");
    // The test needs the real clock again for the network.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(60)).await;
    tokio::time::resume();
    assert_closed(&mut websocket).await;
    assert_eq!(polling.ask(ECHO).await, ECHO);
}

/// Its pings are answered until the answers block.
#[tokio::test(start_paused = true)]
async fn a_websocket_that_does_not_read_is_dropped_when_its_upgrade_has_failed() {
    let (layer, _io) = builder(Namespace::new().on("echo", echo))
        .upgrade_timeout(Duration::from_secs(10))
        .build();
    let app = app(layer);
    let mut polling = Polling::connect(&app).await;
    let mut websocket = in_memory(app.clone(), 256);
    let head = upgrade_head(&format!("&sid={}", polling.sid));
    assert!(send_head(&mut websocket, &head).await.contains(" 101 "));
    let pings = async {
        while websocket.write_all(&frame(9, &[7; 125])).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(12), pings).await;
    assert!(ended.is_ok(), "the connection is still open");
    assert_eq!(polling.ask(ECHO).await, ECHO);
}

#[tokio::test]
async fn a_second_websocket_is_closed_and_the_first_goes_on() {
    let mut it = upgrading().await;
    let addr = serve(it.app.clone()).await;
    let query = format!("&sid={}", it.polling.sid);
    assert_closed(&mut Client::raw(addr, &query).await).await;
    assert_eq!(it.websocket.ask("2probe").await, "3probe");
    assert_closed(&mut Client::raw(addr, &query).await).await;
    it.websocket.send("5").await;
    assert_eq!(it.websocket.ask(ECHO).await, ECHO);
    assert_closed(&mut Client::raw(addr, &query).await).await;
    assert_eq!(it.websocket.ask(ECHO).await, ECHO);
}

#[tokio::test]
async fn a_session_that_ends_closes_its_websocket() {
    for probe in [false, true] {
        let mut it = upgrading().await;
        if probe {
            assert_eq!(it.websocket.ask("2probe").await, "3probe");
        }
        it.polling.send("1").await;
        assert_closed(&mut it.websocket).await;
        until(|| it.io.counts().sessions == 0).await;
    }
}

#[tokio::test]
async fn a_close_during_an_upgrade_reaches_a_client_that_still_polls() {
    let mut it = upgrading().await;
    assert_eq!(it.websocket.ask("2probe").await, "3probe");
    it.polling.send(r#"42["close"]"#).await;
    assert_eq!(it.polling.next().await, "41");
    assert_eq!(it.polling.next().await, "1");
    assert_closed(&mut it.websocket).await;
    until(|| it.io.counts().sessions == 0).await;
}

#[tokio::test]
async fn a_close_during_an_upgrade_reaches_a_client_over_websocket() {
    let mut it = upgrading().await;
    assert_eq!(it.websocket.ask("2probe").await, "3probe");
    it.polling.send(ECHO).await;
    it.polling.send(r#"42["close"]"#).await;
    until(|| it.io.counts().sockets == 0).await;
    // The client does not poll any more.
    it.websocket.send("5").await;
    assert_eq!(it.websocket.text().await, ECHO);
    assert_eq!(it.websocket.text().await, "41");
    assert_closed(&mut it.websocket).await;
    until(|| it.io.counts().sessions == 0).await;
}

#[tokio::test]
async fn the_end_of_the_server_reaches_an_upgrading_client_over_websocket() {
    let mut it = upgrading().await;
    assert_eq!(it.websocket.ask("2probe").await, "3probe");
    it.io.emit("last", "word");
    let io = it.io.clone();
    let ended = tokio::spawn(async move { io.close().await });
    until(|| it.io.counts().sockets == 0).await;
    it.websocket.send("5").await;
    assert_eq!(it.websocket.text().await, r#"42["last","word"]"#);
    assert_closed(&mut it.websocket).await;
    within(ended).await.expect("no panic");
}

#[tokio::test]
async fn a_post_that_waits_for_room_is_handled_whole_before_the_websocket() {
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let work = async move |Data(number): Data<u32>| {
        opened.acquire().await.expect("open").forget();
        number
    };
    let main = Namespace::new().on("work", work);
    let (layer, _io) = builder(main).max_pending(1_000).build();
    let app = app(layer);
    let polling = Polling::connect(&app).await;
    let addr = serve(app).await;
    let mut websocket = Client::raw(addr, &format!("&sid={}", polling.sid)).await;
    assert_eq!(websocket.ask("2probe").await, "3probe");
    let event = |number| format!(r#"42{number}["work",{number},"{}"]"#, "x".repeat(400));
    let body: Vec<_> = (0..12).map(event).collect();
    let mut post = std::pin::pin!(polling.post(body.join("\x1e")));
    tokio::select! {
        biased;
        response = &mut post => panic!("all of it was taken: {response:?}"),
        () = async {
            websocket.send("5").await;
            websocket.send(&event(12)).await;
            gate.add_permits(13);
        } => {}
    }
    let response = within(post).await;
    assert_eq!(
        (response.status(), &**response.body()),
        (StatusCode::OK, "ok")
    );
    for number in 0..13 {
        assert_eq!(websocket.text().await, format!("43{number}[{number}]"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_websocket_that_waits_for_a_post_lets_its_task_sleep() {
    let (layer, _io) = builder(Namespace::new()).build();
    let app = app(layer);
    let polling = Polling::open(&app).await;
    let body = futures_util::stream::pending::<Result<Bytes, std::convert::Infallible>>();
    let post = {
        let (app, uri) = (app.clone(), polling.uri.clone());
        tokio::spawn(async move { post(&app, &uri, Body::from_stream(body)).await })
    };
    let (client, server) = tokio::io::duplex(4_096);
    serve_stream(app, server);
    let url = format!(
        "ws://test/socket.io/?EIO=4&transport=websocket&sid={}",
        polling.sid
    );
    let connected = tokio_tungstenite::client_async(url, client).await;
    let (mut websocket, _) = connected.expect("a WebSocket");
    for packet in ["2probe", "5"] {
        let sent = websocket.send(Message::text(packet)).await;
        sent.expect("the server takes it");
    }
    // The paused clock advances only when every task sleeps. The body does not arrive in time.
    let response = post.await.expect("no panic");
    assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
}

#[tokio::test]
async fn a_client_that_upgrades_gets_large_events_at_once() {
    let snapshot = async |socket: Socket| socket.emit("snapshot", "x".repeat(300_000));
    let (layer, _io) = builder(Namespace::new().on("snapshot", snapshot)).build();
    let app = app(layer);
    let polling = Polling::connect(&app).await;
    let addr = serve(app).await;
    let mut websocket = Client::raw(addr, &format!("&sid={}", polling.sid)).await;
    assert_eq!(websocket.ask("2probe").await, "3probe");
    // The client does not poll any more.
    polling.send_and_forget(r#"42["snapshot"]"#).await;
    websocket.send("5").await;
    assert!(websocket.text().await.starts_with(r#"42["snapshot","#));
}

#[tokio::test]
async fn a_post_during_an_upgrade_does_not_wait_for_the_next_poll() {
    let (layer, _io) = builder(Namespace::new().on("echo", echo)).build();
    let app = app(layer);
    let polling = Polling::connect(&app).await;
    let addr = serve(app).await;
    let mut websocket = Client::raw(addr, &format!("&sid={}", polling.sid)).await;
    assert_eq!(websocket.ask("2probe").await, "3probe");
    let event = format!(r#"42["echo","{}"]"#, "x".repeat(50_000));
    let response = polling.post([&*event; 15].join("\x1e")).await;
    assert_eq!(response.body(), "ok");
    websocket.send("5").await;
    for _ in 0..15 {
        assert_eq!(websocket.text().await, event);
    }
}
