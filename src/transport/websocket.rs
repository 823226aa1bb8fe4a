//! One byte stream ↔ a session.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use hyper::upgrade::Upgraded;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::stream::Stream;
use crate::engine::{CloseReason, Message, Packet, Revision, Session, Transport, payload};
use crate::hub::link::{Link, Upgrade};
use crate::websocket::{
    Decoder, Incoming, Opcode, close_frame, compressed_header, deflate, header, pong_frame,
};

/// As much is read at a time, on the stack: an idle connection holds no buffer.
const READ: usize = 8 * 1024;
/// So much is taken at a time, to leave in one call: one of 128 KiB costs far less than two of 64.
const COALESCE: usize = 128 * 1024;
/// A frame of this size that others hold too is not copied: they share its memory, however long
/// one of them does not read.
const LARGE: usize = 4 * 1024;

/// A WebSocket of a session.
pub(super) struct WebSocket {
    io: Stream,
    decoder: Decoder,
    /// Bytes that were read and wait until the session wants more.
    ahead: BytesMut,
    /// Small frames in a row, from `written` on; then `tail`, one frame or the rest of one.
    small: Vec<u8>,
    written: usize,
    tail: Bytes,
    /// The answer to the last ping of the WebSocket's own, while the peer takes none.
    pong: Option<Box<[u8]>>,
    /// Whether bytes wait that have not left: here, or in a stream that buffers, such as TLS.
    unflushed: bool,
    /// Whether bytes have left since this was last asked.
    progress: bool,
    closing: bool,
    /// Whether there is nothing more to read.
    ended: bool,
    base64: bool,
    revision: Revision,
    /// From how many bytes on messages are compressed; `u32::MAX`: none is.
    deflate_from: u32,
}

/// What a read came to.
pub(super) enum Read {
    /// Bytes, and how the session is after them.
    More { told: u64, wants_read: bool },
    /// The peer has closed, or broken the rules of WebSocket.
    End,
}

/// Everything was written.
pub(super) struct Written {
    /// Whether the session has nothing more to do with this WebSocket.
    pub(super) finished: bool,
}

