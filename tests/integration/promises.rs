//! The promises of the documentation under load: order, no lost packets, no leaks.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tower_socketio::{
    AckError, Auth, Data, DisconnectReason, ErrorReply, Handler, Namespace, Socket,
};

use crate::support;
use crate::support::{
    Client, Got, Polling, app, builder, frame, main_app, read_frame, send_head, serve, text_frame,
    until, upgrade_head, within,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_thousand_events_are_acked_in_order_across_an_upgrade() {
    const EVENTS: usize = 20_000;
    const BATCH: usize = 100;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let number = {
        let seen = Arc::clone(&seen);
        move |Data(n): Data<usize>| {
            let seen = Arc::clone(&seen);
            async move {
                if n % 7 == 0 {
                    tokio::task::yield_now().await;
                }
                seen.lock().expect("no panic").push(n);
                n
            }
        }
    };
    let (app, _io) = main_app(Namespace::new().on("n", number));
    let addr = serve(app.clone()).await;
    let mut polling = Polling::connect(&app).await;
    let event = |n: usize| format!(r#"42{n}["n",{n}]"#);

    let mut acks = Vec::new();
    for start in (0..EVENTS / 2).step_by(BATCH) {
        let batch: Vec<_> = (start..start + BATCH).map(event).collect();
        polling.send(&batch.join("\x1e")).await;
        // The client does not poll for the last acks. They arrive over the WebSocket.
        while start < EVENTS / 2 - 10 * BATCH && acks.len() < start {
            acks.push(polling.next().await);
        }
    }
    acks.extend(polling.buffered());
    let mut client = Client::raw(addr, &format!("&sid={}", polling.sid)).await;
    assert_eq!(client.ask("2probe").await, "3probe");
    client.send("5").await;
    let mut sent = EVENTS / 2;
    while acks.len() < EVENTS {
        if sent < EVENTS {
            for n in sent..sent + BATCH {
                client.send(&event(n)).await;
            }
            sent += BATCH;
        }
        while acks.len() < sent {
            acks.push(client.text().await);
        }
    }
    let expected: Vec<_> = (0..EVENTS).collect();
    assert_eq!(*seen.lock().expect("no panic"), expected);
    let expected: Vec<_> = expected.iter().map(|n| format!("43{n}[{n}]")).collect();
    assert_eq!(acks, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_event_of_ten_thousand_clients_is_handled() {
    const CLIENTS: usize = 10_000;
    const AT_ONCE: usize = 100;
    let handled = Arc::new(AtomicUsize::new(0));
    let first = {
        let handled = Arc::clone(&handled);
        async move |Data(n): Data<usize>| {
            handled.fetch_add(1, Ordering::Relaxed);
            n
        }
    };
    let connect = async |socket: Socket, Auth(auth): Auth<serde_json::Value>| {
        if auth["slow"] == 1 {
            tokio::task::yield_now().await;
        }
        socket.join("all");
    };
    let (app, io) = main_app(Namespace::new().on_connect(connect).on("first", first));
    let addr = serve(app).await;
    let mut clients = JoinSet::new();
    for worker in 0..AT_ONCE {
        clients.spawn(async move {
            for n in (worker..CLIENTS).step_by(AT_ONCE) {
                let mut stream = support::raw_session(addr).await;
                let auth = if n % 2 == 0 { "40" } else { r#"40{"slow":1}"# };
                let event = text_frame(&format!(r#"42{n}["first",{n}]"#));
                let segment = [text_frame(auth), event].concat();
                within(stream.write_all(&segment))
                    .await
                    .expect("it is taken");
                assert!(read_frame(&mut stream).await.starts_with("40"));
                assert_eq!(read_frame(&mut stream).await, format!("43{n}[{n}]"));
            }
        });
    }
    while let Some(client) = within(clients.join_next()).await {
        client.expect("no panic");
    }
    assert_eq!(handled.load(Ordering::Relaxed), CLIENTS);
    until(|| io.counts().sessions == 0).await;
    assert_eq!(io.counts().rooms, 0);
}

/// Connects and disconnects a client, in one of twelve ways.
async fn come_and_go(way: usize, addr: std::net::SocketAddr, app: &axum::Router) {
    if way == 8 {
        // The client abandons a polling session.
        let _ = Polling::connect(app).await;
        return;
    }
    if way == 9 {
        // The client abandons an upgrade, and then the session.
        let polling = Polling::connect(app).await;
        let mut stream = TcpStream::connect(addr).await.expect("a connection");
        let head = upgrade_head(&format!("&sid={}", polling.sid));
        assert!(send_head(&mut stream, &head).await.contains(" 101 "));
        within(stream.write_all(&text_frame("2probe")))
            .await
            .expect("it is taken");
        assert_eq!(read_frame(&mut stream).await, "3probe");
        return;
    }
    let mut stream = support::raw_session(addr).await;
    let connect = if way == 0 { r#"40{"refuse":1}"# } else { "40" };
    within(stream.write_all(&text_frame(connect)))
        .await
        .expect("it is taken");
    let answer = read_frame(&mut stream).await;
    assert_eq!(answer.starts_with("44"), way == 0, "{answer}");
    let packet = match way {
        1 => frame(8, b""),
        2 => text_frame("41"),
        3 => text_frame(r#"42["panic"]"#),
        4 => text_frame(r#"42["leave"]"#),
        5 => text_frame(r#"42["close"]"#),
        6 | 7 => text_frame(r#"42["work"]"#),
        10 => text_frame("nonsense"),
        _ => Vec::new(),
    };
    within(stream.write_all(&packet))
        .await
        .expect("it is taken");
    if matches!(way, 1 | 2 | 4 | 5 | 10) {
        let mut bytes = [0; 64];
        // The client reads an answer or the end of the stream.
        if way != 2 {
            let _ = within(stream.read(&mut bytes)).await;
        }
    }
    if way == 7 || way == 11 {
        // The connection ends with a reset.
        stream.set_zero_linger().expect("an option");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_sessions_leave_nothing_behind() {
    const WAYS: usize = 12;
    let connect = async |socket: Socket, Auth(auth): Auth<serde_json::Value>| {
        socket.join("all");
        socket.join(format!("room of {}", socket.id()));
        if auth["refuse"].is_null() {
            Ok(())
        } else {
            Err(ErrorReply::new("no"))
        }
    };
    let namespace = Namespace::new()
        .on_connect(connect)
        .on("panic", || -> std::future::Ready<()> { panic!("meant") })
        .on("leave", async |socket: Socket| socket.disconnect())
        .on("close", async |socket: Socket| socket.close())
        .on("work", async |socket: Socket| {
            let asked = socket.emit_with_ack::<u8>("never answered", 1);
            let _: Result<u8, AckError> = asked.timeout(Duration::from_secs(2)).await;
            socket.join("late");
        })
        .on_disconnect(async |socket: Socket| socket.join("too late"));
    let (layer, io) = builder(namespace)
        .ping_interval(Duration::from_secs(3))
        .ping_timeout(Duration::from_secs(3))
        .upgrade_timeout(Duration::from_secs(3))
        .build();
    let app = app(layer);
    let addr = serve(app.clone()).await;
    let metrics = tokio::runtime::Handle::current().metrics();
    // The baseline includes the task that listens.
    let baseline = metrics.num_alive_tasks();

    std::panic::set_hook(Box::new(quiet(std::panic::take_hook())));
    let mut workers = JoinSet::new();
    for worker in 0..50 {
        let app = app.clone();
        workers.spawn(async move {
            for n in (worker..2_040).step_by(50) {
                come_and_go(n % WAYS, addr, &app).await;
            }
        });
    }
    while let Some(worker) = within(workers.join_next()).await {
        worker.expect("no panic");
    }
    let is_clean = || {
        let counts = io.counts();
        (counts.sessions, counts.sockets, counts.rooms) == (0, 0, 0)
    };
    until(is_clean).await;
    until(|| metrics.num_alive_tasks() <= baseline).await;
    // The server still works.
    let _client = Client::connect(addr, "/").await;
    until(|| (io.counts().sessions, io.counts().rooms) == (1, 2)).await;
}

/// Returns a panic hook that does not print deliberate panics.
fn quiet(
    before: Box<dyn Fn(&std::panic::PanicHookInfo<'_>) + Send + Sync>,
) -> impl Fn(&std::panic::PanicHookInfo<'_>) + Send + Sync {
    move |info| {
        if info.payload().downcast_ref::<&str>() != Some(&"meant") {
            before(info);
        }
    }
}

/// Controls the handlers of `work`: it sees each start, and lets one handler at a time end.
struct Gate {
    started: mpsc::UnboundedReceiver<usize>,
    permits: Arc<Semaphore>,
}

/// Returns a handler and its gate. All clones of the handler share the gate.
fn gate() -> (impl AsyncWork, Gate) {
    let (sender, started) = mpsc::unbounded_channel();
    let permits = Arc::new(Semaphore::new(0));
    let gate = Gate {
        started,
        permits: Arc::clone(&permits),
    };
    let work = move |Data(n): Data<usize>| {
        sender.send(n).expect("the test goes on");
        let permits = Arc::clone(&permits);
        let work: std::pin::Pin<Box<dyn Future<Output = usize> + Send>> = Box::pin(async move {
            permits.acquire().await.expect("open").forget();
            n
        });
        work
    };
    (work, gate)
}

trait AsyncWork:
    Fn(Data<usize>) -> std::pin::Pin<Box<dyn Future<Output = usize> + Send>>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<F> AsyncWork for F where
    F: Fn(Data<usize>) -> std::pin::Pin<Box<dyn Future<Output = usize> + Send>>
        + Clone
        + Send
        + Sync
        + 'static
{
}

impl Gate {
    async fn started(&mut self) -> usize {
        within(self.started.recv()).await.expect("it starts")
    }

    /// Asserts that no handler starts, even after every task could run.
    async fn assert_idle(&mut self) {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        assert!(self.started.try_recv().is_err(), "another one has started");
    }
}

async fn send_three(client: &mut Polling) {
    client
        .send("421[\"work\",1]\x1e422[\"work\",2]\x1e423[\"work\",3]")
        .await;
}

#[tokio::test]
async fn events_of_a_socket_run_one_at_a_time() {
    let (work, mut gate) = gate();
    let mut client = Polling::connect(&main_app(Namespace::new().on("work", work)).0).await;
    send_three(&mut client).await;
    for n in 1..=3 {
        assert_eq!(gate.started().await, n);
        gate.assert_idle().await;
        gate.permits.add_permits(1);
        assert_eq!(client.next().await, format!("43{n}[{n}]"));
    }
}

#[tokio::test]
async fn the_concurrent_events_of_a_socket_are_limited() {
    let (work, mut gate) = gate();
    let namespace = Namespace::new().on("work", work).max_concurrent_events(2);
    let mut client = Polling::connect(&main_app(namespace).0).await;
    send_three(&mut client).await;
    assert_eq!((gate.started().await, gate.started().await), (1, 2));
    gate.assert_idle().await;
    gate.permits.add_permits(1);
    assert_eq!(gate.started().await, 3);
}

#[tokio::test]
async fn a_concurrent_handler_delays_no_other_event() {
    let (work, mut gate) = gate();
    let namespace = Namespace::new()
        .on("work", work.concurrent())
        .on("fine", async || "fine");
    let mut client = Polling::connect(&main_app(namespace).0).await;
    send_three(&mut client).await;
    for n in 1..=3 {
        assert_eq!(gate.started().await, n);
    }
    assert_eq!(client.ask(r#"424["fine"]"#).await, r#"434["fine"]"#);
}

#[tokio::test]
async fn a_concurrent_handler_waits_for_no_other_event() {
    let (work, mut gate) = gate();
    let namespace = Namespace::new()
        .on("work", work)
        .on("fine", (async || "fine").concurrent());
    let mut client = Polling::connect(&main_app(namespace).0).await;
    client
        .send("421[\"work\",1]\x1e422[\"fine\"]\x1e423[\"work\",3]")
        .await;
    assert_eq!(gate.started().await, 1);
    assert_eq!(client.next().await, r#"432["fine"]"#);
    gate.assert_idle().await;
    gate.permits.add_permits(1);
    assert_eq!(gate.started().await, 3);
}

#[tokio::test]
async fn other_sockets_do_not_wait_for_a_handler() {
    let (work, mut gate) = gate();
    let (app, _io) = main_app(Namespace::new().on("work", work));
    let mut first = Polling::connect(&app).await;
    let mut second = Polling::connect(&app).await;
    first.send(r#"421["work",1]"#).await;
    assert_eq!(gate.started().await, 1);
    second.send(r#"421["work",2]"#).await;
    assert_eq!(gate.started().await, 2);
}

#[tokio::test]
async fn acknowledgements_do_not_wait_for_events() {
    async fn ask(socket: Socket) -> Result<u32, &'static str> {
        let answer: Result<u32, AckError> = socket.emit_with_ack("question", 1).await;
        answer.map_err(|_| "no answer")
    }
    let namespace = Namespace::new().on("ask", ask).on("next", async || "next");
    let mut client = Polling::connect(&main_app(namespace).0).await;
    client.send("421[\"ask\"]\x1e422[\"next\"]").await;
    let question = client.next().await;
    let id = &question[2..question.find('[').expect("arguments")];
    client.send(&format!("43{id}[42]")).await;
    assert_eq!(client.next().await, "431[42]");
    assert_eq!(client.next().await, r#"432["next"]"#);
}

/// Returns a namespace whose handler of `ask` waits for an answer, with an optional timeout. The
/// receiver gets the disconnect reason of each socket.
fn asking(timeout: Option<Duration>) -> (Namespace, mpsc::UnboundedReceiver<DisconnectReason>) {
    let ask = move |socket: Socket| async move {
        let question = socket.emit_with_ack::<u32>("question", 1);
        let answer = match timeout {
            Some(timeout) => question.timeout(timeout).await,
            None => question.await,
        };
        answer.unwrap_or_default()
    };
    let (sender, left) = mpsc::unbounded_channel();
    let leave = move |reason: DisconnectReason| {
        let sender = sender.clone();
        async move { sender.send(reason).expect("the test goes on") }
    };
    let namespace = Namespace::new()
        .on("ask", ask)
        .on("work", async |_: Data<String>| "done")
        .on_disconnect(leave);
    (namespace, left)
}

/// Returns the acknowledgement id in a packet with the event `question`.
fn question_id(packet: &str) -> &str {
    assert!(packet.ends_with(r#"["question",1]"#), "{packet}");
    &packet[2..packet.find('[').expect("arguments")]
}

/// Returns an event that counts as about 1 KiB.
fn work() -> String {
    format!(r#"42["work","{}"]"#, "x".repeat(960))
}

#[tokio::test]
async fn an_acknowledgement_is_read_while_too_many_events_are_pending() {
    let (namespace, _left) = asking(None);
    let (layer, _io) = builder(namespace).max_pending(10 * 1024).build();
    let app = app(layer);
    let addr = serve(app.clone()).await;

    let mut client = Client::connect(addr, "/").await;
    let question = client.ask(r#"421["ask"]"#).await;
    for _ in 0..30 {
        client.send(&work()).await;
    }
    let answer = format!("43{}[42]", question_id(&question));
    assert_eq!(client.ask(&answer).await, "431[42]");

    let mut client = Polling::connect(&app).await;
    let question = client.ask(r#"421["ask"]"#).await;
    client.send(&[&*work(); 30].join("\x1e")).await;
    let answer = format!("43{}[42]", question_id(&question));
    assert_eq!(client.ask(&answer).await, "431[42]");
}

#[tokio::test]
async fn an_acknowledgement_is_read_past_events_that_were_pending_before() {
    let (namespace, _left) = asking(None);
    let (work_first, mut gate) = gate();
    let (layer, _io) = builder(namespace.on("gate", work_first))
        .max_pending(10 * 1024)
        .build();
    let mut client = Client::connect(serve(app(layer)).await, "/").await;
    client.send(r#"42["gate",1]"#).await;
    client.send(r#"421["ask"]"#).await;
    assert_eq!(gate.started().await, 1);
    // The session no longer reads the last ones.
    for _ in 0..30 {
        client.send(&work()).await;
    }
    gate.assert_idle().await;
    gate.permits.add_permits(1);
    let question = client.text().await;
    let answer = format!("43{}[42]", question_id(&question));
    assert_eq!(client.ask(&answer).await, "431[42]");
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_acknowledgement_can_never_be_read_is_closed() {
    let (namespace, mut left) = asking(None);
    let (layer, io) = builder(namespace).max_pending(10 * 1024).build();
    let mut client = Polling::connect(&app(layer)).await;
    let question = client.ask(r#"421["ask"]"#).await;
    let flood = [&*work(); 50].join("\x1e");
    let answer = format!("{flood}\x1e43{}[42]", question_id(&question));
    let polls = async { while client.get().await.body() == "2" {} };
    tokio::join!(client.post(answer), polls);
    let reason = within(left.recv()).await;
    assert_eq!(reason, Some(DisconnectReason::EventBacklog));
    until(|| io.counts().sessions == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_stops_waiting_for_its_ack_lets_later_events_run() {
    let (namespace, mut left) = asking(Some(Duration::from_secs(5)));
    let (layer, _io) = builder(namespace).max_pending(10 * 1024).build();
    let mut client = Polling::connect(&app(layer)).await;
    let question = client.ask(r#"421["ask"]"#).await;
    let flood = [&*work(); 50].join("\x1e");
    let answer = format!("{flood}\x1e43{}[42]", question_id(&question));
    client.send(&answer).await;
    assert_eq!(client.next().await, "431[0]");
    assert_eq!(client.ask(r#"422["work","x"]"#).await, r#"432["done"]"#);
    assert!(left.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attachments_follow_their_packet_while_other_tasks_emit() {
    const PACKETS: usize = 500;
    let (app, io) = main_app(Namespace::new());
    let addr = serve(app).await;
    let mut client = Client::connect(addr, "/").await;
    // The client learns that it has joined a moment before the server lists its socket.
    until(|| io.sockets().len() == 1).await;
    let socket = io.sockets().remove(0);
    for task in 0..4_u8 {
        let (socket, io) = (socket.clone(), io.clone());
        tokio::spawn(async move {
            for n in 0..PACKETS {
                let bytes = |part| Bytes::from(format!("{task} {n} {part}"));
                let args = tower_socketio::Args((task, n, bytes("a"), bytes("b")));
                if task % 2 == 0 {
                    socket.emit("bytes", args);
                } else {
                    io.emit("bytes", args);
                }
            }
        });
    }
    let mut next = [0; 4];
    for _ in 0..4 * PACKETS {
        let header = client.text().await;
        let json = header
            .strip_prefix("452-")
            .expect("a packet with two attachments");
        let json: serde_json::Value = serde_json::from_str(json).expect("JSON");
        let task = json[1].as_u64().expect("a number") as usize;
        assert_eq!(json[2], next[task]);
        for part in ["a", "b"] {
            let expected = format!("{task} {} {part}", next[task]);
            assert_eq!(client.next().await, Got::Binary(expected.into()));
        }
        next[task] += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_server_can_replace_a_closed_one() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let (first, io) = main_app(Namespace::new());
    let stop = Arc::new(tokio::sync::Notify::new());
    let stopped = Arc::clone(&stop);
    let serving = tokio::spawn(async move {
        let serve = axum::serve(listener, first);
        serve
            .with_graceful_shutdown(async move { stopped.notified().await })
            .await
    });
    let mut client = Client::connect(addr, "/").await;
    within(io.close()).await;
    assert!(matches!(client.closed().await, Got::Close(_)));
    drop(client);
    stop.notify_one();
    let served = within(serving).await.expect("no panic");
    served.expect("an end");

    let (second, io) = main_app(Namespace::new().on("hi", async || "hi"));
    let listener = tokio::net::TcpListener::bind(addr).await.expect("the port");
    tokio::spawn(async move { axum::serve(listener, second).await });
    let mut client = Client::connect(addr, "/").await;
    assert_eq!(client.ask(r#"421["hi"]"#).await, r#"431["hi"]"#);
    assert_eq!(io.counts().sockets, 1);
}
