//! Messages of one session → packets → the namespaces it is in.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::asking::{Applicant, Asking, Decision};
use super::conversation::{Conversation, Queued};
use super::{Server, Taken, partial_deadline};
use crate::engine::timer::deadline;
use crate::engine::{CloseReason, Message, Revision, Session, SessionEvent, SocketId};
use crate::hub::DisconnectReason;
use crate::hub::link::{End, Link};
use crate::hub::recovery::{Newcomer, PrivateId};
use crate::hub::registry::Registry;
use crate::notice::notice;
use crate::protocol::peer::{Action, Peer, Violation};
use crate::protocol::{Decoder, Kind, NamespaceName, Packet, Payload, v4};
use crate::routing::{NamespaceRequest, Refuse, Routes};
use crate::transport::{Upper, guarded};

/// What runs above one session.
pub(super) struct Dispatch {
    server: Arc<Server>,
    link: Arc<Link>,
    decoder: Box<dyn Decoder>,
    /// When the attachments of a packet must have come.
    partial: Option<Instant>,
    /// What has come of that packet.
    partial_cost: usize,
    peer: Peer,
    /// Those for whom it is not decided whether there is a namespace.
    asking: Vec<Asking>,
    conversations: Vec<Conversation>,
    inbox: VecDeque<SessionEvent>,
    /// What was begun since the session was told so.
    consumed: usize,
    closed: Option<CloseReason>,
    /// Until when the session stays open for handlers to answer, because the server ends.
    ending: Option<Instant>,
    /// Whether `/` is to be joined for a client that does not ask for it.
    joins_main: bool,
}

impl Dispatch {
    pub(super) fn new(server: Arc<Server>, link: &Arc<Link>, now: Instant) -> Self {
        let max = server.hub.limits.namespaces_per_session;
        Self {
            decoder: server.hub.parser.decoder(),
            peer: Peer::new(max, server.connect_timeout, now),
            server,
            link: Arc::clone(link),
            partial: None,
            partial_cost: 0,
            asking: Vec::new(),
            conversations: Vec::new(),
            inbox: VecDeque::new(),
            consumed: 0,
            closed: None,
            ending: None,
            joins_main: link.opening.revision == Revision::V3,
        }
    }

    fn handle_message(&mut self, message: Message, cx: &mut Context<'_>) {
        let cost = Session::cost(&message);
        match self.decoder.decode(message) {
            Ok(Some(mut packet)) => {
                self.partial = None;
                let earlier = std::mem::take(&mut self.partial_cost);
                if self.link.opening.revision == Revision::V3 {
                    v4::take_query(&mut packet);
                }
                match self.peer.handle_packet(packet) {
                    Ok(action) => return self.handle_action(action, cost, earlier, cx),
                    Err(Violation(what)) => self.violation(&what),
                }
            }
            Ok(None) => {
                self.partial_cost += cost;
                self.watch_partial();
            }
            Err(error) if error.is_limit() => self.link.close(CloseReason::TooBig),
            Err(error) => self.violation(&error),
        }
        self.consumed += cost;
    }

    fn violation(&self, what: &dyn std::fmt::Display) {
        tracing::debug!(session = self.link.number, %what, "protocol violation");
        // What was sent before is delivered, a broadcast that is on its way too.
        for conversation in &self.conversations {
            conversation.member().catch_up();
        }
        self.link.close(CloseReason::Violation);
    }

    fn watch_partial(&mut self) {
        if self.partial.is_none() && self.decoder.is_partial() {
            let now = tokio::time::Instant::now().into_std();
            self.partial = Some(partial_deadline(now));
        }
    }

    /// `cost` is that of the packet's last message; those of `earlier` ones did not hold up the
    /// reading of the others.
    fn handle_action(&mut self, action: Action, cost: usize, earlier: usize, cx: &mut Context<'_>) {
        match action {
            // The server ends: see `begin_shutdown`.
            Action::Event { .. } | Action::Connect { .. } if self.ending.is_some() => {}
            Action::Event { slot, ack, payload } => {
                let cost = cost + earlier;
                let queued = Queued { ack, payload, cost };
                if earlier > 0 {
                    self.link.drive(|session| session.handle_kept(earlier));
                }
                if let Some(conversation) = self.conversation(slot) {
                    self.consumed += conversation.take(queued, cx);
                    return;
                }
                if let Some(asking) = self.asking_at(slot) {
                    return self.asking[asking].applicant.queue.push_back(queued);
                }
                self.consumed += earlier;
            }
            Action::Ack { slot, ack, payload } => {
                if let Some(conversation) = self.conversation(slot) {
                    conversation.member().answer(ack, payload);
                }
            }
            Action::Connect { slot, name, auth } => {
                let applicant = Applicant {
                    slot,
                    name,
                    auth,
                    claim: None,
                    connect_cost: cost,
                    id: socket_id(),
                    queue: VecDeque::new(),
                };
                return match self.excess(&applicant) {
                    None => self.apply(applicant),
                    Some(message) => self.deny(&applicant, message),
                };
            }
            Action::Disconnect { slot } => {
                if let Some(conversation) = self.conversation(slot) {
                    let reason = DisconnectReason::ClientNamespaceDisconnect;
                    conversation.member().leave(reason);
                    conversation.detach();
                }
                if let Some(asking) = self.asking_at(slot) {
                    self.consumed += self.asking.remove(asking).applicant.cost();
                }
                self.peer.free(slot);
            }
            Action::TooMany(name) => self.refuse(&name, TOO_MANY),
            Action::Ignore => {}
        }
        self.consumed += cost;
    }

