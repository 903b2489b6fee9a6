//! What the swarm reports: connections, identities, addresses, and answers of the DHT.

use std::time::Instant;

use dunlin_trust::Operation;
use libp2p::{
    Multiaddr, PeerId, identify,
    kad::{self, GetProvidersOk, InboundRequest, QueryResult},
    mdns, ping, relay,
    swarm::{DialError, SwarmEvent},
};

use super::{Actor, Asker, BehaviourEvent, unix_now, with_peer};
use crate::{
    Event,
    address_book::{is_placed, may_be_kept},
    bitswap,
    config::ADDRESSES_PER_PEER_MAX,
    discovery::DIALS_PER_ROUND_MAX,
    peers::{Identity, Kinship},
    provider_store::ProviderStore,
};

/// Protocols of a peer that are remembered, to be shown.
const PROTOCOLS_SHOWN_MAX: usize = 48;

impl Actor {
    pub(super) fn on_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(event),
            SwarmEvent::NewListenAddr { address, .. } => {
                let me = *self.swarm.local_peer_id();
                self.tell(Event::Listening(with_peer(&address, me)));
                self.on_listening(address);
            }
            SwarmEvent::ExpiredListenAddr { address, .. } if is_placed(&address) => {
                tracing::info!(%address, "an address of this machine is gone");
                self.swarm.remove_external_address(&address);
                self.on_moved(Some(&address));
                self.follow_reach();
            }
            SwarmEvent::ListenerClosed { listener_id, .. } if self.on_relay_lost(listener_id) => {}
            SwarmEvent::ExternalAddrConfirmed { .. } | SwarmEvent::ExternalAddrExpired { .. } => {
                self.follow_reach();
            }
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                if !self.may_meet(&peer_id) {
                    return self.close(peer_id);
                }
                self.peers.connect(peer_id, connection_id, endpoint, Instant::now());
                self.open_if_licensed(peer_id, connection_id);
                self.help_if_heard(peer_id, connection_id);
                // One without a license may present it yet; until then, nothing that it wants is here.
                if !Operation::FetchSegments.admits(self.trust.standing(unix_now(), &peer_id)) {
                    self.swarm.behaviour_mut().bitswap.mute(peer_id);
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, .. } => {
                if let Some(kinship) = self.peers.disconnect(&peer_id, connection_id) {
                    self.on_member_gone(&peer_id);
                    self.book.lost(unix_now(), Instant::now(), &peer_id);
                    if kinship == Some(Kinship::Ours) {
                        self.tell(Event::PeerDisconnected(peer_id));
                    }
                }
                if self.peers.ids().next().is_none() {
                    self.discovery.on_alone(Instant::now());
                }
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::debug!(cause = %error, "a listener failed to accept");
            }
            SwarmEvent::ListenerClosed { reason: Err(cause), addresses, .. } => {
                tracing::error!(%cause, ?addresses, "a listener is gone; restart the node to listen again");
            }
            SwarmEvent::OutgoingConnectionError { peer_id, error, .. } => {
                if let (Some(peer), DialError::WrongPeerId { address, .. }) = (&peer_id, &error) {
                    self.book.is_elsewhere(peer, address);
                }
                tracing::trace!(?peer_id, cause = %error, "not connected");
            }
            _ => {}
        }
    }

    fn on_behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received {
                connection_id,
                peer_id,
                info,
            }) => {
                self.on_seen(peer_id, connection_id, &info.observed_addr);
                self.on_identified(peer_id, &info);
            }
            BehaviourEvent::Ping(ping) => match ping.result {
                Ok(rtt) => self.peers.pinged(&ping.peer, rtt),
                // A line that is cut looks like a silent one for a quarter of an hour, and longer once it is mended.
                // Where the ping's stream was given up before, what fails is to open another one.
                Err(ping::Failure::Timeout | ping::Failure::Other { .. }) => {
                    self.swarm.close_connection(ping.connection);
                }
                Err(ping::Failure::Unsupported) => {}
            },
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                tracing::trace!(count = found.len(), "found on the local network");
                self.dial_neighbours();
            }
            BehaviourEvent::Kad(event) => self.on_kad_event(event),
            BehaviourEvent::Gossip(event) => self.on_gossip_event(event),
            BehaviourEvent::Bitswap(event) => self.on_bitswap_event(event),
            BehaviourEvent::Segments(event) => self.on_segments_event(event),
            BehaviourEvent::Templates(event) => self.on_templates_event(event),
            BehaviourEvent::Catalogs(event) => self.on_catalogs_event(event),
            BehaviourEvent::Replicas(event) => self.on_replicas_event(event),
            BehaviourEvent::Membership(event) => self.on_membership_event(event),
            BehaviourEvent::Console(event) => self.on_console_event(event),
            BehaviourEvent::RelayClient(event) => self.on_relay_client_event(event),
            BehaviourEvent::Relay(event) => self.on_relay_event(&event),
            BehaviourEvent::AutonatClient(event) => self.on_probed(event),
            BehaviourEvent::AutonatServer(event) => self.on_probe_served(&event),
            BehaviourEvent::Dcutr(event) => self.on_upgraded(event),
            BehaviourEvent::Upnp(event) => self.on_upnp_event(event),
            _ => {}
        }
    }

    /// A peer said what it is. One of another network has no business here.
    fn on_identified(&mut self, peer: PeerId, info: &identify::Info) {
        if self.is_console(&peer) {
            // It is no node, and nothing that it says of itself is kept.
            return;
        }
        let is_ours = info.protocol_version == self.config.network.family();
        // A node of IPFS is welcome to exchange blocks, and where this node takes part in a DHT of others, to ask that:
        // a client of a DHT says of itself that it speaks next to nothing.
        let is_foreign = !info.protocol_version.starts_with("/dunlin/")
            && (self.config.dht.is_some() || info.protocols.iter().any(bitswap::is_protocol));
        if !is_ours && (!is_foreign || self.is_closed_network()) {
            self.book.forget(&peer);
            return self.close(peer);
        }
        let Some((remote, _)) = self.peers.remote(&peer) else { return };
        let reach = self.config.reach;
        let is_kept = |address: &&Multiaddr| may_be_kept(address, &remote, reach);
        let addresses = info.listen_addrs.iter().filter(is_kept);
        let identity = Identity {
            kinship: if is_ours { Kinship::Ours } else { Kinship::Foreign },
            agent: Identity::agent(&info.agent_version),
            addresses: addresses.take(ADDRESSES_PER_PEER_MAX).cloned().collect(),
            protocols: info.protocols.iter().take(PROTOCOLS_SHOWN_MAX).cloned().collect(),
            is_dht_server: info.protocols.contains(&self.config.kad_protocol()),
            is_relay: info.protocols.contains(&relay::HOP_PROTOCOL_NAME),
        };
        let is_new = self.peers.identify(&peer, identity);
        self.keep_addresses(peer);
        if is_ours && is_new {
            self.introduce(peer);
            self.welcome(peer);
        } else if is_ours {
            self.remember(peer);
        }
    }

    /// Keeps what a peer told about where it is. The DHT tells others of those that serve it. A peer that is not
    /// heard may be connected, but nobody is sent its way.
    pub(super) fn keep_addresses(&mut self, peer: PeerId) {
        if self.trust.may(unix_now(), &peer, Operation::AcceptAnnouncement).is_err() {
            return;
        }
        let (addresses, is_dht_server) = self.peers.addresses(&peer);
        for address in addresses {
            self.swarm.add_peer_address(peer, address.clone());
            if is_dht_server {
                self.swarm.behaviour_mut().kad.add_address(&peer, address);
            }
        }
        // Peers may tell new addresses as often as they like, and the routing table keeps them all.
        let kad = &mut self.swarm.behaviour_mut().kad;
        for address in addresses_of(kad, &peer).into_iter().rev().skip(ADDRESSES_PER_PEER_MAX) {
            kad.remove_address(&peer, &address);
        }
    }

    pub(super) fn close(&mut self, peer: PeerId) {
        self.counters.connections_closed += 1;
        // It may be gone by now.
        self.swarm.disconnect_peer_id(peer).ok();
    }

    fn on_kad_event(&mut self, event: kad::Event) {
        match event {
            kad::Event::InboundRequest {
                request: InboundRequest::AddProvider { record: Some(record) },
            } => {
                self.on_provider_record(record);
            }
            kad::Event::InboundRequest {
                request: InboundRequest::PutRecord { source, record: Some(record), .. },
            } => {
                self.on_value_record(source, record);
            }
            kad::Event::OutboundQueryProgressed { id, result, stats, step } => {
                match result {
                    QueryResult::GetProviders(Ok(GetProvidersOk::FoundProviders {
                        providers,
                        ..
                    })) => self.on_providers(id, providers),
                    result => self.on_record_result(id, result, &stats),
                }
                if step.last {
                    self.on_name_asked(id);
                    self.on_query_done(id);
                }
            }
            _ => {}
        }
    }

    fn on_providers(&mut self, id: kad::QueryId, providers: impl IntoIterator<Item = PeerId>) {
        let me = *self.swarm.local_peer_id();
        let found = providers.into_iter().filter(|peer| *peer != me).take(DIALS_PER_ROUND_MAX);
        if self.round.rendezvous == Some(id) {
            for peer in found.collect::<Vec<_>>() {
                if !self.swarm.is_connected(&peer) {
                    self.dial_by_id(peer);
                }
            }
        } else if let Some(query) = self.queries.get_mut(&id) {
            let found: Vec<_> = found.filter(|peer| query.found.insert(*peer)).collect();
            if let Asker::Fetch(fetch) = query.asker {
                self.on_fetch_providers(fetch, &found);
            }
        }
    }

    fn on_query_done(&mut self, id: kad::QueryId) {
        self.round.end(id);
        let Some(query) = self.queries.remove(&id) else { return };
        match query.asker {
            // Whoever asked may have given up.
            Asker::Shell(reply) => drop(reply.send(Ok(query.found.into_iter().collect()))),
            Asker::Fetch(fetch) => self.swarm.behaviour_mut().bitswap.on_search_done(fetch),
        }
    }
}

/// Returns what the routing table knows of where a peer is, in the order in which it came to know.
fn addresses_of(kad: &mut kad::Behaviour<ProviderStore>, peer: &PeerId) -> Vec<Multiaddr> {
    let Some(bucket) = kad.kbucket(*peer) else { return Vec::new() };
    let entry = bucket.iter().find(|entry| entry.node.key.preimage() == peer);
    entry.map(|entry| entry.node.value.iter().cloned().collect()).unwrap_or_default()
}
