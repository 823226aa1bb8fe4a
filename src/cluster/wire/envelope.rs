//! The form of Node's `ClusterAdapter`: `{type, data, uid, nsp}`. The sharded adapter, the streams
//! adapter and the Postgres adapter use it.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::fields::{self, Described, Flags, Json, Opts, Packet, Room};
use super::{MALFORMED, Text};
use crate::cluster::message::{Envelope, Message};
use crate::engine_io::SocketId;
use crate::hub::other_servers::{Answer, Operation, Question};
use crate::hub::recovery::{Offset, PrivateId};
use crate::hub::selection::Target;
#[cfg(any(feature = "postgres", feature = "redis"))]
use crate::protocol::NamespaceName;
use crate::protocol::{DecodeError, Payload};

/// The types of messages.
pub(in crate::cluster) mod kind {
    #[cfg(any(feature = "postgres", feature = "redis"))]
    pub(in crate::cluster) const INITIAL_HEARTBEAT: u8 = 1;
    #[cfg(any(feature = "postgres", feature = "redis"))]
    pub(in crate::cluster) const HEARTBEAT: u8 = 2;
    pub(super) const BROADCAST: u8 = 3;
    pub(super) const SOCKETS_JOIN: u8 = 4;
    pub(super) const SOCKETS_LEAVE: u8 = 5;
    pub(super) const DISCONNECT_SOCKETS: u8 = 6;
    pub(super) const FETCH_SOCKETS: u8 = 7;
    pub(in crate::cluster::wire) const FETCH_SOCKETS_RESPONSE: u8 = 8;
    pub(super) const SERVER_SIDE_EMIT: u8 = 9;
    pub(in crate::cluster::wire) const SERVER_SIDE_EMIT_RESPONSE: u8 = 10;
    pub(in crate::cluster::wire) const BROADCAST_CLIENT_COUNT: u8 = 11;
    pub(in crate::cluster::wire) const BROADCAST_ACK: u8 = 12;
    #[cfg(feature = "postgres")]
    pub(in crate::cluster) const ADAPTER_CLOSE: u8 = 13;
    /// A client claims a socket: the server that has it lets it go. Node's servers ignore it.
    pub(super) const HAND_OVER: u8 = 20;
    /// A client that was asked has left. Node's servers ignore it.
    pub(in crate::cluster::wire) const CLIENT_LEFT: u8 = 21;
    /// A question has ended. Node's servers ignore it.
    pub(super) const QUESTION_ENDED: u8 = 22;
    /// Whether the server had the socket. Node's servers ignore it.
    pub(super) const HANDED_OVER: u8 = 23;
}

/// Returns the type of a message. Returns `None` for what this form cannot express: questions that
/// only servers with the classic adapter ask, and their answers.
pub(in crate::cluster) fn kind(message: &Message) -> Option<u8> {
    Some(match message {
        Message::Operation(_, Operation::Emit { .. })
        | Message::Question(_, Question::Event(..)) => kind::BROADCAST,
        Message::Operation(_, Operation::Join(_)) => kind::SOCKETS_JOIN,
        Message::Operation(_, Operation::Leave(_)) => kind::SOCKETS_LEAVE,
        Message::Operation(_, Operation::Disconnect { .. }) | Message::Displaced(..) => {
            kind::DISCONNECT_SOCKETS
        }
        Message::ServerEvent(_) | Message::Question(_, Question::ServerEvent(_)) => {
            kind::SERVER_SIDE_EMIT
        }
        Message::Question(_, Question::Sockets(_)) => kind::FETCH_SOCKETS,
        Message::Answer(_, Answer::Sockets(_)) => kind::FETCH_SOCKETS_RESPONSE,
        Message::Answer(_, Answer::Reply(_)) => kind::SERVER_SIDE_EMIT_RESPONSE,
        Message::Answer(_, Answer::Clients(_)) => kind::BROADCAST_CLIENT_COUNT,
        Message::Answer(_, Answer::Ack(..)) => kind::BROADCAST_ACK,
        Message::Answer(_, Answer::Left) => kind::CLIENT_LEFT,
        Message::End(_) => kind::QUESTION_ENDED,
        Message::Question(_, Question::HandOver(_)) => kind::HAND_OVER,
        Message::Answer(_, Answer::HandedOver(_)) => kind::HANDED_OVER,
        Message::Question(_, Question::Rooms | Question::Ids(_) | Question::Operation(..))
        | Message::Answer(_, Answer::Rooms(_) | Answer::Ids(_) | Answer::Done) => return None,
    })
}

