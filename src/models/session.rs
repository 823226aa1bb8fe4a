//! The lock of a session and its wakers: send, sleep, wake, close.
//!
//! After a lost wake a thread sleeps forever, and loom reports a deadlock.
//!
//! Preemptions: 2. Threads: the session's task, the client, and the threads that each model
//! describes.

use std::future::poll_fn;
use std::sync::Arc;

use super::executor::{block_on, check, explore, spawn};
use super::server::Setup;
use crate::engine_io::{CloseReason, Config, Message, SessionEvent};
use crate::hub::session::SharedSession;
use crate::sync::oneshot;

fn text(text: &str) -> [Message; 1] {
    [Message::Text(text.into())]
}

fn buffered(session: &SharedSession) -> usize {
    session.with_session(|session| session.buffered_bytes())
}

/// One thread sends and another thread closes the session while the client polls.
///
/// All messages that `send` has accepted arrive once and in order before the close packet. Each
/// poll is answered, the session's task ends, and its send queue is empty.
#[test]
fn what_is_sent_before_a_close_arrives() {
    let model = || {
        let (client, record, sessions) = Setup::default().open();
        let (sender, closer) = (record.session(), record.session());
        let accepted = Arc::new(std::sync::Mutex::new(Vec::new()));
        let log = Arc::clone(&accepted);
        explore();
        spawn(move || {
            for packet in ["a", "b"] {
                if sender.send(text(packet)) {
                    log.lock().unwrap().push(format!("4{packet}"));
                }
            }
        });
        spawn(move || closer.close(CloseReason::ServerClose));
        (client.poll_to_end(), record, sessions, accepted)
    };
    check(2, model, |(mut received, record, sessions, accepted)| {
        assert_eq!(received.pop().as_deref(), Some("1"));
        assert_eq!(received, *accepted.lock().unwrap());
        assert_eq!(record.lock().closed, [CloseReason::ServerClose]);
        assert_eq!(sessions.len(), 0);
        assert_eq!(buffered(&record.session()), 0);
    });
}

/// One thread sends while the client begins a poll, and nothing else happens.
///
/// The poll is answered with the message.
#[test]
fn a_message_wakes_the_poll() {
    let model = || {
        let (client, record, sessions) = Setup::default().open();
        let sender = record.session();
        explore();
        spawn(move || assert!(sender.send(text("a"))));
        let received = client.get();
        record.session().close(CloseReason::TransportError);
        (received, sessions)
    };
    check(2, model, |((status, body), sessions)| {
        assert_eq!((status.as_u16(), &*body), (200, "4a"));
        assert_eq!(sessions.len(), 0);
    });
}

/// A POST waits because its messages are not consumed. One thread consumes them. Another thread
/// requests an acknowledgement, which raises the limit of pending messages.
///
/// The POST gets its response, and all its messages arrive once and in order.
#[test]
fn a_post_that_waits_is_continued() {
    let model = || {
        let (consume, consumed) = oneshot::channel();
        let setup = Setup {
            config: Config {
                max_pending: 1,
                ..Config::default()
            },
            consume: Some(consumed),
            ..Setup::default()
        };
        let (client, record, sessions) = setup.open();
        let (asker, session) = (record.session(), record.session());
        explore();
        spawn(move || assert!(consume.send(()).is_ok()));
        spawn(move || asker.ack_requested());
        let status = client.post("4a\x1e4b\x1e4c");
        session.close(CloseReason::TransportError);
        (status, record, sessions)
    };
    check(2, model, |(status, record, sessions)| {
        assert_eq!(status, 200);
        assert_eq!(record.lock().messages, ["a", "b", "c"]);
        assert_eq!(sessions.len(), 0);
    });
}

/// A thread reads the events while the client posts a message and the session is closed.
///
/// The thread gets each event once.
#[test]
fn a_reader_gets_each_event() {
    let model = || {
        let setup = Setup {
            is_read_elsewhere: true,
            ..Setup::default()
        };
        let (client, record, sessions) = setup.open();
        let (session, reader) = (record.session(), record.session());
        let events = Arc::new(std::sync::Mutex::new(Vec::new()));
        let log = Arc::clone(&events);
        explore();
        spawn(move || {
            loop {
                let event = block_on(poll_fn(|cx| reader.poll_event(cx)));
                let is_last = matches!(event, SessionEvent::Closed(_));
                log.lock().unwrap().push(event);
                if is_last {
                    return;
                }
            }
        });
        let status = client.post("4x");
        session.close(CloseReason::TransportError);
        (status, sessions, events)
    };
    check(2, model, |(status, sessions, events)| {
        let message = SessionEvent::Message(Message::Text("x".into()));
        let closed = SessionEvent::Closed(CloseReason::TransportError);
        assert_eq!(status, 200);
        assert_eq!(*events.lock().unwrap(), [message, closed]);
        assert_eq!(sessions.len(), 0);
    });
}

/// A thread sends a message, waits until the send queue is empty, and closes the session, while the
/// client polls.
///
/// The wait ends, and the message arrives before the close packet.
#[test]
fn one_that_waits_for_the_output_is_woken() {
    let model = || {
        let (client, record, sessions) = Setup::default().open();
        let sender = record.session();
        explore();
        spawn(move || {
            sender.send(text("a"));
            block_on(poll_fn(|cx| sender.poll_drained(cx)));
            sender.close(CloseReason::ServerClose);
        });
        (client.poll_to_end(), record, sessions)
    };
    check(2, model, |(received, record, sessions)| {
        assert_eq!(received, ["4a", "1"]);
        assert_eq!(sessions.len(), 0);
        assert_eq!(buffered(&record.session()), 0);
    });
}
