//! The graph: a fixed number of neighbors for each node, and the walk that follows them.
//!
//! One level, no hierarchy. A walk begins at the best of some hubs, a random sample that is compared in
//! full, and expands the nearest node that it has not expanded until the `ef` nearest of all it met are
//! expanded (beam search: Fu et al. 2019, algorithm 1).

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{Mutex, PoisonError},
};

use super::{
    build::DEGREE,
    codes::{Codes, QueryCode, Scores},
};
use crate::simd::{self, Level};

/// Neighbors in one line.
pub(super) const LINE_NEIGHBORS: usize = 16;

/// No neighbor: the end of a list.
const NONE: u32 = u32::MAX;

/// How many are kept for the next search; more searches than that at once begin with new ones. A walk takes a bit a node.
const SPARE_MAX: usize = 8;

/// Neighbors of a node, a part of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
struct Part([u32; LINE_NEIGHBORS]);

/// Neighbor lists, flat.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Graph {
    parts_per_node: usize,
    parts: Vec<Part>,
    pub(super) hubs: Hubs,
}

/// Where walks begin: a walk compares all of these, so their codes stand together.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Hubs {
    pub(super) nodes: Vec<u32>,
    codes: Codes,
    /// Which row of the codes each of them is.
    places: Vec<u32>,
}

impl Hubs {
    pub(super) fn new(mut nodes: Vec<u32>, codes: &Codes) -> Self {
        nodes.sort_unstable();
        let codes = codes.of_rows(&nodes);
        let places = (0..nodes.len() as u32).collect();
        Self { nodes, codes, places }
    }

    fn byte_count(&self) -> usize {
        4 * (self.nodes.len() + self.places.len()) + self.codes.byte_count()
    }
}

impl Graph {
    /// Returns nodes without neighbors; there will be at most `degree` each, rounded up to whole lines.
    pub(super) fn new(count: usize, degree: usize, hubs: Hubs) -> Self {
        let parts_per_node = degree.div_ceil(LINE_NEIGHBORS);
        let mut parts = simd::roomy(count * parts_per_node);
        parts.resize(count * parts_per_node, Part([NONE; LINE_NEIGHBORS]));
        Self { parts_per_node, parts, hubs }
    }

    /// Returns how many nodes there are.
    pub(super) fn count(&self) -> usize {
        self.parts.len() / self.parts_per_node
    }

