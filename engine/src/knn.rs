//! Nearest regimes: the index over segments' means, and open regimes.

use std::{cmp::Ordering, collections::BTreeSet};

use crate::{
    collection::{CollectionName, Metric},
    distance::distance,
    engine::Engine,
    entity::Entity,
    error::{ReadError, StoreError},
    hot::Hot,
    means::{Found, Wanted},
    observation::{EntityId, Metadata, Timestamp},
    preferred::{OWN, Preferred},
    question::{
        Asked, Coverage, Detail, Question, SLACK, Source, TimeRange, check_vector, keep_best,
        limited,
    },
    segment::{Segment, to_f32},
    state::Collection,
    store::Stored,
};

/// Own segments that lose against others', of which as many more than asked for are looked up, so that what is left is
/// enough. With more of them the answer may say that it is incomplete.
const LOSERS_MAX: usize = 1_024;

/// Which regimes to look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Include {
    /// Sealed segments and open regimes.
    #[default]
    All,
    /// Sealed segments only.
    Sealed,
    /// Open regimes only.
    Open,
}

/// A question for the regimes whose means are nearest to a vector.
#[derive(Clone, PartialEq)]
pub struct KnnQuery {
    /// The collection, whose metric counts.
    pub collection: CollectionName,
    /// The vector, of the collection's dimension.
    pub vector: Vec<f32>,
    /// How many regimes to return.
    pub k: usize,
    /// Only regimes that overlap this range.
    pub range: TimeRange,
    /// Only regimes of this entity.
    pub entity: Option<EntityId>,
    /// Only regimes of entities whose metadata has all of these pairs. An entity's metadata is what its
    /// latest observation that carried any said.
    pub metadata: Metadata,
    /// Sealed, open, or both.
    pub include: Include,
    /// Whether an index may be walked, which can miss some of the nearest.
    pub search: Exactness,
}

/// How far an answer may be from the truth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exactness {
    /// Large sets are walked: fast, and most of the nearest are found.
    #[default]
    Approximate,
    /// Everything is compared.
    Exact,
}

impl KnnQuery {
    /// Returns the question for the `k` regimes nearest to a vector.
    #[must_use]
    pub fn new(collection: CollectionName, vector: Vec<f32>, k: usize) -> Self {
        Self {
            collection,
            vector,
            k,
            range: TimeRange::ALL,
            entity: None,
            metadata: Metadata::default(),
            include: Include::All,
            search: Exactness::Approximate,
        }
    }

    /// Returns whether the question is about some entities only.
    fn chooses(&self) -> bool {
        self.entity.is_some() || !self.metadata.is_empty()
    }

    /// Returns the entities that the question is about; if these are all, then only those of which another node's
    /// version may be preferred.
    fn asked(
        &self,
        collection: &Collection,
        preferred: &Preferred<'_>,
    ) -> Result<Vec<Asked>, ReadError> {
        let name = |(id, entity): (&EntityId, &Entity)| {
            let passes = entity.metadata.has_all(&self.metadata);
            passes.then(|| Asked::new(id, entity, Detail::Names))
        };
        let entities = &collection.entities;
        Ok(match &self.entity {
            Some(id) => name((id, collection.known(id)?)).into_iter().collect(),
            None if self.chooses() => entities.iter().filter_map(name).collect(),
            None => preferred.ids().filter_map(|id| name(entities.get_key_value(id)?)).collect(),
        })
    }

    /// Returns the nearest open regimes, and how many were compared.
    fn hot(
        &self,
        collection: &Collection,
        (from, to): (i64, i64),
    ) -> Result<(Vec<Neighbor>, u64), ReadError> {
        let overlaps = |hot: &Hot| hot.start <= to && hot.end >= from;
        let says = |entity: &Entity| entity.metadata.has_all(&self.metadata);
        let passes = |hot: &Hot| {
            let of = || collection.entities.get(&hot.entity);
            overlaps(hot) && (self.metadata.is_empty() || of().is_some_and(says))
        };
        let tier = &collection.hot;
        let (near, compared) = match &self.entity {
            Some(id) => {
                let entity = collection.known(id)?;
                let hot = entity.hot_slot.and_then(|slot| tier.get(slot)).filter(|hot| passes(hot));
                let mean: Vec<f32> =
                    entity.regime.state().mean.iter().copied().map(to_f32).collect();
                let of = || distance(collection.spec.metric, &self.vector, &mean);
                (hot.map(|hot| (of(), hot)).into_iter().collect(), hot.iter().count() as u64)
            }
            None => {
                let is_all = self.metadata.is_empty() && self.range == TimeRange::ALL;
                let passes = (!is_all).then_some(&passes as &dyn Fn(&Hot) -> bool);
                tier.nearest(&self.vector, limited(self.k), passes)
            }
        };
        let open = |(distance, hot): (f64, &Hot)| Neighbor {
            distance,
            entity: hot.entity.clone(),
            start: Timestamp(hot.start),
            end: Timestamp(hot.end),
            count: hot.count,
            source: Source::Open,
        };
        Ok((near.into_iter().map(open).collect(), compared))
    }
}

