//! One WebSocket of a session: its byte stream in, its packets out.

use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use hyper::upgrade::Upgraded;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite as _, AsyncWriteExt, ReadBuf};
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use self::write_buffer::WriteBuffer;
use super::stream::Stream;
use crate::clock::now;
use crate::engine_io::{
    CloseReason, EnginePacket, Message, Revision, Session, Transport, payload, record,
};
use crate::hub::observer::Traffic;
use crate::hub::session::{SharedSession, Upgrade};
use crate::websocket::{
    FrameDecoder, Incoming, MessagePayload, close_frame, compressed_header, deflate, header,
    pong_frame,
};

mod write_buffer;

#[cfg(feature = "unstable-internals")]
pub use self::write_buffer::free_spare_buffer;

const TEXT: OpCode = OpCode::Data(Data::Text);
const BINARY: OpCode = OpCode::Data(Data::Binary);

/// The size of the read buffer, in bytes. The buffer is on the stack, so an idle connection holds
/// none.
const READ: usize = 8 * 1024;

/// A WebSocket of a session.
pub(super) struct WebSocket {
    io: Stream,
    decoder: FrameDecoder,
    /// Bytes that were read and are not decoded yet, because the session wants no more input.
    undecoded: BytesMut,
    /// Frames that wait to be written.
    out: WriteBuffer,
    /// The pong for the last WebSocket ping that arrived while other bytes waited to be sent.
    pong: Option<Box<[u8]>>,
    /// Whether the close frame is queued or sent.
    ///
    /// `closing` and `read_ended` are independent: the server may close first, and a connection may
    /// end without a close frame.
    closing: bool,
    /// Whether the last read returned [`Read::End`].
    read_ended: bool,
    base64: bool,
    revision: Revision,
    /// The length in bytes from which messages are compressed. `None` if no message is compressed.
    deflate_threshold: Option<usize>,
    /// The packets that were queued since the observers were last notified.
    queued_packets: usize,
}

/// The result of a read.
pub(super) enum Read {
    /// Bytes were read. The fields hold the state of the session after these bytes: its
    /// [`Session::event_count`] and its [`Session::wants_frames`].
    More {
        event_count: u64,
        wants_frames: bool,
    },
    /// The client has sent a close frame, or the connection has ended.
    ///
    /// A violation of the protocol is not an end: the input after it is read and ignored, until the
    /// client closes.
    End,
}

/// The result of [`WebSocket::poll_write`] when all queued bytes were written.
pub(super) struct Written {
    /// Whether the session has nothing more to do with this WebSocket.
    pub(super) finished: bool,
}

impl WebSocket {
    pub(super) fn new(io: Upgraded, session: &SharedSession, deflate: bool) -> Self {
        let mut decoder = FrameDecoder::new(session.config.max_payload);
        if deflate {
            decoder = decoder.with_deflate();
        }
        Self {
            io: Stream::new(io),
            decoder,
            undecoded: BytesMut::new(),
            out: WriteBuffer::default(),
            pong: None,
            closing: false,
            read_ended: false,
            base64: session.params.base64,
            revision: session.params.revision,
            deflate_threshold: session.config.deflate_threshold.filter(|_| deflate),
            queued_packets: 0,
        }
    }

    /// Returns whether the close frame is queued or sent.
    pub(super) fn is_closing(&self) -> bool {
        self.closing
    }

    /// Ends the byte stream if the close frame is sent: TLS sends its `close_notify`. The end of a TCP
    /// connection needs nothing.
    pub(super) fn shut_down(&mut self, cx: &mut Context<'_>) {
        if self.closing && !self.out.is_blocked() && matches!(self.io, Stream::Other(_)) {
            // Once: a peer that does not read is not waited for.
            let _ = Pin::new(&mut self.io).poll_shutdown(cx);
        }
    }

