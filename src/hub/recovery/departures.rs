//! What this server has sent to the log of its cluster, and what waits for it to come back.
//!
//! The order of the log is the order in which every client gets packets. So an event is delivered when
//! it comes back from the log, also on the server that has sent it. What concerns the same clients and
//! must not overtake it waits behind it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant;

use super::offset::Offset;
use crate::engine_io::SocketId;
use crate::hub::id_hash::IdHash;
use crate::hub::other_servers::Operation;
use crate::hub::selection::Target;
use crate::protocol::{Encoded, Payload};

/// How many events that may come back are searched for those that concern a socket. If there are more, all
/// are taken to concern it.
const MAX_SEARCHED: usize = 1_000;

/// The departed messages of one namespace, in the order in which they were sent. `M` is a socket.
#[derive(Debug)]
pub(crate) struct Departures<M> {
    items: VecDeque<Item<M>>,
    /// The events that were delivered without an offset, and may still come back.
    late: BTreeMap<u64, Departed>,
    /// The offset up to which no event is late.
    settled: Offset,
}

#[derive(Debug)]
enum Item<M> {
    Departed(Departed),
    Packet(M, Behind),
    Save(SocketId),
}

/// What waits behind events for the same socket.
#[derive(Debug)]
pub(crate) enum Behind {
    Packet(Encoded),
    /// An event without an offset. It is encoded when it is sent: see [`mark_volatile`].
    ///
    /// [`mark_volatile`]: super::store::RecoveryStore::mark_volatile
    Event(Payload),
}

/// An operation that this server has sent.
#[derive(Debug)]
pub(crate) struct Departed {
    /// Its number among the messages of this server. `None` if it does not come back.
    number: Option<u64>,
    /// Whether it is for this server alone.
    pub(super) is_local: bool,
    /// Whether it is being done to the sockets of this server.
    is_being_done: bool,
    since: Instant,
    pub(super) target: Target,
    pub(super) operation: Operation,
    /// Whether sockets whose rooms have changed since were meant. Of an operation on rooms: whether it is
    /// still to be done to them.
    pub(super) meant: HashMap<SocketId, bool, IdHash>,
}

impl Departed {
    fn copy(&self) -> Self {
        Self {
            number: self.number,
            is_local: self.is_local,
            is_being_done: self.is_being_done,
            since: self.since,
            target: self.target.clone(),
            operation: self.operation.clone(),
            meant: self.meant.clone(),
        }
    }

    pub(super) fn is_event(&self) -> bool {
        matches!(self.operation, Operation::Emit { .. })
    }
}

/// The next step. Steps are done in their order.
#[derive(Debug)]
pub(crate) enum Step<M> {
    /// Deliver an operation that has come back, with its offset.
    Deliver(Departed),
    /// Deliver an operation without an offset. It may come back later, as the number says.
    DeliverUnnumbered(Departed, Option<u64>),
    /// An operation has come back that was delivered before.
    Keep(Departed),
    Send(M, Behind),
    Save(SocketId),
}

impl<M> Default for Departures<M> {
    fn default() -> Self {
        Self {
            items: VecDeque::new(),
            late: BTreeMap::new(),
            settled: Offset::default(),
        }
    }
}

impl<M> Departures<M> {
    /// Returns whether anything waits.
    pub(super) fn is_busy(&self) -> bool {
        !self.items.is_empty()
    }

    /// Returns whether an operation may still come back.
    pub(super) fn is_idle(&self) -> bool {
        self.items.is_empty() && self.late.is_empty()
    }

    /// Returns whether an event was delivered without an offset, and may still come back.
    pub(super) fn has_late(&self) -> bool {
        !self.late.is_empty()
    }

    /// Returns the number of the last event that may come back if any of them has a target for which
    /// `is_changed` is true. Volatile events do not count: the log does not keep them.
    pub(super) fn last_late(&self, is_changed: impl Fn(&Target) -> bool) -> Option<u64> {
        let (last, _) = self.late.last_key_value()?;
        let is_kept = |departed: &Departed| {
            let operation = &departed.operation;
            matches!(operation, Operation::Emit { volatile, .. } if !volatile)
        };
        let mut late = self.late.values();
        let is_concerned = self.late.len() > MAX_SEARCHED
            || late.any(|departed| is_kept(departed) && is_changed(&departed.target));
        is_concerned.then_some(*last)
    }