    /// Returns the neighbors of a node.
    #[inline(always)]
    pub(super) fn neighbors(&self, node: u32) -> impl Iterator<Item = u32> + '_ {
        let parts = &self.parts[node as usize * self.parts_per_node..][..self.parts_per_node];
        parts.iter().flat_map(|part| part.0).take_while(|neighbor| *neighbor != NONE)
    }

    /// Replaces the neighbors of a node.
    ///
    /// # Panics
    ///
    /// Panics when there are more than the degree.
    pub(super) fn set(&mut self, node: u32, neighbors: impl IntoIterator<Item = u32>) {
        let parts = &mut self.parts[node as usize * self.parts_per_node..][..self.parts_per_node];
        parts.fill(Part([NONE; LINE_NEIGHBORS]));
        for (index, neighbor) in neighbors.into_iter().enumerate() {
            parts[index / LINE_NEIGHBORS].0[index % LINE_NEIGHBORS] = neighbor;
        }
    }

    /// Adds a neighbor where there is room; says whether there was.
    pub(super) fn add(&mut self, node: u32, neighbor: u32) -> bool {
        let parts = &mut self.parts[node as usize * self.parts_per_node..][..self.parts_per_node];
        match parts.iter_mut().flat_map(|part| &mut part.0).find(|slot| **slot == NONE) {
            Some(slot) => {
                *slot = neighbor;
                true
            }
            None => false,
        }
    }

    /// Returns all lists, one after the other, and what fills them up.
    pub(super) fn slots(&self) -> impl ExactSizeIterator<Item = &[u32; LINE_NEIGHBORS]> + '_ {
        self.parts.iter().map(|part| &part.0)
    }

    /// Returns the graph of these lists over the rows of `codes`, if every neighbor and hub is one of them.
    pub(super) fn from_slots(
        codes: &Codes,
        slots: impl Iterator<Item = [u32; LINE_NEIGHBORS]>,
        hubs: Vec<u32>,
    ) -> Option<Self> {
        let count = codes.count();
        if hubs.is_empty() || hubs.iter().any(|hub| *hub as usize >= count) {
            return None;
        }
        let mut graph = Self::new(count, DEGREE, Hubs::new(hubs, codes));
        for (part, slots) in graph.parts.iter_mut().zip(slots) {
            if slots.iter().any(|neighbor| *neighbor != NONE && *neighbor as usize >= count) {
                return None;
            }
            part.0 = slots;
        }
        Some(graph)
    }

    /// Returns how many bytes of memory the graph takes.
    pub(super) fn byte_count(&self) -> usize {
        self.parts.len() * size_of::<Part>() + self.hubs.byte_count()
    }

    /// Fills the walk's pool with the nodes nearest to the query.
    pub(super) fn walk(&self, level: Level, codes: &Codes, query: &QueryCode, walk: &mut Walk) {
        walk.begin();
        self.begin(level, query, walk);
        while let Some(node) = walk.pool.next() {
            walk.met.clear();
            self.meet(codes, self.neighbors(node), walk);
            codes.scores(level, query, &walk.met, &mut walk.scores);
            self.take(walk);
        }
    }

    /// Fills the walk's pool with the nearest nodes that pass, by a walk through all nodes. Says that it
    /// did not when more than `met_max` nodes were met before the pool was full and nothing nearer left.
    pub(super) fn walk_filtered(
        &self,
        level: Level,
        codes: &Codes,
        query: &QueryCode,
        walk: &mut Walk,
        (passes, met_max): (impl Fn(u32) -> bool, usize),
    ) -> bool {
        walk.begin();
        let mut met_count = 0;
        let mut frontier = BinaryHeap::new();
        self.meet(codes, self.hubs.nodes.iter().copied(), walk);
        loop {
            met_count += walk.met.len();
            if met_count > met_max {
                return false;
            }
            codes.scores(level, query, &walk.met, &mut walk.scores);
            for (node, score) in walk.met.iter().zip(&walk.scores.values) {
                // What is farther than a full pool's last node leads nowhere.
                if !walk.pool.is_full_below(*score) {
                    frontier.push(Reverse(entry_of(*score, *node)));
                    if passes(*node) {
                        walk.pool.offer(*score, *node);
                    }
                }
            }
            let Some(Reverse(nearest)) = frontier.pop() else { return true };
            if walk.pool.is_full_below(score_of(nearest)) {
                return true;
            }
            walk.met.clear();
            self.meet(codes, self.neighbors(node_of(nearest)), walk);
        }
    }

    /// Fills the walk's pool with the hubs nearest to the query.
    fn begin(&self, level: Level, query: &QueryCode, walk: &mut Walk) {
        let Hubs { nodes, codes, places } = &self.hubs;
        codes.scores(level, query, places, &mut walk.scores);
        for (node, score) in nodes.iter().zip(&walk.scores.values) {
            walk.pool.offer(*score, *node);
        }
        for (_, node) in walk.pool.nearest() {
            walk.seen.insert(node);
            self.prefetch(node);
        }
    }

    /// Collects those of some nodes that the walk has not met, and asks for their codes.
    #[inline(always)]
    fn meet(&self, codes: &Codes, nodes: impl Iterator<Item = u32>, walk: &mut Walk) {
        for node in nodes {
            if walk.seen.insert(node) {
                codes.prefetch(node);
                walk.met.push(node);
            }
        }
    }

    /// Offers what was met to the pool; what it takes will be expanded, so its list is asked for.
    #[inline(always)]
    fn take(&self, walk: &mut Walk) {
        for (node, score) in walk.met.iter().zip(&walk.scores.values) {
            if walk.pool.offer(*score, *node) {
                self.prefetch(*node);
            }
        }
    }

    /// Asks for the neighbors of a node to be brought near.
    #[inline(always)]
    fn prefetch(&self, node: u32) {
        for part in &self.parts[node as usize * self.parts_per_node..][..self.parts_per_node] {
            simd::prefetch(part);
        }
    }
}

/// What a walk works on; kept between walks.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    /// The nearest nodes so far.
    pub(super) pool: Pool,
    seen: Seen,
    met: Vec<u32>,
    scores: Scores,
}