    fn conversation(&mut self, slot: usize) -> Option<&mut Conversation> {
        let mut all = self.conversations.iter_mut();
        all.find(|conversation| conversation.slot() == Some(slot))
    }

    fn asking_at(&self, slot: usize) -> Option<usize> {
        self.asking
            .iter()
            .position(|each| each.applicant.slot == slot)
    }

    /// Clients of version 2 are in `/` without asking. Their own id is their session's, which is a
    /// secret but for its beginning.
    fn join_main(&mut self) {
        let main = NamespaceName::MAIN;
        if self.server.find(&main).is_none() {
            // It may be here for another namespace, and would take a refusal for that one's.
            return;
        }
        let id = self.link.sid().public_part().unwrap_or_else(socket_id);
        let packet = Packet {
            namespace: main,
            kind: Kind::Connect,
            ack: None,
            payload: Payload::default(),
        };
        if let Ok(Action::Connect { slot, name, auth }) = self.peer.handle_packet(packet) {
            self.apply(Applicant {
                slot,
                name,
                auth,
                claim: None,
                connect_cost: 0,
                id,
                queue: VecDeque::new(),
            });
        }
    }

    /// Why a client that asks for a namespace gives more than is kept; none if it does not.
    fn excess(&self, applicant: &Applicant) -> Option<&'static str> {
        let limits = &self.server.hub.limits;
        if applicant.auth.json().len() > limits.auth {
            return Some(AUTH_TOO_LONG);
        }
        let asking = self.asking.iter().map(|each| each.applicant.kept());
        let bytes = applicant.kept() + asking.sum::<usize>();
        let fits = self.link.budget.fits(bytes, limits.kept);
        (!fits).then_some(KEEPS_TOO_MUCH)
    }

    fn apply(&mut self, mut applicant: Applicant) {
        // What the server dismissed before has nothing to do with the slot's new owner.
        if let Some(former) = self.conversation(applicant.slot) {
            former.detach();
        }
        // Handlers of sockets that have left may run still: as many again.
        if self.conversations.len() / 2 >= self.server.hub.limits.namespaces_per_session {
            return self.deny(&applicant, TOO_MANY);
        }
        applicant.claim = self
            .recovers()
            .then(|| applicant.auth.take_claim())
            .flatten();
        self.connect(applicant);
    }

    /// Whether the client can come back: one of version 2 does not know how.
    fn recovers(&self) -> bool {
        self.server.hub.recovers() && self.link.opening.revision == Revision::V4
    }

    fn connect(&mut self, applicant: Applicant) {
        if let Some((routes, registry)) = self.server.find(&applicant.name) {
            return self.enter(applicant, routes, &registry);
        }
        let request = NamespaceRequest {
            name: applicant.name.clone(),
            auth: applicant.auth.clone(),
            link: Arc::clone(&self.link),
        };
        match self.server.ask(request) {
            Some(decision) => self.asking.push(Asking {
                applicant,
                decision: Decision::new(decision),
            }),
            None => self.deny(&applicant, INVALID),
        }
    }

    /// Goes on with those for whom it is decided now; whether there were any.
    fn poll_asking(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        let mut at = 0;
        while let Some(asking) = self.asking.get_mut(at) {
            let Poll::Ready(decision) = asking.decision.poll(cx) else {
                at += 1;
                continue;
            };
            let Asking { applicant, .. } = self.asking.remove(at);
            self.decided(applicant, decision);
            progress = true;
        }
        progress
    }

    fn decided(&mut self, applicant: Applicant, decision: Option<usize>) {
        match decision.map(|at| self.server.take(at, &applicant.name)) {
            Some(Taken::Found(routes, registry)) => self.enter(applicant, routes, &registry),
            // Now it is known whose it is.
            Some(Taken::ByAnother) => self.connect(applicant),
            Some(Taken::TooMany) | None => self.deny(&applicant, INVALID),
        }
    }

    fn enter(&mut self, applicant: Applicant, routes: Arc<Routes>, registry: &Arc<Registry>) {
        let newcomer = Newcomer {
            id: applicant.id,
            auth: &applicant.auth,
            owner: self.recovers().then(private_id),
            claim: applicant.claim.as_ref(),
        };
        match registry.admit(&self.link, &newcomer) {
            Some(membership) => {
                let conversation = Conversation::new(applicant, membership, routes);
                self.conversations.push(conversation);
            }
            // Its last socket left in this moment; asking again makes it anew.
            None => self.connect(applicant),
        }
    }

    fn deny(&mut self, applicant: &Applicant, message: &'static str) {
        self.consumed += applicant.cost();
        self.peer.free(applicant.slot);
        self.refuse(&applicant.name, message);
    }

    fn refuse(&self, name: &NamespaceName, message: &'static str) {
        let packet = Packet {
            namespace: name.clone(),
            kind: Kind::ConnectError,
            ack: None,
            payload: Refuse::new(message).to_connect_error(),
        };
        self.link
            .send_refusal(self.server.hub.parser.encode(packet));
    }

    fn handle_closed(&mut self, reason: CloseReason) {
        if reason == CloseReason::TooBig {
            notice!(
                self.link.notices.too_big,
                session = self.link.number,
                max_payload = self.link.config.max_payload,
                "a message is longer than `max_payload`, or a packet above a limit of its parser",
            );
        }
        tracing::debug!(session = self.link.number, %reason, "closed");
        self.closed = Some(reason);
        self.ending = None;
        self.partial = None;
        self.asking = Vec::new();
        for conversation in &self.conversations {
            conversation.member().leave(reason.into());
        }
    }

    /// Has all sockets leave, and the session end, if a handler wants that.
    fn dismiss(&mut self) {
        self.drop_asking();
        for conversation in &self.conversations {
            let reason = DisconnectReason::ServerNamespaceDisconnect;
            conversation.member().disconnect(reason);
        }
        self.link.close(CloseReason::ServerClose);
    }

    fn drop_asking(&mut self) {
        let asking = std::mem::take(&mut self.asking);
        let cost = asking.iter().map(|each| each.applicant.cost());
        self.consumed += cost.sum::<usize>();
    }

    /// Begins with no further event, and has the session end when the handlers that run have
    /// answered, or when that takes too long.
    fn begin_shutdown(&mut self) {
        self.drop_asking();
        for conversation in &mut self.conversations {
            conversation.drop_queue(&mut self.consumed);
        }
        let now = tokio::time::Instant::now().into_std();
        self.ending = Some(deadline(now, self.link.config.close_timeout));
    }

    /// Lets every namespace go on; whether anything happened.
    fn run(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = !self.asking.is_empty() && self.poll_asking(cx);
        for conversation in &mut self.conversations {
            progress |= conversation.run(cx, &mut self.peer, &mut self.consumed);
        }
        while let Some(at) = self.conversations.iter().position(Conversation::has_ended) {
            let ended = self.conversations.remove(at);
            // What a socket kept is the user's, with its destructor.
            let _ = guarded(move || drop(ended));
            progress = true;
        }
        progress
    }
}

