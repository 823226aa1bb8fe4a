//! Small clients that show every packet on the wire, and a server for them.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod logs;
pub(crate) mod stream;

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use axum::response::IntoResponse;
use futures_util::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use tower::ServiceExt;
use tower_socketio::engine;
use tower_socketio::protocol::{DecodeError, Decoder, Encoded, JsonParser, Kind, Packet, Parser};
use tower_socketio::{Namespace, SocketIo, SocketIoBuilder, SocketIoLayer};

/// The longest wait for something that happens in a moment on an idle machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Returns an app that has only the layer.
pub(crate) fn app(layer: SocketIoLayer) -> Router {
    Router::new().layer(layer)
}

/// Returns a builder with the main namespace only.
pub(crate) fn builder(main: Namespace) -> SocketIoBuilder {
    SocketIo::builder().namespace("/", main)
}

/// Returns an app with the main namespace only.
pub(crate) fn main_app(main: Namespace) -> (Router, SocketIo) {
    let (layer, io) = builder(main).build();
    (app(layer), io)
}

/// Serves an app over TCP until the runtime ends.
pub(crate) async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, app).await });
    addr
}

/// Connects to an app over an in-memory stream that buffers `room` bytes in each direction. The
/// test needs no network and can pause the clock.
pub(crate) fn in_memory(app: Router, room: usize) -> DuplexStream {
    let (client, server) = tokio::io::duplex(room);
    let service = TowerToHyperService::new(app);
    let connection = http1::Builder::new().serve_connection(TokioIo::new(server), service);
    tokio::spawn(connection.with_upgrades());
    client
}

/// Waits for a future. Panics after a while instead of waiting for ever.
#[track_caller]
pub(crate) fn within<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(2 * PATIENCE, future).await {
            Ok(output) => output,
            Err(_) => panic!("nothing happened for what is awaited at {caller}"),
        }
    }
}

/// Polls a condition until it holds. Panics after a while.
#[track_caller]
pub(crate) fn until(mut condition: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < deadline, "not so in time at {caller}");
            // A sleep would advance a paused clock.
            tokio::task::yield_now().await;
            std::thread::yield_now();
        }
    }
}

/// Returns an app's response with its body as text.
pub(crate) async fn call(app: &Router, request: Request<Body>) -> Response<String> {
    let response = within(app.clone().oneshot(request)).await.into_response();
    let (parts, body) = response.into_parts();
    let body = within(body.collect()).await.expect("a body").to_bytes();
    let body = String::from_utf8(body.into()).expect("UTF-8");
    Response::from_parts(parts, body)
}

pub(crate) async fn get(app: &Router, uri: &str) -> Response<String> {
    let request = Request::get(uri).body(Body::empty());
    call(app, request.expect("a request")).await
}

pub(crate) async fn post(app: &Router, uri: &str, body: impl Into<Body>) -> Response<String> {
    let request = Request::post(uri).body(body.into());
    call(app, request.expect("a request")).await
}

/// A client that calls an app by long-polling, without a network.
pub(crate) struct Polling {
    app: Router,
    pub(crate) uri: String,
    pub(crate) sid: String,
    packets: VecDeque<String>,
}

impl Polling {
    /// Opens a session.
    pub(crate) async fn open(app: &Router) -> Self {
        let uri = "/socket.io/?EIO=4&transport=polling";
        let request = Request::get(uri).header("user-agent", "test");
        Self::open_with(app, request.body(Body::empty()).expect("a request")).await
    }

    pub(crate) async fn open_with(app: &Router, request: Request<Body>) -> Self {
        let uri = request.uri().to_string();
        let response = call(app, request).await;
        assert_eq!(response.status(), StatusCode::OK);
        let open = response.body().strip_prefix('0').expect("an open packet");
        let open: Value = serde_json::from_str(open).expect("JSON");
        let sid = open["sid"].as_str().expect("an id").to_owned();
        Self {
            app: app.clone(),
            uri: format!("{uri}&sid={sid}"),
            sid,
            packets: VecDeque::new(),
        }
    }

    /// Opens a session and joins the main namespace.
    pub(crate) async fn connect(app: &Router) -> Self {
        let mut client = Self::open(app).await;
        client.join("/").await;
        client
    }

    /// Joins a namespace and returns the socket's id.
    pub(crate) async fn join(&mut self, namespace: &str) -> String {
        if namespace == "/" {
            self.send("40").await;
        } else {
            self.send(&format!("40{namespace},")).await;
        }
        socket_id(&self.next().await)
    }

    /// Posts a body. Panics unless the answer is `ok`.
    pub(crate) async fn send(&mut self, body: &str) {
        let response = self.post(body.to_owned()).await;
        assert_eq!(
            (response.status(), &**response.body()),
            (StatusCode::OK, "ok")
        );
    }

    /// Posts a body and ignores the response. The session may end.
    pub(crate) async fn send_and_forget(&self, body: &str) {
        self.post(body.to_owned()).await;
    }