thread_local! {
    /// Room for small frames, lent to the connection that writes.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl WebSocket {
    pub(super) fn new(io: Upgraded, link: &Link, deflate: bool) -> Self {
        let mut decoder = Decoder::new(link.config.max_payload);
        if deflate {
            decoder = decoder.with_deflate();
        }
        let deflate_from = link.config.deflate_from.filter(|_| deflate);
        Self {
            io: Stream::new(io),
            decoder,
            ahead: BytesMut::new(),
            small: Vec::new(),
            written: 0,
            tail: Bytes::new(),
            pong: None,
            unflushed: false,
            progress: false,
            closing: false,
            ended: false,
            base64: link.opening.base64,
            revision: link.opening.revision,
            deflate_from: deflate_from
                .and_then(|from| u32::try_from(from).ok())
                .unwrap_or(u32::MAX),
        }
    }

    /// Whether the close frame is on its way.
    pub(super) fn is_closing(&self) -> bool {
        self.closing
    }

    /// Reads once and hands what is whole to the session. [`Read::End`] stays.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, link: &Link) -> Poll<Read> {
        if self.ended {
            return Poll::Ready(Read::End);
        }
        let read = ready!(self.poll_read_on(cx, link));
        self.ended = matches!(read, Read::End);
        Poll::Ready(read)
    }

    fn poll_read_on(&mut self, cx: &mut Context<'_>, link: &Link) -> Poll<Read> {
        if !self.ahead.is_empty() {
            let mut ahead = std::mem::take(&mut self.ahead);
            let mut rest = &mut *ahead;
            let read = self.handle(link, &mut rest);
            let rest = rest.len();
            if rest > 0 {
                ahead.advance(ahead.len() - rest);
                self.ahead = ahead;
            }
            return Poll::Ready(read);
        }
        if let Some(mut room) = self.decoder.read_buf() {
            return Poll::Ready(match ready!(pin!(self.io.read_buf(&mut room)).poll(cx)) {
                Ok(1..) => self.handle(link, &mut &mut [][..]),
                Ok(0) | Err(_) => Read::End,
            });
        }
        let mut space = [MaybeUninit::<u8>::uninit(); READ];
        let mut buf = ReadBuf::uninit(&mut space);
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf));
        if read.is_err() || buf.filled().is_empty() {
            return Poll::Ready(Read::End);
        }
        let mut rest = buf.filled_mut();
        let read = self.handle(link, &mut rest);
        if !rest.is_empty() {
            self.ahead = BytesMut::from(&*rest);
        }
        Poll::Ready(read)
    }

    /// Decodes what was read, as long as the session wants it; the rest stays in `input`.
    fn handle(&mut self, link: &Link, input: &mut &mut [u8]) -> Read {
        let now = tokio::time::Instant::now().into_std();
        let is_blocked = self.is_blocked();
        let mut control = Vec::new();
        let mut end = false;
        let mut echo = None;
        let (result, told, wants_read) = link.drive(|session| {
            let result = self.decoder.decode_while(input, |incoming| {
                match incoming {
                    Incoming::Ping(data) => {
                        // One answer is enough for pings that wait for theirs.
                        if is_blocked {
                            control.clear();
                        }
                        control.extend(pong_frame(data));
                    }
                    Incoming::Pong => {}
                    Incoming::Close(close) => {
                        end = true;
                        echo = close.map(|(code, reason)| (code, reason.to_owned()));
                    }
                    Incoming::Text(_) | Incoming::Binary(_) => {
                        receive(session, incoming, now);
                        return session.wants_frames();
                    }
                }
                true
            });
            if self.decoder.is_partial() {
                session.handle_partial();
            }
            (result, session.told(), session.wants_frames())
        });
        if is_blocked && !control.is_empty() {
            self.pong = Some(control.into());
        } else if !control.is_empty() && !self.closing {
            self.push(&control);
        }
        if result.is_err() || end {
            // Nothing that follows is looked at.
            *input = &mut [];
        }
        if let Err(violation) = result {
            // The official client's tests want no words with 1009.
            let (reason, text) = match violation.code() {
                1009 => (CloseReason::TooBig, ""),
                _ => (CloseReason::TransportError, violation.reason()),
            };
            link.drive(|session| fail(session, reason, now));
            self.start_close(Some(violation.code()), text);
        } else if end && !self.closing {
            // The client is told what it said, as RFC 6455 has it.
            let (code, reason) = echo.unzip();
            self.start_close(code, &reason.unwrap_or_default());
        }
        match end {
            true => Read::End,
            false => Read::More { told, wants_read },
        }
    }

    /// Takes what the session has and writes it, until there is nothing left.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        link: &Link,
    ) -> Poll<io::Result<Written>> {
        loop {
            let emptied = !self.is_blocked() && self.take_progress();
            let takes_more = !self.closing && !self.is_blocked();
            if let Some(pong) = takes_more.then(|| self.pong.take()).flatten() {
                self.push(&pong);
            }
            let compresses = self.deflate_from != u32::MAX;
            if compresses && !self.closing {
                self.fill_compressed(link);
            }
            let finished = link.drive(|session| {
                if emptied {
                    session.handle_flushed();
                }
                if !compresses && !self.closing {
                    self.fill(session);
                }
                session.finished(Transport::WebSocket)
            });
            if !self.is_blocked() {
                return Poll::Ready(Ok(Written { finished }));
            }
            ready!(self.poll_flush(cx))?;
        }
    }

    /// Queues the close frame, after all that was queued.
    pub(super) fn start_close(&mut self, code: Option<u16>, reason: &str) {
        if !self.closing {
            self.closing = true;
            self.push(&close_frame(code, reason));
        }
    }

    /// Whether bytes wait that have not left.
    pub(super) fn is_blocked(&self) -> bool {
        self.unflushed
    }

    /// Whether bytes wait that the stream has not taken.
    fn has_bytes(&self) -> bool {
        !self.small.is_empty() || !self.tail.is_empty()
    }

    /// Whether bytes have left since the last call.
    pub(super) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progress)
    }

    /// Whether what is queued is to leave before more is taken.
    fn is_full(&self) -> bool {
        self.small.len() + self.tail.len() >= COALESCE
            || self.tail.len() >= LARGE && !self.tail.is_unique()
    }

    fn fill(&mut self, session: &mut Session) {
        while !self.is_full() {
            let Some(packet) = session.poll_transmit(Transport::WebSocket) else {
                return;
            };
            self.push_packet(packet);
        }
    }

    /// As [`fill`](Self::fill), but what takes long is done outside of the session's lock.
    fn fill_compressed(&mut self, link: &Link) {
        while !self.is_full() {
            let Some(packet) = link.drive(|session| session.poll_transmit(Transport::WebSocket))
            else {
                return;
            };
            if !self.push_compressed(&packet) {
                self.push_packet(packet);
            }
        }
    }

    /// False if it is to travel as it is.
    fn push_compressed(&mut self, packet: &Packet) -> bool {
        let Packet::Message(message) = packet else {
            return false;
        };
        if !message.is_compressible() {
            return false;
        }
        let (opcode, kind, data): (_, &[u8], _) = match message {
            Message::Text(text) => (Opcode::Text, b"4", text.as_bytes()),
            _ if self.base64 => return false,
            Message::Binary(data) | Message::Uncompressed(data)
                if self.revision == Revision::V3 =>
            {
                (Opcode::Binary, &[4], data)
            }
            Message::Binary(data) | Message::Uncompressed(data) => (Opcode::Binary, b"", data),
        };
        if data.len() < self.deflate_from as usize {
            return false;
        }
        let Some(compressed) = deflate(&[kind, data]) else {
            return false;
        };
        let (bytes, taken) = compressed_header(opcode, compressed.len());
        self.push(&bytes[bytes.len() - taken..]);
        self.push_frame(compressed.into());
        true
    }

    fn push_packet(&mut self, packet: Packet) {
        match packet {
            Packet::Message(Message::Text(text)) => match text.into_frame() {
                Ok(frame) => self.push_frame(frame),
                // A message that is passed on as it was received.
                Err(text) => self.push_parts(Opcode::Text, &[b"4", text.as_bytes()]),
            },
            Packet::Message(_) if self.base64 => {
                let mut text = Vec::new();
                payload::push_packet(&mut text, &packet, self.revision);
                self.push_parts(Opcode::Text, &[&text]);
            }
            Packet::Message(Message::Binary(data) | Message::Uncompressed(data))
                if self.revision == Revision::V3 =>
            {
                self.push_parts_len(Opcode::Binary, 1 + data.len());
                self.push(&[4]);
                self.push_frame(data);
            }
            Packet::Message(Message::Binary(data) | Message::Uncompressed(data)) => {
                self.push_parts_len(Opcode::Binary, data.len());
                self.push_frame(data);
            }
            Packet::Open(json) => self.push_parts(Opcode::Text, &[b"0", &json]),
            control => self.push_parts(Opcode::Text, &[control.control_text()]),
        }
    }

    fn push_parts(&mut self, opcode: Opcode, parts: &[&[u8]]) {
        self.push_parts_len(opcode, parts.iter().map(|part| part.len()).sum());
        parts.iter().for_each(|part| self.push(part));
    }

    fn push_parts_len(&mut self, opcode: Opcode, len: usize) {
        let (bytes, taken) = header(opcode, len);
        self.push(&bytes[bytes.len() - taken..]);
    }

    /// Queues a frame, without copying it as long as it is the last.
    fn push_frame(&mut self, frame: Bytes) {
        self.unflushed = true;
        self.settle();
        if self.small.is_empty() || frame.len() >= LARGE {
            self.tail = frame;
        } else {
            self.small.extend_from_slice(&frame);
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.unflushed = true;
        self.settle();
        if self.small.capacity() == 0 {
            self.small = SPARE.take();
        }
        self.small.extend_from_slice(bytes);
    }

    /// Moves the tail to the small ones, so that more may follow.
    fn settle(&mut self) {
        if self.tail.is_empty() {
            return;
        }
        if self.small.capacity() == 0 {
            self.small = SPARE.take();
        }
        self.small.extend_from_slice(&self.tail);
        self.tail = Bytes::new();
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.has_bytes() {
            let small = &self.small[self.written..];
            let io = Pin::new(&mut self.io);
            let polled = match (small.is_empty(), self.tail.is_empty()) {
                (true, _) => io.poll_write(cx, &self.tail),
                (false, true) => io.poll_write(cx, small),
                (false, false) => {
                    let parts = [IoSlice::new(small), IoSlice::new(&self.tail)];
                    io.poll_write_vectored(cx, &parts)
                }
            };
            let Poll::Ready(taken) = polled? else {
                fit(&mut self.small, &mut self.written);
                return Poll::Pending;
            };
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(taken);
        }
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.unflushed = false;
        self.progress = true;
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, taken: usize) {
        self.progress = true;
        let small = taken.min(self.small.len() - self.written);
        self.written += small;
        self.tail.advance(taken - small);
        if self.written == self.small.len() && self.written > 0 {
            self.written = 0;
            give_back(std::mem::take(&mut self.small));
        }
        if self.tail.is_empty() {
            // An empty slice would keep what it is a slice of.
            self.tail = Bytes::new();
        }
    }
}