    /// Returns whether a socket waits to be saved.
    pub(super) fn saves(&self, id: &SocketId) -> bool {
        let is_save = |item: &Item<M>| matches!(item, Item::Save(other) if other == id);
        self.items.iter().any(is_save)
    }

    /// Returns the number of the first event that was delivered without an offset and may come back,
    /// and the offset up to which all others have come back.
    pub(super) fn late(&self) -> (u64, Offset) {
        let first = self.late.keys().next().copied();
        (first.unwrap_or(u64::MAX), self.settled)
    }

    /// Adds an operation that was sent. `number` is `None` if it does not come back: it is for this server
    /// alone if `is_local`. An operation on rooms [is done](Self::done) now.
    pub(super) fn depart(
        &mut self,
        number: Option<u64>,
        is_local: bool,
        target: Target,
        operation: Operation,
        now: Instant,
    ) {
        let mut departed = Departed {
            number,
            is_local,
            is_being_done: false,
            since: now,
            target,
            operation,
            meant: HashMap::default(),
        };
        departed.is_being_done = !departed.is_event();
        self.items.push_back(Item::Departed(departed));
    }

    /// Records that an operation on rooms was done to the sockets of this server.
    pub(super) fn done(&mut self, number: u64) {
        for item in self.items.iter_mut().rev() {
            if let Item::Departed(departed) = item {
                if departed.number == Some(number) {
                    departed.is_being_done = false;
                    return;
                }
            }
        }
    }

    pub(super) fn send_behind(&mut self, member: M, packet: Behind) {
        self.items.push_back(Item::Packet(member, packet));
    }

    pub(super) fn save_behind(&mut self, id: SocketId) {
        self.items.push_back(Item::Save(id));
    }

    /// Returns whether an event waits that is for a socket. `is_selected` says whether its present rooms
    /// make it one of a target.
    pub(super) fn concerns(&self, id: &SocketId, is_selected: impl Fn(&Target) -> bool) -> bool {
        let is_meant = |departed: &Departed| {
            let meant = departed.meant.get(id).copied();
            meant.unwrap_or_else(|| is_selected(&departed.target))
        };
        self.items.iter().any(|item| match item {
            Item::Departed(departed) => departed.is_event() && is_meant(departed),
            Item::Packet(..) | Item::Save(_) => false,
        })
    }

    /// Records that the events that wait are not for a new socket. `is_selected` says for which targets
    /// its rooms would make it one.
    pub(super) fn note_new(&mut self, id: &SocketId, is_selected: impl Fn(&Target) -> bool) {
        for departed in departed(&mut self.items) {
            if departed.is_event() && is_selected(&departed.target) {
                departed.meant.insert(*id, false);
            }
        }
    }

    /// Records for which events a socket is meant, before a change. `is_changed` says for which targets
    /// the change makes a difference.
    pub(super) fn note(
        &mut self,
        id: &SocketId,
        is_changed: impl Fn(&Target) -> bool,
        is_selected: impl Fn(&Target) -> bool,
    ) {
        for departed in departed(&mut self.items) {
            let is_new = !departed.meant.contains_key(id);
            if departed.is_event() && is_new && is_changed(&departed.target) {
                let is_meant = is_selected(&departed.target);
                departed.meant.insert(*id, is_meant);
            }
        }
    }

    /// Records for which operations a socket is meant, before it leaves. Those on rooms were done to it,
    /// unless that goes on: to do them again does no harm.
    pub(super) fn note_leaving(&mut self, id: &SocketId, is_selected: impl Fn(&Target) -> bool) {
        for departed in departed(&mut self.items) {
            let is_new = !departed.meant.contains_key(id) && !departed.is_being_done;
            if is_new && is_selected(&departed.target) {
                departed.meant.insert(*id, departed.is_event());
            }
        }
    }

    /// Records that the operations on rooms that wait are still to be done to a restored socket.
    pub(super) fn note_restored(&mut self, id: &SocketId) {
        for departed in departed(&mut self.items) {
            if !departed.is_event() {
                departed.meant.insert(*id, true);
            }
        }
    }

