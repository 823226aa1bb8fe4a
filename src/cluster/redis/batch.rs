//! Messages and counts that leave together.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use redis::{Cmd, Pipeline, RedisResult, Value};

use super::form::{Form, Route};
use super::link;
use super::log::{Log, Unconfirmed, is_temporary};
use crate::cluster::command::Unforgotten;
use crate::cluster::{Command, Done, Envelope, Expect, SavedSocket, Synced, Taken};
use crate::protocol::DecodeError;

/// The most commands that leave together.
const MAX_COMMANDS: usize = 256;

/// The most bytes that leave together, but for the last message.
const MAX_BYTES: usize = 256 * 1024;

/// Messages and counts that leave together.
#[derive(Default)]
pub(super) struct Batch {
    pipeline: Pipeline,
    bytes: usize,
    replies: VecDeque<Reply>,
}

/// The receiver of the replies to a command.
enum Reply {
    Published(Done),
    /// An entry of a stream. Until it is confirmed the [`Log`] keeps its message.
    Added,
    /// The replies of MULTI, of its two commands, and of EXEC with their results.
    Asked(Expect),
    Counted(Expect),
    /// No command, but a report that all subscriptions are made.
    Synced(Synced),
    /// The entry is no message, but says that some are missing.
    Marked(Done),
    /// The reply is a saved socket.
    Taken(TakenLater),
    /// Nobody waits for the reply.
    Sent,
}

/// The receiver of a saved socket, until the reply is there. Without a reply a socket that was to be
/// forgotten is forgotten by another command.
struct TakenLater(Option<Taken>);

impl Drop for TakenLater {
    fn drop(&mut self) {
        if let Some(taken) = self.0.take() {
            taken.failed(Unforgotten::Unknown);
        }
    }
}

impl TakenLater {
    /// Passes the reply on.
    ///
    /// # Errors
    ///
    /// Fails if Redis does not forget sockets at present.
    fn finish(mut self, reply: Value) -> RedisResult<()> {
        match reply {
            Value::ServerError(error) => {
                let forgets = self.0.as_ref().is_some_and(Taken::forgets);
                if forgets && is_temporary(&error) {
                    return Err(error.into());
                }
                link::refused(&error);
            }
            Value::BulkString(text) => match decode_saved(&text) {
                Ok(socket) => {
                    if let Some(taken) = self.0.take() {
                        taken.found(socket);
                    }
                }
                Err(error) => tracing::warn!(
                    target: "tower_socketio::cluster",
                    %error,
                    "a saved socket cannot be read: its client gets a new one"
                ),
            },
            _ => {}
        }
        // There is none.
        self.0 = None;
        Ok(())
    }
}

impl Batch {
    pub(super) fn has_room(&self) -> bool {
        self.replies.len() < MAX_COMMANDS && self.bytes < MAX_BYTES
    }

    /// Adds a command that carries a message or counts servers.
    /// `me` is the id of this server.
    pub(super) fn push(
        &mut self,
        command: Command,
        form: &dyn Form,
        log: Option<&mut Log>,
        me: &str,
    ) {
        match command {
            Command::Gap { namespace, done } => match form.gap(&namespace, me) {
                Some(command) => {
                    self.pipeline.add_command(command);
                    self.replies.push_back(Reply::Marked(done));
                }
                None => done.published(),
            },
            Command::Save { socket, within } => {
                self.bytes += socket.cost();
                self.send(form.save(&socket, within));
            }
            Command::Take { key, taken } => {
                if let Some(command) = form.take(&key) {
                    self.pipeline.add_command(command);
                    self.replies
                        .push_back(Reply::Taken(TakenLater(Some(taken))));
                }
            }
            Command::Publish { envelope, done } => {
                if let Some(log) = log.filter(|_| form.is_logged(&envelope)) {
                    let message = log.keep(envelope, done);
                    self.add(message, form);
                    return;
                }
                self.publish(&envelope, &Route::default(), form);
                self.replies.push_back(Reply::Published(done));
            }
            Command::Ask { envelope, expect } => {
                // Both at one moment: no server comes or goes between them.
                self.pipeline.cmd("MULTI");
                self.pipeline
                    .add_command(form.count(envelope.namespace(), None));
                self.publish(&envelope, &Route::default(), form);
                self.pipeline.cmd("EXEC");
                self.replies.push_back(Reply::Asked(expect));
                if let Some(log) = log {
                    log.asked(&envelope);
                }
            }
            Command::Answer { to, envelope } => {
                let is_asked_in_stream = log.is_some_and(|log| log.has_asked(&to));
                let route = Route {
                    to: Some(&to),
                    is_asked_in_stream,
                    ..Route::default()
                };
                self.publish(&envelope, &route, form);
                self.replies.push_back(Reply::Sent);
            }
            Command::Count {
                namespace,
                server,
                expect,
            } => {
                self.pipeline
                    .add_command(form.count(&namespace, server.as_deref()));
                self.replies.push_back(Reply::Counted(expect));
            }
            // The subscriptions are made before the batch is sent.
            Command::Sync { synced } => self.replies.push_back(Reply::Synced(synced)),
            // They are no messages: see `Connected::begin`.
            Command::Open { .. } | Command::Close { .. } | Command::Room { .. } => {}
        }
    }

