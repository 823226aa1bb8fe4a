//! The task of a session: it reads, runs handlers, writes and watches the timers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};

use super::websocket::{Read, WebSocket, Written};
use crate::clock::now;
use crate::engine_io::timer::earliest;
use crate::engine_io::{CloseReason, Transport};
use crate::hub::session::{AfterRound, RoundStart, SharedSession, Upgrade};
use crate::hub::sessions::SessionGuard;
use crate::hub::yield_now::wake_later;
use crate::notice::notice;

/// The application of a session, which runs in the session's task.
pub(crate) trait SessionApp: Send {
    /// Polls the running handlers, and handles the session's events if it `has_events`. Ready when
    /// the session has ended and no handler runs any more.
    fn poll(&mut self, cx: &mut Context<'_>, has_events: bool) -> Poll<()>;

    /// Returns whether it has more to do, after other tasks have run.
    fn is_busy(&self) -> bool {
        false
    }

    /// Returns when [`SessionApp::handle_timeout`] is to be called.
    fn poll_timeout(&self) -> Option<std::time::Instant> {
        None
    }

    /// Handles the deadlines up to `now`.
    fn handle_timeout(&mut self, _now: std::time::Instant) {}
}

pin_project! {
    /// The task of a session. When it is dropped, its fields clean up after it.
    pub(super) struct SessionTask {
        session: Arc<SharedSession>,
        app: Box<dyn SessionApp>,
        app_ended: bool,
        io: Io,
        #[pin]
        sleep: Sleep,
        sleep_until: SleepUntil,
        // How often the deadline that has passed was put off because there is more to read.
        put_off: u8,
        // Whether the next poll only lets other tasks run.
        yields: bool,
        guard: SessionGuard,
    }
}

/// The time that the task's `sleep` is set to.
#[derive(Clone, Copy)]
enum SleepUntil {
    /// None: there was no deadline yet, or it has passed.
    Unset,
    /// A deadline of the session or of the application.
    Deadline(std::time::Instant),
    /// The end of [`LATE_GRACE`]. No deadline passes before it.
    Grace,
}

enum Io {
    /// There is no WebSocket, not yet or no longer.
    None,
    Upgrading(Upgrade),
    Open(Box<WebSocket>),
}

/// The result of [`Io::poll_read`].
enum Reading {
    /// There is no more input. The task is woken when there is.
    Idle,
    Progress,
    /// The session reads no input now.
    Paused,
}

/// The number of rounds that a task runs before it lets others run.
const ROUNDS: usize = 4;

/// The number of reads of a task before it lets others run. One write answers all of them. If the
/// reads are full of small events, they keep a worker busy for half a millisecond.
const READS: usize = 8;

/// The delay of a timer which means that the whole process did not run: it was suspended, or its
/// machine was.
const LATE: Duration = Duration::from_millis(50);

/// How long such a process reads the input that has arrived before a deadline passes.
const LATE_GRACE: Duration = Duration::from_secs(1);

/// The number of times that a deadline is put off because [`READS`] reads did not read all input.
const PUT_OFF: u8 = 16;

fn is_late(due: std::time::Instant) -> bool {
    now().duration_since(due) > LATE
}

/// Logs that an upgrade failed after it was accepted with `101`, or with `200` over HTTP/2.
fn log_failed_upgrade(session: &SharedSession, error: &hyper::Error) {
    if !error.is_user() {
        tracing::debug!(session = session.number, %error, "no upgrade");
        return;
    }
    notice!(
        session.notices.upgrade,
        session = session.number,
        %error,
        "a WebSocket was accepted and the HTTP server does not hand its connection over: serve the \
         app with `axum::serve`, or hyper's connection `with_upgrades`, and let layers keep the \
         extensions of requests",
    );
}

impl SessionTask {
    pub(super) fn new(
        session: Arc<SharedSession>,
        guard: SessionGuard,
        app: Box<dyn SessionApp>,
        upgrade: Option<Upgrade>,
    ) -> Self {
        Self {
            session,
            app,
            app_ended: false,
            io: upgrade.map_or(Io::None, Io::Upgrading),
            sleep: tokio::time::sleep_until(Instant::now()),
            sleep_until: SleepUntil::Unset,
            put_off: 0,
            yields: false,
            guard,
        }
    }
}

impl Future for SessionTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::take(self.as_mut().project().yields) {
            // tokio polls a task that `wake_later` has woken before those that the worker's input and
            // timers have woken just before. This puts the task behind them.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let _current = self.guard.run();
        let mut is_set = !matches!(self.sleep_until, SleepUntil::Unset);
        let mut reads = READS;
        for _ in 0..ROUNDS {
            let is_due = std::mem::take(&mut is_set) && self.as_mut().poll_sleep(cx);
            match self.as_mut().round(cx, is_due, &mut reads) {
                AfterRound::Idle if !self.is_busy() => return Poll::Pending,
                AfterRound::Idle => break,
                AfterRound::Busy if reads == 0 || self.is_busy() => break,
                AfterRound::Busy => {}
                AfterRound::Due(due) => {
                    self.as_mut().set_sleep(due, SleepUntil::Deadline(due));
                    is_set = true;
                }
                AfterRound::Closed => {
                    let this = self.as_mut().project();
                    this.io.end_websocket(cx);
                    if *this.app_ended {
                        return Poll::Ready(());
                    }
                }
            }
        }
        *self.as_mut().project().yields = true;
        wake_later(cx);
        Poll::Pending
    }
}

