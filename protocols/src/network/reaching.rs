//! Whether strangers reach this node, and what is done while they do not: a place at a relay, and direct connections
//! in place of relayed ones. And, where the operator wants it, the same for others.

use std::time::{Duration, Instant};

use dunlin_trust::Operation;
use libp2p::{
    Multiaddr, PeerId,
    autonat::v2 as autonat,
    core::{ConnectedPoint, transport::ListenerId, transport::PortUse},
    dcutr, kad,
    multiaddr::Protocol,
    relay,
    swarm::ConnectionId,
    upnp,
};

use super::{Actor, unix_now};
use crate::{
    Reach, Reachability,
    address_book::{is_dialable, is_placed, is_relayed, place_of},
    handle::Reaching,
    reachability::listening_at,
};

/// A relayed connection stays for so long beside a direct one: what is under way over it may end.
const GRACE: Duration = Duration::from_secs(3);

impl Actor {
    /// The node listens somewhere.
    pub(super) fn on_listening(&mut self, address: Multiaddr) {
        // Places at relays come and go; the relay's own behaviour tells of them.
        if is_relayed(&address) {
            return;
        }
        if is_placed(&address) {
            self.on_moved(None);
        }
        // Where all can reach each other, a relay's addresses are those that it listens on.
        let is_known = match self.config.reach {
            Reach::Public => is_dialable(&address, Reach::Public),
            Reach::Local => self.config.helping.is_some() && is_dialable(&address, Reach::Local),
        };
        if is_known {
            self.swarm.add_external_address(address);
            self.follow_reach();
        }
    }

    /// Serves the DHT of the open internet as long as strangers reach this node. A place at a relay is not enough: each
    /// of their questions would be a connection that somebody carries for us.
    pub(super) fn follow_reach(&mut self) {
        if self.config.reach == Reach::Public {
            let is_reached = self.swarm.external_addresses().any(|address| !is_relayed(address));
            let mode = if is_reached { kad::Mode::Server } else { kad::Mode::Client };
            let kad = &mut self.swarm.behaviour_mut().kad;
            if kad.mode() != mode {
                tracing::debug!(?mode, "takes part in the dht");
                kad.set_mode(Some(mode));
            }
        }
    }

    /// A peer says where it sees this node, over a connection.
    pub(super) fn on_seen(&mut self, peer: PeerId, connection: ConnectionId, seen: &Multiaddr) {
        let Some(point) = self.peers.connection(&peer, connection) else { return };
        // From a port of its own, it is a place where nobody listens.
        let is_passing =
            matches!(point, ConnectedPoint::Dialer { port_use, .. } if *port_use == PortUse::New);
        if is_passing || is_relayed(place_of(point)) || !self.may(&peer, Operation::ProbeReach) {
            return;
        }
        // A connection may have left from another port than the one that is listened on: the first one does, when it is
        // dialled before anybody listens.
        let listening: Vec<_> = self.swarm.listeners().cloned().collect();
        let guesses = listening_at(seen, &listening);
        for address in [seen.clone()].into_iter().chain(guesses) {
            // Who is met through a relay is elsewhere, and refuses to dial what only this site knows.
            if is_dialable(&address, Reach::Public) {
                self.swarm.behaviour_mut().dcutr.offer(&address);
            }
            if let Some(address) = self.probes.seen_at(peer, &address) {
                self.swarm.behaviour_mut().autonat_client.offer(&address);
            }
        }
    }

    /// A peer dialled this node back, as it was asked.
    pub(super) fn on_probed(&mut self, event: autonat::client::Event) {
        let autonat::client::Event { tested_addr, server, result, .. } = event;
        if !self.may(&server, Operation::ProbeReach) {
            return;
        }
        tracing::debug!(address = %tested_addr, %server, is_reachable = result.is_ok(), "dialled back");
        if result.is_ok() {
            self.swarm.add_external_address(tested_addr.clone());
            self.follow_reach();
        }
        if self.probes.tested(&tested_addr, result.is_ok()) {
            let reachability = self.probes.reachability();
            tracing::info!(?reachability, "whether strangers reach this node");
            if reachability == Reachability::Public {
                self.leave_relays(None);
            }
        }
    }

    /// Asks relays for a place while strangers do not reach this node.
    pub(super) fn seek_relays(&mut self, now: Instant) {
        if self.probes.reachability() != Reachability::Private {
            return;
        }
        let wanted = self.relays.wanted();
        let known = if wanted > 0 { self.peers.relays() } else { Vec::new() };
        let fitting = known.into_iter().filter(|(relay, _)| {
            self.relays.may_ask(relay, now) && self.may(relay, Operation::Relay)
        });
        for (relay, address) in fitting.take(wanted).collect::<Vec<_>>() {
            let mut place = super::with_peer(&address, relay);
            place.push(Protocol::P2pCircuit);
            match self.swarm.listen_on(place) {
                Ok(listener) => {
                    self.swarm.behaviour_mut().relay_client.asked(relay, listener);
                    self.relays.asked(relay, listener);
                }
                Err(cause) => {
                    tracing::debug!(%relay, %cause, "cannot ask a relay");
                    self.relays.failed(relay, now);
                }
            }
        }
    }

