//! Broadcasts: operations on many sockets at once.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::cluster::{Confirmation, Missing, Partial, REQUEST_TIMEOUT};
use super::scope::Scope;
use super::socket::EmitErrorKind;
use super::{AckError, AckStream, EmitError, EmitWithAck, RemoteSocket, Socket};
use crate::hub::ClusterError;
use crate::hub::namespace::LiveNamespace;
use crate::hub::other_servers::{Answer, Answers, Here, MAX_ACK_WAIT, Operation, Question};
use crate::hub::selection::Target;
use crate::protocol::{IntoArgs, Payload, TypedArgs, TypedEvent};
use crate::sync::oneshot;

/// A set of sockets, in one namespace or in several, and the operations on it.
///
/// A `Broadcast` holds a target: the rooms that it includes and the rooms that it excludes. Each
/// operation selects the sockets anew. A target without a room selects all sockets of the
/// namespace. A socket that is in several of the rooms receives one copy. An event is encoded once
/// for all recipients in a namespace.
///
/// [`SocketIo`](crate::SocketIo) and [`Socket`] create broadcasts.
///
/// ```
/// # fn f(socket: tower_socketio::Socket, io: tower_socketio::SocketIo) {
/// socket.to("room").emit("said", "to the others in it");
/// io.to("a").to("b").except("c").emit("said", "to a and b, but not to those in c");
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a broadcast does nothing until something is emitted"]
pub struct Broadcast {
    scope: Scope,
    target: Target,
    volatile: bool,
    local: bool,
}

impl Broadcast {
    pub(super) fn new(scope: Scope) -> Self {
        Self {
            scope,
            target: Target::default(),
            volatile: false,
            local: false,
        }
    }

    /// Adds the sockets in a room.
    ///
    /// The id of a socket is a room with only that socket in it.
    ///
    /// ```
    /// use tower_socketio::{Data, Namespace, Socket};
    ///
    /// /// Sends a private message to the socket with the given id.
    /// async fn whisper(socket: Socket, Data((id, text)): Data<(String, String)>) {
    ///     socket.to(id).emit("whisper", text);
    /// }
    ///
    /// let namespace: Namespace = Namespace::new().on("whisper", whisper);
    /// ```
    pub fn to(mut self, room: impl AsRef<str>) -> Self {
        self.target.rooms.push(room.as_ref().into());
        self
    }

    /// Excludes the sockets in a room.
    pub fn except(mut self, room: impl AsRef<str>) -> Self {
        self.target.except.push(room.as_ref().into());
        self
    }

    /// Makes the event volatile: it is dropped for each client that is not ready to receive it.
    ///
    /// A client is not ready while it connects, or while other packets are queued for it. Only
    /// [`emit`](Self::emit), [`try_emit`](Self::try_emit) and [`send`](Self::send) send volatile events.
    pub fn volatile(mut self) -> Self {
        self.volatile = true;
        self
    }

    /// Selects only the sockets that are connected to this process, and not those of the other
    /// servers of the cluster.
    ///
    /// Without a [cluster](crate::cluster) this has no effect. If its broker has a
    /// [log](crate::cluster::Broker::has_log), [recovery](crate::Recovery) does not keep the event.
    pub fn local(mut self) -> Self {
        self.local = true;
        self
    }

    /// Sends an event to the selected sockets.
    ///
    /// The call never waits. [`Socket::emit`] describes the arguments, and the behavior if a client
    /// has left or does not read fast enough. Arguments that cannot be written as JSON are logged
    /// as an error.
    ///
    /// ```
    /// # fn f(io: tower_socketio::SocketIo) {
    /// use tower_socketio::Args;
    ///
    /// io.of("/chat").emit("notice", "the server restarts at 8 pm");
    /// io.to("players").emit("score", Args(("ada", 42)));
    /// # }
    /// ```
    pub fn emit(&self, event: &str, args: impl IntoArgs) {
        let confirms = None;
        if let Err(EmitError(EmitErrorKind::Encode(error))) = self.send_event(event, args, confirms)
        {
            tracing::error!(%error, event, "not emitted");
        }
    }

