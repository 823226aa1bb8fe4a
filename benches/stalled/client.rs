//! Clients over in-memory streams and in-process requests, and functions that build frames.

use axum::Router;
use axum::body::Body;
use http::Request;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tower::ServiceExt;

/// A WebSocket client. The scenario builds its frames.
pub(crate) struct WebSocket {
    stream: DuplexStream,
}

impl WebSocket {
    /// Opens a session.
    pub(crate) async fn open(app: &Router) -> Self {
        Self::open_with(app, "").await
    }

    /// Opens a session with additional header lines.
    pub(crate) async fn open_with(app: &Router, lines: &str) -> Self {
        Self::open_in(app, lines, 1 << 20).await
    }

    /// Opens a session over a stream that holds `room` bytes in each direction.
    async fn open_in(app: &Router, lines: &str, room: usize) -> Self {
        let (mut stream, server) = tokio::io::duplex(room);
        let service = TowerToHyperService::new(app.clone());
        tokio::spawn(async move {
            let builder = auto::Builder::new(TokioExecutor::new());
            let serve = builder.serve_connection_with_upgrades(TokioIo::new(server), service);
            let _ = serve.await;
        });
        let head = format!(
            "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nhost: localhost\r\n\
             connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{lines}\r\n"
        );
        stream.write_all(head.as_bytes()).await.expect("it is read");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.expect("a response"));
        }
        let mut socket = Self { stream };
        socket.frame().await;
        socket
    }

    /// Opens a session, and joins a namespace by the given CONNECT packet.
    pub(crate) async fn join(app: &Router, connect: &[u8]) -> Self {
        let mut socket = Self::open(app).await;
        socket.write(&frame(opcode_of(connect), connect)).await;
        socket.frame().await;
        socket
    }

    /// Opens a session and joins the main namespace.
    pub(crate) async fn connect(app: &Router) -> Self {
        Self::join(app, b"40").await
    }

    /// Does the same over a stream with a smaller buffer, for scenarios with many clients.
    pub(crate) async fn connect_small(app: &Router) -> Self {
        let mut socket = Self::open_in(app, "", 1 << 16).await;
        socket.send("40").await;
        socket.frame().await;
        socket
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        // The write fails after the server has closed the connection, which some scenarios provoke.
        let _ = self.stream.write_all(bytes).await;
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.write(&frame(1, text.as_bytes())).await;
    }

    /// Returns the payload of the next frame, or `None` at the end of the stream.
    pub(crate) async fn try_frame(&mut self) -> Option<Vec<u8>> {
        let _opcode = self.stream.read_u8().await.ok()?;
        let len = match self.stream.read_u8().await.ok()? {
            126 => usize::from(self.stream.read_u16().await.ok()?),
            127 => self.stream.read_u64().await.ok()? as usize,
            len => usize::from(len),
        };
        let mut payload = vec![0; len];
        self.stream.read_exact(&mut payload).await.ok()?;
        Some(payload)
    }

    pub(crate) async fn frame(&mut self) -> Vec<u8> {
        self.try_frame().await.expect("a frame")
    }

    /// Reads until a packet begins with `begin`, or until the end of the stream.
    pub(crate) async fn until(&mut self, begin: &[u8]) {
        while let Some(frame) = self.try_frame().await {
            if frame.starts_with(begin) {
                return;
            }
        }
    }

    /// Reads until the end of the stream.
    pub(crate) async fn end(&mut self) {
        while self.try_frame().await.is_some() {}
    }

    /// Reads bytes without parsing them. Returns `false` at the end of the stream.
    pub(crate) async fn skip(&mut self, buf: &mut [u8]) -> bool {
        matches!(self.stream.read(buf).await, Ok(1..))
    }
}

/// Returns the opcode of a packet: text for JSON, which is ASCII here, and binary for MessagePack.
fn opcode_of(packet: &[u8]) -> u8 {
    match packet.is_ascii() {
        true => 1,
        false => 2,
    }
}

/// Returns a client's frame, masked with zeros.
pub(crate) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    fragment(0x80 | opcode, payload)
}

/// Returns a client's frame with the given first byte.
pub(crate) fn fragment(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// Returns a compressed text frame.
pub(crate) fn compressed(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 100 + 1024);
    let mut deflate = flate2::Compress::new(flate2::Compression::best(), false);
    deflate
        .compress_vec(text, &mut bytes, flate2::FlushCompress::Sync)
        .expect("room for the compressed text");
    // RFC 7692, section 7.2.1: the last four bytes, those of the empty block, are removed.
    bytes.truncate(bytes.len() - 4);
    fragment(0xc1, &bytes)
}

/// A client over long-polling. Each request runs in its own task, as on a connection.
pub(crate) struct Polling {
    app: Router,
    uri: String,
}

impl Polling {
    pub(crate) async fn open(app: &Router, query: &str) -> Self {
        let uri = format!("/socket.io/?transport=polling&{query}");
        let open = Self::call(app, Request::get(&uri).body(Body::empty())).await;
        let sid = open.split('"').nth(3).expect("a session id").to_owned();
        Self {
            app: app.clone(),
            uri: format!("{uri}&sid={sid}"),
        }
    }

    /// Opens a session and joins the main namespace.
    pub(crate) async fn connect(app: &Router) -> Self {
        let client = Self::open(app, "EIO=4").await;
        client.post("40").await;
        client.get().await;
        client
    }

    pub(crate) async fn post(&self, body: impl Into<Body>) {
        Self::call(&self.app, Request::post(&self.uri).body(body.into())).await;
    }

    pub(crate) async fn get(&self) -> String {
        Self::call(&self.app, Request::get(&self.uri).body(Body::empty())).await
    }

    async fn call(app: &Router, request: http::Result<Request<Body>>) -> String {
        let response = app.clone().oneshot(request.expect("a request"));
        let body = tokio::spawn(async move {
            let response = response.await.expect("infallible");
            response
                .into_body()
                .collect()
                .await
                .map(|body| body.to_bytes())
        });
        let body = body.await.expect("no panic").unwrap_or_default();
        String::from_utf8_lossy(&body).into_owned()
    }
}
