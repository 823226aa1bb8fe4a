//! One socket's handlers: connect, then events in order, then disconnect.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::future::BoxFuture;

use super::calls::{call, poll};
use super::credit::Credit;
use super::expiry::leave_if_expired;
use super::observed::{HandlerInSpan, ObservedHandler};
use super::pending_connect::ConnectRequest;
use super::queued::Queued;
use super::turn::Turn;
use crate::engine_io::Revision;
use crate::handles::Socket;
use crate::hub::DisconnectReason;
use crate::hub::member::Member;
use crate::hub::namespace::Membership;
use crate::hub::recovery::Handover;
use crate::hub::spans::OptionalSpan;
use crate::nearest::{nearest, shortened};
use crate::notice::notice;
use crate::protocol::peer::Peer;
use crate::protocol::{Encoded, Kind, Payload};
use crate::routing::{ErrorReply, Event, EventRoute, Reply, Routes};
use crate::sync::oneshot;
use crate::transport::guarded;

/// A socket and its handlers. The socket leaves its namespace when the driver is dropped.
pub(super) struct SocketDriver {
    /// The slot of the socket in the session's [`Peer`], while it has one.
    slot: Option<usize>,
    membership: Membership,
    routes: Arc<Routes>,
    phase: Phase,
    queue: VecDeque<Queued>,
    /// The credit of the CONNECT, while the connect handler runs.
    connect_credit: Credit,
    running: Vec<Running>,
    /// The span of the socket.
    span: OptionalSpan,
    /// Whether there is a span or an observer.
    is_observed: bool,
}

