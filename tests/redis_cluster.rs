//! Each mode of the broker Redis, on Redis Clusters that these tests start. They need `redis-server` 7 and
//! `redis-cli` (Debian's package redis-server), and so run only with `--include-ignored`, as
//! `tests/run` does.

mod ports;
mod presence;
mod programs;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use axum::Router;
use tower_socketio::cluster::{ClusterStatus, Mode, Redis, Streams, Subscriptions};
use tower_socketio::testing::{Client, conformance};
use tower_socketio::{Args, Namespace, Socket, SocketIo};

/// How long something may take that takes a moment on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The number of slots.
const SLOTS: u16 = 16_384;

/// A node of a Redis Cluster. It ends when this is dropped.
struct Node {
    process: Child,
    folder: PathBuf,
    port: u16,
    bus_port: u16,
    id: String,
}

impl Node {
    async fn start() -> Self {
        let [port, bus_port] = [(); 2].map(|()| ports::free_port());
        // A replica writes what it gets into its folder, and a node reads what is there.
        let folder =
            std::env::temp_dir().join(format!("redis-cluster-{port}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        #[rustfmt::skip]
        let options = [
            "--port", &port.to_string(), "--cluster-port", &bus_port.to_string(), "--bind", "127.0.0.1",
            "--save", "", "--appendonly", "no", "--cluster-enabled", "yes",
            "--cluster-node-timeout", "1000",
        ];
        let process = Command::new("redis-server")
            .args(options)
            .current_dir(&folder)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let mut node = Self {
            process,
            folder,
            port,
            bus_port,
            id: String::new(),
        };
        until("a node", || async {
            node.try_run("cluster myid")
                .is_some_and(|id| id.len() == 40)
        })
        .await;
        node.id = node.run("cluster myid");
        node
    }

    /// Runs a command. Returns `None` if the node does not answer.
    fn try_run(&self, command: &str) -> Option<String> {
        let output = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(command.split(' '))
            .stderr(Stdio::null())
            .output()
            .expect("redis-cli is installed");
        let text = String::from_utf8(output.stdout).expect("a text");
        output.status.success().then(|| text.trim().to_owned())
    }

    fn run(&self, command: &str) -> String {
        let answer = self.try_run(command).expect("the node answers");
        assert!(!answer.starts_with("ERR"), "{command}: {answer}");
        answer
    }

    fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Asks again and again until the answer is yes.
async fn until<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let begin = Instant::now();
    while !ask().await {
        assert!(
            begin.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A cluster of three masters.
struct Cluster {
    nodes: Vec<Node>,
}

impl Cluster {
    async fn start() -> Self {
        let mut nodes = Vec::new();
        for _ in 0..3 {
            nodes.push(Node::start().await);
        }
        let cluster = Self { nodes };
        let third = SLOTS / 3;
        for (at, node) in cluster.nodes.iter().enumerate() {
            let begin = at as u16 * third;
            let end = if at == 2 { SLOTS } else { begin + third } - 1;
            node.run(&format!("cluster addslotsrange {begin} {end}"));
            node.run(&format!("cluster set-config-epoch {}", at + 1));
        }
        for node in &cluster.nodes[1..] {
            cluster.meet(node);
        }
        cluster.is_whole(3).await;
        cluster
    }

    /// Adds a replica of a master.
    async fn add_replica(&mut self, master: usize) {
        let replica = Node::start().await;
        self.meet(&replica);
        let id = self.nodes[master].id.clone();
        until("a replica", || async {
            let replicates = replica.try_run(&format!("cluster replicate {id}"));
            replicates.as_deref() == Some("OK")
        })
        .await;
        until("a replica that has all", || async {
            let info = replica.try_run("info replication").unwrap_or_default();
            info.contains("master_link_status:up")
        })
        .await;
        self.nodes.push(replica);
        let nodes = self.nodes.len();
        self.is_whole(nodes).await;
    }

    fn meet(&self, node: &Node) {
        let (port, bus_port) = (node.port, node.bus_port);
        self.nodes[0].run(&format!("cluster meet 127.0.0.1 {port} {bus_port}"));
    }

    /// Waits until each node knows all, and all slots have masters.
    async fn is_whole(&self, nodes: usize) {
        until("a whole cluster", || async {
            self.nodes.iter().all(|node| {
                let info = node.try_run("cluster info").unwrap_or_default();
                info.contains("cluster_state:ok")
                    && info.contains(&format!("cluster_known_nodes:{nodes}\r"))
            })
        })
        .await;
    }

    fn urls(&self) -> Vec<String> {
        let urls = self.nodes.iter();
        urls.map(|node| format!("redis://127.0.0.1:{}", node.port))
            .collect()
    }

    async fn redis(&self, mode: Mode, prefix: &str) -> Redis {
        let redis = Redis::cluster(self.urls()).mode(mode).prefix(prefix);
        redis.connect().await.expect("it is connected")
    }

    fn slot(&self, name: &str) -> u16 {
        let slot = self.nodes[0].run(&format!("cluster keyslot {name}"));
        slot.parse().expect("a slot")
    }

    /// Returns the number of the node that has a slot.
    fn owner(&self, slot: u16) -> usize {
        let owners = self.nodes.iter().position(|node| {
            let nodes = node.try_run("cluster nodes").unwrap_or_default();
            let own = nodes.lines().find(|line| line.contains("myself"));
            own.is_some_and(|own| {
                own.split(' ').skip(8).any(|range| {
                    let (begin, end) = range.split_once('-').unwrap_or((range, range));
                    matches!((begin.parse(), end.parse()), (Ok(begin), Ok(end))
                        if (begin..=end).contains(&slot))
                })
            })
        });
        owners.expect("the slot has an owner")
    }

    /// Moves a slot to the next master, with its keys.
    fn move_slot(&self, slot: u16) {
        let from = self.owner(slot);
        let to = (from + 1) % 3;
        let (from, to) = (&self.nodes[from], &self.nodes[to]);
        to.run(&format!("cluster setslot {slot} importing {}", from.id));
        from.run(&format!("cluster setslot {slot} migrating {}", to.id));
        for key in from
            .run(&format!("cluster getkeysinslot {slot} 100"))
            .lines()
        {
            from.run(&format!("migrate 127.0.0.1 {} {key} 0 5000", to.port));
        }
        let others = self
            .nodes
            .iter()
            .filter(|node| node.id != to.id && node.id != from.id);
        // Once on each: a node that is told again ends the subscriptions of the slot.
        for node in [to, from].into_iter().chain(others) {
            node.run(&format!("cluster setslot {slot} node {}", to.id));
        }
    }
}

/// A server of a cluster.
struct Server {
    app: Router,
    io: SocketIo,
}

impl Server {
    fn start(redis: &Redis) -> Self {
        let namespace = Namespace::new().on_connect(async |socket: Socket| {
            for room in 0..ROOMS {
                socket.join(format!("room-{room}"));
            }
        });
        let (layer, io) = SocketIo::builder()
            .namespace("/", namespace)
            .max_rooms(20_000)
            .max_kept(64 << 20)
            .cluster(redis.clone())
            .build();
        let app = Router::new().layer(layer);
        Self { app, io }
    }

    async fn client(&self) -> Client {
        let client = Client::connect(&self.app, "/").await;
        client.expect("it is let in")
    }

    fn status(&self) -> ClusterStatus {
        self.io.cluster().expect("it has a cluster").status()
    }
}

/// The rooms of each client. Their channels are on all masters.
const ROOMS: u64 = 40;

async fn counts(servers: &[Server], count: usize) {
    for server in servers {
        until("the count of servers", || async {
            server.io.server_count().await == Ok(count)
        })
        .await;
    }
}

async fn check(mode: Mode, prefix: &str) {
    let cluster = Cluster::start().await;
    let redis = cluster.redis(mode, prefix).await;
    conformance(|| redis.clone()).await;
    programs::check(|| redis.clone(), 500, 10).await;
    programs::check(|| redis.clone(), 10, 500).await;
    presence::check(|| redis.clone()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server"]
async fn classic() {
    check(Mode::Classic, "socket.io").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server"]
async fn sharded_static() {
    check(Mode::Sharded(Subscriptions::Static), "socket.io").await;
}

// The programs need the order of messages to different rooms, which one master has.

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server"]
async fn sharded_dynamic() {
    check(Mode::Sharded(Subscriptions::Dynamic), "{socket.io}").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server"]
async fn sharded_dynamic_private() {
    check(Mode::Sharded(Subscriptions::DynamicPrivate), "{socket.io}").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server"]
async fn streams() {
    check(Mode::Streams(Streams::new()), "socket.io").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server"]
async fn several_streams_with_sharded_pub_sub() {
    let streams = Streams::new().count(3).sharded_pub_sub(true);
    check(Mode::Streams(streams), "socket.io").await;
}

/// Numbered events of one server to the rooms of the client of another one.
struct Traffic {
    sent: u64,
    received: Vec<(u64, u64)>,
}

impl Traffic {
    fn new() -> Self {
        Self {
            sent: 0,
            received: Vec::new(),
        }
    }

    /// Sends one event to each room.
    fn send(&mut self, server: &Server) {
        for room in 0..ROOMS {
            let broadcast = server.io.to(format!("room-{room}"));
            broadcast.emit("n", Args((room, self.sent)));
        }
        self.sent += 1;
    }

    /// Sends events until one arrives in each room.
    async fn goes_on(&mut self, from: &Server, client: &mut Client) {
        let first = self.sent;
        let mut arrived = HashMap::new();
        let begin = Instant::now();
        while arrived.len() < ROOMS as usize {
            assert!(
                begin.elapsed() < PATIENCE,
                "rooms that get nothing: {arrived:?}"
            );
            self.send(from);
            let more = tokio::time::sleep(Duration::from_millis(20));
            tokio::pin!(more);
            loop {
                tokio::select! {
                    event = client.expect("n") => {
                        let mut event = event;
                        let (room, n): (u64, u64) = event.args();
                        self.received.push((room, n));
                        if n >= first {
                            arrived.insert(room, n);
                        }
                    }
                    () = &mut more => break,
                }
            }
        }
    }

    /// Waits for the last events of all rooms.
    async fn end(&mut self, client: &mut Client) {
        let last = self.sent - 1;
        let rooms =
            |received: &[(u64, u64)]| received.iter().filter(|(_, n)| *n == last).count() as u64;
        let all = async {
            while rooms(&self.received) < ROOMS {
                let mut event = client.expect("n").await;
                self.received.push(event.args());
            }
        };
        let received = tokio::time::timeout(PATIENCE, all).await;
        received.expect("the last events arrive");
    }

    /// Checks that the events of each room have arrived in order and once. Returns how many are missing.
    fn check(&self) -> u64 {
        let mut last = HashMap::new();
        for (room, n) in &self.received {
            let before = last.insert(*room, *n);
            assert!(
                before.is_none_or(|before| before < *n),
                "room {room}: {before:?}, {n}"
            );
        }
        self.sent * ROOMS - self.received.len() as u64
    }
}

/// The modes whose rooms have channels, and those of streams.
fn modes() -> [Mode; 5] {
    [
        Mode::Classic,
        Mode::Sharded(Subscriptions::Static),
        Mode::Sharded(Subscriptions::Dynamic),
        Mode::Streams(Streams::new()),
        Mode::Streams(Streams::new().sharded_pub_sub(true)),
    ]
}

fn is_streams(mode: &Mode) -> bool {
    matches!(mode, Mode::Streams(_))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server"]
async fn slots_that_move() {
    let cluster = Cluster::start().await;
    for (number, mode) in modes().into_iter().enumerate() {
        let prefix = format!("moves-{number}");
        let mode = match mode {
            Mode::Streams(streams) => Mode::Streams(streams.name(&prefix)),
            other => other,
        };
        let redis = cluster.redis(mode.clone(), &prefix).await;
        let servers = [Server::start(&redis), Server::start(&redis)];
        counts(&servers, 2).await;
        let [a, b] = &servers;
        let mut client = b.client().await;
        let mut traffic = Traffic::new();
        traffic.goes_on(a, &mut client).await;
        // The channel of all, that of a room, and the stream.
        for name in [
            format!("{prefix}#/#"),
            format!("{prefix}#/#room-7#"),
            prefix.clone(),
        ] {
            let before = b.status();
            let slot = cluster.slot(&name);
            for _ in 0..3 {
                traffic.send(a);
            }
            cluster.move_slot(slot);
            traffic.goes_on(a, &mut client).await;
            counts(&servers, 2).await;
            until("a connection", || async { b.status().is_connected }).await;
            let has_channel = match &mode {
                Mode::Sharded(Subscriptions::Dynamic) => name != prefix,
                Mode::Sharded(_) => name.ends_with("#/#"),
                _ => false,
            };
            let gaps = before.gaps + u64::from(has_channel);
            assert_eq!(b.status().gaps, gaps, "{mode:?}: {name} has moved");
        }
        traffic.end(&mut client).await;
        let missing = traffic.check();
        if is_streams(&mode) {
            assert_eq!(missing, 0, "{mode:?}");
        }
        let sockets = a.io.fetch_sockets().await.expect("all servers answer");
        assert_eq!(sockets.len(), 1, "{mode:?}");
        assert_eq!(a.status().dropped + a.status().unconfirmed, 0, "{mode:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server"]
async fn a_master_that_dies() {
    for (number, mode) in modes().into_iter().enumerate() {
        let mut cluster = Cluster::start().await;
        let prefix = format!("dies-{number}");
        let redis = cluster.redis(mode.clone(), &prefix).await;
        let name = if is_streams(&mode) {
            "socket.io"
        } else {
            &*format!("{prefix}#/#")
        };
        let master = cluster.owner(cluster.slot(name));
        cluster.add_replica(master).await;
        let servers = [Server::start(&redis), Server::start(&redis)];
        counts(&servers, 2).await;
        let [a, b] = &servers;
        let mut client = b.client().await;
        let mut traffic = Traffic::new();
        traffic.goes_on(a, &mut client).await;
        let before = b.status();
        cluster.nodes[master].kill();
        for _ in 0..10 {
            traffic.send(a);
        }
        traffic.goes_on(a, &mut client).await;
        counts(&servers, 2).await;
        for server in &servers {
            until("a connection", || async { server.status().is_connected }).await;
        }
        // A question has five seconds, which is little on a busy machine just after the failover.
        until("an answer of all servers", || async {
            let sockets = a.io.fetch_sockets().await;
            sockets.is_ok_and(|sockets| sockets.len() == 1)
        })
        .await;
        traffic.end(&mut client).await;
        traffic.check();
        if !matches!(mode, Mode::Classic) {
            let gaps = b.status().gaps - before.gaps;
            assert!(is_streams(&mode) || gaps > 0, "{mode:?}: {gaps} gaps");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server"]
async fn a_master_without_a_replica() {
    let mut cluster = Cluster::start().await;
    for node in &cluster.nodes {
        node.run("config set cluster-require-full-coverage no");
    }
    let mode = Mode::Sharded(Subscriptions::Dynamic);
    let redis = cluster.redis(mode, "lonely").await;
    let servers = [Server::start(&redis), Server::start(&redis)];
    counts(&servers, 2).await;
    let [a, b] = &servers;
    let mut client = b.client().await;
    let mut traffic = Traffic::new();
    traffic.goes_on(a, &mut client).await;
    // One that does not have the channel by which servers are counted.
    let of_all = cluster.owner(cluster.slot("lonely#/#"));
    let dies = (of_all + 1) % 3;
    let there = (0..ROOMS)
        .find(|room| cluster.owner(cluster.slot(&format!("lonely#/#room-{room}#"))) != dies);
    let there = there.expect("a room on another master");
    cluster.nodes[dies].kill();
    until("the end of the connection", || async {
        !b.status().is_connected
    })
    .await;
    assert!(!b.status().reason.is_empty());
    // The others go on.
    a.io.to(format!("room-{there}"))
        .emit("n", Args((there, u64::MAX)));
    let arrives = async {
        loop {
            let mut event = client.expect("n").await;
            if event.args::<(u64, u64)>() == (there, u64::MAX) {
                return;
            }
        }
    };
    let arrived = tokio::time::timeout(PATIENCE, arrives).await;
    arrived.expect("an event by another master");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server"]
async fn ten_thousand_rooms() {
    const MANY: u64 = 10_000;

    let cluster = Cluster::start().await;
    let mode = Mode::Sharded(Subscriptions::Dynamic);
    let redis = cluster.redis(mode, "many").await;
    let servers = [Server::start(&redis), Server::start(&redis)];
    counts(&servers, 2).await;
    let [a, b] = &servers;
    let mut client = b.client().await;
    let socket = b.io.sockets().into_iter().next().expect("it is connected");
    for room in 0..MANY {
        socket.join(format!("many-{room}"));
    }
    socket.synced().await.expect("the broker is connected");
    for room in 0..MANY {
        a.io.to(format!("many-{room}")).emit("n", room);
    }
    let mut rooms = Vec::new();
    for _ in 0..MANY {
        rooms.push(client.expect("n").await.data::<u64>());
    }
    rooms.sort_unstable();
    assert!(rooms.into_iter().eq(0..MANY));
    // All of them are subscribed again.
    let begin = Instant::now();
    let gaps = b.status().gaps;
    for node in &cluster.nodes {
        node.run("client kill type pubsub");
    }
    until("a gap", || async {
        b.status().gaps > gaps && b.status().is_connected
    })
    .await;
    let time = begin.elapsed();
    assert!(time < Duration::from_secs(10), "it took {time:?}");
    for room in 0..MANY {
        a.io.to(format!("many-{room}")).emit("n", room);
    }
    for _ in 0..MANY {
        client.expect("n").await;
    }
}
