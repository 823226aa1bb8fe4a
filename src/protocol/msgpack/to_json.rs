//! Converts MessagePack to JSON and attachments.

use std::io::Write;

use bytes::Bytes;
use serde::Serialize;

use super::reader::{Reader, Token};
use crate::calendar::civil;
use crate::protocol::DecodeError;
use crate::protocol::scan::{Invalid, MAX_DEPTH};

/// A conversion of MessagePack to JSON and attachments.
pub(super) struct ToJson<'a> {
    message: &'a Bytes,
    max_attachments: usize,
    max_depth: usize,
    /// Whether an extension of type −1 is a timestamp.
    timestamps: bool,
    json: Vec<u8>,
    attachments: Vec<Bytes>,
    open: Vec<OpenContainer>,
}

/// An open array or map.
struct OpenContainer {
    is_map: bool,
    /// Whether no value was written yet.
    is_new: bool,
    /// The number of values that are not written yet, including keys.
    left: u64,
}

impl<'a> ToJson<'a> {
    pub(super) fn new(message: &'a Bytes, max_attachments: usize) -> Self {
        Self {
            message,
            max_attachments,
            max_depth: MAX_DEPTH as usize,
            timestamps: false,
            json: Vec::with_capacity(message.len().min(1024)),
            attachments: Vec::new(),
            open: Vec::new(),
        }
    }

    /// Reads extensions of type −1 as timestamps, as the MessagePack specification defines them.
    #[cfg(feature = "wire")]
    pub(super) fn timestamps(mut self) -> Self {
        self.timestamps = true;
        self
    }

    /// Accepts `more` levels than an event may have.
    #[cfg(feature = "wire")]
    pub(super) fn deeper(mut self, more: usize) -> Self {
        self.max_depth += more;
        self
    }

    /// Converts the value that `data` begins with.
    pub(super) fn convert(mut self, data: &[u8]) -> Result<(Vec<u8>, Vec<Bytes>), DecodeError> {
        let mut reader = Reader::new(data);
        loop {
            let is_key = self.separate();
            let token = reader.next()?;
            if is_key {
                self.key(token)?;
            } else {
                self.value(token)?;
            }
            self.close();
            if self.open.is_empty() {
                return Ok((self.json, self.attachments));
            }
        }
    }

    /// Writes the comma or colon before the next value, and returns whether the value is a key.
    fn separate(&mut self) -> bool {
        let Some(open) = self.open.last_mut() else {
            return false;
        };
        // A map has as many keys as values.
        let is_key = open.is_map && open.left % 2 == 0;
        if !std::mem::take(&mut open.is_new) {
            let colon = open.is_map && !is_key;
            self.json.push(if colon { b':' } else { b',' });
        }
        open.left -= 1;
        is_key
    }

    #[inline]
    fn value(&mut self, token: Token<'_>) -> Result<(), DecodeError> {
        match token {
            Token::Nil | Token::Undefined => self.scalar(&()),
            Token::Bool(value) => self.scalar(&value),
            Token::Unsigned(number) => self.scalar(&number),
            Token::Signed(number) => self.scalar(&number),
            Token::Float(number) => self.scalar(&number),
            Token::Text(text) => self.scalar(&String::from_utf8_lossy(text)),
            Token::Date(millis) => self.scalar(&date(millis)),
            Token::Bytes(bytes) => self.attach(bytes)?,
            Token::Extension(-1, data) if self.timestamps => {
                self.scalar(&timestamp(data).and_then(date))
            }
            Token::Extension(kind, data) => {
                let _ = write!(self.json, "[{kind},");
                self.attach(data)?;
                self.json.push(b']');
            }
            Token::Array(0) => self.empty(*b"[]")?,
            Token::Map(0) => self.empty(*b"{}")?,
            Token::Array(_) => self.open(false, token.values())?,
            Token::Map(_) => self.open(true, token.values())?,
        }
        Ok(())
    }

