//! What an operator chooses about the network, and the limits that nobody may turn off.

use std::{str::FromStr, time::Duration};

use crate::known_peers::KnownPeer;
use dunlin_trust::Endorsements;
use dunlin_wire::{
    Cid,
    block::{Codec, cid_of},
};
use libp2p::{Multiaddr, PeerId, StreamProtocol, gossipsub::IdentTopic, multiaddr::Protocol};

/// Connections that may be half open, inbound and outbound each. Above, new ones are refused.
pub(crate) const PENDING_MAX: usize = 64;
/// Established inbound connections. Above, new ones are refused.
pub(crate) const INBOUND_MAX: usize = 256;
/// Established outbound connections. Above, dials fail.
pub(crate) const OUTBOUND_MAX: usize = 128;
/// Established connections in all.
pub(crate) const ESTABLISHED_MAX: usize = 384;
/// Connections with one peer: one each way, as simultaneous dials leave.
pub(crate) const PER_PEER_MAX: usize = 2;
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
/// Bytes that one QUIC connection may send ahead.
pub(crate) const QUIC_CONNECTION_BYTES_MAX: u32 = 4_000_000;
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
    /// Peers that were known when the node ended, from [`crate::Event::PeersKnown`]. They are dialled while few peers
    /// are connected. Default none.
    pub known_peers: Vec<KnownPeer>,
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
            known_peers: Vec::new(),
            mdns: true,
            reach: Reach::Local,
            dht: None,
            one_machine: false,
            license: None,
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
