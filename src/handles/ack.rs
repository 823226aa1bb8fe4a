//! The acknowledgement of one client.

use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use serde::de::DeserializeOwned;

use super::EmitError;
use super::socket::EmitErrorKind;
use crate::engine_io::timer::finite;
use crate::hub::ClusterError;
use crate::hub::acks::AckWaiter;
use crate::hub::member::Member;
use crate::hub::other_servers::{Answer, Answers};
use crate::protocol::{EncodeError, Payload, ReadError};
use crate::sync::oneshot;

/// An event that was sent to one client and asks for an acknowledgement.
///
/// `.await` waits for the acknowledgement and returns its first argument as a `T`, or an
/// [`AckError`]. See [`Socket::emit_with_ack`](crate::Socket::emit_with_ack).
///
/// ```
/// use std::time::Duration;
/// use tower_socketio::{AckError, Namespace, Socket};
///
/// async fn quiz(socket: Socket) -> Result<bool, AckError> {
///     let answer: u32 = socket
///         .emit_with_ack("question", "6 x 7?")
///         .timeout(Duration::from_secs(5))
///         .await?;
///     Ok(answer == 42)
/// }
///
/// let namespace: Namespace = Namespace::new().on("quiz", quiz);
/// ```
///
/// # Cancel safety
///
/// Dropping it, or its future, abandons the acknowledgement. A later answer is ignored.
#[must_use = "the answer is lost unless it is awaited; `emit` asks for none"]
pub struct EmitWithAck<T> {
    pending: Result<Pending, AckError>,
    timeout: Option<Duration>,
    reads_all: bool,
    reads: PhantomData<fn() -> T>,
}

enum Pending {
    Here {
        answer: oneshot::Receiver<Payload>,
        _guard: AckGuard,
    },
    /// A socket of another server.
    Elsewhere(Answers),
}

/// Removes the waiter of an acknowledgement when it is dropped.
pub(super) struct AckGuard {
    pub(super) member: Arc<Member>,
    pub(super) ack: u64,
}

impl Drop for AckGuard {
    fn drop(&mut self) {
        self.member.forget_ack(self.ack);
    }
}

impl<T> EmitWithAck<T> {
    /// Waits for the acknowledgement of a socket of another server.
    pub(super) fn elsewhere(answers: Result<Answers, AckError>) -> Self {
        Self {
            pending: answers.map(Pending::Elsewhere),
            timeout: None,
            reads_all: false,
            reads: PhantomData,
        }
    }

    pub(super) fn send(member: Arc<Member>, payload: Result<Payload, EmitError>) -> Self {
        Self {
            pending: payload
                .map_err(AckError::from)
                .and_then(|payload| Pending::send(member, payload)),
            timeout: None,
            reads_all: false,
            reads: PhantomData,
        }
    }

    /// Sets how long the client may take to answer, from the `.await` on.
    ///
    /// After that time the result is an error that [is a timeout](AckError::is_timeout). A timeout
    /// of zero fails unless the answer has already arrived.
    ///
    /// Default: as long as the client is connected.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Reads all arguments of the answer, and not only the first. `T` is then a tuple or a list,
    /// as for [`Args`](crate::Args).
    ///
    /// ```
    /// use tower_socketio::{AckError, Namespace, Socket};
    ///
    /// async fn distance(socket: Socket) -> Result<f64, AckError> {
    ///     let question = socket.emit_with_ack("position", ()).all_args();
    ///     let (x, y): (f64, f64) = question.await?;
    ///     Ok(x.hypot(y))
    /// }
    ///
    /// let namespace: Namespace = Namespace::new().on("distance", distance);
    /// ```
    pub fn all_args(mut self) -> Self {
        self.reads_all = true;
        self
    }
}

impl Pending {
    fn send(member: Arc<Member>, payload: Payload) -> Result<Self, AckError> {
        let ack = member.namespace.next_ack();
        let (sender, answer) = oneshot::channel();
        if !member.expect_ack(ack, AckWaiter::One(sender)) {
            return Err(AckError(Reason::NotConnected));
        }
        member.emit(Some(ack), payload);
        Ok(Self::Here {
            answer,
            _guard: AckGuard { member, ack },
        })
    }

    async fn answer(mut self, timeout: Option<Duration>) -> Result<Payload, AckError> {
        let answer = self.next_answer();
        match timeout {
            Some(timeout) => tokio::time::timeout(finite(timeout), answer)
                .await
                .map_err(|_| AckError(Reason::Timeout))?,
            None => answer.await,
        }
    }

