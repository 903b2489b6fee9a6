//! What an operator chooses about the network, and the limits that nobody may turn off.

use std::{net::SocketAddr, str::FromStr, time::Duration};

use crate::{bandwidth::Bandwidth, island::Island, known_peers::KnownPeer};
use dunlin_trust::Endorsements;
use dunlin_wire::{
    Cid,
    block::{Codec, cid_of},
};
use libp2p::{Multiaddr, PeerId, StreamProtocol, gossipsub::IdentTopic, multiaddr::Protocol};

/// Connections that may be half open, inbound and outbound each. Above, new ones are refused.
pub(crate) const PENDING_MAX: usize = 64;
/// Established inbound connections of a node. Above, new ones are refused.
const INBOUND_MAX: usize = 256;
/// Records of others that a node keeps for the DHT, at most about 2 KiB each. When there are as many, new ones are refused.
const RECORDS_MAX: usize = 8_192;
/// Established outbound connections. Above, dials fail.
pub(crate) const OUTBOUND_MAX: usize = 128;
/// Connections with one peer: one each way, as simultaneous dials leave, one through a relay, and one that is dialled
/// back to see whether it is reachable.
pub(crate) const PER_PEER_MAX: usize = 4;
/// Resident memory above which new connections are refused, in bytes.
pub(crate) const MEMORY_BYTES_MAX: usize = 1 << 30;
/// Idle connections are closed after this. Requests alone do not keep one open, so that a node does not
/// hold on to everyone it ever asked.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Inbound streams of one connection that may negotiate at once.
pub(crate) const NEGOTIATING_MAX: usize = 32;
/// Streams of one yamux connection.
pub(crate) const STREAMS_MAX: usize = 128;
/// Streams of one QUIC connection, and the bytes it may send ahead.
pub(crate) const QUIC_STREAMS_MAX: u32 = 64;
/// Bytes that one QUIC stream may send ahead.
pub(crate) const QUIC_STREAM_BYTES_MAX: u32 = 1_000_000;
/// Bytes that one QUIC connection may send ahead, once as much was read of it.
pub(crate) const QUIC_CONNECTION_BYTES_MAX: u32 = 4_000_000;
/// Bytes that wait for one QUIC connection until its peer has them.
pub(crate) const QUIC_SEND_BYTES_MAX: u64 = 4_000_000;
/// Longest address that is believed, in bytes.
pub(crate) const ADDRESS_BYTES_MAX: usize = 256;
/// Addresses that are believed of one peer.
pub(crate) const ADDRESSES_PER_PEER_MAX: usize = 16;
/// A request without an answer fails after this.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Streams of one request protocol with one peer.
pub(crate) const REQUEST_STREAMS_MAX: usize = 16;

