//! Captured messages of Node's adapters, for tests.

use bytes::Bytes;
use serde_json::Value;

use super::Text;

/// A captured message with its channel.
pub(super) struct Captured {
    /// The channel, or the type, the namespace and the server of an entry of a stream.
    pub(super) channel: &'static str,
    pub(super) bytes: Bytes,
}

pub(super) fn read(file: &'static str) -> impl Iterator<Item = Captured> {
    let lines = file.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| {
        let (channel, message) = line.split_once(' ').expect("a channel and a message");
        let bytes = match message.strip_prefix("hex:") {
            Some(hex) => bytes_of(hex),
            None => Bytes::from_static(message.as_bytes()),
        };
        Captured { channel, bytes }
    })
}

pub(super) fn bytes_of(hex: &str) -> Bytes {
    let digits = hex.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.map(|pair| byte(pair).expect("hex")).collect()
}

/// Returns a message as a JSON value, with placeholders for its bytes.
pub(super) fn value(bytes: &[u8]) -> Value {
    let text = Text::read(&Bytes::copy_from_slice(bytes)).expect("a message");
    serde_json::from_slice(&text.json).expect("JSON")
}

/// Removes what servers of this crate add, the flags that they do not read, and the ids of servers
/// that the message does not have.
pub(super) fn normalized(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            fields.remove("sid");
            if fields.get("uid").is_some_and(|uid| uid == "") {
                fields.remove("uid");
            }
            if let Some(Value::Object(flags)) = fields.get_mut("flags") {
                flags.retain(|flag, _| flag == "volatile" || flag == "compress");
                if flags.is_empty() {
                    fields.remove("flags");
                }
            }
            for field in fields.values_mut() {
                *field = normalized(field.take());
            }
        }
        Value::Array(values) => {
            for value in values {
                *value = normalized(value.take());
            }
        }
        _ => {}
    }
    value
}
