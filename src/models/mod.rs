//! Models of concurrent parts of the crate, which loom runs in many thread schedules.
//!
//! A model runs the code of the crate itself. [loom](https://docs.rs/loom) runs each model once for
//! each schedule of its threads, up to a number of preemptions. `--cfg tower_socketio_model` builds
//! the crate for loom: [`sync`](crate::sync) uses loom's locks and atomics, each spawned task is a
//! thread of the model, and time stands still. `tests/models` builds and runs all models.
//!
//! | file | contents |
//! |---|---|
//! | [`session`] | the lock of a session and its wakers |
//! | [`acks`] | acknowledgements that the server awaits |
//! | [`upgrade`] | the hand-over of a session from polling to WebSocket |
//! | [`close`] | the end of a session while a socket connects |
//! | [`broker`] | the queue of commands to a broker |
//! | [`rooms`] | the table of rooms, and broadcasts |
//! | [`server`], [`stream`] | shared by the models: a server and its client, a byte stream |
//! | [`executor`] | the threads and futures of a model |

mod acks;
mod close;
pub(crate) mod executor;
mod rooms;
mod server;
mod session;
mod stream;
mod upgrade;