    /// Reads once and passes the complete messages to the session. After it has returned
    /// [`Read::End`], it always returns [`Read::End`].
    #[inline]
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        session: &SharedSession,
    ) -> Poll<Read> {
        if self.read_ended {
            return Poll::Ready(Read::End);
        }
        let read = ready!(self.poll_read_once(cx, session));
        self.read_ended = matches!(read, Read::End);
        Poll::Ready(read)
    }

    #[inline]
    fn poll_read_once(&mut self, cx: &mut Context<'_>, session: &SharedSession) -> Poll<Read> {
        if !self.undecoded.is_empty() {
            let mut ahead = std::mem::take(&mut self.undecoded);
            let mut rest = &mut *ahead;
            let read = self.decode(session, &mut rest, 0);
            let rest = rest.len();
            if rest > 0 {
                ahead.advance(ahead.len() - rest);
                self.undecoded = ahead;
            }
            return Poll::Ready(read);
        }
        if let Some(mut room) = self.decoder.read_buf() {
            return Poll::Ready(match ready!(pin!(self.io.read_buf(&mut room)).poll(cx)) {
                Ok(read @ 1..) => self.decode(session, &mut &mut [][..], read),
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
        let bytes = rest.len();
        let read = self.decode(session, &mut rest, bytes);
        if !rest.is_empty() {
            self.undecoded = BytesMut::from(&*rest);
        }
        Poll::Ready(read)
    }

    /// Decodes the bytes that were read, until the session wants no more input. The rest stays in
    /// `input`. `bytes` is the number of bytes that were read.
    fn decode(&mut self, session: &SharedSession, input: &mut &mut [u8], bytes: usize) -> Read {
        let now = now();
        let is_blocked = self.is_blocked();
        let mut control = Vec::new();
        let mut end = false;
        let mut echo = None;
        let mut packets = 0;
        let (result, event_count, wants_frames) = session.with_session(|session| {
            let result = self.decoder.decode_while(input, |incoming| {
                match incoming {
                    Incoming::Ping(data) => {
                        // RFC 6455, section 5.5.3: while pongs wait to be sent, the pong for the
                        // last ping is enough.
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
                        packets += 1;
                        receive(session, incoming, now);
                        return session.wants_frames();
                    }
                }
                true
            });
            if self.decoder.is_partial() {
                session.handle_partial();
            }
            (result, session.event_count(), session.wants_frames())
        });
        let traffic = Traffic { packets, bytes };
        let observers = &session.observers;
        observers.each(|observer| observer.received(session, Transport::WebSocket, traffic));
        if is_blocked && !control.is_empty() {
            self.pong = Some(control.into());
        } else if !control.is_empty() && !self.closing {
            self.out.push(&control);
        }
        if result.is_err() || end {
            // The bytes that follow are ignored.
            *input = &mut [];
        }
        if let Err(violation) = result {
            // The tests of the official client expect an empty reason with 1009.
            let (reason, text) = match violation.code() {
                1009 => (CloseReason::TooBig, ""),
                _ => (CloseReason::TransportError, violation.reason()),
            };
            session.with_session(|session| fail(session, reason, now));
            self.start_close(Some(violation.code()), text);
        } else if end && !self.closing {
            // RFC 6455, section 5.5.1: the answer has the client's own code.
            let (code, reason) = echo.unzip();
            self.start_close(code, &reason.unwrap_or_default());
        }
        match end {
            true => Read::End,
            false => Read::More {
                event_count,
                wants_frames,
            },
        }
    }

    /// Writes the packets of the session until none is left.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        session: &SharedSession,
    ) -> Poll<io::Result<Written>> {
        loop {
            let emptied = !self.is_blocked() && self.take_progress();
            let accepts_pong = !self.closing && !self.is_blocked();
            if let Some(pong) = accepts_pong.then(|| self.pong.take()).flatten() {
                self.out.push(&pong);
            }
            let compresses = self.deflate_threshold.is_some();
            if compresses && !self.closing {
                // Before new bytes are queued, which are not flushed yet.
                if emptied {
                    session.with_session(Session::handle_flushed);
                }
                self.fill_compressed(session);
            }
            let finished = session.with_session(|session| {
                if emptied && (!compresses || self.closing) {
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
            let flushed = self.out.poll_flush(Pin::new(&mut self.io), cx);
            if !session.observers.is_empty() {
                self.notify_sent(session);
            }
            ready!(flushed)?;
        }
    }

    /// Reports what was written to the observers.
    #[cold]
    fn notify_sent(&mut self, session: &SharedSession) {
        let traffic = Traffic {
            packets: std::mem::take(&mut self.queued_packets),
            bytes: self.out.take_sent(),
        };
        let observers = &session.observers;
        observers.each(|observer| observer.sent(session, Transport::WebSocket, traffic));
    }

    /// Queues the close frame behind all other bytes.
    pub(super) fn start_close(&mut self, code: Option<u16>, reason: &str) {
        if !self.closing {
            self.closing = true;
            self.out.push(&close_frame(code, reason));
        }
    }

    /// Returns whether bytes wait to be sent.
    pub(super) fn is_blocked(&self) -> bool {
        self.out.is_blocked()
    }

    /// Returns whether bytes were sent since the last call.
    pub(super) fn take_progress(&mut self) -> bool {
        self.out.take_progress()
    }

    fn fill(&mut self, session: &mut Session) {
        while !self.out.is_full() {
            let Some(packet) = session.poll_transmit(Transport::WebSocket) else {
                return;
            };
            self.queued_packets += 1;
            self.push_packet(packet);
        }
    }

    /// Does the same as [`fill`](Self::fill), and compresses messages. It compresses outside of the
    /// session's lock.
    fn fill_compressed(&mut self, session: &SharedSession) {
        while !self.out.is_full() {
            let Some(packet) =
                session.with_session(|session| session.poll_transmit(Transport::WebSocket))
            else {
                return;
            };
            self.queued_packets += 1;
            if !self.push_compressed(&packet) {
                self.push_packet(packet);
            }
        }
    }

    /// Queues a packet in compressed form. Returns false if it is to be sent uncompressed.
    fn push_compressed(&mut self, packet: &EnginePacket) -> bool {
        let EnginePacket::Message(message) = packet else {
            return false;
        };
        if !message.is_compressible() {
            return false;
        }
        let (opcode, kind, data): (_, &[u8], _) = match message {
            Message::Text(text) => (TEXT, b"4", text.as_bytes()),
            _ if self.base64 => return false,
            Message::Binary(data) | Message::Uncompressed(data)
                if self.revision == Revision::V3 =>
            {
                (BINARY, &[4], data)
            }
            Message::Binary(data) | Message::Uncompressed(data) => (BINARY, b"", data),
        };
        if self
            .deflate_threshold
            .is_none_or(|bytes| data.len() < bytes)
        {
            return false;
        }
        let Some(compressed) = deflate(&[kind, data]) else {
            return false;
        };
        let (bytes, size) = compressed_header(opcode, compressed.len());
        self.out.push(&bytes[bytes.len() - size..]);
        self.out.push_frame(compressed.into());
        true
    }

    fn push_packet(&mut self, packet: EnginePacket) {
        match packet {
            EnginePacket::Message(Message::Text(text)) => match text.into_frame() {
                Ok(frame) => self.out.push_frame(frame),
                // A text that was received, and is now sent to a client, has no frame.
                Err(text) => self.push_parts(TEXT, &[b"4", text.as_bytes()]),
            },
            EnginePacket::Message(_) if self.base64 => {
                let mut text = Vec::new();
                record::push_packet(&mut text, &packet, self.revision);
                self.push_parts(TEXT, &[&text]);
            }
            EnginePacket::Message(Message::Binary(data) | Message::Uncompressed(data))
                if self.revision == Revision::V3 =>
            {
                self.push_header(BINARY, 1 + data.len());
                self.out.push(&[4]);
                self.out.push_frame(data);
            }
            EnginePacket::Message(Message::Binary(data) | Message::Uncompressed(data)) => {
                self.push_header(BINARY, data.len());
                self.out.push_frame(data);
            }
            EnginePacket::Open(json) => self.push_parts(TEXT, &[b"0", &json]),
            control => self.push_parts(TEXT, &[control.control_text()]),
        }
    }

    fn push_parts(&mut self, opcode: OpCode, parts: &[&[u8]]) {
        self.push_header(opcode, parts.iter().map(|part| part.len()).sum());
        parts.iter().for_each(|part| self.out.push(part));
    }

    fn push_header(&mut self, opcode: OpCode, len: usize) {
        let (bytes, size) = header(opcode, len);
        self.out.push(&bytes[bytes.len() - size..]);
    }
}

fn receive(session: &mut Session, incoming: Incoming<'_>, now: Instant) {
    let packet = match incoming {
        Incoming::Text(text) => match text {
            MessagePayload::Borrowed(text) => record::decode(text, session.revision()),
            MessagePayload::Owned(text) if text.first() == Some(&b'4') => {
                EnginePacket::from_owned_text(text)
            }
            MessagePayload::Owned(text) => record::decode(&text, session.revision()),
        },
        Incoming::Binary(data) => payload::decode_binary(data.into_bytes(), session.revision()),
        Incoming::Ping(_) | Incoming::Pong | Incoming::Close(_) => return,
    };
    match packet {
        Ok(packet) => session.handle_packet(Transport::WebSocket, packet, now),
        Err(_) => fail(session, CloseReason::ParseError, now),
    }
}

/// Closes the session. If its transport is still polling, ends only the probe.
fn fail(session: &mut Session, reason: CloseReason, now: Instant) {
    match session.transport() {
        Transport::Polling => session.handle_transport_closed(Transport::WebSocket, now),
        Transport::WebSocket => session.close(reason, now),
    }
}

/// Closes a WebSocket that its session does not accept.
pub(super) async fn refuse(upgrade: Upgrade) {
    let close = async {
        let mut io = Stream::new(upgrade.stream.await.ok()?);
        io.write_all(&close_frame(None, "")).await.ok()?;
        io.flush().await.ok()?;
        io.shutdown().await.ok()
    };
    // A client that does not read the close frame in time is cut off.
    let _ = tokio::time::timeout(Duration::from_secs(5), close).await;
}
