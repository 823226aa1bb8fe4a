//! The subscriptions of a server on the nodes of a Redis Cluster.
//!
//! Each master with subscriptions has a connection that is for nothing else. One task keeps them: it
//! makes what [`Channels`] wants, and again what a node has ended.

use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_core::future::BoxFuture;
use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, Stream as _};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, ConnectionInfo, Pipeline, PushInfo, PushKind, RedisError, RedisResult, Value};

use tokio::sync::Notify;

use super::channels::{Channels, Plan};
use super::form::{Subscription, SubscriptionKind};
use super::link::{self, NotReceived, Sender};
use super::masters::Masters;
use super::pool::{Key, Open, Pool};
use super::slots::{Address, Redirect, Topology};
use super::subscribed::Changes;
use crate::clock::now;
use crate::random::random;
use crate::sync::Mutex;

/// The most subscriptions of one pipeline.
const MAX_PIPELINE: usize = 1_000;

/// How often the nodes are asked for their slots.
const REFRESH: Duration = Duration::from_secs(30);

/// How long an old view of the slots may last.
const VIEWS_APART: Duration = Duration::from_secs(5);

/// The time between two attempts while subscriptions wait: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// How long a node may take to answer a `PING`.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(4);

/// How many times a `PING` is sent whose answer was taken for that to another command.
const MAX_PINGS: usize = 3;

/// The subscriptions of a server, with the connections for them.
pub(super) struct Receiver {
    masters: Arc<Masters>,
    pool: Pool,
    receiving: Mutex<Receiving>,
    /// The receiver of the messages.
    received: Mutex<Option<Sender>>,
    /// Notified when subscriptions are made or ended.
    settled: Notify,
}

/// The subscriptions, and the connections that have them.
#[derive(Default)]
struct Receiving {
    channels: Channels,
    /// The subscriptions to end on each node.
    ends: Plan,
    /// The open connections, with their generations.
    open: HashMap<Address, u64>,
}

impl Receiving {
    fn begin(&mut self, changes: Changes) -> OpenChanges {
        let mut end = Vec::new();
        for subscription in changes.unsubscribe {
            if let Some(address) = self.channels.release(&subscription) {
                let ends = self.ends.entry(address.clone()).or_default();
                ends.push(subscription.clone());
                end.push((address, subscription));
            }
        }
        for subscription in &changes.subscribe {
            self.channels.want(subscription.clone());
        }
        let begin = changes.subscribe;
        OpenChanges { begin, end }
    }

    /// Returns whether each change is made or has trouble. Forgets the changes that are made.
    fn are_done(&self, open: &mut OpenChanges) -> bool {
        let channels = &self.channels;
        let begin = &mut open.begin;
        begin.retain(|subscription| !channels.is_settled(subscription));
        let end = &mut open.end;
        end.retain(|(address, subscription)| !channels.has_ended(address, subscription));
        begin.is_empty() && end.is_empty()
    }
}

/// Makes and ends subscriptions. Returns when they are made, or have trouble.
pub(super) async fn change(receiver: &Arc<Receiver>, changes: Changes) -> RedisResult<()> {
    if changes.len() == 0 {
        return Ok(());
    }
    let mut open = receiver.receiving.lock().begin(changes);
    receiver.settle();
    receiver.masters.work.notify_one();
    loop {
        let settled = receiver.settled.notified();
        let mut settled = pin!(settled);
        // What happens from now on wakes this task.
        settled.as_mut().enable();
        if receiver.receiving.lock().are_done(&mut open) {
            return Ok(());
        }
        settled.await;
    }
}

/// The changes that a task waits for.
struct OpenChanges {
    begin: Vec<Subscription>,
    end: Vec<(Address, Subscription)>,
}

