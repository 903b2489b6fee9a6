//! What goes over the wire, counted for each peer, and the ceilings on it.
//!
//! Counted are the bytes of streams, in the connections that carry them: what encryption, multiplexing and the
//! network put around them is some two percent more. Who has to wait, waits where it reads or writes, and the
//! windows of the multiplexer make the other side wait as well.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::{
    PeerId,
    core::muxing::{StreamMuxer, StreamMuxerEvent},
};
use tokio::time::{Instant, Sleep, sleep_until};

/// What may be moved at once after a rest, as the time that it takes at the ceiling. Timers that are late by less cost
/// no throughput.
const BURST: Duration = Duration::from_millis(100);

/// Bytes of one read or write below a ceiling, as the time that they take at it: short, so that nobody waits long for
/// a turn.
const TURN: Duration = Duration::from_millis(20);

/// Least and most bytes of one turn.
const TURN_BYTES: [f64; 2] = [512.0, 65_536.0];

/// How fast bytes may go, in bytes a second. `None`: as fast as they can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// To all peers together.
    pub up: Option<u64>,
    /// From all peers together.
    pub down: Option<u64>,
    /// To each peer.
    pub peer_up: Option<u64>,
    /// From each peer.
    pub peer_down: Option<u64>,
}

/// Bytes to and from a peer, or all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// To the peer.
    pub up: u64,
    /// From the peer.
    pub down: u64,
}

/// The counts of all peers that are connected.
#[derive(Debug)]
pub(crate) struct Meters {
    ceilings: Bandwidth,
    all: Arc<Meter>,
    /// As many as there are connections; the limits on those bound it.
    peers: Mutex<HashMap<PeerId, Weak<Meter>>>,
}

impl Meters {
    pub(crate) fn new(ceilings: Bandwidth) -> Self {
        let all = Arc::new(Meter::new(ceilings.up, ceilings.down));
        Self { ceilings, all, peers: Mutex::default() }
    }

    /// Returns what counts for a connection with a peer. One through a relay is carried by one with the relay, and
    /// counts there for all.
    pub(crate) fn connection(&self, peer: PeerId, is_relayed: bool) -> Vec<Arc<Meter>> {
        let mut peers = locked(&self.peers);
        let known = peers.get(&peer).and_then(Weak::upgrade);
        let meter = known.unwrap_or_else(|| {
            peers.retain(|_, meter| meter.strong_count() > 0);
            let meter = Arc::new(Meter::new(self.ceilings.peer_up, self.ceilings.peer_down));
            peers.insert(peer, Arc::downgrade(&meter));
            meter
        });
        if is_relayed { vec![meter] } else { vec![Arc::clone(&self.all), meter] }
    }

    /// Returns what went to and from a peer over its present connections and those that led up to them.
    pub(crate) fn traffic_of(&self, peer: &PeerId) -> Traffic {
        let meter = locked(&self.peers).get(peer).and_then(Weak::upgrade);
        meter.map(|meter| meter.traffic()).unwrap_or_default()
    }

    /// Returns what went to and from all peers since the start.
    pub(crate) fn traffic(&self) -> Traffic {
        self.all.traffic()
    }
}

/// The counts and paces of one peer, or of all.
#[derive(Debug)]
pub(crate) struct Meter {
    up: Flow,
    down: Flow,
}

impl Meter {
    fn new(up: Option<u64>, down: Option<u64>) -> Self {
        Self { up: Flow::new(up), down: Flow::new(down) }
    }

    fn traffic(&self) -> Traffic {
        let bytes = |flow: &Flow| flow.bytes.load(Ordering::Relaxed);
        Traffic { up: bytes(&self.up), down: bytes(&self.down) }
    }
}

#[derive(Debug)]
struct Flow {
    bytes: AtomicU64,
    pace: Option<Mutex<Pace>>,
}

impl Flow {
    fn new(ceiling: Option<u64>) -> Self {
        let pace = |ceiling| Mutex::new(Pace::new(ceiling, Instant::now()));
        Self { bytes: AtomicU64::new(0), pace: ceiling.map(pace) }
    }
}

/// When the next bytes may go: what went before is paid for by time. It is a token bucket that counts in time.
#[derive(Debug)]
struct Pace {
    bytes_per_s: f64,
    /// When all that went will be paid for.
    paid_at: Instant,
}

