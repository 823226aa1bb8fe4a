//! The messages of `@socket.io/redis-adapter` and `@socket.io/redis-emitter`, on pub/sub channels.
//!
//! | channel of namespace `N` | messages |
//! |---|---|
//! | `socket.io#N#`, `socket.io#N#ROOM#` | broadcasts, to one room on the second |
//! | `socket.io-request#N#` | operations, questions and server events |
//! | `socket.io-response#N#`, `socket.io-response#N#UID#` | answers, to the server UID on the second |

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
use crate::hub::selection::Target;
use crate::protocol::{DecodeError, NamespaceName};

/// The kind of channel that a message goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cluster) enum Channel<'a> {
    /// Broadcasts to all sockets, or to several rooms.
    Broadcast,
    /// Broadcasts to one room.
    Room(&'a str),
    Request,
    Response,
}

/// The types of requests and answers.
mod kind {
    pub(super) const SOCKETS: u8 = 0;
    pub(super) const ALL_ROOMS: u8 = 1;
    pub(super) const REMOTE_JOIN: u8 = 2;
    pub(super) const REMOTE_LEAVE: u8 = 3;
    pub(super) const REMOTE_DISCONNECT: u8 = 4;
    pub(super) const REMOTE_FETCH: u8 = 5;
    pub(super) const SERVER_SIDE_EMIT: u8 = 6;
    pub(super) const BROADCAST: u8 = 7;
    pub(super) const BROADCAST_CLIENT_COUNT: u8 = 8;
    pub(super) const BROADCAST_ACK: u8 = 9;
    /// A client that was asked has left. Node's servers ignore it.
    pub(super) const CLIENT_LEFT: u8 = 21;
    /// A question has ended. Node's servers ignore it.
    pub(super) const QUESTION_ENDED: u8 = 22;
}

/// Returns the channel of a message.
pub(in crate::cluster) fn channel(message: &Message) -> Channel<'_> {
    match message {
        Message::Operation(target, Operation::Emit { .. }) => match &target.rooms[..] {
            [room] => Channel::Room(room),
            _ => Channel::Broadcast,
        },
        Message::Operation(..)
        | Message::ServerEvent(_)
        | Message::Question(..)
        | Message::End(_)
        | Message::Displaced(..) => Channel::Request,
        Message::Answer(..) => Channel::Response,
    }
}

