//! A behaviour that dials where peers tell it to, within limits.
//!
//! AutoNAT dials a peer back where it asks to be dialled, and hole punching dials where the other side says that it is.
//! Left alone, both would let a stranger send this node anywhere, as often as it likes: to this machine's own ports,
//! into this site's network, at a victim. Behind this door a peer sends the node only where its own connection could
//! come from, a few times a minute. Where the node itself is seen is not believed from whoever says it, either: its
//! candidates come from the network's task alone, which bounds them.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    ops::{Deref, DerefMut},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{ConnectedPoint, Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NewExternalAddrCandidate,
        THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    },
};

use crate::{
    address_book::{may_be_kept, place_of},
    config::Reach,
    rate::{Bucket, Rate},
};

/// How often one peer may have this node dial where it says.
const DIALS_OF_PEER: Rate = Rate { burst: 8, every: Duration::from_secs(5) };

/// How often all of them together may.
const DIALS: Rate = Rate { burst: 64, every: Duration::from_millis(250) };

/// Such dials under way. More are refused.
const DIALING_MAX: usize = 32;

/// A behaviour behind these limits.
pub(crate) struct Guarded<B> {
    inner: B,
    reach: Reach,
    /// Where the connections of each peer come from, and how often it may still have us dial.
    peers: HashMap<PeerId, Asker>,
    all: Bucket,
    /// The behaviour's own dials that are under way.
    dialing: HashSet<ConnectionId>,
    /// Connections that are older than the behaviour, which knows nothing of them.
    older: HashSet<ConnectionId>,
    refused: u64,
}

#[derive(Debug)]
struct Asker {
    places: HashMap<ConnectionId, Multiaddr>,
    bucket: Bucket,
}

/// Why a dial was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Refused {
    #[error("the peer has no business to name that address")]
    Address,
    #[error("too many such dials")]
    TooMany,
}

impl<B> Guarded<B> {
    /// Returns the behaviour behind its limits.
    pub(crate) fn new(inner: B, reach: Reach) -> Self {
        let all = Bucket::full(DIALS, Instant::now());
        Self {
            inner,
            reach,
            peers: HashMap::new(),
            all,
            dialing: HashSet::new(),
            older: HashSet::new(),
            refused: 0,
        }
    }

    /// Puts a new behaviour in place of the one that is here: it remembers nothing, and goes to work with the
    /// connections that come.
    pub(crate) fn renew(&mut self, inner: B) {
        self.older = self.peers.values().flat_map(|asker| asker.places.keys().copied()).collect();
        self.dialing.clear();
        self.inner = inner;
    }

    /// Returns how many dials were refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    fn admit(
        &mut self,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        now: Instant,
    ) -> Result<(), Refused> {
        let asker = peer.and_then(|peer| self.peers.get_mut(&peer)).ok_or(Refused::Address)?;
        let is_fine = |address: &Multiaddr| {
            asker.places.values().any(|place| may_be_kept(address, place, self.reach))
        };
        if addresses.is_empty() || !addresses.iter().all(is_fine) {
            return Err(Refused::Address);
        }
        let is_early = self.dialing.len() <= DIALING_MAX
            && asker.bucket.take(DIALS_OF_PEER, now)
            && self.all.take(DIALS, now);
        if is_early { Ok(()) } else { Err(Refused::TooMany) }
    }

    fn connected(&mut self, peer: PeerId, connection: ConnectionId, point: &ConnectedPoint) {
        let bucket = Bucket::full(DIALS_OF_PEER, Instant::now());
        let fresh = || Asker { places: HashMap::new(), bucket };
        let asker = self.peers.entry(peer).or_insert_with(fresh);
        asker.places.insert(connection, place_of(point).clone());
    }

    fn disconnected(&mut self, peer: PeerId, connection: ConnectionId) {
        let Some(asker) = self.peers.get_mut(&peer) else { return };
        asker.places.remove(&connection);
        if asker.places.is_empty() {
            self.peers.remove(&peer);
        }
    }
}

impl<B: NetworkBehaviour> Guarded<B> {
    /// Names an address at which this node may be reachable.
    pub(crate) fn offer(&mut self, address: &Multiaddr) {
        let candidate = NewExternalAddrCandidate { addr: address };
        self.inner.on_swarm_event(FromSwarm::NewExternalAddrCandidate(candidate));
    }
}

impl<B> Deref for Guarded<B> {
    type Target = B;

    fn deref(&self) -> &B {
        &self.inner
    }
}

impl<B> DerefMut for Guarded<B> {
    fn deref_mut(&mut self) -> &mut B {
        &mut self.inner
    }
}

