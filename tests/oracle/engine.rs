//! Polling bodies of Engine.IO, compared with `engine.io-parser`. Bodies of revision 3 are compared
//! with the parser in Node's server.

use bytes::Bytes;
use tower_socketio::engine::{Message, Revision, Text as EngineText};
use tower_socketio::internals::{EnginePacket, Packets, encode_payload};

use crate::chance::Chance;
use crate::grammar::Sent;
use crate::judge::{Judge, Reader, Writer};
use crate::packets;
use crate::value::{self, Text, Value};
use crate::{BATCH, how_many, seed};

/// A packet in a form that both parsers have: its type, and its data if they matter.
#[derive(Clone, Debug, PartialEq)]
struct Packet {
    kind: &'static str,
    data: Value,
}

const KINDS: [&str; 7] = [
    "open", "close", "ping", "pong", "message", "upgrade", "noop",
];

impl Packet {
    /// Keeps the data of messages, and the data `probe` of pings and pongs. Other data do not
    /// matter.
    fn new(kind: &'static str, data: Value) -> Self {
        let probe = Value::Text(Text::from("probe"));
        let data = match kind {
            // A message without data is an empty string for one parser and `undefined` for the
            // other.
            "message" if data == Value::Undefined => Value::Text(Text::from("")),
            "message" => data,
            "ping" | "pong" if data == probe => probe,
            _ => Value::Undefined,
        };
        Self { kind, data }
    }
}

impl From<EnginePacket> for Packet {
    fn from(packet: EnginePacket) -> Self {
        let probe = |probe| match probe {
            true => Value::Text(Text::from("probe")),
            false => Value::Undefined,
        };
        match packet {
            EnginePacket::Open(_) => Self::new("open", Value::Undefined),
            EnginePacket::Close => Self::new("close", Value::Undefined),
            EnginePacket::Ping { probe: data } => Self::new("ping", probe(data)),
            EnginePacket::Pong { probe: data } => Self::new("pong", probe(data)),
            EnginePacket::Message(Message::Text(text)) => {
                let text = std::str::from_utf8(text.as_bytes()).expect("the body is UTF-8");
                Self::new("message", Value::Text(text.into()))
            }
            EnginePacket::Message(Message::Binary(bytes)) => {
                Self::new("message", Value::Bytes(bytes.to_vec()))
            }
            EnginePacket::Message(other) => panic!("{other:?}"),
            EnginePacket::Upgrade => Self::new("upgrade", Value::Undefined),
            EnginePacket::Noop => Self::new("noop", Value::Undefined),
        }
    }
}

/// Returns the packets that the judge has read up to the first error, and whether there was an
/// error.
fn theirs(answer: &[u8]) -> (Vec<Packet>, bool) {
    let mut answer = Reader(answer);
    let mut packets = Vec::new();
    while !answer.0.is_empty() {
        let (kind, data) = (answer.value(), answer.value());
        let kind = match &kind {
            Value::Text(kind) => KINDS.iter().find(|known| *kind == Text::from(**known)),
            _ => None,
        };
        match kind {
            Some(kind) => packets.push(Packet::new(kind, data)),
            None => return (packets, true),
        }
    }
    (packets, false)
}

fn ours(packets: Result<Packets, impl Sized>) -> (Vec<Packet>, bool) {
    let Ok(packets) = packets else {
        return (Vec::new(), true);
    };
    let mut read = Vec::new();
    for packet in packets {
        match packet {
            Ok(packet) => read.push(packet.into()),
            Err(_) => return (read, true),
        }
    }
    (read, false)
}

/// A body that the two parsers read differently.
struct Difference<'a> {
    body: &'a [u8],
    /// The first packet that only Node has read.
    record: Option<&'a [u8]>,
}

