//! A session that several tasks share: its own task, its polling requests, and all tasks that emit.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Waker};

use hyper::upgrade::OnUpgrade;
use tokio::runtime::Handle;

use super::budget::Budget;
use super::queue::Outgoing;
use super::request::StoredRequest;
use crate::clock::now;
use crate::engine_io::{
    CloseReason, Config, EnginePacket, Message, Refusal, Session, SessionEvent, SessionId,
    SessionParams, Transport,
};
use crate::notice::Notices;
use crate::sync::{Mutex, MutexGuard};

/// A session, and the wakers of the tasks that wait for it. Its lock is held for a few lines, and
/// no other lock is taken under it.
#[derive(Debug)]
pub(crate) struct SharedSession {
    shared: Mutex<Shared>,
    sid: SessionId,
    /// The session's number in the log, where the secret id must not appear.
    pub(crate) number: u64,
    /// The runtime of the session's task.
    pub(super) runtime: Handle,
    pub(crate) config: Arc<Config>,
    pub(crate) notices: Arc<Notices>,
    pub(crate) request: StoredRequest,
    pub(crate) params: SessionParams,
    /// The bytes that the session's sockets keep.
    pub(crate) budget: Budget,
    /// The [`End`] that the session's task has to carry out, or 0.
    end: AtomicU8,
}

#[derive(Debug)]
struct Shared {
    session: Session,
    /// The session's task, while it sleeps. A running task need not be woken.
    task_waker: Option<Waker>,
    /// The poll that waits for packets.
    poll_waker: Option<Waker>,
    /// Tasks that wait until the session reads input.
    input_wakers: Vec<Waker>,
    /// Tasks that wait until all output is sent.
    drain_wakers: Vec<Waker>,
    /// The task that waits for an event in [`SharedSession::poll_event`].
    reader_waker: Option<Waker>,
    websocket: Option<Upgrade>,
}

/// How the application ends a session and all its sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The server disconnects all sockets of the session.
    DisconnectAll = 1,
    /// The server shuts down.
    Shutdown,
}

/// A WebSocket that the session's task has not taken over yet.
#[derive(Debug)]
pub(crate) struct Upgrade {
    pub(crate) stream: OnUpgrade,
    /// Whether compression was negotiated.
    pub(crate) deflate: bool,
}

impl Shared {
    /// Returns the state that [`wakers`](Self::wakers) compares with.
    fn snapshot(&self) -> Snapshot {
        Snapshot {
            event_count: self.session.event_count(),
            due: self.session.poll_timeout(),
        }
    }

    /// Takes the wakers of the tasks that changes since `snapshot` have made ready.
    fn changed_wakers(&mut self, snapshot: &Snapshot) -> [Option<Waker>; 3] {
        let event_count = self.session.event_count() != snapshot.event_count;
        let due = self.session.poll_timeout() != snapshot.due;
        let task = event_count || due || self.session.has_output() || self.websocket.is_some();
        let task = task.then(|| self.task_waker.take()).flatten();
        let poll = self.session.has_poll_output();
        let poll = poll.then(|| self.poll_waker.take()).flatten();
        let reader = event_count.then(|| self.reader_waker.take()).flatten();
        [task, poll, reader]
    }
}

struct Snapshot {
    event_count: u64,
    due: Option<std::time::Instant>,
}

impl SharedSession {
    /// Opens a session. It must be called in the runtime where the session's task is to run.
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
                task_waker: None,
                poll_waker: None,
                input_wakers: Vec::new(),
                drain_wakers: Vec::new(),
                reader_waker: None,
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

    /// Changes the session, and wakes the tasks that the change has made ready.
    fn update<R>(&self, change: impl FnOnce(&mut Session, std::time::Instant) -> R) -> R {
        let now = now();
        let mut shared = self.lock();
        let snapshot = shared.snapshot();
        let result = change(&mut shared.session, now);
        let wakers = shared.changed_wakers(&snapshot);
        drop(shared);
        wake(wakers);
        result
    }

    // For senders.

