//! The messages of other servers.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::Inner;
use crate::cluster::command::Command;
use crate::cluster::message::{Envelope, Message, RequestId, ServerId};
use crate::guard::{guarded, guarded_future};
use crate::handles::{AskedClients, Socket};
use crate::hub::namespace::LiveNamespace;
use crate::hub::other_servers::{Answer, Question, SocketDescription};
use crate::hub::recovery::{LOG_TIMEOUT, PrivateId};
use crate::hub::selection::Target;
use crate::protocol::{NamespaceName, Payload};

/// The number of server events of a namespace that may wait for their handlers.
const MAX_SERVER_EVENTS: usize = 1024;

/// An event of another server.
pub(super) struct ServerEvent {
    payload: Payload,
    /// The question, and the server that waits for the reply.
    question: Option<(RequestId, ServerId)>,
}

impl Inner {
    /// Handles a message of another server.
    pub(in crate::cluster) fn deliver(self: &Arc<Self>, envelope: Envelope) {
        let Envelope {
            from,
            namespace,
            message,
            ..
        } = envelope;
        if from == self.id {
            return;
        }
        self.counters.received();
        if let Message::Answer(id, answer) = message {
            let known = (!from.is_empty()).then_some(&from);
            if self.requests.lock().answer(&id, known, answer).is_err() {
                self.counters.malformed(&"an answer to no open question");
            }
            return;
        }
        if let Message::End(id) = &message {
            let waiting = self.asked.lock().remove(id);
            if let Some(waiting) = waiting {
                waiting.abort();
            }
            return;
        }
        if let Message::Displaced(id, at) = &message {
            if let Some(live) = self.namespace(&namespace) {
                live.displaced(id, *at);
            }
            return;
        }
        let Some(live) = self.namespace(&namespace) else {
            self.answer_without_clients(&namespace, from, message);
            return;
        };
        match message {
            Message::Operation(target, operation) => live.apply(&target, operation),
            Message::ServerEvent(payload) => self.handle_server_event(
                &live,
                ServerEvent {
                    payload,
                    question: None,
                },
            ),
            Message::Question(id, Question::ServerEvent(payload)) => {
                let question = Some((id, from));
                self.handle_server_event(&live, ServerEvent { payload, question });
            }
            Message::Question(id, Question::Sockets(target)) => {
                let sockets = describe(&live, &target);
                self.answer(&namespace, id, from, Answer::Sockets(sockets));
            }
            Message::Question(id, Question::Ids(target)) => {
                let ids = ids(&live, &target);
                self.answer(&namespace, id, from, Answer::Ids(ids));
            }
            Message::Question(id, Question::Rooms) => {
                let mut rooms = ids(&live, &Target::default());
                let names = live.rooms_among(&Target::default());
                rooms.extend(names.iter().map(|room| room.as_ref().to_owned()));
                self.answer(&namespace, id, from, Answer::Rooms(rooms));
            }
            Message::Question(id, Question::Operation(target, operation)) => {
                // The server that has the socket answers.
                let selected = live.select(&target).iter().next().is_some();
                live.apply(&target, operation);
                if selected {
                    self.answer(&namespace, id, from, Answer::Done);
                }
            }
            Message::Question(id, Question::Event(target, payload, timeout)) => {
                self.ask_clients(&live, &target, payload, timeout, (id, from));
            }
            Message::Question(id, Question::HandOver(private_id)) => {
                self.hand_over(live, private_id, id, from);
            }
            // They are handled above.
            Message::Answer(..) | Message::End(_) | Message::Displaced(..) => {}
        }
    }

    /// Answers a question in a namespace that does not exist in this process: a question of this server
    /// keeps it open, or the broker has not closed it yet. The server counts as one of the namespace.
    fn answer_without_clients(&self, namespace: &NamespaceName, from: ServerId, message: Message) {
        let Message::Question(id, question) = message else {
            return;
        };
        let answer = match question {
            Question::Sockets(_) => Answer::Sockets(Vec::new()),
            Question::Event(..) => Answer::Clients(0),
            Question::Ids(_) => Answer::Ids(Vec::new()),
            Question::Rooms => Answer::Rooms(Vec::new()),
            Question::HandOver(_) => Answer::HandedOver(false),
            Question::ServerEvent(_) | Question::Operation(..) => return,
        };
        self.answer(namespace, id, from, answer);
    }

    fn answer(&self, namespace: &NamespaceName, id: RequestId, to: ServerId, answer: Answer) {
        let envelope = self.envelope(namespace, Message::Answer(id, answer));
        if envelope.cost() > self.limits.message {
            // The server that has asked says that this one has not answered.
            self.counters.dropped();
            return;
        }
        self.push(Command::Answer { to, envelope });
    }

    /// Lets a socket go whose client has come back elsewhere, and answers when it is saved.
    fn hand_over(
        self: &Arc<Self>,
        namespace: Arc<LiveNamespace>,
        private_id: PrivateId,
        id: RequestId,
        from: ServerId,
    ) {
        let name = namespace.name.clone();
        let Some(socket) = namespace.hand_over(&private_id) else {
            return self.answer(&name, id, from, Answer::HandedOver(false));
        };
        let inner = Arc::clone(self);
        self.runtime.spawn(async move {
            // The other server does not wait longer.
            let saved = namespace.saved(&socket);
            let _ = tokio::time::timeout(LOG_TIMEOUT, saved).await;
            inner.answer(&name, id, from, Answer::HandedOver(true));
        });
    }

