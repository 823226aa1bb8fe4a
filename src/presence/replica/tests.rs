//! Random programs on several replicas, whose messages are lost, repeated and late.

use serde_json::json;

use super::*;

/// What a client of one server knows of each room.
type Client = BTreeMap<Box<str>, Users>;

/// The key and the metadata of a socket in each of its rooms.
type Rooms = BTreeMap<Box<str>, (Box<str>, Meta)>;

/// A server of the world.
struct Server {
    replica: Replica,
    client: Client,
    /// The messages on their way to this server.
    inbox: VecDeque<Message>,
    is_cut_off: bool,
}

/// The servers, and which entries they should agree on.
struct World {
    servers: Vec<Server>,
    now: Instant,
    random: u64,
    next_id: u64,
    /// The connected sockets: their server, and their entries by room.
    sockets: BTreeMap<Box<str>, (usize, Rooms)>,
    /// The lost sockets that can be restored, on any server.
    suspended: BTreeSet<Box<str>>,
    loss: u64,
}

const GRACE: Duration = Duration::from_secs(5);

const WITHIN: Duration = Duration::from_secs(20);

fn meta(value: impl Serialize) -> Meta {
    Meta::new(&value).expect("JSON")
}

fn replica(id: &str, now: Instant) -> Replica {
    Replica::new(id.into(), true, Some(WITHIN), now)
}

impl World {
    fn new(servers: usize, seed: u64) -> Self {
        let mut world = Self {
            servers: Vec::new(),
            now: Instant::now(),
            random: seed * 2 + 1,
            next_id: 0,
            sockets: BTreeMap::new(),
            suspended: BTreeSet::new(),
            loss: 0,
        };
        for _ in 0..servers {
            let server = world.server();
            world.servers.push(server);
        }
        world
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % bound
    }

    fn id(&mut self, prefix: &str) -> Box<str> {
        self.next_id += 1;
        format!("{prefix}{}", self.next_id).into()
    }

    fn server(&mut self) -> Server {
        Server {
            replica: Replica::new(self.id("server"), true, Some(WITHIN), self.now),
            client: Client::new(),
            inbox: VecDeque::new(),
            is_cut_off: false,
        }
    }

    /// Passes on what a server has to send, and checks that its client knows what it lists.
    fn collect(&mut self, at: usize) {
        let server = &mut self.servers[at];
        for (room, diff) in server.replica.take_diffs() {
            apply(server.client.entry(room).or_default(), diff);
        }
        server.client.retain(|_, users| !users.is_empty());
        let rooms: Client = server
            .replica
            .rooms
            .keys()
            .map(|room| (room.clone(), server.replica.users(room)))
            .collect();
        assert_eq!(server.client, rooms);
        let messages = server.replica.take_messages();
        let from_cut_off = server.is_cut_off;
        for message in messages {
            // Writing and reading a message does not change it.
            let text = serde_json::to_string(&message).expect("JSON");
            for to in 0..self.servers.len() {
                let is_lost =
                    from_cut_off || self.servers[to].is_cut_off || self.below(100) < self.loss;
                if to == at || is_lost {
                    continue;
                }
                let copies = 1 + u64::from(self.loss > 0 && self.below(20) == 0);
                for _ in 0..copies {
                    let message = serde_json::from_str(&text).expect("a message");
                    self.servers[to].inbox.push_back(message);
                }
            }
        }
    }

    fn deliver(&mut self, at: usize) {
        let is_out_of_order = self.loss > 0 && self.below(10) == 0;
        let inbox = &mut self.servers[at].inbox;
        let message = match is_out_of_order {
            true => inbox.pop_back(),
            false => inbox.pop_front(),
        };
        if let Some(message) = message {
            self.servers[at].replica.handle(message, self.now);
            for socket in self.servers[at].replica.take_claims() {
                self.claim(at, &socket);
            }
            self.collect(at);
        }
    }

    fn tick(&mut self, at: usize) {
        for socket in self.servers[at].replica.due(self.now) {
            let is_kept = self.suspended.contains(&socket);
            self.servers[at].replica.settle(&socket, is_kept, self.now);
        }
        let is_cut_off = self.servers[at].is_cut_off;
        self.servers[at].replica.tick(self.now, is_cut_off);
        self.collect(at);
    }

