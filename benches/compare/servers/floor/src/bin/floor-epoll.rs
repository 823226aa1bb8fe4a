//! One thread, one epoll, no runtime: the least that this machine's kernel lets
//! a server get away with. WebSocket only.
//!
//! Usage: `floor-epoll PORT [each] [FAULT:N]`. With `each`, every message is
//! written at once, where otherwise all that an epoll round queued for a
//! connection is written together. A fault is done to every Nth event or ack
//! that leaves, to show that the load generator notices: `drop`, `dup`,
//! `corrupt` or `close`.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    time::{Duration, Instant},
};

use floor::{BINARY, CLOSE, PING, PING_INTERVAL_S, PONG, Packet, TEXT};
use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Larger buffers are not kept.
const KEEP: usize = 256 * 1024;
const LISTENER: Token = Token(usize::MAX);

struct Conn {
    stream: TcpStream,
    upgraded: bool,
    sid: String,
    partial: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    dirty: bool,
    bin_ack: Option<String>,
    closing: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Drop,
    Dup,
    Corrupt,
    Close,
}

struct Server {
    poll: Poll,
    conns: Vec<Option<Conn>>,
    free: Vec<usize>,
    rooms: HashMap<String, Vec<usize>>,
    dirty: Vec<usize>,
    write_each: bool,
    fault: Fault,
    fault_every: u64,
    events_out: u64,
}

impl Server {
    fn accept(&mut self, listener: &TcpListener) {
        while let Ok((mut stream, _)) = listener.accept() {
            stream.set_nodelay(true).ok();
            let c = self.free.pop().unwrap_or_else(|| {
                self.conns.push(None);
                self.conns.len() - 1
            });
            self.poll
                .registry()
                .register(
                    &mut stream,
                    Token(c),
                    Interest::READABLE | Interest::WRITABLE,
                )
                .expect("register");
            self.conns[c] = Some(Conn {
                stream,
                upgraded: false,
                sid: String::new(),
                partial: Vec::new(),
                out: Vec::new(),
                written: 0,
                dirty: false,
                bin_ack: None,
                closing: false,
            });
        }
    }

    fn remove(&mut self, c: usize) {
        if self.conns[c].take().is_some() {
            self.free.push(c);
            self.rooms.retain(|_, members| {
                members.retain(|m| *m != c);
                !members.is_empty()
            });
        }
    }

    fn on_readable(&mut self, c: usize, ended: bool, scratch: &mut [u8]) {
        loop {
            let Some(conn) = self.conns.get_mut(c).and_then(Option::as_mut) else {
                return;
            };
            let n = match conn.stream.read(scratch) {
                Ok(0) => return self.remove(c),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.remove(c),
            };
            let ok = if conn.partial.is_empty() {
                self.consume(c, &mut scratch[..n])
            } else {
                let mut joined = std::mem::take(&mut conn.partial);
                joined.extend_from_slice(&scratch[..n]);
                let ok = self.consume(c, &mut joined);
                joined.clear();
                // The next large message goes to the same place.
                if let Some(conn) = self.conns[c].as_mut()
                    && conn.partial.is_empty()
                    && joined.capacity() <= KEEP
                {
                    conn.partial = joined;
                }
                ok
            };
            if !ok {
                return self.remove(c);
            }
            if n < scratch.len() && !ended {
                return;
            }
        }
    }

    fn consume(&mut self, c: usize, data: &mut [u8]) -> bool {
        let mut used = 0;
        if self.conns[c].as_ref().is_some_and(|conn| !conn.upgraded) {
            match self.upgrade(c, data) {
                Some(head) => used = head,
                None => return false,
            }
        }
        while let Some(frame) = floor::next_frame(&mut data[used..]) {
            let payload = &data[used + frame.start..used + frame.end];
            used += frame.end;
            if !self.on_frame(c, frame.opcode, payload) {
                return false;
            }
        }
        if used < data.len()
            && let Some(conn) = self.conns[c].as_mut()
        {
            conn.partial.extend_from_slice(&data[used..]);
        }
        true
    }

