//! Saved sockets, and the clients that claim them.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;

use super::{CLAIM_TIMEOUT, HAND_OVER_TIMEOUT};
use crate::clock::now;
use crate::engine_io::{CloseReason, SocketId};
use crate::hub::DisconnectReason;
use crate::hub::member::Member;
use crate::hub::namespace::LiveNamespace;
use crate::hub::other_servers::{Answer, ClaimOutcome, Dropped, OtherServers, Question};
use crate::hub::recovery::PrivateId;
use crate::hub::recovery::handover::{Handover, StoreGuard};
use crate::hub::recovery::offset::Offset;
use crate::hub::recovery::saved::{NotRestored, SavedSocket, read_offset};
use crate::hub::recovery::shared_log::Content;
use crate::hub::recovery::store::Restored;
use crate::protocol::Claim;

/// A saved socket that a client has claimed. It is saved again if the client does not get it.
pub(crate) struct Claimed {
    socket: Option<Box<SavedSocket>>,
    namespace: Arc<LiveNamespace>,
}

impl Claimed {
    pub(in crate::hub::recovery) fn id(&self) -> Option<SocketId> {
        Some(self.socket.as_ref()?.id)
    }

    /// Returns the bytes that the socket counts in the budget of a connection.
    pub(in crate::hub::recovery) fn cost(&self) -> usize {
        self.socket.as_ref().map_or(0, |socket| socket.cost())
    }

    pub(in crate::hub::recovery) fn take(&mut self) -> Option<SavedSocket> {
        self.socket.take().map(|socket| *socket)
    }
}

impl fmt::Debug for Claimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claimed").finish_non_exhaustive()
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        let within = self.namespace.recovery_window();
        if let (Some(socket), Some(others)) = (self.take(), self.namespace.others()) {
            drop(others.save(socket, within));
        }
    }
}

impl LiveNamespace {
    /// Returns how long a suspended socket waits for its client.
    pub(super) fn recovery_window(&self) -> Duration {
        let store = self.store();
        store.map_or(Duration::ZERO, |store| store.budget.config.within)
    }

    /// Saves a suspended socket when everything that was sent before has come back.
    pub(in crate::hub::recovery) fn save_later(
        self: &Arc<Self>,
        store: &mut StoreGuard<'_>,
        id: &SocketId,
    ) -> Dropped {
        let over_log = self.over_log()?;
        let is_busy = over_log.change(|departures| {
            if departures.is_busy() {
                departures.save_behind(*id);
            }
            departures.is_busy()
        });
        if is_busy {
            return None;
        }
        self.save_now(store, id)
    }

    pub(super) fn save_now(&self, store: &mut StoreGuard<'_>, id: &SocketId) -> Dropped {
        let data = store.handover(id)?.data();
        let saved = store.saved(id, &self.name, Offset::default(), data)?;
        let within = store.budget.config.within;
        self.others()?.save(saved, within)
    }

    /// Saves a connected socket.
    pub(super) fn save_connected(&self, member: &Member) {
        let dropped = self.store().and_then(|store| {
            // Packets in the broadcast queue count as sent.
            member.catch_up();
            let recovery = member.recovery.as_ref()?;
            let is_lost = !member.is_connected() || recovery.is_unnumbered();
            if is_lost {
                return None;
            }
            let mut saved = store.saved(&member.id, &self.name, recovery.sent(), member.data())?;
            saved.is_connected = true;
            saved.room_history.floor = saved.room_history.floor.max(recovery.floor());
            let within = store.budget.config.within;
            Some(self.others()?.save(saved, within))
        });
        drop(dropped);
    }

    /// Records that a socket has connected, or that its rooms or its data have changed.
    pub(in crate::hub) fn save_early(&self, id: &SocketId) {
        if let Some(over_log) = self.over_log() {
            over_log.save_early(id);
        }
    }

    /// Saves the connected sockets that are due.
    pub(super) fn save_due(&self) {
        let early = self.over_log().and_then(|over_log| over_log.early.as_ref());
        let Some(early) = early else { return };
        let again = now().checked_add(self.recovery_window() / 2);
        let mut state = early.lock();
        let now = now();
        let due = state.due.iter().filter(|(_, at)| **at <= now);
        let due: Vec<_> = due.map(|(id, _)| *id).collect();
        for id in &due {
            state.due.remove(id);
        }
        drop(state);
        for id in due {
            if let Some(member) = self.find(&id) {
                self.save_connected(&member);
                // A change in the meantime is earlier.
                if let Some(again) = again {
                    early.lock().due.entry(id).or_insert(again);
                }
            }
        }
    }

    /// Forgets a socket that was saved while it was connected.
    pub(in crate::hub::recovery) fn forget_saved(&self, id: PrivateId) -> Dropped {
        let over_log = self.over_log()?;
        over_log.early.as_ref()?;
        self.others()?.forget(&self.name, id)
    }

