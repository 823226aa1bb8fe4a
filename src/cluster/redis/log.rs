//! The streams of Redis: what a server has read of them, and what it has added.
//!
//! No entry is lost when a connection ends: the next one reads on from the last entry, and adds again
//! what has not arrived.
//!
//! Questions use pub/sub, so they can overtake entries and be overtaken. A question of another server
//! is [held](Log::hold) until all entries that were in the streams before it are delivered. An entry
//! names the question before it, and so is not delivered before that.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_core::future::BoxFuture;
use redis::{Cmd, ErrorKind, RedisResult, ServerError, Value};

use super::connection::{Connection, reply_within};
use super::entries::{Ends, Entry, READ_TIMEOUT, ends, entries, id, text, time};
use super::form::Form;
use super::link::refused;
use crate::cluster::message::{Message, RequestId, ServerId};
use crate::cluster::{Done, Envelope, Offset};
use crate::hub::other_servers::Question;
use crate::protocol::NamespaceName;
use crate::shrink::shrink;

/// The most entries of a stream that are read at once.
const READ_COUNT: usize = 100;

/// How long Redis waits for an entry.
const BLOCK: Duration = Duration::from_secs(2);

/// The most questions of other servers that wait for entries.
const MAX_HELD: usize = 10_000;

/// The most servers that are remembered, for asking in a stream or for their last question.
const MAX_OLD_SERVERS: usize = 1_000;

/// How often a heartbeat is sent to servers with an old adapter.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(4);

/// How long heartbeats go on after the last message of a server with an old adapter.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(15);

/// The streams, as one server sees them.
#[derive(Debug)]
pub(super) struct Log {
    streams: Vec<Stream>,
    /// How many entries a stream keeps, about.
    max_len: usize,
    /// The most entries of a stream that are read at once.
    read_count: usize,
    /// The same, for what came before this server reads it.
    past_count: usize,
    /// The messages that Redis has not confirmed, in the order of their numbers.
    unconfirmed: VecDeque<Unconfirmed>,
    /// The last question in each namespace that no entry has named yet.
    asked: HashMap<NamespaceName, RequestId>,
    /// The questions of other servers that wait for entries, with their numbers.
    held: VecDeque<(u64, Envelope)>,
    next_held: u64,
    /// The servers with an old adapter, which ask in a stream.
    old_servers: HashSet<ServerId>,
    /// When a server with an old adapter was heard in a namespace last.
    heard: HashMap<NamespaceName, Instant>,
    next_heartbeat: Option<Instant>,
    /// The last held question of each server that was delivered, in each namespace.
    delivered: HashMap<(ServerId, NamespaceName), RequestId>,
    /// The offset up to which entries are missing that were not read.
    gap: Option<Offset>,
}

#[derive(Debug)]
struct Stream {
    name: String,
    /// The last entry that was read. `None` before the first connection.
    position: Option<Offset>,
    /// An entry before the unconfirmed ones.
    confirmed: Offset,
}

/// A message that Redis has not confirmed.
#[derive(Debug)]
pub(super) struct Unconfirmed {
    pub(super) number: u64,
    pub(super) envelope: Envelope,
    pub(super) after: Option<RequestId>,
    done: Done,
}

/// The place of an entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    stream: usize,
    pub(super) id: Offset,
}

/// Streams with positions in them.
pub(super) type Behind = Vec<(String, Offset)>;

/// The reply to a read, which asked for up to `count` entries of each stream.
#[derive(Debug)]
pub(super) struct Page {
    reply: Value,
    count: usize,
}

impl Log {
    /// Returns the log of streams. Returns `None` without streams.
    pub(super) fn new(streams: Vec<String>) -> Option<Self> {
        let streams: Vec<_> = streams
            .into_iter()
            .map(|name| Stream {
                name,
                position: None,
                confirmed: Offset::default(),
            })
            .collect();
        (!streams.is_empty()).then(|| Self {
            streams,
            max_len: usize::MAX,
            read_count: READ_COUNT,
            past_count: PAST_COUNT,
            unconfirmed: VecDeque::new(),
            asked: HashMap::new(),
            held: VecDeque::new(),
            next_held: 0,
            old_servers: HashSet::new(),
            heard: HashMap::new(),
            next_heartbeat: None,
            delivered: HashMap::new(),
            gap: None,
        })
    }

