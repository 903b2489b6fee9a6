//! What is kept of where peers are, and its bytes (`docs/formats/peers.md`).

use dunlin_trust::UnixMillis;
use dunlin_wire::cbor;
use libp2p::{Multiaddr, PeerId};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// Most peers whose addresses are kept.
pub const KNOWN_PEERS_MAX: usize = 1_024;

/// Addresses that are kept of one peer.
pub const KNOWN_ADDRESSES_MAX: usize = 8;

const VERSION: u8 = 1;

/// Largest file: every address as long as any may be.
const BYTES_MAX: usize = 4 << 20;

/// A peer of our network, and where it is.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownPeer {
    /// Its id.
    pub peer: PeerId,
    /// When it was met first.
    pub met: UnixMillis,
    /// When it was connected last.
    pub seen: UnixMillis,
    /// Whether it serves the DHT.
    pub is_dht_server: bool,
    /// At most [`KNOWN_ADDRESSES_MAX`].
    pub addresses: Vec<KnownAddress>,
}

/// An address of a peer.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownAddress {
    /// The address, without the peer's id.
    pub address: Multiaddr,
    /// From where it was known first.
    pub source: Source,
    /// When.
    pub learnt: UnixMillis,
    /// When a dial of ours found the peer there last.
    pub reached: Option<UnixMillis>,
}

/// From where an address is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The configuration, or the operator's word.
    Config,
    /// The local network, over mDNS.
    Mdns,
    /// Others, over the DHT.
    Dht,
    /// The peer itself.
    Peer,
}

impl KnownPeer {
    /// Takes in an address. When there are too many, one goes that no dial has reached, or else the one that was
    /// reached the longest ago.
    pub(crate) fn learn(
        &mut self,
        address: Multiaddr,
        source: Source,
        now: UnixMillis,
        reached: Option<UnixMillis>,
    ) {
        match self.addresses.iter_mut().find(|known| known.address == address) {
            Some(known) => {
                known.reached = known.reached.max(reached);
            }
            None => self.addresses.push(KnownAddress { address, source, learnt: now, reached }),
        }
        if self.addresses.len() > KNOWN_ADDRESSES_MAX {
            let rank = |at: &usize| (self.addresses[*at].reached, self.addresses[*at].learnt, *at);
            let least = (0..self.addresses.len()).min_by_key(rank);
            least.map(|least| self.addresses.remove(least));
        }
    }

    /// Returns whether a dial of ours has found the peer.
    pub(crate) fn was_reached(&self) -> bool {
        self.addresses.iter().any(|known| known.reached.is_some())
    }

    /// Returns how much it is worth to keep: whether it was reached, and for how long it was known, which a new key
    /// cannot pretend.
    pub(crate) fn worth(&self) -> (bool, u64, UnixMillis) {
        (self.was_reached(), self.seen.millis_since(self.met), self.seen)
    }

    /// Returns the addresses, the one that was reached last first.
    pub(crate) fn by_success(&self) -> Vec<Multiaddr> {
        let mut addresses: Vec<_> = self.addresses.iter().collect();
        addresses.sort_by_key(|known| std::cmp::Reverse((known.reached, known.learnt)));
        addresses.into_iter().map(|known| known.address.clone()).collect()
    }
}

/// A peer's bytes: id, met, seen, whether it serves the DHT, addresses.
type PeerRow = (ByteBuf, u64, u64, bool, Vec<AddressRow>);

/// An address's bytes: address, source, learnt, reached.
type AddressRow = (ByteBuf, Source, u64, Option<u64>);

/// Returns the bytes to keep.
#[must_use]
pub fn encode_known_peers(peers: &[KnownPeer]) -> Vec<u8> {
    let address = |known: &KnownAddress| -> AddressRow {
        let reached = known.reached.map(|time| time.0);
        (ByteBuf::from(known.address.to_vec()), known.source, known.learnt.0, reached)
    };
    let peer = |known: &KnownPeer| -> PeerRow {
        let addresses = known.addresses.iter().map(address).collect();
        let id = ByteBuf::from(known.peer.to_bytes());
        (id, known.met.0, known.seen.0, known.is_dht_server, addresses)
    };
    let peers: Vec<_> = peers.iter().map(peer).collect();
    cbor::encode(&(VERSION, peers)).expect("numbers, lists and byte strings have an encoding")
}

