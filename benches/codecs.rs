//! Packets, payloads, arguments and frames, without a server:
//! `cargo bench --bench codecs --features unstable-internals`.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use tower_socketio::Args;
use tower_socketio::engine::{Message, Text};
use tower_socketio::internals::{FrameDecoder, Packets};
use tower_socketio::protocol::{JsonParser, Kind, NamespaceName, Packet, Parser, Payload};

/// A typical event of an application, with an object.
const EVENT: &str =
    r#"2/chat,17["say",{"room":"lobby","text":"good morning","id":42,"tags":["a","b"]},true]"#;

fn packets(c: &mut Criterion) {
    let parser = JsonParser::default();
    c.bench_function("packet/decode", |b| {
        let mut decoder = parser.decoder();
        let text = Bytes::from_static(EVENT.as_bytes());
        b.iter(|| {
            let message = Message::Text(Text::received(text.clone()));
            black_box(decoder.decode(message).expect("a packet"))
        });
    });
    c.bench_function("packet/encode", |b| {
        let namespace = NamespaceName::from("/chat");
        let args = || Payload::event("said", namespace.len(), Args((42, "good morning")));
        b.iter_batched(
            || Packet {
                namespace: namespace.clone(),
                kind: Kind::Event,
                ack: Some(17),
                payload: args().expect("serializable"),
            },
            |packet| parser.encode(packet),
            BatchSize::SmallInput,
        );
    });
}

fn arguments(c: &mut Criterion) {
    #[derive(serde::Deserialize)]
    #[allow(dead_code, reason = "it is read, and that is all")]
    struct Say {
        room: String,
        text: String,
        id: u32,
        tags: Vec<String>,
    }

    c.bench_function("args/write", |b| {
        b.iter(|| Payload::event("said", 1, Args((42, black_box("good morning"), true))));
    });
    c.bench_function("args/read", |b| {
        let mut decoder = JsonParser::default().decoder();
        let message = Message::Text(Text::received(Bytes::from_static(EVENT.as_bytes())));
        let packet = decoder.decode(message).expect("valid").expect("whole");
        b.iter_batched(
            || packet.payload.clone(),
            |mut payload| payload.read_all::<(Say, bool)>().expect("the arguments"),
            BatchSize::SmallInput,
        );
    });
}

fn payloads(c: &mut Criterion) {
    let body = Bytes::from([r#"42["message","0123456789"]"#; 16].join("\x1e"));
    c.bench_function("polling body/16 packets", |b| {
        b.iter(|| Packets::new(body.clone()).expect("UTF-8").count());
    });
}

fn frames(c: &mut Criterion) {
    let mut frame = vec![0x81, 0x80 | 50, 1, 2, 3, 4];
    frame.extend((0..50).map(|at| b'4' ^ [1, 2, 3, 4][at % 4]));
    let frames = frame.repeat(16);
    c.bench_function("websocket/16 frames of 50 bytes", |b| {
        let mut decoder = FrameDecoder::new(1_000_000);
        b.iter_batched_ref(
            || frames.clone(),
            |input| decoder.decode(input, |incoming| drop(black_box(incoming))),
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, packets, arguments, payloads, frames);
criterion_main!(benches);
