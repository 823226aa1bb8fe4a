//! The frames of a client's WebSocket, which the server reads in pieces.
//!
//! ```text
//! FORM LENGTH LENGTH LENGTH DATA
//! ```
//!
//! DATA is a sequence of frames. With [`BUILT`] it is a sequence of descriptions `FIRST-BYTE LENGTH
//! PAYLOAD`, from which the target builds masked frames.
//!
//! - The decoded messages depend neither on the pieces, nor on pauses between messages, nor on
//!   reads into the decoder's own buffer.
//! - No message is longer than the limit, before or after inflation, and each text is UTF-8.
//! - Nothing is decoded after an error or a close frame.
//! - A message that the server writes is decoded as the same message.

#![no_main]

use bytes::{BufMut, Bytes};
use libfuzzer_sys::fuzz_target;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tower_socketio::internals::{
    FrameDecoder, Incoming, WebSocketError, compressed_header, deflate, header,
};
use tower_socketio_fuzz::pieces;

const MAX_MESSAGE: usize = 70_000;

/// Whether compression was negotiated.
const DEFLATE: u8 = 1;
/// Whether DATA describes frames.
const BUILT: u8 = 2;
/// Whether the payload of a built frame with the bit RSV1 is compressed.
const COMPRESSED: u8 = 4;
/// Whether the decoder pauses after each message.
const PAUSES: u8 = 8;
/// Whether reads go into the decoder's buffer, when it offers one.
const DIRECT: u8 = 16;

#[derive(Debug, PartialEq)]
enum Got {
    Text(Bytes),
    Binary(Bytes),
    Ping(Vec<u8>),
    Pong,
    Close(Option<(u16, String)>),
}

fuzz_target!(|input: &[u8]| {
    let Some((&[form, first, second, third], data)) = input.split_first_chunk() else {
        return;
    };
    let built;
    let data = match form & BUILT {
        0 => data,
        _ => {
            built = build(data, form & COMPRESSED != 0);
            &built
        }
    };
    let (got, result) = decode(&[Bytes::copy_from_slice(data)], form & DEFLATE);
    let split = decode(&pieces(data, [first, second, third]), form);
    assert_eq!((&got, &result), (&split.0, &split.1), "depends on split");
    for (at, each) in got.iter().enumerate() {
        let is_last = at + 1 == got.len();
        check(each, is_last && result.is_ok());
    }
});

fn check(got: &Got, may_be_close: bool) {
    match got {
        Got::Text(text) => {
            assert!(std::str::from_utf8(text).is_ok());
            check_written(Data::Text, text, Got::Text);
        }
        Got::Binary(data) => check_written(Data::Binary, data, Got::Binary),
        Got::Ping(data) => assert!(data.len() <= 125),
        Got::Pong => {}
        Got::Close(_) => assert!(may_be_close, "a frame after the close frame"),
    }
}

/// Writes a message, plain and compressed, masks it like a client's frame, and decodes it.
fn check_written(opcode: Data, payload: &Bytes, expected: fn(Bytes) -> Got) {
    assert!(payload.len() <= MAX_MESSAGE);
    let (bytes, len) = header(OpCode::Data(opcode), payload.len());
    let plain = masked(&bytes[bytes.len() - len..], payload);
    assert_eq!(
        decode(&[plain], 0),
        (vec![expected(payload.clone())], Ok(()))
    );

    let compressed = deflate(&[payload]).expect("compressed");
    let (bytes, len) = compressed_header(OpCode::Data(opcode), compressed.len());
    let compressed = masked(&bytes[bytes.len() - len..], &compressed);
    assert_eq!(
        decode(&[compressed], DEFLATE),
        (vec![expected(payload.clone())], Ok(()))
    );
}

fn masked(header: &[u8], payload: &[u8]) -> Bytes {
    let mut frame = header.to_vec();
    frame[1] |= 0x80;
    frame.extend([0; 4]);
    frame.extend(payload);
    frame.into()
}

fn build(descriptions: &[u8], compresses: bool) -> Vec<u8> {
    let mut frames = Vec::new();
    let mut rest = descriptions;
    while let [first, len, after @ ..] = rest {
        let (payload, after) = after.split_at(after.len().min((*len).into()));
        rest = after;
        let is_compressed = compresses && first & 0x40 != 0;
        let payload = match is_compressed.then(|| deflate(&[payload])) {
            Some(Some(compressed)) => compressed,
            _ => payload.to_vec(),
        };
        let mask = [*first, *len, 7, 0xe1];
        let len = payload.len();
        frames.push(*first);
        match len {
            0..126 => frames.push(0x80 | len as u8),
            _ => {
                frames.push(0x80 | 126);
                frames.extend((len as u16).to_be_bytes());
            }
        }
        frames.extend(mask);
        let masked = payload.iter().zip(mask.iter().cycle());
        frames.extend(masked.map(|(byte, mask)| byte ^ mask));
    }
    frames
}

fn decode(reads: &[Bytes], form: u8) -> (Vec<Got>, Result<(), WebSocketError>) {
    let mut decoder = FrameDecoder::new(MAX_MESSAGE);
    if form & DEFLATE != 0 {
        decoder = decoder.with_deflate();
    }
    let mut got = Vec::new();
    let mut result = Ok(());
    for read in reads {
        let mut read = read.to_vec();
        let mut rest = &mut read[..];
        if form & DIRECT != 0 {
            while let Some(mut room) = (!rest.is_empty()).then(|| decoder.read_buf()).flatten() {
                let fits = room.remaining_mut().min(rest.len());
                let (taken, after) = rest.split_at_mut(fits);
                room.put_slice(taken);
                rest = after;
                // `decode_while` returns the same error.
                let _ = decoder.filled(|incoming| got.push(Got::from(incoming)));
            }
        }
        loop {
            result = decoder.decode_while(&mut rest, |incoming| {
                got.push(Got::from(incoming));
                form & PAUSES == 0
            });
            if rest.is_empty() || result.is_err() || matches!(got.last(), Some(Got::Close(_))) {
                break;
            }
        }
    }
    // An error is final.
    if result.is_err() {
        let later = decoder.decode(&mut [0x81, 0x80, 0, 0, 0, 0], |_| panic!("after an error"));
        assert_eq!(later, result);
    }
    (got, result)
}

impl From<Incoming<'_>> for Got {
    fn from(incoming: Incoming<'_>) -> Self {
        match incoming {
            Incoming::Text(text) => Self::Text(text.into_bytes()),
            Incoming::Binary(data) => Self::Binary(data.into_bytes()),
            Incoming::Ping(data) => Self::Ping(data.to_vec()),
            Incoming::Pong => Self::Pong,
            Incoming::Close(close) => {
                Self::Close(close.map(|(code, reason)| (code, reason.to_owned())))
            }
        }
    }
}
