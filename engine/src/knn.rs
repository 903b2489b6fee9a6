//! Nearest regimes: an exact scan over segment means and open regimes.

use std::cmp::Ordering;

use crate::{
    collection::{CollectionName, Metric},
    distance::distance,
    engine::Engine,
    error::ReadError,
    observation::{EntityId, Timestamp},
    question::{Coverage, Detail, SLACK, Source, TimeRange, keep_best, limited},
    segment::Segment,
};

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
    /// Sealed, open, or both.
    pub include: Include,
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
    /// By rising distance; ties by entity, then start.
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
        let (from, to) = query.range.bounds()?;
        let question = self.question(&query.collection, query.entity.as_ref(), Detail::Means)?;
        question.check_vector(&query.vector)?;
        let mut coverage = Coverage { range: query.range, complete: true, ..Coverage::default() };
        let mut best = Best::new(question.spec.metric, &query.vector, query.k);
        if query.include != Include::Sealed {
            for asked in &question.entities {
                let Some(open) = asked.open_between(from, to) else { continue };
                coverage.hot_regimes += 1;
                best.offer(&open.mean, |distance| Neighbor {
                    distance,
                    entity: asked.id.clone(),
                    start: Timestamp(open.start),
                    end: Timestamp(open.end),
                    count: open.count,
                    source: Source::Open,
                });
            }
        }
        if query.include != Include::Open {
            let mut offer = |stored: crate::Stored| {
                let segment = &stored.segment;
                coverage.segments_scanned += 1;
                if segment.start().0 <= to && segment.end().0 >= from {
                    best.offer(segment.mean(), |d| neighbor(segment, stored.cid, d));
                }
            };
            let (reader, number) = (&question.reader, question.number);
            match &query.entity {
                Some(entity) => {
                    for stored in reader.of_entity(number, entity, from, to)? {
                        offer(stored?);
                    }
                }
                None => {
                    for stored in reader.of_collection(number, 0)? {
                        offer(stored?);
                    }
                }
            }
        }
        Ok(KnnAnswer { neighbors: best.finish(), coverage })
    }
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
