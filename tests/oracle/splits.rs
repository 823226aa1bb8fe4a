//! Bytes that arrive in pieces. The result does not depend on the pieces, for the stream of a
//! WebSocket and for the body of a POST.

use std::convert::Infallible;
use std::io::Write;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use flate2::Compression;
use flate2::write::DeflateEncoder;
use tower_socketio::Args;
use tower_socketio::Namespace;
use tower_socketio::engine::Revision;
use tower_socketio::internals::{
    EnginePacket, FrameDecoder, Incoming, WebSocketError, encode_payload,
};
use tower_socketio::protocol::{JsonParser, Kind, NamespaceName, Packet, Parser, Payload};

use crate::chance::Chance;
use crate::support::{Polling, main_app};
use crate::value::{self, Value};
use crate::{how_many, seed};

/// The messages that a frame decoder has found, its last result, and whether a message is
/// incomplete.
type Outcome = (Vec<(char, Vec<u8>)>, Result<(), WebSocketError>, bool);

const LIMIT: usize = 2000;

#[test]
fn a_stream_of_frames_is_read_the_same_wherever_it_is_cut() {
    let mut chance = Chance::new(seed());
    let mut whole_streams = 0;
    for _ in 0..how_many() / 10 {
        let stream = frames(&mut chance);
        let whole = decode(&mut chance, &stream, false);
        whole_streams += usize::from(whole.1.is_ok() && !whole.2);
        for _ in 0..3 {
            let cut = decode(&mut chance, &stream, true);
            assert_eq!(cut, whole, "{}", stream.escape_ascii());
        }
    }
    assert!(whole_streams * 4 > how_many() / 10, "too few valid streams");
}

/// Decodes a stream in one piece or in many. Pieces go into the decoder's own buffer when it offers
/// one.
fn decode(chance: &mut Chance, mut stream: &[u8], cut: bool) -> Outcome {
    let mut decoder = FrameDecoder::new(LIMIT).with_deflate();
    let mut found = Vec::new();
    let mut on = |incoming: Incoming<'_>| {
        found.push(match incoming {
            Incoming::Text(payload) => ('t', payload.as_slice().to_vec()),
            Incoming::Binary(payload) => ('b', payload.as_slice().to_vec()),
            Incoming::Ping(data) => ('i', data.to_vec()),
            Incoming::Pong => ('o', Vec::new()),
            Incoming::Close(close) => ('c', format!("{close:?}").into_bytes()),
        });
    };
    let mut result = Ok(());
    let longest = 1 + chance.below(40);
    while !stream.is_empty() && result.is_ok() {
        let len = match cut {
            true => 1 + chance.below(longest.min(stream.len())),
            false => stream.len(),
        };
        let room = if cut { decoder.read_buf() } else { None };
        let (piece, rest) = match room {
            Some(mut room) => {
                let (piece, rest) = stream.split_at(len.min(bytes::BufMut::remaining_mut(&room)));
                bytes::BufMut::put_slice(&mut room, piece);
                (&[][..], rest)
            }
            None => stream.split_at(len),
        };
        result = match piece {
            [] => decoder.filled(&mut on),
            piece => decoder.decode(&mut piece.to_vec(), &mut on),
        };
        stream = rest;
    }
    let is_partial = result.is_ok() && decoder.is_partial();
    (found, result, is_partial)
}

