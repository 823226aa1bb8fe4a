//! The masters of a Redis Cluster: which of them has a slot, and the commands that are sent to them.
//!
//! Commands of one slot are carried out in their order, also while the slot moves: what its former
//! owner has refused is sent again before anything else is. The nodes are asked for their slots every 30
//! seconds, and whenever one of them is not there or refuses a command.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use indexmap::IndexMap;
use redis::{
    Cmd, ConnectionInfo, ErrorKind, Pipeline, RedisError, RedisResult, ServerError, Value,
};
use tokio::sync::Notify;

use super::connection::NodesChange;
use super::link;
use super::pool::{Key, Open, Pool};
use super::slots::{ANY_SLOT, Address, Command, Destination, Redirect, Topology};
use crate::clock::now;
use crate::random::random;
use crate::sync::Mutex;

/// How long a command waits for a node that is not there, or for a slot without a master. Redis promotes
/// a replica after 15 seconds by default.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// The same for commands of streams: they are sent again by the [log](super::log) of their streams.
const MAX_WAIT_FOR_STREAM: Duration = Duration::from_secs(5);

/// The same for saved sockets, which the entries of the stream must not wait for long: without them,
/// clients get new sockets.
const MAX_WAIT_FOR_SAVED: Duration = Duration::from_secs(1);

/// The time between two attempts to send refused commands: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// How many times in a row commands are sent again at once, to the node that another one has named.
pub(super) const MAX_REDIRECTS: usize = 5;

/// How long the slots of an answer are taken for the present ones.
const FRESH: Duration = Duration::from_millis(50);

/// How long a node may take to answer for its slots.
const TOPOLOGY_TIMEOUT: Duration = Duration::from_secs(2);

/// The nodes, and the connections for commands.
pub(super) struct Masters {
    pub(super) seeds: Arc<[Address]>,
    topology: Mutex<View>,
    senders: Pool,
    /// Since when the masters of slots are not there.
    failing: Mutex<HashMap<u16, Instant>>,
    pub(super) status: Mutex<Status>,
    /// Notified when the keeper has something to do.
    pub(super) work: Notify,
    /// Notified when the status changes.
    pub(super) status_changed: Notify,
}

/// The slots, as the last node that was asked has them.
struct View {
    topology: Arc<Topology>,
    at: Option<Instant>,
    /// The number of the next node to ask.
    next: usize,
}

/// The trouble with the connections.
#[derive(Debug, Default)]
pub(super) struct Status {
    pub(super) gap: Option<String>,
    pub(super) receiving: Option<String>,
    sending: Option<String>,
    /// Whether a problem was reported last.
    pub(super) reported: bool,
}

impl Status {
    pub(super) fn problem(&self) -> Option<&String> {
        self.receiving.as_ref().or(self.sending.as_ref())
    }

    pub(super) fn take_change(&mut self) -> Option<NodesChange> {
        let gap = self.gap.take();
        let problem = self.problem().cloned();
        let is_change = gap.is_some() || problem.is_some() != self.reported;
        self.reported = problem.is_some();
        is_change.then_some(NodesChange { gap, problem })
    }
}

impl Masters {
    pub(super) fn new(seeds: &Arc<[Address]>, info: &ConnectionInfo) -> Self {
        let [next] = random();
        Self {
            seeds: Arc::clone(seeds),
            topology: Mutex::new(View {
                topology: Arc::default(),
                at: None,
                next: usize::from(next),
            }),
            senders: Pool::new(info.clone()),
            failing: Mutex::default(),
            status: Mutex::default(),
            work: Notify::new(),
            status_changed: Notify::new(),
        }
    }

    pub(super) fn topology(&self) -> Arc<Topology> {
        Arc::clone(&self.topology.lock().topology)
    }

    /// Records that a node has named the master of a slot.
    pub(super) fn moved(&self, slot: u16, owner: Address) {
        let mut view = self.topology.lock();
        Arc::make_mut(&mut view.topology).set_owner(slot, owner);
        drop(view);
        self.work.notify_one();
    }