impl SessionTask {
    /// Returns whether the application has more to do, after other tasks have run.
    fn is_busy(&self) -> bool {
        !self.app_ended && self.app.is_busy()
    }

    /// Sets `sleep` to `due`, which `sleep_until` describes.
    #[inline]
    fn set_sleep(self: Pin<&mut Self>, due: std::time::Instant, sleep_until: SleepUntil) {
        let this = self.project();
        this.sleep.reset(Instant::from_std(due));
        *this.sleep_until = sleep_until;
    }

    /// Returns whether the timer is due.
    ///
    /// If the whole process did not run for a while, the input of that time may be in other tasks
    /// too: polls and POSTs. The deadline then waits for [`LATE_GRACE`].
    #[inline]
    fn poll_sleep(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> bool {
        let this = self.as_mut().project();
        if this.sleep.poll(cx).is_pending() {
            return false;
        }
        match *this.sleep_until {
            SleepUntil::Deadline(due) if is_late(due) => {}
            SleepUntil::Unset | SleepUntil::Deadline(_) | SleepUntil::Grace => return true,
        }
        self.as_mut()
            .set_sleep(now() + LATE_GRACE, SleepUntil::Grace);
        self.project().sleep.poll(cx).is_ready()
    }

    /// Reads input, handles the deadlines, runs the handlers and writes.
    #[inline]
    fn round(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        is_due: bool,
        reads: &mut usize,
    ) -> AfterRound {
        let this = self.project();
        let mut round = this.session.begin_round();
        let reading = this.io.poll_read(cx, this.session, &mut round, reads);
        // No deadline passes before the input that has arrived is read.
        let has_more = *reads == 0 && matches!(reading, Reading::Progress);
        if is_due && has_more && *this.put_off < PUT_OFF {
            *this.put_off += 1;
        } else if is_due {
            *this.sleep_until = SleepUntil::Unset;
            *this.put_off = 0;
            this.session.handle_timeout();
            this.app.handle_timeout(now());
            round.has_events = true;
        }
        if !*this.app_ended {
            *this.app_ended = this.app.poll(cx, round.has_events).is_ready();
        }
        this.io.poll_write(cx, this.session);
        if *this.app_ended && this.session.is_cut() {
            return AfterRound::Closed;
        }
        let app_due = this.app.poll_timeout();
        let accepts_output = this.io.accepts_output();
        // A closed session ends the task, or at least its WebSocket.
        let can_close = *this.app_ended || this.io.is_some();
        this.session.try_sleep(cx, |session| {
            if can_close && session.is_closed() {
                return AfterRound::Closed;
            }
            let due = earliest([session.poll_timeout(), app_due]);
            let due = due.filter(|due| match *this.sleep_until {
                SleepUntil::Unset => true,
                // A deadline that has moved to a later time is checked at the earlier one.
                SleepUntil::Deadline(earlier) => *due < earlier,
                SleepUntil::Grace => false,
            });
            if let Some(due) = due {
                return AfterRound::Due(due);
            }
            let is_idle = match reading {
                Reading::Progress => false,
                Reading::Idle => true,
                // The handlers or the client may have made room.
                Reading::Paused => !session.wants_frames(),
            };
            // Another thread may have changed the session after the round began.
            let has_changed = session.event_count() != round.event_count;
            match is_idle && !has_changed && !(accepts_output && session.has_output()) {
                true => AfterRound::Idle,
                false => AfterRound::Busy,
            }
        })
    }
}

impl Io {
    /// Continues the upgrade, or reads the input that has arrived.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        session: &SharedSession,
        round: &mut RoundStart,
        reads: &mut usize,
    ) -> Reading {
        if let Some(upgrade) = round.websocket.take() {
            // The session accepts a WebSocket only if it has none.
            *self = Self::Upgrading(upgrade);
        }
        match self {
            Self::None => Reading::Idle,
            Self::Upgrading(_) => self.poll_upgrade(cx, session, round),
            Self::Open(_) if !round.wants_frames => Reading::Paused,
            Self::Open(_) => self.poll_frames(cx, session, round, reads),
        }
    }