    fn pick(&mut self) -> Option<Box<str>> {
        let count = self.sockets.len() as u64;
        let nth = (count > 0).then(|| self.below(count) as usize)?;
        self.sockets.keys().nth(nth).cloned()
    }

    /// Does something at random.
    fn step(&mut self) {
        let servers = self.servers.len() as u64;
        let at = self.below(servers) as usize;
        let room: Box<str> = format!("room{}", self.below(3)).into();
        match self.below(100) {
            0..=39 => self.deliver(at),
            40..=49 => {
                let elapsed = self.below(3000);
                self.now += Duration::from_millis(elapsed);
            }
            50..=59 => self.tick(at),
            60..=74 => {
                let key: Box<str> = format!("key{}", self.below(4)).into();
                let meta = meta(self.below(3));
                let known = self.pick().filter(|_| self.random % 2 == 0);
                let socket = known.unwrap_or_else(|| self.id("socket"));
                let (at, rooms) = self
                    .sockets
                    .entry(socket.clone())
                    .or_insert_with(|| (at, BTreeMap::new()));
                rooms.insert(room.clone(), (key.clone(), meta.clone()));
                let at = *at;
                self.servers[at]
                    .replica
                    .track(&socket, &room, &key, meta, self.now);
                self.collect(at);
            }
            75..=79 => {
                if let Some(socket) = self.pick() {
                    let (at, rooms) = self.sockets.get_mut(&socket).expect("it is connected");
                    rooms.remove(&room);
                    let at = *at;
                    self.servers[at].replica.untrack(&socket, &room, self.now);
                    self.collect(at);
                }
            }
            80..=84 => {
                if let Some(socket) = self.pick() {
                    let (at, _) = self.sockets.remove(&socket).expect("it is connected");
                    self.servers[at].replica.leave(&socket, self.now);
                    self.collect(at);
                }
            }
            85..=89 => {
                if let Some(socket) = self.pick() {
                    let (at, _) = self.sockets.remove(&socket).expect("it is connected");
                    if self.below(2) == 0 {
                        self.suspended.insert(socket.clone());
                    }
                    self.servers[at].replica.lose(&socket, self.now, GRACE);
                    self.collect(at);
                }
            }
            90..=93 => self.restore(at),
            94..=95 => {
                let socket = self.suspended.pop_first();
                drop(socket);
            }
            96..=97 => self.servers[at].is_cut_off ^= true,
            _ => {
                // A crash. The clients of the server connect anew, or restore their sockets.
                let (gone, rest) = std::mem::take(&mut self.sockets)
                    .into_iter()
                    .partition(|(_, (server, _))| *server == at);
                self.sockets = rest;
                let gone: BTreeMap<_, _> = gone;
                for socket in gone.into_keys() {
                    if self.below(2) == 0 {
                        self.suspended.insert(socket);
                    }
                }
                self.servers[at] = self.server();
                self.collect(at);
            }
        }
    }

    /// Restores a suspended socket on a server, with the rooms that the server knows of.
    fn restore(&mut self, at: usize) {
        let Some(socket) = self.suspended.pop_first() else {
            return;
        };
        self.sockets.insert(socket.clone(), (at, Rooms::new()));
        self.claim(at, &socket);
        self.collect(at);
    }

    /// Restores a socket that is connected to a server, and records which entries the server has of it.
    fn claim(&mut self, at: usize, socket: &str) {
        let Some((server, known)) = self.sockets.get_mut(socket) else {
            return;
        };
        assert_eq!(*server, at, "only the server that has a socket restores it");
        let rooms = (0..3).map(|n| format!("room{n}").into()).collect();
        let replica = &mut self.servers[at].replica;
        replica.restore(socket, &rooms, self.now);
        let entries = replica.entries.get(socket).into_iter().flatten();
        *known = entries
            .map(|(room, entry)| (room.clone(), (entry.key.clone(), entry.meta.clone())))
            .collect();
    }

    /// Lets all messages arrive, and so much time pass that every loss is noticed.
    fn settle(&mut self) {
        self.loss = 0;
        self.suspended.clear();
        self.servers
            .iter_mut()
            .for_each(|server| server.is_cut_off = false);
        for _ in 0..20 {
            self.now += PERIOD;
            for at in 0..self.servers.len() {
                self.tick(at);
            }
            while self.servers.iter().any(|server| !server.inbox.is_empty()) {
                for at in 0..self.servers.len() {
                    self.deliver(at);
                }
            }
        }
    }

