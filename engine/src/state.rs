//! What the log's entries add up to: collections and their entities.
//!
//! [`State::apply`] is the only place where anything changes. It runs in log order, live and in replay
//! alike, and decides by the entry and the state alone; so a replay makes the same segments with the
//! same numbers, and the way batches were cut or grouped leaves no trace.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use dunlin_wire::Cid;

use crate::{
    Config,
    batch::Entry,
    codec::Tolerance,
    collection::{CollectionName, CollectionSpec},
    counters::Counters,
    entity::{Admission, Entity, novelty},
    error::{ReadError, StoreError, WriteError},
    means::Kind,
    observation::{EntityId, Timestamp},
    payload,
    regime::Sealed,
    rows::Rows,
    segment::{Measures, Segment, to_f32},
    store::{Checkpoint, NewSegment, Store},
};

/// All collections, in memory.
pub(crate) struct State {
    pub(crate) collections: BTreeMap<CollectionName, Collection>,
    /// The number of the next segment.
    pub(crate) next_segment: u64,
    /// The last log record in the newest checkpoint.
    pub(crate) checkpointed: u64,
    pub(crate) counters: Counters,
    /// Entities whose records the newest checkpoint still has.
    pub(crate) removed: BTreeSet<(u32, EntityId)>,
    baseline_bytes: usize,
    baseline_bytes_max: usize,
}

/// A collection with its entities.
pub(crate) struct Collection {
    pub(crate) number: u32,
    pub(crate) spec: Arc<CollectionSpec>,
    pub(crate) entities: BTreeMap<EntityId, Entity>,
}

/// What an entry did.
pub(crate) enum Outcome {
    /// Observations were taken in.
    Ingested(Ack),
    /// A regime was closed, unless there was nothing to close.
    Sealed(Option<Cid>),
    /// The collection exists.
    Created,
    /// An entity was forgotten, and the segments of these numbers.
    Removed { removed: Removed, kind: Kind, numbers: Vec<u64> },
    /// The state did not allow it, and is unchanged.
    Refused(WriteError),
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ack {
    /// Observations that are now durable.
    pub accepted: u64,
    /// Observations whose entity and time were known already; they changed nothing.
    pub duplicate: u64,
    /// Observations older than the collection's lateness allows; they were dropped.
    pub late: u64,
    /// Segments that the batch sealed.
    pub sealed: u64,
}

/// What became of an entity that was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removed {
    /// Observations that were forgotten, sealed or not.
    pub observations: u64,
    /// Segments that were removed from this node's store.
    pub segments: u64,
}

impl State {
    /// Returns a state without collections.
    pub(crate) fn new(checkpoint: Checkpoint, baseline_bytes_max: usize) -> Self {
        Self {
            collections: BTreeMap::new(),
            next_segment: checkpoint.next_segment,
            checkpointed: checkpoint.record,
            counters: Counters::default(),
            removed: BTreeSet::new(),
            baseline_bytes: 0,
            baseline_bytes_max,
        }
    }

    /// Applies one entry; appends the segments that it sealed to `sealed`.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read; the state is then half changed and of no more use.
    pub(crate) fn apply(
        &mut self,
        entry: Entry,
        store: &Store,
        sealed: &mut Vec<NewSegment>,
    ) -> Result<Outcome, StoreError> {
        let before = sealed.len();
        let outcome = match entry {
            Entry::Create(spec) => self.create(*spec),
            Entry::Seal { collection, entity } => self.seal(collection, entity, store, sealed)?,
            Entry::Observations { collection, groups } => {
                self.ingest(collection, groups, store, sealed)?
            }
            Entry::Remove { collection, entity, observations } => {
                return self.remove((collection, entity), observations, store, sealed);
            }
        };
        for NewSegment { block, payload, .. } in &sealed[before..] {
            self.counters.segments_sealed += 1;
            self.counters.segment_bytes += block.bytes().len() as u64;
            let bytes = payload.iter().map(|block| block.bytes().len() as u64);
            self.counters.payload_bytes += bytes.sum::<u64>();
        }
        Ok(outcome)
    }

    /// Drops the cached baselines when they are too many. Call it when every sealed segment is in the
    /// store, from where they are read again.
    pub(crate) fn limit_baselines(&mut self) {
        if self.baseline_bytes <= self.baseline_bytes_max {
            return;
        }
        self.counters.baseline_cache_drops += 1;
        self.baseline_bytes = 0;
        for collection in self.collections.values_mut() {
            for entity in collection.entities.values_mut() {
                entity.baselines = (entity.segments == 0).then(Vec::new);
            }
        }
    }

