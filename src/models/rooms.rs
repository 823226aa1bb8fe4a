//! The table of rooms: joins, leaves and broadcasts to a room.
//!
//! Preemptions: 2. Threads: the threads that each model describes, and the session's task, which
//! they wake.

use std::sync::{Arc, Mutex};

use super::executor::{check, explore, join, spawn, stop_exploring};
use super::server::{Client, socket_io};
use crate::engine_io::CloseReason;
use crate::hub::DisconnectReason;
use crate::hub::session::SharedSession;
use crate::{Namespace, RoomChange, Socket, SocketIo};

/// Connects a client and returns its socket.
fn connect(namespace: Namespace) -> (Client, SocketIo, Socket) {
    let connected = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&connected);
    let namespace = namespace.on_connect(move |socket: Socket| {
        *slot.lock().unwrap() = Some(socket);
        async {}
    });
    let (respond, io) = socket_io(namespace);
    let client = Client::open(respond);
    client.post("40");
    assert!(client.get().1.starts_with("40"));
    let socket = connected.lock().unwrap().take().expect("a socket");
    (client, io, socket)
}

/// Ends the session, and returns the packets that the client receives until then.
fn end(client: &Client, socket: Socket) -> (Vec<String>, Arc<SharedSession>) {
    let session = Arc::clone(&socket.member.session);
    drop(socket);
    session.close(CloseReason::ServerClose);
    (client.poll_to_end(), session)
}

fn is_empty(io: &SocketIo, session: &SharedSession) {
    let hub = io.hub().expect("the server");
    let namespace = hub.find("/").expect("a namespace");
    assert_eq!((namespace.member_count(), namespace.room_count()), (0, 0));
    assert_eq!(hub.sessions.len(), 0);
    assert!(session.budget.fits(0, 0), "{:?}", session.budget);
}

/// A socket joins a room while another thread removes it from its namespace.
///
/// Afterwards the room does not exist, and the budget of the connection is unused. The room hook
/// reports that the room is created, joined, left and deleted, in this order, or it reports
/// nothing.
#[test]
fn a_socket_that_leaves_leaves_its_rooms() {
    let model = || {
        let changes = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&changes);
        let namespace = Namespace::new().on_room_event(move |event| {
            if &*event.room == "room" {
                log.lock().unwrap().push(event.change);
            }
        });
        let (client, io, socket) = connect(namespace);
        let joiner = socket.clone();
        explore();
        spawn(move || joiner.join("room"));
        let reason = DisconnectReason::ClientNamespaceDisconnect;
        socket.member.leave(reason);
        join(1);
        stop_exploring();
        let (_, session) = end(&client, socket);
        (client, io, session, changes)
    };
    check(2, model, |(_client, io, session, changes)| {
        is_empty(&io, &session);
        match changes.lock().unwrap()[..] {
            [] => {}
            [
                RoomChange::Create,
                RoomChange::Join(joined),
                RoomChange::Leave(left),
                RoomChange::Delete,
            ] => assert_eq!(joined, left),
            ref changes => panic!("{changes:?}"),
        }
    });
}

/// Two events are sent to a room while a socket joins the room, leaves it, and leaves its
/// namespace.
///
/// The socket receives each event at most once, and the first event before the second.
#[test]
fn a_broadcast_reaches_a_socket_once() {
    let model = || {
        let (client, io, socket) = connect(Namespace::new());
        let (joiner, sender) = (socket.clone(), io.clone());
        explore();
        spawn(move || {
            joiner.join("room");
            joiner.leave("room");
        });
        spawn(move || {
            for number in [1, 2] {
                sender.to("room").emit("event", number);
            }
        });
        socket.disconnect();
        join(2);
        stop_exploring();
        let (received, session) = end(&client, socket);
        (client, io, session, received)
    };
    check(2, model, |(_client, io, session, received)| {
        is_empty(&io, &session);
        let is_event = |packet: &&String| packet.starts_with("42");
        let events: Vec<_> = received.iter().filter(is_event).collect();
        assert!(events.is_sorted_by(|one, next| one < next), "{received:?}");
        // The DISCONNECT packet and the end of the session come last.
        assert_eq!(received[events.len()..], ["41", "1"]);
    });
}
