//! What a peer signs with an answer: which bytes it sent for which CIDs.
//!
//! One signature covers all objects of an answer: it is over the root of a tree of hashes with one leaf for each object.
//! So one object that is wrong is shown with the few hashes beside it, without the others ([`WrongObject`]). What a peer signs
//! with others' statements that it hands on is such a tree, too (`passed.rs`).
//!
//! Whoever answers honestly signs what its CIDs say ([`SentObject::whole`]), for it has verified what it reads. So nothing that
//! happens to bytes between its disk and the line has it sign what is wrong; whoever asked sees that the answer is not
//! the one that was signed.

use dunlin_wire::{Cid, envelope::Payload};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;
use sha2::{Digest as _, Sha256};

use crate::proof::PROOF_VERSION;

/// Most objects of one answer.
pub const SERVED_OBJECTS_MAX: usize = 256;

/// The code of sha2-256, the digest of every CID that Dunlin makes.
const SHA2_256: u64 = 0x12;

/// Stands before what a leaf is the hash of, so that none can be shown as an inner node, nor the other way round.
const LEAF: [u8; 1] = [0];
const NODE: [u8; 1] = [1];

type Hash = [u8; 32];

/// An object of an answer: what was asked for, and the sha2-256 of the bytes that were sent for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentObject {
    cid: Cid,
    digest: Hash,
}

impl SentObject {
    /// Returns the object that these bytes are sent as.
    #[must_use]
    pub fn new(cid: Cid, bytes: &[u8]) -> Self {
        Self { cid, digest: Sha256::digest(bytes).into() }
    }

    /// Returns the object that is sent whole: its bytes, which are hashed only where the CID has another digest, are what the
    /// CID names.
    #[must_use]
    pub fn whole(cid: Cid, bytes: &[u8]) -> Self {
        named(&cid).map_or_else(|| Self::new(cid, bytes), |digest| Self { cid, digest })
    }

    /// Returns whether the bytes are not what the CID names. Of CIDs with another digest nothing is proven.
    fn is_wrong(&self) -> bool {
        named(&self.cid).is_some_and(|digest| digest != self.digest)
    }

    fn leaf(&self) -> Hash {
        hash_of(&[&LEAF, &self.cid.to_bytes(), &self.digest])
    }
}

/// What a peer signs with an answer of a network: which bytes it sent for which CIDs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Served {
    count: u16,
    network: String,
    root: ByteArray<32>,
    version: u8,
}

impl Served {
    /// Returns the statement that these objects were sent, in this order. Nobody has signed it yet. There is none about no
    /// object, nor about more than [`SERVED_OBJECTS_MAX`].
    #[must_use]
    pub fn new(network: &str, sent: &[SentObject]) -> Option<Self> {
        let count = u16::try_from(sent.len()).ok().filter(|count| *count > 0)?;
        (sent.len() <= SERVED_OBJECTS_MAX).then(|| Self {
            count,
            network: network.to_owned(),
            root: ByteArray::new(root(leaves(sent))),
            version: PROOF_VERSION,
        })
    }

    /// Returns whether it says that these objects were sent, in this order and network.
    #[must_use]
    pub fn is_about(&self, network: &str, sent: &[SentObject]) -> bool {
        Self::new(network, sent).as_ref() == Some(self)
    }

    /// Returns whether it says that an object was sent that is not what its CID names.
    pub(crate) fn convicts(&self, network: &str, wrong: &WrongObject) -> bool {
        let sent = SentObject { cid: wrong.cid, digest: *wrong.digest };
        sent.is_wrong() && self.has(network, &sent, &Place { at: wrong.at, path: &wrong.path })
    }

    /// Returns whether it says that an object was sent, at this place and in this network.
    pub(crate) fn has(&self, network: &str, sent: &SentObject, place: &Place<'_>) -> bool {
        self.version == PROOF_VERSION
            && self.network == network
            && usize::from(self.count) <= SERVED_OBJECTS_MAX
            && climb(sent.leaf(), place.at, self.count, place.path) == Some(*self.root)
    }
}

impl Payload for Served {
    const TYPE: &'static str = "dunlin/served/1";
    const BYTES_MAX: usize = 192;
}

/// Where an object is in an answer.
pub(crate) struct Place<'a> {
    /// Its number.
    pub(crate) at: u16,
    /// The hashes beside it, from its leaf up.
    pub(crate) path: &'a [ByteArray<32>],
}

/// An object of a signed answer whose bytes are not what its CID names, and what shows that it was among them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrongObject {
    at: u16,
    cid: Cid,
    digest: ByteArray<32>,
    /// The hashes beside it, from its leaf up.
    path: Vec<ByteArray<32>>,
}

impl WrongObject {
    /// Returns the first object of an answer that is not what its CID names, if there is one.
    #[must_use]
    pub fn first_of(sent: &[SentObject]) -> Option<Self> {
        let at = sent.iter().position(SentObject::is_wrong)?;
        let SentObject { cid, digest } = sent[at];
        let path = path_to(sent, at);
        Some(Self { at: u16::try_from(at).ok()?, cid, digest: ByteArray::new(digest), path })
    }
}

/// Returns the hashes beside an object of an answer, from its leaf up.
pub(crate) fn path_to(sent: &[SentObject], at: usize) -> Vec<ByteArray<32>> {
    path(leaves(sent), at).into_iter().map(ByteArray::new).collect()
}

/// Returns the sha2-256 that a CID names, if it names one.
fn named(cid: &Cid) -> Option<Hash> {
    let hash = cid.hash();
    (hash.code() == SHA2_256).then(|| hash.digest().try_into().ok()).flatten()
}

fn leaves(sent: &[SentObject]) -> Vec<Hash> {
    sent.iter().map(SentObject::leaf).collect()
}

/// Returns the level above; what has nothing beside it goes up as it is.
fn above(level: &[Hash]) -> Vec<Hash> {
    let up = |pair: &[Hash]| match pair {
        [left, right] => node(left, right),
        alone => alone[0],
    };
    level.chunks(2).map(up).collect()
}

fn root(mut level: Vec<Hash>) -> Hash {
    while level.len() > 1 {
        level = above(&level);
    }
    level[0]
}

/// Returns the hashes beside a leaf and what is above it.
fn path(mut level: Vec<Hash>, mut at: usize) -> Vec<Hash> {
    let mut path = Vec::new();
    while level.len() > 1 {
        path.extend(level.get(at ^ 1));
        (level, at) = (above(&level), at / 2);
    }
    path
}

/// Returns the root of a tree of so many leaves that has this leaf at this place and these hashes beside it, if that is
/// what such a tree has. A leaf has one such path, so that a proof has one name.
fn climb(leaf: Hash, at: u16, count: u16, path: &[ByteArray<32>]) -> Option<Hash> {
    if at >= count {
        return None;
    }
    let (mut hash, mut at, mut width, mut beside) = (leaf, at, count, path.iter());
    while width > 1 {
        if at ^ 1 < width {
            let other = beside.next()?;
            hash = if at % 2 == 0 { node(&hash, other) } else { node(other, &hash) };
        }
        (at, width) = (at / 2, width.div_ceil(2));
    }
    beside.next().is_none().then_some(hash)
}

fn node(left: &Hash, right: &Hash) -> Hash {
    hash_of(&[&NODE, left, right])
}

fn hash_of(parts: &[&[u8]]) -> Hash {
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}