    /// Returns what the index must know of a collection.
    pub(crate) fn kind(&self, collection: &Collection) -> Kind {
        Kind::new(collection.number, &collection.spec, self.next_segment)
    }

    /// Returns a collection for a question.
    pub(crate) fn collection(&self, name: &CollectionName) -> Result<&Collection, ReadError> {
        let missing = || ReadError::UnknownCollection { name: name.clone() };
        self.collections.get(name).ok_or_else(missing)
    }

    fn create(&mut self, spec: CollectionSpec) -> Outcome {
        if let Some(existing) = self.collections.get(&spec.name) {
            return match *existing.spec == spec {
                true => Outcome::Created,
                false => Outcome::Refused(WriteError::OtherSpec { name: spec.name }),
            };
        }
        if self.collections.len() >= Config::COLLECTIONS_MAX {
            return Outcome::Refused(WriteError::TooManyCollections);
        }
        // Collections are never removed, so their count is the next free number.
        let number = u32::try_from(self.collections.len()).expect("bounded by COLLECTIONS_MAX");
        let collection = Collection { number, spec: Arc::new(spec), entities: BTreeMap::new() };
        self.collections.insert(collection.spec.name.clone(), collection);
        Outcome::Created
    }

    fn seal(
        &mut self,
        collection: CollectionName,
        entity: EntityId,
        store: &Store,
        sealed: &mut Vec<NewSegment>,
    ) -> Result<Outcome, StoreError> {
        let before = sealed.len();
        let Some(Collection { number, spec, entities }) = self.collections.get_mut(&collection)
        else {
            return Ok(Outcome::Refused(WriteError::UnknownCollection { name: collection }));
        };
        let Some(state) = entities.get_mut(&entity) else {
            return Ok(Outcome::Refused(WriteError::UnknownEntity { collection, entity }));
        };
        let mut regimes = Vec::new();
        state.seal(|regime| regimes.push(regime));
        let mut sealing = Sealing { number: *number, spec, store, sealed };
        self.baseline_bytes += sealing.seal(&entity, state, regimes, &mut self.next_segment)?;
        Ok(Outcome::Sealed(sealed[before..].last().map(|new| *new.block.cid())))
    }

    /// Forgets an entity. Its record stays in the store until the next checkpoint: a replay from the one
    /// before must find it, or it would seal other segments than there were.
    fn remove(
        &mut self,
        (collection, entity): (CollectionName, EntityId),
        observations: Option<u64>,
        store: &Store,
        sealed: &mut Vec<NewSegment>,
    ) -> Result<Outcome, StoreError> {
        let Some(Collection { number, spec, entities }) = self.collections.get_mut(&collection)
        else {
            return Ok(Outcome::Refused(WriteError::UnknownCollection { name: collection }));
        };
        let known = entities.get(&entity).map(|entity| entity.observations);
        if known.is_some_and(|known| observations.is_some_and(|expected| expected != known)) {
            return Ok(Outcome::Refused(WriteError::Changed { collection, entity }));
        }
        let Some(forgotten) = entities.remove(&entity) else {
            return Ok(Outcome::Refused(WriteError::UnknownEntity { collection, entity }));
        };
        let of_entity =
            |new: &NewSegment| new.place.0 == *number && *new.segment.entity() == entity;
        // What this record sealed is not in the store yet.
        sealed.retain(|new| !of_entity(new));
        let numbers = store.remove(*number, &entity)?;
        let kind = Kind::new(*number, spec, self.next_segment);
        self.removed.insert((*number, entity));
        self.counters.entities_removed += 1;
        let (observations, segments) = (forgotten.observations, forgotten.segments);
        let removed = Removed { observations, segments };
        Ok(Outcome::Removed { removed, kind, numbers })
    }

    fn ingest(
        &mut self,
        name: CollectionName,
        groups: Vec<(EntityId, Rows)>,
        store: &Store,
        sealed: &mut Vec<NewSegment>,
    ) -> Result<Outcome, StoreError> {
        let before = sealed.len();
        let Some(Collection { number, spec, entities }) = self.collections.get_mut(&name) else {
            return Ok(Outcome::Refused(WriteError::UnknownCollection { name }));
        };
        let new = groups.iter().filter(|(entity, _)| !entities.contains_key(entity)).count();
        let entities_max = spec.entities_max;
        if entities.len() + new > entities_max as usize {
            return Ok(Outcome::Refused(WriteError::TooManyEntities {
                collection: name,
                entities_max,
            }));
        }
        let mut ack = Ack::default();
        let mut sealing = Sealing { number: *number, spec, store, sealed };
        for (id, rows) in groups {
            if rows.dim() != spec.dim.get() {
                return Err(StoreError::Damaged { what: "a log record" });
            }
            let entity = entities.entry(id.clone()).or_insert_with(|| Entity::new(spec));
            let regimes = observe(entity, &rows, &mut ack);
            self.baseline_bytes += sealing.seal(&id, entity, regimes, &mut self.next_segment)?;
        }
        ack.sealed = (sealed.len() - before) as u64;
        self.counters.observations_accepted += ack.accepted;
        self.counters.observations_duplicate += ack.duplicate;
        self.counters.observations_late += ack.late;
        Ok(Outcome::Ingested(ack))
    }
}

