//! MessagePack: a packet is one binary message, a map.
//!
//! ```text
//! {"type": 2, "data": ["hello", 1], "id": 12, "nsp": "/"}
//! ```
//!
//! The measure is `socket.io-msgpack-parser` for Node, which uses `notepack.io`. What is read
//! becomes the JSON of a [`Payload`], so that handlers need not know which parser it was:
//!
//! | MessagePack                                | JSON                                     |
//! |--------------------------------------------|------------------------------------------|
//! | nil, booleans, numbers, arrays, maps       | the same                                 |
//! | a float that is not finite                 | `null`, as `JSON.stringify` makes of it  |
//! | a text; a byte in it that is not UTF-8     | the same; U+FFFD                         |
//! | a key that is nil, a boolean or a number   | its JSON, in quotes                      |
//! | bytes, an `ArrayBuffer` of notepack        | an attachment                            |
//! | `undefined` of notepack                    | `null`                                   |
//! | a `Date` of notepack                       | the text that `Date.toJSON` makes        |
//! | an extension that notepack does not know   | `[type, attachment]`, as notepack does   |
//!
//! Written is the shortest form of each value, as by notepack. Node's parser lets the name of an
//! event be anything; here it is checked as in JSON.

use std::io::Write;
use std::mem;

use bytes::Bytes;
use rmp::{Marker, encode};
use serde::Serialize;

use super::scan::{Invalid, MAX_DEPTH, Placeholder, Scanner, parse_num, placeholders};
use super::{DecodeError, Decoder, Encoded, Kind, NamespaceName, Packet, Parser, Payload};
use crate::engine::Message;

/// Writes and reads packets as MessagePack, as `socket.io-msgpack-parser` 3 for JavaScript and
/// `serializer="msgpack"` of `python-socketio` do.
///
/// Bytes go along in the message, without attachments after it. Numbers keep their kind, and
/// handlers see the same values as with the [`JsonParser`](super::JsonParser).
///
/// ```
/// use tower_socketio::protocol::MsgpackParser;
/// use tower_socketio::{Namespace, SocketIo};
///
/// let (layer, io) = SocketIo::builder()
///     .namespace("/", Namespace::new())
///     .parser(MsgpackParser::default())
///     .build();
/// ```
///
/// Values may be nested as deeply as in JSON, 127 levels. What is read has at most seven times the
/// bytes of the message, and about a hundred more for each value of bytes in it.
#[derive(Clone, Debug)]
pub struct MsgpackParser {
    max_attachments: usize,
}

impl MsgpackParser {
    /// Bounds how many values of bytes a received packet may hold; 10 000 by default.
    ///
    /// Node's parser has no such limit. More let a small message take more memory; fewer refuse
    /// packets with that many.
    #[must_use]
    pub const fn with_max_attachments(mut self, count: usize) -> Self {
        self.max_attachments = count;
        self
    }
}

impl Default for MsgpackParser {
    fn default() -> Self {
        Self {
            max_attachments: 10_000,
        }
    }
}

impl Parser for MsgpackParser {
    fn encode(&self, mut packet: Packet) -> Encoded {
        let attachments = match packet.kind {
            Kind::Event | Kind::Ack => mem::take(&mut packet.payload.attachments),
            Kind::Connect | Kind::Disconnect | Kind::ConnectError => Vec::new(),
        };
        // What was read is gone, and goes out empty. `RawArgs` are refused before they come here.
        let attachments: Vec<_> = attachments
            .into_iter()
            .map(Option::unwrap_or_default)
            .collect();
        Message::Binary(write_packet(&packet, &attachments).into()).into()
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(MsgpackDecoder {
            max_attachments: self.max_attachments,
            namespace: NamespaceName::MAIN,
        })
    }
}

#[derive(Debug)]
struct MsgpackDecoder {
    max_attachments: usize,
    /// The last that was not the main one: the next packet is most likely for the same.
    namespace: NamespaceName,
}

