//! A client of a script: its polls, its POSTs, and its stream.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncRead as _, AsyncWrite as _, DuplexStream, ReadBuf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::frames::{Frame, ServerFrames, client_frame};
use super::record::Shared;
use crate::server::{RequestBody, Server};

/// A response, with its body.
pub struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
}

pub struct Client {
    server: Server,
    record: Shared,
    /// The number of the session that was opened last, and the token for it in its query.
    pub connection: u32,
    token: String,
    pub sid: Option<String>,
    pub is_base_revision: bool,
    /// Whether the last poll was refused.
    is_refused: bool,
    polls: VecDeque<(u32, JoinHandle<Answer>)>,
    posts: Vec<(u32, JoinHandle<Answer>)>,
    pieces: Option<mpsc::UnboundedSender<io::Result<Bytes>>>,
    pub stream: Option<Stream>,
    /// Whether packets go to the stream.
    pub has_upgraded: bool,
    pub answers_pings: bool,
    /// The private id of the last socket, and the offset of its last event.
    pub claim: (String, String),
    /// The connection of that socket.
    claim_connection: u32,
}

/// The stream of a client, and what is known of its WebSocket.
pub struct Stream {
    pub connection: u32,
    io: DuplexStream,
    outgoing: VecDeque<u8>,
    /// The number of bytes that are written at a time. 0 is all.
    pub slice: usize,
    pub is_stalled: bool,
    has_ended: bool,
    head: Vec<u8>,
    frames: Option<ServerFrames>,
}

impl Client {
    pub fn new(server: &Server, record: &Shared) -> Self {
        Self {
            server: server.clone(),
            record: record.clone(),
            connection: 0,
            token: String::new(),
            sid: None,
            is_base_revision: true,
            is_refused: false,
            polls: VecDeque::new(),
            posts: Vec::new(),
            pieces: None,
            stream: None,
            has_upgraded: false,
            answers_pings: false,
            claim: Default::default(),
            claim_connection: 0,
        }
    }

    /// Returns the query of a request, without the session's id.
    fn query(&self, transport: &str) -> String {
        let revision = if self.is_base_revision { 4 } else { 3 };
        format!("c={}&EIO={revision}&transport={transport}", self.token)
    }

    fn request(&self, method: Method, more: &str, body: RequestBody) -> Option<JoinHandle<Answer>> {
        let query = self.query("polling");
        let sid = self.sid.iter().map(|sid| format!("&sid={sid}"));
        let sid: String = sid.collect();
        let request = Request::builder()
            .method(method)
            .uri(format!("/socket.io/?{query}{sid}{more}"))
            .body(body)
            .ok()?;
        let response = self.server.call(request);
        Some(tokio::spawn(async move {
            let (parts, body) = response.await.into_parts();
            Answer {
                status: parts.status,
                body: body.collect().await.expect("a body").to_bytes(),
            }
        }))
    }

    /// Requests a new session, with an addition to the query.
    pub fn open(&mut self, connection: u32, more: &str) {
        self.begin(connection);
        if !more.is_empty() {
            // The session may be of another revision than the requests that follow.
            self.record.lock().may_miss(connection);
        }
        self.poll(more);
    }

    /// Begins a connection, whose session has no id yet.
    fn begin(&mut self, connection: u32) {
        self.connection = connection;
        self.token = self.record.lock().connect(connection);
        self.sid = None;
        self.is_refused = false;
        self.has_upgraded = false;
    }

    /// Opens a session by WebSocket.
    pub fn open_by_websocket(
        &mut self,
        connection: u32,
        capacity: usize,
        more: &str,
        compresses: bool,
    ) {
        self.begin(connection);
        self.has_upgraded = true;
        self.open_websocket(capacity, more, compresses);
    }

    pub fn poll(&mut self, more: &str) {
        let poll = self.request(Method::GET, more, RequestBody::Whole(None));
        let connection = self.connection;
        self.polls.extend(poll.map(|poll| (connection, poll)));
    }

    /// Prepares to read all that there is.
    pub fn begin_reading(&mut self) {
        // The refused poll may have had another id.
        self.is_refused = false;
        if let Some(stream) = &mut self.stream {
            stream.is_stalled = false;
        }
    }

    /// Polls, unless a poll waits or the last one was refused. Returns `None` if it does not poll.
    ///
    /// After an upgrade the poll is refused, but an upgrade may have failed.
    pub fn poll_once(&mut self) -> Option<()> {
        let waits = self
            .polls
            .iter()
            .any(|(connection, _)| *connection == self.connection);
        let polls = self.sid.is_some() && !waits && !self.is_refused;
        polls.then(|| self.poll(""))
    }

