//! Events with a type of their own.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// An event with its name and the types of what is sent and answered.
///
/// A handler that takes it as its first argument is registered with
/// [`Namespace::on_typed`](crate::Namespace::on_typed).
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
///     socket.to(&event.room).emit_typed(event);
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

    /// What is answered: one argument, or none if it is `()`.
    type Reply: Serialize + DeserializeOwned + Send + 'static;
}
