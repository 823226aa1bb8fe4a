//! The intended differences between our parser and the official one, with their reasons.
//!
//! The test fails for a difference that is not in the list, and for an entry of the list that no
//! packet shows.

use std::collections::HashSet;
use std::fmt;

use crate::packets::{Ack, Name, Packet, Step};
use crate::tree::{Head, Tree, is_space};
use crate::value::{Number, Text, Value};

/// A difference between the results of both parsers for a message.
pub(crate) struct Difference<'a> {
    pub(crate) what: What,
    /// The text of the packet.
    pub(crate) text: &'a str,
    pub(crate) ours: &'a Step,
    /// The final result of the official parser for the same packet.
    pub(crate) theirs: Option<&'a Step>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Only our parser refuses the message.
    OnlyOursRefuses,
    OnlyTheirsRefuses,
    /// Only one parser has a complete packet.
    Steps,
    Kind,
    Namespace,
    Ack,
    Name,
    Data,
}

impl fmt::Debug for Difference<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} of {:?}\n  ours: {:?}\n  theirs: {:?}",
            self.what, self.text, self.ours, self.theirs
        )
    }
}

impl Difference<'_> {
    fn head(&self) -> Head<'_> {
        Head::read(self.text)
    }

    /// Returns whether only our parser refuses the packet, for this reason.
    fn is_refused(&self, reason: &str) -> bool {
        self.what == What::OnlyOursRefuses
            && matches!(self.ours, Step::Refused(ours) if ours == reason)
    }

    fn their_packet(&self) -> Option<&Packet> {
        match self.theirs {
            Some(Step::Packet(packet)) => Some(packet),
            _ => None,
        }
    }

    /// Returns whether the bytes of a message have this key. The result of the official parser does not
    /// show the value of `__proto__`, and only the last value of a repeated key.
    fn has_key(&self, key: &str) -> bool {
        let name = format!("{:x?}", key.as_bytes());
        self.text.contains(name.trim_matches(['[', ']']))
    }

    fn our_data(&self) -> Option<&Value> {
        match self.ours {
            Step::Packet(packet) => packet.data.as_ref().ok(),
            _ => None,
        }
    }

    /// Returns whether our data equal their data after `change` was applied to each value. Numbers
    /// as keys may be spelled differently.
    fn is_like(&self, change: &impl Fn(Value) -> Value) -> bool {
        match (self.our_data(), self.their_data()) {
            (Some(ours), Some(theirs)) => ours.is_like(theirs, change, &canonical_key),
            _ => false,
        }
    }

    fn their_data(&self) -> Option<&Value> {
        self.their_packet()?.data.as_ref().ok()
    }

    /// Returns the placeholders in the payload, and whether JavaScript sees them.
    fn placeholders<'a>(&self, tree: &'a Tree) -> Vec<(&'a Tree, bool)> {
        let mut found = Vec::new();
        tree.visit(true, &mut |value, seen| {
            if value.is_placeholder() {
                found.push((value, seen));
            }
        });
        found
    }

    /// Returns whether our parser refuses the packet because of a placeholder, the official parser
    /// delivers it, and `is_it` accepts the placeholders.
    fn is_placeholder(&self, is_it: impl Fn(&[(&Tree, bool)]) -> bool) -> bool {
        self.is_refused("placeholder does not name an attachment")
            && self.their_data().is_some()
            && Tree::read(self.head().payload).is_some_and(|tree| is_it(&self.placeholders(&tree)))
    }
}

