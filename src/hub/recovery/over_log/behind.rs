//! What must not overtake the events that have departed, and changes of rooms meanwhile.

use std::pin::pin;
use std::sync::Arc;

use super::{Later, OverLog, POLL};
use crate::engine_io::SocketId;
use crate::hub::member::{Member, encode};
use crate::hub::namespace::LiveNamespace;
use crate::hub::other_servers::Operation;
use crate::hub::queue::Outgoing;
use crate::hub::recovery::departures::{Behind, Step};
use crate::hub::recovery::offset::Mark;
use crate::hub::selection::Target;
use crate::protocol::Kind;

impl LiveNamespace {
    /// Sends a packet to one socket, behind the events for it that have departed.
    pub(in crate::hub) fn send_behind(
        &self,
        over_log: &OverLog,
        to: &Member,
        behind: Behind,
    ) -> bool {
        let Some(store) = self.store() else {
            return false;
        };
        let member = self.find(&to.id);
        let member = member.filter(|found| std::ptr::eq(&**found, to));
        let mut behind = Some(behind);
        if let Some(member) = &member {
            over_log.change(|departures| {
                let state = self.lock();
                let is_selected = |target: &Target| state.rooms.is_recipient(&to.id, target);
                if departures.concerns(&to.id, is_selected) {
                    if let Some(behind) = behind.take() {
                        departures.send_behind(Arc::clone(member), behind);
                    }
                }
            });
        }
        let sent = behind.is_none_or(|behind| self.send_waited(&store, to, behind));
        drop(store);
        // The last handle of a socket is dropped under no lock.
        drop(member);
        sent
    }

    /// Sends what waits for a socket, before it is disconnected.
    pub(in crate::hub) fn flush_departed(self: &Arc<Self>, member: &Member) {
        let Some(over_log) = self.over_log().filter(|over_log| over_log.is_busy()) else {
            return;
        };
        let mut later = Later::new(self);
        let Some(store) = self.store() else {
            return;
        };
        if member.has_left() {
            // Its connection was lost in this moment: its client may come back for what waits.
            return;
        }
        let is_selected = |target: &Target| self.lock().rooms.is_recipient(&member.id, target);
        let is_member = |other: &Arc<Member>| std::ptr::eq(&**other, member);
        let steps =
            over_log.change(|departures| departures.take_for(&member.id, is_selected, is_member));
        for step in steps {
            match step {
                Step::DeliverUnnumbered(departed, _) => {
                    if let Operation::Emit {
                        mut payload,
                        volatile,
                    } = departed.operation
                    {
                        store.mark_volatile(&mut payload);
                        member.send_outgoing(&Outgoing {
                            packet: encode(self, Kind::Event, None, payload),
                            volatile,
                            mark: match departed.is_local {
                                true => Mark::None,
                                false => Mark::Unnumbered(0),
                            },
                        });
                    }
                }
                Step::Send(other, behind) => {
                    self.send_waited(&store, member, behind);
                    later.members.push(other);
                }
                Step::Deliver(_) | Step::Keep(_) | Step::Save(_) => {}
            }
        }
        over_log.steps_done();
        drop(store);
    }

    /// Records for which departed events a socket is meant, before it joins or leaves a room. The caller
    /// holds the lock of the store.
    pub(in crate::hub) fn note_room(&self, id: &SocketId, room: &str) {
        let names = |target: &Target| {
            let mut names = target.rooms.iter().chain(&target.except);
            names.any(|name| **name == *room)
        };
        self.note(id, names, |target| {
            self.lock().rooms.is_recipient(id, target)
        });
    }

    /// Records that the events that have departed are not for a new socket. If one of them may come back
    /// that its rooms would make it miss, the number of the last one is returned: until the log has
    /// passed that one, the socket cannot be restored. The caller holds the lock of the store.
    pub(in crate::hub::recovery) fn note_new(&self, id: &SocketId) -> Option<u64> {
        let is_for_all = |target: &Target| {
            let own = |name: &Arc<str>| **name == *id.as_str();
            target.rooms.is_empty() || target.rooms.iter().any(own)
        };
        let over_log = self.over_log()?;
        if over_log.is_busy() {
            over_log.change(|departures| departures.note_new(id, is_for_all));
        }
        over_log.last_late(is_for_all)
    }

    /// Records that the operations on rooms that have departed are still to be done to a restored socket.
    /// The caller holds the lock of the store.
    pub(in crate::hub::recovery) fn note_restored(&self, id: &SocketId) {
        if let Some(over_log) = self.over_log().filter(|over_log| over_log.is_busy()) {
            over_log.change(|departures| departures.note_restored(id));
        }
    }

    /// Records for which departed events a socket is meant, before it leaves. The caller holds the lock
    /// of the store.
    pub(in crate::hub) fn note_leaving(&self, id: &SocketId) {
        if let Some(over_log) = self.over_log().filter(|over_log| over_log.is_busy()) {
            over_log.change(|departures| {
                let state = self.lock();
                departures.note_leaving(id, |target| state.rooms.is_recipient(id, target));
            });
        }
    }

    pub(super) fn note(
        &self,
        id: &SocketId,
        is_changed: impl Fn(&Target) -> bool,
        is_selected: impl Fn(&Target) -> bool,
    ) {
        let Some(over_log) = self.over_log() else {
            return;
        };
        if over_log.is_busy() {
            over_log.change(|departures| departures.note(id, &is_changed, is_selected));
        }
        // Its rooms will say something wrong of an event that comes back late.
        if let Some(number) = over_log.last_late(is_changed) {
            if let Some(member) = self.find(id) {
                member.record(Mark::Unnumbered(number));
            }
        }
    }

    /// Waits until a suspended socket is saved that waits behind events.
    pub(crate) async fn saved(&self, id: &SocketId) {
        let Some(over_log) = self.over_log() else {
            return;
        };
        loop {
            let mut saved = pin!(over_log.saved.notified());
            saved.as_mut().enable();
            let store = self.store();
            let is_waiting = over_log.departures.lock().saves(id);
            drop(store);
            if !is_waiting {
                return;
            }
            saved.await;
        }
    }

    /// Waits until everything that has departed has come back, or was delivered without an offset.
    pub(crate) async fn departed(&self) {
        while self.over_log().is_some_and(OverLog::is_busy) {
            tokio::time::sleep(POLL).await;
        }
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use crate::hub::DisconnectReason;

    #[tokio::test]
    async fn what_waits_for_a_socket_that_has_just_left_does_not_count_as_sent() {
        let (layer, io) = crate::SocketIo::builder()
            .namespace("/", crate::Namespace::new())
            .recovery(crate::Recovery::within(Duration::from_secs(60)))
            .cluster(crate::cluster::Memory::with_log())
            .build();
        let cluster = io.cluster().expect("a cluster");
        while !cluster.status().is_connected {
            tokio::task::yield_now().await;
        }
        let app = axum::Router::new().layer(layer);
        let client = crate::testing::Client::connect(&app, "/").await;
        let _client = client.expect("it connects");
        let member = Arc::clone(&io.sockets()[0].member);
        let namespace = Arc::clone(&member.namespace);
        let over_log = namespace.over_log().expect("a log");
        // The task of the broker runs when this one waits.
        io.emit("event", 1);
        let mut store = namespace.store();
        let leaving = member.leave_from(DisconnectReason::TransportClose, store.as_mut());
        drop(store);
        // The server disconnects the socket, which it has seen as connected.
        namespace.flush_departed(&member);
        let is_meant = over_log.departures.lock().concerns(&member.id, |_| false);
        assert!(is_meant);
        member.notify_left(leaving.expect("it was connected"));
    }
}
