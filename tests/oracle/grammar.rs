//! Generates messages for the JSON parser: most are valid packets, the rest nearly valid.

use crate::chance::Chance;

/// An Engine.IO message.
#[derive(Clone, PartialEq)]
pub(crate) enum Sent {
    Text(Vec<u8>),
    Bytes(Vec<u8>),
}

impl std::fmt::Debug for Sent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{:?}", String::from_utf8_lossy(text)),
            Self::Bytes(bytes) => write!(f, "bytes{bytes:x?}"),
        }
    }
}

/// Returns the messages of a connection: those of one packet or of a few.
pub(crate) fn messages(chance: &mut Chance) -> Vec<Sent> {
    let mut sent = Vec::new();
    let packets = if chance.one_in(8) {
        2 + chance.below(2)
    } else {
        1
    };
    for _ in 0..packets {
        packet(chance, &mut sent);
    }
    match chance.below(20) {
        0 => sent.insert(chance.below(sent.len() + 1), Sent::Bytes(chance.bytes(5))),
        1 => sent.insert(
            chance.below(sent.len() + 1),
            Sent::Text(br#"2["x"]"#.to_vec()),
        ),
        2 => drop(sent.remove(chance.below(sent.len()))),
        _ => {}
    }
    sent
}

/// Appends the text of a packet, and usually one attachment for each placeholder.
fn packet(chance: &mut Chance, sent: &mut Vec<Sent>) {
    let kind = match chance.below(20) {
        0 => chance.pick(&[
            "7", "9", " ", "a", "é", "-", "", "\t", "\u{a0}", "٣", "2 ", "02",
        ]),
        1 | 2 => "0",
        3 => "1",
        4 => "4",
        5..=9 => "2",
        10..=12 => "3",
        13..=17 => "5",
        _ => "6",
    };
    let is_binary = matches!(kind, "5" | "6");
    let mut json = Json::new(chance, is_binary);
    json.payload(kind);
    let Json {
        text: payload,
        attachments,
        ..
    } = json;

    let mut text = kind.to_owned();
    let count = attachments.max(usize::from(is_binary && !chance.one_in(30)));
    if is_binary {
        text.push_str(&number_of_attachments(chance, count));
    }
    if chance.one_in(3) {
        text.push_str(&namespace(chance));
        if !chance.one_in(12) {
            text.push(',');
        }
    }
    if chance.one_in(2) {
        text.push_str(&acknowledgement(chance));
    }
    text.push_str(&payload);
    let mut text = text.into_bytes();
    if chance.one_in(4) {
        chance.mutate(
            &mut text,
            b"0123456-,/[]{}\"\\:_entu. \n\x00\xff\xed\xa0\x80",
        );
    }
    sent.push(Sent::Text(text));
    if is_binary {
        let count = match chance.below(20) {
            0 => chance.below(4),
            _ => count,
        };
        sent.extend((0..count).map(|_| Sent::Bytes(chance.bytes(6))));
    }
}

fn number_of_attachments(chance: &mut Chance, count: usize) -> String {
    if !chance.one_in(8) {
        return format!("{count}-");
    }
    match chance.below(10) {
        0 => format!("{count}"),
        1 => format!("0{count}-"),
        2 => format!("{count}e0-"),
        3 => format!(" {count}-"),
        4 => format!("+{count}-"),
        5 => format!("{count}.0-"),
        6 => format!("0x{count}-"),
        7 => format!("{count}--"),
        8 => format!("-{count}-"),
        _ => {
            let odd = [
                "-",
                "0-",
                "00-",
                "11-",
                "10-",
                "99999999999999999999-",
                "1e1-",
                "٣-",
                "1/a-",
            ];
            chance.pick(&odd).to_owned()
        }
    }
}

fn namespace(chance: &mut Chance) -> String {
    let long = |len| format!("/{}", "x".repeat(len));
    match chance.below(30) {
        0 => long(253 + chance.below(5)),
        1 => format!("/a?{}", "q".repeat(8188 + chance.below(6))),
        2 => format!("{}?b=c", long(252 + chance.below(5))),
        3 => format!("/{}", "é".repeat(125 + chance.below(5))),
        4..12 => {
            let odd = [
                "/",
                "//",
                "/-",
                "/a/b/",
                "/é/ü",
                "/日本",
                "/😀",
                "/\"",
                "/[]",
                "/ a",
                "/a b",
                "/1",
                "/\n",
                "/\u{0}",
                "/__proto__",
                "/constructor",
                "/a?b=c",
                "/a?b=c&d=%2C",
                "/?",
                "/%2F",
                "/\u{feff}",
            ];
            chance.pick(&odd).to_owned()
        }
        _ => chance.pick(&["/a", "/chat", "/admin"]).to_owned(),
    }
}

fn acknowledgement(chance: &mut Chance) -> String {
    match chance.below(12) {
        0 => {
            let odd = [
                "-1",
                "1e3",
                "1.5",
                " ",
                "\n",
                "\u{a0}",
                "\u{feff}",
                "０",
                "+1",
                "0x1F",
                "Infinity",
                "NaN",
                "_",
                " 1",
                "1 ",
                "1 2",
                "\t0",
                "12\u{2003}",
            ];
            chance.pick(&odd).to_owned()
        }
        1 => {
            let edges = [
                "9007199254740991",
                "9007199254740992",
                "9007199254740993",
                "18446744073709551615",
                "18446744073709551616",
                "000000000000000000000000000001",
            ];
            chance.pick(&edges).to_owned()
        }
        2 => {
            let len = 1 + chance.below(30);
            (0..len)
                .map(|_| char::from(b'0' + chance.below(10) as u8))
                .collect()
        }
        3 => "9".repeat(300 + chance.below(20)),
        _ => chance.below(1000).to_string(),
    }
}

/// Writes JSON in all spellings.
struct Json<'a> {
    chance: &'a mut Chance,
    text: String,
    /// Whether there are placeholders.
    is_binary: bool,
    /// The number of placeholders so far.
    attachments: usize,
    /// The rarity of JSON that no client writes: once in `odd` choices.
    odd: usize,
}

