//! The byte stream of a WebSocket.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The byte stream of an upgraded HTTP connection.
pub(super) enum Stream {
    /// A TCP connection, as axum serves it. `ahead` holds the bytes that HTTP has read already.
    Tcp {
        io: TcpStream,
        ahead: Bytes,
    },
    Other(TokioIo<Upgraded>),
}

impl Stream {
    /// Unwraps the TCP connection, if HTTP runs over TCP without another stream between.
    pub(super) fn new(upgraded: Upgraded) -> Self {
        let (io, ahead) = match auto::upgrade::downcast::<TokioIo<TcpStream>>(upgraded) {
            Ok(parts) => (parts.io, parts.read_buf),
            Err(upgraded) => match upgraded.downcast::<TokioIo<TcpStream>>() {
                Ok(parts) => (parts.io, parts.read_buf),
                Err(upgraded) => return Self::Other(TokioIo::new(upgraded)),
            },
        };
        let io = io.into_inner();
        // Otherwise a small frame waits until the client has acknowledged the one before, which
        // clients delay by 40 ms. An answer after a broadcast is such a frame. Node's server sets
        // the option too.
        if let Err(error) = io.set_nodelay(true) {
            tracing::debug!(%error, "frames may be delayed");
        }
        let mut stream = Self::Tcp { io, ahead };
        stream.release();
        stream
    }

    /// Frees `ahead` when it is empty: an empty slice keeps its whole buffer alive.
    fn release(&mut self) {
        match self {
            Self::Tcp { ahead, .. } if ahead.is_empty() => *ahead = Bytes::new(),
            Self::Tcp { .. } | Self::Other(_) => {}
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this {
            Self::Tcp { io, ahead } if ahead.is_empty() => Pin::new(io).poll_read(cx, buf),
            Self::Tcp { ahead, .. } => {
                let taken = ahead.len().min(buf.remaining());
                buf.put_slice(&ahead.split_to(taken));
                this.release();
                Poll::Ready(Ok(()))
            }
            Self::Other(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp { io, .. } => Pin::new(io).poll_write(cx, buf),
            Self::Other(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp { io, .. } => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Other(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp { io, .. } => io.is_write_vectored(),
            Self::Other(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp { io, .. } => Pin::new(io).poll_flush(cx),
            Self::Other(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp { io, .. } => Pin::new(io).poll_shutdown(cx),
            Self::Other(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
