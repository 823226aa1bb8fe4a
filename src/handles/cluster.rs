//! What the operations on the servers of a cluster return.

use std::future::IntoFuture;
use std::time::Duration;
use std::{error, fmt};

use futures_core::future::BoxFuture;
use tokio::time::Instant;

use crate::hub::ClusterError;
use crate::hub::other_servers::{Answer, Answers};
use crate::sync::oneshot;

/// How long a question to other servers waits for their answers.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The confirmation that the broker has a message. See
/// [`Broadcast::try_emit`](crate::Broadcast::try_emit).
///
/// `.await` fails if the message was dropped, or if the connection of the broker ended before it had
/// confirmed the message. Redis in the mode `Streams` sends it again instead, and confirms it later.
/// Dropping this does not stop the message. Without a cluster it succeeds at
/// once.
#[derive(Debug)]
pub struct Confirmation {
    pub(super) confirms: Vec<oneshot::Receiver<Result<(), ClusterError>>>,
}

impl IntoFuture for Confirmation {
    type Output = Result<(), ClusterError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            for confirm in self.confirms {
                confirm.await.unwrap_or(Err(ClusterError::UNREACHABLE))?;
            }
            Ok(())
        })
    }
}

/// The answers that have arrived, if not all servers have answered.
///
/// The `?` operator converts it into a [`ClusterError`], which is the reason.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Partial<T> {
    /// What has arrived.
    pub got: T,
    /// The number of servers whose answer is missing. 0 if no server was asked.
    pub missing: usize,
    reason: ClusterError,
}

impl<T> Partial<T> {
    /// Returns what has arrived.
    #[must_use]
    pub fn into_got(self) -> T {
        self.got
    }

    /// Returns the reason why answers are missing.
    #[must_use]
    pub fn reason(&self) -> ClusterError {
        self.reason
    }
}

impl<T> From<Partial<T>> for ClusterError {
    fn from(partial: Partial<T>) -> Self {
        partial.reason
    }
}

impl<T> fmt::Display for Partial<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.missing {
            0 => f.write_str("the other servers were not asked"),
            1 => f.write_str("a server did not answer"),
            missing => write!(f, "{missing} servers did not answer"),
        }
    }
}

impl<T: fmt::Debug> error::Error for Partial<T> {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        Some(&self.reason)
    }
}

/// The servers that have not answered, and the reason.
#[derive(Debug, Default)]
pub(super) struct Missing {
    pub(super) servers: usize,
    reason: Option<ClusterError>,
}

impl Missing {
    pub(super) fn fail(&mut self, reason: ClusterError) {
        self.reason = Some(reason);
    }

    /// Passes the answers to one question to `each`, until the deadline.
    pub(super) async fn collect(
        &mut self,
        answers: Result<Answers, ClusterError>,
        deadline: Instant,
        mut each: impl FnMut(Answer),
    ) {
        let mut answers = match answers {
            Ok(answers) => answers,
            Err(reason) => return self.fail(reason),
        };
        loop {
            match tokio::time::timeout_at(deadline, answers.next()).await {
                Ok(Some(answer)) => each(answer),
                Ok(None) => break,
                Err(_) => {
                    self.fail(ClusterError::TIMEOUT);
                    break;
                }
            }
        }
        match answers.end() {
            Some(servers) => self.servers += servers,
            None => self.fail(ClusterError::UNREACHABLE),
        }
    }

    /// Returns `got`, or the error with it.
    pub(super) fn or<T>(self, got: T) -> Result<T, Partial<T>> {
        if self.servers == 0 && self.reason.is_none() {
            return Ok(got);
        }
        Err(Partial {
            got,
            missing: self.servers,
            reason: self.reason.unwrap_or(ClusterError::UNREACHABLE),
        })
    }
}
