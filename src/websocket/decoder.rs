//! Decodes bytes from the network into messages.
//!
//! A message that is whole in the caller's buffer is passed on as a slice of it. The decoder copies
//! only incomplete frames, and frames of fragmented messages, into a buffer of its own:
//!
//! ```text
//! buf:  the message's earlier fragments | the current frame: unmasked | room for the rest
//!       0                               frame.start                      buf.len()   frame.end()
//! ```
//!
//! An incomplete control frame between two fragments uses the same buffer and is truncated again.

use std::{mem, str::from_utf8};

use bytes::{BufMut, buf::Limit};
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::{
    Incoming, WebSocketError,
    header::{COMPRESSED, Header, MAX_CLIENT_HEADER, RESERVED},
    mask::unmask,
    message::{Kind, Message},
};

/// A decoder of the frames of one client.
///
/// Between messages it holds no buffer.
#[derive(Debug)]
pub struct FrameDecoder {
    max_message: usize,
    /// The bits of a header's first byte that must be 0.
    reserved: u8,
    /// The start of a header whose rest has not arrived.
    head: [u8; MAX_CLIENT_HEADER],
    head_len: u8,
    /// The frame whose payload is collected in `buf`.
    frame: Option<Frame>,
    /// The message at the start of `buf`.
    message: Option<Message>,
    buf: Vec<u8>,
    /// Set by a close frame (`Ok`) or an error: all later input is ignored.
    ended: Option<Result<(), WebSocketError>>,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    header: Header,
    /// The offset of the payload in `buf`.
    start: usize,
    /// The offset up to which `buf` is unmasked.
    unmasked: usize,
}

impl FrameDecoder {
    /// Creates a decoder for the bytes after the opening handshake.
    ///
    /// `max_message` is the maximum length of a message's payload, in bytes. A frame that declares
    /// a longer message is refused before its payload is read.
    #[must_use]
    pub fn new(max_message: usize) -> Self {
        Self {
            max_message,
            reserved: RESERVED,
            head: [0; MAX_CLIENT_HEADER],
            head_len: 0,
            frame: None,
            message: None,
            buf: Vec::new(),
            ended: None,
        }
    }

    /// Accepts compressed messages too. Call this if the opening handshake was answered with
    /// [`accept_deflate`](super::accept_deflate).
    ///
    /// `max_message` limits a message's length both before and after decompression.
    #[must_use]
    pub fn with_deflate(mut self) -> Self {
        self.reserved = RESERVED & !COMPRESSED;
        self
    }

    /// Decodes bytes from the network, and calls `on` with each message and control frame.
    ///
    /// Whole messages are unmasked in place. The decoder stores an incomplete one.
    ///
    /// # Errors
    ///
    /// Fails if the client broke a rule or exceeded a limit. `on` was called with everything before
    /// the violation. The connection has ended: later calls ignore their input and return the same
    /// error.
    pub fn decode(
        &mut self,
        mut input: &mut [u8],
        mut on: impl FnMut(Incoming<'_>),
    ) -> Result<(), WebSocketError> {
        self.decode_while(&mut input, |incoming| {
            on(incoming);
            true
        })
    }

    /// Decodes bytes like [`decode`](Self::decode) until `on` returns `false`.
    ///
    /// The rest stays in `input`; pass it to the next call. This lets the caller pause, because few
    /// bytes can be a lot of work: a compressed message of a kilobyte may expand to a megabyte.
    ///
    /// # Errors
    ///
    /// Fails like [`decode`](Self::decode).
    pub fn decode_while(
        &mut self,
        input: &mut &mut [u8],
        mut on: impl FnMut(Incoming<'_>) -> bool,
    ) -> Result<(), WebSocketError> {
        let result = self.decode_frames(input, &mut on);
        if result.is_err() {
            self.end(result);
        }
        self.ended.unwrap_or(Ok(()))
    }

    /// Whether a frame or a message has begun and is not complete.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.frame.is_some() || self.message.is_some() || self.head_len > 0
    }

    /// Returns a buffer to read the rest of a large frame into, without a copy.
    ///
    /// Returns `None` if less than 8 KiB of a frame's payload are missing. Write to the buffer only
    /// through [`BufMut`], which limits it to the frame's end. Call [`filled`](Self::filled) after
    /// each read.
    ///
    /// Memory is allocated as the payload arrives. After the header alone it is at most 64 KiB,
    /// whatever length the header declares, or 85 KiB if that holds the whole frame.
    ///
    /// ```
    /// # use tokio::io::{AsyncRead, AsyncReadExt};
    /// # use tower_socketio::internals::{FrameDecoder, WebSocketError};
    /// # async fn example(
    /// #     decoder: &mut FrameDecoder,
    /// #     mut stream: impl AsyncRead + Unpin,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// while let Some(mut room) = decoder.read_buf() {
    ///     if stream.read_buf(&mut room).await? == 0 {
    ///         break; // the client has closed the connection
    ///     }
    ///     decoder.filled(|incoming| println!("{incoming:?}"))?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn read_buf(&mut self) -> Option<Limit<&mut Vec<u8>>> {
        let frame = self.frame?;
        let missing = frame.end() - self.buf.len();
        if missing < DIRECT_READ {
            return None;
        }
        self.reserve(frame, DIRECT_READ);
        Some((&mut self.buf).limit(missing))
    }

