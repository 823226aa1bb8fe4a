//! The subscriptions that a server wants: a pure data structure.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::form::{Carried, Form, Subscription};
use crate::protocol::NamespaceName;

/// How long a subscription for a room outlives the room. A room often comes back at once, for example
/// when its only client reloads the page.
const LINGER: Duration = Duration::from_secs(10);

/// The subscriptions that a server wants.
#[derive(Debug)]
pub(super) struct Subscribed {
    form: Arc<dyn Form>,
    server: Box<str>,
    /// The namespaces that are open.
    open: HashSet<NamespaceName>,
    /// The channels and patterns, with their kinds of messages.
    sources: HashMap<Vec<u8>, (Carried, NamespaceName)>,
    rooms: HashMap<Subscription, Room>,
    /// The rooms that have ended, in the order of their end.
    ended: VecDeque<(Instant, Subscription)>,
}

/// A room with a channel of its own.
#[derive(Debug)]
struct Room {
    /// When the room has ended. `None` while it exists.
    ended: Option<Instant>,
}

impl Subscribed {
    pub(super) fn new(form: Arc<dyn Form>, server: &str) -> Self {
        Self {
            form,
            server: server.into(),
            open: HashSet::new(),
            sources: HashMap::new(),
            rooms: HashMap::new(),
            ended: VecDeque::new(),
        }
    }

    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// Returns the kind of messages and the namespace of a channel or a pattern.
    pub(super) fn source(&self, name: &[u8]) -> Option<&(Carried, NamespaceName)> {
        self.sources.get(name)
    }

    /// Returns whether a namespace is open, and its name.
    pub(super) fn namespace(&self, name: &str) -> Option<&NamespaceName> {
        self.open.get(name)
    }

    /// Returns all subscriptions.
    pub(super) fn all(&self) -> Vec<Subscription> {
        let namespaces = self.open.iter();
        let namespaces = namespaces.flat_map(|name| self.form.subscriptions(name, &self.server));
        let namespaces = namespaces.map(|(subscription, _)| subscription);
        // The rooms come first: a server that is counted receives the messages for its rooms.
        self.rooms.keys().cloned().chain(namespaces).collect()
    }

    /// Opens a namespace. Returns the subscriptions to make.
    pub(super) fn open(&mut self, namespace: &NamespaceName) -> Vec<Subscription> {
        self.open.insert(namespace.clone());
        let subscriptions = self.form.subscriptions(namespace, &self.server);
        let names = subscriptions.into_iter().map(|(subscription, carried)| {
            let source = (carried, namespace.clone());
            self.sources
                .insert(subscription.name.clone().into_bytes(), source);
            subscription
        });
        names.collect()
    }

    /// Closes a namespace. Returns the subscriptions to end.
    pub(super) fn close(&mut self, namespace: &NamespaceName) -> Vec<Subscription> {
        self.open.remove(namespace);
        let subscriptions = self.form.subscriptions(namespace, &self.server);
        let names = subscriptions.into_iter().map(|(subscription, _)| {
            self.sources.remove(subscription.name.as_bytes());
            subscription
        });
        names.collect()
    }

    /// Records that a room has begun or ended. Returns the subscription to make.
    pub(super) fn room(
        &mut self,
        namespace: &NamespaceName,
        room: &str,
        exists: bool,
        now: Instant,
    ) -> Option<Subscription> {
        // The channel of a room with that name is the one for answers.
        if room == &*self.server {
            return None;
        }
        let subscription = self.form.room(namespace, room)?;
        if let Some(known) = self.rooms.get_mut(&subscription) {
            match (exists, known.ended) {
                (true, _) => known.ended = None,
                (false, Some(_)) => {}
                (false, None) => {
                    known.ended = Some(now);
                    self.ended.push_back((now, subscription));
                }
            }
            return None;
        }
        if !exists {
            return None;
        }
        let source = (Carried::Envelopes, namespace.clone());
        self.sources
            .insert(subscription.name.clone().into_bytes(), source);
        self.rooms
            .insert(subscription.clone(), Room { ended: None });
        Some(subscription)
    }

    /// Returns when the next subscription of a room is to end.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.ended.front().map(|(ended, _)| *ended + LINGER)
    }

    /// Returns the subscriptions of rooms that are to end.
    pub(super) fn end_rooms(&mut self, now: Instant) -> Vec<Subscription> {
        let mut subscriptions = Vec::new();
        while self.next_end().is_some_and(|end| end <= now) {
            let Some((ended, subscription)) = self.ended.pop_front() else {
                break;
            };
            let room = self.rooms.get(&subscription);
            // The room may exist again, or have ended again later.
            if room.is_some_and(|room| room.ended == Some(ended)) {
                self.rooms.remove(&subscription);
                self.sources.remove(subscription.name.as_bytes());
                subscriptions.push(subscription);
            }
        }
        subscriptions
    }
}
