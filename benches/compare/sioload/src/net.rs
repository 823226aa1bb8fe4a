//! One epoll loop with many client connections. WebSocket connections are brought up to a connected
//! Socket.IO socket. HTTP connections are for long-polling.
//!
//! The loop is single-threaded, and costs less per message than any server under test, so that one
//! core of load can saturate one core of the server.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, net::TcpStream};
use socket2::{Domain, Protocol, Socket, Type};

use crate::ws;

/// The key and the accept value of the example in RFC 6455, section 1.3.
const WS_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const WS_ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The connections use the source addresses 127.0.1.1 to 127.0.1.250 in turn, so that open
/// connections and connections in TIME_WAIT do not exhaust the port range.
const SOURCES: u32 = 250;

pub type ConnId = usize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// WebSocket: the TCP connection is not established yet.
    Connecting,
    /// The HTTP upgrade request is sent.
    Upgrading,
    /// Waiting for the Engine.IO open packet.
    SessionParams,
    /// Waiting for the namespace's CONNECT packet. Missed events of a recovered client may come
    /// before it.
    Joining,
    Ready,
    /// Our close frame is sent.
    Closing,
    /// An HTTP connection, established or not.
    Http,
}

struct Conn {
    stream: TcpStream,
    phase: Phase,
    /// Bytes of an incomplete message.
    rbuf: Vec<u8>,
    wbuf: Vec<u8>,
    written: usize,
    dirty: bool,
    /// Whether reading is paused.
    paused: bool,
    fragments: Vec<u8>,
    fragment_opcode: u8,
    started: Instant,
}

/// The callbacks of a scenario.
pub trait Driver {
    /// Returns the JSON of the client's CONNECT packet.
    fn auth(&mut self, _c: ConnId) -> String {
        String::new()
    }
    /// The server has answered the CONNECT packet with this JSON.
    fn on_connect(&mut self, net: &mut Net, c: ConnId, _answer: &[u8]) {
        self.on_ready(net, c);
    }
    /// A WebSocket connection has joined the namespace.
    fn on_ready(&mut self, _net: &mut Net, _c: ConnId) {}
    /// A text frame with a Socket.IO packet has arrived. `data` begins with the Engine.IO type.
    fn on_text(&mut self, _net: &mut Net, _c: ConnId, _data: &[u8]) {}
    fn on_binary(&mut self, _net: &mut Net, _c: ConnId, _data: &[u8]) {}
    /// An HTTP response has arrived.
    fn on_http(&mut self, _net: &mut Net, _c: ConnId, _status: u16, _body: &[u8]) {}
    /// The connection has ended. `c` may be reused.
    fn on_close(&mut self, _net: &mut Net, _c: ConnId, _how: Closed) {}
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// We closed the connection, and the server answered with a close frame.
    Clean,
    /// We closed the connection, and it ended without a close frame of the server.
    Abrupt,
    /// The server or an error ended the connection.
    Lost(String),
}

pub struct Net {
    poll: Poll,
    conns: Vec<Option<Conn>>,
    free: Vec<ConnId>,
    dirty: Vec<ConnId>,
    server: SocketAddr,
    opened: u32,
    mask: u32,
    scratch: Vec<u8>,
    events: Option<Events>,
    /// The time of the last read. All messages of one read share one reading of the clock.
    pub now: Instant,
    /// The number of answered Engine.IO pings.
    pub pings: u64,
    /// When the first TCP connection was established since this field was last cleared.
    pub first_established: Option<Instant>,
    /// The number of handled epoll events.
    pub handled: u64,
    /// Whether to poll without sleeping. Waking a sleeping client costs CPU time in the server's
    /// `send`, and a slow server wakes it more often. A client on another machine would not cost
    /// the server that time.
    pub spin: bool,
    idle_since: Option<Instant>,
    idle: Duration,
}

impl Net {
    pub fn new(server: SocketAddr) -> io::Result<Self> {
        Self::with_turns_of(1024, server)
    }

