//! A handler that is observed: it runs within a span, and the observers hear of its end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_core::future::BoxFuture;

use super::calls::{call, poll};
use crate::hub::definition::EventIndex;
use crate::hub::member::Member;
use crate::hub::observer::since;
use crate::hub::spans::OptionalSpan;
use crate::routing::{Event, Reply, Route};

/// The future of an event's handler. It does not panic.
///
/// A handler that nobody observes has no such future around it, so it costs nothing.
pub(super) struct ObservedHandler {
    handler: BoxFuture<'static, Reply>,
    member: Arc<Member>,
    event: EventIndex,
    span: OptionalSpan,
    /// `None` if there is no observer.
    started: Option<Instant>,
}

impl ObservedHandler {
    /// Calls the handler of an event that has arrived.
    pub(super) fn call(
        route: &Route,
        member: &Arc<Member>,
        index: EventIndex,
        span: OptionalSpan,
        event: Event,
    ) -> BoxFuture<'static, Reply> {
        let started = member.session.observers.started();
        let entered = span.enter();
        let handler = call(route, event);
        drop(entered);
        Box::pin(Self {
            handler,
            member: Arc::clone(member),
            event: index,
            span,
            started,
        })
    }

    fn handle_end(&self, reply: &Reply) {
        let outcome = reply.outcome();
        self.span.ended(outcome);
        if let Some(started) = self.started {
            let took = since(started);
            let observers = &self.member.session.observers;
            observers
                .each(|observer| observer.handler_ended(&self.member, self.event, outcome, took));
        }
    }
}

impl Future for ObservedHandler {
    type Output = Reply;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply> {
        let this = &mut *self;
        let entered = this.span.enter();
        let polled = poll(&mut this.handler, cx);
        drop(entered);
        if let Poll::Ready(reply) = &polled {
            self.handle_end(reply);
        }
        polled
    }
}

/// A connect or disconnect handler that runs within the span of its socket.
pub(super) struct HandlerInSpan {
    handler: BoxFuture<'static, Reply>,
    span: OptionalSpan,
}

impl HandlerInSpan {
    /// Returns a handler that runs within the span, if there is one.
    pub(super) fn wrap(
        span: &OptionalSpan,
        start: impl FnOnce() -> BoxFuture<'static, Reply>,
    ) -> BoxFuture<'static, Reply> {
        if span.is_none() {
            return start();
        }
        let entered = span.enter();
        let handler = start();
        drop(entered);
        let span = span.clone();
        Box::pin(Self { handler, span })
    }
}

impl Future for HandlerInSpan {
    type Output = Reply;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply> {
        let this = &mut *self;
        let _entered = this.span.enter();
        this.handler.as_mut().poll(cx)
    }
}