impl<'a> Json<'a> {
    fn new(chance: &'a mut Chance, is_binary: bool) -> Self {
        let odd = [usize::MAX, 100, 20, 5][chance.below(4)];
        Self {
            chance,
            text: String::new(),
            is_binary,
            attachments: 0,
            odd,
        }
    }

    fn is_odd(&mut self) -> bool {
        self.odd != usize::MAX && self.chance.one_in(self.odd)
    }

    fn payload(&mut self, kind: &str) {
        if self.chance.one_in(40) {
            return match self.chance.below(3) {
                0 => {}
                1 => self.value(2),
                _ => self.space(),
            };
        }
        match kind {
            "0" | "4" if self.chance.one_in(3) => {}
            "4" if self.chance.one_in(8) => self.string(),
            "0" | "4" => self.object(2),
            "1" if self.chance.one_in(8) => self.value(1),
            "1" => {}
            "3" | "6" => self.array(3, false),
            _ => self.array(3, true),
        }
        if self.is_odd() {
            let end = self
                .chance
                .pick(&[" ", "\n", ",", "]", "x", "\u{0}", "\u{feff}", " 1"]);
            self.text.push_str(end);
        }
    }

    fn space(&mut self) {
        if self.is_odd() {
            let space = self
                .chance
                .pick(&[" ", "\n", "\t\r", "  ", "\u{a0}", "\u{b}", "//"]);
            self.text.push_str(space);
        }
    }

    fn value(&mut self, depth: usize) {
        self.space();
        if self.is_binary && self.attachments < 10 && self.chance.one_in(4) {
            self.placeholder();
        } else {
            match self.chance.below(if depth == 0 { 8 } else { 12 }) {
                0 => self.literal(),
                1..=3 => self.number(),
                4..=7 => self.string(),
                8 | 9 => self.array(depth - 1, false),
                _ => self.object(depth - 1),
            }
        }
        self.space();
    }

    fn literal(&mut self) {
        let literal = match self.is_odd() {
            true => self.chance.pick(&[
                "nul",
                "True",
                "undefined",
                "NaN",
                "Infinity",
                "'a'",
                "tru e",
                "",
            ]),
            false => self.chance.pick(&["null", "true", "false"]),
        };
        self.text.push_str(literal);
    }

