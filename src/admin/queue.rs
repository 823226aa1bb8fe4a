//! The reports that wait to be sent to the pages. Pure.

use std::collections::VecDeque;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::engine_io::SocketId;
use crate::protocol::{NamespaceName, Payload, RawArgs};

/// What is sent to the pages about a socket, as an event of the admin namespace.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) event: &'static str,
    content: Content,
    bytes: usize,
}

#[derive(Debug)]
enum Content {
    /// The arguments, as a list.
    Args(Box<RawValue>),
    /// An event that was received from a socket, or sent to sockets.
    Event {
        namespace: NamespaceName,
        sockets: VecDeque<SocketId>,
        args: RawArgs,
        at: String,
    },
}

/// One event for the pages.
#[derive(Debug)]
pub(super) struct NextReport {
    pub(super) event: &'static str,
    pub(super) args: ReportArgs,
    /// The length of the arguments.
    pub(super) bytes: usize,
}

/// The arguments of one event for the pages.
#[derive(Debug)]
pub(super) enum ReportArgs {
    Args(Box<RawValue>),
    Event(NamespaceName, SocketId, RawArgs, String),
}

impl Report {
    /// Creates a report from a tuple of arguments. Returns `None` if they cannot be written.
    pub(super) fn new(event: &'static str, args: &impl Serialize) -> Option<Self> {
        let args = serde_json::value::to_raw_value(args).ok()?;
        Some(Self {
            event,
            bytes: args.get().len(),
            content: Content::Args(args),
        })
    }

    /// Returns the number of events for the pages.
    fn len(&self) -> usize {
        match &self.content {
            Content::Args(_) => 1,
            Content::Event { sockets, .. } => sockets.len(),
        }
    }
}

/// The reports, in order, up to [`MAX_EVENTS`] and [`MAX_BYTES`].
#[derive(Debug, Default)]
pub(super) struct Queue {
    reports: VecDeque<Report>,
    events: usize,
    bytes: usize,
    load: Load,
}

/// What was pushed since it was last taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    /// The events for the pages, also those that were dropped.
    pub(super) events: usize,
    pub(super) dropped: usize,
}

impl Queue {
    /// Adds a report, or drops it if the queue is full.
    pub(super) fn push(&mut self, report: Report) {
        let events = report.len();
        self.load.events += events;
        if self.events + events > MAX_EVENTS || self.bytes + report.bytes > MAX_BYTES {
            self.load.dropped += events;
            return;
        }
        self.events += events;
        self.bytes += report.bytes;
        self.reports.push_back(report);
    }

    /// Adds the report of an event of one socket. The events of a broadcast share one report.
    pub(super) fn push_event(
        &mut self,
        event: &'static str,
        namespace: &NamespaceName,
        socket: SocketId,
        payload: &Payload,
        now: impl FnOnce() -> String,
    ) {
        if let Some(sockets) = self.same_event(event, namespace, payload) {
            sockets.push_back(socket);
            self.load.events += 1;
            self.events += 1;
            return;
        }
        let attached = payload
            .attachments()
            .map(|bytes| bytes.len())
            .sum::<usize>();
        self.push(Report {
            event,
            bytes: payload.json().len() + attached,
            content: Content::Event {
                namespace: namespace.clone(),
                sockets: VecDeque::from([socket]),
                args: payload.clone().into_args(),
                at: now(),
            },
        });
    }

    /// Returns the sockets of the last report, if it is of the same event and there is room.
    fn same_event(
        &mut self,
        of: &'static str,
        nsp: &NamespaceName,
        payload: &Payload,
    ) -> Option<&mut VecDeque<SocketId>> {
        let has_room = self.events < MAX_EVENTS;
        let last = self.reports.back_mut().filter(|_| has_room)?;
        match &mut last.content {
            Content::Event {
                namespace,
                sockets,
                args,
                ..
            } if last.event == of && namespace == nsp && args.is_of(payload) => Some(sockets),
            _ => None,
        }
    }

