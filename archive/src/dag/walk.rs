//! The blocks behind a path, depth first, each as soon as it is asked for.
//!
//! Follows the trustless gateway specification: the blocks that prove the path, then of the last block what
//! `dag-scope` says, and of a file no more than `entity-bytes` needs. Blocks of identity CIDs are read, and
//! never handed out. A block is read from its source only when it is its turn, so the memory of a walk is
//! one block and the CIDs that wait.

use std::collections::HashSet;

use dunlin_wire::Cid;

use super::{
    DAG_PB, Source, hamt, inline, links, load,
    pb::{Node, NodeError, UnixFs, UnixFsKind},
};
use crate::car::Section;

/// Most blocks that one walk reads. A graph of 64 blocks, each linking to the next twice, has 2^64 ways
/// through it. Ours: 256 GiB of payload.
pub const BLOCKS_MAX: u64 = 1 << 18;

/// Most CIDs that wait for their turn: 25 MiB. A plain directory has thousands, a part of a bundle's index
/// 8,192.
const WAITING_MAX: usize = 1 << 18;

/// How much of what the last block stands for is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The block alone.
    Block,
    /// What is needed to read the file, or to list the directory; of other blocks, the block.
    Entity(ByteRange),
    /// Everything that it links to.
    All,
}

/// A range of a file's bytes, both ends included. Negative numbers count from the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// Where it begins.
    pub from: i64,
    /// Where it ends; nothing is the end of the file.
    pub to: Option<i64>,
}

impl ByteRange {
    /// All of a file.
    pub const ALL: Self = Self { from: 0, to: None };

    /// Returns the offsets of the first byte and behind the last one in a file of `size` bytes; equal, when
    /// there are none.
    fn clamp(self, size: u64) -> (u64, u64) {
        let place = |offset: i64| match u64::try_from(offset) {
            Ok(offset) => i128::from(offset),
            Err(_) => i128::from(size) + i128::from(offset),
        };
        let inside = |offset: i128| {
            u64::try_from(offset.clamp(0, i128::from(size))).expect("it is between two of them")
        };
        let from = inside(place(self.from));
        let to = self.to.map_or(size, |to| inside(place(to) + 1));
        (from, to.max(from))
    }
}

/// What a walk hands out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Blocks that prove the path, in order.
    pub trail: Vec<Cid>,
    /// The last block.
    pub last: Cid,
    /// How much of it.
    pub scope: Scope,
    /// Whether a block is handed out again where the walk comes by again.
    pub with_duplicates: bool,
}

/// A walk under way.
#[derive(Debug)]
pub struct Walk<S> {
    source: S,
    /// The next one is the last.
    waiting: Vec<Visit>,
    with_duplicates: bool,
    /// Hashes of what was handed out, when nothing is handed out twice.
    seen: HashSet<Vec<u8>>,
    visited: u64,
}

#[derive(Clone, Copy, Debug)]
struct Visit {
    cid: Cid,
    manner: Manner,
}

/// What to do with a block when it is its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// It alone.
    Alone,
    /// It and all it links to.
    All,
    /// The entity that it is.
    Entity(ByteRange),
    /// A part of a file: the bytes from and up to these offsets, counted from the part's own beginning.
    Part { from: u64, to: u64 },
    /// An inner node of a HAMT directory that is listed.
    Listing,
}

impl Visit {
    /// Whether what hangs under the block is the same wherever the walk meets it.
    fn is_same_everywhere(&self) -> bool {
        matches!(self.manner, Manner::All | Manner::Listing)
    }
}

impl<S: Source> Walk<S> {
    /// Returns the walk that `plan` describes.
    pub fn new(source: S, plan: &Plan) -> Self {
        let manner = match plan.scope {
            Scope::Block => Manner::Alone,
            Scope::Entity(range) => Manner::Entity(range),
            Scope::All => Manner::All,
        };
        let alone = plan.trail.iter().rev().map(|cid| Visit { cid: *cid, manner: Manner::Alone });
        let mut waiting = vec![Visit { cid: plan.last, manner }];
        waiting.extend(alone);
        let (with_duplicates, seen) = (plan.with_duplicates, HashSet::new());
        Self { source, waiting, with_duplicates, seen, visited: 0 }
    }