impl Decoder for MsgpackDecoder {
    fn decode(&mut self, message: Message) -> Result<Option<Packet>, DecodeError> {
        let Message::Binary(message) = message else {
            return Err(DecodeError::new("text in place of MessagePack"));
        };
        let fields = Fields::read(&message)?;
        let (json, attachments) = match fields.data {
            Some(data) => ToJson::new(&message, self.max_attachments).convert(data)?,
            None => (Vec::new(), Vec::new()),
        };
        Ok(Some(Packet {
            namespace: self.namespace(fields.namespace)?,
            kind: fields.kind,
            ack: fields.ack,
            payload: Payload::from_json(fields.kind, json.into(), attachments)?,
        }))
    }

    fn is_partial(&self) -> bool {
        false
    }
}

impl MsgpackDecoder {
    fn namespace(&mut self, name: &[u8]) -> Result<NamespaceName, DecodeError> {
        const MAX_LEN: usize = 255;

        let name =
            std::str::from_utf8(name).map_err(|_| DecodeError::new("namespace is not UTF-8"))?;
        if name.len() > MAX_LEN {
            return Err(DecodeError::limit("namespace is too long"));
        }
        if name == "/" {
            return Ok(NamespaceName::MAIN);
        }
        if self.namespace != *name {
            self.namespace = name.into();
        }
        Ok(self.namespace.clone())
    }
}

/// What a packet's map holds.
struct Fields<'a> {
    kind: Kind,
    namespace: &'a [u8],
    ack: Option<u64>,
    /// One value; none if it is nil or `undefined`.
    data: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    fn read(message: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader { rest: message };
        let Token::Map(len) = reader.next()? else {
            return Err(DecodeError::new("packet is not a map"));
        };
        let (mut kind, mut namespace, mut ack, mut data) = (None, None, None, None);
        for _ in 0..len {
            let Token::Text(key) = reader.next()? else {
                return Err(DecodeError::new("packet has a key that is not text"));
            };
            let start = reader.rest;
            let value = reader.next()?;
            reader.skip_rest(value)?;
            let absent = matches!(value, Token::Nil | Token::Undefined);
            match key {
                b"type" => kind = kind_of(value),
                b"nsp" => namespace = text_of(value),
                b"id" if absent => ack = None,
                b"id" => ack = Some(ack_of(value)?),
                b"data" => data = (!absent).then(|| &start[..start.len() - reader.rest.len()]),
                _ => {}
            }
        }
        if !reader.rest.is_empty() {
            return Err(DecodeError::new("bytes after the packet"));
        }
        Ok(Self {
            kind: kind.ok_or(DecodeError::new("unknown packet type"))?,
            namespace: namespace.ok_or(DecodeError::new("packet has no namespace"))?,
            ack,
            data,
        })
    }
}

fn kind_of(token: Token<'_>) -> Option<Kind> {
    match token {
        Token::Unsigned(number) => Kind::from_number(number),
        _ => None,
    }
}

const fn text_of(token: Token<'_>) -> Option<&[u8]> {
    match token {
        Token::Text(text) => Some(text),
        _ => None,
    }
}

const fn ack_of(token: Token<'_>) -> Result<u64, DecodeError> {
    match token {
        Token::Unsigned(ack) => Ok(ack),
        _ => Err(DecodeError::new("acknowledgement is not a number")),
    }
}

/// Steps through MessagePack.
struct Reader<'a> {
    rest: &'a [u8],
}

