//! The queue of commands to a broker: publish, take, close.
//!
//! This file is a module of [`cluster`](crate::cluster), because it uses private types of that
//! module.
//!
//! Preemptions: 2 and 3. Threads: the publishers, the broker, and one that closes the server.

use std::sync::{Arc, Mutex};

use super::command::Command;
use super::counters::Counters;
use super::inner::{Inner, Limits};
use super::message::Message;
use super::port::Port;
use super::{BrokerEnded, ClusterError};
use crate::hub::observer::Observers;
use crate::hub::other_servers::{Confirm, Here};
use crate::models::executor::{block_on, check, explore, join, spawn};
use crate::protocol::{NamespaceName, Payload};
use crate::sync::oneshot;

fn inner(limits: Limits) -> Arc<Inner> {
    let runtime = tokio::runtime::Handle::current();
    let counters = Counters::new(Observers::default());
    let inner = Inner::new(runtime, limits, false, None, counters);
    inner.set_connected();
    inner
}

/// Queues a message, whose result goes to `confirm`.
fn queue(inner: &Arc<Inner>, text: &str, confirm: Confirm) -> Result<(), ClusterError> {
    let payload = Payload::args(1, text).expect("a text");
    let message = Message::ServerEvent(payload);
    let sent = inner.publish(&NamespaceName::MAIN, message, Some(confirm), Here::AtOnce)?;
    drop(sent.dropped);
    Ok(())
}

/// Publishes a message, and returns the result that its sender gets.
fn publish(inner: &Arc<Inner>, text: &str) -> Result<(), ClusterError> {
    let (confirm, confirmed) = oneshot::channel();
    queue(inner, text, confirm)?;
    block_on(confirmed).expect("each message has a result")
}

/// Takes and confirms commands until the queue is closed. Returns the numbers of the messages.
fn run_broker(inner: Arc<Inner>) -> Vec<u64> {
    let _ended = BrokerEnded(Arc::clone(&inner));
    let mut port = Port { inner };
    let mut numbers = Vec::new();
    while let Some(command) = block_on(port.next()) {
        let Command::Publish { envelope, done } = command else {
            continue;
        };
        numbers.push(envelope.number());
        done.published();
    }
    numbers
}

/// Two threads publish, the broker takes the messages, and the server closes.
///
/// Each sender gets one result: the broker took the message, or the server was closed. The broker
/// takes each accepted message once, in the order of the numbers, and then ends. The queue is empty
/// afterwards.
#[test]
fn each_message_is_taken_or_refused() {
    let model = || {
        let inner = inner(Limits::default());
        let results = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::new(Mutex::new(Vec::new()));
        explore();
        for text in ["a", "b"] {
            let (inner, results) = (Arc::clone(&inner), Arc::clone(&results));
            spawn(move || {
                let result = publish(&inner, text);
                results.lock().unwrap().push(result);
            });
        }
        let (broker, numbers) = (Arc::clone(&inner), Arc::clone(&taken));
        spawn(move || *numbers.lock().unwrap() = run_broker(broker));
        inner.close();
        block_on(Arc::clone(&inner).ended());
        (inner, results, taken)
    };
    check(2, model, |(inner, results, taken)| {
        let (results, taken) = (results.lock().unwrap(), taken.lock().unwrap());
        assert_eq!(results.len(), 2);
        let published = results.iter().filter(|result| result.is_ok()).count();
        assert_eq!(published, taken.len());
        assert!(taken.is_sorted_by(|one, next| one < next));
        assert_eq!(inner.queue.lock().waiting(), (0, 0));
    });
}

/// Two threads publish, and the server closes when both have their results.
///
/// The broker is woken for each message, and takes both.
#[test]
fn each_message_wakes_the_broker() {
    let model = || {
        let inner = inner(Limits::default());
        let taken = Arc::new(Mutex::new(Vec::new()));
        let (broker, numbers) = (Arc::clone(&inner), Arc::clone(&taken));
        explore();
        spawn(move || *numbers.lock().unwrap() = run_broker(broker));
        for text in ["a", "b"] {
            let inner = Arc::clone(&inner);
            spawn(move || assert!(publish(&inner, text).is_ok()));
        }
        join(2);
        inner.close();
        block_on(Arc::clone(&inner).ended());
        taken
    };
    check(2, model, |taken| assert_eq!(*taken.lock().unwrap(), [1, 2]));
}

/// A thread publishes, and closes the server without waiting for the result.
///
/// The broker takes the message, because it was queued before the close.
#[test]
fn a_message_before_the_close_is_taken() {
    let model = || {
        let inner = inner(Limits::default());
        let (confirm, confirmed) = oneshot::channel();
        let broker = Arc::clone(&inner);
        explore();
        spawn(move || assert_eq!(run_broker(broker), [1]));
        queue(&inner, "a", confirm).expect("the server is open");
        inner.close();
        assert!(block_on(confirmed).expect("a result").is_ok());
        block_on(Arc::clone(&inner).ended());
        inner
    };
    check(3, model, |inner| {
        assert_eq!(inner.queue.lock().waiting(), (0, 0));
    });
}

/// The broker ends early, as after a panic, while a thread publishes.
///
/// The sender gets an error, and the queue is empty afterwards.
#[test]
fn a_broker_that_ends_refuses_all_messages() {
    let model = || {
        let inner = inner(Limits::default());
        let (sender, broker) = (Arc::clone(&inner), Arc::clone(&inner));
        let result = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&result);
        explore();
        spawn(move || *slot.lock().unwrap() = Some(publish(&sender, "a")));
        spawn(move || drop(BrokerEnded(broker)));
        block_on(Arc::clone(&inner).ended());
        (inner, result)
    };
    check(3, model, |(inner, result)| {
        assert!(matches!(*result.lock().unwrap(), Some(Err(_))));
        assert_eq!(inner.queue.lock().waiting(), (0, 0));
    });
}
