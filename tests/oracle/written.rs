//! Packets that an application sends. The official parsers read the output of our encoders, and our
//! parsers read the output of the official encoders.

use tower_socketio::protocol::{self, Args, JsonParser, Kind, MsgpackParser, Parser, Payload};

use crate::chance::Chance;
use crate::grammar::Sent;
use crate::judge::{Judge, Writer};
use crate::packets::{self, Ack, Name, Packet, Step};
use crate::value::{self, Number, Text, Value};
use crate::{BATCH, how_many, msgpack, seed};

/// An official parser.
struct Official {
    name: &'static str,
    /// The operation of the judge that reads. `write` is the operation that writes.
    read: u8,
    write: u8,
    ours: fn() -> Box<dyn Parser>,
    /// Whether this is the parser of Socket.IO 2 clients. Their CONNECT has its data in the query
    /// of the namespace, and they send no CONNECT_ERROR.
    is_old: bool,
    is_msgpack: bool,
}

const OFFICIAL: [Official; 3] = [
    Official {
        name: "socket.io-parser",
        read: b'd',
        write: b'e',
        ours: || Box::new(JsonParser::default()),
        is_old: false,
        is_msgpack: false,
    },
    Official {
        name: "socket.io-parser of version 2",
        read: b'o',
        write: b'O',
        ours: || Box::new(JsonParser::default()),
        is_old: true,
        is_msgpack: false,
    },
    Official {
        name: "socket.io-msgpack-parser",
        read: b'm',
        write: b'M',
        ours: || Box::new(MsgpackParser::default()),
        is_old: false,
        is_msgpack: true,
    },
];

#[test]
#[ignore = "needs Node.js and the packages of tests/interop"]
fn what_we_write_is_read_by_the_official_parsers() {
    let mut judge = Judge::start();
    let mut chance = Chance::new(seed());
    for official in &OFFICIAL {
        let mut written = 0;
        while written < how_many() / 4 {
            let packets: Vec<_> = (0..BATCH)
                .map(|_| any_packet(&mut chance, official))
                .collect();
            let messages: Vec<_> = packets
                .iter()
                .map(|packet| encode(&*(official.ours)(), packet))
                .collect();
            let questions: Vec<_> = messages
                .iter()
                .map(|messages| {
                    let mut question = Writer::operation(official.read);
                    packets::write(messages, &mut question);
                    question
                })
                .collect();
            let answers = judge.ask(&questions);
            for ((packet, messages), answer) in packets.iter().zip(&messages).zip(&answers) {
                let steps = packets::theirs(answer, messages);
                let last = steps.last().expect("a step");
                assert_eq!(
                    *last,
                    Step::Packet(packet.clone()),
                    "{}: {messages:?}",
                    official.name
                );
                assert!(
                    steps[..steps.len() - 1]
                        .iter()
                        .all(|step| *step == Step::More)
                );
            }
            written += packets.len();
        }
    }
}

#[test]
#[ignore = "needs Node.js and the packages of tests/interop"]
fn what_the_official_parsers_write_is_read() {
    let mut judge = Judge::start();
    let mut chance = Chance::new(seed());
    for official in &OFFICIAL {
        let mut written = 0;
        while written < how_many() / 4 {
            let packets: Vec<_> = (0..BATCH)
                .map(|_| {
                    let mut packet = any_packet(&mut chance, official);
                    make_javascript(&mut packet, &mut chance, official);
                    packet
                })
                .collect();
            let questions: Vec<_> = packets
                .iter()
                .map(|packet| question(official, packet))
                .collect();
            let answers = judge.ask(&questions);
            for (packet, answer) in packets.iter().zip(&answers) {
                let messages = packets::messages(answer);
                let expected = Packet {
                    data: packet.data.clone().map(|data| match official.is_msgpack {
                        true => msgpack::as_json(&data).as_json(),
                        false => data.as_json().replaced(),
                    }),
                    ..packet.clone()
                };
                let mut decoder = (official.ours)().decoder();
                let mut steps = packets::ours(&mut *decoder, &messages);
                let (last, _) = steps.pop().expect("a step");
                assert_eq!(
                    last,
                    Step::Packet(expected),
                    "{}: {messages:?}",
                    official.name
                );
                assert!(steps.iter().all(|(step, _)| *step == Step::More));
            }
            written += packets.len();
        }
    }
}

/// Our parsers read the output of our encoders, for both formats and all kinds of packets.
#[test]
fn what_we_write_we_read() {
    let mut chance = Chance::new(seed());
    for official in &OFFICIAL {
        for _ in 0..how_many() / 4 {
            let mut packet = any_packet(&mut chance, official);
            if packet.ack != Ack::None && chance.one_in(4) {
                packet.ack = Ack::Exact(chance.bits());
            }
            let parser = (official.ours)();
            let messages = encode(&*parser, &packet);
            let mut steps = packets::ours(&mut *parser.decoder(), &messages);
            let (last, again) = steps.pop().expect("a step");
            assert_eq!(last, Step::Packet(packet), "{messages:?}");
            // The packet that was read is encoded to the same messages.
            let again = packets::sent(parser.encode(again.expect("a packet")));
            assert_eq!(again, messages);
        }
    }
}