    /// Takes what waits for a socket, in order: the events, as copies without an offset, and its
    /// packets.
    pub(super) fn take_for(
        &mut self,
        id: &SocketId,
        is_selected: impl Fn(&Target) -> bool,
        is_member: impl Fn(&M) -> bool,
    ) -> Vec<Step<M>> {
        let mut steps = Vec::new();
        for item in std::mem::take(&mut self.items) {
            match item {
                Item::Departed(mut departed) if departed.is_event() => {
                    let meant = departed.meant.get(id).copied();
                    if meant.unwrap_or_else(|| is_selected(&departed.target)) {
                        steps.push(Step::DeliverUnnumbered(departed.copy(), None));
                        departed.meant.insert(*id, false);
                    }
                    self.items.push_back(Item::Departed(departed));
                }
                Item::Packet(member, packet) if is_member(&member) => {
                    steps.push(Step::Send(member, packet));
                }
                other => self.items.push_back(other),
            }
        }
        steps
    }

    /// Returns the steps after the message with a number has come back.
    pub(super) fn returned(&mut self, number: u64, offset: Offset) -> Vec<Step<M>> {
        let mut steps = Vec::new();
        // Messages come back in their order, so earlier ones are lost.
        while let Some(first) = self
            .late
            .first_entry()
            .filter(|entry| *entry.key() <= number)
        {
            let departed = first.remove();
            if departed.number == Some(number) {
                steps.push(Step::Keep(departed));
            }
            self.settled = offset;
        }
        // Numbers rise, and what has no number waits for the numbers before it.
        loop {
            self.take_ready_to(&mut steps);
            let Some(Item::Departed(first)) = self.items.front() else {
                return steps;
            };
            if first.number > Some(number) {
                return steps;
            }
            if let Some(Item::Departed(departed)) = self.items.pop_front() {
                steps.push(match departed.number == Some(number) {
                    true => Step::Deliver(departed),
                    false => Step::DeliverUnnumbered(departed, None),
                });
            }
        }
    }

    /// Returns the steps after the message with a number was lost: it does not come into the log.
    pub(super) fn lost(&mut self, number: u64, last: Offset) -> Vec<Step<M>> {
        if self.late.remove(&number).is_some() {
            self.settled = self.settled.max(last);
        }
        for item in &mut self.items {
            if let Item::Departed(departed) = item {
                if departed.number == Some(number) {
                    departed.number = None;
                }
            }
        }
        let mut steps = Vec::new();
        self.take_ready_to(&mut steps);
        steps
    }

    /// Returns the steps that deliver the operations which were sent up to `until`, without offsets.
    pub(super) fn release(&mut self, until: Instant) -> Vec<Step<M>> {
        self.release_while(|departed, _| departed.since <= until)
    }

    /// Does the same for the oldest ones, until at most `max` wait.
    pub(super) fn release_beyond(&mut self, max: usize) -> Vec<Step<M>> {
        self.release_while(|_, waiting| waiting > max)
    }

    fn release_while(&mut self, is_due: impl Fn(&Departed, usize) -> bool) -> Vec<Step<M>> {
        let mut steps = Vec::new();
        loop {
            self.take_ready_to(&mut steps);
            let waiting = self.items.len();
            let Some(Item::Departed(departed)) = self.items.pop_front() else {
                return steps;
            };
            if !is_due(&departed, waiting) {
                self.items.push_front(Item::Departed(departed));
                return steps;
            }
            let number = departed.number;
            if let Some(number) = number {
                self.late.insert(number, departed.copy());
            }
            steps.push(Step::DeliverUnnumbered(departed, number));
        }
    }

    /// Takes what does not wait any longer.
    pub(super) fn take_ready(&mut self) -> Vec<Step<M>> {
        let mut steps = Vec::new();
        self.take_ready_to(&mut steps);
        steps
    }

    fn take_ready_to(&mut self, steps: &mut Vec<Step<M>>) {
        let waits = |item: &Item<M>| {
            matches!(
                item,
                Item::Departed(Departed {
                    number: Some(_),
                    ..
                })
            )
        };
        while self.items.front().is_some_and(|item| !waits(item)) {
            if let Some(item) = self.items.pop_front() {
                steps.push(step(item));
            }
        }
        if self.items.is_empty() && self.items.capacity() > 64 {
            self.items = VecDeque::new();
        }
    }
}

fn departed<M>(items: &mut VecDeque<Item<M>>) -> impl Iterator<Item = &mut Departed> {
    items.iter_mut().filter_map(|item| match item {
        Item::Departed(departed) => Some(departed),
        Item::Packet(..) | Item::Save(_) => None,
    })
}

