//! Values become the arguments of an event or an acknowledgement.
//!
//! | passed to `emit` or returned by a handler | arguments             |
//! |-------------------------------------------|-----------------------|
//! | `()`                                      | none                  |
//! | another `value`                           | one: a tuple is an array |
//! | `Data(value)`                             | one, whatever it is: `()` is `null` |
//! | `Args((a, b))`, `Args([a, b])`            | `a` and `b`           |
//! | `Args(())`                                | none                  |
//! | `RawArgs`                                 | those that it came with |
//!
//! Bytes that a value serializes *as bytes* (`bytes::Bytes`, `serde_bytes`; not `Vec<u8>`, which
//! serde takes for a list of numbers) become attachments, however deep they lie.

use std::{error, fmt, io};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::ser::Formatter;

use super::payload::MAX_LEN;
use super::scan::{Scanner, check_placeholders, parse_num, placeholders};
use super::{Payload, ReadError};

/// One argument.
///
/// As an extractor it reads the first argument and leaves others aside. If there is none it reads
/// `null`, so `Data<Option<T>>` is an argument that may be missing.
///
/// Bytes are read by a type that asks serde for bytes, `bytes::Bytes` for one, wherever it stands:
/// in structs, lists and maps, and in tagged, untagged and flattened types. A type that cannot hold
/// them, such as `serde_json::Value`, refuses the argument; [`RawArgs`] passes bytes on unread. An
/// untagged enum takes bytes that are UTF-8 for a `String`, if a variant with one comes first.
///
/// A string of JavaScript may hold half of a surrogate pair, as `text.slice(0, 1)` of an emoji
/// does. It is read as U+FFFD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Data<T>(pub T);

/// All arguments: the elements of a tuple, an array or a list.
///
/// As an extractor it is as lenient as a JavaScript function: surplus arguments are left aside,
/// and what a tuple or an array lacks at its end reads as `null`, so that an `Option` is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Args<T>(pub T);

/// Arguments as they came, to be read later or passed on.
///
/// Passing them on copies their text and shares their attachments. Halves of surrogate pairs stay
/// in the text; reading replaces them, as [`Data`] does.
#[derive(Clone)]
pub struct RawArgs(pub(super) Payload);

impl RawArgs {
    /// Reads the first argument, as [`Data`] does.
    ///
    /// Bytes are moved out: a second reading does not find them.
    ///
    /// # Errors
    ///
    /// If it is not a `T`.
    pub fn read_one<T: DeserializeOwned>(&mut self) -> Result<T, ReadError> {
        self.0.read_one()
    }

    /// Reads all arguments, as [`Args`] does.
    ///
    /// Bytes are moved out: a second reading does not find them.
    ///
    /// # Errors
    ///
    /// If they are not a `T`.
    pub fn read_all<T: DeserializeOwned>(&mut self) -> Result<T, ReadError> {
        self.0.read_all()
    }

    /// Reads the first argument, as [`Data`] does, and leaves the others as they came: to be passed
    /// on, mostly.
    ///
    /// ```
    /// use tower_socketio::protocol::ReadError;
    /// use tower_socketio::{Namespace, RawArgs, SocketIo};
    ///
    /// /// `socket.emit("publish", room, ...args)`
    /// async fn publish(io: SocketIo, args: RawArgs) -> Result<(), ReadError> {
    ///     let (room, args) = args.split_first::<String>()?;
    ///     io.to(room).emit("published", args);
    ///     Ok(())
    /// }
    ///
    /// let namespace: Namespace = Namespace::new().on("publish", publish);
    /// ```
    ///
    /// # Errors
    ///
    /// If the first is not a `T`.
    pub fn split_first<T: DeserializeOwned>(mut self) -> Result<(T, Self), ReadError> {
        let first = self.read_one()?;
        let (tail, attachments) = self.0.split();
        let mut rest = ArgsWriter::new(0, tail.len());
        let written = rest.write_renumbered(after_first(tail), attachments);
        // Nothing is lost: the text and its placeholders were checked when it was read.
        let rest = written.and_then(|()| rest.finish()).unwrap_or_default();
        Ok((first, rest.into_args()))
    }

