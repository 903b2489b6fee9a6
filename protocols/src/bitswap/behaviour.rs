//! The behaviour: facts of the swarm go into the two cores, what they decide goes out.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use dunlin_archive::{
    Outcome,
    bitswap::{
        BatchId, Client, ClientAction, Conduct, FetchId, Found, Instant, Message, Query, Refusal,
        Search, Server, ServerAction, Totals,
    },
};
use dunlin_wire::{Cid, block::Block};
use futures::FutureExt;
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionId, DialError, DialFailure, FromSwarm,
        NetworkBehaviour, NotifyHandler, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        behaviour::ConnectionEstablished,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::time::Sleep;

use super::{
    handler::{Handler, Order, Parcel, Report},
    protocol::{Incoming, Room},
};

/// How often in a row our wants may fail to leave before the peer counts as one that does not take them.
const FAILURES_MAX: u32 = 3;

/// Wants and presences of one peer that may be passed over within [`FLOOD_TIME`] before it counts as a broken
/// protocol: nearly 200 times what anyone keeps. One that wants a whole archive says what it still wants
/// every half minute, and is far below that.
const PASSED_OVER_MAX: usize = 200_000;

/// How long what was passed over counts.
const FLOOD_TIME: Duration = Duration::from_secs(60);

/// What the network's task has to see to.
#[derive(Debug)]
pub(crate) enum Event {
    /// Look these up, as far as the peer may have them, and call [`Behaviour::on_found`].
    LookUp { batch: BatchId, peer: PeerId, queries: Vec<Query> },
    /// Hand out verified blocks.
    Deliver { fetch: FetchId, from: PeerId, blocks: Vec<Block> },
    /// Search for providers: call [`Behaviour::on_providers`], and [`Behaviour::on_search_done`].
    Search { fetch: FetchId, cid: Cid },
    /// A fetch has settled with so many wants.
    Settled { fetch: FetchId, wants: usize },
    /// A peer did something that bears on its standing.
    Conduct { peer: PeerId, conduct: Conduct },
    /// A peer sent what is no message.
    Violation { peer: PeerId },
}

/// Bitswap in the swarm.
pub(crate) struct Behaviour {
    started: std::time::Instant,
    client: Client,
    server: Server,
    room: Room,
    peers: HashMap<PeerId, Connected>,
    events: VecDeque<ToSwarm<Event, Order>>,
    wake: Option<(Instant, Pin<Box<Sleep>>)>,
    passed_over: u64,
}

/// A connected peer.
#[derive(Debug, Default)]
struct Connected {
    /// The first one is used until it closes.
    connections: Vec<ConnectionId>,
    /// What was given to which connection and has not left.
    on_the_way: BTreeMap<BatchId, ConnectionId>,
    failures: u32,
    flood: Flood,
    /// Whether what its connections still report is passed over: they had read it before they heard of it.
    is_muted: bool,
}

/// What of a peer was passed over lately.
#[derive(Debug, Default)]
struct Flood {
    since: Instant,
    passed_over: usize,
}

impl Flood {
    /// Counts what was passed over; returns whether that is more than anybody means. Then it begins again.
    fn is_over(&mut self, now: Instant, passed_over: usize) -> bool {
        if now > self.since + FLOOD_TIME {
            *self = Self { since: now, passed_over: 0 };
        }
        self.passed_over += passed_over;
        let is_over = self.passed_over > PASSED_OVER_MAX;
        if is_over {
            *self = Self { since: now, passed_over: 0 };
        }
        is_over
    }
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            started: std::time::Instant::now(),
            client: Client::default(),
            server: Server::default(),
            room: Room::default(),
            peers: HashMap::new(),
            events: VecDeque::new(),
            wake: None,
            passed_over: 0,
        }
    }
}

impl Behaviour {
    /// Begins to fetch blocks; returns how many are wanted.
    pub(crate) fn fetch(
        &mut self,
        wanted: &[Cid],
        candidates: &[PeerId],
        search: Search,
    ) -> Result<(FetchId, usize), Refusal> {
        let fetch = self.client.fetch(self.now(), wanted, candidates, search)?;
        Ok((fetch, self.client.wants(fetch)))
    }

    /// Wants more blocks; returns how many are wanted then.
    pub(crate) fn want(&mut self, fetch: FetchId, more: &[Cid]) -> Result<usize, Refusal> {
        self.client.want(self.now(), fetch, more)?;
        Ok(self.client.wants(fetch))
    }

    /// The caller took so many blocks.
    pub(crate) fn on_taken(&mut self, fetch: FetchId, count: usize) {
        self.client.on_taken(self.now(), fetch, count);
    }