/// How the node takes part in its network.
#[derive(Clone, Debug)]
pub struct Config {
    /// The network's name. It is part of every protocol id, topic and record, so networks of different
    /// names never meet.
    pub network: NetworkName,
    /// Addresses to listen on: TCP, QUIC (`/udp/…/quic-v1`), WebSocket (`/tcp/…/ws`). Port 0 takes any.
    pub listen: Vec<Multiaddr>,
    /// Addresses under which others reach this node, where they are not those that it listens on: behind a
    /// router that forwards a port. Default none.
    pub external: Vec<Multiaddr>,
    /// Peers to dial first, each with its `/p2p` part.
    pub bootstrap: Vec<Multiaddr>,
    /// Servers that are asked about names in addresses. Default none: those of the system.
    pub dns: Vec<SocketAddr>,
    /// Peers that were known when the node ended, from [`crate::Event::PeersKnown`]. They are dialled while few peers
    /// are connected. Default none.
    pub known_peers: Vec<KnownPeer>,
    /// Proofs that were held when the node ended, from [`crate::Event::ProofsHeld`]. Default none.
    pub proofs: Vec<Vec<u8>>,
    /// Whether to find peers on the local network. Default true. It tells the LAN that we are here.
    pub mdns: bool,
    /// Whether strangers reach this node. Default local.
    pub reach: Reach,
    /// The DHT to take part in: `None` for one of this network alone, or the protocol of one that is shared
    /// with others, such as `/ipfs/kad/1.0.0`. Default `None`. In a shared one strangers are met, and
    /// whoever keeps its records learns that this node provides what it provides.
    pub dht: Option<StreamProtocol>,
    /// Whether several nodes share this machine: connections from loopback are then exempt from the
    /// limit for one address. Default false.
    pub one_machine: bool,
    /// Whether to help peers that strangers may not reach: to carry their connections, within these limits, and to
    /// dial them back, which tells them. Default `None`.
    pub helping: Option<RelayLimits>,
    /// Whether to ask the router of this network to forward ports, by UPnP. Default false.
    pub upnp: bool,
    /// For how many peers there is room. Default [`Room::of_node`].
    pub room: Room,
    /// Ceilings on what goes over the wire. Default none.
    pub bandwidth: Bandwidth,
    /// When the node meets others, and whom, if not everybody at any time. Default `None`.
    pub island: Option<Island>,
    /// Whether the node opens no socket at all: it listens nowhere, dials nobody and looks for nobody, whatever the rest
    /// says. Default false.
    pub is_air_gapped: bool,
    /// What to present to peers of a closed network. Default none: an open network asks for nothing, and a
    /// closed one lets nobody in without.
    pub license: Option<Endorsements>,
}

impl Config {
    /// Returns a node of `network` that listens nowhere and knows nobody.
    #[must_use]
    pub fn new(network: NetworkName) -> Self {
        Self {
            network,
            listen: Vec::new(),
            external: Vec::new(),
            bootstrap: Vec::new(),
            dns: Vec::new(),
            known_peers: Vec::new(),
            proofs: Vec::new(),
            mdns: true,
            reach: Reach::Local,
            dht: None,
            one_machine: false,
            helping: None,
            upnp: false,
            room: Room::of_node(),
            bandwidth: Bandwidth::default(),
            island: None,
            is_air_gapped: false,
            license: None,
        }
    }

    /// Returns the configuration as it can be acted on: of a node that opens no socket, nothing that would need one.
    pub(crate) fn in_effect(self) -> Self {
        if !self.is_air_gapped {
            return self;
        }
        Self {
            is_air_gapped: true,
            mdns: false,
            dht: self.dht,
            license: self.license,
            ..Self::new(self.network)
        }
    }

    /// Returns the protocol of the DHT that the node takes part in.
    pub(crate) fn kad_protocol(&self) -> StreamProtocol {
        self.dht.clone().unwrap_or_else(|| self.network.kad_protocol())
    }

    /// Returns each bootstrap address with the peer it leads to.
    ///
    /// # Errors
    ///
    /// Fails on an address that does not end in `/p2p/<peer id>`: without it, anyone could answer there.
    pub(crate) fn bootstrap_peers(&self) -> Result<Vec<(PeerId, Multiaddr)>, ConfigError> {
        let split = |address: &Multiaddr| match address.iter().last() {
            Some(Protocol::P2p(peer)) => Ok((peer, address.clone())),
            _ => Err(ConfigError::BootstrapWithoutPeer { address: address.clone() }),
        };
        self.bootstrap.iter().map(split).collect()
    }
}

/// For how many peers a node has room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Inbound connections at once. Above, new ones are refused.
    pub inbound: usize,
    /// Records of others that are kept for the DHT, at most about 2 KiB each. Above, new ones are refused.
    pub records: usize,
}

impl Room {
    /// Returns what suits a node.
    #[must_use]
    pub fn of_node() -> Self {
        Self { inbound: INBOUND_MAX, records: RECORDS_MAX }
    }

    /// Returns what suits a bootstrap node: it is there for newcomers, who come in numbers.
    #[must_use]
    pub fn of_bootstrap() -> Self {
        Self { inbound: 8 * INBOUND_MAX, records: 4 * RECORDS_MAX }
    }
}

