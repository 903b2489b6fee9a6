//! What the own fleets do: sealed segments are folded into what is known of their collection when somebody asks.
//!
//! It is in memory alone, and made of the segments in the store when it is asked for first. None of it is
//! private, and none of it is given to any peer.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, PoisonError},
};

use dunlin_engine::{CollectionName, CollectionSpec, SegmentQuery, Stored, TimeRange, Units};
use dunlin_privacy::{
    Bounds, BoundsError,
    discovery::{Behaviours, Discovery, Stay},
};

use super::shared::Shared;

/// Collections of which it is remembered what was folded. When there are more, the one that nobody asked about for
/// longest is made anew. Each takes some megabytes at most.
const FLEETS_MAX: usize = 8;

/// Segments that are read together.
const PAGE: usize = 5_000;

/// What was folded so far, of the collections that were asked about; the newest question last.
#[derive(Debug, Default)]
pub(crate) struct Fleets(Mutex<Vec<Fleet>>);

#[derive(Debug)]
struct Fleet {
    collection: CollectionName,
    discovery: Discovery,
    /// The last segment in it.
    after: u64,
    /// Entities that had been removed from the node by then. With one more, what is left is folded anew: what
    /// was removed is not to be found in here.
    removed: u64,
    /// Whether older segments had been compacted before they were looked at.
    is_compacted: bool,
}

/// What a collection's entities do.
pub(crate) struct Found {
    pub(crate) behaviours: Behaviours,
    /// For each outlier its newest segment, unless that is gone.
    pub(crate) outliers: Vec<Option<Stored>>,
    pub(crate) is_compacted: bool,
}

/// Why it cannot be told what a fleet does.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FleetError {
    /// The collection has no declared ranges, so that entities have nothing to be compared in.
    #[error("the collection has no declared ranges, in which its entities could be compared")]
    NoRanges,
    /// The declared ranges are not usable; the engine checked them, so this is a mistake of ours.
    #[error("the declared ranges are not usable")]
    Bounds(#[from] BoundsError),
    /// The store cannot be read, or there is no such collection.
    #[error(transparent)]
    Read(#[from] dunlin_engine::ReadError),
}

impl Shared {
    /// Returns what the entities of a collection do, by all segments that are sealed by now.
    pub(crate) fn behaviours(&self, spec: &CollectionSpec) -> Result<Found, FleetError> {
        let Units::Range { lower, upper } = &spec.units else { return Err(FleetError::NoRanges) };
        let bounds = Bounds::new(lower.clone(), upper.clone())?;
        let removed = self.engine.counters().entities_removed;
        // Held while segments are read: a second question would read the same ones.
        let mut fleets = self.fleets.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = fleets
            .iter()
            .position(|fleet| fleet.collection == spec.name && fleet.removed == removed);
        let mut fleet = match place {
            Some(place) => fleets.remove(place),
            None => Fleet {
                collection: spec.name.clone(),
                discovery: Discovery::new(&bounds),
                after: 0,
                removed,
                is_compacted: false,
            },
        };
        fleets.retain(|fleet| fleet.collection != spec.name);
        self.catch_up(&mut fleet)?;
        let behaviours = fleet.discovery.behaviours();
        let is_compacted = fleet.is_compacted;
        if fleets.len() >= FLEETS_MAX {
            fleets.remove(0);
        }
        fleets.push(fleet);
        drop(fleets);
        let outliers = behaviours.outliers.iter();
        let outliers = outliers.map(|outlier| self.segment_of(&spec.name, outlier.segment));
        Ok(Found { outliers: outliers.collect::<Result<_, _>>()?, behaviours, is_compacted })
    }

    /// Folds the segments in that were sealed since.
    fn catch_up(&self, fleet: &mut Fleet) -> Result<(), FleetError> {
        loop {
            let page = self.engine.segments(&SegmentQuery {
                collection: fleet.collection.clone(),
                entity: None,
                range: TimeRange::ALL,
                after: fleet.after,
                limit: PAGE,
            })?;
            fleet.is_compacted |= page.coverage.is_compacted;
            for stored in &page.segments {
                let segment = &stored.segment;
                fleet.discovery.add(&Stay {
                    segment: stored.number,
                    entity: number_of(segment.entity().as_str()),
                    start_us: segment.start().0,
                    end_us: segment.end().0,
                    observations: segment.count().into(),
                    mean: segment.mean(),
                });
                fleet.after = stored.number;
            }
            if page.segments.len() < PAGE {
                return Ok(());
            }
        }
    }

    fn segment_of(
        &self,
        collection: &CollectionName,
        number: u64,
    ) -> Result<Option<Stored>, FleetError> {
        let page = self.engine.segments(&SegmentQuery {
            collection: collection.clone(),
            entity: None,
            range: TimeRange::ALL,
            after: number.saturating_sub(1),
            limit: 1,
        })?;
        Ok(page.segments.into_iter().find(|stored| stored.number == number))
    }
}

/// Returns a number that stands for a name in this process: two names with one number would count as one entity.
fn number_of(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}