/// A scalar, or the beginning of an array or a map.
#[derive(Clone, Copy)]
enum Token<'a> {
    Nil,
    Undefined,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(&'a [u8]),
    Bytes(&'a [u8]),
    /// Milliseconds since 1970.
    Date(i64),
    Extension(i8, &'a [u8]),
    Array(u32),
    Map(u32),
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Token<'a>, DecodeError> {
        let [marker] = self.array()?;
        Ok(match Marker::from_u8(marker) {
            Marker::Null => Token::Nil,
            Marker::False => Token::Bool(false),
            Marker::True => Token::Bool(true),
            Marker::FixPos(number) => Token::Unsigned(number.into()),
            Marker::FixNeg(number) => Token::Signed(number.into()),
            Marker::U8 => Token::Unsigned(u8::from_be_bytes(self.array()?).into()),
            Marker::U16 => Token::Unsigned(u16::from_be_bytes(self.array()?).into()),
            Marker::U32 => Token::Unsigned(u32::from_be_bytes(self.array()?).into()),
            Marker::U64 => Token::Unsigned(u64::from_be_bytes(self.array()?)),
            Marker::I8 => Self::integer(i8::from_be_bytes(self.array()?).into()),
            Marker::I16 => Self::integer(i16::from_be_bytes(self.array()?).into()),
            Marker::I32 => Self::integer(i32::from_be_bytes(self.array()?).into()),
            Marker::I64 => Self::integer(i64::from_be_bytes(self.array()?)),
            Marker::F32 => Token::Float(f32::from_be_bytes(self.array()?).into()),
            Marker::F64 => Token::Float(f64::from_be_bytes(self.array()?)),
            Marker::FixStr(len) => Token::Text(self.take(len.into())?),
            Marker::Str8 => Token::Text(self.sized::<1>()?),
            Marker::Str16 => Token::Text(self.sized::<2>()?),
            Marker::Str32 => Token::Text(self.sized::<4>()?),
            Marker::Bin8 => Token::Bytes(self.sized::<1>()?),
            Marker::Bin16 => Token::Bytes(self.sized::<2>()?),
            Marker::Bin32 => Token::Bytes(self.sized::<4>()?),
            Marker::FixArray(len) => Token::Array(len.into()),
            Marker::Array16 => Token::Array(self.len::<2>()?),
            Marker::Array32 => Token::Array(self.len::<4>()?),
            Marker::FixMap(len) => Token::Map(len.into()),
            Marker::Map16 => Token::Map(self.len::<2>()?),
            Marker::Map32 => Token::Map(self.len::<4>()?),
            Marker::FixExt1 => match self.extension(1)? {
                (0, _) => Token::Undefined,
                (kind, data) => Token::Extension(kind, data),
            },
            Marker::FixExt8 => match self.extension(8)? {
                (0, &[a, b, c, d, e, f, g, h]) => {
                    Token::Date(i64::from_be_bytes([a, b, c, d, e, f, g, h]))
                }
                (kind, data) => Token::Extension(kind, data),
            },
            Marker::FixExt2 => self.fixed_extension(2)?,
            Marker::FixExt4 => self.fixed_extension(4)?,
            Marker::FixExt16 => self.fixed_extension(16)?,
            Marker::Ext8 => self.sized_extension::<1>()?,
            Marker::Ext16 => self.sized_extension::<2>()?,
            Marker::Ext32 => self.sized_extension::<4>()?,
            Marker::Reserved => return Err(DecodeError::new("message is not MessagePack")),
        })
    }

    /// Steps over what belongs to a token: the elements of an array or a map, however deep. They
    /// are counted, so that depth costs nothing.
    fn skip_rest(&mut self, token: Token<'_>) -> Result<(), DecodeError> {
        let mut left = token.values();
        while left > 0 {
            left += self.next()?.values();
            left -= 1;
        }
        Ok(())
    }

    const fn integer(number: i64) -> Token<'a> {
        if number < 0 {
            return Token::Signed(number);
        }
        Token::Unsigned(number.unsigned_abs())
    }

    fn fixed_extension(&mut self, len: usize) -> Result<Token<'a>, DecodeError> {
        let (kind, data) = self.extension(len)?;
        Ok(Token::Extension(kind, data))
    }

    /// One with a length: an `ArrayBuffer` if it is of type 0.
    fn sized_extension<const N: usize>(&mut self) -> Result<Token<'a>, DecodeError> {
        let len = self.len::<N>()? as usize;
        Ok(match self.extension(len)? {
            (0, data) => Token::Bytes(data),
            (kind, data) => Token::Extension(kind, data),
        })
    }

    fn extension(&mut self, len: usize) -> Result<(i8, &'a [u8]), DecodeError> {
        let kind = i8::from_be_bytes(self.array()?);
        Ok((kind, self.take(len)?))
    }

    /// Bytes after their length, of `N` bytes.
    fn sized<const N: usize>(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.len::<N>()?;
        self.take(len as usize)
    }

    fn len<const N: usize>(&mut self) -> Result<u32, DecodeError> {
        let bytes: [u8; N] = self.array()?;
        Ok(bytes
            .iter()
            .fold(0, |len, &byte| len << 8 | u32::from(byte)))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (array, rest) = self.rest.split_first_chunk().ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(*array)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(bytes)
    }
}