    /// Queues the messages of one packet. Returns `false` if the session is closed, or if too much
    /// is buffered, which closes it.
    pub(crate) fn send(&self, messages: impl IntoIterator<Item = Message>) -> bool {
        let mut shared = self.lock();
        let snapshot = shared.snapshot();
        let sent = shared.session.send_all(messages, now);
        let wakers = shared.changed_wakers(&snapshot);
        drop(shared);
        wake(wakers);
        sent
    }

    /// Queues packets. Volatile packets are dropped if the client is not ready.
    pub(super) fn send_queued<'a>(&self, packets: impl Iterator<Item = &'a Outgoing>) {
        let mut shared = self.lock();
        let snapshot = shared.snapshot();
        for outgoing in packets {
            if outgoing.volatile && !shared.session.is_writable() {
                continue;
            }
            shared.session.send_all(outgoing.packet.clone(), now);
        }
        let wakers = shared.changed_wakers(&snapshot);
        drop(shared);
        wake(wakers);
    }

    /// Queues the packets that a restored client has missed, and then its CONNECT packet.
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

    /// Queues a CONNECT_ERROR packet. If too many of them are buffered, the session is closed
    /// instead.
    pub(crate) fn send_error_reply(&self, messages: impl IntoIterator<Item = Message>) {
        self.update(|session, now| session.send_error_reply(messages, now));
    }

    /// Counts bytes that are held back to be sent later. Returns `false` if the session is closed,
    /// or if too much is buffered, which closes it.
    pub(super) fn hold(&self, bytes: usize) -> bool {
        self.update(|session, now| session.handle_hold(bytes, now))
    }

    /// Stops counting bytes that were held back, and that are sent or dropped now.
    pub(super) fn release(&self, bytes: usize) {
        self.lock().session.handle_hold_end(bytes);
    }

    pub(crate) fn close(&self, reason: CloseReason) {
        self.update(|session, now| session.close(reason, now));
    }

    /// Closes the session. Nothing is sent any more but the close itself.
    pub(crate) fn discard(&self) {
        self.update(Session::discard);
    }

    /// Closes a session whose task will not run any more, and wakes all tasks that wait for it.
    pub(super) fn abandon(&self) {
        self.close(CloseReason::TransportClose);
        let mut shared = self.lock();
        let mut input_wakers = std::mem::take(&mut shared.input_wakers);
        input_wakers.append(&mut shared.drain_wakers);
        let others = [shared.poll_waker.take(), shared.reader_waker.take()];
        drop(shared);
        wake(others);
        input_wakers.into_iter().for_each(Waker::wake);
    }

    /// Spawns a task in the runtime of the session's task.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        self.lock().session.close_reason()
    }

    /// Returns the transport, if the session accepts requests.
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

    /// Records that the server waits for an acknowledgement. The session reads more input from now
    /// on, because the acknowledgement may lie behind events that are not read yet.
    pub(crate) fn ack_requested(&self) {
        let mut shared = self.lock();
        let was_paused = !shared.session.wants_read();
        shared.session.handle_ack_requested();
        if !was_paused {
            return;
        }
        let input_wakers = shared.ready_wakers();
        let task = shared.task_waker.take();
        drop(shared);
        wake([task]);
        input_wakers.into_iter().for_each(Waker::wake);
    }

    /// Records that `count` acknowledgements arrived or were abandoned.
    pub(crate) fn acks_done(&self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.lock().session.handle_acks_done(count);
    }

    /// Wakes the session's task because of a change outside the session, such as in a socket.
    pub(crate) fn wake(&self) {
        self.update(|session, _| session.bump());
    }

    /// Requests that the session's task, which knows the sockets, disconnects all of them and then
    /// closes the session.
    pub(crate) fn disconnect_all(&self) {
        self.request_end(End::DisconnectAll);
    }

    /// Requests that the session is closed for the shutdown of the server, after the running
    /// handlers have answered.
    pub(crate) fn shut_down(&self) {
        self.request_end(End::Shutdown);
    }

    fn request_end(&self, end: End) {
        self.end.store(end as u8, Ordering::Release);
        self.wake();
    }

    /// Returns the end that was requested since the last call.
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

    /// Passes the next packets to `push` until it returns `false`. Pending while there are no
    /// packets and the session is open.
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
            shared.poll_waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        shared.session.handle_poll_answered();
        let input_wakers = shared.ready_wakers();
        // The task must run if the session is closed now, or if it reads the input of a probe
        // again.
        let resumes = was_paused && shared.session.wants_read();
        let task = (resumes || shared.session.is_closed()).then(|| shared.task_waker.take());
        drop(shared);
        wake(task);
        input_wakers.into_iter().for_each(Waker::wake);
        Poll::Ready(())
    }

    /// Releases the waiting poll: it is answered with a noop if there is no other packet.
    pub(crate) fn release_poll(&self) {
        self.lock().session.release_poll();
    }

    pub(crate) fn abort_poll(&self) {
        self.update(Session::handle_poll_aborted);
    }

    pub(crate) fn begin_post(&self) -> Result<(), Refusal> {
        self.update(|session, now| {
            if !session.accepts_posts() {
                return Err(Refusal::UnknownSession);
            }
            session.handle_post(now)
        })
    }

    /// Ends a POST whose body is not passed to the session.
    pub(crate) fn end_post(&self) {
        self.update(Session::handle_post_end);
    }

    /// Passes packets of a body to the session while it reads input. Ready when the body, and with
    /// it the POST, has ended.
    ///
    /// # Errors
    ///
    /// Fails if the session ends before all packets were passed to it, unless a packet of the body
    /// ends it.
    pub(crate) fn poll_post(
        &self,
        cx: &Context<'_>,
        packets: &mut impl Iterator<Item = Result<EnginePacket, crate::engine_io::ParseError>>,
    ) -> Poll<Result<(), Refusal>> {
        let now = now();
        loop {
            let mut shared = self.lock();
            let snapshot = shared.snapshot();
            let polled = shared.handle_packets(cx, packets, now);
            let wakers = shared.changed_wakers(&snapshot);
            drop(shared);
            wake(wakers);
            if let Some(polled) = polled {
                return polled;
            }
        }
    }

    /// Passes a WebSocket to the session's task. Returns it as an error if the session has one
    /// already, or cannot upgrade.
    pub(crate) fn offer_websocket(&self, upgrade: Upgrade) -> Result<(), Upgrade> {
        let accepted = self.update(Session::handle_upgrade_request);
        if accepted.is_err() {
            return Err(upgrade);
        }
        let mut shared = self.lock();
        let snapshot = shared.snapshot();
        shared.websocket = Some(upgrade);
        let wakers = shared.changed_wakers(&snapshot);
        drop(shared);
        wake(wakers);
        Ok(())
    }

    // For the session's task.

    /// Begins a round of the session's task. The running task need not be woken.
    pub(crate) fn begin_round(&self) -> RoundStart {
        let mut shared = self.lock();
        shared.task_waker = None;
        RoundStart {
            event_count: shared.session.event_count(),
            has_events: shared.session.has_events(),
            wants_read: shared.session.wants_frames(),
            websocket: shared.websocket.take(),
        }
    }

    /// Runs `act` on the session, for the session's task. It wakes no task.
    pub(crate) fn with_session<R>(&self, act: impl FnOnce(&mut Session) -> R) -> R {
        act(&mut self.lock().session)
    }

    /// Moves all events to `events`, credits `consumed` bytes to the session, and wakes the tasks
    /// that wait until the session reads input.
    pub(crate) fn take_events(&self, events: &mut VecDeque<SessionEvent>, consumed: usize) {
        let mut shared = self.lock();
        shared.session.handle_consumed(consumed);
        shared.session.take_events(events);
        let input_wakers = shared.ready_wakers();
        drop(shared);
        input_wakers.into_iter().for_each(Waker::wake);
    }

    /// Returns the next event, for a reader in any task.
    pub(crate) fn poll_event(&self, cx: &Context<'_>) -> Poll<SessionEvent> {
        let mut shared = self.lock();
        let Some(event) = shared.session.poll_event() else {
            // The last event was returned before.
            if let Some(reason) = shared.session.close_reason() {
                return Poll::Ready(SessionEvent::Closed(reason));
            }
            shared.reader_waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        if let SessionEvent::Message(message) = &event {
            shared.session.handle_consumed(Session::cost(message));
        }
        let input_wakers = shared.ready_wakers();
        // The session may read input again.
        let task = shared.task_waker.take();
        drop(shared);
        wake([task]);
        input_wakers.into_iter().for_each(Waker::wake);
        Poll::Ready(event)
    }

    /// Handles the timers of the session that are due, and wakes a poll that this releases.
    pub(crate) fn handle_timeout(&self) {
        self.update(|session, now| session.handle_timeout(now));
    }

    /// Wakes the reader, unless it is in the session's task, whose waker is that of `cx`.
    pub(crate) fn wake_reader(&self, cx: &Context<'_>) {
        let elsewhere = |reader: &mut Waker| !reader.will_wake(cx.waker());
        let reader = self.lock().reader_waker.take_if(elsewhere);
        wake([reader]);
    }

    /// Lets the session's task sleep if it has nothing to do: stores its waker, and returns
    /// [`AfterRound::Idle`]. Otherwise returns the reason why the task must not sleep.
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
        let input_wakers = shared.ready_wakers();
        shared.task_waker = Some(cx.waker().clone());
        // The task may have released a poll: the probe of an upgrade does.
        let poll = shared
            .session
            .has_poll_output()
            .then(|| shared.poll_waker.take());
        drop(shared);
        wake(poll);
        input_wakers.into_iter().for_each(Waker::wake);
        AfterRound::Idle
    }
}

