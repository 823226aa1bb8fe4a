//! A second reader of text packets, which the list of deviations uses to examine a packet. It
//! checks little, because it expects packets that the official parser has accepted.

use crate::value::Text;

/// A JSON value that keeps the spelling of scalars.
#[derive(Debug, PartialEq)]
pub(crate) enum Tree {
    /// `null`, a boolean or a number.
    Scalar(String),
    Text(Text),
    Array(Vec<Self>),
    /// All entries, also those whose key is repeated.
    Object(Vec<(Text, Self)>),
}

/// The parts of a text packet.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    pub(crate) kind: Option<char>,
    /// The text before the dash, which is the number of attachments.
    pub(crate) count: &'a str,
    pub(crate) namespace: &'a str,
    /// The part that Node reads as the id: digits and white space.
    pub(crate) id: &'a str,
    pub(crate) payload: &'a str,
}

impl<'a> Head<'a> {
    pub(crate) fn read(text: &'a str) -> Self {
        let mut rest = text.chars();
        let kind = rest.next();
        let mut rest = rest.as_str();
        let mut count = "";
        if matches!(kind, Some('5' | '6')) {
            (count, rest) = rest.split_once('-').unwrap_or((rest, ""));
        }
        let mut namespace = "/";
        if rest.starts_with('/') {
            (namespace, rest) = rest.split_once(',').unwrap_or((rest, ""));
        }
        let payload = rest.trim_start_matches(|c: char| c.is_ascii_digit() || is_space(c));
        Self {
            kind,
            count,
            namespace,
            id: &rest[..rest.len() - payload.len()],
            payload,
        }
    }
}

/// Returns whether JavaScript counts a character as white space, and so reads it as the number 0.
pub(crate) fn is_space(c: char) -> bool {
    c == '\u{feff}' || c.is_whitespace() && c != '\u{85}'
}

impl Tree {
    /// Reads JSON. Returns `None` if it is not valid.
    pub(crate) fn read(json: &str) -> Option<Self> {
        let mut rest = json;
        let tree = read(&mut rest)?;
        skip(&mut rest);
        rest.is_empty().then_some(tree)
    }

    /// Calls `visit` with this value and each value in it, and with whether JavaScript sees the
    /// value. JavaScript does not see a value whose key is repeated later in the object, nor the
    /// values of an object that an attachment replaces.
    pub(crate) fn visit<'a>(&'a self, seen: bool, visit: &mut impl FnMut(&'a Self, bool)) {
        visit(self, seen);
        match self {
            Self::Array(values) => values.iter().for_each(|value| value.visit(seen, visit)),
            Self::Object(entries) => {
                let replaced = self.is_placeholder();
                for (n, (key, value)) in entries.iter().enumerate() {
                    let again = entries[n + 1..].iter().any(|(other, _)| other == key);
                    value.visit(seen && !again && !replaced, visit);
                }
            }
            Self::Scalar(_) | Self::Text(_) => {}
        }
    }

    pub(crate) fn is_placeholder(&self) -> bool {
        self.get("_placeholder") == Some(&Self::Scalar("true".to_owned()))
    }

    /// Returns the last value of a key.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        let Self::Object(entries) = self else {
            return None;
        };
        let key = Text::from(key);
        let found = entries.iter().rfind(|(other, _)| *other == key);
        found.map(|(_, value)| value)
    }
}

fn skip(rest: &mut &str) {
    *rest = rest.trim_start_matches([' ', '\t', '\n', '\r']);
}

fn take(rest: &mut &str, wanted: char) -> Option<()> {
    skip(rest);
    *rest = rest.strip_prefix(wanted)?;
    Some(())
}

fn read(rest: &mut &str) -> Option<Tree> {
    skip(rest);
    match rest.chars().next()? {
        '"' => read_text(rest).map(Tree::Text),
        '[' => read_list(rest, '[', ']', read).map(Tree::Array),
        '{' => read_list(rest, '{', '}', |rest| {
            skip(rest);
            let key = read_text(rest)?;
            take(rest, ':')?;
            Some((key, read(rest)?))
        })
        .map(Tree::Object),
        _ => {
            let end = rest.find([',', ']', '}', ' ', '\t', '\n', '\r']);
            let (scalar, after) = rest.split_at(end.unwrap_or(rest.len()));
            *rest = after;
            (!scalar.is_empty()).then(|| Tree::Scalar(scalar.to_owned()))
        }
    }
}

fn read_list<T>(
    rest: &mut &str,
    open: char,
    close: char,
    item: impl Fn(&mut &str) -> Option<T>,
) -> Option<Vec<T>> {
    let mut items = Vec::new();
    take(rest, open)?;
    if take(rest, close).is_some() {
        return Some(items);
    }
    loop {
        items.push(item(rest)?);
        if take(rest, close).is_some() {
            return Some(items);
        }
        take(rest, ',')?;
    }
}

fn read_text(rest: &mut &str) -> Option<Text> {
    let mut units = Vec::new();
    let mut chars = rest.strip_prefix('"')?.chars();
    loop {
        match chars.next()? {
            '"' => break,
            '\\' => units.push(match chars.next()? {
                'b' => 8,
                'f' => 12,
                'n' => 10,
                'r' => 13,
                't' => 9,
                'u' => {
                    let digits = chars.as_str().get(..4)?;
                    chars = chars.as_str()[4..].chars();
                    u16::from_str_radix(digits, 16).ok()?
                }
                other => other as u16,
            }),
            other => units.extend_from_slice(other.encode_utf16(&mut [0; 2])),
        }
    }
    *rest = chars.as_str();
    Some(Text(units))
}

impl Tree {
    pub(crate) fn depth(&self) -> usize {
        match self {
            Self::Scalar(_) | Self::Text(_) => 0,
            Self::Array(values) => 1 + values.iter().map(Self::depth).max().unwrap_or(0),
            Self::Object(entries) => {
                1 + entries
                    .iter()
                    .map(|(_, value)| value.depth())
                    .max()
                    .unwrap_or(0)
            }
        }
    }
}
