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
//! | `handler`           | [`Handler`]: the functions that are handlers                  |
//! | `route`             | [`Route`]: a handler and its layers as one type               |
//! | `server_event`      | [`ServerEvent`]: the events of other servers                  |
//! | `debug_handler`     | a macro that shows why a function is not a handler            |
//! | `extract`           | extractors                                                    |
//! | `middleware`        | layers from functions                                         |
//! | `rate_limit`        | the layer that limits how often clients may send              |

pub(crate) mod debug_handler;
mod event;
pub mod extract;
mod from_fn;
pub(crate) mod handler;
pub mod middleware;
mod namespace;
mod namespace_request;
#[cfg(feature = "rate-limit")]
pub mod rate_limit;
mod reply;
mod route;
mod server_event;

pub use self::event::Event;
pub use self::extract::{AckSender, Auth, Params};
pub use self::handler::Handler;
pub use self::namespace::Namespace;
pub use self::namespace_request::NamespaceRequest;
pub use self::reply::{ErrorReply, IntoReply, Reply};
pub use self::route::Route;
pub use self::server_event::{FromServerEvent, ServerEvent, ServerEventHandler};
pub use crate::hub::DisconnectReason;

pub(crate) use self::namespace::{EventRoute, Routes};
pub(crate) use self::namespace_request::Predicate;
