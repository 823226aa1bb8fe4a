//! The broker of one server: it connects, carries messages, and connects again.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_core::future::BoxFuture;
use redis::{ErrorKind, Pipeline, PushInfo, PushKind, RedisResult, Value};

use super::Backoff;
use super::batch::Batch;
use super::connection::{self, Connection, Endpoint, Link, Links, Nodes, NodesChange};
use super::entries::Entry;
use super::form::{Form, Pushed, Subscription};
use super::link::{self, Id, Received};
use super::log::{self, Log, Page};
use super::subscribed::{Changes, Subscribed};
use crate::clock::now;
use crate::cluster::wire::entry::decode_entry;
use crate::cluster::{Command, Envelope, Inbox, Offset, Port};
use crate::protocol::NamespaceName;
use crate::random::random;

/// The most subscriptions that are made at once.
const MAX_SUBSCRIPTIONS: usize = 1_000;

/// The most messages of other servers that are handled before the next command.
const MAX_RECEIVED: usize = 64;

/// Runs the broker of one server.
pub(super) async fn run(endpoint: Endpoint, form: Arc<dyn Form>, mut port: Port) {
    let mut state = State {
        nodes: endpoint.nodes(),
        subscribed: Subscribed::new(Arc::clone(&form), port.server_id()),
        log: Log::new(form.streams()).map(|log| log.with_max_len(form.max_len())),
        form,
        inbox: port.inbox(),
        log_window: port.log_window(),
        is_past_read: false,
        next: None,
        works: false,
    };
    let mut former = Vec::new();
    let mut backoff = Backoff::new();
    let mut was_connected = false;
    loop {
        state.works = false;
        let ended = match Connected::new(&endpoint, &mut state, &mut former).await {
            Ok(connected) => {
                // Gaps are counted first: an application may read the count when it is connected.
                if was_connected && state.log.is_none() {
                    state.inbox.gap(&"Redis was not connected");
                }
                state.report_gap(None);
                // A node that is not there yet is reported when it is.
                if connected.subscriber.connection.has_all() {
                    state.inbox.connected();
                }
                was_connected = true;
                connected.serve(&mut port, &mut state).await
            }
            Err(error) => Err(error),
        };
        match ended {
            Ok(()) => return,
            Err(error) => {
                state.inbox.disconnected(&error);
                // Questions have failed.
                let next = state.next.take();
                state.next = next.filter(|command| !command.is_question());
            }
        }
        // A connection that ends at once, for example because Redis takes no messages, counts as none.
        if state.works {
            backoff = Backoff::new();
        }
        let [chance] = random();
        let delay = tokio::time::sleep(backoff.next(chance));
        tokio::select! {
            () = delay => {}
            () = port.closed() => return,
        }
    }
}

/// What outlives a connection.
struct State {
    form: Arc<dyn Form>,
    /// The nodes of a Redis Cluster.
    nodes: Option<Arc<dyn Nodes>>,
    subscribed: Subscribed,
    /// The streams. `None` if all messages use pub/sub.
    log: Option<Log>,
    inbox: Inbox,
    /// See [`Port::log_window`].
    log_window: Option<Duration>,
    /// Whether what came into the log before this server was read.
    is_past_read: bool,
    /// A command that was taken behind others, and is handled after them.
    next: Option<Command>,
    /// Whether Redis has carried out commands on the present connections.
    works: bool,
}

/// The connections of a server.
struct Connected {
    publisher: Link,
    subscriber: Link,
    received: Received,
    /// How many messages the subscriber has received.
    heard: Arc<AtomicUsize>,
    /// The connection that waits for entries of streams.
    reader: Option<Link>,
}

/// Work that waits for Redis.
type InFlight = BoxFuture<'static, RedisResult<Vec<Value>>>;

/// Polls work if there is any.
fn poll<T>(in_flight: &mut Option<BoxFuture<'static, T>>, cx: &mut Context<'_>) -> Poll<T> {
    match in_flight {
        Some(work) => work.as_mut().poll(cx),
        None => Poll::Pending,
    }
}

const CONNECTION_ENDED: (ErrorKind, &str) = (ErrorKind::Io, "the connection has ended");

