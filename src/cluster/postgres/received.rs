//! Received messages, in their order.

use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, ready};
use futures_util::stream::FuturesOrdered;

use bytes::Bytes;

use super::link::Error;
use crate::cluster::Envelope;
use crate::cluster::message::{RequestId, ServerId};
use crate::protocol::NamespaceName;

/// The most messages that wait for the attachments of earlier ones.
const MAX_WAITING: usize = 256;

/// The most attachments that are fetched at once.
const MAX_FETCHED: usize = 8;

/// A message of another server, or of this one.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) namespace: NamespaceName,
    pub(super) from: ServerId,
    /// The type of the message.
    pub(super) kind: u8,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    /// A question of this server: all that came before it was sent before it.
    Own(RequestId),
    /// Nothing that is for this server.
    None,
    Envelope(Envelope),
    /// A row of the table. `None` if it is not there, or is too long.
    Row(Option<Bytes>),
}

/// Messages that wait for attachments, their own or those of earlier ones.
#[derive(Default)]
pub(super) struct Received {
    waiting: FuturesOrdered<BoxFuture<'static, Result<Incoming, Error>>>,
    /// The number of rows among the messages.
    fetched: usize,
}

impl Received {
    /// Returns whether more may be received.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < MAX_WAITING && self.fetched < MAX_FETCHED
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Adds a message that is complete.
    pub(super) fn push(&mut self, incoming: Incoming) {
        self.waiting.push_back(Box::pin(ready(Ok(incoming))));
    }

    /// Adds a message whose content is in a row of the table.
    pub(super) fn fetch(
        &mut self,
        incoming: Incoming,
        row: impl Future<Output = Result<Option<Bytes>, Error>> + Send + 'static,
    ) {
        self.fetched += 1;
        self.waiting.push_back(Box::pin(async move {
            let content = match row.await {
                Ok(row) => Content::Row(row),
                Err(error) if error.refusal().is_some() => {
                    super::link::refused(&error);
                    Content::Row(None)
                }
                Err(error) => return Err(error),
            };
            Ok(Incoming {
                content,
                ..incoming
            })
        }));
    }

    /// Returns the next message when it is complete.
    ///
    /// # Errors
    ///
    /// Fails if a connection has ended, or if there is no message.
    pub(super) async fn next(&mut self) -> Result<Incoming, Error> {
        let next = self.waiting.next().await.ok_or(Error::Ended)??;
        self.fetched -= usize::from(matches!(next.content, Content::Row(_)));
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn incoming(kind: u8) -> Incoming {
        Incoming {
            namespace: NamespaceName::MAIN,
            from: "a".into(),
            kind,
            content: Content::None,
        }
    }

    #[tokio::test]
    async fn a_message_does_not_overtake_an_attachment() {
        let mut received = Received::default();
        let (sender, row) = oneshot::channel();
        received.fetch(incoming(0), async { row.await.map_err(|_| Error::Ended) });
        received.push(incoming(1));
        received.fetch(incoming(2), async { Ok(None) });
        assert!(
            futures_util::FutureExt::now_or_never(received.next()).is_none(),
            "the first one is not there yet"
        );
        sender
            .send(Some(Bytes::from_static(b"row")))
            .expect("it waits");
        for kind in 0..3 {
            assert_eq!(received.next().await.expect("a message").kind, kind);
        }
        assert!(received.is_empty());
    }

    #[tokio::test]
    async fn the_messages_that_wait_are_bounded() {
        let mut received = Received::default();
        for _ in 0..MAX_FETCHED {
            assert!(received.has_room());
            received.fetch(incoming(0), async { Ok(None) });
        }
        assert!(!received.has_room());
        received.next().await.expect("a message");
        assert!(received.has_room());
        for _ in MAX_FETCHED..=MAX_WAITING {
            assert!(received.has_room());
            received.push(incoming(0));
        }
        assert!(!received.has_room());
    }
}
