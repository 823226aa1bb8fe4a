//! Tests of the whole server over in-memory streams and real sockets, with small test clients.

#[path = "../support/objects.rs"]
mod objects;
#[path = "../support/mod.rs"]
mod support;

#[cfg(all(feature = "admin-ui", feature = "testing"))]
mod admin;
mod advisories;
mod broadcast;
mod closing;
#[cfg(feature = "testing")]
mod cluster;
mod connection;
mod eio3;
mod engine;
#[cfg(feature = "testing")]
mod expiry;
#[cfg(feature = "testing")]
mod fanout;
mod front;
mod handlers;
mod handshake;
mod help;
mod layers;
mod limits;
#[cfg(all(feature = "metrics", feature = "testing"))]
mod metrics;
#[cfg(feature = "testing")]
mod middleware;
mod namespaces;
mod over_log;
mod parsers;
mod polling;
#[cfg(feature = "testing")]
mod presence;
mod promises;
#[cfg(all(feature = "rate-limit", feature = "testing"))]
mod rate_limit;
mod recovery;
mod routers;
mod shutdown;
mod spans;
mod streams;
#[cfg(feature = "testing")]
mod testing;
mod turns;
mod upgrade;
mod websocket;
