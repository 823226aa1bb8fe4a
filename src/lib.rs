//! A Socket.IO server as a Tower layer for axum.
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
//! The official JavaScript clients, versions 3 and 4, connect to it over long-polling and
//! WebSocket. Socket.IO 2 clients connect if [`SocketIoBuilder::allow_eio3`] is set.
//!
//! # Table of contents
//!
//! - [Overview](#overview)
//!   - [Namespaces and handlers](#namespaces-and-handlers)
//!   - [Extractors](#extractors)
//!   - [Acknowledgements](#acknowledgements)
//!   - [Rooms and broadcasts](#rooms-and-broadcasts)
//!   - [State](#state)
//!   - [Middleware](#middleware)
//!   - [Errors](#errors)
//!   - [Shutdown](#shutdown)
//! - [Not supported yet](#not-supported-yet)
//! - [Coming from JavaScript](#coming-from-javascript)
//! - [Features](#features)
//! - [Delivery and order](#delivery-and-order)
//! - [Cancel safety](#cancel-safety)
//!
//! # Overview
//!
//! [`SocketIo::builder`] sets up a server: its namespaces, its limits and its HTTP options.
//! [`build`](SocketIoBuilder::build) returns the [`SocketIoLayer`], which serves the clients, and
//! the [`SocketIo`] handle, which sends to them. In a handler, [`Socket`] is a handle to one
//! client, and [`Broadcast`] selects many.
//!
//! ## Namespaces and handlers
//!
//! A [`Namespace`] routes events to handlers, as an axum `Router` routes requests. A handler is an
//! async function. Handlers are registered once, before the server runs.
//!
//! ```
//! use tower_socketio::{Data, DisconnectReason, Namespace, Socket, SocketIo};
//!
//! async fn connect(socket: Socket) {
//!     socket.emit("welcome", "hello");
//! }
//!
//! async fn say(socket: Socket, Data(text): Data<String>) {
//!     socket.broadcast().emit("said", text);
//! }
//!
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
//! A namespace may have [parameters in its path](SocketIoBuilder::namespace), or [a
//! predicate](SocketIoBuilder::namespace_if) for its name. See [`TypedEvent`] for events that are
//! Rust types.
//!
//! ## Extractors
//!
//! The arguments of a handler are extractors: of the event's arguments, of the client's `auth`, of
//! the socket, and more. Any axum extractor works in a connect handler. See [`extract`] for a list.
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
//! ## Acknowledgements
//!
//! The return value of a handler is the acknowledgement of its event. [`IntoReply`] lists the types
//! that a handler can return. In the other direction, [`Socket::emit_with_ack`] asks a client, and
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
//! ## Rooms and broadcasts
//!
//! A room is a named set of sockets. Sockets join and leave rooms on the server. A [`Broadcast`]
//! sends to all sockets of a namespace, or to those in some rooms. [`SocketIo`] is an extractor in
//! axum handlers too, so routes can send to clients.
//!
//! ```
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
//! /// An axum handler.
//! async fn publish(io: SocketIo, body: String) {
//!     io.to("news").emit("news", body);
//! }
//!
//! let namespace: Namespace = Namespace::new().on("join", join).on("say", say);
//! ```
//!
//! [`Presence`] tells the clients in a room who else is there.
//!
//! ## State
//!
//! Handlers share state with axum's `State`, as routes do. [`SocketIoBuilder::with_state`] provides
//! the state of all namespaces, and [`Namespace::with_state`] that of one. Values that belong to
//! one socket are kept with [`Socket::insert`] and [`Socket::set_data`].
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
//! ## Middleware
//!
//! Tower layers wrap [one handler](Handler::layer) or [all handlers of a
//! namespace](Namespace::layer), and [`middleware::from_fn`] creates a layer from a function.
//! Layers of axum's `Router` wrap the HTTP requests.
//!
//! ```
//! use tower_socketio::middleware::{self, Next};
//! use tower_socketio::{Event, Namespace, Reply};
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
//!     .on("report", report)
//!     .layer(middleware::from_fn(log));
//! ```
//!
//! ## Errors
//!
//! If a connect handler returns an `Err`, the client is refused, and its `connect_error` listener
//! gets the error. If an event handler returns an `Err`, the client's callback gets an object with
//! the field `error`. [`ErrorReply`] is an error with a text and data. Implement [`IntoReply`] for
//! error types of your own.
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
//! ## Shutdown
//!
//! [`SocketIo::close`] disconnects all clients and waits until their handlers have ended. Call it
//! in the shutdown signal of the HTTP server:
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
//!             io.close().await;
//!         })
//!         .await
//!         .unwrap();
//! }
//! ```
//!
//! # Not supported yet
//!
//! - Several servers over MongoDB. Redis, Redis Cluster and PostgreSQL are supported: see
//!   [`cluster`].
//!   Recovery works within one process.
//! - WebTransport.
//! - The Admin UI.
//! - Metrics and spans for Prometheus or OpenTelemetry. There are log lines and
//!   [`SocketIo::counts`].
//!
#![doc = include_str!("docs/coming_from_javascript.md")]
//!
#![doc = include_str!("docs/features.md")]
//!
//! # Delivery and order
//!
//! - The events of one socket start in the order in which they arrive. By default the handler of
//!   one completes before that of the next starts; [`Namespace::max_concurrent_events`] and
//!   [`Handler::concurrent`] change that. Acknowledgements do not wait for earlier events. Events
//!   that are emitted in a namespace, to one client or to many, are sent in the order of the calls.
//!   Both orders also hold while a client upgrades from polling to WebSocket.
//! - A handler that waits for *another event* of the same socket waits for ever, unless it is
//!   concurrent. A handler may wait for an *acknowledgement*. While it waits, the server reads up
//!   to four times as many bytes of events as [`SocketIoBuilder::max_pending`] allows. If a client
//!   sends more before it answers, and no handler completes for a while, its connection is closed.
//!   Set a [timeout](EmitWithAck::timeout) to continue without the answer.
//! - A packet is delivered, or the connection ends with a [`DisconnectReason`]. Only volatile
//!   events may be dropped. With [`Recovery`], a client that comes back in time receives the events
//!   that it missed.
//! - No event is lost while a client connects. Events that arrive while the connect handler runs
//!   wait until it completes. Events that are emitted to the socket in that time are sent
//!   afterwards.
//!
//! # Cancel safety
//!
//! A running handler is not cancelled when its client leaves. Events that arrived before are still
//! handled, in order, unless the server disconnected the client. The disconnect handler runs last.
//! A panic ends only the handler that panics. A loop that lasts as long as the connection belongs
//! in a task, started with `tokio::spawn`, and not in a connect handler.