impl std::fmt::Debug for KnnQuery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Queries are the user's and do not belong in a log.
        f.debug_struct("KnnQuery")
            .field("collection", &self.collection)
            .field("dim", &self.vector.len())
            .field("k", &self.k)
            .finish_non_exhaustive()
    }
}

/// The nearest regimes.
#[derive(Clone, Debug, PartialEq)]
pub struct KnnAnswer {
    /// By rising distance; ties by entity, then start. Of equally distant sealed ones that do not all fit, those
    /// sealed first are in.
    pub neighbors: Vec<Neighbor>,
    /// What was looked at.
    pub coverage: Coverage,
}

/// A regime near the vector that was asked about.
#[derive(Clone, Debug, PartialEq)]
pub struct Neighbor {
    /// Distance of the regime's mean in the collection's metric; small is near.
    pub distance: f64,
    /// Whose regime it is.
    pub entity: EntityId,
    /// Time of its first observation.
    pub start: Timestamp,
    /// Time of its last observation.
    pub end: Timestamp,
    /// How many observations it has.
    pub count: u32,
    /// The sealed segment, or that it is open.
    pub source: Source,
}

impl Engine {
    /// Returns the regimes whose means are nearest to a vector.
    ///
    /// # Errors
    ///
    /// Fails when there is no such collection or entity, or the vector or range is not usable.
    pub fn knn(&self, query: &KnnQuery) -> Result<KnnAnswer, ReadError> {
        self.knn_with(query, &OWN)
    }

    /// As [`Self::knn`], with what other nodes sealed in the place of some own segments.
    ///
    /// # Errors
    ///
    /// As [`Self::knn`].
    pub fn knn_with(
        &self,
        query: &KnnQuery,
        preferred: &Preferred<'_>,
    ) -> Result<KnnAnswer, ReadError> {
        let bounds = query.range.bounds()?;
        let (mut hot, mut hot_regimes) = (Vec::new(), 0);
        let question = self.question_about(&query.collection, preferred, |collection| {
            let asked = query.asked(collection, preferred)?;
            check_vector(&collection.spec, &query.vector)?;
            if query.include != Include::Sealed {
                (hot, hot_regimes) = query.hot(collection, bounds)?;
            }
            Ok(asked)
        })?;
        let mut coverage = Coverage { hot_regimes, ..question.coverage(query.range) };
        let mut best = Best::new(question.spec.metric, &query.vector, query.k);
        best.found = hot;
        if query.include != Include::Open {
            self.offer_sealed(&question, query, &mut best, &mut coverage)?;
            // Asked afterwards, and of the store as it is now: the index is as new as that.
            let (reader, (from, to)) = (self.reader()?, bounds);
            let entity = query.entity.as_ref();
            coverage.is_compacted = reader.has_outlines(question.number, entity, from, to)?;
        }
        Ok(KnnAnswer { neighbors: best.finish(), coverage })
    }

    /// Offers own segments that are used, and those of other nodes that are used for the rest.
    fn offer_sealed(
        &self,
        question: &Question<'_>,
        query: &KnnQuery,
        best: &mut Best<'_>,
        coverage: &mut Coverage,
    ) -> Result<(), ReadError> {
        let bounds = query.range.bounds()?;
        let losers = question.losers();
        // As many more as may be passed over.
        let k = limited(query.k.saturating_add(losers.min(LOSERS_MAX)));
        let near = self.sealed_near(question, query, k, coverage)?;
        let (found, mut used) = (near.len(), near);
        used.retain(|(_, stored)| !question.preferred.passes_over(stored));
        // All that are here were found, or enough of them are left.
        coverage.complete &= found < k || used.len() >= limited(query.k);
        used.truncate(limited(query.k));
        for (distance, stored) in used {
            best.found.push(neighbor(&stored.segment, stored.cid, distance));
        }
        for foreign in question.foreign(bounds) {
            coverage.segments_scanned += 1;
            best.offer(foreign.mean(), |d| neighbor(foreign, foreign.cid(), d));
        }
        Ok(())
    }

