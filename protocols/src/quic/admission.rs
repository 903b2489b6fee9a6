//! QUIC connections begin at a bounded rate.
//!
//! The first packet of a QUIC connection costs who sends it nothing, and its address may be forged. libp2p accepts each
//! before anybody is asked, which takes a signature and some 35 KiB, and those stay for three seconds after the connection
//! was refused, as the protocol has it. So whoever floods a node with first packets fills its memory past every limit on
//! connections. Here what comes faster waits as a packet, in quinn's queue, which is bounded. While it is long, newcomers
//! come by TCP.

use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, Transport,
    core::transport::{DialOpts, ListenerId, TransportError, TransportEvent},
};
use tokio::time::{Sleep, sleep};

use crate::rate::{Bucket, Rate};

/// How fast connections begin: a crowd of newcomers at once, and then more than ever come in life. What is refused of
/// them stays for three seconds: 15 MiB.
const ACCEPTING: Rate = Rate { burst: 128, every: Duration::from_millis(10) };

/// A transport whose inbound connections begin no faster.
pub(crate) struct Paced<T> {
    inner: T,
    bucket: Bucket,
    /// Whether the next one may come in.
    is_open: bool,
    /// Until when it may not.
    rest: Option<Pin<Box<Sleep>>>,
}

impl<T> Paced<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self { inner, bucket: Bucket::full(ACCEPTING, Instant::now()), is_open: false, rest: None }
    }

    /// Waits until one more may come in.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.is_open {
            if let Some(rest) = &mut self.rest {
                ready!(rest.as_mut().poll(cx));
                self.rest = None;
            }
            self.is_open = self.bucket.take(ACCEPTING, Instant::now());
            if !self.is_open {
                self.rest = Some(Box::pin(sleep(ACCEPTING.every)));
            }
        }
        Poll::Ready(())
    }
}

impl<T: Transport + Unpin> Transport for Paced<T> {
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<Self::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        options: DialOpts,
    ) -> Result<Self::Dial, TransportError<Self::Error>> {
        self.inner.dial(address, options)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        ready!(self.poll_open(cx));
        let event = ready!(Pin::new(&mut self.inner).poll(cx));
        self.is_open = !matches!(event, TransportEvent::Incoming { .. });
        Poll::Ready(event)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{Ready, poll_fn, ready as now},
        io,
    };

    use super::*;

    /// A transport that somebody comes to whenever it is asked.
    struct Flooded;

    impl Transport for Flooded {
        type Output = ();
        type Error = io::Error;
        type ListenerUpgrade = Ready<io::Result<()>>;
        type Dial = Ready<io::Result<()>>;

        fn listen_on(
            &mut self,
            _: ListenerId,
            _: Multiaddr,
        ) -> Result<(), TransportError<io::Error>> {
            Ok(())
        }

        fn remove_listener(&mut self, _: ListenerId) -> bool {
            false
        }

        fn dial(
            &mut self,
            address: Multiaddr,
            _: DialOpts,
        ) -> Result<Self::Dial, TransportError<io::Error>> {
            Err(TransportError::MultiaddrNotSupported(address))
        }

        fn poll(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
            Poll::Ready(TransportEvent::Incoming {
                listener_id: ListenerId::next(),
                upgrade: now(Ok(())),
                local_addr: Multiaddr::empty(),
                send_back_addr: Multiaddr::empty(),
            })
        }
    }

    #[tokio::test]
    async fn a_flood_is_let_in_no_faster_than_it_may() {
        let mut paced = Paced::new(Flooded);
        let began = Instant::now();
        let time = Duration::from_millis(500);
        let mut count = 0_u32;
        while began.elapsed() < time {
            poll_fn(|cx| Pin::new(&mut paced).poll(cx)).await;
            count += 1;
        }
        let elapsed = began.elapsed();
        let most = ACCEPTING.burst + elapsed.as_millis() as u32 / 10 + 1;
        assert!((ACCEPTING.burst..=most).contains(&count), "{count} in {elapsed:?}");
    }
}
