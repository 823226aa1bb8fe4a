//! The namespaces of a session, and the protocol errors of its client.

use std::time::{Duration, Instant};

use super::{Kind, NamespaceName, Packet, Payload};
use crate::engine_io::timer::deadline;

/// The state of the client of one session, as the protocol sees it.
#[derive(Debug)]
pub(crate) struct Peer {
    entries: Vec<Entry>,
    max: usize,
    /// How often the server has made the client leave a namespace.
    left: u64,
    /// The time by which the client must have joined its first namespace.
    deadline: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    name: NamespaceName,
    phase: Phase,
}

impl Entry {
    fn has_left(&self) -> bool {
        matches!(self.phase, Phase::Left(_))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Free,
    Connecting,
    Connected,
    /// The server made the client leave. Packets that the client sent before it knew are ignored,
    /// and are not a protocol error. The number is that of [`Peer::left`].
    Left(u64),
}

/// The meaning of a packet.
///
/// A slot stands for a namespace of the session, until it is freed.
#[derive(Debug)]
pub(crate) enum Action {
    Connect {
        slot: usize,
        name: NamespaceName,
        auth: Payload,
    },
    /// A CONNECT for one namespace more than the limit.
    TooMany(NamespaceName),
    Event {
        slot: usize,
        ack: Option<u64>,
        payload: Payload,
    },
    Ack {
        slot: usize,
        ack: u64,
        payload: Payload,
    },
    Disconnect {
        slot: usize,
    },
    Ignore,
}

/// The client broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProtocolError(pub(crate) &'static str);

impl Peer {
    pub(crate) fn new(max: usize, timeout: Duration, now: Instant) -> Self {
        Self {
            entries: Vec::new(),
            max,
            left: 0,
            deadline: Some(deadline(now, timeout)),
        }
    }

    pub(crate) fn handle_packet(&mut self, packet: Packet) -> Result<Action, ProtocolError> {
        let found = self.find(&packet.namespace);
        if packet.kind == Kind::Connect {
            return self.connect(found, packet);
        }
        let slot = found.ok_or(ProtocolError("not connected to the namespace"))?;
        if self.entries[slot].has_left() {
            return Ok(Action::Ignore);
        }
        Ok(match (packet.kind, packet.ack) {
            (Kind::Event, ack) => Action::Event {
                slot,
                ack,
                payload: packet.payload,
            },
            (Kind::Ack, Some(ack)) => Action::Ack {
                slot,
                ack,
                payload: packet.payload,
            },
            (Kind::Ack, None) => Action::Ignore,
            (Kind::Disconnect, _) => Action::Disconnect { slot },
            (Kind::Connect | Kind::ConnectError, _) => {
                return Err(ProtocolError("a packet that only servers send"));
            }
        })
    }

    fn connect(&mut self, found: Option<usize>, packet: Packet) -> Result<Action, ProtocolError> {
        let slot = match found {
            Some(slot) if self.entries[slot].has_left() => slot,
            Some(_) => return Err(ProtocolError("connected to the namespace already")),
            None => match self.free_slot() {
                Some(slot) => slot,
                None => return Ok(Action::TooMany(packet.namespace)),
            },
        };
        self.entries[slot] = Entry {
            name: packet.namespace.clone(),
            phase: Phase::Connecting,
        };
        Ok(Action::Connect {
            slot,
            name: packet.namespace,
            auth: packet.payload,
        })
    }

    fn find(&self, name: &NamespaceName) -> Option<usize> {
        let is_it = |entry: &Entry| entry.phase != Phase::Free && entry.name == *name;
        self.entries.iter().position(is_it)
    }

    fn free_slot(&mut self) -> Option<usize> {
        let is_free = |entry: &Entry| entry.phase == Phase::Free;
        if let Some(slot) = self.entries.iter().position(is_free) {
            return Some(slot);
        }
        if self.entries.len() >= self.max {
            return self.longest_left();
        }
        self.entries.push(Entry {
            name: NamespaceName::MAIN,
            phase: Phase::Free,
        });
        Some(self.entries.len() - 1)
    }

    /// Returns the slot of the namespace that the server made the client leave the longest ago. By now
    /// the client knows, most likely.
    fn longest_left(&self) -> Option<usize> {
        let entries = self.entries.iter().enumerate();
        let left = entries.filter_map(|(slot, entry)| match entry.phase {
            Phase::Left(number) => Some((number, slot)),
            Phase::Free | Phase::Connecting | Phase::Connected => None,
        });
        left.min().map(|(_, slot)| slot)
    }

