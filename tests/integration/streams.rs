//! WebSockets over streams that buffer, or that accept few bytes at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tower_socketio::{Data, DisconnectReason, Namespace, Socket};

use crate::support::stream::{Buffering, serve_stream};
use crate::support::{
    Counting, Polling, app, builder, compressed_frame, deflate_head, main_app, read_frame,
    send_head, text_frame,
};

/// The capacity of the stream between client and server, in bytes.
const WINDOW: usize = 4 * 1024;

/// Connects a client to the main namespace, over a stream that buffers on the server's side.
async fn connect(app: Router) -> WebSocketStream<DuplexStream> {
    let (client, server) = tokio::io::duplex(WINDOW);
    serve_stream(app, Buffering::new(server, 64 * 1024));
    let url = "ws://test/socket.io/?EIO=4&transport=websocket";
    let (mut client, _) = tokio_tungstenite::client_async(url, client)
        .await
        .expect("a WebSocket");
    client.send(Message::text("40")).await.expect("CONNECT");
    for start in ["0{", "40{"] {
        let text = text(&mut client).await;
        assert!(text.starts_with(start), "{text}");
    }
    client
}

async fn text(client: &mut WebSocketStream<DuplexStream>) -> String {
    match client.next().await {
        Some(Ok(Message::Text(text))) => text.as_str().to_owned(),
        other => panic!("a text was expected, not {other:?}"),
    }
}

/// Emits the requested number of bytes.
async fn bytes(socket: Socket, Data(len): Data<usize>) {
    socket.emit("bytes", "x".repeat(len));
}