    fn number(&mut self) {
        const SPELLINGS: [&str; 40] = [
            "0",
            "-0",
            "1",
            "-1",
            "10",
            "0.0",
            "-0.0",
            "0e0",
            "-0e-5",
            "1e0",
            "1E+2",
            "1e-2",
            "100e-2",
            "0.1",
            "0.30000000000000004",
            "1.7976931348623157e308",
            "1.7976931348623158e308",
            "1.7976931348623159e308",
            "1e308",
            "5e-324",
            "2e-324",
            "3e-324",
            "2.2250738585072011e-308",
            "2.2250738585072014e-308",
            "9007199254740991",
            "9007199254740992",
            "9007199254740993",
            "9007199254740993.0",
            "-9007199254740993",
            "9223372036854775807",
            "-9223372036854775808",
            "-9223372036854775809",
            "18446744073709551615",
            "18446744073709551616",
            "123456789012345678901234567890",
            "0.000000000000000000000000000000000001234",
            "1e-400",
            "1e23",
            "8.41e21",
            "1e-7",
        ];
        const WRONG: [&str; 12] = [
            "01", "+1", ".5", "1.", "1e", "1e+", "0x1", "--1", "-", "1_0", "00", "1.e1",
        ];
        let number = match self.chance.below(8) {
            0 if self.is_odd() => self.chance.pick(&WRONG).to_owned(),
            1 if self.is_odd() => self
                .chance
                .pick(&["1e309", "-1e400", "1e99999999999"])
                .to_owned(),
            0..=2 => self.chance.pick(&SPELLINGS).to_owned(),
            3 => f64::from_bits(self.chance.bits())
                .to_string()
                .replace("inf", "1")
                .replace("NaN", "2"),
            // A number that is usually between two floats.
            4 => {
                let digits = self.chance.bits().to_string();
                let exponent = self.chance.below(600) as i32 - 320;
                format!("{}.{}e{exponent}", &digits[..1], &digits[1..])
            }
            5 => ((self.chance.bits() >> 11) as f64 / (1_u64 << 53) as f64).to_string(),
            6 => self.chance.bits().to_string(),
            _ => self.chance.below(1000).to_string(),
        };
        self.text.push_str(&number);
    }

    fn string(&mut self) {
        self.text.push('"');
        for _ in 0..self.chance.below(4) {
            self.piece();
        }
        self.text.push('"');
    }

    fn piece(&mut self) {
        const PLAIN: [&str; 14] = [
            "a",
            "hello, world",
            "é",
            "日本語",
            "😀",
            "\u{7f}",
            "\u{80}",
            "\u{2028}",
            "\u{feff}",
            "\u{fffd}",
            "'",
            "/",
            "[{]}",
            "a rather long text without anything in it that JSON would escape",
        ];
        const ESCAPED: [&str; 20] = [
            r#"\""#,
            r"\\",
            r"\/",
            r"\b",
            r"\f",
            r"\n",
            r"\r",
            r"\t",
            r"\u0000",
            r"\u0041",
            r"\u00e9",
            r"\u00E9",
            r"\u2028",
            r"\ufffd",
            r"\uFFFF",
            r"\ud83d\ude00",
            r"\uD83D\uDE00",
            r"\u005f",
            r"\u0022",
            r"\u005c",
        ];
        const LONE: [&str; 8] = [
            r"\ud800",
            r"\udc00",
            r"\uDFFF",
            r"\ud83d\ud83d",
            r"\ude00\ud83d",
            r"\ud83d\u0041",
            r"\ud83d\\ude00",
            r"\ud83d\ud83d\ude00",
        ];
        const WRONG: [&str; 12] = [
            r"\x", r"\u12", r"\u", r"\u00g0", r"\U0041", r"\'", r"\0", "\n", "\u{0}", "\t", "\"",
            r"\u 041",
        ];
        let piece = match self.chance.below(8) {
            0 if self.is_odd() => self.chance.pick(&WRONG),
            0 | 1 => self.chance.pick(&LONE),
            2 | 3 => self.chance.pick(&ESCAPED),
            _ => self.chance.pick(&PLAIN),
        };
        self.text.push_str(piece);
    }

    fn array(&mut self, depth: usize, is_event: bool) {
        if self.chance.one_in(40) {
            return self.nest();
        }
        self.text.push('[');
        let len = self.chance.below(5);
        if is_event && !self.is_odd() {
            self.name();
            self.space();
            if len > 0 {
                self.text.push(',');
            }
        }
        for n in 0..len {
            if n > 0 {
                self.comma();
            }
            self.value(depth);
        }
        if self.is_odd() {
            self.text.push(',');
        }
        self.text.push(']');
    }

    fn comma(&mut self) {
        match self.is_odd() {
            true => self.text.push_str(self.chance.pick(&[";", ",,", "", ":"])),
            false => self.text.push(','),
        }
    }

