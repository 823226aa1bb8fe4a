//! What a presence sends, in the order of the changes.

use std::cell::Cell;
use std::sync::{Arc, Weak};

use serde::Serialize;

use super::{Live, State, can_spawn, spawn};
use crate::engine_io::SocketId;
use crate::hub::Hub;
use crate::hub::member::Member;
use crate::hub::other_servers::Operation;
use crate::hub::selection::Target;
use crate::hub::session::SharedSession;
use crate::hub::yield_now::yield_now;
use crate::presence::replica::{Diff, Message, Users};
use crate::protocol::{Args, Data, NamespaceName, Payload};
use crate::shrink::shrink;

/// A socket that gets no differences of a room: its state is not sent yet, or has them already.
pub(super) struct Entry {
    namespace: NamespaceName,
    room: Box<str>,
    socket: SocketId,
    /// How many events were taken and waited when the state was sent: it has their differences. `None`
    /// before that.
    until: Option<u64>,
}

impl Entry {
    fn is_of(&self, namespace: &str, room: &str) -> bool {
        *self.room == *room && *self.namespace == *namespace
    }
}

pub(super) enum Outgoing {
    State {
        namespace: NamespaceName,
        room: Box<str>,
        to: SocketId,
    },
    Diff {
        namespace: NamespaceName,
        room: Box<str>,
        diff: Diff,
    },
    Message {
        namespace: NamespaceName,
        message: Message,
    },
}

/// An outgoing event, with the users that are read when it is sent.
struct Taken {
    outgoing: Outgoing,
    hub: Arc<Hub>,
    users: Users,
    except: Vec<Arc<str>>,
}

/// The number of events that a thread sends at a time.
const BATCH: usize = 32;

/// The number of outgoing events that may wait before a thread waits for its turn to send some.
const MAX_WAITING: usize = 4096;

thread_local! {
    /// Whether this thread sends the outbox of a presence. Hooks of the application run meanwhile.
    static IS_SENDING: Cell<bool> = const { Cell::new(false) };
}

impl Live {
    /// Sends a part of the outbox, and leaves the rest to the [`Sender`], or all to the thread that sends.
    pub(super) fn send(&self, session: Option<&SharedSession>) {
        loop {
            let waiting = self.state.lock().outbox.len();
            let sending = match waiting {
                0 => return,
                // A hook that this thread runs must not wait for it.
                1..=MAX_WAITING => self.sending.try_lock(),
                _ if IS_SENDING.get() => self.sending.try_lock(),
                _ => Some(self.sending.lock()),
            };
            // The thread that holds the lock looks again after it has released it.
            let Some(sending) = sending else { return };
            self.send_batch();
            drop(sending);
            if can_spawn(session) {
                return self.send_later(session);
            }
        }
    }

    /// Starts a [`Sender`] if something waits and there is none.
    fn send_later(&self, session: Option<&SharedSession>) {
        let mut state = self.state.lock();
        if !state.outbox.is_empty() && !std::mem::replace(&mut state.has_sender, true) {
            drop(state);
            let sender = Sender {
                live: Weak::clone(&self.weak),
                has_ended: false,
            };
            spawn(session, sender.run());
        }
    }

    /// Sends some events for the [`Sender`]. Returns `false` if none are left: it is to end.
    fn send_more(&self) -> bool {
        let sending = self.sending.lock();
        self.send_batch();
        drop(sending);
        let mut state = self.state.lock();
        state.has_sender = !state.outbox.is_empty();
        state.has_sender
    }

    /// Sends some events. The caller holds `sending`.
    fn send_batch(&self) {
        let _is_sending = IsSending::new();
        for _ in 0..BATCH {
            let _emitting = self.emitting.lock();
            let Some(taken) = self.next() else { return };
            self.send_one(taken);
        }
    }

    fn next(&self) -> Option<Taken> {
        let mut state = self.state.lock();
        let Some(hub) = state.hub.upgrade() else {
            state.outbox.clear();
            return None;
        };
        let outgoing = state.outbox.pop_front()?;
        shrink(&mut state.outbox);
        state.taken += 1;
        let (mut users, mut except) = (Users::new(), Vec::new());
        match &outgoing {
            Outgoing::State {
                namespace,
                room,
                to,
            } => {
                let replica = state.replicas.get(namespace);
                users = replica
                    .map(|replica| replica.users(room))
                    .unwrap_or_default();
                state.entered(namespace, room, to);
            }
            Outgoing::Diff {
                namespace, room, ..
            } => {
                let entering = state.entering.iter();
                let here = entering.filter(|entry| entry.is_of(namespace, room));
                except.extend(here.map(|entry| Arc::from(entry.socket.as_str())));
            }
            Outgoing::Message { .. } => {}
        }
        let taken = state.taken;
        let is_pending = |entry: &Entry| entry.until.is_none_or(|until| until > taken);
        state.entering.retain(is_pending);
        shrink(&mut state.entering);
        Some(Taken {
            outgoing,
            hub,
            users,
            except,
        })
    }

