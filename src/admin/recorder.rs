//! Records what the pages show, while there is a page.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::Value;
use tokio::sync::Notify;

use super::describe::{Describer, PAGES_WITH_EVENTS, data_of};
use super::pages::Level;
use super::queue::{Load, NextReport, Queue, Report};
use super::totals::{Total, Totals};
use crate::calendar::civil;
use crate::engine_io::{CloseReason, SocketId, Transport};
use crate::handles::{Socket, SocketIo};
use crate::hub::definition::EventIndex;
use crate::hub::member::Member;
use crate::hub::namespace::LiveNamespace;
use crate::hub::observer::{Observer, Sent, Traffic};
use crate::hub::selection::Target;
use crate::hub::session::SharedSession;
use crate::hub::{DisconnectReason, RoomChange, RoomEvent};
use crate::protocol::{NamespaceName, Payload};
use crate::sync::Mutex;

/// Records what happens on this server, and queues it for the [reporter](super::reporter).
///
/// While there is no page, each function costs the load of an atomic.
#[derive(Debug)]
pub(super) struct Recorder {
    pub(super) describer: Describer,
    /// The namespace of the pages.
    pub(super) namespace: NamespaceName,
    /// The server, from the first page on.
    io: OnceLock<SocketIo>,
    level: AtomicU8,
    totals: Totals,
    queue: Mutex<Queue>,
    /// The events that were not queued because the pages show numbers.
    not_queued: AtomicUsize,
    /// Notified when the queue is no longer empty, and by the reporter's other sources of work.
    pub(super) wake: Notify,
}

impl Recorder {
    pub(super) fn new(describer: Describer, namespace: NamespaceName) -> Self {
        Self {
            describer,
            namespace,
            io: OnceLock::new(),
            level: AtomicU8::new(Level::Nothing as u8),
            totals: Totals::default(),
            queue: Mutex::default(),
            not_queued: AtomicUsize::new(0),
            wake: Notify::new(),
        }
    }

    /// Returns whether anything is recorded.
    pub(super) fn is_on(&self) -> bool {
        self.level() > Level::Nothing
    }

    fn level(&self) -> Level {
        match self.level.load(Ordering::Relaxed) {
            0 => Level::Nothing,
            1 => Level::Totals,
            _ => Level::Events,
        }
    }

    #[inline]
    fn is_at_least(&self, level: Level) -> bool {
        self.level.load(Ordering::Relaxed) >= level as u8
    }

    /// Sets what is recorded. Reports that wait are dropped unless events still are.
    pub(super) fn set_level(&self, level: Level) {
        self.level.store(level as u8, Ordering::Relaxed);
        if level < Level::Events {
            // In a statement of its own: the lock is released before the reports are dropped.
            let dropped = self.queue.lock().clear();
            drop(dropped);
        }
        if level == Level::Nothing {
            drop(self.take_totals());
        }
    }

    pub(super) fn take_totals(&self) -> Vec<Total> {
        self.roll();
        self.totals.take()
    }

    /// Sets the server to which this belongs.
    pub(super) fn set_io(&self, io: &SocketIo) {
        self.io.get_or_init(|| io.clone());
    }

    /// Returns the sockets of a client.
    fn members_of(&self, session: &Arc<SharedSession>) -> Vec<Arc<Member>> {
        let hub = self.io.get().and_then(SocketIo::hub);
        let namespaces = hub.map_or_else(Vec::new, |hub| hub.namespaces());
        let mut members = Vec::new();
        for namespace in namespaces {
            let all = namespace.select(&Target::default());
            let its = all
                .iter()
                .filter(|each| Arc::ptr_eq(&each.session, session));
            members.extend(its.cloned());
        }
        members
    }

    /// Adds the packets of the last second to the totals.
    pub(super) fn roll(&self) {
        self.totals.roll(now_ms());
    }

    /// Takes the next event for the pages.
    pub(super) fn pop(&self) -> Option<NextReport> {
        self.queue.lock().pop()
    }

    pub(super) fn has_reports(&self) -> bool {
        !self.queue.lock().is_empty()
    }

    pub(super) fn take_load(&self) -> Load {
        let mut load = self.queue.lock().take_load();
        load.events += self.not_queued.swap(0, Ordering::Relaxed);
        load
    }

    /// Counts events that are not queued.
    fn count(&self, events: usize) {
        self.not_queued.fetch_add(events, Ordering::Relaxed);
    }

    /// Changes the queue, and wakes the reporter if it was empty.
    fn push_with(&self, push: impl FnOnce(&mut Queue)) {
        let mut queue = self.queue.lock();
        let was_empty = queue.is_empty();
        push(&mut queue);
        drop(queue);
        // A reporter that has not emptied the queue is awake.
        if was_empty {
            self.wake.notify_one();
        }
    }

    fn report(&self, event: &'static str, args: &impl Serialize) {
        if let Some(report) = Report::new(event, args) {
            self.push_with(|queue| queue.push(report));
        }
    }

    /// Reports an event that a socket has sent, or will receive.
    fn report_event(&self, event: &'static str, member: &Member, payload: &Payload) {
        let namespace = &member.namespace.name;
        // The events of the pages themselves would lead to more of them.
        if *namespace == self.namespace {
            return;
        }
        match self.level() {
            Level::Nothing => {}
            Level::Totals => self.count(1),
            Level::Events => {
                let short = without_long_args(payload);
                let payload = short.as_ref().unwrap_or(payload);
                self.push_with(|queue| {
                    queue.push_event(event, namespace, member.id, payload, timestamp);
                });
            }
        }
    }
}

impl Observer for Recorder {
    fn connection_opened(&self, _: &Arc<SharedSession>) {
        if self.is_at_least(Level::Totals) {
            self.totals.connected(now_ms());
        }
    }