    /// The arguments as a JSON array, with placeholders for attachments.
    #[must_use]
    pub fn to_json(&self) -> String {
        let tail = match self.0.tail() {
            b"" => b"]",
            tail => tail,
        };
        let mut json = String::with_capacity(1 + tail.len());
        json.push('[');
        // Nothing is lost: it was written by us, or the text was checked when it was read.
        json.push_str(&String::from_utf8_lossy(tail));
        json
    }

    /// The attachments that were not read yet.
    pub fn attachments(&self) -> impl Iterator<Item = &Bytes> {
        self.0.attachments()
    }
}

impl fmt::Debug for RawArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawArgs")
            .field("bytes", &(self.0.tail().len() + 1))
            .field("attachments", &self.0.attachments.len())
            .finish()
    }
}

/// What can be sent as the arguments of an event or an acknowledgement.
///
/// Anything that implements [`Serialize`] is one argument, but `()` is none. [`Args`] makes several
/// of a tuple, an array or a list.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be sent as arguments",
    label = "not serializable",
    note = "a value that implements `serde::Serialize` is one argument",
    note = "use `Args((a, b))` for several arguments"
)]
pub trait IntoArgs {
    /// Writes the arguments.
    ///
    /// # Errors
    ///
    /// If they cannot be written as JSON.
    fn into_args(self, out: &mut ArgsWriter) -> Result<(), EncodeError>;

    /// A guess how many bytes of JSON will be written; room is made for that many.
    fn len_hint(&self) -> usize {
        128
    }
}

#[diagnostic::do_not_recommend]
impl<T: Serialize> IntoArgs for T {
    fn into_args(self, out: &mut ArgsWriter) -> Result<(), EncodeError> {
        let before = out.len();
        out.push(&self)?;
        // `()`, which is asked for in the only way that there is for any type.
        if size_of::<T>() == 0 && out.text.ends_with(b"null") {
            out.text.truncate(before);
        }
        Ok(())
    }
}

impl<T: Serialize> IntoArgs for Data<T> {
    fn into_args(self, out: &mut ArgsWriter) -> Result<(), EncodeError> {
        out.push(&self.0)
    }
}

impl<T: Serialize> IntoArgs for Args<T> {
    fn into_args(self, out: &mut ArgsWriter) -> Result<(), EncodeError> {
        out.push_all(&self.0)
    }
}

impl IntoArgs for RawArgs {
    fn into_args(self, out: &mut ArgsWriter) -> Result<(), EncodeError> {
        out.push_raw(self.0)
    }

    fn len_hint(&self) -> usize {
        self.0.tail().len()
    }
}

/// Arguments that are not to be compressed on their way to the clients: they are so already, or
/// hold a secret beside what a stranger may choose.
///
/// ```
/// use bytes::Bytes;
/// use tower_socketio::{Data, Namespace, Socket, Uncompressed};
///
/// async fn image(socket: Socket, Data(jpeg): Data<Bytes>) {
///     socket.broadcast().emit("image", Uncompressed(Data(jpeg)));
/// }
///
/// let namespace: Namespace = Namespace::new().on("image", image);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Uncompressed<T>(pub T);

impl<T: IntoArgs> IntoArgs for Uncompressed<T> {
    fn into_args(self, out: &mut ArgsWriter) -> Result<(), EncodeError> {
        out.uncompressed = true;
        self.0.into_args(out)
    }

    fn len_hint(&self) -> usize {
        self.0.len_hint()
    }
}

/// Arguments in the making.
///
/// There is no limit to their attachments, but Node's clients take ten in a packet by default.
pub struct ArgsWriter {
    text: Vec<u8>,
    json: usize,
    attachments: Vec<Option<Bytes>>,
    uncompressed: bool,
}

impl ArgsWriter {
    #[inline]
    pub(super) fn new(headroom: usize, len_hint: usize) -> Self {
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

    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    /// Writes one argument.
    ///
    /// # Errors
    ///
    /// If it cannot be written as JSON. Nothing is written then.
    pub fn push<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), EncodeError> {
        self.or_undo(|out| {
            out.separate();
            out.write(value)
        })
    }