fn give_back(mut spare: Vec<u8>) {
    if spare.capacity() <= 2 * COALESCE {
        spare.clear();
        SPARE.set(spare);
    }
}

/// Changes a buffer for a smaller one if what waits in it, from `written` on, does not need it: the
/// peer may not read for long.
fn fit(small: &mut Vec<u8>, written: &mut usize) {
    let waiting = &small[*written..];
    if small.capacity() / 4 > waiting.len().max(LARGE) {
        let fitting = waiting.to_vec();
        give_back(std::mem::replace(small, fitting));
        *written = 0;
    }
}

fn receive(session: &mut Session, incoming: Incoming<'_>, now: Instant) {
    let packet = match incoming {
        Incoming::Text(text) => match text {
            crate::websocket::Payload::Borrowed(text) => payload::decode(text, session.revision()),
            crate::websocket::Payload::Owned(text) if text.first() == Some(&b'4') => {
                Packet::from_owned_text(text)
            }
            crate::websocket::Payload::Owned(text) => payload::decode(&text, session.revision()),
        },
        Incoming::Binary(data) => payload::decode_binary(data.into_bytes(), session.revision()),
        Incoming::Ping(_) | Incoming::Pong | Incoming::Close(_) => return,
    };
    match packet {
        Ok(packet) => session.handle_packet(Transport::WebSocket, packet, now),
        Err(_) => fail(session, CloseReason::ParseError, now),
    }
}

