//! A saved socket, in the form of the sessions of Node's adapters: `{sid, pid, rooms, data}` in
//! MessagePack. The other keys are this crate's own, and Node ignores them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fields::{self, Room};
use super::{MALFORMED, Text};
use crate::engine_io::SocketId;
use crate::hub::recovery::{History, Offset, PrivateId, RoomHistory, RoomStay, SavedSocket};
use crate::protocol::DecodeError;

#[derive(Serialize)]
struct Written<'a> {
    sid: &'a str,
    pid: &'a str,
    rooms: Vec<&'a str>,
    data: Data<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nsp: Option<&'a str>,
    /// Whether the socket is connected.
    early: bool,
    /// The offset of the first packet after the join, for each room.
    since: BTreeMap<&'a str, String>,
    /// The rooms that the socket has left, from an offset up to another.
    former: Vec<(&'a str, String, String)>,
    except: Vec<(String, bool)>,
    floor: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left: Option<String>,
}

/// The data, or an empty object, as in Node's servers.
struct Data<'a>(Option<&'a Value>);

impl Serialize for Data<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(data) => data.serialize(serializer),
            None => serializer.collect_map::<&str, &str, _>([]),
        }
    }
}

/// Writes a saved socket as MessagePack.
pub(in crate::cluster) fn encode(socket: &SavedSocket) -> Vec<u8> {
    let room_history = &socket.room_history;
    let rooms = room_history.rooms.keys().map(|room| &**room);
    let since = room_history.rooms.iter();
    let former = room_history.former_rooms.iter();
    let except = room_history.exceptions.iter();
    let history = socket.history;
    let written = Written {
        sid: socket.id.as_str(),
        pid: socket.key(),
        rooms: [socket.id.as_str()].into_iter().chain(rooms).collect(),
        data: Data(socket.data.as_deref()),
        nsp: socket.namespace.as_deref(),
        early: socket.is_connected,
        since: since
            .map(|(room, offset)| (&**room, offset.to_string()))
            .collect(),
        former: former
            .map(|stay| (&*stay.room, stay.from.to_string(), stay.to.to_string()))
            .collect(),
        except: except
            .map(|(offset, is_recipient)| (offset.to_string(), *is_recipient))
            .collect(),
        floor: room_history.floor.to_string(),
        base: history.map(|history| history.base.to_string()),
        sent: history.map(|history| history.sent.to_string()),
        left: history.map(|history| history.left.to_string()),
    };
    // Texts and JSON can always be written.
    let json = serde_json::to_vec(&written).unwrap_or_default();
    Text {
        json: json.into(),
        attachments: Vec::new(),
    }
    .into_msgpack()
}

#[derive(Deserialize)]
struct Read<'a> {
    #[serde(borrow)]
    sid: Cow<'a, str>,
    #[serde(borrow)]
    pid: Cow<'a, str>,
    rooms: Vec<Room>,
    data: Option<Value>,
    nsp: Option<String>,
    early: Option<bool>,
    since: Option<BTreeMap<String, String>>,
    former: Option<Vec<(String, String, String)>>,
    except: Option<Vec<(String, bool)>>,
    floor: Option<String>,
    base: Option<String>,
    sent: Option<String>,
    left: Option<String>,
}

/// Reads a saved socket.
///
/// # Errors
///
/// Fails if it has another form.
pub(in crate::cluster) fn decode(bytes: &Bytes) -> Result<SavedSocket, DecodeError> {
    let Text { json, attachments } = Text::read(bytes)?;
    let read: Read<'_> = serde_json::from_slice(&json).map_err(|_| MALFORMED)?;
    let id = SocketId::parse(&read.sid).ok_or(MALFORMED)?;
    let private_id = PrivateId::parse(&read.pid).ok_or(MALFORMED)?;
    let offset = |text: String| Offset::parse(&text).ok_or(MALFORMED);
    let mut since = read.since.unwrap_or_default();
    let mut room_history = RoomHistory::default();
    for room in fields::names(Some(read.rooms)) {
        if *room != *id.as_str() {
            // A server of Node does not say it.
            let since = since.remove(&*room).map_or(Ok(Offset::default()), offset)?;
            room_history.rooms.insert(room, since);
        }
    }
    for (room, from, to) in read.former.into_iter().flatten() {
        room_history.former_rooms.push_back(RoomStay {
            room: room.into(),
            from: offset(from)?,
            to: offset(to)?,
        });
    }
    for (at, is_recipient) in read.except.into_iter().flatten() {
        room_history
            .exceptions
            .push_back((offset(at)?, is_recipient));
    }
    room_history.floor = read.floor.map_or(Ok(Offset::default()), offset)?;
    let history = match (read.base, read.sent, read.left) {
        (Some(base), Some(sent), Some(left)) => Some(History {
            base: offset(base)?,
            sent: offset(sent)?,
            left: offset(left)?,
        }),
        _ => None,
    };
    let mut data = read.data.filter(|data| !data.is_null());
    if let Some(data) = &mut data {
        fields::insert_buffers(data, &attachments);
    }
    Ok(SavedSocket {
        id,
        private_id,
        namespace: read.nsp.map(|name| name.as_str().into()),
        room_history,
        data: data.map(Arc::new),
        is_connected: read.early.unwrap_or_default(),
        history,
    })
}

