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
//! The official JavaScript clients, version 3 and 4, connect to it over long-polling and
//! WebSocket; those of version 2 if [`SocketIoBuilder::allow_eio3`] says so.
//!
//! # The walk
//!
//! - A [`Namespace`] has handlers, as an axum `Router` has routes. They are registered once, before
//!   the server runs.
//! - A handler is an async function of [extractors](extract). In a connect handler any axum
//!   extractor works; when it rejects, the client's `connect_error` says so.
//! - What a handler returns is the acknowledgement: see [`IntoReply`].
//! - Tower layers wrap [one event](Handler::layer) or [those of a namespace](Namespace::layer);
//!   [`middleware::from_fn`] makes one of a function.
//! - [`Socket`] is one client, [`Broadcast`] are many, [`SocketIo`] is the server.
//!
#![doc = include_str!("docs/coming_from_javascript.md")]
//!
//! # Features
//!
//! | feature   | default | what it brings                                            |
//! |-----------|---------|-----------------------------------------------------------|
//! | `msgpack` |         | `protocol::MsgpackParser`, for clients that use it too    |
//! | `testing` |         | `testing::Client`, a client for tests, without a network  |
//! | `zlib-rs` |         | compression by `zlib-rs`, which is faster, in place of `miniz_oxide` |
//!
//! # Delivery and order
//!
//! - The events of one socket start in the order in which they came, and by default one ends
//!   before the next starts: [`Namespace::max_concurrent_events`], [`Handler::concurrent`].
//!   Acknowledgements do not wait in that line. What is emitted in a namespace, to one or to many,
//!   leaves in the order of the calls. Both hold while a client changes from polling to WebSocket.
//! - A handler that waits for *another event* of the same socket waits for ever, unless it is
//!   concurrent. Waiting for an *acknowledgement* is fine. It is read while up to four times as many
//!   events wait as [`SocketIoBuilder::max_pending`] allows; a client that sends more than that
//!   before it answers is closed when nothing has moved for a while. Give it a timeout to go on
//!   without the answer.
//! - A packet is delivered, or the connection ends with a [`DisconnectReason`]. Only volatile ones
//!   may be dropped. With [`Recovery`] a client that is back in time is sent what it missed.
//! - Nothing is lost between the client's connect and the first handler: events that come while the
//!   connect handler runs wait for its end, and what is emitted to the socket follows it.
//!
//! # Cancel safety
//!
//! A handler that has begun is not cancelled when its client leaves. Events that had come before
//! still run, in order, unless the server made the client leave; the disconnect handler is last. A
//! panic ends the handler alone. A loop that lasts as long as the connection belongs into a
//! `tokio::spawn`, not into a connect handler.

pub mod engine;
pub mod protocol;

mod builder;
mod clock;
#[cfg_attr(
    not(feature = "unstable-internals"),
    allow(dead_code, unreachable_pub, reason = "exported by `internals`")
)]
mod engine_io;
mod engine_layer;
mod guard;
mod handles;
mod hub;
mod layer;
mod notice;
mod random;
mod routing;
mod server;
mod sync;
mod transport;
#[cfg_attr(
    not(feature = "unstable-internals"),
    allow(dead_code, unreachable_pub, reason = "exported by `internals`")
)]
mod websocket;

#[cfg(feature = "testing")]
pub mod testing;

/// The state machines, for fuzz targets, benchmarks and the WebSocket conformance tests of this
/// repository. Nothing here is part of the public interface.
#[doc(hidden)]
#[cfg(feature = "unstable-internals")]
pub mod internals {
    pub use crate::engine_io::{EnginePacket, Packets, ParseError, Session, SessionEvent};
    pub use crate::websocket::{
        DEFLATE_ACCEPTED, FrameDecoder, Incoming, MAX_HEADER, MessagePayload, Opcode,
        WebSocketError, accept_key, accepts_deflate, close_frame, compressed_header, deflate,
        header, is_valid_key, pong_frame,
    };
}

pub use self::{
    builder::SocketIoBuilder,
    handles::{
        AckError, AckStream, Broadcast, ClusterError, Counts, EmitError, EmitWithAck, Handshake,
        RemoteSocket, Socket, SocketIo, Volatile,
    },
    hub::{DisconnectReason, Recovery, RoomChange, RoomEvent},
    layer::{ResponseFuture, SocketIoLayer, SocketIoService},
    protocol::{Args, Data, IntoArgs, RawArgs, TypedEvent, Uncompressed},
    routing::{
        AckSender, Auth, ErrorReply, Event, Handler, IntoReply, Namespace, NamespaceRequest,
        Params, Reply, Route, extract, handler, middleware,
    },
};

pub use self::engine_io::{SocketId, Transport};
pub use self::transport::{ConnectionError, Cors, HttpOptions, Origins, SameSite, SessionCookie};