    pub(crate) async fn post(&self, body: impl Into<Body>) -> Response<String> {
        post(&self.app, &self.uri, body).await
    }

    /// Posts a body and returns the next packet.
    pub(crate) async fn ask(&mut self, body: &str) -> String {
        self.send(body).await;
        self.next().await
    }

    /// Polls once.
    pub(crate) async fn get(&self) -> Response<String> {
        get(&self.app, &self.uri).await
    }

    /// Spawns a poll.
    pub(crate) fn poll(&self) -> JoinHandle<Response<String>> {
        let (app, uri) = (self.app.clone(), self.uri.clone());
        tokio::spawn(async move { get(&app, &uri).await })
    }

    /// Drains the packets that polls have returned and the test has not read. Pings are left out.
    pub(crate) fn buffered(&mut self) -> impl Iterator<Item = String> {
        let packets = std::mem::take(&mut self.packets);
        packets.into_iter().filter(|packet| packet != "2")
    }

    /// Returns the next packet. Answers pings.
    pub(crate) async fn next(&mut self) -> String {
        loop {
            if let Some(packet) = self.packets.pop_front() {
                if packet != "2" {
                    return packet;
                }
                self.send("3").await;
                continue;
            }
            let response = self.get().await;
            assert_eq!(response.status(), StatusCode::OK, "{}", response.body());
            let packets = response.body().split('\x1e').map(str::to_owned);
            self.packets.extend(packets);
        }
    }
}

/// An item that a client reads from a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Got {
    Text(String),
    Binary(Vec<u8>),
    /// The code and the reason of the close frame.
    Close(Option<(u16, String)>),
    /// The end of the stream.
    End,
}

/// A client over WebSocket.
pub(crate) struct Client {
    pub(crate) stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Client {
    /// Opens a session and reads the open packet.
    pub(crate) async fn open(addr: SocketAddr) -> Self {
        let mut client = Self::raw(addr, "").await;
        let open = client.text().await;
        assert!(open.starts_with("0{"), "{open}");
        client
    }

    /// Opens a session as a Socket.IO 2 client does, and reads the open packet.
    pub(crate) async fn of_revision_3(addr: SocketAddr) -> Self {
        let mut client = Self::raw(addr, "&EIO=3").await;
        let open = client.text().await;
        assert!(open.starts_with("0{"), "{open}");
        client
    }

    /// Opens a WebSocket with an addition to its query, such as `&sid=…`.
    pub(crate) async fn raw(addr: SocketAddr, query: &str) -> Self {
        let url = format!("ws://{addr}/socket.io/?EIO=4&transport=websocket{query}");
        let connect = tokio_tungstenite::connect_async(url);
        let (stream, _) = within(connect).await.expect("a WebSocket");
        Self { stream }
    }

    /// Opens a session and joins a namespace.
    pub(crate) async fn connect(addr: SocketAddr, namespace: &str) -> Self {
        let mut client = Self::open(addr).await;
        client.join(namespace).await;
        client
    }

    /// Joins a namespace and returns the socket's id.
    pub(crate) async fn join(&mut self, namespace: &str) -> String {
        if namespace == "/" {
            self.send("40").await;
        } else {
            self.send(&format!("40{namespace},")).await;
        }
        socket_id(&self.text().await)
    }

    pub(crate) async fn send(&mut self, text: &str) {
        let sent = within(self.stream.send(Message::text(text))).await;
        sent.expect("the server takes it");
    }

    pub(crate) async fn send_binary(&mut self, data: &'static [u8]) {
        let sent = within(self.stream.send(Message::binary(data))).await;
        sent.expect("the server takes it");
    }

    /// Returns the next item. Answers pings of Engine.IO and of WebSocket.
    #[track_caller]
    pub(crate) fn next(&mut self) -> impl Future<Output = Got> + '_ {
        within(self.next_inner())
    }

    async fn next_inner(&mut self) -> Got {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Text(text))) if text.as_str() == "2" => {
                    // If the connection is closed already, the next item says so.
                    let _ = self.stream.send(Message::text("3")).await;
                }
                Some(Ok(Message::Text(text))) => return Got::Text(text.as_str().to_owned()),
                Some(Ok(Message::Binary(data))) => return Got::Binary(data.into()),
                Some(Ok(Message::Close(frame))) => {
                    let code = |frame: tokio_tungstenite::tungstenite::protocol::CloseFrame| {
                        (frame.code.into(), frame.reason.as_str().to_owned())
                    };
                    return Got::Close(frame.map(code));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Got::End,
            }
        }
    }

    /// Returns the next packet. Panics if it is not a text.
    pub(crate) async fn text(&mut self) -> String {
        match self.next().await {
            Got::Text(text) => text,
            other => panic!("a text was expected, not {other:?}"),
        }
    }

    /// Sends a packet and returns the next one.
    pub(crate) async fn ask(&mut self, text: &str) -> String {
        self.send(text).await;
        self.text().await
    }

    /// Reads until the close frame or the end.
    pub(crate) async fn closed(&mut self) -> Got {
        loop {
            match self.next().await {
                Got::Text(_) | Got::Binary(_) => {}
                end => return end,
            }
        }
    }
}

