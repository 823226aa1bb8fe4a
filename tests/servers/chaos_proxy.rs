//! A bad network between clients and servers: `SEED=1 STALL=6000 TARGETS=3000 chaos_proxy PORT…`.
//!
//! The proxy forwards a connection to a port to the target in the same position of TARGETS, a list
//! of ports separated by commas. Each direction of each connection gets faults at random, by SEED
//! and the number of the connection:
//!
//! | | |
//! |---|---|
//! | latency | 0 to 200 ms |
//! | bandwidth | 1 to 100 KB a second |
//! | slices | writes of 1 to 100 bytes |
//! | an incident, after a time or a number of bytes | a reset of one side or of both, a half-close, or a stall of up to STALL milliseconds |
//!
//! After a stall the direction gets new faults. After SIGUSR1 the network has no faults, and the
//! program prints the numbers of connections and of faults of each kind, as JSON.

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let targets = std::env::var("TARGETS")?;
    let network = Arc::new(Network {
        seed: std::env::var("SEED")?.parse()?,
        longest_stall: std::env::var("STALL")?.parse()?,
        is_good: watch::Sender::new(false),
        counts: Counts::default(),
    });
    for (port, target) in std::env::args().skip(1).zip(targets.split(',')) {
        let listener = TcpListener::bind(("127.0.0.1", port.parse()?)).await?;
        tokio::spawn(serve(listener, target.parse()?, Arc::clone(&network)));
    }
    signal(SignalKind::user_defined1())?.recv().await;
    network.is_good.send_replace(true);
    #[allow(clippy::print_stdout, reason = "the test reads the line")]
    {
        println!("{}", network.counts.to_json());
    }
    pending().await
}

struct Network {
    seed: u64,
    /// In milliseconds.
    longest_stall: u64,
    is_good: watch::Sender<bool>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    connections: AtomicU64,
    latency: AtomicU64,
    bandwidth: AtomicU64,
    slices: AtomicU64,
    resets: AtomicU64,
    half_closes: AtomicU64,
    stalls: AtomicU64,
}

impl Counts {
    fn to_json(&self) -> serde_json::Value {
        json!({
            "connections": self.connections,
            "latency": self.latency,
            "bandwidth": self.bandwidth,
            "slices": self.slices,
            "resets": self.resets,
            "half_closes": self.half_closes,
            "stalls": self.stalls,
        })
    }
}

fn count(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::Relaxed)
}

async fn serve(listener: TcpListener, target: u16, network: Arc<Network>) {
    while let Ok((client, _)) = listener.accept().await {
        let number = count(&network.counts.connections);
        let network = Arc::clone(&network);
        tokio::spawn(async move {
            // The client notices each failure as an error of its own connection.
            let _ = relay(client, target, number, &network).await;
        });
    }
}

/// The side of a connection that is reset, or both sides.
enum Cut {
    Client,
    Server,
    Both,
}

impl From<io::Error> for Cut {
    fn from(_: io::Error) -> Self {
        Self::Both
    }
}

async fn relay(
    mut client: TcpStream,
    target: u16,
    number: u64,
    network: &Network,
) -> io::Result<()> {
    let mut server = match TcpStream::connect(("127.0.0.1", target)).await {
        Ok(server) => server,
        // The server does not run, so the client's connection is reset.
        Err(_) => return client.set_zero_linger(),
    };
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let mut up = Direction::new(network, 2 * number);
    let mut down = Direction::new(network, 2 * number + 1);
    let ended = tokio::try_join!(
        up.forward(from_client, to_server),
        down.forward(from_server, to_client)
    );
    // Without this option a dropped connection sends FIN in place of RST.
    match ended {
        Ok(_) => Ok(()),
        Err(Cut::Client) => client.set_zero_linger(),
        Err(Cut::Server) => server.set_zero_linger(),
        Err(Cut::Both) => client.set_zero_linger().and(server.set_zero_linger()),
    }
}

/// The latency and the size of the writes of a direction.
#[derive(Default)]
struct Shape {
    latency: Duration,
    /// The maximum number of bytes in a write, and the pause after it.
    slice: Option<(usize, Duration)>,
}

#[derive(Clone, Copy)]
enum Incident {
    ResetClient,
    ResetServer,
    ResetBoth,
    HalfClose,
    Stall(Duration),
}

/// The next incident. It happens at `at` or after `after` bytes, whichever comes first.
struct Next {
    incident: Incident,
    at: Instant,
    after: usize,
}

/// One direction of a connection.
struct Direction<'a> {
    network: &'a Network,
    chance: Chance,
    shape: Shape,
    /// `None` on a good network.
    next: Option<Next>,
    stalled_until: Option<Instant>,
    /// The bytes that were read, with the time at which they may be written. The end of the stream
    /// has no bytes.
    queue: VecDeque<(Instant, Bytes)>,
    queued: usize,
    has_ended: bool,
    may_write_at: Instant,
}

/// The number of queued bytes at which a direction stops reading.
const QUEUE: usize = 64 * 1024;

impl<'a> Direction<'a> {
    fn new(network: &'a Network, number: u64) -> Self {
        let mut direction = Self {
            network,
            chance: Chance::new(network.seed, number),
            shape: Shape::default(),
            next: None,
            stalled_until: None,
            queue: VecDeque::new(),
            queued: 0,
            has_ended: false,
            may_write_at: Instant::now(),
        };
        if !*network.is_good.borrow() {
            direction.draw();
        }
        direction
    }

