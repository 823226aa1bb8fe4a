//! The MessagePack parser, compared with `socket.io-msgpack-parser`.

use tower_socketio::protocol::{MsgpackParser, Parser};

use crate::chance::Chance;
use crate::deviations::{Difference, MSGPACK, Report, What, has_prototype};
use crate::grammar::Sent;
use crate::judge::{Judge, Writer};
use crate::packets::{self, Name, Packet, Step};
use crate::value::{Number, Text, Value};
use crate::{BATCH, how_many, seed};

#[test]
#[ignore = "needs Node.js and the packages of tests/interop"]
fn msgpack_is_read_as_by_the_official_parser() {
    let mut judge = Judge::start();
    let mut chance = Chance::new(seed());
    let mut report = Report::new(MSGPACK);
    let (mut read, mut delivered) = (0, 0);
    while read < how_many() {
        let cases: Vec<_> = (0..BATCH)
            .map(|_| [Sent::Bytes(message(&mut chance))])
            .collect();
        let answers = ask(&mut judge, &cases);
        let mut echoes = Vec::new();
        let mut expected = Vec::new();
        for (messages, answer) in cases.iter().zip(&answers) {
            read += 1;
            let theirs = packets::theirs(answer, messages).remove(0);
            let parser = MsgpackParser::default();
            let (ours, packet) = packets::ours(&mut *parser.decoder(), messages).remove(0);
            let read = compare(messages, &ours, &theirs, &mut report);
            if let (true, Some(packet), Step::Packet(ours)) = (read, packet, ours) {
                delivered += 1;
                echoes.push(packets::sent(parser.encode(packet)));
                expected.push(ours);
            }
        }
        // The official parser must read the output of our encoder as our decoder read the message.
        let answers = ask(&mut judge, &echoes);
        for ((messages, expected), answer) in echoes.iter().zip(expected).zip(&answers) {
            let read = packets::theirs(answer, messages).remove(0);
            let Step::Packet(read) = &read else {
                report.fail(format!("{messages:?} was written, and read as {read:?}"));
                continue;
            };
            let is_same_ack = read.ack.as_f64() == expected.ack.as_f64();
            let name = match &read.name {
                // A name that is a number is still a number for the official parser, and a text for
                // ours.
                Some(Name::Number(Number(_))) => expected.name.clone(),
                name => name.clone(),
            };
            let read = Packet {
                ack: expected.ack,
                name,
                ..read.clone()
            };
            // An object in JavaScript has no such key: `__proto__` has set its prototype.
            let has_prototype = |data: &Value| data.any(&has_prototype);
            if expected.data.as_ref().is_ok_and(has_prototype) {
                continue;
            }
            if !is_same_ack || read != expected {
                report.fail(format!(
                    "{messages:?} was written for {expected:?}, and read as {read:?}"
                ));
            }
        }
    }
    eprintln!("{read} messages, {delivered} delivered");
    report.finish();
    assert!(delivered * 3 > read, "too few valid messages");
}

fn ask(judge: &mut Judge, cases: &[impl AsRef<[Sent]>]) -> Vec<Vec<u8>> {
    let questions: Vec<_> = cases
        .iter()
        .map(|messages| {
            let mut question = Writer::operation(b'm');
            packets::write(messages.as_ref(), &mut question);
            question
        })
        .collect();
    judge.ask(&questions)
}

/// Compares the results of both parsers for a message. Returns whether both have read a packet.
fn compare(messages: &[Sent], ours: &Step, theirs: &Step, report: &mut Report) -> bool {
    let text = format!("{messages:?}");
    let theirs = match theirs {
        Step::Packet(packet) => Step::Packet(Packet {
            data: packet.data.clone().map(|data| as_json(&data)),
            ..packet.clone()
        }),
        other => other.clone(),
    };
    let mut differs = |what| {
        report.add(&Difference {
            what,
            text: &text,
            ours,
            theirs: Some(&theirs),
        });
    };
    match (ours, &theirs) {
        (Step::Refused(_), Step::Refused(_)) => false,
        (Step::Packet(a), Step::Packet(b)) => {
            let differences = [
                (What::Kind, a.kind != b.kind),
                (What::Namespace, a.namespace != b.namespace),
                (What::Ack, a.ack != b.ack),
                (What::Name, a.name != b.name),
                (What::Data, a.data != b.data),
            ];
            for (what, is_different) in differences {
                if is_different {
                    differs(what);
                }
            }
            true
        }
        (Step::Refused(_), _) => {
            differs(What::OnlyOursRefuses);
            false
        }
        _ => {
            differs(What::OnlyTheirsRefuses);
            false
        }
    }
}

/// Returns the value as handlers see it with every parser: values that JSON does not have are
/// `null`.
pub(crate) fn as_json(data: &Value) -> Value {
    if *data == Value::Undefined {
        return Value::Undefined;
    }
    let change = |value| match value {
        Value::Undefined => Value::Null,
        Value::Number(Number(number)) if !number.is_finite() => Value::Null,
        value => value,
    };
    data.map(&change, &Text::clone)
}

