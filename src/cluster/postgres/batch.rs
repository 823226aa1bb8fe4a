//! Messages that leave together.

use std::collections::HashSet;
use std::future::poll_fn;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::task::Poll;

use futures_util::FutureExt as _;
use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, Either, ready};
use futures_util::stream::FuturesOrdered;
use tokio_postgres::Client;

use super::attachments::Statements;
use super::link::{self, Error, timeout_of};
use crate::cluster::message::RequestId;
use crate::cluster::wire::notification::Encoded;
use crate::cluster::{Done, Synced};
use crate::protocol::NamespaceName;

/// The most messages that leave together.
const MAX_MESSAGES: usize = 256;

/// The most bytes that leave together, but for the last message.
const MAX_BYTES: usize = 256 * 1024;

/// Messages that leave together, each command of PostgreSQL in a transaction of its own.
#[derive(Default)]
pub(super) struct Batch {
    commands: Vec<Command>,
    replies: Vec<Vec<Reply>>,
    /// The notifications of the last command.
    last: HashSet<u64>,
    hasher: RandomState,
    messages: usize,
    bytes: usize,
    synced: Vec<Synced>,
}

/// A command of PostgreSQL.
enum Command {
    Notify {
        channels: Vec<String>,
        payloads: Vec<String>,
    },
    Attach {
        channel: String,
        header: String,
        payload: Vec<u8>,
    },
}

/// The receiver of the result of a message.
pub(super) enum Reply {
    Published(Done),
    /// A question.
    Asked(RequestId),
    /// The first heartbeat of a namespace.
    Announced(NamespaceName),
    /// Nobody.
    Sent,
}

impl Batch {
    pub(super) fn has_room(&self) -> bool {
        self.messages < MAX_MESSAGES && self.bytes < MAX_BYTES
    }

    /// Returns whether the batch has no messages.
    pub(super) fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Adds a message.
    pub(super) fn push(&mut self, channel: String, encoded: Encoded, reply: Reply) {
        self.messages += 1;
        match encoded {
            Encoded::Notification(payload) => self.notify(channel, payload, reply),
            Encoded::Attachment { header, payload } => {
                self.bytes += payload.len();
                self.last.clear();
                self.commands.push(Command::Attach {
                    channel,
                    header,
                    payload,
                });
                self.replies.push(vec![reply]);
            }
        }
    }

    /// Adds a message without data, which is not counted.
    pub(super) fn sign(&mut self, channel: String, payload: String, reply: Reply) {
        self.notify(channel, payload, reply);
    }

    fn notify(&mut self, channel: String, payload: String, reply: Reply) {
        self.bytes += payload.len();
        let hash = self.hasher.hash_one((&channel, &payload));
        // PostgreSQL sends two notifications of one transaction that are equal as one.
        let is_new = self.last.insert(hash);
        match (self.commands.last_mut(), self.replies.last_mut()) {
            (Some(Command::Notify { channels, payloads }), Some(replies)) if is_new => {
                channels.push(channel);
                payloads.push(payload);
                replies.push(reply);
            }
            _ => {
                self.last.clear();
                self.last.insert(hash);
                self.commands.push(Command::Notify {
                    channels: vec![channel],
                    payloads: vec![payload],
                });
                self.replies.push(vec![reply]);
            }
        }
    }

    /// Reports to a task when the subscriptions before this batch are made.
    pub(super) fn sync(&mut self, synced: Synced) {
        self.synced.push(synced);
    }

