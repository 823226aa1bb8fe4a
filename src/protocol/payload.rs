//! The payload of a packet, in the form that all parsers share.
//!
//! ```text
//!               2/chat,7["say",{"id":1},{"_placeholder":true,"num":0}]    + [attachment 0]
//!  └ headroom ┘└─ head ─┘│      └ args
//!                        └ json
//! ```
//!
//! A payload to send has room in front for the head and the frame header of its message, so that
//! writing them does not move the JSON. A received payload is the whole message, in which the JSON
//! begins at `json`.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::Serialize;

use super::placeholder::{check_placeholders, parse_num, placeholders, regularize};
use super::scan::{Scanner, replace_lone_surrogates};
use super::{ArgsWriter, DecodeError, EncodeError, IntoArgs, Kind, RawArgs};

/// The payload of a packet: JSON text, and the attachments for the placeholders in it.
///
/// | kind                       | JSON                       |
/// |----------------------------|----------------------------|
/// | `Event`                    | `["name",arg,…]`           |
/// | `Ack`                      | `[arg,…]`                  |
/// | `Connect`, `ConnectError`  | `{…}`, or none: [`Payload::default`] |
/// | `Disconnect`               | none                       |
#[derive(Clone, Default)]
pub struct Payload {
    /// At most [`MAX_LEN`] bytes, so that a position in it fits in four bytes. A payload is moved
    /// often, and so stays small.
    text: Buffer,
    /// The start of the JSON in `text`. The JSON ends where `text` ends. If the JSON is empty there
    /// is no payload.
    json: u32,
    name: Name,
    /// The start of the first argument. Without arguments, the closing bracket. The end of `text`
    /// if the JSON is not an array.
    args: u32,
    /// An attachment is `None` after an argument that holds it was read.
    pub(super) attachments: Vec<Option<Bytes>>,
    /// Whether the packet is sent uncompressed.
    pub(crate) uncompressed: bool,
    /// Whether the text may contain escapes of lone surrogates, or placeholders with other keys
    /// than `_placeholder` and `num` in this order, or objects that begin like one. The deserializers
    /// cannot read them; [`Payload::readable`] replaces them.
    may_be_irregular: bool,
}

/// The text of a payload, owned and writable, or shared.
#[derive(Clone)]
enum Buffer {
    Own(Vec<u8>),
    Shared(Bytes),
}

/// The name of an event.
#[derive(Clone, Default)]
enum Name {
    #[default]
    None,
    /// The start and the length of the name in the text.
    At(u32, u32),
    /// The name itself, because it has escapes in the JSON.
    Unescaped(Box<Box<str>>),
}

impl Name {
    /// Creates a name that stands in the text of a payload.
    const fn at(at: usize, len: usize) -> Self {
        Self::At(at as u32, len as u32)
    }

    fn unescaped(name: &str) -> Self {
        Self::Unescaped(Box::new(name.into()))
    }

    fn find<'a>(&'a self, text: &'a [u8]) -> Option<&'a [u8]> {
        match self {
            Self::None => None,
            &Self::At(at, len) => Some(&text[at as usize..][..len as usize]),
            Self::Unescaped(name) => Some(name.as_bytes()),
        }
    }
}

/// Writing.
impl Payload {
    /// The free bytes in front of the JSON, in addition to the length of the namespace's name.
    ///
    /// They hold a WebSocket header, the Engine.IO type `4`, the packet's type, a comma, a count of
    /// attachments up to 99, and the id of an acknowledgement. More attachments cost a copy.
    pub const HEADROOM: usize = 36;

    /// Creates the payload of an event from its name and its arguments.
    ///
    /// `namespace_len` is the length of the namespace's name. If the packet is then sent to a
    /// namespace with a longer name, that costs a copy.
    ///
    /// # Errors
    ///
    /// Fails if an argument cannot be written as JSON, if the JSON is longer than 2 GiB, or if the
    /// name is reserved. The receiver of a reserved name would close the connection.
    pub fn event(
        name: &str,
        namespace_len: usize,
        args: impl IntoArgs,
    ) -> Result<Self, EncodeError> {
        if is_reserved(name.as_bytes()) {
            return Err(EncodeError::RESERVED);
        }
        let headroom = Self::HEADROOM + namespace_len;
        // Two quotes and a comma.
        let quoted = name.len() + 3;
        let mut out = ArgsWriter::new(headroom, quoted + args.len_hint());
        out.push(name)?;
        let end = out.len();
        args.into_args(&mut out)?;

        let mut payload = out.finish()?;
        // After the comma, if there is one.
        payload.args = (end + 1).min(payload.text.len() - 1) as u32;
        let start = headroom + 2;
        payload.name = if end - 1 - start == name.len() {
            Name::at(start, name.len())
        } else {
            Name::unescaped(name)
        };
        Ok(payload)
    }