/// Returns a random packet, with at most as many binary values as clients accept.
fn any_packet(chance: &mut Chance, official: &Official) -> Packet {
    const NAMES: [&str; 7] = [
        "message",
        "",
        "é\"\\",
        "error",
        "__proto__",
        "日本語",
        "\u{1f}😀",
    ];
    const NAMESPACES: [&str; 6] = ["/", "/chat", "/a/b", "/é\"", "/😀", "/1-2"];

    let kind = match chance.below(10) {
        0 => Kind::Connect,
        1 => Kind::Disconnect,
        2 if !official.is_old => Kind::ConnectError,
        3..=6 => Kind::Ack,
        _ => Kind::Event,
    };
    let has_args = matches!(kind, Kind::Event | Kind::Ack);
    let mut bytes = if has_args && chance.one_in(2) {
        chance.below(11)
    } else {
        0
    };
    let data = match kind {
        Kind::Event | Kind::Ack => {
            let len = chance.below(4);
            Value::Array(
                (0..len)
                    .map(|_| Value::generate(chance, 3, &mut bytes))
                    .collect(),
            )
        }
        Kind::Disconnect => Value::Undefined,
        Kind::Connect if official.is_old || chance.one_in(3) => Value::Undefined,
        Kind::Connect | Kind::ConnectError => {
            let key = value::any_key(chance);
            let value = Value::generate(chance, 3, &mut 0);
            Value::Object([(key, value)].into())
        }
    };
    let ack = match kind {
        Kind::Ack => Ack::Exact(chance.bits() >> (11 + chance.below(53))),
        Kind::Event if chance.one_in(2) => Ack::Exact(chance.below(1000) as u64),
        _ => Ack::None,
    };
    Packet {
        kind: kind as u8,
        namespace: chance.pick(&NAMESPACES).into(),
        ack,
        name: (kind == Kind::Event).then(|| Name::Text(chance.pick(&NAMES).into())),
        data: Ok(data),
    }
}

/// Puts JavaScript values into the packet that JSON or Rust does not have.
fn make_javascript(packet: &mut Packet, chance: &mut Chance, official: &Official) {
    let (odd, other) = (chance.below(4), chance.below(3));
    let change = |value: Value| match value {
        Value::Number(Number(n)) if official.is_msgpack && n.fract() == 0.0 && n.abs() >= 9e18 => {
            // notepack.io writes the lowest 64 bits of such a number.
            Value::number(0.5)
        }
        Value::Null if odd == 0 => Value::Undefined,
        Value::Bool(true) if odd == 1 => {
            Value::number([f64::NAN, f64::INFINITY, -f64::INFINITY][other])
        }
        Value::Text(Text(mut units)) if odd == 2 && !official.is_msgpack => {
            units.insert(units.len() / 2, [0xd800, 0xdc00, 0xd83d][other]);
            Value::Text(Text(units))
        }
        value => value,
    };
    if let Ok(data) = &mut packet.data {
        *data = data.map(&change, &Text::clone);
    }
}

/// Writes a packet with our encoder.
fn encode(parser: &dyn Parser, packet: &Packet) -> Vec<Sent> {
    let namespace = String::from_utf16(&packet.namespace.0).expect("a text");
    let data = packet.data.as_ref().expect("a value");
    let args = || match data {
        Value::Array(values) => Args(values),
        other => panic!("arguments {other:?}"),
    };
    let kind = Kind::from_number(packet.kind.into()).expect("a kind");
    let payload = match (kind, &packet.name) {
        (Kind::Event, Some(Name::Text(Text(name)))) => {
            let name = String::from_utf16(name).expect("a text");
            Payload::event(&name, namespace.len(), args())
        }
        (Kind::Ack, _) => Payload::args(namespace.len(), args()),
        (_, _) if *data == Value::Undefined => Ok(Payload::default()),
        (_, _) => Payload::object(namespace.len(), data),
    };
    packets::sent(parser.encode(protocol::Packet {
        namespace: namespace.as_str().into(),
        kind,
        ack: match packet.ack {
            Ack::Exact(ack) => Some(ack),
            _ => None,
        },
        payload: payload.expect("serializable"),
    }))
}

/// Returns the question that lets an official encoder write a packet.
fn question(official: &Official, packet: &Packet) -> Writer {
    let mut question = Writer::operation(official.write);
    question.byte(packet.kind);
    question.value(&Value::Text(packet.namespace.clone()));
    question.value(&packet.ack.as_f64().map_or(Value::Undefined, Value::number));
    let mut data = packet.data.clone().expect("a value");
    if let (Value::Array(values), Some(Name::Text(name))) = (&mut data, &packet.name) {
        values.insert(0, Value::Text(name.clone()));
    }
    question.value(&data);
    question
}