impl Token<'_> {
    /// How many values belong to it, keys among them.
    const fn values(self) -> u64 {
        match self {
            Self::Array(len) => len as u64,
            Self::Map(len) => 2 * len as u64,
            _ => 0,
        }
    }
}

const TRUNCATED: DecodeError = DecodeError::new("message ends too early");

/// Makes JSON and attachments of MessagePack.
struct ToJson<'a> {
    message: &'a Bytes,
    max_attachments: usize,
    json: Vec<u8>,
    attachments: Vec<Bytes>,
    open: Vec<Open>,
}

/// An array or a map that is open.
struct Open {
    map: bool,
    /// Its values, keys among them.
    values: u64,
    done: u64,
}

impl<'a> ToJson<'a> {
    fn new(message: &'a Bytes, max_attachments: usize) -> Self {
        Self {
            message,
            max_attachments,
            json: Vec::with_capacity(message.len().min(1024)),
            attachments: Vec::new(),
            open: Vec::new(),
        }
    }

    /// Takes one value.
    fn convert(mut self, data: &[u8]) -> Result<(Vec<u8>, Vec<Bytes>), DecodeError> {
        let mut reader = Reader { rest: data };
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

    /// Writes what stands before a value, and tells whether that is a key.
    fn separate(&mut self) -> bool {
        let Some(open) = self.open.last_mut() else {
            return false;
        };
        let is_key = open.map && open.done % 2 == 0;
        if open.done > 0 {
            let colon = open.map && !is_key;
            self.json.push(if colon { b':' } else { b',' });
        }
        open.done += 1;
        is_key
    }

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
            Token::Extension(kind, data) => {
                let _ = write!(self.json, "[{kind},");
                self.attach(data)?;
                self.json.push(b']');
            }
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
        // Memory takes all that is written, and a scalar can be written as JSON.
        let _ = serde_json::to_writer(&mut self.json, value);
    }