    fn send(&mut self, command: Option<Cmd>) {
        if let Some(command) = command {
            self.pipeline.add_command(command);
            self.replies.push_back(Reply::Sent);
        }
    }

    /// Adds an entry of a stream.
    pub(super) fn add(&mut self, message: &Unconfirmed, form: &dyn Form) {
        let route = Route {
            number: Some(message.number),
            after: message.after.as_deref(),
            ..Route::default()
        };
        self.publish(&message.envelope, &route, form);
        self.replies.push_back(Reply::Added);
    }

    /// Drops the reports that all subscriptions are made: some are not.
    pub(super) fn drop_synced(&mut self) {
        self.replies
            .retain(|reply| !matches!(reply, Reply::Synced(_)));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }

    fn publish(&mut self, envelope: &Envelope, route: &Route<'_>, form: &dyn Form) {
        let publish = form.publish(envelope, route);
        self.bytes += publish.len;
        self.pipeline.add_command(publish.command);
    }

    /// Returns the commands to send, and their length, about.
    pub(super) fn take_commands(&mut self) -> (Pipeline, usize) {
        (std::mem::take(&mut self.pipeline), self.bytes)
    }

    /// Passes the replies on.
    ///
    /// # Errors
    ///
    /// Fails if Redis does not take entries of streams at present, or does not forget sockets. The
    /// entries stay in the log, and the commands come again.
    pub(super) fn finish(self, replies: Vec<Value>, log: Option<&mut Log>) -> RedisResult<()> {
        let mut added = Vec::new();
        let mut forgotten = Ok(());
        let mut replies = replies.into_iter();
        let mut next = || replies.next().unwrap_or(Value::Nil);
        for reply in self.replies {
            match reply {
                Reply::Published(done) => match next() {
                    Value::ServerError(error) => {
                        link::refused(&error);
                        done.dropped();
                    }
                    // It is not known: the connection to a node of a Redis Cluster has ended.
                    Value::Nil => drop(done),
                    _ => done.published(),
                },
                Reply::Added => added.push(next()),
                Reply::Asked(expect) => {
                    let _queued = [next(), next(), next()];
                    let executed = match next() {
                        Value::Array(results) => results.into_iter().next(),
                        _ => None,
                    };
                    report(&executed.unwrap_or(Value::Nil), expect);
                }
                Reply::Counted(expect) => report(&next(), expect),
                Reply::Synced(synced) => synced.done(),
                Reply::Marked(done) => match next() {
                    // It is added on the next connection, as the messages are.
                    Value::ServerError(error) if is_temporary(&error) => {
                        return Err(error.into());
                    }
                    Value::ServerError(error) => {
                        link::refused(&error);
                        done.published();
                    }
                    _ => done.published(),
                },
                Reply::Taken(taken) => forgotten = forgotten.and(taken.finish(next())),
                Reply::Sent => {
                    if let Value::ServerError(error) = next() {
                        link::refused(&error);
                    }
                }
            }
        }
        let confirmed = log.map_or(Ok(()), |log| log.confirm(added));
        confirmed.and(forgotten)
    }
}

/// Reads a saved socket.
fn decode_saved(text: &[u8]) -> Result<SavedSocket, DecodeError> {
    let bytes = BASE64_STANDARD.decode(text);
    let bytes = bytes.map_err(|_| DecodeError::new("a session is not base64"))?;
    SavedSocket::from_bytes(&bytes.into())
}

/// Reports the result of `PUBSUB NUMSUB` or `PUBSUB SHARDNUMSUB`. If Redis refused the command, the
/// servers are unreachable.
fn report(reply: &Value, expect: Expect) {
    let count = match reply {
        Value::Array(values) => match &values[..] {
            [_, Value::Int(count)] => usize::try_from(*count).ok(),
            _ => None,
        },
        // RESP3 has a map here in some versions.
        Value::Map(values) => match &values[..] {
            [(_, Value::Int(count))] => usize::try_from(*count).ok(),
            _ => None,
        },
        _ => None,
    };
    if let Some(count) = count {
        expect.servers(count);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use redis::ServerError;

    use super::*;

    #[test]
    fn a_socket_is_forgotten_again_if_redis_has_not_done_it() {
        let replied = |reply: Option<Value>| {
            let count = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&count);
            let taken = Taken::forget(Box::new(move |reason| {
                assert_eq!(reason, Unforgotten::Unknown);
                counted.fetch_add(1, Ordering::Relaxed);
            }));
            let mut batch = Batch::default();
            let taken = TakenLater(Some(taken));
            batch.replies.push_back(Reply::Taken(taken));
            let is_ok = match reply {
                Some(reply) => batch.finish(vec![reply], None).is_ok(),
                // The connection ends.
                None => {
                    drop(batch);
                    true
                }
            };
            (is_ok, count.load(Ordering::Relaxed))
        };
        assert_eq!(replied(None), (true, 1));
        assert_eq!(replied(Some(Value::Nil)), (true, 0));
        let readonly = redis::make_extension_error("READONLY".to_owned(), None);
        let readonly = ServerError::try_from(readonly).expect("of a server");
        assert_eq!(replied(Some(Value::ServerError(readonly))), (false, 1));
    }
}
