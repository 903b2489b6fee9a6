//! Revocations: statements that a key is no peer any more, for ever.
//!
//! The authorities of a network keep a log of the keys that they revoked. What they sign is its [`Head`]: how
//! many keys there are, and the end of a hash chain over them. So a revocation costs 32 bytes, whatever the
//! number of signatures, and a node that knows the log up to some key learns the rest as the keys that follow
//! with the newest head: an [`Extension`]. Two heads may continue one log in two ways, when authorities did
//! not know of each other; both are kept, and the union counts.
//!
//! A key can revoke itself, too ([`Withdrawal`]): its owner lost it to somebody.

pub(crate) mod log;
pub(crate) mod set;
pub(crate) mod sync;

use dunlin_wire::envelope::Payload;
use libp2p_identity::PeerId;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;
use sha2::{Digest as _, Sha256};

use crate::{
    authorities::{Endorsements, NETWORK_BYTES_MAX},
    time::UnixMillis,
};

/// What a peer id is inside.
type Multihash = multihash::Multihash<64>;

/// The version of [`Head`] and [`Withdrawal`].
pub const REVOCATION_VERSION: u8 = 1;

/// Most keys of one log: so a whole log fits into one message. The authorities begin another when it is full.
pub const LOG_KEYS_MAX: usize = 120_000;

/// How an Ed25519 key begins that is a peer id in full: its type, and its length.
const ED25519_PREFIX: [u8; 4] = [0x08, 0x01, 0x12, 0x20];

/// The codes of multihashes: the bytes themselves, and sha2-256.
const IDENTITY: u64 = 0x00;
const SHA2_256: u64 = 0x12;

/// A key that is revoked, in 32 bytes: an Ed25519 key itself, and of any other kind its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject(pub(crate) [u8; 32]);

impl Subject {
    /// Returns the subject that stands for a peer.
    #[must_use]
    pub fn of(peer: &PeerId) -> Self {
        let hash: &Multihash = peer.as_ref();
        let key = match hash.code() {
            IDENTITY => hash.digest().strip_prefix(&ED25519_PREFIX),
            SHA2_256 => Some(hash.digest()),
            _ => None,
        };
        let subject = key.and_then(|key| key.try_into().ok());
        Self(subject.unwrap_or_else(|| Sha256::digest(peer.to_bytes()).into()))
    }

    /// Returns its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The hash chain over a log, at some number of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Chain(ByteArray<32>);

impl Chain {
    /// Returns the chain of a log without keys.
    #[must_use]
    pub fn start(network: &str) -> Self {
        let mut hash = Sha256::new_with_prefix(b"dunlin revocation log\0");
        hash.update(network.as_bytes());
        Self(ByteArray::new(hash.finalize().into()))
    }

    /// Returns the chain with one key more.
    #[must_use]
    pub fn then(self, subject: &Subject) -> Self {
        let mut hash = Sha256::new_with_prefix(*self.0);
        hash.update(subject.0);
        Self(ByteArray::new(hash.finalize().into()))
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// What authorities sign: the state of a log. It vouches for every key in it, whoever added it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    version: u8,
    network: String,
    /// How many keys the log has.
    pub(crate) count: u64,
    /// The chain over them.
    pub(crate) chain: Chain,
    /// When it was signed, for people to read: nothing is decided by it.
    issued: UnixMillis,
}

impl Head {
    pub(crate) fn new(network: &str, count: u64, chain: Chain, issued: UnixMillis) -> Self {
        let network = network.to_owned();
        Self { version: REVOCATION_VERSION, network, count, chain, issued }
    }

    /// Returns when it was signed, by the clock of whoever did.
    #[must_use]
    pub fn issued(&self) -> UnixMillis {
        self.issued
    }

    /// Returns the network that it is of.
    #[must_use]
    pub fn network(&self) -> &str {
        &self.network
    }

    /// Returns how many keys the log has.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn is_of(&self, network: &str) -> bool {
        self.version == REVOCATION_VERSION && self.network == network
    }
}

impl Payload for Head {
    const TYPE: &'static str = "dunlin/revocations/1";
    /// A name, a count, a hash, a time, and their keys.
    const BYTES_MAX: usize = 192 + NETWORK_BYTES_MAX;
}

/// The keys that follow in a log, and the head that vouches for all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extension {
    /// The chain at which it goes on; that of no keys for a whole log.
    pub(crate) after: Chain,
    /// The keys, 32 bytes each.
    #[serde(with = "serde_bytes")]
    pub(crate) keys: Vec<u8>,
    /// The signatures.
    pub(crate) head: Endorsements,
}

impl Extension {
    /// Returns the head with its signatures, which vouches for all of the log.
    #[must_use]
    pub fn head(&self) -> &Endorsements {
        &self.head
    }

    /// Returns the keys; `None` when there is half a one or are too many.
    pub(crate) fn subjects(&self) -> Option<Vec<Subject>> {
        let (keys, rest) = self.keys.as_chunks::<32>();
        let fits = rest.is_empty() && keys.len() <= LOG_KEYS_MAX;
        fits.then(|| keys.iter().map(|key| Subject(*key)).collect())
    }
}

/// A key's statement that it is to be trusted no more, signed by itself. Whoever holds a key can make it, the
/// thief, too: it ends the key either way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Withdrawal {
    version: u8,
    /// When it was signed, for people to read.
    issued: UnixMillis,
    /// Of an authority: the newest log that it signed and stands by. What it signed otherwise counts no more.
    pub(crate) stands_by: Option<Chain>,
}

impl Withdrawal {
    /// Returns a withdrawal that is not signed yet. An authority names the log that it still stands by.
    #[must_use]
    pub fn new(issued: UnixMillis, stands_by: Option<Chain>) -> Self {
        Self { version: REVOCATION_VERSION, issued, stands_by }
    }

    /// Returns when it was signed, by the clock of whoever did.
    #[must_use]
    pub fn issued(&self) -> UnixMillis {
        self.issued
    }

    pub(crate) fn is_known(&self) -> bool {
        self.version == REVOCATION_VERSION
    }
}

impl Payload for Withdrawal {
    const TYPE: &'static str = "dunlin/withdrawal/1";
    const BYTES_MAX: usize = 128;
}