    /// Creates a loop whose turns handle at most `events` events each.
    pub fn with_turns_of(events: usize, server: SocketAddr) -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            conns: Vec::new(),
            free: Vec::new(),
            dirty: Vec::new(),
            server,
            opened: 0,
            mask: 0x9e37_79b9,
            scratch: vec![0; 256 * 1024],
            events: Some(Events::with_capacity(events)),
            now: Instant::now(),
            pings: 0,
            first_established: None,
            handled: 0,
            spin: false,
            idle_since: None,
            idle: Duration::ZERO,
        })
    }

    /// Starts a WebSocket connection that becomes a connected Socket.IO socket.
    pub fn connect_ws(&mut self) -> io::Result<ConnId> {
        self.connect(Phase::Connecting)
    }

    /// Starts an HTTP/1.1 keep-alive connection. Requests may be sent at once.
    pub fn connect_http(&mut self) -> io::Result<ConnId> {
        self.connect(Phase::Http)
    }

    fn connect(&mut self, phase: Phase) -> io::Result<ConnId> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        // The kernel chooses the port at connect, where several source addresses may share a port.
        bind_address_no_port(&socket)?;
        let source = Ipv4Addr::new(127, 0, 1, (self.opened % SOURCES + 1) as u8);
        self.opened = self.opened.wrapping_add(1);
        socket.bind(&SocketAddr::V4(SocketAddrV4::new(source, 0)).into())?;
        match socket.connect(&self.server.into()) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(e) => return Err(e),
        }
        let mut stream = TcpStream::from_std(socket.into());
        let id = self.free.pop().unwrap_or_else(|| {
            self.conns.push(None);
            self.conns.len() - 1
        });
        self.poll.registry().register(
            &mut stream,
            Token(id),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        self.conns[id] = Some(Conn {
            stream,
            phase,
            rbuf: Vec::new(),
            wbuf: Vec::new(),
            written: 0,
            dirty: false,
            paused: false,
            fragments: Vec::new(),
            fragment_opcode: 0,
            started: Instant::now(),
        });
        Ok(id)
    }

    /// Returns when the connection was started.
    pub fn started(&self, c: ConnId) -> Option<Instant> {
        Some(self.conns.get(c)?.as_ref()?.started)
    }

    pub fn send_text(&mut self, c: ConnId, parts: &[&[u8]]) {
        self.send_frame(c, ws::TEXT, parts);
    }

    pub fn send_binary(&mut self, c: ConnId, data: &[u8]) {
        self.send_frame(c, ws::BINARY, &[data]);
    }

    /// Leaves as socket.io-client does: sends the namespace's DISCONNECT packet, then a WebSocket
    /// close frame. The server must close the connection.
    pub fn close_ws(&mut self, c: ConnId) {
        self.send_frame(c, ws::TEXT, &[b"41"]);
        self.send_frame(c, ws::CLOSE, &[&1000u16.to_be_bytes()]);
        if let Some(conn) = self.conns[c].as_mut() {
            conn.phase = Phase::Closing;
        }
    }

    /// Drops a connection without a close frame. `on_close` is not called.
    pub fn drop_conn(&mut self, c: ConnId) {
        if let Some(mut conn) = self.conns.get_mut(c).and_then(Option::take) {
            // Closing the descriptor also removes it from the epoll set.
            self.poll.registry().deregister(&mut conn.stream).ok();
            self.free.push(c);
        }
    }

    /// Drops a connection with a reset. Unread bytes of the server are lost.
    pub fn reset_conn(&mut self, c: ConnId) {
        if let Some(conn) = self.conns.get(c).and_then(Option::as_ref) {
            let socket = socket2::SockRef::from(&conn.stream);
            socket.set_linger(Some(Duration::ZERO)).ok();
        }
        self.drop_conn(c);
    }

    /// Stops reading from a connection until [`resume`](Self::resume).
    pub fn pause(&mut self, c: ConnId) {
        if let Some(conn) = self.conns.get_mut(c).and_then(Option::as_mut) {
            conn.paused = true;
        }
    }

    pub fn resume(&mut self, driver: &mut dyn Driver, c: ConnId) {
        if let Some(conn) = self.conns.get_mut(c).and_then(Option::as_mut) {
            conn.paused = false;
            self.on_readable(driver, c, true);
        }
    }

    pub fn send_raw(&mut self, c: ConnId, parts: &[&[u8]]) {
        let Some(conn) = self.conns.get_mut(c).and_then(Option::as_mut) else {
            return;
        };
        for part in parts {
            conn.wbuf.extend_from_slice(part);
        }
        mark_dirty(&mut self.dirty, conn, c);
    }

    fn send_frame(&mut self, c: ConnId, opcode: u8, parts: &[&[u8]]) {
        // xorshift32: each frame of a client must have a new mask.
        self.mask ^= self.mask << 13;
        self.mask ^= self.mask >> 17;
        self.mask ^= self.mask << 5;
        let mask = self.mask.to_ne_bytes();
        let Some(conn) = self.conns.get_mut(c).and_then(Option::as_mut) else {
            return;
        };
        ws::write_frame(&mut conn.wbuf, opcode, mask, parts);
        mark_dirty(&mut self.dirty, conn, c);
    }

    /// Waits for events, at most for `timeout`, and passes them to the driver.
    pub fn turn(&mut self, driver: &mut dyn Driver, timeout: Duration) -> io::Result<()> {
        self.flush_dirty(driver);
        let mut events = self.events.take().expect("turn is not re-entered");
        let timeout = if self.spin { Duration::ZERO } else { timeout };
        let began = if self.spin {
            None
        } else {
            Some(Instant::now())
        };
        let polled = self.poll.poll(&mut events, Some(timeout));
        self.note_idle(began, events.is_empty());
        if let Err(e) = polled {
            self.events = Some(events);
            return if e.kind() == io::ErrorKind::Interrupted {
                Ok(())
            } else {
                Err(e)
            };
        }
        for event in &events {
            self.handled += 1;
            let c = event.token().0;
            if event.is_writable() {
                self.on_writable(driver, c);
            }
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                self.on_readable(driver, c, event.is_read_closed() || event.is_error());
            }
            self.flush_dirty(driver);
        }
        self.events = Some(events);
        Ok(())
    }

    /// Adds to the time that was spent waiting for the server.
    fn note_idle(&mut self, slept_from: Option<Instant>, nothing: bool) {
        if let Some(from) = slept_from {
            self.idle += from.elapsed();
        } else if nothing {
            self.idle_since.get_or_insert_with(Instant::now);
        } else if let Some(since) = self.idle_since.take() {
            self.idle += since.elapsed();
        }
    }

    /// Returns the total time that was spent waiting for the server.
    pub fn idle(&self) -> Duration {
        self.idle
            + self
                .idle_since
                .map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Runs turns until `done` returns `true` or the time is `until`.
    pub fn run_until<D: Driver>(
        &mut self,
        driver: &mut D,
        until: Instant,
        mut done: impl FnMut(&D) -> bool,
    ) -> io::Result<bool> {
        loop {
            if done(driver) {
                return Ok(true);
            }
            let now = Instant::now();
            if now >= until {
                return Ok(false);
            }
            self.turn(driver, (until - now).min(Duration::from_millis(100)))?;
        }
    }

    fn flush_dirty(&mut self, driver: &mut dyn Driver) {
        while let Some(c) = self.dirty.pop() {
            if let Some(conn) = self.conns[c].as_mut() {
                conn.dirty = false;
                if conn.phase == Phase::Connecting {
                    continue;
                }
                if let Err(e) = flush(conn) {
                    self.lose(driver, c, format!("write: {e}"));
                }
            }
        }
    }

    fn on_writable(&mut self, driver: &mut dyn Driver, c: ConnId) {
        let Some(conn) = self.conns.get_mut(c).and_then(Option::as_mut) else {
            return;
        };
        if conn.phase == Phase::Connecting {
            match conn.stream.take_error() {
                Ok(None) => {}
                Ok(Some(e)) | Err(e) => return self.lose(driver, c, format!("connect: {e}")),
            }
            self.first_established.get_or_insert_with(Instant::now);
            conn.phase = Phase::Upgrading;
            write!(
                conn.wbuf,
                "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: {}\r\n\
                 Connection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {WS_KEY}\r\n\r\n",
                self.server
            )
            .expect("writing to a Vec");
        }
        if let Err(e) = flush(conn) {
            self.lose(driver, c, format!("write: {e}"));
        }
    }

    /// Reads the available bytes. With `ended`, a short read does not stop the loop, so that the
    /// end of the stream is read too.
    fn on_readable(&mut self, driver: &mut dyn Driver, c: ConnId, ended: bool) {
        let mut scratch = std::mem::take(&mut self.scratch);
        while let Some(conn) = self.conns.get_mut(c).and_then(Option::as_mut) {
            if conn.paused {
                break;
            }
            let n = match conn.stream.read(&mut scratch) {
                Ok(0) => {
                    self.end_of_stream(driver, c);
                    break;
                }
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    // A reset after our close frame counts as the end of the stream.
                    if conn.phase == Phase::Closing {
                        self.end_of_stream(driver, c);
                    } else {
                        self.lose(driver, c, format!("read: {e}"));
                    }
                    break;
                }
            };
            self.now = Instant::now();
            let consumed_all = if conn.rbuf.is_empty() {
                self.consume(driver, c, &scratch[..n])
            } else {
                let mut joined = std::mem::take(&mut conn.rbuf);
                joined.extend_from_slice(&scratch[..n]);
                self.consume(driver, c, &joined)
            };
            if let Err(why) = consumed_all {
                self.lose(driver, c, why);
                break;
            }
            // After a short read the socket is empty.
            if n < scratch.len() && !ended {
                break;
            }
        }
        self.scratch = scratch;
    }

    /// Handles the complete messages in `data`, and keeps the rest.
    fn consume(
        &mut self,
        driver: &mut dyn Driver,
        c: ConnId,
        mut data: &[u8],
    ) -> Result<(), String> {
        while !data.is_empty() {
            let Some(conn) = self.conns[c].as_mut() else {
                return Ok(());
            };
            let used = match conn.phase {
                Phase::Connecting => return Err("data before the connection".into()),
                Phase::Http => match parse_http(data)? {
                    Some((status, body, used)) => {
                        driver.on_http(self, c, status, &body);
                        used
                    }
                    None => 0,
                },
                Phase::Upgrading => match parse_upgrade(data)? {
                    Some(used) => {
                        conn.phase = Phase::SessionParams;
                        used
                    }
                    None => 0,
                },
                _ => match ws::parse(data) {
                    ws::Parsed::Incomplete => 0,
                    ws::Parsed::Invalid(why) => return Err(why.into()),
                    ws::Parsed::Frame(h) => {
                        let used = h.header_len + h.payload_len;
                        self.on_frame(driver, c, h, &data[h.header_len..used])?;
                        used
                    }
                },
            };
            if used == 0 {
                break;
            }
            data = &data[used..];
        }
        if !data.is_empty()
            && let Some(conn) = self.conns[c].as_mut()
        {
            conn.rbuf.extend_from_slice(data);
        }
        Ok(())
    }

    fn on_frame(
        &mut self,
        driver: &mut dyn Driver,
        c: ConnId,
        header: ws::Header,
        payload: &[u8],
    ) -> Result<(), String> {
        let Some(conn) = self.conns[c].as_mut() else {
            return Ok(());
        };
        if header.opcode >= ws::CLOSE {
            match header.opcode {
                ws::CLOSE if conn.phase == Phase::Closing => {
                    // `end_of_stream` reads this mark, and reports a clean close to the driver.
                    conn.fragment_opcode = ws::CLOSE;
                }
                ws::CLOSE => return Err("server sent a close frame".into()),
                ws::PING => self.send_frame(c, ws::PONG, &[payload]),
                _ => {}
            }
            return Ok(());
        }
        if header.fin && header.opcode != 0 {
            return self.on_message(driver, c, header.opcode, payload);
        }
        if header.opcode != 0 {
            conn.fragment_opcode = header.opcode;
            conn.fragments.clear();
        }
        conn.fragments.extend_from_slice(payload);
        if header.fin {
            let whole = std::mem::take(&mut conn.fragments);
            let opcode = conn.fragment_opcode;
            return self.on_message(driver, c, opcode, &whole);
        }
        Ok(())
    }

    fn on_message(
        &mut self,
        driver: &mut dyn Driver,
        c: ConnId,
        opcode: u8,
        data: &[u8],
    ) -> Result<(), String> {
        let Some(conn) = self.conns[c].as_mut() else {
            return Ok(());
        };
        match (conn.phase, opcode) {
            (Phase::Closing, _) => {}
            (_, ws::TEXT) if data == b"2" => {
                self.pings += 1;
                self.send_frame(c, ws::TEXT, &[b"3"]);
            }
            (Phase::SessionParams, ws::TEXT) if data.starts_with(b"0{") => {
                conn.phase = Phase::Joining;
                let auth = driver.auth(c);
                self.send_frame(c, ws::TEXT, &[b"40", auth.as_bytes()]);
            }
            (Phase::Joining, ws::TEXT) if data.starts_with(b"40{\"sid\":") => {
                conn.phase = Phase::Ready;
                driver.on_connect(self, c, &data[2..]);
            }
            (Phase::Joining, ws::TEXT) if data.starts_with(b"42[") => {
                driver.on_text(self, c, data);
            }
            (Phase::Ready, ws::TEXT) => driver.on_text(self, c, data),
            (Phase::Ready, ws::BINARY) => driver.on_binary(self, c, data),
            (phase, _) => {
                return Err(format!(
                    "unexpected message in {phase:?}: {:?}",
                    String::from_utf8_lossy(&data[..data.len().min(80)])
                ));
            }
        }
        Ok(())
    }

    fn end_of_stream(&mut self, driver: &mut dyn Driver, c: ConnId) {
        let Some(conn) = self.conns[c].as_ref() else {
            return;
        };
        let how = match conn.phase {
            Phase::Closing if conn.fragment_opcode == ws::CLOSE => Closed::Clean,
            Phase::Closing => Closed::Abrupt,
            phase => Closed::Lost(format!("end of stream in {phase:?}")),
        };
        self.drop_conn(c);
        driver.on_close(self, c, how);
    }

    fn lose(&mut self, driver: &mut dyn Driver, c: ConnId, why: String) {
        self.drop_conn(c);
        driver.on_close(self, c, Closed::Lost(why));
    }
}