#[tokio::test(start_paused = true)]
async fn a_message_arrives_whole_over_a_stream_that_buffers() {
    let (layer, _io) = builder(Namespace::new().on("bytes", bytes)).build();
    let mut client = connect(app(layer)).await;
    for len in [1, 60_000, 65_536, 200_000] {
        let ask = format!(r#"42["bytes",{len}]"#);
        client.send(Message::text(ask)).await.expect("an event");
        // The client is slow, but faster than any deadline.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let text = text(&mut client).await;
        assert_eq!(text.len(), len + r#"42["bytes",""]"#.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_times_out_over_a_stream_that_buffers() {
    let (sender, mut reasons) = mpsc::unbounded_channel();
    let namespace =
        Namespace::new()
            .on("bytes", bytes)
            .on_disconnect(async move |reason: DisconnectReason| {
                let _ = sender.send(reason);
            });
    let (layer, _io) = builder(namespace).build();
    let mut client = connect(app(layer)).await;
    // The stream accepts all bytes at once.
    let ask = r#"42["bytes",30000]"#;
    client.send(Message::text(ask)).await.expect("an event");
    assert_eq!(reasons.recv().await, Some(DisconnectReason::PingTimeout));
}

#[tokio::test(start_paused = true)]
async fn a_socket_is_drained_when_a_stream_that_buffers_is_empty() {
    let drained = Arc::new(AtomicBool::new(false));
    let is_drained = Arc::clone(&drained);
    let handler = async move |socket: Socket| {
        socket.emit("bytes", "x".repeat(30_000));
        socket.drained().await;
        is_drained.store(true, Ordering::Release);
    };
    let (layer, _io) = builder(Namespace::new().on("bytes", handler)).build();
    let mut client = connect(app(layer)).await;
    let ask = Message::text(r#"421["bytes"]"#);
    client.send(ask).await.expect("an event");
    // The paused clock advances only when every task waits.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!drained.load(Ordering::Acquire));
    assert!(text(&mut client).await.len() > 30_000);
    assert_eq!(text(&mut client).await, "431[]");
    assert!(drained.load(Ordering::Acquire));
}

#[tokio::test(start_paused = true)]
async fn a_socket_is_not_drained_while_a_compressed_message_leaves() {
    let drained = Arc::new(AtomicBool::new(false));
    let is_drained = Arc::clone(&drained);
    let handler = async move |socket: Socket| {
        let mut state = 1_u64;
        for _ in 0..3 {
            // Text that compression hardly shortens: more than one write holds.
            let text: String = std::iter::repeat_with(|| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                char::from(b'0' + (state >> 60) as u8)
            })
            .take(600_000)
            .collect();
            socket.emit("text", text);
        }
        socket.drained().await;
        is_drained.store(true, Ordering::Release);
    };
    let (layer, _io) = builder(Namespace::new().on("text", handler))
        .deflate_threshold(1024)
        .build();
    let (mut client, server) = tokio::io::duplex(WINDOW);
    serve_stream(app(layer), server);
    let head = send_head(&mut client, &deflate_head()).await;
    assert!(head.contains("permessage-deflate"), "{head}");
    for message in ["40", r#"42["text"]"#] {
        client.write_all(&text_frame(message)).await.expect("sent");
    }
    for start in ["0{", "40{"] {
        assert!(read_frame(&mut client).await.starts_with(start));
    }
    for _ in 0..2 {
        read_frame(&mut client).await;
        // The paused clock advances only when every task waits.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!drained.load(Ordering::Acquire));
    }
    read_frame(&mut client).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(drained.load(Ordering::Acquire));
}

#[tokio::test(start_paused = true)]
async fn a_close_frame_is_answered_over_a_stream_that_buffers() {
    let (layer, io) = builder(Namespace::new().on("bytes", bytes)).build();
    let mut client = connect(app(layer)).await;
    let ask = r#"42["bytes",30000]"#;
    client.send(Message::text(ask)).await.expect("an event");
    tokio::time::sleep(Duration::from_millis(1)).await;
    client.close(None).await.expect("a close frame");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(text(&mut client).await.len() > 30_000);
    let close = client.next().await;
    assert!(matches!(close, Some(Ok(Message::Close(_)))), "{close:?}");
    io.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_last_events_leave_a_stream_that_buffers_before_the_end() {
    let last = async move |socket: Socket| {
        socket.emit("bytes", "x".repeat(30_000));
        socket.close();
    };
    let (layer, _io) = builder(Namespace::new().on("last", last)).build();
    let mut client = connect(app(layer)).await;
    client
        .send(Message::text(r#"42["last"]"#))
        .await
        .expect("an event");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(text(&mut client).await.len() > 30_000);
    assert_eq!(text(&mut client).await, "41");
    let close = client.next().await;
    assert!(matches!(close, Some(Ok(Message::Close(_)))), "{close:?}");
}

#[tokio::test(start_paused = true)]
async fn large_messages_are_decompressed_only_one_past_the_limit() {
    let gate = Arc::new(Semaphore::new(0));
    let handled = Arc::new(AtomicUsize::new(0));
    let (opened, counted) = (Arc::clone(&gate), Arc::clone(&handled));
    let work = async move |Data(text): Data<String>| {
        opened.acquire().await.expect("open").forget();
        counted.fetch_add(text.len(), Ordering::Relaxed);
    };
    let parser = Counting::default();
    let read = Arc::clone(&parser.read);
    let (layer, _io) = builder(Namespace::new().on("work", work))
        .parser(parser)
        .max_pending(50_000)
        .deflate_threshold(1024)
        .build();
    let (mut client, server) = tokio::io::duplex(64 * 1024);
    serve_stream(app(layer), server);
    let head = send_head(&mut client, &deflate_head()).await;
    assert!(head.contains("permessage-deflate"), "{head}");
    client.write_all(&text_frame("40")).await.expect("CONNECT");
    for start in ["0{", "40{"] {
        assert!(read_frame(&mut client).await.starts_with(start));
    }
    assert_eq!(read.swap(0, Ordering::Relaxed), 1);

    let event = format!(r#"42["work","{}"]"#, "x".repeat(100_000));
    let frames = compressed_frame(&event).repeat(8);
    assert!(frames.len() <= 8 * 1024, "they come in one read");
    client.write_all(&frames).await.expect("events");
    // The paused clock advances only when every task waits.
    tokio::time::sleep(Duration::from_secs(1)).await;
    // The event of the running handler no longer counts as pending.
    assert_eq!(read.load(Ordering::Relaxed), 2);

    gate.add_permits(8);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(handled.load(Ordering::Relaxed), 8 * 100_000);
}

#[tokio::test(start_paused = true)]
async fn a_pong_that_is_read_late_counts_as_in_time() {
    let (app, io) = main_app(Namespace::new());
    let mut polling = Polling::connect(&app).await;
    let (client, server) = tokio::io::duplex(WINDOW);
    serve_stream(app.clone(), server);
    let url = "ws://test/socket.io/?EIO=4&transport=websocket";
    let connected = tokio_tungstenite::client_async(url, client).await;
    let (mut client, _) = connected.expect("a WebSocket");
    client.send(Message::text("40")).await.expect("CONNECT");
    for start in ["0{", "40{", "2"] {
        let text = text(&mut client).await;
        assert!(text.starts_with(start), "{text}");
    }
    assert_eq!(polling.get().await.body(), "2");

    client.send(Message::text("3")).await.expect("a pong");
    // The process is suspended, and continues after the deadline.
    tokio::time::advance(Duration::from_secs(60)).await;
    polling.send("3").await;
    assert_eq!(text(&mut client).await, "2");
    assert_eq!(polling.get().await.body(), "2");
    assert_eq!(io.counts().sockets, 2);
}

#[tokio::test(start_paused = true)]
async fn a_suspended_process_still_times_out_a_lost_client() {
    let (app, io) = main_app(Namespace::new());
    let _client = connect(app).await;
    // The server has sent the ping, and the client does not answer it.
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(io.counts().sockets, 1);
    tokio::time::advance(Duration::from_secs(60)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(io.counts().sockets, 0);
}
