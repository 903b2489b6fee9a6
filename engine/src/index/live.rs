//! The mutable tier: what changes is visible at once, over an index of what does not.
//!
//! New rows wait in a flat list that every search compares in full. A sealed row that was updated or
//! removed is no longer in the set that the sealed index is asked for. [`LiveIndex::compact`] makes one
//! index of everything; it takes as long as [`GraphIndex::build`], so the caller says when.

use std::collections::BTreeMap;

use super::{
    GRAPH_NODES_MIN, GraphIndex, Index, RowSet, Search, VectorError, check_vector, exact::Exact,
    nearest::Nearest,
};
use crate::{
    collection::{Dim, Metric},
    simd::Level,
};

/// One sealed row of this many may be dead before compaction is due: walks meet the dead in vain.
const DEAD_ONE_OF: usize = 4;

/// Vectors by key, that can change.
#[derive(Clone, Debug)]
pub struct LiveIndex {
    metric: Metric,
    dim: Dim,
    level: Level,
    sealed: GraphIndex,
    /// The key of each sealed row, rising.
    sealed_keys: Vec<u64>,
    /// Sealed rows that were neither updated nor removed.
    alive: RowSet,
    hot: Exact,
    hot_keys: Vec<u64>,
    /// Where each key's vector is.
    places: BTreeMap<u64, Place>,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Sealed(u32),
    Hot(u32),
}

/// A question for the keys whose vectors are nearest to a vector.
#[derive(Clone, Copy)]
pub struct LiveSearch<'a> {
    /// The vector: of the index's dimension, finite.
    pub vector: &'a [f32],
    /// How many keys to return; fewer when there are fewer.
    pub k: usize,
    /// How many candidates a walk keeps, as in [`Search::effort`].
    pub effort: usize,
    /// Only keys that pass.
    pub filter: Option<&'a dyn Fn(u64) -> bool>,
}

impl std::fmt::Debug for LiveSearch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveSearch")
            .field("dim", &self.vector.len())
            .field("k", &self.k)
            .field("effort", &self.effort)
            .finish_non_exhaustive()
    }
}

/// A key whose vector is near the one that was asked about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LiveMatch {
    /// The key.
    pub key: u64,
    /// The distance of its vector; small is near.
    pub distance: f64,
}

impl LiveIndex {
    /// Returns an index without vectors.
    #[must_use]
    pub fn new(metric: Metric, dim: Dim) -> Self {
        Self {
            level: Level::detect(),
            metric,
            dim,
            sealed: GraphIndex::empty(metric, dim),
            sealed_keys: Vec::new(),
            alive: RowSet::default(),
            hot: Exact::floats(dim.get(), Vec::new()),
            hot_keys: Vec::new(),
            places: BTreeMap::new(),
        }
    }

    /// Puts a vector in, in place of the one that the key had.
    ///
    /// # Errors
    ///
    /// Fails when the vector has another dimension or is not finite; nothing changed then.
    pub fn insert(&mut self, key: u64, vector: &[f32]) -> Result<(), VectorError> {
        check_vector(self.hot.dim, vector)?;
        if let Some(Place::Hot(row)) = self.places.get(&key) {
            self.hot.replace(*row, vector);
            return Ok(());
        }
        self.remove(key);
        self.places.insert(key, Place::Hot(self.hot_keys.len() as u32));
        self.hot_keys.push(key);
        self.hot.push(vector);
        Ok(())
    }

    /// Takes a key out; says whether it was there.
    pub fn remove(&mut self, key: u64) -> bool {
        match self.places.remove(&key) {
            None => return false,
            Some(Place::Sealed(row)) => self.alive.remove(row),
            Some(Place::Hot(row)) => {
                self.hot.swap_remove(row);
                self.hot_keys.swap_remove(row as usize);
                if let Some(moved) = self.hot_keys.get(row as usize) {
                    self.places.insert(*moved, Place::Hot(row));
                }
            }
        }
        true
    }

    /// Makes one index of everything.
    ///
    /// # Errors
    ///
    /// Fails when there are more rows than an index can have; nothing changed then.
    pub fn compact(&mut self) -> Result<(), VectorError> {
        let mut values = Vec::with_capacity(self.places.len() * self.hot.dim);
        for place in self.places.values() {
            match *place {
                Place::Sealed(row) => self.sealed.append_row(row, &mut values),
                Place::Hot(row) => self.hot.append(row, &mut values),
            }
        }
        self.sealed = GraphIndex::build(self.metric, self.dim, &values)?;
        self.sealed_keys = self.places.keys().copied().collect();
        self.alive = RowSet::from_fn(self.sealed_keys.len(), |_| true);
        self.hot = Exact::floats(self.hot.dim, Vec::new());
        self.hot_keys.clear();
        for (place, row) in self.places.values_mut().zip(0..) {
            *place = Place::Sealed(row);
        }
        Ok(())
    }

    /// Returns whether searches would gain from [`Self::compact`].
    #[must_use]
    pub fn is_compaction_due(&self) -> bool {
        let dead = self.sealed_keys.len() - self.alive.count();
        self.hot_keys.len() >= GRAPH_NODES_MIN
            || (dead >= GRAPH_NODES_MIN && dead * DEAD_ONE_OF >= self.sealed_keys.len())
    }

    /// Returns how many keys there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.places.len()
    }

    /// Returns whether a key is there.
    #[must_use]
    pub fn contains(&self, key: u64) -> bool {
        self.places.contains_key(&key)
    }

    /// Returns the keys whose vectors are nearest to a vector, by rising distance, ties by key.
    ///
    /// A filter is asked about every key, once.
    ///
    /// # Errors
    ///
    /// Fails when the vector has another dimension or is not finite.
    pub fn search(&self, search: &LiveSearch<'_>) -> Result<Vec<LiveMatch>, VectorError> {
        check_vector(self.hot.dim, search.vector)?;
        let mut nearest = Nearest::new(search.k.min(self.count()));
        let passing = search.filter.map(|passes| {
            RowSet::from_fn(self.sealed_keys.len(), |row| {
                self.alive.contains(row) && passes(self.sealed_keys[row as usize])
            })
        });
        let all_alive = self.alive.count() == self.sealed_keys.len();
        let filter = passing.as_ref().or((!all_alive).then_some(&self.alive));
        let LiveSearch { vector, k, effort, .. } = *search;
        for found in self.sealed.search(&Search { vector, k, effort, filter })? {
            nearest.offer(found.distance, self.sealed_keys[found.row as usize]);
        }
        let query = self.hot.query(self.level, self.metric, vector);
        for (key, row) in self.hot_keys.iter().zip(0..) {
            if search.filter.is_none_or(|passes| passes(*key)) {
                nearest.offer(self.hot.distance(self.level, &query, row), *key);
            }
        }
        Ok(nearest.finish().map(|(distance, key)| LiveMatch { key, distance }).collect())
    }
}
