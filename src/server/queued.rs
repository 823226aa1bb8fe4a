//! An event that waits for its handler.

use super::credit::Credit;
use crate::protocol::Payload;

/// An event that waits for its handler.
pub(super) struct Queued {
    pub(super) ack: Option<u64>,
    pub(super) payload: Payload,
    pub(super) credit: Credit,
}
