//! A session that several tasks share: its own task, the requests of its polls, and whoever emits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Waker};

use hyper::upgrade::OnUpgrade;
use tokio::runtime::Handle;

use super::budget::Budget;
use super::fanout::Outgoing;
use super::request::StoredRequest;
use crate::clock::now;
use crate::engine_io::{
    CloseReason, Config, EnginePacket, Message, Refusal, Session, SessionEvent, SessionId,
    SessionParams, Transport,
};
use crate::notice::Notices;
use crate::sync::{Mutex, MutexGuard};

/// A session, and who waits for what in it. Its lock is held for a few lines, and no other lock is
/// taken under it.
#[derive(Debug)]
pub(crate) struct SharedSession {
    shared: Mutex<Shared>,
    sid: SessionId,
    /// A running number for the log, where the secret id must not stand.
    pub(crate) number: u64,
    /// Where its task runs.
    pub(super) runtime: Handle,
    pub(crate) config: Arc<Config>,
    pub(crate) notices: Arc<Notices>,
    pub(crate) request: StoredRequest,
    pub(crate) params: SessionParams,
    /// What its sockets keep.
    pub(crate) budget: Budget,
    /// The [`End`] that its task is to bring about; 0 if none.
    end: AtomicU8,
}

#[derive(Debug)]
struct Shared {
    session: Session,
    /// The session's task, while it sleeps. While it runs nobody needs to wake it.
    task: Option<Waker>,
    /// The request that waits for packets.
    poll: Option<Waker>,
    /// Those who wait until input is wanted.
    input_wakers: Vec<Waker>,
    /// Those who wait until output has left.
    drain_wakers: Vec<Waker>,
    /// A reader that is not the session's task.
    reader: Option<Waker>,
    websocket: Option<Upgrade>,
}

/// How the application ends a session with all its sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Its sockets are made to leave.
    DisconnectAll = 1,
    /// The server ends.
    Shutdown,
}

/// A WebSocket that is on its way.
#[derive(Debug)]
pub(crate) struct Upgrade {
    pub(crate) stream: OnUpgrade,
    /// Whether compression was agreed on.
    pub(crate) deflate: bool,
}

impl Shared {
    /// What tells whether anybody has to be woken.
    fn snapshot(&self) -> Snapshot {
        Snapshot {
            event_count: self.session.event_count(),
            due: self.session.poll_timeout(),
        }
    }

    /// Those who have something to do by what happened since the snapshot.
    fn wakers(&mut self, snapshot: &Snapshot) -> [Option<Waker>; 3] {
        let event_count = self.session.event_count() != snapshot.event_count;
        let due = self.session.poll_timeout() != snapshot.due;
        let task = event_count || due || self.session.has_output() || self.websocket.is_some();
        let task = task.then(|| self.task.take()).flatten();
        let poll = self.session.releases_poll();
        let poll = poll.then(|| self.poll.take()).flatten();
        let reader = event_count.then(|| self.reader.take()).flatten();
        [task, poll, reader]
    }
}

struct Snapshot {
    event_count: u64,
    due: Option<std::time::Instant>,
}

impl SharedSession {
    /// To be called in the runtime where its task is to run.
    pub(crate) fn open(
        config: Arc<Config>,
        notices: Arc<Notices>,
        sid: SessionId,
        number: u64,
        params: SessionParams,
        request: StoredRequest,
    ) -> Self {
        let now = now();
        let session = Session::open(
            Arc::clone(&config),
            &sid,
            params.transport,
            params.revision,
            now,
        );
        Self {
            shared: Mutex::new(Shared {
                session,
                task: None,
                poll: None,
                input_wakers: Vec::new(),
                drain_wakers: Vec::new(),
                reader: None,
                websocket: None,
            }),
            sid,
            number,
            runtime: Handle::current(),
            config,
            notices,
            request,
            params,
            budget: Budget::default(),
            end: AtomicU8::new(0),
        }
    }

    pub(crate) fn sid(&self) -> &SessionId {
        &self.sid
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock()
    }

    /// Changes the session and wakes those who may have something to do by that.
    fn update<R>(&self, change: impl FnOnce(&mut Session, std::time::Instant) -> R) -> R {
        let now = now();
        let mut shared = self.lock();
        let snapshot = shared.snapshot();
        let result = change(&mut shared.session, now);
        let wakers = shared.wakers(&snapshot);
        drop(shared);
        wake(wakers);
        result
    }

    // For those who send.

    /// Queues the messages of one packet; false if the session is closed or closes by it.
    pub(crate) fn send(&self, messages: impl IntoIterator<Item = Message>) -> bool {
        let mut shared = self.lock();
        let snapshot = shared.snapshot();
        let now = || now();
        let sent = shared.session.send_all(messages, now);
        let wakers = shared.wakers(&snapshot);
        drop(shared);
        wake(wakers);
        sent
    }