/// The state at the beginning of a round of the session's task.
pub(crate) struct RoundStart {
    /// [`Session::event_count`], before the round.
    pub(crate) event_count: u64,
    /// Whether the session has events.
    pub(crate) has_events: bool,
    pub(crate) wants_read: bool,
    pub(crate) websocket: Option<Upgrade>,
}

/// The state at the end of a round of the session's task.
pub(crate) enum AfterRound {
    /// The task has nothing to do until it is woken.
    Idle,
    Busy,
    /// The task must be woken at this time, which is earlier than its timer.
    Due(std::time::Instant),
    /// The session is closed.
    Closed,
}

/// The number of packets of a body that are handled under one lock.
const BATCH: usize = 64;

impl Shared {
    /// Handles up to [`BATCH`] packets of a body. Returns `None` if the body may have more packets,
    /// and `Pending` if the session reads no input now.
    fn handle_packets(
        &mut self,
        cx: &Context<'_>,
        packets: &mut impl Iterator<Item = Result<EnginePacket, crate::engine_io::ParseError>>,
        now: std::time::Instant,
    ) -> Option<Poll<Result<(), Refusal>>> {
        let session = &mut self.session;
        let result = 'ended: {
            for _ in 0..BATCH {
                if !session.accepts_posts() {
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
                    // The next poll reports how the session ended. The rest of the body is ignored.
                    break 'ended Ok(());
                }
            }
            return None;
        };
        session.handle_post_end(now);
        Some(Poll::Ready(result))
    }

    /// Takes the wakers of the tasks whose condition is met: the session reads input, or all output
    /// is sent.
    #[inline]
    fn ready_wakers(&mut self) -> Vec<Waker> {
        if self.input_wakers.is_empty() && self.drain_wakers.is_empty() {
            return Vec::new();
        }
        self.collect_ready()
    }

    #[cold]
    fn collect_ready(&mut self) -> Vec<Waker> {
        let mut ready = Vec::new();
        if !self.input_wakers.is_empty() && self.session.wants_read() {
            ready.append(&mut self.input_wakers);
        }
        if !self.drain_wakers.is_empty() && self.session.is_drained() {
            ready.append(&mut self.drain_wakers);
        }
        ready
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
