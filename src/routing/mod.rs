//! The path of an event to its handler.
//!
//! ```text
//! Event ──▶ Route ──▶ layers ──▶ extractors ──▶ handler ──▶ Reply
//! ```
//!
//! | file                | contents                                                      |
//! |---------------------|---------------------------------------------------------------|
//! | `namespace`         | [`Namespace`]: the handlers of events                         |
//! | `namespace_request` | [`NamespaceRequest`]: a CONNECT to a namespace without a path |
//! | `event`             | [`Event`]: the request                                        |
//! | `reply`             | [`Reply`]: the response; [`IntoReply`], [`ErrorReply`]        |
//! | `handler`           | [`Handler`]: the functions that are handlers; [`Route`]       |
//! | `extract`           | extractors                                                    |
//! | `middleware`        | layers from functions                                         |

mod event;
pub mod extract;
mod from_fn;
pub(crate) mod handler;
pub mod middleware;
mod namespace;
mod namespace_request;
mod reply;

pub use self::event::Event;
pub use self::extract::{AckSender, Auth, Params};
pub use self::handler::{Handler, Route};
pub use self::namespace::Namespace;
pub use self::namespace_request::NamespaceRequest;
pub use self::reply::{ErrorReply, IntoReply, Reply};
pub use crate::hub::DisconnectReason;

pub(crate) use self::namespace::Routes;
pub(crate) use self::namespace_request::Predicate;