// docs.rs marks the items that need a feature.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod cluster;
pub mod engine;
pub mod protocol;

mod builder;
mod calendar;
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
mod notice;
mod presence;
mod random;
mod routing;
mod server;
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
    #[cfg(feature = "redis")]
    pub use crate::cluster::rewrite_classic;
    pub use crate::engine_io::{EnginePacket, Packets, ParseError, Refusal, Session, SessionEvent};
    pub use crate::websocket::{
        DEFLATE_ACCEPTED, FrameDecoder, Incoming, MAX_HEADER, MessagePayload, WebSocketError,
        accept_key, accepts_deflate, close_frame, compressed_header, deflate, header, is_valid_key,
        pong_frame,
    };
}

pub use self::{
    builder::SocketIoBuilder,
    handles::{
        AckError, AckStream, Broadcast, Confirmation, Counts, EmitError, EmitWithAck, Handshake,
        Partial, RemoteSocket, Socket, SocketIo, Volatile,
    },
    hub::{ClusterError, DisconnectReason, Recovery, RoomChange, RoomEvent},
    layer::{ResponseFuture, SocketIoLayer, SocketIoService},
    presence::{Presence, PresenceDiff, PresenceError, PresenceState},
    protocol::{Args, Data, IntoArgs, RawArgs, TypedEvent, Uncompressed},
    routing::{
        AckSender, Auth, ErrorReply, Event, Handler, IntoReply, Namespace, NamespaceRequest,
        Params, Reply, Route, ServerEvent, extract, middleware,
    },
};

pub use self::engine_io::{SocketId, Transport};
pub use self::transport::{ConnectionError, Cors, HttpOptions, Origins, SameSite, SessionCookie};
