//! Acknowledgements that the server awaits: an answer, an abandoned wait, and a socket that leaves.
//!
//! Preemptions: 3. Threads: one awaits the acknowledgement, one delivers the client's answer, one
//! disconnects the socket. They wake the session's task, which is the fourth.

use std::future::{IntoFuture as _, poll_fn};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use futures_util::FutureExt as _;

use super::executor::{block_on, check, explore, join, spawn, stop_exploring};
use super::server::{Client, socket_io};
use crate::engine_io::CloseReason;
use crate::protocol::Payload;
use crate::{AckError, Namespace, Socket};

/// The id of the first acknowledgement in a namespace.
const ACK: u64 = 0;

/// Connects a client and returns its socket.
fn connect() -> Socket {
    let connected = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&connected);
    let namespace = Namespace::new().on_connect(move |socket: Socket| {
        *slot.lock().unwrap() = Some(socket);
        async {}
    });
    let (respond, _io) = socket_io(namespace);
    let client = Client::open(respond);
    client.post("40");
    assert!(client.get().1.starts_with("40"));
    connected.lock().unwrap().take().expect("a socket")
}

fn answer(socket: &Socket) {
    let payload = Payload::args(1, 1).expect("a number");
    socket.member.handle_ack(ACK, payload);
}

/// Ends the session, and checks that its socket waits for no acknowledgement any more. `others` is the
/// number of acknowledgements that other sockets of the session wait for.
fn end(socket: &Socket, others: usize) {
    let session = &socket.member.session;
    assert_eq!(waiting(socket), 0);
    assert_eq!(counted(socket), others.to_string());
    session.close(CloseReason::TransportError);
}

/// Returns the number of acknowledgements that wait in the table of a socket.
fn waiting(socket: &Socket) -> usize {
    // The session's task may hold the lock, whose `Debug` output would then be empty.
    let _ = socket.member.data();
    // The `Debug` output of loom's locks includes the locked value. The table is its last field.
    let member = format!("{:?}", socket.member);
    let (_, table) = member.rsplit_once("acks: ").expect("a table");
    table.matches("ExpectedAck").count()
}

/// Returns the number of acknowledgements that the session counts.
fn counted(socket: &Socket) -> String {
    let session = &socket.member.session;
    let printed = session.with_session(|session| format!("{session:?}"));
    let (_, count) = printed.split_once("acks_awaited: ").expect("a count");
    count.split(',').next().unwrap_or_default().to_owned()
}

/// The client's answer arrives while the socket leaves.
///
/// The future resolves exactly once: with the answer, or with an error because the socket has left.
#[test]
fn an_acknowledgement_is_resolved_once() {
    let model = || {
        let socket = connect();
        let (asker, answerer) = (socket.clone(), socket.clone());
        let result = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&result);
        explore();
        spawn(move || {
            let answer = asker.emit_with_ack::<u32>("question", ());
            let answer: Result<u32, AckError> = block_on(answer.into_future());
            assert!(slot.lock().unwrap().replace(answer).is_none());
        });
        spawn(move || answer(&answerer));
        socket.disconnect();
        join(2);
        stop_exploring();
        end(&socket, 0);
        result
    };
    check(3, model, |result| match result.lock().unwrap().take() {
        Some(Ok(1)) => {}
        Some(Err(error)) => assert!(error.is_disconnected() || error.is_not_connected()),
        other => panic!("{other:?}"),
    });
}

/// Requests an acknowledgement, and drops its future, as a timeout does.
fn ask_and_abandon(socket: &Socket) {
    let answer = socket.emit_with_ack::<u32>("question", ());
    let mut answer = answer.into_future();
    block_on(poll_fn(|cx| {
        let _: Poll<Result<u32, AckError>> = answer.poll_unpin(cx);
        Poll::Ready(())
    }));
}

/// The future is dropped, as after a timeout, while its answer arrives. Another task requests an
/// acknowledgement too.
///
/// The session counts the acknowledgements that are still in the table.
#[test]
fn an_acknowledgement_that_is_abandoned_counts_once() {
    let model = || {
        let socket = connect();
        let (asker, answerer) = (socket.clone(), socket.clone());
        explore();
        spawn(move || ask_and_abandon(&asker));
        spawn(move || answer(&answerer));
        let other = socket.emit_with_ack::<u32>("question", ());
        join(2);
        stop_exploring();
        assert_eq!(counted(&socket), waiting(&socket).to_string());
        drop(other);
        end(&socket, 0);
    };
    check(3, model, |()| {});
}

/// The future is dropped, as after a timeout, while the answer arrives and the socket leaves. Another
/// socket of the session waits for an acknowledgement too.
///
/// The socket keeps no trace of the acknowledgement, and the session counts the other one.
#[test]
fn an_acknowledgement_that_is_abandoned_is_forgotten() {
    let model = || {
        let socket = connect();
        socket.member.session.ack_requested();
        let (asker, answerer) = (socket.clone(), socket.clone());
        explore();
        spawn(move || ask_and_abandon(&asker));
        spawn(move || answer(&answerer));
        socket.disconnect();
        join(2);
        stop_exploring();
        end(&socket, 1);
    };
    check(3, model, |()| {});
}