    /// Asks a node for the slots, unless one has just answered. A different one is asked each time: one
    /// of them may not know yet what the others know.
    ///
    /// # Errors
    ///
    /// Fails if no node answers.
    pub(super) async fn refresh(self: &Arc<Self>) -> RedisResult<()> {
        let mut candidates: Vec<_> = {
            let mut view = self.topology.lock();
            if view
                .at
                .is_some_and(|at| now().saturating_duration_since(at) < FRESH)
            {
                return Ok(());
            }
            view.next = view.next.wrapping_add(1);
            let mut nodes: Vec<_> = view.topology.masters().cloned().collect();
            let first = view.next % nodes.len().max(1);
            nodes.rotate_left(first);
            nodes
        };
        candidates.extend(self.seeds.iter().cloned());
        let mut last_error = link::NO_ANSWER.into();
        for node in &candidates {
            match self.ask_for_slots(node).await {
                Ok(topology) => {
                    self.set_topology(topology);
                    return Ok(());
                }
                Err(error) => last_error = error,
            }
        }
        Err(last_error)
    }

    fn set_topology(&self, topology: Topology) {
        let is_there =
            |address: &Address| topology.nodes().contains(address) || self.seeds.contains(address);
        self.senders.retain(is_there);
        let mut view = self.topology.lock();
        view.at = Some(now());
        view.topology = Arc::new(topology);
        drop(view);
        self.work.notify_one();
    }

    async fn ask_for_slots(self: &Arc<Self>, node: &Address) -> RedisResult<Topology> {
        let mut open = self.sender(node).await?;
        let mut reply = async |what| {
            let mut command = redis::cmd("CLUSTER");
            command.arg(what);
            let reply = link::reply_within(TOPOLOGY_TIMEOUT, &mut open.connection, &command).await;
            if reply.is_err() {
                self.senders.forget(&node.into(), open.generation);
            }
            reply
        };
        let shards = Topology::from_shards(&reply("SHARDS").await?, node);
        if let Some(topology) = shards.as_ref().filter(|topology| topology.is_complete()) {
            return Ok(topology.clone());
        }
        // Redis before version 7 has no `SHARDS`, and a node that has just taken over may not be in it.
        let reply = reply("SLOTS").await?;
        let slots = Topology::from_slots(&reply, node);
        match (shards, slots, reply) {
            (Some(mut topology), Some(slots), _) => {
                topology.complete(&slots);
                Ok(topology)
            }
            (None, Some(topology), _) => Ok(topology),
            (Some(topology), None, _) => Ok(topology),
            (None, None, Value::ServerError(error)) => Err(error.into()),
            (None, None, _) => Err(invalid("the node does not know its cluster")),
        }
    }

    /// Returns the connection for commands to a node.
    pub(super) async fn sender(self: &Arc<Self>, address: &Address) -> RedisResult<Open> {
        let key = Key::from(address);
        let (masters, ended) = (Arc::downgrade(self), key.clone());
        let on_end = move |generation, _| {
            if let Some(masters) = masters.upgrade() {
                masters.senders.forget(&ended, generation);
            }
        };
        self.senders.get(&key, |config, _, _| config, on_end).await
    }

    /// Finds out whether masters that were not there are there again.
    pub(super) async fn probe(self: &Arc<Self>) {
        let failing: Vec<_> = self.failing.lock().keys().copied().collect();
        for slot in failing {
            let owner = self.topology().owner(slot).cloned();
            if let Some(owner) = owner {
                if self.sender(&owner).await.is_ok() {
                    self.works(slot);
                }
            }
        }
    }

    /// Returns whether masters are not there that messages were for.
    pub(super) fn is_failing(&self) -> bool {
        !self.failing.lock().is_empty()
    }

    fn works(&self, slot: u16) {
        let mut failing = self.failing.lock();
        if failing.is_empty() || failing.remove(&slot).is_none() || !failing.is_empty() {
            return;
        }
        drop(failing);
        self.status.lock().sending = None;
        self.status_changed.notify_one();
    }

    /// Records that the master of a slot is not there. Returns since when.
    fn fails(&self, slot: u16, reason: &RedisError) -> Instant {
        let since = *self.failing.lock().entry(slot).or_insert_with(now);
        let mut status = self.status.lock();
        if status.sending.is_none() {
            status.sending = Some(reason.to_string());
            drop(status);
            self.status_changed.notify_one();
            self.work.notify_one();
        }
        since
    }
}

