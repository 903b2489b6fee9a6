//! Keys: a start as a number that sorts as time does, then a digest; and what many of them begin with.

use dunlin_wire::{
    Cid,
    block::{Codec, cid_of_digest},
};

/// A segment in the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Time of its first observation, in microseconds since the epoch.
    pub start: i64,
    /// The sha2-256 digest in its CID, which is of version 1 and `dag-cbor`.
    pub digest: [u8; 32],
}

/// Bytes of a key.
const KEY_BYTES: usize = 40;

/// Nibbles of a key: more than any prefix has.
const KEY_NIBBLES: usize = 2 * KEY_BYTES;

/// Nibbles of the time in a key.
const TIME_NIBBLES: usize = 16;

/// An entry as a number of eighty nibbles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key([u8; KEY_BYTES]);

/// What keys begin with: fewer nibbles than a key has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefix {
    /// Nibbles from `len` on are zero.
    bytes: [u8; KEY_BYTES],
    len: usize,
}

impl Entry {
    /// Returns the entry of a segment, or `None` when its CID is of another kind.
    #[must_use]
    pub fn new(start: i64, cid: &Cid) -> Option<Self> {
        let digest = cid.hash().digest().try_into().ok()?;
        let entry = Self { start, digest };
        (entry.cid() == *cid).then_some(entry)
    }

    /// Returns the entry of a sealed segment: when it began is nobody's business who has no key, so that all of
    /// them begin at the epoch.
    #[must_use]
    pub fn of_sealed(cid: &Cid) -> Option<Self> {
        Self::new(0, cid)
    }

    /// Returns the segment's CID.
    #[must_use]
    pub fn cid(&self) -> Cid {
        cid_of_digest(Codec::DagCbor, self.digest)
    }
}

impl Key {
    pub(super) fn of(entry: &Entry) -> Self {
        let mut bytes = [0; KEY_BYTES];
        let (time, digest) = bytes.split_at_mut(8);
        // The earliest time is zero.
        time.copy_from_slice(&(entry.start.cast_unsigned() ^ (1 << 63)).to_be_bytes());
        digest.copy_from_slice(&entry.digest);
        Self(bytes)
    }

    pub(super) fn entry(&self) -> Entry {
        let (time, digest) = self.0.split_first_chunk::<8>().expect("a key has forty bytes");
        let start = (u64::from_be_bytes(*time) ^ (1 << 63)).cast_signed();
        Entry { start, digest: digest.try_into().expect("thirty-two bytes are left") }
    }

    pub(super) fn nibble(&self, index: usize) -> u8 {
        nibble(&self.0, index)
    }
}

impl Default for Prefix {
    /// What every key begins with: nothing.
    fn default() -> Self {
        Self { bytes: [0; KEY_BYTES], len: 0 }
    }
}

impl Prefix {
    /// Returns the longest beginning that several different keys, which rise, have in common.
    pub(super) fn common_of(keys: &[Key]) -> Self {
        let (Some(first), Some(last)) = (keys.first(), keys.last()) else { return Self::default() };
        let whole = Self { bytes: first.0, len: KEY_NIBBLES };
        whole.cut(whole.shared_with(last))
    }

    /// Returns the prefix of so many nibbles that these bytes hold, or `None` when they hold another one.
    pub(super) fn from_bytes(bytes: &[u8], len: usize) -> Option<Self> {
        if len >= KEY_NIBBLES || bytes.len() != len.div_ceil(2) {
            return None;
        }
        let mut prefix = Self { bytes: [0; KEY_BYTES], len };
        prefix.bytes[..bytes.len()].copy_from_slice(bytes);
        (prefix.cut(len) == prefix).then_some(prefix)
    }

    /// Returns the bytes that hold the nibbles; the last half is zero where they are odd in number.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len.div_ceil(2)]
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn nibble(&self, index: usize) -> u8 {
        nibble(&self.bytes, index)
    }

    /// Returns how many nibbles a key begins with as this does.
    pub(super) fn shared_with(&self, key: &Key) -> usize {
        (0..self.len).take_while(|index| self.nibble(*index) == key.nibble(*index)).count()
    }

    /// Returns whether another prefix begins with this one.
    pub(super) fn begins(&self, other: &Self) -> bool {
        other.len >= self.len && other.cut(self.len) == *self
    }

    /// Returns the first nibbles.
    pub(super) fn cut(&self, len: usize) -> Self {
        let mut bytes = self.bytes;
        bytes[len.div_ceil(2)..].fill(0);
        if !len.is_multiple_of(2) {
            bytes[len / 2] &= 0xf0;
        }
        Self { bytes, len }
    }

    /// Returns this with one more nibble.
    pub(super) fn followed_by(&self, nibble: u8) -> Self {
        let mut bytes = self.bytes;
        let half = if self.len.is_multiple_of(2) { nibble << 4 } else { nibble };
        bytes[self.len / 2] |= half;
        Self { bytes, len: self.len + 1 }
    }

    /// Returns whether a key with this beginning may start in this time.
    pub(super) fn may_start_within(&self, from: i64, to: i64) -> bool {
        let known = self.cut(self.len.min(TIME_NIBBLES));
        let mut latest = known.bytes;
        for index in known.len..TIME_NIBBLES {
            latest[index / 2] |= if index.is_multiple_of(2) { 0xf0 } else { 0x0f };
        }
        let start = |bytes: [u8; KEY_BYTES]| Key(bytes).entry().start;
        start(known.bytes) <= to && start(latest) >= from
    }
}

fn nibble(bytes: &[u8], index: usize) -> u8 {
    let byte = bytes[index / 2];
    if index.is_multiple_of(2) { byte >> 4 } else { byte & 15 }
}
