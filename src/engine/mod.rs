//! Engine.IO sessions without I/O ([protocol revision 4]).
//!
//! A [`Session`] is one client, whatever transports it uses one after the other. It knows no
//! socket and no clock: who drives it says what arrived and what time it is, and takes out what is
//! to be sent.
//!
//! | | call |
//! |---|---|
//! | A. ask | [`Session::transport`], [`Session::wants_read`], [`Session::finished`] |
//! | B. from the network | [`Session::handle_packet`], [`Session::handle_upgrade`], [`Session::handle_poll`], [`Session::handle_transport_closed`], [`Session::handle_timeout`] |
//! | C. from the application | [`Session::send`], [`Session::close`], [`Session::discard`] |
//! | D. after B and C | [`Session::poll_transmit`], [`Session::poll_timeout`], [`Session::poll_event`] |
//!
//! | packet | id | who sends it |
//! |---|---|---|
//! | open | `0` | the server, first |
//! | close | `1` | who ends the session over polling |
//! | ping | `2` | the server, in revision 3 the client; the client with `probe` while it upgrades |
//! | pong | `3` | the answer |
//! | message | `4` | both |
//! | upgrade | `5` | the client, last step of an upgrade |
//! | noop | `6` | the server, to release a pending poll |
//!
//! Clients of [revision 3] are served if [`Config::allow_eio3`] says so.
//!
//! [revision 3]: https://github.com/socketio/socket.io/blob/main/docs/engine.io-protocol/v3.md
//! [protocol revision 4]: https://github.com/socketio/socket.io/blob/main/docs/engine.io-protocol/v4-current.md

mod handshake;
mod id;
pub(crate) mod jsonp;
mod message;
mod packet;
pub(crate) mod payload;
mod payload_v3;
mod session;
pub(crate) mod timer;

pub(crate) use self::session::check_time;
pub use self::{
    handshake::{Handshake, Opening, Refusal, Revision, Transport},
    id::{SessionId, SocketId},
    message::{Message, Text},
    packet::{Packet, ParseError},
    payload::Packets,
    session::{CloseReason, Config, Session, SessionEvent},
};

pub use crate::transport::{EngineLayer, EngineService, EngineSocket, RawRequest};