/// Shows an entity its observations; returns the regimes that they ended.
fn observe(entity: &mut Entity, rows: &Rows, ack: &mut Ack) -> Vec<Sealed> {
    let mut regimes = Vec::new();
    for (index, (time, values)) in rows.iter().enumerate() {
        let carried = rows.metadata(index).cloned();
        match entity.observe(time.0, values, carried, |regime| regimes.push(regime)) {
            Admission::Accepted => ack.accepted += 1,
            Admission::Duplicate => ack.duplicate += 1,
            Admission::Late => ack.late += 1,
        }
    }
    regimes
}

/// Makes segments of ended regimes.
struct Sealing<'a> {
    number: u32,
    spec: &'a CollectionSpec,
    store: &'a Store,
    sealed: &'a mut Vec<NewSegment>,
}

impl Sealing<'_> {
    /// Seals regimes of one entity, in order; returns by how much the cached baselines grew.
    fn seal(
        &mut self,
        id: &EntityId,
        entity: &mut Entity,
        regimes: Vec<Sealed>,
        next_segment: &mut u64,
    ) -> Result<usize, StoreError> {
        if regimes.is_empty() {
            return Ok(0);
        }
        let dim = self.spec.dim.get();
        let rows_max = self.spec.policy.novelty_regimes_max as usize;
        let mut grown = 0;
        let mut baselines = match entity.baselines.take() {
            Some(baselines) => baselines,
            None => {
                let read = self.read_baselines(id, rows_max)?;
                grown += read.len() * size_of::<f32>();
                read
            }
        };
        for regime in regimes {
            let known = baselines.len().saturating_sub(rows_max * dim);
            let score = novelty(
                &regime.mean,
                &baselines[known..],
                &regime.inverse_unit,
                self.spec.policy.threshold,
            );
            if baselines.len() >= 2 * rows_max * dim {
                // Older ones are forgotten in one move for many regimes.
                baselines.drain(..known);
            }
            baselines.extend_from_slice(&regime.mean);
            grown += dim * size_of::<f32>();
            entity.segments += 1;
            let place = (self.number, *next_segment);
            *next_segment += 1;
            let new = self.new_segment(place, id, regime, score);
            self.sealed.push(new);
        }
        entity.baselines = Some(baselines);
        Ok(grown)
    }

    /// Returns the means of the entity's latest regimes, oldest first.
    fn read_baselines(&self, id: &EntityId, rows_max: usize) -> Result<Vec<f32>, StoreError> {
        let reader = self.store.reader()?;
        let newest = reader.of_entity(self.number, id, i64::MIN, i64::MAX)?.rev().take(rows_max);
        let mut means = newest
            .map(|stored| Ok(stored?.segment.mean().to_vec()))
            .collect::<Result<Vec<_>, StoreError>>()?;
        means.reverse();
        // What this record sealed before is not in the store yet.
        let own = |new: &&NewSegment| new.place.0 == self.number && new.segment.entity() == id;
        means.extend(self.sealed.iter().filter(own).map(|new| new.segment.mean().to_vec()));
        Ok(means.concat())
    }

    fn new_segment(
        &self,
        place: (u32, u64),
        id: &EntityId,
        regime: Sealed,
        score: f64,
    ) -> NewSegment {
        let errors = self.spec.error_max();
        let tolerance = errors.as_deref().map_or(Tolerance::Exact, Tolerance::Within);
        let payload = regime.rows.as_ref().map(|rows| payload::pack(rows, tolerance));
        let payload = payload.unwrap_or_default();
        let segment = Segment {
            collection: self.spec.name.clone(),
            metric: self.spec.metric,
            entity: id.clone(),
            start: Timestamp(regime.start),
            end: Timestamp(regime.end),
            count: regime.count,
            mean: regime.mean,
            spread: regime.spread,
            first: regime.first,
            last: regime.last,
            measures: Measures {
                drift_mean: regime.drift_mean,
                drift_max: regime.drift_max,
                score: to_f32(score),
            },
            fidelity: self.spec.fidelity,
            payload: payload.iter().map(|block| *block.cid()).collect(),
        };
        NewSegment { place, block: segment.to_block(), segment, payload }
    }
}
