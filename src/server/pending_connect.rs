//! A client that asks for a namespace, and waits for the decision whether there is one for it.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use futures_core::future::BoxFuture;

use super::socket_driver::Queued;
use crate::engine_io::SocketId;
use crate::hub::member::cost;
use crate::protocol::{Claim, NamespaceName, Payload};
use crate::transport::guarded;

/// A client that asks for a namespace.
pub(super) struct ConnectRequest {
    pub(super) slot: usize,
    pub(super) name: NamespaceName,
    pub(super) auth: Payload,
    /// Who it says it was.
    pub(super) claim: Option<Claim>,
    /// What that counts until it is decided, and its connect handler has ended.
    pub(super) connect_cost: usize,
    /// The id it will have.
    pub(super) id: SocketId,
    /// What it has sent since.
    pub(super) queue: VecDeque<Queued>,
}

impl ConnectRequest {
    /// What all of it counts.
    pub(super) fn cost(&self) -> usize {
        let queued = self.queue.iter().map(|queued| queued.cost);
        self.connect_cost + queued.sum::<usize>()
    }

    /// What its socket will count of what the connection keeps.
    pub(super) fn kept(&self) -> usize {
        let auth = std::str::from_utf8(self.auth.json()).ok();
        cost(&self.name, auth)
    }
}

/// One that it is not decided on yet.
pub(super) struct PendingConnect {
    pub(super) request: ConnectRequest,
    pub(super) decision: Decision,
}

/// Which definition takes an request, if one does. It is the user's code.
pub(super) struct Decision(Option<BoxFuture<'static, Option<usize>>>);

impl Decision {
    pub(super) fn new(decision: BoxFuture<'static, Option<usize>>) -> Self {
        Self(Some(decision))
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<usize>> {
        let Some(decision) = &mut self.0 else {
            return Poll::Ready(None);
        };
        guarded(|| decision.as_mut().poll(cx)).unwrap_or_else(|_| {
            tracing::error!("a function of `namespace_if` panicked");
            Poll::Ready(None)
        })
    }
}

impl Drop for Decision {
    fn drop(&mut self) {
        // A destructor of the user's runs here.
        let decision = self.0.take();
        let _ = guarded(move || drop(decision));
    }
}
