//! Writes arguments as JSON, with placeholders for their attachments.

use std::{error, fmt, io};

use bytes::Bytes;
use serde::Serialize;
use serde_json::ser::Formatter;

use crate::protocol::Payload;
use crate::protocol::payload::MAX_LEN;
use crate::protocol::placeholder::{check_placeholders, parse_num, placeholders};
use crate::protocol::scan::Scanner;

/// Writes arguments.
///
/// The number of attachments has no limit, but by default Node's clients accept only ten in a
/// packet.
pub struct ArgsWriter {
    text: Vec<u8>,
    json: usize,
    attachments: Vec<Option<Bytes>>,
    pub(super) uncompressed: bool,
}

impl ArgsWriter {
    #[inline]
    pub(in crate::protocol) fn new(headroom: usize, len_hint: usize) -> Self {
        let mut text = Vec::with_capacity(headroom + "[".len() + len_hint);
        text.resize(headroom, 0);
        text.push(b'[');
        Self {
            text,
            json: headroom,
            attachments: Vec::new(),
            uncompressed: false,
        }
    }

    #[inline]
    pub(in crate::protocol) fn len(&self) -> usize {
        self.text.len()
    }

    /// Writes one argument.
    ///
    /// # Errors
    ///
    /// Fails, and writes nothing, if the value cannot be written as JSON.
    #[inline]
    pub(in crate::protocol) fn push<T: Serialize + ?Sized>(
        &mut self,
        value: &T,
    ) -> Result<(), EncodeError> {
        self.or_undo(|out| {
            out.separate();
            out.write(value)
        })
    }

    /// Writes each element of a tuple, an array or a list as an argument.
    ///
    /// # Errors
    ///
    /// Fails, and writes nothing, if an element cannot be written as JSON, or if `values` is
    /// something else.
    pub(in crate::protocol) fn push_all<T: Serialize + ?Sized>(
        &mut self,
        values: &T,
    ) -> Result<(), EncodeError> {
        let at = self.text.len();
        self.or_undo(|out| {
            out.write(values)?;
            match &out.text[at..] {
                b"null" => out.text.truncate(at),
                [b'[', values @ .., b']'] if values.trim_ascii().is_empty() => {
                    out.text.truncate(at);
                }
                [b'[', .., b']'] => {
                    // A comma replaces the list's opening bracket, or the bracket is removed.
                    out.text.pop();
                    if out.is_empty_before(at) {
                        out.text.remove(at);
                    } else {
                        out.text[at] = b',';
                    }
                }
                _ => return Err(EncodeError(Reason::NotAList)),
            }
            Ok(())
        })
    }

    /// Writes arguments in their received form.
    #[inline]
    pub(in crate::protocol) fn push_raw(&mut self, mut raw: Payload) -> Result<(), EncodeError> {
        let (tail, attachments) = raw.split();
        let [args @ .., _bracket] = tail else {
            return Ok(());
        };
        if args.trim_ascii().is_empty() {
            return Ok(());
        }
        if self.attachments.is_empty() && !attachments.contains(&None) {
            self.separate();
            self.text.extend_from_slice(args);
            self.attachments = raw.attachments;
            return Ok(());
        }
        self.or_undo(|out| {
            out.separate();
            out.write_renumbered(args, attachments)
        })
    }

    /// Writes a whole event, its name and its arguments, as one argument.
    #[cfg(feature = "admin-ui")]
    pub(super) fn push_event(&mut self, mut event: Payload) -> Result<(), EncodeError> {
        let mut attachments = std::mem::take(&mut event.attachments);
        self.or_undo(|out| {
            out.separate();
            out.write_renumbered(event.json(), &mut attachments)
        })
    }

    /// Writes `args` and moves their attachments here. Their numbers continue those of the
    /// attachments that were written before.
    pub(in crate::protocol) fn write_renumbered(
        &mut self,
        args: &[u8],
        attachments: &mut [Option<Bytes>],
    ) -> Result<(), EncodeError> {
        const ILL: EncodeError = EncodeError(Reason::Placeholder);

        let mut done = 0;
        let places = match attachments {
            [] => Vec::new(),
            _ => placeholders(args).map_err(|_| ILL)?,
        };
        for place in places.into_iter().map(|place| place.num) {
            let num = parse_num(&args[place.clone()]).ok_or(ILL)?;
            let attachment = attachments.get_mut(num).ok_or(ILL)?.take();
            self.text.extend_from_slice(&args[done..place.start]);
            let num = self.attachments.len().to_string();
            self.text.extend_from_slice(num.as_bytes());
            self.attachments
                .push(Some(attachment.ok_or(EncodeError(Reason::Taken))?));
            done = place.end;
        }
        self.text.extend_from_slice(&args[done..]);
        Ok(())
    }