/// Waits until all messages are received that were published before.
pub(super) async fn flush(receiver: &Arc<Receiver>) -> RedisResult<()> {
    let flushed = receiver.pool.all().into_iter().map(async |open| {
        let Open { mut connection, .. } = open;
        let [a, b, c, d]: [u8; 4] = random();
        let token = u32::from_be_bytes([a, b, c, d]).to_string();
        let mut ping = redis::cmd("PING");
        ping.arg(&token);
        for _ in 0..MAX_PINGS {
            // A subscription that ends without being asked counts as an answer.
            match link::reply_within(FLUSH_TIMEOUT, &mut connection, &ping).await {
                Ok(Value::BulkString(answer)) if answer == token.as_bytes() => return,
                Ok(_) => {}
                // What such a connection has not sent is lost: a gap is counted.
                Err(_) => return,
            }
        }
    });
    join_all(flushed).await;
    Ok(())
}

impl Receiver {
    pub(super) fn new(masters: &Arc<Masters>, info: ConnectionInfo) -> Self {
        Self {
            masters: Arc::clone(masters),
            pool: Pool::new(info),
            receiving: Mutex::default(),
            received: Mutex::default(),
            settled: Notify::new(),
        }
    }

    /// Sends the messages to a receiver from now on.
    pub(super) fn set_received(&self, received: Sender) {
        *self.received.lock() = Some(received);
    }

    /// Returns whether messages arrive for all subscriptions, but for new ones.
    pub(super) fn has_all(&self) -> bool {
        self.receiving.lock().channels.has_all()
    }

    /// Handles a message of a connection for subscriptions.
    ///
    /// # Errors
    ///
    /// Fails if too many messages wait. The connection is ended then.
    fn handle_push(
        self: &Arc<Self>,
        address: &Address,
        generation: u64,
        message: PushInfo,
    ) -> Result<(), NotReceived> {
        use PushKind::{
            Disconnection, Message, PMessage, PSubscribe, PUnsubscribe, SMessage, SSubscribe,
            SUnsubscribe, Subscribe, Unsubscribe,
        };

        let kind = match &message.kind {
            Subscribe | Unsubscribe => SubscriptionKind::Channel,
            PSubscribe | PUnsubscribe => SubscriptionKind::Pattern,
            SSubscribe | SUnsubscribe => SubscriptionKind::Sharded,
            Message | PMessage | SMessage => {
                let received = self.received.lock();
                let queued = received.as_ref().map_or(Ok(()), |to| to.queue(message));
                drop(received);
                if queued.is_err() {
                    self.end(address, generation, "too many messages wait to be handled");
                }
                return queued;
            }
            Disconnection => {
                self.end(address, generation, "the connection has ended");
                return Ok(());
            }
            _ => return Ok(()),
        };
        let Some(Value::BulkString(name)) = message.data.first() else {
            return Ok(());
        };
        let subscription = kind.of(String::from_utf8_lossy(name).into_owned());
        let mut receiving = self.receiving.lock();
        if receiving.open.get(address) != Some(&generation) {
            return Ok(());
        }
        if matches!(message.kind, Subscribe | PSubscribe | SSubscribe) {
            receiving.channels.made(address, &subscription);
        } else if receiving.channels.ended(address, &subscription) {
            // The slot has moved.
            self.masters.work.notify_one();
        }
        Ok(())
    }

    /// Handles the end of a connection for subscriptions.
    fn end(self: &Arc<Self>, address: &Address, generation: u64, reason: &str) {
        let mut receiving = self.receiving.lock();
        let is_open = receiving.open.get(address) == Some(&generation);
        let mut had_channels = false;
        if is_open {
            receiving.open.remove(address);
            receiving.ends.remove(address);
            had_channels = receiving.channels.disconnected(address);
        }
        drop(receiving);
        self.pool.forget(&address.into(), generation);
        if had_channels {
            self.has_problem(format!("{address}: {reason}"));
        }
        self.settled.notify_waiters();
        self.masters.work.notify_one();
    }