impl Connected {
    /// Connects, and makes all subscriptions.
    async fn new(
        endpoint: &Endpoint,
        state: &mut State,
        former: &mut Vec<Option<Id>>,
    ) -> RedisResult<Self> {
        let (sender, received) = link::channel();
        let heard = Arc::clone(&sender.activity);
        let reads = state.log.is_some();
        let links = match (endpoint, &state.nodes) {
            (_, Some(nodes)) => Links::to_cluster(nodes, sender, reads).await?,
            (Endpoint::One(client), None) => Links::to_one(client, sender, reads, former).await?,
            (Endpoint::Cluster(_), None) => return Err(CONNECTION_ENDED.into()),
        };
        let Links {
            mut publisher,
            subscriber,
            reader,
        } = links;
        if let Some(log) = &mut state.log {
            log.connect(&mut publisher.connection, &*state.form).await?;
            if !state.is_past_read {
                let past = state.read_past(&mut publisher.connection).await;
                if let (Err(_), Some(log)) = (&past, &mut state.log) {
                    log.read_less_past();
                }
                past?;
                state.is_past_read = true;
            }
        }
        let connected = Self {
            publisher,
            subscriber,
            received,
            heard,
            reader,
        };
        // The rooms come first: a server that is counted receives the messages for its rooms.
        for subscribe in state.subscribed.all_in_order() {
            let changes = Changes {
                subscribe,
                unsubscribe: Vec::new(),
            };
            change(connected.subscriber.connection.clone(), changes).await?;
        }
        Ok(connected)
    }

    /// Carries messages until the server closes.
    ///
    /// # Errors
    ///
    /// Fails when a connection ends.
    async fn serve(mut self, port: &mut Port, state: &mut State) -> RedisResult<()> {
        let mut in_flight: Option<InFlight> = None;
        let mut batch = Batch::default();
        // The subscriptions that the batch in flight ends.
        let mut ending = Vec::new();
        if let Some(log) = &state.log {
            // What the former connections have not sent comes first.
            for message in log.unconfirmed() {
                batch.add(message, &*state.form);
            }
            if !batch.is_empty() {
                in_flight = Some(self.send(&mut batch, Changes::default()));
            }
        }
        let mut reading = None;
        let mut catching_up = None;
        // The last question that waits for what `catching_up` reads.
        let mut last_held = 0;
        // A batch or a read in flight has a timeout of its own, so a late PONG behind it means nothing.
        let is_sending = Arc::new(AtomicBool::new(false));
        let nodes = self.subscriber.connection.clone();
        let publisher = self.publisher.connection.clone();
        let sending = Arc::clone(&is_sending);
        let mut publisher_ended = pin!(Link::watch(publisher, move || {
            sending.load(Ordering::Relaxed)
        }));
        let subscriber = self.subscriber.connection.clone();
        let (heard, mut before) = (Arc::clone(&self.heard), 0);
        let mut subscriber_ended = pin!(Link::watch(subscriber, move || {
            // The answer may stand behind large messages.
            let heard = heard.load(Ordering::Relaxed);
            std::mem::replace(&mut before, heard) != heard
        }));
        loop {
            if in_flight.is_none() {
                if let Some(command) = state.next.take() {
                    in_flight = Some(self.begin(command, port, state, &mut batch, &mut ending));
                }
            }
            if let (Some(log), Some(reader)) = (&state.log, &self.reader) {
                if reading.is_none() {
                    reading = Some(log.ask(&reader.connection, true));
                }
                if let (None, Some(last)) = (&catching_up, log.last_held()) {
                    last_held = last;
                    catching_up = Some(log.ask(&self.publisher.connection, false));
                }
            }
            let is_busy = in_flight.is_some() || catching_up.is_some();
            is_sending.store(is_busy, Ordering::Relaxed);
            let timer = state.log.as_ref().and_then(Log::next_heartbeat);
            tokio::select! {
                ended = poll_fn(|cx| poll(&mut in_flight, cx)) => {
                    in_flight = None;
                    let replies = ended?;
                    state.subscribed.forget(std::mem::take(&mut ending));
                    if !nodes.has_all() {
                        batch.drop_synced();
                    }
                    std::mem::take(&mut batch).finish(replies, state.log.as_mut())?;
                    state.works = true;
                }
                command = port.next(), if in_flight.is_none() => match command {
                    Some(command) => {
                        in_flight =
                            Some(self.begin(command, port, state, &mut batch, &mut ending));
                    }
                    None => {
                        // The server ends. What Redis refuses now ends with the connection.
                        let changes = Changes {
                            subscribe: Vec::new(),
                            unsubscribe: state.subscribed.all(),
                        };
                        let _ = change(self.subscriber.connection.clone(), changes).await;
                        return Ok(());
                    }
                },
                message = self.received.next() => {
                    let message = message.ok_or(CONNECTION_ENDED)?;
                    state.receive(message).await?;
                    for _ in 1..MAX_RECEIVED {
                        let Some(message) = self.received.try_next() else {
                            break;
                        };
                        state.receive(message).await?;
                    }
                }
                page = poll_fn(|cx| poll(&mut reading, cx)) => {
                    reading = None;
                    if let (Err(_), Some(log)) = (&page, &mut state.log) {
                        log.read_less();
                    }
                    self.read(page?, state).await?;
                }
                page = poll_fn(|cx| poll(&mut catching_up, cx)) => {
                    catching_up = None;
                    if let (Err(_), Some(log)) = (&page, &mut state.log) {
                        log.read_less();
                    }
                    let has_more = self.read(page?, state).await?;
                    if let Some(log) = state.log.as_mut().filter(|_| !has_more) {
                        for question in log.release(last_held) {
                            state.inbox.deliver(question).await;
                        }
                    }
                }
                () = until(timer) => self.beat(state).await?,
                change = nodes.changed() => state.report(change),
                error = &mut publisher_ended => return Err(error),
                error = &mut subscriber_ended => return Err(error),
            }
        }
    }