    /// Begins to read what came into the first stream in a time before this server reads it.
    pub(super) async fn past(
        &self,
        window: Duration,
        connection: &mut Connection,
    ) -> RedisResult<Past> {
        let Some(stream) = self.streams.first() else {
            return Err((ErrorKind::UnexpectedReturnType, "no stream").into());
        };
        let now = time(&stream.name, connection).await?;
        let window = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        let from = Offset::new(now.saturating_sub(window), 0);
        let Ends {
            first, is_whole, ..
        } = ends(&stream.name, connection).await?;
        let begin = match first {
            // Nothing was ever removed, so no entry before the first one can be missing.
            Some(first) if first >= from && is_whole => Offset::default(),
            None if is_whole => Offset::default(),
            Some(first) => from.max(first).before(),
            None => stream.position.unwrap_or_default(),
        };
        Ok(Past {
            name: stream.name.clone(),
            begin,
            last: begin,
            end: stream.position.unwrap_or_default(),
            count: self.past_count,
        })
    }

    /// Finds the ends of the streams, and which of the unconfirmed messages have arrived.
    pub(super) async fn connect(
        &mut self,
        connection: &mut Connection,
        form: &dyn Form,
    ) -> RedisResult<()> {
        // The last own entry in each stream: streams may be on several nodes of a Redis Cluster.
        let mut arrived = HashMap::<&str, u64>::new();
        for stream in &mut self.streams {
            let Ends { first, last, .. } = ends(&stream.name, connection).await?;
            match stream.position {
                None => stream.position = Some(last),
                Some(position) if last < position => {
                    // The stream is another one, or an older copy of it.
                    stream.position = Some(last);
                    // What came after the old position is lost, and what was before it unknown.
                    self.gap = Some(position);
                }
                Some(position) => {
                    self.gap = self.gap.or(trimmed(first, position));
                }
            }
            if !self.unconfirmed.is_empty() {
                let mut from = stream.confirmed.min(last);
                loop {
                    let mut range = redis::cmd("XRANGE");
                    range
                        .arg(&stream.name)
                        .arg(from.next().to_string())
                        .arg("+");
                    range.arg("COUNT").arg(self.read_count);
                    let reply = reply_within(READ_TIMEOUT, connection, &range).await;
                    if reply.is_err() {
                        self.read_count = (self.read_count / 2).max(1);
                    }
                    let entries = match reply? {
                        Value::ServerError(error) => return Err(error.into()),
                        reply => entries(reply),
                    };
                    for (id, entry) in &entries {
                        from = *id;
                        let sent = self.unconfirmed.front().map(|first| &first.envelope.from);
                        if let Some(number) = entry
                            .number
                            .filter(|_| sent.is_some_and(|me| **me == *entry.uid))
                        {
                            let last = arrived.entry(&stream.name).or_default();
                            *last = number.max(*last);
                        }
                    }
                    if entries.len() < self.read_count {
                        break;
                    }
                }
            }
            stream.confirmed = last;
        }
        // Redis handles the commands of a connection in their order.
        for message in std::mem::take(&mut self.unconfirmed) {
            let stream = form.stream(message.envelope.namespace());
            let last = stream.and_then(|name| arrived.get(&*name).copied());
            if last.is_some_and(|last| message.number <= last) {
                message.done.published();
            } else {
                self.unconfirmed.push_back(message);
            }
        }
        // They fail when a connection ends.
        self.held.clear();
        self.asked.clear();
        Ok(())
    }

    /// Returns the offset up to which entries are missing that were not read, once.
    pub(super) fn take_gap(&mut self) -> Option<Offset> {
        self.gap.take()
    }

