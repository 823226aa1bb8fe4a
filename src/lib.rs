//! A Socket.IO server as a Tower layer for axum.
//!
//! The official JavaScript clients, versions 3 and 4, connect to it over long-polling and WebSocket.
//! Socket.IO 2 clients connect if [`SocketIoBuilder::allow_eio3`] is set. Handlers are async functions
//! of extractors, a handler's return value is the acknowledgement of its event, and Tower layers wrap
//! handlers, as in axum.
//!
//! This page is a guide. Read it from top to bottom: each section adds one thing to an app. The
//! [manual](guide) has a page for each topic behind it.
//!
//! # Table of contents
//!
//! - [Hello](#hello)
//! - [Namespaces](#namespaces)
//! - [Events and acknowledgements](#events-and-acknowledgements)
//! - [Extractors](#extractors)
//! - [State](#state)
//! - [Errors](#errors)
//! - [Rooms and broadcasts](#rooms-and-broadcasts)
//! - [Presence](#presence)
//! - [Typed events](#typed-events)
//! - [Middleware](#middleware)
//! - [Testing](#testing)
//! - [Shutdown](#shutdown)
//! - [Where to go on](#where-to-go-on)
//! - [Features](#features)
//! - [Not supported yet](#not-supported-yet)
//!
//! # Hello
//!
//! ```sh
//! cargo add tower-socketio axum
//! cargo add tokio --features full
//! ```
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use tower_socketio::{Data, Namespace, Socket, SocketIo};
//!
//! #[tokio::main]
//! async fn main() {
//!     let (layer, _io) = SocketIo::builder()
//!         .namespace("/", Namespace::new().on("message", message))
//!         .build();
//!
//!     let app = Router::new()
//!         .route("/", get(|| async { "Hello, World!" }))
//!         .layer(layer);
//!
//!     let listener = tokio::net::TcpListener::bind("0.0.0.0:3000").await.unwrap();
//!     axum::serve(listener, app).await.unwrap();
//! }
//!
//! async fn message(socket: Socket, Data(text): Data<String>) {
//!     socket.emit("message", text);
//! }
//! ```
//!
//! A client in Node, after `npm install socket.io-client`, in a file `client.mjs`:
//!
//! ```js
//! import { io } from "socket.io-client";
//!
//! const socket = io("http://localhost:3000");
//! socket.on("message", (text) => console.log(text));
//! socket.emit("message", "hello");
//! ```
//!
//! Most snippets below have no `main`. Put their functions beside the one above. Their other statements
//! replace the first statement of that `main`.
//!
//! [`SocketIo::builder`] sets up a server: its namespaces, its limits and its HTTP options.
//! [`build`](SocketIoBuilder::build) returns two things. The [`SocketIoLayer`] serves the clients on
//! the path `/socket.io` and passes every other request on to the app. The [`SocketIo`] handle sends
//! to the clients. In a handler, [`Socket`] is a handle to one client.
//!
//! A page of another origin, such as one of a development server, needs
//! [`cors`](SocketIoBuilder::cors): see [authentication and origins](guide::authentication#origins).
//! If the app has a fallback or nested routers, see [layers and router shapes](guide::layers).
//!
//! # Namespaces
//!
//! A [`Namespace`] routes events to handlers, as an axum `Router` routes requests. Handlers are
//! registered once, before the server runs, and not for each socket.
//!
//! ```
//! use tower_socketio::{Data, DisconnectReason, Namespace, Socket, SocketIo};
//!
//! /// Runs when a client joins the namespace. The client is connected when it returns.
//! async fn connect(socket: Socket) {
//!     socket.emit("welcome", "hello");
//! }
//!
//! async fn say(socket: Socket, Data(text): Data<String>) {
//!     socket.broadcast().emit("said", text);
//! }
//!
//! /// Runs last, for each socket that was connected.
//! async fn leave(socket: Socket, reason: DisconnectReason) {
//!     socket.broadcast().emit("left", reason.as_str());
//! }
//!
//! let chat = Namespace::new()
//!     .on_connect(connect)
//!     .on("say", say)
//!     .on_disconnect(leave);
//! let (layer, io) = SocketIo::builder()
//!     .namespace("/", Namespace::new())
//!     .namespace("/chat", chat)
//!     .build();
//! ```
//!
//! A client joins it with `io("http://localhost:3000/chat")`. A namespace may have [parameters in its
//! path](SocketIoBuilder::namespace), as `/orders/{shop}`, or [a
//! predicate](SocketIoBuilder::namespace_if) for its name.
//!
//! # Events and acknowledgements
//!
//! A handler reads the arguments of its event with [`Data`], the first argument, or [`Args`], all of
//! them. Its return value is the acknowledgement: [`IntoReply`] lists the types that a handler can
//! return. In the other direction, [`Socket::emit_with_ack`] asks a client, and
//! [`Broadcast::emit_with_ack`] asks many.
//!
//! ```
//! use std::time::Duration;
//! use tower_socketio::{AckError, Args, Namespace, Socket};
//!
//! // `const sum = await socket.emitWithAck("add", 1, 2)`
//! async fn add(Args((a, b)): Args<(i32, i32)>) -> i32 {
//!     a + b
//! }
//!
//! // `socket.on("question", (text, callback) => callback(42))`
//! async fn quiz(socket: Socket) -> Result<bool, AckError> {
//!     let answer: u32 = socket
//!         .emit_with_ack("question", "6 x 7?")
//!         .timeout(Duration::from_secs(5))
//!         .await?;
//!     Ok(answer == 42)
//! }
//!
//! let namespace: Namespace = Namespace::new().on("add", add).on("quiz", quiz);
//! ```
//!
//! A value is one argument, and so is a tuple: it is an array in JavaScript. `Args((a, b))` are two
//! arguments, and `()` is none. Values of the type `bytes::Bytes` are binary in JavaScript. The events
//! of one socket run one after another, in the order in which they arrive: see [delivery and
//! order](guide::delivery).
//!
//! # Extractors
//!
//! The arguments of a handler are extractors: of the event's arguments, of the client's `auth`, of the
//! socket, and more. Any axum extractor that does not read the body works in a connect handler, on the
//! request with which the client connected. [`extract`] has a list, and shows how to write one. Values
//! that you receive implement serde's `Deserialize`, values that you send `Serialize`: `cargo add serde
//! --features derive`.
//!
//! ```
//! use axum::Extension;
//! use axum::http::HeaderMap;
//! use serde::Deserialize;
//! use tower_socketio::{Args, Auth, Namespace, Socket};
//!
//! #[derive(Clone, Deserialize)]
//! struct User {
//!     name: String,
//! }
//!
//! // `io(url, { auth: { name: "ada" } })`
//! async fn connect(socket: Socket, headers: HeaderMap, Auth(user): Auth<User>) {
//!     // From here on, each handler of this socket can extract the user.
//!     socket.insert(user);
//! }
//!
//! // `socket.emit("go", 3, 4)`
//! async fn go(Extension(user): Extension<User>, Args((x, y)): Args<(i32, i32)>) {
//!     println!("{} goes to {x}, {y}", user.name);
//! }
//!
//! let namespace: Namespace = Namespace::new().on_connect(connect).on("go", go);
//! ```
//!
//! If the compiler says that a function is not a handler, [`debug_handler!`] around its
//! definition says why.
//!
//! # State
//!
//! Handlers share state with axum's `State`, as routes do. [`SocketIoBuilder::with_state`] provides the
//! state of all namespaces, and [`Namespace::with_state`] that of one. Values that belong to one socket
//! are kept with [`Socket::insert`] and [`Socket::set_data`].
//!
//! ```
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicU32, Ordering};
//!
//! use axum::extract::State;
//! use tower_socketio::{Namespace, SocketIo};
//!
//! async fn visit(State(visits): State<Arc<AtomicU32>>) -> u32 {
//!     visits.fetch_add(1, Ordering::Relaxed) + 1
//! }
//!
//! let (layer, io) = SocketIo::builder()
//!     .namespace("/", Namespace::new().on("visit", visit))
//!     .with_state(Arc::new(AtomicU32::new(0)))
//!     .build();
//! ```
//!
//! # Errors
//!
//! If a connect handler returns an `Err`, the client is refused, and its `connect_error` listener gets
//! the error. If an event handler returns an `Err`, the client's callback gets an object with the field
//! `error`. [`ErrorReply`] is an error with a text and data. Implement [`IntoReply`] for error types of
//! your own. If an extractor rejects, the handler does not run, and the client gets the rejection in
//! the same way.
//!
//! ```
//! use serde::Deserialize;
//! use tower_socketio::{Args, Auth, ErrorReply, Namespace};
//!
//! #[derive(Deserialize)]
//! struct Login {
//!     token: String,
//! }
//!
//! async fn connect(Auth(login): Auth<Login>) -> Result<(), ErrorReply> {
//!     if login.token != "sesame" {
//!         return Err(ErrorReply::new("not authorized").with_data(401));
//!     }
//!     Ok(())
//! }
//!
//! // The client's callback gets `3`, or `{ error: "division by zero" }`.
//! async fn divide(Args((a, b)): Args<(i32, i32)>) -> Result<i32, &'static str> {
//!     a.checked_div(b).ok_or("division by zero")
//! }
//!
//! let namespace: Namespace = Namespace::new().on_connect(connect).on("divide", divide);
//! ```
//!
//! A handler that returns `Result<_, axum::BoxError>` can use `?` on any error: it is logged, and the
//! client gets "internal error". A panic ends only the handler that panics.
//!
//! # Rooms and broadcasts
//!
//! A room is a named set of sockets. Sockets join and leave rooms on the server. A [`Broadcast`] sends
//! to all sockets of a namespace, or to those in some rooms. [`SocketIo`] is an extractor in axum
//! handlers too, so routes can send to clients.
//!
//! ```
//! use axum::{Router, extract::Path, routing::post};
//! use tower_socketio::{Args, Data, Namespace, Socket, SocketIo};
//!
//! async fn join(socket: Socket, Data(room): Data<String>) {
//!     socket.join(room);
//! }
//!
//! /// Sends to the other sockets in the room.
//! async fn say(socket: Socket, Args((room, text)): Args<(String, String)>) {
//!     socket.to(room).emit("said", text);
//! }
//!
//! /// An axum handler: sends to all sockets in the room.
//! async fn publish(Path(room): Path<String>, io: SocketIo, body: String) {
//!     io.to(room).emit("said", body);
//! }
//!
//! let namespace = Namespace::new().on("join", join).on("say", say);
//! let (layer, _io) = SocketIo::builder().namespace("/", namespace).build();
//! let app: Router = Router::new()
//!     .route("/rooms/{room}", post(publish))
//!     .layer(layer);
//! ```
//!
//! | call | goes to |
//! |---|---|
//! | `socket.emit(…)` | this client |
//! | `socket.broadcast().emit(…)` | the other sockets of the namespace |
//! | `socket.to("room").emit(…)` | the other sockets in the room |
//! | `socket.everyone().to("room").emit(…)` | all sockets in the room |
//! | `io.emit(…)`, `io.of("/chat").emit(…)` | all sockets of `/`, or of another namespace |
//! | `io.to("a").to("b").except("c").emit(…)` | those in `a` or `b`, and not in `c`, each once |
//! | `io.to(id).emit(…)` | the socket with this id |
//!
//! # Presence
//!
//! [`Presence`] knows who is in a room: one entry for each user, however many tabs are open, on all
//! servers of a cluster. The clients in the room get the state when they enter, and then each
//! difference.
//!
//! ```
//! use axum::extract::State;
//! use serde::{Deserialize, Serialize};
//! use tower_socketio::{Args, Namespace, Presence, PresenceError, Socket, SocketIo};
//!
//! #[derive(Clone, Serialize, Deserialize)]
//! struct User {
//!     name: String,
//! }
//!
//! /// Joins the room too. `socket.emitWithAck("enter", "lobby", "Ada")`
//! async fn enter(
//!     socket: Socket,
//!     State(presence): State<Presence<User>>,
//!     Args((room, name)): Args<(String, String)>,
//! ) -> Result<(), PresenceError> {
//!     presence.track(&socket, &room, &name.to_lowercase(), &User { name })
//! }
//!
//! let presence = Presence::<User>::new();
//! let chat = Namespace::new().on("enter", enter).presence(&presence);
//! let (layer, io) = SocketIo::builder()
//!     .namespace("/", chat)
//!     .with_state(presence)
//!     .build();
//! ```
//!
//! ```js
//! const rooms = new Map();
//! socket.on("presence_state", ({ room, users }) => {
//!   rooms.set(room, new Map(Object.entries(users))); // "ada" → [{ name: "Ada" }]
//! });
//! socket.on("presence_diff", ({ room, joins, updates, leaves }) => {
//!   const present = rooms.get(room);
//!   if (!present) return;
//!   for (const key in leaves) present.delete(key);
//!   for (const [key, metas] of Object.entries({ ...joins, ...updates })) present.set(key, metas);
//! });
//! ```
//!
//! # Typed events
//!
//! [`TypedEvent`] says in one place what an event is: its name, the type of its argument and the type
//! of its reply. [`Namespace::on_typed`] registers a handler for it, `send` sends it, and `ask` sends it and
//! waits for the reply. A wrong name or a wrong type does not compile.
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use tower_socketio::{Namespace, Socket, TypedEvent};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Typing {
//!     room: String,
//! }
//!
//! impl TypedEvent for Typing {
//!     const NAME: &'static str = "typing";
//!     type Reply = ();
//! }
//!
//! async fn typing(event: Typing, socket: Socket) {
//!     socket.to(&event.room).send(event);
//! }
//!
//! let namespace: Namespace = Namespace::new().on_typed(typing);
//! ```
//!
//! From such types the feature `schema` writes the types of a TypeScript client: see [events for
//! TypeScript](guide::typescript).
//!
//! # Middleware
//!
//! Tower layers wrap [one handler](Handler::layer) or
//! [all handlers that a namespace has so far](Namespace::layer), and [`middleware::from_fn`] creates
//! a layer from a function. A layer sees the event before the handler, and the reply after it. Layers of axum's `Router` wrap the HTTP requests. The layers of
//! this example need `cargo add tower --features timeout`.
//!
//! ```
//! use std::time::Duration;
//!
//! use tower::timeout::TimeoutLayer;
//! use tower_socketio::middleware::{self, Next};
//! use tower_socketio::{Event, Handler, Namespace, Reply};
//!
//! async fn log(event: Event, next: Next) -> Reply {
//!     let name = event.name().to_owned();
//!     let reply = next.run(event).await;
//!     println!("{name} failed: {}", reply.is_err());
//!     reply
//! }
//!
//! async fn report() {}
//!
//! let namespace: Namespace = Namespace::new()
//!     .on("report", report.layer(TimeoutLayer::new(Duration::from_secs(60))))
//!     .layer(middleware::from_fn(log));
//! ```
//!
//! The module [`middleware`] has a snippet for each layer that apps often need: a timeout, a
//! concurrency limit, load shedding, a rate limit, sessions that expire, an audit log. [Layers and
//! router shapes](guide::layers) says which layers work where.
//!
//! # Testing
//!
//! The feature `testing` has a client that needs no network and no port, so tests are quick and can use
//! virtual time. It speaks to the app as an official client does over WebSocket. Only tests need it:
//! `cargo add --dev tower-socketio --features testing`.
//!
//! ```
//! use axum::Router;
//! # #[cfg(feature = "testing")]
//! use tower_socketio::testing::Client;
//! use tower_socketio::{Data, Namespace, SocketIo};
//!
//! fn app() -> Router {
//!     let namespace = Namespace::new().on("double", double);
//!     let (layer, _io) = SocketIo::builder().namespace("/", namespace).build();
//!     Router::new().layer(layer)
//! }
//!
//! async fn double(Data(n): Data<u32>) -> u32 {
//!     2 * n
//! }
//!
//! #[tokio::test]
//! # async fn the_attribute_is_for_this_function() {}
//! # #[cfg(feature = "testing")]
//! async fn a_number_is_doubled() {
//!     let client = Client::connect(&app(), "/").await.unwrap();
//!     let n: u32 = client.emit_with_ack("double", 21).await.unwrap();
//!     assert_eq!(n, 42);
//! }
//! # #[cfg(feature = "testing")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! #     a_number_is_doubled().await;
//! # }
//! # #[cfg(not(feature = "testing"))]
//! # fn main() {}
//! ```
//!
//! [Testing](guide::testing) has more: several clients, refusals, virtual time, official clients.
//!
//! # Shutdown
//!
//! [`SocketIo::shutdown`] refuses new clients, and closes the connections of the others one after
//! another, so that they do not all come back in the same moment. Await it in the shutdown signal of
//! the HTTP server:
//!
//! ```no_run
//! use axum::Router;
//! use tower_socketio::{Namespace, SocketIo};
//!
//! #[tokio::main]
//! async fn main() {
//!     let (layer, io) = SocketIo::builder().namespace("/", Namespace::new()).build();
//!     let app = Router::new().layer(layer);
//!
//!     let listener = tokio::net::TcpListener::bind("0.0.0.0:3000").await.unwrap();
//!     axum::serve(listener, app)
//!         .with_graceful_shutdown(async move {
//!             tokio::signal::ctrl_c().await.unwrap();
//!             println!("{}", io.shutdown().await);
//!         })
//!         .await
//!         .unwrap();
//! }
//! ```
//!
//! Without it the HTTP server waits for its connections, and those of clients do not end by themselves.
//! [Deploying](guide::deploying#shutdown) has the version for service managers, with a deadline.
//!
//! # Where to go on
//!
#![doc = include_str!("guide/contents.md")]
//!
//! The repository has runnable examples of most of this: `cargo run --example chat` starts
//! a chat at `http://localhost:3000`.
//!
#![doc = include_str!("docs/features.md")]
//!
#![doc = include_str!("docs/not_supported.md")]
// docs.rs marks the items that need a feature.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "admin-ui")]
pub mod admin;
pub mod cluster;
pub mod engine;
pub mod guide;
pub mod protocol;

#[cfg(feature = "schema")]
pub mod contract;
#[cfg(not(feature = "schema"))]
#[path = "contract/disabled.rs"]
mod contract;

mod builder;
mod calendar;
#[cfg_attr(tower_socketio_model, path = "models/clock.rs")]
mod clock;
#[cfg_attr(
    not(feature = "unstable-internals"),
    allow(
        dead_code,
        unreachable_pub,
        unused_imports,
        reason = "exported by `internals`"
    )
)]
mod engine_io;
mod engine_layer;
mod guard;
mod handles;
mod hub;
mod layer;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(tower_socketio_model)]
mod models;
mod nearest;
mod notice;
mod presence;
#[cfg_attr(tower_socketio_model, path = "models/random.rs")]
mod random;
mod routing;
mod server;
mod shrink;
#[cfg_attr(tower_socketio_model, path = "models/sync.rs")]
mod sync;
mod transport;
mod utf8;
#[cfg_attr(
    not(feature = "unstable-internals"),
    allow(
        dead_code,
        unreachable_pub,
        unused_imports,
        reason = "exported by `internals`"
    )
)]
mod websocket;

