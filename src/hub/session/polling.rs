//! The functions for the HTTP requests of a session: polls, POSTs and upgrades.

use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::{Shared, SharedSession, Upgrade, register, wake};
use crate::clock::now;
use crate::engine_io::{CloseReason, EnginePacket, ParseError, Refusal, Session, Transport};
use crate::hub::yield_now::wake_later;

impl SharedSession {
    /// Returns the transport, if the session accepts requests.
    pub(crate) fn open_transport(&self) -> Option<Transport> {
        let shared = self.lock();
        let known = shared.session.accepts_requests();
        known.then(|| shared.session.transport())
    }

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
        let buffered = shared.take_buffered_change();
        let ready = shared.take_ready_wakers();
        // The task must run if the session is closed now, or if it reads the input of a probe
        // again.
        let resumes = was_paused && shared.session.wants_read();
        let task = (resumes || shared.session.is_closed()).then(|| shared.task_waker.take());
        drop(shared);
        self.notify_buffered(buffered);
        wake(task);
        ready.into_iter().for_each(Waker::wake);
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

    /// Ready when the session's task has ended, for the POST whose body is still arriving.
    pub(crate) fn poll_ended(&self, cx: &Context<'_>) -> Poll<()> {
        let mut shared = self.lock();
        if shared.known_buffered.is_none() {
            return Poll::Ready(());
        }
        shared.body_waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Drops the waker of [`poll_ended`](Self::poll_ended): the body has arrived, or is given up.
    pub(crate) fn forget_body(&self) {
        let waker = self.lock().body_waker.take();
        drop(waker);
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
        cx: &mut Context<'_>,
        packets: &mut impl Iterator<Item = Result<EnginePacket, ParseError>>,
    ) -> Poll<Result<(), Refusal>> {
        let now = now();
        for _ in 0..BATCHES {
            let mut shared = self.lock();
            let snapshot = shared.snapshot();
            let polled = shared.handle_packets(cx, packets, now);
            let wakers = shared.take_wakers_since(&snapshot);
            drop(shared);
            wake(wakers);
            if let Some(polled) = polled {
                return polled;
            }
        }
        wake_later(cx);
        Poll::Pending
    }

    /// Passes a WebSocket to the session's task. Returns it as an error if the session has one
    /// already, or cannot upgrade.
    pub(crate) fn offer_websocket(&self, upgrade: Upgrade) -> Result<(), Upgrade> {
        let now = now();
        let mut shared = self.lock();
        let snapshot = shared.snapshot();
        if shared.session.handle_upgrade_request(now).is_err() {
            return Err(upgrade);
        }
        // Under the lock of the request: a session that has ended by now would never take it.
        shared.websocket = Some(upgrade);
        let wakers = shared.take_wakers_since(&snapshot);
        drop(shared);
        wake(wakers);
        Ok(())
    }
}

/// The number of packets of a body that are handled under one lock.
const BATCH: usize = 64;

/// The number of batches that a POST handles before it lets other tasks run. Packets that no handler
/// gets cause no backpressure.
const BATCHES: usize = 16;

impl Shared {
    /// Handles up to [`BATCH`] packets of a body. Returns `None` if the body may have more packets,
    /// and `Pending` if the session reads no input now.
    fn handle_packets(
        &mut self,
        cx: &Context<'_>,
        packets: &mut impl Iterator<Item = Result<EnginePacket, ParseError>>,
        now: Instant,
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
}