    /// Finds out whether entries after these positions were removed before they were read.
    pub(super) async fn check_gap(
        &mut self,
        connection: &mut Connection,
        behind: Vec<(String, Offset)>,
    ) -> RedisResult<()> {
        for (name, position) in behind {
            let first = ends(&name, connection).await?.first;
            self.gap = self.gap.or(trimmed(first, position));
        }
        Ok(())
    }

    /// Returns the messages that Redis has not confirmed.
    pub(super) fn unconfirmed(&self) -> impl Iterator<Item = &Unconfirmed> {
        self.unconfirmed.iter()
    }

    /// Keeps a message until it is confirmed.
    pub(super) fn keep(&mut self, envelope: Envelope, done: Done) -> &Unconfirmed {
        let after = match self.asked.is_empty() {
            true => None,
            false => self.asked.remove(&envelope.namespace),
        };
        let message = Unconfirmed {
            number: envelope.number(),
            envelope,
            after,
            done,
        };
        self.unconfirmed.push_back(message);
        &self.unconfirmed[self.unconfirmed.len() - 1]
    }

    /// Handles the replies to the oldest unconfirmed messages.
    ///
    /// # Errors
    ///
    /// Fails if Redis does not take entries at present. The messages stay unconfirmed.
    pub(super) fn confirm(&mut self, replies: Vec<Value>) -> RedisResult<()> {
        let is_added = |reply: &Value| !matches!(reply, Value::ServerError(_));
        // Only the last messages can be added later: the others would come too late.
        let last_added = replies.iter().rposition(is_added);
        for (at, reply) in replies.into_iter().enumerate() {
            if let Value::ServerError(error) = &reply {
                if is_temporary(error) && last_added.is_none_or(|last| at > last) {
                    return Err(error.clone().into());
                }
            }
            let Some(message) = self.unconfirmed.pop_front() else {
                break;
            };
            match reply {
                Value::ServerError(error) => {
                    refused(&error);
                    message.done.dropped();
                }
                reply => {
                    message.done.published();
                    // One stream is the common case. With several, older positions are enough.
                    if let ([stream], Some(id)) = (&mut self.streams[..], id(&reply)) {
                        stream.confirmed = id;
                    }
                }
            }
        }
        Ok(())
    }

    /// Records that this server has sent a question.
    pub(super) fn asked(&mut self, envelope: &Envelope) {
        if let Message::Question(id, _) = &envelope.message {
            self.asked
                .insert(envelope.namespace.clone(), RequestId::clone(id));
        }
    }

    /// Returns whether a server asks in a stream.
    pub(super) fn has_asked(&self, server: &str) -> bool {
        self.old_servers.contains(server)
    }

