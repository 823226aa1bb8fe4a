//! The JSON parser, compared with `socket.io-parser`.

use tower_socketio::protocol::{self, JsonParser, Kind, NamespaceName, Parser, Payload};

use crate::chance::Chance;
use crate::deviations::{Difference, JSON, Report, What};
use crate::grammar::{self, Sent};
use crate::judge::{Judge, Writer};
use crate::packets::{self, Packet, Step};
use crate::{BATCH, how_many, seed};

/// Counts of the generated packets.
#[derive(Debug, Default)]
struct Counts {
    connections: usize,
    packets: usize,
    /// The packets that both parsers have read.
    delivered: usize,
    /// The packets that were encoded again for the official parser.
    echoed: usize,
}

#[test]
#[ignore = "needs Node.js and the packages of tests/interop"]
fn packets_are_read_as_by_the_official_parser() {
    let mut judge = Judge::start();
    let mut chance = Chance::new(seed());
    let mut report = Report::new(JSON);
    let mut counts = Counts::default();
    while counts.packets < how_many() {
        let cases: Vec<_> = (0..BATCH).map(|_| grammar::messages(&mut chance)).collect();
        let echoes = read(&mut judge, &cases, &mut report, &mut counts);
        read_again(&mut judge, &echoes, &mut report);
    }
    eprintln!("{counts:?}");
    report.finish();
    assert!(
        counts.delivered * 3 > counts.packets,
        "too few valid packets"
    );
}

/// The messages of our encoder, and the packet that the official parser must read from them.
struct Echo {
    messages: Vec<Sent>,
    expected: Packet,
}

/// Reads messages with both parsers, and compares the results. Returns the packets that both have
/// read, encoded again.
fn read(
    judge: &mut Judge,
    cases: &[Vec<Sent>],
    report: &mut Report,
    counts: &mut Counts,
) -> Vec<Echo> {
    let question = |messages: &Vec<Sent>| {
        let mut question = Writer::operation(b'd');
        packets::write(messages, &mut question);
        question
    };
    let questions: Vec<_> = cases.iter().map(question).collect();
    let answers = judge.ask(&questions);
    let mut echoes = Vec::new();
    for (messages, answer) in cases.iter().zip(&answers) {
        let theirs = packets::theirs(answer, messages);
        let ours = packets::ours(&mut *JsonParser::default().decoder(), messages);
        counts.connections += 1;
        counts.packets += messages
            .iter()
            .filter(|m| matches!(m, Sent::Text(_)))
            .count();
        for (packet, expected) in compare(messages, ours, &theirs, report) {
            counts.delivered += 1;
            echo(packet, expected, &mut echoes);
        }
    }
    counts.echoed += echoes.len();
    echoes
}

/// Compares the results of both parsers for the messages of a connection, up to the first message
/// that a parser refuses. Returns the packets that both have read, each as our packet and as
/// theirs.
fn compare(
    messages: &[Sent],
    ours: Vec<(Step, Option<protocol::Packet>)>,
    theirs: &[Step],
    report: &mut Report,
) -> Vec<(protocol::Packet, Packet)> {
    let mut both = Vec::new();
    let mut text = "";
    for (n, (our_step, packet)) in ours.into_iter().enumerate() {
        if let Sent::Text(bytes) = &messages[n] {
            text = std::str::from_utf8(bytes).unwrap_or_default();
        }
        let their_step = &theirs[n];
        // The result of the official parser after the attachments of the packet.
        let end = theirs[n..].iter().find(|step| **step != Step::More);
        let mut differs = |what| {
            report.add(&Difference {
                what,
                text,
                ours: &our_step,
                theirs: end,
            });
        };
        match (&our_step, their_step) {
            (Step::Refused(_), Step::Refused(_)) => return both,
            (Step::More, Step::More) => {}
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
                // The encoder writes the id that our decoder has read.
                let expected = Packet {
                    ack: a.ack,
                    ..b.clone()
                };
                both.extend(packet.map(|packet| (packet, expected)));
            }
            (Step::Refused(_), _) => {
                differs(What::OnlyOursRefuses);
                return both;
            }
            (_, Step::Refused(_)) => {
                differs(What::OnlyTheirsRefuses);
                return both;
            }
            _ => {
                differs(What::Steps);
                return both;
            }
        }
    }
    both
}

/// Encodes a packet that was read, and an event with the same arguments.
fn echo(packet: protocol::Packet, expected: Packet, echoes: &mut Vec<Echo>) {
    let parser = JsonParser::default();
    if matches!(packet.kind, Kind::Event | Kind::Ack) {
        let args = packet.payload.clone().into_args();
        let payload = Payload::event("echo", 1, args).expect("valid args");
        let event = protocol::Packet {
            namespace: NamespaceName::MAIN,
            kind: Kind::Event,
            ack: None,
            payload,
        };
        echoes.push(Echo {
            messages: packets::sent(parser.encode(event)),
            expected: Packet {
                kind: Kind::Event as u8,
                namespace: "/".into(),
                ack: packets::Ack::None,
                name: Some(packets::Name::Text("echo".into())),
                data: expected.data.clone(),
            },
        });
    }
    echoes.push(Echo {
        messages: packets::sent(parser.encode(packet)),
        expected,
    });
}

/// Reads the messages of our encoder with the official parser. The result must be exactly the
/// packet that was received first: our encoder keeps the spelling of values, also of values that
/// Rust types cannot hold.
fn read_again(judge: &mut Judge, echoes: &[Echo], report: &mut Report) {
    let question = |echo: &Echo| {
        let mut question = Writer::operation(b'd');
        packets::write(&echo.messages, &mut question);
        question
    };
    let questions: Vec<_> = echoes.iter().map(question).collect();
    let answers = judge.ask(&questions);
    for (Echo { messages, expected }, answer) in echoes.iter().zip(&answers) {
        let steps = packets::theirs(answer, messages);
        let read = match steps.last() {
            Some(Step::Packet(packet)) => packet,
            other => {
                report.fail(format!("{messages:?} was written, and read as {other:?}"));
                continue;
            }
        };
        let is_same_ack = read.ack.as_f64() == expected.ack.as_f64();
        let read = Packet {
            ack: expected.ack,
            ..read.clone()
        };
        if read != *expected || !is_same_ack {
            report.fail(format!(
                "{messages:?} was written for {expected:?}, and read as {read:?}"
            ));
        }
    }
}