    fn send_one(&self, taken: Taken) {
        let Taken {
            outgoing,
            hub,
            users,
            except,
        } = taken;
        match outgoing {
            Outgoing::State {
                namespace,
                room,
                to,
            } => {
                let state = StateEvent {
                    room: &room,
                    users: &users,
                };
                emit_state(&hub, &namespace, &self.options.state_event, &to, state);
            }
            Outgoing::Diff {
                namespace,
                room,
                diff,
                ..
            } => {
                let target = Target {
                    rooms: vec![Arc::from(&*room)],
                    except,
                };
                let diff = DiffEvent {
                    room: &room,
                    joins: &diff.joins,
                    updates: &diff.updates,
                    leaves: &diff.leaves,
                };
                emit(&hub, &namespace, &self.options.diff_event, &target, diff);
            }
            Outgoing::Message { namespace, message } => {
                let Some(others) = &hub.others else { return };
                let args = Args((namespace.as_str(), message));
                match Payload::event(&self.server_event, namespace.len(), args) {
                    // A message that cannot be sent is missed, as one that is lost.
                    Ok(payload) => drop(others.send_server_event(&namespace, payload)),
                    Err(error) => {
                        tracing::error!(%error, "a message of a presence cannot be written");
                    }
                }
            }
        }
    }
}

impl State {
    /// Records that the state of a room is sent to a socket.
    fn entered(&mut self, namespace: &NamespaceName, room: &str, id: &SocketId) {
        // The state has the differences that wait.
        let until = self.taken + self.outbox.len() as u64;
        let entering = self.entering.iter_mut();
        let mut known = false;
        for entry in entering.filter(|entry| entry.socket == *id && entry.is_of(namespace, room)) {
            entry.until = Some(until);
            known = true;
        }
        if !known {
            self.entering.push(Entry {
                namespace: namespace.clone(),
                room: room.into(),
                socket: *id,
                until: Some(until),
            });
        }
    }
}

/// Keeps the differences of a room from a socket that joins it, until its state is sent.
pub(super) struct Entering<'a> {
    live: &'a Live,
    member: &'a Member,
    room: &'a str,
    /// Whether the state is in the outbox, and ends this.
    pub(super) is_queued: Cell<bool>,
}

impl<'a> Entering<'a> {
    pub(super) fn new(live: &'a Live, member: &'a Member, room: &'a str) -> Self {
        live.state.lock().entering.push(Entry {
            namespace: member.namespace.name.clone(),
            room: room.into(),
            socket: member.id,
            until: None,
        });
        // A difference that is being sent does not know of the socket. A hook that this thread runs must
        // not wait for it.
        if !IS_SENDING.get() {
            drop(live.emitting.lock());
        }
        Self {
            live,
            member,
            room,
            is_queued: Cell::new(false),
        }
    }
}

impl Drop for Entering<'_> {
    fn drop(&mut self) {
        if !self.is_queued.get() {
            let (id, namespace) = (self.member.id, &self.member.namespace.name);
            let entering = &mut self.live.state.lock().entering;
            let is_it = |entry: &Entry| {
                entry.until.is_none() && entry.socket == id && entry.is_of(namespace, self.room)
            };
            if let Some(at) = entering.iter().position(is_it) {
                entering.swap_remove(at);
            }
        }
    }
}

/// Marks this thread as one that sends.
struct IsSending {
    before: bool,
}

impl IsSending {
    fn new() -> Self {
        let before = IS_SENDING.replace(true);
        Self { before }
    }
}

impl Drop for IsSending {
    fn drop(&mut self) {
        IS_SENDING.set(self.before);
    }
}

/// The task that sends what the threads that change something leave in the outbox.
struct Sender {
    live: Weak<Live>,
    has_ended: bool,
}

impl Sender {
    async fn run(mut self) {
        while self.live.upgrade().is_some_and(|live| live.send_more()) {
            yield_now().await;
        }
        self.has_ended = true;
    }
}

impl Drop for Sender {
    /// A runtime that ends drops the sender. The next change then starts another.
    fn drop(&mut self) {
        if let Some(live) = self.live.upgrade().filter(|_| !self.has_ended) {
            live.state.lock().has_sender = false;
        }
    }
}

#[derive(Serialize)]
struct StateEvent<'a> {
    room: &'a str,
    users: &'a Users,
}

#[derive(Serialize)]
struct DiffEvent<'a> {
    room: &'a str,
    joins: &'a Users,
    updates: &'a Users,
    leaves: &'a Users,
}

/// Sends a state to a socket. Recovery does not keep it: a socket that is restored gets the state anew.
fn emit_state(
    hub: &Hub,
    namespace: &NamespaceName,
    event: &str,
    to: &SocketId,
    state: StateEvent<'_>,
) {
    let namespace = hub.find(namespace);
    let Some(member) = namespace.and_then(|namespace| namespace.find(to)) else {
        return;
    };
    match Payload::event(event, member.namespace.name.len(), Data(state)) {
        Ok(payload) => member.emit_volatile(payload),
        Err(error) => tracing::error!(%error, event, "a presence was not sent"),
    }
}

/// Sends an event to sockets of this server.
fn emit(hub: &Hub, namespace: &NamespaceName, event: &str, to: &Target, value: impl Serialize) {
    let Some(namespace) = hub.find(namespace) else {
        return;
    };
    match Payload::event(event, namespace.name.len(), Data(value)) {
        Ok(payload) => {
            let operation = Operation::Emit {
                payload,
                volatile: false,
            };
            // It is sent to no other server, so it does not fail.
            let _ = namespace.act(to, operation, true, None);
        }
        Err(error) => tracing::error!(%error, event, "a presence was not sent"),
    }
}
