//! What a user holds: cheap to clone, no type parameters.

mod ack;
mod broadcast;
mod io;
mod place;
mod remote;
mod socket;

pub use self::{
    ack::{AckError, AckStream, EmitWithAck},
    broadcast::Broadcast,
    io::{Counts, SocketIo},
    remote::{ClusterError, RemoteSocket},
    socket::{EmitError, Socket},
};
