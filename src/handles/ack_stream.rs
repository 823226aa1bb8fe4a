//! Acknowledgements of many clients.

use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use futures_core::future::BoxFuture;
use indexmap::IndexMap;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::Sleep;

use super::AckError;
use super::ack::{AckGuard, Reason, read};
use crate::engine_io::SocketId;
use crate::engine_io::timer::finite;
use crate::hub::ClusterError;
use crate::hub::acks::{AckWaiter, ManyWaiter};
use crate::hub::hooks::OutgoingEvent;
use crate::hub::id_hash::IdHash;
use crate::hub::member::encode;
use crate::hub::namespace::LiveNamespace;
use crate::hub::other_servers::{Answer, Answers, MAX_ACK_WAIT, OtherServers, Question};
use crate::hub::selection::Target;
use crate::protocol::{Kind, NamespaceName, Payload};

/// How long a broadcast waits for its acknowledgements.
const BROADCAST_TIMEOUT: Duration = Duration::from_secs(5);

/// An event that was sent to many clients and asks each for an acknowledgement.
///
/// `.await` returns a list with one entry for each client. As a [`Stream`] it yields the entries
/// in the order in which the clients answer. The entry of a client that does not answer in time is
/// an error that [is a timeout](AckError::is_timeout). The entry of a client that leaves is one
/// that [is a disconnect](AckError::is_disconnected).
///
/// In a [cluster](crate::cluster) the clients of other servers are asked too. The id of such a
/// client is `None` if its server does not send it, as Node's server. A server that cannot be asked
/// has one entry, an error that [is unreachable](AckError::is_unreachable).
///
/// See [`Broadcast::emit_with_ack`](crate::Broadcast::emit_with_ack).
///
/// # Cancel safety
///
/// Dropping it, or its future, abandons the acknowledgements that have not arrived. The future
/// also loses those that have. As a stream it loses none between two entries.
#[must_use = "the answers are lost unless they are awaited; `emit` asks for none"]
pub struct AckStream<T> {
    here: AskedClients,
    /// The clients of other servers, by namespace.
    elsewhere: Vec<ClientsElsewhere>,
    timeout: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    reads: PhantomData<fn() -> T>,
}

impl<T> AckStream<T> {
    pub(super) fn empty() -> Self {
        Self {
            here: AskedClients::send(&[], &Target::default(), Payload::default()),
            elsewhere: Vec::new(),
            timeout: BROADCAST_TIMEOUT,
            sleep: None,
            reads: PhantomData,
        }
    }

    /// The answers to a question that was not sent.
    pub(super) fn failed(error: ClusterError) -> Self {
        Self {
            elsewhere: vec![ClientsElsewhere::new(Err(error))],
            ..Self::empty()
        }
    }

    /// Sends the event to the recipients in each of the namespaces, on all servers or only on this
    /// one if `local`. `elsewhere` is a namespace that does not exist in this process.
    pub(super) fn send(
        namespaces: &[Arc<LiveNamespace>],
        elsewhere: Option<(Arc<dyn OtherServers>, &NamespaceName)>,
        target: &Target,
        payload: Payload,
        local: bool,
    ) -> Self {
        let here = namespaces
            .iter()
            .filter_map(|namespace| Some((Arc::clone(namespace.others()?), &namespace.name)));
        let questions = here.chain(elsewhere).filter(|_| !local);
        let elsewhere = questions
            .map(|(others, name)| {
                let question = Question::Event(target.clone(), payload.clone(), MAX_ACK_WAIT);
                ClientsElsewhere::new(others.ask(name, question))
            })
            .collect();
        Self {
            here: AskedClients::send(namespaces, target, payload),
            elsewhere,
            ..Self::empty()
        }
    }

    /// Sets how long all answers together may take, from the first poll on.
    ///
    /// After that time the entry of each client that has not answered is an error that
    /// [is a timeout](AckError::is_timeout).
    ///
    /// Default: 5 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// The clients of this process that were asked for an acknowledgement. Dropping it abandons those
/// that have not arrived.
pub(crate) struct AskedClients {
    answers: mpsc::UnboundedReceiver<(SocketId, Option<Payload>)>,
    /// The sockets that have not answered.
    missing: IndexMap<SocketId, AckGuard, IdHash>,
}

impl AskedClients {
    /// Sends an event to the recipients in each of the namespaces.
    pub(crate) fn send(
        namespaces: &[Arc<LiveNamespace>],
        target: &Target,
        payload: Payload,
    ) -> Self {
        let (sender, answers) = mpsc::unbounded_channel();
        let mut missing = IndexMap::default();
        // `repeat_n` moves the payload into its last item.
        let payloads = std::iter::repeat_n(payload, namespaces.len());
        for (namespace, payload) in namespaces.iter().zip(payloads) {
            let ack = namespace.next_ack();
            let sent = OutgoingEvent::capture(&namespace.hooks, &payload);
            let observers = &namespace.observers;
            let observed = (!observers.is_empty()).then(|| payload.clone());
            let mut recipients = 0;
            let packet = encode(namespace, Kind::Event, Some(ack), payload);
            for member in namespace.select(target).iter() {
                let waiter = ManyWaiter::new(member.id, sender.clone());
                if !member.expect_ack(ack, AckWaiter::Many(waiter)) {
                    continue;
                }
                if let Some(sent) = &sent {
                    sent.notify(member);
                }
                recipients += 1;
                if let Some(payload) = &observed {
                    observers.each_recipient(member, payload);
                }
                member.send(packet.clone());
                let member = Arc::clone(member);
                missing.insert(member.id, AckGuard { member, ack });
            }
            if let Some(payload) = &observed {
                observers.each(|observer| observer.broadcast(namespace, recipients, payload));
            }
        }
        Self { answers, missing }
    }

