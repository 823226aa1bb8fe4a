//! The time at which a socket is disconnected, unless its client signs in again.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::member::Member;
use crate::engine_io::timer::deadline;
use crate::sync::atomic::{AtomicBool, Ordering};

/// When a socket is disconnected, and which events its client receives before.
///
/// [`Socket::set_expiry`](crate::Socket::set_expiry) sets it.
///
/// ```
/// use std::time::Duration;
/// use tower_socketio::{Expiry, Namespace, Socket};
///
/// async fn connect(socket: Socket) {
///     let hour = Duration::from_secs(60 * 60);
///     socket.set_expiry(
///         Expiry::after(hour)
///             .reminder("sign_in_again", Duration::from_secs(60))
///             .last_event("signed_out"),
///     );
/// }
///
/// let namespace: Namespace = Namespace::new().on_connect(connect);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "it has no effect until it is set"]
pub struct Expiry {
    after: Duration,
    reminder: Option<Reminder>,
    last_event: Option<Cow<'static, str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Reminder {
    event: Cow<'static, str>,
    before: Duration,
}

impl Expiry {
    /// Disconnects the socket when this time has passed. It begins with
    /// [`Socket::set_expiry`](crate::Socket::set_expiry).
    ///
    /// Zero disconnects at once. A time of more than thirty years counts as thirty years.
    pub const fn after(after: Duration) -> Self {
        Self {
            after,
            reminder: None,
            last_event: None,
        }
    }

    /// Sends the client an event `before` the deadline. Its argument is `{ expiresInMs: … }`, the
    /// rest of the time in milliseconds.
    ///
    /// If less time is left when the expiry is set, the event is sent at once. With a reserved name, such
    /// as `connect`, nothing is sent, and an error is logged.
    ///
    /// Default: no event is sent.
    pub fn reminder(mut self, event: impl Into<Cow<'static, str>>, before: Duration) -> Self {
        let event = event.into();
        self.reminder = Some(Reminder { event, before });
        self
    }

    /// Sends the client an event without arguments at the deadline, before it is disconnected. It
    /// tells the client why. With a reserved name nothing is sent, and an error is logged.
    ///
    /// Default: no event is sent.
    pub fn last_event(mut self, event: impl Into<Cow<'static, str>>) -> Self {
        self.last_event = Some(event.into());
        self
    }
}

/// An expiry that has begun.
#[derive(Debug)]
pub(crate) struct Deadline {
    expiry: Expiry,
    at: Instant,
    is_reminded: AtomicBool,
}

/// What has to be done for a deadline.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due<'a> {
    /// An event is sent, with the time that is left.
    Reminder(&'a str, Duration),
    /// The socket is disconnected, after this event.
    Expired(Option<&'a str>),
}

impl Deadline {
    pub(crate) fn new(expiry: Expiry, now: Instant) -> Self {
        Self {
            at: deadline(now, expiry.after),
            is_reminded: AtomicBool::new(expiry.reminder.is_none()),
            expiry,
        }
    }

    /// Returns the time that is left.
    pub(crate) fn rest(&self, now: Instant) -> Duration {
        self.at.saturating_duration_since(now)
    }

    /// Returns when [`due`](Self::due) has to be called.
    fn next(&self) -> Instant {
        match &self.expiry.reminder {
            Some(reminder) if !self.is_reminded.load(Ordering::Relaxed) => {
                self.at.checked_sub(reminder.before).unwrap_or(self.at)
            }
            _ => self.at,
        }
    }

    /// Returns the action that is due now. Each reminder is returned once.
    pub(crate) fn due(&self, now: Instant) -> Option<Due<'_>> {
        if self.at <= now {
            return Some(Due::Expired(self.expiry.last_event.as_deref()));
        }
        let reminder = self.expiry.reminder.as_ref()?;
        if self.next() > now || self.is_reminded.swap(true, Ordering::Relaxed) {
            return None;
        }
        Some(Due::Reminder(&reminder.event, self.rest(now)))
    }
}

impl Member {
    /// Sets or removes the deadline. It is kept in the extensions, which a restored socket gets from
    /// the suspended one.
    pub(crate) fn set_deadline(&self, deadline: Option<Deadline>) {
        let mut extensions = self.extensions.write();
        let before = match deadline {
            Some(deadline) => extensions.insert(Arc::new(deadline)),
            None => extensions.remove::<Arc<Deadline>>(),
        };
        drop(extensions);
        drop(before);
        self.watch_deadline();
    }

    /// Makes the session's task watch the deadline, if there is one.
    pub(crate) fn watch_deadline(&self) {
        if self.deadline().is_some() {
            self.session.watch_deadlines();
        }
    }

    pub(crate) fn deadline(&self) -> Option<Arc<Deadline>> {
        self.extensions.read().get().cloned()
    }

    /// Returns when the deadline needs attention. A socket that is still connecting has none yet.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let deadline = self.is_connected().then(|| self.deadline()).flatten()?;
        Some(deadline.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_deadline_reminds_once_and_then_expires() {
        let now = Instant::now();
        let expiry = Expiry::after(10 * MINUTE).reminder("again", MINUTE);
        let deadline = Deadline::new(expiry.last_event("over"), now);
        assert_eq!(deadline.next(), now + 9 * MINUTE);
        assert_eq!(deadline.due(now + 8 * MINUTE), None);
        let reminded = deadline.due(now + 9 * MINUTE);
        assert_eq!(reminded, Some(Due::Reminder("again", MINUTE)));
        assert_eq!(deadline.due(now + 9 * MINUTE), None);
        assert_eq!(deadline.next(), now + 10 * MINUTE);
        let expired = deadline.due(now + 10 * MINUTE);
        assert_eq!(expired, Some(Due::Expired(Some("over"))));
    }

    #[test]
    fn a_reminder_that_is_late_is_not_sent_after_the_deadline() {
        let now = Instant::now();
        let expiry = Expiry::after(MINUTE).reminder("again", 2 * MINUTE);
        let deadline = Deadline::new(expiry, now);
        assert!(deadline.next() <= now);
        assert_eq!(deadline.due(now + MINUTE), Some(Due::Expired(None)));
        assert_eq!(deadline.due(now), Some(Due::Reminder("again", MINUTE)));
    }

    #[test]
    fn no_time_is_too_long() {
        let now = Instant::now();
        let expiry = Expiry::after(Duration::MAX).reminder("again", Duration::MAX);
        let deadline = Deadline::new(expiry, now);
        assert!(deadline.next() > now);
        assert_eq!(deadline.due(now), None);
    }
}