/// Commands that one node must carry out together: one, or those from `MULTI` to `EXEC`.
#[derive(Clone, Debug)]
struct Group {
    commands: Range<usize>,
    slot: u16,
    is_pub_sub: bool,
    /// The command that counts subscribers on all nodes.
    sum: Option<usize>,
    is_shard_count: bool,
    is_saved: bool,
    /// The node to ask instead of the slot's master, once.
    ask: Option<Address>,
}

/// Returns the groups of commands.
fn groups(commands: &[&Cmd]) -> Vec<Group> {
    let mut groups = Vec::new();
    let mut begin = 0;
    let mut found: Vec<(usize, Command)> = Vec::new();
    let mut is_multi = false;
    for (at, command) in commands.iter().enumerate() {
        match Command::of(command) {
            Some(command) => found.push((at, command)),
            // `MULTI` or `EXEC`.
            None => is_multi = !is_multi,
        }
        if is_multi {
            continue;
        }
        let slot = found.iter().find_map(|(_, command)| match command.to {
            Destination::Slot(slot) => Some(slot),
            Destination::Any | Destination::All => None,
        });
        let slot = slot.unwrap_or(ANY_SLOT);
        let sum = found
            .iter()
            .find(|(_, command)| command.to == Destination::All);
        groups.push(Group {
            commands: begin..at + 1,
            slot,
            is_pub_sub: found.iter().all(|(_, command)| command.is_pub_sub),
            sum: sum.map(|(at, _)| *at),
            is_shard_count: matches!(&found[..], [(_, command)] if command.is_shard_count),
            is_saved: found.iter().all(|(_, command)| command.is_saved),
            ask: None,
        });
        begin = at + 1;
        found.clear();
    }
    groups
}

/// Returns the groups that may be sent at once. A message of pub/sub and an entry of a stream, which
/// may be on different nodes, keep their order: a question follows the messages before it.
fn phases(groups: Vec<Group>) -> Vec<Vec<Group>> {
    let mut phases: Vec<Vec<Group>> = Vec::new();
    for group in groups {
        match phases.last_mut() {
            Some(phase) if phase[0].is_pub_sub == group.is_pub_sub => phase.push(group),
            _ => phases.push(vec![group]),
        }
    }
    phases
}

/// What became of commands that were sent to a node.
enum Sent {
    Replies(Vec<Value>),
    /// The node has not got them.
    Failed(RedisError),
    /// Whether the node has got them is not known.
    Unknown(RedisError),
}

impl Masters {
    pub(super) async fn send(self: &Arc<Self>, commands: &Pipeline) -> RedisResult<Vec<Value>> {
        let is_new = self.topology.lock().at.is_none();
        if is_new {
            self.refresh().await?;
        }
        let commands: Vec<_> = commands.cmd_iter().collect();
        let mut replies = vec![Value::Nil; commands.len()];
        for phase in phases(groups(&commands)) {
            self.send_groups(phase, &commands, &mut replies).await?;
        }
        Ok(replies)
    }

    /// Sends groups of commands until all have replies.
    async fn send_groups(
        self: &Arc<Self>,
        mut pending: Vec<Group>,
        commands: &[&Cmd],
        replies: &mut [Value],
    ) -> RedisResult<()> {
        let (mut redirects, mut delay) = (0, RETRY.0);
        let begin = now();
        let mut counts: Vec<_> = pending
            .iter()
            .filter(|group| group.is_shard_count)
            .cloned()
            .collect();
        while !pending.is_empty() {
            let round = self.send_once(pending, commands, replies).await?;
            pending = round.left;
            if pending.is_empty() {
                pending = self
                    .check_counts(std::mem::take(&mut counts), replies)
                    .await;
                continue;
            }
            redirects += 1;
            if round.error.is_none() && redirects <= MAX_REDIRECTS {
                continue;
            }
            let error = round.error.unwrap_or_else(|| link::NO_ANSWER.into());
            let mut is_over = false;
            let waited = now().saturating_duration_since(begin);
            pending.retain(|group| {
                let is_given_up = if group.is_saved {
                    // The messages go on without them.
                    waited >= MAX_WAIT_FOR_SAVED
                } else {
                    let since = self.fails(group.slot, &error);
                    is_over |= !group.is_pub_sub && waited >= MAX_WAIT_FOR_STREAM;
                    // A master that can be reached, and refuses messages, does not count as failing for
                    // long.
                    let has_waited = waited.max(now().saturating_duration_since(since));
                    group.is_pub_sub && has_waited >= MAX_WAIT
                };
                if !is_given_up {
                    return true;
                }
                // They were not sent and will not be.
                for at in group.commands.clone() {
                    replies[at] = not_there(&error);
                }
                false
            });
            if is_over {
                return Err(error);
            }
            if !pending.is_empty() {
                tokio::time::sleep(delay).await;
                delay = (2 * delay).min(RETRY.1);
                // Without an answer the present slots are tried again.
                let _ = self.refresh().await;
            }
        }
        Ok(())
    }