    /// Reports that messages are not received.
    fn has_problem(&self, reason: String) {
        self.masters.status.lock().receiving = Some(reason);
        self.masters.status_changed.notify_one();
    }

    /// Reports what has changed after subscriptions were made or ended.
    fn settle(&self) {
        let mut receiving = self.receiving.lock();
        if receiving.channels.has_all() {
            let is_lossy = receiving.channels.take_lossy();
            let mut status = self.masters.status.lock();
            let had_problem = status.receiving.take();
            if is_lossy {
                let reason = had_problem.as_deref().unwrap_or("a slot has moved");
                status.gap = Some(reason.to_owned());
            }
            if is_lossy || had_problem.is_some() {
                self.masters.status_changed.notify_one();
            }
        }
        drop(receiving);
        self.settled.notify_waiters();
    }

    /// Returns the connection for subscriptions to a node.
    async fn subscriber(self: &Arc<Self>, address: &Address) -> RedisResult<Open> {
        let key = Key::from(address);
        let (receiver, node) = (Arc::downgrade(self), address.clone());
        let on_end = move |generation, error: RedisError| {
            if let Some(receiver) = receiver.upgrade() {
                receiver.end(&node, generation, &error.to_string());
            }
        };
        let (receiver, node) = (Arc::downgrade(self), address.clone());
        let open = self.pool.get(
            &key,
            |config, generation, activity| {
                let activity = Arc::clone(activity);
                config.set_push_sender(move |message| {
                    activity.received.fetch_add(1, Ordering::Relaxed);
                    match receiver.upgrade() {
                        Some(receiver) => receiver.handle_push(&node, generation, message),
                        None => Err(NotReceived),
                    }
                })
            },
            on_end,
        );
        let open = open.await?;
        let mut receiving = self.receiving.lock();
        receiving.open.insert(address.clone(), open.generation);
        drop(receiving);
        Ok(open)
    }

    /// Ends and makes subscriptions on a node.
    async fn work_on(self: Arc<Self>, node: Address, wanted: Wanted) -> Worked {
        let Wanted {
            subscribe,
            unsubscribe,
        } = wanted;
        let mut worked = Worked {
            node,
            ..Worked::default()
        };
        let mut open = match self.subscriber(&worked.node).await {
            Ok(open) => open,
            Err(error) => {
                worked.fail(&self, &subscribe, &unsubscribe, &error);
                return worked;
            }
        };
        let ends = unsubscribe.iter().map(Subscription::unsubscribe);
        let begins = subscribe.iter().map(Subscription::subscribe);
        // One command for each: the names of one may have one slot only.
        let commands: Vec<_> = ends.chain(begins).collect();
        let replies = match send_all(&mut open.connection, &commands).await {
            Ok(replies) => replies,
            Err(error) => {
                self.end(&worked.node, open.generation, &error.to_string());
                worked.fail(&self, &subscribe, &unsubscribe, &error);
                return worked;
            }
        };
        for reply in replies {
            let Value::ServerError(error) = reply else {
                continue;
            };
            // The reply may be that to another command, but what it says of a slot is so.
            match Redirect::of(&error, &worked.node) {
                Some(Redirect::Moved(slot, owner)) => {
                    worked.was_redirected = true;
                    self.masters.moved(slot, owner);
                }
                _ => worked.error = Some(format!("{}: {error}", worked.node)),
            }
        }
        let mut receiving = self.receiving.lock();
        let channels = &mut receiving.channels;
        channels.answered_ends(&worked.node, &unsubscribe);
        let refused = channels.answered(&worked.node, &subscribe);
        worked.is_refused = !refused.is_empty();
        if worked.error.is_none() {
            // Each node names another one.
            let stuck = refused.iter().find(|each| channels.is_stuck(each));
            worked.error =
                stuck.map(|each| format!("no node subscribes to the channel {}", each.name));
        }
        if worked.error.is_some() {
            refused.iter().for_each(|each| channels.trouble(each));
        }
        drop(receiving);
        worked
    }
}

