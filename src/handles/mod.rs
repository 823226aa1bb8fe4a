//! What a user holds: cheap to clone, no type parameters.

mod ack;
mod broadcast;
mod handshake;
mod io;
mod place;
mod remote;
mod socket;

pub use self::{
    ack::{AckError, AckStream, EmitWithAck},
    broadcast::Broadcast,
    handshake::Handshake,
    io::{Counts, SocketIo},
    remote::{ClusterError, RemoteSocket},
    socket::{EmitError, Socket},
};
