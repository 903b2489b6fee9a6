//! Finding known peers again: after a restart, and when the connection with them is gone.

use std::time::Instant;

use dunlin_trust::Operation;
use libp2p::{Multiaddr, PeerId, swarm::dial_opts::DialOpts};

use super::{Actor, unix_now};
use crate::{
    Event,
    address_book::{Meeting, without_peer},
    behaviour,
    discovery::PEERS_ENOUGH,
    known_peers::Source,
};

/// Known peers that are dialled in one tick.
const DIALS_PER_TICK_MAX: usize = 4;

/// Addresses dialled by the operator's word of which it is known that they were. Older ones are forgotten.
const BY_HAND_MAX: usize = 64;

/// Ticks between two times that the shell is given the book to keep.
const KEEPING_TICKS: u64 = 30;

impl Actor {
    /// Lets the DHT begin where it was, so that a node whose bootstrap node is gone still has a place in it.
    pub(super) fn fill_routing_table(&mut self) {
        let servers = self.book.iter().filter(|known| known.is_dht_server);
        let servers: Vec<_> = servers.map(|known| (known.peer, known.by_success())).collect();
        for (peer, addresses) in servers {
            if self.is_heard(&peer) {
                for address in addresses {
                    self.swarm.behaviour_mut().kad.add_address(&peer, address);
                }
            }
        }
    }

    /// Keeps where a peer is that the shell knows of.
    pub(super) fn remember(&mut self, peer: PeerId) {
        let Some((remote, is_dialed)) = self.peers.remote(&peer) else { return };
        if !self.members.is_welcome(&peer) || !self.is_heard(&peer) {
            return;
        }
        let (told, is_dht_server) = self.peers.addresses(&peer);
        let dialed = is_dialed.then(|| self.source_of(&peer, &remote, &told));
        let meeting = Meeting { remote, dialed, told, is_dht_server };
        self.book.met(unix_now(), Instant::now(), peer, meeting);
    }

    /// Dials peers that were known, while few are connected.
    pub(super) fn reconnect(&mut self, now: Instant) {
        let wanted = PEERS_ENOUGH.saturating_sub(self.members.count()).min(DIALS_PER_TICK_MAX);
        if wanted == 0 || !self.contact.is_open() {
            return;
        }
        let swarm = &self.swarm;
        let due = self.book.due(now, wanted, |peer| !swarm.is_connected(peer));
        for (peer, addresses) in due {
            if !self.is_heard(&peer) {
                self.book.forget(&peer);
            } else if self.may_meet(&peer) {
                self.dial(DialOpts::peer_id(peer).addresses(addresses));
            }
        }
    }

    /// The operator has an address dialled.
    pub(super) fn dialled_by_hand(&mut self, address: Multiaddr) {
        if self.by_hand.len() == BY_HAND_MAX {
            self.by_hand.pop_front();
        }
        self.by_hand.push_back(address);
    }

    /// This node has another address, as a laptop has that is carried elsewhere. What was agreed upon from the old one is
    /// not worth to wait for: a connection may look alive for half a minute after that.
    pub(super) fn on_moved(&mut self, left: Option<&Multiaddr>) {
        let now = Instant::now();
        if let Some(left) = left {
            for connection in self.peers.stranded(left) {
                self.swarm.close_connection(connection);
            }
            self.probes.forget();
            self.swarm.behaviour_mut().autonat_client.renew(behaviour::autonat_client());
        }
        self.relays.moved();
        self.book.moved(now);
        self.discovery.on_moved(now);
    }

    /// Dials own peers that are not connected, wherever they were last, so that a network that was split is one again
    /// soon after it can be. They are as many as the operator names.
    pub(super) fn redial_own_peers(&mut self) {
        let away = |peer: &PeerId| !self.swarm.is_connected(peer);
        let away: Vec<_> = self.trust.own_peers().filter(|peer| away(peer)).copied().collect();
        for peer in away {
            let known = self.bootstrap.iter().filter(|(of, _)| *of == peer);
            let known: Vec<_> = known.map(|(_, address)| address.clone()).collect();
            if self.may_meet(&peer) {
                let opts = DialOpts::peer_id(peer).addresses(known);
                self.dial(opts.extend_addresses_through_behaviour());
            }
        }
    }

    /// Notes who is here, and forgets who was not for long.
    pub(super) fn look_through_book(&mut self) {
        let now = unix_now();
        self.book.saw(now, self.peers.ids());
        self.book.forget_old(now);
    }

    /// Gives the shell the book to keep. When its queue is full, that waits.
    pub(super) fn hand_out_book(&mut self) {
        if self.ticks < self.next_keeping {
            return;
        }
        let Ok(room) = self.events.try_reserve() else { return };
        if let Some(known) = self.book.changes() {
            room.send(Event::PeersKnown(known));
            self.next_keeping = self.ticks + KEEPING_TICKS;
        }
    }

    /// Begins or ends the contact of an island with others.
    pub(super) fn keep_island(&mut self, now: Instant) {
        match self.contact.tick(now) {
            Some(true) => {
                tracing::info!("in contact");
                self.on_moved(None);
            }
            Some(false) => {
                tracing::info!("in contact no longer");
                let consoles = |peer: &PeerId| self.is_console(peer);
                let met: Vec<_> =
                    self.peers.ids().filter(|peer| !consoles(peer)).copied().collect();
                for peer in met {
                    self.close(peer);
                }
            }
            None => {}
        }
    }

    /// Returns whether this node has anything to do with a peer now: the gate lets it, and so does the operator.
    pub(super) fn may_meet(&self, peer: &PeerId) -> bool {
        let is_met = !self.contact.is_private()
            || self.trust.is_own(peer)
            || self.bootstrap.iter().any(|(of, _)| of == peer);
        // The operator may look at an island at any time.
        (is_met && self.contact.is_open() || self.is_console(peer))
            && self.trust.may(unix_now(), peer, Operation::Connect).is_ok()
    }

    fn source_of(&self, peer: &PeerId, address: &Multiaddr, told: &[Multiaddr]) -> Source {
        let address = without_peer(address.clone());
        let is_here = |known: &Multiaddr| without_peer(known.clone()) == address;
        let configured = self.bootstrap.iter().filter(|(known, _)| known == peer);
        if configured.map(|(_, address)| address).chain(&self.by_hand).any(is_here) {
            return Source::Config;
        }
        if let Some(source) = self.book.source_of(peer, &address) {
            return source;
        }
        let mdns = self.swarm.behaviour().mdns.as_ref();
        if mdns.is_some_and(|mdns| mdns.discovered_nodes().any(|found| found == peer)) {
            Source::Mdns
        } else if told.iter().any(is_here) {
            Source::Peer
        } else {
            Source::Dht
        }
    }

    /// Returns whether a peer stands where what it says counts, licensed or not.
    fn is_heard(&self, peer: &PeerId) -> bool {
        let standing = self.trust.standing(unix_now(), peer);
        Operation::AcceptAnnouncement.admits(standing)
    }
}