    /// Answers the upgrade request, which must come in one piece.
    fn upgrade(&mut self, c: usize, data: &[u8]) -> Option<usize> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut headers);
        let httparse::Status::Complete(head) = request.parse(data).ok()? else {
            return None;
        };
        let key = request
            .headers
            .iter()
            .find(|h| h.name.eq_ignore_ascii_case("sec-websocket-key"))?;
        let response = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            derive_accept_key(key.value)
        );
        let (open, sid) = floor::open_packet();
        let conn = self.conns[c].as_mut()?;
        conn.upgraded = true;
        conn.sid = sid;
        conn.out.extend_from_slice(response.as_bytes());
        floor::write_frame(&mut conn.out, TEXT, &[open.as_bytes()]);
        self.queued(c);
        Some(head)
    }

    fn on_frame(&mut self, c: usize, opcode: u8, payload: &[u8]) -> bool {
        let Some(conn) = self.conns[c].as_mut() else {
            return false;
        };
        match opcode {
            TEXT => return std::str::from_utf8(payload).is_ok_and(|text| self.on_text(c, text)),
            BINARY => {
                let Some(ack) = conn.bin_ack.take() else {
                    return false;
                };
                floor::write_frame(&mut conn.out, TEXT, &[ack.as_bytes()]);
                floor::write_frame(&mut conn.out, BINARY, &[payload]);
            }
            CLOSE => {
                floor::write_frame(&mut conn.out, CLOSE, &[payload]);
                conn.closing = true;
            }
            PING => floor::write_frame(&mut conn.out, PONG, &[payload]),
            _ => return true,
        }
        self.queued(c);
        true
    }

    fn on_text(&mut self, c: usize, text: &str) -> bool {
        let Some(conn) = self.conns[c].as_mut() else {
            return false;
        };
        match floor::parse(text) {
            Packet::Connect => {
                let packet = floor::connect_packet(&conn.sid);
                floor::write_frame(&mut conn.out, TEXT, &[packet.as_bytes()]);
                self.queued(c);
            }
            Packet::Disconnect | Packet::Pong => {}
            Packet::Echo { id, args } => {
                if self.fault != Fault::None {
                    let parts = [b"43", id.as_bytes(), b"[", args.as_bytes(), b"]"];
                    self.deliver(c, &floor::frame(TEXT, &parts));
                } else {
                    let parts = [b"43", id.as_bytes(), b"[", args.as_bytes(), b"]"];
                    floor::write_frame(&mut conn.out, TEXT, &parts);
                    self.queued(c);
                }
            }
            Packet::EchoBin { id } => conn.bin_ack = Some(floor::bin_ack(id)),
            Packet::Broadcast { payload } => {
                let parts = [&b"42[\"broadcast\","[..], payload.as_bytes(), b"]"];
                let frame = floor::frame(TEXT, &parts);
                for member in 0..self.conns.len() {
                    self.deliver(member, &frame);
                }
            }
            Packet::Join { id, room } => {
                self.rooms.entry(room.to_owned()).or_default().push(c);
                self.deliver(c, &floor::frame(TEXT, &[b"43", id.as_bytes(), b"[]"]));
            }
            Packet::Leave { id, room } => {
                if let Some(members) = self.rooms.get_mut(room) {
                    members.retain(|m| *m != c);
                }
                self.deliver(c, &floor::frame(TEXT, &[b"43", id.as_bytes(), b"[]"]));
            }
            Packet::Room { room, payload } => {
                let parts = [&b"42[\"room\","[..], payload.as_bytes(), b"]"];
                let frame = floor::frame(TEXT, &parts);
                let members = self.rooms.get(room).cloned().unwrap_or_default();
                for member in members {
                    self.deliver(member, &frame);
                }
            }
            Packet::Unknown => return false,
        }
        true
    }

    /// Sends a framed message to one connection, faultily if asked to.
    fn deliver(&mut self, c: usize, frame: &[u8]) {
        let Some(conn) = self.conns[c].as_mut() else {
            return;
        };
        if !conn.upgraded {
            return;
        }
        self.events_out += 1;
        let faulty = self.fault != Fault::None && self.events_out.is_multiple_of(self.fault_every);
        if !(faulty && self.fault == Fault::Drop) {
            conn.out.extend_from_slice(frame);
        }
        if faulty {
            match self.fault {
                Fault::Dup => conn.out.extend_from_slice(frame),
                Fault::Corrupt => {
                    // A letter of the payload's text, so that it stays JSON.
                    if let Some(at) = conn.out.iter().rposition(|b| b.is_ascii_lowercase()) {
                        conn.out[at] = if conn.out[at] == b'z' { b'y' } else { b'z' };
                    }
                }
                Fault::Close => conn.closing = true,
                Fault::None | Fault::Drop => {}
            }
        }
        self.queued(c);
    }

    fn queued(&mut self, c: usize) {
        if self.write_each {
            return self.flush(c);
        }
        if let Some(conn) = self.conns[c].as_mut()
            && !conn.dirty
        {
            conn.dirty = true;
            self.dirty.push(c);
        }
    }

    fn flush(&mut self, c: usize) {
        let Some(conn) = self.conns.get_mut(c).and_then(Option::as_mut) else {
            return;
        };
        conn.dirty = false;
        while conn.written < conn.out.len() {
            match conn.stream.write(&conn.out[conn.written..]) {
                Ok(n) => conn.written += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.remove(c),
            }
        }
        conn.written = 0;
        conn.out.clear();
        if conn.out.capacity() > KEEP {
            conn.out = Vec::new();
        }
        if conn.closing {
            self.remove(c);
        }
    }

    fn ping(&mut self, second: u64) {
        let ping = floor::frame(TEXT, &[b"2"]);
        let mut c = (second % PING_INTERVAL_S) as usize;
        while c < self.conns.len() {
            if let Some(conn) = self.conns[c].as_mut()
                && conn.upgraded
            {
                conn.out.extend_from_slice(&ping);
                self.queued(c);
            }
            c += PING_INTERVAL_S as usize;
        }
    }
}

