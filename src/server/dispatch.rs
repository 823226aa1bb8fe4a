//! Decodes the messages of one session and passes the packets to its sockets.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::credit::Credit;
use super::expiry::handle_deadline;
use super::pending_connect::{ConnectRequest, Decision, PendingConnect, Waiting};
use super::queued::Queued;
use super::socket_driver::SocketDriver;
use super::turn::Turn;
use super::{Opened, Server, partial_deadline};
use crate::clock::now;
use crate::engine_io::timer::earliest;
use crate::engine_io::{CloseReason, Message, Revision, SessionEvent, SocketId, Transport};
use crate::hub::DisconnectReason;
use crate::hub::namespace::LiveNamespace;
use crate::hub::observer::{Observer, since};
use crate::hub::recovery::{Claimed, JoinRequest, PrivateId};
use crate::hub::session::{End, SharedSession};
use crate::notice::notice;
use crate::protocol::peer::{Action, Peer, ProtocolError};
use crate::protocol::{Decoder, Kind, NamespaceName, Packet, Payload, legacy};
use crate::random::random;
use crate::routing::{ErrorReply, NamespaceRequest, Routes};
use crate::transport::{SessionApp, guarded};

/// The Socket.IO side of one session.
pub(super) struct Dispatch {
    session: Arc<SharedSession>,
    decoder: Box<dyn Decoder>,
    /// The deadline for the attachments of an incomplete packet.
    partial: Option<Instant>,
    /// The bytes of the messages of that packet so far. Their credit has returned to the session,
    /// so that the rest is read.
    partial_bytes: usize,
    peer: Peer,
    /// The connect requests that wait for a predicate, or for the broker of a cluster.
    pending: Vec<PendingConnect>,
    drivers: Vec<SocketDriver>,
    inbox: VecDeque<SessionEvent>,
    /// The credit that is to return to the session.
    consumed: Credit,
    turn: Turn,
    /// The reason why the session has ended.
    closed: Option<CloseReason>,
    /// The transport, as the observers know it.
    transport: Transport,
    /// The deadline for handlers to answer, while the server shuts down.
    shutdown_deadline: Option<Instant>,
    /// Whether the session is to join `/` without a CONNECT.
    joins_main: bool,
    /// Dropped last: a server that is dropped forgets the sockets that are suspended by then.
    server: Arc<Server>,
}

impl Dispatch {
    pub(super) fn new(server: Arc<Server>, session: &Arc<SharedSession>, now: Instant) -> Self {
        let max = server.hub.limits.namespaces_per_session;
        Self {
            decoder: server.hub.parser.decoder(),
            peer: Peer::new(max, server.connect_timeout, now),
            server,
            session: Arc::clone(session),
            partial: None,
            partial_bytes: 0,
            pending: Vec::new(),
            drivers: Vec::new(),
            inbox: VecDeque::new(),
            consumed: Credit::default(),
            turn: Turn::default(),
            closed: None,
            transport: session.params.transport,
            shutdown_deadline: None,
            joins_main: session.params.revision == Revision::V3,
        }
    }

    fn handle_message(&mut self, message: Message, cx: &mut Context<'_>) {
        let credit = Credit::of(&message);
        match self.decoder.decode(message) {
            Ok(Some(mut packet)) => {
                self.partial = None;
                let earlier = std::mem::take(&mut self.partial_bytes);
                if self.session.params.revision == Revision::V3 {
                    legacy::move_query_to_auth(&mut packet);
                }
                match self.peer.handle_packet(packet) {
                    Ok(action) => return self.handle_action(action, credit, earlier, cx),
                    Err(ProtocolError(what)) => self.violation(&what),
                }
            }
            Ok(None) => {
                self.partial_bytes += credit.bytes();
                self.watch_partial();
            }
            Err(error) if error.is_limit() => self.session.close(CloseReason::TooBig),
            Err(error) => self.violation(&error),
        }
        self.consumed.add(credit);
    }

    fn violation(&self, what: &dyn std::fmt::Display) {
        tracing::debug!(session = self.session.number, %what, "protocol violation");
        // Packets that were sent before are delivered, also broadcasts that are still queued.
        for driver in &self.drivers {
            driver.member().catch_up();
        }
        self.session.close(CloseReason::Violation);
    }

    fn watch_partial(&mut self) {
        if self.partial.is_none() && self.decoder.is_partial() {
            let now = now();
            self.partial = Some(partial_deadline(now));
        }
    }

