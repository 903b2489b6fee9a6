//! The catalog: one CID that names everything a node archived in a collection, by time.
//!
//! It is a tree of blocks over a set of entries, a segment's start and its CID each. The key of an entry
//! is its start followed by its digest, and a node is either a leaf of at most [`LEAF_ENTRIES_MAX`]
//! entries, or branches at the first nibble in which its entries' keys differ (a radix tree, path
//! compressed). So the tree depends on the set alone, never on the order in which it grew: two nodes that
//! archived the same have the same root. Whatever differs is found by descending where links differ
//! ([`compare`]), at a cost in the size of the difference and the depth, which is the logarithm of the
//! whole. Links are real: who fetches the graph below the root has the segments.
//!
//! `docs/formats/catalog.md` has the bytes. A tree may come from a stranger: every node must hold what its
//! place says, which also bounds the depth.

mod compare;
mod key;
mod node;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use dunlin_wire::{Cid, block::Block};

pub use self::{
    compare::{Comparison, ComparisonError, Difference, Step, compare},
    key::Entry,
    node::LEAF_ENTRIES_MAX,
};
use self::{
    key::{Key, Prefix},
    node::{Child, Node},
};

/// A tree, or a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// The block of its node.
    pub cid: Cid,
    /// How many entries it has.
    pub count: u64,
}

/// What adding entries changes.
#[derive(Debug)]
pub struct Update {
    /// The new root.
    pub root: Root,
    /// Blocks that the new tree has and the old one had not.
    pub added: Vec<Block>,
    /// Blocks of the old tree that the new one has no more.
    pub removed: Vec<Cid>,
}

/// Why a catalog cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError<E> {
    /// A block is not there.
    #[error("block {cid} of the catalog is missing")]
    Missing {
        /// Its CID.
        cid: Box<Cid>,
    },
    /// A block is not what its place in the tree says: made to mislead, or of something else.
    #[error("block {cid} is no part of a catalog: {what}")]
    Malformed {
        /// Its CID.
        cid: Box<Cid>,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The store behind it failed.
    #[error("the catalog's store failed")]
    Store(#[source] E),
}

/// Returns the tree with more entries; those that it has already change nothing. Without a tree it begins
/// one; `None` when there is nothing at all.
///
/// `get` returns the bytes of a block, which are what its CID names.
///
/// # Errors
///
/// Fails when the tree cannot be read.
pub fn insert<E>(
    mut get: impl FnMut(&Cid) -> Result<Option<Vec<u8>>, E>,
    root: Option<&Root>,
    entries: &[Entry],
) -> Result<Option<Update>, CatalogError<E>> {
    let keys: BTreeSet<Key> = entries.iter().map(Key::of).collect();
    let keys: Vec<Key> = keys.into_iter().collect();
    let mut growth = Growth { get: &mut get, added: Vec::new(), removed: BTreeSet::new() };
    let grown = match root {
        None if keys.is_empty() => return Ok(None),
        None => growth.build(&keys),
        Some(root) => growth.insert(root, &Prefix::default(), &keys)?,
    };
    let Growth { mut added, mut removed, .. } = growth;
    // A node that comes out as it was is neither new nor gone.
    added.retain(|block| !removed.remove(block.cid()));
    Ok(Some(Update { root: grown, added, removed: removed.into_iter().collect() }))
}

/// Passes on the entries whose segments start within `from..=to`, in order.
///
/// # Errors
///
/// Fails when the tree cannot be read.
pub fn entries<E>(
    mut get: impl FnMut(&Cid) -> Result<Option<Vec<u8>>, E>,
    root: &Root,
    (from, to): (i64, i64),
    mut on_entry: impl FnMut(Entry),
) -> Result<(), CatalogError<E>> {
    let mut waiting = vec![(*root, Prefix::default())];
    while let Some((part, prefix)) = waiting.pop() {
        if !prefix.may_start_within(from, to) {
            continue;
        }
        match load(&mut get, &part, &prefix)? {
            Node::Leaf(keys) => {
                keys.iter()
                    .map(Key::entry)
                    .filter(|entry| (from..=to).contains(&entry.start))
                    .for_each(&mut on_entry);
            }
            Node::Inner { prefix, children } => {
                let below = |child: &Child| (child.root, prefix.followed_by(child.nibble));
                waiting.extend(children.iter().rev().map(below));
            }
        }
    }
    Ok(())
}

/// Reads a node whose keys must all begin with `prefix`.
fn load<E>(
    get: &mut impl FnMut(&Cid) -> Result<Option<Vec<u8>>, E>,
    part: &Root,
    prefix: &Prefix,
) -> Result<Node, CatalogError<E>> {
    let cid = || Box::new(part.cid);
    let bytes = get(&part.cid).map_err(CatalogError::Store)?;
    let bytes = bytes.ok_or_else(|| CatalogError::Missing { cid: cid() })?;
    let checked = Node::decode(&bytes).and_then(|node| node.check(part, prefix).map(|()| node));
    checked.map_err(|what| CatalogError::Malformed { cid: cid(), what })
}

/// A tree that grows.
struct Growth<'a, G> {
    get: &'a mut G,
    added: Vec<Block>,
    removed: BTreeSet<Cid>,
}

