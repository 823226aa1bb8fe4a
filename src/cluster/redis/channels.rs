//! The subscriptions of a server on the nodes of a Redis Cluster: a pure data structure.
//!
//! ```text
//! wanted ─▶ waiting ─▶ asked ─▶ made
//!              ▲          │       │
//!              └──────────┴───────┘  refused, moved, or the connection has ended
//! ```
//!
//! Only what a node confirms counts as made. The replies to subscriptions are no evidence: a node that
//! loses a slot ends the subscriptions without being asked, and that counts as a reply as well.

use std::collections::{BTreeMap, HashMap};

use super::form::{Subscription, SubscriptionKind};
use super::slots::{Address, Topology, slot};
use crate::shrink::shrink;

/// How many times in a row a subscription is made at once at the node that another one has named.
const MAX_REDIRECTS: usize = 5;

/// The subscriptions of a server.
#[derive(Debug, Default)]
pub(super) struct Channels {
    channels: HashMap<Subscription, Channel>,
    /// Those that no node was asked for, in the order in which they were wanted.
    waiting: BTreeMap<u64, Subscription>,
    next_number: u64,
    /// The subscriptions that a node was asked to end, and how many times.
    ending: HashMap<(Address, Subscription), usize>,
    /// How many channels have trouble.
    troubled: usize,
    /// Whether messages may have been lost since the last time that no channel had trouble.
    is_lossy: bool,
}

#[derive(Debug)]
struct Channel {
    number: u64,
    place: Place,
    /// Whether a subscription that was made has ended, or could not be made.
    has_trouble: bool,
    /// How many times in a row a node has refused the subscription.
    refusals: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Waiting,
    Asked(Address),
    Made(Address),
}

impl Place {
    fn address(&self) -> Option<&Address> {
        match self {
            Self::Waiting => None,
            Self::Asked(address) | Self::Made(address) => Some(address),
        }
    }
}

/// The subscriptions to make on each node.
pub(super) type Plan = HashMap<Address, Vec<Subscription>>;

impl Channels {
    /// Adds a subscription.
    pub(super) fn want(&mut self, subscription: Subscription) {
        if self.channels.contains_key(&subscription) {
            return;
        }
        let number = self.next_number;
        self.next_number += 1;
        self.waiting.insert(number, subscription.clone());
        let channel = Channel {
            number,
            place: Place::Waiting,
            has_trouble: false,
            refusals: 0,
        };
        self.channels.insert(subscription, channel);
    }

    /// Removes a subscription. Returns the node that has to end it.
    pub(super) fn release(&mut self, subscription: &Subscription) -> Option<Address> {
        let channel = self.channels.remove(subscription)?;
        shrink(&mut self.channels);
        self.waiting.remove(&channel.number);
        self.troubled -= usize::from(channel.has_trouble);
        let address = channel.place.address()?.clone();
        self.end(&address, subscription);
        Some(address)
    }

    fn end(&mut self, address: &Address, subscription: &Subscription) {
        let key = (address.clone(), subscription.clone());
        *self.ending.entry(key).or_default() += 1;
    }

    /// Returns whether a subscription is made, has trouble, or is not wanted.
    pub(super) fn is_settled(&self, subscription: &Subscription) -> bool {
        let channel = self.channels.get(subscription);
        channel.is_none_or(|channel| channel.has_trouble || matches!(channel.place, Place::Made(_)))
    }

    /// Returns whether a node has ended a subscription, or its connection has ended.
    pub(super) fn has_ended(&self, address: &Address, subscription: &Subscription) -> bool {
        let key = (address.clone(), subscription.clone());
        !self.ending.contains_key(&key)
    }

    /// Returns whether messages arrive for all subscriptions, but for new ones.
    pub(super) fn has_all(&self) -> bool {
        self.troubled == 0
    }

    /// Returns whether messages may have been lost, once.
    pub(super) fn take_lossy(&mut self) -> bool {
        std::mem::take(&mut self.is_lossy)
    }

    /// Returns whether a subscription waits.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Chooses the nodes of the waiting subscriptions, except for nodes that are busy: those wait on.
    /// Subscriptions whose slots have no master wait on, too, and have trouble: the last one is returned.
    pub(super) fn plan(
        &mut self,
        topology: &Topology,
        is_busy: impl Fn(&Address) -> bool,
    ) -> (Plan, Option<Subscription>) {
        let mut plan = Plan::new();
        let mut homeless = None;
        let waiting = std::mem::take(&mut self.waiting);
        for (number, subscription) in waiting {
            match owner(topology, &subscription) {
                Some(address) if !is_busy(address) => {
                    if let Some(channel) = self.channels.get_mut(&subscription) {
                        channel.place = Place::Asked(address.clone());
                    }
                    plan.entry(address.clone()).or_default().push(subscription);
                }
                Some(_) => {
                    self.waiting.insert(number, subscription);
                }
                None => {
                    self.trouble(&subscription);
                    homeless = Some(subscription.clone());
                    self.waiting.insert(number, subscription);
                }
            }
        }
        (plan, homeless)
    }

