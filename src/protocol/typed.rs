//! Typed events.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::args::{ArgsWriter, EncodeError, IntoArgs};

/// The type of an event's argument, with the event's name and the type of its reply.
///
/// [`Namespace::on_typed`](crate::Namespace::on_typed) registers a handler with such a type as its
/// first argument.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use tower_socketio::{Namespace, Socket, TypedEvent};
///
/// #[derive(Serialize, Deserialize)]
/// struct Typing {
///     room: String,
/// }
///
/// impl TypedEvent for Typing {
///     const NAME: &'static str = "typing";
///     type Reply = ();
/// }
///
/// async fn typing(event: Typing, socket: Socket) {
///     socket.to(&event.room).send(event);
/// }
///
/// let namespace: Namespace = Namespace::new().on_typed(typing);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a typed event",
    label = "does not name an event",
    note = "the first argument of a handler given to `on_typed` implements `TypedEvent`"
)]
pub trait TypedEvent: Serialize + DeserializeOwned + Send + 'static {
    /// The name of the event.
    const NAME: &'static str;

    /// The type of the reply: one argument, or none if it is `()`.
    type Reply: Serialize + DeserializeOwned + Send + 'static;

    /// Whether each field is an argument of its own.
    ///
    /// If `false`, the event has one argument, whatever its type is. If `true`, the type is a tuple
    /// struct of two fields or more, or a unit struct, which has no argument. A struct of another
    /// form cannot be sent: that is logged, or returned as an error, as for [`Args`](crate::Args).
    ///
    /// Default: `false`.
    ///
    /// ```
    /// use serde::{Deserialize, Serialize};
    /// use tower_socketio::{Namespace, Socket, TypedEvent};
    ///
    /// // `socket.emit("move", 3, 4)`
    /// #[derive(Serialize, Deserialize)]
    /// struct Move(i32, i32);
    ///
    /// impl TypedEvent for Move {
    ///     const NAME: &'static str = "move";
    ///     const SPREAD: bool = true;
    ///     type Reply = ();
    /// }
    ///
    /// async fn on_move(Move(x, y): Move, socket: Socket) {
    ///     socket.broadcast().send(Move(x, y));
    /// }
    ///
    /// let namespace: Namespace = Namespace::new().on_typed(on_move);
    /// ```
    const SPREAD: bool = false;
}

/// The arguments of a typed event.
pub(crate) struct TypedArgs<E>(pub(crate) E);

impl<E: TypedEvent> IntoArgs for TypedArgs<E> {
    fn into_args(self, out: &mut ArgsWriter) -> Result<(), EncodeError> {
        if E::SPREAD {
            out.push_all(&self.0)
        } else {
            out.push(&self.0)
        }
    }
}
