//! The peers that are connected, and what they told about themselves.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use dunlin_trust::Explanation;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, core::ConnectedPoint, multiaddr::Protocol,
    swarm::ConnectionId,
};

use crate::{
    address_book::{is_relayed, is_stranded, place_of, relay_of},
    bandwidth::Traffic,
};

/// A connected peer, or one of whom a record is kept.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PeerView {
    /// Its id.
    pub peer: PeerId,
    /// The connection; `None` for a peer that is only remembered.
    pub link: Option<Link>,
    /// Addresses that it told, at most 16.
    pub addresses: Vec<Multiaddr>,
    /// Whether it is an IPFS node of no Dunlin network: it is asked for blocks over bitswap, and for
    /// nothing else.
    pub is_foreign: bool,
    /// What it says that it runs.
    pub agent: Option<String>,
    /// Protocols that it says to speak, at most 48.
    pub protocols: Vec<StreamProtocol>,
    /// Why it stands where it stands.
    pub trust: Explanation,
}

/// A connection with a peer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Link {
    /// Its address.
    pub address: Multiaddr,
    /// Who opened it.
    pub direction: Direction,
    /// Over what it runs.
    pub transport: Transport,
    /// The relay that carries it, when it is no direct one: the transport is that of the connection with the relay.
    pub relay: Option<PeerId>,
    /// How many connections with the peer there are; this is the best of them.
    pub connections: usize,
    /// What went over them.
    pub traffic: Traffic,
    /// How long it has been open.
    pub age: Duration,
    /// Round-trip time of the last ping.
    pub rtt: Option<Duration>,
}

/// Who opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The peer.
    Inbound,
    /// This node.
    Outbound,
}

/// Over what a connection runs, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// QUIC.
    Quic,
    /// TCP with Noise and Yamux.
    Tcp,
    /// WebSocket with Noise and Yamux.
    WebSocket,
}

impl Transport {
    /// Returns its name, in small letters.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
            Self::WebSocket => "websocket",
        }
    }

    fn of(address: &Multiaddr) -> Self {
        let has = |wanted: fn(&Protocol<'_>) -> bool| address.iter().any(|part| wanted(&part));
        if has(|part| matches!(part, Protocol::QuicV1 | Protocol::Quic)) {
            Self::Quic
        } else if has(|part| matches!(part, Protocol::Ws(_) | Protocol::Wss(_))) {
            Self::WebSocket
        } else {
            Self::Tcp
        }
    }
}

fn transport_of(point: &ConnectedPoint) -> Transport {
    match point {
        ConnectedPoint::Dialer { address, .. } => Transport::of(address),
        // The address where the other side is says nothing of how it came, as this node's own does.
        ConnectedPoint::Listener { local_addr, .. } => Transport::of(local_addr),
    }
}

/// The connected peers. Bounded by the limit on connections.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    connected: HashMap<PeerId, Connected>,
}

#[derive(Debug)]
struct Connected {
    connections: BTreeMap<ConnectionId, (ConnectedPoint, Instant)>,
    rtt: Option<Duration>,
    identity: Option<Identity>,
    /// When the first of the connections was opened.
    since: Instant,
    /// Up to when its time with us has become evidence.
    credited: Instant,
}

/// Of which network a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kinship {
    /// A Dunlin node of our network.
    Ours,
    /// Another IPFS node: it is asked for blocks, and for nothing else.
    Foreign,
}

/// What a peer says about itself.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) kinship: Kinship,
    pub(crate) agent: String,
    pub(crate) addresses: Vec<Multiaddr>,
    pub(crate) protocols: Vec<StreamProtocol>,
    pub(crate) is_dht_server: bool,
    pub(crate) is_relay: bool,
}

impl Identity {
    /// Returns a program's name as it may be shown.
    pub(crate) fn agent(name: &str) -> String {
        name.chars().take(64).filter(|c| !c.is_control()).collect()
    }
}

