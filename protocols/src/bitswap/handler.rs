//! The streams of one connection.
//!
//! Others open as many streams as they like, up to [`INBOUND_MAX`], and send one message on each or many.
//! We send one message after the other. Whether a peer reads more than one message of a stream cannot be
//! asked, so the first stream is left open, and taken up again only when the peer has left it open for
//! [`PROOF`]; until then every message has a stream of its own. Of nodes of ours it is known. A kept stream
//! that ends, or breaks while a message is written, costs nothing: the message goes out on a new one.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use dunlin_archive::bitswap::{BatchId, Message, MessageError, Version};
use futures::{
    AsyncRead, AsyncWriteExt, FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered,
};
use libp2p::swarm::{
    ConnectionHandler, ConnectionHandlerEvent, Stream, StreamUpgradeError, SubstreamProtocol,
    handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound},
};
use tokio::time::{Instant, Sleep, sleep};

use super::protocol::{self, Frame, Incoming, ReadError, Room, Upgrade};

/// Streams that a peer may have open; one more is closed at once. Kubo has eight workers and Helia opens
/// one for each message.
const INBOUND_MAX: usize = 32;

/// A stream that the peer left open for this long after a message is one of which it reads more. One that
/// reads a single message closes its side as soon as it has it.
const PROOF: Duration = Duration::from_millis(200);

/// A connection over which a message went in this time is kept open.
const BUSY: Duration = Duration::from_secs(30);

/// What one message costs of the time that a connection may take: 4,000 small ones a second.
const MESSAGE_COST: Duration = Duration::from_micros(250);

/// What each want or presence in it costs: 66,000 a second, six times what fast transfers of small blocks
/// ask for.
const ENTRY_COST: Duration = Duration::from_micros(15);

/// How far a connection may run ahead of that; then it is not read from for as long as it is ahead.
const AHEAD: Duration = Duration::from_secs(2);

/// How often a message is tried on a new stream.
const TRIES_MAX: u32 = 3;

/// What the behaviour tells.
#[derive(Debug)]
pub(crate) enum Order {
    /// Send this.
    Send(Parcel, Message),
    /// The peer reads more than one message of a stream.
    KeepStreams,
    /// Hear this peer no more.
    Mute,
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parcel {
    /// Our wants.
    Wants,
    /// An answer.
    Batch(BatchId),
}

/// What the handler tells.
#[derive(Debug)]
pub(crate) enum Report {
    /// A message came.
    Received(Incoming),
    /// A stream broke the protocol.
    Violation(MessageError),
    /// A message has left.
    Sent(Parcel),
    /// A message could not be sent.
    Lost(Parcel),
    /// The peer does not speak bitswap.
    Unsupported,
}

/// The handler of one connection.
pub(crate) struct Handler {
    room: Room,
    inbound: FuturesUnordered<Reading>,
    /// Whether the peer was asked for something: then it has a reason to send long messages.
    is_asked: Arc<AtomicBool>,
    is_muted: bool,
    /// Whether a stream needs no proof before it is taken up again.
    keeps_streams: bool,
    /// What to send, our wants first: at most one of them, and as many answers as the server allows.
    queue: VecDeque<(Parcel, Message)>,
    outbound: Outbound,
    /// The stream that may be taken up again.
    kept: Option<Kept>,
    /// What the peer speaks, once that is known.
    version: Option<Version>,
    reports: VecDeque<Report>,
    /// When the last message went.
    active: Option<Instant>,
    /// Up to when what was read is paid for.
    paid: Instant,
    /// Until it has caught up.
    pause: Option<Pin<Box<Sleep>>>,
}

type Reading = BoxFuture<'static, (Stream, Result<Incoming, ReadError>)>;
type Writing = BoxFuture<'static, (Stream, io::Result<()>)>;

struct Kept {
    stream: Stream,
    since: Instant,
}

enum Outbound {
    Idle,
    /// No stream could be had.
    Again(Letter),
    /// A stream is asked for.
    Opening(Letter),
    Writing {
        letter: Letter,
        /// When the stream was first left open, when it was.
        since: Option<Instant>,
        writing: Writing,
    },
}

/// A message that is to be written.
struct Letter {
    parcel: Parcel,
    message: Arc<Message>,
    tries: u32,
}

type Event = ConnectionHandlerEvent<Upgrade, (), Report>;

impl Handler {
    pub(super) fn new(room: Room) -> Self {
        Self {
            room,
            inbound: FuturesUnordered::new(),
            is_asked: Arc::default(),
            is_muted: false,
            keeps_streams: false,
            queue: VecDeque::new(),
            outbound: Outbound::Idle,
            kept: None,
            version: None,
            reports: VecDeque::new(),
            active: None,
            paid: Instant::now(),
            pause: None,
        }
    }

