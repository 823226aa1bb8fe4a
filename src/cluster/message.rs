//! The messages between the servers of a cluster.

use std::sync::Arc;

#[cfg(feature = "wire")]
use bytes::Bytes;

use crate::engine_io::SocketId;
use crate::hub::other_servers::{Answer, Operation, Question};
use crate::hub::recovery::Offset;
use crate::hub::selection::Target;
#[cfg(feature = "wire")]
use crate::protocol::DecodeError;
use crate::protocol::{NamespaceName, Payload};

/// A message between servers, with its sender and its namespace.
///
/// A [`Broker`](super::Broker) carries it from one server to the others.
#[derive(Clone, Debug)]
pub struct Envelope {
    pub(super) from: ServerId,
    pub(super) namespace: NamespaceName,
    pub(super) message: Message,
    /// Whether a broadcast to one room must reach servers that may not have opened the room yet.
    pub(super) is_room_new: bool,
    /// See [`Envelope::number`].
    pub(super) number: u64,
}

impl Envelope {
    pub(super) fn new(from: ServerId, namespace: NamespaceName, message: Message) -> Self {
        Self {
            from,
            namespace,
            message,
            is_room_new: false,
            number: 0,
        }
    }

    /// Returns the id of the server that has sent the message.
    #[must_use]
    pub fn sender(&self) -> &str {
        &self.from
    }

    /// Returns the name of the namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns the number of a [`Publish`](super::Command::Publish) among those of its server: the first
    /// has 1, and each later one has a higher number. A broker with a [log](super::Broker::has_log) passes
    /// it to [`Inbox::returned`](super::Inbox::returned). In other messages, and in one that `from_bytes`
    /// has read, it is 0.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Returns the room of an event for one room, if it only concerns the servers that have the room
    /// at present. A broker that [wants rooms](super::Broker::wants_rooms) sends it to those servers,
    /// and everything else to all servers of the namespace.
    ///
    /// It is `None` for the first ten seconds after sockets of other servers were told to join the
    /// room, because the broker of those servers may not have handled
    /// [`Command::Room`](super::Command::Room) yet. Only the envelope of a command knows that: call
    /// this before `to_bytes`. An envelope that `from_bytes` has read returns the room even if it is
    /// new.
    ///
    /// It is `Some` also for a volatile event, for one with binary values, for one that leaves rooms
    /// out, and for one to the id of a socket. The name of a room may be empty. It is `None` for an
    /// event to no room or to several, for a question, for a server event, and for a message that
    /// makes the sockets of a room join rooms, leave rooms or disconnect.
    #[must_use]
    pub fn room(&self) -> Option<&str> {
        match &self.message {
            Message::Operation(target, Operation::Emit { .. }) if !self.is_room_new => {
                match &target.rooms[..] {
                    [room] => Some(room),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Writes the message as bytes, in the form of Node's `ClusterAdapter`: JSON, or MessagePack if it
    /// has attachments. Needs the feature `wire`.
    ///
    /// The bytes do not say whether the room of the message is new: call [`room`](Self::room) before. A
    /// message of 64 MiB, the longest that a server sends, can have more bytes, which
    /// [`from_bytes`](Self::from_bytes) refuses.
    #[cfg(feature = "wire")]
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        super::wire::envelope::encode(self)
    }

    /// Reads a message that [`to_bytes`](Self::to_bytes) or a server of Node has written, for
    /// [`Inbox::deliver`](super::Inbox::deliver). Its [`room`](Self::room) may be new. Returns `None` for
    /// a message of a type that nothing is done for. Needs the feature `wire`.
    ///
    /// # Errors
    ///
    /// Fails if the message is malformed, longer than 64 MiB, or too deeply nested.
    #[cfg(feature = "wire")]
    pub fn from_bytes(bytes: &Bytes) -> Result<Option<Self>, DecodeError> {
        super::wire::envelope::decode_any(bytes)
    }

    /// Returns the bytes that the message needs in memory, about.
    pub(super) fn cost(&self) -> usize {
        size_of::<Self>() + self.namespace.len() + self.message.cost()
    }
}

/// The id of a server, 16 hexadecimal digits. Other servers may have ids of other forms.
pub(super) type ServerId = Arc<str>;

/// The id that stands for the sender of a message of an emitter, which is no server.
#[cfg(feature = "postgres")]
pub(super) const EMITTER: &str = "emitter";

/// The id of a question, 16 hexadecimal digits.
pub(super) type RequestId = Arc<str>;

/// The content of an [`Envelope`].
#[derive(Clone, Debug)]
pub(super) enum Message {
    /// An operation on sockets.
    Operation(Target, Operation),
    /// An event for the handlers of the servers.
    ServerEvent(Payload),
    /// A question.
    Question(RequestId, Question),
    /// An answer to a question.
    Answer(RequestId, Answer),
    /// The end of a question to clients: their servers need not wait for them any longer. Only servers
    /// of this crate send it.
    End(RequestId),
    /// A socket was restored on this server, at this end of the log: another one that still has it ends
    /// its connection.
    Displaced(SocketId, Offset),
}

impl Message {
    fn cost(&self) -> usize {
        let target = |target: &Target| {
            let rooms = target.rooms.iter().chain(&target.except);
            rooms.map(|room| ROOM + room.len()).sum::<usize>()
        };
        match self {
            Self::Operation(to, Operation::Emit { payload, .. }) => target(to) + bytes(payload),
            Self::Operation(to, Operation::Join(rooms) | Operation::Leave(rooms)) => {
                target(to) + rooms.iter().map(|room| ROOM + room.len()).sum::<usize>()
            }
            Self::Operation(to, Operation::Disconnect { .. }) => target(to),
            Self::Question(_, Question::Event(to, payload, _)) => target(to) + bytes(payload),
            Self::Question(_, Question::Sockets(to) | Question::Ids(to)) => target(to),
            Self::Question(_, Question::Operation(to, _)) => target(to),
            Self::Question(_, Question::Rooms | Question::HandOver(_))
            | Self::End(_)
            | Self::Displaced(..) => 0,
            Self::ServerEvent(payload) | Self::Question(_, Question::ServerEvent(payload)) => {
                bytes(payload)
            }
            Self::Answer(_, Answer::Sockets(sockets)) => sockets.len() * SOCKET,
            Self::Answer(_, Answer::Reply(payload) | Answer::Ack(_, payload)) => bytes(payload),
            Self::Answer(_, Answer::Ids(names) | Answer::Rooms(names)) => {
                names.iter().map(|name| ROOM + name.len()).sum()
            }
            Self::Answer(
                _,
                Answer::Clients(_) | Answer::Left | Answer::Done | Answer::HandedOver(_),
            ) => 0,
        }
    }
}

/// The bytes of a room in a list, without its name.
const ROOM: usize = 40;

/// The bytes of a description of a socket, about.
const SOCKET: usize = 2048;

fn bytes(payload: &Payload) -> usize {
    /// The bytes of an attachment, without its content.
    const ATTACHMENT: usize = 48;

    let attachments = payload.attachments();
    let attachments = attachments.map(|bytes| ATTACHMENT + bytes.len());
    Payload::HEADROOM + payload.json().len() + attachments.sum::<usize>()
}