    /// Queues packets, but volatile ones only if they need not wait.
    pub(super) fn send_queued<'a>(&self, packets: impl Iterator<Item = &'a Outgoing>) {
        let mut shared = self.lock();
        let snapshot = shared.snapshot();
        for outgoing in packets {
            if outgoing.volatile && !shared.session.is_writable() {
                continue;
            }
            let now = || now();
            shared.session.send_all(outgoing.packet.clone(), now);
        }
        let wakers = shared.wakers(&snapshot);
        drop(shared);
        wake(wakers);
    }

    /// Queues what a client that is back has missed, and then the packet that lets it in.
    pub(super) fn send_missed(
        &self,
        missed: impl IntoIterator<Item = Message>,
        connect: impl IntoIterator<Item = Message>,
    ) {
        self.update(|session, now| {
            session.send_missed(missed);
            session.send_all(connect, || now);
        });
    }

    /// Queues a refusal, or closes the session if too many wait.
    pub(crate) fn send_refusal(&self, messages: impl IntoIterator<Item = Message>) {
        self.update(|session, now| session.send_refusal(messages, now));
    }

    /// Counts what is held back to be sent later; false if the session is closed or closes by it.
    pub(super) fn hold(&self, bytes: usize) -> bool {
        self.update(|session, now| session.handle_held(bytes, now))
    }

    /// What was held back is sent now, or dropped.
    pub(super) fn release(&self, bytes: usize) {
        self.lock().session.handle_released(bytes);
    }

    pub(crate) fn close(&self, reason: CloseReason) {
        self.update(|session, now| session.close(reason, now));
    }

    /// Closes and sends nothing any more but the close itself.
    pub(crate) fn discard(&self) {
        self.update(Session::discard);
    }

    /// Closes the session, whose task will not run any more, and wakes everybody who waits for it.
    pub(super) fn abandon(&self) {
        self.close(CloseReason::TransportClose);
        let mut shared = self.lock();
        let mut input_wakers = std::mem::take(&mut shared.input_wakers);
        input_wakers.append(&mut shared.drain_wakers);
        let others = [shared.poll.take(), shared.reader.take()];
        drop(shared);
        wake(others);
        input_wakers.into_iter().for_each(Waker::wake);
    }

    /// Runs something where the session's task runs.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        self.lock().session.close_reason()
    }

    /// The transport, if requests may still name the session.
    pub(crate) fn open_transport(&self) -> Option<Transport> {
        let shared = self.lock();
        let known = shared.session.accepts_requests();
        known.then(|| shared.session.transport())
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.lock().session.is_writable()
    }

    pub(crate) fn transport(&self) -> Transport {
        self.lock().session.transport()
    }

    pub(crate) fn poll_drained(&self, cx: &Context<'_>) -> Poll<()> {
        let mut shared = self.lock();
        if shared.session.is_drained() {
            return Poll::Ready(());
        }
        register(&mut shared.drain_wakers, cx);
        Poll::Pending
    }

    /// A question to the client is open: its answer may lie behind events that are not read yet.
    pub(crate) fn ack_requested(&self) {
        let mut shared = self.lock();
        let was_paused = !shared.session.wants_read();
        shared.session.handle_ack_requested();
        if !was_paused {
            return;
        }
        let input_wakers = shared.take_wakers();
        let task = shared.task.take();
        drop(shared);
        wake([task]);
        input_wakers.into_iter().for_each(Waker::wake);
    }

    /// So many questions are answered or given up.
    pub(crate) fn acks_done(&self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.lock().session.handle_acks_done(count);
    }

    /// Wakes the session's task, for what is not in the session.
    pub(crate) fn wake(&self) {
        self.update(|session, _| session.bump());
    }

    /// Has all sockets of the session leave, and closes it then: its task knows them.
    pub(crate) fn disconnect_all(&self) {
        self.request(End::DisconnectAll);
    }

    /// Closes the session for the end of the server, when the handlers that run have answered.
    pub(crate) fn shut_down(&self) {
        self.request(End::Shutdown);
    }

    fn request(&self, end: End) {
        self.end.store(end as u8, Ordering::Release);
        self.wake();
    }

    /// The end that was asked for since the last call.
    pub(crate) fn take_end(&self) -> Option<End> {
        if self.end.load(Ordering::Acquire) == 0 {
            return None;
        }
        match self.end.swap(0, Ordering::AcqRel) {
            end if end == End::DisconnectAll as u8 => Some(End::DisconnectAll),
            end if end == End::Shutdown as u8 => Some(End::Shutdown),
            _ => None,
        }
    }

    // For polling requests.

    pub(crate) fn begin_poll(&self) -> Result<(), Refusal> {
        self.update(|session, now| {
            if !session.accepts_requests() {
                return Err(Refusal::UnknownSession);
            }
            session.handle_poll(now)
        })
    }

    /// Gives the next packets to `push` while it wants more; pending while there are none.
    pub(crate) fn poll_packets(
        &self,
        cx: &Context<'_>,
        mut push: impl FnMut(EnginePacket) -> bool,
    ) -> Poll<()> {
        let mut shared = self.lock();
        let was_paused = !shared.session.wants_read();
        let mut any = false;
        while let Some(packet) = shared.session.poll_transmit(Transport::Polling) {
            any = true;
            if !push(packet) {
                break;
            }
        }
        if !any && !shared.session.is_closed() {
            shared.poll = Some(cx.waker().clone());
            return Poll::Pending;
        }
        shared.session.handle_poll_answered();
        let input_wakers = shared.take_wakers();
        // The task may have to see that the session has ended by this, or that what comes over a
        // WebSocket that probes is to be read again.
        let resumes = was_paused && shared.session.wants_read();
        let task = (resumes || shared.session.is_closed()).then(|| shared.task.take());
        drop(shared);
        wake(task);
        input_wakers.into_iter().for_each(Waker::wake);
        Poll::Ready(())
    }

    /// Has the poll that waits answered with a noop if there is nothing else.
    pub(crate) fn release_poll(&self) {
        self.lock().session.handle_poll_timeout();
    }

    pub(crate) fn abort_poll(&self) {
        self.update(Session::handle_poll_aborted);
    }

    pub(crate) fn begin_post(&self) -> Result<(), Refusal> {
        self.update(|session, now| {
            if !session.takes_posts() {
                return Err(Refusal::UnknownSession);
            }
            session.handle_post(now)
        })
    }

    /// Ends a POST whose body is not handed in.
    pub(crate) fn end_post(&self) {
        self.update(Session::handle_post_end);
    }

    /// Hands packets of a body in while input is wanted; ready when the body, and so the POST, is
    /// at its end.
    ///
    /// # Errors
    ///
    /// If the session has ended before all packets were handed in, for a reason that does not lie
    /// in them.
    pub(crate) fn poll_post(
        &self,
        cx: &Context<'_>,
        packets: &mut impl Iterator<Item = Result<EnginePacket, crate::engine_io::ParseError>>,
    ) -> Poll<Result<(), Refusal>> {
        let now = now();
        loop {
            let mut shared = self.lock();
            let snapshot = shared.snapshot();
            let polled = shared.take_packets(cx, packets, now);
            let wakers = shared.wakers(&snapshot);
            drop(shared);
            wake(wakers);
            if let Some(polled) = polled {
                return polled;
            }
        }
    }

    /// Hands a WebSocket to the session's task; gives it back if there is one already.
    pub(crate) fn offer_websocket(&self, upgrade: Upgrade) -> Result<(), Upgrade> {
        let taken = self.update(Session::handle_upgrade);
        if taken.is_err() {
            return Err(upgrade);
        }
        let mut shared = self.lock();
        let snapshot = shared.snapshot();
        shared.websocket = Some(upgrade);
        let wakers = shared.wakers(&snapshot);
        drop(shared);
        wake(wakers);
        Ok(())
    }

    // For the session's task.

    /// Begins a round of the task. While the task runs nobody needs to wake it.
    pub(crate) fn begin_round(&self) -> RoundStart {
        let mut shared = self.lock();
        shared.task = None;
        RoundStart {
            event_count: shared.session.event_count(),
            has_events: shared.session.has_events(),
            wants_read: shared.session.wants_frames(),
            websocket: shared.websocket.take(),
        }
    }

    /// The session itself, for the task that drives it. Nobody is woken by what it does there.
    pub(crate) fn with_session<R>(&self, act: impl FnOnce(&mut Session) -> R) -> R {
        act(&mut self.lock().session)
    }

    /// Takes all events out, tells which were begun, and wakes those who wait for room.
    pub(crate) fn take_events(&self, events: &mut VecDeque<SessionEvent>, consumed: usize) {
        let mut shared = self.lock();
        shared.session.handle_consumed(consumed);
        shared.session.take_events(events);
        let input_wakers = shared.take_wakers();
        drop(shared);
        input_wakers.into_iter().for_each(Waker::wake);
    }

    /// The next event, for a reader in any task.
    pub(crate) fn poll_event(&self, cx: &Context<'_>) -> Poll<SessionEvent> {
        let mut shared = self.lock();
        let Some(event) = shared.session.poll_event() else {
            // The last event was taken before.
            if let Some(reason) = shared.session.close_reason() {
                return Poll::Ready(SessionEvent::Closed(reason));
            }
            shared.reader = Some(cx.waker().clone());
            return Poll::Pending;
        };
        if let SessionEvent::Message(message) = &event {
            shared.session.handle_consumed(Session::cost(message));
        }
        let input_wakers = shared.take_wakers();
        // Input may be wanted again.
        let task = shared.task.take();
        drop(shared);
        wake([task]);
        input_wakers.into_iter().for_each(Waker::wake);
        Poll::Ready(event)
    }

    /// Lets the clock of the session go on, and answers a poll that this releases.
    pub(crate) fn handle_timeout(&self) {
        self.update(|session, now| session.handle_timeout(now));
    }

    /// Wakes a reader that is not in the session's task.
    pub(crate) fn wake_reader(&self, cx: &Context<'_>) {
        let elsewhere = |reader: &mut Waker| !reader.will_wake(cx.waker());
        let reader = self.lock().reader.take_if(elsewhere);
        wake([reader]);
    }

    /// Lets the task sleep if it is idle and nothing came in between; gives back why not.
    pub(crate) fn try_sleep(
        &self,
        cx: &Context<'_>,
        look: impl FnOnce(&Session) -> AfterRound,
    ) -> AfterRound {
        let mut shared = self.lock();
        match look(&shared.session) {
            AfterRound::Idle if shared.websocket.is_some() => return AfterRound::Busy,
            AfterRound::Idle => {}
            other => return other,
        }
        let input_wakers = shared.take_wakers();
        shared.task = Some(cx.waker().clone());
        // What the task did may release a poll: the probe of an upgrade does.
        let poll = shared.session.releases_poll().then(|| shared.poll.take());
        drop(shared);
        wake(poll);
        input_wakers.into_iter().for_each(Waker::wake);
        AfterRound::Idle
    }
}

