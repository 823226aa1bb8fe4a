//! Bytes of the network into messages.
//!
//! What lies whole in the caller's buffer is given out where it lies. Only a frame that is
//! incomplete, or part of a message in fragments, is copied into a buffer of the decoder's own:
//!
//! ```text
//! buf:  the message's earlier fragments | the frame on its way: unmasked | room for the rest
//!       0                               frame.start                      buf.len()   frame.end()
//! ```
//!
//! A control frame between two fragments goes through the same place and is cut off again.

use std::{mem, str::from_utf8};

use bytes::{BufMut, buf::Limit};
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::{
    Incoming, WebSocketError,
    header::{COMPRESSED, Header, MAX_CLIENT_HEADER, RESERVED},
    mask::unmask,
    message::{Kind, Message},
};

/// Decodes what a client sends.
///
/// Between messages it holds no buffer. See [the module](super) for an example.
#[derive(Debug)]
pub struct FrameDecoder {
    max_message: usize,
    /// The bits of a header that must be clear.
    reserved: u8,
    /// The start of a header whose rest has not arrived.
    head: [u8; MAX_CLIENT_HEADER],
    head_len: u8,
    /// A frame whose payload goes through `buf`.
    frame: Option<Frame>,
    /// The message that `buf` starts with.
    message: Option<Message>,
    buf: Vec<u8>,
    /// Set by a close frame (`Ok`) or a violation: nothing that follows is looked at.
    ended: Option<Result<(), WebSocketError>>,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    header: Header,
    /// Where its payload starts in `buf`.
    start: usize,
    /// Up to where `buf` is unmasked.
    unmasked: usize,
}

impl FrameDecoder {
    /// Starts after the opening handshake.
    ///
    /// `max_message` bounds the bytes of a message's payload. What is declared to be larger is
    /// refused before it is read.
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

    /// Also takes messages that are compressed, [`DEFLATE_ACCEPTED`](super::DEFLATE_ACCEPTED)
    /// having been agreed on. `max_message` bounds them before and after.
    #[must_use]
    pub fn with_deflate(mut self) -> Self {
        self.reserved = RESERVED & !COMPRESSED;
        self
    }

    /// Takes bytes from the network: unmasks whole frames where they lie and gives them to `on`,
    /// keeps the rest.
    ///
    /// # Errors
    ///
    /// The client's violation, after what came before it was given to `on`. The connection is
    /// over: later calls look at nothing and return the same.
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

    /// Takes bytes off `input` as long as `on`, which gets what they are, answers `true`. The rest
    /// stays in `input` and is to be given again. Little input can be worth a lot: a compressed
    /// message of a kilobyte may hold a megabyte.
    ///
    /// # Errors
    ///
    /// As [`decode`](Self::decode).
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

