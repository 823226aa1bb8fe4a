//! Connect requests, and what they wait for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::future::BoxFuture;

use super::credit::Credit;
use super::queued::Queued;
use crate::engine_io::SocketId;
use crate::hub::member::cost;
use crate::hub::namespace::LiveNamespace;
use crate::hub::recovery::Claimed;
use crate::protocol::{Claim, NamespaceName, Payload};
use crate::routing::Routes;
use crate::transport::guarded;

/// The CONNECT of a client for one namespace.
pub(super) struct ConnectRequest {
    pub(super) slot: usize,
    pub(super) name: NamespaceName,
    pub(super) auth: Payload,
    /// The suspended socket that the client claims.
    pub(super) claim: Option<Claim>,
    /// The credit of the CONNECT, which returns when its connect handler has ended.
    pub(super) credit: Credit,
    /// The id that the socket will have.
    pub(super) id: SocketId,
    /// The events that the client has sent since.
    pub(super) queue: VecDeque<Queued>,
}

impl ConnectRequest {
    /// Takes the credit of the CONNECT and of the queued events, which are dropped.
    pub(super) fn take_credit(&mut self) -> Credit {
        let mut credit = self.credit.take();
        for queued in self.queue.drain(..) {
            credit.add(queued.credit);
        }
        credit
    }

    /// Returns the bytes that the socket will hold of the connection's budget.
    pub(super) fn kept(&self) -> usize {
        let auth = std::str::from_utf8(self.auth.json()).ok();
        cost(&self.name, auth)
    }
}

/// A connect request that waits.
pub(super) struct PendingConnect {
    pub(super) request: ConnectRequest,
    pub(super) waiting: Waiting,
}

/// What a connect request waits for.
pub(super) enum Waiting {
    /// A predicate.
    Decision(Decision),
    /// The broker, which may have kept the socket that the client claims.
    Claim {
        claim: BoxFuture<'static, Option<Claimed>>,
        routes: Arc<Routes>,
        namespace: Arc<LiveNamespace>,
    },
}

/// The future of the index of the predicate that accepts a connect request. It runs code of the
/// application.
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
        // A destructor of the application may run here.
        let decision = self.0.take();
        let _ = guarded(move || drop(decision));
    }
}
