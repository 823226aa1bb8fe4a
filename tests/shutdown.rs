//! The end of a server with very many clients, over real connections. Each client is told of the
//! end or cut, and nothing is left. `-- --nocapture` prints the figures.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, IntoFuture, pending};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use support::{builder, frame, read_frame, send_head, text_frame, upgrade_head, within};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tower_socketio::{DisconnectReason, HttpOptions, Namespace, ShutdownReport, Socket, SocketIo};

/// Longer than a test, so that no timeout of a client ends its session.
const LONG: Duration = Duration::from_secs(600);

/// The number of clients that connect at the same time. More could overflow the listener's backlog.
const AT_A_TIME: usize = 64;

/// The longest wait for a step that takes a moment on an idle machine.
const PATIENCE: Duration = Duration::from_secs(120);

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The state of a client at the end of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Doing {
    // Over WebSocket.
    /// The client does nothing.
    Idle,
    /// The client sends events and receives the acknowledgements.
    Chatting,
    /// The client has sent a half of a message, and closes its connection after the server's close
    /// frame.
    Uploading,
    /// The client has sent a half of a message, and does not close its connection.
    UploadingAndSilent,
    /// The handler of the client's event ends after [`SLEEP`].
    Sleeping,
    /// The handler of the client's event does not end.
    Endless,
    /// The client does not read, and its send queue is long.
    NotReading,
    /// The client has joined no namespace.
    Unjoined,

    // Over long-polling, with an open poll.
    Polling,
    /// The client is sending the body of a POST.
    Posting,
    UnjoinedPolling,

    // During an upgrade.
    /// A poll is open, and the WebSocket has sent nothing.
    Connected,
    /// The client has the pong of its probe, and completes the upgrade.
    Ponged,
    /// The client has the pong of its probe, and does nothing more.
    PongedAndSilent,

    /// The client has sent nothing over its connection.
    Mute,
}

use Doing::{
    Chatting, Connected, Endless, Idle, Mute, NotReading, Polling, Ponged, PongedAndSilent,
    Posting, Sleeping, Unjoined, UnjoinedPolling, Uploading, UploadingAndSilent,
};

impl Doing {
    fn has_joined(self) -> bool {
        !matches!(self, Unjoined | UnjoinedPolling | Mute)
    }

    /// Returns whether the connection may end without a close frame or packet.
    fn may_be_cut(self) -> bool {
        matches!(self, NotReading | PongedAndSilent | Mute)
    }
}

/// The time for which the handlers of [`Sleeping`] run.
const SLEEP: Duration = Duration::from_secs(3);

/// How a client was told of the end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    /// The code and the reason of a close frame.
    Frame(u16, String),
    /// The packet in the response to the poll.
    Packet(String),
    /// The end of the connection.
    End,
}

/// The records of a server.
#[derive(Clone, Default)]
struct Records {
    left: Arc<Mutex<BTreeMap<String, Vec<DisconnectReason>>>>,
    answered: Arc<Mutex<usize>>,
}

impl Records {
    fn namespace(&self) -> Namespace {
        let (left, answered) = (Arc::clone(&self.left), Arc::clone(&self.answered));
        Namespace::new()
            .on("echo", async || "echo")
            .on("wait", async || pending::<()>().await)
            .on("sleep", async move |socket: Socket| {
                sleep(SLEEP).await;
                socket.emit("last", "word");
                *answered.lock().expect("no panic") += 1;
            })
            .on("fill", async |socket: Socket| {
                (0..10).for_each(|_| socket.emit("text", "x".repeat(300_000)));
            })
            .on_connect(async |socket: Socket| {
                socket.join("all");
                socket.join(format!("of {}", socket.id()));
            })
            .on_disconnect(async move |socket: Socket, reason: DisconnectReason| {
                let mut left = left.lock().expect("no panic");
                let reasons = left.entry(socket.id().to_string()).or_default();
                reasons.push(reason);
            })
    }
}