/// Beside a polling session only the WebSocket ends.
fn fail(session: &mut Session, reason: CloseReason, now: Instant) {
    match session.transport() {
        Transport::Polling => session.handle_transport_closed(Transport::WebSocket, now),
        Transport::WebSocket => session.close(reason, now),
    }
}

/// Closes a WebSocket that no session takes.
pub(super) async fn refuse(upgrade: Upgrade) {
    let close = async {
        let mut io = Stream::new(upgrade.stream.await.ok()?);
        io.write_all(&close_frame(None, "")).await.ok()?;
        io.flush().await.ok()?;
        io.shutdown().await.ok()
    };
    // Who does not take it in time is simply cut off.
    let _ = tokio::time::timeout(Duration::from_secs(5), close).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_blocked_keeps_no_more_than_waits() {
        for (len, capacity, is_changed) in [
            (10, 2 * COALESCE, true),
            (30_000, 2 * COALESCE, true),
            (100_000, 2 * COALESCE, false),
            (10, 3 * LARGE, false),
        ] {
            SPARE.take();
            let mut small = Vec::with_capacity(capacity);
            small.resize(7, b'-');
            small.resize(7 + len, b'x');
            let mut written = 7;
            fit(&mut small, &mut written);
            assert_eq!(small[written..], vec![b'x'; len]);
            let kept = if is_changed { len } else { capacity };
            assert_eq!(small.capacity(), kept);
            // The other one is there for those who write.
            assert_eq!(SPARE.take().capacity() == capacity, is_changed);
        }
    }
}