struct Deviation {
    why: &'static str,
    is_it: fn(&Difference<'_>) -> bool,
}

const SEPARATED: &[Deviation] = &[
    Deviation {
        why: "a body is UTF-8; Node reads U+FFFD in place of other bytes",
        is_it: |it| std::str::from_utf8(it.body).is_err(),
    },
    Deviation {
        why: "base64 has the form that clients write; Node skips other characters, and reads the URL-safe alphabet too",
        is_it: |it| {
            it.record
                .is_some_and(|record| record.starts_with(b"b") && !is_canonical(&record[1..]))
        },
    },
];

const WITH_LENGTHS: &[Deviation] = &[
    Deviation {
        why: "a body is UTF-8; Node reads U+FFFD in place of other bytes",
        is_it: |it| std::str::from_utf8(it.body).is_err(),
    },
    Deviation {
        why: "base64 has the form that clients write; Node skips other characters, and reads the URL-safe alphabet too",
        is_it: |it| {
            it.record
                .is_some_and(|record| record.starts_with(b"b4") && !is_canonical(&record[2..]))
        },
    },
    Deviation {
        why: "bytes are a message; Node also reads a ping or a close from base64",
        is_it: |it| {
            it.record
                .is_some_and(|record| record.starts_with(b"b") && !record.starts_with(b"b4"))
        },
    },
    Deviation {
        why: "a length is up to nine digits; Node reads white space, signs, exponents and fractions too",
        is_it: |it| it.record.is_none() && has_odd_length(it.body),
    },
    Deviation {
        why: "a length does not end within a character; Node cuts it in two",
        is_it: |it| it.record.is_none() && !it.body.is_ascii(),
    },
];

fn is_canonical(base64: &[u8]) -> bool {
    let digits = base64
        .iter()
        .rev()
        .skip_while(|byte| **byte == b'=')
        .count();
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    // The unused bits of the last digit must be zero.
    let value = |digit: u8| match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let spare = match digits % 4 {
        2 => 0b1111,
        3 => 0b11,
        _ => 0,
    };
    base64.len() % 4 == 0
        && base64.len() - digits <= 2
        && base64[..digits].iter().all(is_digit)
        && (digits == 0 || value(base64[digits - 1]) & spare == 0)
}

/// Returns whether a body of revision 3 has a length that is not one to nine digits. Node's parser
/// has read the body at least up to this length.
fn has_odd_length(body: &[u8]) -> bool {
    let mut rest: Vec<u16> = String::from_utf8_lossy(body).encode_utf16().collect();
    while let Some(colon) = rest.iter().position(|unit| *unit == u16::from(b':')) {
        let length = String::from_utf16_lossy(&rest[..colon]);
        if length.is_empty()
            || length.len() > 9
            || !length.bytes().all(|byte| byte.is_ascii_digit())
        {
            return true;
        }
        let end = colon + 1 + length.parse::<usize>().unwrap_or(0);
        if end > rest.len() {
            return false;
        }
        rest.drain(..end);
    }
    false
}

#[test]
#[ignore = "needs Node.js and the packages of tests/interop"]
fn bodies_are_read_as_by_the_official_parser() {
    let mut judge = Judge::start();
    let mut chance = Chance::new(seed());
    for revision in [Revision::V4, Revision::V3] {
        let list = if revision == Revision::V4 {
            SEPARATED
        } else {
            WITH_LENGTHS
        };
        let mut seen = vec![0; list.len()];
        let (mut read, mut valid) = (0, 0);
        while read < how_many() / 4 {
            let bodies: Vec<_> = (0..BATCH)
                .map(|_| any_body(&mut chance, revision))
                .collect();
            let questions: Vec<_> = bodies.iter().map(|body| question(revision, body)).collect();
            let answers = judge.ask(&questions);
            for (body, answer) in bodies.iter().zip(&answers) {
                read += 1;
                let theirs = theirs(answer);
                let bytes = Bytes::copy_from_slice(body);
                let ours = match revision {
                    Revision::V4 => ours(Packets::new(bytes)),
                    _ => ours(Packets::with_lengths(bytes, false)),
                };
                if ours == theirs {
                    valid += usize::from(!ours.1);
                    continue;
                }
                let (mine, their) = (&ours.0, &theirs.0);
                let is_prefix = mine.len() <= their.len() && their[..mine.len()] == mine[..];
                assert!(
                    ours.1 && is_prefix,
                    "{}\n{ours:?}\n{theirs:?}",
                    body.escape_ascii()
                );
                let record = records(revision, body).get(mine.len()).cloned();
                let difference = Difference {
                    body,
                    record: record.as_deref(),
                };
                let found = list
                    .iter()
                    .position(|deviation| (deviation.is_it)(&difference));
                let found = found
                    .unwrap_or_else(|| panic!("{}\n{ours:?}\n{theirs:?}", body.escape_ascii()));
                seen[found] += 1;
            }
        }
        eprintln!("{revision:?}: {read} bodies, {valid} valid");
        for (deviation, count) in list.iter().zip(&seen) {
            eprintln!("{count:>8}  {}", deviation.why);
            assert!(*count > 0, "no body has shown: {}", deviation.why);
        }
        assert!(valid * 4 > read, "too few valid bodies");
    }
}

fn question(revision: Revision, body: &[u8]) -> Writer {
    let mut question = match revision {
        Revision::V4 => Writer::operation(b'p'),
        _ => {
            let mut question = Writer::operation(b'v');
            question.byte(0);
            question
        }
    };
    question.bytes(body);
    question
}

/// Splits a body into its encoded packets, up to the first error.
fn records(revision: Revision, body: &[u8]) -> Vec<Vec<u8>> {
    if revision == Revision::V4 {
        return body
            .split(|byte| *byte == 0x1e)
            .map(<[u8]>::to_vec)
            .collect();
    }
    let mut rest: Vec<u16> = String::from_utf8_lossy(body).encode_utf16().collect();
    let mut records = Vec::new();
    while let Some(colon) = rest.iter().position(|unit| *unit == u16::from(b':')) {
        let length = String::from_utf16_lossy(&rest[..colon]);
        let is_length = length.len() <= 9 && length.bytes().all(|byte| byte.is_ascii_digit());
        let Some(length) = length.parse::<usize>().ok().filter(|_| is_length) else {
            break;
        };
        let end = colon + 1 + length;
        if end > rest.len() {
            break;
        }
        let Ok(record) = String::from_utf16(&rest[colon + 1..end]) else {
            break;
        };
        // Node's parser skips an empty packet too.
        if !record.is_empty() {
            records.push(record.into_bytes());
        }
        rest.drain(..end);
    }
    records
}

fn any_body(chance: &mut Chance, revision: Revision) -> Vec<u8> {
    let packets: Vec<_> = (0..1 + chance.below(4))
        .map(|_| any_engine_packet(chance))
        .collect();
    let (body, _) = encode_payload(packets, revision, true);
    let mut body = body.to_vec();
    if chance.one_in(10) {
        body.extend_from_slice("2:4😀".as_bytes());
    }
    if chance.one_in(2) {
        let odd: [&[u8]; 8] = [
            b"b", b"bAQ", b"bAQI", b"bA-_=", b"b4AQ=", b"2probe!", b"7", b" 1:2",
        ];
        if chance.one_in(3) {
            let at = chance.below(body.len() + 1);
            let odd = chance.pick(&odd);
            body.splice(at..at, odd.iter().copied());
        } else {
            chance.mutate(&mut body, b"0123456789b=:-\x1e AZ\xff\x80e.");
        }
    }
    body
}

fn any_engine_packet(chance: &mut Chance) -> EnginePacket {
    match chance.below(12) {
        0 => EnginePacket::Close,
        1 => EnginePacket::Ping {
            probe: chance.one_in(2),
        },
        2 => EnginePacket::Pong {
            probe: chance.one_in(2),
        },
        3 => EnginePacket::Upgrade,
        4 => EnginePacket::Noop,
        5..=7 => EnginePacket::Message(Message::Binary(chance.bytes(9).into())),
        _ => {
            let text = String::from_utf16(&value::any_text(chance).0).expect("whole characters");
            let text = text.replace('\u{1e}', "");
            EnginePacket::Message(EngineText::from(text.as_str()).into())
        }
    }
}

/// Our encoder and Node's encoders write the same bodies.
#[test]
#[ignore = "needs Node.js and the packages of tests/interop"]
fn bodies_are_written_as_by_the_official_parser() {
    let mut judge = Judge::start();
    let mut chance = Chance::new(seed());
    for (revision, base64) in [
        (Revision::V4, true),
        (Revision::V3, true),
        (Revision::V3, false),
    ] {
        let mut written = 0;
        while written < how_many() / 8 {
            let bodies: Vec<Vec<_>> = (0..BATCH)
                .map(|_| {
                    (0..1 + chance.below(5))
                        .map(|_| any_engine_packet(&mut chance))
                        .collect()
                })
                .collect();
            let ask = |packets: &Vec<EnginePacket>| {
                let mut question = match revision {
                    Revision::V4 => Writer::operation(b'P'),
                    _ => {
                        let mut question = Writer::operation(b'V');
                        question.byte(u8::from(!base64));
                        question
                    }
                };
                for packet in packets.iter().cloned().map(Packet::from) {
                    question.value(&Value::Text(packet.kind.into()));
                    question.value(&packet.data);
                }
                question
            };
            let questions: Vec<_> = bodies.iter().map(ask).collect();
            let answers = judge.ask(&questions);
            for (packets, answer) in bodies.into_iter().zip(&answers) {
                let theirs = match revision {
                    Revision::V4 => Reader(answer).bytes().to_vec(),
                    _ => match packets::messages(answer).remove(0) {
                        Sent::Text(body) | Sent::Bytes(body) => body,
                    },
                };
                let (ours, _) = encode_payload(packets.clone(), revision, base64);
                assert_eq!(
                    ours.escape_ascii().to_string(),
                    theirs.escape_ascii().to_string(),
                    "{packets:?}"
                );
            }
            written += BATCH;
        }
    }
}

/// Our parser reads the bodies of our encoder, in both revisions and all forms.
#[test]
fn bodies_that_we_write_we_read() {
    let mut chance = Chance::new(seed());
    for (revision, base64) in [
        (Revision::V4, true),
        (Revision::V3, true),
        (Revision::V3, false),
    ] {
        for _ in 0..how_many() / 4 {
            let packets: Vec<_> = (0..1 + chance.below(5))
                .map(|_| any_engine_packet(&mut chance))
                .collect();
            let (body, is_binary) = encode_payload(packets.clone(), revision, base64);
            let read: Vec<_> = match revision {
                Revision::V4 => Packets::new(body).expect("UTF-8").collect(),
                _ => Packets::with_lengths(body, is_binary)
                    .expect("not empty")
                    .collect(),
            };
            assert_eq!(read, packets.into_iter().map(Ok).collect::<Vec<_>>());
        }
    }
}
