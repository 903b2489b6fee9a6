//! What one tree has and another has not, found by descending where they differ.

use std::collections::BTreeSet;

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

impl Difference {
    fn len(&self) -> usize {
        self.first_only.len() + self.second_only.len()
    }
}

/// A part of one of the trees, under keys with a common beginning.
#[derive(Clone, Debug, PartialEq)]
enum Part {
    /// Below a node that was not read yet.
    Below(Root, Prefix),
    /// These keys, which rise.
    Keys(Vec<Key>),
}

/// A comparison of one's own tree with one whose blocks arrive from a peer.
///
/// It costs as much as the difference times the depth: parts that both have are neither read nor asked for. It goes
/// on wherever it can before it asks, so that one round of questions brings a block for each differing place.
#[derive(Clone, Debug)]
pub struct Comparison {
    waiting: Vec<(Part, Part)>,
    difference: Difference,
    blocks_max: u64,
}

/// What a comparison needs next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Blocks of the second tree that are not there yet, at most as many as were asked for.
    Ask(Vec<Cid>),
    /// It is complete, unless [`Comparison::is_cut`].
    Done,
}

impl Comparison {
    /// Returns the comparison of two trees, of which at most `blocks_max` blocks are read: a stranger's tree may be
    /// as large as it likes.
    #[must_use]
    pub fn new(first: Option<&Root>, second: Option<&Root>, blocks_max: u64) -> Self {
        let waiting = vec![(Part::of_root(first), Part::of_root(second))];
        Self { waiting, difference: Difference::default(), blocks_max }
    }

    /// Goes on as far as the blocks of both trees are there, or until `entries_max` differences were found.
    ///
    /// `ours` returns the bytes of a block of the first tree, which is all there, and `theirs` those of one of the
    /// second, or `None`: then the block is asked for, at most `ask_max` at once.
    ///
    /// # Errors
    ///
    /// Fails when a block is no part of its tree, or the first tree misses one. For the second that is the peer's
    /// misconduct.
    pub fn advance<E>(
        &mut self,
        mut ours: impl FnMut(&Cid) -> Result<Option<Vec<u8>>, E>,
        mut theirs: impl FnMut(&Cid) -> Result<Option<Vec<u8>>, E>,
        (entries_max, ask_max): (usize, usize),
    ) -> Result<Step, ComparisonError<E>> {
        let mut asked = BTreeSet::new();
        let mut absent = Vec::new();
        while let Some((first, second)) = self.waiting.pop() {
            if self.difference.len() >= entries_max || self.is_cut() {
                self.waiting.push((first, second));
                break;
            }
            if first == second {
                continue;
            }
            let read = &mut self.difference.blocks_read;
            match open(&second, &mut theirs, read) {
                Ok(b) => {
                    let a = open(&first, &mut ours, read).map_err(ComparisonError::First)?;
                    pair((first, a), (second, b), &mut self.waiting, &mut self.difference);
                }
                Err(CatalogError::Missing { cid }) => {
                    *read -= 1;
                    asked.insert(*cid);
                    absent.push((first, second));
                    if asked.len() >= ask_max {
                        break;
                    }
                }
                Err(error) => return Err(ComparisonError::Second(error)),
            }
        }
        self.waiting.append(&mut absent);
        if asked.is_empty() { Ok(Step::Done) } else { Ok(Step::Ask(asked.into_iter().collect())) }
    }

