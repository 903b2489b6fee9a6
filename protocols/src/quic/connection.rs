//! A connection, and the streams on it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite, FutureExt as _, future::BoxFuture};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use quinn::{ConnectionError, RecvStream, SendStream};

type Opening = BoxFuture<'static, Result<(SendStream, RecvStream), ConnectionError>>;

/// A connection with a peer that showed who it is.
pub(crate) struct Connection {
    inner: quinn::Connection,
    /// The next stream of the peer, and the next own one.
    inbound: Option<Opening>,
    outbound: Option<Opening>,
    closing: Option<BoxFuture<'static, ConnectionError>>,
}

impl Connection {
    pub(super) fn new(inner: quinn::Connection) -> Self {
        Self { inner, inbound: None, outbound: None, closing: None }
    }
}

impl StreamMuxer for Connection {
    type Substream = Stream;
    type Error = ConnectionError;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Stream, ConnectionError>> {
        let this = &mut *self;
        let accept = || {
            let connection = this.inner.clone();
            async move { connection.accept_bi().await }.boxed()
        };
        let opened = ready!(this.inbound.get_or_insert_with(accept).poll_unpin(cx));
        this.inbound = None;
        Poll::Ready(opened.map(Stream::new))
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Stream, ConnectionError>> {
        let this = &mut *self;
        let open = || {
            let connection = this.inner.clone();
            async move { connection.open_bi().await }.boxed()
        };
        let opened = ready!(this.outbound.get_or_insert_with(open).poll_unpin(cx));
        this.outbound = None;
        Poll::Ready(opened.map(Stream::new))
    }

    fn poll(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, ConnectionError>> {
        // Nothing ever happens to a connection but its end, and that its streams tell.
        Poll::Pending
    }

    fn poll_close(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ConnectionError>> {
        let this = &mut *self;
        let close = || {
            let connection = this.inner.clone();
            connection.close(0_u32.into(), &[]);
            async move { connection.closed().await }.boxed()
        };
        match ready!(this.closing.get_or_insert_with(close).poll_unpin(cx)) {
            ConnectionError::LocallyClosed => Poll::Ready(Ok(())),
            cause => Poll::Ready(Err(cause)),
        }
    }
}

/// A stream of a connection.
pub(crate) struct Stream {
    sending: SendStream,
    receiving: RecvStream,
    /// How it ended, once it was closed: whoever closes it once more hears the same.
    closed: Option<Result<(), io::ErrorKind>>,
}

impl Stream {
    fn new((sending, receiving): (SendStream, RecvStream)) -> Self {
        Self { sending, receiving, closed: None }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        AsyncRead::poll_read(Pin::new(&mut self.receiving), cx, into)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.sending), cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.sending), cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(closed) = self.closed {
            return Poll::Ready(closed.map_err(io::Error::from));
        }
        let closed = ready!(AsyncWrite::poll_close(Pin::new(&mut self.sending), cx));
        self.closed = Some(closed.as_ref().copied().map_err(io::Error::kind));
        Poll::Ready(closed)
    }
}
