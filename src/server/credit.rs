//! The credit of flow control.

use crate::engine_io::{Message, Session};

/// Bytes of [`max_pending`](crate::SocketIoBuilder::max_pending) that a message holds.
///
/// A message takes them when it arrives. They return to the session when its event begins, or is
/// dropped. A credit cannot be copied, so no bytes return twice.
#[derive(Debug, Default)]
#[must_use = "the session reads no more input until its credit returns"]
pub(super) struct Credit(usize);

impl Credit {
    /// The credit of a message that has arrived.
    #[inline]
    pub(super) fn of(message: &Message) -> Self {
        Self(Session::cost(message))
    }

    /// The credit of bytes that had returned to the session, and count as pending again.
    #[inline]
    pub(super) fn reclaimed(bytes: usize) -> Self {
        Self(bytes)
    }

    #[inline]
    pub(super) fn bytes(&self) -> usize {
        self.0
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.0 == 0
    }

    #[inline]
    pub(super) fn add(&mut self, other: Self) {
        self.0 += other.into_bytes();
    }

    #[inline]
    pub(super) fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// Returns the bytes, for the session.
    #[inline]
    pub(super) fn into_bytes(self) -> usize {
        self.0
    }
}
