//! What one tree has and another has not, found by descending where they differ.

use dunlin_wire::Cid;

use super::{
    CatalogError, Root,
    key::{Entry, Key, Prefix},
    load,
    node::{Child, Node},
};

/// How two catalogs differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Entries that only the first one has, in no order.
    pub first_only: Vec<Entry>,
    /// Entries that only the second one has.
    pub second_only: Vec<Entry>,
    /// Blocks that were read, of either.
    pub blocks_read: u64,
}

/// A part of one of the trees, under keys with a common beginning.
#[derive(Clone, PartialEq)]
enum Part {
    /// Below a node that was not read yet.
    Below(Root, Prefix),
    /// These keys, which rise.
    Keys(Vec<Key>),
}

/// Returns how two trees differ. Parts that both have are not read, so it costs as much as the difference
/// times the depth. Stops when `entries_max` differences were found, so that a stranger's tree costs no
/// more than the caller allows: ask again when those are settled.
///
/// Each `get` returns the bytes of a block of its tree, which are what the CID names.
///
/// # Errors
///
/// Fails when a tree cannot be read.
pub fn compare<E>(
    (first, mut first_get): (Option<&Root>, impl FnMut(&Cid) -> Result<Option<Vec<u8>>, E>),
    (second, mut second_get): (Option<&Root>, impl FnMut(&Cid) -> Result<Option<Vec<u8>>, E>),
    entries_max: usize,
) -> Result<Difference, CatalogError<E>> {
    let part = |root: Option<&Root>| match root {
        Some(root) => Part::Below(*root, Prefix::default()),
        None => Part::Keys(Vec::new()),
    };
    let mut difference = Difference::default();
    let mut waiting = vec![(part(first), part(second))];
    while let Some((first, second)) = waiting.pop() {
        if difference.first_only.len() + difference.second_only.len() >= entries_max {
            break;
        }
        if first == second {
            continue;
        }
        let a = open(&first, &mut first_get, &mut difference.blocks_read)?;
        let b = open(&second, &mut second_get, &mut difference.blocks_read)?;
        pair((first, a), (second, b), &mut waiting, &mut difference);
    }
    Ok(difference)
}

fn open<E>(
    part: &Part,
    get: &mut impl FnMut(&Cid) -> Result<Option<Vec<u8>>, E>,
    blocks_read: &mut u64,
) -> Result<Node, CatalogError<E>> {
    match part {
        Part::Keys(keys) => Ok(Node::Leaf(keys.clone())),
        Part::Below(root, prefix) => {
            *blocks_read += 1;
            load(get, root, prefix)
        }
    }
}

/// Compares two opened parts as far as they go, and leaves the rest waiting.
fn pair(
    (first, a): (Part, Node),
    (second, b): (Part, Node),
    waiting: &mut Vec<(Part, Part)>,
    difference: &mut Difference,
) {
    match (a, b) {
        (Node::Leaf(a), Node::Leaf(b)) => {
            difference.first_only.extend(missing(&a, &b));
            difference.second_only.extend(missing(&b, &a));
        }
        (Node::Inner { prefix, children }, Node::Leaf(keys)) => {
            waiting.extend(split(&prefix, &children, keys));
        }
        (Node::Leaf(keys), Node::Inner { prefix, children }) => {
            let pairs = split(&prefix, &children, keys);
            waiting.extend(pairs.into_iter().map(|(below, keys)| (keys, below)));
        }
        (Node::Inner { prefix: of_a, children: a }, Node::Inner { prefix: of_b, children: b }) => {
            if of_a == of_b {
                let of = |children: &[Child], nibble| {
                    let child = children.iter().find(|child| child.nibble == nibble);
                    child.map_or_else(Part::nothing, |child| Part::of(&of_a, child))
                };
                let differs = |nibble: &u8| of(&a, *nibble) != of(&b, *nibble);
                let pairs = (0..16).filter(differs).map(|nibble| (of(&a, nibble), of(&b, nibble)));
                waiting.extend(pairs);
            } else if of_a.len() < of_b.len() && of_a.begins(&of_b) {
                waiting.extend(beside(&of_a, &a, (second, of_b.nibble(of_a.len()))));
            } else if of_b.len() < of_a.len() && of_b.begins(&of_a) {
                let pairs = beside(&of_b, &b, (first, of_a.nibble(of_b.len())));
                waiting.extend(pairs.into_iter().map(|(b, a)| (a, b)));
            } else {
                waiting.extend(a.iter().map(|child| (Part::of(&of_a, child), Part::nothing())));
                waiting.extend(b.iter().map(|child| (Part::nothing(), Part::of(&of_b, child))));
            }
        }
    }
}

/// Pairs the children of a node with a part that lies below its child `nibble`, whether it has that or not.
fn beside(prefix: &Prefix, children: &[Child], (part, nibble): (Part, u8)) -> Vec<(Part, Part)> {
    let mut part = Some(part);
    let mut pairs: Vec<(Part, Part)> = children
        .iter()
        .map(|child| {
            let other = part.take_if(|_| child.nibble == nibble);
            (Part::of(prefix, child), other.unwrap_or_else(Part::nothing))
        })
        .collect();
    pairs.extend(part.map(|part| (Part::nothing(), part)));
    pairs
}

/// Pairs the children of a node with the keys that lie below each, and nothing with the rest of the keys.
fn split(prefix: &Prefix, children: &[Child], keys: Vec<Key>) -> Vec<(Part, Part)> {
    let (inside, mut rest): (Vec<Key>, Vec<Key>) =
        keys.into_iter().partition(|key| prefix.shared_with(key) == prefix.len());
    let mut pairs = Vec::with_capacity(children.len() + 1);
    for child in children {
        let below = |key: &&Key| key.nibble(prefix.len()) == child.nibble;
        pairs.push((
            Part::of(prefix, child),
            Part::Keys(inside.iter().filter(below).copied().collect()),
        ));
    }
    let has_child =
        |key: &&Key| children.iter().any(|child| child.nibble == key.nibble(prefix.len()));
    rest.extend(inside.iter().filter(|key| !has_child(key)));
    rest.sort_unstable();
    pairs.push((Part::nothing(), Part::Keys(rest)));
    pairs
}

/// Returns the entries of some keys that are not among others.
fn missing(these: &[Key], others: &[Key]) -> Vec<Entry> {
    let missing = these.iter().filter(|key| others.binary_search(key).is_err());
    missing.map(Key::entry).collect()
}

impl Part {
    const fn nothing() -> Self {
        Self::Keys(Vec::new())
    }

    fn of(prefix: &Prefix, child: &Child) -> Self {
        Self::Below(child.root, prefix.followed_by(child.nibble))
    }
}