    /// Decodes the bytes that were read into [`read_buf`](Self::read_buf).
    ///
    /// # Errors
    ///
    /// Fails like [`decode`](Self::decode).
    pub fn filled(&mut self, on: impl FnMut(Incoming<'_>)) -> Result<(), WebSocketError> {
        self.decode(&mut [], on)
    }

    fn decode_frames(
        &mut self,
        input: &mut &mut [u8],
        on: &mut impl FnMut(Incoming<'_>) -> bool,
    ) -> Result<(), WebSocketError> {
        let mut goes_on = true;
        while goes_on && self.ended.is_none() {
            if let Some(frame) = self.frame {
                if !self.read_payload(frame, input)? {
                    break;
                }
                self.frame = None;
                goes_on = self.finish(frame, on)?;
                continue;
            }
            if input.is_empty() {
                break;
            }
            let Some(header) = self.parse_header(input)? else {
                break;
            };
            self.admit(&header)?;
            if !header.is_fragment() && input.len() >= header.len {
                let payload = split_off(input, header.len);
                unmask(payload, header.mask, 0);
                goes_on = if header.compressed {
                    on(header.kind().decompressed(payload, self.max_message)?)
                } else {
                    self.deliver(header.opcode, payload, on)?
                };
            } else {
                self.begin(header);
            }
        }
        Ok(())
    }

    /// Splits the next header off `input`. Returns `None` if the header is incomplete, and stores
    /// the part of it that has arrived.
    #[inline]
    fn parse_header(&mut self, input: &mut &mut [u8]) -> Result<Option<Header>, WebSocketError> {
        if self.head_len == 0 {
            if let Some((header, len)) = Header::parse(input, self.reserved)? {
                split_off(input, len);
                return Ok(Some(header));
            }
        }
        self.parse_split_header(input)
    }

    #[cold]
    fn parse_split_header(
        &mut self,
        input: &mut &mut [u8],
    ) -> Result<Option<Header>, WebSocketError> {
        let held = usize::from(self.head_len);
        let fits = input.len().min(MAX_CLIENT_HEADER - held);
        self.head[held..held + fits].copy_from_slice(&input[..fits]);
        if let Some((header, len)) = Header::parse(&self.head[..held + fits], self.reserved)? {
            self.head_len = 0;
            // `len > held`, because the held bytes alone were not a whole header.
            split_off(input, len - held);
            return Ok(Some(header));
        }
        // `input` has no more bytes, because 14 bytes are always a whole header.
        self.head_len += fits as u8;
        split_off(input, fits);
        Ok(None)
    }

    /// Checks a frame against the current message, before any of its payload is stored.
    #[inline]
    fn admit(&mut self, header: &Header) -> Result<(), WebSocketError> {
        let OpCode::Data(data) = header.opcode else {
            return Ok(());
        };
        match (&mut self.message, data) {
            (None, Data::Continue) => return Err(WebSocketError::STRAY_CONTINUATION),
            (Some(message), Data::Continue) => message.add_fragment()?,
            (Some(_), _) => return Err(WebSocketError::INTERRUPTED_MESSAGE),
            (None, _) => (),
        }
        // Between two frames `buf` is the message so far, which is within the limit.
        if header.len > self.max_message - self.buf.len() {
            return Err(WebSocketError::TOO_BIG);
        }
        Ok(())
    }

    #[inline]
    fn deliver(
        &mut self,
        opcode: OpCode,
        payload: &[u8],
        on: &mut impl FnMut(Incoming<'_>) -> bool,
    ) -> Result<bool, WebSocketError> {
        let incoming = match opcode {
            OpCode::Data(Data::Text) => Kind::Text.in_place(payload)?,
            OpCode::Data(_) => Kind::Binary.in_place(payload)?,
            OpCode::Control(control) => parse_control(control, payload)?,
        };
        if let Incoming::Close(_) = incoming {
            self.end(Ok(()));
        }
        Ok(on(incoming))
    }

    /// Begins to collect a frame's payload in `buf`.
    fn begin(&mut self, header: Header) {
        match header.opcode {
            OpCode::Data(Data::Text | Data::Binary) => {
                self.message = Some(Message::new(header.kind(), header.compressed));
            }
            OpCode::Data(_) | OpCode::Control(_) => (),
        }
        let start = self.buf.len();
        self.frame = Some(Frame {
            header,
            start,
            unmasked: start,
        });
    }

    /// Appends the bytes of the payload in `input` to `buf`, and unmasks them together with the
    /// bytes that were read into `buf` directly. Returns whether the payload is complete.
    fn read_payload(
        &mut self,
        frame: Frame,
        input: &mut &mut [u8],
    ) -> Result<bool, WebSocketError> {
        let missing = frame.end() - self.buf.len();
        let fits = missing.min(input.len());
        let piece = split_off(input, fits);
        self.reserve(frame, fits);
        self.buf.extend_from_slice(piece);

        let fresh = &mut self.buf[frame.unmasked..];
        unmask(fresh, frame.header.mask, frame.unmasked - frame.start);
        self.frame = Some(Frame {
            unmasked: self.buf.len(),
            ..frame
        });

        if let (Some(message), OpCode::Data(_)) = (&mut self.message, frame.header.opcode) {
            message.check(&self.buf)?;
        }
        Ok(fits == missing)
    }

    /// Passes on the message or control frame that a complete frame in `buf` ends. Returns whether
    /// to continue.
    fn finish(
        &mut self,
        frame: Frame,
        on: &mut impl FnMut(Incoming<'_>) -> bool,
    ) -> Result<bool, WebSocketError> {
        if let OpCode::Control(_) = frame.header.opcode {
            return self.finish_control(frame, on);
        }
        if !frame.header.is_final {
            return Ok(true);
        }
        let Some(message) = self.message.take() else {
            return Ok(true);
        };
        Ok(on(
            message.finish(mem::take(&mut self.buf), self.max_message)?
        ))
    }

    fn finish_control(
        &mut self,
        frame: Frame,
        on: &mut impl FnMut(Incoming<'_>) -> bool,
    ) -> Result<bool, WebSocketError> {
        let mut buf = mem::take(&mut self.buf);
        let goes_on = self.deliver(frame.header.opcode, &buf[frame.start..], on)?;
        buf.truncate(frame.start);
        if self.message.is_some() {
            self.buf = buf;
        }
        Ok(goes_on)
    }

    /// Reserves room in `buf` for `more` bytes of `frame`.
    ///
    /// Doubles the length, so that a growing message is not moved too often. The message's end is
    /// the limit. In a frame that does not end the message, the limit is twice the length of the
    /// complete fragments, or `max_message` if that is less, but at least the frame's end.
    fn reserve(&mut self, frame: Frame, more: usize) {
        let needed = self.buf.len() + more;
        if needed <= self.buf.capacity() {
            return;
        }
        let ahead = needed + needed.max(READ_AHEAD);
        let limit = match frame.header {
            Header {
                opcode: OpCode::Data(_),
                is_final: true,
                ..
            } => frame.end(),
            _ => (2 * frame.start).min(self.max_message).max(frame.end()),
        };
        // If less than a quarter would be missing, reserve all, to avoid another move.
        let wanted = match limit - limit / 4 <= ahead {
            true => limit,
            false => ahead,
        };
        self.buf.reserve_exact(wanted - self.buf.len());
    }

    /// Ignores all later input, and frees the stored bytes.
    #[cold]
    fn end(&mut self, ended: Result<(), WebSocketError>) {
        *self = Self {
            ended: Some(ended),
            reserved: self.reserved,
            ..Self::new(self.max_message)
        };
    }
}

impl Header {
    /// Returns the type of the message that the frame begins.
    fn kind(&self) -> Kind {
        match self.opcode {
            OpCode::Data(Data::Text) => Kind::Text,
            OpCode::Data(_) | OpCode::Control(_) => Kind::Binary,
        }
    }
}

impl Frame {
    fn end(&self) -> usize {
        self.start + self.header.len
    }
}

fn parse_control(control: Control, payload: &[u8]) -> Result<Incoming<'_>, WebSocketError> {
    match control {
        Control::Close => parse_close(payload).map(Incoming::Close),
        Control::Ping => Ok(Incoming::Ping(payload)),
        Control::Pong => Ok(Incoming::Pong),
        Control::Reserved(_) => Err(WebSocketError::RESERVED_OPCODE),
    }
}

fn parse_close(payload: &[u8]) -> Result<Option<(u16, &str)>, WebSocketError> {
    let (code, reason) = match payload {
        [] => return Ok(None),
        [_] => return Err(WebSocketError::CLOSE_LENGTH),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    if !is_close_code(code) {
        return Err(WebSocketError::CLOSE_CODE);
    }
    let reason = from_utf8(reason).map_err(|_| WebSocketError::UTF8)?;
    Ok(Some((code, reason)))
}

/// Whether a close frame may have this code ([registry]).
///
/// 1005, 1006 and 1015 only exist within an endpoint, and 1004 is reserved. 1014 is registered,
/// though tungstenite's `CloseCode` does not know it.
///
/// [registry]: https://www.iana.org/assignments/websocket/websocket.xhtml#close-code-number
fn is_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Splits the first `len` bytes off `input`, which must have that many.
#[inline]
fn split_off<'a>(input: &mut &'a mut [u8], len: usize) -> &'a mut [u8] {
    let (taken, rest) = mem::take(input).split_at_mut(len);
    *input = rest;
    taken
}

/// The minimum number of missing bytes for a direct read. It saves a copy, which is not worth it
/// for less.
const DIRECT_READ: usize = 8 * 1024;

/// The minimum number of bytes that is allocated ahead. Together with [`DIRECT_READ`]: 64 KiB.
const READ_AHEAD: usize = 56 * 1024;

#[cfg(test)]
mod tests;
