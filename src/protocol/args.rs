//! Converts values to the arguments of an event or an acknowledgement.
//!
//! | passed to `emit` or returned by a handler | arguments             |
//! |-------------------------------------------|-----------------------|
//! | `()`                                      | none                  |
//! | another `value`                           | one; a tuple is an array |
//! | `Data(value)`                             | one, always; `()` is `null` |
//! | `Args((a, b))`, `Args([a, b])`            | `a` and `b`           |
//! | `Args(())`                                | none                  |
//! | `RawArgs`                                 | the received ones     |
//!
//! Bytes that a value serializes *as bytes* become attachments, at any depth. `bytes::Bytes` and
//! `serde_bytes` serialize as bytes. `Vec<u8>` does not: for serde it is a list of numbers.

use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::unit::is_unit;
use super::{Payload, ReadError};

mod writer;

pub(crate) use self::writer::ArgsWriter;
pub use self::writer::EncodeError;
use self::writer::after_first;

/// One argument.
///
/// As an extractor, `Data` reads the first argument and ignores the others. If there is no argument
/// it reads `null`, so `Data<Option<T>>` extracts an argument that may be missing.
///
/// A type that asks serde for bytes, such as `bytes::Bytes`, reads bytes at any place: in structs,
/// lists and maps, and in tagged, untagged and flattened types. A type that cannot hold bytes, such
/// as `serde_json::Value`, rejects the argument. [`RawArgs`] passes bytes on unread. An untagged
/// enum reads bytes that are UTF-8 as a `String` if a variant with a `String` comes first.
///
/// A JavaScript string may hold half of a surrogate pair: `text.slice(0, 1)` of an emoji does.
/// Such a half is read as U+FFFD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Data<T>(pub T);

/// All arguments: the elements of a tuple, an array or a list.
///
/// As an extractor, `Args` is as lenient as a JavaScript function. It ignores surplus arguments. If
/// a tuple or an array has more elements than there are arguments, the other elements are read
/// from `null`, so that an `Option` is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Args<T>(pub T);

/// Arguments in their received form, to be read later or passed on.
///
/// Passing them on copies their text and shares their attachments. Halves of surrogate pairs stay
/// in the text. Reading replaces them, as [`Data`] does.
#[derive(Clone)]
pub struct RawArgs(pub(super) Payload);

impl RawArgs {
    /// Reads the first argument, as [`Data`] does.
    ///
    /// Bytes are moved out: a second call does not find them.
    ///
    /// # Errors
    ///
    /// Fails if the argument is not a `T`.
    pub fn read_one<T: DeserializeOwned>(&mut self) -> Result<T, ReadError> {
        self.0.read_one()
    }

    /// Reads all arguments, as [`Args`] does.
    ///
    /// Bytes are moved out: a second call does not find them.
    ///
    /// # Errors
    ///
    /// Fails if the arguments are not a `T`.
    pub fn read_all<T: DeserializeOwned>(&mut self) -> Result<T, ReadError> {
        self.0.read_all()
    }

    /// Reads the first argument, as [`Data`] does, and returns it with the others, which stay
    /// unread.
    ///
    /// Most callers pass the others on.
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
    /// Fails if the first argument is not a `T`.
    pub fn split_first<T: DeserializeOwned>(mut self) -> Result<(T, Self), ReadError> {
        let first = self.read_one()?;
        let (tail, attachments) = self.0.split();
        let mut rest = ArgsWriter::new(0, tail.len());
        let written = rest.write_renumbered(after_first(tail), attachments);
        // No argument is lost: the text and its placeholders were checked when it was read.
        let rest = written.and_then(|()| rest.finish()).unwrap_or_default();
        Ok((first, rest.into_args()))
    }

    /// Returns the arguments as a JSON array, with placeholders for attachments.
    #[must_use]
    pub fn to_json(&self) -> String {
        let tail = match self.0.tail() {
            b"" => b"]",
            tail => tail,
        };
        let mut json = String::with_capacity(1 + tail.len());
        json.push('[');
        // No text is lost: the server wrote it, or checked it when it was read.
        json.push_str(&String::from_utf8_lossy(tail));
        json
    }

    /// Iterates over the attachments that were not read yet.
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

/// Types that can be sent as the arguments of an event or an acknowledgement.
///
/// A value that implements [`Serialize`] is one argument, except that `()` is no argument.
/// [`Args`] sends the elements of a tuple, an array or a list as arguments.
///
/// No other type can implement this trait.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be sent as arguments",
    label = "not serializable",
    note = "a value that implements `serde::Serialize` is one argument",
    note = "use `Args((a, b))` for several arguments"
)]
pub trait IntoArgs {
    #[doc(hidden)]
    fn into_args(self, out: &mut ArgsWriter) -> Result<(), EncodeError>;

    #[doc(hidden)]
    // A guess of the length of the JSON in bytes, to reserve memory.
    fn len_hint(&self) -> usize {
        128
    }
}

#[diagnostic::do_not_recommend]
impl<T: Serialize> IntoArgs for T {
    fn into_args(self, out: &mut ArgsWriter) -> Result<(), EncodeError> {
        // `()` is no argument, and it is of no size. A unit struct is of no size either, and data.
        if size_of::<T>() == 0 && is_unit(&self) {
            return Ok(());
        }
        out.push(&self)
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

/// Arguments that are sent uncompressed.
///
/// Use it for data that is compressed already, and for a secret beside content that a stranger may
/// choose.
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
    fn the_unit_type_is_no_argument_unless_data_wraps_it() {
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
    fn other_values_without_a_size_are_arguments() {
        #[derive(Serialize)]
        struct Marker;
        #[derive(Serialize)]
        struct Empty {}
        #[derive(Serialize)]
        enum Only {
            One,
        }
        assert_eq!(written(Marker), r#"["e",null]"#);
        assert_eq!(written(Empty {}), r#"["e",{}]"#);
        assert_eq!(written(Only::One), r#"["e","One"]"#);
        assert_eq!(written(std::marker::PhantomData::<u8>), r#"["e",null]"#);
    }

    #[test]
    fn args_have_one_argument_for_each_element() {
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
    fn args_of_other_types_are_refused() {
        let reason = "`Args` holds neither a tuple nor an array nor a list";
        assert_eq!(refused(Args("text")), reason);
        assert_eq!(refused(Args(BTreeMap::from([("a", 1)]))), reason);
    }

    #[test]
    fn raw_json_is_written_unchanged() {
        let raw = |json: &str| RawValue::from_string(json.to_owned()).expect("valid");
        assert_eq!(written(raw("[ 1.0 ]")), r#"["e",[ 1.0 ]]"#);
        assert_eq!(written(Args(raw("[ 1.0 ,2]"))), r#"["e", 1.0 ,2]"#);
        assert_eq!(written(Args(raw("[ ]"))), r#"["e"]"#);
    }

    #[test]
    fn an_unserializable_value_is_refused_and_leaves_no_trace() {
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
    fn the_placeholders_of_raw_arguments_continue_the_numbering() {
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
    fn raw_arguments_whose_bytes_were_read_are_not_passed_on() {
        let text = r#"51-["x",{"_placeholder":true,"num":0}]"#;
        let mut raw = decode(text, &[b"0"]).expect("valid").payload.into_args();
        assert!(raw.read_one::<Bytes>().is_ok());
        assert_eq!(refused(raw), "attachment of the arguments was read before");
    }

    #[test]
    fn the_first_argument_is_read_and_the_others_are_passed_on() {
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
    fn attachments_follow_their_argument() {
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
    fn a_forged_placeholder_is_not_sent_with_attachments() {
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