    fn read_on(&mut self, mut stream: Stream) {
        let (room, is_asked) = (self.room.clone(), Arc::clone(&self.is_asked));
        let reading = async move {
            let is_asked = || is_asked.load(Ordering::Relaxed);
            let message = protocol::read(&mut stream, &room, is_asked).await;
            (stream, message)
        };
        self.inbound.push(reading.boxed());
    }

    fn on_read(&mut self, stream: Stream, message: Result<Incoming, ReadError>) {
        match message {
            Ok(message) => {
                self.charge(&message);
                self.reports.push_back(Report::Received(message));
                self.read_on(stream);
            }
            Err(ReadError::Violation(cause)) => self.reports.push_back(Report::Violation(cause)),
            Err(ReadError::Ended | ReadError::Cut) => {}
        }
    }

    /// Charges the connection for a message. One that sends more than it may is read from again when it has
    /// caught up: its sender waits, and nobody else.
    fn charge(&mut self, message: &Incoming) {
        let now = Instant::now();
        self.active = Some(now);
        let entries = message.wants.len() + message.presences.len() + message.passed_over;
        let entries = u32::try_from(entries).unwrap_or(u32::MAX);
        self.paid = self.paid.max(now) + MESSAGE_COST + ENTRY_COST.saturating_mul(entries);
        let ahead = self.paid.saturating_duration_since(now);
        if ahead > AHEAD {
            self.pause = Some(Box::pin(sleep(ahead - AHEAD)));
        }
    }

    /// Forgets a kept stream that its reader has closed.
    fn look_after_kept(&mut self, cx: &mut Context<'_>) {
        let Some(kept) = &mut self.kept else { return };
        // Nothing is to come on it, so whatever does is its end.
        if Pin::new(&mut kept.stream).poll_read(cx, &mut [0; 1]).is_ready() {
            self.kept = None;
        }
    }

    /// Moves the message on that is being sent, or begins with the next one; returns what the connection
    /// has to do for it.
    fn poll_outbound(&mut self, cx: &mut Context<'_>) -> Option<Event> {
        loop {
            match std::mem::replace(&mut self.outbound, Outbound::Idle) {
                Outbound::Idle => {
                    let (parcel, message) = self.queue.pop_front()?;
                    if parcel == Parcel::Wants {
                        self.is_asked.store(true, Ordering::Relaxed);
                    }
                    let letter = Letter { parcel, message: Arc::new(message), tries: 0 };
                    if self.send(letter) {
                        return Some(self.open());
                    }
                }
                Outbound::Again(letter) => {
                    if self.send_again(letter, &"no stream") {
                        return Some(self.open());
                    }
                }
                Outbound::Opening(letter) => {
                    self.outbound = Outbound::Opening(letter);
                    return None;
                }
                Outbound::Writing { letter, since, mut writing } => {
                    let Poll::Ready((stream, written)) = writing.poll_unpin(cx) else {
                        self.outbound = Outbound::Writing { letter, since, writing };
                        return None;
                    };
                    self.active = Some(Instant::now());
                    match written {
                        Ok(()) if self.kept.is_none() => {
                            let since = since.unwrap_or_else(Instant::now);
                            self.kept = Some(Kept { stream, since });
                            self.reports.push_back(Report::Sent(letter.parcel));
                            self.look_after_kept(cx);
                        }
                        Ok(()) => self.reports.push_back(Report::Sent(letter.parcel)),
                        Err(cause) => {
                            if self.send_again(letter, &cause) {
                                return Some(self.open());
                            }
                        }
                    }
                }
            }
        }
    }

    fn open(&self) -> Event {
        let protocol = SubstreamProtocol::new(Upgrade { only: self.version }, ());
        ConnectionHandlerEvent::OutboundSubstreamRequest { protocol }
    }

