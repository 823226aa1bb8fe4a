//! The application of the scripts.

use std::time::Duration;

use serde_json::Value;
use tower_socketio::protocol::MsgpackParser;
use tower_socketio::{
    Auth, Data, HttpOptions, Namespace, NamespaceRequest, RawArgs, Recovery, Socket, SocketIo,
    SocketIoLayer, middleware,
};

use super::record::Shared;

/// The options of a script, a letter each.
#[derive(Clone, Copy)]
pub struct Options<'a>(pub &'a [u8]);

impl Options<'_> {
    pub fn has(self, letter: u8) -> bool {
        self.0.contains(&letter)
    }

    pub const EIO3: u8 = b'e';
    pub const DEFLATE: u8 = b'd';
    pub const RECOVERY: u8 = b'r';
    pub const JSONP: u8 = b'j';
    pub const MSGPACK: u8 = b'm';
    /// Limits that a short script exceeds.
    pub const SMALL: u8 = b's';
    /// Clients answer pings.
    pub const PONGS: u8 = b'p';
    /// Polls are answered after five seconds.
    pub const SHORT_POLLS: u8 = b't';
    /// Streams buffer few bytes.
    pub const NARROW: u8 = b'n';
}

/// The packets that are kept for recovery, in bytes.
pub const MAX_RECOVERY: usize = 100_000;

/// The limits of the server.
#[derive(Clone, Copy)]
pub struct Limits {
    pub max_payload: usize,
    pub max_buffered: usize,
    pub max_pending: usize,
}

impl Limits {
    pub fn of(options: Options<'_>) -> Self {
        match options.has(Options::SMALL) {
            true => Self {
                max_payload: 500,
                max_buffered: 3000,
                max_pending: 500,
            },
            false => Self {
                max_payload: 20_000,
                max_buffered: 100_000,
                max_pending: 10_000,
            },
        }
    }
}

pub fn build(options: Options<'_>, record: &Shared) -> (SocketIoLayer, SocketIo) {
    let limits = Limits::of(options);
    let http = HttpOptions::new()
        .jsonp(options.has(Options::JSONP))
        .poll_timeout(
            options
                .has(Options::SHORT_POLLS)
                .then_some(Duration::from_secs(5)),
        );
    let mut builder = SocketIo::builder()
        .namespace("/", main(record))
        .namespace("/layered", layered(record))
        .namespace("/room/{id}", dynamic(record))
        .namespace_if(
            async |request: NamespaceRequest| {
                // The packets of a client wait meanwhile.
                tokio::time::sleep(Duration::from_millis(request.name().len() as u64)).await;
                request.name().starts_with("/if-")
            },
            dynamic(record),
        )
        .http(http)
        .allow_eio3(options.has(Options::EIO3))
        .max_payload(limits.max_payload)
        .max_buffered(limits.max_buffered)
        .max_pending(limits.max_pending)
        .deflate_threshold(options.has(Options::DEFLATE).then_some(10));
    if options.has(Options::SMALL) {
        builder = builder
            .max_namespaces(3)
            .max_rooms(3)
            .max_auth(100)
            .max_kept(3000)
            .max_dynamic_namespaces(2)
            .max_connections(3);
    }
    if options.has(Options::RECOVERY) {
        builder = builder
            .recovery(Recovery::within(Duration::from_secs(120)).max_packet_bytes(MAX_RECOVERY));
    }
    if options.has(Options::MSGPACK) {
        builder = builder.parser(MsgpackParser::default());
    }
    builder.build()
}

/// Waits as long as a client asks for, but for a minute at most.
async fn wait(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis.min(60_000))).await;
}

/// Accepts or refuses a client, as its `auth` says.
async fn accept(record: Shared, socket: Socket, auth: Value) -> Result<(), &'static str> {
    record.connecting(&socket);
    wait(auth["wait"].as_u64().unwrap_or_default()).await;
    if auth["join"].is_string() {
        socket.join(auth["join"].as_str().unwrap_or_default());
    }
    let is_accepted = auth["refuse"].is_null();
    record.connected(&socket, is_accepted);
    match is_accepted {
        true => Ok(()),
        false => Err("refused"),
    }
}