    /// Sends an event to the selected sockets, and returns an error if it was not queued for the
    /// other servers of the cluster.
    ///
    /// `.await` on the [`Confirmation`] waits until the broker has the message. The sockets of this
    /// process get the event in any case, unless it cannot be written.
    ///
    /// ```
    /// # async fn f(io: tower_socketio::SocketIo) -> Result<(), Box<dyn std::error::Error>> {
    /// io.to("room").try_emit("price", 42)?.await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Fails if the arguments cannot be written as JSON, if the name of the event is reserved, if the
    /// message is too long for the broker, or if the server has ended. A volatile event is not sent
    /// while the broker is not connected, which is no error.
    pub fn try_emit(&self, event: &str, args: impl IntoArgs) -> Result<Confirmation, EmitError> {
        let mut confirms = Vec::new();
        self.send_event(event, args, Some(&mut confirms))?;
        Ok(Confirmation { confirms })
    }

    fn send_event(
        &self,
        event: &str,
        args: impl IntoArgs,
        mut confirms: Option<&mut Vec<oneshot::Receiver<Result<(), ClusterError>>>>,
    ) -> Result<(), EmitError> {
        let mut confirm = move || {
            let confirms = confirms.as_mut()?;
            let (sender, receiver) = oneshot::channel();
            confirms.push(receiver);
            Some(sender)
        };
        let not_sent = |error| EmitError(EmitErrorKind::Cluster(error));
        if self.scope.is_gone() {
            return Err(not_sent(ClusterError::CLOSED));
        }
        self.scope.with(|namespaces| {
            let Some(payload) = self.encode_event(namespaces, event, args)? else {
                return Ok(());
            };
            record(namespaces, &payload);
            let volatile = self.volatile;
            let mut sent = Ok(());
            if namespaces.is_empty() {
                if let Some((others, name)) = self.scope.elsewhere().filter(|_| !self.local) {
                    let operation = Operation::Emit { payload, volatile };
                    let confirm = confirm();
                    let result = others.send(name, &self.target, &operation, confirm, Here::Absent);
                    sent = result.map(|sent| drop(sent.dropped));
                }
                return sent.map_err(not_sent);
            }
            // `repeat_n` moves the payload into its last item.
            let payloads = std::iter::repeat_n(payload, namespaces.len());
            for (namespace, payload) in namespaces.iter().zip(payloads) {
                let operation = Operation::Emit { payload, volatile };
                sent = sent.and(namespace.act(&self.target, operation, self.local, confirm()));
            }
            sent.map_err(not_sent)
        })
    }

    /// Writes an event. Returns `None` if there is no namespace to send it to.
    fn encode_event(
        &self,
        namespaces: &[Arc<LiveNamespace>],
        event: &str,
        args: impl IntoArgs,
    ) -> Result<Option<Payload>, EmitError> {
        let longest = namespaces
            .iter()
            .map(|namespace| namespace.name.len())
            .max();
        let elsewhere = || Some(self.scope.elsewhere()?.1.len());
        let Some(longest) = longest.or_else(elsewhere) else {
            return Ok(None);
        };
        let payload = Payload::event(event, longest, args);
        let payload = payload.map_err(|error| EmitError(EmitErrorKind::Encode(error)))?;
        Ok(Some(payload))
    }

    /// Sends a typed event to the selected sockets. [`TypedEvent::NAME`] is its name.
    pub fn send<E: TypedEvent>(&self, event: E) {
        self.emit(E::NAME, TypedArgs(event));
    }

