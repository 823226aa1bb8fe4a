//! A raw WebSocket echo server: `cargo run --example websocket_echo PORT`.
//!
//! `tests/autobahn` runs the Autobahn test cases against this server.

use std::{
    env,
    error::Error,
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
    serve::{Listener, ListenerExt},
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf},
    net::TcpListener,
};
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tower_socketio::internals::{
    FrameDecoder, Incoming, MAX_HEADER, WebSocketError, accept_deflate, accept_key, close_frame,
    compressed_header, deflate, header as frame_header, is_valid_key, pong_frame,
};

const MAX_MESSAGE: usize = 16 << 20;

type Stream = TokioIo<Upgraded>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let port: u16 = env::args()
        .nth(1)
        .ok_or("usage: websocket_echo PORT")?
        .parse()?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?.tap_io(|tcp| {
        // With Nagle's algorithm an echo may wait until TCP has acknowledged the previous one.
        let _ = tcp.set_nodelay(true);
    });
    eprintln!("listening on {}", listener.local_addr()?);
    axum::serve(listener, Router::new().route("/", get(upgrade))).await?;
    Ok(())
}

async fn upgrade(mut request: Request) -> Response {
    let Some(accept) = accept(request.headers()) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
        return StatusCode::UPGRADE_REQUIRED.into_response();
    };
    let offers = request.headers().get(header::SEC_WEBSOCKET_EXTENSIONS);
    let offers = offers.and_then(|offers| offers.to_str().ok());
    let accepted = offers.and_then(accept_deflate);
    let compresses = accepted.is_some();
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            // A client that hangs up without a close frame is not an error.
            let _ = echo(TokioIo::new(upgraded), compresses).await;
        }
    });
    let headers = [
        (header::CONNECTION, "Upgrade"),
        (header::UPGRADE, "websocket"),
        (header::SEC_WEBSOCKET_ACCEPT, &accept),
    ];
    let extension = accepted.map(|accepted| [(header::SEC_WEBSOCKET_EXTENSIONS, accepted)]);
    let switching = (StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty());
    match extension {
        Some(extension) => (extension, switching.into_response()).into_response(),
        None => switching.into_response(),
    }
}

fn accept(headers: &HeaderMap) -> Option<String> {
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?.as_bytes();
    let is_13 = headers.get(header::SEC_WEBSOCKET_VERSION)? == "13";
    (is_13 && is_valid_key(key)).then(|| accept_key(key))
}

/// Echoes messages until the client closes or violates the protocol. Then it answers with a close
/// frame and waits for the end of the stream.
async fn echo(mut stream: Stream, compresses: bool) -> io::Result<()> {
    let mut decoder = FrameDecoder::new(MAX_MESSAGE);
    if compresses {
        decoder = decoder.with_deflate();
    }
    let mut out = Out {
        compresses,
        ..Out::default()
    };
    while !out.closed {
        match read(&mut stream, &mut decoder, &mut out).await? {
            None => return Ok(()),
            Some(Ok(())) => (),
            Some(Err(violation)) => out.close(Some(violation.code()), violation.reason()),
        }
        stream.write_all(&out.bytes).await?;
        out.bytes.clear();
    }
    // Closing with unread bytes would reset the connection and could lose the close frame.
    stream.shutdown().await?;
    while stream.read(&mut [0; 1024]).await? > 0 {}
    Ok(())
}

/// Reads once and decodes the bytes. Returns `None` if the client has hung up.
async fn read(
    stream: &mut Stream,
    decoder: &mut FrameDecoder,
    out: &mut Out,
) -> io::Result<Option<Result<(), WebSocketError>>> {
    if let Some(mut room) = decoder.read_buf() {
        if stream.read_buf(&mut room).await? == 0 {
            return Ok(None);
        }
        return Ok(Some(decoder.filled(|incoming| out.answer(incoming))));
    }
    poll_fn(|cx| poll_read(stream, cx, decoder, out)).await
}

/// Reads into a buffer on the stack, so that an idle connection has no buffer.
fn poll_read(
    stream: &mut Stream,
    cx: &mut Context<'_>,
    decoder: &mut FrameDecoder,
    out: &mut Out,
) -> Poll<io::Result<Option<Result<(), WebSocketError>>>> {
    let mut scratch = [MaybeUninit::uninit(); 16 * 1024];
    let mut scratch = ReadBuf::uninit(&mut scratch);
    ready!(Pin::new(stream).poll_read(cx, &mut scratch))?;
    if scratch.filled().is_empty() {
        return Poll::Ready(Ok(None));
    }
    Poll::Ready(Ok(Some(
        decoder.decode(scratch.filled_mut(), |incoming| out.answer(incoming)),
    )))
}

/// Frames that are about to be written.
#[derive(Default)]
struct Out {
    bytes: Vec<u8>,
    closed: bool,
    compresses: bool,
}

impl Out {
    fn answer(&mut self, incoming: Incoming<'_>) {
        match incoming {
            Incoming::Text(text) => self.message(OpCode::Data(Data::Text), text.as_slice()),
            Incoming::Binary(bytes) => self.message(OpCode::Data(Data::Binary), bytes.as_slice()),
            Incoming::Ping(data) => self.bytes.extend(pong_frame(data)),
            Incoming::Pong => (),
            Incoming::Close(close) => self.close(close.map(|(code, _)| code), ""),
        }
    }

    fn message(&mut self, opcode: OpCode, payload: &[u8]) {
        if let Some(payload) = self.compresses.then(|| deflate(&[payload])).flatten() {
            let (header, len) = compressed_header(opcode, payload.len());
            self.bytes.extend_from_slice(&header[MAX_HEADER - len..]);
            self.bytes.extend_from_slice(&payload);
            return;
        }
        let (header, len) = frame_header(opcode, payload.len());
        self.bytes.extend_from_slice(&header[MAX_HEADER - len..]);
        self.bytes.extend_from_slice(payload);
    }

    fn close(&mut self, code: Option<u16>, reason: &str) {
        self.bytes.extend(close_frame(code, reason));
        self.closed = true;
    }
}