    /// Sends the messages, in their order. Returns why PostgreSQL has refused a command, for each.
    ///
    /// # Errors
    ///
    /// Fails when the connection ends, or does not answer in time.
    pub(super) fn send(
        &mut self,
        client: Arc<Client>,
        statements: Arc<Statements>,
    ) -> BoxFuture<'static, Result<Vec<Option<Error>>, Error>> {
        let commands = std::mem::take(&mut self.commands);
        let timeout = timeout_of(self.bytes);
        let sent = async move {
            let mut answers = FuturesOrdered::new();
            for command in commands {
                let (client, statements) = (Arc::clone(&client), Arc::clone(&statements));
                let mut answer = command.carry_out(client, statements).boxed();
                // The first poll sends it: before the next one.
                let first = poll_fn(|cx| Poll::Ready(answer.poll_unpin(cx))).await;
                answers.push_back(match first {
                    Poll::Ready(answer) => Either::Left(ready(answer)),
                    Poll::Pending => Either::Right(answer),
                });
            }
            let mut refusals = Vec::with_capacity(answers.len());
            while let Some(answer) = answers.next().await {
                refusals.push(match answer.map_err(Error::from) {
                    Ok(_) => None,
                    Err(error) if error.refusal().is_some() => Some(error),
                    Err(error) => return Err(error),
                });
            }
            Ok(refusals)
        };
        Box::pin(async move {
            match tokio::time::timeout(timeout, sent).await {
                Ok(refusals) => refusals,
                Err(_) => Err(Error::NoAnswer),
            }
        })
    }

    /// Passes the results on. Returns the namespaces that are announced, and the questions that were
    /// not sent.
    pub(super) fn finish(
        self,
        refusals: Vec<Option<Error>>,
    ) -> (Vec<NamespaceName>, Vec<RequestId>) {
        let (mut announced, mut failed) = (Vec::new(), Vec::new());
        self.synced.into_iter().for_each(Synced::done);
        for (replies, refusal) in self.replies.into_iter().zip(refusals) {
            if let Some(refusal) = &refusal {
                link::refused(refusal);
            }
            for reply in replies {
                match (reply, &refusal) {
                    (Reply::Published(done), None) => done.published(),
                    (Reply::Published(done), Some(_)) => done.dropped(),
                    (Reply::Asked(id), Some(_)) => failed.push(id),
                    // If it is refused, the next heartbeat says the same.
                    (Reply::Announced(namespace), _) => announced.push(namespace),
                    (Reply::Asked(_), None) | (Reply::Sent, _) => {}
                }
            }
        }
        (announced, failed)
    }
}

impl Command {
    async fn carry_out(
        self,
        client: Arc<Client>,
        statements: Arc<Statements>,
    ) -> Result<u64, tokio_postgres::Error> {
        match self {
            Self::Notify { channels, payloads } => {
                let notify = &statements.notify;
                client.execute(notify, &[&channels, &payloads]).await
            }
            Self::Attach {
                channel,
                header,
                payload,
            } => {
                let attach = &statements.attach;
                client.execute(attach, &[&channel, &header, &payload]).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notification(text: &str) -> Encoded {
        Encoded::Notification(text.to_owned())
    }

    fn lengths(batch: &Batch) -> Vec<usize> {
        let lengths = batch.replies.iter().map(Vec::len);
        lengths.collect()
    }

    #[test]
    fn equal_notifications_are_in_different_transactions() {
        let mut batch = Batch::default();
        for text in ["a", "b", "a", "c", "a"] {
            batch.push("#/".to_owned(), notification(text), Reply::Sent);
        }
        assert_eq!(lengths(&batch), [2, 2, 1]);
        batch.push("#/other".to_owned(), notification("a"), Reply::Sent);
        assert_eq!(lengths(&batch), [2, 2, 2]);
    }

    #[test]
    fn notifications_do_not_overtake_attachments() {
        let mut batch = Batch::default();
        batch.push("#/".to_owned(), notification("a"), Reply::Sent);
        let encoded = Encoded::Attachment {
            header: String::new(),
            payload: vec![0; MAX_BYTES],
        };
        assert!(batch.has_room());
        batch.push("#/".to_owned(), encoded, Reply::Sent);
        assert!(!batch.has_room());
        for text in ["b", "c"] {
            batch.push("#/".to_owned(), notification(text), Reply::Sent);
        }
        assert_eq!(lengths(&batch), [1, 1, 2]);
    }
}
