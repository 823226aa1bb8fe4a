//! A session that several tasks share: its own task, the requests of its polls, and whoever emits.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use hyper::upgrade::OnUpgrade;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::budget::Budget;
use super::fanout::Mail;
use super::handshake::Handshake;
use crate::engine::{
    CloseReason, Config, Message, Opening, Packet, Refusal, Session, SessionEvent, SessionId,
    Transport,
};
use crate::notice::Notices;

/// A session, and who waits for what in it. Its lock is held for a few lines, and no other lock is
/// taken under it.
#[derive(Debug)]
pub(crate) struct Link {
    shared: Mutex<Shared>,
    sid: SessionId,
    /// A running number for the log, where the secret id must not stand.
    pub(crate) number: u64,
    /// Where its task runs.
    pub(super) runtime: Handle,
    pub(crate) config: Arc<Config>,
    pub(crate) notices: Arc<Notices>,
    pub(crate) handshake: Handshake,
    pub(crate) opening: Opening,
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
    waiting: Vec<Waker>,
    /// Those who wait until output has left.
    draining: Vec<Waker>,
    /// A reader that is not the session's task.
    reader: Option<Waker>,
    websocket: Option<Upgrade>,
}

/// How the application ends a session with all its sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Its sockets are made to leave.
    Dismissal = 1,
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
    fn mark(&self) -> Mark {
        Mark {
            told: self.session.told(),
            due: self.session.poll_timeout(),
        }
    }

    /// Those who have something to do by what happened since the mark.
    fn wakers(&mut self, mark: &Mark) -> [Option<Waker>; 3] {
        let told = self.session.told() != mark.told;
        let due = self.session.poll_timeout() != mark.due;
        let task = told || due || self.session.has_output() || self.websocket.is_some();
        let task = task.then(|| self.task.take()).flatten();
        let poll = self.session.releases_poll();
        let poll = poll.then(|| self.poll.take()).flatten();
        let reader = told.then(|| self.reader.take()).flatten();
        [task, poll, reader]
    }
}

struct Mark {
    told: u64,
    due: Option<std::time::Instant>,
}

impl Link {
    /// To be called in the runtime where its task is to run.
    pub(crate) fn open(
        config: Arc<Config>,
        notices: Arc<Notices>,
        sid: SessionId,
        number: u64,
        opening: Opening,
        handshake: Handshake,
    ) -> Self {
        let now = Instant::now().into_std();
        let session = Session::open(
            Arc::clone(&config),
            &sid,
            opening.transport,
            opening.revision,
            now,
        );
        Self {
            shared: Mutex::new(Shared {
                session,
                task: None,
                poll: None,
                waiting: Vec::new(),
                draining: Vec::new(),
                reader: None,
                websocket: None,
            }),
            sid,
            number,
            runtime: Handle::current(),
            config,
            notices,
            handshake,
            opening,
            budget: Budget::default(),
            end: AtomicU8::new(0),
        }
    }

    pub(crate) fn sid(&self) -> &SessionId {
        &self.sid
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the session and wakes those who may have something to do by that.
    fn with<R>(&self, change: impl FnOnce(&mut Session, std::time::Instant) -> R) -> R {
        let now = Instant::now().into_std();
        let mut shared = self.lock();
        let mark = shared.mark();
        let result = change(&mut shared.session, now);
        let wakers = shared.wakers(&mark);
        drop(shared);
        wake(wakers);
        result
    }

    // For those who send.

    /// Queues the messages of one packet; false if the session is closed or closes by it.
    pub(crate) fn send(&self, messages: impl IntoIterator<Item = Message>) -> bool {
        let mut shared = self.lock();
        let mark = shared.mark();
        let now = || Instant::now().into_std();
        let sent = shared.session.send_all(messages, now);
        let wakers = shared.wakers(&mark);
        drop(shared);
        wake(wakers);
        sent
    }

    /// Queues packets, but volatile ones only if they need not wait.
    pub(super) fn send_mails<'a>(&self, mails: impl Iterator<Item = &'a Mail>) {
        let mut shared = self.lock();
        let mark = shared.mark();
        for mail in mails {
            if mail.volatile && !shared.session.is_writable() {
                continue;
            }
            let now = || Instant::now().into_std();
            shared.session.send_all(mail.packet.clone(), now);
        }
        let wakers = shared.wakers(&mark);
        drop(shared);
        wake(wakers);
    }

    /// Queues what a client that is back has missed, and then the packet that lets it in.
    pub(super) fn send_missed(
        &self,
        missed: impl IntoIterator<Item = Message>,
        connect: impl IntoIterator<Item = Message>,
    ) {
        self.with(|session, now| {
            session.send_missed(missed);
            session.send_all(connect, || now);
        });
    }

