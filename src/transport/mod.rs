//! I/O drivers: bytes ↔ sessions. They know packets, not events.
//!
//! A driver does four things. It hands what arrives to the session, while the session wants input.
//! It takes what the session has for its transport and writes it. It tells the session when the
//! transport is gone, or takes no more. It ends when the session says that it is finished with it.
//!
//! | file | |
//! |---|---|
//! | [`front`] | HTTP requests → sessions: handshake, polls, posts, upgrades |
//! | [`polling`] | one GET or POST ↔ a session |
//! | [`websocket`] | one byte stream ↔ a session |
//! | [`task`] | the one task of a session |
//! | [`raw`] | Engine.IO on its own |

mod front;
mod polling;
mod raw;
mod task;
mod websocket;

pub use self::raw::{EngineLayer, EngineService, EngineSocket, RawRequest};
pub(crate) use self::{
    front::{Application, Front},
    task::{Upper, guarded},
};