    /// Begins to read the next entries. `blocks` says whether Redis waits for one.
    pub(super) fn ask(
        &self,
        connection: &Connection,
        blocks: bool,
    ) -> BoxFuture<'static, RedisResult<Page>> {
        let (mut connection, read) = (connection.clone(), self.read(blocks));
        let count = self.read_count;
        Box::pin(async move {
            let timeout = READ_TIMEOUT + if blocks { BLOCK } else { Duration::ZERO };
            let reply = reply_within(timeout, &mut connection, &read).await?;
            Ok(Page { reply, count })
        })
    }

    /// Sets how many entries a stream keeps, about.
    pub(super) const fn with_max_len(mut self, max_len: usize) -> Self {
        self.max_len = max_len;
        self
    }

    /// Reads fewer entries of the past at once: the last read took too long.
    pub(super) fn read_less_past(&mut self) {
        self.past_count = (self.past_count / 4).max(1);
    }

    /// Reads fewer entries at once: the last read took too long.
    pub(super) fn read_less(&mut self) {
        self.read_count = (self.read_count / 2).max(1);
    }

    /// Reads more entries at once again.
    pub(super) fn read_more(&mut self) {
        self.read_count = (self.read_count * 2).min(READ_COUNT);
    }

    fn read(&self, blocks: bool) -> Cmd {
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT").arg(self.read_count);
        if blocks {
            read.arg("BLOCK").arg(BLOCK.as_millis() as u64);
        }
        read.arg("STREAMS");
        for stream in &self.streams {
            read.arg(&stream.name);
        }
        for stream in &self.streams {
            read.arg(stream.position.unwrap_or_default().to_string());
        }
        read
    }

    /// Returns the entries of a reply, and the streams of which there may be more.
    ///
    /// # Errors
    ///
    /// Fails if the reply has another form.
    pub(super) fn entries(&self, page: Page) -> RedisResult<(Vec<(Place, Entry)>, Behind)> {
        let streams = match page.reply {
            Value::Nil => Vec::new(),
            Value::Map(streams) => streams,
            Value::ServerError(error) => return Err(error.into()),
            _ => return Err((ErrorKind::UnexpectedReturnType, "not a reply to XREAD").into()),
        };
        let mut all = Vec::new();
        let mut behind = Vec::new();
        for (name, reply) in streams {
            let mut streams = self.streams.iter();
            let stream = streams.position(|stream| text(&name) == Some(&stream.name));
            let Some(stream) = stream else { continue };
            let entries = entries(reply);
            // A stream that is shorter than a page may have lost the rest.
            if entries.len() >= page.count.min(self.max_len) {
                let Stream { name, position, .. } = &self.streams[stream];
                behind.push((name.clone(), position.unwrap_or_default()));
            }
            let entries = entries.into_iter();
            all.extend(entries.map(|(id, entry)| (Place { stream, id }, entry)));
        }
        Ok((all, behind))
    }

    /// Returns whether an entry was not handled yet. Two reads may return it.
    pub(super) fn is_new(&self, place: Place) -> bool {
        Some(place.id) > self.streams[place.stream].position
    }

    /// Records that an entry was handled. If the connection ends before, the next one reads it again.
    pub(super) fn handled(&mut self, place: Place) {
        self.streams[place.stream].position = Some(place.id);
    }

    /// Holds a question of another server until the entries before it are delivered.
    ///
    /// # Errors
    ///
    /// Fails if too many are held: entries are not read any longer.
    pub(super) fn hold(&mut self, question: Envelope) -> RedisResult<()> {
        if self.held.len() >= MAX_HELD {
            return Err((ErrorKind::Io, "too many questions wait for the stream").into());
        }
        self.held.push_back((self.next_held, question));
        self.next_held += 1;
        Ok(())
    }

    /// Returns the number of the last question that is held.
    pub(super) fn last_held(&self) -> Option<u64> {
        self.held.back().map(|(number, _)| *number)
    }

    /// Returns the held questions of a namespace up to `last`, in their order. Returns `None` if `last` is
    /// not held.
    pub(super) fn release_to(
        &mut self,
        namespace: &NamespaceName,
        from: &str,
        last: &str,
    ) -> Option<Vec<Envelope>> {
        let is_last = |(_, envelope): &(u64, Envelope)| {
            matches!(&envelope.message, Message::Question(id, _) if **id == *last)
                && *envelope.from == *from
                && envelope.namespace == *namespace
        };
        let at = self.held.iter().position(is_last)?;
        let rest = self.held.split_off(at + 1);
        let first = std::mem::replace(&mut self.held, rest);
        let (released, others): (Vec<_>, Vec<_>) = first
            .into_iter()
            .partition(|(_, envelope)| envelope.namespace == *namespace);
        for other in others.into_iter().rev() {
            self.held.push_front(other);
        }
        let released: Vec<_> = released.into_iter().map(|(_, question)| question).collect();
        self.note_delivered(&released);
        Some(released)
    }

    /// Returns whether a question was held and is delivered.
    pub(super) fn was_delivered(
        &self,
        namespace: &NamespaceName,
        from: &str,
        question: &str,
    ) -> bool {
        let key = (ServerId::from(from), namespace.clone());
        self.delivered
            .get(&key)
            .is_some_and(|last| **last == *question)
    }

    fn note_delivered(&mut self, questions: &[Envelope]) {
        if self.delivered.len() >= MAX_OLD_SERVERS {
            self.delivered.clear();
        }
        for envelope in questions {
            if let Message::Question(id, _) = &envelope.message {
                let key = (ServerId::clone(&envelope.from), envelope.namespace.clone());
                self.delivered.insert(key, RequestId::clone(id));
            }
        }
    }

    /// Returns the held questions up to a number, in their order.
    pub(super) fn release(&mut self, last: u64) -> Vec<Envelope> {
        let count = self.held.partition_point(|(number, _)| *number <= last);
        let released = self.held.drain(..count);
        let released: Vec<_> = released.map(|(_, question)| question).collect();
        shrink(&mut self.held);
        self.note_delivered(&released);
        released
    }

    /// Records a message of a stream that only servers with an old adapter send.
    pub(super) fn heard_old(&mut self, namespace: &NamespaceName, now: Instant, is_first: bool) {
        self.heard.insert(namespace.clone(), now);
        if is_first || self.next_heartbeat.is_none() {
            self.next_heartbeat = Some(now);
        }
    }

    /// Records that a server asks in a stream.
    pub(super) fn asked_in_stream(&mut self, envelope: &Envelope) {
        if self.old_servers.len() >= MAX_OLD_SERVERS {
            self.old_servers.clear();
        }
        self.old_servers.insert(Arc::clone(&envelope.from));
    }

    pub(super) fn next_heartbeat(&self) -> Option<Instant> {
        self.next_heartbeat
    }

    /// Returns the namespaces in which servers with an old adapter wait for a heartbeat.
    pub(super) fn heartbeats(&mut self, now: Instant) -> Vec<NamespaceName> {
        self.heard
            .retain(|_, heard| now.saturating_duration_since(*heard) < HEARTBEAT_TIMEOUT);
        self.next_heartbeat = (!self.heard.is_empty()).then(|| now + HEARTBEAT_INTERVAL);
        self.heard.keys().cloned().collect()
    }
}

