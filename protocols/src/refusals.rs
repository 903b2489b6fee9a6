//! Ends connections of peers that ask for one protocol after the other on the same stream.
//!
//! The negotiation of protocols lets whoever opened a stream propose without end, and each proposal that nobody here
//! speaks is answered. Peers propose a handful; whoever goes on gets the processor's time for nothing, and keeps the
//! stream undecided, with all that was sent behind the proposals.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite, task::AtomicWaker};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};

/// Answers to one stream that agree on nothing.
const REFUSALS_MAX: u32 = 64;

/// A connection on whose streams proposals are counted.
pub(crate) struct Deciding<M> {
    inner: M,
    patience: Arc<Patience>,
}

/// Whether a connection is to end.
#[derive(Debug, Default)]
struct Patience {
    is_over: AtomicBool,
    connection: AtomicWaker,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError<E> {
    /// What is underneath ended it.
    #[error(transparent)]
    Inner(#[from] E),
    /// Its peer proposed too many protocols.
    #[error("more than {REFUSALS_MAX} protocols were proposed on one stream")]
    Refused,
}

impl<M> Deciding<M> {
    pub(crate) fn new(inner: M) -> Self {
        Self { inner, patience: Arc::default() }
    }
}

impl<M: StreamMuxer + Unpin> StreamMuxer for Deciding<M>
where
    M::Substream: Unpin,
{
    type Substream = DecidingStream<M::Substream>;
    type Error = ConnectionError<M::Error>;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        let inner = ready!(Pin::new(&mut self.inner).poll_inbound(cx))?;
        let talk = Some((Talk::default(), Arc::clone(&self.patience)));
        Poll::Ready(Ok(DecidingStream { inner, talk }))
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        let inner = ready!(Pin::new(&mut self.inner).poll_outbound(cx))?;
        Poll::Ready(Ok(DecidingStream { inner, talk: None }))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.inner).poll_close(cx).map_err(ConnectionError::Inner)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        self.patience.connection.register(cx.waker());
        if self.patience.is_over.load(Ordering::Relaxed) {
            return Poll::Ready(Err(ConnectionError::Refused));
        }
        Pin::new(&mut self.inner).poll(cx).map_err(ConnectionError::Inner)
    }
}

/// A stream of it; until a protocol is agreed on, it is followed what a peer that opened it is answered.
#[derive(Debug)]
pub(crate) struct DecidingStream<S> {
    inner: S,
    talk: Option<(Talk, Arc<Patience>)>,
}

impl<S: AsyncRead + Unpin> AsyncRead for DecidingStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for DecidingStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = ready!(Pin::new(&mut this.inner).poll_write(cx, bytes))?;
        let Some((talk, patience)) = &mut this.talk else { return Poll::Ready(Ok(written)) };
        talk.follow(&bytes[..written]);
        if talk.refusals > REFUSALS_MAX {
            patience.is_over.store(true, Ordering::Relaxed);
            patience.connection.wake();
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if talk.is_decided {
            this.talk = None;
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

/// What a peer was answered: messages, each with its length before it. The first one names the negotiation itself; one
/// that names a protocol ends it.
#[derive(Debug, Default)]
struct Talk {
    refusals: u32,
    is_decided: bool,
    has_begun: bool,
    /// The part of a length that is there, and how many bits of it.
    length: usize,
    bits: u32,
    /// Bytes of the message that are to come, and its first byte.
    to_come: usize,
    first: Option<u8>,
}

impl Talk {
    fn follow(&mut self, mut bytes: &[u8]) {
        while let [byte, rest @ ..] = bytes
            && !self.is_decided
        {
            if self.to_come == 0 {
                self.length |= usize::from(byte & 0x7f) << self.bits.min(14);
                self.bits += 7;
                bytes = rest;
                if byte & 0x80 == 0 {
                    (self.to_come, self.length, self.bits) = (self.length, 0, 0);
                    if self.to_come == 0 {
                        self.end();
                    }
                }
                continue;
            }
            self.first.get_or_insert(*byte);
            let part = bytes.len().min(self.to_come);
            self.to_come -= part;
            bytes = &bytes[part..];
            if self.to_come == 0 {
                self.end();
            }
        }
    }

    /// Counts a message that is there as a whole.
    fn end(&mut self) {
        let names_protocol = self.first.take() == Some(b'/');
        match (self.has_begun, names_protocol) {
            (false, _) => self.has_begun = true,
            (true, true) => self.is_decided = true,
            (true, false) => self.refusals += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{AsyncWriteExt as _, io::Cursor};

    use super::*;

    const HELLO: &[u8] = b"\x13/multistream/1.0.0\n";
    const REFUSAL: &[u8] = b"\x03na\n";

    fn stream() -> DecidingStream<Cursor<Vec<u8>>> {
        let talk = Some((Talk::default(), Arc::default()));
        DecidingStream { inner: Cursor::new(Vec::new()), talk }
    }

    #[tokio::test]
    async fn so_many_protocols_may_be_proposed_and_no_more() {
        let mut stream = stream();
        stream.write_all(HELLO).await.unwrap();
        for _ in 0..REFUSALS_MAX {
            stream.write_all(REFUSAL).await.unwrap();
        }
        let patience = Arc::clone(&stream.talk.as_ref().unwrap().1);
        assert!(!patience.is_over.load(Ordering::Relaxed));
        stream.write_all(REFUSAL).await.unwrap_err();
        assert!(patience.is_over.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn what_is_said_on_a_decided_stream_is_no_refusal() {
        let mut stream = stream();
        let talk = [HELLO, REFUSAL, b"\x09/a/b/c/d\n"].concat();
        // However it is cut.
        for byte in talk {
            stream.write_all(&[byte]).await.unwrap();
        }
        assert!(stream.talk.is_none());
        for _ in 0..=REFUSALS_MAX {
            stream.write_all(REFUSAL).await.unwrap();
        }
    }

    #[test]
    fn long_and_empty_answers_count_once() {
        let mut talk = Talk::default();
        let list = [&[0xac, 0x02][..], &[0x05; 300]].concat();
        talk.follow(&[HELLO, &list, &[0], REFUSAL].concat());
        assert_eq!((talk.refusals, talk.is_decided), (3, false));
        talk.follow(&[0xff; 64]);
        assert!(!talk.is_decided);
    }
}