    /// Sends an event that asks each of the selected sockets for an acknowledgement.
    ///
    /// The event is sent at once. `.await` returns one entry for each socket: its id, and its
    /// answer or an error. The wait ends after at most 5 seconds, unless
    /// [`timeout`](AckStream::timeout) sets another time. [`AckStream`] is also a stream of the
    /// entries.
    ///
    /// Sockets that are still connecting are not asked. If the arguments cannot be written as JSON, or the
    /// name of the event is reserved, no socket is asked, the error is logged, and there are no entries.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_socketio::{AckStream, SocketIo};
    ///
    /// async fn vote(io: SocketIo) -> usize {
    ///     let question: AckStream<bool> = io.to("voters").emit_with_ack("vote", "tea?");
    ///     let answers = question.timeout(Duration::from_secs(30)).await;
    ///     answers.iter().filter(|(_, answer)| matches!(answer, Ok(true))).count()
    /// }
    /// ```
    pub fn emit_with_ack<T>(&self, event: &str, args: impl IntoArgs) -> AckStream<T> {
        if self.scope.is_gone() {
            return AckStream::failed(ClusterError::CLOSED);
        }
        self.scope.with(|namespaces| {
            let payload = match self.encode_event(namespaces, event, args) {
                Ok(Some(payload)) => payload,
                Ok(None) => return AckStream::empty(),
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::error!(error, event, "not emitted");
                    return AckStream::empty();
                }
            };
            record(namespaces, &payload);
            let elsewhere = self.scope.elsewhere().filter(|_| namespaces.is_empty());
            AckStream::send(namespaces, elsewhere, &self.target, payload, self.local)
        })
    }

    /// Sends an event to one socket of another server, and waits for its acknowledgement.
    pub(super) fn ask_one<T>(&self, event: &str, args: impl IntoArgs) -> EmitWithAck<T> {
        let answers = self.scope.with(|namespaces| {
            let not_sent = |error| AckError::from(EmitError(EmitErrorKind::Cluster(error)));
            let payload = self.encode_event(namespaces, event, args)?;
            let payload = payload.ok_or_else(|| not_sent(ClusterError::ALONE))?;
            record(namespaces, &payload);
            let question = || Question::Event(self.target.clone(), payload.clone(), MAX_ACK_WAIT);
            let mut questions = self.ask(question).into_iter();
            let (_, answers) = questions
                .next()
                .ok_or_else(|| not_sent(ClusterError::ALONE))?;
            answers.map_err(not_sent)
        });
        EmitWithAck::elsewhere(answers)
    }

    /// Returns the number of the selected sockets of this process that are connected.
    #[must_use]
    pub fn socket_count(&self) -> usize {
        self.scope.with(|namespaces| {
            let count = |namespace: &Arc<LiveNamespace>| {
                let selected = namespace.select(&self.target);
                selected
                    .iter()
                    .filter(|member| member.is_connected())
                    .count()
            };
            namespaces.iter().map(count).sum()
        })
    }

    /// Returns the selected sockets of this process that are connected.
    #[must_use]
    pub fn sockets(&self) -> Vec<Socket> {
        self.scope.with(|namespaces| {
            let mut sockets = Vec::new();
            for namespace in namespaces {
                let selected = namespace.select(&self.target);
                let connected = selected.iter().filter(|member| member.is_connected());
                sockets.extend(connected.map(|member| Socket::new(Arc::clone(member))));
            }
            sockets
        })
    }

    /// Returns a snapshot of the selected sockets that are connected, on all servers of the cluster.
    ///
    /// The wait for other servers ends after at most 5 seconds. A server without a cluster does not
    /// wait.
    ///
    /// ```
    /// # async fn f(io: tower_socketio::SocketIo) -> Result<(), tower_socketio::ClusterError> {
    /// use tower_socketio::Partial;
    ///
    /// let all = io.to("room").fetch_sockets().await?;
    /// // The sockets that are known, even if a server is silent:
    /// let some = io.fetch_sockets().await.unwrap_or_else(Partial::into_got);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the sockets of the servers that have answered, if the broker is not connected or
    /// another server does not answer in time.
    pub async fn fetch_sockets(&self) -> Result<Vec<RemoteSocket>, Partial<Vec<RemoteSocket>>> {
        // The other servers answer while this one collects its own sockets.
        let questions = self.ask(|| Question::Sockets(self.target.clone()));
        let mut sockets: Vec<_> = self.sockets().into_iter().map(RemoteSocket::of).collect();
        let mut missing = Missing::default();
        if self.scope.is_gone() {
            missing.fail(ClusterError::CLOSED);
        }
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        for (scope, answers) in questions {
            missing
                .collect(answers, deadline, |answer| {
                    if let Answer::Sockets(described) = answer {
                        let scope = || scope.clone();
                        let remote = described.into_iter();
                        sockets.extend(remote.map(|each| RemoteSocket::described(scope(), each)));
                    }
                })
                .await;
        }
        missing.or(sockets)
    }

    /// Sends a question to the other servers, for each namespace of the scope.
    fn ask(&self, question: impl Fn() -> Question) -> Vec<(Scope, Result<Answers, ClusterError>)> {
        if self.local {
            return Vec::new();
        }
        self.scope.with(|namespaces| {
            let here = namespaces.iter().filter_map(|namespace| {
                let answers = namespace.others()?.ask(&namespace.name, question());
                let scope = Scope::Named(namespace.weak_hub(), namespace.name.clone());
                Some((scope, answers))
            });
            let elsewhere = self.scope.elsewhere().filter(|_| namespaces.is_empty());
            let elsewhere =
                elsewhere.map(|(others, name)| (self.scope.clone(), others.ask(name, question())));
            here.chain(elsewhere).collect()
        })
    }

    /// Returns the names of the rooms that the selected sockets are in, sorted. The rooms that are
    /// named by a socket's id are left out.
    ///
    /// Without a target room these are all rooms of the namespace.
    #[must_use]
    pub fn rooms(&self) -> Vec<String> {
        let mut rooms: Vec<Arc<str>> = self.scope.with(|namespaces| {
            let of = |namespace: &Arc<LiveNamespace>| namespace.rooms_among(&self.target);
            namespaces.iter().flat_map(of).collect()
        });
        rooms.sort_unstable();
        rooms.dedup();
        rooms.iter().map(|room| room.as_ref().to_owned()).collect()
    }

    /// Sends an event to the other servers of the cluster. Clients do not receive it. The target is
    /// ignored.
    ///
    /// [`Namespace::on_server_event`](crate::Namespace::on_server_event) handles it there. This
    /// server does not handle its own event.
    ///
    /// # Errors
    ///
    /// Fails if there is no cluster, if the arguments cannot be written as JSON, if the name of the event
    /// is reserved, if the message is too long for the broker, or if the server has ended. Without a
    /// cluster it does nothing for a namespace that does not exist, which is no error.
    pub fn server_side_emit(&self, event: &str, args: impl IntoArgs) -> Result<(), EmitError> {
        let gone = self.scope.is_gone();
        self.scope.with(|namespaces| {
            let mut sent = Err(match gone {
                true => ClusterError::CLOSED,
                false => ClusterError::ALONE,
            });
            let not_sent = |error| EmitError(EmitErrorKind::Cluster(error));
            let Some(payload) = self.encode_event(namespaces, event, args)? else {
                return match gone {
                    true => sent.map_err(not_sent),
                    false => Ok(()),
                };
            };
            if let Some((others, name)) = self.scope.elsewhere().filter(|_| namespaces.is_empty()) {
                sent = others.send_server_event(name, payload);
            } else {
                for namespace in namespaces {
                    if let Some(others) = namespace.others() {
                        let one = others.send_server_event(&namespace.name, payload.clone());
                        // The error of any namespace.
                        sent = if sent == Err(ClusterError::ALONE) {
                            one
                        } else {
                            sent.and(one)
                        };
                    }
                }
            }
            sent.map_err(not_sent)
        })
    }

    /// Sends an event to the other servers of the cluster, and returns the answer of each: the
    /// reply of its [handler](crate::Namespace::on_server_event).
    ///
    /// The wait ends after at most 5 seconds.
    ///
    /// ```
    /// # async fn f(io: tower_socketio::SocketIo) -> Result<(), tower_socketio::ClusterError> {
    /// let loads: Vec<f64> = io.of("/").server_side_emit_with_ack("load", ()).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the answers that have arrived, if there is no cluster, if the broker is not
    /// connected, or if a server does not answer in time. An answer that is not a `T` counts as
    /// missing. Arguments that cannot be written as JSON are logged as an error, and no server is
    /// asked.
    pub async fn server_side_emit_with_ack<T: DeserializeOwned>(
        &self,
        event: &str,
        args: impl IntoArgs,
    ) -> Result<Vec<T>, Partial<Vec<T>>> {
        let payload = self
            .scope
            .with(|namespaces| self.encode_event(namespaces, event, args));
        let mut missing = Missing::default();
        let mut replies = Vec::new();
        let questions = match payload {
            Ok(Some(payload)) => self.ask(|| Question::ServerEvent(payload.clone())),
            Ok(None) => Vec::new(),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, event, "not emitted");
                Vec::new()
            }
        };
        if questions.is_empty() {
            missing.fail(match self.scope.is_gone() {
                true => ClusterError::CLOSED,
                false => ClusterError::ALONE,
            });
        }
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        for (_, answers) in questions {
            let mut unread = 0;
            missing
                .collect(answers, deadline, |answer| {
                    if let Answer::Reply(mut payload) = answer {
                        match payload.read_one() {
                            Ok(reply) => replies.push(reply),
                            Err(_) => unread += 1,
                        }
                    }
                })
                .await;
            missing.servers += unread;
        }
        missing.or(replies)
    }

    /// Makes the selected sockets join a room. See [`Socket::join`].
    pub fn join(&self, room: impl AsRef<str>) {
        self.act(&Operation::Join(vec![room.as_ref().into()]));
    }

    /// Makes the selected sockets leave a room.
    pub fn leave(&self, room: impl AsRef<str>) {
        self.act(&Operation::Leave(vec![room.as_ref().into()]));
    }

    /// Disconnects the selected sockets from their namespace. See [`Socket::disconnect`].
    pub fn disconnect(&self) {
        self.act(&Operation::Disconnect { close: false });
    }

    /// Disconnects the clients of the selected sockets from all namespaces, and closes their
    /// connections. See [`Socket::close`].
    pub fn close(&self) {
        self.act(&Operation::Disconnect { close: true });
    }

    /// Does an operation on the selected sockets. The cluster counts and logs dropped messages.
    fn act(&self, operation: &Operation) {
        self.scope.with(|namespaces| {
            for namespace in namespaces {
                let _ = namespace.act(&self.target, operation.clone(), self.local, None);
            }
            let elsewhere = || self.scope.elsewhere().filter(|_| !self.local);
            if let Some((others, name)) = namespaces.is_empty().then(elsewhere).flatten() {
                let _ = others.send(name, &self.target, operation, None, Here::Absent);
            }
        });
    }
}