    /// Closes the array.
    ///
    /// Fails if there are attachments, and a value that looks like a placeholder, as a client's
    /// value may. The receiver would read it as an attachment, or close the connection.
    #[inline]
    pub(in crate::protocol) fn finish(mut self) -> Result<Payload, EncodeError> {
        self.text.push(b']');
        if self.text.len() > MAX_LEN {
            return Err(EncodeError::TOO_LONG);
        }
        if !self.attachments.is_empty() {
            check_placeholders(&self.text[self.json..], self.attachments.len())
                .map_err(|_| EncodeError(Reason::Placeholder))?;
        }
        let mut payload = Payload::from_written(self.text, self.json, self.attachments);
        payload.uncompressed = self.uncompressed;
        Ok(payload)
    }

    #[inline]
    fn write<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), EncodeError> {
        let formatter = Attach(&mut self.attachments);
        let mut serializer = serde_json::Serializer::with_formatter(&mut self.text, formatter);
        value.serialize(&mut serializer).map_err(EncodeError::from)
    }

    /// Calls `write`, and removes its output if it fails. The caller may continue after the error,
    /// so no piece of an argument must stay.
    #[inline]
    fn or_undo(
        &mut self,
        write: impl FnOnce(&mut Self) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        let (len, attached) = (self.text.len(), self.attachments.len());
        write(self).inspect_err(|_| {
            self.text.truncate(len);
            self.attachments.truncate(attached);
        })
    }

    #[inline]
    fn separate(&mut self) {
        if !self.is_empty_before(self.text.len()) {
            self.text.push(b',');
        }
    }

    /// Returns whether no argument stands before `at`. No value ends with an opening bracket, so a
    /// bracket there is the first byte.
    #[inline]
    fn is_empty_before(&self, at: usize) -> bool {
        self.text[at - 1] == b'['
    }
}

impl fmt::Debug for ArgsWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArgsWriter")
            .field("bytes", &(self.text.len() - self.json))
            .field("attachments", &self.attachments.len())
            .finish()
    }
}

/// Returns the text after the first argument. `tail` ends with the closing bracket of the
/// arguments, which is left out.
pub(super) fn after_first(tail: &[u8]) -> &[u8] {
    let mut scanner = Scanner::new(tail, 0);
    if scanner.peek() == Some(b']') || scanner.value().is_err() {
        return b"";
    }
    match scanner.next() {
        Some(b',') => &tail[scanner.position()..tail.len() - 1],
        _ => b"",
    }
}

/// A formatter that writes JSON without spaces, and placeholders for bytes.
struct Attach<'a>(&'a mut Vec<Option<Bytes>>);

impl Formatter for Attach<'_> {
    fn write_byte_array<W>(&mut self, writer: &mut W, bytes: &[u8]) -> io::Result<()>
    where
        W: ?Sized + io::Write,
    {
        let num = self.0.len();
        self.0.push(Some(Bytes::copy_from_slice(bytes)));
        write!(writer, r#"{{"_placeholder":true,"num":{num}}}"#)
    }
}

/// An event or an acknowledgement cannot be sent.
///
/// A handler may return this error: the server logs it, and the client gets the error reply
/// "internal error".
#[derive(Debug)]
pub struct EncodeError(Reason);

impl EncodeError {
    pub(in crate::protocol) const RESERVED: Self = Self(Reason::Reserved);
    pub(crate) const TOO_LONG: Self = Self(Reason::TooLong);
}

#[derive(Debug)]
enum Reason {
    Json(serde_json::Error),
    NotAList,
    Reserved,
    TooLong,
    Taken,
    Placeholder,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Reason::Json(_) => "value cannot be written as JSON",
            Reason::NotAList => "`Args` holds neither a tuple nor an array nor a list",
            Reason::Reserved => "name of the event is reserved",
            Reason::TooLong => "value is too long",
            Reason::Taken => "attachment of the arguments was read before",
            Reason::Placeholder => "value looks like a placeholder for an attachment",
        })
    }
}

impl error::Error for EncodeError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match &self.0 {
            Reason::Json(error) => Some(error),
            Reason::NotAList
            | Reason::Reserved
            | Reason::TooLong
            | Reason::Taken
            | Reason::Placeholder => None,
        }
    }
}

impl From<serde_json::Error> for EncodeError {
    fn from(error: serde_json::Error) -> Self {
        Self(Reason::Json(error))
    }
}