    /// Creates the payload of an acknowledgement from its arguments.
    ///
    /// For `namespace_len` see [`Payload::event`].
    ///
    /// # Errors
    ///
    /// Fails if an argument cannot be written as JSON, or if the JSON is longer than 2 GiB.
    #[inline]
    pub fn args(namespace_len: usize, args: impl IntoArgs) -> Result<Self, EncodeError> {
        let mut out = ArgsWriter::new(Self::HEADROOM + namespace_len, args.len_hint());
        args.into_args(&mut out)?;
        out.finish()
    }

    /// Creates the payload of a `CONNECT` or `CONNECT_ERROR` from its object.
    ///
    /// These packets have no attachments, so bytes are written as arrays of numbers. For
    /// `namespace_len` see [`Payload::event`].
    ///
    /// # Errors
    ///
    /// Fails if the object cannot be written as JSON, or if the JSON is longer than 2 GiB.
    pub fn object(
        namespace_len: usize,
        object: &(impl Serialize + ?Sized),
    ) -> Result<Self, EncodeError> {
        let json = Self::HEADROOM + namespace_len;
        let mut text = vec![0; json];
        serde_json::to_writer(&mut text, object)?;
        if text.len() > MAX_LEN {
            return Err(EncodeError::TOO_LONG);
        }
        Ok(Self {
            args: text.len() as u32,
            ..Self::from_written(text, json, Vec::new())
        })
    }

    /// Appends a text to the arguments. The text must not need escapes.
    pub(crate) fn push_text(&mut self, text: &str) {
        let mut json = std::mem::take(&mut self.text).into_vec();
        // An event ends with its bracket: the server wrote it, or checked it.
        json.pop();
        if self.args as usize == json.len() {
            // There were no arguments. The first one begins after a comma.
            self.args += 1;
        }
        json.extend_from_slice(b",\"");
        json.extend_from_slice(text.as_bytes());
        json.extend_from_slice(b"\"]");
        self.text = Buffer::Own(json);
    }

    /// Returns whether the last argument, or the name if there are no arguments, is a text.
    pub(crate) fn ends_with_text(&self) -> bool {
        let [values @ .., _bracket] = self.json() else {
            return false;
        };
        values.trim_ascii_end().ends_with(b"\"")
    }

    /// Creates a payload from a text that the server wrote, of at most [`MAX_LEN`] bytes.
    #[inline]
    pub(super) const fn from_written(
        text: Vec<u8>,
        json: usize,
        attachments: Vec<Option<Bytes>>,
    ) -> Self {
        Self {
            text: Buffer::Own(text),
            json: json as u32,
            name: Name::None,
            args: json as u32 + 1,
            attachments,
            uncompressed: false,
            // The text may contain arguments in their received form.
            may_be_irregular: true,
        }
    }

    /// Returns the text with at least `headroom` bytes in front of the JSON, and the start of the
    /// JSON. Copies a text that is shared or has less room.
    #[inline]
    pub(super) fn into_headroom(self, headroom: usize) -> (Vec<u8>, usize) {
        let json = self.json as usize;
        match self.text {
            Buffer::Own(text) if json >= headroom => (text, json),
            _ => {
                let json = self.json();
                let mut text = Vec::with_capacity(headroom + json.len());
                text.resize(headroom, 0);
                text.extend_from_slice(json);
                (text, headroom)
            }
        }
    }
}

/// Reading.
impl Payload {
    /// Creates the payload of a received packet from its JSON and its attachments.
    ///
    /// Other parsers, and Node's cluster messages, carry payloads in other forms. Their decoders
    /// create payloads with this function.
    ///
    /// The payloads of `Event` and `Ack` keep the attachments. The other kinds have none, so bytes
    /// in them become lists of numbers.
    ///
    /// # Errors
    ///
    /// Fails if `json` is not valid, if a packet of this `kind` has another payload, or if a
    /// placeholder does not name an attachment of its own.
    pub fn from_json(
        kind: Kind,
        json: Bytes,
        attachments: Vec<Bytes>,
    ) -> Result<Self, DecodeError> {
        std::str::from_utf8(&json).map_err(|_| DecodeError::new("text is not valid UTF-8"))?;
        let mut payload = Self::parse(kind, json, 0)?;
        if attachments.is_empty() {
            return Ok(payload);
        }
        payload.expect_attachments(attachments.len())?;
        payload.attachments = attachments.into_iter().map(Some).collect();
        match kind {
            Kind::Event | Kind::Ack => Ok(payload),
            Kind::Connect | Kind::Disconnect | Kind::ConnectError => {
                Self::parse(kind, payload.with_numbers(payload.json()).into(), 0)
            }
        }
    }