/// Returns a message that is a packet, or nearly a packet.
fn message(chance: &mut Chance) -> Vec<u8> {
    let mut out = Vec::new();
    let kind = if chance.one_in(30) {
        5 + chance.below(3)
    } else {
        chance.below(5)
    };
    let mut fields: Vec<&[u8]> = vec![b"type", b"nsp"];
    let has_data = match kind {
        0 => chance.one_in(2),
        1 => false,
        _ => true,
    };
    if has_data != chance.one_in(30) {
        fields.push(b"data");
    }
    if matches!(kind, 2 | 3) && chance.one_in(2) || chance.one_in(30) {
        fields.push(b"id");
    }
    if chance.one_in(20) {
        let more: [&[u8]; 5] = [b"x", b"options", b"type", b"__proto__", b"nsp"];
        fields.push(chance.pick(&more));
    }
    let first = chance.below(fields.len());
    fields.rotate_left(first);
    out.push(0x80 | fields.len() as u8);
    for field in fields {
        text(chance, &mut out, field);
        match field {
            b"type" if chance.one_in(30) => value(chance, &mut out, 1),
            b"type" => number(chance, &mut out, kind as u64),
            b"nsp" if chance.one_in(40) => value(chance, &mut out, 1),
            b"nsp" => {
                let long = [b'/'; 300];
                let len = 250 + chance.below(12);
                let names: [&[u8]; 8] = [
                    b"/",
                    b"/",
                    b"/chat",
                    b"",
                    b"x",
                    b"/\xff",
                    b"/a,b",
                    &long[..len],
                ];
                let name = chance.pick(&names);
                text(chance, &mut out, name);
            }
            b"id" if chance.one_in(10) => value(chance, &mut out, 0),
            b"id" => {
                let shift = chance.below(64);
                let id = chance.bits() >> shift;
                number(chance, &mut out, id);
            }
            b"data" if chance.one_in(30) => value(chance, &mut out, 2),
            b"data" if matches!(kind, 2 | 3) => {
                let len = 1 + chance.below(4);
                length(chance, &mut out, 0x90, [None, Some(0xdc), Some(0xdd)], len);
                for n in 0..len {
                    match n {
                        0 if !chance.one_in(12) => text(chance, &mut out, b"message"),
                        _ => value(chance, &mut out, 3),
                    }
                }
            }
            b"data" => {
                out.push(0x81);
                key(chance, &mut out);
                value(chance, &mut out, 3);
            }
            _ => value(chance, &mut out, 1),
        }
    }
    if chance.one_in(4) {
        chance.mutate(
            &mut out,
            b"\x00\x01\x7f\x80\x81\x90\x91\xa0\xa1\xc0\xc1\xc4\xc7\xd4\xd7\xd9\xdc\xde\xff",
        );
    }
    // Node's parser fills an `ext 32` value byte by byte up to its declared length, however large
    // that is.
    out.iter_mut()
        .filter(|byte| **byte == 0xc9)
        .for_each(|byte| *byte = 0xc8);
    out
}