    fn attach(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        let num = self.attachments.len();
        if num == self.max_attachments {
            return Err(DecodeError::limit("too many attachments"));
        }
        // A small part does not keep the whole message in memory.
        self.attachments
            .push(if bytes.len() >= self.message.len() / 2 {
                self.message.slice_ref(bytes)
            } else {
                Bytes::copy_from_slice(bytes)
            });
        let _ = write!(self.json, r#"{{"_placeholder":true,"num":{num}}}"#);
        Ok(())
    }

    fn open(&mut self, map: bool, values: u64) -> Result<(), DecodeError> {
        if self.open.len() == MAX_DEPTH as usize {
            return Err(Invalid::Depth.into());
        }
        self.json.push(if map { b'{' } else { b'[' });
        self.open.push(Open {
            map,
            values,
            done: 0,
        });
        Ok(())
    }

    /// Closes what is complete.
    fn close(&mut self) {
        while let Some(open) = self.open.last() {
            if open.done < open.values {
                return;
            }
            self.json.push(if open.map { b'}' } else { b']' });
            self.open.pop();
        }
    }
}

/// What `Date.toJSON` makes of it: nothing if it is beyond the dates of JavaScript.
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

/// The year, month and day of a day counted from 1970.
///
/// A year begins with March, so that the day that may be missing is its last, and an era is the
/// 400 years after which the calendar repeats.
/// [How it is derived](https://howardhinnant.github.io/date_algorithms.html#civil_from_days).
const fn civil(days: i64) -> (i64, i64, i64) {
    const ERA: i64 = 146_097;
    const TO_MARCH_0000: i64 = 719_468;

    let days = days + TO_MARCH_0000;
    let day_of_era = days.rem_euclid(ERA);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = year_of_era + days.div_euclid(ERA) * 400;
    if month < 10 {
        return (year, month + 3, day);
    }
    (year + 1, month - 9, day)
}

fn write_packet(packet: &Packet, attachments: &[Bytes]) -> Vec<u8> {
    /// The markers, keys, type and acknowledgement.
    const HEAD: usize = 48;

    let json = packet.payload.json();
    let bytes: usize = attachments.iter().map(Bytes::len).sum();
    let mut out = Vec::with_capacity(HEAD + packet.namespace.len() + json.len() + bytes);

    let fields = 2 + u8::from(!json.is_empty()) + u8::from(packet.ack.is_some());
    out.push(Marker::FixMap(fields).to_u8());
    write_text(&mut out, "type");
    write_unsigned(&mut out, packet.kind as u64);
    if !json.is_empty() {
        write_text(&mut out, "data");
        write_data(&mut out, json, attachments);
    }
    if let Some(ack) = packet.ack {
        write_text(&mut out, "id");
        write_unsigned(&mut out, ack);
    }
    write_text(&mut out, "nsp");
    write_text(&mut out, &packet.namespace);
    out
}

fn write_data(out: &mut Vec<u8>, json: &[u8], attachments: &[Bytes]) {
    let start = out.len();
    if FromJson::new(out, json, attachments).convert().is_err() {
        // Not valid JSON: a value has tricked serde_json. No half of it leaves.
        out.truncate(start);
        out.push(Marker::Null.to_u8());
    }
}

/// Makes MessagePack of JSON, with attachments in the places of their placeholders.
///
/// The depth is not bounded, for what is written is the server's own.
struct FromJson<'a> {
    out: &'a mut Vec<u8>,
    json: &'a [u8],
    scanner: Scanner<'a>,
    attachments: &'a [Bytes],
    open: Vec<Unfinished>,
}

/// An array or an object that is open.
struct Unfinished {
    /// Where its marker is.
    start: usize,
    /// How many it has so far, keys among them.
    values: u32,
}

impl<'a> FromJson<'a> {
    fn new(out: &'a mut Vec<u8>, json: &'a [u8], attachments: &'a [Bytes]) -> Self {
        Self {
            out,
            json,
            scanner: Scanner::new(json, 0),
            attachments,
            open: Vec::new(),
        }
    }

    fn convert(mut self) -> Result<(), Invalid> {
        for place in self.places()? {
            self.copy(place.object.start)?;
            self.count();
            self.attachment(&place)?;
        }
        self.copy(self.json.len())
    }

    /// The outermost placeholders, from left to right.
    fn places(&self) -> Result<Vec<Placeholder>, Invalid> {
        if self.attachments.is_empty() {
            return Ok(Vec::new());
        }
        let mut places = placeholders(self.json)?;
        places.sort_unstable_by_key(|place| place.object.start);
        places.dedup_by(|inner, outer| inner.object.start < outer.object.end);
        Ok(places)
    }

    /// Writes the bytes that a placeholder stands for, and steps over it.
    fn attachment(&mut self, place: &Placeholder) -> Result<(), Invalid> {
        let num = parse_num(&self.json[place.num.clone()]).ok_or(Invalid::Syntax)?;
        let bytes = self.attachments.get(num).ok_or(Invalid::Syntax)?;
        written(encode::write_bin(self.out, bytes));
        self.scanner = Scanner::new(self.json, place.object.end);
        Ok(())
    }

