//! The handles of the application to clients, rooms and the server. They are cheap to clone and
//! have no type parameters.

mod ack;
mod ack_stream;
mod broadcast;
mod cluster;
mod expiry;
mod handshake;
mod io;
mod remote;
mod scope;
mod shutdown;
mod socket;

pub(crate) use self::ack_stream::AskedClients;
#[cfg(feature = "admin-ui")]
pub(crate) use self::handshake::Shown;
#[cfg(feature = "unstable-internals")]
pub use self::io::held_bytes;
pub(crate) use self::socket::EmitErrorKind;
pub use self::{
    ack::{AckError, EmitWithAck},
    ack_stream::AckStream,
    broadcast::Broadcast,
    cluster::{Confirmation, Partial},
    handshake::Handshake,
    io::{Counts, SocketIo},
    remote::RemoteSocket,
    shutdown::Shutdown,
    socket::{EmitError, Socket, Volatile},
};