    /// Writes the elements of a tuple, an array or a list as so many arguments.
    ///
    /// # Errors
    ///
    /// If they cannot be written as JSON, or `values` is something else. Nothing is written then.
    pub fn push_all<T: Serialize + ?Sized>(&mut self, values: &T) -> Result<(), EncodeError> {
        let at = self.text.len();
        self.or_undo(|out| {
            out.write(values)?;
            match &out.text[at..] {
                b"null" => out.text.truncate(at),
                [b'[', values @ .., b']'] if values.trim_ascii().is_empty() => {
                    out.text.truncate(at);
                }
                [b'[', .., b']'] => {
                    // The list's opening bracket makes room for the comma, or goes.
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

    /// Writes arguments as they came.
    #[inline]
    pub(super) fn push_raw(&mut self, mut raw: Payload) -> Result<(), EncodeError> {
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

    /// Writes `args` and takes over the attachments that are in them, numbered on from those that
    /// are there.
    fn write_renumbered(
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
    /// A value that came from a client may hold an object that looks like a placeholder. Among
    /// real ones it would be taken for an attachment, or make the receiver close the connection.
    #[inline]
    pub(super) fn finish(mut self) -> Result<Payload, EncodeError> {
        self.text.push(b']');
        if self.text.len() > MAX_LEN {
            return Err(EncodeError::TOO_LONG);
        }
        if !self.attachments.is_empty() {
            check_placeholders(&self.text[self.json..], self.attachments.len())
                .map_err(|_| EncodeError(Reason::Placeholder))?;
        }
        let mut payload = Payload::written(self.text, self.json, self.attachments);
        payload.uncompressed = self.uncompressed;
        Ok(payload)
    }

    fn write<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), EncodeError> {
        let formatter = Attach(&mut self.attachments);
        let mut serializer = serde_json::Serializer::with_formatter(&mut self.text, formatter);
        value.serialize(&mut serializer).map_err(EncodeError::from)
    }

    /// Leaves no half of an argument: who wrote it may go on after the error.
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

    fn separate(&mut self) {
        if !self.is_empty_before(self.text.len()) {
            self.text.push(b',');
        }
    }

    /// No value ends with an opening bracket, so if one is there it is the first byte.
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

/// What follows the first of the arguments in a text that ends with their closing bracket, without
/// that bracket.
fn after_first(tail: &[u8]) -> &[u8] {
    let mut scanner = Scanner::new(tail, 0);
    if scanner.peek() == Some(b']') || scanner.value().is_err() {
        return b"";
    }
    match scanner.next() {
        Some(b',') => &tail[scanner.position()..tail.len() - 1],
        _ => b"",
    }
}

/// Writes JSON without spaces, and a placeholder for bytes.
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

/// An event or an acknowledgement that cannot be sent.
///
/// A handler may return it: it is logged, and the client is told "internal error".
#[derive(Debug)]
pub struct EncodeError(Reason);

impl EncodeError {
    pub(super) const RESERVED: Self = Self(Reason::Reserved);
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::error::Error;

    use serde::de::IgnoredAny;
    use serde_json::value::RawValue;

    use super::*;
    use crate::protocol::tests::{decode, event, json};

    fn written(args: impl IntoArgs) -> String {
        json(&event(args)).to_owned()
    }

    fn refused(args: impl IntoArgs) -> String {
        Payload::args(1, args)
            .expect_err("not to be sent")
            .to_string()
    }

    #[test]
    fn a_value_is_one_argument() {
        #[derive(Serialize)]
        struct Id(u64);
        assert_eq!(written(1), r#"["e",1]"#);
        assert_eq!(written("a"), r#"["e","a"]"#);
        assert_eq!(written(Id(7)), r#"["e",7]"#);
        assert_eq!(written((1, "a")), r#"["e",[1,"a"]]"#);
        assert_eq!(written([1, 2]), r#"["e",[1,2]]"#);
        assert_eq!(written(vec![1, 2]), r#"["e",[1,2]]"#);
        assert_eq!(written(Data((1, 2))), r#"["e",[1,2]]"#);
        assert_eq!(written(&["a"][..]), r#"["e",["a"]]"#);
        assert_eq!(written(None::<u8>), r#"["e",null]"#);
        assert_eq!(written(serde_json::Value::Null), r#"["e",null]"#);
        assert_eq!(written([(); 0]), r#"["e",[]]"#);
        assert_eq!(written([()]), r#"["e",[null]]"#);
    }

    #[test]
    fn nothing_is_no_argument_unless_it_is_called_one() {
        assert_eq!(written(()), r#"["e"]"#);
        assert_eq!(written(Data(())), r#"["e",null]"#);
        assert_eq!(json(&Payload::args(1, ()).expect("nothing")), "[]");

        struct Both;
        impl IntoArgs for Both {
            fn into_args(self, out: &mut ArgsWriter) -> Result<(), EncodeError> {
                1.into_args(out)?;
                ().into_args(out)?;
                2.into_args(out)
            }
        }
        assert_eq!(written(Both), r#"["e",1,2]"#);
    }

    #[test]
    fn args_are_so_many_arguments() {
        #[derive(Serialize)]
        struct Pair(u8, u8);
        assert_eq!(written(Args(())), r#"["e"]"#);
        assert_eq!(written(Args((1,))), r#"["e",1]"#);
        assert_eq!(written(Args((1, "a", [2]))), r#"["e",1,"a",[2]]"#);
        assert_eq!(written(Args([1, 2])), r#"["e",1,2]"#);
        assert_eq!(written(Args(Vec::<u8>::new())), r#"["e"]"#);
        assert_eq!(written(Args(Pair(1, 2))), r#"["e",1,2]"#);
        assert_eq!(
            json(&Payload::args(1, Args((1, 2))).expect("numbers")),
            "[1,2]"
        );
        assert_eq!(
            json(&Payload::args(1, Args([[1], [2]])).expect("numbers")),
            "[[1],[2]]"
        );
        assert_eq!(json(&Payload::args(1, Args(())).expect("nothing")), "[]");
    }

    #[test]
    fn args_of_something_else_are_refused() {
        let reason = "`Args` holds neither a tuple nor an array nor a list";
        assert_eq!(refused(Args("text")), reason);
        assert_eq!(refused(Args(BTreeMap::from([("a", 1)]))), reason);
    }

    #[test]
    fn raw_json_is_taken_as_it_is() {
        let raw = |json: &str| RawValue::from_string(json.to_owned()).expect("valid");
        assert_eq!(written(raw("[ 1.0 ]")), r#"["e",[ 1.0 ]]"#);
        assert_eq!(written(Args(raw("[ 1.0 ,2]"))), r#"["e", 1.0 ,2]"#);
        assert_eq!(written(Args(raw("[ ]"))), r#"["e"]"#);
    }

    #[test]
    fn what_cannot_be_written_is_refused_and_leaves_no_trace() {
        let odd = BTreeMap::from([((1, 2), 3)]);
        let error = Payload::args(1, &odd).expect_err("not a key");
        assert_eq!(error.to_string(), "value cannot be written as JSON");
        assert_eq!(
            error.source().expect("of serde_json").to_string(),
            "key must be a string"
        );

        struct Careless;
        impl IntoArgs for Careless {
            fn into_args(self, out: &mut ArgsWriter) -> Result<(), EncodeError> {
                let odd = BTreeMap::from([((1, 2), 3)]);
                assert!(out.push(&(Bytes::from_static(b"x"), &odd)).is_err());
                assert!(out.push_all(&(1, &odd)).is_err());
                assert!(out.push_all("text").is_err());
                assert!(out.push_all(&[Bytes::from_static(b"x")][0]).is_err());
                out.push(&1)
            }
        }
        let payload = event(Careless);
        assert_eq!(json(&payload), r#"["e",1]"#);
        assert_eq!(payload.attachments().count(), 0);
    }

    #[test]
    fn raw_arguments_after_others_are_numbered_on() {
        struct Both(RawArgs);
        impl IntoArgs for Both {
            fn into_args(self, out: &mut ArgsWriter) -> Result<(), EncodeError> {
                out.push(&Bytes::from_static(b"first"))?;
                self.0.into_args(out)?;
                out.push("last")
            }
        }
        let text = r#"52-["x",{"_placeholder":true,"num":1},{"num":0,"_placeholder":true}]"#;
        let raw = decode(text, &[b"0", b"1"])
            .expect("valid")
            .payload
            .into_args();
        let payload = event(Both(raw));
        assert_eq!(
            json(&payload),
            r#"["e",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1},{"num":2,"_placeholder":true},"last"]"#
        );
        assert!(payload.attachments().eq([&b"first"[..], b"1", b"0"]));

        let none = decode("2[\"x\" ]", &[]).expect("valid").payload.into_args();
        let payload = event(Both(none));
        assert_eq!(
            json(&payload),
            r#"["e",{"_placeholder":true,"num":0},"last"]"#
        );
    }

    #[test]
    fn raw_arguments_that_were_read_from_are_not_passed_on() {
        let text = r#"51-["x",{"_placeholder":true,"num":0}]"#;
        let mut raw = decode(text, &[b"0"]).expect("valid").payload.into_args();
        assert!(raw.read_one::<Bytes>().is_ok());
        assert_eq!(refused(raw), "attachment of the arguments was read before");
    }

    #[test]
    fn the_first_argument_is_read_and_the_others_pass_on() {
        for (text, others) in [
            (r#"2["x","room"]"#, "[]"),
            (r#"2["x", "room" , 1 ,{"a":[2]} ]"#, r#"[ 1 ,{"a":[2]} ]"#),
        ] {
            let raw = decode(text, &[]).expect("valid").payload.into_args();
            let (room, mut rest) = raw.split_first::<String>().expect("a text");
            assert_eq!((&*room, &*rest.to_json()), ("room", others));
            let all: serde_json::Value = rest.read_all().expect("a list");
            assert_eq!(all, others.parse::<serde_json::Value>().expect("JSON"));
        }
        let none = decode(r#"2["x"]"#, &[]).expect("valid").payload.into_args();
        let (first, rest) = none.split_first::<Option<u8>>().expect("nothing");
        assert_eq!((first, &*rest.to_json()), (None, "[]"));
        let wrong = decode(r#"2["x",1]"#, &[]).expect("valid").payload;
        assert!(wrong.into_args().split_first::<String>().is_err());
    }

    #[test]
    fn attachments_go_where_their_argument_goes() {
        let text = r#"53-["x",[{"_placeholder":true,"num":1}],{"_placeholder":true,"num":2},{"_placeholder":true,"num":0}]"#;
        let raw = decode(text, &[b"0", b"1", b"2"]).expect("valid").payload;
        let raw = raw.into_args();
        let (first, rest) = raw.clone().split_first::<[Bytes; 1]>().expect("bytes");
        assert_eq!(first[0], b"1"[..]);
        let (_, unread) = raw.split_first::<IgnoredAny>().expect("anything");
        for rest in [rest, unread] {
            let payload = event(rest);
            assert_eq!(
                json(&payload),
                r#"["e",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#
            );
            assert!(payload.attachments().eq([&b"2"[..], b"0"]));
        }
    }

    #[test]
    fn a_false_placeholder_does_not_go_out_with_attachments() {
        let value = serde_json::json!({"_placeholder": true, "num": 0});
        assert!(Payload::args(1, &value).is_ok());
        let both = Args((value, Bytes::from_static(b"x")));
        assert_eq!(
            refused(both),
            "value looks like a placeholder for an attachment"
        );
    }

    #[test]
    fn more_than_ten_attachments_may_be_sent() {
        let payload = event(Args(vec![Bytes::from_static(b"x"); 11]));
        assert_eq!(payload.attachments().count(), 11);
    }
}
