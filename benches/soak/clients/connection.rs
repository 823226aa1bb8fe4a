//! TCP connections that carry a WebSocket or HTTP requests.

use std::io;
use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::ws;

pub(crate) type Result<T> = std::result::Result<T, String>;

/// An Engine.IO message.
#[derive(Debug)]
pub(crate) enum Message {
    /// The text begins with the type of its packet.
    Text(String),
    Binary(Vec<u8>),
}

/// A TCP connection, and the bytes that were read and are not consumed yet.
struct Stream {
    tcp: TcpStream,
    bytes: Vec<u8>,
}

impl Stream {
    async fn connect(addr: SocketAddr) -> Result<Self> {
        let tcp = TcpStream::connect(addr).await;
        let tcp = tcp.map_err(|error| format!("connect: {error}"))?;
        tcp.set_nodelay(true).map_err(|error| error.to_string())?;
        let bytes = Vec::new();
        Ok(Self { tcp, bytes })
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.tcp.write_all(bytes).await;
        written.map_err(|error| format!("write: {error}"))
    }

    /// Waits for more bytes. Cancel safe.
    async fn fill(&mut self) -> Result<()> {
        loop {
            let readable = self.tcp.readable().await;
            readable.map_err(|error| error.to_string())?;
            match self.try_fill() {
                Ok(0) => return Err("end of stream".to_owned()),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(format!("read: {error}")),
            }
        }
    }

    /// Reads into a buffer on the stack, so that an idle client needs no memory for it.
    fn try_fill(&mut self) -> io::Result<usize> {
        let mut buf = [0; 16 * 1024];
        let len = self.tcp.try_read(&mut buf)?;
        self.bytes.extend_from_slice(&buf[..len]);
        Ok(len)
    }

    fn consume(&mut self, len: usize) {
        self.bytes.drain(..len);
        if self.bytes.is_empty() {
            self.bytes.shrink_to(1024);
        }
    }

    /// Waits for the head of a response. Returns it in lower case, with its line ends.
    async fn head(&mut self) -> Result<String> {
        loop {
            if let Some(end) = end_of_head(&self.bytes) {
                let head = String::from_utf8_lossy(&self.bytes[..end]).to_lowercase();
                self.consume(end);
                return Ok(head);
            }
            self.fill().await?;
        }
    }

    /// Closes the connection with a reset.
    fn reset(self) {
        // After an error the connection is closed without a reset.
        let _ = self.tcp.set_zero_linger();
    }
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    end.map(|end| end + 4)
}

/// A WebSocket connection.
pub(crate) struct WebSocket {
    stream: Stream,
    mask: u32,
}

impl WebSocket {
    /// Opens a WebSocket. `session` is empty, or the part of the query with the id of a session to
    /// upgrade.
    pub(crate) async fn open(addr: SocketAddr, session: &str) -> Result<Self> {
        let mut stream = Stream::connect(addr).await?;
        let request = format!(
            "GET /socket.io/?EIO=4&transport=websocket{session} HTTP/1.1\r\nHost: {addr}\r\n\
             Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write(request.as_bytes()).await?;
        let head = stream.head().await?;
        if !head.starts_with("http/1.1 101 ") {
            return Err(format!("no WebSocket: {}", first_line(&head)));
        }
        let mask = 0x9e37_79b9;
        Ok(Self { stream, mask })
    }

    /// Opens a session over WebSocket.
    pub(crate) async fn open_session(addr: SocketAddr) -> Result<Self> {
        let mut websocket = Self::open(addr, "").await?;
        match websocket.next().await? {
            Message::Text(open) if open.starts_with("0{") => Ok(websocket),
            other => Err(format!("no session: {other:?}")),
        }
    }

    pub(crate) async fn send(&mut self, messages: impl IntoIterator<Item = Message>) -> Result<()> {
        let mut frames = Vec::new();
        for message in messages {
            match message {
                Message::Text(text) => self.write(&mut frames, ws::TEXT, text.as_bytes()),
                Message::Binary(data) => self.write(&mut frames, ws::BINARY, &data),
            }
        }
        self.stream.write(&frames).await
    }

    fn write(&mut self, frames: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
        self.mask = self
            .mask
            .wrapping_mul(0x0019_660d)
            .wrapping_add(0x3c6e_f35f);
        ws::write_frame(frames, opcode, self.mask.to_be_bytes(), &[payload]);
    }

    /// Returns the next message. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Message> {
        loop {
            if let Some(message) = self.parse()? {
                return Ok(message);
            }
            self.stream.fill().await?;
        }
    }

