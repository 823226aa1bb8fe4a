//! Engine.IO sessions without I/O ([protocol revision 4]).
//!
//! A [`Session`] is one client's Engine.IO connection, over one transport after another. It does no
//! I/O and reads no clock. Its driver passes in packets, commands and the current time. After each
//! input the driver polls the session for packets to send, events and the next deadline.
//!
//! | | call |
//! |---|---|
//! | state | [`Session::transport`], [`Session::wants_read`], [`Session::finished`] |
//! | input from the network | [`Session::handle_packet`], [`Session::handle_upgrade_request`], [`Session::handle_poll`], [`Session::handle_post`], [`Session::handle_transport_closed`], [`Session::handle_timeout`] |
//! | input from the application | [`Session::send`], [`Session::close`], [`Session::discard`], [`Session::handle_consumed`] |
//! | output, after each input | [`Session::poll_transmit`], [`Session::poll_timeout`], [`Session::poll_event`] |
//!
//! [protocol revision 4]: https://github.com/socketio/socket.io/blob/main/docs/engine.io-protocol/v4-current.md

mod close_reason;
mod config;
mod handshake;
mod id;
pub(crate) mod jsonp;
mod message;
mod packet;
pub(crate) mod payload;
mod payload_eio3;
#[cfg(feature = "unstable-internals")]
pub(crate) mod raw;
pub(crate) mod record;
mod session;
pub(crate) mod timer;

pub(crate) use self::config::{HIGH_WATER, check_time};
pub(crate) use self::handshake::{HandshakeQuery, SessionParams};
pub use self::{
    close_reason::CloseReason,
    config::Config,
    handshake::{Refusal, Revision, Transport},
    id::{SessionId, SocketId},
    message::{Message, Text},
    packet::{EnginePacket, ParseError},
    payload::Packets,
    session::{Session, SessionEvent},
};