/// Writes the marker of an array, a map, a text or bytes: the short marker, or a marker with a
/// length of 8, 16 or 32 bits.
fn length(chance: &mut Chance, out: &mut Vec<u8>, short: u8, markers: [Option<u8>; 3], len: usize) {
    let max = if short == 0xa0 { 31 } else { 15 };
    if short != 0 && len <= max && !chance.one_in(5) {
        out.push(short | len as u8);
        return;
    }
    match (chance.below(3), markers) {
        (0, [Some(marker), ..]) if len < 256 => out.extend_from_slice(&[marker, len as u8]),
        (1, [_, Some(marker), _]) => {
            out.push(marker);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        (_, [.., marker]) => {
            out.extend(marker);
            out.extend_from_slice(&(len as u32).to_be_bytes());
        }
    }
}

fn text(chance: &mut Chance, out: &mut Vec<u8>, text: &[u8]) {
    length(
        chance,
        out,
        0xa0,
        [Some(0xd9), Some(0xda), Some(0xdb)],
        text.len(),
    );
    out.extend_from_slice(text);
}

/// Writes an integer in any width that holds it, or as a float.
fn number(chance: &mut Chance, out: &mut Vec<u8>, number: u64) {
    match chance.below(8) {
        0 if number <= 0xff => out.extend_from_slice(&[0xcc, number as u8]),
        1 if number <= 0xffff => {
            out.push(0xcd);
            out.extend_from_slice(&(number as u16).to_be_bytes());
        }
        2 if number <= 0xffff_ffff => {
            out.push(0xce);
            out.extend_from_slice(&(number as u32).to_be_bytes());
        }
        3 if number <= 0x7fff_ffff => {
            out.push(0xd2);
            out.extend_from_slice(&(number as u32).to_be_bytes());
        }
        4 if chance.one_in(4) => {
            out.push(0xcb);
            out.extend_from_slice(&(number as f64).to_be_bytes());
        }
        _ if number < 0x80 => out.push(number as u8),
        _ => {
            out.push(0xcf);
            out.extend_from_slice(&number.to_be_bytes());
        }
    }
}

fn key(chance: &mut Chance, out: &mut Vec<u8>) {
    match chance.below(30) {
        0 => value(chance, out, 0),
        1 => {
            out.push(0xcb);
            out.extend_from_slice(
                &[0.5_f64, 1.0, 1e21, -0.0, f64::NAN][chance.below(5)].to_be_bytes(),
            );
        }
        2 => {
            let key = chance.below(500) as u64;
            number(chance, out, key);
        }
        _ => {
            let keys: [&[u8]; 9] = [
                b"a",
                b"b",
                b"a",
                b"",
                b"__proto__",
                b"constructor",
                b"10",
                b"_placeholder",
                b"k\xff",
            ];
            let key = chance.pick(&keys);
            text(chance, out, key);
        }
    }
}

fn value(chance: &mut Chance, out: &mut Vec<u8>, depth: usize) {
    const TEXTS: [&[u8]; 11] = [
        b"",
        b"a",
        b"hello, world",
        b"\xc3\xa9",
        b"\xf0\x9f\x98\x80",
        b"\xff",
        b"a\xe2\x82",
        b"\xed\xa0\x80",
        b"\"\\\n\0",
        b"connect",
        b"\xf0\x9f\x98",
    ];
    if depth == 3 && chance.one_in(60) {
        let levels = 118 + chance.below(16);
        out.extend(std::iter::repeat_n(&b"\x91"[..], levels).flatten());
        out.push(0xc0);
        return;
    }
    match chance.below(if depth == 0 { 13 } else { 17 }) {
        0 => out.push(0xc0),
        1 => out.push(if chance.one_in(2) { 0xc2 } else { 0xc3 }),
        2 => {
            let shift = chance.below(64);
            let any = chance.bits() >> shift;
            number(chance, out, any);
        }
        3 => out.push(chance.bits() as u8 | 0xe0),
        4 => {
            out.push(0xd3);
            let shift = chance.below(64);
            out.extend_from_slice(&((chance.bits() as i64) >> shift).to_be_bytes());
        }
        5 => {
            let width = chance.below(3);
            out.push(0xd0 + width as u8);
            out.extend_from_slice(&chance.bits().to_be_bytes()[..1 << width]);
        }
        6 => {
            out.push(0xca);
            out.extend_from_slice(&(chance.bits() as u32).to_be_bytes());
        }
        7 => {
            out.push(0xcb);
            out.extend_from_slice(&crate::value::any_number(chance).to_be_bytes());
        }
        8 | 9 => {
            let any = chance.pick(&TEXTS);
            text(chance, out, any);
        }
        10 | 11 => {
            let bytes = chance.bytes(9);
            length(
                chance,
                out,
                0,
                [Some(0xc4), Some(0xc5), Some(0xc6)],
                bytes.len(),
            );
            out.extend_from_slice(&bytes);
        }
        12 => extension(chance, out),
        13 | 14 => {
            let len = chance.below(4);
            length(chance, out, 0x90, [None, Some(0xdc), Some(0xdd)], len);
            (0..len).for_each(|_| value(chance, out, depth - 1));
        }
        15 if chance.one_in(4) => out.extend_from_slice(b"\x82\xac_placeholder\xc3\xa3num\x00"),
        _ => {
            let len = chance.below(4);
            length(chance, out, 0x80, [None, Some(0xde), Some(0xdf)], len);
            for _ in 0..len {
                key(chance, out);
                value(chance, out, depth - 1);
            }
        }
    }
}

fn extension(chance: &mut Chance, out: &mut Vec<u8>) {
    let kind = [0, 0, 0, 0, 1, 127, 128, 255][chance.below(8)];
    match chance.below(4) {
        0 => out.extend_from_slice(&[0xd4, kind, 0]),
        1 => {
            out.extend_from_slice(&[0xd7, kind]);
            let time = match chance.below(4) {
                0 => chance.bits() as i64,
                1 => [
                    8_640_000_000_000_000,
                    8_640_000_000_000_001,
                    -8_640_000_000_000_000,
                    -1,
                ][chance.below(4)],
                2 => (chance.bits() as i64) >> 12,
                _ => (chance.bits() >> 23) as i64,
            };
            out.extend_from_slice(&time.to_be_bytes());
        }
        2 => {
            let width = chance.below(5);
            out.extend_from_slice(&[0xd4 + width as u8, kind]);
            let bytes: Vec<_> = (0..1 << width).map(|_| chance.bits() as u8).collect();
            out.extend_from_slice(&bytes);
        }
        _ => {
            let bytes = chance.bytes(9);
            let width = chance.below(3);
            out.push(0xc7 + width as u8);
            out.extend_from_slice(&(bytes.len() as u32).to_be_bytes()[4 - (1 << width)..]);
            out.push(kind);
            out.extend_from_slice(&bytes);
        }
    }
}
