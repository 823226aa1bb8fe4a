//! Engine.IO without Socket.IO: sessions as a handler sees them.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::{Extensions, StatusCode};
use tokio::sync::{Notify, mpsc};
use tower_socketio::engine::{
    CloseReason, Config, EngineLayer, EngineSocket, Message, Revision, Text, Transport,
};

use crate::support;
use crate::support::{Client, Got, Polling, serve, until, within};

fn text(text: &str) -> Message {
    Text::from(text).into()
}

fn serving<H, F>(handler: H) -> (Router, EngineLayer)
where
    H: Fn(EngineSocket) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let layer = EngineLayer::builder(handler).path("/socket.io").build();
    (Router::new().layer(layer.clone()), layer)
}

/// Receives the close reason of each session when its handler ends.
type Ends = mpsc::UnboundedReceiver<Option<CloseReason>>;

/// Returns an app whose sessions obey the commands in their messages.
fn obeying() -> (Router, EngineLayer, Ends) {
    let (sender, ends) = mpsc::unbounded_channel();
    let (app, layer) = serving(move |mut socket: EngineSocket| {
        let sender = sender.clone();
        async move {
            while let Some(message) = socket.recv().await {
                let Message::Text(command) = message else {
                    continue;
                };
                match command.as_str() {
                    "close" => socket.close(),
                    "last words" => {
                        socket.send(text("last words"));
                        socket.close();
                        socket.send(text("too late"));
                    }
                    "discard" => {
                        socket.send(text("never heard"));
                        socket.discard();
                    }
                    _ => socket.send(text("what?")),
                }
            }
            assert!(!socket.is_open());
            assert!(socket.recv().await.is_none(), "it stays at its end");
            let _ = sender.send(socket.close_reason());
        }
    });
    (app, layer, ends)
}

async fn end(ends: &mut Ends) -> Option<CloseReason> {
    within(ends.recv())
        .await
        .expect("the handler goes on to its end")
}