/// Returns the peers that were kept.
///
/// # Errors
///
/// Fails when the bytes are damaged, or of a newer version.
pub fn decode_known_peers(bytes: &[u8]) -> Result<Vec<KnownPeer>, KnownPeersError> {
    let (version, rows): (u8, Vec<PeerRow>) = cbor::decode(bytes, BYTES_MAX)?;
    if version != VERSION {
        return Err(KnownPeersError::Version { version });
    }
    rows.into_iter().map(known_peer).collect()
}

fn known_peer(
    (id, met, seen, is_dht_server, addresses): PeerRow,
) -> Result<KnownPeer, KnownPeersError> {
    Ok(KnownPeer {
        peer: PeerId::from_bytes(&id).map_err(|_| KnownPeersError::Peer)?,
        met: UnixMillis(met),
        seen: UnixMillis(seen),
        is_dht_server,
        addresses: addresses.into_iter().map(known_address).collect::<Result<_, _>>()?,
    })
}

fn known_address(
    (address, source, learnt, reached): AddressRow,
) -> Result<KnownAddress, KnownPeersError> {
    Ok(KnownAddress {
        address: Multiaddr::try_from(address.into_vec()).map_err(|_| KnownPeersError::Address)?,
        source,
        learnt: UnixMillis(learnt),
        reached: reached.map(UnixMillis),
    })
}

/// Bytes that are no list of known peers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KnownPeersError {
    /// They are not canonical DAG-CBOR of the right shape.
    #[error(transparent)]
    Decode(#[from] cbor::DecodeError),
    /// A newer version wrote them.
    #[error("version {version} is not known")]
    Version {
        /// Which.
        version: u8,
    },
    /// An id is none.
    #[error("a peer id is damaged")]
    Peer,
    /// An address is none.
    #[error("an address is damaged")]
    Address,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let address = |text: &str, source, reached| KnownAddress {
            address: text.parse().unwrap(),
            source,
            learnt: UnixMillis(1_763_700_000_000),
            reached,
        };
        let known = KnownPeer {
            peer: PeerId::from_bytes(&[&[0x12, 0x20][..], &[7; 32]].concat()).unwrap(),
            met: UnixMillis(1_763_700_000_000),
            seen: UnixMillis(1_763_700_000_001),
            is_dht_server: true,
            addresses: vec![
                address("/ip4/198.51.100.7/tcp/4601", Source::Dht, Some(UnixMillis(23))),
                address("/ip4/198.51.100.7/udp/4601/quic-v1", Source::Peer, None),
            ],
        };
        let bytes = encode_known_peers(std::slice::from_ref(&known));
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let golden = [
            "82 01 81 85", // array of 2, version 1, array of 1, array of 5
            "5822 1220",
            &"07".repeat(32),                                // 34 bytes: a peer id
            "1b 0000019aa4b64500 1b 0000019aa4b64501 f5 82", // met, seen, true, array of 2
            "84 48 04 c6336407 06 11f9",                     // array of 4, 8 bytes: ip4, tcp
            "63 646874 1b 0000019aa4b64500 17",              // "dht", learnt, reached
            "84 4b 04 c6336407 9102 11f9 cd03", // array of 4, 11 bytes: ip4, udp, quic-v1
            "64 70656572 1b 0000019aa4b64500 f6", // "peer", learnt, null
        ];
        assert_eq!(hex, golden.concat().replace(' ', ""));
        assert_eq!(decode_known_peers(&bytes).unwrap(), [known]);
        let mut newer = bytes;
        newer[1] = 2;
        assert!(matches!(decode_known_peers(&newer), Err(KnownPeersError::Version { version: 2 })));
    }
}