impl Walk {
    /// Returns what walks over `count` nodes need that look for the `ef` nearest.
    pub(super) fn new(count: usize, ef: usize) -> Self {
        Self {
            pool: Pool::new(ef),
            seen: Seen { words: vec![0; count.div_ceil(64)], nodes: Vec::with_capacity(1_024) },
            met: Vec::with_capacity(256),
            scores: Scores::default(),
        }
    }

    /// Makes it ready for walks that look for so many nearest.
    pub(super) fn look_for(&mut self, ef: usize) {
        self.pool.capacity = ef;
    }

    fn begin(&mut self) {
        self.pool.clear();
        self.seen.clear();
        self.met.clear();
    }
}

/// What searches work on and none does now. Making it takes as long as a part of a short search.
pub(super) struct Spare<T>(Mutex<Vec<T>>);

impl<T> Spare<T> {
    pub(super) fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    pub(super) fn put(&self, one: T) {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_MAX {
            spare.push(one);
        }
    }
}

impl<T> Default for Spare<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Clone for Spare<T> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<T> PartialEq for Spare<T> {
    /// They are no part of what an index is.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<T> std::fmt::Debug for Spare<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spare").finish_non_exhaustive()
    }
}

/// A set of nodes.
#[derive(Clone, Debug)]
struct Seen {
    words: Vec<u64>,
    nodes: Vec<u32>,
}

impl Seen {
    /// Adds a node; says whether it was not there.
    #[inline(always)]
    fn insert(&mut self, node: u32) -> bool {
        let (word, bit) = (&mut self.words[node as usize / 64], 1 << (node % 64));
        let is_new = *word & bit == 0;
        if is_new {
            *word |= bit;
            self.nodes.push(node);
        }
        is_new
    }

    /// Takes all nodes out: a walk meets few of all that there are.
    fn clear(&mut self) {
        self.nodes.drain(..).for_each(|node| self.words[node as usize / 64] = 0);
    }
}

/// The nearest nodes, by rising score.
///
/// An entry is one number: the score so that numbers are ordered as scores are, the node, and whether it
/// was expanded. A sorted list beats heaps at the sizes that walks have.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    entries: Vec<u64>,
    capacity: usize,
    /// Entries before this one are expanded.
    next: usize,
}

impl Pool {
    fn new(capacity: usize) -> Self {
        Self { entries: Vec::with_capacity(capacity + 1), capacity, next: 0 }
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.next = 0;
    }

    /// Takes a node in if it is among the nearest; says whether it was.
    #[inline(always)]
    pub(super) fn offer(&mut self, score: f32, node: u32) -> bool {
        let entry = entry_of(score, node);
        if self.entries.len() == self.capacity {
            if self.entries.last().is_none_or(|last| entry >= *last) {
                return false;
            }
            self.entries.pop();
        }
        let place = self.entries.partition_point(|other| *other < entry);
        self.entries.insert(place, entry);
        self.next = self.next.min(place);
        true
    }

    /// Returns the nearest node that was not expanded, and marks it.
    #[inline(always)]
    fn next(&mut self) -> Option<u32> {
        while let Some(entry) = self.entries.get_mut(self.next) {
            self.next += 1;
            if *entry & 1 == 0 {
                *entry |= 1;
                return Some(node_of(*entry));
            }
        }
        None
    }

    /// Returns whether the pool is full of nodes nearer than a score.
    #[inline(always)]
    fn is_full_below(&self, score: f32) -> bool {
        self.entries.len() == self.capacity
            && self.entries.last().is_some_and(|last| entry_of(score, 0) > *last)
    }

    /// Returns nodes with their scores, the nearest first.
    pub(super) fn nearest(&self) -> impl ExactSizeIterator<Item = (f32, u32)> + Clone + '_ {
        self.entries.iter().map(|entry| (score_of(*entry), node_of(*entry)))
    }
}

const fn entry_of(score: f32, node: u32) -> u64 {
    (ordered(score) as u64) << 32 | (node as u64) << 1
}

const fn node_of(entry: u64) -> u32 {
    (entry as u32) >> 1
}

/// Returns a number that is ordered as the scores are.
const fn ordered(score: f32) -> u32 {
    let bits = score.to_bits();
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}

const fn score_of(entry: u64) -> f32 {
    let bits = (entry >> 32) as u32;
    f32::from_bits(if bits >> 31 == 0 { !bits } else { bits & !(1 << 31) })
}
