//! Plain look-ups: segments, their blocks, entities.

use dunlin_wire::{Cid, block::Block};

use crate::{
    collection::CollectionName,
    engine::Engine,
    entity::{Entity, nearest_baseline, novelty},
    error::ReadError,
    matched::Matched,
    observation::{EntityId, Metadata, Timestamp},
    preferred::OWN,
    question::{Coverage, Detail, TimeRange, limited},
    segment::to_f32,
    state::Collection,
    store::{Reader, Stored},
};

/// Which segments to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentQuery {
    /// The collection.
    pub collection: CollectionName,
    /// Only those of this entity.
    pub entity: Option<EntityId>,
    /// Only those that overlap this range.
    pub range: TimeRange,
    /// Only those with a larger number; 0 for all.
    pub after: u64,
    /// At most this many.
    pub limit: usize,
}

/// Segments in the order of their numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct SegmentPage {
    /// The segments.
    pub segments: Vec<Stored>,
    /// What was looked at; `complete` when there are no more.
    pub coverage: Coverage,
}

/// An entity and what it is doing now.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct EntityView {
    /// The entity.
    pub entity: EntityId,
    /// Time of its earliest observation.
    pub first: Timestamp,
    /// Time of its latest observation.
    pub last: Timestamp,
    /// Observations accepted so far.
    pub observations: u64,
    /// Segments sealed so far.
    pub segments: u64,
    /// Observations that wait for older ones.
    pub waiting: usize,
    /// What the latest observation that carried metadata said.
    pub metadata: Metadata,
    /// The regime that no segment holds yet.
    pub open: Option<OpenRegime>,
    /// What the latest observation is nearest to, of what was known when it came in; absent when nothing was, or
    /// since a restart or a change of the references there was none, or memory holds no more pasts.
    pub matched: Option<Matched>,
}

/// How much a collection has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Population {
    /// Entities that were observed and not removed.
    pub entities: u64,
    /// Observations of them that were accepted so far.
    pub observations: u64,
    /// Segments of them that were sealed so far.
    pub segments: u64,
}

/// An entity in short.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Life {
    /// The entity.
    pub entity: EntityId,
    /// Time of its latest observation.
    pub last: Timestamp,
    /// Observations accepted so far.
    pub observations: u64,
    /// Segments sealed so far.
    pub segments: u64,
    /// Whether observations are in no segment yet.
    pub is_open: bool,
}

/// A regime that is not sealed yet.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct OpenRegime {
    /// Time of its first observation.
    pub start: Timestamp,
    /// Time of its latest observation.
    pub end: Timestamp,
    /// How many observations it has.
    pub count: u64,
    /// Their mean; the latest ones are not in it while they may belong to the next regime.
    pub mean: Vec<f32>,
    /// Drift of the latest observation, in the collection's units.
    pub drift: f64,
    /// Novelty of the mean against the entity's sealed regimes, 0 to 1; in a list absent where memory does not
    /// hold these.
    pub score: Option<f64>,
}

impl std::fmt::Debug for OpenRegime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenRegime")
            .field("start", &self.start)
            .field("end", &self.end)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

/// A segment's own block and those it links to.
#[derive(Clone, Debug, PartialEq)]
pub struct SegmentBlocks {
    /// The summary.
    pub summary: Block,
    /// The payload, in the segment's order; empty for summary fidelity.
    pub payload: Vec<Block>,
}

impl Engine {
    /// Returns segments of a collection in the order of their numbers.
    ///
    /// # Errors
    ///
    /// Fails when there is no such collection or entity, or the range ends before it begins.
    pub fn segments(&self, query: &SegmentQuery) -> Result<SegmentPage, ReadError> {
        let (from, to) = query.range.bounds()?;
        let limit = limited(query.limit);
        let view = self.view()?;
        let collection = view.collection(&query.collection)?;
        let (number, reader) = (collection.number, self.reader()?);
        if let Some(entity) = &query.entity {
            collection.known(entity)?;
        }
        drop(view);
        let is_compacted = reader.has_outlines(number, query.entity.as_ref(), from, to)?;
        let range = query.range;
        let mut coverage = Coverage { range, complete: true, is_compacted, ..Coverage::default() };
        let mut segments = Vec::new();
        let mut take = |stored: Stored| {
            coverage.segments_scanned += 1;
            let segment = &stored.segment;
            if stored.number > query.after && segment.start().0 <= to && segment.end().0 >= from {
                coverage.complete = segments.len() < limit;
                if coverage.complete {
                    segments.push(stored);
                }
            }
            coverage.complete
        };
        match &query.entity {
            // The segments of one entity are sealed in the order of their times.
            Some(entity) => {
                for stored in reader.of_entity(number, entity, from, to)? {
                    if !take(stored?) {
                        break;
                    }
                }
            }
            None => {
                for stored in reader.of_collection(number, query.after)? {
                    if !take(stored?) {
                        break;
                    }
                }
            }
        }
        Ok(SegmentPage { segments, coverage })
    }