/// What a relay carries for others. Everything beyond is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayLimits {
    /// Peers that may be reached through this node at once.
    pub reservations: usize,
    /// Connections that it carries at once.
    pub circuits: usize,
    /// Bytes that one of them may carry each way before it is cut.
    pub circuit_bytes: u64,
    /// How long one of them may last before it is cut.
    pub circuit_duration: Duration,
}

impl Default for RelayLimits {
    /// Room for a few hundred peers, and enough for each connection to agree on a direct one, or to exchange templates.
    fn default() -> Self {
        Self {
            reservations: 256,
            circuits: 64,
            circuit_bytes: 4 << 20,
            circuit_duration: Duration::from_secs(600),
        }
    }
}

/// Whether strangers reach a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It lives among machines that can reach each other: private addresses are kept and told.
    Local,
    /// It is on the open internet: private addresses are dropped, and of its own only those are told that
    /// are routable there, or given as `external`.
    Public,
}

/// The name of a network: 1 to 64 letters, digits, `-` and `_`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkName(String);

impl NetworkName {
    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns what nodes of this network, and no others, say that they speak.
    pub(crate) fn family(&self) -> String {
        format!("/dunlin/{}/1", self.0)
    }

    fn kad_protocol(&self) -> StreamProtocol {
        StreamProtocol::try_from_owned(format!("/dunlin/{}/kad/1.0.0", self.0))
            .expect("a path that begins with a slash")
    }

    pub(crate) fn segments_topic(&self) -> IdentTopic {
        IdentTopic::new(format!("/dunlin/{}/segments/1", self.0))
    }

    pub(crate) fn revocations_topic(&self) -> IdentTopic {
        IdentTopic::new(format!("/dunlin/{}/revocations/1", self.0))
    }

    pub(crate) fn evidence_topic(&self) -> IdentTopic {
        IdentTopic::new(format!("/dunlin/{}/evidence/1", self.0))
    }

    pub(crate) fn templates_topic(&self) -> IdentTopic {
        IdentTopic::new(format!("/dunlin/{}/templates/1", self.0))
    }

    /// Returns the CID under which the network's peers find each other on the DHT.
    #[must_use]
    pub fn rendezvous(&self) -> Cid {
        cid_of(Codec::Raw, format!("dunlin-rendezvous:{}", self.0).as_bytes())
    }
}

impl FromStr for NetworkName {
    type Err = ConfigError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if (1..=64).contains(&name.len()) && name.bytes().all(plain) {
            Ok(Self(name.to_owned()))
        } else {
            Err(ConfigError::NetworkName { name: name.to_owned() })
        }
    }
}

impl std::fmt::Display for NetworkName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The network's name has other characters, or is too long.
    #[error("network name {name:?}; it must have 1 to 64 letters, digits, `-` or `_`")]
    NetworkName {
        /// The name.
        name: String,
    },
    /// A bootstrap address does not say which peer is there.
    #[error("bootstrap address {address} does not end in /p2p/<peer id>")]
    BootstrapWithoutPeer {
        /// The address.
        address: Multiaddr,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_networks_apart() {
        let (one, other): (NetworkName, NetworkName) =
            ("one".parse().unwrap(), "other".parse().unwrap());
        assert_ne!(one.rendezvous(), other.rendezvous());
        assert_eq!(one.kad_protocol().as_ref(), "/dunlin/one/kad/1.0.0");
        for bad in ["", "a b", "a/b", "ä", &"x".repeat(65)] {
            assert!(bad.parse::<NetworkName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bootstrap_address_names_its_peer() {
        let mut config = Config::new("n".parse().unwrap());
        config.bootstrap = vec!["/ip4/127.0.0.1/tcp/1".parse().unwrap()];
        assert!(config.bootstrap_peers().is_err());
        let peer = PeerId::random();
        config.bootstrap = vec![format!("/ip4/127.0.0.1/tcp/1/p2p/{peer}").parse().unwrap()];
        assert_eq!(config.bootstrap_peers().unwrap()[0].0, peer);
    }
}