    /// Sends a message on the kept stream; returns whether it needs a new one instead.
    fn send(&mut self, letter: Letter) -> bool {
        let keeps_streams = self.keeps_streams;
        match self.kept.take_if(|kept| keeps_streams || kept.since.elapsed() >= PROOF) {
            Some(Kept { stream, since }) => {
                self.write(letter, stream, Some(since));
                false
            }
            None => {
                self.outbound = Outbound::Opening(letter);
                true
            }
        }
    }

    /// Sends a message once more; returns whether it needs a new stream.
    fn send_again(&mut self, letter: Letter, cause: &dyn std::fmt::Display) -> bool {
        tracing::trace!(%cause, "a bitswap stream broke");
        let letter = Letter { tries: letter.tries + 1, ..letter };
        if letter.tries < TRIES_MAX {
            return self.send(letter);
        }
        self.reports.push_back(Report::Lost(letter.parcel));
        false
    }

    fn write(&mut self, letter: Letter, mut stream: Stream, since: Option<Instant>) {
        let message = Arc::clone(&letter.message);
        let version = self.version.unwrap_or(Version::V1_2);
        let closes = self.kept.is_some();
        let writing = async move {
            let frame = Frame::new(&message, version);
            drop(message);
            let mut written = protocol::write(&mut stream, &frame).await;
            if closes && written.is_ok() {
                written = stream.close().await;
            }
            (stream, written)
        };
        self.outbound = Outbound::Writing { letter, since, writing: writing.boxed() };
    }

    fn on_opened(&mut self, version: Version, mut stream: Stream) {
        // Streams that are left open say nothing about whether the connection is of use.
        stream.ignore_for_keep_alive();
        self.version = Some(version);
        match std::mem::replace(&mut self.outbound, Outbound::Idle) {
            Outbound::Opening(letter) => self.write(letter, stream, None),
            other => self.outbound = other,
        }
    }

    fn on_not_opened(&mut self, error: StreamUpgradeError<std::convert::Infallible>) {
        let letter = match std::mem::replace(&mut self.outbound, Outbound::Idle) {
            Outbound::Opening(letter) => letter,
            other => return self.outbound = other,
        };
        if matches!(error, StreamUpgradeError::NegotiationFailed) {
            // In this order: what is lost is not to be sent again.
            self.reports.push_back(Report::Unsupported);
            self.reports.push_back(Report::Lost(letter.parcel));
        } else {
            self.outbound = Outbound::Again(letter);
        }
    }

    fn mute(&mut self) {
        self.is_muted = true;
        self.inbound.clear();
        for (parcel, _) in self.queue.drain(..) {
            self.reports.push_back(Report::Lost(parcel));
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Order;
    type ToBehaviour = Report;
    type InboundProtocol = Upgrade;
    type OutboundProtocol = Upgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Upgrade> {
        SubstreamProtocol::new(Upgrade { only: None }, ())
    }

    fn connection_keep_alive(&self) -> bool {
        let is_sending = !matches!(self.outbound, Outbound::Idle) || !self.queue.is_empty();
        is_sending || self.active.is_some_and(|active| active.elapsed() < BUSY)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        self.look_after_kept(cx);
        loop {
            if let Some(report) = self.reports.pop_front() {
                return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(report));
            }
            if let Some(request) = self.poll_outbound(cx) {
                return Poll::Ready(request);
            }
            if !self.reports.is_empty() {
                continue;
            }
            if let Some(pause) = &mut self.pause {
                if pause.poll_unpin(cx).is_pending() {
                    return Poll::Pending;
                }
                self.pause = None;
            }
            match self.inbound.poll_next_unpin(cx) {
                Poll::Ready(Some((stream, message))) => self.on_read(stream, message),
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn on_behaviour_event(&mut self, order: Order) {
        match order {
            Order::Send(parcel, _) if self.is_muted => self.reports.push_back(Report::Lost(parcel)),
            // What we want is small, and waited for.
            Order::Send(Parcel::Wants, message) => {
                self.queue.push_front((Parcel::Wants, message));
            }
            Order::Send(parcel, message) => self.queue.push_back((parcel, message)),
            Order::KeepStreams => self.keeps_streams = true,
            Order::Mute => self.mute(),
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Upgrade, Upgrade>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (_, mut stream),
                ..
            }) if !self.is_muted && self.inbound.len() < INBOUND_MAX => {
                stream.ignore_for_keep_alive();
                self.read_on(stream);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (version, stream),
                ..
            }) => self.on_opened(version, stream),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, .. }) => {
                self.on_not_opened(error);
            }
            _ => {}
        }
    }
}
