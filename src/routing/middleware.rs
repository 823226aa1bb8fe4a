//! Layers around handlers: functions as layers, and the layers of Tower.
//!
//! A middleware is an async function that takes an [`Event`](crate::Event) and a [`Next`], as in
//! axum's `middleware` module. It may inspect or change the event, answer it without calling
//! [`Next::run`], or change the reply. [`from_fn`] turns it into a Tower layer for
//! [`Namespace::layer`](crate::Namespace::layer) or [`Handler::layer`](crate::Handler::layer).
//!
//! ```
//! use tower_socketio::middleware::{self, Next};
//! use tower_socketio::{Event, Namespace, ErrorReply, Reply};
//!
//! #[derive(Clone)]
//! struct Admin;
//!
//! async fn require_admin(event: Event, next: Next) -> Result<Reply, ErrorReply> {
//!     if event.socket().extension::<Admin>().is_none() {
//!         return Err(ErrorReply::new("admins only"));
//!     }
//!     Ok(next.run(event).await)
//! }
//!
//! async fn ban() {}
//!
//! async fn connect() {}
//!
//! // The layer is around the handlers before it, and not around the connect handler after it.
//! let namespace: Namespace = Namespace::new()
//!     .on("ban", ban)
//!     .layer(middleware::from_fn(require_admin))
//!     .on_connect(connect);
//! ```
//!
//! | to | use |
//! |---|---|
//! | [end handlers that take too long](#timeout) | `tower::timeout::TimeoutLayer` |
//! | [limit how many handlers run](#concurrency-limit-and-load-shed) | `tower::limit`, `tower::load_shed` |
//! | [limit how often clients send](#rate-limit) | `rate_limit::RateLimitLayer`, with the feature `rate-limit` |
//! | [authenticate clients](#authentication) | an extractor of axum in the connect handler |
//! | [end sessions whose time is over](#sessions-that-expire) | [`Socket::set_expiry`](crate::Socket::set_expiry) |
//! | [record who did what](#audit-log) | [`from_fn`] |
//!
//! An event that has no handler passes no layer, unless the namespace has a
//! [fallback](crate::Namespace::fallback). Layers around axum's `Router` see the HTTP requests:
//! handshakes, polls and POSTs.
//!
//! # Timeout
//!
//! After the timeout the handler is dropped, and the client gets `{ error: "timed out" }`. Around a
//! connect handler it is the `connect_error`.
//!
//! ```
//! use std::time::Duration;
//!
//! use tower::timeout::TimeoutLayer;
//! use tower_socketio::{Handler, Namespace};
//!
//! async fn report() {}
//!
//! let timeout = TimeoutLayer::new(Duration::from_secs(10));
//! let namespace: Namespace = Namespace::new().on("report", report.layer(timeout));
//! ```
//!
//! # Concurrency limit and load shed
//!
//! An event over a concurrency limit waits, and so do the later events of its socket. With a load
//! shed around the limit it is refused at once, and the client gets `{ error: "overloaded" }`.
//!
//! Around a namespace, `ConcurrencyLimitLayer` is a limit for each handler, and
//! `GlobalConcurrencyLimitLayer` one for all of them. Both count all clients. To limit what one
//! client does at a time is up to
//! [`max_concurrent_events`](crate::Namespace::max_concurrent_events).
//!
//! ```
//! use std::time::Duration;
//!
//! use tower::ServiceBuilder;
//! use tower::limit::GlobalConcurrencyLimitLayer;
//! use tower::load_shed::LoadShedLayer;
//! use tower::timeout::TimeoutLayer;
//! use tower_socketio::Namespace;
//!
//! async fn report() {}
//!
//! // An event passes them from top to bottom.
//! let layers = ServiceBuilder::new()
//!     .layer(LoadShedLayer::new())
//!     .layer(GlobalConcurrencyLimitLayer::new(64))
//!     .layer(TimeoutLayer::new(Duration::from_secs(10)));
//! let namespace: Namespace = Namespace::new().on("report", report).layer(layers);
//! ```
//!
//! The errors of these layers have the texts above. A middleware around them may answer otherwise:
//!
//! ```
//! use tower_socketio::middleware::Next;
//! use tower_socketio::{ErrorReply, Event, Reply};
//!
//! async fn explain(event: Event, next: Next) -> Result<Reply, ErrorReply> {
//!     let reply = next.run(event).await;
//!     match reply.error().map(ErrorReply::message) {
//!         Some("timed out") => Err(ErrorReply::new("the report takes too long").with_data(504)),
//!         _ => Ok(reply),
//!     }
//! }
//! ```
//!
//! # Rate limit
//!
//! With the feature `rate-limit`, `rate_limit::RateLimitLayer` limits the events of each socket, of
//! each user or address, and how often clients may connect: see [rate
//! limits](crate::guide::security#rate-limits).
//!
//! # Authentication
//!
//! The connect handler takes the extractor that the routes of the app take. If it rejects, the
//! client gets `connect_error`. The handlers of events read what it has inserted.
//!
//! ```
//! use axum::Extension;
//! use axum::extract::FromRequestParts;
//! use axum::http::StatusCode;
//! use axum::http::request::Parts;
//! use tower_socketio::{Namespace, Socket};
//!
//! #[derive(Clone)]
//! struct User(String);
//!
//! impl<S: Send + Sync> FromRequestParts<S> for User {
//!     type Rejection = StatusCode;
//!
//!     async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, StatusCode> {
//!         let name = parts.headers.get("x-user").and_then(|name| name.to_str().ok());
//!         name.map(|name| Self(name.to_owned())).ok_or(StatusCode::UNAUTHORIZED)
//!     }
//! }
//!
//! async fn connect(socket: Socket, user: User) {
//!     socket.insert(user);
//! }
//!
//! async fn name(Extension(User(name)): Extension<User>) -> String {
//!     name
//! }
//!
//! let namespace: Namespace = Namespace::new().on_connect(connect).on("name", name);
//! ```
//!
//! # Sessions that expire
//!
//! A socket with an expiry is disconnected in time, unless its client signs in again by an event: see
//! [`Socket::set_expiry`](crate::Socket::set_expiry).
//!
//! # Audit log
//!
//! A middleware sees the outcome. If the handler has an [`AckSender`](crate::extract::AckSender), the
//! reply is sent later, and [`Reply::is_deferred`](crate::Reply::is_deferred) says so. After a panic,
//! or when a timeout further out ends the handler, [`Next::run`] does not return: to record that too,
//! write the line in a destructor, as the example `audit` does.
//!
//! ```
//! use std::time::Instant;
//!
//! use tower_socketio::middleware::{self, Next};
//! use tower_socketio::{ErrorReply, Event, Namespace, Reply};
//!
//! async fn audit(event: Event, next: Next) -> Reply {
//!     let (socket, name) = (event.socket().clone(), event.name().to_owned());
//!     let begun = Instant::now();
//!     let reply = next.run(event).await;
//!     let outcome = reply.error().map_or("ok", ErrorReply::message);
//!     println!("{} {name} in {:?}: {outcome}", socket.id(), begun.elapsed());
//!     reply
//! }
//!
//! async fn withdraw() {}
//!
//! let namespace: Namespace = Namespace::new()
//!     .on("withdraw", withdraw)
//!     .layer(middleware::from_fn(audit));
//! ```

pub use super::from_fn::{Next, from_fn, from_fn_with_state};