impl Upper for Dispatch {
    fn poll(&mut self, cx: &mut Context<'_>, mut news: bool) -> Poll<()> {
        if std::mem::take(&mut self.joins_main) {
            self.join_main();
        }
        loop {
            let end = self.link.take_end();
            if end == Some(End::Dismissal) {
                self.dismiss();
            }
            // What came before the end of the server is handled.
            news |= end == Some(End::Shutdown);
            if std::mem::take(&mut news) || self.consumed > 0 {
                let consumed = std::mem::take(&mut self.consumed);
                self.link.pull(&mut self.inbox, consumed);
            }
            let progress = self.run(cx) || !self.inbox.is_empty();
            while let Some(event) = self.inbox.pop_front() {
                match event {
                    SessionEvent::Message(message) if self.closed.is_none() => {
                        self.handle_message(message, cx);
                    }
                    SessionEvent::Closed(reason) => self.handle_closed(reason),
                    SessionEvent::Message(_) | SessionEvent::Upgraded => {}
                }
            }
            if self.inbox.capacity() > 32 {
                self.inbox = VecDeque::new();
            }
            if end == Some(End::Shutdown) {
                self.begin_shutdown();
            }
            if self.ending.is_some() && !self.conversations.iter().any(Conversation::is_handling) {
                self.ending = None;
                self.link.close(CloseReason::Shutdown);
                news = true;
                continue;
            }
            if !progress && self.consumed == 0 {
                break;
            }
        }
        if self.closed.is_some() && self.conversations.is_empty() {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if self.closed.is_some() {
            return None;
        }
        self.peer
            .poll_timeout()
            .into_iter()
            .chain(self.partial)
            .chain(self.ending)
            .min()
    }

    fn handle_timeout(&mut self, now: Instant) {
        if let Err(Violation(what)) = self.peer.handle_timeout(now) {
            self.violation(&what);
        }
        if self.partial.is_some_and(|deadline| deadline <= now) {
            self.partial = None;
            self.violation(&"attachments are missing");
        }
        if self.ending.is_some_and(|deadline| deadline <= now) {
            self.ending = None;
            self.link.close(CloseReason::Shutdown);
        }
    }
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

fn random<const N: usize>() -> [u8; N] {
    let mut random = [0; N];
    // As for the session's own id: without randomness there is no server.
    getrandom::fill(&mut random).expect("the system gives random bytes");
    random
}
