//! From events to handlers.
//!
//! ```text
//! Event ──▶ Route ──▶ layers ──▶ extractors ──▶ handler ──▶ Reply
//! ```
//!
//! | file            | what it holds                                             |
//! |-----------------|-----------------------------------------------------------|
//! | `namespace`     | [`Namespace`]: which handler takes which event            |
//! | `asked`         | [`NamespaceRequest`]: a namespace that no path names      |
//! | `event`         | [`Event`], the request                                    |
//! | `reply`         | [`Reply`], the response; [`IntoReply`], [`ErrorReply`]        |
//! | `handler`       | [`Handler`]: what functions are handlers; [`Route`]       |
//! | `extract`       | what a handler can take                                   |
//! | `middleware`    | layers from functions                                     |

mod event;
pub mod extract;
pub mod handler;
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
