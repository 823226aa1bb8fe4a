//! Sockets as the page shows them.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::engine_io::SocketId;
use crate::handles::{Shown, Socket};
use crate::hub::session::SharedSession;

/// A socket, in the form that the page expects.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Description<'a> {
    id: SocketId,
    client_id: String,
    transport: &'static str,
    nsp: &'a str,
    data: Cow<'a, Value>,
    handshake: Box<RawValue>,
    rooms: Vec<String>,
}

/// Describes sockets as JSON.
#[derive(Clone, Copy, Debug)]
pub(super) struct Describer {
    /// The number of this server.
    pub(super) server: u64,
    /// Whether cookies and the like are shown.
    pub(super) shows_credentials: bool,
}

impl Describer {
    /// Describes a socket, without the headers and the query unless `has_head`, or if they are long: a
    /// client chooses how long they are. Returns `None` if that cannot be written.
    pub(super) fn describe(self, socket: &Socket, has_head: bool) -> Option<Box<RawValue>> {
        let shown = Shown {
            head: has_head && socket.head_len() <= MAX_HEAD,
            credentials: self.shows_credentials,
        };
        let handshake = socket.public_handshake_json(shown);
        describe(socket, self.server, handshake)
    }
}

/// The longest headers and query that are shown, in bytes.
const MAX_HEAD: usize = 4 * 1024;

/// The room of the pages that show sockets and events. It is not shown.
pub(super) const PAGES_WITH_EVENTS: &str = "tower-socketio:admin:events";

fn describe(socket: &Socket, server: u64, handshake: String) -> Option<Box<RawValue>> {
    let mut rooms = vec![socket.id().to_string()];
    let others = socket.rooms().into_iter();
    rooms.extend(others.filter(|room| room != PAGES_WITH_EVENTS));
    let data = socket.member.data();
    let description = Description {
        id: socket.id(),
        client_id: client_id(&socket.member.session, server),
        transport: socket.transport().name(),
        nsp: socket.namespace(),
        data: data_of(data.as_deref()),
        handshake: RawValue::from_string(handshake).ok()?,
        rooms,
    };
    serde_json::value::to_raw_value(&description).ok()
}

/// Returns the data of a socket. Without data they are an empty object.
pub(super) fn data_of(data: Option<&Value>) -> Cow<'_, Value> {
    data.map_or_else(
        || Cow::Owned(Value::Object(Default::default())),
        Cow::Borrowed,
    )
}

/// Returns the id by which the page knows the connection of a client, 12 characters: a part of the
/// server's number, and the number of the session. The id of the session is a secret.
pub(super) fn client_id(session: &SharedSession, server: u64) -> String {
    format!(
        "{:06x}{:06x}",
        server & 0xff_ffff,
        session.number & 0xff_ffff
    )
}