impl SavedSocket {
    /// Writes the socket as MessagePack, in the form of Node's adapters. Needs the feature `wire`.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads a socket that [`to_bytes`](Self::to_bytes) or a server of Node has written. Needs the feature
    /// `wire`.
    ///
    /// # Errors
    ///
    /// Fails if the bytes have another form.
    pub fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        decode(bytes)
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;
    use serde_json::json;

    use super::*;

    /// What a server of Node has saved, as it was captured.
    const OF_NODE: &str = "hKNzaWS0MUFlYXp0em56eTJ1cVY0M0FBQUOjcGlktENjOTBtRklNZDc0bE5ma0FBQUFEpXJvb21zlrQxQWVhenR6bnp5MnVxVjQzQUFBQ6Vyb29tMaVyb29tMqJqMaJqMqJlMaRkYXRhg6R1c2Vyo3UtYqFuAaFk1v9lU/EA";

    #[test]
    fn a_session_of_a_node_server_is_read() {
        let bytes = BASE64_STANDARD.decode(OF_NODE).expect("base64");
        let socket = decode(&bytes.into()).expect("a session");
        assert_eq!(socket.id.as_str(), "1Aeaztznzy2uqV43AAAC");
        assert_eq!(socket.key(), "Cc90mFIMd74lNfkAAAAD");
        let rooms: Vec<_> = socket
            .room_history
            .rooms
            .keys()
            .map(|room| &**room)
            .collect();
        assert_eq!(rooms, ["room1", "room2", "j1", "j2", "e1"]);
        let data = json!({"user": "u-b", "n": 1, "d": "2023-11-14T22:13:20.000Z"});
        assert_eq!(socket.data.as_deref(), Some(&data));
        assert!(socket.history.is_none() && socket.namespace.is_none());
    }

    #[test]
    fn a_saved_socket_is_read_as_it_was_written() {
        let at = |low| Offset::new(1_700_000_000_000, low);
        let mut room_history = RoomHistory {
            floor: at(1),
            ..RoomHistory::default()
        };
        room_history.rooms.insert("room".into(), at(2));
        room_history.former_rooms.push_back(RoomStay {
            room: "former".into(),
            from: at(1),
            to: at(3),
        });
        room_history.exceptions.push_back((at(4), true));
        let socket = SavedSocket {
            id: SocketId::new([1; 15]),
            private_id: PrivateId::new([2; 16]),
            namespace: Some("/chat".into()),
            room_history,
            data: Some(Arc::new(json!({"a": [1, "é"]}))),
            is_connected: true,
            history: Some(History {
                base: at(1),
                sent: at(5),
                left: at(6),
            }),
        };
        let read = decode(&encode(&socket).into()).expect("a session");
        assert_eq!(read.id, socket.id);
        assert_eq!(read.key(), socket.key());
        assert_eq!(read.namespace, socket.namespace);
        assert_eq!(read.data, socket.data);
        assert_eq!(read.is_connected, socket.is_connected);
        let [read, written] = [&read, &socket].map(|socket| {
            let room_history = &socket.room_history;
            format!("{room_history:?} {:?}", socket.history)
        });
        assert_eq!(read, written);
    }

    #[test]
    fn what_is_no_session_is_an_error() {
        for json in [
            json!(1),
            json!({}),
            json!({"sid": "x", "pid": "Cc90mFIMd74lNfkAAAAD", "rooms": []}),
            json!({"sid": "1Aeaztznzy2uqV43AAAC", "pid": "x", "rooms": []}),
            json!({"sid": "1Aeaztznzy2uqV43AAAC", "pid": "Cc90mFIMd74lNfkAAAAD", "rooms": 1}),
            json!({"sid": "1Aeaztznzy2uqV43AAAC", "pid": "Cc90mFIMd74lNfkAAAAD", "rooms": [], "floor": "x"}),
        ] {
            let json = json.to_string();
            let text = Text {
                json: json.clone().into(),
                attachments: Vec::new(),
            };
            assert!(decode(&text.into_msgpack().into()).is_err(), "{json}");
        }
        assert!(decode(&Bytes::new()).is_err());
    }
}