    /// Returns what every server should list.
    fn expected(&self) -> Client {
        let mut expected = Client::new();
        for (room, (key, meta)) in self.sockets.values().flat_map(|(_, rooms)| rooms) {
            let users = expected.entry(room.clone()).or_default();
            let metas = users.entry(key.clone()).or_default();
            if !metas.contains(meta) {
                metas.push(meta.clone());
                metas.sort_by_key(Meta::text);
            }
        }
        expected
    }
}

/// Applies a difference, as a client does.
fn apply(users: &mut Users, diff: Diff) {
    for key in diff.leaves.keys() {
        assert!(users.remove(key).is_some(), "{key} left, and was not there");
    }
    for (key, metas) in diff.joins {
        assert!(users.insert(key, metas).is_none(), "joined twice");
    }
    for (key, metas) in diff.updates {
        let before = users.insert(key, metas.clone());
        assert!(before.is_some_and(|before| before != metas), "no update");
    }
}

#[test]
fn all_servers_agree_after_random_programs() {
    for seed in 0..300 {
        let mut world = World::new(2 + seed as usize % 3, seed);
        world.loss = [0, 5, 30][seed as usize % 3];
        for _ in 0..400 {
            world.step();
        }
        world.settle();
        let expected = world.expected();
        for server in &world.servers {
            assert_eq!(server.client, expected, "seed {seed}");
            assert_eq!(server.replica.lingering, 0, "seed {seed}");
        }
    }
}

#[test]
fn nothing_is_left_of_a_presence_that_has_ended() {
    for seed in 0..50 {
        let mut world = World::new(3, seed);
        world.loss = 10;
        for _ in 0..300 {
            world.step();
        }
        let sockets = std::mem::take(&mut world.sockets);
        for (socket, (at, _)) in sockets {
            world.servers[at].replica.leave(&socket, world.now);
            world.collect(at);
        }
        world.settle();
        for server in &world.servers {
            assert!(server.client.is_empty(), "seed {seed}");
            assert!(server.replica.is_idle(world.now), "seed {seed}");
            assert_eq!(server.replica.deadline(world.now), None, "seed {seed}");
        }
    }
}

/// Returns two servers that know each other's entries, and the time.
fn pair() -> (Replica, Replica, Instant) {
    let now = Instant::now();
    let (mut a, mut b) = (replica("a", now), replica("b", now));
    a.track("s1", "room", "ada", meta(1), now);
    pass(&mut a, &mut b, now);
    a.take_diffs();
    b.take_diffs();
    (a, b, now)
}

fn pass(from: &mut Replica, to: &mut Replica, now: Instant) {
    for message in from.take_messages() {
        to.handle(message, now);
    }
}

fn users(value: serde_json::Value) -> Users {
    serde_json::from_value(value).expect("users")
}

#[test]
fn two_sockets_of_one_key_are_one_user() {
    let now = Instant::now();
    let mut replica = replica("a", now);
    replica.track("s1", "room", "ada", meta(1), now);
    assert_eq!(
        replica.take_diffs()["room"].joins,
        users(json!({"ada": [1]}))
    );
    replica.track("s2", "room", "ada", meta(1), now);
    assert!(replica.take_diffs().is_empty());
    replica.untrack("s1", "room", now);
    assert!(replica.take_diffs().is_empty());
    replica.track("s1", "room", "ada", meta(2), now);
    let updates = users(json!({"ada": [1, 2]}));
    assert_eq!(replica.take_diffs()["room"].updates, updates);
    replica.leave("s1", now);
    replica.leave("s2", now);
    let diff = &replica.take_diffs()["room"];
    assert_eq!(diff.leaves, updates, "both at once");
    assert!(replica.rooms.is_empty());
}

#[test]
fn a_change_and_its_reversal_in_one_step_are_no_difference() {
    let (mut a, _, now) = pair();
    a.leave("s1", now);
    a.track("s2", "room", "ada", meta(1), now);
    assert!(a.take_diffs().is_empty());
}

