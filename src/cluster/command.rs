//! The commands of a server to its broker, and their queue.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use super::counters::Counters;
use super::message::Envelope;
use crate::hub::ClusterError;
use crate::hub::other_servers::Confirm;
use crate::protocol::NamespaceName;

/// What a server wants its [`Broker`](super::Broker) to do.
#[derive(Debug)]
#[non_exhaustive]
pub enum Command {
    /// Receive the messages of a namespace, and count as one of its servers.
    Open {
        /// The namespace.
        namespace: NamespaceName,
    },
    /// Do not receive the messages of a namespace any longer.
    Close {
        /// The namespace.
        namespace: NamespaceName,
    },
    /// Send a message to all other servers of its namespace.
    Publish {
        /// The message.
        envelope: Envelope,
        /// Takes the result.
        done: Done,
    },
    /// Count the servers of a namespace, and send a question to all others.
    ///
    /// A broker that can do both at one moment should. If not, it counts first.
    Ask {
        /// The question.
        envelope: Envelope,
        /// Takes the count.
        expect: Expect,
    },
    /// Send an answer to the server that has asked.
    Answer {
        /// The id of that server.
        to: Arc<str>,
        /// The answer.
        envelope: Envelope,
    },
    /// Count the servers of a namespace.
    Count {
        /// The namespace.
        namespace: NamespaceName,
        /// Takes the count.
        expect: Expect,
    },
}

impl Command {
    fn cost(&self) -> usize {
        let envelope = match self {
            Self::Publish { envelope, .. }
            | Self::Ask { envelope, .. }
            | Self::Answer { envelope, .. } => envelope.cost(),
            Self::Open { .. } | Self::Close { .. } | Self::Count { .. } => 0,
        };
        size_of::<Self>() + envelope
    }
}

/// Takes the result of a [`Command::Publish`]. If it is dropped, the message counts as unconfirmed.
#[must_use = "a message counts as unconfirmed unless its result is reported"]
pub struct Done {
    counters: Arc<Counters>,
    confirm: Option<Confirm>,
    reported: bool,
}

impl Done {
    pub(super) fn new(counters: &Arc<Counters>, confirm: Option<Confirm>) -> Self {
        Self {
            counters: Arc::clone(counters),
            confirm,
            reported: false,
        }
    }

    /// Reports that the broker has the message.
    pub fn published(mut self) {
        self.reported = true;
        self.counters.published();
        if let Some(confirm) = self.confirm.take() {
            let _ = confirm.send(Ok(()));
        }
    }

    /// Reports that the message was not sent and will not be.
    pub fn dropped(mut self) {
        self.drop_message(ClusterError::UNREACHABLE);
    }

    pub(super) fn drop_message(&mut self, error: ClusterError) {
        self.reported = true;
        self.counters.dropped();
        if let Some(confirm) = self.confirm.take() {
            let _ = confirm.send(Err(error));
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if !self.reported {
            self.counters.unconfirmed();
        }
    }
}

impl fmt::Debug for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Done").finish_non_exhaustive()
    }
}

/// Takes the number of servers of a [`Command::Ask`] or a [`Command::Count`]. If it is dropped, the
/// servers count as unreachable.
#[must_use = "the question fails unless the servers are counted"]
pub struct Expect(Option<Box<dyn FnOnce(Option<usize>) + Send + Sync>>);

impl Expect {
    /// Creates a receiver that passes the number on, or `None` if it is dropped.
    pub(super) fn new(report: impl FnOnce(Option<usize>) + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(report)))
    }

    /// Reports the number of servers that have opened the namespace, including this one if it has.
    pub fn servers(mut self, servers: usize) {
        if let Some(report) = self.0.take() {
            report(Some(servers));
        }
    }
}

impl Drop for Expect {
    fn drop(&mut self) {
        if let Some(report) = self.0.take() {
            report(None);
        }
    }
}

impl fmt::Debug for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expect").finish_non_exhaustive()
    }
}

/// The queue of commands, bounded in bytes.
#[derive(Debug)]
pub(super) struct Queue {
    /// Commands without a message. They come first, so that a namespace is open before its first
    /// message leaves.
    control: VecDeque<Command>,
    messages: VecDeque<Command>,
    /// The bytes of `messages`.
    bytes: usize,
    max_bytes: usize,
    pub(super) is_closed: bool,
}

impl Queue {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            control: VecDeque::new(),
            messages: VecDeque::new(),
            bytes: 0,
            max_bytes,
            is_closed: false,
        }
    }

    /// Adds a command. Returns the oldest messages, which are dropped because the queue is full.
    /// The caller must drop them after it has released the lock.
    pub(super) fn push(&mut self, command: Command) -> Vec<Command> {
        match command {
            Command::Open { .. } | Command::Close { .. } | Command::Count { .. } => {
                self.control.push_back(command);
                Vec::new()
            }
            Command::Publish { .. } | Command::Ask { .. } | Command::Answer { .. } => {
                self.bytes += command.cost();
                self.messages.push_back(command);
                let mut dropped = Vec::new();
                while self.bytes > self.max_bytes && self.messages.len() > 1 {
                    dropped.extend(self.pop_message());
                }
                dropped
            }
        }
    }

    pub(super) fn pop(&mut self) -> Option<Command> {
        self.control.pop_front().or_else(|| self.pop_message())
    }

    fn pop_message(&mut self) -> Option<Command> {
        let command = self.messages.pop_front()?;
        self.bytes -= command.cost();
        if self.messages.is_empty() {
            self.messages.shrink_to(64);
        }
        Some(command)
    }

    /// Returns the bytes and the number of the messages.
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.bytes, self.messages.len())
    }

    /// Removes the questions, the answers and the counts.
    pub(super) fn remove_questions(&mut self) -> Vec<Command> {
        let is_kept = |command: &Command| matches!(command, Command::Publish { .. });
        let (kept, removed) = std::mem::take(&mut self.messages)
            .into_iter()
            .partition::<VecDeque<_>, _>(is_kept);
        self.messages = kept;
        self.bytes -= removed.iter().map(Command::cost).sum::<usize>();
        let (counts, control) = std::mem::take(&mut self.control)
            .into_iter()
            .partition::<VecDeque<_>, _>(|command| matches!(command, Command::Count { .. }));
        self.control = control;
        removed.into_iter().chain(counts).collect()
    }

    /// Removes all messages.
    pub(super) fn clear(&mut self) -> VecDeque<Command> {
        self.bytes = 0;
        std::mem::take(&mut self.messages)
    }
}

/// Reports that a command was removed from the full queue. Questions fail by themselves.
pub(super) fn drop_command(command: Command, error: ClusterError) {
    if let Command::Publish { mut done, .. } = command {
        done.drop_message(error);
    }
}