    /// Records that a node has confirmed a subscription. Returns whether that ends the last trouble.
    pub(super) fn made(&mut self, address: &Address, subscription: &Subscription) -> bool {
        let Some(channel) = self.channels.get_mut(subscription) else {
            return false;
        };
        if channel.place != Place::Asked(address.clone()) {
            return false;
        }
        channel.place = Place::Made(address.clone());
        channel.refusals = 0;
        let had_trouble = std::mem::take(&mut channel.has_trouble);
        self.troubled -= usize::from(had_trouble);
        had_trouble && self.troubled == 0
    }

    /// Records that a node has ended a subscription. Returns whether nobody has asked for that.
    pub(super) fn ended(&mut self, address: &Address, subscription: &Subscription) -> bool {
        let key = (address.clone(), subscription.clone());
        if let Some(times) = self.ending.get_mut(&key) {
            *times -= 1;
            if *times == 0 {
                self.ending.remove(&key);
                shrink(&mut self.ending);
            }
            return false;
        }
        let channel = self.channels.get(subscription);
        if channel.is_none_or(|channel| channel.place.address() != Some(address)) {
            return false;
        }
        self.lose(subscription);
        true
    }

    /// Records that a node has answered a request for subscriptions. Those that it has not made wait
    /// again: they are returned.
    pub(super) fn answered(
        &mut self,
        address: &Address,
        asked: &[Subscription],
    ) -> Vec<Subscription> {
        let asked_here = Place::Asked(address.clone());
        let refused = asked.iter().filter(|subscription| {
            let channel = self.channels.get(subscription);
            channel.is_some_and(|channel| channel.place == asked_here)
        });
        let refused: Vec<_> = refused.cloned().collect();
        for subscription in &refused {
            if let Some(channel) = self.channels.get_mut(subscription) {
                channel.refusals += 1;
            }
            self.wait(subscription);
        }
        refused
    }

    /// Records that a node has answered a request to end subscriptions. One that has lost the slot
    /// has ended them before.
    pub(super) fn answered_ends(&mut self, address: &Address, asked: &[Subscription]) {
        for subscription in asked {
            let key = (address.clone(), subscription.clone());
            self.ending.remove(&key);
        }
        shrink(&mut self.ending);
    }

    /// Returns whether more than [`MAX_REDIRECTS`] nodes in a row have refused a subscription.
    pub(super) fn is_stuck(&self, subscription: &Subscription) -> bool {
        let channel = self.channels.get(subscription);
        channel.is_some_and(|channel| channel.refusals > MAX_REDIRECTS)
    }

    /// Records that a subscription cannot be made at present.
    pub(super) fn trouble(&mut self, subscription: &Subscription) {
        if let Some(channel) = self.channels.get_mut(subscription) {
            self.troubled += usize::from(!channel.has_trouble);
            channel.has_trouble = true;
        }
    }

    /// Records that the connection to a node has ended. Returns whether it had subscriptions.
    pub(super) fn disconnected(&mut self, address: &Address) -> bool {
        self.ending.retain(|(node, _), _| node != address);
        shrink(&mut self.ending);
        let here = self.channels.iter();
        let here = here.filter(|(_, channel)| channel.place.address() == Some(address));
        let lost: Vec<_> = here.map(|(subscription, _)| subscription.clone()).collect();
        for subscription in &lost {
            self.lose(subscription);
        }
        !lost.is_empty()
    }

    /// Moves the subscriptions whose slots have another master, if two nodes say so that were asked some
    /// time apart: one that was asked alone may have an old view. Returns the former ones, to end them.
    pub(super) fn relocate(&mut self, topology: &Topology, before: &Topology) -> Plan {
        let mut former = Plan::new();
        for (subscription, channel) in &self.channels {
            let Some(now) = channel.place.address() else {
                continue;
            };
            let owners = [topology, before].map(|view| owner(view, subscription));
            if owners[0].is_some_and(|owner| owner != now) && owners[0] == owners[1] {
                let at_former = former.entry(now.clone()).or_default();
                at_former.push(subscription.clone());
            }
        }
        for (address, subscriptions) in &former {
            for subscription in subscriptions {
                self.end(address, subscription);
                self.lose(subscription);
            }
        }
        former
    }