    /// Begins to carry out a command, and further ones that wait: first the subscriptions, then the
    /// messages.
    fn begin(
        &self,
        command: Command,
        port: &mut Port,
        state: &mut State,
        batch: &mut Batch,
        ending: &mut Vec<Subscription>,
    ) -> InFlight {
        let mut changes = Changes::default();
        let mut command = Some(command);
        while let Some(next) = command {
            match next {
                // A subscription that is made after messages would be late for them.
                Command::Open { .. } | Command::Close { .. } | Command::Room { .. }
                    if !batch.is_empty() =>
                {
                    state.next = Some(next);
                    break;
                }
                Command::Open { namespace } => state.subscribed.open(&namespace, &mut changes),
                Command::Close { namespace } => state.subscribed.close(&namespace, &mut changes),
                Command::Room {
                    namespace,
                    room,
                    exists,
                } => state
                    .subscribed
                    .room(&namespace, &room, exists, &mut changes),
                message => {
                    let me = state.subscribed.server();
                    batch.push(message, &*state.form, state.log.as_mut(), me);
                }
            }
            if !batch.has_room() || changes.len() >= MAX_SUBSCRIPTIONS {
                break;
            }
            command = port.try_next();
        }
        ending.clone_from(&changes.unsubscribe);
        self.send(batch, changes)
    }

    /// Makes and ends subscriptions, and sends messages then.
    fn send(&self, batch: &mut Batch, changes: Changes) -> InFlight {
        let (commands, bytes) = batch.take_commands();
        let subscriber = self.subscriber.connection.clone();
        let mut publisher = self.publisher.connection.clone();
        Box::pin(async move {
            change(subscriber, changes).await?;
            connection::send(&mut publisher, &commands, bytes).await
        })
    }

    /// Delivers the entries of a reply. Returns whether there may be more.
    async fn read(&mut self, page: Page, state: &mut State) -> RedisResult<bool> {
        let Some(log) = &mut state.log else {
            return Ok(false);
        };
        let (entries, behind) = log.entries(page)?;
        let has_more = !behind.is_empty();
        log.read_more();
        if has_more {
            // Redis may have removed entries that were not read.
            log.check_gap(&mut self.publisher.connection, behind)
                .await?;
            state.report_gap(entries.first().map(|(place, _)| place.id));
        }
        for (place, entry) in entries {
            if !state.log.as_ref().is_some_and(|log| log.is_new(place)) {
                continue;
            }
            self.deliver(place.id, entry, state).await?;
            if let Some(log) = &mut state.log {
                log.handled(place);
            }
        }
        Ok(has_more)
    }

