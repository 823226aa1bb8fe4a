//! The bytes that wait to be written to a WebSocket.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

/// The number of bytes queued for one write. One write of 128 KiB costs far less than two of
/// 64 KiB.
const COALESCE: usize = 128 * 1024;
/// The length in bytes from which a shared frame is not copied. The connections share its memory,
/// however long one of the clients does not read.
const LARGE: usize = 4 * 1024;

thread_local! {
    /// A buffer for small frames, lent to the connection that writes.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Frees the buffer for small frames that this thread lends to connections.
#[cfg(feature = "unstable-internals")]
pub fn free_spare_buffer() {
    SPARE.take();
}

/// The frames that wait to be written.
#[derive(Debug, Default)]
pub(super) struct WriteBuffer {
    /// Small frames in a row, of which the bytes before `written` are sent. `tail` follows them:
    /// one frame, or the rest of one.
    small: Vec<u8>,
    written: usize,
    tail: Bytes,
    /// Whether bytes wait to be sent: here, or in a stream that buffers, such as TLS.
    unflushed: bool,
    /// Whether bytes were sent since the last [`WriteBuffer::take_progress`].
    progress: bool,
    /// The number of bytes that were sent since the last [`WriteBuffer::take_sent`].
    sent: usize,
}

impl WriteBuffer {
    /// Returns whether bytes wait to be sent.
    #[inline]
    pub(super) fn is_blocked(&self) -> bool {
        self.unflushed
    }

    /// Returns whether bytes wait that the stream has not accepted.
    #[inline]
    fn has_bytes(&self) -> bool {
        !self.small.is_empty() || !self.tail.is_empty()
    }

    /// Returns whether bytes were sent since the last call.
    #[inline]
    pub(super) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progress)
    }

    /// Returns the number of bytes that were sent since the last call.
    #[inline]
    pub(super) fn take_sent(&mut self) -> usize {
        std::mem::take(&mut self.sent)
    }

    /// Returns whether the queued bytes are to be sent before more are queued.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.small.len() + self.tail.len() >= COALESCE
            || self.tail.len() >= LARGE && !self.tail.is_unique()
    }

    /// Queues a frame. It is not copied while it is the last one.
    #[inline]
    pub(super) fn push_frame(&mut self, frame: Bytes) {
        self.unflushed = true;
        self.copy_tail();
        if self.small.is_empty() || frame.len() >= LARGE {
            self.tail = frame;
        } else {
            self.small.extend_from_slice(&frame);
        }
    }

    /// Queues bytes. They are copied.
    #[inline]
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.unflushed = true;
        self.copy_tail();
        if self.small.capacity() == 0 {
            self.small = SPARE.take();
        }
        self.small.extend_from_slice(bytes);
    }

    /// Copies the tail behind the small frames, so that another frame may follow.
    #[inline]
    fn copy_tail(&mut self) {
        if !self.tail.is_empty() {
            self.copy_bytes_of_tail();
        }
    }

    fn copy_bytes_of_tail(&mut self) {
        if self.small.capacity() == 0 {
            self.small = SPARE.take();
        }
        self.small.extend_from_slice(&self.tail);
        self.tail = Bytes::new();
    }

    /// Writes all bytes and flushes the stream.
    #[inline]
    pub(super) fn poll_flush(
        &mut self,
        mut io: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.has_bytes() {
            let small = &self.small[self.written..];
            let io = io.as_mut();
            let polled = match (small.is_empty(), self.tail.is_empty()) {
                (true, _) => io.poll_write(cx, &self.tail),
                (false, true) => io.poll_write(cx, small),
                (false, false) => {
                    let parts = [IoSlice::new(small), IoSlice::new(&self.tail)];
                    io.poll_write_vectored(cx, &parts)
                }
            };
            let Poll::Ready(taken) = polled? else {
                shrink(&mut self.small, &mut self.written);
                return Poll::Pending;
            };
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(taken);
        }
        ready!(io.poll_flush(cx))?;
        self.unflushed = false;
        self.progress = true;
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn advance(&mut self, taken: usize) {
        self.progress = true;
        self.sent += taken;
        let small = taken.min(self.small.len() - self.written);
        self.written += small;
        self.tail.advance(taken - small);
        if self.written == self.small.len() && self.written > 0 {
            self.written = 0;
            recycle(std::mem::take(&mut self.small));
        }
        if self.tail.is_empty() {
            // An empty slice would keep its whole buffer alive.
            self.tail = Bytes::new();
        }
    }
}

fn recycle(mut spare: Vec<u8>) {
    if spare.capacity() <= 2 * COALESCE {
        spare.clear();
        SPARE.set(spare);
    }
}

/// Replaces a buffer by a smaller one if the bytes from `written` on do not need its capacity: the
/// peer may not read for a long time.
fn shrink(small: &mut Vec<u8>, written: &mut usize) {
    let waiting = &small[*written..];
    if small.capacity() / 4 > waiting.len().max(LARGE) {
        let fitting = waiting.to_vec();
        recycle(std::mem::replace(small, fitting));
        *written = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_connection_buffers_no_more_than_the_queue() {
        for (len, capacity, is_changed) in [
            (10, 2 * COALESCE, true),
            (30_000, 2 * COALESCE, true),
            (100_000, 2 * COALESCE, false),
            (10, 3 * LARGE, false),
        ] {
            SPARE.take();
            let mut small = Vec::with_capacity(capacity);
            small.resize(7, b'-');
            small.resize(7 + len, b'x');
            let mut written = 7;
            shrink(&mut small, &mut written);
            assert_eq!(small[written..], vec![b'x'; len]);
            let kept = if is_changed { len } else { capacity };
            assert_eq!(small.capacity(), kept);
            // The former buffer is free for the next writer.
            assert_eq!(SPARE.take().capacity() == capacity, is_changed);
        }
    }
}
