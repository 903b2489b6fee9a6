//! One node of the tree, and its bytes.

use dunlin_wire::{
    Cid,
    block::{Block, Codec},
    cbor,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{
    Root,
    key::{Entry, Key, Prefix},
};

/// Most entries of a leaf; a part with more branches. 256 make a block of about 13 KiB.
pub const LEAF_ENTRIES_MAX: usize = 256;

/// The version of the layout.
const VERSION: u8 = 1;

/// Largest block of a node: a leaf of entries at the ends of time.
const NODE_BYTES_MAX: usize = 16 * 1024;

/// A node.
pub(super) enum Node {
    /// Rising keys.
    Leaf(Vec<Key>),
    /// Keys that begin with `prefix`, by the nibble that follows; 2 to 16 children, by rising nibbles.
    Inner { prefix: Prefix, children: Vec<Child> },
}

/// A branch.
#[derive(Clone, Copy)]
pub(super) struct Child {
    pub(super) nibble: u8,
    pub(super) root: Root,
}

/// A node as it is encoded: version, kind (0 leaf, 1 inner), length and bytes of the prefix, rows.
#[derive(Serialize, Deserialize)]
struct Encoded(u8, u8, u8, ByteBuf, Vec<Row>);

/// A leaf's start, 0 and segment; an inner node's nibble, count and child.
#[derive(Serialize, Deserialize)]
struct Row(i64, u64, Cid);

impl Node {
    /// Returns how many entries the node stands for.
    pub(super) fn count(&self) -> u64 {
        match self {
            Self::Leaf(keys) => keys.len() as u64,
            Self::Inner { children, .. } => children.iter().map(|child| child.root.count).sum(),
        }
    }

    pub(super) fn to_block(&self) -> Block {
        let encoded = match self {
            Self::Leaf(keys) => {
                let row = |key: &Key| {
                    let entry = key.entry();
                    Row(entry.start, 0, entry.cid())
                };
                Encoded(VERSION, 0, 0, ByteBuf::new(), keys.iter().map(row).collect())
            }
            Self::Inner { prefix, children } => {
                let row =
                    |child: &Child| Row(child.nibble.into(), child.root.count, child.root.cid);
                let length =
                    u8::try_from(prefix.len()).expect("a prefix has fewer than 80 nibbles");
                let rows = children.iter().map(row).collect();
                Encoded(VERSION, 1, length, ByteBuf::from(prefix.bytes()), rows)
            }
        };
        let bytes = cbor::encode(&encoded).expect("integers, bytes and links have an encoding");
        Block::new(Codec::DagCbor, bytes)
    }

    /// Returns the node that the bytes hold, or what is wrong with them.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let decoded = cbor::decode::<Encoded>(bytes, NODE_BYTES_MAX);
        let Encoded(version, kind, length, prefix, rows) = decoded.map_err(|_| "no node")?;
        if version != VERSION {
            return Err("a version that this build does not know");
        }
        match kind {
            0 if length == 0 && prefix.is_empty() => {
                let key = |Row(start, zero, cid): Row| {
                    let entry = Entry::new(start, &cid).filter(|_| zero == 0);
                    entry.as_ref().map(Key::of)
                };
                let keys: Option<Vec<Key>> = rows.into_iter().map(key).collect();
                Ok(Self::Leaf(keys.ok_or("an entry that is no segment")?))
            }
            1 => {
                let prefix = Prefix::from_bytes(&prefix, length.into()).ok_or("a bad prefix")?;
                let child = |Row(nibble, count, cid): Row| {
                    let nibble = u8::try_from(nibble).ok().filter(|nibble| *nibble < 16)?;
                    Some(Child { nibble, root: Root { cid, count } })
                };
                let children: Option<Vec<Child>> = rows.into_iter().map(child).collect();
                Ok(Self::Inner { prefix, children: children.ok_or("a bad branch")? })
            }
            _ => Err("a kind that does not exist"),
        }
    }

    /// Checks that the node is the one of a tree that `part` says, under keys that begin with `above`.
    pub(super) fn check(&self, part: &Root, above: &Prefix) -> Result<(), &'static str> {
        let is_whole = match self {
            Self::Leaf(keys) => {
                (1..=LEAF_ENTRIES_MAX).contains(&keys.len())
                    && keys.is_sorted_by(|a, b| a < b)
                    && keys.iter().all(|key| above.shared_with(key) == above.len())
            }
            Self::Inner { prefix, children } => {
                (2..=16).contains(&children.len())
                    && children.is_sorted_by(|a, b| a.nibble < b.nibble)
                    && above.begins(prefix)
                    // Sums of counts from a stranger must not overflow.
                    && children.iter().all(|child| (1..1 << 48).contains(&child.root.count))
                    && self.count() > LEAF_ENTRIES_MAX as u64
            }
        };
        if !is_whole {
            return Err("not what its place says");
        }
        if self.count() == part.count { Ok(()) } else { Err("another count than its place says") }
    }
}