    /// Marks the namespace as joined, and removes the deadline.
    pub(crate) fn mark_connected(&mut self, slot: usize) {
        self.deadline = None;
        self.entries[slot].phase = Phase::Connected;
    }

    /// Frees the slot, after the client was refused or left.
    pub(crate) fn free(&mut self, slot: usize) {
        self.entries[slot] = Entry {
            name: NamespaceName::MAIN,
            phase: Phase::Free,
        };
    }

    /// Marks the namespace as one that the server made the client leave.
    pub(crate) fn mark_left(&mut self, slot: usize) {
        self.left += 1;
        self.entries[slot].phase = Phase::Left(self.left);
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Result<(), ProtocolError> {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.deadline = None;
            return Err(ProtocolError("joined no namespace in time"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> (Peer, Instant) {
        let now = Instant::now();
        (Peer::new(2, Duration::from_secs(45), now), now)
    }

    fn packet(name: &str, kind: Kind) -> Packet {
        Packet {
            namespace: name.into(),
            kind,
            ack: None,
            payload: Payload::default(),
        }
    }

    fn connect(peer: &mut Peer, name: &str) -> usize {
        match peer.handle_packet(packet(name, Kind::Connect)) {
            Ok(Action::Connect { slot, .. }) => slot,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn packets_before_connect_are_a_violation() {
        for kind in [Kind::Event, Kind::Ack, Kind::Disconnect, Kind::ConnectError] {
            let (mut peer, _) = peer();
            assert!(peer.handle_packet(packet("/", kind)).is_err());
        }
    }

    #[test]
    fn a_second_connect_is_a_violation_also_while_the_first_is_pending() {
        let (mut peer, _) = peer();
        let slot = connect(&mut peer, "/");
        assert!(peer.handle_packet(packet("/", Kind::Connect)).is_err());
        peer.mark_connected(slot);
        assert!(peer.handle_packet(packet("/", Kind::Connect)).is_err());
    }

    #[test]
    fn events_while_connecting_are_accepted() {
        let (mut peer, _) = peer();
        connect(&mut peer, "/");
        let action = peer.handle_packet(packet("/", Kind::Event));
        assert!(matches!(action, Ok(Action::Event { slot: 0, .. })));
    }

    #[test]
    fn packets_in_flight_during_a_disconnect_are_no_violation() {
        let (mut peer, _) = peer();
        let slot = connect(&mut peer, "/a");
        peer.mark_connected(slot);
        peer.mark_left(slot);
        let action = peer.handle_packet(packet("/a", Kind::Event));
        assert!(matches!(action, Ok(Action::Ignore)));
        assert_eq!(connect(&mut peer, "/a"), slot);
    }

    #[test]
    fn namespaces_are_counted() {
        let (mut peer, _) = peer();
        connect(&mut peer, "/a");
        let b = connect(&mut peer, "/b");
        let action = peer.handle_packet(packet("/c", Kind::Connect));
        assert!(matches!(action, Ok(Action::TooMany(_))));
        peer.free(b);
        connect(&mut peer, "/c");
    }

    #[test]
    fn a_namespace_that_the_server_made_the_client_leave_makes_room() {
        let (mut peer, _) = peer();
        for name in ["/a", "/b"] {
            let slot = connect(&mut peer, name);
            peer.mark_connected(slot);
        }
        let late = |peer: &mut Peer, name| {
            let action = peer.handle_packet(packet(name, Kind::Event));
            matches!(action, Ok(Action::Ignore))
        };
        peer.mark_left(1);
        peer.mark_left(0);
        assert!(late(&mut peer, "/a") && late(&mut peer, "/b"));
        // The one that it has left the longest ago.
        assert_eq!(connect(&mut peer, "/c"), 1);
        assert!(late(&mut peer, "/a") && !late(&mut peer, "/b"));
        assert_eq!(connect(&mut peer, "/a"), 0);
        let action = peer.handle_packet(packet("/d", Kind::Connect));
        assert!(matches!(action, Ok(Action::TooMany(_))));
    }

    #[test]
    fn a_client_that_joins_nothing_is_closed_and_refusals_do_not_count() {
        let (mut peer, now) = peer();
        let slot = connect(&mut peer, "/");
        peer.free(slot);
        let due = now + Duration::from_secs(45);
        assert_eq!(peer.poll_timeout(), Some(due));
        assert!(peer.handle_timeout(due).is_err());
    }
}