enum Phase {
    Connecting(BoxFuture<'static, Reply>),
    /// The connect handler has ended, and the broker of a cluster opens the namespace or rooms.
    Opening(BoxFuture<'static, Reply>),
    /// Events are handled. After the socket has left, this phase lasts until the queued events are
    /// handled.
    Open,
    /// The layers around the disconnect handler run. The channel signals that they have called the
    /// handler.
    DisconnectLayers(BoxFuture<'static, Reply>, Option<oneshot::Receiver<()>>),
    /// The layers have ended. The disconnect handler runs without them if they dropped the event.
    LayersEnded(oneshot::Receiver<()>),
    Disconnecting(BoxFuture<'static, Reply>),
    Ended,
}

struct Running {
    future: BoxFuture<'static, Reply>,
    ack: Option<u64>,
    /// Whether other handlers need not wait for this one.
    is_concurrent: bool,
}

/// How long a client waits for CONNECT while a broker opens its namespace and its rooms.
const MAX_OPENING: Duration = Duration::from_secs(1);

/// How many handlers marked as concurrent may run at a time for one socket.
const MAX_CONCURRENT: usize = 64;

impl SocketDriver {
    pub(super) fn new(
        request: ConnectRequest,
        membership: Membership,
        routes: Arc<Routes>,
    ) -> Self {
        let event = Event::connect(Socket::new(Arc::clone(&membership.0)), request.auth);
        let member = &membership.0;
        let span = member.session.span.connect(
            &member.namespace.name,
            &routes.hooks.definition,
            member.auth.as_deref(),
        );
        let is_observed = !span.is_none() || !member.session.observers.is_empty();
        let connecting = HandlerInSpan::wrap(&span, || match member.handover() {
            None => call(&routes.connect, event),
            Some(handover) => recover(Arc::clone(handover), Arc::clone(&routes), event),
        });
        Self {
            slot: Some(request.slot),
            phase: Phase::Connecting(connecting),
            membership,
            routes,
            queue: request.queue,
            connect_credit: request.credit,
            running: Vec::new(),
            is_observed,
            span,
        }
    }

    pub(super) fn slot(&self) -> Option<usize> {
        self.slot
    }

    /// Forgets the slot: the session's [`Peer`] no longer knows the socket.
    pub(super) fn detach(&mut self) {
        self.slot = None;
    }

    pub(super) fn member(&self) -> &Arc<Member> {
        &self.membership.0
    }

    /// Returns whether a connect handler or an event handler runs.
    pub(super) fn is_handling(&self) -> bool {
        matches!(self.phase, Phase::Connecting(_) | Phase::Opening(_)) || !self.running.is_empty()
    }

    /// Drops the handlers that run but for disconnect handlers, and returns their number.
    pub(super) fn drop_handlers(&mut self) -> usize {
        let running = std::mem::take(&mut self.running);
        let mut count = running.len();
        for each in running {
            // A destructor of the application may run here.
            let _ = guarded(move || drop(each));
        }
        match self.phase {
            Phase::Connecting(_) => {
                count += 1;
                self.set_phase(Phase::Ended);
            }
            // The connect handler has ended, so the disconnect handler follows.
            Phase::Opening(_) => self.set_phase(Phase::Open),
            _ => {}
        }
        count
    }

    /// Returns the number of disconnect handlers that run.
    pub(super) fn disconnecting_count(&self) -> usize {
        let is_running = matches!(
            self.phase,
            Phase::DisconnectLayers(..) | Phase::LayersEnded(_) | Phase::Disconnecting(_)
        );
        usize::from(is_running)
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    /// Starts the handler of an event, or queues the event behind others, or because it `waits` for
    /// the next turn. Returns the credit of an event whose handler was started.
    pub(super) fn handle_event(
        &mut self,
        mut event: Queued,
        waits: bool,
        cx: &mut Context<'_>,
    ) -> Credit {
        let is_idle = self.queue.is_empty() && self.running.is_empty() && !waits;
        if !is_idle || !matches!(self.phase, Phase::Open) || self.member().has_left() {
            self.queue.push_back(event);
            return Credit::default();
        }
        let credit = event.credit.take();
        self.start(event, cx);
        credit
    }

    /// Polls the handlers, and starts those that can start. Returns whether anything happened.
    #[inline]
    pub(super) fn run(
        &mut self,
        cx: &mut Context<'_>,
        peer: &mut Peer,
        consumed: &mut Credit,
        turn: &mut Turn,
    ) -> bool {
        match &mut self.phase {
            Phase::Connecting(future) | Phase::Opening(future) => {
                let Poll::Ready(reply) = poll(future, cx) else {
                    return false;
                };
                self.connect_handler_ended(reply, peer, consumed);
                true
            }
            Phase::Open => self.run_events(cx, peer, consumed, turn),
            Phase::DisconnectLayers(future, handler_reached) => {
                let ended = poll(future, cx).is_ready();
                if ended {
                    let next = handler_reached
                        .take()
                        .map_or(Phase::Ended, Phase::LayersEnded);
                    self.set_phase(next);
                }
                ended
            }
            Phase::LayersEnded(handler_reached) => {
                let Poll::Ready(arrived) = Pin::new(handler_reached).poll(cx) else {
                    return false;
                };
                self.set_phase(Phase::Ended);
                if arrived.is_err() {
                    tracing::debug!(
                        socket = %self.member().id,
                        "a layer did not pass a disconnect on: the disconnect handler runs without the layers"
                    );
                    self.disconnect_past_layers();
                }
                true
            }
            Phase::Disconnecting(future) => {
                let ended = poll(future, cx).is_ready();
                if ended {
                    self.set_phase(Phase::Ended);
                }
                ended
            }
            Phase::Ended => false,
        }
    }

    /// Waits for the broker if the connect handler has accepted the client and this was not done.
    fn connect_handler_ended(&mut self, reply: Reply, peer: &mut Peer, consumed: &mut Credit) {
        let is_accepted = matches!(self.phase, Phase::Connecting(_)) && !reply.is_err();
        match self.opening().filter(|_| is_accepted) {
            Some(opening) => self.set_phase(Phase::Opening(Box::pin(async move {
                opening.await;
                reply
            }))),
            None => self.handle_connect_reply(reply, peer, consumed),
        }
    }

    /// Returns the wait until the messages of other servers arrive for the socket. Returns `None` if
    /// they do, or in one process.
    fn opening(&self) -> Option<impl Future<Output = ()> + Send + use<>> {
        let synced = self.member().namespace.others()?.synced()?;
        Some(async move {
            // A client does not wait for a broker that is away.
            let _ = tokio::time::timeout(MAX_OPENING, synced).await;
        })
    }

    /// Connects or refuses the client, as the connect handler has replied.
    fn handle_connect_reply(&mut self, reply: Reply, peer: &mut Peer, consumed: &mut Credit) {
        let member = Arc::clone(self.member());
        consumed.add(self.connect_credit.take());
        match reply.into_result() {
            Ok(_) => {
                leave_if_expired(&member);
                let packet = member.encode(Kind::Connect, None, connect_payload(&member));
                if !member.accept(packet.clone()) {
                    connect_then_disconnect(&member, packet);
                } else if let Some(slot) = self.slot {
                    peer.mark_connected(slot);
                }
                // The socket has joined, if only for a moment: its disconnect handler will run.
                self.set_phase(Phase::Open);
            }
            Err(error) => {
                let had_left = !member.leave(DisconnectReason::ServerNamespaceDisconnect);
                self.drop_queue(consumed);
                if let Some(slot) = self.slot.take() {
                    peer.free(slot);
                }
                if !had_left {
                    let error = match member.session.params.revision {
                        Revision::V4 => error.to_connect_error(),
                        Revision::V3 => error.to_legacy_connect_error(),
                    };
                    let packet = member.encode(Kind::ConnectError, None, error);
                    member.session.send_error_reply(packet);
                }
                self.set_phase(Phase::Ended);
            }
        }
    }

    /// Enters a phase. Dropping the former one may run a destructor of the application.
    fn set_phase(&mut self, phase: Phase) {
        let former = std::mem::replace(&mut self.phase, phase);
        let _ = guarded(move || drop(former));
    }

    #[inline]
    fn run_events(
        &mut self,
        cx: &mut Context<'_>,
        peer: &mut Peer,
        consumed: &mut Credit,
        turn: &mut Turn,
    ) -> bool {
        let has_left = self.member().has_left();
        if has_left {
            self.handle_leave(peer, consumed);
        }
        let mut progress = !self.running.is_empty() && self.poll_running(cx);
        while !turn.is_over() && !self.queue.is_empty() && self.can_start() {
            let Some(mut queued) = self.queue.pop_front() else {
                break;
            };
            consumed.add(queued.credit.take());
            self.start(queued, cx);
            turn.count();
            progress = true;
        }
        if self.queue.is_empty() && self.queue.capacity() > 16 {
            self.queue = VecDeque::new();
        }
        if has_left && self.queue.is_empty() && self.running.is_empty() {
            self.begin_disconnect();
            return true;
        }
        progress
    }

    fn handle_leave(&mut self, peer: &mut Peer, consumed: &mut Credit) {
        let reason = self.member().reason();
        if reason.is_some_and(DisconnectReason::is_by_server) {
            self.drop_queue(consumed);
        }
        if let Some(slot) = self.slot.take() {
            peer.mark_left(slot);
        }
    }

    /// Drops the queued events, and counts them as consumed.
    pub(super) fn drop_queue(&mut self, consumed: &mut Credit) {
        self.queue
            .drain(..)
            .for_each(|queued| consumed.add(queued.credit));
    }

    fn poll_running(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        let mut at = 0;
        while let Some(running) = self.running.get_mut(at) {
            match poll(&mut running.future, cx) {
                Poll::Pending => at += 1,
                Poll::Ready(reply) => {
                    let Running { future, ack, .. } = self.running.remove(at);
                    // A destructor of the application may run here.
                    let _ = guarded(move || drop(future));
                    self.answer(ack, reply);
                    progress = true;
                }
            }
        }
        progress
    }

    /// Returns whether the next event may start. Handlers that are not marked as concurrent wait
    /// for each other.
    fn can_start(&self) -> bool {
        let concurrent = self
            .running
            .iter()
            .filter(|each| each.is_concurrent)
            .count();
        let ordered = self.running.len() - concurrent;
        concurrent < MAX_CONCURRENT
            && (ordered < self.routes.max_concurrent || self.next_is_concurrent())
    }

    fn next_is_concurrent(&self) -> bool {
        let next = self.queue.front();
        let name = next.and_then(|queued| queued.payload.name_bytes());
        let found = self.routes.find(name.unwrap_or_default());
        found.is_some_and(|found| found.is_concurrent)
    }

    fn start(&mut self, queued: Queued, cx: &mut Context<'_>) {
        let name = queued.payload.name_bytes().unwrap_or_default();
        let Some(found) = self.routes.find(name) else {
            return self.handle_missing_handler(queued);
        };
        let ack = queued.ack;
        let mut future = match self.is_observed {
            true => self.call_observed(found, queued),
            false => {
                let socket = Socket::new(Arc::clone(self.member()));
                call(&found.route, Event::event(socket, queued.payload, ack))
            }
        };
        let is_concurrent = found.is_concurrent;
        match poll(&mut future, cx) {
            Poll::Ready(reply) => {
                let _ = guarded(move || drop(future));
                self.answer(ack, reply);
            }
            Poll::Pending => self.running.push(Running {
                future,
                ack,
                is_concurrent,
            }),
        }
    }

    /// Calls the handler of an event within a span, and reports both to the observers.
    // By value and not inlined, so that an event that nobody observes is not moved once more.
    #[inline(never)]
    fn call_observed(&self, found: &EventRoute, queued: Queued) -> BoxFuture<'static, Reply> {
        let member = self.member();
        let observers = &member.session.observers;
        observers.each(|observer| observer.event_received(member, found.index, &queued.payload));
        let span = self.span.event(
            &member.namespace.name,
            &self.routes.hooks.definition,
            found.index,
            &queued.payload,
        );
        let socket = Socket::new(Arc::clone(member));
        let event = Event::event(socket, queued.payload, queued.ack);
        ObservedHandler::call(&found.route, member, found.index, span, event)
    }

    #[inline(never)]
    fn handle_missing_handler(&self, queued: Queued) {
        let Queued { ack, payload, .. } = queued;
        let member = self.member();
        let observers = &member.session.observers;
        observers.each(|observer| observer.event_received(member, None, &payload));
        self.log_missing_handler(payload.name());
        let error = Err(ErrorReply::new("no handler for this event"));
        self.answer(ack, error.into());
    }

    fn log_missing_handler(&self, event: Option<&str>) {
        let member = self.member();
        let Some(notices) = Socket::new(Arc::clone(member)).notices() else {
            return;
        };
        let names = self.routes.events.keys();
        let names = names.filter_map(|name| std::str::from_utf8(name).ok());
        notice!(
            notices.no_handler,
            event = event.map(shortened),
            did_you_mean = event.and_then(|event| nearest(event, names)),
            namespace = &*member.namespace.name,
            socket = %member.id,
            "an event has no handler: register one with `Namespace::on`, or a `fallback` for all"
        );
    }

    #[inline]
    fn answer(&self, ack: Option<u64>, reply: Reply) {
        let Some(ack) = ack.filter(|_| !reply.is_deferred()) else {
            return;
        };
        self.member().send_ack(ack, reply.into_ack());
    }

    fn begin_disconnect(&mut self) {
        let routes = Arc::clone(&self.routes);
        let layered = routes.disconnect.as_ref().map(|route| &route.layered);
        match layered {
            Some(Some(layered)) => {
                let mut event = self.disconnect_event();
                let handler_reached = event.handler_reached();
                let layers = HandlerInSpan::wrap(&self.span, || call(layered, event));
                self.set_phase(Phase::DisconnectLayers(layers, Some(handler_reached)));
            }
            Some(None) => self.disconnect_past_layers(),
            None => self.set_phase(Phase::Ended),
        }
    }

    fn disconnect_past_layers(&mut self) {
        if let Some(route) = &self.routes.disconnect {
            let event = self.disconnect_event();
            let handler = HandlerInSpan::wrap(&self.span, || call(&route.bare, event));
            self.set_phase(Phase::Disconnecting(handler));
        }
    }

    fn disconnect_event(&self) -> Event {
        let reason = self.member().reason();
        let reason = reason.unwrap_or(DisconnectReason::TransportClose);
        Event::disconnect(Socket::new(Arc::clone(self.member())), reason)
    }
}

/// Returns the payload of the CONNECT for the client. A Socket.IO 2 client gets an empty one.
fn connect_payload(member: &Member) -> Payload {
    if member.session.params.revision == Revision::V3 {
        return Payload::default();
    }
    // A map of two strings can always be serialized.
    Payload::object(member.namespace.name.len(), &ConnectPayload(member)).unwrap_or_default()
}

struct ConnectPayload<'a>(&'a Member);

impl serde::Serialize for ConnectPayload<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let private = self.0.recovery.as_ref();
        let private = private.map(|recovery| ("pid", recovery.private_id.expose().to_owned()));
        let public = ("sid", self.0.id.as_str().to_owned());
        serializer.collect_map([public].into_iter().chain(private))
    }
}

/// Sends CONNECT and then DISCONNECT, as the client expects, if the server disconnected the socket
/// during its connect handler, or if the socket expired while its client was away.
fn connect_then_disconnect(member: &Member, connect: Encoded) {
    let (missed, held) = (member.take_missed(), member.take_held());
    let is_told = matches!(
        member.reason(),
        Some(DisconnectReason::ServerNamespaceDisconnect | DisconnectReason::Expired)
    );
    if !is_told {
        return;
    }
    let leave = member.encode(Kind::Disconnect, None, Payload::default());
    let packets = [connect].into_iter().chain(missed).chain(held);
    for packet in packets.chain([leave]) {
        member.session.send(packet);
    }
}

/// Restores a socket after the handlers of the suspended one have ended, so that the last of them
/// does not undo what the connect handler does.
fn recover(
    handover: Arc<Handover>,
    routes: Arc<Routes>,
    event: Event,
) -> BoxFuture<'static, Reply> {
    Box::pin(async move {
        handover.handlers_ended().await;
        let member = Arc::clone(&event.socket().member);
        member.restore_data(&handover);
        if member.namespace.skips_connect_handler() {
            return Reply::ok();
        }
        call(&routes.connect, event).await
    })
}
