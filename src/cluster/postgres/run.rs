//! The broker of one server: it connects, carries messages, and connects again.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_core::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_postgres::Notification;

use super::Settings;
use super::attachments::Statements;
use super::batch::Batch;
use super::link::{Backend, Error, Link, TIMEOUT, within};
use super::received::Received;
use super::state::{Change, State};
use crate::clock::now;
use crate::cluster::backoff::Backoff;
use crate::cluster::{Command, Port};
use crate::engine_io::timer::deadline;
use crate::random::random;

/// The most notifications that are handled before the next command.
const MAX_RECEIVED: usize = 64;

/// The most subscriptions that are made in one transaction.
const MAX_SUBSCRIPTIONS: usize = 1_000;

/// Runs the broker of one server.
pub(super) async fn run(settings: Arc<Settings>, mut port: Port) {
    let mut state = State::new(Arc::clone(&settings), &port);
    let mut former = Vec::new();
    let mut backoff = Backoff::new();
    loop {
        state.works = false;
        let ended = match Connected::new(&settings, &mut former).await {
            Ok(connected) => connected.serve(&mut port, &mut state).await,
            Err(error) => Err(error),
        };
        match ended {
            Ok(()) => return,
            Err(error) => {
                state.inbox.disconnected(&error);
                state.disconnected(now());
            }
        }
        // A connection that ends at once counts as none.
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

/// The connections of a server.
struct Connected {
    settings: Arc<Settings>,
    publisher: Link,
    statements: Arc<Statements>,
    listener: Link,
    notifications: mpsc::Receiver<Notification>,
}

/// Work that waits for PostgreSQL.
type InFlight<T> = Option<BoxFuture<'static, Result<T, Error>>>;

/// Polls work if there is any.
fn poll<T>(work: &mut InFlight<T>, cx: &mut Context<'_>) -> Poll<Result<T, Error>> {
    match work {
        Some(work) => work.as_mut().poll(cx),
        None => Poll::Pending,
    }
}

impl Connected {
    async fn new(
        settings: &Arc<Settings>,
        former: &mut Vec<Option<Backend>>,
    ) -> Result<Self, Error> {
        let mut publisher = Link::connect(&settings.config).await?;
        publisher.kill(former).await?;
        former.push(publisher.take_backend());
        settings.table.check(&publisher.client).await?;
        // What is not yet on the disk is lost when PostgreSQL stops, and so are the notifications.
        let no_wait = "SET synchronous_commit TO off";
        within(TIMEOUT, publisher.client.batch_execute(no_wait)).await?;
        let statements = Statements::prepare(&publisher.client, &settings.table).await?;
        let (mut listener, notifications) = Link::connect_listener(&settings.config).await?;
        former.push(listener.take_backend());
        Ok(Self {
            settings: Arc::clone(settings),
            publisher,
            statements,
            listener,
            notifications,
        })
    }

    /// Carries messages until the server closes.
    ///
    /// # Errors
    ///
    /// Fails when a connection ends.
    async fn serve(mut self, port: &mut Port, state: &mut State) -> Result<(), Error> {
        let mut batch = Batch::default();
        let mut received = Received::default();
        let changes = state.subscribe_again(now());
        state.add_signs(&mut batch);
        let mut in_flight = Some(self.send(&mut batch, changes));
        let mut is_connected = false;
        let mut cleaning = None;
        let mut next_cleaning = deadline(now(), self.settings.cleanup_interval);
        // What is in flight has a timeout of its own, and so has a row that is read. So an answer behind
        // them that is late means nothing.
        let is_sending = Arc::new(AtomicBool::new(true));
        let sending = Arc::clone(&is_sending);
        let mut publisher_silent =
            pin!(Link::watch(Arc::clone(&self.publisher.client), move || {
                sending.load(Ordering::Relaxed)
            }));
        // The answer may stand behind notifications.
        let heard = Arc::new(AtomicUsize::new(0));
        let (count, mut before) = (Arc::clone(&heard), 0);
        let mut listener_silent = pin!(Link::watch(Arc::clone(&self.listener.client), move || {
            let heard = count.load(Ordering::Relaxed);
            std::mem::replace(&mut before, heard) != heard
        }));
        let mut timer = pin!(tokio::time::sleep_until(now().into()));
        loop {
            if in_flight.is_none() && (state.next.is_some() || state.has_signs()) {
                let next = state.next.take();
                in_flight = Some(self.begin(next, port, state, &mut batch));
            }
            let is_busy = in_flight.is_some() || cleaning.is_some() || !received.is_empty();
            is_sending.store(is_busy, Ordering::Relaxed);
            let wake = state.next_wake().min(next_cleaning);
            if timer.deadline().into_std() != wake {
                timer.as_mut().reset(wake.into());
            }
            tokio::select! {
                refusals = poll_fn(|cx| poll(&mut in_flight, cx)) => {
                    in_flight = None;
                    state.finish(std::mem::take(&mut batch), refusals?, now());
                    if !std::mem::replace(&mut is_connected, true) {
                        state.connected();
                    }
                }
                command = port.next(), if in_flight.is_none() => match command {
                    Some(command) => {
                        in_flight = Some(self.begin(Some(command), port, state, &mut batch));
                    }
                    None => return self.leave(state).await,
                },
                notification = self.notifications.recv(), if received.has_room() => {
                    let Some(notification) = notification else {
                        return Err(self.listener.ended().await);
                    };
                    heard.fetch_add(1, Ordering::Relaxed);
                    self.receive(&notification, state, &mut received).await;
                    for _ in 1..MAX_RECEIVED {
                        if !received.has_room() {
                            break;
                        }
                        let Ok(notification) = self.notifications.try_recv() else {
                            break;
                        };
                        self.receive(&notification, state, &mut received).await;
                    }
                }
                incoming = received.next(), if !received.is_empty() => {
                    heard.fetch_add(1, Ordering::Relaxed);
                    state.handle(incoming?).await;
                }
                cleaned = poll_fn(|cx| poll(&mut cleaning, cx)) => {
                    let has_more = state.cleaned(cleaned)?;
                    cleaning = has_more.then(|| self.clean());
                }
                () = timer.as_mut() => {
                    let now = now();
                    state.wake(now);
                    if now >= next_cleaning {
                        next_cleaning = deadline(now, self.settings.cleanup_interval);
                        cleaning.get_or_insert_with(|| self.clean());
                    }
                }
                error = self.publisher.ended() => return Err(error),
                error = &mut publisher_silent => return Err(error),
                error = &mut listener_silent => return Err(error),
            }
        }
    }

    /// Begins to carry out a command, and further ones that wait: first the subscriptions, then the
    /// messages.
    fn begin(
        &self,
        mut command: Option<Command>,
        port: &mut Port,
        state: &mut State,
        batch: &mut Batch,
    ) -> BoxFuture<'static, Result<Vec<Option<Error>>, Error>> {
        let mut changes = Vec::new();
        while let Some(next) = command.take().or_else(|| port.try_next()) {
            match next {
                // A subscription that is made after messages would be late for them.
                Command::Open { .. } | Command::Close { .. } if !batch.is_empty() => {
                    state.next = Some(next);
                    break;
                }
                Command::Open { namespace } => changes.extend(state.open(&namespace, now())),
                Command::Close { namespace } => changes.extend(state.close(&namespace)),
                message => {
                    // The namespaces are announced before their first messages.
                    state.add_signs(batch);
                    state.add(message, batch);
                }
            }
            if !batch.has_room() || changes.len() >= MAX_SUBSCRIPTIONS {
                break;
            }
        }
        state.add_signs(batch);
        self.send(batch, changes)
    }

    /// Makes and ends subscriptions, and sends messages then.
    fn send(
        &self,
        batch: &mut Batch,
        changes: Vec<Change>,
    ) -> BoxFuture<'static, Result<Vec<Option<Error>>, Error>> {
        let listener = Arc::clone(&self.listener.client);
        let sent = batch.send(
            Arc::clone(&self.publisher.client),
            Arc::clone(&self.statements),
        );
        Box::pin(async move {
            for changes in changes.chunks(MAX_SUBSCRIPTIONS) {
                let commands: String = changes.iter().map(Change::to_string).collect();
                within(TIMEOUT, listener.batch_execute(&commands)).await?;
            }
            sent.await
        })
    }

    /// Handles a notification, after those that wait for their attachments.
    async fn receive(
        &self,
        notification: &Notification,
        state: &mut State,
        received: &mut Received,
    ) {
        let Some((incoming, row)) = state.read(notification) else {
            return;
        };
        match row {
            None if received.is_empty() => state.handle(incoming).await,
            None => received.push(incoming),
            Some(row) => {
                let statements = Arc::clone(&self.statements);
                let client = Arc::clone(&self.publisher.client);
                received.fetch(incoming, statements.fetch(client, row));
            }
        }
    }

    fn clean(&self) -> BoxFuture<'static, Result<bool, Error>> {
        let statements = Arc::clone(&self.statements);
        let client = Arc::clone(&self.publisher.client);
        Box::pin(statements.clean(client, self.settings.cleanup_interval))
    }

    /// Tells the other servers that this one leaves.
    async fn leave(&self, state: &mut State) -> Result<(), Error> {
        let mut batch = Batch::default();
        state.close_all();
        state.add_signs(&mut batch);
        // If it fails, the others notice after a while.
        let _ = self.send(&mut batch, Vec::new()).await;
        Ok(())
    }
}
