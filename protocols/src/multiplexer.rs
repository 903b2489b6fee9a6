//! Yamux with limits of our own: many streams over one connection.
//!
//! libp2p's own adapter sets the number of streams and leaves the rest as it is: windows of 1 GiB for each
//! connection, and frames of 16 KiB, each of which is encrypted, written and read by itself. Here a connection
//! may hold [`WINDOW_BYTES_MAX`] that nobody has read, and a frame fills what the encryption takes at once:
//! a quarter of the system calls for the same bytes.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Ready, ready},
    iter::{Once, once},
    pin::Pin,
    task::{Context, Poll, Waker},
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::{
    UpgradeInfo,
    muxing::{StreamMuxer, StreamMuxerEvent},
    upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade},
};
use yamux::{Connection, ConnectionError, Mode, Stream};

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

/// Negotiates yamux.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Upgrade;

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
        ready(Ok(Multiplexer::new(socket, Mode::Server)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> OutboundConnectionUpgrade<C> for Upgrade {
    type Output = Multiplexer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, socket: C, _: &'static str) -> Self::Future {
        ready(Ok(Multiplexer::new(socket, Mode::Client)))
    }
}

/// One connection and its streams.
#[derive(Debug)]
pub(crate) struct Multiplexer<C> {
    connection: Connection<C>,
    /// Streams of the peer. Yamux moves bytes only while it is asked for the next one, so it is asked whether
    /// or not anybody takes them.
    waiting: VecDeque<Stream>,
    taker: Option<Waker>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Multiplexer<C> {
    fn new(socket: C, mode: Mode) -> Self {
        let mut config = yamux::Config::default();
        config
            .set_max_num_streams(STREAMS_MAX)
            .set_max_connection_receive_window(Some(WINDOW_BYTES_MAX))
            .set_split_send_size(FRAME_BYTES_MAX);
        let connection = Connection::new(socket, config, mode);
        Self { connection, waiting: VecDeque::new(), taker: None }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        self.connection
            .poll_next_inbound(cx)
            .map(|next| next.unwrap_or(Err(ConnectionError::Closed)))
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
        self.connection.poll_new_outbound(cx)
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
