//! The bytes of a WebSocket: the decoder's output does not depend on how they are cut.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tower_socketio::internals::{FrameDecoder, WebSocketError};

const MAX_MESSAGE: usize = 70_000;

fuzz_target!(|input: (&[u8], u8)| {
    let (data, cut) = input;
    let whole = decode(data.chunks(usize::MAX));
    assert_eq!(whole, decode(data.chunks(usize::from(cut) + 1)));
});

fn decode<'a>(reads: impl Iterator<Item = &'a [u8]>) -> (Vec<String>, Result<(), WebSocketError>) {
    let mut decoder = FrameDecoder::new(MAX_MESSAGE);
    let mut incoming = Vec::new();
    let mut result = Ok(());
    for read in reads {
        let mut read = read.to_vec();
        result = decoder.decode(&mut read, |each| incoming.push(format!("{each:?}")));
    }
    // Whether a message is a slice of the caller's buffer depends on the cuts.
    let incoming = incoming
        .into_iter()
        .map(|each| each.replace("Borrowed", "Owned"));
    (incoming.collect(), result)
}