/// A parser that counts the events that it encodes and the messages that it decodes.
#[derive(Debug, Default)]
pub(crate) struct Counting {
    json: JsonParser,
    pub(crate) events: Arc<AtomicUsize>,
    /// The number of decoded messages.
    pub(crate) read: Arc<AtomicUsize>,
}

impl Parser for Counting {
    fn encode(&self, packet: Packet) -> Encoded {
        if packet.kind == Kind::Event {
            self.events.fetch_add(1, Ordering::Relaxed);
        }
        self.json.encode(packet)
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        let inner = self.json.decoder();
        let read = Arc::clone(&self.read);
        Box::new(CountingDecoder { inner, read })
    }
}

#[derive(Debug)]
struct CountingDecoder {
    inner: Box<dyn Decoder>,
    read: Arc<AtomicUsize>,
}

impl Decoder for CountingDecoder {
    fn decode(&mut self, message: engine::Message) -> Result<Option<Packet>, DecodeError> {
        self.read.fetch_add(1, Ordering::Relaxed);
        self.inner.decode(message)
    }

    fn is_partial(&self) -> bool {
        self.inner.is_partial()
    }
}

/// Returns the id in a CONNECT packet. Panics if the packet is a different one.
#[track_caller]
pub(crate) fn socket_id(packet: &str) -> String {
    assert!(packet.starts_with("40"), "refused: {packet}");
    let at = packet.find('{').expect("an object");
    let welcome: Value = serde_json::from_str(&packet[at..]).expect("JSON");
    welcome["sid"].as_str().expect("an id").to_owned()
}

/// Returns a client's frame, masked and not fragmented.
pub(crate) fn frame(opcode: u8, data: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match data.len() {
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
    frame.extend(data);
    frame
}

/// Returns a masked text frame.
pub(crate) fn text_frame(text: &str) -> Vec<u8> {
    frame(1, text.as_bytes())
}

/// Returns the head of a request that opens a WebSocket.
pub(crate) fn upgrade_head(query: &str) -> String {
    format!(
        "GET /socket.io/?EIO=4&transport=websocket{query} HTTP/1.1\r\nhost: test\r\n\
         connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// Returns an [`upgrade_head`] that offers compression.
pub(crate) fn deflate_head() -> String {
    let offer = "host: test\r\nsec-websocket-extensions: permessage-deflate; \
                 client_max_window_bits\r\n";
    upgrade_head("").replace("host: test\r\n", offer)
}

/// Returns a masked frame with a compressed text.
pub(crate) fn compressed_frame(text: &str) -> Vec<u8> {
    let mut compressed = Vec::with_capacity(text.len() + 64);
    let mut deflate = flate2::Compress::new(flate2::Compression::fast(), false);
    deflate
        .compress_vec(
            text.as_bytes(),
            &mut compressed,
            flate2::FlushCompress::Sync,
        )
        .expect("room for the compressed text");
    // RFC 7692 section 7.2.1: without the end of the empty block.
    compressed.truncate(compressed.len() - 4);
    let mut frame = frame(1, &compressed);
    frame[0] |= 0x40;
    frame
}

/// Sends the head of a request and returns the head of the response.
pub(crate) async fn send_head<S>(stream: &mut S, head: &str) -> String
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    within(stream.write_all(head.as_bytes()))
        .await
        .expect("the server takes it");
    let mut response = Vec::new();
    while !response.ends_with(b"\r\n\r\n") {
        let byte = within(stream.read_u8()).await.expect("a response");
        response.push(byte);
    }
    String::from_utf8(response).expect("UTF-8")
}

/// Opens a WebSocket session over TCP whose frames the test reads and writes itself.
pub(crate) async fn raw_session(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).await;
    raw_session_on(stream.expect("a connection")).await
}

/// Opens a WebSocket session over an existing stream.
pub(crate) async fn raw_session_on<S>(mut stream: S) -> S
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let head = send_head(&mut stream, &upgrade_head("")).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(read_frame(&mut stream).await.starts_with("0{"));
    stream
}

/// Returns the payload of the server's next frame.
pub(crate) async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> String {
    within(async {
        let _opcode = stream.read_u8().await.expect("a frame");
        let len = match stream.read_u8().await.expect("a length") {
            126 => usize::from(stream.read_u16().await.expect("a length")),
            127 => stream.read_u64().await.expect("a length") as usize,
            len => usize::from(len),
        };
        let mut payload = vec![0; len];
        stream.read_exact(&mut payload).await.expect("a payload");
        String::from_utf8_lossy(&payload).into_owned()
    })
    .await
}
