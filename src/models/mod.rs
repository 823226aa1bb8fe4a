//! Models: the crate's own code, in each schedule of its threads that matters.
//!
//! [loom](https://docs.rs/loom) runs a model again and again, and each time lets another thread go
//! first, up to a number of preemptions. `--cfg tower_socketio_model` builds the crate for it:
//! [`sync`](crate::sync) is made of loom's locks and atomics, each task that is spawned is a thread of
//! the model, and time stands still. `tests/models` builds and runs all of them.
//!
//! | file | what is modelled |
//! |---|---|
//! | [`session`] | the lock of a session and its wakers |
//! | [`acks`] | the acknowledgements that are awaited |
//! | [`upgrade`] | the hand-over of a session from polling to WebSocket |
//! | [`close`] | a session that ends while a socket connects |
//! | [`broker`] | the queue of commands to a broker |
//! | [`rooms`] | the table of rooms, and broadcasts |
//! | [`server`], [`stream`] | what they have in common: a server and its client, a byte stream |
//! | [`executor`] | runs models |

mod acks;
mod close;
pub(crate) mod executor;
mod rooms;
mod server;
mod session;
mod stream;
mod upgrade;