fn fault_argument(arg: &str) -> Option<(Fault, u64)> {
    let (kind, every) = arg.split_once(':')?;
    let fault = match kind {
        "drop" => Fault::Drop,
        "dup" => Fault::Dup,
        "corrupt" => Fault::Corrupt,
        "close" => Fault::Close,
        _ => return None,
    };
    Some((fault, every.parse().ok().filter(|n| *n > 0)?))
}

fn main() -> io::Result<()> {
    let port = floor::port_argument();
    let (mut write_each, mut fault, mut fault_every) = (false, Fault::None, 1);
    for arg in std::env::args().skip(2) {
        if arg == "each" {
            write_each = true;
        } else {
            (fault, fault_every) = fault_argument(&arg).expect("each, or FAULT:N");
        }
    }
    let mut server = Server {
        poll: Poll::new()?,
        conns: Vec::new(),
        free: Vec::new(),
        rooms: HashMap::new(),
        dirty: Vec::new(),
        write_each,
        fault,
        fault_every,
        events_out: 0,
    };
    let mut listener = TcpListener::bind(([127, 0, 0, 1], port).into())?;
    server
        .poll
        .registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut scratch = vec![0; 128 * 1024];
    let start = Instant::now();
    let mut second = 0;
    loop {
        let next = start + Duration::from_secs(second + 1);
        let wait = next.saturating_duration_since(Instant::now());
        match server.poll.poll(&mut events, Some(wait)) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
            _ => {}
        }
        for event in &events {
            if event.token() == LISTENER {
                server.accept(&listener);
                continue;
            }
            let c = event.token().0;
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                server.on_readable(c, event.is_read_closed(), &mut scratch);
            }
            if event.is_writable() {
                server.flush(c);
            }
        }
        while let Some(c) = server.dirty.pop() {
            server.flush(c);
        }
        if Instant::now() >= next {
            second += 1;
            server.ping(second);
            while let Some(c) = server.dirty.pop() {
                server.flush(c);
            }
        }
    }
}