    /// Handles the action that a packet stands for.
    ///
    /// `credit` is the credit of the packet's last message. `earlier` is the number of bytes of the
    /// packet's other messages, whose credit has returned so that the last one could be read.
    fn handle_action(
        &mut self,
        action: Action,
        mut credit: Credit,
        earlier: usize,
        cx: &mut Context<'_>,
    ) {
        match action {
            // The server shuts down: see `begin_shutdown`.
            Action::Event { .. } | Action::Connect { .. } if self.shutdown_deadline.is_some() => {}
            Action::Event { slot, ack, payload } => {
                if earlier > 0 {
                    self.session
                        .with_session(|session| session.handle_requeued(earlier));
                    credit.add(Credit::reclaimed(earlier));
                }
                let queued = Queued {
                    ack,
                    payload,
                    credit,
                };
                let waits = self.turn.ends_with(queued.credit.bytes());
                if let Some(driver) = self.driver(slot) {
                    let consumed = driver.handle_event(queued, waits, cx);
                    return self.consumed.add(consumed);
                }
                if let Some(pending) = self.pending_at(slot) {
                    return self.pending[pending].request.queue.push_back(queued);
                }
                return self.consumed.add(queued.credit);
            }
            Action::Ack { slot, ack, payload } => {
                if let Some(driver) = self.driver(slot) {
                    driver.member().handle_ack(ack, payload);
                }
            }
            Action::Connect { slot, name, auth } => {
                let request = ConnectRequest {
                    slot,
                    name,
                    auth,
                    claim: None,
                    credit,
                    id: socket_id(),
                    queue: VecDeque::new(),
                };
                return match self.over_limit(&request) {
                    None => self.begin_connect(request),
                    Some(message) => self.reject_connect(request, message),
                };
            }
            Action::Disconnect { slot } => {
                if let Some(driver) = self.driver(slot) {
                    let reason = DisconnectReason::ClientNamespaceDisconnect;
                    driver.member().leave(reason);
                    driver.detach();
                }
                if let Some(pending) = self.pending_at(slot) {
                    self.consumed
                        .add(self.pending.remove(pending).request.take_credit());
                }
                self.peer.free(slot);
            }
            Action::TooMany(name) => self.send_connect_error(&name, TOO_MANY),
            Action::Ignore => {}
        }
        self.consumed.add(credit);
    }

    fn driver(&mut self, slot: usize) -> Option<&mut SocketDriver> {
        let mut all = self.drivers.iter_mut();
        all.find(|driver| driver.slot() == Some(slot))
    }

    fn pending_at(&self, slot: usize) -> Option<usize> {
        self.pending
            .iter()
            .position(|each| each.request.slot == slot)
    }

    /// Joins `/` for a Socket.IO 2 client, which sends no CONNECT for it. The id of its socket is
    /// the beginning of the session's id, of which the rest is secret.
    fn join_main(&mut self) {
        let main = NamespaceName::MAIN;
        if self.server.find(&main).is_none() {
            // The client may connect to another namespace only. It would read an error reply for
            // `/` as one for that namespace.
            return;
        }
        let id = self.session.sid().public_part().unwrap_or_else(socket_id);
        let packet = Packet {
            namespace: main,
            kind: Kind::Connect,
            ack: None,
            payload: Payload::default(),
        };
        if let Ok(Action::Connect { slot, name, auth }) = self.peer.handle_packet(packet) {
            self.begin_connect(ConnectRequest {
                slot,
                name,
                auth,
                claim: None,
                credit: Credit::default(),
                id,
                queue: VecDeque::new(),
            });
        }
    }

