//! A whole server and its clients: see [`tower_socketio_fuzz::session`].

#![no_main]

use libfuzzer_sys::fuzz_target;
use tower_socketio_fuzz::session::play;

fuzz_target!(|script: &[u8]| play(script));