    /// Returns the next message, if all of it has arrived.
    pub(crate) fn parse(&mut self) -> Result<Option<Message>> {
        let bytes = &self.stream.bytes;
        let header = match ws::parse(bytes) {
            ws::Parsed::Incomplete => return Ok(None),
            ws::Parsed::Invalid(why) => return Err(why.to_owned()),
            ws::Parsed::Frame(header) => header,
        };
        let end = header.header_len + header.payload_len;
        let payload = bytes[header.header_len..end].to_vec();
        self.stream.consume(end);
        match header.opcode {
            _ if !header.fin => Err("a fragment".to_owned()),
            ws::TEXT => String::from_utf8(payload)
                .map(|text| Some(Message::Text(text)))
                .map_err(|error| error.to_string()),
            ws::BINARY => Ok(Some(Message::Binary(payload))),
            ws::CLOSE => Err(format!("closed with {:?}", payload.get(..2))),
            opcode => Err(format!("a frame with opcode {opcode}")),
        }
    }

    /// Sends a close frame and waits until the server has closed the connection.
    pub(crate) async fn close(mut self) -> Result<()> {
        let mut frame = Vec::new();
        self.write(&mut frame, ws::CLOSE, &1000_u16.to_be_bytes());
        self.stream.write(&frame).await?;
        let mut got_close = false;
        loop {
            if let ws::Parsed::Frame(header) = ws::parse(&self.stream.bytes) {
                got_close |= header.opcode == ws::CLOSE;
                self.stream.consume(header.header_len + header.payload_len);
                continue;
            }
            match self.stream.fill().await {
                Ok(()) => {}
                Err(_) if got_close => return Ok(()),
                Err(error) => return Err(format!("no close frame: {error}")),
            }
        }
    }

    pub(crate) fn reset(self) {
        self.stream.reset();
    }
}

/// A connection for the GETs or the POSTs of one client. One request is under way at a time.
pub(crate) struct Http {
    stream: Stream,
    addr: SocketAddr,
    /// The length of the expected body, when the head has been read.
    expected: Option<usize>,
    pub(crate) is_busy: bool,
}

impl Http {
    pub(crate) async fn connect(addr: SocketAddr) -> Result<Self> {
        let stream = Stream::connect(addr).await?;
        Ok(Self {
            stream,
            addr,
            expected: None,
            is_busy: false,
        })
    }

    /// Sends a request. `session` is the part of the query with the session id.
    async fn request(&mut self, method: &str, session: &str, body: &str) -> Result<()> {
        self.is_busy = true;
        let length = match method {
            "POST" => format!(
                "Content-Type: text/plain\r\nContent-Length: {}\r\n",
                body.len()
            ),
            _ => String::new(),
        };
        let request = format!(
            "{method} /socket.io/?EIO=4&transport=polling{session} HTTP/1.1\r\nHost: {}\r\n\
             {length}\r\n{body}",
            self.addr
        );
        self.stream.write(request.as_bytes()).await
    }

    pub(crate) async fn get(&mut self, session: &str) -> Result<()> {
        self.request("GET", session, "").await
    }

    pub(crate) async fn post(&mut self, session: &str, body: &str) -> Result<()> {
        self.request("POST", session, body).await
    }

    /// Waits for the body of the response. Cancel safe.
    pub(crate) async fn response(&mut self) -> Result<String> {
        let len = match self.expected {
            Some(len) => len,
            None => length(&self.stream.head().await?)?,
        };
        self.expected = Some(len);
        while self.stream.bytes.len() < len {
            self.stream.fill().await?;
        }
        let body = String::from_utf8(self.stream.bytes[..len].to_vec());
        self.stream.consume(len);
        self.expected = None;
        self.is_busy = false;
        body.map_err(|error| error.to_string())
    }

    pub(crate) fn reset(self) {
        self.stream.reset();
    }
}

/// Returns the length of the body from the head of a response.
fn length(head: &str) -> Result<usize> {
    if !head.starts_with("http/1.1 200 ") {
        return Err(format!("status {}", first_line(head)));
    }
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    let length = length.and_then(|length| length.trim().parse().ok());
    length.ok_or_else(|| "a response without its length".to_owned())
}

fn first_line(head: &str) -> &str {
    head.lines().next().unwrap_or("")
}