impl Pace {
    fn new(ceiling: u64, now: Instant) -> Self {
        Self { bytes_per_s: ceiling.max(1) as f64, paid_at: now }
    }

    /// Returns how many bytes may go now, or when some may.
    fn turn(&self, now: Instant) -> Result<usize, Instant> {
        if self.paid_at > now {
            return Err(self.paid_at);
        }
        let [least, most] = TURN_BYTES;
        Ok((self.bytes_per_s * TURN.as_secs_f64()).clamp(least, most) as usize)
    }

    fn spend(&mut self, bytes: usize, now: Instant) {
        let rested = now.checked_sub(BURST).unwrap_or(now);
        let price = Duration::from_secs_f64(bytes as f64 / self.bytes_per_s);
        self.paid_at = self.paid_at.max(rested) + price;
    }
}

/// One way of one stream: whom it counts for, and its turn.
#[derive(Debug)]
struct Lane {
    is_up: bool,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Lane {
    fn new(is_up: bool) -> Self {
        Self { is_up, waiting: None }
    }

    fn flow<'a>(&self, meter: &'a Meter) -> &'a Flow {
        if self.is_up { &meter.up } else { &meter.down }
    }

    /// Waits for a turn; returns how many bytes may go.
    fn poll_turn(&mut self, meters: &[Arc<Meter>], cx: &mut Context<'_>) -> Poll<usize> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                ready!(waiting.as_mut().poll(cx));
                self.waiting = None;
            }
            let mut turn = Ok(usize::MAX);
            for pace in meters.iter().filter_map(|meter| self.flow(meter).pace.as_ref()) {
                turn = match (turn, locked(pace).turn(Instant::now())) {
                    (Ok(least), Ok(bytes)) => Ok(least.min(bytes)),
                    (Err(one), Err(other)) => Err(one.max(other)),
                    (Err(until), _) | (_, Err(until)) => Err(until),
                };
            }
            match turn {
                Ok(bytes) => return Poll::Ready(bytes),
                Err(until) => self.waiting = Some(Box::pin(sleep_until(until))),
            }
        }
    }

    fn moved(&self, meters: &[Arc<Meter>], bytes: usize) {
        for flow in meters.iter().map(|meter| self.flow(meter)) {
            flow.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            if let Some(pace) = &flow.pace {
                locked(pace).spend(bytes, Instant::now());
            }
        }
    }
}

/// A connection whose bytes count.
pub(crate) struct Metered<M> {
    inner: M,
    meters: Arc<[Arc<Meter>]>,
}

impl<M> Metered<M> {
    pub(crate) fn new(inner: M, meters: Vec<Arc<Meter>>) -> Self {
        Self { inner, meters: meters.into() }
    }

    fn stream<S>(&self, inner: S) -> MeteredStream<S> {
        let meters = Arc::clone(&self.meters);
        MeteredStream { inner, meters, reading: Lane::new(false), writing: Lane::new(true) }
    }
}