    /// Returns the segments of all collections with numbers above `after`, at most `limit`, in order.
    /// Numbers never change, so the last one seen is where to go on after a restart.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn sealed_after(&self, after: u64, limit: usize) -> Result<Vec<Stored>, ReadError> {
        Ok(self.reader()?.after(after, limited(limit))?)
    }

    /// Returns the number of the newest segment of all collections, there or removed; 0 before the first.
    ///
    /// # Errors
    ///
    /// Fails when a writer panicked.
    pub fn last_segment(&self) -> Result<u64, ReadError> {
        Ok(self.view()?.next_segment - 1)
    }

    /// Returns the segment that `cid` names, when this node sealed it.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn segment(&self, cid: &Cid) -> Result<Option<Stored>, ReadError> {
        Ok(self.reader()?.by_cid(cid)?)
    }

    /// Returns the blocks of the segment that `cid` names, when this node sealed it.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn segment_blocks(&self, cid: &Cid) -> Result<Option<SegmentBlocks>, ReadError> {
        let reader = self.reader()?;
        let Some(stored) = reader.by_cid(cid)? else { return Ok(None) };
        let payload = reader.payload_of(&stored)?;
        Ok(Some(SegmentBlocks { summary: stored.segment.to_block(), payload }))
    }

    /// Returns the block that `cid` names: a segment's own, one of its payload, or an outline.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn block(&self, cid: &Cid) -> Result<Option<Block>, ReadError> {
        let reader = self.reader()?;
        match reader.by_cid(cid)? {
            Some(stored) => Ok(Some(stored.segment.to_block())),
            None => match reader.outline(cid)? {
                Some(outline) => Ok(Some(outline)),
                None => Ok(reader.payload(cid)?),
            },
        }
    }

    /// Returns the entities of a collection by name, after `after`, at most `limit`. Writers wait meanwhile, so ask
    /// for many in pages.
    ///
    /// # Errors
    ///
    /// Fails when there is no such collection.
    pub fn entities(
        &self,
        collection: &CollectionName,
        after: Option<&EntityId>,
        limit: usize,
    ) -> Result<Vec<EntityView>, ReadError> {
        use std::ops::Bound::{Excluded, Unbounded};
        let view = self.view()?;
        let found = view.collection(collection)?;
        let reader = self.reader()?;
        let start = after.map_or(Unbounded, Excluded);
        let page = found.entities.range::<EntityId, _>((start, Unbounded)).take(limited(limit));
        let rows_max = found.spec.policy.novelty_regimes_max as usize;
        page.map(|(id, entity)| {
            let baselines = entity.past.as_ref().map(|past| past.means.newest(rows_max));
            view_of(found, id, entity, baselines.as_deref(), &reader)
        })
        .collect()
    }

    /// Returns how much a collection has, from memory alone.
    ///
    /// # Errors
    ///
    /// Fails when there is no such collection.
    pub fn population(&self, collection: &CollectionName) -> Result<Population, ReadError> {
        let view = self.view()?;
        let mut population = Population::default();
        for entity in view.collection(collection)?.entities.values() {
            population.entities += 1;
            population.observations += entity.observations;
            population.segments += entity.segments;
        }
        Ok(population)
    }

    /// Returns how the entities of a collection are, by name, after `after`, at most `limit`, in memory alone.
    ///
    /// # Errors
    ///
    /// Fails when there is no such collection.
    pub fn lives(
        &self,
        collection: &CollectionName,
        after: Option<&EntityId>,
        limit: usize,
    ) -> Result<Vec<Life>, ReadError> {
        use std::ops::Bound::{Excluded, Unbounded};
        let view = self.view()?;
        let start = after.map_or(Unbounded, Excluded);
        let entities = &view.collection(collection)?.entities;
        let page = entities.range::<EntityId, _>((start, Unbounded)).take(limited(limit));
        let life = |(id, entity): (&EntityId, &Entity)| Life {
            entity: id.clone(),
            last: Timestamp(entity.newest()),
            observations: entity.observations,
            segments: entity.segments,
            is_open: entity.regime.open_count() > 0 || entity.waiting() > 0,
        };
        Ok(page.map(life).collect())
    }

    /// Returns one entity of a collection.
    ///
    /// # Errors
    ///
    /// Fails when there is no such collection or entity.
    pub fn entity(
        &self,
        collection: &CollectionName,
        entity: &EntityId,
    ) -> Result<EntityView, ReadError> {
        let question = self.question(collection, Some(entity), Detail::Means, &OWN)?;
        let (reader, number) = (&question.reader, question.number);
        let rows_max = question.spec.policy.novelty_regimes_max as usize;
        let past = reader.of_entity(number, entity, i64::MIN, i64::MAX)?.rev().take(rows_max);
        let means = past.map(|s| Ok(s?.segment.mean().to_vec()));
        let baselines = means.collect::<Result<Vec<_>, ReadError>>()?.concat();
        let view = self.view()?;
        let found = view.collection(collection)?;
        let state = found.known(entity)?;
        view_of(found, entity, state, Some(&baselines), &self.reader()?)
    }
}

fn view_of(
    collection: &Collection,
    id: &EntityId,
    entity: &Entity,
    baselines: Option<&[f32]>,
    reader: &Reader,
) -> Result<EntityView, ReadError> {
    let (regime, state) = (&entity.regime, entity.regime.state());
    let mean: Vec<f32> = state.mean.iter().copied().map(to_f32).collect();
    let score = |baselines: &[f32]| {
        let nearest = nearest_baseline(&mean, baselines, regime.inverse_unit());
        novelty(nearest, collection.spec.policy.threshold)
    };
    let open = (regime.open_count() > 0).then(|| OpenRegime {
        start: Timestamp(state.start),
        end: Timestamp(regime.newest()),
        count: regime.open_count(),
        drift: state.drift_now,
        score: baselines.map(score),
        mean: mean.clone(),
    });
    Ok(EntityView {
        entity: id.clone(),
        first: Timestamp(entity.first),
        last: Timestamp(entity.newest()),
        observations: entity.observations,
        segments: entity.segments,
        waiting: entity.waiting(),
        metadata: entity.metadata.clone(),
        open,
        matched: Matched::newest(collection, entity, reader)?,
    })
}
