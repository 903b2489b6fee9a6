//! A connection, and the streams on it.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite, FutureExt as _, future::BoxFuture};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use quinn::{ConnectionError, RecvStream, SendStream};

use super::settings::RECEIVE_BYTES;
use crate::config::QUIC_CONNECTION_BYTES_MAX;

type Opening = BoxFuture<'static, Result<(SendStream, RecvStream), ConnectionError>>;

/// How much a peer may send ahead: little at first, and twice as much each time that so much was read. Whoever sends what
/// nobody reads fills little.
struct Window {
    connection: quinn::Connection,
    bytes: u32,
    /// Bytes that were read since it last grew.
    read: u32,
}

impl Window {
    fn on_read(&mut self, bytes: usize) {
        if self.bytes == QUIC_CONNECTION_BYTES_MAX {
            return;
        }
        self.read = self.read.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        if self.read >= self.bytes {
            self.bytes = self.bytes.saturating_mul(2).min(QUIC_CONNECTION_BYTES_MAX);
            self.read = 0;
            self.connection.set_receive_window(self.bytes.into());
        }
    }
}

/// A connection with a peer that showed who it is.
pub(crate) struct Connection {
    inner: quinn::Connection,
    window: Arc<Mutex<Window>>,
    /// The next stream of the peer, and the next own one.
    inbound: Option<Opening>,
    outbound: Option<Opening>,
    closing: Option<BoxFuture<'static, ConnectionError>>,
}

impl Connection {
    pub(super) fn new(inner: quinn::Connection) -> Self {
        let window = Window { connection: inner.clone(), bytes: RECEIVE_BYTES, read: 0 };
        let window = Arc::new(Mutex::new(window));
        Self { inner, window, inbound: None, outbound: None, closing: None }
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
        Poll::Ready(opened.map(|halves| Stream::new(halves, &this.window)))
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
        Poll::Ready(opened.map(|halves| Stream::new(halves, &this.window)))
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
    window: Arc<Mutex<Window>>,
    /// How it ended, once it was closed: whoever closes it once more hears the same.
    closed: Option<Result<(), io::ErrorKind>>,
}

impl Stream {
    fn new((sending, receiving): (SendStream, RecvStream), window: &Arc<Mutex<Window>>) -> Self {
        Self { sending, receiving, window: Arc::clone(window), closed: None }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = ready!(AsyncRead::poll_read(Pin::new(&mut self.receiving), cx, into));
        if let Ok(bytes) = read {
            self.window.lock().unwrap_or_else(PoisonError::into_inner).on_read(bytes);
        }
        Poll::Ready(read)
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

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        time::{Duration, Instant},
    };

    use futures::{AsyncReadExt as _, AsyncWriteExt as _};
    use libp2p::{
        Transport as _,
        core::{
            Endpoint,
            transport::{DialOpts, ListenerId, PortUse, TransportEvent},
        },
        identity::Keypair,
    };
    use tokio::time::timeout;

    use super::*;
    use crate::quic::Transport;

    /// Far longer than bytes take that may be sent.
    const STALL: Duration = Duration::from_millis(500);

    fn transport() -> Transport {
        Transport::new(&Keypair::generate_ed25519(), true, Arc::default()).unwrap()
    }

    async fn next(
        transport: &mut Transport,
    ) -> TransportEvent<super::super::Upgrade, super::super::Error> {
        poll_fn(|cx| Pin::new(&mut *transport).poll(cx)).await
    }

    /// Connects two ends; returns a connection on each, and what keeps them.
    async fn pair() -> ([Connection; 2], [Transport; 2]) {
        let (mut here, mut there) = (transport(), transport());
        here.listen_on(ListenerId::next(), "/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap())
            .unwrap();
        let TransportEvent::NewAddress { listen_addr, .. } = next(&mut here).await else {
            panic!("it listens");
        };
        let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::Reuse };
        let dialled = tokio::spawn(there.dial(listen_addr, options).unwrap());
        let TransportEvent::Incoming { upgrade, .. } = next(&mut here).await else {
            panic!("somebody comes");
        };
        let (_, inbound) = upgrade.await.unwrap();
        let (_, outbound) = dialled.await.unwrap().unwrap();
        ([inbound, outbound], [here, there])
    }

    /// Opens a stream; returns its ends.
    async fn stream([inbound, outbound]: &mut [Connection; 2]) -> (Stream, Stream) {
        let mut sender = poll_fn(|cx| Pin::new(&mut *outbound).poll_outbound(cx)).await.unwrap();
        // Nobody hears of a stream on which nothing was said.
        sender.write_all(&[0]).await.unwrap();
        let mut receiver = poll_fn(|cx| Pin::new(&mut *inbound).poll_inbound(cx)).await.unwrap();
        receiver.read_exact(&mut [0]).await.unwrap();
        (receiver, sender)
    }

    /// Writes until nothing more is taken; returns how much was.
    async fn fill(sender: &mut Stream) -> usize {
        let mut taken = 0;
        while let Ok(written) = timeout(STALL, sender.write(&[7; 10_000])).await {
            taken += written.unwrap();
        }
        taken
    }

    #[tokio::test]
    async fn what_nobody_reads_fills_little_and_who_is_read_may_send_more() {
        let (mut ends, _transports) = pair().await;
        let (_unread, mut first) = stream(&mut ends).await;
        let (mut read, mut second) = stream(&mut ends).await;

        let taken = fill(&mut first).await + fill(&mut second).await;
        assert!(taken <= RECEIVE_BYTES as usize, "{taken}");
        assert!(taken + 1_000 > RECEIVE_BYTES as usize, "{taken}");
        drop((first, _unread));

        let began = Instant::now();
        let reading = tokio::spawn(async move {
            let mut bytes = vec![0; 8_000_000];
            read.read_exact(&mut bytes).await.unwrap();
            read
        });
        second.write_all(&vec![7; 8_000_000]).await.unwrap();
        let _read = reading.await.unwrap();
        let taken = fill(&mut second).await;
        let most = crate::config::QUIC_STREAM_BYTES_MAX as usize;
        assert!((most / 2..=most).contains(&taken), "{taken} after {:?}", began.elapsed());
    }
}
