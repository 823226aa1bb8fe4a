//! The markers that keep the two kinds of connect extractors apart.

/// The marker of [`FromConnect`](super::FromConnect) for extractors of axum, which read the request of the handshake.
#[derive(Clone, Copy, Debug)]
pub enum ViaParts {}

/// The marker of [`FromConnect`](super::FromConnect) for extractors of this crate, which read the event.
#[derive(Clone, Copy, Debug)]
pub enum ViaEvent {}
