//! The one task of a session: reading, handlers, writing, timers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};

use super::websocket::{Read, WebSocket, Written};
use crate::engine::{CloseReason, Transport};
use crate::hub::link::{Link, Round, Standing, Upgrade};
use crate::hub::sessions::Presence;
use crate::notice::notice;

/// What runs above a session, in its task.
pub(crate) trait Upper: Send {
    /// Goes on with what runs, and with what has arrived if there are `news`. Ready when the
    /// session has ended and nothing runs any more.
    fn poll(&mut self, cx: &mut Context<'_>, news: bool) -> Poll<()>;

    /// When [`Upper::handle_timeout`] is to be called.
    fn poll_timeout(&self) -> Option<std::time::Instant> {
        None
    }

    /// Time has passed.
    fn handle_timeout(&mut self, _now: std::time::Instant) {}
}

pin_project! {
    /// A session's task. Dropped, it leaves nothing behind: its parts clean up.
    pub(super) struct SessionTask {
        link: Arc<Link>,
        upper: Box<dyn Upper>,
        upper_ended: bool,
        io: Io,
        #[pin]
        sleep: Sleep,
        armed: Option<std::time::Instant>,
        // Whether a deadline has passed that is not judged yet.
        catching_up: bool,
        // How often a deadline was not judged because there is more to read.
        put_off: u8,
        presence: Presence,
    }
}

enum Io {
    /// Only polls, so far or any more.
    None,
    Upgrading(Upgrade),
    Open(Box<WebSocket>),
}

/// What [`Io::poll_read`] came to.
enum Reading {
    /// Who waits for it is woken when there is more.
    Idle,
    Progress,
    /// The session wants no input now.
    Paused,
}

/// How many rounds a task runs before it lets others run.
const ROUNDS: usize = 4;

/// How often a task reads before it lets others run. What has come by then is answered by one
/// write. That many small events keep a worker for half a millisecond.
const READS: usize = 8;

/// From how late on a timer means that the whole process did not run: it was suspended, or its
/// machine was.
const LATE: Duration = Duration::from_millis(50);

/// How long such a process takes in what has come before it misses anything.
const CATCH_UP: Duration = Duration::from_secs(1);

/// How many turns of [`READS`] may go before a deadline is judged.
const PUT_OFF: u8 = 16;

fn is_late(due: Option<std::time::Instant>) -> bool {
    due.is_some_and(|due| Instant::now().into_std().duration_since(due) > LATE)
}

/// What was agreed on with a `101`, or `200` over HTTP/2, did not take place.
fn tell_of_failure(link: &Link, error: &hyper::Error) {
    if !error.is_user() {
        tracing::debug!(session = link.number, %error, "no upgrade");
        return;
    }
    notice!(
        link.notices.upgrade,
        session = link.number,
        %error,
        "a WebSocket was accepted and the HTTP server does not hand its connection over: serve the \
         app with `axum::serve`, or hyper's connection `with_upgrades`, and let layers keep the \
         extensions of requests",
    );
}

impl SessionTask {
    pub(super) fn new(
        link: Arc<Link>,
        presence: Presence,
        upper: Box<dyn Upper>,
        upgrade: Option<Upgrade>,
    ) -> Self {
        Self {
            link,
            upper,
            upper_ended: false,
            io: upgrade.map_or(Io::None, Io::Upgrading),
            sleep: tokio::time::sleep_until(Instant::now()),
            armed: None,
            catching_up: false,
            put_off: 0,
            presence,
        }
    }
}

impl Future for SessionTask {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let _running = this.presence.run();
        let mut is_armed = this.armed.is_some();
        let mut reads = READS;
        for _ in 0..ROUNDS {
            let mut is_due =
                std::mem::take(&mut is_armed) && this.sleep.as_mut().poll(cx).is_ready();
            if is_due && !*this.catching_up && is_late(*this.armed) {
                // This process did not run for a while. What has come meanwhile may lie in other
                // tasks too: polls and posts.
                *this.catching_up = true;
                let due = Instant::now() + CATCH_UP;
                this.sleep.as_mut().reset(due);
                *this.armed = Some(due.into_std());
                is_due = this.sleep.as_mut().poll(cx).is_ready();
            }
            let mut round = this.link.begin_round();
            let reading = this.io.poll_read(cx, this.link, &mut round, &mut reads);
            if is_due
                && reads == 0
                && matches!(reading, Reading::Progress)
                && *this.put_off < PUT_OFF
            {
                *this.put_off += 1;
            } else if is_due {
                // What has come is read before anything is missed.
                *this.armed = None;
                *this.put_off = 0;
                *this.catching_up = false;
                this.link.handle_timeout();
                this.upper.handle_timeout(Instant::now().into_std());
                round.news = true;
            }
            let Round { told, news, .. } = round;
            if !*this.upper_ended {
                *this.upper_ended = this.upper.poll(cx, news).is_ready();
            }
            this.io.poll_write(cx, this.link);
            let upper_due = this.upper.poll_timeout();
            let writes = this.io.takes_output();
            let over = *this.upper_ended || this.io.is_some();
            let standing = this.link.park(cx, |session| {
                if over && session.is_closed() {
                    return Standing::Closed;
                }
                // A deadline that moves away is looked at when the old one has come.
                let due = session.poll_timeout().into_iter().chain(upper_due).min();
                let due = due.filter(|due| this.armed.is_none_or(|armed| *due < armed));
                let due = due.filter(|_| !*this.catching_up);
                if let Some(due) = due {
                    return Standing::Due(due);
                }
                let idle = match reading {
                    Reading::Progress => false,
                    Reading::Idle => true,
                    // Handlers or the peer may have made room.
                    Reading::Paused => !session.wants_frames(),
                };
                // Another thread may have changed the session since.
                if idle && session.told() == told && !(writes && session.has_output()) {
                    return Standing::Idle;
                }
                Standing::Busy
            });
            match standing {
                Standing::Idle => return Poll::Pending,
                Standing::Busy if reads == 0 => break,
                Standing::Busy => {}
                Standing::Due(due) => {
                    this.sleep.as_mut().reset(Instant::from_std(due));
                    *this.armed = Some(due);
                    is_armed = true;
                }
                Standing::Closed => {
                    this.io.end();
                    if *this.upper_ended {
                        return Poll::Ready(());
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Io {
    /// Goes on with the upgrade, or reads what there is.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        link: &Link,
        round: &mut Round,
        reads: &mut usize,
    ) -> Reading {
        if let Some(upgrade) = round.websocket.take() {
            // There was none, or it had ended: the session says so.
            *self = Self::Upgrading(upgrade);
        }
        match self {
            Self::None => Reading::Idle,
            Self::Upgrading(upgrade) => {
                let Poll::Ready(upgraded) = Pin::new(&mut upgrade.stream).poll(cx) else {
                    return Reading::Idle;
                };
                match upgraded {
                    Ok(io) => {
                        let deflate = upgrade.deflate;
                        *self = Self::Open(Box::new(WebSocket::new(io, link, deflate)));
                    }
                    Err(error) => {
                        tell_of_failure(link, &error);
                        self.closed(link);
                    }
                }
                round.news = true;
                Reading::Progress
            }
            Self::Open(websocket) => {
                if !round.wants_read {
                    return Reading::Paused;
                }
                let mut any = false;
                while *reads > 0 {
                    *reads -= 1;
                    match websocket.poll_read(cx, link) {
                        Poll::Pending => return Reading::Idle,
                        Poll::Ready(Read::More { told, wants_read }) => {
                            any = true;
                            round.told = told;
                            round.news = true;
                            if !wants_read {
                                return Reading::Progress;
                            }
                        }
                        // What came before the end is handled before it.
                        Poll::Ready(Read::End) if any => return Reading::Progress,
                        Poll::Ready(Read::End) => return self.poll_end(cx, link, round),
                    }
                }
                Reading::Progress
            }
        }
    }

    /// The peer has ended its side. The answer to its close frame leaves first.
    fn poll_end(&mut self, cx: &mut Context<'_>, link: &Link, round: &mut Round) -> Reading {
        let Self::Open(websocket) = self else {
            return Reading::Idle;
        };
        round.news = true;
        if websocket.poll_write(cx, link).is_pending() && websocket.is_closing() {
            let now = Instant::now().into_std();
            let waits = link.drive(|session| {
                let is_own = session.transport() == Transport::WebSocket;
                if is_own {
                    session.close(CloseReason::TransportClose, now);
                }
                // The session has a deadline for the rest, which a probe has not.
                is_own && !session.is_closed()
            });
            if waits {
                return Reading::Idle;
            }
        }
        self.closed(link);
        Reading::Progress
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, link: &Link) {
        let Self::Open(websocket) = self else {
            return;
        };
        match websocket.poll_write(cx, link) {
            Poll::Pending => {
                let now = Instant::now().into_std();
                let progress = websocket.take_progress();
                link.drive(|session| {
                    if progress {
                        session.handle_progress();
                    }
                    session.handle_blocked(now);
                });
            }
            Poll::Ready(Err(_)) => self.closed(link),
            Poll::Ready(Ok(Written { finished: true })) => self.finish(cx, link),
            Poll::Ready(Ok(Written { finished: false })) => {}
        }
    }

    /// Sends the close frame. Of a session's own WebSocket the answer is waited for; one that only
    /// probed is dropped.
    fn finish(&mut self, cx: &mut Context<'_>, link: &Link) {
        let Self::Open(websocket) = self else {
            return;
        };
        let reason = link.drive(|session| session.close_reason());
        if !websocket.is_closing() {
            let (code, text) = reason.map_or((None, ""), |reason| reason.close_frame());
            websocket.start_close(code, text);
        }
        if websocket.poll_write(cx, link).is_ready() && reason.is_none() {
            *self = Self::None;
        }
    }

    fn takes_output(&self) -> bool {
        matches!(self, Self::Open(websocket) if !websocket.is_blocked() && !websocket.is_closing())
    }

    fn closed(&mut self, link: &Link) {
        *self = Self::None;
        let now = Instant::now().into_std();
        link.drive(|session| session.handle_transport_closed(Transport::WebSocket, now));
    }

    fn is_some(&self) -> bool {
        !matches!(self, Self::None)
    }

    fn end(&mut self) {
        *self = Self::None;
    }
}