impl<M: StreamMuxer + Unpin> StreamMuxer for Metered<M>
where
    M::Substream: Unpin,
{
    type Substream = MeteredStream<M::Substream>;
    type Error = M::Error;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        let stream = ready!(Pin::new(&mut self.inner).poll_inbound(cx));
        Poll::Ready(stream.map(|stream| self.stream(stream)))
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        let stream = ready!(Pin::new(&mut self.inner).poll_outbound(cx));
        Poll::Ready(stream.map(|stream| self.stream(stream)))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

/// A stream of it.
#[derive(Debug)]
pub(crate) struct MeteredStream<S> {
    inner: S,
    meters: Arc<[Arc<Meter>]>,
    reading: Lane,
    writing: Lane,
}

impl<S: AsyncRead + Unpin> AsyncRead for MeteredStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let turn = ready!(this.reading.poll_turn(&this.meters, cx)).min(buffer.len());
        let read = ready!(Pin::new(&mut this.inner).poll_read(cx, &mut buffer[..turn]));
        Poll::Ready(read.inspect(|bytes| this.reading.moved(&this.meters, *bytes)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for MeteredStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let turn = ready!(this.writing.poll_turn(&this.meters, cx)).min(bytes.len());
        let written = ready!(Pin::new(&mut this.inner).poll_write(cx, &bytes[..turn]));
        Poll::Ready(written.inspect(|bytes| this.writing.moved(&this.meters, *bytes)))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

/// Nothing that holds one of these locks can fail half way.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::{
        AsyncReadExt, AsyncWriteExt,
        io::{Cursor, Sink, sink},
    };

    use super::*;

    fn writer(meters: &Meters, peer: PeerId) -> MeteredStream<Sink> {
        Metered::new((), meters.connection(peer, false)).stream(sink())
    }

    /// Moves as many bytes as may be in so many seconds, each time as late as a busy machine's timers are; returns the
    /// rate.
    fn rate(pace: &mut Pace, start: Instant, seconds: u64, late: Duration) -> f64 {
        let (mut now, mut bytes) = (start, 0);
        let end = start + Duration::from_secs(seconds);
        while now < end {
            match pace.turn(now) {
                Ok(turn) => {
                    pace.spend(turn, now);
                    bytes += turn;
                }
                Err(until) => now = until + late,
            }
        }
        bytes as f64 / seconds as f64
    }

    #[test]
    fn a_ceiling_holds_within_a_tenth_whatever_it_is_and_however_late_the_timers_are() {
        for ceiling in [5_000, 100_000, 1_000_000, 50_000_000] {
            for late_ms in [0, 1, 10, 40] {
                let start = Instant::now();
                let mut pace = Pace::new(ceiling, start);
                let late = Duration::from_millis(late_ms);
                let share = rate(&mut pace, start, 20, late) / ceiling as f64;
                assert!((0.9..=1.1).contains(&share), "{ceiling} B/s, {late_ms} ms: {share:.3}");
            }
        }
    }

    #[test]
    fn a_rest_gives_no_more_than_a_moment_of_the_ceiling() {
        let start = Instant::now();
        let mut pace = Pace::new(100_000, start);
        let late = start + Duration::from_secs(3_600);
        let share = rate(&mut pace, late, 1, Duration::ZERO) / 100_000.0;
        assert!((1.0..=1.2).contains(&share), "{share:.3}");
    }

    #[tokio::test]
    async fn the_connections_of_a_peer_share_its_ceiling_and_wait_for_their_turns() {
        let ceilings = Bandwidth { peer_up: Some(200_000), ..Bandwidth::default() };
        let meters = Meters::new(ceilings);
        let peer = PeerId::random();
        let (mut one, mut two) = (writer(&meters, peer), writer(&meters, peer));
        let start = Instant::now();
        let bytes = vec![0; 50_000];
        let (first, second) = futures::join!(one.write_all(&bytes), two.write_all(&bytes));
        first.and(second).unwrap();
        // Half a second at the ceiling, less what may go at once. A busy machine may take longer.
        assert!(start.elapsed() >= Duration::from_millis(350), "{:?}", start.elapsed());
        assert_eq!(meters.traffic_of(&peer), Traffic { up: 100_000, down: 0 });
        // Others are not slowed down by it.
        let mut other = writer(&meters, PeerId::random());
        other.write_all(&[0; 10_000]).await.unwrap();
        assert_eq!(meters.traffic(), Traffic { up: 110_000, down: 0 });
    }

    #[tokio::test]
    async fn reading_has_a_ceiling_of_its_own() {
        let meters = Meters::new(Bandwidth { down: Some(100_000), ..Bandwidth::default() });
        let meter = meters.connection(PeerId::random(), false);
        let mut stream = Metered::new((), meter).stream(Cursor::new(vec![0; 50_000]));
        let start = Instant::now();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
        assert!(start.elapsed() >= Duration::from_millis(350), "{:?}", start.elapsed());
        assert_eq!(meters.traffic(), Traffic { up: 0, down: 50_000 });
    }

    #[tokio::test]
    async fn counts_of_peers_go_with_their_connections() {
        let meters = Meters::new(Bandwidth::default());
        let (one, other) = (PeerId::random(), PeerId::random());
        let mut relayed =
            Metered::new((), meters.connection(one, true)).stream(Cursor::new(vec![0; 10]));
        relayed.read_exact(&mut [0; 10]).await.unwrap();
        assert_eq!(meters.traffic_of(&one), Traffic { up: 0, down: 10 });
        assert_eq!(meters.traffic(), Traffic::default(), "the relay's connection counts it");
        drop(relayed);
        assert_eq!(meters.traffic_of(&one), Traffic::default());
        drop(meters.connection(other, false));
        meters.connection(one, false);
        assert_eq!(locked(&meters.peers).len(), 1, "who is gone takes no room");
    }
}