    /// Goes on with the first tree as it is now, of which nothing that was read before need be there any more. From here
    /// on only what the second tree has alone is found, which is as right as if the first had been like this from the beginning.
    ///
    /// # Errors
    ///
    /// Fails when the tree cannot be read; the comparison is of no use then.
    pub fn renew_first<E>(
        &mut self,
        root: Option<&Root>,
        mut get: impl FnMut(&Cid) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<(), CatalogError<E>> {
        self.waiting.retain(|(_, second)| *second != Part::nothing());
        for (first, second) in &mut self.waiting {
            *first = Part::below(root, &second.region(), &mut get)?;
        }
        Ok(())
    }

    /// Goes on with the second tree as it is now, which has all that it had. Of what it gained meanwhile, some is found;
    /// what was found before may be found again.
    ///
    /// # Errors
    ///
    /// As [`Self::renew_first`].
    pub fn renew_second<E>(
        &mut self,
        root: Option<&Root>,
        mut get: impl FnMut(&Cid) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<(), CatalogError<E>> {
        self.waiting.retain(|(_, second)| *second != Part::nothing());
        for (_, second) in &mut self.waiting {
            *second = Part::below(root, &second.region(), &mut get)?;
        }
        Ok(())
    }

    /// Returns whether there is more that was not compared, for one of the limits.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.difference.blocks_read >= self.blocks_max && !self.waiting.is_empty()
    }

    /// Returns what was found so far.
    #[must_use]
    pub fn difference(&self) -> &Difference {
        &self.difference
    }

    /// Returns what was found, to do with it what is to be done, and forgets it: a comparison that stopped at its
    /// limit of entries goes on after it.
    pub fn take_difference(&mut self) -> Difference {
        let blocks_read = self.difference.blocks_read;
        std::mem::replace(&mut self.difference, Difference { blocks_read, ..Difference::default() })
    }
}

/// Why a comparison cannot go on, and whose tree it is.
#[derive(Debug, thiserror::Error)]
pub enum ComparisonError<E> {
    /// One's own.
    #[error("the first catalog cannot be read")]
    First(#[source] CatalogError<E>),
    /// The other one.
    #[error("the second catalog cannot be read")]
    Second(#[source] CatalogError<E>),
}

/// Returns how two trees differ that are both here. Parts that both have are not read, so it costs as much as the
/// difference times the depth. Stops when `entries_max` differences were found, so that a stranger's tree costs no
/// more than the caller allows: ask again when those are settled.
///
/// Each `get` returns the bytes of a block of its tree, which are what the CID names.
///
/// # Errors
///
/// Fails when a tree cannot be read.
pub fn compare<E>(
    (first, first_get): (Option<&Root>, impl FnMut(&Cid) -> Result<Option<Vec<u8>>, E>),
    (second, second_get): (Option<&Root>, impl FnMut(&Cid) -> Result<Option<Vec<u8>>, E>),
    entries_max: usize,
) -> Result<Difference, CatalogError<E>> {
    let mut comparison = Comparison::new(first, second, u64::MAX);
    match comparison.advance(first_get, second_get, (entries_max, 1)) {
        Ok(Step::Done) => Ok(comparison.difference),
        Ok(Step::Ask(missing)) => {
            let cid = missing.into_iter().next().expect("what is asked for is not empty");
            Err(CatalogError::Missing { cid: Box::new(cid) })
        }
        Err(ComparisonError::First(error) | ComparisonError::Second(error)) => Err(error),
    }
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

    fn of_root(root: Option<&Root>) -> Self {
        root.map_or_else(Self::nothing, |root| Self::Below(*root, Prefix::default()))
    }

    fn of(prefix: &Prefix, child: &Child) -> Self {
        Self::Below(child.root, prefix.followed_by(child.nibble))
    }

    /// Returns what all of its keys begin with.
    fn region(&self) -> Prefix {
        match self {
            Self::Below(_, prefix) => *prefix,
            Self::Keys(keys) => Prefix::common_of(keys),
        }
    }

    /// Returns the part of a tree whose keys begin with `prefix`.
    fn below<E>(
        root: Option<&Root>,
        prefix: &Prefix,
        get: &mut impl FnMut(&Cid) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Self, CatalogError<E>> {
        let Some(root) = root else { return Ok(Self::nothing()) };
        let (mut root, mut known) = (*root, Prefix::default());
        while known != *prefix {
            match load(get, &root, &known)? {
                Node::Leaf(mut keys) => {
                    keys.retain(|key| prefix.shared_with(key) == prefix.len());
                    return Ok(Self::Keys(keys));
                }
                Node::Inner { prefix: own, .. } if prefix.begins(&own) => break,
                Node::Inner { prefix: own, children } if own.begins(prefix) => {
                    let nibble = prefix.nibble(own.len());
                    let child = children.iter().find(|child| child.nibble == nibble);
                    let Some(child) = child else { return Ok(Self::nothing()) };
                    (root, known) = (child.root, own.followed_by(nibble));
                }
                Node::Inner { .. } => return Ok(Self::nothing()),
            }
        }
        Ok(Self::Below(root, *prefix))
    }
}