impl<G> Growth<'_, G> {
    /// Returns the tree of these keys, which rise.
    fn build(&mut self, keys: &[Key]) -> Root {
        if keys.len() <= LEAF_ENTRIES_MAX {
            return self.add(&Node::Leaf(keys.to_vec()));
        }
        let prefix = Prefix::common_of(keys);
        let children = keys.chunk_by(|a, b| a.nibble(prefix.len()) == b.nibble(prefix.len()));
        let children = children
            .map(|keys| Child { nibble: keys[0].nibble(prefix.len()), root: self.build(keys) })
            .collect();
        self.add(&Node::Inner { prefix, children })
    }

    fn add(&mut self, node: &Node) -> Root {
        let block = node.to_block();
        let root = Root { cid: *block.cid(), count: node.count() };
        self.added.push(block);
        root
    }

    /// Returns the tree of a part and more keys, which rise and begin with `above`.
    fn insert<E>(
        &mut self,
        part: &Root,
        above: &Prefix,
        keys: &[Key],
    ) -> Result<Root, CatalogError<E>>
    where
        G: FnMut(&Cid) -> Result<Option<Vec<u8>>, E>,
    {
        if keys.is_empty() {
            return Ok(*part);
        }
        let (prefix, mut children) = match load(self.get, part, above)? {
            Node::Leaf(mut known) => {
                self.removed.insert(part.cid);
                known.extend_from_slice(keys);
                known.sort_unstable();
                known.dedup();
                return Ok(self.build(&known));
            }
            Node::Inner { prefix, children } => (prefix, children),
        };
        let ends = [keys.first(), keys.last()].into_iter().flatten();
        let shared = ends.map(|key| prefix.shared_with(key)).min().unwrap_or_default();
        if shared < prefix.len() {
            // Some keys branch off before this node does: it becomes the child of a new one, as it is.
            let branch = prefix.cut(shared);
            let own = prefix.nibble(shared);
            let below = keys.iter().filter(|key| key.nibble(shared) == own).copied();
            let own_keys: Vec<Key> = below.collect();
            let grown = self.insert(part, &branch.followed_by(own), &own_keys)?;
            let mut children = vec![Child { nibble: own, root: grown }];
            for keys in keys.chunk_by(|a, b| a.nibble(shared) == b.nibble(shared)) {
                let nibble = keys[0].nibble(shared);
                if nibble != own {
                    children.push(Child { nibble, root: self.build(keys) });
                }
            }
            children.sort_by_key(|child| child.nibble);
            return Ok(self.add(&Node::Inner { prefix: branch, children }));
        }
        self.removed.insert(part.cid);
        for keys in keys.chunk_by(|a, b| a.nibble(prefix.len()) == b.nibble(prefix.len())) {
            let nibble = keys[0].nibble(prefix.len());
            match children.binary_search_by_key(&nibble, |child| child.nibble) {
                Ok(at) => {
                    let below = prefix.followed_by(nibble);
                    children[at].root = self.insert(&children[at].root, &below, keys)?;
                }
                Err(at) => children.insert(at, Child { nibble, root: self.build(keys) }),
            }
        }
        Ok(self.add(&Node::Inner { prefix, children }))
    }
}