    /// Sends groups of commands once, each to its node.
    async fn send_once(
        self: &Arc<Self>,
        groups: Vec<Group>,
        commands: &[&Cmd],
        replies: &mut [Value],
    ) -> RedisResult<Round> {
        let mut round = Round::default();
        let mut nodes = IndexMap::<Address, Vec<Group>>::new();
        let topology = self.topology();
        for mut group in groups {
            let ask = group.ask.clone();
            let node = ask.or_else(|| topology.owner(group.slot).cloned());
            match node {
                Some(node) => nodes.entry(node).or_default().push(group),
                None => {
                    group.ask = None;
                    let error = no_master(group.slot);
                    round.leave(group, Some(error));
                }
            }
        }
        let sent = nodes.into_iter().map(async |(node, groups)| {
            let sums = self.other_counts(&node, &groups, commands).await;
            let sent = self.send_to(&node, &groups, commands).await;
            (node, groups, sums, sent)
        });
        for (node, groups, sums, sent) in join_all(sent).await {
            match sent {
                Sent::Replies(received) => {
                    self.handle(&node, groups, &sums, received, replies, &mut round);
                }
                Sent::Failed(error) => {
                    for mut group in groups {
                        group.ask = None;
                        round.leave(group, Some(error.clone()));
                    }
                }
                Sent::Unknown(error) => {
                    self.work.notify_one();
                    // The other replies stay unknown.
                    if groups
                        .iter()
                        .any(|group| !group.is_pub_sub && !group.is_saved)
                    {
                        return Err(error);
                    }
                }
            }
        }
        round.left.sort_by_key(|group| group.commands.start);
        Ok(round)
    }

    /// Sends groups of commands to one node.
    async fn send_to(
        self: &Arc<Self>,
        node: &Address,
        groups: &[Group],
        commands: &[&Cmd],
    ) -> Sent {
        let mut open = match self.sender(node).await {
            Ok(open) => open,
            Err(error) => return Sent::Failed(error),
        };
        let mut pipeline = Pipeline::new();
        let mut bytes = 0;
        for group in groups {
            if group.ask.is_some() {
                pipeline.cmd("ASKING");
            }
            for at in group.commands.clone() {
                bytes += length(commands[at]);
                pipeline.add_command(commands[at].clone());
            }
        }
        let _in_flight = open.activity.begin();
        match link::send(&mut open.connection, &pipeline, bytes).await {
            Ok(replies) => Sent::Replies(replies),
            Err(error) => {
                self.senders.forget(&node.into(), open.generation);
                Sent::Unknown(error)
            }
        }
    }

    /// Handles the replies of one node.
    fn handle(
        &self,
        node: &Address,
        groups: Vec<Group>,
        sums: &HashMap<usize, RedisResult<i64>>,
        received: Vec<Value>,
        replies: &mut [Value],
        round: &mut Round,
    ) {
        let mut received = received.into_iter();
        // From the last one: what has succeeded behind a refused command has overtaken it, so that one
        // can only be dropped.
        let mut results = Vec::new();
        for group in groups {
            if group.ask.is_some() {
                let _asking = received.next();
            }
            let values: Vec<_> = received.by_ref().take(group.commands.len()).collect();
            let redirect = values.iter().find_map(|value| match value {
                Value::ServerError(error) => Some((Redirect::of(error, node)?, error.clone())),
                _ => None,
            });
            results.push((group, values, redirect));
        }
        let mut overtaken = Vec::new();
        for (mut group, values, redirect) in results.into_iter().rev() {
            // The keys of saved sockets have no order.
            let is_overtaken = !group.is_saved && overtaken.contains(&group.slot);
            let Some((redirect, error)) = redirect.filter(|_| !is_overtaken) else {
                overtaken.push(group.slot);
                self.works(group.slot);
                for (at, value) in group.commands.clone().zip(values) {
                    replies[at] = value;
                }
                if let Some(sum) = group.sum {
                    let counts = group.commands.clone().last().unwrap_or(sum);
                    match sums.get(&sum) {
                        Some(Ok(others)) => add(&mut replies[counts], *others),
                        _ => replies[counts] = Value::Nil,
                    }
                }
                continue;
            };
            group.ask = None;
            let error = match redirect {
                Redirect::Moved(slot, owner) => {
                    self.moved(slot, owner);
                    None
                }
                Redirect::Ask(owner) => {
                    group.ask = Some(owner);
                    None
                }
                Redirect::Later => Some(error.into()),
            };
            round.leave(group, error);
        }
    }