/// Returns whether Redis may take the same command later, or another Redis may: it is full, starts, or is
/// a replica.
pub(super) fn is_temporary(error: &ServerError) -> bool {
    let codes = [
        "OOM",
        "READONLY",
        "LOADING",
        "MASTERDOWN",
        "NOREPLICAS",
        "MISCONF",
        "BUSY",
    ];
    codes.contains(&error.code())
}

/// Returns whether other messages can overtake a message: it uses pub/sub, and is a question.
pub(super) fn is_question(envelope: &Envelope) -> bool {
    match &envelope.message {
        Message::Question(_, question) => matches!(
            question,
            Question::Event(..) | Question::Sockets(_) | Question::ServerEvent(_)
        ),
        // It comes after its question.
        Message::End(_) => true,
        _ => false,
    }
}

/// What came into a stream before this server reads it.
#[derive(Debug)]
pub(super) struct Past {
    name: String,
    begin: Offset,
    last: Offset,
    end: Offset,
    count: usize,
}

impl Past {
    /// Returns the offset after which all entries are known.
    pub(super) fn begin(&self) -> Offset {
        self.begin
    }

    /// Returns the next entries. Returns `None` at the end.
    pub(super) async fn next(
        &mut self,
        connection: &mut Connection,
    ) -> RedisResult<Option<Vec<(Offset, Entry)>>> {
        if self.last >= self.end {
            return Ok(None);
        }
        let mut range = redis::cmd("XRANGE");
        range.arg(&self.name).arg(self.last.next().to_string());
        range.arg(self.end.to_string());
        range.arg("COUNT").arg(self.count);
        let entries = match reply_within(READ_TIMEOUT, connection, &range).await? {
            Value::ServerError(error) => return Err(error.into()),
            reply => entries(reply),
        };
        match entries.last() {
            Some((last, _)) => self.last = *last,
            None => return Ok(None),
        }
        Ok(Some(entries))
    }
}

/// How many entries of the past are read at once.
const PAST_COUNT: usize = 1_000;