    fn name(&mut self) {
        const ODD: [&str; 24] = [
            "0",
            "5",
            "-0.5e1",
            "1.50",
            "1e400",
            "9007199254740993",
            "null",
            "true",
            "[]",
            "{}",
            r#""""#,
            r#""connect""#,
            r#""connect_error""#,
            r#""disconnect""#,
            r#""disconnecting""#,
            r#""newListener""#,
            r#""removeListener""#,
            r#""\u0063onnect""#,
            r#""connect ""#,
            r#""error""#,
            r#""__proto__""#,
            r#""toString""#,
            r#""caf\u00e9 \" \\""#,
            r#""\ud800""#,
        ];
        match self.chance.below(8) {
            0 => self.text.push_str(self.chance.pick(&ODD)),
            1 => self.string(),
            _ => self.text.push_str(r#""message""#),
        }
    }

    /// Nests arrays and objects, often about as deep as the limit.
    fn nest(&mut self) {
        let depth = match self.chance.below(3) {
            0 => 300,
            _ => 118 + self.chance.below(16),
        };
        let kinds: Vec<_> = (0..depth).map(|_| self.chance.one_in(2)).collect();
        self.text.push_str("[\"message\",");
        for is_array in &kinds {
            self.text.push_str(if *is_array { "[" } else { "{\"a\":" });
        }
        match self.is_binary {
            true => self.placeholder(),
            false => self.text.push('1'),
        }
        for is_array in kinds.iter().rev() {
            self.text.push(if *is_array { ']' } else { '}' });
        }
        self.text.push(']');
    }

    fn object(&mut self, depth: usize) {
        self.text.push('{');
        for n in 0..self.chance.below(5) {
            if n > 0 {
                self.comma();
            }
            self.space();
            self.key();
            self.space();
            self.text.push(':');
            self.value(depth);
        }
        if self.is_odd() {
            self.text.push(',');
        }
        self.text.push('}');
    }

    fn key(&mut self) {
        const KEYS: [&str; 16] = [
            r#""a""#,
            r#""b""#,
            r#""a""#,
            r#""""#,
            r#""0""#,
            r#""10""#,
            r#""num""#,
            r#""_placeholder""#,
            r#""__proto__""#,
            r#""constructor""#,
            r#""toString""#,
            r#""\u0061""#,
            r#""hasOwnProperty""#,
            r#""toJSON""#,
            r#""length""#,
            r#""\ud800""#,
        ];
        match self.is_odd() {
            true if self.chance.one_in(3) => self
                .text
                .push_str(self.chance.pick(&["a", "1", "'a'", "null", ""])),
            true => self.string(),
            false => self.text.push_str(self.chance.pick(&KEYS)),
        }
    }

    fn placeholder(&mut self) {
        let num = match self.chance.one_in(12) {
            true => self.odd_num(),
            false => self.attachments.to_string(),
        };
        self.attachments += 1;
        let (first, second) = (r#""_placeholder":true"#, format!(r#""num":{num}"#));
        let text = match self.chance.below(30) {
            0..20 => format!("{{{first},{second}}}"),
            20 | 21 => format!("{{{second},{first}}}"),
            22 => format!("{{ {first} ,\n{second} }}"),
            23 => format!(r#"{{"\u005fplaceholder":true,"nu\u006d":{num}}}"#),
            24 => format!(r#"{{{first},{second},"x":[1,"}}"]}}"#),
            25 => format!(r#"{{"x":{{}},{first},{second}}}"#),
            26 => {
                let x = [
                    r#""num":0"#,
                    r#""num":null"#,
                    r#""_placeholder":false"#,
                    r#""_placeholder":true"#,
                    r#""x":{"_placeholder":true,"num":1}"#,
                    r#""x":{"_placeholder":true,"num":99}"#,
                    r#""x":{"_placeholder":true}"#,
                ];
                let x = self.chance.pick(&x);
                match self.chance.below(3) {
                    0 => format!("{{{x},{first},{second}}}"),
                    1 => format!("{{{first},{x},{second}}}"),
                    _ => format!("{{{first},{second},{x}}}"),
                }
            }
            27 => {
                let flag = self
                    .chance
                    .pick(&["false", "1", "null", "\"true\"", "[true]", "{}", "true "]);
                format!(r#"{{"_placeholder":{flag},{second}}}"#)
            }
            28 => format!("{{{first}}}"),
            _ => format!(r#"{{"a":{{{first},{second}}},"a":1}}"#),
        };
        self.text.push_str(&text);
    }

    fn odd_num(&mut self) -> String {
        let odd = [
            "-1",
            "-0",
            "0.5",
            "1e0",
            "0.0",
            "0e9",
            "10e-1",
            "99",
            "1e400",
            "18446744073709551616",
            "null",
            "\"0\"",
            "[0]",
            "{}",
            "true",
            "0",
            "1",
        ];
        self.chance.pick(&odd).to_owned()
    }
}
