//! Yamux with limits of our own: many streams over one connection.
//!
//! libp2p's own adapter sets the number of streams and leaves the rest as it is: windows of 1 GiB for each
//! connection, and frames of 16 KiB, each of which is encrypted, written and read by itself. Here a connection
//! may hold [`WINDOW_BYTES_MAX`] that nobody has read, and a frame fills what the encryption takes at once:
//! a quarter of the system calls for the same bytes. What nobody has read is [counted](unread) over all connections.

mod unread;

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::Ready,
    io,
    iter::{Once, once},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::{
    UpgradeInfo,
    muxing::{StreamMuxer, StreamMuxerEvent},
    upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade},
};
use yamux::{Connection, ConnectionError, Mode};

use self::unread::{Account, Counted, Unread};
use crate::config::STREAMS_MAX;

/// What every implementation calls it.
const NAME: &str = "/yamux/1.0.0";

/// Bytes of all streams of one connection that were sent to us and are not read: twice the 256 KiB that each
/// stream has by the protocol. Streams that are read fast may have more, from what the others do not use.
const WINDOW_BYTES_MAX: usize = STREAMS_MAX * 512 * 1024;

/// Bytes of one frame: with its header, it fits into one message of Noise.
const FRAME_BYTES_MAX: usize = 62 * 1024;

/// Streams that the peer opened and that wait to be taken. They are taken as long as their protocols may be
/// negotiated; those that find no room are reset.
const WAITING_MAX: usize = 64;

/// Negotiates yamux, for connections whose unread bytes count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Upgrade(Arc<Unread>);

impl UpgradeInfo for Upgrade {
    type Info = &'static str;
    type InfoIter = Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        once(NAME)
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> InboundConnectionUpgrade<C> for Upgrade {
    type Output = Multiplexer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, socket: C, _: &'static str) -> Self::Future {
        std::future::ready(Ok(Multiplexer::new(socket, Mode::Server, &self.0)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> OutboundConnectionUpgrade<C> for Upgrade {
    type Output = Multiplexer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, socket: C, _: &'static str) -> Self::Future {
        std::future::ready(Ok(Multiplexer::new(socket, Mode::Client, &self.0)))
    }
}

/// One connection and its streams.
#[derive(Debug)]
pub(crate) struct Multiplexer<C> {
    connection: Connection<Counted<C>>,
    account: Arc<Account>,
    /// Streams of the peer. Yamux moves bytes only while it is asked for the next one, so it is asked whether
    /// or not anybody takes them.
    waiting: VecDeque<Stream>,
    taker: Option<Waker>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Multiplexer<C> {
    fn new(socket: C, mode: Mode, unread: &Arc<Unread>) -> Self {
        let mut config = yamux::Config::default();
        config
            .set_max_num_streams(STREAMS_MAX)
            .set_max_connection_receive_window(Some(WINDOW_BYTES_MAX))
            .set_split_send_size(FRAME_BYTES_MAX);
        let account = Account::new(unread);
        let connection = Connection::new(Counted::new(socket, Arc::clone(&account)), config, mode);
        Self { connection, account, waiting: VecDeque::new(), taker: None }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        let next = ready!(self.connection.poll_next_inbound(cx));
        let stream = next.unwrap_or(Err(ConnectionError::Closed));
        Poll::Ready(stream.map(|stream| Stream::new(stream, &self.account)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Multiplexer<C> {
    type Substream = Stream;
    type Error = ConnectionError;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Stream, ConnectionError>> {
        if let Some(stream) = self.waiting.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let next = self.poll_next(cx);
        if next.is_pending() {
            self.taker = Some(cx.waker().clone());
        }
        next
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Stream, ConnectionError>> {
        let stream = ready!(self.connection.poll_new_outbound(cx))?;
        Poll::Ready(Ok(Stream::new(stream, &self.account)))
    }

    fn poll_close(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ConnectionError>> {
        self.connection.poll_close(cx)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, ConnectionError>> {
        // Until nothing more moves, and never for ever: a peer may open so many streams and no more.
        for _ in 0..STREAMS_MAX {
            match self.poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(cause)) => return Poll::Ready(Err(cause)),
                Poll::Ready(Ok(stream)) => {
                    // Dropping a stream resets it.
                    if self.waiting.len() < WAITING_MAX {
                        self.waiting.push_back(stream);
                    }
                    if let Some(taker) = self.taker.take() {
                        taker.wake();
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// A stream, of which it is counted what is read.
#[derive(Debug)]
pub(crate) struct Stream {
    stream: yamux::Stream,
    account: Arc<Account>,
}

impl Stream {
    fn new(stream: yamux::Stream, account: &Arc<Account>) -> Self {
        account.open(stream.id().val());
        Self { stream, account: Arc::clone(account) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.account.drop_stream(self.stream.id().val());
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.account.read(self.stream.id().val(), read);
        Poll::Ready(Ok(read))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}