    /// Queues a refusal, or closes the session if too many wait.
    pub(crate) fn send_refusal(&self, messages: impl IntoIterator<Item = Message>) {
        self.with(|session, now| session.send_refusal(messages, now));
    }

    /// Counts what is held back to be sent later; false if the session is closed or closes by it.
    pub(super) fn hold(&self, bytes: usize) -> bool {
        self.with(|session, now| session.handle_held(bytes, now))
    }

    /// What was held back is sent now, or dropped.
    pub(super) fn release(&self, bytes: usize) {
        self.lock().session.handle_released(bytes);
    }

    pub(crate) fn close(&self, reason: CloseReason) {
        self.with(|session, now| session.close(reason, now));
    }

    /// Closes and sends nothing any more but the close itself.
    pub(crate) fn discard(&self) {
        self.with(Session::discard);
    }

    /// Closes the session, whose task will not run any more, and wakes everybody who waits for it.
    pub(super) fn abandon(&self) {
        self.close(CloseReason::TransportClose);
        let mut shared = self.lock();
        let mut waiting = std::mem::take(&mut shared.waiting);
        waiting.append(&mut shared.draining);
        let others = [shared.poll.take(), shared.reader.take()];
        drop(shared);
        wake(others);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Runs something where the session's task runs.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        self.lock().session.close_reason()
    }

    /// The transport, if requests may still name the session.
    pub(crate) fn known_transport(&self) -> Option<Transport> {
        let shared = self.lock();
        let known = shared.session.is_known();
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
        enlist(&mut shared.draining, cx);
        Poll::Pending
    }

    /// A question to the client is open: its answer may lie behind events that are not read yet.
    pub(crate) fn asked(&self) {
        let mut shared = self.lock();
        let was_paused = !shared.session.wants_read();
        shared.session.handle_asked();
        if !was_paused {
            return;
        }
        let waiting = shared.take_waiting();
        let task = shared.task.take();
        drop(shared);
        wake([task]);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// So many questions are answered or given up.
    pub(crate) fn answered(&self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.lock().session.handle_answered(count);
    }

    /// Wakes the session's task, for what is not in the session.
    pub(crate) fn wake(&self) {
        self.with(|session, _| session.nudge());
    }

    /// Has all sockets of the session leave, and closes it then: its task knows them.
    pub(crate) fn dismiss(&self) {
        self.request(End::Dismissal);
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
            end if end == End::Dismissal as u8 => Some(End::Dismissal),
            end if end == End::Shutdown as u8 => Some(End::Shutdown),
            _ => None,
        }
    }

    // For polling requests.

    pub(crate) fn begin_poll(&self) -> Result<(), Refusal> {
        self.with(|session, now| {
            if !session.is_known() {
                return Err(Refusal::UnknownSession);
            }
            session.handle_poll(now)
        })
    }

    /// Gives the next packets to `push` while it wants more; pending while there are none.
    pub(crate) fn poll_packets(
        &self,
        cx: &Context<'_>,
        mut push: impl FnMut(Packet) -> bool,
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
        let waiting = shared.take_waiting();
        // The task may have to see that the session has ended by this, or that what comes over a
        // WebSocket that probes is to be read again.
        let resumes = was_paused && shared.session.wants_read();
        let task = (resumes || shared.session.is_closed()).then(|| shared.task.take());
        drop(shared);
        wake(task);
        waiting.into_iter().for_each(Waker::wake);
        Poll::Ready(())
    }

    /// Has the poll that waits answered with a noop if there is nothing else.
    pub(crate) fn release_poll(&self) {
        self.lock().session.handle_poll_timeout();
    }

    pub(crate) fn abort_poll(&self) {
        self.with(Session::handle_poll_aborted);
    }

    pub(crate) fn begin_post(&self) -> Result<(), Refusal> {
        self.with(|session, now| {
            if !session.takes_posts() {
                return Err(Refusal::UnknownSession);
            }
            session.handle_post(now)
        })
    }

    /// Ends a POST whose body is not handed in.
    pub(crate) fn end_post(&self) {
        self.with(Session::handle_post_end);
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
        packets: &mut impl Iterator<Item = Result<Packet, crate::engine::ParseError>>,
    ) -> Poll<Result<(), Refusal>> {
        let now = Instant::now().into_std();
        loop {
            let mut shared = self.lock();
            let mark = shared.mark();
            let polled = shared.take_packets(cx, packets, now);
            let wakers = shared.wakers(&mark);
            drop(shared);
            wake(wakers);
            if let Some(polled) = polled {
                return polled;
            }
        }
    }