#[tokio::test(start_paused = true)]
async fn a_handler_gets_the_close_reason_of_its_session() {
    for (packet, reason) in [
        ("1", CloseReason::TransportClose),
        ("abc", CloseReason::ParseError),
        ("2", CloseReason::TransportError),
        ("4close", CloseReason::ServerClose),
    ] {
        let (app, _layer, mut ends) = obeying();
        let client = Polling::open(&app).await;
        client.post(packet).await;
        assert_eq!(end(&mut ends).await, Some(reason), "{packet}");
    }

    let (app, _layer, mut ends) = obeying();
    let client = Polling::open(&app).await;
    let poll = client.poll();
    tokio::task::yield_now().await;
    client.get().await;
    assert_eq!(end(&mut ends).await, Some(CloseReason::TransportError));
    assert_eq!(poll.await.expect("no panic").body(), "1");

    let client = Polling::open(&app).await;
    let poll = client.poll();
    tokio::task::yield_now().await;
    poll.abort();
    assert_eq!(end(&mut ends).await, Some(CloseReason::TransportError));

    let client = Polling::open(&app).await;
    assert_eq!(client.get().await.body(), "2");
    let poll = client.poll();
    assert_eq!(end(&mut ends).await, Some(CloseReason::PingTimeout));
    assert_eq!(poll.await.expect("no panic").body(), "1");
    assert_eq!(client.get().await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_websocket_that_closes_ends_its_session() {
    let (app, layer, mut ends) = obeying();
    let mut client = Client::open(serve(app).await).await;
    assert_eq!(client.ask("4hello").await, "4what?");
    assert_eq!(layer.session_count(), 1);
    within(client.stream.close(None)).await.expect("it is sent");
    assert_eq!(end(&mut ends).await, Some(CloseReason::TransportClose));
    until(|| layer.session_count() == 0).await;
}

#[tokio::test]
async fn a_message_that_is_too_long_ends_its_session() {
    let (app, _layer, mut ends) = obeying();
    let mut client = Client::open(serve(app).await).await;
    client.send(&format!("4{}", "x".repeat(1_000_000))).await;
    let reason = end(&mut ends).await.expect("it has ended");
    assert_eq!(reason, CloseReason::TooBig);
    assert_eq!(reason.to_string(), "transport error");
    assert_eq!(client.next().await, Got::Close(Some((1009, String::new()))));
}

#[tokio::test]
async fn messages_before_a_close_are_delivered_and_none_after_it() {
    let (app, layer, mut ends) = obeying();
    let polling = Polling::open(&app).await;
    polling.post("4last words").await;
    assert_eq!(end(&mut ends).await, Some(CloseReason::ServerClose));
    assert_eq!(polling.get().await.body(), "4last words");
    assert_eq!(polling.get().await.body(), "1");
    assert_eq!(polling.get().await.status(), StatusCode::BAD_REQUEST);

    let mut client = Client::open(serve(app).await).await;
    assert_eq!(client.ask("4last words").await, "4last words");
    assert_eq!(client.next().await, Got::Close(None));
    assert_eq!(client.next().await, Got::End);
    until(|| layer.session_count() == 0).await;
}

#[tokio::test]
async fn a_discarded_session_sends_nothing_more() {
    let (app, layer, mut ends) = obeying();
    let polling = Polling::open(&app).await;
    polling.post("4discard").await;
    assert_eq!(end(&mut ends).await, Some(CloseReason::ServerClose));
    assert_eq!(polling.get().await.status(), StatusCode::BAD_REQUEST);

    let polling = Polling::open(&app).await;
    let poll = polling.poll();
    tokio::task::yield_now().await;
    polling.post("4close").await;
    assert_eq!(poll.await.expect("no panic").body(), "1");

    let mut client = Client::open(serve(app).await).await;
    client.send("4discard").await;
    assert_eq!(client.next().await, Got::Close(None));
    assert_eq!(client.next().await, Got::End);
    until(|| layer.session_count() == 0).await;
}

#[tokio::test]
async fn the_layer_counts_sessions_broadcasts_and_closes_them() {
    let (app, layer, mut ends) = obeying();
    let polling = Polling::open(&app).await;
    let mut client = Client::open(serve(app.clone()).await).await;
    assert_eq!(layer.session_count(), 2);

    layer.broadcast(&text("all"));
    layer.broadcast(&Message::Binary("bytes".into()));
    assert_eq!(polling.get().await.body(), "4all\x1ebYnl0ZXM=");
    assert_eq!(client.text().await, "4all");
    assert_eq!(client.next().await, Got::Binary(b"bytes".to_vec()));

    let poll = polling.poll();
    tokio::task::yield_now().await;
    let closing = tokio::spawn({
        let layer = layer.clone();
        async move { layer.close().await }
    });
    assert_eq!(within(poll).await.expect("no panic").body(), "1");
    let going = (1001, "server shutting down".to_owned());
    assert_eq!(client.next().await, Got::Close(Some(going)));
    assert_eq!(client.next().await, Got::End);
    within(closing).await.expect("no panic");
    assert_eq!(layer.session_count(), 0);
    for _ in 0..2 {
        assert_eq!(end(&mut ends).await, Some(CloseReason::Shutdown));
    }
    let refused = support::get(&app, "/socket.io/?EIO=4&transport=polling").await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_handler_knows_its_session() {
    let (sender, mut told) = mpsc::unbounded_channel();
    let (app, _layer) = serving(move |mut socket: EngineSocket| {
        let sender = sender.clone();
        async move {
            while socket.recv().await.is_some() {
                let extensions: Extensions = socket.request().extensions;
                let addr = extensions.get::<ConnectInfo<SocketAddr>>();
                let addr = addr.map(|ConnectInfo(addr)| *addr);
                let id = socket.id().expose().to_owned();
                let _ = sender.send((id, socket.revision(), socket.transport(), addr));
            }
        }
    });
    let layered = app.clone();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let addr = listener.local_addr().expect("an address");
    let service = layered.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });

    let mut client = Client::open(addr).await;
    client.send("4hello").await;
    let (_, revision, transport, client_addr) = within(told.recv()).await.expect("told");
    assert_eq!((revision, transport), (Revision::V4, Transport::WebSocket));
    let client_addr = client_addr.expect("the client's address");
    assert!(client_addr.ip().is_loopback() && client_addr != addr);

    let polling = Polling::open(&app).await;
    polling.post("4before").await;
    let (id, _, transport, _) = within(told.recv()).await.expect("told");
    assert_eq!((id, transport), (polling.sid.clone(), Transport::Polling));
    let mut client = Client::raw(addr, &format!("&sid={}", polling.sid)).await;
    assert_eq!(client.ask("2probe").await, "3probe");
    client.send("5").await;
    client.send("4after").await;
    let (id, _, transport, _) = within(told.recv()).await.expect("told");
    assert_eq!((id, transport), (polling.sid.clone(), Transport::WebSocket));
}

#[tokio::test]
async fn a_handler_can_wait_until_its_messages_are_sent() {
    let left = Arc::new(Notify::new());
    let (app, _layer) = serving({
        let left = Arc::clone(&left);
        move |socket: EngineSocket| {
            let left = Arc::clone(&left);
            async move {
                socket.send(text("a"));
                socket.drained().await;
                left.notify_one();
            }
        }
    });
    let polling = Polling::open(&app).await;
    let mut drained = Box::pin(left.notified());
    // The first response may have contained the message already.
    if futures_util::poll!(&mut drained).is_pending() {
        assert_eq!(polling.get().await.body(), "4a");
        within(drained).await;
    }
    assert_eq!(polling.get().await.body(), "1");
}

#[tokio::test]
async fn recv_always_returns_none_after_the_end_of_a_session() {
    let (sender, mut ended) = mpsc::unbounded_channel();
    let handler = move |mut socket: EngineSocket| {
        let sender = sender.clone();
        async move {
            while socket.recv().await.is_some() {}
            let again = socket.recv().await;
            sender.send(again.is_none()).expect("the test goes on");
        }
    };
    let layer = EngineLayer::builder(handler).path("/socket.io").build();
    let app = Router::new().layer(layer.clone());
    let mut client = Polling::open(&app).await;
    client.send("1").await;
    assert_eq!(within(ended.recv()).await, Some(true));
    assert_eq!(client.get().await.body(), "6");
    until(|| layer.session_count() == 0).await;
}

#[tokio::test]
async fn a_post_that_waits_ends_with_its_session() {
    let mut config = Config::default();
    config.max_pending = 100;
    let handler = async |socket: EngineSocket| {
        std::future::pending::<()>().await;
        drop(socket);
    };
    let layer = EngineLayer::builder(handler)
        .path("/socket.io")
        .config(config)
        .build();
    let app = Router::new().layer(layer.clone());
    let client = Polling::open(&app).await;
    let mut post = std::pin::pin!(client.post("4a\x1e4b\x1e4c"));
    tokio::select! {
        biased;
        response = &mut post => panic!("all of it was taken: {response:?}"),
        () = tokio::task::yield_now() => {}
    }
    let mut end = std::pin::pin!(layer.close());
    tokio::select! {
        () = &mut end => panic!("the handler has not ended"),
        response = within(post) => assert_eq!(response.body(), "ok"),
    }
}
