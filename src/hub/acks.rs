//! The tasks that wait for acknowledgements.

use tokio::sync::mpsc;

use crate::engine_io::SocketId;
use crate::protocol::Payload;
use crate::sync::oneshot;

/// The receiver of an acknowledgement. If it is dropped without one, the waiting task learns that
/// none will come.
#[derive(Debug)]
pub(crate) enum AckWaiter {
    One(oneshot::Sender<Payload>),
    Many(ManyWaiter),
}

/// The receiver of the acknowledgement of one recipient of a broadcast.
#[derive(Debug)]
pub(crate) struct ManyWaiter {
    id: SocketId,
    answers: mpsc::UnboundedSender<(SocketId, Option<Payload>)>,
    is_answered: bool,
}

impl ManyWaiter {
    pub(crate) fn new(
        id: SocketId,
        answers: mpsc::UnboundedSender<(SocketId, Option<Payload>)>,
    ) -> Self {
        Self {
            id,
            answers,
            is_answered: false,
        }
    }
}

impl Drop for ManyWaiter {
    fn drop(&mut self) {
        if !self.is_answered {
            let _ = self.answers.send((self.id, None));
        }
    }
}

impl AckWaiter {
    #[inline]
    pub(super) fn answer(self, payload: Payload) {
        // An error means that the waiting task is gone.
        match self {
            Self::One(sender) => drop(sender.send(payload)),
            Self::Many(mut waiter) => {
                waiter.is_answered = true;
                let _ = waiter.answers.send((waiter.id, Some(payload)));
            }
        }
    }
}
