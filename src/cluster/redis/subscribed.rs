//! The subscriptions that a server wants: a pure data structure.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::form::{Carried, Form, Subscription};
use crate::protocol::NamespaceName;
use crate::shrink::shrink;

/// The subscriptions that a server wants.
#[derive(Debug)]
pub(super) struct Subscribed {
    form: Arc<dyn Form>,
    server: Box<str>,
    /// The namespaces that are open.
    open: HashSet<NamespaceName>,
    /// The rooms that are open and have channels of their own.
    rooms: HashSet<(NamespaceName, Arc<str>)>,
    /// The channels and patterns. A namespace and a room of another one can have the same channel.
    sources: HashMap<Vec<u8>, Source>,
}

/// A channel or a pattern.
#[derive(Debug)]
struct Source {
    subscription: Subscription,
    carried: Carried,
    namespace: NamespaceName,
    /// Whether a room wanted it first.
    is_of_room: bool,
    /// The number of namespaces and rooms that want it.
    wanted: usize,
}

/// The changes of subscriptions.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) subscribe: Vec<Subscription>,
    pub(super) unsubscribe: Vec<Subscription>,
}

impl Changes {
    pub(super) fn len(&self) -> usize {
        self.subscribe.len() + self.unsubscribe.len()
    }
}

impl Subscribed {
    pub(super) fn new(form: Arc<dyn Form>, server: &str) -> Self {
        Self {
            form,
            server: server.into(),
            open: HashSet::new(),
            rooms: HashSet::new(),
            sources: HashMap::new(),
        }
    }

    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// Returns the kind of messages and the namespace of a channel or a pattern.
    pub(super) fn source(&self, name: &[u8]) -> Option<(Carried, &NamespaceName)> {
        let source = self.sources.get(name)?;
        Some((source.carried, &source.namespace))
    }

    /// Returns the name of a namespace, if it is open.
    pub(super) fn namespace(&self, name: &str) -> Option<&NamespaceName> {
        self.open.get(name)
    }

    /// Returns all wanted subscriptions, and forgets the others.
    pub(super) fn all(&mut self) -> Vec<Subscription> {
        self.all_in_order().into_iter().flatten().collect()
    }

    /// Returns all wanted subscriptions, those of rooms first, and forgets the others.
    pub(super) fn all_in_order(&mut self) -> [Vec<Subscription>; 2] {
        self.sources.retain(|_, source| source.wanted > 0);
        shrink(&mut self.sources);
        let (rooms, namespaces): (Vec<_>, Vec<_>) =
            self.sources.values().partition(|source| source.is_of_room);
        [rooms, namespaces].map(|sources| {
            let subscriptions = sources.into_iter();
            subscriptions
                .map(|source| source.subscription.clone())
                .collect()
        })
    }

    /// Opens a namespace.
    pub(super) fn open(&mut self, namespace: &NamespaceName, changes: &mut Changes) {
        if self.open.insert(namespace.clone()) {
            for (subscription, carried) in self.form.subscriptions(namespace, &self.server) {
                self.want(subscription, carried, namespace, false, changes);
            }
        }
    }

    /// Closes a namespace. Its messages are handled until [`forget`](Self::forget) is called.
    pub(super) fn close(&mut self, namespace: &NamespaceName, changes: &mut Changes) {
        if self.open.remove(namespace) {
            shrink(&mut self.open);
            for (subscription, _) in self.form.subscriptions(namespace, &self.server) {
                self.release(subscription, changes);
            }
        }
    }

    /// Opens or closes a room.
    pub(super) fn room(
        &mut self,
        namespace: &NamespaceName,
        room: &Arc<str>,
        exists: bool,
        changes: &mut Changes,
    ) {
        let Some(subscription) = self.form.room(namespace, room) else {
            return;
        };
        let room = (namespace.clone(), Arc::clone(room));
        if exists && self.rooms.insert(room.clone()) {
            self.want(subscription, Carried::Envelopes, namespace, true, changes);
        } else if !exists && self.rooms.remove(&room) {
            shrink(&mut self.rooms);
            self.release(subscription, changes);
        }
    }

    fn want(
        &mut self,
        subscription: Subscription,
        carried: Carried,
        namespace: &NamespaceName,
        is_of_room: bool,
        changes: &mut Changes,
    ) {
        let name = subscription.name.clone().into_bytes();
        let source = self.sources.entry(name).or_insert_with(|| Source {
            subscription: subscription.clone(),
            carried,
            namespace: namespace.clone(),
            is_of_room,
            wanted: 0,
        });
        source.wanted += 1;
        if source.wanted == 1 && !take(&mut changes.unsubscribe, &subscription) {
            changes.subscribe.push(subscription);
        }
    }

    fn release(&mut self, subscription: Subscription, changes: &mut Changes) {
        if let Some(source) = self.sources.get_mut(subscription.name.as_bytes()) {
            source.wanted -= 1;
            if source.wanted == 0 && !take(&mut changes.subscribe, &subscription) {
                changes.unsubscribe.push(subscription);
            }
        }
    }