    fn connection_closed(
        &self,
        _: &Arc<SharedSession>,
        _: Transport,
        reason: CloseReason,
        _: Duration,
    ) {
        if self.is_at_least(Level::Totals) {
            let reason = DisconnectReason::from(reason).as_str();
            self.totals.disconnected(reason, now_ms());
        }
    }

    fn received(&self, _: &SharedSession, _: Transport, traffic: Traffic) {
        if self.is_at_least(Level::Totals) {
            self.totals.received(traffic);
        }
    }

    fn sent(&self, _: &SharedSession, _: Transport, traffic: Traffic) {
        if self.is_at_least(Level::Totals) {
            self.totals.sent(traffic);
        }
    }

    fn upgraded(&self, session: &Arc<SharedSession>) {
        if !self.is_at_least(Level::Events) {
            return;
        }
        for member in self.members_of(session) {
            let transport = TransportUpdate {
                id: member.id,
                nsp: &member.namespace.name,
                transport: Transport::WebSocket.name(),
            };
            self.report("socket_updated", &(transport,));
        }
    }

    fn socket_connected(&self, member: &Arc<Member>) {
        if !self.is_at_least(Level::Events) {
            return;
        }
        let at = timestamp();
        let nsp = &*member.namespace.name;
        self.report("room_joined", &(nsp, member.id, member.id, &at));
        let socket = Socket::new(Arc::clone(member));
        if let Some(described) = self.describer.describe(&socket, true) {
            self.report("socket_connected", &(described, at));
        }
    }

    fn socket_disconnected(&self, member: &Arc<Member>, reason: DisconnectReason) {
        if !self.is_at_least(Level::Events) {
            return;
        }
        let at = timestamp();
        let nsp = &*member.namespace.name;
        self.report(
            "socket_disconnected",
            &(nsp, member.id, reason.as_str(), &at),
        );
        self.report("room_left", &(nsp, member.id, member.id, &at));
    }

    fn data_changed(&self, member: &Arc<Member>) {
        // The data of a socket that connects are sent with it.
        if !self.is_at_least(Level::Events) || !member.is_connected() {
            return;
        }
        let data = member.data();
        let update = DataUpdate {
            id: member.id,
            nsp: &member.namespace.name,
            data: data_of(data.as_deref()),
        };
        self.report("socket_updated", &(update,));
    }

    fn wants_room_changes(&self) -> bool {
        self.is_at_least(Level::Events)
    }

    fn room_changed(&self, namespace: &Arc<LiveNamespace>, event: &RoomEvent) {
        let (name, id) = match &event.change {
            RoomChange::Join(id) => ("room_joined", id),
            RoomChange::Leave(id) => ("room_left", id),
            _ => return,
        };
        // The room of a socket is reported with the socket.
        let is_shown = *event.room != *id.as_str() && *event.room != *PAGES_WITH_EVENTS;
        if self.is_at_least(Level::Events) && is_shown {
            let args = (&*namespace.name, &*event.room, id, timestamp());
            self.report(name, &args);
        }
    }

    fn event_received(&self, member: &Arc<Member>, _: EventIndex, payload: &Payload) {
        self.report_event("event_received", member, payload);
    }

    fn event_sent(&self, member: &Arc<Member>, _: Sent, payload: &Payload) {
        self.report_event("event_sent", member, payload);
    }

    fn wants_recipients(&self) -> bool {
        self.is_at_least(Level::Events)
    }

    fn wants_broadcasts(&self) -> bool {
        self.is_at_least(Level::Totals)
    }

    fn broadcast(&self, namespace: &Arc<LiveNamespace>, recipients: usize, _: &Payload) {
        // With recipients, each of them was counted.
        if self.level() == Level::Totals && namespace.name != self.namespace {
            self.count(recipients);
        }
    }
}

/// Returns the event with a text in place of its arguments, if they are too long for the pages.
fn without_long_args(event: &Payload) -> Option<Payload> {
    let attached = event.attachments().map(|bytes| bytes.len());
    let bytes = event.json().len() + attached.sum::<usize>();
    if bytes <= MAX_ARGS {
        return None;
    }
    let text = format!("{bytes} bytes are not shown");
    Payload::event(event.name()?, 0, text).ok()
}

/// The longest event that is shown with its arguments, in bytes. A broadcast of it is shown once for
/// each recipient.
const MAX_ARGS: usize = 16 * 1024;

#[derive(Serialize)]
struct TransportUpdate<'a> {
    id: SocketId,
    nsp: &'a str,
    transport: &'static str,
}

#[derive(Serialize)]
struct DataUpdate<'a> {
    id: SocketId,
    nsp: &'a str,
    data: Cow<'a, Value>,
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

/// Returns the time now as JavaScript writes a `Date` in JSON.
fn timestamp() -> String {
    iso(now_ms())
}

fn iso(ms: u64) -> String {
    let seconds = ms / 1000;
    let (year, month, day) = civil((seconds / 86_400) as i64);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
        ms % 1000,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_arguments_are_not_shown() {
        let event = |text: &str| Payload::event("say", 1, text).expect("serializable");
        assert!(without_long_args(&event("hello")).is_none());
        let short = without_long_args(&event(&"x".repeat(MAX_ARGS))).expect("too long");
        assert_eq!(short.name(), Some("say"));
        let shown = short.into_args().to_json();
        assert_eq!(shown, r#"["16394 bytes are not shown"]"#);
    }

    #[test]
    fn a_time_is_written_as_by_javascript() {
        // Each text is the value of `new Date(ms).toISOString()`.
        assert_eq!(iso(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso(951_782_400_007), "2000-02-29T00:00:00.007Z");
        assert_eq!(iso(1_795_354_080_999), "2026-11-22T13:28:00.999Z");
    }
}
