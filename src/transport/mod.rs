//! I/O drivers: bytes ↔ sessions. They know packets, not events.
//!
//! A driver does four things. It hands what arrives to the session, while the session wants input.
//! It takes what the session has for its transport and writes it. It tells the session when the
//! transport is gone, or takes no more. It ends when the session says that it is finished with it.
//!
//! | file | |
//! |---|---|
//! | [`front`] | HTTP requests → sessions: handshake, polls, posts, upgrades |
//! | [`options`] | who may connect, and what answers carry |
//! | [`origin`], [`cors`] | which pages may, and what browsers are told of it |
//! | [`client`] | the files of the JavaScript client |
//! | [`compress`] | bodies that leave smaller |
//! | [`cookie`] | the cookie for load balancers |
//! | [`refusal`] | why a request is not served |
//! | [`polling`] | one GET or POST ↔ a session |
//! | [`websocket`] | one byte stream ↔ a session |
//! | [`stream`] | that byte stream |
//! | [`task`] | the one task of a session |
//! | [`raw`] | Engine.IO on its own |

mod client;
mod compress;
mod cookie;
mod cors;
mod front;
mod options;
mod origin;
mod polling;
mod raw;
mod refusal;
mod stream;
mod task;
mod websocket;

pub use self::{
    cookie::{SameSite, SessionCookie},
    cors::Cors,
    options::HttpOptions,
    origin::Origins,
    raw::{EngineLayer, EngineService, EngineSocket, RawRequest},
    refusal::ConnectionError,
};
pub(crate) use self::{
    front::{Application, Front},
    task::Upper,
};
pub(crate) use crate::guard::guarded;
