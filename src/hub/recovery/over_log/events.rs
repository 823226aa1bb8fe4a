//! Events: they depart, come back from the log, and are delivered.

use std::sync::Arc;
use std::time::Instant;

use super::{Later, MAX_DEPARTED, OverLog};
use crate::clock::now;
use crate::engine_io::{CloseReason, SocketId};
use crate::hub::member::{Member, encode};
use crate::hub::namespace::LiveNamespace;
use crate::hub::other_servers::{Confirm, Here, Operation, Sent};
use crate::hub::queue::Outgoing;
use crate::hub::recovery::departures::{Behind, Departed, Departures, Step};
use crate::hub::recovery::handover::StoreGuard;
use crate::hub::recovery::offset::{Mark, Offset};
use crate::hub::recovery::shared_log::Content;
use crate::hub::selection::Target;
use crate::hub::{ClusterError, DisconnectReason};
use crate::protocol::{Encoded, Kind, Payload};

/// Where an event is in the log.
#[derive(Clone, Copy)]
enum Place {
    At(Offset),
    /// It has no place, or not yet: the number is that of the message.
    Nowhere(Option<u64>),
    /// It is for this server alone, and is not recovered.
    Local,
}

impl LiveNamespace {
    /// Sends an operation to the log, or only to the sockets of this server if `local`. An event is
    /// delivered when it comes back, any other operation is done at once.
    pub(in crate::hub) fn depart(
        self: &Arc<Self>,
        over_log: &OverLog,
        target: &Target,
        operation: Operation,
        local: bool,
        confirm: Option<Confirm>,
    ) -> Result<(), ClusterError> {
        let mut later = Later::new(self);
        let Some(mut store) = self.store() else {
            return Err(ClusterError::CLOSED);
        };
        let (others, mut confirm) = (self.others(), confirm);
        // One that was removed meanwhile does not get the operation back, and has no sockets.
        let departs = !self.is_removed();
        let here = if departs { Here::Departs } else { Here::Absent };
        let sent = match others.filter(|_| !local) {
            Some(others) => others.send(&self.name, target, &operation, confirm.take(), here),
            None => Ok(Sent {
                number: None,
                dropped: None,
            }),
        };
        let (number, result) = match sent {
            Ok(sent) => {
                later.dropped.push(sent.dropped);
                (sent.number, Ok(()))
            }
            Err(error) => (None, Err(error)),
        };
        let rest = match &operation {
            Operation::Emit { .. } => None,
            other => Some(other.clone()),
        };
        let is_connected = others.is_some_and(|others| others.is_connected());
        // An operation on rooms that does not come back is done, and needs no place.
        if departs && (number.is_some() || rest.is_none()) {
            let steps = over_log.change(|departures| {
                departures.depart(number, local, target.clone(), operation, now());
                match is_connected {
                    true => departures.release_beyond(MAX_DEPARTED),
                    false => departures.release(now()),
                }
            });
            self.run_steps(over_log, &mut store, steps, None, &mut later);
        }
        drop(store);
        drop(later);
        if let Some(rest) = rest {
            self.apply(target, rest);
            if let Some(number) = number {
                let _store = self.store();
                over_log.change(|departures| departures.done(number));
            }
        }
        if let Some(confirm) = confirm {
            // An error means that nobody waits.
            let _ = confirm.send(result);
        }
        result
    }

    /// Handles the return of a message of this server from the log.
    pub(crate) fn returned(self: &Arc<Self>, number: u64, offset: Offset) {
        let Some(over_log) = self.over_log() else {
            return;
        };
        let mut later = Later::new(self);
        let Some(mut store) = self.store() else {
            return;
        };
        let steps = over_log.change(|departures| departures.returned(number, offset));
        self.run_steps(over_log, &mut store, steps, Some(offset), &mut later);
        over_log.log.lock().advance(offset);
        self.sweep_later(&store.budget);
        drop(store);
    }

    /// Handles the loss of a message of this server: it does not come into the log.
    pub(crate) fn lost(self: &Arc<Self>, number: u64) {
        self.change_departures(|departures, last| departures.lost(number, last));
    }

    /// Delivers what was sent up to `until`, and has not come back, without offsets.
    pub(crate) fn release_departed(self: &Arc<Self>, until: Instant) {
        if self.over_log().is_some_and(OverLog::is_busy) {
            self.change_departures(|departures, _| departures.release(until));
        }
    }