    async fn deliver(&mut self, at: Offset, entry: Entry, state: &mut State) -> RedisResult<()> {
        let is_own = *entry.uid == *state.subscribed.server();
        if entry.is_gap {
            if !is_own {
                state.inbox.gap(&"a server has dropped messages");
            }
            state.inbox.begin_log(at);
            return Ok(());
        }
        if is_own {
            let number = entry.number.unwrap_or_default();
            state.inbox.returned(&entry.namespace, number, at).await;
            return Ok(());
        }
        let Some(namespace) = state.namespace(&entry.namespace) else {
            state.inbox.skip(at);
            return Ok(());
        };
        if let Some(is_first) = entry.is_heartbeat() {
            // A server says that it is there where it has the namespace.
            let is_open = state.subscribed.namespace(&entry.namespace).is_some();
            if let Some(log) = state.log.as_mut().filter(|_| is_open) {
                log.heard_old(&namespace, now(), is_first);
            }
            state.inbox.skip(at);
            return Ok(());
        }
        if let Some(question) = &entry.after {
            self.deliver_question(&namespace, &entry.uid, question, state)
                .await?;
        }
        match decode_entry(entry.kind, &entry.uid, &namespace, &entry.data) {
            Ok(Some(envelope)) => {
                if let Some(log) = state.log.as_mut().filter(|_| log::is_question(&envelope)) {
                    log.asked_in_stream(&envelope);
                }
                state.inbox.deliver_at(envelope, at).await;
            }
            Ok(None) => state.inbox.skip(at),
            Err(error) => {
                state.inbox.malformed(&error);
                state.inbox.skip(at);
            }
        }
        Ok(())
    }

    /// Delivers the question that a server has sent before an entry, unless it was lost.
    async fn deliver_question(
        &mut self,
        namespace: &NamespaceName,
        from: &str,
        question: &str,
        state: &mut State,
    ) -> RedisResult<()> {
        for has_all in [false, true] {
            let Some(log) = &mut state.log else {
                return Ok(());
            };
            if log.was_delivered(namespace, from, question) {
                return Ok(());
            }
            if let Some(questions) = log.release_to(namespace, from, question) {
                for question in questions {
                    state.inbox.deliver(question).await;
                }
                return Ok(());
            }
            if !has_all {
                self.subscriber.connection.flush().await?;
                while let Some(push) = self.received.try_next() {
                    state.receive(push).await?;
                }
            }
        }
        Ok(())
    }

    /// Tells servers with an old adapter that this one is alive.
    async fn beat(&mut self, state: &mut State) -> RedisResult<()> {
        let now = now();
        let Some(log) = &mut state.log else {
            return Ok(());
        };
        if log.next_heartbeat().is_none_or(|next| next > now) {
            return Ok(());
        }
        let mut pipeline = Pipeline::new();
        for namespace in log.heartbeats(now) {
            let server = state.subscribed.server();
            if let Some(command) = state.form.heartbeat(&namespace, server) {
                pipeline.add_command(command);
            }
        }
        let connection = &mut self.publisher.connection;
        connection::send(connection, &pipeline, 0).await.map(drop)
    }
}

impl State {
    /// Reports a change of the connections to the nodes of a Redis Cluster.
    fn report(&mut self, change: NodesChange) {
        // What a stream has lost, its log finds.
        if let Some(reason) = change.gap.filter(|_| self.log.is_none()) {
            self.inbox.gap(&reason);
        }
        match change.problem {
            None => self.inbox.connected(),
            Some(reason) => self.inbox.disconnected(&reason),
        }
    }

    /// Reports entries that are missing, before the `first` one that was read.
    fn report_gap(&mut self, first: Option<Offset>) {
        if let Some(gap) = self.log.as_mut().and_then(Log::take_gap) {
            self.inbox
                .gap(&"the stream does not have all entries that were not read");
            let gap = first.map_or(gap, |first| gap.min(first.before()));
            self.inbox.begin_log(gap);
        }
    }