impl<B> fmt::Debug for Guarded<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").field("dialing", &self.dialing.len()).finish_non_exhaustive()
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Guarded<B> {
    type ConnectionHandler = THandler<B>;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if self.dialing.contains(&id)
            && let Err(refused) = self.admit(peer, addresses, Instant::now())
        {
            self.refused += 1;
            return Err(ConnectionDenied::new(refused));
        }
        self.inner.handle_pending_outbound_connection(id, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(id, peer, address, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match &event {
            FromSwarm::NewExternalAddrCandidate(_) => return,
            FromSwarm::ConnectionEstablished(now) => {
                self.dialing.remove(&now.connection_id);
                self.connected(now.peer_id, now.connection_id, now.endpoint);
            }
            FromSwarm::ConnectionClosed(gone) => {
                self.disconnected(gone.peer_id, gone.connection_id);
                if self.older.remove(&gone.connection_id) {
                    return;
                }
            }
            FromSwarm::DialFailure(failure) => {
                self.dialing.remove(&failure.connection_id);
            }
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        if !self.older.contains(&connection) {
            self.inner.on_connection_handler_event(peer, connection, event);
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            let action = std::task::ready!(self.inner.poll(cx));
            match &action {
                ToSwarm::Dial { opts } => {
                    self.dialing.insert(opts.connection_id());
                }
                // Who was found reachable by whom is in the event as well, and the gate is asked first.
                ToSwarm::ExternalAddrConfirmed(_) => continue,
                _ => {}
            }
            return Poll::Ready(action);
        }
    }
}

#[cfg(test)]
mod tests {
    use libp2p::swarm::dummy;

    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    /// A peer that is connected from somewhere.
    fn connected_from(place: &str, reach: Reach) -> (Guarded<dummy::Behaviour>, PeerId) {
        let mut guarded = Guarded::new(dummy::Behaviour, reach);
        let (peer, id) = (PeerId::random(), ConnectionId::new_unchecked(1));
        let point = ConnectedPoint::Listener {
            local_addr: address("/ip4/198.51.100.1/tcp/1"),
            send_back_addr: address(place),
        };
        guarded.connected(peer, id, &point);
        (guarded, peer)
    }

    #[test]
    fn a_stranger_sends_this_node_neither_home_nor_into_its_site() {
        let (mut guarded, peer) = connected_from("/ip4/203.0.113.7/tcp/5000", Reach::Local);
        let now = Instant::now();
        let mut admit = |addresses: &[&str]| {
            let addresses: Vec<_> = addresses.iter().map(|text| address(text)).collect();
            guarded.admit(Some(peer), &addresses, now)
        };
        let fine = "/ip4/203.0.113.7/tcp/4601";
        assert_eq!(admit(&[fine]), Ok(()));
        for bad in ["/ip4/127.0.0.1/tcp/22", "/ip4/192.168.1.1/tcp/80", "/ip6/::1/tcp/22"] {
            assert_eq!(admit(&[bad]), Err(Refused::Address), "{bad}");
            assert_eq!(admit(&[fine, bad]), Err(Refused::Address), "{bad} beside a good one");
        }
        assert_eq!(admit(&[]), Err(Refused::Address), "wherever the others know it to be");
        assert_eq!(guarded.admit(None, &[address(fine)], now), Err(Refused::Address));
        assert_eq!(
            guarded.admit(Some(PeerId::random()), &[address(fine)], now),
            Err(Refused::Address)
        );
    }

    #[test]
    fn who_is_behind_a_relay_is_as_near_as_the_relay() {
        let relay = PeerId::random();
        let circuit = address(&format!("/ip4/203.0.113.1/tcp/1/p2p/{relay}/p2p-circuit"));
        let mut guarded = Guarded::new(dummy::Behaviour, Reach::Local);
        let (peer, id) = (PeerId::random(), ConnectionId::new_unchecked(1));
        let point = ConnectedPoint::Listener {
            local_addr: circuit,
            send_back_addr: address(&format!("/p2p/{peer}")),
        };
        guarded.connected(peer, id, &point);
        let mut admit = |text: &str| guarded.admit(Some(peer), &[address(text)], Instant::now());
        assert_eq!(admit("/ip4/10.0.0.1/tcp/1"), Err(Refused::Address));
        assert_eq!(admit("/ip4/203.0.113.9/udp/1/quic-v1"), Ok(()));
        guarded.disconnected(peer, id);
        assert!(guarded.peers.is_empty());
    }

    #[test]
    fn a_peer_has_this_node_dial_a_few_times_a_minute_and_many_peers_not_much_more() {
        let (mut guarded, peer) = connected_from("/ip4/203.0.113.7/tcp/5000", Reach::Public);
        let now = Instant::now();
        let there = [address("/ip4/203.0.113.7/tcp/4601")];
        let admitted = |guarded: &mut Guarded<dummy::Behaviour>, peer, at| {
            (0..100).filter(|_| guarded.admit(Some(peer), &there, at).is_ok()).count()
        };
        assert_eq!(admitted(&mut guarded, peer, now), 8);
        assert_eq!(admitted(&mut guarded, peer, now + Duration::from_secs(60)), 8);
        let mut all = 0;
        for number in 2..200 {
            let peer = PeerId::random();
            let point = ConnectedPoint::Listener {
                local_addr: there[0].clone(),
                send_back_addr: address("/ip4/203.0.113.7/tcp/5000"),
            };
            guarded.connected(peer, ConnectionId::new_unchecked(number), &point);
            all += admitted(&mut guarded, peer, now + Duration::from_secs(60));
        }
        assert!(all <= 64, "{all}");
    }
}