/// Shows an event for clients to the test that watches what is sent, if there is one.
#[inline]
fn record(namespaces: &[Arc<LiveNamespace>], payload: &Payload) {
    for namespace in namespaces {
        namespace.hooks.emitted.record(payload);
    }
}

impl Socket {
    /// Selects the sockets in a room, except for this one.
    ///
    /// ```
    /// use tower_socketio::{Args, Namespace, Socket};
    ///
    /// async fn say(socket: Socket, Args((room, text)): Args<(String, String)>) {
    ///     socket.to(room).emit("said", text);
    /// }
    ///
    /// let namespace: Namespace = Namespace::new().on("say", say);
    /// ```
    pub fn to(&self, room: impl AsRef<str>) -> Broadcast {
        self.broadcast().to(room)
    }

    /// Selects all sockets of the namespace, except for those in a room and this one.
    pub fn except(&self, room: impl AsRef<str>) -> Broadcast {
        self.broadcast().except(room)
    }

    /// Selects all sockets of the namespace, except for this one.
    pub fn broadcast(&self) -> Broadcast {
        self.everyone().except(self.id())
    }

    /// Selects all sockets of the namespace, including this one.
    pub fn everyone(&self) -> Broadcast {
        Broadcast::new(Scope::Here(Arc::clone(&self.member.namespace)))
    }
}
