//! A message of the classic Redis adapter, as a broadcast, a request and a response.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tower_socketio::internals::rewrite_classic;

/// The start of a broadcast in MessagePack, up to the argument of its event.
const BROADCAST: &[u8] = b"\x93\xa1a\x83\xa4type\x02\xa3nsp\xa1/\xa4data\x92\xa1x";

fuzz_target!(|data: &[u8]| {
    check(data);
    check(&[BROADCAST, data, b"\x80"].concat());
});

fn check(data: &[u8]) {
    for written in rewrite_classic(&Bytes::copy_from_slice(data)) {
        // The first writing leaves out what nothing reads.
        for again in rewrite_classic(&written.into()) {
            let third = rewrite_classic(&again.clone().into());
            assert!(third.contains(&again));
        }
    }
}