    /// Returns the number of clients that have not answered.
    pub(crate) fn missing(&self) -> usize {
        self.missing.len()
    }

    /// Returns the next acknowledgement, or `None` in its place if the client has left. The result
    /// is `None` if each client has answered or left.
    pub(crate) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<(SocketId, Option<Payload>)>> {
        if self.missing.is_empty() {
            return Poll::Ready(None);
        }
        // A socket that was not connected when the event was sent reports that it will not answer,
        // and is not in `missing`.
        while let Some((id, payload)) = std::task::ready!(self.answers.poll_recv(cx)) {
            if self.missing.swap_remove(&id).is_some() {
                return Poll::Ready(Some((id, payload)));
            }
        }
        Poll::Ready(None)
    }
}

/// The id of a socket, if its server has sent it, and its answer.
type Acknowledgement = (Option<SocketId>, Result<Payload, AckError>);

/// The clients of other servers that were asked for an acknowledgement, in one namespace.
struct ClientsElsewhere {
    answers: Option<Answers>,
    /// The clients that the other servers have asked and that have not answered. It is negative if
    /// an answer came before its server's number of clients.
    missing: i64,
    /// The servers that have not said how many clients they have asked.
    unreachable: usize,
    /// Why they have not.
    reason: ClusterError,
}

impl ClientsElsewhere {
    fn new(answers: Result<Answers, ClusterError>) -> Self {
        Self {
            unreachable: answers.is_err().into(),
            reason: answers
                .as_ref()
                .err()
                .copied()
                .unwrap_or(ClusterError::UNREACHABLE),
            answers: answers.ok(),
            missing: 0,
        }
    }

    /// Returns the next acknowledgement. `None` if there are no more.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Acknowledgement>> {
        while let Some(answers) = &mut self.answers {
            match std::task::ready!(answers.poll_next(cx)) {
                Some(Answer::Clients(clients)) => self.missing += clients as i64,
                Some(Answer::Ack(id, payload)) => {
                    self.missing -= 1;
                    return Poll::Ready(Some((id, Ok(payload))));
                }
                Some(Answer::Left) => {
                    self.missing -= 1;
                    return Poll::Ready(Some((None, Err(AckError(Reason::Disconnected)))));
                }
                Some(_) => {}
                None => self.end(),
            }
        }
        Poll::Ready(self.next_error().map(|error| (None, Err(error))))
    }

    /// Ends the question. The servers that have not answered are unreachable.
    fn end(&mut self) {
        if let Some(mut answers) = self.answers.take() {
            self.unreachable += answers.end().unwrap_or(1);
        }
    }

    /// Ends the question because of its timeout.
    fn expire(&mut self) {
        if self.answers.is_some() {
            self.reason = ClusterError::TIMEOUT;
        }
        self.end();
    }

    /// Returns the error of a client or a server that has not answered. The question has ended.
    fn next_error(&mut self) -> Option<AckError> {
        if self.missing > 0 {
            self.missing -= 1;
            return Some(AckError(match self.reason {
                ClusterError::TIMEOUT => Reason::Timeout,
                reason => Reason::Cluster(reason),
            }));
        }
        self.unreachable = self.unreachable.checked_sub(1)?;
        Some(AckError(Reason::Cluster(self.reason)))
    }
}

impl<T: DeserializeOwned> Stream for AckStream<T> {
    type Item = (Option<SocketId>, Result<T, AckError>);

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let is_pending = match this.here.poll_next(cx) {
            Poll::Ready(Some((id, payload))) => {
                let answer = payload.map_or(Err(AckError(Reason::Disconnected)), read);
                return Poll::Ready(Some((Some(id), answer)));
            }
            here => here.is_pending(),
        };
        let mut at = 0;
        while let Some(clients) = this.elsewhere.get_mut(at) {
            match clients.poll_next(cx) {
                Poll::Ready(Some((id, answer))) => {
                    return Poll::Ready(Some((id, answer.and_then(read))));
                }
                Poll::Ready(None) => drop(this.elsewhere.swap_remove(at)),
                Poll::Pending => at += 1,
            }
        }
        if !is_pending && this.elsewhere.is_empty() {
            return Poll::Ready(None);
        }
        let timeout = finite(this.timeout);
        let sleep = this
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        std::task::ready!(sleep.as_mut().poll(cx));
        if let Some((id, _)) = this.here.missing.pop() {
            return Poll::Ready(Some((Some(id), Err(AckError(Reason::Timeout)))));
        }
        while let Some(clients) = this.elsewhere.last_mut() {
            clients.expire();
            if let Some(error) = clients.next_error() {
                return Poll::Ready(Some((None, Err(error))));
            }
            this.elsewhere.pop();
        }
        Poll::Ready(None)
    }
}

impl<T: DeserializeOwned + Send + 'static> IntoFuture for AckStream<T> {
    type Output = Vec<(Option<SocketId>, Result<T, AckError>)>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(mut self) -> Self::IntoFuture {
        Box::pin(async move {
            let mut all = Vec::with_capacity(self.here.missing());
            let next = |stream: &mut Self, cx: &mut Context<'_>| Pin::new(stream).poll_next(cx);
            while let Some(answer) = std::future::poll_fn(|cx| next(&mut self, cx)).await {
                all.push(answer);
            }
            all
        })
    }
}

impl<T> fmt::Debug for AckStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AckStream")
            .field("missing", &self.here.missing())
            .finish_non_exhaustive()
    }
}
