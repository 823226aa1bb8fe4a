//! axum + hyper upgrade + a frame codec of its own: one task a connection, no
//! buffers held while idle, broadcasts framed once and shared, everything that
//! is queued written together. What a tokio server that owns its framing can
//! hope to reach. WebSocket only. Usage: `floor-tokio PORT`.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use floor::{
    BINARY, CLOSE, PING, PONG, Packet, TEXT,
    session::{Hub, Upgraded, serve},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
};
use tokio_util::io::poll_read_buf;

/// Read at most so much at a time when no larger message is under way.
const READ: usize = 8 * 1024;
/// Queued frames are copied together up to this size; larger ones are gathered.
const COALESCE: usize = 16 * 1024;
const SLICES: usize = 8;

struct Session {
    io: Upgraded,
    hub: Arc<Hub<Bytes>>,
    id: u64,
    sid: String,
    inbox: mpsc::UnboundedReceiver<Bytes>,
    /// The start of a message that is not whole yet.
    partial: BytesMut,
    bin_ack: Option<String>,
    queue: VecDeque<Bytes>,
    closing: bool,
}

impl Session {
    fn poll_run(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while let Poll::Ready(Some(message)) = self.inbox.poll_recv(cx) {
                self.queue.push_back(message);
            }
            let read = self.poll_read(cx)?;
            // Reading may have put messages in this very inbox.
            if read.is_ready() {
                while let Ok(message) = self.inbox.try_recv() {
                    self.queue.push_back(message);
                }
            }
            let written = self.poll_write(cx)?;
            match read {
                Poll::Ready(0) => return Poll::Ready(Ok(())),
                Poll::Ready(_) if written.is_ready() => {}
                _ if self.closing && written.is_ready() => return Poll::Ready(Ok(())),
                // Waits for the peer to read before more is taken from it.
                _ => return Poll::Pending,
            }
        }
    }

    /// Reads once and handles the messages that are whole; 0 is the end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.partial.is_empty() {
            let mut space = [MaybeUninit::<u8>::uninit(); READ];
            let mut buf = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf))?;
            let data = buf.filled_mut();
            let used = self.consume(data)?;
            self.partial.extend_from_slice(&data[used..]);
            return Poll::Ready(Ok(data.len()));
        }
        // A large message is read into its place, and its payload stays there.
        let missing = floor::frame_len(&self.partial)
            .unwrap_or(0)
            .saturating_sub(self.partial.len());
        self.partial.reserve(missing.max(READ));
        let mut partial = std::mem::take(&mut self.partial);
        let polled = poll_read_buf(Pin::new(&mut self.io), cx, &mut partial);
        while let Some(len) = floor::frame_len(&partial)
            && partial.len() >= len
        {
            let mut whole = partial.split_to(len);
            if whole[0] & 0x0f == BINARY
                && let Some(frame) = floor::next_frame(&mut whole)
            {
                let ack = self.bin_ack.take().ok_or(io::ErrorKind::InvalidData)?;
                let payload = whole.freeze().slice(frame.start..frame.end);
                self.push(TEXT, &[ack.as_bytes()]);
                self.queue
                    .push_back(floor::header(BINARY, payload.len()).into());
                self.queue.push_back(payload);
            } else {
                self.consume(&mut whole)?;
            }
        }
        if !partial.is_empty() {
            self.partial = partial;
        }
        polled
    }

    /// Handles the whole messages at the start of `data`; returns their length.
    fn consume(&mut self, data: &mut [u8]) -> io::Result<usize> {
        let mut used = 0;
        while let Some(frame) = floor::next_frame(&mut data[used..]) {
            let payload = &data[used + frame.start..used + frame.end];
            used += frame.end;
            match frame.opcode {
                TEXT => {
                    let text = std::str::from_utf8(payload)
                        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
                    self.on_text(text)?;
                }
                BINARY => {
                    let Some(ack) = self.bin_ack.take() else {
                        return Err(io::ErrorKind::InvalidData.into());
                    };
                    self.push(TEXT, &[ack.as_bytes()]);
                    self.push(BINARY, &[payload]);
                }
                CLOSE => {
                    self.push(CLOSE, &[payload]);
                    self.closing = true;
                }
                PING => self.push(PONG, &[payload]),
                _ => {}
            }
        }
        Ok(used)
    }

    fn push(&mut self, opcode: u8, parts: &[&[u8]]) {
        self.queue.push_back(floor::frame(opcode, parts).into());
    }

    fn on_text(&mut self, text: &str) -> io::Result<()> {
        match floor::parse(text) {
            Packet::Connect => {
                let packet = floor::connect_packet(&self.sid);
                self.push(TEXT, &[packet.as_bytes()]);
            }
            Packet::Disconnect | Packet::Pong => {}
            Packet::Echo { id, args } => {
                self.push(TEXT, &[b"43", id.as_bytes(), b"[", args.as_bytes(), b"]"]);
            }
            Packet::EchoBin { id } => self.bin_ack = Some(floor::bin_ack(id)),
            Packet::Broadcast { payload } => {
                let parts = [&b"42[\"broadcast\","[..], payload.as_bytes(), b"]"];
                self.hub.to_all(&floor::frame(TEXT, &parts).into());
            }
            Packet::Join { id, room } => {
                self.hub.join(self.id, room);
                self.push(TEXT, &[b"43", id.as_bytes(), b"[]"]);
            }
            Packet::Leave { id, room } => {
                self.hub.leave_room(self.id, room);
                self.push(TEXT, &[b"43", id.as_bytes(), b"[]"]);
            }
            Packet::Room { room, payload } => {
                let parts = [&b"42[\"room\","[..], payload.as_bytes(), b"]"];
                self.hub.to_room(room, &floor::frame(TEXT, &parts).into());
            }
            Packet::Unknown => return Err(io::ErrorKind::InvalidData.into()),
        }
        Ok(())
    }

    /// Writes the queue; ready when nothing is left of it.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            self.join_small();
            let mut slices = [IoSlice::new(&[]); SLICES];
            let filled = self
                .queue
                .iter()
                .zip(&mut slices)
                .map(|(b, s)| *s = IoSlice::new(b))
                .count();
            let mut n = match filled {
                0 => {
                    if self.queue.capacity() > 32 {
                        self.queue = VecDeque::new();
                    }
                    return Poll::Ready(Ok(()));
                }
                1 => ready!(Pin::new(&mut self.io).poll_write(cx, &self.queue[0]))?,
                _ => ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &slices[..filled]))?,
            };
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            while n > 0 {
                let front = &mut self.queue[0];
                if n < front.len() {
                    let _ = front.split_to(n);
                    break;
                }
                n -= front.len();
                self.queue.pop_front();
            }
        }
    }

    /// Copies the frames at the front of the queue together while they are small.
    fn join_small(&mut self) {
        let mut len = 0;
        let small = self
            .queue
            .iter()
            .take_while(|b| {
                len += b.len();
                len <= COALESCE
            })
            .count();
        if small > 1 {
            let joined = self.queue.drain(..small).fold(Vec::new(), |mut all, b| {
                all.extend_from_slice(&b);
                all
            });
            self.queue.push_front(joined.into());
        }
    }
}

async fn session(io: Upgraded, hub: Arc<Hub<Bytes>>) {
    let (open, sid) = floor::open_packet();
    let (id, inbox) = hub.enter();
    let mut session = Session {
        io,
        hub: Arc::clone(&hub),
        id,
        sid,
        inbox,
        partial: BytesMut::new(),
        bin_ack: None,
        queue: VecDeque::from([Bytes::from(floor::frame(TEXT, &[open.as_bytes()]))]),
        closing: false,
    };
    poll_fn(|cx| session.poll_run(cx)).await.ok();
    hub.leave(id);
}

#[tokio::main]
async fn main() {
    let hub = Hub::start(Bytes::from(floor::frame(TEXT, &[b"2"])));
    serve(floor::port_argument(), move |io| {
        session(io, Arc::clone(&hub))
    })
    .await;
}
