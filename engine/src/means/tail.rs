//! Segments that no part has yet: their means in memory, compared one by one.

use std::collections::BTreeMap;

use super::{Claim, Found, Kind, Wanted};
use crate::{
    collection::{Dim, Metric},
    error::StoreError,
    index::{EFFORT_EXACT, LiveIndex, LiveSearch},
    observation::EntityId,
    store::Reader,
};

/// The newest segments of a collection, up to some number of them.
#[derive(Debug)]
pub(super) struct Tail {
    /// The last segment that a part has.
    after: u64,
    /// The last segment that was seen.
    until: u64,
    means: LiveIndex,
    facts: BTreeMap<u64, Fact>,
}

#[derive(Debug)]
struct Fact {
    start: i64,
    end: i64,
    entity: EntityId,
}

impl Tail {
    pub(super) fn new(metric: Metric, dim: Dim, after: u64) -> Self {
        Self { after, until: after, means: LiveIndex::new(metric, dim), facts: BTreeMap::new() }
    }

    /// Takes in what was sealed since, as long as there is room for it.
    pub(super) fn catch_up(
        &mut self,
        reader: &Reader,
        collection: u32,
        rows_max: usize,
    ) -> Result<(), StoreError> {
        for stored in reader.of_collection(collection, self.until)? {
            if self.count() >= rows_max {
                break;
            }
            let stored = stored?;
            let segment = &stored.segment;
            // A segment's mean is finite and of the collection's dimension, or it would not decode.
            let inserted = self.means.insert(stored.number, segment.mean());
            inserted.map_err(|_| StoreError::Damaged { what: "a segment" })?;
            let fact = Fact {
                start: segment.start().0,
                end: segment.end().0,
                entity: segment.entity().clone(),
            };
            self.facts.insert(stored.number, fact);
            self.until = stored.number;
        }
        Ok(())
    }

    /// Returns the number that the tail begins after.
    pub(super) const fn after(&self) -> u64 {
        self.after
    }

    /// Returns the last number that the tail has seen.
    pub(super) const fn until(&self) -> u64 {
        self.until
    }

    /// Returns how many segments there are.
    pub(super) fn count(&self) -> usize {
        self.facts.len()
    }

    /// Takes a segment out.
    pub(super) fn remove(&mut self, number: u64) {
        self.means.remove(number);
        self.facts.remove(&number);
    }

    /// Drops everything up to a number: a part has it now.
    pub(super) fn cut(&mut self, last: u64) {
        let kept = self.facts.split_off(&(last + 1));
        for number in std::mem::replace(&mut self.facts, kept).into_keys() {
            self.means.remove(number);
        }
        self.after = self.after.max(last);
        self.until = self.until.max(last);
    }

    /// Compares every segment that is wanted.
    pub(super) fn search(
        &self,
        kind: Kind,
        wanted: &Wanted<'_>,
        found: &mut Found,
    ) -> Result<(), StoreError> {
        let passes = |number: u64| {
            let fact = self.facts.get(&number).filter(|_| number < kind.next_segment);
            fact.is_some_and(|fact| wanted.passes((fact.start, fact.end), &fact.entity))
        };
        let search = LiveSearch {
            vector: wanted.vector,
            k: wanted.k,
            effort: EFFORT_EXACT,
            filter: Some(&passes),
        };
        let nearest = self.means.search(&search);
        for hit in nearest.map_err(|_| StoreError::Damaged { what: "an index" })? {
            found.offer(wanted.k, Claim::exact(hit.distance, hit.key));
        }
        found.compared += self.facts.range(..kind.next_segment).count() as u64;
        Ok(())
    }
}