/// Writes a message.
pub(in crate::cluster) fn encode(envelope: &Envelope) -> Vec<u8> {
    let Envelope {
        from,
        namespace,
        message,
        ..
    } = envelope;
    let uid: &str = from;
    let mut json = Json::default();
    match message {
        Message::Operation(target, Operation::Emit { payload, volatile }) => {
            json.raw("[").value(uid).raw(",");
            json.packet(payload, Some(namespace)).raw(",");
            json.target(target, Some(Flags::of(payload, *volatile)))
                .raw("]");
            return json.with(payload).into_msgpack();
        }
        Message::Operation(target, Operation::Join(rooms)) => {
            request(&mut json, uid, None, kind::REMOTE_JOIN);
            change_rooms(&mut json, target, rooms);
        }
        Message::Operation(target, Operation::Leave(rooms)) => {
            request(&mut json, uid, None, kind::REMOTE_LEAVE);
            change_rooms(&mut json, target, rooms);
        }
        Message::Operation(target, Operation::Disconnect { close }) => {
            request(&mut json, uid, None, kind::REMOTE_DISCONNECT);
            json.raw(r#","opts":"#).target(target, None);
            json.raw(r#","close":"#).value(close).raw("}");
        }
        Message::Displaced(id, _) => {
            let target = Target::of(id);
            request(&mut json, uid, None, kind::REMOTE_DISCONNECT);
            json.raw(r#","opts":"#).target(&target, None);
            json.raw(r#","close":true}"#);
        }
        Message::ServerEvent(payload) => {
            request(&mut json, uid, None, kind::SERVER_SIDE_EMIT);
            json.raw(r#","data":"#)
                .raw(payload.with_buffers(payload.json()))
                .raw("}");
        }
        Message::Question(id, Question::ServerEvent(payload)) => {
            request(&mut json, uid, Some(id), kind::SERVER_SIDE_EMIT);
            json.raw(r#","data":"#)
                .raw(payload.with_buffers(payload.json()))
                .raw("}");
        }
        Message::Question(id, Question::Sockets(target)) => {
            request(&mut json, uid, Some(id), kind::REMOTE_FETCH);
            json.raw(r#","opts":"#).target(target, None).raw("}");
        }
        Message::Question(id, Question::Event(target, payload, timeout)) => {
            request(&mut json, uid, Some(id), kind::BROADCAST);
            json.raw(r#","packet":"#).packet(payload, Some(namespace));
            let flags = Flags {
                timeout: Some(timeout.as_millis() as u64),
                ..Flags::of(payload, false)
            };
            json.raw(r#","opts":"#).target(target, Some(flags)).raw("}");
            return json.with(payload).into_msgpack();
        }
        Message::Question(id, Question::Rooms) => {
            request(&mut json, uid, Some(id), kind::ALL_ROOMS);
            json.raw("}");
        }
        Message::End(id) => {
            request(&mut json, uid, Some(id), kind::QUESTION_ENDED).raw("}");
        }
        // Only servers that are older than ours ask so, or those with a log.
        Message::Question(
            id,
            Question::Ids(_) | Question::Operation(..) | Question::HandOver(_),
        ) => {
            request(&mut json, uid, Some(id), kind::SOCKETS);
            json.raw(r#","rooms":[]}"#);
        }
        Message::Answer(id, answer) => return encode_answer(uid, id, answer),
    }
    json.text().into_bytes()
}

/// Writes an answer. Node's servers ignore `uid` and `sid`.
fn encode_answer(uid: &str, id: &str, answer: &Answer) -> Vec<u8> {
    let mut json = Json::default();
    match answer {
        Answer::Sockets(sockets) => {
            response(&mut json, uid, id, None)
                .raw(r#","sockets":"#)
                .sockets(sockets);
        }
        Answer::Ids(ids) => {
            response(&mut json, uid, id, None)
                .raw(r#","sockets":"#)
                .value(ids);
        }
        Answer::Rooms(rooms) => {
            response(&mut json, uid, id, None)
                .raw(r#","rooms":"#)
                .value(rooms);
        }
        Answer::Done | Answer::HandedOver(_) => {
            response(&mut json, uid, id, None);
        }
        Answer::Reply(payload) => {
            let mut value = Json::default();
            value.first_arg(payload);
            response(&mut json, uid, id, Some(kind::SERVER_SIDE_EMIT));
            json.raw(r#","data":"#).raw(payload.with_buffers(&value.0));
        }
        Answer::Clients(count) => {
            response(&mut json, uid, id, Some(kind::BROADCAST_CLIENT_COUNT));
            json.raw(r#","clientCount":"#).value(count);
        }
        Answer::Left => {
            response(&mut json, uid, id, Some(kind::CLIENT_LEFT));
        }
        Answer::Ack(socket, payload) => {
            response(&mut json, uid, id, Some(kind::BROADCAST_ACK));
            if let Some(socket) = socket {
                json.raw(r#","sid":"#).value(socket.as_str());
            }
            json.raw(r#","packet":"#).first_arg(payload).raw("}");
            return json.with(payload).into_msgpack();
        }
    }
    json.raw("}");
    json.text().into_bytes()
}

/// Writes the beginning of a request, without its closing bracket.
fn request<'a>(json: &'a mut Json, uid: &str, id: Option<&str>, kind: u8) -> &'a mut Json {
    json.raw(r#"{"uid":"#).value(uid);
    if let Some(id) = id {
        json.raw(r#","requestId":"#).value(id);
    }
    json.raw(r#","type":"#).value(&kind)
}

/// Writes the beginning of an answer, without its closing bracket.
fn response<'a>(json: &'a mut Json, uid: &str, id: &str, kind: Option<u8>) -> &'a mut Json {
    json.raw("{");
    if let Some(kind) = kind {
        json.raw(r#""type":"#).value(&kind).raw(",");
    }
    json.raw(r#""requestId":"#).value(id);
    json.raw(r#","uid":"#).value(uid)
}

fn change_rooms(json: &mut Json, target: &Target, rooms: &[Arc<str>]) {
    json.raw(r#","opts":"#).target(target, None);
    json.raw(r#","rooms":"#).rooms(rooms).raw("}");
}

/// Reads a broadcast. Returns `None` if it is a message of the server `me`, or of another
/// namespace.
///
/// # Errors
///
/// Fails if the message has another form.
pub(in crate::cluster) fn decode_broadcast(
    bytes: &Bytes,
    namespace: &NamespaceName,
    me: &str,
) -> Result<Option<Envelope>, DecodeError> {
    if is_own(bytes, me) {
        return Ok(None);
    }
    let Text { json, attachments } = Text::read(bytes)?;
    let (uid, packet, opts): (Cow<'_, str>, Packet<'_>, Option<Opts>) =
        serde_json::from_slice(&json).map_err(|_| MALFORMED)?;
    if packet.namespace().unwrap_or("/") != namespace.as_str() {
        return Ok(None);
    }
    let mut opts = opts.unwrap_or_default();
    let payload = packet.event(&json, attachments, &opts)?;
    let volatile = opts.is_volatile();
    let message = Message::Operation(opts.target(), Operation::Emit { payload, volatile });
    Ok(Some(Envelope::new(
        uid.as_ref().into(),
        namespace.clone(),
        message,
    )))
}

/// Returns whether a broadcast begins as one of this server: a list of three, then the id.
fn is_own(bytes: &[u8], me: &str) -> bool {
    let Some([0x93, marker, rest @ ..]) = bytes.get(..2 + me.len()) else {
        return false;
    };
    // The marker of a text of less than 32 bytes.
    usize::from(*marker) == 0xa0 + me.len() && rest == me.as_bytes()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    r#type: Option<u8>,
    #[serde(borrow)]
    uid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    request_id: Option<Cow<'a, str>>,
    opts: Option<Opts>,
    rooms: Option<Vec<Room>>,
    room: Option<Room>,
    sid: Option<Room>,
    close: Option<bool>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    packet: Option<Packet<'a>>,
}

/// Reads a request. Returns `None` if it is one of the server `me`, or of an unknown type.
///
/// # Errors
///
/// Fails if the message has another form.
pub(in crate::cluster) fn decode_request(
    bytes: &Bytes,
    namespace: &NamespaceName,
    me: &str,
) -> Result<Option<Envelope>, DecodeError> {
    let Text { json, attachments } = Text::read(bytes)?;
    let request: Request<'_> = serde_json::from_slice(&json).map_err(|_| MALFORMED)?;
    let uid = request.uid.as_deref().unwrap_or_default();
    if uid == me {
        return Ok(None);
    }
    let id = || {
        request
            .request_id
            .as_deref()
            .map(Into::into)
            .ok_or(MALFORMED)
    };
    let opts = |opts: Option<Opts>| Ok::<_, DecodeError>(opts.ok_or(MALFORMED)?.target());
    let kind = request.r#type.ok_or(MALFORMED)?;
    let message = match (kind, request.sid) {
        (kind::SOCKETS, _) => {
            let rooms = fields::names(request.rooms);
            let except = Vec::new();
            Message::Question(id()?, Question::Ids(Target { rooms, except }))
        }
        (kind::ALL_ROOMS, _) => Message::Question(id()?, Question::Rooms),
        // Older servers name one socket, and wait for an answer.
        (kind @ (kind::REMOTE_JOIN | kind::REMOTE_LEAVE | kind::REMOTE_DISCONNECT), Some(sid)) => {
            let rooms = fields::names(Some(vec![sid]));
            let except = Vec::new();
            let room = fields::names(request.room.map(|room| vec![room]));
            let operation = operation(kind, room, request.close);
            Message::Question(
                id()?,
                Question::Operation(Target { rooms, except }, operation),
            )
        }
        (kind @ (kind::REMOTE_JOIN | kind::REMOTE_LEAVE | kind::REMOTE_DISCONNECT), None) => {
            let rooms = fields::names(request.rooms);
            Message::Operation(opts(request.opts)?, operation(kind, rooms, request.close))
        }
        (kind::REMOTE_FETCH, _) => Message::Question(id()?, Question::Sockets(opts(request.opts)?)),
        (kind::SERVER_SIDE_EMIT, _) => {
            let event = fields::event(&json, request.data.ok_or(MALFORMED)?, attachments)?;
            match request.request_id {
                Some(id) => Message::Question(id.as_ref().into(), Question::ServerEvent(event)),
                None => Message::ServerEvent(event),
            }
        }
        (kind::BROADCAST, _) => {
            let mut opts = request.opts.ok_or(MALFORMED)?;
            let packet = request.packet.ok_or(MALFORMED)?;
            let payload = packet.event(&json, attachments, &opts)?;
            let timeout = opts.timeout();
            Message::Question(id()?, Question::Event(opts.target(), payload, timeout))
        }
        (kind::QUESTION_ENDED, _) => Message::End(id()?),
        _ => return Ok(None),
    };
    Ok(Some(Envelope::new(uid.into(), namespace.clone(), message)))
}

fn operation(kind: u8, rooms: Vec<Arc<str>>, close: Option<bool>) -> Operation {
    match kind {
        kind::REMOTE_JOIN => Operation::Join(rooms),
        kind::REMOTE_LEAVE => Operation::Leave(rooms),
        _ => Operation::Disconnect {
            close: close.unwrap_or_default(),
        },
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    r#type: Option<u8>,
    #[serde(borrow)]
    request_id: Cow<'a, str>,
    #[serde(borrow)]
    uid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    sid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    sockets: Option<Vec<Described<'a>>>,
    client_count: Option<Value>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    packet: Option<&'a RawValue>,
}

/// An answer with ids in place of descriptions.
#[derive(Deserialize)]
struct OldResponse {
    #[serde(rename = "sockets")]
    _sockets: Vec<String>,
}

/// Reads an answer. Returns `None` if it is one of the server `me`, or of an unknown type.
///
/// # Errors
///
/// Fails if the message has another form.
pub(in crate::cluster) fn decode_response(
    bytes: &Bytes,
    namespace: &NamespaceName,
    me: &str,
) -> Result<Option<Envelope>, DecodeError> {
    let Text { json, attachments } = Text::read(bytes)?;
    let response: Response<'_> = match serde_json::from_slice(&json) {
        Ok(response) => response,
        // Old servers answer each other with ids only.
        Err(_) if serde_json::from_slice::<OldResponse>(&json).is_ok() => return Ok(None),
        Err(_) => return Err(MALFORMED),
    };
    let uid = response.uid.as_deref().unwrap_or_default();
    if uid == me {
        return Ok(None);
    }
    let answer = match (response.r#type, response.sockets) {
        (None, Some(sockets)) => Answer::Sockets(fields::sockets(sockets, &attachments)),
        (Some(kind::SERVER_SIDE_EMIT), _) => {
            Answer::Reply(fields::answer(response.data, attachments)?)
        }
        (Some(kind::BROADCAST_CLIENT_COUNT), _) => {
            Answer::Clients(fields::client_count(response.client_count.as_ref())?)
        }
        (Some(kind::CLIENT_LEFT), _) => Answer::Left,
        (Some(kind::BROADCAST_ACK), _) => {
            let socket = response.sid.as_deref().and_then(SocketId::parse);
            Answer::Ack(socket, fields::answer(response.packet, attachments)?)
        }
        _ => return Ok(None),
    };
    Ok(Some(Envelope::new(
        uid.into(),
        namespace.clone(),
        Message::Answer(response.request_id.as_ref().into(), answer),
    )))
}

/// Reads a message as a broadcast, a request and a response, and writes what was read.
#[cfg(feature = "unstable-internals")]
pub fn rewrite(bytes: &Bytes) -> Vec<Vec<u8>> {
    let namespace = NamespaceName::MAIN;
    let read = [
        decode_broadcast(bytes, &namespace, "me"),
        decode_request(bytes, &namespace, "me"),
        decode_response(bytes, &namespace, "me"),
    ];
    let read = read.into_iter().filter_map(|envelope| envelope.ok()?);
    read.map(|envelope| encode(&envelope)).collect()
}

#[cfg(test)]
mod tests;