#[cfg(feature = "testing")]
pub mod testing;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(all(doctest, feature = "postgres", feature = "redis", feature = "testing"))]
#[doc = include_str!("../docs/cluster.md")]
struct ClusterPage;

/// Used by `debug_handler!`.
#[doc(hidden)]
pub mod private {
    pub use crate::routing::debug_handler::argument;
    pub use crate::routing::handler::IntoTypedReply;
}

/// The state machines, for the fuzz targets, the benchmarks and the WebSocket conformance tests of
/// this repository. This module is not part of the public interface.
#[doc(hidden)]
#[cfg(feature = "unstable-internals")]
pub mod internals {
    #[cfg(feature = "wire")]
    pub use crate::cluster::{rewrite_classic, rewrite_entry, rewrite_notification};
    pub use crate::engine_io::raw::{decode_frame, encode_payload, jsonp_script};
    pub use crate::engine_io::{EnginePacket, Packets, ParseError, Refusal, Session, SessionEvent};
    pub use crate::handles::held_bytes;
    pub use crate::transport::{PayloadForm, free_spare_buffer, read_payload};
    pub use crate::websocket::{
        FrameDecoder, Incoming, MAX_HEADER, MessagePayload, WebSocketError, accept_deflate,
        accept_key, close_frame, compressed_header, deflate, header, is_valid_key, pong_frame,
    };
}

pub use self::{
    builder::SocketIoBuilder,
    handles::{
        AckError, AckStream, Broadcast, Confirmation, Counts, EmitError, EmitWithAck, Handshake,
        Partial, RemoteSocket, Shutdown, Socket, SocketIo, Volatile,
    },
    hub::{
        ClusterError, DisconnectReason, Expiry, Recovery, RoomChange, RoomEvent, ShutdownReport,
    },
    layer::{ResponseFuture, SocketIoLayer, SocketIoService},
    presence::{Presence, PresenceDiff, PresenceError, PresenceState},
    protocol::{Args, Data, IntoArgs, RawArgs, TypedEvent, Uncompressed},
    routing::{
        AckSender, Auth, ErrorReply, Event, Handler, IntoReply, Namespace, NamespaceRequest,
        Params, Reply, Route, ServerEvent, extract, middleware,
    },
};

#[cfg(feature = "rate-limit")]
pub use self::routing::rate_limit;

pub use self::engine_io::{SocketId, Transport};
pub use self::transport::{ConnectionError, Cors, HttpOptions, Origins, SameSite, SessionCookie};