#[test]
fn a_lost_connection_is_no_difference_within_the_grace() {
    let (mut a, mut b, now) = pair();
    a.lose("s1", now, GRACE);
    assert!(a.due(now + GRACE - Duration::from_millis(1)).is_empty());
    // Another tab, on another server.
    b.track("s2", "room", "ada", meta(1), now);
    pass(&mut b, &mut a, now);
    let due = a.due(now + GRACE);
    assert_eq!(due, [Box::from("s1")]);
    a.settle("s1", false, now + GRACE);
    pass(&mut a, &mut b, now);
    assert!(a.take_diffs().is_empty() && b.take_diffs().is_empty());
    b.leave("s2", now);
    pass(&mut b, &mut a, now);
    assert_eq!(a.take_diffs()["room"].leaves, users(json!({"ada": [1]})));
}

#[test]
fn a_socket_that_is_restored_late_is_back_on_any_server() {
    for elsewhere in [false, true] {
        let (mut a, mut b, now) = pair();
        a.lose("s1", now, GRACE);
        let late = now + GRACE;
        assert_eq!(a.due(late).len(), 1);
        a.settle("s1", true, late);
        pass(&mut a, &mut b, late);
        let left = users(json!({"ada": [1]}));
        assert_eq!(a.take_diffs()["room"].leaves, left);
        assert_eq!(b.take_diffs()["room"].leaves, left);

        let rooms = room();
        match elsewhere {
            false => a.restore("s1", &rooms, late),
            true => b.restore("s1", &rooms, late),
        }
        pass(&mut b, &mut a, late);
        pass(&mut a, &mut b, late);
        assert_eq!(a.take_diffs()["room"].joins, left);
        assert_eq!(b.take_diffs()["room"].joins, left);
        assert_eq!(a.entries.len(), usize::from(!elsewhere), "one owner");
        assert_eq!(a.lingering, 0);
    }
}

#[test]
fn a_crashed_server_leaves_after_its_silence_and_one_that_was_cut_off_comes_back() {
    let (mut a, mut b, now) = pair();
    let late = now + SILENCE;
    tick(&mut b, now, late);
    assert!(b.take_diffs().is_empty());
    b.tick(late + PERIOD, false);
    assert_eq!(b.take_diffs()["room"].leaves, users(json!({"ada": [1]})));

    a.tick(late, false);
    pass(&mut a, &mut b, late);
    pass(&mut b, &mut a, late);
    pass(&mut a, &mut b, late);
    assert_eq!(b.take_diffs()["room"].joins, users(json!({"ada": [1]})));
}

#[test]
fn a_server_that_is_cut_off_itself_keeps_what_it_knows() {
    let (_, mut b, now) = pair();
    for n in 1..100 {
        b.tick(now + n * PERIOD, true);
    }
    b.tick(now + 100 * PERIOD, false);
    assert!(b.take_diffs().is_empty());
    tick(&mut b, now + 100 * PERIOD, now + 110 * PERIOD);
    assert_eq!(b.take_diffs().len(), 1);
}

/// Ticks each period, as a server does that is not paused.
fn tick(replica: &mut Replica, from: Instant, to: Instant) {
    let mut now = from + PERIOD;
    while now < to {
        replica.tick(now, false);
        now += PERIOD;
    }
}

#[test]
fn a_server_that_was_paused_keeps_what_it_knows() {
    let (mut a, mut b, now) = pair();
    let late = now + 10 * SILENCE;
    b.tick(late, false);
    assert!(b.take_diffs().is_empty());
    // The other one is there, and says so.
    a.tick(late, false);
    pass(&mut a, &mut b, late);
    tick(&mut b, late, late + SILENCE - PERIOD);
    assert!(b.take_diffs().is_empty());
    tick(&mut b, late + SILENCE - PERIOD, late + 2 * SILENCE);
    assert_eq!(b.take_diffs().len(), 1);
}

fn room() -> BTreeSet<Box<str>> {
    BTreeSet::from([Box::from("room")])
}