    pub fn abort_poll(&mut self) {
        if let Some((_, poll)) = self.polls.pop_front() {
            poll.abort();
        }
    }

    pub fn post(&mut self, body: Vec<u8>) {
        self.post_body(RequestBody::Whole(Some(body.into())));
    }

    pub fn begin_post(&mut self) {
        let (pieces, body) = mpsc::unbounded_channel();
        self.pieces = Some(pieces);
        self.post_body(RequestBody::Pieces(body));
    }

    pub fn piece(&mut self, piece: Vec<u8>) {
        if let Some(pieces) = &self.pieces {
            let _ = pieces.send(Ok(piece.into()));
        }
    }

    pub fn end_post(&mut self) {
        self.pieces = None;
    }

    pub fn fail_post(&mut self) {
        if let Some(pieces) = self.pieces.take() {
            let _ = pieces.send(Err(io::ErrorKind::ConnectionReset.into()));
        }
    }

    fn post_body(&mut self, body: RequestBody) {
        if self.sid.is_none() {
            return;
        }
        let post = self.request(Method::POST, "", body);
        let connection = self.connection;
        self.posts.extend(post.map(|post| (connection, post)));
    }

    /// Opens a stream, without a request.
    pub fn open_stream(&mut self, capacity: usize) -> &mut Stream {
        self.stream.insert(Stream {
            connection: self.connection,
            io: self.server.connect(capacity),
            outgoing: VecDeque::new(),
            slice: 0,
            is_stalled: false,
            has_ended: false,
            head: Vec::new(),
            frames: None,
        })
    }

    /// Requests a WebSocket: of the client's session if it has one, or else of a new one.
    pub fn open_websocket(&mut self, capacity: usize, more: &str, compresses: bool) {
        let query = self.query("websocket");
        let sid = self.sid.iter().map(|sid| format!("&sid={sid}"));
        let sid: String = sid.collect();
        let extension = match compresses {
            true => "sec-websocket-extensions: permessage-deflate\r\n",
            false => "",
        };
        let head = format!(
            "GET /socket.io/?{query}{sid}{more} HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\n\
             upgrade: websocket\r\nsec-websocket-version: 13\r\n{extension}\
             sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        );
        self.open_stream(capacity).write(head.as_bytes());
    }

    /// Sends an Engine.IO packet that is a text.
    pub fn send(&mut self, packet: Vec<u8>) {
        match self.has_upgraded {
            true => self.frame(0x81, &packet),
            false => self.post(packet),
        }
    }

    pub fn frame(&mut self, first: u8, payload: &[u8]) {
        if let Some(stream) = &mut self.stream {
            stream.write(&client_frame(first, payload));
        }
    }

    /// Reads and writes what can be, and returns whether anything was.
    pub fn pump(&mut self) -> bool {
        let mut progress = false;
        let mut at = 0;
        while at < self.polls.len() {
            if !self.polls[at].1.is_finished() {
                // A poll of a former connection.
                at += 1;
                continue;
            }
            if let Some((connection, poll)) = self.polls.remove(at) {
                self.polled(connection, &finished(poll));
            }
            progress = true;
        }
        for at in (0..self.posts.len()).rev() {
            if self.posts[at].1.is_finished() {
                let (connection, post) = self.posts.swap_remove(at);
                if finished(post).status != StatusCode::OK {
                    // Its events are lost, and its client knows that.
                    self.record.lock().may_lose(connection);
                }
                progress = true;
            }
        }
        let Some(mut stream) = self.stream.take() else {
            return progress;
        };
        let mut read = Vec::new();
        progress |= stream.pump(&mut read);
        let connection = stream.connection;
        self.stream = Some(stream);
        for text in read {
            if text == b"2" && self.answers_pings {
                self.frame(0x81, b"3");
            }
            self.read(connection, &text);
        }
        progress
    }

    fn polled(&mut self, connection: u32, answer: &Answer) {
        if answer.status != StatusCode::OK {
            self.is_refused |= connection == self.connection;
            return;
        }
        let is_new = self.sid.is_none() && self.connection == connection;
        if is_new {
            self.sid = field(&answer.body, b"sid");
        }
        self.read(connection, &answer.body);
        if self.answers_pings
            && answer
                .body
                .split(|byte| *byte == 0x1e)
                .any(|each| each == b"2")
        {
            self.post(b"3".to_vec());
        }
    }

    fn read(&mut self, connection: u32, output: &[u8]) {
        self.record.lock().scan(connection, output);
        if let Some(pid) = field(output, b"pid") {
            self.claim = (pid, String::new());
            self.claim_connection = connection;
        }
        if connection != self.claim_connection {
            // The stream of a former connection: its offsets are those of another socket.
            return;
        }
        // After the token.
        let Some(at) = output.iter().rposition(|byte| *byte == b'#') else {
            return;
        };
        if let Some(rest) = output
            .get(at + 17..)
            .and_then(|rest| rest.strip_prefix(b"\",\""))
        {
            let offset = rest.iter().take_while(|byte| **byte != b'"');
            self.claim.1 = offset.map(|byte| char::from(*byte)).collect();
        }
    }

    /// Returns the number of requests without an answer.
    pub fn unanswered(&self) -> usize {
        self.polls.len() + self.posts.len()
    }

    /// Goes away without a word, but still waits for its answers.
    pub fn leave(&mut self) {
        self.stream = None;
        self.pieces = None;
        self.answers_pings = false;
    }
}

impl Stream {
    pub fn write(&mut self, bytes: &[u8]) {
        self.outgoing.extend(bytes);
    }

