//! Presence over a broker: what the clients of three servers see of each other.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Router;
use tower_socketio::cluster::Broker;
use tower_socketio::testing::Client;
use tower_socketio::{Namespace, Presence, PresenceDiff, PresenceState, Socket, SocketIo};

type Users = BTreeMap<String, Vec<u32>>;

pub(crate) struct Server {
    app: Router,
    io: SocketIo,
    presence: Presence<u32>,
}

/// A client, and what it knows of the room.
pub(crate) struct Viewer {
    client: Client,
    socket: Socket,
    state: Option<PresenceState<u32>>,
}

const ROOM: &str = "room";

impl Server {
    pub(crate) fn new(broker: impl Broker) -> Self {
        let presence = Presence::new().grace(Duration::from_millis(100));
        let (layer, io) = SocketIo::builder()
            .namespace("/", Namespace::new().presence(&presence))
            .with_state(())
            .cluster(broker)
            .build();
        let app = Router::new().layer(layer);
        Self { app, io, presence }
    }

    /// Connects a client, and tracks it.
    pub(crate) async fn enter(&self, key: &str, meta: u32) -> Viewer {
        let client = Client::connect(&self.app, "/").await.expect("it is let in");
        let mut sockets = self.io.sockets().into_iter();
        let socket = sockets.find(|socket| socket.id().as_str() == client.id());
        let socket = socket.expect("it is connected");
        let tracked = self.presence.track(&socket, ROOM, key, &meta);
        tracked.expect("it is tracked");
        Viewer {
            client,
            socket,
            state: None,
        }
    }

    fn list(&self) -> Users {
        self.presence.list(ROOM)
    }
}

impl Viewer {
    /// Applies events until the users in the room are these.
    pub(crate) async fn sees(&mut self, users: &[(&str, &[u32])]) {
        let users = users
            .iter()
            .map(|(key, metas)| ((*key).to_owned(), metas.to_vec()));
        let users: Users = users.collect();
        let seen = async {
            while self.state.as_ref().is_none_or(|state| state.users != users) {
                let mut event = self.client.recv().await.expect("an event");
                match event.name() {
                    "presence_state" => self.state = Some(event.data()),
                    "presence_diff" => {
                        let diff: PresenceDiff<u32> = event.data();
                        self.state.as_mut().expect("the state is first").apply(diff);
                    }
                    other => panic!("the event {other}"),
                }
            }
        };
        let seen = tokio::time::timeout(Duration::from_secs(120), seen).await;
        assert!(seen.is_ok(), "{:?}, not {users:?}", self.state);
    }
}

/// Runs three servers with a broker, and clients that come and go.
pub(crate) async fn check<B: Broker>(mut broker: impl FnMut() -> B) {
    let (one, two) = (Server::new(broker()), Server::new(broker()));
    let mut ada = one.enter("ada", 1).await;
    let mut bob = two.enter("bob", 1).await;
    ada.sees(&[("ada", &[1]), ("bob", &[1])]).await;
    bob.sees(&[("ada", &[1]), ("bob", &[1])]).await;

    // A server that begins later, with another tab.
    let three = Server::new(broker());
    let mut tab = three.enter("bob", 1).await;
    tab.sees(&[("ada", &[1]), ("bob", &[1])]).await;
    two.presence
        .update(&bob.socket, ROOM, &2)
        .expect("it is tracked");
    drop(bob);
    // Its metadata were one more for a moment, and have gone with it.
    let mut eve = two.enter("eve", 1).await;
    for viewer in [&mut ada, &mut tab, &mut eve] {
        viewer
            .sees(&[("ada", &[1]), ("bob", &[1]), ("eve", &[1])])
            .await;
    }
    tab.socket.leave(ROOM);
    for viewer in [&mut ada, &mut eve] {
        viewer.sees(&[("ada", &[1]), ("eve", &[1])]).await;
    }

    // Many changes, of which some overtake others at their receivers.
    let sockets: Vec<_> = [(&one, &ada), (&two, &eve)]
        .map(|(at, each)| (at, each.socket.clone()))
        .into();
    for n in 0..500 {
        for (server, socket) in &sockets {
            server
                .presence
                .update(socket, ROOM, &n)
                .expect("it is tracked");
        }
    }
    for viewer in [&mut ada, &mut eve] {
        viewer.sees(&[("ada", &[499]), ("eve", &[499])]).await;
    }
    ada.client.disconnect().await;
    eve.sees(&[("eve", &[499])]).await;
    for server in [&one, &two, &three] {
        while server.list().len() != 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