    /// Whether a frame or a message has begun and is not whole yet.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.frame.is_some() || self.message.is_some() || self.head_len > 0
    }

    /// Offers room to read the rest of a large frame into, without a copy: while at least 8 KiB
    /// of its payload are missing.
    ///
    /// To be written to as a [`BufMut`] only, which takes no byte past the frame's end. Call
    /// [`filled`](Self::filled) after each read. The room is allocated as the payload arrives: a
    /// header alone, whatever it declares, is worth 64 KiB, or 85 KiB if that is all.
    ///
    /// ```
    /// # use tokio::io::{AsyncRead, AsyncReadExt};
    /// # use tower_socketio::websocket::{FrameDecoder, WebSocketError};
    /// # async fn example(
    /// #     decoder: &mut FrameDecoder,
    /// #     mut stream: impl AsyncRead + Unpin,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// while let Some(mut room) = decoder.read_buf() {
    ///     if stream.read_buf(&mut room).await? == 0 {
    ///         break; // the client has gone
    ///     }
    ///     decoder.filled(|incoming| println!("{incoming:?}"))?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn read_buf(&mut self) -> Option<Limit<&mut Vec<u8>>> {
        let frame = self.frame?;
        let missing = frame.end() - self.buf.len();
        if missing < DIRECT_READ {
            return None;
        }
        self.reserve(frame, DIRECT_READ);
        Some((&mut self.buf).limit(missing))
    }

    /// Takes what was read into [`read_buf`](Self::read_buf).
    ///
    /// # Errors
    ///
    /// As [`decode`](Self::decode).
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
                if !self.take_payload(frame, input)? {
                    break;
                }
                self.frame = None;
                goes_on = self.finish(frame, on)?;
                continue;
            }
            if input.is_empty() {
                break;
            }
            let Some(header) = self.take_header(input)? else {
                break;
            };
            self.admit(&header)?;
            if !header.is_fragment() && input.len() >= header.len {
                let payload = take(input, header.len);
                unmask(payload, header.mask, 0);
                goes_on = if header.compressed {
                    on(header.kind().decompressed(payload, self.max_message)?)
                } else {
                    self.give(header.opcode, payload, on)?
                };
            } else {
                self.begin(header);
            }
        }
        Ok(())
    }

    /// Takes the next header off `input`, or what has arrived of it.
    #[inline]
    fn take_header(&mut self, input: &mut &mut [u8]) -> Result<Option<Header>, WebSocketError> {
        if self.head_len == 0 {
            if let Some((header, len)) = Header::parse(input, self.reserved)? {
                take(input, len);
                return Ok(Some(header));
            }
        }
        self.take_split_header(input)
    }

    #[cold]
    fn take_split_header(
        &mut self,
        input: &mut &mut [u8],
    ) -> Result<Option<Header>, WebSocketError> {
        let held = usize::from(self.head_len);
        let fits = input.len().min(MAX_CLIENT_HEADER - held);
        self.head[held..held + fits].copy_from_slice(&input[..fits]);
        if let Some((header, len)) = Header::parse(&self.head[..held + fits], self.reserved)? {
            self.head_len = 0;
            // More than was held, because that alone was no header.
            take(input, len - held);
            return Ok(Some(header));
        }
        // That was all of `input`: 14 bytes always are a header.
        self.head_len += fits as u8;
        take(input, fits);
        Ok(None)
    }

    /// Checks a frame against the message it stands in, before any of its payload is kept.
    #[inline]
    fn admit(&mut self, header: &Header) -> Result<(), WebSocketError> {
        let OpCode::Data(data) = header.opcode else {
            return Ok(());
        };
        match (&mut self.message, data) {
            (None, Data::Continue) => return Err(WebSocketError::STRAY_CONTINUATION),
            (Some(message), Data::Continue) => message.continued()?,
            (Some(_), _) => return Err(WebSocketError::INTERRUPTED_MESSAGE),
            (None, _) => (),
        }
        // Between two frames `buf` is the message so far, which was admitted.
        if header.len > self.max_message - self.buf.len() {
            return Err(WebSocketError::TOO_BIG);
        }
        Ok(())
    }

    #[inline]
    fn give(
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

    /// Sends a frame's payload through `buf`.
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

    /// Takes what `input` has of the payload, after what was read into `buf` directly; says
    /// whether it is complete.
    fn take_payload(
        &mut self,
        frame: Frame,
        input: &mut &mut [u8],
    ) -> Result<bool, WebSocketError> {
        let missing = frame.end() - self.buf.len();
        let fits = missing.min(input.len());
        let piece = take(input, fits);
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

    /// Gives out what a complete frame in `buf` completes; whether to go on.
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
        let goes_on = self.give(frame.header.opcode, &buf[frame.start..], on)?;
        buf.truncate(frame.start);
        if self.message.is_some() {
            self.buf = buf;
        }
        Ok(goes_on)
    }

    /// Makes room in `buf` for `more` bytes of `frame`.
    ///
    /// For as many again as have arrived, so that a growing message is not moved too often; but
    /// not past the message's end or, where that is unknown, past twice what is complete or the
    /// longest message.
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
        // What is nearly all of it may be all: it is not moved for a little more.
        let wanted = match limit - limit / 4 <= ahead {
            true => limit,
            false => ahead,
        };
        self.buf.reserve_exact(wanted - self.buf.len());
    }

    /// Stops looking at what comes, and lets go of what was kept.
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
    /// Of a frame that begins a message.
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
/// 1005, 1006 and 1015 only exist within an endpoint, 1004 is reserved; 1014 is registered, though
/// tungstenite's `CloseCode` does not know it.
///
/// [registry]: https://www.iana.org/assignments/websocket/websocket.xhtml#close-code-number
fn is_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Splits the first `len` bytes off `input`; `len` must not be more than it has.
#[inline]
fn take<'a>(input: &mut &'a mut [u8], len: usize) -> &'a mut [u8] {
    let (taken, rest) = mem::take(input).split_at_mut(len);
    *input = rest;
    taken
}

/// A direct read saves the copy of what it reads; for less than this it saves too little.
const DIRECT_READ: usize = 8 * 1024;

/// How much more than what has arrived is allocated at first. With [`DIRECT_READ`]: 64 KiB.
const READ_AHEAD: usize = 56 * 1024;

#[cfg(test)]
mod tests;
