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

/// Checks that no acknowledgement is awaited any more, and ends the session.
fn end(socket: &Socket) {
    let session = &socket.member.session;
    // The `Debug` output of loom's locks includes the locked value.
    let left = format!("{:?}", socket.member);
    assert!(left.contains("acks: {}"), "{left}");
    session.with_session(|session| {
        let left = format!("{session:?}");
        assert!(left.contains("acks_awaited: 0"), "{left}");
    });
    session.close(CloseReason::TransportError);
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
        end(&socket);
        result
    };
    check(3, model, |result| match result.lock().unwrap().take() {
        Some(Ok(1)) => {}
        Some(Err(error)) => assert!(error.is_disconnected() || error.is_not_connected()),
        other => panic!("{other:?}"),
    });
}

/// The future is dropped, as after a timeout, while the answer arrives and the socket leaves.
///
/// The socket and the session keep no trace of the acknowledgement.
#[test]
fn an_acknowledgement_that_is_abandoned_is_forgotten() {
    let model = || {
        let socket = connect();
        let (asker, answerer) = (socket.clone(), socket.clone());
        explore();
        spawn(move || {
            let answer = asker.emit_with_ack::<u32>("question", ());
            let mut answer = answer.into_future();
            block_on(poll_fn(|cx| {
                let _: Poll<Result<u32, AckError>> = answer.poll_unpin(cx);
                Poll::Ready(())
            }));
        });
        spawn(move || answer(&answerer));
        socket.disconnect();
        join(2);
        stop_exploring();
        end(&socket);
    };
    check(3, model, |()| {});
}