    /// Chooses the shape and the next incident at random.
    fn draw(&mut self) {
        let Self {
            chance, network, ..
        } = self;
        let counts = &network.counts;
        self.shape = Shape::default();
        if chance.is(40) {
            count(&counts.latency);
            self.shape.latency = Duration::from_millis(chance.below(201));
        }
        // Small writes resemble a slow network better than the bytes of a second at once.
        if chance.is(20) {
            count(&counts.bandwidth);
            let bytes_per_second = 1_000 * chance.spread(100);
            self.shape.slice = Some((bytes_per_second as usize / 20, Duration::from_millis(50)));
        } else if chance.is(15) {
            count(&counts.slices);
            let slice = chance.spread(100) as usize;
            self.shape.slice = Some((slice, Duration::from_millis(1)));
        }
        let incident = match chance.below(10) {
            0 => Incident::ResetClient,
            1 => Incident::ResetServer,
            2 => Incident::ResetBoth,
            3..6 => Incident::HalfClose,
            _ => {
                let longest = network.longest_stall / 100;
                Incident::Stall(Duration::from_millis(100 * chance.spread(longest)))
            }
        };
        // Some incidents happen after a few bytes, because a short connection, such as that of a
        // poll, has usually ended before a random time.
        let is_early = chance.is(1);
        let (at, after) = match is_early {
            true => (3_600_000, chance.below(1_500) as usize),
            false => (chance.wait(12_000), usize::MAX),
        };
        let at = Instant::now() + Duration::from_millis(at);
        self.next = Some(Next {
            incident,
            at,
            after,
        });
    }

    async fn forward(&mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> Result<(), Cut> {
        let mut is_good = self.network.is_good.subscribe();
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let is_stalled = self.stalled_until.is_some();
            let may_read = !is_stalled && !self.has_ended && self.queued < QUEUE;
            let may_write = !is_stalled && !self.queue.is_empty();
            tokio::select! {
                biased;
                () = becomes_good(&mut is_good), if self.next.is_some() || is_stalled => {
                    self.recover();
                }
                () = until(self.stalled_until) => {
                    self.stalled_until = None;
                    self.draw();
                }
                () = until(self.next.as_ref().map(|next| next.at)) => {
                    if self.is_over(&mut to).await? {
                        return Ok(());
                    }
                }
                read = from.read(&mut buffer), if may_read => {
                    let bytes = buffer.get(..read?).unwrap_or_default();
                    self.push(Bytes::copy_from_slice(bytes));
                }
                () = until(self.write_time()), if may_write => {
                    if self.write(&mut to).await? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Removes the faults of this direction.
    fn recover(&mut self) {
        self.shape = Shape::default();
        self.next = None;
        self.stalled_until = None;
    }

    /// Executes the next incident. Returns whether it ends this direction.
    async fn is_over(&mut self, to: &mut WriteHalf<'_>) -> Result<bool, Cut> {
        let Some(Next { incident, .. }) = self.next.take() else {
            return Ok(false);
        };
        let counts = &self.network.counts;
        match incident {
            Incident::Stall(time) => {
                count(&counts.stalls);
                self.stalled_until = Some(Instant::now() + time);
                return Ok(false);
            }
            Incident::HalfClose => {
                count(&counts.half_closes);
                to.shutdown().await?;
                return Ok(true);
            }
            _ => count(&counts.resets),
        };
        Err(match incident {
            Incident::ResetClient => Cut::Client,
            Incident::ResetServer => Cut::Server,
            _ => Cut::Both,
        })
    }

    /// Queues bytes that were read.
    fn push(&mut self, bytes: Bytes) {
        self.has_ended = bytes.is_empty();
        self.queued += bytes.len();
        let due = Instant::now() + self.shape.latency;
        let last = self.queue.back().map_or(due, |&(last, _)| last);
        self.queue.push_back((due.max(last), bytes));
    }

    fn write_time(&self) -> Option<Instant> {
        let &(due, _) = self.queue.front()?;
        Some(due.max(self.may_write_at))
    }

    /// Writes the bytes that one write may have. Returns whether this direction has ended.
    async fn write(&mut self, to: &mut WriteHalf<'_>) -> Result<bool, Cut> {
        let (slice, pause) = self.shape.slice.unwrap_or((usize::MAX, Duration::ZERO));
        let after = self.next.as_ref().map_or(usize::MAX, |next| next.after);
        let Some((_, bytes)) = self.queue.front_mut() else {
            return Ok(false);
        };
        if bytes.is_empty() {
            to.shutdown().await?;
            return Ok(true);
        }
        let now = bytes.split_to(bytes.len().min(slice).min(after));
        if bytes.is_empty() {
            self.queue.pop_front();
        }
        self.queued -= now.len();
        to.write_all(&now).await?;
        self.may_write_at = Instant::now() + pause;
        if let Some(next) = &mut self.next {
            next.after = next.after.saturating_sub(now.len());
            if next.after == 0 {
                return self.is_over(to).await;
            }
        }
        Ok(false)
    }
}

async fn becomes_good(is_good: &mut watch::Receiver<bool>) {
    // An error is impossible, because the network outlives its connections.
    let _ = is_good.wait_for(|is_good| *is_good).await;
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

/// A pseudorandom generator.
struct Chance(u64);

impl Chance {
    fn new(seed: u64, number: u64) -> Self {
        let mut chance = Self(seed);
        chance.0 = chance.next() ^ number;
        chance
    }

    /// Returns the next number, by SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Returns `true` with a probability of `percent`.
    fn is(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Returns a number between 0 and 1.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Returns a number from 1 to `end`, with a uniform distribution of its logarithm.
    fn spread(&mut self, end: u64) -> u64 {
        (end as f64).powf(self.fraction()).round() as u64
    }

    /// Returns the time until an event that happens once in `mean` on average, exponentially
    /// distributed.
    fn wait(&mut self, mean: u64) -> u64 {
        (-(1.0 - self.fraction()).ln() * mean as f64) as u64
    }
}
