//! The end of a session while a socket connects.
//!
//! The disconnect handler runs once if the connect handler has accepted the client, and not at all
//! otherwise. Afterwards there is no socket, no room and no session.
//!
//! Preemptions: 2. Threads: the session's task, the client, and the threads that each model
//! describes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::executor::{block_on, check, explore, spawn};
use super::server::{Client, socket_io};
use crate::hub::session::SharedSession;
use crate::sync::oneshot;
use crate::{Namespace, Socket, SocketIo};

/// The number of times that each handler of the namespace has completed.
#[derive(Default)]
struct Calls {
    connected: AtomicUsize,
    disconnected: AtomicUsize,
}

/// The state that is checked after all threads have ended.
struct End {
    calls: Arc<Calls>,
    io: SocketIo,
    session: Arc<SharedSession>,
}

/// Builds a server whose connect handler waits for a value on a channel, and opens a session.
fn open() -> (Client, oneshot::Sender<()>, End) {
    let calls = Arc::new(Calls::default());
    let (connect, waits) = oneshot::channel();
    let waits = Arc::new(std::sync::Mutex::new(Some(waits)));
    let (on_connect, on_disconnect) = (Arc::clone(&calls), Arc::clone(&calls));
    let namespace = Namespace::new()
        .on_connect(move |socket: Socket| {
            let calls = Arc::clone(&on_connect);
            let waits = waits.lock().unwrap().take();
            async move {
                socket.join("room");
                let _ = waits.expect("one client").await;
                calls.connected.fetch_add(1, Ordering::Relaxed);
            }
        })
        .on_disconnect(move || {
            let calls = Arc::clone(&on_disconnect);
            async move {
                calls.disconnected.fetch_add(1, Ordering::Relaxed);
            }
        });
    let (respond, io) = socket_io(namespace);
    let client = Client::open(respond);
    let hub = io.hub().expect("the server");
    let session = hub.sessions.all().pop().expect("a session");
    (client, connect, End { calls, io, session })
}

/// Does the same, and sends CONNECT.
fn connecting() -> (Client, oneshot::Sender<()>, End) {
    let opened = open();
    opened.0.post("40");
    opened
}

fn check_end(end: &End) {
    let connected = end.calls.connected.load(Ordering::Relaxed);
    let disconnected = end.calls.disconnected.load(Ordering::Relaxed);
    assert!(connected <= 1);
    assert_eq!(connected, disconnected);
    let hub = end.io.hub().expect("the server");
    let namespace = hub.find("/").expect("a namespace");
    assert_eq!((namespace.member_count(), namespace.room_count()), (0, 0));
    assert_eq!(hub.sessions.len(), 0);
    let budget = &end.session.budget;
    assert!(budget.fits(0, 0), "{budget:?}");
}

/// The client connects and closes the session while the connect handler completes.
#[test]
fn a_client_that_closes_while_it_connects() {
    let model = || {
        let (client, connect, end) = open();
        explore();
        spawn(move || {
            let _ = connect.send(());
        });
        client.post("40");
        client.post("1");
        client.poll_to_end();
        (end, client)
    };
    check(2, model, |(end, _client)| check_end(&end));
}

/// The server disconnects all sockets and ends their sessions while the connect handler completes.
#[test]
fn a_server_that_disconnects_while_a_socket_connects() {
    let model = || {
        let (client, connect, end) = connecting();
        let server = end.io.clone();
        explore();
        spawn(move || {
            let _ = connect.send(());
        });
        spawn(move || {
            let hub = server.hub().expect("the server");
            hub.sessions
                .all()
                .iter()
                .for_each(|session| session.disconnect_all());
        });
        client.poll_to_end();
        (end, client)
    };
    check(2, model, |(end, _client)| check_end(&end));
}

/// The server closes, and waits until its sessions have ended, while the connect handler completes.
#[test]
fn a_server_that_closes_while_a_socket_connects() {
    let model = || {
        let (client, connect, end) = connecting();
        let server = end.io.clone();
        explore();
        spawn(move || {
            let _ = connect.send(());
        });
        spawn(move || block_on(server.close()));
        client.poll_to_end();
        (end, client)
    };
    check(2, model, |(end, _client)| check_end(&end));
}

/// The server closes a session, and then cuts it, while its connect handler does not end.
///
/// The session ends, because the stronger request counts.
#[test]
fn a_session_that_is_cut_while_a_socket_connects() {
    let model = || {
        let (client, connect, end) = connecting();
        let (closer, cutter) = (Arc::clone(&end.session), Arc::clone(&end.session));
        explore();
        spawn(move || closer.shut_down());
        spawn(move || cutter.cut());
        client.poll_to_end();
        (end, client, connect)
    };
    check(2, model, |(end, _client, _connect)| check_end(&end));
}
