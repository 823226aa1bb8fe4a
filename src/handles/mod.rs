//! The handles of the application to clients, rooms and the server. They are cheap to clone and
//! have no type parameters.

mod ack;
mod broadcast;
mod handshake;
mod io;
mod remote;
mod scope;
mod socket;

pub(crate) use self::socket::EmitErrorKind;
pub use self::{
    ack::{AckError, AckStream, EmitWithAck},
    broadcast::Broadcast,
    handshake::Handshake,
    io::{Counts, SocketIo},
    remote::{ClusterError, RemoteSocket},
    socket::{EmitError, Socket, Volatile},
};
