//! How many connections there may be: half open, inbound, outbound, and with one peer.
//!
//! It does what `libp2p-connection-limits` 0.7 does, which keeps an entry for every peer that ever
//! connected and so grows for as long as strangers with fresh keys come and go. This one forgets.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm, dummy,
    },
};

use crate::config::{OUTBOUND_MAX, PENDING_MAX, PER_PEER_MAX};

/// Refuses connections beyond the limits.
#[derive(Debug)]
pub(crate) struct Behaviour {
    inbound_max: usize,
    pending_inbound: HashSet<ConnectionId>,
    pending_outbound: HashSet<ConnectionId>,
    inbound: HashMap<ConnectionId, PeerId>,
    outbound: HashMap<ConnectionId, PeerId>,
    of_peers: HashMap<PeerId, usize>,
    refused: u64,
}

/// A limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are {max} {what} connections already")]
struct Refused {
    what: &'static str,
    max: usize,
}

impl Behaviour {
    /// Returns the limits, with that on inbound connections.
    pub(crate) fn new(inbound_max: usize) -> Self {
        Self {
            inbound_max,
            pending_inbound: HashSet::new(),
            pending_outbound: HashSet::new(),
            inbound: HashMap::new(),
            outbound: HashMap::new(),
            of_peers: HashMap::new(),
            refused: 0,
        }
    }

    /// Returns how many connections were refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    fn begin(&mut self, id: ConnectionId, endpoint: Endpoint) -> Result<(), Refused> {
        let (pending, what) = match endpoint {
            Endpoint::Listener => (&mut self.pending_inbound, "half open inbound"),
            Endpoint::Dialer => (&mut self.pending_outbound, "half open outbound"),
        };
        if pending.len() >= PENDING_MAX {
            self.refused += 1;
            return Err(Refused { what, max: PENDING_MAX });
        }
        pending.insert(id);
        Ok(())
    }

    fn admit(
        &mut self,
        id: ConnectionId,
        peer: &PeerId,
        endpoint: Endpoint,
    ) -> Result<(), Refused> {
        self.give_up(id);
        let (of_kind, kind_max, what) = match endpoint {
            Endpoint::Listener => (self.inbound.len(), self.inbound_max, "inbound"),
            Endpoint::Dialer => (self.outbound.len(), OUTBOUND_MAX, "outbound"),
        };
        let of_peer = self.of_peers.get(peer).copied().unwrap_or(0);
        let limits = [(of_kind, kind_max, what), (of_peer, PER_PEER_MAX, "of this peer's")];
        for (count, max, what) in limits {
            if count >= max {
                self.refused += 1;
                return Err(Refused { what, max });
            }
        }
        Ok(())
    }

    fn open(&mut self, id: ConnectionId, peer: PeerId, is_inbound: bool) {
        let kind = if is_inbound { &mut self.inbound } else { &mut self.outbound };
        kind.insert(id, peer);
        *self.of_peers.entry(peer).or_default() += 1;
    }

    fn close(&mut self, id: ConnectionId) {
        let Some(peer) = self.inbound.remove(&id).or_else(|| self.outbound.remove(&id)) else {
            return;
        };
        if let Some(count) = self.of_peers.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                self.of_peers.remove(&peer);
            }
        }
    }

    fn give_up(&mut self, id: ConnectionId) {
        self.pending_inbound.remove(&id);
        self.pending_outbound.remove(&id);
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.begin(id, Endpoint::Listener).map_err(ConnectionDenied::new)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.admit(id, &peer, Endpoint::Listener).map_err(ConnectionDenied::new)?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        _: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.begin(id, Endpoint::Dialer).map_err(ConnectionDenied::new)?;
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.admit(id, &peer, Endpoint::Dialer).map_err(ConnectionDenied::new)?;
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                let is_inbound = established.endpoint.is_listener();
                self.open(established.connection_id, established.peer_id, is_inbound);
            }
            FromSwarm::ConnectionClosed(closed) => self.close(closed.connection_id),
            FromSwarm::DialFailure(failure) => self.give_up(failure.connection_id),
            FromSwarm::ListenFailure(failure) => self.give_up(failure.connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INBOUND_MAX: usize = 256;

    fn id(number: usize) -> ConnectionId {
        ConnectionId::new_unchecked(number)
    }

    /// Goes through the life of a connection until it is open.
    fn connect(
        limits: &mut Behaviour,
        number: usize,
        peer: PeerId,
        endpoint: Endpoint,
    ) -> Result<(), &'static str> {
        let is_inbound = endpoint == Endpoint::Listener;
        limits.begin(id(number), endpoint).map_err(|refused| refused.what)?;
        limits.admit(id(number), &peer, endpoint).map_err(|refused| refused.what)?;
        limits.open(id(number), peer, is_inbound);
        Ok(())
    }

    #[test]
    fn each_kind_has_its_limit_and_a_closed_connection_makes_room() {
        let mut limits = Behaviour::new(INBOUND_MAX);
        for number in 0..INBOUND_MAX {
            connect(&mut limits, number, PeerId::random(), Endpoint::Listener).unwrap();
        }
        let fresh = PeerId::random();
        assert_eq!(connect(&mut limits, 1_000, fresh, Endpoint::Listener), Err("inbound"));
        for number in 2_000..2_000 + OUTBOUND_MAX {
            connect(&mut limits, number, PeerId::random(), Endpoint::Dialer).unwrap();
        }
        assert_eq!(connect(&mut limits, 3_000, fresh, Endpoint::Dialer), Err("outbound"));
        limits.close(id(7));
        connect(&mut limits, 1_001, fresh, Endpoint::Listener).unwrap();
        assert_eq!(limits.refused(), 2);
    }

    #[test]
    fn one_peer_has_a_few_connections_and_leaves_nothing_behind() {
        let mut limits = Behaviour::new(INBOUND_MAX);
        let peer = PeerId::random();
        for number in 0..PER_PEER_MAX {
            connect(&mut limits, number, peer, Endpoint::Listener).unwrap();
        }
        assert_eq!(connect(&mut limits, 9, peer, Endpoint::Dialer), Err("of this peer's"));
        for number in 0..PER_PEER_MAX {
            limits.close(id(number));
        }
        assert!(limits.of_peers.is_empty() && limits.inbound.is_empty());
        assert!(limits.pending_inbound.is_empty() && limits.pending_outbound.is_empty());
    }

    #[test]
    fn half_open_connections_are_bounded_until_they_fail() {
        let mut limits = Behaviour::new(INBOUND_MAX);
        for number in 0..PENDING_MAX {
            limits.begin(id(number), Endpoint::Listener).unwrap();
        }
        assert!(limits.begin(id(1_000), Endpoint::Listener).is_err());
        limits.begin(id(1_001), Endpoint::Dialer).unwrap();
        limits.give_up(id(0));
        limits.begin(id(1_002), Endpoint::Listener).unwrap();
    }
}
