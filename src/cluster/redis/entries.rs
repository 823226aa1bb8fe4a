//! The entries of streams, as Redis sends them.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use redis::{ErrorKind, RedisResult, Value};

use super::connection::{Connection, reply_within};
use super::streams::{AFTER, NUMBER};
use crate::cluster::message::RequestId;
use crate::cluster::wire::envelope::kind;

/// How long Redis may take to send the entries of one read.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(8);

/// The id of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    milliseconds: u64,
    sequence: u64,
}

impl Position {
    fn parse(text: &str) -> Option<Self> {
        let (milliseconds, sequence) = text.split_once('-')?;
        Some(Self {
            milliseconds: milliseconds.parse().ok()?,
            sequence: sequence.parse().ok()?,
        })
    }
}

impl Position {
    /// Returns the id after this one.
    pub(super) fn next(self) -> Self {
        match self.sequence.checked_add(1) {
            Some(sequence) => Self { sequence, ..self },
            None => Self {
                milliseconds: self.milliseconds.saturating_add(1),
                sequence: 0,
            },
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.milliseconds, self.sequence)
    }
}

/// An entry of a stream.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) kind: u8,
    pub(super) uid: String,
    /// Empty in an entry that is not for servers.
    pub(super) namespace: String,
    pub(super) data: Bytes,
    pub(super) after: Option<RequestId>,
    /// Its number among those of its server, if that is of this crate.
    pub(super) number: Option<u64>,
}

impl Entry {
    /// Returns whether it is a heartbeat of a server with an old adapter, and whether it is its first.
    /// Those of servers of this crate have a number.
    pub(super) fn is_heartbeat(&self) -> Option<bool> {
        match self.kind {
            _ if self.number.is_some() => None,
            kind::INITIAL_HEARTBEAT => Some(true),
            kind::HEARTBEAT => Some(false),
            _ => None,
        }
    }
}

/// Returns the id of the first entry of a stream, and that of the last one that it has ever had.
pub(super) async fn ends(
    name: &str,
    connection: &mut Connection,
) -> RedisResult<(Option<Position>, Position)> {
    let mut info = redis::cmd("XINFO");
    info.arg("STREAM").arg(name);
    // It has the first and the last entry in it.
    let fields = match reply_within(READ_TIMEOUT, connection, &info).await? {
        Value::Map(fields) => fields,
        // There is no stream before its first entry.
        Value::ServerError(error)
            if error
                .details()
                .is_some_and(|text| text.contains("no such key")) =>
        {
            return Ok((None, Position::default()));
        }
        Value::ServerError(error) => return Err(error.into()),
        _ => return Err((ErrorKind::UnexpectedReturnType, "not a reply to XINFO").into()),
    };
    let field = |name| {
        let field = fields.iter().find(|(key, _)| text(key) == Some(name));
        field.map(|(_, value)| value)
    };
    let last = field("last-generated-id").and_then(id);
    let first = match field("first-entry") {
        Some(Value::Array(entry)) => entry.first().and_then(id),
        _ => None,
    };
    let last = last.ok_or((ErrorKind::UnexpectedReturnType, "a stream without an end"))?;
    Ok((first, last))
}

pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

pub(super) fn id(value: &Value) -> Option<Position> {
    Position::parse(text(value)?)
}

/// Returns the entries of a list. An entry of another form is left out.
pub(super) fn entries(list: Value) -> Vec<(Position, Entry)> {
    let Value::Array(list) = list else {
        return Vec::new();
    };
    let entries = list.into_iter().filter_map(|entry| {
        let Value::Array(entry) = entry else {
            return None;
        };
        let mut entry = entry.into_iter();
        let id = id(&entry.next()?)?;
        let Some(Value::Array(fields)) = entry.next() else {
            // It was deleted in the meantime.
            return Some((id, Entry::default()));
        };
        Some((id, read_fields(fields)))
    });
    entries.collect()
}

fn read_fields(fields: Vec<Value>) -> Entry {
    let mut entry = Entry::default();
    let mut fields = fields.into_iter();
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        let Value::BulkString(value) = value else {
            continue;
        };
        let into_text = |value| String::from_utf8(value).unwrap_or_default();
        match text(&name) {
            Some("uid") => entry.uid = into_text(value),
            Some("nsp") => entry.namespace = into_text(value),
            Some("type") => entry.kind = into_text(value).parse().unwrap_or_default(),
            Some("data") => entry.data = value.into(),
            Some(NUMBER) => entry.number = into_text(value).parse().ok(),
            Some(AFTER) => entry.after = Some(into_text(value).as_str().into()),
            _ => {}
        }
    }
    entry
}