    /// Waits for the connection of an upgrade.
    fn poll_upgrade(
        &mut self,
        cx: &mut Context<'_>,
        session: &SharedSession,
        round: &mut RoundStart,
    ) -> Reading {
        let Self::Upgrading(upgrade) = self else {
            return Reading::Idle;
        };
        let Poll::Ready(upgraded) = Pin::new(&mut upgrade.stream).poll(cx) else {
            return Reading::Idle;
        };
        match upgraded {
            Ok(io) => {
                let deflate = upgrade.deflate;
                *self = Self::Open(Box::new(WebSocket::new(io, session, deflate)));
            }
            Err(error) => {
                log_failed_upgrade(session, &error);
                self.handle_websocket_closed(cx, session);
            }
        }
        round.has_events = true;
        Reading::Progress
    }

    /// Reads frames until there are no more, the session reads none now, or no read is left.
    #[inline]
    fn poll_frames(
        &mut self,
        cx: &mut Context<'_>,
        session: &SharedSession,
        round: &mut RoundStart,
        reads: &mut usize,
    ) -> Reading {
        let Self::Open(websocket) = self else {
            return Reading::Idle;
        };
        let mut any = false;
        while *reads > 0 {
            *reads -= 1;
            match websocket.poll_read(cx, session) {
                Poll::Pending => return Reading::Idle,
                Poll::Ready(Read::More {
                    event_count,
                    wants_frames,
                }) => {
                    any = true;
                    round.event_count = event_count;
                    round.has_events = true;
                    if !wants_frames {
                        return Reading::Progress;
                    }
                }
                // Input that came before the end is handled before it.
                Poll::Ready(Read::End) if any => return Reading::Progress,
                Poll::Ready(Read::End) => return self.handle_read_end(cx, session, round),
            }
        }
        Reading::Progress
    }

    /// Ends the WebSocket after the client has ended its side. The answer to the client's close
    /// frame is sent first.
    fn handle_read_end(
        &mut self,
        cx: &mut Context<'_>,
        session: &SharedSession,
        round: &mut RoundStart,
    ) -> Reading {
        let Self::Open(websocket) = self else {
            return Reading::Idle;
        };
        round.has_events = true;
        if websocket.poll_write(cx, session).is_pending() && websocket.is_closing() {
            let now = now();
            let must_wait = session.with_session(|session| {
                let is_own = session.transport() == Transport::WebSocket;
                if is_own {
                    session.close(CloseReason::TransportClose, now);
                }
                // The session has a deadline for the rest of the output. A probe has none.
                is_own && !session.is_closed()
            });
            if must_wait {
                return Reading::Idle;
            }
        }
        self.handle_websocket_closed(cx, session);
        Reading::Progress
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, session: &SharedSession) {
        let Self::Open(websocket) = self else {
            return;
        };
        match websocket.poll_write(cx, session) {
            Poll::Pending => {
                let now = now();
                let progress = websocket.take_progress();
                let is_failed_probe = session.with_session(|session| {
                    if progress {
                        session.handle_progress();
                    }
                    session.handle_blocked(now);
                    session.transport() != Transport::WebSocket
                        && session.finished(Transport::WebSocket)
                });
                if is_failed_probe {
                    // Nothing would end its wait for the client.
                    self.drop_websocket();
                }
            }
            Poll::Ready(Err(_)) => self.handle_websocket_closed(cx, session),
            Poll::Ready(Ok(Written { finished: true })) => self.send_close_frame(cx, session),
            Poll::Ready(Ok(Written { finished: false })) => {}
        }
    }

    /// Sends the close frame. A session's own WebSocket waits for the answer. A probe is dropped.
    fn send_close_frame(&mut self, cx: &mut Context<'_>, session: &SharedSession) {
        let Self::Open(websocket) = self else {
            return;
        };
        let reason = session.with_session(|session| session.close_reason());
        if !websocket.is_closing() {
            let (code, text) = reason.map_or((None, ""), |reason| reason.close_frame());
            websocket.start_close(code, text);
        }
        if websocket.poll_write(cx, session).is_ready() && reason.is_none() {
            self.end_websocket(cx);
        }
    }

    /// Returns whether the WebSocket takes more packets out of the session.
    fn accepts_output(&self) -> bool {
        matches!(self, Self::Open(websocket) if !websocket.is_blocked() && !websocket.is_closing())
    }

    /// Drops the WebSocket, whose connection has ended, and passes that to the session.
    fn handle_websocket_closed(&mut self, cx: &mut Context<'_>, session: &SharedSession) {
        self.end_websocket(cx);
        let now = now();
        session.with_session(|session| session.handle_transport_closed(Transport::WebSocket, now));
    }

    fn is_some(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Drops the WebSocket, and ends its byte stream if the close frame is sent.
    #[cold]
    fn end_websocket(&mut self, cx: &mut Context<'_>) {
        if let Self::Open(websocket) = self {
            websocket.shut_down(cx);
        }
        self.drop_websocket();
    }

    fn drop_websocket(&mut self) {
        *self = Self::None;
    }
}
