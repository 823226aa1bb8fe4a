//! Handlers that close the server, and the end of the runtime that serves it.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures_util::FutureExt;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, mpsc};
use tower::{Service, ServiceExt};
use tower_socketio::engine::{EngineLayer, EngineSocket};
use tower_socketio::{Namespace, Socket, SocketIo};

use crate::support::{Polling, app, builder, main_app, text_frame, until, upgrade_head, within};

/// Returns an app whose event `stop` closes the server with `stop`. The receiver gets an item when
/// the server is closed.
fn stopping<F>(
    stop: impl Fn(Socket, SocketIo) -> F + Clone + Send + Sync + 'static,
) -> (Router, SocketIo, mpsc::UnboundedReceiver<()>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, stopped) = mpsc::unbounded_channel();
    let elsewhere = Arc::new(OnceLock::<SocketIo>::new());
    let io_elsewhere = Arc::clone(&elsewhere);
    let handler = async move |socket: Socket| {
        let io = io_elsewhere.get().expect("it is set").clone();
        stop(socket, io).await;
        let _ = sender.send(());
    };
    let (app, io) = main_app(Namespace::new().on("stop", handler));
    assert!(elsewhere.set(io.clone()).is_ok());
    (app, io, stopped)
}

#[tokio::test(start_paused = true)]
async fn a_handler_may_close_the_server() {
    async fn check<F>(stop: impl Fn(Socket, SocketIo) -> F + Clone + Send + Sync + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (app, io, mut stopped) = stopping(stop);
        let client = Polling::connect(&app).await;
        let _other = Polling::connect(&app).await;
        client.send_and_forget(r#"42["stop"]"#).await;
        within(stopped.recv()).await.expect("it has stopped");
        within(io.close()).await;
        assert_eq!(io.counts().sessions, 0);
    }
    check(async |socket: Socket, _| socket.io().close().await).await;
    check(async |_, io: SocketIo| io.close().await).await;
    // The handler polls the close inside another future.
    check(async |_, io: SocketIo| {
        tokio::select! {
            () = async { io.close().await } => {}
            () = std::future::pending() => {}
        }
    })
    .await;
    // The handler spawns a task that closes the server.
    check(async |socket: Socket, _| {
        let io = socket.io();
        let task = tokio::spawn(async move { io.close().await });
        task.await.expect("no panic");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn handlers_of_any_kind_may_close_the_server() {
    let done = Arc::new(Semaphore::new(0));
    let close = |done: &Arc<Semaphore>| {
        let done = Arc::clone(done);
        async move |io: SocketIo| {
            io.close().await;
            done.add_permits(1);
        }
    };
    let (app, io) = main_app(Namespace::new().on_disconnect(close(&done)));
    let client = Polling::connect(&app).await;
    client.send_and_forget("41").await;
    within(done.acquire()).await.expect("open").forget();
    within(io.close()).await;

    let (app, io) = main_app(Namespace::new().on_connect(close(&done)));
    let client = Polling::open(&app).await;
    client.send_and_forget("40").await;
    within(done.acquire()).await.expect("open").forget();
    within(io.close()).await;

    let engine = Arc::new(OnceLock::<EngineLayer>::new());
    let (own, ended) = (Arc::clone(&engine), Arc::clone(&done));
    let run = move |mut socket: EngineSocket| {
        let (own, ended) = (Arc::clone(&own), Arc::clone(&ended));
        async move {
            socket.recv().await;
            own.get().expect("it is set").close().await;
            ended.add_permits(1);
        }
    };
    let layer = EngineLayer::builder(run).path("/socket.io").build();
    assert!(engine.set(layer.clone()).is_ok());
    let client = Polling::open(&Router::new().layer(layer.clone())).await;
    client.send_and_forget("4stop").await;
    within(done.acquire()).await.expect("open").forget();
    within(layer.close()).await;
}

#[tokio::test(start_paused = true)]
async fn handlers_that_close_the_server_do_not_wait_for_each_other() {
    let all_there = Arc::new(Semaphore::new(0));
    let there = Arc::clone(&all_there);
    let (app, io, mut stopped) = stopping(move |_, io| {
        let there = Arc::clone(&there);
        async move {
            there.acquire().await.expect("open").forget();
            io.close().await;
        }
    });
    let clients = [Polling::connect(&app).await, Polling::connect(&app).await];
    for client in &clients {
        client.send_and_forget(r#"42["stop"]"#).await;
    }
    let outside = tokio::spawn(async move { io.close().await });
    all_there.add_permits(2);
    for _ in &clients {
        within(stopped.recv()).await.expect("it has stopped");
    }
    within(outside).await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_closes_the_server_waits_for_the_others() {
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let (done, mut stopped) = mpsc::unbounded_channel();
    let work = async move || opened.acquire().await.expect("open").forget();
    let stop = async move |io: SocketIo| {
        io.close().await;
        let _ = done.send(());
    };
    let (app, io) = main_app(Namespace::new().on("work", work).on("stop", stop));
    let worker = Polling::connect(&app).await;
    worker.send_and_forget(r#"42["work"]"#).await;
    let client = Polling::connect(&app).await;
    client.send_and_forget(r#"42["stop"]"#).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(stopped.try_recv().is_err());
    assert_eq!(io.counts().sessions, 2);
    gate.add_permits(1);
    within(stopped.recv()).await.expect("it has stopped");
}

/// Opens a WebSocket in the main namespace, over a stream with a small buffer. Another runtime
/// serves it.
async fn narrow(app: &Router, runtime: &Runtime) -> DuplexStream {
    let (mut client, server) = tokio::io::duplex(4_096);
    let app = app.clone();
    let service = hyper::service::service_fn(move |request| app.clone().oneshot(request));
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(hyper_util::rt::TokioIo::new(server), service);
    runtime.spawn(connection.with_upgrades());
    let head = upgrade_head("");
    within(client.write_all(head.as_bytes()))
        .await
        .expect("it is taken");
    within(client.write_all(&text_frame("40")))
        .await
        .expect("it is taken");
    let mut got = Vec::new();
    while !got.windows(3).any(|bytes| bytes == b"40{") {
        got.push(within(client.read_u8()).await.expect("a byte"));
    }
    client
}

#[test]
fn waits_for_a_socket_end_with_its_runtime() {
    let ours = Runtime::new().expect("a runtime");
    let theirs = Runtime::new().expect("a runtime");
    let (layer, io) = builder(Namespace::new()).build();
    let app = app(layer);
    ours.block_on(async {
        let _client = narrow(&app, &theirs).await;
        until(|| !io.sockets().is_empty()).await;
        let socket = io.sockets().remove(0);
        io.emit("text", "x".repeat(1_000_000));
        let asked = socket.emit_with_ack::<()>("ask", ());
        let all = io.of("/").emit_with_ack::<()>("ask", ());
        let closing = io.clone();
        let drained = tokio::spawn(async move { socket.drained().await });
        let asked = tokio::spawn(asked.into_future());
        let all = tokio::spawn(all.timeout(std::time::Duration::MAX).into_future());
        tokio::task::yield_now().await;
        assert!(!drained.is_finished());
        let closed = tokio::spawn(async move { closing.close().await });
        tokio::task::spawn_blocking(move || drop(theirs))
            .await
            .expect("it ends");
        within(drained).await.expect("no panic");
        let asked = within(asked).await.expect("no panic");
        assert!(asked.is_err_and(|error| error.is_disconnected()));
        let all = within(all).await.expect("no panic");
        assert!(matches!(&all[..], [(_, Err(error))] if error.is_disconnected()));
        within(closed).await.expect("no panic");
    });
}

#[test]
fn drained_returns_when_the_runtime_of_the_socket_ends() {
    let ours = Runtime::new().expect("a runtime");
    let theirs = Runtime::new().expect("a runtime");
    let (app, io) = main_app(Namespace::new());
    ours.block_on(async {
        let _client = narrow(&app, &theirs).await;
        until(|| !io.sockets().is_empty()).await;
        let socket = io.sockets().remove(0);
        // This is more than the stream and one write hold.
        (0..3).for_each(|_| io.emit("text", "x".repeat(1_000_000)));
        let drained = tokio::spawn(async move { socket.drained().await });
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!drained.is_finished());
        let end = tokio::task::spawn_blocking(move || drop(theirs));
        end.await.expect("it ends");
        within(drained).await.expect("no panic");
    });
}

#[test]
fn the_layer_may_be_called_outside_of_a_runtime() {
    let (app, io) = main_app(Namespace::new());
    let open = || {
        let request = Request::get("/socket.io/?EIO=4&transport=polling").body(Body::empty());
        app.clone().oneshot(request.expect("a request"))
    };
    let refused = open().now_or_never().expect("it does not wait");
    let refused = refused.expect("infallible");
    assert_eq!(refused.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(io.counts().sessions, 0);
    // The future may be created without a runtime. It needs one when it is polled.
    let answer = open();
    let runtime = Runtime::new().expect("a runtime");
    let opened = runtime.block_on(answer).expect("infallible");
    assert_eq!(opened.status(), StatusCode::OK);
}

#[test]
fn a_session_that_is_opened_after_the_server_has_closed_is_closed_at_once() {
    let (layer, io) = builder(Namespace::new()).build();
    let mut service = layer.into_service();
    let request = Request::get("/socket.io/?EIO=4&transport=polling").body(Body::empty());
    // Outside of a runtime the request is checked, and the session is opened at the first poll.
    let answer = service.call(request.expect("a request"));
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        within(io.close()).await;
        let opened = within(answer).await.expect("infallible");
        let body = opened.into_body().collect().await.expect("a body");
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        assert!(body.starts_with("0{") && body.ends_with("\x1e1"), "{body}");
        until(|| io.counts().sessions == 0).await;
    });
}

#[tokio::test(start_paused = true)]
async fn acknowledgements_before_the_end_of_the_server_are_still_sent() {
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let work = async move |socket: Socket| {
        opened.acquire().await.expect("open").forget();
        socket.emit("last", "word");
        "done"
    };
    let (app, io) = main_app(Namespace::new().on("work", work));
    let mut client = Polling::connect(&app).await;
    // The second event waits for the first one, and its handler never runs.
    client.send("421[\"work\"]\x1e422[\"work\"]").await;
    let ended = tokio::spawn(async move { io.close().await });
    tokio::task::yield_now().await;
    gate.add_permits(2);
    assert_eq!(client.next().await, r#"42["last","word"]"#);
    assert_eq!(client.next().await, r#"431["done"]"#);
    assert_eq!(client.next().await, "1");
    within(ended).await.expect("no panic");
    assert_eq!(gate.available_permits(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_does_not_end_delays_the_close_for_five_seconds() {
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let work = async move || opened.acquire().await.expect("open").forget();
    let (app, io) = main_app(Namespace::new().on("work", work));
    let mut client = Polling::connect(&app).await;
    client.send(r#"421["work"]"#).await;
    let begun = tokio::time::Instant::now();
    let ended = tokio::spawn(async move { io.close().await });
    assert_eq!(client.next().await, "1");
    assert_eq!(begun.elapsed().as_secs(), 5);
    gate.add_permits(1);
    within(ended).await.expect("no panic");
}