    /// Returns `json`, a piece of the payload's JSON, with lists of numbers in place of bytes.
    pub(crate) fn with_numbers(&self, json: &[u8]) -> Vec<u8> {
        self.with_bytes(json, ["", ""])
    }

    /// Returns `json`, a piece of the payload's JSON, with what `JSON.stringify` makes of a `Buffer` in
    /// place of bytes.
    #[cfg(any(
        feature = "redis",
        all(feature = "wire", feature = "unstable-internals")
    ))]
    pub(crate) fn with_buffers(&self, json: &[u8]) -> Vec<u8> {
        self.with_bytes(json, [r#"{"type":"Buffer","data":"#, "}"])
    }

    fn with_bytes(&self, json: &[u8], around: [&str; 2]) -> Vec<u8> {
        let json = readable(json, true, true);
        let mut text = Vec::with_capacity(json.len());
        let mut done = 0;
        for place in placeholders(&json).unwrap_or_default() {
            let num = parse_num(&json[place.num]);
            let Some(bytes) = num.and_then(|num| self.attachments.get(num)?.as_ref()) else {
                continue;
            };
            text.extend_from_slice(&json[done..place.object.start]);
            text.extend_from_slice(around[0].as_bytes());
            // Numbers can always be written.
            let _ = serde_json::to_writer(&mut text, &**bytes);
            text.extend_from_slice(around[1].as_bytes());
            done = place.object.end;
        }
        text.extend_from_slice(&json[done..]);
        text
    }

    /// Reads `text[at..]`, which must be valid UTF-8, as the payload of a packet of this `kind`.
    pub(super) fn parse(kind: Kind, mut text: Bytes, at: usize) -> Result<Self, DecodeError> {
        if text.len() > MAX_LEN {
            return Err(DecodeError::limit("payload is too long"));
        }
        let mut scanner = Scanner::new(&text, at);
        // White space in front of the JSON would be a part of the id, if the payload is sent again.
        scanner.peek();
        let start = scanner.position();
        let mut name = Name::None;
        let mut args = text.len();
        match kind {
            _ if at == text.len() => check_absent(kind)?,
            Kind::Event => {
                name = scan_name(&mut scanner, &text)?;
                let comma = scanner.peek() == Some(b',');
                args = scanner.position() + usize::from(comma);
                scanner.rest_of_array()?;
            }
            Kind::Ack => {
                expect(&mut scanner, b'[')?;
                args = scanner.position() + 1;
                scanner.value()?;
            }
            Kind::Connect | Kind::ConnectError => {
                expect(&mut scanner, b'{')?;
                scanner.value()?;
            }
            Kind::Disconnect => return Err(DecodeError::new("payload is not expected")),
        }
        let end = scanner.end()?;
        let may_be_irregular = scanner.has_surrogates();
        text.truncate(end);
        Ok(Self {
            text: Buffer::Shared(text),
            json: start as u32,
            name,
            args: args.min(end) as u32,
            attachments: Vec::new(),
            uncompressed: false,
            may_be_irregular,
        })
    }

    /// Checks that each placeholder names one of `count` attachments, and no two name the same one.
    pub(super) fn expect_attachments(&mut self, count: usize) -> Result<(), DecodeError> {
        let regular = check_placeholders(self.json(), count)
            .map_err(|_| DecodeError::new("placeholder does not name an attachment"))?;
        self.may_be_irregular |= !regular;
        Ok(())
    }

    /// Returns the name of the event, or `None` if the payload belongs to another packet.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        // The server wrote the name, or checked the text when it was read.
        std::str::from_utf8(self.name_bytes()?).ok()
    }

    /// Returns the bytes of [`Payload::name`].
    #[inline]
    pub(crate) fn name_bytes(&self) -> Option<&[u8]> {
        self.name.find(self.text.as_slice())
    }

    /// Returns the whole JSON text. It is empty if there is no payload.
    #[must_use]
    pub fn json(&self) -> &[u8] {
        &self.text.as_slice()[self.json as usize..]
    }

    /// Iterates over the attachments, in the order of their numbers. Those that were read are left
    /// out.
    pub fn attachments(&self) -> impl Iterator<Item = &Bytes> {
        self.attachments.iter().flatten()
    }

    /// Converts the payload to its arguments, without the name of the event.
    #[must_use]
    #[inline]
    pub fn into_args(mut self) -> RawArgs {
        self.text = Buffer::Shared(match self.text {
            Buffer::Own(text) => text.into(),
            Buffer::Shared(text) => text,
        });
        RawArgs(self)
    }

    /// Returns the text from the first argument to the closing bracket, and the attachments, which
    /// the caller may move out.
    pub(super) fn split(&mut self) -> (&[u8], &mut [Option<Bytes>]) {
        let text = self.text.as_slice();
        (&text[self.args as usize..], &mut self.attachments)
    }

    /// Returns the JSON in a form that the deserializers can read, the position of the first
    /// argument in it, and the attachments, which the caller may move out.
    ///
    /// Without arguments, the position is that of the closing bracket.
    #[inline]
    pub(super) fn readable(&mut self) -> (Cow<'_, [u8]>, usize, &mut [Option<Bytes>]) {
        let json = &self.text.as_slice()[self.json as usize..];
        let json = readable(json, self.may_be_irregular, !self.attachments.is_empty());
        (
            json,
            (self.args - self.json) as usize,
            &mut self.attachments,
        )
    }

    /// Returns the JSON of [`Payload::readable`].
    pub(super) fn readable_json(&self) -> Cow<'_, [u8]> {
        readable(
            self.json(),
            self.may_be_irregular,
            !self.attachments.is_empty(),
        )
    }

    /// Returns the text from the first argument to the closing bracket.
    pub(crate) fn tail(&self) -> &[u8] {
        &self.text.as_slice()[self.args as usize..]
    }
}