    /// Ends the client's side.
    pub fn shut_down(&mut self) {
        let _ = Pin::new(&mut self.io).poll_shutdown(&mut context());
    }

    /// Writes and reads. The messages that are texts go to `texts`, and so do the binary ones.
    fn pump(&mut self, texts: &mut Vec<Vec<u8>>) -> bool {
        let mut progress = self.write_some();
        while !self.is_stalled && !self.has_ended {
            let mut space = [0; 4096];
            let mut buf = ReadBuf::new(&mut space);
            match Pin::new(&mut self.io).poll_read(&mut context(), &mut buf) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => self.read(buf.filled(), texts),
                Poll::Ready(_) => self.has_ended = true,
            }
            progress = true;
        }
        progress
    }

    fn write_some(&mut self) -> bool {
        let mut progress = false;
        loop {
            let (ahead, _) = self.outgoing.as_slices();
            let len = match self.slice {
                0 => ahead.len(),
                slice => ahead.len().min(slice),
            };
            if len == 0 {
                return progress;
            }
            match Pin::new(&mut self.io).poll_write(&mut context(), &ahead[..len]) {
                Poll::Ready(Ok(written)) => drop(self.outgoing.drain(..written)),
                Poll::Ready(Err(_)) => self.outgoing.clear(),
                Poll::Pending => return progress,
            }
            progress = true;
            if self.slice > 0 {
                return true;
            }
        }
    }

    fn read(&mut self, bytes: &[u8], texts: &mut Vec<Vec<u8>>) {
        let mut bytes = bytes;
        let whole;
        if self.frames.is_none() {
            self.head.extend_from_slice(bytes);
            let Some(at) = self.head.windows(4).position(|end| end == b"\r\n\r\n") else {
                return;
            };
            whole = self.head.split_off(at + 4);
            bytes = &whole;
            if !self.head.starts_with(b"HTTP/1.1 101") {
                // Another response, which nothing is done with.
                self.head = whole;
                return;
            }
            let deflate = self
                .head
                .windows(18)
                .any(|word| word == b"permessage-deflate");
            self.frames = Some(ServerFrames::new(deflate));
        }
        let Some(frames) = &mut self.frames else {
            return;
        };
        frames.push(bytes);
        while let Some(frame) = frames.next() {
            match frame {
                Frame::Text(text) | Frame::Binary(text) => texts.push(text),
                Frame::Control => {}
            }
        }
    }
}

fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// Returns the answer of a task that has ended.
fn finished(mut task: JoinHandle<Answer>) -> Answer {
    match Future::poll(Pin::new(&mut task), &mut context()) {
        Poll::Ready(answer) => answer.expect("no panic"),
        Poll::Pending => panic!("the task has ended"),
    }
}

/// Returns the text of a field of the first object that has it, also in a script.
fn field(output: &[u8], name: &[u8]) -> Option<String> {
    let at = output.windows(name.len()).position(|word| word == name)?;
    let rest = &output[at + name.len()..];
    let rest = rest.iter().skip_while(|byte| b"\\\":".contains(byte));
    let is_of_id = |byte: &&u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
    let id: String = rest
        .take_while(is_of_id)
        .map(|byte| char::from(*byte))
        .collect();
    (!id.is_empty()).then_some(id)
}