/// The subscriptions to make and to end on a node.
#[derive(Default)]
struct Wanted {
    subscribe: Vec<Subscription>,
    unsubscribe: Vec<Subscription>,
}

/// The result of making and ending subscriptions on a node.
#[derive(Default)]
struct Worked {
    node: Address,
    /// Whether a subscription was not made.
    is_refused: bool,
    /// Whether another node was named for a slot.
    was_redirected: bool,
    /// Why subscriptions cannot be made.
    error: Option<String>,
}

impl Worked {
    /// Records that the node is not there.
    fn fail(
        &mut self,
        receiver: &Receiver,
        subscribe: &[Subscription],
        unsubscribe: &[Subscription],
        error: &RedisError,
    ) {
        let mut receiving = receiver.receiving.lock();
        let channels = &mut receiving.channels;
        channels.answered_ends(&self.node, unsubscribe);
        channels.answered(&self.node, subscribe);
        subscribe.iter().for_each(|each| channels.trouble(each));
        drop(receiving);
        self.is_refused = !subscribe.is_empty();
        self.error = self.is_refused.then(|| format!("{}: {error}", self.node));
    }
}

/// Sends commands in pipelines, and returns their replies.
async fn send_all(
    connection: &mut MultiplexedConnection,
    commands: &[Cmd],
) -> RedisResult<Vec<Value>> {
    let mut replies = Vec::new();
    for chunk in commands.chunks(MAX_PIPELINE) {
        let mut pipeline = Pipeline::with_capacity(chunk.len());
        for command in chunk {
            pipeline.add_command(command.clone());
        }
        replies.append(&mut link::send(connection, &pipeline, 0).await?);
    }
    Ok(replies)
}

/// The work of [`keep`] that waits for nodes.
type Job = BoxFuture<'static, Done>;

enum Done {
    Worked(Worked),
    Refreshed(RedisResult<()>),
}

/// Keeps the subscriptions. It ends when it is dropped.
pub(super) async fn keep(receiver: Arc<Receiver>) {
    let before = (now(), receiver.masters.topology());
    let mut keeper = Keeper {
        receiver,
        before,
        jobs: FuturesUnordered::new(),
        busy: HashSet::new(),
        held: HashMap::new(),
        is_refreshing: false,
        refresh_at: now() + REFRESH,
        delay: RETRY.0,
    };
    loop {
        keeper.plan();
        let receiver = Arc::clone(&keeper.receiver);
        let wake_at = keeper.wake_at();
        let is_idle = keeper.jobs.is_empty();
        tokio::select! {
            done = keeper.next_done(), if !is_idle => {
                if let Some(done) = done {
                    keeper.handle(done);
                }
            }
            () = receiver.masters.work.notified() => {}
            () = tokio::time::sleep_until(wake_at.into()) => {}
        }
    }
}

struct Keeper {
    receiver: Arc<Receiver>,
    jobs: FuturesUnordered<Job>,
    /// The nodes with a job.
    busy: HashSet<Address>,
    /// The nodes that have refused something, and until when they are left alone.
    held: HashMap<Address, Instant>,
    is_refreshing: bool,
    refresh_at: Instant,
    delay: Duration,
    /// The slots as they were some time ago.
    before: (Instant, Arc<Topology>),
}

impl Keeper {
    async fn next_done(&mut self) -> Option<Done> {
        poll_fn(|cx| Pin::new(&mut self.jobs).poll_next(cx)).await
    }