impl Buffer {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Own(text) => text,
            Self::Shared(text) => text,
        }
    }

    fn len(&self) -> usize {
        self.as_slice().len()
    }

    fn into_vec(self) -> Vec<u8> {
        match self {
            Self::Own(text) => text,
            Self::Shared(text) => text.into(),
        }
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::Own(Vec::new())
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload")
            .field("name", &self.name())
            .field("bytes", &self.json().len())
            .field("attachments", &self.attachments.len())
            .finish()
    }
}

fn readable(json: &[u8], may_be_irregular: bool, has_bytes: bool) -> Cow<'_, [u8]> {
    match (may_be_irregular, has_bytes) {
        (false, _) => Cow::Borrowed(json),
        (true, false) => replace_lone_surrogates(json),
        (true, true) => regularize(replace_lone_surrogates(json)),
    }
}

/// Returns whether the client or the server uses this name itself.
const fn is_reserved(name: &[u8]) -> bool {
    matches!(
        name,
        b"connect"
            | b"connect_error"
            | b"disconnect"
            | b"disconnecting"
            | b"newListener"
            | b"removeListener"
    )
}

fn check_absent(kind: Kind) -> Result<(), DecodeError> {
    match kind {
        Kind::Connect | Kind::Disconnect => Ok(()),
        Kind::Event | Kind::Ack | Kind::ConnectError => Err(DecodeError::new("payload is missing")),
    }
}

fn expect(scanner: &mut Scanner<'_>, bracket: u8) -> Result<(), DecodeError> {
    if scanner.peek() != Some(bracket) {
        return Err(DecodeError::new("payload is of another type"));
    }
    Ok(())
}

/// Steps over the opening bracket and the name of an event, and returns the name. It is a string,
/// or the text of a number.
fn scan_name(scanner: &mut Scanner<'_>, text: &[u8]) -> Result<Name, DecodeError> {
    expect(scanner, b'[')?;
    scanner.next();
    let first = scanner.next();
    let start = scanner.position();
    let name = match first {
        Some(b'"') if scanner.string()? => unescape(&text[start - 1..scanner.position()])?,
        Some(b'"') => Name::at(start, scanner.position() - 1 - start),
        Some(first @ (b'-' | b'0'..=b'9')) => {
            scanner.number(first)?;
            Name::at(start - 1, scanner.position() + 1 - start)
        }
        _ => return Err(DecodeError::new("event has no name")),
    };
    if name.find(text).is_some_and(is_reserved) {
        return Err(DecodeError::new("event has a reserved name"));
    }
    Ok(name)
}