/// Returns the offset up to which entries may be missing: the stream no longer has the last one that was
/// read.
fn trimmed(first: Option<Offset>, position: Offset) -> Option<Offset> {
    let is_trimmed = |first: &Offset| *first > position && position != Offset::default();
    first.filter(is_trimmed).map(Offset::before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shrink::is_shrunk;

    fn log() -> Log {
        Log::new(vec!["s".to_owned()]).expect("a stream")
    }

    /// Returns a reply to `XREAD`.
    fn reply(entries: u64) -> Value {
        let text = |text: &str| Value::BulkString(text.into());
        let entry = |n: u64| Value::Array(vec![text(&format!("{n}-0")), Value::Array(Vec::new())]);
        let entries = (1..=entries).map(entry).collect();
        Value::Map(vec![(text("s"), Value::Array(entries))])
    }

    #[test]
    fn at_most_100_entries_are_read_at_once_and_the_rest_afterwards() {
        let log = log();
        let mut expected = redis::cmd("XREAD");
        expected.arg("COUNT").arg(100).arg("BLOCK").arg(2_000);
        expected.arg("STREAMS").arg("s").arg("0-0");
        let read = log.read(true);
        assert_eq!(read.get_packed_command(), expected.get_packed_command());
        let read = |entries, count| {
            let reply = reply(entries);
            log.entries(Page { reply, count })
                .expect("a reply to XREAD")
        };
        let (entries, behind) = read(99, 100);
        assert_eq!((entries.len(), behind.len()), (99, 0));
        // Of a stream that keeps 50 entries there may have been more.
        let short = super::Log::new(vec!["s".to_owned()]).expect("a stream");
        let short = short.with_max_len(50);
        let page = |entries| Page {
            reply: reply(entries),
            count: 100,
        };
        let behind = |entries| short.entries(page(entries)).expect("a reply").1.len();
        assert_eq!([behind(49), behind(50)], [0, 1]);
        // There may be more.
        let (entries, behind) = read(100, 100);
        assert_eq!(entries.len(), 100);
        assert_eq!(behind, [("s".to_owned(), Offset::default())]);
        // It was asked for when fewer were read at once.
        assert_eq!(read(50, 50).1.len(), 1);
    }

    #[test]
    fn the_questions_that_wait_for_entries_are_bounded() {
        let mut log = log();
        let hold = |log: &mut Log| {
            let message = Message::Question("q".into(), Question::Rooms);
            log.hold(Envelope::new("other".into(), NamespaceName::MAIN, message))
        };
        for _ in 0..10_000 {
            assert!(hold(&mut log).is_ok());
        }
        assert!(hold(&mut log).is_err());
        // One that is delivered makes room for another.
        assert_eq!(log.release(0).len(), 1);
        assert!(hold(&mut log).is_ok() && hold(&mut log).is_err());
        assert_eq!(log.release(u64::MAX).len(), 10_000);
        assert!(log.held.is_empty() && is_shrunk(&log.held));
    }

    #[test]
    fn entries_that_were_removed_before_they_were_read_are_a_gap() {
        let at = |high| Offset::new(high, 0);
        // The last one that was read is still there, or the stream is empty.
        assert_eq!(trimmed(Some(at(5)), at(5)), None);
        assert_eq!(trimmed(None, at(5)), None);
        // Nothing was read before.
        assert_eq!(trimmed(Some(at(7)), Offset::default()), None);
        assert_eq!(trimmed(Some(at(7)), at(5)), Some(at(7).before()));
    }

    #[test]
    fn the_servers_that_are_remembered_are_bounded() {
        let mut log = log();
        for n in 0..2_500 {
            let server = ServerId::from(n.to_string());
            let message = Message::Question("q".into(), Question::Rooms);
            let question = Envelope::new(Arc::clone(&server), NamespaceName::MAIN, message);
            log.asked_in_stream(&question);
            assert!(log.has_asked(&server));
            log.hold(question).expect("none wait");
            let released = log.release_to(&NamespaceName::MAIN, &server, "q");
            assert_eq!(released.map(|released| released.len()), Some(1));
            assert!(log.was_delivered(&NamespaceName::MAIN, &server, "q"));
            assert!(log.old_servers.len() <= 1_000 && log.delivered.len() <= 1_000);
        }
    }
}