    /// Counts the subscribers on the nodes other than this one.
    async fn other_counts(
        self: &Arc<Self>,
        node: &Address,
        groups: &[Group],
        commands: &[&Cmd],
    ) -> HashMap<usize, RedisResult<i64>> {
        let mut sums = HashMap::new();
        for sum in groups.iter().filter_map(|group| group.sum) {
            let topology = self.topology();
            let others = topology.nodes().iter().filter(|other| *other != node);
            let counts = others.map(async |other| {
                // The subscribers of a node that is not there are not connected.
                let Ok(mut open) = self.sender(other).await else {
                    return Ok(0);
                };
                let reply =
                    link::reply_within(TOPOLOGY_TIMEOUT, &mut open.connection, commands[sum]);
                Ok(count(&reply.await?).unwrap_or_default())
            });
            let counts: RedisResult<Vec<i64>> = join_all(counts).await.into_iter().collect();
            sums.insert(sum, counts.map(|counts| counts.iter().sum()));
        }
        sums
    }

    /// Returns the groups that count subscribers to send again: they have found none, and the slot has
    /// another master.
    async fn check_counts(
        self: &Arc<Self>,
        mut counts: Vec<Group>,
        replies: &[Value],
    ) -> Vec<Group> {
        counts.retain(|group| count(&replies[group.commands.start]) == Some(0));
        if counts.is_empty() {
            return counts;
        }
        let before = self.topology();
        // Without an answer the counts stay as they are.
        let _ = self.refresh().await;
        let after = self.topology();
        counts.retain(|group| before.owner(group.slot) != after.owner(group.slot));
        counts
    }
}

/// The result of sending commands once.
#[derive(Default)]
struct Round {
    /// The commands that are sent again.
    left: Vec<Group>,
    /// Why a while should pass before.
    error: Option<RedisError>,
}

impl Round {
    fn leave(&mut self, group: Group, error: Option<RedisError>) {
        self.left.push(group);
        if error.is_some() {
            self.error = error;
        }
    }
}

pub(super) fn no_master(slot: u16) -> RedisError {
    let text = format!("the slot {slot} has no master");
    redis::make_extension_error("CLUSTERDOWN".to_owned(), Some(text))
}

/// Returns the reply for messages that were not sent.
fn not_there(error: &RedisError) -> Value {
    let text = error.to_string();
    let error = redis::make_extension_error("CLUSTERDOWN".to_owned(), Some(text));
    ServerError::try_from(error).map_or(Value::Nil, Value::ServerError)
}

/// Returns an error of the settings.
pub(super) fn invalid(reason: &'static str) -> RedisError {
    (ErrorKind::InvalidClientConfig, reason).into()
}

/// Returns the length of a command, about.
fn length(command: &Cmd) -> usize {
    let args = command.args_iter();
    args.map(|arg| match arg {
        redis::Arg::Simple(arg) => arg.len() + 16,
        _ => 16,
    })
    .sum()
}

/// Returns the number of subscribers in the reply to `PUBSUB`, or in that to `EXEC` with it.
fn count(reply: &Value) -> Option<i64> {
    match reply {
        Value::Array(values) => match &values[..] {
            [Value::Array(_) | Value::Map(_), ..] => count(&values[0]),
            [_, Value::Int(count)] => Some(*count),
            _ => None,
        },
        Value::Map(values) => match &values[..] {
            [(_, Value::Int(count))] => Some(*count),
            _ => None,
        },
        _ => None,
    }
}