    /// Returns the `k` nearest own segments with their distances.
    fn sealed_near(
        &self,
        question: &Question<'_>,
        query: &KnnQuery,
        k: usize,
        coverage: &mut Coverage,
    ) -> Result<Vec<(f64, Stored)>, ReadError> {
        let chosen: Option<BTreeSet<&EntityId>> =
            query.chooses().then(|| question.entities.iter().map(|asked| &asked.id).collect());
        if k == 0 || chosen.as_ref().is_some_and(BTreeSet::is_empty) {
            return Ok(Vec::new());
        }
        let is_chosen =
            |entity: &EntityId| chosen.as_ref().is_none_or(|chosen| chosen.contains(entity));
        let wanted = Wanted {
            vector: &query.vector,
            k,
            is_exact: query.search == Exactness::Exact,
            range: query.range.bounds()?,
            of: chosen.is_some().then_some(&is_chosen as &dyn Fn(&EntityId) -> bool),
        };
        let (means, store) = self.means();
        let mut is_second_try = false;
        loop {
            let found = means.nearest(question.kind, (store, &question.reader), &wanted)?;
            if let Some(near) = verified(question, (&query.vector, k), &found)? {
                coverage.segments_scanned += found.compared;
                coverage.segments_indexed += found.indexed;
                return Ok(near);
            }
            // What is left is made of the store itself.
            if is_second_try {
                return Err(StoreError::Damaged { what: "an index" }.into());
            }
            means.discard(question.kind);
            is_second_try = true;
        }
    }
}

/// Returns the `k` nearest of the segments that were found, by distance and number, unless the index was wrong
/// about one of them.
fn verified(
    question: &Question,
    (vector, k): (&[f32], usize),
    found: &Found,
) -> Result<Option<Vec<(f64, Stored)>>, ReadError> {
    let mut near = Vec::with_capacity(found.nearest.len());
    for claim in &found.nearest {
        let stored = question.reader.find((question.number, claim.number))?;
        let Some(stored) = stored else { return Ok(None) };
        let really = distance(question.spec.metric, vector, stored.segment.mean());
        let is_right = if claim.slack > 0.0 {
            (really - claim.distance).abs() <= claim.slack
        } else {
            really.to_bits() == claim.distance.to_bits()
        };
        if !is_right {
            return Ok(None);
        }
        near.push((really, stored));
    }
    near.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.number.cmp(&b.1.number)));
    near.truncate(k);
    Ok(Some(near))
}

/// Returns the `k` of `segments` whose means are nearest to `vector`, as [`Engine::knn`] does for its
/// own; segments of another dimension are passed over.
#[must_use]
pub fn knn_over<'a>(
    metric: Metric,
    vector: &[f32],
    k: usize,
    segments: impl IntoIterator<Item = &'a Segment>,
) -> Vec<Neighbor> {
    let mut best = Best::new(metric, vector, k);
    for segment in segments {
        if segment.dim() == vector.len() {
            best.offer(segment.mean(), |d| neighbor(segment, segment.cid(), d));
        }
    }
    best.finish()
}

fn neighbor(segment: &Segment, cid: dunlin_wire::Cid, distance: f64) -> Neighbor {
    Neighbor {
        distance,
        entity: segment.entity().clone(),
        start: segment.start(),
        end: segment.end(),
        count: segment.count(),
        source: Source::Sealed(cid),
    }
}

/// The nearest regimes so far.
struct Best<'a> {
    metric: Metric,
    vector: &'a [f32],
    k: usize,
    /// No regime farther than this can be among the nearest.
    farthest: f64,
    found: Vec<Neighbor>,
}

impl<'a> Best<'a> {
    fn new(metric: Metric, vector: &'a [f32], k: usize) -> Self {
        Self { metric, vector, k: limited(k), farthest: f64::INFINITY, found: Vec::new() }
    }

    fn offer(&mut self, mean: &[f32], neighbor: impl FnOnce(f64) -> Neighbor) {
        let distance = distance(self.metric, self.vector, mean);
        if distance > self.farthest || self.k == 0 {
            return;
        }
        self.found.push(neighbor(distance));
        keep_best(&mut self.found, self.k, SLACK, order);
        if self.found.len() == self.k && self.found.is_sorted_by(|a, b| order(a, b).is_le()) {
            self.farthest = self.found[self.k - 1].distance;
        }
    }

    fn finish(mut self) -> Vec<Neighbor> {
        self.found.sort_by(order);
        self.found.truncate(self.k);
        self.found
    }
}

fn order(a: &Neighbor, b: &Neighbor) -> Ordering {
    let by_distance = a.distance.total_cmp(&b.distance);
    by_distance.then_with(|| a.entity.cmp(&b.entity)).then_with(|| a.start.cmp(&b.start))
}