/// Returns the frames of a few messages, with control frames between their fragments. Sometimes the
/// frames are mutated.
fn frames(chance: &mut Chance) -> Vec<u8> {
    let mut stream = Vec::new();
    for _ in 0..1 + chance.below(4) {
        let is_text = chance.one_in(2);
        let mut payload = match is_text {
            true => "né日😀 ".repeat(chance.below(30)).into_bytes(),
            false => chance.bytes(400),
        };
        let is_compressed = chance.one_in(3);
        if is_compressed {
            payload = deflate(&payload);
        }
        let mut opcode = if is_text { 1 } else { 2 } | if is_compressed { 0x40 } else { 0 };
        while chance.one_in(2) {
            let (piece, rest) = payload.split_at(chance.below(payload.len() + 1));
            frame(chance, &mut stream, opcode, piece);
            opcode = 0;
            payload = rest.to_vec();
            if chance.one_in(3) {
                let (kind, data) = (0x89 + chance.below(2) as u8, chance.bytes(10));
                frame(chance, &mut stream, kind, &data);
            }
        }
        frame(chance, &mut stream, 0x80 | opcode, &payload);
    }
    if chance.one_in(3) {
        frame(chance, &mut stream, 0x88, b"\x03\xe8bye");
    }
    if chance.one_in(4) {
        chance.mutate(&mut stream, b"\x00\x01\x02\x80\x81\x82\x88\xc1\xfe\xff");
    }
    stream
}

/// Appends a client's frame.
fn frame(chance: &mut Chance, stream: &mut Vec<u8>, first: u8, payload: &[u8]) {
    stream.push(first);
    match payload.len() {
        len @ ..=125 => stream.push(0x80 | len as u8),
        len => {
            stream.push(0x80 | 126);
            stream.extend_from_slice(&(len as u16).to_be_bytes());
        }
    }
    let mask = (chance.bits() as u32).to_be_bytes();
    stream.extend_from_slice(&mask);
    stream.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
}

/// Compresses a message as a client does: without the last four bytes of an empty block.
fn deflate(payload: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(payload).expect("memory");
    encoder.flush().expect("memory");
    let mut compressed = encoder.get_ref().clone();
    assert_eq!(
        compressed.split_off(compressed.len() - 4),
        [0, 0, 0xff, 0xff]
    );
    compressed
}

/// The arguments of events, in the order of their handlers.
type Heard = Arc<Mutex<Vec<Value>>>;

#[tokio::test]
async fn a_body_leads_to_the_same_events_wherever_it_is_cut() {
    let heard = Heard::default();
    let namespace = Namespace::new().fallback({
        let heard = Arc::clone(&heard);
        move |Args(args): Args<Vec<Value>>| {
            heard.lock().expect("no panic").push(Value::Array(args));
            std::future::ready(())
        }
    });
    let app = main_app(namespace.on("done", || std::future::ready("done"))).0;
    let mut client = Polling::connect(&app).await;
    let mut chance = Chance::new(seed());
    for _ in 0..how_many() / 40 {
        let (body, expected) = events(&mut chance);
        let mut rest = body;
        let mut pieces = Vec::new();
        let longest = 1 + chance.below(60);
        while !rest.is_empty() {
            let piece = rest.split_to(chance.below(longest.min(rest.len()) + 1));
            pieces.push(Ok::<_, Infallible>(piece));
        }
        let response = client
            .post(Body::from_stream(futures_util::stream::iter(pieces)))
            .await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(client.ask(r#"421["done"]"#).await, r#"431["done"]"#);
        assert_eq!(*heard.lock().expect("no panic"), expected);
        heard.lock().expect("no panic").clear();
    }
}

/// Returns the body of a few events, and their arguments.
fn events(chance: &mut Chance) -> (Bytes, Vec<Value>) {
    let mut packets = Vec::new();
    let mut expected = Vec::new();
    for _ in 0..1 + chance.below(5) {
        let mut bytes = chance.below(4);
        let args: Vec<_> = (0..chance.below(3))
            .map(|_| Value::generate(chance, 2, &mut bytes))
            .collect();
        let name = String::from_utf16(&value::any_text(chance).0).expect("whole characters");
        let event = Packet {
            namespace: NamespaceName::MAIN,
            kind: Kind::Event,
            ack: None,
            payload: Payload::event(&name, 1, Args(&args)).expect("serializable"),
        };
        packets.extend(
            JsonParser::default()
                .encode(event)
                .into_iter()
                .map(EnginePacket::Message),
        );
        expected.push(Value::Array(args));
    }
    let (body, _) = encode_payload(packets, Revision::V4, true);
    (body, expected)
}