    fn key(&mut self, token: Token<'_>) -> Result<(), DecodeError> {
        match token {
            Token::Text(_) => self.value(token),
            Token::Nil
            | Token::Bool(_)
            | Token::Unsigned(_)
            | Token::Signed(_)
            | Token::Float(_) => {
                self.json.push(b'"');
                self.value(token)?;
                self.json.push(b'"');
                Ok(())
            }
            _ => Err(DecodeError::new("key of a map is not text")),
        }
    }

    fn scalar(&mut self, value: &(impl Serialize + ?Sized)) {
        // A write to memory cannot fail, and a scalar can always be written as JSON.
        let _ = serde_json::to_writer(&mut self.json, value);
    }

    fn attach(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        let num = self.attachments.len();
        if num == self.max_attachments {
            return Err(DecodeError::limit("too many attachments"));
        }
        // A small attachment is copied, so that it does not keep the whole message in memory.
        self.attachments
            .push(if bytes.len() >= self.message.len() / 2 {
                self.message.slice_ref(bytes)
            } else {
                Bytes::copy_from_slice(bytes)
            });
        let _ = write!(self.json, r#"{{"_placeholder":true,"num":{num}}}"#);
        Ok(())
    }

    /// Writes an empty array or map.
    fn empty(&mut self, brackets: [u8; 2]) -> Result<(), DecodeError> {
        self.check_depth()?;
        self.json.extend_from_slice(&brackets);
        Ok(())
    }

    fn check_depth(&self) -> Result<(), DecodeError> {
        match self.open.len() < self.max_depth {
            true => Ok(()),
            false => Err(Invalid::Depth.into()),
        }
    }

    fn open(&mut self, is_map: bool, values: u64) -> Result<(), DecodeError> {
        self.check_depth()?;
        self.json.push(if is_map { b'{' } else { b'[' });
        self.open.push(OpenContainer {
            is_map,
            is_new: true,
            left: values,
        });
        Ok(())
    }

    /// Closes the arrays and maps that are complete.
    fn close(&mut self) {
        while let Some(open) = self.open.last() {
            if open.left > 0 {
                return;
            }
            self.json.push(if open.is_map { b'}' } else { b']' });
            self.open.pop();
        }
    }
}

/// Returns the milliseconds since 1970 of a timestamp of 4, 8 or 12 bytes.
fn timestamp(data: &[u8]) -> Option<i64> {
    let (seconds, nanos) = match *data {
        [a, b, c, d] => (u32::from_be_bytes([a, b, c, d]).into(), 0),
        [a, b, c, d, e, f, g, h] => {
            let both = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
            ((both & 0x3_ffff_ffff) as i64, both >> 34)
        }
        [a, b, c, d, ref seconds @ ..] => (
            i64::from_be_bytes(seconds.try_into().ok()?),
            u32::from_be_bytes([a, b, c, d]).into(),
        ),
        _ => return None,
    };
    let millis = i64::try_from(nanos / 1_000_000).ok()?;
    seconds.checked_mul(1000)?.checked_add(millis)
}

/// Returns a time as `Date.toJSON` writes it, or `None` if JavaScript has no such date.
fn date(millis: i64) -> Option<String> {
    const DAY: i64 = 86_400_000;
    const MAX: u64 = 100_000_000 * DAY as u64;

    if millis.unsigned_abs() > MAX {
        return None;
    }
    let (year, month, day) = civil(millis.div_euclid(DAY));
    let rest = millis.rem_euclid(DAY);
    let (hours, minutes) = (rest / 3_600_000, rest / 60_000 % 60);
    let (seconds, millis) = (rest / 1000 % 60, rest % 1000);
    let year = match year {
        0..=9999 => format!("{year:04}"),
        _ => format!("{year:+07}"),
    };
    Some(format!(
        "{year}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{millis:03}Z"
    ))
}
