//! Tests of the whole server over in-memory streams and real sockets, with small test clients.

#[path = "../support/objects.rs"]
mod objects;
#[path = "../support/mod.rs"]
mod support;

mod broadcast;
mod closing;
#[cfg(feature = "testing")]
mod cluster;
mod connection;
mod eio3;
mod engine;
#[cfg(feature = "testing")]
mod fanout;
mod front;
mod handlers;
mod handshake;
mod layers;
mod limits;
mod namespaces;
mod over_log;
mod parsers;
mod polling;
#[cfg(feature = "testing")]
mod presence;
mod promises;
mod recovery;
mod routers;
mod streams;
#[cfg(feature = "testing")]
mod testing;
mod upgrade;
mod websocket;
