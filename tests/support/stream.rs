//! In-memory streams between a client and a server that behave like certain networks.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::Router;
use bytes::{Buf, BytesMut};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

/// Serves an app over a stream, as `axum::serve` does over TCP.
pub(crate) fn serve_stream<S>(app: Router, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        let service = TowerToHyperService::new(app);
        let builder = auto::Builder::new(TokioExecutor::new());
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        let _ = connection.await;
    });
}

/// A stream that buffers written bytes until it is flushed, as TLS and compression do.
pub(crate) struct Buffering {
    inner: DuplexStream,
    buffer: BytesMut,
    limit: usize,
}

impl Buffering {
    /// Creates a stream that buffers up to `limit` bytes before a writer has to wait.
    pub(crate) fn new(inner: DuplexStream, limit: usize) -> Self {
        Self {
            inner,
            buffer: BytesMut::new(),
            limit,
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.buffer.is_empty() {
            let taken = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.buffer))?;
            self.buffer.advance(taken);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Buffering {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Buffering {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.buffer.len() >= this.limit {
            ready!(this.poll_drain(cx))?;
        }
        let taken = buf.len().min(this.limit - this.buffer.len());
        this.buffer.extend_from_slice(&buf[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_drain(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}
