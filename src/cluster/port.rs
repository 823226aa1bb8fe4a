//! The two ends of a broker: its commands, and the receiver of its messages.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::command::{Command, QueueState};
use super::inner::Inner;
use super::message::Envelope;
#[cfg(feature = "redis")]
use super::message::Message;
use crate::clock::now;
use crate::guard::guarded;
use crate::hub::recovery::Offset;
use crate::sync::atomic::Ordering;

/// The nanoseconds that deliveries, which are synchronous, take before other tasks run.
const TURN: u64 = 1_000_000;

/// The commands for a [`Broker`](super::Broker).
///
/// Messages, questions and answers come in the order in which the server has sent them. The namespaces
/// and the rooms that are to be opened or closed come before them, then the counts and reports: see
/// [`Command`].
///
/// The server does not hold commands back while the broker is not connected. A message that the broker
/// takes then is neither counted nor bounded any longer.
#[derive(Debug)]
pub struct Port {
    pub(super) inner: Arc<Inner>,
}

impl Port {
    /// Returns the next command, and waits for it. Returns `None` when the server has shut down and no
    /// command is left: what is open then is not closed by commands.
    ///
    /// A server shuts down by [`SocketIo::close`](crate::SocketIo::close), and when it is dropped: its
    /// layer, the services that were made of the layer, and the connections of its clients. A
    /// [`SocketIo`](crate::SocketIo) does not keep it alive.
    ///
    /// # Cancel safety
    ///
    /// This is cancel safe: no command is lost.
    pub async fn next(&mut self) -> Option<Command> {
        loop {
            // Both under one lock: a command may be queued just before the server shuts down.
            let (command, state) = {
                let mut queue = self.inner.queue.lock();
                (queue.pop(), queue.state)
            };
            if command.is_some() || state != QueueState::Open {
                return command;
            }
            self.inner.command_ready.notified().await;
        }
    }

    /// Returns the next command if there is one, for a broker that writes several together. `None` does
    /// not say whether the server has shut down.
    pub fn try_next(&mut self) -> Option<Command> {
        self.inner.queue.lock().pop()
    }

    /// Waits until the server shuts down, for a broker that cannot connect.
    ///
    /// # Cancel safety
    ///
    /// This is cancel safe.
    pub async fn closed(&mut self) {
        while self.inner.queue.lock().state == QueueState::Open {
            self.inner.command_ready.notified().await;
        }
        // The permit is for `next`, too.
        self.inner.command_ready.notify_one();
    }

    /// Returns the receiver of the messages of other servers.
    #[must_use]
    pub fn inbox(&self) -> Inbox {
        Inbox {
            inner: Arc::clone(&self.inner),
        }
    }

    /// Returns how long clients may be away, if recovery is on and the broker
    /// [has a log](super::Broker::has_log).
    #[must_use]
    pub fn log_window(&self) -> Option<Duration> {
        self.inner.log_window
    }

    /// Returns the id of this server.
    #[must_use]
    pub fn server_id(&self) -> &str {
        &self.inner.id
    }
}

/// The receiver of the messages of other servers, and of the state of the connection.
#[derive(Clone, Debug)]
pub struct Inbox {
    pub(super) inner: Arc<Inner>,
}

impl Inbox {
    /// Returns whether a message answers an open question of this server.
    #[cfg(feature = "redis")]
    pub(super) fn expects(&self, envelope: &Envelope) -> bool {
        match &envelope.message {
            Message::Answer(id, _) => self.inner.requests.lock().is_open(id),
            _ => false,
        }
    }

    /// Reports that the broker is connected: messages arrive, and are sent. Call [`gap`](Self::gap)
    /// before it.
    pub fn connected(&self) {
        self.inner.set_connected();
    }

    /// Reports that the connection has ended. Open questions fail.
    pub fn disconnected(&self, reason: &dyn fmt::Display) {
        self.inner.set_disconnected(reason);
    }

    /// Reports that messages of other servers may have been lost.
    ///
    /// After an outage it is called before [`connected`](Self::connected): a task that waits for
    /// [`ClusterStatus::is_connected`](super::ClusterStatus::is_connected) then reads the counted gap.
    pub fn gap(&self, reason: &dyn fmt::Display) {
        self.inner.counters.gap();
        tracing::error!(
            target: "tower_socketio::cluster",
            %reason,
            "messages of other servers may have been lost"
        );
    }

    /// Reports a message that could not be read.
    pub fn malformed(&self, reason: &dyn fmt::Display) {
        self.inner.counters.malformed(reason);
    }

    /// Returns whether a message for a room may concern a socket of this process: one is in the room,
    /// has it as its id, or is suspended.
    #[must_use]
    pub fn has_room(&self, namespace: &str, room: &str) -> bool {
        self.inner
            .namespace(namespace)
            .is_some_and(|namespace| namespace.has_room(room))
    }

    /// Delivers a message of another server. Messages must be delivered one at a time, in the order
    /// in which they were sent.
    ///
    /// A message of this server itself is ignored, and so is one for a namespace that this server has
    /// not opened. It may be called before [`connected`](Self::connected).
    pub async fn deliver(&self, envelope: Envelope) {
        self.in_turns(|inner| inner.deliver(envelope)).await;
    }

    /// Delivers a message of another server that a broker with a [log](super::Broker::has_log) has read
    /// there, in place of [`deliver`](Self::deliver). Offsets rise.
    ///
    /// It is also for namespaces that this server has not opened: a client may come back to one. Without
    /// recovery it does the same as `deliver`.
    pub async fn deliver_at(&self, envelope: Envelope, at: Offset) {
        self.in_turns(|inner| inner.deliver_at(envelope, at)).await;
    }

    /// Reports that a message of this server was read in the log. `number` is its
    /// [`Envelope::number`]. Its clients get the event now.
    pub async fn returned(&self, namespace: &str, number: u64, at: Offset) {
        self.in_turns(|inner| inner.returned(namespace, number, at))
            .await;
    }

    /// Reports an entry of the log that is no message, or one that cannot be read.
    pub fn skip(&self, at: Offset) {
        self.inner.returned("", 0, at);
    }

    /// Keeps a message that came into the log before this server has begun to read it, for clients that
    /// come back.
    pub async fn keep_at(&self, envelope: Envelope, at: Offset) {
        self.in_turns(|inner| inner.keep_at(envelope, at)).await;
    }

    /// Does some of the work of the broker's task, and lets other tasks run when it has taken [`TURN`]
    /// since the last time.
    async fn in_turns(&self, work: impl FnOnce(&Arc<Inner>)) {
        let begin = now();
        if guarded(|| work(&self.inner)).is_err() {
            // For example a parser that encodes an event.
            tracing::error!("code of the application panicked, and a message was not delivered");
        }
        let took = now().saturating_duration_since(begin);
        let took = u64::try_from(took.as_nanos()).unwrap_or(TURN);
        let turn = &self.inner.turn;
        if turn.fetch_add(took, Ordering::Relaxed).saturating_add(took) < TURN {
            return tokio::task::coop::consume_budget().await;
        }
        turn.store(0, Ordering::Relaxed);
        // Also the worker looks at its input and output, and its timers.
        tokio::task::yield_now().await;
    }

    /// Reports that the log is complete after this entry: all later ones will be delivered or kept. Up to
    /// it, entries may be missing. A broker calls it before the first entry, and after a gap.
    /// Clients that may have missed an unknown entry do not recover. A message of this server that has not
    /// [returned](Self::returned) is waited for until a later one returns.
    pub fn begin_log(&self, at: Offset) {
        self.inner.begin_log(at);
    }
}