/// What a round of the session's task begins with.
pub(crate) struct RoundStart {
    /// [`Session::event_count`], before the round.
    pub(crate) event_count: u64,
    /// Whether the session has events.
    pub(crate) has_events: bool,
    pub(crate) wants_read: bool,
    pub(crate) websocket: Option<Upgrade>,
}

/// How things stand at the end of a round.
pub(crate) enum AfterRound {
    /// Nothing is to be done until somebody wakes the task.
    Idle,
    Busy,
    /// The task has to be woken then, which is sooner than it thought.
    Due(std::time::Instant),
    /// The session is closed.
    Closed,
}

/// How many packets of a body are taken under one lock.
const BATCH: usize = 64;

impl Shared {
    /// Takes some packets of a body; tells if that was all, or if there is no room for more.
    fn take_packets(
        &mut self,
        cx: &Context<'_>,
        packets: &mut impl Iterator<Item = Result<EnginePacket, crate::engine_io::ParseError>>,
        now: std::time::Instant,
    ) -> Option<Poll<Result<(), Refusal>>> {
        let session = &mut self.session;
        let result = 'ended: {
            for _ in 0..BATCH {
                if !session.takes_posts() {
                    break 'ended Err(Refusal::BadRequest);
                }
                if !session.wants_read() {
                    session.handle_post_blocked(now);
                    register(&mut self.input_wakers, cx);
                    return Some(Poll::Pending);
                }
                match packets.next() {
                    None => break 'ended Ok(()),
                    Some(Ok(packet)) => session.handle_packet(Transport::Polling, packet, now),
                    Some(Err(_)) => session.close(CloseReason::ParseError, now),
                }
                if !session.is_open() {
                    // The next poll tells what this body has done; what follows is passed over.
                    break 'ended Ok(());
                }
            }
            return None;
        };
        session.handle_post_end(now);
        Some(Poll::Ready(result))
    }

    /// Those whose input_wakers is over.
    #[inline]
    fn take_wakers(&mut self) -> Vec<Waker> {
        if self.input_wakers.is_empty() && self.drain_wakers.is_empty() {
            return Vec::new();
        }
        self.take_ready_wakers()
    }

    #[cold]
    fn take_ready_wakers(&mut self) -> Vec<Waker> {
        let mut over = Vec::new();
        if !self.input_wakers.is_empty() && self.session.wants_read() {
            over.append(&mut self.input_wakers);
        }
        if !self.drain_wakers.is_empty() && self.session.is_drained() {
            over.append(&mut self.drain_wakers);
        }
        over
    }
}

fn register(list: &mut Vec<Waker>, cx: &Context<'_>) {
    if !list.iter().any(|each| each.will_wake(cx.waker())) {
        list.push(cx.waker().clone());
    }
}

fn wake(wakers: impl IntoIterator<Item = Option<Waker>>) {
    wakers.into_iter().flatten().for_each(Waker::wake);
}