    /// Returns the next block, or nothing when all were handed out.
    ///
    /// # Errors
    ///
    /// Fails when a block is not there, cannot be read, or a limit is reached; the walk is over then.
    pub fn next_block(&mut self) -> Result<Option<Section>, WalkError<S::Error>> {
        while let Some(visit) = self.waiting.pop() {
            let cid = visit.cid;
            let is_seen = !self.with_duplicates && self.seen.contains(&cid.hash().to_bytes());
            if is_seen && (visit.is_same_everywhere() || visit.manner == Manner::Alone) {
                continue;
            }
            self.visited += 1;
            if self.visited > BLOCKS_MAX {
                return Err(WalkError::TooManyBlocks);
            }
            let bytes = load(&self.source, &cid).map_err(WalkError::Source)?;
            let bytes = bytes.ok_or(WalkError::Missing { cid })?;
            let next = next_visits(&visit, &bytes);
            let next = next.map_err(|cause| WalkError::Node { cid, cause })?;
            if self.waiting.len() + next.len() > WAITING_MAX {
                return Err(WalkError::TooManyBlocks);
            }
            self.waiting.extend(next.into_iter().rev());
            if inline(&cid).is_some() || is_seen {
                continue;
            }
            if !self.with_duplicates {
                self.seen.insert(cid.hash().to_bytes());
            }
            return Ok(Some(Section { cid, bytes }));
        }
        Ok(None)
    }
}

/// Why a walk ended early. Blocks that were handed out before are right.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalkError<E> {
    /// A block is not here.
    #[error("the block {cid} is not here")]
    Missing {
        /// Which.
        cid: Cid,
    },
    /// A block cannot be read.
    #[error("{cid} cannot be followed")]
    Node {
        /// The block.
        cid: Cid,
        /// Why.
        #[source]
        cause: NodeError,
    },
    /// There are more blocks than one walk reads.
    #[error("more than {BLOCKS_MAX} blocks")]
    TooManyBlocks,
    /// The source failed.
    #[error("a block cannot be read")]
    Source(#[source] E),
}

/// Returns what comes behind a block, in order.
fn next_visits(visit: &Visit, bytes: &[u8]) -> Result<Vec<Visit>, NodeError> {
    let all = |manner: Manner| -> Result<Vec<Visit>, NodeError> {
        Ok(links(&visit.cid, bytes)?.into_iter().map(|cid| Visit { cid, manner }).collect())
    };
    match visit.manner {
        Manner::Alone => Ok(Vec::new()),
        Manner::All => all(Manner::All),
        _ if visit.cid.codec() != DAG_PB => Ok(Vec::new()),
        manner => {
            let node = Node::decode(bytes)?;
            let Some(unixfs) = node.unixfs() else { return Ok(Vec::new()) };
            Ok(match (unixfs.kind, manner) {
                (UnixFsKind::Hamt { fanout }, Manner::Entity(_) | Manner::Listing) => {
                    listed(&node, fanout)
                }
                (UnixFsKind::File | UnixFsKind::Raw, Manner::Entity(range)) => {
                    let size = size(&unixfs);
                    let (from, to) = range.clamp(size);
                    parts(&node, &unixfs, from, to)
                }
                (UnixFsKind::File | UnixFsKind::Raw, Manner::Part { from, to }) => {
                    parts(&node, &unixfs, from, to)
                }
                _ => Vec::new(),
            })
        }
    }
}

/// Returns the inner nodes of a HAMT directory that this one links to.
fn listed(node: &Node<'_>, fanout: u64) -> Vec<Visit> {
    let length = hamt::prefix_length(fanout);
    let inner = node.links.iter().filter(|link| link.name.len() == length);
    inner.map(|link| Visit { cid: link.cid, manner: Manner::Listing }).collect()
}

/// Returns the bytes of a file, as its node claims; sums that no file has are cut.
fn size(unixfs: &UnixFs<'_>) -> u64 {
    let data = unixfs.data.len() as u64;
    unixfs.block_sizes.iter().fold(data, |sum, size| sum.saturating_add(*size))
}

/// Returns the children of a part of a file that have bytes from and up to these offsets.
fn parts(node: &Node<'_>, unixfs: &UnixFs<'_>, from: u64, to: u64) -> Vec<Visit> {
    let mut start = unixfs.data.len() as u64;
    let mut visits = Vec::new();
    for (link, size) in node.links.iter().zip(&unixfs.block_sizes) {
        let end = start.saturating_add(*size);
        if start.max(from) < end.min(to) {
            let (from, to) = (from.saturating_sub(start), to.min(end) - start);
            visits.push(Visit { cid: link.cid, manner: Manner::Part { from, to } });
        }
        start = end;
    }
    visits
}

#[cfg(test)]
mod tests;