/// Adds to the number of subscribers in a reply.
fn add(reply: &mut Value, more: i64) {
    match reply {
        Value::Array(values) => match &mut values[..] {
            [first @ (Value::Array(_) | Value::Map(_)), ..] => add(first, more),
            [_, Value::Int(count)] => *count = count.saturating_add(more),
            _ => {}
        },
        Value::Map(values) => {
            if let [(_, Value::Int(count))] = &mut values[..] {
                *count = count.saturating_add(more);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::slots::slot;
    use super::*;

    #[test]
    fn a_command_without_a_key_goes_to_the_node_of_its_transaction() {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("SET").arg("saved").arg("x");
        pipeline.cmd("MULTI");
        pipeline.cmd("EXISTS").arg("socket.io");
        pipeline.cmd("TIME");
        pipeline.cmd("EXEC");
        let commands: Vec<_> = pipeline.cmd_iter().collect();
        let groups = groups(&commands);
        let [saved, time] = &groups[..] else {
            panic!("two groups");
        };
        assert_eq!((saved.slot, saved.is_saved), (slot(b"saved"), true));
        assert_eq!((time.slot, time.is_saved), (slot(b"socket.io"), false));
        assert_eq!(time.commands, 1..5);
    }

    /// Returns the masters of a cluster in which no slot has one.
    fn without_masters() -> Arc<Masters> {
        let info = link::info("redis://127.0.0.1").expect("a URL");
        let masters = Arc::new(Masters::new(&Arc::from([]), &info));
        masters.set_topology(Topology::default());
        masters
    }

    /// Sends commands, and returns their replies with the seconds that they have taken.
    async fn send(masters: &Arc<Masters>, commands: &[&str]) -> (RedisResult<Vec<Value>>, u64) {
        let mut pipeline = Pipeline::new();
        for command in commands {
            pipeline.cmd(command).arg("a").arg("b");
        }
        let begin = tokio::time::Instant::now();
        let replies = masters.send(&pipeline).await;
        (replies, begin.elapsed().as_secs())
    }

    fn is_dropped(reply: &Value) -> bool {
        matches!(reply, Value::ServerError(error) if error.code() == "CLUSTERDOWN")
    }

    #[tokio::test(start_paused = true)]
    async fn messages_for_a_slot_without_a_master_are_dropped_after_thirty_seconds() {
        let masters = without_masters();
        let (replies, seconds) = send(&masters, &["SPUBLISH", "SPUBLISH"]).await;
        let replies = replies.expect("replies");
        assert!(
            replies.len() == 2 && replies.iter().all(is_dropped),
            "{replies:?}"
        );
        assert_eq!(seconds, 30);
        assert!(masters.status.lock().problem().is_some());
        // Until the slot has a master, further ones do not wait.
        let (replies, seconds) = send(&masters, &["SPUBLISH"]).await;
        assert!(is_dropped(&replies.expect("a reply")[0]));
        assert_eq!(seconds, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn messages_that_a_master_refuses_are_dropped_after_thirty_seconds_too() {
        let masters = without_masters();
        let reached = Arc::clone(&masters);
        let probes = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(5)).await;
                reached.works(slot(b"a"));
            }
        });
        let sent = send(&masters, &["SPUBLISH"]);
        let sent = tokio::time::timeout(Duration::from_secs(60), sent).await;
        let (replies, seconds) = sent.expect("an end");
        assert!(is_dropped(&replies.expect("a reply")[0]));
        assert_eq!(seconds, 30);
        probes.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_saved_socket_waits_a_second_for_a_master_of_its_slot() {
        for command in ["SET", "GETDEL"] {
            let masters = without_masters();
            let (replies, seconds) = send(&masters, &[command]).await;
            assert!(is_dropped(&replies.expect("a reply")[0]));
            assert_eq!(seconds, 1);
            // The connection is not at fault.
            assert!(masters.status.lock().problem().is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_waits_five_seconds_for_a_master_of_its_slot() {
        let (replies, seconds) = send(&without_masters(), &["XADD"]).await;
        assert!(replies.is_err());
        assert_eq!(seconds, 5);
    }
}