#[test]
fn a_socket_that_is_restored_before_the_entries_arrive_gets_them_later() {
    for is_delta in [false, true] {
        let now = Instant::now();
        let (mut a, mut b) = (replica("a", now), replica("b", now));
        a.track("s1", "room", "ada", meta(1), now);
        let delta = a.take_messages();
        a.lose("s1", now, GRACE);
        b.restore("s1", &room(), now);
        assert!(b.take_claims().is_empty());
        match is_delta {
            true => delta.into_iter().for_each(|each| b.handle(each, now)),
            false => {
                a.handle(Message::Ask { of: None }, now);
                pass(&mut a, &mut b, now);
            }
        }
        assert_eq!(b.take_claims(), BTreeSet::from([Box::from("s1")]));
        b.restore("s1", &room(), now);
        assert_eq!(b.rooms_of("s1").0, [Box::from("room")]);
        pass(&mut b, &mut a, now);
        assert!(a.entries.is_empty(), "one owner");
        // Nothing is claimed once the socket has left.
        b.leave("s1", now);
        a.track("s1", "room", "ada", meta(1), now);
        pass(&mut a, &mut b, now);
        assert!(b.take_claims().is_empty());
    }
}

#[test]
fn a_socket_of_a_server_that_is_gone_is_restored_with_its_entries() {
    let (_, mut b, now) = pair();
    let late = now + SILENCE + PERIOD;
    tick(&mut b, now, late);
    let ada = users(json!({"ada": [1]}));
    assert_eq!(b.take_diffs()["room"].leaves, ada);
    assert!(!b.is_idle(late), "the entries are kept");
    b.restore("s1", &room(), late);
    assert_eq!(b.take_diffs()["room"].joins, ada);
    assert!(b.departed.is_empty());

    // One that does not come back in time is forgotten.
    let (_, mut b, now) = pair();
    tick(&mut b, now, now + SILENCE + WITHIN + 3 * PERIOD);
    assert!(b.departed.is_empty());
    assert!(b.is_idle(now + SILENCE + WITHIN + 3 * PERIOD));
}

#[test]
fn an_entry_of_a_socket_that_is_lost_already_is_not_counted() {
    let now = Instant::now();
    let mut replica = replica("a", now);
    replica.track("s1", "room", "ada", meta(1), now);
    replica.lose("s1", now, GRACE);
    replica.track("s1", "room2", "ada", meta(1), now);
    replica.untrack("s1", "room2", now);
    replica.track("s1", "room3", "ada", meta(1), now);
    replica.leave("s1", now);
    assert_eq!(replica.lingering, 0);
}

#[test]
fn a_grace_may_be_zero_or_endless() {
    let (mut a, _, now) = pair();
    a.lose("s1", now, Duration::MAX);
    assert!(a.due(now + 1_000_000 * SILENCE).is_empty());
    let (mut a, _, now) = pair();
    a.lose("s1", now, Duration::ZERO);
    assert_eq!(a.due(now).len(), 1);
}

#[test]
fn one_key_with_many_sockets_is_cheap_and_limited() {
    let now = Instant::now();
    let mut replica = replica("a", now);
    for n in 0..20_000 {
        let socket = format!("s{n}");
        replica.track(&socket, "room", "ada", meta(n % 1000), now);
    }
    assert_eq!(replica.users("room")["ada"].len(), MAX_METAS);
    for n in 0..20_000 {
        replica.leave(&format!("s{n}"), now);
    }
    assert!(replica.rooms.is_empty());
}

#[test]
fn a_large_state_comes_in_parts_and_is_not_sent_for_each_that_asks() {
    let now = Instant::now();
    let (mut a, mut b) = (replica("a", now), replica("b", now));
    let text = "x".repeat(1000);
    for n in 0..1000 {
        a.track(&format!("s{n}"), "room", &format!("k{n}"), meta(&text), now);
    }
    a.take_messages();
    for _ in 0..5 {
        a.handle(Message::Ask { of: None }, now);
    }
    let parts = a.take_messages();
    assert!((2..100).contains(&parts.len()), "{} parts", parts.len());
    let longest = parts
        .iter()
        .map(|part| serde_json::to_string(part).expect("JSON").len());
    assert!(longest.max() < Some(2 * PART));

    // Without one of the parts, nothing is taken over.
    for (n, part) in parts.iter().enumerate() {
        if n != 1 {
            b.handle(part.clone(), now);
        }
    }
    assert!(b.take_diffs().is_empty());
    for part in parts {
        b.handle(part, now);
    }
    assert_eq!(b.take_diffs()["room"].joins.len(), 1000);
    a.tick(now + PERIOD, false);
    let again = a.take_messages();
    assert!(
        again
            .iter()
            .any(|message| matches!(message, Message::State { .. }))
    );
}