    /// Returns the future of the saved socket that a client claims. Returns `None` if no broker saves
    /// sockets.
    pub(crate) fn claim(
        self: &Arc<Self>,
        claim: &Claim,
    ) -> Option<BoxFuture<'static, Option<Claimed>>> {
        self.over_log()?;
        let private_id = PrivateId::parse(&claim.pid)?;
        if claim
            .offset
            .as_deref()
            .is_some_and(|text| read_offset(text).is_none())
        {
            // It is not worth a question.
            return None;
        }
        let (namespace, offset) = (Arc::clone(self), claim.offset.clone());
        Some(Box::pin(async move {
            let claimed = namespace.take_claimed(private_id, offset.as_deref());
            let claimed = tokio::time::timeout(CLAIM_TIMEOUT, claimed).await;
            let claimed = claimed.unwrap_or_default();
            if claimed.is_none() {
                tracing::debug!(
                    namespace = &*namespace.name,
                    "no server has the claimed socket"
                );
                if let Some(others) = namespace.others() {
                    others.count_claim(ClaimOutcome::NotRestored);
                }
            }
            claimed
        }))
    }

    pub(super) async fn take_claimed(
        self: &Arc<Self>,
        private_id: PrivateId,
        offset: Option<&str>,
    ) -> Option<Claimed> {
        let others = Arc::clone(self.others()?);
        if let Some(id) = self.hand_over(&private_id) {
            self.saved(&id).await;
        }
        let claimed = |socket| Claimed {
            socket: Some(Box::new(socket)),
            namespace: Arc::clone(self),
        };
        let mut found = others.take(&private_id).await.map(claimed);
        // A server that still has the socket knows more than what it has saved early.
        let is_early = |claimed: &Claimed| {
            claimed
                .socket
                .as_ref()
                .is_some_and(|each| each.is_connected)
        };
        if found.as_ref().is_none_or(is_early) && self.ask_hand_over(&*others, private_id).await {
            // The former one is neither restored nor saved again, also if that server could not save the
            // socket: it was sent events without an offset.
            found.as_mut().and_then(Claimed::take);
            found = others.take(&private_id).await.map(claimed);
        }
        let claimed = found?;
        // The server before may have read further in the log, and this one waits for its own events.
        let needs = claimed.socket.as_ref()?.needs(offset);
        let over_log = self.over_log()?;
        loop {
            let progress = over_log.log.lock().progress();
            let mut read = pin!(progress.notified());
            read.as_mut().enable();
            let has_late = over_log.departures.lock().has_late();
            if over_log.log.lock().last() >= needs && !has_late {
                return Some(claimed);
            }
            read.await;
        }
    }

    /// Asks the other servers for a socket whose connection they may still believe in. Returns whether
    /// one of them had it, and has saved it.
    pub(super) async fn ask_hand_over(&self, others: &dyn OtherServers, id: PrivateId) -> bool {
        let Some(Ok(_permit)) = self
            .over_log()
            .map(|over_log| over_log.questions.try_acquire())
        else {
            return false;
        };
        let Ok(mut answers) = others.ask(&self.name, Question::HandOver(id)) else {
            return false;
        };
        let found = async {
            loop {
                match answers.next().await {
                    Some(Answer::HandedOver(true)) => return true,
                    Some(_) => {}
                    None => return false,
                }
            }
        };
        let found = tokio::time::timeout(HAND_OVER_TIMEOUT, found).await;
        let found = found.unwrap_or_default();
        if found {
            others.count_claim(ClaimOutcome::HandedOver);
        }
        found
    }

    /// Makes a socket leave whose client has come back elsewhere, and saves it. Returns its id if this
    /// server had it, or has suspended it. [`saved`](Self::saved) then waits until it is saved.
    pub(crate) fn hand_over(self: &Arc<Self>, private_id: &PrivateId) -> Option<SocketId> {
        let mut store = self.store()?;
        let id = store.find_id(private_id)?;
        let Some(former) = self.find(&id) else {
            return Some(id);
        };
        let reason = DisconnectReason::TransportClose;
        let leaving = former.leave_from(reason, Some(&mut store));
        drop(store);
        if let Some(leaving) = leaving {
            former.notify_left(leaving);
        }
        former.session.close(CloseReason::TransportClose);
        Some(id)
    }

    /// Restores a saved socket. Returns `None` if that is not possible without a gap.
    pub(in crate::hub::recovery) fn restore_saved(
        self: &Arc<Self>,
        store: &mut StoreGuard<'_>,
        claimed: &mut Claimed,
        offset: Option<&str>,
    ) -> Option<Restored<Arc<Handover>>> {
        let over_log = self.over_log()?;
        let mut saved = claimed.socket.as_deref()?.clone();
        let mut missed = Vec::new();
        let has_late = over_log.departures.lock().has_late();
        let mut log = over_log.log.lock();
        let sent = saved.catch_up(&self.name, offset, &mut log, |entry| {
            let at = entry.offset;
            if let Content::Event(payload) = &mut entry.content {
                let packet = self.encode_at(std::mem::take(payload), at);
                entry.content = Content::Packet(packet);
            }
            if let Content::Packet(packet) = &entry.content {
                missed.push(packet.clone());
            }
        });
        drop(log);
        // An event of this server may not be in the log yet, although it was delivered.
        let sent = sent.and_then(|sent| match has_late {
            true => Err(NotRestored::NotKept),
            false => Ok(sent),
        });
        let outcome = match &sent {
            Ok(_) => ClaimOutcome::Restored,
            Err(_) => ClaimOutcome::NotRestored,
        };
        if let Some(others) = self.others() {
            others.count_claim(outcome);
        }
        let sent = match sent {
            Ok(sent) => sent,
            Err(reason) => {
                tracing::debug!(namespace = &*self.name, %reason, "a socket is not restored");
                claimed.take();
                store.forget(&saved.id);
                return None;
            }
        };
        let handover = store.insert_saved(&saved, sent);
        let handover = handover.unwrap_or_else(|| {
            // It was suspended on another server.
            Arc::new(Handover::of_data(saved.data.clone()))
        });
        self.note_restored(&saved.id);
        Some(Restored {
            id: saved.id,
            private_id: saved.private_id,
            rooms: saved.room_history.rooms.keys().cloned().collect(),
            missed,
            sent,
            handover: Some(handover),
        })
    }
}
