//! What a user holds: cheap to clone, no type parameters.

mod ack;
mod broadcast;
mod io;
mod socket;

pub use self::{
    ack::{AckError, AckStream, EmitWithAck},
    broadcast::Broadcast,
    io::{Counts, SocketIo},
    socket::{EmitError, Socket},
};