    /// A listener ended; returns whether it was a place at a relay.
    pub(super) fn on_relay_lost(&mut self, listener: ListenerId) -> bool {
        let lost = self.relays.lost(listener, Instant::now());
        if let Some(relay) = lost {
            tracing::debug!(%relay, "no place at a relay");
        }
        lost.is_some()
    }

    fn leave_relays(&mut self, relay: Option<PeerId>) {
        for listener in self.relays.give_up(relay) {
            self.swarm.remove_listener(listener);
        }
    }

    pub(super) fn on_relay_client_event(&mut self, event: relay::client::Event) {
        match event {
            relay::client::Event::ReservationReqAccepted { relay_peer_id: relay, .. } => {
                if self.relays.agreed(&relay) {
                    tracing::info!(%relay, "reachable through a relay");
                    // The others are to know of the new address.
                    self.discovery.on_moved(Instant::now());
                }
            }
            relay::client::Event::OutboundCircuitEstablished { relay_peer_id: relay, .. } => {
                tracing::debug!(%relay, "a relay carries a connection");
            }
            relay::client::Event::InboundCircuitEstablished { src_peer_id: peer, .. } => {
                tracing::debug!(%peer, "a peer comes through a relay");
            }
        }
    }

    pub(super) fn on_relay_event(&mut self, event: &relay::Event) {
        use relay::Event as E;
        match event {
            E::ReservationReqAccepted { .. } => self.counters.relay_reservations += 1,
            E::CircuitReqAccepted { .. } => self.counters.relay_circuits += 1,
            E::ReservationReqDenied { .. } | E::CircuitReqDenied { .. } => {
                self.counters.relay_refused += 1;
            }
            _ => return,
        }
        tracing::debug!(?event, "relay");
    }

    pub(super) fn on_probe_served(&mut self, event: &autonat::server::Event) {
        self.counters.probes_served += 1;
        tracing::debug!(peer = %event.client, address = %event.tested_addr, "dialled back as asked");
    }

    pub(super) fn on_upgraded(&mut self, event: dcutr::Event) {
        let dcutr::Event { remote_peer_id: peer, result } = event;
        match result {
            Ok(_) => {
                self.counters.upgrades += 1;
                tracing::debug!(%peer, "a direct connection takes the place of a relayed one");
            }
            Err(cause) => {
                self.counters.upgrades_failed += 1;
                tracing::debug!(%peer, %cause, "a connection stays with its relay");
            }
        }
    }

    pub(super) fn on_upnp_event(&mut self, event: upnp::Event) {
        match event {
            upnp::Event::NewExternalAddr { external_addr, .. } => {
                tracing::info!(address = %external_addr, "the router forwards a port");
            }
            upnp::Event::ExpiredExternalAddr { external_addr, .. } => {
                tracing::info!(address = %external_addr, "the router forwards a port no longer");
            }
            upnp::Event::GatewayNotFound => tracing::debug!("no router with UPnP"),
            upnp::Event::NonRoutableGateway => {
                tracing::debug!("the router with UPnP is behind another one");
            }
        }
    }

    /// Ends relayed connections with peers that are connected directly.
    pub(super) fn drop_relayed(&mut self, now: Instant) {
        for connection in self.peers.superseded(now, GRACE) {
            self.swarm.close_connection(connection);
        }
    }

    /// Helps a peer over a new connection only if it is heard. One without a license may present it yet, and the doors
    /// are shut until then.
    pub(super) fn help_if_heard(&mut self, peer: PeerId, connection: ConnectionId) {
        let standing = self.trust.standing(unix_now(), &peer);
        let helping = [Operation::ProbeReach, Operation::Relay, Operation::UpgradeConnection];
        if !helping.iter().all(|operation| operation.admits(standing)) {
            self.shut_doors(peer, &[connection]);
        }
    }

    /// Dials back, relays and meets in the middle no longer, as a peer is not heard any more.
    pub(super) fn stop_helping(&mut self, peer: PeerId) {
        self.leave_relays(Some(peer));
        let connections = self.peers.connections(&peer);
        self.shut_doors(peer, &connections);
    }

    fn shut_doors(&mut self, peer: PeerId, connections: &[ConnectionId]) {
        let behaviour = self.swarm.behaviour_mut();
        behaviour.autonat_client.shut(peer, connections.iter().copied());
        behaviour.dcutr.shut(peer, connections.iter().copied());
        if let Some(server) = behaviour.autonat_server.as_mut() {
            server.shut(peer, connections.iter().copied());
        }
        if let Some(relay) = behaviour.relay.as_mut() {
            relay.shut(peer, connections.iter().copied());
        }
    }

    pub(super) fn reaching(&self) -> Reaching {
        Reaching {
            reachability: self.probes.reachability(),
            external: self.swarm.external_addresses().cloned().collect(),
            relays: self.relays.held(),
            is_dht_server: self.swarm.behaviour().kad.mode() == kad::Mode::Server,
        }
    }

    fn may(&self, peer: &PeerId, operation: Operation) -> bool {
        self.trust.may(unix_now(), peer, operation).is_ok()
    }
}