    /// Takes the next event for the pages.
    pub(super) fn pop(&mut self) -> Option<NextReport> {
        let report = self.reports.front_mut()?;
        let (event, bytes) = (report.event, report.bytes);
        self.events = self.events.saturating_sub(1);
        if let Content::Event {
            namespace,
            sockets,
            args,
            at,
        } = &mut report.content
        {
            if sockets.len() > 1 {
                let socket = sockets.pop_front()?;
                let args = ReportArgs::Event(namespace.clone(), socket, args.clone(), at.clone());
                return Some(NextReport { event, args, bytes });
            }
        }
        let report = self.reports.pop_front()?;
        self.bytes = self.bytes.saturating_sub(report.bytes);
        let args = match report.content {
            Content::Args(args) => ReportArgs::Args(args),
            Content::Event {
                namespace,
                mut sockets,
                args,
                at,
            } => match sockets.pop_front() {
                Some(socket) => ReportArgs::Event(namespace, socket, args, at),
                // A report of no socket is not pushed.
                None => return self.pop(),
            },
        };
        Some(NextReport { event, args, bytes })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.reports.is_empty()
    }

    /// Takes all reports out. The caller drops them after it has released its lock.
    pub(super) fn clear(&mut self) -> VecDeque<Report> {
        self.events = 0;
        self.bytes = 0;
        std::mem::take(&mut self.reports)
    }

    pub(super) fn take_load(&mut self) -> Load {
        std::mem::take(&mut self.load)
    }
}

/// How many events may wait for the pages.
pub(super) const MAX_EVENTS: usize = 4_096;

/// How many bytes of arguments may wait for the pages.
const MAX_BYTES: usize = 2 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn report(n: usize) -> Report {
        Report::new("room_joined", &("/", n)).expect("serializable")
    }

    fn text(report: NextReport) -> String {
        let event = report.event;
        match report.args {
            ReportArgs::Args(args) => format!("{event}{args}"),
            ReportArgs::Event(namespace, socket, args, at) => {
                format!("{event} {} {socket} {} {at}", &*namespace, args.to_json())
            }
        }
    }

    #[test]
    fn reports_are_taken_in_order_one_for_each_socket() {
        let mut queue = Queue::default();
        let ids = [b'a', b'b'].map(|byte| SocketId::new([byte; 15]));
        let payload = Payload::event("say", 1, 7).expect("serializable");
        queue.push(report(1));
        for id in ids {
            let now = || "now".to_owned();
            queue.push_event("event_sent", &"/x".into(), id, &payload, now);
        }
        assert_eq!(queue.reports.len(), 2);
        queue.push(report(2));
        let all: Vec<_> = std::iter::from_fn(|| queue.pop()).map(text).collect();
        let expected = [
            r#"room_joined["/",1]"#.to_owned(),
            format!("event_sent /x {} [7] now", ids[0]),
            format!("event_sent /x {} [7] now", ids[1]),
            r#"room_joined["/",2]"#.to_owned(),
        ];
        assert_eq!(all, expected);
        assert_eq!((queue.events, queue.bytes), (0, 0));
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let mut queue = Queue::default();
        for n in 0..MAX_EVENTS {
            queue.push(report(n));
        }
        queue.push(report(0));
        let load = queue.take_load();
        assert_eq!((load.events, load.dropped), (MAX_EVENTS + 1, 1));
        assert_eq!(queue.take_load(), Load::default());
        assert_eq!(queue.clear().len(), MAX_EVENTS);
        assert!(queue.is_empty() && queue.pop().is_none());

        let long = Report::new("room_joined", &("x".repeat(MAX_BYTES),)).expect("serializable");
        queue.push(long);
        assert!(queue.is_empty());
        queue.push(report(0));
        assert!(queue.pop().is_some());
    }

    #[test]
    fn the_sockets_of_one_event_are_bounded() {
        let mut queue = Queue::default();
        let payload = Payload::event("say", 1, 7).expect("serializable");
        for n in 0..MAX_EVENTS + 10 {
            let socket = SocketId::new([n as u8; 15]);
            queue.push_event("event_sent", &"/".into(), socket, &payload, String::new);
        }
        let load = queue.take_load();
        assert_eq!((load.events, load.dropped), (MAX_EVENTS + 10, 10));
        assert_eq!(std::iter::from_fn(|| queue.pop()).count(), MAX_EVENTS);
        assert_eq!((queue.events, queue.bytes), (0, 0));
    }

    #[test]
    fn a_queue_that_is_cleared_has_room_again() {
        let mut queue = Queue::default();
        let half = || Report::new("room_joined", &("x".repeat(MAX_BYTES / 2),));
        for _ in 0..3 {
            queue.push(half().expect("serializable"));
            queue.push(half().expect("serializable"));
            assert_eq!(queue.take_load().dropped, 1);
            assert_eq!(queue.clear().len(), 1);
            assert_eq!((queue.events, queue.bytes), (0, 0));
        }
    }
}
