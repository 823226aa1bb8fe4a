//! Typed events.

use serde::Serialize;
use serde::de::DeserializeOwned;

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
}