    fn change_departures(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Departures<Arc<Member>>, Offset) -> Vec<Step<Arc<Member>>>,
    ) {
        let Some(over_log) = self.over_log() else {
            return;
        };
        let mut later = Later::new(self);
        let Some(mut store) = self.store() else {
            return;
        };
        let last = over_log.log.lock().last();
        let steps = over_log.change(|departures| change(departures, last));
        self.run_steps(over_log, &mut store, steps, None, &mut later);
        drop(store);
    }

    /// Does an operation of another server, at its place in the log. Returns `false` if the namespace has
    /// been removed.
    pub(super) fn apply_at(
        self: &Arc<Self>,
        target: &Target,
        operation: &Operation,
        at: Offset,
    ) -> bool {
        let Some(over_log) = self.over_log() else {
            self.apply(target, operation.clone());
            return true;
        };
        let Operation::Emit { payload, volatile } = operation else {
            let store = self.store();
            if self.is_removed() {
                return false;
            }
            if let Some(content) = Content::of(operation.clone()) {
                // A socket that leaves meanwhile may not have it done. It is done again then.
                *over_log.being_done.lock() = Some(at);
                let (name, target) = (self.name.clone(), target.clone());
                over_log.log.lock().push(at, name, target, content, now());
            }
            drop(store);
            self.apply(target, operation.clone());
            let store = self.store();
            *over_log.being_done.lock() = None;
            drop(store);
            return true;
        };
        let (payload, volatile) = (payload.clone(), *volatile);
        self.notify_broadcast(target, &payload);
        let mut later = Later::new(self);
        let Some(mut store) = self.store() else {
            return true;
        };
        if self.is_removed() {
            return false;
        }
        let selected = self.select(target);
        let is_for_none = selected.iter().next().is_none();
        later.sockets.push(selected);
        if is_for_none && volatile {
            over_log.log.lock().advance(at);
        } else if is_for_none {
            let (name, target) = (self.name.clone(), target.clone());
            let content = Content::Event(payload);
            over_log.log.lock().push(at, name, target, content, now());
        } else {
            let place = Place::At(at);
            self.send_at(
                over_log, &mut store, place, target, payload, volatile, &mut later,
            );
        }
        self.sweep_later(&store.budget);
        drop(store);
        true
    }

    /// Sends an event to the sockets of this server that is not in the log.
    pub(in crate::hub) fn send_unnumbered(
        self: &Arc<Self>,
        target: &Target,
        payload: Payload,
        volatile: bool,
    ) {
        let operation = Operation::Emit { payload, volatile };
        self.change_departures(|departures, _| {
            departures.depart(None, false, target.clone(), operation, now());
            departures.take_ready()
        });
    }

    pub(super) fn run_steps(
        self: &Arc<Self>,
        over_log: &OverLog,
        store: &mut StoreGuard<'_>,
        steps: Vec<Step<Arc<Member>>>,
        at: Option<Offset>,
        later: &mut Later,
    ) {
        for step in steps {
            match (step, at) {
                (Step::Deliver(departed), Some(at)) => {
                    self.record_meant(store, &departed, at, later);
                    self.deliver_departed(over_log, store, departed, Place::At(at), later);
                }
                (Step::Keep(departed), Some(at)) => {
                    self.record_meant(store, &departed, at, later);
                    self.keep_departed(over_log, departed, at);
                }
                // They come with an offset only.
                (Step::Deliver(_) | Step::Keep(_), None) => {}
                (Step::DeliverUnnumbered(departed, number), _) => {
                    // Their rooms will say something wrong of it, and they are saved before it is in the
                    // log.
                    for id in departed.meant.keys().filter(|_| number.is_some()) {
                        store.forget_suspended(id);
                    }
                    let place = Place::Nowhere(number);
                    self.deliver_departed(over_log, store, departed, place, later);
                }
                (Step::Send(member, behind), _) => {
                    self.send_waited(store, &member, behind);
                    later.members.push(member);
                }
                (Step::Save(id), _) => {
                    later.saves = true;
                    later.dropped.push(self.save_now(store, &id));
                }
            }
        }
        over_log.steps_done();
    }

    /// Records for which sockets an operation is, whose rooms say something else by now, or will when the
    /// log is read again.
    fn record_meant(
        &self,
        store: &mut StoreGuard<'_>,
        departed: &Departed,
        at: Offset,
        later: &mut Later,
    ) {
        for (id, is_meant) in &departed.meant {
            if departed.is_event() {
                store.except_event(id, at, &departed.target, *is_meant);
                continue;
            }
            store.except(id, at, *is_meant);
            let is_selected = || self.lock().rooms.is_recipient(id, &departed.target);
            if *is_meant && is_selected() {
                later.operations.push((*id, departed.operation.clone()));
            }
        }
    }

    /// Sends what has waited behind events for a socket.
    pub(super) fn send_waited(
        &self,
        store: &StoreGuard<'_>,
        member: &Member,
        behind: Behind,
    ) -> bool {
        member.catch_up();
        let packet = match behind {
            Behind::Packet(packet) => packet,
            Behind::Event(mut payload) => {
                store.mark_volatile(&mut payload);
                encode(self, Kind::Event, None, payload)
            }
        };
        member.send_caught_up(packet)
    }

    /// Ends the connection of a socket that another server has restored. It is not suspended.
    /// `at` was the end of the log for that server.
    pub(crate) fn displaced(self: &Arc<Self>, id: &SocketId, at: Offset) {
        let Some(mut store) = self.store() else {
            return;
        };
        // One that is suspended here is no longer that of the client.
        store.forget_suspended(id);
        let member = self.find(id);
        let entered = |member: &Member| member.recovery.as_ref().map(|each| each.entered);
        // The client may have come back here in the meantime.
        let is_former = |member: &Arc<Member>| entered(member).is_none_or(|entered| entered <= at);
        let Some(member) = member.filter(is_former) else {
            return;
        };
        let reason = DisconnectReason::TransportClose;
        let leaving = member.leave_from(reason, None);
        if leaving.is_some() {
            store.forget(id);
        }
        drop(store);
        if let Some(leaving) = leaving {
            member.notify_left(leaving);
        }
        member.session.close(CloseReason::TransportClose);
    }

    fn keep_departed(&self, over_log: &OverLog, departed: Departed, at: Offset) {
        let Departed {
            target, operation, ..
        } = departed;
        let Some(mut content) = Content::of(operation) else {
            return;
        };
        if let Content::Event(payload) = &mut content {
            content = Content::Packet(self.encode_at(std::mem::take(payload), at));
        }
        let name = self.name.clone();
        over_log.log.lock().push(at, name, target, content, now());
    }

    pub(super) fn encode_at(&self, mut payload: Payload, at: Offset) -> Encoded {
        payload.push_text(&at.to_string());
        encode(self, Kind::Event, None, payload)
    }

    /// Delivers an event that has departed, to the sockets that were meant then.
    fn deliver_departed(
        self: &Arc<Self>,
        over_log: &OverLog,
        store: &mut StoreGuard<'_>,
        departed: Departed,
        place: Place,
        later: &mut Later,
    ) {
        let is_local = departed.is_local;
        let Operation::Emit { payload, volatile } = departed.operation else {
            // It was done when it departed.
            if let Place::At(at) = place {
                self.keep_departed(over_log, departed, at);
            }
            return;
        };
        let place = match place {
            Place::Nowhere(_) if is_local => Place::Local,
            place => place,
        };
        let mut target = departed.target;
        let mut meant_alone = Vec::new();
        let original = target.clone();
        for (id, is_meant) in departed.meant {
            let Some(member) = self.find(&id) else {
                continue;
            };
            match (is_meant, self.lock().rooms.is_recipient(&id, &original)) {
                (true, false) => meant_alone.push(Arc::clone(&member)),
                (false, true) => target.except.push(id.as_str().into()),
                (true, true) | (false, false) => {}
            }
            later.members.push(member);
        }
        if meant_alone.is_empty() && target.except.len() == original.except.len() {
            return self.send_at(over_log, store, place, &target, payload, volatile, later);
        }
        let outgoing = self.outgoing(over_log, store, place, &original, payload, volatile);
        for member in &meant_alone {
            member.send_outgoing(&outgoing);
        }
        self.send_later(&target, outgoing, later);
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "an event, its place and the locks"
    )]
    fn send_at(
        self: &Arc<Self>,
        over_log: &OverLog,
        store: &mut StoreGuard<'_>,
        place: Place,
        target: &Target,
        payload: Payload,
        volatile: bool,
        later: &mut Later,
    ) {
        let outgoing = self.outgoing(over_log, store, place, target, payload, volatile);
        self.send_later(target, outgoing, later);
    }

    fn send_later(&self, target: &Target, outgoing: Outgoing, later: &mut Later) {
        match self.send_to(target, outgoing) {
            Some(few) => later.sockets.push(few),
            None => later.has_queued = true,
        }
    }

    /// Encodes an event, and keeps it if it has a place in the log.
    fn outgoing(
        &self,
        over_log: &OverLog,
        store: &mut StoreGuard<'_>,
        place: Place,
        target: &Target,
        mut payload: Payload,
        volatile: bool,
    ) -> Outgoing {
        let (packet, mark) = match place {
            Place::At(at) if !volatile => {
                let packet = self.encode_at(payload, at);
                let (name, content) = (self.name.clone(), Content::Packet(packet.clone()));
                let mut log = over_log.log.lock();
                log.push(at, name, target.clone(), content, now());
                (packet, Mark::Offset(at))
            }
            place => {
                let mark = match place {
                    Place::At(at) => {
                        over_log.log.lock().advance(at);
                        Mark::None
                    }
                    Place::Local => Mark::None,
                    Place::Nowhere(_) if volatile => Mark::None,
                    Place::Nowhere(number) => Mark::Unnumbered(number.unwrap_or_default()),
                };
                store.mark_volatile(&mut payload);
                (encode(self, Kind::Event, None, payload), mark)
            }
        };
        Outgoing {
            packet,
            volatile,
            mark,
        }
    }
}