impl Connected {
    /// Returns the best connection: a direct one before one through a relay, and the best transport before others.
    fn link(&self, traffic: Traffic, now: Instant) -> Option<Link> {
        let rank = |point: &ConnectedPoint| (is_relayed(place_of(point)), transport_of(point));
        let (point, since) = self.connections.values().min_by_key(|(point, _)| rank(point))?;
        let is_dialer = point.is_dialer();
        Some(Link {
            address: place_of(point).clone(),
            direction: if is_dialer { Direction::Outbound } else { Direction::Inbound },
            transport: transport_of(point),
            relay: relay_of(place_of(point)),
            connections: self.connections.len(),
            traffic,
            age: now.saturating_duration_since(*since),
            rtt: self.rtt,
        })
    }

    fn is_ours(&self) -> bool {
        self.identity.as_ref().is_some_and(|identity| identity.kinship == Kinship::Ours)
    }
}

impl Peers {
    pub(crate) fn connect(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        point: ConnectedPoint,
        now: Instant,
    ) {
        let new = || Connected {
            connections: BTreeMap::new(),
            rtt: None,
            identity: None,
            since: now,
            credited: now,
        };
        self.connected.entry(peer).or_insert_with(new).connections.insert(id, (point, now));
    }

    /// Forgets a connection; returns, when it was the last one, of which network the peer said to be.
    pub(crate) fn disconnect(
        &mut self,
        peer: &PeerId,
        id: ConnectionId,
    ) -> Option<Option<Kinship>> {
        let connected = self.connected.get_mut(peer)?;
        connected.connections.remove(&id);
        if !connected.connections.is_empty() {
            return None;
        }
        let gone = self.connected.remove(peer)?;
        Some(gone.identity.map(|identity| identity.kinship))
    }

    /// Remembers what a peer says about itself; returns whether it is the first time.
    pub(crate) fn identify(&mut self, peer: &PeerId, identity: Identity) -> bool {
        let Some(connected) = self.connected.get_mut(peer) else { return false };
        connected.identity.replace(identity).is_none()
    }

    /// Returns where a peer says to be, and whether it serves the DHT.
    pub(crate) fn addresses(&self, peer: &PeerId) -> (Vec<Multiaddr>, bool) {
        let identity = self.connected.get(peer).and_then(|connected| connected.identity.as_ref());
        identity.map_or((Vec::new(), false), |identity| {
            (identity.addresses.clone(), identity.is_dht_server)
        })
    }

    /// Returns where a peer is, and whether this node dialled it there. What a relay carries says the least of that.
    pub(crate) fn remote(&self, peer: &PeerId) -> Option<(Multiaddr, bool)> {
        let connections = &self.connected.get(peer)?.connections;
        let points = connections.values().map(|(point, _)| point);
        let point = points.min_by_key(|point| (is_relayed(place_of(point)), !point.is_dialer()))?;
        Some((place_of(point).clone(), point.is_dialer()))
    }

    /// Returns one of the connections with a peer.
    pub(crate) fn connection(&self, peer: &PeerId, id: ConnectionId) -> Option<&ConnectedPoint> {
        self.connected.get(peer)?.connections.get(&id).map(|(point, _)| point)
    }

    /// Returns the peers that relay for others and are connected directly, with where they are, those first that are
    /// with us for the longest.
    pub(crate) fn relays(&self) -> Vec<(PeerId, Multiaddr)> {
        let is_relay = |peer: &Connected| peer.identity.as_ref().is_some_and(|of| of.is_relay);
        let relays = self.connected.iter().filter(|(_, connected)| is_relay(connected));
        let mut relays: Vec<_> = relays.map(|(peer, connected)| (connected.since, *peer)).collect();
        relays.sort_unstable();
        let located = relays.into_iter().filter_map(|(_, peer)| {
            let (remote, is_dialed) = self.remote(&peer)?;
            let told = || self.addresses(&peer).0.into_iter().find(|told| !is_relayed(told));
            let address = if is_dialed { Some(remote) } else { told() };
            Some((peer, address.filter(|address| !is_relayed(address))?))
        });
        located.collect()
    }

