//! Reads of streams that are on several nodes of a Redis Cluster.
//!
//! One `XREAD` may name streams of one slot only, and one that waits holds up its connection. So each
//! stream has a command and, to wait, a connection of its own.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use futures_core::future::BoxFuture;
use redis::{Arg, Cmd, ConnectionInfo, Pipeline, RedisResult, Value};

use super::masters::{MAX_REDIRECTS, Masters, no_master};
use super::pool::{Key, Pool};
use super::slots::{Redirect, slot};
use crate::sync::Mutex;

/// The reads that wait for entries.
pub(super) struct StreamReads {
    masters: Arc<Masters>,
    pool: Pool,
    waiting: Mutex<Vec<Waiting>>,
}

/// A stream, and the read that waits for its entries.
type Waiting = (Arc<str>, BoxFuture<'static, RedisResult<Value>>);

/// A read of one stream.
pub(super) struct Part {
    stream: Arc<str>,
    command: Cmd,
    waits: bool,
}

/// Returns the reads of single streams that an `XREAD` is made of. Returns `None` for another command.
pub(super) fn parts(command: &Cmd) -> Option<Vec<Part>> {
    let args: Vec<&[u8]> = command
        .args_iter()
        .map(|arg| match arg {
            Arg::Simple(arg) => arg,
            _ => &[],
        })
        .collect();
    if args.first() != Some(&&b"XREAD"[..]) {
        return None;
    }
    let at = args.iter().position(|arg| *arg == b"STREAMS")?;
    let (options, streams) = args.split_at(at + 1);
    let (names, ids) = streams.split_at(streams.len() / 2);
    let parts = names.iter().zip(ids).map(|(name, id)| {
        let mut command = Cmd::new();
        for arg in options {
            command.arg(*arg);
        }
        command.arg(*name).arg(*id);
        Part {
            stream: String::from_utf8_lossy(name).into(),
            command,
            waits: options.contains(&&b"BLOCK"[..]),
        }
    });
    Some(parts.collect())
}

impl StreamReads {
    pub(super) fn new(masters: &Arc<Masters>, info: ConnectionInfo) -> Self {
        Self {
            masters: Arc::clone(masters),
            pool: Pool::new(info),
            waiting: Mutex::default(),
        }
    }

    /// Ends all reads.
    pub(super) fn clear(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        drop(waiting);
        self.pool.retain(|_| false);
    }

    /// Reads streams. If the reads wait, returns when the first of them has entries: the others wait
    /// on, and are part of the next call.
    pub(super) async fn read(self: &Arc<Self>, parts: Vec<Part>) -> RedisResult<Value> {
        if !parts.iter().any(|part| part.waits) {
            let mut pipeline = Pipeline::new();
            for part in parts {
                pipeline.add_command(part.command);
            }
            return Ok(merge(self.masters.send(&pipeline).await?));
        }
        let mut waiting = std::mem::take(&mut *self.waiting.lock());
        for part in parts {
            if waiting.iter().all(|(stream, _)| *stream != part.stream) {
                let stream = Arc::clone(&part.stream);
                waiting.push((stream, Box::pin(Arc::clone(self).wait(part))));
            }
        }
        let mut replies = Vec::new();
        poll_fn(|cx| {
            waiting.retain_mut(|(_, read)| match read.as_mut().poll(cx) {
                Poll::Ready(reply) => {
                    replies.push(reply);
                    false
                }
                Poll::Pending => true,
            });
            match replies.is_empty() {
                true => Poll::Pending,
                false => Poll::Ready(()),
            }
        })
        .await;
        *self.waiting.lock() = waiting;
        let replies: RedisResult<Vec<_>> = replies.into_iter().collect();
        replies.map(merge)
    }

    /// Waits for entries of a stream.
    async fn wait(self: Arc<Self>, part: Part) -> RedisResult<Value> {
        let mut ask = None;
        let mut moves = 0;
        // A stream that is being moved is asked for at most once at its new owner.
        loop {
            let owner = match ask.clone() {
                Some(node) => node,
                None => {
                    let slot = slot(part.stream.as_bytes());
                    let topology = self.masters.topology();
                    let owner = topology.owner(slot).cloned();
                    owner.ok_or_else(|| no_master(slot))?
                }
            };
            let key = Key {
                address: owner.clone(),
                stream: Arc::clone(&part.stream),
            };
            let (reads, ended) = (Arc::downgrade(&self), key.clone());
            let on_end = move |generation, _| {
                if let Some(reads) = reads.upgrade() {
                    reads.pool.forget(&ended, generation);
                }
            };
            let mut open = self.pool.get(&key, |config, _, _| config, on_end).await?;
            let mut pipeline = Pipeline::new();
            if ask.is_some() {
                pipeline.cmd("ASKING");
            }
            pipeline.add_command(part.command.clone());
            let in_flight = open.activity.begin();
            let replies = open
                .connection
                .send_packed_commands(&pipeline, 0, pipeline.len());
            let replies = replies.await;
            drop(in_flight);
            if replies.is_err() {
                self.pool.forget(&key, open.generation);
            }
            let reply = replies?.pop().unwrap_or(Value::Nil);
            let redirect = match &reply {
                Value::ServerError(error) => Redirect::of(error, &owner),
                _ => None,
            };
            match redirect {
                Some(Redirect::Ask(node)) if ask.is_none() => ask = Some(node),
                Some(Redirect::Moved(slot, owner)) => {
                    self.masters.moved(slot, owner);
                    // It is read on there, from the same entry. Nodes that do not agree yet may send a
                    // reader to and fro.
                    moves += 1;
                    if moves > MAX_REDIRECTS {
                        return Ok(reply);
                    }
                    ask = None;
                }
                _ => return Ok(reply),
            }
        }
    }
}

/// Returns the replies to several reads as one. An error takes the place of all others.
fn merge(replies: Vec<Value>) -> Value {
    let mut streams = Vec::new();
    for reply in replies {
        match reply {
            Value::Map(read) => streams.extend(read),
            Value::ServerError(error) => return Value::ServerError(error),
            _ => {}
        }
    }
    match streams.is_empty() {
        true => Value::Nil,
        false => Value::Map(streams),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_of_several_streams_is_one_for_each() {
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT").arg(100).arg("BLOCK").arg(2000);
        read.arg("STREAMS")
            .arg("s-0")
            .arg("s-1")
            .arg("7-1")
            .arg("8-2");
        let parts = parts(&read).expect("it reads streams");
        let [first, second] = &parts[..] else {
            panic!("two streams");
        };
        assert_eq!((&*first.stream, first.waits), ("s-0", true));
        let mut expected = redis::cmd("XREAD");
        expected.arg("COUNT").arg(100).arg("BLOCK").arg(2000);
        expected.arg("STREAMS").arg("s-1").arg("8-2");
        assert_eq!(
            second.command.get_packed_command(),
            expected.get_packed_command()
        );
        assert!(super::parts(&redis::cmd("XADD")).is_none());
    }

    #[test]
    fn replies_are_merged() {
        let stream = |name: &str| {
            let name = Value::BulkString(name.as_bytes().to_vec());
            Value::Map(vec![(name, Value::Array(Vec::new()))])
        };
        assert_eq!(merge(vec![Value::Nil, Value::Nil]), Value::Nil);
        let Value::Map(merged) = merge(vec![stream("a"), Value::Nil, stream("b")]) else {
            panic!("two streams");
        };
        assert_eq!(merged.len(), 2);
    }
}
