//! The packets of a polling body, in both revisions.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tower_socketio::internals::Packets;

fuzz_target!(|data: &[u8]| {
    let body = Bytes::copy_from_slice(data);
    let bodies = [
        Packets::new(body.clone()),
        Packets::with_lengths(body.clone(), false),
        Packets::with_lengths(body, true),
    ];
    for packets in bodies.into_iter().flatten() {
        // Each packet is at least a byte, and nothing follows an error.
        let packets: Vec<_> = packets.collect();
        assert!(packets.len() <= data.len() + 1);
        let errors = packets.iter().filter(|packet| packet.is_err()).count();
        assert!(errors == 0 || errors == 1 && packets.last().is_some_and(Result::is_err));
    }
});