    /// Returns the error for a connect request whose `auth` is too long, or that exceeds the budget
    /// of the connection. `None` if it is within the limits.
    fn over_limit(&self, request: &ConnectRequest) -> Option<&'static str> {
        let limits = &self.server.hub.limits;
        if request.auth.json().len() > limits.auth {
            return Some(AUTH_TOO_LONG);
        }
        let pending = self.pending.iter().map(|each| each.request.kept());
        let bytes = request.kept() + pending.sum::<usize>();
        let fits = self.session.budget.fits(bytes, limits.kept);
        (!fits).then_some(KEEPS_TOO_MUCH)
    }

    fn begin_connect(&mut self, mut request: ConnectRequest) {
        // A socket that the server disconnected may still have the slot.
        if let Some(former) = self.driver(request.slot) {
            former.detach();
        }
        // Handlers of sockets that have left may still run, so twice as many drivers are allowed.
        if self.drivers.len() / 2 >= self.server.hub.limits.namespaces_per_session {
            return self.reject_connect(request, TOO_MANY);
        }
        request.claim = self
            .recovers()
            .then(|| request.auth.extract_claim())
            .flatten();
        self.connect(request);
    }

    /// Returns whether the client's sockets can be restored. Socket.IO 2 clients do not support
    /// it.
    fn recovers(&self) -> bool {
        self.server.hub.recovers() && self.session.params.revision == Revision::V4
    }

    fn connect(&mut self, request: ConnectRequest) {
        if let Some((routes, namespace)) = self.server.find(&request.name) {
            return self.claim_or_join(request, routes, namespace);
        }
        let asked = NamespaceRequest {
            name: request.name.clone(),
            auth: request.auth.clone(),
            session: Arc::clone(&self.session),
        };
        match self.server.decide(asked) {
            Some(decision) => self.pending.push(PendingConnect {
                request,
                waiting: Waiting::Decision(Decision::new(decision)),
            }),
            None => self.reject_missing(request),
        }
    }

    /// Refuses a client because the namespace does not exist.
    fn reject_missing(&mut self, request: ConnectRequest) {
        self.server
            .log_missing_namespace(&request.name, self.session.number);
        self.reject_connect(request, INVALID);
    }

    /// Continues with the connect requests that are decided now. Returns whether there were any.
    fn poll_pending(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        let mut at = 0;
        while let Some(pending) = self.pending.get_mut(at) {
            let decided = match &mut pending.waiting {
                Waiting::Decision(decision) => decision.poll(cx).map(Decided::By),
                Waiting::Claim { claim, .. } => claim.as_mut().poll(cx).map(Decided::Claimed),
            };
            let Poll::Ready(decided) = decided else {
                at += 1;
                continue;
            };
            let PendingConnect { request, waiting } = self.pending.remove(at);
            match (decided, waiting) {
                (Decided::By(decision), _) => self.handle_decision(request, decision),
                (
                    Decided::Claimed(claimed),
                    Waiting::Claim {
                        routes, namespace, ..
                    },
                ) => self.join(request, routes, &namespace, claimed),
                (Decided::Claimed(_), Waiting::Decision(_)) => {}
            }
            progress = true;
        }
        progress
    }

    fn handle_decision(&mut self, request: ConnectRequest, decision: Option<usize>) {
        match decision.map(|at| self.server.open_for(at, &request.name)) {
            Some(Opened::Found(routes, namespace)) => {
                self.claim_or_join(request, routes, namespace);
            }
            // The namespace is open now: only the definition that opened it decides.
            Some(Opened::OwnedByAnother) => self.connect(request),
            Some(Opened::TooMany) | None => self.reject_missing(request),
        }
    }

    /// Joins the namespace, after the broker of a cluster has looked for the socket that the client
    /// claims.
    fn claim_or_join(
        &mut self,
        request: ConnectRequest,
        routes: Arc<Routes>,
        namespace: Arc<LiveNamespace>,
    ) {
        let claim = request.claim.as_ref();
        match claim.and_then(|claim| namespace.claim(claim)) {
            Some(claim) => self.pending.push(PendingConnect {
                request,
                waiting: Waiting::Claim {
                    claim,
                    routes,
                    namespace,
                },
            }),
            None => self.join(request, routes, &namespace, None),
        }
    }

    fn join(
        &mut self,
        request: ConnectRequest,
        routes: Arc<Routes>,
        namespace: &Arc<LiveNamespace>,
        claimed: Option<Claimed>,
    ) {
        let join = JoinRequest {
            claimed,
            id: request.id,
            auth: &request.auth,
            private_id: self.recovers().then(private_id),
            claim: request.claim.as_ref(),
        };
        match namespace.admit(&self.session, join) {
            Some(membership) => {
                let driver = SocketDriver::new(request, membership, routes);
                self.drivers.push(driver);
            }
            // The last socket has just left, and the namespace was removed. It is opened again.
            None => self.connect(request),
        }
    }

    fn reject_connect(&mut self, mut request: ConnectRequest, message: &'static str) {
        self.consumed.add(request.take_credit());
        self.peer.free(request.slot);
        self.send_connect_error(&request.name, message);
    }

    fn send_connect_error(&self, name: &NamespaceName, message: &'static str) {
        let packet = Packet {
            namespace: name.clone(),
            kind: Kind::ConnectError,
            ack: None,
            payload: ErrorReply::new(message).to_connect_error(),
        };
        self.session
            .send_error_reply(self.server.hub.parser.encode(packet));
    }

    fn handle_closed(&mut self, reason: CloseReason) {
        if self.closed.is_some() {
            return;
        }
        if reason == CloseReason::TooBig {
            notice!(
                self.session.notices.too_big,
                session = self.session.number,
                max_payload = self.session.config.max_payload,
                "a message is longer than `max_payload`, or a packet exceeds a limit of its parser",
            );
        }
        tracing::debug!(session = self.session.number, %reason, "closed");
        self.closed = Some(reason);
        self.notify_closed(reason);
        self.shutdown_deadline = None;
        self.partial = None;
        self.pending = Vec::new();
        for driver in &self.drivers {
            driver.member().leave(reason.into());
        }
    }

    fn notify_closed(&self, reason: CloseReason) {
        let session = &self.session;
        session.span.closed(reason);
        let notify = |observer: &dyn Observer| {
            observer.connection_closed(session, self.transport, reason, since(session.opened));
        };
        session.observers.each(notify);
    }

    /// Disconnects all sockets and closes the session, as [`End::DisconnectAll`] asks for.
    fn disconnect_all(&mut self) {
        self.drop_pending();
        for driver in &self.drivers {
            let reason = DisconnectReason::ServerNamespaceDisconnect;
            driver.member().disconnect(reason);
        }
        self.session.close(CloseReason::ServerClose);
    }

    fn drop_pending(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        for mut each in pending {
            self.consumed.add(each.request.take_credit());
        }
    }

    /// Returns when a socket has to be reminded of its deadline, or disconnected.
    fn next_deadline(&self) -> Option<Instant> {
        if !self.session.has_deadlines() {
            return None;
        }
        let members = self.drivers.iter().map(SocketDriver::member);
        let next = members.filter_map(|member| member.next_deadline()).min();
        // One that has passed while its socket was connecting is due now, and not late.
        next.map(|next| next.max(now()))
    }

    /// Drops the pending connect requests and the queued events. The session closes when the
    /// running handlers have answered, or at the deadline.
    fn begin_shutdown(&mut self) {
        self.drop_pending();
        for driver in &mut self.drivers {
            driver.drop_queue(&mut self.consumed);
        }
        let timeout = self.session.config.close_timeout;
        let deadline = self.server.hub.sessions.answer_deadline(now(), timeout);
        let earlier = self.shutdown_deadline.map(|earlier| earlier.min(deadline));
        self.shutdown_deadline = Some(earlier.unwrap_or(deadline));
    }

    fn end_shutdown(&mut self) {
        self.shutdown_deadline = None;
        // Broadcasts that are still queued were sent before.
        for driver in &self.drivers {
            driver.member().catch_up();
        }
        self.session.close(CloseReason::Shutdown);
    }

    /// Closes the session now and drops the handlers of its sockets. Sockets that have not left
    /// leave because the server shuts down. The disconnect handlers run.
    fn cut(&mut self) {
        self.end_shutdown();
        // The client may have closed it before.
        let reason = self.session.close_reason();
        self.handle_closed(reason.unwrap_or(CloseReason::Shutdown));
        let mut handlers = 0;
        for driver in &mut self.drivers {
            driver.drop_queue(&mut self.consumed);
            handlers += driver.drop_handlers();
        }
        self.session.add_handlers_cut(handlers);
    }

    /// Ends the session now, and drops its disconnect handlers too.
    fn abort(&mut self) {
        self.cut();
        let handlers = self
            .drivers
            .iter()
            .map(SocketDriver::disconnecting_count)
            .sum();
        self.session.add_handlers_cut(handlers);
        for driver in self.drivers.drain(..) {
            // A destructor of the application may run here.
            let _ = guarded(move || drop(driver));
        }
    }

    /// Polls the pending connect requests and all sockets. Returns whether anything happened.
    fn run(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = !self.pending.is_empty() && self.poll_pending(cx);
        for driver in &mut self.drivers {
            progress |= driver.run(cx, &mut self.peer, &mut self.consumed, &mut self.turn);
        }
        self.turn.look_behind();
        while let Some(at) = self.drivers.iter().position(SocketDriver::has_ended) {
            let ended = self.drivers.remove(at);
            // The data of a socket may have a destructor of the application.
            let _ = guarded(move || drop(ended));
            progress = true;
        }
        progress
    }
}

