//! One object, as small as it can be remembered, and who holds it.

use dunlin_wire::{
    Cid,
    block::{Codec, cid_of_digest},
};
use rand_chacha::{ChaCha12Rng, rand_core::Rng as _};

/// How far a placement has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// The peer was chosen and may have been asked.
    Asked,
    /// The peer confirmed that it holds the object.
    Held,
    /// The peer counts no more, and is to be told so when it can be.
    Lost,
}

impl Placed {
    /// Returns the number that is written down.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Asked => 0,
            Self::Held => 1,
            Self::Lost => 2,
        }
    }

    /// Returns the state with this number.
    pub(crate) fn of_code(code: u8) -> Option<Self> {
        [Self::Asked, Self::Held, Self::Lost].into_iter().find(|state| state.code() == code)
    }
}

/// A root's CID in 33 bytes instead of a hundred: its codec and its digest. The digest comes first, so keys
/// are spread evenly over their range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    digest: [u8; 32],
    is_raw: bool,
}

impl Key {
    /// Returns the key of a CID of the archive; nothing for another one.
    pub(super) fn of(cid: &Cid) -> Option<Self> {
        let codec = Codec::of(cid)?;
        let key =
            Self { digest: cid.hash().digest().try_into().ok()?, is_raw: codec == Codec::Raw };
        (key.cid() == *cid).then_some(key)
    }

    pub(super) fn random(rng: &mut ChaCha12Rng) -> Self {
        let mut digest = [0; 32];
        rng.fill_bytes(&mut digest);
        Self { digest, is_raw: false }
    }

    pub(super) fn cid(&self) -> Cid {
        cid_of_digest(if self.is_raw { Codec::Raw } else { Codec::DagCbor }, self.digest)
    }

    /// Returns how much this object wants to be at the peer with this seed. Digests are uniform, so two
    /// rounds of mixing (the finalizer of SplitMix64) are as good as a hash, and a hundred times as fast.
    pub(super) fn rank(&self, seed: u64) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.digest;
        let mut mixed = u64::from_be_bytes([a, b, c, d, e, f, g, h]) ^ seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// A peer's part in one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    /// The peer's number.
    pub(super) peer: u16,
    pub(super) state: Placed,
    /// It counts only while the peer has the same.
    pub(super) generation: u8,
}

/// An object and its holders.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) holders: Vec<Holder>,
    /// The round in which it was told last.
    pub(super) told: u32,
    pub(super) is_public: bool,
    /// Whether it cannot have replicas, as far as this round showed.
    pub(super) is_unfit: bool,
}

impl Object {
    pub(super) fn new(told: u32, is_public: bool) -> Self {
        Self { holders: Vec::new(), told, is_public, is_unfit: false }
    }

    pub(super) fn holder(&self, peer: u16) -> Option<&Holder> {
        self.holders.iter().find(|holder| holder.peer == peer)
    }

    pub(super) fn place_of(&self, peer: u16) -> Option<usize> {
        self.holders.iter().position(|holder| holder.peer == peer)
    }

    /// Returns how many holders it has, or will have when they confirm.
    pub(super) fn live(&self) -> usize {
        self.holders.iter().filter(|holder| holder.state != Placed::Lost).count()
    }
}