fn step<M>(item: Item<M>) -> Step<M> {
    match item {
        Item::Departed(departed) => Step::DeliverUnnumbered(departed, None),
        Item::Packet(member, packet) => Step::Send(member, packet),
        Item::Save(id) => Step::Save(id),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine_io::Message;
    use crate::shrink::is_shrunk;

    type World = Departures<u8>;

    fn event(name: &str) -> Operation {
        let json = format!("[\"{name}\"]").into();
        let payload = Payload::from_json(crate::protocol::Kind::Event, json, Vec::new());
        Operation::Emit {
            payload: payload.expect("an event"),
            volatile: false,
        }
    }

    fn packet(text: &str) -> Behind {
        Behind::Packet(Message::Text(text.into()).into())
    }

    fn room(name: &str) -> Target {
        Target {
            rooms: vec![name.into()],
            except: Vec::new(),
        }
    }

    fn id(n: u8) -> SocketId {
        SocketId::new([n; 15])
    }

    /// Writes steps: a number with an offset, in brackets without, `-` for one that is only kept.
    fn write(steps: Vec<Step<u8>>) -> String {
        let name = |departed: &Departed| match &departed.operation {
            Operation::Emit { payload, .. } => payload.name().unwrap_or_default().to_owned(),
            _ => "operation".to_owned(),
        };
        let texts = steps.into_iter().map(|step| match step {
            Step::Deliver(departed) => name(&departed),
            Step::DeliverUnnumbered(departed, _) => format!("({})", name(&departed)),
            Step::Keep(departed) => format!("-{}", name(&departed)),
            Step::Send(member, _) => format!("to {member}"),
            Step::Save(_) => "save".to_owned(),
        });
        texts.collect::<Vec<_>>().join(" ")
    }

    fn three() -> (World, Instant) {
        let (mut world, now) = (World::default(), Instant::now());
        for (number, name) in [(5, "a"), (6, "b"), (8, "c")] {
            world.depart(Some(number), false, room("r"), event(name), now);
        }
        (world, now)
    }

    #[test]
    fn an_event_is_delivered_when_it_comes_back_and_then_what_is_behind_it() {
        let (mut world, _) = three();
        world.send_behind(1, packet("x"));
        world.save_behind(id(1));
        assert_eq!(write(world.returned(5, Offset::new(1, 0))), "a");
        assert_eq!(write(world.returned(6, Offset::new(2, 0))), "b");
        assert_eq!(write(world.returned(7, Offset::new(3, 0))), "");
        assert_eq!(write(world.returned(8, Offset::new(4, 0))), "c to 1 save");
        assert!(world.is_idle());
    }

    #[test]
    fn an_event_that_is_lost_is_delivered_in_its_place() {
        let (mut world, _) = three();
        assert_eq!(write(world.lost(6, Offset::new(1, 0))), "");
        assert_eq!(write(world.returned(5, Offset::new(1, 0))), "a (b)");
        assert_eq!(write(world.lost(8, Offset::new(1, 0))), "(c)");
        let (mut world, _) = three();
        assert_eq!(write(world.returned(8, Offset::new(1, 0))), "(a) (b) c");
    }

    #[test]
    fn events_that_were_released_are_kept_when_they_come_back() {
        let (mut world, now) = three();
        world.depart(
            Some(9),
            false,
            room("r"),
            event("d"),
            now + Duration::from_secs(1),
        );
        assert_eq!(write(world.release(now)), "(a) (b) (c)");
        assert_eq!(world.late().0, 5);
        assert_eq!(write(world.returned(5, Offset::new(1, 0))), "-a");
        assert_eq!(write(world.lost(6, Offset::new(1, 0))), "");
        assert_eq!(world.late(), (8, Offset::new(1, 0)));
        assert_eq!(write(world.returned(9, Offset::new(4, 0))), "d");
        assert_eq!(world.late(), (u64::MAX, Offset::new(4, 0)));
        assert!(world.is_idle());
    }

    #[test]
    fn an_event_for_this_server_alone_keeps_its_place() {
        let (mut world, now) = three();
        world.depart(None, true, room("r"), event("local"), now);
        world.returned(6, Offset::new(1, 0));
        assert_eq!(write(world.returned(8, Offset::new(1, 0))), "c (local)");
    }

    #[test]
    fn what_waits_for_a_socket_is_taken_once() {
        let (mut world, now) = three();
        world.depart(Some(9), false, room("other"), event("d"), now);
        world.send_behind(1, packet("x"));
        world.send_behind(2, packet("y"));
        let is_selected = |target: &Target| *target.rooms[0] == *"r";
        let taken = world.take_for(&id(1), is_selected, |member| *member == 1);
        assert_eq!(write(taken), "(a) (b) (c) to 1");
        assert!(!world.concerns(&id(1), is_selected));
        assert!(world.concerns(&id(2), is_selected));
        assert!(!world.saves(&id(1)));
        world.save_behind(id(1));
        assert!(world.saves(&id(1)));
        let steps = world.returned(9, Offset::new(1, 0));
        assert_eq!(write(steps), "(a) (b) (c) d to 2 save");
    }

    #[test]
    fn too_many_operations_release_the_oldest() {
        let (mut world, _) = three();
        assert_eq!(write(world.release_beyond(3)), "");
        assert_eq!(write(world.release_beyond(1)), "(a) (b)");
        assert!(world.has_late());
        // A later message, also of another namespace, comes back: they are lost.
        assert_eq!(write(world.returned(7, Offset::new(7, 0))), "");
        assert_eq!(world.late(), (u64::MAX, Offset::new(7, 0)));
        assert_eq!(write(world.returned(9, Offset::new(8, 0))), "(c)");
    }

    #[test]
    fn a_socket_is_concerned_by_events_that_may_come_back() {
        let (mut world, now) = three();
        let has_r = |target: &Target| *target.rooms[0] == *"r";
        assert_eq!(world.last_late(has_r), None);
        world.depart(Some(9), false, room("other"), event("d"), now);
        world.release(now);
        assert_eq!(world.last_late(has_r), Some(9));
        assert_eq!(world.last_late(|_| false), None);
        world.returned(8, Offset::new(1, 0));
        assert_eq!(world.last_late(has_r), None);

        let mut volatile = event("e");
        if let Operation::Emit { volatile, .. } = &mut volatile {
            *volatile = true;
        }
        world.depart(Some(10), false, room("r"), volatile, now);
        world.release(now);
        assert_eq!(world.last_late(has_r), None);
        let many = 11..=11 + MAX_SEARCHED as u64;
        for number in many {
            world.depart(Some(number), false, room("other"), event("f"), now);
        }
        world.release(now);
        assert_eq!(world.last_late(has_r), Some(11 + MAX_SEARCHED as u64));
    }

    #[test]
    fn an_operation_on_rooms_is_not_done_again_unless_it_is_going_on() {
        let (mut world, now) = (World::default(), Instant::now());
        let leave = || Operation::Leave(vec!["r".into()]);
        world.depart(Some(5), false, room("r"), leave(), now);
        world.note_leaving(&id(1), |_| true);
        world.done(5);
        world.note_leaving(&id(2), |_| true);
        world.note_leaving(&id(3), |_| false);
        world.note_restored(&id(4));
        let steps = world.returned(5, Offset::new(1, 0));
        let [Step::Deliver(departed)] = &steps[..] else {
            panic!("{steps:?}");
        };
        let meant = [1, 2, 3, 4].map(|n| departed.meant.get(&id(n)).copied());
        assert_eq!(meant, [None, Some(false), None, Some(true)]);
    }

    #[test]
    fn a_change_of_rooms_does_not_change_for_whom_an_event_was() {
        let (mut world, now) = three();
        let has_r = |target: &Target| *target.rooms[0] == *"r";
        world.note(&id(1), has_r, |_| false);
        world.depart(Some(9), false, room("r"), event("d"), now);
        // The first answer stays.
        world.note(&id(1), has_r, |_| true);
        let steps = world.returned(9, Offset::new(1, 0));
        let meant = steps.iter().filter_map(|step| match step {
            Step::Deliver(each) | Step::DeliverUnnumbered(each, _) => each.meant.get(&id(1)),
            _ => None,
        });
        let meant: Vec<_> = meant.copied().collect();
        assert_eq!(meant, [false, false, false, true]);
    }

    #[test]
    fn events_that_have_come_back_return_their_memory() {
        let (mut world, now) = (World::default(), Instant::now());
        for number in 1..=10_000 {
            world.depart(Some(number), false, room("r"), event("e"), now);
        }
        assert_eq!(world.returned(10_000, Offset::new(1, 0)).len(), 10_000);
        assert!(is_shrunk(&world.items));
    }
}