/// Creates a namespace whose sockets are recorded.
fn recorded(record: &Shared) -> Namespace {
    let (connect, disconnect, other) = (record.clone(), record.clone(), record.clone());
    Namespace::new()
        .on_connect(move |socket: Socket, auth: Auth<Value>| {
            accept(connect.clone(), socket, auth.0)
        })
        .on_disconnect(move |socket: Socket| {
            let record = disconnect.clone();
            async move {
                record.disconnected(&socket);
                let _ = socket.rooms();
                // What is sent now goes nowhere.
                socket.emit("late", 1);
                socket.join("late");
            }
        })
        .fallback(move |socket: Socket, args: RawArgs| {
            let _running = other.event(&socket);
            async move { args }
        })
}

fn main(record: &Shared) -> Namespace {
    let namespace = recorded(record);
    let of = || record.clone();
    let (count, echo, say, join, leave) = (of(), of(), of(), of(), of());
    let (pause, ask, bye, close, fail) = (of(), of(), of(), of(), of());
    namespace
        .on("n", move |socket: Socket, Data(token): Data<String>| {
            let running = count.event(&socket);
            count.lock().receive(&socket, &token);
            async move { drop(running) }
        })
        .on("echo", move |socket: Socket, args: RawArgs| {
            let running = echo.event(&socket);
            async move {
                socket.emit("echo", args.clone());
                drop(running);
                args
            }
        })
        .on(
            "say",
            move |socket: Socket, Data((room, text)): Data<(String, Value)>| {
                let running = say.event(&socket);
                async move {
                    socket.to(room).emit("said", text);
                    drop(running);
                }
            },
        )
        .on("join", move |socket: Socket, Data(room): Data<String>| {
            let running = join.event(&socket);
            async move {
                socket.join(room);
                let _ = socket.set_data(socket.rooms());
                drop(running);
            }
        })
        .on("leave", move |socket: Socket, Data(room): Data<String>| {
            let running = leave.event(&socket);
            async move {
                socket.leave(room);
                drop(running);
            }
        })
        .on("wait", move |socket: Socket, Data(millis): Data<u64>| {
            let running = pause.event(&socket);
            async move {
                wait(millis).await;
                drop(running);
            }
        })
        .on("ask", move |socket: Socket, args: RawArgs| {
            let running = ask.event(&socket);
            async move {
                let answer = socket.emit_with_ack::<Value>("question", args);
                let answer = answer.timeout(Duration::from_secs(30)).await;
                drop(running);
                answer.map_err(|_| "no answer")
            }
        })
        .on("bye", move |socket: Socket| {
            let running = bye.event(&socket);
            async move {
                socket.emit("bye", 1);
                socket.disconnect();
                drop(running);
            }
        })
        .on("close", move |socket: Socket| {
            let running = close.event(&socket);
            async move {
                socket.close();
                drop(running);
            }
        })
        .on("fail", move |socket: Socket| {
            let running = fail.event(&socket);
            async move {
                tokio::task::yield_now().await;
                drop(running);
                panic_quietly();
            }
        })
}

/// Panics without a call of the panic hook, which libFuzzer ends at.
fn panic_quietly() {
    std::panic::resume_unwind(Box::new("a panic of a handler"));
}

/// A namespace that handles several events at a time, behind a layer.
fn layered(record: &Shared) -> Namespace {
    let namespace = recorded(record).max_concurrent_events(3);
    let (pause, echo) = (record.clone(), record.clone());
    namespace
        .on("wait", move |socket: Socket, Data(millis): Data<u64>| {
            let running = pause.event(&socket);
            async move {
                wait(millis).await;
                drop(running);
            }
        })
        .on("echo", move |socket: Socket, args: RawArgs| {
            let running = echo.event(&socket);
            async move {
                socket.emit("echo", args);
                drop(running);
            }
        })
        .layer(middleware::from_fn(
            |event: tower_socketio::Event, next: middleware::Next| async move {
                tokio::task::yield_now().await;
                next.run(event).await
            },
        ))
}

fn dynamic(record: &Shared) -> Namespace {
    let echo = record.clone();
    recorded(record).on("echo", move |socket: Socket, args: RawArgs| {
        let running = echo.event(&socket);
        async move {
            socket.broadcast().emit("echo", args);
            drop(running);
        }
    })
}