    /// A search found these.
    pub(crate) fn on_providers(&mut self, fetch: FetchId, providers: &[PeerId]) {
        self.client.on_providers(self.now(), fetch, providers);
    }

    /// A search is over.
    pub(crate) fn on_search_done(&mut self, fetch: FetchId) {
        self.client.on_search_done(self.now(), fetch);
    }

    /// Ends a fetch.
    pub(crate) fn finish(&mut self, fetch: FetchId) -> Vec<Outcome> {
        self.client.finish(self.now(), fetch)
    }

    /// Answers [`Event::LookUp`].
    pub(crate) fn on_found(&mut self, batch: BatchId, found: Vec<Found>) {
        self.server.on_found(batch, found);
    }

    /// Blocks were stored that somebody may have asked for before.
    pub(crate) fn on_stored(&mut self, cids: &[Cid]) {
        self.server.on_stored(cids);
    }

    /// Hears a peer no more: what it wants is forgotten, what it sends is not read.
    pub(crate) fn mute(&mut self, peer: PeerId) {
        self.server.on_gone(&peer);
        self.client.on_refused(self.now(), &peer);
        let Some(connected) = self.peers.get_mut(&peer) else { return };
        connected.is_muted = true;
        for connection in &connected.connections {
            let handler = NotifyHandler::One(*connection);
            self.events.push_back(ToSwarm::NotifyHandler {
                peer_id: peer,
                handler,
                event: Order::Mute,
            });
        }
    }

    /// A peer said that it is a node of ours: it reads message after message of a stream.
    pub(crate) fn on_kin(&mut self, peer: PeerId) {
        let connections = self.peers.get(&peer).into_iter().flat_map(|peer| &peer.connections);
        for connection in connections {
            let handler = NotifyHandler::One(*connection);
            let event = Order::KeepStreams;
            self.events.push_back(ToSwarm::NotifyHandler { peer_id: peer, handler, event });
        }
    }

    /// Returns what peers want of us now, how many wants found no room, and how many were not even read.
    pub(crate) fn totals(&self) -> (Totals, u64) {
        (self.server.totals(), self.passed_over)
    }

    fn now(&self) -> Instant {
        Instant(self.started.elapsed())
    }

    fn on_established(&mut self, peer: PeerId, connection: ConnectionId) {
        let connections = &mut self.peers.entry(peer).or_default().connections;
        connections.push(connection);
        if connections.len() == 1 {
            self.client.on_connected(self.now(), peer);
        }
    }

    fn on_closed(&mut self, peer: PeerId, connection: ConnectionId) {
        let Some(connected) = self.peers.get_mut(&peer) else { return };
        let was_used = connected.connections.first() == Some(&connection);
        connected.connections.retain(|other| *other != connection);
        let is_last = connected.connections.is_empty();
        let over =
            |(batch, over): (&BatchId, &ConnectionId)| (*over == connection).then_some(*batch);
        let lost: Vec<_> = connected.on_the_way.iter().filter_map(over).collect();
        for batch in lost {
            connected.on_the_way.remove(&batch);
            self.server.on_sent(batch);
        }
        if is_last {
            self.peers.remove(&peer);
            self.server.on_gone(&peer);
            self.client.on_disconnected(self.now(), &peer);
        } else if was_used {
            self.client.on_moved(&peer);
        }
    }

    fn on_received(&mut self, peer: PeerId, message: Incoming) {
        if self.peers.get(&peer).is_none_or(|connected| connected.is_muted) {
            return;
        }
        let Incoming { wants, is_full, blocks, presences, passed_over, .. } = message;
        self.passed_over += passed_over as u64;
        if !blocks.is_empty() || !presences.is_empty() {
            self.client.on_message(self.now(), peer, blocks, &presences);
        }
        let unheard = passed_over + self.server.on_wants(peer, wants, is_full);
        let now = self.now();
        let flood = self.peers.get_mut(&peer).map(|connected| &mut connected.flood);
        if flood.is_some_and(|flood| flood.is_over(now, unheard)) {
            self.tell(Event::Violation { peer });
        }
    }

    fn on_parcel_gone(&mut self, peer: PeerId, parcel: Parcel, has_left: bool) {
        let Some(connected) = self.peers.get_mut(&peer) else { return };
        match parcel {
            Parcel::Batch(batch) => {
                connected.on_the_way.remove(&batch);
                self.server.on_sent(batch);
            }
            Parcel::Wants if has_left => {
                connected.failures = 0;
                self.client.on_sent(&peer);
            }
            Parcel::Wants => {
                connected.failures += 1;
                if connected.failures < FAILURES_MAX {
                    self.client.on_moved(&peer);
                } else {
                    self.client.on_sent(&peer);
                    self.client.on_refused(self.now(), &peer);
                }
            }
        }
    }