fn unescape(quoted: &[u8]) -> Result<Name, DecodeError> {
    serde_json::from_slice(&replace_lone_surrogates(quoted))
        .map(|name: String| Name::unescaped(&name))
        .map_err(|_| DecodeError::new("event has a name that is not text"))
}

/// The longest text of a payload, with the room in front of the JSON. A longer one is refused.
pub(super) const MAX_LEN: usize = 1 << 31;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tests::{decode, json};
    use crate::protocol::{Args, Data};

    #[test]
    fn an_event_knows_its_name_and_arguments() {
        for name in ["say", "", "with \"quotes\"", "é"] {
            let mut event = Payload::event(name, 1, Args((1, "two"))).expect("serializable");
            assert_eq!(event.name(), Some(name));
            assert_eq!(event.read_one::<u8>().expect("a number"), 1);
            assert_eq!(event.clone().into_args().to_json(), r#"[1,"two"]"#);

            let mut event = Payload::event(name, 1, Args(())).expect("serializable");
            assert_eq!(event.name(), Some(name));
            assert!(event.read_one::<Option<u8>>().expect("nothing").is_none());
            assert_eq!(event.into_args().to_json(), "[]");
        }
    }

    #[test]
    fn an_acknowledgement_has_arguments_and_no_name() {
        let payload = Payload::args(1, Data("x")).expect("serializable");
        assert_eq!((payload.name(), json(&payload)), (None, r#"["x"]"#));
        assert_eq!(payload.into_args().to_json(), r#"["x"]"#);
    }

    #[test]
    fn a_reserved_name_is_not_sent() {
        let error = Payload::event("disconnect", 1, 1).expect_err("reserved");
        assert_eq!(error.to_string(), "name of the event is reserved");
        assert!(Payload::event("message", 1, 1).is_ok());
    }

    #[test]
    fn a_payload_that_is_not_an_array_has_no_arguments() {
        let object = Payload::object(1, &[1]).expect("serializable");
        let received = decode("0{\"a\":1} ", &[]).expect("valid").payload;
        for payload in [Payload::default(), object, received] {
            let mut args = payload.into_args();
            assert_eq!(args.to_json(), "[]");
            assert!(
                args.read_one::<Option<u8>>()
                    .is_ok_and(|none| none.is_none())
            );
            let again = Payload::args(1, args).expect("nothing");
            assert_eq!(json(&again), "[]");
        }
    }

    #[test]
    fn json_from_other_parsers_is_checked() {
        let one = br#"["e",{"_placeholder":true,"num":0}]"#;
        let from = |json: &'static [u8], attachments: &[&'static [u8]]| {
            let attachments = attachments.iter().map(|bytes| Bytes::from_static(bytes));
            Payload::from_json(Kind::Event, Bytes::from_static(json), attachments.collect())
        };
        let mut payload = from(one, &[b"x"]).expect("valid");
        assert_eq!(payload.name(), Some("e"));
        assert_eq!(payload.read_one::<Bytes>().expect("bytes"), b"x"[..]);
        assert!(from(one, &[]).is_ok());
        assert!(from(br#"["e",{"_placeholder":true,"num":1}]"#, &[b"x"]).is_err());
        assert!(from(b"{}", &[]).is_err());
        assert!(from(b"[\"\xff\"]", &[]).is_err());
    }

    #[test]
    fn bytes_in_a_connect_are_lists_of_numbers() {
        let connect = br#"{"a":[{"num":0,"_placeholder":true}],"b":1}"#;
        let attachments = vec![Bytes::from_static(b"\x00\xff")];
        let payload = Payload::from_json(Kind::Connect, Bytes::from_static(connect), attachments);
        let payload = payload.expect("valid");
        assert_eq!(json(&payload), r#"{"a":[[0,255]],"b":1}"#);
        assert_eq!(payload.attachments().count(), 0);
        let read = payload.read_object::<std::collections::HashMap<String, serde_json::Value>>();
        assert_eq!(read.expect("an object")["a"], serde_json::json!([[0, 255]]));
    }

    #[test]
    fn debug_shows_no_content() {
        let payload = decode(r#"2["e","secret"]"#, &[]).expect("valid").payload;
        let shown = r#"Payload { name: Some("e"), bytes: 14, attachments: 0 }"#;
        assert_eq!(format!("{payload:?}"), shown);
        let shown = "RawArgs { bytes: 10, attachments: 0 }";
        assert_eq!(format!("{:?}", payload.into_args()), shown);
    }
}