impl Drop for Dispatch {
    /// Reports the end of a session whose runtime has dropped its task.
    fn drop(&mut self) {
        if self.closed.is_none() {
            let reason = self.session.close_reason();
            let reason = reason.unwrap_or(CloseReason::TransportClose);
            self.notify_closed(reason);
        }
    }
}

impl SessionApp for Dispatch {
    fn poll(&mut self, cx: &mut Context<'_>, mut has_events: bool) -> Poll<()> {
        if std::mem::take(&mut self.joins_main) {
            self.join_main();
        }
        self.turn.begin(false, cx);
        loop {
            let end = self.session.take_end();
            match end {
                Some(End::DisconnectAll) => self.disconnect_all(),
                Some(End::Cut) => self.cut(),
                Some(End::Abort) => {
                    self.abort();
                    return Poll::Ready(());
                }
                Some(End::Shutdown) | None => {}
            }
            // Messages that arrived before the shutdown are handled.
            has_events |= end == Some(End::Shutdown);
            if std::mem::take(&mut has_events) || !self.consumed.is_empty() {
                let consumed = self.consumed.take().into_bytes();
                self.session.take_events(&mut self.inbox, consumed);
            }
            if end == Some(End::Shutdown) {
                self.turn.begin(true, cx);
            }
            let progress = self.run(cx) || !self.inbox.is_empty();
            while !self.turn.is_over() {
                let Some(event) = self.inbox.pop_front() else {
                    break;
                };
                match event {
                    SessionEvent::Message(message) if self.closed.is_none() => {
                        self.handle_message(message, cx);
                    }
                    SessionEvent::Closed(reason) => self.handle_closed(reason),
                    SessionEvent::Upgraded if self.closed.is_none() => {
                        self.transport = Transport::WebSocket;
                        let observers = &self.session.observers;
                        observers.each(|observer| observer.upgraded(&self.session));
                    }
                    SessionEvent::UpgradeFailed if self.closed.is_none() => {
                        let observers = &self.session.observers;
                        observers.each(|observer| observer.upgrade_failed(&self.session));
                    }
                    // The session was cut, and the observers know that it has ended.
                    SessionEvent::Message(_)
                    | SessionEvent::Upgraded
                    | SessionEvent::UpgradeFailed => {}
                }
                self.turn.count();
            }
            if self.inbox.is_empty() && self.inbox.capacity() > 32 {
                self.inbox = VecDeque::new();
            }
            if end == Some(End::Shutdown) {
                self.begin_shutdown();
            }
            if self.shutdown_deadline.is_some()
                && !self.drivers.iter().any(SocketDriver::is_handling)
            {
                self.end_shutdown();
                has_events = true;
                continue;
            }
            if self.turn.is_over() || (!progress && self.consumed.is_empty()) {
                break;
            }
        }
        if self.closed.is_some() && self.drivers.is_empty() {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    fn is_busy(&self) -> bool {
        self.turn.goes_on()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if self.closed.is_some() {
            return None;
        }
        earliest([
            self.peer.poll_timeout(),
            self.partial,
            self.shutdown_deadline,
            self.next_deadline(),
        ])
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.session.has_deadlines() {
            for driver in &self.drivers {
                handle_deadline(driver.member(), now);
            }
        }
        if let Err(ProtocolError(what)) = self.peer.handle_timeout(now) {
            self.violation(&what);
        }
        if self.partial.is_some_and(|deadline| deadline <= now) {
            // They may be in input that is not read.
            let is_unread = self
                .session
                .with_session(|session| session.is_open() && !session.wants_read());
            self.partial = is_unread.then(|| partial_deadline(now));
            if !is_unread {
                self.violation(&"attachments are missing");
            }
        }
        if self
            .shutdown_deadline
            .is_some_and(|deadline| deadline <= now)
        {
            self.end_shutdown();
        }
    }
}

/// What a connect request has waited for.
enum Decided {
    By(Option<usize>),
    Claimed(Option<Claimed>),
}

const INVALID: &str = "Invalid namespace";
const TOO_MANY: &str = "Too many namespaces";
const AUTH_TOO_LONG: &str = "Authentication is too long";
const KEEPS_TOO_MUCH: &str = "Too much is kept for this connection";

fn socket_id() -> SocketId {
    SocketId::new(random())
}

fn private_id() -> PrivateId {
    PrivateId::new(random())
}