    /// Returns the namespace of an entry. Returns `None` if its messages concern nobody.
    fn namespace(&self, name: &str) -> Option<NamespaceName> {
        let open = self.subscribed.namespace(name).cloned();
        // A client may come back to a namespace that is not open.
        let is_kept = self.log_window.is_some() && !name.is_empty();
        open.or_else(|| is_kept.then(|| name.into()))
    }

    /// Keeps what came into the log before this server reads it, for clients that come back.
    async fn read_past(&mut self, publisher: &mut Connection) -> RedisResult<()> {
        let (Some(window), Some(log)) = (self.log_window, &self.log) else {
            return Ok(());
        };
        let mut past = log.past(window, publisher).await?;
        self.inbox.begin_log(past.begin());
        while let Some(entries) = past.next(publisher).await? {
            for (at, entry) in entries {
                if entry.is_gap {
                    self.inbox.begin_log(at);
                    continue;
                }
                let namespace = entry.namespace.as_str().into();
                match decode_entry(entry.kind, &entry.uid, &namespace, &entry.data) {
                    Ok(Some(envelope)) => self.inbox.keep_at(envelope, at).await,
                    Ok(None) | Err(_) => self.inbox.skip(at),
                }
            }
        }
        Ok(())
    }

    /// Handles a message of a subscription.
    async fn receive(&mut self, message: PushInfo) -> RedisResult<()> {
        if let Some(envelope) = self.decode(message)? {
            match &mut self.log {
                Some(log) if log::is_question(&envelope) => log.hold(envelope)?,
                _ => self.inbox.deliver(envelope).await,
            }
        }
        Ok(())
    }

    /// Reads a message of a subscription. Returns `None` if it is not for this server.
    fn decode(&self, message: PushInfo) -> RedisResult<Option<Envelope>> {
        let PushInfo { kind, data } = message;
        let mut texts = data.into_iter().filter_map(|value| match value {
            Value::BulkString(bytes) => Some(bytes),
            _ => None,
        });
        let mut next = || texts.next().unwrap_or_default();
        let (pattern, channel, bytes) = match kind {
            PushKind::PMessage => (Some(next()), next(), Bytes::from(next())),
            PushKind::Message | PushKind::SMessage => (None, next(), Bytes::from(next())),
            PushKind::Disconnection => return Err(CONNECTION_ENDED.into()),
            _ => return Ok(None),
        };
        // A message of a namespace that was closed in the meantime is no longer for this server.
        let source = self.subscribed.source(pattern.as_ref().unwrap_or(&channel));
        let Some((carried, namespace)) = source else {
            return Ok(None);
        };
        let message = Pushed {
            carried,
            namespace,
            channel: &channel,
            bytes: &bytes,
            me: self.subscribed.server(),
        };
        match self.form.decode(&message, &self.inbox) {
            // Two namespaces can have the same channel.
            Ok(envelope) => Ok(envelope.filter(|envelope| {
                envelope.namespace == *namespace
                    || self.subscribed.namespace(envelope.namespace()).is_some()
            })),
            Err(error) => {
                self.inbox.malformed(&error);
                Ok(None)
            }
        }
    }
}

/// Makes and ends subscriptions.
async fn change(mut connection: Connection, changes: Changes) -> RedisResult<()> {
    let Some(changes) = connection.change_nodes(changes).await? else {
        return Ok(());
    };
    let Changes {
        subscribe,
        unsubscribe,
    } = changes;
    let subscribe = subscribe.iter().map(Subscription::subscribe);
    let unsubscribe = unsubscribe.iter().map(Subscription::unsubscribe);
    // One command for each: the names of one may have one hash slot only.
    let commands: Vec<_> = subscribe.chain(unsubscribe).collect();
    for chunk in commands.chunks(MAX_SUBSCRIPTIONS) {
        let mut pipeline = Pipeline::with_capacity(chunk.len());
        for command in chunk {
            pipeline.add_command(command.clone());
        }
        for reply in connection::send(&mut connection, &pipeline, 0).await? {
            if let Value::ServerError(error) = reply {
                return Err(error.into());
            }
        }
    }
    Ok(())
}

/// Waits for a time. Waits for ever without one.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