    /// Begins what can be done.
    fn plan(&mut self) {
        let now = now();
        self.held.retain(|_, until| *until > now);
        if !self.is_refreshing && self.refresh_at <= now {
            self.is_refreshing = true;
            self.refresh_at = now + REFRESH;
            let receiver = Arc::clone(&self.receiver);
            self.jobs.push(Box::pin(async move {
                let refreshed = receiver.masters.refresh().await;
                receiver.masters.probe().await;
                Done::Refreshed(refreshed)
            }));
        }
        let topology = self.receiver.masters.topology();
        let mut work = HashMap::<Address, Wanted>::new();
        let mut receiving = self.receiver.receiving.lock();
        let is_busy =
            |address: &Address| self.busy.contains(address) || self.held.contains_key(address);
        let (plan, homeless) = receiving.channels.plan(&topology, is_busy);
        for (address, subscribe) in plan {
            work.entry(address).or_default().subscribe = subscribe;
        }
        let ends = std::mem::take(&mut receiving.ends);
        for (address, unsubscribe) in ends {
            match is_busy(&address) {
                true => drop(receiving.ends.insert(address, unsubscribe)),
                false => work.entry(address).or_default().unsubscribe = unsubscribe,
            }
        }
        let is_waiting = receiving.channels.is_waiting();
        drop(receiving);
        if let Some(subscription) = homeless {
            let name = subscription.name;
            self.receiver
                .has_problem(format!("the slot of the channel {name} has no master"));
            self.receiver.settled.notify_waiters();
        }
        if (is_waiting && self.busy.is_empty()) || self.receiver.masters.is_failing() {
            self.refresh_soon();
        }
        for (node, wanted) in work {
            self.busy.insert(node.clone());
            let worked = Arc::clone(&self.receiver).work_on(node, wanted);
            self.jobs
                .push(Box::pin(async move { Done::Worked(worked.await) }));
        }
    }

    /// Asks for the slots after a moment, which is longer each time.
    fn refresh_soon(&mut self) {
        if !self.is_refreshing && self.refresh_at > now() + self.delay {
            self.refresh_at = now() + self.delay;
            self.delay = (2 * self.delay).min(RETRY.1);
        }
    }

    fn wake_at(&self) -> Instant {
        let held = self.held.values().copied();
        held.chain([self.refresh_at])
            .min()
            .unwrap_or(self.refresh_at)
    }

    fn handle(&mut self, done: Done) {
        match done {
            Done::Refreshed(refreshed) => {
                self.is_refreshing = false;
                if let Err(error) = refreshed {
                    tracing::debug!(
                        target: "tower_socketio::cluster",
                        %error,
                        "no node of the Redis Cluster answers"
                    );
                }
                self.relocate();
            }
            Done::Worked(worked) => {
                self.busy.remove(&worked.node);
                self.handle_worked(worked);
            }
        }
    }

    fn handle_worked(&mut self, worked: Worked) {
        let has_error = worked.error.is_some();
        if let Some(error) = worked.error {
            self.receiver.has_problem(error);
        }
        self.receiver.settle();
        if !worked.is_refused {
            self.delay = RETRY.0;
            return;
        }
        if worked.was_redirected && !has_error {
            return;
        }
        // A slot that has another master by then does not wait for this node.
        self.held.insert(worked.node, now() + self.delay);
        self.refresh_soon();
    }

    /// Moves the subscriptions whose slots have another master.
    fn relocate(&mut self) {
        let topology = self.receiver.masters.topology();
        let masters = &self.receiver.masters;
        let is_there =
            |node: &Address| topology.nodes().contains(node) || masters.seeds.contains(node);
        self.receiver.pool.retain(is_there);
        let (at, before) = &self.before;
        if now().saturating_duration_since(*at) < VIEWS_APART {
            return;
        }
        let before = Arc::clone(before);
        self.before = (now(), Arc::clone(&topology));
        let mut receiving = self.receiver.receiving.lock();
        let former = receiving.channels.relocate(&topology, &before);
        for (address, mut subscriptions) in former {
            // A node that is not there has none.
            if receiving.open.contains_key(&address) {
                let ends = receiving.ends.entry(address).or_default();
                ends.append(&mut subscriptions);
            }
        }
    }
}
