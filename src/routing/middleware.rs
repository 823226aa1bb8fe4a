//! Layers from functions, as in axum's `middleware` module.
//!
//! A middleware is an async function that takes an [`Event`](crate::Event) and a [`Next`]. It may inspect or
//! change the event, answer it without calling [`Next::run`], or change the reply.
//! [`from_fn`] turns it into a Tower layer for [`Namespace::layer`](crate::Namespace::layer) or
//! [`Handler::layer`](crate::Handler::layer).
//!
//! ```
//! use tower_socketio::middleware::{self, Next};
//! use tower_socketio::{Event, Namespace, ErrorReply, Reply};
//!
//! #[derive(Clone)]
//! struct Admin;
//!
//! async fn require_admin(event: Event, next: Next) -> Result<Reply, ErrorReply> {
//!     if event.socket().extension::<Admin>().is_none() {
//!         return Err(ErrorReply::new("admins only"));
//!     }
//!     Ok(next.run(event).await)
//! }
//!
//! async fn ban() {}
//!
//! async fn connect() {}
//!
//! // The layer is around the handlers before it, and not around the connect handler after it.
//! let namespace: Namespace = Namespace::new()
//!     .on("ban", ban)
//!     .layer(middleware::from_fn(require_admin))
//!     .on_connect(connect);
//! ```

pub use super::from_fn::{Next, from_fn, from_fn_with_state};