    /// Forgets subscriptions that have ended.
    pub(super) fn forget(&mut self, ended: Vec<Subscription>) {
        for subscription in ended {
            let name = subscription.name.as_bytes();
            if self
                .sources
                .get(name)
                .is_some_and(|source| source.wanted == 0)
            {
                self.sources.remove(name);
            }
        }
        shrink(&mut self.sources);
    }
}

/// Removes a subscription from a list. Returns whether it was there.
fn take(list: &mut Vec<Subscription>, subscription: &Subscription) -> bool {
    let at = list.iter().rposition(|each| each == subscription);
    at.map(|at| list.swap_remove(at)).is_some()
}

#[cfg(test)]
mod tests {
    use super::super::Subscriptions;
    use super::super::form::SubscriptionKind;
    use super::super::sharded::{Channels, Sharded};
    use super::*;
    use crate::shrink::is_shrunk;

    fn names(subscriptions: &[Subscription]) -> Vec<&str> {
        let mut names: Vec<_> = subscriptions.iter().map(|each| &*each.name).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn changes_that_undo_each_other_are_none() {
        let channels = Channels {
            prefix: "s".into(),
            kind: SubscriptionKind::Channel,
        };
        let form = Sharded {
            channels,
            subscriptions: Subscriptions::Static,
        };
        let mut subscribed = Subscribed::new(Arc::new(form), "me");
        let main = NamespaceName::MAIN;
        let mut changes = Changes::default();
        subscribed.open(&main, &mut changes);
        subscribed.close(&main, &mut changes);
        assert_eq!(changes.len(), 0);
        subscribed.open(&main, &mut changes);
        assert_eq!(names(&changes.subscribe), ["s#/#", "s#/#me#"]);
        let mut changes = Changes::default();
        subscribed.close(&main, &mut changes);
        subscribed.open(&main, &mut changes);
        assert_eq!(changes.len(), 0);
    }

    #[test]
    fn a_channel_is_subscribed_while_a_namespace_or_a_room_wants_it() {
        let channels = Channels {
            prefix: "s".into(),
            kind: SubscriptionKind::Sharded,
        };
        let form = Sharded {
            channels,
            subscriptions: Subscriptions::Dynamic,
        };
        let mut subscribed = Subscribed::new(Arc::new(form), "me");
        let (main, other) = (NamespaceName::MAIN, NamespaceName::from("/#y"));
        let room = Arc::<str>::from("y");
        let mut changes = Changes::default();
        subscribed.open(&main, &mut changes);
        subscribed.room(&main, &room, true, &mut changes);
        assert_eq!(names(&changes.subscribe), ["s#/#", "s#/#me#", "s#/#y#"]);
        // A namespace whose channel is that of the room.
        let mut changes = Changes::default();
        subscribed.open(&other, &mut changes);
        assert_eq!(names(&changes.subscribe), ["s#/#y#me#"]);
        let mut changes = Changes::default();
        subscribed.close(&other, &mut changes);
        assert_eq!(names(&changes.unsubscribe), ["s#/#y#me#"]);
        // Messages are handled until the subscription has ended.
        assert!(subscribed.source(b"s#/#y#me#").is_some());
        subscribed.forget(changes.unsubscribe);
        assert!(subscribed.source(b"s#/#y#me#").is_none());
        assert!(subscribed.source(b"s#/#y#").is_some());
        // The room comes before the channel by which servers are counted.
        let all = subscribed.all();
        assert_eq!((&*all[0].name, all.len()), ("s#/#y#", 3));
        let mut changes = Changes::default();
        subscribed.room(&main, &room, false, &mut changes);
        assert_eq!(names(&changes.unsubscribe), ["s#/#y#"]);
        assert_eq!(names(&subscribed.all()), ["s#/#", "s#/#me#"]);
    }

    #[test]
    fn subscriptions_that_have_ended_return_their_memory() {
        const MANY: u32 = 1_000;

        let channels = Channels {
            prefix: "s".into(),
            kind: SubscriptionKind::Channel,
        };
        let form = Sharded {
            channels,
            subscriptions: Subscriptions::Dynamic,
        };
        let form: Arc<dyn Form> = Arc::new(form);
        let begun = || {
            let mut subscribed = Subscribed::new(Arc::clone(&form), "me");
            let mut changes = Changes::default();
            for n in 0..MANY {
                let namespace = NamespaceName::from(&*format!("/{n}"));
                subscribed.open(&namespace, &mut changes);
                subscribed.room(&namespace, &"room".into(), true, &mut changes);
            }
            let mut changes = Changes::default();
            for n in 0..MANY {
                let namespace = NamespaceName::from(&*format!("/{n}"));
                subscribed.room(&namespace, &"room".into(), false, &mut changes);
                subscribed.close(&namespace, &mut changes);
            }
            assert!(is_shrunk(&subscribed.open) && is_shrunk(&subscribed.rooms));
            (subscribed, changes)
        };
        let (mut subscribed, changes) = begun();
        subscribed.forget(changes.unsubscribe);
        assert!(subscribed.sources.is_empty() && is_shrunk(&subscribed.sources));
        // The connection has ended before Redis has ended them.
        let (mut subscribed, _) = begun();
        assert!(subscribed.all().is_empty());
        assert!(is_shrunk(&subscribed.sources));
    }
}