    /// Asks the clients of this process, and sends their number and their acknowledgements.
    fn ask_clients(
        self: &Arc<Self>,
        namespace: &Arc<LiveNamespace>,
        target: &Target,
        payload: Payload,
        timeout: Duration,
        (id, from): (RequestId, ServerId),
    ) {
        let namespaces = std::slice::from_ref(namespace);
        let mut asked = AskedClients::send(namespaces, target, payload);
        let name = namespace.name.clone();
        let clients = Answer::Clients(asked.missing());
        self.answer(
            &name,
            RequestId::clone(&id),
            ServerId::clone(&from),
            clients,
        );
        if asked.missing() == 0 {
            return;
        }
        let inner = Arc::clone(self);
        let (question, key) = (RequestId::clone(&id), RequestId::clone(&id));
        let send_acks = async move {
            while let Some((socket, answer)) = poll_fn(|cx| asked.poll_next(cx)).await {
                let answer = match answer {
                    Some(payload) => Answer::Ack(Some(socket), payload),
                    None => Answer::Left,
                };
                inner.answer(&name, RequestId::clone(&id), ServerId::clone(&from), answer);
            }
        };
        let inner = Arc::clone(self);
        let mut waiting = self.asked.lock();
        let task = self.runtime.spawn(async move {
            // An error means that the clients have not answered in time.
            let _ = tokio::time::timeout(timeout, send_acks).await;
            inner.asked.lock().remove(&question);
        });
        // The task removes it: it waits for the lock.
        waiting.insert(key, task.abort_handle());
    }

    /// Starts the handler of a server event, after those of the namespace's earlier ones.
    fn handle_server_event(self: &Arc<Self>, namespace: &Arc<LiveNamespace>, event: ServerEvent) {
        let name = event.payload.name().unwrap_or_default();
        if let Some(handler) = namespace.hooks.tracker_event(name) {
            // It does not wait, and must not be late because handlers of the application do.
            if guarded(|| handler(event.payload)).is_err() {
                tracing::error!("a server event of a presence was not handled");
            }
            return;
        }
        let mut events = self.server_events.lock();
        if let Some(waiting) = events.get_mut(&namespace.name) {
            if waiting.len() < MAX_SERVER_EVENTS {
                waiting.push_back(event);
                return;
            }
            drop(events);
            self.counters
                .malformed(&"too many server events wait for their handlers");
            return;
        }
        events.insert(namespace.name.clone(), VecDeque::from([event]));
        drop(events);
        let mut waiting = WaitingServerEvents {
            inner: Arc::clone(self),
            namespace: Arc::clone(namespace),
            has_ended: false,
        };
        self.runtime.spawn(async move {
            // The handlers start in the order of the events. One that waits, for example for another
            // server, does not hold up the next.
            while let Some(event) = waiting.next() {
                let WaitingServerEvents {
                    inner, namespace, ..
                } = &waiting;
                let running = Arc::clone(&inner.running_server_events);
                // The semaphore is never closed.
                let permit = running.acquire_owned().await;
                let (inner, namespace) = (Arc::clone(inner), Arc::clone(namespace));
                let mut handler =
                    Box::pin(async move { inner.run_server_event(&namespace, event).await });
                if poll_fn(|cx| Poll::Ready(handler.as_mut().poll(cx).is_pending())).await {
                    tokio::spawn(async move {
                        handler.await;
                        drop(permit);
                    });
                }
            }
        });
    }

    async fn run_server_event(&self, namespace: &Arc<LiveNamespace>, event: ServerEvent) {
        let ServerEvent { payload, question } = event;
        let name = payload.name().unwrap_or_default();
        let hooks = &namespace.hooks;
        let Some(handler) = hooks.server_event(name) else {
            // Without a handler there is no reply, as in Node's server.
            tracing::debug!(event = name, "no handler for this server event");
            return;
        };
        let Some(hub) = self.hub() else { return };
        let reply = match guarded(|| handler(&hub, payload)) {
            Ok(reply) => guarded_future(reply).await,
            Err(panicked) => Err(panicked),
        };
        let Ok(reply) = reply else {
            tracing::error!("a handler of a server event panicked");
            return;
        };
        if let Some((id, from)) = question {
            let answer = Answer::Reply(reply);
            self.answer(&namespace.name, id, from, answer);
        }
    }
}

/// The server events of a namespace that wait for their handlers. If the task that starts the handlers
/// is dropped, the events are dropped too, and the next event begins another task.
struct WaitingServerEvents {
    inner: Arc<Inner>,
    namespace: Arc<LiveNamespace>,
    /// Whether the task has handled all events. A later task may have events of its own.
    has_ended: bool,
}

impl WaitingServerEvents {
    fn next(&mut self) -> Option<ServerEvent> {
        let mut events = self.inner.server_events.lock();
        let waiting = events.get_mut(&self.namespace.name);
        let next = waiting.and_then(VecDeque::pop_front);
        if next.is_none() {
            events.remove(&self.namespace.name);
            self.has_ended = true;
        }
        next
    }
}

impl Drop for WaitingServerEvents {
    fn drop(&mut self) {
        if !self.has_ended {
            let mut events = self.inner.server_events.lock();
            let dropped = events.remove(&self.namespace.name);
            drop(events);
            drop(dropped);
        }
    }
}

/// Returns the descriptions of the selected sockets.
fn describe(namespace: &Arc<LiveNamespace>, target: &Target) -> Vec<SocketDescription> {
    let selected = namespace.select(target);
    let connected = selected.iter().filter(|member| member.is_connected());
    connected
        .map(|member| Socket::new(Arc::clone(member)).describe())
        .collect()
}

/// Returns the ids of the selected sockets.
fn ids(namespace: &LiveNamespace, target: &Target) -> Vec<String> {
    let selected = namespace.select(target);
    let connected = selected.iter().filter(|member| member.is_connected());
    connected
        .map(|member| member.id.as_str().to_owned())
        .collect()
}