#[test]
fn a_socket_that_was_restored_is_remembered_for_the_silence() {
    let start = Instant::now();
    let mut replica = replica("a", start);
    replica.restore("s", &BTreeSet::new(), start);
    let mut at = start;
    while at + PERIOD < start + SILENCE {
        at += PERIOD;
        replica.tick(at, false);
        assert!(!replica.is_idle(at));
    }
    replica.tick(at + PERIOD, false);
    assert!(replica.is_idle(at + PERIOD));
    assert_eq!(replica.deadline(at + PERIOD), None);
}

#[test]
fn the_queues_of_a_replica_shrink() {
    let start = Instant::now();
    let mut replica = replica("b", start);
    let sockets = || (0..10_000).map(|n| format!("s{n}"));
    for socket in sockets() {
        replica.track(&socket, "room", "ada", meta(1), start);
        replica.lose(&socket, start, GRACE);
    }
    let ended = start + GRACE;
    for socket in replica.due(ended) {
        replica.settle(&socket, false, ended);
    }
    let room = replica.graces.capacity();
    assert!(room < 100, "room for {room} graces");

    let entry = |socket: String| Entry {
        socket: socket.into(),
        room: "room".into(),
        key: "ada".into(),
        meta: meta(1),
        is_away: false,
    };
    let changes = sockets().map(|socket| Change::Put(entry(socket))).collect();
    let (server, clock) = ("a".into(), 1);
    let delta = Message::Delta {
        server,
        clock,
        changes,
    };
    replica.handle(delta, ended);
    let mut at = ended;
    while at < ended + SILENCE + WITHIN + 2 * PERIOD {
        at += PERIOD;
        replica.tick(at, false);
    }
    assert!(replica.departed.is_empty());
    let room = replica.departed.room_for_ends();
    assert!(room < 100, "room for {room} ends");
}

#[test]
fn the_entries_of_servers_that_are_gone_are_limited_and_expire() {
    let now = Instant::now();
    let mut replica = replica("b", now);
    let text = "x".repeat(1 << 20);
    let entry = |n: usize| Entry {
        socket: format!("s{n}").into(),
        room: "room".into(),
        key: "ada".into(),
        meta: meta(&text),
        is_away: false,
    };
    replica.handle(
        Message::Delta {
            server: "a".into(),
            clock: 1,
            changes: (0..20).map(|n| Change::Put(entry(n))).collect(),
        },
        now,
    );
    let gone = now + SILENCE;
    let mut at = now;
    while at < gone {
        at += PERIOD;
        replica.tick(at, false);
    }
    assert!(replica.users("room").is_empty());
    assert_eq!(replica.departed.len(), 15);
    while at <= gone + WITHIN + PERIOD {
        at += PERIOD;
        replica.tick(at, false);
    }
    assert!(replica.departed.is_empty());
    assert!(replica.is_idle(at));
}

#[test]
fn the_entries_of_lost_sockets_are_limited() {
    let now = Instant::now();
    let mut replica = replica("a", now);
    let text = "x".repeat(1 << 20);
    for n in 0..20 {
        let socket = format!("s{n}");
        replica.track(&socket, "room", &socket, meta(&text), now);
        replica.lose(&socket, now, GRACE);
    }
    assert!(replica.lingering <= MAX_LINGERING);
    assert_eq!(replica.users("room").len(), 15);
    let due = replica.due(now + GRACE);
    for socket in due {
        replica.settle(&socket, false, now + GRACE);
    }
    assert_eq!(replica.lingering, 0);
    assert!(replica.rooms.is_empty());
}

#[test]
fn a_socket_that_is_lost_and_restored_again_and_again_keeps_no_graces() {
    let now = Instant::now();
    let mut replica = replica("a", now);
    replica.track("s", "room", "ada", meta(1), now);
    let rooms = BTreeSet::from([Box::from("room")]);
    for _ in 0..10_000 {
        replica.lose("s", now, Duration::MAX);
        replica.restore("s", &rooms, now);
    }
    assert!(replica.graces.len() < 200);
    replica.lose("s", now, Duration::MAX);
    assert!(replica.grace_ends().is_some());
}

