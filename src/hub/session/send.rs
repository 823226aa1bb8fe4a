//! The functions for senders: the tasks that emit, read the state of a session, or end it.

use std::task::{Context, Poll, Waker};

use super::{End, SharedSession, register, wake};
use crate::clock::now;
use crate::engine_io::{CloseReason, Message, Session, Transport};
use crate::hub::queue::Outgoing;
use crate::sync::atomic::Ordering;

impl SharedSession {
    /// Queues the messages of one packet. Returns `false` if the session is closed, or if too much
    /// is buffered, which closes it.
    pub(crate) fn send(&self, messages: impl IntoIterator<Item = Message>) -> bool {
        let mut shared = self.lock();
        let snapshot = shared.snapshot();
        let sent = shared.session.send_all(messages, now);
        let wakers = shared.take_wakers_since(&snapshot);
        drop(shared);
        wake(wakers);
        sent
    }

    /// Queues packets. Volatile packets are dropped if the client is not ready. Returns the number of
    /// those.
    #[inline]
    pub(in crate::hub) fn send_queued<'a>(
        &self,
        packets: impl Iterator<Item = &'a Outgoing>,
    ) -> usize {
        let mut shared = self.lock();
        let snapshot = shared.snapshot();
        let mut dropped = 0;
        for outgoing in packets {
            if outgoing.volatile && !shared.session.is_writable() {
                dropped += 1;
                continue;
            }
            shared.session.send_all(outgoing.packet.clone(), now);
        }
        let wakers = shared.take_wakers_since(&snapshot);
        drop(shared);
        wake(wakers);
        dropped
    }

    /// Queues a client's CONNECT packet, and then the packets that it has missed if it is restored.
    ///
    /// Node's server sends CONNECT last. The official client keeps events that come before CONNECT,
    /// also if the connection is lost, but not their offset. So it would hear them twice.
    pub(in crate::hub) fn send_connect(
        &self,
        connect: impl IntoIterator<Item = Message>,
        missed: impl IntoIterator<Item = Message>,
    ) {
        self.update(|session, now| {
            session.send_all(connect, || now);
            session.send_missed(missed);
        });
    }

    /// Queues a CONNECT_ERROR packet. If too many of them are buffered, the session is closed
    /// instead.
    pub(crate) fn send_error_reply(&self, messages: impl IntoIterator<Item = Message>) {
        self.update(|session, now| session.send_error_reply(messages, now));
    }

    /// Counts bytes that are held back to be sent later. Returns `false` if the session is closed,
    /// or if too much is buffered, which closes it.
    pub(in crate::hub) fn hold(&self, bytes: usize) -> bool {
        self.update(|session, now| session.handle_hold(bytes, now))
    }

    /// Stops counting bytes that were held back, and that are sent or dropped now.
    pub(in crate::hub) fn release(&self, bytes: usize) {
        self.lock().session.handle_hold_end(bytes);
    }

    pub(crate) fn close(&self, reason: CloseReason) {
        self.update(|session, now| session.close(reason, now));
    }

    /// Closes the session. Nothing is sent any more but the close itself.
    pub(crate) fn discard(&self) {
        self.update(Session::discard);
    }

    /// Spawns a task in the runtime of the session's task.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        self.lock().session.close_reason()
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
        let ready = shared.take_ready_wakers();
        let task = shared.task_waker.take();
        drop(shared);
        wake([task]);
        ready.into_iter().for_each(Waker::wake);
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

    /// Requests that the session's task drops its handlers, and ends when the disconnect handlers
    /// of its sockets have.
    pub(crate) fn cut(&self) {
        self.is_cut.store(true, Ordering::Release);
        self.request_end(End::Cut);
    }

    /// Requests that the session's task ends now.
    pub(in crate::hub) fn abort(&self) {
        self.is_cut.store(true, Ordering::Release);
        self.request_end(End::Abort);
    }

    /// Makes the session's task watch the deadlines of its sockets.
    pub(in crate::hub) fn watch_deadlines(&self) {
        self.has_deadlines.store(true, Ordering::Release);
        self.wake();
    }

    fn request_end(&self, end: End) {
        // The task may not have seen an earlier request. Of several, the strongest counts.
        self.end.fetch_max(end as u8, Ordering::AcqRel);
        self.wake();
    }
}
