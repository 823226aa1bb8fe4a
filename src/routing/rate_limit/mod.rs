//! A layer that limits how often clients may send. Needs the feature `rate-limit`.
//!
//! [`RateLimitLayer`] wraps one handler or all handlers of a namespace, as every Tower layer does:
//!
//! | one limit for | | |
//! |---|---|---|
//! | each socket | [`RateLimitLayer::per_socket`] | all events of a socket together |
//! | each event of each socket | [`RateLimitLayer::per_event`] | a limit around a namespace that counts the events apart |
//! | each key | [`RateLimitLayer::per_key`] | a user, an address, all clients together |
//! | the connects of each key | [`RateLimitLayer::connects_per_key`] | how often a client may try to connect |
//!
//! ```
//! use std::time::Duration;
//!
//! use tower_socketio::rate_limit::{RateLimit, RateLimitLayer};
//! use tower_socketio::{Data, Handler, Namespace, Socket};
//!
//! async fn say(socket: Socket, Data(text): Data<String>) {
//!     socket.broadcast().emit("said", text);
//! }
//!
//! async fn search(Data(text): Data<String>) -> Vec<String> {
//!     vec![text]
//! }
//!
//! let search_limit = RateLimitLayer::per_socket(RateLimit::per_minute(30).burst(5));
//! let limit = RateLimitLayer::per_socket(RateLimit::per_second(10).burst(20))
//!     .close_after(100, Duration::from_secs(10));
//! let namespace: Namespace = Namespace::new()
//!     .on("say", say)
//!     .on("search", search.layer(search_limit))
//!     .layer(limit);
//! ```
//!
//! # Refused events
//!
//! The handler of a refused event does not run. If the client asks for an acknowledgement, it gets an
//! error with the time to wait, [`TooManyRequests`]:
//!
//! ```js
//! const reply = await socket.emitWithAck("search", "tower");
//! // { error: "too many requests", data: { retryAfterMs: 1500 } }
//! ```
//!
//! An event without an acknowledgement is dropped. [`RateLimitLayer::refused_count`] counts both, and
//! [`RateLimitLayer::refusal_event`] informs the client of a dropped one. A client that goes on is
//! disconnected if [`RateLimitLayer::close_after`] is set. Without it a client may be refused for
//! ever, which costs little: its events are read, parsed and dropped.
//!
//! An event is counted when its handler would start, not when it arrives. So events that wait behind
//! a slow handler are counted later, and the replies of refused events are in order with the others.
//! An event that has no handler, and no [fallback](crate::Namespace::fallback), is not counted.
//! Disconnects are never refused.
//!
//! # In tests
//!
//! Time is that of tokio's clock, which `tokio::time::pause` stops.

mod keys;
mod layer;
mod limit;
mod refusal;
mod socket;

pub use self::layer::RateLimitLayer;
pub use self::limit::RateLimit;
pub use self::refusal::TooManyRequests;