/// Writes a message as JSON, or as MessagePack if it has attachments. The result is empty for a
/// message without a [`kind`].
pub(in crate::cluster) fn encode(envelope: &Envelope) -> Vec<u8> {
    text(envelope).map_or_else(Vec::new, Text::into_bytes)
}

/// Writes a message as MessagePack, as the streams adapter does for questions. The result is empty for a message without a [`kind`].
#[cfg(feature = "redis")]
pub(in crate::cluster) fn encode_msgpack(envelope: &Envelope) -> Vec<u8> {
    text(envelope).map_or_else(Vec::new, Text::into_msgpack)
}

pub(super) fn text(envelope: &Envelope) -> Option<Text> {
    let Envelope {
        from,
        namespace,
        message,
        ..
    } = envelope;
    let mut json = Json::default();
    json.raw(r#"{"type":"#).value(&kind(message)?);
    json.raw(r#","data":"#);
    let payload = data(&mut json, message);
    json.raw(tail(from, namespace));
    Some(match payload {
        Some(payload) => json.with(payload),
        None => json.text(),
    })
}

/// Returns the end of a message of a server.
fn tail(uid: &str, namespace: &str) -> Vec<u8> {
    let mut json = Json::default();
    json.raw(r#","uid":"#).value(uid);
    json.raw(r#","nsp":"#).value(namespace).raw("}");
    json.0
}

/// Writes the object `data`. Returns the payload whose attachments belong to it.
pub(super) fn data<'a>(json: &mut Json, message: &'a Message) -> Option<&'a Payload> {
    match message {
        Message::Operation(target, Operation::Emit { payload, volatile }) => {
            json.raw(r#"{"packet":"#).packet(payload, None);
            opts(json, target, Flags::of(payload, *volatile)).raw("}");
            return Some(payload);
        }
        Message::Operation(target, Operation::Join(rooms) | Operation::Leave(rooms)) => {
            json.raw(r#"{"rooms":"#).rooms(rooms);
            opts(json, target, Flags::default()).raw("}");
        }
        Message::Operation(target, Operation::Disconnect { close }) => {
            json.raw(r#"{"close":"#).value(close);
            opts(json, target, Flags::default()).raw("}");
        }
        Message::Displaced(id, at) => {
            // Servers of Node disconnect the socket. Those of this crate read `restored`.
            json.raw(r#"{"restored":"#).value(&at.to_string());
            json.raw(r#","close":true"#);
            opts(json, &Target::of(id), Flags::default()).raw("}");
        }
        Message::ServerEvent(payload) => {
            json.raw(r#"{"packet":"#).raw(payload.json()).raw("}");
            return Some(payload);
        }
        Message::Question(id, Question::ServerEvent(payload)) => {
            about(json, id).raw(r#","packet":"#);
            json.raw(payload.json()).raw("}");
            return Some(payload);
        }
        Message::Question(id, Question::Event(target, payload, timeout)) => {
            about(json, id).raw(r#","packet":"#).packet(payload, None);
            let flags = Flags {
                timeout: Some(timeout.as_millis() as u64),
                ..Flags::of(payload, false)
            };
            opts(json, target, flags).raw("}");
            return Some(payload);
        }
        Message::Question(id, Question::Sockets(target)) => {
            opts(about(json, id), target, Flags::default()).raw("}");
        }
        Message::Answer(id, Answer::Sockets(sockets)) => {
            about(json, id).raw(r#","sockets":"#).sockets(sockets);
            json.raw("}");
        }
        Message::Answer(id, Answer::Clients(count)) => {
            about(json, id).raw(r#","clientCount":"#).value(count);
            json.raw("}");
        }
        Message::Question(id, Question::HandOver(private_id)) => {
            about(json, id).raw(r#","pid":"#);
            json.value(private_id.expose()).raw("}");
        }
        Message::Answer(id, Answer::HandedOver(found)) => {
            about(json, id).raw(r#","found":"#).value(found);
            json.raw("}");
        }
        Message::Answer(id, Answer::Left) | Message::End(id) => {
            about(json, id).raw("}");
        }
        Message::Answer(id, Answer::Reply(payload)) => {
            about(json, id).raw(r#","packet":"#).first_arg(payload);
            json.raw("}");
            return Some(payload);
        }
        Message::Answer(id, Answer::Ack(socket, payload)) => {
            about(json, id);
            // Node's servers ignore it.
            if let Some(socket) = socket {
                json.raw(r#","sid":"#).value(socket.as_str());
            }
            json.raw(r#","packet":"#).first_arg(payload).raw("}");
            return Some(payload);
        }
        // See `kind`.
        Message::Question(..) | Message::Answer(..) => {
            json.raw("{}");
        }
    }
    None
}

/// Writes the beginning of the data of a question or an answer, without its closing bracket.
fn about<'a>(json: &'a mut Json, id: &str) -> &'a mut Json {
    json.raw(r#"{"requestId":"#).value(id)
}

fn opts<'a>(json: &'a mut Json, target: &Target, flags: Flags) -> &'a mut Json {
    json.raw(r#","opts":"#).target(target, Some(flags))
}

#[derive(Deserialize)]
struct Outer<'a> {
    r#type: u8,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    uid: Cow<'a, str>,
    #[serde(borrow)]
    nsp: Option<Cow<'a, str>>,
}

/// The object `data` of all types.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    #[serde(borrow)]
    request_id: Option<Cow<'a, str>>,
    opts: Option<Opts>,
    rooms: Option<Vec<Room>>,
    close: Option<bool>,
    #[serde(borrow)]
    packet: Option<&'a RawValue>,
    #[serde(borrow)]
    sockets: Option<Vec<Described<'a>>>,
    client_count: Option<Value>,
    #[serde(borrow)]
    sid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pid: Option<Cow<'a, str>>,
    found: Option<bool>,
    #[serde(borrow)]
    restored: Option<Cow<'a, str>>,
}

/// Reads a message in JSON or MessagePack. Returns `None` if it is one of the server `me`, or of a type
/// that nothing is done for. `namespace` is that of its channel, and most likely its own.
///
/// # Errors
///
/// Fails if the message has another form.
#[cfg(feature = "redis")]
pub(in crate::cluster) fn decode(
    bytes: &Bytes,
    namespace: &NamespaceName,
    me: &str,
) -> Result<Option<Envelope>, DecodeError> {
    if is_own(bytes, namespace, me) {
        return Ok(None);
    }
    let envelope = decode_any(bytes)?;
    Ok(envelope.filter(|envelope| *envelope.from != *me))
}

/// Reads a message of any namespace. Returns `None` if it is of a type that nothing is done for.
///
/// # Errors
///
/// Fails if the message has another form.
pub(in crate::cluster) fn decode_any(bytes: &Bytes) -> Result<Option<Envelope>, DecodeError> {
    let Text { json, attachments } = Text::read(bytes)?;
    let outer: Outer<'_> = serde_json::from_slice(&json).map_err(|_| MALFORMED)?;
    let namespace = outer.nsp.as_deref().ok_or(MALFORMED)?.into();
    let data = outer.data.map_or("{}", RawValue::get);
    let message = message(outer.r#type, data, &json, attachments)?;
    Ok(message.map(|message| Envelope::new(outer.uid.as_ref().into(), namespace, message)))
}

/// Reads a message of a namespace, whatever namespace it names: Node's `@socket.io/postgres-emitter`
/// names none. Returns `None` if it is of a type that nothing is done for.
///
/// # Errors
///
/// Fails if the message has another form.
#[cfg(feature = "postgres")]
pub(in crate::cluster) fn decode_of(
    bytes: &Bytes,
    namespace: &NamespaceName,
) -> Result<Option<Envelope>, DecodeError> {
    let Text { json, attachments } = Text::read(bytes)?;
    let outer: Outer<'_> = serde_json::from_slice(&json).map_err(|_| MALFORMED)?;
    let data = outer.data.map_or("{}", RawValue::get);
    let message = message(outer.r#type, data, &json, attachments)?;
    let from = outer.uid.as_ref().into();
    Ok(message.map(|message| Envelope::new(from, namespace.clone(), message)))
}

/// Returns whether a message ends as one of this server.
#[cfg(feature = "redis")]
fn is_own(bytes: &[u8], namespace: &str, me: &str) -> bool {
    if bytes.last() == Some(&b'}') {
        return bytes.ends_with(&tail(me, namespace));
    }
    let Some(rest) = bytes.strip_suffix(namespace.as_bytes()) else {
        return false;
    };
    let Some(at) = rest.windows(4).rposition(|key| key == b"\xa3nsp") else {
        return false;
    };
    // The marker of the name's length is at most five bytes.
    rest.len() - at <= 9 && rest[..at].ends_with(me.as_bytes())
}

/// Returns the message of an object `data`, which is a piece of `json`. Returns `None` if nothing is done for its type.
pub(super) fn message(
    kind: u8,
    data: &str,
    json: &Bytes,
    attachments: Vec<Bytes>,
) -> Result<Option<Message>, DecodeError> {
    let data: Data<'_> = match kind {
        kind::BROADCAST..=kind::BROADCAST_ACK | kind::HAND_OVER..=kind::HANDED_OVER => {
            serde_json::from_str(data).map_err(|_| MALFORMED)?
        }
        _ => return Ok(None),
    };
    let id = data.request_id.as_deref().map(Arc::<str>::from);
    let opts = |opts: Option<Opts>| opts.ok_or(MALFORMED);
    let packet = || data.packet.ok_or(MALFORMED);
    let message = match kind {
        kind::BROADCAST => {
            let mut opts = opts(data.opts)?;
            let packet: Packet<'_> =
                serde_json::from_str(packet()?.get()).map_err(|_| MALFORMED)?;
            if packet.is_question() && id.is_none() {
                return Ok(None);
            }
            let payload = packet.event(json, attachments, &opts)?;
            let volatile = opts.is_volatile();
            match id {
                Some(id) => {
                    let timeout = opts.timeout();
                    Message::Question(id, Question::Event(opts.target(), payload, timeout))
                }
                None => Message::Operation(opts.target(), Operation::Emit { payload, volatile }),
            }
        }
        kind::SOCKETS_JOIN => {
            let rooms = fields::names(data.rooms);
            Message::Operation(opts(data.opts)?.target(), Operation::Join(rooms))
        }
        kind::SOCKETS_LEAVE => {
            let rooms = fields::names(data.rooms);
            Message::Operation(opts(data.opts)?.target(), Operation::Leave(rooms))
        }
        kind::DISCONNECT_SOCKETS => {
            let close = data.close.unwrap_or_default();
            let target = opts(data.opts)?.target();
            match (data.restored, target.rooms.first()) {
                (Some(at), Some(room)) => {
                    let id = SocketId::parse(room).ok_or(MALFORMED)?;
                    Message::Displaced(id, Offset::parse(&at).ok_or(MALFORMED)?)
                }
                _ => Message::Operation(target, Operation::Disconnect { close }),
            }
        }
        kind::FETCH_SOCKETS => {
            let target = opts(data.opts)?.target();
            Message::Question(id.ok_or(MALFORMED)?, Question::Sockets(target))
        }
        kind::SERVER_SIDE_EMIT => {
            let event = fields::event(json, packet()?, attachments)?;
            match id {
                Some(id) => Message::Question(id, Question::ServerEvent(event)),
                None => Message::ServerEvent(event),
            }
        }
        kind::QUESTION_ENDED => Message::End(id.ok_or(MALFORMED)?),
        kind::HAND_OVER => {
            let private_id = data.pid.as_deref().and_then(PrivateId::parse);
            let question = Question::HandOver(private_id.ok_or(MALFORMED)?);
            Message::Question(id.ok_or(MALFORMED)?, question)
        }
        _ => {
            let answer = match kind {
                kind::FETCH_SOCKETS_RESPONSE => {
                    let sockets = data.sockets.ok_or(MALFORMED)?;
                    Answer::Sockets(fields::sockets(sockets, &attachments))
                }
                kind::SERVER_SIDE_EMIT_RESPONSE => {
                    Answer::Reply(fields::answer(data.packet, attachments)?)
                }
                kind::BROADCAST_CLIENT_COUNT => {
                    Answer::Clients(fields::client_count(data.client_count.as_ref())?)
                }
                kind::CLIENT_LEFT => Answer::Left,
                kind::HANDED_OVER => Answer::HandedOver(data.found.ok_or(MALFORMED)?),
                _ => {
                    let socket = data.sid.as_deref().and_then(SocketId::parse);
                    Answer::Ack(socket, fields::answer(data.packet, attachments)?)
                }
            };
            Message::Answer(id.ok_or(MALFORMED)?, answer)
        }
    };
    Ok(Some(message))
}

#[cfg(all(test, feature = "redis"))]
mod tests;