/// A server with its runtime, and the runtime of the clients.
struct Server {
    runtime: Runtime,
    clients: Runtime,
    addr: SocketAddr,
    io: SocketIo,
    /// Keeps the server alive, so that its counts can be read at the end.
    _app: Router,
    records: Records,
    end: oneshot::Sender<()>,
    served: JoinHandle<Option<ShutdownReport>>,
}

fn runtime() -> Runtime {
    let mut runtime = Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build();
    runtime.expect("a runtime")
}

impl Server {
    /// Starts a server. The future of `end` ends it after the signal of [`Server::end`].
    fn start<F>(end: impl FnOnce(SocketIo) -> F) -> Self
    where
        F: Future<Output = Option<ShutdownReport>> + Send + 'static,
    {
        let records = Records::default();
        let (layer, io) = builder(records.namespace())
            .ping_interval(LONG)
            .connect_timeout(LONG)
            .upgrade_timeout(LONG)
            .http(HttpOptions::new().body_timeout(LONG))
            .build();
        let app = support::app(layer);
        let (served_app, end) = (app.clone(), end(io.clone()));
        let (signal, ends) = oneshot::channel();
        let runtime = runtime();
        let (addr, served) = runtime.block_on(async {
            let socket = TcpSocket::new_v4().expect("a socket");
            // The kernel buffers few bytes for a client that does not read.
            socket.set_send_buffer_size(8 * 1024).expect("a size");
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            socket.bind(any).expect("a port");
            let listener = socket.listen(1_024).expect("a listener");
            let addr = listener.local_addr().expect("an address");
            let served = tokio::spawn(async move {
                let (sender, mut report) = oneshot::channel();
                let served = axum::serve(listener, served_app).with_graceful_shutdown(async {
                    let _ = ends.await;
                    let _ = sender.send(end.await);
                });
                served.await.expect("no error");
                report.try_recv().expect("a report")
            });
            (addr, served)
        });
        Self {
            runtime,
            clients: self::runtime(),
            addr,
            io,
            _app: app,
            records,
            end: signal,
            served,
        }
    }
}

/// Returns the number of descriptors of this process for the server's side of connections to a
/// port. The kernel's list may miss some connections while others open and close.
fn descriptors(port: u16) -> usize {
    let connections = std::fs::read_to_string("/proc/self/net/tcp").expect("Linux");
    let local = format!(":{port:04X}");
    let inode = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, address, remote, _, _, _, _, _, _, inode, ..] = fields[..] else {
            return None;
        };
        let is_ours = address.ends_with(&local) && !remote.ends_with(":0000");
        (is_ours && inode != "0").then(|| inode.to_owned())
    };
    let lines = connections.lines().filter(|line| line.contains(&local));
    lines.filter_map(inode).collect::<BTreeSet<_>>().len()
}

/// Waits until the server has no descriptor for a connection, and its runtime has no task.
fn until_nothing_is_left(runtime: &Runtime, port: u16) {
    let limit = Instant::now() + PATIENCE;
    loop {
        let left = (descriptors(port), runtime.metrics().num_alive_tasks());
        if left == (0, 0) {
            return;
        }
        assert!(Instant::now() < limit, "descriptors and tasks: {left:?}");
        std::thread::sleep(millis(100));
    }
}

/// A client with its connections and its session.
struct Client {
    doing: Doing,
    addr: SocketAddr,
    main: BufReader<TcpStream>,
    /// The connection of a POST or of an upgrade.
    second: Option<TcpStream>,
    uri: String,
}

async fn tcp(addr: SocketAddr, small: bool) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    if small {
        socket.set_recv_buffer_size(8 * 1024).expect("a size");
    }
    within(socket.connect(addr)).await.expect("a connection")
}

/// The head and the body of a response.
struct Response {
    head: String,
    body: String,
}

