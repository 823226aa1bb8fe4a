//! Random programs: what one task does on one server of a cluster has the same order for the clients of
//! every server.

use std::collections::HashSet;
use std::time::Duration;

use axum::Router;
use tower_socketio::cluster::Broker;
use tower_socketio::testing::Client;
use tower_socketio::{Broadcast, Namespace, SocketIo};

const ROOMS: [&str; 3] = ["red", "green", "blue"];

/// A member of the cluster's rooms, as the programs should see it.
#[derive(Default)]
struct Member {
    rooms: HashSet<&'static str>,
    /// The numbers of the events that it should get.
    expected: Vec<u64>,
}

/// A chance that is the same in each run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn room(&mut self) -> &'static str {
        ROOMS[self.below(3) as usize]
    }
}

/// Runs programs on the first of two servers, with `members` clients on both together.
pub(crate) async fn check<B: Broker>(mut broker: impl FnMut() -> B, programs: u64, members: usize) {
    let mut server = || {
        let namespace = Namespace::new();
        let (layer, io) = SocketIo::builder()
            .namespace("/", namespace)
            .cluster(broker())
            .build();
        (Router::new().layer(layer), io)
    };
    let (a, b) = (server(), server());
    for io in [&a.1, &b.1] {
        while io.server_count().await != Ok(2) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let mut clients = Vec::new();
    let mut model = Vec::new();
    for at in 0..members {
        let app = if at % 2 == 0 { &a.0 } else { &b.0 };
        clients.push(Client::connect(app, "/").await.expect("it is let in"));
        model.push(Member::default());
    }
    let mut chance = Chance(members as u64 + 88_172_645_463_325_252);
    let mut next = 0;
    for program in 0..programs {
        for _ in 0..1 + chance.below(12) {
            step(&a.1, &mut chance, &mut next, &clients, &mut model);
        }
        next += 1;
        a.1.emit("n", next);
        for (client, member) in clients.iter_mut().zip(&mut model) {
            member.expected.push(next);
            for expected in member.expected.drain(..) {
                let got: u64 = client.expect("n").await.data();
                assert_eq!(got, expected, "in program {program}");
            }
        }
    }
    a.1.close().await;
    b.1.close().await;
}

/// Does something to some sockets, in the cluster and in the model.
fn step(
    io: &SocketIo,
    chance: &mut Chance,
    next: &mut u64,
    clients: &[Client],
    model: &mut [Member],
) {
    let (to, except, one) = (chance.room(), chance.room(), chance.below(8) == 0);
    let chosen = chance.below(clients.len() as u64) as usize;
    let (has_except, kind) = (chance.below(3) == 0, chance.below(6));
    let is_everybody = chance.below(4) == 0;
    let mut broadcast: Broadcast = io.of("/");
    if one {
        broadcast = broadcast.to(clients[chosen].id());
    } else if !is_everybody {
        broadcast = broadcast.to(to);
    }
    if has_except {
        broadcast = broadcast.except(except);
    }
    let selected = model.iter_mut().enumerate().filter(|(at, member)| {
        let is_in = match one {
            true => *at == chosen,
            false => is_everybody || member.rooms.contains(to),
        };
        is_in && !(has_except && member.rooms.contains(except))
    });
    let selected = selected.map(|(_, member)| member);
    let room = chance.room();
    match kind {
        0 => {
            broadcast.join(room);
            for member in selected {
                member.rooms.insert(room);
            }
        }
        1 => {
            broadcast.leave(room);
            for member in selected {
                member.rooms.remove(room);
            }
        }
        2 => {
            *next += 1;
            selected.for_each(|member| member.expected.push(*next));
            // Nobody answers it.
            drop(broadcast.emit_with_ack::<()>("n", *next));
        }
        _ => {
            *next += 1;
            selected.for_each(|member| member.expected.push(*next));
            broadcast.emit("n", *next);
        }
    }
}