    async fn next_answer(&mut self) -> Result<Payload, AckError> {
        match self {
            Self::Here { answer, .. } => answer.await.map_err(|_| AckError(Reason::Disconnected)),
            Self::Elsewhere(answers) => {
                while let Some(answer) = answers.next().await {
                    match answer {
                        Answer::Ack(_, payload) => return Ok(payload),
                        Answer::Left => return Err(AckError(Reason::Disconnected)),
                        _ => {}
                    }
                }
                Err(AckError(match answers.end() {
                    Some(_) => Reason::NotConnected,
                    None => Reason::Cluster(ClusterError::UNREACHABLE),
                }))
            }
        }
    }
}

impl<T: DeserializeOwned + Send + 'static> IntoFuture for EmitWithAck<T> {
    type Output = Result<T, AckError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let mut payload = self.pending?.answer(self.timeout).await?;
            if self.reads_all {
                return payload
                    .read_all()
                    .map_err(|error| AckError(Reason::Read(error)));
            }
            read(payload)
        })
    }
}

impl<T> fmt::Debug for EmitWithAck<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmitWithAck")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

pub(super) fn read<T: DeserializeOwned>(mut payload: Payload) -> Result<T, AckError> {
    payload
        .read_one()
        .map_err(|error| AckError(Reason::Read(error)))
}

/// An error while waiting for an acknowledgement.
///
/// If the answer has the wrong type, the [`source`](std::error::Error::source) is a [`ReadError`],
/// which names the argument. The source of the `ReadError` is the reason from serde.
///
/// A handler may return an `AckError`. The handler's client then receives the text of the error,
/// and nothing of the answer. If the event could not be written, the error is logged and the
/// client receives "internal error".
#[derive(Debug)]
pub struct AckError(pub(super) Reason);

#[derive(Debug)]
pub(super) enum Reason {
    NotConnected,
    Timeout,
    Disconnected,
    Emit(EmitError),
    Cluster(ClusterError),
    Read(ReadError),
}

impl AckError {
    /// Returns whether the client did not answer in time.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self.0, Reason::Timeout)
    }

    /// Returns whether the client left before it answered.
    #[must_use]
    pub fn is_disconnected(&self) -> bool {
        matches!(self.0, Reason::Disconnected)
    }

    /// Returns whether the event was not sent, because the client is still connecting or has left.
    #[must_use]
    pub fn is_not_connected(&self) -> bool {
        matches!(self.0, Reason::NotConnected)
    }

    /// Returns whether another server of the cluster could not be asked, or did not say how many of
    /// its clients it asked.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self.0, Reason::Cluster(_))
    }

    /// Returns whether the arguments could not be written as JSON, or the event name is reserved.
    #[must_use]
    pub fn is_encode(&self) -> bool {
        matches!(&self.0, Reason::Emit(error) if error.is_encode())
    }

    /// Returns whether the client's answer could not be read as a `T`.
    #[must_use]
    pub fn is_wrong_type(&self) -> bool {
        matches!(self.0, Reason::Read(_))
    }
}

impl From<EmitError> for AckError {
    fn from(error: EmitError) -> Self {
        match error.0 {
            EmitErrorKind::Cluster(error) => Self(Reason::Cluster(error)),
            _ => Self(Reason::Emit(error)),
        }
    }
}

impl AckError {
    /// Returns the error of an event that could not be written.
    ///
    /// # Errors
    ///
    /// Returns `self` if it has another reason.
    pub(crate) fn into_encode_error(self) -> Result<EncodeError, Self> {
        match self.0 {
            Reason::Emit(EmitError(EmitErrorKind::Encode(error))) => Ok(error),
            reason => Err(Self(reason)),
        }
    }
}

#[cfg(feature = "testing")]
impl AckError {
    pub(crate) const fn timed_out() -> Self {
        Self(Reason::Timeout)
    }

    pub(crate) const fn disconnected() -> Self {
        Self(Reason::Disconnected)
    }

    pub(crate) const fn read(error: ReadError) -> Self {
        Self(Reason::Read(error))
    }
}

impl fmt::Display for AckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Reason::NotConnected => "the client is not connected",
            Reason::Timeout => "the client did not answer in time",
            Reason::Disconnected => "the client left before it answered",
            Reason::Emit(_) => "the question was not sent",
            Reason::Cluster(_) => "another server did not answer",
            Reason::Read(_) => "the answer has the wrong type",
        })
    }
}

impl std::error::Error for AckError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0 {
            Reason::Emit(error) => Some(error),
            Reason::Read(error) => Some(error),
            Reason::Cluster(error) => Some(error),
            Reason::NotConnected | Reason::Timeout | Reason::Disconnected => None,
        }
    }
}
