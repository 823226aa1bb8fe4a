//! The entries of streams, as Redis sends them.

use std::time::Duration;

use bytes::Bytes;
use redis::{ErrorKind, Pipeline, RedisResult, Value};

use super::connection::{self, Connection, reply_within};
use super::streams::{AFTER, GAP, NUMBER};
use crate::cluster::Offset;
use crate::cluster::message::RequestId;
use crate::cluster::wire::envelope::kind;

/// How long Redis may take to send the entries of one read.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(8);

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
    /// Whether it says that messages are missing.
    pub(super) is_gap: bool,
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

/// The ends of a stream.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ends {
    pub(super) first: Option<Offset>,
    /// The last entry that the stream has ever had.
    pub(super) last: Offset,
    /// Whether the stream still has all entries that were ever added. Redis 6 does not say it.
    pub(super) is_whole: bool,
}

/// Returns the ends of a stream.
pub(super) async fn ends(name: &str, connection: &mut Connection) -> RedisResult<Ends> {
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
            return Ok(Ends {
                is_whole: true,
                ..Ends::default()
            });
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
    let added = field("entries-added");
    Ok(Ends {
        first,
        last,
        is_whole: added.is_some() && added == field("length"),
    })
}

/// Returns the time of the server of Redis that has a stream, in whole seconds, as milliseconds. It is the
/// time of the stream's offsets.
pub(super) async fn time(name: &str, connection: &mut Connection) -> RedisResult<u64> {
    let mut commands = Pipeline::new();
    // `TIME` names no key. In a transaction with a command that does, it goes to the same node.
    commands.cmd("MULTI");
    commands.cmd("EXISTS").arg(name);
    commands.cmd("TIME");
    commands.cmd("EXEC");
    let mut replies = connection::send(connection, &commands, 0).await?;
    let results = match replies.pop() {
        Some(Value::Array(results)) => results,
        Some(Value::ServerError(error)) => return Err(error.into()),
        _ => Vec::new(),
    };
    let seconds = match &results[..] {
        [_, Value::Array(time)] => time.first().and_then(text),
        _ => None,
    };
    let seconds = seconds.and_then(|seconds| seconds.parse::<u64>().ok());
    let seconds = seconds.ok_or((ErrorKind::UnexpectedReturnType, "not a reply to TIME"))?;
    Ok(seconds.saturating_mul(1_000))
}

pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

pub(super) fn id(value: &Value) -> Option<Offset> {
    Offset::parse(text(value)?)
}

/// Returns the entries of a list. An entry of another form is left out.
pub(super) fn entries(list: Value) -> Vec<(Offset, Entry)> {
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
            Some(GAP) => entry.is_gap = true,
            Some(AFTER) => entry.after = Some(into_text(value).as_str().into()),
            _ => {}
        }
    }
    entry
}