async fn respond(stream: &mut BufReader<TcpStream>) -> std::io::Result<Response> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length = length.map_or(0, |length| length.parse().expect("a length"));
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let body = String::from_utf8(body).expect("UTF-8");
    Ok(Response { head, body })
}

impl Client {
    /// Connects, joins, and brings the client into the state `doing`.
    async fn begin(addr: SocketAddr, doing: Doing) -> Self {
        let main = BufReader::new(tcp(addr, doing == NotReading).await);
        let uri = "/socket.io/?EIO=4&transport=polling".to_owned();
        let mut client = Self {
            doing,
            addr,
            main,
            second: None,
            uri,
        };
        match doing {
            Mute => {}
            Polling | Posting | UnjoinedPolling | Connected | Ponged | PongedAndSilent => {
                client.begin_polling().await;
            }
            _ => client.begin_websocket().await,
        }
        client
    }

    async fn begin_websocket(&mut self) {
        let head = send_head(self.main.get_mut(), &upgrade_head("")).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        assert!(read_frame(&mut self.main).await.starts_with("0{"));
        if self.doing == Unjoined {
            return;
        }
        self.send_frame("40").await;
        assert!(read_frame(&mut self.main).await.starts_with("40{"));
        match self.doing {
            Sleeping => self.send_frame(r#"42["sleep"]"#).await,
            Endless => self.send_frame(r#"42["wait"]"#).await,
            NotReading => self.send_frame(r#"42["fill"]"#).await,
            Uploading | UploadingAndSilent => {
                let message = frame(1, format!("42[\"{}\"]", "x".repeat(20_000)).as_bytes());
                self.write(&message[..10_000]).await;
            }
            _ => {}
        }
    }

    async fn begin_polling(&mut self) {
        let open = self.get().await.body;
        let sid = open.split('"').nth(3).expect("an id");
        self.uri = format!("{}&sid={sid}", self.uri);
        let probe = format!("&sid={sid}");
        if self.doing != UnjoinedPolling {
            let body = "40";
            let head = format!(
                "POST {} HTTP/1.1\r\nhost: test\r\ncontent-length: 2",
                self.uri
            );
            self.write(format!("{head}\r\n\r\n{body}").as_bytes()).await;
            assert_eq!(self.response().await.body, "ok");
            assert!(self.get().await.body.starts_with("40{"));
        }
        self.send_get().await;
        match self.doing {
            Posting => {
                let mut stream = tcp(self.addr, false).await;
                let head = format!("POST {} HTTP/1.1\r\nhost: test", self.uri);
                let part = format!("{head}\r\ncontent-length: 1000\r\n\r\n42[");
                within(stream.write_all(part.as_bytes()))
                    .await
                    .expect("it is taken");
                self.second = Some(stream);
            }
            Connected | Ponged | PongedAndSilent => {
                let mut stream = tcp(self.addr, false).await;
                let head = send_head(&mut stream, &upgrade_head(&probe)).await;
                assert!(head.starts_with("HTTP/1.1 101"), "{head}");
                self.second = Some(stream);
            }
            _ => {}
        }
        if matches!(self.doing, Ponged | PongedAndSilent) {
            let stream = self.second.as_mut().expect("a probe");
            within(stream.write_all(&text_frame("2probe")))
                .await
                .expect("it is taken");
            assert_eq!(read_frame(stream).await, "3probe");
            assert_eq!(self.response().await.body, "6");
        }
    }

    async fn write(&mut self, bytes: &[u8]) {
        let sent = within(self.main.write_all(bytes)).await;
        sent.expect("the server takes it");
    }

    async fn send_frame(&mut self, text: &str) {
        self.write(&text_frame(text)).await;
    }

    async fn send_get(&mut self) {
        let get = format!("GET {} HTTP/1.1\r\nhost: test\r\n\r\n", self.uri);
        self.write(get.as_bytes()).await;
    }

    async fn get(&mut self) -> Response {
        self.send_get().await;
        self.response().await
    }

    async fn response(&mut self) -> Response {
        within(respond(&mut self.main)).await.expect("a response")
    }

    /// Runs the client until the server ends. Returns how the client was told, and when. Its
    /// connections have ended then, except that of [`Uploading`], which the client closes.
    async fn run(mut self, ending: Arc<Ending>) -> (Told, Instant) {
        let (told, at) = match self.doing {
            Polling | Posting | UnjoinedPolling | Connected => {
                let told = within(respond(&mut self.main)).await.expect("a response");
                (Told::Packet(told.body), Instant::now())
            }
            Ponged => {
                ending.begun().await;
                sleep(millis(200)).await;
                let mut stream = self.second.take().expect("a probe");
                within(stream.write_all(&text_frame("5")))
                    .await
                    .expect("it is taken");
                let told = until_close(&mut stream, false).await;
                self.second = Some(stream);
                told
            }
            PongedAndSilent => {
                let mut stream = self.second.take().expect("a probe");
                let told = until_close(&mut stream, false).await;
                self.second = Some(stream);
                told
            }
            NotReading => {
                ending.ended().await;
                until_close(&mut self.main, false).await
            }
            _ => {
                let is_chatting = self.doing == Chatting;
                until_close(&mut self.main, is_chatting).await
            }
        };
        if matches!(self.doing, Idle | Chatting | Sleeping | Endless | Unjoined) {
            // The write fails if the server has closed the connection without waiting.
            let _ = self
                .main
                .write_all(&frame(8, &1001_u16.to_be_bytes()))
                .await;
        }
        if self.doing == Uploading {
            return (told, at);
        }
        // The server closes the remaining connections.
        let mut rest = Vec::new();
        let _ = within(self.main.read_to_end(&mut rest)).await;
        if let Some(mut second) = self.second {
            let _ = within(second.read_to_end(&mut rest)).await;
        }
        (told, at)
    }
}

/// Reads frames until the close frame or the end of the connection. Sends events meanwhile if
/// `is_chatting`.
async fn until_close(
    stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin),
    is_chatting: bool,
) -> (Told, Instant) {
    loop {
        if is_chatting {
            sleep(millis(50)).await;
            // The server may have closed the connection.
            let _ = stream.write_all(&text_frame(r#"421["echo"]"#)).await;
        }
        let told = match within(next_frame(stream)).await {
            Ok((8, payload)) if payload.len() >= 2 => {
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                Told::Frame(code, String::from_utf8_lossy(&payload[2..]).into_owned())
            }
            Ok((8, _)) => Told::Frame(0, String::new()),
            Ok(_) => continue,
            Err(_) => Told::End,
        };
        return (told, Instant::now());
    }
}

async fn next_frame(stream: &mut (impl AsyncReadExt + Unpin)) -> std::io::Result<(u8, Vec<u8>)> {
    let opcode = stream.read_u8().await? & 0x0f;
    let length = match stream.read_u8().await? {
        126 => usize::from(stream.read_u16().await?),
        127 => stream.read_u64().await? as usize,
        length => usize::from(length),
    };
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await?;
    Ok((opcode, payload))
}

/// Tells clients when the server begins to end and when it has ended.
struct Ending {
    begun: Semaphore,
    ended: Semaphore,
}

impl Ending {
    async fn begun(&self) {
        let _ = self.begun.acquire().await.expect("open");
    }

    async fn ended(&self) {
        let _ = self.ended.acquire().await.expect("open");
    }
}

/// The number of clients of each kind.
type Fleet = [(Doing, usize); 15];

/// Requests sessions while the server ends, and asserts that they are refused. Returns `false` if
/// the server does not accept connections any more.
async fn refused(addr: SocketAddr) -> bool {
    for head in [
        "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: test\r\n\r\n".to_owned(),
        upgrade_head(""),
    ] {
        let Ok(stream) = TcpStream::connect(addr).await else {
            return false;
        };
        let mut stream = BufReader::new(stream);
        let _ = stream.write_all(head.as_bytes()).await;
        let Ok(Response { head, .. }) = within(respond(&mut stream)).await else {
            return false;
        };
        assert!(head.starts_with("HTTP/1.1 503"), "{head}");
        assert!(head.contains("retry-after: 1\r\n"), "{head}");
    }
    true
}

/// Connects the clients, ends the server, and checks that nothing is left. Returns the server's
/// report.
fn end(server: Server, fleet: &Fleet) -> Option<ShutdownReport> {
    let Server {
        runtime,
        clients,
        addr,
        io,
        _app,
        records,
        end,
        served,
    } = server;
    let total: usize = fleet.iter().map(|(_, count)| count).sum();
    let of = |is_meant: fn(Doing) -> bool| -> usize {
        let meant = fleet.iter().filter(|(doing, _)| is_meant(*doing));
        meant.map(|(_, count)| count).sum()
    };
    let sessions = total - of(|doing| doing == Mute);
    let joined = of(Doing::has_joined);
    let ending = Arc::new(Ending {
        begun: Semaphore::new(0),
        ended: Semaphore::new(0),
    });

    let places = Arc::new(Semaphore::new(AT_A_TIME));
    let connect_begun = Instant::now();
    let connecting: Vec<_> = fleet
        .iter()
        .flat_map(|(doing, count)| std::iter::repeat_n(*doing, *count))
        .map(|doing| {
            let places = Arc::clone(&places);
            clients.spawn(async move {
                let _place = places.acquire().await.expect("open");
                Client::begin(addr, doing).await
            })
        })
        .collect();
    let (report, told, at) = clients.block_on(async {
        let mut running = Vec::new();
        for client in connecting {
            let client = client.await.expect("no panic");
            let doing = client.doing;
            let client = tokio::spawn(client.run(Arc::clone(&ending)));
            running.push((doing, client));
        }
        let counts = io.counts();
        assert_eq!((counts.sessions, counts.sockets), (sessions, joined));
        assert_eq!(counts.rooms, joined + 1);
        eprintln!(
            "{total} clients connected in {:.1?}",
            connect_begun.elapsed()
        );
        let connections = of_connections(fleet);
        let descriptors = descriptors(addr.port());
        assert!(
            descriptors > connections / 2 && descriptors <= connections,
            "{descriptors} of {connections}"
        );

        let at = Instant::now();
        end.send(()).expect("it is served");
        ending.begun.add_permits(Semaphore::MAX_PERMITS / 2);
        // The server begins to end a moment after the signal.
        support::until(|| io.is_closing()).await;
        let mut attempts = 0;
        while !served.is_finished() && refused(addr).await {
            attempts += 1;
            sleep(millis(200)).await;
        }
        assert!(attempts >= 5, "{attempts}");
        let report = within(served).await.expect("no panic");
        eprintln!("the HTTP server has ended after {:.1?}", at.elapsed());
        ending.ended.add_permits(Semaphore::MAX_PERMITS / 2);
        let mut told = Vec::new();
        for (doing, client) in running {
            told.push((doing, within(client).await.expect("no panic")));
        }
        (report, told, at)
    });

    check_told(&told, at);
    assert_eq!(io.counts().sessions, 0);
    assert_eq!((io.counts().sockets, io.counts().rooms), (0, 0));
    until_nothing_is_left(&runtime, addr.port());
    let left = records.left.lock().expect("no panic");
    assert_eq!(left.len(), joined);
    for reasons in left.values() {
        assert_eq!(reasons[..], [DisconnectReason::ServerShuttingDown]);
    }
    let sleeping = of(|doing| doing == Sleeping);
    assert_eq!(*records.answered.lock().expect("no panic"), sleeping);
    if let Some(report) = report {
        eprintln!("{report}");
        assert_eq!(report.closed + report.cut, sessions, "{report}");
        assert_eq!(report.ended, 0, "{report}");
    }
    report
}

/// Returns the number of connections of all clients.
fn of_connections(fleet: &Fleet) -> usize {
    let connections = |doing| match doing {
        Posting | Connected | Ponged | PongedAndSilent => 2,
        _ => 1,
    };
    let each = fleet
        .iter()
        .map(|(doing, count)| count * connections(*doing));
    each.sum()
}

/// Checks how each client was told, and prints when.
fn check_told(told: &[(Doing, (Told, Instant))], begun: Instant) {
    let mut last = BTreeMap::new();
    for (doing, (told, at)) in told {
        let last = last.entry((*doing, told.clone())).or_insert((0, *at));
        *last = (last.0 + 1, last.1.max(*at));
        let is_right = match told {
            Told::Frame(code, reason) => (*code, &**reason) == (1001, "server shutting down"),
            Told::Packet(packet) => packet == "1",
            Told::End => doing.may_be_cut(),
        };
        assert!(is_right, "{doing:?} was told {told:?}");
    }
    for ((doing, told), (count, last)) in last {
        let after = last.duration_since(begun);
        eprintln!("{count:5} {doing:?}: {told:?}, the last after {after:.1?}");
    }
}

/// Returns the clients of a test. `never` scales the number of clients whose handlers or upgrades
/// never end, for which a close would wait.
const fn fleet(scale: usize, never: usize) -> Fleet {
    [
        (Idle, 85 * scale),
        (Chatting, 4 * scale),
        (Uploading, 5 * scale / 2),
        (UploadingAndSilent, 5 * scale / 2),
        (Unjoined, scale),
        (Polling, 100 * scale),
        (UnjoinedPolling, scale),
        (Posting, 2 * scale),
        (Connected, 4 * scale),
        (Ponged, 3 * scale),
        (PongedAndSilent, 6 * never),
        (Mute, scale),
        (NotReading, scale / 2),
        (Endless, never),
        (Sleeping, 5),
    ]
}

#[test]
fn a_thousand_of_each_are_told_or_cut_at_the_deadline() {
    const SPREAD: Duration = Duration::from_millis(1_500);
    const DEADLINE: Duration = Duration::from_secs(7);
    let server = Server::start(|io| async move {
        let first = tokio::spawn(
            io.shutdown()
                .spread(SPREAD)
                .deadline(DEADLINE)
                .into_future(),
        );
        sleep(SPREAD).await;
        // A second call changes nothing, and returns the same report.
        let second = io.shutdown().await;
        assert_eq!(first.await.expect("no panic"), second);
        Some(second)
    });
    let report = end(server, &fleet(10, 5)).expect("a report");
    assert!(report.duration >= DEADLINE, "{report}");
    assert!(report.duration < DEADLINE + millis(1_900), "{report}");
    // Clients with endless handlers or incomplete upgrades are cut.
    assert!((35..=70).contains(&report.cut), "{report}");
    assert_eq!(report.handlers_cut, 5, "{report}");
}

#[test]
fn a_close_tells_all_at_once() {
    let server = Server::start(|io| async move {
        io.close().await;
        None
    });
    end(server, &fleet(2, 0));
}

#[test]
fn a_close_during_a_shutdown_hurries_it() {
    let server = Server::start(|io| async move {
        let shutdown = io.shutdown().spread(LONG / 4).deadline(LONG / 2);
        let shutdown = tokio::spawn(shutdown.into_future());
        sleep(millis(500)).await;
        io.close().await;
        Some(shutdown.await.expect("no panic"))
    });
    let report = end(server, &fleet(2, 0)).expect("a report");
    assert!(report.duration < LONG / 4, "{report}");
    assert_eq!((report.cut, report.handlers_cut), (0, 0), "{report}");
}