#[test]
fn the_length_of_a_state_is_counted() {
    let now = Instant::now();
    let mut replica = replica("a", now);
    let length = |replica: &Replica| {
        let users = replica.users("room");
        serde_json::to_string(&users).expect("JSON").len()
    };
    for (socket, key, value) in [
        ("1", "ada", json!({"name": "Ada"})),
        ("2", "ada", json!("\u{1}\u{2}")),
        ("3", "\u{1}\u{2}\u{3}", json!(1)),
        ("4", "\u{1}\u{2}\u{3}", json!(1)),
    ] {
        replica.track(socket, "room", key, meta(value), now);
        let (counted, length) = (replica.state_bytes("room"), length(&replica));
        assert!(
            (length - 10..length + 30).contains(&counted),
            "{counted} {length}"
        );
    }
    for socket in ["1", "2", "3", "4"] {
        replica.leave(socket, now);
    }
    assert_eq!(replica.state_bytes("room"), 0);
}

#[test]
fn the_rooms_that_nobody_is_in_any_more_are_remembered_for_a_while() {
    let now = Instant::now();
    let mut replica = replica("a", now).over_log(now);
    // At first each room may be one.
    assert!(replica.may_have_changed("other"));
    let now = now + WITHIN + PERIOD;
    replica.tick(now, false);
    assert!(!replica.may_have_changed("other"));
    replica.track("s", "room", "ada", meta(1), now);
    replica.leave("s", now);
    replica.note_emptied("room", now);
    assert!(replica.may_have_changed("room") && !replica.may_have_changed("other"));
    assert!(!replica.is_idle(now + SILENCE));
    let now = now + WITHIN + PERIOD;
    replica.tick(now, false);
    assert!(!replica.may_have_changed("room") && replica.is_idle(now));
    // Beyond a limit of bytes, each room may be one.
    for n in 0..10 {
        let name = n.to_string().repeat(200_000);
        replica.note_emptied(&name, now);
    }
    assert!(replica.may_have_changed("other"));
    assert!(replica.emptied_bytes <= MAX_EMPTIED && replica.emptied.len() == 5);
    replica.tick(now + WITHIN + PERIOD, false);
    assert!(!replica.may_have_changed("other") && replica.emptied_bytes == 0);
}

#[test]
fn a_state_that_is_full_takes_what_does_not_make_it_longer() {
    let now = Instant::now();
    let mut replica = replica("a", now);
    replica.limit_states(1_000);
    let text = |letter: &str| meta(letter.repeat(400));
    // Equal metadata are shown once, whoever has them.
    for socket in ["1", "2", "3"] {
        assert!(replica.fits(socket, "room", "x", &text("a")));
        replica.track(socket, "room", "x", text("a"), now);
    }
    // One of them changes: the others still show the former.
    assert!(replica.fits("1", "room", "x", &text("b")));
    replica.track("1", "room", "x", text("b"), now);
    assert!(!replica.fits("2", "room", "x", &text("c")));
    assert!(replica.fits("2", "room", "x", &text("b")));
    assert!(replica.fits("1", "room", "x", &text("c")));
    assert!(replica.fits("2", "room", "x", &meta(1)));
    assert!(replica.state_bytes("room") <= 1_000);
}

#[test]
fn a_socket_that_comes_back_to_a_full_room_is_not_shown() {
    let now = Instant::now();
    let mut replica = replica("a", now);
    replica.limit_states(1_000);
    let text = |letter: &str| meta(letter.repeat(800));
    replica.track("1", "room", "ada", text("a"), now);
    replica.lose("1", now, GRACE);
    let now = now + GRACE;
    assert_eq!(replica.due(now), [Box::from("1")]);
    replica.settle("1", true, now);
    replica.track("2", "room", "bob", text("b"), now);
    replica.restore("1", &BTreeSet::from([Box::from("room")]), now);
    assert!(replica.entry("1", "room").is_none());
    assert_eq!(
        replica.users("room").keys().collect::<Vec<_>>(),
        [&Box::from("bob")]
    );
}