pub(crate) struct Deviation {
    pub(crate) why: &'static str,
    pub(crate) is_it: fn(&Difference<'_>) -> bool,
}

/// The deviations of the JSON parser. A difference belongs to the first one whose `is_it` accepts
/// it.
pub(crate) const JSON: &[Deviation] = &[
    Deviation {
        why: "a type is a digit; `Number(\" \")` is 0 for Node, so that white space is a CONNECT",
        is_it: |it| it.is_refused("unknown packet type") && it.head().kind.is_some_and(is_space),
    },
    Deviation {
        why: "a count of attachments is digits; Node reads `1e0`, `+1`, `0x1`, `1.0` and ` 1` too",
        is_it: |it| {
            let is_digit = |c: char| c.is_ascii_digit();
            it.is_refused("illegal number of attachments") && !it.head().count.chars().all(is_digit)
        },
    },
    Deviation {
        why: "a namespace has at most 255 bytes and a query at most 8 KiB; Node has no limit",
        is_it: |it| {
            let namespace = it.head().namespace;
            let path = namespace.find('?').unwrap_or(namespace.len());
            it.is_refused("namespace is too long") && (path > 255 || namespace.len() - path > 8192)
        },
    },
    Deviation {
        why: "the id of an acknowledgement has at most 64 bits; Node rounds it, up to `Infinity`",
        is_it: |it| {
            let is_large = |id: f64| id >= 2_f64.powi(64);
            it.is_refused("acknowledgement is too large")
                && it.head().id.parse().is_ok_and(is_large)
        },
    },
    Deviation {
        why: "white space is no part of an id; Node reads it as 0, and the id as NaN if digits stand around it",
        is_it: |it| {
            let only_ack = it.what == What::Ack || it.what == What::OnlyOursRefuses;
            only_ack && it.head().id.contains(is_space)
        },
    },
    Deviation {
        why: "an id of 54 to 64 bits is exact; Node rounds it",
        is_it: is_rounded_id,
    },
    Deviation {
        why: "an event, an acknowledgement and a refusal have a payload, as in the protocol; Node hands on `undefined`",
        is_it: |it| {
            it.is_refused("payload is missing")
                && it.head().payload.is_empty()
                && matches!(it.their_data(), None | Some(Value::Undefined))
        },
    },
    Deviation {
        why: "a refusal carries an object; Node also takes a text, which clients of version 2 get and never send",
        is_it: |it| {
            it.is_refused("payload is of another type")
                && it.head().kind == Some('4')
                && matches!(it.their_data(), Some(Value::Text(_)))
        },
    },
    Deviation {
        why: "JSON is at most 127 levels deep; Node has no limit, and overflows its stack later",
        is_it: |it| {
            it.is_refused("payload is nested too deeply")
                && Tree::read(it.head().payload).is_some_and(|tree| tree.depth() > 127)
        },
    },
    Deviation {
        why: "a placeholder is checked before the attachments arrive; Node checks it after the last one",
        is_it: |it| {
            it.is_refused("placeholder does not name an attachment")
                && !matches!(it.theirs, Some(Step::Packet(_)))
        },
    },
    Deviation {
        why: "all placeholders in the text are checked; Node checks none inside a placeholder or in a value whose key is repeated",
        is_it: |it| it.is_placeholder(|all| all.iter().any(|(_, seen)| !seen)),
    },
    Deviation {
        why: "the number of an attachment is digits; Node reads `1e0` and `-0` too, and `undefined` for `0.5`",
        is_it: |it| {
            let is_spelled = |placeholder: &Tree| match placeholder.get("num") {
                Some(Tree::Scalar(num)) => !num.bytes().all(|byte| byte.is_ascii_digit()),
                _ => false,
            };
            it.is_placeholder(|all| all.iter().any(|(placeholder, _)| is_spelled(placeholder)))
        },
    },
    Deviation {
        why: "each placeholder names another attachment, so that a short message cannot become a long value",
        is_it: |it| {
            it.is_placeholder(|all| {
                let nums = || all.iter().map(|(placeholder, _)| placeholder.get("num"));
                nums()
                    .enumerate()
                    .any(|(n, num)| nums().skip(n + 1).any(|other| other == num))
            })
        },
    },
    Deviation {
        why: "a lone surrogate is read as U+FFFD, because a Rust string cannot hold it; so two keys may become one",
        is_it: |it| match (it.what, it.ours, it.theirs) {
            (What::Data, _, _) => match (it.our_data(), it.their_data()) {
                (Some(ours), Some(theirs)) => {
                    let replaced = |value| match value {
                        Value::Text(text) => Value::Text(text.replaced()),
                        other => other,
                    };
                    ours.is_like(theirs, &replaced, &Text::replaced)
                }
                _ => false,
            },
            (What::Name, Step::Packet(ours), Some(Step::Packet(theirs))) => match &theirs.name {
                Some(Name::Text(theirs)) => ours.name == Some(Name::Text(theirs.replaced())),
                _ => false,
            },
            _ => false,
        },
    },
    Deviation {
        why: "a number that exceeds a 64-bit float cannot be read; Node reads `Infinity`",
        is_it: |it| {
            let is_infinite = |number: f64| number.is_infinite();
            let mut found = false;
            if let Some(tree) = Tree::read(it.head().payload) {
                tree.visit(true, &mut |value, _| {
                    found |= matches!(value, Tree::Scalar(n) if n.parse().is_ok_and(is_infinite));
                });
            }
            found
                && it.what == What::Data
                && matches!(it.ours, Step::Packet(ours) if ours.data.is_err())
        },
    },
    Deviation {
        why: "a number as the name of an event is the text of its spelling; clients write the spelling of JavaScript",
        is_it: is_number_as_name,
    },
];

/// The deviations of the MessagePack parser.
pub(crate) const MSGPACK: &[Deviation] = &[
    Deviation {
        why: "nil is no payload and no id, as python-socketio writes them; Node wants the keys to be missing",
        is_it: |it| match (it.what, it.ours, it.theirs) {
            (What::OnlyTheirsRefuses, Step::Packet(ours), Some(Step::Refused(reason))) => {
                match reason.as_str() {
                    "invalid payload" => ours.data == Ok(Value::Undefined),
                    "invalid packet id" => ours.ack == Ack::None,
                    _ => false,
                }
            }
            _ => false,
        },
    },
    Deviation {
        why: "the name of an event is a text or a number, as with the JSON parser; Node takes any value",
        is_it: |it| {
            let is_name = |name: &Name| match name {
                Name::Text(_) => true,
                // JSON has no other numbers.
                Name::Number(Number(number)) => number.is_finite(),
                Name::Other(_) => false,
            };
            it.is_refused("event has no name")
                && it
                    .their_packet()
                    .is_some_and(|packet| !packet.name.as_ref().is_some_and(is_name))
        },
    },
    Deviation {
        why: "the name of an event is not reserved, as with the JSON parser; Node's MessagePack parser has no such check",
        is_it: |it| {
            let reserved = [
                "connect",
                "connect_error",
                "disconnect",
                "disconnecting",
                "newListener",
                "removeListener",
            ];
            let is_reserved = |name: &Name| matches!(name, Name::Text(name) if reserved.iter().any(|r| Text::from(*r) == *name));
            it.is_refused("event has a reserved name")
                && it
                    .their_packet()
                    .is_some_and(|packet| packet.name.as_ref().is_some_and(is_reserved))
        },
    },
    Deviation {
        why: "a number as the name of an event is the text of its JSON",
        is_it: is_number_as_name,
    },
    Deviation {
        why: "values are at most 127 levels deep, as in JSON; Node has no limit",
        is_it: |it| {
            it.is_refused("payload is nested too deeply")
                && (it.their_data().is_some_and(|data| data.depth() > 127)
                    || it.their_packet().is_some_and(has_deep_name)
                    || it.has_key("__proto__"))
        },
    },
    Deviation {
        why: "an id is an integer that is not negative and fits in 64 bits; Node takes any number without a fraction",
        is_it: |it| {
            it.is_refused("acknowledgement is not a number")
                && it
                    .their_packet()
                    .is_some_and(|packet| packet.ack != Ack::None)
        },
    },
    Deviation {
        why: "an id of 54 to 64 bits is exact; Node rounds it",
        is_it: is_rounded_id,
    },
    Deviation {
        why: "a type is an integer; Node takes a float without a fraction too",
        is_it: |it| it.is_refused("unknown packet type") && it.their_packet().is_some(),
    },
    Deviation {
        why: "a namespace has at most 255 bytes; Node has no limit",
        is_it: |it| {
            let is_long = |Text(units): &Text| String::from_utf16_lossy(units).len() > 255;
            it.is_refused("namespace is too long")
                && it
                    .their_packet()
                    .is_some_and(|packet| is_long(&packet.namespace))
        },
    },
    Deviation {
        why: "a namespace is UTF-8; Node reads U+FFFD in place of other bytes",
        is_it: |it| {
            it.is_refused("namespace is not UTF-8")
                && it
                    .their_packet()
                    .is_some_and(|packet| packet.namespace.0.contains(&0xfffd))
        },
    },
    Deviation {
        why: "an object that looks like a placeholder is refused in a packet with bytes; Node's parser has no placeholders",
        is_it: |it| {
            it.is_refused("placeholder does not name an attachment") && it.has_key("_placeholder")
        },
    },
    Deviation {
        why: "a key is a text or a scalar; Node makes a text of arrays, objects and bytes",
        is_it: |it| it.is_refused("key of a map is not text") && it.their_packet().is_some(),
    },
    Deviation {
        why: "the keys of a packet are texts; Node makes a text of other keys",
        is_it: |it| {
            it.is_refused("packet has a key that is not text") && it.their_packet().is_some()
        },
    },
    Deviation {
        why: "a refusal carries an object; Node also takes a text",
        is_it: |it| {
            it.is_refused("payload is of another type")
                && matches!(it.their_data(), Some(Value::Text(_)))
        },
    },
    Deviation {
        why: "`__proto__` is a key like others; Node makes it the prototype of the object",
        is_it: |it| {
            // A prototype of bytes makes Node refuse the object.
            matches!(it.what, What::Data | What::OnlyTheirsRefuses)
                && matches!(it.ours, Step::Packet(ours) if ours.data.as_ref().is_ok_and(|data| data.any(&has_prototype)))
        },
    },
    Deviation {
        why: "a number as a key is the text of its JSON: `1.0`, and `null` for NaN; Node writes `1` and `NaN`",
        is_it: |it| {
            it.what == What::Data
                && (it.is_like(&|value| value)
                    || it.our_data().is_some_and(|data| data.any(&has_equal_keys)))
        },
    },
    Deviation {
        why: "the bytes of a CONNECT and of a refusal are lists of numbers, as these packets have no attachments",
        is_it: |it| {
            let list = |value| match value {
                Value::Bytes(bytes) => {
                    let numbers = bytes.into_iter().map(|byte| Value::number(byte.into()));
                    Value::Array(numbers.collect())
                }
                value => value,
            };
            it.what == What::Data
                && matches!(it.ours, Step::Packet(ours) if matches!(ours.kind, 0 | 4))
                && it.is_like(&list)
        },
    },
];

/// Returns whether the value is an object with the key `__proto__`, which sets the prototype in
/// JavaScript.
pub(crate) fn has_prototype(value: &Value) -> bool {
    match value {
        Value::Object(entries) => entries.contains_key(&Text::from("__proto__")),
        _ => false,
    }
}

/// Returns whether the value is an object with keys that are one key for Node, such as `1` and `1.0`.
fn has_equal_keys(value: &Value) -> bool {
    match value {
        Value::Object(entries) => {
            let keys: HashSet<_> = entries.keys().map(|key| canonical_key(key).0).collect();
            keys.len() < entries.len()
        }
        _ => false,
    }
}

/// Returns whether the name of an event is nested too deeply for JSON. The array of the arguments is a
/// level too.
fn has_deep_name(packet: &Packet) -> bool {
    matches!(&packet.name, Some(Name::Other(name)) if name.depth() > 126)
}

/// Returns a key in its canonical spelling if it is a number, and unchanged otherwise.
fn canonical_key(key: &Text) -> Text {
    match String::from_utf16_lossy(&key.0).as_str() {
        "null" | "NaN" | "Infinity" | "-Infinity" => Text::from("null"),
        text => match text.parse::<f64>() {
            Ok(number) => Text::from((number + 0.0).to_string().as_str()),
            Err(_) => key.clone(),
        },
    }
}

/// Returns whether only Node has rounded the id.
fn is_rounded_id(it: &Difference<'_>) -> bool {
    match (it.what, it.ours, it.theirs) {
        (What::Ack, Step::Packet(ours), Some(Step::Packet(theirs))) => {
            let ours = ours.ack.as_f64();
            ours.is_some_and(|id| id >= 2_f64.powi(53)) && ours == theirs.ack.as_f64()
        }
        _ => false,
    }
}

/// Returns whether the name is a number for Node and the text of the same number for our parser.
fn is_number_as_name(it: &Difference<'_>) -> bool {
    match (it.what, it.ours, it.theirs) {
        (What::Name, Step::Packet(ours), Some(Step::Packet(theirs))) => {
            match (&ours.name, &theirs.name) {
                (Some(Name::Text(Text(ours))), Some(Name::Number(theirs))) => {
                    String::from_utf16_lossy(ours).parse().map(Number) == Ok(*theirs)
                }
                _ => false,
            }
        }
        _ => false,
    }
}

/// The number of packets that showed each deviation, and the unexplained differences.
pub(crate) struct Report {
    list: &'static [Deviation],
    seen: Vec<usize>,
    unexplained: Vec<String>,
}

impl Report {
    pub(crate) fn new(list: &'static [Deviation]) -> Self {
        Self {
            list,
            seen: vec![0; list.len()],
            unexplained: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, difference: &Difference<'_>) {
        match self
            .list
            .iter()
            .position(|deviation| (deviation.is_it)(difference))
        {
            Some(n) => self.seen[n] += 1,
            None => self.fail(format!("{difference:?}")),
        }
    }

    pub(crate) fn fail(&mut self, what: String) {
        self.unexplained.push(what);
    }

    /// Prints the counts.
    ///
    /// # Panics
    ///
    /// Panics if a difference is not in the list, or if no packet has shown an entry of the list.
    pub(crate) fn finish(self) {
        for (deviation, count) in self.list.iter().zip(&self.seen) {
            eprintln!("{count:>8}  {}", deviation.why);
        }
        for difference in self.unexplained.iter().take(20) {
            eprintln!("{difference}\n");
        }
        let count = self.unexplained.len();
        assert!(count == 0, "{count} differences are not in the list");
        let unseen = self
            .list
            .iter()
            .zip(&self.seen)
            .find(|(_, count)| **count == 0);
        assert!(
            unseen.is_none(),
            "no packet has shown: {}",
            unseen.map_or("", |(d, _)| d.why)
        );
    }
}