    /// Returns the connections that go with an address of this machine which is gone.
    pub(crate) fn stranded(&self, left: &Multiaddr) -> Vec<ConnectionId> {
        let all = self.connected.values().flat_map(|connected| &connected.connections);
        all.filter(|(_, (point, _))| is_stranded(point, left)).map(|(id, _)| *id).collect()
    }

    /// Returns the relayed connections with peers that are connected directly for so long.
    pub(crate) fn superseded(&self, now: Instant, time: Duration) -> Vec<ConnectionId> {
        let of_peer = |connected: &Connected| {
            let (relayed, direct): (Vec<_>, Vec<_>) = connected
                .connections
                .iter()
                .partition(|(_, (point, _))| is_relayed(place_of(point)));
            let is_upgraded =
                direct.iter().any(|(_, (_, since))| now.saturating_duration_since(*since) >= time);
            relayed.into_iter().map(|(id, _)| *id).filter(|_| is_upgraded).collect::<Vec<_>>()
        };
        self.connected.values().flat_map(of_peer).collect()
    }

    /// Returns the connections with a peer.
    pub(crate) fn connections(&self, peer: &PeerId) -> Vec<ConnectionId> {
        let connected = self.connected.get(peer);
        connected.map_or_else(Vec::new, |peer| peer.connections.keys().copied().collect())
    }

    /// Returns whether this node opened the connection with a peer that lasts longest.
    pub(crate) fn is_dialed(&self, peer: &PeerId) -> bool {
        let connections = self.connected.get(peer).map(|connected| &connected.connections);
        let oldest = connections.and_then(|connections| connections.values().next());
        oldest.is_some_and(|(point, _)| point.is_dialer())
    }

    /// Returns the peers that are with us for at least so long.
    pub(crate) fn connected_for(&self, now: Instant, time: Duration) -> Vec<PeerId> {
        let is_long =
            |connected: &Connected| now.saturating_duration_since(connected.since) >= time;
        let peers = self.connected.iter().filter(|(_, connected)| is_long(connected));
        peers.map(|(peer, _)| *peer).collect()
    }

    pub(crate) fn pinged(&mut self, peer: &PeerId, rtt: Duration) {
        if let Some(connected) = self.connected.get_mut(peer) {
            connected.rtt = Some(rtt);
        }
    }

    /// Returns whether a peer is connected and has said what it is.
    pub(crate) fn is_identified(&self, peer: &PeerId) -> bool {
        self.connected.get(peer).is_some_and(|connected| connected.identity.is_some())
    }

    /// Returns how many whole seconds each peer has been with us since this was asked last.
    pub(crate) fn credit(&mut self, now: Instant) -> Vec<(PeerId, u32)> {
        let mut credits = Vec::new();
        for (peer, connected) in self.connected.iter_mut().filter(|(_, peer)| peer.is_ours()) {
            let seconds = now.saturating_duration_since(connected.credited).as_secs();
            connected.credited += Duration::from_secs(seconds);
            credits.push((*peer, u32::try_from(seconds).unwrap_or(u32::MAX)));
        }
        credits.retain(|(_, seconds)| *seconds > 0);
        credits.sort_unstable();
        credits
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = &PeerId> {
        self.connected.keys()
    }

    /// Returns what is known of a peer, with the explanation of its standing.
    pub(crate) fn view(&self, trust: Explanation, traffic: Traffic, now: Instant) -> PeerView {
        let connected = self.connected.get(&trust.peer);
        let identity = connected.and_then(|connected| connected.identity.as_ref());
        let link = connected.and_then(|connected| connected.link(traffic, now));
        PeerView {
            peer: trust.peer,
            link,
            is_foreign: identity.is_some_and(|identity| identity.kinship == Kinship::Foreign),
            addresses: identity.map(|identity| identity.addresses.clone()).unwrap_or_default(),
            agent: identity.map(|identity| identity.agent.clone()),
            protocols: identity.map(|identity| identity.protocols.clone()).unwrap_or_default(),
            trust,
        }
    }
}