    /// Lets a subscription that was made, or may have been, wait.
    fn lose(&mut self, subscription: &Subscription) {
        let was_made = self
            .channels
            .get(subscription)
            .is_some_and(|channel| matches!(channel.place, Place::Made(_)));
        self.wait(subscription);
        if was_made {
            self.is_lossy = true;
            self.trouble(subscription);
        }
    }

    fn wait(&mut self, subscription: &Subscription) {
        if let Some(channel) = self.channels.get_mut(subscription) {
            channel.place = Place::Waiting;
            self.waiting.insert(channel.number, subscription.clone());
        }
    }
}

/// Returns the node for a subscription.
fn owner<'a>(topology: &'a Topology, subscription: &Subscription) -> Option<&'a Address> {
    match subscription.kind {
        SubscriptionKind::Sharded => topology.owner(slot(subscription.name.as_bytes())),
        SubscriptionKind::Channel | SubscriptionKind::Pattern => topology.any(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::slots::ANY_SLOT;
    use super::*;
    use crate::shrink::is_shrunk;

    fn node(port: u16) -> Address {
        Address::new("10.0.0.1", port)
    }

    fn sharded(name: &str) -> Subscription {
        SubscriptionKind::Sharded.of(name.to_owned())
    }

    /// Returns a cluster of two nodes, and a channel of each.
    fn two_nodes() -> (Topology, Subscription, Subscription) {
        let mut topology = Topology::default();
        let (x, y) = (sharded("x"), sharded("y"));
        topology.set_owner(slot(b"x"), node(1));
        topology.set_owner(slot(b"y"), node(2));
        (topology, x, y)
    }

    #[test]
    fn each_subscription_is_made_at_the_master_of_its_slot() {
        let (topology, x, y) = two_nodes();
        let mut channels = Channels::default();
        channels.want(x.clone());
        channels.want(y.clone());
        channels.want(x.clone());
        let (plan, homeless) = channels.plan(&topology, |_| false);
        assert_eq!(
            (&plan[&node(1)], &plan[&node(2)]),
            (&vec![x.clone()], &vec![y.clone()])
        );
        assert_eq!(homeless, None);
        assert!(!channels.is_settled(&x));
        // The confirmation of another node is none.
        channels.made(&node(2), &x);
        assert!(!channels.is_settled(&x));
        channels.made(&node(1), &x);
        assert!(channels.is_settled(&x) && channels.has_all());
        assert!(!channels.take_lossy());
        // The other one was refused.
        assert_eq!(
            channels.answered(&node(2), std::slice::from_ref(&y)),
            std::slice::from_ref(&y)
        );
        assert!(channels.is_waiting() && channels.has_all());
        assert_eq!(channels.release(&x), Some(node(1)));
        assert_eq!(channels.release(&y), None);
        assert!(!channels.is_waiting());
    }

    #[test]
    fn a_slot_that_moves_is_a_loss_until_its_channel_is_subscribed_again() {
        let (mut topology, x, _) = two_nodes();
        let mut channels = Channels::default();
        channels.want(x.clone());
        channels.plan(&topology, |_| false);
        channels.made(&node(1), &x);
        assert!(channels.ended(&node(1), &x));
        assert!(!channels.has_all() && channels.is_waiting());
        topology.set_owner(slot(b"x"), node(2));
        let (plan, _) = channels.plan(&topology, |_| false);
        assert_eq!(plan[&node(2)], std::slice::from_ref(&x));
        // It comes late, from the former owner.
        assert!(!channels.ended(&node(1), &x));
        assert!(channels.made(&node(2), &x));
        assert!(channels.take_lossy() && !channels.take_lossy());
    }

    #[test]
    fn an_end_that_was_asked_for_is_no_loss() {
        let (topology, x, _) = two_nodes();
        let mut channels = Channels::default();
        channels.want(x.clone());
        channels.plan(&topology, |_| false);
        channels.made(&node(1), &x);
        assert_eq!(channels.release(&x), Some(node(1)));
        assert!(!channels.has_ended(&node(1), &x));
        // It is wanted again before the node has answered.
        channels.want(x.clone());
        channels.plan(&topology, |_| false);
        assert!(!channels.ended(&node(1), &x));
        assert!(channels.has_ended(&node(1), &x));
        channels.made(&node(1), &x);
        assert!(channels.is_settled(&x) && channels.has_all() && !channels.take_lossy());
    }

    #[test]
    fn the_channels_of_a_node_that_dies_wait_for_its_slots() {
        let (mut topology, x, y) = two_nodes();
        let mut channels = Channels::default();
        channels.want(x.clone());
        channels.want(y.clone());
        channels.plan(&topology, |_| false);
        channels.made(&node(1), &x);
        channels.made(&node(2), &y);
        assert!(channels.disconnected(&node(1)) && !channels.disconnected(&node(1)));
        assert!(!channels.has_all());
        // The other node has not noticed yet.
        let (plan, _) = channels.plan(&topology, |address| *address == node(1));
        assert!(plan.is_empty() && channels.is_waiting());
        topology.set_owner(slot(b"x"), node(2));
        let (plan, _) = channels.plan(&topology, |_| false);
        assert_eq!(plan[&node(2)], std::slice::from_ref(&x));
        assert!(channels.made(&node(2), &x));
        assert!(channels.has_all() && channels.take_lossy());
    }

    #[test]
    fn a_channel_whose_slot_has_no_master_has_trouble() {
        let (topology, ..) = two_nodes();
        let z = sharded("z");
        let mut channels = Channels::default();
        channels.want(z.clone());
        let (plan, homeless) = channels.plan(&topology, |_| false);
        assert!(plan.is_empty());
        assert_eq!(homeless, Some(z.clone()));
        // Nobody waits for it, and nothing was lost.
        assert!(channels.is_settled(&z) && !channels.has_all() && !channels.take_lossy());
        channels.release(&z);
        assert!(channels.has_all());
    }

    #[test]
    fn a_channel_that_all_nodes_refuse_is_stuck() {
        let (topology, x, _) = two_nodes();
        let mut channels = Channels::default();
        channels.want(x.clone());
        let refuse = |channels: &mut Channels, times| {
            for _ in 0..times {
                channels.plan(&topology, |_| false);
                let refused = channels.answered(&node(1), std::slice::from_ref(&x));
                assert_eq!(refused, std::slice::from_ref(&x));
            }
        };
        refuse(&mut channels, MAX_REDIRECTS);
        assert!(!channels.is_stuck(&x));
        refuse(&mut channels, 1);
        assert!(channels.is_stuck(&x));
        channels.plan(&topology, |_| false);
        channels.made(&node(1), &x);
        assert!(!channels.is_stuck(&x));
    }

    #[test]
    fn channels_move_with_their_slots() {
        let (mut topology, x, y) = two_nodes();
        let all = SubscriptionKind::Pattern.of("p*".to_owned());
        let mut channels = Channels::default();
        topology.set_owner(ANY_SLOT, node(1));
        for each in [&x, &y, &all] {
            channels.want(each.clone());
        }
        channels.plan(&topology, |_| false);
        for (at, each) in [(1, &x), (2, &y), (1, &all)] {
            channels.made(&node(at), each);
        }
        let before = topology.clone();
        topology.set_owner(slot(b"x"), node(2));
        assert!(channels.relocate(&topology, &before).is_empty());
        let former = channels.relocate(&topology, &topology);
        assert_eq!(former[&node(1)], std::slice::from_ref(&x));
        let (plan, _) = channels.plan(&topology, |_| false);
        assert_eq!(plan[&node(2)], std::slice::from_ref(&x));
        assert!(channels.relocate(&topology, &topology).is_empty());
    }

    #[test]
    fn channels_that_have_ended_return_their_memory() {
        let (topology, _, _) = two_nodes();
        let names: Vec<_> = (0..1_000).map(|n| sharded(&format!("{{x}}{n}"))).collect();
        let ends: [fn(&mut Channels, &[Subscription]); 3] = [
            |channels, names| channels.answered_ends(&node(1), names),
            |channels, names| {
                for name in names {
                    assert!(!channels.ended(&node(1), name));
                }
            },
            |channels, _| assert!(!channels.disconnected(&node(1))),
        ];
        for end in ends {
            let mut channels = Channels::default();
            names.iter().for_each(|name| channels.want(name.clone()));
            let (plan, _) = channels.plan(&topology, |_| false);
            assert_eq!(plan[&node(1)].len(), names.len());
            for name in &names {
                assert_eq!(channels.release(name), Some(node(1)));
            }
            assert!(is_shrunk(&channels.channels));
            assert_eq!(channels.ending.len(), names.len());
            end(&mut channels, &names);
            assert!(channels.ending.is_empty() && is_shrunk(&channels.ending));
        }
    }
}