    /// Hands a WebSocket to the session's task; gives it back if there is one already.
    pub(crate) fn offer_websocket(&self, upgrade: Upgrade) -> Result<(), Upgrade> {
        let taken = self.with(Session::handle_upgrade);
        if taken.is_err() {
            return Err(upgrade);
        }
        let mut shared = self.lock();
        let mark = shared.mark();
        shared.websocket = Some(upgrade);
        let wakers = shared.wakers(&mark);
        drop(shared);
        wake(wakers);
        Ok(())
    }

    // For the session's task.

    /// Begins a round of the task. While the task runs nobody needs to wake it.
    pub(crate) fn begin_round(&self) -> Round {
        let mut shared = self.lock();
        shared.task = None;
        Round {
            told: shared.session.told(),
            news: shared.session.has_events(),
            wants_read: shared.session.wants_frames(),
            websocket: shared.websocket.take(),
        }
    }

    /// The session itself, for the task that drives it. Nobody is woken by what it does there.
    pub(crate) fn drive<R>(&self, act: impl FnOnce(&mut Session) -> R) -> R {
        act(&mut self.lock().session)
    }

    /// Takes all events out, tells which were begun, and wakes those who wait for room.
    pub(crate) fn pull(&self, events: &mut VecDeque<SessionEvent>, consumed: usize) {
        let mut shared = self.lock();
        shared.session.handle_consumed(consumed);
        shared.session.take_events(events);
        let waiting = shared.take_waiting();
        drop(shared);
        waiting.into_iter().for_each(Waker::wake);
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
        let waiting = shared.take_waiting();
        // Input may be wanted again.
        let task = shared.task.take();
        drop(shared);
        wake([task]);
        waiting.into_iter().for_each(Waker::wake);
        Poll::Ready(event)
    }

    /// Lets the clock of the session go on, and answers a poll that this releases.
    pub(crate) fn handle_timeout(&self) {
        self.with(|session, now| session.handle_timeout(now));
    }

    /// Wakes a reader that is not in the session's task.
    pub(crate) fn wake_reader(&self, cx: &Context<'_>) {
        let elsewhere = |reader: &mut Waker| !reader.will_wake(cx.waker());
        let reader = self.lock().reader.take_if(elsewhere);
        wake([reader]);
    }

    /// Lets the task sleep if it is idle and nothing came in between; gives back why not.
    pub(crate) fn park(
        &self,
        cx: &Context<'_>,
        look: impl FnOnce(&Session) -> Standing,
    ) -> Standing {
        let mut shared = self.lock();
        match look(&shared.session) {
            Standing::Idle if shared.websocket.is_some() => return Standing::Busy,
            Standing::Idle => {}
            other => return other,
        }
        let waiting = shared.take_waiting();
        shared.task = Some(cx.waker().clone());
        // What the task did may release a poll: the probe of an upgrade does.
        let poll = shared.session.releases_poll().then(|| shared.poll.take());
        drop(shared);
        wake(poll);
        waiting.into_iter().for_each(Waker::wake);
        Standing::Idle
    }
}

/// What a round of the session's task begins with.
pub(crate) struct Round {
    /// [`Session::told`], before the round.
    pub(crate) told: u64,
    /// Whether the session has events.
    pub(crate) news: bool,
    pub(crate) wants_read: bool,
    pub(crate) websocket: Option<Upgrade>,
}

/// How things stand at the end of a round.
pub(crate) enum Standing {
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
        packets: &mut impl Iterator<Item = Result<Packet, crate::engine::ParseError>>,
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
                    enlist(&mut self.waiting, cx);
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

    /// Those whose waiting is over.
    #[inline]
    fn take_waiting(&mut self) -> Vec<Waker> {
        if self.waiting.is_empty() && self.draining.is_empty() {
            return Vec::new();
        }
        self.take_those_that_wait()
    }

    #[cold]
    fn take_those_that_wait(&mut self) -> Vec<Waker> {
        let mut over = Vec::new();
        if !self.waiting.is_empty() && self.session.wants_read() {
            over.append(&mut self.waiting);
        }
        if !self.draining.is_empty() && self.session.is_drained() {
            over.append(&mut self.draining);
        }
        over
    }
}

fn enlist(list: &mut Vec<Waker>, cx: &Context<'_>) {
    if !list.iter().any(|each| each.will_wake(cx.waker())) {
        list.push(cx.waker().clone());
    }
}

fn wake(wakers: impl IntoIterator<Item = Option<Waker>>) {
    wakers.into_iter().flatten().for_each(Waker::wake);
}
