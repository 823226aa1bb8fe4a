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

#[cfg(feature = "admin-ui")]
mod nested;
mod writer;

#[cfg(feature = "admin-ui")]
pub(crate) use self::nested::Nested;
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
/// A JavaScript string may hold a lone surrogate: `text.slice(0, 1)` of an emoji does. It is read
/// as U+FFFD.
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

    /// Returns whether these are the arguments of an event, whose attachments are the same bytes in
    /// memory.
    #[cfg(feature = "admin-ui")]
    pub(crate) fn is_of(&self, event: &Payload) -> bool {
        let place = |bytes: &Bytes| (bytes.as_ptr(), bytes.len());
        let own = self.0.attachments().map(place);
        self.0.json() == event.json() && own.eq(event.attachments().map(place))
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
mod tests;