    /// Writes what stands before `end`.
    fn copy(&mut self, end: usize) -> Result<(), Invalid> {
        loop {
            let next = self.scanner.peek();
            let start = self.scanner.position();
            let Some(byte) = next.filter(|_| start < end) else {
                return Ok(());
            };
            self.scanner.next();
            match byte {
                b',' | b':' => {}
                b']' | b'}' => self.close(byte == b'}')?,
                _ => {
                    self.count();
                    self.value(byte, start)?;
                }
            }
        }
    }

    fn count(&mut self) {
        if let Some(outer) = self.open.last_mut() {
            outer.values += 1;
        }
    }

    /// Writes the value that begins with this byte, up to an opening bracket.
    fn value(&mut self, first: u8, start: usize) -> Result<(), Invalid> {
        match first {
            b'[' | b'{' => {
                self.open.push(Unfinished {
                    start: self.out.len(),
                    values: 0,
                });
                self.out.push(Marker::Reserved.to_u8());
            }
            b'"' => {
                let escaped = self.scanner.string()?;
                write_string(
                    self.out,
                    &self.json[start..self.scanner.position()],
                    escaped,
                );
            }
            b't' => self.literal(b"rue", Marker::True)?,
            b'f' => self.literal(b"alse", Marker::False)?,
            b'n' => self.literal(b"ull", Marker::Null)?,
            first => {
                self.scanner.number(first)?;
                write_number(self.out, &self.json[start..self.scanner.position()]);
            }
        }
        Ok(())
    }

    fn literal(&mut self, rest: &[u8], marker: Marker) -> Result<(), Invalid> {
        self.scanner.literal(rest)?;
        self.out.push(marker.to_u8());
        Ok(())
    }

    /// Writes the marker, now that it is known how many values there are. It has a byte; for more
    /// than 15 values the rest moves on.
    fn close(&mut self, object: bool) -> Result<(), Invalid> {
        let Unfinished { start, values } = self.open.pop().ok_or(Invalid::Syntax)?;
        let mut marker = Vec::new();
        written(if object {
            encode::write_map_len(&mut marker, values / 2)
        } else {
            encode::write_array_len(&mut marker, values)
        });
        match marker[..] {
            [byte] => self.out[start] = byte,
            _ => drop(self.out.splice(start..=start, marker)),
        }
        Ok(())
    }
}

/// Writes a JSON string.
fn write_string(out: &mut Vec<u8>, quoted: &[u8], escaped: bool) {
    let plain = &quoted[1..quoted.len() - 1];
    if !escaped {
        return write_text(out, &String::from_utf8_lossy(plain));
    }
    // As bytes: half of a surrogate pair may have been escaped, which is no text.
    let text: Bytes = serde_json::from_slice(quoted).unwrap_or_default();
    write_text(out, &String::from_utf8_lossy(&text));
}

/// Writes a JSON number: as an integer if it is written as one and has at most 64 bits.
fn write_number(out: &mut Vec<u8>, digits: &[u8]) {
    let digits = String::from_utf8_lossy(digits);
    if let Ok(number) = digits.parse::<u64>() {
        write_unsigned(out, number);
    } else if let Ok(number) = digits.parse::<i64>() {
        written(encode::write_sint(out, number));
    } else {
        written(encode::write_f64(out, digits.parse().unwrap_or(f64::NAN)));
    }
}

fn write_unsigned(out: &mut Vec<u8>, number: u64) {
    written(encode::write_uint(out, number));
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    written(encode::write_str(out, text));
}

/// Memory takes all that is written.
fn written<T, E>(result: Result<T, E>) {
    drop(result.ok());
}

#[cfg(test)]
mod tests;
