//! Names: the hash of a key, in the forms that people and the DHT use.

use std::{fmt, str::FromStr};

use cid::{
    Cid,
    multibase::{self, Base},
};
use libp2p_identity::{PeerId, PublicKey};
use multihash::Multihash;

/// What keys of the DHT begin with.
const ROUTING_PREFIX: &[u8] = b"/ipns/";

/// The multicodec number of a key.
const LIBP2P_KEY: u64 = 0x72;

/// The multihash code of identity: the digest is the key.
const IDENTITY: u64 = 0x00;

/// The name of an Ed25519 key: the key itself stands in it, so that a record needs none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(PeerId);

impl Name {
    /// Returns the name of a peer; none for one whose key does not stand in its id.
    #[must_use]
    pub fn of(peer: &PeerId) -> Option<Self> {
        let name = Self(*peer);
        name.key().map(|_| name)
    }

    /// Returns the peer whose name it is.
    #[must_use]
    pub fn peer(&self) -> PeerId {
        self.0
    }

    /// Returns the key under which its record is on the DHT.
    #[must_use]
    pub fn routing_key(&self) -> Vec<u8> {
        [ROUTING_PREFIX, &self.0.to_bytes()].concat()
    }

    /// Returns the name whose record is under a key of the DHT, if it is one.
    #[must_use]
    pub fn from_routing_key(key: &[u8]) -> Option<Self> {
        let peer = PeerId::from_bytes(key.strip_prefix(ROUTING_PREFIX)?).ok()?;
        Self::of(&peer)
    }

    /// Returns the Ed25519 key that stands in the name.
    pub(super) fn key(&self) -> Option<[u8; 32]> {
        let hash: &Multihash<64> = self.0.as_ref();
        if hash.code() != IDENTITY {
            return None;
        }
        let key = PublicKey::try_decode_protobuf(hash.digest()).ok()?;
        Some(key.try_into_ed25519().ok()?.to_bytes())
    }
}

impl fmt::Display for Name {
    /// Writes it as IPFS does: a CID of the key in base 36.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hash: &Multihash<64> = self.0.as_ref();
        let cid = Cid::new_v1(LIBP2P_KEY, *hash);
        f.write_str(&multibase::encode(Base::Base36Lower, cid.to_bytes()))
    }
}

impl FromStr for Name {
    type Err = NameError;

    /// Reads a CID of a key in any base, or a peer id in base 58; `/ipns/` may stand in front.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let text = text.strip_prefix("/ipns/").unwrap_or(text);
        let peer = text.parse::<PeerId>().ok().or_else(|| {
            let cid = text.parse::<Cid>().ok().filter(|cid| cid.codec() == LIBP2P_KEY)?;
            PeerId::from_multihash(*cid.hash()).ok()
        });
        Self::of(&peer.ok_or(NameError::NoKey)?).ok_or(NameError::NotEd25519)
    }
}

/// Why a text is no name that can be resolved here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// It is neither a peer id nor the CID of a key.
    #[error("it is no name: neither a peer id like 12D3KooW… nor the CID of a key like k51…")]
    NoKey,
    /// It names a key of another kind than the one that is supported.
    #[error("its key is not of the kind Ed25519, and no other is supported")]
    NotEd25519,
}