fn bind_address_no_port(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option is an int, and the kernel only reads it.
    let rc = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn mark_dirty(dirty: &mut Vec<ConnId>, conn: &mut Conn, c: ConnId) {
    if !conn.dirty {
        conn.dirty = true;
        dirty.push(c);
    }
}

fn flush(conn: &mut Conn) -> io::Result<()> {
    while conn.written < conn.wbuf.len() {
        match conn.stream.write(&conn.wbuf[conn.written..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => conn.written += n,
            // NotConnected: an HTTP connection is not established yet.
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected
                ) =>
            {
                return Ok(());
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    conn.wbuf.clear();
    conn.written = 0;
    Ok(())
}

fn parse_upgrade(data: &[u8]) -> Result<Option<usize>, String> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let used = match response.parse(data).map_err(|e| e.to_string())? {
        httparse::Status::Partial => return Ok(None),
        httparse::Status::Complete(used) => used,
    };
    if response.code != Some(101) {
        return Err(format!("upgrade refused: {:?}", response.code));
    }
    let accept = response
        .headers
        .iter()
        .find(|h| h.name.eq_ignore_ascii_case("sec-websocket-accept"));
    if accept.is_none_or(|h| h.value != WS_ACCEPT) {
        return Err("wrong Sec-WebSocket-Accept".into());
    }
    Ok(Some(used))
}

type HttpResponse = (u16, Vec<u8>, usize);

fn parse_http(data: &[u8]) -> Result<Option<HttpResponse>, String> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(data).map_err(|e| e.to_string())? {
        httparse::Status::Partial => return Ok(None),
        httparse::Status::Complete(used) => used,
    };
    let status = response.code.unwrap_or(0);
    let header = |name: &str| {
        response
            .headers
            .iter()
            .find(|h| h.name.eq_ignore_ascii_case(name))
            .map(|h| h.value)
    };
    if let Some(len) = header("content-length") {
        let len: usize = std::str::from_utf8(len)
            .ok()
            .and_then(|v| v.trim().parse().ok())
            .ok_or("bad Content-Length")?;
        let end = head + len;
        return Ok((data.len() >= end).then(|| (status, data[head..end].to_vec(), end)));
    }
    if header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case(b"chunked")) {
        return parse_chunks(&data[head..])
            .map(|found| found.map(|(body, used)| (status, body, head + used)));
    }
    Err("response with neither Content-Length nor chunks".into())
}

fn parse_chunks(mut data: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let whole = data.len();
    let mut body = Vec::new();
    loop {
        let (at, len) = match httparse::parse_chunk_size(data).map_err(|_| "bad chunk size")? {
            httparse::Status::Partial => return Ok(None),
            httparse::Status::Complete((at, len)) => (at, len as usize),
        };
        if data.len() < at + len + 2 {
            return Ok(None);
        }
        body.extend_from_slice(&data[at..at + len]);
        data = &data[at + len + 2..];
        if len == 0 {
            return Ok(Some((body, whole - data.len())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_bodies_by_length_and_by_chunks() {
        let sized = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP";
        let (status, body, used) = parse_http(sized).unwrap().unwrap();
        assert_eq!(
            (status, body.as_slice(), used),
            (200, &b"ok"[..], sized.len() - 4)
        );
        assert!(parse_http(&sized[..used - 1]).unwrap().is_none());

        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n0{}\r\n2\r\nab\r\n0\r\n\r\n";
        let (_, body, used) = parse_http(chunked).unwrap().unwrap();
        assert_eq!((body.as_slice(), used), (&b"0{}ab"[..], chunked.len()));
        for cut in 0..chunked.len() {
            assert!(
                parse_http(&chunked[..cut]).unwrap().is_none(),
                "cut at {cut}"
            );
        }
    }
}