    /// Turns what the cores decided into events; returns whether there was anything.
    fn take_actions(&mut self) -> bool {
        let before = self.events.len();
        while let Some(action) = self.client.next_action() {
            self.on_client_action(action);
        }
        while let Some(action) = self.server.next_action() {
            match action {
                ServerAction::LookUp { batch, peer, queries } => {
                    self.tell(Event::LookUp { batch, peer, queries });
                }
                ServerAction::Send { batch, peer, message } => {
                    self.send(peer, Parcel::Batch(batch), message);
                }
            }
        }
        self.events.len() > before
    }

    fn on_client_action(&mut self, action: ClientAction) {
        match action {
            ClientAction::Connect(peer) if self.peers.contains_key(&peer) => {
                self.client.on_connected(self.now(), peer);
            }
            ClientAction::Connect(peer) => {
                let opts = DialOpts::peer_id(peer).condition(PeerCondition::NotDialing).build();
                self.events.push_back(ToSwarm::Dial { opts });
            }
            ClientAction::Send { peer, wants, is_full } => {
                let message = Message { wants, is_full, ..Message::default() };
                self.send(peer, Parcel::Wants, message);
            }
            ClientAction::Deliver { fetch, from, blocks } => {
                self.tell(Event::Deliver { fetch, from, blocks });
            }
            ClientAction::Search { fetch, cid } => self.tell(Event::Search { fetch, cid }),
            ClientAction::Settled { fetch, wants } => self.tell(Event::Settled { fetch, wants }),
            ClientAction::Report { peer, conduct } => self.tell(Event::Conduct { peer, conduct }),
        }
    }

    fn tell(&mut self, event: Event) {
        self.events.push_back(ToSwarm::GenerateEvent(event));
    }

    fn send(&mut self, peer: PeerId, parcel: Parcel, message: Message) {
        let connected = self.peers.get_mut(&peer);
        let Some((connected, connection)) = connected.and_then(|connected| {
            let connection = *connected.connections.first()?;
            Some((connected, connection))
        }) else {
            // It went a moment ago, which the cores know by now.
            if let Parcel::Batch(batch) = parcel {
                self.server.on_sent(batch);
            }
            return;
        };
        if let Parcel::Batch(batch) = parcel {
            connected.on_the_way.insert(batch, connection);
        }
        let handler = NotifyHandler::One(connection);
        let event = Order::Send(parcel, message);
        self.events.push_back(ToSwarm::NotifyHandler { peer_id: peer, handler, event });
    }

    /// Wakes the client when it is time; returns whether it was.
    fn poll_wake(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(next) = self.client.next_wake() else {
            self.wake = None;
            return false;
        };
        let sleep = match &mut self.wake {
            Some((until, sleep)) if *until == next => sleep,
            other => {
                let pause = next.0.saturating_sub(self.started.elapsed());
                // Deadlines are rounded down to the millisecond by the timer, and must have passed.
                let sleep = tokio::time::sleep(pause + Duration::from_millis(1));
                &mut other.insert((next, Box::pin(sleep))).1
            }
        };
        if sleep.poll_unpin(cx).is_pending() {
            return false;
        }
        self.wake = None;
        self.client.wake(self.now());
        true
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.room.clone()))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.room.clone()))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id,
                ..
            }) => self.on_established(peer_id, connection_id),
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                self.on_closed(peer_id, connection_id);
            }
            FromSwarm::DialFailure(DialFailure { peer_id: Some(peer), error, .. })
                if !self.peers.contains_key(&peer)
                    && !matches!(error, DialError::DialPeerConditionFalse(_)) =>
            {
                self.client.on_unreachable(self.now(), &peer);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        _: ConnectionId,
        report: THandlerOutEvent<Self>,
    ) {
        match report {
            Report::Received(message) => self.on_received(peer, message),
            Report::Violation(cause) => {
                tracing::debug!(%peer, %cause, "bitswap violated");
                self.tell(Event::Violation { peer });
            }
            Report::Sent(parcel) => self.on_parcel_gone(peer, parcel, true),
            Report::Lost(parcel) => self.on_parcel_gone(peer, parcel, false),
            Report::Unsupported => self.client.on_refused(self.now(), &peer),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(event);
            }
            if !self.take_actions() && !self.poll_wake(cx) {
                return Poll::Pending;
            }
        }
    }
}
